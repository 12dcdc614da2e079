#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "platform.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#endif

/* How often to look at a held lock before giving the processor away: the holder needs tens of
 * nanoseconds, unless it lost its processor, and then only yielding helps. */
enum { SPINS_BEFORE_YIELD = 64 };

static inline void
pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

void
pac_lock_contended(struct pac_lock *lock)
{
    unsigned spins = 0;
    do {
        /* Look without writing, so that the cache line stays with the holder. */
        while (pac_atomic_load(&lock->held, PAC_RELAXED) != 0) {
            if (++spins < SPINS_BEFORE_YIELD) {
                pause_briefly();
            }
            else {
                sched_yield();
            }
        }
        /* acquire: pairs with the release in pac_lock_release. */
    } while (pac_atomic_exchange(&lock->held, 1, PAC_ACQUIRE) != 0);
}

void
pac_call_or_undo(void (*call)(void *arg), void *arg, void (*undo)(void *what), void *what)
{
    pthread_cleanup_push(undo, what);
    call(arg);
    pthread_cleanup_pop(0);
}

uint64_t
pac_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t
pac_ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __rdtsc();
#else
    return pac_clock_ns();
#endif
}

#ifdef PAC_DEBUG

#include <stdio.h>

struct pac_debug_counts pac_debug_counts;
static PAC_ATOMIC(uint64_t) fail_countdown;
static PAC_ATOMIC(bool) fail_once;

void
pac_assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}

void
pac_alloc_fail_after(uint64_t n, bool once)
{
    pac_atomic_store(&fail_once, once, PAC_RELAXED);
    pac_atomic_store(&fail_countdown, n, PAC_RELAXED);
}

static bool
allocation_must_fail(void)
{
    uint64_t left = pac_atomic_load(&fail_countdown, PAC_RELAXED);
    if (left == 0) {
        return false;
    }
    if (left > 1) {
        pac_atomic_store(&fail_countdown, left - 1, PAC_RELAXED);
        return false;
    }
    if (pac_atomic_load(&fail_once, PAC_RELAXED)) {
        pac_atomic_store(&fail_countdown, 0, PAC_RELAXED);
    }
    return true;
}
#endif

void *
pac_alloc(size_t size)
{
#ifdef PAC_DEBUG
    if (allocation_must_fail()) {
        return NULL;
    }
#endif
    void *p = malloc(size);
    if (p != NULL) {
        PAC_COUNT(allocations, 1);
    }
    return p;
}

void
pac_free(void *p)
{
    if (p != NULL) {
        PAC_COUNT(allocations, -1);
    }
    free(p);
}
