/* into_future.c - coroutines that are polled like any other future: into_future and poll_once.
 *
 * What a coroutine yields says what it waits for, and so what has to wake the waker of the poll:
 *
 *   a leaf of ours      has taken the waker of the poll in progress; nothing to do
 *   None                wants to be polled again: the waker is woken at once
 *   an asyncio future   a listener in it (ours) or a callback (any other) wakes the newest waker; until it
 *                       is done, the coroutine, which would not understand that, is not sent into
 *   anything else       a RuntimeError, thrown into the coroutine
 *
 * poll_once must be able to go on with a coroutine that an earlier poll_once left suspended, and
 * for that it has to know what it is suspended in. So there is a table of such coroutines, with
 * weak keys; an entry does not hold its coroutine, which is lent to it for each poll. It is in the
 * table before the coroutine runs: if there is no memory for that, nothing has happened. */
#include "bridge.h"
#include "completion.h"
#include "future.h"

#include "../core/budget.h"

typedef struct {
    FutureObject base;
    PyObject *awaitable;   /* until it is first polled */
    PyObject *iterator;    /* from then on, what is sent into; NULL: finished, let go or not lent */
    PyObject *waiting_for; /* the asyncio future that it was suspended in, or NULL */
    PyObject *callback;    /* what was added to that, if it is not one of ours */
    PyObject *throw_next;  /* what the next poll throws into it, or NULL */
    PyObject *weakrefs;
    struct pacpy_waker_listener listener; /* in its list, if it is; the waker in any case */
} IntoFutureObject;

typedef struct {
    FutureObject base;
    PyObject *coroutine; /* NULL: `inner` is polled */
    PyObject *inner;     /* a Future */
} PollOnceObject;

/* ---- what is awaitable ---------------------------------------------------------------------- */

static bool
is_coroutine(PyObject *op)
{
    if (PyCoro_CheckExact(op)) {
        return true;
    }
    if (!PyGen_CheckExact(op)) {
        return false;
    }
    /* A generator with types.coroutine's mark. */
#if PY_VERSION_HEX >= 0x030C0000
    PyCodeObject *code = PyGen_GetCode((PyGenObject *)op);
    bool marked = (code->co_flags & CO_ITERABLE_COROUTINE) != 0;
    Py_DECREF(code);
    return marked;
#else
    return (((PyGenObject *)op)->gi_code->co_flags & CO_ITERABLE_COROUTINE) != 0;
#endif
}

static bool
is_coroutine_function(PyObject *op)
{
    if (PyMethod_Check(op)) {
        op = PyMethod_GET_FUNCTION(op);
    }
    return PyFunction_Check(op) && (((PyCodeObject *)PyFunction_GET_CODE(op))->co_flags &
                                    (CO_COROUTINE | CO_ITERABLE_COROUTINE)) != 0;
}

int
pacpy_need_awaitable(PyObject *op)
{
    PyAsyncMethods *async = Py_TYPE(op)->tp_as_async;
    if ((async != NULL && async->am_await != NULL) || is_coroutine(op)) {
        return 0;
    }
    if (is_coroutine_function(op)) {
        PyErr_Format(PyExc_TypeError,
                     "an awaitable is required, not the coroutine function %R: did you forget ()?",
                     op);
    }
    else {
        PyErr_Format(PyExc_TypeError, "an awaitable is required, not %s", Py_TYPE(op)->tp_name);
    }
    return -1;
}

static PyObject *
iterator_of(PyObject *op)
{
    if (is_coroutine(op)) {
        return Py_NewRef(op);
    }
    PyObject *iterator = Py_TYPE(op)->tp_as_async->am_await(op);
    if (iterator == NULL) {
        return NULL;
    }
    if (is_coroutine(iterator)) {
        PyErr_SetString(PyExc_TypeError, "__await__() returned a coroutine");
    }
    else if (!PyIter_Check(iterator)) {
        PyErr_Format(PyExc_TypeError, "__await__() returned non-iterator of type '%s'",
                     Py_TYPE(iterator)->tp_name);
    }
    else {
        return iterator;
    }
    Py_DECREF(iterator);
    return NULL;
}

