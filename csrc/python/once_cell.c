/* once_cell.c - OnceCell as a Python object, and the future of get_or_init.
 *
 * The core says whose turn it is; the value stands here. A OnceInit first waits for its turn, as a
 * leaf does. Then it calls the function, and becomes what came of that:
 *
 *   awaited          what the await sends and throws goes to the awaitable's own iterator, as with
 *                    `yield from`: it runs in the task that awaits, is cancelled with it, and may
 *                    await while it cleans up
 *   polled by hand   into_future() of it is polled
 *
 * Either way the turn ends when that ends: with the value, or abandoned. So a MemoryError that a
 * coroutine raises ends the OnceInit, as any other error does. If there was no memory for a step of
 * the OnceInit's own (to make the awaitable, or to poll it, if it is a Future), the turn passes on
 * too, but the OnceInit is as it was before it was polled: the next poll waits for a new turn, and
 * calls the function again.
 */
#include "future.h"
#include "holder.h"

#include "../core/once_cell.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_once_cell cell;
    PyObject *value;             /* NULL: not set */
    struct pacpy_holder running; /* the task that initialises it */
    FutureObject *initialiser;   /* borrowed: whose turn it is; NULL: nobody's */
    PyObject *weakrefs;
} OnceCellObject;

typedef struct {
    FutureObject future;
    struct pac_acquire turn;
    OnceCellObject *cell; /* strong */
    PyObject *function;
    PyObject *running; /* the turn is ours: an iterator, or a Future if `by_hand`; else NULL */
    bool by_hand;
    bool awaiting; /* this poll is that of an await */
} OnceInitObject;

/* ---- the end of a turn ---------------------------------------------------------------------- */

