/* task.c - executors, and all that runs on them. */
#include "task.h"

#include "budget.h"

#include <stdlib.h>
#include <string.h>

enum { TASKS_ALIVE_MAX = 40, WAKERS = 16, SNAPSHOT_MAX = 512, SOURCES = 4 };

/* What stood in a ready queue when it was looked at last. */
struct queued {
    struct pac_runnable *runnable;
    struct task *task; /* of a task of ours */
    bool callback;
};

struct home {
    struct pac_executor *executor;
    bool running;
    bool closing;
    bool parked; /* between two turns */
    struct pac_runnable *parked_word;
    uint64_t next_ns;
    struct queued snapshot[SNAPSHOT_MAX];
    size_t count;
    uint64_t submitted[2], ran[2]; /* callbacks: from its own thread, from others */
};

struct task {
    struct pac_future future;
    struct pac_list_node all;
    struct home *home;
    struct node *root;
    struct pac_task *task; /* a reference; NULL: it was refused */
    bool busy, ended, excused;
    bool hooked; /* its wakers are ours, which let things happen */
    unsigned polls;
    int wakers; /* of ours */
};

struct callback {
    struct pac_runnable runnable;
    struct pac_list_node all;
    struct home *home;
    bool foreign;
    uint64_t number;
    bool gone;
};

struct source {
    struct pac_source source;
    struct home *home; /* that watches it; NULL: none */
};

static struct home homes[SIM_EXECUTORS];
static unsigned home_count;
static struct pac_list all_tasks, all_callbacks;
static unsigned task_count;
static struct task *current;
static struct pac_waker kept[WAKERS];
static struct source sources[SOURCES];

static const struct pac_future_vtable task_vtable;
static const struct pac_runnable_vtable callback_vtable;

/* ---- first in, first out ---------------------------------------------------------------------- */

static void
remember_queue(struct home *home)
{
    home->count = 0;
    for (struct pac_runnable *r = home->executor->scheduler.ready.first; r != NULL; r = r->next) {
        if (home->count == SNAPSHOT_MAX) {
            break;
        }
        struct queued q = {r, NULL, r->vtable == &callback_vtable};
        if (r->vtable == &pac_task_runnable_vtable) {
            struct pac_future *f = PAC_CONTAINER_OF(r, struct pac_task, runnable)->future;
            q.task = f != NULL && f->vtable == &task_vtable
                         ? PAC_CONTAINER_OF(f, struct task, future)
                         : NULL;
        }
        home->snapshot[home->count++] = q;
    }
}

/* May it have left the queue without having been seen to run? A task that was cancelled is not
 * polled; requests of delays are not ours. */
static bool
may_have_run(const struct queued *q)
{
    if (q->task != NULL) {
        uint64_t word = pac_task_state_load(&q->task->task->state);
        return (word & (PAC_TASK_COMPLETE | PAC_TASK_CANCELLED)) != 0;
    }
    return !q->callback;
}

/* `r` has been taken from the queue: `t`'s, or a callback's. */
static void
check_turn(struct home *home, struct pac_runnable *r, struct task *t)
{
    size_t i = 0;
    if (home->executor->is_seeded || home->closing || home->count == SNAPSHOT_MAX) {
        return;
    }
    /* The memory of what is not ours may be something else by now. */
    for (; i < home->count && (home->snapshot[i].runnable != r || home->snapshot[i].task != t);
         i++) {
        SIM_CHECK(may_have_run(&home->snapshot[i]), "not first in, first out");
    }
    struct pac_runnable *q = home->executor->scheduler.ready.first;
    for (i++; i < home->count; i++, q = q->next) {
        SIM_CHECK(q != NULL && q == home->snapshot[i].runnable,
                  "the ready queue has changed within");
    }
}

/* ---- wakers ----------------------------------------------------------------------------------- */

static const struct pac_waker_vtable hooked_vtable;

static struct pac_waker
hooked_clone(void *data)
{
    struct task *t = data;
    sim_poke();
    t->wakers++;
    (void)pac_task_waker_vtable.clone(t->task);
    return (struct pac_waker){&hooked_vtable, t};
}

static void
hooked_wake(void *data)
{
    struct task *t = data;
    SIM_CHECK(t->wakers-- > 0, "a waker is woken after its end");
    sim_poke();
    pac_task_waker_vtable.wake(t->task);
    sim_poke();
}

