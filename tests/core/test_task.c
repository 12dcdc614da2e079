/* Tasks, their wakers, cancelling and join handles, on a real executor. */
#include "budget.h"
#include "executor.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

/* ---- a future that does as it is told ------------------------------------------------------- */

struct probe {
    struct pac_future future;
    enum pac_poll (*step)(struct probe *p, struct pac_context *cx); /* NULL: pending for ever */
    int polls;
    int drops;
    int left; /* for steps that count */
    bool in_poll;
    pthread_t dropped_by;
    struct pac_task *task;  /* for steps that need it; one reference */
    struct pac_waker waker; /* kept by probe_keep_waker */
};

static enum pac_poll
probe_poll(struct pac_future *f, struct pac_context *cx)
{
    struct probe *p = PAC_CONTAINER_OF(f, struct probe, future);
    CHECK(!p->in_poll);
    CHECK_INT(p->drops, 0);
    p->in_poll = true;
    p->polls++;
    enum pac_poll poll = p->step != NULL ? p->step(p, cx) : PAC_PENDING;
    p->in_poll = false;
    return poll;
}

static void
probe_drop(struct pac_future *f)
{
    struct probe *p = PAC_CONTAINER_OF(f, struct probe, future);
    p->drops++;
    p->dropped_by = pthread_self();
    pac_waker_drop(&p->waker);
}

static const struct pac_future_vtable probe_vtable = {.poll = probe_poll, .drop = probe_drop};

static void
probe_init(struct probe *p, enum pac_poll (*step)(struct probe *, struct pac_context *))
{
    memset(p, 0, sizeof *p);
    p->future.vtable = &probe_vtable;
    p->step = step;
}

static enum pac_poll
step_ready(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    return PAC_READY;
}

static enum pac_poll
step_keep_waker(struct probe *p, struct pac_context *cx)
{
    if (!pac_waker_is_set(&p->waker)) {
        p->waker = pac_waker_clone(cx->waker);
    }
    return PAC_PENDING;
}

/* ---- an executor that is turned by hand ----------------------------------------------------- */

static struct pac_executor *ex;
static struct pac_scheduler *entered_before;

static void
set_up(void)
{
    enum pac_status status;
    ex = pac_executor_new(NULL, &status);
    CHECK_INT(status, PAC_OK);
    entered_before = pac_executor_enter(ex);
}

static void
tear_down(void)
{
    pac_executor_leave(entered_before);
    pac_executor_close(ex);
    pac_executor_free(ex);
}

static struct pac_task *
spawn(struct probe *p)
{
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn(ex, &p->future, &status);
    CHECK_INT(status, PAC_OK);
    return t;
}

static void
turn(void)
{
    CHECK_INT(pac_executor_turn(ex), PAC_OK);
}

/* ---- waking --------------------------------------------------------------------------------- */

static int order[8], order_length;

static enum pac_poll
step_wake_self_twice_then_note(struct probe *p, struct pac_context *cx)
{
    order[order_length++] = 1;
    if (p->polls == 1) {
        pac_waker_wake_by_ref(cx->waker);
        pac_waker_wake_by_ref(cx->waker);
    }
    return PAC_PENDING;
}

static enum pac_poll
step_note(struct probe *p, struct pac_context *cx)
{
    (void)p, (void)cx;
    order[order_length++] = 2;
    return PAC_PENDING;
}

static void
a_wake_during_its_own_poll_is_one_more_poll_behind_the_others(void)
{
    struct probe self, other;
    set_up();
    order_length = 0;
    probe_init(&self, step_wake_self_twice_then_note);
    probe_init(&other, step_note);
    struct pac_task *a = spawn(&self), *b = spawn(&other);
    turn();
    CHECK_INT(self.polls, 1);
    turn();
    turn();
    CHECK_INT(self.polls, 2);
    CHECK_INT(order_length, 3);
    CHECK(order[0] == 1 && order[1] == 2 && order[2] == 1);
    pac_task_unref(a);
    pac_task_unref(b);
    tear_down();
    CHECK_INT(self.drops, 1);
    CHECK_INT(other.drops, 1);
}

