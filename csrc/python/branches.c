/* branches.c - several branches as one future: letting go of them, and the outcome.
 *
 * Nearly everything here may run anything: a poll, a cancel, giving up the last reference, the
 * loop's exception handler. While `base.polling` is set nobody else changes the branches: what
 * drops or throws in meanwhile is noticed when the poll is over. Elsewhere a field is emptied
 * before what stood in it is touched. */
#include "branches.h"

#include "bridge.h"
#include "task.h"

/* ---- letting go ----------------------------------------------------------------------------- */

static void
cancel_task(struct pacpy_state *st, PyObject *task)
{
    if (Py_IS_TYPE(task, st->Task_type)) {
        if (pacpy_task_cancel(pacpy_task_of(task), NULL) < 0) {
            PyErr_WriteUnraisable(task);
        }
        return;
    }
    PyObject *done = PyObject_CallMethod(st->asyncio_support, "cancel_unless_closed", "O", task);
    if (done == NULL) {
        PyErr_WriteUnraisable(task);
    }
    Py_XDECREF(done);
}

/* An error that nobody will be given goes to the loop's exception handler. `task` may be NULL. */
static void
report(BranchesObject *self, PyObject *error, PyObject *task)
{
    PyObject *done = PyObject_CallMethod(
        self->base.st->asyncio_support, "report_branch", "sOO", pacpy_branches_rules_of(self)->name,
        error == NULL ? Py_None : error, task == NULL ? Py_None : task);
    if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)Py_TYPE(self));
    }
    Py_XDECREF(done);
}

/* `b` is done, and its result is not wanted. */
static void
report_error_of(struct pacpy_branch *b)
{
    if (b->kind == PACPY_BRANCH_GIVEN && !b->was_read) {
        return; /* the caller's to see */
    }
    if (pacpy_is_completion(b->owner->base.st, b->awaitable)) {
        struct pacpy_completion *c = pacpy_completion_of(b->awaitable);
        if (c->outcome != PACPY_FINISHED || c->exception == NULL) {
            return;
        }
    }
    report(b->owner, NULL, b->awaitable);
}

static bool
is_branches(FutureObject *f)
{
    return f->vtable->poll == pacpy_branches_poll;
}

static bool is_to_close(struct pacpy_branch *b);

/* Could it be polled from the start again? */
static bool
is_as_it_was(BranchesObject *self)
{
    if (self->phase != PACPY_BRANCHES_RUNNING) {
        return false;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        struct pacpy_branch *b = &self->branches[i];
        if ((b->kind != PACPY_BRANCH_FUTURE && b->kind != PACPY_BRANCH_GIVEN &&
             b->kind != PACPY_BRANCH_REPEATED) ||
            is_to_close(b)) {
            return false;
        }
    }
    return true;
}

static void unlink_future(FutureObject *f);

/* Unlink its Futures, at any depth, while its children go on and the results that are there stay.
 * If it has none of either, it is as it was before its first poll. */
static void
suspend(BranchesObject *self)
{
    bool is_new_again = is_as_it_was(self), was_polling = self->base.polling;
    self->base.polling = true;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        struct pacpy_branch *b = &self->branches[i];
        if (b->kind == PACPY_BRANCH_FUTURE) {
            unlink_future((FutureObject *)b->awaitable);
        }
        else if (is_new_again && b->is_heard) {
            pacpy_branch_stop_listening(b);
        }
    }
    self->base.polling = was_polling;
    if (is_new_again) {
        self->phase = PACPY_BRANCHES_NEW;
        self->failed = NULL;
        self->has_begun = false;
        pac_waker_drop(&self->waker);
    }
}

static void abandon(BranchesObject *self);

/* A join or select that was polled in place, and that others may refer to. */
static void
unlink_branches(BranchesObject *self)
{
    if (self->base.polling) {
        return; /* somebody has taken it over */
    }
    Py_INCREF(self);
    if (self->base.wait != NULL) {
        pacpy_bridge_end_wait(&self->base);
    }
    self->base.driver = NULL;
    suspend(self);
    if (self->base.state == PACPY_DROPPED) {
        abandon(self); /* by something that this set off */
    }
    else if (self->phase == PACPY_BRANCHES_NEW) {
        self->base.state = PACPY_NEW;
    }
    Py_DECREF(self);
}

