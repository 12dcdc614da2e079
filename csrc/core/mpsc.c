/* mpsc.c - a ring under a lock, and three lines of those who wait.
 *
 *   sending ──► [ ring: at most `capacity` values ] ──► receiving ──woken, one for a value──► woken
 *
 * 1. Somebody is in `sending` only while the ring is full: every receive that makes room moves the
 *    first one's value in under the same lock. So who comes to a ring with room need not look at
 *    the line, and nobody overtakes.
 * 2. The ring of a full bounded channel has room for `capacity`, so moving values in does not
 *    allocate; only a send that finds room does, and it does so without the lock.
 * 3. Nobody is in `receiving` while there are more values than receives in `woken`. A receive that
 *    is not in `woken` leaves one value for each that is. try_recv does not; a woken receive that
 *    finds nothing goes back to the front of the line. A value that a receive has let in by making
 *    room is news like any other, unless the same receive goes on to take it.
 * 4. When the last value goes and none can come, all receives are woken to learn it.
 * 5. The ring grows by doubling. It shrinks by half, once it is large and three quarters empty, so
 *    the memory of a burst is given back.
 */
#include "mpsc.h"

#include <string.h>

enum {
    SIZE_FIRST = PAC_SHRUNK(32, 1),  /* slots */
    SIZE_KEPT = PAC_SHRUNK(1024, 2), /* a ring of so many does not shrink */
};

/* ---- the ring ------------------------------------------------------------------------------- */

static inline void
push(struct pac_mpsc *m, void *value)
{
    PAC_ASSERT(m->length < m->size);
    m->ring[(m->head + m->length++) & (m->size - 1)] = value;
}

static inline void *
pop(struct pac_mpsc *m)
{
    void *value = m->ring[m->head];
    m->head = (m->head + 1) & (m->size - 1);
    m->length--;
    return value;
}

/* Without the lock: replace a ring of `old_size` by one of `size` slots, if it is still of that
 * size and its values fit. False: no memory. */
static bool
resize(struct pac_mpsc *m, size_t old_size, size_t size)
{
    void **ring = size > SIZE_MAX / sizeof *ring ? NULL : pac_alloc(size * sizeof *ring);
    if (ring == NULL) {
        return false;
    }
    pac_lock_acquire(&m->lock);
    if (m->size == old_size && m->length <= size) {
        size_t head = m->head, length = m->length;
        size_t first = old_size - head < length ? old_size - head : length;
        if (length > 0) {
            memcpy(ring, m->ring + head, first * sizeof *ring);
            memcpy(ring + first, m->ring, (length - first) * sizeof *ring);
        }
        void **old = m->ring;
        m->ring = ring;
        m->size = size;
        m->head = 0;
        ring = old;
    }
    pac_lock_release(&m->lock);
    pac_free(ring);
    return true;
}

static inline bool
is_sparse(const struct pac_mpsc *m)
{
    return PAC_UNLIKELY(m->size > SIZE_KEPT && m->length < m->size / 4);
}

void
pac_mpsc_init(struct pac_mpsc *m, size_t capacity, void (*destroy)(void *value))
{
    *m = (struct pac_mpsc){.destroy = destroy, .capacity = capacity, .senders = 1};
    pac_list_init(&m->sending);
    pac_list_init(&m->receiving);
    pac_list_init(&m->woken);
    pac_list_init(&m->closings);
}

void
pac_mpsc_fini(struct pac_mpsc *m)
{
    PAC_ASSERT(pac_list_is_empty(&m->sending) && pac_list_is_empty(&m->receiving));
    PAC_ASSERT(pac_list_is_empty(&m->woken) && pac_list_is_empty(&m->closings));
    pac_mpsc_drop_receiver(m);
    pac_free(m->ring);
    m->ring = NULL;
    m->size = 0;
}

size_t
pac_mpsc_length(struct pac_mpsc *m)
{
    pac_lock_acquire(&m->lock);
    size_t length = m->length;
    pac_lock_release(&m->lock);
    return length;
}

