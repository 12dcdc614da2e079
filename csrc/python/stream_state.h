/* stream_state.h - the attributes of an asyncio.StreamReader, as C reads them: borrowed, with an
 * exception if one is not there or not what asyncio puts there.
 *
 * `_buffer` may be a bytes object as well: one that was received, while nothing else is there, so that
 * whoever reads all of it gets that. It becomes a bytearray when anything else is to be done with it,
 * also when Python asks for the attribute (stream_reader.c). */
#ifndef PACPY_STREAM_STATE_H
#define PACPY_STREAM_STATE_H

#include "state.h"

/* The reader's attributes, for the functions below: a new reference, or NULL and an exception. */
PyObject *pacpy_stream_state(PyObject *reader);

/* Borrowed; NULL and AttributeError. */
PyObject *pacpy_stream_get(PyObject *state, PyObject *name);

/* Is it true? 1, 0, or -1 and an exception. */
int pacpy_stream_is_set(PyObject *state, PyObject *name);

/* `_buffer` as a bytearray: borrowed; NULL and an exception. */
PyObject *pacpy_stream_buffer(struct pacpy_state *st, PyObject *state);

/* If it is a bytes object: that, borrowed. NULL, without an exception: it is not, or not there. */
PyObject *pacpy_stream_whole(struct pacpy_state *st, PyObject *state);

/* Let `whole`, not empty, be the buffer if nothing is in it: 1; 0: something is, or somebody else has the
 * bytearray; -1 and an exception. */
int pacpy_stream_put_whole(struct pacpy_state *st, PyObject *state, PyObject *whole);

/* Take it out again: a new reference, or NULL and an exception, and then it is still there. */
PyObject *pacpy_stream_take_whole(struct pacpy_state *st, PyObject *state);

/* `_limit`, twice which is still a size: 0, or -1 and an exception. */
int pacpy_stream_limit(struct pacpy_state *st, PyObject *state, Py_ssize_t *limit);

/* Call a method without arguments: 0, or -1 and an exception. */
int pacpy_stream_call(PyObject *object, PyObject *method);

#endif
