/* loop_clock.c - deterministic runs of a loop; pyasync_c/_virtual_clock.py has the rest. */
#include "loop_clock.h"

#include "args.h"

#include <math.h>

/* Nothing is left to wait for on the virtual clock, as far as the executor knows. */
static uint64_t
stuck(void *data)
{
    LoopObject *loop = data;
    uint64_t wait_ns = 0;
    PyObject *seconds = PyObject_CallMethodNoArgs((PyObject *)loop, loop->st->str__stuck);
    if (seconds == NULL || pacpy_ns_from_seconds(seconds, "_stuck", &wait_ns) < 0) {
        pacpy_loop_raise(loop, PyErr_GetRaisedException());
    }
    Py_XDECREF(seconds);
    return wait_ns == 0 ? 0 : pac_ns_add(pac_clock_ns(), wait_ns);
}

PyObject *
pacpy_loop_use_virtual_clock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    pac_executor_use_virtual_clock(loop->executor, stuck);
    Py_RETURN_NONE;
}

PyObject *
pacpy_loop_use_seed(PyObject *op, PyObject *seed)
{
    LoopObject *loop = (LoopObject *)op;
    uint64_t value = PyLong_AsUnsignedLongLong(seed);
    if ((value == (uint64_t)-1 && PyErr_Occurred()) || pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    pac_executor_seed(loop->executor, value);
    Py_RETURN_NONE;
}

PyObject *
pacpy_loop_advance(PyObject *op, PyObject *seconds)
{
    LoopObject *loop = (LoopObject *)op;
    double value;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    if (!loop->executor->is_virtual) {
        PyErr_SetString(PyExc_RuntimeError,
                        "only a virtual clock can be advanced: use clock=\"virtual\"");
        return NULL;
    }
    if (loop->thread_id != 0 && loop->thread_id != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "the loop is running on another thread");
        return NULL;
    }
    if (pacpy_double_from_seconds(seconds, "advance: seconds", &value) < 0) {
        return NULL;
    }
    if (value < 0 || isinf(value)) {
        PyErr_Format(PyExc_ValueError, "advance: seconds must be finite and not negative, not %R",
                     seconds);
        return NULL;
    }
    pac_executor_advance(loop->executor, pacpy_ns_from_double(value));
    Py_RETURN_NONE;
}

PyObject *
pacpy_loop_hold_clock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    pac_executor_hold_clock(loop->executor);
    Py_RETURN_NONE;
}

PyObject *
pacpy_loop_release_clock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    if (loop->executor != NULL && loop->executor->clock_holds > 0) {
        pac_executor_release_clock(loop->executor);
    }
    Py_RETURN_NONE;
}
