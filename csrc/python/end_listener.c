/* end_listener.c - the callback object that a task or future of another implementation calls. */
#include "end_listener.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_end_listener *listener; /* NULL: it has told, or does not listen any more */
} EndCallbackObject;

static PyObject *
EndCallback_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    EndCallbackObject *self = (EndCallbackObject *)op;
    struct pacpy_end_listener *l = self->listener;
    self->listener = NULL;
    if (l != NULL) {
        l->own.call(&l->own);
    }
    Py_RETURN_NONE;
}

static void
EndCallback_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot EndCallback_slots[] = {
    {Py_tp_doc, "Tells somebody of ours that a task is done."},
    {Py_tp_call, EndCallback_call},
    {Py_tp_dealloc, EndCallback_dealloc},
    {0, NULL},
};

static PyType_Spec EndCallback_spec = {
    .name = "pyasync_c.EndCallback",
    .basicsize = sizeof(EndCallbackObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = EndCallback_slots,
};

static int
add_callback(struct pacpy_state *st, PyObject *future, struct pacpy_end_listener *l)
{
    PyTypeObject *type = st->EndCallback_type;
    PyObject *callback = type->tp_alloc(type, 0);
    if (callback == NULL) {
        return -1;
    }
    ((EndCallbackObject *)callback)->listener = l;
    l->callback = Py_NewRef(callback);
    PyObject *added = PyObject_CallMethodOneArg(future, st->str_add_done_callback, callback);
    if (added == NULL) {
        ((EndCallbackObject *)callback)->listener = NULL;
        Py_CLEAR(l->callback);
    }
    Py_DECREF(callback);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

int
pacpy_end_listen(struct pacpy_state *st, PyObject *future, struct pacpy_end_listener *l)
{
    if (!pacpy_is_completion(st, future)) {
        return add_callback(st, future, l);
    }
    pacpy_completion_listen(pacpy_completion_of(future), &l->own.listener);
    return 0;
}

void
pacpy_end_unlisten(struct pacpy_state *st, PyObject *future, struct pacpy_end_listener *l,
                   bool has_ended)
{
    pac_list_remove(&l->own.listener.node);
    PyObject *callback = l->callback;
    l->callback = NULL;
    if (callback == NULL) {
        return;
    }
    ((EndCallbackObject *)callback)->listener = NULL;
    if (!has_ended) {
        PyObject *removed =
            PyObject_CallMethodOneArg(future, st->str_remove_done_callback, callback);
        if (removed == NULL) {
            PyErr_WriteUnraisable(future);
        }
        Py_XDECREF(removed);
    }
    Py_DECREF(callback);
}

int
pacpy_end_listener_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &EndCallback_spec, NULL, &st->EndCallback_type, NULL);
}
