/* oneshot.c - oneshot(), OneshotSender and OneshotReceiver. */
#include "channel.h"

#include "../core/oneshot.h"

/* The channel itself: never seen by users. */
typedef struct {
    PyObject_HEAD
    struct pac_oneshot core;
} OneshotObject;

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    OneshotObject *channel; /* strong */
    PyObject *weakrefs;
} OneshotSenderObject;

typedef struct {
    FutureObject future;
    struct pac_oneshot_recv recv;
    OneshotObject *channel; /* strong */
    PyObject *weakrefs;
} OneshotReceiverObject;

/* ---- the channel ---------------------------------------------------------------------------- */

static int
Oneshot_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pac_oneshot *o = &((OneshotObject *)op)->core;
    Py_VISIT(Py_TYPE(op));
    if (o->has_value) {
        Py_VISIT((PyObject *)o->value);
    }
    return 0;
}

static int
Oneshot_clear(PyObject *op)
{
    pac_oneshot_drop_receiver(&((OneshotObject *)op)->core);
    return 0;
}

static void
Oneshot_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pac_oneshot_fini(&((OneshotObject *)op)->core);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Oneshot_slots[] = {
    {Py_tp_doc, "What the two ends of a oneshot share."},
    {Py_tp_traverse, Oneshot_traverse},
    {Py_tp_clear, Oneshot_clear},
    {Py_tp_dealloc, Oneshot_dealloc},
    {0, NULL},
};

static PyType_Spec Oneshot_spec = {
    .name = "pyasync_c.Oneshot",
    .basicsize = sizeof(OneshotObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Oneshot_slots,
};

/* ---- sender --------------------------------------------------------------------------------- */

static int
OneshotSender_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OneshotSenderObject *)op)->channel);
    return 0;
}

static void
OneshotSender_dealloc(PyObject *op)
{
    OneshotSenderObject *self = (OneshotSenderObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pac_oneshot_drop_sender(&self->channel->core);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
OneshotSender_repr(PyObject *op)
{
    struct pac_oneshot *o = &((OneshotSenderObject *)op)->channel->core;
    pac_lock_acquire(&o->lock);
    const char *state = o->sent ? "sent" : o->closed ? "closed" : "open";
    pac_lock_release(&o->lock);
    return PyUnicode_FromFormat("<OneshotSender %s>", state);
}

PyDoc_STRVAR(OneshotSender_send_doc,
             "send($self, value, /)\n--\n\n"
             "Send the one value; never waits. From any thread.\n\n"
             "ChannelClosed if the receiver has gone or has closed, RuntimeError if something was\n"
             "sent before. Stands for Tokio's oneshot::Sender::send.");

static PyObject *
OneshotSender_send(PyObject *op, PyObject *value)
{
    OneshotSenderObject *self = (OneshotSenderObject *)op;
    enum pac_status status = pac_oneshot_send(&self->channel->core, Py_NewRef(value));
    if (status == PAC_OK) {
        Py_RETURN_NONE;
    }
    Py_DECREF(value);
    if (status == PAC_FULL) {
        PyErr_SetString(PyExc_RuntimeError, "a oneshot sends one value, and has sent it");
        return NULL;
    }
    return pacpy_channel_error(self->st, status);
}

PyDoc_STRVAR(OneshotSender_close_doc,
             "close($self, /)\n--\n\n"
             "Give up without sending: the receiver raises ChannelClosed, unless a value was sent\n"
             "before. Collecting the sender does the same. From any thread, any number of times.");

static PyObject *
OneshotSender_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OneshotSenderObject *self = (OneshotSenderObject *)op;
    pac_oneshot_drop_sender(&self->channel->core);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(OneshotSender_is_closed_doc,
             "is_closed($self, /)\n--\n\n"
             "True if nobody receives any more: the receiver has gone, has closed, or has its\n"
             "value. From any thread.");

static PyObject *
OneshotSender_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pac_oneshot_is_closed(&((OneshotSenderObject *)op)->channel->core));
}

PyDoc_STRVAR(OneshotSender_closed_doc,
             "closed($self, /)\n--\n\n"
             "A future that is ready once is_closed() is true: to give up work that nobody waits\n"
             "for any more. Stands for Tokio's oneshot::Sender::closed.");

