/* OnceCell: one initialiser at a time, another one if it fails or is dropped, and all see what the
 * one that succeeded wrote. */
#include "once_cell.h"
#include "leaf.h"
#include "wakers.h"

#include <pthread.h>
#include <unistd.h>

enum { WATCHDOG_S = 100, CROWD = 40 };

/* A get_or_init whose initialiser is a leaf that the test makes happen. */
struct getter {
    struct leaf leaf;
    enum pac_status outcome;
    struct pac_get_or_init get;
    struct probe probe;
};

static void
getter_init(struct getter *g, struct pac_once_cell *c)
{
    leaf_polls[0] = leaf_drops[0] = '\0';
    leaf_init(&g->leaf, 'x');
    g->outcome = PAC_OK;
    pac_get_or_init_init(&g->get, c, &g->leaf.future, &g->outcome);
    probe_init(&g->probe, &g->get.future);
}

static enum pac_poll
getter_poll(struct getter *g)
{
    return probe_poll(&g->probe);
}

static void
getter_drop(struct getter *g)
{
    probe_drop(&g->probe);
    CHECK_INT(g->leaf.drops, 1);
}

static void
test_begin_complete_and_abandon(void)
{
    struct pac_once_cell c;
    pac_once_cell_init(&c);
    CHECK(!pac_once_cell_is_set(&c));
    CHECK_INT(pac_once_cell_begin(&c), PAC_OK);
    CHECK_INT(pac_once_cell_begin(&c), PAC_BUSY);
    pac_once_cell_abandon(&c);
    CHECK(!pac_once_cell_is_set(&c));
    CHECK_INT(pac_once_cell_begin(&c), PAC_OK);
    pac_once_cell_complete(&c);
    CHECK(pac_once_cell_is_set(&c));
    CHECK_INT(pac_once_cell_begin(&c), PAC_CLOSED);
}

static void
test_the_first_initialises_for_all(void)
{
    struct pac_once_cell c;
    static struct getter g[CROWD];
    struct getter late;
    pac_once_cell_init(&c);
    for (int i = 0; i < CROWD; i++) {
        getter_init(&g[i], &c);
        CHECK_INT(getter_poll(&g[i]), PAC_PENDING);
        CHECK_INT(g[i].leaf.polls, i == 0);
    }
    leaf_happen(&g[0].leaf);
    CHECK_INT(probe_wakes(&g[0].probe), 1);
    CHECK_INT(getter_poll(&g[0]), PAC_READY);
    CHECK_INT(g[0].get.status, PAC_OK);
    CHECK(pac_once_cell_is_set(&c));
    for (int i = 0; i < CROWD; i++) {
        if (i > 0) {
            CHECK_INT(probe_wakes(&g[i].probe), 1);
            CHECK_INT(getter_poll(&g[i]), PAC_READY);
            CHECK_INT(g[i].leaf.polls, 0);
        }
        getter_drop(&g[i]);
    }
    getter_init(&late, &c);
    CHECK_INT(getter_poll(&late), PAC_READY);
    getter_drop(&late);
}

static void
test_ready_at_once(void)
{
    struct pac_once_cell c;
    struct getter g;
    pac_once_cell_init(&c);
    getter_init(&g, &c);
    g.leaf.happened = true;
    CHECK_INT(getter_poll(&g), PAC_READY);
    CHECK(pac_once_cell_is_set(&c));
    getter_drop(&g);
}

static void
test_failure_and_drop_hand_over(void)
{
    struct pac_once_cell c;
    struct getter g[4];
    pac_once_cell_init(&c);
    for (int i = 0; i < 4; i++) {
        getter_init(&g[i], &c);
        CHECK_INT(getter_poll(&g[i]), PAC_PENDING);
    }
    g[0].outcome = PAC_NO_MEMORY;
    leaf_happen(&g[0].leaf);
    CHECK_INT(getter_poll(&g[0]), PAC_READY);
    CHECK_INT(g[0].get.status, PAC_NO_MEMORY);
    CHECK_INT(probe_wakes(&g[1].probe), 1);
    CHECK_INT(getter_poll(&g[1]), PAC_PENDING);
    CHECK_INT(g[1].leaf.polls, 1);
    getter_drop(&g[1]); /* while it initialises */
    CHECK_INT(probe_wakes(&g[2].probe), 1);
    getter_drop(&g[2]); /* its turn has come, and it has not seen that */
    CHECK_INT(probe_wakes(&g[3].probe), 1);
    leaf_happen(&g[3].leaf);
    CHECK_INT(getter_poll(&g[3]), PAC_READY);
    CHECK(pac_once_cell_is_set(&c));
    getter_drop(&g[0]);
    getter_drop(&g[3]);
}

