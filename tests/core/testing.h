/* testing.h - what the C tests share: checks that say where they failed, and wakers that count.
 *
 * A test program is a main() that calls RUN(name) for each of its tests and returns
 * TESTING_RESULT(). A failed CHECK prints file, line and expression, and the program goes on and
 * exits with 1. */
#ifndef PAC_TESTING_H
#define PAC_TESTING_H

#include "future.h"

#include <stdio.h>
#include <stdlib.h>

static int testing_failures;
static int testing_tests;

#define CHECK(x)                                                                  \
    do {                                                                          \
        if (!(x)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #x); \
            testing_failures++;                                                   \
        }                                                                         \
    } while (0)

#define CHECK_INT(got, expected)                                                            \
    do {                                                                                    \
        long long testing_got = (long long)(got), testing_want = (long long)(expected);     \
        if (testing_got != testing_want) {                                                  \
            fprintf(stderr, "%s:%d: %s is %lld, expected %lld\n", __FILE__, __LINE__, #got, \
                    testing_got, testing_want);                                             \
            testing_failures++;                                                             \
        }                                                                                   \
    } while (0)

#define RUN(test)                                                                       \
    do {                                                                                \
        int testing_before = testing_failures;                                          \
        (test)();                                                                       \
        testing_tests++;                                                                \
        printf("%s %s\n", testing_failures == testing_before ? "ok  " : "FAIL", #test); \
    } while (0)

/* The plain closing line, and with PAC_DEBUG the check that nothing is left alive. */
static inline int
testing_result(void)
{
#ifdef PAC_DEBUG
    CHECK_INT(pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED), 0);
    CHECK_INT(pac_atomic_load(&pac_debug_counts.tasks, PAC_RELAXED), 0);
    CHECK_INT(pac_atomic_load(&pac_debug_counts.wakers, PAC_RELAXED), 0);
    CHECK_INT(pac_atomic_load(&pac_debug_counts.timers, PAC_RELAXED), 0);
    CHECK_INT(pac_atomic_load(&pac_debug_counts.waiters, PAC_RELAXED), 0);
#endif
    printf("%d passed, %d failed\n", testing_tests - (testing_failures != 0), testing_failures);
    return testing_failures != 0;
}
#define TESTING_RESULT() testing_result()

/* ---- out of memory ---------------------------------------------------------------------------- */

#ifdef PAC_DEBUG
/* Live through `life` with its first allocation failing, then its second, and so on, each of them
 * once and then with all that follow, until none fails any more. `life` says whether it got all
 * that it wanted; what it was refused it was told, and nothing of it is left. `at_least`: how many
 * allocations there are to fail. */
static inline void
check_without_memory(bool (*life)(void), uint64_t at_least)
{
    for (int once = 0; once < 2; once++) {
        bool complete = false;
        uint64_t n = 0;
        while (!complete && n < 10000) {
            int64_t before = pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED);
            pac_alloc_fail_after(++n, once);
            complete = life();
            pac_alloc_fail_after(0, false);
            CHECK_INT(pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED), before);
        }
        CHECK(complete && n > at_least);
    }
}
#endif

/* ---- a waker that counts each operation ----------------------------------------------------- */

struct counting_waker {
    PAC_ATOMIC(int) clones;
    PAC_ATOMIC(int) wakes; /* wake and wake_by_ref */
    PAC_ATOMIC(int) live;  /* owned wakers: the first one, + clones - wakes by value - drops */
};

static const struct pac_waker_vtable counting_waker_vtable;

static inline struct pac_waker
counting_clone(void *data)
{
    struct counting_waker *c = data;
    pac_atomic_add(&c->clones, 1, PAC_RELAXED);
    pac_atomic_add(&c->live, 1, PAC_RELAXED);
    return (struct pac_waker){&counting_waker_vtable, c};
}

static inline void
counting_wake_by_ref(void *data)
{
    struct counting_waker *c = data;
    pac_atomic_add(&c->wakes, 1, PAC_RELEASE);
}

static inline void
counting_wake(void *data)
{
    struct counting_waker *c = data;
    pac_atomic_add(&c->wakes, 1, PAC_RELEASE);
    pac_atomic_sub(&c->live, 1, PAC_RELAXED);
}

static inline void
counting_drop(void *data)
{
    struct counting_waker *c = data;
    pac_atomic_sub(&c->live, 1, PAC_RELAXED);
}

static const struct pac_waker_vtable counting_waker_vtable = {
    .clone = counting_clone,
    .wake = counting_wake,
    .wake_by_ref = counting_wake_by_ref,
    .drop = counting_drop,
};

/* The first waker is borrowed from *c: it is not counted in `live`, and need not be dropped. */
static inline struct pac_waker
counting_waker_init(struct counting_waker *c)
{
    pac_atomic_init(&c->clones, 0);
    pac_atomic_init(&c->wakes, 0);
    pac_atomic_init(&c->live, 0);
    return (struct pac_waker){&counting_waker_vtable, c};
}

static inline int
counting_wakes(struct counting_waker *c)
{
    return pac_atomic_load(&c->wakes, PAC_ACQUIRE);
}

static inline int
counting_live(struct counting_waker *c)
{
    return pac_atomic_load(&c->live, PAC_ACQUIRE);
}

static inline int
counting_clones(struct counting_waker *c)
{
    return pac_atomic_load(&c->clones, PAC_ACQUIRE);
}

#endif
