/* reactor.c - the Linux one.
 *
 * The unpark descriptor. Each token that a producer takes from the inject queue is followed by
 * exactly one write to event_fd, by that producer. The owner counts the tokens that it misses
 * when it wakes, and the writes that it reads; the difference are writes under way, and fini
 * waits for them: a producer may be between its push and its write when the executor closes, and
 * must not find that the number is a stranger's descriptor by then.
 *
 * What epoll keeps of a source is no address, since it may report a descriptor for which nobody
 * is there any more: one that was closed while a duplicate of it lives on cannot be taken out of
 * epoll. It keeps the descriptor and the number of the registration; whether `sources` still has
 * a source for both decides. So an event that is stale, by a removal or by a number that was used
 * again, is known as such.
 *
 * A deadline in nanoseconds: a timerfd among the sources, set anew only when the deadline is
 * another one. epoll_pwait2 would save that call, but comes later by the slack of a thread's
 * timers, 50 us unless somebody changed it. It is the second choice where there is no timerfd,
 * whole milliseconds the last. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "reactor.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/poll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Called by number, as the C library has it only since glibc 2.35; the number is the same on every
 * architecture that Linux runs on, but for alpha. */
#if !defined(SYS_epoll_pwait2) && !defined(__alpha__)
#define SYS_epoll_pwait2 441
#endif

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000 };

static uint32_t
epoll_mask(unsigned interest)
{
    return (interest & PAC_EDGE ? (uint32_t)(EPOLLET | EPOLLRDHUP | EPOLLPRI) : 0) |
           (interest & PAC_READABLE ? (uint32_t)EPOLLIN : 0) |
           (interest & PAC_WRITABLE ? (uint32_t)EPOLLOUT : 0);
}

static unsigned
readiness_of(uint32_t events, bool edge)
{
    if (!edge) {
        return (events & ~(uint32_t)EPOLLOUT ? PAC_READABLE : 0) |
               (events & ~(uint32_t)EPOLLIN ? PAC_WRITABLE : 0);
    }
    /* RDHUP says nothing about writing. */
    return (events & ~(uint32_t)EPOLLOUT ? PAC_READABLE : 0) |
           (events & (EPOLLOUT | EPOLLERR | EPOLLHUP) ? PAC_WRITABLE : 0) |
           (events & (EPOLLRDHUP | EPOLLHUP) ? PAC_READ_CLOSED : 0) |
           (events & EPOLLHUP ? PAC_WRITE_CLOSED : 0) | (events & EPOLLPRI ? PAC_URGENT : 0);
}

static int
control(struct pac_reactor *r, int operation, int fd, uint32_t events, uint32_t registration)
{
    struct epoll_event event;
    event.events = events;
    event.data.u64 = (uint64_t)registration << 32 | (uint32_t)fd;
    return epoll_ctl(r->epoll_fd, operation, fd, &event);
}

/* Our own two descriptors: registration 0. */
static int
watch_own(struct pac_reactor *r, int fd)
{
    return control(r, EPOLL_CTL_ADD, fd, EPOLLIN, 0);
}

/* Wait at the longest for `ns`. */
static int
epoll_wait_ns(int epoll_fd, struct epoll_event *events, int count, uint64_t ns)
{
    /* The kernel's own timespec: of 64 bits, also where time_t has 32. */
    struct {
        int64_t tv_sec;
        int64_t tv_nsec;
    } left = {(int64_t)(ns / NS_PER_S), (int64_t)(ns % NS_PER_S)};
    int ready = (int)syscall(SYS_epoll_pwait2, epoll_fd, events, count, &left, NULL, 0);
    if (ready >= 0 || errno == EINTR) {
        return ready;
    }
    /* An older kernel, or a sandbox that does not know the call. */
    uint64_t ms = ns / NS_PER_MS + (ns % NS_PER_MS != 0);
    return epoll_wait(epoll_fd, events, count, ms > INT_MAX ? INT_MAX : (int)ms);
}

static int
make_timer_fd(void)
{
#if defined(PAC_NO_TIMERFD)
    return -1;
#else
    return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
#endif
}

