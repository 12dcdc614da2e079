/* A promise: one value arrives, or one side learns that the other has gone; each value has one owner
 * at every moment, and who goes last is told. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "channel_testing.h"
#include "promise.h"

#include <pthread.h>
#include <sched.h>

struct kept {
    struct pac_promise promise;
    struct poller poller;
};

static void
kept_init(struct kept *k)
{
    pac_promise_init(&k->promise);
    poller_init(&k->poller, &k->promise.future);
}

/* Both sides go; the second is told that it is the last. */
static void
kept_end(struct kept *k)
{
    void *ignored;
    pac_promise_give_up(&k->promise, &ignored);
    CHECK_INT(counting_live(&k->poller.count), 0);
    CHECK(!pac_promise_let_go(&k->promise));
    CHECK(pac_promise_unref(&k->promise, NULL));
    pac_promise_fini(&k->promise);
}

static void
kept_before_the_first_poll(void)
{
    struct kept k;
    void *value = NULL;
    kept_init(&k);
    CHECK_INT(pac_promise_outcome(&k.promise, &value), PAC_PROMISE_PENDING);
    CHECK(!pac_promise_is_over(&k.promise));
    CHECK_INT(pac_promise_complete(&k.promise, value_of(7), NULL), PAC_OK);
    CHECK(pac_promise_is_over(&k.promise));
    CHECK_INT(poller_poll(&k.poller), PAC_READY);
    CHECK_INT(counting_clones(&k.poller.count), 0);
    CHECK_INT(pac_promise_outcome(&k.promise, &value), PAC_PROMISE_KEPT);
    CHECK(value == value_of(7));
    kept_end(&k);
}

static void
kept_while_it_is_awaited(void)
{
    struct kept k;
    void *value = value_of(1);
    kept_init(&k);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(counting_clones(&k.poller.count), 1);
    CHECK_INT(pac_promise_complete(&k.promise, NULL, NULL), PAC_OK);
    CHECK_INT(poller_wakes(&k.poller), 1);
    CHECK_INT(poller_poll(&k.poller), PAC_READY);
    CHECK_INT(pac_promise_outcome(&k.promise, &value), PAC_PROMISE_KEPT);
    CHECK(value == NULL);
    kept_end(&k);
}

static void
the_second_time_is_refused_and_changes_nothing(void)
{
    struct kept k;
    void *value;
    kept_init(&k);
    CHECK_INT(pac_promise_fail(&k.promise, value_of(3), NULL), PAC_OK);
    CHECK_INT(pac_promise_fail(&k.promise, value_of(4), NULL), PAC_FULL);
    CHECK_INT(pac_promise_complete(&k.promise, value_of(5), NULL), PAC_FULL);
    CHECK_INT(pac_promise_outcome(&k.promise, &value), PAC_PROMISE_FAILED);
    CHECK(value == value_of(3));
    CHECK_INT(pac_promise_give_up(&k.promise, &value), PAC_PROMISE_FAILED);
    CHECK_INT(pac_promise_complete(&k.promise, value_of(6), NULL), PAC_FULL);
    kept_end(&k);
}

static void
given_up_before_it_is_kept(void)
{
    struct kept k;
    void *value = value_of(1);
    kept_init(&k);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(pac_promise_give_up(&k.promise, &value), PAC_PROMISE_PENDING);
    CHECK_INT(counting_live(&k.poller.count), 0);
    CHECK(pac_promise_is_over(&k.promise));
    CHECK_INT(pac_promise_complete(&k.promise, value_of(2), NULL), PAC_CLOSED);
    CHECK_INT(pac_promise_fail(&k.promise, value_of(2), NULL), PAC_CLOSED);
    CHECK_INT(pac_promise_give_up(&k.promise, &value), PAC_PROMISE_PENDING);
    CHECK(value == value_of(1));
    kept_end(&k);
    CHECK_INT(poller_wakes(&k.poller), 0);
}

