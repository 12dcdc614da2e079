/* stream_reader.c - see stream_reader.h. What is rare goes to asyncio's own methods: reading all until
 * the end, separators other than one bytes object. */
#include "stream_reader.h"

#include "completion.h"
#include "receive_bytes.h"
#include "stream_read.h"
#include "stream_state.h"

#include <string.h>

/* ---- feeding -------------------------------------------------------------------------------- */

/* Tell whoever waits. 0 or -1. */
static int
wake(struct pacpy_state *st, PyObject *state)
{
    PyObject *waiter = pacpy_stream_get(state, st->str__waiter);
    if (waiter == NULL || waiter == Py_None) {
        return waiter == NULL ? -1 : 0;
    }
    Py_INCREF(waiter);
    int result = PyDict_SetItem(state, st->str__waiter, Py_None);
    if (result == 0 && Py_IS_TYPE(waiter, st->AsyncioFuture_type) &&
        pacpy_completion_of(waiter)->outcome != PACPY_FINISHED) {
        pacpy_completion_set_result(pacpy_completion_of(waiter), Py_None);
    }
    else if (result == 0) {
        PyObject *cancelled = PyObject_CallMethod(waiter, "cancelled", NULL);
        result = cancelled == NULL ? -1 : 0;
        if (cancelled == Py_False) {
            PyObject *done = PyObject_CallMethodOneArg(waiter, st->str_set_result, Py_None);
            result = done == NULL ? -1 : 0;
            Py_XDECREF(done);
        }
        Py_XDECREF(cancelled);
    }
    Py_DECREF(waiter);
    return result;
}

/* More than twice the limit is there: reading pauses, if the transport can. 0 or -1. */
static int
pause_transport(struct pacpy_state *st, PyObject *state)
{
    PyObject *transport = pacpy_stream_get(state, st->str__transport);
    if (transport == NULL || transport == Py_None) {
        return transport == NULL ? -1 : 0;
    }
    Py_INCREF(transport);
    int result = pacpy_stream_call(transport, st->str_pause_reading);
    if (result == 0) {
        result = PyDict_SetItem(state, st->str__paused, Py_True);
    }
    else if (PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
        PyErr_Clear();
        result = PyDict_SetItem(state, st->str__transport, Py_None);
    }
    Py_DECREF(transport);
    return result;
}

/* May it be fed? 0, or -1 and an exception. */
static int
check_open(struct pacpy_state *st, PyObject *state)
{
    int eof = pacpy_stream_is_set(state, st->str__eof);
    if (eof > 0) {
        PyErr_SetString(PyExc_AssertionError, "feed_data after feed_eof");
    }
    return eof != 0 ? -1 : 0;
}

/* Something was added to the buffer, which is `length` bytes long by that. 0 or -1. */
static int
was_extended(struct pacpy_state *st, PyObject *state, Py_ssize_t length)
{
    Py_ssize_t limit;
    if (wake(st, state) < 0) {
        return -1;
    }
    int paused = pacpy_stream_is_set(state, st->str__paused);
    if (paused != 0 || pacpy_stream_limit(st, state, &limit) < 0) {
        return paused > 0 ? 0 : -1;
    }
    return length > 2 * limit ? pause_transport(st, state) : 0;
}

static int
feed(struct pacpy_state *st, PyObject *state, const char *bytes, Py_ssize_t count)
{
    PyObject *buffer = check_open(st, state) < 0 ? NULL : pacpy_stream_buffer(st, state);
    if (count == 0 || buffer == NULL) {
        return buffer == NULL ? -1 : 0;
    }
    Py_ssize_t before = PyByteArray_GET_SIZE(buffer);
    if (PyByteArray_Resize(buffer, before + count) < 0) {
        return -1;
    }
    memcpy(PyByteArray_AS_STRING(buffer) + before, bytes, (size_t)count);
    return was_extended(st, state, before + count);
}

