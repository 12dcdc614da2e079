/* once_cell.c - a semaphore of one permit, the turn, that is closed once the cell is set: so who
 * waits for the turn learns either that it has come, or that it is not needed any more. */
#include "once_cell.h"

void
pac_once_cell_init(struct pac_once_cell *c)
{
    pac_semaphore_init(&c->semaphore, 1, 1);
}

bool
pac_once_cell_is_set(struct pac_once_cell *c)
{
    return pac_semaphore_is_closed(&c->semaphore);
}

enum pac_status
pac_once_cell_begin(struct pac_once_cell *c)
{
    return pac_semaphore_try_acquire(&c->semaphore, 1);
}

void
pac_once_cell_turn_init(struct pac_acquire *turn, struct pac_once_cell *c)
{
    pac_acquire_init(turn, &c->semaphore, 1);
}

void
pac_once_cell_complete(struct pac_once_cell *c)
{
    pac_semaphore_close(&c->semaphore);
}

void
pac_once_cell_abandon(struct pac_once_cell *c)
{
    enum pac_status status = pac_semaphore_release(&c->semaphore, 1);
    PAC_ASSERT(status == PAC_OK);
    (void)status;
}

/* ---- get_or_init ---------------------------------------------------------------------------- */

static inline struct pac_once_cell *
cell_of(struct pac_get_or_init *g)
{
    return PAC_CONTAINER_OF(g->turn.semaphore, struct pac_once_cell, semaphore);
}

enum pac_poll
pac_get_or_init_poll(struct pac_get_or_init *g, struct pac_context *cx)
{
    if (!g->is_running) {
        if (pac_acquire_poll(&g->turn, cx) == PAC_PENDING) {
            return PAC_PENDING;
        }
        if (pac_acquire_status(&g->turn) == PAC_CLOSED) {
            return PAC_READY;
        }
        g->is_running = true;
    }
    if (pac_future_poll(g->initialiser, cx) == PAC_PENDING) {
        return PAC_PENDING;
    }
    g->is_running = false;
    g->status = *g->outcome;
    if (g->status == PAC_OK) {
        pac_once_cell_complete(cell_of(g));
    }
    else {
        pac_once_cell_abandon(cell_of(g));
    }
    return PAC_READY;
}

void
pac_get_or_init_drop(struct pac_get_or_init *g)
{
    pac_acquire_drop(&g->turn);
    /* Before the next one may begin. */
    pac_future_drop(g->initialiser);
    if (g->is_running) {
        g->is_running = false;
        pac_once_cell_abandon(cell_of(g));
    }
}

static enum pac_poll
get_or_init_vtable_poll(struct pac_future *self, struct pac_context *cx)
{
    return pac_get_or_init_poll(PAC_CONTAINER_OF(self, struct pac_get_or_init, future), cx);
}

static void
get_or_init_vtable_drop(struct pac_future *self)
{
    pac_get_or_init_drop(PAC_CONTAINER_OF(self, struct pac_get_or_init, future));
}

static const struct pac_future_vtable get_or_init_vtable = {
    .poll = get_or_init_vtable_poll,
    .drop = get_or_init_vtable_drop,
};

void
pac_get_or_init_init(struct pac_get_or_init *g, struct pac_once_cell *c,
                     struct pac_future *initialiser, const enum pac_status *outcome)
{
    g->future.vtable = &get_or_init_vtable;
    pac_once_cell_turn_init(&g->turn, c);
    g->initialiser = initialiser;
    g->outcome = outcome;
    g->status = PAC_OK;
    g->is_running = false;
}
