/* blocking.h - wait for a future on a thread that has no executor.
 *
 * The thread polls the future, and sleeps until its waker is woken. So every leaf that belongs to
 * no executor (Notify, the channels) has its twin for plain threads. Not for a thread on which an
 * executor runs: that would stand still.
 *
 * Stands for Tokio's blocking_recv, blocking_send and the like. */
#ifndef PAC_BLOCKING_H
#define PAC_BLOCKING_H

#include "future.h"

/* What to do around each sleep, in the thread that waits: an interpreter gives up its lock here,
 * and looks at its signals. */
struct pac_blocking_hooks {
    void (*leave)(void *arg); /* before it sleeps */
    /* After it woke; `interrupted`: by a signal. false: wait no longer. */
    bool (*enter)(void *arg, bool interrupted);
    void *arg;
};

/* Poll `f` until it is READY: PAC_OK. PAC_TIMED_OUT once CLOCK_MONOTONIC reaches `deadline_ns`
 * (PAC_NEVER: no deadline; one that has passed: a single poll), PAC_INTERRUPTED if the hook said
 * so, PAC_NO_MEMORY. Dropping `f` is the caller's part in each case. `hooks` may be NULL: signals
 * are ignored then. The polls take no part in any budget. */
enum pac_status pac_blocking_wait(struct pac_future *f, uint64_t deadline_ns,
                                  const struct pac_blocking_hooks *hooks) PAC_MUST_USE;

#endif
