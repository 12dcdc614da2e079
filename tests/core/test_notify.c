/* Notify: who is woken, in which order, what is kept and passed on, and that nothing is
 * lost.
 *
 * The first two groups follow the cases of Tokio's own tests of Notify; the third
 * encodes bugs that it once had, by the number of their reports. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* pthread_barrier_t */
#endif
#include "notify.h"
#include "wakers.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

/* Whatever hangs is a lost wake-up or a deadlock. */
enum { WATCHDOG_S = 100 };

/* ---- a future with a task of its own -------------------------------------------------------- */

struct waiter {
    struct pac_notified future;
    struct hooked_waker hooked;
};

static void
waiter_init(struct waiter *w, struct pac_notify *n)
{
    pac_notified_init(&w->future, n);
    counting_waker_init(&w->hooked.count);
    w->hooked.on_clone = w->hooked.on_wake = w->hooked.on_drop = NULL;
    w->hooked.arg = NULL;
}

static enum pac_poll
waiter_poll(struct waiter *w)
{
    struct pac_waker waker = {&hooked_waker_vtable, &w->hooked};
    struct pac_context cx = {&waker};
    return pac_future_poll(&w->future.future, &cx);
}

static int
waiter_wakes(struct waiter *w)
{
    return counting_wakes(&w->hooked.count);
}

/* By the vtable, as an owner does it; no clone of its waker may be left anywhere. */
static void
waiter_drop(struct waiter *w)
{
    pac_future_drop(&w->future.future);
    CHECK_INT(counting_live(&w->hooked.count), 0);
}

static void
waiters_init_and_poll(struct waiter *w, int count, struct pac_notify *n)
{
    for (int i = 0; i < count; i++) {
        waiter_init(&w[i], n);
        CHECK_INT(waiter_poll(&w[i]), PAC_PENDING);
    }
}

static void
waiters_drop(struct waiter *w, int count)
{
    for (int i = 0; i < count; i++) {
        waiter_drop(&w[i]);
    }
}

/* Takes the permit, if there is one. */
static bool
has_permit(struct pac_notify *n)
{
    struct pac_notified f;
    pac_notified_init(&f, n);
    bool had = pac_notified_enable(&f);
    pac_notified_drop(&f);
    return had;
}

static void
check_waiters_counted(int expected)
{
#ifdef PAC_DEBUG
    CHECK_INT(pac_atomic_load(&pac_debug_counts.waiters, PAC_RELAXED), expected);
#else
    (void)expected;
#endif
}

/* ---- single steps --------------------------------------------------------------------------- */

static void
test_permit_stored_before_the_poll(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiter_init(&w, &n);
    pac_notify_one(&n);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(counting_clones(&w.hooked.count), 0);
    waiter_drop(&w);
    CHECK(!has_permit(&n));
}

static void
permits_do_not_add_up(void (*notify)(struct pac_notify *n))
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    notify(&n);
    notify(&n);
    waiter_init(&w[0], &n);
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    waiters_drop(w, 2);
}

static void
test_permits_of_notify_one_do_not_add_up(void)
{
    permits_do_not_add_up(pac_notify_one);
}

static void
test_permits_of_notify_last_do_not_add_up(void)
{
    permits_do_not_add_up(pac_notify_last);
}

static void
test_waiter_is_woken_and_ready(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiters_init_and_poll(&w, 1, &n);
    check_waiters_counted(1);
    CHECK_INT(waiter_wakes(&w), 0);
    pac_notify_one(&n);
    check_waiters_counted(0);
    CHECK_INT(waiter_wakes(&w), 1);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
}

static void
test_only_the_oldest_is_woken(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w[0]), 1);
    CHECK_INT(waiter_wakes(&w[1]), 0);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    waiters_drop(w, 2);
}

static void
test_notify_last_wakes_the_newest(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 3, &n);
    pac_notify_last(&n);
    CHECK_INT(waiter_wakes(&w[2]), 1);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w[0]), 1);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    CHECK_INT(waiter_poll(&w[2]), PAC_READY);
    waiters_drop(w, 3);
}

static void
test_permit_goes_to_one_and_the_next_must_wait(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    pac_notify_one(&n);
    waiter_init(&w[0], &n);
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiters_drop(w, 2);
}

static void
test_dropped_waiter_leaves_the_list(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 1, &n);
    waiter_drop(&w[0]);
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    check_waiters_counted(1);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w[0]), 0);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);
}

static void
test_dropped_notification_wakes_the_next(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w[1]), 0);
    waiter_drop(&w[0]);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);
    CHECK(!has_permit(&n));
}

static void
test_dropped_notify_one_goes_to_the_oldest(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 3, &n);
    pac_notify_one(&n);
    waiter_drop(&w[0]);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    CHECK_INT(waiter_poll(&w[2]), PAC_PENDING);
    waiters_drop(w + 1, 2);
}

static void
test_dropped_notify_last_goes_to_the_newest(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 3, &n);
    pac_notify_last(&n);
    waiter_drop(&w[2]);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    CHECK_INT(waiter_poll(&w[0]), PAC_PENDING);
    waiters_drop(w, 2);
}

static void
call_notify_waiters(void *n)
{
    pac_notify_waiters(n);
}

static void
call_notify_one(void *n)
{
    pac_notify_one(n);
}

/* Waking, dropping and replacing a waker may all call back into the same Notify. */
static void
test_notify_in_drop_and_wake_does_not_deadlock(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    for (int i = 0; i < 2; i++) {
        w[i].hooked.arg = &n;
        w[i].hooked.on_wake = w[i].hooked.on_drop = call_notify_waiters;
    }
    waiter_drop(&w[0]);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);

    waiters_init_and_poll(w, 2, &n);
    w[0].hooked.arg = &n;
    w[0].hooked.on_wake = call_notify_one;
    pac_notify_one(&n);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiters_drop(w, 2);
}

static void
test_permit_after_a_broadcast_is_not_its_waiters(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 1, &n);
    pac_notify_waiters(&n);
    pac_notify_one(&n);
    waiter_drop(&w[0]);
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);
    CHECK(!has_permit(&n));
}

static void
test_enabled_future_counts_as_waiting(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiter_init(&w[0], &n);
    CHECK(!pac_notified_enable(&w[0].future));
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    pac_notify_one(&n);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK(pac_notified_enable(&w[0].future));
    waiters_drop(w, 2);
}

static void
test_enable_says_that_a_notification_has_come(void)
{
    struct pac_notify n;
    struct pac_notified f;
    pac_notify_init(&n);
    pac_notified_init(&f, &n);
    CHECK(!pac_notified_enable(&f));
    CHECK(!pac_notified_enable(&f));
    pac_notify_one(&n);
    CHECK(pac_notified_enable(&f));
    /* It was seen, so dropping passes nothing on. */
    pac_notified_drop(&f);
    CHECK(!has_permit(&n));
}

