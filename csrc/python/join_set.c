/* join_set.c - the half of JoinSet that each of its tasks goes through (the other half, room and the
 * end of a block, is pyasync_c/_join_set.py).
 *
 *     spawn ──► running ──► ended ──► joined
 *
 * A task is a member of the set by a struct of ours, which hears of its end (end_listener.h) and goes
 * from list to list: none of that needs memory.
 *
 * Who waits is woken with a claim to one of those that have ended, and takes the first one when he is
 * polled: so they come in the order in which they ended, whoever is polled first, and nobody who comes
 * later takes the one that he was woken for. Dropped before that, he passes his claim on.
 *
 * For the thread of the loop, as its tasks are. A wake may run anything, and so may the end of the
 * last reference to a task: both come when the lists are right. */
#include "end_listener.h"
#include "eventloop.h"
#include "future.h"

#include "../core/waitlist.h"

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    struct pac_list running; /* of members */
    struct pac_list ended;   /* likewise */
    struct pac_list joiners; /* of JoinNext's waiters; only while all that have ended are claimed */
    Py_ssize_t running_count, ended_count;
    Py_ssize_t claims; /* of those woken that have not been polled; at most ended_count */
    bool is_told;      /* the Python half wants _grant() called when a task ends */
} JoinSetObject;

struct member {
    struct pacpy_end_listener listener;
    struct pac_list_node node; /* in `running` or `ended` */
    JoinSetObject *set;        /* borrowed: it owns this */
    PyObject *task;            /* strong */
};

typedef struct {
    FutureObject future;
    JoinSetObject *set;       /* strong */
    struct pac_waiter waiter; /* in the set's joiners */
    bool has_claim;           /* and is in no list */
    bool is_step;             /* of `async for`, which ends where this would be None */
} JoinNextObject;

/* ---- members -------------------------------------------------------------------------------- */

/* A new reference to its task: freeing a member runs nothing. */
static PyObject *
free_member(struct member *m)
{
    PyObject *task = m->task;
    pac_list_remove(&m->node);
    PyMem_Free(m);
    return task;
}

/* One that has ended is nobody's: whoever has waited longest may claim it. */
static void
offer(JoinSetObject *set)
{
    struct pac_list_node *node = pac_list_first(&set->joiners);
    if (node != NULL) {
        struct pac_waiter *w = PAC_LIST_ENTRY(node, struct pac_waiter, node);
        PAC_CONTAINER_OF(w, JoinNextObject, waiter)->has_claim = true;
        set->claims++;
        struct pac_waker waker = pac_waiter_take(w);
        pac_waker_wake(&waker);
    }
}

static void
tell_python(JoinSetObject *set)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)set, set->st->str__grant);
    if (done == NULL && pacpy_running_loop != NULL) {
        pacpy_loop_raise_or_print(pacpy_running_loop, (PyObject *)set);
    }
    else if (done == NULL) {
        PyErr_WriteUnraisable((PyObject *)set);
    }
    Py_XDECREF(done);
}

/* It is in no list. */
static void
member_ended(struct member *m)
{
    JoinSetObject *set = (JoinSetObject *)Py_NewRef((PyObject *)m->set);
    pac_list_push_back(&set->ended, &m->node);
    set->ended_count++;
    offer(set);
    if (PAC_UNLIKELY(set->is_told)) {
        tell_python(set);
    }
    Py_DECREF(set);
}

static void
heard(struct pacpy_call_listener *l)
{
    struct member *m = PAC_CONTAINER_OF(l, struct member, listener.own);
    pacpy_end_unlisten(m->set->st, m->task, &m->listener, true);
    pac_list_remove(&m->node);
    m->set->running_count--;
    member_ended(m);
}

/* ---- join_next() ---------------------------------------------------------------------------- */

/* Those that wait for more find the set empty. */
static void
wake_joiners(JoinSetObject *set)
{
    struct pac_list woken;
    struct pac_list_node *node;
    pac_list_init(&woken);
    pac_list_splice_back(&woken, &set->joiners);
    while ((node = pac_list_first(&woken)) != NULL) {
        struct pac_waker waker = pac_waiter_take(PAC_LIST_ENTRY(node, struct pac_waiter, node));
        pac_waker_wake(&waker);
    }
}

static void
give_claim_up(JoinNextObject *self)
{
    self->set->claims -= self->has_claim;
    self->has_claim = false;
}

static void
join_next_leave(JoinNextObject *self)
{
    struct pac_waker waker = pac_waiter_disarm(&self->waiter);
    if (self->has_claim) {
        give_claim_up(self);
        offer(self->set);
    }
    pac_waker_drop(&waker);
}

