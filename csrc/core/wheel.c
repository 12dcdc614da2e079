/* wheel.c - filing timers by digit, and handing them out in order.
 *
 * Write the tick of a timer and the tick the wheel has come to (`elapsed`) in base 64. The
 * highest digit in which they differ is the level, the timer's digit there is the slot:
 *
 *     elapsed    0 . 3 . 17 . 60
 *     timer      0 . 3 . 21 . 05      differs first at level 1, where it has 21: slots[1][21]
 *
 * What follows from that, and is kept true at all times:
 *  1. A filed tick is greater than `elapsed`; so is its digit at its level, and above it all digits
 *     are equal. No slot is ever "behind", and next_slot() is two counts of trailing zeros.
 *  2. All of a lower level comes due before any of a higher one.
 *  3. Timers of one tick are all in the same slot, for the slot depends on nothing but the tick.
 *  4. Time may move on to any tick that is not beyond the start of the next occupied slot without
 *     anything having to be filed anew. So advance() leaps from one occupied slot to the next, and
 *     empties each on its way: of what is in it, what has that very tick is due, the rest differs
 *     first at a lower level now.
 *
 * Deadlines round up to a tick, the time rounds down: hence never early. As slots are emptied in
 * the order of time and, by 3, a tick comes out of one slot, only what one slot yields has to be
 * sorted.
 *
 * `filed_ns` says where a timer is, `deadline_ns` where it ought to be. The second may be later
 * after a reset; that is found out when the slot is emptied.
 *
 * The last tick that 64 bits of nanoseconds begin never ends: a timer whose deadline lies within
 * it is filed like any other, and never due. Its tick needs bit 50, and there are digits for 66.
 * An exact wheel has no such tick, as PAC_NEVER is not filed. */
#include "wheel.h"

enum {
    DIGIT_BITS = 6,
    /* Values of pac_timer.slot beyond those of the slots; it means nothing for a timer that is not
     * linked. */
    IN_IMMEDIATE = PAC_WHEEL_LEVELS * PAC_WHEEL_SLOTS,
    IN_EXPIRED,
};

/* ---- ticks and slots ------------------------------------------------------------------------ */

static inline uint64_t
tick_of_deadline(const struct pac_wheel *w, uint64_t deadline_ns)
{
    uint64_t tick = deadline_ns >> w->tick_bits;
    return tick + (tick << w->tick_bits != deadline_ns);
}

static inline uint64_t
tick_of_time(const struct pac_wheel *w, uint64_t now_ns)
{
    return now_ns >> w->tick_bits;
}

/* The highest base-64 digit in which the two differ; they do differ. */
static inline unsigned
level_of(uint64_t tick, uint64_t elapsed)
{
    unsigned bit = 63 - (unsigned)__builtin_clzll(tick ^ elapsed);
    return bit * 43 >> 8; /* bit / 6 for every bit below 64 */
}

static inline unsigned
digit_of(uint64_t tick, unsigned level)
{
    return (unsigned)(tick >> (DIGIT_BITS * level)) & (PAC_WHEEL_SLOTS - 1);
}

static inline struct pac_timer *
timer_of(struct pac_list_node *node)
{
    return PAC_LIST_ENTRY(node, struct pac_timer, node);
}

/* The tick at which the next occupied slot begins, and its level. There must be one. */
static inline uint64_t
next_slot(const struct pac_wheel *w, unsigned *level)
{
    unsigned n = (unsigned)__builtin_ctz(w->levels);
    unsigned shift = DIGIT_BITS * n;
    uint64_t slot = (uint64_t)__builtin_ctzll(w->occupied[n]);
    *level = n;
    return (w->elapsed >> shift >> DIGIT_BITS << DIGIT_BITS | slot) << shift;
}

/* Into the slot for `tick`, which is yet to come; at the back, so that what was armed in order
 * comes out in order, and sort() finds nothing to do. */
static inline void
file_in_slot(struct pac_wheel *w, struct pac_timer *t, uint64_t tick)
{
    unsigned level = level_of(tick, w->elapsed);
    unsigned slot = digit_of(tick, level);
    t->filed_ns = t->deadline_ns;
    t->slot = (uint16_t)(level * PAC_WHEEL_SLOTS + slot);
    w->levels |= (uint32_t)1 << level;
    w->occupied[level] |= (uint64_t)1 << slot;
    pac_list_push_back(&w->slots[level][slot], &t->node);
}

