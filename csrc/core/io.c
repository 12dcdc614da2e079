/* io.c - the record, its waiters, and the operations that keep its bits true.
 *
 * Why the tick. An edge is told once. An operation that found nothing clears the bit; if an event
 * came between its system call and that, clearing would erase the only news of it. So it clears
 * only if the tick is still what it was before the call.
 *
 * A bit that says closed stays through a short read: no further edge tells of the end of the
 * stream that is behind the bytes. EAGAIN clears it all the same. That is the kernel's word that
 * there is nothing (a FIFO that a new writer has opened), and a bit that no operation can clear
 * would have a task spin. Tokio never clears it.
 *
 * A short read of a stream does not say that there is no more where the kernel ends it earlier: at
 * urgent data, and at what descriptors were sent along with, of which recvmsg tells that it has
 * dropped them. Such a bit stays until EAGAIN.
 *
 * Waiters are moved to a list of the waking function's own before the first is woken, since waking
 * may run anything: one that is dropped meanwhile takes itself out of that list, one that begins
 * to wait anew is not woken twice, and the record is not looked at again. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "io.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EVERYTHING = PAC_READABLE | PAC_WRITABLE | PAC_READ_CLOSED | PAC_WRITE_CLOSED };

static void
wake_waiters(struct pac_io *io, unsigned readiness)
{
    struct pac_list woken;
    pac_list_init(&woken);
    struct pac_list_node *node = io->waiters.head.next;
    while (node != &io->waiters.head) {
        struct pac_list_node *next = node->next;
        struct pac_waiter *w = PAC_LIST_ENTRY(node, struct pac_waiter, node);
        if (PAC_CONTAINER_OF(w, struct pac_io_ready, waiter)->interest & readiness) {
            pac_list_remove(node);
            pac_list_push_back(&woken, node);
        }
        node = next;
    }
    while ((node = pac_list_first(&woken)) != NULL) {
        struct pac_waker waker = pac_waiter_take(PAC_LIST_ENTRY(node, struct pac_waiter, node));
        pac_waker_wake(&waker);
    }
}

static void
io_event(struct pac_source *source, unsigned readiness)
{
    struct pac_io *io = PAC_CONTAINER_OF(source, struct pac_io, source);
    io->readiness |= readiness;
    io->tick++;
    if (io->on_event != NULL) {
        io->on_event(io);
    }
    wake_waiters(io, io->readiness);
}

/* From now on nothing would block, as nothing is tried. */
static void
mark_closed(struct pac_io *io)
{
    io->reactor = NULL;
    io->readiness = EVERYTHING;
}

static void
io_gone(struct pac_source *source)
{
    struct pac_io *io = PAC_CONTAINER_OF(source, struct pac_io, source);
    mark_closed(io);
    if (io->on_event != NULL) {
        io->on_event(io);
    }
    wake_waiters(io, EVERYTHING);
}

enum pac_io_kind
pac_io_kind_of_stream(int family)
{
    return family == AF_UNIX                         ? PAC_IO_UNIX
           : family == AF_INET || family == AF_INET6 ? PAC_IO_SOCKET
                                                     : PAC_IO_OTHER;
}

enum pac_status
pac_io_open(struct pac_io *io, struct pac_reactor *reactor, int fd, enum pac_io_kind kind,
            unsigned readiness)
{
    io->source.fd = fd;
    io->source.interest = PAC_READABLE | PAC_WRITABLE | PAC_EDGE;
    io->source.ready = io_event;
    io->source.gone = io_gone;
    io->source.is_idle = NULL;
    io->reactor = reactor;
    io->kind = kind;
    io->readiness = readiness;
    io->tick = 0;
    io->on_event = NULL;
    pac_list_init(&io->waiters);
    enum pac_status status = pac_reactor_add(reactor, &io->source);
    if (status != PAC_OK) {
        mark_closed(io);
    }
    return status;
}

void
pac_io_close(struct pac_io *io)
{
    if (pac_io_is_open(io)) {
        pac_reactor_remove(io->reactor, &io->source);
        mark_closed(io);
        wake_waiters(io, EVERYTHING);
    }
}

void
pac_io_disown(struct pac_io *io)
{
    if (pac_io_is_open(io)) {
        mark_closed(io);
        wake_waiters(io, EVERYTHING);
    }
}

/* ---- operations ----------------------------------------------------------------------------- */

static void
clear(struct pac_io *io, unsigned bits, uint32_t tick)
{
    if (io->tick == tick && pac_io_is_open(io)) {
        io->readiness &= ~bits;
    }
}

enum pac_status
pac_io_end(struct pac_io *io, unsigned direction, uint32_t tick, ptrdiff_t result, size_t wanted)
{
    unsigned closed = direction == PAC_READABLE ? PAC_READ_CLOSED : PAC_WRITE_CLOSED;
    if (result < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            clear(io, direction | closed, tick);
            return PAC_WOULD_BLOCK;
        }
        return errno == EINTR ? PAC_INTERRUPTED : PAC_OS_ERROR;
    }
    if (result > 0 && (size_t)result < wanted && io->kind != PAC_IO_OTHER &&
        !(io->readiness & (closed | PAC_URGENT))) {
        clear(io, direction, tick);
    }
    return PAC_OK;
}

/* *wanted is 0 afterwards if a short read says nothing. */
static ssize_t
receive_of_unix(struct pac_io *io, const struct iovec *parts, size_t part_count, size_t *wanted)
{
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = (struct iovec *)parts;
    message.msg_iovlen = part_count;
    ssize_t n = recvmsg(io->source.fd, &message, 0);
    if (n >= 0 && message.msg_flags & MSG_CTRUNC) {
        *wanted = 0;
    }
    return n;
}

