/* blocking.c - a thread that sleeps on a futex word.
 *
 *            unpark                     park
 *   EMPTY ----------> TOKEN   EMPTY ------------> PARKED --unpark: wake the thread--> TOKEN
 *     ^                 |
 *     +---- park -------+   takes the token and does not sleep
 *
 * A waker may be kept by others long after the wait has ended, so the word has an allocation of its
 * own with a count of references. The futex lives here, and nothing else of the core knows it.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"

#include "budget.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EMPTY, TOKEN, PARKED };

struct parker {
    PAC_ATOMIC(uint32_t) word;
    PAC_ATOMIC(uint32_t) references;
};

/* ---- the futex ------------------------------------------------------------------------------ */

#ifndef PAC_MODEL
/* Sleep while *word is `value`, until a wake, a signal or `deadline_ns`. 0, or what errno says. */
static int
word_wait(PAC_ATOMIC(uint32_t) *word, uint32_t value, uint64_t deadline_ns)
{
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / 1000000000u),
        .tv_nsec = (long)(deadline_ns % 1000000000u),
    };
    /* The bitset form takes an absolute time of CLOCK_MONOTONIC. */
    long slept = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value,
                         deadline_ns == PAC_NEVER ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
    return slept < 0 ? errno : 0;
}

static void
word_wake(PAC_ATOMIC(uint32_t) *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
#endif

/* ---- the waker ------------------------------------------------------------------------------ */

static void
parker_drop(void *data)
{
    struct parker *p = data;
    PAC_COUNT(wakers, -1);
    /* acq_rel: whoever frees it comes after all others have let go. */
    if (pac_atomic_sub(&p->references, 1, PAC_ACQ_REL) == 1) {
        pac_free(p);
    }
}

static void
parker_wake_by_ref(void *data)
{
    struct parker *p = data;
    /* release: what was written before the wake; pairs with the acquire in park. */
    if (pac_atomic_exchange(&p->word, TOKEN, PAC_RELEASE) == PARKED) {
        word_wake(&p->word);
    }
}

static void
parker_wake(void *data)
{
    parker_wake_by_ref(data);
    parker_drop(data);
}

static struct pac_waker parker_clone(void *data);

static const struct pac_waker_vtable parker_waker_vtable = {
    .clone = parker_clone,
    .wake = parker_wake,
    .wake_by_ref = parker_wake_by_ref,
    .drop = parker_drop,
};

static struct pac_waker
parker_clone(void *data)
{
    struct parker *p = data;
    /* relaxed: who clones holds a reference. */
    pac_atomic_add(&p->references, 1, PAC_RELAXED);
    PAC_COUNT(wakers, 1);
    return (struct pac_waker){&parker_waker_vtable, p};
}

/* ---- sleeping ------------------------------------------------------------------------------- */

/* PAC_OK: there was a token, and it is taken. */
static enum pac_status
park(struct parker *p, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t word = EMPTY;
        if (!pac_atomic_cas(&p->word, &word, PARKED, PAC_RELAXED, PAC_RELAXED) && word == TOKEN) {
            /* acquire: pairs with the release in parker_wake_by_ref. Only this thread takes
             * tokens, so the store loses none that it has not seen. */
            pac_atomic_exchange(&p->word, EMPTY, PAC_ACQUIRE);
            return PAC_OK;
        }
        int error = word_wait(&p->word, PARKED, deadline_ns);
        if (pac_atomic_load(&p->word, PAC_RELAXED) == TOKEN) {
            continue;
        }
        if (error == EINTR) {
            return PAC_INTERRUPTED;
        }
        if (error == ETIMEDOUT) {
            return PAC_TIMED_OUT;
        }
    }
}

enum pac_status
pac_blocking_wait(struct pac_future *f, uint64_t deadline_ns,
                  const struct pac_blocking_hooks *hooks)
{
    struct parker *p = NULL;
    enum pac_status status = PAC_OK;
    int budget = pac_budget_left;

    pac_budget_left = PAC_BUDGET_UNLIMITED;
    p = pac_alloc(sizeof *p);
    if (p == NULL) {
        pac_budget_left = budget;
        return PAC_NO_MEMORY;
    }
    pac_atomic_init(&p->word, EMPTY);
    pac_atomic_init(&p->references, 1);
    PAC_COUNT(wakers, 1);
    struct pac_waker waker = {&parker_waker_vtable, p};
    struct pac_context cx = {&waker};
    for (;;) {
        /* Also after the deadline: what came in time is not lost. */
        if (pac_future_poll(f, &cx) == PAC_READY) {
            status = PAC_OK;
            break;
        }
        if (status == PAC_TIMED_OUT) {
            break;
        }
        if (hooks != NULL) {
            hooks->leave(hooks->arg);
        }
        do {
            status = park(p, deadline_ns);
        } while (hooks == NULL && status == PAC_INTERRUPTED);
        if (hooks != NULL && !hooks->enter(hooks->arg, status == PAC_INTERRUPTED)) {
            status = PAC_INTERRUPTED;
            break;
        }
    }
    pac_waker_drop(&waker);
    pac_budget_left = budget;
    return status;
}
