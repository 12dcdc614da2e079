/* mpsc.c - a channel against a queue and a line of senders, in arrays.
 *
 * Of those who wait to receive, the oracle asks that as many are woken as there are values, and that
 * nobody is turned away while there are more values than others were woken for. */
#include "mpsc.h"

#include "fuzz.h"

#include <string.h>

enum { ENDS = 5, VALUES_MAX = 4096 };

struct sender {
    struct pac_mpsc_send send;
    struct polled polled;
    bool used, in_line, in; /* in: its value has gone in */
    uint16_t value;
};

struct receiver {
    struct pac_mpsc_recv recv;
    struct polled polled;
    void *values[4];
    bool used;
};

static struct sender senders[ENDS];
static struct receiver receivers[ENDS];
static uint16_t queue[VALUES_MAX]; /* what is in, from `head` on */
static size_t head, tail, capacity;
static struct sender *line[ENDS];
static size_t length;
static unsigned open_senders;
static bool is_closed;
static uint16_t values;

static void *
pointer_to(uint16_t value)
{
    return (void *)(uintptr_t)value;
}

static void
destroy(void *value)
{
    FUZZ_CHECK(head < tail && pointer_to(queue[head]) == value);
    head++;
}

static size_t
in_queue(void)
{
    return tail - head;
}

/* Taken by a receive: the first who waits to send comes in. */
static void
take(void *value)
{
    FUZZ_CHECK(head < tail && pointer_to(queue[head]) == value);
    head++;
    if (length > 0) {
        queue[tail++] = line[0]->value;
        line[0]->in_line = false;
        line[0]->in = true;
        length--;
        memmove(line, line + 1, length * sizeof line[0]);
    }
}

static void
leave_line(struct sender *s)
{
    for (size_t i = 0; i < length; i++) {
        if (line[i] == s) {
            length--;
            memmove(line + i, line + i + 1, (length - i) * sizeof line[0]);
        }
    }
    s->in_line = false;
}

static void
end_sender(struct sender *s)
{
    leave_line(s);
    polled_end(&s->polled);
    FUZZ_CHECK(pac_mpsc_send_was_sent(&s->send) == s->in);
    s->used = false;
}

static void
step_sender(struct pac_mpsc *m, struct sender *s)
{
    if (!s->used) {
        s->used = true;
        s->in = s->in_line = false;
        s->value = ++values;
        pac_mpsc_send_init(&s->send, m, pointer_to(s->value));
        s->polled.future = &s->send.future;
    }
    enum pac_status expected = s->in ? PAC_OK : is_closed ? PAC_CLOSED : PAC_FULL;
    if (expected == PAC_FULL && !s->in_line && in_queue() < capacity) {
        expected = PAC_OK;
        s->in = true;
        queue[tail++] = s->value;
    }
    else if (expected == PAC_FULL && !s->in_line) {
        s->in_line = true;
        line[length++] = s;
    }
    enum pac_poll poll = polled_poll(&s->polled);
    FUZZ_CHECK(poll == (expected == PAC_FULL ? PAC_PENDING : PAC_READY));
    if (poll == PAC_READY) {
        FUZZ_CHECK(s->send.status == expected);
        end_sender(s);
    }
}

/* How many receivers were woken and have not looked, `self` left out. */
static size_t
woken_others(const struct receiver *self)
{
    size_t count = 0;
    for (int i = 0; i < ENDS; i++) {
        count += &receivers[i] != self && receivers[i].used && receivers[i].polled.waits &&
                 receivers[i].polled.woken;
    }
    return count;
}

