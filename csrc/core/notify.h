/* notify.h - wake one waiter, or all: Tokio's Notify.
 *
 * notify_one wakes the oldest waiter or, if nobody waits, stores one permit (never more) that the
 * next waiter takes. notify_waiters wakes exactly those `notified` futures that exist at the call
 * and stores nothing. A future that was chosen by notify_one and is dropped before it saw that
 * passes the notification on.
 *
 * All of pac_notify_* and dropping may be called from any thread; a single pac_notified is polled
 * by one thread at a time. What was written before a notify call is visible to the task that it
 * lets go on. Nothing allocates. A pac_notify must outlive its futures and the calls that notify
 * it. */
#ifndef PAC_NOTIFY_H
#define PAC_NOTIFY_H

#include "budget.h"
#include "future.h"
#include "list.h"

struct pac_notify {
    PAC_ATOMIC(uint64_t)
    state; /* bit 0: a permit is stored; above: count of broadcasts. Written with
                                   the lock held, read by anyone */
    struct pac_lock lock;
    struct pac_list waiters; /* lock: those without a mark, newest at the back */
};

enum pac_notified_state {
    PAC_NOTIFIED_INIT,    /* made, not yet waiting */
    PAC_NOTIFIED_WAITING, /* in the list, or marked and not yet looked at */
    PAC_NOTIFIED_DONE,
};

struct pac_notified {
    struct pac_future future; /* polls to READY once notified; fused: stays READY */
    struct pac_notify *notify;
    uint64_t broadcasts;       /* how many broadcasts there had been when this was made */
    struct pac_list_node node; /* lock */
    struct pac_waker waker;    /* written by the poller, under the lock while linked; setting
                                        the mark of a linked future takes it away from here */
    PAC_ATOMIC(uint8_t) mark;  /* none, one (first in), one (last in), all; final once set */
    uint8_t state;             /* enum pac_notified_state; the poller's */
};

void pac_notify_init(struct pac_notify *n);

void pac_notify_one(struct pac_notify *n);     /* the oldest waiter, or a permit */
void pac_notify_last(struct pac_notify *n);    /* the newest waiter, or a permit */
void pac_notify_waiters(struct pac_notify *n); /* all that exist now; no permit */

/* A future that waits for `n`. It counts as existing for pac_notify_waiters from this call on.
 * Its drop (pac_notified_drop, by the vtable too) leaves the list and passes an unseen
 * notification on; afterwards it is DONE. */
void pac_notified_init(struct pac_notified *f, struct pac_notify *n);

/* Start waiting now, without a waker: true if the future is ready (a broadcast has come, a permit
 * was there and is taken, or it has been marked meanwhile). */
bool pac_notified_enable(struct pac_notified *f);

enum pac_poll pac_notified_poll(struct pac_notified *f, struct pac_context *cx);
void pac_notified_drop(struct pac_notified *f);

#endif
