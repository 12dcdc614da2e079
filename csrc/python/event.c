/* event.c - Event as a Python object. As in notify.c, none of it is ever tracked by the collector. */
#include "future.h"

#include "../core/event.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_event event;
    PyObject *weakrefs;
} EventObject;

typedef struct {
    FutureObject future;
    struct pac_event_wait wait;
    PyObject *event; /* strong */
} EventWaitObject;

/* ---- what wait() returns -------------------------------------------------------------------- */

/* As if it had never waited; what has happened since it was made still counts. */
static void
event_wait_stop_waiting(EventWaitObject *self)
{
    struct pac_event_wait *w = &self->wait;
    uint64_t seen = w->seen;
    pac_event_wait_drop(w);
    pac_event_wait_init(w, w->event);
    w->seen = seen;
}

static int
EventWait_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    EventWaitObject *self = (EventWaitObject *)f;
    enum pac_poll poll = pac_event_wait_poll(&self->wait, cx);
    if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
        /* By something that the poll set off: see EventWait_forget. */
        event_wait_stop_waiting(self);
        return 0;
    }
    if (poll == PAC_PENDING) {
        return 0;
    }
    *value = Py_NewRef(Py_True);
    return 1;
}

static void
EventWait_forget(FutureObject *f)
{
    /* A poll can drop this very future: it sees the state when it comes back. */
    if (!f->polling) {
        event_wait_stop_waiting((EventWaitObject *)f);
    }
}

static const struct pacpy_future_vtable event_wait_vtable = {
    .poll = EventWait_poll,
    .forget = EventWait_forget,
};

static int
EventWait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EventWaitObject *)op)->event);
    return 0;
}

static void
EventWait_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    EventWaitObject *self = (EventWaitObject *)op;
    PyObject *event = self->event;
    pacpy_future_fini(&self->future);
    tp->tp_free(op);
    Py_DECREF(event);
    Py_DECREF(tp);
}

static PyType_Slot EventWait_slots[] = {
    {Py_tp_doc, "What Event.wait() returns."},
    {Py_tp_traverse, EventWait_traverse},
    {Py_tp_dealloc, EventWait_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec EventWait_spec = {
    .name = "pyasync_c.EventWait",
    .basicsize = sizeof(EventWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = EventWait_slots,
};

/* ---- Event ---------------------------------------------------------------------------------- */

static PyObject *
Event_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Event() takes no arguments");
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((EventObject *)op)->st = st;
        pac_event_init(&((EventObject *)op)->event);
    }
    return op;
}

static void
Event_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    if (((EventObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Event_repr(PyObject *op)
{
    bool set = pac_event_is_set(&((EventObject *)op)->event);
    return PyUnicode_FromFormat("<Event %s>", set ? "set" : "unset");
}

PyDoc_STRVAR(Event_is_set_doc, "is_set($self, /)\n--\n\n"
                               "True from set() on, until clear(). From any thread.");

static PyObject *
Event_is_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_event_is_set(&((EventObject *)op)->event));
}

PyDoc_STRVAR(Event_set_doc,
             "set($self, /)\n--\n\n"
             "Let go all that wait, and all that come before clear().\n\n"
             "Who waits now is let go even if clear() follows at once. What was written before is\n"
             "seen by them. From any thread.");

static PyObject *
Event_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_event_set(&((EventObject *)op)->event);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Event_clear_doc, "clear($self, /)\n--\n\n"
                              "Who comes from now on waits for the next set(). From any thread.");

static PyObject *
Event_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_event_clear(&((EventObject *)op)->event);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Event_wait_doc,
             "wait($self, /)\n--\n\n"
             "A future that is ready, with True, if the event is set now or is set later.\n\n"
             "It counts as waiting from this call on, before it is awaited (asyncio's does from\n"
             "the await on). Whoever is cancelled while awaiting it leaves no trace. From any\n"
             "thread.");

static PyObject *
Event_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EventObject *self = (EventObject *)op;
    PyTypeObject *type = self->st->EventWait_type;
    EventWaitObject *wait = PyObject_GC_New(EventWaitObject, type);
    if (wait != NULL) {
        pacpy_future_init(&wait->future, self->st, &event_wait_vtable);
        pac_event_wait_init(&wait->wait, &self->event);
        wait->event = Py_NewRef(op);
    }
    return (PyObject *)wait;
}

static PyMethodDef Event_methods[] = {
    {"is_set", Event_is_set, METH_NOARGS, Event_is_set_doc},
    {"set", Event_set, METH_NOARGS, Event_set_doc},
    {"clear", Event_clear, METH_NOARGS, Event_clear_doc},
    {"wait", Event_wait, METH_NOARGS, Event_wait_doc},
    {NULL},
};

static PyMemberDef Event_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(EventObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(Event_doc,
             "Event()\n--\n\n"
             "A flag that tasks wait for.\n\n"
             "Belongs to no loop: may be awaited from any loop on any thread, and set from every\n"
             "thread. Stands for asyncio.Event.");

static PyType_Slot Event_slots[] = {
    {Py_tp_doc, (void *)Event_doc},
    {Py_tp_new, Event_new},
    {Py_tp_dealloc, Event_dealloc},
    {Py_tp_repr, Event_repr},
    {Py_tp_methods, Event_methods},
    {Py_tp_members, Event_members},
    {0, NULL},
};

static PyType_Spec Event_spec = {
    .name = "pyasync_c.Event",
    .basicsize = sizeof(EventObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Event_slots,
};

int
pacpy_event_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Event_spec, NULL, &st->Event_type, "Event") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &EventWait_spec, st->Future_type, &st->EventWait_type, NULL);
}
