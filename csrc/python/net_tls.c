/* net_tls.c - TlsStream: a stream whose bytes the standard library encrypts.
 *
 *     read ◄── SSLObject.read ◄── incoming (MemoryBIO) ◄── the socket
 *     write ──► SSLObject.write ──► outgoing ──► `pending` ──► the socket
 *
 * Everything else is a stream's: what is read ahead, the operations, framing. What the SSLObject
 * has encrypted has to go out before anything else does, also if who has written it is cancelled;
 * it stands in `pending` then, and the next write, read or shutdown takes it along.
 *
 * Who sends much is read in pieces: one receive, one object for the records that it has brought, and so
 * one answer. Out of memory loses no byte: what was received is kept until it can be handed on. What the
 * SSLObject may have decrypted or encrypted in a call that has failed nobody can know; such a stream
 * says at each further read and write that its connection is broken.
 *
 * Who writes waits for room, but for a handshake in mid-stream: then it waits to receive, as a reader
 * does beside it, and reads ahead what has come for that one.
 *
 * Unlike other sockets, one of these refers to Python objects that may refer to anything (an
 * SSLContext has callbacks), so the collector knows it and its operations. */
#include "net_read.h"
#include "net_tls.h"
#include "ssl_object.h"

#include <errno.h>
#include <unistd.h>

enum {
    CHUNK_MAX = 131072, /* is encrypted at once */
    LAST_READS = 16,    /* at the end */
    RECORD_COST = 22,   /* what a record of TLS 1.3 adds to its plain bytes */
    /* Is received at once of one who sends much: a piece, in whole records if they are of TLS 1.3. */
    MUCH = PACPY_PIECE / PACPY_RECORD_MAX * (PACPY_RECORD_MAX + RECORD_COST),
    AHEAD_MAX = 1048576, /* the most that is read ahead while a write waits for the other side */
};

typedef struct {
    StreamObject stream;
    struct pacpy_ssl ssl;
    PyObject *want_read, *zero_return; /* ssl's exceptions */
    PyObject *pending;                 /* bytes, encrypted; NULL: none */
    size_t pending_at;                 /* those before have gone */
    PyObject *unfed;      /* bytes that were received, and then there was no memory to */
    size_t unfed_size;    /* hand so many of them on; or NULL */
    PyObject *failed;     /* an exception that came after bytes: the next read's; or NULL */
    bool may_have_output; /* the SSLObject was called: look into `outgoing` */
    bool receives_much;   /* what came last time was more than scratch memory holds */
    bool has_ended;       /* the other side has said that it will send no more */
    bool writes_wait;     /* for what the other side says: it has begun a handshake in mid-stream */
    bool decrypts;        /* further up this stack */
} TlsObject;

/* Call a method of the SSLObject. */
static PyObject *
call_ssl(TlsObject *self, PyObject *name)
{
    self->may_have_output = true;
    return PyObject_CallMethodNoArgs(self->ssl.object, name);
}

/* ---- encrypted bytes ------------------------------------------------------------------------ */

enum pac_status
pacpy_tls_flush(StreamObject *s)
{
    TlsObject *self = (TlsObject *)s;
    while (self->pending != NULL || self->may_have_output) {
        if (self->pending == NULL) {
            PyObject *bytes = pacpy_ssl_take(s->socket.st, &self->ssl);
            if (bytes == NULL) {
                return PAC_OS_ERROR;
            }
            self->may_have_output = false;
            if (PyBytes_GET_SIZE(bytes) == 0) {
                Py_DECREF(bytes);
                return PAC_OK;
            }
            self->pending = bytes;
            self->pending_at = 0;
        }
        size_t left = (size_t)PyBytes_GET_SIZE(self->pending) - self->pending_at;
        size_t count;
        enum pac_status status = pac_io_write(
            &s->socket.io, PyBytes_AS_STRING(self->pending) + self->pending_at, left, &count);
        if (status != PAC_OK) {
            if (status == PAC_OS_ERROR) {
                pacpy_socket_raise_errno();
            }
            return status;
        }
        self->pending_at += count;
        if (count == left) {
            Py_CLEAR(self->pending);
        }
    }
    return PAC_OK;
}

