/* Readiness records on real descriptors: what clears a bit and what must not, who is woken, and
 * what closing does at every moment. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "io.h"
#include "testing.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static struct pac_reactor reactor;
static struct pac_io io;
static int fds[2]; /* io's, and the other side */
static char bytes[65536];

static void
look(void)
{
    CHECK_INT(pac_reactor_wait(&reactor, 0), PAC_OK);
    pac_reactor_dispatch(&reactor);
}

static void
make_pair(void)
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static void
set_up(void)
{
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    make_pair();
    CHECK_INT(pac_io_open(&io, &reactor, fds[0], PAC_IO_SOCKET, 0), PAC_OK);
}

static void
tear_down(void)
{
    pac_io_close(&io);
    close(fds[0]);
    close(fds[1]);
    pac_reactor_fini(&reactor);
}

static void
feed(size_t size)
{
    CHECK_INT(write(fds[1], bytes, size), size);
}

/* A read that must say `status`; how many bytes it got. */
static size_t
read_some(size_t size, enum pac_status status)
{
    size_t count;
    CHECK_INT(pac_io_read(&io, bytes, size, &count), status);
    return count;
}

static size_t
write_some(size_t size, enum pac_status status)
{
    size_t count;
    CHECK_INT(pac_io_write(&io, bytes, size, &count), status);
    return count;
}

/* ---- bits ----------------------------------------------------------------------------------- */

static void
nothing_is_tried_before_an_event_said_so(void)
{
    set_up();
    feed(10);
    read_some(10, PAC_WOULD_BLOCK);
    write_some(10, PAC_WOULD_BLOCK);
    look();
    CHECK(pac_io_is_ready(&io, PAC_READABLE));
    CHECK_INT(write_some(10, PAC_OK), 10);
    CHECK_INT(read_some(10, PAC_OK), 10);
    tear_down();
    /* Or the caller knows better. */
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    make_pair();
    CHECK_INT(pac_io_open(&io, &reactor, fds[0], PAC_IO_SOCKET, PAC_READABLE), PAC_OK);
    feed(10);
    CHECK_INT(read_some(10, PAC_OK), 10);
    tear_down();
}

static void
an_operation_that_would_block_clears_its_bit_alone(void)
{
    set_up();
    look();
    CHECK_INT(io.readiness, PAC_WRITABLE);
    feed(10);
    look();
    CHECK_INT(read_some(10, PAC_OK), 10); /* all that was asked for: there may be more */
    CHECK_INT(io.readiness, PAC_READABLE | PAC_WRITABLE);
    read_some(10, PAC_WOULD_BLOCK);
    CHECK_INT(io.readiness, PAC_WRITABLE);
    feed(1);
    read_some(10, PAC_WOULD_BLOCK); /* no system call until the event */
    look();
    CHECK_INT(read_some(10, PAC_OK), 1);
    tear_down();
}

static void
a_short_read_clears_and_a_full_one_does_not(void)
{
    set_up();
    feed(10);
    look();
    CHECK_INT(read_some(4, PAC_OK), 4);
    CHECK(pac_io_is_ready(&io, PAC_READABLE));
    CHECK_INT(read_some(100, PAC_OK), 6);
    CHECK(!pac_io_is_ready(&io, PAC_READABLE));
    feed(1);
    look();
    CHECK_INT(read_some(100, PAC_OK), 1);
    tear_down();
}

/* In several parts: they are filled in their order, and it is their sum that a short read falls short
 * of. */
