/* select.c - poll from the left until one is ready.
 *
 * `winner` says which of three things a select is: an index, it has finished and the
 * branches are the caller's again; `count` as it was at the start, undecided; and
 * undecided with a count of zero, dropped (or made of no branches), with nothing left
 * to poll or drop.
 */
#include "select.h"

static bool
is_decided(const struct pac_select *s)
{
    return s->winner < s->count;
}

static enum pac_poll
select_poll(struct pac_future *f, struct pac_context *cx)
{
    struct pac_select *s = PAC_CONTAINER_OF(f, struct pac_select, future);

    if (is_decided(s)) {
        return PAC_READY;
    }
    for (size_t i = 0; i < s->count; i++) {
        if (pac_future_poll(s->branches[i], cx) == PAC_READY) {
            s->winner = i;
            return PAC_READY;
        }
    }
    return PAC_PENDING;
}

static void
select_drop(struct pac_future *f)
{
    struct pac_select *s = PAC_CONTAINER_OF(f, struct pac_select, future);
    size_t count = s->count;

    if (is_decided(s)) {
        return;
    }
    s->count = 0;
    for (size_t i = 0; i < count; i++) {
        pac_future_drop(s->branches[i]);
    }
}

static const struct pac_future_vtable select_vtable = {
    .poll = select_poll,
    .drop = select_drop,
};

void
pac_select_init(struct pac_select *s, struct pac_future *const *branches, size_t count)
{
    s->future.vtable = &select_vtable;
    s->branches = branches;
    s->count = count;
    s->winner = count;
}
