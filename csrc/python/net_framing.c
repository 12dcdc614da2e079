/* net_framing.c - Framed: a stream as a sequence of frames.
 *
 * A frame is looked for in what the stream has read ahead, and given out whole, so that a receive
 * that is cancelled has taken nothing. The exception is the length of a large frame, which is taken
 * and remembered here, so that the frame can be received into an object of its own. */
#include "net_read.h"
#include "net_write.h"

#include "args.h"

enum framing { LINES, DELIMITED, LENGTH };

enum { LIMIT_DEFAULT = 65536, LENGTH_LIMIT_DEFAULT = 8388608 };

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    StreamObject *stream; /* strong */
    enum framing framing;
    PyObject *delimiter; /* bytes, or NULL */
    size_t limit;        /* of a frame without what marks it */
    unsigned width;      /* of a length, in bytes */
    bool little;
    bool has_length; /* of the frame whose length was taken: */
    size_t length;
} FramedObject;

/* ---- receiving ------------------------------------------------------------------------------ */

/* Look for the delimiter in what was read ahead: 1, the frame's size and that with its end; 0: not
 * there yet; -1: it is too long. */
static int
find_frame(ReadObject *self, FramedObject *framed, StreamObject *s, size_t *size, size_t *whole)
{
    size_t have = pacpy_ahead_size(s);
    size_t mark = framed->delimiter == NULL ? 1 : (size_t)PyBytes_GET_SIZE(framed->delimiter);
    size_t end = have > self->scanned ? pacpy_find_end(pacpy_ahead(s) + self->scanned,
                                                       have - self->scanned, framed->delimiter)
                                      : 0;
    if (end > 0) {
        *whole = self->scanned + end;
        *size = *whole - mark;
        if (framed->framing == LINES && *size > 0 && pacpy_ahead(s)[*size - 1] == '\r') {
            --*size;
        }
        if (*size <= framed->limit) {
            return 1;
        }
    }
    else {
        self->scanned = have >= mark ? have - mark + 1 : 0;
        if (have < framed->limit + mark + (framed->framing == LINES)) {
            return 0;
        }
    }
    return pacpy_raise_overrun(s, "the frame is longer than its limit", self->scanned);
}

/* 1 and *value; 0; -1; 2 at the end of the stream. */
static int
receive_marked(ReadObject *self, FramedObject *framed, StreamObject *s, PyObject **value)
{
    enum { LEAST = 4096 };
    for (;;) {
        size_t size = 0, whole = 0, count;
        int found = find_frame(self, framed, s, &size, &whole);
        if (found < 0) {
            return -1;
        }
        if (found > 0) {
            *value = PyBytes_FromStringAndSize(pacpy_ahead(s), (Py_ssize_t)size);
            if (*value == NULL) {
                return -1;
            }
            pacpy_ahead_consume(s, whole);
            self->scanned = 0;
            return 1;
        }
        size_t have = pacpy_ahead_size(s);
        int done = have == 0 ? pacpy_receive_at_least(s, 1, &count)
                             : pacpy_receive_more(s, have + (have < LEAST ? LEAST : have), &count);
        if (done <= 0 || count == 0) {
            return done <= 0 ? done : 2;
        }
    }
}

static uint64_t
read_length(const FramedObject *framed, const unsigned char *bytes)
{
    uint64_t length = 0;
    for (unsigned i = 0; i < framed->width; i++) {
        unsigned place = framed->little ? framed->width - 1 - i : i;
        length = length << 8 | bytes[place];
    }
    return length;
}

/* As receive_marked. */
static int
receive_counted(FramedObject *framed, StreamObject *s, PyObject **value)
{
    size_t count;
    int done;
    if (!framed->has_length) {
        done = pacpy_receive_at_least(s, framed->width, &count);
        if (done <= 0 || pacpy_ahead_size(s) < framed->width) {
            return done <= 0 ? done : 2;
        }
        uint64_t length = read_length(framed, (const unsigned char *)pacpy_ahead(s));
        if (length > framed->limit) {
            return pacpy_raise_overrun(s, "the frame is longer than its limit", framed->width);
        }
        if (length <= PACPY_SCRATCH) {
            size_t whole = framed->width + (size_t)length;
            done = pacpy_receive_at_least(s, whole, &count);
            if (done <= 0 || pacpy_ahead_size(s) < whole) {
                return done <= 0 ? done : 2;
            }
            *value = PyBytes_FromStringAndSize(pacpy_ahead(s) + framed->width, (Py_ssize_t)length);
            if (*value != NULL) {
                pacpy_ahead_consume(s, whole);
            }
            return *value == NULL ? -1 : 1;
        }
        pacpy_ahead_consume(s, framed->width);
        framed->has_length = true;
        framed->length = (size_t)length;
    }
    done = pacpy_receive_at_least(s, framed->length, &count);
    if (done <= 0 || pacpy_ahead_size(s) < framed->length) {
        return done <= 0 ? done : 2;
    }
    *value = pacpy_ahead_take(s, framed->length);
    if (*value == NULL) {
        return -1;
    }
    framed->has_length = false;
    return 1;
}

