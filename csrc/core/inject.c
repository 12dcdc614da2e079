#include "inject.h"

/* Two nodes that are never queued, for their addresses. */
static struct pac_runnable parked_mark, closed_mark;
#define PARKED (&parked_mark)
#define CLOSED (&closed_mark)

void
pac_inject_init(struct pac_inject *q)
{
    pac_atomic_init(&q->newest, NULL);
}

enum pac_inject_result
pac_inject_push_chain(struct pac_inject *q, struct pac_runnable *newest,
                      struct pac_runnable *oldest)
{
    /* acquire, for CLOSED alone: pairs with the release in pac_inject_close. A producer reads no
     * node of another one. */
    struct pac_runnable *now = pac_atomic_load(&q->newest, PAC_ACQUIRE);
    do {
        if (now == CLOSED) {
            return PAC_INJECT_CLOSED;
        }
        oldest->next = now == PARKED ? NULL : now;
        /* release: the nodes, and what the waker wrote before, reach the owner; pairs with the
         * acquire in chain_to. A later push is an RMW on this one, so it carries this release on.
         */
    } while (!pac_atomic_cas_weak(&q->newest, &now, newest, PAC_RELEASE, PAC_ACQUIRE));
    return now == PARKED ? PAC_INJECT_UNPARK : PAC_INJECT_DONE;
}

enum pac_inject_result
pac_inject_push(struct pac_inject *q, struct pac_runnable *r)
{
    return pac_inject_push_chain(q, r, r);
}

/* Append the chain from `newest` back to the oldest to `to`, oldest first. */
static void
chain_to(struct pac_runnable *newest, struct pac_run_queue *to)
{
    struct pac_runnable *oldest = NULL;
    while (newest != NULL) {
        struct pac_runnable *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    while (oldest != NULL) {
        struct pac_runnable *next = oldest->next;
        pac_run_queue_push(to, oldest);
        oldest = next;
    }
}

void
pac_inject_take(struct pac_inject *q, struct pac_run_queue *to)
{
    /* acquire: pairs with the release of every push in the chain. */
    struct pac_runnable *newest = pac_atomic_exchange(&q->newest, NULL, PAC_ACQUIRE);
    PAC_ASSERT(newest != PARKED && newest != CLOSED);
    chain_to(newest, to);
}

bool
pac_inject_park(struct pac_inject *q)
{
    struct pac_runnable *empty = NULL;
    /* relaxed: the token carries no data, and one word alone decides who saw what. */
    return pac_atomic_cas(&q->newest, &empty, PARKED, PAC_RELAXED, PAC_RELAXED);
}

bool
pac_inject_unpark(struct pac_inject *q)
{
    struct pac_runnable *parked = PARKED;
    return !pac_atomic_cas(&q->newest, &parked, NULL, PAC_RELAXED, PAC_RELAXED);
}

void
pac_inject_close(struct pac_inject *q, struct pac_run_queue *rest)
{
    /* acquire: as in pac_inject_take. release: to the producers that are refused. */
    struct pac_runnable *newest = pac_atomic_exchange(&q->newest, CLOSED, PAC_ACQ_REL);
    PAC_ASSERT(newest != PARKED);
    if (newest != CLOSED) {
        chain_to(newest, rest);
    }
}
