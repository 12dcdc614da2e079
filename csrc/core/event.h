/* event.h - a flag that tasks wait for.
 *
 * A wait is READY once the flag has been set at any moment since the wait was made: set() lets go
 * all that wait, also if clear() follows at once. All functions may be called from any thread; a
 * single pac_event_wait is polled by one thread at a time. What was written before set() is
 * visible to whom it lets go on. Nothing allocates. A pac_event must outlive its waits and the
 * calls that set it. Stands for asyncio's Event. */
#ifndef PAC_EVENT_H
#define PAC_EVENT_H

#include "notify.h"

struct pac_event {
    PAC_ATOMIC(uint64_t) state; /* bit 0: the flag; above: how often it has been set */
    struct pac_notify notify;
};

struct pac_event_wait {
    struct pac_future future;
    struct pac_event *event;
    uint64_t seen; /* the state when this was made */
    struct pac_notified notified;
};

void pac_event_init(struct pac_event *e);
void pac_event_set(struct pac_event *e);
void pac_event_clear(struct pac_event *e);
bool pac_event_is_set(struct pac_event *e);

void pac_event_wait_init(struct pac_event_wait *w, struct pac_event *e);
enum pac_poll pac_event_wait_poll(struct pac_event_wait *w, struct pac_context *cx);

/* By the vtable too. */
void pac_event_wait_drop(struct pac_event_wait *w);

#endif
