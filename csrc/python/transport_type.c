/* transport_type.c - the methods and attributes that all transports have. */
#include "transport.h"

#include "args.h"

/* ---- methods -------------------------------------------------------------------------------- */

static PyObject *
none_or_null(int failed)
{
    return failed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
Transport_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return none_or_null(pacpy_transport_close((TransportObject *)op));
}

static PyObject *
Transport_abort(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return none_or_null(pacpy_transport_force_close((TransportObject *)op, NULL));
}

static PyObject *
Transport_force_close(PyObject *op, PyObject *exc)
{
    return none_or_null(
        pacpy_transport_force_close((TransportObject *)op, exc == Py_None ? NULL : exc));
}

/* _fatal_error(exc, message='Fatal error on transport') */
static PyObject *
Transport_fatal_error(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"exc", "message", NULL};
    PyObject *exc;
    const char *message = "Fatal error on transport";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|s:_fatal_error", names, &exc, &message)) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(exc)) {
        return PyErr_Format(PyExc_TypeError, "exc must be an exception, not %s",
                            Py_TYPE(exc)->tp_name);
    }
    pacpy_transport_end_by((TransportObject *)op, exc, message);
    Py_RETURN_NONE;
}

static PyObject *
Transport_is_closing(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((TransportObject *)op)->closing);
}

static PyObject *
Transport_is_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    return PyBool_FromLong(!t->closing && !t->paused);
}

static PyObject *
Transport_pause_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    if (t->closing || t->paused) {
        Py_RETURN_NONE;
    }
    t->paused = true;
    if (pacpy_transport_settle(t) < 0) {
        return NULL;
    }
    return none_or_null(pacpy_transport_log(t, "%r pauses reading"));
}

static PyObject *
Transport_resume_reading(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    if (t->closing || !t->paused) {
        Py_RETURN_NONE;
    }
    t->paused = false;
    if (pacpy_transport_settle(t) < 0) {
        return NULL;
    }
    return none_or_null(pacpy_transport_log(t, "%r resumes reading"));
}

static PyObject *
Transport_get_protocol(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *protocol = ((TransportObject *)op)->protocol;
    return Py_NewRef(protocol == NULL ? Py_None : protocol);
}

static PyObject *
Transport_set_protocol(PyObject *op, PyObject *protocol)
{
    TransportObject *t = (TransportObject *)op;
    if (t->vtable->adopt != NULL && t->vtable->adopt(t, protocol) < 0) {
        return NULL;
    }
    t->protocol_connected = true;
    Py_XSETREF(t->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

static PyObject *
Transport_get_write_buffer_size(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    return PyLong_FromSize_t(t->vtable->pending(t));
}

static PyObject *
Transport_get_write_buffer_limits(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TransportObject *t = (TransportObject *)op;
    return Py_BuildValue("(nn)", t->low_water, t->high_water);
}

/* A water mark: what is beyond all sizes, infinity too, is the largest one. 0 or -1. */
static int
water_mark(PyObject *value, Py_ssize_t *mark)
{
    if (PyFloat_Check(value)) {
        double d = PyFloat_AS_DOUBLE(value);
        if (d != d) {
            PyErr_SetString(PyExc_ValueError, "a write buffer limit must not be nan");
            return -1;
        }
        *mark = d >= (double)PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX : d < 0 ? -1 : (Py_ssize_t)d;
        return 0;
    }
    *mark = PyNumber_AsSsize_t(value, NULL); /* clipped */
    return *mark == -1 && PyErr_Occurred() ? -1 : 0;
}

/* set_write_buffer_limits(high=None, low=None) */
static PyObject *
Transport_set_write_buffer_limits(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"high", "low", NULL};
    TransportObject *t = (TransportObject *)op;
    PyObject *high = Py_None, *low = Py_None;
    Py_ssize_t high_water = 0, low_water = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names, &high,
                                     &low) ||
        (low != Py_None && water_mark(low, &low_water) < 0) ||
        (high != Py_None && water_mark(high, &high_water) < 0)) {
        return NULL;
    }
    if (high == Py_None) {
        high_water = low == Py_None                   ? PACPY_HIGH_WATER
                     : low_water > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX
                                                      : 4 * low_water;
    }
    if (low == Py_None) {
        low_water = high_water < 0 ? -1 : high_water / 4;
    }
    if (high_water < low_water || low_water < 0) {
        return PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0",
                            high_water, low_water);
    }
    t->high_water = high_water;
    t->low_water = low_water;
    return none_or_null(pacpy_transport_maybe_pause(t));
}

