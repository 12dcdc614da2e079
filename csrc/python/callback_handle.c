/* callback_handle.c - call_soon, call_later, call_at: a Python object, a runnable and a timer in
 * one. */
#include "callback_handle.h"

#include "args.h"
#include "completion.h"
#include "context_snapshot.h"
#include "release.h"

/* Where asyncio's classes keep their slots, and where ours begins: read off the classes, the same
 * for all interpreters of the process. */
static struct {
    Py_ssize_t callback, args, cancelled, loop, source_traceback, repr, context; /* Handle */
    Py_ssize_t scheduled, when;                                                  /* TimerHandle */
    Py_ssize_t ours;
} offsets;

#define SLOT(op, name) (*(PyObject **)((char *)(op) + offsets.name))

struct handle {
    struct pac_runnable runnable; /* queued: one strong reference */
    struct pac_timer timer;       /* armed: one strong reference; its flags are those below */
};

/* What is made only if somebody asks for it: most handles are never looked at.
 *
 * The slot `when` of a timer that was armed by call_later is NULL at first: its deadline says it. */
enum handle_flags {
    SHARES_CONTEXT = 1, /* `context` is a snapshot that others have too: copied to be entered */
    ONE_ARGUMENT = 2,   /* `args` is the only argument itself */
    SETS_FUTURE = 4,    /* `args` is an asyncio future of ours, of the two arguments (future, None);
                           `callback` is asyncio's _set_result_unless_cancelled */
};

static inline struct handle *
handle_of(PyObject *op)
{
    return (struct handle *)((char *)op + offsets.ours);
}

static inline PyObject *
handle_object(struct handle *h)
{
    return (PyObject *)((char *)h - offsets.ours);
}

/* Never NULL: only the destructor gives it up. */
static inline LoopObject *
handle_loop(PyObject *op)
{
    return (LoopObject *)SLOT(op, loop);
}

static inline bool
handle_is_timer(PyObject *op)
{
    return Py_IS_TYPE(op, handle_loop(op)->st->TimerHandle_type);
}

static inline uint8_t *
handle_flags(PyObject *op)
{
    return &handle_of(op)->timer.flags;
}

/* ---- the garbage collector ------------------------------------------------------------------ */

static inline void
track(PyObject *op)
{
    if (!PyObject_GC_IsTracked(op)) {
        PyObject_GC_Track(op);
    }
}

/* The loop lets go of `op`: give up its reference. As with tasks (pacpy_task_track), a handle that
 * a running loop holds cannot be garbage, so the collector has to know of it only from now on. */
static inline void
let_go(PyObject *op)
{
    if (Py_REFCNT(op) > 1) {
        track(op);
    }
    Py_DECREF(op);
}

/* ---- what is made when it is asked for ------------------------------------------------------ */

static PyObject *
args_tuple(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *tuple = PyTuple_New(nargs);
    for (Py_ssize_t i = 0; tuple != NULL && i < nargs; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    return tuple;
}

/* The arguments as the slot has to show them: borrowed; NULL and MemoryError. */
static PyObject *
handle_args(PyObject *op)
{
    uint8_t flags = *handle_flags(op);
    if (flags & (ONE_ARGUMENT | SETS_FUTURE)) {
        PyObject *args[] = {SLOT(op, args), Py_None};
        PyObject *tuple = args_tuple(args, flags & ONE_ARGUMENT ? 1 : 2);
        if (tuple == NULL) {
            return NULL;
        }
        *handle_flags(op) = (uint8_t)(flags & ~(ONE_ARGUMENT | SETS_FUTURE));
        Py_SETREF(SLOT(op, args), tuple);
    }
    return SLOT(op, args);
}

/* The context, the handle's own from now on: borrowed; NULL and MemoryError. */
static PyObject *
handle_context(PyObject *op)
{
    if (*handle_flags(op) & SHARES_CONTEXT) {
        PyObject *own = pacpy_context_copy(handle_loop(op)->st, SLOT(op, context));
        if (own == NULL) {
            return NULL;
        }
        *handle_flags(op) &= (uint8_t)~SHARES_CONTEXT;
        Py_SETREF(SLOT(op, context), own);
    }
    return SLOT(op, context);
}

static PyObject *
handle_when(PyObject *op)
{
    if (SLOT(op, when) == NULL) {
        SLOT(op, when) =
            PyFloat_FromDouble(pacpy_seconds_from_ns(handle_of(op)->timer.deadline_ns));
    }
    return SLOT(op, when);
}

/* ---- running -------------------------------------------------------------------------------- */

/* The callback has raised. */
static void
report_callback(LoopObject *loop, PyObject *handle)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(exc, PyExc_SystemExit) ||
        PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt)) {
        pacpy_loop_raise(loop, exc);
        return;
    }
    PyObject *done =
        PyObject_CallMethod(loop->st->asyncio_support, "report_callback", "OOO", loop, handle, exc);
    Py_DECREF(exc);
    if (done == NULL) {
        pacpy_loop_raise_or_print(loop, handle);
    }
    Py_XDECREF(done);
}

