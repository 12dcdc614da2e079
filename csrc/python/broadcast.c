/* broadcast.c - broadcast(), BroadcastSender and BroadcastReceiver. */
#include "sender.h"

#include "../core/broadcast.h"

/* The channel itself: never seen by users. */
typedef struct {
    PyObject_HEAD
    struct pac_broadcast core;
} BroadcastObject;

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    BroadcastObject *channel; /* strong */
    struct pac_broadcast_receiver core;
    PyObject *weakrefs;
} BroadcastReceiverObject;

typedef struct {
    FutureObject future;
    struct pac_broadcast_recv recv;
    BroadcastReceiverObject *receiver; /* strong */
} BroadcastRecvObject;

/* ---- the channel ---------------------------------------------------------------------------- */

static int
Broadcast_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pacpy_visiting visiting = {visit, arg};
    Py_VISIT(Py_TYPE(op));
    return pac_broadcast_visit(&((BroadcastObject *)op)->core, pacpy_visit_value, &visiting);
}

static int
Broadcast_clear(PyObject *op)
{
    pac_broadcast_clear(&((BroadcastObject *)op)->core);
    return 0;
}

static void
Broadcast_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pac_broadcast_fini(&((BroadcastObject *)op)->core);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Broadcast_slots[] = {
    {Py_tp_doc, "What the ends of a broadcast share."},
    {Py_tp_traverse, Broadcast_traverse},
    {Py_tp_clear, Broadcast_clear},
    {Py_tp_dealloc, Broadcast_dealloc},
    {0, NULL},
};

static PyType_Spec Broadcast_spec = {
    .name = "pyasync_c.Broadcast",
    .basicsize = sizeof(BroadcastObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Broadcast_slots,
};

/* What receiving came to, other than a value: sets the exception. */
static PyObject *
receive_error(struct pacpy_state *st, enum pac_status status, uint64_t skipped)
{
    if (status != PAC_LAGGED) {
        return pacpy_channel_error(st, status);
    }
    PyObject *lagged =
        PyObject_CallFunction((PyObject *)st->Lagged_type, "K", (unsigned long long)skipped);
    if (lagged != NULL) {
        PyErr_SetObject((PyObject *)st->Lagged_type, lagged);
        Py_DECREF(lagged);
    }
    return NULL;
}

/* ---- the future of a receive ---------------------------------------------------------------- */

static int
BroadcastRecv_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    BroadcastRecvObject *self = (BroadcastRecvObject *)f;
    if (pac_broadcast_recv_poll(&self->recv, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            pac_broadcast_recv_drop(&self->recv); /* by something that the poll set off */
        }
        return 0;
    }
    if (PAC_LIKELY(self->recv.status == PAC_OK)) {
        *value = self->recv.value;
        return 1;
    }
    receive_error(f->st, self->recv.status, self->recv.skipped);
    return -1;
}

static int
BroadcastRecv_poll_next(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    int ready = BroadcastRecv_poll(f, cx, value);
    if (ready < 0 && ((BroadcastRecvObject *)f)->recv.status == PAC_CLOSED) {
        PyErr_Clear();
        PyErr_SetNone(PyExc_StopAsyncIteration);
    }
    return ready;
}

static void
BroadcastRecv_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_broadcast_recv_drop(&((BroadcastRecvObject *)f)->recv);
    }
}

static const struct pacpy_future_vtable recv_vtable = {
    .poll = BroadcastRecv_poll,
    .forget = BroadcastRecv_forget,
};

static const struct pacpy_future_vtable next_vtable = {
    .poll = BroadcastRecv_poll_next,
    .forget = BroadcastRecv_forget,
};

static PyObject *
recv_new(PyObject *op, const struct pacpy_future_vtable *vtable)
{
    BroadcastReceiverObject *receiver = (BroadcastReceiverObject *)op;
    struct pacpy_state *st = receiver->st;
    BroadcastRecvObject *self = (BroadcastRecvObject *)pacpy_freelist_alloc(
        &st->broadcast_recv_free, st->BroadcastRecv_type);
    if (self != NULL) {
        pacpy_future_init(&self->future, st, vtable);
        pac_broadcast_recv_init(&self->recv, &receiver->core);
        self->receiver = (BroadcastReceiverObject *)Py_NewRef(op);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static int
BroadcastRecv_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((BroadcastRecvObject *)op)->receiver);
    return 0;
}

