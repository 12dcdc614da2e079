/* net_socket.c - what sockets of every kind have: the loop that they belong to, their end, their
 * addresses and options.
 *
 * A socket may be closed, and collected, on any thread that has the GIL: what it touches then of
 * the executor is its table of sources, which the loop's thread reads with the GIL held only, and
 * the epoll set, which is the kernel's. */
#include "net.h"

#include "args.h"
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- making --------------------------------------------------------------------------------- */

static int
remember_loop(SocketObject *s, PyObject *loop)
{
    s->loop_ref = PyWeakref_NewRef(loop, NULL);
    if (s->loop_ref == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* it takes no weak references */
        s->loop_ref = Py_NewRef(loop);
    }
    return s->loop_ref == NULL ? -1 : 0;
}

static int
join_loop(SocketObject *s, SocketObject *like)
{
    if (like != NULL) {
        s->executor = like->executor;
        s->loop_ref = Py_NewRef(like->loop_ref);
        return 0;
    }
    PyObject *loop;
    s->executor = pacpy_bridge_executor(s->st, &loop);
    if (s->executor == NULL) {
        return -1;
    }
    int failed = remember_loop(s, loop);
    Py_DECREF(loop);
    return failed;
}

SocketObject *
pacpy_socket_new(struct pacpy_state *st, PyTypeObject *type, SocketObject *like, int fd,
                 enum pac_io_kind kind, unsigned readiness)
{
    struct pacpy_address address = {.size = sizeof address.storage};
    SocketObject *s = (SocketObject *)type->tp_alloc(type, 0);
    if (s == NULL) {
        close(fd);
        return NULL;
    }
    s->self = s;
    s->st = st;
    s->fd = -1;
    if (join_loop(s, like) < 0) {
        goto failed;
    }
    if (getsockname(fd, (struct sockaddr *)&address.storage, &address.size) < 0) {
        pacpy_socket_raise_errno();
        goto failed;
    }
    s->family = address.storage.ss_family;
    if (kind == PAC_IO_SOCKET) {
        kind = pac_io_kind_of_stream(s->family);
    }
    enum pac_status status = pac_io_open(&s->io, &s->executor->reactor, fd, kind, readiness);
    if (status != PAC_OK) {
        if (status == PAC_NO_MEMORY) {
            PyErr_NoMemory();
        }
        else {
            pacpy_socket_raise_errno();
        }
        goto failed;
    }
    s->fd = fd;
    return s;
failed:
    close(fd);
    Py_DECREF(s);
    return NULL;
}

/* ---- from a socket.socket ------------------------------------------------------------------- */

static int
int_option(int fd, int option, int *value)
{
    socklen_t size = sizeof *value;
    if (getsockopt(fd, SOL_SOCKET, option, value, &size) < 0) {
        return pacpy_socket_raise_errno();
    }
    return 0;
}

/* An SSLSocket wraps what its descriptor carries. 0, or -1 and an exception. */
static int
refuse_ssl_socket(PyObject *sock)
{
    PyObject *ssl = PyDict_GetItemString(PyImport_GetModuleDict(), "ssl");
    PyObject *type = ssl == NULL ? NULL : PyObject_GetAttrString(ssl, "SSLSocket");
    if (type == NULL) {
        PyErr_Clear();
        return 0;
    }
    int is_ssl = PyObject_IsInstance(sock, type);
    Py_DECREF(type);
    if (is_ssl > 0) {
        PyErr_SetString(PyExc_TypeError,
                        "an SSLSocket cannot be taken over: give TlsStream a plain stream");
    }
    return is_ssl == 0 ? 0 : -1;
}

static int
check_kind(const char *name, int fd, int socktype, bool listens, bool (*is_family)(int))
{
    int type, family, accepts;
    if (int_option(fd, SO_TYPE, &type) < 0 || int_option(fd, SO_DOMAIN, &family) < 0 ||
        int_option(fd, SO_ACCEPTCONN, &accepts) < 0) {
        return -1;
    }
    const char *wrong = type != socktype     ? "type"
                        : !is_family(family) ? "family"
                        : accepts != listens
                            ? (listens ? "state: it does not listen" : "state: it listens")
                            : NULL;
    if (wrong != NULL) {
        PyErr_Format(PyExc_ValueError, "%s cannot be made of a socket of this %s", name, wrong);
        return -1;
    }
    return 0;
}

