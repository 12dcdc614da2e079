/* node.c - the futures of a random program. */
#include "node.h"

#include "async.h"
#include "join.h"
#include "select.h"
#include "task.h"

#include <stdlib.h>
#include <string.h>

enum kind {
    DELAY,
    NOTIFIED,
    EVENT_WAIT,
    BARRIER_WAIT,
    CANCELLED,
    ONESHOT_RECV,
    ONESHOT_CLOSED,
    MPSC_SEND,
    MPSC_RECV,
    MPSC_CLOSED,
    BROADCAST_RECV,
    BROADCAST_CLOSED,
    WATCH_CHANGED,
    WATCH_CLOSED,
    PROMISE,
    IO_READY,
    YIELD,
    JOIN_HANDLE,
    LEAVES,
    GUARD = LEAVES, /* acquire, await the child, release */
    ONCE,           /* get or initialise, by the child */
    JOIN,
    SELECT,
    SEQUENCE, /* one child after the other, as an async function */
    PLACE,    /* whose content may be moved to another task */
    KINDS,
};

static const char *const names[KINDS] = {
    "delay",          "notified",     "event",   "barrier",     "cancelled", "oneshot",
    "oneshot_closed", "send",         "recv",    "mpsc_closed", "broadcast", "broadcast_closed",
    "watch",          "watch_closed", "promise", "io",          "yield",     "join_handle",
    "guard",          "once",         "join",    "select",      "sequence",  "place",
};

enum { FRESH, PENDING, READY, DROPPED };
enum { CHILDREN = 3 };

struct sequence {
    struct pac_async async;
    struct node *node;
    unsigned at;
};

struct node {
    struct pac_future future;
    struct pac_list_node live; /* then among the dropped */
    enum kind kind;
    unsigned id;
    int state;
    bool busy;         /* a poll or a drop is in progress */
    bool moves;        /* has places below it */
    bool inside;       /* a guard that holds */
    int which, mode;   /* its thing; of a guard */
    uint64_t amount;   /* permits; yields that are left; 1: an enabled notified has taken its own */
    uint64_t number;   /* when it came into line; 0: not yet */
    uint64_t seen;     /* broadcasts of a notify, times of an event, when it was made */
    unsigned *users;   /* of its thing */
    struct task *task; /* that polled it last */
    struct pac_executor *armed_on;
    struct value *value;
    struct value *received[CHILDREN];
    struct node *children[CHILDREN];
    struct pac_future *members[CHILDREN];
    unsigned count;
    enum pac_status outcome;      /* of the initialiser below this */
    enum pac_status *initialises; /* this is one: where to write it */
    union {
        struct pac_delay delay;
        struct pac_notified notified;
        struct pac_event_wait event;
        struct pac_barrier_wait barrier;
        struct pac_cancelled cancelled;
        struct pac_oneshot_recv oneshot;
        struct pac_mpsc_send send;
        struct pac_mpsc_recv recv;
        struct pac_broadcast_recv broadcast;
        struct pac_watch_changed watch;
        struct pac_flag_wait flag;
        struct promise_thing *promise;
        struct pac_io_ready io;
        struct pac_join_handle handle;
        struct pac_acquire acquire;
        struct pac_get_or_init once;
        struct pac_join join;
        struct pac_select select;
        struct sequence sequence;
    } as;
};

enum { GARBAGE = 0xa5, MARK_ALL = 3 /* of notify.c: a broadcast */ };

static struct pac_list live, dropped;
static unsigned ids;
static bool in_place; /* what is made is for a place */
static const struct pac_future_vtable node_vtable;

void
nodes_init(void)
{
    pac_list_init(&live);
    pac_list_init(&dropped);
    ids = 0;
    in_place = false;
}

struct pac_future *
node_future(struct node *n)
{
    return &n->future;
}

static struct node *
node_of(struct pac_list_node *link)
{
    return PAC_LIST_ENTRY(link, struct node, live);
}

/* ---- making ----------------------------------------------------------------------------------- */

static uint64_t
random_deadline(void)
{
    struct pac_executor *ex = pac_executor_current();
    uint64_t now_ns = ex != NULL ? pac_executor_now_ns(ex) : sim.now_ns;
    static const uint64_t spans[] = {1,
                                     1 << 14,
                                     1 << 16,
                                     1 << 22,
                                     1 << 26,
                                     (uint64_t)1 << 33,
                                     (uint64_t)1 << 36,
                                     (uint64_t)1 << 47,
                                     (uint64_t)1 << 62};
    switch (sim_below(8)) {
        case 0:
            return PAC_NEVER;
        case 1:
            return now_ns - sim_below(1 << 20) % (now_ns + 1);
        default:
            return pac_ns_add(now_ns, sim_below(spans[sim_below(sim_chance(8) ? 9 : 5)]));
    }
}