static void
hooked_wake_by_ref(void *data)
{
    sim_poke();
    pac_task_wake(((struct task *)data)->task);
}

static void
hooked_drop(void *data)
{
    struct task *t = data;
    SIM_CHECK(t->wakers-- > 0, "a waker is dropped after its end");
    pac_task_waker_vtable.drop(t->task);
    sim_poke();
}

static const struct pac_waker_vtable hooked_vtable = {
    .clone = hooked_clone,
    .wake = hooked_wake,
    .wake_by_ref = hooked_wake_by_ref,
    .drop = hooked_drop,
};

/* ---- tasks ------------------------------------------------------------------------------------ */

struct task *
task_current(void)
{
    return current;
}

void
task_wake(struct task *t)
{
    if (t->task != NULL) {
        pac_task_wake(t->task);
    }
}

void
task_excuse(struct task *t)
{
    t->excused = true;
}

/* A run of this very executor from within, as code does that lends it. */
static void
turn_within(struct home *home)
{
    struct pac_executor *ex = home->executor;
    if (ex->is_virtual || !home->running || ex->lent) {
        return;
    }
    struct task *outer = current;
    int budget = pac_budget_left;
    SIM_TRACE("it is lent");
    remember_queue(home);
    pac_executor_lend(ex);
    struct pac_scheduler *before = pac_executor_enter(ex);
    enum pac_status status = pac_executor_turn(ex);
    SIM_CHECK(status == PAC_OK || status == PAC_INTERRUPTED, "a lent executor does not turn");
    pac_executor_leave(before);
    pac_executor_take_back(ex);
    pac_executor_interrupt(ex);
    pac_budget_left = budget;
    current = outer;
}

static enum pac_poll
task_poll(struct pac_future *f, struct pac_context *cx)
{
    struct task *t = PAC_CONTAINER_OF(f, struct task, future);
    struct home *home = t->home;
    SIM_CHECK(!t->busy, "a task is polled by two");
    SIM_CHECK(!t->ended, "a task is polled after its end");
    SIM_CHECK(pac_executor_current() == home->executor, "a task is polled elsewhere");
    struct pac_waker waker = {t->hooked ? &hooked_vtable : cx->waker->vtable,
                              t->hooked ? t : cx->waker->data};
    struct pac_context own = {&waker};
    struct task *outer = current;
    SIM_CHECK((pac_task_state_load(&t->task->state) & PAC_TASK_CANCELLED) == 0,
              "a task is polled that was cancelled");
    t->busy = true;
    t->excused = false;
    t->polls++;
    current = t;
    if (!sim.sweeping) {
        check_turn(home, &t->task->runnable, t);
        remember_queue(home);
        (void)sim_step();
        if (sim.budget != 0) {
            pac_budget_left = (int)sim_below(sim.budget + 1);
        }
    }
    int budget = pac_budget_left;
    sim.completions = 0;
    enum pac_poll poll = pac_future_poll(node_future(t->root), &own);
    SIM_CHECK(budget < 0 || sim.completions <= (unsigned)budget,
              "%u leaves end in a poll that has a budget of %d", sim.completions, budget);
    if (!sim.sweeping) {
        pac_budget_left = PAC_BUDGET_UNLIMITED;
        (void)sim_step();
        if (!sim.quiet && sim_chance(200)) {
            turn_within(home);
        }
        remember_queue(home);
    }
    current = outer;
    t->busy = false;
    return poll;
}

static void
task_drop(struct pac_future *f)
{
    struct task *t = PAC_CONTAINER_OF(f, struct task, future);
    SIM_CHECK(!t->ended, "a task is dropped twice");
    SIM_CHECK(!t->busy, "a task is dropped within its poll");
    t->ended = true;
    task_count--;
    pac_future_drop(node_future(t->root));
}

static const struct pac_future_vtable task_vtable = {.poll = task_poll, .drop = task_drop};

static struct home *
open_home(void)
{
    struct home *home = &homes[sim_below(home_count)];
    return home->closing ? NULL : home;
}

