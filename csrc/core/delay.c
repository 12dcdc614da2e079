/* delay.c - the future, and the timer entry behind it.
 *
 * Who may touch an entry: `timer` the thread that owns the executor; `waker` both sides, by
 * AtomicWaker's rules; `wanted_ns` is written by the delay's side and read by the executor,
 * `fired_ns` the other way round.
 *
 * On the executor's own thread both sides are the same thread, and all is done at once. From
 * another thread the delay's side writes what it wants, sets REQUESTED, and if that was clear
 * sends the entry to the executor as a runnable; the executor clears REQUESTED and brings the
 * wheel in line with what is wanted. DROPPED is set together with REQUESTED in one
 * read-modify-write, so that whoever of the two comes second knows it: the executor frees an
 * entry that it finds DROPPED, the dropper one that the executor, having closed, can no longer be
 * sent. */
#include "delay.h"

#include "atomic_waker.h"
#include "budget.h"

enum { REQUESTED = 1, DROPPED = 2 };

struct pac_timer_entry {
    struct pac_runnable request;
    struct pac_timer timer;
    struct pac_executor *executor;
    struct pac_atomic_waker waker;
    PAC_ATOMIC(uint64_t) wanted_ns;
    PAC_ATOMIC(uint64_t) fired_ns; /* one more than the time at which it fired last; 0: not yet */
    PAC_ATOMIC(uint32_t) flags;
};

static inline bool
entry_is_local(const struct pac_timer_entry *e)
{
    return pac_current_scheduler == &e->executor->scheduler;
}

/* ---- the executor's side -------------------------------------------------------------------- */

static void
entry_free(struct pac_timer_entry *e)
{
    pac_atomic_waker_fini(&e->waker);
    PAC_COUNT(timers, -1);
    pac_scheduler_block_free(&e->executor->scheduler, &e->executor->timer_pool, e);
}

static void
entry_fire(struct pac_timer *timer)
{
    struct pac_timer_entry *e = PAC_CONTAINER_OF(timer, struct pac_timer_entry, timer);
    /* release: pairs with the acquire in pac_delay_is_elapsed; before the wake, as AtomicWaker
     * asks. */
    pac_atomic_store(&e->fired_ns, e->executor->now_ns + 1, PAC_RELEASE);
    pac_atomic_waker_wake(&e->waker);
}

/* Take a request off its way; what is wanted is read after this. True: the delay has gone. */
static bool
request_take(struct pac_timer_entry *e)
{
    /* acq_rel: pairs with the fetch_or in entry_request; one that comes after this sends it anew.
     */
    uint32_t flags = pac_atomic_and(&e->flags, ~(uint32_t)REQUESTED, PAC_ACQ_REL);
    if (!(flags & DROPPED)) {
        return false;
    }
    pac_wheel_remove(&e->executor->wheel, &e->timer);
    entry_free(e);
    return true;
}

static void
request_run(struct pac_runnable *r)
{
    struct pac_timer_entry *e = PAC_CONTAINER_OF(r, struct pac_timer_entry, request);
    if (!request_take(e)) {
        pac_wheel_reset(&e->executor->wheel, &e->timer,
                        pac_atomic_load(&e->wanted_ns, PAC_RELAXED));
    }
}

static void
request_discard(struct pac_runnable *r)
{
    struct pac_timer_entry *e = PAC_CONTAINER_OF(r, struct pac_timer_entry, request);
    /* Whoever waits for it has to learn that it will not fire any more. Taken first: once the
     * request is off its way, another thread may free the entry. */
    struct pac_waker waker = pac_atomic_waker_take(&e->waker);
    request_take(e);
    pac_waker_wake(&waker);
}

static const struct pac_runnable_vtable request_vtable = {
    .run = request_run,
    .discard = request_discard,
};

/* ---- the delay's side ----------------------------------------------------------------------- */

/* From a thread that is not the executor's. False: it has closed, and has let go of the entry. */
static bool
entry_request(struct pac_timer_entry *e, uint32_t flags)
{
    /* acq_rel: publishes wanted_ns; pairs with request_take. */
    if (pac_atomic_or(&e->flags, flags | REQUESTED, PAC_ACQ_REL) & REQUESTED) {
        return true;
    }
    if (pac_scheduler_inject(&e->executor->scheduler, &e->request) == PAC_OK) {
        return true;
    }
    /* It has closed: the timer is out of the wheel, and the entry in no queue. relaxed: nobody
     * else looks at the flags any more. Were REQUESTED left standing, the drop to come would take
     * it for a request that is still under way, and leave the entry to it. */
    pac_atomic_and(&e->flags, ~(uint32_t)REQUESTED, PAC_RELAXED);
    return false;
}

