/* The executor: order, fairness, parking, nesting, closing. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "budget.h"
#include "delay.h"
#include "executor.h"
#include "testing.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/poll.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MS = 1000000 };

/* ---- a future that does as it is told ------------------------------------------------------- */

struct probe {
    struct pac_future future;
    enum pac_poll (*step)(struct probe *p, struct pac_context *cx); /* NULL: pending for ever */
    void (*on_drop)(struct probe *p);
    int polls;
    int drops;
    int id;
    int left;
};

static enum pac_poll
probe_poll(struct pac_future *f, struct pac_context *cx)
{
    struct probe *p = PAC_CONTAINER_OF(f, struct probe, future);
    CHECK_INT(p->drops, 0);
    p->polls++;
    return p->step != NULL ? p->step(p, cx) : PAC_PENDING;
}

static void
probe_drop(struct pac_future *f)
{
    struct probe *p = PAC_CONTAINER_OF(f, struct probe, future);
    p->drops++;
    if (p->on_drop != NULL) {
        p->on_drop(p);
    }
}

static const struct pac_future_vtable probe_vtable = {.poll = probe_poll, .drop = probe_drop};

static void
probe_init(struct probe *p, enum pac_poll (*step)(struct probe *, struct pac_context *))
{
    memset(p, 0, sizeof *p);
    p->future.vtable = &probe_vtable;
    p->step = step;
}

static enum pac_poll
step_ready(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    return PAC_READY;
}

/* Yields `left` times. */
static enum pac_poll
step_yield(struct probe *p, struct pac_context *cx)
{
    if (p->left-- == 0) {
        return PAC_READY;
    }
    pac_waker_wake_by_ref(cx->waker);
    return PAC_PENDING;
}

static struct pac_executor *ex;

static void
set_up_with(const struct pac_park_hooks *hooks)
{
    enum pac_status status;
    ex = pac_executor_new(hooks, &status);
    CHECK_INT(status, PAC_OK);
}

static void
set_up(void)
{
    set_up_with(NULL);
}

static void
tear_down(void)
{
    pac_executor_close(ex);
    pac_executor_free(ex);
    CHECK(pac_executor_current() == NULL);
    CHECK_INT(pac_budget_left, PAC_BUDGET_UNLIMITED);
}

static struct pac_task *
spawn_task(struct probe *p)
{
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn(ex, &p->future, &status);
    CHECK_INT(status, PAC_OK);
    return t;
}

static void
spawn(struct probe *p)
{
    pac_task_unref(spawn_task(p));
}

static enum pac_status
block_on(struct probe *p)
{
    return pac_executor_block_on(ex, &p->future);
}

/* ---- order ---------------------------------------------------------------------------------- */

enum { YIELDERS = 1000, ROUNDS = 1000 };

static int next_yielder;

static enum pac_poll
step_in_turn(struct probe *p, struct pac_context *cx)
{
    if (p->id != next_yielder) {
        CHECK_INT(p->id, next_yielder);
        return PAC_READY;
    }
    next_yielder = (next_yielder + 1) % YIELDERS;
    return step_yield(p, cx);
}

static enum pac_poll
step_until_others_are_done(struct probe *p, struct pac_context *cx)
{
    (void)p;
    if (ex->scheduler.tasks_alive == 1) {
        return PAC_READY;
    }
    pac_waker_wake_by_ref(cx->waker);
    return PAC_PENDING;
}

static void
yielders_keep_their_order(void)
{
    static struct probe yielders[YIELDERS];
    struct probe root;
    set_up();
    next_yielder = 0;
    for (int i = 0; i < YIELDERS; i++) {
        probe_init(&yielders[i], step_in_turn);
        yielders[i].id = i;
        yielders[i].left = ROUNDS;
        spawn(&yielders[i]);
    }
    probe_init(&root, step_until_others_are_done);
    CHECK_INT(block_on(&root), PAC_OK);
    for (int i = 0; i < YIELDERS; i++) {
        CHECK_INT(yielders[i].polls, ROUNDS + 1);
        CHECK_INT(yielders[i].drops, 1);
    }
    tear_down();
}

static void
spawned_tasks_wait_for_block_on(void)
{
    struct probe child, root;
    set_up();
    probe_init(&child, step_ready);
    spawn(&child);
    usleep(5000);
    CHECK_INT(child.polls, 0);
    for (int i = 0; i < 2; i++) {
        probe_init(&root, step_ready);
        CHECK_INT(block_on(&root), PAC_OK);
        CHECK_INT(root.polls, 1);
        CHECK_INT(root.drops, 1);
    }
    CHECK_INT(child.polls, 1);
    tear_down();
}

static enum pac_poll
step_stop(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    pac_executor_stop(ex);
    return PAC_READY;
}

static enum pac_poll
step_interrupt(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    pac_executor_interrupt(ex);
    return PAC_READY;
}

