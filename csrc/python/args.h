/* args.h - conversions of arguments, with the messages that users see. */
#ifndef PACPY_ARGS_H
#define PACPY_ARGS_H

#include "state.h"

#include "../core/platform.h"

/* Seconds (anything with __float__ or __index__) as nanoseconds, rounded up: zero and less is 0,
 * what is beyond 64 bits or infinite is PAC_NEVER. `what` names the argument. 0, or -1 with
 * TypeError (no number), ValueError (NaN), OverflowError (an int beyond any float). */
int pacpy_ns_from_seconds(PyObject *seconds, const char *what, uint64_t *ns);

/* The two halves of that, for who needs the float as well: the object is asked once. */
int pacpy_double_from_seconds(PyObject *seconds, const char *what, double *value);
uint64_t pacpy_ns_from_double(double seconds);

/* An int (anything with __index__, but no bool) of at least `least` and at most `most`. 0, or -1
 * with TypeError, ValueError (too few) or OverflowError (too many). */
int pacpy_count_from_object(PyObject *op, const char *what, uint64_t least, uint64_t most,
                            uint64_t *count);

/* Nanoseconds as float seconds; PAC_NEVER is inf. */
double pacpy_seconds_from_ns(uint64_t ns);

#endif
