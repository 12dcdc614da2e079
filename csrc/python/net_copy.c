/* net_copy.c - copy_bidirectional: what comes from either of two streams goes to the other.
 *
 * The bytes stay in the kernel: spliced from the socket into a pipe, and from there into the other
 * socket. Where that is refused (no descriptors for a pipe, a kind of socket that cannot be spliced)
 * they pass through a buffer, as do those of a TlsStream, which have to be decrypted or encrypted.
 *
 * The pipe is filled when it is empty only, so that the kernel's EAGAIN is about the socket. What
 * stands in it when the copy is given up goes back to the stream that it came from, as what that
 * has read ahead. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* splice */
#endif
#include "net_read.h"
#include "net_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { CHUNK = 65536, CHUNKS_A_POLL = 16 };

enum phase { COPYING, ENDING, DONE };

struct direction {
    StreamObject *from, *to; /* strong */
    struct pac_io_ready readable, writable;
    int pipe[2];    /* -1: none */
    size_t in_pipe; /* bytes that stand in it */
    unsigned
        chunks;    /* still to be moved in this poll: its own, so that neither has to stand back */
    bool is_plain; /* through what `from` has read ahead */
    enum phase phase;
    unsigned long long copied;
};

typedef struct {
    FutureObject future;
    struct direction there, back;
} CopyObject;

/* ---- one direction -------------------------------------------------------------------------- */

static void
direction_init(struct direction *d, PyObject *from, PyObject *to)
{
    d->from = (StreamObject *)Py_NewRef(from);
    d->to = (StreamObject *)Py_NewRef(to);
    pac_io_ready_init(&d->readable, &d->from->socket.io, PAC_READABLE);
    pac_io_ready_init(&d->writable, &d->to->socket.io, PAC_WRITABLE);
    d->pipe[0] = d->pipe[1] = -1;
    d->in_pipe = 0;
    d->is_plain = d->from->is_tls || d->to->is_tls;
    d->phase = COPYING;
    d->copied = 0;
}

static void
close_pipe(struct direction *d)
{
    for (int i = 0; i < 2; i++) {
        if (d->pipe[i] >= 0) {
            close(d->pipe[i]);
            d->pipe[i] = -1;
        }
    }
}

/* What stands in the pipe goes back to where it came from. 0; -1 and MemoryError, and then it is
 * still there. */
static int
empty_pipe(struct direction *d)
{
    if (d->in_pipe == 0) {
        return 0;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)d->in_pipe);
    if (bytes == NULL) {
        return -1;
    }
    ssize_t count = read(d->pipe[0], PyBytes_AS_STRING(bytes), d->in_pipe);
    PAC_ASSERT(count == (ssize_t)d->in_pipe && d->from->ahead == NULL);
    d->from->ahead = bytes;
    d->from->start = 0;
    d->from->end = (size_t)count;
    d->in_pipe = 0;
    return 0;
}

/* All of the stream has been written: carry its end over. 1; 0: no room for saying so now; -1. */
static int
finish(struct direction *d)
{
    d->phase = ENDING;
    int done = d->to->is_tls ? pacpy_stream_answer(pacpy_tls_shutdown(d->to)) : 1;
    if (done <= 0) {
        return done;
    }
    d->phase = DONE;
    close_pipe(d);
    if (shutdown(d->to->socket.fd, SHUT_WR) < 0 && errno != ENOTCONN) {
        return pacpy_socket_raise_errno();
    }
    return 1;
}

/* What `from` has read ahead. 1; 0: no room; -1. */
static int
write_ahead(struct direction *d)
{
    size_t count;
    enum pac_status status =
        pacpy_stream_write(d->to, pacpy_ahead(d->from), pacpy_ahead_size(d->from), &count);
    if (status == PAC_OK) {
        pacpy_ahead_consume(d->from, count);
        d->copied += count;
    }
    if (d->to->is_tls) {
        d->writable.interest = pacpy_tls_write_waits_for(d->to);
    }
    return pacpy_stream_answer(status);
}

/* Splice, with the bits of `s` kept. As a socket's short count may be the pipe's, only EAGAIN says
 * that there is no more. */
