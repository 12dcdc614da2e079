/* promise.c - one word decides.
 *
 *    CLAIMED        a maker has the right to write the value; the others come too late
 *    KEPT, FAILED,  what became of it: set by the one who claimed, after the value
 *    BROKEN
 *    GIVEN_UP       the future wants it no longer
 *    HANDLES_GONE,  that side touches the promise no more: who sets the second of the two is the
 *    FUTURE_GONE    last that knows it
 *
 * Keeping it against giving it up: both are one change of this word, so one is first. If the outcome
 * is, the value is the future's, which finds it when it gives up. If GIVEN_UP is, also between CLAIMED
 * and the outcome, the maker finds it and has the value still; and the future has found no outcome
 * and tells the makers. Neither waits for the other, and no value has two owners or none.
 *
 * Every change is a read-modify-write, so that each side's release reaches whoever looks later,
 * however many bits the other one has set in between. */
#include "promise.h"

enum {
    CLAIMED = 1,
    KEPT = 2,
    FAILED = 4,
    BROKEN = 8,
    GIVEN_UP = 16,
    HANDLES_GONE = 32,
    FUTURE_GONE = 64,
};

enum { OUTCOME = KEPT | FAILED | BROKEN };

void
pac_promise_fini(struct pac_promise *p)
{
    pac_atomic_waker_fini(&p->waker);
}

/* ---- the makers' side ----------------------------------------------------------------------- */

static enum pac_status
claim(struct pac_promise *p)
{
    /* relaxed: claiming hands nothing over; the outcome does, or GIVEN_UP, which is acquired then.
     */
    uint32_t now = pac_atomic_load(&p->state, PAC_RELAXED);
    do {
        if (now & CLAIMED) {
            /* By one that came too late itself, perhaps: then it was given up, not kept. */
            return (now & GIVEN_UP) && !(now & OUTCOME) ? PAC_CLOSED : PAC_FULL;
        }
        if (now & GIVEN_UP) {
            return PAC_CLOSED;
        }
    } while (!pac_atomic_cas_weak(&p->state, &now, now | CLAIMED, PAC_RELAXED, PAC_RELAXED));
    return PAC_OK;
}

static void
wake(struct pac_promise *p, struct pac_wake_group *group)
{
    struct pac_waker w = pac_atomic_waker_take(&p->waker);
    if (group == NULL) {
        pac_waker_wake(&w);
    }
    else {
        pac_wake_group_add(group, &w);
    }
}

static enum pac_status
settle(struct pac_promise *p, void *value, uint32_t outcome, struct pac_wake_group *group)
{
    enum pac_status status = claim(p);
    if (status != PAC_OK) {
        return status;
    }
    p->value = value;
    uint32_t now = CLAIMED;
    /* release: the value, to the acquire of pac_promise_outcome or pac_promise_give_up. acquire:
     * what the future did before it gave up. */
    while (!pac_atomic_cas_weak(&p->state, &now, now | outcome, PAC_ACQ_REL, PAC_ACQUIRE)) {
        if (now & GIVEN_UP) {
            return PAC_CLOSED; /* without an outcome, so that giving up again finds none either */
        }
    }
    wake(p, group);
    return PAC_OK;
}

enum pac_status
pac_promise_complete(struct pac_promise *p, void *value, struct pac_wake_group *group)
{
    return settle(p, value, KEPT, group);
}

enum pac_status
pac_promise_fail(struct pac_promise *p, void *error, struct pac_wake_group *group)
{
    return settle(p, error, FAILED, group);
}

bool
pac_promise_is_over(struct pac_promise *p)
{
    /* acquire: what the future did before it gave up; pairs with pac_promise_give_up. */
    return (pac_atomic_load(&p->state, PAC_ACQUIRE) & (CLAIMED | GIVEN_UP)) != 0;
}

void
pac_promise_ref(struct pac_promise *p)
{
    /* relaxed: the caller's own handle keeps the count above zero. */
    uint32_t before = pac_atomic_add(&p->handles, 1, PAC_RELAXED);
    PAC_ASSERT(before > 0);
    (void)before;
}

bool
pac_promise_unref(struct pac_promise *p, struct pac_wake_group *group)
{
    /* acq_rel: what was done by the other handles comes before the end. */
    uint32_t before = pac_atomic_sub(&p->handles, 1, PAC_ACQ_REL);
    PAC_ASSERT(before > 0);
    if (before > 1) {
        return false;
    }
    enum pac_status ignored = settle(p, NULL, BROKEN, group);
    (void)ignored;
    /* acq_rel: pairs with the same in pac_promise_let_go: what the first side to go did is seen by
     * the second, which frees. */
    return (pac_atomic_or(&p->state, HANDLES_GONE, PAC_ACQ_REL) & FUTURE_GONE) != 0;
}

/* ---- the future's side ---------------------------------------------------------------------- */

static enum pac_promise_outcome
outcome_of(const struct pac_promise *p, uint32_t state, void **value)
{
    if (!(state & (KEPT | FAILED))) {
        return state & BROKEN ? PAC_PROMISE_BROKEN : PAC_PROMISE_PENDING;
    }
    *value = p->value;
    return state & KEPT ? PAC_PROMISE_KEPT : PAC_PROMISE_FAILED;
}

enum pac_promise_outcome
pac_promise_outcome(struct pac_promise *p, void **value)
{
    /* acquire: the value; pairs with the release in settle. */
    return outcome_of(p, pac_atomic_load(&p->state, PAC_ACQUIRE), value);
}

static bool
is_settled(struct pac_promise *p)
{
    /* relaxed: who reads the value asks pac_promise_outcome. */
    return (pac_atomic_load(&p->state, PAC_RELAXED) & OUTCOME) != 0;
}

enum pac_poll
pac_promise_poll(struct pac_promise *p, struct pac_context *cx)
{
    if (!is_settled(p)) {
        pac_atomic_waker_register(&p->waker, cx->waker);
        /* After registering, as AtomicWaker asks: settle sets the outcome first and wakes then. */
        if (!is_settled(p)) {
            return PAC_PENDING;
        }
    }
    return pac_budget_spend(cx) ? PAC_READY : PAC_PENDING;
}

enum pac_promise_outcome
pac_promise_give_up(struct pac_promise *p, void **value)
{
    /* acquire: the value, from the release in settle. release: to the maker that is refused. */
    uint32_t before = pac_atomic_or(&p->state, GIVEN_UP, PAC_ACQ_REL);
    struct pac_waker w = pac_atomic_waker_take(&p->waker);
    pac_waker_drop(&w);
    return outcome_of(p, before, value);
}

bool
pac_promise_let_go(struct pac_promise *p)
{
    /* acq_rel: as in pac_promise_unref. */
    return (pac_atomic_or(&p->state, FUTURE_GONE, PAC_ACQ_REL) & HANDLES_GONE) != 0;
}

static enum pac_poll
promise_future_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_promise_poll(PAC_CONTAINER_OF(f, struct pac_promise, future), cx);
}

static void
promise_future_drop(struct pac_future *f)
{
    void *ignored;
    pac_promise_give_up(PAC_CONTAINER_OF(f, struct pac_promise, future), &ignored);
}

static const struct pac_future_vtable promise_vtable = {
    .poll = promise_future_poll,
    .drop = promise_future_drop,
};

void
pac_promise_init(struct pac_promise *p)
{
    p->future.vtable = &promise_vtable;
    pac_atomic_init(&p->state, 0);
    pac_atomic_init(&p->handles, 1);
    pac_atomic_waker_init(&p->waker);
    p->value = NULL;
}
