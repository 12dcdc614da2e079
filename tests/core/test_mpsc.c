/* mpsc: order, room, lines of waiters on both sides, closing, and nothing lost or sent twice. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "blocking.h"
#include "channel_testing.h"
#include "mpsc.h"

#include <pthread.h>

struct sender {
    struct pac_mpsc_send send;
    struct poller poller;
};

struct receiver {
    struct pac_mpsc_recv recv;
    struct poller poller;
    void *values[64];
};

static enum pac_poll
send_begin(struct sender *s, struct pac_mpsc *m, int value)
{
    pac_mpsc_send_init(&s->send, m, value_of(value));
    poller_init(&s->poller, &s->send.future);
    return poller_poll(&s->poller);
}

static enum pac_poll
recv_begin(struct receiver *r, struct pac_mpsc *m, size_t limit)
{
    pac_mpsc_recv_init(&r->recv, m, r->values, limit);
    poller_init(&r->poller, &r->recv.future);
    return poller_poll(&r->poller);
}

/* READY with this one value. */
static void
check_received(struct receiver *r, int value)
{
    CHECK_INT(poller_poll(&r->poller), PAC_READY);
    CHECK_INT(r->recv.status, PAC_OK);
    CHECK_INT(r->recv.count, 1);
    CHECK(r->values[0] == value_of(value));
    poller_drop(&r->poller);
}

static void
check_try_recv(struct pac_mpsc *m, int value)
{
    void *got = NULL;
    CHECK_INT(pac_mpsc_try_recv(m, &got), PAC_OK);
    CHECK(got == value_of(value));
}

static void
check_no_value(struct pac_mpsc *m, enum pac_status status)
{
    void *got;
    CHECK_INT(pac_mpsc_try_recv(m, &got), status);
}

/* ---- one side waits ------------------------------------------------------------------------- */

static void
test_first_in_first_out(void)
{
    struct pac_mpsc m;
    pac_mpsc_init(&m, 3, destroy_value);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++) {
            CHECK_INT(pac_mpsc_try_send(&m, value_of(i)), PAC_OK);
        }
        CHECK_INT(pac_mpsc_try_send(&m, value_of(9)), PAC_FULL);
        for (int i = 0; i < 3; i++) {
            check_try_recv(&m, i);
        }
        check_no_value(&m, PAC_EMPTY);
    }
    pac_mpsc_fini(&m);
    CHECK_INT(destroyed_count, 0);
}

static void
test_senders_are_let_in_in_order(void)
{
    struct pac_mpsc m;
    struct sender s[4];
    pac_mpsc_init(&m, 1, NULL);
    CHECK_INT(send_begin(&s[0], &m, 0), PAC_READY);
    CHECK_INT(counting_clones(&s[0].poller.count), 0);
    for (int i = 1; i < 4; i++) {
        CHECK_INT(send_begin(&s[i], &m, i), PAC_PENDING);
    }
    CHECK_INT(pac_mpsc_try_send(&m, value_of(9)), PAC_FULL);
    for (int i = 0; i < 4; i++) {
        check_try_recv(&m, i);
        if (i < 3) {
            CHECK_INT(poller_wakes(&s[i + 1].poller), 1);
            CHECK(pac_mpsc_send_was_sent(&s[i + 1].send));
            CHECK_INT(poller_poll(&s[i + 1].poller), PAC_READY);
            CHECK_INT(s[i + 1].send.status, PAC_OK);
        }
    }
    for (int i = 0; i < 4; i++) {
        poller_drop(&s[i].poller);
    }
    pac_mpsc_fini(&m);
}

static void
test_a_dropped_send_keeps_its_value(void)
{
    struct pac_mpsc m;
    struct sender a, b, c;
    pac_mpsc_init(&m, 1, NULL);
    CHECK_INT(send_begin(&a, &m, 1), PAC_READY);
    CHECK_INT(send_begin(&b, &m, 2), PAC_PENDING);
    CHECK_INT(send_begin(&c, &m, 3), PAC_PENDING);
    poller_drop(&b.poller);
    CHECK(!pac_mpsc_send_was_sent(&b.send));
    check_try_recv(&m, 1);
    check_try_recv(&m, 3);
    check_no_value(&m, PAC_EMPTY);
    CHECK_INT(poller_poll(&c.poller), PAC_READY);
    /* It may go on, and sends once. */
    CHECK_INT(poller_poll(&b.poller), PAC_READY);
    check_try_recv(&m, 2);
    check_no_value(&m, PAC_EMPTY);
    poller_drop(&a.poller);
    poller_drop(&b.poller);
    poller_drop(&c.poller);
    pac_mpsc_fini(&m);
}

