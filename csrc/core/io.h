/* io.h - readiness of one descriptor: what the reactor has said of it, and who waits for it.
 *
 * The descriptor is registered once, edge-triggered, for both directions. The record remembers
 * that it is readable or writable until an operation finds that it is not (EAGAIN, or less than
 * was asked for), so that an operation that would block costs no system call, and waiting for
 * another direction none either:
 *
 *     begin ──► the system call ──► end
 *       │                            │ EAGAIN, or short: the bit is cleared,
 *       │ the bit is clear           │ unless an event came since begin
 *       ▼                            ▼
 *     PAC_WOULD_BLOCK: wait by a pac_io_ready, or until `on_event`
 *
 * Any number of futures wait, each for its own directions; all that an event concerns are woken,
 * and look again at their next poll, which may find nothing there any more.
 *
 * One executor's thread owns a record, its operations and its futures. Stands for Tokio's
 * ScheduledIo and AsyncFd. */
#ifndef PAC_IO_H
#define PAC_IO_H

#include "reactor.h"
#include "waitlist.h"

struct iovec;
struct sockaddr;

/* What a short read or write says. */
enum pac_io_kind {
    PAC_IO_SOCKET, /* a stream socket: there was no more, or no more room */
    PAC_IO_UNIX,   /* likewise, of Unix; but a read ends where descriptors were sent along */
    PAC_IO_PIPE,   /* likewise, by read and write; but for a pipe that keeps packets apart */
    PAC_IO_OTHER,  /* nothing: a datagram, a terminal's line, a packet */
};

/* That of a stream socket of this family (AF_INET, ...). */
enum pac_io_kind pac_io_kind_of_stream(int family);

struct pac_io {
    struct pac_source source;
    struct pac_reactor *reactor; /* NULL: it is closed */
    enum pac_io_kind kind;
    unsigned readiness; /* of PAC_READABLE, PAC_WRITABLE, the two that are closed, PAC_URGENT */
    uint32_t tick;      /* one more with each event */
    struct pac_list waiters;
    /* The owner's, or NULL: called for each event before waiters are woken, and when the reactor
     * ends, with the record closed by then. Runs within pac_reactor_dispatch: it may close the
     * record, but must not free it. */
    void (*on_event)(struct pac_io *io);
};

/* Take on the non-blocking descriptor `fd`, which stays the caller's to close, after pac_io_close.
 * `readiness`: what is assumed of it before the first event. A stream socket is taken on once its
 * connect has begun: one that is not connected counts as hung up. Errors as pac_reactor_add, and
 * then the record is closed. */
PAC_MUST_USE enum pac_status pac_io_open(struct pac_io *io, struct pac_reactor *reactor, int fd,
                                         enum pac_io_kind kind, unsigned readiness);

/* Give the descriptor back and wake whoever waits: what they poll is READY, and what they try then
 * says PAC_CLOSED. Twice is a no-op. No event reaches the record afterwards, also none of the
 * batch that is being dispatched. A waker that is woken may run anything, even free the record. */
void pac_io_close(struct pac_io *io);

/* In a fork's child: the same, but for the reactor, which is the parent's and is left alone. */
void pac_io_disown(struct pac_io *io);

static inline bool
pac_io_is_open(const struct pac_io *io)
{
    return io->reactor != NULL;
}

/* Is an operation in one of these directions worth trying? */
static inline bool
pac_io_is_ready(const struct pac_io *io, unsigned interest)
{
    return (io->readiness & interest) != 0;
}

/* ---- operations ----------------------------------------------------------------------------- */

/* Before a system call in one direction: PAC_OK; PAC_WOULD_BLOCK, do not try; PAC_CLOSED. */
PAC_MUST_USE static inline enum pac_status
pac_io_begin(const struct pac_io *io, unsigned direction, uint32_t *tick)
{
    *tick = io->tick;
    if (PAC_LIKELY(pac_io_is_ready(io, direction))) {
        return pac_io_is_open(io) ? PAC_OK : PAC_CLOSED;
    }
    return PAC_WOULD_BLOCK;
}

/* After it, with what it returned, errno as it left it, and what was asked for in bytes (0 if
 * bytes are not what it counts). PAC_OK; PAC_WOULD_BLOCK; PAC_INTERRUPTED, to try again;
 * PAC_OS_ERROR and errno. */
PAC_MUST_USE enum pac_status pac_io_end(struct pac_io *io, unsigned direction, uint32_t tick,
                                        ptrdiff_t result, size_t wanted);

/* These do both, and try again when interrupted. PAC_OK and *count bytes, 0 at the end of the
 * stream; else as above. */
PAC_MUST_USE enum pac_status pac_io_read(struct pac_io *io, void *buffer, size_t size,
                                         size_t *count);
PAC_MUST_USE enum pac_status pac_io_write(struct pac_io *io, const void *bytes, size_t size,
                                          size_t *count);
/* `total`: the bytes of all `parts`, of which there are at most IOV_MAX. Reading fills them one after
 * the other. */
PAC_MUST_USE enum pac_status pac_io_readv(struct pac_io *io, const struct iovec *parts,
                                          size_t part_count, size_t total, size_t *count);
PAC_MUST_USE enum pac_status pac_io_writev(struct pac_io *io, const struct iovec *parts,
                                           size_t part_count, size_t total, size_t *count);

/* A connection of a listening socket: non-blocking, closed on exec, the caller's. Where it comes from
 * into the *size bytes of `address`, as accept(2) has it; both may be NULL. */
PAC_MUST_USE enum pac_status pac_io_accept(struct pac_io *io, int *fd, struct sockaddr *address,
                                           unsigned *size);

/* ---- waiting -------------------------------------------------------------------------------- */

/* READY once one of `interest` is so, or the record is closed. May be spurious: try, and poll
 * again if that would block. The record must outlive it, or be closed. */
struct pac_io_ready {
    struct pac_future future;
    struct pac_io *io;
    unsigned interest;
    struct pac_waiter waiter;
};

void pac_io_ready_init(struct pac_io_ready *f, struct pac_io *io, unsigned interest);
enum pac_poll pac_io_ready_poll(struct pac_io_ready *f, struct pac_context *cx);
void pac_io_ready_drop(struct pac_io_ready *f); /* may be polled again afterwards */

#endif
