/* stream_read.c - asyncio's reading methods, step by step, as one object that waits for the same
 * future that asyncio's would. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* memmem */
#endif
#include "stream_read.h"

#include "future.h"
#include "stream_state.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    PyObject *reader;    /* NULL: it is over */
    PyObject *separator; /* PACPY_READ_UNTIL, PACPY_READ_LINE: bytes */
    PyObject *waiting;   /* while suspended: the iterator of the future */
    Py_ssize_t count;
    Py_ssize_t offset; /* before it there is no separator */
    enum pacpy_read_kind kind;
} StreamReadObject;

static const char *const method_names[] = {"read", "readexactly", "readuntil", "readuntil"};

/* The buffer has become `length` bytes long: go on reading if there is room again. 0, or -1 and an
 * exception. */
static int
was_shortened(struct pacpy_state *st, PyObject *state, Py_ssize_t length)
{
    Py_ssize_t limit;
    int paused = pacpy_stream_is_set(state, st->str__paused);
    if (paused <= 0) {
        return paused;
    }
    paused = pacpy_stream_limit(st, state, &limit);
    if (paused == 0 && length <= limit) {
        PyObject *transport = Py_XNewRef(pacpy_stream_get(state, st->str__transport));
        paused = transport == NULL ? -1 : PyDict_SetItem(state, st->str__paused, Py_False);
        paused = paused < 0 ? -1 : pacpy_stream_call(transport, st->str_resume_reading);
        Py_XDECREF(transport);
    }
    return paused;
}

/* The received object that is the whole buffer: likewise. */
static PyObject *
take_whole(struct pacpy_state *st, PyObject *state)
{
    PyObject *data = pacpy_stream_take_whole(st, state);
    if (data != NULL && was_shortened(st, state, 0) < 0) {
        Py_CLEAR(data);
    }
    return data;
}

/* Take the first `count` bytes out of the buffer, and go on reading if there is room again: new
 * bytes, or NULL and an exception. */
static PyObject *
take(struct pacpy_state *st, PyObject *state, PyObject *buffer, Py_ssize_t count)
{
    PyObject *data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), count);
    if (data == NULL) {
        return NULL;
    }
    int failed = count == PyByteArray_GET_SIZE(buffer) ? PyByteArray_Resize(buffer, 0)
                                                       : PySequence_DelSlice(buffer, 0, count);
    if (failed < 0 || was_shortened(st, state, PyByteArray_GET_SIZE(buffer)) < 0) {
        Py_CLEAR(data);
    }
    return data;
}

/* The end has come before what was asked for: IncompleteReadError, or for a line what there is. */
static PyObject *
incomplete(StreamReadObject *self, PyObject *buffer)
{
    struct pacpy_state *st = self->st;
    PyObject *partial =
        PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), PyByteArray_GET_SIZE(buffer));
    if (partial != NULL && PyByteArray_Resize(buffer, 0) < 0) {
        Py_CLEAR(partial);
    }
    if (partial == NULL || self->kind == PACPY_READ_LINE) {
        return partial;
    }
    PyObject *expected =
        self->kind == PACPY_READ_EXACTLY ? PyLong_FromSsize_t(self->count) : Py_NewRef(Py_None);
    PyObject *error = expected == NULL
                          ? NULL
                          : PyObject_CallFunctionObjArgs(st->asyncio_IncompleteReadError, partial,
                                                         expected, NULL);
    Py_XDECREF(expected);
    Py_DECREF(partial);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

/* What is there is longer than the limit: LimitOverrunError; for a line ValueError, and then it goes.
 * `found`: with a separator behind `consumed` bytes. */
