/* The executor on a virtual clock, and under a seed. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "delay.h"
#include "executor.h"
#include "testing.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { MS = 1000000, LOG = 256 };

static struct pac_executor *ex;

/* What happened: letters, and when. */
static char letters[LOG + 1];
static uint64_t times_ns[LOG];
static int logged;

static void
log_letter(char letter)
{
    if (logged < LOG) {
        letters[logged] = letter;
        times_ns[logged++] = pac_executor_now_ns(ex);
        letters[logged] = 0;
    }
}

#define CHECK_LOG(expected)                                                                  \
    do {                                                                                     \
        if (strcmp(letters, expected) != 0) {                                                \
            fprintf(stderr, "%s:%d: \"%s\", expected \"%s\"\n", __FILE__, __LINE__, letters, \
                    expected);                                                               \
            testing_failures++;                                                              \
        }                                                                                    \
    } while (0)

static void
set_up_with(pac_stuck_hook *stuck)
{
    enum pac_status status;
    ex = pac_executor_new(NULL, &status);
    CHECK_INT(status, PAC_OK);
    pac_executor_use_virtual_clock(ex, stuck);
    logged = 0;
    letters[0] = 0;
}

static void
set_up(void)
{
    set_up_with(NULL);
}

static void
tear_down(void)
{
    pac_executor_close(ex);
    pac_executor_free(ex);
}

/* ---- a task that sleeps so often, for so long ----------------------------------------------- */

struct sleeper {
    struct pac_future future;
    struct pac_delay delay;
    uint64_t period_ns;
    int left; /* below 0: it sleeps until it is woken otherwise */
    char letter;
};