int
pac_mpsc_visit(struct pac_mpsc *m, int (*visit)(void *value, void *arg), void *arg)
{
    for (size_t i = 0; i < m->length; i++) {
        int stop = visit(m->ring[(m->head + i) & (m->size - 1)], arg);
        if (stop != 0) {
            return stop;
        }
    }
    return 0;
}

/* ---- who waits to receive ------------------------------------------------------------------- */

/* Under the lock: a value has come, or one that was meant for somebody is free again. Returns the
 * waker of who is to look at it. */
static inline struct pac_waker
wake_one_receiver(struct pac_mpsc *m)
{
    struct pac_list_node *node;
    if (PAC_LIKELY(m->length <= m->woken_count) || (node = pac_list_first(&m->receiving)) == NULL) {
        return PAC_NO_WAKER;
    }
    struct pac_mpsc_recv *f = PAC_LIST_ENTRY(node, struct pac_mpsc_recv, waiter.node);
    struct pac_waker waker = f->waiter.waker;
    f->waiter.waker = PAC_NO_WAKER;
    pac_list_remove(node);
    pac_list_push_back(&m->woken, node);
    f->was_woken = true;
    m->woken_count++;
    return waker;
}

static inline bool
is_over(const struct pac_mpsc *m)
{
    return m->length == 0 && (m->closed || m->senders == 0);
}

/* Enter with the lock; returns without it. Point 4. */
static void
tell_if_over(struct pac_mpsc *m)
{
    if (is_over(m)) {
        pac_waiters_wake_all(&m->receiving, &m->lock);
    }
    else {
        pac_lock_release(&m->lock);
    }
}

/* ---- sending -------------------------------------------------------------------------------- */

void
pac_mpsc_add_sender(struct pac_mpsc *m)
{
    pac_lock_acquire(&m->lock);
    m->senders++;
    pac_lock_release(&m->lock);
}

void
pac_mpsc_drop_sender(struct pac_mpsc *m)
{
    pac_lock_acquire(&m->lock);
    PAC_ASSERT(m->senders > 0);
    m->senders--;
    tell_if_over(m);
}

/* Enter and return with the lock. PAC_OK: the ring has a slot to push to. PAC_FULL: the channel has
 * none; PAC_NO_MEMORY. */
static inline enum pac_status
make_room(struct pac_mpsc *m)
{
    while (m->length < m->capacity) {
        if (PAC_LIKELY(m->length < m->size)) {
            return PAC_OK;
        }
        size_t size = m->size;
        pac_lock_release(&m->lock);
        bool resized = resize(m, size, size == 0 ? SIZE_FIRST : size * 2);
        pac_lock_acquire(&m->lock);
        if (!resized) {
            return PAC_NO_MEMORY;
        }
    }
    return PAC_FULL;
}

enum pac_status
pac_mpsc_try_send(struct pac_mpsc *m, void *value)
{
    struct pac_waker waker = PAC_NO_WAKER;
    pac_lock_acquire(&m->lock);
    enum pac_status status = make_room(m);
    if (PAC_UNLIKELY(m->closed)) {
        status = PAC_CLOSED;
    }
    if (PAC_LIKELY(status == PAC_OK)) {
        push(m, value);
        waker = wake_one_receiver(m);
    }
    pac_lock_release(&m->lock);
    pac_waker_wake(&waker);
    return status;
}

bool
pac_mpsc_is_closed(struct pac_mpsc *m)
{
    pac_lock_acquire(&m->lock);
    bool closed = m->closed;
    pac_lock_release(&m->lock);
    return closed;
}

void
pac_mpsc_closed_init(struct pac_flag_wait *f, struct pac_mpsc *m)
{
    pac_flag_wait_init(f, &m->lock, &m->closings, &m->closed);
}