/* Take the descriptor away from `sock`; -1 and an exception. */
static int
detach(PyObject *sock)
{
    PyObject *number = PyObject_CallMethod(sock, "detach", NULL);
    if (number == NULL) {
        return -1;
    }
    int fd = (int)PyLong_AsLong(number);
    Py_DECREF(number);
    return fd;
}

SocketObject *
pacpy_socket_from_object(struct pacpy_state *st, PyTypeObject *type, PyObject *sock, int socktype,
                         bool listens, bool (*is_family)(int), enum pac_io_kind kind,
                         unsigned readiness)
{
    if (!PyObject_HasAttrString(sock, "detach")) {
        PyErr_Format(PyExc_TypeError, "sock must be a socket.socket, not %.200s",
                     Py_TYPE(sock)->tp_name);
        return NULL;
    }
    PyObject *loop;
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0 || refuse_ssl_socket(sock) < 0 ||
        check_kind(pacpy_short_name(type), fd, socktype, listens, is_family) < 0 ||
        /* Before the socket has lost what it would have to be given back. */
        pacpy_bridge_executor(st, &loop) == NULL) {
        return NULL;
    }
    Py_DECREF(loop);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        pacpy_socket_raise_errno();
        return NULL;
    }
    fd = detach(sock);
    return fd < 0 ? NULL : pacpy_socket_new(st, type, NULL, fd, kind, readiness);
}

/* ---- refusing ------------------------------------------------------------------------------- */

int
pacpy_socket_raise_errno(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

int
pacpy_socket_raise_address(int error, const char *what, const struct pacpy_address *address)
{
    PyObject *where = pacpy_address_to_object(address);
    PyObject *text =
        where == NULL ? NULL : PyUnicode_FromFormat("%s: %s %R", strerror(error), what, where);
    PyObject *args = text == NULL ? NULL : Py_BuildValue("(iO)", error, text);
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
    }
    Py_XDECREF(args);
    Py_XDECREF(text);
    Py_XDECREF(where);
    return -1;
}

int
pacpy_socket_need_open(SocketObject *s)
{
    if (s->fd >= 0) {
        return 0;
    }
    PyObject *args = Py_BuildValue(
        "(iN)", EBADF, PyUnicode_FromFormat("%s is closed", pacpy_short_name(Py_TYPE(s))));
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
        Py_DECREF(args);
    }
    return -1;
}

/* The loop of `s` as a new reference; NULL: it has gone. */
static PyObject *
loop_of(SocketObject *s)
{
    PyObject *loop = NULL;
    if (!PyWeakref_Check(s->loop_ref)) {
        return Py_NewRef(s->loop_ref);
    }
    if (PyWeakref_GetRef(s->loop_ref, &loop) < 0) {
        PyErr_Clear();
    }
    return loop;
}

int
pacpy_socket_check_slowly(SocketObject *s)
{
    if (pacpy_socket_need_open(s) < 0) {
        return -1;
    }
    if (!pac_io_is_open(&s->io)) {
        PyErr_Format(PyExc_RuntimeError, "Event loop is closed: the one of this %s",
                     pacpy_short_name(Py_TYPE(s)));
        return -1;
    }
    PyObject *present;
    struct pac_executor *ex = pacpy_bridge_executor(s->st, &present);
    if (ex == NULL) {
        return -1;
    }
    if (ex == s->executor) { /* polled by hand on a foreign loop */
        Py_DECREF(present);
        return 0;
    }
    PyObject *own = loop_of(s);
    PyErr_Format(PyExc_RuntimeError, "this %s belongs to the loop %R, and is used on the loop %R",
                 pacpy_short_name(Py_TYPE(s)), own == NULL ? Py_None : own, present);
    Py_XDECREF(own);
    Py_DECREF(present);
    return -1;
}

/* ---- the end -------------------------------------------------------------------------------- */

int
pacpy_socket_detach(SocketObject *s)
{
    int fd = s->fd;
    s->fd = -1;
    pac_io_close(&s->io);
    return fd;
}

