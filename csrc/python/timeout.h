/* timeout.h - what a loop has to know of the timers of Timeouts. */
#ifndef PACPY_TIMEOUT_H
#define PACPY_TIMEOUT_H

#include "state.h"

#include "../core/wheel.h"

/* In the traverse of a loop, for each timer in its wheel: visit the Timeout whose timer it is. */
int pacpy_timeout_visit_timer(struct pac_timer *timer, visitproc visit, void *arg);

#endif
