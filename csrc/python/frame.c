#include "frame.h"

PAC_THREAD_LOCAL struct pacpy_frame *pacpy_frame_top;

/* The loop that runs on this thread (a new reference), or NULL: none. Clears errors: there is
 * nobody to tell, and "no loop" is what the caller then finds out. */
static PyObject *
running_loop(struct pacpy_state *st)
{
    PyObject *loop = PyObject_CallNoArgs(st->asyncio_get_running_loop);
    if (loop == NULL) {
        PyErr_Clear();
    }
    else if (loop == Py_None) {
        Py_CLEAR(loop);
    }
    return loop;
}

PyObject *
pacpy_asyncio_current_task(struct pacpy_state *st, PyObject *loop)
{
    PyObject *task;
    if (st->asyncio_current_tasks != NULL) {
        task = PyDict_GetItemWithError(st->asyncio_current_tasks, loop);
    }
    else {
        /* 3.14 keeps it in the thread state; whoever holds it current holds a reference. */
        task = PyObject_CallOneArg(st->asyncio_current_task, loop);
        Py_XDECREF(task);
        task = task == Py_None ? NULL : task;
    }
    if (task == NULL) {
        PyErr_Clear();
    }
    return task;
}

static void
note_version(struct pacpy_state *st, struct pacpy_frame *frame)
{
#ifdef PACPY_HAVE_DICT_VERSION
    frame->version =
        st->asyncio_current_tasks == NULL ? 0 : pacpy_dict_version(st->asyncio_current_tasks);
#else
    frame->version = 0;
#endif
}

static void
frame_init(struct pacpy_frame *frame, struct pac_context *cx)
{
    frame->cx = cx;
    frame->outer = pacpy_frame_top;
    frame->driver = NULL;
    frame->by_hand = true;
    frame->loop = NULL;
    frame->current_task = NULL;
}

void
pacpy_frame_push_under_loop(struct pacpy_state *st, struct pacpy_frame *frame,
                            struct pac_context *cx, PyObject *loop)
{
    frame_init(frame, cx);
    frame->loop = loop;
    frame->current_task = frame->driver = pacpy_asyncio_current_task(st, loop);
    note_version(st, frame);
    pacpy_frame_top = frame;
}

void
pacpy_frame_push_by_hand(struct pacpy_state *st, struct pacpy_frame *frame, struct pac_context *cx)
{
    struct pacpy_frame *outer = pacpy_frame_top;
    frame_init(frame, cx);
    if (outer != NULL && pacpy_frame_current(st) == outer) {
        /* Within a poll of ours, whose findings hold. */
        frame->loop = outer->loop;
        frame->current_task = outer->current_task;
    }
    else if (st->asyncio_get_running_loop != NULL) {
        PyObject *loop = running_loop(st);
        if (loop != NULL) {
            frame->loop = loop;
            frame->current_task = pacpy_asyncio_current_task(st, loop);
            Py_DECREF(loop); /* it runs on this thread, below us */
        }
    }
    note_version(st, frame);
    pacpy_frame_top = frame;
}

bool
pacpy_frame_still_current(struct pacpy_state *st, struct pacpy_frame *frame)
{
    if (frame->loop == NULL) {
        /* No loop when it began: another one may have been started below it since. */
        if (st->asyncio_get_running_loop == NULL) {
            return true;
        }
        PyObject *loop = running_loop(st);
        Py_XDECREF(loop);
        return loop == NULL;
    }
    if (pacpy_asyncio_current_task(st, frame->loop) != frame->current_task) {
        return false;
    }
    note_version(st, frame);
    return true;
}

PyObject *
pacpy_frame_current_task(struct pacpy_state *st)
{
    struct pacpy_frame *frame = pacpy_frame_current(st);
    if (frame != NULL) {
        return frame->current_task;
    }
    /* What a poll that began now would find. */
    struct pacpy_frame fresh;
    pacpy_frame_push_by_hand(st, &fresh, NULL);
    pacpy_frame_pop(&fresh);
    return fresh.current_task;
}
