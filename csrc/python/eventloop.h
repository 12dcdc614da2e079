/* eventloop.h - the C half of the event loop: an executor with asyncio's scheduling methods on
 * it.
 *
 * pyasync_c.EventLoop derives from this type (LoopBase) and from asyncio's selector loop:
 * call_soon, timers, tasks, futures and the run itself are here; servers, transports,
 * subprocesses and the like are the standard library's, over our readiness. */
#ifndef PACPY_EVENTLOOP_H
#define PACPY_EVENTLOOP_H

#include "frame.h"

#include "../core/executor.h"

struct pacpy_source;  /* eventloop.c: a descriptor that is watched */
struct pacpy_adopted; /* callback_handle.c: somebody else's Handle in our queue */

typedef struct pacpy_loop {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_executor *executor; /* NULL once closed */
    PyObject *current_entry; /* borrowed: what we last put into asyncio's current_tasks for this
                                      loop; NULL: nothing */
    PyObject *raised;        /* an exception on its way out of run_forever */
    PyObject *task_factory;  /* NULL or None: our own Task */
    PyThreadState *waiting;  /* while parked: the detached thread state */
    struct pacpy_source **sources; /* by descriptor */
    size_t source_count;
    struct pacpy_adopted *
        *reporting;        /* while a source reports an event: where it remembers the handle */
    struct pac_list held;  /* of pacpy_held: transports and listeners */
    PyObject *read_buffer; /* bytes, as read_buffer.h has it; NULL: not needed yet */
    PyObject *spare;       /* receive_bytes.h: bytes to receive into, or NULL */
    size_t spare_capacity;
    uint64_t polls, spurious_polls;
    uint64_t first_task_id;  /* the id of the task made before the loop was: see Task_hash */
    unsigned long thread_id; /* of the thread that runs it; 0: none */
    pid_t pid;               /* the process that made it: a fork's child may not run it */
    PyObject *bridge;        /* compatible mode: what turns the executor; NULL otherwise */
    bool debug;
    bool queues_events; /* _process_events and _add_callback are what asyncio and we made them */
    bool diverted;      /* calls do not go to the executor: closed, or compatible mode */
    bool compatible;    /* compatible.h: the standard library's scheduler runs it */
    bool stopping;      /* compatible mode: stop() was called */
} LoopObject;

/* What waits for a descriptor of its own, and is held by its loop while it does: in the loop's list,
 * by one strong reference. The collector sees it, and the end of the loop gives it up. */
struct pacpy_held {
    struct pac_list_node node;
    PyObject *object; /* of which this is a part */
};

/* Have the loop hold it, or not. The caller has a reference. */
static inline void
pacpy_loop_hold(LoopObject *loop, struct pacpy_held *held, PyObject *object, bool hold)
{
    if (hold == pac_list_is_linked(&held->node)) {
        return;
    }
    if (hold) {
        held->object = Py_NewRef(object);
        pac_list_push_back(&loop->held, &held->node);
    }
    else {
        pac_list_remove(&held->node);
        Py_DECREF(object);
    }
}

/* The loop of ours that runs on this thread, or NULL. */
extern PAC_THREAD_LOCAL LoopObject *pacpy_running_loop;

/* Put `task` (NULL: nothing) into asyncio's current-task table for `loop`. 0; or -1, and
 * what stood there still does. */
int pacpy_loop_set_current(LoopObject *loop, PyObject *task);

static inline int
pacpy_loop_leave_task(LoopObject *loop)
{
    return loop->current_entry == NULL ? 0 : pacpy_loop_set_current(loop, NULL);
}

/* Before something is queued while the loop does not run: what was woken since its last run comes
 * first. */
static inline void
pacpy_loop_catch_up(LoopObject *loop)
{
    struct pac_executor *ex = loop->executor;
    if (PAC_UNLIKELY(!ex->running && !ex->parked && pac_inject_has_work(&ex->scheduler.inject)) &&
        !pac_executor_is_closed(ex)) {
        pac_inject_take(&ex->scheduler.inject, &ex->scheduler.ready);
    }
}

/* 0, or -1 with RuntimeError: the loop is closed, or it is the parent's and this is a fork's child. */
int pacpy_loop_check_open(LoopObject *loop);

/* Set that RuntimeError. */
void pacpy_loop_refuse_closed(LoopObject *loop);

/* call_soon: a new handle, whose reference may be given up at once, or NULL. `context` NULL: the
 * present one. */
PyObject *pacpy_loop_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *context);

/* The exception that is set: SystemExit and KeyboardInterrupt leave run_forever, and so does
 * MemoryError, as what could not be done may be what everybody waits for. Any other is printed as
 * unraisable, with `source`. */
void pacpy_loop_raise_or_print(LoopObject *loop, PyObject *source);

/* Debug mode: `what` has run since `began_ns`; log it if that was slow. */
void pacpy_loop_note_duration(LoopObject *loop, uint64_t began_ns, PyObject *what);

/* Let `exc` (reference taken) leave run_forever at once. */
void pacpy_loop_raise(LoopObject *loop, PyObject *exc);

#endif
