/* stream_transport.c - a stream socket for a protocol: what writing comes to, and the type;
 * stream_receive.c reads. */
#include "stream_object.h"

#include "callback_handle.h"
#include "stream_reader.h"
#include "tls_protocol.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum { READ_MAX = 256 * 1024 }; /* asyncio's max_size */

static void
set_os_error(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Finish the future that sendfile waits for, with None or an exception. */
static void
tell_empty_waiter(TransportObject *t, PyObject *exc)
{
    PyObject *waiter = pacpy_stream_of(t)->empty_waiter;
    if (waiter == NULL) {
        return;
    }
    Py_INCREF(waiter);
    PyObject *is_done = PyObject_CallMethodNoArgs(waiter, t->st->str_done);
    PyObject *done = is_done;
    if (is_done == Py_False) {
        done = exc == NULL ? PyObject_CallMethodOneArg(waiter, t->st->str_set_result, Py_None)
                           : PyObject_CallMethod(waiter, "set_exception", "O", exc);
        Py_DECREF(is_done);
    }
    if (done == NULL) {
        pacpy_transport_report(t, "set_result()");
    }
    Py_XDECREF(done);
    Py_DECREF(waiter);
}

/* sendfile() may begin: it has the loop watch the descriptor, which therefore is not ours until
 * _reset_empty_waiter(). */
static void
lend_descriptor(TransportObject *t)
{
    pacpy_transport_unwatch(t);
    tell_empty_waiter(t, NULL);
}

static void
all_is_written(TransportObject *t)
{
    if (pacpy_stream_of(t)->empty_waiter != NULL) {
        lend_descriptor(t);
    }
    if (t->closing) {
        pacpy_transport_lose(t, NULL);
    }
    else if (pacpy_stream_of(t)->eof && shutdown(t->fd, SHUT_WR) != 0 && errno != ENOTCONN) {
        /* ENOTCONN: the other side has reset the connection since, which is for reading to find out.
         * asyncio reports it as an exception of its own callback. */
        set_os_error();
        pacpy_transport_report(t, "write_eof()");
    }
}

/* With the exception of the write. */
static void
write_failed(TransportObject *t)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyErr_SetRaisedException(Py_NewRef(exc));
    pacpy_transport_fatal(t, pacpy_stream_of(t)->writer.failed);
    tell_empty_waiter(t, exc);
    Py_DECREF(exc);
}

static void
flush(TransportObject *t)
{
    enum pac_status status = pacpy_writer_flush(t, &pacpy_stream_of(t)->writer);
    if (status == PAC_OS_ERROR) {
        write_failed(t);
        return;
    }
    if (status != PAC_OK) {
        return;
    }
    pacpy_transport_maybe_resume(t); /* may write more, or abort */
    if (pacpy_stream_of(t)->writer.pending.size == 0 && !t->ending && t->sock != NULL) {
        all_is_written(t);
    }
}

/* ---- turns ---------------------------------------------------------------------------------- */

static bool
Stream_wants_run(TransportObject *t)
{
    return (pacpy_transport_reads(t) && pac_io_is_ready(&t->io, PAC_READABLE) &&
            pac_io_is_open(&t->io)) ||
           (pacpy_stream_of(t)->writer.pending.size > 0 && pac_io_is_ready(&t->io, PAC_WRITABLE) &&
            pac_io_is_open(&t->io));
}

static void
Stream_run(TransportObject *t)
{
    if (pacpy_transport_reads(t) && pac_io_is_ready(&t->io, PAC_READABLE)) {
        pacpy_stream_receive(t);
    }
    if (t->loop != NULL && pacpy_stream_of(t)->writer.pending.size > 0 &&
        pac_io_is_ready(&t->io, PAC_WRITABLE)) {
        flush(t);
    }
}

static size_t
Stream_pending(TransportObject *t)
{
    return pacpy_stream_of(t)->writer.pending.size;
}

static void
Stream_drop_pending(TransportObject *t)
{
    pacpy_write_queue_clear(&pacpy_stream_of(t)->writer.pending);
}

static void
Stream_lost(TransportObject *t)
{
    StreamTransportObject *s = pacpy_stream_of(t);
    if (s->empty_waiter == NULL) {
        return;
    }
    PyObject *exc =
        PyObject_CallFunction(PyExc_ConnectionError, "s", "Connection is closed by peer");
    if (exc == NULL) {
        pacpy_transport_report(t, "connection_lost()");
        return;
    }
    tell_empty_waiter(t, exc);
    Py_DECREF(exc);
}

static int
Stream_adopt(TransportObject *t, PyObject *protocol)
{
    int buffered = PyObject_IsInstance(protocol, t->st->asyncio_BufferedProtocol);
    if (buffered < 0) {
        return -1;
    }
    pacpy_stream_of(t)->buffered = buffered;
    pacpy_stream_of(t)->feeds_tls = buffered && pacpy_tls_is_ours(t->st, protocol);
    pacpy_stream_of(t)->feeds_reader = pacpy_adopt_stream(t->st, protocol);
    return 0;
}

