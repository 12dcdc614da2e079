/* task.c - the coroutine as a future of the core, and asyncio.Task's surface over it.
 *
 * A poll enters the task's context, makes it asyncio's current task, and sends None into the coroutine.
 * What comes out at the bottom says what the task waits for:
 *
 *   the private object   a leaf of ours has kept the waker: nothing to do
 *   None                 a bare yield: to the back of the queue
 *   a Task or asyncio future of ours     our listener goes into its list, no callback object
 *   something else of asyncio's          add_done_callback
 *   anything else        RuntimeError, thrown into the coroutine by the next poll
 *
 * While it waits for an asyncio future (`waiting_for`), a wake-up that does not come from there is not passed
 * on into the coroutine, as asyncio's leaves do not tolerate that.
 *
 * References. The executor's list of live tasks stands for one strong reference to the Python object, given up
 * in task_future_drop; the Python object holds one reference to the core's task until then. So a task that
 * nobody refers to runs to its end, and a waker that outlives it holds only the core's header.
 */
#include "task.h"

#include "callback_handle.h"
#include "future.h"

/* ---- current task -------------------------------------------------------------------------------- */

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

/* A task is tracked by the collector from the end of its first poll on, or from the end of the run in which
 * it was made: until then the running loop keeps it alive in any case, and most tasks never get there. */
void
pacpy_task_track(PyObject *op)
{
    if (!PyObject_GC_IsTracked(op)) {
        PyObject_GC_Track(op);
    }
}

/* ---- one poll ------------------------------------------------------------------------------------ */

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

/* Ask what the task waits for to be cancelled. 1, 0, or -1 with an exception. */
static int
cancel_waiting_for(struct pacpy_task *t, PyObject *message)
{
    struct pacpy_state *st = t->completion.st;
    PyObject *future = t->waiting_for;
    if (Py_IS_TYPE(future, st->Task_type)) {
        return pacpy_task_cancel(pacpy_task_of(future), message);
    }
    if (Py_IS_TYPE(future, st->AsyncioFuture_type)) {
        return pacpy_completion_cancel(pacpy_completion_of(future), message);
    }
    Py_INCREF(future);
    PyObject *cancel = PyObject_GetAttr(future, st->str_cancel);
    PyObject *kwargs = cancel == NULL ? NULL : PyDict_New();
    PyObject *done = NULL;
    if (kwargs != NULL &&
        PyDict_SetItem(kwargs, st->str_msg, message == NULL ? Py_None : message) == 0) {
        done = PyObject_VectorcallDict(cancel, NULL, 0, kwargs);
    }
    Py_XDECREF(cancel);
    Py_XDECREF(kwargs);
    Py_DECREF(future);
    int truth = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    return truth;
}

/* A cancel that came during the poll is passed on to what the poll has begun to wait for. */
static void
pass_cancel_on(struct pacpy_task *t)
{
    if (!t->must_cancel || t->waiting_for == NULL) {
        return;
    }
    int cancelled = cancel_waiting_for(t, t->completion.cancel_message);
    if (cancelled < 0) {
        throw_at_next_poll(t, NULL);
    }
    else if (cancelled) {
        t->must_cancel = false;
    }
}

static PyObject *
wakeup(PyObject *op, PyObject *future)
{
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->waiting_for == future) {
        pacpy_task_future_done(t);
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
    PyObject *add = PyObject_GetAttr(future, st->str_add_done_callback);
    PyObject *kwnames = PyTuple_Pack(1, st->str_context);
    PyObject *done = NULL;
    if (callback != NULL && add != NULL && kwnames != NULL &&
        PyObject_SetAttr(future, st->str__asyncio_future_blocking, Py_False) == 0) {
        PyObject *args[] = {callback, t->context};
        t->waiting_for = Py_NewRef(future);
        done = PyObject_Vectorcall(add, args, 1, kwnames);
        if (done == NULL) {
            Py_CLEAR(t->waiting_for);
        }
    }
    Py_XDECREF(callback);
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
        if (c->outcome == PACPY_PENDING) {
            t->waiting_for = future;
            pacpy_completion_listen(c, &t->listener);
            pass_cancel_on(t);
            return;
        }
        pac_task_wake(t->core);
    }
    Py_DECREF(future);
}

