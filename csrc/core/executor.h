/* executor.h - runs tasks: the ready queue, the timing wheel, and parking when there is nothing
 * to do.
 *
 * One thread at a time runs an executor. Everything that can run goes through one FIFO; a *pass*
 * runs what was ready when it began, and what becomes ready in it comes after. Descriptors,
 * timers and wakes from other threads are looked at when the queue is empty, and else after at
 * most PAC_EVENT_INTERVAL runs or about a millisecond of work.
 *
 * For runs that can be repeated it may be given a virtual clock, on which waiting takes no time,
 * and a seed, which decides the order of tasks.
 *
 * The only file that knows all of the runtime below it. Stands for Tokio's current_thread
 * scheduler, and for its paused clock. */
#ifndef PAC_EXECUTOR_H
#define PAC_EXECUTOR_H

#include "park.h"
#include "scheduler.h"
#include "shuffle.h"
#include "task.h"
#include "wheel.h"

enum { PAC_EVENT_INTERVAL = 61 };

/* Counted by the executor's thread; scheduler.tasks_alive beside it. */
struct pac_metrics {
    uint64_t tasks_spawned;
    uint64_t runs;               /* runnables run: polls of tasks, and callbacks */
    uint64_t wakes_from_threads; /* that came through the inject queue */
    uint64_t parks;
    uint64_t timers_fired;
    uint64_t queue_depth_max;
    uint64_t slow_runs; /* took over PAC_SLOW_NS; of those between two looks at the clock, one */
};

#define PAC_SLOW_NS 100000000u

/* On a virtual clock, when nothing is ready, no timer armed and the clock not held: the time of
 * pac_clock_ns until which to wait for a descriptor or another thread all the same (PAC_NEVER: as
 * long as it takes), to be asked again then; 0: the run ends with PAC_DEADLOCK. `data`: that of the
 * parking hooks. */
typedef uint64_t pac_stuck_hook(void *data);

struct pac_executor {
    struct pac_scheduler scheduler; /* first: outlives the rest */
    struct pac_reactor reactor;
    struct pac_park_hooks hooks;
    struct pac_wheel wheel;
    struct pac_list owned; /* live tasks */
    struct pac_pool task_pool;
    struct pac_pool timer_pool;
    struct pac_metrics metrics;
    uint64_t now_ns;            /* clock at the last look at the timers */
    uint64_t stretch_ns;        /* pac_clock_ns when that was */
    uint64_t stretch_ticks;     /* pac_ticks when that was */
    unsigned runs_since_events; /* as of the last reading of pac_ticks */
    unsigned ticks_stride;      /* read pac_ticks after this many runs */
    unsigned runs_to_ticks;     /* how many of them are still to come */
    bool running;
    bool stopping;           /* leave after the present pass */
    bool interrupted;        /* leave at once */
    bool lent;               /* a run further up this stack has lent it: pac_executor_lend */
    bool parked;             /* between two turns: other threads make the descriptor readable */
    PAC_ATOMIC(bool) closed; /* written once by the owner, when it begins to close */
    bool is_virtual;         /* its clock; written before anything runs */
    bool is_seeded;
    PAC_ATOMIC(uint64_t) virtual_ns; /* the virtual clock; written by the owner */
    unsigned clock_holds;
    pac_stuck_hook *stuck;
    struct pac_random random;
    struct pac_shuffle shuffle;
};

/* NULL and *status: no memory, or the system refuses a descriptor. Hooks may be NULL. The executor
 * belongs to the thread that calls the functions below, unless one says otherwise. */
PAC_MUST_USE struct pac_executor *pac_executor_new(const struct pac_park_hooks *hooks,
                                                   enum pac_status *status);

/* End all tasks (their futures are dropped where they stand, in order of spawning), discard what
 * is queued, fire the timers that are still armed (early, in no order: `fire` tells by
 * pac_executor_is_closed, and what it queues is discarded), close the descriptors. Spawning from
 * within is refused. Wakers stay usable and do nothing. Not while running; twice is a no-op. It
 * must not be entered afterwards. */
void pac_executor_close(struct pac_executor *ex);

/* In the child of a fork, before anything else is done with `ex`: it is the parent's, and its
 * descriptors are shared. From now on it counts as closed; tasks and timers stay where they stand
 * and never run, descriptors are left alone, but their sources are told that the reactor is gone,
 * and a run in progress ends after the present run. */
void pac_executor_disown(struct pac_executor *ex);

/* metrics.slow_runs, and one that the executor has not looked at yet: it may be the present one. */
uint64_t pac_executor_slow_runs(struct pac_executor *ex);

/* [any thread] Has closing begun? */
static inline bool
pac_executor_is_closed(struct pac_executor *ex)
{
    /* acquire: pairs with the release in pac_executor_close. */
    return pac_atomic_load(&ex->closed, PAC_ACQUIRE);
}

/* After close: give up the executor's own reference. The memory goes with the last waker. */
void pac_executor_free(struct pac_executor *ex);

/* ---- spawning ------------------------------------------------------------------------------- */

/* Take `future` on as a task, queued at the back. The executor drops it when it is done with it.
 * Returns the task with one reference for the caller, to make a join handle of or to give up;
 * NULL and *status if refused (closed, no memory), and then the future was dropped. */
PAC_MUST_USE struct pac_task *pac_executor_spawn(struct pac_executor *ex, struct pac_future *future,
                                                 enum pac_status *status);

/* The same, but not queued: the first wake leads to the first poll. */
PAC_MUST_USE struct pac_task *pac_executor_spawn_idle(struct pac_executor *ex,
                                                      struct pac_future *future,
                                                      enum pac_status *status);

