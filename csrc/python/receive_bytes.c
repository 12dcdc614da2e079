#include "receive_bytes.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

enum {
    SLACK = 8,   /* an object may be larger by the 8th part than what it is given out with */
    MISFITS = 4, /* in a row: then less is expected */
};

/* ---- what is expected ----------------------------------------------------------------------- */

/* A size that `count` and what is a little more fit into, of which it is 7/8 at least: of eight to each
 * power of two, so that sizes that are nearly the same are one. */
static size_t
size_for(size_t count)
{
    size_t step = PACPY_LARGE / SLACK;
    while (step * 2 * SLACK <= count) {
        step *= 2;
    }
    size_t size = (count + step - 1) / step * step;
    return size < PACPY_READ_BUFFER ? size : PACPY_READ_BUFFER;
}

void
pacpy_expect_anew(struct pacpy_expected *e, size_t count)
{
    if (count > e->size) {
        e->size = size_for(count);
    }
    else if (count < e->size - e->size / SLACK) {
        e->largest = count > e->largest ? count : e->largest;
        if (++e->misfits < MISFITS) {
            return;
        }
        e->size = e->largest < PACPY_LARGE ? 0 : size_for(e->largest);
    }
    e->largest = 0;
    e->misfits = 0;
}

/* ---- the loop's spare object ---------------------------------------------------------------- */

/* An object with room for `size` bytes: a new reference, *capacity what room it has. NULL and
 * MemoryError. */
static PyObject *
take_room(LoopObject *loop, size_t size, size_t *capacity)
{
    PyObject *spare = loop->spare;
    loop->spare = NULL;
    if (spare != NULL && loop->spare_capacity >= size &&
        loop->spare_capacity - size <= size / SLACK) {
        *capacity = loop->spare_capacity;
        return spare;
    }
    Py_XDECREF(spare);
    *capacity = size;
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
}

void
pacpy_receive_again(LoopObject *loop, PyObject *data, size_t capacity)
{
    if (capacity == 0 || loop->spare != NULL || !pacpy_is_only_reference(data)) {
        Py_DECREF(data);
        return;
    }
    pacpy_bytes_set_length(data, (Py_ssize_t)capacity);
    loop->spare = data;
    loop->spare_capacity = capacity;
}

void
pacpy_receive_forget(LoopObject *loop)
{
    Py_CLEAR(loop->spare);
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* Fill `room`, of `size` bytes, and the loop's buffer with what is more, up to `most`. */
static enum pac_status
receive_parts(TransportObject *t, char *room, size_t size, size_t most, size_t *count)
{
    if (size == most) {
        return pac_io_read(&t->io, room, size, count);
    }
    struct iovec parts[2] = {{room, size}, {pacpy_transport_read_buffer(t), most - size}};
    if (parts[1].iov_base == NULL) {
        return PAC_NO_MEMORY;
    }
    return pac_io_readv(&t->io, parts, 2, most, count);
}

/* `count` bytes, of which the room has `size` at the most and the loop's buffer the rest, as an object
 * of their own; NULL and MemoryError. */
static PyObject *
join(TransportObject *t, PyObject *room, size_t size, size_t count)
{
    PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (joined != NULL) {
        size_t first = count < size ? count : size;
        memcpy(PyBytes_AS_STRING(joined), PyBytes_AS_STRING(room), first);
        memcpy(PyBytes_AS_STRING(joined) + first, pacpy_transport_read_buffer(t), count - first);
    }
    return joined;
}

enum pac_status
pacpy_receive_bytes(TransportObject *t, struct pacpy_expected *e, size_t most, PyObject **data,
                    size_t *capacity)
{
    LoopObject *loop = t->loop;
    size_t room_for, count, size = e->size < most ? e->size : most;
    PyObject *room = take_room(loop, size, &room_for);
    *data = NULL;
    *capacity = 0;
    if (room == NULL) {
        return PAC_NO_MEMORY;
    }
    enum pac_status status = receive_parts(t, PyBytes_AS_STRING(room), size, most, &count);
    int error = errno;
    if (status == PAC_OK && count > 0) {
        pacpy_expect(e, count);
        if (count >= PACPY_LARGE && count <= size && count >= room_for - room_for / SLACK) {
            pacpy_bytes_set_length(room, (Py_ssize_t)count);
            *capacity = room_for;
            *data = room;
            return PAC_OK;
        }
        if (count >= PACPY_LARGE && count <= size) {
            *data = room;
            /* It may fail, and has given the room up then. */
            return _PyBytes_Resize(data, (Py_ssize_t)count) < 0 ? PAC_NO_MEMORY : PAC_OK;
        }
        *data = join(t, room, size, count);
        status = *data == NULL ? PAC_NO_MEMORY : PAC_OK;
    }
    pacpy_receive_again(loop, room, room_for);
    errno = error;
    return status;
}
