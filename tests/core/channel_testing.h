/* channel_testing.h - what the tests of the channels share: values that are counted, and a future
 * with a task of its own. */
#ifndef PAC_CHANNEL_TESTING_H
#define PAC_CHANNEL_TESTING_H

#include "testing.h"

#include <unistd.h>

/* Whatever hangs is a lost wake-up or a deadlock. */
enum { WATCHDOG_S = 100 };

/* Small integers as values; destroy_value notes what was left over. */
static int destroyed[256];
static int destroyed_count;

static inline void *
value_of(intptr_t number)
{
    return (void *)number;
}

static inline void
destroy_value(void *value)
{
    destroyed[destroyed_count++ % 256] = (int)(intptr_t)value;
}

/* Polls with its own counting waker. */
struct poller {
    struct counting_waker count;
    struct pac_future *future;
};

static inline void
poller_init(struct poller *p, struct pac_future *future)
{
    counting_waker_init(&p->count);
    p->future = future;
}

static inline enum pac_poll
poller_poll(struct poller *p)
{
    struct pac_waker waker = {&counting_waker_vtable, &p->count};
    struct pac_context cx = {&waker};
    return pac_future_poll(p->future, &cx);
}

static inline int
poller_wakes(struct poller *p)
{
    return counting_wakes(&p->count);
}

/* By the vtable, as an owner does it; no clone of the waker may be left anywhere. */
static inline void
poller_drop(struct poller *p)
{
    pac_future_drop(p->future);
    CHECK_INT(counting_live(&p->count), 0);
}

#endif
