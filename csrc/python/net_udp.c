/* net_udp.c - UdpSocket: datagrams.
 *
 * Any number of tasks may send and receive: a datagram is whole, and is the kernel's until the poll
 * that gives it out, or still the sender's until the poll that sends it. */
#include "net.h"

#include "args.h"

#include <errno.h>
#include <unistd.h>

enum { DATAGRAM_MAX = 65536 };

struct pacpy_datagram;

typedef int datagram_step(struct pacpy_datagram *self, SocketObject *s, PyObject **value);

typedef struct pacpy_datagram {
    OperationObject base;
    datagram_step *step;
    size_t wanted;                /* to receive, at most */
    PyObject *data;               /* bytes to send, or NULL */
    struct pacpy_address address; /* where to; size 0: where it is connected to */
} DatagramObject;

/* ---- the operation -------------------------------------------------------------------------- */

static int
Datagram_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    DatagramObject *self = (DatagramObject *)f;
    SocketObject *s = self->base.socket;
    if (PAC_UNLIKELY(pacpy_socket_check(s) < 0)) {
        pac_io_ready_drop(&self->base.ready);
        return -1;
    }
    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return 0;
    }
    for (;;) {
        int done = self->step(self, s, value);
        if (done != 0) {
            pac_io_ready_drop(&self->base.ready);
            return done;
        }
        if (!pacpy_operation_wait(&self->base, cx)) {
            return 0;
        }
    }
}

static void
Datagram_forget(FutureObject *f)
{
    if (!f->polling) {
        pac_io_ready_drop(&((OperationObject *)f)->ready);
    }
}

static const struct pacpy_future_vtable datagram_vtable = {
    .poll = Datagram_poll,
    .forget = Datagram_forget,
};

/* No cycle goes through a socket or bytes: never tracked. */
static int
Datagram_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
Datagram_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    DatagramObject *self = (DatagramObject *)op;
    struct pacpy_state *st = self->base.future.st;
    SocketObject *socket = self->base.socket;
    pacpy_future_fini(&self->base.future);
    self->base.socket = NULL;
    Py_CLEAR(self->data);
    pacpy_freelist_free(&st->net_datagram_free, st->NetDatagram_type, op);
    Py_DECREF(socket);
}

PyDoc_STRVAR(
    Datagram_doc,
    "What the methods of a UdpSocket return. Whoever is cancelled while awaiting it has sent\n"
    "or taken no datagram, and it may be awaited again.");

