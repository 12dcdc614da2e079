/* eventloop.c - LoopBase: asyncio's scheduling methods, straight onto the executor. */
#include "eventloop.h"

#include "args.h"
#include "bridge.h"
#include "callback_handle.h"
#include "compatible.h"
#include "datagram_transport.h"
#include "listener.h"
#include "loop_attributes.h"
#include "loop_clock.h"
#include "loop_sources.h"
#include "pipe_transport.h"
#include "receive_bytes.h"
#include "socket_operation.h"
#include "stream_reader.h"
#include "stream_transport.h"
#include "task.h"
#include "timeout.h"

#include "../core/budget.h"

#include <unistd.h>

PAC_THREAD_LOCAL LoopObject *pacpy_running_loop;

/* ---- parking: the GIL is given away, and signals are looked at ------------------------------ */

static void
before_wait(void *data)
{
    LoopObject *loop = data;
    if (pacpy_loop_leave_task(loop) < 0) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    pacpy_freelists_trim(loop->st, loop->executor->stretch_ns);
    loop->waiting = PyEval_SaveThread();
}

static bool
after_wait(void *data, bool interrupted)
{
    LoopObject *loop = data;
    PyEval_RestoreThread(loop->waiting);
    loop->waiting = NULL;
    (void)interrupted; /* a signal may have been taken by another thread: look in any case */
    if (PyErr_CheckSignals() < 0) {
        pacpy_loop_raise(loop, PyErr_GetRaisedException());
        return false;
    }
    return true;
}

/* ---- the current task ----------------------------------------------------------------------- */

int
pacpy_loop_set_current(LoopObject *loop, PyObject *task)
{
    struct pacpy_state *st = loop->st;
#if PY_VERSION_HEX < 0x030E0000
    PyObject *table = st->asyncio_current_tasks;
    if (task != NULL) {
        if (PyDict_SetItem(table, (PyObject *)loop, task) < 0) {
            return -1;
        }
    }
    else if (PyDict_DelItem(table, (PyObject *)loop) < 0) {
        PyErr_Clear(); /* somebody has removed it already */
    }
#else
    PyObject *before = PyObject_CallFunctionObjArgs(st->asyncio_swap_current_task, loop,
                                                    task == NULL ? Py_None : task, NULL);
    if (before == NULL) {
        return -1;
    }
    Py_DECREF(before);
#endif
    loop->current_entry = task;
    return 0;
}

/* ---- errors --------------------------------------------------------------------------------- */

void
pacpy_loop_raise(LoopObject *loop, PyObject *exc)
{
    if (loop->raised == NULL) {
        loop->raised = exc;
    }
    else {
        Py_DECREF(exc);
    }
    if (loop->executor != NULL) {
        pac_executor_interrupt(loop->executor);
    }
}

void
pacpy_loop_raise_or_print(LoopObject *loop, PyObject *source)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) ||
        PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        PyErr_ExceptionMatches(PyExc_MemoryError)) {
        pacpy_loop_raise(loop, PyErr_GetRaisedException());
        return;
    }
    PyErr_WriteUnraisable(source);
}

void
pacpy_loop_note_duration(LoopObject *loop, uint64_t began_ns, PyObject *what)
{
    double seconds = (double)(pac_clock_ns() - began_ns) / 1e9;
    PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    PyObject *done =
        PyObject_CallMethod(loop->st->asyncio_support, "note_duration", "OOd", loop, what, seconds);
    if (done == NULL) {
        PyErr_WriteUnraisable(what);
    }
    Py_XDECREF(done);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

void
pacpy_loop_refuse_closed(LoopObject *loop)
{
    if (loop->pid != getpid()) {
        PyErr_Format(PyExc_RuntimeError, "this event loop belongs to process %d", (int)loop->pid);
    }
    else {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    }
}

int
pacpy_loop_check_open(LoopObject *loop)
{
    if (PAC_UNLIKELY(loop->executor == NULL || pac_executor_is_closed(loop->executor))) {
        pacpy_loop_refuse_closed(loop);
        return -1;
    }
    return 0;
}

/* ---- call_soon and its kin ------------------------------------------------------------------ */

/* The `context` keyword, the only one there is: borrowed, NULL if absent. -1 and an exception. */
static int
context_keyword(LoopObject *loop, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                PyObject **context)
{
    *context = NULL;
    if (PAC_LIKELY(kwnames == NULL)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key != loop->st->str_context && PyUnicode_Compare(key, loop->st->str_context) != 0) {
            PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", key);
            return -1;
        }
        *context = args[nargs + i];
    }
    if (*context != NULL && *context != Py_None && !PyContext_CheckExact(*context)) {
        PyErr_Format(PyExc_TypeError, "context must be a contextvars.Context, not %s",
                     Py_TYPE(*context)->tp_name);
        return -1;
    }
    return 0;
}

