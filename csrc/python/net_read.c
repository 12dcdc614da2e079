/* net_read.c - reading from streams.
 *
 * What arrives while nothing is read ahead is received into memory of the stack, and copied into
 * bytes of the right size: a small copy costs less than giving back what a larger object did not
 * need, and a stream that waits has no buffer. Who has filled that memory once reads much: then the
 * kernel is asked how much there is, and receives into bytes of that size.
 *
 * Out of memory loses no byte either. Room is made before bytes are received; the exception are
 * those in the stack's memory, for which the module keeps one object in reserve. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* memmem */
#endif
#include "net_read.h"
#include "net_tls.h"

#include "args.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
    READ_DEFAULT = 65536,
    LIMIT_DEFAULT = 65536,
    MUCH = 1048576, /* the most that is asked for at once */
    ROOM = 4096,    /* the least that room is made for behind what was read ahead */
};

/* ---- what was read ahead -------------------------------------------------------------------- */

void
pacpy_ahead_consume(StreamObject *s, size_t size)
{
    s->start += size;
    if (s->start == s->end) {
        s->start = s->end = 0;
        Py_CLEAR(s->ahead);
    }
}

PyObject *
pacpy_ahead_take(StreamObject *s, size_t size)
{
    if (size == 0) {
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (s->start == 0 && size == s->end && size == (size_t)PyBytes_GET_SIZE(s->ahead)) {
        PyObject *all = s->ahead;
        s->ahead = NULL;
        s->end = 0;
        return all;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(pacpy_ahead(s), (Py_ssize_t)size);
    if (bytes != NULL) {
        pacpy_ahead_consume(s, size);
    }
    return bytes;
}

void
pacpy_ahead_keep(StreamObject *s, const char *bytes, size_t size)
{
    struct pacpy_state *st = s->socket.st;
    if (size == 0) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *ahead = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    if (ahead == NULL) {
        PyErr_Clear();
        ahead = st->net_reserve;
        st->net_reserve = NULL;
        memcpy(PyBytes_AS_STRING(ahead), bytes, size);
    }
    s->ahead = ahead;
    s->start = 0;
    s->end = size;
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* Let what was read ahead begin at 0, with room for `total` bytes. 0 or -1. */
static int
make_room(StreamObject *s, size_t total)
{
    size_t have = pacpy_ahead_size(s);
    if (s->ahead != NULL && (size_t)PyBytes_GET_SIZE(s->ahead) >= total) {
        memmove(PyBytes_AS_STRING(s->ahead), pacpy_ahead(s), have);
    }
    else {
        PyObject *larger = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
        if (larger == NULL) {
            return -1;
        }
        if (have > 0) {
            memcpy(PyBytes_AS_STRING(larger), pacpy_ahead(s), have);
        }
        Py_XSETREF(s->ahead, larger);
    }
    s->start = 0;
    s->end = have;
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------------ */

int
pacpy_receive(StreamObject *s, char *scratch, size_t size, size_t *count)
{
    struct pacpy_state *st = s->socket.st;
    if (PAC_UNLIKELY(st->net_reserve == NULL)) {
        st->net_reserve = PyBytes_FromStringAndSize(NULL, PACPY_SCRATCH);
        if (st->net_reserve == NULL) {
            return -1;
        }
    }
    return pacpy_stream_answer(pacpy_stream_read(s, scratch, size, count));
}

int
pacpy_receive_more(StreamObject *s, size_t total, size_t *count)
{
    if (!s->is_tls && !pac_io_is_ready(&s->socket.io, PAC_READABLE)) {
        return 0;
    }
    size_t capacity = s->ahead == NULL ? 0 : (size_t)PyBytes_GET_SIZE(s->ahead);
    /* Only once it is full, so that what comes in small pieces is not copied with each of them. */
    if (s->end == capacity) {
        if (make_room(s, total) < 0) {
            return -1;
        }
        capacity = (size_t)PyBytes_GET_SIZE(s->ahead);
    }
    size_t room = total - pacpy_ahead_size(s);
    if (room > capacity - s->end) {
        room = capacity - s->end;
    }
    int done = pacpy_stream_answer(
        pacpy_stream_read(s, PyBytes_AS_STRING(s->ahead) + s->end, room, count));
    if (done > 0) {
        s->end += *count;
    }
    if (s->start == s->end) {
        pacpy_ahead_consume(s, 0);
    }
    return done;
}

int
pacpy_receive_at_least(StreamObject *s, size_t size, size_t *count)
{
    for (;;) {
        size_t have = pacpy_ahead_size(s);
        int done;
        *count = have;
        if (have >= size) {
            return 1;
        }
        if (have == 0 && size <= PACPY_SCRATCH) {
            char scratch[PACPY_SCRATCH];
            done = pacpy_receive(s, scratch, sizeof scratch, count);
            if (done > 0) {
                pacpy_ahead_keep(s, scratch, *count);
            }
        }
        else {
            /* A large object grows with what has come: who announces much may send little. */
            size_t most = have < MUCH / 2 ? MUCH : 2 * have;
            size_t total = size <= PACPY_SCRATCH ? PACPY_SCRATCH : size < most ? size : most;
            done = pacpy_receive_more(s, total, count);
        }
        if (done <= 0 || *count == 0) {
            return done;
        }
    }
}

/* ---- errors of asyncio's -------------------------------------------------------------------- */

int
pacpy_raise_incomplete(StreamObject *s, PyObject *expected)
{
    if (pacpy_need_asyncio(s->socket.st) < 0) {
        return -1;
    }
    PyObject *type = s->socket.st->asyncio_IncompleteReadError;
    PyObject *partial = PyBytes_FromStringAndSize(s->ahead == NULL ? NULL : pacpy_ahead(s),
                                                  (Py_ssize_t)pacpy_ahead_size(s));
    PyObject *error =
        partial == NULL ? NULL : PyObject_CallFunctionObjArgs(type, partial, expected, NULL);
    Py_XDECREF(partial);
    if (error != NULL) {
        pacpy_ahead_consume(s, pacpy_ahead_size(s));
        PyErr_SetObject(type, error);
        Py_DECREF(error);
    }
    return -1;
}

int
pacpy_raise_overrun(StreamObject *s, const char *message, size_t consumed)
{
    if (pacpy_need_asyncio(s->socket.st) < 0) {
        return -1;
    }
    PyObject *type = s->socket.st->asyncio_LimitOverrunError;
    PyObject *error = PyObject_CallFunction(type, "sn", message, (Py_ssize_t)consumed);
    if (error != NULL) {
        PyErr_SetObject(type, error);
        Py_DECREF(error);
    }
    return -1;
}

/* ---- the operation -------------------------------------------------------------------------- */

static inline int
take_step(OperationObject *op, StreamObject *s, PyObject **value)
{
    ReadObject *self = (ReadObject *)op;
    return self->step(self, s, value);
}

static int
Read_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    ReadObject *self = (ReadObject *)f;
    StreamObject *s = (StreamObject *)self->base.socket;
    if (s->reader != self) {
        self->scanned = 0; /* others may have read since */
    }
    return pacpy_stream_poll(&self->base, cx, value, &s->reader, take_step,
                             "another task is reading from this stream: one at a time");
}

static void
Read_forget(FutureObject *f)
{
    OperationObject *self = (OperationObject *)f;
    if (!f->polling && self->socket != NULL) {
        pacpy_stream_leave(self, &((StreamObject *)self->socket)->reader);
    }
}

static const struct pacpy_future_vtable read_vtable = {
    .poll = Read_poll,
    .forget = Read_forget,
};

static void
release_target(ReadObject *self)
{
    Py_buffer *target = self->target;
    self->target = NULL;
    if (target != NULL) {
        PyBuffer_Release(target);
        PyMem_Free(target);
    }
}

/* Only one that has a target, or reads from a TlsStream, is tracked: no cycle goes through another
 * one. */
static int
Read_traverse(PyObject *op, visitproc visit, void *arg)
{
    ReadObject *self = (ReadObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->base.socket);
    if (self->target != NULL) {
        Py_VISIT(self->target->obj);
    }
    return 0;
}

/* The target is let go of: what is polled afterwards has nowhere to read into. */
static int
Read_clear(PyObject *op)
{
    ReadObject *self = (ReadObject *)op;
    if (self->target != NULL) {
        pacpy_future_forget(&self->base.future);
        self->base.future.state = PACPY_DROPPED;
        release_target(self);
    }
    return 0;
}

static void
Read_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    ReadObject *self = (ReadObject *)op;
    struct pacpy_state *st = self->base.future.st;
    StreamObject *s = (StreamObject *)self->base.socket;
    if (PAC_UNLIKELY(PyObject_GC_IsTracked(op))) {
        PyObject_GC_UnTrack(op);
    }
    SocketObject *socket = pacpy_stream_retire(&self->base, s != NULL && s->reader == self);
    release_target(self);
    Py_CLEAR(self->object);
    pacpy_freelist_free(&st->net_read_free, st->NetRead_type, op);
    Py_XDECREF(socket);
}

PyDoc_STRVAR(Read_doc, "What the reading methods of a stream return. Whoever is cancelled while\n"
                       "awaiting it has taken no byte, and it may be awaited again.");

static PyType_Slot Read_slots[] = {
    {Py_tp_doc, (void *)Read_doc},
    {Py_tp_traverse, Read_traverse},
    {Py_tp_clear, Read_clear},
    {Py_tp_dealloc, Read_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Read_spec = {
    .name = "pyasync_c.net.Read",
    .basicsize = sizeof(ReadObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Read_slots,
};

ReadObject *
pacpy_read_new(StreamObject *s, pacpy_read_step *step, size_t wanted, PyObject *object)
{
    struct pacpy_state *st = s->socket.st;
    ReadObject *self = (ReadObject *)pacpy_freelist_alloc(&st->net_read_free, st->NetRead_type);
    if (self == NULL) {
        return NULL;
    }
    pacpy_operation_init(&self->base, &s->socket, &read_vtable, PAC_READABLE);
    self->step = step;
    self->wanted = wanted;
    self->scanned = 0;
    self->object = Py_XNewRef(object);
    self->target = NULL;
    if (PAC_UNLIKELY(s->is_tls)) {
        PyObject_GC_Track(self);
    }
    return self;
}

/* ---- read, read_into, peek ------------------------------------------------------------------ */

/* A count of bytes: 0 and *size, or -1 and an exception. */
static int
size_argument(PyObject *op, const char *what, uint64_t least, size_t *size)
{
    uint64_t count;
    if (PAC_LIKELY(PyLong_CheckExact(op))) {
        Py_ssize_t number = PyLong_AsSsize_t(op);
        if (PAC_LIKELY(number > 0)) {
            *size = (size_t)number;
            return 0;
        }
        PyErr_Clear();
    }
    if (pacpy_count_from_object(op, what, least, PY_SSIZE_T_MAX / 2, &count) < 0) {
        return -1;
    }
    *size = (size_t)count;
    return 0;
}

/* As much as is there, of one who reads much. 2: ask the other way. */
static int
read_much(ReadObject *self, StreamObject *s, PyObject **value)
{
    int there = 0;
    if (!pac_io_is_ready(&s->socket.io, PAC_READABLE)) {
        return 0;
    }
    if (ioctl(s->socket.fd, FIONREAD, &there) < 0 || there < PACPY_SCRATCH) {
        return 2;
    }
    size_t size = self->wanted < (size_t)there ? self->wanted : (size_t)there;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size < MUCH ? size : MUCH));
    size_t count;
    if (bytes == NULL) {
        return -1;
    }
    int done = pacpy_stream_answer(
        pacpy_stream_read(s, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), &count));
    if (done > 0 && count == (size_t)PyBytes_GET_SIZE(bytes)) {
        *value = bytes;
        return 1;
    }
    if (done > 0 && count > 0) {
        /* Somebody else has the descriptor, and has read of it just now. */
        s->ahead = bytes;
        s->start = 0;
        s->end = count;
        *value = pacpy_ahead_take(s, count);
        return *value == NULL ? -1 : 1;
    }
    Py_DECREF(bytes);
    return done > 0 ? 2 : done;
}

static int
step_read(ReadObject *self, StreamObject *s, PyObject **value)
{
    size_t have = pacpy_ahead_size(s);
    size_t count;
    int done;
    if (have > 0 || self->wanted == 0) {
        *value = pacpy_ahead_take(s, have < self->wanted ? have : self->wanted);
        return *value == NULL ? -1 : 1;
    }
    if (s->reads_much && self->wanted > PACPY_SCRATCH) {
        done = s->is_tls ? pacpy_tls_read_much(s, self->wanted, value) : read_much(self, s, value);
        if (done != 2) {
            return done;
        }
    }
    char scratch[PACPY_SCRATCH];
    size_t size = self->wanted < sizeof scratch ? self->wanted : sizeof scratch;
    done = pacpy_receive(s, scratch, size, &count);
    if (done > 0) {
        s->reads_much = count == sizeof scratch;
        *value = PyBytes_FromStringAndSize(scratch, (Py_ssize_t)count);
        if (PAC_UNLIKELY(*value == NULL)) {
            pacpy_ahead_keep(s, scratch, count);
            return -1;
        }
    }
    return done;
}

const char Stream_read_doc[] =
    "read($self, n=65536, /)\n--\n\n"
    "As many bytes as are there, from 1 to n: waits for the first. b'' at the end of the stream.\n"
    "ValueError if n is negative; OSError if the connection fails. Cancelled, it has taken\n"
    "nothing. Stands for Tokio's AsyncReadExt::read.";

PyObject *
Stream_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    size_t size = READ_DEFAULT;
    if (PAC_UNLIKELY(nargs > 1)) {
        return PyErr_Format(PyExc_TypeError, "read() takes at most 1 argument (%zd given)", nargs);
    }
    if (nargs == 1 && size_argument(args[0], "n", 0, &size) < 0) {
        return NULL;
    }
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_read, size, NULL);
}