static void
test_poll_after_enable_registers_the_waker(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiter_init(&w, &n);
    CHECK(!pac_notified_enable(&w.future));
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    check_waiters_counted(1);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w), 1);
    waiter_drop(&w);
    CHECK(has_permit(&n));
}

static void
test_enable_after_poll_keeps_the_waker(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiters_init_and_poll(&w, 1, &n);
    CHECK(!pac_notified_enable(&w.future));
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w), 1);
    CHECK(pac_notified_enable(&w.future));
    waiter_drop(&w);
}

static void
test_enable_takes_the_permit(void)
{
    struct pac_notify n;
    struct pac_notified f[2];
    pac_notify_init(&n);
    pac_notify_one(&n);
    pac_notified_init(&f[0], &n);
    pac_notified_init(&f[1], &n);
    CHECK(pac_notified_enable(&f[0]));
    CHECK(!pac_notified_enable(&f[1]));
    pac_notified_drop(&f[0]);
    CHECK(!pac_notified_enable(&f[1]));
    pac_notified_drop(&f[1]);
}

static void
test_newest_waker_is_woken_alone(void)
{
    struct pac_notify n;
    struct waiter w;
    struct counting_waker other;
    struct pac_waker waker = counting_waker_init(&other);
    struct pac_context cx = {&waker};
    pac_notify_init(&n);
    waiter_init(&w, &n);
    CHECK_INT(pac_notified_poll(&w.future, &cx), PAC_PENDING);
    CHECK_INT(counting_live(&other), 1);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(counting_live(&other), 0);
    check_waiters_counted(1);
    pac_notify_one(&n);
    CHECK_INT(counting_wakes(&other), 0);
    CHECK_INT(waiter_wakes(&w), 1);
    waiter_drop(&w);
}

/* A broadcast completes also who was never polled, and leaves the permit to others. */
static void
test_broadcast_leaves_the_permit(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiter_init(&w[0], &n);
    waiter_init(&w[1], &n);
    pac_notify_one(&n);
    pac_notify_waiters(&n);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(counting_clones(&w[0].hooked.count), 0);
    CHECK(pac_notified_enable(&w[1].future));
    waiter_init(&w[2], &n);
    CHECK_INT(waiter_poll(&w[2]), PAC_READY);
    waiters_drop(w, 3);
    CHECK(!has_permit(&n));
}

/* ---- what a waker may do -------------------------------------------------------------------- */

static void
test_waker_is_cloned_before_the_lock(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiter_init(&w, &n);
    w.hooked.on_clone = call_notify_one;
    w.hooked.arg = &n;
    /* The permit that the clone stored is taken by the same poll. */
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
    CHECK(!has_permit(&n));
}

static void
test_broadcast_completes_all_that_exist(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    waiter_init(&w[2], &n);
    pac_notify_waiters(&n);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    CHECK_INT(waiter_poll(&w[2]), PAC_READY);
    CHECK_INT(counting_clones(&w[2].hooked.count), 0);
    waiters_drop(w, 3);
    CHECK(!has_permit(&n));
}

struct stuck {
    struct pac_notify n;
    pthread_barrier_t in_waker, go_on;
};

static void
get_stuck(void *arg)
{
    struct stuck *s = arg;
    pthread_barrier_wait(&s->in_waker);
    pthread_barrier_wait(&s->go_on);
}

static void *
broadcast_thread(void *arg)
{
    struct stuck *s = arg;
    pac_notify_waiters(&s->n);
    return NULL;
}

/* A waker that does not come back (in Rust: that panics) keeps nobody else waiting,
 * whether in its batch or a later one. */
static void
test_stuck_waker_does_not_hold_up_the_others(void)
{
    enum { COUNT = 70 };
    struct stuck s;
    struct waiter w[COUNT], later;
    pthread_t thread;
    pac_notify_init(&s.n);
    pthread_barrier_init(&s.in_waker, NULL, 2);
    pthread_barrier_init(&s.go_on, NULL, 2);
    waiters_init_and_poll(w, COUNT, &s.n);
    w[0].hooked.on_wake = get_stuck;
    w[0].hooked.arg = &s;
    pthread_create(&thread, NULL, broadcast_thread, &s);
    pthread_barrier_wait(&s.in_waker);
    for (int i = COUNT; i-- > 0;) {
        CHECK_INT(waiter_poll(&w[i]), PAC_READY);
    }
    waiter_init(&later, &s.n);
    CHECK_INT(waiter_poll(&later), PAC_PENDING);
    check_waiters_counted(1);
    waiters_drop(&w[PAC_WAKE_BATCH], COUNT - PAC_WAKE_BATCH);
    pthread_barrier_wait(&s.go_on);
    pthread_join(thread, NULL);
    /* Those of later batches took themselves out, and so were not woken. */
    CHECK_INT(waiter_wakes(&w[PAC_WAKE_BATCH - 1]), 1);
    CHECK_INT(waiter_wakes(&w[PAC_WAKE_BATCH]), 0);
    CHECK_INT(waiter_wakes(&later), 0);
    waiters_drop(w, PAC_WAKE_BATCH);
    waiter_drop(&later);
    pthread_barrier_destroy(&s.in_waker);
    pthread_barrier_destroy(&s.go_on);
}

/* The old waker is dropped outside the lock, when the new one is in place. */
static void
test_drop_of_the_replaced_waker_notifies(void)
{
    struct pac_notify n;
    struct waiter w;
    struct hooked_waker old = {.on_drop = call_notify_one, .arg = &n};
    struct pac_waker waker = {&hooked_waker_vtable, &old};
    struct pac_context cx = {&waker};
    pac_notify_init(&n);
    waiter_init(&w, &n);
    CHECK_INT(pac_notified_poll(&w.future, &cx), PAC_PENDING);
    CHECK(waiter_poll(&w) == PAC_READY || waiter_wakes(&w) == 1);
    CHECK_INT(counting_live(&old.count), 0);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
    CHECK(!has_permit(&n));
}

/* A drop of the waker that comes with a drop of the future: the notification goes to
 * the next. */
static void
test_drop_of_a_waiter_whose_waker_notifies(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    w[0].hooked.on_drop = call_notify_one;
    w[0].hooked.arg = &n;
    waiter_drop(&w[0]);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);
    CHECK(!has_permit(&n));
}

