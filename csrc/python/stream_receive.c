/* stream_receive.c - the reading half of a stream transport.
 *
 * A read is one system call a turn, into a buffer of the loop's, and what came is copied to where it is
 * to be; a protocol that gets large messages has them received into the bytes that it is called with
 * (receive_bytes.h).
 *
 * A read that filled the buffer is followed by another one in a later turn, so that one connection
 * does not keep the others waiting; one that did not has found the end of what there was, and needs
 * no second call to be told so. */
#include "stream_object.h"
#include "stream_reader.h"
#include "tls_protocol.h"

#include <errno.h>

static inline size_t
most_at_once(const StreamTransportObject *s)
{
    return s->read_max < PACPY_READ_BUFFER ? (size_t)s->read_max : PACPY_READ_BUFFER;
}

/* Into the loop's buffer, *count bytes. PAC_NO_MEMORY has set an exception. */
static enum pac_status
receive(StreamTransportObject *s, size_t *count)
{
    char *buffer = pacpy_transport_read_buffer(&s->base);
    if (buffer == NULL) {
        return PAC_NO_MEMORY;
    }
    return pac_io_read(&s->base.io, buffer, most_at_once(s), count);
}

/* As bytes: PAC_OK and *data, NULL at the end of the stream. *capacity is for pacpy_receive_again.
 * PAC_NO_MEMORY has set an exception. */
static enum pac_status
receive_data(StreamTransportObject *s, PyObject **data, size_t *capacity)
{
    size_t count;
    if (s->expected.size != 0) {
        return pacpy_receive_bytes(&s->base, &s->expected, most_at_once(s), data, capacity);
    }
    enum pac_status status = receive(s, &count);
    *data = NULL;
    *capacity = 0;
    if (status == PAC_OK && count > 0) {
        pacpy_expect(&s->expected, count);
        *data = PyBytes_FromStringAndSize(pacpy_transport_read_buffer(&s->base), (Py_ssize_t)count);
        status = *data == NULL ? PAC_NO_MEMORY : PAC_OK;
    }
    return status;
}

static void
read_eof(TransportObject *t)
{
    pacpy_transport_note(t, "%r received EOF");
    PyObject *keep = pacpy_transport_call(t, t->st->str_eof_received, NULL);
    int keep_open = keep == NULL ? -1 : PyObject_IsTrue(keep);
    Py_XDECREF(keep);
    if (keep_open < 0) {
        pacpy_transport_fatal(t, "Fatal error: protocol.eof_received() call failed.");
    }
    else if (keep_open) {
        t->at_eof = true;
    }
    else if (pacpy_transport_close(t) < 0) {
        pacpy_transport_report(t, "close()");
    }
}

/* What a read says other than PAC_OK. */
static void
read_failed(TransportObject *t, enum pac_status status)
{
    if (status == PAC_WOULD_BLOCK || status == PAC_CLOSED) {
        return;
    }
    if (!PyErr_Occurred()) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    pacpy_transport_fatal(t, "Fatal read error on socket transport");
}

static void
read_data(TransportObject *t)
{
    PyObject *data;
    size_t capacity;
    LoopObject *loop = t->loop; /* which the turn keeps alive */
    enum pac_status status = receive_data(pacpy_stream_of(t), &data, &capacity);
    if (status != PAC_OK) {
        read_failed(t, status);
        return;
    }
    if (data == NULL) {
        read_eof(t);
        return;
    }
    PyObject *done = pacpy_transport_call(t, t->st->str_data_received, data);
    pacpy_receive_again(loop, data, capacity);
    if (done == NULL) {
        pacpy_transport_fatal(t, "Fatal error: protocol.data_received() call failed.");
    }
    Py_XDECREF(done);
}

/* As receive_data(), for a reader: *count bytes, 0 at the end of the stream. *fed: 0, or -1 and an
 * exception of the reader's. */
