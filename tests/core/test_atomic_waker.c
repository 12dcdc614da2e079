/* The slot for the newest waker: what is kept, what is woken, and that no wake-up is
 * lost. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* pthread_barrier_t */
#endif
#include "atomic_waker.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

/* Whatever hangs is a lost wake-up. */
enum { WATCHDOG_S = 60 };

static void
test_wake_without_a_waker_does_nothing(void)
{
    struct pac_atomic_waker a;
    pac_atomic_waker_init(&a);
    pac_atomic_waker_wake(&a);
    struct pac_waker none = pac_atomic_waker_take(&a);
    CHECK(!pac_waker_is_set(&none));
    pac_atomic_waker_fini(&a);
}

static void
test_wake_wakes_once_and_forgets(void)
{
    struct pac_atomic_waker a;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w);
    CHECK_INT(counting_wakes(&c), 0);
    CHECK_INT(counting_live(&c), 1);
    pac_atomic_waker_wake(&a);
    CHECK_INT(counting_wakes(&c), 1);
    CHECK_INT(counting_live(&c), 0);
    pac_atomic_waker_wake(&a);
    CHECK_INT(counting_wakes(&c), 1);
    /* The slot is usable again. */
    pac_atomic_waker_register(&a, &w);
    pac_atomic_waker_wake(&a);
    CHECK_INT(counting_wakes(&c), 2);
    CHECK_INT(counting_live(&c), 0);
    pac_atomic_waker_fini(&a);
}

static void
test_newest_waker_wins_and_the_same_is_not_cloned(void)
{
    struct pac_atomic_waker a;
    struct counting_waker first, second;
    struct pac_waker w1 = counting_waker_init(&first);
    struct pac_waker w2 = counting_waker_init(&second);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w1);
    pac_atomic_waker_register(&a, &w1);
    CHECK_INT(counting_clones(&first), 1);
    pac_atomic_waker_register(&a, &w2);
    CHECK_INT(counting_live(&first), 0);
    CHECK_INT(counting_live(&second), 1);
    pac_atomic_waker_wake(&a);
    CHECK_INT(counting_wakes(&first), 0);
    CHECK_INT(counting_wakes(&second), 1);
    pac_atomic_waker_fini(&a);
}

static void
test_take_hands_the_waker_over_unwoken(void)
{
    struct pac_atomic_waker a;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w);
    struct pac_waker taken = pac_atomic_waker_take(&a);
    CHECK(pac_waker_will_wake(&taken, &w));
    CHECK_INT(counting_wakes(&c), 0);
    pac_atomic_waker_wake(&a);
    CHECK_INT(counting_wakes(&c), 0);
    CHECK_INT(counting_live(&c), 1);
    pac_waker_drop(&taken);
    CHECK_INT(counting_live(&c), 0);
    pac_atomic_waker_fini(&a);
}

static void
test_fini_drops_what_is_kept(void)
{
    struct pac_atomic_waker a;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w);
    pac_atomic_waker_fini(&a);
    CHECK_INT(counting_live(&c), 0);
    CHECK_INT(counting_wakes(&c), 0);
}

/* ---- wakes in the middle of a registration -------------------------------------------------- */

/* A waker whose clone or drop uses the slot in which it stands. */
struct meddling_waker {
    struct counting_waker count;
    struct pac_atomic_waker *slot;
    bool wake_in_clone, take_in_clone, wake_in_drop;
};

static const struct pac_waker_vtable meddling_waker_vtable;

static struct pac_waker
meddling_clone(void *data)
{
    struct meddling_waker *m = data;
    counting_clone(&m->count);
    if (m->wake_in_clone) {
        pac_atomic_waker_wake(m->slot);
    }
    if (m->take_in_clone) {
        struct pac_waker none = pac_atomic_waker_take(m->slot);
        CHECK(!pac_waker_is_set(&none));
    }
    return (struct pac_waker){&meddling_waker_vtable, m};
}

static void
meddling_drop(void *data)
{
    struct meddling_waker *m = data;
    counting_drop(&m->count);
    if (m->wake_in_drop) {
        CHECK_INT(pac_atomic_load(&m->slot->state, PAC_RELAXED), 0);
        pac_atomic_waker_wake(m->slot);
    }
}

static const struct pac_waker_vtable meddling_waker_vtable = {
    .clone = meddling_clone,
    .wake = counting_wake,
    .wake_by_ref = counting_wake_by_ref,
    .drop = meddling_drop,
};

static struct pac_waker
meddling_waker_init(struct meddling_waker *m, struct pac_atomic_waker *slot)
{
    counting_waker_init(&m->count);
    m->slot = slot;
    m->wake_in_clone = m->take_in_clone = m->wake_in_drop = false;
    return (struct pac_waker){&meddling_waker_vtable, m};
}