/* Flush, under an exception or before something that does not depend on it. */
static void
flush_if_possible(StreamObject *s)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (pacpy_tls_flush(s) == PAC_OS_ERROR) {
        PyErr_Clear();
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* ---- what has arrived ----------------------------------------------------------------------- */

/* The end of the stream goes to the SSLObject. 0 or -1, and then the socket says it again. */
static int
hand_on_end(TlsObject *self)
{
    PyObject *done = PyObject_CallMethod(self->ssl.incoming, "write_eof", NULL);
    Py_XDECREF(done);
    self->ssl.may_hold = true; /* how it takes that end */
    return done == NULL ? -1 : 0;
}

/* What has arrived, `count` bytes of `room` (NULL: of `scratch`), goes to the SSLObject; or it is kept,
 * if there is no memory to do that with. The reference is taken. 0 or -1. */
static int
hand_on(TlsObject *self, PyObject *room, const char *scratch, size_t count)
{
    struct pacpy_state *st = self->stream.socket.st;
    const char *bytes = room == NULL ? scratch : PyBytes_AS_STRING(room);
    if (pacpy_ssl_feed(st, &self->ssl, bytes, count) == 0) {
        Py_XDECREF(room);
        return 0;
    }
    if (room == NULL) {
        room = st->net_reserve;
        st->net_reserve = NULL;
        memcpy(PyBytes_AS_STRING(room), scratch, count);
    }
    self->unfed = room;
    self->unfed_size = count;
    return -1;
}

/* Hand on what could not be handed on before. Of a call that has failed nobody knows whether it had
 * done its work; but an SSLObject that wants more has emptied `incoming`, so what is there now was
 * handed on. 0 or -1. */
static int
hand_on_again(TlsObject *self)
{
    struct pacpy_state *st = self->stream.socket.st;
    Py_ssize_t there = self->unfed == NULL ? 1 : pacpy_bio_pending(st, self->ssl.incoming);
    if (there < 0 || (there == 0 && pacpy_ssl_feed(st, &self->ssl, PyBytes_AS_STRING(self->unfed),
                                                   self->unfed_size) < 0)) {
        return -1;
    }
    Py_CLEAR(self->unfed);
    return 0;
}

/* What hand_on() may need: room for much, if that is to be expected, or the module's reserve. 0 or -1. */
static int
prepare(TlsObject *self, PyObject **room)
{
    struct pacpy_state *st = self->stream.socket.st;
    *room = NULL;
    if (self->receives_much) {
        *room = PyBytes_FromStringAndSize(NULL, MUCH);
        return *room == NULL ? -1 : 0;
    }
    if (PAC_UNLIKELY(st->net_reserve == NULL)) {
        st->net_reserve = PyBytes_FromStringAndSize(NULL, PACPY_SCRATCH);
    }
    return st->net_reserve == NULL ? -1 : 0;
}

/* Receive, and hand it on. PAC_OK, also for the end of the stream. */
static enum pac_status
feed(TlsObject *self)
{
    char scratch[PACPY_SCRATCH];
    PyObject *room;
    size_t count;
    if (!pac_io_is_ready(&self->stream.socket.io, PAC_READABLE)) {
        return PAC_WOULD_BLOCK; /* before memory is fetched for nothing */
    }
    if (prepare(self, &room) < 0) {
        return PAC_OS_ERROR;
    }
    enum pac_status status =
        room == NULL ? pac_io_read(&self->stream.socket.io, scratch, sizeof scratch, &count)
                     : pac_io_read(&self->stream.socket.io, PyBytes_AS_STRING(room), MUCH, &count);
    if (status == PAC_OK && count > 0) {
        self->receives_much = count >= sizeof scratch;
        return hand_on(self, room, scratch, count) < 0 ? PAC_OS_ERROR : PAC_OK;
    }
    Py_XDECREF(room);
    if (status == PAC_OK) {
        return hand_on_end(self) < 0 ? PAC_OS_ERROR : PAC_OK;
    }
    if (status == PAC_OS_ERROR) {
        pacpy_socket_raise_errno();
    }
    return status;
}

/* Is the exception that is set `type`? Then it is cleared. */
static bool
caught(PyObject *type)
{
    bool is = PyErr_ExceptionMatches(type);
    if (is) {
        PyErr_Clear();
    }
    return is;
}

/* ---- plain bytes ---------------------------------------------------------------------------- */

/* Bytes may be missing, or may have been written that nobody counted: it cannot go on. */
static enum pac_status
broken(void)
{
    errno = ECONNABORTED;
    pacpy_socket_raise_errno();
    return PAC_OS_ERROR;
}

/* Of one record. PAC_WOULD_BLOCK: the SSLObject wants more. */
static enum pac_status
read_record(TlsObject *self, void *buffer, size_t size, size_t *count)
{
    struct pacpy_state *st = self->stream.socket.st;
    *count = 0;
    if (self->has_ended) {
        return PAC_OK;
    }
    if (PAC_UNLIKELY(self->ssl.may_lack)) {
        return broken();
    }
    if (PAC_UNLIKELY(self->unfed != NULL) && hand_on_again(self) < 0) {
        return PAC_OS_ERROR;
    }
    int may = pacpy_ssl_may_read(st, &self->ssl);
    if (may == 0) {
        return PAC_WOULD_BLOCK;
    }
    self->may_have_output = true;
    size_t most = size < PACPY_RECORD_MAX ? size : PACPY_RECORD_MAX;
    Py_ssize_t got = may < 0 ? -1 : pacpy_ssl_read_to(st, &self->ssl, buffer, (Py_ssize_t)most);
    if (got >= 0) {
        *count = (size_t)got;
        self->has_ended = got == 0;
        return PAC_OK;
    }
    if (caught(self->want_read)) {
        self->ssl.may_hold = false;
        return PAC_WOULD_BLOCK;
    }
    if (caught(self->zero_return)) {
        self->has_ended = true;
        return PAC_OK;
    }
    flush_if_possible(&self->stream); /* the alert that says why */
    return PAC_OS_ERROR;
}

/* As read_decrypted(). */
static enum pac_status
read_records(TlsObject *self, char *buffer, size_t size, size_t *count)
{
    int more;
    do {
        size_t got;
        enum pac_status status = read_record(self, buffer + *count, size - *count, &got);
        if (status != PAC_OK && *count == 0) {
            return status;
        }
        if (status == PAC_OS_ERROR) {
            self->failed = PyErr_GetRaisedException();
        }
        if (status != PAC_OK || got == 0) {
            return PAC_OK;
        }
        *count += got;
        more = size - *count < PACPY_RECORD_MAX
                   ? 0
                   : pacpy_ssl_may_read(self->stream.socket.st, &self->ssl);
    } while (more > 0);
    if (more < 0) {
        PyErr_Clear(); /* no memory to ask with: the next read does */
    }
    return PAC_OK;
}

/* What is decrypted or can be, of what has been handed on: another record while there is room for a
 * whole one. An error that comes after bytes is for the next read. PAC_WOULD_BLOCK: it wants more. */
static enum pac_status
read_decrypted(TlsObject *self, char *buffer, size_t size, size_t *count)
{
    *count = 0;
    if (self->failed != NULL) {
        PyErr_SetRaisedException(self->failed);
        self->failed = NULL;
        return PAC_OS_ERROR;
    }
    if (PAC_UNLIKELY(self->decrypts)) {
        PyErr_SetString(PyExc_RuntimeError, "this TlsStream is used from within its SSLObject");
        return PAC_OS_ERROR;
    }
    self->decrypts = true;
    enum pac_status status = read_records(self, buffer, size, count);
    self->decrypts = false;
    return status;
}

/* Receive what the SSLObject wants. As feed(). */
static enum pac_status
receive_more(TlsObject *self)
{
    flush_if_possible(&self->stream); /* reading may have had something to say */
    return feed(self);
}

enum pac_status
pacpy_tls_read(StreamObject *s, void *buffer, size_t size, size_t *count)
{
    TlsObject *self = (TlsObject *)s;
    for (;;) {
        enum pac_status status = read_decrypted(self, buffer, size, count);
        if (status != PAC_WOULD_BLOCK) {
            return status;
        }
        status = receive_more(self);
        if (status != PAC_OK) {
            return status;
        }
    }
}

/* Room for what has been handed on, PACPY_PIECE at most. NULL and an exception. */
static PyObject *
room_for(TlsObject *self, size_t wanted)
{
    Py_ssize_t waits = pacpy_bio_pending(self->stream.socket.st, self->ssl.incoming);
    size_t most = waits < PACPY_RECORD_MAX ? PACPY_RECORD_MAX
                  : waits < PACPY_PIECE    ? (size_t)waits
                                           : PACPY_PIECE;
    return waits < 0 ? NULL : PyBytes_FromStringAndSize(NULL, wanted < most ? wanted : most);
}

int
pacpy_tls_read_much(StreamObject *s, size_t wanted, PyObject **value)
{
    TlsObject *self = (TlsObject *)s;
    enum pac_status status;
    size_t count;
    do {
        if (self->unfed != NULL && hand_on_again(self) < 0) {
            return -1;
        }
        bool knows = self->has_ended || self->failed != NULL;
        int may = knows ? 1 : pacpy_ssl_may_read(s->socket.st, &self->ssl);
        PyObject *bytes = may > 0 ? room_for(self, wanted) : NULL;
        if (may < 0 || (may > 0 && bytes == NULL)) {
            return -1;
        }
        count = 0;
        status = may == 0 ? PAC_WOULD_BLOCK
                          : read_decrypted(self, PyBytes_AS_STRING(bytes),
                                           (size_t)PyBytes_GET_SIZE(bytes), &count);
        if (count > 0) {
            s->reads_much = count >= PACPY_SCRATCH;
            s->ahead = bytes; /* where nothing is lost if there is no memory for less */
            s->start = 0;
            s->end = count;
            *value = pacpy_ahead_take(s, count);
            return *value == NULL ? -1 : 1;
        }
        Py_XDECREF(bytes);
        if (status == PAC_OK) {
            *value = PyBytes_FromStringAndSize(NULL, 0);
            return *value == NULL ? -1 : 1;
        }
        if (status == PAC_WOULD_BLOCK) {
            status = receive_more(self);
        }
    } while (status == PAC_OK);
    return pacpy_stream_answer(status);
}

/* Read ahead what is decrypted or can be. An error of the connection's is for who reads. 0 or -1. */
static int
save_decrypted(TlsObject *self)
{
    StreamObject *s = &self->stream;
    for (;;) {
        size_t have = pacpy_ahead_size(s);
        size_t count;
        PyObject *all = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)have + PACPY_RECORD_MAX);
        if (all == NULL) {
            return -1;
        }
        enum pac_status status =
            read_decrypted(self, PyBytes_AS_STRING(all) + have, PACPY_RECORD_MAX, &count);
        if (status != PAC_OK || count == 0) {
            Py_DECREF(all);
            if (status == PAC_OS_ERROR && PyErr_ExceptionMatches(PyExc_OSError)) {
                Py_XSETREF(self->failed, PyErr_GetRaisedException());
            }
            return status == PAC_OS_ERROR && PyErr_Occurred() ? -1 : 0;
        }
        /* A read within that call may have taken some of the old ones. */
        size_t left = pacpy_ahead_size(s);
        if (left > 0) {
            memcpy(PyBytes_AS_STRING(all) + have - left, pacpy_ahead(s), left);
        }
        Py_XSETREF(s->ahead, all);
        s->start = have - left;
        s->end = have + count;
    }
}

