/* semaphore.c - a count, a list of waiters, and a mark in each waiter.
 *
 *         start waiting            assigned all, or closed           polled
 *   INIT --------------> WAITING --------------------> WAITING, marked ----> DONE
 *     |                                                       ^
 *     +------------- enough there and nobody waits -----------+
 *
 * 1. Every change of the count, of the list and of another's future happens under `lock`; each
 *    operation pays for one read-modify-write, that of the lock.
 * 2. Permits are assigned to the oldest waiter alone, as they come, until it misses none. While
 *    somebody waits, what is available is what a release in progress is about to hand out: so who
 *    comes takes at once only if nobody waits.
 * 3. Setting the mark is the last that anybody else does with a future: whoever sees it may go on
 *    to free it. It also moves the ownership of the waker, which the marker copies out and leaves
 *    in place, so that the poller may compare its waker without the lock. (notify.c says why that
 *    is safe.)
 * 4. Being marked and being DONE are apart, so that a future which the budget holds back keeps
 *    what it was given, and gives it back if it is dropped then.
 * 5. Wakers are woken in batches with the lock released. Anything may happen meanwhile: the state
 *    is whole whenever the lock is free, and read again after it.
 */
#include "semaphore.h"

enum {
    MARK_NONE,
    MARK_GRANTED, /* it has all that it wanted */
    MARK_CLOSED,
};

void
pac_semaphore_init(struct pac_semaphore *s, uint64_t permits, uint64_t limit)
{
    PAC_ASSERT(0 < limit && limit <= PAC_SEMAPHORE_MAX && permits <= limit);
    pac_atomic_init(&s->lock.held, 0);
    s->closed = false;
    s->available = permits;
    s->limit = limit;
    pac_list_init(&s->waiters);
}

/* ---- giving --------------------------------------------------------------------------------- */

/* Unlink and mark a waiter, under the lock. Its waker is the batch's afterwards. */
static inline void
let_go(struct pac_acquire *a, uint8_t mark, struct pac_wake_batch *batch)
{
    pac_list_remove(&a->node);
    PAC_COUNT(waiters, -1);
    struct pac_waker waker = a->waker;
    /* release: what was written before the permits were given back, and the unlinking; pairs with
     * the acquire in mark_of. */
    pac_atomic_store(&a->mark, mark, PAC_RELEASE);
    pac_wake_batch_add(batch, &waker);
}

/* Under the lock: assign what is available to the oldest waiter, who is let go if it has all. */
static inline void
assign_to_first(struct pac_semaphore *s, struct pac_acquire *first, struct pac_wake_batch *batch)
{
    uint64_t given = s->available < first->missing ? s->available : first->missing;
    s->available -= given;
    first->missing -= given;
    if (first->missing == 0) {
        let_go(first, MARK_GRANTED, batch);
    }
}

/* With the lock held, which is released: hand out what is available, and wake. */
static void
hand_out_and_unlock(struct pac_semaphore *s)
{
    struct pac_wake_batch batch;
    struct pac_list_node *node;
    bool more = s->available != 0 && !pac_list_is_empty(&s->waiters);
    if (!more) {
        pac_lock_release(&s->lock);
        return;
    }
    pac_wake_batch_init(&batch);
    for (;;) {
        while (s->available != 0 && !pac_wake_batch_is_full(&batch) &&
               (node = pac_list_first(&s->waiters)) != NULL) {
            assign_to_first(s, PAC_LIST_ENTRY(node, struct pac_acquire, node), &batch);
        }
        more = s->available != 0 && !pac_list_is_empty(&s->waiters);
        pac_lock_release(&s->lock);
        pac_wake_batch_wake(&batch);
        if (!more) {
            return;
        }
        pac_lock_acquire(&s->lock);
    }
}

enum pac_status
pac_semaphore_release(struct pac_semaphore *s, uint64_t n)
{
    pac_lock_acquire(&s->lock);
    if (n > s->limit - s->available) {
        pac_lock_release(&s->lock);
        return PAC_OVERFLOW;
    }
    s->available += n;
    hand_out_and_unlock(s);
    return PAC_OK;
}