/* stop: what was ready is run, what becomes ready is not. interrupt: nothing more is run. */
static void
stop_ends_after_the_pass_and_interrupt_at_once(void)
{
    struct probe leaving, yielder;
    set_up();
    probe_init(&leaving, step_stop);
    probe_init(&yielder, step_yield);
    yielder.left = 2;
    spawn(&leaving);
    spawn(&yielder);
    CHECK_INT(pac_executor_run(ex), PAC_OK);
    CHECK_INT(yielder.polls, 1);
    probe_init(&leaving, step_interrupt);
    struct probe other;
    probe_init(&other, step_ready);
    spawn(&leaving);
    spawn(&other);
    CHECK_INT(pac_executor_run(ex), PAC_INTERRUPTED);
    CHECK_INT(yielder.polls, 2);
    CHECK_INT(leaving.polls, 1);
    CHECK_INT(other.polls, 0);
    CHECK_INT(ex->metrics.runs, 4);
    pac_executor_stop(ex); /* also from outside: one pass */
    CHECK_INT(pac_executor_run(ex), PAC_OK);
    CHECK_INT(other.polls, 1);
    CHECK_INT(yielder.polls, 3);
    alarm(20);
    pac_executor_stop(ex); /* with nothing to run, too */
    CHECK_INT(pac_executor_run(ex), PAC_OK);
    pac_executor_interrupt(ex);
    CHECK_INT(pac_executor_run(ex), PAC_INTERRUPTED);
    alarm(0);
    tear_down();
}

static void
a_root_that_was_stopped_is_no_success(void)
{
    struct probe root, leaving;
    set_up();
    probe_init(&leaving, step_stop);
    probe_init(&root, NULL);
    spawn(&leaving);
    CHECK_INT(block_on(&root), PAC_INTERRUPTED);
    CHECK_INT(root.drops, 1);
    probe_init(&root, step_yield); /* nothing is left of the stop */
    root.left = 3;
    CHECK_INT(block_on(&root), PAC_OK);
    CHECK_INT(root.polls, 4);
    tear_down();
}

/* ---- fairness ------------------------------------------------------------------------------- */

/* A task that is always ready, and counts its polls from the moment at which an event was there
 * to the one at which it has been served. */
struct greedy {
    struct probe probe;
    bool (*event_is_there)(struct greedy *g);
    bool seen;
    int polls_since;
    int polls_at_most; /* the worst of `rounds` */
    int rounds;
    int uncounted;     /* of them, the first */
    uint64_t stall_ns; /* how long each poll takes */
    bool served;
};

static void
stall(uint64_t ns)
{
    uint64_t until = pac_clock_ns() + ns;
    while (ns > 0 && pac_clock_ns() < until) {}
}

static enum pac_poll
step_greedy(struct probe *p, struct pac_context *cx)
{
    struct greedy *g = PAC_CONTAINER_OF(p, struct greedy, probe);
    stall(g->stall_ns);
    if (g->served) {
        if (g->uncounted-- <= 0 && g->polls_since > g->polls_at_most) {
            g->polls_at_most = g->polls_since;
        }
        g->served = g->seen = false;
        g->polls_since = 0;
        if (--g->rounds == 0) {
            return PAC_READY;
        }
    }
    else if (g->seen) {
        g->polls_since++;
    }
    else {
        g->seen = g->event_is_there(g);
    }
    pac_waker_wake_by_ref(cx->waker);
    return g->polls_since > 100000 ? PAC_READY : PAC_PENDING; /* never served: give up */
}

static void
greedy_init(struct greedy *g, bool (*event_is_there)(struct greedy *), int rounds)
{
    memset(g, 0, sizeof *g);
    probe_init(&g->probe, step_greedy);
    g->event_is_there = event_is_there;
    g->rounds = rounds;
}

/* The event: a pipe becomes readable. */
struct pipe_source {
    struct pac_source source;
    int fds[2];
    struct greedy *greedy;
};

static void
pipe_ready(struct pac_source *source, unsigned readiness)
{
    struct pipe_source *s = PAC_CONTAINER_OF(source, struct pipe_source, source);
    char byte;
    CHECK_INT(readiness, PAC_READABLE);
    CHECK_INT(read(s->fds[0], &byte, 1), 1);
    s->greedy->served = true;
}

static struct pipe_source the_pipe;

static bool
write_to_pipe(struct greedy *g)
{
    (void)g;
    return write(the_pipe.fds[1], "x", 1) == 1;
}

static void
check_descriptor(uint64_t stall_ns, int rounds, int uncounted, int at_most)
{
    struct greedy g;
    set_up();
    greedy_init(&g, write_to_pipe, rounds);
    g.stall_ns = stall_ns;
    g.uncounted = uncounted;
    CHECK_INT(pipe2(the_pipe.fds, O_NONBLOCK), 0);
    the_pipe.source =
        (struct pac_source){.fd = the_pipe.fds[0], .interest = PAC_READABLE, .ready = pipe_ready};
    the_pipe.greedy = &g;
    CHECK_INT(pac_reactor_add(&ex->reactor, &the_pipe.source), PAC_OK);
    CHECK_INT(block_on(&g.probe), PAC_OK);
    CHECK_INT(g.rounds, 0);
    CHECK(g.polls_at_most < at_most);
    pac_reactor_remove(&ex->reactor, &the_pipe.source);
    close(the_pipe.fds[0]);
    close(the_pipe.fds[1]);
    tear_down();
}

static void
a_descriptor_is_served_beside_a_greedy_task(void)
{
    check_descriptor(0, 100, 0, PAC_EVENT_INTERVAL);
}

/* About a millisecond of work: a few runs that are longer than that, once that is known every
 * one. */
static void
a_descriptor_is_served_beside_slow_runs(void)
{
    check_descriptor(2 * MS, 4, 0, 4);
    check_descriptor(2 * MS, 8, 1, 1);
}