static void
test_wake_during_registration_wakes_the_new_waker(void)
{
    struct pac_atomic_waker a;
    struct counting_waker old;
    struct meddling_waker m;
    struct pac_waker w_old = counting_waker_init(&old);
    struct pac_waker w = meddling_waker_init(&m, &a);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w_old);
    m.wake_in_clone = true;
    pac_atomic_waker_register(&a, &w);
    CHECK_INT(counting_wakes(&m.count), 1);
    CHECK_INT(counting_live(&m.count), 0);
    CHECK_INT(counting_wakes(&old), 0);
    CHECK_INT(counting_live(&old), 0);
    /* It was taken out to be woken, and the slot is free. */
    m.wake_in_clone = false;
    pac_atomic_waker_register(&a, &w);
    CHECK_INT(counting_wakes(&m.count), 1);
    CHECK_INT(counting_live(&m.count), 1);
    pac_atomic_waker_fini(&a);
}

static void
test_take_during_registration_finds_nothing_but_wakes(void)
{
    struct pac_atomic_waker a;
    struct meddling_waker m;
    struct pac_waker w = meddling_waker_init(&m, &a);
    pac_atomic_waker_init(&a);
    m.take_in_clone = true;
    pac_atomic_waker_register(&a, &w);
    CHECK_INT(counting_wakes(&m.count), 1);
    CHECK_INT(counting_live(&m.count), 0);
    pac_atomic_waker_fini(&a);
}

/* The replaced waker is dropped when the slot is free: what its drop wakes is the new
 * waker. */
static void
test_drop_of_the_replaced_waker_may_wake_the_slot(void)
{
    struct pac_atomic_waker a;
    struct meddling_waker m;
    struct counting_waker newer;
    struct pac_waker w = meddling_waker_init(&m, &a);
    struct pac_waker w_newer = counting_waker_init(&newer);
    pac_atomic_waker_init(&a);
    pac_atomic_waker_register(&a, &w);
    m.wake_in_drop = true;
    pac_atomic_waker_register(&a, &w_newer);
    CHECK_INT(counting_live(&m.count), 0);
    CHECK_INT(counting_wakes(&newer), 1);
    CHECK_INT(counting_live(&newer), 0);
    CHECK_INT(pac_atomic_load(&a.state, PAC_RELAXED), 0);
    pac_atomic_waker_fini(&a);
}

/* The state is set by hand to what another thread makes it for a moment. */
static void
test_registration_during_a_wake_wakes_at_once(void)
{
    struct pac_atomic_waker a;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    pac_atomic_waker_init(&a);
    pac_atomic_store(&a.state, PAC_ATOMIC_WAKER_WAKING, PAC_RELAXED);
    pac_atomic_waker_register(&a, &w);
    CHECK_INT(counting_wakes(&c), 1);
    CHECK_INT(counting_clones(&c), 0);
    /* A second wake leaves the first its bit. */
    pac_atomic_waker_wake(&a);
    CHECK_INT(pac_atomic_load(&a.state, PAC_RELAXED), PAC_ATOMIC_WAKER_WAKING);
    pac_atomic_store(&a.state, 0, PAC_RELAXED);
    pac_atomic_waker_fini(&a);
}

/* ---- one thread registers, two wake --------------------------------------------------------- */

/* A counting waker on which a thread can sleep. */
struct parking_waker {
    struct counting_waker count;
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    bool token;
};

static const struct pac_waker_vtable parking_waker_vtable;

static struct pac_waker
parking_clone(void *data)
{
    struct parking_waker *p = data;
    counting_clone(&p->count);
    return (struct pac_waker){&parking_waker_vtable, p};
}

static void
parking_wake_by_ref(void *data)
{
    struct parking_waker *p = data;
    pthread_mutex_lock(&p->mutex);
    p->token = true;
    pthread_cond_signal(&p->woken);
    pthread_mutex_unlock(&p->mutex);
    counting_wake_by_ref(&p->count);
}

static void
parking_wake(void *data)
{
    struct parking_waker *p = data;
    parking_wake_by_ref(p);
    counting_drop(&p->count);
}

static const struct pac_waker_vtable parking_waker_vtable = {
    .clone = parking_clone,
    .wake = parking_wake,
    .wake_by_ref = parking_wake_by_ref,
    .drop = counting_drop,
};

static struct pac_waker
parking_waker_init(struct parking_waker *p)
{
    counting_waker_init(&p->count);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->woken, NULL);
    p->token = false;
    return (struct pac_waker){&parking_waker_vtable, p};
}

static void
parking_sleep(struct parking_waker *p)
{
    pthread_mutex_lock(&p->mutex);
    while (!p->token) {
        pthread_cond_wait(&p->woken, &p->mutex);
    }
    p->token = false;
    pthread_mutex_unlock(&p->mutex);
}

static void
parking_waker_fini(struct parking_waker *p)
{
    pthread_cond_destroy(&p->woken);
    pthread_mutex_destroy(&p->mutex);
}