/* The coroutine has yielded `what` (reference taken). */
static void
wait_for(struct pacpy_task *t, PyObject *what)
{
    struct pacpy_state *st = t->completion.st;
    if (what == st->suspended) {
        Py_DECREF(what);
        return;
    }
    if (what == Py_None) {
        Py_DECREF(what);
        pac_task_wake(t->core);
        return;
    }
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

/* The coroutine has raised the exception that is set. */
static void
finish_with_exception(struct pacpy_task *t)
{
    struct pacpy_completion *c = &t->completion;
    PyObject *exc = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(exc, c->st->asyncio_CancelledError)) {
        /* The very exception is raised again where the task is awaited. */
        Py_XSETREF(c->cancelled_exception, exc);
        pacpy_completion_cancel(c, c->cancel_message);
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

/* The exception to throw at this poll, or NULL with none set: send. */
static PyObject *
exception_to_throw(struct pacpy_task *t)
{
    PyObject *exc = t->throw_next;
    t->throw_next = NULL;
    if (t->must_cancel &&
        (exc == NULL || !PyErr_GivenExceptionMatches(exc, t->completion.st->asyncio_CancelledError))) {
        t->must_cancel = false;
        Py_XDECREF(exc);
        exc = pacpy_completion_make_cancelled_error(&t->completion);
    }
    return exc;
}

/* Throw `exc` (reference taken) into the coroutine. */
static PySendResult
throw_into(struct pacpy_task *t, PyObject *exc, PyObject **result)
{
    *result = PyObject_CallMethodOneArg(t->coroutine, t->completion.st->str_throw, exc);
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

/* Advance the coroutine once, in its context and as the current task. */
static PySendResult
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
        return PYGEN_ERROR;
    }
#ifdef PACPY_HAVE_DICT_VERSION
    frame.version = pacpy_dict_version(st->asyncio_current_tasks);
#endif
    if (PyContext_Enter(t->context) < 0) {
        return PYGEN_ERROR;
    }
    pacpy_frame_top = &frame;
    PySendResult sent;
    PyObject *exc = NULL;
    if (PAC_UNLIKELY(t->must_cancel || t->throw_next != NULL)) {
        exc = exception_to_throw(t);
        sent = exc == NULL ? PYGEN_ERROR : throw_into(t, exc, result);
    }
    else {
        sent = PyIter_Send(t->coroutine, Py_None, result);
    }
    pacpy_frame_top = frame.outer;
    if (PAC_UNLIKELY(PyContext_Exit(t->context) < 0 && sent != PYGEN_ERROR)) {
        Py_CLEAR(*result);
        sent = PYGEN_ERROR;
    }
    pacpy_forget_await_result(st);
    return sent;
}

static enum pac_poll
task_future_poll(struct pac_future *future, struct pac_context *cx)
{
    struct pacpy_task *t = PAC_CONTAINER_OF(future, struct pacpy_task, future);
    LoopObject *loop = task_loop(t);
    loop->polls++;
    if (PAC_UNLIKELY(t->waiting_for != NULL)) {
        loop->spurious_polls++;
        return PAC_PENDING;
    }
    uint64_t began_ns = PAC_UNLIKELY(loop->debug) ? pac_clock_ns() : 0;
    PyObject *result;
    switch (step(t, cx, &result)) {
        case PYGEN_NEXT:
            if (PAC_LIKELY(result == t->completion.st->suspended)) {
                Py_DECREF(result);
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
    }
    if (PAC_UNLIKELY(began_ns != 0)) {
        pacpy_loop_note_duration(loop, began_ns, task_object(t));
    }
    if (t->completion.outcome == PACPY_PENDING) {
        pacpy_task_track(task_object(t));
        return PAC_PENDING;
    }
    if (Py_REFCNT(task_object(t)) == 1 && pacpy_loop_leave_task(loop) < 0) {
        /* It is about to go, and the destructors that run then are not this task any more. Otherwise
         * the next task, callback or wait replaces it as the current one. */
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
    if (Py_REFCNT(op) > 1) {
        pacpy_task_track(op);
    }
    Py_DECREF(op);
}

static const struct pac_future_vtable task_future_vtable = {
    .poll = task_future_poll,
    .drop = task_future_drop,
};

void
pacpy_task_future_done(struct pacpy_task *t)
{
    Py_CLEAR(t->waiting_for);
    if (t->core != NULL) {
        pac_task_wake(t->core);
    }
}

bool
pacpy_task_cancel(struct pacpy_task *t, PyObject *message)
{
    struct pacpy_completion *c = &t->completion;
    c->log_traceback = false;
    if (c->outcome != PACPY_PENDING) {
        return false;
    }
    t->cancel_requests++;
    if (t->waiting_for != NULL) {
        int cancelled = cancel_waiting_for(t, message);
        if (cancelled < 0) {
            PyErr_WriteUnraisable(t->waiting_for);
        }
        if (cancelled > 0) {
            return true;
        }
    }
    t->must_cancel = true;
    Py_XSETREF(c->cancel_message, Py_XNewRef(message));
    if (t->waiting_for == NULL && t->core != NULL) {
        /* Suspended in a leaf of ours, or queued: the next poll throws. */
        pac_task_wake(t->core);
    }
    return true;
}

struct pac_task *
pacpy_task_core(PyObject *op)
{
    return pacpy_task_of(op)->core;
}

PyObject *
pacpy_task_object_of_core(struct pac_task *core)
{
    if (core->future == NULL || core->future->vtable != &task_future_vtable) {
        return NULL;
    }
    return task_object(PAC_CONTAINER_OF(core->future, struct pacpy_task, future));
}

/* ---- making one ---------------------------------------------------------------------------------- */

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

static int
check_coroutine(struct pacpy_state *st, PyObject *coroutine)
{
    if (PyCoro_CheckExact(coroutine)) {
        return 0;
    }
    PyObject *is = PyObject_CallMethod(st->asyncio_support, "iscoroutine", "O", coroutine);
    int truth = is == NULL ? -1 : PyObject_IsTrue(is);
    Py_XDECREF(is);
    if (truth == 0) {
        PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coroutine);
    }
    return truth == 1 ? 0 : -1;
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
    t->throw_next = NULL;
    t->listener.node.next = t->listener.node.prev = NULL;
    t->listener.kind = PACPY_LISTEN_TASK;
    t->id = ++st->next_task_id;
    t->cancel_requests = 0;
    t->must_cancel = false;
    t->log_destroy_pending = true;
    t->context = context == NULL || context == Py_None ? PyContext_CopyCurrent()
                                                       : Py_NewRef(context);
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
raise_spawn_status(enum pac_status status)
{
    if (status == PAC_NO_MEMORY) {
        PyErr_NoMemory();
    }
    else {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
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
        core = idle ? pac_executor_spawn_idle(ex, &t->future, &status)
                    : pac_executor_spawn(ex, &t->future, &status);
    }
    if (core == NULL) {
        t->log_destroy_pending = false;
        raise_spawn_status(status);
        return -1;
    }
    t->core = core;
    return 0;
}

/* Run the first step at once, within whatever is running. */
static void
task_start_eagerly(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    LoopObject *loop = task_loop(t);
    PyObject *outer = loop->current_entry;
    struct pac_task *core = pac_task_ref(t->core);
    struct pac_waker waker = pac_task_waker(core);
    struct pac_context cx = {&waker};
    if (task_future_poll(&t->future, &cx) == PAC_READY) {
        pac_task_shutdown(core);
    }
    pac_task_unref(core);
    if (pacpy_loop_set_current(loop, outer) < 0) {
        PyErr_WriteUnraisable(op);
    }
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

/* The loop to make a task on: `loop`, or the running one. Borrowed; NULL and an exception. */
static LoopObject *
loop_argument(struct pacpy_state *st, PyObject *loop)
{
    if (loop == NULL || loop == Py_None) {
        if (pacpy_running_loop == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        }
        return pacpy_running_loop;
    }
    if (!PyObject_TypeCheck(loop, st->LoopBase_type)) {
        PyErr_Format(PyExc_TypeError, "Task belongs to a pyasync_c loop, not %s",
                     Py_TYPE(loop)->tp_name);
        return NULL;
    }
    return (LoopObject *)loop;
}

static int
Task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    PyObject *coroutine, *loop_arg = NULL, *name = NULL, *context = NULL;
    int eager = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOp:Task", names, &coroutine, &loop_arg,
                                     &name, &context, &eager)) {
        return -1;
    }
    struct pacpy_state *st = pacpy_state_of_type(Py_TYPE(op));
    LoopObject *loop = st == NULL ? NULL : loop_argument(st, loop_arg);
    if (loop == NULL || check_coroutine(st, coroutine) < 0) {
        return -1;
    }
    if (pacpy_completion_of(op)->st != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Task.__init__ called twice");
        return -1;
    }
    if (eager && pacpy_running_loop != loop) {
        PyErr_SetString(PyExc_RuntimeError, "eager_start needs the task's loop to be running");
        return -1;
    }
    if (task_init(op, loop, coroutine, name, context) < 0 || task_queue(op, eager) < 0) {
        return -1;
    }
    if (eager) {
        task_start_eagerly(op);
    }
    return 0;
}

/* ---- slots --------------------------------------------------------------------------------------- */

static int
Task_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pacpy_task *t = pacpy_task_of(op);
    Py_VISIT(Py_TYPE(op));
    if (t->completion.st != NULL) {
        Py_VISIT(t->coroutine);
        Py_VISIT(t->context);
        Py_VISIT(t->name);
        Py_VISIT(t->waiting_for);
        Py_VISIT(t->throw_next);
    }
    return pacpy_completion_traverse(&t->completion, visit, arg);
}

