/* semaphore.h - permits that tasks take and give back; fair, in batches, closable.
 *
 * Who asks for n permits waits until it has all of them. Waiting is first come, first served:
 * what is given back goes to the oldest waiter, piece by piece if it waits for many, so that
 * nobody who wants few overtakes it, and none starves. An acquire that is dropped gives back what
 * it had been assigned.
 *
 * All functions may be called from any thread; a single pac_acquire is polled by one thread at a
 * time, and may be dropped by another. What was written before permits are given back is visible
 * to who takes them. Nothing allocates. A pac_semaphore must outlive its futures
 * and the calls that release or close it.
 *
 * Stands for Tokio's batch semaphore, which its Semaphore, Mutex and RwLock are made of. */
#ifndef PAC_SEMAPHORE_H
#define PAC_SEMAPHORE_H

#include "budget.h"
#include "future.h"
#include "list.h"

/* The most permits that a semaphore may have. */
#define PAC_SEMAPHORE_MAX (UINT64_MAX >> 3)

struct pac_semaphore {
    struct pac_lock lock;
    PAC_CELL(bool) closed;        /* lock */
    PAC_CELL(uint64_t) available; /* lock: permits that nobody has, nor was assigned */
    uint64_t limit;               /* `available` never exceeds it */
    struct pac_list waiters;      /* lock: oldest first */
};

enum pac_acquire_state {
    PAC_ACQUIRE_INIT,    /* made, not yet waiting */
    PAC_ACQUIRE_WAITING, /* in the list, or marked and not yet looked at */
    PAC_ACQUIRE_DONE,
};

struct pac_acquire {
    struct pac_future future; /* READY: see pac_acquire_poll */
    struct pac_semaphore *semaphore;
    uint64_t wanted;
    PAC_CELL(uint64_t) missing; /* lock, while linked: of `wanted`, not assigned yet */
    struct pac_list_node node;  /* lock */
    struct pac_waker waker;     /* as in pac_notified: written by the poller, under the lock while
                                  linked; setting the mark of a linked one takes it away */
    PAC_ATOMIC(uint8_t) mark;   /* none, granted, closed; final once set */
    uint8_t state;              /* enum pac_acquire_state; the poller's */
};

/* `permits` at first, and never more than `limit` available: 1 <= limit <= PAC_SEMAPHORE_MAX,
 * permits <= limit. */
void pac_semaphore_init(struct pac_semaphore *s, uint64_t permits, uint64_t limit);

/* Give back, or add, n permits. PAC_OVERFLOW: more than `limit` would be available; nothing was
 * done. Allowed after closing too. */
PAC_MUST_USE enum pac_status pac_semaphore_release(struct pac_semaphore *s, uint64_t n);

/* Take n permits now. PAC_BUSY: there are too few, or others wait; PAC_CLOSED. */
PAC_MUST_USE enum pac_status pac_semaphore_try_acquire(struct pac_semaphore *s, uint64_t n);

/* Take up to n available permits out of the world; returns how many. */
uint64_t pac_semaphore_forget(struct pac_semaphore *s, uint64_t n);

/* From now on each acquire ends with PAC_CLOSED, those that wait now too; what was assigned to them
 * is available again. Closing twice is a no-op. */
void pac_semaphore_close(struct pac_semaphore *s);
bool pac_semaphore_is_closed(struct pac_semaphore *s);

uint64_t pac_semaphore_available(struct pac_semaphore *s);
size_t pac_semaphore_waiters(struct pac_semaphore *s); /* counts them: O(n), to be looked at */

/* A future that takes n permits, 1 <= n <= PAC_SEMAPHORE_MAX. It stands in the line from its first
 * poll on. */
void pac_acquire_init(struct pac_acquire *a, struct pac_semaphore *s, uint64_t n);

/* READY: pac_acquire_status is PAC_OK, and then the permits are the caller's, to be given back by
 * pac_semaphore_release; or it is PAC_CLOSED. */
enum pac_poll pac_acquire_poll(struct pac_acquire *a, struct pac_context *cx);
enum pac_status pac_acquire_status(struct pac_acquire *a);

/* Leave the line, give back what was assigned; if it was READY, do nothing. By the vtable too;
 * afterwards it is DONE. */
void pac_acquire_drop(struct pac_acquire *a);

#endif
