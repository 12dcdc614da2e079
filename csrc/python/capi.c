/* capi.c - the capsule behind csrc/include/pyasync_c.h: the table of functions, and those that have
 * no file of their own.
 *
 * The public waker, context and delay are the core's under other names: the same words, the same
 * functions. So they cross the border without being wrapped. */
#include "state.h"

#include "../include/pyasync_c.h"
#include "c_future.h"
#include "c_io.h"
#include "promise.h"
#include "task.h"
#include "waker.h"

#include "../core/delay.h"

#include <assert.h>

#define SAME(theirs, ours, member) \
    static_assert(offsetof(struct theirs, member) == offsetof(struct ours, member), "one layout")

static_assert(sizeof(struct pyasync_c_waker) == sizeof(struct pac_waker), "one waker, two names");
static_assert(sizeof(struct pyasync_c_waker_vtable) == sizeof(struct pac_waker_vtable), "likewise");
static_assert(sizeof(struct pyasync_c_context) == sizeof(struct pac_context), "likewise");
static_assert(sizeof(struct pyasync_c_delay) == sizeof(struct pac_delay), "likewise");
SAME(pyasync_c_waker, pac_waker, vtable);
SAME(pyasync_c_waker, pac_waker, data);
SAME(pyasync_c_waker_vtable, pac_waker_vtable, clone);
SAME(pyasync_c_waker_vtable, pac_waker_vtable, wake);
SAME(pyasync_c_waker_vtable, pac_waker_vtable, wake_by_ref);
SAME(pyasync_c_waker_vtable, pac_waker_vtable, drop);
SAME(pyasync_c_context, pac_context, waker);
SAME(pyasync_c_delay, pac_delay, future);
SAME(pyasync_c_delay, pac_delay, deadline_ns);
SAME(pyasync_c_delay, pac_delay, entry);
SAME(pyasync_c_delay, pac_delay, status);
SAME(pyasync_c_future_vtable, pac_future_vtable, poll);
SAME(pyasync_c_future_vtable, pac_future_vtable, drop);
static_assert(PYASYNC_C_PENDING == (int)PAC_PENDING && PYASYNC_C_READY == (int)PAC_READY,
              "one poll, two names");

/* The state of the module in the interpreter that this thread is attached to; NULL and an exception.
 * Importing a module by its name takes ten times as long as all the rest of making a promise, so the
 * last answer is kept for each thread. A state is never freed, and an interpreter's number never used
 * again; a state without types is that of a module that has gone. */
static struct pacpy_state *
current_state(void)
{
    static PAC_THREAD_LOCAL struct {
        int64_t interpreter;
        struct pacpy_state *st;
    } last;
    int64_t interpreter = PyInterpreterState_GetID(PyInterpreterState_Get());
    if (PAC_LIKELY(last.st != NULL && last.interpreter == interpreter &&
                   last.st->graveyard != NULL)) {
        return last.st;
    }
    PyObject *module = PyImport_ImportModule("pyasync_c._core");
    if (module == NULL) {
        return NULL;
    }
    last.st = pacpy_state_of(module);
    last.interpreter = interpreter;
    Py_DECREF(module);
    return last.st;
}

/* In debug builds: is this thread attached? Otherwise a [GIL] function would crash somewhere inside. */
static bool
may_use_python(const char *function)
{
#ifdef PAC_DEBUG
    if (PyThreadState_GetUnchecked() == NULL) {
        fprintf(stderr, "pyasync_c: %s was called without the GIL\n", function);
        return false;
    }
#else
    (void)function;
#endif
    return true;
}

/* ---- wakers --------------------------------------------------------------------------------- */

