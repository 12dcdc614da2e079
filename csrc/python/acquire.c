/* acquire.c - the futures that wait for permits, and Permit. */
#include "acquire.h"

typedef struct {
    FutureObject future;
    struct pac_acquire acquire;
    GateObject *gate; /* strong */
    PyObject *permit; /* of an `async with` that is in its body; else NULL */
    bool entered;     /* by `async with` */
} AcquireObject;

typedef struct {
    PyObject_HEAD
    GateObject *gate; /* strong; NULL: given back */
    uint64_t count;
    bool entered; /* by `with` */
    PyObject *weakrefs;
} PermitObject;

/* ---- the gate ------------------------------------------------------------------------------- */

PyObject *
pacpy_gate_new(PyTypeObject *type, uint64_t alone)
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((GateObject *)op)->st = st;
        ((GateObject *)op)->alone = alone;
    }
    return op;
}

void
Gate_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    if (((GateObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pacpy_holder_clear(&((GateObject *)op)->holder);
    tp->tp_free(op);
    Py_DECREF(tp);
}

PyMemberDef Gate_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(GateObject, weakrefs), READONLY},
    {NULL},
};

/* n permits were taken, by the code that runs now. */
static inline void
gate_taken(GateObject *gate, uint64_t n)
{
    if (n == gate->alone) {
        Py_BEGIN_CRITICAL_SECTION(gate);
        pacpy_holder_set(&gate->holder, gate->st);
        Py_END_CRITICAL_SECTION();
    }
}

static inline bool
gate_is_held_by_current_task(GateObject *gate)
{
    bool held = false;
    if (gate->alone != 0) {
        Py_BEGIN_CRITICAL_SECTION(gate);
        held = pacpy_holder_is_current(&gate->holder, gate->st);
        Py_END_CRITICAL_SECTION();
    }
    return held;
}

int
pacpy_gate_release(GateObject *gate, uint64_t n)
{
    if (n == gate->alone) {
        /* Before it goes to the next one. Of a lock that is not locked there is no holder. */
        Py_BEGIN_CRITICAL_SECTION(gate);
        pacpy_holder_clear(&gate->holder);
        Py_END_CRITICAL_SECTION();
    }
    return pac_semaphore_release(&gate->semaphore, n) == PAC_OK ? 0 : -1;
}

static void
raise_closed(struct pacpy_state *st)
{
    PyErr_SetString((PyObject *)st->SemaphoreClosed_type, "the semaphore is closed");
}

int
pacpy_gate_try_acquire(GateObject *gate, uint64_t n)
{
    enum pac_status status = pac_semaphore_try_acquire(&gate->semaphore, n);
    if (status == PAC_CLOSED) {
        raise_closed(gate->st);
        return -1;
    }
    if (status != PAC_OK) {
        return 0;
    }
    gate_taken(gate, n);
    return 1;
}

/* ---- Permit --------------------------------------------------------------------------------- */

/* Takes over n permits that were taken: given back if there is no memory. */
static PyObject *
permit_new(GateObject *gate, uint64_t n)
{
    PyTypeObject *type = gate->st->Permit_type;
    PermitObject *self = (PermitObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        (void)pacpy_gate_release(gate, n);
        return NULL;
    }
    self->gate = (GateObject *)Py_NewRef(gate);
    self->count = n;
    return (PyObject *)self;
}

PyObject *
pacpy_gate_try_permit(GateObject *gate, uint64_t n)
{
    int taken = pacpy_gate_try_acquire(gate, n);
    if (taken < 0) {
        return NULL;
    }
    return taken == 0 ? Py_NewRef(Py_None) : permit_new(gate, n);
}

/* 1; 0: it was given back before; -1: there is no room for it (no exception is set). */
static int
permit_give_back(PermitObject *self)
{
    GateObject *gate;
    Py_BEGIN_CRITICAL_SECTION(self);
    gate = self->gate;
    self->gate = NULL;
    Py_END_CRITICAL_SECTION();
    if (gate == NULL) {
        return 0;
    }
    int released = pacpy_gate_release(gate, self->count);
    Py_DECREF(gate);
    return released < 0 ? -1 : 1;
}

