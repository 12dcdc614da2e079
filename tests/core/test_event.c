/* Event: whom a set lets go, and that none is missed. */
#include "event.h"
#include "wakers.h"

#include <pthread.h>
#include <unistd.h>

enum { WATCHDOG_S = 100, CROWD = 70 };

struct waiter {
    struct pac_event_wait wait;
    struct probe probe;
};

static void
waiter_init(struct waiter *w, struct pac_event *e)
{
    pac_event_wait_init(&w->wait, e);
    probe_init(&w->probe, &w->wait.future);
}

static enum pac_poll
waiter_poll(struct waiter *w)
{
    return probe_poll(&w->probe);
}

static void
waiter_drop(struct waiter *w)
{
    probe_drop(&w->probe);
}

static void
test_set_and_clear(void)
{
    struct pac_event e;
    struct waiter w;
    pac_event_init(&e);
    CHECK(!pac_event_is_set(&e));
    pac_event_clear(&e);
    CHECK(!pac_event_is_set(&e));
    for (int i = 0; i < 2; i++) {
        pac_event_set(&e);
        CHECK(pac_event_is_set(&e));
        waiter_init(&w, &e);
        CHECK_INT(waiter_poll(&w), PAC_READY);
        CHECK_INT(counting_clones(&w.probe.hooked.count), 0);
        waiter_drop(&w);
    }
    pac_event_clear(&e);
    CHECK(!pac_event_is_set(&e));
    waiter_init(&w, &e);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    waiter_drop(&w);
}

static void
test_set_lets_all_go_though_clear_follows(void)
{
    struct pac_event e;
    static struct waiter w[CROWD];
    struct waiter unpolled, late;
    pac_event_init(&e);
    for (int i = 0; i < CROWD; i++) {
        waiter_init(&w[i], &e);
        CHECK_INT(waiter_poll(&w[i]), PAC_PENDING);
    }
    waiter_init(&unpolled, &e);
    pac_event_set(&e);
    pac_event_clear(&e);
    waiter_init(&late, &e);
    CHECK_INT(waiter_poll(&late), PAC_PENDING);
    for (int i = 0; i < CROWD; i++) {
        CHECK_INT(probe_wakes(&w[i].probe), 1);
        CHECK_INT(waiter_poll(&w[i]), PAC_READY);
        waiter_drop(&w[i]);
    }
    CHECK_INT(waiter_poll(&unpolled), PAC_READY);
    waiter_drop(&unpolled);
    CHECK_INT(waiter_poll(&late), PAC_PENDING);
    waiter_drop(&late);
}

static void
test_made_while_set_counts(void)
{
    struct pac_event e;
    struct waiter w;
    pac_event_init(&e);
    pac_event_set(&e);
    waiter_init(&w, &e);
    pac_event_clear(&e);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
}

static void
test_newest_waker_alone(void)
{
    struct pac_event e;
    struct waiter w;
    struct counting_waker old;
    struct pac_waker waker = counting_waker_init(&old);
    struct pac_context cx = {&waker};
    pac_event_init(&e);
    waiter_init(&w, &e);
    CHECK_INT(pac_event_wait_poll(&w.wait, &cx), PAC_PENDING);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(counting_live(&old), 0);
    pac_event_set(&e);
    pac_event_set(&e);
    CHECK_INT(counting_wakes(&old), 0);
    CHECK_INT(probe_wakes(&w.probe), 1);
    waiter_drop(&w);
}

static void
test_budget(void)
{
    struct pac_event e;
    struct waiter w;
    pac_event_init(&e);
    waiter_init(&w, &e);
    pac_budget_left = 0;
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(probe_wakes(&w.probe), 0);
    pac_event_set(&e);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(probe_wakes(&w.probe), 2);
    pac_event_clear(&e);
    pac_budget_left = 3;
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(pac_budget_left, 2);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    waiter_drop(&w);
}

/* A waker that clears, and makes and polls another wait: the broadcast in progress is not its. */
struct meddling {
    struct pac_event e;
    struct waiter w[CROWD];
    struct waiter late;
    bool began;
};

static void
meddle(void *arg)
{
    struct meddling *m = arg;
    if (!m->began) {
        m->began = true;
        pac_event_clear(&m->e);
        waiter_init(&m->late, &m->e);
        CHECK_INT(waiter_poll(&m->late), PAC_PENDING);
        waiter_drop(&m->w[CROWD - 1]);
    }
}

static void
test_waker_meddles_with_its_own_event(void)
{
    static struct meddling m;
    pac_event_init(&m.e);
    for (int i = 0; i < CROWD; i++) {
        waiter_init(&m.w[i], &m.e);
        CHECK_INT(waiter_poll(&m.w[i]), PAC_PENDING);
        m.w[i].probe.hooked.on_wake = meddle;
        m.w[i].probe.hooked.arg = &m;
    }
    pac_event_set(&m.e);
    for (int i = 0; i < CROWD - 1; i++) {
        CHECK_INT(waiter_poll(&m.w[i]), PAC_READY);
        waiter_drop(&m.w[i]);
    }
    CHECK_INT(waiter_poll(&m.late), PAC_PENDING);
    pac_event_set(&m.e);
    CHECK_INT(waiter_poll(&m.late), PAC_READY);
    waiter_drop(&m.late);
}

/* One that is made between the flag and its broadcast waits on for the next. Forced here by the
 * broadcast alone, without the flag. */
static void
test_broadcast_of_an_older_set_is_not_taken(void)
{
    struct pac_event e;
    struct waiter w;
    pac_event_init(&e);
    waiter_init(&w, &e);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    pac_notify_waiters(&e.notify);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    pac_event_set(&e);
    CHECK_INT(probe_wakes(&w.probe), 2);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
}

/* Ping and pong between two threads, with a value that nothing else guards: a set that is missed
 * hangs, a missing order is a race. */
enum { ROUNDS = 20000 };

struct game {
    struct pac_event ping, pong;
    int value;
};

static void
wait_for(struct pac_event *e, struct parking_waker *p)
{
    struct pac_event_wait w;
    pac_event_wait_init(&w, e);
    park_until_ready(&w.future, p);
    pac_event_clear(e);
}

static void *
answer_thread(void *arg)
{
    struct game *g = arg;
    struct parking_waker p;
    parking_waker_init(&p);
    for (int i = 0; i < ROUNDS; i++) {
        wait_for(&g->ping, &p);
        g->value++;
        pac_event_set(&g->pong);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_ping_pong(void)
{
    static struct game g;
    struct parking_waker p;
    pthread_t thread;
    parking_waker_init(&p);
    pac_event_init(&g.ping);
    pac_event_init(&g.pong);
    pthread_create(&thread, NULL, answer_thread, &g);
    for (int i = 0; i < ROUNDS; i++) {
        g.value++;
        pac_event_set(&g.ping);
        wait_for(&g.pong, &p);
    }
    pthread_join(thread, NULL);
    CHECK_INT(g.value, 2 * ROUNDS);
    parking_waker_fini(&p);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_set_and_clear);
    RUN(test_set_lets_all_go_though_clear_follows);
    RUN(test_made_while_set_counts);
    RUN(test_newest_waker_alone);
    RUN(test_budget);
    RUN(test_waker_meddles_with_its_own_event);
    RUN(test_broadcast_of_an_older_set_is_not_taken);
    RUN(test_stress_ping_pong);
    return TESTING_RESULT();
}
