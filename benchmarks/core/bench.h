/* bench.h - what the programs that time the core share: an executor, and the table that is printed.
 *
 *     PROGRAM [repetitions] [shape]     every shape whose name contains the second argument */
#ifndef BENCH_H
#define BENCH_H

#include "executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct pac_executor *ex;

static inline void
die(const char *what)
{
    fprintf(stderr, "benchmark: %s\n", what);
    exit(1);
}

static inline void
block_on(struct pac_future *root)
{
    if (pac_executor_block_on(ex, root) != PAC_OK) {
        die("block_on failed");
    }
}

static inline struct pac_task *
spawn(struct pac_future *f)
{
    enum pac_status status;
    struct pac_task *t = pac_executor_spawn(ex, f, &status);
    if (t == NULL) {
        die("spawn failed");
    }
    return t;
}

static inline void
drop_nothing(struct pac_future *f)
{
    (void)f;
}

/* Ready after some yields. */
struct yielder {
    struct pac_future future;
    int left;
};

static inline enum pac_poll
yielder_poll(struct pac_future *f, struct pac_context *cx)
{
    struct yielder *y = PAC_CONTAINER_OF(f, struct yielder, future);
    if (y->left-- == 0) {
        return PAC_READY;
    }
    pac_waker_wake_by_ref(cx->waker);
    return PAC_PENDING;
}

static const struct pac_future_vtable yielder_vtable = {yielder_poll, drop_nothing};

struct shape {
    const char *name;
    void (*run)(void);
    int operations;
    double target_ns; /* 0: Tokio was not measured in this shape, so there is none */
    void (*before)(void), (*after)(void);
};

static inline double
best_ns(const struct shape *shape, int repetitions)
{
    double best = 0;
    if (shape->before != NULL) {
        shape->before();
    }
    for (int i = 0; i < repetitions; i++) {
        uint64_t start_ns = pac_clock_ns();
        shape->run();
        double ns = (double)(pac_clock_ns() - start_ns) / shape->operations;
        best = i == 0 || ns < best ? ns : best;
    }
    if (shape->after != NULL) {
        shape->after();
    }
    return best;
}

static inline int
bench(const char *program, const struct shape *shapes, size_t count, int argc, char **argv)
{
    int repetitions = argc > 1 ? atoi(argv[1]) : 5;
    const char *wanted = argc > 2 ? argv[2] : "";
    enum pac_status status;
    ex = pac_executor_new(NULL, &status);
    if (ex == NULL) {
        die("no executor");
    }
    if (repetitions < 1) {
        fprintf(stderr, "usage: %s [repetitions] [shape]\n", program);
        return 2;
    }
    printf("%-42s %12s %8s\n", program, "ns, best", "target");
    for (size_t i = 0; i < count; i++) {
        const struct shape *shape = &shapes[i];
        if (strstr(shape->name, wanted) != NULL) {
            printf("%-42s %12.1f", shape->name, best_ns(shape, repetitions));
            if (shape->target_ns > 0) {
                printf(" %8.0f", shape->target_ns);
            }
            putchar('\n');
            fflush(stdout);
        }
    }
    pac_executor_close(ex);
    pac_executor_free(ex);
    return 0;
}

#endif