PyObject *
pacpy_await_iterator(PyObject *op)
{
    return pacpy_need_awaitable(op) < 0 ? NULL : iterator_of(op);
}

/* ---- waiting for an asyncio future ---------------------------------------------------------- */

/* Called by a future of another implementation when it is done. `weakref` is to the IntoFuture,
 * as that future must not keep it and its coroutine alive. */
static PyObject *
wake(PyObject *weakref, PyObject *asyncio_future)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *op;
    if (PyWeakref_GetRef(weakref, &op) < 0) {
        return NULL;
    }
#else
    PyObject *op = PyWeakref_GET_OBJECT(weakref);
    op = op == Py_None ? NULL : Py_NewRef(op);
#endif
    if (op != NULL) {
        IntoFutureObject *self = (IntoFutureObject *)op;
        if (self->waiting_for == asyncio_future) {
            pac_waker_wake(&self->listener.waker);
        }
        Py_DECREF(op);
    }
    Py_RETURN_NONE;
}

static PyMethodDef wake_def = {"wake", wake, METH_O, NULL};

/* Keep the waker of this poll instead of the one before. */
static void
replace_waker(IntoFutureObject *self, struct pac_context *cx)
{
    struct pac_waker *kept = &self->listener.waker;
    if (!pac_waker_will_wake(kept, cx->waker)) {
        struct pac_waker replaced = *kept;
        *kept = pac_waker_clone(cx->waker);
        pac_waker_drop(&replaced);
    }
}

/* Wait no longer for what it waits for, if anything; `is_over`: that has told us so already.
 * Exceptions are printed. */
static void
stop_waiting(IntoFutureObject *self, bool is_over)
{
    PyObject *waiting_for = self->waiting_for, *callback = self->callback;
    self->waiting_for = self->callback = NULL;
    pac_list_remove(&self->listener.listener.node);
    pac_waker_drop(&self->listener.waker);
    if (callback != NULL && !is_over) {
        PyObject *done = PyObject_CallMethodOneArg(
            waiting_for, self->base.st->str_remove_done_callback, callback);
        if (done == NULL) {
            PyErr_WriteUnraisable(waiting_for);
        }
        Py_XDECREF(done);
    }
    Py_XDECREF(callback);
    Py_XDECREF(waiting_for);
}

/* What it waits for is done: the error that this ended with is thrown into the coroutine, as a task
 * does it (end_wait in task.c). 0; or -1 and an exception, to be polled again. */
static int
end_wait(IntoFutureObject *self)
{
    PyObject *exception;
    if (pacpy_future_error(self->base.st, self->waiting_for, self->iterator, &exception) < 0) {
        return -1;
    }
    stop_waiting(self, true);
    Py_XSETREF(self->throw_next, exception);
    return 0;
}

/* Have `asyncio_future`, one of ours, wake this poll's waker. 0, or -1 and RuntimeError. */
static int
wait_for_completion(IntoFutureObject *self, struct pac_context *cx, PyObject *asyncio_future)
{
    struct pacpy_completion *c = pacpy_completion_of(asyncio_future);
    if (!c->blocking) {
        PyErr_Format(PyExc_RuntimeError, "yield was used instead of yield from with %R",
                     asyncio_future);
        return -1;
    }
    c->blocking = false;
    self->waiting_for = Py_NewRef(asyncio_future);
    if (c->outcome != PACPY_PENDING) {
        pac_waker_wake_by_ref(cx->waker);
        return 0;
    }
    replace_waker(self, cx);
    pacpy_completion_listen(c, &self->listener.listener);
    return 0;
}

