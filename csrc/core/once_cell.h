/* once_cell.h - something that is made once, by whoever needs it first.
 *
 * The cell says who may make it and when it is there; the value itself stands with its owner. One
 * initialiser runs at a time. If it fails or is dropped, the turn goes to the one that has waited
 * longest; once one has succeeded, all go on. What was written before pac_once_cell_complete is
 * visible to whoever learns that the cell is set.
 *
 * All functions may be called from any thread; futures are polled by one thread at a time. Nothing
 * allocates. A pac_once_cell must outlive its futures. Stands for Tokio's OnceCell. */
#ifndef PAC_ONCE_CELL_H
#define PAC_ONCE_CELL_H

#include "semaphore.h"

struct pac_once_cell {
    struct pac_semaphore semaphore; /* its permit is the turn; closed: the cell is set */
};

void pac_once_cell_init(struct pac_once_cell *c);
bool pac_once_cell_is_set(struct pac_once_cell *c);

/* Begin to initialise, now. PAC_OK: it is the caller's turn, which ends with complete or abandon;
 * PAC_BUSY: it is somebody else's; PAC_CLOSED: the cell is set. */
PAC_MUST_USE enum pac_status pac_once_cell_begin(struct pac_once_cell *c);

/* The same as a future, which waits while it would be PAC_BUSY: READY with one of the others. */
void pac_once_cell_turn_init(struct pac_acquire *turn, struct pac_once_cell *c);

/* By whose turn it is: the value is there; or it is not, and the next one has the turn. */
void pac_once_cell_complete(struct pac_once_cell *c);
void pac_once_cell_abandon(struct pac_once_cell *c);

/* ---- get_or_init ---------------------------------------------------------------------------- */

/* A future that is READY once the cell is set, by its own initialiser if need be. */
struct pac_get_or_init {
    struct pac_future future;
    struct pac_acquire turn;
    struct pac_future *initialiser;
    const enum pac_status *outcome; /* the initialiser's */
    enum pac_status status; /* once READY: PAC_OK, or what its own initialiser has failed with */
    bool is_running;        /* the initialiser is, or would be at the next poll */
};

/* `initialiser` is polled when it is this one's turn, and only then. Before it is READY it writes
 * *outcome: PAC_OK if the value is where it belongs. It is dropped once, by this future's drop. */
void pac_get_or_init_init(struct pac_get_or_init *g, struct pac_once_cell *c,
                          struct pac_future *initialiser, const enum pac_status *outcome);
enum pac_poll pac_get_or_init_poll(struct pac_get_or_init *g, struct pac_context *cx);
void pac_get_or_init_drop(struct pac_get_or_init *g);

#endif