void
pacpy_socket_close(SocketObject *s)
{
    if (s->fd >= 0 && s->ending != NULL) {
        void (*ending)(SocketObject *) = s->ending;
        s->ending = NULL;
        ending(s);
    }
    if (s->fd >= 0) {
        Py_INCREF(s); /* whoever is woken may run anything */
        close(pacpy_socket_detach(s));
        PyObject *exc = PyErr_GetRaisedException();
        pacpy_bridge_settle_running(s->st);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
        Py_DECREF(s);
    }
}

void
Socket_finalize(PyObject *op)
{
    SocketObject *s = (SocketObject *)op;
    if (s->fd < 0) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(op, 1, "unclosed %R", op) < 0 &&
        PyErr_ExceptionMatches(PyExc_Warning)) {
        PyErr_WriteUnraisable(op);
    }
    PyErr_Clear();
    pacpy_socket_close(s);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

void
Socket_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    SocketObject *s = (SocketObject *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    if (s->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Py_CLEAR(s->loop_ref);
    type->tp_free(op);
    Py_DECREF(type);
}

const char Socket_close_doc[] =
    "close($self, /)\n--\n\n"
    "Close it now. Whoever waits on it is woken, and gets OSError (EBADF), as does every later\n"
    "operation. Twice is a no-op.";

PyObject *
Socket_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pacpy_socket_close((SocketObject *)op);
    Py_RETURN_NONE;
}

const char Socket_aclose_doc[] =
    "aclose($self, /)\n--\n\n"
    "close(), for code that closes what may take time to close. Never waits.";

PyObject *
Socket_aclose(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pacpy_socket_close((SocketObject *)op);
    return pacpy_nothing_to_await(((SocketObject *)op)->st);
}

PyObject *
Socket_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SocketObject *s = (SocketObject *)op;
    return pacpy_socket_need_open(s) < 0 ? NULL : pacpy_immediate(s->st, Py_NewRef(op));
}

PyObject *
Socket_aexit(PyObject *op, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    return Socket_aclose(op, NULL);
}

/* ---- asking --------------------------------------------------------------------------------- */

enum pac_status
pacpy_socket_look(SocketObject *s, unsigned direction, ssize_t (*ask)(int fd))
{
    uint32_t tick;
    enum pac_status status;
    do {
        status = pac_io_begin(&s->io, direction, &tick);
        if (status == PAC_OK) {
            status = pac_io_end(&s->io, direction, tick, ask(s->fd), 0);
        }
    } while (status == PAC_INTERRUPTED);
    return status;
}

/* ---- what is known of it -------------------------------------------------------------------- */

static int
own_address(int fd, struct pacpy_address *address)
{
    address->size = sizeof address->storage;
    return getsockname(fd, (struct sockaddr *)&address->storage, &address->size);
}

static int
peer_address(int fd, struct pacpy_address *address)
{
    address->size = sizeof address->storage;
    return getpeername(fd, (struct sockaddr *)&address->storage, &address->size);
}

PyObject *
Socket_repr(PyObject *op)
{
    SocketObject *s = (SocketObject *)op;
    const char *name = pacpy_short_name(Py_TYPE(op));
    struct pacpy_address address;
    if (s->fd < 0) {
        return PyUnicode_FromFormat("<%s closed>", name);
    }
    PyObject *own = NULL, *peer = NULL, *repr = NULL;
    if (own_address(s->fd, &address) == 0) {
        own = pacpy_address_to_object(&address);
    }
    else {
        own = Py_NewRef(Py_None);
    }
    if (own != NULL && peer_address(s->fd, &address) == 0) {
        peer = pacpy_address_to_object(&address);
    }
    const char *state = pac_io_is_open(&s->io) ? "" : " loop closed";
    if (peer != NULL) {
        repr = PyUnicode_FromFormat("<%s fd=%d %R -> %R%s>", name, s->fd, own, peer, state);
    }
    else if (own != NULL && !PyErr_Occurred()) {
        repr = PyUnicode_FromFormat("<%s fd=%d %R%s>", name, s->fd, own, state);
    }
    Py_XDECREF(own);
    Py_XDECREF(peer);
    return repr;
}

const char Socket_closed_doc[] = "Was it closed, by this side?";

