/* promise.h - a promise of the C API, and the awaitable that is its other side. */
#ifndef PACPY_PROMISE_H
#define PACPY_PROMISE_H

#include "future.h"

#include "../include/pyasync_c.h"

/* As the functions of struct pyasync_c_api, which states what they promise. */
PyObject *pacpy_promise_new(struct pacpy_state *st, const struct pyasync_c_promise_type *type,
                            void *data, struct pyasync_c_promise **promise);
int pacpy_promise_complete(struct pyasync_c_promise *promise, void *value,
                           struct pyasync_c_batch *batch);
int pacpy_promise_fail(struct pyasync_c_promise *promise, void *error,
                       struct pyasync_c_batch *batch);
int pacpy_promise_is_over(struct pyasync_c_promise *promise);
struct pyasync_c_promise *pacpy_promise_ref(struct pyasync_c_promise *promise);
void pacpy_promise_release(struct pyasync_c_promise *promise, struct pyasync_c_batch *batch);
void pacpy_batch_begin(struct pyasync_c_batch *batch);
void pacpy_batch_end(struct pyasync_c_batch *batch);

#endif