static int
Task_clear(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->completion.st != NULL) {
        struct pacpy_state *st = t->completion.st;
        pac_list_remove(&t->listener.node);
        Py_CLEAR(t->waiting_for);
        Py_CLEAR(t->throw_next);
        Py_CLEAR(t->coroutine);
        Py_CLEAR(t->context);
        Py_CLEAR(t->name);
        pacpy_completion_clear(&t->completion);
        return pacpy_asyncio_task_type(st)->tp_clear(op);
    }
    return 0;
}

static void
Task_finalize(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    struct pacpy_completion *c = &t->completion;
    if (c->st == NULL || c->loop == NULL) {
        return;
    }
    if (c->outcome == PACPY_PENDING && t->log_destroy_pending) {
        PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
        PyObject *done = PyObject_CallMethod(c->st->asyncio_support, "report_destroyed", "OO",
                                             c->loop, op);
        if (done == NULL) {
            PyErr_WriteUnraisable(op);
        }
        Py_XDECREF(done);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    pacpy_completion_report_unseen(c, "Task");
}

static void
Task_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    struct pacpy_task *t = pacpy_task_of(op);
    struct pacpy_state *st = t->completion.st;
    if ((t->completion.log_traceback || t->completion.outcome == PACPY_PENDING) &&
        PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    Task_clear(op);
    if (st == NULL) {
        type->tp_free(op);
        Py_DECREF(type);
        return;
    }
    t->completion.st = NULL;
    pacpy_freelist_free(&st->task_free, st->Task_type, op);
}

static PyObject *
Task_repr(PyObject *op)
{
    struct pacpy_state *st = pacpy_completion_of(op)->st;
    if (st == NULL) {
        return PyUnicode_FromFormat("<%s not initialized>", Py_TYPE(op)->tp_name);
    }
    return PyObject_CallMethod(st->asyncio_support, "task_repr", "O", op);
}

/* ---- asyncio.Task's methods ---------------------------------------------------------------------- */

static PyObject *
Task_refuse_set(PyObject *op, PyObject *value)
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result or set_exception");
    return NULL;
}

