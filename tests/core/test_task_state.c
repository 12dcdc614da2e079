/* The state word: each transition from each state against a table written from its description,
 * then threads. */
#include "task_state.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>

enum {
    R = PAC_TASK_RUNNING,
    C = PAC_TASK_COMPLETE,
    N = PAC_TASK_NOTIFIED,
    J = PAC_TASK_JOIN_WAKER,
    X = PAC_TASK_CANCELLED,
};

enum transition { RUN, IDLE, BY_VAL, BY_REF, CANCEL, REF_DEC, SHUTDOWN, SET_JOIN, UNSET_JOIN };

/* From flags and references, by a transition, to flags and references, with a result: a duty, or
 * for the last three a bool. */
struct row {
    enum transition transition;
    unsigned flags, refs;
    unsigned flags_after, refs_after;
    int result;
};

static const struct row rows[] = {
    /* NOTIFIED is cleared before the poll. */
    {RUN, N, 2, R, 2, PAC_TASK_POLL},
    {RUN, N | J, 2, R | J, 2, PAC_TASK_POLL},
    {RUN, N | X, 2, R | X, 2, PAC_TASK_CANCEL},
    /* It has ended meanwhile, or is running further up the stack: the queue's reference goes. */
    {RUN, N | C, 2, N | C, 1, PAC_TASK_NOTHING},
    {RUN, N | C | X, 1, N | C | X, 0, PAC_TASK_FREE},
    {RUN, N | R, 2, N | R, 1, PAC_TASK_NOTHING},

    {IDLE, R, 2, 0, 1, PAC_TASK_NOTHING},
    {IDLE, R | J, 2, J, 1, PAC_TASK_NOTHING},
    {IDLE, R, 1, 0, 0, PAC_TASK_FREE},
    {IDLE, R | N, 1, N, 1, PAC_TASK_SUBMIT},
    {IDLE, R | N | X, 2, R | N | X, 2, PAC_TASK_CANCEL},
    {IDLE, R | X, 2, R | X, 2, PAC_TASK_CANCEL},

    {BY_VAL, 0, 2, N, 2, PAC_TASK_SUBMIT},
    {BY_VAL, J, 1, N | J, 1, PAC_TASK_SUBMIT},
    {BY_VAL, N, 2, N, 1, PAC_TASK_NOTHING},
    {BY_VAL, R, 2, R | N, 1, PAC_TASK_NOTHING},
    {BY_VAL, R | N, 2, R | N, 1, PAC_TASK_NOTHING},
    {BY_VAL, C, 2, C, 1, PAC_TASK_NOTHING},
    {BY_VAL, C, 1, C, 0, PAC_TASK_FREE},
    {BY_VAL, C | N, 1, C | N, 0, PAC_TASK_FREE},

    {BY_REF, 0, 1, N, 2, PAC_TASK_SUBMIT},
    {BY_REF, N, 2, N, 2, PAC_TASK_NOTHING},
    {BY_REF, R, 2, R | N, 2, PAC_TASK_NOTHING},
    {BY_REF, R | N, 2, R | N, 2, PAC_TASK_NOTHING},
    {BY_REF, C, 1, C, 1, PAC_TASK_NOTHING},
    {BY_REF, C | J, 1, C | J, 1, PAC_TASK_NOTHING},

    {CANCEL, 0, 1, X | N, 2, PAC_TASK_SUBMIT},
    {CANCEL, J, 1, X | N | J, 2, PAC_TASK_SUBMIT},
    {CANCEL, N, 2, X | N, 2, PAC_TASK_NOTHING},
    {CANCEL, R, 2, X | R | N, 2, PAC_TASK_NOTHING},
    {CANCEL, C, 1, C, 1, PAC_TASK_NOTHING},
    {CANCEL, X | N, 2, X | N, 2, PAC_TASK_NOTHING},
    {CANCEL, X | R, 2, X | R, 2, PAC_TASK_NOTHING},

    {REF_DEC, N, 2, N, 1, PAC_TASK_NOTHING},
    {REF_DEC, C, 1, C, 0, PAC_TASK_FREE},
    {REF_DEC, C | N | J | X, 1, C | N | J | X, 0, PAC_TASK_FREE},

    {SHUTDOWN, 0, 1, R | X, 1, true},
    {SHUTDOWN, N | J, 2, R | N | X | J, 2, true},
    {SHUTDOWN, X | N, 2, R | N | X, 2, true},
    {SHUTDOWN, R, 2, R | X, 2, false},
    {SHUTDOWN, C, 1, C | X, 1, false},

    {SET_JOIN, 0, 1, J, 1, true},
    {SET_JOIN, R | N, 2, R | N | J, 2, true},
    {SET_JOIN, C, 1, C, 1, false},
    {UNSET_JOIN, J, 1, 0, 1, true},
    {UNSET_JOIN, J | R, 2, R, 2, true},
    {UNSET_JOIN, J | C, 1, J | C, 1, false},
};

