/* broadcast: everyone gets everything, in order; the slow are told what they missed; each value is
 * given up once. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "broadcast.h"
#include "channel_testing.h"

#include <pthread.h>

/* A value with a count of references. */
struct counted {
    PAC_ATOMIC(int) references;
    int number;
};

static PAC_ATOMIC(int) counted_alive;

static void *
counted_new(int number)
{
    struct counted *c = malloc(sizeof *c);
    pac_atomic_init(&c->references, 1);
    c->number = number;
    pac_atomic_add(&counted_alive, 1, PAC_RELAXED);
    return c;
}

static void *
counted_clone(void *value)
{
    pac_atomic_add(&((struct counted *)value)->references, 1, PAC_RELAXED);
    return value;
}

static void
counted_destroy(void *value)
{
    if (pac_atomic_sub(&((struct counted *)value)->references, 1, PAC_ACQ_REL) == 1) {
        pac_atomic_sub(&counted_alive, 1, PAC_RELAXED);
        free(value);
    }
}

static int
alive(void)
{
    return pac_atomic_load(&counted_alive, PAC_RELAXED);
}

static void
start(struct pac_broadcast *b, size_t capacity)
{
    CHECK_INT(pac_broadcast_init(b, capacity, counted_clone, counted_destroy), PAC_OK);
}

/* How many receivers get it. */
static size_t
send(struct pac_broadcast *b, int number)
{
    size_t receivers = 0;
    CHECK_INT(pac_broadcast_send(b, counted_new(number), &receivers), PAC_OK);
    return receivers;
}

static int
number_of(void *value)
{
    int number = ((struct counted *)value)->number;
    counted_destroy(value);
    return number;
}

static void
check_try_recv(struct pac_broadcast_receiver *r, int number)
{
    void *value;
    uint64_t skipped;
    enum pac_status status = pac_broadcast_try_recv(r, &value, &skipped);
    CHECK_INT(status, PAC_OK);
    if (status == PAC_OK) {
        CHECK_INT(number_of(value), number);
    }
}

static void
check_nothing(struct pac_broadcast_receiver *r, enum pac_status status, uint64_t skipped)
{
    void *value;
    uint64_t got = 0;
    CHECK_INT(pac_broadcast_try_recv(r, &value, &got), status);
    CHECK_INT(got, skipped);
}

static void
test_everyone_gets_everything(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r[3];
    start(&b, 4);
    pac_broadcast_subscribe(&r[0], &b);
    pac_broadcast_subscribe(&r[1], &b);
    CHECK_INT(send(&b, 1), 2);
    pac_broadcast_subscribe(&r[2], &b);
    CHECK_INT(send(&b, 2), 3);
    CHECK_INT(pac_broadcast_length(&r[0]), 2);
    CHECK_INT(pac_broadcast_length(&r[2]), 1);
    check_try_recv(&r[0], 1);
    check_try_recv(&r[0], 2);
    check_nothing(&r[0], PAC_EMPTY, 0);
    check_try_recv(&r[2], 2);
    CHECK_INT(alive(), 2);
    check_try_recv(&r[1], 1);
    CHECK_INT(alive(), 1); /* all have seen the first */
    check_try_recv(&r[1], 2);
    CHECK_INT(alive(), 0);
    for (int i = 0; i < 3; i++) {
        pac_broadcast_unsubscribe(&r[i]);
    }
    pac_broadcast_fini(&b);
}