static const struct pacpy_transport_vtable stream_vtable = {
    .wants_run = Stream_wants_run,
    .run = Stream_run,
    .pending = Stream_pending,
    .drop_pending = Stream_drop_pending,
    .lost = Stream_lost,
    .adopt = Stream_adopt,
};

/* ---- write() and its kin -------------------------------------------------------------------- */

static bool
may_write(StreamTransportObject *s, const char *method)
{
    if (s->eof) {
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", method);
        return false;
    }
    if (s->empty_waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", method);
        return false;
    }
    return true;
}

static bool
has_ended(const TransportObject *t)
{
    return t->ending || t->loop == NULL;
}

PyObject *
pacpy_stream_transport_write(PyObject *op, PyObject *data)
{
    TransportObject *t = (TransportObject *)op;
    StreamTransportObject *s = pacpy_stream_of(t);
    if (pacpy_writer_check(data) < 0 || !may_write(s, "write")) {
        return NULL;
    }
    return pacpy_writer_write(t, &s->writer, data, has_ended);
}

bool
pacpy_stream_transport_is_plain(struct pacpy_state *st, PyObject *op)
{
    if (!Py_IS_TYPE(op, st->StreamTransport_type)) {
        return false;
    }
    PyObject *dict = ((TransportObject *)op)->dict;
    return dict == NULL || PyDict_GET_SIZE(dict) == 0;
}

static PyObject *
Stream_writelines(PyObject *op, PyObject *list)
{
    TransportObject *t = (TransportObject *)op;
    StreamTransportObject *s = pacpy_stream_of(t);
    if (!may_write(s, "writelines")) {
        return NULL;
    }
    return pacpy_writer_writelines(t, &s->writer, list, has_ended);
}

static PyObject *
Stream_write_eof(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    StreamTransportObject *s = pacpy_stream_of(t);
    if (t->closing || s->eof) {
        Py_RETURN_NONE;
    }
    s->eof = true;
    if (s->writer.pending.size == 0 && shutdown(t->fd, SHUT_WR) != 0) {
        set_os_error();
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Stream_can_write_eof(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

/* ---- sendfile ------------------------------------------------------------------------------- */

static PyObject *
Stream_make_empty_waiter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    StreamTransportObject *s = pacpy_stream_of(t);
    if (s->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (t->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the transport is closed");
        return NULL;
    }
    s->empty_waiter = PyObject_CallMethodNoArgs((PyObject *)t->loop, t->st->str_create_future);
    if (s->empty_waiter != NULL && s->writer.pending.size == 0) {
        lend_descriptor(t);
    }
    return Py_XNewRef(s->empty_waiter);
}

static PyObject *
Stream_reset_empty_waiter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    Py_CLEAR(pacpy_stream_of(t)->empty_waiter);
    if (t->loop != NULL && t->sock != NULL && !pac_io_is_open(&t->io)) {
        if (pacpy_transport_watch(t, PAC_IO_SOCKET) < 0 || pacpy_transport_settle(t) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------------------------- */

static PyMethodDef Stream_methods[] = {
    {"write", pacpy_stream_transport_write, METH_O,
     "Write bytes: at once as many as the kernel takes, the rest when it takes more."},
    {"writelines", Stream_writelines, METH_O,
     "Write several, by one system call if it takes them."},
    {"write_eof", Stream_write_eof, METH_NOARGS,
     "Close the writing end once what is pending is written."},
    {"can_write_eof", Stream_can_write_eof, METH_NOARGS, "True."},
    {"_make_empty_waiter", Stream_make_empty_waiter, METH_NOARGS, NULL},
    {"_reset_empty_waiter", Stream_reset_empty_waiter, METH_NOARGS, NULL},
    {NULL},
};

static PyObject *
get_buffer_list(PyObject *op, void *Py_UNUSED(closure))
{
    struct pacpy_write_queue *q = &pacpy_stream_of((TransportObject *)op)->writer.pending;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < q->count; i++) {
        PyObject *data = q->parts[q->first + i];
        size_t offset = i == 0 ? q->offset : 0;
        PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + offset,
                                                   PyBytes_GET_SIZE(data) - (Py_ssize_t)offset);
        if (rest == NULL || PyList_Append(list, rest) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(rest);
    }
    return list;
}

static PyObject *
get_eof(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pacpy_stream_of((TransportObject *)op)->eof);
}

static PyObject *
get_empty_waiter(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *waiter = pacpy_stream_of((TransportObject *)op)->empty_waiter;
    return Py_NewRef(waiter == NULL ? Py_None : waiter);
}

static PyObject *
get_read_max(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(pacpy_stream_of((TransportObject *)op)->read_max);
}

static int
set_read_max(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    StreamTransportObject *s = pacpy_stream_of((TransportObject *)op);
    Py_ssize_t size = value == NULL ? 0 : PyNumber_AsSsize_t(value, PyExc_OverflowError);
    if (size <= 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "max_size must be positive");
        }
        return -1;
    }
    s->read_max = size;
    return 0;
}

static PyObject *
get_true(PyObject *op, void *Py_UNUSED(closure))
{
    Py_RETURN_TRUE;
}

static PyObject *
get_sendfile_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(((TransportObject *)op)->st->asyncio_support,
                                  "SENDFILE_TRY_NATIVE");
}

