/* read_buffer.c - the memory that a loop receives into.
 *
 * It is a bytes object. What fills less than half of it is copied to one of the right size, and the
 * buffer serves the next. What fills more gets the object itself, cut short where it is: a large copy
 * costs as much as to receive the bytes once more, and giving back what such an object did not need
 * costs a mremap and a fault for each of its pages. */
#include "read_buffer.h"

static inline size_t
capacity(const LoopObject *loop)
{
    return loop->read_buffer == NULL ? 0 : (size_t)PyBytes_GET_SIZE(loop->read_buffer);
}

/* Messages come and go as blocks of up to PACPY_READ_BUFFER bytes, and until glibc has had a larger one
 * back, it gives the end of its heap to the system with nearly each of them and has it cleared anew (100
 * KiB: 25 page faults a message). So it gets one back. No page of that is touched. */
static void
prepare_allocator(void)
{
    enum { MUCH_LARGER = 4 * PACPY_READ_BUFFER };
    pac_free(pac_alloc(MUCH_LARGER));
}

char *
pacpy_read_buffer(LoopObject *loop, size_t size)
{
    if (loop->read_buffer == NULL || capacity(loop) < size) {
        prepare_allocator();
        PyObject *buffer = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (buffer == NULL) {
            return NULL;
        }
        Py_XSETREF(loop->read_buffer, buffer);
    }
    return PyBytes_AS_STRING(loop->read_buffer);
}

PyObject *
pacpy_read_buffer_take(LoopObject *loop, size_t count)
{
    if (count <= capacity(loop) / 2) {
        PyObject *copy =
            PyBytes_FromStringAndSize(PyBytes_AS_STRING(loop->read_buffer), (Py_ssize_t)count);
        if (PAC_LIKELY(copy != NULL)) {
            return copy;
        }
        PyErr_Clear();
    }
    PyObject *bytes = loop->read_buffer;
    loop->read_buffer = NULL;
    pacpy_bytes_set_length(bytes, (Py_ssize_t)count);
    return bytes;
}

void
pacpy_read_buffer_trim(LoopObject *loop)
{
    if (PAC_UNLIKELY(capacity(loop) > PACPY_READ_BUFFER)) {
        Py_CLEAR(loop->read_buffer);
    }
}
