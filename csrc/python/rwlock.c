/* rwlock.c - RwLock as a Python object: a gate with a permit for each reader, all for a writer. */
#include "acquire.h"

static inline GateObject *
gate_of(PyObject *op)
{
    return (GateObject *)op;
}

static PyObject *
RwLock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "RwLock() takes no arguments");
        return NULL;
    }
    PyObject *op = pacpy_gate_new(type, PAC_RWLOCK_READERS);
    if (op != NULL) {
        pac_rwlock_init(&gate_of(op)->rwlock);
    }
    return op;
}

static PyObject *
RwLock_repr(PyObject *op)
{
    size_t waiters = pac_semaphore_waiters(&gate_of(op)->semaphore);
    uint64_t held = pac_rwlock_held(&gate_of(op)->rwlock);
    if (held == 0) {
        return PyUnicode_FromString("<RwLock unlocked>");
    }
    if (held == PAC_RWLOCK_READERS) {
        /* Or the readers that a waiting writer still waits for: he has been assigned the rest. */
        return PyUnicode_FromFormat("<RwLock locked waiters=%zu>", waiters);
    }
    return PyUnicode_FromFormat("<RwLock readers=%llu>", (unsigned long long)held);
}

PyDoc_STRVAR(RwLock_read_doc,
             "read($self, /)\n--\n\n"
             "A future of a Permit to read, and an asynchronous context manager.\n\n"
             "    async with rw.read():\n\n"
             "Many may read at once; it waits for a writer, and for writers that have waited\n"
             "before it. RuntimeError at the await if the task that awaits holds the lock for\n"
             "writing. From any thread. Stands for Tokio's RwLock::read.");

static PyObject *
RwLock_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_acquire_permit(gate_of(op), 1);
}

PyDoc_STRVAR(RwLock_write_doc,
             "write($self, /)\n--\n\n"
             "A future of a Permit to write, and an asynchronous context manager.\n\n"
             "    async with rw.write():\n\n"
             "Nobody else reads or writes meanwhile. RuntimeError at the await if the task that\n"
             "awaits holds the lock for writing already. From any thread. Stands for Tokio's\n"
             "RwLock::write.");

static PyObject *
RwLock_write(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_acquire_permit(gate_of(op), PAC_RWLOCK_READERS);
}

PyDoc_STRVAR(RwLock_try_read_doc,
             "try_read($self, /)\n--\n\n"
             "A Permit to read, now; None if a writer has the lock, or waits for it.\n\n"
             "From any thread, on a loop or not.");

static PyObject *
RwLock_try_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_gate_try_permit(gate_of(op), 1);
}

PyDoc_STRVAR(RwLock_try_write_doc,
             "try_write($self, /)\n--\n\n"
             "A Permit to write, now; None if anybody has the lock, or waits for it.\n\n"
             "From any thread, on a loop or not.");

static PyObject *
RwLock_try_write(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_gate_try_permit(gate_of(op), PAC_RWLOCK_READERS);
}

static PyMethodDef RwLock_methods[] = {
    {"read", RwLock_read, METH_NOARGS, RwLock_read_doc},
    {"write", RwLock_write, METH_NOARGS, RwLock_write_doc},
    {"try_read", RwLock_try_read, METH_NOARGS, RwLock_try_read_doc},
    {"try_write", RwLock_try_write, METH_NOARGS, RwLock_try_write_doc},
    {NULL},
};

PyDoc_STRVAR(
    RwLock_doc,
    "RwLock()\n--\n\n"
    "Many readers at a time, or one writer.\n\n"
    "    async with rw.read():\n"
    "        ...\n"
    "    async with rw.write() as permit:\n"
    "        ...\n\n"
    "Fair: first come, first served; a writer that waits makes later readers wait, so it\n"
    "does not starve. For that reason a task that reads must not ask to read again, nor to\n"
    "write, before it has released: it may wait for itself, and that is not noticed. That\n"
    "a writer asks again is, by RuntimeError. Whoever is cancelled while waiting takes\n"
    "nothing. Belongs to no loop: may be used from any loop on any thread at once. Stands\n"
    "for Tokio's RwLock.");

static PyType_Slot RwLock_slots[] = {
    {Py_tp_doc, (void *)RwLock_doc},
    {Py_tp_new, RwLock_new},
    {Py_tp_dealloc, Gate_dealloc},
    {Py_tp_repr, RwLock_repr},
    {Py_tp_methods, RwLock_methods},
    {Py_tp_members, Gate_members},
    {0, NULL},
};

static PyType_Spec RwLock_spec = {
    .name = "pyasync_c.RwLock",
    .basicsize = sizeof(GateObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = RwLock_slots,
};

int
pacpy_rwlock_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &RwLock_spec, NULL, &st->RwLock_type, "RwLock");
}
