/* context_snapshot.h - the contextvars context of a task that has not begun.
 *
 * asyncio copies the context when a task is made. The copy is one more object for the garbage
 * collector to walk over, for each task that waits for its first step. But as long as nobody sets
 * a variable in between, all those copies are equal: so tasks made one after the other share one
 * snapshot, and each makes its own copy of that at its first step. What a task sees is the same. */
#ifndef PACPY_CONTEXT_SNAPSHOT_H
#define PACPY_CONTEXT_SNAPSHOT_H

#include "state.h"

/* The present context as it is now: a Context that nobody enters or changes, so copying it later
 * gives what copying now would. New reference; NULL and MemoryError. */
PyObject *pacpy_context_snapshot(struct pacpy_state *st);

#endif
