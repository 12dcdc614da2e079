/* mpsc.c - channel(), unbounded_channel(), and their ends: Sender, UnboundedSender, Receiver.
 *
 * A Send owns its value until the core has put it into the channel, which the state of the core's
 * future tells. Who waits in the core's lines is a Send or a Recv, which leaves them before it is
 * freed; each keeps its end, and by it the channel, alive.
 */
#include "sender.h"

#include "../core/mpsc.h"

/* The channel itself: never seen by users. */
typedef struct {
    PyObject_HEAD
    struct pac_mpsc core;
} MpscObject;

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    MpscObject *channel; /* strong */
    PyObject *weakrefs;
} ReceiverObject;

typedef struct {
    FutureObject future;
    struct pac_mpsc_send send; /* its value: ours, unless it was sent */
    SenderObject *sender;      /* strong */
} SendObject;

typedef struct {
    FutureObject future;
    struct pac_mpsc_recv recv;
    void *value;              /* what was received, within a poll */
    size_t limit;             /* recv_many's */
    ReceiverObject *receiver; /* strong */
} RecvObject;

/* ---- the channel ---------------------------------------------------------------------------- */

static int
Mpsc_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pacpy_visiting visiting = {visit, arg};
    Py_VISIT(Py_TYPE(op));
    return pac_mpsc_visit(&((MpscObject *)op)->core, pacpy_visit_value, &visiting);
}

static int
Mpsc_clear(PyObject *op)
{
    pac_mpsc_drop_receiver(&((MpscObject *)op)->core);
    return 0;
}

static void
Mpsc_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pac_mpsc_fini(&((MpscObject *)op)->core);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Mpsc_slots[] = {
    {Py_tp_doc, "What the ends of a channel share."},
    {Py_tp_traverse, Mpsc_traverse},
    {Py_tp_clear, Mpsc_clear},
    {Py_tp_dealloc, Mpsc_dealloc},
    {0, NULL},
};

static PyType_Spec Mpsc_spec = {
    .name = "pyasync_c.Mpsc",
    .basicsize = sizeof(MpscObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Mpsc_slots,
};

/* ---- Send ----------------------------------------------------------------------------------- */

static int
Send_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    SendObject *self = (SendObject *)f;
    if (PAC_UNLIKELY(self->sender->closed && self->send.state == PAC_MPSC_UNSENT)) {
        pacpy_channel_error(f->st, PAC_CLOSED);
        return -1;
    }
    if (pac_mpsc_send_poll(&self->send, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            pac_mpsc_send_drop(&self->send); /* by something that the poll set off */
        }
        return 0;
    }
    if (PAC_UNLIKELY(self->send.status != PAC_OK)) {
        pacpy_channel_error(f->st, self->send.status);
        return -1;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

static void
Send_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_mpsc_send_drop(&((SendObject *)f)->send);
    }
}

static const struct pacpy_future_vtable send_vtable = {
    .poll = Send_poll,
    .forget = Send_forget,
};

static int
Send_traverse(PyObject *op, visitproc visit, void *arg)
{
    SendObject *self = (SendObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->sender);
    if (self->send.state != PAC_MPSC_SENT) {
        Py_VISIT((PyObject *)self->send.value);
    }
    return 0;
}

/* Let the value go, unless it is the channel's. None takes its place: it may still be polled. */
static int
Send_clear(PyObject *op)
{
    SendObject *self = (SendObject *)op;
    pacpy_future_forget(&self->future);
    if (self->send.state != PAC_MPSC_SENT) {
        PyObject *value = self->send.value;
        self->send.value = Py_NewRef(Py_None);
        Py_DECREF(value);
    }
    return 0;
}