static void
a_read_in_parts_is_as_one_read(void)
{
    char first[4], second[6];
    struct iovec parts[2] = {{first, sizeof first}, {second, sizeof second}};
    size_t count;
    set_up();
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_WOULD_BLOCK);
    CHECK_INT(count, 0);
    CHECK_INT(write(fds[1], "0123456789ab", 12), 12);
    look();
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_OK);
    CHECK_INT(count, 10);
    CHECK_INT(memcmp(first, "0123", 4), 0);
    CHECK_INT(memcmp(second, "456789", 6), 0);
    CHECK(pac_io_is_ready(&io, PAC_READABLE));
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_OK);
    CHECK_INT(count, 2);
    CHECK_INT(memcmp(first, "ab23", 4), 0);
    CHECK(!pac_io_is_ready(&io, PAC_READABLE));
    CHECK_INT(write(fds[1], "cdef", 4), 4); /* the first of them full: short all the same */
    look();
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_OK);
    CHECK_INT(count, 4);
    CHECK(!pac_io_is_ready(&io, PAC_READABLE));
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    look();
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_OK);
    CHECK_INT(count, 0);
    pac_io_close(&io);
    CHECK_INT(pac_io_readv(&io, parts, 2, 10, &count), PAC_CLOSED);
    tear_down();
}

/* A short write, too: the next event comes once the other side has read. */
static void
a_full_socket_waits_for_room(void)
{
    struct iovec parts[2] = {{bytes, 1000}, {bytes, sizeof bytes - 1000}};
    size_t sent = 0, count, received = 0;
    set_up();
    look();
    while (pac_io_writev(&io, parts, 2, sizeof bytes, &count) == PAC_OK) {
        sent += count;
    }
    CHECK(sent > 0);
    CHECK(!pac_io_is_ready(&io, PAC_WRITABLE));
    look();
    CHECK(!pac_io_is_ready(&io, PAC_WRITABLE));
    while (received < sent) {
        received += (size_t)read(fds[1], bytes, sizeof bytes);
    }
    CHECK_INT(received, sent);
    look();
    CHECK_INT(write_some(10, PAC_OK), 10);
    tear_down();
}

/* What the tick is for. */
static void
an_event_between_the_call_and_its_end_is_not_erased(void)
{
    uint32_t tick;
    set_up();
    feed(1);
    look();
    CHECK_INT(read_some(1, PAC_OK), 1);
    CHECK_INT(pac_io_begin(&io, PAC_READABLE, &tick), PAC_OK);
    CHECK_INT(recv(fds[0], bytes, 1, 0), -1);
    int error = errno;
    feed(1);
    look();
    errno = error;
    CHECK_INT(pac_io_end(&io, PAC_READABLE, tick, -1, 1), PAC_WOULD_BLOCK);
    CHECK_INT(read_some(1, PAC_OK), 1);
    /* The same of a short read. */
    feed(2);
    look();
    CHECK_INT(pac_io_begin(&io, PAC_READABLE, &tick), PAC_OK);
    CHECK_INT(recv(fds[0], bytes, 10, 0), 2);
    feed(1);
    look();
    CHECK_INT(pac_io_end(&io, PAC_READABLE, tick, 2, 10), PAC_OK);
    CHECK_INT(read_some(10, PAC_OK), 1);
    tear_down();
}

static void
the_end_of_the_stream_is_behind_the_last_bytes(void)
{
    set_up();
    look();
    feed(10);
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    look();
    CHECK_INT(io.readiness, PAC_READABLE | PAC_WRITABLE | PAC_READ_CLOSED);
    CHECK_INT(read_some(100, PAC_OK), 10); /* short, but the end was announced already */
    CHECK_INT(read_some(100, PAC_OK), 0);
    CHECK_INT(read_some(100, PAC_OK), 0);
    CHECK_INT(write_some(10, PAC_OK), 10); /* half-closed */
    tear_down();
    /* The end comes after the bytes were read: an event of its own. */
    set_up();
    feed(10);
    look();
    CHECK_INT(read_some(100, PAC_OK), 10);
    CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
    read_some(100, PAC_WOULD_BLOCK);
    look();
    CHECK_INT(read_some(100, PAC_OK), 0);
    tear_down();
}

static void
a_peer_that_is_gone_is_an_error_and_no_signal(void)
{
    set_up();
    look();
    close(fds[1]);
    look();
    CHECK_INT(io.readiness, PAC_READABLE | PAC_WRITABLE | PAC_READ_CLOSED | PAC_WRITE_CLOSED);
    write_some(10, PAC_OS_ERROR);
    CHECK_INT(errno, EPIPE);
    CHECK_INT(read_some(10, PAC_OK), 0);
    make_pair();
    close(fds[0]);
    fds[0] = io.source.fd;
    tear_down();
}

