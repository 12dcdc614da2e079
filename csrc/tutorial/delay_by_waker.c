/* delay_by_waker.c - a delay written by hand: a waker, a lock and a helper thread.
 *
 * Shows: the first poll starts the thread, and each poll leaves its waker, in place of
 * the one before. When the time has come, the thread notes that and wakes the newest
 * waker: that is the whole bargain behind PENDING. Dropping the delay ends the thread
 * early.
 */
#define _POSIX_C_SOURCE 200809L
#include "async.h"
#include "tutorial.h"

#include <pthread.h>

/* ---- the delay ------------------------------------------------------------------------------ */

struct delay {
    struct pac_future future;
    uint64_t deadline_ns;
    int polls;
    int threads; /* how many were started */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t dropped_changed;
    bool dropped;           /* lock */
    bool elapsed;           /* lock */
    struct pac_waker waker; /* lock: of the newest poll */
};

static void *
delay_thread(void *argument)
{
    struct delay *d = argument;
    struct timespec deadline = {(time_t)(d->deadline_ns / 1000000000),
                                (long)(d->deadline_ns % 1000000000)};
    pthread_mutex_lock(&d->lock);
    while (!d->dropped && pac_clock_ns() < d->deadline_ns) {
        pthread_cond_timedwait(&d->dropped_changed, &d->lock, &deadline);
    }
    d->elapsed = !d->dropped;
    struct pac_waker waker = d->waker;
    d->waker = PAC_NO_WAKER;
    bool dropped = d->dropped;
    pthread_mutex_unlock(&d->lock);

    /* Outside the lock: waking and dropping a waker may run anything. */
    if (dropped) {
        pac_waker_drop(&waker);
    }
    else {
        show("thread: the time has come, waking the newest waker");
        pac_waker_wake(&waker);
    }
    return NULL;
}

static void
start_thread(struct delay *d)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&d->dropped_changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&d->lock, NULL);
    claim(pthread_create(&d->thread, NULL, delay_thread, d) == 0, "a thread starts");
    d->threads++;
}

static enum pac_poll
delay_poll(struct pac_future *future, struct pac_context *cx)
{
    struct delay *d = PAC_CONTAINER_OF(future, struct delay, future);
    d->polls++;
    if (d->threads == 0) {
        d->waker = pac_waker_clone(cx->waker);
        start_thread(d);
        show("delay: poll %d, PENDING, the thread is started", d->polls);
        return PAC_PENDING;
    }

    struct pac_waker spare = pac_waker_clone(cx->waker);
    pthread_mutex_lock(&d->lock);
    bool elapsed = d->elapsed;
    if (!elapsed && !pac_waker_will_wake(&d->waker, &spare)) {
        struct pac_waker old = d->waker;
        d->waker = spare;
        spare = old;
    }
    pthread_mutex_unlock(&d->lock);
    pac_waker_drop(&spare);
    show("delay: poll %d, %s", d->polls, poll_name(elapsed ? PAC_READY : PAC_PENDING));
    return elapsed ? PAC_READY : PAC_PENDING;
}

static void
delay_drop(struct pac_future *future)
{
    struct delay *d = PAC_CONTAINER_OF(future, struct delay, future);
    if (d->threads == 0) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->dropped = true;
    pthread_cond_signal(&d->dropped_changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->dropped_changed);
}

static const struct pac_future_vtable delay_vtable = {delay_poll, delay_drop};

static void
delay_init(struct delay *d, uint64_t deadline_ns)
{
    *d = (struct delay){.future = {&delay_vtable}, .deadline_ns = deadline_ns};
}

/* ---- an async function that awaits it ------------------------------------------------------- */

struct says_when {
    struct pac_async async;
    struct delay *delay;
    uint64_t ready_ns;
};

static enum pac_poll
says_when_poll(struct pac_future *future, struct pac_context *cx)
{
    struct says_when *self = PAC_ASYNC_SELF(future, struct says_when);
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, &self->delay->future, cx);
    self->ready_ns = pac_clock_ns();
    show("its time has come");
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable says_when_vtable = {says_when_poll, pac_async_drop};

/* ---- a waker of nobody, which tells whether it is woken and whether it is kept --- */

static PAC_ATOMIC(int) stranger_wakes;
static PAC_ATOMIC(int) stranger_clones; /* alive */

static struct pac_waker stranger_clone(void *data);

static void
stranger_wake_by_ref(void *data)
{
    (void)data;
    pac_atomic_add(&stranger_wakes, 1, PAC_RELAXED);
}

static void
stranger_drop(void *data)
{
    (void)data;
    pac_atomic_sub(&stranger_clones, 1, PAC_RELAXED);
}

static void
stranger_wake(void *data)
{
    stranger_wake_by_ref(data);
    stranger_drop(data);
}

static const struct pac_waker_vtable stranger_vtable = {stranger_clone, stranger_wake,
                                                        stranger_wake_by_ref, stranger_drop};

static struct pac_waker
stranger_clone(void *data)
{
    pac_atomic_add(&stranger_clones, 1, PAC_RELAXED);
    return (struct pac_waker){&stranger_vtable, data};
}

int
main(void)
{
    const struct pac_waker stranger = {&stranger_vtable, NULL};
    struct pac_context strangers_context = {&stranger};
    struct pac_executor *ex = new_executor();

    show("a delay of 100 ms, polled once by a stranger, then awaited by a task");
    struct delay delay;
    delay_init(&delay, pac_clock_ns() + milliseconds(100));
    claim(delay.threads == 0, "making a delay starts nothing");
    claim(pac_future_poll(&delay.future, &strangers_context) == PAC_PENDING, "PENDING");
    claim(pac_atomic_load(&stranger_clones, PAC_RELAXED) == 1, "its waker is kept");

    struct says_when task = {.delay = &delay};
    pac_async_init(&task.async, &says_when_vtable, NULL);
    run_to_end(ex, &task.async.future);
    claim(task.ready_ns >= delay.deadline_ns, "it was not early");
    claim(delay.polls == 3, "one poll by the stranger, two by the task");
    claim(delay.threads == 1, "one thread for all of them");
    claim(pac_atomic_load(&stranger_wakes, PAC_RELAXED) == 0, "no stranger is woken");
    claim(pac_atomic_load(&stranger_clones, PAC_RELAXED) == 0, "none is kept");

    show("a delay of an hour, dropped after its first poll");
    uint64_t started_ns = pac_clock_ns();
    delay_init(&delay, started_ns + milliseconds(3600000));
    claim(pac_future_poll(&delay.future, &strangers_context) == PAC_PENDING, "PENDING");
    pac_future_drop(&delay.future);
    claim(pac_clock_ns() - started_ns < milliseconds(60000), "the thread ended early");
    claim(pac_atomic_load(&stranger_wakes, PAC_RELAXED) == 0, "nobody was woken");
    claim(pac_atomic_load(&stranger_clones, PAC_RELAXED) == 0, "no waker is kept");
    end_executor(ex);
    return 0;
}
