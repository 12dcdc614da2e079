#include "task_state.h"

enum { LIFECYCLE = PAC_TASK_RUNNING | PAC_TASK_COMPLETE };

/* The frame of each transition: read, decide, try to write, until nobody came between. acq_rel on
 * success is the law of the header; a failed attempt only reads again, so acquire. */
#define TRANSITION(s, now, next) \
    for (uint64_t now = pac_atomic_load(&(s)->word, PAC_ACQUIRE), next = 0;;)

static inline bool
replace(struct pac_task_state *s, uint64_t *now, uint64_t next)
{
    return pac_atomic_cas_weak(&s->word, now, next, PAC_ACQ_REL, PAC_ACQUIRE);
}

static inline enum pac_task_duty
duty_after_giving_up(uint64_t next)
{
    return next < PAC_TASK_REF ? PAC_TASK_FREE : PAC_TASK_NOTHING;
}

enum pac_task_duty
pac_task_transition_to_running(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        PAC_ASSERT(now & PAC_TASK_NOTIFIED);
        enum pac_task_duty duty;
        if (now & LIFECYCLE) {
            next = now - PAC_TASK_REF;
            duty = duty_after_giving_up(next);
        }
        else {
            next = (now & ~(uint64_t)PAC_TASK_NOTIFIED) | PAC_TASK_RUNNING;
            duty = now & PAC_TASK_CANCELLED ? PAC_TASK_CANCEL : PAC_TASK_POLL;
        }
        if (replace(s, &now, next)) {
            return duty;
        }
    }
}

enum pac_task_duty
pac_task_transition_to_idle(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        PAC_ASSERT((now & LIFECYCLE) == PAC_TASK_RUNNING);
        if (now & PAC_TASK_CANCELLED) {
            return PAC_TASK_CANCEL;
        }
        enum pac_task_duty duty = PAC_TASK_SUBMIT;
        next = now & ~(uint64_t)PAC_TASK_RUNNING;
        if (!(now & PAC_TASK_NOTIFIED)) {
            next -= PAC_TASK_REF;
            duty = duty_after_giving_up(next);
        }
        if (replace(s, &now, next)) {
            return duty;
        }
    }
}

bool
pac_task_transition_to_complete(struct pac_task_state *s)
{
    /* One addition does both bits, as RUNNING is set and COMPLETE is not. */
    uint64_t before = pac_atomic_add(&s->word, PAC_TASK_COMPLETE - PAC_TASK_RUNNING, PAC_ACQ_REL);
    PAC_ASSERT((before & LIFECYCLE) == PAC_TASK_RUNNING);
    return (before & PAC_TASK_JOIN_WAKER) != 0;
}

enum pac_task_duty
pac_task_transition_to_notified_by_val(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        enum pac_task_duty duty;
        if (now & PAC_TASK_RUNNING) {
            /* The poller queues it again, with its own reference. Ours is not the last. */
            next = (now | PAC_TASK_NOTIFIED) - PAC_TASK_REF;
            duty = PAC_TASK_NOTHING;
        }
        else if (now & (PAC_TASK_COMPLETE | PAC_TASK_NOTIFIED)) {
            next = now - PAC_TASK_REF;
            duty = duty_after_giving_up(next);
        }
        else {
            next = now | PAC_TASK_NOTIFIED;
            duty = PAC_TASK_SUBMIT;
        }
        if (replace(s, &now, next)) {
            return duty;
        }
    }
}

enum pac_task_duty
pac_task_transition_to_notified_by_ref(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        enum pac_task_duty duty = PAC_TASK_NOTHING;
        if (now & PAC_TASK_COMPLETE) {
            return PAC_TASK_NOTHING;
        }
        next = now | PAC_TASK_NOTIFIED;
        if (!(now & (PAC_TASK_RUNNING | PAC_TASK_NOTIFIED))) {
            next += PAC_TASK_REF;
            duty = PAC_TASK_SUBMIT;
        }
        if (replace(s, &now, next)) {
            return duty;
        }
    }
}

enum pac_task_duty
pac_task_transition_to_cancelled(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        enum pac_task_duty duty = PAC_TASK_NOTHING;
        if (now & (PAC_TASK_COMPLETE | PAC_TASK_CANCELLED)) {
            return PAC_TASK_NOTHING;
        }
        next = now | PAC_TASK_CANCELLED | PAC_TASK_NOTIFIED;
        if (!(now & (PAC_TASK_RUNNING | PAC_TASK_NOTIFIED))) {
            next += PAC_TASK_REF;
            duty = PAC_TASK_SUBMIT;
        }
        if (replace(s, &now, next)) {
            return duty;
        }
    }
}

bool
pac_task_transition_to_shutdown(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        bool idle = (now & LIFECYCLE) == 0;
        next = now | PAC_TASK_CANCELLED | (idle ? PAC_TASK_RUNNING : 0);
        if (replace(s, &now, next)) {
            return idle;
        }
    }
}

bool
pac_task_set_join_waker(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        PAC_ASSERT(!(now & PAC_TASK_JOIN_WAKER));
        if (now & PAC_TASK_COMPLETE) {
            return false;
        }
        next = now | PAC_TASK_JOIN_WAKER;
        if (replace(s, &now, next)) {
            return true;
        }
    }
}

bool
pac_task_unset_join_waker(struct pac_task_state *s)
{
    TRANSITION(s, now, next)
    {
        PAC_ASSERT(now & PAC_TASK_JOIN_WAKER);
        if (now & PAC_TASK_COMPLETE) {
            return false;
        }
        next = now & ~(uint64_t)PAC_TASK_JOIN_WAKER;
        if (replace(s, &now, next)) {
            return true;
        }
    }
}
