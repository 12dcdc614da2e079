#include "task.h"

#include "budget.h"

/* ---- references, waking --------------------------------------------------------------------- */

static void
task_free(struct pac_task *t)
{
    /* The join waker needs no drop: its joiner has dropped it, or completing has woken it. */
    PAC_ASSERT(t->future == NULL);
    PAC_COUNT(tasks, -1);
    pac_scheduler_block_free(t->scheduler, t->pool, t);
}

void
pac_task_unref(struct pac_task *t)
{
    if (pac_task_ref_dec(&t->state) == PAC_TASK_FREE) {
        task_free(t);
    }
}

/* Do what a transition of wake or cancel asks for. */
static inline void
task_fulfil(struct pac_task *t, enum pac_task_duty duty)
{
    if (duty == PAC_TASK_SUBMIT) {
        if (PAC_UNLIKELY(pac_scheduler_submit(t->scheduler, &t->runnable) != PAC_OK)) {
            /* Closed: the task is being ended, or has been; the queue's reference is ours. */
            pac_task_unref(t);
        }
    }
    else if (duty == PAC_TASK_FREE) {
        task_free(t);
    }
}

void
pac_task_wake(struct pac_task *t)
{
    task_fulfil(t, pac_task_transition_to_notified_by_ref(&t->state));
}

bool
pac_task_begin_wake(struct pac_task *t)
{
    PAC_COUNT(wakers, -1);
    enum pac_task_duty duty = pac_task_transition_to_notified_by_val(&t->state);
    if (duty == PAC_TASK_FREE) {
        task_free(t);
    }
    return duty == PAC_TASK_SUBMIT;
}

void
pac_task_cancel(struct pac_task *t)
{
    task_fulfil(t, pac_task_transition_to_cancelled(&t->state));
}

static struct pac_waker
task_waker_clone(void *data)
{
    struct pac_task *t = data;
    pac_task_ref_inc(&t->state);
    PAC_COUNT(wakers, 1);
    return (struct pac_waker){&pac_task_waker_vtable, t};
}

static void
task_waker_wake(void *data)
{
    struct pac_task *t = data;
    PAC_COUNT(wakers, -1);
    task_fulfil(t, pac_task_transition_to_notified_by_val(&t->state));
}

static void
task_waker_wake_by_ref(void *data)
{
    pac_task_wake(data);
}

static void
task_waker_drop(void *data)
{
    PAC_COUNT(wakers, -1);
    pac_task_unref(data);
}

const struct pac_waker_vtable pac_task_waker_vtable = {
    .clone = task_waker_clone,
    .wake = task_waker_wake,
    .wake_by_ref = task_waker_wake_by_ref,
    .drop = task_waker_drop,
};

/* ---- running: the executor's thread --------------------------------------------------------- */

/* RUNNING is held and the future has had its last poll. */
static void
task_complete(struct pac_task *t, bool cancelled)
{
    struct pac_future *future = t->future;
    t->future = NULL;
    t->cancelled = cancelled;
    pac_future_drop(future);
    bool has_joiner = pac_task_transition_to_complete(&t->state);
    if (has_joiner) {
        /* Wake a copy: the joiner may be comparing the slot at this moment, so it is not written.
         */
        struct pac_waker joiner = t->join_waker;
        pac_waker_wake(&joiner);
    }
    if (pac_list_is_linked(&t->owned)) {
        /* The live list's reference; the caller's own keeps the memory. */
        pac_list_remove(&t->owned);
        t->scheduler->tasks_alive--;
        pac_task_unref(t);
    }
}

