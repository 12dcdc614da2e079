/* channel.c - the exceptions of the channels, closed(), and waiting without a loop. */
#include "channel.h"

#include "args.h"

#include "../core/blocking.h"

void
pacpy_channel_destroy(void *value)
{
    pacpy_release(value);
}

void *
pacpy_channel_clone(void *value)
{
    return Py_NewRef((PyObject *)value);
}

int
pacpy_visit_value(void *value, void *visiting)
{
    struct pacpy_visiting *v = visiting;
    return v->visit((PyObject *)value, v->arg);
}

int
pacpy_size_from_object(PyObject *op, const char *what, size_t least, size_t *size)
{
    if (PyBool_Check(op) || !PyIndex_Check(op)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.200s", what, Py_TYPE(op)->tp_name);
        return -1;
    }
    PyObject *number = PyNumber_Index(op);
    if (number == NULL) {
        return -1;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow > 0 || (overflow == 0 && value > PY_SSIZE_T_MAX)) {
        PyErr_Format(PyExc_OverflowError, "%s is too large", what);
        return -1;
    }
    if (overflow < 0 || value < (long long)least) {
        PyErr_Format(PyExc_ValueError, "%s must be at least %zu", what, least);
        return -1;
    }
    *size = (size_t)value;
    return 0;
}

PyObject *
pacpy_pair(PyObject *sender, PyObject *receiver)
{
    PyObject *pair = sender == NULL || receiver == NULL ? NULL : PyTuple_Pack(2, sender, receiver);
    Py_XDECREF(sender);
    Py_XDECREF(receiver);
    return pair;
}

PyObject *
pacpy_channel_error(struct pacpy_state *st, enum pac_status status)
{
    if (status == PAC_NO_MEMORY) {
        return PyErr_NoMemory();
    }
    if (status == PAC_FULL) {
        PyErr_SetString((PyObject *)st->ChannelFull_type, "the channel is full");
    }
    else if (status == PAC_EMPTY) {
        PyErr_SetString((PyObject *)st->ChannelEmpty_type, "the channel is empty");
    }
    else {
        PyErr_SetString((PyObject *)st->ChannelClosed_type, "the channel is closed");
    }
    return NULL;
}

/* ---- closed() ------------------------------------------------------------------------------- */

static int
Closed_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    ClosedObject *self = (ClosedObject *)f;
    if (pac_flag_wait_poll(&self->wait, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            pac_flag_wait_drop(&self->wait); /* by something that the poll set off */
        }
        return 0;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

static void
Closed_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_flag_wait_drop(&((ClosedObject *)f)->wait);
    }
}

static const struct pacpy_future_vtable closed_vtable = {
    .poll = Closed_poll,
    .forget = Closed_forget,
};

ClosedObject *
pacpy_closed_new(struct pacpy_state *st, PyObject *channel)
{
    ClosedObject *self = (ClosedObject *)st->Closed_type->tp_alloc(st->Closed_type, 0);
    if (self != NULL) {
        pacpy_future_init(&self->future, st, &closed_vtable);
        self->channel = Py_NewRef(channel);
    }
    return self;
}

static int
Closed_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ClosedObject *)op)->channel);
    return 0;
}

static void
Closed_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    Py_DECREF(((ClosedObject *)op)->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Closed_slots[] = {
    {Py_tp_doc, "What closed() of a sender returns: ready once nobody receives any more."},
    {Py_tp_traverse, Closed_traverse},
    {Py_tp_dealloc, Closed_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Closed_spec = {
    .name = "pyasync_c.Closed",
    .basicsize = sizeof(ClosedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Closed_slots,
};

/* ---- blocking ------------------------------------------------------------------------------- */

/* True if an event loop runs on this thread; false may come with an exception. */
static bool
runs_a_loop(struct pacpy_state *st)
{
    PyObject *get = Py_XNewRef(st->asyncio_get_running_loop);
    if (get == NULL) {
        /* Nothing of ours has needed asyncio so far; the program may run it all the same. */
        PyObject *name = PyUnicode_FromString("asyncio.events");
        PyObject *events = name == NULL ? NULL : PyImport_GetModule(name);
        Py_XDECREF(name);
        if (events == NULL) {
            return false;
        }
        get = PyObject_GetAttrString(events, "_get_running_loop");
        Py_DECREF(events);
    }
    PyObject *loop = get == NULL ? NULL : PyObject_CallNoArgs(get);
    Py_XDECREF(get);
    Py_XDECREF(loop);
    return loop != NULL && loop != Py_None;
}

static int
parse_timeout(const char *name, PyObject *const *values, PyObject *kwnames, uint64_t *deadline_ns)
{
    *deadline_ns = PAC_NEVER;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, "timeout") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name,
                         keyword);
            return -1;
        }
        uint64_t ns;
        if (values[i] != Py_None) {
            if (pacpy_ns_from_seconds(values[i], "timeout", &ns) < 0) {
                return -1;
            }
            *deadline_ns = pac_ns_add(pac_clock_ns(), ns);
        }
    }
    return 0;
}

int
pacpy_blocking_args(struct pacpy_state *st, const char *name, PyObject *const *args,
                    Py_ssize_t nargs, Py_ssize_t wanted, PyObject *kwnames, uint64_t *deadline_ns)
{
    if (nargs != wanted) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments but %zd were given",
                     name, wanted, nargs);
        return -1;
    }
    if (parse_timeout(name, args + nargs, kwnames, deadline_ns) < 0) {
        return -1;
    }
    if (runs_a_loop(st)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s() would stop the event loop that runs on this thread: await instead",
                     name);
        return -1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

struct blocked {
    struct pac_future *future; /* on this thread's stack */
    PyThreadState *tstate;
};

