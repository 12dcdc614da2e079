#include "transport_writer.h"

#include "args.h"

#include <sys/uio.h>

enum { PARTS_MAX = 64 }; /* of one system call */

int
pacpy_writer_check(PyObject *data)
{
    if (PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not '%s'",
                 pacpy_short_name(Py_TYPE(data)));
    return -1;
}

/* What was written is written: the stream has a hole from here on. 0 or -1. */
static int
fail(TransportObject *t, struct pacpy_writer *w)
{
    return pacpy_transport_fatal_to_caller(t, w->failed);
}

static int
os_error(TransportObject *t, struct pacpy_writer *w)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return fail(t, w);
}

static int
refuse_closed(TransportObject *t)
{
    pacpy_loop_refuse_closed(t->loop);
    return -1;
}

static int
wait_for_room(TransportObject *t)
{
    return pacpy_transport_settle(t) < 0 ? -1 : pacpy_transport_maybe_pause(t);
}

/* Keep the end of `data`, from `offset` on. 0 or -1. */
static int
keep(TransportObject *t, struct pacpy_writer *w, PyObject *data, const Py_buffer *view,
     size_t offset)
{
    int pushed;
    if (PyBytes_CheckExact(data)) {
        pushed = pacpy_write_queue_push(&w->pending, data, offset);
    }
    else {
        /* The caller may change it. */
        PyObject *copy =
            PyBytes_FromStringAndSize((char *)view->buf + offset, view->len - (Py_ssize_t)offset);
        pushed = copy == NULL ? -1 : pacpy_write_queue_push(&w->pending, copy, 0);
        Py_XDECREF(copy);
    }
    return pushed < 0 ? fail(t, w) : wait_for_room(t);
}

static int
write_view(TransportObject *t, struct pacpy_writer *w, PyObject *data, const Py_buffer *view)
{
    size_t count = 0;
    if (w->pending.size == 0) {
        enum pac_status status = pac_io_write(&t->io, view->buf, (size_t)view->len, &count);
        if (status == PAC_OK && count == (size_t)view->len) {
            return 0;
        }
        if (status == PAC_OS_ERROR) {
            return os_error(t, w);
        }
        if (status == PAC_CLOSED) {
            return refuse_closed(t);
        }
    }
    return keep(t, w, data, view, count);
}

PyObject *
pacpy_writer_write(TransportObject *t, struct pacpy_writer *w, PyObject *data,
                   pacpy_writer_ended *ended)
{
    Py_buffer view;
    bool is_bytes = PyBytes_CheckExact(data);
    if (is_bytes) {
        view.buf = PyBytes_AS_STRING(data);
        view.len = PyBytes_GET_SIZE(data);
    }
    else if (pacpy_writer_check(data) < 0 || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *result;
    if (view.len == 0) {
        result = Py_NewRef(Py_None);
    }
    else if (PAC_UNLIKELY(ended(t))) {
        result = pacpy_transport_write_to_nobody(t, w->after_end);
    }
    else {
        result = write_view(t, w, data, &view) < 0 ? NULL : Py_NewRef(Py_None);
    }
    if (!is_bytes) {
        PyBuffer_Release(&view);
    }
    return result;
}

/* One system call for what is pending. PAC_OK, PAC_WOULD_BLOCK, PAC_CLOSED, PAC_OS_ERROR and errno. */
static enum pac_status
write_pending(TransportObject *t, struct pacpy_writer *w)
{
    struct iovec parts[PARTS_MAX];
    size_t total, count;
    size_t part_count = pacpy_write_queue_fill(&w->pending, parts, PARTS_MAX, &total);
    enum pac_status status = pac_io_writev(&t->io, parts, part_count, total, &count);
    if (status == PAC_OK) {
        pacpy_write_queue_consume(&w->pending, count);
    }
    return status;
}

/* All of `list` as bytes, in a list of its own: a new reference, or NULL and an exception. */
static PyObject *
all_as_bytes(PyObject *list)
{
    PyObject *given = PySequence_List(list);
    for (Py_ssize_t i = 0; given != NULL && i < PyList_GET_SIZE(given); i++) {
        PyObject *data = PyList_GET_ITEM(given, i);
        if (PyBytes_CheckExact(data)) {
            continue;
        }
        PyObject *copy = PyMemoryView_FromObject(data);
        if (copy != NULL) {
            Py_SETREF(copy, PyBytes_FromObject(copy));
        }
        if (copy == NULL || PyList_SetItem(given, i, copy) < 0) {
            Py_CLEAR(given);
        }
    }
    return given;
}

/* Queue them all, then write as much as goes. 0 or -1. */
static int
write_all(TransportObject *t, struct pacpy_writer *w, PyObject *list)
{
    bool was_empty = w->pending.size == 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *data = PyList_GET_ITEM(list, i);
        if (PyBytes_GET_SIZE(data) > 0 && pacpy_write_queue_push(&w->pending, data, 0) < 0) {
            return fail(t, w);
        }
    }
    enum pac_status status = PAC_OK;
    while (was_empty && w->pending.size > 0 && status == PAC_OK) {
        status = write_pending(t, w);
        if (status == PAC_OS_ERROR) {
            return os_error(t, w);
        }
        if (status == PAC_CLOSED) {
            pacpy_write_queue_clear(&w->pending);
            return refuse_closed(t);
        }
    }
    return w->pending.size == 0 ? 0 : wait_for_room(t);
}

PyObject *
pacpy_writer_writelines(TransportObject *t, struct pacpy_writer *w, PyObject *list,
                        pacpy_writer_ended *ended)
{
    PyObject *all = all_as_bytes(list);
    if (all == NULL) {
        return NULL;
    }
    PyObject *result;
    if (PyList_GET_SIZE(all) == 0) {
        result = Py_NewRef(Py_None);
    }
    else if (ended(t)) {
        result = pacpy_transport_write_to_nobody(t, w->after_end);
    }
    else {
        result = write_all(t, w, all) < 0 ? NULL : Py_NewRef(Py_None);
    }
    Py_DECREF(all);
    return result;
}

enum pac_status
pacpy_writer_flush(TransportObject *t, struct pacpy_writer *w)
{
    enum pac_status status = write_pending(t, w);
    if (status == PAC_OS_ERROR) {
        PyErr_SetFromErrno(PyExc_OSError);
        PyObject *exc = PyErr_GetRaisedException();
        pacpy_write_queue_clear(&w->pending);
        PyErr_SetRaisedException(exc);
    }
    return status;
}