uint64_t
pac_semaphore_forget(struct pac_semaphore *s, uint64_t n)
{
    pac_lock_acquire(&s->lock);
    uint64_t available = s->available;
    uint64_t forgotten = n < available ? n : available;
    s->available -= forgotten;
    pac_lock_release(&s->lock);
    return forgotten;
}

/* Under the lock: `n` permits of an acquire that does not take them. No more can be available than
 * the limit; what others have added meanwhile stands for them then. */
static inline void
put_back(struct pac_semaphore *s, uint64_t n)
{
    uint64_t room = s->limit - s->available;
    s->available += n < room ? n : room;
}

void
pac_semaphore_close(struct pac_semaphore *s)
{
    struct pac_wake_batch batch;
    struct pac_list_node *node;
    bool more = true;
    pac_wake_batch_init(&batch);
    while (more) {
        pac_lock_acquire(&s->lock);
        s->closed = true;
        while (!pac_wake_batch_is_full(&batch) && (node = pac_list_first(&s->waiters)) != NULL) {
            struct pac_acquire *a = PAC_LIST_ENTRY(node, struct pac_acquire, node);
            put_back(s, a->wanted - a->missing);
            let_go(a, MARK_CLOSED, &batch);
        }
        more = !pac_list_is_empty(&s->waiters);
        pac_lock_release(&s->lock);
        /* Nobody joins the list any more. */
        pac_wake_batch_wake(&batch);
    }
}

/* ---- looking -------------------------------------------------------------------------------- */

bool
pac_semaphore_is_closed(struct pac_semaphore *s)
{
    pac_lock_acquire(&s->lock);
    bool closed = s->closed;
    pac_lock_release(&s->lock);
    return closed;
}

uint64_t
pac_semaphore_available(struct pac_semaphore *s)
{
    pac_lock_acquire(&s->lock);
    uint64_t available = s->available;
    pac_lock_release(&s->lock);
    return available;
}

size_t
pac_semaphore_waiters(struct pac_semaphore *s)
{
    size_t count = 0;
    pac_lock_acquire(&s->lock);
    struct pac_list_node *head = &s->waiters.head;
    for (struct pac_list_node *node = head->next; node != head; node = node->next) {
        count++;
    }
    pac_lock_release(&s->lock);
    return count;
}

/* ---- taking --------------------------------------------------------------------------------- */

/* Under the lock: PAC_OK and taken, PAC_CLOSED, or PAC_BUSY. */
static inline enum pac_status
take_at_once(struct pac_semaphore *s, uint64_t n)
{
    if (PAC_UNLIKELY(s->closed)) {
        return PAC_CLOSED;
    }
    if (s->available < n || !pac_list_is_empty(&s->waiters)) {
        return PAC_BUSY;
    }
    s->available -= n;
    return PAC_OK;
}

enum pac_status
pac_semaphore_try_acquire(struct pac_semaphore *s, uint64_t n)
{
    pac_lock_acquire(&s->lock);
    enum pac_status status = take_at_once(s, n);
    pac_lock_release(&s->lock);
    return status;
}

/* acquire: pairs with the release in let_go. A mark that the waiting side has set itself is read
 * by the same side only. */
static inline uint8_t
mark_of(struct pac_acquire *a)
{
    return pac_atomic_load(&a->mark, PAC_ACQUIRE);
}

/* Under the lock: into the line, with all that is available if it is the first there. */
static inline void
join_line(struct pac_semaphore *s, struct pac_acquire *a)
{
    bool is_first = pac_list_is_empty(&s->waiters);
    pac_list_push_back(&s->waiters, &a->node);
    PAC_COUNT(waiters, 1);
    if (is_first) {
        PAC_ASSERT(s->available < a->missing);
        a->missing -= s->available;
        s->available = 0;
    }
}

