/* future.c - the base type, and the futures that are nothing but a poll: yield_now, ready,
 * pending, poll_fn. */
#include "future.h"

#include "args.h"
#include "bridge.h"
#include "waker.h"

/* ---- polling -------------------------------------------------------------------------------- */

static int
refuse_poll(FutureObject *f)
{
    const char *name = pacpy_short_name(Py_TYPE(f));
    if (f->polling) {
        PyErr_Format(PyExc_RuntimeError, "%s is already being polled", name);
    }
    else if (f->state == PACPY_DROPPED) {
        PyErr_Format(PyExc_RuntimeError, "%s was dropped: make a new one", name);
    }
    else if (f->state == PACPY_LEAVING) {
        PyErr_Format(PyExc_RuntimeError, "%s is being dropped", name);
    }
    else {
        PyErr_Format(PyExc_RuntimeError, "cannot reuse already awaited %s", name);
    }
    return -1;
}

/* A poll has raised. An await would take StopIteration for a result, so it becomes a
 * RuntimeError, as within a coroutine (PEP 479). */
static void
refuse_stop_iteration(void)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return;
    }
    PyObject *stop = PyErr_GetRaisedException();
    PyErr_SetString(PyExc_RuntimeError, "poll raised StopIteration");
    PyObject *error = PyErr_GetRaisedException();
    PyException_SetContext(error, Py_NewRef(stop));
    PyException_SetCause(error, stop);
    PyErr_SetRaisedException(error);
}

int
pacpy_future_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    if (PAC_UNLIKELY(f->polling ||
                     (f->state >= PACPY_DONE && !(f->state == PACPY_DONE && f->vtable->fused)))) {
        return refuse_poll(f);
    }
    f->polling = true;
    int ready = f->vtable->poll(f, cx, value);
    f->polling = false;
    if (ready == 0) {
        f->state = f->state == PACPY_DROPPED ? PACPY_DROPPED : PACPY_WAITING;
    }
    else if (PAC_UNLIKELY(ready == PACPY_REFUSED)) {
        f->driver = NULL; /* whose await ends here */
    }
    else {
        f->state = PACPY_DONE;
        f->driver = NULL;
        if (PAC_UNLIKELY(ready < 0)) {
            refuse_stop_iteration();
        }
    }
    return ready;
}

/* One step of `await f` within a poll of ours. */
static inline int
future_step(FutureObject *f, struct pacpy_frame *frame, PyObject **value)
{
    if (PAC_UNLIKELY(f->wait != NULL)) {
        pacpy_bridge_end_wait(f); /* it has moved here from a foreign loop */
    }
    if (PAC_UNLIKELY(f->driver != NULL && f->driver != frame->driver && !frame->by_hand)) {
        PyErr_SetString(PyExc_RuntimeError, "this future is already being awaited by another task");
        return -1;
    }
    int ready = pacpy_future_poll(f, frame->cx, value);
    if (ready == 0) {
        f->driver = frame->driver;
    }
    return ready;
}

PyObject *
Future_iternext(PyObject *op)
{
    FutureObject *f = (FutureObject *)op;
    struct pacpy_frame *frame = pacpy_frame_current(f->st);
    if (PAC_UNLIKELY(frame == NULL)) {
        return pacpy_bridge_iternext(f);
    }
    PyObject *value;
    int ready = future_step(f, frame, &value);
    if (ready == 0) {
        return Py_NewRef(f->st->suspended);
    }
    return ready < 0 ? NULL : pacpy_return_from_await(f->st, value);
}

/* The value of the StopIteration that is set, or None if nothing is: NULL for any other
 * exception. */
