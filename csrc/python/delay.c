/* delay.c - sleep(), sleep_until(), now(), and the Delay that the first two return.
 *
 * A Delay is the core's pac_delay with a result. What is added here is when it begins to count:
 *
 *   made while a loop runs on this thread   at once: the deadline is fixed by the call
 *   made outside                            with its first poll; until then: after_ns
 *
 * It gives its timer back as soon as it has been ready, and `elapsed` remembers that; so a
 * finished Delay holds nothing of any loop, and reset() begins anew wherever it is awaited next.
 *
 * "At once" (zero, less than zero) is the time up to which the executor's wheel has come: the
 * wheel hands that out in its next turn, without waiting for the end of the present tick, and it
 * costs no look at the clock. */
#include "delay.h"

#include "args.h"
#include "bridge.h"
#include "future.h"

#include "../core/delay.h"

#include <math.h>

typedef struct {
    FutureObject future;
    struct pac_delay delay;
    PyObject *result;
    uint64_t after_ns; /* not fixed: how long after the first poll */
    bool fixed;        /* delay.deadline_ns counts */
    bool elapsed;      /* was ready for the present deadline */
} DelayObject;

/* ---- what time it is ------------------------------------------------------------------------ */

PyObject *
pacpy_running_asyncio_loop(struct pacpy_state *st)
{
    if (st->asyncio_get_running_loop == NULL) {
        if (PyDict_GetItemString(PyImport_GetModuleDict(), "asyncio") == NULL) {
            Py_RETURN_NONE;
        }
        if (pacpy_need_asyncio(st) < 0) {
            return NULL;
        }
    }
    return PyObject_CallNoArgs(st->asyncio_get_running_loop);
}

static inline uint64_t
due_at_once(struct pac_executor *ex)
{
    return pac_wheel_elapsed_ns(&ex->wheel);
}

static inline uint64_t
deadline_on(struct pac_executor *ex, uint64_t after_ns)
{
    if (after_ns == 0) {
        return due_at_once(ex);
    }
    return after_ns == PAC_NEVER ? PAC_NEVER : pac_ns_add(pac_executor_now_ns(ex), after_ns);
}

/* When something is due that is to happen `after_ns` from now: 1, or 0 if no loop runs here to
 * count from, or -1 and an exception. */
static inline int
deadline_from_now(struct pacpy_state *st, uint64_t after_ns, uint64_t *deadline_ns)
{
    struct pac_executor *ex = pac_executor_current();
    if (PAC_LIKELY(ex != NULL)) {
        *deadline_ns = deadline_on(ex, after_ns);
        return 1;
    }
    PyObject *loop = pacpy_running_asyncio_loop(st);
    if (loop == NULL) {
        return -1;
    }
    Py_DECREF(loop);
    if (loop == Py_None) {
        return 0;
    }
    *deadline_ns = pac_ns_add(pac_clock_ns(), after_ns);
    return 1;
}

PyDoc_STRVAR(now_doc,
             "now($module, /)\n--\n\n"
             "The time in seconds on the clock that deadlines are on.\n\n"
             "The running runtime's clock; under another loop that loop's time(); with no loop\n"
             "at all time.monotonic(). From any thread. Stands for Tokio's Instant::now.");

static PyObject *
delay_now(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pac_executor *ex = pac_executor_current();
    if (ex != NULL) {
        return PyFloat_FromDouble(pacpy_seconds_from_ns(pac_executor_now_ns(ex)));
    }
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *loop = pacpy_running_asyncio_loop(st);
    if (loop == NULL) {
        return NULL;
    }
    PyObject *time = loop == Py_None ? PyFloat_FromDouble(pacpy_seconds_from_ns(pac_clock_ns()))
                                     : PyObject_CallMethodNoArgs(loop, st->str_time);
    Py_DECREF(loop);
    return time;
}

/* ---- the future ----------------------------------------------------------------------------- */

static int
raise_status(enum pac_status status)
{
    switch (status) {
        case PAC_NO_EXECUTOR:
            PyErr_SetString(PyExc_RuntimeError, "no running event loop");
            break;
        case PAC_CLOSED:
            PyErr_SetString(PyExc_RuntimeError, "the event loop of this Delay is closed");
            break;
        default:
            PyErr_Format(PyExc_SystemError, "Delay: unexpected status %d", (int)status);
            break;
    }
    return -1;
}

