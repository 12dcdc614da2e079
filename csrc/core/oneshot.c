/* oneshot.c - a few flags under a lock.
 *
 * Each event is final (sent, sender gone, closed), so whoever waits is woken once and looks for
 * itself. `closed` is also set when the receiver learns how it ended: nothing can be received after
 * that.
 */
#include "oneshot.h"

void
pac_oneshot_init(struct pac_oneshot *o, void (*destroy)(void *value))
{
    *o = (struct pac_oneshot){.destroy = destroy};
    pac_list_init(&o->receivers);
    pac_list_init(&o->closings);
}

void
pac_oneshot_fini(struct pac_oneshot *o)
{
    PAC_ASSERT(pac_list_is_empty(&o->receivers) && pac_list_is_empty(&o->closings));
    pac_oneshot_drop_receiver(o);
}

/* ---- sending -------------------------------------------------------------------------------- */

enum pac_status
pac_oneshot_send(struct pac_oneshot *o, void *value)
{
    pac_lock_acquire(&o->lock);
    if (o->sent || o->closed) {
        enum pac_status status = o->sent ? PAC_FULL : PAC_CLOSED;
        pac_lock_release(&o->lock);
        return status;
    }
    o->sent = o->has_value = true;
    o->value = value;
    pac_waiters_wake_all(&o->receivers, &o->lock);
    return PAC_OK;
}

void
pac_oneshot_drop_sender(struct pac_oneshot *o)
{
    pac_lock_acquire(&o->lock);
    o->sender_gone = true;
    pac_waiters_wake_all(&o->receivers, &o->lock);
}

bool
pac_oneshot_is_closed(struct pac_oneshot *o)
{
    pac_lock_acquire(&o->lock);
    bool closed = o->closed;
    pac_lock_release(&o->lock);
    return closed;
}

void
pac_oneshot_closed_init(struct pac_flag_wait *f, struct pac_oneshot *o)
{
    pac_flag_wait_init(f, &o->lock, &o->closings, &o->closed);
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* Under the lock. */
static enum pac_status
take(struct pac_oneshot *o, void **value)
{
    if (!o->has_value && !o->sender_gone && !o->closed) {
        return PAC_EMPTY;
    }
    o->closed = true;
    if (!o->has_value) {
        return PAC_CLOSED;
    }
    o->has_value = false;
    *value = o->value;
    return PAC_OK;
}

enum pac_status
pac_oneshot_try_recv(struct pac_oneshot *o, void **value)
{
    pac_lock_acquire(&o->lock);
    enum pac_status status = take(o, value);
    if (status == PAC_EMPTY) {
        pac_lock_release(&o->lock);
    }
    else {
        pac_waiters_wake_all(&o->closings, &o->lock);
    }
    return status;
}

void
pac_oneshot_close(struct pac_oneshot *o)
{
    pac_lock_acquire(&o->lock);
    o->closed = true;
    pac_waiters_wake_all(&o->closings, &o->lock);
    pac_lock_acquire(&o->lock);
    pac_waiters_wake_all(&o->receivers, &o->lock);
}

void
pac_oneshot_drop_receiver(struct pac_oneshot *o)
{
    void *value;
    pac_oneshot_close(o);
    if (pac_oneshot_try_recv(o, &value) == PAC_OK && o->destroy != NULL) {
        o->destroy(value);
    }
}

enum pac_poll
pac_oneshot_recv_poll(struct pac_oneshot_recv *f, struct pac_context *cx)
{
    struct pac_oneshot *o = f->channel;
    struct pac_waker spare = PAC_NO_WAKER, old;

    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    pac_lock_acquire(&o->lock);
    while ((f->status = take(o, &f->value)) == PAC_EMPTY) {
        if (pac_waiter_arm(&f->waiter, &o->receivers, cx->waker, &spare)) {
            pac_lock_release(&o->lock);
            pac_waker_drop(&spare);
            pac_budget_refund();
            return PAC_PENDING;
        }
        pac_lock_release(&o->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(&o->lock);
    }
    old = pac_waiter_disarm(&f->waiter);
    pac_waiters_wake_all(&o->closings, &o->lock);
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    return PAC_READY;
}

void
pac_oneshot_recv_drop(struct pac_oneshot_recv *f)
{
    pac_waiter_leave(&f->waiter, &f->channel->lock);
}

static enum pac_poll
recv_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_oneshot_recv_poll(PAC_CONTAINER_OF(f, struct pac_oneshot_recv, future), cx);
}

static void
recv_vtable_drop(struct pac_future *f)
{
    pac_oneshot_recv_drop(PAC_CONTAINER_OF(f, struct pac_oneshot_recv, future));
}

static const struct pac_future_vtable recv_vtable = {
    .poll = recv_vtable_poll,
    .drop = recv_vtable_drop,
};

void
pac_oneshot_recv_init(struct pac_oneshot_recv *f, struct pac_oneshot *o)
{
    f->future.vtable = &recv_vtable;
    f->channel = o;
    f->status = PAC_EMPTY;
    f->value = NULL;
    pac_waiter_init(&f->waiter);
}
