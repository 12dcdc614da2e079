/* net_tls.h - what reading and writing need of a TLS stream: its bytes, decrypted and encrypted. */
#ifndef PACPY_NET_TLS_H
#define PACPY_NET_TLS_H

#include "net.h"

/* As pac_io_read and pac_io_write, of plain bytes. PAC_OS_ERROR: an exception is set. What was
 * written counts when it is encrypted; pacpy_tls_flush says when it has gone. */
enum pac_status pacpy_tls_read(StreamObject *s, void *buffer, size_t size, size_t *count);
enum pac_status pacpy_tls_write(StreamObject *s, const void *bytes, size_t size, size_t *count);

/* What a write has to wait for that would block: room, or in a handshake what the other side says. */
unsigned pacpy_tls_write_waits_for(StreamObject *s);

/* Read as much as is there, `wanted` bytes at most and more than a record if it can be, into an object
 * of its own, while nothing was read ahead. As a step: 1 and *value, 0 or -1. */
int pacpy_tls_read_much(StreamObject *s, size_t wanted, PyObject **value);

/* Write what is encrypted and has not gone yet. PAC_OK: all has. */
enum pac_status pacpy_tls_flush(StreamObject *s);

/* Say that no more will be written: PAC_OK once that has gone. */
enum pac_status pacpy_tls_shutdown(StreamObject *s);

static inline enum pac_status
pacpy_stream_read(StreamObject *s, void *buffer, size_t size, size_t *count)
{
    return PAC_LIKELY(!s->is_tls) ? pac_io_read(&s->socket.io, buffer, size, count)
                                  : pacpy_tls_read(s, buffer, size, count);
}

static inline enum pac_status
pacpy_stream_write(StreamObject *s, const void *bytes, size_t size, size_t *count)
{
    return PAC_LIKELY(!s->is_tls) ? pac_io_write(&s->socket.io, bytes, size, count)
                                  : pacpy_tls_write(s, bytes, size, count);
}

#endif
