/* tls_protocol.h - the hot half of asyncio's TLS: what lies between a stream transport and an
 * SSLObject, and between that and the application's protocol.
 *
 *     transport ──► pacpy_tls_received ──► SSLObject ──► data_received, buffer_updated
 *     transport.write ◄── SSLObject ◄── write, writelines
 *
 * pyasync_c/_tls_protocol.py makes two classes of what is here and of asyncio's: an SSLProtocol and
 * its transport. Handshake, shutdown, timeouts, errors and everything that is rare are asyncio's own
 * methods, called by their names. The state that both halves use stands in fields here, under the
 * names under which asyncio keeps it (`_state`, `_sslobj`, `_app_protocol`, ...).
 *
 * Where it differs from asyncio's, on purpose:
 *   - it asks the SSLObject once more only if there is something to be had, since being told that
 *     there is nothing is an exception;
 *   - a connection has no receive buffer of its own: its transport receives into the loop's;
 *   - writelines() is one write, so that small parts share a record;
 *   - what has been decrypted before a record that is broken is delivered before the error;
 *   - if the peer's TCP ends over what has not been read, all of that is delivered first, in as many
 *     pieces or buffers as it takes, and as often as the protocol pauses; or it closes, and ends it;
 *   - what a protocol that closes has not read does not break the connection off. */
#ifndef PACPY_TLS_PROTOCOL_H
#define PACPY_TLS_PROTOCOL_H

#include "state.h"

/* Is `protocol` one of these, with the methods as they are here? It is given bytes then. */
bool pacpy_tls_is_ours(struct pacpy_state *st, PyObject *protocol);

/* What buffer_updated() does, of `count` bytes that have come, for one that is. Whatever this comes
 * to does not use them any more when Python is called. 0, or -1 and an exception. */
int pacpy_tls_received(PyObject *protocol, const char *bytes, size_t count);

#endif
