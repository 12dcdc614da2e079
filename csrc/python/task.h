/* task.h - the one Python task: a coroutine as a future of the core. */
#ifndef PACPY_TASK_H
#define PACPY_TASK_H

#include "completion.h"
#include "eventloop.h"

#include "../core/task.h"

/* Behind asyncio.Task's own fields, at pacpy_completion_offset. */
struct pacpy_task {
    struct pacpy_completion completion; /* first */
    struct pac_future future;           /* what the executor polls */
    struct pac_task *core;              /* one reference; NULL once ended */
    PyObject *coroutine;
    PyObject *context;              /* contextvars */
    PyObject *name;                 /* NULL: "Task-<id>", made when asked for */
    PyObject *waiting_for;          /* asyncio future that it awaits (_fut_waiter); NULL: a leaf of
                                           ours, or nothing */
    PyObject *throw_next;           /* exception to throw at the next poll */
    struct pacpy_listener listener; /* in waiting_for's list, if that is ours */
    uint64_t id;
    int cancel_requests;
    bool must_cancel;
    bool wait_is_over;        /* waiting_for is done, and the task not polled since */
    bool on_cancel_path;      /* of the pacpy_task_cancel in progress */
    bool is_new;              /* has not run yet */
    bool was_started;         /* the coroutine had run already when the task was made of it */
    bool context_is_snapshot; /* `context` is shared with other tasks: copied at the first step */
    bool log_destroy_pending;
};

static inline struct pacpy_task *
pacpy_task_of(PyObject *op)
{
    return (struct pacpy_task *)pacpy_completion_of(op);
}

static inline bool
Task_Check(struct pacpy_state *st, PyObject *op)
{
    return st->Task_type != NULL && PyObject_TypeCheck(op, st->Task_type);
}

/* A new task of `loop` for `coroutine`, queued. `name`, `context` may be NULL. */
PyObject *pacpy_task_spawn(LoopObject *loop, PyObject *coroutine, PyObject *name,
                           PyObject *context);

/* spawn(): run the awaitable `aw` as a task of the running loop, whosever that is. `name`,
 * `context` may be NULL. NULL and an exception: then `aw`, if a coroutine, was closed. */
PyObject *pacpy_spawn(struct pacpy_state *st, PyObject *aw, PyObject *name, PyObject *context);

/* The same, but NULL leaves `aw` as it was, to be spawned another time. */
PyObject *pacpy_spawn_or_leave(struct pacpy_state *st, PyObject *aw);

/* Make a fresh, zeroed object of Task or a subclass a task of `loop` for `coroutine`: queued, or
 * with `eager` (the loop is running on this thread) run at once up to its first wait. 0 or -1. */
int pacpy_task_begin(PyObject *op, LoopObject *loop, PyObject *coroutine, PyObject *name,
                     PyObject *context, bool eager);

/* Make `context` a copy of the task's own, if it is a shared snapshot still. 0 or -1. */
int pacpy_task_own_context(struct pacpy_task *t);

/* Once, before any of it: read off this Python how a coroutine that never ran looks. 0 or -1. */
int pacpy_task_learn_coroutines(struct pacpy_state *st);

/* The asyncio future that this task waits for is done. */
void pacpy_task_future_done(struct pacpy_task *t);

/* Let the garbage collector know the task, if it does not yet. */
void pacpy_task_track(PyObject *op);

/* If `core` is that of a Python task: its loop enters compatible mode, and each poll of it lends the
 * executor, as code within it may run the loop again. */
void pacpy_task_lend_polls(struct pac_task *core);

/* The Python task that `core` is the core of, borrowed; NULL if it is something else's. */
PyObject *pacpy_task_object_of_core(struct pac_task *core);

/* Debug mode: `op` was polled since `began_ns`, and no exception is set. */
void pacpy_task_note_poll(PyObject *op, uint64_t began_ns);

/* asyncio's cancel: a request, counted, thrown at the await. 1; or 0, it has ended; or -1 and the
 * exception of another implementation's cancel() that was asked on the way. `message` may be NULL.
 * However long the chain of tasks that await tasks, it takes no stack; tasks that await each other in a
 * circle all end. */
int pacpy_task_cancel(struct pacpy_task *t, PyObject *message);

/* Ask what the task waits for (something) to be cancelled. 1, 0, or -1 with an exception. */
int pacpy_task_cancel_waiting_for(struct pacpy_task *t, PyObject *message);

#endif