static void
only_streams_are_drained_by_a_short_read(void)
{
    int pair[2];
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    CHECK_INT(pac_io_open(&io, &reactor, pair[0], PAC_IO_OTHER, 0), PAC_OK);
    CHECK_INT(write(pair[1], bytes, 3), 3);
    CHECK_INT(write(pair[1], bytes, 4), 4);
    look();
    CHECK_INT(read_some(100, PAC_OK), 3);
    CHECK_INT(read_some(100, PAC_OK), 4);
    read_some(100, PAC_WOULD_BLOCK);
    pac_io_close(&io);
    close(pair[0]);
    close(pair[1]);
    CHECK_INT(pipe2(pair, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_INT(pac_io_open(&io, &reactor, pair[0], PAC_IO_PIPE, 0), PAC_OK);
    CHECK_INT(write(pair[1], bytes, 3), 3);
    look();
    CHECK_INT(read_some(100, PAC_OK), 3);
    CHECK(!pac_io_is_ready(&io, PAC_READABLE));
    close(pair[1]);
    look();
    CHECK_INT(read_some(100, PAC_OK), 0);
    pac_io_close(&io);
    close(pair[0]);
    pac_reactor_fini(&reactor);
}

/* Three messages that came before the first look, of which a read gets the first alone. */
static void
read_three(enum pac_io_kind kind)
{
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    CHECK_INT(pac_io_open(&io, &reactor, fds[0], kind, 0), PAC_OK);
    look();
    CHECK_INT(read_some(100, PAC_OK), 3);
    CHECK_INT(read_some(100, PAC_OK), 4);
    read_some(100, PAC_WOULD_BLOCK);
    feed(5);
    look();
    CHECK_INT(read_some(100, PAC_OK), 5);
    tear_down();
}

static void
a_read_that_the_kernel_cut_short_says_nothing(void)
{
    /* A descriptor comes with the first. */
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {bytes, 3};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    make_pair();
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fds[0], sizeof fds[0]);
    CHECK_INT(sendmsg(fds[1], &message, 0), 3);
    feed(4);
    read_three(PAC_IO_UNIX);
    /* Urgent data between the two. */
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_INT(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_INT(listen(listener, 1), 0);
    CHECK_INT(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_INT(connect(fds[1], (struct sockaddr *)&address, length), 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    feed(3);
    CHECK_INT(send(fds[1], "!", 1, MSG_OOB), 1);
    feed(4);
    read_three(PAC_IO_SOCKET);
    close(listener);
}

static void
what_kind_a_stream_is_its_family_says(void)
{
    CHECK_INT(pac_io_kind_of_stream(AF_UNIX), PAC_IO_UNIX);
    CHECK_INT(pac_io_kind_of_stream(AF_INET), PAC_IO_SOCKET);
    CHECK_INT(pac_io_kind_of_stream(AF_INET6), PAC_IO_SOCKET);
    CHECK_INT(pac_io_kind_of_stream(AF_VSOCK), PAC_IO_OTHER);
}

/* A FIFO whose writers are all gone, and then there is one again: a bit that stayed would make its
 * reader spin. */
static void
a_bit_that_says_closed_is_cleared_if_the_kernel_denies_it(void)
{
    char directory[] = "/tmp/pac-io-XXXXXX", path[64];
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/fifo", directory);
    CHECK_INT(mkfifo(path, 0600), 0);
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK_INT(pac_io_open(&io, &reactor, reader, PAC_IO_PIPE, 0), PAC_OK);
    close(writer);
    look();
    CHECK_INT(read_some(10, PAC_OK), 0);
    writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    read_some(10, PAC_WOULD_BLOCK);
    CHECK(!pac_io_is_ready(&io, PAC_READABLE | PAC_READ_CLOSED));
    CHECK_INT(write(writer, bytes, 3), 3);
    look();
    CHECK_INT(read_some(10, PAC_OK), 3);
    pac_io_close(&io);
    close(reader);
    close(writer);
    pac_reactor_fini(&reactor);
    unlink(path);
    rmdir(directory);
}

static void
a_listener_accepts_what_is_there(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = -1, clients[3];
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK_INT(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    socklen_t length = sizeof address;
    CHECK_INT(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    CHECK_INT(listen(listener, 8), 0);
    CHECK_INT(pac_io_open(&io, &reactor, listener, PAC_IO_OTHER, PAC_READABLE), PAC_OK);
    CHECK_INT(pac_io_accept(&io, &fd, NULL, NULL), PAC_WOULD_BLOCK);
    for (int i = 0; i < 3; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_INT(connect(clients[i], (struct sockaddr *)&address, length), 0);
    }
    CHECK_INT(pac_io_accept(&io, &fd, NULL, NULL), PAC_WOULD_BLOCK);
    look();
    for (int i = 0; i < 3; i++) {
        struct sockaddr_un from;
        socklen_t size = sizeof from;
        CHECK_INT(pac_io_accept(&io, &fd, (struct sockaddr *)&from, &size), PAC_OK);
        CHECK_INT(size, sizeof(sa_family_t));
        CHECK_INT(from.sun_family, AF_UNIX);
        CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        close(clients[i]);
    }
    CHECK_INT(pac_io_accept(&io, &fd, NULL, NULL), PAC_WOULD_BLOCK);
    pac_io_close(&io);
    close(listener);
    pac_reactor_fini(&reactor);
}

/* ---- waiting -------------------------------------------------------------------------------- */

struct waiting {
    struct pac_io_ready ready;
    struct counting_waker counts;
    struct pac_waker waker;
};

static void
waiting_init(struct waiting *w, unsigned interest)
{
    w->waker = counting_waker_init(&w->counts);
    pac_io_ready_init(&w->ready, &io, interest);
}

static enum pac_poll
poll_with(struct waiting *w, const struct pac_waker *waker)
{
    struct pac_context cx = {waker};
    return pac_future_poll(&w->ready.future, &cx);
}

static enum pac_poll
poll(struct waiting *w)
{
    return poll_with(w, &w->waker);
}

static void
two_readers_and_a_writer_all_go_on(void)
{
    struct waiting first, second, writer, both;
    set_up();
    look();
    while (write_some(sizeof bytes, io.readiness & PAC_WRITABLE ? PAC_OK : PAC_WOULD_BLOCK) > 0) {}
    waiting_init(&first, PAC_READABLE);
    waiting_init(&second, PAC_READABLE);
    waiting_init(&writer, PAC_WRITABLE);
    waiting_init(&both, PAC_READABLE | PAC_WRITABLE);
    CHECK_INT(poll(&first), PAC_PENDING);
    CHECK_INT(poll(&second), PAC_PENDING);
    CHECK_INT(poll(&writer), PAC_PENDING);
    CHECK_INT(poll(&both), PAC_PENDING);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&first.counts), 1);
    CHECK_INT(counting_wakes(&second.counts), 1);
    CHECK_INT(counting_wakes(&both.counts), 1);
    CHECK_INT(counting_wakes(&writer.counts), 0);
    CHECK_INT(poll(&first), PAC_READY);
    CHECK_INT(read_some(10, PAC_OK), 1);
    CHECK_INT(poll(&second), PAC_PENDING); /* the first has taken it: a spurious wake */
    CHECK_INT(poll(&writer), PAC_PENDING);
    while (read(fds[1], bytes, sizeof bytes) > 0) {}
    look();
    CHECK_INT(counting_wakes(&writer.counts), 1);
    CHECK_INT(poll(&writer), PAC_READY);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&second.counts), 2);
    CHECK_INT(poll(&second), PAC_READY);
    CHECK_INT(poll(&both), PAC_READY);
    CHECK_INT(counting_live(&first.counts) + counting_live(&second.counts) +
                  counting_live(&writer.counts) + counting_live(&both.counts),
              0);
    tear_down();
}

static void
the_newest_waker_is_woken_and_the_same_one_is_not_cloned_again(void)
{
    struct waiting w;
    struct counting_waker other_counts;
    struct pac_waker other = counting_waker_init(&other_counts);
    set_up();
    waiting_init(&w, PAC_READABLE);
    CHECK_INT(poll(&w), PAC_PENDING);
    CHECK_INT(poll(&w), PAC_PENDING);
    CHECK_INT(counting_clones(&w.counts), 1);
    CHECK_INT(poll_with(&w, &other), PAC_PENDING);
    CHECK_INT(counting_live(&w.counts), 0);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&w.counts), 0);
    CHECK_INT(counting_wakes(&other_counts), 1);
    CHECK_INT(poll_with(&w, &other), PAC_READY);
    CHECK_INT(counting_live(&other_counts), 0);
    tear_down();
}