/* A Future that was polled in place: as it was before. */
static void
unlink_future(FutureObject *f)
{
    if (f->state != PACPY_WAITING) {
        return;
    }
    if (is_branches(f)) {
        unlink_branches((BranchesObject *)f);
        return;
    }
    f->driver = NULL;
    if (f->vtable->resumable) {
        return;
    }
    pacpy_future_forget(f);
    if (f->state == PACPY_DROPPED) {
        f->state = PACPY_NEW; /* written in Python: drop() was called, and it may be polled again */
    }
}

/* A coroutine that will not be run: without Python's warning that nobody awaited it. */
static void
close_coroutine(struct pacpy_state *st, PyObject *coroutine)
{
    if (!PyCoro_CheckExact(coroutine)) {
        return;
    }
    PyObject *closed = PyObject_CallMethodNoArgs(coroutine, st->str_close);
    if (closed == NULL) {
        PyErr_WriteUnraisable(coroutine);
    }
    Py_XDECREF(closed);
}

static void let_go(BranchesObject *self);

/* Has it children that run, itself or by a join or select that it alone refers to? */
static bool
has_children(BranchesObject *self)
{
    if (self->children_left > 0) {
        return true;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (is_to_close(&self->branches[i])) {
            return true;
        }
    }
    return false;
}

/* A join or select as a branch stays usable for whoever refers to it; if that is only us, its
 * children are to end before we do. */
static bool
is_to_close(struct pacpy_branch *b)
{
    if (b->kind != PACPY_BRANCH_FUTURE || !is_branches((FutureObject *)b->awaitable)) {
        return false;
    }
    BranchesObject *inner = (BranchesObject *)b->awaitable;
    return Py_REFCNT(inner) == 1 && inner->base.state == PACPY_WAITING && has_children(inner);
}

static bool
begin_closing(struct pacpy_branch *b)
{
    BranchesObject *inner = (BranchesObject *)b->awaitable;
    if (!is_to_close(b)) {
        return false;
    }
    b->owner->futures_left--;
    b->owner->children_left++;
    b->kind = PACPY_BRANCH_CLOSING;
    if (inner->phase == PACPY_BRANCHES_RUNNING) {
        inner->phase = PACPY_BRANCHES_FINISHING;
        inner->outcome = Py_NewRef(Py_None);
        let_go(inner);
    }
    return true;
}

/* Let go of a branch, whatever it is; children that run are asked to end and stay. */
static void
let_go_of(struct pacpy_branch *b)
{
    struct pacpy_state *st = b->owner->base.st;
    switch ((enum pacpy_branch_kind)b->kind) {
        case PACPY_BRANCH_FUTURE:
            if (begin_closing(b)) {
                return;
            }
            unlink_future((FutureObject *)b->awaitable);
            break;
        case PACPY_BRANCH_WAITING:
            close_coroutine(st, b->awaitable);
            break;
        case PACPY_BRANCH_CHILD:
            if (b->is_done) {
                report_error_of(b);
                break;
            }
            cancel_task(st, b->awaitable);
            if (b->is_heard) {
                return;
            }
            break;
        case PACPY_BRANCH_GIVEN:
            if (b->is_done) {
                report_error_of(b);
            }
            break;
        case PACPY_BRANCH_REPEATED:
        case PACPY_BRANCH_OVER:
            break;
        case PACPY_BRANCH_CLOSING:
            return;
    }
    pacpy_branch_over(b);
}

static void
let_go(BranchesObject *self)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        let_go_of(&self->branches[i]);
    }
}

/* Ask the children that run, at any depth, once more. */
static void
cancel_again(BranchesObject *self)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        struct pacpy_branch *b = &self->branches[i];
        if (b->kind == PACPY_BRANCH_CHILD && !b->is_done) {
            cancel_task(self->base.st, b->awaitable);
        }
        else if (b->kind == PACPY_BRANCH_CLOSING) {
            cancel_again((BranchesObject *)b->awaitable);
        }
    }
}

/* ---- polling -------------------------------------------------------------------------------- */

static void
keep_waker(BranchesObject *self, struct pac_context *cx)
{
    if (!pac_waker_will_wake(&self->waker, cx->waker)) {
        struct pac_waker replaced = self->waker;
        self->waker = pac_waker_clone(cx->waker);
        pac_waker_drop(&replaced);
    }
}

/* No child runs any more. As a vtable's poll. */
static int
deliver(BranchesObject *self, PyObject **value)
{
    PyObject *outcome = self->outcome, *error = self->error;
    self->outcome = self->error = NULL;
    let_go(self); /* the children that have ended since */
    self->phase = PACPY_BRANCHES_OVER;
    pac_waker_drop(&self->waker);
    Py_CLEAR(self->room);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    *value = outcome;
    return 1;
}