static PyObject *
fetch_stop_iteration_value(void)
{
    if (!PyErr_Occurred()) {
        return Py_NewRef(Py_None);
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return NULL;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *value = Py_NewRef(((PyStopIterationObject *)exc)->value);
    Py_DECREF(exc);
    return value;
}

PySendResult
Future_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    FutureObject *f = (FutureObject *)op;
    struct pacpy_frame *frame = pacpy_frame_current(f->st);
    if (PAC_LIKELY(frame != NULL)) {
        int ready = future_step(f, frame, result);
        if (ready == 0) {
            *result = Py_NewRef(f->st->suspended);
            return PYGEN_NEXT;
        }
        if (ready < 0) {
            *result = NULL;
            return PYGEN_ERROR;
        }
        return PYGEN_RETURN;
    }
    *result = pacpy_bridge_iternext(f);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    *result = fetch_stop_iteration_value();
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

PyObject *
Future_am_await(PyObject *op)
{
    return Py_NewRef(op);
}

/* ---- letting go ----------------------------------------------------------------------------- */

static const struct pacpy_future_vtable python_vtable;

void
pacpy_future_forget(FutureObject *f)
{
    if (f->wait != NULL) {
        pacpy_bridge_end_wait(f);
    }
    f->driver = NULL;
    bool was_waiting = f->state == PACPY_WAITING;
    if (f->vtable == &python_vtable) {
        if (was_waiting) {
            f->state = PACPY_DROPPED;
            f->vtable->forget(f);
        }
        return;
    }
    if (f->state == PACPY_LEAVING) {
        return;
    }
    uint8_t after = was_waiting ? PACPY_NEW : f->state;
    /* What is woken or given up by it may run anything, and a poll would find it half gone. (One
     * that is in progress sees to that itself.) */
    f->state = f->polling ? after : PACPY_LEAVING;
    f->vtable->forget(f);
    if (f->state == PACPY_LEAVING) {
        f->state = after;
    }
}

void
pacpy_future_fini(FutureObject *f)
{
    if (f->wait != NULL) {
        pacpy_bridge_end_wait(f);
    }
    if (f->vtable != NULL && f->vtable != &python_vtable) {
        f->vtable->forget(f);
    }
}

/* ---- a Future written in Python ------------------------------------------------------------- */

static int
python_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    struct pacpy_state *st = f->st;
    PyObject *context = pacpy_context_new(st, cx->waker);
    if (context == NULL) {
        return PACPY_REFUSED;
    }
    struct pacpy_frame frame;
    pacpy_frame_push_by_hand(st, &frame, cx);
    PyObject *self = Py_NewRef(f);
    PyObject *result = PyObject_CallMethodOneArg(self, st->str_poll, context);
    pacpy_frame_pop(&frame);
    pacpy_context_expire(context);
    Py_DECREF(context);
    int ready = result == NULL ? -1 : result != st->pending;
    if (ready == 1) {
        *value = result;
    }
    else {
        Py_XDECREF(result);
    }
    if (ready != -1) {
        Py_DECREF(self);
        return ready;
    }
    PyObject *exc = PyErr_GetRaisedException();
    Py_DECREF(self);
    PyErr_SetRaisedException(exc);
    return -1;
}

static void
python_forget(FutureObject *f)
{
    PyObject *exc = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    PyObject *self = Py_NewRef(f);
    PyObject *done = PyObject_CallMethodNoArgs(self, f->st->str_drop);
    if (done == NULL) {
        PyErr_WriteUnraisable(self);
    }
    Py_XDECREF(done);
    Py_DECREF(self);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

static const struct pacpy_future_vtable python_vtable = {
    .poll = python_poll,
    .forget = python_forget,
};

static PyObject *
Future_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (type == st->Future_type) {
        PyErr_SetString(PyExc_TypeError,
                        "Future is made by subclassing it and writing poll(self, cx)");
        return NULL;
    }
    PyObject *op = type->tp_alloc(type, 0);
    if (op != NULL) {
        pacpy_future_init((FutureObject *)op, st, &python_vtable);
    }
    return op;
}

/* A subclass may give __init__ any arguments, and need not call this one. */
static int
Future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return 0;
}

static int
Future_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
Future_finalize(PyObject *op)
{
    FutureObject *f = (FutureObject *)op;
    if (f->vtable == &python_vtable && f->state == PACPY_WAITING) {
        pacpy_future_forget(f);
    }
}

