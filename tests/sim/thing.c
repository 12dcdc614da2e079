/* thing.c - shared things, what happens to them, and what must hold of them. */
#include "thing.h"

#include "node.h"
#include "task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct things things;

/* ---- values ----------------------------------------------------------------------------------- */

struct value *
value_new(void)
{
    struct value *v = calloc(1, sizeof *v);
    v->references = 1;
    pac_list_push_back(&things.values, &v->all);
    return v;
}

void *
value_clone(void *value)
{
    struct value *v = value;
    SIM_CHECK(v->references > 0, "a value is cloned after its end");
    v->references++;
    return v;
}

void
value_destroy(void *value)
{
    struct value *v = value;
    SIM_CHECK(v->references > 0, "a value is given up too often");
    SIM_CHECK(v->state <= VALUE_SENT, "a value is destroyed that was received, or was destroyed");
    if (--v->references == 0) {
        v->state = VALUE_DESTROYED;
    }
}

void
value_received(void *value)
{
    struct value *v = value;
    SIM_CHECK(v->references > 0, "a value is received after its end");
    SIM_CHECK(v->state <= VALUE_SENT, "a value is received twice, or after it was destroyed");
    v->references--;
    if (v->references == 0) {
        v->state = VALUE_RECEIVED;
    }
}

void
value_given_up(void *value)
{
    struct value *v = value;
    SIM_CHECK(v->state == VALUE_OWNED, "a value that was not sent has gone");
    value_destroy(v);
}

static void
value_was_sent(struct value *v)
{
    if (v->state == VALUE_OWNED) {
        v->state = VALUE_SENT;
    }
}

/* ---- making ----------------------------------------------------------------------------------- */

static void
mpsc_init(struct mpsc_thing *m)
{
    m->users = 0;
    m->senders = 1;
    m->last_received = 0;
    pac_mpsc_init(&m->channel, sim_chance(4) ? PAC_MPSC_UNBOUNDED : 1 + sim_below(4),
                  value_destroy);
}

static void
broadcast_init(struct broadcast_thing *b)
{
    b->users = 0;
    b->sent = 0;
    b->has_sender = true;
    b->exists =
        pac_broadcast_init(&b->channel, 1 + sim_below(4), value_clone, value_destroy) == PAC_OK;
    for (int i = 0; i < RECEIVERS; i++) {
        b->receivers[i].gone = !b->exists;
        b->receivers[i].next = 0;
        if (b->exists) {
            pac_broadcast_subscribe(&b->receivers[i].receiver, &b->channel);
        }
    }
}

static void
watch_init(struct watch_thing *w)
{
    w->users = 0;
    w->sent = 0;
    w->has_sender = true;
    struct value *v = value_new();
    pac_watch_init(&w->channel, v, value_clone, value_destroy);
    for (int i = 0; i < RECEIVERS; i++) {
        w->gone[i] = false;
        pac_watch_subscribe(&w->receivers[i], &w->channel);
    }
}

void
things_init(void)
{
    memset(&things, 0, sizeof things);
    pac_list_init(&things.values);
    pac_list_init(&things.promises);
    pac_wake_group_init(&things.group);
    for (int i = 0; i < NOTIFIES; i++) {
        pac_notify_init(&things.notifies[i].notify);
    }
    for (int i = 0; i < GATES; i++) {
        struct gate *g = &things.gates[i];
        g->kind = i < 2 ? GATE_SEMAPHORE : i == 2 ? GATE_MUTEX : GATE_RWLOCK;
        g->total = i < 2 ? sim_below(4) : i == 2 ? 1 : PAC_RWLOCK_READERS;
        if (g->kind == GATE_SEMAPHORE) {
            pac_semaphore_init(&g->as.semaphore, g->total, PAC_SEMAPHORE_MAX);
        }
        else if (g->kind == GATE_MUTEX) {
            pac_mutex_init(&g->as.mutex);
        }
        else {
            pac_rwlock_init(&g->as.rwlock);
        }
    }
    pac_barrier_init(&things.barrier.barrier, 1 + sim_below(4));
    pac_event_init(&things.event.event);
    pac_once_cell_init(&things.once.cell);
    for (int i = 0; i < ONESHOTS; i++) {
        pac_oneshot_init(&things.oneshots[i].channel, value_destroy);
    }
    for (int i = 0; i < MPSCS; i++) {
        mpsc_init(&things.mpscs[i]);
    }
    broadcast_init(&things.broadcast);
    watch_init(&things.watch);
}

