/* semaphore.c - Semaphore as a Python object. */
#include "acquire.h"
#include "args.h"

static inline GateObject *
gate_of(PyObject *op)
{
    return (GateObject *)op;
}

static PyObject *
Semaphore_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *given;
    uint64_t permits;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Semaphore() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "Semaphore", 1, 1, &given) ||
        pacpy_count_from_object(given, "permits", 0, PAC_SEMAPHORE_MAX, &permits) < 0) {
        return NULL;
    }
    PyObject *op = pacpy_gate_new(type, 0);
    if (op != NULL) {
        pac_semaphore_init(&gate_of(op)->semaphore, permits, PAC_SEMAPHORE_MAX);
    }
    return op;
}

static PyObject *
Semaphore_repr(PyObject *op)
{
    struct pac_semaphore *s = &gate_of(op)->semaphore;
    return PyUnicode_FromFormat(
        "<Semaphore permits=%llu waiters=%zu%s>", (unsigned long long)pac_semaphore_available(s),
        pac_semaphore_waiters(s), pac_semaphore_is_closed(s) ? " closed" : "");
}

/* The n of acquire(n=1, /). 0 or -1. */
static int
parse_wanted(const char *name, PyObject *const *args, Py_ssize_t nargs, uint64_t *n)
{
    *n = 1;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", name, nargs);
        return -1;
    }
    return nargs == 0 ? 0 : pacpy_count_from_object(args[0], "n", 1, PAC_SEMAPHORE_MAX, n);
}

PyDoc_STRVAR(Semaphore_acquire_doc,
             "acquire($self, n=1, /)\n--\n\n"
             "A future that is ready, with a Permit, once it has n permits.\n\n"
             "It stands in the line from its first poll on, and those behind it wait until it has\n"
             "all that it wants: also if n is more than there are now, which others may add.\n"
             "SemaphoreClosed at the await if the semaphore is closed, or is closed meanwhile.\n"
             "TypeError if n is no int, ValueError if it is less than 1, OverflowError if no\n"
             "semaphore can have so many. From any thread. Stands for Tokio's\n"
             "Semaphore::acquire_many.");

static PyObject *
Semaphore_acquire(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t n;
    return parse_wanted("acquire", args, nargs, &n) < 0 ? NULL
                                                        : pacpy_acquire_permit(gate_of(op), n);
}

PyDoc_STRVAR(Semaphore_try_acquire_doc,
             "try_acquire($self, n=1, /)\n--\n\n"
             "A Permit for n permits, now; None if there are too few, or others wait.\n\n"
             "SemaphoreClosed if it is closed; otherwise as acquire(). From any thread, on a loop\n"
             "or not.");

static PyObject *
Semaphore_try_acquire(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t n;
    return parse_wanted("try_acquire", args, nargs, &n) < 0 ? NULL
                                                            : pacpy_gate_try_permit(gate_of(op), n);
}

PyDoc_STRVAR(
    Semaphore_add_permits_doc,
    "add_permits($self, n, /)\n--\n\n"
    "Add n permits, which go to those that wait first.\n\n"
    "ValueError if n is negative; OverflowError if more than 2**61 - 1 would be available.\n"
    "From any thread. Stands for Tokio's Semaphore::add_permits.");

static int
add_permits(PyObject *op, uint64_t n)
{
    if (pacpy_gate_release(gate_of(op), n) < 0) {
        PyErr_SetString(PyExc_OverflowError, "the semaphore has all permits that it can have");
        return -1;
    }
    return 0;
}

static PyObject *
Semaphore_add_permits(PyObject *op, PyObject *count)
{
    uint64_t n;
    if (pacpy_count_from_object(count, "n", 0, PAC_SEMAPHORE_MAX, &n) < 0 ||
        add_permits(op, n) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Semaphore_forget_permits_doc,
             "forget_permits($self, n, /)\n--\n\n"
             "Take away up to n of the permits that are available, for good; returns how many.\n\n"
             "From any thread. Stands for Tokio's Semaphore::forget_permits.");

static PyObject *
Semaphore_forget_permits(PyObject *op, PyObject *count)
{
    uint64_t n;
    if (pacpy_count_from_object(count, "n", 0, PAC_SEMAPHORE_MAX, &n) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(pac_semaphore_forget(&gate_of(op)->semaphore, n));
}

PyDoc_STRVAR(Semaphore_close_doc,
             "close($self, /)\n--\n\n"
             "Give out no permits any more: who waits or comes gets SemaphoreClosed.\n\n"
             "Permits that are out may still be released. Closing twice is a no-op. From any\n"
             "thread. Stands for Tokio's Semaphore::close.");

static PyObject *
Semaphore_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_semaphore_close(&gate_of(op)->semaphore);
    Py_RETURN_NONE;
}

static PyObject *
Semaphore_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_semaphore_is_closed(&gate_of(op)->semaphore));
}

