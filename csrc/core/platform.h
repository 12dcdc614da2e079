/* platform.h - the few things that the core needs from compiler and system: atomics, a small
 * lock, the monotonic clock, assertions, and allocation behind a hook.
 *
 * Every atomic access of the core goes through the macros below and names its memory order, so
 * that one file decides what an atomic is. A model checker gets its turn by replacing this file's
 * first half; nothing else in csrc/core mentions <stdatomic.h> or <pthread.h>. */
#ifndef PAC_PLATFORM_H
#define PAC_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- atomics -------------------------------------------------------------------------------- */

#ifdef PAC_MODEL
#include "platform_model.hpp" /* tests/model */
#else
#include <stdatomic.h>

#define PAC_ATOMIC(type) _Atomic(type)
/* A plain field that threads share by a protocol: a model watches it for races. */
#define PAC_CELL(type) type
/* The type of a PAC_THREAD_LOCAL variable of which each thread of a model has its own. */
#define PAC_TLS(type) type
/* A size that a model or the simulation makes small, so that it comes to the edge. */
#ifdef PAC_SIM
#define PAC_SHRUNK(normal, small) (small)
#else
#define PAC_SHRUNK(normal, small) (normal)
#endif

#define PAC_RELAXED memory_order_relaxed
#define PAC_ACQUIRE memory_order_acquire
#define PAC_RELEASE memory_order_release
#define PAC_ACQ_REL memory_order_acq_rel
#define PAC_SEQ_CST memory_order_seq_cst

#define pac_atomic_init(p, v) atomic_init((p), (v))
#define pac_atomic_load(p, order) atomic_load_explicit((p), (order))
#define pac_atomic_store(p, v, order) atomic_store_explicit((p), (v), (order))
#define pac_atomic_exchange(p, v, order) atomic_exchange_explicit((p), (v), (order))
#define pac_atomic_add(p, v, order) atomic_fetch_add_explicit((p), (v), (order))
#define pac_atomic_sub(p, v, order) atomic_fetch_sub_explicit((p), (v), (order))
#define pac_atomic_and(p, v, order) atomic_fetch_and_explicit((p), (v), (order))
#define pac_atomic_or(p, v, order) atomic_fetch_or_explicit((p), (v), (order))
/* Strong compare-exchange: on failure *expected is what was found, read with `fail` order. */
#define pac_atomic_cas(p, expected, desired, ok, fail) \
    atomic_compare_exchange_strong_explicit((p), (expected), (desired), (ok), (fail))
#define pac_atomic_cas_weak(p, expected, desired, ok, fail) \
    atomic_compare_exchange_weak_explicit((p), (expected), (desired), (ok), (fail))
#endif

/* One slot a thread. initial-exec: a single load instead of a call, and two pointers fit in the
 * space that the loader keeps for late-loaded modules. */
#if defined(PAC_MODEL)
#define PAC_THREAD_LOCAL
#elif defined(__GNUC__)
#define PAC_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define PAC_THREAD_LOCAL _Thread_local
#endif
#if defined(__GNUC__)
#define PAC_MUST_USE __attribute__((warn_unused_result))
#define PAC_LIKELY(x) __builtin_expect(!!(x), 1)
#define PAC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define PAC_MUST_USE
#define PAC_LIKELY(x) (x)
#define PAC_UNLIKELY(x) (x)
#endif

/* Start loading what `p` points to; NULL is fine. */
#if defined(__GNUC__)
#define pac_prefetch(p) __builtin_prefetch(p)
#else
#define pac_prefetch(p) ((void)(p))
#endif

#define PAC_CONTAINER_OF(ptr, type, member) \
    ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* ---- status --------------------------------------------------------------------------------- */

/* What a core function that can fail returns: zero, or one of these. Nothing is printed, errno is
 * left to the system calls, nothing exits. */
