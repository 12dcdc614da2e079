/* test_select.c - the first of several futures in one task: the order of polling,
 * who wins, and that losing does a branch no harm. */
#include "async.h"
#include "join.h"
#include "select.h"
#include "leaf.h"

enum { BRANCHES = 3 };

/* ---- a select among three of them ----------------------------------------------------------- */

struct race {
    struct leaf leaves[BRANCHES]; /* 'a', 'b', 'c' */
    struct pac_future *branches[BRANCHES];
    struct pac_select select;
    struct counting_waker count;
    struct pac_waker waker;
};

static void
race_init(struct race *r)
{
    for (int i = 0; i < BRANCHES; i++) {
        const char letter = (char)('a' + i);
        leaf_init(&r->leaves[i], letter);
        r->branches[i] = &r->leaves[i].future;
    }
    pac_select_init(&r->select, r->branches, BRANCHES);
    r->waker = counting_waker_init(&r->count);
    leaf_polls[0] = '\0';
}

static void
race_drop_leaves(struct race *r)
{
    for (int i = 0; i < BRANCHES; i++) {
        CHECK_INT(r->leaves[i].drops, 0);
        pac_future_drop(&r->leaves[i].future);
    }
    CHECK_INT(counting_live(&r->count), 0);
}

static enum pac_poll
poll_with(struct pac_future *f, const struct pac_waker *waker)
{
    struct pac_context cx = {waker};
    return pac_future_poll(f, &cx);
}

/* Poll the select, and check which leaves that polled. */
static enum pac_poll
race_poll(struct race *r, const char *expected_order)
{
    leaf_polls[0] = '\0';
    enum pac_poll result = poll_with(&r->select.future, &r->waker);
    CHECK(strcmp(leaf_polls, expected_order) == 0);
    return result;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void
nothing_is_polled_before_the_select_is(void)
{
    struct race r;
    race_init(&r);
    CHECK(strcmp(leaf_polls, "") == 0);
    CHECK(r.select.winner >= BRANCHES);
    pac_future_drop(&r.select.future);
    for (int i = 0; i < BRANCHES; i++) {
        CHECK_INT(r.leaves[i].polls, 0);
        CHECK_INT(r.leaves[i].drops, 1);
    }
}

static void
every_branch_can_win(void)
{
    static const char *const orders[BRANCHES] = {"a", "ab", "abc"};
    for (int k = 0; k < BRANCHES; k++) {
        struct race r;
        race_init(&r);
        CHECK_INT(race_poll(&r, "abc"), PAC_PENDING);
        CHECK(r.select.winner >= BRANCHES);
        leaf_happen(&r.leaves[k]);
        CHECK_INT(counting_wakes(&r.count), 1);
        CHECK_INT(race_poll(&r, orders[k]), PAC_READY);
        CHECK_INT(r.select.winner, k);
        pac_future_drop(&r.select.future);
        race_drop_leaves(&r);
    }
}

static void
the_leftmost_of_several_wins_and_the_rest_is_not_polled(void)
{
    struct race r;
    race_init(&r);
    r.leaves[1].happened = true;
    r.leaves[2].happened = true;
    CHECK_INT(race_poll(&r, "ab"), PAC_READY);
    CHECK_INT(r.select.winner, 1);
    CHECK_INT(r.leaves[2].polls, 0);
    pac_future_drop(&r.select.future);
    race_drop_leaves(&r);
}

static void
losers_are_usable_after_the_race(void)
{
    struct race r;
    race_init(&r);
    CHECK_INT(race_poll(&r, "abc"), PAC_PENDING);
    leaf_happen(&r.leaves[1]);
    CHECK_INT(race_poll(&r, "ab"), PAC_READY);
    pac_future_drop(&r.select.future);

    /* They were not so much as disarmed: the waker they hold is woken still. */
    CHECK_INT(counting_live(&r.count), 2);
    leaf_happen(&r.leaves[2]);
    CHECK_INT(counting_wakes(&r.count), 2);
    struct pac_future *rest[] = {&r.leaves[0].future, &r.leaves[2].future};
    struct pac_select second;
    pac_select_init(&second, rest, 2);
    leaf_polls[0] = '\0';
    CHECK_INT(poll_with(&second.future, &r.waker), PAC_READY);
    CHECK(strcmp(leaf_polls, "ac") == 0);
    CHECK_INT(second.winner, 1);
    pac_future_drop(&second.future);
    race_drop_leaves(&r);
}

static void
polling_a_finished_select_polls_nothing(void)
{
    struct race r;
    race_init(&r);
    leaf_happen(&r.leaves[2]);
    CHECK_INT(race_poll(&r, "abc"), PAC_READY);
    leaf_happen(&r.leaves[0]);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(race_poll(&r, ""), PAC_READY);
        CHECK_INT(r.select.winner, 2);
    }
    pac_future_drop(&r.select.future);
    race_drop_leaves(&r);
}

