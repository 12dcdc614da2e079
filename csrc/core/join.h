/* join.h - wait for several futures at once, in one task: all of them, polled in place.
 *
 * Each poll polls every member that has not finished, with the same waker. READY once all are;
 * their outputs stand in the members. Polled again after that, it is READY again and polls
 * nothing; that is allowed, not asserted against. Stands for futures-rs' join_all. */
#ifndef PAC_JOIN_H
#define PAC_JOIN_H

#include "future.h"

/* Members and this array of them belong to the caller and stay in place until the join was
 * dropped. */
struct pac_join {
    struct pac_future future;
    struct pac_future *
        *members; /* an entry becomes NULL once its member was ready and was dropped */
    size_t count;
    size_t left;
};

/* `members`: `count` futures that were not polled to READY; count may be 0 (ready at the first
 * poll). A member is dropped as soon as it is ready; dropping the join drops the others, and
 * twice is a no-op. */
void pac_join_init(struct pac_join *j, struct pac_future **members, size_t count);

#endif
