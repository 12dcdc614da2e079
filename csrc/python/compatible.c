/* compatible.c - a loop's way into compatible mode, and its calls once it is there.
 *
 *   native                                   compatible
 *   queued Handles ─────────────────────────► loop._ready, a deque
 *   armed TimerHandles ─────────────────────► loop._scheduled, a heap
 *   watched descriptors ────────────────────► a real selector
 *   live tasks, sleeping leaves ── stay ────► in the executor, turned by the loop's bridge
 *
 * The loop may be running: then the one who asks is a task or callback of it, and the executor's
 * run is lent (executor.h) until it ends, which is right after that task or callback. The standard
 * scheduler goes on from there (EventLoop.run_forever). Until then, and whenever one of the tasks
 * that stayed is polled, that very poll may run the loop again, as nest_asyncio does. */
#include "compatible.h"

#include "bridge.h"
#include "callback_handle.h"
#include "task.h"

/* ---- calls ---------------------------------------------------------------------------------- */

PyObject *
pacpy_call_for_loop(LoopObject *loop, PyObject *owner, const char *name, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *function = PyObject_GetAttrString(owner, name);
    if (function == NULL) {
        return NULL;
    }
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject **all = PyMem_New(PyObject *, nargs + nkw + 1);
    PyObject *result = NULL;
    if (all == NULL) {
        PyErr_NoMemory();
    }
    else {
        all[0] = (PyObject *)loop;
        for (Py_ssize_t i = 0; i < nargs + nkw; i++) {
            all[i + 1] = args[i];
        }
        result = PyObject_Vectorcall(function, all, nargs + 1, kwnames);
        PyMem_Free(all);
    }
    Py_DECREF(function);
    return result;
}

PyObject *
pacpy_diverted_call(LoopObject *loop, const char *name, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    if (!loop->compatible) {
        pacpy_loop_refuse_closed(loop);
        return NULL;
    }
    PyObject *standard = PyObject_GetAttrString(loop->st->asyncio_support, "StandardLoop");
    if (standard == NULL) {
        return NULL;
    }
    PyObject *result = pacpy_call_for_loop(loop, standard, name, args, nargs, kwnames);
    Py_DECREF(standard);
    return result;
}

/* By its name: it may have been overridden. */
PyObject *
pacpy_compatible_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *context)
{
    if (!loop->compatible) {
        pacpy_loop_refuse_closed(loop);
        return NULL;
    }
    PyObject *call_soon = PyObject_GetAttr((PyObject *)loop, loop->st->str_call_soon);
    PyObject *all = PyTuple_New(nargs + 1);
    PyObject *kwargs = PyDict_New();
    PyObject *handle = NULL;
    if (call_soon != NULL && all != NULL && kwargs != NULL) {
        PyTuple_SET_ITEM(all, 0, Py_NewRef(callback));
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyTuple_SET_ITEM(all, i + 1, Py_NewRef(args[i]));
        }
        if (context == NULL || PyDict_SetItem(kwargs, loop->st->str_context, context) == 0) {
            handle = PyObject_Call(call_soon, all, kwargs);
        }
    }
    Py_XDECREF(call_soon);
    Py_XDECREF(all);
    Py_XDECREF(kwargs);
    return handle;
}