/* What every one of them checks, the loop not being diverted. `thread`: the loop's own thread is
 * wanted, which debug mode checks. */
static int
check_callback(LoopObject *loop, PyObject *callback, const char *method, bool thread)
{
    if (PAC_UNLIKELY(pac_executor_is_closed(loop->executor))) {
        pacpy_loop_refuse_closed(loop);
        return -1;
    }
    if (PAC_UNLIKELY(loop->debug)) {
        PyObject *ok = PyObject_CallMethod(loop->st->asyncio_support, "check_callback", "OOsi",
                                           loop, callback, method, (int)thread);
        Py_XDECREF(ok);
        return ok == NULL ? -1 : 0;
    }
    if (PAC_UNLIKELY(!PyCallable_Check(callback))) {
        PyErr_Format(PyExc_TypeError, "a callable object was expected by %s(), got %R", method,
                     callback);
        return -1;
    }
    return 0;
}

PyObject *
pacpy_loop_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *context)
{
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_compatible_call_soon(loop, callback, args, nargs, context);
    }
    return pacpy_handle_soon(loop, callback, args, nargs, context);
}

static PyObject *
soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *method,
     bool thread)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *context;
    if (nargs < 1) {
        return PyErr_Format(PyExc_TypeError, "%s() needs a callback", method);
    }
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, method, args, nargs, kwnames);
    }
    if (check_callback(loop, args[0], method, thread) < 0 ||
        context_keyword(loop, args, nargs, kwnames, &context) < 0) {
        return NULL;
    }
    return pacpy_handle_soon(loop, args[0], args + 1, nargs - 1, context);
}

static PyObject *
Loop_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return soon(op, args, nargs, kwnames, "call_soon", true);
}

static PyObject *
Loop_call_soon_threadsafe(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return soon(op, args, nargs, kwnames, "call_soon_threadsafe", false);
}

static PyObject *
Loop_time(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pac_executor *ex = ((LoopObject *)op)->executor;
    if (PAC_UNLIKELY(ex != NULL && ex->is_virtual)) {
        return PyFloat_FromDouble(pacpy_seconds_from_ns(pac_executor_now_ns(ex)));
    }
    /* As time.monotonic() computes it, so that the two never differ by a rounding. */
    return PyFloat_FromDouble((double)pac_clock_ns() * 1e-9);
}

/* call_at(when, callback, *args) and call_later(delay, ...). */
static PyObject *
Loop_call_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *context;
    double when;
    if (nargs < 2 || args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, nargs < 2 ? "call_at() needs a time and a callback"
                                                   : "when cannot be None");
        return NULL;
    }
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, "call_at", args, nargs, kwnames);
    }
    if (check_callback(loop, args[1], "call_at", true) < 0 ||
        context_keyword(loop, args, nargs, kwnames, &context) < 0 ||
        pacpy_double_from_seconds(args[0], "call_at: when", &when) < 0) {
        return NULL;
    }
    uint64_t deadline_ns = pacpy_ns_of_time(loop->executor, when);
    return pacpy_handle_at(loop, deadline_ns, args[0], args[1], args + 2, nargs - 2, context);
}

static PyObject *
Loop_call_later(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *context;
    uint64_t delay_ns;
    if (nargs < 2 || args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, nargs < 2 ? "call_later() needs a delay and a callback"
                                                   : "delay must not be None");
        return NULL;
    }
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, "call_later", args, nargs, kwnames);
    }
    if (check_callback(loop, args[1], "call_later", true) < 0 ||
        context_keyword(loop, args, nargs, kwnames, &context) < 0 ||
        pacpy_ns_from_seconds(args[0], "call_later: delay", &delay_ns) < 0) {
        return NULL;
    }
    uint64_t deadline_ns = pac_ns_add(pac_executor_now_ns(loop->executor), delay_ns);
    return pacpy_handle_at(loop, deadline_ns, NULL, args[1], args + 2, nargs - 2, context);
}

