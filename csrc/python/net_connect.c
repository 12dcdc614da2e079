/* net_connect.c - streams that are made by connecting: the operation, and the functions around it.
 *
 * An address that is written out is connected to here. A name is looked up first, by a coroutine
 * (pyasync_c/_net_open.py) that comes back with addresses, which it tries one after the other. */
#include "net.h"

#include "args.h"
#include "bridge.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

typedef struct {
    FutureObject future;
    struct pac_io_ready ready; /* once there is a stream */
    PyObject *stream;          /* that is being connected; NULL: not begun, or given out */
    struct pacpy_address peer;
    struct pacpy_address local; /* size 0: any */
    bool nodelay;
} ConnectObject;

/* ---- the operation -------------------------------------------------------------------------- */

/* Gives up the attempt: its socket is closed. */
static void
give_up(ConnectObject *self)
{
    PyObject *stream = self->stream;
    self->stream = NULL;
    if (stream != NULL) {
        pac_io_ready_drop(&self->ready);
        pacpy_socket_close((SocketObject *)stream);
        Py_DECREF(stream);
    }
}

static int
raise_failed(ConnectObject *self, int error)
{
    return pacpy_socket_raise_address(error, "could not connect to", &self->peer);
}

/* A socket of which connecting has begun: its descriptor and *connected; -1 and an exception. */
static int
begin(ConnectObject *self, bool *connected)
{
    int family = self->peer.storage.ss_family;
    int one = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return pacpy_socket_raise_errno();
    }
    if ((self->nodelay && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) ||
        (self->local.size > 0 &&
         bind(fd, (struct sockaddr *)&self->local.storage, self->local.size) < 0)) {
        pacpy_socket_raise_errno();
        close(fd);
        return -1;
    }
    int result;
    do {
        result = connect(fd, (struct sockaddr *)&self->peer.storage, self->peer.size);
    } while (result < 0 && errno == EINTR && family == AF_UNIX);
    /* An interrupted connect of TCP goes on by itself. */
    *connected = result == 0;
    if (result < 0 && errno != EINPROGRESS && errno != EINTR) {
        raise_failed(self, errno);
        close(fd);
        return -1;
    }
    return fd;
}

/* Has it come to an end? 1; 0; -1 and an exception. */
static int
look(ConnectObject *self)
{
    SocketObject *s = (SocketObject *)self->stream;
    int error = 0;
    socklen_t size = sizeof error;
    if (pacpy_socket_check(s) < 0) {
        return -1;
    }
    if (!pac_io_is_ready(&s->io, PAC_WRITABLE)) {
        return 0;
    }
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
        return pacpy_socket_raise_errno();
    }
    return error == 0 ? 1 : raise_failed(self, error);
}

static int
advance(ConnectObject *self, struct pac_context *cx)
{
    if (self->stream == NULL) {
        bool connected = false;
        int fd = begin(self, &connected);
        if (fd < 0) {
            return -1;
        }
        self->stream = pacpy_stream_new(self->future.st, NULL, fd, self->peer.storage.ss_family,
                                        connected ? PAC_WRITABLE : 0);
        if (self->stream == NULL) {
            return -1;
        }
        pac_io_ready_init(&self->ready, &((SocketObject *)self->stream)->io, PAC_WRITABLE);
    }
    for (;;) {
        int done = look(self);
        if (done != 0) {
            return done;
        }
        if (pac_io_ready_poll(&self->ready, cx) == PAC_PENDING) {
            return 0;
        }
    }
}

static int
Connect_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    ConnectObject *self = (ConnectObject *)f;
    if (!pac_budget_spend(cx)) {
        return 0;
    }
    int done = advance(self, cx);
    if (done > 0) {
        pac_io_ready_drop(&self->ready);
        *value = self->stream;
        self->stream = NULL;
        return 1;
    }
    if (done == 0) {
        pac_budget_refund();
        if (f->state == PACPY_DROPPED) {
            give_up(self); /* by something that the poll set off */
        }
        return 0;
    }
    PyObject *exc = PyErr_GetRaisedException();
    give_up(self);
    PyErr_SetRaisedException(exc);
    return -1;
}