static void
Send_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    SendObject *self = (SendObject *)op;
    struct pacpy_state *st = self->future.st;
    SenderObject *sender = self->sender;
    bool stands_somewhere = self->send.waiter.armed || self->future.wait != NULL;
    if (PAC_UNLIKELY(stands_somewhere)) {
        PyObject_GC_UnTrack(op);
        pacpy_future_fini(&self->future);
    }
    PyObject *value = self->send.state == PAC_MPSC_SENT ? NULL : self->send.value;
    self->send.state = PAC_MPSC_SENT;
    self->sender = NULL;
    self->future.state = PACPY_DROPPED;
    if (stands_somewhere || !pacpy_freelist_keep_warm(&st->send_free, op)) {
        PyObject_GC_UnTrack(op);
        pacpy_freelist_free(&st->send_free, st->Send_type, op);
    }
    pacpy_release(value);
    Py_XDECREF(sender); /* NULL: it has stood warm */
}

static PyObject *
Send_sent(PyObject *op, void *Py_UNUSED(closure))
{
    SendObject *self = (SendObject *)op;
    /* A warm one has no sender. */
    return PyBool_FromLong(self->sender == NULL || pac_mpsc_send_was_sent(&self->send));
}

static PyGetSetDef Send_getset[] = {
    {"sent", Send_sent, NULL,
     "True once the channel has taken the value; false: nothing of it is\n"
     "there. From any thread.",
     NULL},
    {NULL},
};

PyDoc_STRVAR(
    Send_doc,
    "What Sender.send() returns: a future that is ready once the channel has the value.\n\n"
    "Whoever is cancelled while awaiting it gives up its place in the line. `sent` tells\n"
    "whether the value had been taken before; if not, it was never sent. Awaiting it\n"
    "again goes on, and never sends twice. Stands for the future of Tokio's\n"
    "mpsc::Sender::send.");

static PyType_Slot Send_slots[] = {
    {Py_tp_doc, (void *)Send_doc},
    {Py_tp_traverse, Send_traverse},
    {Py_tp_clear, Send_clear},
    {Py_tp_dealloc, Send_dealloc},
    {Py_tp_getset, Send_getset},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Send_spec = {
    .name = "pyasync_c.Send",
    .basicsize = sizeof(SendObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Send_slots,
};

/* ---- Recv ----------------------------------------------------------------------------------- */

/* The core's part of a poll: PAC_OK; PAC_EMPTY: pending; PAC_CLOSED. */
static inline enum pac_status
recv_advance(RecvObject *self, struct pac_context *cx)
{
    if (pac_mpsc_recv_poll(&self->recv, cx) == PAC_READY) {
        return self->recv.status;
    }
    if (PAC_UNLIKELY(self->future.state == PACPY_DROPPED)) {
        pac_mpsc_recv_drop(&self->recv); /* by something that the poll set off */
    }
    return PAC_EMPTY;
}

static int
Recv_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    RecvObject *self = (RecvObject *)f;
    enum pac_status status = recv_advance(self, cx);
    if (PAC_LIKELY(status == PAC_OK)) {
        *value = self->value;
        return 1;
    }
    if (status == PAC_EMPTY) {
        return 0;
    }
    pacpy_channel_error(f->st, status);
    return -1;
}

static int
Recv_poll_next(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    int ready = Recv_poll(f, cx, value);
    if (PAC_UNLIKELY(ready < 0)) {
        PyErr_Clear();
        PyErr_SetNone(PyExc_StopAsyncIteration);
    }
    return ready;
}

/* The list is made first, so that no value is taken that could then not be handed over. */
static int
Recv_poll_many(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    RecvObject *self = (RecvObject *)f;
    if (self->limit == 0) {
        *value = PyList_New(0);
        return *value == NULL ? -1 : 1;
    }
    size_t size = pac_mpsc_length(&self->receiver->channel->core);
    size = size > self->limit ? self->limit : size == 0 ? 1 : size;
    PyObject *list = PyList_New((Py_ssize_t)size);
    if (list == NULL) {
        return -1;
    }
    self->recv.values = (void **)((PyListObject *)list)->ob_item;
    self->recv.limit = size;
    enum pac_status status = recv_advance(self, cx);
    if (status == PAC_OK) {
        Py_SET_SIZE(list, (Py_ssize_t)self->recv.count);
        *value = list;
        return 1;
    }
    Py_DECREF(list);
    if (status == PAC_EMPTY) {
        return 0;
    }
    pacpy_channel_error(f->st, status);
    return -1;
}

static void
Recv_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_mpsc_recv_drop(&((RecvObject *)f)->recv);
    }
}

