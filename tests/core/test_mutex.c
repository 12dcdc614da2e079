/* Mutex: one holder, in order, and an unlock too many is refused. */
#include "mutex.h"
#include "wakers.h"

#include <pthread.h>
#include <unistd.h>

enum { WATCHDOG_S = 100 };

static void
unlock(struct pac_mutex *m)
{
    CHECK_INT(pac_mutex_unlock(m), PAC_OK);
}

static void
test_try_lock(void)
{
    struct pac_mutex m;
    pac_mutex_init(&m);
    CHECK(!pac_mutex_is_locked(&m));
    CHECK(pac_mutex_try_lock(&m));
    CHECK(pac_mutex_is_locked(&m));
    CHECK(!pac_mutex_try_lock(&m));
    unlock(&m);
    CHECK(!pac_mutex_is_locked(&m));
}

static void
test_unlock_of_what_is_not_locked(void)
{
    struct pac_mutex m;
    pac_mutex_init(&m);
    CHECK_INT(pac_mutex_unlock(&m), PAC_OVERFLOW);
    CHECK(pac_mutex_try_lock(&m));
    CHECK(!pac_mutex_try_lock(&m));
    unlock(&m);
}

static void
test_handed_over_in_order(void)
{
    enum { WAITERS = 40 };
    struct pac_mutex m;
    struct pac_acquire locks[WAITERS];
    struct probe probes[WAITERS];
    pac_mutex_init(&m);
    for (int i = 0; i < WAITERS; i++) {
        pac_mutex_lock_init(&locks[i], &m);
        probe_init(&probes[i], &locks[i].future);
        CHECK_INT(probe_poll(&probes[i]), i == 0 ? PAC_READY : PAC_PENDING);
    }
    for (int i = 1; i < WAITERS; i++) {
        unlock(&m);
        CHECK(!pac_mutex_try_lock(&m)); /* handed over, not up for grabs */
        CHECK_INT(probe_poll(&probes[i]), PAC_READY);
        for (int k = 1; k < WAITERS; k++) {
            CHECK_INT(probe_wakes(&probes[k]), k <= i);
        }
    }
    unlock(&m);
    CHECK(!pac_mutex_is_locked(&m));
    for (int i = 0; i < WAITERS; i++) {
        probe_drop(&probes[i]);
    }
}

static void
test_dropped_at_every_stage(void)
{
    struct pac_mutex m;
    struct pac_acquire lock;
    struct probe probe;
    for (int stage = 0; stage < 3; stage++) {
        pac_mutex_init(&m);
        CHECK(pac_mutex_try_lock(&m));
        pac_mutex_lock_init(&lock, &m);
        probe_init(&probe, &lock.future);
        if (stage > 0) {
            CHECK_INT(probe_poll(&probe), PAC_PENDING);
        }
        if (stage > 1) {
            unlock(&m); /* handed over, and never seen */
            CHECK(pac_mutex_is_locked(&m));
        }
        probe_drop(&probe);
        CHECK_INT(pac_mutex_is_locked(&m), stage < 2);
    }
}

enum { THREADS = 4, TURNS = 3000 };

struct shared {
    struct pac_mutex m;
    int count; /* guarded by it alone */
};

static void *
count_thread(void *arg)
{
    struct shared *s = arg;
    struct parking_waker p;
    struct pac_acquire lock;
    parking_waker_init(&p);
    for (int i = 0; i < TURNS; i++) {
        pac_mutex_lock_init(&lock, &s->m);
        park_until_ready(&lock.future, &p);
        s->count++;
        unlock(&s->m);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_guards_a_count(void)
{
    static struct shared s;
    pthread_t threads[THREADS];
    pac_mutex_init(&s.m);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, count_thread, &s);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(s.count, THREADS * TURNS);
    CHECK(!pac_mutex_is_locked(&s.m));
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_try_lock);
    RUN(test_unlock_of_what_is_not_locked);
    RUN(test_handed_over_in_order);
    RUN(test_dropped_at_every_stage);
    RUN(test_stress_guards_a_count);
    return TESTING_RESULT();
}
