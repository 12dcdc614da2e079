/* net_listener.c - TcpListener and UnixListener: what connections come from.
 *
 * Any number of tasks may accept from one listener. A connection is the kernel's until the poll
 * that gives it out, so cancelling loses none. */
#include "net.h"

#include "args.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

/* ---- Accept --------------------------------------------------------------------------------- */

/* These are of the connection that came, not of the listener: it has gone again. */
static bool
is_of_the_connection(int error)
{
    switch (error) {
        case ECONNABORTED:
        case ENETDOWN:
        case EPROTO:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case ENETUNREACH:
            return true;
        default:
            return false;
    }
}

/* 1 and *fd; 0; -1 and an exception. */
static int
accept_one(SocketObject *s, int *fd, struct pacpy_address *address)
{
    for (;;) {
        uint32_t tick;
        enum pac_status status = pac_io_begin(&s->io, PAC_READABLE, &tick);
        if (status == PAC_OK) {
            address->size = sizeof address->storage;
            *fd = accept4(s->fd, (struct sockaddr *)&address->storage, &address->size,
                          SOCK_NONBLOCK | SOCK_CLOEXEC);
            status = pac_io_end(&s->io, PAC_READABLE, tick, *fd, 0);
        }
        if (status == PAC_OK) {
            return 1;
        }
        if (status == PAC_WOULD_BLOCK) {
            return 0;
        }
        if (status != PAC_INTERRUPTED && !is_of_the_connection(errno)) {
            return pacpy_socket_raise_errno();
        }
    }
}

static PyObject *
accepted(SocketObject *s, int fd, const struct pacpy_address *address)
{
    PyObject *stream = pacpy_stream_new(s->st, s, fd, s->family, PAC_READABLE | PAC_WRITABLE);
    if (stream == NULL) {
        return NULL;
    }
    PyObject *where = pacpy_address_to_object(address);
    PyObject *pair = where == NULL ? NULL : PyTuple_Pack(2, stream, where);
    Py_XDECREF(where);
    if (pair == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        pacpy_socket_close((SocketObject *)stream);
        PyErr_SetRaisedException(exc);
    }
    Py_DECREF(stream);
    return pair;
}

static int
Accept_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    OperationObject *self = (OperationObject *)f;
    SocketObject *s = self->socket;
    if (PAC_UNLIKELY(pacpy_socket_check(s) < 0)) {
        pac_io_ready_drop(&self->ready);
        return -1;
    }
    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return 0;
    }
    for (;;) {
        struct pacpy_address address;
        int fd = -1;
        int done = accept_one(s, &fd, &address);
        if (done != 0) {
            pac_io_ready_drop(&self->ready);
        }
        if (done > 0) {
            *value = accepted(s, fd, &address);
            return *value == NULL ? -1 : 1;
        }
        if (done < 0) {
            return -1;
        }
        if (!pacpy_operation_wait(self, cx)) {
            return 0;
        }
    }
}

static void
Accept_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_io_ready_drop(&((OperationObject *)f)->ready);
    }
}

static const struct pacpy_future_vtable accept_vtable = {
    .poll = Accept_poll,
    .forget = Accept_forget,
};

/* No cycle goes through a listener: never tracked. */
static int
Accept_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
Accept_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    OperationObject *self = (OperationObject *)op;
    struct pacpy_state *st = self->future.st;
    SocketObject *socket = self->socket;
    pacpy_future_fini(&self->future);
    self->socket = NULL;
    pacpy_freelist_free(&st->net_accept_free, st->NetAccept_type, op);
    Py_DECREF(socket);
}

PyDoc_STRVAR(Accept_doc, "What accept() and `async for` of a listener await. Whoever is cancelled\n"
                         "while awaiting it has lost no connection.");

