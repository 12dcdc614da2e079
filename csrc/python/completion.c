/* completion.c - what Task and the asyncio future share: the state, the listeners, and
 * asyncio.Future's methods. */
#include "completion.h"

#include "eventloop.h"
#include "release.h"
#include "task.h"

Py_ssize_t pacpy_completion_offset;

int
pacpy_find_completion_offset(void)
{
    /* Not asyncio.Task, which nest_asyncio replaces by the one in Python. */
    PyObject *task = pacpy_asyncio_name("_asyncio", "Task");
    if (task == NULL) {
        return -1;
    }
    Py_ssize_t alignment = (Py_ssize_t) _Alignof(max_align_t);
    Py_ssize_t size = ((PyTypeObject *)task)->tp_basicsize;
    pacpy_completion_offset = (size + alignment - 1) / alignment * alignment;
    Py_DECREF(task);
    return 0;
}

bool
pacpy_is_completion(struct pacpy_state *st, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    return type == st->Task_type || type == st->AsyncioFuture_type ||
           (st->Task_type != NULL && PyObject_TypeCheck(op, st->Task_type));
}

void
pacpy_completion_init(struct pacpy_completion *c, struct pacpy_state *st, LoopObject *loop)
{
    c->st = st;
    c->loop = (LoopObject *)Py_NewRef(loop);
    c->result = c->exception = c->cancel_message = c->source_traceback = NULL;
    pac_list_init(&c->listeners);
    c->outcome = PACPY_PENDING;
    c->blocking = c->log_traceback = false;
}

int
pacpy_completion_note_source(struct pacpy_completion *c)
{
    if (!c->loop->debug) {
        return 0;
    }
    c->source_traceback = PyObject_CallNoArgs(c->st->asyncio_extract_stack);
    return c->source_traceback == NULL ? -1 : 0;
}

/* ---- finishing ------------------------------------------------------------------------------ */

struct callback_listener {
    struct pacpy_listener listener;
    PyObject *callback;
    PyObject *context;
};

static inline struct callback_listener *
callback_of(struct pacpy_listener *l)
{
    return PAC_CONTAINER_OF(l, struct callback_listener, listener);
}

static void
free_callback(struct callback_listener *l)
{
    PyObject *callback = l->callback, *context = l->context;
    PyMem_Free(l);
    pacpy_release(callback);
    Py_XDECREF(context);
}

static void
tell(struct pacpy_completion *c, struct pacpy_listener *l)
{
    switch (l->kind) {
        case PACPY_LISTEN_TASK:
            pacpy_task_future_done(PAC_CONTAINER_OF(l, struct pacpy_task, listener));
            return;
        case PACPY_LISTEN_WAKER:
            pac_waker_wake(&PAC_CONTAINER_OF(l, struct pacpy_waker_listener, listener)->waker);
            return;
        case PACPY_LISTEN_CALL: {
            struct pacpy_call_listener *cl =
                PAC_CONTAINER_OF(l, struct pacpy_call_listener, listener);
            cl->call(cl);
            return;
        }
        case PACPY_LISTEN_CALLBACK: {
            PyObject *self = pacpy_completion_object(c);
            struct callback_listener *cb = callback_of(l);
            PyObject *handle = pacpy_loop_call_soon(c->loop, cb->callback, &self, 1, cb->context);
            if (handle == NULL) {
                pacpy_loop_raise_or_print(c->loop, cb->callback);
            }
            Py_XDECREF(handle);
            free_callback(cb);
            return;
        }
    }
}

static void
finish(struct pacpy_completion *c, enum pacpy_outcome outcome)
{
    PyObject *self = Py_NewRef(pacpy_completion_object(c));
    struct pac_list_node *node;
    c->outcome = (uint8_t)outcome;
    while ((node = pac_list_pop_front(&c->listeners)) != NULL) {
        tell(c, PAC_LIST_ENTRY(node, struct pacpy_listener, node));
    }
    Py_DECREF(self);
}

