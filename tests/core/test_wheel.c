/* test_wheel.c - the wheel against a table that anybody can check by eye.
 *
 * The first half names the edges one by one. The second runs random histories with a model beside
 * the wheel: a table of what is armed for when, searched from end to end at each step. Every step
 * compares the two and calls pac_wheel_check.
 *
 * Give a number to run the random histories with other seeds.
 */
#include "wheel.h"

#include "testing.h"

#include <string.h>

#define TICK PAC_WHEEL_TICK_NS

/* ---- a hand-held wheel ---------------------------------------------------------------------- */

enum { TIMERS = 64 };

static struct pac_wheel wheel;
static struct pac_timer timers[TIMERS];
static struct pac_list expired;

/* Of the wheel that begin_at makes: a tick, and the levels that its ticks can have. */
static uint64_t tick_ns = TICK;
enum { COARSE_LEVELS = 9 };
static unsigned levels = COARSE_LEVELS;

static void
begin_at(uint64_t now_ns)
{
    if (tick_ns == 1) {
        pac_wheel_init_exact(&wheel, now_ns);
    }
    else {
        pac_wheel_init(&wheel, now_ns);
    }
    pac_list_init(&expired);
    for (int i = 0; i < TIMERS; i++) {
        pac_timer_init(&timers[i], NULL);
    }
}

/* What is handed out at `now_ns`, as letters: "ac" is timers 0 and 2. */
static const char *
fired_at(uint64_t now_ns)
{
    static char letters[TIMERS + 1];
    struct pac_timer *t;
    int n = 0;
    pac_wheel_advance(&wheel, now_ns, &expired);
    CHECK(pac_wheel_check(&wheel));
    while ((t = pac_wheel_pop_expired(&expired)) != NULL) {
        CHECK(!pac_timer_is_armed(t));
        CHECK(t->filed_ns == t->deadline_ns);
        letters[n++] = (char)('a' + (t - timers));
    }
    letters[n] = 0;
    return letters;
}

static void
insert(int i, uint64_t deadline_ns)
{
    pac_wheel_insert(&wheel, &timers[i], deadline_ns);
    CHECK(pac_wheel_check(&wheel));
}

static void
reset(int i, uint64_t deadline_ns)
{
    pac_wheel_reset(&wheel, &timers[i], deadline_ns);
    CHECK(pac_wheel_check(&wheel));
}

static void
take_out(int i)
{
    pac_wheel_remove(&wheel, &timers[i]);
    CHECK(pac_wheel_check(&wheel));
    CHECK(!pac_timer_is_armed(&timers[i]));
}

#define CHECK_FIRED(now_ns, letters)                                                           \
    do {                                                                                       \
        const char *got = fired_at(now_ns);                                                    \
        if (strcmp(got, (letters)) != 0) {                                                     \
            fprintf(stderr, "%s:%d: fired \"%s\", expected \"%s\"\n", __FILE__, __LINE__, got, \
                    (letters));                                                                \
            testing_failures++;                                                                \
        }                                                                                      \
    } while (0)

/* ---- edges by name -------------------------------------------------------------------------- */

static void
test_an_empty_wheel_waits_for_nothing(void)
{
    begin_at(12345);
    CHECK(pac_wheel_check(&wheel));
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
    CHECK_FIRED(PAC_NEVER, "");
    CHECK(pac_wheel_pop_expired(&expired) == NULL);
}

static void
test_a_deadline_rounds_up_and_the_time_down(void)
{
    begin_at(0);
    insert(0, 10 * TICK);
    insert(1, 10 * TICK + 1);
    insert(2, 11 * TICK);
    CHECK_FIRED(10 * TICK - 1, "");
    CHECK_FIRED(10 * TICK, "a");
    CHECK_FIRED(11 * TICK - 1, "");
    CHECK(pac_wheel_next_ns(&wheel) == 11 * TICK);
    CHECK_FIRED(11 * TICK, "bc");
    CHECK_INT(wheel.count, 0);
}

/* One timer at each tick around a power of 64, from each of several starts: nothing a tick early,
 * nothing a tick late. */
static void
ticks_around(uint64_t middle, uint64_t start)
{
    begin_at(start * TICK);
    for (int i = 0; i < 5; i++) {
        insert(i, (middle - 2 + (uint64_t)i) * TICK);
    }
    for (int i = 0; i < 5; i++) {
        uint64_t due_ns = (middle - 2 + (uint64_t)i) * TICK;
        char letter[2] = {(char)('a' + i), 0};
        CHECK_FIRED(due_ns - 1, "");
        CHECK_FIRED(due_ns, letter);
    }
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
}

