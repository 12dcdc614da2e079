/* loop_sources.h - the descriptors that a loop watches. */
#ifndef PACPY_LOOP_SOURCES_H
#define PACPY_LOOP_SOURCES_H

#include "eventloop.h"

/* LoopBase's methods: _poll_register(fd, events, key), _poll_modify(fd, events, key),
 * _poll_unregister(fd). `events` are those of the selectors module, and `key` is the SelectorKey
 * that they are reported with. */
PyObject *pacpy_loop_poll_register(PyObject *op, PyObject *args);
PyObject *pacpy_loop_poll_modify(PyObject *op, PyObject *args);
PyObject *pacpy_loop_poll_unregister(PyObject *op, PyObject *fd_object);

/* Forget all of them, after the executor has closed. */
void pacpy_sources_free(LoopObject *loop);

/* For the loop's tp_traverse. */
int pacpy_sources_visit(LoopObject *loop, visitproc visit, void *arg);

#endif