static void
repeated_wakes_collapse(void)
{
    struct probe p;
    set_up();
    probe_init(&p, NULL);
    struct pac_task *t = spawn(&p);
    pac_task_wake(t); /* queued since its spawning */
    turn();
    CHECK_INT(p.polls, 1);
    turn();
    CHECK_INT(p.polls, 1); /* no wake, no poll */
    for (int i = 0; i < 10; i++) {
        pac_task_wake(t);
    }
    CHECK_INT(ex->scheduler.ready.length, 1);
    turn();
    turn();
    CHECK_INT(p.polls, 2);
    pac_task_unref(t);
    tear_down();
}

static void
a_waker_outlives_its_task_and_does_nothing_then(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_ready);
    struct pac_task *t = spawn(&p);
    struct pac_waker borrowed = pac_task_waker(t);
    struct pac_waker kept = pac_waker_clone(&borrowed), other = pac_waker_clone(&kept);
    CHECK(pac_waker_will_wake(&kept, &other));
    pac_task_unref(t);
    turn();
    CHECK_INT(p.drops, 1);
    pac_waker_wake_by_ref(&kept);
    CHECK_INT(ex->scheduler.ready.length, 0);
    pac_waker_wake(&other);
    turn();
    CHECK_INT(p.polls, 1);
    tear_down();
    pac_waker_wake_by_ref(&kept); /* the executor has gone as well */
    pac_waker_drop(&kept);
}

#ifdef PAC_DEBUG
static void *
use_wakers(void *task)
{
    struct pac_waker borrowed = pac_task_waker(task);
    struct pac_waker one = pac_waker_clone(&borrowed), other = pac_waker_clone(&borrowed);
    pac_waker_wake_by_ref(&one);
    pac_waker_wake(&one);
    pac_waker_drop(&other);
    return NULL;
}

