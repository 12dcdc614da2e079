/* receive_bytes.h - bytes objects that the kernel fills, so that a large read is copied nowhere.
 *
 * Such an object is made before anybody knows how much there is. So a connection remembers how large
 * its reads were (`expected`), and reads into an object of that size first and into the loop's buffer
 * behind it, by one system call:
 *
 *      ┌──────── the object ────────┐┌────────── the loop's buffer ──────────┐
 *      what fills it, or nearly so, is given out as it is
 *      what is less is given out shrunk; what is little, as a copy of its size
 *      what is more ──────────────────────────── is joined, by one copy
 *
 * An object that nobody has kept is the loop's to receive into again: blocks of that size would come
 * from the system and go back to it, each page cleared anew. */
#ifndef PACPY_RECEIVE_BYTES_H
#define PACPY_RECEIVE_BYTES_H

#include "transport.h"

/* Less than so many bytes cost less to copy. */
enum { PACPY_LARGE = 16 * 1024 };

/* What one connection's reads come to; zeroed: nothing is known. */
struct pacpy_expected {
    size_t size;      /* what the next one is expected to fit into; 0: it is small */
    size_t largest;   /* of those in a row that were much smaller */
    unsigned misfits; /* how many these were */
};

/* A read has come to `count` bytes. What is more than expected is expected at once; what is less, if
 * it comes to that several times in a row, so that a small message between large ones changes
 * nothing. */
void pacpy_expect_anew(struct pacpy_expected *e, size_t count);

static inline void
pacpy_expect(struct pacpy_expected *e, size_t count)
{
    if (PAC_UNLIKELY(count >= PACPY_LARGE || e->size != 0)) {
        pacpy_expect_anew(e, count);
    }
}

/* Receive at most `most` bytes, not more than PACPY_READ_BUFFER, into an object of the size that is
 * expected, which is not 0. PAC_OK and *data, a new reference, NULL at the end of the stream;
 * PAC_NO_MEMORY and an exception; else as pac_io_read. *capacity is for pacpy_receive_again. */
PAC_MUST_USE enum pac_status pacpy_receive_bytes(TransportObject *t, struct pacpy_expected *e,
                                                 size_t most, PyObject **data, size_t *capacity);

/* Gives up the reference to what has been received and used. `capacity`: what was said of it; 0: it is
 * bytes like any other. */
void pacpy_receive_again(LoopObject *loop, PyObject *data, size_t capacity);

/* The loop ends. */
void pacpy_receive_forget(LoopObject *loop);

#endif
