/* lock.c - Lock as a Python object: a gate of one permit. */
#include "acquire.h"

static inline GateObject *
gate_of(PyObject *op)
{
    return (GateObject *)op;
}

static PyObject *
Lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Lock() takes no arguments");
        return NULL;
    }
    PyObject *op = pacpy_gate_new(type, 1);
    if (op != NULL) {
        pac_mutex_init(&gate_of(op)->mutex);
    }
    return op;
}

static PyObject *
Lock_repr(PyObject *op)
{
    if (!pac_mutex_is_locked(&gate_of(op)->mutex)) {
        return PyUnicode_FromString("<Lock unlocked>");
    }
    return PyUnicode_FromFormat("<Lock locked waiters=%zu>",
                                pac_semaphore_waiters(&gate_of(op)->semaphore));
}

PyDoc_STRVAR(Lock_acquire_doc,
             "acquire($self, /)\n--\n\n"
             "A future that is ready, with True, once the lock is the caller's.\n\n"
             "It stands in the line from its first poll on. RuntimeError at the await if the task\n"
             "that awaits holds the lock already. From any thread. Stands for Tokio's\n"
             "Mutex::lock and asyncio's Lock.acquire.");

static PyObject *
Lock_acquire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_acquire_true(gate_of(op), 1);
}

PyDoc_STRVAR(Lock_try_acquire_doc,
             "try_acquire($self, /)\n--\n\n"
             "Lock it now and return True; or False: it is locked, or was handed to a waiter.\n\n"
             "From any thread, on a loop or not.");

static PyObject *
Lock_try_acquire(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pacpy_gate_try_acquire(gate_of(op), 1));
}

PyDoc_STRVAR(Lock_release_doc,
             "release($self, /)\n--\n\n"
             "Unlock it: it goes to the one that has waited longest.\n\n"
             "Whoever has reason to may do that, not the holder alone. RuntimeError if it is not\n"
             "locked. From any thread.");

static int
lock_release(PyObject *op)
{
    if (pacpy_gate_release(gate_of(op), 1) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "the lock is not locked");
        return -1;
    }
    return 0;
}

static PyObject *
Lock_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (lock_release(op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Lock_locked_doc,
             "locked($self, /)\n--\n\n"
             "True while somebody holds it, or was handed it and has not seen that yet.");

static PyObject *
Lock_locked(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_mutex_is_locked(&gate_of(op)->mutex));
}

static PyObject *
Lock_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_acquire_none(gate_of(op), 1);
}

static PyObject *
Lock_aexit(PyObject *op, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    return lock_release(op) < 0 ? NULL : pacpy_nothing_to_await(gate_of(op)->st);
}

static PyMethodDef Lock_methods[] = {
    {"acquire", Lock_acquire, METH_NOARGS, Lock_acquire_doc},
    {"try_acquire", Lock_try_acquire, METH_NOARGS, Lock_try_acquire_doc},
    {"release", Lock_release, METH_NOARGS, Lock_release_doc},
    {"locked", Lock_locked, METH_NOARGS, Lock_locked_doc},
    {"__aenter__", Lock_aenter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))Lock_aexit, METH_FASTCALL, NULL},
    {NULL},
};

PyDoc_STRVAR(
    Lock_doc,
    "Lock()\n--\n\n"
    "One task at a time.\n\n"
    "    async with lock:\n"
    "        ...\n\n"
    "Fair: it is handed to the one that has waited longest, and nobody overtakes. Whoever\n"
    "is cancelled while waiting gives up its place, or passes on the lock that it was\n"
    "handed. A task that holds the lock and awaits it again gets RuntimeError; that is\n"
    "noticed within one task, not through a child task or a thread that it waits for.\n"
    "Belongs to no loop: may be used from any loop on any thread at once. Stands for\n"
    "asyncio.Lock and Tokio's Mutex.");

static PyType_Slot Lock_slots[] = {
    {Py_tp_doc, (void *)Lock_doc},
    {Py_tp_new, Lock_new},
    {Py_tp_dealloc, Gate_dealloc},
    {Py_tp_repr, Lock_repr},
    {Py_tp_methods, Lock_methods},
    {Py_tp_members, Gate_members},
    {0, NULL},
};

static PyType_Spec Lock_spec = {
    .name = "pyasync_c.Lock",
    .basicsize = sizeof(GateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Lock_slots,
};

int
pacpy_lock_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Lock_spec, NULL, &st->Lock_type, "Lock");
}