static int
step_read_into(ReadObject *self, StreamObject *s, PyObject **value)
{
    size_t have = pacpy_ahead_size(s);
    size_t count = have < self->wanted ? have : self->wanted;
    int done = 1;
    if (count > 0) {
        memcpy(self->target->buf, pacpy_ahead(s), count);
    }
    else if (self->wanted > 0) {
        done = pacpy_stream_answer(pacpy_stream_read(s, self->target->buf, self->wanted, &count));
    }
    if (done <= 0) {
        return done;
    }
    /* Without memory for a number, the bytes are in the buffer, and nobody knows how many. */
    *value = PyLong_FromSize_t(count);
    if (have > 0 && *value != NULL) {
        pacpy_ahead_consume(s, count);
    }
    return *value == NULL ? -1 : 1;
}

const char Stream_read_into_doc[] =
    "read_into($self, buffer, /)\n--\n\n"
    "Read into a writable buffer (bytearray, memoryview, ...), without a copy: how many bytes, at\n"
    "least 1, or 0 at the end of the stream. BufferError or TypeError if it cannot be written to.\n"
    "Cancelled, it has taken nothing.";

PyObject *
Stream_read_into(PyObject *op, PyObject *buffer)
{
    Py_buffer *target = PyMem_Malloc(sizeof *target);
    if (target == NULL) {
        return PyErr_NoMemory();
    }
    if (PyObject_GetBuffer(buffer, target, PyBUF_WRITABLE) < 0) {
        PyMem_Free(target);
        return NULL;
    }
    ReadObject *self =
        pacpy_read_new(pacpy_stream_of(op), step_read_into, (size_t)target->len, NULL);
    if (self == NULL) {
        PyBuffer_Release(target);
        PyMem_Free(target);
        return NULL;
    }
    self->target = target;
    if (!PyObject_GC_IsTracked((PyObject *)self)) {
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static int
step_peek(ReadObject *self, StreamObject *s, PyObject **value)
{
    size_t have = pacpy_ahead_size(s);
    size_t count = 1;
    int done = 1;
    if (have == 0) {
        done = pacpy_receive_at_least(s, 1, &count);
    }
    else if (have < self->wanted) {
        /* More, if it is there. */
        done = pacpy_receive_more(s, self->wanted, &count) < 0 ? -1 : 1;
    }
    if (done <= 0) {
        return done;
    }
    have = pacpy_ahead_size(s);
    *value = have == 0
                 ? PyBytes_FromStringAndSize(NULL, 0)
                 : PyBytes_FromStringAndSize(
                       pacpy_ahead(s), (Py_ssize_t)(have < self->wanted ? have : self->wanted));
    return *value == NULL ? -1 : 1;
}

const char Stream_peek_doc[] =
    "peek($self, n=65536, /)\n--\n\n"
    "The bytes that the next read will get, at most n, leaving them there: waits for the first.\n"
    "b'' at the end of the stream. Stands for Tokio's TcpStream::peek.";

PyObject *
Stream_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    size_t size = READ_DEFAULT;
    if (nargs > 1) {
        return PyErr_Format(PyExc_TypeError, "peek() takes at most 1 argument (%zd given)", nargs);
    }
    if (nargs == 1 && size_argument(args[0], "n", 1, &size) < 0) {
        return NULL;
    }
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_peek, size, NULL);
}

