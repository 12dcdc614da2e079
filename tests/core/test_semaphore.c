/* Semaphore: who gets permits and in which order, what is given back, and that none is lost or
 * made up.
 *
 * The first group follows the cases of Tokio's own tests of its batch semaphore. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* pthread_barrier_t */
#endif
#include "semaphore.h"
#include "wakers.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

/* Whatever hangs is a lost wake-up or a deadlock. */
enum { WATCHDOG_S = 100 };

/* An acquire with a task of its own. */
struct waiter {
    struct pac_acquire acquire;
    struct probe probe;
};

static void
waiter_init(struct waiter *w, struct pac_semaphore *s, uint64_t n)
{
    pac_acquire_init(&w->acquire, s, n);
    probe_init(&w->probe, &w->acquire.future);
}

enum outcome { WAITS, GRANTED, CLOSED };

static enum outcome
waiter_poll(struct waiter *w)
{
    if (probe_poll(&w->probe) == PAC_PENDING) {
        return WAITS;
    }
    return pac_acquire_status(&w->acquire) == PAC_CLOSED ? CLOSED : GRANTED;
}

static int
waiter_wakes(struct waiter *w)
{
    return probe_wakes(&w->probe);
}

static void
waiter_drop(struct waiter *w)
{
    probe_drop(&w->probe);
}

static void
waiter_init_and_wait(struct waiter *w, struct pac_semaphore *s, uint64_t n)
{
    waiter_init(w, s, n);
    CHECK_INT(waiter_poll(w), WAITS);
}

static void
release(struct pac_semaphore *s, uint64_t n)
{
    CHECK_INT(pac_semaphore_release(s, n), PAC_OK);
}

/* ---- single steps --------------------------------------------------------------------------- */

static void
test_permits_that_are_there_are_taken_at_once(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 100, PAC_SEMAPHORE_MAX);
    waiter_init(&w, &s, 1);
    CHECK_INT(pac_semaphore_available(&s), 100); /* nothing before the first poll */
    CHECK_INT(waiter_poll(&w), GRANTED);
    CHECK_INT(pac_semaphore_available(&s), 99);
    CHECK_INT(counting_clones(&w.probe.hooked.count), 0);
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 99); /* its owner has them now */
    CHECK_INT(pac_semaphore_try_acquire(&s, 9), PAC_OK);
    CHECK_INT(pac_semaphore_try_acquire(&s, 91), PAC_BUSY);
    CHECK_INT(pac_semaphore_available(&s), 90);
}

static void
test_waiter_for_one(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&w, &s, 1);
    CHECK_INT(pac_semaphore_waiters(&s), 1);
    release(&s, 1);
    CHECK_INT(waiter_wakes(&w), 1);
    CHECK_INT(pac_semaphore_available(&s), 0); /* handed over, not up for grabs */
    CHECK_INT(pac_semaphore_try_acquire(&s, 1), PAC_BUSY);
    CHECK_INT(waiter_poll(&w), GRANTED);
    waiter_drop(&w);
    release(&s, 1);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

static void
test_waiter_for_many_gets_them_piece_by_piece(void)
{
    struct pac_semaphore s;
    struct waiter many, after;
    pac_semaphore_init(&s, 4, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&many, &s, 7);
    CHECK_INT(pac_semaphore_available(&s), 0); /* the four are its already */
    waiter_init_and_wait(&after, &s, 3);
    release(&s, 2);
    CHECK_INT(waiter_wakes(&many), 0);
    CHECK_INT(waiter_poll(&many), WAITS);
    release(&s, 2);
    CHECK_INT(waiter_poll(&many), GRANTED);
    CHECK_INT(waiter_wakes(&after), 0);
    release(&s, 1);
    CHECK_INT(waiter_wakes(&after), 0);
    release(&s, 5);
    CHECK_INT(waiter_wakes(&after), 1);
    CHECK_INT(waiter_poll(&after), GRANTED);
    CHECK_INT(pac_semaphore_available(&s), 4);
    waiter_drop(&many);
    waiter_drop(&after);
}

