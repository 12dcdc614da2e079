/* datagram_transport.c - datagrams for a protocol.
 *
 * A turn takes several of those that have come, but not all, so that a flood does not keep the
 * others waiting. One is sent at once; what the kernel does not take then is kept with its address
 * and sent in order when it does.
 *
 * Addresses that are written out are converted here. A name, and all else that the socket module
 * knows, goes by the socket's own method, which looks names up as it does for asyncio's transport. */
#include "datagram_transport.h"

#include "net_address.h"
#include "transport_writer.h"

#include <errno.h>
#include <sys/socket.h>

enum {
    TURN_MAX = 16, /* datagrams received in one turn */
    HEADER = 8,    /* what each that is kept counts beside its bytes, as asyncio does */
};

static const char write_error[] = "Fatal write error on datagram transport";

/* One that waits to be sent. */
struct datagram {
    PyObject *data;    /* bytes */
    PyObject *address; /* NULL: that of the connection */
};

typedef struct {
    TransportObject base;
    PyObject *address;     /* of the connection, as create_datagram_endpoint has it, or NULL */
    struct datagram *kept; /* those from `first` on */
    size_t first, count, capacity;
    size_t size; /* bytes of all that are kept, headers included */
    int family;
    bool connected;
} DatagramTransportObject;

static inline DatagramTransportObject *
datagram_of(TransportObject *t)
{
    return (DatagramTransportObject *)t;
}

/* ---- what is kept --------------------------------------------------------------------------- */

static int
make_room(DatagramTransportObject *d)
{
    if (d->first + d->count < d->capacity) {
        return 0;
    }
    if (d->first > 0) {
        memmove(d->kept, d->kept + d->first, d->count * sizeof *d->kept);
        d->first = 0;
        return 0;
    }
    size_t capacity = d->capacity == 0 ? 8 : 2 * d->capacity;
    struct datagram *kept = PyMem_Resize(d->kept, struct datagram, capacity);
    if (kept == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    d->kept = kept;
    d->capacity = capacity;
    return 0;
}

/* Takes the reference to `data`. 0 or -1. */
static int
keep(DatagramTransportObject *d, PyObject *data, PyObject *address)
{
    if (data == NULL || make_room(d) < 0) {
        Py_XDECREF(data);
        return -1;
    }
    d->kept[d->first + d->count++] = (struct datagram){data, Py_XNewRef(address)};
    d->size += (size_t)PyBytes_GET_SIZE(data) + HEADER;
    return 0;
}

/* The first one leaves the queue, for the caller to let go of. */
static struct datagram
take_first(DatagramTransportObject *d)
{
    struct datagram one = d->kept[d->first++];
    d->count--;
    d->size -= (size_t)PyBytes_GET_SIZE(one.data) + HEADER;
    return one;
}

static void
let_go(struct datagram *one)
{
    Py_DECREF(one->data);
    Py_XDECREF(one->address);
}

static void
Datagram_drop_pending(TransportObject *t)
{
    DatagramTransportObject *d = datagram_of(t);
    while (d->count > 0) {
        struct datagram one = take_first(d);
        let_go(&one);
    }
    PyMem_Free(d->kept);
    d->kept = NULL;
    d->first = d->capacity = 0;
}

/* ---- errors --------------------------------------------------------------------------------- */

/* The exception that is set is an OSError: the protocol's to know. Others end the transport. */
static void
tell_error(TransportObject *t)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *done = t->protocol == NULL
                         ? Py_NewRef(Py_None)
                         : PyObject_CallMethod(t->protocol, "error_received", "O", exc);
    Py_DECREF(exc);
    if (done == NULL) {
        pacpy_transport_report(t, "error_received()");
    }
    Py_XDECREF(done);
}

