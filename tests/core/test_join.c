/* test_join.c - all of several futures in one task: who is polled when, and who is
 * dropped when. */
#include "async.h"
#include "join.h"
#include "leaf.h"

enum { MEMBERS = 3 };

/* ---- a join of three of them ---------------------------------------------------------------- */

struct group {
    struct leaf leaves[MEMBERS]; /* 'a', 'b', 'c' */
    struct pac_future *members[MEMBERS];
    struct pac_join join;
    struct counting_waker count;
    struct pac_waker waker;
};

static void
group_init(struct group *g)
{
    for (int i = 0; i < MEMBERS; i++) {
        const char letter = (char)('a' + i);
        leaf_init(&g->leaves[i], letter);
        g->members[i] = &g->leaves[i].future;
    }
    pac_join_init(&g->join, g->members, MEMBERS);
    g->waker = counting_waker_init(&g->count);
    leaf_polls[0] = '\0';
}

static enum pac_poll
poll_with(struct pac_future *f, const struct pac_waker *waker)
{
    struct pac_context cx = {waker};
    return pac_future_poll(f, &cx);
}

/* Poll the join, and check which leaves that polled. */
static enum pac_poll
group_poll(struct group *g, const char *expected_order)
{
    leaf_polls[0] = '\0';
    enum pac_poll result = poll_with(&g->join.future, &g->waker);
    CHECK(strcmp(leaf_polls, expected_order) == 0);
    return result;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void
a_join_of_none_is_ready_at_once(void)
{
    struct pac_join join;
    pac_join_init(&join, NULL, 0);
    CHECK_INT(poll_with(&join.future, &pac_noop_waker), PAC_READY);
    pac_future_drop(&join.future);
}

static void
nothing_is_polled_before_the_join_is(void)
{
    struct group g;
    group_init(&g);
    CHECK(strcmp(leaf_polls, "") == 0);
    pac_future_drop(&g.join.future);
    for (int i = 0; i < MEMBERS; i++) {
        CHECK_INT(g.leaves[i].polls, 0);
        CHECK_INT(g.leaves[i].drops, 1);
        CHECK(g.members[i] == NULL);
    }
}

static void
ready_members_take_one_poll(void)
{
    struct group g;
    group_init(&g);
    for (int i = 0; i < MEMBERS; i++) {
        g.leaves[i].happened = true;
    }
    CHECK_INT(group_poll(&g, "abc"), PAC_READY);
    CHECK_INT(counting_clones(&g.count), 0);
    for (int i = 0; i < MEMBERS; i++) {
        CHECK_INT(g.leaves[i].output, 'a' + i);
        CHECK_INT(g.leaves[i].drops, 1);
    }
    pac_future_drop(&g.join.future);
}

static void
a_ready_member_is_dropped_at_once_and_not_polled_again(void)
{
    struct group g;
    group_init(&g);
    CHECK_INT(group_poll(&g, "abc"), PAC_PENDING);

    leaf_happen(&g.leaves[1]);
    CHECK_INT(counting_wakes(&g.count), 1);
    CHECK_INT(group_poll(&g, "abc"), PAC_PENDING);
    CHECK_INT(g.leaves[1].drops, 1);
    CHECK(g.members[1] == NULL);
    CHECK(g.members[0] == &g.leaves[0].future);
    CHECK_INT(g.join.left, 2);

    leaf_happen(&g.leaves[0]);
    CHECK_INT(group_poll(&g, "ac"), PAC_PENDING);
    leaf_happen(&g.leaves[2]);
    CHECK_INT(group_poll(&g, "c"), PAC_READY);
    CHECK_INT(counting_wakes(&g.count), MEMBERS);

    pac_future_drop(&g.join.future);
    for (int i = 0; i < MEMBERS; i++) {
        CHECK_INT(g.leaves[i].drops, 1);
        CHECK_INT(g.leaves[i].output, 'a' + i);
    }
    CHECK_INT(counting_live(&g.count), 0);
}

static void
polling_a_finished_join_polls_nothing(void)
{
    struct group g;
    group_init(&g);
    for (int i = 0; i < MEMBERS; i++) {
        g.leaves[i].happened = true;
    }
    CHECK_INT(group_poll(&g, "abc"), PAC_READY);
    /* The array is the caller's again, who may have reused it. */
    g.members[0] = &g.leaves[0].future;
    CHECK_INT(group_poll(&g, ""), PAC_READY);
    CHECK_INT(group_poll(&g, ""), PAC_READY);
    pac_future_drop(&g.join.future);
    CHECK_INT(g.leaves[0].drops, 1);
}

static void
spurious_polls_change_nothing(void)
{
    struct group g;
    group_init(&g);
    leaf_happen(&g.leaves[0]);
    CHECK_INT(group_poll(&g, "abc"), PAC_PENDING);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(group_poll(&g, "bc"), PAC_PENDING);
        CHECK_INT(g.join.left, 2);
    }
    CHECK_INT(counting_clones(&g.count), 2);
    CHECK_INT(counting_wakes(&g.count), 0);
    leaf_happen(&g.leaves[1]);
    leaf_happen(&g.leaves[2]);
    CHECK_INT(group_poll(&g, "bc"), PAC_READY);
    pac_future_drop(&g.join.future);
}