static int
feed_bytes(struct pacpy_state *st, PyObject *state, PyObject *bytes)
{
    Py_ssize_t count = PyBytes_GET_SIZE(bytes);
    int put = 0;
    if (count >= PACPY_LARGE) {
        put = check_open(st, state) < 0 ? -1 : pacpy_stream_put_whole(st, state, bytes);
    }
    return put < 0   ? -1
           : put > 0 ? was_extended(st, state, count)
                     : feed(st, state, PyBytes_AS_STRING(bytes), count);
}

int
pacpy_reader_feed(struct pacpy_state *st, PyObject *reader, const char *bytes, Py_ssize_t count)
{
    PyObject *state = pacpy_stream_state(reader);
    int fed = state == NULL ? -1 : feed(st, state, bytes, count);
    Py_XDECREF(state);
    return fed;
}

int
pacpy_reader_feed_bytes(struct pacpy_state *st, PyObject *reader, PyObject *bytes)
{
    PyObject *state = pacpy_stream_state(reader);
    int fed = state == NULL ? -1 : feed_bytes(st, state, bytes);
    Py_XDECREF(state);
    return fed;
}

/* ---- the reader's methods ------------------------------------------------------------------- */

static struct pacpy_state *
state_of_class(PyTypeObject *defining)
{
    return *(struct pacpy_state **)PyType_GetModuleState(defining);
}

/* One argument at the most, by position or as `keyword`: borrowed, NULL if absent. 0 or -1. */
static int
one_argument(const char *method, const char *keyword, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames, PyObject **value)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    *value = nargs + keywords > 0 ? args[0] : NULL;
    if (nargs + keywords > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method,
                     nargs + keywords);
        return -1;
    }
    if (keywords == 1 &&
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), keyword) != 0) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", method,
                     PyTuple_GET_ITEM(kwnames, 0));
        return -1;
    }
    return 0;
}

/* asyncio's own method, for what is rare. */
static PyObject *
standard(struct pacpy_state *st, PyObject *reader, const char *method, PyObject *argument)
{
    return PyObject_CallMethod(st->asyncio_StreamReader, method, "OO", reader, argument);
}