/* With the executor entered that is to count, if there is one. */
static int
poll_entered(DelayObject *self, struct pac_context *cx, PyObject **value)
{
    struct pac_executor *ex = pac_executor_current();
    bool was_fixed = self->fixed;
    if (PAC_UNLIKELY(!was_fixed) && ex != NULL) {
        pac_delay_reset(&self->delay, deadline_on(ex, self->after_ns));
        self->fixed = true;
    }
    enum pac_poll poll = pac_delay_poll(&self->delay, cx);
    if (self->future.state == PACPY_DROPPED) {
        /* By something that the poll set off: see Delay_forget. */
        pac_delay_drop(&self->delay);
        return 0;
    }
    if (poll == PAC_PENDING) {
        return 0;
    }
    pac_delay_drop(&self->delay);
    if (PAC_UNLIKELY(self->delay.status == PAC_NO_MEMORY)) {
        self->fixed = was_fixed;
        PyErr_NoMemory();
        return PACPY_REFUSED;
    }
    if (self->delay.status != PAC_OK) {
        return raise_status(self->delay.status);
    }
    self->elapsed = true;
    *value = Py_NewRef(self->result);
    return 1;
}

static int
Delay_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    DelayObject *self = (DelayObject *)f;
    if (PAC_LIKELY(pac_executor_current() != NULL)) {
        return poll_entered(self, cx, value);
    }
    struct pac_scheduler *before;
    bool entered = pacpy_bridge_enter(f->st, &before);
    if (!entered && PyErr_Occurred()) {
        return -1;
    }
    int ready = poll_entered(self, cx, value);
    if (entered) {
        pac_executor_leave(before);
    }
    return ready;
}

static void
Delay_forget(FutureObject *f)
{
    /* A poll can drop somebody's last waker, and so run Python that drops this very Delay, whose
     * timer that poll is looking at: it sees the state when it comes back. */
    if (!f->polling) {
        pac_delay_drop(&((DelayObject *)f)->delay);
    }
}

static const struct pacpy_future_vtable delay_vtable = {
    .poll = Delay_poll,
    .forget = Delay_forget,
    .fused = false,
};

/* `fixed`: due at `ns`; else `ns` after the first poll. */
static inline PyObject *
delay_new(struct pacpy_state *st, bool fixed, uint64_t ns, PyObject *result)
{
    PyObject *op = pacpy_freelist_alloc(&st->delay_free, st->Delay_type);
    if (op == NULL) {
        return NULL;
    }
    DelayObject *self = (DelayObject *)op;
    pacpy_future_init(&self->future, st, &delay_vtable);
    pac_delay_init(&self->delay, ns);
    self->result = Py_NewRef(result);
    self->after_ns = ns;
    self->fixed = fixed;
    self->elapsed = false;
    if (result != Py_None) {
        /* Nothing else that it refers to can lead back to it. */
        PyObject_GC_Track(op);
    }
    return op;
}

static int
Delay_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((DelayObject *)op)->result);
    return 0;
}

static int
Delay_clear(PyObject *op)
{
    Py_XSETREF(((DelayObject *)op)->result, Py_NewRef(Py_None));
    return 0;
}

static void
Delay_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    DelayObject *self = (DelayObject *)op;
    struct pacpy_state *st = self->future.st;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    PACPY_RELEASE_SLOT(self->result);
    pacpy_freelist_free(&st->delay_free, st->Delay_type, op);
}

/* "1.5s", rounded to a microsecond. */
static PyObject *
format_seconds(double seconds)
{
    char *text = PyOS_double_to_string(round(seconds * 1e6) / 1e6, 'r', 0, 0, NULL);
    if (text == NULL) {
        return NULL;
    }
    PyObject *result = PyUnicode_FromFormat("%ss", text);
    PyMem_Free(text);
    return result;
}

static bool
delay_is_elapsed(DelayObject *self)
{
    return self->elapsed || pac_delay_is_elapsed(&self->delay);
}