static struct task *
spawn(struct node *root)
{
    struct task *t = calloc(1, sizeof *t);
    enum pac_status status;
    t->future.vtable = &task_vtable;
    t->home = open_home();
    t->root = root;
    t->hooked = sim_chance(2);
    pac_list_push_back(&all_tasks, &t->all);
    task_count++;
    if (t->home == NULL) {
        pac_future_drop(&t->future);
        return NULL;
    }
    bool idle = sim_chance(4);
    t->task = idle ? pac_executor_spawn_idle(t->home->executor, &t->future, &status)
                   : pac_executor_spawn(t->home->executor, &t->future, &status);
    if (idle && t->task != NULL) {
        pac_task_wake(t->task);
    }
    SIM_CHECK((t->task == NULL) == t->ended, "a refused task's future was not dropped");
    return t->task != NULL ? t : NULL;
}

struct task *
task_spawn_to_join(struct pac_join_handle *handle)
{
    if (sim.elsewhere || sim.quiet || task_count >= TASKS_ALIVE_MAX) {
        return NULL;
    }
    struct task *t = spawn(node_new_random(1, true));
    if (t != NULL) {
        pac_join_handle_init(handle, pac_task_ref(t->task));
    }
    return t;
}

static struct task *
random_task(void)
{
    struct task *found = NULL;
    size_t count = 0;
    for (struct pac_list_node *node = all_tasks.head.prev;
         node != &all_tasks.head && count < TASKS_ALIVE_MAX; node = node->prev) {
        struct task *t = PAC_LIST_ENTRY(node, struct task, all);
        if (t->task != NULL && sim_below(++count) == 0) {
            found = t;
        }
    }
    return found;
}

/* ---- lost wake-ups ---------------------------------------------------------------------------- */

/* Nothing is under way to any of its tasks, a timer neither. */
static bool
is_quiet(struct home *home)
{
    struct pac_executor *ex = home->executor;
    return ex->scheduler.ready.length == 0 && ex->wheel.count == 0 &&
           pac_atomic_load(&ex->scheduler.inject.newest, PAC_RELAXED) == NULL;
}

static bool
is_queued(const struct home *home, const struct pac_task *task)
{
    const struct pac_scheduler *s = &home->executor->scheduler;
    const struct pac_runnable *r = s->ready.first;
    while (r != NULL && r != &task->runnable) {
        r = r->next;
    }
    if (r == NULL) {
        r = pac_atomic_load(&s->inject.newest, PAC_RELAXED);
        while (r != NULL && r != &task->runnable) {
            r = r->next;
        }
    }
    return r != NULL;
}

uintptr_t
tasks_pushed(void)
{
    uintptr_t pushed = 0;
    for (unsigned i = 0; i < home_count; i++) {
        struct pac_inject *inject = &homes[i].executor->scheduler.inject;
        pushed += (uintptr_t)pac_atomic_load(&inject->newest, PAC_RELAXED) * (i + 1);
    }
    return pushed;
}

static void
sweep(struct home *home)
{
    struct pac_list_node *node;
    bool all = is_quiet(home);
    for (node = home->executor->owned.head.next; node != &home->executor->owned.head;
         node = node->next) {
        struct pac_task *task = PAC_LIST_ENTRY(node, struct pac_task, owned);
        uint64_t word = pac_task_state_load(&task->state);
        uint64_t awake = PAC_TASK_RUNNING | PAC_TASK_NOTIFIED | PAC_TASK_CANCELLED;
        SIM_CHECK((word & awake) != PAC_TASK_NOTIFIED || things.group.count > 0 ||
                      is_queued(home, task),
                  "lost wake-up: a task was woken, and stands in no queue");
        if ((word & awake) != 0 || task->future == NULL || task->future->vtable != &task_vtable) {
            continue;
        }
        struct task *t = PAC_CONTAINER_OF(task->future, struct task, future);
        if (t->polls == 0 || (t->excused && !all)) {
            continue;
        }
        bool excused = t->excused;
        struct pac_waker waker = pac_task_waker(task);
        struct pac_context cx = {&waker};
        enum pac_poll poll = pac_future_poll(&t->future, &cx);
        SIM_CHECK(poll == PAC_PENDING, "lost wake-up: a task is ready, and nobody has woken it");
        t->excused = excused;
    }
}

