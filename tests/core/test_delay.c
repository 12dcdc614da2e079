/* Delays: by hand on one executor, in tasks, and moved between threads and executors. Built once
 * more with PAC_NO_TIMERFD, where epoll_pwait2 keeps the deadlines. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "budget.h"
#include "delay.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define US ((uint64_t)1000)
#define MS ((uint64_t)1000000)
#define LONG (100000 * MS)

static struct pac_executor *ex;
static struct pac_scheduler *entered_before;

static struct pac_executor *
executor_new(void)
{
    enum pac_status status;
    struct pac_executor *made = pac_executor_new(NULL, &status);
    CHECK_INT(status, PAC_OK);
    return made;
}

static void
set_up(void)
{
    ex = executor_new();
    entered_before = pac_executor_enter(ex);
}

static void
tear_down(void)
{
    pac_executor_leave(entered_before);
    pac_executor_close(ex);
    pac_executor_free(ex);
}

static void
turn_until(uint64_t ns)
{
    do {
        CHECK_INT(pac_executor_turn(ex), PAC_OK);
    } while (pac_clock_ns() < ns);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
}

/* ---- on one thread, by hand ----------------------------------------------------------------- */

static struct counting_waker counts;
static struct pac_waker counting;
static struct pac_context cx;

static void
by_hand(void)
{
    set_up();
    counting = counting_waker_init(&counts);
    cx.waker = &counting;
}

static void
polling_again_arms_nothing_again(void)
{
    struct pac_delay d;
    by_hand();
    pac_delay_init(&d, pac_clock_ns() + 20 * MS);
    CHECK_INT(ex->wheel.count, 0); /* not before the first poll */
    for (int i = 0; i < 100; i++) {
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    }
    CHECK_INT(ex->wheel.count, 1);
    CHECK_INT(counting_clones(&counts), 1);
    CHECK(!pac_delay_is_elapsed(&d));
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 1);
    CHECK_INT(counting_live(&counts), 0);
    CHECK(pac_delay_is_elapsed(&d));
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    CHECK_INT(d.status, PAC_OK);
    CHECK_INT(ex->metrics.timers_fired, 1);
    pac_delay_drop(&d);
    pac_delay_drop(&d); /* twice is nothing */
    tear_down();
}

static void
dropping_disarms(void)
{
    struct pac_delay d;
    by_hand();
    for (int i = 0; i < 3; i++) {
        pac_delay_init(&d, pac_clock_ns() + (i == 2 ? LONG : MS));
        if (i > 0) {
            CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
        }
        pac_delay_drop(&d);
        CHECK_INT(ex->wheel.count, 0);
        CHECK_INT(counting_live(&counts), 0);
    }
    turn_until(pac_clock_ns() + 2 * MS);
    CHECK_INT(counting_wakes(&counts), 0);
    /* It may be polled again afterwards. */
    d.deadline_ns = pac_clock_ns() + MS;
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 1);
    pac_delay_drop(&d);
    tear_down();
}

static void
the_newest_waker_is_woken(void)
{
    struct pac_delay d;
    struct counting_waker other;
    struct pac_waker w = counting_waker_init(&other);
    struct pac_context other_cx = {&w};
    by_hand();
    pac_delay_init(&d, pac_clock_ns() + 20 * MS);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    CHECK_INT(pac_delay_poll(&d, &other_cx), PAC_PENDING);
    CHECK_INT(counting_live(&counts), 0);
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 0);
    CHECK_INT(counting_wakes(&other), 1);
    pac_delay_drop(&d);
    CHECK_INT(counting_live(&other), 0);
    tear_down();
}

/* What has passed, and nought, take one turn: passed when the turn before began, as that is the time
 * that the executor goes by. */
static void
a_deadline_that_has_passed_takes_one_turn(void)
{
    struct pac_delay d;
    by_hand();
    for (int i = 0; i < 2; i++) {
        pac_delay_init(&d, i == 0 ? 0 : ex->now_ns - MS);
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
        CHECK_INT(pac_executor_next_ns(ex), 0);
        CHECK_INT(pac_executor_turn(ex), PAC_OK);
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
        pac_delay_drop(&d);
    }
    tear_down();
}

