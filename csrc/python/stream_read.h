/* stream_read.h - one read of a stream: what read(), readexactly(), readuntil() and readline() of a
 * reader of ours (stream_reader.h) return. */
#ifndef PACPY_STREAM_READ_H
#define PACPY_STREAM_READ_H

#include "state.h"

enum pacpy_read_kind {
    PACPY_READ_SOME,    /* `count` bytes at the most */
    PACPY_READ_EXACTLY, /* `count` bytes */
    PACPY_READ_UNTIL,   /* to the end of the `separator`, a bytes object */
    PACPY_READ_LINE,    /* likewise, with readline()'s errors */
};

/* An awaitable, to be awaited once; a coroutine as far as asyncio asks. New reference or NULL. */
PyObject *pacpy_stream_read_new(struct pacpy_state *st, PyObject *reader, enum pacpy_read_kind kind,
                                Py_ssize_t count, PyObject *separator);

#endif
