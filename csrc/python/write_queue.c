#include "write_queue.h"

#include <string.h>
#include <sys/uio.h>

enum { CAPACITY_MIN = 8 };

/* Make room for one more at the end. */
static int
reserve(struct pacpy_write_queue *q)
{
    if (q->first + q->count < q->capacity) {
        return 0;
    }
    if (q->first > q->capacity / 2) {
        memmove(q->parts, q->parts + q->first, q->count * sizeof *q->parts);
        q->first = 0;
        return 0;
    }
    size_t capacity = q->capacity == 0 ? CAPACITY_MIN : 2 * q->capacity;
    PyObject **parts = PyMem_Resize(q->parts, PyObject *, capacity);
    if (parts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    q->parts = parts;
    q->capacity = capacity;
    return 0;
}

int
pacpy_write_queue_push(struct pacpy_write_queue *q, PyObject *data, size_t offset)
{
    if (reserve(q) < 0) {
        return -1;
    }
    if (q->count == 0) {
        q->offset = offset;
    }
    q->parts[q->first + q->count++] = Py_NewRef(data);
    q->size += (size_t)PyBytes_GET_SIZE(data) - offset;
    return 0;
}

size_t
pacpy_write_queue_fill(const struct pacpy_write_queue *q, struct iovec *parts, size_t max,
                       size_t *total)
{
    size_t count = q->count < max ? q->count : max;
    size_t offset = q->offset;
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        PyObject *data = q->parts[q->first + i];
        parts[i].iov_base = PyBytes_AS_STRING(data) + offset;
        parts[i].iov_len = (size_t)PyBytes_GET_SIZE(data) - offset;
        *total += parts[i].iov_len;
        offset = 0;
    }
    return count;
}

void
pacpy_write_queue_consume(struct pacpy_write_queue *q, size_t count)
{
    q->size -= count;
    q->offset += count;
    while (q->count > 0) {
        PyObject *data = q->parts[q->first];
        size_t size = (size_t)PyBytes_GET_SIZE(data);
        if (q->offset < size) {
            return;
        }
        q->offset -= size;
        q->first++;
        q->count--;
        Py_DECREF(data); /* of type bytes: runs nothing */
    }
    q->first = 0;
}

void
pacpy_write_queue_clear(struct pacpy_write_queue *q)
{
    for (size_t i = 0; i < q->count; i++) {
        Py_DECREF(q->parts[q->first + i]);
    }
    PyMem_Free(q->parts);
    memset(q, 0, sizeof *q);
}
