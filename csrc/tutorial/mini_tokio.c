/* mini_tokio.c - the smallest runtime that sleeps when there is nothing to do.
 *
 * Shows: a future does nothing until it is polled. One that answers PENDING has kept
 * the waker of that poll. Waking sends the task into a channel, at most once however
 * often it is woken, and the executor sleeps on that channel and polls nothing else.
 * This program stands alone: it uses nothing of csrc/core.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void
claim(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        exit(1);
    }
}

/* ---- futures -------------------------------------------------------------------------------- */

enum poll { PENDING, READY };

struct task; /* a waker is a counted reference to the task that it wakes */

struct future {
    enum poll (*poll)(struct future *self, struct task *waker);
};

/* ---- tasks and the channel of those that are scheduled -------------------------------------- */

struct channel {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    struct task *first, *last;
};

struct task {
    struct channel *channel;
    struct future *future; /* NULL once it was READY */
    struct task *next;     /* channel->lock */
    bool in_channel;       /* channel->lock */
    atomic_int references; /* one for each waker, and one while it is in the channel */
    atomic_bool scheduled; /* in the channel, or ended and never to be there again */
    const char *name;
    int polls;
};

static void
channel_send(struct channel *c, struct task *task)
{
    pthread_mutex_lock(&c->lock);
    claim(!task->in_channel, "no task is in the channel twice");
    task->in_channel = true;
    task->next = NULL;
    *(c->first == NULL ? &c->first : &c->last->next) = task;
    c->last = task;
    pthread_cond_signal(&c->not_empty);
    pthread_mutex_unlock(&c->lock);
}

/* The executor sleeps here; for ten seconds only if a wake-up was lost. */
static struct task *
channel_receive(struct channel *c)
{
    struct timespec limit = {.tv_sec = time(NULL) + 10};
    pthread_mutex_lock(&c->lock);
    while (c->first == NULL) {
        int status = pthread_cond_timedwait(&c->not_empty, &c->lock, &limit);
        claim(status == 0, "a task that waits is woken");
    }
    struct task *task = c->first;
    c->first = task->next;
    task->in_channel = false;
    pthread_mutex_unlock(&c->lock);
    return task;
}

static struct task *
waker_clone(struct task *task)
{
    atomic_fetch_add(&task->references, 1);
    return task;
}

static void
waker_drop(struct task *task)
{
    if (task != NULL && atomic_fetch_sub(&task->references, 1) == 1) {
        claim(task->future == NULL, "whoever says PENDING keeps a waker");
        free(task);
    }
}

static void
waker_wake_by_ref(struct task *task)
{
    if (!atomic_exchange(&task->scheduled, true)) {
        channel_send(task->channel, waker_clone(task));
    }
}

/* ---- the executor --------------------------------------------------------------------------- */

/* Returns a waker of the new task, which is in the channel by then. */
static struct task *
spawn(struct channel *c, struct future *future, const char *name)
{
    struct task *task = malloc(sizeof *task);
    claim(task != NULL, "there is memory for a task");
    *task = (struct task){c, future, .references = 1, .name = name};
    waker_wake_by_ref(task);
    return task;
}

/* Until `tasks` tasks have ended and the channel is empty. */
static void
run(struct channel *c, int tasks)
{
    while (tasks > 0 || c->first != NULL) {
        struct task *task = channel_receive(c);
        if (task->future != NULL) { /* else it was woken during its last poll */
            /* Before the poll: a wake during it schedules the task again. Not a store:
             * the poll must see what was done before wakes that found it scheduled. */
            atomic_exchange(&task->scheduled, false);
            task->polls++;
            bool ended = task->future->poll(task->future, task) == READY;
            printf("poll %d of %s: %s\n", task->polls, task->name, ended ? "READY" : "PENDING");
            if (ended) {
                task->future = NULL;
                atomic_store(&task->scheduled, true);
                tasks--;
            }
        }
        waker_drop(task);
    }
}

