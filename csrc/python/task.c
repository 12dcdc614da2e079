/* task.c - the coroutine as a future of the core; the type's methods are in task_type.c.
 *
 * A poll enters the task's context, makes it asyncio's current task, and sends None into the
 * coroutine. What comes out at the bottom says what the task waits for:
 *
 *   the private object   a leaf of ours has kept the waker: nothing to do
 *   None                 a bare yield: to the back of the queue
 *   a Task or asyncio future of ours     our listener goes into its list, no callback object
 *   something else of asyncio's          add_done_callback
 *   anything else        RuntimeError, thrown into the coroutine by the next poll
 *
 * While it waits for an asyncio future (`waiting_for`), a wake-up that does not come from there
 * is not passed on into the coroutine, as asyncio's leaves do not tolerate that.
 *
 * References. The executor's list of live tasks stands for one strong reference to the Python
 * object, given up in task_future_drop; the Python object holds one reference to the core's task
 * until then. So a task that nobody refers to runs to its end, and a waker that outlives it holds
 * only the core's header. */
#include "task.h"

#include "bridge.h"
#include "callback_handle.h"
#include "context_snapshot.h"
#include "future.h"

/* ---- current task --------------------------------------------------------------------------- */

static inline PyObject *
task_object(struct pacpy_task *t)
{
    return pacpy_completion_object(&t->completion);
}

static inline LoopObject *
task_loop(struct pacpy_task *t)
{
    return t->completion.loop;
}

/* While a loop runs, its live tasks are not tracked: they cannot be garbage, as the loop holds
 * them, and what they refer to is kept alive by a reference that the collector does not see. It
 * has to know of a task once that has ended, or once the run has (track_tasks in eventloop.c): a
 * loop that is given up with tasks in it is garbage. */
void
pacpy_task_track(PyObject *op)
{
    if (!PyObject_GC_IsTracked(op)) {
        PyObject_GC_Track(op);
    }
}

/* ---- one poll ------------------------------------------------------------------------------- */

/* Have `exc` (reference taken; NULL: the exception that is set) thrown by the next poll. */
static void
throw_at_next_poll(struct pacpy_task *t, PyObject *exc)
{
    if (exc == NULL) {
        exc = PyErr_GetRaisedException();
    }
    Py_XSETREF(t->throw_next, exc);
    pac_task_wake(t->core);
}

static void
throw_runtime_error(struct pacpy_task *t, const char *format, PyObject *what)
{
    PyErr_Format(PyExc_RuntimeError, format, task_object(t), what);
    throw_at_next_poll(t, NULL);
}

/* A cancel that came during the poll is passed on to what the poll has begun to wait for. */
static void
pass_cancel_on(struct pacpy_task *t)
{
    if (!t->must_cancel || t->waiting_for == NULL) {
        return;
    }
    int cancelled = pacpy_task_cancel_waiting_for(t, t->completion.cancel_message);
    if (cancelled < 0) {
        throw_at_next_poll(t, NULL);
    }
    else if (cancelled) {
        t->must_cancel = false;
    }
}

/* Does `caller`, which has called the task back, stand for what the task waits for? It need not be
 * that very object: one that wraps a future hands the callback on. One from an earlier wait does
 * not, and comes while the present one is not done. */
static bool
is_waited_for(struct pacpy_task *t, PyObject *caller)
{
    PyObject *waited = t->waiting_for;
    if (PAC_LIKELY(waited == caller) || waited == NULL) {
        return waited != NULL;
    }
    Py_INCREF(waited);
    PyObject *done = PyObject_CallMethodNoArgs(waited, t->completion.st->str_done);
    int truth = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    PyErr_Clear(); /* one that cannot be asked is believed */
    bool still = t->waiting_for == waited;
    Py_DECREF(waited);
    return still && truth != 0;
}

/* The callback that a foreign future calls. It has had its turn in the queue, so the task is
 * polled at once, as asyncio's is, unless it is called from within another one. */
static PyObject *
wakeup(PyObject *op, PyObject *future)
{
    struct pacpy_task *t = pacpy_task_of(op);
    LoopObject *loop = task_loop(t);
    if (!is_waited_for(t, future) || t->core == NULL) {
        Py_RETURN_NONE;
    }
    pac_list_remove(&t->listener.node);           /* a Task that says it is done need not be so */
    Py_SETREF(t->waiting_for, Py_NewRef(future)); /* the one to ask, as asyncio does */
    if (pacpy_running_loop != loop || pacpy_frame_top != NULL || loop->current_entry != NULL) {
        pacpy_task_future_done(t);
        Py_RETURN_NONE;
    }
    t->wait_is_over = true;
    if (pac_task_transition_to_notified_by_ref(&t->core->state) == PAC_TASK_SUBMIT) {
        pac_task_run(t->core);
    }
    Py_RETURN_NONE;
}