static void
test_few_do_not_overtake_many(void)
{
    struct pac_semaphore s;
    struct waiter many, one;
    pac_semaphore_init(&s, 1, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&many, &s, 2);
    waiter_init_and_wait(&one, &s, 1);
    CHECK_INT(pac_semaphore_try_acquire(&s, 1), PAC_BUSY);
    release(&s, 1);
    CHECK_INT(waiter_poll(&one), WAITS);
    CHECK_INT(waiter_poll(&many), GRANTED);
    waiter_drop(&one);
    waiter_drop(&many);
    CHECK_INT(pac_semaphore_available(&s), 0);
}

static void
test_one_release_serves_several_in_order(void)
{
    struct pac_semaphore s;
    struct waiter w[3];
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    for (int i = 0; i < 3; i++) {
        waiter_init_and_wait(&w[i], &s, 2);
    }
    release(&s, 5);
    CHECK_INT(waiter_wakes(&w[0]) + waiter_wakes(&w[1]), 2);
    CHECK_INT(waiter_wakes(&w[2]), 0);
    release(&s, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(waiter_poll(&w[i]), GRANTED);
        waiter_drop(&w[i]);
    }
}

static void
test_limit(void)
{
    struct pac_semaphore s;
    pac_semaphore_init(&s, PAC_SEMAPHORE_MAX, PAC_SEMAPHORE_MAX);
    CHECK_INT(pac_semaphore_release(&s, 1), PAC_OVERFLOW);
    CHECK_INT(pac_semaphore_try_acquire(&s, 3), PAC_OK);
    CHECK_INT(pac_semaphore_release(&s, 4), PAC_OVERFLOW);
    CHECK_INT(pac_semaphore_release(&s, UINT64_MAX), PAC_OVERFLOW);
    CHECK_INT(pac_semaphore_release(&s, 3), PAC_OK);
    CHECK(pac_semaphore_available(&s) == PAC_SEMAPHORE_MAX);

    pac_semaphore_init(&s, 1, 1);
    CHECK_INT(pac_semaphore_release(&s, 1), PAC_OVERFLOW);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

static void
test_forget(void)
{
    struct pac_semaphore s;
    pac_semaphore_init(&s, 10, PAC_SEMAPHORE_MAX);
    CHECK_INT(pac_semaphore_forget(&s, 4), 4);
    CHECK_INT(pac_semaphore_available(&s), 6);
    CHECK_INT(pac_semaphore_forget(&s, 10), 6);
    CHECK_INT(pac_semaphore_forget(&s, 10), 0);
}

/* ---- dropping ------------------------------------------------------------------------------- */

static void
test_drop_before_the_first_poll(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 1, 1);
    waiter_init(&w, &s, 1);
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

static void
test_drop_gives_back_what_was_assigned(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 6, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&w, &s, 8);
    release(&s, 1);
    CHECK_INT(pac_semaphore_available(&s), 0);
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 7);
    CHECK_INT(pac_semaphore_waiters(&s), 0);
}

static void
test_drop_of_many_serves_those_behind(void)
{
    struct pac_semaphore s;
    struct waiter many, w[4];
    pac_semaphore_init(&s, 3, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&many, &s, 4);
    for (int i = 0; i < 4; i++) {
        waiter_init_and_wait(&w[i], &s, 1);
    }
    waiter_drop(&many);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(waiter_wakes(&w[i]), i < 3);
        CHECK_INT(waiter_poll(&w[i]), i < 3 ? GRANTED : WAITS);
        waiter_drop(&w[i]);
    }
}

static void
test_drop_of_a_grant_not_seen_passes_it_on(void)
{
    struct pac_semaphore s;
    struct waiter w[2];
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&w[0], &s, 2);
    waiter_init_and_wait(&w[1], &s, 1);
    release(&s, 2);
    waiter_drop(&w[0]);
    CHECK_INT(waiter_wakes(&w[1]), 1);
    CHECK_INT(waiter_poll(&w[1]), GRANTED);
    waiter_drop(&w[1]);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