static PyObject *
Semaphore_available_permits(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(pac_semaphore_available(&gate_of(op)->semaphore));
}

static PyObject *
Semaphore_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_acquire_none(gate_of(op), 1);
}

static PyObject *
Semaphore_aexit(PyObject *op, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    return add_permits(op, 1) < 0 ? NULL : pacpy_nothing_to_await(gate_of(op)->st);
}

static PyMethodDef Semaphore_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))Semaphore_acquire, METH_FASTCALL,
     Semaphore_acquire_doc},
    {"try_acquire", (PyCFunction)(void (*)(void))Semaphore_try_acquire, METH_FASTCALL,
     Semaphore_try_acquire_doc},
    {"add_permits", Semaphore_add_permits, METH_O, Semaphore_add_permits_doc},
    {"forget_permits", Semaphore_forget_permits, METH_O, Semaphore_forget_permits_doc},
    {"close", Semaphore_close, METH_NOARGS, Semaphore_close_doc},
    {"is_closed", Semaphore_is_closed, METH_NOARGS,
     "is_closed($self, /)\n--\n\nTrue once close() was called. From any thread."},
    {"__aenter__", Semaphore_aenter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))Semaphore_aexit, METH_FASTCALL, NULL},
    {NULL},
};

static PyGetSetDef Semaphore_getset[] = {
    {"available_permits", Semaphore_available_permits, NULL,
     "Permits that nobody has, nor was handed while waiting.", NULL},
    {NULL},
};

PyDoc_STRVAR(
    Semaphore_doc,
    "Semaphore(permits, /)\n--\n\n"
    "A number of permits that tasks take and give back.\n\n"
    "    async with semaphore:            # one of them\n"
    "        ...\n"
    "    async with semaphore.acquire(3): # three\n"
    "        ...\n\n"
    "Fair: first come, first served, and who wants few does not overtake who wants many.\n"
    "Whoever is cancelled while waiting takes nothing. 0 permits are allowed: nobody gets\n"
    "one before add_permits(). TypeError if permits is no int, ValueError if it is\n"
    "negative, OverflowError beyond 2**61 - 1. Belongs to no loop: may be used from any\n"
    "loop on any thread at once. Stands for Tokio's Semaphore and asyncio.Semaphore.");

static PyType_Slot Semaphore_slots[] = {
    {Py_tp_doc, (void *)Semaphore_doc}, {Py_tp_new, Semaphore_new},
    {Py_tp_dealloc, Gate_dealloc},      {Py_tp_repr, Semaphore_repr},
    {Py_tp_methods, Semaphore_methods}, {Py_tp_getset, Semaphore_getset},
    {Py_tp_members, Gate_members},      {0, NULL},
};

static PyType_Spec Semaphore_spec = {
    .name = "pyasync_c.Semaphore",
    .basicsize = sizeof(GateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Semaphore_slots,
};

PyDoc_STRVAR(SemaphoreClosed_doc,
             "Raised by acquiring from a Semaphore that is closed.\n\n"
             "A RuntimeError, and not ChannelClosed: nothing has ended that one could have waited\n"
             "to end. Stands for Tokio's AcquireError.");

int
pacpy_semaphore_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *closed = PyErr_NewExceptionWithDoc("pyasync_c.SemaphoreClosed", SemaphoreClosed_doc,
                                                 PyExc_RuntimeError, NULL);
    st->SemaphoreClosed_type = (PyTypeObject *)closed;
    if (closed == NULL || PyModule_AddObjectRef(module, "SemaphoreClosed", closed) < 0) {
        return -1;
    }
    return pacpy_make_type(module, &Semaphore_spec, NULL, &st->Semaphore_type, "Semaphore");
}