static void
test_spurious_polls_clone_nothing(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiters_init_and_poll(&w, 1, &n);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(waiter_poll(&w), PAC_PENDING);
    }
    CHECK_INT(counting_clones(&w.hooked.count), 1);
    CHECK_INT(waiter_wakes(&w), 0);
    pac_notify_one(&n);
    CHECK_INT(waiter_wakes(&w), 1);
    /* Fused, and without another clone. */
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(counting_clones(&w.hooked.count), 1);
    waiter_drop(&w);
    waiter_drop(&w);
    CHECK(!has_permit(&n));
}

/* ---- broadcasts ----------------------------------------------------------------------------- */

static struct waiter *wake_order[100];
static int wake_order_count;

static void
note_wake(void *arg)
{
    wake_order[wake_order_count++] = arg;
}

static void
test_broadcast_wakes_in_the_order_of_waiting(void)
{
    static struct waiter w[100];
    struct pac_notify n;
    pac_notify_init(&n);
    wake_order_count = 0;
    waiters_init_and_poll(w, 100, &n);
    for (int i = 0; i < 100; i++) {
        w[i].hooked.on_wake = note_wake;
        w[i].hooked.arg = &w[i];
    }
    pac_notify_waiters(&n);
    check_waiters_counted(0);
    CHECK_INT(wake_order_count, 100);
    for (int i = 0; i < wake_order_count; i++) {
        CHECK(wake_order[i] == &w[i]);
        CHECK_INT(waiter_poll(&w[i]), PAC_READY);
    }
    waiters_drop(w, 100);
}

static void
test_dropped_broadcast_is_not_passed_on(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 1, &n);
    pac_notify_waiters(&n);
    waiter_init(&w[1], &n);
    CHECK_INT(waiter_poll(&w[1]), PAC_PENDING);
    waiter_drop(&w[0]);
    CHECK_INT(waiter_wakes(&w[1]), 0);
    waiter_drop(&w[1]);
    CHECK(!has_permit(&n));
}

/* What the first waker of a broadcast does with others that the broadcast has not come
 * to yet. */
struct meddling {
    struct pac_notify n;
    struct waiter w[50];
    struct waiter later[3];
};

static void
poll_one_and_drop_another(void *arg)
{
    struct meddling *m = arg;
    CHECK_INT(waiter_poll(&m->w[40]), PAC_READY);
    CHECK_INT(counting_live(&m->w[40].hooked.count), 0);
    waiter_drop(&m->w[49]);
    waiter_drop(&m->w[41]);
    check_waiters_counted(50 - PAC_WAKE_BATCH - 3);
}

static void
test_waker_meddles_with_its_own_broadcast(void)
{
    static struct meddling m;
    pac_notify_init(&m.n);
    waiters_init_and_poll(m.w, 50, &m.n);
    m.w[0].hooked.on_wake = poll_one_and_drop_another;
    m.w[0].hooked.arg = &m;
    pac_notify_waiters(&m.n);
    for (int i = 0; i < 50; i++) {
        bool meddled_with = i == 40 || i == 41 || i == 49;
        CHECK_INT(waiter_wakes(&m.w[i]), meddled_with ? 0 : 1);
    }
    CHECK_INT(waiter_poll(&m.w[48]), PAC_READY);
    waiters_drop(m.w, 50);
}

/* ---- bugs that others had ------------------------------------------------------------------- */

/* 3661: what happens while the lock is released between two batches must not be
 * overwritten. */
static void
notify_in_many_ways(void *arg)
{
    struct meddling *m = arg;
    waiter_init(&m->later[0], &m->n);
    pac_notify_waiters(&m->n);
    waiter_init(&m->later[1], &m->n);
    pac_notify_one(&m->n);
}

static void
test_state_is_reread_between_batches(void)
{
    static struct meddling m;
    pac_notify_init(&m.n);
    waiters_init_and_poll(m.w, 50, &m.n);
    m.w[0].hooked.on_wake = notify_in_many_ways;
    m.w[0].hooked.arg = &m;
    pac_notify_waiters(&m.n);
    waiter_init(&m.later[2], &m.n);
    CHECK_INT(waiter_poll(&m.later[0]), PAC_READY);
    CHECK_INT(waiter_poll(&m.later[1]), PAC_READY);
    CHECK_INT(waiter_poll(&m.later[2]), PAC_PENDING);
    waiters_drop(m.later, 3);
    waiters_drop(m.w, 50);
    CHECK(!has_permit(&m.n));
}

/* 5396: one broadcast does not complete a future that a task which it woke waits for
 * next. */
static void
wait_again(void *arg)
{
    struct meddling *m = arg;
    CHECK_INT(waiter_poll(&m->w[0]), PAC_READY);
    waiter_init(&m->later[0], &m->n);
    CHECK_INT(waiter_poll(&m->later[0]), PAC_PENDING);
    waiter_init(&m->later[1], &m->n);
}

static void
test_broadcast_does_not_complete_the_next_wait(void)
{
    static struct meddling m;
    pac_notify_init(&m.n);
    waiters_init_and_poll(m.w, 50, &m.n);
    m.w[0].hooked.on_wake = wait_again;
    m.w[0].hooked.arg = &m;
    pac_notify_waiters(&m.n);
    CHECK_INT(waiter_wakes(&m.later[0]), 0);
    CHECK_INT(waiter_poll(&m.later[0]), PAC_PENDING);
    CHECK_INT(waiter_poll(&m.later[1]), PAC_PENDING);
    pac_notify_waiters(&m.n);
    CHECK_INT(waiter_poll(&m.later[0]), PAC_READY);
    CHECK_INT(waiter_poll(&m.later[1]), PAC_READY);
    waiters_drop(m.later, 2);
    waiters_drop(m.w, 50);
}

/* 4618: a future that was chosen and then dropped gives its notification back, also
 * when a broadcast came in between and when nobody waits any more. */
static void
test_drop_returns_the_notification_as_a_permit(void)
{
    struct pac_notify n;
    struct waiter w[2];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 2, &n);
    pac_notify_one(&n);
    pac_notify_waiters(&n);
    CHECK_INT(waiter_wakes(&w[0]), 1);
    waiter_drop(&w[0]);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    waiter_drop(&w[1]);
    CHECK(has_permit(&n));
    CHECK(!has_permit(&n));
}

/* 4751: the stored waker is replaced exactly if it would wake another task. */
static void
test_waker_is_replaced_exactly_if_it_differs(void)
{
    struct pac_notify n;
    struct pac_notified f;
    struct counting_waker c[2];
    struct pac_waker w[2] = {counting_waker_init(&c[0]), counting_waker_init(&c[1])};
    static const int polls_by[] = {0, 0, 1, 1, 1, 0, 1};
    pac_notify_init(&n);
    pac_notified_init(&f, &n);
    for (size_t i = 0; i < sizeof(polls_by) / sizeof(polls_by[0]); i++) {
        struct pac_context cx = {&w[polls_by[i]]};
        CHECK_INT(pac_notified_poll(&f, &cx), PAC_PENDING);
        CHECK_INT(counting_live(&c[polls_by[i]]), 1);
        CHECK_INT(counting_live(&c[!polls_by[i]]), 0);
    }
    CHECK_INT(counting_clones(&c[0]), 2);
    CHECK_INT(counting_clones(&c[1]), 2);
    pac_notify_one(&n);
    CHECK_INT(counting_wakes(&c[0]), 0);
    CHECK_INT(counting_wakes(&c[1]), 1);
    pac_notified_drop(&f);
    CHECK_INT(counting_live(&c[1]), 0);
}

