/* socket_operation.c - loop.sock_recv() and the like: each one future, polled in place.
 *
 * A poll tries the system call; if that would block, the operation waits for the descriptor
 * (loop_sources.h) and tries again at the next poll. So what has been received is returned by the
 * same poll that has received it: an operation that is cancelled, or loses a select, has taken
 * nothing, where asyncio's may drop what came in just before.
 *
 * recv, recv_into and sendall of a plain socket call the system themselves. The others go by the
 * socket's own method, which knows about addresses, and so do all of a subclass, which may have
 * its own.
 *
 * An operation that has no memory has done nothing yet, and can be awaited again: room for what is
 * received, and for how much that is, is made before. What a socket's own method raises while it
 * sends ends the operation, as nobody knows how much it has sent. */
#include "socket_operation.h"

#include "args.h"
#include "compatible.h"
#include "future.h"
#include "loop_sources.h"
#include "read_buffer.h"

#include "../core/budget.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

struct operation;

#define CALL(name) offsetof(struct pacpy_state, str_##name)

struct kind {
    const char *method;        /* the loop's */
    const char *parameters[3]; /* after the socket */
    int needed;                /* how many of them have no default */
    size_t call;               /* the socket's own method: where in the state its name stands */
    unsigned direction;
    /* The system call itself, for a plain socket; NULL: always by the method. 1 and a new
     * reference in *value, 0: it would block, -1. */
    int (*native)(struct operation *self, int fd, PyObject **value);
};

typedef struct operation {
    FutureObject future;
    LoopObject *loop; /* strong */
    PyObject *socket; /* strong */
    const struct kind *kind;
    PyObject *args;   /* of the socket's method, a tuple; NULL: it is native */
    PyObject *buffer; /* native recv_into: the caller's object */
    Py_ssize_t size;  /* native recv: how many */
    Py_buffer data;   /* sendall */
    Py_ssize_t sent;  /* of it */
    bool is_over; /* this poll has sent or received, perhaps: if it fails, it is not tried again */
    struct pacpy_source_wait wait;
} OperationObject;

/* ---- system calls --------------------------------------------------------------------------- */

/* What a call that has failed comes to. */
static int
would_block_or_raise(void)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        return 0;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static int
native_recv(OperationObject *self, int fd, PyObject **value)
{
    char *buffer = pacpy_read_buffer(self->loop, (size_t)self->size);
    if (buffer == NULL) {
        return -1;
    }
    int result = 1;
    ssize_t n = recv(fd, buffer, (size_t)self->size, MSG_DONTWAIT);
    if (n < 0) {
        result = would_block_or_raise();
    }
    else {
        *value = pacpy_read_buffer_take(self->loop, (size_t)n);
    }
    pacpy_read_buffer_trim(self->loop);
    return result;
}

/* `n` as an int, for which `reserve`, an int of ours, is given up if there is no other memory. */
static PyObject *
count_received(Py_ssize_t n, PyObject *reserve)
{
    PyObject *count = PyLong_FromSsize_t(n);
    if (count == NULL) {
        PyErr_Clear();
    }
    Py_DECREF(reserve);
    return count == NULL ? PyLong_FromSsize_t(n) : count;
}

