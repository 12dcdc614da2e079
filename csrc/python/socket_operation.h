/* socket_operation.h - loop.sock_recv() and the like: each one future, polled in place. */
#ifndef PACPY_SOCKET_OPERATION_H
#define PACPY_SOCKET_OPERATION_H

#include "eventloop.h"

/* LoopBase's methods, as vectorcall has their arguments. */
#define PACPY_SOCKET_OPERATIONS(X) \
    X(sock_recv)                   \
    X(sock_recv_into)              \
    X(sock_recvfrom)               \
    X(sock_recvfrom_into)          \
    X(sock_sendall)                \
    X(sock_sendto)                 \
    X(sock_accept)

#define X(name)                                                                        \
    PyObject *pacpy_loop_##name(PyObject *op, PyObject *const *args, Py_ssize_t nargs, \
                                PyObject *kwnames);                                    \
    extern const char pacpy_loop_##name##_doc[];
PACPY_SOCKET_OPERATIONS(X)
#undef X

#endif