/* 7965: also with a future that waits already, a broadcast and a permit stay apart. */
static void
test_broadcast_then_permit_for_another(void)
{
    struct pac_notify n;
    struct waiter w[3];
    pac_notify_init(&n);
    waiters_init_and_poll(w, 1, &n);
    waiter_init(&w[1], &n);
    pac_notify_waiters(&n);
    pac_notify_one(&n);
    CHECK_INT(waiter_poll(&w[1]), PAC_READY);
    CHECK_INT(waiter_poll(&w[0]), PAC_READY);
    waiter_init(&w[2], &n);
    CHECK_INT(waiter_poll(&w[2]), PAC_READY);
    waiters_drop(w, 3);
    CHECK(!has_permit(&n));
}

static void
broadcast_and_notify(void *arg)
{
    pac_notify_waiters(arg);
    pac_notify_one(arg);
}

/* Both come in the middle of the first poll, by the hand of its own waker. */
static void
test_broadcast_and_permit_during_a_first_poll(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    waiter_init(&w, &n);
    w.hooked.on_clone = broadcast_and_notify;
    w.hooked.arg = &n;
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
    CHECK(has_permit(&n));
}

/* 3660: a broadcast that finds nobody must not wipe out a permit that comes at the same
 * time. */
enum { RACE_ROUNDS = 1000 };

struct race {
    struct pac_notify n;
    struct waiter w[2];
    pthread_barrier_t start, end;
    void (*act)(struct race *r);
};

static void *
race_thread(void *arg)
{
    struct race *r = arg;
    for (int i = 0; i < RACE_ROUNDS; i++) {
        pthread_barrier_wait(&r->start);
        r->act(r);
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

/* In each round: `prepare` alone, then `here` and `there` on two threads at once, then
 * `verify`, which says whether all is well. */
static void
race(void (*prepare)(struct race *r), void (*here)(struct race *r), void (*there)(struct race *r),
     bool (*verify)(struct race *r))
{
    static struct race r;
    pthread_t thread;
    int wrong = 0;
    r.act = there;
    pthread_barrier_init(&r.start, NULL, 2);
    pthread_barrier_init(&r.end, NULL, 2);
    pthread_create(&thread, NULL, race_thread, &r);
    for (int i = 0; i < RACE_ROUNDS; i++) {
        pac_notify_init(&r.n);
        prepare(&r);
        pthread_barrier_wait(&r.start);
        here(&r);
        pthread_barrier_wait(&r.end);
        wrong += !verify(&r);
    }
    pthread_join(thread, NULL);
    CHECK_INT(wrong, 0);
    pthread_barrier_destroy(&r.start);
    pthread_barrier_destroy(&r.end);
}

static void
race_prepare_nothing(struct race *r)
{
    (void)r;
}

static void
race_prepare_two(struct race *r)
{
    waiters_init_and_poll(r->w, 2, &r->n);
}

static void
race_notify_one(struct race *r)
{
    pac_notify_one(&r->n);
}

static void
race_notify_last(struct race *r)
{
    pac_notify_last(&r->n);
}

static void
race_notify_waiters(struct race *r)
{
    pac_notify_waiters(&r->n);
}

/* Not waiter_drop: the other thread may be about to wake the waker that it has
 * taken. */
static void
race_drop_first(struct race *r)
{
    pac_notified_drop(&r->w[0].future);
}

static void
race_drop_second(struct race *r)
{
    pac_notified_drop(&r->w[1].future);
}

static bool
race_permit_is_there(struct race *r)
{
    return has_permit(&r->n);
}

static void
test_broadcast_racing_with_a_permit(void)
{
    race(race_prepare_nothing, race_notify_one, race_notify_waiters, race_permit_is_there);
}

/* The one that stays is notified, whether the other left before or had to pass it
 * on. */
static bool
race_second_was_notified(struct race *r)
{
    bool well = waiter_wakes(&r->w[1]) == 1 && waiter_poll(&r->w[1]) == PAC_READY;
    waiters_drop(r->w, 2);
    return well && !has_permit(&r->n);
}

static bool
race_first_was_notified(struct race *r)
{
    bool well = waiter_wakes(&r->w[0]) == 1 && waiter_poll(&r->w[0]) == PAC_READY;
    waiters_drop(r->w, 2);
    return well && !has_permit(&r->n);
}

static void
test_drop_racing_with_a_notification(void)
{
    race(race_prepare_two, race_drop_first, race_notify_one, race_second_was_notified);
    race(race_prepare_two, race_drop_second, race_notify_last, race_first_was_notified);
}

/* With a third party: the broadcast completes both, and the single one goes to nobody
 * or becomes a permit, by which of them came first. */
static bool
race_both_are_ready(struct race *r)
{
    bool well = true;
    for (int i = 0; i < 2; i++) {
        well = well && waiter_poll(&r->w[i]) == PAC_READY;
        well = well && waiter_wakes(&r->w[i]) == 1;
    }
    waiters_drop(r->w, 2);
    has_permit(&r->n);
    return well;
}

static void
test_broadcast_racing_with_notify_one(void)
{
    race(race_prepare_two, race_notify_waiters, race_notify_one, race_both_are_ready);
}

/* A first poll and a notification at once: ready in that poll, or woken. */
static void
race_prepare_unpolled(struct race *r)
{
    waiter_init(&r->w[0], &r->n);
}

static void
race_poll_first(struct race *r)
{
    waiter_poll(&r->w[0]);
}

static bool
race_polled_was_not_missed(struct race *r)
{
    bool was_ready = r->w[0].future.state == PAC_NOTIFIED_DONE;
    bool well = was_ready || waiter_wakes(&r->w[0]) == 1;
    well = well && waiter_poll(&r->w[0]) == PAC_READY;
    waiter_drop(&r->w[0]);
    return well && !has_permit(&r->n);
}

static void
test_poll_racing_with_a_notification(void)
{
    race(race_prepare_unpolled, race_poll_first, race_notify_one, race_polled_was_not_missed);
    race(race_prepare_unpolled, race_poll_first, race_notify_waiters, race_polled_was_not_missed);
}

/* A poll with another waker and a notification at once: whichever waker is woken, the
 * poll saw it or the newest one was told. */
static void
race_prepare_with_another_waker(struct race *r)
{
    struct pac_context cx = {&pac_noop_waker};
    waiter_init(&r->w[0], &r->n);
    CHECK_INT(pac_notified_poll(&r->w[0].future, &cx), PAC_PENDING);
}

static void
test_waker_update_racing_with_a_notification(void)
{
    race(race_prepare_with_another_waker, race_poll_first, race_notify_one,
         race_polled_was_not_missed);
    race(race_prepare_with_another_waker, race_poll_first, race_notify_waiters,
         race_polled_was_not_missed);
}

/* ---- the budget ----------------------------------------------------------------------------- */

static void
make_ready_by_permit(struct waiter *w, struct pac_notify *n)
{
    pac_notify_one(n);
    waiter_init(w, n);
}

static void
make_ready_by_broadcast(struct waiter *w, struct pac_notify *n)
{
    waiter_init(w, n);
    pac_notify_waiters(n);
}

static void
make_ready_by_mark(struct waiter *w, struct pac_notify *n)
{
    waiters_init_and_poll(w, 1, n);
    pac_notify_one(n);
}

static void
make_ready_by_broadcast_mark(struct waiter *w, struct pac_notify *n)
{
    waiters_init_and_poll(w, 1, n);
    pac_notify_waiters(n);
}

static void
budget_holds_back(void (*make_ready)(struct waiter *w, struct pac_notify *n), bool is_single)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    make_ready(&w, &n);
    pac_budget_left = 0;
    int before = waiter_wakes(&w);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(waiter_wakes(&w), before + 1);
    /* Nobody else gets what it was given. */
    CHECK(!has_permit(&n));
    pac_budget_left = 2;
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(pac_budget_left, 1);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(pac_budget_left, 1);
    waiter_drop(&w);
    CHECK(!has_permit(&n));

    /* Held back and then dropped: a single notification goes on, a broadcast does
     * not. */
    make_ready(&w, &n);
    pac_budget_left = 0;
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    waiter_drop(&w);
    CHECK_INT(has_permit(&n), is_single);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
}

static void
test_budget_holds_back_and_keeps(void)
{
    budget_holds_back(make_ready_by_permit, true);
    budget_holds_back(make_ready_by_mark, true);
    budget_holds_back(make_ready_by_broadcast, false);
    budget_holds_back(make_ready_by_broadcast_mark, false);
}

static void
test_budget_is_not_spent_by_waiting(void)
{
    struct pac_notify n;
    struct waiter w;
    pac_notify_init(&n);
    pac_budget_left = 5;
    waiters_init_and_poll(&w, 1, &n);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(pac_budget_left, 5);
    pac_budget_left = 0;
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(waiter_wakes(&w), 0);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    waiter_drop(&w);
}

/* A task that keeps its own permit up is stopped after a full budget. */
static void
test_budget_ends_an_endless_loop(void)
{
    struct pac_notify n;
    struct waiter w;
    int rounds = 0;
    pac_notify_init(&n);
    pac_budget_left = PAC_BUDGET;
    for (;;) {
        pac_notify_one(&n);
        waiter_init(&w, &n);
        if (rounds > 2 * PAC_BUDGET || waiter_poll(&w) == PAC_PENDING) {
            break;
        }
        rounds++;
        waiter_drop(&w);
    }
    CHECK_INT(rounds, PAC_BUDGET);
    CHECK_INT(waiter_wakes(&w), 1);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    waiter_drop(&w);
}

/* ---- random steps against a plain model ----------------------------------------------------- */

enum { MODEL_FUTURES = 12, MODEL_WAKERS = 3, MODEL_STEPS = 60000 };

enum model_state {
    ABSENT,
    INITIAL,
    WAITING,
    CHOSEN_FIRST,
    CHOSEN_LAST,
    CHOSEN_ALL,
    DONE,
};

struct model {
    bool permit;
    int order; /* of waiting: grows */
    enum model_state state[MODEL_FUTURES];
    int waits_since[MODEL_FUTURES];
    int waker[MODEL_FUTURES];             /* whose clone is stored, while WAITING; -1: none */
    bool missed_broadcast[MODEL_FUTURES]; /* while INITIAL: there was one */
    int wakes[MODEL_WAKERS];
};

static uint64_t random_state;

static unsigned
random_below(unsigned bound)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % bound;
}