/* The event: a timer is due. */
static struct pac_delay the_delay;

static bool
delay_is_due(struct greedy *g)
{
    (void)g;
    return the_delay.entry != NULL && pac_clock_ns() >= the_delay.deadline_ns + PAC_WHEEL_TICK_NS;
}

struct timer_waiter {
    struct probe probe;
    struct greedy *greedy;
};

static enum pac_poll
step_wait_for_timer(struct probe *p, struct pac_context *cx)
{
    struct timer_waiter *w = PAC_CONTAINER_OF(p, struct timer_waiter, probe);
    while (pac_delay_poll(&the_delay, cx) == PAC_READY) {
        w->greedy->served = true;
        pac_delay_reset(&the_delay, pac_clock_ns() + MS / 4);
    }
    return PAC_PENDING;
}

static void
drop_the_delay(struct probe *p)
{
    (void)p;
    pac_delay_drop(&the_delay);
}

static void
a_timer_is_served_beside_a_greedy_task(void)
{
    struct greedy g;
    struct timer_waiter w;
    set_up();
    greedy_init(&g, delay_is_due, 50);
    probe_init(&w.probe, step_wait_for_timer);
    w.probe.on_drop = drop_the_delay;
    w.greedy = &g;
    pac_delay_init(&the_delay, pac_clock_ns() + MS / 4);
    spawn(&w.probe);
    CHECK_INT(block_on(&g.probe), PAC_OK);
    CHECK_INT(g.rounds, 0);
    CHECK(g.polls_at_most <= PAC_EVENT_INTERVAL + 1); /* fired within 61, polled in the next pass */
    tear_down();
}

/* The event: another thread has woken a task. */
static PAC_ATOMIC(int) wakes_asked, wakes_done;
static struct pac_waker foreign_target;

static void *
wake_when_asked(void *rounds)
{
    for (int i = 1; i <= *(int *)rounds; i++) {
        while (pac_atomic_load(&wakes_asked, PAC_ACQUIRE) < i) {
            sched_yield();
        }
        pac_waker_wake_by_ref(&foreign_target);
        pac_atomic_store(&wakes_done, i, PAC_RELEASE);
    }
    pac_waker_drop(&foreign_target);
    return NULL;
}

static bool
foreign_wake_is_there(struct greedy *g)
{
    (void)g;
    int asked = pac_atomic_load(&wakes_asked, PAC_RELAXED);
    if (asked > 0 && pac_atomic_load(&wakes_done, PAC_ACQUIRE) == asked) {
        return true;
    }
    if (asked == 0) {
        pac_atomic_store(&wakes_asked, 1, PAC_RELEASE);
    }
    return false;
}

static enum pac_poll
step_wait_for_foreign_wake(struct probe *p, struct pac_context *cx)
{
    struct timer_waiter *w = PAC_CONTAINER_OF(p, struct timer_waiter, probe);
    if (p->polls == 1) {
        foreign_target = pac_waker_clone(cx->waker);
    }
    else {
        w->greedy->served = true;
        pac_atomic_add(&wakes_asked, 1, PAC_RELEASE);
    }
    return PAC_PENDING;
}

static void
a_wake_from_another_thread_is_served_beside_a_greedy_task(void)
{
    struct greedy g;
    struct timer_waiter w;
    pthread_t thread;
    int rounds = 200;
    set_up();
    greedy_init(&g, foreign_wake_is_there, rounds);
    probe_init(&w.probe, step_wait_for_foreign_wake);
    w.greedy = &g;
    pac_atomic_init(&wakes_asked, 0);
    pac_atomic_init(&wakes_done, 0);
    spawn(&w.probe);
    struct probe root;
    probe_init(&root, step_ready);
    CHECK_INT(block_on(&root), PAC_OK); /* the waiter has been polled: foreign_target is set */
    pthread_create(&thread, NULL, wake_when_asked, &rounds);
    CHECK_INT(block_on(&g.probe), PAC_OK);
    CHECK_INT(g.rounds, 0);
    CHECK(g.polls_at_most <= PAC_EVENT_INTERVAL + 1);
    pthread_join(thread, NULL);
    tear_down();
}

/* ---- parking -------------------------------------------------------------------------------- */

#if defined(TESTING_VALGRIND)
enum { SLEEPS = 2000 };
#elif defined(__SANITIZE_THREAD__)
enum { SLEEPS = 20000 };
#else
enum { SLEEPS = 100000 };
#endif

static PAC_ATOMIC(int) poll_count;
static struct pac_waker sleeper;

static void *
wake_after_each_poll(void *unused)
{
    (void)unused;
    unsigned jitter = 1;
    for (int i = 1; i <= SLEEPS; i++) {
        while (pac_atomic_load(&poll_count, PAC_ACQUIRE) < i) {
            if (i % 64 == 0) {
                sched_yield();
            }
        }
        /* Somewhere on the executor's way from the end of the poll into epoll_wait. */
        jitter = jitter * 1103515245u + 12345u;
        for (volatile unsigned n = jitter >> 22; n > 0; n--) {}
        pac_waker_wake_by_ref(&sleeper);
    }
    pac_waker_drop(&sleeper);
    return NULL;
}

