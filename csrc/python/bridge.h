/* bridge.h - our leaves under a loop that is not ours.
 *
 * A foreign loop (asyncio's, uvloop's) gets one bridge: an executor of ours that never runs by
 * itself. The loop watches its epoll descriptor (add_reader) and its next deadline (call_at)
 * while anything waits, and then calls one turn of it. A leaf that is awaited there polls with
 * the waker of a *wait*: a task of that executor whose poll sets an asyncio future, which is what
 * the asyncio task really waits for. So a wake from any thread does what it does everywhere: push
 * and write the eventfd; no GIL, no loop method. Once that loop is closed a wake does nothing. */
#ifndef PACPY_BRIDGE_H
#define PACPY_BRIDGE_H

#include "future.h"

#include "../core/executor.h"

#include "eventloop.h"

/* tp_iternext of a Future that no poll of ours drives: poll it on behalf of the running loop.
 * Returns the asyncio future to wait for; or NULL with StopIteration set (or nothing set, for
 * None) if it is ready; or NULL with an exception, RuntimeError "no running event loop" among
 * them. */
PyObject *pacpy_bridge_iternext(FutureObject *f);

/* For the tp_traverse of a loop of ours: visit what `task`, one of its executor's, keeps alive if it
 * is a wait. */
int pacpy_bridge_visit_wait(struct pac_task *task, visitproc visit, void *arg);

/* End the wait of `f` (f->wait), if any: nothing points to it afterwards. On the loop's thread. */
void pacpy_bridge_end_wait(FutureObject *f);

/* Enter the executor of the loop that runs on this thread, if there is one and none of ours is
 * entered; for a Delay that is polled by hand there. *before for pac_executor_leave; false:
 * nothing was entered. */
bool pacpy_bridge_enter(struct pacpy_state *st, struct pac_scheduler **before);

/* The loop that runs on this thread as a new reference. NULL: none, or an exception is set. */
PyObject *pacpy_bridge_running_loop(struct pacpy_state *st);

/* The executor of the loop that runs on this thread, for what is to belong to it; *loop: the loop,
 * a new reference. NULL and an exception: RuntimeError if there is none. */
struct pac_executor *pacpy_bridge_executor(struct pacpy_state *st, PyObject **loop);

/* What the executor of the loop that runs on this thread has to watch has changed: have the loop
 * watch that, if it is a foreign one. Sets no exception. */
void pacpy_bridge_settle_running(struct pacpy_state *st);

/* In a fork's child: the bridges of foreign loops belong to the parent. */
void pacpy_bridge_disown_all(struct pacpy_state *st);

/* ---- for a loop of ours in compatible mode (compatible.h), whose bridge is on its own executor */

/* Such a bridge: a new reference, for loop->bridge; NULL and an exception. */
PyObject *pacpy_bridge_for_own_loop(LoopObject *loop);

/* If `core` is a wait on that executor, it is one of the bridge from now on. */
void pacpy_bridge_take_wait(PyObject *bridge, struct pac_task *core);

/* Have the loop watch what it has to. 0 or -1. */
int pacpy_bridge_settle_own(PyObject *bridge);

/* In a fork's child: it belongs to the parent, as its loop does. */
void pacpy_bridge_disown(PyObject *bridge);

/* The loop is about to close its executor. */
void pacpy_bridge_let_go(PyObject *bridge);

#endif