static void
test_the_slow_lag_once(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver slow, quick;
    start(&b, 2);
    pac_broadcast_subscribe(&slow, &b);
    pac_broadcast_subscribe(&quick, &b);
    for (int i = 0; i < 7; i++) {
        send(&b, i);
        check_try_recv(&quick, i);
        CHECK_INT(alive(), i < 2 ? i + 1 : 2);
    }
    CHECK_INT(pac_broadcast_length(&slow), 2);
    check_nothing(&slow, PAC_LAGGED, 5);
    check_try_recv(&slow, 5);
    send(&b, 7);
    send(&b, 8);
    check_nothing(&slow, PAC_LAGGED, 1);
    check_try_recv(&slow, 7);
    check_try_recv(&slow, 8);
    check_nothing(&slow, PAC_EMPTY, 0);
    check_try_recv(&quick, 7);
    check_try_recv(&quick, 8);
    CHECK_INT(alive(), 0);
    pac_broadcast_unsubscribe(&slow);
    pac_broadcast_unsubscribe(&quick);
    pac_broadcast_fini(&b);
}

static void
test_what_only_the_leaver_wanted_goes_with_it(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver a, c;
    start(&b, 8);
    pac_broadcast_subscribe(&a, &b);
    send(&b, 1);
    send(&b, 2);
    pac_broadcast_subscribe(&c, &b);
    send(&b, 3);
    CHECK_INT(alive(), 3);
    pac_broadcast_unsubscribe(&a);
    pac_broadcast_unsubscribe(&a);
    CHECK_INT(alive(), 1);
    check_try_recv(&c, 3);
    check_nothing(&a, PAC_CLOSED, 0);
    CHECK(!pac_broadcast_is_closed(&b));
    pac_broadcast_unsubscribe(&c);
    CHECK(pac_broadcast_is_closed(&b));
    pac_broadcast_fini(&b);
    CHECK_INT(alive(), 0);
}

static void
test_a_lagging_receiver_leaves(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    start(&b, 2);
    pac_broadcast_subscribe(&r, &b);
    for (int i = 0; i < 5; i++) {
        send(&b, i);
    }
    pac_broadcast_unsubscribe(&r);
    CHECK_INT(alive(), 0);
    pac_broadcast_fini(&b);
}

static void
test_cleared(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    start(&b, 4);
    pac_broadcast_subscribe(&r, &b);
    send(&b, 1);
    send(&b, 2);
    pac_broadcast_clear(&b);
    CHECK_INT(alive(), 0);
    check_nothing(&r, PAC_LAGGED, 2);
    send(&b, 3);
    check_try_recv(&r, 3);
    pac_broadcast_unsubscribe(&r);
    pac_broadcast_fini(&b);
}

static void
test_sending_to_nobody(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    size_t receivers;
    void *value = counted_new(1);
    start(&b, 2);
    CHECK(pac_broadcast_is_closed(&b));
    CHECK_INT(pac_broadcast_send(&b, value, &receivers), PAC_CLOSED);
    counted_destroy(value);
    pac_broadcast_subscribe(&r, &b);
    CHECK_INT(send(&b, 2), 1);
    pac_broadcast_unsubscribe(&r);
    pac_broadcast_fini(&b);
    CHECK_INT(alive(), 0);
}

static void
test_waiting(void)
{
    enum { MANY = 40 };
    struct pac_broadcast b;
    struct pac_broadcast_receiver r[MANY];
    struct pac_broadcast_recv recv[MANY];
    struct poller p[MANY];
    start(&b, 4);
    for (int i = 0; i < MANY; i++) {
        pac_broadcast_subscribe(&r[i], &b);
        pac_broadcast_recv_init(&recv[i], &r[i]);
        poller_init(&p[i], &recv[i].future);
        CHECK_INT(poller_poll(&p[i]), PAC_PENDING);
    }
    poller_drop(&p[5]);
    send(&b, 1);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(poller_wakes(&p[i]), i != 5);
        CHECK_INT(poller_poll(&p[i]), PAC_READY); /* a dropped one may begin again */
        CHECK_INT(recv[i].status, PAC_OK);
        CHECK_INT(number_of(recv[i].value), 1);
        poller_drop(&p[i]);
    }
    pac_broadcast_recv_init(&recv[0], &r[0]);
    poller_init(&p[0], &recv[0].future);
    CHECK_INT(poller_poll(&p[0]), PAC_PENDING);
    pac_broadcast_add_sender(&b);
    pac_broadcast_drop_sender(&b);
    CHECK_INT(poller_wakes(&p[0]), 0);
    send(&b, 2);
    pac_broadcast_drop_sender(&b);
    CHECK_INT(poller_poll(&p[0]), PAC_READY); /* what was sent comes first */
    CHECK_INT(number_of(recv[0].value), 2);
    CHECK_INT(poller_poll(&p[0]), PAC_READY);
    CHECK_INT(recv[0].status, PAC_CLOSED);
    poller_drop(&p[0]);
    for (int i = 0; i < MANY; i++) {
        pac_broadcast_unsubscribe(&r[i]);
    }
    pac_broadcast_fini(&b);
    CHECK_INT(alive(), 0);
}