static void
check_list(const struct pac_list *list)
{
    const struct pac_list_node *node = &list->head;
    do {
        SIM_CHECK(node->next != NULL && node->next->prev == node, "a list is torn");
        node = node->next;
    } while (node != &list->head);
}

/* ---- descriptors ------------------------------------------------------------------------------ */

static void
io_open(struct io_thing *t, struct pac_reactor *reactor)
{
    int fd = (int)(t - things.ios);
    t->exists = pac_io_open(&t->io, reactor, fd, PAC_IO_SOCKET,
                            sim_chance(2) ? PAC_READABLE | PAC_WRITABLE : 0) == PAC_OK;
}

void
things_open(struct pac_reactor *reactor)
{
    for (int i = 0; i < IOS; i++) {
        io_open(&things.ios[i], reactor);
    }
}

void
io_try(struct io_thing *t, unsigned direction)
{
    int fd = t->io.source.fd;
    uint32_t tick;
    enum pac_status status = pac_io_begin(&t->io, direction, &tick);
    if (status != PAC_OK) {
        SIM_CHECK(status == PAC_CLOSED ? !pac_io_is_open(&t->io)
                                       : !pac_io_is_ready(&t->io, direction),
                  "an operation is refused that is worth trying");
        return;
    }
    /* The system call: all that was asked for, less, or nothing. */
    ptrdiff_t result = (sim_readiness[fd] & direction) == 0 ? -1 : 1 + (ptrdiff_t)sim_below(2);
    if (result == 1 || sim_chance(2)) {
        sim_readiness[fd] &= ~direction;
    }
    if (sim_chance(4)) {
        /* Right after it there is more. */
        sim_set_readiness(fd, sim_readiness[fd] | direction);
    }
    errno = EAGAIN;
    status = pac_io_end(&t->io, direction, tick, result, 2);
    SIM_CHECK(status == (result < 0 ? PAC_WOULD_BLOCK : PAC_OK), "an operation says %d",
              (int)status);
}

static void
act_io(struct io_thing *t)
{
    if (!t->exists || sim.elsewhere) {
        return;
    }
    if (!pac_io_is_open(&t->io)) {
        struct pac_executor *ex = pac_executor_current();
        if (t->users == 0 && ex != NULL && sim.depth == 1 && !pac_executor_is_closed(ex)) {
            io_open(t, &ex->reactor);
        }
    }
    else if (sim_chance(6)) {
        SIM_TRACE("descriptor %d is closed", t->io.source.fd);
        pac_io_close(&t->io);
    }
    else {
        io_try(t, sim_chance(2) ? PAC_READABLE : PAC_WRITABLE);
    }
}

/* An edge is told once: what the descriptor has is known, or is about to be told. */
static void
check_io(const struct io_thing *t)
{
    if (t->exists && pac_io_is_open(&t->io)) {
        int fd = t->io.source.fd;
        unsigned known = t->io.readiness | sim_reactor_news(t->io.reactor, fd);
        SIM_CHECK((sim_readiness[fd] & ~known) == 0,
                  "lost wake-up: descriptor %d is ready, and nobody will say so", fd);
        check_list(&t->io.waiters);
    }
}

/* ---- notify ----------------------------------------------------------------------------------- */

void
notify_will_pass_on(struct notify_thing *n)
{
    /* One that finds a permit and nobody who waits is as good as none. */
    bool permit = (pac_atomic_load(&n->notify.state, PAC_RELAXED) & 1) != 0;
    n->coalesced += permit;
    SIM_CHECK(!permit || pac_list_is_empty(&n->notify.waiters), "a permit beside those who wait");
}