static int
poll_finishing(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    for (Py_ssize_t i = 0; i < self->count && self->children_left > 0; i++) {
        struct pacpy_branch *b = &self->branches[i];
        PyObject *unused = NULL;
        if (b->kind != PACPY_BRANCH_CLOSING) {
            continue;
        }
        int ready = pacpy_poll_in_place((FutureObject *)b->awaitable, cx, &unused);
        if (ready != 0) {
            if (ready < 0) {
                PyObject *error = PyErr_GetRaisedException();
                report(self, error, NULL);
                Py_DECREF(error);
            }
            Py_XDECREF(unused);
            pacpy_branch_over(b);
        }
    }
    return self->children_left > 0 ? 0 : deliver(self, value);
}

/* There is an outcome: `ready` is 1 and *value, or -1 and an exception. */
static int
begin_finishing(BranchesObject *self, struct pac_context *cx, int ready, PyObject **value)
{
    self->phase = PACPY_BRANCHES_FINISHING;
    self->outcome = ready > 0 ? *value : NULL;
    self->error = ready > 0 ? NULL : PyErr_GetRaisedException();
    *value = NULL;
    let_go(self);
    return poll_finishing(self, cx, value);
}

/* For what `look` gives, before there is anything to lose. 0, or -1 and MemoryError. */
static int
make_room(BranchesObject *self)
{
    Py_ssize_t size = pacpy_branches_rules_of(self)->room;
    size = size == PACPY_ONE_EACH ? self->count : size;
    if (size > 0 && self->room == NULL) {
        self->room = PyTuple_New(size);
        if (self->room == NULL) {
            return -1;
        }
        PyObject_GC_UnTrack(self->room);
    }
    return 0;
}

PyObject *
pacpy_branches_take_room(BranchesObject *self)
{
    PyObject *results = self->room;
    self->room = NULL;
    PyObject_GC_Track(results);
    return results;
}

/* There was no memory for a branch. */
static int
look_refused(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    if (has_children(self)) {
        return begin_finishing(self, cx, -1, value);
    }
    PyObject *error = PyErr_GetRaisedException();
    suspend(self);
    if (self->phase == PACPY_BRANCHES_NEW && self->base.state == PACPY_WAITING) {
        self->base.state = PACPY_NEW;
    }
    PyErr_SetRaisedException(error);
    return PACPY_REFUSED;
}

static int
look(BranchesObject *self, struct pac_context *cx, PyObject **value)
{
    if (make_room(self) < 0) {
        return PACPY_REFUSED;
    }
    self->phase = PACPY_BRANCHES_RUNNING;
    int ready = pacpy_branches_rules_of(self)->look(self, cx, value);
    if (PAC_UNLIKELY(ready == PACPY_REFUSED)) {
        return look_refused(self, cx, value);
    }
    return ready == 0 ? 0 : begin_finishing(self, cx, ready, value);
}

/* End without waiting for the children. */
static void
abandon(BranchesObject *self)
{
    PyObject *outcome = self->outcome, *error = self->error;
    bool is_asked = self->phase == PACPY_BRANCHES_FINISHING;
    self->outcome = self->error = NULL;
    self->phase = PACPY_BRANCHES_OVER;
    Py_CLEAR(self->room);
    if (!is_asked) {
        let_go(self);
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        pacpy_branch_over(&self->branches[i]);
    }
    pac_waker_drop(&self->waker);
    pacpy_release(outcome);
    if (error != NULL) {
        report(self, error, NULL);
        Py_DECREF(error);
    }
}

int
pacpy_branches_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    BranchesObject *self = (BranchesObject *)f;
    if (Py_EnterRecursiveCall(" while polling a join or select")) {
        return -1;
    }
    if (self->has_tasks || self->phase == PACPY_BRANCHES_FINISHING) {
        keep_waker(self, cx);
    }
    int ready = self->phase == PACPY_BRANCHES_FINISHING ? poll_finishing(self, cx, value)
                                                        : look(self, cx, value);
    if (PAC_UNLIKELY(f->state == PACPY_DROPPED) && (ready == 0 || ready == PACPY_REFUSED)) {
        /* By something that the poll set off. */
        PyObject *error = PyErr_GetRaisedException();
        abandon(self);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    Py_LeaveRecursiveCall();
    return ready;
}