bool
pacpy_completion_set_result(struct pacpy_completion *c, PyObject *value)
{
    if (c->outcome != PACPY_PENDING) {
        return false;
    }
    c->result = Py_NewRef(value);
    finish(c, PACPY_FINISHED);
    return true;
}

bool
pacpy_completion_set_exception(struct pacpy_completion *c, PyObject *exception)
{
    if (c->outcome != PACPY_PENDING) {
        return false;
    }
    c->exception = Py_NewRef(exception);
    c->result = PyException_GetTraceback(exception);
    c->log_traceback = true;
    finish(c, PACPY_FINISHED);
    return true;
}

bool
pacpy_completion_cancel(struct pacpy_completion *c, PyObject *message)
{
    c->log_traceback = false;
    if (c->outcome != PACPY_PENDING) {
        return false;
    }
    Py_XSETREF(c->cancel_message, Py_XNewRef(message));
    finish(c, PACPY_CANCELLED);
    return true;
}

PyObject *
pacpy_completion_make_cancelled_error(struct pacpy_completion *c)
{
    if (c->outcome == PACPY_CANCELLED && c->exception != NULL) {
        PyObject *exc = c->exception;
        c->exception = NULL;
        return exc;
    }
    if (c->cancel_message == NULL || c->cancel_message == Py_None) {
        return PyObject_CallNoArgs(c->st->asyncio_CancelledError);
    }
    return PyObject_CallOneArg(c->st->asyncio_CancelledError, c->cancel_message);
}

static void
raise_cancelled(struct pacpy_completion *c)
{
    PyObject *exc = pacpy_completion_make_cancelled_error(c);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
}