static void
use_wakers_here_and_there(struct pac_task *t)
{
    pthread_t thread;
    use_wakers(t);
    turn();
    CHECK_INT(pthread_create(&thread, NULL, use_wakers, t), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    turn();
}

/* Whatever the task is doing: the allocation that has to fail is still to come afterwards. */
static void
waking_allocates_nothing(void)
{
    struct probe p;
    set_up();
    probe_init(&p, NULL);
    struct pac_task *t = spawn(&p);
    pac_alloc_fail_after(1, true);
    use_wakers_here_and_there(t); /* it was queued, and then idle */
    use_wakers_here_and_there(t);
    pac_task_cancel(t);
    turn();
    CHECK_INT(p.drops, 1);
    use_wakers_here_and_there(t); /* it has ended */
    CHECK(pac_alloc(1) == NULL);
    pac_task_unref(t);
    tear_down();
}
#endif

static int schedulers_freed;

static void
count_free(struct pac_scheduler *s)
{
    (void)s;
    schedulers_freed++;
}

/* Another thread has found the task idle, and is about to queue it when the executor closes. */
static void
a_wake_that_loses_against_closing_keeps_no_reference(void)
{
    for (int by_ref = 0; by_ref < 2; by_ref++) {
        struct pac_scheduler s;
        struct pac_run_queue rest;
        struct pac_pool pool = {NULL, 0};
        schedulers_freed = 0;
        pac_run_queue_init(&rest);
        pac_scheduler_init(&s, NULL, count_free);
        struct pac_task *t = pac_scheduler_block_new(&s, &pool, sizeof *t);
        memset(t, 0, sizeof *t);
        t->runnable.vtable = &pac_task_runnable_vtable;
        t->scheduler = &s;
        t->pool = &pool;
        PAC_COUNT(tasks, 1);
        pac_task_state_init_idle(&t->state, 1);
        struct pac_waker borrowed = pac_task_waker(t), waker = pac_waker_clone(&borrowed);
        pac_inject_close(&s.inject, &rest);
        if (by_ref) {
            pac_waker_wake_by_ref(&waker);
            pac_waker_drop(&waker);
        }
        else {
            pac_waker_wake(&waker);
        }
        CHECK_INT(pac_task_state_load(&t->state), PAC_TASK_NOTIFIED | PAC_TASK_REF);
        pac_task_unref(t);
        CHECK_INT(schedulers_freed, 0);
        pac_scheduler_unref(&s);
        CHECK_INT(schedulers_freed, 1);
    }
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { WAKERS = 8, WAKES = 100000 };

static PAC_ATOMIC(uint64_t) wakes_begun;

struct waking_thread {
    pthread_t thread;
    struct pac_waker waker;
};

static void *
wake_often(void *data)
{
    struct waking_thread *w = data;
    for (int i = 0; i < WAKES; i++) {
        pac_atomic_add(&wakes_begun, 1, PAC_RELAXED);
        if (i % 3 == 0) {
            struct pac_waker clone = pac_waker_clone(&w->waker);
            pac_waker_wake(&clone);
        }
        else {
            pac_waker_wake_by_ref(&w->waker);
        }
    }
    pac_waker_drop(&w->waker);
    return NULL;
}

/* Ready once every thread has begun its last wake: so the last of them has to reach it. */
static enum pac_poll
step_until_all_woke(struct probe *p, struct pac_context *cx)
{
    static struct waking_thread threads[WAKERS];
    if (p->polls == 1) {
        for (int i = 0; i < WAKERS; i++) {
            threads[i].waker = pac_waker_clone(cx->waker);
            pthread_create(&threads[i].thread, NULL, wake_often, &threads[i]);
        }
    }
    if (pac_atomic_load(&wakes_begun, PAC_RELAXED) < (uint64_t)WAKERS * WAKES) {
        return PAC_PENDING;
    }
    for (int i = 0; i < WAKERS; i++) {
        pthread_join(threads[i].thread, NULL);
    }
    return PAC_READY;
}

static void
eight_threads_wake_one_task(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_until_all_woke);
    pac_atomic_init(&wakes_begun, 0);
    CHECK_INT(pac_executor_block_on(ex, &p.future), PAC_OK);
    CHECK_INT(p.drops, 1);
    CHECK(p.polls >= 2 && p.polls <= WAKERS * WAKES + 1);
    CHECK_INT(ex->metrics.queue_depth_max, 1);
    tear_down();
}

/* ---- cancelling ----------------------------------------------------------------------------- */

static void
an_idle_task_is_cancelled_without_another_poll(void)
{
    struct probe p;
    set_up();
    probe_init(&p, NULL);
    struct pac_task *t = spawn(&p);
    turn();
    pac_task_cancel(t);
    pac_task_cancel(t);
    CHECK_INT(ex->scheduler.ready.length, 1);
    CHECK_INT(p.drops, 0); /* only asked for */
    turn();
    CHECK_INT(p.polls, 1);
    CHECK_INT(p.drops, 1);
    CHECK(pac_task_is_complete(t) && t->cancelled);
    CHECK_INT(ex->scheduler.tasks_alive, 0);
    pac_task_wake(t);
    pac_task_cancel(t);
    CHECK_INT(ex->scheduler.ready.length, 0);
    pac_task_unref(t);
    tear_down();
}

static void
a_task_cancelled_before_its_first_poll_never_starts(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_ready);
    struct pac_task *t = spawn(&p);
    pac_task_cancel(t);
    turn();
    CHECK_INT(p.polls, 0);
    CHECK_INT(p.drops, 1);
    CHECK(t->cancelled);
    pac_task_unref(t);
    tear_down();
}

static enum pac_poll
step_cancel_self(struct probe *p, struct pac_context *cx)
{
    (void)cx;
    pac_task_cancel(p->task);
    CHECK_INT(p->drops, 0);
    return p->left-- > 0 ? PAC_PENDING : PAC_READY;
}

static void
a_running_task_is_cancelled_when_its_poll_ends(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_cancel_self);
    p.left = 1;
    p.task = spawn(&p);
    turn();
    turn();
    CHECK_INT(p.polls, 1);
    CHECK_INT(p.drops, 1);
    CHECK(p.task->cancelled);
    pac_task_unref(p.task);
    tear_down();
}

static void
a_result_that_comes_with_the_cancel_stands(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_cancel_self);
    p.task = spawn(&p);
    turn();
    CHECK(pac_task_is_complete(p.task) && !p.task->cancelled);
    CHECK_INT(p.drops, 1);
    pac_task_unref(p.task);
    tear_down();
}

enum { CANCEL_RACES = 2000 };

static PAC_ATOMIC(struct pac_task *) victim;