/* Ours is over without a value. Keeps an exception that is set. */
static void
turn_abandon(OnceInitObject *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    Py_CLEAR(self->running);
    pacpy_holder_clear(&self->cell->running);
    self->cell->initialiser = NULL;
    pac_once_cell_abandon(&self->cell->cell);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

static void
cell_complete(OnceCellObject *cell, PyObject *value)
{
    cell->value = Py_NewRef(value);
    pacpy_holder_clear(&cell->running);
    cell->initialiser = NULL;
    pac_once_cell_complete(&cell->cell);
}

static void
turn_complete(OnceInitObject *self, PyObject *value)
{
    cell_complete(self->cell, value);
    Py_CLEAR(self->running);
}

/* As if it had never been awaited: out of the line, or what runs is closed. */
static void
once_init_stop(OnceInitObject *self)
{
    if (self->turn.state == PAC_ACQUIRE_WAITING) {
        pac_acquire_drop(&self->turn);
    }
    if (self->running != NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        PyObject *running = self->running;
        self->running = NULL;
        pacpy_close_iterator(self->future.st, running);
        Py_DECREF(running);
        turn_abandon(self);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
    pac_once_cell_turn_init(&self->turn, &self->cell->cell);
}

/* ---- polling -------------------------------------------------------------------------------- */

/* There was no memory for what the turn is for. As a vtable's poll. */
static int
once_init_refused(OnceInitObject *self)
{
    once_init_stop(self);
    if (self->future.state == PACPY_WAITING) {
        self->future.state = PACPY_NEW;
    }
    return PACPY_REFUSED;
}

/* The turn has come: call the function. 0, -1 and an exception, or PACPY_REFUSED. */
static int
once_init_start(OnceInitObject *self)
{
    pacpy_holder_set(&self->cell->running, self->future.st);
    self->cell->initialiser = &self->future;
    PyObject *function = Py_NewRef(self->function);
    PyObject *awaitable = PyObject_CallNoArgs(function);
    Py_DECREF(function);
    if (awaitable != NULL) {
        self->by_hand = !self->awaiting;
        self->running = self->by_hand ? pacpy_into_future(self->future.st, awaitable)
                                      : pacpy_await_iterator(awaitable);
        Py_DECREF(awaitable);
    }
    if (self->running == NULL) {
        turn_abandon(self);
        return PyErr_ExceptionMatches(PyExc_MemoryError) ? once_init_refused(self) : -1;
    }
    return 0;
}

/* Is this code part of the initialiser's own? A branch beside it in a join is not, though the task
 * is the same. */
static bool
is_within_initialiser(OnceCellObject *cell)
{
    return cell->initialiser != NULL && cell->initialiser->polling &&
           pacpy_holder_is_current(&cell->running, cell->st);
}

/* Until it is our turn: 1, or 2 if the value is there; 0; -1 and an exception, PACPY_REFUSED. */
static int
once_init_poll_turn(OnceInitObject *self, struct pac_context *cx)
{
    if (self->turn.state == PAC_ACQUIRE_INIT && is_within_initialiser(self->cell)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this task initialises the cell: awaiting it would wait for itself");
        return pacpy_refused_or_failed();
    }
    enum pac_poll poll = pac_acquire_poll(&self->turn, cx);
    bool ours = poll == PAC_READY && pac_acquire_status(&self->turn) == PAC_OK;
    if (PAC_UNLIKELY(self->future.state == PACPY_DROPPED)) {
        if (ours) {
            pac_once_cell_abandon(&self->cell->cell);
        }
        once_init_stop(self);
        return 0;
    }
    return ours ? 1 : poll == PAC_READY ? 2 : 0;
}

static int
OnceInit_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    OnceInitObject *self = (OnceInitObject *)f;
    if (self->running == NULL) {
        int turn = once_init_poll_turn(self, cx);
        if (turn == 2) {
            PyObject *found = self->cell->value;
            *value = Py_NewRef(found == NULL ? Py_None : found);
            return 1;
        }
        if (turn <= 0) {
            return turn;
        }
        int started = once_init_start(self);
        if (started < 0) {
            return started;
        }
        if (self->awaiting) {
            *value = Py_NewRef(Py_None); /* OnceInit_am_send goes on */
            return 1;
        }
    }
    else if (!self->by_hand) {
        PyErr_SetString(PyExc_RuntimeError, "OnceInit is being awaited, and cannot be polled");
        return -1;
    }
    PyObject *running = Py_NewRef(self->running);
    int ready = pacpy_future_poll((FutureObject *)running, cx, value);
    Py_DECREF(running);
    if (ready > 0) {
        turn_complete(self, *value);
    }
    else if (ready == PACPY_REFUSED) {
        return once_init_refused(self);
    }
    else if (ready < 0) {
        turn_abandon(self);
    }
    else if (f->state == PACPY_DROPPED) {
        once_init_stop(self);
    }
    return ready;
}

static void
OnceInit_forget(FutureObject *f)
{
    /* What runs can drop this very future: the poll sees the state when it comes back. */
    if (!f->polling) {
        once_init_stop((OnceInitObject *)f);
    }
}

static const struct pacpy_future_vtable once_init_vtable = {
    .poll = OnceInit_poll,
    .forget = OnceInit_forget,
};

/* ---- awaiting ------------------------------------------------------------------------------- */

static inline bool
is_delegating(OnceInitObject *self)
{
    return self->running != NULL && !self->by_hand;
}

/* May the code that runs now send into what runs? 0, or -1 and RuntimeError. */
static int
may_drive(OnceInitObject *self)
{
    struct pacpy_holder *holder = &self->cell->running;
    const char *why = NULL;
    if (self->future.polling) {
        why = "OnceInit is already being polled";
    }
    else if ((holder->id != 0 || holder->ref != NULL) &&
             !pacpy_holder_is_current(holder, self->future.st)) {
        why = "this future is already being awaited by another task";
    }
    if (why != NULL) {
        PyErr_SetString(PyExc_RuntimeError, why);
    }
    return why == NULL ? 0 : -1;
}

/* What runs has raised: a Future that had no memory for its poll? */
static bool
has_refused(PyObject *running, struct pacpy_state *st)
{
    return Future_Check(st, running) && ((FutureObject *)running)->state < PACPY_DONE &&
           PyErr_ExceptionMatches(PyExc_MemoryError);
}

/* One step of what runs: with the exception that is set thrown into it, or None sent. */
static PySendResult
drive(OnceInitObject *self, bool throws, PyObject **result)
{
    FutureObject *f = &self->future;
    PyObject *running = Py_NewRef(self->running);
    f->polling = true;
    PySendResult sent =
        throws ? pacpy_throw_into(f->st, running, result) : PyIter_Send(running, Py_None, result);
    Py_DECREF(running); /* not the last: `self` has one */
    if (sent == PYGEN_ERROR && has_refused(running, f->st)) {
        once_init_refused(self); /* closes what runs, which must not poll this future again */
        f->polling = false;
        *result = NULL;
        return sent;
    }
    f->polling = false;
    switch (sent) {
        case PYGEN_RETURN:
            f->state = PACPY_DONE;
            turn_complete(self, *result);
            return sent;
        case PYGEN_ERROR:
            pacpy_ensure_exception();
            *result = NULL;
            f->state = PACPY_DONE;
            turn_abandon(self);
            return sent;
        case PYGEN_NEXT:
            break;
    }
    if (f->state == PACPY_DROPPED) {
        Py_CLEAR(*result);
        once_init_stop(self);
        PyErr_SetString(PyExc_RuntimeError, "the future was dropped while it was polled");
        return PYGEN_ERROR;
    }
    f->state = PACPY_WAITING;
    return sent;
}

static PySendResult
OnceInit_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    OnceInitObject *self = (OnceInitObject *)op;
    if (!is_delegating(self)) {
        self->awaiting = self->running == NULL;
        PySendResult sent = Future_am_send(op, arg, result);
        self->awaiting = false;
        if (sent != PYGEN_RETURN || !is_delegating(self)) {
            return sent;
        }
        Py_CLEAR(*result);
        self->future.state = PACPY_WAITING; /* it has begun */
    }
    if (may_drive(self) < 0) {
        *result = NULL;
        return PYGEN_ERROR;
    }
    return drive(self, false, result);
}