static enum pac_poll
step_sleep_often(struct probe *p, struct pac_context *cx)
{
    if (p->polls == 1) {
        sleeper = pac_waker_clone(cx->waker);
    }
    pac_atomic_store(&poll_count, p->polls, PAC_RELEASE);
    return p->polls > SLEEPS ? PAC_READY : PAC_PENDING;
}

/* A wake that is lost makes this hang, until the alarm. */
static void
no_wake_is_lost_on_the_way_to_sleep(void)
{
    struct probe root;
    pthread_t thread;
    set_up();
    pac_atomic_init(&poll_count, 0);
    probe_init(&root, step_sleep_often);
    pthread_create(&thread, NULL, wake_after_each_poll, NULL);
    alarm(60);
    CHECK_INT(block_on(&root), PAC_OK);
    alarm(0);
    pthread_join(thread, NULL);
    CHECK_INT(root.polls, SLEEPS + 1);
    tear_down();
}

/* The same moment, by force: hooks that run when everything is said to be empty. */
static struct pac_waker woken_by_hook;
static int hook_calls;

static void *
wake_once(void *unused)
{
    (void)unused;
    pac_waker_wake(&woken_by_hook);
    return NULL;
}

static void
wake_before_wait(void *unused)
{
    pthread_t thread;
    (void)unused;
    hook_calls++;
    if (pac_waker_is_set(&woken_by_hook)) {
        pthread_create(&thread, NULL, wake_once, NULL);
        pthread_join(thread, NULL);
    }
}

static enum pac_poll
step_wait_for_hook(struct probe *p, struct pac_context *cx)
{
    if (p->polls == 1) {
        woken_by_hook = pac_waker_clone(cx->waker);
        pac_delay_init(&the_delay, pac_clock_ns() + (uint64_t)20000 * MS);
        (void)!pac_delay_poll(&the_delay, cx);
        return PAC_PENDING;
    }
    pac_delay_drop(&the_delay);
    return PAC_READY;
}

static void
a_wake_between_the_last_look_and_the_wait_ends_the_wait(void)
{
    struct pac_park_hooks hooks = {.before_wait = wake_before_wait};
    struct probe root;
    set_up_with(&hooks);
    hook_calls = 0;
    for (int i = 1; i <= 100; i++) {
        uint64_t before_ns = pac_clock_ns();
        probe_init(&root, step_wait_for_hook);
        CHECK_INT(block_on(&root), PAC_OK);
        CHECK(pac_clock_ns() - before_ns < (uint64_t)10000 * MS);
        CHECK_INT(hook_calls, i);
    }
    CHECK_INT(ex->metrics.wakes_from_threads, 100);
    tear_down();
}

static bool
refuse_after_wait(void *unused, bool interrupted)
{
    (void)unused, (void)interrupted;
    return false;
}

/* Armed here, the timer is not looked at before the wait, however slow this is. */
static enum pac_poll
step_sleep_a_while(struct probe *p, struct pac_context *cx)
{
    if (p->polls == 1) {
        pac_delay_init(&the_delay, pac_clock_ns() + (uint64_t)50 * MS);
    }
    return pac_delay_poll(&the_delay, cx);
}

static void
a_hook_may_stop_the_running(void)
{
    struct pac_park_hooks hooks = {.after_wait = refuse_after_wait};
    struct probe root, child;
    set_up_with(&hooks);
    probe_init(&root, step_sleep_a_while);
    probe_init(&child, NULL);
    spawn(&child);
    CHECK_INT(block_on(&root), PAC_INTERRUPTED);
    CHECK_INT(root.polls, 1);
    CHECK_INT(root.drops, 1);
    CHECK_INT(child.drops, 0);
    struct pac_scheduler *before = pac_executor_enter(ex);
    pac_delay_drop(&the_delay);
    pac_executor_leave(before);
    tear_down();
    CHECK_INT(child.drops, 1);
}

static void
interrupt_when_ready(struct pac_source *source, unsigned readiness)
{
    (void)source, (void)readiness;
    pac_executor_interrupt(ex);
}

/* With nothing to run that would look at the flag. */
static void
a_descriptor_may_interrupt(void)
{
    struct probe root;
    int fds[2];
    set_up();
    CHECK_INT(pipe2(fds, O_NONBLOCK), 0);
    CHECK_INT(write(fds[1], "x", 1), 1);
    struct pac_source source = {.fd = fds[0],
                                .interest = PAC_READABLE,
                                .ready = interrupt_when_ready};
    CHECK_INT(pac_reactor_add(&ex->reactor, &source), PAC_OK);
    probe_init(&root, NULL);
    alarm(20);
    CHECK_INT(block_on(&root), PAC_INTERRUPTED);
    alarm(0);
    pac_reactor_remove(&ex->reactor, &source);
    close(fds[0]);
    close(fds[1]);
    tear_down();
}

/* ---- driven by another loop ----------------------------------------------------------------- */

static bool
fd_is_readable(int timeout_ms)
{
    struct pollfd fd = {.fd = pac_executor_fd(ex), .events = POLLIN};
    return poll(&fd, 1, timeout_ms) == 1;
}

