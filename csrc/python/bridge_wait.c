/* bridge_wait.c - awaiting a leaf of ours on a loop that is not ours: the wait, and the steps of
 * an await. */
#include "bridge_object.h"

#include "../core/budget.h"
#include "completion.h"

/* ---- the wait: a future whose poll sets an asyncio future ----------------------------------- */

/* The exception that came out of setting an asyncio future. What must leave the loop does so when
 * the turn ends; there is nobody to tell about the rest. */
static void
turn_failed(BridgeObject *b, LoopObject *own_loop, PyObject *source)
{
    if (b == NULL) {
        pacpy_loop_raise_or_print(own_loop, source);
    }
    else if (b->raised == NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
        b->raised = PyErr_GetRaisedException();
        if (b->executor != NULL) { /* or it was disowned, by a fork just now */
            pac_executor_interrupt(b->executor);
        }
    }
    else {
        PyErr_WriteUnraisable(source);
    }
}

static int
finish(struct pacpy_state *st, PyObject *asyncio_future)
{
    int done = pacpy_future_is_done(st, asyncio_future);
    if (done != 0) {
        return done;
    }
    PyObject *result = PyObject_CallMethodOneArg(asyncio_future, st->str_set_result, Py_None);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static enum pac_poll
wait_poll(struct pac_future *f, struct pac_context *cx)
{
    struct pacpy_wait *w = PAC_CONTAINER_OF(f, struct pacpy_wait, future);
    if (w->asyncio_future != NULL) {
        PyObject *asyncio_future = Py_NewRef(w->asyncio_future);
        /* Not held: whoever runs the executor holds them. */
        BridgeObject *b = w->bridge;
        LoopObject *own_loop = w->own_loop;
        if (finish(b != NULL ? b->st : own_loop->st, asyncio_future) < 0) {
            turn_failed(b, own_loop, asyncio_future);
        }
        Py_DECREF(asyncio_future);
    }
    return PAC_PENDING;
}

/* The task has ended: the leaf did, or the executor closes. */
static void
wait_drop(struct pac_future *f)
{
    struct pacpy_wait *w = PAC_CONTAINER_OF(f, struct pacpy_wait, future);
    PyObject *asyncio_future = w->asyncio_future;
    pac_list_remove(&w->node);
    w->executor = NULL;
    w->bridge = NULL;
    w->own_loop = NULL;
    w->asyncio_future = NULL;
    if (w->abandoned) {
        PyMem_Free(w);
    }
    if (asyncio_future != NULL) {
        /* May run anything; also under an exception that is on its way. */
        PyObject *exc = PyErr_GetRaisedException();
        Py_DECREF(asyncio_future);
        restore_exception(exc);
    }
}

static const struct pac_future_vtable wait_vtable = {.poll = wait_poll, .drop = wait_drop};

int
pacpy_bridge_visit_wait(struct pac_task *task, visitproc visit, void *arg)
{
    struct pac_future *f = task->future;
    if (f != NULL && f->vtable == &wait_vtable) {
        struct pacpy_wait *w = PAC_CONTAINER_OF(f, struct pacpy_wait, future);
        if (w->bridge == NULL) { /* or the bridge visits it */
            Py_VISIT(w->asyncio_future);
        }
    }
    return 0;
}

/* A wait on `ex`, which is b's or own_loop's; NULL and an exception. */
static struct pacpy_wait *
wait_new(struct pac_executor *ex, BridgeObject *b, LoopObject *own_loop)
{
    struct pacpy_wait *w = b == NULL ? NULL : b->spare;
    if (w != NULL) {
        b->spare = NULL;
        pac_list_push_back(&b->waits, &w->node);
        return w;
    }
    w = PyMem_Calloc(1, sizeof *w);
    if (w == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    w->future.vtable = &wait_vtable;
    w->executor = ex;
    w->bridge = b;
    w->own_loop = own_loop;
    enum pac_status status;
    /* Entered, so that the block of an ended wait is taken again. */
    struct pac_scheduler *before = pac_executor_enter(ex);
    w->task = pac_executor_spawn_idle(ex, &w->future, &status);
    pac_executor_leave(before);
    if (w->task == NULL) {
        PyMem_Free(w);
        if (status == PAC_CLOSED) {
            PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        }
        else {
            PyErr_NoMemory();
        }
        return NULL;
    }
    if (b != NULL) {
        pac_list_push_back(&b->waits, &w->node);
    }
    return w;
}

void
pacpy_bridge_take_wait(PyObject *bridge, struct pac_task *core)
{
    BridgeObject *b = (BridgeObject *)bridge;
    if (core->future != NULL && core->future->vtable == &wait_vtable) {
        struct pacpy_wait *w = PAC_CONTAINER_OF(core->future, struct pacpy_wait, future);
        w->own_loop = NULL;
        w->bridge = b;
        pac_list_push_back(&b->waits, &w->node);
    }
}

/* Does the thread that may run the executor of `w` differ from this one? A collector's destructor
 * runs on any thread, and the loop's own methods must not be called there. */
static bool
is_elsewhere(const struct pacpy_wait *w)
{
    if (w->bridge != NULL) {
        return w->bridge->thread_id != PyThread_get_thread_ident();
    }
    return w->executor->running && w->own_loop != pacpy_running_loop;
}

/* Keep `w`, whose leaf does not know it any more, for the next one: false if it has to end. So a
 * leaf that is ready at its first poll, as most are, costs no task.
 *
 * Wakers of the leaf before may still be about, and the task may even stand in the queue: then the
 * next leaf is polled once in vain, which is allowed at any time. No wake is lost, since the next
 * leaf's wakers are of the same task. */
static bool
wait_keep(struct pacpy_wait *w)
{
    BridgeObject *b = w->bridge;
    if (b == NULL || b->own != NULL || b->spare != NULL || w->executor == NULL || is_elsewhere(w)) {
        return false;
    }
    b->spare = w;
    pac_list_remove(&w->node);
    Py_CLEAR(w->asyncio_future);
    return true;
}

void
pacpy_bridge_free_spare(BridgeObject *b)
{
    struct pacpy_wait *w = b->spare;
    b->spare = NULL;
    if (w != NULL) {
        PAC_ASSERT(w->executor == NULL);
        struct pac_task *task = w->task;
        PyMem_Free(w);
        pac_task_unref(task);
    }
}

/* Let go of `w`, whose leaf does not know it any more. */
static void
wait_end(struct pacpy_wait *w)
{
    struct pac_task *task = w->task;
    struct pac_executor *ex = w->executor;
    w->abandoned = true;
    if (ex == NULL) {
        PyMem_Free(w);
        pac_task_unref(task);
    }
    else if (is_elsewhere(w)) {
        pac_task_cancel(task);
        pac_task_unref(task);
    }
    else {
        struct pac_scheduler *before = pac_executor_enter(ex);
        /* If it is just being polled, further up this stack, it ends right after that. */
        pac_task_shutdown(task);
        pac_task_unref(task);
        pac_executor_leave(before);
    }
}

/* ---- awaiting ------------------------------------------------------------------------------- */

/* What leaves may still complete in the task that a foreign loop runs, before one of them has to let
 * the loop go on. The loop does not say when that task was suspended elsewhere, so this counts on
 * until a leaf of ours suspends it or another task awaits one: at worst it waits a turn in vain,
 * which is allowed at any time. */
static PAC_THREAD_LOCAL struct {
    const PyObject *task; /* compared, never followed */
    int left;
} budget;

/* Poll `f` within that budget, or within that of the poll of ours in which this happens. */
static int
poll_within_budget(FutureObject *f, struct pac_context *cx, const PyObject *task, PyObject **value)
{
    if (pac_budget_left >= 0 || task == NULL) {
        return pacpy_future_poll(f, cx, value);
    }
    pac_budget_left = budget.task == task ? budget.left : PAC_BUDGET;
    int ready = pacpy_future_poll(f, cx, value);
    budget.task = ready == 0 ? NULL : task;
    budget.left = pac_budget_left;
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    return ready;
}

/* Poll `f` under `loop` with the waker of its wait. 1 and *value, 0, -1. */
static int
poll_waiting(FutureObject *f, PyObject *loop, struct pac_executor *ex, PyObject **value)
{
    /* A reference, since the poll may end the wait. */
    struct pac_task *task = pac_task_ref(f->wait->task);
    struct pac_waker waker = pac_task_waker(task);
    struct pac_context cx = {&waker};
    struct pacpy_frame frame;
    int ready;
    struct pac_scheduler *before = pac_executor_enter(ex);
    pacpy_frame_push_under_loop(f->st, &frame, &cx, loop);
    if (f->driver != NULL && frame.current_task != NULL && f->driver != frame.current_task) {
        PyErr_SetString(PyExc_RuntimeError, "this future is already being awaited by another task");
        ready = -1;
    }
    else {
        ready = poll_within_budget(f, &cx, frame.current_task, value);
        if (ready == 0) {
            f->driver = frame.current_task;
        }
        else if (f->wait != NULL) {
            pacpy_bridge_end_wait(f);
        }
    }
    pacpy_frame_pop(&frame);
    pac_task_unref(task);
    pac_executor_leave(before);
    return ready;
}

/* The asyncio future to wait for: the present one of the wait, or a new one if that is done. */
static PyObject *
future_to_wait_for(struct pacpy_state *st, PyObject *present, PyObject *loop)
{
    if (present != NULL) {
        Py_INCREF(present);
        int done = pacpy_future_is_done(st, present);
        if (done == 0) {
            return present;
        }
        Py_DECREF(present);
        if (done < 0) {
            return NULL;
        }
    }
    return PyObject_CallMethodNoArgs(loop, st->str_create_future);
}

static bool
is_waiting(FutureObject *f)
{
    if (f->wait != NULL && f->wait->executor != NULL) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError, "the future was dropped while it was polled");
    return false;
}

/* `f` is pending: what the asyncio task has to wait for; NULL and an exception. Whatever runs
 * Python here may drop the future, and then nobody would wake that task. */
static PyObject *
suspend(FutureObject *f, PyObject *loop, BridgeObject *b)
{
    struct pacpy_state *st = f->st;
    if (!is_waiting(f)) {
        return NULL;
    }
    PyObject *asyncio_future = future_to_wait_for(st, f->wait->asyncio_future, loop);
    if (asyncio_future == NULL) {
        return NULL;
    }
    if (PyObject_SetAttr(asyncio_future, st->str__asyncio_future_blocking, Py_True) < 0 ||
        (b != NULL && pacpy_bridge_settle(b, loop) < 0) || !is_waiting(f)) {
        Py_DECREF(asyncio_future);
        return NULL;
    }
    Py_XSETREF(f->wait->asyncio_future, Py_NewRef(asyncio_future));
    return asyncio_future;
}

/* What is left of the await under `loop`, whose executor is `ex` and whose bridge `b` (NULL: it
 * is a loop of ours). */
static PyObject *
step(FutureObject *f, PyObject *loop, BridgeObject *b, struct pac_executor *ex)
{
    PyObject *value;
    if (f->wait != NULL && f->wait->executor != ex) {
        pacpy_bridge_end_wait(f); /* it has moved here from another loop */
    }
    if (f->wait == NULL) {
        f->wait = wait_new(ex, b, b == NULL ? (LoopObject *)loop : NULL);
        if (f->wait == NULL) {
            return NULL;
        }
    }
    int ready = poll_waiting(f, loop, ex, &value);
    if (ready > 0) {
        return pacpy_return_from_await(f->st, value);
    }
    if (ready < 0) {
        return NULL;
    }
    PyObject *asyncio_future = suspend(f, loop, b);
    if (asyncio_future == NULL) {
        /* The await ends here, with this exception. */
        PyObject *exc = PyErr_GetRaisedException();
        pacpy_future_forget(f);
        restore_exception(exc);
    }
    return asyncio_future;
}

PyObject *
pacpy_bridge_iternext(FutureObject *f)
{
    struct pacpy_state *st = f->st;
    PyObject *loop = pacpy_bridge_running_loop(st);
    if (loop == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        }
        return NULL;
    }
    PyObject *result = NULL;
    if (pacpy_bridge_is_native(st, loop)) {
        struct pac_executor *ex = ((LoopObject *)loop)->executor;
        if (ex == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        }
        else {
            result = step(f, loop, NULL, ex);
        }
    }
    else {
        BridgeObject *b = pacpy_bridge_of(st, loop);
        if (b != NULL) {
            result = step(f, loop, b, b->executor);
            Py_DECREF(b);
        }
    }
    Py_DECREF(loop);
    return result;
}

