/* watch.c - watch(), WatchSender and WatchReceiver. */
#include "sender.h"

#include "../core/budget.h"
#include "../core/watch.h"

/* The channel itself: never seen by users. */
typedef struct {
    PyObject_HEAD
    struct pac_watch core;
} WatchObject;

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    WatchObject *channel; /* strong */
    struct pac_watch_receiver core;
    PyObject *weakrefs;
} WatchReceiverObject;

/* What changed() and wait_for() return. */
typedef struct {
    FutureObject future;
    struct pac_watch_changed changed;
    WatchReceiverObject *receiver; /* strong */
    PyObject *predicate;           /* NULL: changed() */
    bool ask;                      /* the predicate has not seen the latest value */
} WatchWaitObject;

/* ---- the channel ---------------------------------------------------------------------------- */

static int
Watch_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)((WatchObject *)op)->core.value);
    return 0;
}

static int
Watch_clear(PyObject *op)
{
    Py_DECREF((PyObject *)pac_watch_swap(&((WatchObject *)op)->core, Py_NewRef(Py_None)));
    return 0;
}

static void
Watch_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pac_watch_fini(&((WatchObject *)op)->core);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Watch_slots[] = {
    {Py_tp_doc, "What the ends of a watch share."},
    {Py_tp_traverse, Watch_traverse},
    {Py_tp_clear, Watch_clear},
    {Py_tp_dealloc, Watch_dealloc},
    {0, NULL},
};

static PyType_Spec Watch_spec = {
    .name = "pyasync_c.Watch",
    .basicsize = sizeof(WatchObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Watch_slots,
};

/* ---- changed() and wait_for() --------------------------------------------------------------- */

/* 1: a change, now seen; 0; -1: ChannelClosed. */
static int
wait_advance(WatchWaitObject *self, struct pac_context *cx)
{
    FutureObject *f = &self->future;
    if (pac_watch_changed_poll(&self->changed, cx) == PAC_PENDING) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            pac_watch_changed_drop(&self->changed); /* by something that the poll set off */
        }
        return 0;
    }
    if (self->changed.status != PAC_OK) {
        pacpy_channel_error(f->st, self->changed.status);
        return -1;
    }
    return 1;
}

static int
changed_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    int ready = wait_advance((WatchWaitObject *)f, cx);
    if (ready == 1) {
        *value = Py_NewRef(Py_None);
    }
    return ready;
}

/* 1 and *value: the predicate holds for the latest value; 0: not; -1: it raised. */
static int
ask_predicate(WatchWaitObject *self, PyObject **value)
{
    PyObject *latest = pac_watch_get_seen(&self->receiver->core);
    PyObject *predicate = Py_NewRef(self->predicate);
    PyObject *answer = PyObject_CallOneArg(predicate, latest);
    int holds = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    Py_DECREF(predicate);
    if (holds == 1) {
        *value = latest;
    }
    else {
        Py_DECREF(latest);
    }
    return holds;
}

static int
wait_for_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    WatchWaitObject *self = (WatchWaitObject *)f;
    for (;;) {
        if (self->ask) {
            if (!pac_budget_spend(cx)) {
                return 0;
            }
            self->ask = false;
            int holds = ask_predicate(self, value);
            if (holds != 0) {
                return holds;
            }
            pac_budget_refund();
        }
        int changed = wait_advance(self, cx);
        if (changed != 1) {
            return changed;
        }
        self->ask = true;
    }
}

static void
WatchWait_forget(FutureObject *f)
{
    WatchWaitObject *self = (WatchWaitObject *)f;
    if (!f->polling) {
        pac_watch_changed_drop(&self->changed);
        self->ask = true;
    }
}

static const struct pacpy_future_vtable changed_vtable = {
    .poll = changed_poll,
    .forget = WatchWait_forget,
};

static const struct pacpy_future_vtable wait_for_vtable = {
    .poll = wait_for_poll,
    .forget = WatchWait_forget,
};

static PyObject *
wait_new(PyObject *op, const struct pacpy_future_vtable *vtable, PyObject *predicate)
{
    WatchReceiverObject *receiver = (WatchReceiverObject *)op;
    PyTypeObject *type = receiver->st->WatchWait_type;
    WatchWaitObject *self = (WatchWaitObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        pacpy_future_init(&self->future, receiver->st, vtable);
        pac_watch_changed_init(&self->changed, &receiver->core);
        self->receiver = (WatchReceiverObject *)Py_NewRef(op);
        self->predicate = Py_XNewRef(predicate);
        self->ask = true;
    }
    return (PyObject *)self;
}

