/* c_future.h - a future that an extension has written in C, as a Python awaitable. */
#ifndef PACPY_C_FUTURE_H
#define PACPY_C_FUTURE_H

#include "future.h"

#include "../include/pyasync_c.h"

/* As future_to_object of struct pyasync_c_api. */
PyObject *pacpy_c_future_new(struct pacpy_state *st, struct pyasync_c_future *future,
                             PyObject *(*result)(struct pyasync_c_future *future));

#endif
