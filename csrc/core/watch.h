/* watch.h - the latest value, and who waits for it to change: Tokio's watch.
 *
 * Sending replaces the value. A receiver remembers which version it has seen; it may miss versions
 * in between, never the last one.
 *
 * All of pac_watch_* may be called from any thread; a future is polled by one thread at a time.
 * Nothing allocates. A pac_watch must outlive its receivers, its futures and the calls on it. Values
 * are as in broadcast.h: `clone` is called under the lock, `destroy` outside. */
#ifndef PAC_WATCH_H
#define PAC_WATCH_H

#include "waitlist.h"

struct pac_watch {
    struct pac_lock lock;
    void *(*clone)(void *value);
    void (*destroy)(void *value);
    PAC_CELL(void *) value;     /* lock */
    PAC_CELL(uint64_t) version; /* lock: how often a value was sent */
    PAC_CELL(size_t) senders;   /* lock */
    PAC_CELL(size_t) receivers; /* lock */
    struct pac_list changes;    /* lock: who waits for one */
    struct pac_list closings;   /* lock: who waits for `closed` */
    PAC_CELL(bool) closed;      /* lock: there is no receiver */
};

struct pac_watch_receiver {
    struct pac_watch *channel;
    PAC_CELL(uint64_t) seen; /* lock: a version */
    PAC_CELL(bool) gone;     /* lock: unsubscribed */
};

/* One sender and no receiver to begin with; `value` is the channel's from here on. */
void pac_watch_init(struct pac_watch *w, void *value, void *(*clone)(void *value),
                    void (*destroy)(void *value));
void pac_watch_fini(struct pac_watch *w);

/* Put `value` in the place of the latest one, which is the caller's then. No change for anybody who
 * waits: for a garbage collector. */
void *pac_watch_swap(struct pac_watch *w, void *value);

/* A clone of the latest value. */
void *pac_watch_get(struct pac_watch *w);

/* ---- sending -------------------------------------------------------------------------------- */

void pac_watch_add_sender(struct pac_watch *w);
void pac_watch_drop_sender(struct pac_watch *w);

/* PAC_OK; PAC_CLOSED: there is no receiver, and the value stays the caller's. */
enum pac_status pac_watch_send(struct pac_watch *w, void *value) PAC_MUST_USE;

/* True while there is no receiver, and the future that waits for it. */
bool pac_watch_is_closed(struct pac_watch *w);
void pac_watch_closed_init(struct pac_flag_wait *f, struct pac_watch *w);

/* ---- receiving ------------------------------------------------------------------------------ */

/* A receiver that has seen the value of now. */
void pac_watch_subscribe(struct pac_watch_receiver *r, struct pac_watch *w);

/* It waits for nothing any more: PAC_CLOSED, also for who does. Any number of times. */
void pac_watch_unsubscribe(struct pac_watch_receiver *r);

/* A clone of the latest value, which it has seen then. */
void *pac_watch_get_seen(struct pac_watch_receiver *r);

bool pac_watch_has_changed(struct pac_watch_receiver *r);

struct pac_watch_changed {
    struct pac_future future;
    struct pac_watch_receiver *receiver;
    struct pac_waiter waiter;
    enum pac_status status; /* once READY: PAC_OK: there was a version that it had not seen, and
                               now it has; PAC_CLOSED: none, and no sender is left */
};

void pac_watch_changed_init(struct pac_watch_changed *f, struct pac_watch_receiver *r);
enum pac_poll pac_watch_changed_poll(struct pac_watch_changed *f, struct pac_context *cx);
void pac_watch_changed_drop(struct pac_watch_changed *f);

#endif