static void
who_is_dropped_is_not_woken_and_may_wait_again(void)
{
    struct waiting w;
    set_up();
    waiting_init(&w, PAC_READABLE);
    pac_future_drop(&w.ready.future); /* never polled */
    CHECK_INT(poll(&w), PAC_PENDING);
    pac_future_drop(&w.ready.future);
    CHECK_INT(counting_live(&w.counts), 0);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&w.counts), 0);
    CHECK_INT(poll(&w), PAC_READY);
    read_some(10, PAC_OK);
    CHECK_INT(poll(&w), PAC_PENDING);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&w.counts), 1);
    pac_future_drop(&w.ready.future); /* woken, not polled */
    tear_down();
}

/* ---- closing -------------------------------------------------------------------------------- */

static void
closing_wakes_all_and_refuses_operations(void)
{
    struct waiting reader, writer;
    int fd;
    uint32_t tick;
    set_up();
    waiting_init(&reader, PAC_READABLE);
    waiting_init(&writer, PAC_WRITABLE);
    CHECK_INT(poll(&reader), PAC_PENDING);
    CHECK_INT(poll(&writer), PAC_PENDING);
    pac_io_close(&io);
    pac_io_close(&io);
    CHECK_INT(counting_wakes(&reader.counts), 1);
    CHECK_INT(counting_wakes(&writer.counts), 1);
    CHECK_INT(poll(&reader), PAC_READY);
    CHECK_INT(poll(&writer), PAC_READY);
    read_some(1, PAC_CLOSED);
    write_some(1, PAC_CLOSED);
    CHECK_INT(pac_io_accept(&io, &fd, NULL, NULL), PAC_CLOSED);
    CHECK_INT(pac_io_begin(&io, PAC_READABLE, &tick), PAC_CLOSED);
    errno = EAGAIN;
    CHECK_INT(pac_io_end(&io, PAC_READABLE, tick, -1, 1), PAC_WOULD_BLOCK);
    CHECK_INT(poll(&reader), PAC_READY); /* nothing makes a closed record wait */
    tear_down();
}

