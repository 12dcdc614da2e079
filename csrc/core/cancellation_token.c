/* cancellation_token.c - one lock a tree, lists of children without pointers to parents.
 *
 * 1. All tokens of a tree share one lock, and all links between them are written under it. So a
 *    token may be cancelled, given a child and given up on three threads at once, and no order of
 *    locks is needed. The lock lives as long as the last token of the tree.
 * 2. No token refers to its parent, and none holds a reference to another. One that is given up
 *    puts its children where it stood itself, in the list of its parent: a splice. If it stood
 *    nowhere, they are left as a circle without a head. Nobody walks over that; leaving it and
 *    putting children into it work as in any list.
 * 3. Cancelling takes a token out of its parent's list for good, and its children go into the
 *    list of those still to be cancelled. So a cancelled token has no children and is nobody's
 *    child, and no depth of tree needs a stack.
 * 4. All are marked before anybody is woken, under the lock. A token whose last reference has
 *    been given up may be found there: whoever gave it up waits for the lock to unlink it.
 * 5. Waking goes by batches, with the lock left in between. Those who are still to be woken stand
 *    in a list of the canceller's, which they can leave like any other. A waiter that is unlinked
 *    while it is WAITING has been taken out by a canceller, which owns its waker since.
 */
#include "cancellation_token.h"

struct pac_token_tree {
    PAC_ATOMIC(size_t) tokens; /* any thread */
    struct pac_lock lock;
};

/* ---- making and giving up ------------------------------------------------------------------- */

static struct pac_cancellation_token *
token_new(struct pac_token_tree *tree)
{
    struct pac_cancellation_token *t = pac_alloc(sizeof *t);
    if (t != NULL) {
        t->tree = tree;
        pac_atomic_init(&t->references, 1);
        pac_atomic_init(&t->cancelled, false);
        t->sibling = (struct pac_list_node){NULL, NULL};
        pac_list_init(&t->children);
        pac_list_init(&t->waiters);
    }
    return t;
}

struct pac_cancellation_token *
pac_cancellation_token_new(void)
{
    struct pac_token_tree *tree = pac_alloc(sizeof *tree);
    if (tree == NULL) {
        return NULL;
    }
    pac_atomic_init(&tree->tokens, 1);
    pac_atomic_init(&tree->lock.held, 0);
    struct pac_cancellation_token *t = token_new(tree);
    if (t == NULL) {
        pac_free(tree);
    }
    return t;
}

struct pac_cancellation_token *
pac_cancellation_token_child(struct pac_cancellation_token *t)
{
    struct pac_token_tree *tree = t->tree;
    struct pac_cancellation_token *child = token_new(tree);
    if (child == NULL) {
        return NULL;
    }
    /* relaxed: the caller's reference to `t` keeps the tree. */
    pac_atomic_add(&tree->tokens, 1, PAC_RELAXED);
    pac_lock_acquire(&tree->lock);
    /* relaxed: written under the lock. */
    if (pac_atomic_load(&t->cancelled, PAC_RELAXED)) {
        pac_atomic_store(&child->cancelled, true, PAC_RELAXED);
    }
    else {
        pac_list_push_back(&t->children, &child->sibling);
    }
    pac_lock_release(&tree->lock);
    return child;
}

struct pac_cancellation_token *
pac_cancellation_token_ref(struct pac_cancellation_token *t)
{
    /* relaxed: who counts one has one. */
    pac_atomic_add(&t->references, 1, PAC_RELAXED);
    return t;
}

/* Under the lock: take `t` out of the tree, and put its children where it stood. */
static void
replace_by_children(struct pac_cancellation_token *t)
{
    if (pac_list_is_linked(&t->sibling)) {
        /* A node is as good as a head for what is appended "before" it. */
        pac_list_splice_back(PAC_CONTAINER_OF(&t->sibling, struct pac_list, head), &t->children);
        pac_list_remove(&t->sibling);
    }
    else {
        pac_list_remove(&t->children.head);
    }
}

void
pac_cancellation_token_unref(struct pac_cancellation_token *t)
{
    /* acq_rel: all that the others did with the token comes before it is freed; pairs with
     * itself. */
    if (t == NULL || pac_atomic_sub(&t->references, 1, PAC_ACQ_REL) != 1) {
        return;
    }
    struct pac_token_tree *tree = t->tree;
    PAC_ASSERT(pac_list_is_empty(&t->waiters));
    pac_lock_acquire(&tree->lock);
    replace_by_children(t);
    pac_lock_release(&tree->lock);
    pac_free(t);
    /* acq_rel: as above. */
    if (pac_atomic_sub(&tree->tokens, 1, PAC_ACQ_REL) == 1) {
        pac_free(tree);
    }
}

/* ---- cancelling ----------------------------------------------------------------------------- */

/* Under the lock: its children go to `walk`, who waits for it to `waiters`. */
static void
mark_cancelled(struct pac_cancellation_token *t, struct pac_list *walk, struct pac_list *waiters)
{
    PAC_ASSERT(!pac_atomic_load(&t->cancelled, PAC_RELAXED));
    /* release: what was written before cancel; pairs with the acquire in
     * pac_cancellation_token_is_cancelled. */
    pac_atomic_store(&t->cancelled, true, PAC_RELEASE);
    pac_list_splice_back(walk, &t->children);
    pac_list_splice_back(waiters, &t->waiters);
}

