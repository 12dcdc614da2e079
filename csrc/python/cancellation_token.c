/* cancellation_token.c - CancellationToken as a Python object, and the future that waits for it.
 *
 * The core's tree does it all; a Python object is one reference to a token. A Cancelled keeps its
 * CancellationToken alive, which the core asks for. No cycle can go through either, so neither is
 * tracked by the collector.
 *
 * Cancelling wakes after the core's lock was left, and may run anything then; the caller holds the
 * token for as long as that takes. */
#include "select.h"

#include "../core/cancellation_token.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_cancellation_token *token;
    PyObject *weakrefs;
} CancellationTokenObject;

typedef struct {
    FutureObject future;
    struct pac_cancelled cancelled;
    PyObject *token; /* strong */
} CancelledObject;

/* ---- Cancelled ------------------------------------------------------------------------------ */

/* As if it had never waited. */
static void
cancelled_stop_waiting(CancelledObject *self)
{
    struct pac_cancelled *c = &self->cancelled;
    if (c->state == PAC_CANCELLED_WAITING) {
        struct pac_cancellation_token *token = c->token;
        pac_cancelled_drop(c);
        pac_cancelled_init(c, token);
    }
}

static int
Cancelled_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    CancelledObject *self = (CancelledObject *)f;
    enum pac_poll poll = pac_cancelled_poll(&self->cancelled, cx);
    if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
        /* By something that the poll set off: see Cancelled_forget. */
        cancelled_stop_waiting(self);
        return 0;
    }
    if (poll == PAC_PENDING) {
        return 0;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

static void
Cancelled_forget(FutureObject *f)
{
    /* A poll can drop somebody's last waker, and so run Python that drops this very future: the
     * poll sees the state when it comes back. */
    if (!f->polling) {
        cancelled_stop_waiting((CancelledObject *)f);
    }
}

static const struct pacpy_future_vtable cancelled_vtable = {
    .poll = Cancelled_poll,
    .forget = Cancelled_forget,
};

static int
Cancelled_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((CancelledObject *)op)->token);
    return 0;
}

static void
Cancelled_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject *token = ((CancelledObject *)op)->token;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_DECREF(token);
}

static PyObject *
Cancelled_repr(PyObject *op)
{
    CancelledObject *self = (CancelledObject *)op;
    const char *state = self->future.state == PACPY_DROPPED              ? "dropped"
                        : self->cancelled.state == PAC_CANCELLED_DONE    ? "cancelled"
                        : self->cancelled.state == PAC_CANCELLED_WAITING ? "waiting"
                                                                         : "not polled yet";
    return PyUnicode_FromFormat("<Cancelled %s>", state);
}

