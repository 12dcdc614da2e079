/* branch.c - one branch of a join or select: starting it, hearing of its end, polling it.
 *
 * A child is listened to (end_listener.h): its end costs a counter, and a join of many does not ask
 * each of them at every poll. */
#include "branches.h"

#include "bridge.h"
#include "eventloop.h"
#include "task.h"

/* ---- hearing of the end --------------------------------------------------------------------- */

/* 1: it ended with an exception or was cancelled; 0; or -1 and an exception. The exception of a
 * foreign one counts as seen after this. */
static int
has_failed(struct pacpy_branch *b)
{
    struct pacpy_state *st = b->owner->base.st;
    if (pacpy_is_completion(st, b->awaitable)) {
        struct pacpy_completion *c = pacpy_completion_of(b->awaitable);
        return c->outcome == PACPY_CANCELLED || c->exception != NULL;
    }
    b->was_read = true;
    PyObject *failed = PyObject_CallMethod(st->asyncio_support, "has_failed", "O", b->awaitable);
    int truth = failed == NULL ? -1 : PyObject_IsTrue(failed);
    Py_XDECREF(failed);
    return truth;
}

/* `b`, which is listened to, is done. */
static void
branch_done(struct pacpy_branch *b)
{
    BranchesObject *self = b->owner;
    b->is_done = true;
    self->tasks_left--;
    self->children_left -= b->kind == PACPY_BRANCH_CHILD;
    bool is_worth_a_poll;
    if (self->phase == PACPY_BRANCHES_FINISHING) {
        is_worth_a_poll = self->children_left == 0;
    }
    else if (pacpy_branches_rules_of(self)->first_counts) {
        is_worth_a_poll = true;
    }
    else {
        if (self->failed == NULL) {
            int failed = has_failed(b);
            if (failed < 0) {
                PyErr_Clear(); /* asking for its result will say it again */
            }
            if (!b->is_done) {
                return; /* let go of meanwhile */
            }
            self->failed = failed == 0 ? NULL : b;
        }
        is_worth_a_poll = self->failed == b || self->tasks_left == 0;
    }
    if (is_worth_a_poll) {
        pac_waker_wake(&self->waker);
    }
}

static void
heard(struct pacpy_call_listener *l)
{
    struct pacpy_branch *b = PAC_CONTAINER_OF(l, struct pacpy_branch, listener.own);
    /* A foreign one that is asked how it has ended may run anything. */
    bool is_held = b->listener.callback != NULL && Py_REFCNT(b->owner) > 0;
    PyObject *owner = is_held ? Py_NewRef((PyObject *)b->owner) : NULL;
    branch_done(b);
    Py_XDECREF(owner);
}

/* Listen to the task or future of `b`. 0, or -1 and an exception. */
static int
listen(struct pacpy_branch *b)
{
    BranchesObject *self = b->owner;
    int done = pacpy_future_is_done(self->base.st, b->awaitable);
    if (done < 0) {
        return -1;
    }
    b->is_heard = true;
    if (done) {
        b->is_done = true;
        return 0;
    }
    self->tasks_left++;
    self->children_left += b->kind == PACPY_BRANCH_CHILD;
    if (pacpy_end_listen(self->base.st, b->awaitable, &b->listener) < 0) {
        b->is_heard = false;
        self->tasks_left--;
        self->children_left -= b->kind == PACPY_BRANCH_CHILD;
        return -1;
    }
    return 0;
}

void
pacpy_branch_stop_listening(struct pacpy_branch *b)
{
    BranchesObject *self = b->owner;
    bool was_done = b->is_done;
    if (b->is_heard && !was_done) {
        self->tasks_left--;
        self->children_left -= b->kind == PACPY_BRANCH_CHILD;
    }
    b->is_heard = b->is_done = false;
    pacpy_end_unlisten(self->base.st, b->awaitable, &b->listener, was_done);
}

/* ---- its life ----------------------------------------------------------------------------- */

void
pacpy_branch_init(struct pacpy_branch *b, BranchesObject *owner, enum pacpy_branch_kind kind,
                  PyObject *awaitable)
{
    b->kind = (uint8_t)kind;
    b->owner = owner;
    pacpy_end_listener_init(&b->listener, heard);
    b->awaitable = Py_NewRef(awaitable);
}