static const struct pacpy_future_vtable recv_vtable = {
    .poll = Recv_poll,
    .forget = Recv_forget,
};

static const struct pacpy_future_vtable next_vtable = {
    .poll = Recv_poll_next,
    .forget = Recv_forget,
};

static const struct pacpy_future_vtable many_vtable = {
    .poll = Recv_poll_many,
    .forget = Recv_forget,
};

static PyObject *
recv_new(PyObject *op, const struct pacpy_future_vtable *vtable, size_t limit)
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    struct pacpy_state *st = receiver->st;
    RecvObject *self = (RecvObject *)pacpy_freelist_take_warm(&st->recv_free);
    bool is_tracked = self != NULL;
    if (!is_tracked) {
        self = (RecvObject *)pacpy_freelist_alloc(&st->recv_free, st->Recv_type);
    }
    if (self != NULL) {
        pacpy_future_init(&self->future, st, vtable);
        pac_mpsc_recv_init(&self->recv, &receiver->channel->core, &self->value, 1);
        self->limit = limit;
        self->receiver = (ReceiverObject *)Py_NewRef(op);
        if (!is_tracked) {
            PyObject_GC_Track(self);
        }
    }
    return (PyObject *)self;
}

static int
Recv_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((RecvObject *)op)->receiver);
    return 0;
}

static void
Recv_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    RecvObject *self = (RecvObject *)op;
    struct pacpy_state *st = self->future.st;
    ReceiverObject *receiver = self->receiver;
    bool stands_somewhere = self->recv.waiter.armed || self->future.wait != NULL;
    if (PAC_UNLIKELY(stands_somewhere)) {
        PyObject_GC_UnTrack(op);
        pacpy_future_fini(&self->future);
    }
    self->receiver = NULL;
    self->future.state = PACPY_DROPPED;
    if (stands_somewhere || !pacpy_freelist_keep_warm(&st->recv_free, op)) {
        PyObject_GC_UnTrack(op);
        pacpy_freelist_free(&st->recv_free, st->Recv_type, op);
    }
    Py_XDECREF(receiver); /* NULL: it has stood warm */
}

PyDoc_STRVAR(Recv_doc,
             "What recv(), recv_many() and `async for` of a Receiver await. Whoever is cancelled\n"
             "while awaiting it has taken nothing.");

