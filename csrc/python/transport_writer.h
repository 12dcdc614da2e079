/* transport_writer.h - the writing half of a stream: tried at once, the rest kept until there is
 * room again. */
#ifndef PACPY_TRANSPORT_WRITER_H
#define PACPY_TRANSPORT_WRITER_H

#include "transport.h"
#include "write_queue.h"

struct pacpy_writer {
    struct pacpy_write_queue pending;
    const char *failed;    /* the message of a write that fails */
    const char *after_end; /* what is logged of writes that nobody gets any more */
};

/* Bytes, or what can be read as such: 0; or -1 with TypeError, as asyncio has it. */
int pacpy_writer_check(PyObject *data);

/* Does it write no more? Asked once the bytes are at hand, as getting them may run anything. */
typedef bool pacpy_writer_ended(const TransportObject *t);

/* write(data), of a transport that may write: if it has ended, the write is counted. New reference to
 * None, or NULL and an exception. */
PyObject *pacpy_writer_write(TransportObject *t, struct pacpy_writer *w, PyObject *data,
                             pacpy_writer_ended *ended);

/* writelines(list), likewise: one system call, if it takes all. */
PyObject *pacpy_writer_writelines(TransportObject *t, struct pacpy_writer *w, PyObject *list,
                                  pacpy_writer_ended *ended);

/* In a turn, with something pending and room: one system call. PAC_OK; PAC_WOULD_BLOCK, PAC_CLOSED;
 * PAC_OS_ERROR, and the exception is set. */
enum pac_status pacpy_writer_flush(TransportObject *t, struct pacpy_writer *w);

#endif