/* Under the lock: what a send comes to now; PAC_FULL: it waits. */
static inline enum pac_status
try_to_send(struct pac_mpsc_send *f, struct pac_waker *receiver)
{
    struct pac_mpsc *m = f->channel;
    if (f->state == PAC_MPSC_SENT) {
        return PAC_OK;
    }
    /* Who stands in the line is let in by a receive alone. */
    enum pac_status status = f->state == PAC_MPSC_WAITING ? PAC_FULL : make_room(m);
    if (PAC_UNLIKELY(m->closed)) {
        f->state = PAC_MPSC_REFUSED;
        return PAC_CLOSED;
    }
    if (PAC_LIKELY(status == PAC_OK)) {
        push(m, f->value);
        f->state = PAC_MPSC_SENT;
        *receiver = wake_one_receiver(m);
    }
    return status;
}

/* Under the lock: there is a slot, and nobody waits for the value; the usual case. Its status is
 * PAC_OK still, and it stands in no line. */
static inline bool
goes_straight_in(const struct pac_mpsc *m, const struct pac_mpsc_send *f)
{
    return f->state == PAC_MPSC_UNSENT && m->length < m->size && m->length < m->capacity &&
           !m->closed && f->status == PAC_OK && pac_list_is_empty(&m->receiving);
}

enum pac_poll
pac_mpsc_send_poll(struct pac_mpsc_send *f, struct pac_context *cx)
{
    struct pac_mpsc *m = f->channel;
    struct pac_waker spare = PAC_NO_WAKER, receiver = PAC_NO_WAKER, old;

    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return PAC_PENDING;
    }
    pac_lock_acquire(&m->lock);
    if (PAC_LIKELY(goes_straight_in(m, f))) {
        push(m, f->value);
        f->state = PAC_MPSC_SENT;
        pac_lock_release(&m->lock);
        return PAC_READY;
    }
    while ((f->status = try_to_send(f, &receiver)) == PAC_FULL) {
        if (pac_waiter_arm(&f->waiter, &m->sending, cx->waker, &spare)) {
            f->state = PAC_MPSC_WAITING;
            pac_lock_release(&m->lock);
            pac_waker_drop(&spare);
            pac_budget_refund();
            return PAC_PENDING;
        }
        pac_lock_release(&m->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(&m->lock);
    }
    old = pac_waiter_disarm(&f->waiter);
    pac_lock_release(&m->lock);
    pac_waker_wake(&receiver);
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    return PAC_READY;
}

void
pac_mpsc_send_drop(struct pac_mpsc_send *f)
{
    if (!f->waiter.armed) {
        return;
    }
    pac_lock_acquire(&f->channel->lock);
    struct pac_waker old = pac_waiter_disarm(&f->waiter);
    if (f->state == PAC_MPSC_WAITING) {
        f->state = PAC_MPSC_UNSENT;
    }
    pac_lock_release(&f->channel->lock);
    pac_waker_drop(&old);
}

bool
pac_mpsc_send_was_sent(struct pac_mpsc_send *f)
{
    pac_lock_acquire(&f->channel->lock);
    bool sent = f->state == PAC_MPSC_SENT;
    pac_lock_release(&f->channel->lock);
    return sent;
}

static enum pac_poll
send_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_mpsc_send_poll(PAC_CONTAINER_OF(f, struct pac_mpsc_send, future), cx);
}

static void
send_vtable_drop(struct pac_future *f)
{
    pac_mpsc_send_drop(PAC_CONTAINER_OF(f, struct pac_mpsc_send, future));
}

static const struct pac_future_vtable send_vtable = {
    .poll = send_vtable_poll,
    .drop = send_vtable_drop,
};

void
pac_mpsc_send_init(struct pac_mpsc_send *f, struct pac_mpsc *m, void *value)
{
    f->future.vtable = &send_vtable;
    f->channel = m;
    f->value = value;
    pac_waiter_init(&f->waiter);
    f->state = PAC_MPSC_UNSENT;
    f->status = PAC_OK;
}

/* ---- receiving ------------------------------------------------------------------------------ */

/* Under the lock: there is room, so the first of those who wait to send is in. (Nobody waits in a
 * closed channel: closing empties the line under the same lock.) */