static void *
cancel_victims(void *unused)
{
    (void)unused;
    for (int i = 0; i < CANCEL_RACES; i++) {
        struct pac_task *t;
        while ((t = pac_atomic_exchange(&victim, NULL, PAC_ACQUIRE)) == NULL) {
            sched_yield();
        }
        pac_task_cancel(t);
        pac_task_unref(t);
    }
    return NULL;
}

/* Cancelled from another thread while it runs, idles or has ended: it ends once, on this thread. */
static void
cancelling_from_another_thread_races_everything(void)
{
    pthread_t thread;
    int cancelled = 0;
    set_up();
    pac_atomic_init(&victim, NULL);
    pthread_create(&thread, NULL, cancel_victims, NULL);
    for (int i = 0; i < CANCEL_RACES; i++) {
        struct probe p;
        probe_init(&p, i % 2 == 0 ? step_ready : step_keep_waker);
        struct pac_task *t = spawn(&p);
        pac_atomic_store(&victim, pac_task_ref(t), PAC_RELEASE);
        while (!pac_task_is_complete(t)) {
            pac_task_wake(t);
            turn();
        }
        CHECK_INT(p.drops, 1);
        CHECK(pthread_equal(p.dropped_by, pthread_self()));
        CHECK(i % 2 == 0 || t->cancelled);
        cancelled += t->cancelled;
        pac_task_unref(t);
        while (pac_atomic_load(&victim, PAC_RELAXED) != NULL) {
            sched_yield();
        }
    }
    pthread_join(thread, NULL);
    CHECK(cancelled >= CANCEL_RACES / 2);
    tear_down();
}

static void *
cancel_in_a_moment(void *data)
{
    pac_task_cancel(data);
    return NULL;
}

/* The executor sleeps for ever unless the cancel from the other thread reaches it. */
static void
cancelling_from_another_thread_wakes_the_executor(void)
{
    struct probe p;
    struct pac_join_handle handle;
    pthread_t thread;
    set_up();
    probe_init(&p, NULL);
    struct pac_task *t = spawn(&p);
    turn();
    pac_join_handle_init(&handle, pac_task_ref(t));
    pthread_create(&thread, NULL, cancel_in_a_moment, t);
    CHECK_INT(pac_executor_block_on(ex, &handle.future), PAC_OK);
    CHECK(handle.cancelled);
    CHECK(pthread_equal(p.dropped_by, pthread_self()));
    pthread_join(thread, NULL);
    pac_task_unref(t);
    tear_down();
}

/* ---- joining -------------------------------------------------------------------------------- */

static void
a_joiner_is_woken_when_the_future_has_been_dropped(void)
{
    struct probe p;
    struct pac_join_handle handle;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    struct pac_context cx = {&w};
    set_up();
    probe_init(&p, NULL);
    struct pac_task *t = spawn(&p);
    pac_join_handle_init(&handle, pac_task_ref(t));
    CHECK_INT(pac_join_handle_poll(&handle, &cx), PAC_PENDING);
    turn();
    p.step = step_ready;
    CHECK_INT(counting_wakes(&c), 0);
    pac_task_wake(t);
    turn();
    CHECK_INT(counting_wakes(&c), 1);
    CHECK_INT(counting_live(&c), 0);
    CHECK_INT(pac_join_handle_poll(&handle, &cx), PAC_READY);
    CHECK(!handle.cancelled);
    pac_join_handle_drop(&handle);
    pac_join_handle_drop(&handle); /* twice is nothing */
    CHECK_INT(counting_live(&c), 0);
    pac_task_unref(t);
    tear_down();
}

static struct pac_task *watched;

static void
drop_while_incomplete(struct pac_future *f)
{
    CHECK(!pac_task_is_complete(watched));
    probe_drop(f);
}

static const struct pac_future_vtable watching_vtable = {
    .poll = probe_poll,
    .drop = drop_while_incomplete,
};

static void
completion_shows_only_after_the_drop(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_ready);
    p.future.vtable = &watching_vtable;
    watched = spawn(&p);
    turn();
    CHECK(pac_task_is_complete(watched));
    pac_task_unref(watched);
    tear_down();
}

