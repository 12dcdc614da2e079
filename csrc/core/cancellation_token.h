/* cancellation_token.h - a tree of tokens, each cancelled once and for good, together with all
 * below it.
 *
 * A token is counted: each holder has a reference. A child made of a token is cancelled when the
 * token is, and from its birth if the token already was; cancelling a child leaves its parent
 * alone. Giving a token up does not cancel anything: its children belong to its parent from then
 * on, or to nobody if it had none.
 *
 * Everything here may be called from any thread, save that one pac_cancelled is polled by one
 * thread at a time. What was written before cancel is visible to whoever sees the token
 * cancelled. Waiting allocates nothing. Making, giving up and waiting are O(1); cancelling walks
 * over all descendants with the tree's lock held, without recursion.
 *
 * Stands for tokio-util's CancellationToken. */
#ifndef PAC_CANCELLATION_TOKEN_H
#define PAC_CANCELLATION_TOKEN_H

#include "budget.h"
#include "future.h"
#include "list.h"

struct pac_token_tree; /* what the tokens of one tree share: its lock */

struct pac_cancellation_token {
    struct pac_token_tree *tree;   /* written once */
    PAC_ATOMIC(size_t) references; /* any thread */
    PAC_ATOMIC(bool) cancelled;    /* written under the tree's lock, once */
    struct pac_list_node sibling;  /* lock: among the children of its parent */
    struct pac_list children;      /* lock: none once cancelled */
    struct pac_list waiters;       /* lock: likewise */
};

/* A token without a parent, with one reference for the caller; NULL: no memory. */
struct pac_cancellation_token *pac_cancellation_token_new(void);

/* A child of `t`, likewise. */
struct pac_cancellation_token *pac_cancellation_token_child(struct pac_cancellation_token *t);

struct pac_cancellation_token *pac_cancellation_token_ref(struct pac_cancellation_token *t);

/* Give up a reference; NULL is fine. Neither cancels nor wakes anybody. */
void pac_cancellation_token_unref(struct pac_cancellation_token *t);

/* Cancel `t` and all of its descendants, and wake all who wait for one of them. When this returns
 * they are all cancelled, and none that was cancelled by this call has a descendant that is not.
 * Again is a no-op. The caller holds a reference throughout. */
void pac_cancellation_token_cancel(struct pac_cancellation_token *t);

static inline bool
pac_cancellation_token_is_cancelled(struct pac_cancellation_token *t)
{
    /* acquire: pairs with the release in mark_cancelled. */
    return pac_atomic_load(&t->cancelled, PAC_ACQUIRE);
}

/* ---- waiting -------------------------------------------------------------------------------- */

enum pac_cancelled_state {
    PAC_CANCELLED_INIT,    /* made, not yet waiting */
    PAC_CANCELLED_WAITING, /* in the token's list, or taken out of it by cancel */
    PAC_CANCELLED_DONE,
};

struct pac_cancelled {
    struct pac_future future; /* READY once the token is cancelled; fused: stays READY */
    struct pac_cancellation_token *token;
    struct pac_list_node node; /* lock */
    struct pac_waker waker;    /* written by the poller, under the lock; unlinking takes it away */
    uint8_t state;             /* enum pac_cancelled_state; the poller's */
};

/* A future that waits until `t` is cancelled. It borrows the token: somebody must hold a reference
 * until the future was dropped (pac_cancelled_drop, by the vtable too). */
void pac_cancelled_init(struct pac_cancelled *f, struct pac_cancellation_token *t);
enum pac_poll pac_cancelled_poll(struct pac_cancelled *f, struct pac_context *cx);
void pac_cancelled_drop(struct pac_cancelled *f);

#endif
