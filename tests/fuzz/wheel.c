/* wheel.c - the timing wheel against an array that is searched from end to end.
 *
 * The clock begins anywhere, by choice of the input right at the edges: two ticks around the top of
 * a level, and so few before the end of 64 bits. */
#include "wheel.h"

#include "fuzz.h"

enum { TIMERS = 12 };

/* What an outsider knows of a timer. */
struct expected {
    bool armed;
    bool expired; /* handed out, and not popped */
    uint64_t deadline_ns;
    uint64_t order; /* of arming; once expired: of being handed out */
};

static struct pac_wheel wheel;
static struct pac_timer timers[TIMERS];
static struct expected model[TIMERS];
static struct pac_list expired;
static uint64_t order, tick_ns, elapsed; /* elapsed: in ticks */

static uint64_t
ceil_tick(uint64_t ns)
{
    return ns / tick_ns + (ns % tick_ns != 0);
}

/* A time near an edge, or near the present one, or any. */
static uint64_t
input_time(struct input *in)
{
    uint64_t near = input_byte(in);
    uint64_t ticks = (near % 5 - 2) * tick_ns + (near / 5 % 3 - 1);
    switch (input_below(in, 6)) {
        case 0: {
            uint64_t top = (uint64_t)1 << (6 * input_below(in, 11)) % 64;
            return top * tick_ns + ticks;
        }
        case 1:
            return UINT64_MAX - near;
        case 2:
            return input_word(in);
        case 3:
            /* At the end of the present slot of some level. */
            return ((elapsed | (((uint64_t)1 << 6 * input_below(in, 10)) - 1)) + 1) * tick_ns +
                   ticks;
        default:
            return elapsed * tick_ns + (near << input_below(in, 32));
    }
}

static void
arm(size_t i, uint64_t deadline_ns)
{
    model[i] = (struct expected){deadline_ns != PAC_NEVER, false, deadline_ns, ++order};
}

static void
advance(uint64_t now_ns)
{
    struct pac_list fresh;
    pac_list_init(&fresh);
    pac_wheel_advance(&wheel, now_ns, &fresh);
    elapsed = now_ns / tick_ns > elapsed ? now_ns / tick_ns : elapsed;
    const struct expected *last = NULL;
    size_t due = 0, handed_out = 0;
    for (size_t i = 0; i < TIMERS; i++) {
        due += model[i].armed && !model[i].expired && ceil_tick(model[i].deadline_ns) <= elapsed;
    }
    for (struct pac_list_node *node = fresh.head.next; node != &fresh.head; node = node->next) {
        struct expected *now = &model[PAC_LIST_ENTRY(node, struct pac_timer, node) - timers];
        FUZZ_CHECK(now->armed && !now->expired);
        FUZZ_CHECK(ceil_tick(now->deadline_ns) <= elapsed);
        FUZZ_CHECK(last == NULL || last->deadline_ns < now->deadline_ns ||
                   (last->deadline_ns == now->deadline_ns && last->order < now->order));
        now->expired = true;
        last = now;
        handed_out++;
    }
    FUZZ_CHECK(handed_out == due);
    pac_list_splice_back(&expired, &fresh);
}

/* `thoroughly`: all of its slots, which takes as long as fifty operations. */
static void
check(bool thoroughly)
{
    uint64_t earliest = UINT64_MAX, next_ns = pac_wheel_next_ns(&wheel);
    size_t waiting = 0;
    for (size_t i = 0; i < TIMERS; i++) {
        FUZZ_CHECK(pac_timer_is_armed(&timers[i]) == model[i].armed);
        if (model[i].armed && !model[i].expired) {
            uint64_t tick = ceil_tick(model[i].deadline_ns);
            earliest = tick < earliest ? tick : earliest;
            waiting++;
        }
    }
    FUZZ_CHECK(!thoroughly || pac_wheel_check(&wheel));
    FUZZ_CHECK(wheel.count == waiting);
    FUZZ_CHECK(waiting > 0 || next_ns == PAC_NEVER);
    FUZZ_CHECK(earliest > UINT64_MAX / tick_ns || next_ns <= earliest * tick_ns);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    tick_ns = input_below(&in, 2) ? PAC_WHEEL_TICK_NS : 1;
    elapsed = 0;
    uint64_t begin_ns = input_time(&in);
    elapsed = begin_ns / tick_ns;
    order = 0;
    unsigned steps = 0;
    if (tick_ns == 1) {
        pac_wheel_init_exact(&wheel, begin_ns);
    }
    else {
        pac_wheel_init(&wheel, begin_ns);
    }
    pac_list_init(&expired);
    for (size_t i = 0; i < TIMERS; i++) {
        pac_timer_init(&timers[i], NULL);
        model[i] = (struct expected){false, false, 0, 0};
    }
    while (!input_is_over(&in)) {
        size_t i = input_below(&in, TIMERS);
        uint64_t time_ns = input_time(&in);
        struct pac_timer *popped;
        switch (input_below(&in, 6)) {
            case 0:
            case 1:
                /* Arms one that is not, moves one that is, in an expired list too. */
                if (!model[i].armed && time_ns % 2 == 0) {
                    pac_wheel_insert(&wheel, &timers[i], time_ns);
                }
                else {
                    pac_wheel_reset(&wheel, &timers[i], time_ns);
                }
                arm(i, time_ns);
                break;
            case 2:
                pac_wheel_remove(&wheel, &timers[i]);
                model[i].armed = model[i].expired = false;
                break;
            case 3:
                popped = pac_wheel_pop_expired(&expired);
                if (popped != NULL) {
                    FUZZ_CHECK(model[popped - timers].expired);
                    model[popped - timers].armed = model[popped - timers].expired = false;
                }
                break;
            case 4:
                /* To where something is due, so that time does not run out at once. */
                time_ns = pac_wheel_next_ns(&wheel);
                advance(time_ns == PAC_NEVER ? 0 : time_ns);
                break;
            default:
                advance(time_ns);
        }
        check(++steps % 32 == 0);
    }
    check(true);
    return 0;
}
