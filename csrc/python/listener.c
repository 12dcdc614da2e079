/* listener.c - accepting.
 *
 * A turn accepts what is there, up to the backlog, and leaves the rest for a later one. When the
 * system is out of descriptors or memory, the queue of connections stays as it is and no edge will
 * tell of it again: the listener pauses, as asyncio's does for a second, and tries anew by itself. */
#include "listener.h"

#include "callback_handle.h"
#include "net_address.h"
#include "stream_transport.h"

#include "../core/io.h"

#include <errno.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    LoopObject *loop;
    PyObject *sock; /* NULL: closed */
    PyObject *protocol_factory;
    PyObject *server;
    PyObject *accept; /* or NULL */
    PyObject *context;
    PyObject *kind[3]; /* family, type, protocol of the socket, and of its connections */
    struct pac_io io;
    struct pac_runnable runnable;
    struct pacpy_held held;
    Py_ssize_t backlog;
    bool queued;
    bool paused; /* out of resources */
} ListenerObject;

/* ---- turns ---------------------------------------------------------------------------------- */

static bool
wants_run(const ListenerObject *l)
{
    return !l->paused && pac_io_is_open(&l->io) && pac_io_is_ready(&l->io, PAC_READABLE);
}

static void
update_hold(ListenerObject *l)
{
    pacpy_loop_hold(l->loop, &l->held, (PyObject *)l, l->queued || pac_io_is_open(&l->io));
}

static void
settle(ListenerObject *l)
{
    if (!l->queued && wants_run(l)) {
        l->queued = true;
        if (pacpy_loop_queue(l->loop, &l->runnable) < 0) {
            PyErr_Clear(); /* closed */
        }
    }
    update_hold(l);
}

static void
on_event(struct pac_io *io)
{
    ListenerObject *l = PAC_CONTAINER_OF(io, ListenerObject, io);
    if (!l->queued && wants_run(l)) {
        l->queued = true; /* it is held already */
        pac_run_queue_push(&l->loop->executor->scheduler.ready, &l->runnable);
    }
}

static void
close_io(ListenerObject *l)
{
    if (pac_io_is_open(&l->io)) {
        if (l->loop->pid == getpid()) {
            pac_io_close(&l->io);
        }
        else {
            pac_io_disown(&l->io); /* a fork's child shares the epoll set with its parent */
        }
    }
}

/* ---- connections ---------------------------------------------------------------------------- */

/* The exception that is set: SystemExit and KeyboardInterrupt leave the loop, the rest is what
 * asyncio says of it, and to whom. */
static void
report(ListenerObject *l, const char *function, PyObject *argument)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(exc, PyExc_SystemExit) ||
        PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt)) {
        pacpy_loop_raise(l->loop, exc);
        return;
    }
    PyObject *done = PyObject_CallMethod(l->st->asyncio_support, function, "OOO", l->loop, exc,
                                         argument == NULL ? Py_None : argument);
    Py_DECREF(exc);
    if (done == NULL) {
        pacpy_loop_raise_or_print(l->loop, (PyObject *)l);
    }
    Py_XDECREF(done);
}

/* A socket object for the descriptor, which it owns then: NULL and an exception. */
static PyObject *
socket_of(ListenerObject *l, int fd)
{
    PyObject *number = PyLong_FromLong(fd);
    PyObject *conn = number == NULL
                         ? NULL
                         : PyObject_CallFunctionObjArgs(l->st->asyncio_socket, l->kind[0],
                                                        l->kind[1], l->kind[2], number, NULL);
    Py_XDECREF(number);
    if (conn == NULL) {
        close(fd);
        return NULL;
    }
    PyObject *done = PyObject_CallMethodOneArg(conn, l->st->str_setblocking, Py_False);
    if (done == NULL) {
        Py_CLEAR(conn);
    }
    Py_XDECREF(done);
    return conn;
}

/* A protocol and a transport for `conn`, which comes from `where`: 0, or -1 and an exception. The
 * connection may have ended meanwhile, so that the socket could not tell any more. */
static int
make_transport(ListenerObject *l, PyObject *conn, PyObject *where, PyObject **protocol)
{
    *protocol = PyObject_CallNoArgs(l->protocol_factory);
    PyObject *extra = *protocol == NULL  ? NULL
                      : where == Py_None ? Py_NewRef(Py_None)
                                         : Py_BuildValue("{OO}", l->st->str_peername, where);
    if (extra == NULL) {
        return -1;
    }
    PyObject *args[] = {conn, *protocol, Py_None, extra, l->server};
    PyObject *transport = pacpy_stream_transport_new((PyObject *)l->loop, args, 5);
    Py_DECREF(extra);
    Py_XDECREF(transport);
    return transport == NULL ? -1 : 0;
}