static void
test_slot_boundaries(void)
{
    uint64_t power = 64;
    for (int level = 1; level <= 8; level++, power *= 64) {
        ticks_around(power, 0);
        ticks_around(power, power - 4);
        ticks_around(power, power - power / 64 - 3);
        ticks_around(3 * power, 2 * power + 1);
        ticks_around(2 * power, 1);
    }
}

static void
test_each_level_files_by_its_digit(void)
{
    uint64_t power = 1;
    begin_at(0);
    for (unsigned level = 0; level < levels; level++, power *= 64) {
        insert((int)level, 3 * power * TICK);
        CHECK_INT(timers[level].slot, level * PAC_WHEEL_SLOTS + 3);
        CHECK_INT(wheel.levels, (2u << level) - 1);
    }
    CHECK_INT(wheel.count, levels);
    for (int level = (int)levels - 1; level >= 0; level--) {
        take_out(level);
        CHECK_INT(wheel.levels, (1u << level) - 1);
    }
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
}

/* A timer years ahead costs one advance a level at the most, whichever way the time goes there. */
static void
test_far_ahead(void)
{
    const uint64_t start = 86400ull * 1000000000ull, year = 365 * start;
    begin_at(start);
    insert(0, start + 500 * year);
    int advances = 0;
    while (timers[0].slot < PAC_WHEEL_LEVELS * PAC_WHEEL_SLOTS && advances < 20) {
        uint64_t next_ns = pac_wheel_next_ns(&wheel);
        CHECK(next_ns < start + 500 * year + TICK);
        pac_wheel_advance(&wheel, next_ns, &expired);
        CHECK(pac_wheel_check(&wheel));
        advances++;
    }
    CHECK(advances <= (int)levels);
    CHECK(pac_wheel_pop_expired(&expired) == &timers[0]);

    begin_at(start);
    insert(0, start + 500 * year);
    insert(1, start + 2 * year);
    CHECK_FIRED(start + 500 * year - 1, "b");
    CHECK_FIRED(start + 500 * year + TICK, "a");
}

static void
test_an_exact_wheel_knows_every_nanosecond(void)
{
    tick_ns = 1;
    begin_at(0);
    CHECK(pac_wheel_elapsed_ns(&wheel) == 0);
    insert(0, 1);
    insert(1, 3);
    insert(2, 2);
    insert(3, PAC_NEVER - 1);
    insert(4, PAC_NEVER);
    insert(5, 0);
    CHECK_FIRED(0, "f");
    for (int i = 0; i < 3; i++) {
        const char *const letters[] = {"a", "c", "b"};
        uint64_t next_ns = pac_wheel_next_ns(&wheel);
        CHECK(next_ns == (uint64_t)i + 1);
        CHECK_FIRED(next_ns, letters[i]);
        CHECK(pac_wheel_elapsed_ns(&wheel) == next_ns);
    }
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER - 1);
    CHECK_FIRED(PAC_NEVER - 2, "");
    CHECK_FIRED(PAC_NEVER - 1, "d");
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
    tick_ns = TICK;
}

static void
test_the_last_ticks_of_64_bits(void)
{
    const uint64_t last = PAC_NEVER / TICK; /* the last tick that there is */
    begin_at((last - 3) * TICK);
    insert(0, last * TICK);
    insert(1, last * TICK - 1);
    insert(2, last * TICK + 1); /* rounded up, beyond the end of time */
    insert(3, PAC_NEVER - 1);
    CHECK_INT(wheel.count, 4);
    CHECK_FIRED((last - 1) * TICK, "");
    CHECK(pac_wheel_next_ns(&wheel) == last * TICK);
    CHECK_FIRED(last * TICK, "ba");
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
    CHECK_FIRED(PAC_NEVER, "");
    CHECK_INT(wheel.count, 2);
    take_out(2);
    reset(3, 5);
    CHECK(pac_wheel_next_ns(&wheel) == 0);
    CHECK_FIRED(PAC_NEVER, "d");
}

