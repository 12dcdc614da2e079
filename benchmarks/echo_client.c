/* echo_client.c - asks an echo server over many connections, from one thread.
 *
 *     echo_client ADDRESS CONNECTIONS BYTES DEPTH [tls]
 *
 * ADDRESS is a TCP port of this machine, or the path of a Unix socket. Each connection keeps DEPTH
 * messages of BYTES under way: with 1 it asks the next time when the last answer is complete, with
 * more it is a stream. When all are connected and have been answered once, it prints a line. Then it
 * reads numbers, a line each; for each it asks so often, over all connections together, and prints
 * what that took as JSON: seconds by the clock, seconds of processor time of this process, and the
 * seconds that half of the messages, 99 of a hundred, and the slowest took.
 *
 * What a connection sends is one endless sequence of bytes whose period is a prime number, so that a
 * byte which comes back lost, doubled, changed or out of its turn is noticed: each is compared. Exit
 * code 1 and a message say what went wrong; nothing is printed for a run that is not whole.
 *
 * It is built without OpenSSL unless WITH_TLS is defined. A certificate is not looked at: what is
 * measured is on this machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

#define PERIOD 65521
#define CHUNK (256 * 1024)
#define EVENTS 256
#define CONNECTIONS_MAX 100000
#define DEPTH_MAX 1024
#define BYTES_MAX (1 << 30)

struct connection {
    int fd;
    uint32_t watched;   /* what epoll was told */
    uint64_t phase;     /* where in the sequence this connection began */
    uint64_t asked;     /* messages, all told */
    uint64_t answered;  /* the same */
    uint64_t sent;      /* bytes, all told */
    uint64_t received;  /* the same */
    uint64_t *begin_ns; /* of the messages under way, by their number modulo depth */
#ifdef WITH_TLS
    SSL *ssl;
#endif
};

static unsigned char sequence[PERIOD + CHUNK];
static unsigned char incoming[CHUNK];
static struct connection *connections;
static size_t connections_n;
static uint64_t message_bytes;
static uint64_t depth;
static int poller;
static uint64_t unasked; /* messages that no connection has begun yet */
static uint64_t awaited; /* messages that are not answered yet */

static _Noreturn void
die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("echo_client: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static _Noreturn void
die_of_errno(const char *what)
{
    die("%s: %s", what, strerror(errno));
}

static uint64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t
cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- how long messages took ------------------------------------------------------------------ */

/* A histogram whose buckets are 1/32 as wide as what they count: exact below 32 ns, and wrong by 3 %
 * at the most above. */
#define STEPS 32
#define STEPS_LOG2 5
#define BUCKETS ((64 - STEPS_LOG2 + 1) * STEPS)

static uint64_t histogram[BUCKETS];

static size_t
bucket_of(uint64_t ns)
{
    if (ns < STEPS) {
        return (size_t)ns;
    }
    unsigned exponent = 63u - (unsigned)__builtin_clzll(ns);
    unsigned shift = exponent - STEPS_LOG2;
    return (size_t)(shift + 1) * STEPS + (size_t)((ns >> shift) & (STEPS - 1));
}

/* The most that a bucket counts. */
static uint64_t
bucket_end(size_t bucket)
{
    if (bucket < STEPS) {
        return bucket;
    }
    unsigned shift = (unsigned)(bucket / STEPS) - 1;
    return (((uint64_t)STEPS + bucket % STEPS + 1) << shift) - 1;
}

/* What so many of all messages took at the most. */
static uint64_t
percentile_ns(double share)
{
    uint64_t all = 0, seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        all += histogram[i];
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (histogram[i] > 0 && (double)seen >= share * (double)all) {
            return bucket_end(i);
        }
    }
    return 0;
}

/* ---- bytes in and out ------------------------------------------------------------------------ */

/* The number of bytes moved; 0 at the end of the stream; -1 when it would block. */
static ssize_t
checked(ssize_t n, const char *what)
{
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        die_of_errno(what);
    }
    return n;
}