static inline bool
has_to_wait(const JoinNextObject *self)
{
    const JoinSetObject *set = self->set;
    bool is_empty = set->running_count + set->ended_count == 0;
    return !self->has_claim && set->ended_count == set->claims && !is_empty;
}

static int
JoinNext_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    JoinNextObject *self = (JoinNextObject *)f;
    JoinSetObject *set = self->set;
    struct pac_waker spare = PAC_NO_WAKER;
    if (!pac_budget_spend(cx)) {
        return 0;
    }
    while (has_to_wait(self)) {
        if (pac_waiter_arm(&self->waiter, &set->joiners, cx->waker, &spare)) {
            pac_budget_refund();
            pac_waker_drop(&spare);
            if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) { /* by what that has run */
                join_next_leave(self);
            }
            return 0;
        }
        spare = pac_waker_clone(cx->waker);
    }
    struct pac_waker waker = pac_waiter_disarm(&self->waiter);
    struct pac_list_node *node = pac_list_pop_front(&set->ended);
    give_claim_up(self);
    *value = node == NULL && !self->is_step ? Py_NewRef(Py_None) : NULL;
    if (node != NULL) {
        set->ended_count--;
        *value = free_member(PAC_LIST_ENTRY(node, struct member, node));
        if (set->running_count + set->ended_count == 0) {
            wake_joiners(set);
        }
    }
    pac_waker_drop(&waker);
    pac_waker_drop(&spare);
    if (*value == NULL) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
        return -1;
    }
    return 1;
}

static void
JoinNext_forget(FutureObject *f)
{
    /* A poll can drop this very future: it sees the state when it comes back. */
    if (!f->polling) {
        join_next_leave((JoinNextObject *)f);
    }
}

static const struct pacpy_future_vtable join_next_vtable = {
    .poll = JoinNext_poll,
    .forget = JoinNext_forget,
};

static int
JoinNext_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((JoinNextObject *)op)->set);
    return 0;
}

static void
JoinNext_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    JoinNextObject *self = (JoinNextObject *)op;
    PyObject_GC_UnTrack(op);
    pacpy_future_fini(&self->future);
    Py_DECREF(self->set);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
new_join_next(JoinSetObject *set, bool is_step)
{
    JoinNextObject *next = PyObject_GC_New(JoinNextObject, set->st->JoinNext_type);
    if (next != NULL) {
        pacpy_future_init(&next->future, set->st, &join_next_vtable);
        next->set = (JoinSetObject *)Py_NewRef((PyObject *)set);
        pac_waiter_init(&next->waiter);
        next->has_claim = false;
        next->is_step = is_step;
        PyObject_GC_Track((PyObject *)next);
    }
    return (PyObject *)next;
}

