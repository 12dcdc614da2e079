/* delay_by_notify.c - the same delay without a waker in sight: a helper thread and
 * Notify.
 *
 * Shows: an async function starts a thread that sleeps and then calls pac_notify_one,
 * and awaits the notification. Notify keeps the waker. It does not matter which comes
 * first, since a notification that nobody waits for is kept as a permit.
 */
#define _POSIX_C_SOURCE 200809L
#include "async.h"
#include "notify.h"
#include "tutorial.h"

#include <pthread.h>

struct delay {
    struct pac_async async;
    uint64_t deadline_ns;
    bool late_await; /* do not await before the thread has notified */
    int polls;
    uint64_t ready_ns;
    struct pac_notify notify;
    struct pac_notified notified;
    pthread_t thread;
    bool joined;
};

static void *
delay_thread(void *argument)
{
    struct delay *self = argument;
    uint64_t now_ns = pac_clock_ns();
    if (now_ns < self->deadline_ns) {
        block_for_ns(self->deadline_ns - now_ns);
    }
    show("thread: the time has come, notifying");
    pac_notify_one(&self->notify);
    return NULL;
}

static void
join_thread(struct delay *self)
{
    if (!self->joined) {
        pthread_join(self->thread, NULL);
        self->joined = true;
    }
}

static enum pac_poll
delay_poll(struct pac_future *future, struct pac_context *cx)
{
    struct delay *self = PAC_ASYNC_SELF(future, struct delay);
    show("delay: poll %d in %s", ++self->polls, pac_async_state_name(&self->async));
    PAC_ASYNC_BEGIN(self);
    pac_notify_init(&self->notify);
    claim(pthread_create(&self->thread, NULL, delay_thread, self) == 0, "a thread starts");
    if (self->late_await) {
        join_thread(self); /* blocks the executor: done here only to fix the order */
    }
    pac_notified_init(&self->notified, &self->notify);
    PAC_AWAIT(1, self, &self->notified.future, cx);
    self->ready_ns = pac_clock_ns();
    show("its time has come");
    PAC_ASYNC_END(self);
}

/* The thread uses our Notify, so it must end before we do. (delay_by_waker shows how to
 * end it early; here the delays are short.) */
static void
delay_cleanup(struct pac_async *async)
{
    struct delay *self = PAC_CONTAINER_OF(async, struct delay, async);
    if (async->state != PAC_STATE_START) {
        join_thread(self);
    }
}

static const struct pac_future_vtable delay_vtable = {delay_poll, pac_async_drop};

static void
delay_run(struct pac_executor *ex, struct delay *d, unsigned ms, bool late_await)
{
    *d = (struct delay){.late_await = late_await};
    d->deadline_ns = pac_clock_ns() + milliseconds(ms);
    pac_async_init(&d->async, &delay_vtable, delay_cleanup);
    claim(d->polls == 0, "making a delay runs nothing");
    run_to_end(ex, &d->async.future);
    claim(d->ready_ns >= d->deadline_ns, "it was not early");
}

int
main(void)
{
    struct pac_executor *ex = new_executor();
    struct delay d;

    show("the await comes first");
    delay_run(ex, &d, 100, false);
    claim(d.polls == 2, "the task was polled twice: at the start, and when notified");

    show("the notification comes first");
    delay_run(ex, &d, 5, true);
    claim(d.polls == 1, "the permit was there: one poll, no waiting");

    show("dropped in the middle");
    d = (struct delay){.deadline_ns = pac_clock_ns() + milliseconds(100)};
    pac_async_init(&d.async, &delay_vtable, delay_cleanup);
    struct pac_context cx = {&pac_noop_waker};
    claim(pac_future_poll(&d.async.future, &cx) == PAC_PENDING, "PENDING");
    pac_future_drop(&d.async.future);
    claim(d.joined, "the thread has ended");
    claim(d.ready_ns == 0, "what stands after the await has not run");
    end_executor(ex);
    return 0;
}