static PyObject *
OneshotSender_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OneshotSenderObject *self = (OneshotSenderObject *)op;
    ClosedObject *closed = pacpy_closed_new(self->st, (PyObject *)self->channel);
    if (closed != NULL) {
        pac_oneshot_closed_init(&closed->wait, &self->channel->core);
    }
    return (PyObject *)closed;
}

static PyMethodDef OneshotSender_methods[] = {
    {"send", OneshotSender_send, METH_O, OneshotSender_send_doc},
    {"close", OneshotSender_close, METH_NOARGS, OneshotSender_close_doc},
    {"is_closed", OneshotSender_is_closed, METH_NOARGS, OneshotSender_is_closed_doc},
    {"closed", OneshotSender_closed, METH_NOARGS, OneshotSender_closed_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef OneshotSender_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(OneshotSenderObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(OneshotSender_doc,
             "The sending end of oneshot(). Collected or closed before it has sent, it makes the\n"
             "receiver raise ChannelClosed. May be used from any thread. Stands for Tokio's\n"
             "oneshot::Sender.");

static PyType_Slot OneshotSender_slots[] = {
    {Py_tp_doc, (void *)OneshotSender_doc},
    {Py_tp_traverse, OneshotSender_traverse},
    {Py_tp_dealloc, OneshotSender_dealloc},
    {Py_tp_repr, OneshotSender_repr},
    {Py_tp_methods, OneshotSender_methods},
    {Py_tp_members, OneshotSender_members},
    {0, NULL},
};

static PyType_Spec OneshotSender_spec = {
    .name = "pyasync_c.OneshotSender",
    .basicsize = sizeof(OneshotSenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = OneshotSender_slots,
};

/* ---- receiver ------------------------------------------------------------------------------- */

static int
OneshotReceiver_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    OneshotReceiverObject *self = (OneshotReceiverObject *)f;
    if (pac_oneshot_recv_poll(&self->recv, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            pac_oneshot_recv_drop(&self->recv); /* by something that the poll set off */
        }
        return 0;
    }
    if (self->recv.status != PAC_OK) {
        pacpy_channel_error(f->st, self->recv.status);
        return -1;
    }
    *value = self->recv.value;
    return 1;
}

static void
OneshotReceiver_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_oneshot_recv_drop(&((OneshotReceiverObject *)f)->recv);
    }
}

static const struct pacpy_future_vtable receiver_vtable = {
    .poll = OneshotReceiver_poll,
    .forget = OneshotReceiver_forget,
};

static int
OneshotReceiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OneshotReceiverObject *)op)->channel);
    return 0;
}

static void
OneshotReceiver_dealloc(PyObject *op)
{
    OneshotReceiverObject *self = (OneshotReceiverObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pacpy_future_fini(&self->future);
    pac_oneshot_drop_receiver(&self->channel->core);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
OneshotReceiver_repr(PyObject *op)
{
    OneshotReceiverObject *self = (OneshotReceiverObject *)op;
    struct pac_oneshot *o = &self->channel->core;
    pac_lock_acquire(&o->lock);
    const char *state = o->has_value ? "ready" : o->sender_gone || o->closed ? "closed" : "waiting";
    pac_lock_release(&o->lock);
    return PyUnicode_FromFormat("<OneshotReceiver %s>", state);
}

PyDoc_STRVAR(
    OneshotReceiver_try_recv_doc,
    "try_recv($self, /)\n--\n\n"
    "The value, if it is there. ChannelEmpty: not yet; ChannelClosed: it will never come,\n"
    "or was received before. From any thread.");

static PyObject *
OneshotReceiver_try_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    OneshotReceiverObject *self = (OneshotReceiverObject *)op;
    void *value;
    enum pac_status status = pac_oneshot_try_recv(&self->channel->core, &value);
    return status == PAC_OK ? value : pacpy_channel_error(self->future.st, status);
}

PyDoc_STRVAR(OneshotReceiver_blocking_recv_doc,
             "blocking_recv($self, /, *, timeout=None)\n--\n\n"
             "Wait for the value in a thread that runs no event loop (RuntimeError if it does).\n\n"
             "Raises what awaiting would, and TimeoutError after `timeout` seconds. Other threads\n"
             "run meanwhile; on the main thread a signal handler may raise, as for Ctrl-C. Stands\n"
             "for Tokio's oneshot::Receiver::blocking_recv.");

static PyObject *
OneshotReceiver_blocking_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    OneshotReceiverObject *self = (OneshotReceiverObject *)op;
    struct pacpy_state *st = self->future.st;
    struct pac_oneshot_recv recv;
    uint64_t deadline_ns;
    if (pacpy_blocking_args(st, "blocking_recv", args, nargs, 0, kwnames, &deadline_ns) < 0) {
        return NULL;
    }
    pac_oneshot_recv_init(&recv, &self->channel->core);
    int failed = pacpy_blocking_wait(&recv.future, deadline_ns);
    pac_oneshot_recv_drop(&recv);
    if (failed) {
        return NULL;
    }
    return recv.status == PAC_OK ? recv.value : pacpy_channel_error(st, recv.status);
}

