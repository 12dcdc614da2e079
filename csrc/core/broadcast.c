/* broadcast.c - a chain of values, and receivers that walk along it.
 *
 *   oldest ─► value ─► value ─► value ─► (empty) ◄─ end
 *               ▲                 ▲         ▲
 *           receiver          receiver   receiver that has seen all
 *
 * 1. The last node is always empty: who has seen all stands there, and a send fills it.
 * 2. A node counts the receivers that have not seen it. Whoever has not seen one has not seen those
 *    after it, save those sent before it subscribed; so the counts never fall along the chain, and
 *    a node that nobody wants any more is the oldest.
 * 3. A send into a full channel takes the oldest node away. A receiver that stood there finds out
 *    by its number, before it looks at the node.
 */
#include "broadcast.h"

/* The channel's lock guards all three. */
struct pac_broadcast_node {
    PAC_CELL(struct pac_broadcast_node *) next;
    PAC_CELL(void *) value;
    PAC_CELL(size_t) unseen; /* how many receivers have not seen it */
};

static struct pac_broadcast_node *
node_new(void)
{
    struct pac_broadcast_node *node = pac_alloc(sizeof *node);
    if (node != NULL) {
        *node = (struct pac_broadcast_node){NULL, NULL, 0};
    }
    return node;
}

enum pac_status
pac_broadcast_init(struct pac_broadcast *b, size_t capacity, void *(*clone)(void *value),
                   void (*destroy)(void *value))
{
    *b = (struct pac_broadcast){.clone = clone,
                                .destroy = destroy,
                                .capacity = capacity,
                                .senders = 1,
                                .closed = true};
    b->oldest = b->end = node_new();
    pac_list_init(&b->receiving);
    pac_list_init(&b->closings);
    return b->end == NULL ? PAC_NO_MEMORY : PAC_OK;
}

void
pac_broadcast_fini(struct pac_broadcast *b)
{
    PAC_ASSERT(pac_list_is_empty(&b->receiving) && pac_list_is_empty(&b->closings));
    PAC_ASSERT(b->receivers == 0 && b->oldest == b->end);
    pac_free(b->end);
    b->oldest = b->end = NULL;
}

/* Under the lock: the oldest node leaves the chain, and is the caller's. */
static struct pac_broadcast_node *
pop_oldest(struct pac_broadcast *b)
{
    struct pac_broadcast_node *node = b->oldest;
    PAC_ASSERT(node != b->end);
    b->oldest = node->next;
    b->oldest_at++;
    return node;
}

/* Without the lock: what was taken out of the chain, up to `end`, which stays. */
static void
destroy_nodes(struct pac_broadcast *b, struct pac_broadcast_node *node,
              struct pac_broadcast_node *end)
{
    while (node != end) {
        struct pac_broadcast_node *next = node->next;
        b->destroy(node->value);
        pac_free(node);
        node = next;
    }
}

void
pac_broadcast_clear(struct pac_broadcast *b)
{
    pac_lock_acquire(&b->lock);
    struct pac_broadcast_node *oldest = b->oldest, *end = b->end;
    b->oldest = end;
    b->oldest_at = b->end_at;
    pac_lock_release(&b->lock);
    destroy_nodes(b, oldest, end);
}

int
pac_broadcast_visit(struct pac_broadcast *b, int (*visit)(void *value, void *arg), void *arg)
{
    for (struct pac_broadcast_node *node = b->oldest; node != b->end; node = node->next) {
        int stop = visit(node->value, arg);
        if (stop != 0) {
            return stop;
        }
    }
    return 0;
}

/* ---- sending -------------------------------------------------------------------------------- */

void
pac_broadcast_add_sender(struct pac_broadcast *b)
{
    pac_lock_acquire(&b->lock);
    b->senders++;
    pac_lock_release(&b->lock);
}

void
pac_broadcast_drop_sender(struct pac_broadcast *b)
{
    pac_lock_acquire(&b->lock);
    PAC_ASSERT(b->senders > 0);
    if (--b->senders > 0) {
        pac_lock_release(&b->lock);
        return;
    }
    pac_waiters_wake_all(&b->receiving, &b->lock);
}

enum pac_status
pac_broadcast_send(struct pac_broadcast *b, void *value, size_t *receivers)
{
    struct pac_broadcast_node *lost = NULL, *empty = node_new();
    if (empty == NULL) {
        return PAC_NO_MEMORY;
    }
    pac_lock_acquire(&b->lock);
    if (b->receivers == 0) {
        pac_lock_release(&b->lock);
        pac_free(empty);
        return PAC_CLOSED;
    }
    b->end->value = value;
    b->end->unseen = *receivers = b->receivers;
    b->end->next = empty;
    b->end = empty;
    if (++b->end_at - b->oldest_at > b->capacity) {
        lost = pop_oldest(b);
    }
    pac_waiters_wake_all(&b->receiving, &b->lock);
    if (lost != NULL) {
        b->destroy(lost->value);
        pac_free(lost);
    }
    return PAC_OK;
}

bool
pac_broadcast_is_closed(struct pac_broadcast *b)
{
    pac_lock_acquire(&b->lock);
    bool closed = b->closed;
    pac_lock_release(&b->lock);
    return closed;
}

void
pac_broadcast_closed_init(struct pac_flag_wait *f, struct pac_broadcast *b)
{
    pac_flag_wait_init(f, &b->lock, &b->closings, &b->closed);
}

/* ---- receiving ------------------------------------------------------------------------------ */

void
pac_broadcast_subscribe(struct pac_broadcast_receiver *r, struct pac_broadcast *b)
{
    r->channel = b;
    r->gone = false;
    pac_lock_acquire(&b->lock);
    b->receivers++;
    b->closed = false;
    r->next = b->end;
    r->at = b->end_at;
    pac_lock_release(&b->lock);
}

