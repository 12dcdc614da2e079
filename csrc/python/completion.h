/* completion.h - a result that is set once and that any number wait for: what a Task and an
 * asyncio future have in common.
 *
 * Both are instances of asyncio's C types (isinstance holds) whose own fields stay zero: our
 * state stands behind them, at pacpy_completion_offset, and every method and attribute is
 * overridden by ours.
 *
 * Whoever waits is a *listener* in one list, in the order of asking: a task of ours that awaits
 * it (the listener is part of the task: no callback object, no allocation), a waker of a poll by
 * hand, or a callback with its context. All are told in that order when the result is set. */
#ifndef PACPY_COMPLETION_H
#define PACPY_COMPLETION_H

#include "state.h"

#include "../core/list.h"
#include "../core/waker.h"

struct pacpy_loop; /* eventloop.h */

enum pacpy_listener_kind {
    PACPY_LISTEN_TASK,     /* part of a Task: told by pacpy_task_future_done */
    PACPY_LISTEN_WAKER,    /* a pacpy_waker_listener, part of an IntoFuture: the waker is woken */
    PACPY_LISTEN_CALL,     /* a pacpy_call_listener: its function is called at once */
    PACPY_LISTEN_CALLBACK, /* completion.c's own, allocated: call_soon(callback, future, context=) */
};

struct pacpy_listener {
    struct pac_list_node node;
    enum pacpy_listener_kind kind;
};

struct pacpy_waker_listener {
    struct pacpy_listener listener;
    struct pac_waker waker; /* owned */
};

struct pacpy_call_listener {
    struct pacpy_listener listener;
    void (*call)(struct pacpy_call_listener *l); /* in no list any more; may free it */
};

enum pacpy_outcome { PACPY_PENDING, PACPY_CANCELLED, PACPY_FINISHED };

struct pacpy_completion {
    struct pacpy_state *st;
    struct pacpy_loop *loop; /* strong; NULL: not initialised */
    PyObject *result;    /* FINISHED; with an exception: its traceback as it was when set, so that
                            raising it again does not make that grow */
    PyObject *exception; /* FINISHED: with this one, or NULL; CANCELLED: the CancelledError that
                            ended it, which result() raises once, or NULL */
    PyObject *cancel_message;
    PyObject *source_traceback; /* debug mode */
    struct pac_list listeners;
    uint8_t outcome;    /* enum pacpy_outcome */
    bool blocking;      /* _asyncio_future_blocking */
    bool log_traceback; /* an exception that nobody has seen */
};

/* Has it ended with an exception that is no cancellation? */
static inline bool
pacpy_completion_failed(const struct pacpy_completion *c)
{
    return c->outcome == PACPY_FINISHED && c->exception != NULL;
}

/* Where our state begins in a Task or AsyncioFuture: the size of asyncio.Task's own, the same for
 * both types, and for all interpreters of the process. */
extern Py_ssize_t pacpy_completion_offset;
int pacpy_find_completion_offset(void);

static inline struct pacpy_completion *
pacpy_completion_of(PyObject *op)
{
    return (struct pacpy_completion *)((char *)op + pacpy_completion_offset);
}

static inline PyObject *
pacpy_completion_object(struct pacpy_completion *c)
{
    return (PyObject *)((char *)c - pacpy_completion_offset);
}

/* Of an object whose __init__ has run; NULL and RuntimeError. */
struct pacpy_completion *pacpy_completion_initialised(PyObject *op);

/* Is `op` a Task or an asyncio future of ours (or of a subclass)? */
bool pacpy_is_completion(struct pacpy_state *st, PyObject *op);

/* A fresh one for `loop`. Does not look at the debug flag: see pacpy_completion_note_source. */
void pacpy_completion_init(struct pacpy_completion *c, struct pacpy_state *st,
                           struct pacpy_loop *loop);

/* Debug mode: remember where it was made. 0 or -1. */
int pacpy_completion_note_source(struct pacpy_completion *c);

/* Finish, once, and tell the listeners. PENDING before, or they do nothing and return false. */
bool pacpy_completion_set_result(struct pacpy_completion *c, PyObject *value);
bool pacpy_completion_set_exception(struct pacpy_completion *c, PyObject *exception);
bool pacpy_completion_cancel(struct pacpy_completion *c, PyObject *message);

/* The result as a new reference, or NULL and the exception that it ended with. FINISHED or
 * CANCELLED. */
PyObject *pacpy_completion_result(struct pacpy_completion *c);

/* Is `future`, any implementation's, done? 1 or 0, or -1 and an exception. */
int pacpy_future_is_done(struct pacpy_state *st, PyObject *future);

/* What `future`, any implementation's and done, has ended with, if that is to be thrown into `coroutine`,
 * which has yielded it: *exception, a new reference, or NULL. A future of ours that it awaits plainly
 * raises that by itself, where it is awaited. `coroutine` may be NULL: whatever awaits it. 0; or -1 and
 * MemoryError, and it can be asked again. */
int pacpy_future_error(struct pacpy_state *st, PyObject *future, PyObject *coroutine,
                       PyObject **exception);

/* A new CancelledError with the message, or the very one that ended it. */
PyObject *pacpy_completion_make_cancelled_error(struct pacpy_completion *c);

static inline void
pacpy_completion_listen(struct pacpy_completion *c, struct pacpy_listener *l)
{
    pac_list_push_back(&c->listeners, &l->node);
}

/* For the types' own slots. pacpy_visit_asyncio_part visits the type and what `asyncio_type`, the
 * base that is asyncio's, keeps in the object: the __dict__. */
int pacpy_visit_asyncio_part(PyTypeObject *asyncio_type, PyObject *op, visitproc visit, void *arg);
int pacpy_completion_traverse(struct pacpy_completion *c, visitproc visit, void *arg);
void pacpy_completion_clear(struct pacpy_completion *c);
/* In tp_finalize: an exception that nobody saw goes to the loop's exception handler; `what` is
 * "Task" or "Future", as asyncio words it. */
void pacpy_completion_report_unseen(struct pacpy_completion *c, const char *what);

/* A fresh asyncio future of `loop`. */
PyObject *pacpy_asyncio_future_new(struct pacpy_loop *loop);

/* How it is awaited. The interpreter's own `await` needs only something to iterate, and that is the
 * completion itself: no object for each await. Whoever awaits by hand (iter(), __await__()) gets an
 * iterator of its own, with send, throw and close. */
PyObject *pacpy_future_iter(PyObject *op);      /* tp_iter, and the method __await__ */
PyObject *pacpy_completion_await(PyObject *op); /* am_await */
PyObject *pacpy_completion_next(PyObject *op);  /* tp_iternext */
PySendResult pacpy_completion_send(PyObject *op, PyObject *arg, PyObject **result); /* am_send */

/* Take the `__next__` that tp_iternext has brought out of the type again: to Python a future is no
 * iterator, as asyncio's is none. 0 or -1. */
int pacpy_hide_next(PyTypeObject *type);

/* What the iterator `op`, from pacpy_future_iter, is of: borrowed; NULL: of nothing, or something else. */
PyObject *pacpy_future_of_iter(struct pacpy_state *st, PyObject *op);

/* The methods and attributes of asyncio.Future, for both types. */
extern PyMethodDef pacpy_completion_methods[];
extern PyGetSetDef pacpy_completion_getset[];

#endif
