/* context_snapshot.h - the contextvars context of a task or callback that has not begun.
 *
 * asyncio copies the context when a task or a handle is made. The copy is one more object for the
 * garbage collector to walk over, for each that waits for its turn. But as long as nobody sets a
 * variable in between, all those copies are equal: so what is made one after the other shares one
 * snapshot, and each makes its own copy of that when its turn comes. What it sees is the same. */
#ifndef PACPY_CONTEXT_SNAPSHOT_H
#define PACPY_CONTEXT_SNAPSHOT_H

#include "state.h"

/* The present context as it is now: a Context that nobody enters or changes, so copying it later
 * gives what copying now would. New reference; NULL and MemoryError. */
PyObject *pacpy_context_snapshot(struct pacpy_state *st);

/* A copy of a snapshot, to be entered. New reference; NULL and MemoryError. */
PyObject *pacpy_context_copy(struct pacpy_state *st, PyObject *snapshot);

/* Give up `copy`, which has been left. If nobody else has it and nothing was set in it, it is as
 * good as new: the next one to copy the same variables gets it. */
void pacpy_context_done(struct pacpy_state *st, PyObject *copy);

#endif
