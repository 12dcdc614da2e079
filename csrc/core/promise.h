/* promise.h - a value that one side has promised and the other one awaits: how code that knows no
 * executor, on any thread, ends somebody's wait.
 *
 *   makers: handles, any thread                     the future: its poller
 *   ───────────────────────────                     ──────────────────────
 *   keep, fail: once, the first one counts ───────► READY, with the value or the error
 *   the last handle is dropped before that ───────► READY, and the promise was broken
 *   CLOSED: the value stays the maker's    ◄─────── given up before it was kept
 *
 * Nothing here allocates, waits or fails, so that keeping a promise cannot go wrong; and nothing
 * takes a lock, so that a fork at any moment leaves the child with a promise that it can drop.
 *
 * A oneshot also carries one value, but its memory is somebody else's, and it has no word for which
 * side goes last. Here that side learns it (true from pac_promise_unref and
 * pac_promise_let_go), and frees what the promise stands in. */
#ifndef PAC_PROMISE_H
#define PAC_PROMISE_H

#include "atomic_waker.h"
#include "budget.h"
#include "future.h"
#include "wake_group.h"

enum pac_promise_outcome {
    PAC_PROMISE_PENDING,
    PAC_PROMISE_KEPT,   /* the value is there */
    PAC_PROMISE_FAILED, /* the error is there */
    PAC_PROMISE_BROKEN, /* nobody can keep it any more */
};

struct pac_promise {
    struct pac_future future;      /* the future: its drop is pac_promise_give_up, and leaks a
                                       value; whoever has to know calls that itself */
    PAC_ATOMIC(uint32_t) state;    /* promise.c */
    PAC_ATOMIC(uint32_t) handles;  /* how many there are */
    struct pac_atomic_waker waker; /* the future's newest */
    PAC_CELL(void *) value;        /* who set CLAIMED; once KEPT or FAILED, the future */
};

/* With one handle, and the future. */
void pac_promise_init(struct pac_promise *p);

/* ---- the makers' side: any thread ----------------------------------------------------------- */

/* Keep the promise with a value, or fail with an error; the future's newest waker is woken, or
 * joins `group` to be woken with it (NULL: at once). PAC_OK: the value is the future's. PAC_FULL:
 * this was done before. PAC_CLOSED: the future has given up. But for PAC_OK the value stays the
 * caller's. The caller has a handle, and keeps it. */
PAC_MUST_USE enum pac_status pac_promise_complete(struct pac_promise *p, void *value,
                                                  struct pac_wake_group *group);
PAC_MUST_USE enum pac_status pac_promise_fail(struct pac_promise *p, void *error,
                                              struct pac_wake_group *group);

/* Would keeping it be refused, with PAC_FULL or PAC_CLOSED? A hint that may be out of date by the
 * time of the return, in one direction only: what is refused stays refused. */
bool pac_promise_is_over(struct pac_promise *p);

/* One more handle, made by whoever has one. */
void pac_promise_ref(struct pac_promise *p);

/* Give a handle up. The last one breaks the promise, unless it was kept, has failed, or was given up
 * (`group` as in keep). True: the future had let go, and nobody else knows the promise now. */
PAC_MUST_USE bool pac_promise_unref(struct pac_promise *p, struct pac_wake_group *group);

/* ---- the future's side: one thread at a time ------------------------------------------------- */

/* READY once the outcome is not PENDING. */
enum pac_poll pac_promise_poll(struct pac_promise *p, struct pac_context *cx);

/* The outcome, and the value or error if there is one, which stays where it is. */
enum pac_promise_outcome pac_promise_outcome(struct pac_promise *p, void **value);

/* Want it no longer; no waker is kept, and it is not polled again. PENDING: nobody has kept it and
 * nobody can any more: tell the makers. KEPT, FAILED: the value is the caller's to destroy, unless
 * it has used it up. Any number of times, with the same answer. */
enum pac_promise_outcome pac_promise_give_up(struct pac_promise *p, void **value);

/* The very last call of this side, after pac_promise_give_up. True: the last handle has gone, and
 * nobody else knows the promise now. */
PAC_MUST_USE bool pac_promise_let_go(struct pac_promise *p);

/* By whoever was told true. */
void pac_promise_fini(struct pac_promise *p);

#endif
