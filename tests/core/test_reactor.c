/* The reactor on real descriptors, and parking by it. Built once more with PAC_NO_TIMERFD, where
 * a timerfd keeps the deadlines. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "park.h"
#include "testing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { MS = 1000000 };

static struct pac_reactor reactor;

/* A source that counts, and then does something. */
struct watched {
    struct pac_source source;
    int calls;
    unsigned readiness;
    void (*then)(struct watched *w);
    struct watched *other;
};

static void
watched_ready(struct pac_source *source, unsigned readiness)
{
    struct watched *w = PAC_CONTAINER_OF(source, struct watched, source);
    w->calls++;
    w->readiness = readiness;
    if (w->then != NULL) {
        w->then(w);
    }
}

static void
watched_init(struct watched *w, int fd, unsigned interest)
{
    memset(w, 0, sizeof *w);
    w->source.fd = fd;
    w->source.interest = interest;
    w->source.ready = watched_ready;
}

static void
watch(struct watched *w, int fd, unsigned interest)
{
    watched_init(w, fd, interest);
    CHECK_INT(pac_reactor_add(&reactor, &w->source), PAC_OK);
}

static void
look(void)
{
    CHECK_INT(pac_reactor_wait(&reactor, 0), PAC_OK);
    pac_reactor_dispatch(&reactor);
}

static void
set_up(void)
{
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
}

static void
make_pair(int *fds)
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
}

static void
close_pair(int *fds)
{
    close(fds[0]);
    close(fds[1]);
}

/* ---- readiness ------------------------------------------------------------------------------ */

static void
readiness_is_reported_for_as_long_as_it_lasts(void)
{
    struct watched w;
    int fds[2];
    char byte;
    set_up();
    make_pair(fds);
    watch(&w, fds[0], PAC_READABLE);
    look();
    CHECK_INT(w.calls, 0);
    CHECK_INT(write(fds[1], "x", 1), 1);
    look();
    look();
    CHECK_INT(w.calls, 2);
    CHECK_INT(w.readiness, PAC_READABLE);
    CHECK_INT(read(fds[0], &byte, 1), 1);
    look();
    CHECK_INT(w.calls, 2);
    CHECK_INT(pac_reactor_modify(&reactor, &w.source, PAC_READABLE | PAC_WRITABLE), PAC_OK);
    CHECK_INT(w.source.interest, PAC_READABLE | PAC_WRITABLE);
    look();
    CHECK_INT(w.calls, 3);
    CHECK_INT(w.readiness, PAC_WRITABLE);
    close(fds[1]); /* a hang-up is both */
    CHECK_INT(pac_reactor_modify(&reactor, &w.source, PAC_READABLE), PAC_OK);
    look();
    CHECK_INT(w.readiness, PAC_READABLE | PAC_WRITABLE);
    pac_reactor_remove(&reactor, &w.source);
    look();
    CHECK_INT(w.calls, 4);
    pac_reactor_remove(&reactor, &w.source); /* twice is nothing */
    close(fds[0]);
    pac_reactor_fini(&reactor);
    pac_reactor_remove(&reactor, &w.source); /* nor is it too late */
}