static void
test_dropped_before_its_turn(void)
{
    struct pac_once_cell c;
    struct getter g[2];
    pac_once_cell_init(&c);
    for (int polls = 0; polls < 2; polls++) {
        CHECK_INT(pac_once_cell_begin(&c), PAC_OK);
        getter_init(&g[0], &c);
        for (int i = 0; i < polls; i++) {
            CHECK_INT(getter_poll(&g[0]), PAC_PENDING);
        }
        getter_drop(&g[0]);
        CHECK_INT(g[0].leaf.polls, 0);
        pac_once_cell_abandon(&c);
    }
    CHECK_INT(pac_once_cell_begin(&c), PAC_OK);
    pac_once_cell_abandon(&c);
}

/* The initialiser is dropped before the next one may begin. */
static void
begin_on_wake(void *arg)
{
    struct getter *g = arg;
    CHECK_INT(g[0].leaf.drops, 1);
    CHECK_INT(getter_poll(&g[1]), PAC_PENDING);
    CHECK_INT(g[1].leaf.polls, 1);
}

static void
test_drop_of_the_running_one_comes_first(void)
{
    struct pac_once_cell c;
    struct getter g[2];
    pac_once_cell_init(&c);
    for (int i = 0; i < 2; i++) {
        getter_init(&g[i], &c);
        CHECK_INT(getter_poll(&g[i]), PAC_PENDING);
    }
    g[1].probe.hooked.on_wake = begin_on_wake;
    g[1].probe.hooked.arg = g;
    getter_drop(&g[0]);
    CHECK_INT(g[1].leaf.polls, 1);
    getter_drop(&g[1]);
}

/* Threads that all want the value; the initialiser fails every time but the last. */
enum { THREADS = 4, ROUNDS = 300, FAILURES = 5 };

struct shared {
    struct pac_once_cell c;
    int attempts, value; /* by whose turn it is */
    PAC_ATOMIC(int) running, wrong;
};

struct attempt {
    struct pac_future future;
    struct shared *s;
    enum pac_status outcome;
    bool yielded;
};

static enum pac_poll
attempt_poll(struct pac_future *f, struct pac_context *cx)
{
    struct attempt *a = PAC_CONTAINER_OF(f, struct attempt, future);
    if (!a->yielded) {
        a->yielded = true;
        if (pac_atomic_add(&a->s->running, 1, PAC_RELAXED) != 0) {
            pac_atomic_add(&a->s->wrong, 1, PAC_RELAXED);
        }
        pac_waker_wake_by_ref(cx->waker);
        return PAC_PENDING;
    }
    bool fails = ++a->s->attempts <= FAILURES;
    if (!fails) {
        a->s->value = 42;
    }
    a->outcome = fails ? PAC_NO_MEMORY : PAC_OK;
    pac_atomic_sub(&a->s->running, 1, PAC_RELAXED);
    return PAC_READY;
}

static void
attempt_drop(struct pac_future *f)
{
    (void)f;
}

static const struct pac_future_vtable attempt_vtable = {attempt_poll, attempt_drop};

static void *
want_thread(void *arg)
{
    struct shared *s = arg;
    struct parking_waker p;
    struct pac_get_or_init get;
    parking_waker_init(&p);
    do {
        struct attempt a = {.future = {&attempt_vtable}, .s = s, .outcome = PAC_OK};
        pac_get_or_init_init(&get, &s->c, &a.future, &a.outcome);
        park_until_ready(&get.future, &p);
        pac_get_or_init_drop(&get);
    } while (get.status != PAC_OK);
    if (s->value != 42) {
        pac_atomic_add(&s->wrong, 1, PAC_RELAXED);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_threads_want_it(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        struct shared s = {.attempts = 0, .value = 0};
        pthread_t threads[THREADS];
        pac_once_cell_init(&s.c);
        pac_atomic_init(&s.running, 0);
        pac_atomic_init(&s.wrong, 0);
        for (int i = 0; i < THREADS; i++) {
            pthread_create(&threads[i], NULL, want_thread, &s);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
        CHECK_INT(pac_atomic_load(&s.wrong, PAC_RELAXED), 0);
        CHECK_INT(s.attempts, FAILURES + 1);
    }
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_begin_complete_and_abandon);
    RUN(test_the_first_initialises_for_all);
    RUN(test_ready_at_once);
    RUN(test_failure_and_drop_hand_over);
    RUN(test_dropped_before_its_turn);
    RUN(test_drop_of_the_running_one_comes_first);
    RUN(test_stress_threads_want_it);
    return TESTING_RESULT();
}