static PyObject *
Delay_repr(PyObject *op)
{
    DelayObject *self = (DelayObject *)op;
    if (self->future.state == PACPY_DROPPED) {
        return PyUnicode_FromString("<Delay dropped>");
    }
    if (delay_is_elapsed(self)) {
        return PyUnicode_FromString("<Delay elapsed>");
    }
    if (self->future.state == PACPY_DONE) {
        return PyUnicode_FromString("<Delay failed>");
    }
    uint64_t left_ns = self->after_ns;
    if (self->fixed) {
        struct pac_executor *ex = pac_executor_current();
        uint64_t deadline_ns = self->delay.deadline_ns;
        uint64_t now_ns = ex != NULL ? pac_executor_now_ns(ex) : pac_delay_now_ns(&self->delay);
        left_ns = deadline_ns == PAC_NEVER ? PAC_NEVER
                  : deadline_ns > now_ns   ? deadline_ns - now_ns
                                           : 0;
    }
    PyObject *left = left_ns == PAC_NEVER ? PyUnicode_FromString("forever")
                                          : format_seconds(pacpy_seconds_from_ns(left_ns));
    if (left == NULL) {
        return NULL;
    }
    PyObject *text =
        PyUnicode_FromFormat("<Delay %U %s>", left, self->fixed ? "pending" : "not counting yet");
    Py_DECREF(left);
    return text;
}

PyDoc_STRVAR(Delay_is_elapsed_doc,
             "is_elapsed($self, /)\n--\n\n"
             "True once the timer has fired for the present deadline.\n\n"
             "A Delay arms its timer when it is first polled, so one that nobody has awaited\n"
             "is not elapsed, however much time goes by. On the thread of its loop. Stands for\n"
             "Tokio's Sleep::is_elapsed.");

static PyObject *
Delay_is_elapsed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(delay_is_elapsed((DelayObject *)op));
}

PyDoc_STRVAR(Delay_reset_doc,
             "reset($self, seconds, /)\n--\n\n"
             "Make it due the given number of seconds from now.\n\n"
             "Before or after it fired: one that was awaited already may be awaited again\n"
             "afterwards, and one that is being awaited goes on to wait, for the new time.\n"
             "Takes and refuses what sleep() does; outside of a loop it counts, like sleep(),\n"
             "from the first poll. On the thread of its loop. Stands for Tokio's Sleep::reset.");

static PyObject *
Delay_reset(PyObject *op, PyObject *seconds)
{
    DelayObject *self = (DelayObject *)op;
    uint64_t after_ns, deadline_ns = 0;
    if (pacpy_ns_from_seconds(seconds, "reset: seconds", &after_ns) < 0) {
        return NULL;
    }
    int fixed = deadline_from_now(self->future.st, after_ns, &deadline_ns);
    if (fixed < 0) {
        return NULL;
    }
    if (self->future.polling) {
        PyErr_SetString(PyExc_RuntimeError, "Delay is being polled");
        return NULL;
    }
    if (!fixed && self->delay.entry != NULL) {
        /* A loop on another thread, or one that does not run at the moment, is counting. */
        fixed = true;
        deadline_ns = pac_ns_add(pac_delay_now_ns(&self->delay), after_ns);
    }
    self->elapsed = false;
    self->fixed = fixed;
    self->after_ns = after_ns;
    pac_delay_reset(&self->delay, fixed ? deadline_ns : PAC_NEVER);
    if (self->future.state == PACPY_DONE) {
        self->future.state = PACPY_NEW;
    }
    Py_RETURN_NONE;
}

static PyObject *
Delay_get_deadline(PyObject *op, void *Py_UNUSED(closure))
{
    DelayObject *self = (DelayObject *)op;
    if (!self->fixed) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this Delay has no deadline yet: it was made outside of a loop and counts "
                        "from its first poll");
        return NULL;
    }
    return PyFloat_FromDouble(pacpy_seconds_from_ns(self->delay.deadline_ns));
}