static void
what_cannot_be_watched_is_an_error(void)
{
    struct watched w, again;
    int fds[2];
    set_up();
    watched_init(&w, -1, PAC_READABLE);
    CHECK_INT(pac_reactor_add(&reactor, &w.source), PAC_OS_ERROR);
    CHECK_INT(errno, EBADF);
    FILE *file = tmpfile();
    watched_init(&w, fileno(file), PAC_READABLE);
    CHECK_INT(pac_reactor_add(&reactor, &w.source), PAC_OS_ERROR);
    CHECK_INT(errno, EPERM);
    pac_reactor_remove(&reactor, &w.source);
    fclose(file);
    make_pair(fds);
    watch(&w, fds[0], PAC_READABLE);
    watched_init(&again, fds[0], PAC_READABLE);
    CHECK_INT(pac_reactor_add(&reactor, &again.source), PAC_OS_ERROR);
    CHECK_INT(errno, EEXIST);
    CHECK_INT(write(fds[1], "x", 1), 1);
    look();
    CHECK_INT(w.calls, 1);
    CHECK_INT(again.calls, 0);
    pac_reactor_remove(&reactor, &w.source);
    CHECK_INT(pac_reactor_modify(&reactor, &w.source, PAC_WRITABLE), PAC_OS_ERROR);
    CHECK_INT(errno, ENOENT);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

/* ---- removing within the batch -------------------------------------------------------------- */

static void
remove_both(struct watched *w)
{
    pac_reactor_remove(&reactor, &w->other->source);
    pac_reactor_remove(&reactor, &w->source);
    memset(&w->other->source, 0xff,
           sizeof w->other->source); /* its memory is somebody else's now */
}

static void
a_source_removed_within_the_batch_is_not_called(void)
{
    struct watched a, b;
    int fds[2];
    set_up();
    make_pair(fds);
    watch(&a, fds[0], PAC_WRITABLE);
    watch(&b, fds[1], PAC_WRITABLE);
    a.then = b.then = remove_both;
    a.other = &b;
    b.other = &a;
    look();
    CHECK_INT(a.calls + b.calls, 1);
    look();
    CHECK_INT(a.calls + b.calls, 1);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

/* Whoever comes first replaces the other by a new descriptor of the same number, in the same
 * memory. */
static void
replace_other(struct watched *w)
{
    struct watched *other = w->other;
    int number = other->source.fd, unready[2];
    w->then = NULL;
    other->then = NULL;
    pac_reactor_remove(&reactor, &other->source);
    CHECK_INT(pipe2(unready, O_NONBLOCK), 0);
    CHECK_INT(dup2(unready[0], number), number); /* closes the old one */
    close(unready[0]);
    watch(other, number, PAC_READABLE);
    w->other = NULL;
    other->calls = 0;
    close(unready[1]);
}

static void
a_number_used_again_within_the_batch_gets_no_old_event(void)
{
    struct watched a, b;
    int fds[2];
    set_up();
    make_pair(fds);
    watch(&a, fds[0], PAC_WRITABLE);
    watch(&b, fds[1], PAC_WRITABLE);
    a.then = b.then = replace_other;
    a.other = &b;
    b.other = &a;
    look();
    struct watched *replaced = a.other == NULL ? &b : &a;
    CHECK_INT(replaced->calls, 0);
    look();
    CHECK_INT(replaced->calls, 1); /* the hang-up of the new one */
    pac_reactor_remove(&reactor, &a.source);
    pac_reactor_remove(&reactor, &b.source);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

static void
a_source_may_be_added_and_removed_while_dispatching_in_numbers(void)
{
    enum { MANY = 300 }; /* more than a batch */
    static struct watched sources[MANY];
    struct rlimit limit;
    int fds[2], calls = 0;
    set_up();
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_cur < 2 * MANY ? 2 * MANY : limit.rlim_cur;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    make_pair(fds);
    for (int i = 0; i < MANY; i++) {
        watch(&sources[i], dup(fds[0]), PAC_WRITABLE);
    }
    look();
    look();
    for (int i = 0; i < MANY; i++) {
        calls += sources[i].calls;
        CHECK(sources[i].calls >= 1);
        pac_reactor_remove(&reactor, &sources[i].source);
        close(sources[i].source.fd);
    }
    CHECK(calls >= 2 * PAC_REACTOR_BATCH - 1);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

/* ---- descriptors closed behind our back ----------------------------------------------------- */

static void
removing_late_does_not_hit_the_next_owner_of_the_number(void)
{
    struct watched old, next;
    int fds[2], again[2];
    set_up();
    make_pair(fds);
    make_pair(again);
    watch(&old, fds[0], PAC_READABLE);
    int number = fds[0];
    CHECK_INT(dup2(again[0], number), number); /* closed, and the number given away */
    watch(&next, number, PAC_READABLE);
    CHECK_INT(pac_reactor_modify(&reactor, &old.source, PAC_WRITABLE), PAC_OS_ERROR);
    CHECK_INT(errno, ENOENT);
    pac_reactor_remove(&reactor, &old.source);
    CHECK_INT(write(again[1], "x", 1), 1);
    look();
    CHECK_INT(next.calls, 1);
    CHECK_INT(next.readiness, PAC_READABLE);
    CHECK_INT(old.calls, 0);
    pac_reactor_remove(&reactor, &next.source);
    close_pair(fds);
    close_pair(again);
    pac_reactor_fini(&reactor);
}

/* epoll goes on to report a closed descriptor of which a duplicate lives on, and cannot be asked
 * to stop. The source is gone by then. */
static void
a_duplicate_that_lives_on_reaches_no_freed_source(void)
{
    struct watched *w = malloc(sizeof *w);
    int fds[2];
    set_up();
    make_pair(fds);
    watch(w, fds[0], PAC_WRITABLE);
    int duplicate = dup(fds[0]);
    close(fds[0]);
    pac_reactor_remove(&reactor, &w->source);
    free(w);
    look();
    look();
    close(duplicate);
    close(fds[1]);
    pac_reactor_fini(&reactor);
}

static bool
watched_is_idle(const struct pac_source *source)
{
    return PAC_CONTAINER_OF(source, struct watched, source)->other == NULL;
}

static void
an_idle_source_gives_its_place_away(void)
{
    struct watched idle, next;
    int fds[2];
    set_up();
    make_pair(fds);
    watched_init(&idle, fds[0], PAC_READABLE);
    idle.source.is_idle = watched_is_idle;
    idle.other = &next; /* not idle yet */
    CHECK_INT(pac_reactor_add(&reactor, &idle.source), PAC_OK);
    watched_init(&next, fds[0], PAC_WRITABLE);
    CHECK_INT(pac_reactor_add(&reactor, &next.source), PAC_OS_ERROR);
    CHECK_INT(errno, EEXIST);
    CHECK(pac_reactor_has(&reactor, &idle.source) && !pac_reactor_has(&reactor, &next.source));
    idle.other = NULL;
    CHECK_INT(pac_reactor_add(&reactor, &next.source), PAC_OK);
    CHECK(!pac_reactor_has(&reactor, &idle.source) && pac_reactor_has(&reactor, &next.source));
    CHECK_INT(write(fds[1], "x", 1), 1);
    look();
    CHECK_INT(idle.calls, 0);
    CHECK_INT(next.calls, 1);
    CHECK_INT(next.readiness, PAC_WRITABLE);
    CHECK_INT(pac_reactor_modify(&reactor, &idle.source, PAC_READABLE), PAC_OS_ERROR);
    CHECK_INT(errno, ENOENT);
    pac_reactor_remove(&reactor, &idle.source); /* nothing of its own is left */
    look();
    CHECK_INT(next.calls, 2);
    pac_reactor_remove(&reactor, &next.source);
    CHECK_INT(reactor.watched, 0);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

static void
an_edge_is_told_once(void)
{
    struct watched w;
    int fds[2];
    char byte;
    set_up();
    make_pair(fds);
    watch(&w, fds[0], PAC_READABLE | PAC_WRITABLE | PAC_EDGE);
    look();
    look();
    CHECK_INT(w.calls, 1);
    CHECK_INT(w.readiness, PAC_WRITABLE);
    CHECK_INT(write(fds[1], "xy", 2), 2);
    look();
    CHECK_INT(w.readiness, PAC_READABLE | PAC_WRITABLE);
    CHECK_INT(read(fds[0], &byte, 1), 1);
    look();
    CHECK_INT(w.calls, 2);
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    look();
    CHECK_INT(w.readiness, PAC_READABLE | PAC_WRITABLE | PAC_READ_CLOSED);
    close(fds[1]);
    look();
    CHECK_INT(w.readiness, PAC_READABLE | PAC_WRITABLE | PAC_READ_CLOSED | PAC_WRITE_CLOSED);
    CHECK_INT(w.calls, 4);
    pac_reactor_remove(&reactor, &w.source);
    close(fds[0]);
    pac_reactor_fini(&reactor);
}

static int told_gone;

static void
note_gone(struct pac_source *source)
{
    (void)source;
    told_gone++;
}

/* In a fork's child: the set is the parent's as well. */
static void
a_disowned_reactor_tells_its_sources_and_leaves_the_set_alone(void)
{
    struct watched w, without;
    struct epoll_event event = {.events = EPOLLIN};
    int fds[2];
    set_up();
    make_pair(fds);
    watch(&w, fds[0], PAC_READABLE);
    watch(&without, fds[1], PAC_READABLE);
    w.source.gone = note_gone;
    told_gone = 0;
    pac_reactor_disown(&reactor);
    CHECK_INT(told_gone, 1);
    pac_reactor_remove(&reactor, &w.source);
    /* It is still watched. */
    CHECK_INT(epoll_ctl(reactor.epoll_fd, EPOLL_CTL_ADD, fds[0], &event), -1);
    CHECK_INT(errno, EEXIST);
    CHECK_INT(write(fds[1], "x", 1), 1);
    look();
    CHECK_INT(w.calls, 0);
    close(fds[0]);
    close(fds[1]);
    pac_reactor_fini(&reactor);
    CHECK_INT(told_gone, 1);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void
a_deadline_ends_the_wait_and_never_early(void)
{
    set_up();
    for (int i = 1; i <= 20; i++) {
        uint64_t deadline_ns = pac_clock_ns() + (uint64_t)i * MS / 7;
        CHECK_INT(pac_reactor_wait(&reactor, deadline_ns), PAC_OK);
        CHECK(pac_clock_ns() >= deadline_ns);
        CHECK(pac_clock_ns() < deadline_ns + (uint64_t)5000 * MS);
        pac_reactor_dispatch(&reactor);
    }
    CHECK_INT(pac_reactor_wait(&reactor, 1), PAC_OK); /* long past */
    pac_reactor_dispatch(&reactor);
    /* What was left of an old deadline does not end a later wait for a descriptor. */
    struct watched w;
    int fds[2];
    make_pair(fds);
    watch(&w, fds[0], PAC_WRITABLE);
    CHECK_INT(pac_reactor_wait(&reactor, pac_clock_ns() + (uint64_t)3600000 * MS), PAC_OK);
    pac_reactor_dispatch(&reactor);
    CHECK_INT(w.calls, 1);
    /* Five hundred years. */
    CHECK_INT(pac_reactor_wait(&reactor, PAC_NEVER - 1), PAC_OK);
    pac_reactor_dispatch(&reactor);
    CHECK_INT(w.calls, 2);
    pac_reactor_remove(&reactor, &w.source);
    close_pair(fds);
    pac_reactor_fini(&reactor);
}

static void
on_alarm(int signal)
{
    (void)signal;
}

static void
a_signal_interrupts(void)
{
    struct sigaction action, before;
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    set_up();
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &soon, NULL);
    CHECK_INT(pac_reactor_wait(&reactor, pac_clock_ns() + (uint64_t)10000 * MS), PAC_INTERRUPTED);
    sigaction(SIGALRM, &before, NULL);
    pac_reactor_fini(&reactor);
}

static void *
unpark_in_a_moment(void *unused)
{
    (void)unused;
    usleep(20000);
    pac_reactor_unpark(&reactor);
    return NULL;
}

static void
an_unpark_ends_the_wait_from_another_thread(void)
{
    pthread_t thread;
    set_up();
    pthread_create(&thread, NULL, unpark_in_a_moment, NULL);
    uint64_t before_ns = pac_clock_ns();
    CHECK_INT(pac_reactor_wait(&reactor, before_ns + (uint64_t)10000 * MS), PAC_OK);
    CHECK(pac_clock_ns() - before_ns < (uint64_t)5000 * MS);
    pac_reactor_expect_unpark(&reactor);
    pac_reactor_dispatch(&reactor);
    CHECK_INT(reactor.pending_unparks, 0);
    pthread_join(thread, NULL);
    pac_reactor_unpark(&reactor); /* an unpark before the wait counts as well */
    CHECK_INT(pac_reactor_wait(&reactor, pac_clock_ns() + (uint64_t)10000 * MS), PAC_OK);
    CHECK(pac_clock_ns() - before_ns < (uint64_t)5000 * MS);
    pac_reactor_expect_unpark(&reactor);
    pac_reactor_dispatch(&reactor);
    pac_reactor_fini(&reactor);
}

/* A producer that has taken the token is slow to write: its descriptor is kept for it. */
static void
fini_waits_for_unparks_that_are_under_way(void)
{
    pthread_t thread;
    set_up();
    uint64_t before_ns = pac_clock_ns();
    pac_reactor_expect_unpark(&reactor);
    pthread_create(&thread, NULL, unpark_in_a_moment, NULL);
    pac_reactor_fini(&reactor);
    CHECK(pac_clock_ns() - before_ns >= 15 * MS);
    pthread_join(thread, NULL);
}

/* ---- park ----------------------------------------------------------------------------------- */

static struct pac_inject inject;
static int before_calls, after_calls;
static bool was_interrupted, go_on;

static void
count_before(void *data)
{
    CHECK(data == &before_calls);
    before_calls++;
}

static bool
count_after(void *data, bool interrupted)
{
    CHECK(data == &before_calls);
    after_calls++;
    was_interrupted = interrupted;
    return go_on;
}

static const struct pac_park_hooks hooks = {count_before, count_after, &before_calls};

static void
parking_runs_its_hooks_and_looking_does_not(void)
{
    struct pac_runnable r;
    struct pac_run_queue queue;
    bool waited;
    set_up();
    pac_inject_init(&inject);
    pac_run_queue_init(&queue);
    before_calls = after_calls = 0;
    go_on = true;
    CHECK_INT(pac_park(&reactor, &inject, 0, &hooks, &waited), PAC_OK);
    CHECK(!waited);
    CHECK_INT(before_calls, 0);
    CHECK_INT(pac_park(&reactor, &inject, pac_clock_ns() + MS, &hooks, &waited), PAC_OK);
    CHECK(waited && !was_interrupted);
    CHECK_INT(before_calls, 1);
    CHECK_INT(after_calls, 1);
    CHECK_INT(pac_inject_push(&inject, &r), PAC_INJECT_DONE); /* it is no longer parked */
    CHECK_INT(pac_park(&reactor, &inject, PAC_NEVER, &hooks, &waited), PAC_OK);
    CHECK(!waited); /* there is work */
    CHECK_INT(before_calls, 1);
    pac_inject_take(&inject, &queue);
    go_on = false;
    CHECK_INT(pac_park(&reactor, &inject, pac_clock_ns() + MS, &hooks, &waited), PAC_INTERRUPTED);
    CHECK_INT(after_calls, 2);
    pac_reactor_fini(&reactor);
}

static void
a_signal_is_told_to_the_hook(void)
{
    struct sigaction action, before;
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    bool waited;
    set_up();
    pac_inject_init(&inject);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, &before);
    go_on = true;
    setitimer(ITIMER_REAL, &soon, NULL);
    CHECK_INT(pac_park(&reactor, &inject, PAC_NEVER, &hooks, &waited), PAC_OK);
    CHECK(was_interrupted);
    sigaction(SIGALRM, &before, NULL);
    pac_reactor_fini(&reactor);
}

static struct pac_runnable pushed;

static void *
push_in_a_moment(void *unused)
{
    (void)unused;
    usleep(20000);
    if (pac_inject_push(&inject, &pushed) == PAC_INJECT_UNPARK) {
        pac_reactor_unpark(&reactor);
    }
    return NULL;
}

static void
a_push_ends_the_park(void)
{
    static const struct pac_park_hooks none;
    pthread_t thread;
    bool waited;
    set_up();
    pac_inject_init(&inject);
    pthread_create(&thread, NULL, push_in_a_moment, NULL);
    CHECK_INT(pac_park(&reactor, &inject, pac_clock_ns() + (uint64_t)10000 * MS, &none, &waited),
              PAC_OK);
    CHECK(pac_inject_has_work(&inject));
    pthread_join(thread, NULL);
    look();
    CHECK_INT(reactor.pending_unparks, 0); /* the token was counted, and the write read */
    pac_reactor_fini(&reactor);
}

#ifdef PAC_DEBUG
static bool
watch_one(void)
{
    struct watched w;
    int fds[2];
    if (pac_reactor_init(&reactor) != PAC_OK) {
        return false;
    }
    make_pair(fds);
    watched_init(&w, fds[0], PAC_WRITABLE);
    enum pac_status status = pac_reactor_add(&reactor, &w.source);
    CHECK(status == PAC_OK || status == PAC_NO_MEMORY);
    look();
    CHECK_INT(w.calls, status == PAC_OK);
    pac_reactor_remove(&reactor, &w.source);
    close_pair(fds);
    pac_reactor_fini(&reactor);
    return status == PAC_OK;
}

static void
no_memory_is_an_error(void)
{
    struct watched w;
    int fds[2];
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_reactor_init(&reactor), PAC_NO_MEMORY);
    set_up();
    make_pair(fds);
    watched_init(&w, fds[0], PAC_WRITABLE);
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_reactor_add(&reactor, &w.source), PAC_NO_MEMORY);
    look();
    CHECK_INT(w.calls, 0);
    CHECK_INT(pac_reactor_add(&reactor, &w.source), PAC_OK); /* nothing is left of the attempt */
    look();
    CHECK_INT(w.calls, 1);
    pac_reactor_remove(&reactor, &w.source);
    close_pair(fds);
    pac_reactor_fini(&reactor);
    check_without_memory(watch_one, 2);
}
#endif

static void
no_descriptor_is_an_error_and_none_is_left_open(void)
{
    struct rlimit limit, none;
    int lowest = dup(0);
    close(lowest);
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int left = 0; left < 2; left++) {
        none = limit;
        none.rlim_cur = (rlim_t)(lowest + left);
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
        CHECK_INT(pac_reactor_init(&reactor), PAC_OS_ERROR);
        CHECK_INT(errno, EMFILE);
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
        int now_lowest = dup(0);
        CHECK_INT(now_lowest, lowest);
        close(now_lowest);
    }
}

int
main(void)
{
    RUN(readiness_is_reported_for_as_long_as_it_lasts);
    RUN(what_cannot_be_watched_is_an_error);
    RUN(a_source_removed_within_the_batch_is_not_called);
    RUN(a_number_used_again_within_the_batch_gets_no_old_event);
    RUN(a_source_may_be_added_and_removed_while_dispatching_in_numbers);
    RUN(removing_late_does_not_hit_the_next_owner_of_the_number);
    RUN(a_duplicate_that_lives_on_reaches_no_freed_source);
    RUN(an_idle_source_gives_its_place_away);
    RUN(an_edge_is_told_once);
    RUN(a_disowned_reactor_tells_its_sources_and_leaves_the_set_alone);
    RUN(a_deadline_ends_the_wait_and_never_early);
    RUN(a_signal_interrupts);
    RUN(an_unpark_ends_the_wait_from_another_thread);
    RUN(fini_waits_for_unparks_that_are_under_way);
    RUN(parking_runs_its_hooks_and_looking_does_not);
    RUN(a_signal_is_told_to_the_hook);
    RUN(a_push_ends_the_park);
#ifdef PAC_DEBUG
    RUN(no_memory_is_an_error);
#endif
    RUN(no_descriptor_is_an_error_and_none_is_left_open);
    return TESTING_RESULT();
}