#ifdef WITH_TLS
static ssize_t
tls_checked(struct connection *c, int done, const char *what)
{
    if (done > 0) {
        return done;
    }
    switch (SSL_get_error(c->ssl, done)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            return -1;
        case SSL_ERROR_ZERO_RETURN:
            return 0;
        default:
            die("%s: %s", what, ERR_reason_error_string(ERR_peek_error()));
    }
}
#endif

static ssize_t
receive(struct connection *c)
{
#ifdef WITH_TLS
    if (c->ssl != NULL) {
        return tls_checked(c, SSL_read(c->ssl, incoming, CHUNK), "SSL_read");
    }
#endif
    return checked(recv(c->fd, incoming, CHUNK, 0), "recv");
}

static ssize_t
transmit(struct connection *c, const unsigned char *bytes, size_t n)
{
#ifdef WITH_TLS
    if (c->ssl != NULL) {
        return tls_checked(c, SSL_write(c->ssl, bytes, (int)n), "SSL_write");
    }
#endif
    return checked(send(c->fd, bytes, n, MSG_NOSIGNAL), "send");
}

static const unsigned char *
sequence_at(const struct connection *c, uint64_t position)
{
    return sequence + (c->phase + position) % PERIOD;
}

/* Send what has been asked for, as far as it goes, and have the rest waited for. */
static void
push(struct connection *c)
{
    uint64_t end = c->asked * message_bytes;
    bool is_full = false;
    while (c->sent < end && !is_full) {
        uint64_t left = end - c->sent;
        size_t n = left < CHUNK ? (size_t)left : CHUNK;
        ssize_t done = transmit(c, sequence_at(c, c->sent), n);
        if (done > 0) {
            c->sent += (uint64_t)done;
        }
        is_full = done < (ssize_t)n;
#ifdef WITH_TLS
        /* A record at a time is what OpenSSL takes; only a refusal says that it is full. */
        is_full = c->ssl != NULL ? done <= 0 : is_full;
#endif
    }
    uint32_t wanted = EPOLLIN | (c->sent < end ? EPOLLOUT : 0u);
    if (wanted != c->watched) {
        struct epoll_event event = {.events = wanted, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0) {
            die_of_errno("epoll_ctl");
        }
        c->watched = wanted;
    }
}

/* Begin as many messages as may be under way. */
static void
ask(struct connection *c)
{
    if (unasked > 0 && c->asked - c->answered < depth) {
        uint64_t begin_ns = now_ns();
        do {
            c->begin_ns[c->asked++ % depth] = begin_ns;
            unasked--;
        } while (unasked > 0 && c->asked - c->answered < depth);
        push(c);
    }
}

/* Take what has come; true if there may be more. */
static bool
pull(struct connection *c)
{
    ssize_t done = receive(c);
    if (done == 0) {
        die("the server has hung up");
    }
    if (done < 0) {
        return false;
    }
    if (c->received + (uint64_t)done > c->sent) {
        die("the server sends more than it got");
    }
    if (memcmp(incoming, sequence_at(c, c->received), (size_t)done) != 0) {
        die("what came back is not what was sent, after byte %llu of a connection",
            (unsigned long long)c->received);
    }
    c->received += (uint64_t)done;
    uint64_t complete = c->received / message_bytes;
    if (c->answered < complete) {
        uint64_t end_ns = now_ns();
        for (; c->answered < complete; c->answered++, awaited--) {
            histogram[bucket_of(end_ns - c->begin_ns[c->answered % depth])]++;
        }
    }
    return true;
}

static void
serve(struct connection *c, uint32_t events)
{
    if (events & ~(uint32_t)EPOLLOUT) {
        bool more = pull(c);
#ifdef WITH_TLS
        /* What OpenSSL has taken from the socket is no event of the socket any more. */
        while (more && c->ssl != NULL) {
            more = pull(c);
        }
#endif
        (void)more;
        ask(c);
    }
    if (events & EPOLLOUT) {
        push(c);
    }
}

/* Ask n times over all connections; back when all is answered. */
static void
run(uint64_t n)
{
    struct epoll_event events[EVENTS];
    unasked = awaited = n;
    for (size_t i = 0; i < connections_n; i++) {
        ask(&connections[i]);
    }
    while (awaited > 0) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) {
            die_of_errno("epoll_wait");
        }
        for (int i = 0; i < ready; i++) {
            serve(events[i].data.ptr, events[i].events);
        }
    }
}