void
tasks_sweep(void)
{
    int budget = pac_budget_left;
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    sim.sweeping = sim.frozen = true;
    for (unsigned i = 0; i < home_count; i++) {
        if (!homes[i].closing) {
            struct pac_scheduler *before = pac_executor_enter(homes[i].executor);
            sweep(&homes[i]);
            pac_executor_leave(before);
        }
    }
    sim.sweeping = sim.frozen = false;
    pac_budget_left = budget;
}

/* ---- callbacks -------------------------------------------------------------------------------- */

static void
callback_ends(struct callback *c)
{
    SIM_CHECK(!c->gone, "a callback is run or discarded twice");
    c->gone = true;
    SIM_CHECK(++c->home->ran[c->foreign] == c->number, "callbacks have changed places");
}

static void
callback_run(struct pac_runnable *r)
{
    struct callback *c = PAC_CONTAINER_OF(r, struct callback, runnable);
    check_turn(c->home, r, NULL);
    callback_ends(c);
    remember_queue(c->home);
    (void)sim_step();
    remember_queue(c->home);
}

static void
callback_discard(struct pac_runnable *r)
{
    struct callback *c = PAC_CONTAINER_OF(r, struct callback, runnable);
    SIM_CHECK(c->home->closing, "a callback is discarded by an executor that runs");
    SIM_CHECK(!c->gone, "a callback is run or discarded twice");
    c->gone = true;
}

static const struct pac_runnable_vtable callback_vtable = {
    .run = callback_run,
    .discard = callback_discard,
};

static void
submit_callback(struct home *home)
{
    struct callback *c = calloc(1, sizeof *c);
    bool foreign = pac_executor_current() != home->executor;
    c->runnable.vtable = &callback_vtable;
    c->home = home;
    c->foreign = foreign;
    c->number = ++home->submitted[foreign];
    pac_list_push_back(&all_callbacks, &c->all);
    SIM_CHECK(pac_executor_submit(home->executor, &c->runnable) == PAC_OK || home->closing,
              "an open executor refuses a callback");
}

/* ---- descriptors ------------------------------------------------------------------------------ */

static void
source_ready(struct pac_source *source, unsigned readiness)
{
    struct source *s = PAC_CONTAINER_OF(source, struct source, source);
    SIM_CHECK(s->home != NULL, "a source is called that is not watched");
    SIM_CHECK(readiness != 0, "a source is called for nothing");
    SIM_TRACE("descriptor %d is ready", source->fd);
    if (!sim_chance(4)) {
        sim_readiness[source->fd] = 0;
    }
    if (sim_chance(4)) {
        pac_reactor_remove(&s->home->executor->reactor, source);
        s->home = NULL;
    }
    bool elsewhere = sim.elsewhere;
    sim.elsewhere = false;
    (void)sim_step();
    sim.elsewhere = elsewhere;
}

static void
act_source(void)
{
    struct source *s = &sources[sim_below(SOURCES)];
    if (sim_chance(2) || sim.elsewhere) {
        sim_set_readiness((int)sim_below(SIM_FDS), (unsigned)sim_below(4));
    }
    else if (s->home != NULL) {
        enum pac_status status = PAC_OK;
        if (s->home->closing) {
            return;
        }
        if (sim_chance(2)) {
            status =
                pac_reactor_modify(&s->home->executor->reactor, &s->source, (unsigned)sim_below(4));
        }
        else {
            pac_reactor_remove(&s->home->executor->reactor, &s->source);
            s->home = NULL;
        }
        SIM_CHECK(status == PAC_OK, "a watched descriptor is not");
    }
    else {
        struct home *home = open_home();
        s->source = (struct pac_source){.fd = (int)sim_below(SIM_FDS),
                                        .interest = PAC_READABLE,
                                        .ready = source_ready};
        if (home != NULL && pac_reactor_add(&home->executor->reactor, &s->source) == PAC_OK) {
            s->home = home;
        }
    }
}

/* ---- what happens ----------------------------------------------------------------------------- */