static void
Future_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- methods -------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    Future_poll_doc,
    "poll($self, cx, /)\n--\n\n"
    "Advance the future as far as it gets without waiting.\n\n"
    "Returns its value once it is ready, else PENDING, and then cx's waker will be woken when\n"
    "another poll is worth while; the waker of the newest poll is the one that counts.\n"
    "Raises what the future ends with, and RuntimeError when it is polled again after it was\n"
    "ready, after drop(), or from within its own poll. A subclass overrides this method.\n"
    "Stands for Rust's Future::poll.");

static PyObject *
Future_poll(PyObject *op, PyObject *context)
{
    FutureObject *f = (FutureObject *)op;
    if (f->vtable == &python_vtable) {
        return PyErr_Format(PyExc_TypeError, "%s must define poll(self, cx)", Py_TYPE(op)->tp_name);
    }
    const struct pac_waker *borrowed = pacpy_context_waker(f->st, context);
    if (borrowed == NULL) {
        return NULL;
    }
    struct pac_waker waker = pac_waker_clone(borrowed);
    struct pac_context cx = {&waker};
    struct pacpy_frame frame;
    if (f->wait != NULL) {
        pacpy_bridge_end_wait(f);
    }
    pacpy_frame_push_by_hand(f->st, &frame, &cx);
    PyObject *value;
    int ready = pacpy_future_poll(f, &cx, &value);
    pacpy_frame_pop(&frame);
    if (ready == 0) {
        f->driver = NULL; /* polled by hand: whoever awaits it next takes it over */
    }
    PyObject *exc = ready < 0 ? PyErr_GetRaisedException() : NULL;
    pac_waker_drop(&waker);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    return ready == 0 ? Py_NewRef(f->st->pending) : value;
}

PyDoc_STRVAR(
    Future_drop_doc,
    "drop($self, /)\n--\n\n"
    "Let go: the future leaves every list, its timer is disarmed, a permit that it was handed\n"
    "passes on. Polling it afterwards raises RuntimeError. Any number of times.\n"
    "In a subclass: called once by the runtime if the future was polled and is cancelled, lost a\n"
    "select, or is collected before it was ready.");

static PyObject *
Future_drop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *f = (FutureObject *)op;
    if (f->vtable != &python_vtable) {
        pacpy_future_forget(f);
    }
    f->state = PACPY_DROPPED;
    Py_RETURN_NONE;
}

PyObject *
Future_send(PyObject *op, PyObject *arg)
{
    PyObject *result;
    switch (Future_am_send(op, arg, &result)) {
        case PYGEN_NEXT:
            return result;
        case PYGEN_RETURN:
            if (result == Py_None) {
                Py_DECREF(result);
                PyErr_SetNone(PyExc_StopIteration);
                return NULL;
            }
            return pacpy_return_from_await(((FutureObject *)op)->st, result);
        case PYGEN_ERROR:
            break;
    }
    return NULL;
}

void
pacpy_raise_thrown(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
#if PY_VERSION_HEX >= 0x030C0000
    if (nargs > 1 &&
        PyErr_WarnEx(PyExc_DeprecationWarning,
                     "the (type, exc, tb) signature of throw() is deprecated, use the single-arg "
                     "signature instead.",
                     1) < 0) {
        return;
    }
#endif
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback");
        return;
    }
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError, "instance exception may not have a separate value");
            return;
        }
        value = type;
        type = (PyObject *)Py_TYPE(value);
    }
    else if (!PyExceptionClass_Check(type)) {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return;
    }
    PyErr_SetObject(type, value);
    if (traceback != NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        if (PyException_SetTraceback(exc, traceback) < 0) {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(exc);
    }
}

PyObject *
Future_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw expected 1 to 3 arguments");
        return NULL;
    }
    /* Unlinked before the exception enters whoever awaits. */
    pacpy_future_forget((FutureObject *)op);
    pacpy_raise_thrown(args, nargs);
    return NULL;
}

static PyObject *
Future_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pacpy_future_forget((FutureObject *)op);
    Py_RETURN_NONE;
}