/* ---- making the connections ------------------------------------------------------------------ */

static int
connect_to(const char *address)
{
    char *end;
    long port = strtol(address, &end, 10);
    int fd, one = 1, done;
    if (*address != '\0' && *end == '\0') {
        struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        done = connect(fd, (struct sockaddr *)&where, sizeof where);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    else {
        struct sockaddr_un where = {.sun_family = AF_UNIX};
        if (strlen(address) >= sizeof where.sun_path) {
            die("the path is too long: %s", address);
        }
        strcpy(where.sun_path, address);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        done = connect(fd, (struct sockaddr *)&where, sizeof where);
    }
    if (fd < 0 || done < 0) {
        die_of_errno(address);
    }
    return fd;
}

#ifdef WITH_TLS
static SSL *
shake_hands(int fd)
{
    static SSL_CTX *context;
    if (context == NULL) {
        context = SSL_CTX_new(TLS_client_method());
        if (context == NULL) {
            die("SSL_CTX_new failed");
        }
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_mode(context,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    SSL *ssl = SSL_new(context);
    if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1) {
        die("the TLS handshake failed: %s", ERR_reason_error_string(ERR_peek_error()));
    }
    return ssl;
}
#endif

static void
open_connection(struct connection *c, size_t number, const char *address, bool tls)
{
    c->fd = connect_to(address);
    c->phase = number * 7919;
    c->begin_ns = calloc((size_t)depth, sizeof *c->begin_ns);
    if (c->begin_ns == NULL) {
        die_of_errno("calloc");
    }
    if (tls) {
#ifdef WITH_TLS
        c->ssl = shake_hands(c->fd);
#else
        die("built without TLS");
#endif
    }
    int flags = fcntl(c->fd, F_GETFL);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->watched = event.events;
    if (fcntl(c->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) < 0) {
        die_of_errno("a connection");
    }
}

static void
fill_sequence(void)
{
    uint32_t state = 2463534242u; /* xorshift32 */
    for (size_t i = 0; i < PERIOD; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        sequence[i] = (unsigned char)(state >> 24);
    }
    for (size_t i = PERIOD; i < sizeof sequence; i++) {
        sequence[i] = sequence[i - PERIOD];
    }
}

static void
allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static uint64_t
number(const char *text, uint64_t most, const char *what)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || (*end != '\0' && *end != '\n') || errno != 0 || value < 1 ||
        value > most) {
        die("%s: a number from 1 to %llu, not %s", what, (unsigned long long)most, text);
    }
    return value;
}

int
main(int argc, char **argv)
{
    if (argc < 5 || argc > 6 || (argc == 6 && strcmp(argv[5], "tls") != 0)) {
        die("usage: echo_client ADDRESS CONNECTIONS BYTES DEPTH [tls]");
    }
    connections_n = (size_t)number(argv[2], CONNECTIONS_MAX, "CONNECTIONS");
    message_bytes = number(argv[3], BYTES_MAX, "BYTES");
    depth = number(argv[4], DEPTH_MAX, "DEPTH");
    fill_sequence();
    allow_descriptors();
    connections = calloc(connections_n, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || poller < 0) {
        die_of_errno("setting up");
    }
    for (size_t i = 0; i < connections_n; i++) {
        open_connection(&connections[i], i, argv[1], argc == 6);
    }
    run(connections_n);
    puts("ready");
    fflush(stdout);

    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        uint64_t n = number(line, UINT64_MAX / 2, "messages");
        memset(histogram, 0, sizeof histogram);
        uint64_t cpu = cpu_ns(), begin = now_ns();
        run(n);
        uint64_t wall = now_ns() - begin;
        cpu = cpu_ns() - cpu;
        printf("{\"wall\": %.9f, \"cpu\": %.9f, \"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f}\n",
               (double)wall / 1e9, (double)cpu / 1e9, (double)percentile_ns(0.5) / 1e9,
               (double)percentile_ns(0.99) / 1e9, (double)percentile_ns(1.0) / 1e9);
        fflush(stdout);
    }
    return 0;
}