static void
Permit_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    if (((PermitObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)permit_give_back((PermitObject *)op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Permit_repr(PyObject *op)
{
    PermitObject *self = (PermitObject *)op;
    if (self->gate == NULL) {
        return PyUnicode_FromString("<Permit released>");
    }
    if (self->gate->alone == 0) {
        return PyUnicode_FromFormat("<Permit of %llu>", (unsigned long long)self->count);
    }
    return PyUnicode_FromFormat("<Permit to %s>",
                                self->count == self->gate->alone ? "write" : "read");
}

PyDoc_STRVAR(
    Permit_release_doc,
    "release($self, /)\n--\n\n"
    "Give back what was acquired. RuntimeError if that was done already; OverflowError if\n"
    "so many permits were added meanwhile that there is no room. From any thread.");

static PyObject *
Permit_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int given_back = permit_give_back((PermitObject *)op);
    if (given_back <= 0) {
        PyErr_SetString(given_back == 0 ? PyExc_RuntimeError : PyExc_OverflowError,
                        given_back == 0 ? "the permit was released already"
                                        : "the semaphore has all permits that it can have");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Permit_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PermitObject *self = (PermitObject *)op;
    bool was_entered, is_released;
    Py_BEGIN_CRITICAL_SECTION(self);
    was_entered = self->entered;
    self->entered = true;
    is_released = self->gate == NULL;
    Py_END_CRITICAL_SECTION();
    if (is_released || was_entered) {
        PyErr_SetString(PyExc_RuntimeError, is_released ? "the permit was released already"
                                                        : "the permit was entered already");
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
Permit_exit(PyObject *op, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    (void)permit_give_back((PermitObject *)op);
    Py_RETURN_NONE;
}

static PyMethodDef Permit_methods[] = {
    {"release", Permit_release, METH_NOARGS, Permit_release_doc},
    {"__enter__", Permit_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))Permit_exit, METH_FASTCALL, NULL},
    {NULL},
};

static PyMemberDef Permit_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PermitObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(Permit_doc,
             "What was acquired of a Semaphore or an RwLock, to be given back once.\n\n"
             "By release(), or by `with permit:` (where an earlier release() is no error); a\n"
             "permit that is collected without that gives it back then. From any thread. Stands\n"
             "for Tokio's SemaphorePermit, RwLockReadGuard and RwLockWriteGuard.");

static PyType_Slot Permit_slots[] = {
    {Py_tp_doc, (void *)Permit_doc}, {Py_tp_dealloc, Permit_dealloc}, {Py_tp_repr, Permit_repr},
    {Py_tp_methods, Permit_methods}, {Py_tp_members, Permit_members}, {0, NULL},
};

static PyType_Spec Permit_spec = {
    .name = "pyasync_c.Permit",
    .basicsize = sizeof(PermitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Permit_slots,
};

/* ---- the futures ---------------------------------------------------------------------------- */

/* As if it had never waited: out of the line, what it was assigned given back. */
static void
acquire_stop_waiting(AcquireObject *self)
{
    struct pac_acquire *a = &self->acquire;
    if (a->state == PAC_ACQUIRE_WAITING) {
        uint64_t wanted = a->wanted;
        pac_acquire_drop(a);
        pac_acquire_init(a, &self->gate->semaphore, wanted);
    }
}

/* 1: the permits are ours; 0; -1 and an exception, or PACPY_REFUSED. */
static int
acquire_poll(AcquireObject *self, struct pac_context *cx)
{
    GateObject *gate = self->gate;
    struct pac_acquire *a = &self->acquire;
    if (a->state == PAC_ACQUIRE_INIT && gate_is_held_by_current_task(gate)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this task holds the lock: awaiting it again would wait for itself");
        return pacpy_refused_or_failed();
    }
    enum pac_poll poll = pac_acquire_poll(a, cx);
    bool taken = poll == PAC_READY && pac_acquire_status(a) == PAC_OK;
    if (PAC_UNLIKELY(self->future.state == PACPY_DROPPED)) {
        /* By something that the poll set off: see Acquire_forget. */
        if (taken) {
            (void)pacpy_gate_release(gate, a->wanted);
        }
        acquire_stop_waiting(self);
        return 0;
    }
    if (taken) {
        gate_taken(gate, a->wanted);
        return 1;
    }
    if (poll == PAC_READY) {
        raise_closed(gate->st);
        return -1;
    }
    return 0;
}

static int
Acquire_poll_true(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    int ready = acquire_poll((AcquireObject *)f, cx);
    if (ready > 0) {
        *value = Py_NewRef(Py_True);
    }
    return ready;
}

static int
Acquire_poll_none(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    int ready = acquire_poll((AcquireObject *)f, cx);
    if (ready > 0) {
        *value = Py_NewRef(Py_None);
    }
    return ready;
}

static int
Acquire_poll_permit(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    AcquireObject *self = (AcquireObject *)f;
    int ready = acquire_poll(self, cx);
    if (ready <= 0) {
        return ready;
    }
    uint64_t wanted = self->acquire.wanted;
    *value = permit_new(self->gate, wanted);
    if (*value == NULL) {
        /* They were given back, and it gets in line anew. */
        pac_acquire_init(&self->acquire, &self->gate->semaphore, wanted);
        return PACPY_REFUSED;
    }
    if (self->entered) {
        self->permit = Py_NewRef(*value);
    }
    return 1;
}

static void
Acquire_forget(FutureObject *f)
{
    /* A poll can drop somebody's last waker, and so run Python that drops this very future: the
     * poll sees the state when it comes back. */
    if (!f->polling) {
        acquire_stop_waiting((AcquireObject *)f);
    }
}

static const struct pacpy_future_vtable acquire_true_vtable = {
    .poll = Acquire_poll_true,
    .forget = Acquire_forget,
};

static const struct pacpy_future_vtable acquire_none_vtable = {
    .poll = Acquire_poll_none,
    .forget = Acquire_forget,
};

static const struct pacpy_future_vtable acquire_permit_vtable = {
    .poll = Acquire_poll_permit,
    .forget = Acquire_forget,
};

static PyObject *
acquire_new(GateObject *gate, uint64_t n, struct pacpy_freelist *list, PyTypeObject *type,
            const struct pacpy_future_vtable *vtable)
{
    AcquireObject *self = (AcquireObject *)pacpy_freelist_alloc(list, type);
    if (self != NULL) {
        pacpy_future_init(&self->future, gate->st, vtable);
        pac_acquire_init(&self->acquire, &gate->semaphore, n);
        self->gate = (GateObject *)Py_NewRef(gate);
        self->permit = NULL;
        self->entered = false;
    }
    return (PyObject *)self;
}

PyObject *
pacpy_acquire_true(GateObject *gate, uint64_t n)
{
    struct pacpy_state *st = gate->st;
    return acquire_new(gate, n, &st->acquire_free, st->Acquire_type, &acquire_true_vtable);
}

PyObject *
pacpy_acquire_none(GateObject *gate, uint64_t n)
{
    struct pacpy_state *st = gate->st;
    return acquire_new(gate, n, &st->acquire_free, st->Acquire_type, &acquire_none_vtable);
}

PyObject *
pacpy_acquire_permit(GateObject *gate, uint64_t n)
{
    struct pacpy_state *st = gate->st;
    return acquire_new(gate, n, &st->acquire_permit_free, st->AcquirePermit_type,
                       &acquire_permit_vtable);
}

static int
Acquire_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((AcquireObject *)op)->gate);
    Py_VISIT(((AcquireObject *)op)->permit);
    return 0;
}

static void
acquire_dealloc(PyObject *op, struct pacpy_freelist *list, PyTypeObject *type)
{
    AcquireObject *self = (AcquireObject *)op;
    GateObject *gate = self->gate;
    PyObject *permit = self->permit;
    pacpy_future_fini(&self->future);
    pacpy_freelist_free(list, type, op);
    Py_XDECREF(permit);
    Py_DECREF(gate);
}

static void
Acquire_dealloc(PyObject *op)
{
    /* cpylint: dealloc, acquire_dealloc gives the type up */
    struct pacpy_state *st = ((AcquireObject *)op)->future.st;
    acquire_dealloc(op, &st->acquire_free, st->Acquire_type);
}

static void
AcquirePermit_dealloc(PyObject *op)
{
    /* cpylint: dealloc, acquire_dealloc gives the type up */
    struct pacpy_state *st = ((AcquireObject *)op)->future.st;
    acquire_dealloc(op, &st->acquire_permit_free, st->AcquirePermit_type);
}

static PyObject *
Acquire_repr(PyObject *op)
{
    AcquireObject *self = (AcquireObject *)op;
    const char *state = self->future.state == PACPY_NEW       ? "not polled yet"
                        : self->future.state == PACPY_WAITING ? "waiting"
                        : self->future.state == PACPY_DONE    ? "done"
                                                              : "dropped";
    return PyUnicode_FromFormat("<Acquire of %R %s>", self->gate, state);
}

static PyObject *
AcquirePermit_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ((AcquireObject *)op)->entered = true;
    return Py_NewRef(op);
}

static PyObject *
AcquirePermit_aexit(PyObject *op, PyObject *const *Py_UNUSED(exception),
                    Py_ssize_t Py_UNUSED(count))
{
    AcquireObject *self = (AcquireObject *)op;
    PermitObject *permit = (PermitObject *)self->permit;
    self->permit = NULL;
    if (permit != NULL) {
        (void)permit_give_back(permit);
        Py_DECREF(permit);
    }
    return pacpy_nothing_to_await(self->future.st);
}

static PyMethodDef AcquirePermit_methods[] = {
    {"__aenter__", AcquirePermit_aenter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))AcquirePermit_aexit, METH_FASTCALL, NULL},
    {NULL},
};