static void
overrun(StreamReadObject *self, PyObject *state, PyObject *buffer, Py_ssize_t consumed, bool found)
{
    static const char *const messages[] = {"Separator is not found, and chunk exceed the limit",
                                           "Separator is found, but chunk is longer than limit"};
    if (self->kind == PACPY_READ_LINE) {
        Py_ssize_t gone = found ? consumed + 1 : PyByteArray_GET_SIZE(buffer);
        PyObject *dropped = take(self->st, state, buffer, gone);
        Py_XDECREF(dropped);
        if (dropped != NULL) {
            PyErr_SetString(PyExc_ValueError, messages[found]);
        }
        return;
    }
    PyObject *error =
        PyObject_CallFunction(self->st->asyncio_LimitOverrunError, "sn", messages[found], consumed);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* A try at what is asked for. The result; NULL with an exception; NULL without one: it has to wait. */
static PyObject *
attempt_until(StreamReadObject *self, PyObject *state, PyObject *buffer, int eof)
{
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer), limit;
    Py_ssize_t separator_length = PyBytes_GET_SIZE(self->separator);
    if (pacpy_stream_limit(self->st, state, &limit) < 0) {
        return NULL;
    }
    if (length - self->offset >= separator_length) {
        const char *start = PyByteArray_AS_STRING(buffer);
        const char *found = memmem(start + self->offset, (size_t)(length - self->offset),
                                   PyBytes_AS_STRING(self->separator), (size_t)separator_length);
        if (found != NULL) {
            if (found - start > limit) {
                overrun(self, state, buffer, found - start, true);
                return NULL;
            }
            return take(self->st, state, buffer, found - start + separator_length);
        }
        self->offset = length + 1 - separator_length;
        if (self->offset > limit) {
            overrun(self, state, buffer, self->offset, false);
            return NULL;
        }
    }
    return eof ? incomplete(self, buffer) : NULL;
}

/* Is the whole of a received object what is asked for? */
static bool
wants_whole(const StreamReadObject *self, PyObject *whole)
{
    Py_ssize_t length = PyBytes_GET_SIZE(whole);
    return self->kind == PACPY_READ_SOME
               ? self->count >= length
               : self->kind == PACPY_READ_EXACTLY && self->count == length;
}

static PyObject *
attempt(StreamReadObject *self, PyObject *state, bool waited)
{
    struct pacpy_state *st = self->st;
    PyObject *buffer = pacpy_stream_get(state, st->str__buffer);
    if (PAC_UNLIKELY(buffer != NULL && !PyByteArray_CheckExact(buffer))) {
        if (PyBytes_CheckExact(buffer) && wants_whole(self, buffer)) {
            return take_whole(st, state);
        }
        buffer = pacpy_stream_buffer(st, state);
    }
    int eof = buffer == NULL ? -1 : pacpy_stream_is_set(state, st->str__eof);
    if (eof < 0) {
        return NULL;
    }
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer);
    Py_INCREF(buffer);
    PyObject *result = NULL;
    if (self->kind >= PACPY_READ_UNTIL) {
        result = attempt_until(self, state, buffer, eof);
    }
    else if (self->kind == PACPY_READ_SOME) {
        if (length > 0 || eof || waited) {
            result = take(st, state, buffer, length < self->count ? length : self->count);
        }
    }
    else if (length >= self->count) {
        result = take(st, state, buffer, self->count);
    }
    else if (eof) {
        result = incomplete(self, buffer);
    }
    Py_DECREF(buffer);
    return result;
}