/* ---- a leaf: ready after a time, by a helper thread ----------------------------------------- */

struct delay {
    long milliseconds;
    pthread_t thread; /* started by the first poll: making a delay starts nothing */
    pthread_mutex_t lock;
    bool elapsed;       /* lock */
    struct task *waker; /* lock: that of the newest poll, until the thread takes it */
};

static void *
delay_thread(void *argument)
{
    struct delay *d = argument;
    nanosleep(&(struct timespec){.tv_nsec = d->milliseconds * 1000000}, NULL);
    pthread_mutex_lock(&d->lock);
    d->elapsed = true;
    struct task *waker = d->waker;
    d->waker = NULL;
    pthread_mutex_unlock(&d->lock);
    waker_wake_by_ref(waker); /* outside the lock: waking may run anything */
    waker_drop(waker);
    return NULL;
}

/* That it is polled says nothing about the time; only what the thread wrote does. */
static enum poll
delay_poll(struct delay *d, struct task *waker)
{
    struct task *newest = waker_clone(waker);
    pthread_mutex_lock(&d->lock);
    bool elapsed = d->elapsed;
    struct task *unused = elapsed ? newest : d->waker;
    d->waker = elapsed ? NULL : newest;
    pthread_mutex_unlock(&d->lock);
    waker_drop(unused);
    if (elapsed) {
        pthread_join(d->thread, NULL);
        d->elapsed = false;
    }
    else if (unused == NULL) { /* the first poll */
        claim(pthread_create(&d->thread, NULL, delay_thread, d) == 0, "threads start");
    }
    return elapsed ? READY : PENDING;
}

struct naps {
    struct future future; /* first, so that the one is found from the other */
    int left;
    struct delay delay;
};

static enum poll
naps_poll(struct future *future, struct task *waker)
{
    struct naps *self = (struct naps *)future;
    for (; self->left > 0; self->left--) {
        if (delay_poll(&self->delay, waker) == PENDING) {
            return PENDING;
        }
        printf("a nap of %ld ms is over\n", self->delay.milliseconds);
    }
    return READY;
}

struct yields {
    struct future future;
    int left;
};

static enum poll
yields_poll(struct future *future, struct task *waker)
{
    struct yields *self = (struct yields *)future;
    for (int i = 0; i < 5; i++) {
        waker_wake_by_ref(waker); /* five times, and yet it is polled once for them */
    }
    return self->left-- > 0 ? PENDING : READY;
}

int
main(void)
{
    struct channel c = {.lock = PTHREAD_MUTEX_INITIALIZER, .not_empty = PTHREAD_COND_INITIALIZER};
    struct naps one = {{naps_poll}, 1, {50, .lock = PTHREAD_MUTEX_INITIALIZER}};
    struct naps three = {{naps_poll}, 3, {10, .lock = PTHREAD_MUTEX_INITIALIZER}};
    struct yields yields = {{yields_poll}, 3};
    struct task *tasks[] = {spawn(&c, &one.future, "one nap"),
                            spawn(&c, &three.future, "three naps"),
                            spawn(&c, &yields.future, "yields")};
    int polls = tasks[0]->polls + tasks[1]->polls + tasks[2]->polls;
    printf("3 futures are made and spawned, and so far there were %d polls\n", polls);
    claim(polls == 0 && one.delay.waker == NULL, "spawning polls nothing");
    run(&c, 3);

    claim(tasks[0]->polls == 2 && tasks[1]->polls == 4, "a nap takes one poll more");
    claim(tasks[2]->polls == 4, "three yields take four polls, not one for each wake");
    for (int i = 0; i < 3; i++) {
        waker_wake_by_ref(tasks[i]);
        waker_drop(tasks[i]);
    }
    claim(c.first == NULL, "waking a task that has ended does nothing");
    printf("3 tasks, 10 polls, and the executor slept in between\n");
    return 0;
}
