/* release.h - giving up a reference to an object of any kind, when a long chain may hang on it.
 *
 * ready(ready(ready(...))), a channel that stands in a channel, a task that was returned by a task:
 * the destructor of each gives up the next, and a hundred thousand of them would not fit on any
 * stack. CPython's trashcan is no remedy: from 3.13 on it lets destructors nest ten thousand deep,
 * which a thread with a small stack does not survive. So our destructors give up what may be
 * anything by pacpy_release, which nests a few deep and puts the rest aside until those are over. */
#ifndef PACPY_RELEASE_H
#define PACPY_RELEASE_H

#include "compat.h"

/* The slow half: `op` is about to go, and may refer to others. */
void pacpy_release_last(PyObject *op);

/* As Py_XDECREF. What it destroys may go a little later, on this thread, before the outermost
 * pacpy_release in progress returns. */
static inline void
pacpy_release(PyObject *op)
{
    if (op == NULL) {
        return;
    }
    if (Py_REFCNT(op) > 1 || !PyType_IS_GC(Py_TYPE(op))) {
        Py_DECREF(op);
    }
    else {
        pacpy_release_last(op);
    }
}

/* As Py_CLEAR, likewise. */
#define PACPY_RELEASE_SLOT(slot)                   \
    do {                                           \
        PyObject *pacpy_held = (PyObject *)(slot); \
        (slot) = NULL;                             \
        pacpy_release(pacpy_held);                 \
    } while (0)

#endif
