/* runnable.h - what stands in a ready queue, and the queue.
 *
 * A task, an expired callback, a request from another thread: whatever an executor can run is a
 * node with two functions, and all of them go through one FIFO. The node belongs to whoever
 * queued it, who keeps it in place until it was run or discarded; it is in at most one queue at a
 * time. */
#ifndef PAC_RUNNABLE_H
#define PAC_RUNNABLE_H

#include "platform.h"

struct pac_runnable;

/* Either is called once for each time that the node was queued, with the node out of the queue,
 * on the executor's thread. */
struct pac_runnable_vtable {
    void (*run)(struct pac_runnable *r);
    void (*discard)(struct pac_runnable *r); /* the executor closes: let go without running */
};

struct pac_runnable {
    PAC_CELL(struct pac_runnable *) next; /* whoever holds the queue that it is in */
    const struct pac_runnable_vtable *vtable;
};

/* First in, first out; one thread's. */
struct pac_run_queue {
    struct pac_runnable *first;
    struct pac_runnable *last; /* meaningless while first is NULL */
    size_t length;
};

static inline void
pac_run_queue_init(struct pac_run_queue *q)
{
    q->first = q->last = NULL;
    q->length = 0;
}

static inline void
pac_run_queue_push(struct pac_run_queue *q, struct pac_runnable *r)
{
    r->next = NULL;
    if (q->first == NULL) {
        q->first = r;
    }
    else {
        q->last->next = r;
    }
    q->last = r;
    q->length++;
}

/* NULL: empty. */
static inline struct pac_runnable *
pac_run_queue_pop(struct pac_run_queue *q)
{
    struct pac_runnable *r = q->first;
    if (r != NULL) {
        q->first = r->next;
        q->length--;
    }
    return r;
}

#endif