static PyMethodDef Delay_methods[] = {
    {"is_elapsed", Delay_is_elapsed, METH_NOARGS, Delay_is_elapsed_doc},
    {"reset", Delay_reset, METH_O, Delay_reset_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Delay[T]: for annotations."},
    {NULL},
};

PyDoc_STRVAR(Delay_deadline_doc,
             "When it is due, in seconds on the clock of now(); math.inf: never.\n\n"
             "RuntimeError for one that was made outside of a loop, until its first poll.\n"
             "Stands for Tokio's Sleep::deadline.");

static PyGetSetDef Delay_getset[] = {
    {"deadline", Delay_get_deadline, NULL, Delay_deadline_doc},
    {NULL},
};

PyDoc_STRVAR(Delay_doc,
             "What sleep() and sleep_until() return: a future that is ready once its time has\n"
             "come, never early.\n\n"
             "It is a timer of the runtime's timing wheel, armed when it is first polled, and\n"
             "disarmed when whoever awaits it is cancelled. It belongs to the loop that polls\n"
             "it; polled by hand it may move to another one. Stands for Tokio's Sleep.");

static PyType_Slot Delay_slots[] = {
    {Py_tp_doc, (void *)Delay_doc},
    {Py_tp_traverse, Delay_traverse},
    {Py_tp_clear, Delay_clear},
    {Py_tp_dealloc, Delay_dealloc},
    {Py_tp_repr, Delay_repr},
    {Py_tp_methods, Delay_methods},
    {Py_tp_getset, Delay_getset},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Delay_spec = {
    .name = "pyasync_c.Delay",
    .basicsize = sizeof(DelayObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Delay_slots,
};

/* ---- functions ------------------------------------------------------------------------------ */

/* The arguments of sleep other than one alone: *result borrowed. 0 or -1. */
static int
sleep_arguments(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **result)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError, "sleep() takes 1 or 2 positional arguments (%zd given)",
                     nargs);
        return -1;
    }
    *result = nargs == 2 ? args[1] : Py_None;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "result") != 0) {
            PyErr_Format(PyExc_TypeError, "sleep() got an unexpected keyword argument %R", name);
            return -1;
        }
        if (nargs == 2) {
            PyErr_SetString(PyExc_TypeError, "sleep() got multiple values for argument 'result'");
            return -1;
        }
        *result = args[nargs + i];
    }
    return 0;
}

PyDoc_STRVAR(sleep_doc,
             "sleep($module, seconds, /, result=None)\n--\n\n"
             "A Delay that is ready, with result, after the given number of seconds.\n\n"
             "Counts from this call inside a loop, from the first poll if made outside of any.\n"
             "Zero and less: due at once, but only after one turn of the loop. math.inf: never.\n"
             "TypeError if seconds is no real number, ValueError if it is NaN, OverflowError\n"
             "for an int beyond any float. Stands for Tokio's sleep.");

static PyObject *
delay_sleep(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *result = Py_None;
    uint64_t ns;
    if (PAC_UNLIKELY(nargs != 1 || kwnames != NULL) &&
        sleep_arguments(args, nargs, kwnames, &result) < 0) {
        return NULL;
    }
    if (pacpy_ns_from_seconds(args[0], "sleep: seconds", &ns) < 0) {
        return NULL;
    }
    int fixed = deadline_from_now(st, ns, &ns);
    return fixed < 0 ? NULL : delay_new(st, fixed, ns, result);
}

PyDoc_STRVAR(sleep_until_doc,
             "sleep_until($module, when, /)\n--\n\n"
             "A Delay that is ready at a time on the clock of now(), in seconds.\n\n"
             "A time that has passed: due at once, after one turn of the loop. math.inf: never.\n"
             "Refuses what sleep() refuses. Stands for Tokio's sleep_until.");

static PyObject *
delay_sleep_until(PyObject *module, PyObject *when)
{
    double seconds;
    if (pacpy_double_from_seconds(when, "sleep_until: when", &seconds) < 0) {
        return NULL;
    }
    uint64_t ns = pacpy_ns_of_time(pac_executor_current(), seconds);
    return delay_new(pacpy_state_of(module), true, ns, Py_None);
}

static PyMethodDef delay_functions[] = {
    {"now", delay_now, METH_NOARGS, now_doc},
    {"sleep", (PyCFunction)(void (*)(void))delay_sleep, METH_FASTCALL | METH_KEYWORDS, sleep_doc},
    {"sleep_until", delay_sleep_until, METH_O, sleep_until_doc},
    {NULL},
};

int
pacpy_delay_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Delay_spec, st->Future_type, &st->Delay_type, "Delay") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, delay_functions);
}