static enum pac_status
splice_some(StreamObject *s, unsigned direction, int from, int to, size_t size, size_t *count)
{
    uint32_t tick;
    enum pac_status status;
    ssize_t n = 0;
    do {
        status = pac_io_begin(&s->socket.io, direction, &tick);
        if (status == PAC_OK) {
            n = splice(from, NULL, to, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            status = pac_io_end(&s->socket.io, direction, tick, n, 0);
        }
    } while (status == PAC_INTERRUPTED);
    *count = n < 0 ? 0 : (size_t)n;
    return status;
}

/* 2: go on; 0: nothing is there now; -1. */
static int
fill(struct direction *d)
{
    size_t count;
    if (!d->is_plain && d->pipe[0] < 0) {
        d->is_plain = pipe2(d->pipe, O_CLOEXEC | O_NONBLOCK) < 0;
    }
    if (!d->is_plain) {
        enum pac_status status =
            splice_some(d->from, PAC_READABLE, d->from->socket.fd, d->pipe[1], CHUNK, &count);
        if (status == PAC_OK) {
            d->in_pipe = count;
            d->phase = count == 0 ? ENDING : COPYING;
            return 2;
        }
        if (status == PAC_WOULD_BLOCK) {
            return 0;
        }
        if (errno != EINVAL) {
            return pacpy_socket_raise_errno();
        }
        d->is_plain = true;
        close_pipe(d);
    }
    int done = pacpy_receive_more(d->from, CHUNK, &count);
    if (done <= 0) {
        return done;
    }
    d->phase = count == 0 ? ENDING : COPYING;
    return 2;
}

/* 2: it is empty; 0: no room now; -1. */
static int
drain(struct direction *d)
{
    while (d->in_pipe > 0) {
        size_t count;
        enum pac_status status =
            splice_some(d->to, PAC_WRITABLE, d->pipe[0], d->to->socket.fd, d->in_pipe, &count);
        if (status == PAC_WOULD_BLOCK) {
            return 0;
        }
        if (status != PAC_OK && errno == EINVAL) {
            d->is_plain = true; /* the other socket takes none: through the buffer */
            return empty_pipe(d) < 0 ? -1 : 2;
        }
        if (status != PAC_OK) {
            return pacpy_socket_raise_errno();
        }
        d->in_pipe -= count;
        d->copied += count;
    }
    return 2;
}

/* 1 or 2: go on; 0: what is in *wait has to come first, or a later poll, if that is NULL; -1. */
static int
take_step(struct direction *d, struct pac_context *cx, struct pac_io_ready **wait)
{
    *wait = &d->writable;
    if (d->to->is_tls) {
        /* What has been encrypted goes before anything else is waited for. */
        d->writable.interest = PAC_WRITABLE;
        int done = pacpy_stream_answer(pacpy_tls_flush(d->to));
        if (done <= 0) {
            return done;
        }
    }
    if (pacpy_ahead_size(d->from) > 0) {
        return write_ahead(d);
    }
    if (d->phase == ENDING) {
        return finish(d);
    }
    if (d->in_pipe > 0) {
        return drain(d);
    }
    if (d->chunks == 0 || !pac_budget_spend(cx)) {
        pac_waker_wake_by_ref(cx->waker);
        *wait = NULL;
        return 0;
    }
    d->chunks--;
    *wait = &d->readable;
    return fill(d);
}

/* 1: done; 0: it waits; -1. */
static int
advance(struct direction *d, struct pac_context *cx)
{
    d->chunks = CHUNKS_A_POLL;
    while (d->phase != DONE) {
        struct pac_io_ready *wait;
        int done = take_step(d, cx, &wait);
        if (done < 0 ||
            (done == 0 && (wait == NULL || pac_io_ready_poll(wait, cx) == PAC_PENDING))) {
            return done;
        }
    }
    return 1;
}

/* ---- the future ----------------------------------------------------------------------------- */

static void
release_slots(CopyObject *self, StreamObject *s)
{
    if (s->reader == self) {
        s->reader = NULL;
    }
    if (s->writer == self) {
        s->writer = NULL;
    }
}

/* It waits for nothing, and other operations may use the streams: what stood in the pipes is read ahead
 * before any waker is dropped, which may run anything. */
static void
stop(CopyObject *self)
{
    struct direction *both[] = {&self->there, &self->back};
    for (int i = 0; i < 2; i++) {
        if (empty_pipe(both[i]) < 0) {
            PyErr_WriteUnraisable((PyObject *)both[i]->from);
        }
        close_pipe(both[i]);
    }
    for (int i = 0; i < 2; i++) {
        release_slots(self, both[i]->from);
    }
    for (int i = 0; i < 2; i++) {
        pac_io_ready_drop(&both[i]->readable);
        pac_io_ready_drop(&both[i]->writable);
    }
}

static int
take_slots(CopyObject *self, StreamObject *s)
{
    if (pacpy_socket_check(&s->socket) < 0) {
        return -1;
    }
    if ((s->reader != NULL && s->reader != self) || (s->writer != NULL && s->writer != self)) {
        PyErr_SetString(PyExc_RuntimeError, "another task is using this stream");
        return -1;
    }
    s->reader = s->writer = self;
    return 0;
}

static int
Copy_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    CopyObject *self = (CopyObject *)f;
    int there = -1, back = -1;
    if (take_slots(self, self->there.from) == 0 && take_slots(self, self->back.from) == 0) {
        there = advance(&self->there, cx);
        back = there < 0 ? -1 : advance(&self->back, cx);
    }
    if (there >= 0 && back >= 0 && !(there > 0 && back > 0)) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            stop(self); /* by something that the poll set off */
        }
        return 0;
    }
    PyObject *exc = PyErr_GetRaisedException();
    stop(self);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    *value = Py_BuildValue("(KK)", self->there.copied, self->back.copied);
    return *value == NULL ? -1 : 1;
}