static void
init_leaf(struct node *n)
{
    struct broadcast_thing *b = &things.broadcast;
    switch (n->kind) {
        case DELAY:
            pac_delay_init(&n->as.delay, random_deadline());
            break;
        case NOTIFIED: {
            struct pac_notify *notify =
                &things.notifies[n->which = (int)sim_below(NOTIFIES)].notify;
            n->seen = pac_atomic_load(&notify->state, PAC_RELAXED) >> 1;
            pac_notified_init(&n->as.notified, notify);
            break;
        }
        case EVENT_WAIT:
            /* A flag that is set counts for a wait that is made then, cleared or not. */
            n->seen = things.event.times - pac_event_is_set(&things.event.event);
            pac_event_wait_init(&n->as.event, &things.event.event);
            break;
        case BARRIER_WAIT:
            pac_barrier_wait_init(&n->as.barrier, &things.barrier.barrier);
            break;
        case CANCELLED:
            pac_cancelled_init(&n->as.cancelled,
                               pac_cancellation_token_ref(things.tokens[n->which].token));
            break;
        case ONESHOT_RECV:
        case ONESHOT_CLOSED: {
            struct oneshot_thing *o = &things.oneshots[sim_below(ONESHOTS)];
            n->users = &o->users;
            if (n->kind == ONESHOT_RECV) {
                pac_oneshot_recv_init(&n->as.oneshot, &o->channel);
            }
            else {
                pac_oneshot_closed_init(&n->as.flag, &o->channel);
            }
            break;
        }
        case MPSC_SEND:
        case MPSC_RECV:
        case MPSC_CLOSED: {
            struct mpsc_thing *m = &things.mpscs[n->which = (int)sim_below(MPSCS)];
            n->users = &m->users;
            if (n->kind == MPSC_SEND) {
                n->value = value_new();
                pac_mpsc_send_init(&n->as.send, &m->channel, n->value);
            }
            else if (n->kind == MPSC_RECV) {
                pac_mpsc_recv_init(&n->as.recv, &m->channel, (void **)n->received,
                                   1 + sim_below(CHILDREN));
            }
            else {
                pac_mpsc_closed_init(&n->as.flag, &m->channel);
            }
            break;
        }
        case BROADCAST_RECV:
            n->users = &b->users;
            pac_broadcast_recv_init(&n->as.broadcast,
                                    &b->receivers[n->which = (int)sim_below(RECEIVERS)].receiver);
            break;
        case BROADCAST_CLOSED:
            n->users = &b->users;
            pac_broadcast_closed_init(&n->as.flag, &b->channel);
            break;
        case WATCH_CHANGED:
            n->users = &things.watch.users;
            n->which = (int)sim_below(RECEIVERS);
            pac_watch_changed_init(&n->as.watch, &things.watch.receivers[n->which]);
            break;
        case WATCH_CLOSED:
            n->users = &things.watch.users;
            pac_watch_closed_init(&n->as.flag, &things.watch.channel);
            break;
        case PROMISE:
            n->as.promise = promise_new();
            break;
        case IO_READY:
            n->users = &things.ios[n->which].users;
            n->mode = 1 + (int)sim_below(3);
            pac_io_ready_init(&n->as.io, &things.ios[n->which].io, (unsigned)n->mode);
            break;
        case YIELD:
            n->amount = sim_chance(8) ? sim_below(200) : sim_below(3);
            break;
        default:
            break;
    }
    if (n->users != NULL) {
        ++*n->users;
    }
}

/* A leaf that cannot be had now becomes a yield. */
static enum kind
random_leaf(struct node *n)
{
    enum kind kind = (enum kind)sim_below(LEAVES);
    bool broadcast = kind == BROADCAST_RECV || kind == BROADCAST_CLOSED;
    if (kind == CANCELLED) {
        n->which = (int)sim_below(TOKENS);
        return things.tokens[n->which].token != NULL ? CANCELLED : YIELD;
    }
    if (kind == IO_READY) {
        /* What waits for a descriptor stays with its executor, and so is in no place. */
        n->which = (int)sim_below(IOS);
        return things.ios[n->which].exists && !in_place ? IO_READY : YIELD;
    }
    if (kind == JOIN_HANDLE) {
        return task_spawn_to_join(&n->as.handle) != NULL ? JOIN_HANDLE : YIELD;
    }
    return broadcast && !things.broadcast.exists ? YIELD : kind;
}

static const struct pac_future_vtable sequence_vtable;

static void
init_guard(struct node *n)
{
    struct gate *g = &things.gates[n->which = (int)sim_below(GATES)];
    n->users = &g->users;
    g->users++;
    n->mode = g->kind == GATE_SEMAPHORE                 ? MODE_PLAIN
              : g->kind == GATE_RWLOCK && sim_chance(2) ? MODE_SHARED
                                                        : MODE_EXCLUSIVE;
    n->amount = 1;
    if (g->kind == GATE_MUTEX) {
        pac_mutex_lock_init(&n->as.acquire, &g->as.mutex);
    }
    else if (n->mode == MODE_SHARED) {
        pac_rwlock_read_init(&n->as.acquire, &g->as.rwlock);
    }
    else if (n->mode == MODE_EXCLUSIVE) {
        n->amount = PAC_RWLOCK_READERS;
        pac_rwlock_write_init(&n->as.acquire, &g->as.rwlock);
    }
    else {
        n->amount = 1 + sim_below(3);
        pac_acquire_init(&n->as.acquire, &g->as.semaphore, n->amount);
    }
}

