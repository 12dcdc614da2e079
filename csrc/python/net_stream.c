/* net_stream.c - TcpStream and UnixStream, and the two halves of either.
 *
 * Their operations are in net_read.c and net_write.c. A half is a reference to its stream with the
 * methods of one direction. */
#include "net.h"

#include "args.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

/* ---- making --------------------------------------------------------------------------------- */

PyObject *
pacpy_stream_new(struct pacpy_state *st, SocketObject *like, int fd, sa_family_t family,
                 unsigned readiness)
{
    PyTypeObject *type = family == AF_UNIX ? st->UnixStream_type : st->TcpStream_type;
    return (PyObject *)pacpy_socket_new(st, type, like, fd, PAC_IO_SOCKET, readiness);
}

static const char Stream_from_socket_doc[] =
    "from_socket($type, sock, /)\n--\n\n"
    "A stream of a connected socket.socket, which is detached: the descriptor is the stream's,\n"
    "and non-blocking, from now on. For the loop that runs. TypeError, ValueError (another kind of\n"
    "socket), RuntimeError (no loop), and then `sock` stays as it is. Stands for Tokio's from_std.";

static PyObject *
Stream_from_socket(PyObject *type, PyObject *sock)
{
    struct pacpy_state *st = pacpy_state_of_type((PyTypeObject *)type);
    if (st == NULL) {
        return NULL;
    }
    return (PyObject *)pacpy_socket_from_object(
        st, (PyTypeObject *)type, sock, SOCK_STREAM, false,
        type == (PyObject *)st->UnixStream_type ? pacpy_is_unix : pacpy_is_ip, PAC_IO_SOCKET,
        PAC_READABLE | PAC_WRITABLE);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void
Stream_dealloc(PyObject *op)
{
    /* cpylint: dealloc, Socket_dealloc gives the type up */
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    Py_CLEAR(((StreamObject *)op)->ahead);
    Socket_dealloc(op);
}

/* ---- options -------------------------------------------------------------------------------- */

static const char TcpStream_set_nodelay_doc[] =
    "set_nodelay($self, on, /)\n--\n\n"
    "Send small writes at once (TCP_NODELAY), which is so from the beginning; or with False, wait\n"
    "until what was sent before has been acknowledged.";

static PyObject *
TcpStream_set_nodelay(PyObject *op, PyObject *on)
{
    SocketObject *s = (SocketObject *)op;
    int value = PyObject_IsTrue(on);
    if (value < 0 || pacpy_socket_need_open(s) < 0) {
        return NULL;
    }
    if (setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
TcpStream_get_nodelay(PyObject *op, void *Py_UNUSED(ignored))
{
    SocketObject *s = (SocketObject *)op;
    int value = 0;
    socklen_t size = sizeof value;
    if (pacpy_socket_need_open(s) < 0) {
        return NULL;
    }
    if (getsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &value, &size) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(value);
}

/* ---- halves --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    SocketObject *stream; /* strong; where a socket has itself */
} HalfObject;

static PyObject *
half_new(PyTypeObject *type, PyObject *stream)
{
    PyObject *op = type->tp_alloc(type, 0);
    if (op != NULL) {
        ((HalfObject *)op)->stream = (SocketObject *)Py_NewRef(stream);
    }
    return op;
}

static void
Half_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(((HalfObject *)op)->stream);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
Half_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<%s of %R>", pacpy_short_name(Py_TYPE(op)),
                                ((HalfObject *)op)->stream);
}

static PyObject *
Half_get_stream(PyObject *op, void *Py_UNUSED(ignored))
{
    return Py_NewRef(((HalfObject *)op)->stream);
}

static PyGetSetDef Half_getset[] = {
    {"stream", Half_get_stream, NULL, "The stream that this is a half of.", NULL},
    {NULL},
};

static PyMethodDef ReadHalf_methods[] = {
    PACPY_READ_METHODS,
    {NULL},
};

static PyMethodDef WriteHalf_methods[] = {
    PACPY_WRITE_METHODS,
    {NULL},
};

PyDoc_STRVAR(
    ReadHalf_doc,
    "The half of a stream that reads: what split() returns first.\n\n"
    "For handing one direction to code that has no business with the other. The stream is\n"
    "closed by its own close(). Stands for Tokio's ReadHalf.");

PyDoc_STRVAR(WriteHalf_doc, "The half of a stream that writes: what split() returns second.\n\n"
                            "shutdown() ends its direction. Stands for Tokio's WriteHalf.");

static PyType_Slot ReadHalf_slots[] = {
    {Py_tp_doc, (void *)ReadHalf_doc}, {Py_tp_dealloc, Half_dealloc},
    {Py_tp_repr, Half_repr},           {Py_tp_methods, ReadHalf_methods},
    {Py_tp_getset, Half_getset},       {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Stream_anext},       {0, NULL},
};

