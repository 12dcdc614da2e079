/* barrier.h - wait until a number of parties has come.
 *
 * A wait arrives at its first poll. The one that completes the number is the leader, and lets all
 * of them go on; the barrier can then be used again, by anybody. A wait that is dropped before that
 * does not count: its place is free again (in Tokio it is lost). What each party wrote before it
 * arrived is visible to all of them afterwards.
 *
 * All functions may be called from any thread; a single pac_barrier_wait is polled by one thread at
 * a time. Nothing allocates. A pac_barrier must outlive its waits. Stands for Tokio's Barrier. */
#ifndef PAC_BARRIER_H
#define PAC_BARRIER_H

#include "notify.h"

struct pac_barrier {
    struct pac_lock lock;
    uint64_t parties;
    PAC_CELL(uint64_t) arrived;      /* lock: of the present generation, not dropped since */
    PAC_ATOMIC(uint64_t) generation; /* how often it has opened: written under the lock */
    struct pac_notify notify;
};

enum pac_barrier_wait_state {
    PAC_BARRIER_INIT,
    PAC_BARRIER_ARRIVED,
    PAC_BARRIER_DONE,
};

struct pac_barrier_wait {
    struct pac_future future;
    struct pac_barrier *barrier;
    uint64_t generation; /* that it has arrived in */
    struct pac_notified notified;
    uint8_t state;  /* enum pac_barrier_wait_state; the poller's */
    bool is_leader; /* once READY: it came last */
};

/* 0 parties are as 1: nobody waits. */
void pac_barrier_init(struct pac_barrier *b, uint64_t parties);

/* How many wait now. */
uint64_t pac_barrier_arrived(struct pac_barrier *b);

void pac_barrier_wait_init(struct pac_barrier_wait *w, struct pac_barrier *b);
enum pac_poll pac_barrier_wait_poll(struct pac_barrier_wait *w, struct pac_context *cx);

/* By the vtable too; afterwards it is DONE. */
void pac_barrier_wait_drop(struct pac_barrier_wait *w);

#endif
