/* system.hpp - the executor for models, on the kernel of kernel.hpp. */
#ifndef PAC_SYSTEM_HPP
#define PAC_SYSTEM_HPP

#include "kernel.hpp"

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

/* What an execution begins with. */
static void
system_begin(EventCounter *counters, unsigned count = 1)
{
    kernel_begin(counters, count);
    pac_current_scheduler.reset(NULL);
    pac_budget_left.reset(PAC_BUDGET_UNLIMITED);
}

#endif
