/* join.c - join(): wait for all of several awaitables. branches.h says how. */
#include "branches.h"

/* The results of those that have not given theirs yet, and all in a tuple. */
static int
all_results(BranchesObject *self, PyObject **value)
{
    PyObject *results = self->room;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        struct pacpy_branch *b = &self->branches[i];
        PyObject *result;
        if (b->kind == PACPY_BRANCH_REPEATED) {
            result = Py_NewRef(PyTuple_GET_ITEM(results, b->same_as));
        }
        else if (b->kind == PACPY_BRANCH_OVER) {
            result = b->value;
            b->value = NULL;
        }
        else if (pacpy_branch_take(b, &result) < 0) {
            return -1;
        }
        PyTuple_SET_ITEM(results, i, result);
    }
    *value = results == NULL ? PyTuple_New(0) : pacpy_branches_take_room(self);
    return 1;
}

static int
join_look(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    bool is_first = !self->has_begun; /* and all are looked at, children too */
    if (self->failed != NULL) {
        return pacpy_branch_take(self->failed, value);
    }
    for (Py_ssize_t k = 0; k < self->count && (is_first || self->futures_left > 0); k++) {
        struct pacpy_branch *b = pacpy_branch_at(self, k);
        if (b->kind != PACPY_BRANCH_FUTURE && !is_first) {
            continue;
        }
        PyObject *result;
        int ready = pacpy_branch_poll(b, cx, &result);
        if (ready < 0) {
            return ready;
        }
        if (ready > 0) {
            b->value = result;
        }
    }
    self->has_begun = true;
    if (self->failed != NULL) {
        return pacpy_branch_take(self->failed, value);
    }
    return self->futures_left > 0 || self->tasks_left > 0 ? 0 : all_results(self, value);
}

static const struct pacpy_branches_rules join_rules = {
    .vtable = {.poll = pacpy_branches_poll, .forget = pacpy_branches_forget, .resumable = true},
    .name = "join",
    .look = join_look,
    .room = PACPY_ONE_EACH,
    .first_counts = false,
};

PyDoc_STRVAR(
    join_doc,
    "join(*aws)\n--\n\n"
    "A future that is ready once all of `aws` are, with their results as a tuple, in their order.\n\n"
    "Nothing starts before it is polled. A Future of ours is polled in place, a Task or asyncio future\n"
    "is waited for, anything else runs as a child task. The first error is raised by join itself: the\n"
    "other children are cancelled and waited for, Futures of ours are let go of and stay usable, tasks\n"
    "that were given go on. Cancelling join does the same. Errors that come after that go to the loop's\n"
    "exception handler. The same object twice gives the same result twice. Raises TypeError if one of\n"
    "`aws` is not awaitable. Stands for tokio::try_join!, and does what asyncio.gather is used for.");

static PyObject *
join(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_branches_new(st, st->Join_type, &join_rules, args, nargs);
}

static PyType_Slot Join_slots[] = {
    {Py_tp_doc, "What join() returns."},
    PACPY_BRANCHES_SLOTS,
    {0, NULL},
};

static PyType_Spec Join_spec = {
    .name = "pyasync_c.Join",
    .basicsize = sizeof(BranchesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Join_slots,
};

static PyMethodDef functions[] = {
    {"join", (PyCFunction)(void (*)(void))join, METH_FASTCALL, join_doc},
    {NULL},
};

int
pacpy_join_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Join_spec, st->Future_type, &st->Join_type, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