static void
test_the_last_sender_and_an_own_end_wake(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver a, c;
    struct pac_broadcast_recv recv[2];
    struct pac_flag_wait closed;
    struct poller p[2], waits;
    start(&b, 4);
    pac_broadcast_subscribe(&a, &b);
    pac_broadcast_subscribe(&c, &b);
    pac_broadcast_recv_init(&recv[0], &a);
    pac_broadcast_recv_init(&recv[1], &c);
    pac_broadcast_closed_init(&closed, &b);
    poller_init(&waits, &closed.future);
    for (int i = 0; i < 2; i++) {
        poller_init(&p[i], &recv[i].future);
        CHECK_INT(poller_poll(&p[i]), PAC_PENDING);
    }
    CHECK_INT(poller_poll(&waits), PAC_PENDING);
    pac_broadcast_unsubscribe(&a);
    CHECK_INT(poller_poll(&p[0]), PAC_READY);
    CHECK_INT(recv[0].status, PAC_CLOSED);
    CHECK_INT(poller_poll(&p[1]), PAC_PENDING);
    CHECK_INT(poller_wakes(&waits), 0);
    pac_broadcast_drop_sender(&b);
    CHECK(poller_wakes(&p[1]) >= 1);
    CHECK_INT(poller_poll(&p[1]), PAC_READY);
    CHECK_INT(recv[1].status, PAC_CLOSED);
    pac_broadcast_unsubscribe(&c);
    CHECK_INT(poller_wakes(&waits), 1);
    CHECK_INT(poller_poll(&waits), PAC_READY);
    poller_drop(&p[0]);
    poller_drop(&p[1]);
    poller_drop(&waits);
    pac_broadcast_fini(&b);
}

static void
test_without_budget_nothing_is_taken(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    struct pac_broadcast_recv recv;
    struct poller p;
    start(&b, 4);
    pac_broadcast_subscribe(&r, &b);
    send(&b, 1);
    pac_broadcast_recv_init(&recv, &r);
    poller_init(&p, &recv.future);
    pac_budget_left = 0;
    CHECK_INT(poller_poll(&p), PAC_PENDING);
    CHECK_INT(poller_wakes(&p), 1);
    CHECK_INT(pac_broadcast_length(&r), 1);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    CHECK_INT(poller_poll(&p), PAC_READY);
    CHECK_INT(number_of(recv.value), 1);
    poller_drop(&p);
    pac_broadcast_unsubscribe(&r);
    pac_broadcast_fini(&b);
}

#ifdef PAC_DEBUG
static bool
send_three(void)
{
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    int sent = 0;
    if (pac_broadcast_init(&b, 2, counted_clone, counted_destroy) != PAC_OK) {
        pac_broadcast_fini(&b);
        return false;
    }
    pac_broadcast_subscribe(&r, &b);
    for (int i = 0; i < 3; i++) {
        size_t receivers;
        void *value = counted_new(i);
        enum pac_status status = pac_broadcast_send(&b, value, &receivers);
        CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
        if (status == PAC_OK) {
            sent++;
        }
        else {
            counted_destroy(value);
        }
        CHECK_INT(pac_broadcast_length(&r), sent < 2 ? sent : 2);
    }
    pac_broadcast_unsubscribe(&r);
    pac_broadcast_fini(&b);
    return sent == 3;
}
#endif