static void
test_a_send_dropped_after_it_was_let_in_has_sent(void)
{
    struct pac_mpsc m;
    struct sender a;
    pac_mpsc_init(&m, 1, NULL);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK_INT(send_begin(&a, &m, 2), PAC_PENDING);
    check_try_recv(&m, 1);
    poller_drop(&a.poller);
    CHECK(pac_mpsc_send_was_sent(&a.send));
    CHECK_INT(poller_poll(&a.poller), PAC_READY); /* and does not send again */
    check_try_recv(&m, 2);
    check_no_value(&m, PAC_EMPTY);
    poller_drop(&a.poller);
    pac_mpsc_fini(&m);
}

static void
test_receivers_are_served_in_order(void)
{
    struct pac_mpsc m;
    struct receiver a, b, late;
    pac_mpsc_init(&m, 4, NULL);
    CHECK_INT(recv_begin(&a, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&b, &m, 1), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK_INT(poller_wakes(&a.poller), 1);
    CHECK_INT(poller_wakes(&b.poller), 0);
    /* The value is meant for the one that was woken. */
    CHECK_INT(recv_begin(&late, &m, 1), PAC_PENDING);
    CHECK_INT(poller_poll(&b.poller), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(2)), PAC_OK);
    CHECK_INT(poller_wakes(&b.poller), 1);
    check_received(&a, 1);
    check_received(&b, 2);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(3)), PAC_OK);
    check_received(&late, 3);
    pac_mpsc_fini(&m);
}

