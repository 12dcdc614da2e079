/* stress_wakes.c - foreign threads wake tasks as fast as they can; none of the wakes may be lost.
 *
 *     stress_wakes [wakes [threads [tasks]]]
 *
 * Before each wake its thread counts it in a counter of the task. A task is done when a poll of
 * it has seen the counter at the full number, so it takes a poll after the last wake of each task
 * to end: if one is lost, the program does not end by itself, and an alarm that the last thread
 * has set says so. Exits with 0 if every task has ended and all that was counted was seen. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "executor.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GRACE_S = 20, BURST = 512 };

struct woken_task {
    struct pac_future future;
    struct pac_waker waker;       /* cloned before the threads start */
    PAC_ATOMIC(uint64_t) counted; /* wakes begun */
    uint64_t expected;
    uint64_t seen;
    uint64_t polls;
};

struct waking_thread {
    pthread_t thread;
    unsigned index;
    uint64_t wakes;
};

static struct woken_task *tasks;
static struct waking_thread *threads;
static unsigned task_count, thread_count;
static unsigned tasks_left; /* the executor's thread */
static PAC_ATOMIC(unsigned) threads_left;
static struct pac_executor *ex;

static void
die(const char *what)
{
    fprintf(stderr, "stress_wakes: %s\n", what);
    exit(2);
}

static enum pac_poll
woken_poll(struct pac_future *f, struct pac_context *cx)
{
    struct woken_task *t = PAC_CONTAINER_OF(f, struct woken_task, future);
    if (t->polls++ == 0) {
        t->waker = pac_waker_clone(cx->waker);
    }
    /* relaxed: the wake that led here is what has to make the count visible. */
    t->seen = pac_atomic_load(&t->counted, PAC_RELAXED);
    return t->seen == t->expected ? PAC_READY : PAC_PENDING;
}

static void
woken_drop(struct pac_future *f)
{
    (void)f;
    if (--tasks_left == 0) {
        pac_executor_stop(ex);
    }
}

static const struct pac_future_vtable woken_vtable = {woken_poll, woken_drop};

static void
wake(struct woken_task *t, uint64_t i)
{
    /* relaxed: see woken_poll. */
    pac_atomic_add(&t->counted, 1, PAC_RELAXED);
    if (i % 4 == 0) {
        struct pac_waker clone = pac_waker_clone(&t->waker);
        pac_waker_wake(&clone);
    }
    else {
        pac_waker_wake_by_ref(&t->waker);
    }
}

static void *
wake_in_bursts(void *data)
{
    struct waking_thread *w = data;
    unsigned random = w->index + 1;
    for (uint64_t i = 0; i < w->wakes; i++) {
        wake(&tasks[(i + w->index) % task_count], i);
        random = random * 1103515245u + 12345u;
        if (random >> 16 < 65536 / BURST) {
            usleep(random >> 8 & 15); /* the executor falls asleep meanwhile, or is about to */
        }
    }
    if (pac_atomic_sub(&threads_left, 1, PAC_ACQ_REL) == 1) {
        alarm(GRACE_S);
    }
    return NULL;
}

static void
on_alarm(int signal)
{
    static const char text[] = "stress_wakes: a wake was lost\n";
    (void)signal;
    ssize_t ignored = write(2, text, sizeof text - 1);
    (void)ignored;
    _exit(1);
}

/* How often thread `index` wakes each task, into `expected`. */
static void
share_out(unsigned index, uint64_t wakes)
{
    threads[index].index = index;
    threads[index].wakes = wakes / thread_count + (index < wakes % thread_count);
    for (unsigned i = 0; i < task_count; i++) {
        unsigned first = (i + task_count - index % task_count) % task_count;
        uint64_t n = threads[index].wakes;
        tasks[i].expected += n > first ? (n - first + task_count - 1) / task_count : 0;
    }
}

/* Spawn all and poll each once, so that it has given away its waker. */
static void
start_tasks(void)
{
    for (unsigned i = 0; i < task_count; i++) {
        enum pac_status status;
        tasks[i].future.vtable = &woken_vtable;
        struct pac_task *t = pac_executor_spawn(ex, &tasks[i].future, &status);
        if (t == NULL) {
            die("spawn failed");
        }
        pac_task_unref(t);
    }
    pac_executor_stop(ex);
    if (pac_executor_run(ex) != PAC_OK) {
        die("the first run failed");
    }
}

static int
report(uint64_t wakes)
{
    uint64_t seen = 0, polls = 0;
    for (unsigned i = 0; i < task_count; i++) {
        seen += tasks[i].seen;
        polls += tasks[i].polls;
    }
    printf("%llu wakes by %u threads of %u tasks: %llu seen, in %llu polls, %llu parks\n",
           (unsigned long long)wakes, thread_count, task_count, (unsigned long long)seen,
           (unsigned long long)polls, (unsigned long long)ex->metrics.parks);
    return seen == wakes && tasks_left == 0 ? 0 : 1;
}

static uint64_t
argument(int argc, char **argv, int index, uint64_t otherwise)
{
    uint64_t n = argc > index ? strtoull(argv[index], NULL, 10) : otherwise;
    if (n == 0) {
        die("usage: stress_wakes [wakes [threads [tasks]]]");
    }
    return n;
}

int
main(int argc, char **argv)
{
    enum pac_status status;
    uint64_t wakes = argument(argc, argv, 1, 200000);
    thread_count = (unsigned)argument(argc, argv, 2, 4);
    task_count = (unsigned)argument(argc, argv, 3, 8);
    ex = pac_executor_new(NULL, &status);
    tasks = calloc(task_count, sizeof *tasks);
    threads = calloc(thread_count, sizeof *threads);
    if (ex == NULL || tasks == NULL || threads == NULL || wakes < thread_count * task_count) {
        die("no memory, no descriptor, or less wakes than threads times tasks");
    }
    signal(SIGALRM, on_alarm);
    pac_atomic_init(&threads_left, thread_count);
    tasks_left = task_count;
    for (unsigned i = 0; i < thread_count; i++) {
        share_out(i, wakes);
    }
    start_tasks();
    for (unsigned i = 0; i < thread_count; i++) {
        pthread_create(&threads[i].thread, NULL, wake_in_bursts, &threads[i]);
    }
    status = pac_executor_run(ex);
    for (unsigned i = 0; i < thread_count; i++) {
        pthread_join(threads[i].thread, NULL);
    }
    alarm(0);
    int result = status == PAC_OK ? report(wakes) : 1;
    for (unsigned i = 0; i < task_count; i++) {
        pac_waker_drop(&tasks[i].waker);
    }
    pac_executor_close(ex);
    pac_executor_free(ex);
    free(tasks);
    free(threads);
    return result;
}
