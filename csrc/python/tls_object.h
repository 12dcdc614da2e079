/* tls_object.h - what the halves of the TLS protocol share: its state and what both call. */
#ifndef PACPY_TLS_OBJECT_H
#define PACPY_TLS_OBJECT_H

#include "ssl_object.h"
#include "tls_protocol.h"

/* What asyncio keeps in attributes of these names, with an underscore in front. */
#define PACPY_TLS_OBJECTS(X)       \
    X(state)                       \
    X(transport)                   \
    X(write_backlog)               \
    X(app_protocol_get_buffer)     \
    X(app_protocol_buffer_updated) \
    X(outgoing_high_water)         \
    X(outgoing_low_water)          \
    X(incoming_high_water)         \
    X(incoming_low_water)

#define PACPY_TLS_FLAGS(X) \
    X(app_reading_paused)  \
    X(app_writing_paused)  \
    X(ssl_reading_paused)  \
    X(ssl_writing_paused)  \
    X(eof_received)        \
    X(app_protocol_is_buffer)

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pacpy_ssl ssl; /* _sslobj, _incoming, _outgoing */
    PyObject *app_protocol;
#define X(name) PyObject *name;
    PACPY_TLS_OBJECTS(X)
#undef X
    Py_ssize_t write_buffer_size; /* bytes in write_backlog */
#define X(name) char name;
    PACPY_TLS_FLAGS(X)
#undef X
    bool feeds_reader; /* app_protocol is one of asyncio's streams, with a reader of ours */
    bool delivering;   /* in its data_received(), and there may be more to deliver */
} TlsProtocolObject;

/* AttributeError: what asyncio's __init__ sets is not there. Returns -1. */
int pacpy_tls_missing(const char *name);

/* Is the exception that is set asyncio's SSLAgainErrors? Then it is cleared. */
bool pacpy_tls_caught_again(TlsProtocolObject *self);

/* Call a method of asyncio's. 0, or -1 and an exception. */
int pacpy_tls_call(TlsProtocolObject *self, PyObject *name);

/* The exception that is set ends the connection: asyncio's _fatal_error, with the exception being
 * handled, as it logs that. What is no Exception is the caller's. 0, or -1 and an exception. */
int pacpy_tls_fatal(TlsProtocolObject *self);

/* Does something wait to be encrypted? 1, 0, or -1 and an exception. */
int pacpy_tls_has_backlog(TlsProtocolObject *self);

/* asyncio's _process_outgoing, _control_ssl_reading and _do_read, the last of which may be told how
 * many bytes have come, or 0. Each 0, or -1 and an exception. */
int pacpy_tls_process_outgoing(TlsProtocolObject *self);
int pacpy_tls_control_reading(TlsProtocolObject *self);
int pacpy_tls_do_read(TlsProtocolObject *self, size_t hint);

/* The SSLObject was given something, `hint` bytes: on by the state. 0, or -1 and an exception. */
int pacpy_tls_go_on(TlsProtocolObject *self, size_t hint);

#endif