/* Every subset of members finished, the rest dropped with the join. */
static void
dropping_at_any_point_drops_each_member_once(void)
{
    for (unsigned finished = 0; finished < 1u << MEMBERS; finished++) {
        struct group g;
        group_init(&g);
        CHECK_INT(group_poll(&g, "abc"), PAC_PENDING);
        for (int i = 0; i < MEMBERS; i++) {
            if (finished & (1u << i)) {
                leaf_happen(&g.leaves[i]);
                poll_with(&g.join.future, &g.waker);
            }
        }
        pac_future_drop(&g.join.future);
        pac_future_drop(&g.join.future);
        for (int i = 0; i < MEMBERS; i++) {
            CHECK_INT(g.leaves[i].drops, 1);
            CHECK(g.members[i] == NULL);
        }
        CHECK_INT(counting_live(&g.count), 0);
        CHECK_INT(group_poll(&g, ""), PAC_READY);
    }
}

static void
only_the_newest_waker_is_woken(void)
{
    struct counting_waker new_count;
    struct pac_waker newest = counting_waker_init(&new_count);
    struct group g;
    group_init(&g);
    CHECK_INT(group_poll(&g, "abc"), PAC_PENDING);
    CHECK_INT(poll_with(&g.join.future, &newest), PAC_PENDING);
    CHECK_INT(counting_live(&g.count), 0);
    CHECK_INT(counting_live(&new_count), MEMBERS);
    for (int i = 0; i < MEMBERS; i++) {
        leaf_happen(&g.leaves[i]);
    }
    CHECK_INT(counting_wakes(&g.count), 0);
    CHECK_INT(counting_wakes(&new_count), MEMBERS);
    CHECK_INT(poll_with(&g.join.future, &newest), PAC_READY);
    pac_future_drop(&g.join.future);
    CHECK_INT(counting_live(&new_count), 0);
}

/* ---- a join inside an async function inside a join ------------------------------------------ */

struct waits_for_group {
    struct pac_async async;
    struct group *group;
    int cleanups;
};

static enum pac_poll
waits_poll(struct pac_future *f, struct pac_context *cx)
{
    struct waits_for_group *self = PAC_ASYNC_SELF(f, struct waits_for_group);
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, &self->group->join.future, cx);
    PAC_ASYNC_END(self);
}

static void
waits_cleanup(struct pac_async *a)
{
    struct waits_for_group *self = PAC_CONTAINER_OF(a, struct waits_for_group, async);
    self->cleanups++;
    /* What was awaited has been dropped by now. */
    CHECK_INT(self->group->leaves[MEMBERS - 1].drops, a->state != PAC_STATE_START);
}

static const struct pac_future_vtable waits_vtable = {
    .poll = waits_poll,
    .drop = pac_async_drop,
};

static void
joins_nest_through_async_functions(void)
{
    struct group g[2];
    struct waits_for_group waits[2];
    struct pac_future *members[2];
    struct pac_join outer;
    struct counting_waker count;
    struct pac_waker waker = counting_waker_init(&count);
    for (int i = 0; i < 2; i++) {
        group_init(&g[i]);
        waits[i] = (struct waits_for_group){.group = &g[i]};
        pac_async_init(&waits[i].async, &waits_vtable, waits_cleanup);
        members[i] = &waits[i].async.future;
    }
    pac_join_init(&outer, members, 2);
    CHECK_INT(poll_with(&outer.future, &waker), PAC_PENDING);
    CHECK_INT(counting_clones(&count), 2 * MEMBERS);

    for (int i = 0; i < MEMBERS; i++) {
        leaf_happen(&g[0].leaves[i]);
    }
    CHECK_INT(poll_with(&outer.future, &waker), PAC_PENDING);
    CHECK(members[0] == NULL);
    CHECK_INT(waits[0].cleanups, 1);
    CHECK_INT(waits[1].cleanups, 0);

    pac_future_drop(&outer.future);
    CHECK_INT(waits[0].cleanups, 1);
    CHECK_INT(waits[1].cleanups, 1);
    CHECK_INT(g[1].leaves[0].drops, 1);
    CHECK_INT(counting_live(&count), 0);
}

int
main(void)
{
    RUN(a_join_of_none_is_ready_at_once);
    RUN(nothing_is_polled_before_the_join_is);
    RUN(ready_members_take_one_poll);
    RUN(a_ready_member_is_dropped_at_once_and_not_polled_again);
    RUN(polling_a_finished_join_polls_nothing);
    RUN(spurious_polls_change_nothing);
    RUN(dropping_at_any_point_drops_each_member_once);
    RUN(only_the_newest_waker_is_woken);
    RUN(joins_nest_through_async_functions);
    return TESTING_RESULT();
}