static void
given_up_after_it_was_kept(void)
{
    struct kept k;
    void *value;
    kept_init(&k);
    CHECK_INT(pac_promise_complete(&k.promise, value_of(2), NULL), PAC_OK);
    CHECK_INT(pac_promise_give_up(&k.promise, &value), PAC_PROMISE_KEPT);
    CHECK(value == value_of(2));
    kept_end(&k);
}

static void
the_last_handle_breaks_it(void)
{
    struct kept k;
    void *value;
    kept_init(&k);
    pac_promise_ref(&k.promise);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK(!pac_promise_unref(&k.promise, NULL));
    CHECK_INT(poller_wakes(&k.poller), 0);
    CHECK(!pac_promise_unref(&k.promise, NULL));
    CHECK_INT(poller_wakes(&k.poller), 1);
    CHECK_INT(poller_poll(&k.poller), PAC_READY);
    CHECK_INT(pac_promise_outcome(&k.promise, &value), PAC_PROMISE_BROKEN);
    CHECK_INT(pac_promise_give_up(&k.promise, &value), PAC_PROMISE_BROKEN);
    CHECK(pac_promise_let_go(&k.promise));
    pac_promise_fini(&k.promise);
}

static void
the_newest_waker_is_woken(void)
{
    struct kept k;
    struct poller second;
    kept_init(&k);
    poller_init(&second, &k.promise.future);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(counting_live(&k.poller.count), 0);
    CHECK_INT(pac_promise_complete(&k.promise, NULL, NULL), PAC_OK);
    CHECK_INT(poller_wakes(&k.poller), 0);
    CHECK_INT(poller_wakes(&second), 1);
    kept_end(&k);
}

static void
without_budget_it_stays_ready(void)
{
    struct kept k;
    kept_init(&k);
    pac_budget_left = 0;
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(poller_wakes(&k.poller), 0);
    CHECK_INT(pac_promise_complete(&k.promise, value_of(9), NULL), PAC_OK);
    CHECK_INT(poller_wakes(&k.poller), 1);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(poller_wakes(&k.poller), 2);
    pac_budget_left = 1;
    CHECK_INT(poller_poll(&k.poller), PAC_READY);
    CHECK_INT(pac_budget_left, 0);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    kept_end(&k);
}

/* What no task stands behind is woken as it is added. */
static void
a_group_wakes_other_wakers_at_once(void)
{
    struct kept k;
    struct pac_wake_group group;
    kept_init(&k);
    pac_wake_group_init(&group);
    CHECK_INT(poller_poll(&k.poller), PAC_PENDING);
    CHECK_INT(pac_promise_complete(&k.promise, NULL, &group), PAC_OK);
    CHECK_INT(poller_wakes(&k.poller), 1);
    CHECK_INT(group.count, 0);
    kept_end(&k);
}

#ifdef PAC_DEBUG
/* There is no memory at all: nothing of this asks for any. */
static void
nothing_allocates(void)
{
    pac_alloc_fail_after(1, false);
    kept_before_the_first_poll();
    kept_while_it_is_awaited();
    given_up_before_it_is_kept();
    given_up_after_it_was_kept();
    the_last_handle_breaks_it();
    CHECK(pac_alloc(1) == NULL);
    pac_alloc_fail_after(0, false);
}
#endif

/* ---- threads -------------------------------------------------------------------------------- */

#ifdef TESTING_VALGRIND
enum { ROUNDS = 300 };
#else
enum { ROUNDS = 20000 };
#endif

/* One for each round: whoever is told that it is the last frees it. */
struct shared {
    struct pac_promise promise;
};

static PAC_ATOMIC(struct shared *) offered[2];
static PAC_ATOMIC(int) kept_count, refused_count, freed_count;

static void
shared_free(struct shared *s)
{
    pac_promise_fini(&s->promise);
    free(s);
    pac_atomic_add(&freed_count, 1, PAC_RELAXED);
}