static void
act_waker(struct pac_waker *w)
{
    struct task *t = random_task();
    if (!pac_waker_is_set(w)) {
        if (t != NULL) {
            struct pac_waker own = {t->hooked ? &hooked_vtable : &pac_task_waker_vtable,
                                    t->hooked ? (void *)t : (void *)t->task};
            struct pac_waker clone = pac_waker_clone(&own);
            if (pac_waker_is_set(w)) { /* the clone has let something happen */
                pac_waker_drop(&clone);
            }
            else {
                *w = clone;
            }
        }
    }
    else if (sim_chance(3)) {
        pac_waker_wake_by_ref(w);
    }
    else if (sim_chance(2)) {
        pac_waker_wake(w);
    }
    else {
        pac_waker_drop(w);
    }
}

void
tasks_act(void)
{
    struct task *t = random_task();
    struct home *home = open_home();
    switch (sim_below(12)) {
        case 0:
        case 1:
        case 2:
            if (!sim.elsewhere && task_count < TASKS_ALIVE_MAX) {
                struct task *spawned = spawn(node_new_random(3, true));
                SIM_TRACE("a task is %s", spawned != NULL ? "spawned" : "refused");
            }
            break;
        case 3:
        case 4:
            if (t != NULL) {
                SIM_TRACE("a task is woken for nothing");
                pac_task_wake(t->task);
            }
            break;
        case 5:
            if (t != NULL) {
                SIM_TRACE("a task is cancelled");
                pac_task_cancel(t->task);
            }
            break;
        case 6:
        case 7:
            act_waker(&kept[sim_below(WAKERS)]);
            break;
        case 8:
            if (home != NULL) {
                submit_callback(home);
            }
            break;
        case 9:
        case 10:
            act_source();
            break;
        default:
            if (home == NULL || sim.elsewhere) {
                break;
            }
            if (home->executor->is_virtual && sim_chance(2)) {
                pac_executor_advance(home->executor, sim_below((size_t)1 << sim_below(40)));
            }
            else if (home->running && sim_chance(3)) {
                pac_executor_stop(home->executor);
            }
            else if (home->running && sim_chance(3)) {
                pac_executor_interrupt(home->executor);
            }
    }
}

void
tasks_interrupt(void)
{
    for (unsigned i = 0; i < home_count; i++) {
        if (homes[i].running) {
            pac_executor_interrupt(homes[i].executor);
        }
    }
}

/* ---- running ---------------------------------------------------------------------------------- */

static void
before_wait(void *data)
{
    (void)data;
}

static bool
after_wait(void *data, bool interrupted)
{
    (void)data;
    return sim.quiet || !interrupted || !sim_chance(4);
}

/* On a virtual clock, with nothing to wait for. */
static uint64_t
stuck(void *data)
{
    struct home *home = data;
    struct pac_executor *ex = home->executor;
    bool elsewhere = sim.elsewhere;
    sim.elsewhere = true;
    bool more = sim_step();
    sim.elsewhere = elsewhere;
    if (!more) {
        return 0;
    }
    return sim_reactor_is_readable(&ex->reactor) ? 1 : sim_chance(2) ? PAC_NEVER : sim.now_ns + 1;
}

static void
check_parked(struct home *home)
{
    SIM_CHECK(!home->parked ||
                  pac_atomic_load(&home->executor->scheduler.inject.newest, PAC_RELAXED) ==
                      home->parked_word ||
                  sim_reactor_is_readable(&home->executor->reactor),
              "lost wake-up: pushed between two turns, and the descriptor is not readable");
}

/* As another loop does it that has this one within. */
static void
turn(struct home *home)
{
    struct pac_executor *ex = home->executor;
    check_parked(home);
    if (home->parked && home->next_ns > sim.now_ns && !sim_reactor_is_readable(&ex->reactor) &&
        ex->scheduler.ready.length == 0 && !sim.quiet && !sim_chance(8)) {
        return;
    }
    home->parked = false;
    struct pac_scheduler *before = pac_executor_enter(ex);
    home->running = true;
    enum pac_status status = pac_executor_turn(ex);
    SIM_CHECK(status == PAC_OK || status == PAC_INTERRUPTED, "a turn says %d", (int)status);
    home->running = false;
    home->next_ns = pac_executor_next_ns(ex);
    home->parked = home->next_ns != 0;
    home->parked_word = pac_atomic_load(&ex->scheduler.inject.newest, PAC_RELAXED);
    pac_executor_leave(before);
}