static void
test_drop_in_the_middle_of_the_line(void)
{
    struct pac_semaphore s;
    struct waiter w[3];
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    for (int i = 0; i < 3; i++) {
        waiter_init_and_wait(&w[i], &s, 1);
    }
    waiter_drop(&w[1]);
    release(&s, 2);
    CHECK_INT(waiter_poll(&w[0]), GRANTED);
    CHECK_INT(waiter_poll(&w[2]), GRANTED);
    waiter_drop(&w[0]);
    waiter_drop(&w[2]);
    CHECK_INT(pac_semaphore_available(&s), 0);
}

static void
test_drop_of_a_grant_beyond_the_limit(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 0, 2);
    waiter_init_and_wait(&w, &s, 2);
    release(&s, 2);
    release(&s, 1); /* more than was taken */
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 2);
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
test_close_ends_who_waits_and_who_comes(void)
{
    struct pac_semaphore s;
    struct waiter w[40], late;
    pac_semaphore_init(&s, 2, PAC_SEMAPHORE_MAX);
    CHECK_INT(pac_semaphore_try_acquire(&s, 2), PAC_OK);
    for (int i = 0; i < 40; i++) { /* more than one batch */
        waiter_init_and_wait(&w[i], &s, 1);
    }
    CHECK(!pac_semaphore_is_closed(&s));
    pac_semaphore_close(&s);
    CHECK(pac_semaphore_is_closed(&s));
    for (int i = 0; i < 40; i++) {
        CHECK_INT(waiter_wakes(&w[i]), 1);
        CHECK_INT(waiter_poll(&w[i]), CLOSED);
        waiter_drop(&w[i]);
    }
    release(&s, 2);
    CHECK_INT(pac_semaphore_available(&s), 2);
    waiter_init(&late, &s, 1);
    CHECK_INT(waiter_poll(&late), CLOSED);
    waiter_drop(&late);
    CHECK_INT(pac_semaphore_try_acquire(&s, 1), PAC_CLOSED);
    pac_semaphore_close(&s);
    CHECK_INT(pac_semaphore_available(&s), 2);
}

static void
test_close_takes_back_what_was_assigned_but_no_grant(void)
{
    struct pac_semaphore s;
    struct waiter granted, part;
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&granted, &s, 1);
    waiter_init_and_wait(&part, &s, 5);
    release(&s, 4);
    pac_semaphore_close(&s);
    CHECK_INT(pac_semaphore_available(&s), 3);
    CHECK_INT(waiter_poll(&granted), GRANTED);
    CHECK_INT(waiter_poll(&part), CLOSED);
    waiter_drop(&granted);
    waiter_drop(&part);
    CHECK_INT(pac_semaphore_available(&s), 3);
}

static void
test_drop_after_close_unseen(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 1, PAC_SEMAPHORE_MAX);
    waiter_init_and_wait(&w, &s, 2);
    pac_semaphore_close(&s);
    CHECK_INT(pac_semaphore_available(&s), 1);
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

/* ---- wakers and what they run --------------------------------------------------------------- */

static void
test_newest_waker_is_woken_alone(void)
{
    struct pac_semaphore s;
    struct waiter w;
    struct counting_waker old;
    struct pac_waker old_waker = counting_waker_init(&old);
    struct pac_context cx = {&old_waker};
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    waiter_init(&w, &s, 1);
    CHECK_INT(pac_acquire_poll(&w.acquire, &cx), PAC_PENDING);
    CHECK_INT(counting_live(&old), 1);
    CHECK_INT(waiter_poll(&w), WAITS);
    CHECK_INT(counting_live(&old), 0);
    CHECK_INT(waiter_poll(&w), WAITS);
    CHECK_INT(counting_clones(&w.probe.hooked.count), 1); /* a spurious poll clones nothing */
    release(&s, 1);
    CHECK_INT(counting_wakes(&old), 0);
    CHECK_INT(waiter_wakes(&w), 1);
    CHECK_INT(waiter_poll(&w), GRANTED);
    waiter_drop(&w);
}