static enum pac_poll
sleeper_poll(struct pac_future *f, struct pac_context *cx)
{
    struct sleeper *s = PAC_CONTAINER_OF(f, struct sleeper, future);
    for (;;) {
        if (s->delay.entry == NULL && s->left > 0) {
            pac_delay_init(&s->delay, pac_ns_add(pac_executor_now_ns(ex), s->period_ns));
        }
        if (s->left == 0) {
            return PAC_READY;
        }
        if (pac_delay_poll(&s->delay, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        pac_delay_drop(&s->delay);
        s->left--;
        log_letter(s->letter);
    }
}

static void
sleeper_drop(struct pac_future *f)
{
    pac_delay_drop(&PAC_CONTAINER_OF(f, struct sleeper, future)->delay);
}

static const struct pac_future_vtable sleeper_vtable = {
    .poll = sleeper_poll,
    .drop = sleeper_drop,
};

static void
sleeper_init(struct sleeper *s, char letter, uint64_t period_ns, int times)
{
    memset(s, 0, sizeof *s);
    s->future.vtable = &sleeper_vtable;
    s->letter = letter;
    s->period_ns = period_ns;
    s->left = times;
}

static void
spawn(struct pac_future *f)
{
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn(ex, f, &status);
    CHECK_INT(status, PAC_OK);
    pac_task_unref(t);
}

static void
spawn_sleeper(struct sleeper *s, char letter, uint64_t period_ns, int times)
{
    sleeper_init(s, letter, period_ns, times);
    spawn(&s->future);
}

static enum pac_status
block_on_sleeper(char letter, uint64_t period_ns, int times)
{
    struct sleeper root;
    sleeper_init(&root, letter, period_ns, times);
    return pac_executor_block_on(ex, &root.future);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void
time_jumps_to_each_deadline_to_the_nanosecond(void)
{
    struct sleeper a, b;
    set_up();
    uint64_t before_ns = pac_clock_ns();
    CHECK_INT(pac_executor_now_ns(ex), 0);
    spawn_sleeper(&a, 'a', 3, 3);
    spawn_sleeper(&b, 'b', 5, 2);
    CHECK_INT(block_on_sleeper('r', (uint64_t)86400 * 1000 * MS, 1), PAC_OK);
    CHECK_LOG("abaabr");
    const uint64_t expected_ns[] = {3, 5, 6, 9, 10, (uint64_t)86400 * 1000 * MS};
    for (int i = 0; i < 6; i++) {
        CHECK(times_ns[i] == expected_ns[i]);
    }
    CHECK(pac_clock_ns() - before_ns < (uint64_t)60000 * MS);
    CHECK_INT(ex->metrics.parks, 0);
    tear_down();
}

/* Also from far levels of the wheel, where a slot holds several of them. */
static void
deadlines_of_all_sizes_come_in_order(void)
{
    enum { COUNT = 64 };
    static struct sleeper sleepers[COUNT];
    set_up();
    for (int i = 0; i < COUNT; i++) {
        int which = i * 37 % COUNT;
        spawn_sleeper(&sleepers[which], (char)('0' + which), (uint64_t)1 << which, 1);
    }
    struct sleeper *last = &sleepers[COUNT - 1];
    CHECK_INT(pac_executor_run(ex), PAC_DEADLOCK);
    CHECK_INT(logged, COUNT);
    for (int i = 0; i < logged; i++) {
        CHECK_INT(letters[i], '0' + i);
        CHECK(times_ns[i] == (uint64_t)1 << i);
    }
    CHECK(pac_executor_now_ns(ex) == (uint64_t)1 << 63);
    CHECK_INT(last->left, 0);
    /* To the last one that there is, and never is never. */
    CHECK_INT(block_on_sleeper('z', ((uint64_t)1 << 63) - 2, 1), PAC_OK);
    CHECK(pac_executor_now_ns(ex) == PAC_NEVER - 1);
    CHECK_INT(block_on_sleeper('n', PAC_NEVER, 1), PAC_DEADLOCK);
    tear_down();
}

static void
a_delay_of_zero_takes_no_time(void)
{
    set_up();
    CHECK_INT(block_on_sleeper('z', 0, 5), PAC_OK);
    CHECK_LOG("zzzzz");
    CHECK_INT(pac_executor_now_ns(ex), 0);
    CHECK_INT(ex->metrics.timers_fired, 5);
    tear_down();
}

struct yielder {
    struct pac_future future;
    int left;
    void (*then)(void);
};

static enum pac_poll
yielder_poll(struct pac_future *f, struct pac_context *cx)
{
    struct yielder *y = PAC_CONTAINER_OF(f, struct yielder, future);
    if (y->left-- > 0) {
        pac_waker_wake_by_ref(cx->waker);
        return PAC_PENDING;
    }
    if (y->then != NULL) {
        y->then();
    }
    return PAC_READY;
}

static void
yielder_drop(struct pac_future *f)
{
    (void)f;
}

static const struct pac_future_vtable yielder_vtable = {
    .poll = yielder_poll,
    .drop = yielder_drop,
};

static void
note_y(void)
{
    log_letter('y');
}

static void
time_stands_still_while_anything_is_ready(void)
{
    struct sleeper a;
    struct yielder y = {{&yielder_vtable}, 100000, note_y};
    set_up();
    spawn_sleeper(&a, 'a', 1, 1);
    CHECK_INT(pac_executor_block_on(ex, &y.future), PAC_OK);
    CHECK_INT(pac_executor_now_ns(ex), 0);
    CHECK_LOG("y");
    tear_down();
}

static void
advance_5(void)
{
    pac_executor_advance(ex, 5);
    log_letter('+');
}

static void
advance_moves_it_by_hand(void)
{
    struct sleeper a, b;
    struct yielder y = {{&yielder_vtable}, 3, advance_5}, rest = {{&yielder_vtable}, 8, note_y};
    set_up();
    pac_executor_advance(ex, 1000);
    CHECK_INT(pac_executor_now_ns(ex), 1000);
    spawn(&y.future);
    spawn_sleeper(&b, 'b', 4, 1);
    spawn_sleeper(&a, 'a', 3, 1);
    CHECK_INT(pac_executor_block_on(ex, &rest.future), PAC_OK);
    CHECK_LOG("+aby"); /* both are due at once, by deadline */
    CHECK_INT(times_ns[0], 1005);
    CHECK_INT(times_ns[1], 1005);
    pac_executor_advance(ex, PAC_NEVER);
    CHECK(pac_executor_now_ns(ex) == PAC_NEVER - 1);
    tear_down();
}

/* ---- what else may happen ------------------------------------------------------------------- */

struct outside {
    struct pac_runnable runnable;
    uint64_t at_ns;
};

static void
outside_run(struct pac_runnable *r)
{
    ((struct outside *)(void *)r)->at_ns = pac_executor_now_ns(ex);
    log_letter('o');
    if (ex->clock_holds > 0) {
        pac_executor_release_clock(ex);
    }
}

static void
outside_discard(struct pac_runnable *r)
{
    (void)r;
}

static const struct pac_runnable_vtable outside_vtable = {
    .run = outside_run,
    .discard = outside_discard,
};

static void *
send_later(void *runnable)
{
    usleep(20000);
    CHECK_INT(pac_executor_submit(ex, runnable), PAC_OK);
    return NULL;
}

static void
a_held_clock_waits_for_the_thread(void)
{
    struct outside o = {{NULL, &outside_vtable}, 1};
    pthread_t thread;
    set_up();
    pac_executor_hold_clock(ex);
    pthread_create(&thread, NULL, send_later, &o);
    CHECK_INT(block_on_sleeper('s', 7, 1), PAC_OK);
    pthread_join(thread, NULL);
    CHECK_LOG("os");
    CHECK_INT(o.at_ns, 0);
    CHECK_INT(times_ns[1], 7);
    CHECK(ex->metrics.parks > 0);
    tear_down();
}

static void
a_wake_that_has_come_wins_over_a_jump(void)
{
    struct outside o = {{NULL, &outside_vtable}, 1};
    set_up();
    /* Not entered here, so as from another thread. */
    CHECK_INT(pac_executor_submit(ex, &o.runnable), PAC_OK);
    CHECK_INT(block_on_sleeper('s', 7, 1), PAC_OK);
    CHECK_LOG("os");
    CHECK_INT(o.at_ns, 0);
    tear_down();
}

static void
drain(struct pac_source *source, unsigned readiness)
{
    char byte;
    CHECK_INT(readiness, PAC_READABLE);
    CHECK_INT(read(source->fd, &byte, 1), 1);
    log_letter('d');
}

static void
drain_and_stop(struct pac_source *source, unsigned readiness)
{
    drain(source, readiness);
    pac_executor_stop(ex);
}

static void *
write_later(void *fd)
{
    usleep(20000);
    CHECK_INT(write(*(int *)fd, "x", 1), 1);
    return NULL;
}

static void
descriptors_are_looked_at_before_a_jump_and_waited_for_at_the_end(void)
{
    int fds[2];
    pthread_t thread;
    CHECK_INT(pipe(fds), 0);
    struct pac_source source = {.fd = fds[0], .interest = PAC_READABLE, .ready = drain};
    set_up();
    CHECK_INT(pac_reactor_add(&ex->reactor, &source), PAC_OK);
    CHECK_INT(write(fds[1], "x", 1), 1);
    CHECK_INT(block_on_sleeper('s', 7, 1), PAC_OK);
    CHECK_LOG("ds");
    CHECK_INT(times_ns[0], 0);
    source.ready = drain_and_stop;
    pthread_create(&thread, NULL, write_later, &fds[1]);
    CHECK_INT(pac_executor_run(ex), PAC_OK);
    pthread_join(thread, NULL);
    CHECK_LOG("dsd");
    CHECK_INT(times_ns[2], 7);
    pac_reactor_remove(&ex->reactor, &source);
    CHECK_INT(pac_executor_run(ex), PAC_DEADLOCK);
    tear_down();
    close(fds[0]);
    close(fds[1]);
}

static void
note_time(struct pac_source *source, unsigned readiness)
{
    (void)source, (void)readiness;
    log_letter('d');
}

/* The wheel files timers anew on the way to a deadline; the clock does not stop there. */
static void
there_is_no_time_between_two_deadlines(void)
{
    int fds[2];
    CHECK_INT(pipe(fds), 0);
    struct pac_source source = {.fd = fds[0], .interest = PAC_READABLE, .ready = note_time};
    struct sleeper a, b;
    set_up();
    CHECK_INT(write(fds[1], "x", 1), 1); /* stays readable: each look at events is noted */
    CHECK_INT(pac_reactor_add(&ex->reactor, &source), PAC_OK);
    spawn_sleeper(&a, 'a', 100000, 1);
    spawn_sleeper(&b, 'b', 100001, 1);
    CHECK_INT(block_on_sleeper('r', 5000000, 1), PAC_OK);
    for (int i = 0; i < logged; i++) {
        uint64_t ns = times_ns[i];
        CHECK(ns == 0 || ns == 100000 || ns == 100001 || ns == 5000000);
    }
    CHECK(logged > 6);
    pac_reactor_remove(&ex->reactor, &source);
    tear_down();
    close(fds[0]);
    close(fds[1]);
}

static int asked;

static uint64_t
stuck_three_times(void *data)
{
    CHECK(data == NULL);
    return ++asked < 4 ? pac_clock_ns() + MS : 0;
}

static void
nothing_left_to_wait_for(void)
{
    set_up();
    CHECK_INT(pac_executor_run(ex), PAC_DEADLOCK);
    CHECK_INT(block_on_sleeper('n', PAC_NEVER, 1), PAC_DEADLOCK);
    CHECK_INT(block_on_sleeper('s', 1, 1), PAC_OK); /* it can be used again */
    tear_down();
    asked = 0;
    set_up_with(stuck_three_times);
    uint64_t before_ns = pac_clock_ns();
    CHECK_INT(pac_executor_run(ex), PAC_DEADLOCK);
    CHECK_INT(asked, 4);
    CHECK(pac_clock_ns() - before_ns >= 3 * MS);
    tear_down();
}

/* ---- a seed --------------------------------------------------------------------------------- */

/* Ten sleepers with the same rhythm; what they log. */
static const char *
run_seeded(bool seeded, uint64_t seed)
{
    enum { COUNT = 10, TIMES = 20 };
    static struct sleeper sleepers[COUNT];
    set_up();
    if (seeded) {
        pac_executor_seed(ex, seed);
    }
    for (int i = 0; i < COUNT; i++) {
        spawn_sleeper(&sleepers[i], (char)('a' + i), 10, TIMES);
    }
    CHECK_INT(pac_executor_run(ex), PAC_DEADLOCK);
    CHECK_INT(logged, COUNT * TIMES);
    for (int i = 0; i < logged; i++) {
        CHECK_INT(times_ns[i], (i / COUNT + 1) * 10);
    }
    tear_down();
    return letters;
}

static void
a_seed_orders_the_tasks_of_a_pass_and_repeats(void)
{
    char first[LOG + 1], plain[LOG + 1];
    int same = 0;
    strcpy(plain, run_seeded(false, 0));
    CHECK(strncmp(plain, "abcdefghijabcdefghij", 20) == 0);
    for (uint64_t seed = 0; seed < 50; seed++) {
        strcpy(first, run_seeded(true, seed));
        CHECK(strcmp(first, run_seeded(true, seed)) == 0);
        CHECK(strcmp(first, plain) != 0);
        same += strcmp(first, run_seeded(true, seed + 1)) == 0;
    }
    CHECK_INT(same, 0);
}

static void
picking_at_random_needs_a_seed(void)
{
    size_t seen[5] = {0};
    set_up();
    for (int round = 0; round < 10; round++) {
        CHECK_INT(pac_executor_pick(ex, 5), 0);
    }
    pac_executor_seed(ex, 3);
    for (int round = 0; round < 500; round++) {
        size_t which = pac_executor_pick(ex, 5);
        CHECK(which < 5);
        seen[which]++;
    }
    for (size_t i = 0; i < 5; i++) {
        CHECK(seen[i] > 50 && seen[i] < 150);
    }
    tear_down();
}

int
main(void)
{
    RUN(time_jumps_to_each_deadline_to_the_nanosecond);
    RUN(deadlines_of_all_sizes_come_in_order);
    RUN(a_delay_of_zero_takes_no_time);
    RUN(time_stands_still_while_anything_is_ready);
    RUN(advance_moves_it_by_hand);
    RUN(a_held_clock_waits_for_the_thread);
    RUN(a_wake_that_has_come_wins_over_a_jump);
    RUN(descriptors_are_looked_at_before_a_jump_and_waited_for_at_the_end);
    RUN(there_is_no_time_between_two_deadlines);
    RUN(nothing_left_to_wait_for);
    RUN(a_seed_orders_the_tasks_of_a_pass_and_repeats);
    RUN(picking_at_random_needs_a_seed);
    return TESTING_RESULT();
}