static PyType_Slot Accept_slots[] = {
    {Py_tp_doc, (void *)Accept_doc},
    {Py_tp_traverse, Accept_traverse},
    {Py_tp_dealloc, Accept_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Accept_spec = {
    .name = "pyasync_c.net.Accept",
    .basicsize = sizeof(OperationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Accept_slots,
};

static PyObject *
accept_new(PyObject *op)
{
    SocketObject *s = (SocketObject *)op;
    struct pacpy_state *st = s->st;
    PyObject *self = pacpy_freelist_alloc(&st->net_accept_free, st->NetAccept_type);
    if (self != NULL) {
        pacpy_operation_init((OperationObject *)self, s, &accept_vtable, PAC_READABLE);
    }
    return self;
}

static const char Listener_accept_doc[] =
    "accept($self, /)\n--\n\n"
    "Await it for the next connection: (stream, address of the other side). OSError, of which those\n"
    "of a lack of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM) leave the connection in\n"
    "the listener's backlog: wait a little, and accept again. Any number of tasks may accept.\n"
    "Cancelled, it has lost no connection. Stands for Tokio's accept.";

static PyObject *
Listener_accept(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return accept_new(op);
}

/* ---- making --------------------------------------------------------------------------------- */

enum { BACKLOG_DEFAULT = 1024, BACKLOG_MAX = 2147483647 };

struct listening {
    int backlog;
    int reuse_address, reuse_port, nodelay;
};

static int
prepare(int fd, const struct pacpy_address *address, const struct listening *how)
{
    int one = 1;
    int family = address->storage.ss_family;
    if (how->reuse_address && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0) {
        return -1;
    }
    if (how->reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0) {
        return -1;
    }
    /* The connections inherit it, so that it costs no call for each of them. */
    if (how->nodelay && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) {
        return -1;
    }
    /* As asyncio has it: IPv4 has a listener of its own. */
    if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0) {
        return -1;
    }
    if (bind(fd, (const struct sockaddr *)&address->storage, address->size) < 0) {
        return -1;
    }
    return listen(fd, how->backlog);
}

static PyObject *
listener_new(struct pacpy_state *st, PyTypeObject *type, const struct pacpy_address *address,
             const struct listening *how)
{
    int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (prepare(fd, address, how) < 0) {
        pacpy_socket_raise_address(errno, "could not listen on", address);
        close(fd);
        return NULL;
    }
    return (PyObject *)pacpy_socket_new(st, type, NULL, fd, PAC_IO_OTHER, PAC_READABLE);
}

static int
backlog_argument(PyObject *op, int *backlog)
{
    uint64_t count;
    if (pacpy_count_from_object(op, "backlog", 1, BACKLOG_MAX, &count) < 0) {
        return -1;
    }
    *backlog = (int)count;
    return 0;
}

static int
flag_argument(PyObject *op, int *flag)
{
    *flag = PyObject_IsTrue(op);
    return *flag < 0 ? -1 : 0;
}

static const char TcpListener_bind_doc[] =
    "bind($type, host, port, *, backlog=1024, reuse_address=True, reuse_port=False, nodelay=True)\n"
    "--\n\n"
    "Await it for a listener on `host`, an IP address or a name, for the loop that runs; port 0 for\n"
    "one that the system chooses (see local_addr). Of a name the first address that can be bound is\n"
    "used. An IPv6 listener takes no IPv4 connections. `nodelay`: the connections have TCP_NODELAY\n"
    "set. OSError; TypeError, ValueError or OverflowError at the call. Stands for Tokio's\n"
    "TcpListener::bind.";

static PyObject *
TcpListener_bind(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"host",       "port",    "backlog", "reuse_address",
                                           "reuse_port", "nodelay", NULL};
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    PyObject *values[6] = {NULL, NULL, NULL, Py_True, Py_False, Py_True};
    struct pacpy_address address;
    struct listening how = {.backlog = BACKLOG_DEFAULT};
    if (st == NULL || pacpy_keywords("bind", keywords, 2, 2, args, nargs, kwnames, values) < 0 ||
        pacpy_address_from_host(values[0], values[1], &address) < 0 ||
        (values[2] != NULL && backlog_argument(values[2], &how.backlog) < 0) ||
        flag_argument(values[3], &how.reuse_address) < 0 ||
        flag_argument(values[4], &how.reuse_port) < 0 ||
        flag_argument(values[5], &how.nodelay) < 0) {
        return NULL;
    }
    PyObject *options =
        Py_BuildValue("(iiii)", how.backlog, how.reuse_address, how.reuse_port, how.nodelay);
    if (options == NULL) {
        return NULL;
    }
    PyObject *passed[3] = {values[0], values[1], options};
    PyObject *opening = pacpy_net_open("bind_tcp", passed, 3);
    Py_DECREF(options);
    return opening;
}

/* _net_listen(address, options): a listener on an address that is written out. */
static PyObject *
net_listen(PyObject *module, PyObject *args)
{
    struct pacpy_state *st = pacpy_state_of(module);
    struct pacpy_address address;
    struct listening how;
    PyObject *tuple;
    if (!PyArg_ParseTuple(args, "O(iiii)", &tuple, &how.backlog, &how.reuse_address,
                          &how.reuse_port, &how.nodelay) ||
        pacpy_address_from_tuple(tuple, &address) < 0) {
        return NULL;
    }
    return listener_new(st, st->TcpListener_type, &address, &how);
}

static const char UnixListener_bind_doc[] =
    "bind($type, path, *, backlog=1024)\n--\n\n"
    "A listener on the Unix socket `path`, which must not be there yet, for the loop that runs: a\n"
    "path-like object, or str or bytes, which in the abstract namespace begin with a null. Closing it\n"
    "leaves the path where it is. Not awaited, as there is nothing to wait for. OSError; TypeError,\n"
    "ValueError, RuntimeError (no loop). Stands for Tokio's UnixListener::bind.";

static PyObject *
UnixListener_bind(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"path", "backlog", NULL};
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    PyObject *values[2] = {NULL, NULL};
    struct pacpy_address address;
    struct listening how = {.backlog = BACKLOG_DEFAULT};
    if (st == NULL || pacpy_keywords("bind", keywords, 1, 1, args, nargs, kwnames, values) < 0 ||
        (values[1] != NULL && backlog_argument(values[1], &how.backlog) < 0) ||
        pacpy_address_from_path(values[0], &address) < 0) {
        return NULL;
    }
    return listener_new(st, (PyTypeObject *)type, &address, &how);
}