static void
release_one(void *s)
{
    release(s, 1);
}

static void
test_waker_that_releases_in_clone_wake_and_drop(void)
{
    struct pac_semaphore s;
    struct waiter w;
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    waiter_init(&w, &s, 1);
    w.probe.hooked.arg = &s;
    w.probe.hooked.on_clone = release_one;
    CHECK_INT(waiter_poll(&w), GRANTED); /* by its own waker */
    waiter_drop(&w);

    waiter_init(&w, &s, 1);
    w.probe.hooked.arg = &s;
    w.probe.hooked.on_wake = release_one;
    CHECK_INT(waiter_poll(&w), WAITS);
    release(&s, 1);
    CHECK_INT(pac_semaphore_available(&s), 1);
    CHECK_INT(waiter_poll(&w), GRANTED);
    waiter_drop(&w);

    CHECK_INT(pac_semaphore_forget(&s, 1), 1);
    waiter_init(&w, &s, 1);
    w.probe.hooked.arg = &s;
    w.probe.hooked.on_drop = release_one;
    CHECK_INT(waiter_poll(&w), WAITS);
    waiter_drop(&w);
    CHECK_INT(pac_semaphore_available(&s), 1);
}

/* The replaced waker holds the only permit: the case of Tokio's release_permits_at_drop. */
static void
test_drop_of_the_replaced_waker_releases(void)
{
    struct pac_semaphore s;
    struct waiter w;
    struct hooked_waker holder;
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    hooked_waker_init(&holder);
    holder.on_drop = release_one;
    holder.arg = &s;
    struct pac_waker waker = {&hooked_waker_vtable, &holder};
    struct pac_context cx = {&waker};
    waiter_init(&w, &s, 1);
    CHECK_INT(pac_acquire_poll(&w.acquire, &cx), PAC_PENDING);
    CHECK_INT(waiter_poll(&w), WAITS);
    CHECK_INT(waiter_wakes(&w), 1);
    CHECK_INT(waiter_poll(&w), GRANTED);
    waiter_drop(&w);
}

enum { CROWD = 100 }; /* several batches */

struct meddling {
    struct pac_semaphore s;
    struct waiter w[CROWD];
    struct waiter late;
    int woken;
};

/* Between two batches: the line is still a line, and the rest is dropped or comes in order. */
static void
meddle(void *arg)
{
    struct meddling *m = arg;
    if (m->woken++ != 0) {
        return;
    }
    waiter_init_and_wait(&m->late, &m->s, 1);
    CHECK_INT(pac_semaphore_try_acquire(&m->s, 1), PAC_BUSY);
    for (int i = CROWD / 2; i < CROWD; i++) {
        waiter_drop(&m->w[i]);
    }
}

static void
test_waker_meddles_while_a_release_hands_out(void)
{
    static struct meddling m;
    pac_semaphore_init(&m.s, 0, PAC_SEMAPHORE_MAX);
    m.woken = 0;
    for (int i = 0; i < CROWD; i++) {
        waiter_init_and_wait(&m.w[i], &m.s, 1);
        m.w[i].probe.hooked.on_wake = meddle;
        m.w[i].probe.hooked.arg = &m;
    }
    release(&m.s, CROWD);
    for (int i = 0; i < CROWD / 2; i++) {
        CHECK_INT(waiter_wakes(&m.w[i]), 1);
        CHECK_INT(waiter_poll(&m.w[i]), GRANTED);
        waiter_drop(&m.w[i]);
    }
    CHECK_INT(waiter_wakes(&m.late), 1);
    CHECK_INT(waiter_poll(&m.late), GRANTED);
    waiter_drop(&m.late);
    CHECK_INT(pac_semaphore_available(&m.s), CROWD / 2 - 1);
}

static void
close_the_semaphore(void *arg)
{
    pac_semaphore_close(arg);
}