static PyObject *
Task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->name == NULL) {
        t->name = PyUnicode_FromFormat("Task-%llu", (unsigned long long)t->id);
    }
    return Py_XNewRef(t->name);
}

static PyObject *
Task_set_name(PyObject *op, PyObject *name)
{
    PyObject *text = PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
    if (text == NULL) {
        return NULL;
    }
    Py_XSETREF(pacpy_task_of(op)->name, text);
    Py_RETURN_NONE;
}

static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value == NULL ? Py_None : value);
}

static PyObject *
Task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(pacpy_task_of(op)->coroutine);
}

static PyObject *
Task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(pacpy_task_of(op)->context);
}

static PyObject *
Task_cancelling(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(pacpy_task_of(op)->cancel_requests);
}

static PyObject *
Task_uncancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->cancel_requests > 0) {
        t->cancel_requests--;
#if PY_VERSION_HEX >= 0x030D0000
        if (t->cancel_requests == 0) {
            t->must_cancel = false;
        }
#endif
    }
    return PyLong_FromLong(t->cancel_requests);
}

/* get_stack(*, limit=None) and print_stack(*, limit=None, file=None). */
static PyObject *
stack_method(PyObject *op, const char *method, PyObject *args, PyObject *kwargs, char **names,
             const char *format)
{
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &limit, &file)) {
        return NULL;
    }
    return PyObject_CallMethod(pacpy_completion_of(op)->st->asyncio_support, method, "OOO", op,
                               limit, file);
}

