/* barrier.c - a count of arrivals, a count of openings, and a Notify.
 *
 * A wait may go on once the barrier has opened since it arrived; the count of openings alone says
 * so. The broadcast that follows may reach waits of the next generation too, which go on to wait
 * with another notified. A wait makes its notified under the lock in which it arrives, so it is
 * there when its own generation's broadcast comes. */
#include "barrier.h"

void
pac_barrier_init(struct pac_barrier *b, uint64_t parties)
{
    pac_atomic_init(&b->lock.held, 0);
    b->parties = parties == 0 ? 1 : parties;
    b->arrived = 0;
    pac_atomic_init(&b->generation, 0);
    pac_notify_init(&b->notify);
}

uint64_t
pac_barrier_arrived(struct pac_barrier *b)
{
    pac_lock_acquire(&b->lock);
    uint64_t arrived = b->arrived;
    pac_lock_release(&b->lock);
    return arrived;
}

static inline bool
has_opened(struct pac_barrier_wait *w)
{
    /* acquire: pairs with the release in arrive; the leader has seen by the lock what all wrote. */
    return pac_atomic_load(&w->barrier->generation, PAC_ACQUIRE) != w->generation;
}

static void
arrive(struct pac_barrier_wait *w)
{
    struct pac_barrier *b = w->barrier;
    w->state = PAC_BARRIER_ARRIVED;
    pac_lock_acquire(&b->lock);
    /* relaxed: written with the lock held. */
    w->generation = pac_atomic_load(&b->generation, PAC_RELAXED);
    pac_notified_init(&w->notified, &b->notify);
    b->arrived++;
    w->is_leader = b->arrived == b->parties;
    if (w->is_leader) {
        b->arrived = 0;
        /* release: pairs with the acquire in has_opened. */
        pac_atomic_store(&b->generation, w->generation + 1, PAC_RELEASE);
    }
    pac_lock_release(&b->lock);
    if (w->is_leader) {
        pac_notify_waiters(&b->notify);
    }
}

enum pac_poll
pac_barrier_wait_poll(struct pac_barrier_wait *w, struct pac_context *cx)
{
    PAC_ASSERT(w->state != PAC_BARRIER_DONE);
    if (w->state == PAC_BARRIER_INIT) {
        arrive(w);
    }
    while (!has_opened(w)) {
        if (pac_notified_poll(&w->notified, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_notified_init(&w->notified, &w->barrier->notify);
    }
    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    w->state = PAC_BARRIER_DONE;
    pac_notified_drop(&w->notified);
    return PAC_READY;
}

void
pac_barrier_wait_drop(struct pac_barrier_wait *w)
{
    struct pac_barrier *b = w->barrier;
    uint8_t state = w->state;
    w->state = PAC_BARRIER_DONE;
    if (state != PAC_BARRIER_ARRIVED) {
        return;
    }
    pac_lock_acquire(&b->lock);
    if (!has_opened(w)) {
        b->arrived--;
    }
    pac_lock_release(&b->lock);
    pac_notified_drop(&w->notified);
}

static enum pac_poll
barrier_wait_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_barrier_wait_poll(PAC_CONTAINER_OF(self, struct pac_barrier_wait, future), cx);
}

static void
barrier_wait_vtable_drop(struct pac_future *self)
{
    pac_barrier_wait_drop(PAC_CONTAINER_OF(self, struct pac_barrier_wait, future));
}

static const struct pac_future_vtable barrier_wait_vtable = {
    .poll = barrier_wait_vtable_poll,
    .drop = barrier_wait_vtable_drop,
};

void
pac_barrier_wait_init(struct pac_barrier_wait *w, struct pac_barrier *b)
{
    w->future.vtable = &barrier_wait_vtable;
    w->barrier = b;
    w->generation = 0;
    w->state = PAC_BARRIER_INIT;
    w->is_leader = false;
}
