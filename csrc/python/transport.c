#include "transport.h"

#include "callback_handle.h"
#include "completion.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- who holds it, and when it runs --------------------------------------------------------- */

/* The caller has a reference. */
static void
update_hold(TransportObject *t)
{
    bool works = t->loop != NULL && pac_io_is_open(&t->io) &&
                 (pacpy_transport_reads(t) || t->vtable->pending(t) > 0);
    bool hold = t->queued || t->lost_queued || works;
    if (t->loop != NULL || pac_list_is_linked(&t->held.node)) {
        pacpy_loop_hold(t->loop, &t->held, (PyObject *)t, hold);
    }
}

int
pacpy_transport_settle(TransportObject *t)
{
    int queued = 0;
    if (!t->queued && t->loop != NULL && t->started && t->vtable->wants_run(t)) {
        t->queued = true;
        queued = pacpy_loop_queue(t->loop, &t->runnable);
    }
    update_hold(t);
    return queued;
}

/* The reactor reports; or it ends, and then the loop lets go of all that it holds. */
static void
on_event(struct pac_io *io)
{
    TransportObject *t = PAC_CONTAINER_OF(io, TransportObject, io);
    if (pac_io_is_open(io) && t->started && !t->queued && t->vtable->wants_run(t)) {
        t->queued = true; /* it is held already */
        pac_run_queue_push(&t->loop->executor->scheduler.ready, &t->runnable);
    }
}

void
pacpy_transport_unwatch(TransportObject *t)
{
    if (t->loop->pid == getpid()) {
        pac_io_close(&t->io);
    }
    else if (pac_io_is_open(&t->io)) {
        pac_io_disown(&t->io); /* a fork's child shares the epoll set with its parent */
    }
    if (t->owns_fd) {
        t->owns_fd = false;
        close(t->fd);
    }
}

/* ---- the context ---------------------------------------------------------------------------- */

/* Enter the transport's context, or a copy of it if code further up this stack is in it: what was
 * entered, for leave_context, or NULL and an exception. */
static PyObject *
enter_context(TransportObject *t)
{
    PyObject *context = t->in_context ? PyContext_Copy(t->context) : Py_NewRef(t->context);
    if (context != NULL && PyContext_Enter(context) < 0) {
        Py_CLEAR(context);
    }
    if (context == t->context) {
        t->in_context = true;
    }
    return context;
}

/* Keeps the exception that is set. */
static void
leave_context(TransportObject *t, PyObject *context)
{
    PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    if (context == t->context) {
        t->in_context = false;
    }
    if (PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable((PyObject *)t);
    }
    Py_DECREF(context);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* ---- errors --------------------------------------------------------------------------------- */

static bool
leaves_loop(PyObject *exc)
{
    return PyErr_GivenExceptionMatches(exc, PyExc_SystemExit) ||
           PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt);
}

static void
raise_or_print(TransportObject *t)
{
    if (t->loop == NULL) {
        PyErr_WriteUnraisable((PyObject *)t);
    }
    else {
        pacpy_loop_raise_or_print(t->loop, (PyObject *)t);
    }
}

/* To the loop's exception handler, which may do anything. */
static void
call_exception_handler(TransportObject *t, const char *message, PyObject *exc)
{
    PyObject *done = NULL;
    LoopObject *loop = t->loop;
    if (loop == NULL) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        PyErr_WriteUnraisable((PyObject *)t);
        return;
    }
    PyObject *protocol = t->protocol == NULL ? Py_None : t->protocol;
    PyObject *context = Py_BuildValue("{s:s,s:O,s:O,s:O}", "message", message, "exception", exc,
                                      "transport", t, "protocol", protocol);
    if (context != NULL) {
        done =
            PyObject_CallMethodOneArg((PyObject *)loop, t->st->str_call_exception_handler, context);
        Py_DECREF(context);
    }
    if (done == NULL) {
        raise_or_print(t);
    }
    Py_XDECREF(done);
}

void
pacpy_transport_end_by(TransportObject *t, PyObject *exc, const char *message)
{
    if (!PyErr_GivenExceptionMatches(exc, PyExc_OSError)) {
        call_exception_handler(t, message, exc);
    }
    else if (t->loop != NULL && t->loop->debug) {
        PyObject *done = PyObject_CallMethod(t->st->asyncio_support, "log_transport_error", "OsO",
                                             t, message, exc);
        if (done == NULL) {
            raise_or_print(t);
        }
        Py_XDECREF(done);
    }
    if (pacpy_transport_force_close(t, exc) < 0) {
        raise_or_print(t);
    }
}

