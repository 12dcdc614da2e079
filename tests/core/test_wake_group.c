/* A group of wake-ups: each task is polled once for it, in the order of adding, and an executor that
 * sleeps is unparked once. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "executor.h"
#include "testing.h"
#include "wake_group.h"

#include <pthread.h>
#include <unistd.h>

enum { MANY = 100, WATCHDOG_S = 100 };

/* Never ready. */
struct counted {
    struct pac_future future;
    struct pac_task *task;
    int polls;
    int last; /* the number of its last poll among all of them */
};

static int all_polls;

static enum pac_poll
counted_poll(struct pac_future *f, struct pac_context *cx)
{
    struct counted *c = PAC_CONTAINER_OF(f, struct counted, future);
    (void)cx;
    c->polls++;
    c->last = all_polls++;
    return PAC_PENDING;
}

static void
counted_drop(struct pac_future *f)
{
    (void)f;
}

static const struct pac_future_vtable counted_vtable = {counted_poll, counted_drop};

/* An executor whose unparks are counted. */
struct place {
    struct pac_executor *ex;
    void (*unpark)(struct pac_scheduler *);
    struct counted tasks[MANY];
};

static int unparks;

static void
count_unpark(struct pac_scheduler *s)
{
    unparks++;
    pac_reactor_unpark(&((struct pac_executor *)s)->reactor);
}

static void
place_init(struct place *p, int count)
{
    enum pac_status status;
    p->ex = pac_executor_new(NULL, &status);
    CHECK(p->ex != NULL);
    p->ex->scheduler.unpark = count_unpark;
    for (int i = 0; i < count; i++) {
        struct counted *c = &p->tasks[i];
        c->future.vtable = &counted_vtable;
        c->polls = 0;
        c->task = pac_executor_spawn_idle(p->ex, &c->future, &status);
        CHECK(c->task != NULL);
    }
    unparks = 0;
}

static void
place_fini(struct place *p, int count)
{
    pac_executor_close(p->ex);
    pac_executor_free(p->ex);
    for (int i = 0; i < count; i++) {
        pac_task_unref(p->tasks[i].task);
    }
}

static void
turn(struct place *p)
{
    struct pac_scheduler *before = pac_executor_enter(p->ex);
    CHECK_INT(pac_executor_turn(p->ex), PAC_OK);
    pac_executor_leave(before);
}

/* As before a wait: from now on the first to queue something has to unpark. */
static void
fall_asleep(struct place *p)
{
    CHECK(pac_executor_next_ns(p->ex) == PAC_NEVER);
}

static void
add(struct pac_wake_group *g, struct counted *c)
{
    struct pac_waker borrowed = pac_task_waker(c->task);
    struct pac_waker w = pac_waker_clone(&borrowed);
    pac_wake_group_add(g, &w);
    CHECK(!pac_waker_is_set(&w));
}

static void
a_sleeping_executor_is_unparked_once(void)
{
    static struct place p;
    struct pac_wake_group g;
    place_init(&p, MANY);
    pac_wake_group_init(&g);
    fall_asleep(&p);
    for (int i = 0; i < MANY; i++) {
        add(&g, &p.tasks[i]);
        if (i % 10 == 0) { /* it wakes for another reason, and sleeps again */
            turn(&p);
            fall_asleep(&p);
        }
    }
    CHECK_INT(unparks, 0);
    CHECK_INT(p.tasks[0].polls, 0);
    pac_wake_group_wake(&g);
    CHECK_INT(unparks, 1);
    CHECK_INT(g.count, 0);
    all_polls = 0;
    turn(&p);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(p.tasks[i].polls, 1);
        CHECK_INT(p.tasks[i].last, i);
    }
    pac_wake_group_wake(&g); /* there is nothing left in it */
    turn(&p);
    CHECK_INT(p.tasks[0].polls, 1);
    place_fini(&p, MANY);
}

static void
a_task_is_polled_once_however_often_it_is_woken(void)
{
    static struct place p;
    struct pac_wake_group g;
    place_init(&p, 2);
    pac_wake_group_init(&g);
    pac_task_wake(p.tasks[1].task);
    add(&g, &p.tasks[0]);
    add(&g, &p.tasks[1]);
    add(&g, &p.tasks[0]);
    pac_task_wake(p.tasks[0].task);
    turn(&p);
    CHECK_INT(p.tasks[0].polls, 0); /* it stands in the group */
    CHECK_INT(p.tasks[1].polls, 1);
    pac_wake_group_wake(&g);
    turn(&p);
    turn(&p);
    CHECK_INT(p.tasks[0].polls, 1);
    CHECK_INT(p.tasks[1].polls, 1);
    place_fini(&p, 2);
}

static void
more_executors_than_chains(void)
{
    enum { PLACES = PAC_WAKE_GROUP_CHAINS + 3 };
    static struct place places[PLACES];
    struct pac_wake_group g;
    for (int i = 0; i < PLACES; i++) {
        place_init(&places[i], 2);
        fall_asleep(&places[i]);
    }
    pac_wake_group_init(&g);
    for (int i = 0; i < 2 * PLACES; i++) {
        add(&g, &places[i % PLACES].tasks[i / PLACES]);
    }
    pac_wake_group_wake(&g);
    for (int i = 0; i < PLACES; i++) {
        turn(&places[i]);
        CHECK_INT(places[i].tasks[0].polls, 1);
        CHECK_INT(places[i].tasks[1].polls, 1);
        place_fini(&places[i], 2);
    }
}