/* `within` a poll in progress, whose budget it shares; else it has one of its own. */
static inline void
task_run(struct pac_task *t, bool within)
{
    enum pac_task_duty duty = pac_task_transition_to_running(&t->state);
    if (PAC_LIKELY(duty == PAC_TASK_POLL)) {
        struct pac_waker waker = pac_task_waker(t);
        struct pac_context cx = {&waker};
        bool shares_budget = within && pac_budget_left >= 0;
        if (!shares_budget) {
            pac_budget_left = PAC_BUDGET;
        }
        enum pac_poll poll = pac_future_poll(t->future, &cx);
        if (!shares_budget) {
            pac_budget_left = PAC_BUDGET_UNLIMITED;
        }
        if (poll == PAC_READY) {
            task_complete(t, false);
            pac_task_unref(t);
            return;
        }
        duty = pac_task_transition_to_idle(&t->state);
    }
    switch (duty) {
        case PAC_TASK_SUBMIT:
            t->scheduler->wakes++;
            pac_run_queue_push(&t->scheduler->ready, &t->runnable);
            break;
        case PAC_TASK_CANCEL:
            task_complete(t, true);
            pac_task_unref(t);
            break;
        case PAC_TASK_FREE:
            task_free(t);
            break;
        case PAC_TASK_POLL:
        case PAC_TASK_NOTHING:
            break;
    }
}

void
pac_task_run(struct pac_task *t)
{
    task_run(t, false);
}

void
pac_task_run_at_once(struct pac_task *t)
{
    enum pac_task_duty duty = pac_task_transition_to_notified_by_ref(&t->state);
    PAC_ASSERT(duty == PAC_TASK_SUBMIT);
    (void)duty;
    task_run(t, true);
}

void
pac_task_shutdown(struct pac_task *t)
{
    if (pac_task_transition_to_shutdown(&t->state)) {
        task_complete(t, true);
    }
}

static void
task_runnable_run(struct pac_runnable *r)
{
    pac_task_run(PAC_CONTAINER_OF(r, struct pac_task, runnable));
}

static void
task_runnable_discard(struct pac_runnable *r)
{
    pac_task_unref(PAC_CONTAINER_OF(r, struct pac_task, runnable));
}

const struct pac_runnable_vtable pac_task_runnable_vtable = {
    .run = task_runnable_run,
    .discard = task_runnable_discard,
};

/* ---- joining -------------------------------------------------------------------------------- */

static enum pac_poll
join_handle_future_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_join_handle_poll(PAC_CONTAINER_OF(f, struct pac_join_handle, future), cx);
}

static void
join_handle_future_drop(struct pac_future *f)
{
    pac_join_handle_drop(PAC_CONTAINER_OF(f, struct pac_join_handle, future));
}

static const struct pac_future_vtable join_handle_vtable = {
    .poll = join_handle_future_poll,
    .drop = join_handle_future_drop,
};

void
pac_join_handle_init(struct pac_join_handle *h, struct pac_task *t)
{
    h->future.vtable = &join_handle_vtable;
    h->task = t;
    h->cancelled = false;
}

static enum pac_poll
join_handle_ready(struct pac_join_handle *h, struct pac_context *cx)
{
    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    h->cancelled = h->task->cancelled;
    return PAC_READY;
}

enum pac_poll
pac_join_handle_poll(struct pac_join_handle *h, struct pac_context *cx)
{
    struct pac_task *t = h->task;
    uint64_t word = pac_task_state_load(&t->state);
    if (word & PAC_TASK_COMPLETE) {
        return join_handle_ready(h, cx);
    }
    if (word & PAC_TASK_JOIN_WAKER) {
        /* Completing may read the slot meanwhile, but writes it never: it may be compared. */
        if (pac_waker_will_wake(&t->join_waker, cx->waker)) {
            return PAC_PENDING;
        }
        if (!pac_task_unset_join_waker(&t->state)) {
            return join_handle_ready(h, cx);
        }
    }
    struct pac_waker replaced = t->join_waker;
    t->join_waker = pac_waker_clone(cx->waker);
    bool waits = pac_task_set_join_waker(&t->state);
    if (!waits) {
        pac_waker_drop(&t->join_waker);
    }
    /* Last, since dropping a waker can run anything. */
    pac_waker_drop(&replaced);
    return waits ? PAC_PENDING : join_handle_ready(h, cx);
}

void
pac_join_handle_drop(struct pac_join_handle *h)
{
    struct pac_task *t = h->task;
    if (t == NULL) {
        return;
    }
    h->task = NULL;
    if ((pac_task_state_load(&t->state) & PAC_TASK_JOIN_WAKER) &&
        pac_task_unset_join_waker(&t->state)) {
        pac_waker_drop(&t->join_waker);
    }
    pac_task_unref(t);
}