static PyType_Spec ReadHalf_spec = {
    .name = "pyasync_c.net.ReadHalf",
    .basicsize = sizeof(HalfObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ReadHalf_slots,
};

static PyType_Slot WriteHalf_slots[] = {
    {Py_tp_doc, (void *)WriteHalf_doc}, {Py_tp_dealloc, Half_dealloc}, {Py_tp_repr, Half_repr},
    {Py_tp_methods, WriteHalf_methods}, {Py_tp_getset, Half_getset},   {0, NULL},
};

static PyType_Spec WriteHalf_spec = {
    .name = "pyasync_c.net.WriteHalf",
    .basicsize = sizeof(HalfObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = WriteHalf_slots,
};

static const char Stream_split_doc[] =
    "split($self, /)\n--\n\n"
    "(reader, writer): the two directions as objects of their own. The stream stays usable.\n"
    "Stands for Tokio's split.";

PyObject *
pacpy_stream_split(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = ((SocketObject *)op)->st;
    PyObject *reader = half_new(st->ReadHalf_type, op);
    PyObject *writer = reader == NULL ? NULL : half_new(st->WriteHalf_type, op);
    if (writer == NULL) {
        Py_XDECREF(reader);
        return NULL;
    }
    return Py_BuildValue("(NN)", reader, writer);
}

/* ---- the types ------------------------------------------------------------------------------ */

#define STREAM_METHODS                                                                 \
    PACPY_READ_METHODS, PACPY_WRITE_METHODS, PACPY_SOCKET_METHODS,                     \
        {"split", pacpy_stream_split, METH_NOARGS, Stream_split_doc},                  \
    {                                                                                  \
        "from_socket", Stream_from_socket, METH_O | METH_CLASS, Stream_from_socket_doc \
    }

static PyMethodDef TcpStream_methods[] = {
    {"connect", PACPY_KEYWORDS(TcpStream_connect) | METH_CLASS, TcpStream_connect_doc},
    {"set_nodelay", TcpStream_set_nodelay, METH_O, TcpStream_set_nodelay_doc},
    STREAM_METHODS,
    {NULL},
};

static PyMethodDef UnixStream_methods[] = {
    {"connect", UnixStream_connect, METH_O | METH_CLASS, UnixStream_connect_doc},
    {"pair", UnixStream_pair, METH_NOARGS | METH_CLASS, UnixStream_pair_doc},
    STREAM_METHODS,
    {NULL},
};

static PyGetSetDef TcpStream_getset[] = {
    PACPY_SOCKET_GETSET,
    {"peer_addr", Socket_get_peer_addr, NULL, Socket_peer_addr_doc, NULL},
    {"nodelay", TcpStream_get_nodelay, NULL, "Is TCP_NODELAY set? See set_nodelay().", NULL},
    {NULL},
};

static PyGetSetDef UnixStream_getset[] = {
    PACPY_SOCKET_GETSET,
    {"peer_addr", Socket_get_peer_addr, NULL, Socket_peer_addr_doc, NULL},
    {NULL},
};

static PyMemberDef Stream_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SocketObject, weakrefs), READONLY},
    {NULL},
};

#define STREAM_DOC                                                                                  \
    "Each operation is one awaitable that belongs to the loop on which the stream was made, and\n"  \
    "reads or writes at once if it can. A read that is cancelled has taken no byte. One task may\n" \
    "read while another one writes; a second reader, or a second writer, gets RuntimeError.\n"      \
    "`async for line in stream` gives lines; `async with stream` closes it."

PyDoc_STRVAR(TcpStream_doc, "A TCP connection.\n\n"
                            "    async with await TcpStream.connect(\"localhost\", 8080) as "
                            "stream:\n"
                            "        await stream.write_all(b\"hello\\n\")\n"
                            "        print(await stream.readline())\n\n" STREAM_DOC
                            " Stands for\nTokio's TcpStream.");

PyDoc_STRVAR(UnixStream_doc,
             "A connection of Unix sockets.\n\n" STREAM_DOC " Stands for\nTokio's UnixStream.");

#define STREAM_SLOTS                                                                               \
    {Py_tp_dealloc, Stream_dealloc}, {Py_tp_finalize, Socket_finalize}, {Py_tp_repr, Socket_repr}, \
        {Py_tp_members, Stream_members}, {Py_am_aiter, PyObject_SelfIter},                         \
    {                                                                                              \
        Py_am_anext, Stream_anext                                                                  \
    }

static PyType_Slot TcpStream_slots[] = {
    {Py_tp_doc, (void *)TcpStream_doc},
    {Py_tp_methods, TcpStream_methods},
    {Py_tp_getset, TcpStream_getset},
    STREAM_SLOTS,
    {0, NULL},
};

static PyType_Slot UnixStream_slots[] = {
    {Py_tp_doc, (void *)UnixStream_doc},
    {Py_tp_methods, UnixStream_methods},
    {Py_tp_getset, UnixStream_getset},
    STREAM_SLOTS,
    {0, NULL},
};

static PyType_Spec TcpStream_spec = {
    .name = "pyasync_c.net.TcpStream",
    .basicsize = sizeof(StreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = TcpStream_slots,
};

static PyType_Spec UnixStream_spec = {
    .name = "pyasync_c.net.UnixStream",
    .basicsize = sizeof(StreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = UnixStream_slots,
};

int
pacpy_net_stream_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &TcpStream_spec, NULL, &st->TcpStream_type, "TcpStream") < 0 ||
        pacpy_make_type(module, &UnixStream_spec, NULL, &st->UnixStream_type, "UnixStream") < 0 ||
        pacpy_make_type(module, &ReadHalf_spec, NULL, &st->ReadHalf_type, "ReadHalf") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &WriteHalf_spec, NULL, &st->WriteHalf_type, "WriteHalf");
}