static void
turns_by_another_loop(void)
{
    struct probe p;
    pthread_t thread;
    set_up();
    probe_init(&p, step_yield);
    p.left = 1;
    struct pac_task *t = spawn_task(&p);
    struct pac_waker borrowed = pac_task_waker(t);
    struct pac_scheduler *before = pac_executor_enter(ex);
    CHECK_INT(pac_executor_next_ns(ex), 0);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(p.polls, 1); /* it yielded: a turn is one pass */
    CHECK_INT(pac_executor_next_ns(ex), 0);
    p.step = NULL;
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(p.polls, 2);
    pac_executor_leave(before);
    CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
    CHECK(!fd_is_readable(0));
    for (int i = 0; i < 3; i++) {
        woken_by_hook = pac_waker_clone(&borrowed);
        if (i == 2) { /* on this thread, but not entered */
            wake_once(NULL);
        }
        else {
            pthread_create(&thread, NULL, wake_once, NULL);
            pthread_join(thread, NULL);
        }
        CHECK(fd_is_readable(0));
        before = pac_executor_enter(ex);
        CHECK_INT(pac_executor_turn(ex), PAC_OK);
        CHECK_INT(p.polls, 3 + i);
        pac_executor_leave(before);
        CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
        CHECK(!fd_is_readable(0));
    }
    /* Running it, and closing it, end such a wait. */
    struct probe root;
    probe_init(&root, step_ready);
    CHECK_INT(block_on(&root), PAC_OK);
    CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
    pac_task_unref(t);
    tear_down();
}

static enum pac_poll
step_turn_within(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    CHECK_INT(pac_executor_turn(ex), PAC_BUSY);
    CHECK_INT(pac_executor_run(ex), PAC_BUSY);
    pac_executor_close(ex); /* refused */
    CHECK(!pac_executor_is_closed(ex));
    return PAC_READY;
}

static void
a_turn_is_not_begun_within_a_turn(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_turn_within);
    spawn(&p);
    struct pac_scheduler *before = pac_executor_enter(ex);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(p.drops, 1);
    pac_executor_leave(before);
    tear_down();
}

/* What a loop does: a turn if the descriptor is readable, and as long as one is due at once. */
static void
turn_until_idle(void)
{
    while (pac_executor_next_ns(ex) == 0 || fd_is_readable(0)) {
        struct pac_scheduler *before = pac_executor_enter(ex);
        enum pac_status status = pac_executor_turn(ex);
        CHECK(status == PAC_OK || status == PAC_INTERRUPTED);
        pac_executor_leave(before);
    }
}

/* What a nested loop does: lend, and turn until nothing is left but the lenders themselves. */
static void
lend_and_turn(struct pac_context *cx)
{
    struct pac_waker own = pac_waker_clone(cx->waker);
    pac_executor_lend(ex);
    CHECK(pac_executor_current() == NULL);
    pac_executor_close(ex); /* refused */
    CHECK(!pac_executor_is_closed(ex));
    turn_until_idle();
    CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
    /* A wake counts as one from outside, and a lender is not polled while it is being polled. */
    pac_waker_wake_by_ref(&woken_by_hook);
    CHECK(fd_is_readable(0));
    turn_until_idle();
    CHECK(!fd_is_readable(0));
    pac_waker_wake(&own);
    CHECK(pac_executor_next_ns(ex) == PAC_NEVER);
}

static enum pac_poll
step_lend(struct probe *p, struct pac_context *cx)
{
    lend_and_turn(cx);
    pac_executor_take_back(ex);
    CHECK(pac_executor_current() == ex);
    p->step = step_ready;
    return PAC_PENDING;
}

static enum pac_poll
step_lend_for_good(struct probe *p, struct pac_context *cx)
{
    lend_and_turn(cx);
    pac_executor_interrupt(ex);
    p->step = step_ready;
    return PAC_PENDING;
}

static enum pac_poll
step_lend_in_vain(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    pac_executor_lend(ex);
    pac_executor_take_back(ex);
    return PAC_READY;
}

/* Nobody has turned it meanwhile: the pass goes on. */
static void
a_loan_that_was_not_used(void)
{
    struct probe first, second;
    set_up();
    probe_init(&first, step_lend_in_vain);
    probe_init(&second, step_ready);
    spawn(&first);
    spawn(&second);
    struct pac_scheduler *before = pac_executor_enter(ex);
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
    CHECK_INT(second.drops, 1);
    pac_executor_leave(before);
    tear_down();
}

/* Tasks: one that lends the run for good, one that lends its turn within that, one that yields,
 * and one that is woken from outside of any turn. */
static void
turns_within_a_run_that_was_lent(void)
{
    struct probe outer, inner, yielding, woken;
    set_up();
    probe_init(&outer, step_lend_for_good);
    probe_init(&inner, step_lend);
    probe_init(&yielding, step_yield);
    probe_init(&woken, NULL);
    yielding.left = 200;
    spawn(&outer);
    spawn(&inner);
    spawn(&yielding);
    struct pac_task *t = spawn_task(&woken);
    struct pac_waker borrowed = pac_task_waker(t);
    woken_by_hook = pac_waker_clone(&borrowed);
    alarm(20);
    /* Nobody stops it: it ends because it was lent. */
    CHECK_INT(pac_executor_run(ex), PAC_INTERRUPTED);
    alarm(0);
    pac_waker_drop(&woken_by_hook);
    CHECK(pac_executor_current() == NULL);
    CHECK_INT(yielding.drops, 1);
    CHECK_INT(inner.drops, 1);
    CHECK_INT(inner.polls, 2);
    CHECK(woken.polls >= 2);
    CHECK_INT(outer.polls, 1);
    /* Its own wake was kept for after the poll; from here on runs are as ever. */
    CHECK_INT(pac_executor_next_ns(ex), 0);
    turn_until_idle();
    CHECK_INT(outer.drops, 1);
    struct probe root;
    probe_init(&root, step_yield);
    root.left = 100;
    CHECK_INT(block_on(&root), PAC_OK);
    pac_task_unref(t);
    tear_down();
}

