/* branches.h - what join, select and run_until_cancelled share: several awaitables that are waited
 * for in one await, and how they are let go of.
 *
 * Nothing starts before the first poll. What a branch is, decides what becomes of it:
 *
 *   a Future of ours            polled in place; let go of: unlinked, and usable again
 *   a Task or asyncio future    the caller's: listened to; let go of: goes on
 *   any other awaitable         run by a child task; let go of: cancelled, and waited for
 *
 * A join or select as a branch is a Future of ours. Let go of, it lets go of the Futures in it, while
 * its children go on if anybody else refers to it.
 *
 *   NEW ──first poll──► RUNNING ──an outcome──► FINISHING ──children have ended──► OVER
 *
 * The outcome is a value, an error, or an exception that was thrown in at the await (cancelled).
 * It comes out once no child runs any more; errors that come after it go to the loop's exception
 * handler. A join or select that ends without its children having ended (collected, closed) only
 * asks them to.
 *
 * A poll that has no memory, for itself or for a Future in it, ends nothing: MemoryError comes out,
 * the Futures are unlinked, results that are there stay, and another poll goes on. But if children
 * run, it is an error like any other: somebody has to wait for them, and that may have been the last
 * poll. Room for a tuple of results is made before anything is polled, so that no result finds none. */
#ifndef PACPY_BRANCHES_H
#define PACPY_BRANCHES_H

#include "end_listener.h"
#include "future.h"

enum pacpy_branch_kind {
    PACPY_BRANCH_FUTURE,   /* of ours */
    PACPY_BRANCH_WAITING,  /* to be started: will be a child */
    PACPY_BRANCH_CHILD,    /* a task that was made for it */
    PACPY_BRANCH_GIVEN,    /* a task or asyncio future of the caller's */
    PACPY_BRANCH_REPEATED, /* the same object as that of the earlier branch `same_as` */
    PACPY_BRANCH_CLOSING,  /* a join or select that only we have, while it finishes */
    PACPY_BRANCH_OVER,     /* has had its result taken, or was let go of */
};

struct pacpy_branch {
    struct pacpy_end_listener listener; /* child, given */
    struct pacpy_branches *owner;
    PyObject *awaitable; /* a child: its task; NULL: over */
    PyObject *value;     /* join's, of a Future that is ready */
    Py_ssize_t same_as;
    uint8_t kind;  /* enum pacpy_branch_kind */
    bool is_heard; /* child, given: listened to, if it was not done at once */
    bool is_done;  /* child, given: has ended */
    bool was_read; /* its error was looked at here, so that nobody else will be told */
};

enum pacpy_branches_phase {
    PACPY_BRANCHES_NEW,
    PACPY_BRANCHES_RUNNING,
    PACPY_BRANCHES_FINISHING,
    PACPY_BRANCHES_OVER,
};

enum { PACPY_BRANCHES_FEW = 3 };

typedef struct pacpy_branches {
    FutureObject base;
    struct pac_waker waker;        /* of the newest poll, if there is anything to listen to */
    PyObject *outcome;             /* FINISHING: the value; or NULL, and */
    PyObject *error;               /*            the exception */
    PyObject *room;                /* for the result: see pacpy_branches_take_room; or NULL */
    struct pacpy_branch *failed;   /* join: the child or given one whose error came first */
    struct pacpy_branch *branches; /* `few`, or allocated */
    Py_ssize_t count;
    Py_ssize_t first;         /* for `look`: which is looked at first, then round */
    Py_ssize_t futures_left;  /* kind FUTURE */
    Py_ssize_t tasks_left;    /* heard, and not done */
    Py_ssize_t children_left; /* those of them that are children; and kind CLOSING */
    uint8_t phase;            /* enum pacpy_branches_phase */
    bool has_tasks;           /* not all branches are Futures of ours */
    bool has_begun;           /* for `look`: it has looked before */
    struct pacpy_branch few[PACPY_BRANCHES_FEW];
} BranchesObject;

