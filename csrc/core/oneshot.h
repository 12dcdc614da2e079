/* oneshot.h - a channel for one value: Tokio's oneshot.
 *
 * Sending never waits. The receiver's future is READY once there is a value, or none can come any
 * more. All of pac_oneshot_* may be called from any thread; a future is polled by one thread at a
 * time. Nothing allocates. A pac_oneshot must outlive its futures and the calls on it.
 *
 * A value is a pointer. From a successful send on it belongs to the channel, until it is received;
 * what is left over is given to `destroy`, outside of any lock. NULL is a value like any other. */
#ifndef PAC_ONESHOT_H
#define PAC_ONESHOT_H

#include "waitlist.h"

struct pac_oneshot {
    struct pac_lock lock;
    void (*destroy)(void *value);
    struct pac_list receivers;  /* lock */
    struct pac_list closings;   /* lock: who waits for `closed` */
    PAC_CELL(void *) value;     /* lock */
    PAC_CELL(bool) sent;        /* lock: send was called with success */
    PAC_CELL(bool) has_value;   /* lock: and the value has not been taken */
    PAC_CELL(bool) sender_gone; /* lock */
    PAC_CELL(bool) closed;      /* lock: the receiver takes no value any more */
};

struct pac_oneshot_recv {
    struct pac_future future;
    struct pac_oneshot *channel;
    struct pac_waiter waiter;
    enum pac_status status; /* once READY: PAC_OK, or PAC_CLOSED and no value */
    void *value;            /* PAC_OK: the caller's */
};

/* `destroy` may be NULL. */
void pac_oneshot_init(struct pac_oneshot *o, void (*destroy)(void *value));

/* Destroys a value that is left over. */
void pac_oneshot_fini(struct pac_oneshot *o);

/* PAC_OK; PAC_CLOSED: the receiver has gone, and the value stays the caller's; PAC_FULL: a value
 * was sent before, likewise. */
enum pac_status pac_oneshot_send(struct pac_oneshot *o, void *value) PAC_MUST_USE;

/* No value will be sent any more: without one, the receiver is done. Any number of times. */
void pac_oneshot_drop_sender(struct pac_oneshot *o);

/* Refuse a value from now on; one that was sent can still be taken. Any number of times. */
void pac_oneshot_close(struct pac_oneshot *o);

/* Close, and destroy a value that was sent. */
void pac_oneshot_drop_receiver(struct pac_oneshot *o);

/* PAC_OK and *value; PAC_EMPTY: not yet; PAC_CLOSED: never. */
enum pac_status pac_oneshot_try_recv(struct pac_oneshot *o, void **value) PAC_MUST_USE;

bool pac_oneshot_is_closed(struct pac_oneshot *o);

/* Ready once the receiver has closed. */
void pac_oneshot_closed_init(struct pac_flag_wait *f, struct pac_oneshot *o);

/* Its drop leaves the channel as it is; a pending one may be polled again after it. */
void pac_oneshot_recv_init(struct pac_oneshot_recv *f, struct pac_oneshot *o);
enum pac_poll pac_oneshot_recv_poll(struct pac_oneshot_recv *f, struct pac_context *cx);
void pac_oneshot_recv_drop(struct pac_oneshot_recv *f);

#endif