static void
reset_to_earlier(void)
{
    struct pac_delay d;
    by_hand();
    pac_delay_init(&d, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    pac_delay_reset(&d, pac_clock_ns() + 20 * MS);
    CHECK(pac_executor_next_ns(ex) < pac_clock_ns() + 21 * MS);
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 1);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    pac_delay_drop(&d);
    tear_down();
}

static void
reset_to_later(void)
{
    struct pac_delay d;
    by_hand();
    uint64_t first_ns = pac_clock_ns() + MS;
    pac_delay_init(&d, first_ns);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    pac_delay_reset(&d, first_ns + 20 * MS);
    turn_until(first_ns + 2 * PAC_WHEEL_TICK_NS);
    if (pac_clock_ns() < first_ns + 15 * MS) { /* unless the machine was away */
        CHECK_INT(counting_wakes(&counts), 0);
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    }
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 1);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    pac_delay_drop(&d);
    tear_down();
}

static void
reset_after_it_fired(void)
{
    struct pac_delay d;
    by_hand();
    pac_delay_init(&d, pac_clock_ns());
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    for (int i = 1; i <= 3; i++) {
        turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
        CHECK_INT(counting_wakes(&counts), i);
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
        pac_delay_reset(&d, pac_clock_ns() + 5 * MS);
        CHECK(!pac_delay_is_elapsed(&d));
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    }
    pac_delay_drop(&d);
    tear_down();
}

static void
years_ahead_and_never(void)
{
    struct pac_delay d, never;
    by_hand();
    pac_delay_init(&d, pac_clock_ns() + (uint64_t)20 * 365 * 86400 * 1000 * MS);
    pac_delay_init(&never, PAC_NEVER);
    CHECK_INT(pac_delay_poll(&never, &cx), PAC_PENDING);
    CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    CHECK(pac_executor_next_ns(ex) <= pac_ns_add(d.deadline_ns, PAC_WHEEL_TICK_NS));
    turn_until(pac_clock_ns() + MS);
    CHECK_INT(counting_wakes(&counts), 0);
    pac_delay_reset(&d, PAC_NEVER);
    pac_delay_reset(&never, pac_clock_ns());
    turn_until(pac_clock_ns() + MS);
    CHECK_INT(pac_delay_poll(&never, &cx), PAC_READY);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    pac_delay_drop(&d);
    pac_delay_drop(&never);
    tear_down();
}

static void
why_it_could_not_wait(void)
{
    struct pac_delay d;
    by_hand();
    pac_executor_leave(entered_before);
    pac_delay_init(&d, pac_clock_ns() + MS);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    CHECK_INT(d.status, PAC_NO_EXECUTOR);
    pac_delay_drop(&d);
    entered_before = pac_executor_enter(ex);
#ifdef PAC_DEBUG
    pac_delay_init(&d, pac_clock_ns() + MS);
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    CHECK_INT(d.status, PAC_NO_MEMORY);
    pac_delay_drop(&d);
#endif
    CHECK_INT(counting_live(&counts), 0);
    tear_down();
}

static void
being_ready_spends_the_budget(void)
{
    struct pac_delay d;
    by_hand();
    pac_delay_init(&d, 1);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(counting_wakes(&counts), 1);
    pac_budget_left = 1;
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING); /* stays ready, once there is a budget again */
    CHECK_INT(counting_wakes(&counts), 2);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    pac_delay_drop(&d);
    tear_down();
}

/* A waker that drops another delay, which is due in the same turn. */
static struct pac_delay dropped_by_waker;
static int dropping_wakes;

static struct pac_waker dropping_clone(void *data);

static void
dropping_wake(void *data)
{
    (void)data;
    dropping_wakes++;
    pac_delay_drop(&dropped_by_waker);
}

static void
dropping_drop(void *data)
{
    (void)data;
}

static const struct pac_waker_vtable dropping_vtable = {
    .clone = dropping_clone,
    .wake = dropping_wake,
    .wake_by_ref = dropping_wake,
    .drop = dropping_drop,
};