/* ---- read_exactly --------------------------------------------------------------------------- */

static int
step_read_exactly(ReadObject *self, StreamObject *s, PyObject **value)
{
    size_t wanted = self->wanted;
    size_t count;
    int done;
    if (pacpy_ahead_size(s) == 0 && wanted <= PACPY_SCRATCH && wanted > 0) {
        /* Often all of it is there: then it is copied once. */
        char scratch[PACPY_SCRATCH];
        done = pacpy_receive(s, scratch, sizeof scratch, &count);
        if (done <= 0) {
            return done;
        }
        if (count >= wanted) {
            *value = PyBytes_FromStringAndSize(scratch, (Py_ssize_t)wanted);
            size_t given = *value == NULL ? 0 : wanted;
            pacpy_ahead_keep(s, scratch + given, count - given);
            return *value == NULL ? -1 : 1;
        }
        pacpy_ahead_keep(s, scratch, count);
        if (count == 0) {
            goto at_end;
        }
    }
    done = pacpy_receive_at_least(s, wanted, &count);
    if (done <= 0) {
        return done;
    }
    if (pacpy_ahead_size(s) >= wanted) {
        *value = pacpy_ahead_take(s, wanted);
        return *value == NULL ? -1 : 1;
    }
at_end:;
    PyObject *expected = PyLong_FromSize_t(wanted);
    if (expected != NULL) {
        pacpy_raise_incomplete(s, expected);
        Py_DECREF(expected);
    }
    return -1;
}

