/* wheel.h - a hierarchical timing wheel: pure arithmetic on nanoseconds that it is told.
 *
 * Insert, remove and reset are O(1) and allocate nothing: the node belongs to the caller. A timer
 * is never handed out before its deadline, and less than a tick after it if the wheel is advanced
 * in time. A tick is PAC_WHEEL_TICK_NS, or one nanosecond for an exact wheel. Any 64-bit deadline
 * fits, years ahead too; PAC_NEVER takes no slot.
 *
 * Levels of 64 slots: a slot of level 0 is one tick wide, of level n+1 it is 64 slots of level n.
 * A timer is filed by the highest base-64 digit in which its tick differs from the tick the wheel
 * has come to, and moves down at most once a level as that time draws near. Eleven levels of six
 * bits cover all ticks that 64 bits of nanoseconds have (nine, if they are 16.4 us), so nothing
 * ever wraps.
 *
 * Not thread-safe: one executor thread owns a wheel. Stands for Tokio's runtime/time/wheel. */
#ifndef PAC_WHEEL_H
#define PAC_WHEEL_H

#include "list.h"

#define PAC_WHEEL_TICK_BITS 14
#define PAC_WHEEL_TICK_NS ((uint64_t)1 << PAC_WHEEL_TICK_BITS) /* 16.4 us */
#ifdef PAC_MODEL /* which has a wheel of its own, for a single timer */
enum { PAC_WHEEL_LEVELS = 1, PAC_WHEEL_SLOTS = 1 };
#else
enum { PAC_WHEEL_LEVELS = 11, PAC_WHEEL_SLOTS = 64 };
#endif

struct pac_timer {
    struct pac_list_node
        node;             /* first: in a slot, in `immediate`, in an expired list, or in none */
    uint64_t deadline_ns; /* when it is due; PAC_NEVER: not before it is reset */
    uint64_t filed_ns;    /* the deadline for which it was filed; earlier than deadline_ns after
                                  a reset to later, and then it is filed anew when that comes; once
                                  handed out: the deadline that has come */
    uint64_t sequence;    /* order of arming, to tell equal deadlines apart */
    uint16_t slot;        /* level * 64 + slot, or one of the marks in wheel.c */
    uint8_t flags;        /* for the wheel's user, zero at first; the wheel never looks at it */
    void (*fire)(struct pac_timer *timer); /* for the wheel's user; the wheel never calls it */
};

struct pac_wheel {
    uint64_t elapsed; /* tick up to which (inclusive) all has been handed out */
    uint64_t sequence;
    unsigned tick_bits;                  /* a tick is 2^tick_bits nanoseconds */
    size_t count;                        /* timers in slots or immediate */
    uint32_t levels;                     /* bit n: level n has an occupied slot */
    uint64_t occupied[PAC_WHEEL_LEVELS]; /* bit n: slot n has a timer */
    struct pac_list immediate;           /* were due already when they were armed */
    struct pac_list slots[PAC_WHEEL_LEVELS][PAC_WHEEL_SLOTS];
};

/* `now_ns`: the time that the wheel starts at. */
void pac_wheel_init(struct pac_wheel *w, uint64_t now_ns);

/* The same, with ticks of one nanosecond: what is due is handed out at its very deadline. */
void pac_wheel_init_exact(struct pac_wheel *w, uint64_t now_ns);

/* The time that it has come to, rounded down to a tick: a deadline that is due already. */
static inline uint64_t
pac_wheel_elapsed_ns(const struct pac_wheel *w)
{
    return w->elapsed << w->tick_bits;
}

/* A timer that is in no wheel. */
void pac_timer_init(struct pac_timer *t, void (*fire)(struct pac_timer *timer));

/* Arm `t`, which must not be armed, to be handed out by the first advance at or after
 * `deadline_ns` rounded up to a tick; a tick that the wheel has come to already: by the next
 * advance, never inside this call. PAC_NEVER: notes the deadline, but arms nothing, takes no slot
 * and is not counted. The caller keeps `t` in place until it was handed out or removed. */
void pac_wheel_insert(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns);

/* Disarm; also a timer that stands in an expired list and was not popped yet. Legal, and a no-op,
 * for one that is not armed. */
void pac_wheel_remove(struct pac_wheel *w, struct pac_timer *t);

/* Move the deadline of an armed timer, or arm one that is not; either way it is the newest in the
 * order of arming. Later than before: only writes it down; the wheel files the timer anew when the
 * old time comes. PAC_NEVER: disarms it. */
void pac_wheel_reset(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns);

/* Is it yet to fire: in the wheel, or in an expired list and not popped? */
static inline bool
pac_timer_is_armed(const struct pac_timer *t)
{
    return pac_list_is_linked(&t->node);
}

/* When to advance next: the earliest time at which an advance might hand something out or has to
 * file something anew, never later than the earliest deadline rounded up to a tick; 0 if a timer
 * was due already when armed; PAC_NEVER if nothing will come due, which holds for a deadline in
 * the last tick of 64 bits too. */
uint64_t pac_wheel_next_ns(const struct pac_wheel *w);

/* The time has come to `now_ns` (going backwards is ignored): append every timer that is due to
 * `expired`, by deadline in nanoseconds, equal ones in the order of arming. They have left the
 * wheel's count already, but stand in `expired` until the caller pops them one by one with
 * pac_wheel_pop_expired() and fires them; firing one may insert, reset or remove any other. */
void pac_wheel_advance(struct pac_wheel *w, uint64_t now_ns, struct pac_list *expired);

/* The first of `expired`, taken out of it; NULL when there is none left. */
struct pac_timer *pac_wheel_pop_expired(struct pac_list *expired);

/* Slow and plain: every invariant of the structure, recomputed. True if all hold. For tests. */
bool pac_wheel_check(const struct pac_wheel *w);

#endif