static inline void
mark_empty(struct pac_wheel *w, unsigned level, unsigned slot)
{
    w->occupied[level] &= ~((uint64_t)1 << slot);
    if (w->occupied[level] == 0) {
        w->levels &= ~((uint32_t)1 << level);
    }
}

/* ---- arming and disarming ------------------------------------------------------------------- */

static void
init(struct pac_wheel *w, uint64_t now_ns, unsigned tick_bits)
{
    w->tick_bits = tick_bits;
    w->elapsed = tick_of_time(w, now_ns);
    w->sequence = 0;
    w->count = 0;
    w->levels = 0;
    pac_list_init(&w->immediate);
    for (unsigned level = 0; level < PAC_WHEEL_LEVELS; level++) {
        w->occupied[level] = 0;
        for (unsigned slot = 0; slot < PAC_WHEEL_SLOTS; slot++) {
            pac_list_init(&w->slots[level][slot]);
        }
    }
}

void
pac_wheel_init(struct pac_wheel *w, uint64_t now_ns)
{
    init(w, now_ns, PAC_WHEEL_TICK_BITS);
}

void
pac_wheel_init_exact(struct pac_wheel *w, uint64_t now_ns)
{
    init(w, now_ns, 0);
}

void
pac_timer_init(struct pac_timer *t, void (*fire)(struct pac_timer *timer))
{
    *t = (struct pac_timer){.deadline_ns = PAC_NEVER, .filed_ns = PAC_NEVER, .fire = fire};
}

void
pac_wheel_insert(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns)
{
    PAC_ASSERT(!pac_list_is_linked(&t->node));
    t->deadline_ns = deadline_ns;
    t->sequence = ++w->sequence;
    if (deadline_ns == PAC_NEVER) {
        return;
    }
    uint64_t tick = tick_of_deadline(w, deadline_ns);
    w->count++;
    if (PAC_LIKELY(tick > w->elapsed)) {
        file_in_slot(w, t, tick);
    }
    else {
        t->filed_ns = deadline_ns;
        t->slot = IN_IMMEDIATE;
        pac_list_push_back(&w->immediate, &t->node);
    }
}

void
pac_wheel_remove(struct pac_wheel *w, struct pac_timer *t)
{
    if (!pac_list_is_linked(&t->node)) {
        return;
    }
    unsigned slot = t->slot;
    if (PAC_LIKELY(slot < IN_IMMEDIATE)) {
        /* Both neighbours are the same node only where it is the list's head. */
        if (t->node.next == t->node.prev) {
            mark_empty(w, slot / PAC_WHEEL_SLOTS, slot % PAC_WHEEL_SLOTS);
        }
        w->count--;
    }
    else if (slot == IN_IMMEDIATE) {
        w->count--;
    }
    pac_list_remove(&t->node);
}

void
pac_wheel_reset(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns)
{
    if (pac_list_is_linked(&t->node) && t->slot < IN_IMMEDIATE && deadline_ns >= t->filed_ns &&
        deadline_ns != PAC_NEVER) {
        t->deadline_ns = deadline_ns;
        t->sequence = ++w->sequence;
        return;
    }
    pac_wheel_remove(w, t);
    pac_wheel_insert(w, t, deadline_ns);
}

/* ---- the order of what is due --------------------------------------------------------------- */

static inline bool
is_before(const struct pac_list_node *a, const struct pac_list_node *b)
{
    const struct pac_timer *s = (const struct pac_timer *)(const void *)a;
    const struct pac_timer *t = (const struct pac_timer *)(const void *)b;
    return s->deadline_ns != t->deadline_ns ? s->deadline_ns < t->deadline_ns
                                            : s->sequence < t->sequence;
}

/* Of two chains, each in order, linked by `next` and ended by NULL, make one. */
static struct pac_list_node *
merge(struct pac_list_node *a, struct pac_list_node *b)
{
    struct pac_list_node *first = NULL, **end = &first;
    while (a != NULL && b != NULL) {
        struct pac_list_node **lesser = is_before(b, a) ? &b : &a;
        *end = *lesser;
        end = &(*lesser)->next;
        *lesser = *end;
    }
    *end = a != NULL ? a : b;
    return first;
}

/* Cut the longest chain that is in order off the front of `*rest`, which is not empty. */
static struct pac_list_node *
take_run(struct pac_list_node **rest)
{
    struct pac_list_node *first = *rest, *last = first;
    while (last->next != NULL && is_before(last, last->next)) {
        last = last->next;
    }
    *rest = last->next;
    last->next = NULL;
    return first;
}

