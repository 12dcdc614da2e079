/* promise.c - a promise of the C API: the core's promise with an extension's callbacks, and Promised,
 * what Python awaits.
 *
 *   extension's threads ──handles──► struct pyasync_c_promise ◄── Promised ◄── await
 *
 * The struct is C memory that both sides share, freed by the one that goes last. Handles need no GIL.
 * The callbacks need it, so all of them are the Promised's side, but for finalize when a handle goes
 * last: it is called by way of the graveyard. */
#include "promise.h"

#include "graveyard.h"

#include "../core/executor.h"
#include "../core/promise.h"

#include <assert.h>
#include <stdio.h>

struct pyasync_c_promise {
    uint64_t mark; /* debug builds: ALIVE until it is freed */
    struct pac_promise core;
    const struct pyasync_c_promise_type *type;
    void *data;
    struct pacpy_graveyard *graveyard; /* one reference */
    struct pacpy_grave grave;
};

typedef struct {
    FutureObject future;
    struct pyasync_c_promise *promise; /* NULL: done with it */
    const char *name;
    struct pac_executor *held; /* whose virtual clock it holds, with a reference to its memory; or
                                  NULL */
} PromisedObject;

static_assert(sizeof(struct pac_wake_group) <= sizeof(struct pyasync_c_batch), "it fits");

/* ---- misuse --------------------------------------------------------------------------------- */

/* In debug builds the memory of ended promises is kept for a while, so that looking at the mark of a
 * handle that was released too often is defined. */
#ifdef PAC_DEBUG
#define ALIVE UINT64_C(0x70726f6d69736564)
enum { QUARANTINE = 1024 };
static PAC_ATOMIC(struct pyasync_c_promise *) quarantine[QUARANTINE];
static PAC_ATOMIC(uint32_t) quarantine_next;

static void
promise_memory_free(struct pyasync_c_promise *p)
{
    p->mark = 0;
    uint32_t place = pac_atomic_add(&quarantine_next, 1, PAC_RELAXED) % QUARANTINE;
    pac_free(pac_atomic_exchange(&quarantine[place], p, PAC_ACQ_REL));
}

static bool
is_promise(struct pyasync_c_promise *p, const char *function)
{
    if (p != NULL && p->mark == ALIVE) {
        return true;
    }
    fprintf(stderr, "pyasync_c: %s: %s\n", function,
            p == NULL ? "the promise is NULL" : "this handle was released");
    return false;
}
#else
#define ALIVE 0

static void
promise_memory_free(struct pyasync_c_promise *p)
{
    pac_free(p);
}

static bool
is_promise(struct pyasync_c_promise *p, const char *function)
{
    (void)function;
    return p != NULL;
}
#endif

/* ---- callbacks ------------------------------------------------------------------------------ */

/* Around a callback that must not raise, in a place that an exception may be on its way through. */
static PyObject *
callback_begin(void)
{
    return PyErr_GetRaisedException();
}

static void
callback_end(PyObject *exception)
{
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(NULL);
    }
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
}

/* Attached: both sides are done with it. */
static void
promise_end(struct pyasync_c_promise *p)
{
    if (p->type->finalize != NULL) {
        PyObject *exception = callback_begin();
        p->type->finalize(p->data);
        callback_end(exception);
    }
    pac_promise_fini(&p->core);
    pacpy_graveyard_unref(p->graveyard);
    promise_memory_free(p);
}

static void
promise_bury(struct pacpy_grave *grave)
{
    promise_end(PAC_CONTAINER_OF(grave, struct pyasync_c_promise, grave));
}

/* ---- the handles ---------------------------------------------------------------------------- */

static int
result_of(enum pac_status status)
{
    return status == PAC_OK     ? PYASYNC_C_OK
           : status == PAC_FULL ? PYASYNC_C_ALREADY
                                : PYASYNC_C_CANCELLED;
}

static struct pac_wake_group *
group_of(struct pyasync_c_batch *batch)
{
    return (struct pac_wake_group *)(void *)batch;
}

int
pacpy_promise_complete(struct pyasync_c_promise *p, void *value, struct pyasync_c_batch *batch)
{
    if (!is_promise(p, "promise_complete")) {
        return PYASYNC_C_MISUSE;
    }
    return result_of(pac_promise_complete(&p->core, value, group_of(batch)));
}