/* ---- tasks and futures ---------------------------------------------------------------------- */

static PyObject *
Loop_create_future(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (PAC_UNLIKELY(((LoopObject *)op)->compatible)) {
        return pacpy_diverted_call((LoopObject *)op, "create_future", NULL, 0, NULL);
    }
    return pacpy_asyncio_future_new((LoopObject *)op);
}

/* What the stdlib's create_task does with a factory, or a keyword that we do not know. */
static PyObject *
create_task_in_python(LoopObject *loop, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return pacpy_call_for_loop(loop, loop->st->asyncio_support, "create_task", args, nargs,
                               kwnames);
}

static PyObject *
Loop_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *loop = (LoopObject *)op;
    struct pacpy_state *st = loop->st;
    PyObject *name = NULL, *context = NULL;
    bool plain = nargs == 1 && PyCoro_CheckExact(args[0]) &&
                 (loop->task_factory == NULL || loop->task_factory == Py_None);
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, "create_task", args, nargs, kwnames);
    }
    for (Py_ssize_t i = 0; plain && kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_Compare(key, st->str_name) == 0) {
            name = args[nargs + i];
        }
        else if (PyUnicode_Compare(key, st->str_context) == 0) {
            context = args[nargs + i];
        }
        else {
            plain = false;
        }
    }
    if (!plain) {
        return create_task_in_python(loop, args, nargs, kwnames);
    }
    return pacpy_task_spawn(loop, args[0], name, context);
}

static PyObject *
Loop_live_tasks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *tasks = PyList_New(0);
    if (tasks == NULL || loop->executor == NULL) {
        return tasks;
    }
    struct pac_list *owned = &loop->executor->owned;
    for (struct pac_list_node *n = owned->head.next; n != &owned->head; n = n->next) {
        PyObject *task = pacpy_task_object_of_core(PAC_LIST_ENTRY(n, struct pac_task, owned));
        if (task != NULL && PyList_Append(tasks, task) < 0) {
            Py_DECREF(tasks);
            return NULL;
        }
    }
    return tasks;
}

/* ---- running -------------------------------------------------------------------------------- */

/* What pac_executor_run says, as an exception; the one on its way out comes first. */
static PyObject *
run_result(LoopObject *loop, enum pac_status status)
{
    if (loop->raised != NULL) {
        PyObject *exc = loop->raised;
        loop->raised = NULL;
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    switch (status) {
        case PAC_OK:
        case PAC_INTERRUPTED:
            Py_RETURN_NONE;
        case PAC_BUSY:
            PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
            return NULL;
        case PAC_CLOSED:
            pacpy_loop_refuse_closed(loop);
            return NULL;
        case PAC_NO_MEMORY:
            return PyErr_NoMemory();
        case PAC_DEADLOCK: /* what stuck() has raised came first */
        case PAC_NO_EXECUTOR:
        case PAC_OS_ERROR:
        case PAC_FULL:
        case PAC_EMPTY:
        case PAC_LAGGED:
        case PAC_TIMED_OUT:
        case PAC_OVERFLOW:
        case PAC_WOULD_BLOCK:
            break; /* the last six are what channels and the like say, never an executor */
    }
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The run is over: the collector has to know of every task that is left. */
static void
track_tasks(LoopObject *loop)
{
    struct pac_list *owned = &loop->executor->owned;
    for (struct pac_list_node *n = owned->head.next; n != &owned->head; n = n->next) {
        PyObject *task = pacpy_task_object_of_core(PAC_LIST_ENTRY(n, struct pac_task, owned));
        if (task != NULL) {
            pacpy_task_track(task);
        }
    }
}

static PyObject *
Loop_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    if (loop->pid != getpid()) {
        pacpy_loop_refuse_closed(loop);
        return NULL;
    }
    if (loop->executor->running) {
        return run_result(loop, PAC_BUSY);
    }
    LoopObject *outer = pacpy_running_loop;
    struct pacpy_frame *outer_frame = pacpy_frame_top;
    pacpy_running_loop = loop;
    pacpy_frame_top = NULL;
    loop->thread_id = PyThread_get_thread_ident();
    enum pac_status status = pac_executor_run(loop->executor);
    loop->thread_id = 0;
    pacpy_frame_top = outer_frame;
    pacpy_running_loop = outer;
    track_tasks(loop);
    pacpy_handle_track_all(loop);
    if (PAC_UNLIKELY(loop->compatible)) {
        /* Became that meanwhile: others have written to that table too. */
        if (pacpy_loop_set_current(loop, NULL) < 0) {
            return NULL;
        }
    }
    else if (pacpy_loop_leave_task(loop) < 0) {
        return NULL;
    }
    return run_result(loop, status);
}

static PyObject *
Loop_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (loop->compatible) {
        loop->stopping = true;
    }
    else if (loop->executor != NULL) {
        pac_executor_stop(loop->executor);
    }
    Py_RETURN_NONE;
}