static void
only_the_newest_joiner_is_woken(void)
{
    struct probe p;
    struct pac_join_handle handle;
    struct counting_waker a, b;
    struct pac_waker wa = counting_waker_init(&a), wb = counting_waker_init(&b);
    struct pac_context ca = {&wa}, cb = {&wb};
    set_up();
    probe_init(&p, step_ready);
    pac_join_handle_init(&handle, spawn(&p));
    CHECK_INT(pac_join_handle_poll(&handle, &ca), PAC_PENDING);
    CHECK_INT(pac_join_handle_poll(&handle, &ca), PAC_PENDING);
    CHECK_INT(counting_clones(&a), 1); /* the same waker is not cloned again */
    CHECK_INT(pac_join_handle_poll(&handle, &cb), PAC_PENDING);
    CHECK_INT(counting_live(&a), 0);
    turn();
    CHECK_INT(counting_wakes(&a), 0);
    CHECK_INT(counting_wakes(&b), 1);
    CHECK_INT(counting_live(&b), 0);
    pac_join_handle_drop(&handle);
    tear_down();
}

static enum pac_poll
step_drop_handle(struct probe *p, struct pac_context *cx)
{
    (void)cx;
    pac_join_handle_drop((struct pac_join_handle *)p->task);
    return PAC_READY;
}

/* Before the first poll, while it is polled, before it ends, after it ended; polled before or
 * not. */
static void
a_handle_may_be_dropped_at_any_time(void)
{
    for (int when = 0; when < 4; when++) {
        for (int polled = 0; polled < 2; polled++) {
            struct probe p;
            struct pac_join_handle handle;
            struct counting_waker c;
            struct pac_waker w = counting_waker_init(&c);
            struct pac_context cx = {&w};
            set_up();
            probe_init(&p, when == 1 ? step_drop_handle : when == 2 ? NULL : step_ready);
            p.task = (struct pac_task *)&handle;
            struct pac_task *t = spawn(&p);
            pac_join_handle_init(&handle, pac_task_ref(t));
            if (polled) {
                CHECK_INT(pac_join_handle_poll(&handle, &cx), PAC_PENDING);
            }
            if (when == 0) {
                pac_join_handle_drop(&handle);
            }
            turn();
            pac_join_handle_drop(&handle);
            CHECK_INT(counting_live(&c), 0);
            CHECK_INT(counting_wakes(&c), when == 3 && polled);
            p.step = step_ready; /* detached, it goes on */
            pac_task_wake(t);
            turn();
            CHECK(pac_task_is_complete(t) && !t->cancelled);
            CHECK_INT(p.drops, 1);
            CHECK_INT(counting_wakes(&c), when == 3 && polled);
            pac_task_unref(t);
            tear_down();
        }
    }
}

/* A waker whose drop polls the very handle that replaces it. */
struct reentrant {
    struct pac_join_handle *handle;
    struct pac_context *cx;
    int drops;
};

static struct pac_waker reentrant_clone(void *data);

static void
reentrant_drop(void *data)
{
    struct reentrant *r = data;
    r->drops++;
    CHECK_INT(pac_join_handle_poll(r->handle, r->cx), PAC_PENDING);
}

static const struct pac_waker_vtable reentrant_vtable = {
    .clone = reentrant_clone,
    .wake = reentrant_drop,
    .wake_by_ref = reentrant_drop,
    .drop = reentrant_drop,
};

static struct pac_waker
reentrant_clone(void *data)
{
    return (struct pac_waker){&reentrant_vtable, data};
}

static void
a_replaced_join_waker_is_dropped_when_the_new_one_stands(void)
{
    struct probe p;
    struct pac_join_handle handle;
    struct counting_waker c;
    struct pac_waker w = counting_waker_init(&c);
    struct pac_context cx = {&w};
    set_up();
    probe_init(&p, step_ready);
    pac_join_handle_init(&handle, spawn(&p));
    struct reentrant r = {&handle, &cx, 0};
    struct pac_waker first = {&reentrant_vtable, &r};
    struct pac_context first_cx = {&first};
    CHECK_INT(pac_join_handle_poll(&handle, &first_cx), PAC_PENDING);
    CHECK_INT(pac_join_handle_poll(&handle, &cx), PAC_PENDING);
    CHECK_INT(r.drops, 1);
    CHECK_INT(counting_clones(&c), 1);
    turn();
    CHECK_INT(counting_wakes(&c), 1);
    CHECK_INT(counting_live(&c), 0);
    pac_join_handle_drop(&handle);
    tear_down();
}

