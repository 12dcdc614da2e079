/* compatible.h - the compatible mode of a loop: asyncio's own scheduler runs it.
 *
 * For whoever replaces the scheduler, or a part of it (pyasync_c/_compatible.py says who that
 * is). The loop's calls then go to the standard library's methods, with its Handles, deque and
 * list, and its selector is really selected. To our leaves it is a foreign loop: it has a bridge
 * (bridge.h), whose executor is the loop's own, so that what was waiting there goes on. */
#ifndef PACPY_COMPATIBLE_H
#define PACPY_COMPATIBLE_H

#include "eventloop.h"

/* owner.name(loop, *args, **kwargs), as vectorcall has them. New reference or NULL. */
PyObject *pacpy_call_for_loop(LoopObject *loop, PyObject *owner, const char *name,
                              PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* A method of a loop that is diverted: asyncio's own in compatible mode; closed: RuntimeError. */
PyObject *pacpy_diverted_call(LoopObject *loop, const char *name, PyObject *const *args,
                              Py_ssize_t nargs, PyObject *kwnames);

/* pacpy_loop_call_soon of a loop that is diverted. */
PyObject *pacpy_compatible_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                                     Py_ssize_t nargs, PyObject *context);

/* Enter the mode, unless the loop is in it, closed, or not made yet. 0 or -1. */
int pacpy_compatible_enter(PyObject *loop);

/* The same, but only if the loop's class has a scheduler of its own. 0 or -1. */
int pacpy_compatible_check_class(PyObject *loop);

/* Methods of LoopBase: what stands in the queue and in the wheel, as snapshots. */
PyObject *pacpy_compatible_queued(PyObject *loop, PyObject *ignored);
PyObject *pacpy_compatible_timers(PyObject *loop, PyObject *ignored);

/* LoopBase._divert and ._settle. */
extern const char pacpy_compatible_divert_doc[];
PyObject *pacpy_compatible_divert(PyObject *loop, PyObject *ignored);
PyObject *pacpy_compatible_settle(PyObject *loop, PyObject *ignored);

#endif