static PyMethodDef wakeup_def = {"wakeup", wakeup, METH_O, "Poll the task again."};

/* Wait for a future of another implementation: `future` is borrowed, `blocking` what its
 * _asyncio_future_blocking says. */
static void
wait_for_foreign(struct pacpy_task *t, PyObject *future, int blocking)
{
    struct pacpy_state *st = t->completion.st;
    PyObject *loop = PyObject_CallMethodNoArgs(future, st->str_get_loop);
    if (loop == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        loop = PyObject_GetAttrString(future, "_loop");
    }
    if (loop == NULL) {
        throw_at_next_poll(t, NULL);
        return;
    }
    Py_DECREF(loop);
    if (loop != (PyObject *)task_loop(t)) {
        throw_runtime_error(t, "Task %R got Future %R attached to a different loop", future);
        return;
    }
    if (!blocking) {
        throw_runtime_error(t, "yield was used instead of yield from in task %R with %R", future);
        return;
    }
    PyObject *callback = PyCFunction_New(&wakeup_def, task_object(t));
    /* Not the task's own context: the poll enters that, and it cannot be entered twice. */
    PyObject *context = PyContext_New();
    PyObject *add = PyObject_GetAttr(future, st->str_add_done_callback);
    PyObject *kwnames = PyTuple_Pack(1, st->str_context);
    PyObject *done = NULL;
    if (callback != NULL && context != NULL && add != NULL && kwnames != NULL &&
        PyObject_SetAttr(future, st->str__asyncio_future_blocking, Py_False) == 0) {
        PyObject *args[] = {callback, context};
        t->waiting_for = Py_NewRef(future);
        done = PyObject_Vectorcall(add, args, 1, kwnames);
        if (done == NULL) {
            Py_CLEAR(t->waiting_for);
        }
    }
    Py_XDECREF(callback);
    Py_XDECREF(context);
    Py_XDECREF(add);
    Py_XDECREF(kwnames);
    if (done == NULL) {
        throw_at_next_poll(t, NULL);
        return;
    }
    Py_DECREF(done);
    pass_cancel_on(t);
}

/* Wait for a Task or asyncio future of ours. Takes the reference. */
static void
wait_for_completion(struct pacpy_task *t, PyObject *future)
{
    struct pacpy_completion *c = pacpy_completion_of(future);
    if (PAC_UNLIKELY(c->loop != task_loop(t))) {
        throw_runtime_error(t, "Task %R got Future %R attached to a different loop", future);
    }
    else if (PAC_UNLIKELY(!c->blocking)) {
        throw_runtime_error(t, "yield was used instead of yield from in task %R with %R", future);
    }
    else if (PAC_UNLIKELY(future == task_object(t))) {
        c->blocking = false;
        throw_runtime_error(t, "Task cannot await on itself: %R", future);
    }
    else {
        c->blocking = false;
        t->waiting_for = future;
        if (c->outcome == PACPY_PENDING) {
            pacpy_completion_listen(c, &t->listener);
        }
        else {
            pacpy_task_future_done(t);
        }
        pass_cancel_on(t);
        return;
    }
    Py_DECREF(future);
}

/* The coroutine has yielded `what` (reference taken), neither our private object nor None. */
static void
wait_for(struct pacpy_task *t, PyObject *what)
{
    struct pacpy_state *st = t->completion.st;
    if (pacpy_is_completion(st, what)) {
        wait_for_completion(t, what);
        return;
    }
    PyObject *blocking = PyObject_GetAttr(what, st->str__asyncio_future_blocking);
    if (blocking != NULL && blocking != Py_None) {
        int truth = PyObject_IsTrue(blocking);
        if (truth < 0) {
            throw_at_next_poll(t, NULL);
        }
        else {
            wait_for_foreign(t, what, truth);
        }
    }
    else if (blocking == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        throw_at_next_poll(t, NULL);
    }
    else {
        PyErr_Clear();
        throw_runtime_error(t,
                            PyGen_CheckExact(what)
                                ? "yield was used instead of yield from for generator in task %R "
                                  "with %R"
                                : "Task %R got bad yield: %R",
                            what);
    }
    Py_XDECREF(blocking);
    Py_DECREF(what);
}

