/* waitlist.h - who waits for something that a lock guards.
 *
 * A waiter is a list node and a waker, part of the future that waits. The list belongs to what is
 * waited for, and stands under its lock. Whoever makes the thing happen takes waiters out of the
 * list under the lock and wakes their wakers after it; the waiter looks again at its next poll, so
 * a waiter carries no verdict of its own.
 *
 * A poll goes, with `spare` an empty slot at first:
 *
 *     lock
 *     while (not ready) {
 *         if (pac_waiter_arm(&w, &list, cx->waker, &spare)) {
 *             unlock; pac_waker_drop(&spare); return PAC_PENDING;
 *         }
 *         unlock; spare = pac_waker_clone(cx->waker); lock
 *     }
 *     old = pac_waiter_disarm(&w)
 *     unlock; drop old and spare; return PAC_READY;
 *
 * so that cloning and dropping, which may run anything, happen outside of the lock. */
#ifndef PAC_WAITLIST_H
#define PAC_WAITLIST_H

#include "budget.h"
#include "future.h"
#include "list.h"

struct pac_waiter {
    struct pac_list_node node; /* lock: linked while it waits */
    struct pac_waker waker;    /* lock: set while it is linked */
    PAC_CELL(bool) armed;      /* the poller's: the fields above may be in use */
};

static inline void
pac_waiter_init(struct pac_waiter *w)
{
    w->node = (struct pac_list_node){NULL, NULL};
    w->waker = PAC_NO_WAKER;
    w->armed = false;
}

/* Under the lock: wait with the newest waker. True: it does, at the back of `list` unless it stands
 * in a list already; what is in *spare afterwards is to be dropped. False: *spare must hold a clone
 * of `waker` first. */
static inline bool
pac_waiter_arm(struct pac_waiter *w, struct pac_list *list, const struct pac_waker *waker,
               struct pac_waker *spare)
{
    bool linked = pac_list_is_linked(&w->node);
    if (linked && pac_waker_will_wake(&w->waker, waker)) {
        return true;
    }
    if (!pac_waker_is_set(spare)) {
        return false;
    }
    struct pac_waker replaced = w->waker;
    w->waker = *spare;
    *spare = replaced;
    if (!linked) {
        pac_list_push_back(list, &w->node);
        PAC_COUNT(waiters, 1);
    }
    w->armed = true;
    return true;
}

/* Under the lock: take it out of its list, if it is in one; its waker is the caller's then. */
static inline struct pac_waker
pac_waiter_take(struct pac_waiter *w)
{
    struct pac_waker waker = w->waker;
    if (pac_list_is_linked(&w->node)) {
        pac_list_remove(&w->node);
        PAC_COUNT(waiters, -1);
    }
    w->waker = PAC_NO_WAKER;
    return waker;
}

/* Under the lock, when a poll has found that it need not wait: leave the list. The waker that it
 * had is the caller's, to drop after the lock. */
static inline struct pac_waker
pac_waiter_disarm(struct pac_waiter *w)
{
    if (PAC_LIKELY(!w->armed)) {
        return PAC_NO_WAKER;
    }
    w->armed = false;
    return pac_waiter_take(w);
}

/* For a drop: leave the list. Takes the lock, if this has ever waited. */
void pac_waiter_leave(struct pac_waiter *w, struct pac_lock *lock);

/* Wake all that are in `list` now, in order. Enter with the lock held; returns without it. Who is
 * still unwoken may leave meanwhile, and who comes meanwhile is not woken. */
void pac_waiters_wake_all(struct pac_list *list, struct pac_lock *lock);

/* ---- a future that waits for a flag --------------------------------------------------------- */

/* READY once *flag is true at a poll. Whoever sets it does so under `lock` and then wakes `list`.
 * Polled by one thread at a time, dropped by any; all three pointers must outlive it. */
struct pac_flag_wait {
    struct pac_future future;
    struct pac_lock *lock;
    struct pac_list *list;
    const PAC_CELL(bool) * flag;
    struct pac_waiter waiter;
};

void pac_flag_wait_init(struct pac_flag_wait *f, struct pac_lock *lock, struct pac_list *list,
                        const PAC_CELL(bool) * flag);
enum pac_poll pac_flag_wait_poll(struct pac_flag_wait *f, struct pac_context *cx);
void pac_flag_wait_drop(struct pac_flag_wait *f); /* may be polled again afterwards */

#endif