static void
let_go_of_held(LoopObject *loop)
{
    struct pac_list_node *node;
    while ((node = pac_list_first(&loop->held)) != NULL) {
        pac_list_remove(node);
        Py_DECREF(PAC_LIST_ENTRY(node, struct pacpy_held, node)->object);
    }
}

static void
close_executor(LoopObject *loop)
{
    struct pac_executor *ex = loop->executor;
    loop->diverted = true;
    if (ex == NULL) {
        return;
    }
    if (loop->bridge != NULL) {
        pacpy_bridge_let_go(loop->bridge);
    }
    pac_executor_close(ex);
    loop->executor = NULL;
    pac_executor_free(ex);
    let_go_of_held(loop);
}

static PyObject *
Loop_close_core(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    close_executor(loop);
    pacpy_sources_free(loop);
    Py_RETURN_NONE;
}

/* In a fork's child: the loop is the parent's. If it was running on the thread that forked, that
 * run ends. */
static PyObject *
Loop_disown(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (loop->executor == NULL) {
        Py_RETURN_NONE;
    }
    pac_executor_disown(loop->executor);
    if (loop->bridge != NULL) {
        pacpy_bridge_disown(loop->bridge);
    }
    if (loop->thread_id == PyThread_get_thread_ident()) {
        pacpy_loop_refuse_closed(loop);
        pacpy_loop_raise(loop, PyErr_GetRaisedException());
    }
    Py_RETURN_NONE;
}