static void
let_sender_in(struct pac_mpsc *m, struct pac_wake_batch *batch)
{
    struct pac_list_node *node = pac_list_first(&m->sending);
    if (node != NULL) {
        struct pac_mpsc_send *f = PAC_LIST_ENTRY(node, struct pac_mpsc_send, waiter.node);
        struct pac_waker waker = pac_waiter_take(&f->waiter);
        pac_wake_batch_add(batch, &waker);
        push(m, f->value);
        f->state = PAC_MPSC_SENT; /* the last that is done with it: its owner may free it */
    }
}

/* Enter and return with the lock, after taking values: those that were let in meanwhile are for
 * those who wait. */
static inline void
wake_receivers(struct pac_mpsc *m, struct pac_wake_batch *batch)
{
    while (m->length > m->woken_count && !pac_list_is_empty(&m->receiving)) {
        if (pac_wake_batch_is_full(batch)) {
            pac_lock_release(&m->lock);
            pac_wake_batch_wake(batch);
            pac_lock_acquire(&m->lock);
            continue;
        }
        struct pac_waker waker = wake_one_receiver(m);
        pac_wake_batch_add(batch, &waker);
    }
}

/* Enter with the lock after taking values; returns without it. */
static inline void
after_taking(struct pac_mpsc *m, struct pac_wake_batch *batch)
{
    wake_receivers(m, batch);
    size_t size = m->size;
    bool sparse = is_sparse(m);
    tell_if_over(m);
    pac_wake_batch_wake(batch);
    if (sparse) {
        /* If there is no memory for a smaller ring, the larger one stays. */
        (void)resize(m, size, size / 2);
    }
}

enum pac_status
pac_mpsc_try_recv(struct pac_mpsc *m, void **value)
{
    struct pac_wake_batch batch;
    pac_lock_acquire(&m->lock);
    if (m->length == 0) {
        enum pac_status status = is_over(m) ? PAC_CLOSED : PAC_EMPTY;
        pac_lock_release(&m->lock);
        return status;
    }
    pac_wake_batch_init(&batch);
    *value = pop(m);
    let_sender_in(m, &batch);
    after_taking(m, &batch);
    return PAC_OK;
}

void
pac_mpsc_close(struct pac_mpsc *m)
{
    pac_lock_acquire(&m->lock);
    m->closed = true;
    pac_waiters_wake_all(&m->sending, &m->lock);
    pac_lock_acquire(&m->lock);
    pac_waiters_wake_all(&m->closings, &m->lock);
    pac_lock_acquire(&m->lock);
    tell_if_over(m);
}

void
pac_mpsc_drop_receiver(struct pac_mpsc *m)
{
    void *value;
    pac_mpsc_close(m);
    while (pac_mpsc_try_recv(m, &value) == PAC_OK) {
        if (m->destroy != NULL) {
            m->destroy(value);
        }
    }
}

/* Under the lock: how many values this receive may take. The others that were woken have one
 * coming to each; but who was woken is not turned away while there is any. */
static inline size_t
share_of(const struct pac_mpsc *m, const struct pac_mpsc_recv *f)
{
    size_t others = m->woken_count - f->was_woken;
    if (PAC_LIKELY(m->length > others)) {
        return m->length - others;
    }
    return f->was_woken && m->length > 0;
}

/* Under the lock, when it need not wait: leave the lines. */
static inline struct pac_waker
leave_line(struct pac_mpsc *m, struct pac_mpsc_recv *f)
{
    if (f->was_woken) {
        f->was_woken = false;
        m->woken_count--;
    }
    return pac_waiter_disarm(&f->waiter);
}

/* Enter with the lock and a share of at least one; returns without. */
static inline void
take_values(struct pac_mpsc *m, struct pac_mpsc_recv *f)
{
    struct pac_wake_batch batch;
    size_t share;
    pac_wake_batch_init(&batch);
    struct pac_waker old = leave_line(m, f);
    f->values[0] = pop(m);
    f->count = 1;
    let_sender_in(m, &batch);
    while (PAC_UNLIKELY(f->count < f->limit) && (share = share_of(m, f)) > 0) {
        for (; share > 0 && f->count < f->limit && !pac_wake_batch_is_full(&batch); share--) {
            f->values[f->count++] = pop(m);
            let_sender_in(m, &batch);
        }
        if (pac_wake_batch_is_full(&batch)) {
            pac_lock_release(&m->lock);
            pac_wake_batch_wake(&batch);
            pac_lock_acquire(&m->lock);
        }
    }
    after_taking(m, &batch);
    pac_waker_drop(&old);
}