static PyObject *
Task_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    return stack_method(op, "task_get_stack", args, kwargs, names, "|$O:get_stack");
}

static PyObject *
Task_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    return stack_method(op, "task_print_stack", args, kwargs, names, "|$OO:print_stack");
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void)) f

static PyMethodDef Task_methods[] = {
    {"set_result", Task_refuse_set, METH_O, "Not for tasks: RuntimeError."},
    {"set_exception", Task_refuse_set, METH_O, "Not for tasks: RuntimeError."},
    {"get_name", Task_get_name, METH_NOARGS, "The task's name."},
    {"set_name", Task_set_name, METH_O, "Name the task."},
    {"get_coro", Task_get_coro, METH_NOARGS, "The coroutine that it runs."},
    {"get_context", Task_get_context, METH_NOARGS, "Its contextvars context."},
    {"cancelling", Task_cancelling, METH_NOARGS, "How many cancel requests stand."},
    {"uncancel", Task_uncancel, METH_NOARGS, "Take one cancel request back; how many are left."},
    {"get_stack", KEYWORDS(Task_get_stack), METH_VARARGS | METH_KEYWORDS,
     "The frames at which it is suspended, or of its exception."},
    {"print_stack", KEYWORDS(Task_print_stack), METH_VARARGS | METH_KEYWORDS,
     "Print that stack, to stderr or `file`."},
    {NULL},
};

static PyObject *
get_id(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(pacpy_task_of(op)->id);
}

static PyObject *
get_must_cancel(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pacpy_task_of(op)->must_cancel);
}

static PyObject *
get_waiting_for(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none(pacpy_task_of(op)->waiting_for);
}

static PyObject *
get_coroutine(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none(pacpy_task_of(op)->coroutine);
}

static PyObject *
get_log_destroy_pending(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(pacpy_task_of(op)->log_destroy_pending);
}

static int
set_log_destroy_pending(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    pacpy_task_of(op)->log_destroy_pending = truth;
    return 0;
}

static PyGetSetDef Task_getset[] = {
    {"id", get_id, NULL, "A number that no other task of this interpreter has."},
    {"_must_cancel", get_must_cancel, NULL, NULL},
    {"_fut_waiter", get_waiting_for, NULL, NULL},
    {"_coro", get_coroutine, NULL, NULL},
    {"_log_destroy_pending", get_log_destroy_pending, set_log_destroy_pending, NULL},
    {NULL},
};

PyDoc_STRVAR(Task_doc,
"Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\n"
"A coroutine that the runtime runs: an asyncio.Task, made by spawn() or loop.create_task().\n\n"
"Runs to its end even if nobody refers to it. cancel() asks for asyncio.CancelledError to be thrown at\n"
"the await; awaiting the task gives its result. Belongs to the thread of its loop.");

/* Task has the methods of both tables: ours last, so that they win. */
enum { METHODS_MAX = 48 };
static PyMethodDef all_methods[METHODS_MAX];
static PyGetSetDef all_getset[METHODS_MAX];

static PyType_Slot Task_slots[] = {
    {Py_tp_doc, (void *)Task_doc},
    {Py_tp_init, Task_init},
    {Py_tp_traverse, Task_traverse},
    {Py_tp_clear, Task_clear},
    {Py_tp_finalize, Task_finalize},
    {Py_tp_dealloc, Task_dealloc},
    {Py_tp_repr, Task_repr},
    {Py_tp_iter, pacpy_future_iter},
    {Py_am_await, pacpy_future_iter},
    {Py_tp_methods, all_methods},
    {Py_tp_getset, all_getset},
    {0, NULL},
};

static PyType_Spec Task_spec = {
    .name = "pyasync_c.Task",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = Task_slots,
};

PyTypeObject *
pacpy_asyncio_task_type(struct pacpy_state *st)
{
    return st->Task_type->tp_base;
}

/* Python's type wants one table; ours are two, without doubles: what Task refuses is left out of the
 * shared one. */
