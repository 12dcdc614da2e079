/* task_type.c - the Python type Task: asyncio.Task's methods and attributes over what task.c
 * keeps. */
#include "task.h"

#include "release.h"

/* ---- making one ----------------------------------------------------------------------------- */

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

/* The loop to make a task on: `loop`, or the running one. Borrowed; NULL and an exception. */
static LoopObject *
loop_argument(struct pacpy_state *st, PyObject *loop)
{
    if (loop == NULL || loop == Py_None) {
        if (pacpy_running_loop == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "no running event loop of pyasync_c: spawn() makes "
                                                "tasks on any");
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

/* From the free list, to which every task goes in the end: else it would only ever grow. */
static PyObject *
Task_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (type != st->Task_type) {
        return type->tp_alloc(type, 0);
    }
    PyObject *op = pacpy_freelist_alloc(&st->task_free, type);
    if (op != NULL) {
        memset(pacpy_task_of(op), 0, sizeof(struct pacpy_task));
        PyObject_GC_Track(op);
    }
    return op;
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
    /* As asyncio has it: what cannot start at once, as its loop does not run, is queued. */
    return pacpy_task_begin(op, loop, coroutine, name, context,
                            eager && pacpy_running_loop == loop);
}

/* ---- slots ---------------------------------------------------------------------------------- */

static void Task_dealloc(PyObject *op);

/* asyncio.Task, of an object that __init__ may not have seen yet, of a subclass perhaps. */
static PyTypeObject *
asyncio_type_of(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    while (type->tp_dealloc != Task_dealloc) {
        type = type->tp_base;
    }
    return type->tp_base;
}

static int
Task_traverse(PyObject *op, visitproc visit, void *arg)
{
    /* cpylint: traverse, pacpy_visit_asyncio_part visits the type */
    struct pacpy_task *t = pacpy_task_of(op);
    int stop = pacpy_visit_asyncio_part(asyncio_type_of(op), op, visit, arg);
    if (stop != 0) {
        return stop;
    }
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
        pac_list_remove(&t->listener.node);
        PACPY_RELEASE_SLOT(t->waiting_for);
        Py_CLEAR(t->throw_next);
        PACPY_RELEASE_SLOT(t->coroutine);
        Py_CLEAR(t->context);
        Py_CLEAR(t->name);
        pacpy_completion_clear(&t->completion);
    }
    return asyncio_type_of(op)->tp_clear(op);
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
        PyObject *done =
            PyObject_CallMethod(c->st->asyncio_support, "report_destroyed", "OO", c->loop, op);
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

/* ---- asyncio.Task's methods ----------------------------------------------------------------- */

static PyObject *
Task_set_result(PyObject *op, PyObject *value)
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result operation");
    return NULL;
}

static PyObject *
Task_set_exception(PyObject *op, PyObject *value)
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_exception operation");
    return NULL;
}

/* The task of an object whose __init__ has run; NULL and RuntimeError. */
static struct pacpy_task *
initialised(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->completion.st == NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s object is not initialized.", Py_TYPE(op)->tp_name);
        return NULL;
    }
    return t;
}

static PyObject *
Task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct pacpy_task *t = initialised(op);
    if (t == NULL) {
        return NULL;
    }
    if (t->name == NULL) {
        t->name = PyUnicode_FromFormat("Task-%llu", (unsigned long long)t->id);
    }
    return Py_XNewRef(t->name);
}

static PyObject *
Task_set_name(PyObject *op, PyObject *name)
{
    struct pacpy_task *t = initialised(op);
    PyObject *text = t == NULL                    ? NULL
                     : PyUnicode_CheckExact(name) ? Py_NewRef(name)
                                                  : PyObject_Str(name);
    if (text == NULL) {
        return NULL;
    }
    Py_XSETREF(t->name, text);
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
    struct pacpy_task *t = pacpy_task_of(op);
    if (t->completion.st == NULL) {
        Py_RETURN_NONE;
    }
    if (t->context == NULL) {
        /* It has ended, and its context with it. */
        return PyContext_New();
    }
    if (t->context_is_snapshot && pacpy_task_own_context(t) < 0) {
        return NULL;
    }
    return Py_NewRef(t->context);
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

static PyObject *
Task_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    PyObject *limit = Py_None;
    struct pacpy_task *t = initialised(op);
    if (t == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names, &limit)) {
        return NULL;
    }
    return PyObject_CallMethod(t->completion.st->asyncio_support, "task_get_stack", "OO", op,
                               limit);
}