static void
model_choose(struct model *m, int i, enum model_state chosen)
{
    if (m->waker[i] >= 0) {
        m->wakes[m->waker[i]]++;
    }
    m->waker[i] = -1;
    m->state[i] = chosen;
}

static void
model_notify_single(struct model *m, enum model_state chosen)
{
    int best = -1;
    for (int i = 0; i < MODEL_FUTURES; i++) {
        bool better =
            best < 0 || (chosen == CHOSEN_FIRST ? m->waits_since[i] < m->waits_since[best]
                                                : m->waits_since[i] > m->waits_since[best]);
        if (m->state[i] == WAITING && better) {
            best = i;
        }
    }
    if (best < 0) {
        m->permit = true;
    }
    else {
        model_choose(m, best, chosen);
    }
}

static void
model_notify_waiters(struct model *m)
{
    for (int i = 0; i < MODEL_FUTURES; i++) {
        if (m->state[i] == WAITING) {
            model_choose(m, i, CHOSEN_ALL);
        }
        m->missed_broadcast[i] = true;
    }
}

/* waker: -1 for enable. True: chosen or done. */
static bool
model_advance(struct model *m, int i, int waker)
{
    if (m->state[i] == INITIAL) {
        if (m->missed_broadcast[i]) {
            m->state[i] = CHOSEN_ALL;
        }
        else if (m->permit) {
            m->permit = false;
            m->state[i] = CHOSEN_FIRST;
        }
        else {
            m->state[i] = WAITING;
            m->waits_since[i] = m->order++;
        }
    }
    if (m->state[i] == WAITING && waker >= 0) {
        m->waker[i] = waker;
    }
    return m->state[i] != WAITING;
}

static bool
model_poll(struct model *m, int i, int waker, bool budget)
{
    if (!model_advance(m, i, waker)) {
        return false;
    }
    if (m->state[i] != DONE && !budget) {
        m->wakes[waker]++;
        return false;
    }
    m->state[i] = DONE;
    return true;
}

static void
model_drop(struct model *m, int i)
{
    enum model_state before = m->state[i];
    m->waker[i] = -1;
    m->state[i] = ABSENT;
    if (before == CHOSEN_FIRST || before == CHOSEN_LAST) {
        model_notify_single(m, before);
    }
}

