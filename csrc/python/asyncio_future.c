/* asyncio_future.c - what loop.create_future() makes: an asyncio.Future whose state is ours. */
#include "completion.h"
#include "eventloop.h"

static int
AsyncioFuture_traverse(PyObject *op, visitproc visit, void *arg)
{
    /* cpylint: traverse, pacpy_visit_asyncio_part visits the type */
    int stop = pacpy_visit_asyncio_part(Py_TYPE(op)->tp_base, op, visit, arg);
    return stop != 0 ? stop : pacpy_completion_traverse(pacpy_completion_of(op), visit, arg);
}

static int
AsyncioFuture_clear(PyObject *op)
{
    pacpy_completion_clear(pacpy_completion_of(op));
    return Py_TYPE(op)->tp_base->tp_clear(op);
}

static void
AsyncioFuture_finalize(PyObject *op)
{
    pacpy_completion_report_unseen(pacpy_completion_of(op), "Future");
}

static void
AsyncioFuture_dealloc(PyObject *op)
{
    struct pacpy_completion *c = pacpy_completion_of(op);
    struct pacpy_state *st = c->st;
    if (c->log_traceback && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    AsyncioFuture_clear(op);
    pacpy_freelist_free(&st->asyncio_future_free, st->AsyncioFuture_type, op);
}

static PyObject *
AsyncioFuture_repr(PyObject *op)
{
    return PyObject_CallMethod(pacpy_completion_of(op)->st->asyncio_support, "future_repr", "O",
                               op);
}

PyDoc_STRVAR(
    AsyncioFuture_doc,
    "The future that loop.create_future() of a pyasync_c loop makes: an asyncio.Future. Belongs to the\n"
    "thread of its loop.");

static PyType_Slot AsyncioFuture_slots[] = {
    {Py_tp_doc, (void *)AsyncioFuture_doc},
    {Py_tp_traverse, AsyncioFuture_traverse},
    {Py_tp_clear, AsyncioFuture_clear},
    {Py_tp_finalize, AsyncioFuture_finalize},
    {Py_tp_dealloc, AsyncioFuture_dealloc},
    {Py_tp_repr, AsyncioFuture_repr},
    {Py_tp_iter, pacpy_future_iter},
    {Py_tp_iternext, pacpy_completion_next},
    {Py_am_await, pacpy_completion_await},
    {Py_am_send, pacpy_completion_send},
    {Py_tp_methods, pacpy_completion_methods},
    {Py_tp_getset, pacpy_completion_getset},
    {0, NULL},
};

static PyType_Spec AsyncioFuture_spec = {
    .name = "pyasync_c.AsyncioFuture",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = AsyncioFuture_slots,
};

PyObject *
pacpy_asyncio_future_new(LoopObject *loop)
{
    struct pacpy_state *st = loop->st;
    PyObject *op = pacpy_freelist_alloc(&st->asyncio_future_free, st->AsyncioFuture_type);
    if (op == NULL) {
        return NULL;
    }
    struct pacpy_completion *c = pacpy_completion_of(op);
    pacpy_completion_init(c, st, loop);
    PyObject_GC_Track(op);
    if (pacpy_completion_note_source(c) < 0) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

int
pacpy_asyncio_future_make_types(struct pacpy_state *st)
{
    PyObject *base = pacpy_asyncio_name("_asyncio", "Future");
    if (base == NULL) {
        return -1;
    }
    AsyncioFuture_spec.basicsize =
        (int)(pacpy_completion_offset + (Py_ssize_t)sizeof(struct pacpy_completion));
    int made = pacpy_make_type(st->module, &AsyncioFuture_spec, (PyTypeObject *)base,
                               &st->AsyncioFuture_type, NULL);
    Py_DECREF(base);
    return made < 0 ? -1 : pacpy_hide_next(st->AsyncioFuture_type);
}