/* What tp_iternext and throw() return for it. */
static PyObject *
returned(OnceInitObject *self, PySendResult sent, PyObject *result)
{
    return sent == PYGEN_RETURN ? pacpy_return_from_await(self->future.st, result)
           : sent == PYGEN_NEXT ? result
                                : NULL;
}

static PyObject *
OnceInit_iternext(PyObject *op)
{
    PyObject *result = NULL;
    PySendResult sent = OnceInit_am_send(op, Py_None, &result);
    return returned((OnceInitObject *)op, sent, result);
}

/* The same as a method: None has to be said too. */
static PyObject *
stop_iteration_if_none(PyObject *result)
{
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

static PyObject *
OnceInit_send(PyObject *op, PyObject *Py_UNUSED(arg))
{
    return stop_iteration_if_none(OnceInit_iternext(op));
}

static PyObject *
OnceInit_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    OnceInitObject *self = (OnceInitObject *)op;
    if (!is_delegating(self) || nargs < 1 || nargs > 3) {
        return Future_throw(op, args, nargs);
    }
    if (may_drive(self) < 0) {
        return NULL;
    }
    pacpy_raise_thrown(args, nargs);
    PyObject *result = NULL;
    PySendResult sent = drive(self, true, &result);
    return stop_iteration_if_none(returned(self, sent, result));
}

static int
OnceInit_traverse(PyObject *op, visitproc visit, void *arg)
{
    OnceInitObject *self = (OnceInitObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->cell);
    Py_VISIT(self->function);
    Py_VISIT(self->running);
    return 0;
}

/* The cell breaks its own cycles, and is needed to the end. It may still be polled: None in the place
 * of the function, which raises TypeError. */
static int
OnceInit_clear(PyObject *op)
{
    pacpy_future_forget((FutureObject *)op);
    PyObject *function = ((OnceInitObject *)op)->function;
    ((OnceInitObject *)op)->function = Py_NewRef(Py_None);
    pacpy_release(function);
    return 0;
}

static void
OnceInit_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    OnceInitObject *self = (OnceInitObject *)op;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    PACPY_RELEASE_SLOT(self->function);
    Py_DECREF(self->cell);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyMethodDef OnceInit_methods[] = {
    {"send", OnceInit_send, METH_O, "Part of the await protocol."},
    {"throw", (PyCFunction)(void (*)(void))OnceInit_throw, METH_FASTCALL,
     "Part of the await protocol."},
    {NULL},
};

static PyType_Slot OnceInit_slots[] = {
    {Py_tp_doc, "What OnceCell.get_or_init() returns."},
    {Py_tp_traverse, OnceInit_traverse},
    {Py_tp_clear, OnceInit_clear},
    {Py_tp_dealloc, OnceInit_dealloc},
    {Py_tp_methods, OnceInit_methods},
    {Py_am_await, Future_am_await},
    {Py_am_send, OnceInit_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, OnceInit_iternext},
    {0, NULL},
};

static PyType_Spec OnceInit_spec = {
    .name = "pyasync_c.OnceInit",
    .basicsize = sizeof(OnceInitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = OnceInit_slots,
};

/* ---- OnceCell ------------------------------------------------------------------------------- */

static PyObject *
OnceCell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "OnceCell() takes no arguments");
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((OnceCellObject *)op)->st = st;
        pac_once_cell_init(&((OnceCellObject *)op)->cell);
    }
    return op;
}

static int
OnceCell_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OnceCellObject *)op)->value);
    return 0;
}

static int
OnceCell_clear(PyObject *op)
{
    PACPY_RELEASE_SLOT(((OnceCellObject *)op)->value);
    return 0;
}

static void
OnceCell_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    OnceCellObject *self = (OnceCellObject *)op;
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pacpy_holder_clear(&self->running);
    PACPY_RELEASE_SLOT(self->value);
    tp->tp_free(op);
    Py_DECREF(tp);
}

/* Empty, and nobody's turn? To be looked at. */
static bool
is_idle(OnceCellObject *self)
{
    return pac_semaphore_available(&self->cell.semaphore) != 0;
}