static PyType_Slot Cancelled_slots[] = {
    {Py_tp_doc, "What CancellationToken.cancelled() returns."},
    {Py_tp_traverse, Cancelled_traverse},
    {Py_tp_dealloc, Cancelled_dealloc},
    {Py_tp_repr, Cancelled_repr},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Cancelled_spec = {
    .name = "pyasync_c.Cancelled",
    .basicsize = sizeof(CancelledObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Cancelled_slots,
};

/* ---- CancellationToken ---------------------------------------------------------------------- */

static inline struct pac_cancellation_token *
token_of(PyObject *op)
{
    return ((CancellationTokenObject *)op)->token;
}

/* A Python object for `token`, whose reference is taken; NULL: no memory for the token. */
static PyObject *
token_object_new(PyTypeObject *type, struct pacpy_state *st, struct pac_cancellation_token *token)
{
    if (token == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *op = type->tp_alloc(type, 0);
    if (op == NULL) {
        pac_cancellation_token_unref(token);
        return NULL;
    }
    ((CancellationTokenObject *)op)->st = st;
    ((CancellationTokenObject *)op)->token = token;
    return op;
}

static PyObject *
CancellationToken_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "CancellationToken() takes no arguments");
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    return st == NULL ? NULL : token_object_new(type, st, pac_cancellation_token_new());
}

static void
CancellationToken_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((CancellationTokenObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pac_cancellation_token_unref(token_of(op));
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
CancellationToken_repr(PyObject *op)
{
    bool is_cancelled = pac_cancellation_token_is_cancelled(token_of(op));
    return PyUnicode_FromFormat("<CancellationToken %s>",
                                is_cancelled ? "cancelled" : "not cancelled");
}

PyDoc_STRVAR(
    CancellationToken_cancel_doc,
    "cancel($self, /)\n--\n\n"
    "Cancel this token and all of its descendants, for good, and wake all who wait for them.\n\n"
    "When it returns they are all cancelled. Again is a no-op. From any thread. Stands for\n"
    "tokio-util's CancellationToken::cancel.");

static PyObject *
CancellationToken_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_cancellation_token_cancel(token_of(op));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(CancellationToken_is_cancelled_doc,
             "is_cancelled($self, /)\n--\n\n"
             "True once this token or one that it descends from was cancelled. From any thread.");

static PyObject *
CancellationToken_is_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_cancellation_token_is_cancelled(token_of(op)));
}

PyDoc_STRVAR(CancellationToken_child_token_doc,
             "child_token($self, /)\n--\n\n"
             "A new token that is cancelled together with this one, or at once if this one is.\n\n"
             "Cancelling the child leaves this one alone. A token that nobody refers to any more\n"
             "cancels nothing; its children are cancelled with its parent from then on. From any\n"
             "thread. Stands for tokio-util's CancellationToken::child_token.");

static PyObject *
CancellationToken_child_token(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return token_object_new(Py_TYPE(op), ((CancellationTokenObject *)op)->st,
                            pac_cancellation_token_child(token_of(op)));
}

PyDoc_STRVAR(CancellationToken_cancelled_doc,
             "cancelled($self, /)\n--\n\n"
             "A future that is ready, with None, once the token is cancelled.\n\n"
             "For one task at a time, on any loop; any number of them may wait. From any thread.\n"
             "Stands for tokio-util's CancellationToken::cancelled.");

static PyObject *
CancellationToken_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = ((CancellationTokenObject *)op)->st;
    PyObject *cancelled = st->Cancelled_type->tp_alloc(st->Cancelled_type, 0);
    if (cancelled != NULL) {
        /* Not tracked: no cycle can go through it. */
        PyObject_GC_UnTrack(cancelled);
        pacpy_future_init((FutureObject *)cancelled, st, &cancelled_vtable);
        pac_cancelled_init(&((CancelledObject *)cancelled)->cancelled, token_of(op));
        ((CancelledObject *)cancelled)->token = Py_NewRef(op);
    }
    return cancelled;
}

/* ---- run_until_cancelled -------------------------------------------------------------------- */

enum { GUARDED, TOKEN }; /* its two branches */

/* A select of what is guarded and the token; nothing of it begins if the token is cancelled. */
static int
run_until_cancelled_look(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    CancelledObject *cancelled = (CancelledObject *)self->branches[TOKEN].awaitable;
    if (!self->has_begun && pac_cancellation_token_is_cancelled(cancelled->cancelled.token)) {
        *value = Py_NewRef(Py_None);
        return 1;
    }
    PyObject *index;
    int ready = pacpy_select_look(self, cx, value, &index); /* None, if it is the token */
    self->has_begun = self->has_begun || ready != PACPY_REFUSED;
    if (ready > 0) {
        Py_DECREF(index);
    }
    return ready;
}

static const struct pacpy_branches_rules run_until_cancelled_rules = {
    .vtable = {.poll = pacpy_branches_poll, .forget = pacpy_branches_forget, .resumable = true},
    .name = "run_until_cancelled",
    .look = run_until_cancelled_look,
    .first_counts = true,
};

static PyType_Slot RunUntilCancelled_slots[] = {
    {Py_tp_doc, "What CancellationToken.run_until_cancelled() returns."},
    PACPY_BRANCHES_SLOTS,
    {0, NULL},
};