static void
leave_python(void *arg)
{
    ((struct blocked *)arg)->tstate = PyEval_SaveThread();
}

static void
restore_thread(void *tstate)
{
    PyEval_RestoreThread(tstate);
}

static void
drop_future(void *future)
{
    pac_future_drop(future);
}

static bool
enter_python(void *arg, bool interrupted)
{
    struct blocked *b = arg;
    /* Before 3.14 a daemon thread that comes back to an interpreter which ends is ended in here, by
     * pthread_exit, and its stack is gone: what waited on it must stand in no list then. */
    pac_call_or_undo(restore_thread, b->tstate, drop_future, b->future);
    return !interrupted || PyErr_CheckSignals() == 0;
}

int
pacpy_blocking_wait(struct pac_future *f, uint64_t deadline_ns)
{
    struct blocked blocked = {f, NULL};
    struct pac_blocking_hooks hooks = {leave_python, enter_python, &blocked};
    switch (pac_blocking_wait(f, deadline_ns, &hooks)) {
        case PAC_OK:
            return 0;
        case PAC_NO_MEMORY:
            PyErr_NoMemory();
            return -1;
        case PAC_TIMED_OUT:
            PyErr_SetString(PyExc_TimeoutError, "timed out");
            return -1;
        default:
            return -1; /* PAC_INTERRUPTED: the handler's exception */
    }
}

/* ---- exceptions ----------------------------------------------------------------------------- */

typedef struct {
    PyBaseExceptionObject base;
    PyObject *skipped;
} LaggedObject;

static int
Lagged_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    PyObject *skipped;
    static char *keywords[] = {"skipped", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Lagged", keywords, &skipped)) {
        return -1;
    }
    if (((PyTypeObject *)PyExc_Exception)->tp_init(op, args, NULL) < 0) {
        return -1;
    }
    Py_XSETREF(((LaggedObject *)op)->skipped, Py_NewRef(skipped));
    return 0;
}

static PyObject *
Lagged_str(PyObject *op)
{
    PyObject *skipped = ((LaggedObject *)op)->skipped;
    int overflow;
    bool is_one = skipped != NULL && PyLong_CheckExact(skipped) &&
                  PyLong_AsLongAndOverflow(skipped, &overflow) == 1;
    return PyUnicode_FromFormat("the receiver was too slow, %S %s skipped",
                                skipped == NULL ? Py_None : skipped,
                                is_one ? "value was" : "values were");
}

static int
Lagged_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((LaggedObject *)op)->skipped);
    return ((PyTypeObject *)PyExc_Exception)->tp_traverse(op, visit, arg);
}

static int
Lagged_clear(PyObject *op)
{
    Py_CLEAR(((LaggedObject *)op)->skipped);
    return ((PyTypeObject *)PyExc_Exception)->tp_clear(op);
}

static void
Lagged_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    /* Exceptions stand in long chains, by __context__; the base does not see to that for us. */
    Py_TRASHCAN_BEGIN(op, Lagged_dealloc) Py_CLEAR(((LaggedObject *)op)->skipped);
    PyObject_GC_Track(op); /* as the base's destructor expects it */
    ((PyTypeObject *)PyExc_Exception)->tp_dealloc(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMemberDef Lagged_members[] = {
    {"skipped", T_OBJECT, offsetof(LaggedObject, skipped), READONLY,
     "How many values this receiver has missed."},
    {NULL},
};

PyDoc_STRVAR(Lagged_doc,
             "Lagged(skipped)\n--\n\n"
             "A broadcast receiver was too slow: the oldest `skipped` values that it had not\n"
             "received have made room for newer ones. Raised once; the next receive goes on with\n"
             "the oldest value that is still there. Stands for Tokio's RecvError::Lagged.");

static PyType_Slot Lagged_slots[] = {
    {Py_tp_doc, (void *)Lagged_doc}, {Py_tp_init, Lagged_init},
    {Py_tp_str, Lagged_str},         {Py_tp_traverse, Lagged_traverse},
    {Py_tp_clear, Lagged_clear},     {Py_tp_dealloc, Lagged_dealloc},
    {Py_tp_members, Lagged_members}, {0, NULL},
};

static PyType_Spec Lagged_spec = {
    .name = "pyasync_c.Lagged",
    .basicsize = sizeof(LaggedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Lagged_slots,
};

static int
make_exception(PyObject *module, const char *name, const char *doc, PyTypeObject **slot)
{
    PyObject *type = PyErr_NewExceptionWithDoc(name, doc, NULL, NULL);
    *slot = (PyTypeObject *)type;
    return type == NULL ? -1 : PyModule_AddObjectRef(module, strrchr(name, '.') + 1, type);
}

int
pacpy_channel_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (make_exception(
            module, "pyasync_c.ChannelClosed",
            "The other side of the channel has gone, or has closed it, and nothing is left\n"
            "to receive. Stands for Tokio's SendError, and for RecvError::Closed and the like.",
            &st->ChannelClosed_type) < 0 ||
        make_exception(module, "pyasync_c.ChannelFull",
                       "try_send() found no room in the channel: nothing was sent. Stands for\n"
                       "Tokio's TrySendError::Full.",
                       &st->ChannelFull_type) < 0 ||
        make_exception(module, "pyasync_c.ChannelEmpty",
                       "try_recv() found nothing in the channel: something may come later. Stands\n"
                       "for Tokio's TryRecvError::Empty.",
                       &st->ChannelEmpty_type) < 0) {
        return -1;
    }
    if (pacpy_make_type(module, &Lagged_spec, (PyTypeObject *)PyExc_Exception, &st->Lagged_type,
                        "Lagged") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &Closed_spec, st->Future_type, &st->Closed_type, NULL);
}
