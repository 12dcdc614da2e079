/* wake_group.h - many wake-ups as one.
 *
 * Whoever wakes a thousand tasks one by one may unpark their executor many times over: it goes to
 * sleep again between two of them. A group marks each task as notified when it is added, keeps the
 * tasks of each executor in a chain, and at the end pushes each chain at once, so that an executor
 * that sleeps is unparked once, by one write.
 *
 * Nothing here allocates or fails. A group belongs to one thread; what is woken may be anybody's. A
 * task that was added is not polled before the end, whoever else wakes it meanwhile, so the end
 * must come soon. */
#ifndef PAC_WAKE_GROUP_H
#define PAC_WAKE_GROUP_H

#include "task.h"

/* One more executor than these, and the chain that was begun first is pushed early. */
enum { PAC_WAKE_GROUP_CHAINS = PAC_SHRUNK(4, 1) };

/* The chain holds its tasks' queue references, so the scheduler's memory is there. */
struct pac_wake_chain {
    struct pac_scheduler *scheduler;
    struct pac_runnable *newest; /* linked by `next` down to `oldest` */
    struct pac_runnable *oldest;
};

struct pac_wake_group {
    unsigned count;
    struct pac_wake_chain chains[PAC_WAKE_GROUP_CHAINS];
};

static inline void
pac_wake_group_init(struct pac_wake_group *g)
{
    g->count = 0;
}

/* Takes the waker out of *w; an empty slot adds nothing. A waker that is no task's, or that of a
 * task whose executor is entered on this thread, is woken now. Hold no lock. */
void pac_wake_group_add(struct pac_wake_group *g, struct pac_waker *w);

/* Wake all that were added; the group is empty afterwards. Hold no lock. */
void pac_wake_group_wake(struct pac_wake_group *g);

#endif