static void
on_the_executors_own_thread_nothing_is_put_off(void)
{
    static struct place p;
    struct pac_wake_group g;
    place_init(&p, 1);
    pac_wake_group_init(&g);
    struct pac_scheduler *before = pac_executor_enter(p.ex);
    add(&g, &p.tasks[0]);
    CHECK_INT(g.count, 0);
    pac_executor_leave(before);
    turn(&p);
    CHECK_INT(p.tasks[0].polls, 1);
    place_fini(&p, 1);
}

/* Closed before the end: every reference is given up, as the counters at the end say. */
static void
the_executor_closes_meanwhile(void)
{
    static struct place p;
    struct pac_wake_group g;
    place_init(&p, MANY);
    pac_wake_group_init(&g);
    for (int i = 0; i < MANY; i++) {
        add(&g, &p.tasks[i]);
    }
    place_fini(&p, MANY);
    pac_wake_group_wake(&g);
    CHECK_INT(p.tasks[0].polls, 0);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(p.tasks[i].polls, 0);
    }
}

/* A task that has ended is not queued, and the last waker frees it. */
static void
what_has_ended_is_let_go_of(void)
{
    static struct place p;
    struct pac_wake_group g;
    place_init(&p, 1);
    struct pac_waker borrowed = pac_task_waker(p.tasks[0].task);
    struct pac_waker w = pac_waker_clone(&borrowed);
    place_fini(&p, 1);
    pac_wake_group_init(&g);
    pac_wake_group_add(&g, &w);
    CHECK_INT(g.count, 0);
    pac_wake_group_add(&g, &w); /* an empty slot */
    pac_wake_group_wake(&g);
}

/* ---- threads -------------------------------------------------------------------------------- */

#ifdef TESTING_VALGRIND
enum { TASKS = 20, ROUNDS = 50, WAKERS = 3 };
#else
enum { TASKS = 20, ROUNDS = 2000, WAKERS = 3 };
#endif

/* READY once it has seen every round of every waker. */
struct follower {
    struct pac_future future;
    struct pac_task *task;
    PAC_ATOMIC(int) rounds[WAKERS];
};

static struct follower followers[TASKS];

static enum pac_poll
follower_poll(struct pac_future *f, struct pac_context *cx)
{
    struct follower *self = PAC_CONTAINER_OF(f, struct follower, future);
    (void)cx;
    for (int i = 0; i < WAKERS; i++) {
        /* relaxed: that it is up to date at the poll after a wake is the wake's doing. */
        if (pac_atomic_load(&self->rounds[i], PAC_RELAXED) < ROUNDS) {
            return PAC_PENDING;
        }
    }
    return PAC_READY;
}

static const struct pac_future_vtable follower_vtable = {follower_poll, counted_drop};

static void *
wake_all_again_and_again(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct pac_wake_group g;
        pac_wake_group_init(&g);
        for (int t = 0; t < TASKS; t++) {
            struct pac_waker borrowed = pac_task_waker(followers[t].task);
            struct pac_waker w = pac_waker_clone(&borrowed);
            pac_atomic_add(&followers[t].rounds[me], 1, PAC_RELAXED);
            pac_wake_group_add(&g, &w);
        }
        pac_wake_group_wake(&g);
    }
    return NULL;
}

static void
groups_of_several_threads_lose_no_wake(void)
{
    enum pac_status status;
    struct pac_executor *ex = pac_executor_new(NULL, &status);
    pthread_t threads[WAKERS];
    alarm(WATCHDOG_S);
    for (int t = 0; t < TASKS; t++) {
        followers[t].future.vtable = &follower_vtable;
        followers[t].task = pac_executor_spawn(ex, &followers[t].future, &status);
    }
    for (intptr_t i = 0; i < WAKERS; i++) {
        pthread_create(&threads[i], NULL, wake_all_again_and_again, (void *)i);
    }
    for (int t = 0; t < TASKS; t++) {
        struct pac_join_handle handle;
        pac_join_handle_init(&handle, pac_task_ref(followers[t].task));
        CHECK_INT(pac_executor_block_on(ex, &handle.future), PAC_OK);
    }
    for (int i = 0; i < WAKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int t = 0; t < TASKS; t++) {
        pac_task_unref(followers[t].task);
    }
    alarm(0);
    pac_executor_close(ex);
    pac_executor_free(ex);
}

int
main(void)
{
    RUN(a_sleeping_executor_is_unparked_once);
    RUN(a_task_is_polled_once_however_often_it_is_woken);
    RUN(more_executors_than_chains);
    RUN(on_the_executors_own_thread_nothing_is_put_off);
    RUN(the_executor_closes_meanwhile);
    RUN(what_has_ended_is_let_go_of);
    RUN(groups_of_several_threads_lose_no_wake);
    return TESTING_RESULT();
}
