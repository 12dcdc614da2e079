/* net_read.h - the operation that reads from a stream, for what is built on it.
 *
 * A step takes what it needs of the bytes that were read ahead, or receives more, until it is done
 * or nothing is there. It gives bytes out only when it is done, so that cancelling it at any moment
 * leaves them to the next. */
#ifndef PACPY_NET_READ_H
#define PACPY_NET_READ_H

#include "net.h"

struct pacpy_read;

/* 1 and a new reference in *value; 0: nothing is there now; -1 and an exception. */
typedef int pacpy_read_step(struct pacpy_read *self, StreamObject *s, PyObject **value);

typedef struct pacpy_read {
    OperationObject base;
    pacpy_read_step *step;
    size_t wanted;     /* how many bytes; or how many at most */
    size_t scanned;    /* of what was read ahead: known not to hold what is looked for */
    PyObject *object;  /* the step's own, or NULL: bytes, or what no cycle goes through */
    Py_buffer *target; /* read_into's, or NULL */
} ReadObject;

/* An operation on `s`; `object`: a new reference is taken. NULL and MemoryError. */
ReadObject *pacpy_read_new(StreamObject *s, pacpy_read_step *step, size_t wanted, PyObject *object);

/* ---- for steps ------------------------------------------------------------------------------ */

enum { PACPY_SCRATCH = 16384 };

static inline size_t
pacpy_ahead_size(const StreamObject *s)
{
    return s->end - s->start;
}

static inline char *
pacpy_ahead(const StreamObject *s)
{
    return PyBytes_AS_STRING(s->ahead) + s->start;
}

/* Give up the first `size` bytes of what was read ahead. */
void pacpy_ahead_consume(StreamObject *s, size_t size);

/* Those as bytes: a new reference, or NULL and MemoryError, and then nothing is given up. */
PyObject *pacpy_ahead_take(StreamObject *s, size_t size);

/* Receive into `scratch`, PACPY_SCRATCH bytes, while nothing was read ahead. What is not given out
 * has to be kept. 1 and *count, 0 at the end of the stream; 0: nothing is there now; -1. */
int pacpy_receive(StreamObject *s, char *scratch, size_t size, size_t *count);

/* Bytes of the last pacpy_receive become what was read ahead. Needs no memory that is not there. */
void pacpy_ahead_keep(StreamObject *s, const char *bytes, size_t size);

/* Receive behind what was read ahead, so that it is at most `total` bytes long. Room for so many is
 * made when there is none. As pacpy_receive. */
int pacpy_receive_more(StreamObject *s, size_t total, size_t *count);

/* Have `size` bytes read ahead, and more if they are there. As pacpy_receive, with 1 and *count 0
 * at the end of a stream that has fewer. */
int pacpy_receive_at_least(StreamObject *s, size_t size, size_t *count);

/* Where the first separator (bytes; NULL: a newline) ends, counted from `bytes`; 0: there is none. */
size_t pacpy_find_end(const char *bytes, size_t size, PyObject *separator);

/* asyncio.IncompleteReadError of what was read ahead, which is given up; `expected` may be None.
 * Returns -1. */
int pacpy_raise_incomplete(StreamObject *s, PyObject *expected);

/* asyncio.LimitOverrunError. Returns -1. */
int pacpy_raise_overrun(StreamObject *s, const char *message, size_t consumed);

#endif
