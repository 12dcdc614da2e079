/* task.h - a future that an executor has taken on, and the waker that schedules it.
 *
 * The task owns its future from spawn until the future said READY or was cancelled; then it drops
 * the future (by its vtable) on the executor's thread, once, and `future` is NULL. Only after
 * that does the task count as complete, to joiners and everyone.
 *
 * The waker of a task is the task itself: clone counts a reference, wake submits. All of it works
 * from any thread, after completion, and after the executor has closed, as the header outlives
 * both: it is freed with the last reference.
 *
 * Stands for Tokio's runtime/task (header, waker, JoinHandle). */
#ifndef PAC_TASK_H
#define PAC_TASK_H

#include "future.h"
#include "list.h"
#include "scheduler.h"
#include "task_state.h"

struct pac_task {
    struct pac_runnable runnable;         /* whoever holds the NOTIFIED reference */
    struct pac_task_state state;          /* any thread */
    struct pac_scheduler *scheduler;      /* written once */
    struct pac_pool *pool;                /* where its memory goes back to; written once */
    PAC_CELL(struct pac_future *) future; /* whoever holds RUNNING */
    struct pac_list_node owned;           /* executor: its list of live tasks */
    struct pac_waker join_waker; /* the joiner; once JOIN_WAKER and COMPLETE, the executor */
    PAC_CELL(bool) cancelled;    /* written before COMPLETE: ended without being READY */
};

extern const struct pac_waker_vtable pac_task_waker_vtable;

/* The waker of `t`, borrowed: clone it to keep it. */
static inline struct pac_waker
pac_task_waker(struct pac_task *t)
{
    return (struct pac_waker){&pac_task_waker_vtable, t};
}

/* [any thread] Schedule `t` to be polled again; nothing if it is scheduled already or has ended. */
void pac_task_wake(struct pac_task *t);

/* [any thread] The first half of waking by a waker that is given up. True: the waker's reference is
 * the queue's now, and to submit the runnable, or to unref if that is refused, is the caller's
 * duty. False: there is nothing more to do. */
PAC_MUST_USE bool pac_task_begin_wake(struct pac_task *t);

/* [any thread] Ask that `t` end: its future is dropped by the executor, unless the poll in
 * progress finishes it first. Nothing if it has ended. */
void pac_task_cancel(struct pac_task *t);

/* [any thread] */
static inline bool
pac_task_is_complete(struct pac_task *t)
{
    return (pac_task_state_load(&t->state) & PAC_TASK_COMPLETE) != 0;
}

static inline struct pac_task *
pac_task_ref(struct pac_task *t)
{
    pac_task_ref_inc(&t->state);
    return t;
}

/* [any thread] Give up a reference to `t`. */
void pac_task_unref(struct pac_task *t);

/* Executor only: `t` was taken from the queue; POLL it with its waker and settle what follows. */
void pac_task_run(struct pac_task *t);

/* Executor only: run `t`, which is idle and was never run, now: perhaps within the poll of another task,
 * on whose budget it runs then. */
void pac_task_run_at_once(struct pac_task *t);

/* Executor only, closing: end `t` now, unless it has ended. The caller holds a reference. */
void pac_task_shutdown(struct pac_task *t);

extern const struct pac_runnable_vtable pac_task_runnable_vtable;

/* ---- waiting for a task to end ----------------------------------------------------------------
 */

/* A future that is READY once its task has ended: the one joiner of that task. Dropping it
 * detaches the task, which goes on. */
struct pac_join_handle {
    struct pac_future future;
    struct pac_task *task; /* one reference; NULL once dropped */
    bool cancelled;        /* after READY: the task was cancelled */
};

/* Takes over one reference to `t`. */
void pac_join_handle_init(struct pac_join_handle *h, struct pac_task *t);
enum pac_poll pac_join_handle_poll(struct pac_join_handle *h, struct pac_context *cx);
void pac_join_handle_drop(struct pac_join_handle *h);

#endif