PyDoc_STRVAR(
    OneshotReceiver_close_doc,
    "close($self, /)\n--\n\n"
    "Refuse a value from now on: send() raises ChannelClosed. One that was sent before can\n"
    "still be received. From any thread, any number of times. Stands for Tokio's\n"
    "oneshot::Receiver::close.");

static PyObject *
OneshotReceiver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_oneshot_close(&((OneshotReceiverObject *)op)->channel->core);
    Py_RETURN_NONE;
}

/* ---- awaiting it ---------------------------------------------------------------------------- */

/* A coroutine that is closed calls close() of what it awaits. A receiver's means something else, so
 * what is awaited is an object of its own, with the receiver behind it. */
typedef struct {
    PyObject_HEAD
    OneshotReceiverObject *receiver; /* strong */
} OneshotAwaitObject;

static PyObject *
OneshotReceiver_am_await(PyObject *op)
{
    struct pacpy_state *st = ((FutureObject *)op)->st;
    PyObject *awaiting = pacpy_freelist_alloc(&st->oneshot_await_free, st->OneshotAwait_type);
    if (awaiting != NULL) {
        ((OneshotAwaitObject *)awaiting)->receiver = (OneshotReceiverObject *)Py_NewRef(op);
        PyObject_GC_Track(awaiting);
    }
    return awaiting;
}

static PyObject *
OneshotAwait_iternext(PyObject *op)
{
    return Future_iternext((PyObject *)((OneshotAwaitObject *)op)->receiver);
}

static PySendResult
OneshotAwait_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    return Future_am_send((PyObject *)((OneshotAwaitObject *)op)->receiver, arg, result);
}

static PyObject *
OneshotAwait_send(PyObject *op, PyObject *arg)
{
    return Future_send((PyObject *)((OneshotAwaitObject *)op)->receiver, arg);
}

static PyObject *
OneshotAwait_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return Future_throw((PyObject *)((OneshotAwaitObject *)op)->receiver, args, nargs);
}

static PyObject *
OneshotAwait_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pacpy_future_forget(&((OneshotAwaitObject *)op)->receiver->future);
    Py_RETURN_NONE;
}

static int
OneshotAwait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OneshotAwaitObject *)op)->receiver);
    return 0;
}

static void
OneshotAwait_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    OneshotReceiverObject *receiver = ((OneshotAwaitObject *)op)->receiver;
    struct pacpy_state *st = receiver->future.st;
    PyObject_GC_UnTrack(op);
    pacpy_freelist_free(&st->oneshot_await_free, st->OneshotAwait_type, op);
    Py_DECREF(receiver);
}

static PyMethodDef OneshotAwait_methods[] = {
    {"send", OneshotAwait_send, METH_O, "Part of the await protocol."},
    {"throw", (PyCFunction)(void (*)(void))OneshotAwait_throw, METH_FASTCALL,
     "Part of the await protocol."},
    {"close", OneshotAwait_close, METH_NOARGS, "Part of the await protocol."},
    {NULL},
};

static PyType_Slot OneshotAwait_slots[] = {
    {Py_tp_doc, "The await of a OneshotReceiver."},
    {Py_tp_traverse, OneshotAwait_traverse},
    {Py_tp_dealloc, OneshotAwait_dealloc},
    {Py_tp_methods, OneshotAwait_methods},
    {Py_am_await, Future_am_await},
    {Py_am_send, OneshotAwait_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, OneshotAwait_iternext},
    {0, NULL},
};

