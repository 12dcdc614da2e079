/* mpsc.h - a channel of many values, first in, first out: Tokio's mpsc, bounded and unbounded.
 *
 * Senders wait while `capacity` values stand in the channel, and are let in in the order in which
 * they came: a receive that makes room moves the first waiting sender's value in itself. So a send
 * that is dropped either has sent its value or still has it. Receivers wait in a line of their own;
 * values go out in the order in which they came in, whoever takes them, and a receiver that was
 * woken and is dropped passes that on to the next one.
 *
 * Either side may close. Once all senders have gone, or the receiver has closed, what stands in the
 * channel can still be received, and then PAC_CLOSED is the answer.
 *
 * All of pac_mpsc_* may be called from any thread; a future is polled by one thread at a time, and
 * dropped by any. Waiting allocates nothing; sending does when the ring grows. A pac_mpsc must
 * outlive its futures and the calls on it.
 *
 * A value is a pointer, NULL too. It belongs to the channel from a successful send on, until it is
 * received; what is left over is given to `destroy`, outside of any lock. */
#ifndef PAC_MPSC_H
#define PAC_MPSC_H

#include "waitlist.h"

#define PAC_MPSC_UNBOUNDED SIZE_MAX

struct pac_mpsc {
    struct pac_lock lock;
    void (*destroy)(void *value);
    size_t capacity;
    PAC_CELL(void **) ring;    /* lock: `size` slots, a power of two or zero */
    PAC_CELL(size_t) size;     /* lock */
    PAC_CELL(size_t) head;     /* lock: where the oldest value stands, modulo size */
    PAC_CELL(size_t) length;   /* lock */
    PAC_CELL(size_t) senders;  /* lock: how many ends may still send */
    struct pac_list sending;   /* lock: sends that wait for room; only while it is full */
    struct pac_list receiving; /* lock: receives that wait and were not woken */
    struct pac_list woken;     /* lock: receives that were woken, one for a value, and not polled */
    PAC_CELL(size_t) woken_count; /* lock */
    struct pac_list closings;     /* lock: who waits for `closed` */
    PAC_CELL(bool) closed;        /* lock: by the receiver */
};

/* One sender to begin with. `destroy` may be NULL. */
void pac_mpsc_init(struct pac_mpsc *m, size_t capacity, void (*destroy)(void *value));

/* Destroys what is left over. No future may wait. */
void pac_mpsc_fini(struct pac_mpsc *m);

/* ---- sending -------------------------------------------------------------------------------- */

void pac_mpsc_add_sender(struct pac_mpsc *m);
void pac_mpsc_drop_sender(struct pac_mpsc *m);

/* PAC_OK; PAC_FULL, PAC_CLOSED, PAC_NO_MEMORY: the value stays the caller's. */
enum pac_status pac_mpsc_try_send(struct pac_mpsc *m, void *value) PAC_MUST_USE;

/* True once the receiver has closed, and the future that waits for it. */
bool pac_mpsc_is_closed(struct pac_mpsc *m);
void pac_mpsc_closed_init(struct pac_flag_wait *f, struct pac_mpsc *m);

enum pac_mpsc_send_state {
    PAC_MPSC_UNSENT,  /* not polled yet, or dropped: the value is the owner's */
    PAC_MPSC_WAITING, /* for room: likewise */
    PAC_MPSC_SENT,    /* the value is the channel's */
    PAC_MPSC_REFUSED, /* the receiver has closed: the value is the owner's */
};

struct pac_mpsc_send {
    struct pac_future future;
    struct pac_mpsc *channel;
    void *value;
    struct pac_waiter waiter;
    PAC_CELL(uint8_t) state; /* enum pac_mpsc_send_state; lock while WAITING */
    enum pac_status status;  /* once READY: PAC_OK, or the value is the owner's: PAC_CLOSED,
                               PAC_NO_MEMORY */
};

/* Its drop leaves the line. Afterwards pac_mpsc_send_was_sent tells whose the value is, and it may
 * be polled again: it then goes on where it was, and never sends twice. */
void pac_mpsc_send_init(struct pac_mpsc_send *f, struct pac_mpsc *m, void *value);
enum pac_poll pac_mpsc_send_poll(struct pac_mpsc_send *f, struct pac_context *cx);
void pac_mpsc_send_drop(struct pac_mpsc_send *f);
bool pac_mpsc_send_was_sent(struct pac_mpsc_send *f);

/* ---- receiving ------------------------------------------------------------------------------ */

/* Refuse values from now on. Sends that wait end with PAC_CLOSED. Any number of times. */
void pac_mpsc_close(struct pac_mpsc *m);

/* Close, and destroy what stands in the channel. */
void pac_mpsc_drop_receiver(struct pac_mpsc *m);

/* PAC_OK and *value; PAC_EMPTY; PAC_CLOSED: empty, and nothing will come. Does not wait its turn
 * behind receives that do. */
enum pac_status pac_mpsc_try_recv(struct pac_mpsc *m, void **value) PAC_MUST_USE;

/* How many values there are, which may change at once. */
size_t pac_mpsc_length(struct pac_mpsc *m);

/* Call visit(value, arg) for each value in the channel, until it returns other than 0; returns
 * that. Takes no lock: for a garbage collector that has stopped all others. */
int pac_mpsc_visit(struct pac_mpsc *m, int (*visit)(void *value, void *arg), void *arg);

struct pac_mpsc_recv {
    struct pac_future future;
    struct pac_mpsc *channel;
    void **values; /* where to write them; may be changed between polls */
    size_t limit;  /* at most so many, at least 1; likewise */
    size_t count;  /* once READY: how many were written */
    struct pac_waiter waiter;
    PAC_CELL(bool) was_woken; /* lock: stands in `woken` */
    enum pac_status status;   /* once READY: PAC_OK, or PAC_CLOSED and count is 0 */
};

/* Its drop leaves the line; it may be polled again after that. Values that it has written belong to
 * the caller of the poll. */
void pac_mpsc_recv_init(struct pac_mpsc_recv *f, struct pac_mpsc *m, void **values, size_t limit);
enum pac_poll pac_mpsc_recv_poll(struct pac_mpsc_recv *f, struct pac_context *cx);
void pac_mpsc_recv_drop(struct pac_mpsc_recv *f);

#endif