/* If the callback is _set_result_unless_cancelled(future, None), by which asyncio.sleep() ends: do
 * that without a call of Python. It has had its turn in the queue, so what it wakes comes where it
 * would come; and nothing of it runs in the handle's context, as a future's callbacks have theirs.
 * False: it has to be called, as it is something else, is going to raise, or is to be timed. */
static inline bool
set_future(LoopObject *loop, PyObject *op)
{
    if (!(*handle_flags(op) & SETS_FUTURE) || loop->debug ||
        SLOT(op, callback) != loop->st->asyncio_set_result) {
        return false;
    }
    struct pacpy_completion *c = pacpy_completion_of(SLOT(op, args));
    if (c->outcome == PACPY_FINISHED) {
        return false;
    }
    pacpy_completion_set_result(c, Py_None); /* nothing, if it was cancelled */
    return true;
}

/* callback(*args), within the context. */
static PyObject *
call_in_context(PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *result = PyObject_Vectorcall(callback, args, (size_t)nargs, NULL);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* Call it: 0 or -1. It may cancel its own handle, which empties the slots. */
static int
call_back(PyObject *op)
{
    PyObject *context = Py_XNewRef(handle_context(op));
    if (context == NULL) {
        return -1;
    }
    bool one = *handle_flags(op) & ONE_ARGUMENT;
    PyObject *args = Py_XNewRef(one ? SLOT(op, args) : handle_args(op));
    PyObject *result = NULL;
    if (args != NULL) {
        PyObject *const *first = one ? &args : &PyTuple_GET_ITEM(args, 0);
        PyObject *callback = Py_NewRef(SLOT(op, callback));
        result = call_in_context(callback, first, one ? 1 : PyTuple_GET_SIZE(args), context);
        Py_DECREF(callback);
        Py_DECREF(args);
    }
    if (result != NULL && Py_REFCNT(op) == 1 && SLOT(op, context) == context) {
        /* The handle is about to go. */
        SLOT(op, context) = NULL;
        Py_DECREF(context);
        pacpy_context_done(handle_loop(op)->st, context);
    }
    else {
        Py_DECREF(context);
    }
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

static void
handle_run(struct pac_runnable *r)
{
    PyObject *op = handle_object(PAC_CONTAINER_OF(r, struct handle, runnable));
    LoopObject *loop = handle_loop(op);
    if (SLOT(op, cancelled) != Py_False || SLOT(op, callback) == NULL) {
        let_go(op);
        return;
    }
    uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
    Py_INCREF(loop);
    if (pacpy_loop_leave_task(loop) < 0 || (!set_future(loop, op) && call_back(op) < 0)) {
        report_callback(loop, op);
    }
    if (PAC_UNLIKELY(began_ns != 0)) {
        pacpy_loop_note_duration(loop, began_ns, op);
    }
    let_go(op);
    Py_DECREF(loop);
}

static void
handle_discard(struct pac_runnable *r)
{
    let_go(handle_object(PAC_CONTAINER_OF(r, struct handle, runnable)));
}

static const struct pac_runnable_vtable handle_vtable = {
    .run = handle_run,
    .discard = handle_discard,
};

struct pacpy_adopted {
    struct pac_runnable runnable;
    LoopObject *loop;
    PyObject *handle;
    struct pacpy_adopted **place; /* where somebody remembers this, or NULL */
};

static const struct pac_runnable_vtable adopted_vtable;

/* The timer's reference becomes the queue's. */
static void
handle_fire(struct pac_timer *timer)
{
    struct handle *h = PAC_CONTAINER_OF(timer, struct handle, timer);
    PyObject *op = handle_object(h);
    Py_XSETREF(SLOT(op, scheduled), Py_NewRef(Py_False));
    LoopObject *loop = handle_loop(op);
    pac_run_queue_push(&loop->executor->scheduler.ready, &h->runnable);
}

PyObject *
pacpy_handle_of_runnable(struct pac_runnable *r)
{
    if (r->vtable == &handle_vtable) {
        return handle_object(PAC_CONTAINER_OF(r, struct handle, runnable));
    }
    if (r->vtable == &adopted_vtable) {
        return PAC_CONTAINER_OF(r, struct pacpy_adopted, runnable)->handle;
    }
    return NULL;
}

PyObject *
pacpy_handle_of_timer(struct pac_timer *timer)
{
    return timer->fire == handle_fire ? handle_object(PAC_CONTAINER_OF(timer, struct handle, timer))
                                      : NULL;
}

int
pacpy_handle_visit_runnable(struct pac_runnable *r, visitproc visit, void *arg)
{
    if (r->vtable == &handle_vtable) {
        Py_VISIT(handle_object(PAC_CONTAINER_OF(r, struct handle, runnable)));
    }
    else if (r->vtable == &adopted_vtable) {
        struct pacpy_adopted *a = PAC_CONTAINER_OF(r, struct pacpy_adopted, runnable);
        Py_VISIT(a->loop);
        Py_VISIT(a->handle);
    }
    return 0;
}

static void
track_timers(struct pac_list *timers)
{
    for (struct pac_list_node *n = timers->head.next; n != &timers->head; n = n->next) {
        struct pac_timer *timer = PAC_LIST_ENTRY(n, struct pac_timer, node);
        if (timer->fire == handle_fire) {
            track(handle_object(PAC_CONTAINER_OF(timer, struct handle, timer)));
        }
    }
}

void
pacpy_handle_track_all(LoopObject *loop)
{
    struct pac_wheel *w = &loop->executor->wheel;
    for (struct pac_runnable *r = loop->executor->scheduler.ready.first; r != NULL; r = r->next) {
        if (r->vtable == &handle_vtable) {
            track(handle_object(PAC_CONTAINER_OF(r, struct handle, runnable)));
        }
    }
    for (unsigned i = 0; w->count > 0 && i < PAC_WHEEL_LEVELS * PAC_WHEEL_SLOTS; i++) {
        track_timers(&w->slots[i / PAC_WHEEL_SLOTS][i % PAC_WHEEL_SLOTS]);
    }
    track_timers(&w->immediate);
}

int
pacpy_handle_visit_timer(struct pac_timer *timer, visitproc visit, void *arg)
{
    if (timer->fire == handle_fire) {
        Py_VISIT(handle_object(PAC_CONTAINER_OF(timer, struct handle, timer)));
    }
    return 0;
}

/* ---- making --------------------------------------------------------------------------------- */

/* The arguments of a fresh handle: what is for the slot, a new reference, and its flag. NULL and
 * MemoryError. */
static PyObject *
keep_args(struct pacpy_state *st, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
          uint8_t *flags)
{
    if (nargs == 1) {
        *flags |= ONE_ARGUMENT;
        return Py_NewRef(args[0]);
    }
    if (nargs == 2 && callback == st->asyncio_set_result && args[1] == Py_None &&
        Py_IS_TYPE(args[0], st->AsyncioFuture_type)) {
        *flags |= SETS_FUTURE;
        return Py_NewRef(args[0]);
    }
    return args_tuple(args, nargs);
}

/* A fresh handle of `type`; every slot filled but `when`, nothing queued or armed. */
static PyObject *
handle_new(LoopObject *loop, struct pacpy_freelist *list, PyTypeObject *type, PyObject *callback,
           PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    struct pacpy_state *st = loop->st;
    bool shares = context == NULL || context == Py_None;
    uint8_t flags = shares ? SHARES_CONTEXT : 0;
    PyObject *kept = keep_args(st, callback, args, nargs, &flags);
    PyObject *present = shares ? pacpy_context_snapshot(st) : Py_NewRef(context);
    PyObject *op = kept == NULL || present == NULL ? NULL : pacpy_freelist_alloc(list, type);
    if (op == NULL) {
        Py_XDECREF(kept);
        Py_XDECREF(present);
        return NULL;
    }
    SLOT(op, callback) = Py_NewRef(callback);
    SLOT(op, args) = kept;
    SLOT(op, context) = present;
    SLOT(op, cancelled) = Py_NewRef(Py_False);
    SLOT(op, loop) = Py_NewRef(loop);
    SLOT(op, source_traceback) = Py_NewRef(Py_None);
    SLOT(op, repr) = Py_NewRef(Py_None);
    struct handle *h = handle_of(op);
    h->runnable.vtable = &handle_vtable;
    pac_timer_init(&h->timer, handle_fire);
    h->timer.flags = flags;
    if (type == st->TimerHandle_type) {
        SLOT(op, when) = NULL;
        SLOT(op, scheduled) = Py_NewRef(Py_True);
    }
    if (pacpy_running_loop != loop) {
        PyObject_GC_Track(op);
    }
    if (PAC_UNLIKELY(loop->debug)) {
        Py_SETREF(SLOT(op, source_traceback), PyObject_CallNoArgs(st->asyncio_extract_stack));
        if (SLOT(op, source_traceback) == NULL) {
            Py_DECREF(op);
            return NULL;
        }
    }
    return op;
}

/* On the loop's thread directly, also while it does not run; else by its inject queue. */
int
pacpy_loop_queue(LoopObject *loop, struct pac_runnable *r)
{
    struct pac_executor *ex = loop->executor;
    if (PAC_UNLIKELY(ex == NULL || ex->parked)) {
        /* Closed; or between two turns of compatible mode, to be woken by the descriptor. */
        if (ex != NULL && pac_executor_submit(ex, r) == PAC_OK) {
            return 0;
        }
        r->vtable->discard(r);
        pacpy_loop_refuse_closed(loop);
        return -1;
    }
    if (pac_current_scheduler == &ex->scheduler || !ex->running) {
        pacpy_loop_catch_up(loop);
        pac_run_queue_push(&ex->scheduler.ready, r);
        return 0;
    }
    if (pac_scheduler_inject(&ex->scheduler, r) == PAC_OK) {
        return 0;
    }
    r->vtable->discard(r);
    pacpy_loop_refuse_closed(loop);
    return -1;
}

PyObject *
pacpy_handle_soon(LoopObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *context)
{
    struct pacpy_state *st = loop->st;
    PyObject *op =
        handle_new(loop, &st->handle_free, st->CallbackHandle_type, callback, args, nargs, context);
    if (op == NULL) {
        return NULL;
    }
    Py_INCREF(op);
    if (pacpy_loop_queue(loop, &handle_of(op)->runnable) < 0) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

PyObject *
pacpy_handle_at(LoopObject *loop, uint64_t deadline_ns, PyObject *when, PyObject *callback,
                PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    struct pacpy_state *st = loop->st;
    PyObject *op = handle_new(loop, &st->timer_handle_free, st->TimerHandle_type, callback, args,
                              nargs, context);
    if (op == NULL) {
        return NULL;
    }
    SLOT(op, when) = Py_XNewRef(when);
    pac_wheel_insert(&loop->executor->wheel, &handle_of(op)->timer, deadline_ns);
    if (pac_timer_is_armed(&handle_of(op)->timer)) {
        Py_INCREF(op);
    }
    else {
        track(op); /* in infinity: the loop does not hold it */
    }
    return op;
}

/* ---- somebody else's Handle ----------------------------------------------------------------- */

void
pacpy_adopted_leave_place(struct pacpy_adopted *a)
{
    if (a != NULL && a->place != NULL) {
        *a->place = NULL;
        a->place = NULL;
    }
}

static void
adopted_free(struct pacpy_adopted *a)
{
    LoopObject *loop = a->loop;
    PyObject *handle = a->handle;
    pacpy_adopted_leave_place(a);
    PyMem_Free(a);
    Py_DECREF(handle);
    Py_DECREF(loop);
}

/* An asyncio.Handle that is no more than that, and whole. */
static bool
is_plain(LoopObject *loop, PyObject *op)
{
    return Py_IS_TYPE(op, loop->st->CallbackHandle_type->tp_base) && SLOT(op, callback) != NULL &&
           SLOT(op, args) != NULL && PyTuple_CheckExact(SLOT(op, args)) &&
           SLOT(op, context) != NULL && PyContext_CheckExact(SLOT(op, context));
}

bool
pacpy_handle_is_plain_and_live(LoopObject *loop, PyObject *handle)
{
    return is_plain(loop, handle) && SLOT(handle, cancelled) == Py_False;
}

/* What its _run() does. */
static void
run_plain(LoopObject *loop, PyObject *op)
{
    /* The callback may cancel its own handle, which empties these slots. */
    PyObject *callback = Py_NewRef(SLOT(op, callback));
    PyObject *args = Py_NewRef(SLOT(op, args));
    PyObject *context = Py_NewRef(SLOT(op, context));
    PyObject *result =
        call_in_context(callback, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args), context);
    if (result == NULL) {
        report_callback(loop, op);
    }
    Py_XDECREF(result);
    Py_DECREF(context);
    Py_DECREF(args);
    Py_DECREF(callback);
}

static void
adopted_run(struct pac_runnable *r)
{
    struct pacpy_adopted *a = PAC_CONTAINER_OF(r, struct pacpy_adopted, runnable);
    LoopObject *loop = a->loop;
    pacpy_adopted_leave_place(a);
    uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
    PyObject *done = NULL;
    int left = pacpy_loop_leave_task(loop);
    if (left == 0 && pacpy_handle_is_plain_and_live(loop, a->handle)) {
        run_plain(loop, a->handle);
        done = Py_NewRef(Py_None);
    }
    else if (left == 0) {
        PyObject *cancelled = PyObject_GetAttrString(a->handle, "_cancelled");
        if (cancelled == Py_True) {
            done = Py_NewRef(Py_None);
        }
        else if (cancelled != NULL) {
            done = PyObject_CallMethod(a->handle, "_run", NULL);
        }
        Py_XDECREF(cancelled);
    }
    if (done == NULL) {
        pacpy_loop_raise_or_print(loop, a->handle);
    }
    Py_XDECREF(done);
    if (PAC_UNLIKELY(began_ns != 0)) {
        pacpy_loop_note_duration(loop, began_ns, a->handle);
    }
    adopted_free(a);
}

static void
adopted_discard(struct pac_runnable *r)
{
    adopted_free(PAC_CONTAINER_OF(r, struct pacpy_adopted, runnable));
}

static const struct pac_runnable_vtable adopted_vtable = {
    .run = adopted_run,
    .discard = adopted_discard,
};

int
pacpy_handle_adopt(LoopObject *loop, PyObject *handle, struct pacpy_adopted **place)
{
    /* A handle of ours goes the same way: it may stand in the queue already. */
    struct pacpy_adopted *a = PyMem_Malloc(sizeof *a);
    if (a == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    a->runnable.vtable = &adopted_vtable;
    a->loop = (LoopObject *)Py_NewRef(loop);
    a->handle = Py_NewRef(handle);
    a->place = place;
    if (place != NULL) {
        *place = a;
    }
    return pacpy_loop_queue(loop, &a->runnable);
}

/* ---- slots ---------------------------------------------------------------------------------- */

static int
Handle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(SLOT(op, callback));
    Py_VISIT(SLOT(op, args));
    Py_VISIT(SLOT(op, context));
    Py_VISIT(SLOT(op, loop));
    Py_VISIT(SLOT(op, source_traceback));
    Py_VISIT(SLOT(op, repr));
    if (handle_is_timer(op)) {
        Py_VISIT(SLOT(op, when));
    }
    return 0;
}

/* The loop stays until the end, as it leads to the module's state; what goes round in circles
 * through it is cut there. */
static int
Handle_clear(PyObject *op)
{
    PACPY_RELEASE_SLOT(SLOT(op, callback));
    PACPY_RELEASE_SLOT(SLOT(op, args));
    Py_CLEAR(SLOT(op, context));
    Py_CLEAR(SLOT(op, source_traceback));
    Py_CLEAR(SLOT(op, repr));
    if (handle_is_timer(op)) {
        Py_CLEAR(SLOT(op, when));
    }
    return 0;
}

static void
Handle_dealloc(PyObject *op)
{
    LoopObject *loop = handle_loop(op);
    struct pacpy_state *st = loop->st;
    bool is_timer = handle_is_timer(op);
    PyObject_GC_UnTrack(op);
    pacpy_clear_weakrefs(op);
    Handle_clear(op);
    Py_CLEAR(SLOT(op, cancelled));
    if (is_timer) {
        Py_CLEAR(SLOT(op, scheduled));
    }
    SLOT(op, loop) = NULL;
    pacpy_freelist_free(is_timer ? &st->timer_handle_free : &st->handle_free,
                        is_timer ? st->TimerHandle_type : st->CallbackHandle_type, op);
    Py_DECREF(loop);
}

/* In compatible mode it stands in the loop's list, which counts the cancelled ones. 0 or -1. */
static int
count_cancelled(PyObject *op)
{
    LoopObject *loop = handle_loop(op);
    if (loop == NULL || !loop->compatible || SLOT(op, scheduled) != Py_True) {
        return 0;
    }
    PyObject *done = PyObject_CallMethod((PyObject *)loop, "_timer_handle_cancelled", "O", op);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Disarm a timer handle: gives up the wheel's reference. */
static void
disarm(PyObject *op)
{
    struct handle *h = handle_of(op);
    LoopObject *loop = handle_loop(op);
    Py_XSETREF(SLOT(op, scheduled), Py_NewRef(Py_False));
    if (pac_timer_is_armed(&h->timer) && loop->executor != NULL) {
        pac_wheel_remove(&loop->executor->wheel, &h->timer);
        Py_DECREF(op); /* the caller holds another */
        if (Py_REFCNT(op) > 2) {
            track(op); /* and so does somebody else than who calls that */
        }
    }
}

static PyObject *
Handle_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = handle_loop(op);
    if (SLOT(op, cancelled) == Py_True) {
        Py_RETURN_NONE;
    }
    if (loop->debug) {
        /* Keep what it was, for whoever prints it later. */
        PyObject *repr = PyObject_Repr(op);
        if (repr == NULL) {
            return NULL;
        }
        Py_XSETREF(SLOT(op, repr), repr);
    }
    Py_SETREF(SLOT(op, cancelled), Py_NewRef(Py_True));
    Py_INCREF(op);
    int counted = 0;
    if (handle_is_timer(op)) {
        counted = count_cancelled(op);
        disarm(op);
    }
    *handle_flags(op) &= SHARES_CONTEXT;
    Py_XSETREF(SLOT(op, callback), Py_NewRef(Py_None));
    Py_XSETREF(SLOT(op, args), Py_NewRef(Py_None));
    Py_DECREF(op);
    return counted < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- attributes: those of asyncio's slots that are made when asked for, or must not change --- */

static PyObject *
get_args(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(handle_args(op));
}

static PyObject *
get_context(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(handle_context(op));
}

static PyObject *
get_when(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(handle_when(op));
}

static PyObject *
get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(handle_loop(op));
}

static PyGetSetDef CallbackHandle_getset[] = {
    {"_args", get_args},
    {"_context", get_context},
    {"_loop", get_loop},
    {NULL},
};

static PyGetSetDef TimerHandle_getset[] = {
    {"_args", get_args},
    {"_context", get_context},
    {"_loop", get_loop},
    {"_when", get_when},
    {NULL},
};

static PyMethodDef Handle_methods[] = {
    {"cancel", Handle_cancel, METH_NOARGS, "Take the callback back: it will not be called."},
    {NULL},
};

static PyType_Slot CallbackHandle_slots[] = {
    {Py_tp_doc, "An asyncio.Handle of a pyasync_c loop."},
    {Py_tp_traverse, Handle_traverse},
    {Py_tp_clear, Handle_clear},
    {Py_tp_dealloc, Handle_dealloc},
    {Py_tp_methods, Handle_methods},
    {Py_tp_getset, CallbackHandle_getset},
    {0, NULL},
};

static PyType_Spec CallbackHandle_spec = {
    .name =
        "pyasync_c._core.Handle", /* what repr() says, and so logs and their filters, is as in asyncio */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = CallbackHandle_slots,
};

static PyType_Slot TimerHandle_slots[] = {
    {Py_tp_doc, "An asyncio.TimerHandle of a pyasync_c loop."},
    {Py_tp_traverse, Handle_traverse},
    {Py_tp_clear, Handle_clear},
    {Py_tp_dealloc, Handle_dealloc},
    {Py_tp_methods, Handle_methods},
    {Py_tp_getset, TimerHandle_getset},
    {0, NULL},
};

static PyType_Spec TimerHandle_spec = {
    .name = "pyasync_c.TimerHandle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = TimerHandle_slots,
};

/* ---- asyncio's classes ---------------------------------------------------------------------- */

static int
learn_offset(PyObject *cls, const char *name, Py_ssize_t *offset)
{
    PyObject *member = PyObject_GetAttrString(cls, name);
    if (member == NULL || !Py_IS_TYPE(member, &PyMemberDescr_Type)) {
        /* It has to be a slot, too. */
        Py_XDECREF(member);
        pacpy_refuse_python(((PyTypeObject *)cls)->tp_name, name);
        return -1;
    }
    *offset = ((PyMemberDescrObject *)member)->d_member->offset;
    Py_DECREF(member);
    return 0;
}

static int
learn_offsets(PyObject *handle, PyObject *timer_handle)
{
    const struct {
        PyObject *cls;
        const char *name;
        Py_ssize_t *offset;
    } wanted[] = {
        {handle, "_callback", &offsets.callback},
        {handle, "_args", &offsets.args},
        {handle, "_cancelled", &offsets.cancelled},
        {handle, "_loop", &offsets.loop},
        {handle, "_source_traceback", &offsets.source_traceback},
        {handle, "_repr", &offsets.repr},
        {handle, "_context", &offsets.context},
        {timer_handle, "_scheduled", &offsets.scheduled},
        {timer_handle, "_when", &offsets.when},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (learn_offset(wanted[i].cls, wanted[i].name, wanted[i].offset) < 0) {
            return -1;
        }
    }
    Py_ssize_t alignment = (Py_ssize_t) _Alignof(struct handle);
    Py_ssize_t size = ((PyTypeObject *)timer_handle)->tp_basicsize;
    offsets.ours = (size + alignment - 1) / alignment * alignment;
    return 0;
}

int
pacpy_callback_handle_make_types(struct pacpy_state *st)
{
    PyObject *handle = pacpy_asyncio_name("asyncio.events", "Handle");
    PyObject *timer = handle == NULL ? NULL : pacpy_asyncio_name("asyncio.events", "TimerHandle");
    int made = -1;
    if (handle != NULL && timer != NULL && learn_offsets(handle, timer) == 0) {
        int size = (int)(offsets.ours + (Py_ssize_t)sizeof(struct handle));
        CallbackHandle_spec.basicsize = TimerHandle_spec.basicsize = size;
        made = pacpy_make_type(st->module, &CallbackHandle_spec, (PyTypeObject *)handle,
                               &st->CallbackHandle_type, NULL);
        if (made == 0) {
            made = pacpy_make_type(st->module, &TimerHandle_spec, (PyTypeObject *)timer,
                                   &st->TimerHandle_type, NULL);
        }
    }
    Py_XDECREF(handle);
    Py_XDECREF(timer);
    return made;
}