static PyType_Slot Datagram_slots[] = {
    {Py_tp_doc, (void *)Datagram_doc},
    {Py_tp_traverse, Datagram_traverse},
    {Py_tp_dealloc, Datagram_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Datagram_spec = {
    .name = "pyasync_c.net.Datagram",
    .basicsize = sizeof(DatagramObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Datagram_slots,
};

static DatagramObject *
datagram_new(PyObject *op, datagram_step *step, unsigned direction)
{
    SocketObject *s = (SocketObject *)op;
    struct pacpy_state *st = s->st;
    DatagramObject *self =
        (DatagramObject *)pacpy_freelist_alloc(&st->net_datagram_free, st->NetDatagram_type);
    if (self != NULL) {
        pacpy_operation_init(&self->base, s, &datagram_vtable, direction);
        self->step = step;
        self->wanted = DATAGRAM_MAX;
        self->data = NULL;
        self->address.size = 0;
    }
    return self;
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* 1 and a datagram; 0; -1. `address` NULL: whose it is does not matter. */
static int
receive(DatagramObject *self, SocketObject *s, struct pacpy_address *address, PyObject **data)
{
    char scratch[DATAGRAM_MAX];
    for (;;) {
        uint32_t tick;
        ssize_t count = 0;
        enum pac_status status = pac_io_begin(&s->io, PAC_READABLE, &tick);
        if (status == PAC_OK) {
            if (address == NULL) {
                count = recv(s->fd, scratch, self->wanted, 0);
            }
            else {
                address->size = sizeof address->storage;
                count = recvfrom(s->fd, scratch, self->wanted, 0,
                                 (struct sockaddr *)&address->storage, &address->size);
            }
            status = pac_io_end(&s->io, PAC_READABLE, tick, count, 0);
        }
        if (status == PAC_OK) {
            *data = PyBytes_FromStringAndSize(scratch, count);
            return *data == NULL ? -1 : 1;
        }
        if (status == PAC_WOULD_BLOCK) {
            return 0;
        }
        if (status != PAC_INTERRUPTED) {
            return pacpy_socket_raise_errno();
        }
    }
}

static int
step_recv(DatagramObject *self, SocketObject *s, PyObject **value)
{
    return receive(self, s, NULL, value);
}

static int
step_recv_from(DatagramObject *self, SocketObject *s, PyObject **value)
{
    struct pacpy_address address;
    PyObject *data;
    int done = receive(self, s, &address, &data);
    if (done <= 0) {
        return done;
    }
    PyObject *from = pacpy_address_to_object(&address);
    *value = from == NULL ? NULL : PyTuple_Pack(2, data, from);
    Py_XDECREF(from);
    Py_DECREF(data);
    return *value == NULL ? -1 : 1;
}

static PyObject *
receiving(PyObject *op, const char *name, datagram_step *step, PyObject *const *args,
          Py_ssize_t nargs)
{
    uint64_t size = DATAGRAM_MAX;
    if (nargs > 1) {
        return PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", name,
                            nargs);
    }
    if (nargs == 1 && pacpy_count_from_object(args[0], "n", 1, DATAGRAM_MAX, &size) < 0) {
        return NULL;
    }
    DatagramObject *self = datagram_new(op, step, PAC_READABLE);
    if (self != NULL) {
        self->wanted = (size_t)size;
    }
    return (PyObject *)self;
}

static const char Udp_recv_doc[] =
    "recv($self, n=65536, /)\n--\n\n"
    "Await it for a datagram: at most n bytes of it, what is longer is cut off. Of a connected\n"
    "socket only those of the other side come, and ConnectionRefusedError if it said that nobody\n"
    "is there. Cancelled, it has taken none. Stands for Tokio's UdpSocket::recv.";

static PyObject *
Udp_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return receiving(op, "recv", step_recv, args, nargs);
}

static const char Udp_recv_from_doc[] =
    "recv_from($self, n=65536, /)\n--\n\n"
    "As recv(), for (datagram, address of its sender). Stands for Tokio's UdpSocket::recv_from.";

static PyObject *
Udp_recv_from(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return receiving(op, "recv_from", step_recv_from, args, nargs);
}

/* ---- sending -------------------------------------------------------------------------------- */

static int
step_send(DatagramObject *self, SocketObject *s, PyObject **value)
{
    const struct sockaddr *to =
        self->address.size == 0 ? NULL : (struct sockaddr *)&self->address.storage;
    for (;;) {
        uint32_t tick;
        ssize_t count = 0;
        enum pac_status status = pac_io_begin(&s->io, PAC_WRITABLE, &tick);
        if (status == PAC_OK) {
            count =
                sendto(s->fd, PyBytes_AS_STRING(self->data), (size_t)PyBytes_GET_SIZE(self->data),
                       MSG_NOSIGNAL, to, self->address.size);
            status = pac_io_end(&s->io, PAC_WRITABLE, tick, count, 0);
        }
        if (status == PAC_OK) {
            *value = Py_NewRef(Py_None);
            return 1;
        }
        if (status == PAC_WOULD_BLOCK) {
            return 0;
        }
        if (status != PAC_INTERRUPTED) {
            return pacpy_socket_raise_errno();
        }
    }
}

static PyObject *
sending(PyObject *op, PyObject *data, PyObject *address)
{
    if (PyUnicode_Check(data) || !PyObject_CheckBuffer(data)) {
        return PyErr_Format(PyExc_TypeError, "a datagram must be bytes, not %.200s",
                            Py_TYPE(data)->tp_name);
    }
    DatagramObject *self = datagram_new(op, step_send, PAC_WRITABLE);
    if (self != NULL) {
        self->data = PyBytes_FromObject(data);
        if (self->data == NULL ||
            (address != NULL && pacpy_address_from_tuple(address, &self->address) < 0)) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static const char Udp_send_doc[] =
    "send($self, data, /)\n--\n\n"
    "Await it to send a datagram to where the socket is connected to. OSError: it is too long, not\n"
    "connected, or the other side said that nobody is there. Cancelled, it has sent nothing. Stands\n"
    "for Tokio's UdpSocket::send.";

static PyObject *
Udp_send(PyObject *op, PyObject *data)
{
    return sending(op, data, NULL);
}

static const char Udp_send_to_doc[] =
    "send_to($self, data, address, /)\n--\n\n"
    "As send(), to `address`: (host, port), where host is an IP address. Stands for Tokio's\n"
    "UdpSocket::send_to.";

static PyObject *
Udp_send_to(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "send_to() takes 2 arguments (%zd given)", nargs);
    }
    return sending(op, args[0], args[1]);
}

/* ---- making --------------------------------------------------------------------------------- */

static const char Udp_bind_doc[] =
    "bind($type, host, port, *, reuse_port=False, broadcast=False)\n--\n\n"
    "Await it for a socket with the address `host`, an IP address or a name, and `port`, 0 for one\n"
    "that the system chooses, for the loop that runs. `broadcast`: it may send to all. OSError;\n"
    "TypeError, ValueError or OverflowError at the call. Stands for Tokio's UdpSocket::bind.";

static PyObject *
Udp_bind(PyObject *type, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const keywords[] = {"host", "port", "reuse_port", "broadcast", NULL};
    PyObject *values[4] = {NULL, NULL, Py_False, Py_False};
    struct pacpy_address address;
    if (pacpy_keywords("bind", keywords, 2, 2, args, nargs, kwnames, values) < 0 ||
        pacpy_address_from_host(values[0], values[1], &address) < 0) {
        return NULL;
    }
    return pacpy_net_open("bind_udp", values, 4);
}

/* _net_udp(address, reuse_port, broadcast): a socket with an address that is written out. */
static PyObject *
net_udp(PyObject *module, PyObject *args)
{
    struct pacpy_state *st = pacpy_state_of(module);
    struct pacpy_address address;
    PyObject *tuple;
    int reuse_port, broadcast, one = 1;
    if (!PyArg_ParseTuple(args, "Opp", &tuple, &reuse_port, &broadcast) ||
        pacpy_address_from_tuple(tuple, &address) < 0) {
        return NULL;
    }
    int fd = socket(address.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if ((reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0) ||
        (broadcast && setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one) < 0) ||
        bind(fd, (struct sockaddr *)&address.storage, address.size) < 0) {
        pacpy_socket_raise_address(errno, "could not bind", &address);
        close(fd);
        return NULL;
    }
    return (PyObject *)pacpy_socket_new(st, st->UdpSocket_type, NULL, fd, PAC_IO_OTHER,
                                        PAC_READABLE | PAC_WRITABLE);
}

static const char Udp_connect_doc[] =
    "connect($self, host, port, /)\n--\n\n"
    "Await it to send to, and receive from, this other side only: `host` is an IP address or a name.\n"
    "OSError; TypeError, ValueError or OverflowError at the call. Stands for Tokio's\n"
    "UdpSocket::connect.";

static PyObject *
Udp_connect(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct pacpy_address address;
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "connect() takes 2 arguments (%zd given)", nargs);
    }
    if (pacpy_address_from_host(args[0], args[1], &address) < 0) {
        return NULL;
    }
    PyObject *passed[3] = {op, args[0], args[1]};
    return pacpy_net_open("connect_udp", passed, 3);
}

