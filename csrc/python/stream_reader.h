/* stream_reader.h - the hot half of asyncio's streams: a StreamReader whose feeding and reading are C.
 *
 * A transport that gets a StreamReaderProtocol with a StreamReader, both of exactly these classes,
 * makes the reader one of a class of ours, derived from asyncio's and of the same layout. All of its
 * state stays where asyncio keeps it, in its attributes: `_buffer`, `_eof`, `_waiter`, ... so
 * whatever looks there finds it, and asyncio's own methods go on to work on it. `_buffer` is made a
 * bytearray for whoever looks there (stream_state.h). Subclasses of these two are left as they are. */
#ifndef PACPY_STREAM_READER_H
#define PACPY_STREAM_READER_H

#include "state.h"

/* If `protocol` is exactly a StreamReaderProtocol: let its reader be ours, if there is one and it is
 * exactly a StreamReader, and say true. Errors are none: then nothing is changed. */
bool pacpy_adopt_stream(struct pacpy_state *st, PyObject *protocol);

/* The reader of such a protocol: a new reference; NULL if it has none, or one that is not ours. */
PyObject *pacpy_reader_of_protocol(struct pacpy_state *st, PyObject *protocol);

/* What its feed_data() does. 0, or -1 and an exception. */
int pacpy_reader_feed(struct pacpy_state *st, PyObject *reader, const char *bytes,
                      Py_ssize_t count);

/* The same of bytes that the reader may keep: who reads all of it gets the object itself. */
int pacpy_reader_feed_bytes(struct pacpy_state *st, PyObject *reader, PyObject *bytes);

#endif
