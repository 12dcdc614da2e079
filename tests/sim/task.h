/* task.h - the executors of a program, its tasks and callbacks, the descriptors that it watches,
 * and the wakers that others keep.
 *
 * Oracles. A task is polled by one at a time and never after it has ended; without a seed, what is
 * queued runs first in, first out, and with one, callbacks still do; each callback runs or is
 * discarded once; a source is called while it is watched. Lost wake-ups: at any moment a task that
 * nobody has woken may be polled, and must find nothing, and one that was woken stands in a queue,
 * unless a group of wake-ups has it (tasks_sweep). */
#ifndef PAC_SIM_TASK_H
#define PAC_SIM_TASK_H

#include "node.h"

struct task;

/* Of the task whose poll is in progress; NULL: none. */
struct task *task_current(void);
void task_wake(struct task *t);

/* One of its delays was moved: it may be ready before the timer says so. */
void task_excuse(struct task *t);

/* Take a random future on as a task and make `handle` its joiner; NULL: refused. */
struct task *task_spawn_to_join(struct pac_join_handle *handle);

/* False: no memory for an executor. */
bool tasks_init(void);

/* Changes when something is pushed from outside an executor. */
uintptr_t tasks_pushed(void);

/* Polls every task that nobody has woken. */
void tasks_sweep(void);
void tasks_check(void);

/* A task is spawned, cancelled, woken; a waker is kept, used, dropped; a callback is queued; a
 * descriptor is ready, watched, or not; a run is ended. */
void tasks_act(void);

/* Run one of the executors for a while; all of them until nothing is left to do. */
void tasks_run(void);
void tasks_run_all(void);

/* Stop what runs. */
void tasks_interrupt(void);

/* Close the executors; then use wakers all the same, and give everything back. */
void tasks_close(void);
void tasks_fini(void);

#endif
