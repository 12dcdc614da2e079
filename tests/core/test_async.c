/* test_async.c - async functions written with the macros: laziness, one poll through
 * all that is ready, what stands where at each suspension, and that everything is
 * dropped once, inside first. */
#include "async.h"
#include "leaf.h"

/* ---- an async function with three awaits ---------------------------------------------------- */

enum { AWAITS = 3 };

struct three {
    struct pac_async async;
    struct leaf leaves[AWAITS];
    int passed; /* how many awaits have been passed: the output */
    int starts; /* how often the first line ran */
    int cleanups;
    uint8_t cleanup_state; /* what cleanup saw */
};

static enum pac_poll
three_poll(struct pac_future *f, struct pac_context *cx)
{
    struct three *self = PAC_ASYNC_SELF(f, struct three);
    PAC_ASYNC_BEGIN(self);
    self->starts++;
    PAC_AWAIT(1, self, &self->leaves[0].future, cx);
    self->passed++;
    PAC_AWAIT(2, self, &self->leaves[1].future, cx);
    self->passed++;
    PAC_AWAIT(254, self, &self->leaves[2].future, cx);
    self->passed++;
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable three_vtable = {
    .poll = three_poll,
    .drop = pac_async_drop,
};

static void
three_cleanup(struct pac_async *a)
{
    struct three *self = PAC_CONTAINER_OF(a, struct three, async);
    self->cleanups++;
    self->cleanup_state = a->state;
    leaf_log(leaf_drops, 'c');
}

static void
three_init(struct three *t)
{
    /* Not zeros, so that init has to set what it is to set. */
    memset(&t->async, 0xA5, sizeof t->async);
    t->passed = t->starts = t->cleanups = 0;
    pac_async_init(&t->async, &three_vtable, three_cleanup);
    for (int i = 0; i < AWAITS; i++) {
        leaf_init(&t->leaves[i], 'l');
    }
    leaf_drops[0] = '\0';
}

static enum pac_poll
poll_with(struct pac_future *f, const struct pac_waker *waker)
{
    struct pac_context cx = {waker};
    return pac_future_poll(f, &cx);
}

/* The state in which `three` stands at its k-th await, and after the last. */
static const uint8_t three_states[] = {1, 2, 254, PAC_STATE_TERMINATED};
static const char *const three_names[] = {"State1", "State2", "State254", "Terminated"};

/* Poll up to the k-th await, whose leaf has not happened. */
static void
three_run_to(struct three *t, int k, const struct pac_waker *waker)
{
    for (int i = 0; i < k; i++) {
        t->leaves[i].happened = true;
    }
    CHECK_INT(poll_with(&t->async.future, waker), PAC_PENDING);
    CHECK_INT(t->async.state, three_states[k]);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void
nothing_runs_before_the_first_poll(void)
{
    struct three t;
    three_init(&t);
    CHECK_INT(t.starts, 0);
    CHECK_INT(t.async.state, PAC_STATE_START);
    CHECK(t.async.awaiting == NULL);
    CHECK(strcmp(pac_async_state_name(&t.async), "State0") == 0);

    pac_future_drop(&t.async.future);
    CHECK_INT(t.starts, 0);
    CHECK_INT(t.cleanups, 1);
    CHECK_INT(t.cleanup_state, PAC_STATE_START);
    CHECK(strcmp(leaf_drops, "c") == 0);
}

static void
three_ready_awaits_take_one_poll(void)
{
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    struct three t;
    three_init(&t);
    for (int i = 0; i < AWAITS; i++) {
        t.leaves[i].happened = true;
    }
    CHECK_INT(poll_with(&t.async.future, &waker), PAC_READY);
    CHECK_INT(t.passed, AWAITS);
    for (int i = 0; i < AWAITS; i++) {
        CHECK_INT(t.leaves[i].polls, 1);
        CHECK_INT(t.leaves[i].drops, 1);
    }
    CHECK_INT(counting_clones(&count), 0);
    CHECK_INT(t.async.state, PAC_STATE_TERMINATED);
    pac_future_drop(&t.async.future);
}

static void
state_is_readable_at_each_await(void)
{
    struct three t;
    three_init(&t);
    for (int k = 0; k < AWAITS; k++) {
        CHECK_INT(poll_with(&t.async.future, &pac_noop_waker), PAC_PENDING);
        CHECK_INT(t.async.state, three_states[k]);
        CHECK(strcmp(pac_async_state_name(&t.async), three_names[k]) == 0);
        CHECK(t.async.awaiting == &t.leaves[k].future);
        CHECK_INT(t.passed, k);
        if (k + 1 < AWAITS) {
            CHECK_INT(t.leaves[k + 1].polls, 0);
        }
        leaf_happen(&t.leaves[k]);
    }
    CHECK_INT(poll_with(&t.async.future, &pac_noop_waker), PAC_READY);
    CHECK(strcmp(pac_async_state_name(&t.async), "Terminated") == 0);
    CHECK(t.async.awaiting == NULL);
    CHECK_INT(t.starts, 1);
    pac_future_drop(&t.async.future);
}

static void
every_state_has_its_name(void)
{
    struct pac_async a;
    pac_async_init(&a, &three_vtable, NULL);
    for (int state = 0; state < PAC_STATE_TERMINATED; state++) {
        char expected[24];
        snprintf(expected, sizeof expected, "State%d", state);
        a.state = (uint8_t)state;
        CHECK(strcmp(pac_async_state_name(&a), expected) == 0);
    }
}

static void
spurious_polls_change_nothing(void)
{
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    struct three t;
    three_init(&t);
    for (int k = 0; k < AWAITS; k++) {
        for (int i = 1; i <= 10; i++) {
            CHECK_INT(poll_with(&t.async.future, &waker), PAC_PENDING);
            CHECK_INT(t.leaves[k].polls, i);
            CHECK_INT(t.passed, k);
        }
        CHECK_INT(counting_live(&count), 1);
        CHECK_INT(counting_wakes(&count), k);
        leaf_happen(&t.leaves[k]);
    }
    CHECK_INT(poll_with(&t.async.future, &waker), PAC_READY);
    CHECK_INT(t.starts, 1);
    CHECK_INT(counting_clones(&count), AWAITS);
    CHECK_INT(counting_live(&count), 0);
    pac_future_drop(&t.async.future);
}

static void
dropping_at_each_await_releases_all_once(void)
{
    for (int k = 0; k < AWAITS; k++) {
        struct counting_waker count;
        struct pac_waker waker = counting_waker_init(&count);
        struct three t;
        three_init(&t);
        three_run_to(&t, k, &waker);
        CHECK_INT(counting_live(&count), 1);
        leaf_drops[0] = '\0';

        pac_future_drop(&t.async.future);
        CHECK(strcmp(leaf_drops, "lc") == 0);
        CHECK_INT(t.cleanup_state, three_states[k]);
        CHECK_INT(counting_live(&count), 0);
        CHECK_INT(t.async.state, PAC_STATE_TERMINATED);
        for (int i = 0; i < AWAITS; i++) {
            CHECK_INT(t.leaves[i].drops, i <= k);
        }

        pac_future_drop(&t.async.future);
        CHECK_INT(poll_with(&t.async.future, &waker), PAC_READY);
        CHECK_INT(t.cleanups, 1);
        CHECK_INT(t.leaves[k].drops, 1);
        CHECK_INT(t.leaves[k].polls, 1);
        CHECK_INT(t.passed, k);
        CHECK_INT(counting_clones(&count), 1);
    }
}

static void
cleanup_after_the_end_runs_at_the_drop(void)
{
    struct three t;
    three_init(&t);
    for (int i = 0; i < AWAITS; i++) {
        t.leaves[i].happened = true;
    }
    CHECK_INT(poll_with(&t.async.future, &pac_noop_waker), PAC_READY);
    CHECK_INT(t.cleanups, 0);
    pac_future_drop(&t.async.future);
    pac_future_drop(&t.async.future);
    CHECK_INT(t.cleanups, 1);
    CHECK_INT(t.cleanup_state, PAC_STATE_TERMINATED);
    CHECK(strcmp(leaf_drops, "lllc") == 0);
}

static void
polling_after_the_end_runs_nothing(void)
{
    struct three t;
    three_init(&t);
    for (int i = 0; i < AWAITS; i++) {
        t.leaves[i].happened = true;
    }
    for (int i = 0; i < 3; i++) {
        CHECK_INT(poll_with(&t.async.future, &pac_noop_waker), PAC_READY);
    }
    CHECK_INT(t.starts, 1);
    CHECK_INT(t.passed, AWAITS);
    for (int i = 0; i < AWAITS; i++) {
        CHECK_INT(t.leaves[i].polls, 1);
    }
    pac_future_drop(&t.async.future);
}

static void
only_the_newest_waker_is_woken(void)
{
    struct counting_waker old_count, new_count;
    struct pac_waker old = counting_waker_init(&old_count);
    struct pac_waker newest = counting_waker_init(&new_count);
    struct three t;
    three_init(&t);
    CHECK_INT(poll_with(&t.async.future, &old), PAC_PENDING);
    CHECK_INT(poll_with(&t.async.future, &newest), PAC_PENDING);
    CHECK_INT(counting_live(&old_count), 0);
    leaf_happen(&t.leaves[0]);
    CHECK_INT(counting_wakes(&old_count), 0);
    CHECK_INT(counting_wakes(&new_count), 1);

    /* Moved back in the middle: the await that comes next gets the waker of this
     * poll. */
    CHECK_INT(poll_with(&t.async.future, &old), PAC_PENDING);
    leaf_happen(&t.leaves[1]);
    CHECK_INT(counting_wakes(&old_count), 1);
    CHECK_INT(counting_wakes(&new_count), 1);
    pac_future_drop(&t.async.future);
    CHECK_INT(counting_live(&old_count), 0);
    CHECK_INT(counting_live(&new_count), 0);
}

/* ---- loops and early returns ---------------------------------------------------------------- */

struct loop {
    struct pac_async async;
    struct leaf leaf;
    int rounds;
    int wanted;
    int returns_at; /* return from the middle in this round; < 0: never */
    bool ran_to_end;
};

/* What is awaited is worked out once for each await, not again when it is resumed. */
static struct pac_future *
next_leaf(struct loop *self)
{
    leaf_init(&self->leaf, 'l');
    return &self->leaf.future;
}

static enum pac_poll
loop_poll(struct pac_future *f, struct pac_context *cx)
{
    struct loop *self = PAC_ASYNC_SELF(f, struct loop);
    PAC_ASYNC_BEGIN(self);
    for (; self->rounds < self->wanted; self->rounds++) {
        if (self->rounds == self->returns_at) {
            PAC_ASYNC_RETURN(self);
        }
        PAC_AWAIT(7, self, next_leaf(self), cx);
    }
    self->ran_to_end = true;
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable loop_vtable = {
    .poll = loop_poll,
    .drop = pac_async_drop,
};

static void
loop_init(struct loop *l, int wanted, int returns_at)
{
    *l = (struct loop){.wanted = wanted, .returns_at = returns_at};
    pac_async_init(&l->async, &loop_vtable, NULL);
    leaf_drops[0] = '\0';
}

static void
an_await_in_a_loop_is_one_state(void)
{
    struct loop l;
    loop_init(&l, 3, -1);
    for (int round = 0; round < 3; round++) {
        CHECK_INT(poll_with(&l.async.future, &pac_noop_waker), PAC_PENDING);
        CHECK_INT(l.async.state, 7);
        CHECK_INT(l.rounds, round);
        CHECK_INT(l.leaf.polls, 1);
        leaf_happen(&l.leaf);
    }
    CHECK_INT(poll_with(&l.async.future, &pac_noop_waker), PAC_READY);
    CHECK_INT(l.rounds, 3);
    CHECK(l.ran_to_end);
    CHECK(strcmp(leaf_drops, "lll") == 0);
    pac_future_drop(&l.async.future);
}

static void
returning_from_the_middle_terminates(void)
{
    struct loop l;
    loop_init(&l, 3, 1);
    CHECK_INT(poll_with(&l.async.future, &pac_noop_waker), PAC_PENDING);
    leaf_happen(&l.leaf);
    CHECK_INT(poll_with(&l.async.future, &pac_noop_waker), PAC_READY);
    CHECK_INT(l.async.state, PAC_STATE_TERMINATED);
    CHECK_INT(poll_with(&l.async.future, &pac_noop_waker), PAC_READY);
    CHECK_INT(l.rounds, 1);
    CHECK(!l.ran_to_end);
    pac_future_drop(&l.async.future);
    CHECK(strcmp(leaf_drops, "l") == 0);
}

/* ---- async functions that await async functions --------------------------------------------- */

enum { DEPTH = 500 };

struct nested {
    struct pac_async async;
    struct pac_future *inner;
    char letter;
    int polls;
    int cleanups;
};

static enum pac_poll
nested_poll(struct pac_future *f, struct pac_context *cx)
{
    struct nested *self = PAC_ASYNC_SELF(f, struct nested);
    self->polls++;
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, self->inner, cx);
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable nested_vtable = {
    .poll = nested_poll,
    .drop = pac_async_drop,
};

static void
nested_cleanup(struct pac_async *a)
{
    struct nested *self = PAC_CONTAINER_OF(a, struct nested, async);
    self->cleanups++;
    if (self->letter != '\0') {
        leaf_log(leaf_drops, self->letter);
    }
}

/* chain[0] is the outermost; the last one awaits the leaf. */
static void
chain_init(struct nested *chain, int depth, struct leaf *leaf, char first_letter)
{
    leaf_init(leaf, 'l');
    for (int i = 0; i < depth; i++) {
        chain[i] = (struct nested){
            .inner = i + 1 < depth ? &chain[i + 1].async.future : &leaf->future,
            .letter = first_letter == '\0' ? '\0' : (char)(first_letter + i),
        };
        pac_async_init(&chain[i].async, &nested_vtable, nested_cleanup);
    }
    leaf_drops[0] = '\0';
}

static void
nested_functions_are_cleaned_up_inside_first(void)
{
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    struct nested chain[3];
    struct leaf leaf;

    chain_init(chain, 3, &leaf, '0');
    CHECK_INT(poll_with(&chain[0].async.future, &waker), PAC_PENDING);
    pac_future_drop(&chain[0].async.future);
    CHECK(strcmp(leaf_drops, "l210") == 0);
    CHECK_INT(counting_live(&count), 0);

    /* To the end: the inner ones are dropped as each becomes ready, the outermost by
     * its owner. */
    chain_init(chain, 3, &leaf, '0');
    CHECK_INT(poll_with(&chain[0].async.future, &waker), PAC_PENDING);
    leaf_happen(&leaf);
    CHECK_INT(poll_with(&chain[0].async.future, &waker), PAC_READY);
    CHECK(strcmp(leaf_drops, "l21") == 0);
    pac_future_drop(&chain[0].async.future);
    CHECK(strcmp(leaf_drops, "l210") == 0);
}

static void
dropping_before_the_first_poll_leaves_inner_ones_alone(void)
{
    struct nested chain[2];
    struct leaf leaf;
    chain_init(chain, 2, &leaf, '0');
    pac_future_drop(&chain[0].async.future);
    CHECK(strcmp(leaf_drops, "0") == 0);
    CHECK_INT(leaf.polls, 0);
    pac_future_drop(&chain[1].async.future);
}

static void
a_deep_chain_hands_the_very_waker_to_its_leaf(void)
{
    static struct nested chain[DEPTH];
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    struct leaf leaf;
    chain_init(chain, DEPTH, &leaf, '\0');

    CHECK_INT(poll_with(&chain[0].async.future, &waker), PAC_PENDING);
    CHECK(leaf.last_seen == &waker);
    CHECK(pac_waker_will_wake(&leaf.waker, &waker));
    CHECK_INT(counting_clones(&count), 1);
    leaf_happen(&leaf);
    CHECK_INT(counting_wakes(&count), 1);
    CHECK_INT(poll_with(&chain[0].async.future, &waker), PAC_READY);
    CHECK_INT(leaf.polls, 2);

    pac_future_drop(&chain[0].async.future);
    CHECK_INT(counting_live(&count), 0);
    for (int i = 0; i < DEPTH; i++) {
        CHECK_INT(chain[i].polls, 2);
        CHECK_INT(chain[i].cleanups, 1);
        CHECK_INT(chain[i].async.state, PAC_STATE_TERMINATED);
    }
}

int
main(void)
{
    RUN(nothing_runs_before_the_first_poll);
    RUN(three_ready_awaits_take_one_poll);
    RUN(state_is_readable_at_each_await);
    RUN(every_state_has_its_name);
    RUN(spurious_polls_change_nothing);
    RUN(dropping_at_each_await_releases_all_once);
    RUN(cleanup_after_the_end_runs_at_the_drop);
    RUN(polling_after_the_end_runs_nothing);
    RUN(only_the_newest_waker_is_woken);
    RUN(an_await_in_a_loop_is_one_state);
    RUN(returning_from_the_middle_terminates);
    RUN(nested_functions_are_cleaned_up_inside_first);
    RUN(dropping_before_the_first_poll_leaves_inner_ones_alone);
    RUN(a_deep_chain_hands_the_very_waker_to_its_leaf);
    return TESTING_RESULT();
}