static enum pac_status
receive_for(StreamTransportObject *s, PyObject *reader, size_t *count, int *fed)
{
    TransportObject *t = &s->base;
    LoopObject *loop = t->loop; /* which the turn keeps alive */
    enum pac_status status;
    *fed = 0;
    if (s->expected.size == 0) {
        status = receive(s, count);
        if (status == PAC_OK && *count > 0) {
            pacpy_expect(&s->expected, *count);
            *fed = pacpy_reader_feed(t->st, reader, pacpy_transport_read_buffer(t),
                                     (Py_ssize_t)*count);
        }
        return status;
    }
    PyObject *data;
    size_t capacity;
    status = pacpy_receive_bytes(t, &s->expected, most_at_once(s), &data, &capacity);
    *count = 0;
    if (status == PAC_OK && data != NULL) {
        *count = (size_t)PyBytes_GET_SIZE(data);
        *fed = pacpy_reader_feed_bytes(t->st, reader, data);
        pacpy_receive_again(loop, data, capacity);
    }
    return status;
}

/* What read_data() comes to with one of asyncio's streams, which is no call of Python. False: its
 * reader has gone. */
static bool
read_for_reader(TransportObject *t)
{
    PyObject *reader = pacpy_reader_of_protocol(t->st, t->protocol);
    size_t count;
    int fed;
    if (reader == NULL) {
        return false;
    }
    enum pac_status status = receive_for(pacpy_stream_of(t), reader, &count, &fed);
    Py_DECREF(reader);
    if (fed < 0) {
        pacpy_transport_fatal(t, "Fatal error: protocol.data_received() call failed.");
    }
    else if (status != PAC_OK) {
        read_failed(t, status);
    }
    else if (count == 0) {
        read_eof(t);
    }
    return true;
}

/* Memory of the protocol's: 0, or -1 and the connection ended. */
static int
get_buffer(TransportObject *t, Py_buffer *view)
{
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *buffer = hint == NULL ? NULL : pacpy_transport_call(t, t->st->str_get_buffer, hint);
    Py_XDECREF(hint);
    Py_ssize_t length = buffer == NULL ? -1 : PyObject_Size(buffer);
    if (length == 0) {
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
    }
    if (length <= 0) {
        Py_XDECREF(buffer);
        pacpy_transport_fatal(t, "Fatal error: protocol.get_buffer() call failed.");
        return -1;
    }
    int got = PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE);
    Py_DECREF(buffer);
    if (got < 0) {
        pacpy_transport_fatal(t, "Fatal read error on socket transport");
    }
    return got;
}

static void
read_into_buffer(TransportObject *t)
{
    Py_buffer view;
    size_t count;
    if (get_buffer(t, &view) < 0) {
        return;
    }
    /* That call may have closed the transport, or paused it: what is read now is still delivered,
     * as in asyncio. */
    enum pac_status status =
        t->loop == NULL ? PAC_CLOSED : pac_io_read(&t->io, view.buf, (size_t)view.len, &count);
    int error = errno;
    PyBuffer_Release(&view);
    errno = error;
    if (status != PAC_OK) {
        read_failed(t, status);
        return;
    }
    if (count == 0) {
        read_eof(t);
        return;
    }
    PyObject *number = PyLong_FromSize_t(count);
    PyObject *done =
        number == NULL ? NULL : pacpy_transport_call(t, t->st->str_buffer_updated, number);
    Py_XDECREF(number);
    if (done == NULL) {
        pacpy_transport_fatal(t, "Fatal error: protocol.buffer_updated() call failed.");
    }
    Py_XDECREF(done);
}

/* What read_into_buffer() comes to with a TLS protocol of ours, which needs no buffer. */
static void
read_for_tls(TransportObject *t)
{
    size_t count;
    enum pac_status status = receive(pacpy_stream_of(t), &count);
    if (status != PAC_OK) {
        read_failed(t, status);
    }
    else if (count == 0) {
        read_eof(t);
    }
    else if (t->protocol != NULL &&
             pacpy_tls_received(t->protocol, pacpy_transport_read_buffer(t), count) < 0) {
        pacpy_transport_fatal(t, "Fatal error: protocol.buffer_updated() call failed.");
    }
}

void
pacpy_stream_receive(TransportObject *t)
{
    StreamTransportObject *s = pacpy_stream_of(t);
    if (s->feeds_tls) {
        read_for_tls(t);
    }
    else if (s->buffered) {
        read_into_buffer(t);
    }
    else if (!s->feeds_reader || !read_for_reader(t)) {
        read_data(t);
    }
}
