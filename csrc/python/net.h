/* net.h - what the types of pyasync_c.net share: a socket that belongs to a loop, and an operation
 * on it.
 *
 * A socket is registered with the executor of the loop that runs when it is made: that of a loop of
 * ours, or of the bridge of a foreign one. An operation is a leaf. Its poll tries the system call
 * at once, so one that need not wait costs no suspension; else it waits by the socket's pac_io.
 *
 * No socket refers to a Python object that could refer to it (its loop it knows by a weak
 * reference), so no cycle goes through an operation that holds only its socket, and the collector
 * need not know either. */
#ifndef PACPY_NET_H
#define PACPY_NET_H

#include "future.h"
#include "net_address.h"

#include "../core/budget.h"
#include "../core/executor.h"
#include "../core/io.h"

#include <errno.h>

typedef struct pacpy_socket {
    PyObject_HEAD
    struct pacpy_socket *self; /* itself: in a half of a stream, its stream stands here */
    struct pacpy_state *st;
    struct pac_executor *executor; /* of its loop: to compare with, as it may be gone */
    PyObject *loop_ref;            /* a weak reference, or the loop if it takes none */
    PyObject *weakrefs;
    struct pac_io io; /* closed: the socket is, or its loop */
    /* Called before it is closed, or NULL. */
    void (*ending)(struct pacpy_socket *s);
    int fd; /* -1: closed */
    sa_family_t family;
} SocketObject;

/* What a socket begins with: takes `fd`, non-blocking, over (closed on failure). `like` NULL: for
 * the loop that runs on this thread; else for the loop of that socket, whose operation is being
 * polled. A new reference, the rest of its fields zero; NULL and an exception. */
SocketObject *pacpy_socket_new(struct pacpy_state *st, PyTypeObject *type, SocketObject *like,
                               int fd, enum pac_io_kind kind, unsigned readiness);

/* The same for from_socket(): takes the descriptor of a socket.socket over, once it has been found
 * to be a socket of `type` (SOCK_STREAM, ...) that listens or not as said, and of a family that
 * `is_family` accepts. */
SocketObject *pacpy_socket_from_object(struct pacpy_state *st, PyTypeObject *type, PyObject *sock,
                                       int socktype, bool listens, bool (*is_family)(int),
                                       enum pac_io_kind kind, unsigned readiness);

/* Its descriptor, for the caller; it counts as closed from now on. */
int pacpy_socket_detach(SocketObject *s);

/* Close it, if that was not done: whoever waits is woken and finds it closed. */
void pacpy_socket_close(SocketObject *s);

/* The slow half of pacpy_socket_check. */
int pacpy_socket_check_slowly(SocketObject *s);

/* May the poll that is in progress use `s`? 0; -1 and OSError (EBADF: it is closed) or RuntimeError
 * (it belongs to another loop, or its loop is closed). */
static inline int
pacpy_socket_check(SocketObject *s)
{
    if (PAC_LIKELY(pac_io_is_open(&s->io) && pac_executor_current() == s->executor)) {
        return 0;
    }
    return pacpy_socket_check_slowly(s);
}

/* 0 if it is open, else -1 and OSError (EBADF). */
int pacpy_socket_need_open(SocketObject *s);

/* OSError of errno as it is. Returns -1. */
int pacpy_socket_raise_errno(void);

/* OSError of `error`, which says what could not be done with which address. Returns -1. */
int pacpy_socket_raise_address(int error, const char *what, const struct pacpy_address *address);