/* ---- nesting -------------------------------------------------------------------------------- */

static enum pac_poll
step_nest(struct probe *p, struct pac_context *cx)
{
    struct probe inner;
    enum pac_status status;
    (void)p, (void)cx;
    probe_init(&inner, step_ready);
    CHECK_INT(pac_executor_block_on(ex, &inner.future), PAC_BUSY);
    CHECK_INT(inner.polls, 0);
    CHECK_INT(inner.drops, 1);
    /* Another executor may be run, and leaves everything as it was. */
    struct pac_executor *other = pac_executor_new(NULL, &status);
    pac_budget_left = 17;
    probe_init(&inner, step_yield);
    inner.left = 3;
    CHECK_INT(pac_executor_block_on(other, &inner.future), PAC_OK);
    CHECK_INT(inner.polls, 4);
    CHECK(pac_executor_current() == ex);
    CHECK_INT(pac_budget_left, 17);
    pac_executor_close(other);
    pac_executor_free(other);
    CHECK(pac_executor_current() == ex);
    CHECK_INT(pac_budget_left, 17);
    return PAC_READY;
}

static void
nested_block_on_is_refused(void)
{
    struct probe root;
    set_up();
    probe_init(&root, step_nest);
    CHECK_INT(block_on(&root), PAC_OK);
    tear_down();
}

/* ---- closing -------------------------------------------------------------------------------- */

enum { CLOSED_TASKS = 20 };

static int drop_order[CLOSED_TASKS], dropped;

static void
note_drop(struct probe *p)
{
    drop_order[dropped++] = p->id;
    CHECK(pac_executor_current() == ex);
}

static void
closing_drops_every_task_once_in_order(void)
{
    struct probe tasks[CLOSED_TASKS];
    struct pac_join_handle handles[CLOSED_TASKS];
    struct pac_context cx = {&pac_noop_waker};
    set_up();
    dropped = 0;
    for (int i = 0; i < CLOSED_TASKS; i++) {
        probe_init(&tasks[i], i % 3 == 0 ? step_yield : NULL);
        tasks[i].left = i == 6 ? 0 : 1000; /* number 6 ends by itself */
        tasks[i].id = i;
        tasks[i].on_drop = note_drop;
        if (i == CLOSED_TASKS - 2) { /* the last two are never polled */
            struct pac_scheduler *before = pac_executor_enter(ex);
            CHECK_INT(pac_executor_turn(ex), PAC_OK);
            pac_executor_leave(before);
        }
        pac_join_handle_init(&handles[i], spawn_task(&tasks[i]));
    }
    CHECK_INT(dropped, 1);
    pac_executor_close(ex);
    CHECK_INT(dropped, CLOSED_TASKS);
    for (int i = 1; i < CLOSED_TASKS; i++) {
        CHECK_INT(drop_order[i], i - (i <= 6));
    }
    for (int i = 0; i < CLOSED_TASKS; i++) {
        CHECK_INT(tasks[i].drops, 1);
        CHECK_INT(tasks[i].polls, i < CLOSED_TASKS - 2);
        CHECK_INT(pac_join_handle_poll(&handles[i], &cx), PAC_READY);
        CHECK_INT(handles[i].cancelled, i != 6);
        pac_join_handle_drop(&handles[i]);
    }
    CHECK_INT(ex->scheduler.tasks_alive, 0);
    pac_executor_close(ex); /* twice is nothing */
    tear_down();
}

static void
after_close_everything_is_refused(void)
{
    struct probe p;
    enum pac_status status;
    set_up();
    pac_executor_close(ex);
    probe_init(&p, step_ready);
    CHECK(pac_executor_spawn(ex, &p.future, &status) == NULL);
    CHECK_INT(status, PAC_CLOSED);
    CHECK_INT(p.drops, 1);
    probe_init(&p, step_ready);
    CHECK_INT(block_on(&p), PAC_CLOSED);
    CHECK_INT(p.drops, 1);
    CHECK_INT(pac_executor_run(ex), PAC_CLOSED);
    CHECK_INT(pac_executor_turn(ex), PAC_CLOSED);
    tear_down();
}

/* What a drop may do while the executor closes. */
static struct probe spawned_late;
static struct pac_task *other_task;
static struct pac_waker other_waker;

static void
meddle(struct probe *p)
{
    enum pac_status status;
    (void)p;
    probe_init(&spawned_late, step_ready);
    CHECK(pac_executor_spawn(ex, &spawned_late.future, &status) == NULL);
    CHECK_INT(status, PAC_CLOSED);
    CHECK_INT(spawned_late.drops, 1);
    pac_task_wake(other_task);
    pac_task_cancel(other_task);
    pac_waker_wake(&other_waker);
    pac_executor_close(ex);
    CHECK_INT(pac_executor_run(ex), PAC_CLOSED);
}