static void
act_notify(struct notify_thing *n)
{
    struct pac_list_node *first = pac_list_first(&n->notify.waiters);
    struct pac_list_node *last = pac_list_last(&n->notify.waiters);
    if (sim_chance(4)) {
        SIM_TRACE("notify_waiters");
        pac_notify_waiters(&n->notify);
        return;
    }
    notify_will_pass_on(n);
    n->ones++;
    if (sim_chance(3)) {
        SIM_TRACE("notify_last");
        pac_notify_last(&n->notify);
        first = last;
    }
    else {
        SIM_TRACE("notify_one");
        pac_notify_one(&n->notify);
    }
    SIM_CHECK(sim.reentrant || first == NULL || !pac_list_is_linked(first),
              "it was not the one whose turn it was that was notified");
}

/* ---- gates ------------------------------------------------------------------------------------ */

void
gate_took(struct gate *g, int mode, uint64_t n)
{
    g->held += n;
    g->exclusive += mode == MODE_EXCLUSIVE;
    g->shared += mode == MODE_SHARED;
    SIM_CHECK(g->exclusive <= 1, "two hold a lock");
    SIM_CHECK(g->exclusive == 0 || g->shared == 0, "a writer among readers");
    SIM_CHECK(g->held <= g->total, "more permits are held than there are");
}

void
gate_release(struct gate *g, int mode, uint64_t n)
{
    enum pac_status status;
    g->held -= n;
    g->exclusive -= mode == MODE_EXCLUSIVE;
    g->shared -= mode == MODE_SHARED;
    switch (g->kind) {
        case GATE_SEMAPHORE:
            status = pac_semaphore_release(&g->as.semaphore, n);
            break;
        case GATE_MUTEX:
            status = pac_mutex_unlock(&g->as.mutex);
            break;
        default:
            status = mode == MODE_SHARED ? pac_rwlock_unlock_read(&g->as.rwlock)
                                         : pac_rwlock_unlock_write(&g->as.rwlock);
    }
    SIM_CHECK(status == PAC_OK, "what was held could not be released");
}

static void
act_gate(struct gate *g)
{
    struct pac_semaphore *s = &g->as.semaphore;
    bool waits = !pac_list_is_empty(&s->waiters);
    if (g->kind == GATE_SEMAPHORE && sim_chance(3) && g->total < 6) {
        uint64_t n = 1 + sim_below(2);
        SIM_TRACE("%d permits more", (int)n);
        g->total += n;
        SIM_CHECK(pac_semaphore_release(s, n) == PAC_OK, "permits could not be added");
    }
    else if (g->kind == GATE_SEMAPHORE && sim_chance(4)) {
        g->total -= pac_semaphore_forget(s, 1);
    }
    else if (g->kind == GATE_SEMAPHORE && g->users == 0 && s->closed && sim.depth == 1) {
        g->total = sim_below(4);
        pac_semaphore_init(s, g->total, PAC_SEMAPHORE_MAX);
    }
    else if (g->kind == GATE_SEMAPHORE && sim_chance(100)) {
        SIM_TRACE("a semaphore closes");
        pac_semaphore_close(s);
    }
    else {
        int mode = g->kind == GATE_SEMAPHORE                 ? MODE_PLAIN
                   : g->kind == GATE_RWLOCK && sim_chance(2) ? MODE_SHARED
                                                             : MODE_EXCLUSIVE;
        uint64_t n = g->kind == GATE_RWLOCK && mode == MODE_EXCLUSIVE ? PAC_RWLOCK_READERS : 1;
        bool taken = g->kind == GATE_SEMAPHORE ? pac_semaphore_try_acquire(s, 1) == PAC_OK
                     : g->kind == GATE_MUTEX   ? pac_mutex_try_lock(&g->as.mutex)
                     : mode == MODE_SHARED     ? pac_rwlock_try_read(&g->as.rwlock)
                                               : pac_rwlock_try_write(&g->as.rwlock);
        if (taken) {
            SIM_CHECK(!waits, "somebody overtakes those who wait at a gate");
            gate_took(g, mode, n);
            gate_release(g, mode, n);
        }
    }
}

/* ---- channels --------------------------------------------------------------------------------- */

/* A value that went in, or did not. */
static void
after_send(struct value *v, enum pac_status status)
{
    if (status == PAC_OK) {
        value_was_sent(v);
    }
    else {
        value_given_up(v);
    }
}