/* The coroutine has returned `value` (reference taken). */
static void
finish_with_result(struct pacpy_task *t, PyObject *value)
{
    if (t->must_cancel) {
        /* Cancelled right before it ended. */
        t->must_cancel = false;
        pacpy_completion_cancel(&t->completion, t->completion.cancel_message);
    }
    else {
        pacpy_completion_set_result(&t->completion, value);
    }
    Py_DECREF(value);
}

/* The coroutine has failed. */
static void
finish_with_exception(struct pacpy_task *t)
{
    struct pacpy_completion *c = &t->completion;
    pacpy_ensure_exception();
    PyObject *exc = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(exc, c->st->asyncio_CancelledError)) {
        /* The very exception is raised again where the task is awaited, once. */
        c->exception = exc;
        pacpy_completion_cancel(c, NULL);
        return;
    }
    pacpy_completion_set_exception(c, exc);
    if (PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt) ||
        PyErr_GivenExceptionMatches(exc, PyExc_SystemExit)) {
        pacpy_loop_raise(c->loop, exc);
        return;
    }
    Py_DECREF(exc);
}

/* The exception to throw at this poll; or NULL and one to raise, with nothing forgotten. */
static PyObject *
exception_to_throw(struct pacpy_task *t)
{
    PyObject *exc = t->throw_next;
    if (t->must_cancel && (exc == NULL || !PyErr_GivenExceptionMatches(
                                              exc, t->completion.st->asyncio_CancelledError))) {
        PyObject *cancelled = pacpy_completion_make_cancelled_error(&t->completion);
        if (cancelled == NULL) {
            return NULL;
        }
        Py_XDECREF(exc);
        exc = cancelled;
    }
    t->must_cancel = false;
    t->throw_next = NULL;
    return exc;
}

/* An exception is set. */
static bool
is_suspended(struct pacpy_task *t)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *suspended = PyObject_GetAttr(t->coroutine, t->completion.st->str_cr_suspended);
    PyErr_Clear(); /* not every coroutine tells */
    PyErr_SetRaisedException(error);
    Py_XDECREF(suspended);
    return suspended == Py_True;
}

/* Throw `exc` (reference taken) into the coroutine. As step(). */
static int
throw_into(struct pacpy_task *t, PyObject *exc, PyObject **result)
{
    *result = PyObject_CallMethodOneArg(t->coroutine, t->completion.st->str_throw, exc);
    if (*result == NULL && PyErr_ExceptionMatches(PyExc_MemoryError) && is_suspended(t)) {
        /* There was none to look for the throw() of what it waits for. */
        t->throw_next = exc;
        return PACPY_REFUSED;
    }
    Py_DECREF(exc);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyObject *stop = PyErr_GetRaisedException();
        *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
        Py_DECREF(stop);
        return PYGEN_RETURN;
    }
    return PYGEN_ERROR;
}

int
pacpy_task_own_context(struct pacpy_task *t)
{
    PyObject *own = pacpy_context_copy(t->completion.st, t->context);
    if (own == NULL) {
        return -1;
    }
    Py_SETREF(t->context, own);
    t->context_is_snapshot = false;
    return 0;
}

/* The state of a coroutine that has never run, as this Python spells it: read off a fresh one. */
static int8_t frame_created;

static bool
coroutine_has_started(PyObject *coroutine)
{
#if PY_VERSION_HEX < 0x030E0000
    return PyCoro_CheckExact(coroutine) &&
           ((PyCoroObject *)coroutine)->cr_frame_state != frame_created;
#else
    return false;
#endif
}

/* Before the coroutine runs for the first time here. 0 or -1. */
static int
prepare_first_step(struct pacpy_task *t)
{
    if (!t->was_started && coroutine_has_started(t->coroutine)) {
        /* Sending into it would take it from the task that it has become, which would wait for
         * good. */
        PyErr_SetString(PyExc_RuntimeError,
                        "this coroutine is the coroutine of another task already");
        return -1;
    }
    if (t->context_is_snapshot && pacpy_task_own_context(t) < 0) {
        return -1;
    }
    t->is_new = false;
    return 0;
}

/* Advance the coroutine once, in its context and as the current task: a PySendResult; or PACPY_REFUSED
 * and MemoryError, and it has not run. */