enum { STRESS_WAKERS = 2, STRESS_ROUNDS = 4000 };

struct stress {
    struct pac_atomic_waker slot;
    PAC_ATOMIC(int) round;               /* the poller's: it is for all to do */
    PAC_ATOMIC(int) done[STRESS_WAKERS]; /* the last round that this thread did */
    PAC_ATOMIC(int) numbers;
};

static void *
stress_waking_thread(void *arg)
{
    struct stress *s = arg;
    int me = pac_atomic_add(&s->numbers, 1, PAC_RELAXED);
    for (int round = 1; round <= STRESS_ROUNDS; round++) {
        while (pac_atomic_load(&s->round, PAC_RELAXED) < round) {
            sched_yield();
        }
        /* Relaxed, so that it is the slot that orders the condition before the wake. */
        pac_atomic_store(&s->done[me], round, PAC_RELAXED);
        pac_atomic_waker_wake(&s->slot);
    }
    return NULL;
}

static bool
stress_round_is_done(struct stress *s, int round)
{
    for (int i = 0; i < STRESS_WAKERS; i++) {
        if (pac_atomic_load(&s->done[i], PAC_RELAXED) < round) {
            return false;
        }
    }
    return true;
}

/* In each round the poller may sleep only if a wake is still to come. It changes its
 * waker every few rounds, so that replacing and keeping race with the wakes too. */
static void
test_stress_no_wake_up_is_lost(void)
{
    static struct stress s;
    struct parking_waker parking[2];
    struct pac_waker wakers[2];
    pthread_t threads[STRESS_WAKERS];
    pac_atomic_waker_init(&s.slot);
    for (int i = 0; i < 2; i++) {
        wakers[i] = parking_waker_init(&parking[i]);
    }
    for (int i = 0; i < STRESS_WAKERS; i++) {
        pthread_create(&threads[i], NULL, stress_waking_thread, &s);
    }
    for (int round = 1; round <= STRESS_ROUNDS; round++) {
        int which = (round / 3) % 2;
        pac_atomic_store(&s.round, round, PAC_RELAXED);
        for (;;) {
            pac_atomic_waker_register(&s.slot, &wakers[which]);
            if (stress_round_is_done(&s, round)) {
                break;
            }
            parking_sleep(&parking[which]);
        }
    }
    for (int i = 0; i < STRESS_WAKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&s.slot.state, PAC_RELAXED), 0);
    pac_atomic_waker_fini(&s.slot);
    for (int i = 0; i < 2; i++) {
        CHECK(counting_clones(&parking[i].count) > 0);
        CHECK_INT(counting_live(&parking[i].count), 0);
        parking_waker_fini(&parking[i]);
    }
}

/* Wakers that race for one registration: exactly one of them gets it. */
struct race {
    struct pac_atomic_waker slot;
    pthread_barrier_t start, end;
};

enum { RACE_ROUNDS = 1000 };

static void *
race_waking_thread(void *arg)
{
    struct race *r = arg;
    for (int i = 0; i < RACE_ROUNDS; i++) {
        pthread_barrier_wait(&r->start);
        pac_atomic_waker_wake(&r->slot);
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

static void
test_stress_one_registration_is_woken_once(void)
{
    static struct race r;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    pthread_t threads[2];
    int wrong = 0;
    pac_atomic_waker_init(&r.slot);
    pthread_barrier_init(&r.start, NULL, 3);
    pthread_barrier_init(&r.end, NULL, 3);
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, race_waking_thread, &r);
    }
    for (int i = 0; i < RACE_ROUNDS; i++) {
        int before = counting_wakes(&c);
        pac_atomic_waker_register(&r.slot, &w);
        pthread_barrier_wait(&r.start);
        pthread_barrier_wait(&r.end);
        wrong += counting_wakes(&c) != before + 1 || counting_live(&c) != 0;
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(counting_clones(&c), RACE_ROUNDS);
    pac_atomic_waker_fini(&r.slot);
    pthread_barrier_destroy(&r.start);
    pthread_barrier_destroy(&r.end);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_wake_without_a_waker_does_nothing);
    RUN(test_wake_wakes_once_and_forgets);
    RUN(test_newest_waker_wins_and_the_same_is_not_cloned);
    RUN(test_take_hands_the_waker_over_unwoken);
    RUN(test_fini_drops_what_is_kept);
    RUN(test_wake_during_registration_wakes_the_new_waker);
    RUN(test_take_during_registration_finds_nothing_but_wakes);
    RUN(test_drop_of_the_replaced_waker_may_wake_the_slot);
    RUN(test_registration_during_a_wake_wakes_at_once);
    RUN(test_stress_no_wake_up_is_lost);
    RUN(test_stress_one_registration_is_woken_once);
    return TESTING_RESULT();
}