static void
act_oneshot(struct oneshot_thing *o)
{
    switch (sim_below(o->users == 0 ? 6 : 4)) {
        case 0:
        case 1: {
            struct value *v = value_new();
            after_send(v, pac_oneshot_send(&o->channel, v));
            break;
        }
        case 2:
            pac_oneshot_drop_sender(&o->channel);
            break;
        case 3:
            if (sim_chance(8)) {
                pac_oneshot_close(&o->channel);
            }
            break;
        default:
            if (sim.depth == 1) {
                pac_oneshot_fini(&o->channel);
                pac_oneshot_init(&o->channel, value_destroy);
            }
    }
}

static void
act_mpsc(struct mpsc_thing *m, bool calm)
{
    void *value;
    size_t what = sim_below(m->users == 0 ? 40 : 32);
    if (what < 18) {
        struct value *v = value_new();
        bool full = !pac_list_is_empty(&m->channel.sending);
        v->number = ++sim.numbers;
        enum pac_status status = pac_mpsc_try_send(&m->channel, v);
        SIM_CHECK(sim.reentrant || status != PAC_OK || !full, "a value overtakes those that wait");
        after_send(v, status);
    }
    else if (what < 24 && !calm) {
        if (pac_mpsc_try_recv(&m->channel, &value) == PAC_OK) {
            node_check_order(m, value);
            value_received(value);
        }
    }
    else if (what == 24 && sim_chance(4)) {
        SIM_TRACE("a channel closes");
        pac_mpsc_close(&m->channel);
    }
    else if (what == 25 && m->senders > 0) {
        pac_mpsc_add_sender(&m->channel);
        m->senders++;
    }
    else if (what == 26 && m->senders > 0) {
        m->senders--;
        pac_mpsc_drop_sender(&m->channel);
    }
    else if (what >= 32 && sim.depth == 1) {
        pac_mpsc_fini(&m->channel);
        mpsc_init(m);
    }
}

static void
broadcast_fini(struct broadcast_thing *b)
{
    if (b->exists) {
        for (int i = 0; i < RECEIVERS; i++) {
            pac_broadcast_unsubscribe(&b->receivers[i].receiver);
        }
        pac_broadcast_fini(&b->channel);
    }
    b->exists = false;
}

static void
act_broadcast(struct broadcast_thing *b)
{
    if (!b->exists || (b->users == 0 && sim.depth == 1 && sim_chance(16))) {
        if (b->users == 0 && sim.depth == 1) {
            broadcast_fini(b);
            broadcast_init(b);
        }
        return;
    }
    struct broadcast_receiver *r = &b->receivers[sim_below(RECEIVERS)];
    if (sim_chance(16)) {
        r->gone = true;
        pac_broadcast_unsubscribe(&r->receiver);
    }
    else if (sim_chance(40) && b->has_sender) {
        b->has_sender = false;
        pac_broadcast_drop_sender(&b->channel);
    }
    else if (b->has_sender) {
        size_t receivers;
        struct value *v = value_new();
        v->number = b->sent++;
        enum pac_status status = pac_broadcast_send(&b->channel, v, &receivers);
        b->sent -= status != PAC_OK;
        after_send(v, status);
    }
}

static void
watch_fini(struct watch_thing *w)
{
    for (int i = 0; i < RECEIVERS; i++) {
        pac_watch_unsubscribe(&w->receivers[i]);
    }
    pac_watch_fini(&w->channel);
}

static void
act_watch(struct watch_thing *w)
{
    size_t which = sim_below(RECEIVERS);
    if (w->users == 0 && sim.depth == 1 && sim_chance(16)) {
        watch_fini(w);
        watch_init(w);
    }
    else if (sim_chance(16)) {
        w->gone[which] = true;
        pac_watch_unsubscribe(&w->receivers[which]);
    }
    else if (w->has_sender && sim_chance(40)) {
        w->has_sender = false;
        pac_watch_drop_sender(&w->channel);
    }
    else if (w->has_sender) {
        struct value *v = value_new();
        v->number = ++w->sent;
        enum pac_status status = pac_watch_send(&w->channel, v);
        w->sent -= status != PAC_OK;
        after_send(v, status);
    }
    else {
        struct value *v = pac_watch_get(&w->channel);
        value_destroy(v);
    }
}