/* The SSLObject encrypts nothing until it has heard more: up to TLS 1.2 the other side may begin a
 * handshake in mid-stream. Whoever comes first receives, and what has come for a reader meanwhile is
 * read ahead. A reader that waits is woken by the same event. PAC_OK: something has come. */
static enum pac_status
listen_to_write(TlsObject *self)
{
    StreamObject *s = &self->stream;
    enum pac_status status = pacpy_tls_flush(s);
    if (status != PAC_OK) {
        return status;
    }
    status = feed(self);
    if (status == PAC_WOULD_BLOCK) {
        self->writes_wait = true;
    }
    if (status != PAC_OK) {
        return status;
    }
    if (save_decrypted(self) < 0) {
        return PAC_OS_ERROR;
    }
    return pacpy_ahead_size(s) > AHEAD_MAX ? broken() : PAC_OK;
}

enum pac_status
pacpy_tls_write(StreamObject *s, const void *bytes, size_t size, size_t *count)
{
    TlsObject *self = (TlsObject *)s;
    *count = 0;
    self->writes_wait = false;
    enum pac_status status = pacpy_tls_flush(s);
    if (status != PAC_OK || size == 0) {
        return status;
    }
    if (PAC_UNLIKELY(self->ssl.may_lack)) {
        return broken();
    }
    if (PAC_UNLIKELY(self->unfed != NULL) && hand_on_again(self) < 0) {
        return PAC_OS_ERROR; /* in a handshake it would be asked for, and come out of its turn */
    }
    Py_ssize_t chunk = (Py_ssize_t)(size < CHUNK_MAX ? size : CHUNK_MAX);
    for (;;) {
        self->may_have_output = true;
        Py_ssize_t written = pacpy_ssl_write(s->socket.st, &self->ssl, bytes, chunk);
        if (written >= 0) {
            *count = (size_t)written;
            return PAC_OK;
        }
        if (!caught(self->want_read)) {
            flush_if_possible(s);
            return PAC_OS_ERROR;
        }
        status = listen_to_write(self);
        if (status != PAC_OK) {
            return status;
        }
    }
}

