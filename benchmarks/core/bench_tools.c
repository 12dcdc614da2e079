/* bench_tools.c - the core's tools for coordinating tasks, alone: nobody in the way, and handed from
 * task to task. oneshot and mpsc, for which there is a figure to reach, are in bench_core.c. */
#include "bench.h"

#include "barrier.h"
#include "broadcast.h"
#include "cancellation_token.h"
#include "event.h"
#include "mutex.h"
#include "rwlock.h"
#include "watch.h"

/* ---- what waits at a gate: semaphore, mutex, rwlock ----------------------------------------- */

/* UNCONTENDED: one task takes and gives back. HANDED: several do, each with a yield while it holds
 * it, so that each taking waits for a giving back and is a switch of tasks. */
enum { UNCONTENDED = 5000000, HANDED = 1000000, RIVALS = 4 };

struct gate {
    void (*acquire)(struct pac_acquire *a, void *gate);
    enum pac_status (*release)(void *gate);
};

struct visitor {
    struct pac_future future;
    const struct gate *gate;
    void *at;
    struct pac_acquire acquire;
    int left;
    bool waits, holds, yields;
};

static enum pac_poll
visitor_poll(struct pac_future *f, struct pac_context *cx)
{
    struct visitor *v = PAC_CONTAINER_OF(f, struct visitor, future);
    while (v->left > 0) {
        if (!v->holds) {
            if (!v->waits) {
                v->gate->acquire(&v->acquire, v->at);
                v->waits = true;
            }
            if (pac_acquire_poll(&v->acquire, cx) == PAC_PENDING) {
                return PAC_PENDING;
            }
            pac_acquire_drop(&v->acquire);
            v->waits = false;
            v->holds = true;
            if (v->yields) {
                pac_waker_wake_by_ref(cx->waker);
                return PAC_PENDING;
            }
        }
        if (v->gate->release(v->at) != PAC_OK) {
            die("nothing was held");
        }
        v->holds = false;
        v->left--;
    }
    return PAC_READY;
}

static const struct pac_future_vtable visitor_vtable = {visitor_poll, drop_nothing};

/* Let tasks that were spawned end that are about to. */
static void
let_others_end(void)
{
    struct yielder rest = {{&yielder_vtable}, 4};
    block_on(&rest.future);
}

static void
visit(const struct gate *gate, void *at, bool is_contended)
{
    struct visitor visitors[RIVALS];
    int count = is_contended ? RIVALS : 1;
    for (int i = 0; i < count; i++) {
        visitors[i] = (struct visitor){.future = {&visitor_vtable},
                                       .gate = gate,
                                       .at = at,
                                       .left = is_contended ? HANDED / RIVALS : UNCONTENDED,
                                       .yields = is_contended};
    }
    for (int i = 1; i < count; i++) {
        pac_task_unref(spawn(&visitors[i].future));
    }
    block_on(&visitors[0].future);
    let_others_end();
    for (int i = 0; i < count; i++) {
        if (visitors[i].left > 0) {
            die("a lock was not handed over");
        }
    }
}

static void
acquire_one(struct pac_acquire *a, void *semaphore)
{
    pac_acquire_init(a, semaphore, 1);
}

static enum pac_status
release_one(void *semaphore)
{
    return pac_semaphore_release(semaphore, 1);
}

static void
mutex_lock(struct pac_acquire *a, void *mutex)
{
    pac_mutex_lock_init(a, mutex);
}

static enum pac_status
mutex_unlock(void *mutex)
{
    return pac_mutex_unlock(mutex);
}

static void
read_lock(struct pac_acquire *a, void *rwlock)
{
    pac_rwlock_read_init(a, rwlock);
}

static enum pac_status
read_unlock(void *rwlock)
{
    return pac_rwlock_unlock_read(rwlock);
}

static void
write_lock(struct pac_acquire *a, void *rwlock)
{
    pac_rwlock_write_init(a, rwlock);
}

static enum pac_status
write_unlock(void *rwlock)
{
    return pac_rwlock_unlock_write(rwlock);
}

static const struct gate semaphore_gate = {acquire_one, release_one};
static const struct gate mutex_gate = {mutex_lock, mutex_unlock};
static const struct gate read_gate = {read_lock, read_unlock};
static const struct gate write_gate = {write_lock, write_unlock};