static PyType_Slot Recv_slots[] = {
    {Py_tp_doc, (void *)Recv_doc},
    {Py_tp_traverse, Recv_traverse},
    {Py_tp_dealloc, Recv_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Recv_spec = {
    .name = "pyasync_c.Recv",
    .basicsize = sizeof(RecvObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Recv_slots,
};

/* ---- the senders ---------------------------------------------------------------------------- */

static void
sender_add(void *core)
{
    pac_mpsc_add_sender(core);
}

static void
sender_drop(void *core)
{
    pac_mpsc_drop_sender(core);
}

static bool
channel_is_closed(void *core)
{
    return pac_mpsc_is_closed(core);
}

static void
closed_init(struct pac_flag_wait *f, void *core)
{
    pac_mpsc_closed_init(f, core);
}

static const struct pacpy_sender_vtable sender_vtable = {
    .add = sender_add,
    .drop = sender_drop,
    .is_closed = channel_is_closed,
    .closed_init = closed_init,
};

static PyObject *
end_repr(struct pac_mpsc *m, const char *name, bool closed)
{
    const char *state = closed ? "closed " : "";
    size_t length = pac_mpsc_length(m);
    if (m->capacity == PAC_MPSC_UNBOUNDED) {
        return PyUnicode_FromFormat("<%s %squeued=%zu>", name, state, length);
    }
    return PyUnicode_FromFormat("<%s %squeued=%zu capacity=%zu>", name, state, length, m->capacity);
}

static PyObject *
Sender_repr(PyObject *op)
{
    SenderObject *self = (SenderObject *)op;
    const char *name = Py_TYPE(op) == self->st->Sender_type ? "Sender" : "UnboundedSender";
    return end_repr(self->core, name, pacpy_sender_is_closed(self));
}

/* Send now, or raise. */
static PyObject *
try_send(PyObject *op, PyObject *value)
{
    SenderObject *self = (SenderObject *)op;
    enum pac_status status = PAC_CLOSED;
    if (!self->closed) {
        status = pac_mpsc_try_send(self->core, Py_NewRef(value));
        if (PAC_LIKELY(status == PAC_OK)) {
            Py_RETURN_NONE;
        }
        Py_DECREF(value);
    }
    return pacpy_channel_error(self->st, status);
}

PyDoc_STRVAR(
    Sender_send_doc,
    "send($self, value, /)\n--\n\n"
    "A future that is ready once the channel has taken the value: at once, or when there\n"
    "is room. Senders that wait are let in in order.\n\n"
    "Awaiting it raises ChannelClosed if nobody receives any more. Cancelled, it leaves\n"
    "nothing in the channel, unless the value was taken before the cancellation came: the\n"
    "future's `sent` tells. Works on any loop. Stands for Tokio's mpsc::Sender::send.");

static PyObject *
Sender_send(PyObject *op, PyObject *value)
{
    SenderObject *sender = (SenderObject *)op;
    struct pacpy_state *st = sender->st;
    SendObject *self = (SendObject *)pacpy_freelist_take_warm(&st->send_free);
    bool is_tracked = self != NULL;
    if (!is_tracked) {
        self = (SendObject *)pacpy_freelist_alloc(&st->send_free, st->Send_type);
    }
    if (self != NULL) {
        pacpy_future_init(&self->future, st, &send_vtable);
        pac_mpsc_send_init(&self->send, sender->core, Py_NewRef(value));
        self->sender = (SenderObject *)Py_NewRef(op);
        if (!is_tracked) {
            PyObject_GC_Track(self);
        }
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(Sender_try_send_doc,
             "try_send($self, value, /)\n--\n\n"
             "Send without waiting. ChannelFull: no room now; ChannelClosed: nobody receives any\n"
             "more. From any thread. Stands for Tokio's mpsc::Sender::try_send.");

PyDoc_STRVAR(
    Sender_blocking_send_doc,
    "blocking_send($self, value, /, *, timeout=None)\n--\n\n"
    "Send, waiting for room in a thread that runs no event loop (RuntimeError if it does).\n\n"
    "ChannelClosed if nobody receives any more, TimeoutError after `timeout` seconds: then\n"
    "nothing was sent. Other threads run meanwhile; on the main thread a signal handler\n"
    "may raise, as for Ctrl-C. Stands for Tokio's mpsc::Sender::blocking_send.");

static PyObject *
Sender_blocking_send(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    SenderObject *self = (SenderObject *)op;
    struct pac_mpsc_send send;
    uint64_t deadline_ns;
    if (pacpy_blocking_args(self->st, "blocking_send", args, nargs, 1, kwnames, &deadline_ns) < 0) {
        return NULL;
    }
    if (self->closed) {
        return pacpy_channel_error(self->st, PAC_CLOSED);
    }
    pac_mpsc_send_init(&send, self->core, Py_NewRef(args[0]));
    int failed = pacpy_blocking_wait(&send.future, deadline_ns);
    pac_mpsc_send_drop(&send);
    if (!failed && send.status != PAC_OK) {
        pacpy_channel_error(self->st, send.status);
        failed = -1;
    }
    if (send.state != PAC_MPSC_SENT) {
        Py_DECREF(args[0]);
    }
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef Sender_methods[] = {
    {"send", Sender_send, METH_O, Sender_send_doc},
    {"try_send", try_send, METH_O, Sender_try_send_doc},
    PACPY_BLOCKING_METHOD("blocking_send", Sender_blocking_send, Sender_blocking_send_doc),
    PACPY_SENDER_METHODS,
    {NULL},
};

PyDoc_STRVAR(UnboundedSender_send_doc,
             "send($self, value, /)\n--\n\n"
             "Send; there is always room. ChannelClosed if nobody receives any more. From any\n"
             "thread. Stands for Tokio's mpsc::UnboundedSender::send.");

static PyMethodDef UnboundedSender_methods[] = {
    {"send", try_send, METH_O, UnboundedSender_send_doc},
    PACPY_SENDER_METHODS,
    {NULL},
};

PyDoc_STRVAR(Sender_doc,
             "The sending end of channel(). clone() makes more; each is closed by close(), at the\n"
             "end of `with sender:`, or when it is collected. May be used from any thread. Stands\n"
             "for Tokio's mpsc::Sender.");

PyDoc_STRVAR(
    UnboundedSender_doc,
    "The sending end of unbounded_channel(). clone() makes more; each is closed by\n"
    "close(), at the end of `with sender:`, or when it is collected. May be used from any\n"
    "thread. Stands for Tokio's mpsc::UnboundedSender.");

static PyType_Slot Sender_slots[] = {
    {Py_tp_doc, (void *)Sender_doc},
    {Py_tp_repr, Sender_repr},
    {Py_tp_methods, Sender_methods},
    PACPY_SENDER_SLOTS,
    {0, NULL},
};

static PyType_Slot UnboundedSender_slots[] = {
    {Py_tp_doc, (void *)UnboundedSender_doc},
    {Py_tp_repr, Sender_repr},
    {Py_tp_methods, UnboundedSender_methods},
    PACPY_SENDER_SLOTS,
    {0, NULL},
};

/* ---- Receiver ------------------------------------------------------------------------------- */

static int
Receiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReceiverObject *)op)->channel);
    return 0;
}

static void
Receiver_dealloc(PyObject *op)
{
    ReceiverObject *self = (ReceiverObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pac_mpsc_drop_receiver(&self->channel->core);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
Receiver_repr(PyObject *op)
{
    struct pac_mpsc *m = &((ReceiverObject *)op)->channel->core;
    return end_repr(m, "Receiver", pac_mpsc_is_closed(m));
}

PyDoc_STRVAR(
    Receiver_recv_doc,
    "recv($self, /)\n--\n\n"
    "A future of the next value.\n\n"
    "Awaiting it raises ChannelClosed once the channel is empty and nothing can come.\n"
    "Cancelled, it takes no value. Several tasks may wait at once: each value goes to one\n"
    "of them, in the order in which they came. Works on any loop. Stands for Tokio's\n"
    "mpsc::Receiver::recv, which one task at a time may call.");

static PyObject *
Receiver_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return recv_new(op, &recv_vtable, 1);
}

static PyObject *
Receiver_anext(PyObject *op)
{
    return recv_new(op, &next_vtable, 1);
}

PyDoc_STRVAR(Receiver_recv_many_doc,
             "recv_many($self, limit, /)\n--\n\n"
             "A future of a list of what is there, at least one value and at most `limit`.\n\n"
             "It waits while nothing is there. With a limit of 0 it is ready with an empty list.\n"
             "ValueError if the limit is negative. Otherwise as recv(). Stands for Tokio's\n"
             "mpsc::Receiver::recv_many.");

static PyObject *
Receiver_recv_many(PyObject *op, PyObject *limit)
{
    size_t most;
    return pacpy_size_from_object(limit, "limit", 0, &most) < 0 ? NULL
                                                                : recv_new(op, &many_vtable, most);
}

PyDoc_STRVAR(Receiver_try_recv_doc,
             "try_recv($self, /)\n--\n\n"
             "The next value, without waiting, and before those who do. ChannelEmpty: none is\n"
             "there; ChannelClosed: none will come. From any thread. Stands for Tokio's\n"
             "mpsc::Receiver::try_recv.");

static PyObject *
Receiver_try_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ReceiverObject *self = (ReceiverObject *)op;
    void *value;
    enum pac_status status = pac_mpsc_try_recv(&self->channel->core, &value);
    return PAC_LIKELY(status == PAC_OK) ? value : pacpy_channel_error(self->st, status);
}

PyDoc_STRVAR(Receiver_blocking_recv_doc,
             "blocking_recv($self, /, *, timeout=None)\n--\n\n"
             "The next value, waiting for it in a thread that runs no event loop (RuntimeError if\n"
             "it does).\n\n"
             "ChannelClosed as recv(), TimeoutError after `timeout` seconds. Other threads run\n"
             "meanwhile; on the main thread a signal handler may raise, as for Ctrl-C. Stands for\n"
             "Tokio's mpsc::Receiver::blocking_recv.");

static PyObject *
Receiver_blocking_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ReceiverObject *self = (ReceiverObject *)op;
    struct pac_mpsc_recv recv;
    void *value;
    uint64_t deadline_ns;
    if (pacpy_blocking_args(self->st, "blocking_recv", args, nargs, 0, kwnames, &deadline_ns) < 0) {
        return NULL;
    }
    pac_mpsc_recv_init(&recv, &self->channel->core, &value, 1);
    int failed = pacpy_blocking_wait(&recv.future, deadline_ns);
    pac_mpsc_recv_drop(&recv);
    if (failed) {
        return NULL;
    }
    return recv.status == PAC_OK ? value : pacpy_channel_error(self->st, recv.status);
}

PyDoc_STRVAR(Receiver_close_doc,
             "close($self, /)\n--\n\n"
             "Refuse values from now on. Sends that wait raise ChannelClosed; what stands in the\n"
             "channel can still be received. From any thread, any number of times. Stands for\n"
             "Tokio's mpsc::Receiver::close.");

static PyObject *
Receiver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_mpsc_close(&((ReceiverObject *)op)->channel->core);
    Py_RETURN_NONE;
}