static void
test_close_while_a_release_hands_out(void)
{
    static struct waiter w[CROWD];
    struct pac_semaphore s;
    int granted = 0;
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    for (int i = 0; i < CROWD; i++) {
        waiter_init_and_wait(&w[i], &s, 1);
    }
    w[0].probe.hooked.on_wake = close_the_semaphore;
    w[0].probe.hooked.arg = &s;
    release(&s, CROWD);
    for (int i = 0; i < CROWD; i++) {
        CHECK_INT(waiter_wakes(&w[i]), 1);
        granted += waiter_poll(&w[i]) == GRANTED;
        waiter_drop(&w[i]);
    }
    CHECK_INT(granted, PAC_WAKE_BATCH);
    CHECK_INT(pac_semaphore_available(&s), CROWD - PAC_WAKE_BATCH);
}

/* ---- the budget ----------------------------------------------------------------------------- */

static void
test_budget_holds_back_and_keeps(void)
{
    struct pac_semaphore s;
    struct waiter w;
    for (int waited = 0; waited < 2; waited++) {
        for (int drops = 0; drops < 2; drops++) {
            pac_semaphore_init(&s, waited ? 0 : 2, PAC_SEMAPHORE_MAX);
            waiter_init(&w, &s, 2);
            pac_budget_left = 0;
            int woken = 0;
            if (waited) {
                CHECK_INT(waiter_poll(&w), WAITS);
                CHECK_INT(waiter_wakes(&w), 0); /* waiting costs nothing */
                release(&s, 2);
                woken = 1;
            }
            CHECK_INT(waiter_poll(&w), WAITS);
            CHECK_INT(waiter_wakes(&w), woken + 1);
            CHECK_INT(pac_semaphore_available(&s), 0); /* nobody else gets them */
            if (!drops) {
                pac_budget_left = 2;
                CHECK_INT(waiter_poll(&w), GRANTED);
                CHECK_INT(pac_budget_left, 1);
            }
            waiter_drop(&w);
            CHECK_INT(pac_semaphore_available(&s), drops ? 2 : 0);
            pac_budget_left = PAC_BUDGET_UNLIMITED;
        }
    }
}

/* ---- random steps against a plain model ----------------------------------------------------- */

enum { MODEL_WAITERS = 12, MODEL_STEPS = 40000 };

enum model_state { NEW, IN_LINE, GIVEN, REFUSED };

struct model {
    uint64_t available;
    bool closed;
    int line[MODEL_WAITERS]; /* oldest first */
    int length;
    uint64_t missing[MODEL_WAITERS];
    enum model_state state[MODEL_WAITERS];
    int wakes[MODEL_WAITERS];
};

static void
model_leave_line(struct model *m, int place)
{
    m->length--;
    memmove(&m->line[place], &m->line[place + 1], sizeof(int) * (size_t)(m->length - place));
}

static void
model_hand_out(struct model *m)
{
    while (m->length > 0 && m->available > 0) {
        int first = m->line[0];
        uint64_t given = m->available < m->missing[first] ? m->available : m->missing[first];
        m->available -= given;
        m->missing[first] -= given;
        if (m->missing[first] == 0) {
            m->state[first] = GIVEN;
            m->wakes[first]++;
            model_leave_line(m, 0);
        }
    }
}

static void
model_poll(struct model *m, int i, uint64_t wanted)
{
    if (m->state[i] != NEW) {
        return;
    }
    if (m->closed) {
        m->state[i] = REFUSED;
        return;
    }
    m->missing[i] = wanted;
    m->state[i] = IN_LINE;
    m->line[m->length++] = i;
    int wakes = m->wakes[i];
    model_hand_out(m);
    m->wakes[i] = wakes; /* nobody is woken by his own poll */
}

static void
model_drop(struct model *m, int i, uint64_t wanted)
{
    for (int place = 0; place < m->length; place++) {
        if (m->line[place] == i) {
            model_leave_line(m, place);
            break;
        }
    }
    if (m->state[i] == IN_LINE || m->state[i] == GIVEN) {
        m->available += wanted - m->missing[i];
    }
    model_hand_out(m);
}