static bool
is_sorted(const struct pac_list *list)
{
    const struct pac_list_node *node = list->head.next;
    while (node->next != &list->head) {
        if (!is_before(node, node->next)) {
            return false;
        }
        node = node->next;
    }
    return true;
}

/* A natural merge sort of a list that is not empty, in place. `merged[n]` is NULL or a merger of
 * 2^n runs, as in counting in base two; 64 of them count more runs than memory holds. */
static void
sort(struct pac_list *list)
{
    if (is_sorted(list)) {
        return;
    }
    struct pac_list_node *merged[64] = {NULL}, *rest = list->head.next, *all = NULL;
    list->head.prev->next = NULL;
    while (rest != NULL) {
        struct pac_list_node *chain = take_run(&rest);
        unsigned n = 0;
        for (; merged[n] != NULL; n++) {
            chain = merge(merged[n], chain);
            merged[n] = NULL;
        }
        merged[n] = chain;
    }
    for (unsigned n = 0; n < 64; n++) {
        all = merge(merged[n], all);
    }
    /* Only `next` was kept up so far. */
    struct pac_list_node *before = &list->head;
    for (struct pac_list_node *node = all; node != NULL; node = node->next) {
        before->next = node;
        node->prev = before;
        before = node;
    }
    before->next = &list->head;
    list->head.prev = before;
}

/* ---- the passing of time -------------------------------------------------------------------- */

static inline void
push_due(struct pac_wheel *w, struct pac_list *due, struct pac_timer *t)
{
    /* After a reset to later within the tick the two may differ still. */
    t->filed_ns = t->deadline_ns;
    t->slot = IN_EXPIRED;
    w->count--;
    pac_list_push_back(due, &t->node);
}

static void
hand_out(struct pac_list *due, struct pac_list *expired)
{
    if (!pac_list_is_empty(due)) {
        sort(due);
        pac_list_splice_back(expired, due);
    }
}

/* These were due when they were armed, so all of them precede whatever is in a slot. */
static void
empty_immediate(struct pac_wheel *w, struct pac_list *expired)
{
    struct pac_list due;
    struct pac_list_node *node;
    pac_list_init(&due);
    while ((node = pac_list_pop_front(&w->immediate)) != NULL) {
        push_due(w, &due, timer_of(node));
    }
    hand_out(&due, expired);
}

/* The time has come to the beginning of this slot. None of its timers comes back to it: each is
 * due, or belongs to a lower level by now, or was reset to beyond the slot's end. */
static void
empty_slot(struct pac_wheel *w, unsigned level, unsigned slot, struct pac_list *expired)
{
    struct pac_list due;
    struct pac_list_node *node;
    pac_list_init(&due);
    mark_empty(w, level, slot);
    while ((node = pac_list_pop_front(&w->slots[level][slot])) != NULL) {
        struct pac_timer *t = timer_of(node);
        uint64_t tick = tick_of_deadline(w, t->deadline_ns);
        PAC_ASSERT(tick >= w->elapsed);
        if (tick == w->elapsed) {
            push_due(w, &due, t);
        }
        else {
            file_in_slot(w, t, tick);
        }
    }
    hand_out(&due, expired);
}

void
pac_wheel_advance(struct pac_wheel *w, uint64_t now_ns, struct pac_list *expired)
{
    uint64_t now = tick_of_time(w, now_ns);
    if (!pac_list_is_empty(&w->immediate)) {
        empty_immediate(w, expired);
    }
    while (w->levels != 0) {
        unsigned level;
        uint64_t start = next_slot(w, &level);
        if (start > now) {
            break;
        }
        PAC_ASSERT(start > w->elapsed);
        w->elapsed = start;
        empty_slot(w, level, digit_of(start, level), expired);
    }
    if (now > w->elapsed) {
        w->elapsed = now;
    }
}

struct pac_timer *
pac_wheel_pop_expired(struct pac_list *expired)
{
    struct pac_list_node *node = pac_list_pop_front(expired);
    return node != NULL ? timer_of(node) : NULL;
}

uint64_t
pac_wheel_next_ns(const struct pac_wheel *w)
{
    if (!pac_list_is_empty(&w->immediate)) {
        return 0;
    }
    if (w->levels == 0) {
        return PAC_NEVER;
    }
    unsigned level;
    uint64_t start = next_slot(w, &level);
    if (level > 0) {
        const struct pac_list *slot =
            &w->slots[level][start >> (DIGIT_BITS * level) & (PAC_WHEEL_SLOTS - 1)];
        if (slot->head.next == slot->head.prev) {
            /* One timer: its own time, and no wake-up for each level on the way down to it. The
             * time it was filed for, as one that was reset to later may come after others now. */
            const struct pac_timer *t = PAC_LIST_ENTRY(slot->head.next, struct pac_timer, node);
            start = tick_of_deadline(w, t->filed_ns);
        }
    }
    /* Only the tick in which 64 bits of nanoseconds end has no such time. */
    return start > tick_of_time(w, PAC_NEVER) ? PAC_NEVER : start << w->tick_bits;
}

