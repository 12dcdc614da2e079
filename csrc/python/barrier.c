/* barrier.c - Barrier as a Python object. As in notify.c, none of it is ever tracked by the
 * collector. */
#include "args.h"
#include "future.h"

#include "../core/barrier.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_barrier barrier;
    PyObject *weakrefs;
} BarrierObject;

typedef struct {
    FutureObject future;
    struct pac_barrier_wait wait;
    PyObject *barrier; /* strong */
} BarrierWaitObject;

/* ---- what wait() returns -------------------------------------------------------------------- */

/* As if it had never come, unless the barrier has opened already. */
static void
barrier_wait_stop_waiting(BarrierWaitObject *self)
{
    struct pac_barrier_wait *w = &self->wait;
    if (w->state == PAC_BARRIER_ARRIVED) {
        pac_barrier_wait_drop(w);
        pac_barrier_wait_init(w, w->barrier);
    }
}

static int
BarrierWait_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    BarrierWaitObject *self = (BarrierWaitObject *)f;
    enum pac_poll poll = pac_barrier_wait_poll(&self->wait, cx);
    if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
        /* By something that the poll set off: see BarrierWait_forget. */
        barrier_wait_stop_waiting(self);
        return 0;
    }
    if (poll == PAC_PENDING) {
        return 0;
    }
    *value = PyBool_FromLong(self->wait.is_leader);
    return 1;
}

static void
BarrierWait_forget(FutureObject *f)
{
    /* A poll can drop this very future: it sees the state when it comes back. */
    if (!f->polling) {
        barrier_wait_stop_waiting((BarrierWaitObject *)f);
    }
}

static const struct pacpy_future_vtable barrier_wait_vtable = {
    .poll = BarrierWait_poll,
    .forget = BarrierWait_forget,
};

static int
BarrierWait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((BarrierWaitObject *)op)->barrier);
    return 0;
}

static void
BarrierWait_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    BarrierWaitObject *self = (BarrierWaitObject *)op;
    PyObject *barrier = self->barrier;
    pacpy_future_fini(&self->future);
    tp->tp_free(op);
    Py_DECREF(barrier);
    Py_DECREF(tp);
}

static PyType_Slot BarrierWait_slots[] = {
    {Py_tp_doc, "What Barrier.wait() returns."},
    {Py_tp_traverse, BarrierWait_traverse},
    {Py_tp_dealloc, BarrierWait_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec BarrierWait_spec = {
    .name = "pyasync_c.BarrierWait",
    .basicsize = sizeof(BarrierWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BarrierWait_slots,
};

/* ---- Barrier -------------------------------------------------------------------------------- */

static PyObject *
Barrier_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *given;
    uint64_t parties;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Barrier() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "Barrier", 1, 1, &given) ||
        pacpy_count_from_object(given, "parties", 1, INT64_MAX, &parties) < 0) {
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((BarrierObject *)op)->st = st;
        pac_barrier_init(&((BarrierObject *)op)->barrier, parties);
    }
    return op;
}

static void
Barrier_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    if (((BarrierObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Barrier_repr(PyObject *op)
{
    struct pac_barrier *b = &((BarrierObject *)op)->barrier;
    return PyUnicode_FromFormat("<Barrier waiting=%llu/%llu>",
                                (unsigned long long)pac_barrier_arrived(b),
                                (unsigned long long)b->parties);
}

PyDoc_STRVAR(
    Barrier_wait_doc,
    "wait($self, /)\n--\n\n"
    "A future that is ready once all parties wait: True for the leader, who came last.\n\n"
    "It arrives at its first poll. Whoever is cancelled before the barrier opens does not\n"
    "count, and somebody else may come in its place. From any thread. Stands for Tokio's\n"
    "Barrier::wait.");

static PyObject *
Barrier_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BarrierObject *self = (BarrierObject *)op;
    PyTypeObject *type = self->st->BarrierWait_type;
    BarrierWaitObject *wait = PyObject_GC_New(BarrierWaitObject, type);
    if (wait != NULL) {
        pacpy_future_init(&wait->future, self->st, &barrier_wait_vtable);
        pac_barrier_wait_init(&wait->wait, &self->barrier);
        wait->barrier = Py_NewRef(op);
    }
    return (PyObject *)wait;
}

static PyObject *
Barrier_parties(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((BarrierObject *)op)->barrier.parties);
}

static PyObject *
Barrier_n_waiting(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(pac_barrier_arrived(&((BarrierObject *)op)->barrier));
}

static PyMethodDef Barrier_methods[] = {
    {"wait", Barrier_wait, METH_NOARGS, Barrier_wait_doc},
    {NULL},
};

static PyGetSetDef Barrier_getset[] = {
    {"parties", Barrier_parties, NULL, "How many have to come.", NULL},
    {"n_waiting", Barrier_n_waiting, NULL, "How many have come and wait.", NULL},
    {NULL},
};

static PyMemberDef Barrier_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BarrierObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(
    Barrier_doc,
    "Barrier(parties, /)\n--\n\n"
    "A place where a number of tasks wait for each other, again and again.\n\n"
    "TypeError if parties is no int, ValueError if it is less than 1, OverflowError beyond\n"
    "2**63 - 1. Belongs to no loop: may be awaited from any loop on any thread at once.\n"
    "Stands for Tokio's Barrier; unlike there, a wait that is cancelled does not count.\n"
    "There is no abort and no broken state as asyncio.Barrier has them.");

static PyType_Slot Barrier_slots[] = {
    {Py_tp_doc, (void *)Barrier_doc}, {Py_tp_new, Barrier_new},
    {Py_tp_dealloc, Barrier_dealloc}, {Py_tp_repr, Barrier_repr},
    {Py_tp_methods, Barrier_methods}, {Py_tp_getset, Barrier_getset},
    {Py_tp_members, Barrier_members}, {0, NULL},
};

static PyType_Spec Barrier_spec = {
    .name = "pyasync_c.Barrier",
    .basicsize = sizeof(BarrierObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Barrier_slots,
};

int
pacpy_barrier_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Barrier_spec, NULL, &st->Barrier_type, "Barrier") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &BarrierWait_spec, st->Future_type, &st->BarrierWait_type, NULL);
}
