/* shuffle.h - a pseudo-random order of what is ready, which the same seed repeats.
 *
 * To find bugs that depend on the order in which tasks run: any order that tasks could come in, if
 * they had been woken a little later, may be the one. A task is only ever put back. So:
 *
 *  - tasks change places with one another as chance will have it;
 *  - everything else (callbacks, requests of other threads) keeps its order among itself, which
 *    programs rely on;
 *  - a task runs after whatever else stood before it: it has been queued earlier. It may run after
 *    what stood behind it, and may be put off to the next pass. */
#ifndef PAC_SHUFFLE_H
#define PAC_SHUFFLE_H

#include "runnable.h"

struct pac_random {
    uint64_t state;
};

/* The next 64 bits; splitmix64, of which every seed is a good one. */
static inline uint64_t
pac_random_next(struct pac_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A number below `n`, which is not 0. */
static inline size_t
pac_random_below(struct pac_random *random, size_t n)
{
    return (size_t)(pac_random_next(random) % n);
}

/* Memory for the order, which grows with the longest queue. {NULL, 0} to begin with. */
struct pac_shuffle {
    struct pac_runnable **held;
    size_t slots;
};

void pac_shuffle_fini(struct pac_shuffle *s);

/* Bring `queue` into such an order; what has `task` for its vtable is a task. Returns how many from
 * its front are to be run in this pass: at least one, if there is any. No memory: all of it, in
 * the order in which it was. */
size_t pac_shuffle_queue(struct pac_shuffle *s, struct pac_run_queue *queue,
                         const struct pac_runnable_vtable *task, struct pac_random *random);

#endif