static PyType_Spec RunUntilCancelled_spec = {
    .name = "pyasync_c.RunUntilCancelled",
    .basicsize = sizeof(BranchesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = RunUntilCancelled_slots,
};

PyDoc_STRVAR(
    CancellationToken_run_until_cancelled_doc,
    "run_until_cancelled($self, aw, /)\n--\n\n"
    "A future that is ready with the result of `aw`, or with None if the token is cancelled first.\n\n"
    "`aw` is run as a branch of select() is: a coroutine by a task, which is cancelled and has ended\n"
    "when None is given; a Future of ours in place, and it stays usable. If both are ready, the\n"
    "result counts. If the token is cancelled already, `aw` does not begin, and a coroutine is closed.\n"
    "Raises TypeError if `aw` is not awaitable. Stands for tokio-util's run_until_cancelled.");

static PyObject *
CancellationToken_run_until_cancelled(PyObject *op, PyObject *awaitable)
{
    struct pacpy_state *st = ((CancellationTokenObject *)op)->st;
    PyObject *branches[] = {awaitable, CancellationToken_cancelled(op, NULL)};
    if (branches[TOKEN] == NULL) {
        return NULL;
    }
    PyObject *future =
        pacpy_branches_new(st, st->RunUntilCancelled_type, &run_until_cancelled_rules, branches, 2);
    Py_DECREF(branches[TOKEN]);
    return future;
}

/* ---- the type ------------------------------------------------------------------------------- */

static PyMethodDef CancellationToken_methods[] = {
    {"cancel", CancellationToken_cancel, METH_NOARGS, CancellationToken_cancel_doc},
    {"is_cancelled", CancellationToken_is_cancelled, METH_NOARGS,
     CancellationToken_is_cancelled_doc},
    {"cancelled", CancellationToken_cancelled, METH_NOARGS, CancellationToken_cancelled_doc},
    {"child_token", CancellationToken_child_token, METH_NOARGS, CancellationToken_child_token_doc},
    {"run_until_cancelled", CancellationToken_run_until_cancelled, METH_O,
     CancellationToken_run_until_cancelled_doc},
    {NULL},
};

static PyMemberDef CancellationToken_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(CancellationTokenObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(
    CancellationToken_doc,
    "CancellationToken()\n--\n\n"
    "Says to any number of tasks and threads that they are to stop.\n\n"
    "    token = CancellationToken()\n"
    "    await token.cancelled()                   # in one task\n"
    "    await token.run_until_cancelled(work())   # in another\n"
    "    token.cancel()                            # in whatever task or thread\n\n"
    "Cancelled once and for good. Tokens form a tree, by child_token(): cancelling one cancels all below\n"
    "it. Belongs to no loop. Stands for tokio-util's CancellationToken.");

static PyType_Slot CancellationToken_slots[] = {
    {Py_tp_doc, (void *)CancellationToken_doc},
    {Py_tp_new, CancellationToken_new},
    {Py_tp_dealloc, CancellationToken_dealloc},
    {Py_tp_repr, CancellationToken_repr},
    {Py_tp_methods, CancellationToken_methods},
    {Py_tp_members, CancellationToken_members},
    {0, NULL},
};

static PyType_Spec CancellationToken_spec = {
    .name = "pyasync_c.CancellationToken",
    .basicsize = sizeof(CancellationTokenObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = CancellationToken_slots,
};

int
pacpy_cancellation_token_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyTypeObject *base = st->Future_type;
    if (pacpy_make_type(module, &CancellationToken_spec, NULL, &st->CancellationToken_type,
                        "CancellationToken") < 0 ||
        pacpy_make_type(module, &Cancelled_spec, base, &st->Cancelled_type, NULL) < 0) {
        return -1;
    }
    return pacpy_make_type(module, &RunUntilCancelled_spec, base, &st->RunUntilCancelled_type,
                           NULL);
}