/* A receive that makes room lets a sender's value in: that is news to the next receiver. */
static void
test_a_value_that_is_let_in_wakes_the_next_receiver(void)
{
    struct pac_mpsc m;
    struct receiver a, b, c;
    struct sender waiting, last;
    pac_mpsc_init(&m, 1, NULL);
    CHECK_INT(recv_begin(&a, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&b, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&c, &m, 2), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK_INT(send_begin(&waiting, &m, 2), PAC_PENDING);
    CHECK_INT(send_begin(&last, &m, 3), PAC_PENDING);
    CHECK_INT(poller_wakes(&b.poller), 0);
    check_received(&a, 1);
    CHECK_INT(poller_wakes(&b.poller), 1);
    CHECK_INT(poller_wakes(&c.poller), 0);
    check_received(&b, 2);
    CHECK_INT(poller_wakes(&c.poller), 1);
    check_received(&c, 3);
    CHECK_INT(poller_poll(&waiting.poller), PAC_READY);
    CHECK_INT(poller_poll(&last.poller), PAC_READY);
    poller_drop(&waiting.poller);
    poller_drop(&last.poller);
    pac_mpsc_fini(&m);
}

static void
test_a_dropped_receiver_passes_its_wake_on(void)
{
    struct pac_mpsc m;
    struct receiver a, b;
    pac_mpsc_init(&m, 4, NULL);
    CHECK_INT(recv_begin(&a, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&b, &m, 1), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    poller_drop(&a.poller);
    CHECK_INT(poller_wakes(&b.poller), 1);
    check_received(&b, 1);
    CHECK_INT(m.woken_count, 0);
    pac_mpsc_fini(&m);
}

static void
test_a_robbed_receiver_is_first_again(void)
{
    struct pac_mpsc m;
    struct receiver a, b;
    pac_mpsc_init(&m, 4, NULL);
    CHECK_INT(recv_begin(&a, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&b, &m, 1), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    check_try_recv(&m, 1);
    CHECK_INT(poller_poll(&a.poller), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(2)), PAC_OK);
    CHECK_INT(poller_wakes(&a.poller), 2);
    CHECK_INT(poller_wakes(&b.poller), 0);
    check_received(&a, 2);
    poller_drop(&b.poller);
    pac_mpsc_fini(&m);
}

static void
test_the_newest_waker_is_woken(void)
{
    struct pac_mpsc m;
    struct receiver r;
    struct sender s;
    struct poller second;
    pac_mpsc_init(&m, 1, NULL);
    CHECK_INT(recv_begin(&r, &m, 1), PAC_PENDING);
    poller_init(&second, &r.recv.future);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK_INT(poller_wakes(&r.poller), 0);
    CHECK_INT(poller_wakes(&second), 1);
    poller_drop(&second);
    CHECK_INT(send_begin(&s, &m, 2), PAC_PENDING);
    poller_init(&second, &s.send.future);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(poller_poll(&second), PAC_PENDING);
    CHECK_INT(counting_clones(&second.count), 1);
    check_try_recv(&m, 1);
    CHECK_INT(poller_wakes(&s.poller), 0);
    CHECK_INT(poller_wakes(&second), 1);
    poller_drop(&second);
    pac_mpsc_fini(&m);
}

/* ---- many at once --------------------------------------------------------------------------- */

static void
test_many_at_once(void)
{
    struct pac_mpsc m;
    struct receiver r, waits;
    struct sender s[50];
    pac_mpsc_init(&m, 4, NULL);
    for (int i = 0; i < 50; i++) {
        CHECK_INT(send_begin(&s[i], &m, i), i < 4 ? PAC_READY : PAC_PENDING);
    }
    CHECK_INT(recv_begin(&r, &m, 3), PAC_READY);
    CHECK_INT(r.recv.count, 3);
    /* More senders than a batch of wakes holds. */
    CHECK_INT(recv_begin(&r, &m, 64), PAC_READY);
    CHECK_INT(r.recv.count, 47);
    for (int i = 0; i < 47; i++) {
        CHECK(r.values[i] == value_of(i + 3));
    }
    for (int i = 0; i < 50; i++) {
        CHECK_INT(poller_wakes(&s[i].poller), i >= 4);
        poller_drop(&s[i].poller);
    }
    /* It leaves what others were woken for. */
    CHECK_INT(recv_begin(&waits, &m, 1), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(2)), PAC_OK);
    CHECK_INT(recv_begin(&r, &m, 64), PAC_READY);
    CHECK_INT(r.recv.count, 1);
    check_received(&waits, 2);
    pac_mpsc_fini(&m);
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
test_the_senders_go(void)
{
    struct pac_mpsc m;
    struct receiver a, b, c;
    pac_mpsc_init(&m, 4, NULL);
    pac_mpsc_add_sender(&m);
    CHECK_INT(recv_begin(&a, &m, 1), PAC_PENDING);
    CHECK_INT(recv_begin(&b, &m, 1), PAC_PENDING);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    pac_mpsc_drop_sender(&m);
    pac_mpsc_drop_sender(&m);
    CHECK_INT(poller_wakes(&b.poller), 0); /* there may still be a value for it */
    CHECK_INT(poller_poll(&b.poller), PAC_PENDING);
    check_received(&a, 1);
    CHECK_INT(poller_wakes(&b.poller), 1);
    CHECK_INT(poller_poll(&b.poller), PAC_READY);
    CHECK_INT(b.recv.status, PAC_CLOSED);
    CHECK_INT(b.recv.count, 0);
    CHECK_INT(recv_begin(&c, &m, 1), PAC_READY);
    CHECK_INT(c.recv.status, PAC_CLOSED);
    check_no_value(&m, PAC_CLOSED);
    poller_drop(&b.poller);
    pac_mpsc_fini(&m);
}

static void
test_the_receiver_closes(void)
{
    struct pac_mpsc m;
    struct sender s[40];
    struct receiver r;
    struct pac_flag_wait closed;
    struct poller waits;
    pac_mpsc_init(&m, 2, destroy_value);
    pac_mpsc_closed_init(&closed, &m);
    poller_init(&waits, &closed.future);
    CHECK_INT(poller_poll(&waits), PAC_PENDING);
    for (int i = 0; i < 40; i++) {
        send_begin(&s[i], &m, i);
    }
    pac_mpsc_close(&m);
    CHECK(pac_mpsc_is_closed(&m));
    CHECK_INT(poller_wakes(&waits), 1);
    CHECK_INT(poller_poll(&waits), PAC_READY);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(9)), PAC_CLOSED);
    check_try_recv(&m, 0);
    check_try_recv(&m, 1); /* no waiting sender was let in after the close */
    CHECK_INT(recv_begin(&r, &m, 1), PAC_READY);
    CHECK_INT(r.recv.status, PAC_CLOSED);
    for (int i = 0; i < 40; i++) {
        CHECK_INT(poller_wakes(&s[i].poller), i >= 2);
        if (i >= 2) {
            CHECK_INT(poller_poll(&s[i].poller), PAC_READY);
            CHECK_INT(s[i].send.status, PAC_CLOSED);
            CHECK(!pac_mpsc_send_was_sent(&s[i].send));
        }
        poller_drop(&s[i].poller);
    }
    poller_drop(&waits);
    pac_mpsc_fini(&m);
    CHECK_INT(destroyed_count, 0);
}