enum { JOIN_RACES = 2000 };

static PAC_ATOMIC(struct pac_task *) to_join;

/* Poll a handle from a foreign thread by changing wakers until it is ready, or drop it in
 * between. */
static void *
join_from_outside(void *unused)
{
    (void)unused;
    for (int i = 0; i < JOIN_RACES; i++) {
        struct pac_task *t;
        while ((t = pac_atomic_exchange(&to_join, NULL, PAC_ACQUIRE)) == NULL) {
            sched_yield();
        }
        struct pac_join_handle handle;
        struct counting_waker c[2];
        struct pac_waker w[2] = {counting_waker_init(&c[0]), counting_waker_init(&c[1])};
        pac_join_handle_init(&handle, t);
        for (int n = 0; n < 1000; n++) {
            struct pac_context cx = {&w[n % 2]};
            if (pac_join_handle_poll(&handle, &cx) == PAC_READY || (i % 3 == 0 && n == 1)) {
                break;
            }
        }
        pac_join_handle_drop(&handle);
        while (counting_live(&c[0]) + counting_live(&c[1]) != 0) {
            sched_yield(); /* the executor may be about to wake it */
        }
        CHECK(counting_wakes(&c[0]) + counting_wakes(&c[1]) <= 1);
    }
    return NULL;
}

static void
joining_from_another_thread_races_completion(void)
{
    pthread_t thread;
    set_up();
    pac_atomic_init(&to_join, NULL);
    pthread_create(&thread, NULL, join_from_outside, NULL);
    for (int i = 0; i < JOIN_RACES; i++) {
        struct probe p;
        probe_init(&p, step_ready);
        struct pac_task *t = spawn(&p);
        pac_atomic_store(&to_join, pac_task_ref(t), PAC_RELEASE);
        while (i % 2 == 0 && pac_atomic_load(&to_join, PAC_RELAXED) != NULL) {
            sched_yield();
        }
        while (!pac_task_is_complete(t)) {
            turn();
        }
        pac_task_unref(t);
        while (pac_atomic_load(&to_join, PAC_RELAXED) != NULL) {
            sched_yield();
        }
    }
    pthread_join(thread, NULL);
    tear_down();
}

/* ---- budget --------------------------------------------------------------------------------- */

static struct pac_task *ended;

/* Joins one ended task again and again: a leaf that is always ready. */
static enum pac_poll
step_join_for_ever(struct probe *p, struct pac_context *cx)
{
    for (;;) {
        struct pac_join_handle handle;
        pac_join_handle_init(&handle, pac_task_ref(ended));
        enum pac_poll poll = pac_join_handle_poll(&handle, cx);
        pac_join_handle_drop(&handle);
        if (poll == PAC_PENDING || p->left++ > 10 * PAC_BUDGET) {
            return PAC_PENDING;
        }
    }
}

static void
joining_spends_the_budget(void)
{
    struct probe done, greedy;
    set_up();
    probe_init(&done, step_ready);
    ended = spawn(&done);
    turn();
    probe_init(&greedy, step_join_for_ever);
    struct pac_task *t = spawn(&greedy);
    turn();
    CHECK_INT(greedy.left, PAC_BUDGET);
    CHECK_INT(ex->scheduler.ready.length, 1); /* woken: it goes on in the next turn */
    turn();
    CHECK_INT(greedy.left, 2 * PAC_BUDGET);
    CHECK_INT(pac_budget_left, PAC_BUDGET_UNLIMITED);
    pac_task_unref(t);
    pac_task_unref(ended);
    tear_down();
}

/* ---- run at once ---------------------------------------------------------------------------- */

static struct pac_task *
spawn_idle(struct probe *p)
{
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn_idle(ex, &p->future, &status);
    CHECK_INT(status, PAC_OK);
    return t;
}

