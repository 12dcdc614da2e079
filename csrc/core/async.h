/* async.h - write an async function in C.
 *
 * `async fn` in Rust, and `async def` in Python, compile to a state machine: a struct that keeps
 * the locals which live across an await, and a number that says at which await it stands. These
 * macros write that machine as a switch, so that the function reads from top to bottom:
 *
 *     struct two_naps { struct pac_async async; struct pac_delay nap; int naps; };
 *
 *     static enum pac_poll
 *     two_naps_poll(struct pac_future *f, struct pac_context *cx)
 *     {
 *         struct two_naps *self = PAC_ASYNC_SELF(f, struct two_naps);
 *         PAC_ASYNC_BEGIN(self);
 *         pac_delay_init(&self->nap, ...);
 *         PAC_AWAIT(1, self, &self->nap.future, cx);      // suspended here: State1
 *         self->naps++;
 *         ...
 *         PAC_ASYNC_END(self);                            // Terminated
 *     }
 *
 * Rules. Locals that live across an await stand in the struct, not on the stack. The awaits of a
 * function have different numbers, 1 to 254, in any order; an await in a loop is one state. The
 * expression for the awaited future is evaluated once for each await. An awaited future is
 * dropped as soon as it is ready; its memory, and with it its output, stays. Between a
 * PAC_ASYNC_BEGIN and its END no `switch` may enclose an await.
 *
 * Dropping in the middle drops the future that is being awaited, then calls `cleanup` (if there
 * is one) once, which releases what the locals hold: by `state` it can tell how far the function
 * came. */
#ifndef PAC_ASYNC_H
#define PAC_ASYNC_H

#include "future.h"

enum {
    PAC_STATE_START = 0,        /* State0: never polled */
    PAC_STATE_TERMINATED = 255, /* returned, or dropped */
};

struct pac_async {
    struct pac_future future;    /* first */
    uint8_t state;               /* at which await it stands: readable at any time */
    struct pac_future *awaiting; /* what is being awaited, or NULL */
    void (*cleanup)(struct pac_async *self);
};

/* `poll` is the function written with the macros. `cleanup` may be NULL; it runs exactly once:
 * when the function is dropped, whether it ran to its end, was suspended, or never started.
 * `vtable`'s drop must be pac_async_drop. */
void pac_async_init(struct pac_async *a, const struct pac_future_vtable *vtable,
                    void (*cleanup)(struct pac_async *self));

/* The drop of every async function. Terminated afterwards; twice is a no-op. */
void pac_async_drop(struct pac_future *f);

/* "State0", "State1", ..., "Terminated". The string is constant. */
const char *pac_async_state_name(const struct pac_async *a);

#define PAC_ASYNC_SELF(future_ptr, type) PAC_CONTAINER_OF(future_ptr, type, async.future)

/* Says that running on into the next case is meant: PAC_AWAIT does it on the first way through. A
 * comment would not do, because none survives in a macro. */
#if defined(__GNUC__)
#define PAC_FALLTHROUGH __attribute__((fallthrough))
#else
#define PAC_FALLTHROUGH ((void)0)
#endif

/* clang-format off: the macros open and close blocks for one another */

/* Polling a terminated function, returned or dropped, answers READY again and runs nothing. */
#define PAC_ASYNC_BEGIN(self)      \
    switch ((self)->async.state) { \
        case PAC_STATE_START:

#define PAC_AWAIT(number, self, future_ptr, cx)                                 \
    do {                                                                        \
        (self)->async.awaiting = (future_ptr);                                  \
        (self)->async.state = (number);                                         \
        PAC_FALLTHROUGH;                                                        \
        case (number):                                                          \
            if (pac_future_poll((self)->async.awaiting, (cx)) == PAC_PENDING) { \
                return PAC_PENDING;                                             \
            }                                                                   \
            pac_async_awaited(&(self)->async);                                  \
    } while (0)

/* Return from the middle. */
#define PAC_ASYNC_RETURN(self)         \
    do {                               \
        pac_async_end(&(self)->async); \
        return PAC_READY;              \
    } while (0)

/* A `break` that leaves the function's own block ends here too, so it is a return. */
#define PAC_ASYNC_END(self)            \
    break;                             \
    case PAC_STATE_TERMINATED:         \
    default:                           \
        break;                         \
        }                              \
        pac_async_end(&(self)->async); \
        return PAC_READY

/* clang-format on */

/* The macros' own. */
void pac_async_awaited(struct pac_async *a);
void pac_async_end(struct pac_async *a);

#endif