static void
model_close(struct model *m, const uint64_t *wanted)
{
    m->closed = true;
    for (int place = 0; place < m->length; place++) {
        int i = m->line[place];
        m->available += wanted[i] - m->missing[i];
        m->state[i] = REFUSED;
        m->wakes[i]++;
    }
    m->length = 0;
}

static unsigned
next_random(unsigned *seed)
{
    *seed = *seed * 1103515245 + 12345;
    return *seed >> 16;
}

static void
test_random_steps_agree_with_the_model(void)
{
    static struct model m;
    struct pac_semaphore s;
    struct waiter w[MODEL_WAITERS];
    uint64_t wanted[MODEL_WAITERS];
    unsigned seed = 4711;
    memset(&m, 0, sizeof m);
    pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
    for (int i = 0; i < MODEL_WAITERS; i++) {
        wanted[i] = 1 + next_random(&seed) % 4;
        waiter_init(&w[i], &s, wanted[i]);
    }
    for (int step = 0; step < MODEL_STEPS && testing_failures == 0; step++) {
        int i = (int)(next_random(&seed) % MODEL_WAITERS);
        unsigned what = next_random(&seed) % 200;
        if (what < 100) {
            enum model_state before = m.state[i];
            model_poll(&m, i, wanted[i]);
            enum outcome expected = m.state[i] == GIVEN     ? GRANTED
                                    : m.state[i] == REFUSED ? CLOSED
                                                            : WAITS;
            CHECK_INT(waiter_poll(&w[i]), expected);
            if (expected != WAITS) {
                /* Ready once only: a new one in its place, and the permits are ours. */
                waiter_drop(&w[i]);
                CHECK(before != NEW || m.wakes[i] == 0);
                m.state[i] = NEW;
                m.wakes[i] = 0;
                wanted[i] = 1 + next_random(&seed) % 4;
                waiter_init(&w[i], &s, wanted[i]);
            }
        }
        else if (what < 150) {
            uint64_t n = next_random(&seed) % 4;
            release(&s, n);
            m.available += n;
            model_hand_out(&m);
        }
        else if (what < 180) {
            waiter_drop(&w[i]);
            model_drop(&m, i, wanted[i]);
            m.state[i] = NEW;
            m.wakes[i] = 0;
            waiter_init(&w[i], &s, wanted[i]);
        }
        else if (what < 198) {
            bool possible = m.length == 0 && m.available >= wanted[i];
            enum pac_status expected = m.closed ? PAC_CLOSED : possible ? PAC_OK : PAC_BUSY;
            CHECK_INT(pac_semaphore_try_acquire(&s, wanted[i]), expected);
            m.available -= expected == PAC_OK ? wanted[i] : 0;
        }
        else if (what == 198) {
            uint64_t expected = m.available < 2 ? m.available : 2;
            CHECK_INT(pac_semaphore_forget(&s, 2), expected);
            m.available -= expected;
        }
        else {
            pac_semaphore_close(&s);
            model_close(&m, wanted);
            for (int k = 0; k < MODEL_WAITERS; k++) {
                CHECK_INT(waiter_wakes(&w[k]), m.wakes[k]);
                waiter_drop(&w[k]);
                model_drop(&m, k, wanted[k]);
                m.state[k] = NEW;
                m.wakes[k] = 0;
                waiter_init(&w[k], &s, wanted[k]);
            }
            CHECK_INT(pac_semaphore_available(&s), m.available);
            m.closed = false;
            m.available = 0;
            pac_semaphore_init(&s, 0, PAC_SEMAPHORE_MAX);
        }
        CHECK_INT(pac_semaphore_available(&s), m.available);
        CHECK_INT(pac_semaphore_waiters(&s), m.length);
        for (int k = 0; k < MODEL_WAITERS; k++) {
            CHECK_INT(waiter_wakes(&w[k]), m.wakes[k]);
        }
    }
    for (int i = 0; i < MODEL_WAITERS; i++) {
        waiter_drop(&w[i]);
    }
}

/* ---- two threads at once -------------------------------------------------------------------- */

enum { RACE_ROUNDS = 1000 };

