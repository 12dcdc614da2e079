/* net_address.h - addresses of sockets: the system's, and Python's tuples and paths. */
#ifndef PACPY_NET_ADDRESS_H
#define PACPY_NET_ADDRESS_H

#include "state.h"

#include <sys/socket.h>

struct pacpy_address {
    struct sockaddr_storage storage;
    socklen_t size;
};

/* (host, port), for IPv6 (host, port, flowinfo, scope_id); a path of a Unix socket, bytes for one
 * in the abstract namespace and "" for one without a name: as the module socket has them. None for
 * any other family. A new reference, or NULL and an exception. */
PyObject *pacpy_address_to_object(const struct pacpy_address *address);

/* An IP address that is written out, and a port. 1; 0: `host` is a name, which somebody has to look
 * up; -1 and TypeError, ValueError or OverflowError. */
int pacpy_address_from_host(PyObject *host, PyObject *port, struct pacpy_address *address);

/* Which families a type of socket takes; see pacpy_socket_from_object. */
static inline bool
pacpy_is_ip(int family)
{
    return family == AF_INET || family == AF_INET6;
}

static inline bool
pacpy_is_unix(int family)
{
    return family == AF_UNIX;
}

/* A tuple as above, whose host is written out. 0, or -1 and an exception. */
int pacpy_address_from_tuple(PyObject *tuple, struct pacpy_address *address);

/* str, bytes or a path-like object. 0, or -1 and an exception. */
int pacpy_address_from_path(PyObject *path, struct pacpy_address *address);

#endif