enum { PACPY_ONE_EACH = -1 };

/* What makes a join a join. */
struct pacpy_branches_rules {
    struct pacpy_future_vtable vtable; /* pacpy_branches_poll, pacpy_branches_forget */
    const char *name;
    /* Look at the branches: 1 and *value, 0, -1 and an exception, or PACPY_REFUSED likewise: to be
     * called again, and each branch is where it stood. */
    int (*look)(BranchesObject *self, struct pac_context *cx, PyObject **value);
    Py_ssize_t room;   /* how many a tuple of results holds; PACPY_ONE_EACH; 0: it gives none */
    bool first_counts; /* one that is done is worth a poll, not only the last or a failed one */
};

static inline const struct pacpy_branches_rules *
pacpy_branches_rules_of(BranchesObject *self)
{
    return PAC_CONTAINER_OF(self->base.vtable, struct pacpy_branches_rules, vtable);
}

/* A new object of `type` for these awaitables; NULL and TypeError if one is none. */
PyObject *pacpy_branches_new(struct pacpy_state *st, PyTypeObject *type,
                             const struct pacpy_branches_rules *rules, PyObject *const *awaitables,
                             Py_ssize_t count);

int pacpy_branches_poll(FutureObject *f, struct pac_context *cx, PyObject **value);
void pacpy_branches_forget(FutureObject *f);

/* ---- for `look` ----------------------------------------------------------------------------- */

/* The branch to be looked at as the k-th. */
static inline struct pacpy_branch *
pacpy_branch_at(BranchesObject *self, Py_ssize_t k)
{
    Py_ssize_t i = k + self->first;
    return &self->branches[i < self->count ? i : i - self->count];
}

/* Start it if need be, and poll it if that is how: 1 and *value, 0, -1 and an exception, or
 * PACPY_REFUSED. After 1 and -1 a branch that was started is OVER, else it is where it stood. */
int pacpy_branch_poll(struct pacpy_branch *b, struct pac_context *cx, PyObject **value);

/* The result of a child or given one that is done, likewise. */
int pacpy_branch_take(struct pacpy_branch *b, PyObject **value);

/* The tuple that was made before the first look, once it is full: a new reference. Until then it has
 * no items, or some, and nobody but `self` must see it: the collector does not. */
PyObject *pacpy_branches_take_room(BranchesObject *self);

/* ---- one branch: branch.c ------------------------------------------------------------------- */

/* A fresh one, of zeros, for `awaitable`. */
void pacpy_branch_init(struct pacpy_branch *b, BranchesObject *owner, enum pacpy_branch_kind kind,
                       PyObject *awaitable);

/* Nothing is left of `b`, and it counts no more. Again is a no-op. */
void pacpy_branch_over(struct pacpy_branch *b);

/* Hear of the task or future of `b` no more, as if it had not been started. */
void pacpy_branch_stop_listening(struct pacpy_branch *b);

/* Poll a Future from within a poll in progress, for the task that this one is for: as
 * pacpy_future_poll. */
int pacpy_poll_in_place(FutureObject *f, struct pac_context *cx, PyObject **value);

/* ---- for the types -------------------------------------------------------------------------- */

int pacpy_branches_traverse(PyObject *op, visitproc visit, void *arg);
int pacpy_branches_clear(PyObject *op);
void pacpy_branches_finalize(PyObject *op);
void pacpy_branches_dealloc(PyObject *op);
PyObject *pacpy_branches_repr(PyObject *op);
extern PyMethodDef pacpy_branches_methods[];

#define PACPY_BRANCHES_SLOTS                                                                \
    {Py_tp_traverse, pacpy_branches_traverse}, {Py_tp_clear, pacpy_branches_clear},         \
        {Py_tp_finalize, pacpy_branches_finalize}, {Py_tp_dealloc, pacpy_branches_dealloc}, \
        {Py_tp_repr, pacpy_branches_repr}, {Py_tp_methods, pacpy_branches_methods},         \
        PACPY_FUTURE_SLOTS

#endif