void
pacpy_branch_over(struct pacpy_branch *b)
{
    PyObject *awaitable = b->awaitable;
    if (awaitable == NULL) {
        return;
    }
    if (b->kind == PACPY_BRANCH_FUTURE) {
        b->owner->futures_left--;
    }
    else if (b->kind == PACPY_BRANCH_CLOSING) {
        b->owner->children_left--;
    }
    else if (b->is_heard) {
        pacpy_branch_stop_listening(b);
    }
    b->kind = PACPY_BRANCH_OVER;
    b->awaitable = NULL;
    pacpy_release(awaitable);
}

/* Does the task or future belong to the loop that runs here? 0, or -1 and RuntimeError. */
static int
check_given(struct pacpy_state *st, PyObject *given)
{
    if (pacpy_frame_top != NULL && given == pacpy_frame_top->current_task) {
        PyErr_Format(PyExc_RuntimeError, "Task cannot await on itself: %R", given);
        return -1;
    }
    if (pacpy_running_loop != NULL && pacpy_is_completion(st, given) &&
        pacpy_completion_of(given)->loop == pacpy_running_loop) {
        return 0;
    }
    PyObject *checked = PyObject_CallMethod(st->asyncio_support, "check_loop_of", "O", given);
    Py_XDECREF(checked);
    return checked == NULL ? -1 : 0;
}

/* 0, or -1 and an exception. */
static int
branch_start(struct pacpy_branch *b)
{
    struct pacpy_state *st = b->owner->base.st;
    if (st->Task_type == NULL && pacpy_need_asyncio(st) < 0) {
        return -1;
    }
    if (b->kind == PACPY_BRANCH_WAITING) {
        PyObject *task = pacpy_spawn_or_leave(st, b->awaitable);
        if (task == NULL) {
            return -1;
        }
        b->kind = PACPY_BRANCH_CHILD;
        Py_SETREF(b->awaitable, task);
    }
    else if (check_given(st, b->awaitable) < 0) {
        return -1;
    }
    return listen(b);
}

int
pacpy_poll_in_place(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    void *driver = pacpy_frame_top == NULL ? NULL : pacpy_frame_top->driver;
    if (f->wait != NULL) {
        pacpy_bridge_end_wait(f); /* it has moved here from a foreign loop */
    }
    if (f->driver != NULL && driver != NULL && f->driver != driver) {
        PyErr_SetString(PyExc_RuntimeError, "this future is already being awaited by another task");
        return -1;
    }
    int ready = pacpy_future_poll(f, cx, value);
    if (ready == 0) {
        f->driver = driver;
    }
    return ready;
}

int
pacpy_branch_take(struct pacpy_branch *b, PyObject **value)
{
    struct pacpy_state *st = b->owner->base.st;
    *value = pacpy_is_completion(st, b->awaitable)
                 ? pacpy_completion_result(pacpy_completion_of(b->awaitable))
                 : PyObject_CallMethodNoArgs(b->awaitable, st->str_result);
    PyObject *error = *value == NULL ? PyErr_GetRaisedException() : NULL;
    pacpy_branch_over(b);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 1;
}

int
pacpy_branch_poll(struct pacpy_branch *b, struct pac_context *cx, PyObject **value)
{
    int ready = 0;
    switch ((enum pacpy_branch_kind)b->kind) {
        case PACPY_BRANCH_FUTURE:
            ready = pacpy_poll_in_place((FutureObject *)b->awaitable, cx, value);
            if (ready != 0 && ready != PACPY_REFUSED) {
                PyObject *error = ready < 0 ? PyErr_GetRaisedException() : NULL;
                pacpy_branch_over(b);
                if (error != NULL) {
                    PyErr_SetRaisedException(error);
                }
            }
            return ready;
        case PACPY_BRANCH_WAITING:
        case PACPY_BRANCH_CHILD:
        case PACPY_BRANCH_GIVEN:
            if (!b->is_heard && branch_start(b) < 0) {
                return pacpy_refused_or_failed();
            }
            return b->is_done ? pacpy_branch_take(b, value) : 0;
        case PACPY_BRANCH_REPEATED:
        case PACPY_BRANCH_CLOSING:
        case PACPY_BRANCH_OVER:
            break;
    }
    return 0;
}