static const char Listener_from_socket_doc[] =
    "from_socket($type, sock, /)\n--\n\n"
    "A listener of a socket.socket that listens already, which is detached: the descriptor is the\n"
    "listener's, and non-blocking, from now on. For the loop that runs. TypeError, ValueError\n"
    "(another kind of socket), RuntimeError (no loop), and then `sock` stays as it is.";

static PyObject *
Listener_from_socket(PyObject *type, PyObject *sock)
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    if (st == NULL) {
        return NULL;
    }
    return (PyObject *)pacpy_socket_from_object(
        st, (PyTypeObject *)type, sock, SOCK_STREAM, true,
        type == (PyObject *)st->UnixListener_type ? pacpy_is_unix : pacpy_is_ip, PAC_IO_OTHER,
        PAC_READABLE);
}

/* ---- the types ------------------------------------------------------------------------------ */

#define LISTENER_METHODS                                                                   \
    {"accept", Listener_accept, METH_NOARGS, Listener_accept_doc}, PACPY_SOCKET_METHODS,   \
    {                                                                                      \
        "from_socket", Listener_from_socket, METH_O | METH_CLASS, Listener_from_socket_doc \
    }

static PyMethodDef TcpListener_methods[] = {
    {"bind", PACPY_KEYWORDS(TcpListener_bind) | METH_CLASS, TcpListener_bind_doc},
    LISTENER_METHODS,
    {NULL},
};

static PyMethodDef UnixListener_methods[] = {
    {"bind", PACPY_KEYWORDS(UnixListener_bind) | METH_CLASS, UnixListener_bind_doc},
    LISTENER_METHODS,
    {NULL},
};

static PyGetSetDef Listener_getset[] = {
    PACPY_SOCKET_GETSET,
    {NULL},
};

static PyMemberDef Listener_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SocketObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(TcpListener_doc,
             "A TCP socket that listens.\n\n"
             "    async with await TcpListener.bind(\"localhost\", 8080) as listener:\n"
             "        async for stream, address in listener:\n"
             "            tasks.spawn(serve(stream))\n\n"
             "Belongs to the loop on which it was made. Stands for Tokio's TcpListener.");

PyDoc_STRVAR(UnixListener_doc,
             "A Unix socket that listens: as TcpListener. Stands for Tokio's UnixListener.");

#define LISTENER_SLOTS                                                                      \
    PACPY_SOCKET_SLOTS, {Py_tp_getset, Listener_getset}, {Py_tp_members, Listener_members}, \
        {Py_am_aiter, PyObject_SelfIter},                                                   \
    {                                                                                       \
        Py_am_anext, accept_new                                                             \
    }

static PyType_Slot TcpListener_slots[] = {
    {Py_tp_doc, (void *)TcpListener_doc},
    {Py_tp_methods, TcpListener_methods},
    LISTENER_SLOTS,
    {0, NULL},
};

static PyType_Slot UnixListener_slots[] = {
    {Py_tp_doc, (void *)UnixListener_doc},
    {Py_tp_methods, UnixListener_methods},
    LISTENER_SLOTS,
    {0, NULL},
};

static PyType_Spec TcpListener_spec = {
    .name = "pyasync_c.net.TcpListener",
    .basicsize = sizeof(SocketObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = TcpListener_slots,
};

static PyType_Spec UnixListener_spec = {
    .name = "pyasync_c.net.UnixListener",
    .basicsize = sizeof(SocketObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = UnixListener_slots,
};

static PyMethodDef functions[] = {
    {"_net_listen", net_listen, METH_VARARGS, "Listen on one address."},
    {NULL},
};

int
pacpy_net_listener_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &TcpListener_spec, NULL, &st->TcpListener_type, "TcpListener") <
            0 ||
        pacpy_make_type(module, &UnixListener_spec, NULL, &st->UnixListener_type, "UnixListener") <
            0 ||
        pacpy_make_type(module, &Accept_spec, st->Future_type, &st->NetAccept_type, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