static void
a_drop_may_meddle_while_the_executor_closes(void)
{
    for (int other_is_queued = 0; other_is_queued < 2; other_is_queued++) {
        struct probe first, second;
        set_up();
        probe_init(&first, NULL);
        probe_init(&second, NULL);
        first.on_drop = meddle;
        spawn(&first);
        other_task = spawn_task(&second);
        struct pac_waker borrowed = pac_task_waker(other_task);
        other_waker = pac_waker_clone(&borrowed);
        struct pac_scheduler *before = pac_executor_enter(ex);
        CHECK_INT(pac_executor_turn(ex), PAC_OK);
        pac_executor_leave(before);
        if (other_is_queued) {
            pac_task_wake(other_task);
        }
        pac_executor_close(ex);
        CHECK_INT(first.drops, 1);
        CHECK_INT(second.drops, 1);
        CHECK_INT(second.polls, 1);
        pac_task_unref(other_task);
        tear_down();
    }
}

/* Whoever closes it while it is entered is not left with its pools. */
static void
closing_while_entered(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_ready);
    struct pac_scheduler *before = pac_executor_enter(ex);
    struct pac_task *t = spawn_task(&p);
    pac_executor_close(ex);
    pac_task_unref(t); /* the last reference: back to the allocator */
    CHECK(pac_executor_current() == NULL);
    pac_executor_leave(before);
    pac_executor_free(ex);
}

/* ---- wakers on other threads while it closes ------------------------------------------------ */

enum { HELD = 64, HOLDERS = 3 };

struct holder {
    pthread_t thread;
    struct pac_waker wakers[HELD];
};

static PAC_ATOMIC(bool) holders_may_end;

static void *
hold_and_wake(void *data)
{
    struct holder *h = data;
    bool last;
    do {
        last = pac_atomic_load(&holders_may_end, PAC_ACQUIRE);
        for (int i = 0; i < HELD; i++) {
            struct pac_waker clone = pac_waker_clone(&h->wakers[i]);
            pac_waker_wake_by_ref(&h->wakers[i]);
            if (i % 2 == 0) {
                pac_waker_wake(&clone);
            }
            pac_waker_drop(&clone);
        }
    } while (!last);
    for (int i = 0; i < HELD; i++) {
        pac_waker_drop(&h->wakers[i]);
    }
    return NULL;
}

static enum pac_poll
step_count(struct probe *p, struct pac_context *cx)
{
    (void)cx;
    return ++p->left < 20 ? PAC_PENDING : PAC_READY;
}

static void
wakers_are_used_and_dropped_around_closing(void)
{
    for (int round = 0; round < 20; round++) {
        struct probe tasks[HELD], root;
        static struct holder holders[HOLDERS];
        set_up();
        pac_atomic_init(&holders_may_end, false);
        for (int i = 0; i < HELD; i++) {
            probe_init(&tasks[i], i % 4 == 0 ? step_count : NULL);
            struct pac_task *t = spawn_task(&tasks[i]);
            struct pac_waker borrowed = pac_task_waker(t);
            for (int n = 0; n < HOLDERS; n++) {
                holders[n].wakers[i] = pac_waker_clone(&borrowed);
            }
            pac_task_unref(t);
        }
        for (int n = 0; n < HOLDERS; n++) {
            pthread_create(&holders[n].thread, NULL, hold_and_wake, &holders[n]);
        }
        probe_init(&root, step_yield);
        root.left = 10 * round;
        CHECK_INT(block_on(&root), PAC_OK);
        pac_executor_close(ex);
        for (int i = 0; i < HELD; i++) {
            CHECK_INT(tasks[i].drops, 1);
        }
        pac_executor_free(ex);
        pac_atomic_store(&holders_may_end, true, PAC_RELEASE);
        for (int n = 0; n < HOLDERS; n++) {
            pthread_join(holders[n].thread, NULL);
        }
    }
}

/* ---- counters, memory ----------------------------------------------------------------------- */

static void
counters_count(void)
{
    struct probe a, b, root;
    set_up();
    probe_init(&a, NULL);
    probe_init(&b, step_ready);
    probe_init(&root, step_yield);
    root.left = 1;
    spawn(&a);
    spawn(&b);
    CHECK_INT(ex->scheduler.tasks_alive, 2);
    CHECK_INT(block_on(&root), PAC_OK);
    CHECK_INT(ex->scheduler.tasks_alive, 1);
    CHECK_INT(ex->metrics.tasks_spawned, 3);
    CHECK_INT(ex->metrics.runs, 4);
    CHECK_INT(ex->metrics.queue_depth_max, 3);
    CHECK_INT(ex->metrics.parks, 0);
    tear_down();
}

static enum pac_poll
step_slow(struct probe *p, struct pac_context *cx)
{
    if (p->polls == p->id) {
        uint64_t before = pac_executor_slow_runs(ex);
        stall(PAC_SLOW_NS + 10 * MS);
        CHECK_INT(pac_executor_slow_runs(ex), before + 1);
    }
    return step_yield(p, cx);
}

static void
a_slow_run_is_counted(void)
{
    const int slow_polls[] = {1, 2, PAC_EVENT_INTERVAL, 101}; /* of 101 */
    set_up();
    for (int i = 0; i < 4; i++) {
        struct probe root;
        probe_init(&root, step_slow);
        root.id = slow_polls[i];
        root.left = 100;
        CHECK_INT(block_on(&root), PAC_OK);
        CHECK_INT(ex->metrics.slow_runs, i + 1);
        CHECK_INT(pac_executor_slow_runs(ex), i + 1);
    }
    tear_down();
}