static int events;

static void
count_events(struct pac_io *one)
{
    CHECK(one == &io);
    events++;
}

static void
a_forks_child_leaves_the_reactor_alone(void)
{
    set_up();
    int watched = reactor.watched;
    pac_io_disown(&io);
    pac_io_disown(&io);
    CHECK(!pac_io_is_open(&io));
    CHECK_INT(reactor.watched, watched);
    size_t count;
    CHECK_INT(pac_io_write(&io, bytes, 1, &count), PAC_CLOSED);
    /* What is still registered is a record that is in place. */
    io.reactor = &reactor;
    tear_down();
}

static void
the_end_of_the_reactor_closes_the_record(void)
{
    struct waiting w;
    set_up();
    io.on_event = count_events;
    events = 0;
    waiting_init(&w, PAC_READABLE);
    CHECK_INT(poll(&w), PAC_PENDING);
    pac_reactor_fini(&reactor);
    CHECK(!pac_io_is_open(&io));
    CHECK_INT(events, 1);
    CHECK_INT(counting_wakes(&w.counts), 1);
    CHECK_INT(poll(&w), PAC_READY);
    read_some(1, PAC_CLOSED);
    pac_io_close(&io);
    close(fds[0]);
    close(fds[1]);
}

static void
close_it(struct pac_io *one)
{
    events++;
    pac_io_close(one);
}