/* Under the lock: nothing but the ring changes when `f` takes a value, which is the usual case. What
 * remains is no news to anybody, and who is woken has one left. */
static inline bool
concerns_nobody_else(const struct pac_mpsc *m, const struct pac_mpsc_recv *f)
{
    return m->length > m->woken_count + 1 && f->limit == 1 && !f->waiter.armed &&
           pac_list_is_empty(&m->sending) && m->size <= SIZE_KEPT;
}

/* Under the lock: true if it waits, with this waker. */
static bool
wait_in_line(struct pac_mpsc *m, struct pac_mpsc_recv *f, const struct pac_waker *waker,
             struct pac_waker *spare)
{
    if (f->was_woken) {
        /* Its value was taken by a try_recv: the first in line again. */
        f->was_woken = false;
        m->woken_count--;
        pac_list_remove(&f->waiter.node);
        pac_list_push_front(&m->receiving, &f->waiter.node);
    }
    return pac_waiter_arm(&f->waiter, &m->receiving, waker, spare);
}

enum pac_poll
pac_mpsc_recv_poll(struct pac_mpsc_recv *f, struct pac_context *cx)
{
    struct pac_mpsc *m = f->channel;
    struct pac_waker spare = PAC_NO_WAKER;

    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return PAC_PENDING;
    }
    f->count = 0;
    f->status = PAC_OK;
    pac_lock_acquire(&m->lock);
    if (PAC_LIKELY(concerns_nobody_else(m, f))) {
        f->values[f->count++] = pop(m);
        pac_lock_release(&m->lock);
        return PAC_READY;
    }
    while (share_of(m, f) == 0) {
        if (is_over(m)) {
            f->status = PAC_CLOSED;
            struct pac_waker old = leave_line(m, f);
            pac_lock_release(&m->lock);
            pac_waker_drop(&old);
            pac_waker_drop(&spare);
            return PAC_READY;
        }
        if (wait_in_line(m, f, cx->waker, &spare)) {
            pac_lock_release(&m->lock);
            pac_waker_drop(&spare);
            pac_budget_refund();
            return PAC_PENDING;
        }
        pac_lock_release(&m->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(&m->lock);
    }
    take_values(m, f);
    pac_waker_drop(&spare);
    return PAC_READY;
}

void
pac_mpsc_recv_drop(struct pac_mpsc_recv *f)
{
    struct pac_mpsc *m = f->channel;
    if (!f->waiter.armed) {
        return;
    }
    pac_lock_acquire(&m->lock);
    struct pac_waker old = leave_line(m, f);
    /* The value that it was woken for is there for somebody else. */
    struct pac_waker next = wake_one_receiver(m);
    pac_lock_release(&m->lock);
    pac_waker_wake(&next);
    pac_waker_drop(&old);
}

static enum pac_poll
recv_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_mpsc_recv_poll(PAC_CONTAINER_OF(f, struct pac_mpsc_recv, future), cx);
}

static void
recv_vtable_drop(struct pac_future *f)
{
    pac_mpsc_recv_drop(PAC_CONTAINER_OF(f, struct pac_mpsc_recv, future));
}

static const struct pac_future_vtable recv_vtable = {
    .poll = recv_vtable_poll,
    .drop = recv_vtable_drop,
};

void
pac_mpsc_recv_init(struct pac_mpsc_recv *f, struct pac_mpsc *m, void **values, size_t limit)
{
    f->future.vtable = &recv_vtable;
    f->channel = m;
    f->values = values;
    f->limit = limit;
    f->count = 0;
    pac_waiter_init(&f->waiter);
    f->was_woken = false;
    f->status = PAC_EMPTY;
}