static void
spurious_polls_change_nothing(void)
{
    struct race r;
    race_init(&r);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(race_poll(&r, "abc"), PAC_PENDING);
        CHECK(r.select.winner >= BRANCHES);
    }
    CHECK_INT(counting_clones(&r.count), BRANCHES);
    CHECK_INT(counting_wakes(&r.count), 0);
    leaf_happen(&r.leaves[1]);
    CHECK_INT(race_poll(&r, "ab"), PAC_READY);
    pac_future_drop(&r.select.future);
    race_drop_leaves(&r);
}

static void
dropping_a_pending_select_drops_all_branches_once(void)
{
    struct race r;
    race_init(&r);
    CHECK_INT(race_poll(&r, "abc"), PAC_PENDING);
    CHECK_INT(counting_live(&r.count), BRANCHES);
    pac_future_drop(&r.select.future);
    pac_future_drop(&r.select.future);
    for (int i = 0; i < BRANCHES; i++) {
        CHECK_INT(r.leaves[i].drops, 1);
    }
    CHECK_INT(counting_live(&r.count), 0);
    CHECK_INT(race_poll(&r, ""), PAC_PENDING);
}

static void
a_select_among_none_stays_pending(void)
{
    struct pac_select select;
    pac_select_init(&select, NULL, 0);
    CHECK_INT(poll_with(&select.future, &pac_noop_waker), PAC_PENDING);
    CHECK_INT(poll_with(&select.future, &pac_noop_waker), PAC_PENDING);
    pac_future_drop(&select.future);
}

static void
only_the_newest_waker_is_woken(void)
{
    struct counting_waker new_count;
    struct pac_waker newest = counting_waker_init(&new_count);
    struct race r;
    race_init(&r);
    CHECK_INT(race_poll(&r, "abc"), PAC_PENDING);
    CHECK_INT(poll_with(&r.select.future, &newest), PAC_PENDING);
    CHECK_INT(counting_live(&r.count), 0);
    CHECK_INT(counting_live(&new_count), BRANCHES);
    leaf_happen(&r.leaves[2]);
    CHECK_INT(counting_wakes(&r.count), 0);
    CHECK_INT(counting_wakes(&new_count), 1);
    CHECK_INT(poll_with(&r.select.future, &newest), PAC_READY);
    pac_future_drop(&r.select.future);
    race_drop_leaves(&r);
    CHECK_INT(counting_live(&new_count), 0);
}

/* ---- an async function that awaits a select among a join and a leaf ------------------------- */

struct guarded {
    struct pac_async async;
    struct leaf work[2], limit;
    struct pac_future *members[2], *branches[2];
    struct pac_join both;
    struct pac_select select;
    bool selected;
    int winner;
};

static enum pac_poll
guarded_poll(struct pac_future *f, struct pac_context *cx)
{
    struct guarded *self = PAC_ASYNC_SELF(f, struct guarded);
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, &self->select.future, cx);
    self->winner = (int)self->select.winner;
    self->selected = true;
    PAC_ASYNC_END(self);
}

/* The branches are the select's as long as it has not finished, the function's
 * afterwards. */