PyObject *
pacpy_completion_result(struct pacpy_completion *c)
{
    if (c->outcome == PACPY_CANCELLED) {
        raise_cancelled(c);
        return NULL;
    }
    c->log_traceback = false;
    if (c->exception == NULL) {
        return Py_NewRef(c->result);
    }
    PyObject *exc = c->exception;
    PyObject *traceback = c->result == NULL ? Py_None : c->result;
    if (PyException_SetTraceback(exc, traceback) < 0) {
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    return NULL;
}

int
pacpy_future_is_done(struct pacpy_state *st, PyObject *future)
{
    if (pacpy_is_completion(st, future)) {
        return pacpy_completion_of(future)->outcome != PACPY_PENDING;
    }
    Py_INCREF(future); /* it may run anything */
    PyObject *done = PyObject_CallMethodNoArgs(future, st->str_done);
    Py_DECREF(future);
    int truth = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    return truth;
}

/* Is `future`, one of ours, what `coroutine` is suspended in, below what that awaits, and below that? 1
 * or 0, or -1 and an exception. */
static int
is_awaited_plainly(struct pacpy_state *st, PyObject *future, PyObject *coroutine)
{
    PyObject *op = Py_NewRef(coroutine);
    while (PyCoro_CheckExact(op) || PyGen_CheckExact(op)) {
        PyObject *awaited =
            PyObject_GetAttr(op, PyCoro_CheckExact(op) ? st->str_cr_await : st->str_gi_yieldfrom);
        Py_DECREF(op);
        if (awaited == NULL) {
            return -1;
        }
        op = awaited;
    }
    int is = op == future || pacpy_future_of_iter(st, op) == future;
    Py_DECREF(op);
    return is;
}

int
pacpy_future_error(struct pacpy_state *st, PyObject *future, PyObject *coroutine,
                   PyObject **exception)
{
    PyObject *result;
    bool cancelled = false;
    *exception = NULL;
    if (PAC_LIKELY(pacpy_is_completion(st, future))) {
        struct pacpy_completion *c = pacpy_completion_of(future);
        cancelled = c->outcome == PACPY_CANCELLED;
        if (PAC_LIKELY(!cancelled && !pacpy_completion_failed(c))) {
            return 0;
        }
        int plainly = coroutine == NULL ? 0 : is_awaited_plainly(st, future, coroutine);
        if (plainly != 0) {
            return plainly < 0 ? -1 : 0;
        }
        result = pacpy_completion_result(c);
    }
    else {
        Py_INCREF(future); /* it may run anything */
        result = PyObject_CallMethodNoArgs(future, st->str_result);
        Py_DECREF(future);
    }
    if (result != NULL) {
        Py_DECREF(result);
        return 0;
    }
    if (cancelled && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    *exception = PyErr_GetRaisedException();
    return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

int
pacpy_visit_asyncio_part(PyTypeObject *asyncio_type, PyObject *op, visitproc visit, void *arg)
{
    if (!PyType_HasFeature(asyncio_type, Py_TPFLAGS_HEAPTYPE)) {
        /* Static types, as asyncio's are on Python 3.11, leave that to their subtypes. */
        Py_VISIT(Py_TYPE(op));
    }
    return asyncio_type->tp_traverse(op, visit, arg);
}

int
pacpy_completion_traverse(struct pacpy_completion *c, visitproc visit, void *arg)
{
    if (c->st == NULL) {
        return 0;
    }
    Py_VISIT(c->loop);
    Py_VISIT(c->result);
    Py_VISIT(c->exception);
    Py_VISIT(c->cancel_message);
    Py_VISIT(c->source_traceback);
    for (struct pac_list_node *n = c->listeners.head.next; n != &c->listeners.head; n = n->next) {
        struct pacpy_listener *l = PAC_LIST_ENTRY(n, struct pacpy_listener, node);
        if (l->kind == PACPY_LISTEN_CALLBACK) {
            Py_VISIT(callback_of(l)->callback);
            Py_VISIT(callback_of(l)->context);
        }
    }
    return 0;
}

void
pacpy_completion_clear(struct pacpy_completion *c)
{
    if (c->st == NULL) {
        return;
    }
    struct pac_list_node *node;
    while ((node = pac_list_pop_front(&c->listeners)) != NULL) {
        struct pacpy_listener *l = PAC_LIST_ENTRY(node, struct pacpy_listener, node);
        if (l->kind == PACPY_LISTEN_CALLBACK) {
            free_callback(callback_of(l));
        }
    }
    PACPY_RELEASE_SLOT(c->result);
    PACPY_RELEASE_SLOT(c->exception);
    Py_CLEAR(c->cancel_message);
    Py_CLEAR(c->source_traceback);
    Py_CLEAR(c->loop);
}

void
pacpy_completion_report_unseen(struct pacpy_completion *c, const char *what)
{
    if (c->st == NULL || !c->log_traceback) {
        return;
    }
    c->log_traceback = false;
    PyObject *pending_error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    PyObject *done = PyObject_CallMethod(c->st->asyncio_support, "report_unseen", "OsO", c->loop,
                                         what, pacpy_completion_object(c));
    if (done == NULL) {
        PyErr_WriteUnraisable(pacpy_completion_object(c));
    }
    Py_XDECREF(done);
    if (pending_error != NULL) {
        PyErr_SetRaisedException(pending_error);
    }
}

/* ---- asyncio.Future's methods --------------------------------------------------------------- */

struct pacpy_completion *
pacpy_completion_initialised(PyObject *op)
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    if (c->st == NULL || c->loop == NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s object is not initialized.", Py_TYPE(op)->tp_name);
        return NULL;
    }
    return c;
}

static PyObject *
invalid_state(struct pacpy_completion *c, const char *message)
{
    PyErr_SetString(c->st->asyncio_InvalidStateError, message);
    return NULL;
}

static PyObject *
completion_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return NULL;
    }
    if (c->outcome == PACPY_PENDING) {
        return invalid_state(c, "Result is not set.");
    }
    return pacpy_completion_result(c);
}

static PyObject *
completion_exception(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return NULL;
    }
    if (c->outcome == PACPY_PENDING) {
        return invalid_state(c, "Exception is not set.");
    }
    if (c->outcome == PACPY_CANCELLED) {
        raise_cancelled(c);
        return NULL;
    }
    c->log_traceback = false;
    return Py_NewRef(c->exception == NULL ? Py_None : c->exception);
}

