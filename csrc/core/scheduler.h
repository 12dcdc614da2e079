/* scheduler.h - where a wake-up goes: the part of an executor that other threads may reach, and
 * that must outlive it.
 *
 * On the executor's own thread a runnable goes straight to the ready queue; from any other it
 * goes through the inject queue, and the executor is unparked if it sleeps.
 *
 * Lifetime. A waker may be used long after its executor has closed, and it reaches the scheduler
 * through its task. So the memory is counted: one reference is the executor's, one is held by
 * each block of memory that was allocated for a task or a timer entry. Blocks are kept in pools
 * while the executor lives, so that spawning again counts nothing. */
#ifndef PAC_SCHEDULER_H
#define PAC_SCHEDULER_H

#include "inject.h"

/* Blocks of one size, linked by their first word; the owner's. */
struct pac_pool {
    void *first;
    size_t length;
};

enum { PAC_POOL_MAX = 65536 }; /* blocks kept; more go back to the allocator */

struct pac_scheduler {
    struct pac_run_queue ready;              /* owner */
    struct pac_inject inject;                /* any thread */
    size_t tasks_alive;                      /* owner */
    void (*unpark)(struct pac_scheduler *s); /* any thread, if a push said so; writes once */
    uint64_t wakes;                /* owner: tasks queued by a wake-up on its own thread */
    PAC_ATOMIC(size_t) references; /* any thread */
    void (*free)(struct pac_scheduler *s);
};

/* The scheduler whose executor is entered on this thread, or NULL. */
extern PAC_THREAD_LOCAL PAC_TLS(struct pac_scheduler *) pac_current_scheduler;

void pac_scheduler_init(struct pac_scheduler *s, void (*unpark)(struct pac_scheduler *),
                        void (*free)(struct pac_scheduler *));

/* [any thread] PAC_CLOSED: the executor has closed and `r` was not queued; it is the caller's
 * still. */
PAC_MUST_USE enum pac_status pac_scheduler_inject(struct pac_scheduler *s, struct pac_runnable *r);

/* [any thread] The same for a chain, as pac_inject_push_chain takes it: at most one unpark. */
PAC_MUST_USE enum pac_status pac_scheduler_inject_chain(struct pac_scheduler *s,
                                                        struct pac_runnable *newest,
                                                        struct pac_runnable *oldest);

/* [any thread] Queue `r` at the back. */
PAC_MUST_USE static inline enum pac_status
pac_scheduler_submit(struct pac_scheduler *s, struct pac_runnable *r)
{
    if (PAC_LIKELY(pac_current_scheduler == s)) {
        s->wakes++;
        pac_run_queue_push(&s->ready, r);
        return PAC_OK;
    }
    return pac_scheduler_inject(s, r);
}

/* A block of `size` bytes for a task or timer entry of this scheduler: from the pool on its own
 * thread, else from the allocator. NULL: no memory. */
void *pac_scheduler_block_new(struct pac_scheduler *s, struct pac_pool *pool, size_t size);

/* [any thread] Give a block back. The scheduler itself may be gone afterwards. */
void pac_scheduler_block_free(struct pac_scheduler *s, struct pac_pool *pool, void *block);

/* Owner, when closing: give the pool's blocks back to the allocator. */
void pac_scheduler_pool_drain(struct pac_scheduler *s, struct pac_pool *pool);

/* [any thread] One more reference to the memory, by whoever knows that it is there. */
static inline void
pac_scheduler_ref(struct pac_scheduler *s)
{
    /* relaxed: another reference keeps the count above zero. */
    pac_atomic_add(&s->references, 1, PAC_RELAXED);
}

/* [any thread] Give up a reference; the last one frees. */
void pac_scheduler_unref(struct pac_scheduler *s);

#endif