static void
test_what_is_left_over_is_destroyed(void)
{
    struct pac_mpsc m;
    struct receiver r;
    destroyed_count = 0;
    pac_mpsc_init(&m, PAC_MPSC_UNBOUNDED, destroy_value);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(pac_mpsc_try_send(&m, value_of(i)), PAC_OK);
    }
    CHECK_INT(recv_begin(&r, &m, 10), PAC_READY);
    pac_mpsc_drop_receiver(&m);
    CHECK_INT(destroyed_count, 90);
    CHECK_INT(destroyed[0], 10);
    pac_mpsc_fini(&m);
    CHECK_INT(destroyed_count, 90);
    destroyed_count = 0;
}

static void
test_a_pending_receiver_learns_of_its_own_close(void)
{
    struct pac_mpsc m;
    struct receiver r;
    pac_mpsc_init(&m, 2, NULL);
    CHECK_INT(recv_begin(&r, &m, 1), PAC_PENDING);
    pac_mpsc_close(&m);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(poller_poll(&r.poller), PAC_READY);
    CHECK_INT(r.recv.status, PAC_CLOSED);
    poller_drop(&r.poller);
    pac_mpsc_fini(&m);
}

/* ---- memory, budget ------------------------------------------------------------------------- */

static void
test_the_memory_of_a_burst_is_given_back(void)
{
    enum { BURST = 100000 };
    struct pac_mpsc m;
    pac_mpsc_init(&m, PAC_MPSC_UNBOUNDED, NULL);
    for (int i = 0; i < BURST; i++) {
        CHECK_INT(pac_mpsc_try_send(&m, value_of(i)), PAC_OK);
    }
    CHECK(m.size >= BURST);
    for (int i = 0; i < BURST; i++) {
        check_try_recv(&m, i);
    }
    CHECK(m.size <= 2048);
    pac_mpsc_fini(&m);
}

static void
test_a_huge_capacity_costs_nothing(void)
{
    struct pac_mpsc m;
    pac_mpsc_init(&m, SIZE_MAX / 2, NULL);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_OK);
    CHECK(m.size <= 64);
    pac_mpsc_fini(&m);
}

#ifdef PAC_DEBUG
/* The ring grows and shrinks again. */
static bool
send_a_burst(void)
{
    struct pac_mpsc m;
    int sent = 0, received = 0;
    void *value;
    pac_mpsc_init(&m, PAC_MPSC_UNBOUNDED, NULL);
    for (int i = 0; i < 3000; i++) {
        enum pac_status status = pac_mpsc_try_send(&m, value_of(sent));
        CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
        sent += status == PAC_OK;
    }
    size_t size = m.size;
    while (pac_mpsc_try_recv(&m, &value) == PAC_OK) {
        CHECK(value == value_of(received++));
    }
    CHECK_INT(received, sent);
    bool complete = sent == 3000 && m.size < size;
    pac_mpsc_fini(&m);
    return complete;
}
#endif

