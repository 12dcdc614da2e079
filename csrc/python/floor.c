/* floor.c - the cheapest that switching to a Python coroutine and back can be: for the
 * benchmarks. */
#include "state.h"

#include "../core/platform.h"

PyDoc_STRVAR(
    floor_doc,
    "_floor(coro, n, /)\n--\n\n"
    "Send None into a coroutine n times, in a loop with nothing around it; returns nanoseconds per send.\n"
    "Raises what the coroutine raises, and RuntimeError if it ends before.");

static PyObject *
floor_sends(PyObject *module, PyObject *args)
{
    PyObject *coroutine;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "On:_floor", &coroutine, &n)) {
        return NULL;
    }
    uint64_t began_ns = pac_clock_ns();
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *yielded;
        switch (PyIter_Send(coroutine, Py_None, &yielded)) {
            case PYGEN_NEXT:
                Py_DECREF(yielded);
                break;
            case PYGEN_RETURN:
                Py_DECREF(yielded);
                PyErr_SetString(PyExc_RuntimeError, "_floor: the coroutine has ended");
                return NULL;
            case PYGEN_ERROR:
                return NULL;
        }
    }
    return PyFloat_FromDouble((double)(pac_clock_ns() - began_ns) / (double)(n > 0 ? n : 1));
}

static PyMethodDef functions[] = {
    {"_floor", floor_sends, METH_VARARGS, floor_doc},
    {NULL},
};

int
pacpy_floor_exec(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