/* ---- running -------------------------------------------------------------------------------- */

/* Make `ex` the current executor of this thread; returns the one before, for pac_executor_leave. */
struct pac_scheduler *pac_executor_enter(struct pac_executor *ex);
void pac_executor_leave(struct pac_scheduler *before);

/* The executor that is entered on this thread, or NULL. */
static inline struct pac_executor *
pac_executor_current(void)
{
    struct pac_scheduler *s = pac_current_scheduler;
    return (struct pac_executor *)s;
}

/* Run until pac_executor_stop (PAC_OK) or pac_executor_interrupt or a hook's refusal
 * (PAC_INTERRUPTED). Enters it for the while. PAC_BUSY: it is running already. PAC_CLOSED.
 * PAC_DEADLOCK: only with a virtual clock. */
PAC_MUST_USE enum pac_status pac_executor_run(struct pac_executor *ex);

/* Run until `root` is READY; all else runs along. `root` is dropped by then. PAC_OK, or as
 * pac_executor_run, or the status of a refused spawn; PAC_INTERRUPTED also if it was stopped
 * before `root` was READY. Within a task of the same executor: PAC_BUSY. */
PAC_MUST_USE enum pac_status pac_executor_block_on(struct pac_executor *ex,
                                                   struct pac_future *root);

/* From within: stop after the present pass; or after the present run, leaving the rest queued. */
static inline void
pac_executor_stop(struct pac_executor *ex)
{
    ex->stopping = true;
}

static inline void
pac_executor_interrupt(struct pac_executor *ex)
{
    ex->interrupted = true;
}

/* One look at descriptors, timers and other threads without waiting, then one pass. For an
 * executor that is driven by somebody else's loop, which watches pac_executor_fd and
 * pac_executor_next_ns. It must have been entered. PAC_INTERRUPTED: the pass was cut short by
 * pac_executor_interrupt. PAC_BUSY: it runs already, further up this stack; PAC_CLOSED,
 * PAC_OS_ERROR: nothing was run. */
PAC_MUST_USE enum pac_status pac_executor_turn(struct pac_executor *ex);

/* From within a run: lend the executor to code further down this stack, which may turn it, and
 * whose wakes make the descriptor readable as between two turns. pac_executor_take_back ends that,
 * before the present runnable returns; or else the run ends with it, which has to be asked for by
 * pac_executor_interrupt. Turns may empty the run's queue, so it ends after any, PAC_INTERRUPTED. */
void pac_executor_lend(struct pac_executor *ex);
void pac_executor_take_back(struct pac_executor *ex);

/* When pac_executor_turn has to be called next at the latest: 0 at once, PAC_NEVER not for a
 * timer. Unless it is 0, the descriptor becomes readable when another thread (or this one, while
 * the executor is not entered) queues something after this call. So the other loop asks after
 * each turn, and again after anything was done with the executor entered, before it waits. */
uint64_t pac_executor_next_ns(struct pac_executor *ex);

/* The descriptor to watch for reading: the same until close. */
static inline int
pac_executor_fd(struct pac_executor *ex)
{
    return ex->reactor.epoll_fd;
}

/* ---- deterministic runs --------------------------------------------------------------------- */

/* Give `ex` a clock of its own, before anything was spawned or armed: it starts at 0, stands still
 * while anything is ready, and goes to the next deadline, to the nanosecond, when nothing is.
 * Before that descriptors and other threads are looked at once, and while the clock is held
 * (pac_executor_hold_clock) there is a real wait for them instead. With no deadline either: see
 * pac_stuck_hook; `stuck` NULL: while any descriptor is watched, it waits for those. Such an
 * executor is run by pac_executor_run or block_on, not turn by turn. */
void pac_executor_use_virtual_clock(struct pac_executor *ex, pac_stuck_hook *stuck);

/* Move the virtual clock on; what becomes due fires with the next turn. It never comes to
 * PAC_NEVER. */
void pac_executor_advance(struct pac_executor *ex, uint64_t ns);

/* Something is under way that takes real time, and will wake a task: the virtual clock waits for
 * it, until it is released as often as it was held. */
static inline void
pac_executor_hold_clock(struct pac_executor *ex)
{
    ex->clock_holds++;
}

static inline void
pac_executor_release_clock(struct pac_executor *ex)
{
    PAC_ASSERT(ex->clock_holds > 0);
    ex->clock_holds--;
}

/* From now on each pass runs its tasks in a pseudo-random order (shuffle.h), and pac_executor_pick
 * picks at random. */
void pac_executor_seed(struct pac_executor *ex, uint64_t seed);

/* For leaves that choose among `count` equals, at least one, as select does among its branches: the
 * first, 0, unless the executor has a seed. */
static inline size_t
pac_executor_pick(struct pac_executor *ex, size_t count)
{
    return PAC_UNLIKELY(ex->is_seeded) ? pac_random_below(&ex->random, count) : 0;
}

/* ---- for leaves ----------------------------------------------------------------------------- */

/* The clock that deadlines are on. [any thread] */
static inline uint64_t
pac_executor_now_ns(struct pac_executor *ex)
{
    /* relaxed: a time, and nothing that was written before it. */
    return PAC_UNLIKELY(ex->is_virtual) ? pac_atomic_load(&ex->virtual_ns, PAC_RELAXED)
                                        : pac_clock_ns();
}

/* Queue any runnable at the back. [any thread] PAC_CLOSED: it stays the caller's. */
PAC_MUST_USE static inline enum pac_status
pac_executor_submit(struct pac_executor *ex, struct pac_runnable *r)
{
    return pac_scheduler_submit(&ex->scheduler, r);
}

#endif
