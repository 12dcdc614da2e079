/* pipe_transport.c - one end of a pipe for a protocol.
 *
 * The writing end learns that nobody reads any more by an event of its own, also while it has
 * nothing to write: a pipe reports an error then, a socket its end. */
#include "pipe_transport.h"

#include "args.h"
#include "transport_writer.h"

#include <errno.h>
#include <sys/stat.h>

typedef struct {
    TransportObject base;
    struct pacpy_writer writer; /* of the writing end */
    bool is_fifo;
} PipeTransportObject;

static inline PipeTransportObject *
pipe_of(TransportObject *t)
{
    return (PipeTransportObject *)t;
}

/* ---- the reading end ------------------------------------------------------------------------ */

/* asyncio tells the protocol in two turns of the loop, which it decides on at once; here the second
 * is connection_lost's. */
static void
read_end(TransportObject *t)
{
    pacpy_transport_note(t, "%r was closed by peer");
    t->at_eof = t->closing = true;
    if (pacpy_transport_force_close(t, NULL) < 0) {
        pacpy_transport_report(t, "close()");
    }
    PyObject *done = pacpy_transport_call(t, t->st->str_eof_received, NULL);
    if (done == NULL) {
        pacpy_transport_report(t, "eof_received()");
    }
    Py_XDECREF(done);
}

static PyObject *
receive(TransportObject *t, enum pac_status *status)
{
    size_t count;
    char *buffer = pacpy_transport_read_buffer(t);
    if (buffer == NULL) {
        *status = PAC_NO_MEMORY;
        return NULL;
    }
    *status = pac_io_read(&t->io, buffer, PACPY_READ_BUFFER, &count);
    if (*status == PAC_OS_ERROR) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return *status == PAC_OK ? PyBytes_FromStringAndSize(buffer, (Py_ssize_t)count) : NULL;
}

static void
ReadPipe_run(TransportObject *t)
{
    enum pac_status status;
    PyObject *data = receive(t, &status);
    if (status == PAC_WOULD_BLOCK || status == PAC_CLOSED) {
        return;
    }
    if (data == NULL) {
        pacpy_transport_fatal(t, "Fatal read error on pipe transport");
        return;
    }
    if (PyBytes_GET_SIZE(data) == 0) {
        read_end(t);
    }
    else {
        PyObject *done = pacpy_transport_call(t, t->st->str_data_received, data);
        if (done == NULL) {
            pacpy_transport_report(t, "data_received()");
        }
        Py_XDECREF(done);
    }
    Py_DECREF(data);
}

static bool
ReadPipe_wants_run(TransportObject *t)
{
    return pacpy_transport_reads(t) && pac_io_is_open(&t->io) &&
           pac_io_is_ready(&t->io, PAC_READABLE);
}

static size_t
nothing_pending(TransportObject *t)
{
    return 0;
}

static void
do_nothing(TransportObject *t)
{
}

static const struct pacpy_transport_vtable read_vtable = {
    .wants_run = ReadPipe_wants_run,
    .run = ReadPipe_run,
    .pending = nothing_pending,
    .drop_pending = do_nothing,
    .lost = do_nothing,
    .is_pipe = true,
};

/* ---- the writing end ------------------------------------------------------------------------ */

static bool
reader_has_gone(const TransportObject *t)
{
    const PipeTransportObject *p = (const PipeTransportObject *)t;
    return pac_io_is_ready(&t->io,
                           PAC_READ_CLOSED | PAC_WRITE_CLOSED | (p->is_fifo ? PAC_READABLE : 0));
}

static bool
WritePipe_wants_run(TransportObject *t)
{
    if (!pac_io_is_open(&t->io) || !t->started || t->ending) {
        return false;
    }
    return reader_has_gone(t) ||
           (pipe_of(t)->writer.pending.size > 0 && pac_io_is_ready(&t->io, PAC_WRITABLE));
}

/* asyncio's: what is pending cannot be written any more, and that is an error. */
static void
end_without_reader(TransportObject *t)
{
    PyObject *exc = NULL;
    pacpy_transport_note(t, "%r was closed by peer");
    if (pipe_of(t)->writer.pending.size > 0) {
        exc = PyObject_CallNoArgs(PyExc_BrokenPipeError);
        if (exc == NULL) {
            pacpy_transport_report(t, "close()");
        }
    }
    if (t->loop != NULL && pacpy_transport_force_close(t, exc) < 0) {
        pacpy_transport_report(t, "close()");
    }
    Py_XDECREF(exc);
}

static void
WritePipe_run(TransportObject *t)
{
    struct pacpy_writer *w = &pipe_of(t)->writer;
    if (reader_has_gone(t)) {
        end_without_reader(t);
        return;
    }
    enum pac_status status = pacpy_writer_flush(t, w);
    if (status == PAC_OS_ERROR) {
        pacpy_transport_fatal(t, w->failed);
    }
    if (status != PAC_OK) {
        return;
    }
    pacpy_transport_maybe_resume(t); /* may write more, or abort */
    if (w->pending.size == 0 && t->closing && !t->ending && t->sock != NULL) {
        pacpy_transport_lose(t, NULL);
    }
}

