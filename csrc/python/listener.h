/* listener.h - a listening socket of the loop's: accepts connections in batches, and makes a
 * protocol and a stream transport of each. */
#ifndef PACPY_LISTENER_H
#define PACPY_LISTENER_H

#include "eventloop.h"

/* LoopBase's method _listen(sock, protocol_factory, server, backlog, accept): a Listener, at work
 * until its close(). `sock` listens already, and stays the caller's to close, after that. `backlog`:
 * how many are accepted in one turn at the most. `accept`: None, or what is called instead with the
 * socket of each connection. The loop holds the listener; `protocol_factory` and `accept` are called
 * in the context of this call. */
PyObject *pacpy_listener_new(PyObject *loop, PyObject *const *args, Py_ssize_t nargs);

#endif