unsigned
pacpy_tls_write_waits_for(StreamObject *s)
{
    return ((TlsObject *)s)->writes_wait ? PAC_READABLE : PAC_WRITABLE;
}

enum pac_status
pacpy_tls_shutdown(StreamObject *s)
{
    TlsObject *self = (TlsObject *)s;
    enum pac_status status = pacpy_tls_flush(s);
    if (status != PAC_OK) {
        return status;
    }
    /* What has come could not be read after the end of this side was said. */
    if (save_decrypted(self) < 0) {
        return PAC_OS_ERROR;
    }
    PyObject *done = call_ssl(self, s->socket.st->str_unwrap);
    Py_XDECREF(done);
    /* It waits for what the other side says, which need not say anything. */
    if (done == NULL && !caught(self->want_read)) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return PAC_OS_ERROR;
        }
        PyErr_Clear(); /* an SSLError: it was said before, or the connection is no more */
    }
    return pacpy_tls_flush(s);
}

/* ---- the handshake -------------------------------------------------------------------------- */

/* Wait in `direction` if it would block: as a step. */
static int
answer(ReadObject *operation, enum pac_status status, unsigned direction)
{
    operation->base.ready.interest = direction;
    return status == PAC_OK ? 1 : status == PAC_WOULD_BLOCK ? 0 : -1;
}