static void
test_no_memory(void)
{
#ifdef PAC_DEBUG
    struct pac_broadcast b;
    struct pac_broadcast_receiver r;
    size_t receivers;
    void *value = counted_new(1);
    start(&b, 2);
    pac_broadcast_subscribe(&r, &b);
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_broadcast_send(&b, value, &receivers), PAC_NO_MEMORY);
    check_nothing(&r, PAC_EMPTY, 0);
    CHECK_INT(pac_broadcast_send(&b, value, &receivers), PAC_OK);
    check_try_recv(&r, 1);
    pac_broadcast_unsubscribe(&r);
    pac_broadcast_fini(&b);
    check_without_memory(send_three, 3);
#endif
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { SENDERS = 2, LISTENERS = 3, SENT = 4000 };

struct station {
    struct pac_broadcast b;
    struct pac_broadcast_receiver receivers[LISTENERS];
    PAC_ATOMIC(int) next;
};

static void *
speaks(void *arg)
{
    struct station *s = arg;
    for (int i = 0; i < SENT; i++) {
        size_t receivers;
        void *value = counted_new(i);
        if (pac_broadcast_send(&s->b, value, &receivers) != PAC_OK) {
            counted_destroy(value);
        }
    }
    pac_broadcast_drop_sender(&s->b);
    return NULL;
}

static void *
listens(void *arg)
{
    struct station *s = arg;
    int self = pac_atomic_add(&s->next, 1, PAC_RELAXED);
    struct pac_broadcast_receiver *r = &s->receivers[self];
    uint64_t heard = 0;
    for (;;) {
        struct pac_broadcast_recv recv;
        pac_broadcast_recv_init(&recv, r);
        CHECK_INT(pac_blocking_wait(&recv.future, PAC_NEVER, NULL), PAC_OK);
        pac_broadcast_recv_drop(&recv);
        if (recv.status == PAC_CLOSED) {
            break;
        }
        if (recv.status == PAC_OK) {
            (void)number_of(recv.value);
        }
        heard += recv.status == PAC_OK ? 1 : recv.skipped;
        if (self == 0 && heard > SENT / 2) {
            break;
        }
    }
    CHECK(self == 0 || heard == (uint64_t)SENDERS * SENT);
    pac_broadcast_unsubscribe(r);
    return NULL;
}

static void
test_speakers_and_listeners(void)
{
    static struct station s;
    pthread_t threads[SENDERS + LISTENERS];
    start(&s.b, 16);
    pac_broadcast_add_sender(&s.b);
    pac_atomic_init(&s.next, 0);
    alarm(WATCHDOG_S);
    for (int i = 0; i < LISTENERS; i++) {
        pac_broadcast_subscribe(&s.receivers[i], &s.b);
    }
    for (int i = 0; i < SENDERS + LISTENERS; i++) {
        pthread_create(&threads[i], NULL, i < SENDERS ? speaks : listens, &s);
    }
    for (int i = 0; i < SENDERS + LISTENERS; i++) {
        pthread_join(threads[i], NULL);
    }
    alarm(0);
    pac_broadcast_fini(&s.b);
    CHECK_INT(alive(), 0);
}

int
main(void)
{
    RUN(test_everyone_gets_everything);
    RUN(test_the_slow_lag_once);
    RUN(test_what_only_the_leaver_wanted_goes_with_it);
    RUN(test_a_lagging_receiver_leaves);
    RUN(test_cleared);
    RUN(test_sending_to_nobody);
    RUN(test_waiting);
    RUN(test_the_last_sender_and_an_own_end_wake);
    RUN(test_without_budget_nothing_is_taken);
    RUN(test_no_memory);
    RUN(test_speakers_and_listeners);
    return TESTING_RESULT();
}