enum pac_status
pac_reactor_init(struct pac_reactor *r)
{
    r->pending_unparks = 0;
    r->timer_ns = 0;
    r->batch_next = r->batch_count = 0;
    r->event_fd = r->timer_fd = r->epoll_fd = -1;
    r->sources = NULL;
    r->source_slots = r->watched = 0;
    r->registrations = 0;
    r->batch = pac_alloc(PAC_REACTOR_BATCH * sizeof *r->batch);
    if (r->batch == NULL) {
        return PAC_NO_MEMORY;
    }
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll_fd < 0) {
        goto failed;
    }
    r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->event_fd < 0 || watch_own(r, r->event_fd) != 0) {
        goto failed;
    }
    r->timer_fd = make_timer_fd();
    if (r->timer_fd >= 0 && watch_own(r, r->timer_fd) != 0) {
        goto failed;
    }
    return PAC_OK;
failed:;
    int error = errno;
    pac_reactor_fini(r);
    errno = error;
    return PAC_OS_ERROR;
}

/* Read the unparks that have been written; counts them off. */
static void
read_unparks(struct pac_reactor *r)
{
    uint64_t count;
    if (read(r->event_fd, &count, sizeof count) == (ssize_t)sizeof count) {
        r->pending_unparks -= (int)count;
    }
}

static void
close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* What they do may remove others. */
static void
tell_sources(struct pac_reactor *r)
{
    for (int fd = 0; fd < r->source_slots; fd++) {
        struct pac_source *source = r->sources[fd];
        if (source != NULL && source->gone != NULL) {
            pac_reactor_remove(r, source);
            source->gone(source);
        }
    }
}

void
pac_reactor_disown(struct pac_reactor *r)
{
    for (int fd = 0; fd < r->source_slots; fd++) {
        struct pac_source *source = r->sources[fd];
        r->sources[fd] = NULL;
        if (source != NULL && source->gone != NULL) {
            source->gone(source);
        }
    }
    r->watched = 0;
    r->batch_next = r->batch_count = 0;
}

void
pac_reactor_fini(struct pac_reactor *r)
{
    while (r->pending_unparks > 0) {
        struct pollfd wait = {.fd = r->event_fd, .events = POLLIN};
        poll(&wait, 1, -1);
        read_unparks(r);
    }
    tell_sources(r);
    close_fd(&r->timer_fd);
    close_fd(&r->event_fd);
    close_fd(&r->epoll_fd);
    pac_free(r->batch);
    pac_free(r->sources);
    r->batch = NULL;
    r->sources = NULL;
    r->source_slots = r->watched = r->batch_next = r->batch_count = 0;
}

static struct pac_source *
source_of(struct pac_reactor *r, int fd)
{
    return fd >= 0 && fd < r->source_slots ? r->sources[fd] : NULL;
}

/* Make `sources` reach `fd`. */
static enum pac_status
reserve_slot(struct pac_reactor *r, int fd)
{
    if (fd < r->source_slots) {
        return PAC_OK;
    }
    /* The kernel's descriptors are far below half of what an int holds. */
    int slots = 2 * (fd < 32 ? 32 : fd);
    struct pac_source **sources = pac_alloc((size_t)slots * sizeof *sources);
    if (sources == NULL) {
        return PAC_NO_MEMORY;
    }
    for (int i = 0; i < slots; i++) {
        sources[i] = i < r->source_slots ? r->sources[i] : NULL;
    }
    pac_free(r->sources);
    r->sources = sources;
    r->source_slots = slots;
    return PAC_OK;
}

/* The descriptor is registered already: by a source that has no use for it? */
static bool
take_idle_place(struct pac_reactor *r, struct pac_source *source, uint32_t registration)
{
    struct pac_source *there = errno == EEXIST ? source_of(r, source->fd) : NULL;
    return there != NULL && there->is_idle != NULL && there->is_idle(there) &&
           control(r, EPOLL_CTL_MOD, source->fd, epoll_mask(source->interest), registration) == 0;
}

enum pac_status
pac_reactor_add(struct pac_reactor *r, struct pac_source *source)
{
    uint32_t registration = r->registrations + 1;
    registration += registration == 0;
    /* First, as it asks whether the number is one at all. */
    if (control(r, EPOLL_CTL_ADD, source->fd, epoll_mask(source->interest), registration) != 0 &&
        !take_idle_place(r, source, registration)) {
        return PAC_OS_ERROR;
    }
    if (reserve_slot(r, source->fd) != PAC_OK) {
        control(r, EPOLL_CTL_DEL, source->fd, 0, 0);
        return PAC_NO_MEMORY;
    }
    r->registrations = source->registration = registration;
    r->watched += r->sources[source->fd] == NULL;
    r->sources[source->fd] = source;
    return PAC_OK;
}