/* asyncio's _wait_for_data(), up to its await. 0 or -1. */
static int
begin_to_wait(StreamReadObject *self, PyObject *state)
{
    struct pacpy_state *st = self->st;
    PyObject *waiter = pacpy_stream_get(state, st->str__waiter);
    PyObject *loop = waiter == NULL ? NULL : pacpy_stream_get(state, st->str__loop);
    if (loop == NULL) {
        return -1;
    }
    if (waiter != Py_None) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s() called while another coroutine is already waiting for incoming data",
                     method_names[self->kind]);
        return -1;
    }
    int paused = pacpy_stream_is_set(state, st->str__paused);
    if (paused > 0) {
        PyObject *transport = Py_XNewRef(pacpy_stream_get(state, st->str__transport));
        paused = transport == NULL ? -1 : PyDict_SetItem(state, st->str__paused, Py_False);
        paused = paused < 0 ? -1 : pacpy_stream_call(transport, st->str_resume_reading);
        Py_XDECREF(transport);
    }
    if (paused < 0) {
        return -1;
    }
    PyObject *future = PyObject_CallMethodNoArgs(loop, st->str_create_future);
    if (future == NULL) {
        return -1;
    }
    unaryfunc am_await =
        Py_TYPE(future)->tp_as_async == NULL ? NULL : Py_TYPE(future)->tp_as_async->am_await;
    if (am_await == NULL) {
        PyErr_SetString(PyExc_TypeError, "create_future() has made no future");
    }
    else if (PyDict_SetItem(state, st->str__waiter, future) == 0) {
        self->waiting = am_await(future);
    }
    Py_DECREF(future);
    return self->waiting == NULL ? -1 : 0;
}

/* It is over: as the `finally` of asyncio's _wait_for_data(), nobody waits any more. Keeps the
 * exception that is set. */
static void
end(StreamReadObject *self)
{
    PyObject *reader = self->reader, *waiting = self->waiting;
    self->reader = NULL;
    self->waiting = NULL;
    if (waiting != NULL && reader != NULL) {
        PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
        PyObject *state = pacpy_stream_state(reader);
        if (state == NULL || PyDict_SetItem(state, self->st->str__waiter, Py_None) < 0) {
            PyErr_WriteUnraisable(reader);
        }
        Py_XDECREF(state);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    Py_XDECREF(waiting);
    Py_XDECREF(reader);
    Py_CLEAR(self->separator);
}

/* What is asked before the first try. The result, or NULL: with an exception, or go on. */
static PyObject *
check(StreamReadObject *self, PyObject *state)
{
    if (self->kind == PACPY_READ_EXACTLY && self->count < 0) {
        PyErr_SetString(PyExc_ValueError, "readexactly size can not be less than zero");
        return NULL;
    }
    if (self->separator != NULL && PyBytes_GET_SIZE(self->separator) == 0) {
        PyErr_SetString(PyExc_ValueError, "Separator should be at least one-byte string");
        return NULL;
    }
    PyObject *exception = pacpy_stream_get(state, self->st->str__exception);
    if (exception == NULL) {
        return NULL;
    }
    if (exception != Py_None) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        return NULL;
    }
    return self->kind <= PACPY_READ_EXACTLY && self->count == 0 ? PyBytes_FromStringAndSize(NULL, 0)
                                                                : NULL;
}

/* The future is done, or it is not. PYGEN_RETURN: it is; the state is as asyncio leaves it. */
static PySendResult
go_on_waiting(StreamReadObject *self, PyObject *state, PyObject **result)
{
    PySendResult step = PyIter_Send(self->waiting, Py_None, result);
    if (step == PYGEN_RETURN) {
        Py_CLEAR(*result);
        Py_CLEAR(self->waiting);
        if (PyDict_SetItem(state, self->st->str__waiter, Py_None) < 0) {
            return PYGEN_ERROR;
        }
    }
    return step;
}

static PySendResult
step_with(StreamReadObject *self, PyObject *state, PyObject **result)
{
    bool waited = self->waiting != NULL;
    *result = NULL;
    if (!waited) {
        *result = check(self, state);
        if (*result != NULL || PyErr_Occurred()) {
            return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        }
    }
    for (;;) {
        if (self->waiting != NULL) {
            PySendResult step = go_on_waiting(self, state, result);
            if (step != PYGEN_RETURN) {
                return step;
            }
            waited = true;
        }
        *result = attempt(self, state, waited);
        if (*result != NULL || PyErr_Occurred()) {
            return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        }
        if (begin_to_wait(self, state) < 0) {
            return PYGEN_ERROR;
        }
    }
}

