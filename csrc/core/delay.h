/* delay.h - a future that is ready once its time has come.
 *
 * Making one arms nothing. The first poll arms a timer of the executor that is entered on the
 * polling thread; a poll under another executor moves it there. Never ready early. Dropping
 * disarms it.
 *
 * The timer itself is an entry of that executor, not part of the delay, so that a delay may be
 * polled, reset and dropped on any thread (one at a time) while the entry stays with the thread
 * that owns the wheel: a foreign thread marks the entry and sends it to its owner as a request.
 *
 * Stands for Tokio's Sleep. */
#ifndef PAC_DELAY_H
#define PAC_DELAY_H

#include "executor.h"
#include "future.h"

struct pac_timer_entry;

struct pac_delay {
    struct pac_future future;
    uint64_t deadline_ns;          /* of pac_executor_now_ns's clock */
    struct pac_timer_entry *entry; /* NULL: not armed */
    /* After READY: PAC_OK, or why it could not wait (PAC_NO_EXECUTOR, PAC_NO_MEMORY, PAC_CLOSED).
     */
    enum pac_status status;
};

/* Due at `deadline_ns`; PAC_NEVER: never. */
void pac_delay_init(struct pac_delay *d, uint64_t deadline_ns);

enum pac_poll pac_delay_poll(struct pac_delay *d, struct pac_context *cx);

/* Move the deadline, before or after it fired: it is then not ready before the new time. A poll
 * that was pending stays armed, and its waker is woken at the new time. */
void pac_delay_reset(struct pac_delay *d, uint64_t deadline_ns);

/* True once the timer has fired for the present deadline. */
bool pac_delay_is_elapsed(const struct pac_delay *d);

/* The present time on the clock of the executor that it is armed on; pac_clock_ns's if on none. */
uint64_t pac_delay_now_ns(const struct pac_delay *d);

/* Disarm. It may be polled again afterwards, and is armed anew then. */
void pac_delay_drop(struct pac_delay *d);

#endif
