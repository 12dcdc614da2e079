/* net_address.c - sockaddr_in, sockaddr_in6 and sockaddr_un, and what Python sees of them.
 *
 * A name is looked up by the loop's getaddrinfo, in a thread (pyasync_c/_net_open.py). Most
 * addresses that a program connects to are written out already, and need no thread. */
#include "net_address.h"

#include "args.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

/* ---- to Python ------------------------------------------------------------------------------ */

static PyObject *
object_of_in(const struct sockaddr_in *in)
{
    char host[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
    return Py_BuildValue("(si)", host, ntohs(in->sin_port));
}

static PyObject *
object_of_in6(const struct sockaddr_in6 *in6)
{
    char host[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
    return Py_BuildValue("(siII)", host, ntohs(in6->sin6_port), ntohl(in6->sin6_flowinfo),
                         in6->sin6_scope_id);
}

static PyObject *
object_of_un(const struct sockaddr_un *un, socklen_t size)
{
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    size_t length = size > offset ? size - offset : 0;
    if (length > 0 && un->sun_path[0] == '\0') {
        return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)length);
    }
    return PyUnicode_DecodeFSDefaultAndSize(un->sun_path,
                                            (Py_ssize_t)strnlen(un->sun_path, length));
}

PyObject *
pacpy_address_to_object(const struct pacpy_address *address)
{
    const struct sockaddr_storage *storage = &address->storage;
    if (address->size < sizeof storage->ss_family) {
        Py_RETURN_NONE;
    }
    switch (storage->ss_family) {
        case AF_INET:
            return object_of_in((const struct sockaddr_in *)storage);
        case AF_INET6:
            return object_of_in6((const struct sockaddr_in6 *)storage);
        case AF_UNIX:
            return object_of_un((const struct sockaddr_un *)storage, address->size);
        default:
            Py_RETURN_NONE;
    }
}

/* ---- from Python ---------------------------------------------------------------------------- */

enum { PORT_MAX = 65535 };

/* 1, 0: not an address that is written out. */
static int
parse_literal(const char *host, uint16_t port, struct pacpy_address *address)
{
    memset(address, 0, sizeof *address);
    struct sockaddr_in *in = (struct sockaddr_in *)&address->storage;
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        address->size = sizeof *in;
        return 1;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        address->size = sizeof *in6;
        return 1;
    }
    return 0;
}

static const char *
host_from_object(PyObject *host)
{
    if (!PyUnicode_Check(host)) {
        PyErr_Format(PyExc_TypeError, "host must be a str, not %.200s", Py_TYPE(host)->tp_name);
        return NULL;
    }
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(host, &size);
    if (text != NULL && (size == 0 || strlen(text) != (size_t)size)) {
        PyErr_SetString(PyExc_ValueError, size == 0 ? "host must not be empty"
                                                    : "host must not contain a null character");
        return NULL;
    }
    return text;
}

int
pacpy_address_from_host(PyObject *host, PyObject *port, struct pacpy_address *address)
{
    uint64_t number;
    const char *text = host_from_object(host);
    if (text == NULL || pacpy_count_from_object(port, "port", 0, PORT_MAX, &number) < 0) {
        return -1;
    }
    return parse_literal(text, (uint16_t)number, address);
}

/* What getaddrinfo has found for a link-local address names its interface after a per cent sign,
 * and its number again in the tuple. */
static int
parse_without_interface(const char *host, uint16_t port, struct pacpy_address *address)
{
    char bare[INET6_ADDRSTRLEN];
    size_t length = strcspn(host, "%");
    if (length >= sizeof bare) {
        return 0;
    }
    memcpy(bare, host, length);
    bare[length] = '\0';
    return parse_literal(bare, port, address);
}

int
pacpy_address_from_tuple(PyObject *tuple, struct pacpy_address *address)
{
    PyObject *host, *port_object;
    unsigned flowinfo = 0, scope_id = 0;
    uint64_t port;
    if (!PyTuple_Check(tuple)) {
        PyErr_Format(PyExc_TypeError, "an address must be a tuple (host, port), not %.200s",
                     Py_TYPE(tuple)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "OO|II;an address is a tuple (host, port)", &host, &port_object,
                          &flowinfo, &scope_id)) {
        return -1;
    }
    const char *text = host_from_object(host);
    if (text == NULL || pacpy_count_from_object(port_object, "port", 0, PORT_MAX, &port) < 0) {
        return -1;
    }
    if (!parse_without_interface(text, (uint16_t)port, address)) {
        PyErr_Format(PyExc_ValueError,
                     "not an IP address: %R (names are looked up by connect() "
                     "and bind() only)",
                     host);
        return -1;
    }
    if (address->storage.ss_family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;
        in6->sin6_flowinfo = htonl(flowinfo);
        in6->sin6_scope_id = scope_id;
    }
    return 0;
}

int
pacpy_address_from_path(PyObject *path, struct pacpy_address *address)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
    PyObject *bytes = NULL;
    memset(address, 0, sizeof *address);
    if (PyBytes_Check(path)) {
        bytes = Py_NewRef(path);
    }
    else if (PyUnicode_Check(path)) { /* by the file system's encoding, but with its nulls */
        bytes = PyUnicode_EncodeFSDefault(path);
        if (bytes == NULL) {
            return -1;
        }
    }
    else if (!PyUnicode_FSConverter(path, &bytes)) {
        return -1;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    const char *text = PyBytes_AS_STRING(bytes);
    /* One in the abstract namespace begins with a null, and may have more of them. */
    bool is_abstract = size > 0 && text[0] == '\0';
    int failed = -1;
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "the path of a Unix socket must not be empty");
    }
    else if (!is_abstract && memchr(text, '\0', size) != NULL) {
        PyErr_SetString(PyExc_ValueError, "the path of a Unix socket must not contain a null");
    }
    else if (size + !is_abstract > sizeof un->sun_path) {
        PyErr_Format(PyExc_ValueError, "the path of a Unix socket must be at most %zu bytes long",
                     sizeof un->sun_path - !is_abstract);
    }
    else {
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, text, size);
        address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + !is_abstract);
        failed = 0;
    }
    Py_DECREF(bytes);
    return failed;
}
