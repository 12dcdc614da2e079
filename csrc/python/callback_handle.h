/* callback_handle.h - asyncio's Handle and TimerHandle as runnables and timers of the core.
 *
 * Both derive from asyncio's Python classes, and keep callback, arguments, context and the rest
 * in the slots of those, so that whatever of asyncio looks at a handle sees what it expects. What
 * the core needs stands behind. What takes an object of its own and is hardly ever looked at is
 * made when it is: a tuple of one argument, the handle's own copy of the context, the time of a
 * call_later. */
#ifndef PACPY_CALLBACK_HANDLE_H
#define PACPY_CALLBACK_HANDLE_H

#include "eventloop.h"

/* A handle for callback(*args) in `context` (NULL or None: the present one), at the back of the
 * loop's queue, from any thread. `method` is whose name an error message says. New reference or
 * NULL. */
PyObject *pacpy_handle_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *context);

/* A timer handle, armed for `deadline_ns`; `when` is what its when() answers, NULL: the deadline. */
PyObject *pacpy_handle_at(LoopObject *loop, uint64_t deadline_ns, PyObject *when,
                          PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *context);

/* Queue `r` at the back of the loop's queue, from any thread and at any time. 0, or -1 with
 * RuntimeError, the loop being closed, and `r` discarded. */
int pacpy_loop_queue(LoopObject *loop, struct pac_runnable *r);

/* Queue somebody else's asyncio.Handle: its _run() is called when its turn comes. Until then it
 * stands at `*place`, if that is not NULL. 0 or -1. */
int pacpy_handle_adopt(LoopObject *loop, PyObject *handle, struct pacpy_adopted **place);

/* Whether `handle` is an asyncio.Handle, not one of a class derived from it, that was not
 * cancelled. */
bool pacpy_handle_is_plain_and_live(LoopObject *loop, PyObject *handle);

/* The place of `a` (NULL: there is none) goes away. */
void pacpy_adopted_leave_place(struct pacpy_adopted *a);

/* The handle behind a queued runnable, or behind an armed timer: borrowed; NULL if it is none. */
PyObject *pacpy_handle_of_runnable(struct pac_runnable *r);
PyObject *pacpy_handle_of_timer(struct pac_timer *timer);

/* For the loop's tp_traverse: visit the handle behind a queued runnable, or behind an armed
 * timer. */
int pacpy_handle_visit_runnable(struct pac_runnable *r, visitproc visit, void *arg);
int pacpy_handle_visit_timer(struct pac_timer *timer, visitproc visit, void *arg);

/* The run is over: the collector has to know of every handle that is queued or armed. */
void pacpy_handle_track_all(LoopObject *loop);

#endif
