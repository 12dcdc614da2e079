/* system.hpp - the executor for models, with the system below it.
 *
 * In the reactor's place stands a counter that a thread can wait for: what the kernel's eventfd
 * is. Its clock stands still unless a wait has a deadline; then the checker chooses whether the
 * deadline comes first.
 */
#ifndef PAC_SYSTEM_HPP
#define PAC_SYSTEM_HPP

#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/inject.c"
#include "../../csrc/core/park.c"
#include "../../csrc/core/scheduler.c"
#include "../../csrc/core/shuffle.c"
#include "../../csrc/core/task_state.c"

#include "../../csrc/core/task.c"

#define root executor_root /* rl has a root of its own */
#include "../../csrc/core/executor.c"

/* One thread's affair, and so in no need of a model: a wheel for a single timer. */
void
pac_wheel_init(struct pac_wheel *w, uint64_t now_ns)
{
    pac_list_init(&w->immediate);
    pac_list_init(&w->slots[0][0]);
}

void
pac_wheel_init_exact(struct pac_wheel *w, uint64_t now_ns)
{
    pac_wheel_init(w, now_ns);
}

void
pac_wheel_insert(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns)
{
    t->deadline_ns = deadline_ns;
    pac_list_push_back(&w->slots[0][0], &t->node);
}

void
pac_wheel_reset(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns)
{
    pac_list_remove(&t->node);
    pac_wheel_insert(w, t, deadline_ns);
}

void
pac_wheel_remove(struct pac_wheel *w, struct pac_timer *t)
{
    pac_list_remove(&t->node);
}

uint64_t
pac_wheel_next_ns(const struct pac_wheel *w)
{
    struct pac_list_node *node = pac_list_first(&w->slots[0][0]);
    return node == NULL ? PAC_NEVER : PAC_LIST_ENTRY(node, struct pac_timer, node)->deadline_ns;
}

void
pac_wheel_advance(struct pac_wheel *w, uint64_t now_ns, struct pac_list *expired)
{
    if (pac_wheel_next_ns(w) <= now_ns) {
        pac_list_splice_back(expired, &w->slots[0][0]);
    }
}

struct pac_timer *
pac_wheel_pop_expired(struct pac_list *expired)
{
    struct pac_list_node *node = pac_list_pop_front(expired);
    return node == NULL ? NULL : PAC_LIST_ENTRY(node, struct pac_timer, node);
}

struct EventCounter {
    rl::mutex mutex;
    rl::condition_variable_any condition;
    int count = 0;

    void add()
    {
        mutex.lock($);
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

static EventCounter *event_counter; /* of the execution in progress */
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

enum pac_status
pac_reactor_init(struct pac_reactor *r)
{
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
    r->pending_unparks -= event_counter->take(wait);
    return PAC_OK;
}

void
pac_reactor_dispatch(struct pac_reactor *r)
{
}

void
pac_reactor_unpark(struct pac_reactor *r)
{
    event_counter->add();
}

void
pac_reactor_fini(struct pac_reactor *r)
{
    while (r->pending_unparks > 0) {
        r->pending_unparks -= event_counter->take(true);
    }
    RL_ASSERT(r->pending_unparks == 0);
}

/* What an execution begins with. */
static void
system_begin(EventCounter *counter)
{
    event_counter = counter;
    clock_ns = 1;
    deadlines_come = false;
    pac_current_scheduler.reset(NULL);
    pac_budget_left.reset(PAC_BUDGET_UNLIMITED);
}

#endif