/* Slots and methods of every type of sockets. */
void Socket_dealloc(PyObject *op);
void Socket_finalize(PyObject *op);
PyObject *Socket_repr(PyObject *op);
PyObject *Socket_close(PyObject *op, PyObject *ignored);
PyObject *Socket_aclose(PyObject *op, PyObject *ignored);
PyObject *Socket_aenter(PyObject *op, PyObject *ignored);
PyObject *Socket_aexit(PyObject *op, PyObject *const *exception, Py_ssize_t count);
PyObject *Socket_fileno(PyObject *op, PyObject *ignored);
PyObject *Socket_getsockopt(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
PyObject *Socket_setsockopt(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
PyObject *Socket_get_closed(PyObject *op, void *ignored);
PyObject *Socket_get_local_addr(PyObject *op, void *ignored);
PyObject *Socket_get_peer_addr(PyObject *op, void *ignored);

extern const char Socket_close_doc[], Socket_aclose_doc[], Socket_fileno_doc[],
    Socket_getsockopt_doc[], Socket_setsockopt_doc[], Socket_closed_doc[], Socket_local_addr_doc[],
    Socket_peer_addr_doc[];

#define PACPY_SOCKET_METHODS                                                           \
    {"close", Socket_close, METH_NOARGS, Socket_close_doc},                            \
        {"aclose", Socket_aclose, METH_NOARGS, Socket_aclose_doc},                     \
        {"__aenter__", Socket_aenter, METH_NOARGS, NULL},                              \
        {"__aexit__", (PyCFunction)(void (*)(void))Socket_aexit, METH_FASTCALL, NULL}, \
        {"fileno", Socket_fileno, METH_NOARGS, Socket_fileno_doc},                     \
        {"getsockopt", (PyCFunction)(void (*)(void))Socket_getsockopt, METH_FASTCALL,  \
         Socket_getsockopt_doc},                                                       \
    {                                                                                  \
        "setsockopt", (PyCFunction)(void (*)(void))Socket_setsockopt, METH_FASTCALL,   \
            Socket_setsockopt_doc                                                      \
    }

#define PACPY_SOCKET_GETSET                                                    \
    {"closed", Socket_get_closed, NULL, Socket_closed_doc, NULL},              \
    {                                                                          \
        "local_addr", Socket_get_local_addr, NULL, Socket_local_addr_doc, NULL \
    }

#define PACPY_SOCKET_SLOTS                                              \
    {Py_tp_dealloc, Socket_dealloc}, {Py_tp_finalize, Socket_finalize}, \
    {                                                                   \
        Py_tp_repr, Socket_repr                                         \
    }

/* ---- operations ----------------------------------------------------------------------------- */

typedef struct {
    FutureObject future;
    struct pac_io_ready ready;
    SocketObject *socket; /* strong; NULL: it stands warm in a free list */
} OperationObject;

/* Set the fields of a fresh one. */
static inline void
pacpy_operation_init(OperationObject *self, SocketObject *s,
                     const struct pacpy_future_vtable *vtable, unsigned interest)
{
    pacpy_future_init(&self->future, s->st, vtable);
    pac_io_ready_init(&self->ready, &s->io, interest);
    self->socket = (SocketObject *)Py_NewRef(s);
}

/* Its system call would block: wait. 1: there may be something by now, try again; 0: PENDING. */
static inline int
pacpy_operation_wait(OperationObject *self, struct pac_context *cx)
{
    if (pac_io_ready_poll(&self->ready, cx) == PAC_READY) {
        return 1;
    }
    if (PAC_UNLIKELY(self->future.state == PACPY_DROPPED)) {
        pac_io_ready_drop(&self->ready); /* by something that the poll set off */
    }
    pac_budget_refund();
    return 0;
}

/* Would a system call in `direction` do something now? What is known of the descriptor may be an
 * assumption, so the kernel is asked, by a call that takes nothing: `ask` gives what it has returned. */
enum pac_status pacpy_socket_look(SocketObject *s, unsigned direction, ssize_t (*ask)(int fd));

/* In the destructor of an operation: does anything know it, so that it has to be forgotten first? */
static inline bool
pacpy_operation_stands_somewhere(const OperationObject *self)
{
    return self->ready.waiter.armed || self->future.wait != NULL;
}

/* ---- streams -------------------------------------------------------------------------------- */

/* Of TCP or of Unix sockets. What has been read ahead stands in `ahead`, from `start` to `end`, and
 * belongs to the next read: no read that is given up has taken anything. */
typedef struct {
    SocketObject socket;
    PyObject *ahead; /* bytes that only we refer to; NULL: nothing was read ahead */
    size_t start, end;
    void *reader; /* the operation that waits to read; NULL: none */
    void *writer; /* likewise */
    bool reads_much;
    bool is_tls; /* net_tls.h */
} StreamObject;

/* A step of an operation: 1 and a new reference in *value; 0: it would block; -1 and an exception. */
typedef int pacpy_stream_step(OperationObject *self, StreamObject *s, PyObject **value);

/* Of an operation that stands in `slot` of its stream, `reader` or `writer`, or would: it does not wait
 * any more. */
static inline void
pacpy_stream_leave(OperationObject *self, void **slot)
{
    if (*slot == self) {
        *slot = NULL;
    }
    if (self->ready.waiter.armed) {
        pac_io_ready_drop(&self->ready);
    }
}

/* Its poll: take the steps that can be taken. `taken` is said if another one has the slot. Always
 * inlined, since `step` is known where it is called. */
static inline int
pacpy_stream_poll(OperationObject *self, struct pac_context *cx, PyObject **value, void **slot,
                  pacpy_stream_step *step, const char *taken)
{
    if (PAC_UNLIKELY(pacpy_socket_check(self->socket) < 0)) {
        pacpy_stream_leave(self, slot);
        return -1;
    }
    if (PAC_UNLIKELY(*slot != NULL && *slot != self)) {
        PyErr_SetString(PyExc_RuntimeError, taken);
        return -1;
    }
    *slot = self; /* before the first step: one of TLS may run anything, another read too */
    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return 0;
    }
    for (;;) {
        int done = step(self, (StreamObject *)self->socket, value);
        if (done != 0) {
            pacpy_stream_leave(self, slot);
            return done;
        }
        if (!pacpy_operation_wait(self, cx)) {
            if (PAC_UNLIKELY(self->future.state == PACPY_DROPPED)) {
                pacpy_stream_leave(self, slot);
            }
            return 0;
        }
    }
}

/* In its destructor: forget what knows it, and let go of its stream, which is returned; the caller gives
 * that up once the object has gone. */
static inline SocketObject *
pacpy_stream_retire(OperationObject *self, bool has_slot)
{
    SocketObject *socket = self->socket;
    if (PAC_UNLIKELY(has_slot || pacpy_operation_stands_somewhere(self))) {
        pacpy_future_fini(&self->future);
    }
    self->socket = NULL;
    return socket;
}

/* 1; 0 for PAC_WOULD_BLOCK; -1 and an exception, which may be set already. PAC_CLOSED: by something
 * that the poll set off. */
static inline int
pacpy_stream_answer(enum pac_status status)
{
    if (PAC_LIKELY(status == PAC_OK)) {
        return 1;
    }
    if (status == PAC_WOULD_BLOCK) {
        return 0;
    }
    if (status == PAC_CLOSED) {
        errno = EBADF;
    }
    return PyErr_Occurred() ? -1 : pacpy_socket_raise_errno();
}

/* A stream over a descriptor, as pacpy_socket_new: `type` NULL for the one of its family. */
PyObject *pacpy_stream_new(struct pacpy_state *st, SocketObject *like, int fd, sa_family_t family,
                           unsigned readiness);

/* split(), for the types of streams. */
PyObject *pacpy_stream_split(PyObject *op, PyObject *ignored);

/* Is `op` a stream, or a half of one? */
static inline bool
pacpy_is_stream(struct pacpy_state *st, PyObject *op)
{
    return Py_IS_TYPE(op, st->TcpStream_type) || Py_IS_TYPE(op, st->UnixStream_type) ||
           Py_IS_TYPE(op, st->TlsStream_type) || Py_IS_TYPE(op, st->ReadHalf_type) ||
           Py_IS_TYPE(op, st->WriteHalf_type);
}

/* Of a stream or one of its halves. */
static inline StreamObject *
pacpy_stream_of(PyObject *op)
{
    return (StreamObject *)((SocketObject *)op)->self;
}

/* Call a function of one of the modules in Python (kwnames as in a vectorcall). */
PyObject *pacpy_net_call(const char *module, const char *function, PyObject *const *args,
                         size_t nargs, PyObject *kwnames);

/* One of pyasync_c/_net_open.py: what names have to be looked up for. */
static inline PyObject *
pacpy_net_open(const char *function, PyObject *const *args, size_t nargs)
{
    return pacpy_net_call("pyasync_c._net_open", function, args, nargs, NULL);
}

/* For tables of methods. */
#define PACPY_KEYWORDS(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL | METH_KEYWORDS
#define PACPY_FASTCALL(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL

/* Methods of streams and of their halves: net_read.c, net_write.c. */
PyObject *Stream_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
PyObject *Stream_read_into(PyObject *op, PyObject *buffer);
PyObject *Stream_read_exactly(PyObject *op, PyObject *size);
PyObject *Stream_read_until(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *Stream_readline(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *Stream_read_to_end(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);
PyObject *Stream_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
PyObject *Stream_readable(PyObject *op, PyObject *ignored);
PyObject *Stream_anext(PyObject *op);
PyObject *Stream_write(PyObject *op, PyObject *data);
PyObject *Stream_write_all(PyObject *op, PyObject *data);
PyObject *Stream_writable(PyObject *op, PyObject *ignored);
PyObject *Stream_shutdown(PyObject *op, PyObject *ignored);

/* net_connect.c */
PyObject *TcpStream_connect(PyObject *type, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
PyObject *UnixStream_connect(PyObject *type, PyObject *path);
PyObject *UnixStream_pair(PyObject *type, PyObject *ignored);

extern const char TcpStream_connect_doc[], UnixStream_connect_doc[], UnixStream_pair_doc[];
extern const char Stream_read_doc[], Stream_read_into_doc[], Stream_read_exactly_doc[],
    Stream_read_until_doc[], Stream_readline_doc[], Stream_read_to_end_doc[], Stream_peek_doc[],
    Stream_readable_doc[], Stream_write_doc[], Stream_write_all_doc[], Stream_writable_doc[],
    Stream_shutdown_doc[];

#define PACPY_READ_METHODS                                                           \
    {"read", PACPY_FASTCALL(Stream_read), Stream_read_doc},                          \
        {"read_into", Stream_read_into, METH_O, Stream_read_into_doc},               \
        {"read_exactly", Stream_read_exactly, METH_O, Stream_read_exactly_doc},      \
        {"read_until", PACPY_KEYWORDS(Stream_read_until), Stream_read_until_doc},    \
        {"readline", PACPY_KEYWORDS(Stream_readline), Stream_readline_doc},          \
        {"read_to_end", PACPY_KEYWORDS(Stream_read_to_end), Stream_read_to_end_doc}, \
        {"readable", Stream_readable, METH_NOARGS, Stream_readable_doc},             \
    {                                                                                \
        "peek", PACPY_FASTCALL(Stream_peek), Stream_peek_doc                         \
    }

#define PACPY_WRITE_METHODS                                              \
    {"write", Stream_write, METH_O, Stream_write_doc},                   \
        {"write_all", Stream_write_all, METH_O, Stream_write_all_doc},   \
        {"writable", Stream_writable, METH_NOARGS, Stream_writable_doc}, \
    {                                                                    \
        "shutdown", Stream_shutdown, METH_NOARGS, Stream_shutdown_doc    \
    }

#endif
