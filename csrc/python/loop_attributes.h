/* loop_attributes.h - what can be read off a loop and set on it. */
#ifndef PACPY_LOOP_ATTRIBUTES_H
#define PACPY_LOOP_ATTRIBUTES_H

#include "eventloop.h"

/* LoopBase's tp_getset and tp_setattro. Setting a part of the scheduler enters compatible mode. */
extern PyGetSetDef pacpy_loop_getset[];
int pacpy_loop_setattro(PyObject *op, PyObject *name, PyObject *value);

/* LoopBase.get_debug() and ._metrics(). */
PyObject *pacpy_loop_get_debug(PyObject *op, PyObject *unused);
extern const char pacpy_loop_metrics_doc[];
PyObject *pacpy_loop_metrics(PyObject *op, PyObject *unused);

#endif
