/* spurious_wakeups.c - a task may be woken, and so polled, for no reason at all.
 *
 * Shows: three tasks wait, two for an event and one for a time. A thread makes the
 * event happen; the second time it wakes all of them at random before. An honest leaf
 * looks at its event at every poll, so that extra wakes change nothing but the number
 * of polls, and make no delay early. A leaf that takes being polled for its event is
 * then wrong.
 */
#define _POSIX_C_SOURCE 200809L
#include "async.h"
#include "delay.h"
#include "join.h"
#include "notify.h"
#include "tutorial.h"

#include <pthread.h>

struct event {
    PAC_ATOMIC(bool) happened;
    struct pac_notify notify;
};

/* ---- a leaf that is wrong ------------------------------------------------------------------- */

/* It takes its second poll for its event. */
struct trusting {
    struct pac_future future;
    struct pac_notified notified;
    int polls;
};

static enum pac_poll
trusting_poll(struct pac_future *future, struct pac_context *cx)
{
    struct trusting *self = PAC_CONTAINER_OF(future, struct trusting, future);
    if (self->polls++ > 0) {
        return PAC_READY;
    }
    return pac_notified_poll(&self->notified, cx);
}

static void
trusting_drop(struct pac_future *future)
{
    struct trusting *self = PAC_CONTAINER_OF(future, struct trusting, future);
    pac_notified_drop(&self->notified);
}

static const struct pac_future_vtable trusting_vtable = {trusting_poll, trusting_drop};

/* ---- tasks that await one leaf and note how it went ----------------------------------------- */

struct waiter {
    struct pac_async async;
    const char *name;
    struct pac_future *leaf;
    struct event *event;
    PAC_ATOMIC(int) polls;
    PAC_ATOMIC(bool) ended;
    bool event_had_happened;
    uint64_t ready_ns;
};

static enum pac_poll
waiter_poll(struct pac_future *future, struct pac_context *cx)
{
    struct waiter *self = PAC_ASYNC_SELF(future, struct waiter);
    int polls = pac_atomic_add(&self->polls, 1, PAC_RELAXED) + 1;
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, self->leaf, cx);
    /* acquire: pairs with the release in waking_thread. */
    self->event_had_happened = pac_atomic_load(&self->event->happened, PAC_ACQUIRE);
    self->ready_ns = pac_clock_ns();
    show("%s: READY at poll %d, event %s", self->name, polls,
         self->event_had_happened ? "has happened" : "has not happened");
    /* release: pairs with the acquire in has_disturbed. */
    pac_atomic_store(&self->ended, true, PAC_RELEASE);
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable waiter_vtable = {waiter_poll, pac_async_drop};

enum { HONEST, DELAYED, TRUSTING, TASKS };

struct scene {
    struct event event;
    struct pac_notified notified;
    struct pac_delay delay;
    struct trusting trusting;
    struct waiter waiters[TASKS];
    struct pac_waker wakers[TASKS];
    bool disturbs;
    int extra_wakes;
    pthread_t thread;
};

static void
waiter_init(struct scene *s, int i, const char *name, struct pac_future *leaf)
{
    s->waiters[i] = (struct waiter){.name = name, .leaf = leaf, .event = &s->event};
    pac_async_init(&s->waiters[i].async, &waiter_vtable, NULL);
}

static int
polls_of(struct scene *s, int i)
{
    return pac_atomic_load(&s->waiters[i].polls, PAC_RELAXED);
}

static void
scene_init(struct scene *s, bool disturbs)
{
    pac_atomic_init(&s->event.happened, false);
    pac_notify_init(&s->event.notify);
    pac_notified_init(&s->notified, &s->event.notify);
    pac_delay_init(&s->delay, pac_clock_ns() + milliseconds(100));
    s->trusting = (struct trusting){.future = {&trusting_vtable}};
    pac_notified_init(&s->trusting.notified, &s->event.notify);
    waiter_init(s, HONEST, "honest", &s->notified.future);
    waiter_init(s, DELAYED, "delayed", &s->delay.future);
    waiter_init(s, TRUSTING, "trusting", &s->trusting.future);
    s->disturbs = disturbs;
    s->extra_wakes = 0;
}

/* ---- the thread that wakes ------------------------------------------------------------------ */

/* Whether the event may happen now: extra wakes have led to polls (many wakes may share
 * one), and the trusting one has fallen for its own. */
static bool
has_disturbed(struct scene *s)
{
    /* acquire: pairs with the release in waiter_poll. */
    return polls_of(s, HONEST) > 2 && pac_atomic_load(&s->waiters[TRUSTING].ended, PAC_ACQUIRE);
}