const char Stream_read_exactly_doc[] =
    "read_exactly($self, n, /)\n--\n\n"
    "Exactly n bytes: waits until they are there. asyncio.IncompleteReadError, with what was there\n"
    "as `partial`, if the stream ends before. Cancelled, it has taken nothing. Stands for Tokio's\n"
    "AsyncReadExt::read_exact.";

PyObject *
Stream_read_exactly(PyObject *op, PyObject *size_object)
{
    size_t size;
    if (size_argument(size_object, "n", 0, &size) < 0) {
        return NULL;
    }
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_read_exactly, size, NULL);
}

/* ---- read_until, readline ------------------------------------------------------------------- */

size_t
pacpy_find_end(const char *bytes, size_t size, PyObject *separator)
{
    if (separator == NULL) {
        const char *found = memchr(bytes, '\n', size);
        return found == NULL ? 0 : (size_t)(found - bytes) + 1;
    }
    size_t length = (size_t)PyBytes_GET_SIZE(separator);
    const char *found = memmem(bytes, size, PyBytes_AS_STRING(separator), length);
    return found == NULL ? 0 : (size_t)(found - bytes) + length;
}

/* One in what was read ahead: 1 and its end; 0: not yet; -1: it is too long. */
static int
find_ahead(ReadObject *self, StreamObject *s, size_t *end)
{
    size_t have = pacpy_ahead_size(s);
    size_t margin = self->object == NULL ? 0 : (size_t)PyBytes_GET_SIZE(self->object) - 1;
    if (have > self->scanned) {
        *end = pacpy_find_end(pacpy_ahead(s) + self->scanned, have - self->scanned, self->object);
        if (*end > 0) {
            *end += self->scanned;
            if (*end <= self->wanted) {
                return 1;
            }
            return pacpy_raise_overrun(s, "Separator is found, but chunk is longer than limit",
                                       *end - margin - 1);
        }
        self->scanned = have > margin ? have - margin : 0;
    }
    if (have >= self->wanted) {
        return pacpy_raise_overrun(s, "Separator is not found, and chunk exceed the limit",
                                   self->scanned);
    }
    return 0;
}