static size_t
WritePipe_pending(TransportObject *t)
{
    return pipe_of(t)->writer.pending.size;
}

static void
WritePipe_drop_pending(TransportObject *t)
{
    pacpy_write_queue_clear(&pipe_of(t)->writer.pending);
}

static const struct pacpy_transport_vtable write_vtable = {
    .wants_run = WritePipe_wants_run,
    .run = WritePipe_run,
    .pending = WritePipe_pending,
    .drop_pending = WritePipe_drop_pending,
    .lost = do_nothing,
    .is_pipe = true,
};

static bool
has_ended(const TransportObject *t)
{
    return t->closing || t->loop == NULL;
}

static PyObject *
WritePipe_write(PyObject *op, PyObject *data)
{
    TransportObject *t = (TransportObject *)op;
    return pacpy_writer_write(t, &pipe_of(t)->writer, data, has_ended);
}

static PyObject *
WritePipe_writelines(PyObject *op, PyObject *list)
{
    TransportObject *t = (TransportObject *)op;
    return pacpy_writer_writelines(t, &pipe_of(t)->writer, list, has_ended);
}

/* The end of what is written to a pipe is its being closed. */
static PyObject *
WritePipe_write_eof(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    if (t->sock != NULL && pacpy_transport_close(t) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
WritePipe_can_write_eof(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

/* ---- the types ------------------------------------------------------------------------------ */

static PyMethodDef WritePipe_methods[] = {
    {"write", WritePipe_write, METH_O,
     "Write bytes: at once as many as the pipe takes, the rest when it takes more."},
    {"writelines", WritePipe_writelines, METH_O,
     "Write several, by one system call if it takes them."},
    {"write_eof", WritePipe_write_eof, METH_NOARGS, "As close(): a pipe has no other end."},
    {"can_write_eof", WritePipe_can_write_eof, METH_NOARGS, "True."},
    {NULL},
};

/* In asyncio's form. */
static PyObject *
Pipe_repr(PyObject *op)
{
    TransportObject *t = (TransportObject *)op;
    const char *name = pacpy_short_name(Py_TYPE(op));
    if (t->sock == NULL) {
        return PyUnicode_FromFormat("<%s closed fd=%d closed>", name, t->fd);
    }
    const char *state = t->closing ? " closing" : "";
    size_t pending = t->vtable->pending(t);
    if (t->loop == NULL || t->loop->executor == NULL) {
        return PyUnicode_FromFormat("<%s%s fd=%d open>", name, state, t->fd);
    }
    if (t->vtable == &read_vtable) {
        return PyUnicode_FromFormat("<%s%s fd=%d %s>", name, state, t->fd,
                                    pacpy_transport_reads(t) ? "polling" : "idle");
    }
    return PyUnicode_FromFormat("<%s%s fd=%d %s bufsize=%zu>", name, state, t->fd,
                                pending > 0 ? "polling" : "idle", pending);
}

static PyObject *
get_pipe(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *pipe = ((TransportObject *)op)->sock;
    return Py_NewRef(pipe == NULL ? Py_None : pipe);
}

/* _pipe = None: it is somebody else's to close. */
static int
set_pipe(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    TransportObject *t = (TransportObject *)op;
    if (value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "_pipe may be set to None alone");
        return -1;
    }
    if (t->loop != NULL) {
        pacpy_transport_unwatch(t);
    }
    pacpy_transport_note_end(t);
    Py_CLEAR(t->sock);
    return pacpy_transport_settle(t); /* nothing holds it any more */
}

static PyObject *
get_fileno(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((TransportObject *)op)->fd);
}

static PyObject *
get_max_size(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(PACPY_READ_BUFFER);
}

static PyGetSetDef Pipe_getset[] = {
    {"_pipe", get_pipe, set_pipe, NULL},
    {"_fileno", get_fileno, NULL, NULL},
    {"max_size", get_max_size, NULL, "The most that is read at once, in bytes."},
    {NULL},
};

static int
Pipe_clear(PyObject *op)
{
    pacpy_write_queue_clear(&pipe_of((TransportObject *)op)->writer.pending);
    return pacpy_transport_clear(op);
}

static void
Pipe_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (!pacpy_transport_destroy(op)) {
        return;
    }
    pacpy_write_queue_clear(&pipe_of((TransportObject *)op)->writer.pending);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(ReadPipe_doc,
             "The end of a pipe that a pyasync_c loop reads: made by connect_read_pipe() and for\n"
             "child processes. Belongs to the loop's thread.");
PyDoc_STRVAR(
    WritePipe_doc,
    "The end of a pipe that a pyasync_c loop writes: made by connect_write_pipe() and for\n"
    "child processes. Belongs to the loop's thread.");

enum { TABLE_MAX = 32 };
static PyMethodDef write_methods[TABLE_MAX];
static PyGetSetDef all_getset[TABLE_MAX];

#define PIPE_SLOTS(doc, methods)                                               \
    {Py_tp_doc, (void *)(doc)}, {Py_tp_traverse, pacpy_transport_traverse},    \
        {Py_tp_clear, Pipe_clear}, {Py_tp_finalize, pacpy_transport_finalize}, \
        {Py_tp_dealloc, Pipe_dealloc}, {Py_tp_repr, Pipe_repr},                \
        {Py_tp_members, pacpy_transport_members}, {Py_tp_methods, (methods)},  \
    {                                                                          \
        Py_tp_getset, all_getset                                               \
    }

static PyType_Slot ReadPipe_slots[] = {PIPE_SLOTS(ReadPipe_doc, pacpy_transport_methods),
                                       {0, NULL}};
static PyType_Slot WritePipe_slots[] = {PIPE_SLOTS(WritePipe_doc, write_methods), {0, NULL}};

static PyType_Spec ReadPipe_spec = {
    .name = "pyasync_c.ReadPipeTransport",
    .basicsize = sizeof(PipeTransportObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ReadPipe_slots,
};

static PyType_Spec WritePipe_spec = {
    .name = "pyasync_c.WritePipeTransport",
    .basicsize = sizeof(PipeTransportObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = WritePipe_slots,
};

int
pacpy_pipe_transport_make_types(struct pacpy_state *st)
{
    pacpy_join_methods(write_methods, TABLE_MAX, pacpy_transport_methods, WritePipe_methods);
    pacpy_join_getset(all_getset, TABLE_MAX, pacpy_transport_getset, Pipe_getset);
    if (pacpy_transport_make_type(st, &ReadPipe_spec, "ReadTransport", &st->ReadPipeTransport_type,
                                  "ReadPipeTransport") < 0) {
        return -1;
    }
    return pacpy_transport_make_type(st, &WritePipe_spec, "WriteTransport",
                                     &st->WritePipeTransport_type, "WritePipeTransport");
}

/* What `pipe` is, made non-blocking. 0, or -1 and an exception. */
static int
look_at(PyObject *pipe, bool reads, enum pac_io_kind *kind, bool *is_fifo)
{
    struct stat status;
    int fd = PyLong_Check(pipe) ? -1 : PyObject_AsFileDescriptor(pipe);
    if (PyLong_Check(pipe)) {
        PyErr_SetString(PyExc_TypeError, "pipe must be a file object, not a descriptor");
    }
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &status) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    *is_fifo = S_ISFIFO(status.st_mode);
    bool is_terminal = S_ISCHR(status.st_mode);
    if (!*is_fifo && !is_terminal && !S_ISSOCK(status.st_mode)) {
        PyErr_SetString(PyExc_ValueError,
                        "Pipe transport is only for pipes, sockets and character devices");
        return -1;
    }
    /* A terminal gives a line at a time, and what is read may be a packet: of a socket that keeps
     * them apart, or of a pipe whose writer does (O_DIRECT). */
    *kind = is_terminal || reads ? PAC_IO_OTHER : PAC_IO_PIPE;
    PyObject *os = PyImport_ImportModule("os");
    PyObject *done =
        os == NULL ? NULL : PyObject_CallMethod(os, "set_blocking", "iO", fd, Py_False);
    Py_XDECREF(os);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
pipe_new(LoopObject *loop, PyTypeObject *type, const struct pacpy_transport_vtable *vtable,
         PyObject *const *args, Py_ssize_t nargs)
{
    enum { PIPE, PROTOCOL, WAITER, EXTRA, COUNT };
    enum pac_io_kind kind;
    bool is_fifo;
    if (nargs != COUNT) {
        PyErr_SetString(PyExc_TypeError, "a pipe transport takes 4 arguments");
        return NULL;
    }
    if (look_at(args[PIPE], vtable == &read_vtable, &kind, &is_fifo) < 0) {
        return NULL;
    }
    PyObject *transport = type->tp_alloc(type, 0);
    if (transport == NULL) {
        return NULL;
    }
    PipeTransportObject *p = (PipeTransportObject *)transport;
    p->is_fifo = is_fifo;
    p->writer.failed = "Fatal write error on pipe transport";
    p->writer.after_end = "pipe closed by peer or os.write(pipe, data) raised exception.";
    if (pacpy_transport_init(&p->base, vtable, loop, args[PIPE], args[PROTOCOL], args[WAITER],
                             args[EXTRA], NULL, kind) < 0) {
        Py_DECREF(transport);
        return NULL;
    }
    return transport;
}

PyObject *
pacpy_read_pipe_transport_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)op;
    return pipe_new(loop, loop->st->ReadPipeTransport_type, &read_vtable, args, nargs);
}

PyObject *
pacpy_write_pipe_transport_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)op;
    return pipe_new(loop, loop->st->WritePipeTransport_type, &write_vtable, args, nargs);
}