/* The same for any other implementation's. */
static int
wait_for_foreign(IntoFutureObject *self, struct pac_context *cx, PyObject *asyncio_future)
{
    struct pacpy_state *st = self->base.st;
    PyObject *weakref = PyWeakref_NewRef((PyObject *)self, NULL);
    PyObject *callback = weakref == NULL ? NULL : PyCFunction_New(&wake_def, weakref);
    Py_XDECREF(weakref);
    if (callback == NULL) {
        return -1;
    }
    PyObject *done = NULL;
    if (PyObject_SetAttr(asyncio_future, st->str__asyncio_future_blocking, Py_False) == 0) {
        /* Before it is added, as it may be called at once. */
        self->waiting_for = Py_NewRef(asyncio_future);
        self->callback = Py_NewRef(callback);
        replace_waker(self, cx);
        done = PyObject_CallMethodOneArg(asyncio_future, st->str_add_done_callback, callback);
    }
    Py_DECREF(callback);
    if (done == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        stop_waiting(self, true);
        PyErr_SetRaisedException(exc);
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

/* Wait for `what`, which the coroutine has yielded. 0, or -1 and the exception to throw into it. */
static int
wait_for(IntoFutureObject *self, struct pac_context *cx, PyObject *what)
{
    struct pacpy_state *st = self->base.st;
    if (what == st->suspended) {
        return 0;
    }
    if (what == Py_None) {
        pac_waker_wake_by_ref(cx->waker);
        return 0;
    }
    if (pacpy_is_completion(st, what)) {
        return wait_for_completion(self, cx, what);
    }
    PyObject *blocking = PyObject_GetAttr(what, st->str__asyncio_future_blocking);
    if (blocking == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        blocking = Py_NewRef(Py_None);
    }
    int truth = PyObject_IsTrue(blocking);
    bool is_future = blocking != Py_None;
    Py_DECREF(blocking);
    if (truth > 0) {
        return wait_for_foreign(self, cx, what);
    }
    if (truth == 0) {
        PyErr_Format(PyExc_RuntimeError,
                     is_future || PyGen_CheckExact(what)
                         ? "yield was used instead of yield from with %R"
                         : "a coroutine that is polled by hand got bad yield: %R",
                     what);
    }
    return -1;
}

/* ---- polling -------------------------------------------------------------------------------- */

/* What to send into: a new reference, or NULL and an exception. */
static PyObject *
started_iterator(IntoFutureObject *self)
{
    if (self->iterator == NULL) {
        PyObject *awaitable = self->awaitable;
        self->awaitable = NULL;
        if (awaitable == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "IntoFuture was dropped: make a new one");
            return NULL;
        }
        self->iterator = iterator_of(awaitable);
        Py_DECREF(awaitable);
    }
    return Py_XNewRef(self->iterator);
}

PySendResult
pacpy_throw_into(struct pacpy_state *st, PyObject *iterator, PyObject **result)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *throw = NULL; /* asked for only where it may be missing: it would need memory */
    if (!PyCoro_CheckExact(iterator) && !PyGen_CheckExact(iterator)) {
        throw = PyObject_GetAttr(iterator, st->str_throw);
        if (throw == NULL) {
            /* An iterator that knows nothing of exceptions: this one ends it. */
            PyErr_Clear();
            PyErr_SetRaisedException(exc);
            return PYGEN_ERROR;
        }
    }
    *result = throw == NULL ? PyObject_CallMethodOneArg(iterator, st->str_throw, exc)
                            : PyObject_CallOneArg(throw, exc);
    Py_XDECREF(throw);
    Py_DECREF(exc);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyObject *stop = PyErr_GetRaisedException();
    *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

/* Send into `iterator`, or throw, until it suspends in something that can be waited for, or ends. */
static PySendResult
run(IntoFutureObject *self, struct pac_context *cx, PyObject *iterator, PyObject **value)
{
    PyObject *result = NULL;
    PyObject *thrown = self->throw_next;
    PySendResult sent;
    self->throw_next = NULL;
    if (thrown != NULL) {
        PyErr_SetRaisedException(thrown);
        sent = pacpy_throw_into(self->base.st, iterator, &result);
    }
    else {
        sent = PyIter_Send(iterator, Py_None, &result);
    }
    while (sent == PYGEN_NEXT) {
        int waits = wait_for(self, cx, result);
        Py_CLEAR(result);
        if (waits == 0) {
            return PYGEN_NEXT;
        }
        sent = pacpy_throw_into(self->base.st, iterator, &result);
    }
    if (sent == PYGEN_ERROR) {
        pacpy_ensure_exception();
    }
    *value = result;
    return sent;
}

void
pacpy_close_iterator(struct pacpy_state *st, PyObject *iterator)
{
    PyObject *close = PyObject_GetAttr(iterator, st->str_close);
    if (close == NULL) {
        PyErr_Clear();
        return;
    }
    PyObject *closed = PyObject_CallNoArgs(close);
    if (closed == NULL) {
        PyErr_WriteUnraisable(iterator);
    }
    Py_XDECREF(closed);
    Py_DECREF(close);
}

/* The poll is over and `iterator` has not ended: unless it was let go of within. */
static int
poll_suspended(IntoFutureObject *self, PyObject *iterator)
{
    if (self->iterator != iterator) {
        stop_waiting(self, false);
        pacpy_close_iterator(self->base.st, iterator);
    }
    Py_DECREF(iterator);
    return 0;
}

static int
IntoFuture_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    IntoFutureObject *self = (IntoFutureObject *)f;
    struct pacpy_state *st = f->st;
    if (PAC_UNLIKELY(self->throw_next != NULL)) {
        stop_waiting(self, false);
    }
    else if (self->waiting_for != NULL) {
        int done = pacpy_future_is_done(st, self->waiting_for);
        if (done == 0 && self->waiting_for != NULL) {
            replace_waker(self, cx);
            return 0;
        }
        if (done < 0) {
            return -1;
        }
        if (self->waiting_for != NULL && end_wait(self) < 0) {
            return PACPY_REFUSED;
        }
    }
    PyObject *iterator = started_iterator(self);
    if (iterator == NULL) {
        return -1;
    }
    struct pacpy_frame frame;
    pacpy_frame_push_by_hand(st, &frame, cx);
    PySendResult sent = run(self, cx, iterator, value);
    pacpy_frame_pop(&frame);
    if (sent == PYGEN_NEXT) {
        return poll_suspended(self, iterator);
    }
    PyObject *exc = PyErr_GetRaisedException();
    Py_CLEAR(self->iterator);
    Py_DECREF(iterator);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    return 1;
}