static PyType_Spec OneshotAwait_spec = {
    .name = "pyasync_c.OneshotAwait",
    .basicsize = sizeof(OneshotAwaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = OneshotAwait_slots,
};

/* ---- the receiver's type -------------------------------------------------------------------- */

static PyMethodDef OneshotReceiver_methods[] = {
    {"try_recv", OneshotReceiver_try_recv, METH_NOARGS, OneshotReceiver_try_recv_doc},
    PACPY_BLOCKING_METHOD("blocking_recv", OneshotReceiver_blocking_recv,
                          OneshotReceiver_blocking_recv_doc),
    {"close", OneshotReceiver_close, METH_NOARGS, OneshotReceiver_close_doc},
    {NULL},
};

static PyMemberDef OneshotReceiver_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(OneshotReceiverObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(OneshotReceiver_doc,
             "The receiving end of oneshot(): a future of the value.\n\n"
             "Await it once. ChannelClosed if the sender goes without sending. A wait that is\n"
             "cancelled takes no value, and it may be awaited again. Stands for Tokio's\n"
             "oneshot::Receiver.");

static PyType_Slot OneshotReceiver_slots[] = {
    {Py_tp_doc, (void *)OneshotReceiver_doc},
    {Py_tp_traverse, OneshotReceiver_traverse},
    {Py_tp_dealloc, OneshotReceiver_dealloc},
    {Py_tp_repr, OneshotReceiver_repr},
    {Py_tp_methods, OneshotReceiver_methods},
    {Py_tp_members, OneshotReceiver_members},
    {Py_am_await, OneshotReceiver_am_await},
    {Py_am_send, Future_am_send},
    {Py_tp_iter, OneshotReceiver_am_await},
    {Py_tp_iternext, Future_iternext},
    {0, NULL},
};

static PyType_Spec OneshotReceiver_spec = {
    .name = "pyasync_c.OneshotReceiver",
    .basicsize = sizeof(OneshotReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = OneshotReceiver_slots,
};

/* ---- module --------------------------------------------------------------------------------- */

PyDoc_STRVAR(oneshot_doc, "oneshot()\n--\n\n"
                          "A channel for one value: (OneshotSender, OneshotReceiver).\n\n"
                          "    tx, rx = oneshot()\n"
                          "    tx.send(42)      # anywhere, once, from any thread\n"
                          "    await rx         # 42\n\n"
                          "Belongs to no loop. Stands for Tokio's oneshot::channel.");

static PyObject *
oneshot(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    OneshotObject *channel = (OneshotObject *)st->Oneshot_type->tp_alloc(st->Oneshot_type, 0);
    if (channel == NULL) {
        return NULL;
    }
    pac_oneshot_init(&channel->core, pacpy_channel_destroy);
    PyTypeObject *type = st->OneshotSender_type;
    OneshotSenderObject *sender = (OneshotSenderObject *)type->tp_alloc(type, 0);
    if (sender != NULL) {
        sender->st = st;
        sender->channel = (OneshotObject *)Py_NewRef(channel);
    }
    type = st->OneshotReceiver_type;
    OneshotReceiverObject *receiver = (OneshotReceiverObject *)type->tp_alloc(type, 0);
    if (receiver != NULL) {
        pacpy_future_init(&receiver->future, st, &receiver_vtable);
        pac_oneshot_recv_init(&receiver->recv, &channel->core);
        receiver->channel = (OneshotObject *)Py_NewRef(channel);
    }
    Py_DECREF(channel);
    return pacpy_pair((PyObject *)sender, (PyObject *)receiver);
}

static PyMethodDef functions[] = {
    {"oneshot", oneshot, METH_NOARGS, oneshot_doc},
    {NULL},
};

int
pacpy_oneshot_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Oneshot_spec, NULL, &st->Oneshot_type, NULL) < 0 ||
        pacpy_make_type(module, &OneshotAwait_spec, NULL, &st->OneshotAwait_type, NULL) < 0 ||
        pacpy_make_type(module, &OneshotSender_spec, NULL, &st->OneshotSender_type,
                        "OneshotSender") < 0 ||
        pacpy_make_type(module, &OneshotReceiver_spec, st->Future_type, &st->OneshotReceiver_type,
                        "OneshotReceiver") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
