/* net_write.c - writing to streams.
 *
 * What is written goes to the kernel at once, as far as there is room; there is no buffer of ours,
 * so a peer that does not read holds its writer up and nothing else. Several buffers go in one
 * system call. */
#include "net_write.h"
#include "net_tls.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/uio.h>

/* What is written when it is not one bytes object. */
struct parts {
    size_t count, next; /* the iovecs before `next` have been written; its own has been moved on */
    struct iovec *iov;
    Py_buffer views[];
};

struct pacpy_write;

typedef int write_step(struct pacpy_write *self, StreamObject *s, PyObject **value);

typedef struct pacpy_write {
    OperationObject base;
    write_step *step;
    PyObject *data;      /* bytes; NULL: parts, or nothing */
    struct parts *parts; /* or NULL */
    Py_ssize_t total;
    Py_ssize_t written;
} WriteObject;

/* ---- the operation -------------------------------------------------------------------------- */

static inline int
take_step(OperationObject *op, StreamObject *s, PyObject **value)
{
    WriteObject *self = (WriteObject *)op;
    return self->step(self, s, value);
}

static int
Write_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    OperationObject *self = (OperationObject *)f;
    return pacpy_stream_poll(self, cx, value, &((StreamObject *)self->socket)->writer, take_step,
                             "another task is writing to this stream: one at a time");
}

static void
Write_forget(FutureObject *f)
{
    OperationObject *self = (OperationObject *)f;
    if (!f->polling && self->socket != NULL) {
        pacpy_stream_leave(self, &((StreamObject *)self->socket)->writer);
    }
}

static const struct pacpy_future_vtable write_vtable = {
    .poll = Write_poll,
    .forget = Write_forget,
};

static void
release_parts(struct parts *parts)
{
    if (parts != NULL) {
        for (size_t i = 0; i < parts->count; i++) {
            PyBuffer_Release(&parts->views[i]);
        }
        PyMem_Free(parts);
    }
}

/* Only one that has parts, or writes to a TlsStream, is tracked: no cycle goes through bytes. */
static int
Write_traverse(PyObject *op, visitproc visit, void *arg)
{
    WriteObject *self = (WriteObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->base.socket);
    for (size_t i = 0; self->parts != NULL && i < self->parts->count; i++) {
        Py_VISIT(self->parts->views[i].obj);
    }
    return 0;
}

static int
Write_clear(PyObject *op)
{
    WriteObject *self = (WriteObject *)op;
    struct parts *parts = self->parts;
    if (parts != NULL) {
        pacpy_future_forget(&self->base.future);
        self->base.future.state = PACPY_DROPPED;
        self->parts = NULL;
        release_parts(parts);
    }
    return 0;
}

static void
Write_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    WriteObject *self = (WriteObject *)op;
    struct pacpy_state *st = self->base.future.st;
    StreamObject *s = (StreamObject *)self->base.socket;
    struct parts *parts = self->parts;
    if (PyObject_GC_IsTracked(op)) {
        PyObject_GC_UnTrack(op);
    }
    SocketObject *socket = pacpy_stream_retire(&self->base, s != NULL && s->writer == self);
    self->parts = NULL;
    release_parts(parts);
    Py_CLEAR(self->data);
    pacpy_freelist_free(&st->net_write_free, st->NetWrite_type, op);
    Py_XDECREF(socket);
}

static PyMemberDef Write_members[] = {
    {"written", T_PYSSIZET, offsetof(WriteObject, written), READONLY,
     "How many bytes have been written: the first so many, also after a cancellation."},
    {NULL},
};

PyDoc_STRVAR(Write_doc,
             "What the writing methods of a stream return. Whoever is cancelled while awaiting it\n"
             "has written its first `written` bytes; awaited again, it goes on behind them.");

