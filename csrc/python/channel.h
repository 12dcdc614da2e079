/* channel.h - what the channels share: their exceptions, the future of closed(), and waiting on a
 * thread that has no loop.
 *
 * Each channel is one Python object around the core's struct, which nobody outside sees. Its ends
 * and its futures hold references to it, and it visits and clears the values that stand in the
 * channel; so a value that refers to its own channel is garbage like any other cycle. Values are
 * Python objects: the core owns a reference to each, and all calls into it are made with the GIL
 * (or, without one, attached). */
#ifndef PACPY_CHANNEL_H
#define PACPY_CHANNEL_H

#include "future.h"

#include "../core/waitlist.h"

/* The `destroy` and `clone` of every channel. */
void pacpy_channel_destroy(void *value);
void *pacpy_channel_clone(void *value);

/* For a tp_traverse: the core visits its values by a function of its own. */
struct pacpy_visiting {
    visitproc visit;
    void *arg;
};
int pacpy_visit_value(void *value, void *visiting);

/* An argument that must be an int of at least `least`, and fits: 0, or -1 with TypeError (bool
 * too), ValueError or OverflowError. */
int pacpy_size_from_object(PyObject *op, const char *what, size_t least, size_t *size);

/* The tuple of a sender and a receiver, whose references it takes; NULL if one of them is. */
PyObject *pacpy_pair(PyObject *sender, PyObject *receiver);

/* Set the exception for what the core said; always NULL. */
PyObject *pacpy_channel_error(struct pacpy_state *st, enum pac_status status);

/* The future of closed(): the caller initialises `wait`. NULL and MemoryError. */
typedef struct {
    FutureObject future;
    struct pac_flag_wait wait;
    PyObject *channel; /* strong: what `wait` points into */
} ClosedObject;

ClosedObject *pacpy_closed_new(struct pacpy_state *st, PyObject *channel);

/* ---- blocking ------------------------------------------------------------------------------- */

/* The arguments of a blocking_...: `wanted` positional ones (checked by number only), and timeout=
 * seconds or None. -1 and an exception: wrong arguments, or this thread runs an event loop. */
int pacpy_blocking_args(struct pacpy_state *st, const char *name, PyObject *const *args,
                        Py_ssize_t nargs, Py_ssize_t wanted, PyObject *kwnames,
                        uint64_t *deadline_ns);

/* Wait for `f` without the GIL. 0: READY. -1 and an exception: TimeoutError, MemoryError, or what a
 * signal handler raised; `f` is the caller's to drop in each case. */
int pacpy_blocking_wait(struct pac_future *f, uint64_t deadline_ns);

/* A method of that kind in a PyMethodDef. */
#define PACPY_BLOCKING_METHOD(name, function, doc) \
    {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS, doc}

#endif