static bool
is_os_error(void)
{
    return PyErr_ExceptionMatches(PyExc_OSError);
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* One datagram: PAC_OK with *data and *address; what there is room for of it. Else NULL in both, and
 * for PAC_NO_MEMORY and PAC_OS_ERROR an exception. */
static enum pac_status
receive(TransportObject *t, PyObject **data, PyObject **address)
{
    struct pacpy_address from;
    uint32_t tick;
    ssize_t n;
    *data = *address = NULL;
    enum pac_status status = pac_io_begin(&t->io, PAC_READABLE, &tick);
    if (status != PAC_OK) {
        return status;
    }
    char *buffer = pacpy_transport_read_buffer(t);
    if (buffer == NULL) {
        return PAC_NO_MEMORY;
    }
    do {
        from.size = sizeof from.storage;
        n = recvfrom(t->fd, buffer, PACPY_READ_BUFFER, 0, (struct sockaddr *)&from.storage,
                     &from.size);
        status = pac_io_end(&t->io, PAC_READABLE, tick, n, 0);
    } while (status == PAC_INTERRUPTED);
    if (status == PAC_OS_ERROR) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (status != PAC_OK) {
        return status;
    }
    *data = PyBytes_FromStringAndSize(buffer, n);
    *address = *data == NULL ? NULL : pacpy_address_to_object(&from);
    if (*address == NULL) {
        Py_CLEAR(*data);
        return PAC_NO_MEMORY;
    }
    return PAC_OK;
}

/* False: no more for now. */
static bool
receive_one(TransportObject *t)
{
    PyObject *data, *address;
    enum pac_status status = receive(t, &data, &address);
    if (status == PAC_WOULD_BLOCK || status == PAC_CLOSED) {
        return false;
    }
    if (status != PAC_OK) {
        if (is_os_error()) {
            tell_error(t);
            return true;
        }
        pacpy_transport_fatal(t, "Fatal read error on datagram transport");
        return false;
    }
    /* It may have another protocol set. */
    PyObject *args[] = {Py_NewRef(t->protocol), data, address};
    PyObject *done = PyObject_VectorcallMethod(t->st->str_datagram_received, args, 3, NULL);
    Py_DECREF(args[0]);
    Py_DECREF(data);
    Py_DECREF(address);
    if (done == NULL) {
        pacpy_transport_report(t, "datagram_received()");
    }
    Py_XDECREF(done);
    return true;
}

/* ---- sending -------------------------------------------------------------------------------- */

/* By the system: PAC_OK, PAC_WOULD_BLOCK, PAC_CLOSED, PAC_OS_ERROR and errno. `to` NULL: connected. */
static enum pac_status
send_natively(TransportObject *t, const void *bytes, size_t size, const struct pacpy_address *to)
{
    uint32_t tick;
    enum pac_status status = pac_io_begin(&t->io, PAC_WRITABLE, &tick);
    if (status != PAC_OK) {
        return status;
    }
    do {
        ssize_t n = sendto(t->fd, bytes, size, MSG_NOSIGNAL,
                           to == NULL ? NULL : (const struct sockaddr *)&to->storage,
                           to == NULL ? 0 : to->size);
        status = pac_io_end(&t->io, PAC_WRITABLE, tick, n, 0);
    } while (status == PAC_INTERRUPTED);
    return status;
}

/* 1: *to is what `address` says; 0: the socket's method has to be asked. */
static int
convert(DatagramTransportObject *d, PyObject *address, struct pacpy_address *to)
{
    int converted = -1;
    if (d->family == AF_UNIX) {
        converted = pacpy_address_from_path(address, to);
    }
    else if (PyTuple_Check(address)) {
        converted = pacpy_address_from_tuple(address, to);
    }
    if (converted < 0) {
        PyErr_Clear();
    }
    return converted == 0 && to->storage.ss_family == d->family;
}

/* As send_natively; or PAC_NO_MEMORY, with an exception that is no OSError. */
static enum pac_status
send_by_method(TransportObject *t, PyObject *data, PyObject *address)
{
    uint32_t tick;
    enum pac_status status = pac_io_begin(&t->io, PAC_WRITABLE, &tick);
    if (status != PAC_OK) {
        return status;
    }
    PyObject *sent = PyObject_CallMethodObjArgs(t->sock, t->st->str_sendto, data, address, NULL);
    if (sent != NULL) {
        Py_DECREF(sent);
        return PAC_OK;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear();
        errno = EAGAIN;
        return pac_io_end(&t->io, PAC_WRITABLE, tick, -1, 0);
    }
    return is_os_error() ? PAC_OS_ERROR : PAC_NO_MEMORY;
}

/* Of the two, the one that fits; PAC_OS_ERROR and PAC_NO_MEMORY with an exception. */
static enum pac_status
send_one(TransportObject *t, PyObject *data, const void *bytes, size_t size, PyObject *address)
{
    DatagramTransportObject *d = datagram_of(t);
    struct pacpy_address to;
    bool to_peer = d->connected || address == NULL;
    if (!to_peer && !convert(d, address, &to)) {
        return send_by_method(t, data, address);
    }
    enum pac_status status = send_natively(t, bytes, size, to_peer ? NULL : &to);
    if (status == PAC_OS_ERROR) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return status;
}

static void
flush(TransportObject *t)
{
    DatagramTransportObject *d = datagram_of(t);
    while (d->count > 0) {
        struct datagram *first = &d->kept[d->first];
        PyObject *data = first->data;
        enum pac_status status = send_one(t, data, PyBytes_AS_STRING(data),
                                          (size_t)PyBytes_GET_SIZE(data), first->address);
        if (status == PAC_WOULD_BLOCK || status == PAC_CLOSED) {
            break;
        }
        if (status == PAC_NO_MEMORY) {
            pacpy_transport_fatal(t, write_error);
            return;
        }
        if (d->count > 0) { /* the socket's method may have closed the transport */
            struct datagram sent = take_first(d);
            let_go(&sent);
        }
        if (status == PAC_OS_ERROR) {
            /* The rest has its turn later, as the protocol may send anew for each that fails. */
            tell_error(t);
            break;
        }
    }
    if (t->sock == NULL || t->ending) {
        return;
    }
    pacpy_transport_maybe_resume(t); /* may send more, or abort */
    if (d->count == 0 && t->closing && !t->ending && t->sock != NULL) {
        pacpy_transport_lose(t, NULL);
    }
}

/* With the bytes of `data` in `view`. 0 or -1. */
static int
send_or_keep(TransportObject *t, PyObject *data, const Py_buffer *view, PyObject *address)
{
    DatagramTransportObject *d = datagram_of(t);
    if (d->count == 0) {
        enum pac_status status = send_one(t, data, view->buf, (size_t)view->len, address);
        if (status == PAC_OS_ERROR) {
            tell_error(t);
        }
        if (status == PAC_NO_MEMORY) {
            return pacpy_transport_fatal_to_caller(t, write_error);
        }
        if (status == PAC_CLOSED) {
            pacpy_loop_refuse_closed(t->loop);
            return -1;
        }
        if (status != PAC_WOULD_BLOCK) {
            return 0;
        }
    }
    /* The caller may change what is not immutable. */
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data)
                                               : PyBytes_FromStringAndSize(view->buf, view->len);
    if (keep(d, bytes, address) < 0 || pacpy_transport_settle(t) < 0) {
        return -1;
    }
    return pacpy_transport_maybe_pause(t);
}