PyObject *
Socket_get_closed(PyObject *op, void *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((SocketObject *)op)->fd < 0);
}

const char Socket_local_addr_doc[] =
    "Its own address, as the module socket has them. OSError once it is closed.";

PyObject *
Socket_get_local_addr(PyObject *op, void *Py_UNUSED(ignored))
{
    struct pacpy_address address;
    SocketObject *s = (SocketObject *)op;
    if (pacpy_socket_need_open(s) < 0) {
        return NULL;
    }
    if (own_address(s->fd, &address) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return pacpy_address_to_object(&address);
}

const char Socket_peer_addr_doc[] =
    "The other side's address, as the module socket has them. OSError once it is closed, or if\n"
    "there is no other side.";

PyObject *
Socket_get_peer_addr(PyObject *op, void *Py_UNUSED(ignored))
{
    struct pacpy_address address;
    SocketObject *s = (SocketObject *)op;
    if (pacpy_socket_need_open(s) < 0) {
        return NULL;
    }
    if (peer_address(s->fd, &address) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return pacpy_address_to_object(&address);
}

const char Socket_fileno_doc[] =
    "fileno($self, /)\n--\n\n"
    "The number of its descriptor, which it keeps; -1 once it is closed.";

PyObject *
Socket_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((SocketObject *)op)->fd);
}

/* ---- options -------------------------------------------------------------------------------- */

static int
int_argument(PyObject *op, int *value)
{
    long number = PyLong_AsLong(op);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (number != (int)number) {
        PyErr_SetString(PyExc_OverflowError, "the number does not fit into a C int");
        return -1;
    }
    *value = (int)number;
    return 0;
}

/* The first two arguments, which say what option. */
static int
option_arguments(SocketObject *s, const char *name, PyObject *const *args, Py_ssize_t nargs,
                 Py_ssize_t least, int *level, int *option)
{
    if (nargs < least || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "%s() takes %s arguments, not %zd", name,
                     least == 3 ? "3" : "2 or 3", nargs);
        return -1;
    }
    return int_argument(args[0], level) < 0 || int_argument(args[1], option) < 0
               ? -1
               : pacpy_socket_need_open(s);
}

const char Socket_getsockopt_doc[] =
    "getsockopt($self, level, option, size=0, /)\n--\n\n"
    "An option of the socket: an int, or with a size, bytes of at most that length. As\n"
    "socket.socket.getsockopt.";

PyObject *
Socket_getsockopt(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    SocketObject *s = (SocketObject *)op;
    enum { LARGEST = 1024 };
    char value[LARGEST];
    int level, option, number, size = 0;
    if (option_arguments(s, "getsockopt", args, nargs, 2, &level, &option) < 0 ||
        (nargs == 3 && int_argument(args[2], &size) < 0)) {
        return NULL;
    }
    if (size < 0 || size > LARGEST) {
        return PyErr_Format(PyExc_ValueError, "size must be from 0 to %d", LARGEST);
    }
    socklen_t length = size == 0 ? sizeof number : (socklen_t)size;
    if (getsockopt(s->fd, level, option, size == 0 ? (void *)&number : value, &length) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return size == 0 ? PyLong_FromLong(number) : PyBytes_FromStringAndSize(value, length);
}

const char Socket_setsockopt_doc[] =
    "setsockopt($self, level, option, value, /)\n--\n\n"
    "Set an option of the socket, to an int or to bytes. As socket.socket.setsockopt.";

PyObject *
Socket_setsockopt(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    SocketObject *s = (SocketObject *)op;
    int level, option, number, failed;
    if (option_arguments(s, "setsockopt", args, nargs, 3, &level, &option) < 0) {
        return NULL;
    }
    if (PyLong_Check(args[2])) {
        if (int_argument(args[2], &number) < 0) {
            return NULL;
        }
        failed = setsockopt(s->fd, level, option, &number, sizeof number);
    }
    else {
        Py_buffer view;
        if (PyObject_GetBuffer(args[2], &view, PyBUF_SIMPLE) < 0) {
            return NULL;
        }
        failed = setsockopt(s->fd, level, option, view.buf, (socklen_t)view.len);
        PyBuffer_Release(&view);
    }
    if (failed != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}