/* ---- tokens ----------------------------------------------------------------------------------- */

static void
mark_cancelled(int which)
{
    things.tokens[which].cancelled = true;
    for (int i = 0; i < TOKENS; i++) {
        if (things.parents[i] == which && things.tokens[i].token != NULL &&
            !things.tokens[i].cancelled) {
            mark_cancelled(i);
        }
    }
}

static void
act_token(int which)
{
    struct token_thing *t = &things.tokens[which];
    if (t->token == NULL) {
        int parent = (int)sim_below(TOKENS);
        bool has_parent = things.tokens[parent].token != NULL && !sim_chance(3);
        t->token = has_parent ? pac_cancellation_token_child(things.tokens[parent].token)
                              : pac_cancellation_token_new();
        t->cancelled = has_parent && things.tokens[parent].cancelled;
        things.parents[which] = has_parent ? parent : -1;
    }
    else if (sim_chance(3)) {
        /* Its children are its parent's from now on. */
        struct pac_cancellation_token *token = t->token;
        /* Nodes may hold it still: then it stays where it is in the tree. */
        if (pac_atomic_load(&token->references, PAC_RELAXED) == 1) {
            for (int i = 0; i < TOKENS; i++) {
                if (things.parents[i] == which) {
                    things.parents[i] = things.parents[which];
                }
            }
            t->token = NULL;
            pac_cancellation_token_unref(token);
        }
    }
    else if (sim_chance(6)) {
        SIM_TRACE("token %d is cancelled", which);
        mark_cancelled(which);
        pac_cancellation_token_cancel(t->token);
    }
}

/* ---- promises --------------------------------------------------------------------------------- */

static struct promise_thing *
promise_of(struct pac_list_node *node)
{
    return PAC_LIST_ENTRY(node, struct promise_thing, all);
}

struct promise_thing *
promise_new(void)
{
    struct promise_thing *t = calloc(1, sizeof *t);
    pac_promise_init(&t->promise);
    t->handles = 1;
    pac_list_push_back(&things.promises, &t->all);
    return t;
}

static void
promise_free(struct promise_thing *t)
{
    SIM_CHECK(t->handles == 0 && t->given_up, "a promise has gone, and one side has it still");
    pac_promise_fini(&t->promise);
    pac_list_remove(&t->all);
    free(t);
}

void
promise_drop(struct promise_thing *t, bool seen)
{
    void *value = NULL, *again = NULL;
    enum pac_promise_outcome outcome = t->outcome;
    t->given_up = true;
    SIM_CHECK(pac_promise_give_up(&t->promise, &value) == outcome && value == t->value,
              "a promise that is given up says %d", (int)outcome);
    SIM_CHECK(pac_promise_give_up(&t->promise, &again) == outcome && again == value,
              "a promise that is given up twice says something else");
    if (value != NULL) {
        (seen ? value_received : value_destroy)(value);
    }
    if (pac_promise_let_go(&t->promise)) {
        promise_free(t);
    }
}

/* Must the waker that is kept go into the group, and nothing be pushed yet? */
static bool
is_for_group(const struct promise_thing *t, const struct pac_wake_group *group)
{
    const struct pac_waker *w = &t->promise.waker.waker;
    if (group == NULL || sim.reentrant || pac_executor_current() != NULL ||
        w->vtable != &pac_task_waker_vtable) {
        return false;
    }
    const struct pac_task *task = w->data;
    return group->count < PAC_WAKE_GROUP_CHAINS || group->chains[0].scheduler == task->scheduler;
}

