/* loop_sources.h - the descriptors that a loop watches level-triggered: for callbacks
 * (add_reader, by way of the selector's face) and for operations in C that wait (sock_recv and
 * the like). Both may want the same descriptor. */
#ifndef PACPY_LOOP_SOURCES_H
#define PACPY_LOOP_SOURCES_H

#include "eventloop.h"

#include "../core/waitlist.h"

/* ---- for callbacks -------------------------------------------------------------------------- */

/* LoopBase's methods: _poll_register(fd, events, key), _poll_modify(fd, events, key),
 * _poll_unregister(fd). `events` are those of the selectors module, and `key` is the SelectorKey
 * that they are reported with. */
PyObject *pacpy_loop_poll_register(PyObject *op, PyObject *args);
PyObject *pacpy_loop_poll_modify(PyObject *op, PyObject *args);
PyObject *pacpy_loop_poll_unregister(PyObject *op, PyObject *fd_object);

/* ---- for operations ------------------------------------------------------------------------- */

/* The part of an operation that waits. Its waker is woken once the descriptor is ready in
 * `direction` (PAC_READABLE or PAC_WRITABLE), in vain now and then, or the loop has closed. */
struct pacpy_source_wait {
    struct pac_waiter waiter;
    unsigned direction;
};

static inline void
pacpy_source_wait_init(struct pacpy_source_wait *w, unsigned direction)
{
    pac_waiter_init(&w->waiter);
    w->direction = direction;
}

/* Wait for `fd` with the newest waker, cx's; to be called again at each poll that finds nothing.
 * 0, or -1 with OSError, MemoryError, or RuntimeError if the descriptor is a transport's. */
int pacpy_source_wait(LoopObject *loop, int fd, struct pacpy_source_wait *w,
                      struct pac_context *cx);

/* Wait no longer. Twice is a no-op. */
void pacpy_source_stop_waiting(struct pacpy_source_wait *w);

/* ---- for the loop --------------------------------------------------------------------------- */

/* Getter of LoopBase: how many descriptors somebody wants to be watched, those of transports and of
 * pyasync_c.net among them. */
PyObject *pacpy_loop_get_watched(PyObject *op, void *ignored);

/* Forget all of them, after the executor has closed; who waits is woken. */
void pacpy_sources_free(LoopObject *loop);

/* For the loop's tp_traverse. */
int pacpy_sources_visit(LoopObject *loop, visitproc visit, void *arg);

#endif