/* What a count of bytes is: 0 or -1. */
static int
count_of(PyObject *value, Py_ssize_t *count)
{
    *count = PyNumber_AsSsize_t(value, NULL);
    return *count == -1 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
Reader_read(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    struct pacpy_state *st = state_of_class(defining);
    PyObject *value;
    Py_ssize_t count = -1;
    if (one_argument("read", "n", args, nargs, kwnames, &value) < 0 ||
        (value != NULL && count_of(value, &count) < 0)) {
        return NULL;
    }
    if (count < 0) {
        PyObject *minus_one = PyLong_FromLong(-1);
        PyObject *all = minus_one == NULL ? NULL : standard(st, op, "read", minus_one);
        Py_XDECREF(minus_one);
        return all;
    }
    return pacpy_stream_read_new(st, op, PACPY_READ_SOME, count, NULL);
}

static PyObject *
Reader_readexactly(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *value;
    Py_ssize_t count;
    if (one_argument("readexactly", "n", args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "readexactly() missing 1 required argument: 'n'");
        return NULL;
    }
    if (count_of(value, &count) < 0) {
        return NULL;
    }
    return pacpy_stream_read_new(state_of_class(defining), op, PACPY_READ_EXACTLY, count, NULL);
}

static PyObject *
newline(void)
{
    return PyBytes_FromStringAndSize("\n", 1); /* one byte: the interpreter keeps it */
}

static PyObject *
Reader_readuntil(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    struct pacpy_state *st = state_of_class(defining);
    PyObject *value;
    if (one_argument("readuntil", "separator", args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    if (value != NULL && !PyBytes_CheckExact(value)) {
        return standard(st, op, "readuntil", value);
    }
    PyObject *separator = value == NULL ? newline() : Py_NewRef(value);
    PyObject *read =
        separator == NULL ? NULL : pacpy_stream_read_new(st, op, PACPY_READ_UNTIL, 0, separator);
    Py_XDECREF(separator);
    return read;
}

static PyObject *
Reader_readline(PyObject *op, PyTypeObject *defining, PyObject *const *Py_UNUSED(args),
                Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs > 0 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "readline() takes no arguments");
        return NULL;
    }
    PyObject *separator = newline();
    PyObject *read = separator == NULL ? NULL
                                       : pacpy_stream_read_new(state_of_class(defining), op,
                                                               PACPY_READ_LINE, 0, separator);
    Py_XDECREF(separator);
    return read;
}

static PyObject *
Reader_feed_data(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *data;
    Py_buffer view;
    if (one_argument("feed_data", "data", args, nargs, kwnames, &data) < 0) {
        return NULL;
    }
    if (data == NULL) {
        PyErr_SetString(PyExc_TypeError, "feed_data() missing 1 required argument: 'data'");
        return NULL;
    }
    if (PyBytes_CheckExact(data)) {
        int done = pacpy_reader_feed_bytes(state_of_class(defining), op, data);
        return done < 0 ? NULL : Py_NewRef(Py_None);
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int fed = pacpy_reader_feed(state_of_class(defining), op, view.buf, view.len);
    PyBuffer_Release(&view);
    return fed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
Reader_exception(PyObject *op, PyTypeObject *defining, PyObject *const *Py_UNUSED(args),
                 Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs > 0 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "exception() takes no arguments");
        return NULL;
    }
    PyObject *state = pacpy_stream_state(op);
    PyObject *exception =
        state == NULL
            ? NULL
            : Py_XNewRef(pacpy_stream_get(state, state_of_class(defining)->str__exception));
    Py_XDECREF(state);
    return exception;
}

#define METHOD(f) (PyCFunction)(void (*)(void)) f, METH_METHOD | METH_FASTCALL | METH_KEYWORDS

static PyMethodDef Reader_methods[] = {
    {"read", METHOD(Reader_read), "As asyncio's."},
    {"readexactly", METHOD(Reader_readexactly), "As asyncio's."},
    {"readuntil", METHOD(Reader_readuntil), "As asyncio's."},
    {"readline", METHOD(Reader_readline), "As asyncio's."},
    {"feed_data", METHOD(Reader_feed_data), "As asyncio's."},
    {"exception", METHOD(Reader_exception), "As asyncio's."},
    {NULL},
};

/* The attribute `_buffer`: what stands in the instance's dict, but never as bytes. */
static PyObject *
get_buffer(PyObject *op, void *Py_UNUSED(closure))
{
    struct pacpy_state *st = pacpy_state_of_type(Py_TYPE(op));
    PyObject *state = pacpy_stream_state(op);
    PyObject *buffer = NULL;
    if (state != NULL && pacpy_stream_whole(st, state) != NULL) {
        buffer = pacpy_stream_buffer(st, state);
    }
    else if (state != NULL) {
        buffer = pacpy_stream_get(state, st->str__buffer);
    }
    Py_XINCREF(buffer);
    Py_XDECREF(state);
    return buffer;
}

static int
set_buffer(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    struct pacpy_state *st = pacpy_state_of_type(Py_TYPE(op));
    PyObject *state = pacpy_stream_state(op);
    int set = state == NULL   ? -1
              : value == NULL ? PyDict_DelItem(state, st->str__buffer)
                              : PyDict_SetItem(state, st->str__buffer, value);
    Py_XDECREF(state);
    return set;
}

static PyGetSetDef Reader_getset[] = {
    {"_buffer", get_buffer, set_buffer, NULL, NULL},
    {NULL},
};

static PyType_Slot Reader_slots[] = {
    {Py_tp_doc, "What an asyncio.StreamReader becomes when a transport of ours feeds it."},
    {Py_tp_methods, Reader_methods},
    {Py_tp_getset, Reader_getset},
    {0, NULL},
};

static PyType_Spec Reader_spec = {
    .name = "pyasync_c._core.StreamReader",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = Reader_slots,
};

/* ---- adoption ------------------------------------------------------------------------------- */

/* What asyncio's two classes have as long as nobody has changed them: name -> attribute. 0 or -1. */
static int
note_originals(struct pacpy_state *st)
{
    PyObject *originals = PyDict_New();
    Py_XSETREF(st->asyncio_stream_methods, originals);
    if (originals == NULL) {
        return -1;
    }
    for (PyMethodDef *m = Reader_methods; m->ml_name != NULL; m++) {
        PyObject *method = PyObject_GetAttrString(st->asyncio_StreamReader, m->ml_name);
        int set = method == NULL ? -1 : PyDict_SetItemString(originals, m->ml_name, method);
        Py_XDECREF(method);
        if (set < 0) {
            return -1;
        }
    }
    PyObject *received = PyObject_GetAttr(st->asyncio_StreamReaderProtocol, st->str_data_received);
    int set = received == NULL ? -1 : PyDict_SetItem(originals, st->str_data_received, received);
    Py_XDECREF(received);
    return set;
}

/* Has anybody put a method of his own in the place of one of asyncio's: in a class, or in the
 * attributes of the reader or the protocol? Leaves no exception set. */
static bool
is_changed(struct pacpy_state *st, PyObject *reader_state, PyObject *protocol_state)
{
    PyObject *name, *original;
    Py_ssize_t at = 0;
    bool changed = false;
    while (!changed && PyDict_Next(st->asyncio_stream_methods, &at, &name, &original)) {
        bool of_protocol = name == st->str_data_received;
        PyObject *present = PyObject_GetAttr(
            of_protocol ? st->asyncio_StreamReaderProtocol : st->asyncio_StreamReader, name);
        changed = present != original ||
                  PyDict_Contains(of_protocol ? protocol_state : reader_state, name) != 0;
        Py_XDECREF(present);
    }
    PyErr_Clear();
    return changed;
}

/* What the protocol's weak reference leads to: a new reference, or NULL. */
static PyObject *
reader_in(struct pacpy_state *st, PyObject *protocol_state)
{
    PyObject *reader = NULL;
    PyObject *weakref = PyDict_GetItemWithError(protocol_state, st->str__stream_reader_wr);
    if (weakref == NULL || !PyWeakref_Check(weakref) || PyWeakref_GetRef(weakref, &reader) < 0) {
        PyErr_Clear();
        return NULL;
    }
    return reader;
}

static bool
adopt(struct pacpy_state *st, PyObject *reader, PyObject *protocol_state)
{
    if (Py_IS_TYPE(reader, st->StreamReader_type)) {
        return true;
    }
    if ((PyObject *)Py_TYPE(reader) != st->asyncio_StreamReader) {
        return false;
    }
    PyObject *state = pacpy_stream_state(reader);
    bool ours = state != NULL && !is_changed(st, state, protocol_state) &&
                PyObject_SetAttr(reader, st->str___class__, (PyObject *)st->StreamReader_type) == 0;
    Py_XDECREF(state);
    PyErr_Clear();
    return ours;
}

bool
pacpy_adopt_stream(struct pacpy_state *st, PyObject *protocol)
{
    if ((PyObject *)Py_TYPE(protocol) != st->asyncio_StreamReaderProtocol) {
        return false;
    }
    PyObject *state = pacpy_stream_state(protocol);
    PyObject *reader = state == NULL ? NULL : reader_in(st, state);
    bool ours = reader != NULL && adopt(st, reader, state);
    Py_XDECREF(reader);
    Py_XDECREF(state);
    PyErr_Clear();
    return ours;
}

PyObject *
pacpy_reader_of_protocol(struct pacpy_state *st, PyObject *protocol)
{
    PyObject *state = pacpy_stream_state(protocol);
    PyObject *reader = state == NULL ? NULL : reader_in(st, state);
    if (reader != NULL && !Py_IS_TYPE(reader, st->StreamReader_type)) {
        Py_CLEAR(reader);
    }
    Py_XDECREF(state);
    PyErr_Clear();
    return reader;
}

int
pacpy_stream_reader_make_types(struct pacpy_state *st)
{
    PyTypeObject *base = (PyTypeObject *)st->asyncio_StreamReader;
    Reader_spec.basicsize = (int)base->tp_basicsize;
    if (pacpy_make_type(st->module, &Reader_spec, base, &st->StreamReader_type, NULL) < 0) {
        return -1;
    }
    return note_originals(st);
}