struct race {
    struct pac_semaphore s;
    struct waiter w[2];
    pthread_barrier_t start, end;
    void (*act)(struct race *r);
};

static void *
race_thread(void *arg)
{
    struct race *r = arg;
    for (int i = 0; i < RACE_ROUNDS; i++) {
        pthread_barrier_wait(&r->start);
        r->act(r);
        pthread_barrier_wait(&r->end);
    }
    return NULL;
}

/* In each round two waiters wait for one permit each; then `here` and `there` on two threads at
 * once, then `verify`, which says whether all is well. */
static void
race(void (*here)(struct race *r), void (*there)(struct race *r), bool (*verify)(struct race *r))
{
    static struct race r;
    pthread_t thread;
    int wrong = 0;
    r.act = there;
    pthread_barrier_init(&r.start, NULL, 2);
    pthread_barrier_init(&r.end, NULL, 2);
    pthread_create(&thread, NULL, race_thread, &r);
    for (int i = 0; i < RACE_ROUNDS; i++) {
        pac_semaphore_init(&r.s, 0, PAC_SEMAPHORE_MAX);
        for (int k = 0; k < 2; k++) {
            waiter_init_and_wait(&r.w[k], &r.s, 1);
        }
        pthread_barrier_wait(&r.start);
        here(&r);
        pthread_barrier_wait(&r.end);
        wrong += !verify(&r);
    }
    pthread_join(thread, NULL);
    CHECK_INT(wrong, 0);
    pthread_barrier_destroy(&r.start);
    pthread_barrier_destroy(&r.end);
}

static void
race_release(struct race *r)
{
    release(&r->s, 1);
}

static void
race_drop_first(struct race *r)
{
    pac_acquire_drop(&r->w[0].acquire);
}

static void
race_poll_first_with_another_waker(struct race *r)
{
    struct pac_waker waker = {&hooked_waker_vtable, &r->w[1].probe.hooked};
    struct pac_context cx = {&waker};
    (void)pac_acquire_poll(&r->w[0].acquire, &cx);
}

static void
race_close(struct race *r)
{
    pac_semaphore_close(&r->s);
}

static bool
race_permit_went_to_the_second(struct race *r)
{
    bool well = waiter_poll(&r->w[1]) == GRANTED && waiter_wakes(&r->w[1]) == 1;
    waiter_drop(&r->w[1]);
    return well && pac_semaphore_available(&r->s) == 0 &&
           counting_live(&r->w[0].probe.hooked.count) == 0;
}

static bool
race_first_was_woken_by_one_of_its_wakers(struct race *r)
{
    bool polled_ready = r->w[0].acquire.state == PAC_ACQUIRE_DONE;
    int wakes = waiter_wakes(&r->w[0]) + waiter_wakes(&r->w[1]);
    bool well = polled_ready || (wakes == 1 && waiter_poll(&r->w[0]) == GRANTED);
    pac_acquire_drop(&r->w[0].acquire);
    pac_acquire_drop(&r->w[1].acquire);
    return well && counting_live(&r->w[1].probe.hooked.count) == 0 &&
           counting_live(&r->w[0].probe.hooked.count) == 0;
}

static bool
race_both_have_an_outcome(struct race *r)
{
    enum outcome first = waiter_poll(&r->w[0]);
    bool well = (first == GRANTED || first == CLOSED) && waiter_poll(&r->w[1]) == CLOSED &&
                waiter_wakes(&r->w[0]) == 1 && waiter_wakes(&r->w[1]) == 1;
    waiter_drop(&r->w[0]);
    waiter_drop(&r->w[1]);
    return well && pac_semaphore_available(&r->s) == (first == CLOSED);
}

static void
test_drop_racing_with_a_release(void)
{
    race(race_drop_first, race_release, race_permit_went_to_the_second);
}

static void
test_waker_update_racing_with_a_release(void)
{
    race(race_poll_first_with_another_waker, race_release,
         race_first_was_woken_by_one_of_its_wakers);
}

static void
test_close_racing_with_a_release(void)
{
    race(race_close, race_release, race_both_have_an_outcome);
}