/* The dict, with what is made on demand in it: a new reference, since a key that is compared may have
 * another one set; NULL and an exception. */
static PyObject *
whole_extra(TransportObject *t)
{
    PyObject *extra = Py_NewRef(t->extra);
    PyObject *sock = t->sock == NULL ? t->closed_sock : t->sock;
    int has = PyDict_Contains(extra, t->st->str_socket);
    if (has == 0 && sock != NULL && !t->vtable->is_pipe) {
        PyObject *wrapped = PyObject_CallOneArg(t->st->asyncio_TransportSocket, sock);
        has = wrapped == NULL ? -1 : PyDict_SetItem(extra, t->st->str_socket, wrapped);
        Py_XDECREF(wrapped);
    }
    if (has < 0) {
        Py_CLEAR(extra);
    }
    return extra;
}

/* get_extra_info(name, default=None) */
static PyObject *
Transport_get_extra_info(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "default", NULL};
    TransportObject *t = (TransportObject *)op;
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &fallback)) {
        return NULL;
    }
    PyObject *extra = whole_extra(t);
    PyObject *found = extra == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(extra, name));
    if (found == NULL && !PyErr_Occurred()) {
        found = Py_NewRef(fallback);
    }
    Py_XDECREF(extra);
    return found;
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

PyMethodDef pacpy_transport_methods[] = {
    {"close", Transport_close, METH_NOARGS,
     "Write what is pending, then close; connection_lost(None) is called then."},
    {"abort", Transport_abort, METH_NOARGS, "Close at once; what is pending is dropped."},
    {"is_closing", Transport_is_closing, METH_NOARGS, "Is it closed, or about to be?"},
    {"is_reading", Transport_is_reading, METH_NOARGS, "Does it read: neither paused nor closing?"},
    {"pause_reading", Transport_pause_reading, METH_NOARGS, "Read no more until resumed."},
    {"resume_reading", Transport_resume_reading, METH_NOARGS, "Read again."},
    {"get_protocol", Transport_get_protocol, METH_NOARGS, "The protocol; None once closed."},
    {"set_protocol", Transport_set_protocol, METH_O, "Have another protocol called from now on."},
    {"get_write_buffer_size", Transport_get_write_buffer_size, METH_NOARGS,
     "How many bytes have yet to be written."},
    {"get_write_buffer_limits", Transport_get_write_buffer_limits, METH_NOARGS,
     "The limits of flow control, (low, high), in bytes."},
    {"set_write_buffer_limits", KEYWORDS(Transport_set_write_buffer_limits),
     METH_VARARGS | METH_KEYWORDS,
     "set_write_buffer_limits(high=None, low=None): above `high` bytes pending the protocol's\n"
     "pause_writing() is called, and at `low` resume_writing()."},
    {"get_extra_info", KEYWORDS(Transport_get_extra_info), METH_VARARGS | METH_KEYWORDS,
     "get_extra_info(name, default=None): \"socket\", \"sockname\", \"peername\"."},
    {"_force_close", Transport_force_close, METH_O, NULL},
    {"_fatal_error", KEYWORDS(Transport_fatal_error), METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL},
};

/* ---- attributes ----------------------------------------------------------------------------- */