static void
step_receiver(struct pac_mpsc *m, struct receiver *r, size_t limit)
{
    if (!r->used) {
        r->used = true;
        pac_mpsc_recv_init(&r->recv, m, r->values, limit);
        r->polled.future = &r->recv.future;
    }
    size_t there = in_queue(), others = woken_others(r);
    bool over = there == 0 && (is_closed || open_senders == 0);
    if (polled_poll(&r->polled) == PAC_PENDING) {
        FUZZ_CHECK(there <= others && !over);
        return;
    }
    FUZZ_CHECK((r->recv.status == PAC_CLOSED) == over);
    FUZZ_CHECK(over ? r->recv.count == 0 : r->recv.count > 0 && r->recv.count <= r->recv.limit);
    for (size_t i = 0; i < r->recv.count; i++) {
        take(r->values[i]);
    }
    polled_end(&r->polled);
    r->used = false;
}

static void
check(struct pac_mpsc *m)
{
    size_t waiting = 0, woken = woken_others(NULL);
    bool over = in_queue() == 0 && (is_closed || open_senders == 0);
    for (int i = 0; i < ENDS; i++) {
        waiting += receivers[i].used && receivers[i].polled.waits;
        if (senders[i].used && senders[i].polled.waits) {
            FUZZ_CHECK(senders[i].polled.woken || senders[i].in_line);
        }
    }
    FUZZ_CHECK(pac_mpsc_length(m) == in_queue() && in_queue() <= capacity);
    FUZZ_CHECK(length == 0 || in_queue() == capacity);
    /* No value lies there that somebody waits for. */
    FUZZ_CHECK(woken >= (in_queue() < waiting && !over ? in_queue() : waiting));
}

static void
close_channel(struct pac_mpsc *m)
{
    pac_mpsc_close(m);
    is_closed = true;
    while (length > 0) {
        leave_line(line[0]);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + (size < VALUES_MAX / 2 ? size : VALUES_MAX / 2)};
    struct pac_mpsc m;
    void *value;
    capacity = 1 + input_below(&in, 5);
    capacity = capacity == 5 ? PAC_MPSC_UNBOUNDED : capacity;
    head = tail = length = 0;
    open_senders = 1;
    is_closed = false;
    values = 0;
    pac_mpsc_init(&m, capacity, destroy);
    while (!input_is_over(&in)) {
        size_t which = input_below(&in, ENDS);
        enum pac_status status;
        switch (input_below(&in, 12)) {
            case 0:
            case 1:
            case 2:
                step_sender(&m, &senders[which]);
                break;
            case 3:
            case 4:
            case 5:
                step_receiver(&m, &receivers[which], 1 + input_below(&in, 4));
                break;
            case 6:
                if (senders[which].used) {
                    end_sender(&senders[which]);
                }
                break;
            case 7:
                if (receivers[which].used) {
                    polled_end(&receivers[which].polled);
                    receivers[which].used = false;
                }
                break;
            case 8:
                status = pac_mpsc_try_send(&m, pointer_to(++values));
                FUZZ_CHECK(status == (is_closed               ? PAC_CLOSED
                                      : in_queue() < capacity ? PAC_OK
                                                              : PAC_FULL));
                if (status == PAC_OK) {
                    queue[tail++] = values;
                }
                break;
            case 9:
                status = pac_mpsc_try_recv(&m, &value);
                FUZZ_CHECK(status == (in_queue() > 0                   ? PAC_OK
                                      : is_closed || open_senders == 0 ? PAC_CLOSED
                                                                       : PAC_EMPTY));
                if (status == PAC_OK) {
                    take(value);
                }
                break;
            case 10:
                if (open_senders > 0 && which < 2) {
                    pac_mpsc_add_sender(&m);
                    open_senders++;
                }
                else if (open_senders > 0) {
                    open_senders--;
                    pac_mpsc_drop_sender(&m);
                }
                break;
            default:
                if (input_byte(&in) == 0) {
                    close_channel(&m);
                }
        }
        check(&m);
    }
    for (int i = 0; i < ENDS; i++) {
        if (senders[i].used) {
            end_sender(&senders[i]);
        }
        if (receivers[i].used) {
            polled_end(&receivers[i].polled);
            receivers[i].used = false;
        }
    }
    is_closed = true;
    pac_mpsc_fini(&m);
    FUZZ_CHECK(head == tail);
    return 0;
}
