/* semaphore.c - a semaphore against a number and a line in an array. */
#include "semaphore.h"

#include "fuzz.h"

enum { WAITERS = 8, LIMIT = 12 };

enum state { UNUSED, MADE, IN_LINE, GRANTED, CLOSED };

struct waiter {
    struct pac_acquire acquire;
    struct polled polled;
    enum state state;
    uint64_t wanted, missing;
};

static struct waiter waiters[WAITERS];
static struct waiter *line[WAITERS];
static size_t length;
static uint64_t available;
static bool is_closed;

static void
remove_at(size_t at)
{
    length--;
    for (; at < length; at++) {
        line[at] = line[at + 1];
    }
}

/* What is there goes to the oldest. */
static void
hand_out(void)
{
    while (available > 0 && length > 0) {
        struct waiter *first = line[0];
        uint64_t given = available < first->missing ? available : first->missing;
        available -= given;
        first->missing -= given;
        if (first->missing == 0) {
            first->state = GRANTED;
            remove_at(0);
        }
    }
}

static void
give(uint64_t n)
{
    available = n < LIMIT - available ? available + n : LIMIT;
}

static void
poll_waiter(struct waiter *w)
{
    if (w->state == MADE) {
        w->missing = w->wanted;
        if (is_closed) {
            w->state = CLOSED;
        }
        else if (available >= w->wanted && length == 0) {
            available -= w->wanted;
            w->missing = 0;
            w->state = GRANTED;
        }
        else {
            w->state = IN_LINE;
            line[length++] = w;
            hand_out();
        }
    }
    enum pac_poll poll = polled_poll(&w->polled);
    FUZZ_CHECK(poll == (w->state == IN_LINE ? PAC_PENDING : PAC_READY));
    if (poll == PAC_READY) {
        FUZZ_CHECK(pac_acquire_status(&w->acquire) == (w->state == CLOSED ? PAC_CLOSED : PAC_OK));
        polled_end(&w->polled);
        w->state = UNUSED;
    }
}

static void
drop_waiter(struct waiter *w)
{
    enum state state = w->state;
    w->state = UNUSED;
    if (state == IN_LINE) {
        for (size_t i = 0; i < length; i++) {
            if (line[i] == w) {
                remove_at(i);
            }
        }
    }
    if (state == IN_LINE || state == GRANTED) {
        give(w->wanted - w->missing);
        hand_out();
    }
    polled_end(&w->polled);
}

static void
check(struct pac_semaphore *s)
{
    FUZZ_CHECK(pac_semaphore_available(s) == available);
    FUZZ_CHECK(pac_semaphore_waiters(s) == length);
    FUZZ_CHECK(pac_semaphore_is_closed(s) == is_closed);
    for (size_t i = 0; i < WAITERS; i++) {
        /* Whoever waits is woken when it is over, and not before. */
        if (waiters[i].polled.waits) {
            FUZZ_CHECK(waiters[i].polled.woken == (waiters[i].state != IN_LINE));
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct pac_semaphore s;
    available = input_below(&in, LIMIT + 1);
    length = 0;
    is_closed = false;
    pac_semaphore_init(&s, available, LIMIT);
    while (!input_is_over(&in)) {
        struct waiter *w = &waiters[input_below(&in, WAITERS)];
        uint64_t n = 1 + input_below(&in, 5);
        switch (input_below(&in, 8)) {
            case 0:
            case 1:
            case 2:
                if (w->state == UNUSED) {
                    w->state = MADE;
                    w->wanted = n;
                    pac_acquire_init(&w->acquire, &s, n);
                    w->polled.future = &w->acquire.future;
                }
                poll_waiter(w);
                break;
            case 3:
                if (w->state != UNUSED) {
                    drop_waiter(w);
                }
                break;
            case 4: {
                bool room = n <= LIMIT - available;
                FUZZ_CHECK(pac_semaphore_release(&s, n) == (room ? PAC_OK : PAC_OVERFLOW));
                available += room ? n : 0;
                hand_out();
                break;
            }
            case 5: {
                bool can = !is_closed && length == 0 && available >= n;
                FUZZ_CHECK(pac_semaphore_try_acquire(&s, n) == (is_closed ? PAC_CLOSED
                                                                : can     ? PAC_OK
                                                                          : PAC_BUSY));
                available -= can ? n : 0;
                break;
            }
            case 6: {
                uint64_t forgotten = n < available ? n : available;
                FUZZ_CHECK(pac_semaphore_forget(&s, n) == forgotten);
                available -= forgotten;
                break;
            }
            default:
                if (input_byte(&in) == 0) {
                    pac_semaphore_close(&s);
                    is_closed = true;
                    for (size_t i = 0; i < length; i++) {
                        line[i]->state = CLOSED;
                        give(line[i]->wanted - line[i]->missing);
                    }
                    length = 0;
                }
        }
        check(&s);
    }
    for (size_t i = 0; i < WAITERS; i++) {
        if (waiters[i].state != UNUSED) {
            drop_waiter(&waiters[i]);
        }
    }
    check(&s);
    return 0;
}