static void
serve(ListenerObject *l, PyObject *conn, PyObject *where)
{
    PyObject *protocol = NULL;
    int served;
    if (PAC_UNLIKELY(l->loop->debug)) {
        PyObject *done = PyObject_CallMethod(l->st->asyncio_support, "log_connection", "OOO",
                                             l->server, where, conn);
        if (done == NULL) {
            pacpy_loop_raise_or_print(l->loop, (PyObject *)l);
        }
        Py_XDECREF(done);
    }
    if (l->accept != NULL) {
        PyObject *done = PyObject_CallFunctionObjArgs(l->accept, conn, where, NULL);
        served = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    else {
        served = make_transport(l, conn, where, &protocol);
    }
    if (served < 0) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *closed = PyObject_CallMethodNoArgs(conn, l->st->str_close);
        if (closed == NULL) {
            PyErr_WriteUnraisable(conn);
        }
        Py_XDECREF(closed);
        PyErr_SetRaisedException(error);
        report(l, "report_transport_creation", protocol);
    }
    Py_XDECREF(protocol);
}

/* accept() has failed: no connection that was there is lost by that, so it tries again later. */
static void
accept_failed(ListenerObject *l)
{
    if (errno == ECONNABORTED) {
        return;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    report(l, "report_accept", l->sock);
    PyObject *resume = PyObject_GetAttrString((PyObject *)l, "_resume");
    PyObject *timer = resume == NULL ? NULL
                                     : PyObject_CallMethod(l->st->asyncio_support, "accept_later",
                                                           "OO", l->loop, resume);
    l->paused = timer != NULL;
    if (timer == NULL) {
        pacpy_loop_raise_or_print(l->loop, (PyObject *)l);
    }
    Py_XDECREF(timer);
    Py_XDECREF(resume);
}

static void
accept_batch(ListenerObject *l)
{
    for (Py_ssize_t i = 0; i < l->backlog && wants_run(l); i++) {
        int fd;
        struct pacpy_address address = {.size = sizeof address.storage};
        enum pac_status status =
            pac_io_accept(&l->io, &fd, (struct sockaddr *)&address.storage, &address.size);
        if (status == PAC_OS_ERROR) {
            accept_failed(l);
        }
        if (status != PAC_OK) {
            return;
        }
        PyObject *conn = socket_of(l, fd);
        PyObject *where = conn == NULL ? NULL : pacpy_address_to_object(&address);
        if (where == NULL) {
            report(l, "report_transport_creation", NULL);
            Py_XDECREF(conn);
            continue;
        }
        serve(l, conn, where);
        Py_DECREF(conn);
        Py_DECREF(where);
        if (l->loop->executor == NULL || l->loop->executor->interrupted) {
            return;
        }
    }
}

static void
listener_run(struct pac_runnable *r)
{
    ListenerObject *l = PAC_CONTAINER_OF(r, ListenerObject, runnable);
    LoopObject *loop = l->loop;
    Py_INCREF(l);
    l->queued = false;
    if (wants_run(l)) {
        uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
        /* It may be in it further up this stack, within a turn of compatible mode. */
        PyObject *context = PyContext_Copy(l->context);
        if (context == NULL || pacpy_loop_leave_task(loop) < 0 || PyContext_Enter(context) < 0) {
            pacpy_loop_raise_or_print(loop, (PyObject *)l);
        }
        else {
            accept_batch(l);
            if (PyContext_Exit(context) < 0) {
                PyErr_WriteUnraisable((PyObject *)l);
            }
        }
        Py_XDECREF(context);
        if (PAC_UNLIKELY(began_ns != 0)) {
            pacpy_loop_note_duration(loop, began_ns, (PyObject *)l);
        }
    }
    settle(l);
    Py_DECREF(l);
}

static void
listener_discard(struct pac_runnable *r)
{
    ListenerObject *l = PAC_CONTAINER_OF(r, ListenerObject, runnable);
    l->queued = false;
    update_hold(l);
}

static const struct pac_runnable_vtable listener_runnable_vtable = {
    .run = listener_run,
    .discard = listener_discard,
};

/* ---- the type ------------------------------------------------------------------------------- */

static PyObject *
Listener_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ListenerObject *l = (ListenerObject *)op;
    Py_INCREF(l);
    close_io(l);
    update_hold(l);
    Py_CLEAR(l->sock);
    Py_DECREF(l);
    Py_RETURN_NONE;
}