#ifdef PAC_DEBUG
/* A little of everything, each step of which may be refused for lack of memory. True: none was. */
static bool
live_a_life(void)
{
    enum pac_status status;
    bool complete = true;
    struct probe tasks[3], root;
    ex = pac_executor_new(NULL, &status);
    if (ex == NULL) {
        CHECK_INT(status, PAC_NO_MEMORY);
        return false;
    }
    for (int i = 0; i < 3; i++) {
        probe_init(&tasks[i], i == 0 ? step_ready : NULL);
        struct pac_task *t = pac_executor_spawn(ex, &tasks[i].future, &status);
        CHECK_INT(status, t != NULL ? PAC_OK : PAC_NO_MEMORY);
        CHECK_INT(tasks[i].drops, t == NULL);
        complete &= t != NULL;
        if (t != NULL) {
            pac_task_unref(t);
        }
    }
    int fds[2];
    CHECK_INT(pipe2(fds, O_NONBLOCK), 0);
    struct pac_source source = {.fd = fds[0],
                                .interest = PAC_READABLE,
                                .ready = interrupt_when_ready};
    status = pac_reactor_add(&ex->reactor, &source);
    CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
    complete &= status == PAC_OK;
    pac_reactor_remove(&ex->reactor, &source);
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < 2; i++) { /* what is refused leaves no trace */
        probe_init(&root, step_yield);
        root.left = 2;
        status = block_on(&root);
        CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
        CHECK_INT(root.drops, 1);
        complete &= status == PAC_OK;
    }
    tear_down();
    for (int i = 0; i < 3; i++) {
        CHECK_INT(tasks[i].drops, 1);
    }
    return complete;
}

static void
every_allocation_may_fail(void)
{
    check_without_memory(live_a_life, 4);
}
#endif

/* What a fork's child may find: the executor counts as closed, and nothing that is done with it reaches
 * the parent's descriptors. 0 if all of it holds. */
static int
child_disowns(struct pac_task *idle)
{
    struct probe late;
    enum pac_status status = PAC_OK;
    pac_executor_disown(ex);
    probe_init(&late, step_ready);
    struct pac_task *refused = pac_executor_spawn(ex, &late.future, &status);
    pac_task_wake(idle);
    struct pollfd eventfd = {.fd = ex->reactor.event_fd, .events = POLLIN};
    bool untouched = poll(&eventfd, 1, 0) == 0;
    bool closed = pac_executor_is_closed(ex) && refused == NULL && status == PAC_CLOSED;
    return closed && late.drops == 1 && untouched && pac_executor_run(ex) == PAC_CLOSED ? 0 : 1;
}

static void
a_forks_child_disowns_what_is_its_parents(void)
{
    struct probe idle, main_probe;
    set_up();
    probe_init(&idle, NULL);
    probe_init(&main_probe, step_yield);
    main_probe.left = 3;
    struct pac_task *t = spawn_task(&idle);
    CHECK_INT(pac_executor_block_on(ex, &main_probe.future), PAC_OK);
    /* As between two turns of an embedding loop: parked, so that a wake would write. */
    (void)pac_executor_next_ns(ex);
    int code = -1;
    pid_t child = fork();
    if (child == 0) {
        _exit(child_disowns(t));
    }
    CHECK(waitpid(child, &code, 0) == child);
    CHECK(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    int polls = idle.polls;
    pac_task_wake(t);
    probe_init(&main_probe, step_yield);
    main_probe.left = 3;
    CHECK_INT(pac_executor_block_on(ex, &main_probe.future), PAC_OK);
    CHECK_INT(idle.polls, polls + 1);
    pac_task_unref(t);
    tear_down();
}

int
main(void)
{
    RUN(yielders_keep_their_order);
    RUN(spawned_tasks_wait_for_block_on);
    RUN(stop_ends_after_the_pass_and_interrupt_at_once);
    RUN(a_root_that_was_stopped_is_no_success);
    RUN(a_descriptor_is_served_beside_a_greedy_task);
    RUN(a_descriptor_is_served_beside_slow_runs);
    RUN(a_timer_is_served_beside_a_greedy_task);
    RUN(a_wake_from_another_thread_is_served_beside_a_greedy_task);
    RUN(no_wake_is_lost_on_the_way_to_sleep);
    RUN(a_wake_between_the_last_look_and_the_wait_ends_the_wait);
    RUN(a_hook_may_stop_the_running);
    RUN(a_descriptor_may_interrupt);
    RUN(turns_by_another_loop);
    RUN(a_turn_is_not_begun_within_a_turn);
    RUN(turns_within_a_run_that_was_lent);
    RUN(a_loan_that_was_not_used);
    RUN(nested_block_on_is_refused);
    RUN(closing_drops_every_task_once_in_order);
    RUN(after_close_everything_is_refused);
    RUN(a_forks_child_disowns_what_is_its_parents);
    RUN(a_drop_may_meddle_while_the_executor_closes);
    RUN(closing_while_entered);
    RUN(wakers_are_used_and_dropped_around_closing);
    RUN(counters_count);
    RUN(a_slow_run_is_counted);
#ifdef PAC_DEBUG
    RUN(every_allocation_may_fail);
#endif
    return TESTING_RESULT();
}
