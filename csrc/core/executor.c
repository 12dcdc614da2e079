/* executor.c - the loop.
 *
 *        ┌──────────────────────────────────────────────┐
 *        ▼                                              │
 *   something ready? ──yes──► a pass: run what is ready ─┤   every 61 runs, or about 1 ms:
 *        │ no                                           │   look at descriptors, timers, inject
 *        ▼                                              │
 *   park until the next deadline, a descriptor, a wake ─┘
 *
 * Time is read sparingly. A poll may take 20 ns and the clock takes as long, so the "about 1 ms"
 * is watched with pac_ticks, and that only every few runs; after a stretch that was long for its
 * number of runs, every run.
 *
 * On a virtual clock nothing may depend on how long a run takes. There events are looked at before
 * each pass and never within one, and timers fire only between two passes. Its wheel is an exact
 * one. */
#include "executor.h"

#include "budget.h"

#include <string.h>

enum {
    TICKS_OF_WORK = 1000000, /* at most a millisecond on any counter of 1 GHz and more */
    STRIDE = 4,              /* runs between two readings of the counter, while they are short */
};

/* ---- making and freeing --------------------------------------------------------------------- */

static void
executor_unpark(struct pac_scheduler *s)
{
    pac_reactor_unpark(&((struct pac_executor *)s)->reactor);
}

static void
executor_memory_free(struct pac_scheduler *s)
{
    pac_free(s);
}

struct pac_executor *
pac_executor_new(const struct pac_park_hooks *hooks, enum pac_status *status)
{
    struct pac_executor *ex = pac_alloc(sizeof *ex);
    if (ex == NULL) {
        *status = PAC_NO_MEMORY;
        return NULL;
    }
    memset(ex, 0, sizeof *ex);
    *status = pac_reactor_init(&ex->reactor);
    if (*status != PAC_OK) {
        pac_free(ex);
        return NULL;
    }
    pac_scheduler_init(&ex->scheduler, executor_unpark, executor_memory_free);
    if (hooks != NULL) {
        ex->hooks = *hooks;
    }
    ex->now_ns = pac_clock_ns();
    pac_wheel_init(&ex->wheel, ex->now_ns);
    pac_list_init(&ex->owned);
    pac_atomic_init(&ex->closed, false);
    pac_atomic_init(&ex->virtual_ns, 0);
    ex->ticks_stride = STRIDE;
    return ex;
}

static void
discard_all(struct pac_run_queue *queue)
{
    struct pac_runnable *r;
    while ((r = pac_run_queue_pop(queue)) != NULL) {
        r->vtable->discard(r);
    }
}

static void
shut_down_tasks(struct pac_executor *ex)
{
    struct pac_list_node *node;
    while ((node = pac_list_first(&ex->owned)) != NULL) {
        struct pac_task *t = PAC_LIST_ENTRY(node, struct pac_task, owned);
        pac_task_ref(t);
        pac_task_shutdown(t);
        PAC_ASSERT(!pac_list_is_linked(&t->owned));
        pac_task_unref(t);
    }
}

/* Whoever waits for a timer on another thread, or by a waker that is no task of ours, is told. */
static void
fire_early(struct pac_executor *ex, struct pac_list *timers)
{
    struct pac_list_node *node;
    while ((node = pac_list_first(timers)) != NULL) {
        struct pac_timer *timer = PAC_LIST_ENTRY(node, struct pac_timer, node);
        pac_wheel_remove(&ex->wheel, timer);
        timer->fire(timer);
    }
}

static void
shut_down_timers(struct pac_executor *ex)
{
    for (unsigned level = 0; level < PAC_WHEEL_LEVELS; level++) {
        for (unsigned slot = 0; slot < PAC_WHEEL_SLOTS; slot++) {
            fire_early(ex, &ex->wheel.slots[level][slot]);
        }
    }
    fire_early(ex, &ex->wheel.immediate);
}

/* The wait between two turns is over, if there was one. */
static void
end_park(struct pac_executor *ex)
{
    if (ex->parked) {
        ex->parked = false;
        if (pac_inject_unpark(&ex->scheduler.inject)) {
            pac_reactor_expect_unpark(&ex->reactor);
        }
    }
}