static int
native_recv_into(OperationObject *self, int fd, PyObject **value)
{
    Py_buffer view;
    if (PyObject_GetBuffer(self->buffer, &view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    PyObject *reserve = PyLong_FromSsize_t(view.len);
    if (reserve == NULL) {
        PyBuffer_Release(&view);
        return -1;
    }
    ssize_t n = recv(fd, view.buf, (size_t)view.len, MSG_DONTWAIT);
    int error = errno;
    PyBuffer_Release(&view);
    if (n < 0) {
        Py_DECREF(reserve);
        errno = error;
        return would_block_or_raise();
    }
    *value = count_received(n, reserve);
    self->is_over = *value == NULL;
    return *value == NULL ? -1 : 1;
}

static int
native_sendall(OperationObject *self, int fd, PyObject **value)
{
    while (self->sent < self->data.len) {
        ssize_t n = send(fd, (char *)self->data.buf + self->sent,
                         (size_t)(self->data.len - self->sent), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            return would_block_or_raise();
        }
        self->sent += n;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

/* ---- by the socket's method ----------------------------------------------------------------- */

static inline PyObject *
name_of_method(const OperationObject *self)
{
    return *(PyObject **)((char *)self->future.st + self->kind->call);
}

/* It has raised: 0 if it would block. */
static int
blocked_or_raised(void)
{
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear();
        return 0;
    }
    return -1;
}

/* sendall, a piece at a time. */
static int
call_send(OperationObject *self, PyObject **value)
{
    while (self->sent < self->data.len) {
        PyObject *whole = PyTuple_GET_ITEM(self->args, 0);
        PyObject *from = PyLong_FromSsize_t(self->sent);
        PyObject *slice = from == NULL ? NULL : PySlice_New(from, NULL, NULL);
        PyObject *rest = slice == NULL ? NULL : PyObject_GetItem(whole, slice);
        PyObject *sent = rest == NULL
                             ? NULL
                             : PyObject_CallMethodOneArg(self->socket, name_of_method(self), rest);
        Py_ssize_t n = sent == NULL ? -1 : PyNumber_AsSsize_t(sent, PyExc_OverflowError);
        self->is_over = rest != NULL;
        Py_XDECREF(from);
        Py_XDECREF(slice);
        Py_XDECREF(rest);
        Py_XDECREF(sent);
        if (n < 0) {
            return PyErr_Occurred() ? blocked_or_raised() : 0;
        }
        self->sent += n;
    }
    *value = Py_NewRef(Py_None);
    return 1;
}

/* accept() gives a socket that is to be non-blocking like the rest. */
static int
make_non_blocking(struct pacpy_state *st, PyObject *accepted)
{
    if (!PyTuple_Check(accepted) || PyTuple_GET_SIZE(accepted) != 2) {
        return 0; /* whatever this is */
    }
    PyObject *done =
        PyObject_CallMethodOneArg(PyTuple_GET_ITEM(accepted, 0), st->str_setblocking, Py_False);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
call_method(OperationObject *self, PyObject **value)
{
    PyObject *method = PyObject_GetAttr(self->socket, name_of_method(self));
    if (method == NULL) {
        return -1;
    }
    self->is_over = self->kind->direction == PAC_WRITABLE;
    *value = PyObject_CallObject(method, self->args);
    Py_DECREF(method);
    if (*value == NULL) {
        return blocked_or_raised();
    }
    if (self->kind->call == CALL(accept) && make_non_blocking(self->future.st, *value) < 0) {
        Py_CLEAR(*value);
        return -1;
    }
    return 1;
}

/* ---- the future ----------------------------------------------------------------------------- */

static int
descriptor_of(struct pacpy_state *st, PyObject *socket)
{
    PyObject *number = PyObject_CallMethodNoArgs(socket, st->str_fileno);
    long fd = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (fd < 0 || fd > INT_MAX) {
        if (!PyErr_Occurred()) {
            errno = EBADF;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        return -1;
    }
    return (int)fd;
}

/* The loop must be able to watch, on this thread. */
static int
check_loop(OperationObject *self)
{
    LoopObject *loop = self->loop;
    if (loop->executor == NULL || pac_executor_is_closed(loop->executor)) {
        pacpy_loop_refuse_closed(loop);
        return -1;
    }
    if (pacpy_running_loop != loop && !loop->compatible) {
        PyErr_Format(PyExc_RuntimeError, "%s() of %R, which is not the loop that runs here",
                     self->kind->method, loop);
        return -1;
    }
    return 0;
}

/* The buffers are not kept longer than needed. */
static void
let_go(OperationObject *self)
{
    PyObject *buffer = self->buffer;
    self->buffer = NULL;
    pacpy_source_stop_waiting(&self->wait);
    Py_XDECREF(buffer);
    if (self->data.obj != NULL) {
        PyBuffer_Release(&self->data);
    }
}

static int
try_it(OperationObject *self, int fd, PyObject **value)
{
    if (self->args == NULL) {
        return self->kind->native(self, fd, value);
    }
    return self->kind->native == native_sendall ? call_send(self, value) : call_method(self, value);
}

static int
Operation_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    OperationObject *self = (OperationObject *)f;
    if (!pac_budget_spend(cx)) {
        return 0;
    }
    self->is_over = false;
    int fd = check_loop(self) < 0 ? -1 : descriptor_of(f->st, self->socket);
    int ready = fd < 0 ? -1 : try_it(self, fd, value);
    if (ready == 0) {
        pac_budget_refund();
        if (f->state != PACPY_DROPPED) { /* by what the socket's method has called */
            ready = pacpy_source_wait(self->loop, fd, &self->wait, cx);
        }
        if (ready == 0) {
            return 0;
        }
        self->is_over = false; /* in vain */
    }
    if (PAC_UNLIKELY(ready < 0) && !self->is_over && f->state != PACPY_DROPPED &&
        PyErr_ExceptionMatches(PyExc_MemoryError)) {
        pacpy_source_stop_waiting(&self->wait);
        return PACPY_REFUSED;
    }
    PyObject *exc = ready < 0 ? PyErr_GetRaisedException() : NULL;
    let_go(self);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return ready;
}

static void
Operation_forget(FutureObject *f)
{
    /* What is being polled is let go of when the poll is over. */
    if (!f->polling) {
        pacpy_source_stop_waiting(&((OperationObject *)f)->wait);
    }
}

static const struct pacpy_future_vtable operation_vtable = {
    .poll = Operation_poll,
    .forget = Operation_forget,
};

static int
Operation_traverse(PyObject *op, visitproc visit, void *arg)
{
    OperationObject *self = (OperationObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->socket);
    Py_VISIT(self->args);
    Py_VISIT(self->buffer);
    Py_VISIT(self->data.obj);
    return 0;
}

static int
Operation_clear(PyObject *op)
{
    OperationObject *self = (OperationObject *)op;
    let_go(self);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->socket);
    Py_CLEAR(self->args);
    return 0;
}

static void
Operation_dealloc(PyObject *op)
{
    /* cpylint: dealloc, pacpy_freelist_free gives the type up */
    OperationObject *self = (OperationObject *)op;
    struct pacpy_state *st = self->future.st;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    Operation_clear(op);
    pacpy_freelist_free(&st->socket_operation_free, st->SocketOperation_type, op);
}

static PyObject *
Operation_repr(PyObject *op)
{
    OperationObject *self = (OperationObject *)op;
    const char *state = self->future.state == PACPY_NEW       ? "not polled yet"
                        : self->future.state == PACPY_WAITING ? "waiting"
                        : self->future.state == PACPY_DROPPED ? "dropped"
                                                              : "done";
    return PyUnicode_FromFormat("<SocketOperation %s %s>", self->kind->method, state);
}

PyDoc_STRVAR(
    Operation_doc,
    "What loop.sock_recv() and the like return: a future that does the operation.\n\n"
    "It does nothing until it is awaited, and gives its result once. Whoever is cancelled\n"
    "while awaiting it has received nothing; of sock_sendall a part may be sent.");

static PyType_Slot Operation_slots[] = {
    {Py_tp_doc, (void *)Operation_doc},
    {Py_tp_traverse, Operation_traverse},
    {Py_tp_clear, Operation_clear},
    {Py_tp_dealloc, Operation_dealloc},
    {Py_tp_repr, Operation_repr},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec Operation_spec = {
    .name = "pyasync_c._core.SocketOperation",
    .basicsize = sizeof(OperationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Operation_slots,
};

/* ---- making one ----------------------------------------------------------------------------- */

/* asyncio's checks: no SSLSocket; in debug mode no blocking one. 0 or -1. */
static int
check_socket(LoopObject *loop, PyObject *socket, bool plain)
{
    if (plain && !loop->debug) {
        return 0;
    }
    PyObject *done =
        PyObject_CallMethod(loop->st->asyncio_support, "check_socket", "OO", loop, socket);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

enum { MAX_ARGS = 3 };

/* The arguments after the socket into `values`, borrowed; NULL: not given. The socket, or NULL and
 * TypeError. */
static PyObject *
parse(const struct kind *kind, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
      PyObject **values)
{
    PyObject *socket = nargs > 0 ? args[0] : NULL;
    int count = 0;
    while (count < MAX_ARGS && kind->parameters[count] != NULL) {
        values[count] = count + 1 < nargs ? args[count + 1] : NULL;
        count++;
    }
    if (nargs > count + 1) {
        return PyErr_Format(PyExc_TypeError, "%s() takes %d arguments, not %zd", kind->method,
                            count + 1, nargs);
    }
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject **place = NULL;
        if (PyUnicode_CompareWithASCIIString(name, "sock") == 0) {
            place = &socket;
        }
        for (int j = 0; j < count && place == NULL; j++) {
            if (PyUnicode_CompareWithASCIIString(name, kind->parameters[j]) == 0) {
                place = &values[j];
            }
        }
        if (place == NULL || *place != NULL) {
            return PyErr_Format(PyExc_TypeError,
                                place == NULL ? "%s() has no parameter %R"
                                              : "%s() got two values for %R",
                                kind->method, name);
        }
        *place = args[nargs + i];
    }
    for (int j = 0; j < kind->needed; j++) {
        if (values[j] == NULL) {
            return PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'", kind->method,
                                kind->parameters[j]);
        }
    }
    if (socket == NULL) {
        PyErr_Format(PyExc_TypeError, "%s() needs a socket", kind->method);
    }
    return socket;
}

static OperationObject *
operation_new(LoopObject *loop, const struct kind *kind, PyObject *socket)
{
    struct pacpy_state *st = loop->st;
    PyObject *op = pacpy_freelist_alloc(&st->socket_operation_free, st->SocketOperation_type);
    OperationObject *self = (OperationObject *)op;
    if (op != NULL) {
        pacpy_future_init(&self->future, st, &operation_vtable);
        self->loop = (LoopObject *)Py_NewRef(loop);
        self->socket = Py_NewRef(socket);
        self->kind = kind;
        self->args = self->buffer = NULL;
        self->size = self->sent = 0;
        self->is_over = false;
        self->data.obj = NULL;
        pacpy_source_wait_init(&self->wait, kind->direction);
        PyObject_GC_Track(op);
    }
    return self;
}

/* What a call of the socket's method is given: `values` up to the first that was not. */
static int
set_args(OperationObject *self, PyObject *const *values)
{
    Py_ssize_t count = 0;
    while (count < MAX_ARGS && self->kind->parameters[count] != NULL && values[count] != NULL) {
        count++;
    }
    self->args = PyTuple_New(count);
    for (Py_ssize_t i = 0; self->args != NULL && i < count; i++) {
        PyTuple_SET_ITEM(self->args, i, Py_NewRef(values[i]));
    }
    return self->args == NULL ? -1 : 0;
}

static int
set_native_recv(OperationObject *self, PyObject *const *values)
{
    self->size = PyNumber_AsSsize_t(values[0], PyExc_OverflowError);
    if (self->size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (self->size < 0) {
        PyErr_SetString(PyExc_ValueError, "negative buffersize in recv");
        return -1;
    }
    return 0;
}

static int
set_native_recv_into(OperationObject *self, PyObject *const *values)
{
    Py_buffer view;
    if (PyObject_GetBuffer(values[0], &view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    PyBuffer_Release(&view);
    self->buffer = Py_NewRef(values[0]);
    return 0;
}

/* The bytes, and for a socket's own send() an object that can be cut. */
static int
set_sendall(OperationObject *self, PyObject *const *values, bool plain)
{
    if (PyObject_GetBuffer(values[0], &self->data, PyBUF_SIMPLE) < 0) {
        self->data.obj = NULL;
        return -1;
    }
    if (plain) {
        return 0;
    }
    PyObject *view = PyMemoryView_FromObject(values[0]);
    PyObject *bytes = view == NULL ? NULL : PyObject_CallMethod(view, "cast", "s", "B");
    self->args = bytes == NULL ? NULL : PyTuple_Pack(1, bytes);
    Py_XDECREF(view);
    Py_XDECREF(bytes);
    return self->args == NULL ? -1 : 0;
}

static int
set_up(OperationObject *self, PyObject *const *values, bool plain)
{
    const struct kind *kind = self->kind;
    if (kind->native == native_sendall) {
        return set_sendall(self, values, plain);
    }
    if (!plain || kind->native == NULL) {
        return set_args(self, values);
    }
    return kind->native == native_recv ? set_native_recv(self, values)
                                       : set_native_recv_into(self, values);
}

static PyObject *
start(PyObject *op, const struct kind *kind, PyObject *const *args, Py_ssize_t nargs,
      PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *values[MAX_ARGS] = {NULL};
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, kind->method, args, nargs, kwnames);
    }
    PyObject *socket = parse(kind, args, nargs, kwnames, values);
    if (socket == NULL) {
        return NULL;
    }
    bool plain = Py_IS_TYPE(socket, (PyTypeObject *)loop->st->asyncio_socket);
    if (check_socket(loop, socket, plain) < 0) {
        return NULL;
    }
    OperationObject *self = operation_new(loop, kind, socket);
    if (self != NULL && set_up(self, values, plain) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* ---- which there are ------------------------------------------------------------------------ */

static const struct kind sock_recv = {
    "sock_recv", {"n"}, 1, CALL(recv), PAC_READABLE, native_recv,
};
static const struct kind sock_recv_into = {
    "sock_recv_into", {"buf"}, 1, CALL(recv_into), PAC_READABLE, native_recv_into,
};
static const struct kind sock_recvfrom = {
    "sock_recvfrom", {"bufsize"}, 1, CALL(recvfrom), PAC_READABLE, NULL,
};
static const struct kind sock_recvfrom_into = {
    "sock_recvfrom_into", {"buf", "nbytes"}, 1, CALL(recvfrom_into), PAC_READABLE, NULL,
};
static const struct kind sock_sendall = {
    "sock_sendall", {"data"}, 1, CALL(send), PAC_WRITABLE, native_sendall,
};
static const struct kind sock_sendto = {
    "sock_sendto", {"data", "address"}, 2, CALL(sendto), PAC_WRITABLE, NULL,
};
static const struct kind sock_accept = {
    "sock_accept", {NULL}, 0, CALL(accept), PAC_READABLE, NULL,
};

const char pacpy_loop_sock_recv_doc[] = "sock_recv(sock, n): up to n bytes, b'' at the end.";
const char pacpy_loop_sock_recv_into_doc[] =
    "sock_recv_into(sock, buf): how many bytes were received into it.";
const char pacpy_loop_sock_recvfrom_doc[] =
    "sock_recvfrom(sock, bufsize): a datagram, and where it came from.";
const char pacpy_loop_sock_recvfrom_into_doc[] =
    "sock_recvfrom_into(sock, buf, nbytes=0): the same into a buffer; 0: all of it.";
const char pacpy_loop_sock_sendall_doc[] = "sock_sendall(sock, data): send all of it.";
const char pacpy_loop_sock_sendto_doc[] =
    "sock_sendto(sock, data, address): send a datagram; how many bytes of it.";
const char pacpy_loop_sock_accept_doc[] =
    "sock_accept(sock): a connection, non-blocking, and where it comes from.";

#define X(name)                                                                        \
    PyObject *pacpy_loop_##name(PyObject *op, PyObject *const *args, Py_ssize_t nargs, \
                                PyObject *kwnames)                                     \
    {                                                                                  \
        return start(op, &name, args, nargs, kwnames);                                 \
    }
PACPY_SOCKET_OPERATIONS(X)
#undef X

int
pacpy_socket_operation_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Operation_spec, st->Future_type, &st->SocketOperation_type,
                           NULL);
}