void
pacpy_branches_forget(FutureObject *f)
{
    BranchesObject *self = (BranchesObject *)f;
    if (f->polling || self->phase == PACPY_BRANCHES_NEW || self->phase == PACPY_BRANCHES_OVER) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (is_as_it_was(self)) {
        suspend(self);
    }
    else {
        f->state = PACPY_DROPPED;
        abandon(self);
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* ---- cancelled while it waits --------------------------------------------------------------- */

/* The exception that is set was thrown in at the await, and children run: it comes out once they
 * have ended. What the task waits for next, or NULL and the exception. */
static PyObject *
finish_with_thrown(BranchesObject *self)
{
    PyObject *thrown = PyErr_GetRaisedException();
    PyObject *outcome = self->outcome, *error = self->error;
    self->outcome = NULL;
    self->error = thrown;
    self->base.polling = true;
    if (self->phase == PACPY_BRANCHES_RUNNING) {
        self->phase = PACPY_BRANCHES_FINISHING;
        let_go(self);
    }
    else {
        cancel_again(self);
    }
    Py_XDECREF(outcome);
    if (error != NULL) {
        report(self, error, NULL);
        Py_DECREF(error);
    }
    self->base.polling = false;
    if (self->base.state == PACPY_DROPPED) {
        abandon(self);
        PyErr_SetNone(self->base.st->asyncio_CancelledError);
        return NULL;
    }
    PyObject *waits_for = Future_iternext((PyObject *)self);
    if (waits_for == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return waits_for;
}

static PyObject *
Branches_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BranchesObject *self = (BranchesObject *)op;
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw expected 1 to 3 arguments");
        return NULL;
    }
    pacpy_raise_thrown(args, nargs);
    if (!self->base.polling && has_children(self) && !PyErr_ExceptionMatches(PyExc_GeneratorExit)) {
        return finish_with_thrown(self);
    }
    pacpy_future_forget(&self->base);
    return NULL;
}

/* ---- the object ----------------------------------------------------------------------------- */

int
pacpy_branches_traverse(PyObject *op, visitproc visit, void *arg)
{
    BranchesObject *self = (BranchesObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->outcome);
    Py_VISIT(self->error);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->branches[i].awaitable);
        Py_VISIT(self->branches[i].value);
    }
    return 0;
}

int
pacpy_branches_clear(PyObject *op)
{
    BranchesObject *self = (BranchesObject *)op;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        pacpy_branch_over(&self->branches[i]);
        PACPY_RELEASE_SLOT(self->branches[i].value);
    }
    PACPY_RELEASE_SLOT(self->outcome);
    PACPY_RELEASE_SLOT(self->error);
    Py_CLEAR(self->room);
    pac_waker_drop(&self->waker);
    return 0;
}

/* Garbage: its children are asked to end, while all that it refers to is whole. */
void
pacpy_branches_finalize(PyObject *op)
{
    pacpy_future_forget((FutureObject *)op);
}

/* In the destructor: a Select that is over refers to nothing, and is kept for the next one. */
static bool
keep_for_next(BranchesObject *self, PyTypeObject *type)
{
    struct pacpy_state *st = self->base.st;
    if (self->phase != PACPY_BRANCHES_OVER || type != st->Select_type ||
        self->branches != self->few || self->base.wait != NULL) {
        return false;
    }
    PAC_ASSERT(self->room == NULL);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PAC_ASSERT(self->few[i].awaitable == NULL && self->few[i].value == NULL);
    }
    self->count = 0;
    self->base.state = PACPY_DROPPED;
    return pacpy_freelist_keep_warm(&st->select_free, (PyObject *)self);
}

void
pacpy_branches_dealloc(PyObject *op)
{
    BranchesObject *self = (BranchesObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (keep_for_next(self, type)) {
        return;
    }
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->base);
    pacpy_branches_clear(op);
    if (self->branches != self->few) {
        PyMem_Free(self->branches);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

PyObject *
pacpy_branches_repr(PyObject *op)
{
    BranchesObject *self = (BranchesObject *)op;
    static const char *const phases[] = {"not polled yet", "waiting", "finishing", "done"};
    bool is_new = self->base.state == PACPY_NEW && !self->base.polling;
    const char *phase =
        self->base.state == PACPY_DROPPED ? "dropped" : phases[is_new ? 0 : self->phase];
    return PyUnicode_FromFormat("<%s of %zd %s>", pacpy_branches_rules_of(self)->name, self->count,
                                phase);
}

PyMethodDef pacpy_branches_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))Branches_throw, METH_FASTCALL,
     "Part of the await protocol."},
    {NULL},
};