static int
step(struct pacpy_task *t, struct pac_context *cx, PyObject **result)
{
    struct pacpy_state *st = t->completion.st;
    LoopObject *loop = task_loop(t);
    struct pacpy_frame frame = {
        .cx = cx,
        .outer = pacpy_frame_top,
        .loop = (PyObject *)loop,
        .current_task = task_object(t),
        .driver = t,
        .by_hand = false,
    };
    *result = NULL;
    if (loop->current_entry != frame.current_task &&
        pacpy_loop_set_current(loop, frame.current_task) < 0) {
        return pacpy_refused_or_failed();
    }
#ifdef PACPY_HAVE_DICT_VERSION
    frame.version = pacpy_dict_version(st->asyncio_current_tasks);
#endif
    if ((PAC_UNLIKELY(t->is_new) && prepare_first_step(t) < 0) || PyContext_Enter(t->context) < 0) {
        return pacpy_refused_or_failed();
    }
    pacpy_frame_top = &frame;
    int sent;
    if (PAC_UNLIKELY(t->must_cancel || t->throw_next != NULL)) {
        PyObject *exc = exception_to_throw(t);
        sent = exc == NULL ? pacpy_refused_or_failed() : throw_into(t, exc, result);
    }
    else {
        sent = PyIter_Send(t->coroutine, Py_None, result);
    }
    pacpy_frame_top = frame.outer;
    if (PAC_UNLIKELY(PyContext_Exit(t->context) < 0 && sent >= 0)) {
        Py_CLEAR(*result);
        sent = PYGEN_ERROR;
    }
    return sent;
}

/* What the task has waited for is done. An error is thrown into the coroutine, since one that yields
 * futures without awaiting them does not ask them. 0; or -1 and MemoryError: to be tried again. */
static int
end_wait(struct pacpy_task *t)
{
    /* A cancel of the task itself gives way to that of the future. */
    PyObject *coroutine = t->must_cancel ? NULL : t->coroutine;
    if (PAC_LIKELY(t->throw_next == NULL) &&
        pacpy_future_error(t->completion.st, t->waiting_for, coroutine, &t->throw_next) < 0) {
        return -1;
    }
    t->wait_is_over = false;
    Py_CLEAR(t->waiting_for);
    return 0;
}

