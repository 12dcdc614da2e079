/* stream_object.h - what the two halves of a stream transport share. */
#ifndef PACPY_STREAM_OBJECT_H
#define PACPY_STREAM_OBJECT_H

#include "receive_bytes.h"
#include "stream_transport.h"
#include "transport_writer.h"

typedef struct {
    TransportObject base;
    struct pacpy_writer writer;
    PyObject *empty_waiter; /* a future: sendfile waits until nothing is pending; or NULL */
    Py_ssize_t read_max;
    struct pacpy_expected expected; /* of the protocol's reads */
    bool eof;                       /* write_eof() was called */
    bool buffered;                  /* the protocol is a BufferedProtocol */
    bool feeds_tls;                 /* or rather asyncio's SSLProtocol, with its hot half ours */
    bool feeds_reader;              /* or one of asyncio's streams, with a reader of ours */
} StreamTransportObject;

static inline StreamTransportObject *
pacpy_stream_of(TransportObject *t)
{
    return (StreamTransportObject *)t;
}

/* One read, and what comes of it: readable, in the transport's context. */
void pacpy_stream_receive(TransportObject *t);

#endif