static void
init_branch(struct node *n)
{
    switch (n->kind) {
        case GUARD:
            init_guard(n);
            break;
        case ONCE:
            n->users = &things.once.users;
            things.once.users++;
            n->children[0]->initialises = &n->outcome;
            pac_get_or_init_init(&n->as.once, &things.once.cell, n->members[0], &n->outcome);
            break;
        case JOIN:
            pac_join_init(&n->as.join, n->members, n->count);
            break;
        case SELECT:
            pac_select_init(&n->as.select, n->members, n->count);
            break;
        case SEQUENCE:
            pac_async_init(&n->as.sequence.async, &sequence_vtable, NULL);
            n->as.sequence.node = n;
            n->as.sequence.at = 0;
            break;
        default:
            break;
    }
}

struct node *
node_new_random(unsigned levels, bool moves)
{
    struct node *n = calloc(1, sizeof *n);
    n->future.vtable = &node_vtable;
    n->id = ++ids;
    bool leaf = levels == 0 || sim_chance(3);
    n->kind = leaf ? random_leaf(n) : (enum kind)(LEAVES + sim_below(KINDS - LEAVES - !moves));
    if (leaf) {
        init_leaf(n);
    }
    else {
        bool one = n->kind == GUARD || n->kind == PLACE || n->kind == ONCE;
        n->count = one ? 1 : 1 + (unsigned)sim_below(CHILDREN);
        bool outer = in_place;
        in_place |= n->kind == PLACE;
        for (unsigned i = 0; i < n->count; i++) {
            n->children[i] = node_new_random(levels - 1, moves && n->kind != PLACE);
            n->members[i] = &n->children[i]->future;
        }
        in_place = outer;
        init_branch(n);
    }
    pac_list_push_back(&live, &n->live);
    return n;
}

/* ---- polling ---------------------------------------------------------------------------------- */

void
node_check_order(struct mpsc_thing *m, struct value *v)
{
    SIM_CHECK(sim.reentrant || v->number > m->last_received, "values come in a wrong order");
    m->last_received = v->number;
}

/* It stands in a line from now on, or is through. */
static void
take_number(struct node *n, bool linked)
{
    if (linked && n->number == 0) {
        n->number = ++sim.numbers;
        if (n->kind == MPSC_SEND && n->value->number == 0) {
            n->value->number = n->number;
        }
    }
}

static enum pac_poll
poll_guard(struct node *n, struct pac_context *cx)
{
    struct gate *g = &things.gates[n->which];
    if (!n->inside) {
        bool others = !pac_list_is_empty(&g->as.semaphore.waiters);
        bool first = n->state == FRESH && n->as.acquire.state == PAC_ACQUIRE_INIT;
        enum pac_poll poll = pac_acquire_poll(&n->as.acquire, cx);
        take_number(n, pac_list_is_linked(&n->as.acquire.node));
        if (poll == PAC_PENDING) {
            return PAC_PENDING;
        }
        if (pac_acquire_status(&n->as.acquire) == PAC_CLOSED) {
            SIM_CHECK(g->as.semaphore.closed, "an acquire says closed, and the gate is not");
            return PAC_READY;
        }
        SIM_CHECK(sim.reentrant || !first || !others, "an acquire overtakes those who wait");
        n->inside = true;
        gate_took(g, n->mode, n->amount);
    }
    if (pac_future_poll(n->members[0], cx) == PAC_PENDING) {
        return PAC_PENDING;
    }
    pac_future_drop(n->members[0]);
    n->members[0] = NULL;
    n->inside = false;
    if (g->kind == GATE_RWLOCK && n->mode == MODE_EXCLUSIVE && sim_chance(2)) {
        g->held -= PAC_RWLOCK_READERS - 1;
        g->exclusive--;
        g->shared++;
        SIM_CHECK(pac_rwlock_downgrade(&g->as.rwlock) == PAC_OK, "a writer could not downgrade");
        n->mode = MODE_SHARED;
        n->amount = 1;
    }
    gate_release(g, n->mode, n->amount);
    return PAC_READY;
}

static enum pac_poll
poll_notified(struct node *n, struct pac_context *cx)
{
    struct pac_notified *f = &n->as.notified;
    bool late = f->state == PAC_NOTIFIED_INIT &&
                pac_atomic_load(&f->notify->state, PAC_RELAXED) >> 1 != n->seen;
    enum pac_poll poll = pac_future_poll(&f->future, cx);
    take_number(n, pac_list_is_linked(&f->node));
    SIM_CHECK(!late || pac_atomic_load(&f->mark, PAC_RELAXED) == MARK_ALL,
              "a broadcast has come, and a permit is taken all the same");
    return poll;
}

