/* oneshot: the one value arrives, or that none will; nothing is lost or freed twice. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "channel_testing.h"
#include "oneshot.h"

#include <pthread.h>

struct receiver {
    struct pac_oneshot_recv recv;
    struct poller poller;
};

static void
receiver_init(struct receiver *r, struct pac_oneshot *o)
{
    pac_oneshot_recv_init(&r->recv, o);
    poller_init(&r->poller, &r->recv.future);
}

static void
test_send_then_receive(void)
{
    struct pac_oneshot o;
    struct receiver r;
    pac_oneshot_init(&o, destroy_value);
    receiver_init(&r, &o);
    CHECK_INT(pac_oneshot_send(&o, value_of(7)), PAC_OK);
    CHECK_INT(pac_oneshot_send(&o, value_of(8)), PAC_FULL);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.recv.status, PAC_OK);
    CHECK(r.recv.value == value_of(7));
    CHECK_INT(counting_clones(&r.poller.count), 0);
    CHECK(pac_oneshot_is_closed(&o));
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
    CHECK_INT(destroyed_count, 0);
}

static void
test_receive_then_send(void)
{
    struct pac_oneshot o;
    struct receiver r;
    pac_oneshot_init(&o, destroy_value);
    receiver_init(&r, &o);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(counting_clones(&r.poller.count), 1);
    CHECK_INT(pac_oneshot_send(&o, NULL), PAC_OK);
    CHECK_INT(poller_wakes(&r.poller), 1);
    pac_oneshot_drop_sender(&o);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK(r.recv.status == PAC_OK && r.recv.value == NULL);
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
}

static void
test_the_sender_goes(void)
{
    struct pac_oneshot o;
    struct receiver r;
    void *value;
    pac_oneshot_init(&o, destroy_value);
    receiver_init(&r, &o);
    CHECK_INT(pac_oneshot_try_recv(&o, &value), PAC_EMPTY);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    pac_oneshot_drop_sender(&o);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.recv.status, PAC_CLOSED);
    CHECK_INT(pac_oneshot_try_recv(&o, &value), PAC_CLOSED);
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
}

static void
test_the_receiver_closes(void)
{
    struct pac_oneshot o;
    struct pac_flag_wait closed;
    struct poller waits;
    struct receiver r;
    pac_oneshot_init(&o, destroy_value);
    pac_oneshot_closed_init(&closed, &o);
    poller_init(&waits, &closed.future);
    receiver_init(&r, &o);
    CHECK_INT(poller_poll(&waits), PAC_PENDING);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK(!pac_oneshot_is_closed(&o));
    pac_oneshot_close(&o);
    CHECK_INT(poller_wakes(&waits), 1);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(poller_poll(&waits), PAC_READY);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.recv.status, PAC_CLOSED);
    CHECK_INT(pac_oneshot_send(&o, value_of(1)), PAC_CLOSED);
    poller_drop(&waits);
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
    CHECK_INT(destroyed_count, 0);
}

static void
test_a_sent_value_survives_close(void)
{
    struct pac_oneshot o;
    void *value = NULL;
    pac_oneshot_init(&o, destroy_value);
    CHECK_INT(pac_oneshot_send(&o, value_of(3)), PAC_OK);
    pac_oneshot_close(&o);
    CHECK_INT(pac_oneshot_try_recv(&o, &value), PAC_OK);
    CHECK(value == value_of(3));
    CHECK_INT(pac_oneshot_try_recv(&o, &value), PAC_CLOSED);
    pac_oneshot_fini(&o);
}

static void
test_what_is_left_over_is_destroyed_once(void)
{
    struct pac_oneshot o;
    pac_oneshot_init(&o, destroy_value);
    destroyed_count = 0;
    CHECK_INT(pac_oneshot_send(&o, value_of(5)), PAC_OK);
    pac_oneshot_drop_sender(&o);
    pac_oneshot_drop_receiver(&o);
    CHECK_INT(destroyed_count, 1);
    CHECK_INT(destroyed[0], 5);
    pac_oneshot_fini(&o);
    CHECK_INT(destroyed_count, 1);
    destroyed_count = 0;
}

static void
test_a_dropped_wait_may_begin_again(void)
{
    struct pac_oneshot o;
    struct receiver r;
    pac_oneshot_init(&o, NULL);
    receiver_init(&r, &o);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    poller_drop(&r.poller);
    poller_drop(&r.poller);
    CHECK_INT(pac_oneshot_send(&o, value_of(2)), PAC_OK);
    CHECK_INT(poller_wakes(&r.poller), 0);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK(r.recv.value == value_of(2));
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
}

static void
test_the_newest_waker_is_woken(void)
{
    struct pac_oneshot o;
    struct receiver r;
    struct poller second;
    pac_oneshot_init(&o, NULL);
    receiver_init(&r, &o);
    poller_init(&second, &r.recv.future);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(counting_live(&r.poller.count), 0);
    pac_oneshot_drop_sender(&o);
    CHECK_INT(poller_wakes(&r.poller), 0);
    CHECK_INT(poller_wakes(&second), 1);
    poller_drop(&second);
    pac_oneshot_fini(&o);
}

static void
test_without_budget_it_stays_ready(void)
{
    struct pac_oneshot o;
    struct receiver r;
    pac_oneshot_init(&o, NULL);
    receiver_init(&r, &o);
    CHECK_INT(pac_oneshot_send(&o, value_of(9)), PAC_OK);
    pac_budget_left = 0;
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(poller_wakes(&r.poller), 1);
    pac_budget_left = 1;
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(pac_budget_left, 0);
    CHECK(r.recv.value == value_of(9));
    poller_drop(&r.poller);
    receiver_init(&r, &o);
    pac_budget_left = 1;
    pac_oneshot_init(&o, NULL);
    CHECK_INT(poller_poll(&r.poller), PAC_PENDING);
    CHECK_INT(pac_budget_left, 1); /* what did not complete cost nothing */
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    poller_drop(&r.poller);
    pac_oneshot_fini(&o);
}