static PyMethodDef Receiver_methods[] = {
    {"recv", Receiver_recv, METH_NOARGS, Receiver_recv_doc},
    {"recv_many", Receiver_recv_many, METH_O, Receiver_recv_many_doc},
    {"try_recv", Receiver_try_recv, METH_NOARGS, Receiver_try_recv_doc},
    PACPY_BLOCKING_METHOD("blocking_recv", Receiver_blocking_recv, Receiver_blocking_recv_doc),
    {"close", Receiver_close, METH_NOARGS, Receiver_close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef Receiver_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ReceiverObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(Receiver_doc,
             "The receiving end of channel() and unbounded_channel().\n\n"
             "    async for value in receiver: ...\n\n"
             "ends once all senders are closed and what they sent was received. Collected, it\n"
             "closes the channel and drops what stands in it. Stands for Tokio's mpsc::Receiver.");

static PyType_Slot Receiver_slots[] = {
    {Py_tp_doc, (void *)Receiver_doc},
    {Py_tp_traverse, Receiver_traverse},
    {Py_tp_dealloc, Receiver_dealloc},
    {Py_tp_repr, Receiver_repr},
    {Py_tp_methods, Receiver_methods},
    {Py_tp_members, Receiver_members},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Receiver_anext},
    {0, NULL},
};

#define END_SPEC(Name, Object)                                                        \
    static PyType_Spec Name##_spec = {                                                \
        .name = "pyasync_c." #Name,                                                   \
        .basicsize = sizeof(Object),                                                  \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | \
                 Py_TPFLAGS_DISALLOW_INSTANTIATION,                                   \
        .slots = Name##_slots,                                                        \
    }

