/* wakers.h - wakers for tests of what is woken: one that runs what a test wants in each of its
 * operations, and one that lets a thread sleep until it is woken. */
#ifndef PAC_TEST_WAKERS_H
#define PAC_TEST_WAKERS_H

#include "testing.h"

#include <pthread.h>

/* ---- a waker that counts, and runs what a test wants in each of its operations --- */

struct hooked_waker {
    struct counting_waker count;
    void (*on_clone)(void *arg);
    void (*on_wake)(void *arg);
    void (*on_drop)(void *arg);
    void *arg;
};

static const struct pac_waker_vtable hooked_waker_vtable;

static inline void
run_hook(void (*hook)(void *arg), void *arg)
{
    if (hook != NULL) {
        hook(arg);
    }
}

static inline struct pac_waker
hooked_clone(void *data)
{
    struct hooked_waker *h = data;
    counting_clone(&h->count);
    run_hook(h->on_clone, h->arg);
    return (struct pac_waker){&hooked_waker_vtable, h};
}

static inline void
hooked_wake_by_ref(void *data)
{
    struct hooked_waker *h = data;
    counting_wake_by_ref(&h->count);
    run_hook(h->on_wake, h->arg);
}

static inline void
hooked_drop(void *data)
{
    struct hooked_waker *h = data;
    counting_drop(&h->count);
    run_hook(h->on_drop, h->arg);
}

static inline void
hooked_wake(void *data)
{
    struct hooked_waker *h = data;
    counting_wake(&h->count);
    run_hook(h->on_wake, h->arg);
}

static const struct pac_waker_vtable hooked_waker_vtable = {
    .clone = hooked_clone,
    .wake = hooked_wake,
    .wake_by_ref = hooked_wake_by_ref,
    .drop = hooked_drop,
};

static inline void
hooked_waker_init(struct hooked_waker *h)
{
    counting_waker_init(&h->count);
    h->on_clone = h->on_wake = h->on_drop = NULL;
    h->arg = NULL;
}

/* ---- a future with a task of its own -------------------------------------------------------- */

struct probe {
    struct pac_future *future;
    struct hooked_waker hooked;
};

static inline void
probe_init(struct probe *p, struct pac_future *future)
{
    p->future = future;
    hooked_waker_init(&p->hooked);
}

static inline enum pac_poll
probe_poll(struct probe *p)
{
    struct pac_waker waker = {&hooked_waker_vtable, &p->hooked};
    struct pac_context cx = {&waker};
    return pac_future_poll(p->future, &cx);
}

static inline int
probe_wakes(struct probe *p)
{
    return counting_wakes(&p->hooked.count);
}

/* As its owner does it; no clone of its waker may be left anywhere. */
static inline void
probe_drop(struct probe *p)
{
    pac_future_drop(p->future);
    CHECK_INT(counting_live(&p->hooked.count), 0);
}

/* ---- a counting waker on which a thread can sleep ------------------------------------------- */

struct parking_waker {
    struct hooked_waker hooked;
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    bool token;
};

static inline void
unpark(void *arg)
{
    struct parking_waker *p = arg;
    pthread_mutex_lock(&p->mutex);
    p->token = true;
    pthread_cond_signal(&p->woken);
    pthread_mutex_unlock(&p->mutex);
}

static inline void
park(struct parking_waker *p)
{
    pthread_mutex_lock(&p->mutex);
    while (!p->token) {
        pthread_cond_wait(&p->woken, &p->mutex);
    }
    p->token = false;
    pthread_mutex_unlock(&p->mutex);
}

static inline void
parking_waker_init(struct parking_waker *p)
{
    hooked_waker_init(&p->hooked);
    p->hooked.on_wake = unpark;
    p->hooked.arg = p;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->woken, NULL);
    p->token = false;
}

static inline void
parking_waker_fini(struct parking_waker *p)
{
    CHECK_INT(counting_live(&p->hooked.count), 0);
    pthread_cond_destroy(&p->woken);
    pthread_mutex_destroy(&p->mutex);
}

static inline void
park_until_ready(struct pac_future *f, struct parking_waker *p)
{
    struct pac_waker waker = {&hooked_waker_vtable, &p->hooked};
    struct pac_context cx = {&waker};
    while (pac_future_poll(f, &cx) == PAC_PENDING) {
        park(p);
    }
}

#endif
