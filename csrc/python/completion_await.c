/* completion_await.c - how a Task or an asyncio future is awaited: by itself, or by an iterator. */
#include "completion.h"

#include "future.h"

#define FASTCALL(f) (PyCFunction)(void (*)(void)) f

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    PyObject *future; /* NULL: finished */
} FutureIterObject;

PyObject *
pacpy_future_iter(PyObject *op)
{
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL) {
        return NULL;
    }
    PyObject *iter = pacpy_freelist_alloc(&c->st->future_iter_free, c->st->FutureIter_type);
    if (iter != NULL) {
        ((FutureIterObject *)iter)->st = c->st;
        ((FutureIterObject *)iter)->future = Py_NewRef(op);
        PyObject_GC_Track(iter);
    }
    return iter;
}

PyObject *
pacpy_future_of_iter(struct pacpy_state *st, PyObject *op)
{
    return Py_IS_TYPE(op, st->FutureIter_type) ? ((FutureIterObject *)op)->future : NULL;
}

/* One step of awaiting `op`, which is a completion. PYGEN_NEXT: the future itself, for the task to
 * wait for. */
static PySendResult
await_step(PyObject *op, PyObject **result)
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    *result = NULL;
    if (c->outcome == PACPY_PENDING) {
        if (c->blocking) {
            PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
            return PYGEN_ERROR;
        }
        c->blocking = true;
        *result = Py_NewRef(op);
        return PYGEN_NEXT;
    }
    *result = pacpy_completion_result(c);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static PySendResult
FutureIter_am_send(PyObject *op, PyObject *arg, PyObject **result)
{
    FutureIterObject *self = (FutureIterObject *)op;
    PyObject *future = self->future;
    if (future == NULL) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    PySendResult step = await_step(future, result);
    if (step != PYGEN_NEXT) {
        Py_CLEAR(self->future);
    }
    return step;
}

static PyObject *
FutureIter_iternext(PyObject *op)
{
    PyObject *result;
    switch (FutureIter_am_send(op, Py_None, &result)) {
        case PYGEN_NEXT:
            return result;
        case PYGEN_RETURN:
            return pacpy_return_from_await(((FutureIterObject *)op)->st, result);
        case PYGEN_ERROR:
            break;
    }
    return NULL;
}

/* The tp_iternext of a completion itself, which the interpreter's `await` calls; see completion.h.
 * Not for iterating by hand: pacpy_hide_next. */
PyObject *
pacpy_completion_next(PyObject *op)
{
    PyObject *result;
    struct pacpy_completion *c = pacpy_completion_initialised(op);
    if (c == NULL || await_step(op, &result) == PYGEN_ERROR) {
        return NULL;
    }
    return c->outcome == PACPY_PENDING ? result : pacpy_return_from_await(c->st, result);
}

PySendResult
pacpy_completion_send(PyObject *op, PyObject *Py_UNUSED(arg), PyObject **result)
{
    *result = NULL;
    return pacpy_completion_initialised(op) == NULL ? PYGEN_ERROR : await_step(op, result);
}

PyObject *
pacpy_completion_await(PyObject *op)
{
    return pacpy_completion_initialised(op) == NULL ? NULL : Py_NewRef(op);
}

int
pacpy_hide_next(PyTypeObject *type)
{
    PyObject *dict = type->tp_dict;
    if (PyDict_DelItemString(dict, "__next__") < 0) {
        return -1;
    }
    PyType_Modified(type);
    return 0;
}

static PyObject *
FutureIter_send(PyObject *op, PyObject *arg)
{
    PyObject *result = FutureIter_iternext(op);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

static PyObject *
FutureIter_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw expected 1 to 3 arguments");
        return NULL;
    }
    Py_CLEAR(((FutureIterObject *)op)->future);
    pacpy_raise_thrown(args, nargs);
    return NULL;
}

static PyObject *
FutureIter_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(((FutureIterObject *)op)->future);
    Py_RETURN_NONE;
}

static int
FutureIter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((FutureIterObject *)op)->future);
    return 0;
}

static int
FutureIter_clear(PyObject *op)
{
    Py_CLEAR(((FutureIterObject *)op)->future);
    return 0;
}

static void
FutureIter_dealloc(PyObject *op)
{
    FutureIterObject *self = (FutureIterObject *)op;
    PyObject_GC_UnTrack(op);
    Py_CLEAR(self->future);
    pacpy_freelist_free(&self->st->future_iter_free, self->st->FutureIter_type, op);
}

static PyMethodDef FutureIter_methods[] = {
    {"send", FutureIter_send, METH_O, "Part of the await protocol."},
    {"throw", FASTCALL(FutureIter_throw), METH_FASTCALL, "Part of the await protocol."},
    {"close", FutureIter_close, METH_NOARGS, "Part of the await protocol."},
    {NULL},
};

static PyType_Slot FutureIter_slots[] = {
    {Py_tp_doc, "What awaiting a Task or an asyncio future goes through."},
    {Py_tp_traverse, FutureIter_traverse},
    {Py_tp_clear, FutureIter_clear},
    {Py_tp_dealloc, FutureIter_dealloc},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, FutureIter_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, FutureIter_iternext},
    {Py_tp_methods, FutureIter_methods},
    {0, NULL},
};

static PyType_Spec FutureIter_spec = {
    .name = "pyasync_c.FutureIter",
    .basicsize = sizeof(FutureIterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = FutureIter_slots,
};

int
pacpy_completion_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &FutureIter_spec, NULL, &st->FutureIter_type, NULL);
}
