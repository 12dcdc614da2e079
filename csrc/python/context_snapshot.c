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
    Py_XSETREF(st->context_snapshot, Py_NewRef(fresh));
    return fresh;
}

#else

PyObject *
pacpy_context_snapshot(struct pacpy_state *st)
{
    return PyContext_CopyCurrent();
}

#endif