static void
BroadcastRecv_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    BroadcastRecvObject *self = (BroadcastRecvObject *)op;
    struct pacpy_state *st = self->future.st;
    BroadcastReceiverObject *receiver = self->receiver;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    pacpy_freelist_free(&st->broadcast_recv_free, st->BroadcastRecv_type, op);
    Py_DECREF(receiver);
}

static PyType_Slot BroadcastRecv_slots[] = {
    {Py_tp_doc, "What recv() and `async for` of a BroadcastReceiver await. Whoever is cancelled\n"
                "while awaiting it has taken nothing."},
    {Py_tp_traverse, BroadcastRecv_traverse},
    {Py_tp_dealloc, BroadcastRecv_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec BroadcastRecv_spec = {
    .name = "pyasync_c.BroadcastRecv",
    .basicsize = sizeof(BroadcastRecvObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BroadcastRecv_slots,
};

/* ---- receiver ------------------------------------------------------------------------------- */

static PyObject *
receiver_new(struct pacpy_state *st, BroadcastObject *channel)
{
    PyTypeObject *type = st->BroadcastReceiver_type;
    BroadcastReceiverObject *self = (BroadcastReceiverObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->channel = (BroadcastObject *)Py_NewRef(channel);
        pac_broadcast_subscribe(&self->core, &channel->core);
    }
    return (PyObject *)self;
}

static int
BroadcastReceiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((BroadcastReceiverObject *)op)->channel);
    return 0;
}

static void
BroadcastReceiver_dealloc(PyObject *op)
{
    BroadcastReceiverObject *self = (BroadcastReceiverObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pac_broadcast_unsubscribe(&self->core);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
BroadcastReceiver_repr(PyObject *op)
{
    BroadcastReceiverObject *self = (BroadcastReceiverObject *)op;
    return PyUnicode_FromFormat("<BroadcastReceiver %squeued=%zu>",
                                self->core.gone ? "closed " : "",
                                pac_broadcast_length(&self->core));
}

PyDoc_STRVAR(
    BroadcastReceiver_recv_doc,
    "recv($self, /)\n--\n\n"
    "A future of the next value.\n\n"
    "Awaiting it raises Lagged, once, if values were lost because this receiver was slow,\n"
    "and ChannelClosed once everything was received and all senders are closed, or this\n"
    "receiver is. Cancelled, it takes no value. Works on any loop. Stands for Tokio's\n"
    "broadcast::Receiver::recv.");

static PyObject *
BroadcastReceiver_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return recv_new(op, &recv_vtable);
}

static PyObject *
BroadcastReceiver_anext(PyObject *op)
{
    return recv_new(op, &next_vtable);
}

PyDoc_STRVAR(BroadcastReceiver_try_recv_doc,
             "try_recv($self, /)\n--\n\n"
             "The next value, without waiting. ChannelEmpty: none is there; otherwise raises as\n"
             "recv(). From any thread.");

static PyObject *
BroadcastReceiver_try_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BroadcastReceiverObject *self = (BroadcastReceiverObject *)op;
    void *value;
    uint64_t skipped;
    enum pac_status status = pac_broadcast_try_recv(&self->core, &value, &skipped);
    return status == PAC_OK ? value : receive_error(self->st, status, skipped);
}

PyDoc_STRVAR(BroadcastReceiver_blocking_recv_doc,
             "blocking_recv($self, /, *, timeout=None)\n--\n\n"
             "The next value, waiting for it in a thread that runs no event loop (RuntimeError if\n"
             "it does).\n\n"
             "Raises as recv(), and TimeoutError after `timeout` seconds. Other threads run\n"
             "meanwhile; on the main thread a signal handler may raise, as for Ctrl-C. Stands for\n"
             "Tokio's broadcast::Receiver::blocking_recv.");

static PyObject *
BroadcastReceiver_blocking_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    BroadcastReceiverObject *self = (BroadcastReceiverObject *)op;
    struct pac_broadcast_recv recv;
    uint64_t deadline_ns;
    if (pacpy_blocking_args(self->st, "blocking_recv", args, nargs, 0, kwnames, &deadline_ns) < 0) {
        return NULL;
    }
    pac_broadcast_recv_init(&recv, &self->core);
    int failed = pacpy_blocking_wait(&recv.future, deadline_ns);
    pac_broadcast_recv_drop(&recv);
    if (failed) {
        return NULL;
    }
    return recv.status == PAC_OK ? recv.value : receive_error(self->st, recv.status, recv.skipped);
}

