/* await_result.c - how an awaitable gives its result to the interpreter's `await`.
 *
 * A tp_iternext that is at its end returns NULL, with the result in a StopIteration, which the
 * interpreter takes apart and drops at once. To make one costs more than all the rest of an await that
 * is ready. So ours are of a type of their own, a StopIteration in all else, and stay warm when they
 * are dropped (state.h). They stay empty: whoever awaits a Permit or one end of a channel counts on
 * it to go as soon as he drops it. One of Python's own is kept for when there is no memory, as the
 * future has given its result up by then. */
#include "frame.h"

typedef struct {
    PyStopIterationObject stop;
    struct pacpy_state *st;
} StopIterationObject;

static inline PyTypeObject *
base_type(void)
{
    return (PyTypeObject *)PyExc_StopIteration;
}

static int
StopIteration_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return base_type()->tp_traverse(op, visit, arg);
}

static int
StopIteration_clear(PyObject *op)
{
    return base_type()->tp_clear(op);
}

/* There for the collector, which marks what it is about to clear if its type has one. */
static void
StopIteration_finalize(PyObject *op)
{
}

/* Nobody has added to it, and it has come through no frame of Python's. */
static inline bool
is_plain(const PyStopIterationObject *stop)
{
    return stop->args != NULL && PyTuple_GET_SIZE(stop->args) == 0 && stop->dict == NULL &&
           stop->notes == NULL && stop->traceback == NULL && stop->context == NULL &&
           stop->cause == NULL;
}

static void
StopIteration_dealloc(PyObject *op)
{
    StopIterationObject *self = (StopIterationObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject *value = self->stop.value;
    if (PAC_LIKELY(is_plain(&self->stop))) {
        self->stop.value = NULL;
        if (PAC_LIKELY(pacpy_freelist_keep_warm(&self->st->stop_iteration_free, op))) {
            Py_XDECREF(value); /* last: this may run anything, and `op` may be in use again */
            return;
        }
        self->stop.value = value;
    }
    base_type()->tp_dealloc(op);
    Py_DECREF(type);
}

static PyType_Slot StopIteration_slots[] = {
    {Py_tp_doc, "The end of an await, with its result."},
    {Py_tp_traverse, StopIteration_traverse},
    {Py_tp_clear, StopIteration_clear},
    {Py_tp_finalize, StopIteration_finalize},
    {Py_tp_dealloc, StopIteration_dealloc},
    {0, NULL},
};

static PyType_Spec StopIteration_spec = {
    .name = "pyasync_c._core.StopIteration",
    .basicsize = sizeof(StopIterationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = StopIteration_slots,
};

/* A new one, empty. */
static PyObject *
stop_iteration_new(struct pacpy_state *st)
{
    PyObject *args = PyTuple_New(0);
    StopIterationObject *self =
        args == NULL
            ? NULL
            : (StopIterationObject *)st->StopIteration_type->tp_alloc(st->StopIteration_type, 0);
    if (self == NULL) {
        Py_XDECREF(args);
        return NULL;
    }
    self->stop.args = args;
    self->st = st;
    return (PyObject *)self;
}

/* One to put a value into: a new reference; NULL and MemoryError. */
static PyObject *
stop_iteration(struct pacpy_state *st)
{
    PyObject *stop = pacpy_freelist_take_warm(&st->stop_iteration_free);
    if (PAC_LIKELY(stop != NULL)) {
        return stop;
    }
    stop = stop_iteration_new(st);
    PyStopIterationObject *reserve = (PyStopIterationObject *)st->stop_reserve;
    if (Py_REFCNT(reserve) > 1 || !is_plain(reserve)) {
        return stop; /* somebody has caught it */
    }
    if (stop == NULL) {
        PyErr_Clear();
        return Py_NewRef((PyObject *)reserve);
    }
    Py_XSETREF(reserve->value, Py_NewRef(Py_None)); /* of the last time that it was needed */
    return stop;
}

PyObject *
pacpy_return_from_await(struct pacpy_state *st, PyObject *value)
{
    if (value == Py_None) {
        Py_DECREF(value);
        return NULL;
    }
    /* For another loop's await, or an iteration by hand, one of Python's: who catches it may look at
     * all of it. */
    PyObject *stop = PAC_LIKELY(pacpy_frame_top != NULL)
                         ? stop_iteration(st)
                         : PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    /* Not by PyErr_SetObject: it would take a tuple for arguments, and an exception for itself. */
    Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
    PyErr_SetRaisedException(stop);
    return NULL;
}

int
pacpy_await_result_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    st->stop_reserve = PyObject_CallNoArgs(PyExc_StopIteration);
    if (st->stop_reserve == NULL) {
        return -1;
    }
    return pacpy_make_type(module, &StopIteration_spec, base_type(), &st->StopIteration_type, NULL);
}
