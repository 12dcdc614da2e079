/* join.c - poll what has not finished, drop what has.
 *
 * A join cannot know which of its members was woken, since all of them hold the one
 * waker of its task; so every poll polls every unfinished member, which futures allow
 * at any time. That is also what hands each of them the newest waker when the join
 * moves to another task.
 */
#include "join.h"

/* The entry is emptied before the drop, so that whatever dropping runs sees it gone. */
static void
drop_member(struct pac_future **member)
{
    struct pac_future *f = *member;
    *member = NULL;
    pac_future_drop(f);
}

static enum pac_poll
join_poll(struct pac_future *f, struct pac_context *cx)
{
    struct pac_join *j = PAC_CONTAINER_OF(f, struct pac_join, future);

    if (j->left == 0) {
        return PAC_READY;
    }
    for (size_t i = 0; i < j->count; i++) {
        if (j->members[i] != NULL && pac_future_poll(j->members[i], cx) == PAC_READY) {
            drop_member(&j->members[i]);
            j->left--;
        }
    }
    return j->left == 0 ? PAC_READY : PAC_PENDING;
}

static void
join_drop(struct pac_future *f)
{
    struct pac_join *j = PAC_CONTAINER_OF(f, struct pac_join, future);

    /* `left` is also what says that the array may be looked at: after the last
     * member, and after the first drop, it may be gone. */
    if (j->left == 0) {
        return;
    }
    j->left = 0;
    for (size_t i = 0; i < j->count; i++) {
        if (j->members[i] != NULL) {
            drop_member(&j->members[i]);
        }
    }
}

static const struct pac_future_vtable join_vtable = {
    .poll = join_poll,
    .drop = join_drop,
};

void
pac_join_init(struct pac_join *j, struct pac_future **members, size_t count)
{
    j->future.vtable = &join_vtable;
    j->members = members;
    j->count = count;
    j->left = count;
}
