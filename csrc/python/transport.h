/* transport.h - what the loop's transports have in common: a descriptor's readiness on one side, a
 * protocol on the other.
 *
 * A transport is an instance of asyncio's abstract class for its kind; what asyncio's own selector
 * transports offer beside the documented methods (_sock, _closing, _conn_lost, _force_close, ...)
 * is here too, since others lean on it. A kind (stream_transport.c) adds how it reads and writes.
 *
 * How it gets its turn. An event only notes readiness and puts the transport's runnable at the back
 * of the ready queue, so its callbacks come in one order with those of call_soon and with tasks.
 * connection_lost has a runnable of its own, as asyncio gives it a place of its own in the queue.
 *
 * Who holds it. The loop does, by one reference and its list of what it holds, while the transport
 * reads, has something to write or stands in the queue; `pacpy_transport_settle` brings that in
 * line after each change. One that is paused and idle is its user's alone, as in asyncio, and
 * warns if it is given up unclosed. The loop's end gives up all of them.
 *
 * The protocol's methods run in the context in which the transport was made, also when it is
 * resumed by somebody else. The loop's thread only. */
#ifndef PACPY_TRANSPORT_H
#define PACPY_TRANSPORT_H

#include "eventloop.h"
#include "read_buffer.h"

#include "../core/io.h"

/* Room for the slots of asyncio's abstract classes, which none of us uses. */
enum { PACPY_TRANSPORT_SLOTS = 6 };

/* The mark above which a protocol is told to pause, unless it is set. */
enum { PACPY_HIGH_WATER = 64 * 1024 };

typedef struct pacpy_transport TransportObject;

/* What a kind of transport does its own way. */
struct pacpy_transport_vtable {
    /* Is there something to be done by `run` now? */
    bool (*wants_run)(TransportObject *t);
    /* Read and write once, in the transport's context. Leaves no exception set. */
    void (*run)(TransportObject *t);
    size_t (*pending)(TransportObject *t); /* bytes that wait to be written */
    void (*drop_pending)(TransportObject *t);
    void (*lost)(TransportObject *t); /* after connection_lost, the socket being closed */
    /* What it has to know of another protocol before that is set, or NULL. 0, or -1 and an exception. */
    int (*adopt)(TransportObject *t, PyObject *protocol);
    bool is_pipe; /* `sock` is a file object of a pipe or the like */
};

struct pacpy_transport {
    PyObject_HEAD
    PyObject *asyncio_slots[PACPY_TRANSPORT_SLOTS];
    PyObject *dict;
    PyObject *weakrefs;
    const struct pacpy_transport_vtable *vtable;
    struct pacpy_state *st;
    LoopObject *loop; /* as all of these NULL once connection_lost was called */
    PyObject *sock;
    PyObject *protocol;
    PyObject *server;      /* or NULL */
    PyObject *closed_sock; /* what `sock` was, for get_extra_info(), or NULL */
    PyObject *extra;       /* a dict */
    PyObject *context;     /* in which the protocol is called */
    PyObject *waiter;      /* a future to be told that connection_made was called, or NULL */
    PyObject *lost_reason; /* what connection_lost is going to get, or NULL for None */
    struct pac_io io;
    struct pac_runnable runnable;      /* start, then reading and writing */
    struct pac_runnable lost_runnable; /* connection_lost */
    struct pacpy_held held;
    int fd;
    int conn_lost; /* counts writes that come to nothing, as asyncio does */
    Py_ssize_t high_water, low_water;
    bool owns_fd;     /* it is a duplicate of the pipe's, which somebody else watches too */
    bool queued;      /* runnable stands in the queue */
    bool lost_queued; /* lost_runnable does */
    bool started;     /* connection_made was called */
    bool closing;
    bool ending; /* connection_lost is on its way, or was called */
    bool paused; /* by pause_reading */
    bool at_eof; /* the other side will send no more, and the protocol knows */
    bool protocol_paused;
    bool protocol_connected;
    bool in_context; /* further up this stack */
};

/* ---- making, ending ------------------------------------------------------------------------- */

/* Nothing is written from now on: connection_lost is on its way, or nobody is left to be told. */
static inline void
pacpy_transport_note_end(TransportObject *t)
{
    t->closing = t->ending = true;
    t->conn_lost++;
}

/* The shared part of a fresh object, zeroed behind its header: takes `sock` on, registers it and
 * queues connection_made. `server`, `waiter` and `extra` may be NULL or None. 0, or -1 and an
 * exception with nothing registered. */
int pacpy_transport_init(TransportObject *t, const struct pacpy_transport_vtable *vtable,
                         LoopObject *loop, PyObject *sock, PyObject *protocol, PyObject *waiter,
                         PyObject *extra, PyObject *server, enum pac_io_kind kind);

/* Register its descriptor: once made, and again after the record was closed while somebody else
 * registered it. 0, or -1 and an exception. */
int pacpy_transport_watch(TransportObject *t, enum pac_io_kind kind);
void pacpy_transport_unwatch(TransportObject *t); /* twice is a no-op */