/* Up to and with the separator: 1 and *value; 0; -1; 2 at the end of the stream. */
static int
step_to_separator(ReadObject *self, StreamObject *s, PyObject **value)
{
    size_t count, end = 0;
    int done;
    if (pacpy_ahead_size(s) == 0) {
        char scratch[PACPY_SCRATCH];
        done = pacpy_receive(s, scratch, sizeof scratch, &count);
        if (done <= 0) {
            return done;
        }
        if (count == 0) {
            return 2;
        }
        end = pacpy_find_end(scratch, count, self->object);
        if (end > 0 && end <= self->wanted) {
            *value = PyBytes_FromStringAndSize(scratch, (Py_ssize_t)end);
            size_t given = *value == NULL ? 0 : end;
            pacpy_ahead_keep(s, scratch + given, count - given);
            return *value == NULL ? -1 : 1;
        }
        pacpy_ahead_keep(s, scratch, count);
    }
    for (;;) {
        int found = find_ahead(self, s, &end);
        if (found > 0) {
            *value = pacpy_ahead_take(s, end);
            return *value == NULL ? -1 : 1;
        }
        if (found < 0) {
            return -1;
        }
        size_t have = pacpy_ahead_size(s);
        done = pacpy_receive_more(s, have + (have < ROOM ? ROOM : have), &count);
        if (done <= 0 || count == 0) {
            return done <= 0 ? done : 2;
        }
    }
}