static int
apply(enum transition transition, struct pac_task_state *s)
{
    switch (transition) {
        case RUN:
            return pac_task_transition_to_running(s);
        case IDLE:
            return pac_task_transition_to_idle(s);
        case BY_VAL:
            return pac_task_transition_to_notified_by_val(s);
        case BY_REF:
            return pac_task_transition_to_notified_by_ref(s);
        case CANCEL:
            return pac_task_transition_to_cancelled(s);
        case REF_DEC:
            return pac_task_ref_dec(s);
        case SHUTDOWN:
            return pac_task_transition_to_shutdown(s);
        case SET_JOIN:
            return pac_task_set_join_waker(s);
        case UNSET_JOIN:
            return pac_task_unset_join_waker(s);
    }
    return -1;
}

static void
every_transition_does_what_its_table_says(void)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *row = &rows[i];
        struct pac_task_state s;
        pac_atomic_init(&s.word, row->flags | (uint64_t)row->refs * PAC_TASK_REF);
        int result = apply(row->transition, &s);
        uint64_t want = row->flags_after | (uint64_t)row->refs_after * PAC_TASK_REF;
        if (result != row->result || pac_task_state_load(&s) != want) {
            fprintf(stderr, "row %zu:\n", i);
        }
        CHECK_INT(result, row->result);
        CHECK_INT(pac_task_state_load(&s), want);
    }
}

static void
completing_keeps_everything_else(void)
{
    struct pac_task_state s;
    pac_atomic_init(&s.word, R | N | J | 3 * PAC_TASK_REF);
    CHECK(pac_task_transition_to_complete(&s));
    CHECK_INT(pac_task_state_load(&s), C | N | J | 3 * PAC_TASK_REF);
    pac_atomic_init(&s.word, R | X | PAC_TASK_REF);
    CHECK(!pac_task_transition_to_complete(&s));
    CHECK_INT(pac_task_state_load(&s), C | X | PAC_TASK_REF);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { WAKERS = 8, WAKES = 100000 };

static struct pac_task_state shared;
static PAC_ATOMIC(int) queued;  /* how many queue entries there are */
static PAC_ATOMIC(int) at_work; /* wakers that have not finished */
static PAC_ATOMIC(int) freed;
static PAC_ATOMIC(uint64_t) wakes_begun;

static void
fulfil(enum pac_task_duty duty)
{
    if (duty == PAC_TASK_SUBMIT) {
        int before = pac_atomic_add(&queued, 1, PAC_RELAXED);
        CHECK_INT(before, 0);
    }
    else if (duty == PAC_TASK_FREE) {
        pac_atomic_add(&freed, 1, PAC_RELAXED);
    }
}

static void *
wake_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < WAKES; i++) {
        pac_atomic_add(&wakes_begun, 1, PAC_RELAXED);
        if (i % 2 == 0) {
            fulfil(pac_task_transition_to_notified_by_ref(&shared));
        }
        else {
            pac_task_ref_inc(&shared);
            fulfil(pac_task_transition_to_notified_by_val(&shared));
        }
    }
    fulfil(pac_task_ref_dec(&shared));
    pac_atomic_sub(&at_work, 1, PAC_RELEASE);
    return NULL;
}

/* Polls until every waker is done and nothing is queued; the number of wakes that the last poll
 * saw. */
static uint64_t
poll_until_quiet(void)
{
    uint64_t seen = 0;
    for (;;) {
        bool all_done = pac_atomic_load(&at_work, PAC_ACQUIRE) == 0;
        if (pac_atomic_load(&queued, PAC_RELAXED) == 0) {
            if (all_done) {
                return seen;
            }
            sched_yield();
            continue;
        }
        pac_atomic_sub(&queued, 1, PAC_RELAXED);
        CHECK_INT(pac_task_transition_to_running(&shared), PAC_TASK_POLL);
        seen = pac_atomic_load(&wakes_begun, PAC_RELAXED);
        fulfil(pac_task_transition_to_idle(&shared));
    }
}