static void
Copy_forget(FutureObject *f)
{
    if (!f->polling) {
        PyObject *exc = PyErr_GetRaisedException();
        stop((CopyObject *)f);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
}

static const struct pacpy_future_vtable copy_vtable = {
    .poll = Copy_poll,
    .forget = Copy_forget,
};

/* Only one that has a TlsStream is tracked: no cycle goes through other streams. */
static int
Copy_traverse(PyObject *op, visitproc visit, void *arg)
{
    CopyObject *self = (CopyObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->there.from);
    Py_VISIT(self->there.to);
    Py_VISIT(self->back.from);
    Py_VISIT(self->back.to);
    return 0;
}

static void
Copy_dealloc(PyObject *op)
{
    CopyObject *self = (CopyObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    Py_DECREF(self->there.from);
    Py_DECREF(self->there.to);
    Py_DECREF(self->back.from);
    Py_DECREF(self->back.to);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
Copy_get_copied(PyObject *op, void *Py_UNUSED(ignored))
{
    CopyObject *self = (CopyObject *)op;
    return Py_BuildValue("(KK)", self->there.copied, self->back.copied);
}

static PyGetSetDef Copy_getset[] = {
    {"copied", Copy_get_copied, NULL,
     "How many bytes have been copied so far: from a to b, and from b to a.", NULL},
    {NULL},
};

PyDoc_STRVAR(Copy_doc, "What copy_bidirectional() returns.");

static PyType_Slot Copy_slots[] = {
    {Py_tp_doc, (void *)Copy_doc},
    {Py_tp_traverse, Copy_traverse},
    {Py_tp_dealloc, Copy_dealloc},
    {Py_tp_getset, Copy_getset},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Copy_spec = {
    .name = "pyasync_c.net.CopyBidirectional",
    .basicsize = sizeof(CopyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Copy_slots,
};

PyDoc_STRVAR(
    copy_bidirectional_doc,
    "copy_bidirectional(a, b, /)\n--\n\n"
    "Await it to copy what comes from either stream to the other, until both have ended; the end of\n"
    "one is carried to the other as soon as all before it has been written. Returns how many bytes\n"
    "went from a to b, and from b to a. The bytes stay in the kernel where it can splice. OSError of\n"
    "either stream ends the copy. Cancelled, every byte has been written or is still in the stream\n"
    "that it came from, `copied` says how many went over, and awaited again it goes on; what a\n"
    "TlsStream has encrypted by then goes with its next write. Stands for Tokio's\n"
    "copy_bidirectional.");

static PyObject *
copy_bidirectional(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "copy_bidirectional() takes 2 arguments (%zd given)",
                            nargs);
    }
    for (int i = 0; i < 2; i++) {
        if (!pacpy_is_stream(st, args[i]) || Py_IS_TYPE(args[i], st->ReadHalf_type) ||
            Py_IS_TYPE(args[i], st->WriteHalf_type)) {
            return PyErr_Format(PyExc_TypeError,
                                "a TcpStream, UnixStream or TlsStream is needed, not %.200s",
                                Py_TYPE(args[i])->tp_name);
        }
    }
    if (args[0] == args[1]) {
        PyErr_SetString(PyExc_ValueError, "the two streams must not be the same");
        return NULL;
    }
    CopyObject *self =
        (CopyObject *)st->CopyBidirectional_type->tp_alloc(st->CopyBidirectional_type, 0);
    if (self != NULL) {
        PyObject_GC_UnTrack(self);
        pacpy_future_init(&self->future, st, &copy_vtable);
        direction_init(&self->there, args[0], args[1]);
        direction_init(&self->back, args[1], args[0]);
        if (self->there.is_plain) { /* one of them is a TlsStream */
            PyObject_GC_Track(self);
        }
    }
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"copy_bidirectional", PACPY_FASTCALL(copy_bidirectional), copy_bidirectional_doc},
    {NULL},
};

int
pacpy_net_copy_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Copy_spec, st->Future_type, &st->CopyBidirectional_type,
                        "CopyBidirectional") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
