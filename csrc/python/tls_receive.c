/* tls_receive.c - the reading half of the TLS protocol. Each function that calls Python may find the
 * connection ended after it, by the very protocol that it has called: so it goes on by the state, as
 * asyncio does.
 *
 *     received ──► incoming ──► a piece of four records ──► data_received() ──► it writes, or pauses ──┐
 *                                        ▲──────────────── there is more, and it may go on ────────────┘
 *
 * asyncio gives a protocol all that has come in one bytes object, of up to 256 KiB. Blocks of that size
 * go back to the system when they are freed, and so does what an answer is encrypted into: each page
 * was cleared anew, which cost a third of the time. So a piece is delivered before the next one is
 * decrypted. A protocol that pauses within one gets the next one when it resumes, also if the peer's TCP
 * has ended meanwhile; of one that closes or aborts, what is left is nobody's. */
#include "tls_object.h"

#include "stream_reader.h"

/* What is read of the SSLObject until it has no more. */
struct plain {
    PyObject *reader; /* whom it is fed to, or NULL: it is collected */
    PyObject *data;   /* bytes, or NULL */
    PyObject *list;   /* several, or NULL */
    bool ended;       /* the other side has said that it sends no more */
};

/* Add bytes, whose reference is taken. 0 or -1. */
static int
collect(TlsProtocolObject *self, struct plain *p, PyObject *bytes)
{
    int added = 0;
    if (p->reader != NULL) {
        added = pacpy_reader_feed(self->st, p->reader, PyBytes_AS_STRING(bytes),
                                  PyBytes_GET_SIZE(bytes));
    }
    else if (p->data == NULL) {
        p->data = Py_NewRef(bytes);
    }
    else {
        if (p->list == NULL) {
            p->list = PyList_New(0);
            added = p->list == NULL ? -1 : PyList_Append(p->list, p->data);
        }
        added = added < 0 ? -1 : PyList_Append(p->list, bytes);
    }
    Py_DECREF(bytes);
    return added;
}

/* Does the exception of a read say that there is nothing yet? Then it is cleared. */
static bool
nothing_yet(TlsProtocolObject *self)
{
    bool is = pacpy_tls_caught_again(self);
    self->ssl.may_hold = !is;
    return is;
}

/* Read as much as there is, as long as there is room for `least` bytes: *count. Asks once in any case.
 * 0, also if the other side has *ended; or -1. */
static int
fill(TlsProtocolObject *self, char *to, Py_ssize_t size, Py_ssize_t least, Py_ssize_t *count,
     bool *ended)
{
    int more = 1;
    *count = 0;
    while (more > 0 && (*count == 0 || size - *count >= least)) {
        Py_ssize_t got = pacpy_ssl_read_to(self->st, &self->ssl, to + *count, size - *count);
        if (got < 0) {
            return nothing_yet(self) ? 0 : -1;
        }
        if (got == 0) {
            *ended = true;
            return 0;
        }
        *count += got;
        more = pacpy_ssl_may_read(self->st, &self->ssl);
    }
    return more < 0 ? -1 : 0;
}

/* Read several records into one bytes object: a piece, or less if no more than `hint` bytes have come.
 * 0 or -1; what was read is collected in any case. */
