/* pipe_transport.h - the ends of pipes that a loop reads and writes for protocols: those of child
 * processes, and of connect_read_pipe() and connect_write_pipe(). */
#ifndef PACPY_PIPE_TRANSPORT_H
#define PACPY_PIPE_TRANSPORT_H

#include "transport.h"

/* LoopBase's methods _read_pipe_transport and _write_pipe_transport(pipe, protocol, waiter, extra);
 * the latter two may be None. `pipe` is a file object of a pipe, a socket or a character device,
 * made non-blocking here, the transport's from then on; ValueError for a file of another kind, and
 * then, as when it fails otherwise, it stays the caller's. */
PyObject *pacpy_read_pipe_transport_new(PyObject *loop, PyObject *const *args, Py_ssize_t nargs);
PyObject *pacpy_write_pipe_transport_new(PyObject *loop, PyObject *const *args, Py_ssize_t nargs);

#endif