/* ---- checking ------------------------------------------------------------------------------- */

/* Is this where a tick belongs, by the definition and digit by digit? No, if its time has come. */
static bool
is_filed_right(uint64_t tick, uint64_t elapsed, unsigned level, unsigned slot)
{
    bool found = false;
    if (tick <= elapsed) {
        return false;
    }
    for (unsigned n = 0; n < PAC_WHEEL_LEVELS; n++) {
        if (tick % PAC_WHEEL_SLOTS != elapsed % PAC_WHEEL_SLOTS) {
            found = n == level && tick % PAC_WHEEL_SLOTS == slot;
        }
        tick /= PAC_WHEEL_SLOTS;
        elapsed /= PAC_WHEEL_SLOTS;
    }
    return found;
}

static bool
is_timer_right(const struct pac_wheel *w, const struct pac_timer *t, unsigned slot)
{
    uint64_t tick_ns = (uint64_t)1 << w->tick_bits;
    uint64_t tick = t->filed_ns / tick_ns + (t->filed_ns % tick_ns > 0);
    if (t->slot != slot || t->sequence == 0 || t->sequence > w->sequence ||
        t->deadline_ns == PAC_NEVER) {
        return false;
    }
    if (slot == IN_IMMEDIATE) {
        return t->deadline_ns == t->filed_ns && tick <= w->elapsed;
    }
    return t->deadline_ns >= t->filed_ns &&
           is_filed_right(tick, w->elapsed, slot / PAC_WHEEL_SLOTS, slot % PAC_WHEEL_SLOTS);
}

/* Check a list, add its length to `*count`, lower `*earliest_ns` to the earliest time in it. */
static bool
is_list_right(const struct pac_wheel *w, const struct pac_list *list, unsigned slot, size_t *count,
              uint64_t *earliest_ns)
{
    const struct pac_list_node *node = &list->head;
    do {
        if (node->next == NULL || node->next->prev != node || *count > w->count) {
            return false;
        }
        node = node->next;
        if (node != &list->head) {
            const struct pac_timer *t = (const struct pac_timer *)(const void *)node;
            if (!is_timer_right(w, t, slot)) {
                return false;
            }
            *earliest_ns = t->filed_ns < *earliest_ns ? t->filed_ns : *earliest_ns;
            ++*count;
        }
    } while (node != &list->head);
    return true;
}

static bool
is_next_right(const struct pac_wheel *w, uint64_t earliest_ns)
{
    uint64_t next_ns = pac_wheel_next_ns(w), tick_ns = (uint64_t)1 << w->tick_bits;
    if (!pac_list_is_empty(&w->immediate)) {
        return next_ns == 0;
    }
    if (earliest_ns > PAC_NEVER / tick_ns * tick_ns || earliest_ns == PAC_NEVER) {
        return next_ns == PAC_NEVER;
    }
    /* Not later than the deadline rounded up, and not a time that has passed already: waiting for
     * it must bring something about. */
    return next_ns % tick_ns == 0 && next_ns / tick_ns > w->elapsed &&
           (next_ns <= earliest_ns || next_ns - earliest_ns < tick_ns);
}

bool
pac_wheel_check(const struct pac_wheel *w)
{
    size_t count = 0;
    uint64_t earliest_ns = PAC_NEVER;
    if (!is_list_right(w, &w->immediate, IN_IMMEDIATE, &count, &earliest_ns) ||
        w->levels >> PAC_WHEEL_LEVELS != 0) {
        return false;
    }
    for (unsigned level = 0; level < PAC_WHEEL_LEVELS; level++) {
        if ((w->levels >> level & 1) != (w->occupied[level] != 0)) {
            return false;
        }
        for (unsigned slot = 0; slot < PAC_WHEEL_SLOTS; slot++) {
            const struct pac_list *list = &w->slots[level][slot];
            if ((w->occupied[level] >> slot & 1) == (uint64_t)pac_list_is_empty(list) ||
                !is_list_right(w, list, level * PAC_WHEEL_SLOTS + slot, &count, &earliest_ns)) {
                return false;
            }
        }
    }
    return count == w->count && is_next_right(w, earliest_ns);
}