static void
test_more_waits_for_closing_than_a_batch(void)
{
    enum { MANY = 70 };
    struct pac_oneshot o;
    struct pac_flag_wait closed[MANY];
    struct poller waits[MANY];
    pac_oneshot_init(&o, NULL);
    for (int i = 0; i < MANY; i++) {
        pac_oneshot_closed_init(&closed[i], &o);
        poller_init(&waits[i], &closed[i].future);
        CHECK_INT(poller_poll(&waits[i]), PAC_PENDING);
    }
    poller_drop(&waits[3]);
    pac_oneshot_close(&o);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(poller_wakes(&waits[i]), i != 3);
        CHECK_INT(poller_poll(&waits[i]), PAC_READY);
        poller_drop(&waits[i]);
    }
    pac_oneshot_fini(&o);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { ROUNDS = 3000 };

struct round {
    struct pac_oneshot channels[ROUNDS];
};
static struct round rounds;

static void *
sends(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        if (i % 3 != 0) {
            enum pac_status status = pac_oneshot_send(&rounds.channels[i], value_of(i));
            CHECK(status == PAC_OK || (i % 3 == 2 && status == PAC_CLOSED));
        }
        pac_oneshot_drop_sender(&rounds.channels[i]);
    }
    return NULL;
}

static void
test_a_thread_sends_and_another_waits(void)
{
    pthread_t thread;
    destroyed_count = 0;
    for (int i = 0; i < ROUNDS; i++) {
        pac_oneshot_init(&rounds.channels[i], destroy_value);
    }
    alarm(WATCHDOG_S);
    pthread_create(&thread, NULL, sends, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        struct pac_oneshot_recv recv;
        pac_oneshot_recv_init(&recv, &rounds.channels[i]);
        if (i % 3 == 2) {
            pac_oneshot_drop_receiver(&rounds.channels[i]);
        }
        CHECK_INT(pac_blocking_wait(&recv.future, PAC_NEVER, NULL), PAC_OK);
        CHECK_INT(recv.status, i % 3 == 1 ? PAC_OK : PAC_CLOSED);
        CHECK(recv.status != PAC_OK || recv.value == value_of(i));
        pac_oneshot_recv_drop(&recv);
    }
    pthread_join(thread, NULL);
    alarm(0);
    for (int i = 0; i < ROUNDS; i++) {
        pac_oneshot_fini(&rounds.channels[i]);
    }
}

int
main(void)
{
    RUN(test_send_then_receive);
    RUN(test_receive_then_send);
    RUN(test_the_sender_goes);
    RUN(test_the_receiver_closes);
    RUN(test_a_sent_value_survives_close);
    RUN(test_what_is_left_over_is_destroyed_once);
    RUN(test_a_dropped_wait_may_begin_again);
    RUN(test_the_newest_waker_is_woken);
    RUN(test_without_budget_it_stays_ready);
    RUN(test_more_waits_for_closing_than_a_batch);
    RUN(test_a_thread_sends_and_another_waits);
    return TESTING_RESULT();
}
