/* waker.c - Waker, Context, and the waker that calls a Python callable.
 *
 * A Waker owns one waker of the core and never changes it, so that every thread may use it. Most
 * are wakers of tasks, which are all C. Waker(callable) is the one kind that needs Python:
 *
 *   Waker ──► struct callable_waker ──► callable        counted; clones share it
 *   clone ──►         │
 *   leaf  ──►         └──► the graveyard (graveyard.h)
 *
 * Waking has to call Python. A thread that is attached to the interpreter of the callable just
 * does; one that is attached to none attaches for the call, which it can in the main interpreter
 * only. What cannot be called (another interpreter's thread, an interpreter that ends) is left
 * alone.
 *
 * Dropping must not wait for the GIL, but giving up the callable needs it. So who drops the last
 * reference without being attached lays the struct in the graveyard, which the next Waker(callable)
 * empties. A callable whose last waker is dropped after its interpreter has gone is leaked.
 *
 * The collector sees a callable through its Waker as long as that is the only owner. It does not see
 * it through a leaf that keeps a clone, so a callable that refers to such a leaf is a cycle that is not
 * collected: it goes when the leaf is woken, polled with another waker or dropped. The collector takes
 * two passes over all references, and what it counts must not change in between. But a leaf's clone
 * stands in a list of the core, out of which a thread without the GIL may take it at any moment, in
 * order to wake it: counted in the first pass and gone in the second, the callable would look like
 * garbage and be cleared under the thread that is about to call it. A lock that stops such threads
 * would have to be held from one pass to the next, and waking must not wait for the collector. */
#include "waker.h"

#include "graveyard.h"
#include "release.h"

struct callable_waker {
    PAC_ATOMIC(size_t) references;
    PyObject *callable;
    struct pacpy_graveyard *graveyard;
    struct pacpy_grave grave;
};

/* ---- the waker that calls ------------------------------------------------------------------- */

static bool
interpreter_is_ending(void)
{
#if PY_VERSION_HEX < 0x030D0000
    return !Py_IsInitialized() || _Py_IsFinalizing();
#else
    return !Py_IsInitialized() || Py_IsFinalizing();
#endif
}

/* Attached: free it; the last reference is gone. */
static void
bury(struct pacpy_grave *grave)
{
    struct callable_waker *w = PAC_CONTAINER_OF(grave, struct callable_waker, grave);
    PyObject *callable = w->callable;
    pacpy_graveyard_unref(w->graveyard);
    pac_free(w);
    pacpy_release(callable);
}

/* Attached. Whoever wakes may be in the middle of anything, with an exception set too. */
static void
call_attached(struct callable_waker *w)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *callable = Py_NewRef(w->callable);
    PyObject *result = PyObject_CallNoArgs(callable);
    if (result == NULL) {
        PyErr_WriteUnraisable(callable);
    }
    Py_XDECREF(result);
    Py_DECREF(callable);
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
}