/* ---- making one ----------------------------------------------------------------------------- */

/* The kind of a branch; -1 and TypeError. */
static int
kind_of(struct pacpy_state *st, PyObject *op)
{
    if (PyCoro_CheckExact(op)) {
        return PACPY_BRANCH_WAITING;
    }
    if (Future_Check(st, op)) {
        return PACPY_BRANCH_FUTURE;
    }
    if (pacpy_need_awaitable(op) < 0) {
        return -1;
    }
    /* As asyncio.isfuture. */
    PyObject *blocking =
        PyObject_GetAttr((PyObject *)Py_TYPE(op), st->str__asyncio_future_blocking);
    if (blocking == NULL) {
        PyErr_Clear();
        return PACPY_BRANCH_WAITING;
    }
    Py_DECREF(blocking);
    return PACPY_BRANCH_GIVEN;
}

static void
mark_repeated(BranchesObject *self, Py_ssize_t i, Py_ssize_t first)
{
    struct pacpy_branch *b = &self->branches[i];
    self->futures_left -= b->kind == PACPY_BRANCH_FUTURE;
    b->kind = PACPY_BRANCH_REPEATED;
    b->same_as = first;
}

/* Find the awaitables that were given more than once. 0, or -1 and MemoryError. */
static int
find_repeated(BranchesObject *self)
{
    struct pacpy_branch *b = self->branches;
    if (self->count <= PACPY_BRANCHES_FEW) {
        for (Py_ssize_t i = 1; i < self->count; i++) {
            for (Py_ssize_t k = 0; k < i; k++) {
                if (b[i].awaitable == b[k].awaitable) {
                    mark_repeated(self, i, k);
                    break;
                }
            }
        }
        return 0;
    }
    size_t size = 8;
    while (size < 2 * (size_t)self->count) {
        size *= 2;
    }
    Py_ssize_t *table = PyMem_Calloc(size, sizeof *table); /* an index and one; 0: empty */
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        size_t at = ((uintptr_t)b[i].awaitable >> 4) * 0x9E3779B97F4A7C15u;
        at = (at ^ at >> 32) & (size - 1);
        while (table[at] != 0 && b[table[at] - 1].awaitable != b[i].awaitable) {
            at = (at + 1) & (size - 1);
        }
        if (table[at] == 0) {
            table[at] = i + 1;
        }
        else {
            mark_repeated(self, i, table[at] - 1);
        }
    }
    PyMem_Free(table);
    return 0;
}

/* An object of zeros; its first branches are those of a Select that is over, as often as not. */
static BranchesObject *
branches_alloc(struct pacpy_state *st, PyTypeObject *type, Py_ssize_t count)
{
    BranchesObject *self = NULL;
    if (type == st->Select_type) {
        self = (BranchesObject *)pacpy_freelist_take_warm(&st->select_free);
    }
    if (self == NULL) {
        return (BranchesObject *)type->tp_alloc(type, 0);
    }
    size_t few = (size_t)(count < PACPY_BRANCHES_FEW ? count : PACPY_BRANCHES_FEW);
    memset((char *)self + sizeof self->base, 0, offsetof(BranchesObject, few) - sizeof self->base);
    memset(self->few, 0, few * sizeof *self->few);
    return self;
}

PyObject *
pacpy_branches_new(struct pacpy_state *st, PyTypeObject *type,
                   const struct pacpy_branches_rules *rules, PyObject *const *awaitables,
                   Py_ssize_t count)
{
    BranchesObject *self = branches_alloc(st, type, count);
    if (self == NULL) {
        return NULL;
    }
    pacpy_future_init(&self->base, st, &rules->vtable);
    self->waker = PAC_NO_WAKER;
    self->branches = self->few;
    if (count > PACPY_BRANCHES_FEW) {
        self->branches = PyMem_Calloc((size_t)count, sizeof *self->branches);
        if (self->branches == NULL) {
            self->branches = self->few;
            Py_DECREF(self);
            return PyErr_NoMemory();
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct pacpy_branch *b = &self->branches[i];
        int kind = kind_of(st, awaitables[i]);
        if (kind < 0) {
            Py_DECREF(self);
            return NULL;
        }
        pacpy_branch_init(b, self, (enum pacpy_branch_kind)kind, awaitables[i]);
        self->futures_left += kind == PACPY_BRANCH_FUTURE;
        self->has_tasks = self->has_tasks || kind != PACPY_BRANCH_FUTURE;
        self->count++;
    }
    if (find_repeated(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}
