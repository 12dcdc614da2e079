/* args.c - seconds to nanoseconds and back.
 *
 * The product with 1e9 is rounded up to a whole nanosecond after it was rounded to a double, as
 * CPython's own clocks do it: 0.1 is 100000000 ns and not one more, although the double that is
 * written 0.1 is a little greater than a tenth. Measured in the caller's floats that is never
 * early.
 */
#include "args.h"

#include <float.h>
#include <math.h>

/* 2**64, the first double that does not fit. */
#define NS_END 18446744073709551616.0

static bool
is_real_number(PyObject *op)
{
    PyNumberMethods *number = Py_TYPE(op)->tp_as_number;
    return number != NULL && (number->nb_float != NULL || number->nb_index != NULL);
}

/* Any number but an exact float. 0 or -1. */
static int
double_from_number(PyObject *op, const char *what, double *value)
{
    if (PyLong_CheckExact(op)) {
        *value = PyLong_AsDouble(op);
        return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
    }
    if (!is_real_number(op)) {
        PyErr_Format(PyExc_TypeError, "%s must be a real number, not %.200s", what,
                     Py_TYPE(op)->tp_name);
        return -1;
    }
    *value = PyFloat_AsDouble(op);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int
pacpy_double_from_seconds(PyObject *seconds, const char *what, double *value)
{
    if (PAC_LIKELY(PyFloat_CheckExact(seconds))) {
        *value = PyFloat_AS_DOUBLE(seconds);
    }
    else if (double_from_number(seconds, what, value) < 0) {
        return -1;
    }
    if (PAC_UNLIKELY(isnan(*value))) {
        PyErr_Format(PyExc_ValueError, "%s must not be NaN", what);
        return -1;
    }
    return 0;
}

uint64_t
pacpy_ns_from_double(double seconds)
{
    double ns = ceil(seconds * 1e9);
    if (ns <= 0) {
        return 0;
    }
    return ns >= NS_END ? PAC_NEVER : (uint64_t)ns;
}

/* A time that was computed from another one is off by two units in its last place at the most. */
#define ROUNDING (4 * DBL_EPSILON)

uint64_t
pacpy_ns_of_time(struct pac_executor *ex, double when)
{
    uint64_t up_ns = pacpy_ns_from_double(when);
    if (up_ns == 0 || up_ns == PAC_NEVER) {
        return up_ns;
    }
    if (PAC_LIKELY(ex == NULL || !ex->is_virtual)) {
        /* The product may have been rounded down by more than ceil() has added. */
        return up_ns + (pacpy_seconds_from_ns(up_ns) < when);
    }
    /* Not the present, or who waits until now() >= when would wait in vain. */
    double above = when * 1e9 - (double)(up_ns - 1);
    bool is_rounding = above > 0 && above <= when * 1e9 * ROUNDING;
    return is_rounding && up_ns - 1 > pac_executor_now_ns(ex) ? up_ns - 1 : up_ns;
}

int
pacpy_ns_from_seconds(PyObject *seconds, const char *what, uint64_t *ns)
{
    double value;
    if (pacpy_double_from_seconds(seconds, what, &value) < 0) {
        return -1;
    }
    *ns = pacpy_ns_from_double(value);
    return 0;
}

double
pacpy_seconds_from_ns(uint64_t ns)
{
    return ns == PAC_NEVER ? Py_HUGE_VAL : (double)ns / 1e9;
}

int
pacpy_count_from_object(PyObject *op, const char *what, uint64_t least, uint64_t most,
                        uint64_t *count)
{
    if (PyBool_Check(op) || !PyIndex_Check(op)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.200s", what, Py_TYPE(op)->tp_name);
        return -1;
    }
    PyObject *number = PyNumber_Index(op);
    if (number == NULL) {
        return -1;
    }
    int beyond = 0;
    long long value = PyLong_AsLongLongAndOverflow(number, &beyond);
    Py_DECREF(number);
    if (value == -1 && beyond == 0 && PyErr_Occurred()) {
        return -1;
    }
    if (beyond < 0 || (beyond == 0 && value < (long long)least)) {
        PyErr_Format(PyExc_ValueError, "%s must be at least %llu", what, (unsigned long long)least);
        return -1;
    }
    if (beyond > 0 || (unsigned long long)value > most) {
        PyErr_Format(PyExc_OverflowError, "%s must be at most %llu", what,
                     (unsigned long long)most);
        return -1;
    }
    *count = (uint64_t)value;
    return 0;
}

/* Put `value` in the place that `keyword` names. 0, or -1 and TypeError. */
static int
set_keyword(const char *function, const char *const *names, Py_ssize_t nargs, PyObject *keyword,
            PyObject *value, PyObject **values)
{
    for (Py_ssize_t i = 0; names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(keyword, names[i]) == 0) {
            if (i < nargs) {
                PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'",
                             function, names[i]);
                return -1;
            }
            values[i] = value;
            return 0;
        }
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", function, keyword);
    return -1;
}

int
pacpy_keywords(const char *function, const char *const *names, Py_ssize_t required,
               Py_ssize_t positional, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               PyObject **values)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)",
                     function, positional, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        values[i] = NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        values[i] = args[i];
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (set_keyword(function, names, nargs, PyTuple_GET_ITEM(kwnames, i), args[nargs + i],
                        values) < 0) {
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", function,
                         names[i]);
            return -1;
        }
    }
    return 0;
}

const char *
pacpy_short_name(PyTypeObject *type)
{
    const char *dot = strrchr(type->tp_name, '.');
    return dot == NULL ? type->tp_name : dot + 1;
}
