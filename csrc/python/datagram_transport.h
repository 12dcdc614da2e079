/* datagram_transport.h - UDP and Unix datagram sockets of the loop: an asyncio.DatagramTransport. */
#ifndef PACPY_DATAGRAM_TRANSPORT_H
#define PACPY_DATAGRAM_TRANSPORT_H

#include "transport.h"

/* LoopBase's method _datagram_transport(sock, protocol, address, waiter, extra); the latter three may
 * be None. `sock` is a non-blocking datagram socket, the transport's from then on, and `address` is
 * what it is connected to; if it fails, the socket stays the caller's. */
PyObject *pacpy_datagram_transport_new(PyObject *loop, PyObject *const *args, Py_ssize_t nargs);

#endif
