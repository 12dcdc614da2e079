/* Barrier: who leads, who goes on, and that a wait that is dropped does not count.
 *
 * The first group follows the cases of Tokio's own tests of its Barrier. */
#include "barrier.h"
#include "wakers.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { WATCHDOG_S = 100, CROWD = 70 };

struct waiter {
    struct pac_barrier_wait wait;
    struct probe probe;
};

static void
waiter_init(struct waiter *w, struct pac_barrier *b)
{
    pac_barrier_wait_init(&w->wait, b);
    probe_init(&w->probe, &w->wait.future);
}

static enum pac_poll
waiter_poll(struct waiter *w)
{
    return probe_poll(&w->probe);
}

static enum pac_poll
arrive(struct waiter *w, struct pac_barrier *b)
{
    waiter_init(w, b);
    return waiter_poll(w);
}

static void
waiter_drop(struct waiter *w)
{
    probe_drop(&w->probe);
}

static void
test_one_party_or_none_does_not_wait(void)
{
    for (uint64_t parties = 0; parties < 2; parties++) {
        struct pac_barrier b;
        struct waiter w;
        pac_barrier_init(&b, parties);
        for (int i = 0; i < 3; i++) {
            CHECK_INT(arrive(&w, &b), PAC_READY);
            CHECK(w.wait.is_leader);
            waiter_drop(&w);
        }
    }
}

static void
test_the_last_leads_and_all_go_on_each_time(void)
{
    struct pac_barrier b;
    static struct waiter w[CROWD];
    pac_barrier_init(&b, CROWD);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CROWD - 1; i++) {
            CHECK_INT(arrive(&w[i], &b), PAC_PENDING);
            CHECK_INT(waiter_poll(&w[i]), PAC_PENDING); /* polling again is not arriving again */
            CHECK_INT(pac_barrier_arrived(&b), i + 1);
        }
        CHECK_INT(arrive(&w[CROWD - 1], &b), PAC_READY);
        CHECK_INT(pac_barrier_arrived(&b), 0);
        for (int i = 0; i < CROWD; i++) {
            CHECK_INT(probe_wakes(&w[i].probe), i < CROWD - 1);
            if (i < CROWD - 1) {
                CHECK_INT(waiter_poll(&w[i]), PAC_READY);
            }
            CHECK_INT(w[i].wait.is_leader, i == CROWD - 1);
            waiter_drop(&w[i]);
        }
    }
}

static void
test_a_wait_that_was_not_polled_has_not_arrived(void)
{
    struct pac_barrier b;
    struct waiter w;
    pac_barrier_init(&b, 2);
    waiter_init(&w, &b);
    CHECK_INT(pac_barrier_arrived(&b), 0);
    waiter_drop(&w);
    CHECK_INT(pac_barrier_arrived(&b), 0);
}

static void
test_a_dropped_wait_does_not_count(void)
{
    struct pac_barrier b;
    struct waiter gone, stays, last;
    pac_barrier_init(&b, 2);
    CHECK_INT(arrive(&gone, &b), PAC_PENDING);
    waiter_drop(&gone);
    CHECK_INT(pac_barrier_arrived(&b), 0);
    CHECK_INT(arrive(&stays, &b), PAC_PENDING);
    CHECK_INT(arrive(&last, &b), PAC_READY);
    CHECK(last.wait.is_leader);
    CHECK_INT(waiter_poll(&stays), PAC_READY);
    waiter_drop(&stays);
    waiter_drop(&last);
}

static void
test_dropped_after_the_barrier_opened(void)
{
    struct pac_barrier b;
    struct waiter gone, last, next;
    pac_barrier_init(&b, 2);
    CHECK_INT(arrive(&gone, &b), PAC_PENDING);
    CHECK_INT(arrive(&last, &b), PAC_READY);
    CHECK_INT(arrive(&next, &b), PAC_PENDING);
    waiter_drop(&gone); /* of the generation before: takes nothing from this one */
    CHECK_INT(pac_barrier_arrived(&b), 1);
    waiter_drop(&next);
    waiter_drop(&last);
}

static void
test_next_generation_is_not_let_go_by_the_broadcast_before(void)
{
    struct pac_barrier b;
    struct waiter w;
    pac_barrier_init(&b, 2);
    CHECK_INT(arrive(&w, &b), PAC_PENDING);
    pac_notify_waiters(&b.notify); /* as if it came late */
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(pac_barrier_arrived(&b), 1);
    waiter_drop(&w);
}

/* A waker that comes again at once, while the broadcast is under way. */
struct meddling {
    struct pac_barrier b;
    struct waiter w[CROWD], again;
    bool began;
};

static void
come_again(void *arg)
{
    struct meddling *m = arg;
    if (!m->began) {
        m->began = true;
        CHECK_INT(arrive(&m->again, &m->b), PAC_PENDING);
        waiter_drop(&m->w[CROWD - 2]);
    }
}

static void
test_waker_comes_again(void)
{
    static struct meddling m;
    pac_barrier_init(&m.b, CROWD);
    for (int i = 0; i < CROWD; i++) {
        waiter_init(&m.w[i], &m.b);
        m.w[i].probe.hooked.on_wake = come_again;
        m.w[i].probe.hooked.arg = &m;
        CHECK_INT(waiter_poll(&m.w[i]), i < CROWD - 1 ? PAC_PENDING : PAC_READY);
    }
    CHECK_INT(pac_barrier_arrived(&m.b), 1);
    CHECK_INT(waiter_poll(&m.again), PAC_PENDING);
    waiter_drop(&m.again);
    for (int i = 0; i < CROWD; i++) {
        if (i < CROWD - 2) {
            CHECK_INT(waiter_poll(&m.w[i]), PAC_READY);
        }
        if (i != CROWD - 2) {
            waiter_drop(&m.w[i]);
        }
    }
}