/* sendto()'s address: a new reference, or NULL and an exception; NULL without one: the connection's. */
static PyObject *
address_to_use(DatagramTransportObject *d, PyObject *given)
{
    if (d->address == NULL) {
        return given == Py_None ? NULL : Py_NewRef(given);
    }
    int same = given == Py_None ? 1 : PyObject_RichCompareBool(given, d->address, Py_EQ);
    if (same == 0) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S", d->address);
    }
    return same == 1 ? Py_NewRef(d->address) : NULL;
}

/* sendto(data, addr=None) */
static PyObject *
Datagram_sendto(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "addr", NULL};
    TransportObject *t = (TransportObject *)op;
    DatagramTransportObject *d = datagram_of(t);
    PyObject *data, *given = Py_None;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:sendto", names, &data, &given)) {
        return NULL;
    }
    if (pacpy_writer_check(data) < 0) {
        return NULL;
    }
    PyObject *address = address_to_use(d, given);
    if (address == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        Py_XDECREF(address);
        return NULL;
    }
    PyObject *result;
    if (t->loop == NULL || t->ending) {
        result = pacpy_transport_write_to_nobody(t, "socket.send() raised exception.");
    }
#if PY_VERSION_HEX < 0x030D0000
    else if (view.len == 0) {
        result = Py_NewRef(Py_None); /* asyncio sends empty ones from 3.13 on */
    }
#endif
    else {
        result = send_or_keep(t, data, &view, address) < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyBuffer_Release(&view);
    Py_XDECREF(address);
    return result;
}

/* ---- turns ---------------------------------------------------------------------------------- */

static bool
Datagram_wants_run(TransportObject *t)
{
    return pac_io_is_open(&t->io) &&
           ((pacpy_transport_reads(t) && pac_io_is_ready(&t->io, PAC_READABLE)) ||
            (datagram_of(t)->count > 0 && pac_io_is_ready(&t->io, PAC_WRITABLE)));
}

static void
Datagram_run(TransportObject *t)
{
    for (int i = 0; i < TURN_MAX && t->loop != NULL && pacpy_transport_reads(t); i++) {
        if (!receive_one(t) || t->loop == NULL || t->loop->raised != NULL) {
            break; /* the rest when the loop runs again, if it does */
        }
    }
    if (t->loop != NULL && datagram_of(t)->count > 0 && pac_io_is_ready(&t->io, PAC_WRITABLE)) {
        flush(t);
    }
}

static size_t
Datagram_pending(TransportObject *t)
{
    return datagram_of(t)->size;
}

static void
Datagram_lost(TransportObject *t)
{
    Py_CLEAR(datagram_of(t)->address);
}

static const struct pacpy_transport_vtable datagram_vtable = {
    .wants_run = Datagram_wants_run,
    .run = Datagram_run,
    .pending = Datagram_pending,
    .drop_pending = Datagram_drop_pending,
    .lost = Datagram_lost,
};