enum pac_status {
    PAC_OK = 0,
    PAC_NO_MEMORY = -1,
    PAC_CLOSED = -2,       /* the executor (or channel) has been closed */
    PAC_NO_EXECUTOR = -3,  /* no executor is entered on this thread */
    PAC_INTERRUPTED = -4,  /* a signal, or a hook, asked to stop waiting */
    PAC_OS_ERROR = -5,     /* a system call failed: see errno */
    PAC_BUSY = -6,         /* the executor is already running */
    PAC_FULL = -7,         /* a channel has no room now */
    PAC_EMPTY = -8,        /* a channel has nothing to receive now */
    PAC_LAGGED = -9,       /* a receiver was too slow: some values are gone */
    PAC_TIMED_OUT = -10,   /* the deadline came first */
    PAC_OVERFLOW = -11,    /* more was given back than there is room for */
    PAC_DEADLOCK = -12,    /* on a virtual clock: nothing is left to wait for */
    PAC_WOULD_BLOCK = -13, /* a descriptor has nothing, or no room, now */
};

/* ---- a lock for a few instructions ------------------------------------------------------------
 */

/* Guards lists of a handful of pointer writes; nothing that it guards calls out, allocates or
 * blocks. Spins, then yields the processor. Unlocking is a plain release store, which is what
 * makes it worth having beside a futex lock. Zero is unlocked. */
struct pac_lock {
    PAC_ATOMIC(unsigned char) held;
};

void pac_lock_contended(struct pac_lock *lock);

static inline void
pac_lock_acquire(struct pac_lock *lock)
{
    /* acquire: pairs with the release in pac_lock_release of the previous holder. */
    if (PAC_UNLIKELY(pac_atomic_exchange(&lock->held, 1, PAC_ACQUIRE) != 0)) {
        pac_lock_contended(lock);
    }
}

static inline void
pac_lock_release(struct pac_lock *lock)
{
    pac_atomic_store(&lock->held, 0, PAC_RELEASE);
}

/* ---- threads -------------------------------------------------------------------------------- */

/* call(arg). If that ends the thread (pthread_exit), undo(what) first: for what stands on its stack. */
void pac_call_or_undo(void (*call)(void *arg), void *arg, void (*undo)(void *what), void *what);

/* ---- time ----------------------------------------------------------------------------------- */

/* A deadline that never comes. */
#define PAC_NEVER UINT64_MAX

/* CLOCK_MONOTONIC in nanoseconds: the clock of Python's time.monotonic(). */
uint64_t pac_clock_ns(void);

/* A counter that is cheap to read and grows by at least 1e6 in a millisecond (the time stamp
 * counter where there is one, else nanoseconds): for "has about a millisecond gone by", never for
 * a deadline. */
uint64_t pac_ticks(void);

/* a + b, or PAC_NEVER where that would overflow. */
static inline uint64_t
pac_ns_add(uint64_t a, uint64_t b)
{
    return a > PAC_NEVER - b ? PAC_NEVER : a + b;
}

/* ---- allocation ----------------------------------------------------------------------------- */

/* All memory of the core. In a PAC_DEBUG build pac_alloc_fail_after makes the n-th next call
 * fail. */
void *pac_alloc(size_t size);
void pac_free(void *p);

/* ---- debugging ------------------------------------------------------------------------------ */

/* PAC_ASSERT guards against our own mistakes, in test and sanitizer builds only. What a user can
 * get wrong never reaches one. */
#if defined(PAC_MODEL)
#define PAC_ASSERT(x) RL_ASSERT(x)
#define PAC_COUNT(field, n) ((void)0)
#elif defined(PAC_DEBUG)
void pac_assert_failed(const char *expression, const char *file, int line);
#define PAC_ASSERT(x) ((x) ? (void)0 : pac_assert_failed(#x, __FILE__, __LINE__))

/* once: fail one allocation; otherwise fail that one and all after it. n = 0 turns it off. */
void pac_alloc_fail_after(uint64_t n, bool once);

/* Live objects of the core in this process; each is zero when all is torn down. */
struct pac_debug_counts {
    PAC_ATOMIC(int64_t) allocations;
    PAC_ATOMIC(int64_t) tasks;
    PAC_ATOMIC(int64_t) wakers; /* owned: of tasks, of blocked threads, of Python callables */
    PAC_ATOMIC(int64_t) timers;
    PAC_ATOMIC(int64_t) waiters;
};
extern struct pac_debug_counts pac_debug_counts;
#define PAC_COUNT(field, n) ((void)pac_atomic_add(&pac_debug_counts.field, (n), PAC_RELAXED))
#else
#define PAC_ASSERT(x) ((void)0)
#define PAC_COUNT(field, n) ((void)0)
#endif

#endif