static void
test_never(void)
{
    begin_at(1000 * TICK);
    insert(0, PAC_NEVER);
    CHECK_INT(wheel.count, 0);
    CHECK(!pac_timer_is_armed(&timers[0]));
    CHECK(timers[0].deadline_ns == PAC_NEVER);
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
    CHECK_FIRED(PAC_NEVER - 1, "");

    begin_at(1000 * TICK);
    insert(0, PAC_NEVER);
    insert(0, PAC_NEVER); /* not armed, so it may be armed */
    reset(0, 1002 * TICK);
    CHECK(pac_timer_is_armed(&timers[0]));
    reset(0, PAC_NEVER);
    CHECK(!pac_timer_is_armed(&timers[0]));
    CHECK_INT(wheel.count, 0);
    CHECK(pac_wheel_next_ns(&wheel) == PAC_NEVER);
    CHECK_FIRED(2000 * TICK, "");
    take_out(0);
    reset(0, 1);
    CHECK_FIRED(0, "a");
}

static void
test_late_arming_is_handed_out_by_the_next_advance(void)
{
    begin_at(1000 * TICK + 77);
    insert(0, 1000 * TICK);
    insert(1, 0);
    insert(2, 1001 * TICK);
    insert(3, 1000 * TICK - 1);
    insert(4, 0);
    CHECK_INT(wheel.count, 5);
    CHECK(pac_list_is_empty(&expired));
    CHECK(pac_wheel_next_ns(&wheel) == 0);
    take_out(4);
    CHECK_INT(wheel.count, 4);
    CHECK_FIRED(1000 * TICK + 77, "bda");
    CHECK(pac_wheel_next_ns(&wheel) == 1001 * TICK);
    insert(0, 1000 * TICK); /* with what is due besides: in one order */
    insert(1, 1001 * TICK);
    insert(3, 999 * TICK);
    CHECK_FIRED(1001 * TICK, "dacb");
}

static void
test_late_arming_then_reset(void)
{
    begin_at(1000 * TICK);
    insert(0, 5);
    insert(1, 6);
    insert(2, 7);
    reset(0, 1010 * TICK);
    reset(1, 4);
    reset(2, 8);
    CHECK_INT(wheel.count, 3);
    CHECK_FIRED(1000 * TICK, "bc");
    CHECK(pac_wheel_next_ns(&wheel) == 1010 * TICK);
    CHECK_FIRED(1010 * TICK, "a");
}

/* It stands in the slot of its old deadline: that is where the bit has to be cleared. */
static void
test_reset_to_later_then_remove(void)
{
    begin_at(0);
    insert(0, 5 * TICK);
    insert(1, 70 * TICK);
    reset(0, 70 * TICK);
    CHECK_INT(timers[0].slot, 5);
    take_out(0);
    CHECK_INT(wheel.count, 1);
    CHECK(wheel.occupied[0] == 0);
    CHECK(wheel.occupied[1] == 2);
    CHECK_FIRED(70 * TICK, "b");
}

static void
test_reset_to_later_is_filed_anew(void)
{
    begin_at(0);
    insert(0, 5 * TICK);
    insert(1, 5 * TICK);
    reset(0, 5000 * TICK);
    CHECK(pac_wheel_next_ns(&wheel) == 5 * TICK);
    CHECK_FIRED(5 * TICK, "b");
    CHECK_INT(wheel.count, 1);
    CHECK_FIRED(5000 * TICK - 1, "");
    CHECK_FIRED(5000 * TICK, "a");

    begin_at(0);
    insert(0, 5 * TICK);
    reset(0, 5000 * TICK);
    reset(0, 6 * TICK); /* earlier than the last deadline, yet later than the one it is filed for */
    CHECK_FIRED(5999, "");
    CHECK_FIRED(6 * TICK, "a");

    begin_at(0);
    insert(0, 5 * TICK);
    reset(0, 5000 * TICK);
    CHECK_FIRED(9000 * TICK, "a"); /* by one leap over both deadlines */
}

static void
test_reset_to_earlier(void)
{
    begin_at(0);
    insert(0, 5000 * TICK);
    reset(0, 3 * TICK);
    CHECK_INT(wheel.count, 1);
    CHECK_INT(wheel.levels, 1);
    CHECK(pac_wheel_next_ns(&wheel) == 3 * TICK);
    CHECK_FIRED(3 * TICK, "a");
    CHECK_FIRED(6000 * TICK, "");
    reset(0, 6001 * TICK); /* not armed: arms it */
    CHECK_FIRED(6001 * TICK, "a");
}