void
pac_executor_close(struct pac_executor *ex)
{
    if (pac_executor_is_closed(ex) || ex->running || ex->lent) {
        return;
    }
    struct pac_scheduler *before = pac_executor_enter(ex);
    struct pac_run_queue rest;
    pac_run_queue_init(&rest);
    end_park(ex);
    /* release: pairs with pac_executor_is_closed. */
    pac_atomic_store(&ex->closed, true, PAC_RELEASE);
    shut_down_tasks(ex);
    discard_all(&ex->scheduler.ready);
    shut_down_timers(ex);
    /* From now on nothing comes in. All timers are out of the wheel: an entry whose request is
     * refused is its delay's alone (delay.c). */
    pac_inject_close(&ex->scheduler.inject, &rest);
    discard_all(&rest);
    discard_all(&ex->scheduler.ready);
    /* Nothing of ours stays entered: what is freed from here on must not go into a pool. */
    pac_executor_leave(before == &ex->scheduler ? NULL : before);
    pac_scheduler_pool_drain(&ex->scheduler, &ex->task_pool);
    pac_scheduler_pool_drain(&ex->scheduler, &ex->timer_pool);
    pac_shuffle_fini(&ex->shuffle);
    pac_reactor_fini(&ex->reactor);
}

static void
unlink_all(struct pac_wheel *w, struct pac_list *timers)
{
    struct pac_list_node *node;
    while ((node = pac_list_first(timers)) != NULL) {
        pac_wheel_remove(w, PAC_LIST_ENTRY(node, struct pac_timer, node));
    }
}

void
pac_executor_disown(struct pac_executor *ex)
{
    pac_atomic_store(&ex->closed, true, PAC_RELEASE);
    /* A thread that slept, or that was about to unpark it, is not part of this process. */
    bool ignored = pac_inject_unpark(&ex->scheduler.inject);
    (void)ignored;
    pac_inject_close(&ex->scheduler.inject, &ex->scheduler.ready);
    /* As after closing, an entry whose request is refused is its delay's alone (delay.c). */
    for (unsigned level = 0; level < PAC_WHEEL_LEVELS; level++) {
        for (unsigned slot = 0; slot < PAC_WHEEL_SLOTS; slot++) {
            unlink_all(&ex->wheel, &ex->wheel.slots[level][slot]);
        }
    }
    unlink_all(&ex->wheel, &ex->wheel.immediate);
    pac_reactor_disown(&ex->reactor);
    pac_executor_interrupt(ex);
}

void
pac_executor_free(struct pac_executor *ex)
{
    if (ex != NULL) {
        PAC_ASSERT(pac_executor_is_closed(ex));
        pac_scheduler_unref(&ex->scheduler);
    }
}

/* ---- spawning ------------------------------------------------------------------------------- */

/* All of a task but its state. */
static struct pac_task *
take_on(struct pac_executor *ex, struct pac_future *future, enum pac_status *status)
{
    struct pac_task *t = NULL;
    *status = PAC_CLOSED;
    if (!pac_executor_is_closed(ex)) {
        t = pac_scheduler_block_new(&ex->scheduler, &ex->task_pool, sizeof *t);
        *status = PAC_NO_MEMORY;
    }
    if (t == NULL) {
        pac_future_drop(future);
        return NULL;
    }
    t->runnable.vtable = &pac_task_runnable_vtable;
    t->scheduler = &ex->scheduler;
    t->pool = &ex->task_pool;
    t->future = future;
    t->owned.next = t->owned.prev = NULL;
    t->join_waker = PAC_NO_WAKER;
    t->cancelled = false;
    PAC_COUNT(tasks, 1);
    pac_list_push_back(&ex->owned, &t->owned);
    ex->scheduler.tasks_alive++;
    ex->metrics.tasks_spawned++;
    *status = PAC_OK;
    return t;
}

struct pac_task *
pac_executor_spawn(struct pac_executor *ex, struct pac_future *future, enum pac_status *status)
{
    struct pac_task *t = take_on(ex, future, status);
    if (t != NULL) {
        pac_task_state_init(&t->state, 3); /* the live list, the queue, the caller */
        pac_run_queue_push(&ex->scheduler.ready, &t->runnable);
    }
    return t;
}

struct pac_task *
pac_executor_spawn_idle(struct pac_executor *ex, struct pac_future *future, enum pac_status *status)
{
    struct pac_task *t = take_on(ex, future, status);
    if (t != NULL) {
        pac_task_state_init_idle(&t->state, 2); /* the live list, the caller */
    }
    return t;
}

/* ---- running -------------------------------------------------------------------------------- */

struct pac_scheduler *
pac_executor_enter(struct pac_executor *ex)
{
    struct pac_scheduler *before = pac_current_scheduler;
    pac_current_scheduler = &ex->scheduler;
    return before;
}