enum pac_status
pac_reactor_modify(struct pac_reactor *r, struct pac_source *source, unsigned interest)
{
    if (!pac_reactor_has(r, source)) {
        errno = ENOENT;
        return PAC_OS_ERROR;
    }
    if (control(r, EPOLL_CTL_MOD, source->fd, epoll_mask(interest), source->registration) != 0) {
        return PAC_OS_ERROR;
    }
    source->interest = interest;
    return PAC_OK;
}

void
pac_reactor_remove(struct pac_reactor *r, struct pac_source *source)
{
    if (pac_reactor_has(r, source)) {
        r->sources[source->fd] = NULL;
        r->watched--;
        control(r, EPOLL_CTL_DEL, source->fd, 0, 0);
    }
}

static int
set_timer(struct pac_reactor *r, uint64_t deadline_ns)
{
    struct itimerspec due;
    memset(&due, 0, sizeof due);
    due.it_value.tv_sec = (time_t)(deadline_ns / NS_PER_S);
    due.it_value.tv_nsec = (long)(deadline_ns % NS_PER_S);
    r->timer_ns = deadline_ns;
    return timerfd_settime(r->timer_fd, TFD_TIMER_ABSTIME, &due, NULL);
}

/* One epoll call that gives up at `deadline_ns`; the number of events, or -1 and errno. */
static int
wait_once(struct pac_reactor *r, uint64_t deadline_ns)
{
    if (deadline_ns == 0) {
        return epoll_wait(r->epoll_fd, r->batch, PAC_REACTOR_BATCH, 0);
    }
    if (deadline_ns == PAC_NEVER) {
        return epoll_wait(r->epoll_fd, r->batch, PAC_REACTOR_BATCH, -1);
    }
    if (r->timer_fd < 0) {
        uint64_t now_ns = pac_clock_ns();
        return epoll_wait_ns(r->epoll_fd, r->batch, PAC_REACTOR_BATCH,
                             deadline_ns > now_ns ? deadline_ns - now_ns : 0);
    }
    if (deadline_ns != r->timer_ns && set_timer(r, deadline_ns) != 0) {
        return -1;
    }
    return epoll_wait(r->epoll_fd, r->batch, PAC_REACTOR_BATCH, -1);
}

enum pac_status
pac_reactor_wait(struct pac_reactor *r, uint64_t deadline_ns)
{
    r->batch_next = r->batch_count = 0;
    int count = wait_once(r, deadline_ns);
    if (count < 0) {
        return errno == EINTR ? PAC_INTERRUPTED : PAC_OS_ERROR;
    }
    r->batch_count = count;
    return PAC_OK;
}

static void
dispatch_own(struct pac_reactor *r, int fd)
{
    if (fd == r->event_fd) {
        read_unparks(r);
    }
    else {
        uint64_t expirations;
        ssize_t ignored = read(r->timer_fd, &expirations, sizeof expirations);
        (void)ignored; /* only there to make it unreadable again */
        r->timer_ns = 0;
    }
}

void
pac_reactor_dispatch(struct pac_reactor *r)
{
    while (r->batch_next < r->batch_count) {
        struct epoll_event event = r->batch[r->batch_next++];
        int fd = (int)(uint32_t)event.data.u64;
        uint32_t registration = (uint32_t)(event.data.u64 >> 32);
        if (registration == 0) {
            dispatch_own(r, fd);
            continue;
        }
        struct pac_source *source = source_of(r, fd);
        if (source != NULL && source->registration == registration) {
            source->ready(source, readiness_of(event.events, source->interest & PAC_EDGE));
        }
    }
    r->batch_next = r->batch_count = 0;
}

void
pac_reactor_unpark(struct pac_reactor *r)
{
    uint64_t one = 1;
    /* An eventfd refuses a write only at 2^64 - 1, or when interrupted before it began. */
    while (write(r->event_fd, &one, sizeof one) < 0 && errno == EINTR) {}
}