/* Within its tick a reset moves nothing, but it counts for the order. */
static void
test_reset_within_the_tick(void)
{
    begin_at(0);
    insert(0, 4 * TICK + 1);
    insert(1, 4 * TICK + 2);
    insert(2, 4 * TICK + 3);
    reset(0, 4 * TICK + 2);
    CHECK_FIRED(5 * TICK, "bac");
    insert(0, 6 * TICK);
    insert(1, 6 * TICK);
    reset(0, 6 * TICK); /* armed again, so the later of the two */
    CHECK_FIRED(6 * TICK, "ba");
}

static void
test_removing_twice_and_what_was_never_armed(void)
{
    begin_at(0);
    take_out(0);
    insert(0, 9 * TICK);
    take_out(0);
    take_out(0);
    CHECK_INT(wheel.count, 0);
    insert(0, 7 * TICK);
    CHECK_FIRED(9 * TICK, "a");
    take_out(0);
    CHECK_FIRED(10 * TICK, "");
}

static void
test_equal_deadlines_fire_in_arming_order_across_cascades(void)
{
    const uint64_t due_ns = (64 * 64 * 3 + 64 * 7 + 9) * TICK;
    begin_at(0);
    insert(0, due_ns); /* level 2 */
    CHECK_FIRED(64 * 64 * 3 * TICK, "");
    insert(1, due_ns); /* level 1 */
    insert(5, due_ns + 1);
    CHECK_FIRED((64 * 64 * 3 + 64 * 7) * TICK, "");
    insert(2, due_ns); /* level 0 */
    insert(3, due_ns - 1);
    insert(4, due_ns);
    CHECK_FIRED(due_ns, "dabce");
    CHECK_FIRED(due_ns + TICK, "f");
}

/* Timers of one tick that were reset there from elsewhere come back in a muddle. */
static void
test_the_order_within_a_tick(void)
{
    char expected[TIMERS + 1] = {0};
    begin_at(0);
    for (int i = 0; i < 26; i++) {
        insert(i, 100 * TICK - (uint64_t)(i * 7 % 26) - 1);
    }
    for (int i = 0; i < 26; i++) {
        expected[25 - i * 7 % 26] = (char)('a' + i);
    }
    CHECK_FIRED(100 * TICK, expected);
}

static void
test_the_clock_going_backwards(void)
{
    begin_at(1000 * TICK);
    insert(0, 1005 * TICK);
    CHECK_FIRED(1002 * TICK, "");
    CHECK_FIRED(0, "");
    CHECK(pac_wheel_next_ns(&wheel) == 1005 * TICK);
    insert(1, 1001 * TICK); /* the wheel has been there */
    CHECK_FIRED(900 * TICK, "b");
    CHECK_FIRED(1005 * TICK, "a");
    CHECK_FIRED(1, "");
}

static void
test_appends_to_what_is_expired_already(void)
{
    struct pac_timer *t;
    begin_at(0);
    insert(0, 9 * TICK);
    insert(1, 3 * TICK);
    pac_wheel_advance(&wheel, 9 * TICK, &expired);
    insert(2, 1 * TICK);
    insert(3, 10 * TICK);
    pac_wheel_advance(&wheel, 10 * TICK, &expired);
    const char *order = "bacd";
    for (int i = 0; i < 4; i++) {
        t = pac_wheel_pop_expired(&expired);
        CHECK(t == &timers[order[i] - 'a']);
    }
}

/* Half of them late already, so all of those are sorted at once: with a sort that is not n log n
 * this hangs. */
static void
test_many_due_in_one_leap_are_in_order(void)
{
    enum { MANY = 200000 };
    struct pac_timer *many = calloc(MANY, sizeof *many), *t;
    uint64_t last_ns = 0, state = 1;
    int handed_out = 0, disordered = 0;
    begin_at(50 * TICK);
    for (int i = 0; i < MANY; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        pac_timer_init(&many[i], NULL);
        pac_wheel_insert(&wheel, &many[i], (state >> 33) % (100 * TICK));
    }
    CHECK(pac_wheel_check(&wheel));
    pac_wheel_advance(&wheel, 100 * TICK, &expired);
    while ((t = pac_wheel_pop_expired(&expired)) != NULL) {
        disordered += t->deadline_ns < last_ns;
        last_ns = t->deadline_ns;
        handed_out++;
    }
    CHECK_INT(handed_out, MANY);
    CHECK_INT(disordered, 0);
    free(many);
}

/* ---- firing that touches the wheel ---------------------------------------------------------- */

static int fired[TIMERS];

