/* budget.h - how many leaf operations one poll of a task may still complete.
 *
 * A task whose leaves are always ready would never come back to its executor. So the executor
 * gives each poll of a task PAC_BUDGET units; each leaf that is about to complete spends one, and
 * when none is left the leaf says PENDING and has its own task woken, so that it goes to the back
 * of the queue. Outside of an executor's poll there is no limit, unless whoever polls sets one.
 *
 * The count belongs to the thread. Stands for Tokio's task/coop. */
#ifndef PAC_BUDGET_H
#define PAC_BUDGET_H

#include "future.h"

enum { PAC_BUDGET = 128, PAC_BUDGET_UNLIMITED = -1 };

/* Units left on this thread; negative: no limit. The executor sets it around each poll. */
extern PAC_THREAD_LOCAL PAC_TLS(int) pac_budget_left;

/* A leaf is about to complete: spend a unit and return true. Or none is left: wake cx's waker,
 * return false, and the leaf must return PAC_PENDING leaving its readiness as it is. */
static inline bool
pac_budget_spend(struct pac_context *cx)
{
    int left = pac_budget_left;
    if (PAC_LIKELY(left != 0)) {
        pac_budget_left = left - (left > 0);
        return true;
    }
    pac_waker_wake_by_ref(cx->waker);
    return false;
}

/* The leaf has spent its unit before it knew, and does not complete: give it back. */
static inline void
pac_budget_refund(void)
{
    pac_budget_left += pac_budget_left >= 0;
}

#endif