static void
an_event_may_close_its_record(void)
{
    struct waiting w;
    set_up();
    io.on_event = close_it;
    events = 0;
    waiting_init(&w, PAC_WRITABLE | PAC_READABLE);
    CHECK_INT(poll(&w), PAC_PENDING);
    feed(1);
    look();
    CHECK_INT(events, 1);
    CHECK_INT(counting_wakes(&w.counts), 1);
    CHECK_INT(counting_live(&w.counts), 0);
    look();
    CHECK_INT(events, 1);
    tear_down();
}

/* A waker that runs anything: it drops the other waiter, closes the record and frees it. */
static struct pac_io *freed;
static struct waiting *victim;

static struct pac_waker
wild_clone(void *data)
{
    (void)data;
    return PAC_NO_WAKER;
}

static void
wild_wake(void *data)
{
    (void)data;
    pac_future_drop(&victim->ready.future);
    pac_io_close(freed);
    pac_free(freed);
}

static const struct pac_waker_vtable wild_vtable = {wild_clone, wild_wake, wild_wake, wild_wake};

static struct pac_waker
closing_clone(void *data)
{
    pac_io_close(&io);
    return counting_clone(data);
}

/* Between the look at the bits and the waiting: it must be seen after it. */
static void
a_clone_may_close_the_record(void)
{
    static const struct pac_waker_vtable closing_vtable = {closing_clone, counting_wake,
                                                           counting_wake_by_ref, counting_drop};
    struct waiting w;
    set_up();
    waiting_init(&w, PAC_READABLE);
    struct pac_waker waker = {&closing_vtable, &w.counts};
    CHECK_INT(poll_with(&w, &waker), PAC_READY);
    CHECK_INT(counting_live(&w.counts), 0);
    tear_down();
}

static void
a_wake_may_free_the_record(void)
{
    struct waiting w;
    struct pac_io_ready wild;
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    make_pair();
    freed = pac_alloc(sizeof *freed);
    CHECK_INT(pac_io_open(freed, &reactor, fds[0], PAC_IO_SOCKET, 0), PAC_OK);
    pac_io_ready_init(&wild, freed, PAC_READABLE);
    wild.waiter.waker = (struct pac_waker){&wild_vtable, NULL};
    wild.waiter.armed = true;
    pac_list_push_back(&freed->waiters, &wild.waiter.node);
    PAC_COUNT(waiters, 1);
    waiting_init(&w, PAC_READABLE);
    pac_io_ready_init(&w.ready, freed, PAC_READABLE);
    victim = &w;
    CHECK_INT(poll(&w), PAC_PENDING);
    feed(1);
    look();
    CHECK_INT(counting_wakes(&w.counts), 0);
    CHECK_INT(counting_live(&w.counts), 0);
    close(fds[0]);
    close(fds[1]);
    pac_reactor_fini(&reactor);
}

/* ---- numbers that are used again ------------------------------------------------------------ */

static struct pac_io others[2];
static int other_fds[2][2];
static int other_events[2];

/* Whichever of the two comes first closes the other and opens a record on the same number. */
static void
take_over(struct pac_io *one)
{
    int i = one == &others[1], j = !i;
    other_events[i]++;
    one->on_event = NULL;
    pac_io_close(&others[j]);
    CHECK_INT(dup2(fds[0], other_fds[j][0]), other_fds[j][0]);
    CHECK_INT(pac_io_open(&io, &reactor, other_fds[j][0], PAC_IO_SOCKET, 0), PAC_OK);
    io.on_event = count_events;
}

static void
a_number_used_again_within_the_batch_gets_no_old_event(void)
{
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    make_pair(); /* of which nothing is registered under its own number */
    events = 0;
    for (int i = 0; i < 2; i++) {
        other_events[i] = 0;
        CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, other_fds[i]), 0);
        CHECK_INT(pac_io_open(&others[i], &reactor, other_fds[i][0], PAC_IO_SOCKET, 0), PAC_OK);
        others[i].on_event = take_over;
        CHECK_INT(write(other_fds[i][1], "x", 1), 1);
    }
    look();
    CHECK_INT(other_events[0] + other_events[1], 1);
    CHECK_INT(events, 0);
    look();
    CHECK_INT(events, 1); /* its own: writable */
    CHECK_INT(io.readiness, PAC_WRITABLE);
    pac_io_close(&io);
    for (int i = 0; i < 2; i++) {
        pac_io_close(&others[i]);
        close(other_fds[i][0]);
        close(other_fds[i][1]);
    }
    close(fds[0]);
    close(fds[1]);
    pac_reactor_fini(&reactor);
}