static void
Connect_forget(FutureObject *f)
{
    if (!f->polling) {
        PyObject *exc = PyErr_GetRaisedException();
        give_up((ConnectObject *)f);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
}

static const struct pacpy_future_vtable connect_vtable = {
    .poll = Connect_poll,
    .forget = Connect_forget,
};

/* No cycle goes through a stream: never tracked. */
static int
Connect_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
Connect_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pacpy_future_fini((FutureObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(Connect_doc,
             "What connecting to an address returns. Whoever is cancelled while awaiting it has\n"
             "closed the socket; awaited again, it begins anew.");

static PyType_Slot Connect_slots[] = {
    {Py_tp_doc, (void *)Connect_doc},
    {Py_tp_traverse, Connect_traverse},
    {Py_tp_dealloc, Connect_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Connect_spec = {
    .name = "pyasync_c.net.Connect",
    .basicsize = sizeof(ConnectObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Connect_slots,
};

static ConnectObject *
connect_new(struct pacpy_state *st)
{
    PyTypeObject *type = st->NetConnect_type;
    ConnectObject *self = (ConnectObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        PyObject_GC_UnTrack(self);
        pacpy_future_init(&self->future, st, &connect_vtable);
    }
    return self;
}

/* ---- TcpStream.connect ---------------------------------------------------------------------- */

const char TcpStream_connect_doc[] =
    "connect($type, host, port, *, local_addr=None, nodelay=True)\n--\n\n"
    "Await it for a connection to `host`, an IP address or a name. A name is looked up in a thread,\n"
    "and the addresses that it has are tried one after the other, in the order of the system; the\n"
    "last one's error is raised. `local_addr`: (host, port) to connect from, host an IP address.\n"
    "`nodelay`: set TCP_NODELAY. OSError; TypeError, ValueError or OverflowError at the call.\n"
    "Cancelled, it has closed its socket. Stands for Tokio's TcpStream::connect.";

PyObject *
TcpStream_connect(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"host", "port", "local_addr", "nodelay", NULL};
    PyObject *values[4] = {NULL, NULL, Py_None, Py_True};
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    if (st == NULL || pacpy_keywords("connect", keywords, 2, 2, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    ConnectObject *self = connect_new(st);
    if (self == NULL) {
        return NULL;
    }
    int is_literal = pacpy_address_from_host(values[0], values[1], &self->peer);
    int nodelay = PyObject_IsTrue(values[3]);
    self->nodelay = nodelay > 0;
    if (is_literal < 0 || nodelay < 0 ||
        (values[2] != Py_None && pacpy_address_from_tuple(values[2], &self->local) < 0)) {
        Py_DECREF(self);
        return NULL;
    }
    if (is_literal == 0) {
        Py_DECREF(self);
        return pacpy_net_open("connect_tcp", values, 4);
    }
    if (values[2] != Py_None && self->local.storage.ss_family != self->peer.storage.ss_family) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_ValueError, "local_addr is of another family than host");
        return NULL;
    }
    return (PyObject *)self;
}

/* ---- UnixStream ----------------------------------------------------------------------------- */

const char UnixStream_connect_doc[] =
    "connect($type, path, /)\n--\n\n"
    "Await it for a connection to the Unix socket `path`: a path-like object, or str or bytes, which\n"
    "in the abstract namespace begin with a null. OSError, BlockingIOError among them if the\n"
    "listener's backlog is full; TypeError or ValueError at the call. Stands for Tokio's\n"
    "UnixStream::connect.";

PyObject *
UnixStream_connect(PyObject *type, PyObject *path)
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    ConnectObject *self = st == NULL ? NULL : connect_new(st);
    if (self != NULL && pacpy_address_from_path(path, &self->peer) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

const char UnixStream_pair_doc[] =
    "pair($type, /)\n--\n\n"
    "Two streams that are connected to each other, for the loop that runs. OSError, RuntimeError\n"
    "(no loop). Stands for Tokio's UnixStream::pair.";

PyObject *
UnixStream_pair(PyObject *type, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    int fds[2];
    if (st == NULL) {
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *a = pacpy_stream_new(st, NULL, fds[0], AF_UNIX, PAC_WRITABLE);
    if (a == NULL) {
        close(fds[1]);
        return NULL;
    }
    PyObject *b = pacpy_stream_new(st, NULL, fds[1], AF_UNIX, PAC_WRITABLE);
    if (b == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        pacpy_socket_close((SocketObject *)a);
        Py_DECREF(a);
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    return Py_BuildValue("(NN)", a, b);
}

/* ---- what looking names up needs ------------------------------------------------------------ */

PyObject *
pacpy_net_call(const char *module_name, const char *function, PyObject *const *args, size_t nargs,
               PyObject *kwnames)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *callable = module == NULL ? NULL : PyObject_GetAttrString(module, function);
    PyObject *result =
        callable == NULL ? NULL : PyObject_Vectorcall(callable, args, nargs, kwnames);
    Py_XDECREF(callable);
    Py_XDECREF(module);
    return result;
}

/* _net_connect(address, local_addr, nodelay): one attempt of those. */
static PyObject *
net_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "_net_connect() takes 3 arguments");
        return NULL;
    }
    ConnectObject *self = connect_new(pacpy_state_of(module));
    if (self == NULL) {
        return NULL;
    }
    self->nodelay = args[2] == Py_True;
    if (pacpy_address_from_tuple(args[0], &self->peer) < 0 ||
        (args[1] != Py_None && pacpy_address_from_tuple(args[1], &self->local) < 0)) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyMethodDef functions[] = {
    {"_net_connect", PACPY_FASTCALL(net_connect), "Connect to one address."},
    {NULL},
};

int
pacpy_net_connect_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Connect_spec, st->Future_type, &st->NetConnect_type, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
