/* inject.h - the way from any thread into one executor: a many-producer queue that also knows
 * whether the executor sleeps.
 *
 * All is in one word: empty, PARKED (empty, and the owner sleeps), CLOSED, or the newest of a
 * chain of nodes. A producer that finds PARKED takes it away by pushing, and so exactly one
 * producer a sleep learns that it has to unpark the owner; there is no second flag that could
 * disagree. The owner takes the whole chain at once and turns it round, so the order is that of
 * the pushes.
 *
 * Stands for Tokio's Inject, and for the unpark token of its parker. */
#ifndef PAC_INJECT_H
#define PAC_INJECT_H

#include "runnable.h"

struct pac_inject {
    PAC_ATOMIC(struct pac_runnable *) newest;
};

enum pac_inject_result {
    PAC_INJECT_DONE,
    PAC_INJECT_UNPARK, /* pushed; the owner sleeps, and waking it is this caller's duty */
    PAC_INJECT_CLOSED, /* not pushed; what the owner did before it closed is visible */
};

void pac_inject_init(struct pac_inject *q);

/* [any thread] After DONE, neither `q` nor `r` may be touched: both may be gone. */
PAC_MUST_USE enum pac_inject_result pac_inject_push(struct pac_inject *q, struct pac_runnable *r);

/* [any thread] The same for a chain, as if each had been pushed in turn: linked by `next` from the
 * newest to the oldest. After CLOSED it is linked as before, the oldest's `next` apart. */
PAC_MUST_USE enum pac_inject_result pac_inject_push_chain(struct pac_inject *q,
                                                          struct pac_runnable *newest,
                                                          struct pac_runnable *oldest);

/* Owner: is there something to take? A hint: a push may be under way. */
static inline bool
pac_inject_has_work(struct pac_inject *q)
{
    /* relaxed: who acts on it goes through pac_inject_take. */
    return pac_atomic_load(&q->newest, PAC_RELAXED) != NULL;
}

/* Owner: append everything to `to`, oldest first. Not while parked. */
void pac_inject_take(struct pac_inject *q, struct pac_run_queue *to);

/* Owner: go to sleep. False: there is work, and nothing changed. */
PAC_MUST_USE bool pac_inject_park(struct pac_inject *q);

/* Owner: awake again. True: a producer took the token away, so it has unparked or is about to. */
bool pac_inject_unpark(struct pac_inject *q);

/* Owner: refuse all later pushes, and append what there is to `rest`. */
void pac_inject_close(struct pac_inject *q, struct pac_run_queue *rest);

#endif