static void
merge_tables(void)
{
    size_t n = 0;
    for (PyMethodDef *m = pacpy_completion_methods; m->ml_name != NULL; m++) {
        if (strcmp(m->ml_name, "set_result") != 0 && strcmp(m->ml_name, "set_exception") != 0) {
            all_methods[n++] = *m;
        }
    }
    for (PyMethodDef *m = Task_methods; m->ml_name != NULL; m++) {
        all_methods[n++] = *m;
    }
    n = 0;
    for (PyGetSetDef *g = pacpy_completion_getset; g->name != NULL; g++) {
        all_getset[n++] = *g;
    }
    for (PyGetSetDef *g = Task_getset; g->name != NULL; g++) {
        all_getset[n++] = *g;
    }
}

#if PY_VERSION_HEX < 0x030E0000
/* Learn what the state of a coroutine that never ran is. */
static int
learn_frame_created(struct pacpy_state *st)
{
    PyObject *fresh = PyObject_CallMethod(st->asyncio_support, "fresh_coroutine", NULL);
    if (fresh == NULL) {
        return -1;
    }
    frame_created = ((PyCoroObject *)fresh)->cr_frame_state;
    PyObject *closed = PyObject_CallMethodNoArgs(fresh, st->str_close);
    Py_DECREF(fresh);
    Py_XDECREF(closed);
    return closed == NULL ? -1 : 0;
}
#endif

int
pacpy_task_make_types(struct pacpy_state *st)
{
    merge_tables();
#if PY_VERSION_HEX < 0x030E0000
    if (learn_frame_created(st) < 0) {
        return -1;
    }
#endif
    PyObject *tasks = PyImport_ImportModule("asyncio.tasks");
    PyObject *base = tasks == NULL ? NULL : PyObject_GetAttrString(tasks, "Task");
    Py_XDECREF(tasks);
    if (base == NULL) {
        return -1;
    }
    Task_spec.basicsize = (int)(pacpy_completion_offset + (Py_ssize_t)sizeof(struct pacpy_task));
    int made = pacpy_make_type(st->module, &Task_spec, (PyTypeObject *)base, &st->Task_type,
                               "Task");
    Py_DECREF(base);
    return made;
}

/* ---- module functions ---------------------------------------------------------------------------- */

/* spawn on a loop that is not ours: loop.create_task(coroutine, name=, context=). */
static PyObject *
spawn_on_foreign_loop(struct pacpy_state *st, PyObject *coroutine, PyObject *name, PyObject *context)
{
    return PyObject_CallMethod(st->asyncio_support, "spawn_on_running_loop", "OOO", coroutine,
                               name == NULL ? Py_None : name, context == NULL ? Py_None : context);
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
    return PyObject_CallMethod(st->asyncio_support, "coroutine_of", "O", aw);
}

/* Close a coroutine that will not run, keeping the exception that is set. */
static void
close_refused(struct pacpy_state *st, PyObject *coroutine)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *closed = PyObject_CallMethodNoArgs(coroutine, st->str_close);
    if (closed == NULL) {
        PyErr_WriteUnraisable(coroutine);
    }
    Py_XDECREF(closed);
    PyErr_SetRaisedException(error);
}

PyDoc_STRVAR(spawn_doc,
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
    if (st->Task_type == NULL && pacpy_need_asyncio(st) < 0) {
        return NULL;
    }
    PyObject *coroutine = coroutine_for_spawn(st, args[0]);
    if (coroutine == NULL) {
        return NULL;
    }
    LoopObject *loop = pacpy_running_loop;
    PyObject *task;
    if (loop == NULL) {
        task = spawn_on_foreign_loop(st, coroutine, name, context);
    }
    else if (loop->task_factory == NULL || loop->task_factory == Py_None) {
        task = pacpy_task_spawn(loop, coroutine, name, context);
    }
    else {
        task = spawn_on_foreign_loop(st, coroutine, name, context);
    }
    if (task == NULL) {
        close_refused(st, coroutine);
    }
    Py_DECREF(coroutine);
    return task;
}

PyDoc_STRVAR(current_task_doc,
"current_task()\n--\n\n"
"The task that is running on this thread, on whatever loop; None outside one.");

static PyObject *
current_task(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_state *st = pacpy_state_of(module);
    struct pacpy_frame *frame = pacpy_frame_current(st);
    if (frame != NULL) {
        return or_none(frame->current_task);
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