static int
waker_from_object(PyObject *object, struct pyasync_c_waker *waker)
{
    if (!may_use_python("waker_from_object")) {
        return -1;
    }
    if (object == NULL || waker == NULL) {
        PyErr_SetString(PyExc_ValueError, "waker_from_object: an argument is NULL");
        return -1;
    }
    /* Called from anywhere, so the state is found by the type, which only our module makes. */
    struct pacpy_state *st = pacpy_state_of_type(Py_TYPE(object));
    if (st == NULL || !Py_IS_TYPE(object, st->Waker_type)) {
        PyErr_Format(PyExc_TypeError, "a pyasync_c.Waker is required, not %s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    struct pac_waker clone = pac_waker_clone(&((WakerObject *)object)->waker);
    memcpy(waker, &clone, sizeof clone);
    return 0;
}

static PyObject *
waker_to_object(const struct pyasync_c_waker *waker)
{
    if (!may_use_python("waker_to_object")) {
        return NULL;
    }
    const struct pyasync_c_waker_vtable *v = waker == NULL ? NULL : waker->vtable;
    if (v == NULL || v->clone == NULL || v->wake == NULL || v->wake_by_ref == NULL ||
        v->drop == NULL) {
        return PyErr_Format(PyExc_ValueError, "waker_to_object: %s",
                            v == NULL ? "the slot is empty" : "a function of the vtable is NULL");
    }
    struct pacpy_state *st = current_state();
    if (st == NULL) {
        return NULL;
    }
    struct pac_waker ours;
    memcpy(&ours, waker, sizeof ours);
    return pacpy_waker_new(st, &ours);
}

/* ---- promises, futures ---------------------------------------------------------------------- */

static PyObject *
promise_new(const struct pyasync_c_promise_type *type, void *data,
            struct pyasync_c_promise **promise)
{
    if (!may_use_python("promise_new")) {
        return NULL;
    }
    struct pacpy_state *st = current_state();
    return st == NULL ? NULL : pacpy_promise_new(st, type, data, promise);
}

static PyObject *
future_to_object(struct pyasync_c_future *future,
                 PyObject *(*result)(struct pyasync_c_future *future))
{
    if (!may_use_python("future_to_object")) {
        return NULL;
    }
    struct pacpy_state *st = current_state();
    return st == NULL ? NULL : pacpy_c_future_new(st, future, result);
}

/* ---- spawning ------------------------------------------------------------------------------- */

/* What stands behind the done callback of a task: in a capsule, so that it is told also when the
 * task goes without having ended. */
struct spawned {
    struct pacpy_state *st;
    void (*done)(void *data, PyObject *result); /* NULL: it was called */
    void *data;
};

static const char spawned_name[] = "pyasync_c.spawned";

/* With the exception set if `result` is NULL, which may be left to be forgotten; any other is done's. */
static void
spawned_tell(struct spawned *s, PyObject *result)
{
    void (*done)(void *, PyObject *) = s->done;
    PyObject *given = NULL;
    if (result == NULL) {
        given = PyErr_GetRaisedException();
        PyErr_SetRaisedException(Py_NewRef(given));
    }
    s->done = NULL;
    done(s->data, result);
    PyObject *raised = PyErr_GetRaisedException();
    if (raised != NULL && raised != given) {
        PyErr_SetRaisedException(Py_NewRef(raised));
        PyErr_WriteUnraisable(NULL);
    }
    Py_XDECREF(raised);
    Py_XDECREF(given);
}

static void
spawned_free(PyObject *capsule)
{
    struct spawned *s = PyCapsule_GetPointer(capsule, spawned_name);
    if (s->done != NULL) {
        PyObject *exception = PyErr_GetRaisedException();
        PyErr_SetString(PyExc_RuntimeError, "the loop went before the spawned task had ended");
        spawned_tell(s, NULL);
        if (exception != NULL) {
            PyErr_SetRaisedException(exception);
        }
    }
    PyMem_Free(s);
}

/* The done callback: takes the task. */
static PyObject *
spawned_done(PyObject *capsule, PyObject *task)
{
    struct spawned *s = PyCapsule_GetPointer(capsule, spawned_name);
    if (s->done != NULL) {
        PyObject *result = PyObject_CallMethodNoArgs(task, s->st->str_result);
        spawned_tell(s, result);
        Py_XDECREF(result);
    }
    Py_RETURN_NONE;
}

static PyMethodDef spawned_done_def = {"pyasync_c_spawned", spawned_done, METH_O, NULL};

static PyObject *
spawned_callback(struct pacpy_state *st, struct spawned **s)
{
    *s = PyMem_Malloc(sizeof **s);
    if (*s == NULL) {
        return PyErr_NoMemory();
    }
    (*s)->st = st;
    (*s)->done = NULL;
    PyObject *capsule = PyCapsule_New(*s, spawned_name, spawned_free);
    if (capsule == NULL) {
        PyMem_Free(*s);
        return NULL;
    }
    PyObject *callback = PyCFunction_New(&spawned_done_def, capsule);
    Py_DECREF(capsule);
    return callback;
}

static PyObject *
spawn(PyObject *awaitable, void (*done)(void *data, PyObject *result), void *data)
{
    if (!may_use_python("spawn")) {
        return NULL;
    }
    struct pacpy_state *st = current_state();
    if (st == NULL) {
        return NULL;
    }
    if (awaitable == NULL || done == NULL) {
        PyErr_Format(PyExc_ValueError, "spawn: %s is NULL",
                     awaitable == NULL ? "the awaitable" : "done");
        return NULL;
    }
    struct spawned *s;
    PyObject *callback = spawned_callback(st, &s);
    if (callback == NULL) {
        return NULL;
    }
    PyObject *task = pacpy_spawn(st, awaitable, NULL, NULL);
    PyObject *added =
        task == NULL ? NULL : PyObject_CallMethodOneArg(task, st->str_add_done_callback, callback);
    if (added == NULL) {
        Py_CLEAR(task);
    }
    else {
        s->done = done;
        s->data = data;
    }
    Py_XDECREF(added);
    Py_DECREF(callback);
    return task;
}

/* ---- timers --------------------------------------------------------------------------------- */

static uint64_t
now_ns(void)
{
    struct pac_executor *ex = pac_executor_current();
    return ex == NULL ? pac_clock_ns() : pac_executor_now_ns(ex);
}

static struct pac_delay *
delay_of(struct pyasync_c_delay *delay)
{
    return (struct pac_delay *)(void *)delay;
}

static void
delay_init(struct pyasync_c_delay *delay, uint64_t deadline_ns)
{
    pac_delay_init(delay_of(delay), deadline_ns);
}

static int
delay_poll(struct pyasync_c_delay *delay, struct pyasync_c_context *cx)
{
    return pac_delay_poll(delay_of(delay), (struct pac_context *)(void *)cx);
}

static void
delay_reset(struct pyasync_c_delay *delay, uint64_t deadline_ns)
{
    pac_delay_reset(delay_of(delay), deadline_ns);
}

static void
delay_drop(struct pyasync_c_delay *delay)
{
    pac_delay_drop(delay_of(delay));
}

/* ---- descriptors ---------------------------------------------------------------------------- */

static struct pyasync_c_io *
io_open(int fd)
{
    if (!may_use_python("io_open")) {
        return NULL;
    }
    struct pacpy_state *st = current_state();
    return st == NULL ? NULL : pacpy_c_io_open(st, fd);
}

static PyObject *
io_wait(struct pyasync_c_io *io, int interest)
{
    if (!may_use_python("io_wait")) {
        return NULL;
    }
    struct pacpy_state *st = current_state();
    return st == NULL ? NULL : pacpy_c_io_wait(st, io, interest);
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct pyasync_c_api api = {
    .version = PYASYNC_C_API_VERSION,
    .size = sizeof(struct pyasync_c_api),
    .waker_from_object = waker_from_object,
    .waker_to_object = waker_to_object,
    .promise_new = promise_new,
    .promise_complete = pacpy_promise_complete,
    .promise_fail = pacpy_promise_fail,
    .promise_is_over = pacpy_promise_is_over,
    .promise_ref = pacpy_promise_ref,
    .promise_release = pacpy_promise_release,
    .batch_begin = pacpy_batch_begin,
    .batch_end = pacpy_batch_end,
    .future_to_object = future_to_object,
    .spawn = spawn,
    .now_ns = now_ns,
    .delay_init = delay_init,
    .delay_poll = delay_poll,
    .delay_reset = delay_reset,
    .delay_drop = delay_drop,
    .io_open = io_open,
    .io_close = pacpy_c_io_close,
    .io_begin = pacpy_c_io_begin,
    .io_blocked = pacpy_c_io_blocked,
    .io_ready_init = pacpy_c_io_ready_init,
    .io_ready_poll = pacpy_c_io_ready_poll,
    .io_ready_drop = pacpy_c_io_ready_drop,
    .io_wait = io_wait,
};

int
pacpy_capi_exec(PyObject *module)
{
    PyObject *capsule = PyCapsule_New((void *)&api, PYASYNC_C_CAPSULE, NULL);
    if (capsule == NULL) {
        return -1;
    }
    int added = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return added;
}