static void
promise_settle(struct promise_thing *t, struct pac_wake_group *group)
{
    struct value *v = value_new();
    bool fails = sim_chance(3), grouped = is_for_group(t, group);
    enum pac_status expected = t->outcome != PAC_PROMISE_PENDING ? PAC_FULL
                               : t->given_up                     ? PAC_CLOSED
                                                                 : PAC_OK;
    SIM_CHECK(pac_promise_is_over(&t->promise) == (expected != PAC_OK), "a promise is%s over",
              expected != PAC_OK ? " not" : "");
    if (expected == PAC_OK) {
        t->outcome = fails ? PAC_PROMISE_FAILED : PAC_PROMISE_KEPT;
        t->value = v;
        v->state = VALUE_SENT;
    }
    SIM_TRACE("a promise %s", fails ? "fails" : "is kept");
    uintptr_t pushed = tasks_pushed();
    enum pac_status status = fails ? pac_promise_fail(&t->promise, v, group)
                                   : pac_promise_complete(&t->promise, v, group);
    SIM_CHECK(status == expected, "a promise says %d", (int)status);
    SIM_CHECK(!grouped || tasks_pushed() == pushed, "a group wakes before its end");
    if (expected != PAC_OK) {
        value_given_up(v);
    }
}

static void
promise_unref(struct promise_thing *t, struct pac_wake_group *group)
{
    SIM_TRACE("a promise has %u handles", t->handles - 1);
    if (--t->handles == 0 && !t->given_up && t->outcome == PAC_PROMISE_PENDING) {
        t->outcome = PAC_PROMISE_BROKEN;
    }
    if (pac_promise_unref(&t->promise, group)) {
        promise_free(t);
    }
}

/* Something is done by a maker. */
static void
act_maker(struct pac_wake_group *group)
{
    struct promise_thing *found = NULL;
    size_t count = 0;
    struct pac_list_node *node = things.promises.head.next;
    for (; node != &things.promises.head; node = node->next) {
        struct promise_thing *t = promise_of(node);
        if (t->handles > 0 && !t->busy && sim_below(++count) == 0) {
            found = t;
        }
    }
    if (found == NULL) {
        return;
    }
    switch (sim_below(8)) {
        case 0:
            pac_promise_ref(&found->promise);
            found->handles++;
            break;
        case 1:
        case 2:
            promise_unref(found, group);
            break;
        default:
            found->busy = true;
            promise_settle(found, group);
            found->busy = false;
    }
}

void
things_wake(void)
{
    SIM_TRACE("a group wakes");
    pac_wake_group_wake(&things.group);
}

static void
act_promise(void)
{
    if (sim.elsewhere && sim_chance(2)) {
        if (sim_chance(4)) {
            things_wake();
        }
        else {
            act_maker(&things.group);
        }
    }
    else if (sim_chance(2)) {
        struct pac_wake_group group;
        pac_wake_group_init(&group);
        for (size_t count = 1 + sim_below(6); count > 0; count--) {
            act_maker(&group);
        }
        pac_wake_group_wake(&group);
    }
    else {
        act_maker(NULL);
    }
}

/* ---- what happens ----------------------------------------------------------------------------- */

void
things_act(bool calm)
{
    switch (sim_below(13)) {
        case 0:
        case 1:
            act_notify(&things.notifies[sim_below(NOTIFIES)]);
            break;
        case 2:
            act_gate(&things.gates[sim_below(GATES)]);
            break;
        case 3:
            if (things.once.users == 0 && things.once.done > 0 && sim.depth == 1) {
                things.once.done = 0;
                pac_once_cell_init(&things.once.cell);
            }
            if (sim_chance(3)) {
                pac_event_clear(&things.event.event);
            }
            else {
                things.event.times += !pac_event_is_set(&things.event.event);
                pac_event_set(&things.event.event);
            }
            break;
        case 4:
            act_oneshot(&things.oneshots[sim_below(ONESHOTS)]);
            break;
        case 5:
        case 6:
            act_mpsc(&things.mpscs[sim_below(MPSCS)], calm);
            break;
        case 7:
            act_broadcast(&things.broadcast);
            break;
        case 8:
            act_watch(&things.watch);
            break;
        case 9:
            act_io(&things.ios[sim_below(IOS)]);
            break;
        case 10:
        case 11:
            act_promise();
            break;
        default:
            act_token((int)sim_below(TOKENS));
    }
}

/* ---- what must hold --------------------------------------------------------------------------- */

