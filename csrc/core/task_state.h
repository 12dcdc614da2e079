/* task_state.h - the life of a task in one atomic word.
 *
 *            wake                  run                   poll said PENDING
 *   IDLE ───────────► NOTIFIED ───────────► RUNNING ───────────────────────────► IDLE
 *                     (queued)               │    │ woken meanwhile: NOTIFIED ──► queued again
 *                                            │    └ poll said READY ──► COMPLETE, for ever
 *                                            └ cancelled: its future is dropped ─┘
 *
 * Bits: RUNNING (one thread polls it: the lock on the future), COMPLETE (the future is gone),
 * NOTIFIED (it is queued, or will be when the poll in progress ends), JOIN_WAKER (the join waker
 * is set and belongs to whoever completes the task), CANCELLED (asked to end without being polled
 * again). Above them a count of references: one for the executor's list of live tasks, one for a
 * queue that holds the task, one for each handle and each waker. The last reference frees the
 * memory.
 *
 * Law: every transition is one read-modify-write, and says by its result what the caller must now
 * do. All are acq_rel: the release half publishes what the caller wrote before it (a waker's
 * thread: the condition that it made true; a poller: the future that it advanced), the acquire
 * half lets the next poller see it. That is also why waking a task that is NOTIFIED already still
 * writes.
 *
 * Any thread may call wake, cancel and the reference functions; only the executor's thread runs,
 * idles, completes and shuts down. Stands for Tokio's runtime/task/state.rs, less the
 * join-interest bit: an output of ours stands in the future, not in the task. */
#ifndef PAC_TASK_STATE_H
#define PAC_TASK_STATE_H

#include "platform.h"

enum {
    PAC_TASK_RUNNING = 1,
    PAC_TASK_COMPLETE = 2,
    PAC_TASK_NOTIFIED = 4,
    PAC_TASK_JOIN_WAKER = 8,
    PAC_TASK_CANCELLED = 16,
    PAC_TASK_REF = 64, /* one reference */
};

struct pac_task_state {
    PAC_ATOMIC(uint64_t) word;
};

/* What the caller must do after a transition. */
enum pac_task_duty {
    PAC_TASK_NOTHING,
    PAC_TASK_SUBMIT, /* queue the task; the queue's reference has been counted already */
    PAC_TASK_FREE,   /* that was the last reference */
    PAC_TASK_POLL,   /* RUNNING was taken: poll the future */
    PAC_TASK_CANCEL, /* RUNNING is held: drop the future and complete */
};

/* A fresh task: NOTIFIED, with `references` of which one is the queue's. */
static inline void
pac_task_state_init(struct pac_task_state *s, unsigned references)
{
    pac_atomic_init(&s->word, PAC_TASK_NOTIFIED | (uint64_t)references * PAC_TASK_REF);
}

/* A fresh task that is not queued: a wake will queue it. */
static inline void
pac_task_state_init_idle(struct pac_task_state *s, unsigned references)
{
    pac_atomic_init(&s->word, (uint64_t)references * PAC_TASK_REF);
}

static inline uint64_t
pac_task_state_load(struct pac_task_state *s)
{
    return pac_atomic_load(&s->word, PAC_ACQUIRE);
}

/* The executor took the task from its queue. POLL or CANCEL: the queue's reference is kept for
 * the poll; NOTHING or FREE: the task had ended, and the reference is given up. NOTIFIED is
 * cleared here, before the poll, so that a wake during it counts. */
PAC_MUST_USE enum pac_task_duty pac_task_transition_to_running(struct pac_task_state *s);

/* The poll said PENDING. SUBMIT: woken meanwhile, the reference goes to the queue. CANCEL:
 * RUNNING is still held. NOTHING or FREE: the reference is given up. */
PAC_MUST_USE enum pac_task_duty pac_task_transition_to_idle(struct pac_task_state *s);

/* RUNNING becomes COMPLETE. True: a join waker is set, and is the caller's now. References stay. */
PAC_MUST_USE bool pac_task_transition_to_complete(struct pac_task_state *s);

/* Wake, giving up a reference: it goes to the queue (SUBMIT), or is given up (NOTHING, FREE). */
PAC_MUST_USE enum pac_task_duty pac_task_transition_to_notified_by_val(struct pac_task_state *s);

/* Wake, keeping the reference. SUBMIT or NOTHING. */
PAC_MUST_USE enum pac_task_duty pac_task_transition_to_notified_by_ref(struct pac_task_state *s);

/* Ask the task to end without another poll. SUBMIT or NOTHING. */
PAC_MUST_USE enum pac_task_duty pac_task_transition_to_cancelled(struct pac_task_state *s);

/* The executor closes. True: RUNNING was taken, drop the future and complete. False: the task has
 * ended, or is being polled further up this very stack and sees CANCELLED when that poll ends. */
PAC_MUST_USE bool pac_task_transition_to_shutdown(struct pac_task_state *s);

/* The joiner's side. set: after writing the waker; false, and nothing set, if the task had ended.
 * unset: before replacing or dropping it; false if the task had ended, and then the waker is not
 * the joiner's any more. */
PAC_MUST_USE bool pac_task_set_join_waker(struct pac_task_state *s);
PAC_MUST_USE bool pac_task_unset_join_waker(struct pac_task_state *s);

static inline void
pac_task_ref_inc(struct pac_task_state *s)
{
    /* relaxed: whoever takes another reference has one already, and got it with synchronisation. */
    uint64_t before = pac_atomic_add(&s->word, PAC_TASK_REF, PAC_RELAXED);
    PAC_ASSERT(before >= PAC_TASK_REF);
    (void)before;
}

/* NOTHING or FREE. */
PAC_MUST_USE static inline enum pac_task_duty
pac_task_ref_dec(struct pac_task_state *s)
{
    uint64_t before = pac_atomic_sub(&s->word, PAC_TASK_REF, PAC_ACQ_REL);
    PAC_ASSERT(before >= PAC_TASK_REF);
    return before < 2 * PAC_TASK_REF ? PAC_TASK_FREE : PAC_TASK_NOTHING;
}

#endif