static PySendResult
StreamRead_am_send(PyObject *op, PyObject *Py_UNUSED(arg), PyObject **result)
{
    StreamReadObject *self = (StreamReadObject *)op;
    *result = NULL;
    if (self->reader == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    PyObject *state = pacpy_stream_state(self->reader);
    PySendResult step = state == NULL ? PYGEN_ERROR : step_with(self, state, result);
    Py_XDECREF(state);
    if (step != PYGEN_NEXT) {
        end(self);
    }
    return step;
}

static PyObject *
StreamRead_iternext(PyObject *op)
{
    PyObject *result;
    switch (StreamRead_am_send(op, Py_None, &result)) {
        case PYGEN_NEXT:
            return result;
        case PYGEN_RETURN:
            return pacpy_return_from_await(((StreamReadObject *)op)->st, result);
        case PYGEN_ERROR:
            break;
    }
    return NULL;
}

static PyObject *
StreamRead_send(PyObject *op, PyObject *Py_UNUSED(arg))
{
    PyObject *result = StreamRead_iternext(op);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

static PyObject *
StreamRead_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw expected 1 to 3 arguments");
        return NULL;
    }
    end((StreamReadObject *)op);
    pacpy_raise_thrown(args, nargs);
    return NULL;
}

static PyObject *
StreamRead_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    end((StreamReadObject *)op);
    Py_RETURN_NONE;
}

static int
StreamRead_traverse(PyObject *op, visitproc visit, void *arg)
{
    StreamReadObject *self = (StreamReadObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->reader);
    Py_VISIT(self->separator);
    Py_VISIT(self->waiting);
    return 0;
}

static int
StreamRead_clear(PyObject *op)
{
    end((StreamReadObject *)op);
    return 0;
}

static void
StreamRead_dealloc(PyObject *op)
{
    StreamReadObject *self = (StreamReadObject *)op;
    PyObject_GC_UnTrack(op);
    end(self);
    pacpy_freelist_free(&self->st->stream_read_free, self->st->StreamRead_type, op);
}

#define FASTCALL(f) (PyCFunction)(void (*)(void)) f

static PyMethodDef StreamRead_methods[] = {
    {"send", StreamRead_send, METH_O, "Part of the await protocol."},
    {"throw", FASTCALL(StreamRead_throw), METH_FASTCALL, "Part of the await protocol."},
    {"close", StreamRead_close, METH_NOARGS, "Part of the await protocol."},
    {NULL},
};

static PyType_Slot StreamRead_slots[] = {
    {Py_tp_doc, "What the reading methods of a StreamReader return, to be awaited once."},
    {Py_tp_traverse, StreamRead_traverse},
    {Py_tp_clear, StreamRead_clear},
    {Py_tp_dealloc, StreamRead_dealloc},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, StreamRead_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, StreamRead_iternext},
    {Py_tp_methods, StreamRead_methods},
    {0, NULL},
};

static PyType_Spec StreamRead_spec = {
    .name = "pyasync_c._core.StreamRead",
    .basicsize = sizeof(StreamReadObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = StreamRead_slots,
};

int
pacpy_stream_read_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &StreamRead_spec, NULL, &st->StreamRead_type, NULL);
}

/* ---- making one ------------------------------------------------------------------------------ */

PyObject *
pacpy_stream_read_new(struct pacpy_state *st, PyObject *reader, enum pacpy_read_kind kind,
                      Py_ssize_t count, PyObject *separator)
{
    PyObject *op = pacpy_freelist_alloc(&st->stream_read_free, st->StreamRead_type);
    if (op == NULL) {
        return NULL;
    }
    StreamReadObject *self = (StreamReadObject *)op;
    self->st = st;
    self->reader = Py_NewRef(reader);
    self->separator = Py_XNewRef(separator);
    self->waiting = NULL;
    self->count = count;
    self->offset = 0;
    self->kind = kind;
    PyObject_GC_Track(op);
    return op;
}