PyMemberDef pacpy_transport_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TransportObject, weakrefs), READONLY},
    {"__dictoffset__", T_PYSSIZET, offsetof(TransportObject, dict), READONLY},
    {"_sock", T_OBJECT, offsetof(TransportObject, sock), READONLY},
    {"_sock_fd", T_INT, offsetof(TransportObject, fd), READONLY},
    {"_protocol", T_OBJECT, offsetof(TransportObject, protocol), READONLY},
    {"_loop", T_OBJECT, offsetof(TransportObject, loop), READONLY},
    {"_server", T_OBJECT, offsetof(TransportObject, server), READONLY},
    {"_conn_lost", T_INT, offsetof(TransportObject, conn_lost), READONLY},
    {"_high_water", T_PYSSIZET, offsetof(TransportObject, high_water), READONLY},
    {"_low_water", T_PYSSIZET, offsetof(TransportObject, low_water), READONLY},
    {"_closing", T_BOOL, offsetof(TransportObject, closing), READONLY},
    {"_paused", T_BOOL, offsetof(TransportObject, paused), READONLY},
    {"_protocol_paused", T_BOOL, offsetof(TransportObject, protocol_paused), READONLY},
    {NULL},
};

static PyObject *
get_extra(PyObject *op, void *Py_UNUSED(closure))
{
    return whole_extra((TransportObject *)op);
}

static int
set_extra(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyDict_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_extra must be a dict");
        return -1;
    }
    Py_SETREF(((TransportObject *)op)->extra, Py_NewRef(value));
    return 0;
}

PyGetSetDef pacpy_transport_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict},
    {"_extra", get_extra, set_extra},
    {NULL},
};

PyObject *
pacpy_transport_repr(PyObject *op)
{
    TransportObject *t = (TransportObject *)op;
    const char *name = pacpy_short_name(Py_TYPE(op));
    const char *state = t->sock == NULL ? " closed" : t->closing ? " closing" : "";
    if (t->loop == NULL || t->loop->executor == NULL) {
        return PyUnicode_FromFormat("<%s%s fd=%d>", name, state, t->fd);
    }
    size_t pending = t->vtable->pending(t);
    return PyUnicode_FromFormat("<%s%s fd=%d read=%s write=<%s, bufsize=%zu>>", name, state, t->fd,
                                pacpy_transport_reads(t) ? "polling" : "idle",
                                pending > 0 ? "polling" : "idle", pending);
}

/* ---- types ---------------------------------------------------------------------------------- */

void
pacpy_join_methods(PyMethodDef *all, size_t size, const PyMethodDef *a, const PyMethodDef *b)
{
    size_t n = 0;
    for (; a->ml_name != NULL && n + 1 < size; a++) {
        all[n++] = *a;
    }
    for (; b->ml_name != NULL && n + 1 < size; b++) {
        all[n++] = *b;
    }
    PAC_ASSERT(a->ml_name == NULL && b->ml_name == NULL);
}

void
pacpy_join_getset(PyGetSetDef *all, size_t size, const PyGetSetDef *a, const PyGetSetDef *b)
{
    size_t n = 0;
    for (; a->name != NULL && n + 1 < size; a++) {
        all[n++] = *a;
    }
    for (; b->name != NULL && n + 1 < size; b++) {
        all[n++] = *b;
    }
    PAC_ASSERT(a->name == NULL && b->name == NULL);
}

int
pacpy_transport_make_type(struct pacpy_state *st, PyType_Spec *spec, const char *kind,
                          PyTypeObject **slot, const char *name)
{
    /* asyncio's own transports derive from this one first, which makes them all Transports. */
    PyObject *mixin = pacpy_asyncio_name("asyncio.transports", "_FlowControlMixin");
    PyObject *other = mixin == NULL ? NULL : pacpy_asyncio_name("asyncio.transports", kind);
    PyObject *bases = NULL;
    if (other != NULL) {
        bases = PyObject_IsSubclass(mixin, other) > 0 ? PyTuple_Pack(1, mixin)
                                                      : PyTuple_Pack(2, mixin, other);
    }
    int made = -1;
    if (bases != NULL &&
        ((PyTypeObject *)mixin)->tp_basicsize > (Py_ssize_t)offsetof(TransportObject, dict)) {
        pacpy_refuse_python("asyncio.transports", "transport as small as it was");
    }
    else if (bases != NULL) {
        PyObject *type = PyType_FromModuleAndSpec(st->module, spec, bases);
        *slot = (PyTypeObject *)type;
        made = type == NULL ? -1 : PyModule_AddObjectRef(st->module, name, type);
    }
    Py_XDECREF(mixin);
    Py_XDECREF(other);
    Py_XDECREF(bases);
    return made;
}