static void
a_task_is_queued_at_most_once_and_no_wake_is_lost(void)
{
    pthread_t threads[WAKERS];
    pac_task_state_init(&shared, 2 + WAKERS); /* queue, us, wakers */
    pac_atomic_init(&queued, 1);
    pac_atomic_init(&at_work, WAKERS);
    pac_atomic_init(&freed, 0);
    pac_atomic_init(&wakes_begun, 0);
    for (int i = 0; i < WAKERS; i++) {
        pthread_create(&threads[i], NULL, wake_often, NULL);
    }
    uint64_t seen = poll_until_quiet();
    for (int i = 0; i < WAKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(seen, (uint64_t)WAKERS * WAKES);
    CHECK_INT(pac_task_state_load(&shared), PAC_TASK_REF);
    CHECK_INT(pac_atomic_load(&freed, PAC_RELAXED), 0);
    fulfil(pac_task_ref_dec(&shared));
    CHECK_INT(pac_atomic_load(&freed, PAC_RELAXED), 1);
}

static int written_before_wake;
static PAC_ATOMIC(bool) has_woken;

static void *
write_and_wake(void *unused)
{
    (void)unused;
    written_before_wake = 1;
    CHECK_INT(pac_task_transition_to_notified_by_ref(&shared), PAC_TASK_NOTHING);
    pac_atomic_store(&has_woken, true, PAC_RELAXED); /* relaxed: must not do the wake's work */
    return NULL;
}

/* ThreadSanitizer sees it if waking a task that is notified already publishes nothing. */
static void
waking_a_notified_task_still_publishes(void)
{
    pthread_t thread;
    pac_task_state_init(&shared, 2);
    pac_atomic_init(&has_woken, false);
    written_before_wake = 0;
    pthread_create(&thread, NULL, write_and_wake, NULL);
    while (!pac_atomic_load(&has_woken, PAC_RELAXED)) {
        sched_yield();
    }
    CHECK_INT(pac_task_transition_to_running(&shared), PAC_TASK_POLL);
    CHECK_INT(written_before_wake, 1);
    pthread_join(thread, NULL);
}

/* ---- cancel against completion -------------------------------------------------------------- */

enum { RACES = 5000 };

static PAC_ATOMIC(int) round_started, round_ended;

static void *
cancel_each_round(void *unused)
{
    (void)unused;
    for (int i = 1; i <= RACES; i++) {
        while (pac_atomic_load(&round_started, PAC_ACQUIRE) < i) {
            sched_yield();
        }
        fulfil(pac_task_transition_to_cancelled(&shared));
        fulfil(pac_task_ref_dec(&shared));
        pac_atomic_store(&round_ended, i, PAC_RELEASE);
    }
    return NULL;
}

/* One round: run once, and be ready or pending. Whatever comes between, it completes exactly
 * once. */
static void
race_once(int i)
{
    int completions = 0;
    pac_task_state_init(&shared, 2); /* queue, canceller */
    pac_atomic_store(&queued, 1, PAC_RELAXED);
    pac_atomic_store(&freed, 0, PAC_RELAXED);
    pac_atomic_store(&round_started, i, PAC_RELEASE);
    bool last = false;
    do {
        last = pac_atomic_load(&round_ended, PAC_ACQUIRE) == i;
        if (pac_atomic_load(&queued, PAC_RELAXED) == 0) {
            sched_yield();
            continue;
        }
        pac_atomic_sub(&queued, 1, PAC_RELAXED);
        enum pac_task_duty duty = pac_task_transition_to_running(&shared);
        if (duty == PAC_TASK_POLL && i % 2 == 0) {
            duty = pac_task_transition_to_idle(&shared);
            CHECK(duty != PAC_TASK_FREE || completions == 0);
        }
        else if (duty == PAC_TASK_POLL) {
            duty = PAC_TASK_CANCEL; /* ready, which completes the same way */
        }
        if (duty == PAC_TASK_CANCEL) {
            CHECK(!pac_task_transition_to_complete(&shared));
            completions++;
            duty = pac_task_ref_dec(&shared);
        }
        fulfil(duty);
    } while (!last);
    CHECK_INT(completions, 1);
    CHECK_INT(pac_atomic_load(&freed, PAC_RELAXED), 1);
}

static void
cancelling_races_completion(void)
{
    pthread_t thread;
    pac_atomic_init(&round_started, 0);
    pac_atomic_init(&round_ended, 0);
    pthread_create(&thread, NULL, cancel_each_round, NULL);
    for (int i = 1; i <= RACES; i++) {
        race_once(i);
    }
    pthread_join(thread, NULL);
}

int
main(void)
{
    RUN(every_transition_does_what_its_table_says);
    RUN(completing_keeps_everything_else);
    RUN(a_task_is_queued_at_most_once_and_no_wake_is_lost);
    RUN(waking_a_notified_task_still_publishes);
    RUN(cancelling_races_completion);
    return TESTING_RESULT();
}