static void
guarded_cleanup(struct pac_async *a)
{
    struct guarded *self = PAC_CONTAINER_OF(a, struct guarded, async);
    if (self->selected) {
        pac_future_drop(&self->both.future);
        pac_future_drop(&self->limit.future);
    }
}

static const struct pac_future_vtable guarded_vtable = {
    .poll = guarded_poll,
    .drop = pac_async_drop,
};

static void
guarded_init(struct guarded *g)
{
    *g = (struct guarded){.winner = -1};
    pac_async_init(&g->async, &guarded_vtable, guarded_cleanup);
    for (int i = 0; i < 2; i++) {
        leaf_init(&g->work[i], (char)('a' + i));
        g->members[i] = &g->work[i].future;
    }
    leaf_init(&g->limit, 'z');
    pac_join_init(&g->both, g->members, 2);
    g->branches[0] = &g->both.future;
    g->branches[1] = &g->limit.future;
    pac_select_init(&g->select, g->branches, 2);
    leaf_polls[0] = '\0';
}

static void
guarded_check_all_dropped(struct guarded *g)
{
    CHECK_INT(g->work[0].drops, 1);
    CHECK_INT(g->work[1].drops, 1);
    CHECK_INT(g->limit.drops, 1);
}

static void
a_waker_moves_through_async_select_and_join(void)
{
    struct counting_waker old_count, new_count;
    struct pac_waker old = counting_waker_init(&old_count);
    struct pac_waker newest = counting_waker_init(&new_count);
    struct guarded g;
    guarded_init(&g);
    CHECK_INT(poll_with(&g.async.future, &old), PAC_PENDING);
    leaf_happen(&g.work[0]);
    CHECK_INT(counting_wakes(&old_count), 1);
    CHECK_INT(poll_with(&g.async.future, &newest), PAC_PENDING);
    CHECK(strcmp(leaf_polls, "abzabz") == 0);
    CHECK_INT(counting_live(&old_count), 0);
    CHECK_INT(counting_live(&new_count), 2);

    leaf_happen(&g.work[1]);
    CHECK_INT(counting_wakes(&old_count), 1);
    CHECK_INT(counting_wakes(&new_count), 1);
    CHECK_INT(poll_with(&g.async.future, &newest), PAC_READY);
    CHECK_INT(g.winner, 0);
    pac_future_drop(&g.async.future);
    guarded_check_all_dropped(&g);
    CHECK_INT(counting_live(&new_count), 0);
}

/* With nothing finished, one member of the join, or the select itself. */
static void
dropping_the_whole_at_each_point_leaves_nothing(void)
{
    for (int done = 0; done <= 2; done++) {
        struct counting_waker count;
        struct pac_waker waker = counting_waker_init(&count);
        struct guarded g;
        guarded_init(&g);
        CHECK_INT(poll_with(&g.async.future, &waker), PAC_PENDING);
        if (done >= 1) {
            leaf_happen(&g.work[0]);
            CHECK_INT(poll_with(&g.async.future, &waker), PAC_PENDING);
        }
        if (done == 2) {
            leaf_happen(&g.limit);
            CHECK_INT(poll_with(&g.async.future, &waker), PAC_READY);
            CHECK_INT(g.winner, 1);
            CHECK_INT(g.work[1].drops, 0);
        }
        pac_future_drop(&g.async.future);
        guarded_check_all_dropped(&g);
        CHECK_INT(counting_live(&count), 0);
    }
}

int
main(void)
{
    RUN(nothing_is_polled_before_the_select_is);
    RUN(every_branch_can_win);
    RUN(the_leftmost_of_several_wins_and_the_rest_is_not_polled);
    RUN(losers_are_usable_after_the_race);
    RUN(polling_a_finished_select_polls_nothing);
    RUN(spurious_polls_change_nothing);
    RUN(dropping_a_pending_select_drops_all_branches_once);
    RUN(a_select_among_none_stays_pending);
    RUN(only_the_newest_waker_is_woken);
    RUN(a_waker_moves_through_async_select_and_join);
    RUN(dropping_the_whole_at_each_point_leaves_nothing);
    return TESTING_RESULT();
}
