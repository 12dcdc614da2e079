/* end_listener.h - hearing of the end of a task or future, whoever has implemented it.
 *
 * One of ours tells the listener itself, at once: no object is made for it. Any other one calls a
 * small callback object, when its loop comes to that. */
#ifndef PACPY_END_LISTENER_H
#define PACPY_END_LISTENER_H

#include "completion.h"

struct pacpy_end_listener {
    struct pacpy_call_listener own; /* in the list of a completion of ours */
    PyObject *callback;             /* what was added to a foreign one; NULL: nothing */
};

static inline void
pacpy_end_listener_init(struct pacpy_end_listener *l, void (*call)(struct pacpy_call_listener *l))
{
    l->own.listener.node = (struct pac_list_node){NULL, NULL};
    l->own.listener.kind = PACPY_LISTEN_CALL;
    l->own.call = call;
    l->callback = NULL;
}

/* Have `call` called once when `future`, which is not done, ends. 0, or -1 and an exception. */
int pacpy_end_listen(struct pacpy_state *st, PyObject *future, struct pacpy_end_listener *l);

/* It is not called any more, and may go. `has_ended`: nothing is left to be taken out of a foreign
 * one. May run anything; does nothing if it does not listen. */
void pacpy_end_unlisten(struct pacpy_state *st, PyObject *future, struct pacpy_end_listener *l,
                        bool has_ended);

#endif