void
pac_executor_leave(struct pac_scheduler *before)
{
    pac_current_scheduler = before;
}

static void
take_injected(struct pac_executor *ex)
{
    struct pac_run_queue *ready = &ex->scheduler.ready;
    if (pac_inject_has_work(&ex->scheduler.inject)) {
        size_t before = ready->length;
        pac_inject_take(&ex->scheduler.inject, ready);
        ex->metrics.wakes_from_threads += ready->length - before;
    }
}

static void
fire_expired(struct pac_executor *ex, struct pac_list *expired)
{
    struct pac_timer *timer;
    while ((timer = pac_wheel_pop_expired(expired)) != NULL) {
        ex->metrics.timers_fired++;
        timer->fire(timer);
    }
}

static void
fire_timers(struct pac_executor *ex)
{
    struct pac_list expired;
    pac_list_init(&expired);
    pac_wheel_advance(&ex->wheel, ex->now_ns, &expired);
    fire_expired(ex, &expired);
}

/* The clock is read: what follows is a new stretch of work. */
static void
begin_stretch(struct pac_executor *ex)
{
    ex->stretch_ns = pac_clock_ns();
    ex->now_ns = PAC_UNLIKELY(ex->is_virtual) ? pac_executor_now_ns(ex) : ex->stretch_ns;
    ex->stretch_ticks = pac_ticks();
    ex->runs_since_events = 0;
    ex->runs_to_ticks = ex->ticks_stride;
}

/* Was a run of this stretch slow? Short ones never last that long together. */
static inline bool
stretch_is_slow(struct pac_executor *ex)
{
    return PAC_UNLIKELY(pac_ticks() - ex->stretch_ticks > TICKS_OF_WORK) &&
           pac_clock_ns() - ex->stretch_ns > PAC_SLOW_NS;
}

static void
end_stretch(struct pac_executor *ex)
{
    ex->metrics.slow_runs += stretch_is_slow(ex);
}

uint64_t
pac_executor_slow_runs(struct pac_executor *ex)
{
    return ex->metrics.slow_runs + (ex->running && stretch_is_slow(ex));
}

/* Descriptors first, then other threads, then timers; waits until `deadline_ns` (0: does not). */
static enum pac_status
look_at_events(struct pac_executor *ex, uint64_t deadline_ns)
{
    bool waited;
    end_stretch(ex);
    enum pac_status status =
        pac_park(&ex->reactor, &ex->scheduler.inject, deadline_ns, &ex->hooks, &waited);
    ex->metrics.parks += waited;
    take_injected(ex);
    begin_stretch(ex);
    fire_timers(ex);
    return status;
}

/* A stride of runs is over: is it time to look at events? The last one is short, if it need be. */
static bool
stride_ends_stretch(struct pac_executor *ex)
{
    ex->runs_since_events += ex->ticks_stride;
    if (pac_ticks() - ex->stretch_ticks > TICKS_OF_WORK) {
        ex->ticks_stride = 1;
        return true;
    }
    if (ex->runs_since_events >= PAC_EVENT_INTERVAL) {
        ex->ticks_stride = STRIDE;
        return true;
    }
    unsigned left = PAC_EVENT_INTERVAL - ex->runs_since_events;
    ex->ticks_stride = left < ex->ticks_stride ? left : ex->ticks_stride;
    ex->runs_to_ticks = ex->ticks_stride;
    return false;
}

/* After a run. */
static inline bool
events_are_due(struct pac_executor *ex)
{
    return PAC_UNLIKELY(--ex->runs_to_ticks == 0) && stride_ends_stretch(ex);
}

/* Within a pass. */
static enum pac_status
look_on_the_way(struct pac_executor *ex)
{
    if (PAC_UNLIKELY(ex->is_virtual)) {
        end_stretch(ex);
        begin_stretch(ex);
        return PAC_OK;
    }
    return look_at_events(ex, 0);
}