int
pacpy_promise_fail(struct pyasync_c_promise *p, void *error, struct pyasync_c_batch *batch)
{
    if (!is_promise(p, "promise_fail") || p->type->set_error == NULL) {
        return PYASYNC_C_MISUSE;
    }
    return result_of(pac_promise_fail(&p->core, error, group_of(batch)));
}

int
pacpy_promise_is_over(struct pyasync_c_promise *p)
{
    return !is_promise(p, "promise_is_over") || pac_promise_is_over(&p->core);
}

struct pyasync_c_promise *
pacpy_promise_ref(struct pyasync_c_promise *p)
{
    if (!is_promise(p, "promise_ref")) {
        return NULL;
    }
    pac_promise_ref(&p->core);
    return p;
}

void
pacpy_promise_release(struct pyasync_c_promise *p, struct pyasync_c_batch *batch)
{
    if (p != NULL && is_promise(p, "promise_release") &&
        pac_promise_unref(&p->core, group_of(batch))) {
        pacpy_graveyard_take(p->graveyard, &p->grave);
    }
}

void
pacpy_batch_begin(struct pyasync_c_batch *batch)
{
    if (batch != NULL) {
        pac_wake_group_init(group_of(batch));
    }
}

void
pacpy_batch_end(struct pyasync_c_batch *batch)
{
    if (batch != NULL) {
        pac_wake_group_wake(group_of(batch));
    }
}

/* ---- the awaitable -------------------------------------------------------------------------- */

static void
release_clock(PromisedObject *self)
{
    struct pac_executor *ex = self->held;
    if (ex != NULL) {
        self->held = NULL;
        pac_executor_release_clock(ex);
        pac_scheduler_unref(&ex->scheduler);
    }
}

/* It is awaited, and the work for it takes real time. */
static void
hold_clock(PromisedObject *self)
{
    struct pac_executor *ex = pac_executor_current();
    if (PAC_LIKELY(ex == NULL || !ex->is_virtual) || ex == self->held) {
        return;
    }
    release_clock(self);
    pac_executor_hold_clock(ex);
    pac_scheduler_ref(&ex->scheduler);
    self->held = ex;
}

/* Be done with the promise, whatever became of it. */
static void
Promised_leave(PromisedObject *self)
{
    struct pyasync_c_promise *p = self->promise;
    void *value;
    if (p == NULL) {
        return;
    }
    self->promise = NULL;
    release_clock(self);
    enum pac_promise_outcome outcome = pac_promise_give_up(&p->core, &value);
    PyObject *exception = callback_begin();
    if (outcome == PAC_PROMISE_PENDING && p->type->cancelled != NULL) {
        p->type->cancelled(p->data);
    }
    if ((outcome == PAC_PROMISE_KEPT || outcome == PAC_PROMISE_FAILED) &&
        p->type->destroy != NULL) {
        p->type->destroy(p->data, value, outcome == PAC_PROMISE_FAILED);
    }
    if (pac_promise_let_go(&p->core)) {
        promise_end(p);
    }
    callback_end(exception);
}

static PyObject *
converted(const struct pyasync_c_promise *p, void *value)
{
    PyObject *result = p->type->convert(p->data, value);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_SystemError, "%s: convert returned NULL without an exception",
                     p->type->name);
    }
    else if (result != NULL && PyErr_Occurred()) {
        Py_CLEAR(result);
        PyObject *cause = PyErr_GetRaisedException();
        PyErr_Format(PyExc_SystemError, "%s: convert returned a result with an exception set",
                     p->type->name);
        PyObject *error = PyErr_GetRaisedException();
        PyException_SetCause(error, cause);
        PyErr_SetRaisedException(error);
    }
    return result;
}

static PyObject *
outcome_of(struct pyasync_c_promise *p)
{
    void *value;
    switch (pac_promise_outcome(&p->core, &value)) {
        case PAC_PROMISE_KEPT:
            return converted(p, value);
        case PAC_PROMISE_FAILED:
            p->type->set_error(p->data, value);
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_SystemError, "%s: set_error set no exception", p->type->name);
            }
            return NULL;
        case PAC_PROMISE_BROKEN:
        case PAC_PROMISE_PENDING:
            break;
    }
    return PyErr_Format(PyExc_RuntimeError, "%s: its handles were released without completing it",
                        p->type->name);
}