/* One that was never polled is left as it is: it can still be awaited. */
static void
IntoFuture_forget(FutureObject *f)
{
    IntoFutureObject *self = (IntoFutureObject *)f;
    if (self->iterator == NULL && self->waiting_for == NULL) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *iterator = self->iterator;
    self->iterator = NULL;
    f->state = PACPY_DROPPED;
    stop_waiting(self, false);
    if (iterator != NULL) {
        if (!f->polling) {
            pacpy_close_iterator(f->st, iterator);
        }
        Py_DECREF(iterator);
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* ---- what is thrown in at the await --------------------------------------------------------- */

/* The asyncio future that it waits for was asked to cancel, and will tell, as with Task.cancel(). */
static bool
is_passed_on(IntoFutureObject *self, PyObject *thrown)
{
    struct pacpy_state *st = self->base.st;
    if (self->waiting_for == NULL ||
        !PyErr_GivenExceptionMatches(thrown, st->asyncio_CancelledError)) {
        return false;
    }
    PyObject *waiting_for = Py_NewRef(self->waiting_for);
    PyObject *message = PyObject_GetAttrString(thrown, "args");
    PyObject *cancel = PyObject_GetAttr(waiting_for, st->str_cancel);
    PyObject *answer =
        message == NULL || cancel == NULL ? NULL : PyObject_CallObject(cancel, message);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    if (truth < 0) {
        PyErr_WriteUnraisable(waiting_for);
    }
    Py_XDECREF(answer);
    Py_XDECREF(cancel);
    Py_XDECREF(message);
    Py_DECREF(waiting_for);
    return truth > 0;
}

/* It goes on into the coroutine, which may await while it cleans up. */
static PyObject *
IntoFuture_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    IntoFutureObject *self = (IntoFutureObject *)op;
    FutureObject *f = &self->base;
    if (nargs < 1 || nargs > 3 || f->polling || f->state != PACPY_WAITING ||
        self->iterator == NULL) {
        return Future_throw(op, args, nargs);
    }
    pacpy_raise_thrown(args, nargs);
    if (PyErr_ExceptionMatches(PyExc_GeneratorExit)) {
        pacpy_future_forget(f);
        return NULL;
    }
    PyObject *thrown = PyErr_GetRaisedException();
    if (f->wait != NULL) {
        pacpy_bridge_end_wait(f);
    }
    if (is_passed_on(self, thrown)) {
        Py_DECREF(thrown);
    }
    else {
        Py_XSETREF(self->throw_next, thrown);
    }
    PyObject *result = Future_iternext(op);
    if (result == NULL && self->throw_next != NULL) {
        /* Nothing polls here. */
        PyErr_Clear();
        thrown = self->throw_next;
        self->throw_next = NULL;
        pacpy_future_forget(f);
        PyErr_SetRaisedException(thrown);
    }
    else if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

static const struct pacpy_future_vtable into_future_vtable = {
    .poll = IntoFuture_poll,
    .forget = IntoFuture_forget,
    .resumable = true,
};

/* ---- the type ------------------------------------------------------------------------------- */

static int
IntoFuture_traverse(PyObject *op, visitproc visit, void *arg)
{
    IntoFutureObject *self = (IntoFutureObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->awaitable);
    Py_VISIT(self->iterator);
    Py_VISIT(self->waiting_for);
    Py_VISIT(self->callback);
    Py_VISIT(self->throw_next);
    return 0;
}

static int
IntoFuture_clear(PyObject *op)
{
    IntoFutureObject *self = (IntoFutureObject *)op;
    pac_list_remove(&self->listener.listener.node);
    PACPY_RELEASE_SLOT(self->awaitable);
    PACPY_RELEASE_SLOT(self->iterator);
    PACPY_RELEASE_SLOT(self->waiting_for);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->throw_next);
    pac_waker_drop(&self->listener.waker);
    return 0;
}

static void
IntoFuture_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (((IntoFutureObject *)op)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pacpy_future_fini((FutureObject *)op);
    IntoFuture_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
repr_of(FutureObject *f, const char *name, PyObject *of)
{
    const char *state = f->state == PACPY_NEW       ? "not polled yet"
                        : f->state == PACPY_WAITING ? "pending"
                        : f->state == PACPY_DONE    ? "done"
                                                    : "dropped";
    return of == NULL ? PyUnicode_FromFormat("<%s %s>", name, state)
                      : PyUnicode_FromFormat("<%s of %R %s>", name, of, state);
}

static PyObject *
IntoFuture_repr(PyObject *op)
{
    IntoFutureObject *self = (IntoFutureObject *)op;
    PyObject *of = Py_XNewRef(self->iterator != NULL ? self->iterator : self->awaitable);
    PyObject *repr = repr_of((FutureObject *)op, "IntoFuture", of);
    Py_XDECREF(of);
    return repr;
}

PyDoc_STRVAR(
    IntoFuture_drop_doc,
    "drop($self, /)\n--\n\n"
    "Let go: the coroutine is closed, so that GeneratorExit is raised where it is suspended. Polling\n"
    "afterwards raises RuntimeError. Any number of times.");

static PyObject *
IntoFuture_drop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *f = (FutureObject *)op;
    pacpy_future_forget(f);
    f->state = PACPY_DROPPED;
    /* Never polled: Python may warn that it was never awaited. */
    Py_CLEAR(((IntoFutureObject *)op)->awaitable);
    Py_RETURN_NONE;
}

static PyMethodDef IntoFuture_methods[] = {
    {"drop", IntoFuture_drop, METH_NOARGS, IntoFuture_drop_doc},
    {"throw", (PyCFunction)(void (*)(void))IntoFuture_throw, METH_FASTCALL,
     "Part of the await protocol."},
    {NULL},
};

static PyMemberDef IntoFuture_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(IntoFutureObject, weakrefs), READONLY},
    {NULL},
};