/* Run what is ready now. PAC_INTERRUPTED, PAC_OS_ERROR: the rest stays queued. */
static inline enum pac_status
run_pass(struct pac_executor *ex)
{
    struct pac_run_queue *ready = &ex->scheduler.ready;
    enum pac_status status = PAC_OK;
    if (!pac_list_is_empty(&ex->wheel.immediate)) {
        /* Due already when they were armed: one turn of the loop is all they wait. */
        fire_timers(ex);
    }
    size_t count = ready->length;
    if (count > ex->metrics.queue_depth_max) {
        ex->metrics.queue_depth_max = count;
    }
    if (PAC_UNLIKELY(ex->is_seeded)) {
        count = pac_shuffle_queue(&ex->shuffle, ready, &pac_task_runnable_vtable, &ex->random);
    }
    ex->metrics.runs += count;
    while (count > 0 && status == PAC_OK && PAC_LIKELY(!ex->interrupted)) {
        struct pac_runnable *r = pac_run_queue_pop(ready);
        pac_prefetch(ready->first);
        count--;
        r->vtable->run(r);
        if (events_are_due(ex) && !ex->interrupted) {
            status = look_on_the_way(ex);
        }
    }
    ex->metrics.runs -= count;
    /* Asked for last, as a descriptor or a timer may have interrupted too. */
    return PAC_UNLIKELY(ex->interrupted) ? PAC_INTERRUPTED : status;
}

uint64_t
pac_executor_next_ns(struct pac_executor *ex)
{
    if (ex->scheduler.ready.length > 0) {
        return 0;
    }
    if (!ex->running && !ex->parked && !pac_executor_is_closed(ex)) {
        ex->parked = pac_inject_park(&ex->scheduler.inject);
        if (!ex->parked) {
            return 0;
        }
    }
    return pac_wheel_next_ns(&ex->wheel);
}

/* What was due when it was armed counts as ready: the pass takes it. */
static inline bool
has_ready(struct pac_executor *ex)
{
    return ex->scheduler.ready.length > 0 || !pac_list_is_empty(&ex->wheel.immediate);
}

static enum pac_status
run_until_stopped(struct pac_executor *ex)
{
    /* Whoever runs it for one pass at a time counts on each of them looking at descriptors. */
    bool look = true;
    for (;;) {
        enum pac_status status = PAC_OK;
        bool ready = has_ready(ex);
        if (look || !ready) {
            bool idle = !ready && !ex->stopping && !ex->interrupted;
            status = look_at_events(ex, idle ? pac_wheel_next_ns(&ex->wheel) : 0);
            look = false;
        }
        if (status == PAC_OK) {
            status = run_pass(ex);
        }
        if (status != PAC_OK || ex->stopping) {
            return status;
        }
    }
}

/* ---- deterministic runs --------------------------------------------------------------------- */

void
pac_executor_use_virtual_clock(struct pac_executor *ex, pac_stuck_hook *stuck)
{
    PAC_ASSERT(!ex->running && ex->wheel.count == 0 && ex->metrics.tasks_spawned == 0);
    ex->is_virtual = true;
    ex->stuck = stuck;
    ex->now_ns = 0;
    pac_atomic_store(&ex->virtual_ns, 0, PAC_RELAXED);
    pac_wheel_init_exact(&ex->wheel, 0);
}

void
pac_executor_advance(struct pac_executor *ex, uint64_t ns)
{
    uint64_t to_ns = pac_ns_add(pac_executor_now_ns(ex), ns);
    PAC_ASSERT(ex->is_virtual);
    pac_atomic_store(&ex->virtual_ns, to_ns == PAC_NEVER ? PAC_NEVER - 1 : to_ns, PAC_RELAXED);
}

void
pac_executor_seed(struct pac_executor *ex, uint64_t seed)
{
    ex->is_seeded = true;
    ex->random.state = seed;
}

/* Go to the earliest deadline, and fire what is due then. The wheel may have to be told of times
 * before it, at which it files timers anew. False: there is none. */
static bool
jump(struct pac_executor *ex)
{
    struct pac_list expired;
    uint64_t to_ns, now_ns = pac_executor_now_ns(ex);
    pac_list_init(&expired);
    do {
        to_ns = pac_wheel_next_ns(&ex->wheel);
        if (to_ns == PAC_NEVER) {
            return false;
        }
        pac_wheel_advance(&ex->wheel, to_ns, &expired);
    } while (pac_list_is_empty(&expired));
    /* It may have been moved on by what the look at events has called. */
    ex->now_ns = to_ns > now_ns ? to_ns : now_ns;
    pac_atomic_store(&ex->virtual_ns, ex->now_ns, PAC_RELAXED);
    fire_expired(ex, &expired);
    return true;
}

