/* notify.c - a state word, a list of waiters, and a mark in each waiter.
 *
 *         start waiting                 a notification                  polled
 *   INIT --------------> WAITING, none --------------> WAITING, marked ------> DONE
 *     |                                                       ^
 *     +------ a broadcast since it was made, or a permit -----+
 *
 * Who is ready has a mark: first or last (notify_one, notify_last, a permit), which is
 * worth one notification and is passed on if its holder is dropped; or all (a
 * broadcast), which is not. A mark is final, and who has one is in no list. Being
 * marked and being DONE are apart so that a future which the budget holds back keeps
 * what it was given.
 *
 * 1. Every write of the state word, of the lists and of another's future happens under
 *    `lock`, so each operation pays for one read-modify-write, that of the lock, and
 *    no transition needs one of its own: under the lock the word can be read, changed
 *    and stored in plain steps. Only reads come without the lock. (Tokio stores the
 *    permit by a compare-exchange without the lock. That costs as much as an
 *    uncontended lock, but then joining an empty list needs both of them.)
 * 2. A permit is stored only while nobody waits, and who comes while there is one
 *    takes it: a permit and a non-empty `waiters` never stand together.
 * 3. All in `waiters` were made after the last broadcast. Who is linked and was made
 *    before it is in the private list of a pac_notify_waiters in progress. That list
 *    is a circle like any other, and so a future leaves either by the same unlinking,
 *    without knowing which one it is in.
 * 4. A future that was made before a broadcast is ready from the moment at which the
 *    broadcast is counted, whether its mark has come yet or not; so all of them become
 *    ready at once, and none that is made later. The broadcast is looked at before the
 *    permit, so as not to take both.
 * 5. `waker` is written by the poller alone, under the lock while the future is
 *    linked. A notifier copies it out and leaves the field as it is: setting the mark
 *    is what moves the ownership. So the poller may compare its waker without the
 *    lock, and a poll that changes nothing takes none. (If the waker that is compared
 *    has been woken and freed meanwhile, and its address is in use again, then the
 *    mark was set before that, and reading the mark first has seen it.)
 * 6. Setting the mark is the last that a notifier does with a future: whoever sees it
 *    may go on to free it.
 */
#include "notify.h"

enum { PERMIT = 1, ONE_BROADCAST = 2 };

enum {
    MARK_NONE,
    MARK_FIRST, /* a notification for the oldest waiter */
    MARK_LAST,  /* one for the newest */
    MARK_ALL,   /* a broadcast */
};

static inline uint64_t
broadcasts_in(uint64_t state)
{
    return state >> 1;
}

/* ---- notifying ------------------------------------------------------------------------------ */

void
pac_notify_init(struct pac_notify *n)
{
    pac_atomic_init(&n->state, 0);
    pac_atomic_init(&n->lock.held, 0);
    pac_list_init(&n->waiters);
}

/* Unlink and mark one waiter, under the lock. Its waker is the caller's afterwards. */
static inline struct pac_waker
let_go(struct pac_list_node *node, uint8_t mark)
{
    struct pac_notified *f = PAC_LIST_ENTRY(node, struct pac_notified, node);
    PAC_ASSERT(pac_atomic_load(&f->mark, PAC_RELAXED) == MARK_NONE);
    pac_list_remove(node);
    PAC_COUNT(waiters, -1);
    struct pac_waker waker = f->waker;
    /* release: what was written before the notify call, and the unlinking; pairs with
     * the acquire in is_marked. */
    pac_atomic_store(&f->mark, mark, PAC_RELEASE);
    return waker;
}

static inline void
notify_single(struct pac_notify *n, uint8_t mark)
{
    struct pac_waker waker = PAC_NO_WAKER;
    pac_lock_acquire(&n->lock);
    struct pac_list_node *node =
        mark == MARK_FIRST ? pac_list_first(&n->waiters) : pac_list_last(&n->waiters);
    uint64_t state = pac_atomic_load(&n->state, PAC_RELAXED);
    if (node != NULL) {
        PAC_ASSERT((state & PERMIT) == 0);
        waker = let_go(node, mark);
    }
    else if ((state & PERMIT) == 0) {
        /* release: who reads this value without the lock must also see the broadcasts
         * counted in it, and all that came before them. A permit that is there already
         * needs no store: the writes of this call reach its taker by the lock. */
        pac_atomic_store(&n->state, state | PERMIT, PAC_RELEASE);
    }
    pac_lock_release(&n->lock);
    pac_waker_wake(&waker);
}

void
pac_notify_one(struct pac_notify *n)
{
    notify_single(n, MARK_FIRST);
}

void
pac_notify_last(struct pac_notify *n)
{
    notify_single(n, MARK_LAST);
}