/* The first poll: true if it is marked already. */
static bool
start_waiting(struct pac_acquire *a, const struct pac_waker *waker)
{
    struct pac_semaphore *s = a->semaphore;
    struct pac_waker kept = PAC_NO_WAKER;

    a->state = PAC_ACQUIRE_WAITING;
    enum pac_status status = pac_semaphore_try_acquire(s, a->wanted);
    if (PAC_UNLIKELY(status == PAC_BUSY)) {
        /* Cloning can run anything, a release too, so before the lock. */
        kept = pac_waker_clone(waker);
        pac_lock_acquire(&s->lock);
        status = take_at_once(s, a->wanted);
        if (status == PAC_BUSY) {
            a->waker = kept;
            join_line(s, a);
        }
        pac_lock_release(&s->lock);
        if (status == PAC_BUSY) {
            return false;
        }
    }
    if (status == PAC_OK) {
        a->missing = 0;
    }
    /* relaxed: it stands in no list, so nobody else looks at its mark. */
    pac_atomic_store(&a->mark, status == PAC_OK ? MARK_GRANTED : MARK_CLOSED, PAC_RELAXED);
    pac_waker_drop(&kept);
    return true;
}

/* Any later poll: true if it is marked by now. */
static inline bool
keep_waiting(struct pac_acquire *a, const struct pac_waker *waker)
{
    if (mark_of(a) != MARK_NONE) {
        return true;
    }
    if (pac_waker_will_wake(&a->waker, waker)) {
        return false;
    }
    struct pac_waker spare = pac_waker_clone(waker);
    pac_lock_acquire(&a->semaphore->lock);
    bool marked = mark_of(a) != MARK_NONE;
    if (!marked) {
        struct pac_waker replaced = a->waker;
        a->waker = spare;
        spare = replaced;
    }
    pac_lock_release(&a->semaphore->lock);
    /* Dropping can run anything too, so after the lock. */
    pac_waker_drop(&spare);
    return marked;
}

enum pac_poll
pac_acquire_poll(struct pac_acquire *a, struct pac_context *cx)
{
    PAC_ASSERT(a->state != PAC_ACQUIRE_DONE);
    bool marked =
        a->state == PAC_ACQUIRE_INIT ? start_waiting(a, cx->waker) : keep_waiting(a, cx->waker);
    if (!marked || !pac_budget_spend(cx)) {
        return PAC_PENDING;
    }
    a->state = PAC_ACQUIRE_DONE;
    return PAC_READY;
}

enum pac_status
pac_acquire_status(struct pac_acquire *a)
{
    return mark_of(a) == MARK_CLOSED ? PAC_CLOSED : PAC_OK;
}

void
pac_acquire_drop(struct pac_acquire *a)
{
    struct pac_semaphore *s = a->semaphore;
    uint8_t state = a->state;
    a->state = PAC_ACQUIRE_DONE;
    /* The same acquire as in keep_waiting: who sees the mark may free the future. */
    if (state != PAC_ACQUIRE_WAITING || mark_of(a) == MARK_CLOSED) {
        return;
    }
    pac_lock_acquire(&s->lock);
    uint8_t mark = mark_of(a);
    if (mark == MARK_NONE) {
        pac_list_remove(&a->node);
        PAC_COUNT(waiters, -1);
    }
    if (mark != MARK_CLOSED) {
        put_back(s, a->wanted - a->missing);
    }
    hand_out_and_unlock(s);
    if (mark == MARK_NONE) {
        pac_waker_drop(&a->waker);
    }
}

static enum pac_poll
acquire_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_acquire_poll(PAC_CONTAINER_OF(self, struct pac_acquire, future), cx);
}

static void
acquire_vtable_drop(struct pac_future *self)
{
    pac_acquire_drop(PAC_CONTAINER_OF(self, struct pac_acquire, future));
}

static const struct pac_future_vtable acquire_vtable = {
    .poll = acquire_vtable_poll,
    .drop = acquire_vtable_drop,
};

void
pac_acquire_init(struct pac_acquire *a, struct pac_semaphore *s, uint64_t n)
{
    PAC_ASSERT(0 < n && n <= PAC_SEMAPHORE_MAX);
    a->future.vtable = &acquire_vtable;
    a->semaphore = s;
    a->wanted = a->missing = n;
    a->node = (struct pac_list_node){NULL, NULL};
    a->waker = PAC_NO_WAKER;
    pac_atomic_init(&a->mark, MARK_NONE);
    a->state = PAC_ACQUIRE_INIT;
}