/* Under the lock: how many values it has lost since it looked last; it stands at the oldest one
 * then. */
static inline uint64_t
catch_up(struct pac_broadcast_receiver *r)
{
    struct pac_broadcast *b = r->channel;
    uint64_t skipped = 0;
    if (PAC_UNLIKELY(r->at < b->oldest_at)) {
        skipped = b->oldest_at - r->at;
        r->at = b->oldest_at;
        r->next = b->oldest;
    }
    return skipped;
}

void
pac_broadcast_unsubscribe(struct pac_broadcast_receiver *r)
{
    struct pac_broadcast *b = r->channel;
    struct pac_broadcast_node *unwanted, *node;
    pac_lock_acquire(&b->lock);
    if (r->gone) {
        pac_lock_release(&b->lock);
        return;
    }
    r->gone = true;
    (void)catch_up(r);
    for (node = r->next; node != b->end; node = node->next) {
        node->unseen--;
    }
    r->next = b->end;
    r->at = b->end_at;
    /* What nobody wants any more is a piece of the chain's beginning. */
    unwanted = b->oldest;
    while (b->oldest != b->end && b->oldest->unseen == 0) {
        (void)pop_oldest(b);
    }
    struct pac_broadcast_node *wanted = b->oldest;
    b->closed = --b->receivers == 0;
    pac_waiters_wake_all(&b->receiving, &b->lock);
    pac_lock_acquire(&b->lock);
    if (b->closed) {
        pac_waiters_wake_all(&b->closings, &b->lock);
    }
    else {
        pac_lock_release(&b->lock);
    }
    destroy_nodes(b, unwanted, wanted);
}

size_t
pac_broadcast_length(struct pac_broadcast_receiver *r)
{
    struct pac_broadcast *b = r->channel;
    pac_lock_acquire(&b->lock);
    uint64_t from = r->at < b->oldest_at ? b->oldest_at : r->at;
    size_t length = (size_t)(b->end_at - from);
    pac_lock_release(&b->lock);
    return length;
}

/* Under the lock. *unused is a node to be freed after it, or NULL. */
static enum pac_status
take(struct pac_broadcast_receiver *r, void **value, uint64_t *skipped,
     struct pac_broadcast_node **unused)
{
    struct pac_broadcast *b = r->channel;
    *unused = NULL;
    if (PAC_UNLIKELY(r->gone)) {
        return PAC_CLOSED;
    }
    if ((*skipped = catch_up(r)) > 0) {
        return PAC_LAGGED;
    }
    if (r->at == b->end_at) {
        return b->senders == 0 ? PAC_CLOSED : PAC_EMPTY;
    }
    struct pac_broadcast_node *node = r->next;
    r->next = node->next;
    r->at++;
    *value = node->value;
    if (--node->unseen == 0) {
        /* The last to see it takes the channel's own. */
        PAC_ASSERT(node == b->oldest);
        *unused = pop_oldest(b);
    }
    else {
        *value = b->clone(node->value);
    }
    return PAC_OK;
}

enum pac_status
pac_broadcast_try_recv(struct pac_broadcast_receiver *r, void **value, uint64_t *skipped)
{
    struct pac_broadcast_node *unused;
    pac_lock_acquire(&r->channel->lock);
    enum pac_status status = take(r, value, skipped, &unused);
    pac_lock_release(&r->channel->lock);
    pac_free(unused);
    return status;
}

enum pac_poll
pac_broadcast_recv_poll(struct pac_broadcast_recv *f, struct pac_context *cx)
{
    struct pac_broadcast *b = f->receiver->channel;
    struct pac_broadcast_node *unused;
    struct pac_waker spare = PAC_NO_WAKER;

    if (PAC_UNLIKELY(!pac_budget_spend(cx))) {
        return PAC_PENDING;
    }
    pac_lock_acquire(&b->lock);
    while ((f->status = take(f->receiver, &f->value, &f->skipped, &unused)) == PAC_EMPTY) {
        if (pac_waiter_arm(&f->waiter, &b->receiving, cx->waker, &spare)) {
            pac_lock_release(&b->lock);
            pac_waker_drop(&spare);
            pac_budget_refund();
            return PAC_PENDING;
        }
        pac_lock_release(&b->lock);
        spare = pac_waker_clone(cx->waker);
        pac_lock_acquire(&b->lock);
    }
    struct pac_waker old = pac_waiter_disarm(&f->waiter);
    pac_lock_release(&b->lock);
    pac_free(unused);
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    return PAC_READY;
}

void
pac_broadcast_recv_drop(struct pac_broadcast_recv *f)
{
    pac_waiter_leave(&f->waiter, &f->receiver->channel->lock);
}

static enum pac_poll
recv_vtable_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_broadcast_recv_poll(PAC_CONTAINER_OF(f, struct pac_broadcast_recv, future), cx);
}

static void
recv_vtable_drop(struct pac_future *f)
{
    pac_broadcast_recv_drop(PAC_CONTAINER_OF(f, struct pac_broadcast_recv, future));
}

static const struct pac_future_vtable recv_vtable = {
    .poll = recv_vtable_poll,
    .drop = recv_vtable_drop,
};

void
pac_broadcast_recv_init(struct pac_broadcast_recv *f, struct pac_broadcast_receiver *r)
{
    f->future.vtable = &recv_vtable;
    f->receiver = r;
    f->status = PAC_EMPTY;
    f->value = NULL;
    f->skipped = 0;
    pac_waiter_init(&f->waiter);
}