static struct shared *
take_offer(int maker)
{
    struct shared *s;
    /* acquire: pairs with the release of the offer. */
    while ((s = pac_atomic_exchange(&offered[maker], NULL, PAC_ACQUIRE)) == NULL) {
        sched_yield();
    }
    return s;
}

/* Keeps two promises of three, and drops the handle of each. */
static void *
makes(void *arg)
{
    int maker = (int)(intptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct shared *s = take_offer(maker);
        if (i % 3 != 0) {
            int *value = malloc(sizeof *value);
            *value = i;
            if (pac_promise_complete(&s->promise, value, NULL) == PAC_OK) {
                pac_atomic_add(&kept_count, 1, PAC_RELAXED);
            }
            else {
                free(value);
                pac_atomic_add(&refused_count, 1, PAC_RELAXED);
            }
        }
        if (pac_promise_unref(&s->promise, NULL)) {
            shared_free(s);
        }
    }
    return NULL;
}

/* Awaits some, looks at some, and lets the rest go at once. Returns how many values it got. */
static int
follow(struct shared *s, int i)
{
    void *value = NULL;
    if (i % 4 < 2) {
        CHECK_INT(pac_blocking_wait(&s->promise.future, PAC_NEVER, NULL), PAC_OK);
    }
    else if (i % 4 == 2) {
        struct pac_context cx = {&pac_noop_waker};
        (void)pac_promise_poll(&s->promise, &cx);
    }
    enum pac_promise_outcome outcome = pac_promise_give_up(&s->promise, &value);
    CHECK(i % 4 >= 2 || outcome != PAC_PROMISE_PENDING);
    if (outcome == PAC_PROMISE_KEPT) {
        CHECK_INT(*(int *)value, i);
        free(value);
    }
    if (pac_promise_let_go(&s->promise)) {
        shared_free(s);
    }
    return outcome == PAC_PROMISE_KEPT;
}

static void
two_makers_against_one_that_waits_or_goes(void)
{
    pthread_t makers[2];
    int got = 0;
    alarm(WATCHDOG_S);
    for (intptr_t i = 0; i < 2; i++) {
        pthread_create(&makers[i], NULL, makes, (void *)i);
    }
    for (int i = 0; i < ROUNDS; i++) {
        struct shared *s = malloc(sizeof *s);
        pac_promise_init(&s->promise);
        pac_promise_ref(&s->promise);
        for (int maker = 0; maker < 2; maker++) {
            struct shared *none = NULL;
            /* release: the promise, to the acquire in take_offer. */
            while (!pac_atomic_cas(&offered[maker], &none, s, PAC_RELEASE, PAC_RELAXED)) {
                none = NULL;
                sched_yield();
            }
        }
        got += follow(s, i);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(makers[i], NULL);
    }
    alarm(0);
    CHECK_INT(got, pac_atomic_load(&kept_count, PAC_RELAXED));
    CHECK_INT(pac_atomic_load(&freed_count, PAC_RELAXED), ROUNDS);
    int tried = 2 * (ROUNDS - (ROUNDS + 2) / 3);
    CHECK_INT(got + pac_atomic_load(&refused_count, PAC_RELAXED), tried);
}

int
main(void)
{
    RUN(kept_before_the_first_poll);
    RUN(kept_while_it_is_awaited);
    RUN(the_second_time_is_refused_and_changes_nothing);
    RUN(given_up_before_it_is_kept);
    RUN(given_up_after_it_was_kept);
    RUN(the_last_handle_breaks_it);
    RUN(the_newest_waker_is_woken);
    RUN(without_budget_it_stays_ready);
    RUN(a_group_wakes_other_wakers_at_once);
#ifdef PAC_DEBUG
    RUN(nothing_allocates);
#endif
    RUN(two_makers_against_one_that_waits_or_goes);
    return TESTING_RESULT();
}