static void
fire_and_meddle(struct pac_timer *t)
{
    int i = (int)(t - timers);
    fired[i]++;
    if (i == 0) {
        take_out(1);         /* stands behind it in the expired list */
        reset(2, 20 * TICK); /* so does this one: comes back later */
        take_out(3);         /* in the wheel still */
        insert(4, 1);        /* late: not in this advance */
        insert(5, 30 * TICK);
        insert(0, 40 * TICK); /* arming itself again */
        reset(6, PAC_NEVER);
    }
}

static int
fire_all(uint64_t now_ns)
{
    struct pac_timer *t;
    int n = 0;
    memset(fired, 0, sizeof fired);
    pac_wheel_advance(&wheel, now_ns, &expired);
    while ((t = pac_wheel_pop_expired(&expired)) != NULL) {
        t->fire(t);
        n++;
    }
    return n;
}

static void
test_firing_may_insert_reset_and_remove_others(void)
{
    begin_at(0);
    for (int i = 0; i < TIMERS; i++) {
        pac_timer_init(&timers[i], fire_and_meddle);
    }
    insert(0, 10 * TICK);
    insert(1, 10 * TICK);
    insert(2, 10 * TICK);
    insert(3, 50 * TICK);
    insert(6, 10 * TICK);
    insert(7, 10 * TICK);
    CHECK_INT(fire_all(10 * TICK), 2);
    CHECK_INT(fired[0], 1);
    CHECK_INT(fired[7], 1);
    CHECK_INT(wheel.count, 4);
    CHECK(pac_wheel_next_ns(&wheel) == 0);
    CHECK_INT(fire_all(10 * TICK), 1);
    CHECK_INT(fired[4], 1);
    CHECK_INT(fire_all(20 * TICK), 1);
    CHECK_INT(fired[2], 1);
    CHECK_INT(fire_all(30 * TICK), 1);
    CHECK_INT(fired[5], 1);
    take_out(0);
    CHECK_INT(fire_all(60 * TICK), 0);
    CHECK_INT(wheel.count, 0);
}

static void
test_one_in_an_expired_list_is_armed_until_it_is_popped(void)
{
    begin_at(0);
    insert(0, TICK);
    insert(1, TICK);
    insert(2, 3 * TICK);
    pac_wheel_advance(&wheel, TICK, &expired);
    CHECK(pac_timer_is_armed(&timers[0]));
    CHECK_INT(wheel.count, 1);
    take_out(0);
    CHECK_INT(wheel.count, 1); /* it had been counted out before */
    CHECK(pac_wheel_pop_expired(&expired) == &timers[1]);
    CHECK(pac_wheel_pop_expired(&expired) == NULL);
    CHECK(pac_wheel_next_ns(&wheel) == 3 * TICK);
}

/* ---- a million ------------------------------------------------------------------------------ */

static void
test_a_million_timers(void)
{
    enum { MILLION = 1000000 };
    struct pac_timer *many = calloc(MILLION, sizeof *many), *t;
    const uint64_t start = 987654321987654321u;
    uint64_t state = 7, last_ns = 0;
    int handed_out = 0, early = 0, late = 0, disordered = 0, removed = 0, advances = 0;
    begin_at(start);
    for (int i = 0; i < MILLION; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        pac_timer_init(&many[i], NULL);
        pac_wheel_insert(&wheel, &many[i], start + TICK + (state >> 33) % 1000000000u);
    }
    CHECK(pac_wheel_check(&wheel));
    for (int i = 0; i < MILLION; i += 3, removed++) {
        pac_wheel_remove(&wheel, &many[i]);
    }
    CHECK(pac_wheel_check(&wheel));
    for (int i = 1; i < MILLION; i += 3) {
        pac_wheel_reset(&wheel, &many[i], many[i].deadline_ns + 100000000u);
    }
    CHECK(pac_wheel_check(&wheel));
    for (uint64_t now; (now = pac_wheel_next_ns(&wheel)) != PAC_NEVER; advances++) {
        pac_wheel_advance(&wheel, now, &expired);
        while ((t = pac_wheel_pop_expired(&expired)) != NULL) {
            early += now < t->deadline_ns;
            late += now - t->deadline_ns >= TICK;
            disordered += t->deadline_ns < last_ns;
            disordered += (t - many) % 3 == 0;
            last_ns = t->deadline_ns;
            handed_out++;
        }
    }
    CHECK(pac_wheel_check(&wheel));
    CHECK_INT(handed_out, MILLION - removed);
    CHECK_INT(early, 0);
    CHECK_INT(late, 0);
    CHECK_INT(disordered, 0);
    CHECK(advances < 1200000000 / (int)TICK * 2);
    free(many);
}