void
pac_notify_waiters(struct pac_notify *n)
{
    struct pac_wake_batch batch;
    struct pac_list chosen;
    struct pac_list_node *node;
    bool all_marked;

    pac_list_init(&chosen);
    pac_wake_batch_init(&batch);
    pac_lock_acquire(&n->lock);
    /* release: pairs with the acquires in pac_notified_init and start_waiting. */
    pac_atomic_store(&n->state, pac_atomic_load(&n->state, PAC_RELAXED) + ONE_BROADCAST,
                     PAC_RELEASE);
    pac_list_splice_back(&chosen, &n->waiters);
    for (;;) {
        while (!pac_wake_batch_is_full(&batch) && (node = pac_list_first(&chosen)) != NULL) {
            struct pac_waker waker = let_go(node, MARK_ALL);
            pac_wake_batch_add(&batch, &waker);
        }
        all_marked = pac_list_is_empty(&chosen);
        pac_lock_release(&n->lock);
        /* Anything may happen in here, by these wakers or other threads: new waiters,
         * permits and broadcasts, and futures that take themselves out of `chosen`.
         * Nobody adds to it. */
        pac_wake_batch_wake(&batch);
        if (all_marked) {
            return;
        }
        pac_lock_acquire(&n->lock);
    }
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* acquire: pairs with the release in let_go. A mark that the waiting side has set
 * itself is read by the same side only. */
static inline bool
is_marked(struct pac_notified *f)
{
    return pac_atomic_load(&f->mark, PAC_ACQUIRE) != MARK_NONE;
}

/* The answer can only change from false to true. relaxed: who acts on a true holds the
 * lock or takes it next, and finds behind it all that came before the broadcast. */
static inline bool
was_broadcast(struct pac_notified *f)
{
    uint64_t state = pac_atomic_load(&f->notify->state, PAC_RELAXED);
    return broadcasts_in(state) != f->broadcasts;
}

/* For a future that stands in no list, so that nobody else looks at its mark:
 * relaxed. */
static inline void
mark_self(struct pac_notified *f, uint8_t mark)
{
    PAC_ASSERT(!pac_list_is_linked(&f->node));
    pac_atomic_store(&f->mark, mark, PAC_RELAXED);
}

/* Under the lock: take the permit, if there is one. The store is a release for the
 * sake of the broadcasts counted in it, as in notify_single. */
static inline bool
take_permit(struct pac_notify *n)
{
    uint64_t state = pac_atomic_load(&n->state, PAC_RELAXED);
    if ((state & PERMIT) == 0) {
        return false;
    }
    PAC_ASSERT(pac_list_is_empty(&n->waiters));
    pac_atomic_store(&n->state, state - PERMIT, PAC_RELEASE);
    return true;
}

/* Under the lock: what this future can have without waiting. */
static inline uint8_t
mark_at_once(struct pac_notified *f)
{
    if (was_broadcast(f)) {
        return MARK_ALL;
    }
    return take_permit(f->notify) ? MARK_FIRST : MARK_NONE;
}

/* The first poll or enable: true if it is marked already. `waker` may be NULL. */
static bool
start_waiting(struct pac_notified *f, const struct pac_waker *waker)
{
    struct pac_notify *n = f->notify;
    struct pac_waker kept = PAC_NO_WAKER;
    uint8_t mark = MARK_NONE;

    f->state = PAC_NOTIFIED_WAITING;
    /* A look without the lock, to spare the clone where no waker will be needed.
     * acquire: what came before the broadcast; pairs with the release in
     * pac_notify_waiters, or that of a later store of the state, which the lock has
     * put after it. */
    uint64_t seen = pac_atomic_load(&n->state, PAC_ACQUIRE);
    if (broadcasts_in(seen) != f->broadcasts) {
        mark_self(f, MARK_ALL);
        return true;
    }
    if ((seen & PERMIT) != 0) {
        pac_lock_acquire(&n->lock);
        mark = mark_at_once(f);
        pac_lock_release(&n->lock);
    }
    if (mark == MARK_NONE) {
        if (waker != NULL) {
            /* Cloning can run anything, a notify call too, so before the lock. */
            kept = pac_waker_clone(waker);
        }
        pac_lock_acquire(&n->lock);
        mark = mark_at_once(f);
        if (mark == MARK_NONE) {
            f->waker = kept;
            pac_list_push_back(&n->waiters, &f->node);
            PAC_COUNT(waiters, 1);
        }
        pac_lock_release(&n->lock);
        if (mark == MARK_NONE) {
            return false;
        }
    }
    mark_self(f, mark);
    pac_waker_drop(&kept);
    return true;
}

/* Any later poll or enable: true if the future is marked by now. `waker` may be
 * NULL. */
static inline bool
keep_waiting(struct pac_notified *f, const struct pac_waker *waker)
{
    struct pac_waker spare = PAC_NO_WAKER;
    bool marked, broadcast;

    if (is_marked(f)) {
        return true;
    }
    if (!was_broadcast(f)) {
        if (waker == NULL || pac_waker_will_wake(&f->waker, waker)) {
            return false;
        }
        spare = pac_waker_clone(waker);
    }
    pac_lock_acquire(&f->notify->lock);
    marked = is_marked(f);
    broadcast = !marked && was_broadcast(f);
    if (broadcast) {
        /* In the private list of a broadcast that has not come to this one yet. */
        pac_list_remove(&f->node);
        PAC_COUNT(waiters, -1);
    }
    else if (!marked) {
        struct pac_waker replaced = f->waker;
        f->waker = spare;
        spare = replaced;
    }
    pac_lock_release(&f->notify->lock);
    if (broadcast) {
        mark_self(f, MARK_ALL);
        pac_waker_drop(&f->waker);
    }
    /* Dropping can run anything too, so after the lock. */
    pac_waker_drop(&spare);
    return marked || broadcast;
}

static inline bool
advance(struct pac_notified *f, const struct pac_waker *waker)
{
    return f->state == PAC_NOTIFIED_INIT ? start_waiting(f, waker) : keep_waiting(f, waker);
}

bool
pac_notified_enable(struct pac_notified *f)
{
    if (f->state != PAC_NOTIFIED_DONE && advance(f, NULL)) {
        f->state = PAC_NOTIFIED_DONE;
    }
    return f->state == PAC_NOTIFIED_DONE;
}

enum pac_poll
pac_notified_poll(struct pac_notified *f, struct pac_context *cx)
{
    if (f->state == PAC_NOTIFIED_DONE) {
        return PAC_READY;
    }
    if (!advance(f, cx->waker)) {
        return PAC_PENDING;
    }
    if (!pac_budget_spend(cx)) {
        /* Marked and WAITING: ready at the next poll, and still passed on if it is
         * dropped. */
        return PAC_PENDING;
    }
    f->state = PAC_NOTIFIED_DONE;
    return PAC_READY;
}

/* Leave whatever list it is in, unless a mark is first; returns the mark. */
static uint8_t
stop_waiting(struct pac_notified *f)
{
    uint8_t mark;
    pac_lock_acquire(&f->notify->lock);
    /* relaxed: marks of linked futures are set under the lock. */
    mark = pac_atomic_load(&f->mark, PAC_RELAXED);
    if (mark == MARK_NONE) {
        pac_list_remove(&f->node);
        PAC_COUNT(waiters, -1);
    }
    pac_lock_release(&f->notify->lock);
    if (mark == MARK_NONE) {
        pac_waker_drop(&f->waker);
    }
    return mark;
}

void
pac_notified_drop(struct pac_notified *f)
{
    struct pac_notify *n = f->notify;
    uint8_t state = f->state;
    f->state = PAC_NOTIFIED_DONE;
    if (state != PAC_NOTIFIED_WAITING) {
        return;
    }
    /* acquire: pairs with the release in let_go; who sees the mark here may free the
     * future. */
    uint8_t mark = pac_atomic_load(&f->mark, PAC_ACQUIRE);
    if (mark == MARK_NONE) {
        mark = stop_waiting(f);
    }
    /* A notification that nobody has seen goes to the next in the same order. */
    if (mark == MARK_FIRST || mark == MARK_LAST) {
        notify_single(n, mark);
    }
}

static enum pac_poll
notified_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_notified_poll(PAC_CONTAINER_OF(self, struct pac_notified, future), cx);
}

static void
notified_vtable_drop(struct pac_future *self)
{
    pac_notified_drop(PAC_CONTAINER_OF(self, struct pac_notified, future));
}

static const struct pac_future_vtable notified_vtable = {
    .poll = notified_vtable_poll,
    .drop = notified_vtable_drop,
};

void
pac_notified_init(struct pac_notified *f, struct pac_notify *n)
{
    f->future.vtable = &notified_vtable;
    f->notify = n;
    /* acquire: pairs with the release in pac_notify_waiters. Were it relaxed, a caller
     * that goes on to look at its condition could read an old value there and the new
     * count here, and then wait for a broadcast that is over. */
    f->broadcasts = broadcasts_in(pac_atomic_load(&n->state, PAC_ACQUIRE));
    f->node = (struct pac_list_node){NULL, NULL};
    f->waker = PAC_NO_WAKER;
    pac_atomic_init(&f->mark, MARK_NONE);
    f->state = PAC_NOTIFIED_INIT;
}