static int
step_handshake(ReadObject *operation, StreamObject *s, PyObject **value)
{
    TlsObject *self = (TlsObject *)s;
    for (;;) {
        int done = answer(operation, pacpy_tls_flush(s), PAC_WRITABLE);
        if (done <= 0) {
            return done;
        }
        if (self->unfed != NULL && hand_on_again(self) < 0) {
            return -1;
        }
        PyObject *result = call_ssl(self, s->socket.st->str_do_handshake);
        if (result != NULL) {
            Py_DECREF(result);
            done = answer(operation, pacpy_tls_flush(s), PAC_WRITABLE);
            if (done > 0) {
                *value = Py_NewRef(s);
            }
            return done;
        }
        if (!caught(self->want_read)) {
            flush_if_possible(s);
            return -1;
        }
        done = answer(operation, pacpy_tls_flush(s), PAC_WRITABLE);
        if (done > 0) {
            done = answer(operation, feed(self), PAC_READABLE);
        }
        if (done <= 0) {
            return done;
        }
    }
}

static PyObject *
Tls_handshake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)pacpy_read_new((StreamObject *)op, step_handshake, 0, NULL);
}

/* ---- making, ending ------------------------------------------------------------------------- */

/* Take what has come, and forget it: the kernel resets a socket that is closed over unread bytes, and
 * what was written and has not gone yet goes with it. A server of TLS 1.3 sends its tickets to a
 * client that may never read. One who sends without end is left to the kernel. */