PyDoc_STRVAR(BroadcastReceiver_close_doc,
             "close($self, /)\n--\n\n"
             "Receive nothing any more: whatever waits here raises ChannelClosed. Collecting the\n"
             "receiver does the same. From any thread, any number of times.");

static PyObject *
BroadcastReceiver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_broadcast_unsubscribe(&((BroadcastReceiverObject *)op)->core);
    Py_RETURN_NONE;
}

static PyMethodDef BroadcastReceiver_methods[] = {
    {"recv", BroadcastReceiver_recv, METH_NOARGS, BroadcastReceiver_recv_doc},
    {"try_recv", BroadcastReceiver_try_recv, METH_NOARGS, BroadcastReceiver_try_recv_doc},
    PACPY_BLOCKING_METHOD("blocking_recv", BroadcastReceiver_blocking_recv,
                          BroadcastReceiver_blocking_recv_doc),
    {"close", BroadcastReceiver_close, METH_NOARGS, BroadcastReceiver_close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef BroadcastReceiver_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BroadcastReceiverObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(BroadcastReceiver_doc,
             "A receiving end of broadcast(): gets every value that was sent since it was made by\n"
             "subscribe().\n\n"
             "    async for value in receiver: ...\n\n"
             "ends once all senders are closed and everything was received; it raises Lagged if\n"
             "this receiver was too slow, and may be begun anew then. Stands for Tokio's\n"
             "broadcast::Receiver.");

static PyType_Slot BroadcastReceiver_slots[] = {
    {Py_tp_doc, (void *)BroadcastReceiver_doc},
    {Py_tp_traverse, BroadcastReceiver_traverse},
    {Py_tp_dealloc, BroadcastReceiver_dealloc},
    {Py_tp_repr, BroadcastReceiver_repr},
    {Py_tp_methods, BroadcastReceiver_methods},
    {Py_tp_members, BroadcastReceiver_members},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, BroadcastReceiver_anext},
    {0, NULL},
};

static PyType_Spec BroadcastReceiver_spec = {
    .name = "pyasync_c.BroadcastReceiver",
    .basicsize = sizeof(BroadcastReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BroadcastReceiver_slots,
};

/* ---- sender --------------------------------------------------------------------------------- */

static void
sender_add(void *core)
{
    pac_broadcast_add_sender(core);
}

static void
sender_drop(void *core)
{
    pac_broadcast_drop_sender(core);
}

static bool
channel_is_closed(void *core)
{
    return pac_broadcast_is_closed(core);
}

static void
closed_init(struct pac_flag_wait *f, void *core)
{
    pac_broadcast_closed_init(f, core);
}

static const struct pacpy_sender_vtable sender_vtable = {
    .add = sender_add,
    .drop = sender_drop,
    .is_closed = channel_is_closed,
    .closed_init = closed_init,
};

static PyObject *
BroadcastSender_repr(PyObject *op)
{
    SenderObject *self = (SenderObject *)op;
    struct pac_broadcast *b = self->core;
    pac_lock_acquire(&b->lock);
    size_t receivers = b->receivers;
    pac_lock_release(&b->lock);
    return PyUnicode_FromFormat("<BroadcastSender %sreceivers=%zu capacity=%zu>",
                                self->closed ? "closed " : "", receivers, b->capacity);
}

PyDoc_STRVAR(BroadcastSender_send_doc,
             "send($self, value, /)\n--\n\n"
             "Send to all that are subscribed now, and return how many they are; never waits.\n\n"
             "ChannelClosed if there is no receiver, which a later subscribe() mends, or if this\n"
             "end is closed. From any thread. Stands for Tokio's broadcast::Sender::send.");

static PyObject *
BroadcastSender_send(PyObject *op, PyObject *value)
{
    SenderObject *self = (SenderObject *)op;
    size_t receivers;
    enum pac_status status = PAC_CLOSED;
    if (!self->closed) {
        status = pac_broadcast_send(self->core, Py_NewRef(value), &receivers);
        if (status == PAC_OK) {
            return PyLong_FromSize_t(receivers);
        }
        Py_DECREF(value);
    }
    return pacpy_channel_error(self->st, status);
}

PyDoc_STRVAR(BroadcastSender_subscribe_doc,
             "subscribe($self, /)\n--\n\n"
             "One more receiver: it gets what is sent from now on. ChannelClosed if this end is\n"
             "closed. From any thread. Stands for Tokio's broadcast::Sender::subscribe.");

static PyObject *
BroadcastSender_subscribe(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SenderObject *self = (SenderObject *)op;
    if (self->closed) {
        return pacpy_channel_error(self->st, PAC_CLOSED);
    }
    return receiver_new(self->st, (BroadcastObject *)self->channel);
}

static PyMethodDef BroadcastSender_methods[] = {
    {"send", BroadcastSender_send, METH_O, BroadcastSender_send_doc},
    {"subscribe", BroadcastSender_subscribe, METH_NOARGS, BroadcastSender_subscribe_doc},
    PACPY_SENDER_METHODS,
    {NULL},
};

PyDoc_STRVAR(
    BroadcastSender_doc,
    "The sending end of broadcast(). clone() makes more senders, subscribe() more\n"
    "receivers. Closed by close(), at the end of `with sender:`, or when it is collected.\n"
    "May be used from any thread. Stands for Tokio's broadcast::Sender.");

static PyType_Slot BroadcastSender_slots[] = {
    {Py_tp_doc, (void *)BroadcastSender_doc},
    {Py_tp_repr, BroadcastSender_repr},
    {Py_tp_methods, BroadcastSender_methods},
    PACPY_SENDER_SLOTS,
    {0, NULL},
};

static PyType_Spec BroadcastSender_spec = {
    .name = "pyasync_c.BroadcastSender",
    .basicsize = sizeof(SenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = BroadcastSender_slots,
};

/* ---- module --------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    broadcast_doc,
    "broadcast(capacity, /)\n--\n\n"
    "A channel in which every receiver gets every value: (BroadcastSender,\n"
    "BroadcastReceiver).\n\n"
    "    tx, rx = broadcast(16)\n"
    "    another = tx.subscribe()\n"
    "    tx.send(\"hello\")         # 2 receivers will get it\n\n"
    "Sending never waits: a receiver that is more than `capacity` values behind loses the\n"
    "oldest and raises Lagged once. Raises TypeError, ValueError and OverflowError as\n"
    "channel() does. Belongs to no loop. Stands for Tokio's broadcast::channel.");

static PyObject *
broadcast(PyObject *module, PyObject *arg)
{
    struct pacpy_state *st = pacpy_state_of(module);
    size_t capacity;
    if (pacpy_size_from_object(arg, "capacity", 1, &capacity) < 0) {
        return NULL;
    }
    PyTypeObject *type = st->Broadcast_type;
    BroadcastObject *channel = (BroadcastObject *)type->tp_alloc(type, 0);
    if (channel == NULL) {
        return NULL;
    }
    enum pac_status status =
        pac_broadcast_init(&channel->core, capacity, pacpy_channel_clone, pacpy_channel_destroy);
    if (status != PAC_OK) {
        Py_DECREF(channel);
        return pacpy_channel_error(st, status);
    }
    SenderObject *sender = pacpy_sender_new(st, st->BroadcastSender_type, &sender_vtable,
                                            (PyObject *)channel, &channel->core);
    PyObject *receiver = receiver_new(st, channel);
    Py_DECREF(channel);
    return pacpy_pair((PyObject *)sender, receiver);
}

static PyMethodDef functions[] = {
    {"broadcast", broadcast, METH_O, broadcast_doc},
    {NULL},
};

int
pacpy_broadcast_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Broadcast_spec, NULL, &st->Broadcast_type, NULL) < 0 ||
        pacpy_make_type(module, &BroadcastRecv_spec, st->Future_type, &st->BroadcastRecv_type,
                        NULL) < 0 ||
        pacpy_make_type(module, &BroadcastSender_spec, NULL, &st->BroadcastSender_type,
                        "BroadcastSender") < 0 ||
        pacpy_make_type(module, &BroadcastReceiver_spec, NULL, &st->BroadcastReceiver_type,
                        "BroadcastReceiver") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
