/* notify.c - Notify and Notified as Python objects.
 *
 * The core does it all. A Notified keeps its Notify alive, which the core asks for; the Notify
 * itself refers to no Python object (its list of waiters is the core's, and each waiter leaves it
 * before it is freed). So no cycle can go through a Notified, and none is ever tracked by the
 * collector.
 *
 * Notifying wakes after the core's lock was left, and may run anything then; the caller holds the
 * Notify for as long as that takes.
 */
#include "future.h"

#include "../core/notify.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_notify notify;
    PyObject *weakrefs;
} NotifyObject;

typedef struct {
    FutureObject future;
    struct pac_notified notified;
    PyObject *notify; /* strong */
} NotifiedObject;

/* ---- Notified ------------------------------------------------------------------------------- */

/* As if it had never waited: out of the list, an unseen notification passed on, and broadcasts
 * since it was made still count. */
static void
notified_stop_waiting(NotifiedObject *self)
{
    struct pac_notified *n = &self->notified;
    if (n->state == PAC_NOTIFIED_WAITING) {
        uint64_t broadcasts = n->broadcasts;
        struct pac_notify *notify = n->notify;
        pac_notified_drop(n);
        pac_notified_init(n, notify);
        n->broadcasts = broadcasts;
    }
}

static int
Notified_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    NotifiedObject *self = (NotifiedObject *)f;
    enum pac_poll poll = pac_notified_poll(&self->notified, cx);
    if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
        /* By something that the poll set off: see Notified_forget. */
        notified_stop_waiting(self);
        return 0;
    }
    if (poll == PAC_PENDING) {
        return 0;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

static void
Notified_forget(FutureObject *f)
{
    /* A poll can drop somebody's last waker, and so run Python that drops this very future: the
     * poll sees the state when it comes back. */
    if (!f->polling) {
        notified_stop_waiting((NotifiedObject *)f);
    }
}

static const struct pacpy_future_vtable notified_vtable = {
    .poll = Notified_poll,
    .forget = Notified_forget,
    .fused = true,
};

static int
Notified_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((NotifiedObject *)op)->notify);
    return 0;
}

static void
Notified_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    NotifiedObject *self = (NotifiedObject *)op;
    struct pacpy_state *st = self->future.st;
    PyObject *notify = self->notify;
    pacpy_future_fini(&self->future);
    pacpy_freelist_free(&st->notified_free, st->Notified_type, op);
    Py_DECREF(notify);
}

static PyObject *
Notified_repr(PyObject *op)
{
    NotifiedObject *self = (NotifiedObject *)op;
    const char *state = "not polled yet";
    if (self->future.state == PACPY_DROPPED) {
        state = "dropped";
    }
    else if (self->notified.state == PAC_NOTIFIED_DONE) {
        state = "notified";
    }
    else if (self->notified.state == PAC_NOTIFIED_WAITING) {
        state = "waiting";
    }
    return PyUnicode_FromFormat("<Notified %s>", state);
}

PyDoc_STRVAR(Notified_enable_doc,
             "enable($self, /)\n--\n\n"
             "Start waiting now, before the first await.\n\n"
             "From here on it stands in the line for notify_one(). True: it is ready already,\n"
             "as a permit was there, which it has taken, or it has been notified. RuntimeError\n"
             "after drop(). Stands for Tokio's Notified::enable.");

static PyObject *
Notified_enable(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    NotifiedObject *self = (NotifiedObject *)op;
    if (self->future.polling || self->future.state >= PACPY_DROPPED) {
        PyErr_SetString(PyExc_RuntimeError, self->future.polling
                                                ? "Notified is being polled"
                                                : "Notified was dropped: make a new one");
        return NULL;
    }
    return PyBool_FromLong(pac_notified_enable(&self->notified));
}

static PyMethodDef Notified_methods[] = {
    {"enable", Notified_enable, METH_NOARGS, Notified_enable_doc},
    {NULL},
};

PyDoc_STRVAR(Notified_doc,
             "What Notify.notified() returns: a future that is ready once it was notified.\n\n"
             "Awaiting it again when it is ready is allowed and ready at once. Whoever is\n"
             "cancelled while awaiting it gives up its place in the line, and passes a\n"
             "notification that it was given and has not seen on to the next one. May be\n"
             "awaited on any loop, by one task at a time. Stands for Tokio's Notified.");

static PyType_Slot Notified_slots[] = {
    {Py_tp_doc, (void *)Notified_doc},
    {Py_tp_traverse, Notified_traverse},
    {Py_tp_dealloc, Notified_dealloc},
    {Py_tp_repr, Notified_repr},
    {Py_tp_methods, Notified_methods},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Notified_spec = {
    .name = "pyasync_c.Notified",
    .basicsize = sizeof(NotifiedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Notified_slots,
};

/* ---- Notify --------------------------------------------------------------------------------- */

static PyObject *
Notify_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Notify() takes no arguments");
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((NotifyObject *)op)->st = st;
        pac_notify_init(&((NotifyObject *)op)->notify);
    }
    return op;
}