/* `exception` as an instance that may be set: a new reference, or NULL. */
static PyObject *
settable_exception(PyObject *exception)
{
    PyObject *exc =
        PyExceptionClass_Check(exception) ? PyObject_CallNoArgs(exception) : Py_NewRef(exception);
    if (exc == NULL) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(exc)) {
        PyErr_SetString(PyExc_TypeError, "invalid exception object");
        Py_DECREF(exc);
        return NULL;
    }
    if (!PyErr_GivenExceptionMatches(exc, PyExc_StopIteration)) {
        return exc;
    }
    const char *message = "StopIteration interacts badly with generators and cannot be raised into "
                          "a Future";
#if PY_VERSION_HEX < 0x030B0800 || (PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030C0200)
    Py_DECREF(exc);
    PyErr_SetString(PyExc_TypeError, message);
    return NULL;
#else
    PyObject *wrapped = PyObject_CallFunction(PyExc_RuntimeError, "s", message);
    if (wrapped == NULL) {
        Py_DECREF(exc);
        return NULL;
    }
    PyException_SetCause(wrapped, Py_NewRef(exc));
    PyException_SetContext(wrapped, exc);
    return wrapped;
#endif
}

static PyObject *
completion_set_result(PyObject *op, PyObject *value)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return NULL;
    }
    if (!pacpy_completion_set_result(c, value)) {
        return invalid_state(c, "invalid state");
    }
    Py_RETURN_NONE;
}

static PyObject *
completion_set_exception(PyObject *op, PyObject *exception)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return NULL;
    }
    if (c->outcome != PACPY_PENDING) {
        return invalid_state(c, "invalid state");
    }
    PyObject *exc = settable_exception(exception);
    if (exc == NULL) {
        return NULL;
    }
    pacpy_completion_set_exception(c, exc);
    Py_DECREF(exc);
    Py_RETURN_NONE;
}

/* The one optional argument `name`, by keyword (or by position if `positional`): borrowed, NULL if
 * absent. -1 with an exception. */
static int
one_optional(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject *name,
             Py_ssize_t first, bool positional, PyObject **value)
{
    *value = NULL;
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs > first + positional || nkw > 1) {
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return -1;
    }
    if (nargs > first) {
        *value = args[first];
    }
    if (nkw == 1) {
        PyObject *given = PyTuple_GET_ITEM(kwnames, 0);
        if (!PyUnicode_Check(given) || PyUnicode_Compare(given, name) != 0 || *value != NULL) {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", given);
            return -1;
        }
        *value = args[nargs];
    }
    return 0;
}

static PyObject *
completion_add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    PyObject *context;
    if (c == NULL) {
        return NULL;
    }
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError,
                     "add_done_callback() takes exactly one positional argument (%zd given)",
                     nargs);
        return NULL;
    }
    if (one_optional(args, nargs, kwnames, c->st->str_context, 1, false, &context) < 0) {
        return NULL;
    }
    context = context == NULL || context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (context == NULL) {
        return NULL;
    }
    if (c->outcome != PACPY_PENDING) {
        PyObject *handle = pacpy_loop_call_soon(c->loop, args[0], &op, 1, context);
        Py_DECREF(context);
        if (handle == NULL) {
            return NULL;
        }
        Py_DECREF(handle);
        Py_RETURN_NONE;
    }
    struct callback_listener *l = PyMem_Calloc(1, sizeof *l);
    if (l == NULL) {
        Py_DECREF(context);
        return PyErr_NoMemory();
    }
    l->listener.kind = PACPY_LISTEN_CALLBACK;
    l->callback = Py_NewRef(args[0]);
    l->context = context;
    pacpy_completion_listen(c, &l->listener);
    Py_RETURN_NONE;
}

/* The first listener whose callback equals `fn`, at or after `node`; NULL if there is none;
 * *error if comparing raised. Comparing may run anything, so the list is read anew after each. */