/* close(): reads no more, writes what is pending, then connection_lost(None). 0 or -1. */
int pacpy_transport_close(TransportObject *t);

/* abort(), or an error: drops what is pending; connection_lost(`exc`, NULL for None) by the queue,
 * unless it is on its way already. 0 or -1. */
int pacpy_transport_force_close(TransportObject *t, PyObject *exc);

/* `exc` ends the connection: asyncio's _fatal_error, which tells the loop's exception handler, or
 * for an OSError only debug mode's log. */
void pacpy_transport_end_by(TransportObject *t, PyObject *exc, const char *message);

/* The exception that is set ends the connection in that way. SystemExit and
 * KeyboardInterrupt leave the loop instead. Leaves no exception set. */
void pacpy_transport_fatal(TransportObject *t, const char *message);

/* Likewise where asyncio lets SystemExit and KeyboardInterrupt go to the caller: 0, or -1 with one
 * of these two set. */
int pacpy_transport_fatal_to_caller(TransportObject *t, const char *message);

/* The exception that is set comes from a callback of the queue: to the loop's exception handler.
 * `what`: whose name is said. Leaves no exception set. */
void pacpy_transport_report(TransportObject *t, const char *what);

/* Debug mode: log `format`, which says %r once, for the transport. The first says 0 or -1, the other
 * leaves no exception set. */
int pacpy_transport_log(TransportObject *t, const char *format);
void pacpy_transport_note(TransportObject *t, const char *format);

/* connection_lost(reason) now, then let go of everything. */
void pacpy_transport_lose(TransportObject *t, PyObject *reason);

/* ---- turns ---------------------------------------------------------------------------------- */

/* After any change: queue it if it wants to run, and have the loop hold it for as long as it has to.
 * The caller has a reference. 0, or -1 and RuntimeError: it wants to run and the loop is closed. */
int pacpy_transport_settle(TransportObject *t);

/* Would it take what is readable? */
static inline bool
pacpy_transport_reads(const TransportObject *t)
{
    return t->started && !t->closing && !t->paused && !t->at_eof;
}

/* Call the protocol's method `name` in the context that is entered. `arg` may be NULL. The method may
 * have another protocol set, or, by running the loop within itself, everything let go of; then there
 * is nobody to be called any more, and the result is None. */
static inline PyObject *
pacpy_transport_call(TransportObject *t, PyObject *name, PyObject *arg)
{
    if (PAC_UNLIKELY(t->protocol == NULL)) {
        return Py_NewRef(Py_None);
    }
    PyObject *args[] = {Py_NewRef(t->protocol), arg};
    PyObject *result = PyObject_VectorcallMethod(name, args, (arg == NULL ? 1 : 2), NULL);
    Py_DECREF(args[0]);
    return result;
}

/* The loop's buffer to receive into, of PACPY_READ_BUFFER bytes, for use until the next call of
 * Python; NULL and MemoryError. */
char *pacpy_transport_read_buffer(TransportObject *t);

/* ---- flow control --------------------------------------------------------------------------- */

/* What is pending has grown, by the user's call: pause_writing() if it is too much. 0, or -1 with
 * SystemExit or KeyboardInterrupt. */
int pacpy_transport_maybe_pause(TransportObject *t);

/* A write after connection_lost was decided: it is counted, and after some logged as `message`. A new
 * reference to None, or NULL and an exception. */
PyObject *pacpy_transport_write_to_nobody(TransportObject *t, const char *message);

/* It has shrunk, in the transport's run: resume_writing() if it is little enough. */
void pacpy_transport_maybe_resume(TransportObject *t);

/* ---- for the types -------------------------------------------------------------------------- */

int pacpy_transport_traverse(PyObject *op, visitproc visit, void *arg);
int pacpy_transport_clear(PyObject *op);
void pacpy_transport_finalize(PyObject *op);
/* Of tp_dealloc: after it only what the kind has added is left, and the memory. The type's
 * tp_finalize has to be pacpy_transport_finalize. False: it was resurrected. */
bool pacpy_transport_destroy(PyObject *op);
PyObject *pacpy_transport_repr(PyObject *op);

extern PyMemberDef pacpy_transport_members[];
extern PyGetSetDef pacpy_transport_getset[];
extern PyMethodDef pacpy_transport_methods[];

/* One table of two, whose ends are empty entries: for types that add to the above. `size` entries
 * have room in `all`. */
void pacpy_join_methods(PyMethodDef *all, size_t size, const PyMethodDef *a, const PyMethodDef *b);
void pacpy_join_getset(PyGetSetDef *all, size_t size, const PyGetSetDef *a, const PyGetSetDef *b);

/* Make a type from `spec` that is an asyncio.Transport, as asyncio's own all are, and a `kind`, the
 * name of an abstract class of asyncio.transports. 0 or -1. */
int pacpy_transport_make_type(struct pacpy_state *st, PyType_Spec *spec, const char *kind,
                              PyTypeObject **slot, const char *name);

#endif