static PyObject *
Listener_resume(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ListenerObject *l = (ListenerObject *)op;
    l->paused = false;
    settle(l);
    Py_RETURN_NONE;
}

static int
Listener_traverse(PyObject *op, visitproc visit, void *arg)
{
    ListenerObject *l = (ListenerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(l->loop);
    Py_VISIT(l->sock);
    Py_VISIT(l->protocol_factory);
    Py_VISIT(l->server);
    Py_VISIT(l->accept);
    Py_VISIT(l->context);
    for (int i = 0; i < 3; i++) {
        Py_VISIT(l->kind[i]);
    }
    return 0;
}

static int
Listener_clear(PyObject *op)
{
    ListenerObject *l = (ListenerObject *)op;
    if (l->loop != NULL) {
        close_io(l);
    }
    Py_CLEAR(l->sock);
    Py_CLEAR(l->protocol_factory);
    Py_CLEAR(l->server);
    Py_CLEAR(l->accept);
    return 0;
}

static void
Listener_dealloc(PyObject *op)
{
    ListenerObject *l = (ListenerObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Listener_clear(op);
    Py_CLEAR(l->context);
    Py_CLEAR(l->loop);
    for (int i = 0; i < 3; i++) {
        Py_CLEAR(l->kind[i]);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef Listener_methods[] = {
    {"close", Listener_close, METH_NOARGS, "Accept no more. Twice is a no-op."},
    {"_resume", Listener_resume, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot Listener_slots[] = {
    {Py_tp_doc, "A listening socket of a pyasync_c loop."},
    {Py_tp_traverse, Listener_traverse},
    {Py_tp_clear, Listener_clear},
    {Py_tp_dealloc, Listener_dealloc},
    {Py_tp_methods, Listener_methods},
    {0, NULL},
};

static PyType_Spec Listener_spec = {
    .name = "pyasync_c._core.Listener",
    .basicsize = sizeof(ListenerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Listener_slots,
};

int
pacpy_listener_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Listener_spec, NULL, &st->Listener_type, NULL);
}

/* ---- making one ----------------------------------------------------------------------------- */

static int
learn_kind(ListenerObject *l)
{
    static const char *const names[] = {"family", "type", "proto"};
    for (int i = 0; i < 3; i++) {
        l->kind[i] = PyObject_GetAttrString(l->sock, names[i]);
        if (l->kind[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
begin(ListenerObject *l)
{
    int fd = PyObject_AsFileDescriptor(l->sock);
    if (fd < 0 || pacpy_loop_check_open(l->loop) < 0 || learn_kind(l) < 0) {
        return -1;
    }
    l->context = PyContext_CopyCurrent();
    if (l->context == NULL) {
        return -1;
    }
    enum pac_status status = pac_io_open(&l->io, &l->loop->executor->reactor, fd, PAC_IO_SOCKET, 0);
    if (status == PAC_NO_MEMORY) {
        PyErr_NoMemory();
    }
    else if (status != PAC_OK) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    l->io.on_event = on_event;
    update_hold(l);
    return status == PAC_OK ? 0 : -1;
}

PyObject *
pacpy_listener_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)op;
    enum { SOCK, FACTORY, SERVER, BACKLOG, ACCEPT, COUNT };
    if (nargs != COUNT) {
        PyErr_SetString(PyExc_TypeError, "_listen() takes 5 arguments");
        return NULL;
    }
    Py_ssize_t backlog = PyNumber_AsSsize_t(args[BACKLOG], PyExc_OverflowError);
    if (backlog == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyTypeObject *type = loop->st->Listener_type;
    PyObject *listener = type->tp_alloc(type, 0);
    if (listener == NULL) {
        return NULL;
    }
    ListenerObject *l = (ListenerObject *)listener;
    l->st = loop->st;
    l->loop = (LoopObject *)Py_NewRef(loop);
    l->sock = Py_NewRef(args[SOCK]);
    l->protocol_factory = Py_NewRef(args[FACTORY]);
    l->server = Py_NewRef(args[SERVER]);
    l->accept = args[ACCEPT] == Py_None ? NULL : Py_NewRef(args[ACCEPT]);
    l->backlog = backlog < 1 ? 1 : backlog;
    l->runnable.vtable = &listener_runnable_vtable;
    if (begin(l) < 0) {
        Py_DECREF(listener);
        return NULL;
    }
    return listener;
}