static struct pacpy_listener *
find_callback(struct pacpy_completion *c, PyObject *fn, bool *error)
{
    size_t skip = 0;
    for (;;) {
        struct pac_list_node *n = c->listeners.head.next;
        for (size_t i = 0; i < skip && n != &c->listeners.head; i++) {
            n = n->next;
        }
        if (n == &c->listeners.head) {
            return NULL;
        }
        struct pacpy_listener *l = PAC_LIST_ENTRY(n, struct pacpy_listener, node);
        skip++;
        if (l->kind != PACPY_LISTEN_CALLBACK) {
            continue;
        }
        PyObject *callback = Py_NewRef(callback_of(l)->callback);
        int equal = PyObject_RichCompareBool(callback, fn, Py_EQ);
        Py_DECREF(callback);
        if (equal < 0) {
            *error = true;
            return NULL;
        }
        if (equal) {
            /* Still where it was? */
            n = c->listeners.head.next;
            for (size_t i = 1; i < skip && n != &c->listeners.head; i++) {
                n = n->next;
            }
            if (n == &l->node) {
                return l;
            }
        }
    }
}

static PyObject *
completion_remove_done_callback(PyObject *op, PyObject *fn)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    long removed = 0;
    bool error = false;
    struct pacpy_listener *l;
    if (c == NULL) {
        return NULL;
    }
    while ((l = find_callback(c, fn, &error)) != NULL) {
        pac_list_remove(&l->node);
        free_callback(callback_of(l));
        removed++;
    }
    return error ? NULL : PyLong_FromLong(removed);
}

static PyObject *
completion_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    PyObject *message;
    if (c == NULL || one_optional(args, nargs, kwnames, c->st->str_msg, 0, true, &message) < 0) {
        return NULL;
    }
    int cancelled = Task_Check(c->st, op) ? pacpy_task_cancel(pacpy_task_of(op), message)
                                          : pacpy_completion_cancel(c, message);
    return cancelled < 0 ? NULL : PyBool_FromLong(cancelled);
}

static PyObject *
completion_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pacpy_completion_of(op)->outcome == PACPY_CANCELLED);
}

static PyObject *
completion_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(pacpy_completion_of(op)->outcome != PACPY_PENDING);
}

static PyObject *
completion_get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    return c == NULL ? NULL : Py_NewRef(c->loop);
}

static PyObject *
completion_make_cancelled_error(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    return c == NULL ? NULL : pacpy_completion_make_cancelled_error(c);
}

static PyObject *
completion_dunder_await(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_future_iter(op);
}

#define FASTCALL(f) (PyCFunction)(void (*)(void)) f

PyMethodDef pacpy_completion_methods[] = {
    {"result", completion_result, METH_NOARGS,
     "The result; raises the exception it ended with, CancelledError, or InvalidStateError."},
    {"exception", completion_exception, METH_NOARGS,
     "The exception it ended with, or None; raises CancelledError or InvalidStateError."},
    {"set_result", completion_set_result, METH_O,
     "Finish with a result; InvalidStateError if done."},
    {"set_exception", completion_set_exception, METH_O,
     "Finish with an exception; InvalidStateError if done."},
    {"add_done_callback", FASTCALL(completion_add_done_callback), METH_FASTCALL | METH_KEYWORDS,
     "Have fn(self) called soon after it is done, in `context` or a copy of the present one."},
    {"remove_done_callback", completion_remove_done_callback, METH_O,
     "Take back every callback that equals fn; returns how many."},
    {"cancel", FASTCALL(completion_cancel), METH_FASTCALL | METH_KEYWORDS,
     "Cancel, or of a Task: have CancelledError thrown at its await; False if it is done."},
    {"cancelled", completion_cancelled, METH_NOARGS, "True if it was cancelled."},
    {"done", completion_done, METH_NOARGS,
     "True if it has a result, an exception, or was cancelled."},
    {"get_loop", completion_get_loop, METH_NOARGS, "The loop that it belongs to."},
    {"_make_cancelled_error", completion_make_cancelled_error, METH_NOARGS, NULL},
    {"__await__", completion_dunder_await, METH_NOARGS | METH_COEXIST,
     "An iterator for `yield from`, with the methods of the await protocol."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

/* ---- asyncio.Future's attributes ------------------------------------------------------------ */

static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value == NULL ? Py_None : value);
}

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    static const char *const names[] = {"PENDING", "CANCELLED", "FINISHED"};
    return PyUnicode_FromString(names[pacpy_completion_of(op)->outcome]);
}