static struct pac_waker
dropping_clone(void *data)
{
    return (struct pac_waker){&dropping_vtable, data};
}

static void
a_delay_dropped_by_the_waker_of_another_does_not_fire(void)
{
    struct pac_delay first;
    struct pac_waker w = {&dropping_vtable, NULL};
    struct pac_context dropping_cx = {&w};
    by_hand();
    uint64_t due_ns = pac_clock_ns() + MS;
    pac_delay_init(&first, due_ns);
    pac_delay_init(&dropped_by_waker, due_ns + 1);
    dropping_wakes = 0;
    CHECK_INT(pac_delay_poll(&first, &dropping_cx), PAC_PENDING);
    CHECK_INT(pac_delay_poll(&dropped_by_waker, &cx), PAC_PENDING);
    turn_until(due_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(dropping_wakes, 1);
    CHECK_INT(counting_wakes(&counts), 0);
    CHECK_INT(counting_live(&counts), 0);
    /* And one that drops itself. */
    pac_delay_init(&dropped_by_waker, due_ns);
    CHECK_INT(pac_delay_poll(&dropped_by_waker, &dropping_cx), PAC_PENDING);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(dropping_wakes, 2);
    CHECK(dropped_by_waker.entry == NULL);
    pac_delay_drop(&first);
    tear_down();
}

/* ---- in tasks ------------------------------------------------------------------------------- */

enum { SLEEPERS = 1000 };

struct sleeper {
    struct pac_future future;
    struct pac_delay delay;
    int polls, drops;
};

static int sleepers_done;
static uint64_t last_deadline_ns, last_armed_ns;
static bool was_early, was_out_of_order;

static enum pac_poll
sleeper_poll(struct pac_future *f, struct pac_context *task_cx)
{
    struct sleeper *s = PAC_CONTAINER_OF(f, struct sleeper, future);
    s->polls++;
    if (pac_delay_poll(&s->delay, task_cx) == PAC_PENDING) {
        last_armed_ns = pac_clock_ns();
        return PAC_PENDING;
    }
    was_early |= pac_clock_ns() < s->delay.deadline_ns;
    was_out_of_order |= s->delay.deadline_ns < last_deadline_ns;
    last_deadline_ns = s->delay.deadline_ns;
    sleepers_done++;
    return PAC_READY;
}

static void
sleeper_drop(struct pac_future *f)
{
    struct sleeper *s = PAC_CONTAINER_OF(f, struct sleeper, future);
    s->drops++;
    pac_delay_drop(&s->delay);
}

static const struct pac_future_vtable sleeper_vtable = {.poll = sleeper_poll, .drop = sleeper_drop};

static void
sleeper_init(struct sleeper *s, uint64_t deadline_ns)
{
    memset(s, 0, sizeof *s);
    s->future.vtable = &sleeper_vtable;
    pac_delay_init(&s->delay, deadline_ns);
}

static void
a_thousand_random_delays_are_never_early_and_in_order(void)
{
    static struct sleeper sleepers[SLEEPERS];
    struct sleeper root;
    enum pac_status status;
    uint32_t random = 12345;
    ex = executor_new();
    sleepers_done = 0;
    last_deadline_ns = 0;
    was_early = was_out_of_order = false;
    uint64_t start_ns = pac_clock_ns() + 20 * MS;
    for (int i = 0; i < SLEEPERS; i++) {
        random = random * 1664525u + 1013904223u;
        /* Half of them crowded, so that many share a tick. */
        uint64_t range_ns = i % 2 == 0 ? 100 * MS : 200 * US;
        sleeper_init(&sleepers[i], start_ns + random % range_ns);
        pac_task_unref(pac_executor_spawn(ex, &sleepers[i].future, &status));
    }
    sleeper_init(&root, start_ns + 100 * MS);
    CHECK_INT(pac_executor_block_on(ex, &root.future), PAC_OK);
    CHECK_INT(sleepers_done, SLEEPERS + 1);
    CHECK(!was_early);
    /* Those whose deadline had passed when they were armed are in the order of arming. */
    CHECK(!was_out_of_order || last_armed_ns > start_ns);
    for (int i = 0; i < SLEEPERS; i++) {
        CHECK_INT(sleepers[i].polls, 2); /* armed, woken */
        CHECK_INT(sleepers[i].drops, 1);
    }
    CHECK(ex->metrics.parks < 2 * SLEEPERS + 10);
    pac_executor_close(ex);
    pac_executor_free(ex);
}

static void
an_idle_executor_sleeps(void)
{
    struct sleeper sleepers[100], root;
    enum pac_status status;
    ex = executor_new();
    uint64_t due_ns = pac_clock_ns() + 50 * MS;
    for (int i = 0; i < 100; i++) {
        sleeper_init(&sleepers[i], due_ns);
        pac_task_unref(pac_executor_spawn(ex, &sleepers[i].future, &status));
    }
    sleeper_init(&root, due_ns);
    CHECK_INT(pac_executor_block_on(ex, &root.future), PAC_OK);
    CHECK_INT(ex->metrics.runs, 202);
    CHECK(ex->metrics.parks <= 8); /* one, and one for each level that it moves down */
    pac_executor_close(ex);
    pac_executor_free(ex);
}

static void
closing_drops_what_is_armed(void)
{
    struct sleeper sleepers[10];
    enum pac_status status;
    struct pac_delay by_another;
    by_hand();
    for (int i = 0; i < 10; i++) {
        sleeper_init(&sleepers[i], i < 5 ? pac_clock_ns() + LONG : 1);
        pac_task_unref(pac_executor_spawn(ex, &sleepers[i].future, &status));
    }
    pac_delay_init(&by_another, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&by_another, &cx), PAC_PENDING);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    /* A pass that takes a millisecond looks at the timers on its way. */
    CHECK_INT(ex->wheel.count + ex->metrics.timers_fired, 11);
    pac_executor_leave(entered_before);
    pac_executor_close(ex);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(sleepers[i].polls, 1);
        CHECK_INT(sleepers[i].drops, 1);
    }
    /* Who waits by another waker is told that it waits in vain. */
    CHECK_INT(counting_wakes(&counts), 1);
    CHECK(!pac_delay_is_elapsed(&by_another));
    CHECK_INT(pac_delay_poll(&by_another, &cx), PAC_READY);
    CHECK_INT(by_another.status, PAC_CLOSED);
    /* Resetting now is nothing, and does not stand in the way of the drop. */
    pac_delay_reset(&by_another, pac_clock_ns());
    pac_delay_reset(&by_another, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&by_another, &cx), PAC_READY);
    pac_delay_drop(&by_another);
    CHECK_INT(counting_live(&counts), 0);
    pac_executor_free(ex);
}