static void
callable_wake_by_ref(void *data)
{
    struct callable_waker *w = data;
    struct pacpy_graveyard *g = w->graveyard;
    if (pacpy_graveyard_is_closed(g)) {
        return;
    }
    if (pacpy_graveyard_is_attached(g)) {
        call_attached(w);
        return;
    }
    if (!g->is_main || interpreter_is_ending()) {
        return;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (PyThreadState_GetUnchecked() != NULL) {
        return; /* attached to another interpreter */
    }
#endif
    PyGILState_STATE gil = PyGILState_Ensure();
    if (pacpy_graveyard_is_attached(g)) { /* not if this thread belongs to another interpreter */
        call_attached(w);
    }
    PyGILState_Release(gil);
}

/* True: that was the last reference. */
static bool
callable_unref(struct callable_waker *w)
{
    PAC_COUNT(wakers, -1);
    /* acq_rel: all that the other holders did comes before the end. */
    return pac_atomic_sub(&w->references, 1, PAC_ACQ_REL) == 1;
}

static void
callable_drop_attached(struct callable_waker *w)
{
    if (callable_unref(w)) {
        bury(&w->grave);
    }
}

static void
callable_drop(void *data)
{
    struct callable_waker *w = data;
    if (callable_unref(w)) {
        pacpy_graveyard_take(w->graveyard, &w->grave);
    }
}

static void
callable_wake(void *data)
{
    callable_wake_by_ref(data);
    callable_drop(data);
}

static struct pac_waker callable_clone(void *data);

static const struct pac_waker_vtable callable_waker_vtable = {
    .clone = callable_clone,
    .wake = callable_wake,
    .wake_by_ref = callable_wake_by_ref,
    .drop = callable_drop,
};

static struct pac_waker
callable_clone(void *data)
{
    struct callable_waker *w = data;
    /* relaxed: the caller's own reference keeps the count above zero. */
    pac_atomic_add(&w->references, 1, PAC_RELAXED);
    PAC_COUNT(wakers, 1);
    return (struct pac_waker){&callable_waker_vtable, w};
}

/* An owned waker that calls `callable`; an empty slot and an exception. */
static struct pac_waker
callable_waker_new(struct pacpy_graveyard *g, PyObject *callable)
{
    pacpy_graveyard_visit(g);
    struct callable_waker *w = pac_alloc(sizeof *w);
    if (w == NULL) {
        PyErr_NoMemory();
        return PAC_NO_WAKER;
    }
    pac_atomic_init(&w->references, 1);
    PAC_COUNT(wakers, 1);
    w->callable = Py_NewRef(callable);
    w->graveyard = pacpy_graveyard_ref(g);
    w->grave.bury = bury;
    return (struct pac_waker){&callable_waker_vtable, w};
}

/* The callable of a Waker, borrowed; NULL if it is of another kind. */
static PyObject *
waker_callable(const WakerObject *self)
{
    return self->waker.vtable == &callable_waker_vtable
               ? ((struct callable_waker *)self->waker.data)->callable
               : NULL;
}

/* ---- Waker ---------------------------------------------------------------------------------- */

/* Takes `w` over, an error included. */
static PyObject *
waker_adopt(struct pacpy_state *st, struct pac_waker w)
{
    WakerObject *self = PyObject_GC_New(WakerObject, st->Waker_type);
    if (self == NULL) {
        pac_waker_drop(&w);
        return NULL;
    }
    self->st = st;
    self->waker = w;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
pacpy_waker_new(struct pacpy_state *st, const struct pac_waker *w)
{
    return waker_adopt(st, pac_waker_clone(w));
}

/* The one positional argument of name(argument), borrowed; NULL and TypeError. */
static PyObject *
only_argument(const char *name, PyObject *args, PyObject *kwargs)
{
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", name);
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) != 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes exactly 1 argument (%zd given)", name,
                     PyTuple_GET_SIZE(args));
        return NULL;
    }
    return PyTuple_GET_ITEM(args, 0);
}

static PyObject *
Waker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *callable = only_argument("Waker", args, kwargs);
    if (callable == NULL) {
        return NULL;
    }
    if (!PyCallable_Check(callable)) {
        PyErr_Format(PyExc_TypeError, "Waker: wake must be callable, not %.200s",
                     Py_TYPE(callable)->tp_name);
        return NULL;
    }
    struct pacpy_state *st = pacpy_state_of_type(type);
    struct pacpy_graveyard *g = st == NULL ? NULL : pacpy_graveyard_of(st);
    if (g == NULL) {
        return NULL;
    }
    struct pac_waker w = callable_waker_new(g, callable);
    return pac_waker_is_set(&w) ? waker_adopt(st, w) : NULL;
}

static int
Waker_traverse(PyObject *op, visitproc visit, void *arg)
{
    WakerObject *self = (WakerObject *)op;
    Py_VISIT(Py_TYPE(op));
    if (self->waker.vtable == &callable_waker_vtable) {
        struct callable_waker *w = self->waker.data;
        /* With more owners than this object, its reference to the callable is not the only path to
         * it. acquire: pairs with the release of another owner's drop. */
        if (pac_atomic_load(&w->references, PAC_ACQUIRE) == 1) {
            Py_VISIT(w->callable);
        }
    }
    return 0;
}

static int
Waker_clear(PyObject *op)
{
    WakerObject *self = (WakerObject *)op;
    struct pac_waker w = self->waker;
    self->waker = pac_noop_waker;
    if (w.vtable == &callable_waker_vtable) {
        /* This thread has the object, so it is attached and the callable lives, be the graveyard
         * closed or not: the collector may have taken the type before its last objects. */
        callable_drop_attached(w.data);
    }
    else {
        pac_waker_drop(&w);
    }
    return 0;
}

