/* task_debug.c - what debug mode tells of a poll: that it took long, or that nothing will cause the
 * next one.
 *
 * A future may say PENDING and keep no waker: then its task hangs, without a trace of why. Whoever can
 * wake a task holds a reference to its core (task_state.h), so the count tells. It is looked at within
 * the poll, in one load with NOTIFIED: a wake of another thread gives its reference up by the same
 * write that sets that bit. */
#include "task.h"

/* Those to a suspended task that nobody can wake: of the executor's list, of the poll in progress, and
 * ours. */
enum { REFERENCES_WITHOUT_WAKERS = 3 };

static bool
nothing_will_wake(struct pacpy_task *t)
{
    if (t->completion.outcome != PACPY_PENDING || t->waiting_for != NULL || t->core == NULL) {
        return false;
    }
    uint64_t word = pac_task_state_load(&t->core->state);
    return !(word & (PAC_TASK_NOTIFIED | PAC_TASK_CANCELLED)) &&
           word / PAC_TASK_REF <= REFERENCES_WITHOUT_WAKERS;
}

void
pacpy_task_note_poll(PyObject *op, uint64_t began_ns)
{
    struct pacpy_task *t = pacpy_task_of(op);
    LoopObject *loop = (LoopObject *)t->completion.loop;
    pacpy_loop_note_duration(loop, began_ns, op);
    if (!nothing_will_wake(t)) {
        return;
    }
    PyObject *message = PyUnicode_FromFormat(
        "%R is pending, and nothing has kept a waker: only cancel() can wake it", op);
    PyObject *done = message == NULL ? NULL
                                     : PyObject_CallMethod(loop->st->asyncio_support, "log_warning",
                                                           "O", message);
    if (done == NULL) {
        PyErr_WriteUnraisable(op);
    }
    Py_XDECREF(done);
    Py_XDECREF(message);
}