static PyType_Slot Write_slots[] = {
    {Py_tp_doc, (void *)Write_doc},
    {Py_tp_traverse, Write_traverse},
    {Py_tp_clear, Write_clear},
    {Py_tp_dealloc, Write_dealloc},
    {Py_tp_members, Write_members},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Write_spec = {
    .name = "pyasync_c.net.Write",
    .basicsize = sizeof(WriteObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Write_slots,
};

/* ---- what is to be written ------------------------------------------------------------------ */

/* 0, or -1 and an exception, and then nothing is held. */
static int
take_views(struct parts *parts, PyObject *const *items, size_t count, size_t *total)
{
    for (parts->count = 0; parts->count < count; parts->count++) {
        Py_buffer *view = &parts->views[parts->count];
        PyObject *item = items[parts->count];
        if (PyObject_GetBuffer(item, view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
        parts->iov[parts->count].iov_base = view->buf;
        parts->iov[parts->count].iov_len = (size_t)view->len;
        if ((size_t)view->len > (size_t)PY_SSIZE_T_MAX - *total) {
            parts->count++;
            PyErr_SetString(PyExc_OverflowError, "too many bytes to write at once");
            return -1;
        }
        *total += (size_t)view->len;
    }
    return 0;
}

/* Hold the buffers of `count` objects. */
static struct parts *
parts_new(PyObject *const *items, size_t count, size_t *total)
{
    enum { PART = sizeof(Py_buffer) + sizeof(struct iovec) };
    if (count > ((size_t)PY_SSIZE_T_MAX - sizeof(struct parts)) / PART) {
        PyErr_NoMemory();
        return NULL;
    }
    struct parts *parts = PyMem_Malloc(sizeof *parts + count * PART);
    if (parts == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    parts->next = 0;
    parts->iov = (struct iovec *)(void *)&parts->views[count];
    *total = 0;
    if (take_views(parts, items, count, total) < 0) {
        release_parts(parts);
        return NULL;
    }
    return parts;
}

static struct parts *
parts_of(PyObject *data, size_t *total)
{
    if (PyUnicode_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "data must be bytes, not str: encode it");
        return NULL;
    }
    if (!PyList_Check(data) && !PyTuple_Check(data)) {
        return parts_new(&data, 1, total);
    }
    /* A tuple of its own: taking a buffer may run what changes a list. */
    PyObject *items = PySequence_Tuple(data);
    if (items == NULL) {
        return NULL;
    }
    struct parts *parts =
        parts_new(((PyTupleObject *)items)->ob_item, (size_t)PyTuple_GET_SIZE(items), total);
    Py_DECREF(items);
    return parts;
}

/* Takes `parts` over; NULL: all of `data`, bytes or NULL. */
static PyObject *
write_with(StreamObject *s, write_step *step, PyObject *data, struct parts *parts, size_t total)
{
    struct pacpy_state *st = s->socket.st;
    WriteObject *self = (WriteObject *)pacpy_freelist_alloc(&st->net_write_free, st->NetWrite_type);
    if (self == NULL) {
        release_parts(parts);
        return NULL;
    }
    pacpy_operation_init(&self->base, &s->socket, &write_vtable, PAC_WRITABLE);
    self->step = step;
    self->data = parts == NULL ? Py_XNewRef(data) : NULL;
    self->parts = parts;
    self->total = (Py_ssize_t)total;
    self->written = 0;
    if (parts != NULL || PAC_UNLIKELY(s->is_tls)) {
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static PyObject *
write_new(StreamObject *s, write_step *step, PyObject *data)
{
    struct parts *parts = NULL;
    size_t total = 0;
    if (data != NULL && PAC_LIKELY(PyBytes_CheckExact(data))) {
        total = (size_t)PyBytes_GET_SIZE(data);
    }
    else if (data != NULL) {
        parts = parts_of(data, &total);
        if (parts == NULL) {
            return NULL;
        }
    }
    return write_with(s, step, data, parts, total);
}

/* ---- write, write_all ----------------------------------------------------------------------- */

/* `count` bytes of the parts have been written. */
static void
parts_advance(struct parts *parts, size_t count)
{
    while (parts->next < parts->count && parts->iov[parts->next].iov_len <= count) {
        count -= parts->iov[parts->next++].iov_len;
    }
    if (count > 0) {
        struct iovec *iov = &parts->iov[parts->next];
        iov->iov_base = (char *)iov->iov_base + count;
        iov->iov_len -= count;
    }
}

static enum pac_status
write_parts(WriteObject *self, StreamObject *s, size_t *count)
{
    struct parts *parts = self->parts;
    if (s->is_tls) {
        parts_advance(parts, 0); /* past empty ones */
        struct iovec *iov = &parts->iov[parts->next];
        enum pac_status status = pacpy_tls_write(s, iov->iov_base, iov->iov_len, count);
        if (status == PAC_OK) {
            parts_advance(parts, *count);
        }
        return status;
    }
    size_t part_count = parts->count - parts->next;
    size_t total = (size_t)(self->total - self->written);
    if (PAC_UNLIKELY(part_count > IOV_MAX)) {
        part_count = IOV_MAX;
        total = 0;
        for (size_t i = 0; i < part_count; i++) {
            total += parts->iov[parts->next + i].iov_len;
        }
    }
    enum pac_status status =
        pac_io_writev(&s->socket.io, &parts->iov[parts->next], part_count, total, count);
    if (status == PAC_OK) {
        parts_advance(parts, *count);
    }
    return status;
}

/* All that a TlsStream has encrypted has to go. */
static inline int
flush(WriteObject *self, StreamObject *s)
{
    if (PAC_LIKELY(!s->is_tls)) {
        return 1;
    }
    self->base.ready.interest = PAC_WRITABLE;
    return pacpy_stream_answer(pacpy_tls_flush(s));
}

/* Write some of what is left: 1; 0: there is no room now; -1. */
static int
write_some(WriteObject *self, StreamObject *s)
{
    size_t count;
    enum pac_status status =
        PAC_LIKELY(self->parts == NULL)
            ? pacpy_stream_write(s, PyBytes_AS_STRING(self->data) + self->written,
                                 (size_t)(self->total - self->written), &count)
            : write_parts(self, s, &count);
    if (PAC_LIKELY(status == PAC_OK)) {
        self->written += (Py_ssize_t)count;
        return 1;
    }
    if (PAC_UNLIKELY(s->is_tls)) {
        self->base.ready.interest = pacpy_tls_write_waits_for(s);
    }
    return pacpy_stream_answer(status);
}

static int
step_write(WriteObject *self, StreamObject *s, PyObject **value)
{
    while (self->written == 0 && self->total > 0) { /* again: it may have been empty parts alone */
        int done = write_some(self, s);
        if (done <= 0) {
            return done;
        }
    }
    int done = flush(self, s);
    if (done > 0) {
        *value = PyLong_FromSsize_t(self->written);
    }
    return done > 0 && *value == NULL ? -1 : done;
}

static int
step_write_all(WriteObject *self, StreamObject *s, PyObject **value)
{
    while (self->written < self->total) {
        int done = write_some(self, s);
        if (done <= 0) {
            return done;
        }
    }
    int done = flush(self, s);
    if (done > 0) {
        *value = Py_NewRef(Py_None);
    }
    return done;
}

const char Stream_write_doc[] =
    "write($self, data, /)\n--\n\n"
    "Write as much of `data` as there is room for, and return how many bytes that was: waits until\n"
    "it is at least one. bytes or any other buffer, or a list or tuple of them. Cancelled, it has\n"
    "written nothing. BrokenPipeError, ConnectionResetError and other OSErrors if the connection\n"
    "fails. Stands for Tokio's AsyncWriteExt::write.";

PyObject *
Stream_write(PyObject *op, PyObject *data)
{
    return write_new(pacpy_stream_of(op), step_write, data);
}

const char Stream_write_all_doc[] =
    "write_all($self, data, /)\n--\n\n"
    "Write all of `data`: bytes or any other buffer, or a list or tuple of them, which go in as few\n"
    "system calls as there is room for. Waits while the other side does not read. Cancelled, or\n"
    "failed, it has written the first bytes, and the `written` of what this method has returned\n"
    "says how many; awaited again after a cancellation, it goes on behind them. Errors as write().\n"
    "Stands for Tokio's AsyncWriteExt::write_all.";

PyObject *
Stream_write_all(PyObject *op, PyObject *data)
{
    return write_new(pacpy_stream_of(op), step_write_all, data);
}

PyObject *
pacpy_write_frames(StreamObject *s, PyObject *const *items, size_t count)
{
    size_t total;
    struct parts *parts = parts_new(items, count, &total);
    return parts == NULL ? NULL : write_with(s, step_write_all, NULL, parts, total);
}

/* ---- writable ------------------------------------------------------------------------------- */

/* The kernel sends an event once there is room if there is none now. */
static ssize_t
ask_for_room(int fd)
{
    struct pollfd asked = {.fd = fd, .events = POLLOUT};
    int n = poll(&asked, 1, 0);
    if (n == 0) {
        errno = EAGAIN;
        return -1;
    }
    return n;
}

static int
step_writable(WriteObject *self, StreamObject *s, PyObject **value)
{
    int done = flush(self, s);
    if (done > 0) {
        done = pacpy_stream_answer(pacpy_socket_look(&s->socket, PAC_WRITABLE, ask_for_room));
    }
    if (done > 0) {
        *value = Py_NewRef(Py_None);
    }
    return done;
}

const char Stream_writable_doc[] =
    "writable($self, /)\n--\n\n"
    "Wait until write() would not wait: there is room, or the connection has failed, and then write()\n"
    "says how. Of a TlsStream what was encrypted before goes out first. It counts as writing: one at a\n"
    "time. Stands for Tokio's TcpStream::writable, and says nothing that is not so.";

PyObject *
Stream_writable(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return write_new(pacpy_stream_of(op), step_writable, NULL);
}

/* ---- shutdown ------------------------------------------------------------------------------- */

static int
step_shutdown(WriteObject *Py_UNUSED(self), StreamObject *s, PyObject **value)
{
    int done = PAC_LIKELY(!s->is_tls) ? 1 : pacpy_stream_answer(pacpy_tls_shutdown(s));
    if (done <= 0) {
        return done;
    }
    if (shutdown(s->socket.fd, SHUT_WR) < 0 && errno != ENOTCONN) {
        return pacpy_socket_raise_errno();
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

const char Stream_shutdown_doc[] =
    "shutdown($self, /)\n--\n\n"
    "Say that no more will be written: the other side reads to the end of the stream, and can still\n"
    "write. No error if the other side has gone. Stands for Tokio's AsyncWriteExt::shutdown.";

PyObject *
Stream_shutdown(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return write_new(pacpy_stream_of(op), step_shutdown, NULL);
}

int
pacpy_net_write_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Write_spec, st->Future_type, &st->NetWrite_type, "Write");
}
