/* delay.h - which loop's time it is: what the things that have a deadline share. */
#ifndef PACPY_DELAY_H
#define PACPY_DELAY_H

#include "state.h"

/* The asyncio loop that runs on this thread, ours or not: a new reference, or None; NULL and an
 * exception. Nothing is imported for the answer that there is none. */
PyObject *pacpy_running_asyncio_loop(struct pacpy_state *st);

#endif