static int
step_read_until(ReadObject *self, StreamObject *s, PyObject **value)
{
    int done = step_to_separator(self, s, value);
    return done == 2 ? pacpy_raise_incomplete(s, Py_None) : done;
}

static int
step_readline(ReadObject *self, StreamObject *s, PyObject **value)
{
    int done = step_to_separator(self, s, value);
    if (done == 2) {
        *value = pacpy_ahead_take(s, pacpy_ahead_size(s));
        return *value == NULL ? -1 : 1;
    }
    return done;
}

static int
step_next_line(ReadObject *self, StreamObject *s, PyObject **value)
{
    int done = step_to_separator(self, s, value);
    if (done == 2 && pacpy_ahead_size(s) == 0) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
        return -1;
    }
    if (done == 2) {
        *value = pacpy_ahead_take(s, pacpy_ahead_size(s));
        return *value == NULL ? -1 : 1;
    }
    return done;
}

/* The keyword `limit`, the only one there is; unchanged if it is not given. */
static int
limit_argument(const char *name, PyObject *const *values, PyObject *kwnames, size_t *limit)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "limit") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", name,
                         PyTuple_GET_ITEM(kwnames, i));
            return -1;
        }
        if (size_argument(values[i], "limit", 1, limit) < 0) {
            return -1;
        }
    }
    return 0;
}

const char Stream_read_until_doc[] =
    "read_until($self, separator, /, *, limit=65536)\n--\n\n"
    "Everything up to and with the bytes `separator`. asyncio.LimitOverrunError if that is more\n"
    "than `limit` bytes, which stay in the stream; asyncio.IncompleteReadError, with the rest as\n"
    "`partial`, if the stream ends before. Cancelled, it has taken nothing.";

PyObject *
Stream_read_until(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    size_t limit = LIMIT_DEFAULT;
    if (nargs != 1) {
        return PyErr_Format(PyExc_TypeError,
                            "read_until() takes exactly 1 positional argument (%zd given)", nargs);
    }
    if (limit_argument("read_until", args + 1, kwnames, &limit) < 0) {
        return NULL;
    }
    if (PyUnicode_Check(args[0]) || !PyObject_CheckBuffer(args[0])) {
        return PyErr_Format(PyExc_TypeError, "separator must be bytes, not %.200s",
                            Py_TYPE(args[0])->tp_name);
    }
    PyObject *separator = PyBytes_FromObject(args[0]);
    if (separator == NULL) {
        return NULL;
    }
    PyObject *self = NULL;
    if (PyBytes_GET_SIZE(separator) == 0) {
        PyErr_SetString(PyExc_ValueError, "separator must not be empty");
    }
    else {
        self = (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_read_until, limit, separator);
    }
    Py_DECREF(separator);
    return self;
}

