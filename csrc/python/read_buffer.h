/* read_buffer.h - the memory that a loop receives into, whoever receives: its transports, and the
 * operations of loop.sock_recv. Who waits for bytes has no memory of his own for them. */
#ifndef PACPY_READ_BUFFER_H
#define PACPY_READ_BUFFER_H

#include "eventloop.h"

/* As much as asyncio's transports read at once, and the most that is kept for the next. */
enum { PACPY_READ_BUFFER = 256 * 1024 };

/* Memory for `size` bytes, for use until the next call of Python by the loop's thread. The same as at
 * the last call, with what is in it, if that was for no less and nobody has taken it. NULL and
 * MemoryError. */
char *pacpy_read_buffer(LoopObject *loop, size_t size);

/* Its first `count` bytes, as bytes of their own, for which there is always memory: in want of other
 * it is the buffer itself. */
PyObject *pacpy_read_buffer_take(LoopObject *loop, size_t count);

/* Keep no more than PACPY_READ_BUFFER for the next. */
void pacpy_read_buffer_trim(LoopObject *loop);

#endif
