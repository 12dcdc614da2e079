/* sender.c - counting, cloning and closing the sending ends. */
#include "sender.h"

SenderObject *
pacpy_sender_new(struct pacpy_state *st, PyTypeObject *type,
                 const struct pacpy_sender_vtable *vtable, PyObject *channel, void *core)
{
    SenderObject *self = (SenderObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->vtable = vtable;
        self->channel = Py_NewRef(channel);
        self->core = core;
    }
    return self;
}

bool
pacpy_sender_is_closed(SenderObject *self)
{
    return self->closed || self->vtable->is_closed(self->core);
}

int
Sender_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((SenderObject *)op)->channel);
    return 0;
}

static void
let_go(SenderObject *self)
{
    bool was_open;
    Py_BEGIN_CRITICAL_SECTION(self);
    was_open = !self->closed;
    self->closed = true;
    Py_END_CRITICAL_SECTION();
    if (was_open) {
        self->vtable->drop(self->core);
    }
}

void
Sender_dealloc(PyObject *op)
{
    SenderObject *self = (SenderObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    let_go(self);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

const char Sender_close_doc[] =
    "close($self, /)\n--\n\n"
    "This end sends no more; sends that wait are still delivered.\n\n"
    "Once every sender of the channel is closed or collected, receivers take what is left and\n"
    "then raise ChannelClosed. From any thread, any number of times.";

PyObject *
Sender_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    let_go((SenderObject *)op);
    Py_RETURN_NONE;
}

const char Sender_is_closed_doc[] =
    "is_closed($self, /)\n--\n\n"
    "True if nothing can be sent here any more: nobody receives, or this end is closed. From any\n"
    "thread.";

PyObject *
Sender_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pacpy_sender_is_closed((SenderObject *)op));
}

const char Sender_closed_doc[] =
    "closed($self, /)\n--\n\n"
    "A future that is ready once nobody receives any more. Stands for Sender::closed of Tokio's\n"
    "channels.";

PyObject *
Sender_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SenderObject *self = (SenderObject *)op;
    ClosedObject *closed = pacpy_closed_new(self->st, self->channel);
    if (closed != NULL) {
        self->vtable->closed_init(&closed->wait, self->core);
    }
    return (PyObject *)closed;
}

const char Sender_clone_doc[] =
    "clone($self, /)\n--\n\n"
    "One more sender of the same channel, which is closed by itself. ChannelClosed if this one is\n"
    "closed. From any thread.";

PyObject *
Sender_clone(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SenderObject *self = (SenderObject *)op;
    SenderObject *other =
        pacpy_sender_new(self->st, Py_TYPE(op), self->vtable, self->channel, self->core);
    if (other == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    other->closed = self->closed;
    if (!self->closed) {
        self->vtable->add(self->core);
    }
    Py_END_CRITICAL_SECTION();
    if (other->closed) {
        Py_DECREF(other);
        return pacpy_channel_error(self->st, PAC_CLOSED);
    }
    return (PyObject *)other;
}

PyObject *
Sender_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

PyObject *
Sender_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    return Sender_close(op, NULL);
}

PyMemberDef Sender_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SenderObject, weakrefs), READONLY},
    {NULL},
};