END_SPEC(Sender, SenderObject);
END_SPEC(UnboundedSender, SenderObject);
END_SPEC(Receiver, ReceiverObject);

/* ---- module --------------------------------------------------------------------------------- */

static PyObject *
make_channel(struct pacpy_state *st, size_t capacity, PyTypeObject *sender_type)
{
    MpscObject *channel = (MpscObject *)st->Mpsc_type->tp_alloc(st->Mpsc_type, 0);
    if (channel == NULL) {
        return NULL;
    }
    pac_mpsc_init(&channel->core, capacity, pacpy_channel_destroy);
    SenderObject *sender =
        pacpy_sender_new(st, sender_type, &sender_vtable, (PyObject *)channel, &channel->core);
    PyTypeObject *type = st->Receiver_type;
    ReceiverObject *receiver = (ReceiverObject *)type->tp_alloc(type, 0);
    if (receiver != NULL) {
        receiver->st = st;
        receiver->channel = (MpscObject *)Py_NewRef(channel);
    }
    Py_DECREF(channel);
    return pacpy_pair((PyObject *)sender, (PyObject *)receiver);
}

PyDoc_STRVAR(channel_doc,
             "channel(capacity, /)\n--\n\n"
             "A channel of many values, first in, first out: (Sender, Receiver).\n\n"
             "    tx, rx = channel(128)\n"
             "    await tx.send(1)         # waits while 128 values stand in it\n"
             "    async for value in rx: ...\n\n"
             "Memory is taken as values come, not for the capacity. Raises TypeError if the\n"
             "capacity is no int, ValueError if it is below 1, OverflowError if it is above\n"
             "sys.maxsize. Belongs to no loop: the ends may be used on any loop in any thread.\n"
             "Stands for Tokio's mpsc::channel.");

