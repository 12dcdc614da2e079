/* frame.h - the polls in progress on this thread: a stack of C structs.
 *
 * A coroutine has no argument through which a waker could reach the leaf that it awaits, so the
 * leaf takes the waker of the innermost poll in progress on its thread: the executor's poll of a
 * task, or a poll by hand. It must make sure that this poll really is what drives it: a task of
 * asyncio's own, stepped eagerly from within one of our tasks, is asyncio's to drive. So each
 * frame remembers what asyncio held as the current task when it began, and a leaf that finds
 * another one current is not ours. */
#ifndef PACPY_FRAME_H
#define PACPY_FRAME_H

#include "state.h"

#include "../core/future.h"

struct pacpy_frame {
    struct pac_context *cx;
    struct pacpy_frame *outer;
    PyObject *loop;         /* borrowed: whose current task was looked at; NULL: no loop */
    PyObject *current_task; /* borrowed: what asyncio held current; NULL: none */
    uint64_t version;       /* of asyncio's dict when that was so */
    void *driver;           /* who polls: tells one awaiting task from another */
    bool by_hand;
};

extern PAC_THREAD_LOCAL struct pacpy_frame *pacpy_frame_top;

/* A poll by hand (into_future, poll_once, a Future's poll method): push and pop. */
void pacpy_frame_push_by_hand(struct pacpy_state *st, struct pacpy_frame *frame,
                              struct pac_context *cx);

/* The poll of a leaf for the current task of `loop`, which runs on this thread. */
void pacpy_frame_push_under_loop(struct pacpy_state *st, struct pacpy_frame *frame,
                                 struct pac_context *cx, PyObject *loop);

static inline void
pacpy_frame_pop(struct pacpy_frame *frame)
{
    pacpy_frame_top = frame->outer;
}

/* The task that runs on this thread, ours or a foreign loop's: borrowed, for comparing; NULL: none. */
PyObject *pacpy_frame_current_task(struct pacpy_state *st);

/* What asyncio holds as the current task of `loop`, which runs on this thread: borrowed, NULL: none. */
PyObject *pacpy_asyncio_current_task(struct pacpy_state *st, PyObject *loop);

/* The slow half of pacpy_frame_current: asks asyncio. */
bool pacpy_frame_still_current(struct pacpy_state *st, struct pacpy_frame *frame);

/* The poll that drives the code that is running now, or NULL: asyncio drives it, or nobody does. */
static inline struct pacpy_frame *
pacpy_frame_current(struct pacpy_state *st)
{
    struct pacpy_frame *frame = pacpy_frame_top;
    if (PAC_UNLIKELY(frame == NULL)) {
        return NULL;
    }
#ifdef PACPY_HAVE_DICT_VERSION
    if (st->asyncio_current_tasks == NULL ||
        pacpy_dict_version(st->asyncio_current_tasks) == frame->version) {
        return frame;
    }
#endif
    return pacpy_frame_still_current(st, frame) ? frame : NULL;
}

#endif
