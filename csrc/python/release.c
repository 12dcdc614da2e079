/* release.c - a chain of objects goes from one destructor to the next, but not deep.
 *
 *   release ── destructor ── release ── destructor ── ... NEST_MAX ── release: put aside
 *      └── when it is over: one after the other, what was put aside
 *
 * What is put aside is a reference like any other: the collector sees the object as referred to from
 * outside. It stands in an array of this thread that is freed when it is empty. If there is no
 * memory for it, nesting goes on. */
#include "release.h"

#include "../core/platform.h"

enum { NEST_MAX = 24, ASIDE_MIN = 16 };

struct aside {
    PyObject **objects; /* strong */
    size_t count, size;
    int depth; /* releases in progress */
};

static PAC_THREAD_LOCAL struct aside aside;

static bool
put_aside(PyObject *op)
{
    if (aside.count == aside.size) {
        size_t size = aside.size == 0 ? ASIDE_MIN : 2 * aside.size;
        PyObject **objects = PyMem_RawRealloc(aside.objects, size * sizeof *objects);
        if (objects == NULL) {
            return false;
        }
        aside.objects = objects;
        aside.size = size;
    }
    aside.objects[aside.count++] = op;
    return true;
}

void
pacpy_release_last(PyObject *op)
{
    if (aside.depth >= NEST_MAX && put_aside(op)) {
        return;
    }
    aside.depth++;
    Py_DECREF(op);
    while (aside.depth == 1 && aside.count > 0) {
        PyObject *next = aside.objects[--aside.count];
        Py_DECREF(next);
    }
    if (--aside.depth == 0 && aside.objects != NULL) {
        PyMem_RawFree(aside.objects);
        aside.objects = NULL;
        aside.size = 0;
    }
}
