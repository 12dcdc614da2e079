/* sim.h - a simulated world around the real core.
 *
 * The sources of csrc/core run unchanged, on one thread and without the system: reactor_sim.c
 * stands in for epoll, and the linker puts clock.c in the place of the clocks. A random program
 * (node.c) runs on one or two executors (task.c) and waits for shared things (thing.c); at every
 * moment at which another thread, a signal or the passing of time could come in between, sim_step
 * lets something happen (action.c). All of it follows from one seed, so a failure repeats.
 *
 * What must hold is checked where it can be seen, and after every step: the oracles are named in
 * the files whose matter they are. */
#ifndef PAC_SIM_H
#define PAC_SIM_H

#include "executor.h"

#include <stdio.h>

enum {
    SIM_EXECUTORS = 2,
    SIM_FDS = 6,
};

/* What a program that comes to its end still waits for. */
#define SIM_SOON_NS ((uint64_t)1000 * 1000000000)
/* The clock stops an hour before 64 bits are over, a moment that no real one comes to. */
#define SIM_LAST_NS (PAC_NEVER - (uint64_t)3600 * 1000000000)

struct sim {
    uint64_t seed;
    struct pac_random random;
    uint64_t now_ns; /* the clock */
    bool frozen;     /* it stands still */
    bool tracing;
    bool reentrant;       /* wakers let things happen when they are cloned, woken and dropped */
    unsigned poke_one_in; /* of those times */
    bool quiet;           /* nothing happens by itself any more: the end is near */
    bool sweeping;        /* a poll that must not find anything */
    bool elsewhere;       /* the executor looks or sleeps: what happens, others do */
    unsigned depth;       /* of actions within actions */
    unsigned steps, step_limit;
    unsigned batch;       /* the most that a wait reports */
    unsigned budget;      /* 0: the core's own; else the most that a poll gets */
    unsigned completions; /* of leaves in the poll in progress */
    uint64_t numbers;     /* the order in which things came */
    uint64_t allocations;
};

extern struct sim sim;

/* ---- failure ---------------------------------------------------------------------------------- */

/* Say what is wrong and how to repeat it, and abort. */
__attribute__((noreturn, format(printf, 3, 4))) void sim_fail(const char *file, int line,
                                                              const char *format, ...);
#define SIM_CHECK(x, ...) ((x) ? (void)0 : sim_fail(__FILE__, __LINE__, __VA_ARGS__))

#define SIM_TRACE(...)                                                     \
    do {                                                                   \
        if (sim.tracing) {                                                 \
            fprintf(stderr, "%5u %*s", sim.steps, (int)sim.depth * 2, ""); \
            fprintf(stderr, __VA_ARGS__);                                  \
            fputc('\n', stderr);                                           \
        }                                                                  \
    } while (0)

/* ---- chance ----------------------------------------------------------------------------------- */

static inline size_t
sim_below(size_t n)
{
    return pac_random_below(&sim.random, n);
}

static inline bool
sim_chance(size_t one_in)
{
    return sim_below(one_in) == 0;
}

/* ---- what happens (action.c) ------------------------------------------------------------------ */

/* Between two runs, or while an executor looks or sleeps: let something happen, perhaps, and then
 * look at all that must hold. False: the program's steps are used up. */
bool sim_step(void);

/* In the middle of something: a waker is cloned, woken or dropped. */
void sim_poke(void);

/* Time goes by, a little; a frozen clock stands still. */
void sim_pass_time(uint64_t ns);

/* ---- descriptors (reactor_sim.c) -------------------------------------------------------------- */

extern unsigned sim_readiness[SIM_FDS];             /* of each descriptor */
void sim_set_readiness(int fd, unsigned readiness); /* and there is news of it */
void sim_reactors_reset(void);

/* Would the executor's descriptor be readable: an unpark, or a watched one that is ready? */
bool sim_reactor_is_readable(const struct pac_reactor *r);

/* What an edge-triggered source of `fd` is yet to be told. */
unsigned sim_reactor_news(const struct pac_reactor *r, int fd);

#endif