/* 1 and *value; 0; -1; 2 at the end of the stream, with nothing left of it. */
static int
receive_frame(ReadObject *self, StreamObject *s, PyObject **value)
{
    FramedObject *framed = (FramedObject *)self->object;
    int done = framed->framing == LENGTH ? receive_counted(framed, s, value)
                                         : receive_marked(self, framed, s, value);
    if (done != 2 || (pacpy_ahead_size(s) == 0 && !framed->has_length)) {
        return done;
    }
    if (framed->framing == LINES) {
        *value = pacpy_ahead_take(s, pacpy_ahead_size(s));
        return *value == NULL ? -1 : 1;
    }
    framed->has_length = false;
    return pacpy_raise_incomplete(s, Py_None);
}

static int
step_recv(ReadObject *self, StreamObject *s, PyObject **value)
{
    int done = receive_frame(self, s, value);
    if (done == 2) {
        *value = Py_NewRef(Py_None);
        return 1;
    }
    return done;
}

static int
step_next(ReadObject *self, StreamObject *s, PyObject **value)
{
    int done = receive_frame(self, s, value);
    if (done == 2) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
        return -1;
    }
    return done;
}

static const char Framed_recv_doc[] =
    "recv($self, /)\n--\n\n"
    "Await it for the next frame, without what marks it, or None at the end of the stream.\n"
    "asyncio.IncompleteReadError if the stream ends within a frame (a last line need not have its\n"
    "end), asyncio.LimitOverrunError if a frame is longer than the limit: nothing can be received\n"
    "any more then. Cancelled, it has taken nothing.";

static PyObject *
Framed_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)pacpy_read_new(((FramedObject *)op)->stream, step_recv, 0, op);
}

static PyObject *
Framed_anext(PyObject *op)
{
    return (PyObject *)pacpy_read_new(((FramedObject *)op)->stream, step_next, 0, op);
}

/* ---- sending -------------------------------------------------------------------------------- */

/* The bytes before a frame of this size: a new reference; NULL and an exception. */
static PyObject *
length_bytes(const FramedObject *framed, size_t size)
{
    char bytes[8];
    for (unsigned i = 0; i < framed->width; i++) {
        unsigned place = framed->little ? i : framed->width - 1 - i;
        bytes[place] = (char)(unsigned char)((uint64_t)size >> 8 * i);
    }
    return PyBytes_FromStringAndSize(bytes, framed->width);
}

/* Does a frame hold its own mark? Then it would arrive as two. 0, or -1 and ValueError. */
static int
check_mark(const FramedObject *framed, const Py_buffer *view)
{
    if (pacpy_find_end(view->buf, (size_t)view->len, framed->delimiter) == 0) {
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, framed->framing == LINES ? "a line must not contain b'\\n'"
                                                               : "a frame must not contain the "
                                                                 "delimiter");
    return -1;
}