/* Wakes itself, and is not queued before its poll is over: behind what it has spawned. */
static enum pac_poll
step_wake_self_and_spawn(struct probe *p, struct pac_context *cx)
{
    static struct probe spawned;
    order[order_length++] = 1;
    if (p->polls == 1) {
        pac_waker_wake_by_ref(cx->waker);
        CHECK_INT(ex->scheduler.ready.length, 0);
        probe_init(&spawned, step_note);
        pac_task_unref(spawn(&spawned));
    }
    return PAC_PENDING;
}

static void
one_that_is_run_at_once_is_queued_when_its_poll_is_over(void)
{
    struct probe p;
    set_up();
    order_length = 0;
    probe_init(&p, step_wake_self_and_spawn);
    struct pac_task *t = spawn_idle(&p);
    pac_task_run_at_once(t);
    CHECK_INT(ex->scheduler.ready.length, 2);
    turn();
    turn();
    CHECK_INT(order_length, 3);
    CHECK(order[0] == 1 && order[1] == 2 && order[2] == 1);
    CHECK_INT(p.polls, 2);
    pac_task_unref(t);
    tear_down();
}

static void
one_that_is_run_at_once_may_end_with_that(void)
{
    struct probe p;
    set_up();
    probe_init(&p, step_ready);
    struct pac_task *t = spawn_idle(&p);
    pac_task_run_at_once(t);
    CHECK(pac_task_is_complete(t));
    CHECK(!t->cancelled);
    CHECK_INT(p.drops, 1);
    pac_task_unref(t);
    tear_down();
}

static enum pac_poll
step_run_another_at_once(struct probe *p, struct pac_context *cx)
{
    struct probe inner;
    (void)p;
    probe_init(&inner, step_join_for_ever);
    pac_budget_left = 10;
    struct pac_task *t = spawn_idle(&inner);
    pac_task_run_at_once(t);
    CHECK_INT(inner.left, 10);
    CHECK_INT(pac_budget_left, 0);
    pac_task_shutdown(t);
    pac_task_unref(t);
    (void)cx;
    return PAC_READY;
}

static void
one_that_is_run_within_a_poll_has_the_budget_of_that(void)
{
    struct probe done, outer, alone;
    set_up();
    probe_init(&done, step_ready);
    ended = spawn(&done);
    turn();
    probe_init(&outer, step_run_another_at_once);
    pac_task_unref(spawn(&outer));
    turn();
    CHECK_INT(outer.drops, 1);
    probe_init(&alone, step_join_for_ever);
    struct pac_task *t = spawn_idle(&alone);
    pac_task_run_at_once(t);
    CHECK_INT(alone.left, PAC_BUDGET);
    CHECK_INT(pac_budget_left, PAC_BUDGET_UNLIMITED);
    pac_task_unref(t);
    pac_task_unref(ended);
    tear_down();
}

int
main(void)
{
    RUN(a_wake_during_its_own_poll_is_one_more_poll_behind_the_others);
    RUN(repeated_wakes_collapse);
    RUN(a_waker_outlives_its_task_and_does_nothing_then);
#ifdef PAC_DEBUG
    RUN(waking_allocates_nothing);
#endif
    RUN(a_wake_that_loses_against_closing_keeps_no_reference);
    RUN(eight_threads_wake_one_task);
    RUN(an_idle_task_is_cancelled_without_another_poll);
    RUN(a_task_cancelled_before_its_first_poll_never_starts);
    RUN(a_running_task_is_cancelled_when_its_poll_ends);
    RUN(a_result_that_comes_with_the_cancel_stands);
    RUN(cancelling_from_another_thread_races_everything);
    RUN(cancelling_from_another_thread_wakes_the_executor);
    RUN(a_joiner_is_woken_when_the_future_has_been_dropped);
    RUN(completion_shows_only_after_the_drop);
    RUN(only_the_newest_joiner_is_woken);
    RUN(a_handle_may_be_dropped_at_any_time);
    RUN(a_replaced_join_waker_is_dropped_when_the_new_one_stands);
    RUN(joining_from_another_thread_races_completion);
    RUN(joining_spends_the_budget);
    RUN(one_that_is_run_at_once_is_queued_when_its_poll_is_over);
    RUN(one_that_is_run_at_once_may_end_with_that);
    RUN(one_that_is_run_within_a_poll_has_the_budget_of_that);
    return TESTING_RESULT();
}