static void
model_compare(struct model *m, struct pac_notify *n, struct counting_waker *wakers)
{
    int live[MODEL_WAKERS] = {0}, waiting = 0;
    for (int i = 0; i < MODEL_FUTURES; i++) {
        waiting += m->state[i] == WAITING;
        if (m->waker[i] >= 0) {
            live[m->waker[i]]++;
        }
    }
    for (int k = 0; k < MODEL_WAKERS; k++) {
        CHECK_INT(counting_wakes(&wakers[k]), m->wakes[k]);
        CHECK_INT(counting_live(&wakers[k]), live[k]);
    }
    CHECK_INT(pac_list_is_empty(&n->waiters), waiting == 0);
    check_waiters_counted(waiting);
}

static void
model_step(struct model *m, struct pac_notify *n, struct pac_notified *f,
           struct counting_waker *wakers)
{
    int i = (int)random_below(MODEL_FUTURES), k = (int)random_below(MODEL_WAKERS);
    struct pac_waker waker = {&counting_waker_vtable, &wakers[k]};
    struct pac_context cx = {&waker};
    unsigned what = random_below(20);
    if (what == 0) {
        pac_notify_waiters(n);
        model_notify_waiters(m);
    }
    else if (what < 4) {
        pac_notify_one(n);
        model_notify_single(m, CHOSEN_FIRST);
    }
    else if (what < 6) {
        pac_notify_last(n);
        model_notify_single(m, CHOSEN_LAST);
    }
    else if (m->state[i] == ABSENT) {
        pac_notified_init(&f[i], n);
        m->state[i] = INITIAL;
        m->missed_broadcast[i] = false;
    }
    else if (what < 8) {
        bool was_chosen = model_advance(m, i, -1);
        m->state[i] = was_chosen ? DONE : m->state[i];
        CHECK_INT(pac_notified_enable(&f[i]), was_chosen);
    }
    else if (what < 11) {
        pac_notified_drop(&f[i]);
        model_drop(m, i);
    }
    else {
        bool budget = random_below(4) != 0;
        pac_budget_left = budget ? PAC_BUDGET_UNLIMITED : 0;
        enum pac_poll expected = model_poll(m, i, k, budget) ? PAC_READY : PAC_PENDING;
        CHECK_INT(pac_notified_poll(&f[i], &cx), expected);
        pac_budget_left = PAC_BUDGET_UNLIMITED;
    }
}

static void
test_random_steps_agree_with_the_model(void)
{
    static struct model m;
    struct pac_notify n;
    struct pac_notified f[MODEL_FUTURES];
    struct counting_waker wakers[MODEL_WAKERS];
    random_state = 20240229;
    pac_notify_init(&n);
    for (int k = 0; k < MODEL_WAKERS; k++) {
        counting_waker_init(&wakers[k]);
    }
    for (int i = 0; i < MODEL_FUTURES; i++) {
        m.waker[i] = -1;
    }
    for (int step = 0; step < MODEL_STEPS && testing_failures == 0; step++) {
        model_step(&m, &n, f, wakers);
        model_compare(&m, &n, wakers);
    }
    for (int i = 0; i < MODEL_FUTURES; i++) {
        if (m.state[i] != ABSENT) {
            pac_notified_drop(&f[i]);
            model_drop(&m, i);
        }
    }
    model_compare(&m, &n, wakers);
    CHECK_INT(has_permit(&n), m.permit);
}

/* ---- threads -------------------------------------------------------------------------------- */

/* One value from thread to thread, unprotected but for the notification: a sanitizer
 * sees a missing order as a race. */
struct handover {
    struct pac_notify n;
    int value[2];
    PAC_ATOMIC(int) written;
};

static void *
handover_thread(void *arg)
{
    struct handover *h = arg;
    int me = pac_atomic_load(&h->written, PAC_RELAXED);
    h->value[me] = 42 + me;
    pac_notify_one(&h->n);
    pac_atomic_add(&h->written, 1, PAC_RELAXED);
    return NULL;
}

/* Nothing but the notification orders the two threads, no waker either. */
static void *
handover_in_silence(void *arg)
{
    struct handover *h = arg;
    h->value[0] = 42;
    pac_notify_one(&h->n);
    return NULL;
}

static void *
handover_broadcast_thread(void *arg)
{
    struct handover *h = arg;
    h->value[0] = 42;
    pac_notify_waiters(&h->n);
    return NULL;
}

static void
handover_once(void *(*thread_function)(void *), bool enable)
{
    struct handover h = {.value = {0, 0}};
    struct parking_waker p;
    struct pac_notified f;
    pthread_t thread;
    pac_notify_init(&h.n);
    pac_atomic_init(&h.written, 0);
    parking_waker_init(&p);
    pac_notified_init(&f, &h.n);
    if (enable) {
        CHECK(!pac_notified_enable(&f));
    }
    pthread_create(&thread, NULL, thread_function, &h);
    park_until_ready(&f.future, &p);
    CHECK_INT(h.value[0], 42);
    pac_notified_drop(&f);
    pthread_join(thread, NULL);
    parking_waker_fini(&p);
}

static void
test_writes_before_a_notification_are_seen(void)
{
    for (int i = 0; i < 100; i++) {
        handover_once(handover_thread, i % 2 != 0);
        handover_once(handover_broadcast_thread, i % 2 != 0);
    }
}

static void
spin_until_ready(struct pac_notified *f, struct handover *h)
{
    struct pac_context cx = {&pac_noop_waker};
    (void)h;
    while (pac_notified_poll(f, &cx) == PAC_PENDING) {
        sched_yield();
    }
}

/* A future that the broadcast finds unpolled is polled for the first time after it. */
static void
spin_until_broadcast(struct pac_notified *f, struct handover *h)
{
    while (pac_atomic_load(&h->n.state, PAC_RELAXED) == 0) {
        sched_yield();
    }
    CHECK(pac_notified_enable(f));
}

/* A caller that makes its future after the broadcast looks at the condition next, and
 * must see it. */
static void
spin_until_made_later(struct pac_notified *f, struct handover *h)
{
    while (f->broadcasts == 0) {
        sched_yield();
        pac_notified_init(f, &h->n);
    }
}

static void
handover_in_silence_by(void *(*thread_function)(void *),
                       void (*spin)(struct pac_notified *f, struct handover *h))
{
    struct handover h = {.value = {0, 0}};
    struct pac_notified f;
    struct pac_context cx = {&pac_noop_waker};
    pthread_t thread;
    pac_notify_init(&h.n);
    pac_notified_init(&f, &h.n);
    if (spin == spin_until_ready) {
        CHECK_INT(pac_notified_poll(&f, &cx), PAC_PENDING);
    }
    pthread_create(&thread, NULL, thread_function, &h);
    spin(&f, &h);
    CHECK_INT(h.value[0], 42);
    /* The memory is the waiter's again: the notifier is done with it. */
    pac_notified_drop(&f);
    f.waker = pac_noop_waker;
    f.node = (struct pac_list_node){NULL, NULL};
    pthread_join(thread, NULL);
}