static PyType_Slot JoinNext_slots[] = {
    {Py_tp_doc, "What JoinSet.join_next() returns, and a step of `async for` over it."},
    {Py_tp_traverse, JoinNext_traverse},
    {Py_tp_dealloc, JoinNext_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec JoinNext_spec = {
    .name = "pyasync_c.JoinNext",
    .basicsize = sizeof(JoinNextObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = JoinNext_slots,
};

/* ---- JoinSetBase ---------------------------------------------------------------------------- */

static PyObject *
JoinSet_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        JoinSetObject *self = (JoinSetObject *)op;
        self->st = st;
        pac_list_init(&self->running);
        pac_list_init(&self->ended);
        pac_list_init(&self->joiners);
    }
    return op;
}

static int
visit_tasks(const struct pac_list *list, visitproc visit, void *arg)
{
    for (struct pac_list_node *n = list->head.next; n != &list->head; n = n->next) {
        Py_VISIT(PAC_LIST_ENTRY(n, struct member, node)->task);
    }
    return 0;
}

static int
JoinSet_traverse(PyObject *op, visitproc visit, void *arg)
{
    JoinSetObject *self = (JoinSetObject *)op;
    Py_VISIT(Py_TYPE(op));
    int result = visit_tasks(&self->running, visit, arg);
    return result != 0 ? result : visit_tasks(&self->ended, visit, arg);
}

/* Its tasks go on without it. Who waits for one is not told: nobody can be that still needs it. */
static int
JoinSet_clear(PyObject *op)
{
    JoinSetObject *self = (JoinSetObject *)op;
    struct pac_list_node *node;
    while ((node = pac_list_pop_front(&self->running)) != NULL) {
        struct member *m = PAC_LIST_ENTRY(node, struct member, node);
        self->running_count--;
        pacpy_end_unlisten(self->st, m->task, &m->listener, false);
        pacpy_release(free_member(m));
    }
    while ((node = pac_list_pop_front(&self->ended)) != NULL) {
        self->ended_count--;
        pacpy_release(free_member(PAC_LIST_ENTRY(node, struct member, node)));
    }
    return 0;
}

static void
JoinSet_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    JoinSet_clear(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

/* _add(task): a member from now on. MemoryError, and it is none. */
static PyObject *
JoinSet_add(PyObject *op, PyObject *task)
{
    JoinSetObject *self = (JoinSetObject *)op;
    int done = pacpy_future_is_done(self->st, task);
    struct member *m = done < 0 ? NULL : PyMem_Malloc(sizeof *m);
    if (m == NULL) {
        return done < 0 ? NULL : PyErr_NoMemory();
    }
    m->set = self;
    m->node = (struct pac_list_node){NULL, NULL};
    m->task = Py_NewRef(task);
    pacpy_end_listener_init(&m->listener, heard);
    if (!done && pacpy_end_listen(self->st, task, &m->listener) < 0) {
        Py_DECREF(free_member(m));
        return NULL;
    }
    if (done) {
        member_ended(m);
    }
    else {
        pac_list_push_back(&self->running, &m->node);
        self->running_count++;
    }
    Py_RETURN_NONE;
}

/* The tasks of `list` but for the first `skipped`. */
static PyObject *
tasks_of(const struct pac_list *list, Py_ssize_t skipped)
{
    PyObject *tasks = PyList_New(0);
    struct pac_list_node *n = list->head.next;
    for (; tasks != NULL && n != &list->head; n = n->next) {
        PyObject *task = PAC_LIST_ENTRY(n, struct member, node)->task;
        if (skipped-- <= 0 && PyList_Append(tasks, task) < 0) {
            Py_CLEAR(tasks);
        }
    }
    return tasks;
}

static PyObject *
JoinSet_running_tasks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return tasks_of(&((JoinSetObject *)op)->running, 0);
}

static PyObject *
JoinSet_ended_tasks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JoinSetObject *self = (JoinSetObject *)op;
    return tasks_of(&self->ended, self->claims);
}

PyDoc_STRVAR(
    JoinSet_join_next_doc,
    "join_next($self, /)\n--\n\n"
    "A future that is ready with the next task that has ended, or with None if none is left.\n\n"
    "Tasks come in the order in which they ended, whether they returned, failed or were\n"
    "cancelled: ask the task. Cancelling the wait loses none. Stands for Tokio's\n"
    "JoinSet::join_next.");

static PyObject *
JoinSet_join_next(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return new_join_next((JoinSetObject *)op, false);
}

static PyObject *
JoinSet_anext(PyObject *op)
{
    return new_join_next((JoinSetObject *)op, true);
}

static PyMethodDef JoinSet_methods[] = {
    {"join_next", JoinSet_join_next, METH_NOARGS, JoinSet_join_next_doc},
    {"_add", JoinSet_add, METH_O, "Take a task in."},
    {"_running_tasks", JoinSet_running_tasks, METH_NOARGS, "In the order of spawning."},
    {"_ended_tasks", JoinSet_ended_tasks, METH_NOARGS, "Those that nobody claims."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef JoinSet_members[] = {
    {"_running", T_PYSSIZET, offsetof(JoinSetObject, running_count), READONLY, "How many run."},
    {"_ended", T_PYSSIZET, offsetof(JoinSetObject, ended_count), READONLY,
     "How many have ended and were not joined."},
    {"_is_told", T_BOOL, offsetof(JoinSetObject, is_told), 0,
     "Whether _grant() is called when a task ends."},
    {NULL},
};

static PyType_Slot JoinSet_slots[] = {
    {Py_tp_doc, "What JoinSet does for each task."},
    {Py_tp_new, JoinSet_new},
    {Py_tp_traverse, JoinSet_traverse},
    {Py_tp_clear, JoinSet_clear},
    {Py_tp_dealloc, JoinSet_dealloc},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, JoinSet_anext},
    {Py_tp_methods, JoinSet_methods},
    {Py_tp_members, JoinSet_members},
    {0, NULL},
};

static PyType_Spec JoinSet_spec = {
    .name = "pyasync_c.JoinSetBase",
    .basicsize = sizeof(JoinSetObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = JoinSet_slots,
};

int
pacpy_join_set_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &JoinSet_spec, NULL, &st->JoinSetBase_type, "JoinSetBase") < 0) {
        return -1;
    }
    return pacpy_make_type(module, &JoinNext_spec, st->Future_type, &st->JoinNext_type, NULL);
}
