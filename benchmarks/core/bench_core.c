/* bench_core.c - the core alone, in the shapes in which it is compared with Tokio's current_thread
 * runtime: nanoseconds per operation, the best of some repetitions, beside the figure to reach. */
#include "bench.h"

#include "delay.h"
#include "mpsc.h"
#include "notify.h"
#include "oneshot.h"

static enum pac_poll
ready_poll(struct pac_future *f, struct pac_context *cx)
{
    (void)f, (void)cx;
    return PAC_READY;
}

static const struct pac_future_vtable ready_vtable = {ready_poll, drop_nothing};

/* ---- spawn a task, await it, repeat --------------------------------------------------------- */

enum { SPAWN_AWAIT = 1000000 };

struct spawn_await {
    struct pac_future future;
    struct pac_future child;
    struct pac_join_handle handle;
    bool waits;
    int left;
};

static enum pac_poll
spawn_await_poll(struct pac_future *f, struct pac_context *cx)
{
    struct spawn_await *s = PAC_CONTAINER_OF(f, struct spawn_await, future);
    for (;;) {
        if (!s->waits) {
            if (s->left-- == 0) {
                return PAC_READY;
            }
            s->child.vtable = &ready_vtable;
            pac_join_handle_init(&s->handle, spawn(&s->child));
            s->waits = true;
        }
        if (pac_join_handle_poll(&s->handle, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_join_handle_drop(&s->handle);
        s->waits = false;
    }
}

static const struct pac_future_vtable spawn_await_vtable = {spawn_await_poll, drop_nothing};

static void
spawn_await(void)
{
    struct spawn_await root = {.future = {&spawn_await_vtable}, .left = SPAWN_AWAIT};
    block_on(&root.future);
}

/* ---- spawn 200 000, then await all ---------------------------------------------------------- */

enum { MANY = 200000 };

struct spawn_many {
    struct pac_future future;
    struct pac_future *children;
    struct pac_join_handle *handles;
    int next;
};

static enum pac_poll
spawn_many_poll(struct pac_future *f, struct pac_context *cx)
{
    struct spawn_many *s = PAC_CONTAINER_OF(f, struct spawn_many, future);
    if (s->next < 0) {
        for (int i = 0; i < MANY; i++) {
            s->children[i].vtable = &ready_vtable;
            pac_join_handle_init(&s->handles[i], spawn(&s->children[i]));
        }
        s->next = 0;
    }
    for (; s->next < MANY; s->next++) {
        if (pac_join_handle_poll(&s->handles[s->next], cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_join_handle_drop(&s->handles[s->next]);
    }
    return PAC_READY;
}

static const struct pac_future_vtable spawn_many_vtable = {spawn_many_poll, drop_nothing};

static void
spawn_many(void)
{
    static struct pac_future children[MANY];
    static struct pac_join_handle handles[MANY];
    struct spawn_many root = {{&spawn_many_vtable}, children, handles, -1};
    block_on(&root.future);
}

/* ---- yields --------------------------------------------------------------------------------- */

enum { YIELDS = 5000000, YIELDERS = 1000 };

static void
one_yields(void)
{
    struct yielder root = {{&yielder_vtable}, YIELDS};
    block_on(&root.future);
}

static void
a_thousand_yield(void)
{
    static struct yielder yielders[YIELDERS];
    for (int i = 0; i < YIELDERS; i++) {
        yielders[i] = (struct yielder){{&yielder_vtable}, YIELDS / YIELDERS};
        pac_task_unref(spawn(&yielders[i].future));
    }
    struct yielder root = {{&yielder_vtable}, YIELDS / YIELDERS};
    block_on(&root.future);
}

/* ---- ping-pong by two Notifys --------------------------------------------------------------- */

enum { ROUND_TRIPS = 1000000 };

struct player {
    struct pac_future future;
    struct pac_notify *wait_for, *then;
    struct pac_notified notified;
    int left;
    bool waits;
};

static enum pac_poll
player_poll(struct pac_future *f, struct pac_context *cx)
{
    struct player *p = PAC_CONTAINER_OF(f, struct player, future);
    for (; p->left > 0; p->left--) {
        if (!p->waits) {
            pac_notified_init(&p->notified, p->wait_for);
            p->waits = true;
        }
        if (pac_notified_poll(&p->notified, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_notified_drop(&p->notified);
        p->waits = false;
        pac_notify_one(p->then);
    }
    return PAC_READY;
}

static void
player_drop(struct pac_future *f)
{
    struct player *p = PAC_CONTAINER_OF(f, struct player, future);
    if (p->waits) {
        pac_notified_drop(&p->notified);
    }
}

static const struct pac_future_vtable player_vtable = {player_poll, player_drop};

static void
ping_pong(void)
{
    struct pac_notify ping, pong;
    pac_notify_init(&ping);
    pac_notify_init(&pong);
    struct player b = {.future = {&player_vtable}, .wait_for = &ping, .then = &pong};
    struct player a = {.future = {&player_vtable}, .wait_for = &pong, .then = &ping};
    a.left = b.left = ROUND_TRIPS;
    struct pac_task *t = spawn(&b.future);
    pac_notify_one(&pong); /* the serve */
    block_on(&a.future);
    pac_task_cancel(t);
    struct yielder rest = {{&yielder_vtable}, 2};
    pac_task_unref(t);
    block_on(&rest.future);
}

/* ---- a oneshot through a spawned task ------------------------------------------------------- */

enum { ONESHOTS = 1000000 };

struct one_sender {
    struct pac_future future;
    struct pac_oneshot *channel;
};

static enum pac_poll
one_sender_poll(struct pac_future *f, struct pac_context *cx)
{
    struct one_sender *s = PAC_CONTAINER_OF(f, struct one_sender, future);
    (void)cx;
    if (pac_oneshot_send(s->channel, s) != PAC_OK) {
        die("a oneshot was not sent");
    }
    pac_oneshot_drop_sender(s->channel);
    return PAC_READY;
}

static const struct pac_future_vtable one_sender_vtable = {one_sender_poll, drop_nothing};

struct one_receiver {
    struct pac_future future;
    struct pac_oneshot channel;
    struct pac_oneshot_recv recv;
    struct one_sender sender;
    bool waits;
    int left;
};

static enum pac_poll
one_receiver_poll(struct pac_future *f, struct pac_context *cx)
{
    struct one_receiver *r = PAC_CONTAINER_OF(f, struct one_receiver, future);
    for (;;) {
        if (!r->waits) {
            if (r->left-- == 0) {
                return PAC_READY;
            }
            pac_oneshot_init(&r->channel, NULL);
            pac_oneshot_recv_init(&r->recv, &r->channel);
            r->sender = (struct one_sender){{&one_sender_vtable}, &r->channel};
            pac_task_unref(spawn(&r->sender.future));
            r->waits = true;
        }
        if (pac_oneshot_recv_poll(&r->recv, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_oneshot_recv_drop(&r->recv);
        pac_oneshot_fini(&r->channel);
        r->waits = false;
    }
}

static const struct pac_future_vtable one_receiver_vtable = {one_receiver_poll, drop_nothing};

static void
oneshots(void)
{
    struct one_receiver root = {.future = {&one_receiver_vtable}, .left = ONESHOTS};
    block_on(&root.future);
}

/* ---- a bounded channel between two tasks ---------------------------------------------------- */

enum { MESSAGES = 1000000, CHANNEL_CAPACITY = 128 };

struct channel_end {
    struct pac_future future;
    struct pac_mpsc *channel;
    struct pac_mpsc_send send;
    struct pac_mpsc_recv recv;
    void *value;
    bool waits;
    int left;
};

static enum pac_poll
producer_poll(struct pac_future *f, struct pac_context *cx)
{
    struct channel_end *p = PAC_CONTAINER_OF(f, struct channel_end, future);
    for (; p->left > 0; p->left--) {
        if (!p->waits) {
            pac_mpsc_send_init(&p->send, p->channel, p);
            p->waits = true;
        }
        if (pac_mpsc_send_poll(&p->send, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_mpsc_send_drop(&p->send);
        p->waits = false;
    }
    pac_mpsc_drop_sender(p->channel);
    return PAC_READY;
}

static enum pac_poll
consumer_poll(struct pac_future *f, struct pac_context *cx)
{
    struct channel_end *c = PAC_CONTAINER_OF(f, struct channel_end, future);
    for (;;) {
        if (!c->waits) {
            pac_mpsc_recv_init(&c->recv, c->channel, &c->value, 1);
            c->waits = true;
        }
        if (pac_mpsc_recv_poll(&c->recv, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_mpsc_recv_drop(&c->recv);
        c->waits = false;
        if (c->recv.status == PAC_CLOSED) {
            return PAC_READY;
        }
    }
}

static const struct pac_future_vtable producer_vtable = {producer_poll, drop_nothing};
static const struct pac_future_vtable consumer_vtable = {consumer_poll, drop_nothing};

static void
messages(void)
{
    struct pac_mpsc channel;
    pac_mpsc_init(&channel, CHANNEL_CAPACITY, NULL);
    struct channel_end producer = {.future = {&producer_vtable},
                                   .channel = &channel,
                                   .left = MESSAGES};
    struct channel_end consumer = {.future = {&consumer_vtable}, .channel = &channel};
    pac_task_unref(spawn(&producer.future));
    block_on(&consumer.future);
    pac_mpsc_fini(&channel);
}

/* ---- timers --------------------------------------------------------------------------------- */

enum { ALIVE = 100000, TIMERS = 1000000 };

static struct pac_delay alive[ALIVE];
static uint32_t seed;

/* One second to a hundred from now. */
static uint64_t
some_deadline_ns(uint64_t now_ns)
{
    seed = seed * 1664525u + 1013904223u;
    return now_ns + 1000000000u + (uint64_t)(seed >> 8) * 5900;
}

static enum pac_poll
arm_and_drop_poll(struct pac_future *f, struct pac_context *cx)
{
    (void)f;
    uint64_t now_ns = pac_executor_now_ns(ex);
    for (int i = 0; i < TIMERS; i++) {
        struct pac_delay d;
        pac_delay_init(&d, some_deadline_ns(now_ns));
        if (pac_delay_poll(&d, cx) == PAC_READY) {
            die("a timer was early");
        }
        pac_delay_drop(&d);
    }
    return PAC_READY;
}

static const struct pac_future_vtable arm_and_drop_vtable = {arm_and_drop_poll, drop_nothing};

static void
arm_and_drop(void)
{
    struct pac_future root = {&arm_and_drop_vtable};
    block_on(&root);
}

static void
arm_alive(void)
{
    struct pac_context cx = {&pac_noop_waker};
    uint64_t now_ns = pac_executor_now_ns(ex);
    struct pac_scheduler *before = pac_executor_enter(ex);
    for (int i = 0; i < ALIVE; i++) {
        pac_delay_init(&alive[i], some_deadline_ns(now_ns));
        if (pac_delay_poll(&alive[i], &cx) == PAC_READY) {
            die("a timer was early");
        }
    }
    pac_executor_leave(before);
}

static void
drop_alive(void)
{
    struct pac_scheduler *before = pac_executor_enter(ex);
    for (int i = 0; i < ALIVE; i++) {
        pac_delay_drop(&alive[i]);
    }
    pac_executor_leave(before);
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct shape shapes[] = {
    {"spawn a task, await it, repeat", spawn_await, SPAWN_AWAIT, 100, NULL, NULL},
    {"spawn 200 000, then await all", spawn_many, MANY, 140, NULL, NULL},
    {"one task yields", one_yields, YIELDS, 20, NULL, NULL},
    {"1000 tasks yield in turn", a_thousand_yield, YIELDS, 20, NULL, NULL},
    {"Notify ping-pong, a round trip", ping_pong, ROUND_TRIPS, 60, NULL, NULL},
    {"oneshot through a spawned task", oneshots, ONESHOTS, 100, NULL, NULL},
    {"mpsc(128), per message", messages, MESSAGES, 25, NULL, NULL},
    {"a timer armed and dropped, 100 000 alive", arm_and_drop, TIMERS, 60, arm_alive, drop_alive},
};

int
main(int argc, char **argv)
{
    return bench("bench_core", shapes, sizeof shapes / sizeof *shapes, argc, argv);
}