static enum pac_poll
task_future_poll(struct pac_future *future, struct pac_context *cx)
{
    struct pacpy_task *t = PAC_CONTAINER_OF(future, struct pacpy_task, future);
    LoopObject *loop = task_loop(t);
    loop->polls++;
    if (t->waiting_for != NULL) {
        if (PAC_UNLIKELY(!t->wait_is_over)) {
            loop->spurious_polls++;
            return PAC_PENDING;
        }
        if (PAC_UNLIKELY(end_wait(t) < 0)) {
            PyErr_Clear();
            pac_task_wake(t->core);
            return PAC_PENDING;
        }
    }
    uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
    PyObject *result;
    switch (step(t, cx, &result)) {
        case PYGEN_NEXT:
            if (PAC_LIKELY(result == t->completion.st->suspended)) {
                Py_DECREF(result);
                if (PAC_UNLIKELY(t->must_cancel)) {
                    pac_task_wake(t->core);
                }
            }
            else if (PAC_LIKELY(result == Py_None)) {
                Py_DECREF(result);
                pac_task_wake(t->core);
            }
            else {
                wait_for(t, result);
            }
            break;
        case PYGEN_RETURN:
            finish_with_result(t, result);
            break;
        case PYGEN_ERROR:
            finish_with_exception(t);
            break;
        case PACPY_REFUSED:
            /* If it ended now, with its coroutine suspended, no `finally` in that would ever run. */
            PyErr_Clear();
            pac_task_wake(t->core);
            break;
    }
    if (PAC_UNLIKELY(began_ns != 0)) {
        pacpy_task_note_poll(task_object(t), began_ns);
    }
    if (t->completion.outcome == PACPY_PENDING) {
        return PAC_PENDING;
    }
    if (Py_REFCNT(task_object(t)) == 1 && pacpy_loop_leave_task(loop) < 0) {
        /* It is about to go, and the destructors that run then are not this task any more.
         * Otherwise the next task, callback or wait replaces it as the current one. */
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    return PAC_READY;
}

/* The core is done with the task: ended, or the executor closes with it suspended. */
static void
task_future_drop(struct pac_future *future)
{
    struct pacpy_task *t = PAC_CONTAINER_OF(future, struct pacpy_task, future);
    struct pac_task *core = t->core;
    pac_list_remove(&t->listener.node);
    t->core = NULL;
    if (core != NULL) {
        pac_task_unref(core);
    }
    PyObject *op = task_object(t);
    if (!pacpy_completion_failed(&t->completion) && t->context != NULL &&
        Py_REFCNT(t->context) == 1) {
        /* Nobody else has it, and no exception handler will run in it. */
        PyObject *context = t->context;
        t->context = NULL;
        pacpy_context_done(t->completion.st, context);
    }
    if (Py_REFCNT(op) > 1) {
        pacpy_task_track(op);
    }
    Py_DECREF(op);
}

static const struct pac_future_vtable task_future_vtable = {
    .poll = task_future_poll,
    .drop = task_future_drop,
};

/* ---- under a loop in compatible mode (compatible.h) ------------------------------------------ */

static enum pac_poll
lending_poll(struct pac_future *future, struct pac_context *cx)
{
    LoopObject *loop = task_loop(PAC_CONTAINER_OF(future, struct pacpy_task, future));
    struct pac_executor *ex = loop->executor;
    Py_INCREF(loop);
    /* asyncio's table of current tasks belongs to whoever runs the loop: nothing is taken for
     * granted, nothing left behind. */
    loop->current_entry = NULL;
    pac_executor_lend(ex);
    enum pac_poll poll = task_future_poll(future, cx);
    pac_executor_take_back(ex);
    if (pacpy_loop_set_current(loop, NULL) < 0) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    Py_DECREF(loop);
    return poll;
}

static const struct pac_future_vtable lending_vtable = {
    .poll = lending_poll,
    .drop = task_future_drop,
};

void
pacpy_task_lend_polls(struct pac_task *core)
{
    if (core->future != NULL && core->future->vtable == &task_future_vtable) {
        core->future->vtable = &lending_vtable;
    }
}

/* ---- completing ------------------------------------------------------------------------------ */

void
pacpy_task_future_done(struct pacpy_task *t)
{
    /* Kept until the poll, as asyncio keeps it: a library that finds the future done knows that
     * a cancel now would lose what it brings (anyio's cancel scopes look). */
    t->wait_is_over = true;
    if (t->core != NULL) {
        pac_task_wake(t->core);
    }
}

PyObject *
pacpy_task_object_of_core(struct pac_task *core)
{
    if (core->future == NULL ||
        (core->future->vtable != &task_future_vtable && core->future->vtable != &lending_vtable)) {
        return NULL;
    }
    return task_object(PAC_CONTAINER_OF(core->future, struct pacpy_task, future));
}

/* ---- making one ----------------------------------------------------------------------------- */

int
pacpy_task_learn_coroutines(struct pacpy_state *st)
{
#if PY_VERSION_HEX < 0x030E0000
    PyObject *fresh = PyObject_CallMethod(st->asyncio_support, "fresh_coroutine", NULL);
    if (fresh == NULL) {
        return -1;
    }
    frame_created = ((PyCoroObject *)fresh)->cr_frame_state;
    PyObject *closed = PyObject_CallMethodNoArgs(fresh, st->str_close);
    Py_DECREF(fresh);
    Py_XDECREF(closed);
    return closed == NULL ? -1 : 0;
#else
    return 0;
#endif
}

/* Fill in a fresh object. `context`, `name` may be NULL. 0 or -1. */
static int
task_init(PyObject *op, LoopObject *loop, PyObject *coroutine, PyObject *name, PyObject *context)
{
    struct pacpy_task *t = pacpy_task_of(op);
    struct pacpy_state *st = loop->st;
    pacpy_completion_init(&t->completion, st, loop);
    t->future.vtable = &task_future_vtable;
    t->core = NULL;
    t->coroutine = Py_NewRef(coroutine);
    t->context = NULL;
    t->name = NULL;
    t->waiting_for = NULL;
    t->wait_is_over = false;
    t->throw_next = NULL;
    t->listener.node.next = t->listener.node.prev = NULL;
    t->listener.kind = PACPY_LISTEN_TASK;
    t->id = ++st->next_task_id;
    t->cancel_requests = 0;
    t->must_cancel = false;
    t->log_destroy_pending = true;
    t->is_new = true;
    t->was_started = coroutine_has_started(coroutine);
    t->context_is_snapshot = context == NULL || context == Py_None;
    t->context = t->context_is_snapshot ? pacpy_context_snapshot(st) : Py_NewRef(context);
    if (t->context == NULL) {
        return -1;
    }
    if (name != NULL && name != Py_None) {
        t->name = PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
        if (t->name == NULL) {
            return -1;
        }
    }
    return PAC_UNLIKELY(loop->debug) ? pacpy_completion_note_source(&t->completion) : 0;
}

/* The refusal of pac_executor_spawn as an exception. */
static void
raise_spawn_status(LoopObject *loop, enum pac_status status)
{
    if (status == PAC_NO_MEMORY) {
        PyErr_NoMemory();
    }
    else {
        pacpy_loop_refuse_closed(loop);
    }
}

/* Hand the task to the executor. 0 or -1. */
static int
task_queue(PyObject *op, bool idle)
{
    struct pacpy_task *t = pacpy_task_of(op);
    struct pac_executor *ex = task_loop(t)->executor;
    enum pac_status status = PAC_CLOSED;
    struct pac_task *core = NULL;
    Py_INCREF(op); /* the live list's: given up by task_future_drop, also if this is refused */
    if (ex == NULL) {
        task_future_drop(&t->future);
    }
    else {
        pacpy_loop_catch_up(task_loop(t));
        core = idle ? pac_executor_spawn_idle(ex, &t->future, &status)
                    : pac_executor_spawn(ex, &t->future, &status);
    }
    if (core == NULL) {
        t->log_destroy_pending = false;
        raise_spawn_status(task_loop(t), status);
        return -1;
    }
    t->core = core;
    return 0;
}

/* Run the first step at once, within whatever is running: perhaps a task of asyncio's own, which is
 * the current one then, whatever we last put there. */
static void
task_start_eagerly(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    LoopObject *loop = task_loop(t);
    PyObject *entry = loop->current_entry;
    PyObject *outer = Py_XNewRef(pacpy_asyncio_current_task(loop->st, (PyObject *)loop));
    pac_task_run_at_once(t->core);
    if (pacpy_loop_set_current(loop, outer) < 0) {
        PyErr_WriteUnraisable(op);
    }
    else {
        loop->current_entry = entry;
    }
    Py_XDECREF(outer);
}

int
pacpy_task_begin(PyObject *op, LoopObject *loop, PyObject *coroutine, PyObject *name,
                 PyObject *context, bool eager)
{
    if (task_init(op, loop, coroutine, name, context) < 0) {
        return -1;
    }
    if (loop->compatible) {
        pacpy_task_of(op)->future.vtable = &lending_vtable;
    }
    if (task_queue(op, eager) < 0) {
        return -1;
    }
    if (loop->compatible && pacpy_bridge_settle_own(loop->bridge) < 0) {
        return -1;
    }
    if (eager) {
        task_start_eagerly(op);
    }
    return 0;
}

PyObject *
pacpy_task_spawn(LoopObject *loop, PyObject *coroutine, PyObject *name, PyObject *context)
{
    struct pacpy_state *st = loop->st;
    PyObject *op = pacpy_freelist_alloc(&st->task_free, st->Task_type);
    if (op == NULL) {
        return NULL;
    }
    int made = task_init(op, loop, coroutine, name, context);
    if (made < 0 || task_queue(op, false) < 0) {
        pacpy_task_of(op)->log_destroy_pending = false;
        Py_DECREF(op);
        return NULL;
    }
    if (pacpy_running_loop != loop) {
        pacpy_task_track(op);
    }
    return op;
}

/* ---- module functions ----------------------------------------------------------------------- */

/* spawn on a loop that is not ours, or has a task factory: loop.create_task(coroutine, ...). */
static PyObject *
spawn_by_loop(struct pacpy_state *st, PyObject *coroutine, PyObject *name, PyObject *context)
{
    return PyObject_CallMethodObjArgs(st->asyncio_support, st->str_spawn_on_running_loop, coroutine,
                                      name == NULL ? Py_None : name,
                                      context == NULL ? Py_None : context, NULL);
}

/* `aw` as a coroutine that was not started: a new reference, or NULL. */
static PyObject *
coroutine_for_spawn(struct pacpy_state *st, PyObject *aw)
{
    if (PyCoro_CheckExact(aw)) {
        if (coroutine_has_started(aw)) {
            PyErr_SetString(PyExc_RuntimeError,
                            "this coroutine is running, suspended or finished already: a coroutine "
                            "can be spawned once");
            return NULL;
        }
        return Py_NewRef(aw);
    }
    return PyObject_CallMethodOneArg(st->asyncio_support, st->str_coroutine_of, aw);
}

/* Close a coroutine that will not run, keeping the exception that is set. */
static void
close_refused(struct pacpy_state *st, PyObject *coroutine)
{
    PyObject *error = PyErr_GetRaisedException();
    pacpy_close_iterator(st, coroutine);
    PyErr_SetRaisedException(error);
}

/* As pacpy_spawn; `closes`: what was refused, not only a coroutine that was made for it here. */
static PyObject *
spawn_awaitable(struct pacpy_state *st, PyObject *aw, PyObject *name, PyObject *context,
                bool closes)
{
    if (st->Task_type == NULL && pacpy_need_asyncio(st) < 0) {
        return NULL;
    }
    PyObject *coroutine = coroutine_for_spawn(st, aw);
    if (coroutine == NULL) {
        return NULL;
    }
    LoopObject *loop = pacpy_running_loop;
    bool is_ours = loop != NULL && (loop->task_factory == NULL || loop->task_factory == Py_None);
    PyObject *task = is_ours ? pacpy_task_spawn(loop, coroutine, name, context)
                             : spawn_by_loop(st, coroutine, name, context);
    if (task == NULL && (closes || coroutine != aw)) {
        close_refused(st, coroutine);
    }
    Py_DECREF(coroutine);
    return task;
}

PyObject *
pacpy_spawn(struct pacpy_state *st, PyObject *aw, PyObject *name, PyObject *context)
{
    return spawn_awaitable(st, aw, name, context, true);
}

PyObject *
pacpy_spawn_or_leave(struct pacpy_state *st, PyObject *aw)
{
    return spawn_awaitable(st, aw, NULL, NULL, false);
}

PyDoc_STRVAR(
    spawn_doc,
    "spawn(aw, /, *, name=None, context=None)\n--\n\n"
    "Run an awaitable as a task of its own, from now on; returns the Task.\n\n"
    "`context` is the contextvars context that it runs in, a copy of the present one by default. The task\n"
    "runs to its end even if nobody refers to it. Raises TypeError if `aw` is not awaitable, RuntimeError\n"
    "if no loop runs here or the coroutine was started already. For the thread of the loop; from others\n"
    "use Handle.spawn. On a loop that is not ours it is loop.create_task. Stands for tokio::spawn.");

static PyObject *
spawn(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct pacpy_state *st = pacpy_state_of(module);
    PyObject *name = NULL, *context = NULL;
    if (nargs != 1) {
        return PyErr_Format(PyExc_TypeError,
                            "spawn() takes exactly one positional argument (%zd given)", nargs);
    }
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_Compare(key, st->str_name) == 0) {
            name = args[nargs + i];
        }
        else if (PyUnicode_Compare(key, st->str_context) == 0) {
            context = args[nargs + i];
        }
        else {
            return PyErr_Format(PyExc_TypeError, "spawn() got an unexpected keyword argument %R",
                                key);
        }
    }
    if (context != NULL && context != Py_None && !PyContext_CheckExact(context)) {
        return PyErr_Format(PyExc_TypeError, "spawn: context must be a contextvars.Context, not %s",
                            Py_TYPE(context)->tp_name);
    }
    return pacpy_spawn(st, args[0], name, context);
}

PyDoc_STRVAR(current_task_doc,
             "current_task()\n--\n\n"
             "The task that is running on this thread, on whatever loop; None outside one. As\n"
             "asyncio.current_task, which raises without a loop.");

static PyObject *
current_task(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    struct pacpy_frame *frame = pacpy_frame_current(st);
    if (frame != NULL) {
        return Py_NewRef(frame->current_task == NULL ? Py_None : frame->current_task);
    }
    if (pacpy_need_asyncio(st) < 0) {
        return NULL;
    }
    PyObject *task = PyObject_CallNoArgs(st->asyncio_current_task);
    if (task == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return task;
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void)) f

static PyMethodDef functions[] = {
    {"spawn", KEYWORDS(spawn), METH_FASTCALL | METH_KEYWORDS, spawn_doc},
    {"current_task", current_task, METH_NOARGS, current_task_doc},
    {NULL},
};

int
pacpy_task_exec(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