static void
test_budget(void)
{
    struct pac_barrier b;
    struct waiter first, last;
    pac_barrier_init(&b, 2);
    pac_budget_left = 0;
    CHECK_INT(arrive(&first, &b), PAC_PENDING);
    CHECK_INT(arrive(&last, &b), PAC_PENDING); /* has opened it, and is held back */
    CHECK_INT(probe_wakes(&first.probe), 1);
    CHECK_INT(probe_wakes(&last.probe), 1);
    CHECK_INT(pac_barrier_arrived(&b), 0);
    pac_budget_left = 2;
    CHECK_INT(waiter_poll(&first), PAC_READY);
    CHECK_INT(waiter_poll(&last), PAC_READY);
    CHECK_INT(pac_budget_left, 0);
    CHECK(last.wait.is_leader);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    waiter_drop(&first);
    waiter_drop(&last);
}

/* Threads that meet again and again, now and then giving up first. What each wrote before is there
 * after, and each meeting has one leader. */
enum { THREADS = 4, ROUNDS = 2000 };

struct meeting {
    struct pac_barrier b;
    int written[THREADS];
    int leaders;
    PAC_ATOMIC(int) next, wrong;
};

static bool
meet(struct meeting *m, struct parking_waker *p)
{
    struct pac_barrier_wait w;
    pac_barrier_wait_init(&w, &m->b);
    park_until_ready(&w.future, p);
    pac_barrier_wait_drop(&w);
    return w.is_leader;
}

static void *
party_thread(void *arg)
{
    struct meeting *m = arg;
    struct parking_waker p;
    int me = pac_atomic_add(&m->next, 1, PAC_RELAXED);
    parking_waker_init(&p);
    for (int round = 1; round <= ROUNDS; round++) {
        m->written[me] = round;
        if (meet(m, &p)) {
            m->leaders++;
        }
        for (int i = 0; i < THREADS; i++) {
            if (m->written[i] != round) {
                pac_atomic_add(&m->wrong, 1, PAC_RELAXED);
            }
        }
        meet(m, &p); /* before anybody writes again */
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_meetings(void)
{
    static struct meeting m;
    pthread_t threads[THREADS];
    pac_barrier_init(&m.b, THREADS);
    pac_atomic_init(&m.next, 0);
    pac_atomic_init(&m.wrong, 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, party_thread, &m);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&m.wrong, PAC_RELAXED), 0);
    CHECK_INT(m.leaders, ROUNDS);
}

/* Two threads: one arrives and gives up, over and over; the other waits for a partner. However that
 * falls out, a round opens only for two waits that both have been let go or are still there. */
struct fickle {
    struct pac_barrier b;
    PAC_ATOMIC(int) met;
    PAC_ATOMIC(bool) over;
};

static void *
fickle_thread(void *arg)
{
    struct fickle *f = arg;
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    struct pac_context cx = {&waker};
    while (!pac_atomic_load(&f->over, PAC_RELAXED)) {
        struct pac_barrier_wait w;
        pac_barrier_wait_init(&w, &f->b);
        bool met = pac_barrier_wait_poll(&w, &cx) == PAC_READY;
        if (!met) {
            sched_yield();
            met = pac_barrier_wait_poll(&w, &cx) == PAC_READY;
        }
        pac_barrier_wait_drop(&w);
        if (met) {
            pac_atomic_add(&f->met, 1, PAC_RELAXED);
        }
    }
    return NULL;
}

static void
test_stress_one_party_keeps_giving_up(void)
{
    static struct fickle f;
    struct parking_waker p;
    pthread_t thread;
    pac_barrier_init(&f.b, 2);
    pac_atomic_init(&f.met, 0);
    pac_atomic_init(&f.over, false);
    parking_waker_init(&p);
    pthread_create(&thread, NULL, fickle_thread, &f);
    for (int i = 0; i < ROUNDS; i++) {
        struct pac_barrier_wait w;
        pac_barrier_wait_init(&w, &f.b);
        park_until_ready(&w.future, &p);
    }
    pac_atomic_store(&f.over, true, PAC_RELAXED);
    pthread_join(thread, NULL);
    CHECK_INT(pac_barrier_arrived(&f.b), 0);
    CHECK(pac_atomic_load(&f.met, PAC_RELAXED) <= ROUNDS);
    parking_waker_fini(&p);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_one_party_or_none_does_not_wait);
    RUN(test_the_last_leads_and_all_go_on_each_time);
    RUN(test_a_wait_that_was_not_polled_has_not_arrived);
    RUN(test_a_dropped_wait_does_not_count);
    RUN(test_dropped_after_the_barrier_opened);
    RUN(test_next_generation_is_not_let_go_by_the_broadcast_before);
    RUN(test_waker_comes_again);
    RUN(test_budget);
    RUN(test_stress_meetings);
    RUN(test_stress_one_party_keeps_giving_up);
    return TESTING_RESULT();
}
