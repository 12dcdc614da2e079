#include "wake_group.h"

static void
chain_push(struct pac_wake_chain *chain)
{
    struct pac_runnable *r = chain->newest;
    if (pac_scheduler_inject_chain(chain->scheduler, r, chain->oldest) == PAC_OK) {
        return;
    }
    /* Closed: each task is being ended, or has been; the queue's references are ours. */
    for (bool more = true; more;) {
        struct pac_runnable *older = r->next;
        more = r != chain->oldest;
        pac_task_unref(PAC_CONTAINER_OF(r, struct pac_task, runnable));
        r = older;
    }
}

static struct pac_wake_chain *
chain_of(struct pac_wake_group *g, struct pac_scheduler *s)
{
    for (unsigned i = 0; i < g->count; i++) {
        if (g->chains[i].scheduler == s) {
            return &g->chains[i];
        }
    }
    if (g->count == PAC_WAKE_GROUP_CHAINS) {
        struct pac_wake_chain first = g->chains[0];
        g->chains[0] = g->chains[--g->count];
        chain_push(&first);
    }
    struct pac_wake_chain *chain = &g->chains[g->count++];
    chain->scheduler = s;
    chain->newest = NULL;
    return chain;
}

void
pac_wake_group_add(struct pac_wake_group *g, struct pac_waker *w)
{
    if (w->vtable != &pac_task_waker_vtable) {
        pac_waker_wake(w);
        return;
    }
    struct pac_task *t = w->data;
    if (pac_current_scheduler == t->scheduler) {
        pac_waker_wake(w);
        return;
    }
    *w = PAC_NO_WAKER;
    if (!pac_task_begin_wake(t)) {
        return;
    }
    struct pac_wake_chain *chain = chain_of(g, t->scheduler);
    if (chain->newest == NULL) {
        chain->oldest = &t->runnable;
    }
    t->runnable.next = chain->newest;
    chain->newest = &t->runnable;
}

void
pac_wake_group_wake(struct pac_wake_group *g)
{
    unsigned count = g->count;
    g->count = 0;
    for (unsigned i = 0; i < count; i++) {
        chain_push(&g->chains[i]);
    }
}