void
pacpy_bridge_end_wait(FutureObject *f)
{
    struct pacpy_wait *w = f->wait;
    if (w == NULL) {
        return;
    }
    f->wait = NULL;
    f->driver = NULL;
    /* Everything below may run anything; also under an exception that is on its way. */
    PyObject *exc = PyErr_GetRaisedException();
    BridgeObject *b = (BridgeObject *)Py_XNewRef(w->bridge);
    bool elsewhere = w->executor != NULL && is_elsewhere(w);
    if (!wait_keep(w)) {
        wait_end(w);
    }
    if (b != NULL) {
        PyObject *loop = NULL;
        if (!elsewhere) {
            loop = pacpy_bridge_loop(b);
        }
        if (loop != NULL && pacpy_bridge_settle(b, loop) < 0) {
            PyErr_WriteUnraisable(loop);
        }
        Py_XDECREF(loop);
        Py_DECREF(b);
    }
    restore_exception(exc);
}

bool
pacpy_bridge_enter(struct pacpy_state *st, struct pac_scheduler **before)
{
    if (pac_current_scheduler != NULL) {
        return false;
    }
    PyObject *loop = pacpy_bridge_running_loop(st);
    struct pac_executor *ex = NULL;
    if (loop != NULL && pacpy_bridge_is_native(st, loop)) {
        ex = ((LoopObject *)loop)->executor;
    }
    else if (loop != NULL) {
        BridgeObject *b = pacpy_bridge_of(st, loop);
        /* The coming turn arms the loop's timer for what is about to be armed. It holds the
         * bridge. */
        if (b != NULL && pacpy_bridge_turn_soon(b, loop) == 0) {
            ex = b->executor;
            pacpy_bridge_update_hold(b);
        }
        Py_XDECREF(b);
    }
    Py_XDECREF(loop);
    PyErr_Clear();
    if (ex == NULL) {
        return false;
    }
    *before = pac_executor_enter(ex);
    return true;
}
