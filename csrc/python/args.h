/* args.h - conversions of arguments, with the messages that users see. */
#ifndef PACPY_ARGS_H
#define PACPY_ARGS_H

#include "state.h"

#include "../core/executor.h"

/* Seconds (anything with __float__ or __index__) as nanoseconds, rounded up: zero and less is 0,
 * what is beyond 64 bits or infinite is PAC_NEVER. `what` names the argument. 0, or -1 with
 * TypeError (no number), ValueError (NaN), OverflowError (an int beyond any float). */
int pacpy_ns_from_seconds(PyObject *seconds, const char *what, uint64_t *ns);

/* The two halves of that, for who needs the float as well: the object is asked once. */
int pacpy_double_from_seconds(PyObject *seconds, const char *what, double *value);
uint64_t pacpy_ns_from_double(double seconds);

/* A time on the clock of `ex` (NULL: the real one) as nanoseconds. Rounded up as well, but on a
 * virtual clock a time that floats cannot tell from a whole nanosecond to come is that nanosecond:
 * the float 0.1 + 0.2 is 0.3 s, where the real clock's time does not have to be hit. */
uint64_t pacpy_ns_of_time(struct pac_executor *ex, double when);
/* An int (anything with __index__, but no bool) of at least `least` and at most `most`. 0, or -1
 * with TypeError, ValueError (too few) or OverflowError (too many). */
int pacpy_count_from_object(PyObject *op, const char *what, uint64_t least, uint64_t most,
                            uint64_t *count);

/* The arguments of a METH_FASTCALL | METH_KEYWORDS function into `values` (borrowed), which hold the
 * defaults by then. `names` ends with NULL; the first `required` have to be given, the first
 * `positional` may be given by position, the others only by name. 0, or -1 and TypeError. */
int pacpy_keywords(const char *function, const char *const *names, Py_ssize_t required,
                   Py_ssize_t positional, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, PyObject **values);

/* A type's name without its module, for messages: it goes with the type's. */
const char *pacpy_short_name(PyTypeObject *type);

/* Nanoseconds as float seconds; PAC_NEVER is inf. */
double pacpy_seconds_from_ns(uint64_t ns);

#endif
