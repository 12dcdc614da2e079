/* net_write.h - the operation that writes to a stream, for what is built on it. */
#ifndef PACPY_NET_WRITE_H
#define PACPY_NET_WRITE_H

#include "net.h"

/* An operation that writes all of `count` objects that have a buffer, one after the other: a new
 * reference, NULL and an exception. */
PyObject *pacpy_write_frames(StreamObject *s, PyObject *const *items, size_t count);

#endif