static int
call_python(const char *function, PyObject *loop)
{
    PyObject *support = ((LoopObject *)loop)->st->asyncio_support;
    PyObject *done = PyObject_CallMethod(support, function, "O", loop);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
pacpy_compatible_enter(PyObject *loop)
{
    return ((LoopObject *)loop)->diverted ? 0 : call_python("enter_compatible", loop);
}

int
pacpy_compatible_check_class(PyObject *loop)
{
    return ((LoopObject *)loop)->diverted ? 0 : call_python("check_compatible", loop);
}

/* ---- what is queued, what is armed ---------------------------------------------------------- */

/* The handle or Task behind `r`: borrowed; NULL: something of the core's. */
static PyObject *
object_of_runnable(struct pac_runnable *r)
{
    if (r->vtable == &pac_task_runnable_vtable) {
        return pacpy_task_object_of_core(PAC_CONTAINER_OF(r, struct pac_task, runnable));
    }
    return pacpy_handle_of_runnable(r);
}

PyObject *
pacpy_compatible_queued(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *list = PyList_New(0);
    if (list == NULL || loop->executor == NULL) {
        return list;
    }
    pacpy_loop_catch_up(loop);
    struct pac_runnable *r = loop->executor->scheduler.ready.first;
    for (; r != NULL; r = r->next) {
        PyObject *object = object_of_runnable(r);
        if (object != NULL && PyList_Append(list, object) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

enum { TIMER_LISTS = PAC_WHEEL_LEVELS * PAC_WHEEL_SLOTS + 1 };

static struct pac_list *
timer_list(struct pac_wheel *w, unsigned i)
{
    return i == 0 ? &w->immediate : &w->slots[(i - 1) / PAC_WHEEL_SLOTS][(i - 1) % PAC_WHEEL_SLOTS];
}

PyObject *
pacpy_compatible_timers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    PyObject *handles = PyList_New(0);
    if (handles == NULL || loop->executor == NULL) {
        return handles;
    }
    for (unsigned i = 0; i < TIMER_LISTS; i++) {
        struct pac_list *list = timer_list(&loop->executor->wheel, i);
        for (struct pac_list_node *n = list->head.next; n != &list->head; n = n->next) {
            PyObject *handle = pacpy_handle_of_timer(PAC_LIST_ENTRY(n, struct pac_timer, node));
            if (handle != NULL && PyList_Append(handles, handle) < 0) {
                Py_DECREF(handles);
                return NULL;
            }
        }
    }
    return handles;
}

/* ---- the way there -------------------------------------------------------------------------- */

/* Handles leave the queue, the rest keeps its order. The caller has references to them. */
static void
give_up_queued_handles(struct pac_executor *ex)
{
    struct pac_run_queue all = ex->scheduler.ready;
    struct pac_runnable *r;
    pac_run_queue_init(&ex->scheduler.ready);
    while ((r = pac_run_queue_pop(&all)) != NULL) {
        if (pacpy_handle_of_runnable(r) != NULL) {
            r->vtable->discard(r);
        }
        else {
            pac_run_queue_push(&ex->scheduler.ready, r);
        }
    }
}

static void
give_up_armed_handles(struct pac_executor *ex)
{
    for (unsigned i = 0; i < TIMER_LISTS; i++) {
        struct pac_list *list = timer_list(&ex->wheel, i);
        struct pac_list_node *next;
        for (struct pac_list_node *n = list->head.next; n != &list->head; n = next) {
            struct pac_timer *timer = PAC_LIST_ENTRY(n, struct pac_timer, node);
            PyObject *handle = pacpy_handle_of_timer(timer);
            next = n->next;
            if (handle != NULL) {
                pac_wheel_remove(&ex->wheel, timer);
                Py_DECREF(handle); /* the wheel's; the caller has another */
            }
        }
    }
}

static void
hand_tasks_over(LoopObject *loop)
{
    struct pac_list *owned = &loop->executor->owned;
    for (struct pac_list_node *n = owned->head.next; n != &owned->head; n = n->next) {
        struct pac_task *core = PAC_LIST_ENTRY(n, struct pac_task, owned);
        pacpy_task_lend_polls(core);
        pacpy_bridge_take_wait(loop->bridge, core);
    }
}

const char pacpy_compatible_divert_doc[] =
    "_divert($self, /)\n--\n\n"
    "Enter compatible mode: what is queued and armed, as _queued and _timers, has left the executor.";

PyObject *
pacpy_compatible_divert(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    struct pac_executor *ex = loop->executor;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    if (ex->is_virtual) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a loop on a virtual clock keeps its own scheduler: nothing of it can be "
                        "overridden");
        return NULL;
    }
    if (loop->diverted || (ex->running && pacpy_running_loop != loop)) {
        PyErr_SetString(PyExc_RuntimeError, loop->diverted ? "it is in compatible mode already"
                                                           : "the loop runs on another thread");
        return NULL;
    }
    PyObject *bridge = pacpy_bridge_for_own_loop(loop);
    PyObject *queued = pacpy_compatible_queued(op, NULL);
    PyObject *timers = pacpy_compatible_timers(op, NULL);
    PyObject *both = NULL;
    if (bridge != NULL && queued != NULL && timers != NULL) {
        both = PyTuple_Pack(2, queued, timers);
    }
    Py_XDECREF(queued);
    Py_XDECREF(timers);
    if (both == NULL) {
        Py_XDECREF(bridge);
        return NULL;
    }
    loop->bridge = bridge;
    loop->diverted = loop->compatible = true;
    loop->stopping = ex->stopping;
    pacpy_handle_track_all(loop);
    give_up_queued_handles(ex);
    give_up_armed_handles(ex);
    hand_tasks_over(loop);
    memset(&ex->hooks, 0, sizeof ex->hooks); /* it waits no more: whoever turns it does */
    if (ex->running) {
        pacpy_running_loop = NULL;
        pac_executor_lend(ex);
        pac_executor_interrupt(ex);
    }
    return both;
}

PyObject *
pacpy_compatible_settle(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (loop->bridge == NULL || pacpy_bridge_settle_own(loop->bridge) < 0) {
        return loop->bridge == NULL ? Py_NewRef(Py_None) : NULL;
    }
    Py_RETURN_NONE;
}
