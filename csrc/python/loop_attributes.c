#include "loop_attributes.h"

#include "compatible.h"
#include "loop_sources.h"

PyObject *
pacpy_loop_get_debug(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((LoopObject *)op)->debug);
}

/* A bool of LoopObject; the closure is where it is. */
static PyObject *
get_bool(PyObject *op, void *offset)
{
    return PyBool_FromLong(*(bool *)((char *)op + (size_t)offset));
}

static int
set_bool(PyObject *op, PyObject *value, void *offset)
{
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    *(bool *)((char *)op + (size_t)offset) = truth;
    return 0;
}

static PyObject *
get_task_factory(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *factory = ((LoopObject *)op)->task_factory;
    return Py_NewRef(factory == NULL ? Py_None : factory);
}

static int
set_task_factory(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(((LoopObject *)op)->task_factory, Py_XNewRef(value));
    return 0;
}

static PyObject *
get_stopping(PyObject *op, void *Py_UNUSED(closure))
{
    LoopObject *loop = (LoopObject *)op;
    if (loop->compatible) {
        return PyBool_FromLong(loop->stopping);
    }
    return PyBool_FromLong(loop->executor != NULL && loop->executor->stopping);
}

static int
set_stopping(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    LoopObject *loop = (LoopObject *)op;
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    if (loop->compatible) {
        loop->stopping = truth;
    }
    else if (loop->executor != NULL) {
        loop->executor->stopping = truth;
    }
    return 0;
}

static PyObject *
get_compatible(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((LoopObject *)op)->compatible);
}

PyGetSetDef pacpy_loop_getset[] = {
    {"_debug", get_bool, set_bool, NULL, (void *)offsetof(LoopObject, debug)},
    {"_queues_events", get_bool, set_bool, NULL, (void *)offsetof(LoopObject, queues_events)},
    {"_task_factory", get_task_factory, set_task_factory, NULL},
    {"_stopping", get_stopping, set_stopping, NULL},
    {"_compatible", get_compatible, NULL, NULL},
    {"_watched", pacpy_loop_get_watched, NULL, NULL},
    {NULL},
};

/* Whoever assigns one of these replaces the scheduler, or a part of it. */
static bool
is_of_the_scheduler(struct pacpy_state *st, PyObject *name)
{
    return name == st->str_time || name == st->str__run_once || name == st->str__selector ||
           name == st->str_run_forever || name == st->str_run_until_complete;
}

/* Attribute names are interned by the time that they get here. */
int
pacpy_loop_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    struct pacpy_state *st = ((LoopObject *)op)->st;
    /* None: as close() leaves the selector. */
    if (value != NULL && value != Py_None && is_of_the_scheduler(st, name) &&
        pacpy_compatible_enter(op) < 0) {
        return -1;
    }
    if (PyObject_GenericSetAttr(op, name, value) < 0) {
        return -1;
    }
    return name == st->str___class__ ? pacpy_compatible_check_class(op) : 0;
}

const char pacpy_loop_metrics_doc[] =
    "_metrics($self, /)\n--\n\n"
    "What the executor has counted, as the tuple that RuntimeMetrics names the fields of.";

PyObject *
pacpy_loop_metrics(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    struct pac_executor *ex = loop->executor;
    const struct pac_metrics *m = &ex->metrics;
    typedef unsigned long long ull;
    return Py_BuildValue("(KKKKKKKKKKK)", (ull)ex->scheduler.tasks_alive, (ull)m->tasks_spawned,
                         (ull)loop->polls, (ull)(ex->scheduler.wakes + m->wakes_from_threads),
                         (ull)m->wakes_from_threads, (ull)loop->spurious_polls, (ull)m->parks,
                         (ull)ex->wheel.count, (ull)m->timers_fired, (ull)m->queue_depth_max,
                         (ull)pac_executor_slow_runs(ex));
}