static void
test_the_notification_alone_orders_the_threads(void)
{
    for (int i = 0; i < 50; i++) {
        handover_in_silence_by(handover_in_silence, spin_until_ready);
        handover_in_silence_by(handover_broadcast_thread, spin_until_ready);
        handover_in_silence_by(handover_broadcast_thread, spin_until_broadcast);
        handover_in_silence_by(handover_broadcast_thread, spin_until_made_later);
    }
}

/* Two notifications that become one permit: who takes it sees the writes of both. */
static void
test_writes_of_every_notifier_are_seen(void)
{
    for (int i = 0; i < 100; i++) {
        struct handover h = {.value = {0, 0}};
        pthread_t threads[2];
        pac_notify_init(&h.n);
        pac_atomic_init(&h.written, 0);
        for (int k = 0; k < 2; k++) {
            pthread_create(&threads[k], NULL, handover_thread, &h);
            while (pac_atomic_load(&h.written, PAC_RELAXED) <= k) {
                sched_yield();
            }
        }
        CHECK(has_permit(&h.n));
        CHECK_INT(h.value[0], 42);
        CHECK_INT(h.value[1], 43);
        for (int k = 0; k < 2; k++) {
            pthread_join(threads[k], NULL);
        }
    }
}

/* A queue of many producers and consumers, on one Notify. Each item is announced by one
 * notify_one; a consumer enables, looks, and only then sleeps. It drops what it has
 * enabled whenever the look finds an item, chosen or not, and goes on to another
 * future. An item that lies there while all sleep was announced in vain: then this
 * hangs. */
enum { PRODUCERS = 2, CONSUMERS = 3, ITEMS_EACH = 5000 };

struct queue {
    struct pac_notify n;
    PAC_ATOMIC(int) items, consumed;
};

static void *
producer_thread(void *arg)
{
    struct queue *q = arg;
    for (int i = 0; i < ITEMS_EACH; i++) {
        pac_atomic_add(&q->items, 1, PAC_RELAXED);
        if (i % 5 == 0) {
            pac_notify_last(&q->n);
        }
        else {
            pac_notify_one(&q->n);
        }
    }
    return NULL;
}

static bool
take_item(struct queue *q)
{
    int items = pac_atomic_load(&q->items, PAC_RELAXED);
    while (items > 0) {
        if (pac_atomic_cas(&q->items, &items, items - 1, PAC_RELAXED, PAC_RELAXED)) {
            return true;
        }
    }
    return false;
}

static bool
all_is_consumed(struct queue *q)
{
    return pac_atomic_load(&q->consumed, PAC_RELAXED) == PRODUCERS * ITEMS_EACH;
}

static void *
consumer_thread(void *arg)
{
    struct queue *q = arg;
    struct parking_waker p;
    struct pac_notified f;
    parking_waker_init(&p);
    while (!all_is_consumed(q)) {
        pac_notified_init(&f, &q->n);
        pac_notified_enable(&f);
        if (take_item(q)) {
            pac_notified_drop(&f);
            pac_atomic_add(&q->consumed, 1, PAC_RELAXED);
            if (all_is_consumed(q)) {
                pac_notify_waiters(&q->n);
            }
        }
        else if (!all_is_consumed(q)) {
            park_until_ready(&f.future, &p);
        }
        pac_notified_drop(&f);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_queue_loses_no_wake_up(void)
{
    static struct queue q;
    pthread_t threads[PRODUCERS + CONSUMERS];
    pac_notify_init(&q.n);
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        void *(*run)(void *) = i < PRODUCERS ? producer_thread : consumer_thread;
        pthread_create(&threads[i], NULL, run, &q);
    }
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&q.items, PAC_RELAXED), 0);
    check_waiters_counted(0);
}

/* Notifications that are all accounted for: a notifier sends the next only after the
 * last has been seen, so that none may coalesce. Others wait and give up at random; the
 * waiters may not sleep with a notification on its way. */
enum { ACCOUNTED = 3000 };
/* Enough, on a machine that is busy otherwise. */
#define ACCOUNTED_NS ((uint64_t)300000000)

struct accounts {
    struct pac_notify n;
    struct pac_notify done;
    PAC_ATOMIC(int) seen;
    PAC_ATOMIC(bool) over;
};

static void *
impatient_thread(void *arg)
{
    struct accounts *a = arg;
    struct pac_context cx = {&pac_noop_waker};
    struct pac_notified f;
    bool look_again = false;
    while (!pac_atomic_load(&a->over, PAC_RELAXED)) {
        pac_notified_init(&f, &a->n);
        bool ready = pac_notified_poll(&f, &cx) == PAC_READY;
        /* Asleep, so that those who have something to do get the processor. */
        usleep(10);
        if (look_again) {
            ready = pac_notified_poll(&f, &cx) == PAC_READY;
        }
        look_again = !look_again;
        pac_notified_drop(&f);
        if (ready) {
            pac_atomic_add(&a->seen, 1, PAC_RELAXED);
            pac_notify_one(&a->done);
        }
    }
    return NULL;
}