static PyMethodDef Future_methods[] = {
    {"poll", Future_poll, METH_O, Future_poll_doc},
    {"drop", Future_drop, METH_NOARGS, Future_drop_doc},
    {"send", Future_send, METH_O, "Part of the await protocol."},
    {"throw", (PyCFunction)(void (*)(void))Future_throw, METH_FASTCALL,
     "Part of the await protocol."},
    {"close", Future_close, METH_NOARGS, "Part of the await protocol."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

PyDoc_STRVAR(
    Future_doc,
    "A computation that does nothing until it is polled, and can be awaited.\n\n"
    "Subclass it and write poll(self, cx): return the value, or PENDING after having arranged that\n"
    "cx.waker (clone it) is woken once another poll is worth while. The runtime drives it, on this\n"
    "runtime and on asyncio's or uvloop's loop alike. Belongs to one task at a time.\n"
    "Stands for Rust's Future.");

static PyType_Slot Future_slots[] = {
    {Py_tp_doc, (void *)Future_doc},
    {Py_tp_new, Future_new},
    {Py_tp_init, Future_init},
    {Py_tp_traverse, Future_traverse},
    {Py_tp_finalize, Future_finalize},
    {Py_tp_dealloc, Future_dealloc},
    {Py_tp_methods, Future_methods},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Future_spec = {
    .name = "pyasync_c.Future",
    .basicsize = sizeof(FutureObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Future_slots,
};

/* ---- yield_now ------------------------------------------------------------------------------ */

static int
yield_now_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    if (f->state == PACPY_NEW) {
        pac_waker_wake_by_ref(cx->waker);
        return 0;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

static void
forget_nothing(FutureObject *f)
{
    (void)f;
}

static const struct pacpy_future_vtable yield_now_vtable = {
    .poll = yield_now_poll,
    .forget = forget_nothing,
};

/* Awaiting yields a bare None, which every loop understands as "go to the back of the queue". */
static inline bool
yield_now_step(FutureObject *f)
{
    if (f->state == PACPY_NEW) {
        f->state = PACPY_WAITING;
        return true;
    }
    if (f->state != PACPY_WAITING) {
        refuse_poll(f);
    }
    f->state = PACPY_DONE;
    return false;
}

static PyObject *
YieldNow_iternext(PyObject *op)
{
    return yield_now_step((FutureObject *)op) ? Py_NewRef(Py_None) : NULL;
}

static PySendResult
YieldNow_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    if (yield_now_step((FutureObject *)op)) {
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    if (PyErr_Occurred()) {
        *result = NULL;
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static void
YieldNow_dealloc(PyObject *op)
{
    FutureObject *f = (FutureObject *)op;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(f);
    pacpy_freelist_free(&f->st->yield_now_free, f->st->YieldNow_type, op);
}

static PyType_Slot YieldNow_slots[] = {
    {Py_tp_doc, "What yield_now() returns."}, {Py_tp_traverse, Future_traverse},
    {Py_tp_dealloc, YieldNow_dealloc},        {Py_am_await, Future_am_await},
    {Py_am_send, YieldNow_am_send},           {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, YieldNow_iternext},      {0, NULL},
};

static PyType_Spec YieldNow_spec = {
    .name = "pyasync_c.YieldNow",
    .basicsize = sizeof(FutureObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = YieldNow_slots,
};

PyDoc_STRVAR(
    yield_now_doc,
    "yield_now()\n--\n\n"
    "Let everything else that is ready run first: await it, and the task goes to the back of the\n"
    "queue. Works on any loop. Stands for tokio::task::yield_now, but keeps the order of yielders.");

static PyObject *
yield_now(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *op = pacpy_freelist_alloc(&st->yield_now_free, st->YieldNow_type);
    if (op != NULL) {
        /* Not tracked: it refers to nothing but its type. */
        pacpy_future_init((FutureObject *)op, st, &yield_now_vtable);
    }
    return op;
}

/* ---- ready, pending, poll_fn: one object each ----------------------------------------------- */

typedef struct {
    FutureObject base;
    PyObject *payload; /* the value, or the function */
} PayloadObject;

static int
payload_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((PayloadObject *)op)->payload);
    return 0;
}

/* It may still be polled, by what the collector closes later: None in the place of the function, which
 * raises TypeError, or of the value. */
static int
payload_clear(PyObject *op)
{
    PyObject *payload = ((PayloadObject *)op)->payload;
    if (payload != NULL) {
        ((PayloadObject *)op)->payload = Py_NewRef(Py_None);
        pacpy_release(payload);
    }
    return 0;
}

static void
payload_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    PACPY_RELEASE_SLOT(((PayloadObject *)op)->payload);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
payload_new(struct pacpy_state *st, PyTypeObject *type, const struct pacpy_future_vtable *vtable,
            PyObject *payload)
{
    PyObject *op = type->tp_alloc(type, 0);
    if (op != NULL) {
        pacpy_future_init((FutureObject *)op, st, vtable);
        ((PayloadObject *)op)->payload = Py_XNewRef(payload);
    }
    return op;
}

#define PAYLOAD_TYPE(Name, doc)                                                       \
    static PyType_Slot Name##_slots[] = {                                             \
        {Py_tp_doc, doc},                                                             \
        {Py_tp_traverse, payload_traverse},                                           \
        {Py_tp_clear, payload_clear},                                                 \
        {Py_tp_dealloc, payload_dealloc},                                             \
        PACPY_FUTURE_SLOTS,                                                           \
        {0, NULL},                                                                    \
    };                                                                                \
    static PyType_Spec Name##_spec = {                                                \
        .name = "pyasync_c." #Name,                                                   \
        .basicsize = sizeof(PayloadObject),                                           \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | \
                 Py_TPFLAGS_DISALLOW_INSTANTIATION,                                   \
        .slots = Name##_slots,                                                        \
    }

PAYLOAD_TYPE(ReadyFuture, "What ready() returns.");
PAYLOAD_TYPE(PendingFuture, "What pending() returns.");
PAYLOAD_TYPE(PollFn, "What poll_fn() returns.");

static int
ready_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    *value = ((PayloadObject *)f)->payload;
    ((PayloadObject *)f)->payload = NULL;
    return 1;
}

static const struct pacpy_future_vtable ready_vtable = {
    .poll = ready_poll,
    .forget = forget_nothing,
};

PyDoc_STRVAR(
    ready_doc,
    "ready(value, /)\n--\n\n"
    "A future that is ready at its first poll, with `value`. Stands for std::future::ready.");

static PyObject *
ready(PyObject *module, PyObject *value)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return payload_new(st, st->ReadyFuture_type, &ready_vtable, value);
}

static int
pending_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    return 0;
}

static const struct pacpy_future_vtable pending_vtable = {
    .poll = pending_poll,
    .forget = forget_nothing,
};

PyDoc_STRVAR(pending_doc,
             "pending()\n--\n\n"
             "A future that is never ready: await it to wait until cancelled. Stands for\n"
             "std::future::pending.");

static PyObject *
pending(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    return payload_new(st, st->PendingFuture_type, &pending_vtable, NULL);
}

static int
poll_fn_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    struct pacpy_state *st = f->st;
    PyObject *context = pacpy_context_new(st, cx->waker);
    if (context == NULL) {
        return PACPY_REFUSED;
    }
    struct pacpy_frame frame;
    pacpy_frame_push_by_hand(st, &frame, cx);
    PyObject *function = Py_NewRef(((PayloadObject *)f)->payload);
    PyObject *result = PyObject_CallOneArg(function, context);
    pacpy_frame_pop(&frame);
    pacpy_context_expire(context);
    Py_DECREF(context);
    Py_DECREF(function);
    if (result == NULL) {
        return -1;
    }
    if (result == st->pending) {
        Py_DECREF(result);
        return 0;
    }
    *value = result;
    return 1;
}

