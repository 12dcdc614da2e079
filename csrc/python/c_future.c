#include "c_future.h"

typedef struct {
    FutureObject future;
    struct pyasync_c_future *c; /* owned; NULL: dropped */
    PyObject *(*result)(struct pyasync_c_future *future);
} CFutureObject;

static void
CFuture_leave(CFutureObject *self)
{
    struct pyasync_c_future *c = self->c;
    if (c == NULL) {
        return;
    }
    self->c = NULL;
    PyObject *exception = PyErr_GetRaisedException();
    c->vtable->drop(c);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(NULL);
    }
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
}

/* The future is READY: 1 or -1. */
static int
result_of(CFutureObject *self, PyObject **value)
{
    *value = self->result == NULL ? Py_NewRef(Py_None) : self->result(self->c);
    if (*value == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_SystemError,
                            "a C future's result returned NULL without an exception");
        }
        return -1;
    }
    if (PyErr_Occurred()) {
        Py_CLEAR(*value);
        PyObject *cause = PyErr_GetRaisedException();
        PyErr_SetString(PyExc_SystemError,
                        "a C future's result returned a result with an exception set");
        PyObject *error = PyErr_GetRaisedException();
        PyException_SetCause(error, cause);
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 1;
}

static int
CFuture_poll(FutureObject *f, struct pac_context *cx, PyObject **value)
{
    CFutureObject *self = (CFutureObject *)f;
    if (self->c == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this C future was cancelled, and cannot be awaited again");
        return -1;
    }
    int ready = self->c->vtable->poll(self->c, (struct pyasync_c_context *)(void *)cx);
    if (ready == PYASYNC_C_PENDING && !PyErr_Occurred()) {
        if (PAC_UNLIKELY(f->state == PACPY_DROPPED)) {
            CFuture_leave(self); /* by something that the poll set off */
        }
        return 0;
    }
    if (ready == PYASYNC_C_READY && !PyErr_Occurred()) {
        ready = result_of(self, value);
    }
    else if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_SystemError, "a C future's poll returned %d without an exception",
                     ready);
        ready = -1;
    }
    else {
        ready = -1; /* its exception, whatever it returned */
    }
    CFuture_leave(self);
    return ready;
}

static void
CFuture_forget(FutureObject *f)
{
    if (!f->polling) {
        CFuture_leave((CFutureObject *)f);
    }
}

static const struct pacpy_future_vtable c_future_vtable = {
    .poll = CFuture_poll,
    .forget = CFuture_forget,
};

/* Never tracked by the collector: what it could find is in C. */
static int
CFuture_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
CFuture_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    pacpy_future_fini((FutureObject *)op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot CFuture_slots[] = {
    {Py_tp_doc, "A future that an extension has written in C, through the C API."},
    {Py_tp_traverse, CFuture_traverse},
    {Py_tp_dealloc, CFuture_dealloc},
    PACPY_FUTURE_SLOTS,
    {0, NULL},
};

static PyType_Spec CFuture_spec = {
    .name = "pyasync_c.CFuture",
    .basicsize = sizeof(CFutureObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = CFuture_slots,
};

PyObject *
pacpy_c_future_new(struct pacpy_state *st, struct pyasync_c_future *future,
                   PyObject *(*result)(struct pyasync_c_future *future))
{
    const char *wrong = future == NULL                 ? "the future is NULL"
                        : future->vtable == NULL       ? "its vtable is NULL"
                        : future->vtable->poll == NULL ? "poll is NULL"
                        : future->vtable->drop == NULL ? "drop is NULL"
                                                       : NULL;
    if (wrong != NULL) {
        return PyErr_Format(PyExc_ValueError, "future_to_object: %s", wrong);
    }
    CFutureObject *self = PyObject_GC_New(CFutureObject, st->CFuture_type);
    if (self != NULL) {
        pacpy_future_init(&self->future, st, &c_future_vtable);
        self->c = future;
        self->result = result;
    }
    return (PyObject *)self;
}

int
pacpy_c_future_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &CFuture_spec, st->Future_type, &st->CFuture_type, NULL);
}