static void
visit_semaphore(bool is_contended)
{
    struct pac_semaphore semaphore;
    pac_semaphore_init(&semaphore, 1, 1);
    visit(&semaphore_gate, &semaphore, is_contended);
}

static void
visit_mutex(bool is_contended)
{
    struct pac_mutex mutex;
    pac_mutex_init(&mutex);
    visit(&mutex_gate, &mutex, is_contended);
}

static void
visit_rwlock(const struct gate *gate, bool is_contended)
{
    struct pac_rwlock rwlock;
    pac_rwlock_init(&rwlock);
    visit(gate, &rwlock, is_contended);
}

static void
semaphore_free(void)
{
    visit_semaphore(false);
}

static void
semaphore_busy(void)
{
    visit_semaphore(true);
}

static void
mutex_free(void)
{
    visit_mutex(false);
}

static void
mutex_busy(void)
{
    visit_mutex(true);
}

static void
rwlock_read_free(void)
{
    visit_rwlock(&read_gate, false);
}

static void
rwlock_write_free(void)
{
    visit_rwlock(&write_gate, false);
}

static void
rwlock_busy(void)
{
    visit_rwlock(&write_gate, true);
}

/* ---- broadcast ------------------------------------------------------------------------------ */

enum { LISTENERS = 10, MESSAGES = 1000000, CHANNEL_CAPACITY = 128 };

static void *
same_value(void *value)
{
    return value;
}

static void
keep_value(void *value)
{
    (void)value;
}

struct listener {
    struct pac_future future;
    struct pac_broadcast_receiver receiver;
    struct pac_broadcast_recv recv;
    bool waits;
    int received;
};