static PyObject *
Task_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    PyObject *limit = Py_None, *file = Py_None;
    struct pacpy_task *t = initialised(op);
    if (t == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names, &limit, &file)) {
        return NULL;
    }
    return PyObject_CallMethod(t->completion.st->asyncio_support, "task_print_stack", "OOO", op,
                               limit, file);
}

/* By number, from the loop's first task on: programs and asyncio itself keep tasks in sets, whose
 * order has to be the same in each run of the same seed. The address would not be. */
static Py_hash_t
Task_hash(PyObject *op)
{
    struct pacpy_task *t = pacpy_task_of(op);
    LoopObject *loop = t->completion.loop;
    uint64_t number = t->id - (loop != NULL ? loop->first_task_id : 0);
    return (Py_hash_t)(number & PY_SSIZE_T_MAX);
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void)) f

static PyMethodDef Task_methods[] = {
    {"set_result", Task_set_result, METH_O, "Not for tasks: RuntimeError."},
    {"set_exception", Task_set_exception, METH_O, "Not for tasks: RuntimeError."},
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

PyDoc_STRVAR(
    Task_doc,
    "Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\n"
    "A coroutine that the runtime runs: an asyncio.Task, made by spawn() or loop.create_task().\n\n"
    "Runs to its end even if nobody refers to it. cancel() asks for asyncio.CancelledError to be thrown at\n"
    "the await; awaiting the task gives its result. Belongs to the thread of its loop. Stands for\n"
    "Tokio's JoinHandle.");

/* Task has the methods of both tables: ours last, so that they win. */
enum { METHODS_MAX = 48 };
static PyMethodDef all_methods[METHODS_MAX];
static PyGetSetDef all_getset[METHODS_MAX];

static PyType_Slot Task_slots[] = {
    {Py_tp_doc, (void *)Task_doc},
    {Py_tp_new, Task_new},
    {Py_tp_init, Task_init},
    {Py_tp_traverse, Task_traverse},
    {Py_tp_clear, Task_clear},
    {Py_tp_finalize, Task_finalize},
    {Py_tp_dealloc, Task_dealloc},
    {Py_tp_repr, Task_repr},
    {Py_tp_hash, Task_hash},
    {Py_tp_iter, pacpy_future_iter},
    {Py_tp_iternext, pacpy_completion_next},
    {Py_am_await, pacpy_completion_await},
    {Py_am_send, pacpy_completion_send},
    {Py_tp_methods, all_methods},
    {Py_tp_getset, all_getset},
    {0, NULL},
};

static PyType_Spec Task_spec = {
    .name = "pyasync_c.Task",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = Task_slots,
};

/* Python's type wants one table; ours are two, without doubles: what Task refuses is left out of
 * the shared one. */
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

int
pacpy_task_make_types(struct pacpy_state *st)
{
    merge_tables();
    if (pacpy_task_learn_coroutines(st) < 0) {
        return -1;
    }
    PyObject *base = pacpy_asyncio_name("_asyncio", "Task");
    if (base == NULL) {
        return -1;
    }
    Task_spec.basicsize = (int)(pacpy_completion_offset + (Py_ssize_t)sizeof(struct pacpy_task));
    int made =
        pacpy_make_type(st->module, &Task_spec, (PyTypeObject *)base, &st->Task_type, "Task");
    Py_DECREF(base);
    return made < 0 ? -1 : pacpy_hide_next(st->Task_type);
}
