/* reactor_sim.c - a reactor without a system: descriptors are bits that actions set, and a wait
 * lets others act until there is a reason to return, or without one.
 *
 * Legal, if unusual, is all of this: a wait that ends early with nothing; a signal; a batch that
 * holds only some of what is ready; a return long after the deadline.
 *
 * Oracles. An executor that sleeps was unparked if its queue was pushed to (no lost wake-up); it
 * sleeps no longer than its earliest timer allows; each unpark was promised, and each promised one
 * comes, or else closing would wait for ever. */
#include "reactor.h"

#include "node.h"
#include "sim.h"
#include "task.h"

#include <errno.h>

struct ready {
    int fd;
    uint32_t registration; /* 0: the unpark descriptor */
    unsigned readiness;
};

static struct {
    bool used;
    int unread;                /* unparks that were written and not read */
    unsigned edges[SIM_FDS];   /* what an edge-triggered source is to be told */
    unsigned telling[SIM_FDS]; /* of it, what is in the batch */
    struct ready batch[SIM_FDS + 1];
} reactors[SIM_EXECUTORS];

unsigned sim_readiness[SIM_FDS];

void
sim_reactors_reset(void)
{
    for (int i = 0; i < SIM_EXECUTORS; i++) {
        SIM_CHECK(!reactors[i].used, "a reactor was not given back");
    }
    for (int fd = 0; fd < SIM_FDS; fd++) {
        sim_readiness[fd] = 0;
    }
}

enum pac_status
pac_reactor_init(struct pac_reactor *r)
{
    int index = reactors[0].used ? 1 : 0;
    SIM_CHECK(!reactors[index].used, "too many reactors");
    *r = (struct pac_reactor){.epoll_fd = index, .event_fd = index, .timer_fd = -1};
    r->sources = pac_alloc(SIM_FDS * sizeof *r->sources);
    if (r->sources == NULL) {
        return PAC_NO_MEMORY;
    }
    for (int fd = 0; fd < SIM_FDS; fd++) {
        r->sources[fd] = NULL;
    }
    r->source_slots = SIM_FDS;
    reactors[index].used = true;
    reactors[index].unread = 0;
    return PAC_OK;
}

void
pac_reactor_fini(struct pac_reactor *r)
{
    int unread = reactors[r->event_fd].unread;
    SIM_CHECK(r->pending_unparks <= unread, "closing waits for an unpark that never comes");
    SIM_CHECK(r->pending_unparks >= unread, "an unpark that nobody waits for");
    for (int fd = 0; fd < SIM_FDS; fd++) {
        struct pac_source *source = r->sources[fd];
        if (source != NULL && source->gone != NULL) {
            pac_reactor_remove(r, source);
            source->gone(source);
        }
    }
    reactors[r->event_fd].used = false;
    pac_free(r->sources);
    r->sources = NULL;
    r->source_slots = r->watched = r->batch_next = r->batch_count = 0;
}

/* No program forks. */
void
pac_reactor_disown(struct pac_reactor *r)
{
    (void)r;
    sim_fail(__FILE__, __LINE__, "a reactor is disowned");
}

static struct pac_source *
source_of(const struct pac_reactor *r, int fd)
{
    return fd >= 0 && fd < r->source_slots ? r->sources[fd] : NULL;
}

void
sim_set_readiness(int fd, unsigned readiness)
{
    sim_readiness[fd] = readiness;
    for (int i = 0; i < SIM_EXECUTORS; i++) {
        reactors[i].edges[fd] |= readiness;
    }
}

enum pac_status
pac_reactor_add(struct pac_reactor *r, struct pac_source *source)
{
    struct pac_source *there = source_of(r, source->fd);
    bool is_idle = there == NULL || (there->is_idle != NULL && there->is_idle(there));
    if (source->fd < 0 || source->fd >= SIM_FDS || !is_idle) {
        errno = source->fd < 0 || source->fd >= SIM_FDS ? EBADF : EEXIST;
        return PAC_OS_ERROR;
    }
    source->registration = ++r->registrations;
    r->sources[source->fd] = source;
    r->watched += there == NULL;
    reactors[r->event_fd].edges[source->fd] = sim_readiness[source->fd];
    return PAC_OK;
}

enum pac_status
pac_reactor_modify(struct pac_reactor *r, struct pac_source *source, unsigned interest)
{
    if (source_of(r, source->fd) != source) {
        errno = ENOENT;
        return PAC_OS_ERROR;
    }
    source->interest = interest;
    reactors[r->event_fd].edges[source->fd] = sim_readiness[source->fd];
    return PAC_OK;
}

void
pac_reactor_remove(struct pac_reactor *r, struct pac_source *source)
{
    if (source_of(r, source->fd) == source) {
        r->sources[source->fd] = NULL;
        r->watched--;
    }
}