static PyGetSetDef Stream_getset[] = {
    {"_buffer", get_buffer_list, NULL, "What is pending, as a list of bytes: a snapshot."},
    {"_eof", get_eof, NULL, NULL},
    {"_empty_waiter", get_empty_waiter, NULL, NULL},
    {"max_size", get_read_max, set_read_max, "The most that is read at once, in bytes."},
    {"_start_tls_compatible", get_true, NULL, NULL},
    {"_sendfile_compatible", get_sendfile_mode, NULL, NULL},
    {NULL},
};

static int
Stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    /* cpylint: traverse, pacpy_transport_traverse visits the type */
    Py_VISIT(pacpy_stream_of((TransportObject *)op)->empty_waiter);
    return pacpy_transport_traverse(op, visit, arg);
}

static int
Stream_clear(PyObject *op)
{
    StreamTransportObject *s = pacpy_stream_of((TransportObject *)op);
    pacpy_write_queue_clear(&s->writer.pending);
    Py_CLEAR(s->empty_waiter);
    return pacpy_transport_clear(op);
}

static void
Stream_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (!pacpy_transport_destroy(op)) {
        return;
    }
    StreamTransportObject *s = pacpy_stream_of((TransportObject *)op);
    pacpy_write_queue_clear(&s->writer.pending);
    Py_CLEAR(s->empty_waiter);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    Stream_doc,
    "A TCP or Unix connection of a pyasync_c loop: an asyncio.Transport, made by the loop's\n"
    "create_connection() and its kin. Belongs to the loop's thread.");

enum { TABLE_MAX = 32 };
static PyMethodDef all_methods[TABLE_MAX];
static PyGetSetDef all_getset[TABLE_MAX];

static PyType_Slot Stream_slots[] = {
    {Py_tp_doc, (void *)Stream_doc},
    {Py_tp_traverse, Stream_traverse},
    {Py_tp_clear, Stream_clear},
    {Py_tp_finalize, pacpy_transport_finalize},
    {Py_tp_dealloc, Stream_dealloc},
    {Py_tp_repr, pacpy_transport_repr},
    {Py_tp_members, pacpy_transport_members},
    {Py_tp_methods, all_methods},
    {Py_tp_getset, all_getset},
    {0, NULL},
};

static PyType_Spec Stream_spec = {
    .name = "pyasync_c.StreamTransport",
    .basicsize = sizeof(StreamTransportObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Stream_slots,
};

int
pacpy_stream_transport_make_types(struct pacpy_state *st)
{
    pacpy_join_methods(all_methods, TABLE_MAX, pacpy_transport_methods, Stream_methods);
    pacpy_join_getset(all_getset, TABLE_MAX, pacpy_transport_getset, Stream_getset);
    return pacpy_transport_make_type(st, &Stream_spec, "Transport", &st->StreamTransport_type,
                                     "StreamTransport");
}

PyObject *
pacpy_stream_transport_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)op;
    enum { SOCK, PROTOCOL, WAITER, EXTRA, SERVER, COUNT };
    if (nargs != COUNT) {
        PyErr_SetString(PyExc_TypeError, "_stream_transport() takes 5 arguments");
        return NULL;
    }
    PyTypeObject *type = loop->st->StreamTransport_type;
    PyObject *transport = type->tp_alloc(type, 0);
    if (transport == NULL) {
        return NULL;
    }
    TransportObject *t = (TransportObject *)transport;
    pacpy_stream_of(t)->read_max = READ_MAX;
    pacpy_stream_of(t)->writer.failed = "Fatal write error on socket transport";
    pacpy_stream_of(t)->writer.after_end = "socket.send() raised exception.";
    int buffered = PyObject_IsInstance(args[PROTOCOL], loop->st->asyncio_BufferedProtocol);
    if (buffered < 0 ||
        pacpy_transport_init(t, &stream_vtable, loop, args[SOCK], args[PROTOCOL], args[WAITER],
                             args[EXTRA], args[SERVER], PAC_IO_SOCKET) < 0) {
        Py_DECREF(transport);
        return NULL;
    }
    pacpy_stream_of(t)->buffered = buffered;
    pacpy_stream_of(t)->feeds_tls = buffered && pacpy_tls_is_ours(t->st, t->protocol);
    pacpy_stream_of(t)->feeds_reader = pacpy_adopt_stream(t->st, t->protocol);
    /* Small writes are sent without waiting for the other side's acknowledgement of the last one;
     * a socket of another kind refuses, which is as well. */
    int on = 1;
    int ignored = setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)ignored;
    return transport;
}
