/* kernel.hpp - what lies below the executor, for models.
 *
 * In the reactor's place stands a counter that a thread can wait for: what the kernel's eventfd
 * is; each executor has one. Its clock stands still unless a wait has a deadline; then the checker chooses whether the
 * deadline comes first.
 */
#ifndef PAC_KERNEL_HPP
#define PAC_KERNEL_HPP

#include "model.hpp"

extern "C++" {
#include "reactor.h"
}

struct EventCounter {
    rl::mutex mutex;
    rl::condition_variable_any condition;
    int count = 0;
    bool is_open = false;
    struct pac_reactor *reactor = nullptr; /* whose it is */

    void add()
    {
        mutex.lock($);
        RL_ASSERT(is_open); /* else the number may be a stranger's descriptor */
        count++;
        condition.notify_all($);
        mutex.unlock($);
    }

    int take(bool wait)
    {
        mutex.lock($);
        while (wait && count == 0) {
            condition.wait(mutex, $);
        }
        int taken = count;
        count = 0;
        mutex.unlock($);
        return taken;
    }
};

static EventCounter *event_counters; /* of the execution in progress */
static unsigned event_counter_count;
static uint64_t clock_ns;
static bool deadlines_come; /* always: nobody else would end the wait */

uint64_t
pac_clock_ns(void)
{
    return clock_ns;
}

uint64_t
pac_ticks(void)
{
    return clock_ns;
}

/* The counter of `r`; of none yet: one that is nobody's. */
static EventCounter *
counter_of(struct pac_reactor *r)
{
    for (unsigned i = 0; i < event_counter_count; i++) {
        if (event_counters[i].reactor == r) {
            return &event_counters[i];
        }
    }
    RL_ASSERT(!"there are more executors than counters");
    return nullptr;
}

enum pac_status
pac_reactor_init(struct pac_reactor *r)
{
    EventCounter *counter = counter_of(nullptr);
    counter->reactor = r;
    counter->is_open = true;
    r->pending_unparks = 0;
    return PAC_OK;
}

enum pac_status
pac_reactor_wait(struct pac_reactor *r, uint64_t deadline_ns)
{
    bool wait = deadline_ns > clock_ns;
    if (wait && deadline_ns != PAC_NEVER && (deadlines_come || rl::rand(2) == 1)) {
        clock_ns = deadline_ns;
        wait = false;
    }
    r->pending_unparks -= counter_of(r)->take(wait);
    return PAC_OK;
}

void
pac_reactor_dispatch(struct pac_reactor *r)
{
}

void
pac_reactor_unpark(struct pac_reactor *r)
{
    counter_of(r)->add();
}

/* For a fork's child, which no model has. */
void
pac_reactor_disown(struct pac_reactor *)
{
}

void
pac_reactor_fini(struct pac_reactor *r)
{
    EventCounter *counter = counter_of(r);
    while (r->pending_unparks > 0) {
        r->pending_unparks -= counter->take(true);
    }
    RL_ASSERT(r->pending_unparks == 0);
    counter->mutex.lock($);
    counter->is_open = false;
    counter->mutex.unlock($);
}

/* What an execution begins with. */
static void
kernel_begin(EventCounter *counters, unsigned count = 1)
{
    event_counters = counters;
    event_counter_count = count;
    clock_ns = 1;
    deadlines_come = false;
}

#endif
