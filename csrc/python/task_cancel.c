/* task_cancel.c - asking a task to end: down the chain of what it waits for.
 *
 * The request goes to what the task awaits, as asyncio has it, and comes back up the chain as the
 * CancelledError with which that ends. Only where the chain ends (in a leaf of ours, or in something
 * that has just ended) is the error thrown by the task's own next poll. */
#include "task.h"

int
pacpy_task_cancel_waiting_for(struct pacpy_task *t, PyObject *message)
{
    struct pacpy_state *st = t->completion.st;
    PyObject *future = t->waiting_for;
    if (Py_IS_TYPE(future, st->Task_type)) {
        return pacpy_task_cancel(pacpy_task_of(future), message);
    }
    if (Py_IS_TYPE(future, st->AsyncioFuture_type)) {
        return pacpy_completion_cancel(pacpy_completion_of(future), message);
    }
    Py_INCREF(future);
    PyObject *cancel = PyObject_GetAttr(future, st->str_cancel);
    PyObject *kwargs = cancel == NULL ? NULL : PyDict_New();
    PyObject *done = NULL;
    if (kwargs != NULL &&
        PyDict_SetItem(kwargs, st->str_msg, message == NULL ? Py_None : message) == 0) {
        done = PyObject_VectorcallDict(cancel, NULL, 0, kwargs);
    }
    Py_XDECREF(cancel);
    Py_XDECREF(kwargs);
    Py_DECREF(future);
    int truth = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    return truth;
}

/* Then its poll sees to what is to be done: in the place in the queue that this has, and not that
 * of the request, which it makes itself or has somebody make. */
static inline bool
is_being_polled(struct pacpy_task *t)
{
    return (pac_task_state_load(&t->core->state) & PAC_TASK_RUNNING) != 0;
}

/* The pending task of ours that `t` awaits; NULL if it awaits anything else. */
static inline struct pacpy_task *
awaited_task(const struct pacpy_task *t)
{
    if (t->waiting_for == NULL || !Py_IS_TYPE(t->waiting_for, t->completion.st->Task_type)) {
        return NULL;
    }
    struct pacpy_task *next = pacpy_task_of(t->waiting_for);
    return next->completion.outcome == PACPY_PENDING ? next : NULL;
}

/* Count the request in `t` and in the tasks that it awaits, one behind the other; returns the last
 * of them. No recursion, since there may be any number. Tasks that await each other have no last
 * one, and nothing would ever end them: the one that closes the circle is made to wait no more. */
static struct pacpy_task *
follow_cancel(struct pacpy_task *t)
{
    struct pacpy_task *first = t, *next;
    for (;;) {
        t->on_cancel_path = true;
        t->completion.log_traceback = false;
        t->cancel_requests++;
        next = awaited_task(t);
        if (next == NULL) {
            break;
        }
        if (next->on_cancel_path) {
            pac_list_remove(&t->listener.node);
            t->wait_is_over = true;
            break;
        }
        t = next;
    }
    for (struct pacpy_task *passed = first; passed != t; passed = awaited_task(passed)) {
        passed->on_cancel_path = false;
    }
    t->on_cancel_path = false;
    return t;
}

int
pacpy_task_cancel(struct pacpy_task *t, PyObject *message)
{
    t->completion.log_traceback = false;
    if (t->completion.outcome != PACPY_PENDING) {
        return 0;
    }
    t = follow_cancel(t);
    struct pacpy_completion *c = &t->completion;
    bool is_circle = awaited_task(t) != NULL;
    if (t->waiting_for != NULL && !is_circle) {
        int cancelled = pacpy_task_cancel_waiting_for(t, message);
        if (cancelled != 0) {
            /* An exception is the caller's: to go on would ask each of the futures that are gathered in
             * a circle again and again. */
            return cancelled;
        }
    }
    t->must_cancel = true;
    Py_XSETREF(c->cancel_message, Py_XNewRef(message));
    if ((t->waiting_for == NULL || is_circle) && t->core != NULL && !is_being_polled(t)) {
        /* Suspended in a leaf of ours, or queued: the next poll throws. */
        pac_task_wake(t->core);
    }
    return 1;
}
