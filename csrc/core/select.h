/* select.h - wait for the first of several futures, in one task, each polled in place.
 *
 * Branches are polled from left to right at every poll, and the first that is ready wins:
 * `winner` is its index. Losers are not dropped by winning: they are usable still, and the
 * caller's to drop. Polled again after that, it is READY again and polls nothing; that is
 * allowed, not asserted against.
 *
 * Stands for Tokio's select!, biased. */
#ifndef PAC_SELECT_H
#define PAC_SELECT_H

#include "future.h"

/* Branches and the array of them belong to the caller and stay in place until the select is ready
 * or dropped. */
struct pac_select {
    struct pac_future future;
    struct pac_future *const *branches;
    size_t count;
    size_t winner; /* once READY; until then no index of a branch */
};

/* `count` must be at least 1: with none, the select stays pending for ever. Dropping a select that
 * was not ready drops all of its branches; one that was ready leaves them, winner included, to the
 * caller. Twice is a no-op. */
void pac_select_init(struct pac_select *s, struct pac_future *const *branches, size_t count);

#endif
