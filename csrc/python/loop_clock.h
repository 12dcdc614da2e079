/* loop_clock.h - the virtual clock and the seed of a loop: methods for its table. */
#ifndef PACPY_LOOP_CLOCK_H
#define PACPY_LOOP_CLOCK_H

#include "eventloop.h"

/* Before anything else is done with the loop: its clock is a virtual one. When that has nothing
 * left to wait for, it calls the loop's _stuck(). */
PyObject *pacpy_loop_use_virtual_clock(PyObject *op, PyObject *unused);

/* Ready tasks come in the order of a seed, an int of 64 bits. */
PyObject *pacpy_loop_use_seed(PyObject *op, PyObject *seed);

/* Move the virtual clock on. RuntimeError if it is the real one, or from another thread while the
 * loop runs; ValueError, TypeError for what is no duration. */
PyObject *pacpy_loop_advance(PyObject *op, PyObject *seconds);

/* The virtual clock stands still until it is released as often as it was held. */
PyObject *pacpy_loop_hold_clock(PyObject *op, PyObject *unused);
PyObject *pacpy_loop_release_clock(PyObject *op, PyObject *unused);

#endif