static void *
patient_thread(void *arg)
{
    struct accounts *a = arg;
    struct parking_waker p;
    struct pac_notified f;
    parking_waker_init(&p);
    for (;;) {
        pac_notified_init(&f, &a->n);
        park_until_ready(&f.future, &p);
        pac_notified_drop(&f);
        if (pac_atomic_load(&a->over, PAC_RELAXED)) {
            break;
        }
        pac_atomic_add(&a->seen, 1, PAC_RELAXED);
        pac_notify_one(&a->done);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_every_notification_is_seen_once(void)
{
    static struct accounts a;
    struct parking_waker p;
    struct pac_notified f;
    pthread_t impatient[2], patient;
    parking_waker_init(&p);
    pac_notify_init(&a.n);
    pac_notify_init(&a.done);
    pthread_create(&patient, NULL, patient_thread, &a);
    for (int i = 0; i < 2; i++) {
        pthread_create(&impatient[i], NULL, impatient_thread, &a);
    }
    uint64_t until_ns = pac_clock_ns() + ACCOUNTED_NS;
    for (int i = 0; i < ACCOUNTED && pac_clock_ns() < until_ns; i++) {
        if (i % 2 == 0) {
            pac_notify_one(&a.n);
        }
        else {
            pac_notify_last(&a.n);
        }
        pac_notified_init(&f, &a.done);
        park_until_ready(&f.future, &p);
        pac_notified_drop(&f);
        CHECK_INT(pac_atomic_load(&a.seen, PAC_RELAXED), i + 1);
    }
    pac_atomic_store(&a.over, true, PAC_RELAXED);
    for (int i = 0; i < 2; i++) {
        pthread_join(impatient[i], NULL);
    }
    pac_notify_one(&a.n);
    pthread_join(patient, NULL);
    CHECK(!has_permit(&a.n));
    CHECK(!has_permit(&a.done));
    parking_waker_fini(&p);
}

/* A broadcast over four batches, while one thread drops every third waiter and another
 * polls. */
enum { CROWD = 100, CROWD_ROUNDS = 200 };

struct crowd {
    struct pac_notify n;
    struct waiter w[CROWD];
    pthread_barrier_t start, end;
    int inconsistent;
};

static void *
crowd_dropping_thread(void *arg)
{
    struct crowd *c = arg;
    for (int round = 0; round < CROWD_ROUNDS; round++) {
        pthread_barrier_wait(&c->start);
        for (int i = 0; i < CROWD; i += 3) {
            /* From both ends by turns, so as to meet the broadcast before, in and
             * behind it. */
            int from_the_end = CROWD - 1 - i;
            pac_notified_drop(&c->w[round % 2 ? i : from_the_end].future);
        }
        pthread_barrier_wait(&c->end);
    }
    return NULL;
}

/* Those that are dropped have indices 0 modulo 3, from either end; 1 modulo 3 are
 * polled meanwhile, and 2 modulo 3 left alone. */
static void *
crowd_polling_thread(void *arg)
{
    struct crowd *c = arg;
    for (int round = 0; round < CROWD_ROUNDS; round++) {
        pthread_barrier_wait(&c->start);
        while (waiter_poll(&c->w[1]) == PAC_PENDING) {
            sched_yield();
        }
        /* One is ready, so all are that were made before the broadcast, the last one
         * too. */
        for (int i = CROWD - 3; i > 1; i -= 3) {
            c->inconsistent += waiter_poll(&c->w[i]) != PAC_READY;
        }
        pthread_barrier_wait(&c->end);
    }
    return NULL;
}

static void
test_stress_broadcast_while_others_poll_and_drop(void)
{
    static struct crowd c;
    pthread_t threads[2];
    pac_notify_init(&c.n);
    pthread_barrier_init(&c.start, NULL, 3);
    pthread_barrier_init(&c.end, NULL, 3);
    pthread_create(&threads[0], NULL, crowd_dropping_thread, &c);
    pthread_create(&threads[1], NULL, crowd_polling_thread, &c);
    for (int round = 0; round < CROWD_ROUNDS; round++) {
        waiters_init_and_poll(c.w, CROWD, &c.n);
        pthread_barrier_wait(&c.start);
        pac_notify_waiters(&c.n);
        pthread_barrier_wait(&c.end);
        check_waiters_counted(0);
        for (int i = 0; i < CROWD; i++) {
            if (i % 3 == 2) {
                CHECK_INT(waiter_wakes(&c.w[i]), 1);
                CHECK_INT(waiter_poll(&c.w[i]), PAC_READY);
            }
            CHECK(waiter_wakes(&c.w[i]) <= 1);
        }
        waiters_drop(c.w, CROWD);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(c.inconsistent, 0);
    CHECK(!has_permit(&c.n));
    pthread_barrier_destroy(&c.start);
    pthread_barrier_destroy(&c.end);
}

static void
run_single_steps(void)
{
    RUN(test_permit_stored_before_the_poll);
    RUN(test_permits_of_notify_one_do_not_add_up);
    RUN(test_permits_of_notify_last_do_not_add_up);
    RUN(test_waiter_is_woken_and_ready);
    RUN(test_only_the_oldest_is_woken);
    RUN(test_notify_last_wakes_the_newest);
    RUN(test_permit_goes_to_one_and_the_next_must_wait);
    RUN(test_dropped_waiter_leaves_the_list);
    RUN(test_dropped_notification_wakes_the_next);
    RUN(test_dropped_notify_one_goes_to_the_oldest);
    RUN(test_dropped_notify_last_goes_to_the_newest);
    RUN(test_notify_in_drop_and_wake_does_not_deadlock);
    RUN(test_permit_after_a_broadcast_is_not_its_waiters);
    RUN(test_enabled_future_counts_as_waiting);
    RUN(test_enable_says_that_a_notification_has_come);
    RUN(test_poll_after_enable_registers_the_waker);
    RUN(test_enable_after_poll_keeps_the_waker);
    RUN(test_enable_takes_the_permit);
    RUN(test_newest_waker_is_woken_alone);
    RUN(test_broadcast_leaves_the_permit);
}

static void
run_wakers_and_broadcasts(void)
{
    RUN(test_waker_is_cloned_before_the_lock);
    RUN(test_broadcast_completes_all_that_exist);
    RUN(test_stuck_waker_does_not_hold_up_the_others);
    RUN(test_drop_of_the_replaced_waker_notifies);
    RUN(test_drop_of_a_waiter_whose_waker_notifies);
    RUN(test_spurious_polls_clone_nothing);
    RUN(test_broadcast_wakes_in_the_order_of_waiting);
    RUN(test_dropped_broadcast_is_not_passed_on);
    RUN(test_waker_meddles_with_its_own_broadcast);
    RUN(test_state_is_reread_between_batches);
    RUN(test_broadcast_does_not_complete_the_next_wait);
    RUN(test_drop_returns_the_notification_as_a_permit);
    RUN(test_waker_is_replaced_exactly_if_it_differs);
    RUN(test_broadcast_then_permit_for_another);
    RUN(test_broadcast_and_permit_during_a_first_poll);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    run_single_steps();
    run_wakers_and_broadcasts();
    RUN(test_budget_holds_back_and_keeps);
    RUN(test_budget_is_not_spent_by_waiting);
    RUN(test_budget_ends_an_endless_loop);
    RUN(test_random_steps_agree_with_the_model);
    RUN(test_broadcast_racing_with_a_permit);
    RUN(test_broadcast_racing_with_notify_one);
    RUN(test_drop_racing_with_a_notification);
    RUN(test_poll_racing_with_a_notification);
    RUN(test_waker_update_racing_with_a_notification);
    RUN(test_writes_before_a_notification_are_seen);
    RUN(test_the_notification_alone_orders_the_threads);
    RUN(test_writes_of_every_notifier_are_seen);
    RUN(test_stress_queue_loses_no_wake_up);
    RUN(test_stress_every_notification_is_seen_once);
    RUN(test_stress_broadcast_while_others_poll_and_drop);
    return TESTING_RESULT();
}