static enum pac_poll
listener_poll(struct pac_future *f, struct pac_context *cx)
{
    struct listener *l = PAC_CONTAINER_OF(f, struct listener, future);
    for (;;) {
        if (!l->waits) {
            pac_broadcast_recv_init(&l->recv, &l->receiver);
            l->waits = true;
        }
        if (pac_broadcast_recv_poll(&l->recv, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_broadcast_recv_drop(&l->recv);
        l->waits = false;
        if (l->recv.status == PAC_CLOSED) {
            return PAC_READY;
        }
        l->received += l->recv.status == PAC_OK;
    }
}

struct speaker {
    struct pac_future future;
    struct pac_broadcast *channel;
    int left;
};

/* As many as fit, and then it is the listeners' turn. */
static enum pac_poll
speaker_poll(struct pac_future *f, struct pac_context *cx)
{
    struct speaker *s = PAC_CONTAINER_OF(f, struct speaker, future);
    for (int i = 0; i < CHANNEL_CAPACITY && s->left > 0; i++, s->left--) {
        size_t receivers;
        if (pac_broadcast_send(s->channel, s, &receivers) != PAC_OK) {
            die("nobody listens");
        }
    }
    if (s->left == 0) {
        pac_broadcast_drop_sender(s->channel);
        return PAC_READY;
    }
    pac_waker_wake_by_ref(cx->waker);
    return PAC_PENDING;
}

static const struct pac_future_vtable listener_vtable = {listener_poll, drop_nothing};
static const struct pac_future_vtable speaker_vtable = {speaker_poll, drop_nothing};

static void
broadcast(int count)
{
    struct pac_broadcast channel;
    struct listener listeners[LISTENERS];
    if (pac_broadcast_init(&channel, CHANNEL_CAPACITY, same_value, keep_value) != PAC_OK) {
        die("no memory");
    }
    for (int i = 0; i < count; i++) {
        listeners[i] = (struct listener){.future = {&listener_vtable}};
        pac_broadcast_subscribe(&listeners[i].receiver, &channel);
        pac_task_unref(spawn(&listeners[i].future));
    }
    struct speaker speaker = {{&speaker_vtable}, &channel, MESSAGES / count};
    block_on(&speaker.future);
    let_others_end();
    for (int i = 0; i < count; i++) {
        if (listeners[i].received != MESSAGES / count) {
            die("a broadcast was not received");
        }
        pac_broadcast_unsubscribe(&listeners[i].receiver);
    }
    pac_broadcast_fini(&channel);
}

static void
broadcast_to_one(void)
{
    broadcast(1);
}

static void
broadcast_to_ten(void)
{
    broadcast(LISTENERS);
}

/* ---- two tasks that make each other go on: watch, event, barrier ---------------------------- */

struct watcher {
    struct pac_future future;
    struct pac_watch *tells;
    struct pac_watch_receiver *sees;
    struct pac_watch_changed changed;
    bool waits;
    int left;
};

static void
tell(struct pac_watch *w)
{
    if (pac_watch_send(w, w) != PAC_OK) {
        die("nobody watches");
    }
}

static enum pac_poll
watcher_poll(struct pac_future *f, struct pac_context *cx)
{
    struct watcher *w = PAC_CONTAINER_OF(f, struct watcher, future);
    for (; w->left > 0; w->left--) {
        if (!w->waits) {
            pac_watch_changed_init(&w->changed, w->sees);
            w->waits = true;
        }
        if (pac_watch_changed_poll(&w->changed, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_watch_changed_drop(&w->changed);
        w->waits = false;
        tell(w->tells);
    }
    return PAC_READY;
}

static const struct pac_future_vtable watcher_vtable = {watcher_poll, drop_nothing};

/* Two watches: each task tells in one of them when it has seen a change in the other. If they are
 * one and the same, a single task sees what it has told itself. */
static void
watch(bool is_one, int count)
{
    struct pac_watch watches[2];
    struct pac_watch_receiver receivers[2];
    for (int i = 0; i < 2; i++) {
        pac_watch_init(&watches[i], &watches[i], same_value, keep_value);
        pac_watch_subscribe(&receivers[i], &watches[i]);
    }
    struct watcher a = {.future = {&watcher_vtable}, .sees = &receivers[0], .left = count};
    struct watcher b = {.future = {&watcher_vtable}, .sees = &receivers[1], .left = count};
    a.tells = &watches[is_one ? 0 : 1];
    b.tells = &watches[0];
    tell(&watches[0]); /* the serve */
    if (!is_one) {
        pac_task_unref(spawn(&b.future));
    }
    block_on(&a.future);
    let_others_end();
    for (int i = 0; i < 2; i++) {
        pac_watch_unsubscribe(&receivers[i]);
        pac_watch_fini(&watches[i]);
    }
}

static void
watch_free(void)
{
    watch(true, UNCONTENDED);
}

static void
watch_busy(void)
{
    watch(false, HANDED / 2);
}

struct event_player {
    struct pac_future future;
    struct pac_event *wait_for, *then; /* NULL: the event stays set */
    struct pac_event_wait wait;
    bool waits;
    int left;
};

static enum pac_poll
event_player_poll(struct pac_future *f, struct pac_context *cx)
{
    struct event_player *p = PAC_CONTAINER_OF(f, struct event_player, future);
    for (; p->left > 0; p->left--) {
        if (!p->waits) {
            pac_event_wait_init(&p->wait, p->wait_for);
            p->waits = true;
        }
        if (pac_event_wait_poll(&p->wait, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_event_wait_drop(&p->wait);
        p->waits = false;
        if (p->then != NULL) {
            pac_event_clear(p->wait_for);
            pac_event_set(p->then);
        }
    }
    return PAC_READY;
}

static const struct pac_future_vtable event_player_vtable = {event_player_poll, drop_nothing};

static void
event_free(void)
{
    struct pac_event event;
    pac_event_init(&event);
    pac_event_set(&event);
    struct event_player root = {.future = {&event_player_vtable},
                                .wait_for = &event,
                                .left = UNCONTENDED};
    block_on(&root.future);
}

static void
event_busy(void)
{
    struct pac_event ping, pong;
    pac_event_init(&ping);
    pac_event_init(&pong);
    struct event_player b = {.future = {&event_player_vtable},
                             .wait_for = &ping,
                             .then = &pong,
                             .left = HANDED};
    struct event_player a = {.future = {&event_player_vtable},
                             .wait_for = &pong,
                             .then = &ping,
                             .left = HANDED};
    pac_task_unref(spawn(&b.future));
    pac_event_set(&pong); /* the serve */
    block_on(&a.future);
    let_others_end();
}

struct party {
    struct pac_future future;
    struct pac_barrier *barrier;
    struct pac_barrier_wait wait;
    bool waits;
    int left;
};

static enum pac_poll
party_poll(struct pac_future *f, struct pac_context *cx)
{
    struct party *p = PAC_CONTAINER_OF(f, struct party, future);
    for (; p->left > 0; p->left--) {
        if (!p->waits) {
            pac_barrier_wait_init(&p->wait, p->barrier);
            p->waits = true;
        }
        if (pac_barrier_wait_poll(&p->wait, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_barrier_wait_drop(&p->wait);
        p->waits = false;
    }
    return PAC_READY;
}

static const struct pac_future_vtable party_vtable = {party_poll, drop_nothing};

static void
barrier_busy(void)
{
    struct pac_barrier barrier;
    pac_barrier_init(&barrier, 2);
    struct party a = {.future = {&party_vtable}, .barrier = &barrier, .left = HANDED / 2};
    struct party b = {.future = {&party_vtable}, .barrier = &barrier, .left = HANDED / 2};
    pac_task_unref(spawn(&b.future));
    block_on(&a.future);
    let_others_end();
}

/* ---- cancellation tokens -------------------------------------------------------------------- */

static struct pac_cancellation_token *
new_token(struct pac_cancellation_token *parent)
{
    struct pac_cancellation_token *t =
        parent == NULL ? pac_cancellation_token_new() : pac_cancellation_token_child(parent);
    if (t == NULL) {
        die("no memory");
    }
    return t;
}

static void
token_look(void)
{
    struct pac_cancellation_token *t = new_token(NULL);
    for (int i = 0; i < UNCONTENDED; i++) {
        if (pac_cancellation_token_is_cancelled(t)) {
            die("a token was cancelled");
        }
    }
    pac_cancellation_token_unref(t);
}

/* As a branch that loses each time: into the token's list, and out of it. */
static void
token_wait(void)
{
    struct pac_cancellation_token *t = new_token(NULL);
    struct pac_context cx = {&pac_noop_waker};
    for (int i = 0; i < UNCONTENDED; i++) {
        struct pac_cancelled f;
        pac_cancelled_init(&f, t);
        if (pac_cancelled_poll(&f, &cx) == PAC_READY) {
            die("a token was cancelled");
        }
        pac_cancelled_drop(&f);
    }
    pac_cancellation_token_unref(t);
}

static void
token_child(void)
{
    struct pac_cancellation_token *parent = new_token(NULL);
    for (int i = 0; i < UNCONTENDED; i++) {
        struct pac_cancellation_token *t = new_token(parent);
        pac_cancellation_token_cancel(t);
        pac_cancellation_token_unref(t);
    }
    pac_cancellation_token_unref(parent);
}

/* ---- the table --------------------------------------------------------------------------------- */

static const struct shape shapes[] = {
    {"semaphore, acquired and released", semaphore_free, UNCONTENDED, 0, NULL, NULL},
    {"semaphore, a permit handed over", semaphore_busy, HANDED, 0, NULL, NULL},
    {"mutex, locked and unlocked", mutex_free, UNCONTENDED, 0, NULL, NULL},
    {"mutex, handed over", mutex_busy, HANDED, 0, NULL, NULL},
    {"rwlock, read-locked and unlocked", rwlock_read_free, UNCONTENDED, 0, NULL, NULL},
    {"rwlock, write-locked and unlocked", rwlock_write_free, UNCONTENDED, 0, NULL, NULL},
    {"rwlock, handed over by writers", rwlock_busy, HANDED, 0, NULL, NULL},
    {"broadcast(128) to one, per message", broadcast_to_one, MESSAGES, 0, NULL, NULL},
    {"broadcast(128) to ten, per receipt", broadcast_to_ten, MESSAGES, 0, NULL, NULL},
    {"watch, sent and seen", watch_free, UNCONTENDED, 0, NULL, NULL},
    {"watch, a change waited for", watch_busy, HANDED, 0, NULL, NULL},
    {"event that is set, waited for", event_free, UNCONTENDED, 0, NULL, NULL},
    {"event, a round trip", event_busy, HANDED, 0, NULL, NULL},
    {"barrier of two, per wait", barrier_busy, HANDED, 0, NULL, NULL},
    {"cancellation token, looked at", token_look, UNCONTENDED, 0, NULL, NULL},
    {"cancellation token, waited for in vain", token_wait, UNCONTENDED, 0, NULL, NULL},
    {"child token made, cancelled, given up", token_child, UNCONTENDED, 0, NULL, NULL},
};

int
main(int argc, char **argv)
{
    return bench("bench_tools", shapes, sizeof shapes / sizeof *shapes, argc, argv);
}