static int
Promised_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    PromisedObject *self = (PromisedObject *)f;
    if (self->promise == NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s: it was cancelled, and cannot be awaited again",
                     self->name);
        return -1;
    }
    if (pac_promise_poll(&self->promise->core, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            Promised_leave(self); /* by something that the poll set off */
        }
        else if (self->promise->type->holds_clock) {
            hold_clock(self);
        }
        return 0;
    }
    /* Threads that ended what was cancelled may have been here since. */
    pacpy_graveyard_visit(f->st->graveyard);
    *value = outcome_of(self->promise);
    Promised_leave(self);
    return *value == NULL ? -1 : 1;
}

static void
Promised_forget(FutureObject *f)
{
    if (!f->polling) {
        Promised_leave((PromisedObject *)f);
    }
}

static const struct pacpy_future_vtable promised_vtable = {
    .poll = Promised_poll,
    .forget = Promised_forget,
};

/* Never tracked by the collector: it refers to nothing but its type. */
static int
Promised_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
Promised_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    pacpy_future_fini((FutureObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
Promised_repr(PyObject *op)
{
    PromisedObject *self = (PromisedObject *)op;
    void *value;
    const char *state = "over";
    if (self->promise != NULL) {
        switch (pac_promise_outcome(&self->promise->core, &value)) {
            case PAC_PROMISE_PENDING:
                state = "pending";
                break;
            case PAC_PROMISE_KEPT:
            case PAC_PROMISE_FAILED:
                state = "complete";
                break;
            case PAC_PROMISE_BROKEN:
                state = "broken";
                break;
        }
    }
    return PyUnicode_FromFormat("<%s %s>", self->name, state);
}

static PyType_Slot Promised_slots[] = {
    {Py_tp_doc, "A future that an extension completes, through the C API."},
    {Py_tp_traverse, Promised_traverse},
    {Py_tp_dealloc, Promised_dealloc},
    {Py_tp_repr, Promised_repr},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Promised_spec = {
    .name = "pyasync_c.Promised",
    .basicsize = sizeof(PromisedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Promised_slots,
};

/* ---- making one ----------------------------------------------------------------------------- */

static int
check_type(const struct pyasync_c_promise_type *type)
{
    const char *wrong = type == NULL                  ? "the type is NULL"
                        : type->size != sizeof(*type) ? "size is not that of the struct"
                        : type->name == NULL          ? "name is NULL"
                        : type->convert == NULL       ? "convert is NULL"
                                                      : NULL;
    if (wrong != NULL) {
        PyErr_Format(PyExc_ValueError, "pyasync_c_promise_type: %s", wrong);
        return -1;
    }
    return 0;
}

PyObject *
pacpy_promise_new(struct pacpy_state *st, const struct pyasync_c_promise_type *type, void *data,
                  struct pyasync_c_promise **promise)
{
    if (check_type(type) < 0) {
        return NULL;
    }
    if (promise == NULL) {
        PyErr_SetString(PyExc_ValueError, "promise_new: there is no place for the handle");
        return NULL;
    }
    struct pacpy_graveyard *graveyard = pacpy_graveyard_of(st);
    if (graveyard == NULL) {
        return NULL;
    }
    pacpy_graveyard_visit(graveyard);
    PromisedObject *self = PyObject_GC_New(PromisedObject, st->Promised_type);
    if (self == NULL) {
        return NULL;
    }
    pacpy_future_init(&self->future, st, &promised_vtable);
    self->name = type->name;
    self->held = NULL;
    struct pyasync_c_promise *p = self->promise = pac_alloc(sizeof *p);
    if (p == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    p->mark = ALIVE;
    pac_promise_init(&p->core);
    p->type = type;
    p->data = data;
    p->graveyard = pacpy_graveyard_ref(graveyard);
    p->grave.bury = promise_bury;
    *promise = p;
    return (PyObject *)self;
}

int
pacpy_promise_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Promised_spec, st->Future_type, &st->Promised_type, NULL);
}