static PyObject *
OnceCell_repr(PyObject *op)
{
    OnceCellObject *self = (OnceCellObject *)op;
    const char *state = pac_once_cell_is_set(&self->cell) ? "set"
                        : is_idle(self)                   ? "empty"
                                                          : "being initialised";
    return PyUnicode_FromFormat("<OnceCell %s>", state);
}

PyDoc_STRVAR(OnceCell_get_doc, "get($self, /)\n--\n\n"
                               "The value, or None if it is not there yet. From any thread.");

static PyObject *
OnceCell_get(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OnceCellObject *self = (OnceCellObject *)op;
    PyObject *value = pac_once_cell_is_set(&self->cell) ? self->value : NULL;
    return Py_NewRef(value == NULL ? Py_None : value);
}

PyDoc_STRVAR(OnceCell_is_set_doc,
             "is_set($self, /)\n--\n\n"
             "True once the value is there, None among the values. From any thread.");

static PyObject *
OnceCell_is_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_once_cell_is_set(&((OnceCellObject *)op)->cell));
}

PyDoc_STRVAR(OnceCell_set_doc,
             "set($self, value, /)\n--\n\n"
             "Set the value. RuntimeError if it is set already, or somebody initialises it now.\n\n"
             "From any thread. Stands for Tokio's OnceCell::set.");

static PyObject *
OnceCell_set(PyObject *op, PyObject *value)
{
    OnceCellObject *self = (OnceCellObject *)op;
    enum pac_status status = pac_once_cell_begin(&self->cell);
    if (status != PAC_OK) {
        PyErr_SetString(PyExc_RuntimeError, status == PAC_BUSY ? "the cell is being initialised"
                                                               : "the cell is set already");
        return NULL;
    }
    cell_complete(self, value);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    OnceCell_get_or_init_doc,
    "get_or_init($self, f, /)\n--\n\n"
    "A future of the value: the one that is there, else what awaiting f() gives.\n\n"
    "One f runs at a time, in the task that awaits this future. If it raises, that is\n"
    "raised here and the cell stays empty; then, and if the task is cancelled, the one\n"
    "that has waited longest calls its own f. TypeError if f is not callable.\n"
    "RuntimeError at the await if the task that awaits is initialising the cell. From any\n"
    "thread. Stands for Tokio's OnceCell::get_or_try_init.");

static PyObject *
OnceCell_get_or_init(PyObject *op, PyObject *function)
{
    OnceCellObject *cell = (OnceCellObject *)op;
    struct pacpy_state *st = cell->st;
    if (!PyCallable_Check(function)) {
        return PyErr_Format(PyExc_TypeError, "get_or_init: f must be callable, not %.200s",
                            Py_TYPE(function)->tp_name);
    }
    OnceInitObject *self = (OnceInitObject *)st->OnceInit_type->tp_alloc(st->OnceInit_type, 0);
    if (self != NULL) {
        pacpy_future_init(&self->future, st, &once_init_vtable);
        pac_once_cell_turn_init(&self->turn, &cell->cell);
        self->cell = (OnceCellObject *)Py_NewRef(cell);
        self->function = Py_NewRef(function);
    }
    return (PyObject *)self;
}

static PyMethodDef OnceCell_methods[] = {
    {"get", OnceCell_get, METH_NOARGS, OnceCell_get_doc},
    {"is_set", OnceCell_is_set, METH_NOARGS, OnceCell_is_set_doc},
    {"set", OnceCell_set, METH_O, OnceCell_set_doc},
    {"get_or_init", OnceCell_get_or_init, METH_O, OnceCell_get_or_init_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef OnceCell_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(OnceCellObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(OnceCell_doc,
             "OnceCell()\n--\n\n"
             "A value that is made once, by whoever needs it first.\n\n"
             "    pool = OnceCell()\n"
             "    connection = await pool.get_or_init(connect)\n\n"
             "Belongs to no loop: may be used from any loop on any thread at once. Stands for\n"
             "Tokio's OnceCell.");

static PyType_Slot OnceCell_slots[] = {
    {Py_tp_doc, (void *)OnceCell_doc},
    {Py_tp_new, OnceCell_new},
    {Py_tp_traverse, OnceCell_traverse},
    {Py_tp_clear, OnceCell_clear},
    {Py_tp_dealloc, OnceCell_dealloc},
    {Py_tp_repr, OnceCell_repr},
    {Py_tp_methods, OnceCell_methods},
    {Py_tp_members, OnceCell_members},
    {0, NULL},
};

static PyType_Spec OnceCell_spec = {
    .name = "pyasync_c.OnceCell",
    .basicsize = sizeof(OnceCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = OnceCell_slots,
};

int
pacpy_once_cell_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &OnceCell_spec, NULL, &st->OnceCell_type, "OnceCell") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &OnceInit_spec, st->Future_type, &st->OnceInit_type, NULL);
}
