/* future.h - a computation that does nothing until it is polled.
 *
 * A future is any struct that begins with `struct pac_future`. Polling advances it as far as it
 * gets without waiting. PAC_PENDING obliges it to have arranged that the waker of *this* poll is
 * woken once another poll is worth while; PAC_READY means that its output stands in the struct,
 * and that it is not polled again.
 *
 * A future may be polled by one thread at a time, by different ones in turn, each time with
 * another waker: the newest waker is the one to wake. Polling without having been woken is
 * allowed and changes nothing.
 *
 * Stands for Rust's Future and Context. */
#ifndef PAC_FUTURE_H
#define PAC_FUTURE_H

#include "poll.h"
#include "waker.h"

/* What a poll is given. Valid during that poll alone; clone the waker to keep it. */
struct pac_context {
    const struct pac_waker *waker; /* borrowed */
};

struct pac_future;

struct pac_future_vtable {
    enum pac_poll (*poll)(struct pac_future *self, struct pac_context *cx);
    /* Called once, when its owner is done with it, ready or not: leave every list, release what
     * is held; afterwards no waker, timer or list points into it. Its memory is its owner's,
     * unless the future's own contract says that dropping frees it. */
    void (*drop)(struct pac_future *self);
};

struct pac_future {
    const struct pac_future_vtable *vtable;
};

static inline enum pac_poll
pac_future_poll(struct pac_future *f, struct pac_context *cx)
{
    return f->vtable->poll(f, cx);
}

static inline void
pac_future_drop(struct pac_future *f)
{
    f->vtable->drop(f);
}

#endif