void
pacpy_transport_fatal(TransportObject *t, const char *message)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (t->loop != NULL && leaves_loop(exc)) {
        pacpy_loop_raise(t->loop, exc);
        return;
    }
    pacpy_transport_end_by(t, exc, message);
    Py_DECREF(exc);
}

int
pacpy_transport_fatal_to_caller(TransportObject *t, const char *message)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (leaves_loop(exc)) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    pacpy_transport_end_by(t, exc, message);
    Py_DECREF(exc);
    return 0;
}

void
pacpy_transport_report(TransportObject *t, const char *what)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (t->loop != NULL && leaves_loop(exc)) {
        pacpy_loop_raise(t->loop, exc);
        return;
    }
    PyObject *message = PyUnicode_FromFormat("Exception in callback %s of %R", what, t);
    const char *text = message == NULL ? NULL : PyUnicode_AsUTF8(message);
    if (text == NULL) {
        PyErr_Clear();
        text = "Exception in callback";
    }
    call_exception_handler(t, text, exc);
    Py_XDECREF(message);
    Py_DECREF(exc);
}

int
pacpy_transport_log(TransportObject *t, const char *format)
{
    if (t->loop == NULL || !t->loop->debug) {
        return 0;
    }
    PyObject *done = PyObject_CallMethod(t->st->asyncio_support, "log_debug", "sO", format, t);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void
pacpy_transport_note(TransportObject *t, const char *format)
{
    if (pacpy_transport_log(t, format) < 0) {
        raise_or_print(t);
    }
}

/* ---- ending --------------------------------------------------------------------------------- */

static int
queue_lost(TransportObject *t, PyObject *reason)
{
    pacpy_transport_note_end(t);
    t->lost_reason = Py_XNewRef(reason);
    t->lost_queued = true;
    int queued = pacpy_loop_queue(t->loop, &t->lost_runnable);
    update_hold(t);
    return queued;
}

int
pacpy_transport_close(TransportObject *t)
{
    if (t->closing) {
        return 0;
    }
    if (t->vtable->pending(t) == 0) {
        return queue_lost(t, NULL);
    }
    t->closing = true;
    return pacpy_transport_settle(t);
}

int
pacpy_transport_force_close(TransportObject *t, PyObject *exc)
{
    if (t->ending) {
        return 0;
    }
    t->vtable->drop_pending(t);
    return queue_lost(t, exc);
}

/* asyncio's Server counts its connections: it has been told of this one, and is told that it ends.
 * 0 or -1. */
static int
call_server(TransportObject *t, PyObject *server, const char *method)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *done = PyObject_CallMethod(server, method, "O", t);
#else
    PyObject *done = PyObject_CallMethod(server, method, NULL);
#endif
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
close_socket(TransportObject *t, PyObject *sock)
{
    PyObject *done = PyObject_CallMethodNoArgs(sock, t->st->str_close);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void
pacpy_transport_lose(TransportObject *t, PyObject *reason)
{
    if (t->sock == NULL) {
        return;
    }
    t->closing = t->ending = true;
    t->conn_lost += t->conn_lost == 0;
    if (t->protocol_connected) {
        PyObject *done =
            pacpy_transport_call(t, t->st->str_connection_lost, reason == NULL ? Py_None : reason);
        if (done == NULL) {
            pacpy_transport_report(t, "connection_lost()");
        }
        Py_XDECREF(done);
    }
    PyObject *sock = t->sock, *protocol = t->protocol, *server = t->server;
    if (sock == NULL) {
        return; /* that has let the collector clear it */
    }
    pacpy_transport_unwatch(t);
    t->sock = t->protocol = t->server = NULL;
    if (!t->vtable->is_pipe) {
        t->closed_sock = Py_NewRef(sock);
    }
    if (close_socket(t, sock) < 0) {
        pacpy_transport_report(t, "close()");
    }
    if (server != NULL && call_server(t, server, "_detach") < 0) {
        pacpy_transport_report(t, "_detach()");
    }
    t->vtable->lost(t);
    PyObject *loop = (PyObject *)t->loop;
    t->loop = NULL;
    Py_DECREF(sock);
    Py_XDECREF(protocol);
    Py_XDECREF(server);
    Py_XDECREF(loop);
}

/* ---- turns ---------------------------------------------------------------------------------- */

/* asyncio's _set_result_unless_cancelled. */
static void
tell_waiter(TransportObject *t)
{
    PyObject *waiter = t->waiter;
    if (waiter == NULL) {
        return;
    }
    t->waiter = NULL;
    PyObject *done = PyObject_CallFunctionObjArgs(t->st->asyncio_set_result, waiter, Py_None, NULL);
    if (done == NULL) {
        pacpy_transport_report(t, "connection_made()");
    }
    Py_XDECREF(done);
    Py_DECREF(waiter);
}

static void
start(TransportObject *t)
{
    t->started = true;
    if (t->protocol != NULL) {
        PyObject *done = pacpy_transport_call(t, t->st->str_connection_made, (PyObject *)t);
        if (done == NULL) {
            pacpy_transport_report(t, "connection_made()");
        }
        Py_XDECREF(done);
    }
    tell_waiter(t);
}

static void
lose_as_queued(TransportObject *t)
{
    PyObject *reason = t->lost_reason;
    t->lost_reason = NULL;
    pacpy_transport_lose(t, reason);
    Py_XDECREF(reason);
}

/* A turn of either runnable: `work`, within the transport's context. */
static void
take_turn(TransportObject *t, void (*work)(TransportObject *t))
{
    LoopObject *loop = t->loop;
    Py_INCREF(t);
    if (loop != NULL) {
        Py_INCREF(loop);
        uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
        PyObject *context = pacpy_loop_leave_task(loop) < 0 ? NULL : enter_context(t);
        if (context == NULL) {
            pacpy_loop_raise_or_print(loop, (PyObject *)t);
        }
        else {
            work(t);
            leave_context(t, context);
        }
        if (PAC_UNLIKELY(began_ns != 0)) {
            pacpy_loop_note_duration(loop, began_ns, (PyObject *)t);
        }
        Py_DECREF(loop);
    }
    if (pacpy_transport_settle(t) < 0) {
        PyErr_Clear(); /* closed meanwhile */
    }
    Py_DECREF(t);
}

static void
transport_run(struct pac_runnable *r)
{
    TransportObject *t = PAC_CONTAINER_OF(r, TransportObject, runnable);
    t->queued = false;
    if (t->started && !t->vtable->wants_run(t)) {
        /* Paused or closed since: no turn. */
        update_hold(t);
        return;
    }
    take_turn(t, t->started ? t->vtable->run : start);
}

static void
transport_lost_run(struct pac_runnable *r)
{
    TransportObject *t = PAC_CONTAINER_OF(r, TransportObject, lost_runnable);
    t->lost_queued = false;
    take_turn(t, lose_as_queued);
}

static void
transport_discard(struct pac_runnable *r)
{
    TransportObject *t = PAC_CONTAINER_OF(r, TransportObject, runnable);
    t->queued = false;
    update_hold(t);
}

static void
transport_lost_discard(struct pac_runnable *r)
{
    TransportObject *t = PAC_CONTAINER_OF(r, TransportObject, lost_runnable);
    t->lost_queued = false;
    update_hold(t);
}

static const struct pac_runnable_vtable transport_runnable_vtable = {
    .run = transport_run,
    .discard = transport_discard,
};

static const struct pac_runnable_vtable transport_lost_runnable_vtable = {
    .run = transport_lost_run,
    .discard = transport_lost_discard,
};

char *
pacpy_transport_read_buffer(TransportObject *t)
{
    return pacpy_read_buffer(t->loop, PACPY_READ_BUFFER);
}

/* ---- flow control --------------------------------------------------------------------------- */

int
pacpy_transport_maybe_pause(TransportObject *t)
{
    if (t->protocol_paused || t->vtable->pending(t) <= (size_t)t->high_water ||
        t->protocol == NULL) {
        return 0;
    }
    /* The caller may be in the transport's context, or in one that is in it. */
    PyObject *context = PyContext_Copy(t->context);
    if (context == NULL) {
        return -1;
    }
    if (PyContext_Enter(context) < 0) {
        Py_DECREF(context);
        return -1;
    }
    int result = 0;
    t->protocol_paused = true;
    PyObject *done = pacpy_transport_call(t, t->st->str_pause_writing, NULL);
    if (done == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        if (leaves_loop(exc)) {
            PyErr_SetRaisedException(exc);
            result = -1;
        }
        else {
            call_exception_handler(t, "protocol.pause_writing() failed", exc);
            Py_DECREF(exc);
        }
    }
    Py_XDECREF(done);
    leave_context(t, context);
    return result;
}

void
pacpy_transport_maybe_resume(TransportObject *t)
{
    if (!t->protocol_paused || t->vtable->pending(t) > (size_t)t->low_water ||
        t->protocol == NULL) {
        return;
    }
    t->protocol_paused = false;
    PyObject *done = pacpy_transport_call(t, t->st->str_resume_writing, NULL);
    if (done == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        if (t->loop != NULL && leaves_loop(exc)) {
            pacpy_loop_raise(t->loop, exc);
            return;
        }
        call_exception_handler(t, "protocol.resume_writing() failed", exc);
        Py_DECREF(exc);
    }
    Py_XDECREF(done);
}

PyObject *
pacpy_transport_write_to_nobody(TransportObject *t, const char *message)
{
    enum { WARN_AFTER = 5 }; /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */
    if (t->conn_lost >= WARN_AFTER) {
        PyObject *done = PyObject_CallMethod(t->st->asyncio_support, "log_warning", "s", message);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    t->conn_lost++;
    Py_RETURN_NONE;
}

/* ---- making --------------------------------------------------------------------------------- */

/* sock.getsockname() or getpeername(), under `key`; None if there is none. 0 or -1. */
static int
note_address(TransportObject *t, PyObject *key, const char *method)
{
    PyObject *address = PyObject_CallMethod(t->sock, method, NULL);
    if (address == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return -1;
        }
        PyErr_Clear();
        address = Py_NewRef(Py_None);
    }
    int set = PyDict_SetItem(t->extra, key, address);
    Py_DECREF(address);
    return set;
}

static int
take_extra(TransportObject *t, PyObject *extra)
{
    if (extra != NULL && extra != Py_None && !PyDict_Check(extra)) {
        PyErr_Format(PyExc_TypeError, "extra must be a dict, not %s", Py_TYPE(extra)->tp_name);
        return -1;
    }
    t->extra = extra == NULL || extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    if (t->extra != NULL && t->vtable->is_pipe) {
        return PyDict_SetItem(t->extra, t->st->str_pipe, t->sock);
    }
    if (t->extra == NULL || note_address(t, t->st->str_sockname, "getsockname") < 0) {
        return -1;
    }
    int has = PyDict_Contains(t->extra, t->st->str_peername);
    return has != 0 ? -(has < 0) : note_address(t, t->st->str_peername, "getpeername");
}

/* loop._remove_reader(fd), _remove_writer(fd). */
static int
forget_watchers(TransportObject *t)
{
    PyObject *reader = PyObject_CallMethod((PyObject *)t->loop, "_remove_reader", "i", t->fd);
    PyObject *writer = reader == NULL
                           ? NULL
                           : PyObject_CallMethod((PyObject *)t->loop, "_remove_writer", "i", t->fd);
    Py_XDECREF(reader);
    Py_XDECREF(writer);
    return writer == NULL ? -1 : 0;
}

static enum pac_io_kind
kind_of_stream(int fd)
{
    int family;
    socklen_t size = sizeof family;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0
               ? pac_io_kind_of_stream(family)
               : PAC_IO_OTHER;
}

int
pacpy_transport_watch(TransportObject *t, enum pac_io_kind kind)
{
    if (pacpy_loop_check_open(t->loop) < 0) {
        return -1;
    }
    if (kind == PAC_IO_SOCKET) {
        kind = kind_of_stream(t->fd);
    }
    struct pac_reactor *reactor = &t->loop->executor->reactor;
    enum pac_status status = pac_io_open(&t->io, reactor, t->fd, kind, PAC_WRITABLE);
    if (status == PAC_OS_ERROR && errno == EEXIST) {
        /* Somebody's add_reader is there still: as in asyncio, the transport takes its place. */
        if (forget_watchers(t) < 0 || pacpy_loop_check_open(t->loop) < 0) {
            return -1;
        }
        status = pac_io_open(&t->io, reactor, t->fd, kind, PAC_WRITABLE);
    }
    if (status == PAC_OS_ERROR && errno == EEXIST && t->vtable->is_pipe) {
        /* A terminal's both directions by one descriptor, which epoll takes only once. */
        int duplicate = fcntl(t->fd, F_DUPFD_CLOEXEC, 0);
        if (duplicate >= 0) {
            t->fd = duplicate;
            t->owns_fd = true;
            status = pac_io_open(&t->io, reactor, t->fd, kind, PAC_WRITABLE);
        }
    }
    t->io.on_event = on_event;
    if (status == PAC_OK) {
        return 0;
    }
    if (status == PAC_NO_MEMORY) {
        PyErr_NoMemory();
    }
    else {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return -1;
}

/* loop._transports[fd] = transport: whoever wants to add a reader is told. */
static int
note_in_loop(TransportObject *t)
{
    PyObject *transports = PyObject_GetAttr((PyObject *)t->loop, t->st->str__transports);
    PyObject *fd = transports == NULL ? NULL : PyLong_FromLong(t->fd);
    int set = fd == NULL ? -1 : PyObject_SetItem(transports, fd, (PyObject *)t);
    Py_XDECREF(fd);
    Py_XDECREF(transports);
    return set;
}

static PyObject *
new_ref_or_null(PyObject *op)
{
    return op == NULL || op == Py_None ? NULL : Py_NewRef(op);
}

static int
take_on(TransportObject *t, PyObject *extra, PyObject *server, enum pac_io_kind kind)
{
    t->fd = PyObject_AsFileDescriptor(t->sock);
    if (t->fd < 0 || take_extra(t, extra) < 0) {
        return -1;
    }
    t->context = PyContext_CopyCurrent();
    if (t->context == NULL || pacpy_transport_watch(t, kind) < 0) {
        return -1;
    }
    if ((!t->vtable->is_pipe && note_in_loop(t) < 0) ||
        (server != NULL && server != Py_None && call_server(t, server, "_attach") < 0)) {
        return -1;
    }
    t->server = new_ref_or_null(server);
    t->queued = true;
    if (pacpy_loop_queue(t->loop, &t->runnable) < 0) {
        return -1;
    }
    update_hold(t);
    return 0;
}

int
pacpy_transport_init(TransportObject *t, const struct pacpy_transport_vtable *vtable,
                     LoopObject *loop, PyObject *sock, PyObject *protocol, PyObject *waiter,
                     PyObject *extra, PyObject *server, enum pac_io_kind kind)
{
    t->vtable = vtable;
    t->st = loop->st;
    t->loop = (LoopObject *)Py_NewRef(loop);
    t->sock = Py_NewRef(sock);
    t->protocol = Py_NewRef(protocol);
    t->protocol_connected = true;
    t->waiter = new_ref_or_null(waiter);
    t->runnable.vtable = &transport_runnable_vtable;
    t->lost_runnable.vtable = &transport_lost_runnable_vtable;
    t->high_water = PACPY_HIGH_WATER;
    t->low_water = PACPY_HIGH_WATER / 4;
    t->fd = -1;
    if (take_on(t, extra, server, kind) < 0) {
        /* The socket stays the caller's. */
        PyObject *error = PyErr_GetRaisedException();
        pacpy_transport_unwatch(t);
        if (t->server != NULL && call_server(t, t->server, "_detach") < 0) {
            PyErr_WriteUnraisable((PyObject *)t);
        }
        Py_CLEAR(t->server);
        Py_CLEAR(t->sock);
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

/* ---- the collector -------------------------------------------------------------------------- */

int
pacpy_transport_traverse(PyObject *op, visitproc visit, void *arg)
{
    TransportObject *t = (TransportObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(t->dict);
    Py_VISIT(t->loop);
    Py_VISIT(t->sock);
    Py_VISIT(t->protocol);
    Py_VISIT(t->server);
    Py_VISIT(t->closed_sock);
    Py_VISIT(t->extra);
    Py_VISIT(t->context);
    Py_VISIT(t->waiter);
    Py_VISIT(t->lost_reason);
    return 0;
}

/* The collector calls this for what was held by nothing but garbage, the loop perhaps among it. */
int
pacpy_transport_clear(PyObject *op)
{
    TransportObject *t = (TransportObject *)op;
    if (t->loop != NULL) {
        pacpy_transport_unwatch(t);
    }
    pacpy_transport_note_end(t);
    Py_CLEAR(t->dict);
    Py_CLEAR(t->sock);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->server);
    Py_CLEAR(t->closed_sock);
    Py_CLEAR(t->waiter);
    Py_CLEAR(t->lost_reason);
    return 0;
}

void
pacpy_transport_finalize(PyObject *op)
{
    TransportObject *t = (TransportObject *)op;
    if (t->sock == NULL) {
        return;
    }
    PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        PyErr_WriteUnraisable(op);
    }
    if (t->loop != NULL) {
        pacpy_transport_unwatch(t);
    }
    PyObject *sock = t->sock, *server = t->server;
    pacpy_transport_note_end(t);
    t->sock = t->server = NULL;
    if (sock != NULL && close_socket(t, sock) < 0) {
        PyErr_WriteUnraisable(op);
    }
    if (server != NULL && call_server(t, server, "_detach") < 0) {
        PyErr_WriteUnraisable(op);
    }
    Py_XDECREF(sock);
    Py_XDECREF(server);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

bool
pacpy_transport_destroy(PyObject *op)
{
    TransportObject *t = (TransportObject *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return false;
    }
    PyObject_GC_UnTrack(op);
    pacpy_clear_weakrefs(op);
    PAC_ASSERT(!pac_list_is_linked(&t->held.node));
    pacpy_transport_clear(op);
    Py_CLEAR(t->extra);
    Py_CLEAR(t->context);
    Py_CLEAR(t->loop);
    return true;
}
