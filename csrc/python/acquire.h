/* acquire.h - what Semaphore, Lock and RwLock share: the gate that tasks wait at, the futures that
 * wait there, and the Permit that some of them give.
 *
 * A gate is a semaphore of the core with the task that holds it alone, if it is one that can be
 * held alone. None of these objects refers to anything that could refer back, so none is ever
 * tracked by the collector. */
#ifndef PACPY_ACQUIRE_H
#define PACPY_ACQUIRE_H

#include "future.h"
#include "holder.h"

#include "../core/mutex.h"
#include "../core/rwlock.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    union {
        struct pac_semaphore semaphore;
        struct pac_mutex mutex;
        struct pac_rwlock rwlock;
    };
    uint64_t alone; /* who has so many permits holds it alone; 0: nobody is remembered */
    struct pacpy_holder holder;
    PyObject *weakrefs;
} GateObject;

/* tp_alloc, and the fields but the core's; NULL and an exception. */
PyObject *pacpy_gate_new(PyTypeObject *type, uint64_t alone);
void Gate_dealloc(PyObject *op);

extern PyMemberDef Gate_members[];

/* A future that takes n permits of `gate`: READY with True, with None, or with a Permit, which is
 * then given back by __aexit__ as well. NULL and an exception. */
PyObject *pacpy_acquire_true(GateObject *gate, uint64_t n);
PyObject *pacpy_acquire_none(GateObject *gate, uint64_t n);
PyObject *pacpy_acquire_permit(GateObject *gate, uint64_t n);

/* Take n permits now. 1, 0 (not now), or -1 and SemaphoreClosed. */
int pacpy_gate_try_acquire(GateObject *gate, uint64_t n);

/* The same, as a new Permit or None. */
PyObject *pacpy_gate_try_permit(GateObject *gate, uint64_t n);

/* Give back n permits, whoever holds it. 0, or -1: more would be there than can be; no exception is
 * set. */
int pacpy_gate_release(GateObject *gate, uint64_t n);

#endif