/* Nothing is ready, and nobody asks to stop. */
static enum pac_status
pass_time(struct pac_executor *ex)
{
    if (ex->clock_holds > 0) {
        return look_at_events(ex, PAC_NEVER);
    }
    if (jump(ex)) {
        return PAC_OK;
    }
    uint64_t until_ns = ex->stuck != NULL         ? ex->stuck(ex->hooks.data)
                        : ex->reactor.watched > 0 ? PAC_NEVER
                                                  : 0;
    return until_ns == 0 ? PAC_DEADLOCK : look_at_events(ex, until_ns);
}

static enum pac_status
run_on_virtual_clock(struct pac_executor *ex)
{
    for (;;) {
        enum pac_status status = look_at_events(ex, 0);
        if (status == PAC_OK && !has_ready(ex) && !ex->stopping && !ex->interrupted) {
            status = pass_time(ex);
        }
        if (status == PAC_OK) {
            status = run_pass(ex);
        }
        if (status != PAC_OK || ex->stopping) {
            return status;
        }
    }
}

/* ---- a run ---------------------------------------------------------------------------------- */

/* Run by `loop` until it returns, as the one who runs `ex`. */
static inline enum pac_status
run_by(struct pac_executor *ex, enum pac_status (*loop)(struct pac_executor *ex))
{
    if (pac_executor_is_closed(ex)) {
        return PAC_CLOSED;
    }
    if (ex->running) {
        return PAC_BUSY;
    }
    /* This may happen within a poll of another executor's task, whose budget goes on afterwards. */
    int budget = pac_budget_left;
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    bool lent = ex->lent;
    if (lent) {
        ex->lent = ex->interrupted = false; /* the latter was meant for the lender */
    }
    ex->running = true;
    end_park(ex);
    begin_stretch(ex);
    enum pac_status status = loop(ex);
    end_stretch(ex);
    ex->running = ex->stopping = false;
    ex->lent = ex->interrupted = lent;
    pac_budget_left = budget;
    return status;
}

enum pac_status
pac_executor_run(struct pac_executor *ex)
{
    struct pac_scheduler *before = pac_executor_enter(ex);
    enum pac_status status = run_by(ex, ex->is_virtual ? run_on_virtual_clock : run_until_stopped);
    pac_executor_leave(before);
    return status;
}

static enum pac_status
turn(struct pac_executor *ex)
{
    enum pac_status status = look_at_events(ex, 0);
    return status == PAC_OK ? run_pass(ex) : status;
}

enum pac_status
pac_executor_turn(struct pac_executor *ex)
{
    return run_by(ex, turn);
}

void
pac_executor_lend(struct pac_executor *ex)
{
    PAC_ASSERT(ex->running && !ex->lent);
    ex->running = false;
    ex->lent = true;
    pac_executor_leave(NULL);
}

void
pac_executor_take_back(struct pac_executor *ex)
{
    PAC_ASSERT(!ex->running && ex->lent);
    end_park(ex);
    ex->lent = false;
    ex->running = true;
    struct pac_scheduler *ignored = pac_executor_enter(ex);
    (void)ignored;
}

/* ---- block_on ------------------------------------------------------------------------------- */

/* The root future, and what it does when it is ready: stop the executor. */
struct root {
    struct pac_future future;
    struct pac_future *inner;
    struct pac_executor *executor;
};

static enum pac_poll
root_poll(struct pac_future *f, struct pac_context *cx)
{
    return pac_future_poll(PAC_CONTAINER_OF(f, struct root, future)->inner, cx);
}

static void
root_drop(struct pac_future *f)
{
    struct root *root = PAC_CONTAINER_OF(f, struct root, future);
    pac_future_drop(root->inner);
    pac_executor_stop(root->executor);
}

static const struct pac_future_vtable root_vtable = {.poll = root_poll, .drop = root_drop};

enum pac_status
pac_executor_block_on(struct pac_executor *ex, struct pac_future *root_future)
{
    if (ex->running) {
        pac_future_drop(root_future);
        return PAC_BUSY;
    }
    struct root root = {{&root_vtable}, root_future, ex};
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn(ex, &root.future, &status);
    if (t == NULL) {
        /* Dropping the root has asked to stop: nobody runs. */
        ex->stopping = false;
        return status;
    }
    struct pac_scheduler *before = pac_executor_enter(ex);
    status = pac_executor_run(ex);
    if (!pac_task_is_complete(t)) {
        /* `root` stands on this stack, so it has to end now. */
        pac_task_shutdown(t);
        ex->stopping = false;
        status = status == PAC_OK ? PAC_INTERRUPTED : status;
    }
    pac_executor_leave(before);
    pac_task_unref(t);
    return status;
}