static PyObject *
channel(PyObject *module, PyObject *arg)
{
    struct pacpy_state *st = pacpy_state_of(module);
    size_t capacity;
    if (pacpy_size_from_object(arg, "capacity", 1, &capacity) < 0) {
        return NULL;
    }
    return make_channel(st, capacity, st->Sender_type);
}

PyDoc_STRVAR(unbounded_channel_doc,
             "unbounded_channel()\n--\n\n"
             "A channel without a limit: (UnboundedSender, Receiver). Sending never waits.\n\n"
             "If the receiver is slower than the senders, memory grows until there is none; it is\n"
             "given back as values are received. Stands for Tokio's mpsc::unbounded_channel.");

static PyObject *
unbounded_channel(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    return make_channel(st, PAC_MPSC_UNBOUNDED, st->UnboundedSender_type);
}

static PyMethodDef functions[] = {
    {"channel", channel, METH_O, channel_doc},
    {"unbounded_channel", unbounded_channel, METH_NOARGS, unbounded_channel_doc},
    {NULL},
};

int
pacpy_mpsc_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyTypeObject *future = st->Future_type;
    if (pacpy_make_type(module, &Mpsc_spec, NULL, &st->Mpsc_type, NULL) < 0 ||
        pacpy_make_type(module, &Send_spec, future, &st->Send_type, "Send") < 0 ||
        pacpy_make_type(module, &Recv_spec, future, &st->Recv_type, NULL) < 0 ||
        pacpy_make_type(module, &Sender_spec, NULL, &st->Sender_type, "Sender") < 0 ||
        pacpy_make_type(module, &UnboundedSender_spec, NULL, &st->UnboundedSender_type,
                        "UnboundedSender") < 0 ||
        pacpy_make_type(module, &Receiver_spec, NULL, &st->Receiver_type, "Receiver") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