/* Threads that take, now and then give up, and give back: no more than PERMITS are out at once,
 * nobody hangs, and all are there again in the end. `shared` is written under all of them, so that
 * a sanitizer sees a missing order. */
enum { THREADS = 4, TURNS = 3000, PERMITS = 3 };

struct crowd {
    struct pac_semaphore s;
    PAC_ATOMIC(int) out;
    PAC_ATOMIC(int) worst;
    int shared;
};

static void
hold(struct crowd *c, uint64_t n)
{
    int out = pac_atomic_add(&c->out, (int)n, PAC_RELAXED) + (int)n;
    if (out > PERMITS) {
        pac_atomic_store(&c->worst, out, PAC_RELAXED);
    }
    if (n == PERMITS) {
        c->shared++;
    }
    pac_atomic_sub(&c->out, (int)n, PAC_RELAXED);
    release(&c->s, n);
}

static void *
crowd_thread(void *arg)
{
    struct crowd *c = arg;
    struct parking_waker p;
    struct pac_acquire a;
    unsigned seed = (unsigned)(uintptr_t)&p;
    parking_waker_init(&p);
    struct pac_waker waker = {&hooked_waker_vtable, &p.hooked};
    struct pac_context cx = {&waker};
    for (int i = 0; i < TURNS; i++) {
        uint64_t n = 1 + next_random(&seed) % PERMITS;
        pac_acquire_init(&a, &c->s, n);
        if (i % 5 == 0) {
            enum pac_poll polled = pac_acquire_poll(&a, &cx);
            if (polled == PAC_PENDING && i % 2 == 0) {
                sched_yield();
            }
            pac_acquire_drop(&a);
            if (polled == PAC_PENDING) {
                continue;
            }
        }
        else {
            park_until_ready(&a.future, &p);
        }
        hold(c, n);
    }
    parking_waker_fini(&p);
    return NULL;
}

static void
test_stress_threads_share_permits(void)
{
    static struct crowd c;
    pthread_t threads[THREADS];
    pac_semaphore_init(&c.s, PERMITS, PAC_SEMAPHORE_MAX);
    pac_atomic_init(&c.out, 0);
    pac_atomic_init(&c.worst, 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, crowd_thread, &c);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&c.worst, PAC_RELAXED), 0);
    CHECK_INT(pac_semaphore_available(&c.s), PERMITS);
    CHECK_INT(pac_semaphore_waiters(&c.s), 0);
    CHECK(c.shared > 0);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_permits_that_are_there_are_taken_at_once);
    RUN(test_waiter_for_one);
    RUN(test_waiter_for_many_gets_them_piece_by_piece);
    RUN(test_few_do_not_overtake_many);
    RUN(test_one_release_serves_several_in_order);
    RUN(test_limit);
    RUN(test_forget);
    RUN(test_drop_before_the_first_poll);
    RUN(test_drop_gives_back_what_was_assigned);
    RUN(test_drop_of_many_serves_those_behind);
    RUN(test_drop_of_a_grant_not_seen_passes_it_on);
    RUN(test_drop_in_the_middle_of_the_line);
    RUN(test_drop_of_a_grant_beyond_the_limit);
    RUN(test_close_ends_who_waits_and_who_comes);
    RUN(test_close_takes_back_what_was_assigned_but_no_grant);
    RUN(test_drop_after_close_unseen);
    RUN(test_newest_waker_is_woken_alone);
    RUN(test_waker_that_releases_in_clone_wake_and_drop);
    RUN(test_drop_of_the_replaced_waker_releases);
    RUN(test_waker_meddles_while_a_release_hands_out);
    RUN(test_close_while_a_release_hands_out);
    RUN(test_budget_holds_back_and_keeps);
    RUN(test_random_steps_agree_with_the_model);
    RUN(test_drop_racing_with_a_release);
    RUN(test_waker_update_racing_with_a_release);
    RUN(test_close_racing_with_a_release);
    RUN(test_stress_threads_share_permits);
    return TESTING_RESULT();
}
