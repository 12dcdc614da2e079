/* timeout.c - timeout(), timeout_at(), and the Timeout that they return: asyncio.Timeout, in C.
 *
 *   CREATED ──__aenter__──► ENTERED ──deadline──► EXPIRING ──__aexit__──► EXPIRED
 *                              └─────────────__aexit__──────────────────► EXITED
 *
 * Expiring cancels the task. On the way out the CancelledError becomes a TimeoutError, if that
 * cancel is the only one that came since the block was entered: the task counts its cancel
 * requests, and ours is taken back.
 *
 * On a loop of ours the deadline is a timer in the executor's wheel, part of this object: no
 * handle, no callback. On any other loop it is a handle of that loop, and in that loop's time.
 *
 * A timer in the wheel holds one reference to its Timeout. The collector sees it through the loop
 * (pacpy_timeout_visit_timer), so that a loop which was abandoned is garbage together with all
 * that its timers hold. An executor that closes fires what is left, which then only lets go. */
#include "timeout.h"

#include "args.h"
#include "delay.h"
#include "future.h"
#include "task.h"

enum timeout_state { CREATED, ENTERED, EXPIRING, EXPIRED, EXITED };

static const char *const state_names[] = {"created", "active", "expiring", "expired", "finished"};

enum deadline_kind {
    NO_LIMIT,
    AT,    /* at a time of the loop */
    AFTER, /* made outside of a loop: so long after entering */
};

struct deadline {
    double seconds; /* AT: what when() answers; AFTER: how long */
    uint64_t ns;    /* the same; meaningless AT a time of a loop that is not ours */
    enum deadline_kind kind;
};

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct deadline deadline;
    PyObject *task;         /* from entering to leaving */
    LoopObject *loop;       /* entered on a loop of ours: strong, from entering to leaving */
    PyObject *handle;       /* armed on another loop: its handle */
    struct pac_timer timer; /* armed on a loop of ours: holds a reference to this object */
    Py_ssize_t cancelling;  /* cancel requests of the task when it entered */
    enum timeout_state state;
} TimeoutObject;

/* ---- expiring ------------------------------------------------------------------------------- */