static int
read_piece(TlsProtocolObject *self, struct plain *p, size_t hint)
{
    Py_ssize_t count;
    Py_ssize_t size = hint < PACPY_PIECE ? (Py_ssize_t)hint : PACPY_PIECE;
    /* A piece ends with a record. */
    Py_ssize_t least = size < PACPY_PIECE ? 1 : PACPY_RECORD_MAX;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL) {
        return -1;
    }
    int result = fill(self, PyBytes_AS_STRING(bytes), size, least, &count, &p->ended);
    PyObject *error = result < 0 ? PyErr_GetRaisedException() : NULL;
    if (count == 0) {
        Py_DECREF(bytes);
    }
    else if (_PyBytes_Resize(&bytes, count) < 0 || collect(self, p, bytes) < 0) {
        Py_XDECREF(error);
        return -1;
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

/* Read all there is. `hint`: so many bytes have come, or 0: nobody knows. Asks once in any case, as
 * there may be something that the SSLObject has to see to. 0 or -1. */
static int
read_all(TlsProtocolObject *self, struct plain *p, size_t hint)
{
    Py_ssize_t most = hint == 0 || hint > PACPY_RECORD_MAX ? PACPY_RECORD_MAX : (Py_ssize_t)hint;
    int more = 1;
    while (more > 0) {
        PyObject *bytes = pacpy_ssl_read(self->st, &self->ssl, most);
        if (bytes == NULL) {
            return nothing_yet(self) ? 0 : -1;
        }
        if (PyBytes_GET_SIZE(bytes) == 0) {
            Py_DECREF(bytes);
            p->ended = true;
            return 0;
        }
        if (collect(self, p, bytes) < 0) {
            return -1;
        }
        most = PACPY_RECORD_MAX;
        more = pacpy_ssl_may_read(self->st, &self->ssl);
    }
    return more;
}

/* data_received() with what was collected, if anything was. 0 or -1. */
static int
deliver(TlsProtocolObject *self, struct plain *p)
{
    if (p->data == NULL) {
        return 0;
    }
    if (self->app_protocol == NULL) {
        return pacpy_tls_missing(
            "_app_protocol"); /* an SSLObject that was changed has deleted it */
    }
    PyObject *data;
    if (p->list == NULL) {
        data = Py_NewRef(p->data);
    }
    else {
        PyObject *nothing = PyBytes_FromStringAndSize(NULL, 0);
        data = nothing == NULL ? NULL
                               : PyObject_CallMethodOneArg(nothing, self->st->str_join, p->list);
        Py_XDECREF(nothing);
        Py_CLEAR(p->list);
    }
    Py_CLEAR(p->data);
    PyObject *done = NULL;
    if (data != NULL) {
        PyObject *args[] = {Py_NewRef(self->app_protocol), data};
        bool within = self->delivering;
        self->delivering = true;
        done = PyObject_VectorcallMethod(self->st->str_data_received, args, 2, NULL);
        self->delivering = within;
        Py_DECREF(args[0]);
        Py_DECREF(data);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The other side has ended its stream by close_notify. 0 or -1. */
static int
end_of_stream(TlsProtocolObject *self)
{
    return pacpy_tls_call(self, self->st->str__call_eof_received) < 0
               ? -1
               : pacpy_tls_call(self, self->st->str__start_shutdown);
}

/* Call of the protocol's with one number. */
static PyObject *
call_with(PyObject *callable, Py_ssize_t number)
{
    if (callable == NULL) {
        pacpy_tls_missing("buffered protocol");
        return NULL;
    }
    PyObject *argument = PyLong_FromSsize_t(number);
    Py_INCREF(callable);
    PyObject *result = argument == NULL ? NULL : PyObject_CallOneArg(callable, argument);
    Py_DECREF(callable);
    Py_XDECREF(argument);
    return result;
}

/* The application's buffer: 0, or -1 and an exception. */
static int
get_buffer(TlsProtocolObject *self, Py_buffer *view)
{
    Py_ssize_t hint = pacpy_bio_pending(self->st, self->ssl.incoming);
    PyObject *buffer = hint < 0 ? NULL : call_with(self->app_protocol_get_buffer, hint);
    int got = buffer == NULL ? -1 : PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE);
    Py_XDECREF(buffer);
    if (got == 0 && view->len == 0) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        got = -1;
    }
    return got;
}

/* Does the SSLObject, or what it has been given, have something for another turn? 1, 0, or -1 and an
 * exception. */
static int
has_more(TlsProtocolObject *self)
{
    Py_ssize_t waits = pacpy_bio_pending(self->st, self->ssl.incoming);
    if (waits != 0) {
        return waits < 0 ? -1 : 1;
    }
    if (self->ssl.object == NULL) {
        return pacpy_tls_missing("_sslobj");
    }
    PyObject *held = PyObject_CallMethodNoArgs(self->ssl.object, self->st->str_pending);
    int has = held == NULL ? -1 : PyObject_IsTrue(held);
    Py_XDECREF(held);
    return has;
}

static int
read_on_later(TlsProtocolObject *self)
{
    PyObject *loop = PyObject_GetAttr((PyObject *)self, self->st->str__loop);
    PyObject *read =
        loop == NULL ? NULL : PyObject_GetAttr((PyObject *)self, self->st->str__do_read);
    PyObject *handle =
        read == NULL ? NULL : PyObject_CallMethodOneArg(loop, self->st->str_call_soon, read);
    Py_XDECREF(loop);
    Py_XDECREF(read);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

/* As much as the protocol's buffer holds. 1: there may be more, which nobody reads later; 0, or -1. */
static int
read_buffered(TlsProtocolObject *self)
{
    Py_buffer view;
    if (get_buffer(self, &view) < 0) {
        return -1;
    }
    Py_ssize_t size = view.len, count;
    bool ended = false, later = self->state == self->st->ssl_WRAPPED;
    int result = fill(self, view.buf, size, 1, &count, &ended);
    PyObject *error = result < 0 ? PyErr_GetRaisedException() : NULL;
    PyBuffer_Release(&view);
    if (result == 0 && count == size) {
        result = has_more(self);
        result = result > 0 && later ? read_on_later(self) : result;
        error = result < 0 ? PyErr_GetRaisedException() : NULL;
    }
    if (count > 0) {
        PyObject *done = call_with(self->app_protocol_buffer_updated, count);
        Py_XDECREF(done);
        if (done == NULL) {
            Py_XDECREF(error);
            return -1;
        }
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return ended ? end_of_stream(self) : result > 0 && !later;
}

/* Read all there is, or a piece of it if more than `hint` tells of one record has come, and hand it on.
 * 1: there may be more, 0, or -1. */
static int
read_and_deliver(TlsProtocolObject *self, struct plain *p, size_t hint)
{
    bool in_pieces = p->reader == NULL && hint > PACPY_RECORD_MAX;
    int result = in_pieces ? read_piece(self, p, hint) : read_all(self, p, hint);
    PyObject *error = result < 0 ? PyErr_GetRaisedException() : NULL;
    if (deliver(self, p) < 0) {
        Py_XDECREF(error); /* the protocol's own counts */
        return -1;
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return p->ended || !in_pieces ? 0 : pacpy_ssl_may_read(self->st, &self->ssl);
}

/* May the next piece be read, after the protocol was called? */
static bool
may_go_on(TlsProtocolObject *self)
{
    struct pacpy_state *st = self->st;
    bool is_open = self->state == st->ssl_WRAPPED || self->state == st->ssl_FLUSHING;
    return self->state != NULL && is_open && !self->app_reading_paused;
}

/* A piece, or all. 1: there may be more; 0, or -1. */
static int
read_copied(TlsProtocolObject *self, size_t hint)
{
    struct plain p = {.reader = NULL};
    if (self->feeds_reader) {
        p.reader = pacpy_reader_of_protocol(self->st, self->app_protocol);
    }
    Py_ssize_t waits = hint > 0 ? 0 : pacpy_bio_pending(self->st, self->ssl.incoming);
    int more = waits < 0 ? -1 : read_and_deliver(self, &p, hint > 0 ? hint : (size_t)waits);
    Py_XDECREF(p.reader);
    Py_XDECREF(p.data);
    Py_XDECREF(p.list);
    return more >= 0 && p.ended ? end_of_stream(self) : more;
}

/* Piece by piece, or buffer by buffer, whichever the protocol in place wants. As read_copied(). */
static int
read_on(TlsProtocolObject *self, size_t hint)
{
    int more;
    do {
        more = self->app_protocol_is_buffer ? read_buffered(self) : read_copied(self, hint);
        hint = 0;
    } while (more > 0 && may_go_on(self));
    return more;
}

/* Decrypt what is left for nobody, of a connection that is being closed: unwrap() would fail over it,
 * and what was written and has not gone yet would be lost. 0 or -1. */
static int
read_and_forget(TlsProtocolObject *self)
{
    char scratch[PACPY_RECORD_MAX];
    Py_ssize_t count;
    bool ended = false;
    do {
        if (fill(self, scratch, sizeof scratch, 1, &count, &ended) < 0) {
            return -1;
        }
    } while (count == sizeof scratch && !ended);
    return ended ? end_of_stream(self) : 0;
}

/* Is it this side that ends the connection, so that nobody wants what is left? If the peer's TCP has
 * ended, what it has sent before is read first. */
static bool
is_closing(TlsProtocolObject *self)
{
    return self->state == self->st->ssl_FLUSHING && !self->eof_received;
}

static int
read_and_answer(TlsProtocolObject *self, size_t hint)
{
    bool takes_no_more =
        self->app_reading_paused || self->delivering || self->app_protocol_is_buffer;
    bool forgets = is_closing(self) && takes_no_more;
    if (forgets || !self->app_reading_paused) {
        int done = forgets ? read_and_forget(self) : read_on(self, hint);
        if (done > 0 && is_closing(self)) {
            done = read_and_forget(self); /* it has paused over the rest */
        }
        int waits = done < 0 ? -1 : pacpy_tls_has_backlog(self);
        if (waits < 0 || (waits > 0 ? pacpy_tls_call(self, self->st->str__do_write)
                                    : pacpy_tls_process_outgoing(self)) < 0) {
            return -1;
        }
    }
    return pacpy_tls_control_reading(self);
}

int
pacpy_tls_do_read(TlsProtocolObject *self, size_t hint)
{
    struct pacpy_state *st = self->st;
    if (self->state == NULL ||
        (self->state != st->ssl_WRAPPED && self->state != st->ssl_FLUSHING)) {
        return 0;
    }
    if (self->app_protocol == NULL) {
        return pacpy_tls_missing("app protocol");
    }
    return read_and_answer(self, hint) < 0 ? pacpy_tls_fatal(self) : 0;
}

int
pacpy_tls_go_on(TlsProtocolObject *self, size_t hint)
{
    struct pacpy_state *st = self->st;
    if (self->state == NULL) {
        return pacpy_tls_missing("state");
    }
    if (self->state == st->ssl_WRAPPED) {
        return pacpy_tls_do_read(self, hint);
    }
    PyObject *method = self->state == st->ssl_DO_HANDSHAKE ? st->str__do_handshake
                       : self->state == st->ssl_FLUSHING   ? st->str__do_flush
                       : self->state == st->ssl_SHUTDOWN   ? st->str__do_shutdown
                                                           : NULL;
    return method == NULL ? 0 : pacpy_tls_call(self, method);
}

int
pacpy_tls_received(PyObject *op, const char *bytes, size_t count)
{
    TlsProtocolObject *self = (TlsProtocolObject *)Py_NewRef(op);
    int result =
        pacpy_ssl_feed(self->st, &self->ssl, bytes, count) < 0 ? -1 : pacpy_tls_go_on(self, count);
    Py_DECREF(op);
    return result;
}
