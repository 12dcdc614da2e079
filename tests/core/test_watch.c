/* watch: the last value is never missed, each is given up once. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "channel_testing.h"
#include "watch.h"

#include <pthread.h>

static PAC_ATOMIC(int) references[20000];

static void *
numbered(int number)
{
    pac_atomic_add(&references[number], 1, PAC_RELAXED);
    return value_of(number);
}

static void *
clone_number(void *value)
{
    return numbered((int)(intptr_t)value);
}

static void
destroy_number(void *value)
{
    CHECK(pac_atomic_sub(&references[(intptr_t)value], 1, PAC_RELAXED) > 0);
}

static void
check_no_references(void)
{
    for (int i = 0; i < 20000; i++) {
        CHECK_INT(pac_atomic_load(&references[i], PAC_RELAXED), 0);
    }
}

static int
number_of(void *value)
{
    destroy_number(value);
    return (int)(intptr_t)value;
}

struct watcher {
    struct pac_watch_receiver receiver;
    struct pac_watch_changed changed;
    struct poller poller;
};

static void
watcher_init(struct watcher *r, struct pac_watch *w)
{
    pac_watch_subscribe(&r->receiver, w);
    pac_watch_changed_init(&r->changed, &r->receiver);
    poller_init(&r->poller, &r->changed.future);
}

static void
test_a_change_is_seen_once(void)
{
    struct pac_watch w;
    struct watcher r;
    pac_watch_init(&w, numbered(1), clone_number, destroy_number);
    watcher_init(&r, &w);
    CHECK(!pac_watch_has_changed(&r.receiver)); /* what was there counts as seen */
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(pac_watch_send(&w, numbered(2)), PAC_OK);
    CHECK_INT(pac_watch_send(&w, numbered(3)), PAC_OK);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(number_of(pac_watch_get(&w)), 3);
    CHECK(pac_watch_has_changed(&r.receiver)); /* looking does not count */
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.changed.status, PAC_OK);
    CHECK(!pac_watch_has_changed(&r.receiver));
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(pac_watch_send(&w, numbered(4)), PAC_OK);
    CHECK_INT(number_of(pac_watch_get_seen(&r.receiver)), 4);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    poller_drop(&r.poller);
    pac_watch_unsubscribe(&r.receiver);
    pac_watch_fini(&w);
    check_no_references();
}

static void
test_the_senders_go(void)
{
    struct pac_watch w;
    struct watcher r;
    pac_watch_init(&w, numbered(1), clone_number, destroy_number);
    watcher_init(&r, &w);
    pac_watch_add_sender(&w);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    pac_watch_drop_sender(&w);
    CHECK_INT(poller_wakes(&r.poller), 0);
    CHECK_INT(pac_watch_send(&w, numbered(2)), PAC_OK);
    pac_watch_drop_sender(&w);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.changed.status, PAC_OK); /* the last value first */
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.changed.status, PAC_CLOSED);
    CHECK_INT(number_of(pac_watch_get(&w)), 2);
    poller_drop(&r.poller);
    pac_watch_unsubscribe(&r.receiver);
    pac_watch_fini(&w);
    check_no_references();
}

static void
test_the_receivers_go(void)
{
    struct pac_watch w;
    struct watcher a, b;
    struct pac_flag_wait closed;
    struct poller waits;
    pac_watch_init(&w, numbered(1), clone_number, destroy_number);
    CHECK(pac_watch_is_closed(&w));
    watcher_init(&a, &w);
    watcher_init(&b, &w);
    pac_watch_closed_init(&closed, &w);
    poller_init(&waits, &closed.future);
    CHECK_INT(poller_poll(&waits), PAC_PENDING);
    CHECK_INT(poller_poll(&a.poller), PAC_PENDING);
    pac_watch_unsubscribe(&a.receiver);
    pac_watch_unsubscribe(&a.receiver);
    CHECK_INT(poller_wakes(&a.poller), 1);
    CHECK_INT(poller_poll(&a.poller), PAC_READY);
    CHECK_INT(a.changed.status, PAC_CLOSED);
    CHECK(!pac_watch_is_closed(&w));
    CHECK_INT(poller_poll(&waits), PAC_PENDING);
    pac_watch_unsubscribe(&b.receiver);
    CHECK_INT(poller_wakes(&waits), 1);
    CHECK_INT(poller_poll(&waits), PAC_READY);
    void *value = numbered(2);
    CHECK_INT(pac_watch_send(&w, value), PAC_CLOSED);
    CHECK_INT(number_of(value), 2);
    CHECK_INT(number_of(pac_watch_get(&w)), 1);
    poller_drop(&a.poller);
    poller_drop(&b.poller);
    poller_drop(&waits);
    pac_watch_fini(&w);
    check_no_references();
}

