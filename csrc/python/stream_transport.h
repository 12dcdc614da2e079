/* stream_transport.h - TCP and Unix connections of the loop: an asyncio.Transport. */
#ifndef PACPY_STREAM_TRANSPORT_H
#define PACPY_STREAM_TRANSPORT_H

#include "transport.h"

/* LoopBase's method _stream_transport(sock, protocol, waiter, extra, server); the latter three may
 * be None. `sock` is a connected stream socket, non-blocking, the transport's from then on; if it
 * fails, it stays the caller's. */
PyObject *pacpy_stream_transport_new(PyObject *loop, PyObject *const *args, Py_ssize_t nargs);

/* Is it one of these, with a write() that nobody has put in the place of its own? */
bool pacpy_stream_transport_is_plain(struct pacpy_state *st, PyObject *transport);

/* Then that: a new reference to None, or NULL and an exception. */
PyObject *pacpy_stream_transport_write(PyObject *transport, PyObject *data);

#endif