static void
Notify_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    if (((NotifyObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Notify_repr(PyObject *op)
{
    struct pac_notify *n = &((NotifyObject *)op)->notify;
    size_t count = 0;
    pac_lock_acquire(&n->lock);
    struct pac_list_node *head = &n->waiters.head;
    for (struct pac_list_node *node = head->next; node != head; node = node->next) {
        count++;
    }
    /* relaxed: written with the lock held. Bit 0 says that a permit is stored. */
    bool permit = (pac_atomic_load(&n->state, PAC_RELAXED) & 1) != 0;
    pac_lock_release(&n->lock);
    return PyUnicode_FromFormat("<Notify waiters=%zu permit=%s>", count, permit ? "yes" : "no");
}

PyDoc_STRVAR(Notify_one_doc,
             "notify_one($self, /)\n--\n\n"
             "Wake the one that has waited longest, or store a permit for the next to come.\n\n"
             "There is never more than one permit. What was written before this call is seen by\n"
             "whoever it wakes. From any thread. Stands for Tokio's Notify::notify_one.");

static PyObject *
Notify_notify_one(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_notify_one(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Notify_last_doc,
             "notify_last($self, /)\n--\n\n"
             "Wake the one that came last, or store a permit for the next to come.\n\n"
             "From any thread. Stands for Tokio's Notify::notify_last.");

static PyObject *
Notify_notify_last(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_notify_last(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Notify_waiters_doc,
             "notify_waiters($self, /)\n--\n\n"
             "Wake all that wait now, and store nothing.\n\n"
             "Every Notified that notified() has returned counts, whether it was awaited yet\n"
             "or not. From any thread. Stands for Tokio's Notify::notify_waiters.");

static PyObject *
Notify_notify_waiters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_notify_waiters(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Notify_notified_doc,
             "notified($self, /)\n--\n\n"
             "A future that is ready once this Notify has notified it.\n\n"
             "It counts for notify_waiters() from this call on; for notify_one() it stands in\n"
             "the line from its first poll or enable(). From any thread. Stands for Tokio's\n"
             "Notify::notified.");

static PyObject *
Notify_notified(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    NotifyObject *self = (NotifyObject *)op;
    struct pacpy_state *st = self->st;
    PyObject *notified = pacpy_freelist_alloc(&st->notified_free, st->Notified_type);
    if (notified != NULL) {
        pacpy_future_init((FutureObject *)notified, st, &notified_vtable);
        pac_notified_init(&((NotifiedObject *)notified)->notified, &self->notify);
        ((NotifiedObject *)notified)->notify = Py_NewRef(op);
    }
    return notified;
}

static PyMethodDef Notify_methods[] = {
    {"notify_one", Notify_notify_one, METH_NOARGS, Notify_one_doc},
    {"notify_last", Notify_notify_last, METH_NOARGS, Notify_last_doc},
    {"notify_waiters", Notify_notify_waiters, METH_NOARGS, Notify_waiters_doc},
    {"notified", Notify_notified, METH_NOARGS, Notify_notified_doc},
    {NULL},
};

static PyMemberDef Notify_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(NotifyObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(Notify_doc,
             "Notify()\n--\n\n"
             "Wakes one waiter, or all: the smallest thing that tasks can wait with.\n\n"
             "    notify = Notify()\n"
             "    await notify.notified()    # in one task\n"
             "    notify.notify_one()        # in another one, or in another thread\n\n"
             "notify_one() before anybody waits is not lost: it stores a permit, which the next\n"
             "to wait takes at once. Belongs to no loop: may be awaited from any loop on any\n"
             "thread, and notified from every thread. Stands for Tokio's Notify; unlike it, it\n"
             "takes part in the budget of a task, so that a loop of ready awaits lets others\n"
             "run.");

static PyType_Slot Notify_slots[] = {
    {Py_tp_doc, (void *)Notify_doc},
    {Py_tp_new, Notify_new},
    {Py_tp_dealloc, Notify_dealloc},
    {Py_tp_repr, Notify_repr},
    {Py_tp_methods, Notify_methods},
    {Py_tp_members, Notify_members},
    {0, NULL},
};

static PyType_Spec Notify_spec = {
    .name = "pyasync_c.Notify",
    .basicsize = sizeof(NotifyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Notify_slots,
};

int
pacpy_notify_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Notify_spec, NULL, &st->Notify_type, "Notify") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &Notified_spec, st->Future_type, &st->Notified_type, "Notified");
}
