/* event.c - a word that says what happened, and a Notify that has those polled whom it concerns.
 *
 * The word alone decides, so that setting, clearing and making a wait each happen at one moment.
 * The broadcast comes after it, and may reach waits that were made in between and that it does not
 * concern: they go on to wait with another notified. A wait makes its notified before it reads the
 * word: who reads the old one is there for the broadcast. */
#include "event.h"

enum { SET = 1, ONE_TIME = 2 };

void
pac_event_init(struct pac_event *e)
{
    pac_atomic_init(&e->state, 0);
    pac_notify_init(&e->notify);
}

void
pac_event_set(struct pac_event *e)
{
    uint64_t state = pac_atomic_load(&e->state, PAC_RELAXED);
    uint64_t now_set;
    do {
        /* Written even if the flag is set already, so that who sees it sees what came before this
         * call as well. */
        now_set = (state & SET) != 0 ? state : (state + ONE_TIME) | SET;
        /* release: what was written before; acquire: keeps that of those who set it earlier in the
         * chain. Pairs with the acquire in has_happened. */
    } while (!pac_atomic_cas_weak(&e->state, &state, now_set, PAC_ACQ_REL, PAC_RELAXED));
    if (now_set != state) {
        pac_notify_waiters(&e->notify);
    }
}

void
pac_event_clear(struct pac_event *e)
{
    /* release: who waits for the next time comes after what was done before clearing; acquire: as
     * in pac_event_set. */
    pac_atomic_and(&e->state, ~(uint64_t)SET, PAC_ACQ_REL);
}

bool
pac_event_is_set(struct pac_event *e)
{
    /* acquire: pairs with the release in pac_event_set. */
    return (pac_atomic_load(&e->state, PAC_ACQUIRE) & SET) != 0;
}

static bool
has_happened(struct pac_event_wait *w)
{
    /* acquire: pairs with the release in pac_event_set. */
    uint64_t state = pac_atomic_load(&w->event->state, PAC_ACQUIRE);
    return ((w->seen | state) & SET) != 0 || state != w->seen;
}

enum pac_poll
pac_event_wait_poll(struct pac_event_wait *w, struct pac_context *cx)
{
    while (!has_happened(w)) {
        if (pac_notified_poll(&w->notified, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_notified_init(&w->notified, &w->event->notify);
    }
    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    pac_notified_drop(&w->notified);
    return PAC_READY;
}

void
pac_event_wait_drop(struct pac_event_wait *w)
{
    pac_notified_drop(&w->notified);
}

static enum pac_poll
event_wait_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_event_wait_poll(PAC_CONTAINER_OF(self, struct pac_event_wait, future), cx);
}

static void
event_wait_vtable_drop(struct pac_future *self)
{
    pac_event_wait_drop(PAC_CONTAINER_OF(self, struct pac_event_wait, future));
}

static const struct pac_future_vtable event_wait_vtable = {
    .poll = event_wait_vtable_poll,
    .drop = event_wait_vtable_drop,
};

void
pac_event_wait_init(struct pac_event_wait *w, struct pac_event *e)
{
    w->future.vtable = &event_wait_vtable;
    w->event = e;
    pac_notified_init(&w->notified, &e->notify);
    /* acquire: as in has_happened, for a flag that is set already. */
    w->seen = pac_atomic_load(&e->state, PAC_ACQUIRE);
}