static const struct pacpy_future_vtable poll_fn_vtable = {
    .poll = poll_fn_poll,
    .forget = forget_nothing,
};

PyDoc_STRVAR(
    poll_fn_doc,
    "poll_fn(f, /)\n--\n\n"
    "A future whose poll is f(cx): it returns the value, or PENDING after having kept a clone of\n"
    "cx.waker. Raises TypeError if f is not callable. Stands for std::future::poll_fn.");

static PyObject *
poll_fn(PyObject *module, PyObject *function)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (!PyCallable_Check(function)) {
        return PyErr_Format(PyExc_TypeError, "poll_fn: f must be callable, not %s",
                            Py_TYPE(function)->tp_name);
    }
    return payload_new(st, st->PollFn_type, &poll_fn_vtable, function);
}

/* ---- an awaitable that is ready at once ----------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    PyObject *value; /* NULL: awaited already */
} ImmediateObject;

/* Its value: a new reference; NULL and RuntimeError the second time. */
static inline PyObject *
immediate_take(ImmediateObject *self)
{
    if ((PyObject *)self == self->st->nothing_to_await) {
        return Py_NewRef(Py_None);
    }
    PyObject *value = self->value;
    self->value = NULL;
    if (value == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited object");
    }
    return value;
}

static PyObject *
Immediate_iternext(PyObject *op)
{
    ImmediateObject *self = (ImmediateObject *)op;
    PyObject *value = immediate_take(self);
    return value == NULL ? NULL : pacpy_return_from_await(self->st, value);
}

