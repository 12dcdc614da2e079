/* holder.h - the task that holds a lock, remembered so that it does not wait for itself.
 *
 * A task of ours is known by its number, any other one by a weak reference: no task is kept alive
 * by what it holds, and none is taken for another that had its address before. Whoever is no task
 * (a thread, a poll by hand outside of a task) is not known. */
#ifndef PACPY_HOLDER_H
#define PACPY_HOLDER_H

#include "state.h"

struct pacpy_holder {
    uint64_t id;   /* of a task of ours; 0: none */
    PyObject *ref; /* to another's task; NULL: none */
};

/* The task that runs on this thread holds it from now on; it must be held by nobody. Cannot fail:
 * a task that takes no weak references is not known. */
void pacpy_holder_set(struct pacpy_holder *holder, struct pacpy_state *st);

/* Nobody does. */
static inline void
pacpy_holder_clear(struct pacpy_holder *holder)
{
    holder->id = 0;
    Py_CLEAR(holder->ref);
}

/* Does the task that runs on this thread hold it? */
bool pacpy_holder_is_current(struct pacpy_holder *holder, struct pacpy_state *st);

#endif
