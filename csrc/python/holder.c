#include "holder.h"

#include "frame.h"
#include "task.h"

void
pacpy_holder_set(struct pacpy_holder *holder, struct pacpy_state *st)
{
    PyObject *task = pacpy_frame_current_task(st);
    if (task == NULL) {
        return;
    }
    if (PAC_LIKELY(Task_Check(st, task))) {
        holder->id = pacpy_task_of(task)->id;
        return;
    }
    PyObject *ref = PyWeakref_NewRef(task, NULL);
    if (ref == NULL) {
        PyErr_Clear();
    }
    Py_XSETREF(holder->ref, ref);
}

bool
pacpy_holder_is_current(struct pacpy_holder *holder, struct pacpy_state *st)
{
    if (holder->id == 0 && holder->ref == NULL) {
        return false;
    }
    PyObject *task = pacpy_frame_current_task(st);
    if (task == NULL) {
        return false;
    }
    if (Task_Check(st, task)) {
        return holder->id == pacpy_task_of(task)->id;
    }
    PyObject *known = NULL;
    bool same = holder->ref != NULL && PyWeakref_GetRef(holder->ref, &known) > 0 && known == task;
    Py_XDECREF(known);
    return same;
}
