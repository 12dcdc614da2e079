/* broadcast.h - every receiver gets every value that was sent since it subscribed: Tokio's
 * broadcast.
 *
 * Sending never waits. The channel keeps the last `capacity` values for receivers that have not
 * seen them; one that is slower than that loses the oldest, is told once how many (PAC_LAGGED), and
 * goes on with the oldest that is left. A value that all have seen is given up at once.
 *
 * All of pac_broadcast_* may be called from any thread; a future is polled by one thread at a time.
 * Waiting allocates nothing, sending does. A pac_broadcast must outlive its receivers, its futures
 * and the calls on it.
 *
 * A value is a pointer with two hooks: `clone` gives one more value for the same thing, is called
 * under the lock and must be no more than the counting of a reference; `destroy` gives one up,
 * outside of any lock. */
#ifndef PAC_BROADCAST_H
#define PAC_BROADCAST_H

#include "waitlist.h"

struct pac_broadcast_node;

struct pac_broadcast {
    struct pac_lock lock;
    void *(*clone)(void *value);
    void (*destroy)(void *value);
    size_t capacity;
    PAC_CELL(struct pac_broadcast_node *) oldest; /* lock: a chain from here ... */
    PAC_CELL(struct pac_broadcast_node *) end;    /* lock: ... to here, where the next value goes */
    PAC_CELL(uint64_t) oldest_at; /* lock: its number, counting all that were sent */
    PAC_CELL(uint64_t) end_at;    /* lock: likewise */
    PAC_CELL(size_t) senders;     /* lock */
    PAC_CELL(size_t) receivers;   /* lock */
    struct pac_list receiving;    /* lock */
    struct pac_list closings;     /* lock: who waits for `closed` */
    PAC_CELL(bool) closed;        /* lock: there is no receiver */
};

struct pac_broadcast_receiver {
    struct pac_broadcast *channel;
    PAC_CELL(struct pac_broadcast_node *) next; /* lock: valid unless `at` is before oldest_at */
    PAC_CELL(uint64_t) at;                      /* lock: the number of the value to receive next */
    PAC_CELL(bool) gone;                        /* lock: unsubscribed */
};

/* One sender and no receiver to begin with. PAC_OK or PAC_NO_MEMORY. */
enum pac_status pac_broadcast_init(struct pac_broadcast *b, size_t capacity,
                                   void *(*clone)(void *value), void (*destroy)(void *value))
    PAC_MUST_USE;
void pac_broadcast_fini(struct pac_broadcast *b);

/* Give up all values; receivers that had not seen them lag. */
void pac_broadcast_clear(struct pac_broadcast *b);

/* ---- sending -------------------------------------------------------------------------------- */

void pac_broadcast_add_sender(struct pac_broadcast *b);
void pac_broadcast_drop_sender(struct pac_broadcast *b);

/* PAC_OK: *receivers will get it. PAC_CLOSED: there is no receiver; PAC_NO_MEMORY: in both cases
 * the value stays the caller's. */
enum pac_status pac_broadcast_send(struct pac_broadcast *b, void *value, size_t *receivers)
    PAC_MUST_USE;

/* True while there is no receiver, and the future that waits for it. */
bool pac_broadcast_is_closed(struct pac_broadcast *b);
void pac_broadcast_closed_init(struct pac_flag_wait *f, struct pac_broadcast *b);

/* ---- receiving ------------------------------------------------------------------------------ */

/* A receiver of what is sent from now on. */
void pac_broadcast_subscribe(struct pac_broadcast_receiver *r, struct pac_broadcast *b);

/* It receives nothing any more: PAC_CLOSED, also for who waits. Any number of times. */
void pac_broadcast_unsubscribe(struct pac_broadcast_receiver *r);

/* PAC_OK and *value; PAC_LAGGED and *skipped; PAC_EMPTY; PAC_CLOSED: nothing left, no sender. */
enum pac_status pac_broadcast_try_recv(struct pac_broadcast_receiver *r, void **value,
                                       uint64_t *skipped) PAC_MUST_USE;

/* How many values wait for this receiver, those that it has lost not counted. */
size_t pac_broadcast_length(struct pac_broadcast_receiver *r);

/* As pac_mpsc_visit: for a garbage collector. */
int pac_broadcast_visit(struct pac_broadcast *b, int (*visit)(void *value, void *arg), void *arg);

struct pac_broadcast_recv {
    struct pac_future future;
    struct pac_broadcast_receiver *receiver;
    struct pac_waiter waiter;
    enum pac_status status; /* once READY: PAC_OK, PAC_LAGGED or PAC_CLOSED */
    void *value;            /* PAC_OK */
    uint64_t skipped;       /* PAC_LAGGED */
};

void pac_broadcast_recv_init(struct pac_broadcast_recv *f, struct pac_broadcast_receiver *r);
enum pac_poll pac_broadcast_recv_poll(struct pac_broadcast_recv *f, struct pac_context *cx);
void pac_broadcast_recv_drop(struct pac_broadcast_recv *f);

#endif