/* _connect(address): to one that is written out. */
static PyObject *
Udp_connect_to(PyObject *op, PyObject *tuple)
{
    SocketObject *s = (SocketObject *)op;
    struct pacpy_address address;
    if (pacpy_socket_need_open(s) < 0 || pacpy_address_from_tuple(tuple, &address) < 0) {
        return NULL;
    }
    if (connect(s->fd, (struct sockaddr *)&address.storage, address.size) < 0) {
        pacpy_socket_raise_address(errno, "could not connect", &address);
        return NULL;
    }
    Py_RETURN_NONE;
}

static const char Udp_from_socket_doc[] =
    "from_socket($type, sock, /)\n--\n\n"
    "Of a socket.socket of datagrams, which is detached: the descriptor is the new socket's, and\n"
    "non-blocking, from now on. For the loop that runs. TypeError, ValueError (another kind of\n"
    "socket), RuntimeError (no loop), and then `sock` stays as it is.";

static PyObject *
Udp_from_socket(PyObject *type, PyObject *sock)
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    if (st == NULL) {
        return NULL;
    }
    return (PyObject *)pacpy_socket_from_object(st, (PyTypeObject *)type, sock, SOCK_DGRAM, false,
                                                pacpy_is_ip, PAC_IO_OTHER,
                                                PAC_READABLE | PAC_WRITABLE);
}

/* ---- the type ------------------------------------------------------------------------------- */

static PyMethodDef Udp_methods[] = {
    {"bind", PACPY_KEYWORDS(Udp_bind) | METH_CLASS, Udp_bind_doc},
    {"from_socket", Udp_from_socket, METH_O | METH_CLASS, Udp_from_socket_doc},
    {"connect", PACPY_FASTCALL(Udp_connect), Udp_connect_doc},
    {"_connect", Udp_connect_to, METH_O, "Connect to an address that is written out."},
    {"send", Udp_send, METH_O, Udp_send_doc},
    {"send_to", PACPY_FASTCALL(Udp_send_to), Udp_send_to_doc},
    {"recv", PACPY_FASTCALL(Udp_recv), Udp_recv_doc},
    {"recv_from", PACPY_FASTCALL(Udp_recv_from), Udp_recv_from_doc},
    PACPY_SOCKET_METHODS,
    {NULL},
};

static PyGetSetDef Udp_getset[] = {
    PACPY_SOCKET_GETSET,
    {"peer_addr", Socket_get_peer_addr, NULL, Socket_peer_addr_doc, NULL},
    {NULL},
};

static PyMemberDef Udp_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SocketObject, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(
    Udp_doc,
    "A UDP socket.\n\n"
    "Any number of tasks may send and receive, on the loop on which it was made. Stands for\n"
    "Tokio's UdpSocket.");

static PyType_Slot Udp_slots[] = {
    {Py_tp_doc, (void *)Udp_doc}, {Py_tp_methods, Udp_methods}, PACPY_SOCKET_SLOTS,
    {Py_tp_getset, Udp_getset},   {Py_tp_members, Udp_members}, {0, NULL},
};

static PyType_Spec Udp_spec = {
    .name = "pyasync_c.net.UdpSocket",
    .basicsize = sizeof(SocketObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Udp_slots,
};

static PyMethodDef functions[] = {
    {"_net_udp", net_udp, METH_VARARGS, "A UDP socket with an address."},
    {NULL},
};

int
pacpy_net_udp_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Udp_spec, NULL, &st->UdpSocket_type, "UdpSocket") < 0 ||
        pacpy_make_type(module, &Datagram_spec, st->Future_type, &st->NetDatagram_type, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