static void
test_no_memory(void)
{
#ifdef PAC_DEBUG
    struct pac_mpsc m;
    struct sender s;
    pac_mpsc_init(&m, PAC_MPSC_UNBOUNDED, NULL);
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1)), PAC_NO_MEMORY);
    pac_alloc_fail_after(1, true);
    CHECK_INT(send_begin(&s, &m, 1), PAC_READY);
    CHECK_INT(s.send.status, PAC_NO_MEMORY);
    CHECK(!pac_mpsc_send_was_sent(&s.send));
    for (int i = 0; i < 5000; i++) {
        CHECK_INT(pac_mpsc_try_send(&m, value_of(i)), PAC_OK);
    }
    pac_alloc_fail_after(1, false); /* it cannot shrink, and goes on */
    for (int i = 0; i < 5000; i++) {
        check_try_recv(&m, i);
    }
    pac_alloc_fail_after(0, false);
    poller_drop(&s.poller);
    pac_mpsc_fini(&m);
    check_without_memory(send_a_burst, 8);
#endif
}

static void
test_without_budget_nothing_is_done(void)
{
    struct pac_mpsc m;
    struct sender s;
    struct receiver r;
    pac_mpsc_init(&m, 1, NULL);
    pac_budget_left = 0;
    CHECK_INT(send_begin(&s, &m, 1), PAC_PENDING);
    CHECK_INT(poller_wakes(&s.poller), 1);
    CHECK_INT(pac_mpsc_length(&m), 0);
    pac_budget_left = 1;
    CHECK_INT(poller_poll(&s.poller), PAC_READY);
    CHECK_INT(pac_budget_left, 0);
    CHECK_INT(recv_begin(&r, &m, 1), PAC_PENDING);
    CHECK_INT(poller_wakes(&r.poller), 1);
    CHECK_INT(pac_mpsc_length(&m), 1);
    pac_budget_left = 2;
    check_received(&r, 1);
    CHECK_INT(pac_budget_left, 1);
    CHECK_INT(recv_begin(&r, &m, 1), PAC_PENDING);
    CHECK_INT(pac_budget_left, 1);
    poller_drop(&r.poller);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(2)), PAC_OK);
    poller_drop(&s.poller);
    CHECK_INT(send_begin(&s, &m, 3), PAC_PENDING);
    CHECK_INT(pac_budget_left, 1); /* what did not complete cost nothing */
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    poller_drop(&s.poller);
    pac_mpsc_fini(&m);
}

static int
sum_values(void *value, void *arg)
{
    *(intptr_t *)arg += (intptr_t)value;
    return value == value_of(1000);
}

static void
test_visit(void)
{
    struct pac_mpsc m;
    intptr_t sum = 0;
    pac_mpsc_init(&m, 40, NULL);
    for (int i = 0; i < 30; i++) {
        CHECK_INT(pac_mpsc_try_send(&m, value_of(0)), PAC_OK);
        check_try_recv(&m, 0);
    }
    for (int i = 1; i <= 4; i++) {
        CHECK_INT(pac_mpsc_try_send(&m, value_of(i)), PAC_OK);
    }
    CHECK_INT(pac_mpsc_visit(&m, sum_values, &sum), 0);
    CHECK_INT(sum, 10);
    CHECK_INT(pac_mpsc_try_send(&m, value_of(1000)), PAC_OK);
    CHECK_INT(pac_mpsc_visit(&m, sum_values, &sum), 1);
    pac_mpsc_fini(&m);
}

/* ---- threads -------------------------------------------------------------------------------- */

#ifdef TESTING_VALGRIND
enum { PRODUCERS = 3, CONSUMERS = 2, MESSAGES = 500 };
#else
enum { PRODUCERS = 3, CONSUMERS = 2, MESSAGES = 20000 };
#endif

struct traffic {
    struct pac_mpsc m;
    PAC_ATOMIC(int) next_producer;
    PAC_ATOMIC(int64_t) sum, count;
};