/* ---- other threads -------------------------------------------------------------------------- */

/* A waker to sleep on. */
static void
wait_for_wakes(struct counting_waker *c, int wakes)
{
    uint64_t give_up_ns = pac_clock_ns() + 20000 * MS;
    while (counting_wakes(c) < wakes && pac_clock_ns() < give_up_ns) {
        sched_yield();
    }
    CHECK(counting_wakes(c) >= wakes);
}

struct errand {
    struct pac_delay *delay;
    uint64_t reset_ns;
    bool drop;
};

static void *
run_errand(void *data)
{
    struct errand *e = data;
    if (e->reset_ns != 0) {
        pac_delay_reset(e->delay, e->reset_ns);
    }
    if (e->drop) {
        pac_delay_drop(e->delay);
    }
    return NULL;
}

static void
send(struct errand e)
{
    pthread_t thread;
    pthread_create(&thread, NULL, run_errand, &e);
    pthread_join(thread, NULL);
}

static void
a_foreign_thread_resets_and_drops(void)
{
    struct pac_delay d;
    by_hand();
    pac_delay_init(&d, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    send((struct errand){&d, pac_clock_ns() + MS, false});
    send((struct errand){&d, pac_clock_ns() + 2 * MS, false});
    turn_until(d.deadline_ns + 2 * PAC_WHEEL_TICK_NS);
    CHECK_INT(counting_wakes(&counts), 1);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_READY);
    send((struct errand){&d, pac_clock_ns() + LONG, false});
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    send((struct errand){&d, 0, true});
    CHECK_INT(counting_live(&counts), 0); /* at once; the entry follows */
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(ex->wheel.count, 0);
    /* Reset there, dropped here, before the executor has seen the first. */
    pac_delay_init(&d, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    send((struct errand){&d, pac_clock_ns() + 2 * LONG, false});
    pac_delay_drop(&d);
    CHECK_INT(counting_live(&counts), 0);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(ex->wheel.count, 0);
    CHECK_INT(counting_wakes(&counts), 1);
    tear_down();
}

static void
requests_that_are_under_way_when_it_closes(void)
{
    for (int drop = 0; drop < 2; drop++) {
        for (int taken = 0; taken < 2; taken++) {
            struct pac_delay d;
            by_hand();
            pac_delay_init(&d, pac_clock_ns() + LONG);
            CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
            send((struct errand){&d, pac_clock_ns() + 2 * LONG, drop});
            if (taken) {
                pac_inject_take(&ex->scheduler.inject, &ex->scheduler.ready);
            }
            tear_down();
            CHECK_INT(counting_wakes(&counts), !drop);
            if (!drop) {
                pac_delay_drop(&d);
            }
            CHECK_INT(counting_live(&counts), 0);
        }
    }
}

/* One that stands in no wheel at that moment: it fired, and waits to be armed anew. */
static void
a_request_to_arm_again_that_comes_to_nothing_is_told(void)
{
    for (int taken = 0; taken < 2; taken++) {
        struct pac_delay d;
        by_hand();
        pac_delay_init(&d, 1);
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
        CHECK_INT(pac_executor_turn(ex), PAC_OK);
        CHECK_INT(counting_wakes(&counts), 1);
        send((struct errand){&d, pac_clock_ns() + LONG, false});
        CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
        if (taken) {
            pac_inject_take(&ex->scheduler.inject, &ex->scheduler.ready);
        }
        tear_down();
        CHECK_INT(counting_wakes(&counts), 2);
        pac_delay_drop(&d);
    }
}

static void
a_poll_under_another_executor_moves_it_there(void)
{
    struct pac_delay d;
    by_hand();
    struct pac_executor *other = executor_new();
    pac_delay_init(&d, pac_clock_ns() + LONG);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    struct pac_scheduler *before = pac_executor_enter(other);
    CHECK_INT(pac_delay_poll(&d, &cx), PAC_PENDING);
    CHECK_INT(other->wheel.count, 1);
    pac_executor_leave(before);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(ex->wheel.count, 0);
    tear_down();
    CHECK_INT(counting_wakes(&counts), 0);
    pac_executor_close(other);
    CHECK_INT(counting_wakes(&counts), 1);
    pac_delay_drop(&d);
    pac_executor_free(other);
}

static struct pac_delay shortened;
static PAC_ATOMIC(bool) shortened_is_armed;

static void *
shorten_in_a_moment(void *unused)
{
    (void)unused;
    while (!pac_atomic_load(&shortened_is_armed, PAC_ACQUIRE)) {
        sched_yield();
    }
    usleep(20000);
    pac_delay_reset(&shortened, pac_clock_ns() + MS);
    return NULL;
}

static enum pac_poll
shortened_poll(struct pac_future *f, struct pac_context *task_cx)
{
    (void)f;
    if (ex->metrics.timers_fired > 0) {
        return PAC_READY;
    }
    enum pac_poll poll = pac_delay_poll(&shortened, task_cx);
    pac_atomic_store(&shortened_is_armed, true, PAC_RELEASE);
    return poll;
}

static void
shortened_drop(struct pac_future *f)
{
    (void)f;
}

static const struct pac_future_vtable shortened_vtable = {shortened_poll, shortened_drop};

/* One thread at a time: the executor sleeps while the other one resets. */
static void
an_earlier_deadline_from_another_thread_shortens_the_park(void)
{
    struct pac_future root = {&shortened_vtable};
    pthread_t thread;
    ex = executor_new();
    uint64_t before_ns = pac_clock_ns();
    pac_delay_init(&shortened, before_ns + LONG);
    pac_atomic_init(&shortened_is_armed, false);
    pthread_create(&thread, NULL, shorten_in_a_moment, NULL);
    alarm(60);
    CHECK_INT(pac_executor_block_on(ex, &root), PAC_OK);
    alarm(0);
    CHECK(pac_clock_ns() - before_ns < LONG / 2);
    pthread_join(thread, NULL);
    pac_delay_drop(&shortened);
    pac_executor_close(ex);
    pac_executor_free(ex);
}

/* Executors that run on threads of their own until told to stop. */
struct runner {
    pthread_t thread;
    struct pac_executor *executor;
    struct pac_runnable stop;
};

static void
run_stop(struct pac_runnable *r)
{
    pac_executor_stop(PAC_CONTAINER_OF(r, struct runner, stop)->executor);
}

static const struct pac_runnable_vtable stop_vtable = {run_stop, run_stop};

static void *
runner_run(void *data)
{
    struct runner *r = data;
    CHECK_INT(pac_executor_run(r->executor), PAC_OK);
    pac_executor_close(r->executor);
    return NULL;
}

static void
runner_start(struct runner *r)
{
    r->executor = executor_new();
    r->stop.vtable = &stop_vtable;
    pthread_create(&r->thread, NULL, runner_run, r);
}

static void
runner_stop(struct runner *r)
{
    CHECK_INT(pac_executor_submit(r->executor, &r->stop), PAC_OK);
}

/* What a runner is asked to do: poll a delay once, as a task would. */
struct poll_request {
    struct pac_runnable runnable;
    struct pac_delay *delay;
    struct counting_waker *counts;
    enum pac_poll result;
    PAC_ATOMIC(bool) done;
};

static void
run_poll_request(struct pac_runnable *r)
{
    struct poll_request *p = PAC_CONTAINER_OF(r, struct poll_request, runnable);
    struct pac_waker w = {&counting_waker_vtable, p->counts};
    struct pac_context poll_cx = {&w};
    p->result = pac_delay_poll(p->delay, &poll_cx);
    pac_atomic_store(&p->done, true, PAC_RELEASE);
}

static const struct pac_runnable_vtable poll_request_vtable = {run_poll_request, run_poll_request};

static enum pac_poll
poll_on(struct runner *r, struct pac_delay *d, struct counting_waker *c)
{
    struct poll_request p;
    p.runnable.vtable = &poll_request_vtable;
    p.delay = d;
    p.counts = c;
    pac_atomic_init(&p.done, false);
    CHECK_INT(pac_executor_submit(r->executor, &p.runnable), PAC_OK);
    while (!pac_atomic_load(&p.done, PAC_ACQUIRE)) {
        sched_yield();
    }
    return p.result;
}

static void
moving_between_executors(void)
{
    struct runner runners[2];
    struct pac_delay d;
    struct counting_waker c[2];
    runner_start(&runners[0]);
    runner_start(&runners[1]);
    for (int round = 0; round < 200; round++) {
        counting_waker_init(&c[0]);
        counting_waker_init(&c[1]);
        int last = round % 2;
        uint64_t deadline_ns = pac_clock_ns() + 500 * US;
        pac_delay_init(&d, deadline_ns);
        enum pac_poll poll = poll_on(&runners[!last], &d, &c[!last]);
        if (poll == PAC_PENDING && round % 3 == 0) {
            pac_delay_reset(&d, deadline_ns + 100 * US); /* from a third thread */
        }
        if (poll == PAC_PENDING) {
            poll = poll_on(&runners[last], &d, &c[last]);
        }
        while (poll == PAC_PENDING) {
            int before = counting_wakes(&c[last]);
            poll = poll_on(&runners[last], &d, &c[last]);
            if (poll == PAC_PENDING && before == 0) {
                wait_for_wakes(&c[last], 1);
            }
        }
        CHECK_INT(d.status, PAC_OK);
        CHECK(pac_clock_ns() >= d.deadline_ns);
        pac_delay_drop(&d);
        CHECK(counting_wakes(&c[0]) <= 2 && counting_wakes(&c[1]) <= 2);
    }
    runner_stop(&runners[0]);
    runner_stop(&runners[1]);
    for (int i = 0; i < 2; i++) {
        pthread_join(runners[i].thread, NULL);
        pac_executor_free(runners[i].executor);
    }
}

/* Reset, poll and drop on this thread while the executor's thread fires, runs requests and
 * closes. */
static void
foreign_use_races_firing_and_closing(void)
{
    enum { DELAYS = 32 };
    for (int round = 0; round < 60; round++) {
        struct runner r;
        struct pac_delay delays[DELAYS];
        struct counting_waker c[DELAYS];
        runner_start(&r);
        for (int i = 0; i < DELAYS; i++) {
            counting_waker_init(&c[i]);
            pac_delay_init(&delays[i], pac_clock_ns() + (uint64_t)(i % 8) * 20 * US);
            (void)!poll_on(&r, &delays[i], &c[i]);
        }
        runner_stop(&r); /* it closes at any moment from now on */
        for (int n = 0; n < 4; n++) {
            for (int i = n; i < DELAYS; i++) {
                struct pac_waker w = {&counting_waker_vtable, &c[i]};
                struct pac_context here = {&w};
                if ((i + n) % 3 == 0) {
                    pac_delay_reset(&delays[i], pac_clock_ns() + (uint64_t)(round % 4) * 30 * US);
                }
                if (pac_delay_poll(&delays[i], &here) == PAC_READY) {
                    CHECK(delays[i].status == PAC_CLOSED ||
                          pac_clock_ns() >= delays[i].deadline_ns);
                }
                else if (n == 3 && i % 4 != 0) {
                    /* Fired, or closed: it must not hang. */
                    wait_for_wakes(&c[i], 1);
                }
            }
            pac_delay_drop(&delays[n]);
        }
        for (int i = 4; i < DELAYS; i++) {
            pac_delay_drop(&delays[i]);
        }
        pthread_join(r.thread, NULL);
        pac_executor_free(r.executor);
        for (int i = 0; i < DELAYS; i++) {
            CHECK_INT(counting_live(&c[i]), 0);
        }
    }
}

#ifdef PAC_DEBUG
static bool
sleep_once(void)
{
    enum pac_status status;
    struct sleeper root;
    bool complete = false;
    ex = pac_executor_new(NULL, &status);
    if (ex != NULL) {
        sleeper_init(&root, pac_clock_ns() + 100 * US);
        status = pac_executor_block_on(ex, &root.future);
        complete = status == PAC_OK && root.delay.status == PAC_OK;
        CHECK(complete || status == PAC_NO_MEMORY || root.delay.status == PAC_NO_MEMORY);
        CHECK_INT(root.drops, 1);
        pac_executor_close(ex);
        pac_executor_free(ex);
    }
    return complete;
}

static void
every_allocation_may_fail(void)
{
    check_without_memory(sleep_once, 3);
}
#endif

int
main(void)
{
    RUN(polling_again_arms_nothing_again);
    RUN(dropping_disarms);
    RUN(the_newest_waker_is_woken);
    RUN(a_deadline_that_has_passed_takes_one_turn);
    RUN(reset_to_earlier);
    RUN(reset_to_later);
    RUN(reset_after_it_fired);
    RUN(years_ahead_and_never);
    RUN(why_it_could_not_wait);
    RUN(being_ready_spends_the_budget);
    RUN(a_delay_dropped_by_the_waker_of_another_does_not_fire);
    RUN(a_thousand_random_delays_are_never_early_and_in_order);
    RUN(an_idle_executor_sleeps);
    RUN(closing_drops_what_is_armed);
    RUN(a_foreign_thread_resets_and_drops);
    RUN(requests_that_are_under_way_when_it_closes);
    RUN(a_request_to_arm_again_that_comes_to_nothing_is_told);
    RUN(a_poll_under_another_executor_moves_it_there);
    RUN(an_earlier_deadline_from_another_thread_shortens_the_park);
    RUN(moving_between_executors);
    RUN(foreign_use_races_firing_and_closing);
#ifdef PAC_DEBUG
    RUN(every_allocation_may_fail);
#endif
    return TESTING_RESULT();
}