/* ---- random histories ----------------------------------------------------------------------- */

struct history {
    const char *name;
    uint64_t start_ns;     /* the clock begins here... */
    uint64_t start_spread; /* ...plus up to this */
    uint64_t deadline_max; /* how far ahead timers are armed */
    uint64_t step_max;     /* how far an advance goes */
    bool removing;
    bool resetting;
    bool backwards; /* the clock may */
};

/* The model of timer i: what a user of the wheel thinks of it. */
struct expectation {
    bool armed;
    bool was_late; /* due already when it was armed, so by no means fired in time */
    uint64_t deadline_ns;
    uint64_t order; /* of arming */
};

enum { ALIVE = 48, STEPS = 250 };

static struct {
    const struct history *history;
    uint64_t random;
    uint64_t now_ns; /* the latest time that the wheel was told */
    uint64_t order;
    struct expectation expect[ALIVE];
    bool failed;
} run;

#define REQUIRE(x)                                                                                \
    do {                                                                                          \
        if (!(x) && !run.failed) {                                                                \
            fprintf(stderr, "%s:%d: \"%s\": not so: %s\n", __FILE__, __LINE__, run.history->name, \
                    #x);                                                                          \
            run.failed = true;                                                                    \
            testing_failures++;                                                                   \
        }                                                                                         \
    } while (0)

static uint64_t
random_64(void)
{
    uint64_t z = run.random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t
random_upto(uint64_t max)
{
    return max == UINT64_MAX ? random_64() : random_64() % (max + 1);
}

static uint64_t
ticks_up(uint64_t ns)
{
    return ns / tick_ns + (ns % tick_ns != 0);
}

/* Up to `max`, and a little as often as a lot. */
static uint64_t
random_distance(uint64_t max)
{
    return random_upto(max) >> random_upto(24);
}

static uint64_t
random_deadline(void)
{
    switch (random_upto(11)) {
        case 0:
            return PAC_NEVER;
        case 1: /* passed */
            return run.now_ns - random_upto(run.now_ns < 4 * tick_ns ? run.now_ns : 4 * tick_ns);
        case 2:
            return random_upto(run.now_ns);
        case 3: /* the same as another one's */
        case 4:
            return run.expect[random_upto(ALIVE - 1)].deadline_ns;
        case 5: /* at the edge of a slot */
        {
            uint64_t width = tick_ns << 6 * random_upto(levels - 2);
            uint64_t edge = pac_ns_add(run.now_ns, width) / width * width;
            return pac_ns_add(edge - 1, random_upto(2));
        }
        default:
            return pac_ns_add(run.now_ns, random_distance(run.history->deadline_max));
    }
}

static int
expect_next(void)
{
    int first = -1;
    for (int i = 0; i < ALIVE; i++) {
        struct expectation *e = &run.expect[i], *f = first < 0 ? NULL : &run.expect[first];
        if (e->armed && ticks_up(e->deadline_ns) <= run.now_ns / tick_ns &&
            (f == NULL || e->deadline_ns < f->deadline_ns ||
             (e->deadline_ns == f->deadline_ns && e->order < f->order))) {
            first = i;
        }
    }
    return first;
}

static size_t
expect_count(void)
{
    size_t n = 0;
    for (int i = 0; i < ALIVE; i++) {
        n += run.expect[i].armed;
    }
    return n;
}

/* The model of arming, for insert and reset alike. */
static void
expect_armed(int i, uint64_t deadline_ns)
{
    run.expect[i].armed = deadline_ns != PAC_NEVER;
    run.expect[i].was_late = ticks_up(deadline_ns) <= run.now_ns / tick_ns;
    run.expect[i].deadline_ns = deadline_ns;
    run.expect[i].order = ++run.order;
}

static void
step_change(void)
{
    int i = (int)random_upto(ALIVE - 1);
    uint64_t deadline_ns = random_deadline();
    if (!run.expect[i].armed) {
        pac_wheel_insert(&wheel, &timers[i], deadline_ns);
        expect_armed(i, deadline_ns);
    }
    else if (run.history->removing && random_upto(2) == 0) {
        pac_wheel_remove(&wheel, &timers[i]);
        run.expect[i].armed = false;
    }
    else if (run.history->resetting) {
        pac_wheel_reset(&wheel, &timers[i], deadline_ns);
        expect_armed(i, deadline_ns);
    }
}

/* Advance, and take out one by one what the model says, now and then changing one of those that
 * still stand in the expired list. */
static void
step_advance(uint64_t now_ns, bool in_time, bool meddle)
{
    struct pac_timer *t;
    run.now_ns = now_ns > run.now_ns ? now_ns : run.now_ns;
    pac_wheel_advance(&wheel, now_ns, &expired);
    REQUIRE(pac_wheel_check(&wheel));
    for (;;) {
        int i = expect_next();
        t = pac_wheel_pop_expired(&expired);
        if (i < 0 || t == NULL) {
            REQUIRE(t == NULL && i < 0);
            break;
        }
        REQUIRE(t == &timers[i]);
        REQUIRE(t->filed_ns == run.expect[i].deadline_ns);
        REQUIRE(t->filed_ns <= run.now_ns);
        REQUIRE(!in_time || run.expect[i].was_late || run.now_ns - t->filed_ns < tick_ns);
        run.expect[i].armed = false;
        if (meddle && random_upto(3) == 0) {
            int other = (int)random_upto(ALIVE - 1);
            /* Not a deadline that has passed: it would come by the next advance, where the model,
             * which looks at the time alone, would want it now. */
            uint64_t later_ns = pac_ns_add(run.now_ns, tick_ns + random_upto(9 * tick_ns));
            if (random_upto(1) == 0) {
                pac_wheel_remove(&wheel, &timers[other]);
                run.expect[other].armed = false;
            }
            else {
                pac_wheel_reset(&wheel, &timers[other], later_ns);
                expect_armed(other, later_ns);
            }
        }
        if (run.failed) {
            break;
        }
    }
    REQUIRE(wheel.count == expect_count());
}

static void
step_time(void)
{
    uint64_t next_ns = pac_wheel_next_ns(&wheel);
    switch (random_upto(4)) {
        case 0:
            if (next_ns != PAC_NEVER) {
                step_advance(next_ns, true, true);
            }
            break;
        case 1: /* before next_ns nothing is handed out, but it may turn out to be later */
            if (next_ns != PAC_NEVER && next_ns > run.now_ns + 1) {
                step_advance(next_ns - 1, true, false);
                REQUIRE(pac_wheel_next_ns(&wheel) >= next_ns);
            }
            break;
        case 2:
            if (run.history->backwards) {
                step_advance(random_upto(run.now_ns), false, true);
            }
            break;
        default:
            step_advance(pac_ns_add(run.now_ns, random_distance(run.history->step_max)), false,
                         true);
            break;
    }
}

/* Wait for next_ns until there is none: everything comes, and each timer costs at most one advance
 * a level, as many again if a reset to later had left it where it was. */
static void
finish(void)
{
    int advances = 0, limit = (int)expect_count() * 2 * (int)levels + 1;
    for (uint64_t next_ns; (next_ns = pac_wheel_next_ns(&wheel)) != PAC_NEVER && !run.failed;) {
        step_advance(next_ns, true, false);
        REQUIRE(++advances <= limit);
    }
    for (int i = 0; i < ALIVE; i++) {
        /* Only the last tick of 64 bits does not come. */
        REQUIRE(!run.expect[i].armed || run.expect[i].deadline_ns > PAC_NEVER / tick_ns * tick_ns);
        REQUIRE(pac_timer_is_armed(&timers[i]) == run.expect[i].armed);
        pac_wheel_remove(&wheel, &timers[i]);
    }
    REQUIRE(wheel.count == 0 && wheel.levels == 0);
    REQUIRE(pac_wheel_check(&wheel));
}

static bool
run_history(const struct history *history, uint64_t seed)
{
    memset(&run, 0, sizeof run);
    run.history = history;
    run.random = seed;
    run.now_ns = pac_ns_add(history->start_ns, random_upto(history->start_spread));
    begin_at(run.now_ns);
    for (int i = 0; i < ALIVE; i++) {
        run.expect[i].deadline_ns = run.now_ns;
    }
    for (int step = 0; step < STEPS && !run.failed; step++) {
        if (random_upto(2) == 0) {
            step_time();
        }
        else {
            step_change();
            REQUIRE(pac_wheel_check(&wheel));
        }
        REQUIRE(wheel.count == expect_count());
    }
    finish();
    if (run.failed) {
        fprintf(stderr, "    start %llu, seed %llu\n", (unsigned long long)history->start_ns,
                (unsigned long long)seed);
    }
    return !run.failed;
}

#define MS ((uint64_t)1000000)
#define SECOND (1000 * MS)
#define DAY (86400 * SECOND)
#define YEAR (365 * DAY)

static const struct history histories[] = {
    {"nanoseconds", 0, UINT64_MAX / 2, 3 * TICK, TICK, true, true, false},
    {"milliseconds", 0, UINT64_MAX / 2, 100 * MS, 5 * MS, true, true, true},
    {"milliseconds, none removed", 0, YEAR, 100 * MS, 5 * MS, false, false, false},
    {"milliseconds, always reset", 0, YEAR, 100 * MS, 5 * MS, false, true, false},
    {"long leaps", 0, YEAR, 100 * MS, 30 * SECOND, true, true, true},
    {"seconds", DAY, YEAR, 60 * SECOND, SECOND, true, true, true},
    {"days", DAY, YEAR, 60 * DAY, 5 * DAY, true, true, true},
    {"years", 0, DAY, 40 * YEAR, 2 * YEAR, true, true, true},
    {"years, small steps", 0, DAY, 40 * YEAR, SECOND, true, true, true},
    {"all of 64 bits", 0, 0, UINT64_MAX, UINT64_MAX / 64, true, true, true},
    {"the end in ticks", UINT64_MAX - 40 * TICK, 40 * TICK, 9 * TICK, TICK, true, true, true},
    {"the end in a second", UINT64_MAX - SECOND, SECOND, 100 * MS, 20 * MS, true, true, true},
    {"the end in years", UINT64_MAX - 3 * YEAR, 3 * YEAR, YEAR, DAY, true, true, true},
};

enum { HISTORIES = sizeof histories / sizeof histories[0] };

static uint64_t seed = 1;

static void
test_random_histories(void)
{
    bool good = true;
    for (int i = 0; i < HISTORIES * 40 && good; i++) {
        good = run_history(&histories[i % HISTORIES], seed++);
    }
}

/* The same from within two ticks of every level's top, where all of its digits turn over. */
static void
test_random_histories_from_every_level_top(void)
{
    bool good = true;
    for (int level = 1; level < (int)levels; level++) {
        for (int i = 0; i < HISTORIES * 4 && good; i++) {
            struct history history = histories[i % HISTORIES];
            uint64_t tops = level == (int)levels - 1 ? 1 + seed % 3 : 1 + seed % 63;
            history.start_ns = (tops << 6 * level) * tick_ns - 2 * tick_ns;
            history.start_spread = 4 * tick_ns;
            good = run_history(&history, seed++);
        }
    }
}

int
main(int argc, char **argv)
{
    if (argc > 1) {
        seed = strtoull(argv[1], NULL, 10);
    }
    RUN(test_an_empty_wheel_waits_for_nothing);
    RUN(test_a_deadline_rounds_up_and_the_time_down);
    RUN(test_slot_boundaries);
    RUN(test_each_level_files_by_its_digit);
    RUN(test_far_ahead);
    RUN(test_an_exact_wheel_knows_every_nanosecond);
    RUN(test_the_last_ticks_of_64_bits);
    RUN(test_never);
    RUN(test_late_arming_is_handed_out_by_the_next_advance);
    RUN(test_late_arming_then_reset);
    RUN(test_reset_to_later_then_remove);
    RUN(test_reset_to_later_is_filed_anew);
    RUN(test_reset_to_earlier);
    RUN(test_reset_within_the_tick);
    RUN(test_removing_twice_and_what_was_never_armed);
    RUN(test_equal_deadlines_fire_in_arming_order_across_cascades);
    RUN(test_the_order_within_a_tick);
    RUN(test_the_clock_going_backwards);
    RUN(test_appends_to_what_is_expired_already);
    RUN(test_many_due_in_one_leap_are_in_order);
    RUN(test_firing_may_insert_reset_and_remove_others);
    RUN(test_one_in_an_expired_list_is_armed_until_it_is_popped);
    RUN(test_a_million_timers);
    for (int exact = 0; exact < 2; exact++) {
        tick_ns = exact ? 1 : TICK;
        levels = exact ? PAC_WHEEL_LEVELS : COARSE_LEVELS;
        RUN(test_random_histories);
        RUN(test_random_histories_from_every_level_top);
    }
    return TESTING_RESULT();
}
