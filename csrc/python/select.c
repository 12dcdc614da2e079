/* select.c - select(): wait for the first of several awaitables. branches.h says how. */
#include "select.h"

#include "../core/executor.h"

int
pacpy_select_look(BranchesObject *self, struct pac_context *cx, PyObject **value, PyObject **index)
{
    for (Py_ssize_t k = 0; k < self->count; k++) {
        struct pacpy_branch *b = pacpy_branch_at(self, k);
        /* Before it is ready, as a large one needs memory. */
        *index = PyLong_FromSsize_t(b - self->branches);
        if (*index == NULL) {
            return PACPY_REFUSED;
        }
        int ready = pacpy_branch_poll(b, cx, value);
        if (ready > 0) {
            return ready;
        }
        Py_DECREF(*index);
        if (ready < 0) {
            return ready;
        }
    }
    return 0;
}

static int
select_look(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    PyObject *index, *result;
    struct pac_executor *ex = pac_executor_current();
    self->first = ex == NULL ? 0 : (Py_ssize_t)pac_executor_pick(ex, (size_t)self->count);
    int ready = pacpy_select_look(self, cx, &result, &index);
    if (ready > 0) {
        *value = pacpy_branches_take_room(self);
        PyTuple_SET_ITEM(*value, 0, index);
        PyTuple_SET_ITEM(*value, 1, result);
    }
    return ready;
}

static const struct pacpy_branches_rules select_rules = {
    .vtable = {.poll = pacpy_branches_poll, .forget = pacpy_branches_forget, .resumable = true},
    .name = "select",
    .look = select_look,
    .room = 2,
    .first_counts = true,
};

PyDoc_STRVAR(
    select_doc,
    "select(*aws)\n--\n\n"
    "A future that is ready once one of `aws` is, with (index, value) of that one.\n\n"
    "Nothing starts before it is polled. Branches are polled from left to right (from any one on, and\n"
    "round, under a seed), and the first that is ready wins; an error counts as ready, and is raised. A Future of ours is polled in place, and stays\n"
    "usable if it loses: await select(other, delay) in a loop. Any other awaitable runs as a child task,\n"
    "which is cancelled and waited for if it loses; a Task or asyncio future is waited for only, and goes\n"
    "on. Cancelling select does to all what losing does to one. What a loser raises while it ends goes\n"
    "to the loop's exception handler. Raises ValueError without `aws`, TypeError if one is not awaitable.\n"
    "Stands for tokio::select!, biased.");

static PyObject *
select_(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (nargs == 0) {
        PyErr_SetString(PyExc_ValueError, "select() needs at least one awaitable");
        return NULL;
    }
    return pacpy_branches_new(st, st->Select_type, &select_rules, args, nargs);
}

static PyType_Slot Select_slots[] = {
    {Py_tp_doc, "What select() returns."},
    PACPY_BRANCHES_SLOTS,
    {0, NULL},
};

static PyType_Spec Select_spec = {
    .name = "pyasync_c.Select",
    .basicsize = sizeof(BranchesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Select_slots,
};

static PyMethodDef functions[] = {
    {"select", (PyCFunction)(void (*)(void))select_, METH_FASTCALL, select_doc},
    {NULL},
};

int
pacpy_select_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Select_spec, st->Future_type, &st->Select_type, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