/* The deadline has come. 0, or -1 with the exception of the task's cancel(). */
static int
expire(TimeoutObject *self)
{
    if (self->state != ENTERED) {
        return 0;
    }
    /* First, so that what cancelling runs finds it like this. */
    self->state = EXPIRING;
    PyObject *task = Py_NewRef(self->task);
    int status;
    if (Py_IS_TYPE(task, self->st->Task_type)) {
        status = pacpy_task_cancel(pacpy_task_of(task), NULL) < 0 ? -1 : 0;
    }
    else {
        PyObject *done = PyObject_CallMethodNoArgs(task, self->st->str_cancel);
        status = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    if (status < 0 && self->state == EXPIRING) {
        self->state = ENTERED;
    }
    Py_DECREF(task);
    return status;
}

/* Called by the executor, with the timer out of the wheel. */
static void
timeout_fire(struct pac_timer *timer)
{
    TimeoutObject *self = PAC_CONTAINER_OF(timer, TimeoutObject, timer);
    LoopObject *loop = self->loop;
    if (!pac_executor_is_closed(loop->executor)) {
        Py_INCREF(loop);
        if (expire(self) < 0) {
            pacpy_loop_raise_or_print(loop, (PyObject *)self);
        }
        Py_DECREF(loop);
    }
    Py_DECREF(self);
}

int
pacpy_timeout_visit_timer(struct pac_timer *timer, visitproc visit, void *arg)
{
    if (timer->fire == timeout_fire) {
        Py_VISIT(PAC_CONTAINER_OF(timer, TimeoutObject, timer));
    }
    return 0;
}

static PyObject *
on_timeout(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(((TimeoutObject *)op)->handle);
    if (expire((TimeoutObject *)op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef on_timeout_def = {"on_timeout", on_timeout, METH_NOARGS,
                                     "The deadline of a Timeout has come."};

/* ---- arming --------------------------------------------------------------------------------- */

/* 0, or -1 with the exception of another loop's handle. */
static int
disarm(TimeoutObject *self)
{
    if (pac_timer_is_armed(&self->timer)) {
        pac_wheel_remove(&self->loop->executor->wheel, &self->timer);
        Py_DECREF(self); /* never the last one: the caller has one */
    }
    PyObject *handle = self->handle;
    if (handle == NULL) {
        return 0;
    }
    self->handle = NULL;
    PyObject *done = PyObject_CallMethodNoArgs(handle, self->st->str_cancel);
    Py_DECREF(handle);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* A deadline that is further than this from the executor's last look at the clock is to come: the
 * clock is not read to find out. Should the task have run for longer than that without a pause,
 * the executor looks at its timers right after it anyway. */
#define LOOK_AGAIN_NS ((uint64_t)1000000000)

static int
arm_in_wheel(TimeoutObject *self)
{
    struct pac_executor *ex = self->loop->executor;
    if (ex == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    uint64_t ns = self->deadline.ns;
    if (ns == PAC_NEVER) {
        return 0;
    }
    if (ns <= ex->now_ns + LOOK_AGAIN_NS && ns <= pac_executor_now_ns(ex)) {
        /* What has passed is due with the next turn, and not at the end of the present tick: a
         * time that the wheel has come to. */
        ns = pac_wheel_elapsed_ns(&ex->wheel);
    }
    pac_wheel_insert(&ex->wheel, &self->timer, ns);
    Py_INCREF(self);
    return 0;
}

/* loop.time(); -1 and an exception. */
static double
time_of(struct pacpy_state *st, PyObject *loop)
{
    PyObject *time = PyObject_CallMethodNoArgs(loop, st->str_time);
    if (time == NULL) {
        return -1;
    }
    double seconds = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return seconds;
}

/* A handle of `loop` for the deadline, or with the next turn if that has passed. New reference. */
static PyObject *
make_handle(TimeoutObject *self, PyObject *loop, double now)
{
    PyObject *callback = PyCFunction_New(&on_timeout_def, (PyObject *)self);
    PyObject *when = PyFloat_FromDouble(self->deadline.seconds);
    PyObject *handle = NULL;
    if (callback != NULL && when != NULL) {
        handle =
            self->deadline.seconds <= now
                ? PyObject_CallMethodOneArg(loop, self->st->str_call_soon, callback)
                : PyObject_CallMethodObjArgs(loop, self->st->str_call_at, when, callback, NULL);
    }
    Py_XDECREF(callback);
    Py_XDECREF(when);
    return handle;
}

/* The running loop, which is not ours: a new reference. NULL and RuntimeError. */
static PyObject *
running_foreign_loop(struct pacpy_state *st)
{
    PyObject *loop = PyObject_CallNoArgs(st->asyncio_get_running_loop);
    if (loop == Py_None) {
        Py_CLEAR(loop);
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
    }
    return loop;
}

static int
arm_on_foreign_loop(TimeoutObject *self)
{
    PyObject *loop = running_foreign_loop(self->st);
    if (loop == NULL) {
        return -1;
    }
    double now = time_of(self->st, loop);
    if (now == -1.0 && PyErr_Occurred()) {
        Py_DECREF(loop);
        return -1;
    }
    if (self->deadline.kind == AFTER) {
        self->deadline.seconds += now;
        self->deadline.kind = AT;
    }
    int status = 0;
    if (self->deadline.seconds != Py_HUGE_VAL) {
        PyObject *handle = make_handle(self, loop, now);
        status = handle == NULL ? -1 : 0;
        Py_XSETREF(self->handle, handle);
    }
    Py_DECREF(loop);
    return status;
}

/* Arm for the deadline, if there is one. 0 or -1. */
static int
arm(TimeoutObject *self)
{
    if (self->deadline.kind == NO_LIMIT) {
        return 0;
    }
    return self->loop != NULL ? arm_in_wheel(self) : arm_on_foreign_loop(self);
}

/* A delay as a time of `loop`, which is ours. */
static inline void
count_from_now(struct deadline *d, LoopObject *loop)
{
    uint64_t now_ns = pac_executor_now_ns(loop->executor);
    d->ns = pac_ns_add(now_ns, d->ns);
    d->seconds += pacpy_seconds_from_ns(now_ns);
    d->kind = AT;
}

/* ---- entering and leaving ------------------------------------------------------------------- */

/* The task that is running: a new reference. NULL and RuntimeError. */
static PyObject *
current_task(struct pacpy_state *st)
{
    struct pacpy_frame *frame = pacpy_frame_current(st);
    if (frame != NULL && frame->current_task != NULL) {
        return Py_NewRef(frame->current_task);
    }
    PyObject *task = PyObject_CallNoArgs(st->asyncio_current_task);
    if (task == Py_None) {
        Py_CLEAR(task);
        PyErr_SetString(PyExc_RuntimeError, "Timeout should be used inside a task");
    }
    return task;
}

/* task.cancelling(), or -1 and an exception. */
static Py_ssize_t
cancelling(struct pacpy_state *st, PyObject *task)
{
    if (PAC_LIKELY(Py_IS_TYPE(task, st->Task_type))) {
        return pacpy_task_of(task)->cancel_requests;
    }
    PyObject *count = PyObject_CallMethodNoArgs(task, st->str_cancelling);
    if (count == NULL) {
        return -1;
    }
    Py_ssize_t requests = PyNumber_AsSsize_t(count, PyExc_OverflowError);
    Py_DECREF(count);
    return requests;
}

/* It could not be armed, for an exception that is set: as before it was entered. */
static void
unenter(TimeoutObject *self, struct deadline deadline)
{
    if (self->state != ENTERED) {
        return; /* left by what the other loop's call ran */
    }
    self->state = CREATED;
    self->deadline = deadline;
    PyObject *exc = PyErr_GetRaisedException();
    Py_CLEAR(self->task);
    Py_CLEAR(self->loop);
    PyErr_SetRaisedException(exc);
}

PyDoc_STRVAR(Timeout_aenter_doc, "__aenter__($self, /)\n--\n\n"
                                 "Begin: arm the deadline for the task that is running.\n\n"
                                 "RuntimeError outside of a task, and the second time.");

static PyObject *
Timeout_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimeoutObject *self = (TimeoutObject *)op;
    struct pacpy_state *st = self->st;
    if (self->state != CREATED) {
        PyErr_SetString(PyExc_RuntimeError, "Timeout has already been entered");
        return NULL;
    }
    if (pacpy_need_asyncio(st) < 0) {
        return NULL;
    }
    PyObject *task = current_task(st);
    if (task == NULL) {
        return NULL;
    }
    Py_ssize_t requests = cancelling(st, task);
    if (requests == -1 && PyErr_Occurred()) {
        Py_DECREF(task);
        return NULL;
    }
    PyObject *entered = pacpy_immediate(st, Py_NewRef(op));
    if (entered == NULL) {
        Py_DECREF(task);
        return NULL;
    }
    struct deadline deadline = self->deadline;
    self->task = task;
    self->cancelling = requests;
    self->loop = (LoopObject *)Py_XNewRef((PyObject *)pacpy_running_loop);
    if (self->loop != NULL && self->deadline.kind == AFTER) {
        count_from_now(&self->deadline, self->loop);
    }
    self->state = ENTERED;
    if (arm(self) < 0) {
        unenter(self, deadline);
        Py_CLEAR(entered);
    }
    return entered;
}

/* In the chain of contexts of `exc`, put a TimeoutError before the first CancelledError: so it
 * looks where the timeout was noticed by somebody who raised something else. 0 or -1. */
static int
insert_timeout_error(struct pacpy_state *st, PyObject *exc)
{
    /* A chain that somebody has tied into a ring ends where the hare is caught. */
    PyObject *hare = exc;
    for (unsigned steps = 1, mark = 1;; steps++) {
        PyObject *context = PyException_GetContext(exc);
        Py_XDECREF(context); /* `exc` holds it */
        if (context == NULL || context == hare) {
            return 0;
        }
        if (PyErr_GivenExceptionMatches(context, st->asyncio_CancelledError)) {
            PyObject *timeout_error = PyObject_CallNoArgs(PyExc_TimeoutError);
            if (timeout_error == NULL) {
                return -1;
            }
            PyException_SetContext(timeout_error, Py_NewRef(context));
            PyException_SetCause(timeout_error, Py_NewRef(context));
            PyException_SetContext(exc, timeout_error);
            return 0;
        }
        exc = context;
        if (steps == mark) {
            hare = exc;
            mark *= 2;
        }
    }
}

/* Is `exc` an ExceptionGroup? 1, 0, -1. */
static int
is_exception_group(PyObject *exc)
{
    PyObject *builtins = PyImport_ImportModule("builtins");
    PyObject *type = builtins == NULL ? NULL : PyObject_GetAttrString(builtins, "ExceptionGroup");
    int answer = type == NULL ? -1 : PyObject_IsInstance(exc, type);
    Py_XDECREF(builtins);
    Py_XDECREF(type);
    return answer;
}

static int
insert_timeout_errors(struct pacpy_state *st, PyObject *exc)
{
    if (!PyExceptionInstance_Check(exc)) {
        return 0;
    }
    if (insert_timeout_error(st, exc) < 0) {
        return -1;
    }
    int is_group = is_exception_group(exc);
    if (is_group <= 0) {
        return is_group;
    }
    PyObject *exceptions = PyObject_GetAttrString(exc, "exceptions");
    int status = exceptions == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyTuple_GET_SIZE(exceptions); i++) {
        status = insert_timeout_error(st, PyTuple_GET_ITEM(exceptions, i));
    }
    Py_XDECREF(exceptions);
    return status;
}

/* raise TimeoutError from `exc` */
static void
raise_timeout_error(PyObject *exc)
{
    PyObject *timeout_error = PyObject_CallNoArgs(PyExc_TimeoutError);
    if (timeout_error == NULL) {
        return;
    }
    if (PyExceptionInstance_Check(exc)) {
        PyException_SetCause(timeout_error, Py_NewRef(exc));
        PyException_SetContext(timeout_error, Py_NewRef(exc));
    }
    PyErr_SetObject(PyExc_TimeoutError, timeout_error);
    Py_DECREF(timeout_error);
}

/* The block has ended with `type` (or None) after the deadline had come. 0, or -1 and what it is
 * to end with instead. */
static int
leave_expired(TimeoutObject *self, PyObject *task, PyObject *type, PyObject *exc)
{
    struct pacpy_state *st = self->st;
    PyObject *left = PyObject_CallMethodNoArgs(task, st->str_uncancel);
    if (left == NULL) {
        return -1;
    }
    Py_ssize_t requests = PyNumber_AsSsize_t(left, NULL);
    Py_DECREF(left);
    if (requests == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (requests > self->cancelling || type == Py_None) {
        /* Somebody else has cancelled the task too: that goes on. */
        return 0;
    }
    if (PyErr_GivenExceptionMatches(type, st->asyncio_CancelledError)) {
        raise_timeout_error(exc);
        return -1;
    }
    return insert_timeout_errors(st, exc);
}

PyDoc_STRVAR(Timeout_aexit_doc,
             "__aexit__($self, exc_type, exc_val, exc_tb, /)\n--\n\n"
             "End: disarm the deadline; if it had come, and nobody else has cancelled the task,\n"
             "the CancelledError becomes a TimeoutError.");

static PyObject *
Timeout_aexit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    TimeoutObject *self = (TimeoutObject *)op;
    if (nargs != 3) {
        return PyErr_Format(PyExc_TypeError, "__aexit__() takes exactly 3 arguments (%zd given)",
                            nargs);
    }
    if (self->state != ENTERED && self->state != EXPIRING) {
        PyErr_SetString(PyExc_RuntimeError, self->state == CREATED
                                                ? "Timeout has not been entered"
                                                : "Timeout has already been left");
        return NULL;
    }
    bool expired = self->state == EXPIRING;
    self->state = expired ? EXPIRED : EXITED;
    int status = disarm(self);
    PyObject *task = self->task;
    self->task = NULL;
    Py_CLEAR(self->loop);
    if (PAC_UNLIKELY(expired) && status == 0) {
        status = leave_expired(self, task, args[0], args[1]);
    }
    Py_DECREF(task);
    return status < 0 ? NULL : pacpy_nothing_to_await(self->st);
}

/* ---- methods -------------------------------------------------------------------------------- */

/* `when`, seconds or None, as a deadline. 0 or -1. */
static int
deadline_at(struct deadline *d, PyObject *when, const char *what)
{
    *d = (struct deadline){.kind = NO_LIMIT};
    if (when == Py_None) {
        return 0;
    }
    if (pacpy_double_from_seconds(when, what, &d->seconds) < 0) {
        return -1;
    }
    d->ns = pacpy_ns_of_time(pac_executor_current(), d->seconds);
    d->kind = AT;
    return 0;
}

/* The one argument of function(argument), by position or by `name`: borrowed. NULL and
 * TypeError. */
static PyObject *
only_argument(const char *function, const char *name, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (PAC_UNLIKELY(nargs + keywords != 1)) {
        return PyErr_Format(PyExc_TypeError, "%s() takes exactly 1 argument (%zd given)", function,
                            nargs + keywords);
    }
    if (PAC_UNLIKELY(keywords == 1) &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name) != 0) {
        return PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", function,
                            PyTuple_GET_ITEM(kwnames, 0));
    }
    return args[0];
}

PyDoc_STRVAR(Timeout_when_doc,
             "when($self, /)\n--\n\n"
             "The deadline in seconds of the loop's time, or None if there is no limit.\n\n"
             "RuntimeError for timeout() outside of a loop until it is entered, from which it\n"
             "then counts.");

static PyObject *
Timeout_when(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimeoutObject *self = (TimeoutObject *)op;
    switch (self->deadline.kind) {
        case NO_LIMIT:
            Py_RETURN_NONE;
        case AT:
            return PyFloat_FromDouble(self->deadline.seconds);
        case AFTER:
            break;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "this Timeout has no deadline yet: it was made outside of a "
                    "loop and counts from entering");
    return NULL;
}

PyDoc_STRVAR(Timeout_reschedule_doc,
             "reschedule($self, /, when)\n--\n\n"
             "Move the deadline to another time of the loop, in seconds; None: no limit.\n\n"
             "A time that has passed: the task is cancelled with the next turn. RuntimeError\n"
             "before it was entered, and once the deadline has come. On the loop's thread.");

static PyObject *
Timeout_reschedule(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    TimeoutObject *self = (TimeoutObject *)op;
    PyObject *when = only_argument("reschedule", "when", args, nargs, kwnames);
    if (when == NULL) {
        return NULL;
    }
    /* The number may be anything's, and asking it run anything: so that comes first. */
    struct deadline deadline;
    if (deadline_at(&deadline, when, "reschedule: when") < 0) {
        return NULL;
    }
    if (self->state == CREATED) {
        PyErr_SetString(PyExc_RuntimeError, "Timeout has not been entered");
        return NULL;
    }
    if (self->state != ENTERED) {
        return PyErr_Format(PyExc_RuntimeError, "Cannot change state of %s Timeout",
                            state_names[self->state]);
    }
    if (self->loop != pacpy_running_loop) {
        PyErr_SetString(PyExc_RuntimeError, "Timeout belongs to another event loop");
        return NULL;
    }
    self->deadline = deadline;
    if (disarm(self) < 0 || arm(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Timeout_expired_doc, "expired($self, /)\n--\n\n"
                                  "True once the deadline has come while the block was running.");

static PyObject *
Timeout_expired(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimeoutObject *self = (TimeoutObject *)op;
    return PyBool_FromLong(self->state == EXPIRING || self->state == EXPIRED);
}

/* "when=1.5", with at most three decimals. New reference. */
static PyObject *
format_when(TimeoutObject *self)
{
    if (self->deadline.kind == NO_LIMIT) {
        return PyUnicode_FromString("when=None");
    }
    PyObject *when = PyFloat_FromDouble(self->deadline.seconds);
    PyObject *rounded = when == NULL ? NULL : PyObject_CallMethod(when, "__round__", "i", 3);
    PyObject *text = rounded == NULL ? NULL : PyUnicode_FromFormat("when=%R", rounded);
    Py_XDECREF(when);
    Py_XDECREF(rounded);
    return text;
}

static PyObject *
Timeout_repr(PyObject *op)
{
    TimeoutObject *self = (TimeoutObject *)op;
    if (self->state != ENTERED) {
        return PyUnicode_FromFormat("<Timeout [%s]>", state_names[self->state]);
    }
    PyObject *when = format_when(self);
    if (when == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("<Timeout [%s] %U>", state_names[self->state], when);
    Py_DECREF(when);
    return text;
}

static PyMethodDef Timeout_methods[] = {
    {"__aenter__", Timeout_aenter, METH_NOARGS, Timeout_aenter_doc},
    {"__aexit__", (PyCFunction)(void (*)(void))Timeout_aexit, METH_FASTCALL, Timeout_aexit_doc},
    {"when", Timeout_when, METH_NOARGS, Timeout_when_doc},
    {"reschedule", (PyCFunction)(void (*)(void))Timeout_reschedule, METH_FASTCALL | METH_KEYWORDS,
     Timeout_reschedule_doc},
    {"expired", Timeout_expired, METH_NOARGS, Timeout_expired_doc},
    {NULL},
};

/* ---- the type ------------------------------------------------------------------------------- */

static PyObject *
timeout_new(struct pacpy_state *st, struct deadline deadline)
{
    TimeoutObject *self = PyObject_GC_New(TimeoutObject, st->Timeout_type);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->deadline = deadline;
    self->task = NULL;
    self->loop = NULL;
    self->handle = NULL;
    pac_timer_init(&self->timer, timeout_fire);
    self->cancelling = 0;
    self->state = CREATED;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
timeout_new_at(struct pacpy_state *st, PyObject *when, const char *what)
{
    struct deadline deadline;
    return deadline_at(&deadline, when, what) < 0 ? NULL : timeout_new(st, deadline);
}

static PyObject *
Timeout_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"when", NULL};
    PyObject *when;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Timeout", keywords, &when)) {
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    return st == NULL ? NULL : timeout_new_at(st, when, "Timeout: when");
}

static int
Timeout_traverse(PyObject *op, visitproc visit, void *arg)
{
    TimeoutObject *self = (TimeoutObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->task);
    Py_VISIT(self->loop);
    Py_VISIT(self->handle);
    return 0;
}

static int
Timeout_clear(PyObject *op)
{
    TimeoutObject *self = (TimeoutObject *)op;
    bool armed = pac_timer_is_armed(&self->timer);
    if (armed) {
        pac_wheel_remove(&self->loop->executor->wheel, &self->timer);
    }
    if (self->state == ENTERED || self->state == EXPIRING) {
        self->state = EXITED; /* which needs no task */
    }
    Py_CLEAR(self->task);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->handle);
    if (armed) {
        Py_DECREF(op); /* never the last one: the collector has one */
    }
    return 0;
}

static void
Timeout_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    /* Not armed: else the timer would hold it. */
    Timeout_clear(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

PyDoc_STRVAR(Timeout_doc,
             "Timeout(when)\n--\n\n"
             "A block that is cancelled when its time is up: what timeout() and timeout_at()\n"
             "return.\n\n"
             "    async with timeout(10):\n"
             "        ...\n\n"
             "When the deadline comes the task is cancelled where it waits, and the block raises\n"
             "TimeoutError, unless somebody else has cancelled the task as well. Entered once,\n"
             "by the task that it is to guard; belongs to that task's loop, ours or any other.\n"
             "Does what asyncio.Timeout does.");

static PyType_Slot Timeout_slots[] = {
    {Py_tp_doc, (void *)Timeout_doc},   {Py_tp_new, Timeout_new},
    {Py_tp_traverse, Timeout_traverse}, {Py_tp_clear, Timeout_clear},
    {Py_tp_dealloc, Timeout_dealloc},   {Py_tp_repr, Timeout_repr},
    {Py_tp_methods, Timeout_methods},   {0, NULL},
};

static PyType_Spec Timeout_spec = {
    .name = "pyasync_c.Timeout",
    .basicsize = sizeof(TimeoutObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Timeout_slots,
};

/* ---- functions ------------------------------------------------------------------------------ */

/* Count the deadline from the time of the loop that runs on this thread, if there is one. 0 or
 * -1. */
static int
count_from_call(struct pacpy_state *st, struct deadline *d)
{
    if (PAC_LIKELY(pacpy_running_loop != NULL)) {
        count_from_now(d, pacpy_running_loop);
        return 0;
    }
    PyObject *loop = pacpy_running_asyncio_loop(st);
    if (loop == NULL) {
        return -1;
    }
    int status = 0;
    if (loop != Py_None) {
        double now = time_of(st, loop);
        status = now == -1.0 && PyErr_Occurred() ? -1 : 0;
        d->seconds += now;
        d->kind = AT;
    }
    Py_DECREF(loop);
    return status;
}

PyDoc_STRVAR(timeout_doc,
             "timeout($module, /, delay)\n--\n\n"
             "A Timeout for the block that follows: `async with timeout(10): ...`\n\n"
             "delay is in seconds and counts from this call (outside of a loop, from entering);\n"
             "None: no limit; zero and less: cancelled where it first waits, if it does.\n"
             "TypeError if it is no real number, ValueError if it is NaN. As asyncio.timeout.");

static PyObject *
timeout_timeout(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *delay = only_argument("timeout", "delay", args, nargs, kwnames);
    if (delay == NULL) {
        return NULL;
    }
    struct deadline deadline;
    if (deadline_at(&deadline, delay, "timeout: delay") < 0) {
        return NULL;
    }
    if (deadline.kind != NO_LIMIT) {
        deadline.kind = AFTER;
        if (count_from_call(st, &deadline) < 0) {
            return NULL;
        }
    }
    return timeout_new(st, deadline);
}

PyDoc_STRVAR(timeout_at_doc,
             "timeout_at($module, /, when)\n--\n\n"
             "A Timeout that ends at a time of the running loop, in seconds as loop.time() and\n"
             "now() have it; None: no limit.\n\n"
             "TypeError if it is no real number, ValueError if it is NaN. As asyncio.timeout_at.");

static PyObject *
timeout_timeout_at(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *when = only_argument("timeout_at", "when", args, nargs, kwnames);
    return when == NULL ? NULL : timeout_new_at(pacpy_state_of(module), when, "timeout_at: when");
}

static PyMethodDef timeout_functions[] = {
    {"timeout", (PyCFunction)(void (*)(void))timeout_timeout, METH_FASTCALL | METH_KEYWORDS,
     timeout_doc},
    {"timeout_at", (PyCFunction)(void (*)(void))timeout_timeout_at, METH_FASTCALL | METH_KEYWORDS,
     timeout_at_doc},
    {NULL},
};

int
pacpy_timeout_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Timeout_spec, NULL, &st->Timeout_type, "Timeout") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, timeout_functions);
}