void
pac_cancellation_token_cancel(struct pac_cancellation_token *t)
{
    struct pac_token_tree *tree = t->tree;
    struct pac_list walk, waiters;
    struct pac_list_node *node;
    struct pac_wake_batch batch;
    bool is_last;

    pac_list_init(&walk);
    pac_list_init(&waiters);
    pac_wake_batch_init(&batch);
    /* The lock is taken even if `t` is cancelled already: it may be that another thread is still
     * at the descendants. */
    pac_lock_acquire(&tree->lock);
    if (!pac_atomic_load(&t->cancelled, PAC_RELAXED)) {
        pac_list_remove(&t->sibling);
        mark_cancelled(t, &walk, &waiters);
    }
    while ((node = pac_list_pop_front(&walk)) != NULL) {
        mark_cancelled(PAC_LIST_ENTRY(node, struct pac_cancellation_token, sibling), &walk,
                       &waiters);
    }
    for (;;) {
        while (!pac_wake_batch_is_full(&batch) && (node = pac_list_pop_front(&waiters)) != NULL) {
            struct pac_waker waker = PAC_LIST_ENTRY(node, struct pac_cancelled, node)->waker;
            pac_wake_batch_add(&batch, &waker);
            PAC_COUNT(waiters, -1);
        }
        is_last = pac_list_is_empty(&waiters);
        pac_lock_release(&tree->lock);
        /* May run anything: waiters that leave `waiters`, tokens that are given up. */
        pac_wake_batch_wake(&batch);
        if (is_last) {
            return;
        }
        pac_lock_acquire(&tree->lock);
    }
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Wait with `waker`; true: the token has been cancelled meanwhile. */
static bool
start_or_keep_waiting(struct pac_cancelled *f, const struct pac_waker *waker)
{
    struct pac_lock *lock = &f->token->tree->lock;
    /* A canceller reads the waker, but does not write it. If it has been taken since the caller
     * looked at the token, it was woken after that: then this very task is polled again. */
    if (f->state == PAC_CANCELLED_WAITING && pac_waker_will_wake(&f->waker, waker)) {
        return false;
    }
    /* Cloning and dropping can run anything, so outside of the lock. */
    struct pac_waker spare = pac_waker_clone(waker);
    pac_lock_acquire(lock);
    bool cancelled = pac_atomic_load(&f->token->cancelled, PAC_RELAXED);
    if (!cancelled && f->state == PAC_CANCELLED_WAITING) {
        PAC_ASSERT(pac_list_is_linked(&f->node));
        struct pac_waker replaced = f->waker;
        f->waker = spare;
        spare = replaced;
    }
    else if (!cancelled) {
        f->waker = spare;
        f->state = PAC_CANCELLED_WAITING;
        spare = PAC_NO_WAKER;
        pac_list_push_back(&f->token->waiters, &f->node);
        PAC_COUNT(waiters, 1);
    }
    pac_lock_release(lock);
    pac_waker_drop(&spare);
    return cancelled;
}

enum pac_poll
pac_cancelled_poll(struct pac_cancelled *f, struct pac_context *cx)
{
    if (f->state == PAC_CANCELLED_DONE) {
        return PAC_READY;
    }
    if (!pac_cancellation_token_is_cancelled(f->token) && !start_or_keep_waiting(f, cx->waker)) {
        return PAC_PENDING;
    }
    if (!pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    pac_cancelled_drop(f);
    return PAC_READY;
}

void
pac_cancelled_drop(struct pac_cancelled *f)
{
    uint8_t state = f->state;
    f->state = PAC_CANCELLED_DONE;
    if (state != PAC_CANCELLED_WAITING) {
        return;
    }
    struct pac_lock *lock = &f->token->tree->lock;
    pac_lock_acquire(lock);
    bool was_taken = !pac_list_is_linked(&f->node);
    if (!was_taken) {
        pac_list_remove(&f->node);
        PAC_COUNT(waiters, -1);
    }
    pac_lock_release(lock);
    if (!was_taken) {
        pac_waker_drop(&f->waker);
    }
}

static enum pac_poll
cancelled_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_cancelled_poll(PAC_CONTAINER_OF(self, struct pac_cancelled, future), cx);
}

static void
cancelled_vtable_drop(struct pac_future *self)
{
    pac_cancelled_drop(PAC_CONTAINER_OF(self, struct pac_cancelled, future));
}

static const struct pac_future_vtable cancelled_vtable = {
    .poll = cancelled_vtable_poll,
    .drop = cancelled_vtable_drop,
};

void
pac_cancelled_init(struct pac_cancelled *f, struct pac_cancellation_token *t)
{
    f->future.vtable = &cancelled_vtable;
    f->token = t;
    f->node = (struct pac_list_node){NULL, NULL};
    f->waker = PAC_NO_WAKER;
    f->state = PAC_CANCELLED_INIT;
}