static PySendResult
Immediate_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    *result = immediate_take((ImmediateObject *)op);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static int
Immediate_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ImmediateObject *)op)->value);
    return 0;
}

static int
Immediate_clear(PyObject *op)
{
    PACPY_RELEASE_SLOT(((ImmediateObject *)op)->value);
    return 0;
}

static void
Immediate_dealloc(PyObject *op)
{
    ImmediateObject *self = (ImmediateObject *)op;
    PyObject_GC_UnTrack(op);
    PACPY_RELEASE_SLOT(self->value);
    pacpy_freelist_free(&self->st->immediate_free, self->st->Immediate_type, op);
}

static PyType_Slot Immediate_slots[] = {
    {Py_tp_doc, "An awaitable that is ready at once."},
    {Py_tp_traverse, Immediate_traverse},
    {Py_tp_clear, Immediate_clear},
    {Py_tp_dealloc, Immediate_dealloc},
    {Py_am_await, Future_am_await},
    {Py_am_send, Immediate_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, Immediate_iternext},
    {0, NULL},
};

static PyType_Spec Immediate_spec = {
    .name = "pyasync_c.Immediate",
    .basicsize = sizeof(ImmediateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Immediate_slots,
};

PyObject *
pacpy_immediate(struct pacpy_state *st, PyObject *value)
{
    PyObject *op = pacpy_freelist_alloc(&st->immediate_free, st->Immediate_type);
    if (op == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    ((ImmediateObject *)op)->st = st;
    ((ImmediateObject *)op)->value = value;
    PyObject_GC_Track(op);
    return op;
}

/* ---- module --------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"yield_now", yield_now, METH_NOARGS, yield_now_doc},
    {"ready", ready, METH_O, ready_doc},
    {"pending", pending, METH_NOARGS, pending_doc},
    {"poll_fn", poll_fn, METH_O, poll_fn_doc},
    {NULL},
};

int
pacpy_future_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Future_spec, NULL, &st->Future_type, "Future") < 0) {
        return -1;
    }
    PyTypeObject *base = st->Future_type;
    if (pacpy_make_type(module, &YieldNow_spec, base, &st->YieldNow_type, NULL) < 0 ||
        pacpy_make_type(module, &ReadyFuture_spec, base, &st->ReadyFuture_type, NULL) < 0 ||
        pacpy_make_type(module, &PendingFuture_spec, base, &st->PendingFuture_type, NULL) < 0 ||
        pacpy_make_type(module, &PollFn_spec, base, &st->PollFn_type, NULL) < 0 ||
        pacpy_make_type(module, &Immediate_spec, NULL, &st->Immediate_type, NULL) < 0) {
        return -1;
    }
    st->nothing_to_await = pacpy_immediate(st, Py_NewRef(Py_None));
    if (st->nothing_to_await == NULL) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