/* Every third wait is given up after a moment, and begun again. */
static void *
produces(void *arg)
{
    struct traffic *t = arg;
    int self = pac_atomic_add(&t->next_producer, 1, PAC_RELAXED);
    for (int i = 0; i < MESSAGES; i++) {
        struct pac_mpsc_send s;
        pac_mpsc_send_init(&s, &t->m, value_of(i * PRODUCERS + self));
        for (int tries = 0;; tries++) {
            uint64_t deadline_ns = tries < 2 && i % 3 == 0 ? pac_clock_ns() + 1000 : PAC_NEVER;
            enum pac_status status = pac_blocking_wait(&s.future, deadline_ns, NULL);
            CHECK(status == PAC_OK || status == PAC_TIMED_OUT);
            pac_mpsc_send_drop(&s);
            if (status == PAC_OK || pac_mpsc_send_was_sent(&s)) {
                break;
            }
        }
    }
    pac_mpsc_drop_sender(&t->m);
    return NULL;
}

static void *
consumes(void *arg)
{
    struct traffic *t = arg;
    int last[PRODUCERS] = {-1, -1, -1};
    for (int round = 0;; round++) {
        struct pac_mpsc_recv r;
        void *values[7];
        pac_mpsc_recv_init(&r, &t->m, values, round % 2 == 0 ? 1 : 7);
        uint64_t deadline_ns = round % 3 == 0 ? pac_clock_ns() + 1000 : PAC_NEVER;
        enum pac_status status = pac_blocking_wait(&r.future, deadline_ns, NULL);
        pac_mpsc_recv_drop(&r);
        if (status == PAC_TIMED_OUT) {
            continue;
        }
        if (r.status == PAC_CLOSED) {
            return NULL;
        }
        for (size_t i = 0; i < r.count; i++) {
            int value = (int)(intptr_t)values[i];
            CHECK(value / PRODUCERS > last[value % PRODUCERS]);
            last[value % PRODUCERS] = value / PRODUCERS;
            pac_atomic_add(&t->sum, value, PAC_RELAXED);
            pac_atomic_add(&t->count, 1, PAC_RELAXED);
        }
    }
}

static void
traffic_through(size_t capacity)
{
    static struct traffic t;
    pthread_t threads[PRODUCERS + CONSUMERS];
    pac_mpsc_init(&t.m, capacity, destroy_value);
    pac_atomic_init(&t.next_producer, 0);
    pac_atomic_init(&t.sum, 0);
    pac_atomic_init(&t.count, 0);
    alarm(WATCHDOG_S);
    for (int i = 1; i < PRODUCERS; i++) {
        pac_mpsc_add_sender(&t.m);
    }
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        pthread_create(&threads[i], NULL, i < PRODUCERS ? produces : consumes, &t);
    }
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++) {
        pthread_join(threads[i], NULL);
    }
    alarm(0);
    int64_t total = (int64_t)PRODUCERS * MESSAGES;
    CHECK_INT(pac_atomic_load(&t.count, PAC_RELAXED), total);
    CHECK_INT(pac_atomic_load(&t.sum, PAC_RELAXED), total * (total - 1) / 2);
    CHECK_INT(t.m.woken_count, 0);
    pac_mpsc_fini(&t.m);
    CHECK_INT(destroyed_count, 0);
}

static void
test_traffic_between_threads(void)
{
    traffic_through(1);
    traffic_through(5);
    traffic_through(PAC_MPSC_UNBOUNDED);
}

int
main(void)
{
    RUN(test_first_in_first_out);
    RUN(test_senders_are_let_in_in_order);
    RUN(test_a_dropped_send_keeps_its_value);
    RUN(test_a_send_dropped_after_it_was_let_in_has_sent);
    RUN(test_receivers_are_served_in_order);
    RUN(test_a_value_that_is_let_in_wakes_the_next_receiver);
    RUN(test_a_dropped_receiver_passes_its_wake_on);
    RUN(test_a_robbed_receiver_is_first_again);
    RUN(test_the_newest_waker_is_woken);
    RUN(test_many_at_once);
    RUN(test_the_senders_go);
    RUN(test_the_receiver_closes);
    RUN(test_what_is_left_over_is_destroyed);
    RUN(test_a_pending_receiver_learns_of_its_own_close);
    RUN(test_the_memory_of_a_burst_is_given_back);
    RUN(test_a_huge_capacity_costs_nothing);
    RUN(test_no_memory);
    RUN(test_without_budget_nothing_is_done);
    RUN(test_visit);
    RUN(test_traffic_between_threads);
    return TESTING_RESULT();
}
