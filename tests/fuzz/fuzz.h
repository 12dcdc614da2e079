/* fuzz.h - what the fuzzers share: an input is a program, read byte by byte; a check that does not
 * hold ends it; a waker that notes whether it was woken.
 *
 * A fuzzer is a file with LLVMFuzzerTestOneInput. It does what the bytes say to a piece of the core
 * and to an oracle beside it, the same thing done in the plainest way there is, and compares. */
#ifndef PAC_FUZZ_H
#define PAC_FUZZ_H

#include "future.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(x)                                                             \
    do {                                                                          \
        if (!(x)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                              \
        }                                                                         \
    } while (0)

/* ---- the input -------------------------------------------------------------------------------- */

struct input {
    const uint8_t *next, *end;
};

static inline bool
input_is_over(const struct input *in)
{
    return in->next == in->end;
}

/* After the end: zeros. */
static inline uint8_t
input_byte(struct input *in)
{
    return input_is_over(in) ? 0 : *in->next++;
}

static inline size_t
input_below(struct input *in, size_t n)
{
    return input_byte(in) % n;
}

static inline uint64_t
input_word(struct input *in)
{
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) {
        word = word << 8 | input_byte(in);
    }
    return word;
}

/* ---- a future with a waker -------------------------------------------------------------------- */

struct polled {
    struct pac_future *future;
    bool waits; /* its last poll was PENDING */
    bool woken; /* since */
    int wakers;
};

static const struct pac_waker_vtable polled_waker_vtable;

static inline struct pac_waker
polled_clone(void *data)
{
    struct polled *p = data;
    p->wakers++;
    return (struct pac_waker){&polled_waker_vtable, p};
}

static inline void
polled_wake_by_ref(void *data)
{
    struct polled *p = data;
    p->woken = true;
}

static inline void
polled_drop(void *data)
{
    struct polled *p = data;
    FUZZ_CHECK(p->wakers-- > 0);
}

static inline void
polled_wake(void *data)
{
    polled_wake_by_ref(data);
    polled_drop(data);
}

static const struct pac_waker_vtable polled_waker_vtable = {
    .clone = polled_clone,
    .wake = polled_wake,
    .wake_by_ref = polled_wake_by_ref,
    .drop = polled_drop,
};

static inline enum pac_poll
polled_poll(struct polled *p)
{
    struct pac_waker waker = {&polled_waker_vtable, p};
    struct pac_context cx = {&waker};
    p->woken = false;
    enum pac_poll poll = pac_future_poll(p->future, &cx);
    p->waits = poll == PAC_PENDING;
    return poll;
}

/* No waker of it is left anywhere. */
static inline void
polled_end(struct polled *p)
{
    pac_future_drop(p->future);
    FUZZ_CHECK(p->wakers == 0);
    *p = (struct polled){NULL, false, false, 0};
}

#endif