static PyType_Slot Acquire_slots[] = {
    {Py_tp_doc, "What Lock.acquire() returns."},
    {Py_tp_traverse, Acquire_traverse},
    {Py_tp_dealloc, Acquire_dealloc},
    {Py_tp_repr, Acquire_repr},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Acquire_spec = {
    .name = "pyasync_c.Acquire",
    .basicsize = sizeof(AcquireObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Acquire_slots,
};

PyDoc_STRVAR(
    AcquirePermit_doc,
    "What Semaphore.acquire(), RwLock.read() and RwLock.write() return: a Future of a\n"
    "Permit, and an asynchronous context manager that gives it back.\n\n"
    "    permit = await semaphore.acquire(3)\n"
    "    async with semaphore.acquire(3) as permit:\n\n"
    "It stands in the line from its first poll on. Whoever is cancelled while awaiting it\n"
    "gives up its place in the line and what it had been assigned. May be awaited on any\n"
    "loop, once.");

static PyType_Slot AcquirePermit_slots[] = {
    {Py_tp_doc, (void *)AcquirePermit_doc},
    {Py_tp_traverse, Acquire_traverse},
    {Py_tp_dealloc, AcquirePermit_dealloc},
    {Py_tp_repr, Acquire_repr},
    {Py_tp_methods, AcquirePermit_methods},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec AcquirePermit_spec = {
    .name = "pyasync_c.AcquirePermit",
    .basicsize = sizeof(AcquireObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = AcquirePermit_slots,
};

int
pacpy_acquire_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Permit_spec, NULL, &st->Permit_type, "Permit") < 0 ||
        pacpy_make_type(module, &Acquire_spec, st->Future_type, &st->Acquire_type, NULL) < 0) {
        return -1;
    }
    return pacpy_make_type(module, &AcquirePermit_spec, st->Future_type, &st->AcquirePermit_type,
                           "AcquirePermit");
}