/* What stands before `frame` (a new reference, or NULL) or behind it: 0; -1 and an exception. */
static int
mark_of(const FramedObject *framed, PyObject *frame, PyObject **before)
{
    Py_buffer view;
    *before = NULL;
    if (PyUnicode_Check(frame)) {
        PyErr_SetString(PyExc_TypeError, "a frame must be bytes, not str: encode it");
        return -1;
    }
    if (PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    int failed = 0;
    if ((size_t)view.len > framed->limit) {
        PyErr_Format(PyExc_ValueError, "a frame must be at most %zu bytes long, not %zd",
                     framed->limit, view.len);
        failed = -1;
    }
    else if (framed->framing == LENGTH) {
        *before = length_bytes(framed, (size_t)view.len);
        failed = *before == NULL ? -1 : 0;
    }
    else {
        failed = check_mark(framed, &view);
    }
    PyBuffer_Release(&view);
    return failed;
}

static PyObject *
send_frames(FramedObject *framed, PyObject *const *frames, size_t count)
{
    if (count > (size_t)PY_SSIZE_T_MAX / 2) {
        return PyErr_NoMemory();
    }
    /* Frames and marks in turn, in a tuple that owns the marks. */
    PyObject *items = PyTuple_New((Py_ssize_t)(2 * count));
    PyObject *newline = framed->framing == LINES ? PyBytes_FromStringAndSize("\n", 1) : NULL;
    PyObject *behind = newline == NULL ? framed->delimiter : newline;
    PyObject *op = NULL;
    if (items == NULL || (framed->framing == LINES && newline == NULL)) {
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        PyObject *before;
        if (mark_of(framed, frames[i], &before) < 0) {
            goto done;
        }
        PyObject *frame = Py_NewRef(frames[i]);
        PyObject *mark = before == NULL ? Py_NewRef(behind) : before;
        PyTuple_SET_ITEM(items, (Py_ssize_t)(2 * i), before == NULL ? frame : mark);
        PyTuple_SET_ITEM(items, (Py_ssize_t)(2 * i + 1), before == NULL ? mark : frame);
    }
    op = pacpy_write_frames(framed->stream, ((PyTupleObject *)items)->ob_item, 2 * count);
done:
    Py_XDECREF(newline);
    Py_XDECREF(items);
    return op;
}

static const char Framed_send_doc[] =
    "send($self, frame, /)\n--\n\n"
    "Await it to send a frame: bytes or any other buffer. TypeError, or ValueError if it is longer\n"
    "than the limit or contains what marks its end, at the call. Cancelled, it may have sent a part:\n"
    "the `written` of what this method has returned says how many bytes, marks included, and awaited\n"
    "again, it goes on behind them.";

static PyObject *
Framed_send(PyObject *op, PyObject *frame)
{
    return send_frames((FramedObject *)op, &frame, 1);
}

static const char Framed_send_all_doc[] =
    "send_all($self, frames, /)\n--\n\n"
    "As send(), for a list or tuple of frames, which go in as few system calls as there is room for.";

static PyObject *
Framed_send_all(PyObject *op, PyObject *frames)
{
    if (!PyList_Check(frames) && !PyTuple_Check(frames)) {
        return PyErr_Format(PyExc_TypeError, "frames must be a list or tuple, not %.200s",
                            Py_TYPE(frames)->tp_name);
    }
    PyObject *items = PySequence_Tuple(frames);
    if (items == NULL) {
        return NULL;
    }
    PyObject *sending = send_frames((FramedObject *)op, ((PyTupleObject *)items)->ob_item,
                                    (size_t)PyTuple_GET_SIZE(items));
    Py_DECREF(items);
    return sending;
}

/* ---- making --------------------------------------------------------------------------------- */

/* For a stream or one of its halves. */
static FramedObject *
framed_new(PyObject *type, PyObject *stream, enum framing framing)
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    if (st == NULL) {
        return NULL;
    }
    if (!pacpy_is_stream(st, stream)) {
        PyErr_Format(PyExc_TypeError, "stream must be a stream of pyasync_c.net, not %.200s",
                     Py_TYPE(stream)->tp_name);
        return NULL;
    }
    FramedObject *self = (FramedObject *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    if (self != NULL) {
        self->st = st;
        self->stream = (StreamObject *)Py_NewRef(pacpy_stream_of(stream));
        self->framing = framing;
        self->limit = framing == LENGTH ? LENGTH_LIMIT_DEFAULT : LIMIT_DEFAULT;
    }
    return self;
}

static int
limit_argument(FramedObject *self, PyObject *op)
{
    uint64_t limit;
    if (op != NULL) {
        if (pacpy_count_from_object(op, "limit", 1, PY_SSIZE_T_MAX / 4, &limit) < 0) {
            return -1;
        }
        self->limit = (size_t)limit;
    }
    return 0;
}

static const char Framed_lines_doc[] =
    "lines($type, stream, *, limit=65536)\n--\n\n"
    "Frames are lines, received without their b'\\n' or b'\\r\\n' and sent with b'\\n'. Stands for\n"
    "Tokio's LinesCodec.";

static PyObject *
Framed_lines(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"stream", "limit", NULL};
    PyObject *values[2] = {NULL, NULL};
    if (pacpy_keywords("lines", keywords, 1, 1, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    FramedObject *self = framed_new(type, values[0], LINES);
    if (self != NULL && limit_argument(self, values[1]) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static const char Framed_delimited_doc[] =
    "delimited($type, stream, delimiter, *, limit=65536)\n--\n\n"
    "Frames end with the bytes `delimiter`. Stands for Tokio's AnyDelimiterCodec.";

static PyObject *
Framed_delimited(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"stream", "delimiter", "limit", NULL};
    PyObject *values[3] = {NULL, NULL, NULL};
    if (pacpy_keywords("delimited", keywords, 2, 2, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    FramedObject *self = framed_new(type, values[0], DELIMITED);
    if (self == NULL) {
        return NULL;
    }
    if (PyUnicode_Check(values[1]) || !PyObject_CheckBuffer(values[1])) {
        PyErr_Format(PyExc_TypeError, "delimiter must be bytes, not %.200s",
                     Py_TYPE(values[1])->tp_name);
        goto failed;
    }
    self->delimiter = PyBytes_FromObject(values[1]);
    if (self->delimiter == NULL || limit_argument(self, values[2]) < 0) {
        goto failed;
    }
    if (PyBytes_GET_SIZE(self->delimiter) == 0) {
        PyErr_SetString(PyExc_ValueError, "delimiter must not be empty");
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

/* 0, or -1 and an exception. */
static int
byteorder_argument(FramedObject *self, PyObject *op)
{
    bool is_str = PyUnicode_Check(op);
    if (is_str && PyUnicode_CompareWithASCIIString(op, "little") == 0) {
        self->little = true;
    }
    else if (!is_str || PyUnicode_CompareWithASCIIString(op, "big") != 0) {
        PyErr_SetString(is_str ? PyExc_ValueError : PyExc_TypeError,
                        "byteorder must be 'big' or 'little'");
        return -1;
    }
    return 0;
}

static const char Framed_length_doc[] =
    "length_delimited($type, stream, width=4, byteorder='big', *, limit=8388608)\n--\n\n"
    "Before each frame stands its length, in 1, 2, 4 or 8 bytes. Stands for Tokio's\n"
    "LengthDelimitedCodec.";

static PyObject *
Framed_length_delimited(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"stream", "width", "byteorder", "limit", NULL};
    PyObject *values[4] = {NULL, NULL, NULL, NULL};
    uint64_t width = 4;
    if (pacpy_keywords("length_delimited", keywords, 1, 3, args, nargs, kwnames, values) < 0 ||
        (values[1] != NULL && pacpy_count_from_object(values[1], "width", 1, 8, &width) < 0)) {
        return NULL;
    }
    if ((width & (width - 1)) != 0) {
        PyErr_SetString(PyExc_ValueError, "width must be 1, 2, 4 or 8");
        return NULL;
    }
    FramedObject *self = framed_new(type, values[0], LENGTH);
    if (self == NULL) {
        return NULL;
    }
    self->width = (unsigned)width;
    if ((values[2] != NULL && byteorder_argument(self, values[2]) < 0) ||
        limit_argument(self, values[3]) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    uint64_t most = width == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * width) - 1;
    if (self->limit > most) {
        self->limit = (size_t)most;
    }
    return (PyObject *)self;
}

/* ---- the type ------------------------------------------------------------------------------- */

static void
Framed_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(((FramedObject *)op)->stream);
    Py_XDECREF(((FramedObject *)op)->delimiter);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
Framed_repr(PyObject *op)
{
    static const char *const names[] = {"lines", "delimited", "length_delimited"};
    FramedObject *self = (FramedObject *)op;
    return PyUnicode_FromFormat("<Framed %s of %R>", names[self->framing], self->stream);
}

static PyObject *
Framed_get_stream(PyObject *op, void *Py_UNUSED(ignored))
{
    return Py_NewRef(((FramedObject *)op)->stream);
}

static PyMethodDef Framed_methods[] = {
    {"lines", PACPY_KEYWORDS(Framed_lines) | METH_CLASS, Framed_lines_doc},
    {"delimited", PACPY_KEYWORDS(Framed_delimited) | METH_CLASS, Framed_delimited_doc},
    {"length_delimited", PACPY_KEYWORDS(Framed_length_delimited) | METH_CLASS, Framed_length_doc},
    {"recv", Framed_recv, METH_NOARGS, Framed_recv_doc},
    {"send", Framed_send, METH_O, Framed_send_doc},
    {"send_all", Framed_send_all, METH_O, Framed_send_all_doc},
    {NULL},
};

static PyGetSetDef Framed_getset[] = {
    {"stream", Framed_get_stream, NULL, "The stream under it, which is closed by its own close().",
     NULL},
    {NULL},
};

PyDoc_STRVAR(Framed_doc, "A stream as a sequence of frames.\n\n"
                         "    frames = Framed.length_delimited(stream, 4)\n"
                         "    async for frame in frames:\n"
                         "        await frames.send(answer(frame))\n\n"
                         "`limit` is the most bytes that a frame may have, without what marks it.\n"
                         "Stands for tokio-util's Framed.");

static PyType_Slot Framed_slots[] = {
    {Py_tp_doc, (void *)Framed_doc}, {Py_tp_dealloc, Framed_dealloc},
    {Py_tp_repr, Framed_repr},       {Py_tp_methods, Framed_methods},
    {Py_tp_getset, Framed_getset},   {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Framed_anext},     {0, NULL},
};

static PyType_Spec Framed_spec = {
    .name = "pyasync_c.net.Framed",
    .basicsize = sizeof(FramedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Framed_slots,
};

int
pacpy_net_framing_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Framed_spec, NULL, &st->Framed_type, "Framed");
}