static void
entry_drop(struct pac_timer_entry *e)
{
    if (entry_is_local(e) && pac_atomic_load(&e->flags, PAC_ACQUIRE) == 0) {
        pac_wheel_remove(&e->executor->wheel, &e->timer);
        entry_free(e);
        return;
    }
    struct pac_waker waker = pac_atomic_waker_take(&e->waker);
    if (!entry_request(e, DROPPED)) {
        entry_free(e);
    }
    pac_waker_drop(&waker);
}

static void
entry_set_deadline(struct pac_timer_entry *e, uint64_t deadline_ns)
{
    pac_atomic_store(&e->wanted_ns, deadline_ns, PAC_RELAXED);
    if (entry_is_local(e)) {
        pac_wheel_reset(&e->executor->wheel, &e->timer, deadline_ns);
    }
    else {
        /* A closed executor is noticed by the next poll. */
        entry_request(e, 0);
    }
}

static enum pac_status
delay_arm(struct pac_delay *d, struct pac_context *cx)
{
    struct pac_executor *ex = pac_executor_current();
    if (ex == NULL) {
        return PAC_NO_EXECUTOR;
    }
    if (pac_executor_is_closed(ex)) {
        return PAC_CLOSED;
    }
    struct pac_timer_entry *e = pac_scheduler_block_new(&ex->scheduler, &ex->timer_pool, sizeof *e);
    if (e == NULL) {
        return PAC_NO_MEMORY;
    }
    PAC_COUNT(timers, 1);
    e->request.vtable = &request_vtable;
    e->executor = ex;
    pac_atomic_init(&e->wanted_ns, d->deadline_ns);
    pac_atomic_init(&e->fired_ns, 0);
    pac_atomic_init(&e->flags, 0);
    pac_atomic_waker_init(&e->waker);
    pac_atomic_waker_register(&e->waker, cx->waker);
    pac_timer_init(&e->timer, entry_fire);
    pac_wheel_insert(&ex->wheel, &e->timer, d->deadline_ns);
    d->entry = e;
    return PAC_OK;
}

bool
pac_delay_is_elapsed(const struct pac_delay *d)
{
    /* acquire: pairs with the release in entry_fire. */
    return d->entry != NULL && pac_atomic_load(&d->entry->fired_ns, PAC_ACQUIRE) > d->deadline_ns;
}

/* Spend a unit of the budget and be ready. */
static enum pac_poll
delay_ready(struct pac_delay *d, struct pac_context *cx, enum pac_status status)
{
    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    d->status = status;
    return PAC_READY;
}

enum pac_poll
pac_delay_poll(struct pac_delay *d, struct pac_context *cx)
{
    if (d->entry != NULL && pac_executor_current() != NULL && !entry_is_local(d->entry) &&
        !pac_delay_is_elapsed(d)) {
        /* It has moved to another executor. */
        pac_delay_drop(d);
    }
    if (d->entry == NULL) {
        enum pac_status status = delay_arm(d, cx);
        return status == PAC_OK ? PAC_PENDING : delay_ready(d, cx, status);
    }
    if (pac_delay_is_elapsed(d)) {
        return delay_ready(d, cx, PAC_OK);
    }
    pac_atomic_waker_register(&d->entry->waker, cx->waker);
    if (pac_delay_is_elapsed(d)) {
        return delay_ready(d, cx, PAC_OK);
    }
    /* After registering: closing sets the flag first and wakes then, so one of the two is seen. */
    if (pac_executor_is_closed(d->entry->executor)) {
        return delay_ready(d, cx, PAC_CLOSED);
    }
    return PAC_PENDING;
}

void
pac_delay_reset(struct pac_delay *d, uint64_t deadline_ns)
{
    d->deadline_ns = deadline_ns;
    if (d->entry != NULL) {
        entry_set_deadline(d->entry, d->deadline_ns);
    }
}

uint64_t
pac_delay_now_ns(const struct pac_delay *d)
{
    return d->entry != NULL ? pac_executor_now_ns(d->entry->executor) : pac_clock_ns();
}

void
pac_delay_drop(struct pac_delay *d)
{
    if (d->entry != NULL) {
        struct pac_timer_entry *e = d->entry;
        d->entry = NULL;
        entry_drop(e);
    }
}

static enum pac_poll
delay_future_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_delay_poll(PAC_CONTAINER_OF(f, struct pac_delay, future), cx);
}

static void
delay_future_drop(struct pac_future *f)
{
    pac_delay_drop(PAC_CONTAINER_OF(f, struct pac_delay, future));
}

static const struct pac_future_vtable delay_vtable = {
    .poll = delay_future_poll,
    .drop = delay_future_drop,
};

void
pac_delay_init(struct pac_delay *d, uint64_t deadline_ns)
{
    d->future.vtable = &delay_vtable;
    d->deadline_ns = deadline_ns;
    d->entry = NULL;
    d->status = PAC_OK;
}
