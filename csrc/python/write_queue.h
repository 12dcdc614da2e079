/* write_queue.h - what a transport could not write at once: bytes objects, the first of them
 * perhaps in part, to be written by one call. */
#ifndef PACPY_WRITE_QUEUE_H
#define PACPY_WRITE_QUEUE_H

#include "compat.h"

struct iovec;

struct pacpy_write_queue {
    PyObject **parts; /* bytes objects, those from `first` on */
    size_t first, count, capacity;
    size_t offset; /* how much of the first one was written */
    size_t size;   /* bytes that are left */
};

/* All zero is an empty one. */

/* Append `data`, a bytes object, without its first `offset` bytes, which must be 0 unless the queue
 * is empty, and which leave something. 0, or -1 and MemoryError. */
int pacpy_write_queue_push(struct pacpy_write_queue *q, PyObject *data, size_t offset);

/* The first parts, `max` at most: how many, and their bytes in *total. */
size_t pacpy_write_queue_fill(const struct pacpy_write_queue *q, struct iovec *parts, size_t max,
                              size_t *total);

/* `count` bytes have been written. */
void pacpy_write_queue_consume(struct pacpy_write_queue *q, size_t count);

/* Empty it, and give its memory back. */
void pacpy_write_queue_clear(struct pacpy_write_queue *q);

#endif
