/* waker.h - wakers and contexts as Python objects. */
#ifndef PACPY_WAKER_H
#define PACPY_WAKER_H

#include "state.h"

#include "../core/future.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_waker waker; /* owned */
} WakerObject;

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    const struct pac_waker *borrowed; /* the poll's; NULL: made by hand, or the poll is over */
    PyObject *waker;                  /* a Waker: given by hand, or made on first asking; or NULL */
    bool by_hand;
} ContextObject;

/* A Python Waker that owns a clone of `w`. */
PyObject *pacpy_waker_new(struct pacpy_state *st, const struct pac_waker *w);

/* A Context for one poll; call pacpy_context_expire before that poll returns, then give it up. */
PyObject *pacpy_context_new(struct pacpy_state *st, const struct pac_waker *w);
void pacpy_context_expire(PyObject *context);

/* The waker that a Context stands for, borrowed from it and valid for as long as it is. NULL and
 * TypeError or RuntimeError (its poll is over). */
const struct pac_waker *pacpy_context_waker(struct pacpy_state *st, PyObject *context);

#endif
