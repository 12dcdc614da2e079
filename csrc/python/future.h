/* future.h - what every awaitable of ours is: a Python object over a poll function.
 *
 * pyasync_c.Future is the base type. A leaf (Delay, Notified, ...) is a struct that begins with
 * FutureObject and has a vtable; a subclass written in Python has the vtable that calls its
 * poll(). The base type does the rest once, for all: the await protocol on our own tasks, on
 * asyncio's loop and on uvloop's (bridge.h), polling by hand, dropping, and the errors for
 * misuse.
 *
 *   NEW ──poll──► WAITING ──ready──► DONE        drop() by hand ──► DROPPED
 *    ▲               │ throw, close, drop by the runtime
 *    └── LEAVING ◄───┘ for a leaf of ours (left as if never waited for); a Python subclass
 *                      gets drop() called once and is DROPPED */
#ifndef PACPY_FUTURE_H
#define PACPY_FUTURE_H

#include "frame.h"
#include "release.h"

enum pacpy_future_state {
    PACPY_NEW = 0,
    PACPY_WAITING, /* was polled, not ready yet */
    PACPY_DONE,    /* was ready: awaiting or polling again is an error, unless reusable */
    PACPY_DROPPED, /* drop() was called by hand (or on a Python subclass): likewise */
    PACPY_LEAVING, /* `forget` is at work, and what it wakes or gives up may run anything: likewise */
};

/* From a poll: there was no memory to begin with, and another poll may find it. */
#define PACPY_REFUSED (-2)

/* What a poll returns that has failed before anything was changed: PACPY_REFUSED if it was for want
 * of memory, else -1. The exception stays set. */
static inline int
pacpy_refused_or_failed(void)
{
    return PyErr_ExceptionMatches(PyExc_MemoryError) ? PACPY_REFUSED : -1;
}

struct pacpy_future;

struct pacpy_future_vtable {
    /* Advance: 1 READY with a new reference in *value, 0 PENDING (cx's waker is kept), -1
     * exception (which ends the future, like READY), PACPY_REFUSED MemoryError, and the future is
     * as it was: it has taken nothing, and can be polled again. An executor is entered if there is
     * a loop. */
    int (*poll)(struct pacpy_future *self, struct pac_context *cx, PyObject **value);
    /* Leave every list, keep no waker. Called in any state, any number of times; runs in
     * destructors. Whoever is woken by it cannot poll this future before it has returned. */
    void (*forget)(struct pacpy_future *self);
    bool fused; /* polled again once DONE: asks the vtable's poll again */
    /* Whose state is worth more than its place in any list: a select that it loses leaves it
     * suspended as it is, instead of `forget`. Its waker may then be woken in vain. */
    bool resumable;
};

struct pacpy_wait; /* bridge.c */

typedef struct pacpy_future {
    PyObject_HEAD
    const struct pacpy_future_vtable *vtable;
    struct pacpy_state *st;
    struct pacpy_wait *wait; /* awaited from a foreign loop: what wakes it there; else NULL */
    void *driver;  /* the task that awaits it, to tell a second one; NULL: none, or by hand */
    uint8_t state; /* enum pacpy_future_state */
    bool polling;  /* a poll of it is in progress */
} FutureObject;

/* For tp_new / constructors of leaves: set the base's fields of a fresh object. */
static inline void
pacpy_future_init(FutureObject *f, struct pacpy_state *st, const struct pacpy_future_vtable *vtable)
{
    f->vtable = vtable;
    f->st = st;
    f->wait = NULL;
    f->driver = NULL;
    f->state = PACPY_NEW;
    f->polling = false;
}

/* Poll `f` with `cx`, by hand or from within another future's poll: checks the state, guards
 * against re-entering, notes the outcome. 1, 0, -1, PACPY_REFUSED as the vtable's. */
int pacpy_future_poll(FutureObject *f, struct pac_context *cx, PyObject **value);

/* What the runtime does to a future whose wait ends without a result (cancelled, closed,
 * collected). */
void pacpy_future_forget(FutureObject *f);

/* First thing in the destructor of every leaf, after untracking: the base's part of letting go. */
void pacpy_future_fini(FutureObject *f);

/* Slots that every leaf type shares: put PACPY_FUTURE_SLOTS into its spec. (They are inherited,
 * but a type's own slots are found without a walk.) */
PyObject *Future_am_await(PyObject *op);
PySendResult Future_am_send(PyObject *op, PyObject *arg, PyObject **result);
PyObject *Future_iternext(PyObject *op);
PyObject *Future_send(PyObject *op, PyObject *arg);
PyObject *Future_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs);
#define PACPY_FUTURE_SLOTS                                                                         \
    {Py_am_await, Future_am_await}, {Py_am_send, Future_am_send}, {Py_tp_iter, PyObject_SelfIter}, \
    {                                                                                              \
        Py_tp_iternext, Future_iternext                                                            \
    }

/* True if `op` is a Future of ours or of a subclass. */
static inline bool
Future_Check(struct pacpy_state *st, PyObject *op)
{
    return PyObject_TypeCheck(op, st->Future_type);
}

/* 0 if `op` can be awaited, or -1 and TypeError. */
int pacpy_need_awaitable(PyObject *op);
/* into_future(): an awaitable as a Future, a new reference; NULL and TypeError. */
PyObject *pacpy_into_future(struct pacpy_state *st, PyObject *awaitable);

/* What `await op` would send into: a new reference; NULL and TypeError. */
PyObject *pacpy_await_iterator(PyObject *op);

/* Throw the exception that is set into such an iterator: as PyIter_Send. */
PySendResult pacpy_throw_into(struct pacpy_state *st, PyObject *iterator, PyObject **result);

/* GeneratorExit into such an iterator; what comes out of it is printed. */
void pacpy_close_iterator(struct pacpy_state *st, PyObject *iterator);

/* Set the exception that throw(type[, value[, traceback]]) names; 1 to 3 arguments. */
void pacpy_raise_thrown(PyObject *const *args, Py_ssize_t nargs);

/* An awaitable that is ready at once with `value` (a new reference is taken): what __aenter__ and
 * the like return. */
PyObject *pacpy_immediate(struct pacpy_state *st, PyObject *value);

/* The one that is ready with None, any number of times: what __aexit__ and the like return. A new
 * reference; never fails, so that what ends a block has not ended it in vain. */
static inline PyObject *
pacpy_nothing_to_await(struct pacpy_state *st)
{
    return Py_NewRef(st->nothing_to_await);
}

#endif
