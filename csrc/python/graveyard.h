/* graveyard.h - what only a thread with the GIL may free, when one without it was the last to need it.
 *
 * A thread that Python does not know gives up the last reference to something that holds Python
 * objects. It must not wait for the GIL, so it lays the thing in the graveyard of the interpreter
 * that it belongs to, and the next thread that comes by with the GIL buries it, when something of the
 * kind is made or has done its work. When the interpreter goes, the list is
 * emptied for the last time and closed. What comes after that is leaked: there is nobody left who
 * could free it.
 *
 * Each import of the module has one. It is an allocation of its own that what may come to lie in it
 * keeps alive, as that outlives the module. */
#ifndef PACPY_GRAVEYARD_H
#define PACPY_GRAVEYARD_H

#include "state.h"

/* Part of the thing. */
struct pacpy_grave {
    struct pacpy_grave *next; /* whoever laid it down; then the graveyard */
    /* Attached: free the thing. Not called if it is leaked. */
    void (*bury)(struct pacpy_grave *grave);
};

struct pacpy_graveyard {
    PAC_ATOMIC(size_t) references;
    PAC_ATOMIC(struct pacpy_grave *) dead; /* newest first; a mark once it is closed */
    PyInterpreterState *interpreter;       /* only compared */
    struct pacpy_state *st;
    bool is_main;
};

/* The reference of a thing that may come to lie there. */
struct pacpy_graveyard *pacpy_graveyard_ref(struct pacpy_graveyard *g);
void pacpy_graveyard_unref(struct pacpy_graveyard *g);

/* [any thread] Is this thread attached to the interpreter of `g`, so that it may bury? */
bool pacpy_graveyard_is_attached(const struct pacpy_graveyard *g);

/* [any thread] Has its interpreter gone? Then nothing is buried any more. */
bool pacpy_graveyard_is_closed(struct pacpy_graveyard *g);

/* [any thread] Bury at once, if this thread may; lay it down otherwise. */
void pacpy_graveyard_take(struct pacpy_graveyard *g, struct pacpy_grave *grave);

/* Attached: bury all that lie there. May run anything. */
void pacpy_graveyard_empty(struct pacpy_graveyard *g);

/* The same, for nothing if nothing lies there. */
static inline void
pacpy_graveyard_visit(struct pacpy_graveyard *g)
{
    /* relaxed: whoever acts on it goes through pacpy_graveyard_empty. */
    if (PAC_UNLIKELY(g != NULL && pac_atomic_load(&g->dead, PAC_RELAXED) != NULL)) {
        pacpy_graveyard_empty(g);
    }
}

/* st->graveyard, or NULL and RuntimeError: the module is being torn down. */
struct pacpy_graveyard *pacpy_graveyard_of(struct pacpy_state *st);

#endif
