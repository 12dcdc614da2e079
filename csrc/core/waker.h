/* waker.h - the right to have one task polled again.
 *
 * A waker is two words, passed by value: a vtable and the data that it works on. Each *owned*
 * waker stands for one reference; clone makes another, wake and drop give one up, wake_by_ref
 * keeps it.
 *
 * All four may be called from any thread, at any time, also after what they wake has ended; none
 * allocates, none fails, none blocks for longer than a few instructions. Dropping or waking may
 * run anything (the data's destructor, another thread's queue), so never do either while holding
 * a lock that they could want.
 *
 * Stands for Rust's RawWaker, RawWakerVTable and Waker. */
#ifndef PAC_WAKER_H
#define PAC_WAKER_H

#include "platform.h"

struct pac_waker;

/* One instance per kind of waker: pac_waker_will_wake compares addresses. No entry may be NULL. */
struct pac_waker_vtable {
    struct pac_waker (*clone)(void *data); /* one more owned waker for the same task */
    void (*wake)(void *data);              /* wake, giving up the reference */
    void (*wake_by_ref)(void *data);       /* wake, keeping it */
    void (*drop)(void *data);              /* give up the reference */
};

/* vtable == NULL: no waker at all (an empty slot). */
struct pac_waker {
    PAC_CELL(const struct pac_waker_vtable *) vtable;
    PAC_CELL(void *) data;
};

#define PAC_NO_WAKER ((struct pac_waker){NULL, NULL})

/* A waker that does nothing; cloning it costs nothing either. */
extern const struct pac_waker pac_noop_waker;

static inline bool
pac_waker_is_set(const struct pac_waker *w)
{
    return w->vtable != NULL;
}

/* True: waking one is waking the other. False promises nothing. */
static inline bool
pac_waker_will_wake(const struct pac_waker *a, const struct pac_waker *b)
{
    return a->data == b->data && a->vtable == b->vtable;
}

static inline struct pac_waker
pac_waker_clone(const struct pac_waker *w)
{
    return w->vtable->clone(w->data);
}

static inline void
pac_waker_wake_by_ref(const struct pac_waker *w)
{
    w->vtable->wake_by_ref(w->data);
}

/* These two take the waker out of *w, which is an empty slot afterwards; an empty slot is left as
 * it is. */
static inline void
pac_waker_wake(struct pac_waker *w)
{
    struct pac_waker taken = *w;
    *w = PAC_NO_WAKER;
    if (taken.vtable != NULL) {
        taken.vtable->wake(taken.data);
    }
}

static inline void
pac_waker_drop(struct pac_waker *w)
{
    struct pac_waker taken = *w;
    *w = PAC_NO_WAKER;
    if (taken.vtable != NULL) {
        taken.vtable->drop(taken.data);
    }
}

/* Wakers collected while a lock is held, to be woken once it is released. */
enum { PAC_WAKE_BATCH = PAC_SHRUNK(32, 2) };

struct pac_wake_batch {
    unsigned count;
    struct pac_waker wakers[PAC_WAKE_BATCH];
};

static inline void
pac_wake_batch_init(struct pac_wake_batch *b)
{
    b->count = 0;
}

static inline bool
pac_wake_batch_is_full(const struct pac_wake_batch *b)
{
    return b->count == PAC_WAKE_BATCH;
}

/* Takes the waker out of *w; an empty slot adds nothing. The batch must not be full. */
static inline void
pac_wake_batch_add(struct pac_wake_batch *b, struct pac_waker *w)
{
    PAC_ASSERT(!pac_wake_batch_is_full(b));
    if (pac_waker_is_set(w)) {
        b->wakers[b->count++] = *w;
        *w = PAC_NO_WAKER;
    }
}

/* Wake all, in the order in which they were added; the batch is empty afterwards. Hold no lock. */
static inline void
pac_wake_batch_wake(struct pac_wake_batch *b)
{
    unsigned count = b->count;
    b->count = 0;
    for (unsigned i = 0; i < count; i++) {
        pac_waker_wake(&b->wakers[i]);
    }
}

#endif