static void
forget_unread(int fd)
{
    char scratch[PACPY_RECORD_MAX];
    ssize_t count = 1;
    /* Past the reactor, which may not have heard of it yet: nobody will ask it again. */
    for (int i = 0; i < LAST_READS && count > 0; i++) {
        count = recv(fd, scratch, sizeof scratch, MSG_DONTWAIT);
    }
}

/* The last word, if it can be said without waiting. */
static void
tls_ending(SocketObject *s)
{
    TlsObject *self = (TlsObject *)s;
    if (self->pending == NULL && pac_io_is_open(&s->io) && self->ssl.object != NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        if (pacpy_tls_shutdown(&self->stream) == PAC_OS_ERROR) {
            PyErr_Clear();
        }
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
    forget_unread(s->fd);
}

/* _net_tls(stream, ssl_object, incoming, outgoing, want_read, zero_return): a TlsStream, which takes
 * the stream's descriptor and what it has read ahead. The stream counts as closed. */
static PyObject *
net_tls(PyObject *module, PyObject *args)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *op, *ssl_object, *incoming, *outgoing, *want_read, *zero_return;
    if (!PyArg_ParseTuple(args, "OOOOOO", &op, &ssl_object, &incoming, &outgoing, &want_read,
                          &zero_return)) {
        return NULL;
    }
    if (!Py_IS_TYPE(op, st->TcpStream_type) && !Py_IS_TYPE(op, st->UnixStream_type)) {
        return PyErr_Format(PyExc_TypeError, "a TcpStream or UnixStream is needed, not %.200s",
                            Py_TYPE(op)->tp_name);
    }
    StreamObject *from = (StreamObject *)op;
    if (pacpy_ssl_need(st) < 0 || pacpy_socket_check(&from->socket) < 0) {
        return NULL;
    }
    if (from->reader != NULL || from->writer != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "another task is using this stream");
        return NULL;
    }
    if (from->ahead != NULL) {
        PyObject *ahead =
            PyBytes_FromStringAndSize(pacpy_ahead(from), (Py_ssize_t)pacpy_ahead_size(from));
        PyObject *done =
            ahead == NULL ? NULL : PyObject_CallMethodOneArg(incoming, st->str_write, ahead);
        Py_XDECREF(ahead);
        Py_XDECREF(done);
        if (done == NULL) {
            return NULL;
        }
        pacpy_ahead_consume(from, pacpy_ahead_size(from));
    }
    int fd = pacpy_socket_detach(&from->socket);
    TlsObject *self = (TlsObject *)pacpy_socket_new(st, st->TlsStream_type, &from->socket, fd,
                                                    PAC_IO_SOCKET, PAC_READABLE | PAC_WRITABLE);
    if (self != NULL) {
        self->stream.is_tls = true;
        pacpy_ssl_use(st, &self->ssl, ssl_object);
        self->ssl.incoming = Py_NewRef(incoming);
        self->ssl.outgoing = Py_NewRef(outgoing);
        self->want_read = Py_NewRef(want_read);
        self->zero_return = Py_NewRef(zero_return);
        self->stream.socket.ending = tls_ending;
    }
    return (PyObject *)self;
}

static int
Tls_traverse(PyObject *op, visitproc visit, void *arg)
{
    TlsObject *self = (TlsObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->want_read);
    Py_VISIT(self->zero_return);
    Py_VISIT(self->failed);
    return pacpy_ssl_traverse(&self->ssl, visit, arg);
}

static int
Tls_clear(PyObject *op)
{
    TlsObject *self = (TlsObject *)op;
    self->stream.socket.ending = NULL;
    pacpy_socket_close(&self->stream.socket); /* so that nothing uses these any more */
    pacpy_ssl_clear(&self->ssl);
    Py_CLEAR(self->want_read);
    Py_CLEAR(self->zero_return);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->unfed);
    Py_CLEAR(self->failed);
    return 0;
}

static void
Tls_dealloc(PyObject *op)
{
    /* cpylint: dealloc, Socket_dealloc gives the type up */
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    Tls_clear(op);
    Py_CLEAR(((StreamObject *)op)->ahead);
    Socket_dealloc(op);
}

