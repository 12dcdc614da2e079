/* waitlist.c - leaving a list, waking one, and the future that waits for a flag. */
#include "waitlist.h"

void
pac_waiter_leave(struct pac_waiter *w, struct pac_lock *lock)
{
    if (!w->armed) {
        return;
    }
    pac_lock_acquire(lock);
    struct pac_waker waker = pac_waiter_disarm(w);
    pac_lock_release(lock);
    pac_waker_drop(&waker);
}

void
pac_waiters_wake_all(struct pac_list *list, struct pac_lock *lock)
{
    struct pac_wake_batch batch;
    struct pac_list chosen;
    bool all_taken;

    if (pac_list_is_empty(list)) {
        pac_lock_release(lock);
        return;
    }
    /* A circle like any other: who leaves it meanwhile need not know which one it is in. */
    pac_list_init(&chosen);
    pac_list_splice_back(&chosen, list);
    pac_wake_batch_init(&batch);
    for (;;) {
        struct pac_list_node *node;
        while (!pac_wake_batch_is_full(&batch) && (node = pac_list_first(&chosen)) != NULL) {
            struct pac_waker waker = pac_waiter_take(PAC_LIST_ENTRY(node, struct pac_waiter, node));
            pac_wake_batch_add(&batch, &waker);
        }
        all_taken = pac_list_is_empty(&chosen);
        pac_lock_release(lock);
        pac_wake_batch_wake(&batch);
        if (all_taken) {
            return;
        }
        pac_lock_acquire(lock);
    }
}

/* ---- a future that waits for a flag --------------------------------------------------------- */

enum pac_poll
pac_flag_wait_poll(struct pac_flag_wait *f, struct pac_context *cx)
{
    struct pac_waker spare = PAC_NO_WAKER;
    bool ready;

    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    pac_lock_acquire(f->lock);
    while (!(ready = *f->flag)) {
        if (pac_waiter_arm(&f->waiter, f->list, cx->waker, &spare)) {
            break;
        }
        pac_lock_release(f->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(f->lock);
    }
    struct pac_waker old = ready ? pac_waiter_disarm(&f->waiter) : PAC_NO_WAKER;
    pac_lock_release(f->lock);
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    if (!ready) {
        pac_budget_refund();
    }
    return ready ? PAC_READY : PAC_PENDING;
}

void
pac_flag_wait_drop(struct pac_flag_wait *f)
{
    pac_waiter_leave(&f->waiter, f->lock);
}

static enum pac_poll
flag_wait_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_flag_wait_poll(PAC_CONTAINER_OF(f, struct pac_flag_wait, future), cx);
}

static void
flag_wait_vtable_drop(struct pac_future *f)
{
    pac_flag_wait_drop(PAC_CONTAINER_OF(f, struct pac_flag_wait, future));
}

static const struct pac_future_vtable flag_wait_vtable = {
    .poll = flag_wait_vtable_poll,
    .drop = flag_wait_vtable_drop,
};

void
pac_flag_wait_init(struct pac_flag_wait *f, struct pac_lock *lock, struct pac_list *list,
                   const PAC_CELL(bool) * flag)
{
    f->future.vtable = &flag_wait_vtable;
    f->lock = lock;
    f->list = list;
    f->flag = flag;
    pac_waiter_init(&f->waiter);
}
