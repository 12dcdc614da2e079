/* watch.c - a value and a version under a lock. */
#include "watch.h"

void
pac_watch_init(struct pac_watch *w, void *value, void *(*clone)(void *value),
               void (*destroy)(void *value))
{
    *w = (struct pac_watch){.clone = clone,
                            .destroy = destroy,
                            .value = value,
                            .senders = 1,
                            .closed = true};
    pac_list_init(&w->changes);
    pac_list_init(&w->closings);
}

void
pac_watch_fini(struct pac_watch *w)
{
    PAC_ASSERT(pac_list_is_empty(&w->changes) && pac_list_is_empty(&w->closings));
    w->destroy(w->value);
    w->value = NULL;
}

void *
pac_watch_swap(struct pac_watch *w, void *value)
{
    pac_lock_acquire(&w->lock);
    void *old = w->value;
    w->value = value;
    pac_lock_release(&w->lock);
    return old;
}

void *
pac_watch_get(struct pac_watch *w)
{
    pac_lock_acquire(&w->lock);
    void *value = w->clone(w->value);
    pac_lock_release(&w->lock);
    return value;
}

/* ---- sending -------------------------------------------------------------------------------- */

void
pac_watch_add_sender(struct pac_watch *w)
{
    pac_lock_acquire(&w->lock);
    w->senders++;
    pac_lock_release(&w->lock);
}

void
pac_watch_drop_sender(struct pac_watch *w)
{
    pac_lock_acquire(&w->lock);
    PAC_ASSERT(w->senders > 0);
    if (--w->senders > 0) {
        pac_lock_release(&w->lock);
        return;
    }
    pac_waiters_wake_all(&w->changes, &w->lock);
}

enum pac_status
pac_watch_send(struct pac_watch *w, void *value)
{
    pac_lock_acquire(&w->lock);
    if (w->receivers == 0) {
        pac_lock_release(&w->lock);
        return PAC_CLOSED;
    }
    void *old = w->value;
    w->value = value;
    w->version++;
    pac_waiters_wake_all(&w->changes, &w->lock);
    w->destroy(old);
    return PAC_OK;
}

bool
pac_watch_is_closed(struct pac_watch *w)
{
    pac_lock_acquire(&w->lock);
    bool closed = w->closed;
    pac_lock_release(&w->lock);
    return closed;
}

void
pac_watch_closed_init(struct pac_flag_wait *f, struct pac_watch *w)
{
    pac_flag_wait_init(f, &w->lock, &w->closings, &w->closed);
}

/* ---- receiving ------------------------------------------------------------------------------ */

void
pac_watch_subscribe(struct pac_watch_receiver *r, struct pac_watch *w)
{
    r->channel = w;
    r->gone = false;
    pac_lock_acquire(&w->lock);
    w->receivers++;
    w->closed = false;
    r->seen = w->version;
    pac_lock_release(&w->lock);
}

void
pac_watch_unsubscribe(struct pac_watch_receiver *r)
{
    struct pac_watch *w = r->channel;
    pac_lock_acquire(&w->lock);
    if (r->gone) {
        pac_lock_release(&w->lock);
        return;
    }
    r->gone = true;
    w->closed = --w->receivers == 0;
    pac_waiters_wake_all(&w->changes, &w->lock);
    pac_lock_acquire(&w->lock);
    if (w->closed) {
        pac_waiters_wake_all(&w->closings, &w->lock);
    }
    else {
        pac_lock_release(&w->lock);
    }
}

void *
pac_watch_get_seen(struct pac_watch_receiver *r)
{
    struct pac_watch *w = r->channel;
    pac_lock_acquire(&w->lock);
    void *value = w->clone(w->value);
    r->seen = w->version;
    pac_lock_release(&w->lock);
    return value;
}

bool
pac_watch_has_changed(struct pac_watch_receiver *r)
{
    pac_lock_acquire(&r->channel->lock);
    bool changed = r->seen != r->channel->version;
    pac_lock_release(&r->channel->lock);
    return changed;
}

/* Under the lock. */
static enum pac_status
see_change(struct pac_watch_receiver *r)
{
    struct pac_watch *w = r->channel;
    if (PAC_UNLIKELY(r->gone)) {
        return PAC_CLOSED;
    }
    if (r->seen != w->version) {
        r->seen = w->version;
        return PAC_OK;
    }
    return w->senders == 0 ? PAC_CLOSED : PAC_EMPTY;
}

enum pac_poll
pac_watch_changed_poll(struct pac_watch_changed *f, struct pac_context *cx)
{
    struct pac_watch *w = f->receiver->channel;
    struct pac_waker spare = PAC_NO_WAKER;

    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return PAC_PENDING;
    }
    pac_lock_acquire(&w->lock);
    while ((f->status = see_change(f->receiver)) == PAC_EMPTY) {
        if (pac_waiter_arm(&f->waiter, &w->changes, cx->waker, &spare)) {
            pac_lock_release(&w->lock);
            pac_waker_drop(&spare);
            pac_budget_refund();
            return PAC_PENDING;
        }
        pac_lock_release(&w->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(&w->lock);
    }
    struct pac_waker old = pac_waiter_disarm(&f->waiter);
    pac_lock_release(&w->lock);
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    return PAC_READY;
}

void
pac_watch_changed_drop(struct pac_watch_changed *f)
{
    pac_waiter_leave(&f->waiter, &f->receiver->channel->lock);
}

static enum pac_poll
changed_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_watch_changed_poll(PAC_CONTAINER_OF(f, struct pac_watch_changed, future), cx);
}

static void
changed_vtable_drop(struct pac_future *f)
{
    pac_watch_changed_drop(PAC_CONTAINER_OF(f, struct pac_watch_changed, future));
}

static const struct pac_future_vtable changed_vtable = {
    .poll = changed_vtable_poll,
    .drop = changed_vtable_drop,
};

void
pac_watch_changed_init(struct pac_watch_changed *f, struct pac_watch_receiver *r)
{
    f->future.vtable = &changed_vtable;
    f->receiver = r;
    f->status = PAC_EMPTY;
    pac_waiter_init(&f->waiter);
}