/* ---- the type ------------------------------------------------------------------------------- */

static const char Tls_connect_doc[] =
    "connect($type, host, port, context, *, server_hostname=None, local_addr=None, nodelay=True)\n"
    "--\n\n"
    "Await it for a TLS connection: TcpStream.connect(), and then wrap(). `server_hostname`: the name\n"
    "that the server's certificate must have, `host` if it is None. Cancelled, or failed, it has\n"
    "closed the socket.";

static PyObject *
Tls_connect(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return pacpy_net_call("pyasync_c._net_tls", "connect", args, (size_t)nargs, kwnames);
}

static const char Tls_wrap_doc[] =
    "wrap($type, stream, context, *, server_side=False, server_hostname=None)\n--\n\n"
    "Await it for TLS over an established TcpStream or UnixStream, which counts as closed from then\n"
    "on: the new stream has its descriptor, and begins with what it had read ahead. `context`: an\n"
    "ssl.SSLContext. `server_hostname`: the name that the server's certificate must have. ssl.SSLError\n"
    "or another OSError if the handshake fails, or is cancelled, and then the socket is closed.";

static PyObject *
Tls_wrap(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return pacpy_net_call("pyasync_c._net_tls", "wrap", args, (size_t)nargs, kwnames);
}

static PyObject *
Tls_get_ssl_object(PyObject *op, void *Py_UNUSED(ignored))
{
    PyObject *ssl_object = ((TlsObject *)op)->ssl.object;
    return Py_NewRef(ssl_object == NULL ? Py_None : ssl_object);
}

static PyMethodDef Tls_methods[] = {
    {"connect", PACPY_KEYWORDS(Tls_connect) | METH_CLASS, Tls_connect_doc},
    {"wrap", PACPY_KEYWORDS(Tls_wrap) | METH_CLASS, Tls_wrap_doc},
    {"_handshake", Tls_handshake, METH_NOARGS, "The handshake: gives the stream."},
    {"split", pacpy_stream_split, METH_NOARGS, "split($self, /)\n--\n\nAs TcpStream.split()."},
    PACPY_READ_METHODS,
    PACPY_WRITE_METHODS,
    PACPY_SOCKET_METHODS,
    {NULL},
};

static PyGetSetDef Tls_getset[] = {
    PACPY_SOCKET_GETSET,
    {"peer_addr", Socket_get_peer_addr, NULL, Socket_peer_addr_doc, NULL},
    {"ssl_object", Tls_get_ssl_object, NULL,
     "The ssl.SSLObject: certificates, protocol and cipher of the connection.", NULL},
    {NULL},
};

static PyMemberDef Tls_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SocketObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(
    Tls_doc,
    "A TLS connection: the operations of a TcpStream, encrypted by the standard library.\n\n"
    "    stream = await TlsStream.connect(\"example.org\", 443, ssl.create_default_context())\n\n"
    "Reads end with ssl.SSLEOFError if the connection ends without the other side having said so.\n"
    "shutdown() says so, and close() too if it need not wait for it. A write that is cancelled may\n"
    "have encrypted more than has gone; the rest goes with the next write or shutdown. Stands for\n"
    "tokio-rustls' TlsStream.");

static PyType_Slot Tls_slots[] = {
    {Py_tp_doc, (void *)Tls_doc},      {Py_tp_traverse, Tls_traverse},
    {Py_tp_clear, Tls_clear},          {Py_tp_dealloc, Tls_dealloc},
    {Py_tp_finalize, Socket_finalize}, {Py_tp_repr, Socket_repr},
    {Py_tp_methods, Tls_methods},      {Py_tp_getset, Tls_getset},
    {Py_tp_members, Tls_members},      {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Stream_anext},       {0, NULL},
};

static PyType_Spec Tls_spec = {
    .name = "pyasync_c.net.TlsStream",
    .basicsize = sizeof(TlsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Tls_slots,
};

static PyMethodDef functions[] = {
    {"_net_tls", net_tls, METH_VARARGS, "A TlsStream over a stream."},
    {NULL},
};

int
pacpy_net_tls_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Tls_spec, NULL, &st->TlsStream_type, "TlsStream") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