static void *
waking_thread(void *argument)
{
    struct scene *s = argument;
    unsigned random = 1; /* the same sequence in every run */

    while (s->disturbs && (s->extra_wakes < 200 || !has_disturbed(s))) {
        random = random * 1103515245 + 12345;
        pac_waker_wake_by_ref(&s->wakers[random / 65536 % TASKS]);
        s->extra_wakes++;
        block_for_ns(random / 65536 % 50000);
    }
    show("thread: after %d extra wakes, the event happens", s->extra_wakes);
    /* release: pairs with the acquire in waiter_poll. */
    pac_atomic_store(&s->event.happened, true, PAC_RELEASE);
    pac_notify_waiters(&s->event.notify);
    return NULL;
}

/* ---- all together --------------------------------------------------------------------------- */

static void
wake_all(struct scene *s)
{
    for (int i = 0; i < TASKS; i++) {
        pac_waker_wake_by_ref(&s->wakers[i]);
    }
}

/* The root: it comes after the three in the executor's queue, so they wait by now. */
struct root {
    struct pac_async async;
    struct scene *scene;
    struct pac_join all;
};

static enum pac_poll
root_poll(struct pac_future *future, struct pac_context *cx)
{
    struct root *self = PAC_ASYNC_SELF(future, struct root);
    struct scene *s = self->scene;
    PAC_ASYNC_BEGIN(self);
    for (int i = 0; i < TASKS; i++) {
        claim(polls_of(s, i) == 1, "a task was polled when it started, and waits");
    }
    claim(pthread_create(&s->thread, NULL, waking_thread, s) == 0, "a thread starts");
    PAC_AWAIT(1, self, &self->all.future, cx);
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable root_vtable = {root_poll, pac_async_drop};

/* The scene's wakers are kept: the caller drops them. */
static void
scene_play(struct scene *s, struct pac_executor *ex)
{
    struct pac_join_handle handles[TASKS];
    struct pac_future *members[TASKS];
    struct root root = {.scene = s};
    for (int i = 0; i < TASKS; i++) {
        enum pac_status status;
        struct pac_task *task = pac_executor_spawn(ex, &s->waiters[i].async.future, &status);
        if (task == NULL) {
            claim(false, "a task can be spawned");
        }
        struct pac_waker waker = pac_task_waker(task);
        s->wakers[i] = pac_waker_clone(&waker);
        pac_join_handle_init(&handles[i], task);
        members[i] = &handles[i].future;
    }
    pac_async_init(&root.async, &root_vtable, NULL);
    pac_join_init(&root.all, members, TASKS);
    run_to_end(ex, &root.async.future);
    pthread_join(s->thread, NULL);
    claim(s->waiters[HONEST].event_had_happened, "the honest one waited for its event");
    claim(s->waiters[DELAYED].ready_ns >= s->delay.deadline_ns, "no delay was early");
}

int
main(void)
{
    struct pac_executor *ex = new_executor();
    struct scene quiet, disturbed;

    show("with no extra wakes");
    scene_init(&quiet, false);
    scene_play(&quiet, ex);
    for (int i = 0; i < TASKS; i++) {
        claim(polls_of(&quiet, i) == 2, "two polls each: at the start, and when woken");
    }
    claim(quiet.waiters[TRUSTING].event_had_happened, "trusting one's poll goes well");

    show("with extra wakes");
    scene_init(&disturbed, true);
    scene_play(&disturbed, ex);
    show("polls: honest %d, delayed %d, trusting %d", polls_of(&disturbed, HONEST),
         polls_of(&disturbed, DELAYED), polls_of(&disturbed, TRUSTING));
    claim(polls_of(&disturbed, HONEST) > 2, "the honest one was polled without need");
    claim(polls_of(&disturbed, HONEST) <= disturbed.extra_wakes + 2,
          "but not more often than it was woken");
    claim(!disturbed.waiters[TRUSTING].event_had_happened,
          "the trusting one went on before its event");

    show("and once more, after they have ended, and after the executor has");
    int polls = polls_of(&disturbed, HONEST);
    wake_all(&disturbed);
    claim(pac_executor_next_ns(ex) == PAC_NEVER, "there is nothing to run");
    end_executor(ex);
    wake_all(&disturbed);
    claim(polls_of(&disturbed, HONEST) == polls, "waking what has ended does nothing");
    for (int i = 0; i < TASKS; i++) {
        pac_waker_drop(&quiet.wakers[i]);
        pac_waker_drop(&disturbed.wakers[i]);
    }
    return 0;
}
