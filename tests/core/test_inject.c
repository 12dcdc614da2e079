/* The inject queue: order, the sleep token, closing; alone, and with producers on other threads. */
#include "inject.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

struct item {
    struct pac_runnable runnable;
    int producer, number;
};

static struct item *
item_of(struct pac_runnable *r)
{
    return PAC_CONTAINER_OF(r, struct item, runnable);
}

static void
what_is_taken_comes_in_the_order_of_the_pushes(void)
{
    struct pac_inject q;
    struct pac_run_queue to;
    struct item items[5];
    pac_inject_init(&q);
    pac_run_queue_init(&to);
    CHECK(!pac_inject_has_work(&q));
    pac_inject_take(&q, &to);
    CHECK(pac_run_queue_pop(&to) == NULL);
    for (int i = 0; i < 5; i++) {
        items[i].number = i;
        CHECK_INT(pac_inject_push(&q, &items[i].runnable), PAC_INJECT_DONE);
        if (i == 2) { /* two takes, appended to the same queue */
            pac_inject_take(&q, &to);
        }
    }
    CHECK(pac_inject_has_work(&q));
    pac_inject_take(&q, &to);
    CHECK_INT(to.length, 5);
    for (int i = 0; i < 5; i++) {
        struct pac_runnable *r = pac_run_queue_pop(&to);
        CHECK(r != NULL && item_of(r)->number == i);
    }
    CHECK(!pac_inject_has_work(&q));
}

static void
exactly_one_push_a_sleep_has_to_unpark(void)
{
    struct pac_inject q;
    struct pac_run_queue to;
    struct item a, b;
    pac_inject_init(&q);
    pac_run_queue_init(&to);
    CHECK(pac_inject_park(&q));
    CHECK(!pac_inject_unpark(&q)); /* nobody came: the token is put away */
    CHECK_INT(pac_inject_push(&q, &a.runnable), PAC_INJECT_DONE);
    CHECK(!pac_inject_park(&q)); /* there is work */
    pac_inject_take(&q, &to);
    CHECK(pac_inject_park(&q));
    CHECK_INT(pac_inject_push(&q, &a.runnable), PAC_INJECT_UNPARK);
    CHECK_INT(pac_inject_push(&q, &b.runnable), PAC_INJECT_DONE);
    CHECK(pac_inject_unpark(&q));
    pac_run_queue_init(&to);
    pac_inject_take(&q, &to);
    CHECK(pac_run_queue_pop(&to) == &a.runnable);
    CHECK(pac_run_queue_pop(&to) == &b.runnable);
    CHECK(pac_run_queue_pop(&to) == NULL);
}

static void
a_closed_queue_refuses_and_gives_the_rest(void)
{
    struct pac_inject q;
    struct pac_run_queue rest;
    struct item a, b;
    pac_inject_init(&q);
    pac_run_queue_init(&rest);
    CHECK_INT(pac_inject_push(&q, &a.runnable), PAC_INJECT_DONE);
    CHECK_INT(pac_inject_push(&q, &b.runnable), PAC_INJECT_DONE);
    pac_inject_close(&q, &rest);
    CHECK(pac_run_queue_pop(&rest) == &a.runnable);
    CHECK(pac_run_queue_pop(&rest) == &b.runnable);
    CHECK(pac_run_queue_pop(&rest) == NULL);
    CHECK_INT(pac_inject_push(&q, &a.runnable), PAC_INJECT_CLOSED);
    pac_inject_close(&q, &rest); /* twice is nothing */
    CHECK(pac_run_queue_pop(&rest) == NULL);
    CHECK_INT(pac_inject_push(&q, &a.runnable), PAC_INJECT_CLOSED);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { PRODUCERS = 4, ITEMS = 20000 };

struct producer {
    int id;
    int pushed; /* how many, until the queue was closed */
    struct item items[ITEMS];
};

static struct pac_inject shared;
static struct producer producers[PRODUCERS];
static PAC_ATOMIC(int) unparks;

static void *
produce(void *data)
{
    struct producer *p = data;
    for (p->pushed = 0; p->pushed < ITEMS; p->pushed++) {
        struct item *item = &p->items[p->pushed];
        item->producer = p->id;
        item->number = p->pushed;
        enum pac_inject_result result = pac_inject_push(&shared, &item->runnable);
        if (result == PAC_INJECT_CLOSED) {
            break;
        }
        if (result == PAC_INJECT_UNPARK) {
            pac_atomic_add(&unparks, 1, PAC_RELEASE);
        }
        if (p->pushed % 64 == 0) {
            sched_yield(); /* let the owner fall asleep now and then */
        }
    }
    return NULL;
}

static void
start(pthread_t *threads)
{
    memset(producers, 0, sizeof producers);
    pac_inject_init(&shared);
    pac_atomic_init(&unparks, 0);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].id = i;
        pthread_create(&threads[i], NULL, produce, &producers[i]);
    }
}

/* Count what is in `queue` off `next`, which says what number each producer comes to next. */
static int
consume(struct pac_run_queue *queue, int *next)
{
    int count = 0;
    struct pac_runnable *r;
    while ((r = pac_run_queue_pop(queue)) != NULL) {
        struct item *item = item_of(r);
        CHECK_INT(item->number, next[item->producer]);
        next[item->producer]++;
        count++;
    }
    return count;
}

/* Sleep as an executor does. Returns 1 if a producer had to unpark. */
static int
sleep_until_pushed(int unparks_before)
{
    if (!pac_inject_park(&shared)) {
        return 0;
    }
    while (pac_atomic_load(&unparks, PAC_ACQUIRE) == unparks_before) {
        sched_yield();
    }
    CHECK(pac_inject_unpark(&shared));
    return 1;
}

static void
nothing_is_lost_and_each_producer_keeps_its_order(void)
{
    pthread_t threads[PRODUCERS];
    int next[PRODUCERS] = {0}, taken = 0, sleeps = 0;
    struct pac_run_queue queue;
    pac_run_queue_init(&queue);
    start(threads);
    while (taken < PRODUCERS * ITEMS) {
        sleeps += sleep_until_pushed(sleeps);
        pac_inject_take(&shared, &queue);
        taken += consume(&queue, next);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(taken, PRODUCERS * ITEMS);
    CHECK_INT(pac_atomic_load(&unparks, PAC_RELAXED), sleeps);
    CHECK(!pac_inject_has_work(&shared));
}

static void
closing_while_others_push_loses_nothing_that_was_accepted(void)
{
    for (int round = 0; round < 20; round++) {
        pthread_t threads[PRODUCERS];
        int next[PRODUCERS] = {0}, taken = 0, pushed = 0;
        struct pac_run_queue queue;
        pac_run_queue_init(&queue);
        start(threads);
        while (taken < 100 * round) {
            pac_inject_take(&shared, &queue);
            taken += consume(&queue, next);
        }
        pac_inject_close(&shared, &queue);
        taken += consume(&queue, next);
        for (int i = 0; i < PRODUCERS; i++) {
            pthread_join(threads[i], NULL);
            pushed += producers[i].pushed;
        }
        CHECK_INT(taken, pushed);
    }
}

int
main(void)
{
    RUN(what_is_taken_comes_in_the_order_of_the_pushes);
    RUN(exactly_one_push_a_sleep_has_to_unpark);
    RUN(a_closed_queue_refuses_and_gives_the_rest);
    RUN(nothing_is_lost_and_each_producer_keeps_its_order);
    RUN(closing_while_others_push_loses_nothing_that_was_accepted);
    return TESTING_RESULT();
}
