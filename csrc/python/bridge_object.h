/* bridge_object.h - what bridge.c and bridge_wait.c share: the bridge of a foreign loop, and the
 * waits on it. bridge.h is what the rest of the module sees. */
#ifndef PACPY_BRIDGE_OBJECT_H
#define PACPY_BRIDGE_OBJECT_H

#include "bridge.h"

#include "eventloop.h"

#include "../core/executor.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_executor *executor; /* NULL once closed */
    LoopObject *own;               /* borrowed: a loop of ours in compatible mode, which owns the
                                      executor and holds this; NULL: a foreign loop */
    PyObject *loop;                /* borrowed, to compare with; NULL once it has gone */
    PyObject *loop_ref;            /* weak reference to it; or the loop, if it takes none */
    PyObject *timer;               /* what call_at returned; NULL: not armed */
    PyObject *raised;              /* a KeyboardInterrupt or the like, on its way out of a turn */
    PyObject *weakrefs;
    struct pac_list waits;
    struct pacpy_wait *spare; /* a wait of no leaf, kept for the next one; NULL: none */
    uint64_t armed_ns;        /* what `timer` was armed for; PAC_NEVER: not armed */
    int fd;                   /* the executor's */
    unsigned long thread_id;  /* of the thread that ran the loop last */
    bool reading;             /* the loop watches the executor's descriptor */
    bool soon;                /* the loop is about to call a turn */
    bool held;                /* by itself */
    bool early;               /* this turn is the loop's timer, come before its time */
} BridgeObject;

/* One leaf that is awaited under a loop, and what wakes the task that awaits it. */
struct pacpy_wait {
    struct pac_future future;      /* the task's */
    struct pac_task *task;         /* one reference */
    struct pac_executor *executor; /* NULL once the task has ended */
    BridgeObject *bridge;          /* borrowed; NULL: the loop is ours, or the task has ended */
    LoopObject *own_loop;          /* borrowed, likewise */
    PyObject *asyncio_future;      /* NULL: none yet, or the task has ended */
    struct pac_list_node node;     /* in the bridge's waits */
    bool abandoned;                /* its leaf has let go: the end of the task frees it */
};

/* Around calls that may run anything, in places that an exception may be on its way through. */
static inline void
restore_exception(PyObject *exc)
{
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* `op` is a loop of ours, and its own executor drives it. */
static inline bool
pacpy_bridge_is_native(struct pacpy_state *st, PyObject *op)
{
    return PyObject_TypeCheck(op, st->LoopBase_type) && !((LoopObject *)op)->compatible;
}

/* Free the spare wait, if any. The executor is closed. */
void pacpy_bridge_free_spare(BridgeObject *b);

/* The bridge of `loop`, made if there is none: a new reference; NULL and an exception. */
BridgeObject *pacpy_bridge_of(struct pacpy_state *st, PyObject *loop);

/* The loop of `b` as a new reference; NULL if it has gone. */
PyObject *pacpy_bridge_loop(BridgeObject *b);

/* Have `loop` watch what has to be watched now. 0 or -1. */
int pacpy_bridge_settle(BridgeObject *b, PyObject *loop);

/* Have `loop` call a turn at once. 0 or -1. */
int pacpy_bridge_turn_soon(BridgeObject *b, PyObject *loop);

/* Let the bridge hold itself while the loop watches nothing of it, and not otherwise. */
void pacpy_bridge_update_hold(BridgeObject *b);

#endif