static int
check_in_channel(void *value, void *arg)
{
    struct value *v = value;
    uint64_t *last = arg;
    SIM_CHECK(v->state <= VALUE_SENT && v->references == 1, "a channel holds what it has given");
    SIM_CHECK(sim.reentrant || v->number > *last, "values stand in a wrong order");
    *last = v->number;
    return 0;
}

void
things_check(void)
{
    nodes_count();
    for (int i = 0; i < NOTIFIES; i++) {
        struct notify_thing *n = &things.notifies[i];
        uint64_t permit = pac_atomic_load(&n->notify.state, PAC_RELAXED) & 1;
        check_list(&n->notify.waiters);
        SIM_CHECK(!permit || pac_list_is_empty(&n->notify.waiters),
                  "lost wake-up: a permit beside those who wait for it");
        SIM_CHECK(n->ones == n->taken + n->coalesced + n->unseen + permit,
                  "notifications: %d made, %d taken, %d coalesced, %d on the way, %d stored",
                  (int)n->ones, (int)n->taken, (int)n->coalesced, (int)n->unseen, (int)permit);
    }
    for (int i = 0; i < GATES; i++) {
        struct gate *g = &things.gates[i];
        const struct pac_semaphore *s = &g->as.semaphore;
        check_list(&s->waiters);
        SIM_CHECK(g->total == g->held + g->assigned + s->available,
                  "permits of gate %d: %d in the world, %d held, %d assigned, %d available", i,
                  (int)g->total, (int)g->held, (int)g->assigned, (int)s->available);
        SIM_CHECK(s->available == 0 || pac_list_is_empty(&s->waiters),
                  "lost wake-up: permits are there, and somebody waits for them");
    }
    SIM_CHECK(things.barrier.arrived == things.barrier.barrier.arrived &&
                  things.barrier.arrived < things.barrier.barrier.parties,
              "a barrier has %d, and %d wait", (int)things.barrier.barrier.arrived,
              (int)things.barrier.arrived);
    for (int i = 0; i < MPSCS; i++) {
        struct pac_mpsc *m = &things.mpscs[i].channel;
        uint64_t last = things.mpscs[i].last_received;
        check_list(&m->sending);
        check_list(&m->receiving);
        check_list(&m->woken);
        (void)pac_mpsc_visit(m, check_in_channel, &last);
        SIM_CHECK(m->length <= m->capacity, "a channel holds more than it may");
        SIM_CHECK(pac_list_is_empty(&m->sending) || m->length == m->capacity,
                  "lost wake-up: there is room, and somebody waits for it");
        SIM_CHECK(pac_list_is_empty(&m->receiving) || m->length <= m->woken_count,
                  "lost wake-up: there is a value, and somebody waits for one");
    }
    for (int i = 0; i < TOKENS; i++) {
        const struct token_thing *t = &things.tokens[i];
        SIM_CHECK(t->token == NULL || pac_cancellation_token_is_cancelled(t->token) == t->cancelled,
                  "token %d ought%s to be cancelled", i, t->cancelled ? "" : " not");
    }
    for (int i = 0; i < IOS; i++) {
        check_io(&things.ios[i]);
    }
    check_list(&things.broadcast.channel.receiving);
    check_list(&things.watch.channel.changes);
    check_list(&things.event.event.notify.waiters);
}

void
things_fini(void)
{
    struct pac_list_node *node;
    things_check();
    while ((node = pac_list_first(&things.promises)) != NULL) {
        SIM_CHECK(promise_of(node)->handles > 0, "a promise is left that nobody knows");
        promise_unref(promise_of(node), NULL);
    }
    for (int i = 0; i < ONESHOTS; i++) {
        pac_oneshot_fini(&things.oneshots[i].channel);
    }
    for (int i = 0; i < MPSCS; i++) {
        pac_mpsc_fini(&things.mpscs[i].channel);
    }
    broadcast_fini(&things.broadcast);
    watch_fini(&things.watch);
    for (int i = 0; i < TOKENS; i++) {
        pac_cancellation_token_unref(things.tokens[i].token);
    }
    while ((node = pac_list_pop_front(&things.values)) != NULL) {
        struct value *v = PAC_LIST_ENTRY(node, struct value, all);
        SIM_CHECK(v->references == 0, "a value was lost: nobody received or destroyed it");
        free(v);
    }
}