const char Stream_readline_doc[] =
    "readline($self, /, *, limit=65536)\n--\n\n"
    "A line with its b'\\n'; what is left at the end of the stream, and then b''.\n"
    "asyncio.LimitOverrunError if it is longer than `limit` bytes, which stay in the stream.\n"
    "Cancelled, it has taken nothing. Stands for Tokio's AsyncBufReadExt::read_line.";

PyObject *
Stream_readline(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    size_t limit = LIMIT_DEFAULT;
    if (nargs != 0) {
        return PyErr_Format(PyExc_TypeError, "readline() takes no positional arguments (%zd given)",
                            nargs);
    }
    if (limit_argument("readline", args, kwnames, &limit) < 0) {
        return NULL;
    }
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_readline, limit, NULL);
}

PyObject *
Stream_anext(PyObject *op)
{
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_next_line, LIMIT_DEFAULT, NULL);
}

/* ---- read_to_end ---------------------------------------------------------------------------- */

static int
step_read_to_end(ReadObject *self, StreamObject *s, PyObject **value)
{
    for (;;) {
        size_t have = pacpy_ahead_size(s);
        if (have > self->wanted) {
            return pacpy_raise_overrun(s, "The stream is longer than limit", self->wanted);
        }
        size_t total = have + (have < PACPY_SCRATCH ? PACPY_SCRATCH : have);
        size_t most = self->wanted + 1; /* more than that need not be known */
        size_t count;
        int done = pacpy_receive_more(s, total < most ? total : most, &count);
        if (done <= 0) {
            return done;
        }
        if (count == 0) {
            *value = pacpy_ahead_take(s, pacpy_ahead_size(s));
            return *value == NULL ? -1 : 1;
        }
    }
}

const char Stream_read_to_end_doc[] =
    "read_to_end($self, /, *, limit=None)\n--\n\n"
    "All bytes up to the end of the stream. asyncio.LimitOverrunError if they are more than `limit`,\n"
    "which stay in the stream; None: as many as the other side sends, so give one where you do not\n"
    "trust it. Cancelled, it has taken nothing. Stands for Tokio's AsyncReadExt::read_to_end.";

PyObject *
Stream_read_to_end(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    size_t limit = PY_SSIZE_T_MAX / 2;
    if (nargs != 0) {
        return PyErr_Format(PyExc_TypeError,
                            "read_to_end() takes no positional arguments (%zd given)", nargs);
    }
    bool is_none = kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 && args[0] == Py_None &&
                   PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "limit") == 0;
    if (!is_none && limit_argument("read_to_end", args, kwnames, &limit) < 0) {
        return NULL;
    }
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_read_to_end, limit, NULL);
}

/* ---- readable ------------------------------------------------------------------------------- */

static ssize_t
ask_for_a_byte(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK);
}

static int
step_readable(ReadObject *Py_UNUSED(self), StreamObject *s, PyObject **value)
{
    size_t count;
    int done = 1;
    if (pacpy_ahead_size(s) == 0) {
        /* Of a TlsStream what has come may be no byte of the program's: it has to be decrypted. */
        done =
            s->is_tls
                ? pacpy_receive_at_least(s, 1, &count)
                : pacpy_stream_answer(pacpy_socket_look(&s->socket, PAC_READABLE, ask_for_a_byte));
    }
    if (done > 0) {
        *value = Py_NewRef(Py_None);
    }
    return done;
}

const char Stream_readable_doc[] =
    "readable($self, /)\n--\n\n"
    "Wait until read() would not wait: bytes are there, or the stream has ended. Takes nothing, and\n"
    "allocates nothing while it waits, but of a TlsStream what it decrypts is read ahead. OSError if\n"
    "the connection fails. It counts as reading: one at a time. Stands for Tokio's\n"
    "TcpStream::readable, and says nothing that is not so.";

PyObject *
Stream_readable(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)pacpy_read_new(pacpy_stream_of(op), step_readable, 0, NULL);
}

int
pacpy_net_read_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Read_spec, st->Future_type, &st->NetRead_type, NULL);
}