enum pac_status
pac_io_read(struct pac_io *io, void *buffer, size_t size, size_t *count)
{
    uint32_t tick;
    if (io->kind == PAC_IO_UNIX) {
        struct iovec part = {buffer, size};
        return pac_io_readv(io, &part, 1, size, count);
    }
    enum pac_status status = pac_io_begin(io, PAC_READABLE, &tick);
    *count = 0;
    if (status != PAC_OK) {
        return status;
    }
    ssize_t n;
    do {
        n = io->kind == PAC_IO_SOCKET ? recv(io->source.fd, buffer, size, 0)
                                      : read(io->source.fd, buffer, size);
        status = pac_io_end(io, PAC_READABLE, tick, n, size);
    } while (status == PAC_INTERRUPTED);
    *count = n < 0 ? 0 : (size_t)n;
    return status;
}

/* By readv also of a socket: it has no flags to be given, and recvmsg has the kernel copy a header in
 * and out for that. */
enum pac_status
pac_io_readv(struct pac_io *io, const struct iovec *parts, size_t part_count, size_t total,
             size_t *count)
{
    uint32_t tick;
    enum pac_status status = pac_io_begin(io, PAC_READABLE, &tick);
    *count = 0;
    if (status != PAC_OK) {
        return status;
    }
    ssize_t n;
    do {
        n = io->kind == PAC_IO_UNIX ? receive_of_unix(io, parts, part_count, &total)
                                    : readv(io->source.fd, parts, (int)part_count);
        status = pac_io_end(io, PAC_READABLE, tick, n, total);
    } while (status == PAC_INTERRUPTED);
    *count = n < 0 ? 0 : (size_t)n;
    return status;
}

enum pac_status
pac_io_write(struct pac_io *io, const void *bytes, size_t size, size_t *count)
{
    struct iovec part;
    part.iov_base = (void *)bytes;
    part.iov_len = size;
    return pac_io_writev(io, &part, 1, size, count);
}

/* A closed socket is an error to the caller, not a signal to the process. */
static ssize_t
send_parts(struct pac_io *io, const struct iovec *parts, size_t part_count)
{
    if (io->kind != PAC_IO_SOCKET && io->kind != PAC_IO_UNIX) {
        return writev(io->source.fd, parts, (int)part_count);
    }
    if (part_count == 1) {
        return send(io->source.fd, parts->iov_base, parts->iov_len, MSG_NOSIGNAL);
    }
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = (struct iovec *)parts;
    message.msg_iovlen = part_count;
    return sendmsg(io->source.fd, &message, MSG_NOSIGNAL);
}

enum pac_status
pac_io_writev(struct pac_io *io, const struct iovec *parts, size_t part_count, size_t total,
              size_t *count)
{
    uint32_t tick;
    enum pac_status status = pac_io_begin(io, PAC_WRITABLE, &tick);
    *count = 0;
    if (status != PAC_OK) {
        return status;
    }
    ssize_t n;
    do {
        n = send_parts(io, parts, part_count);
        status = pac_io_end(io, PAC_WRITABLE, tick, n, total);
    } while (status == PAC_INTERRUPTED);
    *count = n < 0 ? 0 : (size_t)n;
    return status;
}

enum pac_status
pac_io_accept(struct pac_io *io, int *fd, struct sockaddr *address, unsigned *size)
{
    uint32_t tick;
    unsigned room = size == NULL ? 0 : *size;
    enum pac_status status = pac_io_begin(io, PAC_READABLE, &tick);
    if (status != PAC_OK) {
        return status;
    }
    do {
        if (size != NULL) {
            *size = room;
        }
        *fd = accept4(io->source.fd, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        status = pac_io_end(io, PAC_READABLE, tick, *fd, 0);
    } while (status == PAC_INTERRUPTED);
    return status;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static enum pac_poll
io_ready_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_io_ready_poll((struct pac_io_ready *)self, cx);
}

static void
io_ready_drop(struct pac_future *self)
{
    pac_io_ready_drop((struct pac_io_ready *)self);
}

static const struct pac_future_vtable io_ready_vtable = {
    .poll = io_ready_poll,
    .drop = io_ready_drop,
};

void
pac_io_ready_init(struct pac_io_ready *f, struct pac_io *io, unsigned interest)
{
    f->future.vtable = &io_ready_vtable;
    f->io = io;
    f->interest = interest;
    pac_waiter_init(&f->waiter);
}

enum pac_poll
pac_io_ready_poll(struct pac_io_ready *f, struct pac_context *cx)
{
    struct pac_waker spare = PAC_NO_WAKER, old = PAC_NO_WAKER;
    bool ready;
    while (!(ready = pac_io_is_ready(f->io, f->interest))) {
        if (pac_waiter_arm(&f->waiter, &f->io->waiters, cx->waker, &spare)) {
            break;
        }
        /* Cloning can run anything, and an event or the end of the record may come by it. */
        spare = pac_waker_clone(cx->waker);
    }
    if (ready) {
        old = pac_waiter_disarm(&f->waiter);
    }
    /* Dropping likewise, so it goes last. */
    pac_waker_drop(&old);
    pac_waker_drop(&spare);
    return ready ? PAC_READY : PAC_PENDING;
}

void
pac_io_ready_drop(struct pac_io_ready *f)
{
    struct pac_waker waker = pac_waiter_disarm(&f->waiter);
    pac_waker_drop(&waker);
}