static unsigned
ready_of(const struct pac_reactor *r, int fd)
{
    const struct pac_source *source = source_of(r, fd);
    if (source == NULL) {
        return 0;
    }
    return source->interest &
           (source->interest & PAC_EDGE ? reactors[r->event_fd].edges[fd] : sim_readiness[fd]);
}

unsigned
sim_reactor_news(const struct pac_reactor *r, int fd)
{
    return reactors[r->event_fd].edges[fd] | reactors[r->event_fd].telling[fd];
}

bool
sim_reactor_is_readable(const struct pac_reactor *r)
{
    bool readable = reactors[r->event_fd].unread > 0;
    for (int fd = 0; fd < SIM_FDS; fd++) {
        readable |= ready_of(r, fd) != 0;
    }
    return readable;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

/* Real sleep: others act until something is there, or time is up, or for no reason at all. */
static void
sleep_until(struct pac_reactor *r, uint64_t deadline_ns)
{
    struct pac_executor *ex = PAC_CONTAINER_OF(r, struct pac_executor, reactor);
    struct pac_inject *inject = &ex->scheduler.inject;
    struct pac_runnable *parked = pac_atomic_load(&inject->newest, PAC_RELAXED);
    SIM_CHECK(ex->scheduler.ready.length == 0, "it sleeps with something to run");
    if (!ex->is_virtual) {
        node_check_deadlines(ex, deadline_ns);
    }
    SIM_TRACE("executor %d sleeps", r->event_fd);
    for (;;) {
        SIM_CHECK(pac_atomic_load(&inject->newest, PAC_RELAXED) == parked ||
                      reactors[r->event_fd].unread > 0,
                  "lost wake-up: pushed to a sleeping executor, and no unpark");
        if (sim_reactor_is_readable(r) || sim_chance(16)) {
            return;
        }
        if (deadline_ns != PAC_NEVER && sim_chance(3)) {
            if (deadline_ns > sim.now_ns) {
                sim_pass_time(deadline_ns - sim.now_ns + (sim_chance(2) ? 0 : sim_below(1 << 20)));
            }
            return;
        }
        if (!sim_step()) {
            if (sim.quiet && deadline_ns <= pac_ns_add(sim.now_ns, SIM_SOON_NS) &&
                deadline_ns < SIM_LAST_NS) {
                sim_pass_time(deadline_ns > sim.now_ns ? deadline_ns - sim.now_ns : 0);
                return;
            }
            SIM_TRACE("nothing is left to do");
            pac_executor_stop(ex);
            return;
        }
    }
}

enum pac_status
pac_reactor_wait(struct pac_reactor *r, uint64_t deadline_ns)
{
    r->batch_next = r->batch_count = 0;
    if (deadline_ns == 0) {
        (void)sim_step();
    }
    else {
        sleep_until(r, deadline_ns);
    }
    if (!sim.quiet && sim_chance(32)) {
        return PAC_INTERRUPTED;
    }
    struct ready *batch = reactors[r->event_fd].batch;
    /* From anywhere on, so that a small batch comes round to each. */
    for (int i = 0, from = (int)sim_below(SIM_FDS + 1); i <= SIM_FDS; i++) {
        int fd = (from + i) % (SIM_FDS + 1);
        bool own = fd == SIM_FDS;
        unsigned ready = own ? reactors[r->event_fd].unread > 0 : ready_of(r, fd);
        if (ready != 0 && (unsigned)r->batch_count < sim.batch) {
            batch[r->batch_count++] =
                (struct ready){fd, own ? 0 : r->sources[fd]->registration, ready};
            if (!own) {
                reactors[r->event_fd].telling[fd] = reactors[r->event_fd].edges[fd];
                reactors[r->event_fd].edges[fd] = 0;
            }
        }
    }
    return PAC_OK;
}

void
pac_reactor_dispatch(struct pac_reactor *r)
{
    while (r->batch_next < r->batch_count) {
        struct ready ready = reactors[r->event_fd].batch[r->batch_next++];
        if (ready.registration == 0) {
            r->pending_unparks -= reactors[r->event_fd].unread;
            reactors[r->event_fd].unread = 0;
            continue;
        }
        struct pac_source *source = source_of(r, ready.fd);
        if (source != NULL && source->registration == ready.registration) {
            reactors[r->event_fd].telling[ready.fd] = 0;
            source->ready(source, ready.readiness);
        }
    }
    r->batch_next = r->batch_count = 0;
}

void
pac_reactor_unpark(struct pac_reactor *r)
{
    SIM_CHECK(reactors[r->event_fd].used, "an unpark of a closed reactor");
    reactors[r->event_fd].unread++;
}
