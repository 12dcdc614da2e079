/* c_io.c - the core's record of a descriptor, counted: by the extension's handle, and by each future
 * that waits for it, since those may go after the handle was given up. All of it on the loop's
 * thread, which owns the record. */
#include "c_io.h"

#include "bridge.h"
#include "c_future.h"

#include "../core/io.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

struct pyasync_c_io {
    struct pac_io core;
    struct pac_executor *executor; /* only compared */
    pid_t pid;                     /* the process whose loop watches it */
    unsigned references;
};

struct io_ready {
    struct pyasync_c_future future;
    struct pyasync_c_io *io; /* one reference; NULL: dropped */
    struct pac_io_ready core;
};

static_assert(sizeof(struct io_ready) <= sizeof(struct pyasync_c_io_ready), "it fits");
static_assert(PYASYNC_C_READABLE == (int)PAC_READABLE && PYASYNC_C_WRITABLE == (int)PAC_WRITABLE,
              "one direction, two names");

static void
io_unref(struct pyasync_c_io *io)
{
    if (--io->references == 0) {
        PyMem_Free(io);
    }
}

struct pyasync_c_io *
pacpy_c_io_open(struct pacpy_state *st, int fd)
{
    struct pac_scheduler *before;
    bool entered = pacpy_bridge_enter(st, &before);
    struct pac_executor *ex = pac_executor_current();
    if (ex == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        return NULL;
    }
    struct pyasync_c_io *io = PyMem_Calloc(1, sizeof *io);
    enum pac_status status = PAC_NO_MEMORY;
    if (io != NULL) {
        io->executor = ex;
        io->pid = getpid();
        io->references = 1;
        status =
            pac_io_open(&io->core, &ex->reactor, fd, PAC_IO_OTHER, PAC_READABLE | PAC_WRITABLE);
    }
    int error = errno;
    if (entered) {
        pac_executor_leave(before);
    }
    if (status == PAC_OK) {
        return io;
    }
    PyMem_Free(io);
    if (status == PAC_OS_ERROR) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    else {
        PyErr_NoMemory();
    }
    return NULL;
}

void
pacpy_c_io_close(struct pyasync_c_io *io)
{
    if (io == NULL) {
        return;
    }
    /* In a fork's child the descriptors are shared with the parent, whose loop goes on watching. */
    if (io->pid == getpid()) {
        PyObject *exception = PyErr_GetRaisedException();
        pac_io_close(&io->core);
        if (exception != NULL) {
            PyErr_SetRaisedException(exception);
        }
    }
    io_unref(io);
}

int
pacpy_c_io_begin(struct pyasync_c_io *io, int direction, uint32_t *tick)
{
    enum pac_status status =
        io == NULL ? PAC_CLOSED : pac_io_begin(&io->core, (unsigned)direction, tick);
    return status == PAC_OK ? 1 : status == PAC_WOULD_BLOCK ? 0 : -1;
}

void
pacpy_c_io_blocked(struct pyasync_c_io *io, int direction, uint32_t tick)
{
    if (io != NULL) {
        errno = EAGAIN;
        enum pac_status ignored = pac_io_end(&io->core, (unsigned)direction, tick, -1, 0);
        (void)ignored;
    }
}

/* ---- waiting -------------------------------------------------------------------------------- */

static int
io_ready_poll(struct pyasync_c_future *f, struct pyasync_c_context *cx)
{
    struct io_ready *self = (struct io_ready *)(void *)f;
    struct pyasync_c_io *io = self->io;
    if (io == NULL || (pac_io_is_open(&io->core) && pac_executor_current() != io->executor)) {
        PyErr_SetString(PyExc_RuntimeError,
                        io == NULL ? "this wait for a descriptor was dropped"
                                   : "this descriptor is watched by another event loop");
        return PYASYNC_C_ERROR;
    }
    return pac_io_ready_poll(&self->core, (struct pac_context *)(void *)cx);
}

static void
io_ready_drop(struct pyasync_c_future *f)
{
    struct io_ready *self = (struct io_ready *)(void *)f;
    if (self->io != NULL) {
        pac_io_ready_drop(&self->core);
        io_unref(self->io);
        self->io = NULL;
    }
}

static const struct pyasync_c_future_vtable io_ready_vtable = {io_ready_poll, io_ready_drop};

void
pacpy_c_io_ready_init(struct pyasync_c_io_ready *ready, struct pyasync_c_io *io, int interest)
{
    struct io_ready *self = (struct io_ready *)(void *)ready;
    self->future.vtable = &io_ready_vtable;
    self->io = io;
    if (io != NULL) {
        io->references++;
        pac_io_ready_init(&self->core, &io->core, (unsigned)interest);
    }
}

int
pacpy_c_io_ready_poll(struct pyasync_c_io_ready *ready, struct pyasync_c_context *cx)
{
    return io_ready_poll(&ready->future, cx);
}

void
pacpy_c_io_ready_drop(struct pyasync_c_io_ready *ready)
{
    io_ready_drop(&ready->future);
}

/* One that is memory of its own. */
static void
io_wait_drop(struct pyasync_c_future *f)
{
    io_ready_drop(f);
    PyMem_Free(f);
}

static const struct pyasync_c_future_vtable io_wait_vtable = {io_ready_poll, io_wait_drop};

PyObject *
pacpy_c_io_wait(struct pacpy_state *st, struct pyasync_c_io *io, int interest)
{
    if (io == NULL || interest < PYASYNC_C_READABLE ||
        interest > (PYASYNC_C_READABLE | PYASYNC_C_WRITABLE)) {
        return PyErr_Format(PyExc_ValueError, "io_wait: %s",
                            io == NULL ? "the record is NULL" : "there is no such interest");
    }
    struct pyasync_c_io_ready *ready = PyMem_Malloc(sizeof *ready);
    if (ready == NULL) {
        return PyErr_NoMemory();
    }
    pacpy_c_io_ready_init(ready, io, interest);
    ready->future.vtable = &io_wait_vtable;
    PyObject *awaitable = pacpy_c_future_new(st, &ready->future, NULL);
    if (awaitable == NULL) {
        io_wait_drop(&ready->future);
    }
    return awaitable;
}