static void
Waker_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Waker_clear(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Waker_repr(PyObject *op)
{
    WakerObject *self = (WakerObject *)op;
    PyObject *callable = waker_callable(self);
    if (callable != NULL) {
        int status = Py_ReprEnter(op);
        if (status != 0) {
            return status > 0 ? PyUnicode_FromString("<Waker ...>") : NULL;
        }
        PyObject *text = PyUnicode_FromFormat("<Waker calling %R>", callable);
        Py_ReprLeave(op);
        return text;
    }
    if (pac_waker_will_wake(&self->waker, &pac_noop_waker)) {
        return PyUnicode_FromString("<Waker of nothing>");
    }
    return PyUnicode_FromFormat("<Waker of the task at %p>", self->waker.data);
}

PyDoc_STRVAR(Waker_wake_doc,
             "wake($self, /)\n--\n\n"
             "Have the task polled again.\n\n"
             "Any number of times, from any thread; wakes before the next poll count as one.\n"
             "Nothing happens once the task has ended. What the callable of a Waker of one's\n"
             "own raises goes to sys.unraisablehook.");

static PyObject *
Waker_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pac_waker_wake_by_ref(&((WakerObject *)op)->waker);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Waker_clone_doc, "clone($self, /)\n--\n\n"
                              "Another Waker for the same task. From any thread.");

static PyObject *
Waker_clone(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WakerObject *self = (WakerObject *)op;
    return pacpy_waker_new(self->st, &self->waker);
}

PyDoc_STRVAR(Waker_will_wake_doc,
             "will_wake($self, other, /)\n--\n\n"
             "True if waking this one is waking the other one.\n\n"
             "A future that is polled again with a Waker that its stored one will_wake need\n"
             "not replace it. False promises nothing. From any thread. TypeError if other is\n"
             "no Waker.");

static PyObject *
Waker_will_wake(PyObject *op, PyObject *other)
{
    WakerObject *self = (WakerObject *)op;
    if (!Py_IS_TYPE(other, self->st->Waker_type)) {
        PyErr_Format(PyExc_TypeError, "will_wake: other must be a Waker, not %.200s",
                     Py_TYPE(other)->tp_name);
        return NULL;
    }
    return PyBool_FromLong(pac_waker_will_wake(&self->waker, &((WakerObject *)other)->waker));
}

static PyMethodDef Waker_methods[] = {
    {"wake", Waker_wake, METH_NOARGS, Waker_wake_doc},
    {"clone", Waker_clone, METH_NOARGS, Waker_clone_doc},
    {"will_wake", Waker_will_wake, METH_O, Waker_will_wake_doc},
    {NULL},
};

PyDoc_STRVAR(Waker_doc,
             "Waker(wake, /)\n--\n\n"
             "The right to have one task polled again.\n\n"
             "A future that is polled and not ready keeps the Waker of that poll, and wakes it\n"
             "when another poll is worth while. Waker(wake) makes one of one's own, as an\n"
             "executor written in Python hands to the futures that it polls: wake() calls it,\n"
             "from the thread that wakes, whichever that is. TypeError if it is not callable.\n"
             "(In a sub-interpreter it is called from threads of that interpreter only.)\n\n"
             "A future that waits keeps its Waker, and so what wake refers to, until it is woken,\n"
             "polled with another Waker or dropped. The garbage collector does not see this, as\n"
             "threads without the GIL may take the Waker away while it counts. Where wake refers\n"
             "to the future itself, drop() the future when it is not needed any more, or let wake\n"
             "refer to its owner by a weakref.ref only.\n\n"
             "Every method may be called from any thread, also after the task has ended.\n"
             "Stands for Rust's Waker.");

static PyType_Slot Waker_slots[] = {
    {Py_tp_doc, (void *)Waker_doc},   {Py_tp_new, Waker_new},
    {Py_tp_traverse, Waker_traverse}, {Py_tp_clear, Waker_clear},
    {Py_tp_dealloc, Waker_dealloc},   {Py_tp_repr, Waker_repr},
    {Py_tp_methods, Waker_methods},   {0, NULL},
};