static PyObject *
get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pacpy_completion_of(op)->blocking);
}

static int
set_blocking(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    pacpy_completion_of(op)->blocking = truth;
    return 0;
}

static PyObject *
get_loop_attribute(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none((PyObject *)pacpy_completion_of(op)->loop);
}

/* 0 or -1. */
static int
append_callbacks(struct pacpy_completion *c, PyObject *list)
{
    for (struct pac_list_node *n = c->listeners.head.next; n != &c->listeners.head; n = n->next) {
        struct pacpy_listener *l = PAC_LIST_ENTRY(n, struct pacpy_listener, node);
        if (l->kind != PACPY_LISTEN_CALLBACK) {
            continue;
        }
        PyObject *pair = PyTuple_Pack(2, callback_of(l)->callback, callback_of(l)->context);
        int appended = pair == NULL ? -1 : PyList_Append(list, pair);
        Py_XDECREF(pair);
        if (appended < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
get_callbacks(PyObject *op, void *Py_UNUSED(closure))
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    if (c->st == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *list = PyList_New(0);
    /* Python 3.11 collects within allocations, and so destructors might change the listeners. */
    int collects = PyGC_Disable();
    int appended = list == NULL ? -1 : append_callbacks(c, list);
    if (collects) {
        PyGC_Enable();
    }
    if (appended < 0) {
        Py_CLEAR(list);
    }
    else if (PyList_GET_SIZE(list) == 0) {
        Py_SETREF(list, Py_NewRef(Py_None));
    }
    return list;
}

static PyObject *
get_result(PyObject *op, void *Py_UNUSED(closure))
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    return or_none(c->exception == NULL ? c->result : NULL);
}

static PyObject *
get_exception(PyObject *op, void *Py_UNUSED(closure))
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    return or_none(pacpy_completion_failed(c) ? c->exception : NULL);
}

static PyObject *
get_log_traceback(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pacpy_completion_of(op)->log_traceback);
}

static int
set_log_traceback(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (value == NULL || truth > 0) {
        PyErr_SetString(value == NULL ? PyExc_AttributeError : PyExc_ValueError,
                        value == NULL ? "cannot delete attribute"
                                      : "_log_traceback can only be set to False");
        return -1;
    }
    if (truth == 0) {
        pacpy_completion_of(op)->log_traceback = false;
    }
    return truth;
}

static PyObject *
get_source_traceback(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none(pacpy_completion_of(op)->source_traceback);
}

static PyObject *
get_cancel_message(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none(pacpy_completion_of(op)->cancel_message);
}

static int
set_cancel_message(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return -1;
    }
    Py_XSETREF(c->cancel_message, Py_XNewRef(value));
    return 0;
}

PyGetSetDef pacpy_completion_getset[] = {
    {"_state", get_state, NULL, NULL},
    {"_asyncio_future_blocking", get_blocking, set_blocking, NULL},
    {"_loop", get_loop_attribute, NULL, NULL},
    {"_callbacks", get_callbacks, NULL, NULL},
    {"_result", get_result, NULL, NULL},
    {"_exception", get_exception, NULL, NULL},
    {"_log_traceback", get_log_traceback, set_log_traceback, NULL},
    {"_source_traceback", get_source_traceback, NULL, NULL},
    {"_cancel_message", get_cancel_message, set_cancel_message, NULL},
    {NULL},
};
