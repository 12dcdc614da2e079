#include "scheduler.h"

PAC_THREAD_LOCAL PAC_TLS(struct pac_scheduler *) pac_current_scheduler;

void
pac_scheduler_init(struct pac_scheduler *s, void (*unpark)(struct pac_scheduler *),
                   void (*free)(struct pac_scheduler *))
{
    pac_run_queue_init(&s->ready);
    pac_inject_init(&s->inject);
    s->tasks_alive = 0;
    s->unpark = unpark;
    s->free = free;
    s->wakes = 0;
    pac_atomic_init(&s->references, 1);
}

enum pac_status
pac_scheduler_inject_chain(struct pac_scheduler *s, struct pac_runnable *newest,
                           struct pac_runnable *oldest)
{
    switch (pac_inject_push_chain(&s->inject, newest, oldest)) {
        case PAC_INJECT_DONE:
            return PAC_OK;
        case PAC_INJECT_UNPARK:
            /* The owner does not close its descriptor before it has seen this write. */
            s->unpark(s);
            return PAC_OK;
        case PAC_INJECT_CLOSED:
            return PAC_CLOSED;
    }
    return PAC_CLOSED;
}

enum pac_status
pac_scheduler_inject(struct pac_scheduler *s, struct pac_runnable *r)
{
    return pac_scheduler_inject_chain(s, r, r);
}

void *
pac_scheduler_block_new(struct pac_scheduler *s, struct pac_pool *pool, size_t size)
{
    void **block = pac_current_scheduler == s ? pool->first : NULL;
    if (block != NULL) {
        pool->first = *block;
        pool->length--;
        return block;
    }
    block = pac_alloc(size);
    if (block != NULL) {
        pac_scheduler_ref(s); /* the caller has one, or the executor */
    }
    return block;
}

void
pac_scheduler_block_free(struct pac_scheduler *s, struct pac_pool *pool, void *block)
{
#ifndef PAC_NO_FREELIST
    if (pac_current_scheduler == s && pool->length < PAC_POOL_MAX) {
        *(void **)block = pool->first;
        pool->first = block;
        pool->length++;
        return;
    }
#else
    (void)pool;
#endif
    pac_free(block);
    pac_scheduler_unref(s);
}

void
pac_scheduler_pool_drain(struct pac_scheduler *s, struct pac_pool *pool)
{
    while (pool->first != NULL) {
        void **block = pool->first;
        pool->first = *block;
        pool->length--;
        pac_free(block);
        pac_scheduler_unref(s);
    }
}

void
pac_scheduler_unref(struct pac_scheduler *s)
{
    /* acq_rel: what every other holder did to the memory happens before it is freed. */
    if (pac_atomic_sub(&s->references, 1, PAC_ACQ_REL) == 1) {
        s->free(s);
    }
}