static PyObject *
Loop_add_callback(PyObject *op, PyObject *handle)
{
    LoopObject *loop = (LoopObject *)op;
    if (PAC_UNLIKELY(loop->diverted)) {
        return pacpy_diverted_call(loop, "_add_callback", &handle, 1, NULL);
    }
    PyObject *cancelled = PyObject_GetAttrString(handle, "_cancelled");
    if (cancelled == NULL) {
        return NULL;
    }
    Py_DECREF(cancelled);
    struct pacpy_adopted **place = loop->reporting;
    loop->reporting = NULL;
    if (cancelled != Py_True && pacpy_handle_adopt(loop, handle, place) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Loop_timer_handle_cancelled(PyObject *op, PyObject *handle)
{
    if (((LoopObject *)op)->compatible) {
        return pacpy_diverted_call((LoopObject *)op, "_timer_handle_cancelled", &handle, 1, NULL);
    }
    Py_RETURN_NONE; /* cancelling has disarmed it */
}

static PyObject *
Loop_adopt_stream(PyObject *op, PyObject *protocol)
{
    return PyBool_FromLong(pacpy_adopt_stream(((LoopObject *)op)->st, protocol));
}

/* ---- the type ------------------------------------------------------------------------------- */

static PyObject *
Loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    if (st == NULL || pacpy_need_asyncio(st) < 0) {
        return NULL;
    }
    PyObject *op = type->tp_alloc(type, 0);
    if (op == NULL) {
        return NULL;
    }
    LoopObject *loop = (LoopObject *)op;
    loop->st = st;
    loop->pid = getpid();
    pac_list_init(&loop->held);
    loop->first_task_id = st->next_task_id;
    struct pac_park_hooks hooks = {before_wait, after_wait, loop};
    enum pac_status status;
    loop->executor = pac_executor_new(&hooks, &status);
    if (loop->executor == NULL) {
        if (status == PAC_NO_MEMORY) {
            PyErr_NoMemory();
        }
        else {
            PyErr_SetFromErrno(PyExc_OSError);
        }
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

static int
Loop_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return 0;
}

static int
visit_executor(struct pac_executor *ex, visitproc visit, void *arg)
{
    int stop = 0;
    for (struct pac_list_node *n = ex->owned.head.next; n != &ex->owned.head; n = n->next) {
        struct pac_task *task = PAC_LIST_ENTRY(n, struct pac_task, owned);
        Py_VISIT(pacpy_task_object_of_core(task));
        stop = pacpy_bridge_visit_wait(task, visit, arg);
        if (stop != 0) {
            return stop;
        }
    }
    struct pac_runnable *r = ex->scheduler.ready.first;
    while (r != NULL && stop == 0) {
        stop = pacpy_handle_visit_runnable(r, visit, arg);
        r = r->next;
    }
    struct pac_wheel *w = &ex->wheel;
    for (unsigned i = 0; i < PAC_WHEEL_LEVELS * PAC_WHEEL_SLOTS && stop == 0; i++) {
        struct pac_list *slot = &w->slots[i / PAC_WHEEL_SLOTS][i % PAC_WHEEL_SLOTS];
        for (struct pac_list_node *n = slot->head.next; n != &slot->head && stop == 0;
             n = n->next) {
            struct pac_timer *timer = PAC_LIST_ENTRY(n, struct pac_timer, node);
            stop = pacpy_handle_visit_timer(timer, visit, arg);
            stop = stop != 0 ? stop : pacpy_timeout_visit_timer(timer, visit, arg);
        }
    }
    return stop;
}

static int
Loop_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopObject *loop = (LoopObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(loop->raised);
    Py_VISIT(loop->task_factory);
    Py_VISIT(loop->bridge);
    int stop = pacpy_sources_visit(loop, visit, arg);
    for (struct pac_list_node *n = loop->held.head.next; n != &loop->held.head && stop == 0;
         n = n->next) {
        stop = visit(PAC_LIST_ENTRY(n, struct pacpy_held, node)->object, arg);
    }
    if (stop != 0) {
        return stop;
    }
    return loop->executor == NULL ? 0 : visit_executor(loop->executor, visit, arg);
}

static int
Loop_clear(PyObject *op)
{
    LoopObject *loop = (LoopObject *)op;
    close_executor(loop);
    pacpy_sources_free(loop);
    Py_CLEAR(loop->raised);
    Py_CLEAR(loop->task_factory);
    Py_CLEAR(loop->bridge);
    return 0;
}

static void
Loop_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Loop_clear(op);
    Py_XDECREF(((LoopObject *)op)->read_buffer);
    pacpy_receive_forget((LoopObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

#define FASTCALL(f) (PyCFunction)(void (*)(void)) f

static PyMethodDef Loop_methods[] = {
    {"call_soon", FASTCALL(Loop_call_soon), METH_FASTCALL | METH_KEYWORDS,
     "call_soon(callback, *args, context=None): call it at the next pass; returns a Handle."},
    {"call_soon_threadsafe", FASTCALL(Loop_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
     "As call_soon, from any thread."},
    {"call_later", FASTCALL(Loop_call_later), METH_FASTCALL | METH_KEYWORDS,
     "call_later(delay, callback, *args, context=None): call it in `delay` seconds."},
    {"call_at", FASTCALL(Loop_call_at), METH_FASTCALL | METH_KEYWORDS,
     "call_at(when, callback, *args, context=None): call it when time() is `when`."},
    {"time", Loop_time, METH_NOARGS,
     "The loop's clock, in seconds: time.monotonic(), or the virtual one."},
    {"create_future", Loop_create_future, METH_NOARGS, "A new asyncio future of this loop."},
    {"create_task", FASTCALL(Loop_create_task), METH_FASTCALL | METH_KEYWORDS,
     "create_task(coro, *, name=None, context=None): run a coroutine as a Task."},
    {"get_debug", pacpy_loop_get_debug, METH_NOARGS, "Whether debug mode is on."},
    {"stop", Loop_stop, METH_NOARGS, "Leave run_forever after the present pass."},
    {"_use_virtual_clock", pacpy_loop_use_virtual_clock, METH_NOARGS,
     "Before anything else is done with the loop: its clock is a virtual one."},
    {"_use_seed", pacpy_loop_use_seed, METH_O, "Ready tasks come in the order of this seed."},
    {"_advance", pacpy_loop_advance, METH_O, "Move the virtual clock on, by seconds."},
    {"_hold_clock", pacpy_loop_hold_clock, METH_NOARGS,
     "The virtual clock waits for what is under way."},
    {"_release_clock", pacpy_loop_release_clock, METH_NOARGS, "The counterpart of _hold_clock()."},
    {"_run", Loop_run, METH_NOARGS, "Run until stop(); run_forever sets the rest up."},
    {"_disown", Loop_disown, METH_NOARGS, "In a fork's child: the loop belongs to the parent."},
    {"_close_core", Loop_close_core, METH_NOARGS, "End all tasks and close the executor."},
    {"_live_tasks", Loop_live_tasks, METH_NOARGS, "The tasks that have not ended, oldest first."},
    {"_metrics", pacpy_loop_metrics, METH_NOARGS, pacpy_loop_metrics_doc},
    {"_poll_register", pacpy_loop_poll_register, METH_VARARGS, "Watch a descriptor."},
    {"_poll_modify", pacpy_loop_poll_modify, METH_VARARGS, "Change what it is watched for."},
    {"_poll_unregister", pacpy_loop_poll_unregister, METH_O, "Stop watching it."},
#define X(name) \
    {#name, FASTCALL(pacpy_loop_##name), METH_FASTCALL | METH_KEYWORDS, pacpy_loop_##name##_doc},
    PACPY_SOCKET_OPERATIONS(X)
#undef X
        {"_add_callback", Loop_add_callback, METH_O, "Queue a Handle."},
    {"_add_callback_signalsafe", Loop_add_callback, METH_O, "Queue a Handle."},
    {"_timer_handle_cancelled", Loop_timer_handle_cancelled, METH_O, "What a TimerHandle calls."},
    {"_queued", pacpy_compatible_queued, METH_NOARGS, "The queued Handles and Tasks, in order."},
    {"_timers", pacpy_compatible_timers, METH_NOARGS, "The armed TimerHandles, in no order."},
    {"_divert", pacpy_compatible_divert, METH_NOARGS, pacpy_compatible_divert_doc},
    {"_stream_transport", FASTCALL(pacpy_stream_transport_new), METH_FASTCALL,
     "_stream_transport(sock, protocol, waiter, extra, server): a StreamTransport."},
    {"_datagram_transport", FASTCALL(pacpy_datagram_transport_new), METH_FASTCALL,
     "_datagram_transport(sock, protocol, address, waiter, extra): a DatagramTransport."},
    {"_read_pipe_transport", FASTCALL(pacpy_read_pipe_transport_new), METH_FASTCALL,
     "_read_pipe_transport(pipe, protocol, waiter, extra): a ReadPipeTransport."},
    {"_write_pipe_transport", FASTCALL(pacpy_write_pipe_transport_new), METH_FASTCALL,
     "_write_pipe_transport(pipe, protocol, waiter, extra): a WritePipeTransport."},
    {"_listen", FASTCALL(pacpy_listener_new), METH_FASTCALL,
     "_listen(sock, protocol_factory, server, backlog, accept): a Listener."},
    {"_adopt_stream", Loop_adopt_stream, METH_O,
     "Let the reader of this protocol, if both are exactly asyncio's, be one of ours."},
    {"_settle", pacpy_compatible_settle, METH_NOARGS, "Watch what the executor waits for now."},
    {NULL},
};

static PyType_Slot Loop_slots[] = {
    {Py_tp_doc, "The C half of EventLoop: its queue, timers, tasks and futures."},
    {Py_tp_new, Loop_new},
    {Py_tp_init, Loop_init},
    {Py_tp_traverse, Loop_traverse},
    {Py_tp_clear, Loop_clear},
    {Py_tp_dealloc, Loop_dealloc},
    {Py_tp_setattro, pacpy_loop_setattro},
    {Py_tp_methods, Loop_methods},
    {Py_tp_getset, pacpy_loop_getset},
    {0, NULL},
};

static PyType_Spec Loop_spec = {
    .name = "pyasync_c._core.LoopBase",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Loop_slots,
};

/* In a fork's child: what the parent's thread was in the middle of is none of the child's. Else a
 * loop that is started within would be taken for part of the poll in which the parent has forked.
 */
static PyObject *
forget_running(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    pacpy_running_loop = NULL;
    pacpy_frame_top = NULL;
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    pac_executor_leave(NULL);
    pacpy_bridge_disown_all(pacpy_state_of(module));
    Py_RETURN_NONE;
}

static PyMethodDef eventloop_functions[] = {
    {"_forget_running", forget_running, METH_NOARGS, "In a fork's child: nothing runs here."},
    {NULL},
};

int
pacpy_eventloop_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Loop_spec, NULL, &st->LoopBase_type, "LoopBase") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, eventloop_functions);
}
