/* blocking: a thread waits for a future until it is ready, too late, or interrupted. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "budget.h"
#include "channel_testing.h"
#include "leaf.h"

#include <pthread.h>
#include <signal.h>

enum { MS = 1000000 };

static void
test_ready_at_once(void)
{
    struct leaf leaf;
    leaf_init(&leaf, 'a');
    leaf.happened = true;
    CHECK_INT(pac_blocking_wait(&leaf.future, PAC_NEVER, NULL), PAC_OK);
    CHECK_INT(leaf.polls, 1);
    leaf_drop(&leaf.future);
}

/* The leaf is not made for two threads: its waker alone crosses over. */
static void *
wakes_later(void *arg)
{
    usleep(5000);
    pac_waker_wake((struct pac_waker *)arg);
    return NULL;
}

struct needs_a_wake {
    struct pac_future future;
    pthread_t thread;
    struct pac_waker waker;
    int polls;
};

static enum pac_poll
needs_a_wake_poll(struct pac_future *f, struct pac_context *cx)
{
    struct needs_a_wake *n = PAC_CONTAINER_OF(f, struct needs_a_wake, future);
    CHECK_INT(pac_budget_left, PAC_BUDGET_UNLIMITED);
    if (n->polls++ == 0) {
        n->waker = pac_waker_clone(cx->waker);
        pthread_create(&n->thread, NULL, wakes_later, &n->waker);
        return PAC_PENDING;
    }
    pthread_join(n->thread, NULL);
    return PAC_READY;
}

static void
drop_nothing(struct pac_future *f)
{
    (void)f;
}

static const struct pac_future_vtable needs_a_wake_vtable = {needs_a_wake_poll, drop_nothing};

static void
test_sleeps_until_it_is_woken(void)
{
    struct needs_a_wake n = {.future = {&needs_a_wake_vtable}};
    alarm(WATCHDOG_S);
    pac_budget_left = 3;
    CHECK_INT(pac_blocking_wait(&n.future, PAC_NEVER, NULL), PAC_OK);
    CHECK_INT(pac_budget_left, 3);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    CHECK_INT(n.polls, 2);
    alarm(0);
}

static enum pac_poll
wakes_itself_once_poll(struct pac_future *f, struct pac_context *cx)
{
    struct needs_a_wake *n = PAC_CONTAINER_OF(f, struct needs_a_wake, future);
    if (n->polls++ == 0) {
        pac_waker_wake_by_ref(cx->waker);
    }
    return PAC_PENDING;
}

static const struct pac_future_vtable wakes_itself_once_vtable = {wakes_itself_once_poll,
                                                                  drop_nothing};

static void
test_a_wake_is_used_up(void)
{
    struct needs_a_wake n = {.future = {&wakes_itself_once_vtable}};
    uint64_t deadline_ns = pac_clock_ns() + 20 * MS;
    alarm(WATCHDOG_S);
    CHECK_INT(pac_blocking_wait(&n.future, deadline_ns, NULL), PAC_TIMED_OUT);
    CHECK_INT(n.polls, 3); /* the first, for the wake, at the end */
    alarm(0);
}

static void
test_a_deadline_ends_it(void)
{
    struct leaf leaf;
    leaf_init(&leaf, 'b');
    uint64_t deadline_ns = pac_clock_ns() + 3 * MS;
    CHECK_INT(pac_blocking_wait(&leaf.future, deadline_ns, NULL), PAC_TIMED_OUT);
    CHECK(pac_clock_ns() >= deadline_ns);
    CHECK_INT(pac_blocking_wait(&leaf.future, 0, NULL), PAC_TIMED_OUT);
    leaf_happen(&leaf); /* the waker that it kept outlives the wait */
    CHECK_INT(pac_blocking_wait(&leaf.future, 0, NULL), PAC_OK);
    leaf_drop(&leaf.future);
}

struct hooks {
    int left, entered, interrupted;
    bool go_on;
};

static void
hook_leave(void *arg)
{
    ((struct hooks *)arg)->left++;
}

static bool
hook_enter(void *arg, bool interrupted)
{
    struct hooks *h = arg;
    h->entered++;
    h->interrupted += interrupted;
    return !interrupted || h->go_on;
}

static void
on_signal(int number)
{
    (void)number;
}

static void *
interrupts(void *arg)
{
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        pthread_kill(*(pthread_t *)arg, SIGUSR1);
    }
    return NULL;
}

static void
interrupted_while_it_sleeps(bool go_on)
{
    struct hooks h = {.go_on = go_on};
    struct pac_blocking_hooks hooks = {hook_leave, hook_enter, &h};
    struct sigaction action = {.sa_handler = on_signal}, before;
    struct leaf leaf;
    pthread_t thread, self = pthread_self();
    leaf_init(&leaf, 'c');
    sigaction(SIGUSR1, &action, &before);
    pthread_create(&thread, NULL, interrupts, &self);
    enum pac_status status = pac_blocking_wait(
        &leaf.future, pac_clock_ns() + (go_on ? 100 * MS : 60000ull * MS), &hooks);
    CHECK_INT(status, go_on ? PAC_TIMED_OUT : PAC_INTERRUPTED);
    pthread_join(thread, NULL);
    CHECK_INT(h.left, h.entered);
    CHECK(h.interrupted >= 1);
    sigaction(SIGUSR1, &before, NULL);
    leaf_drop(&leaf.future);
}

static void
test_a_hook_may_interrupt(void)
{
    alarm(WATCHDOG_S);
    interrupted_while_it_sleeps(false);
    interrupted_while_it_sleeps(true);
    alarm(0);
}

#ifdef PAC_DEBUG
static bool
wait_twice(void)
{
    bool complete = true;
    for (int i = 0; i < 2; i++) {
        struct leaf leaf;
        leaf_init(&leaf, 'd');
        leaf_happen(&leaf);
        enum pac_status status = pac_blocking_wait(&leaf.future, PAC_NEVER, NULL);
        CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
        complete &= status == PAC_OK;
        leaf_drop(&leaf.future);
    }
    return complete;
}
#endif

static void
test_no_memory(void)
{
#ifdef PAC_DEBUG
    struct leaf leaf;
    leaf_init(&leaf, 'd');
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_blocking_wait(&leaf.future, PAC_NEVER, NULL), PAC_NO_MEMORY);
    CHECK_INT(leaf.polls, 0);
    CHECK_INT(pac_budget_left, PAC_BUDGET_UNLIMITED);
    leaf_drop(&leaf.future);
    check_without_memory(wait_twice, 2);
#endif
}

int
main(void)
{
    RUN(test_ready_at_once);
    RUN(test_sleeps_until_it_is_woken);
    RUN(test_a_wake_is_used_up);
    RUN(test_a_deadline_ends_it);
    RUN(test_a_hook_may_interrupt);
    RUN(test_no_memory);
    return TESTING_RESULT();
}