static void
records_come_and_go_under_load(void)
{
    enum { ROUNDS = 10000 };
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    for (int i = 0; i < ROUNDS; i++) {
        struct waiting w;
        make_pair();
        CHECK_INT(pac_io_open(&io, &reactor, fds[0], PAC_IO_SOCKET, 0), PAC_OK);
        waiting_init(&w, PAC_READABLE);
        CHECK_INT(poll(&w), PAC_PENDING);
        if (i % 2) {
            feed(1);
        }
        if (i % 3) {
            look();
            CHECK_INT(counting_wakes(&w.counts), i % 2);
        }
        if (i % 5) {
            pac_future_drop(&w.ready.future);
        }
        pac_io_close(&io);
        CHECK_INT(counting_live(&w.counts), 0);
        close(fds[0]);
        close(fds[1]);
    }
    CHECK_INT(reactor.watched, 0);
    pac_reactor_fini(&reactor);
}

static void
what_cannot_be_taken_on_is_a_closed_record(void)
{
    CHECK_INT(pac_reactor_init(&reactor), PAC_OK);
    CHECK_INT(pac_io_open(&io, &reactor, -1, PAC_IO_SOCKET, 0), PAC_OS_ERROR);
    CHECK_INT(errno, EBADF);
    CHECK(!pac_io_is_open(&io));
    read_some(1, PAC_CLOSED);
    pac_io_close(&io);
#ifdef PAC_DEBUG
    make_pair();
    pac_alloc_fail_after(1, true);
    CHECK_INT(pac_io_open(&io, &reactor, fds[0], PAC_IO_SOCKET, 0), PAC_NO_MEMORY);
    CHECK(!pac_io_is_open(&io));
    CHECK_INT(pac_io_open(&io, &reactor, fds[0], PAC_IO_SOCKET, 0), PAC_OK);
    pac_io_close(&io);
    close(fds[0]);
    close(fds[1]);
#endif
    pac_reactor_fini(&reactor);
}

int
main(void)
{
    RUN(nothing_is_tried_before_an_event_said_so);
    RUN(an_operation_that_would_block_clears_its_bit_alone);
    RUN(a_short_read_clears_and_a_full_one_does_not);
    RUN(a_read_in_parts_is_as_one_read);
    RUN(a_full_socket_waits_for_room);
    RUN(an_event_between_the_call_and_its_end_is_not_erased);
    RUN(the_end_of_the_stream_is_behind_the_last_bytes);
    RUN(a_peer_that_is_gone_is_an_error_and_no_signal);
    RUN(only_streams_are_drained_by_a_short_read);
    RUN(a_read_that_the_kernel_cut_short_says_nothing);
    RUN(what_kind_a_stream_is_its_family_says);
    RUN(a_bit_that_says_closed_is_cleared_if_the_kernel_denies_it);
    RUN(a_listener_accepts_what_is_there);
    RUN(two_readers_and_a_writer_all_go_on);
    RUN(the_newest_waker_is_woken_and_the_same_one_is_not_cloned_again);
    RUN(who_is_dropped_is_not_woken_and_may_wait_again);
    RUN(closing_wakes_all_and_refuses_operations);
    RUN(a_forks_child_leaves_the_reactor_alone);
    RUN(the_end_of_the_reactor_closes_the_record);
    RUN(an_event_may_close_its_record);
    RUN(a_clone_may_close_the_record);
    RUN(a_wake_may_free_the_record);
    RUN(a_number_used_again_within_the_batch_gets_no_old_event);
    RUN(records_come_and_go_under_load);
    RUN(what_cannot_be_taken_on_is_a_closed_record);
    return TESTING_RESULT();
}
