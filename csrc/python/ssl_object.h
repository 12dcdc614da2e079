/* ssl_object.h - an ssl.SSLObject between its two MemoryBIOs, as C drives it.
 *
 *     ciphertext that has come ──► incoming ──► SSLObject.read ──► plain bytes
 *     plain bytes ──► SSLObject.write ──► outgoing ──► ciphertext that has to go
 *
 * A SSLObject's read and write only pass their calls on to `_sslobj`, which is C's. Here they go
 * there at once, unless somebody has changed them: in a subclass, in the class, or on the object.
 *
 * That there is nothing to read an SSLObject says by an exception, which costs as much as
 * decrypting a kilobyte. pacpy_ssl_may_read() spares asking.
 *
 * Memory of ours is shown to C's objects through a window, which costs less than a memoryview. Other
 * objects might keep it, and get bytes of their own. */
#ifndef PACPY_SSL_OBJECT_H
#define PACPY_SSL_OBJECT_H

#include "state.h"

/* The most plain bytes that a record has: a read of so many takes all of it. */
enum { PACPY_RECORD_MAX = 16384 };

/* Much is decrypted in pieces of four records. A piece that is given away becomes memory for the next
 * one; of objects larger than this the system gets the memory back, and clears each page of it anew. */
enum { PACPY_PIECE = 4 * PACPY_RECORD_MAX };

/* All zero: none. */
struct pacpy_ssl {
    PyObject *object;   /* an ssl.SSLObject, or whatever has its methods */
    PyObject *incoming; /* as `outgoing` an ssl.MemoryBIO */
    PyObject *outgoing;
    PyObject *direct;     /* its _sslobj, to be called in its place; or NULL */
    PyObject *attributes; /* its dict, if `direct` is set: with that one in it */
    bool may_hold;        /* it may have more to say than `incoming` has it told */
    bool may_lack;        /* a call has failed for want of memory, and may have done its work: bytes
                           * have been decrypted and lost, or encrypted and not counted */
};

/* What is needed of the modules ssl and _ssl: 0, or -1 and an exception. Cheap after the first time. */
int pacpy_ssl_need(struct pacpy_state *st);

/* From now on it is `object`, which is looked at (NULL: none). After pacpy_ssl_need(). */
void pacpy_ssl_use(struct pacpy_state *st, struct pacpy_ssl *s, PyObject *object);

int pacpy_ssl_traverse(struct pacpy_ssl *s, visitproc visit, void *arg);
void pacpy_ssl_clear(struct pacpy_ssl *s);

/* Hand on `count` bytes that have come. 0, or -1 and an exception. */
int pacpy_ssl_feed(struct pacpy_state *st, struct pacpy_ssl *s, const char *bytes, size_t count);

/* May a read have something to say, apart from that there is nothing? 1, 0, or -1 and an exception. */
int pacpy_ssl_may_read(struct pacpy_state *st, struct pacpy_ssl *s);

/* Read `most` plain bytes at most: bytes, none at the end; NULL and an exception, which if it says
 * that there is nothing to read yet has the caller clear may_hold. */
PyObject *pacpy_ssl_read(struct pacpy_state *st, struct pacpy_ssl *s, Py_ssize_t most);

/* The same to where there is room for them: how many, or -1. */
Py_ssize_t pacpy_ssl_read_to(struct pacpy_state *st, struct pacpy_ssl *s, char *to,
                             Py_ssize_t most);

/* Encrypt `count` bytes: how many of them were, or -1 and an exception. */
Py_ssize_t pacpy_ssl_write(struct pacpy_state *st, struct pacpy_ssl *s, const char *bytes,
                           Py_ssize_t count);

/* All that has to go: bytes, perhaps none; NULL and an exception. */
PyObject *pacpy_ssl_take(struct pacpy_state *st, struct pacpy_ssl *s);

/* How many bytes a MemoryBIO has, or -1 and an exception. */
Py_ssize_t pacpy_bio_pending(struct pacpy_state *st, PyObject *bio);

#endif