static void
test_dropped_waits_and_new_wakers(void)
{
    struct pac_watch w;
    struct watcher r[40];
    struct poller second;
    pac_watch_init(&w, numbered(1), clone_number, destroy_number);
    for (int i = 0; i < 40; i++) {
        watcher_init(&r[i], &w);
        CHECK_INT(poller_poll(&r[i].poller), PAC_PENDING);
    }
    poller_drop(&r[7].poller);
    poller_init(&second, &r[8].changed.future);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(pac_watch_send(&w, numbered(2)), PAC_OK);
    CHECK_INT(poller_wakes(&second), 1);
    for (int i = 0; i < 40; i++) {
        CHECK_INT(poller_wakes(&r[i].poller), i != 7 && i != 8);
        poller_drop(&r[i].poller);
        pac_watch_unsubscribe(&r[i].receiver);
    }
    poller_drop(&second);
    pac_watch_fini(&w);
    check_no_references();
}

static void
test_without_budget_nothing_is_seen(void)
{
    struct pac_watch w;
    struct watcher r;
    pac_watch_init(&w, numbered(1), clone_number, destroy_number);
    watcher_init(&r, &w);
    CHECK_INT(pac_watch_send(&w, numbered(2)), PAC_OK);
    pac_budget_left = 0;
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK(pac_watch_has_changed(&r.receiver));
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    poller_drop(&r.poller);
    pac_watch_unsubscribe(&r.receiver);
    pac_watch_fini(&w);
    check_no_references();
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { VERSIONS = 10000 };

static void *
watches(void *arg)
{
    struct pac_watch_receiver *r = arg;
    int last = 0;
    for (;;) {
        struct pac_watch_changed changed;
        pac_watch_changed_init(&changed, r);
        CHECK_INT(pac_blocking_wait(&changed.future, PAC_NEVER, NULL), PAC_OK);
        pac_watch_changed_drop(&changed);
        int number = number_of(pac_watch_get_seen(r));
        CHECK(number >= last);
        last = number;
        if (changed.status == PAC_CLOSED) {
            break;
        }
    }
    CHECK_INT(last, VERSIONS);
    pac_watch_unsubscribe(r);
    return NULL;
}

static void
test_the_last_value_reaches_every_thread(void)
{
    struct pac_watch w;
    struct pac_watch_receiver receivers[3];
    pthread_t threads[3];
    pac_watch_init(&w, numbered(0), clone_number, destroy_number);
    alarm(WATCHDOG_S);
    for (int i = 0; i < 3; i++) {
        pac_watch_subscribe(&receivers[i], &w);
        pthread_create(&threads[i], NULL, watches, &receivers[i]);
    }
    for (int i = 1; i <= VERSIONS; i++) {
        CHECK_INT(pac_watch_send(&w, numbered(i)), PAC_OK);
    }
    pac_watch_drop_sender(&w);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    alarm(0);
    pac_watch_fini(&w);
    check_no_references();
}

int
main(void)
{
    RUN(test_a_change_is_seen_once);
    RUN(test_the_senders_go);
    RUN(test_the_receivers_go);
    RUN(test_dropped_waits_and_new_wakers);
    RUN(test_without_budget_nothing_is_seen);
    RUN(test_the_last_value_reaches_every_thread);
    return TESTING_RESULT();
}