/* ---- the type ------------------------------------------------------------------------------- */

static PyMethodDef Datagram_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))Datagram_sendto, METH_VARARGS | METH_KEYWORDS,
     "sendto(data, addr=None): send a datagram; what the kernel does not take now, later."},
    {NULL},
};

static PyObject *
get_address(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *address = datagram_of((TransportObject *)op)->address;
    return Py_NewRef(address == NULL ? Py_None : address);
}

static PyObject *
get_max_size(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(PACPY_READ_BUFFER);
}

static PyGetSetDef Datagram_getset[] = {
    {"_address", get_address, NULL, NULL},
    {"max_size", get_max_size, NULL, "The largest datagram that is received whole, in bytes."},
    {NULL},
};

static int
Datagram_traverse(PyObject *op, visitproc visit, void *arg)
{
    /* cpylint: traverse, pacpy_transport_traverse visits the type */
    DatagramTransportObject *d = datagram_of((TransportObject *)op);
    Py_VISIT(d->address);
    for (size_t i = 0; i < d->count; i++) {
        Py_VISIT(d->kept[d->first + i].address);
    }
    return pacpy_transport_traverse(op, visit, arg);
}

static int
Datagram_clear(PyObject *op)
{
    Datagram_drop_pending((TransportObject *)op);
    Py_CLEAR(datagram_of((TransportObject *)op)->address);
    return pacpy_transport_clear(op);
}

static void
Datagram_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (!pacpy_transport_destroy(op)) {
        return;
    }
    Datagram_drop_pending((TransportObject *)op);
    Py_CLEAR(datagram_of((TransportObject *)op)->address);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(Datagram_doc,
             "A datagram socket of a pyasync_c loop: an asyncio.DatagramTransport, made by the\n"
             "loop's create_datagram_endpoint(). Belongs to the loop's thread.");

enum { TABLE_MAX = 32 };
static PyMethodDef all_methods[TABLE_MAX];
static PyGetSetDef all_getset[TABLE_MAX];

static PyType_Slot Datagram_slots[] = {
    {Py_tp_doc, (void *)Datagram_doc},
    {Py_tp_traverse, Datagram_traverse},
    {Py_tp_clear, Datagram_clear},
    {Py_tp_finalize, pacpy_transport_finalize},
    {Py_tp_dealloc, Datagram_dealloc},
    {Py_tp_repr, pacpy_transport_repr},
    {Py_tp_members, pacpy_transport_members},
    {Py_tp_methods, all_methods},
    {Py_tp_getset, all_getset},
    {0, NULL},
};

static PyType_Spec Datagram_spec = {
    .name = "pyasync_c.DatagramTransport",
    .basicsize = sizeof(DatagramTransportObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Datagram_slots,
};

int
pacpy_datagram_transport_make_types(struct pacpy_state *st)
{
    pacpy_join_methods(all_methods, TABLE_MAX, pacpy_transport_methods, Datagram_methods);
    pacpy_join_getset(all_getset, TABLE_MAX, pacpy_transport_getset, Datagram_getset);
    return pacpy_transport_make_type(st, &Datagram_spec, "DatagramTransport",
                                     &st->DatagramTransport_type, "DatagramTransport");
}

PyObject *
pacpy_datagram_transport_new(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)op;
    enum { SOCK, PROTOCOL, ADDRESS, WAITER, EXTRA, COUNT };
    if (nargs != COUNT) {
        PyErr_SetString(PyExc_TypeError, "_datagram_transport() takes 5 arguments");
        return NULL;
    }
    PyTypeObject *type = loop->st->DatagramTransport_type;
    PyObject *transport = type->tp_alloc(type, 0);
    if (transport == NULL) {
        return NULL;
    }
    TransportObject *t = (TransportObject *)transport;
    DatagramTransportObject *d = datagram_of(t);
    if (pacpy_transport_init(t, &datagram_vtable, loop, args[SOCK], args[PROTOCOL], args[WAITER],
                             args[EXTRA], NULL, PAC_IO_OTHER) < 0) {
        Py_DECREF(transport);
        return NULL;
    }
    struct pacpy_address address = {.size = sizeof address.storage};
    if (getsockname(t->fd, (struct sockaddr *)&address.storage, &address.size) == 0) {
        d->family = address.storage.ss_family;
    }
    address.size = sizeof address.storage;
    d->connected = getpeername(t->fd, (struct sockaddr *)&address.storage, &address.size) == 0;
    d->address = args[ADDRESS] == Py_None ? NULL : Py_NewRef(args[ADDRESS]);
    return transport;
}
