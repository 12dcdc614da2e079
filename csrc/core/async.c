/* async.c - the part of an async function that needs no macro.
 *
 *            await n                     await m ready, then the end
 *   State0 ─────────► Staten ─► Statem ────────────────────────────► Terminated
 *      │                 │         │                                     ▲
 *      └─────────────────┴─────────┴──────────── dropped ────────────────┘
 *
 * 1. `awaiting` is set exactly while the function is suspended at an await, so whoever
 *    drops it there knows what else to drop.
 * 2. `cleanup` is taken out of the struct before it is called, which makes it run only
 *    once, whatever it does itself.
 * 3. The innermost thing goes first: the awaited future may point into the locals that
 *    cleanup releases, never the other way round.
 */
#include "async.h"

void
pac_async_init(struct pac_async *a, const struct pac_future_vtable *vtable,
               void (*cleanup)(struct pac_async *self))
{
    a->future.vtable = vtable;
    a->state = PAC_STATE_START;
    a->awaiting = NULL;
    a->cleanup = cleanup;
}

static void
drop_awaiting(struct pac_async *a)
{
    struct pac_future *awaited = a->awaiting;
    a->awaiting = NULL;
    if (awaited != NULL) {
        pac_future_drop(awaited);
    }
}

void
pac_async_awaited(struct pac_async *a)
{
    drop_awaiting(a);
}

void
pac_async_end(struct pac_async *a)
{
    PAC_ASSERT(a->awaiting == NULL);
    a->state = PAC_STATE_TERMINATED;
}

void
pac_async_drop(struct pac_future *f)
{
    struct pac_async *a = PAC_CONTAINER_OF(f, struct pac_async, future);
    void (*cleanup)(struct pac_async *self) = a->cleanup;

    drop_awaiting(a);
    a->cleanup = NULL;
    if (cleanup != NULL) {
        /* Before the state is overwritten: cleanup reads from it how far the
         * function came. */
        cleanup(a);
    }
    a->state = PAC_STATE_TERMINATED;
}

/* A table, because a name made on demand would need a buffer that someone owns. */
/* clang-format off */
#define TEN_NAMES(tens)                                                          \
    "State" #tens "0", "State" #tens "1", "State" #tens "2", "State" #tens "3",  \
    "State" #tens "4", "State" #tens "5", "State" #tens "6", "State" #tens "7",  \
    "State" #tens "8", "State" #tens "9"

static const char state_names[][sizeof "State254"] = {
    TEN_NAMES(),   TEN_NAMES(1),  TEN_NAMES(2),  TEN_NAMES(3),  TEN_NAMES(4),
    TEN_NAMES(5),  TEN_NAMES(6),  TEN_NAMES(7),  TEN_NAMES(8),  TEN_NAMES(9),
    TEN_NAMES(10), TEN_NAMES(11), TEN_NAMES(12), TEN_NAMES(13), TEN_NAMES(14),
    TEN_NAMES(15), TEN_NAMES(16), TEN_NAMES(17), TEN_NAMES(18), TEN_NAMES(19),
    TEN_NAMES(20), TEN_NAMES(21), TEN_NAMES(22), TEN_NAMES(23), TEN_NAMES(24),
    TEN_NAMES(25),
};
/* clang-format on */

const char *
pac_async_state_name(const struct pac_async *a)
{
    return a->state == PAC_STATE_TERMINATED ? "Terminated" : state_names[a->state];
}