static void
run(struct home *home)
{
    struct pac_executor *ex = home->executor;
    home->parked = false;
    home->running = true;
    enum pac_status status;
    if (sim_chance(4) && !sim.quiet) {
        struct node *root = node_new_random(2, false);
        status = pac_executor_block_on(ex, node_future(root));
    }
    else {
        status = pac_executor_run(ex);
    }
    home->running = false;
    SIM_CHECK(status == PAC_OK || status == PAC_INTERRUPTED || status == PAC_NO_MEMORY ||
                  (status == PAC_DEADLOCK && ex->is_virtual),
              "a run says %d", (int)status);
}

void
tasks_run(void)
{
    struct home *home = &homes[sim_below(home_count)];
    SIM_TRACE("executor %d runs", (int)(home - homes));
    remember_queue(home);
    if (home->executor->is_virtual || sim_chance(2)) {
        run(home);
    }
    else {
        for (size_t turns = 1 + sim_below(20); turns > 0; turns--) {
            turn(home);
            remember_queue(home);
            if (sim_chance(4)) {
                (void)sim_step();
            }
        }
    }
}

void
tasks_run_all(void)
{
    /* What one does may wake what another one has. */
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < home_count; i++) {
            remember_queue(&homes[i]);
            run(&homes[i]);
        }
    }
}

/* ---- beginning and end ------------------------------------------------------------------------ */

bool
tasks_init(void)
{
    memset(homes, 0, sizeof homes);
    memset(kept, 0, sizeof kept);
    memset(sources, 0, sizeof sources);
    pac_list_init(&all_tasks);
    pac_list_init(&all_callbacks);
    task_count = 0;
    current = NULL;
    home_count = sim_chance(3) ? 2 : 1;
    for (unsigned i = 0; i < home_count; i++) {
        struct pac_park_hooks hooks = {before_wait, after_wait, &homes[i]};
        enum pac_status status;
        homes[i].executor = pac_executor_new(&hooks, &status);
        if (homes[i].executor == NULL) {
            home_count = i;
            return false;
        }
        if (sim_chance(3)) {
            pac_executor_use_virtual_clock(homes[i].executor, sim_chance(4) ? NULL : stuck);
        }
        if (sim_chance(2)) {
            pac_executor_seed(homes[i].executor, sim.seed);
        }
    }
    if (home_count == 1) {
        things_open(&homes[0].executor->reactor);
    }
    return true;
}

void
tasks_check(void)
{
    for (unsigned i = 0; i < home_count; i++) {
        if (!homes[i].closing) {
            check_parked(&homes[i]);
            SIM_CHECK(pac_wheel_check(&homes[i].executor->wheel), "a wheel is out of order");
        }
    }
}

void
tasks_close(void)
{
    for (unsigned i = 0; i < home_count; i++) {
        struct pac_scheduler *before = NULL;
        bool entered = sim_chance(2);
        homes[i].closing = true;
        if (entered) {
            before = pac_executor_enter(homes[i].executor);
        }
        pac_executor_close(homes[i].executor);
        if (entered) {
            pac_executor_leave(before);
        }
        for (int s = 0; s < SOURCES; s++) {
            if (sources[s].home == &homes[i]) {
                pac_reactor_remove(&homes[i].executor->reactor, &sources[s].source);
            }
        }
    }
    SIM_CHECK(task_count == 0, "%u tasks are left after closing", task_count);
}

void
tasks_fini(void)
{
    struct pac_list_node *node;
    for (unsigned i = 0; i < home_count; i++) {
        pac_executor_free(homes[i].executor);
    }
    things_wake();
    for (int i = 0; i < WAKERS; i++) {
        act_waker(&kept[i]);
        pac_waker_drop(&kept[i]);
    }
    while ((node = pac_list_pop_front(&all_tasks)) != NULL) {
        struct task *t = PAC_LIST_ENTRY(node, struct task, all);
        SIM_CHECK(t->wakers == 0, "%d wakers of a task are left", t->wakers);
        if (t->task != NULL) {
            SIM_CHECK(pac_task_is_complete(t->task), "a task has not ended, its executor has");
            pac_task_unref(t->task);
        }
        free(t);
    }
    while ((node = pac_list_pop_front(&all_callbacks)) != NULL) {
        struct callback *c = PAC_LIST_ENTRY(node, struct callback, all);
        SIM_CHECK(c->gone, "a callback was neither run nor discarded");
        free(c);
    }
}