static PyType_Slot IntoFuture_slots[] = {
    {Py_tp_doc, "What into_future() returns."},
    {Py_tp_traverse, IntoFuture_traverse},
    {Py_tp_clear, IntoFuture_clear},
    {Py_tp_dealloc, IntoFuture_dealloc},
    {Py_tp_repr, IntoFuture_repr},
    {Py_tp_methods, IntoFuture_methods},
    {Py_tp_members, IntoFuture_members},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec IntoFuture_spec = {
    .name = "pyasync_c.IntoFuture",
    .basicsize = sizeof(IntoFutureObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = IntoFuture_slots,
};

/* NULL `awaitable`: an entry of the table of poll_once. */
static PyObject *
into_future_new(struct pacpy_state *st, PyObject *awaitable)
{
    PyObject *op = st->IntoFuture_type->tp_alloc(st->IntoFuture_type, 0);
    if (op != NULL) {
        IntoFutureObject *self = (IntoFutureObject *)op;
        pacpy_future_init(&self->base, st, &into_future_vtable);
        self->awaitable = Py_XNewRef(awaitable);
        self->listener.listener.kind = PACPY_LISTEN_WAKER;
        self->listener.waker = PAC_NO_WAKER;
    }
    return op;
}

PyDoc_STRVAR(
    into_future_doc,
    "into_future(aw, /)\n--\n\n"
    "An awaitable as a Future: one that can be polled by hand with any waker, given to select, or\n"
    "awaited. Nothing of it runs before the first poll; dropping it closes the coroutine. Cancelled\n"
    "while it is awaited, it raises CancelledError in the coroutine, which may await to clean up.\n\n"
    "A Future is returned as it is. Raises TypeError if `aw` is not awaitable. The coroutine runs in the\n"
    "context of whoever polls; it may wait for futures of pyasync_c and of asyncio alike.\n"
    "Stands for Rust's IntoFuture::into_future.");

PyObject *
pacpy_into_future(struct pacpy_state *st, PyObject *awaitable)
{
    if (Future_Check(st, awaitable)) {
        return Py_NewRef(awaitable);
    }
    return pacpy_need_awaitable(awaitable) < 0 ? NULL : into_future_new(st, awaitable);
}

static PyObject *
into_future(PyObject *module, PyObject *awaitable)
{
    return pacpy_into_future(pacpy_state_of(module), awaitable);
}

/* ---- poll_once ------------------------------------------------------------------------------ */

static void
take_out(PyObject *table, PyObject *key)
{
    if (PyDict_DelItem(table, key) < 0) {
        PyErr_Clear(); /* it was taken out before */
    }
}

/* Called when a coroutine has gone that is in the table. */
static PyObject *
coroutine_gone(PyObject *table, PyObject *key)
{
    take_out(table, key);
    Py_RETURN_NONE;
}

static PyMethodDef coroutine_gone_def = {"coroutine_gone", coroutine_gone, METH_O, NULL};

/* Where `coroutine` stands: a new reference to its entry, one that was just made if it has none, and
 * to its key in *key. NULL and an exception. The table is what the key's callback is bound to. */
static PyObject *
entry_of(struct pacpy_state *st, PyObject *table, PyObject *coroutine, PyObject **key)
{
    *key = PyWeakref_NewRef(coroutine, st->polled_once);
    if (*key == NULL) {
        return NULL;
    }
    PyObject *entry = Py_XNewRef(PyDict_GetItemWithError(table, *key));
    if (entry == NULL && !PyErr_Occurred()) {
        entry = into_future_new(st, NULL);
        if (entry != NULL && PyDict_SetItem(table, *key, entry) < 0) {
            Py_CLEAR(entry);
        }
    }
    if (entry == NULL) {
        Py_CLEAR(*key);
    }
    return entry;
}

/* Poll a coroutine once more. As a vtable's poll. */
static int
poll_coroutine(struct pacpy_state *st, PyObject *coroutine, struct pac_context *cx,
               PyObject **value)
{
    PyObject *key, *table = PyCFunction_GET_SELF(st->polled_once);
    PyObject *entry = entry_of(st, table, coroutine, &key);
    if (entry == NULL) {
        return pacpy_refused_or_failed();
    }
    IntoFutureObject *inner = (IntoFutureObject *)entry;
    if (inner->base.polling) {
        PyErr_SetString(PyExc_RuntimeError, "the coroutine is already being polled");
        Py_DECREF(key);
        Py_DECREF(entry);
        return -1;
    }
    inner->iterator = Py_NewRef(coroutine);
    int ready = pacpy_future_poll(&inner->base, cx, value);
    PyObject *exc = PyErr_GetRaisedException();
    Py_CLEAR(inner->iterator);
    if (ready != 0 && ready != PACPY_REFUSED) {
        take_out(table, key);
    }
    Py_DECREF(key);
    Py_DECREF(entry);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return ready;
}

static int
PollOnce_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    PollOnceObject *self = (PollOnceObject *)f;
    /* It never waits: without this, a task that asks again and again would never let others run. */
    if (!pac_budget_spend(cx)) {
        return 0;
    }
    int ready = self->coroutine != NULL ? poll_coroutine(f->st, self->coroutine, cx, value)
                                        : pacpy_future_poll((FutureObject *)self->inner, cx, value);
    if (ready == 0) {
        *value = Py_NewRef(f->st->pending);
        ready = 1;
    }
    return ready;
}

static void
PollOnce_forget(FutureObject *f)
{
    (void)f;
}

static const struct pacpy_future_vtable poll_once_vtable = {
    .poll = PollOnce_poll,
    .forget = PollOnce_forget,
};

static int
PollOnce_traverse(PyObject *op, visitproc visit, void *arg)
{
    PollOnceObject *self = (PollOnceObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->coroutine);
    Py_VISIT(self->inner);
    return 0;
}

static int
PollOnce_clear(PyObject *op)
{
    PACPY_RELEASE_SLOT(((PollOnceObject *)op)->coroutine);
    PACPY_RELEASE_SLOT(((PollOnceObject *)op)->inner);
    return 0;
}

static void
PollOnce_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    PollOnce_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
PollOnce_repr(PyObject *op)
{
    PollOnceObject *self = (PollOnceObject *)op;
    return repr_of((FutureObject *)op, "PollOnce",
                   self->coroutine != NULL ? self->coroutine : self->inner);
}

static PyType_Slot PollOnce_slots[] = {
    {Py_tp_doc, "What poll_once() returns."},
    {Py_tp_traverse, PollOnce_traverse},
    {Py_tp_clear, PollOnce_clear},
    {Py_tp_dealloc, PollOnce_dealloc},
    {Py_tp_repr, PollOnce_repr},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec PollOnce_spec = {
    .name = "pyasync_c.PollOnce",
    .basicsize = sizeof(PollOnceObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = PollOnce_slots,
};

PyDoc_STRVAR(
    poll_once_doc,
    "poll_once(aw, /)\n--\n\n"
    "A Future that polls `aw` a single time, with the waker of the task that awaits, and is ready at\n"
    "once: with its value, or with PENDING.\n\n"
    "A coroutine or Future that was left suspended goes on where it stood when it is given to poll_once\n"
    "again; a coroutine is closed when nobody refers to it any more. Raises TypeError if `aw` is not\n"
    "awaitable. Stands for futures::poll!.");

static PyObject *
poll_once(PyObject *module, PyObject *awaitable)
{
    struct pacpy_state *st = pacpy_state_of(module);
    bool polls_coroutine = is_coroutine(awaitable);
    PyObject *inner = polls_coroutine ? NULL : into_future(module, awaitable);
    if (inner == NULL && !polls_coroutine) {
        return NULL;
    }
    PyObject *op = st->PollOnce_type->tp_alloc(st->PollOnce_type, 0);
    if (op == NULL) {
        Py_XDECREF(inner);
        return NULL;
    }
    PollOnceObject *self = (PollOnceObject *)op;
    pacpy_future_init(&self->base, st, &poll_once_vtable);
    self->coroutine = polls_coroutine ? Py_NewRef(awaitable) : NULL;
    self->inner = inner;
    return op;
}

/* ---- module --------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"into_future", into_future, METH_O, into_future_doc},
    {"poll_once", poll_once, METH_O, poll_once_doc},
    {NULL},
};

int
pacpy_into_future_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &IntoFuture_spec, st->Future_type, &st->IntoFuture_type, NULL) <
            0 ||
        pacpy_make_type(module, &PollOnce_spec, st->Future_type, &st->PollOnce_type, NULL) < 0) {
        return -1;
    }
    PyObject *table = PyDict_New();
    st->polled_once = table == NULL ? NULL : PyCFunction_New(&coroutine_gone_def, table);
    Py_XDECREF(table);
    if (st->polled_once == NULL) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
