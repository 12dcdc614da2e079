/* context_snapshot.c - whether the present context is as it was is told by its map of variables,
 * an immutable tree that is replaced when a variable is set: the same tree, the same variables.
 * CPython has no call that asks for it, so the place of that pointer in a Context is found out by
 * experiment, once; where the experiment fails, every snapshot is a copy of its own. */
#include "context_snapshot.h"

#if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)

/* Behind the object's header and the pointer to the context entered before. */
enum { VARIABLES_OFFSET = sizeof(PyObject) + sizeof(void *) };

static inline void *
variables_of(PyObject *context)
{
    return *(void **)((char *)context + VARIABLES_OFFSET);
}

/* Do contexts look as we think? A copy must have the very map of the original, and another one
 * after a variable was set in it. 1, 0, or -1 with an exception. */
static int
layout_is_known(void)
{
    int known = -1;
    PyObject *variable = PyContextVar_New("pyasync_c", NULL);
    PyObject *original = PyContext_New();
    PyObject *copy = original == NULL ? NULL : PyContext_Copy(original);
    if (variable != NULL && copy != NULL && PyContext_Enter(copy) == 0) {
        bool same = variables_of(original) == variables_of(copy) && variables_of(copy) != NULL;
        PyObject *token = PyContextVar_Set(variable, Py_None);
        bool changed = variables_of(original) != variables_of(copy);
        Py_XDECREF(token);
        if (PyContext_Exit(copy) == 0 && token != NULL) {
            known = same && changed;
        }
    }
    Py_XDECREF(variable);
    Py_XDECREF(original);
    Py_XDECREF(copy);
    return known;
}

PyObject *
pacpy_context_snapshot(struct pacpy_state *st)
{
    PyObject *present = PyThreadState_Get()->context;
    PyObject *kept = st->context_snapshot;
    if (PAC_LIKELY(kept != NULL && present != NULL &&
                   variables_of(present) == variables_of(kept))) {
        return Py_NewRef(kept);
    }
    PyObject *fresh = PyContext_CopyCurrent();
    if (fresh == NULL || st->contexts_are_opaque) {
        return fresh;
    }
    if (kept == NULL) {
        int known = layout_is_known();
        if (known <= 0) {
            st->contexts_are_opaque = true;
            PyErr_Clear();
            return fresh;
        }
    }
    /* The spare has the variables of the old one, which nobody is to keep alive any more. */
    Py_CLEAR(st->context_spare);
    Py_XSETREF(st->context_snapshot, Py_NewRef(fresh));
    return fresh;
}

PyObject *
pacpy_context_copy(struct pacpy_state *st, PyObject *snapshot)
{
    PyObject *spare = st->context_spare;
    if (PAC_LIKELY(spare != NULL && variables_of(spare) == variables_of(snapshot))) {
        st->context_spare = NULL;
        return spare;
    }
    /* An opaque one is nobody else's. */
    return st->contexts_are_opaque ? Py_NewRef(snapshot) : PyContext_Copy(snapshot);
}

/* Is there anything about `copy` by which one could tell it from a fresh copy of `kept`? */
static inline bool
is_as_new(PyObject *copy, PyObject *kept)
{
    return Py_REFCNT(copy) == 1 && variables_of(copy) == variables_of(kept) &&
           !pacpy_has_weakrefs(copy);
}

void
pacpy_context_done(struct pacpy_state *st, PyObject *copy)
{
    PyObject *kept = st->context_snapshot;
    if (PAC_LIKELY(st->context_spare == NULL && kept != NULL && is_as_new(copy, kept))) {
        st->context_spare = copy;
        return;
    }
    Py_DECREF(copy);
}

#else

PyObject *
pacpy_context_snapshot(struct pacpy_state *st)
{
    return PyContext_CopyCurrent();
}

PyObject *
pacpy_context_copy(struct pacpy_state *st, PyObject *snapshot)
{
    return Py_NewRef(snapshot); /* nobody else's */
}

void
pacpy_context_done(struct pacpy_state *st, PyObject *copy)
{
    Py_DECREF(copy);
}

#endif