static int
WatchWait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WatchWaitObject *)op)->receiver);
    Py_VISIT(((WatchWaitObject *)op)->predicate);
    return 0;
}

/* It may still be polled: None in the place of the predicate, which raises TypeError. */
static int
WatchWait_clear(PyObject *op)
{
    WatchWaitObject *self = (WatchWaitObject *)op;
    if (self->predicate != NULL) {
        Py_SETREF(self->predicate, Py_NewRef(Py_None));
    }
    return 0;
}

static void
WatchWait_dealloc(PyObject *op)
{
    WatchWaitObject *self = (WatchWaitObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    pacpy_release(self->predicate);
    Py_DECREF(self->receiver);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot WatchWait_slots[] = {
    {Py_tp_doc, "What changed() and wait_for() of a WatchReceiver return. Whoever is cancelled\n"
                "while awaiting it has seen no change."},
    {Py_tp_traverse, WatchWait_traverse},
    {Py_tp_clear, WatchWait_clear},
    {Py_tp_dealloc, WatchWait_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec WatchWait_spec = {
    .name = "pyasync_c.WatchWait",
    .basicsize = sizeof(WatchWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = WatchWait_slots,
};

/* ---- receiver ------------------------------------------------------------------------------- */

static PyObject *
receiver_new(struct pacpy_state *st, WatchObject *channel)
{
    PyTypeObject *type = st->WatchReceiver_type;
    WatchReceiverObject *self = (WatchReceiverObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->channel = (WatchObject *)Py_NewRef(channel);
        pac_watch_subscribe(&self->core, &channel->core);
    }
    return (PyObject *)self;
}

static int
WatchReceiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WatchReceiverObject *)op)->channel);
    return 0;
}

static void
WatchReceiver_dealloc(PyObject *op)
{
    WatchReceiverObject *self = (WatchReceiverObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pac_watch_unsubscribe(&self->core);
    Py_DECREF(self->channel);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
WatchReceiver_repr(PyObject *op)
{
    WatchReceiverObject *self = (WatchReceiverObject *)op;
    const char *state = self->core.gone                      ? "closed"
                        : pac_watch_has_changed(&self->core) ? "changed"
                                                             : "unchanged";
    return PyUnicode_FromFormat("<WatchReceiver %s>", state);
}

static PyObject *
WatchReceiver_value(PyObject *op, void *Py_UNUSED(closure))
{
    return pac_watch_get(&((WatchReceiverObject *)op)->channel->core);
}

PyDoc_STRVAR(
    WatchReceiver_changed_doc,
    "changed($self, /)\n--\n\n"
    "A future that is ready once there is a value that this receiver has not seen, which\n"
    "it marks as seen. What was there when the receiver was made counts as seen.\n\n"
    "Awaiting it raises ChannelClosed if nothing is unseen and all senders are closed, or\n"
    "this receiver is. Cancelled, it marks nothing. Works on any loop. Stands for Tokio's\n"
    "watch::Receiver::changed.");

static PyObject *
WatchReceiver_changed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return wait_new(op, &changed_vtable, NULL);
}

PyDoc_STRVAR(
    WatchReceiver_wait_for_doc,
    "wait_for($self, predicate, /)\n--\n\n"
    "A future of the first value, the one that is there included, for which\n"
    "predicate(value) is true. Values that it has looked at are marked as seen; some may be\n"
    "replaced before it has looked.\n\n"
    "Awaiting it raises what the predicate raises, and ChannelClosed as changed(). Raises\n"
    "TypeError if the predicate is not callable. Stands for Tokio's\n"
    "watch::Receiver::wait_for.");

static PyObject *
WatchReceiver_wait_for(PyObject *op, PyObject *predicate)
{
    if (!PyCallable_Check(predicate)) {
        return PyErr_Format(PyExc_TypeError, "wait_for: predicate must be callable, not %s",
                            Py_TYPE(predicate)->tp_name);
    }
    return wait_new(op, &wait_for_vtable, predicate);
}

PyDoc_STRVAR(
    WatchReceiver_blocking_changed_doc,
    "blocking_changed($self, /, *, timeout=None)\n--\n\n"
    "Wait as changed() does, in a thread that runs no event loop (RuntimeError if it does).\n\n"
    "TimeoutError after `timeout` seconds. Other threads run meanwhile; on the main thread\n"
    "a signal handler may raise, as for Ctrl-C.");

static PyObject *
WatchReceiver_blocking_changed(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    WatchReceiverObject *self = (WatchReceiverObject *)op;
    struct pac_watch_changed changed;
    uint64_t deadline_ns;
    if (pacpy_blocking_args(self->st, "blocking_changed", args, nargs, 0, kwnames, &deadline_ns) <
        0) {
        return NULL;
    }
    pac_watch_changed_init(&changed, &self->core);
    int failed = pacpy_blocking_wait(&changed.future, deadline_ns);
    pac_watch_changed_drop(&changed);
    if (failed) {
        return NULL;
    }
    if (changed.status != PAC_OK) {
        return pacpy_channel_error(self->st, changed.status);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(WatchReceiver_close_doc,
             "close($self, /)\n--\n\n"
             "Wait for nothing any more: whatever waits here raises ChannelClosed. Collecting the\n"
             "receiver does the same. From any thread, any number of times.");

static PyObject *
WatchReceiver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_watch_unsubscribe(&((WatchReceiverObject *)op)->core);
    Py_RETURN_NONE;
}

static PyMethodDef WatchReceiver_methods[] = {
    {"changed", WatchReceiver_changed, METH_NOARGS, WatchReceiver_changed_doc},
    {"wait_for", WatchReceiver_wait_for, METH_O, WatchReceiver_wait_for_doc},
    PACPY_BLOCKING_METHOD("blocking_changed", WatchReceiver_blocking_changed,
                          WatchReceiver_blocking_changed_doc),
    {"close", WatchReceiver_close, METH_NOARGS, WatchReceiver_close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyGetSetDef WatchReceiver_getset[] = {
    {"value", WatchReceiver_value, NULL,
     "The latest value. Looking does not mark it as seen. From any thread.", NULL},
    {NULL},
};

static PyMemberDef WatchReceiver_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(WatchReceiverObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(WatchReceiver_doc,
             "A receiving end of watch(): the latest value, and waiting for it to change. Stands\n"
             "for Tokio's watch::Receiver.");

static PyType_Slot WatchReceiver_slots[] = {
    {Py_tp_doc, (void *)WatchReceiver_doc}, {Py_tp_traverse, WatchReceiver_traverse},
    {Py_tp_dealloc, WatchReceiver_dealloc}, {Py_tp_repr, WatchReceiver_repr},
    {Py_tp_methods, WatchReceiver_methods}, {Py_tp_getset, WatchReceiver_getset},
    {Py_tp_members, WatchReceiver_members}, {0, NULL},
};

static PyType_Spec WatchReceiver_spec = {
    .name = "pyasync_c.WatchReceiver",
    .basicsize = sizeof(WatchReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = WatchReceiver_slots,
};

/* ---- sender --------------------------------------------------------------------------------- */

static void
sender_add(void *core)
{
    pac_watch_add_sender(core);
}

static void
sender_drop(void *core)
{
    pac_watch_drop_sender(core);
}

static bool
channel_is_closed(void *core)
{
    return pac_watch_is_closed(core);
}

static void
closed_init(struct pac_flag_wait *f, void *core)
{
    pac_watch_closed_init(f, core);
}

static const struct pacpy_sender_vtable sender_vtable = {
    .add = sender_add,
    .drop = sender_drop,
    .is_closed = channel_is_closed,
    .closed_init = closed_init,
};

static PyObject *
WatchSender_repr(PyObject *op)
{
    SenderObject *self = (SenderObject *)op;
    struct pac_watch *w = self->core;
    pac_lock_acquire(&w->lock);
    size_t receivers = w->receivers;
    pac_lock_release(&w->lock);
    return PyUnicode_FromFormat("<WatchSender %sreceivers=%zu>", self->closed ? "closed " : "",
                                receivers);
}

static PyObject *
WatchSender_value(PyObject *op, void *Py_UNUSED(closure))
{
    return pac_watch_get(((SenderObject *)op)->core);
}

PyDoc_STRVAR(
    WatchSender_send_doc,
    "send($self, value, /)\n--\n\n"
    "Replace the value; everyone who waits for a change is woken. Never waits.\n\n"
    "ChannelClosed, and the value stays as it was, if there is no receiver, which a later\n"
    "subscribe() mends, or if this end is closed. From any thread. Stands for Tokio's\n"
    "watch::Sender::send.");

static PyObject *
WatchSender_send(PyObject *op, PyObject *value)
{
    SenderObject *self = (SenderObject *)op;
    if (!self->closed) {
        if (pac_watch_send(self->core, Py_NewRef(value)) == PAC_OK) {
            Py_RETURN_NONE;
        }
        Py_DECREF(value);
    }
    return pacpy_channel_error(self->st, PAC_CLOSED);
}

PyDoc_STRVAR(WatchSender_subscribe_doc,
             "subscribe($self, /)\n--\n\n"
             "One more receiver, for which the value of now counts as seen. ChannelClosed if this\n"
             "end is closed. From any thread. Stands for Tokio's watch::Sender::subscribe.");

static PyObject *
WatchSender_subscribe(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SenderObject *self = (SenderObject *)op;
    if (self->closed) {
        return pacpy_channel_error(self->st, PAC_CLOSED);
    }
    return receiver_new(self->st, (WatchObject *)self->channel);
}

static PyMethodDef WatchSender_methods[] = {
    {"send", WatchSender_send, METH_O, WatchSender_send_doc},
    {"subscribe", WatchSender_subscribe, METH_NOARGS, WatchSender_subscribe_doc},
    PACPY_SENDER_METHODS,
    {NULL},
};

static PyGetSetDef WatchSender_getset[] = {
    {"value", WatchSender_value, NULL, "The latest value. From any thread.", NULL},
    {NULL},
};

PyDoc_STRVAR(
    WatchSender_doc,
    "The sending end of watch(). clone() makes more senders, subscribe() more receivers.\n"
    "Closed by close(), at the end of `with sender:`, or when it is collected. May be used\n"
    "from any thread. Stands for Tokio's watch::Sender.");

static PyType_Slot WatchSender_slots[] = {
    {Py_tp_doc, (void *)WatchSender_doc},
    {Py_tp_repr, WatchSender_repr},
    {Py_tp_methods, WatchSender_methods},
    {Py_tp_getset, WatchSender_getset},
    PACPY_SENDER_SLOTS,
    {0, NULL},
};

static PyType_Spec WatchSender_spec = {
    .name = "pyasync_c.WatchSender",
    .basicsize = sizeof(SenderObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = WatchSender_slots,
};

/* ---- module --------------------------------------------------------------------------------- */

PyDoc_STRVAR(
    watch_doc,
    "watch(value, /)\n--\n\n"
    "A channel that keeps the latest value: (WatchSender, WatchReceiver).\n\n"
    "    tx, rx = watch(\"starting\")\n"
    "    tx.send(\"running\")\n"
    "    await rx.changed()\n"
    "    rx.value                 # \"running\"\n\n"
    "A receiver may miss values in between, never the last one. Belongs to no loop. Stands\n"
    "for Tokio's watch::channel.");

static PyObject *
watch(PyObject *module, PyObject *value)
{
    struct pacpy_state *st = pacpy_state_of(module);
    WatchObject *channel = (WatchObject *)st->Watch_type->tp_alloc(st->Watch_type, 0);
    if (channel == NULL) {
        return NULL;
    }
    pac_watch_init(&channel->core, Py_NewRef(value), pacpy_channel_clone, pacpy_channel_destroy);
    SenderObject *sender = pacpy_sender_new(st, st->WatchSender_type, &sender_vtable,
                                            (PyObject *)channel, &channel->core);
    PyObject *receiver = receiver_new(st, channel);
    Py_DECREF(channel);
    return pacpy_pair((PyObject *)sender, receiver);
}

static PyMethodDef functions[] = {
    {"watch", watch, METH_O, watch_doc},
    {NULL},
};

int
pacpy_watch_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Watch_spec, NULL, &st->Watch_type, NULL) < 0 ||
        pacpy_make_type(module, &WatchWait_spec, st->Future_type, &st->WatchWait_type, NULL) < 0 ||
        pacpy_make_type(module, &WatchSender_spec, NULL, &st->WatchSender_type, "WatchSender") <
            0 ||
        pacpy_make_type(module, &WatchReceiver_spec, NULL, &st->WatchReceiver_type,
                        "WatchReceiver") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