static PyType_Spec Waker_spec = {
    .name = "pyasync_c.Waker",
    .basicsize = sizeof(WakerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Waker_slots,
};

/* ---- Context -------------------------------------------------------------------------------- */

static PyObject *
context_alloc(struct pacpy_state *st, const struct pac_waker *borrowed, PyObject *waker)
{
    ContextObject *self = PyObject_GC_New(ContextObject, st->Context_type);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->borrowed = borrowed;
    self->waker = Py_XNewRef(waker);
    self->by_hand = waker != NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
pacpy_context_new(struct pacpy_state *st, const struct pac_waker *w)
{
    return context_alloc(st, w, NULL);
}

void
pacpy_context_expire(PyObject *context)
{
    ContextObject *self = (ContextObject *)context;
    PyObject *waker;
    Py_BEGIN_CRITICAL_SECTION(context);
    self->borrowed = NULL;
    waker = self->waker;
    self->waker = NULL;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(waker);
}

static void
raise_poll_is_over(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "this Context's poll is over: keep a clone of its waker instead");
}

const struct pac_waker *
pacpy_context_waker(struct pacpy_state *st, PyObject *context)
{
    if (!Py_IS_TYPE(context, st->Context_type)) {
        PyErr_Format(PyExc_TypeError, "poll: cx must be a Context, not %.200s",
                     Py_TYPE(context)->tp_name);
        return NULL;
    }
    ContextObject *self = (ContextObject *)context;
    if (self->borrowed != NULL) {
        return self->borrowed;
    }
    if (self->waker != NULL) {
        return &((WakerObject *)self->waker)->waker;
    }
    raise_poll_is_over();
    return NULL;
}

static PyObject *
Context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *waker = only_argument("Context", args, kwargs);
    struct pacpy_state *st = waker == NULL ? NULL : pacpy_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(waker, st->Waker_type)) {
        PyErr_Format(PyExc_TypeError, "Context: waker must be a Waker, not %.200s",
                     Py_TYPE(waker)->tp_name);
        return NULL;
    }
    return context_alloc(st, NULL, waker);
}

static int
Context_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ContextObject *)op)->waker);
    return 0;
}

static int
Context_clear(PyObject *op)
{
    Py_CLEAR(((ContextObject *)op)->waker);
    return 0;
}

static void
Context_dealloc(PyObject *op)
{
    PyTypeObject *tp = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Context_clear(op);
    tp->tp_free(op);
    Py_DECREF(tp);
}

static PyObject *
Context_repr(PyObject *op)
{
    ContextObject *self = (ContextObject *)op;
    if (self->by_hand && self->waker != NULL) {
        return PyUnicode_FromFormat("<Context %R>", self->waker);
    }
    return PyUnicode_FromString(self->borrowed != NULL ? "<Context of a poll>"
                                                       : "<Context of a poll that is over>");
}

/* The Waker object, made on first asking. New reference. */
static PyObject *
context_waker_object(ContextObject *self)
{
    if (self->waker == NULL) {
        if (self->borrowed == NULL) {
            raise_poll_is_over();
            return NULL;
        }
        self->waker = pacpy_waker_new(self->st, self->borrowed);
    }
    return Py_XNewRef(self->waker);
}

static PyObject *
Context_get_waker(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *waker;
    Py_BEGIN_CRITICAL_SECTION(op);
    waker = context_waker_object((ContextObject *)op);
    Py_END_CRITICAL_SECTION();
    return waker;
}

PyDoc_STRVAR(Context_waker_doc,
             "The Waker of the task that polls, which may be kept beyond the poll.\n\n"
             "RuntimeError once the poll that the runtime made this Context for is over.");

static PyGetSetDef Context_getset[] = {
    {"waker", Context_get_waker, NULL, Context_waker_doc},
    {NULL},
};

PyDoc_STRVAR(Context_doc,
             "Context(waker, /)\n--\n\n"
             "What a poll is given: the Waker of the task that polls.\n\n"
             "The runtime makes one for each call of a poll() written in Python, and it is\n"
             "valid during that call; one made by hand is valid for as long as it lives.\n"
             "TypeError if waker is no Waker. Stands for Rust's Context.");

static PyType_Slot Context_slots[] = {
    {Py_tp_doc, (void *)Context_doc},   {Py_tp_new, Context_new},
    {Py_tp_traverse, Context_traverse}, {Py_tp_clear, Context_clear},
    {Py_tp_dealloc, Context_dealloc},   {Py_tp_repr, Context_repr},
    {Py_tp_getset, Context_getset},     {0, NULL},
};

static PyType_Spec Context_spec = {
    .name = "pyasync_c.Context",
    .basicsize = sizeof(ContextObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Context_slots,
};

/* ---- the module ----------------------------------------------------------------------------- */

PyDoc_STRVAR(noop_waker_doc, "noop_waker($module, /)\n--\n\n"
                             "A Waker that does nothing, to poll a future by hand just to look.\n\n"
                             "From any thread. Stands for Rust's Waker::noop.");

static PyObject *
waker_noop(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return pacpy_waker_new(pacpy_state_of(module), &pac_noop_waker);
}

static PyMethodDef waker_functions[] = {
    {"noop_waker", waker_noop, METH_NOARGS, noop_waker_doc},
    {NULL},
};

int
pacpy_waker_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Waker_spec, NULL, &st->Waker_type, "Waker") < 0 ||
        pacpy_make_type(module, &Context_spec, NULL, &st->Context_type, "Context") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, waker_functions);
}
