/* reactor.h - all that is epoll's, eventfd's and timerfd's: readiness of descriptors, waiting
 * with a deadline in nanoseconds, and the unpark from another thread.
 *
 * A source is level-triggered, reported at every wait for as long as it stays ready, or (PAC_EDGE)
 * edge-triggered, reported when it becomes ready: the second kind is registered once for both
 * directions, and io.h remembers what it was told. One thread owns a reactor; only
 * pac_reactor_unpark may be called from others. Another system's poller has this header and a .c
 * of its own. */
#ifndef PAC_REACTOR_H
#define PAC_REACTOR_H

#include "platform.h"

struct epoll_event;

enum {
    PAC_READABLE = 1,
    PAC_WRITABLE = 2, /* an error or a hang-up is reported as both, whatever the interest */
    /* Reported to edge-triggered sources alone, beside the two above. */
    PAC_READ_CLOSED = 4,  /* the other side will send no more */
    PAC_WRITE_CLOSED = 8, /* nor will it take more */
    PAC_URGENT = 32,      /* it has sent urgent data */
    /* An interest, not a readiness. */
    PAC_EDGE = 16,
};

/* A descriptor that is watched; its memory is the caller's, in place until it was removed. */
struct pac_source {
    int fd;
    unsigned interest;
    uint32_t registration; /* the reactor's */
    /* Called by pac_reactor_dispatch; may add and remove any source, itself too. */
    void (*ready)(struct pac_source *source, unsigned readiness);
    /* The reactor ends (fini) with the source still in it. NULL: it need not know. */
    void (*gone)(struct pac_source *source);
    /* Does nobody want anything of it now? Then another source of its descriptor may take its
     * place, as if it had been removed. NULL: somebody always does. */
    bool (*is_idle)(const struct pac_source *source);
};

enum { PAC_REACTOR_BATCH = 256 };

struct pac_reactor {
    int epoll_fd;
    int event_fd;
    int timer_fd;        /* -1: there is none, and deadlines are kept otherwise */
    uint64_t timer_ns;   /* what it is set to; 0: it is not, or has expired and was read */
    int pending_unparks; /* taken tokens whose write has not been read yet */
    int batch_next, batch_count;
    struct epoll_event *batch;   /* PAC_REACTOR_BATCH of them */
    struct pac_source **sources; /* by descriptor; NULL: not watched */
    int source_slots;
    int watched;            /* how many of them there are */
    uint32_t registrations; /* how many there have been */
};

/* PAC_OS_ERROR, PAC_NO_MEMORY. */
PAC_MUST_USE enum pac_status pac_reactor_init(struct pac_reactor *r);

/* Waits first until every unpark that was promised (pac_reactor_expect_unpark) has been written,
 * so that no other thread holds the descriptor any more. Tells the sources that are left. */
void pac_reactor_fini(struct pac_reactor *r);

/* In the child of a fork, which shares the epoll set with its parent: tells the sources that it
 * ends, and leaves the set alone, now and whatever is removed afterwards. */
void pac_reactor_disown(struct pac_reactor *r);

/* PAC_OS_ERROR and errno: EEXIST, EPERM (a regular file), EBADF, ENOSPC, ...; PAC_NO_MEMORY. A
 * source whose descriptor was closed without being removed gives its place to the next one with
 * that number, and so does an idle one: it is not called any more, and modifying it says ENOENT. */
PAC_MUST_USE enum pac_status pac_reactor_add(struct pac_reactor *r, struct pac_source *source);
PAC_MUST_USE enum pac_status pac_reactor_modify(struct pac_reactor *r, struct pac_source *source,
                                                unsigned interest);

/* Is it still there, and not another source of the same number? */
static inline bool
pac_reactor_has(const struct pac_reactor *r, const struct pac_source *source)
{
    return source->fd >= 0 && source->fd < r->source_slots && r->sources[source->fd] == source;
}

/* It is not called again, not for what is in the batch that is being dispatched either. No error:
 * a descriptor that was closed already, or whose number is another source's by now; a source that
 * was removed; a reactor that is no more (fini). */
void pac_reactor_remove(struct pac_reactor *r, struct pac_source *source);

/* Wait until something is ready, an unpark, or `deadline_ns` of pac_clock_ns (0: do not wait;
 * PAC_NEVER: no deadline). PAC_OK, also when only the time has come; PAC_INTERRUPTED by a signal;
 * PAC_OS_ERROR. What is ready is kept for pac_reactor_dispatch. */
PAC_MUST_USE enum pac_status pac_reactor_wait(struct pac_reactor *r, uint64_t deadline_ns);

/* Call `ready` of everything that the last wait found. */
void pac_reactor_dispatch(struct pac_reactor *r);

/* [any thread] Make the wait return. To be called once for each token that was taken. */
void pac_reactor_unpark(struct pac_reactor *r);

/* Owner: a token was taken away, so an unpark has been written or will be. */
static inline void
pac_reactor_expect_unpark(struct pac_reactor *r)
{
    r->pending_unparks++;
}

#endif