static enum pac_poll
poll_select(struct node *n, struct pac_context *cx)
{
    if (pac_future_poll(&n->as.select.future, cx) == PAC_PENDING) {
        return PAC_PENDING;
    }
    SIM_CHECK(n->as.select.winner < n->count, "a select without a winner");
    SIM_CHECK(n->children[n->as.select.winner]->state == READY, "the winner is not ready");
    return PAC_READY;
}

static enum pac_poll
sequence_poll(struct pac_future *f, struct pac_context *cx)
{
    struct sequence *self = PAC_ASYNC_SELF(f, struct sequence);
    struct node *n = self->node;
    PAC_ASYNC_BEGIN(self);
    for (; self->at < n->count; self->at++) {
        PAC_AWAIT(1, self, n->members[self->at], cx);
        n->members[self->at] = NULL;
    }
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable sequence_vtable = {
    .poll = sequence_poll,
    .drop = pac_async_drop,
};

/* ---- what a leaf came to ---------------------------------------------------------------------- */

static void
settle_barrier(struct node *n)
{
    struct barrier_thing *b = &things.barrier;
    size_t generation = n->as.barrier.generation % 64;
    b->leaders[generation] += n->as.barrier.is_leader;
    SIM_CHECK(++b->gone[generation] <= b->barrier.parties,
              "more pass a barrier than it has parties");
    SIM_CHECK(b->leaders[generation] <= 1, "two leaders of one barrier");
    if (b->gone[generation] == b->barrier.parties) {
        SIM_CHECK(b->leaders[generation] == 1, "a barrier without a leader");
        b->gone[generation] = b->leaders[generation] = 0;
    }
}

static void
settle_recv(struct node *n)
{
    struct pac_mpsc_recv *f = &n->as.recv;
    SIM_CHECK(f->status == PAC_OK ? f->count > 0 && f->count <= f->limit
                                  : f->count == 0 && f->status == PAC_CLOSED,
              "a receive ends with %u values and status %d", (unsigned)f->count, (int)f->status);
    SIM_CHECK(f->status == PAC_OK || f->channel->closed || f->channel->senders == 0,
              "an open channel says closed");
    for (size_t i = 0; i < f->count; i++) {
        node_check_order(&things.mpscs[n->which], n->received[i]);
        value_received(n->received[i]);
    }
}

static void
settle_send(struct node *n)
{
    if (n->as.send.status == PAC_OK) {
        SIM_CHECK(pac_mpsc_send_was_sent(&n->as.send), "a send is done that has not sent");
        if (n->value->state == VALUE_OWNED) {
            n->value->state = VALUE_SENT;
        }
    }
    else {
        SIM_CHECK(!pac_mpsc_send_was_sent(&n->as.send), "a send has failed that has sent");
    }
}

static void
settle_broadcast(struct node *n)
{
    struct pac_broadcast_recv *f = &n->as.broadcast;
    struct broadcast_receiver *r = &things.broadcast.receivers[n->which];
    uint64_t sent = things.broadcast.sent, capacity = things.broadcast.channel.capacity;
    if (f->status == PAC_OK) {
        struct value *v = f->value;
        SIM_CHECK(v->number == r->next, "a receiver gets value %d, and %d is next", (int)v->number,
                  (int)r->next);
        r->next++;
        value_received(v);
    }
    else if (f->status == PAC_LAGGED) {
        r->next += f->skipped;
        SIM_CHECK(f->skipped > 0 && r->next + capacity <= sent, "a receiver that does not lag");
        SIM_CHECK(sim.reentrant || r->next + capacity == sent, "a receiver loses too much");
    }
    else {
        SIM_CHECK(r->gone || (!things.broadcast.has_sender && r->next == sent),
                  "a receiver is told that all is over");
    }
}

static void
settle_watch(struct node *n)
{
    bool over = !things.watch.has_sender || things.watch.gone[n->which];
    SIM_CHECK(n->as.watch.status == PAC_OK || over, "a watch is told that all is over");
    struct value *v = pac_watch_get_seen(&things.watch.receivers[n->which]);
    SIM_CHECK(v->number == things.watch.sent, "the latest value is not the latest");
    value_destroy(v);
}

static void
settle_promise(struct promise_thing *t)
{
    void *value = NULL;
    enum pac_promise_outcome outcome = pac_promise_outcome(&t->promise, &value);
    SIM_CHECK(outcome != PAC_PROMISE_PENDING, "a promise is pending, a wait for it is over");
    SIM_CHECK(outcome == t->outcome && value == t->value, "a promise comes to %d, and not to %d",
              (int)outcome, (int)t->outcome);
}

/* The node is READY: had it a reason? */
static void
settle(struct node *n)
{
    switch (n->kind) {
        case DELAY:
            SIM_CHECK(n->as.delay.status != PAC_OK ||
                          pac_delay_now_ns(&n->as.delay) >= n->as.delay.deadline_ns,
                      "a delay is early");
            break;
        case NOTIFIED: {
            struct notify_thing *t = &things.notifies[n->which];
            bool by_one = pac_atomic_load(&n->as.notified.mark, PAC_RELAXED) != MARK_ALL;
            t->taken += by_one && n->amount == 0;
            SIM_CHECK(by_one || pac_atomic_load(&t->notify.state, PAC_RELAXED) >> 1 != n->seen,
                      "a broadcast reaches a future that was made after it");
            break;
        }
        case EVENT_WAIT:
            SIM_CHECK(things.event.times != n->seen,
                      "an event has not happened, and a wait is over");
            break;
        case BARRIER_WAIT:
            settle_barrier(n);
            break;
        case CANCELLED:
            SIM_CHECK(things.tokens[n->which].cancelled,
                      "a token is not cancelled, a wait is over");
            break;
        case ONESHOT_RECV:
            SIM_CHECK(n->as.oneshot.status == PAC_OK || n->as.oneshot.channel->closed,
                      "an open oneshot says closed");
            if (n->as.oneshot.status == PAC_OK) {
                value_received(n->as.oneshot.value);
            }
            break;
        case ONESHOT_CLOSED:
        case MPSC_CLOSED:
            SIM_CHECK(*n->as.flag.flag, "a channel is not closed");
            break;
        case MPSC_SEND:
            settle_send(n);
            break;
        case MPSC_RECV:
            settle_recv(n);
            break;
        case BROADCAST_RECV:
            settle_broadcast(n);
            break;
        case WATCH_CHANGED:
            settle_watch(n);
            break;
        case PROMISE:
            settle_promise(n->as.promise);
            break;
        case IO_READY:
            SIM_CHECK(!pac_io_is_open(n->as.io.io) || (n->as.io.io->readiness & (unsigned)n->mode),
                      "a descriptor is not ready, a wait for it is over");
            io_try(&things.ios[n->which], n->mode & PAC_READABLE ? PAC_READABLE : PAC_WRITABLE);
            break;
        case JOIN_HANDLE:
            SIM_CHECK(pac_task_is_complete(n->as.handle.task), "a task has not ended, a join has");
            break;
        case ONCE:
            SIM_CHECK(n->as.once.status != PAC_OK || pac_once_cell_is_set(&things.once.cell),
                      "a cell is not set, and a wait for it is over");
            break;
        case JOIN:
            for (unsigned i = 0; i < n->count; i++) {
                SIM_CHECK(n->members[i] == NULL, "a join is ready before all are");
            }
            break;
        default:
            break;
    }
}

/* The node is PENDING, and the budget has not held it back: ought it to be? */
static void
check_pending(struct node *n)
{
    if (sim.reentrant || pac_budget_left == 0) {
        return;
    }
    switch (n->kind) {
        case NOTIFIED:
            SIM_CHECK(pac_atomic_load(&things.notifies[n->which].notify.state, PAC_RELAXED) >> 1 ==
                          n->seen,
                      "a broadcast has come, and a future waits on");
            break;
        case EVENT_WAIT:
            SIM_CHECK(things.event.times == n->seen, "an event has happened, and a wait goes on");
            break;
        case CANCELLED:
            SIM_CHECK(!things.tokens[n->which].cancelled, "a token is cancelled, a wait goes on");
            break;
        case PROMISE:
            SIM_CHECK(n->as.promise->outcome == PAC_PROMISE_PENDING,
                      "a promise is settled, and a wait for it goes on");
            break;
        default:
            break;
    }
}

/* ---- the poll of any node --------------------------------------------------------------------- */

static enum pac_poll
poll_kind(struct node *n, struct pac_context *cx)
{
    enum pac_poll poll;
    switch (n->kind) {
        case DELAY:
            n->armed_on = pac_executor_current();
            return pac_future_poll(&n->as.delay.future, cx);
        case NOTIFIED:
            return poll_notified(n, cx);
        case EVENT_WAIT:
            return pac_future_poll(&n->as.event.future, cx);
        case BARRIER_WAIT:
            return pac_future_poll(&n->as.barrier.future, cx);
        case CANCELLED:
            return pac_future_poll(&n->as.cancelled.future, cx);
        case ONESHOT_RECV:
            return pac_future_poll(&n->as.oneshot.future, cx);
        case MPSC_SEND:
            poll = pac_future_poll(&n->as.send.future, cx);
            take_number(n, poll == PAC_READY || pac_list_is_linked(&n->as.send.waiter.node));
            return poll;
        case MPSC_RECV:
            return pac_future_poll(&n->as.recv.future, cx);
        case BROADCAST_RECV:
            return pac_future_poll(&n->as.broadcast.future, cx);
        case WATCH_CHANGED:
            return pac_future_poll(&n->as.watch.future, cx);
        case ONESHOT_CLOSED:
        case MPSC_CLOSED:
        case BROADCAST_CLOSED:
        case WATCH_CLOSED:
            return pac_future_poll(&n->as.flag.future, cx);
        case PROMISE:
            return pac_future_poll(&n->as.promise->promise.future, cx);
        case IO_READY:
            return pac_future_poll(&n->as.io.future, cx);
        case YIELD:
            if (n->amount == 0) {
                return PAC_READY;
            }
            n->amount--;
            pac_waker_wake_by_ref(cx->waker);
            return PAC_PENDING;
        case JOIN_HANDLE:
            return pac_future_poll(&n->as.handle.future, cx);
        case GUARD:
            return poll_guard(n, cx);
        case ONCE:
            return pac_future_poll(&n->as.once.future, cx);
        case JOIN:
            return pac_future_poll(&n->as.join.future, cx);
        case SELECT:
            return poll_select(n, cx);
        case SEQUENCE:
            return pac_future_poll(&n->as.sequence.async.future, cx);
        case PLACE:
            return pac_future_poll(n->members[0], cx);
        default:
            return PAC_READY;
    }
}

/* An initialiser begins, or has ended: only one at a time, and none after one has succeeded. */
static void
follow_initialiser(struct node *n, int state)
{
    if (n->initialises == NULL) {
        return;
    }
    if (n->state == FRESH && state != DROPPED) {
        SIM_CHECK(things.once.running++ == 0, "two initialise one cell");
        SIM_CHECK(things.once.done == 0, "a cell that is set is initialised again");
    }
    if (n->state <= PENDING && state == READY) {
        *n->initialises = sim_chance(3) ? PAC_EMPTY : PAC_OK;
        things.once.done += *n->initialises == PAC_OK;
    }
    things.once.running -=
        (n->state == PENDING && state >= READY) || (n->state == FRESH && state == READY);
}

static enum pac_poll
node_poll(struct pac_future *f, struct pac_context *cx)
{
    struct node *n = PAC_CONTAINER_OF(f, struct node, future);
    SIM_CHECK(!n->busy, "%s %u is polled within its own poll", names[n->kind], n->id);
    SIM_CHECK(n->state <= PENDING, "%s %u is polled after its end", names[n->kind], n->id);
    n->busy = true;
    n->task = task_current();
    enum pac_poll poll = poll_kind(n, cx);
    SIM_TRACE("%s %u: %s", names[n->kind], n->id, poll == PAC_READY ? "ready" : "pending");
    SIM_CHECK(!sim.sweeping || poll == PAC_PENDING,
              "lost wake-up: %s %u is ready, and nobody has woken its task", names[n->kind], n->id);
    follow_initialiser(n, poll == PAC_READY ? READY : PENDING);
    n->state = poll == PAC_READY ? READY : PENDING;
    if (poll == PAC_READY) {
        /* One that was enabled has ended by that already. */
        sim.completions += (n->kind < IO_READY || n->kind == JOIN_HANDLE) &&
                           (n->kind != NOTIFIED || n->amount == 0);
        settle(n);
    }
    else {
        check_pending(n);
    }
    n->busy = false;
    return poll;
}

/* ---- dropping --------------------------------------------------------------------------------- */

static void
drop_members(struct node *n)
{
    for (unsigned i = 0; i < n->count; i++) {
        if (n->members[i] != NULL) {
            pac_future_drop(n->members[i]);
        }
    }
}

static void
drop_guard(struct node *n)
{
    pac_acquire_drop(&n->as.acquire);
    if (n->members[0] != NULL) {
        pac_future_drop(n->members[0]);
    }
    if (n->inside) {
        n->inside = false;
        gate_release(&things.gates[n->which], n->mode, n->amount);
    }
}

static void
drop_notified(struct node *n)
{
    struct pac_notified *f = &n->as.notified;
    uint8_t mark = pac_atomic_load(&f->mark, PAC_RELAXED);
    if (f->state == PAC_NOTIFIED_WAITING && mark != 0 && mark != MARK_ALL) {
        notify_will_pass_on(&things.notifies[n->which]);
    }
    pac_future_drop(&f->future);
}

static void
drop_kind(struct node *n)
{
    switch (n->kind) {
        case DELAY:
            pac_future_drop(&n->as.delay.future);
            break;
        case NOTIFIED:
            drop_notified(n);
            break;
        case EVENT_WAIT:
            pac_future_drop(&n->as.event.future);
            break;
        case BARRIER_WAIT:
            pac_future_drop(&n->as.barrier.future);
            break;
        case CANCELLED: {
            struct pac_cancellation_token *token = n->as.cancelled.token;
            pac_future_drop(&n->as.cancelled.future);
            pac_cancellation_token_unref(token);
            break;
        }
        case ONESHOT_RECV:
            pac_future_drop(&n->as.oneshot.future);
            break;
        case MPSC_SEND:
            pac_future_drop(&n->as.send.future);
            if (pac_mpsc_send_was_sent(&n->as.send)) {
                take_number(n, true);
                n->value->state = n->value->state == VALUE_OWNED ? VALUE_SENT : n->value->state;
            }
            else {
                value_given_up(n->value);
            }
            break;
        case MPSC_RECV:
            pac_future_drop(&n->as.recv.future);
            break;
        case BROADCAST_RECV:
            pac_future_drop(&n->as.broadcast.future);
            break;
        case WATCH_CHANGED:
            pac_future_drop(&n->as.watch.future);
            break;
        case ONESHOT_CLOSED:
        case MPSC_CLOSED:
        case BROADCAST_CLOSED:
        case WATCH_CLOSED:
            pac_future_drop(&n->as.flag.future);
            break;
        case PROMISE:
            promise_drop(n->as.promise, n->state == READY);
            break;
        case IO_READY:
            pac_future_drop(&n->as.io.future);
            break;
        case JOIN_HANDLE:
            pac_future_drop(&n->as.handle.future);
            break;
        case GUARD:
            drop_guard(n);
            break;
        case ONCE:
            pac_future_drop(&n->as.once.future);
            break;
        case JOIN:
            pac_future_drop(&n->as.join.future);
            break;
        case SELECT:
            if (n->state == READY) {
                drop_members(n);
            }
            else {
                pac_future_drop(&n->as.select.future);
            }
            break;
        case SEQUENCE:
            /* What it awaits is dropped by it; what comes after that was never its own. */
            if (n->as.sequence.async.awaiting != NULL) {
                n->members[n->as.sequence.at] = NULL;
            }
            pac_future_drop(&n->as.sequence.async.future);
            drop_members(n);
            break;
        case PLACE:
            drop_members(n);
            break;
        default:
            break;
    }
}

static void
node_drop(struct pac_future *f)
{
    struct node *n = PAC_CONTAINER_OF(f, struct node, future);
    SIM_CHECK(n->state != DROPPED, "%s %u is dropped twice", names[n->kind], n->id);
    SIM_CHECK(!n->busy, "%s %u is dropped within its poll", names[n->kind], n->id);
    n->busy = true;
    SIM_TRACE("%s %u is dropped", names[n->kind], n->id);
    drop_kind(n);
    n->busy = false;
    follow_initialiser(n, DROPPED);
    n->state = DROPPED;
    if (n->users != NULL) {
        --*n->users;
    }
    pac_list_remove(&n->live);
    pac_list_push_back(&dropped, &n->live);
    memset(&n->as, GARBAGE, sizeof n->as);
}

static const struct pac_future_vtable node_vtable = {.poll = node_poll, .drop = node_drop};

/* ---- from outside ----------------------------------------------------------------------------- */

static struct node *
random_node(enum kind kind)
{
    struct node *found = NULL;
    size_t count = 0;
    for (struct pac_list_node *link = live.head.next; link != &live.head; link = link->next) {
        struct node *n = node_of(link);
        if (n->kind == kind && !n->busy && n->state <= PENDING && sim_below(++count) == 0) {
            found = n;
        }
    }
    return found;
}

static void
wake_owner(struct node *n)
{
    if (n->task != NULL) {
        task_wake(n->task);
    }
}

static void
exchange(struct node *a, struct node *b)
{
    struct node *child = a->children[0];
    if (child->busy || b->children[0]->busy || child->state == READY ||
        b->children[0]->state == READY) {
        return;
    }
    SIM_TRACE("the content of %u and %u is exchanged", a->id, b->id);
    a->children[0] = b->children[0];
    b->children[0] = child;
    a->members[0] = &a->children[0]->future;
    b->members[0] = &child->future;
    wake_owner(a);
    wake_owner(b);
}

static void
replace(struct node *place)
{
    struct node *old = place->children[0];
    if (!old->busy) {
        in_place = true;
        place->children[0] = node_new_random(1, false);
        in_place = false;
        place->members[0] = &place->children[0]->future;
        SIM_TRACE("the content of %u is dropped", place->id);
        /* Before the drop, which may run anything. */
        pac_future_drop(&old->future);
        wake_owner(place);
    }
}

void
node_act(void)
{
    struct node *n = random_node(sim_chance(2) ? PLACE : sim_chance(3) ? NOTIFIED : DELAY);
    if (n == NULL) {
        return;
    }
    if (n->kind == DELAY) {
        uint64_t deadline_ns = random_deadline();
        SIM_TRACE("delay %u is moved", n->id);
        pac_delay_reset(&n->as.delay, deadline_ns);
        if (n->task != NULL) {
            task_excuse(n->task);
        }
    }
    else if (n->kind == NOTIFIED) {
        if (n->state == FRESH) {
            SIM_TRACE("notified %u is enabled", n->id);
            n->busy = true;
            bool ready = pac_notified_enable(&n->as.notified);
            take_number(n, pac_list_is_linked(&n->as.notified.node));
            n->busy = false;
            if (ready && n->amount == 0) {
                /* By this it has taken what it was given. */
                n->amount = 1;
                things.notifies[n->which].taken +=
                    pac_atomic_load(&n->as.notified.mark, PAC_RELAXED) != MARK_ALL;
            }
        }
    }
    else if (sim_chance(2)) {
        struct node *other = random_node(PLACE);
        if (other != NULL && other != n) {
            exchange(n, other);
        }
    }
    else {
        replace(n);
    }
}

/* ---- what must hold --------------------------------------------------------------------------- */

static uint64_t
ceil_ns(uint64_t deadline_ns)
{
    uint64_t tick_ns = PAC_WHEEL_TICK_NS;
    uint64_t over_ns = deadline_ns % tick_ns;
    return over_ns == 0 ? deadline_ns : pac_ns_add(deadline_ns, tick_ns - over_ns);
}

void
node_check_deadlines(struct pac_executor *ex, uint64_t deadline_ns)
{
    for (struct pac_list_node *link = live.head.next; link != &live.head; link = link->next) {
        struct node *n = node_of(link);
        if (n->kind == DELAY && n->state == PENDING && n->armed_on == ex &&
            n->as.delay.entry != NULL && !pac_delay_is_elapsed(&n->as.delay)) {
            SIM_CHECK(deadline_ns <= ceil_ns(n->as.delay.deadline_ns),
                      "lost timer: delay %u is due before the executor wakes", n->id);
        }
    }
}

/* Who stands behind `n` in its line, of nodes of the same kind, came later. */
static void
check_next(const struct node *n, const struct pac_list_node *link, const struct pac_list *list,
           size_t offset)
{
    if (!sim.reentrant && link->next != NULL && link->next != &list->head) {
        const struct node *next = (const void *)((const char *)link->next - offset);
        SIM_CHECK(n->number < next->number, "%s %u stands before %u, which came earlier",
                  names[n->kind], n->id, next->id);
    }
}

static void
check_lines(const struct node *n)
{
    if (n->kind == GUARD) {
        check_next(n, &n->as.acquire.node, &n->as.acquire.semaphore->waiters,
                   offsetof(struct node, as.acquire.node));
    }
    else if (n->kind == NOTIFIED) {
        check_next(n, &n->as.notified.node, &n->as.notified.notify->waiters,
                   offsetof(struct node, as.notified.node));
    }
    else if (n->kind == MPSC_SEND) {
        check_next(n, &n->as.send.waiter.node, &n->as.send.channel->sending,
                   offsetof(struct node, as.send.waiter.node));
    }
}

static void
count_guard(struct node *n)
{
    struct pac_acquire *a = &n->as.acquire;
    struct gate *g = &things.gates[n->which];
    if (n->inside || a->state != PAC_ACQUIRE_WAITING || pac_acquire_status(a) == PAC_CLOSED) {
        return;
    }
    g->assigned += a->wanted - a->missing;
}

static void
count_node(struct node *n)
{
    if (n->kind == NOTIFIED && n->as.notified.state == PAC_NOTIFIED_WAITING) {
        uint8_t mark = pac_atomic_load(&n->as.notified.mark, PAC_RELAXED);
        things.notifies[n->which].unseen += mark != 0 && mark != MARK_ALL;
    }
    else if (n->kind == GUARD) {
        count_guard(n);
    }
    else if (n->kind == BARRIER_WAIT && n->as.barrier.state == PAC_BARRIER_ARRIVED) {
        things.barrier.arrived += n->as.barrier.generation ==
                                  pac_atomic_load(&things.barrier.barrier.generation, PAC_RELAXED);
    }
}

void
nodes_count(void)
{
    for (int i = 0; i < NOTIFIES; i++) {
        things.notifies[i].unseen = 0;
    }
    for (int i = 0; i < GATES; i++) {
        things.gates[i].assigned = 0;
    }
    things.barrier.arrived = 0;
    for (struct pac_list_node *link = live.head.next; link != &live.head; link = link->next) {
        check_lines(node_of(link));
        count_node(node_of(link));
    }
}

void
nodes_fini(void)
{
    struct pac_list_node *link;
    SIM_CHECK(pac_list_is_empty(&live), "%s %u was never dropped",
              names[node_of(live.head.next)->kind], node_of(live.head.next)->id);
    while ((link = pac_list_pop_front(&dropped)) != NULL) {
        struct node *n = node_of(link);
        const unsigned char *bytes = (const unsigned char *)&n->as;
        for (size_t i = 0; i < sizeof n->as; i++) {
            SIM_CHECK(bytes[i] == GARBAGE, "%s %u was written to after it was dropped",
                      names[n->kind], n->id);
        }
        free(n);
    }
}
