/* tls_protocol.c - the writing half of the TLS protocol, and the types; tls_receive.c reads. */
#include "tls_protocol.h"

#include "args.h"
#include "stream_reader.h"
#include "stream_transport.h"
#include "tls_object.h"

/* ---- errors --------------------------------------------------------------------------------- */

int
pacpy_tls_missing(const char *name)
{
    PyErr_Format(PyExc_AttributeError, "the TLS protocol has no %s yet", name);
    return -1;
}

bool
pacpy_tls_caught_again(TlsProtocolObject *self)
{
    bool is = self->st->ssl_again != NULL && PyErr_ExceptionMatches(self->st->ssl_again);
    if (is) {
        PyErr_Clear();
    }
    return is;
}

int
pacpy_tls_call(TlsProtocolObject *self, PyObject *name)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, name);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
pacpy_tls_fatal(TlsProtocolObject *self)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *handled = PyErr_GetHandledException();
    PyErr_SetHandledException(exc);
    PyObject *done = PyObject_CallMethod((PyObject *)self, "_fatal_error", "Os", exc,
                                         "Fatal error on SSL protocol");
    PyErr_SetHandledException(handled);
    Py_XDECREF(handled);
    Py_DECREF(exc);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* ---- flow control --------------------------------------------------------------------------- */

/* Is `size` beyond a mark: at least `mark`, or with `low` at most? 1, 0, or -1 and an exception. */
static int
is_beyond(Py_ssize_t size, PyObject *mark, bool low)
{
    if (mark == NULL) {
        return pacpy_tls_missing("water mark");
    }
    int overflow = 0;
    long long limit = PyLong_CheckExact(mark) ? PyLong_AsLongLongAndOverflow(mark, &overflow) : -1;
    if (limit >= 0 && !overflow) {
        return low ? size <= limit : size >= limit;
    }
    PyObject *number = PyLong_FromSsize_t(size);
    int is = number == NULL ? -1 : PyObject_RichCompareBool(number, mark, low ? Py_LE : Py_GE);
    Py_XDECREF(number);
    return is;
}

/* `size` bytes are held: asyncio's method `name` sees to it if that changes something. 0 or -1. */
static int
control(TlsProtocolObject *self, Py_ssize_t size, bool paused, PyObject *high, PyObject *low,
        PyObject *name)
{
    int changes = size < 0 ? -1 : is_beyond(size, paused ? low : high, paused);
    return changes <= 0 ? changes : pacpy_tls_call(self, name);
}

static int
control_app_writing(TlsProtocolObject *self, bool is_empty)
{
    Py_ssize_t size = is_empty ? 0 : pacpy_bio_pending(self->st, self->ssl.outgoing);
    return control(self, size < 0 ? -1 : size + self->write_buffer_size, self->app_writing_paused,
                   self->outgoing_high_water, self->outgoing_low_water,
                   self->st->str__control_app_writing);
}

int
pacpy_tls_control_reading(TlsProtocolObject *self)
{
    return control(self, pacpy_bio_pending(self->st, self->ssl.incoming), self->ssl_reading_paused,
                   self->incoming_high_water, self->incoming_low_water,
                   self->st->str__control_ssl_reading);
}

/* ---- writing -------------------------------------------------------------------------------- */

static int
transport_write(TlsProtocolObject *self, PyObject *data)
{
    if (self->transport == NULL) {
        return pacpy_tls_missing("transport");
    }
    PyObject *transport = Py_NewRef(self->transport);
    PyObject *done = pacpy_stream_transport_is_plain(self->st, transport)
                         ? pacpy_stream_transport_write(transport, data)
                         : PyObject_CallMethodOneArg(transport, self->st->str_write, data);
    Py_DECREF(transport);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
pacpy_tls_process_outgoing(TlsProtocolObject *self)
{
    if (self->ssl_writing_paused) {
        return control_app_writing(self, false);
    }
    PyObject *data = pacpy_ssl_take(self->st, &self->ssl);
    int written = data == NULL ? -1 : 0;
    if (data != NULL && PyBytes_GET_SIZE(data) > 0) {
        written = transport_write(self, data);
    }
    Py_XDECREF(data);
    return written < 0 ? -1 : control_app_writing(self, true);
}

int
pacpy_tls_has_backlog(TlsProtocolObject *self)
{
    Py_ssize_t count = self->write_backlog == NULL ? pacpy_tls_missing("backlog")
                                                   : PyObject_Size(self->write_backlog);
    return count < 0 ? -1 : count > 0;
}

/* Keep what could not be encrypted: bytes of `view` from `offset` on. 0 or -1. */
static int
keep(TlsProtocolObject *self, const Py_buffer *view, Py_ssize_t offset)
{
    PyObject *rest = PyBytes_FromStringAndSize((char *)view->buf + offset, view->len - offset);
    PyObject *done =
        rest == NULL ? NULL : PyObject_CallMethod(self->write_backlog, "append", "O", rest);
    Py_XDECREF(rest);
    if (done != NULL) {
        self->write_buffer_size += view->len - offset;
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Encrypt what `view` shows, and have it go. 0 or -1. */
static int
encrypt(TlsProtocolObject *self, const Py_buffer *view)
{
    Py_ssize_t count = pacpy_ssl_write(self->st, &self->ssl, view->buf, view->len);
    if (count < 0) {
        if (!pacpy_tls_caught_again(self)) {
            return -1;
        }
        count = 0;
    }
    if (count < view->len && keep(self, view, count) < 0) {
        return -1;
    }
    return pacpy_tls_process_outgoing(self);
}

/* May it be encrypted at once? 1, 0, or -1 and an exception. */
static int
may_encrypt(TlsProtocolObject *self)
{
    if (self->state == NULL || self->state != self->st->ssl_WRAPPED) {
        return 0;
    }
    int waits = pacpy_tls_has_backlog(self);
    return waits < 0 ? -1 : !waits;
}

/* asyncio's _write_appdata: logs, or keeps for later. */
static PyObject *
standard_write(TlsProtocolObject *self, PyObject *list)
{
    if (self->st->ssl_Protocol == NULL) {
        pacpy_tls_missing("asyncio");
        return NULL;
    }
    return PyObject_CallMethod(self->st->ssl_Protocol, "_write_appdata", "OO", self, list);
}

/* Write what is bytes or like bytes: a new reference to None, or NULL and an exception. */
static PyObject *
write_one(TlsProtocolObject *self, PyObject *data)
{
    int at_once = may_encrypt(self);
    if (at_once <= 0) {
        PyObject *list = at_once < 0 ? NULL : PyTuple_Pack(1, data);
        PyObject *done = list == NULL ? NULL : standard_write(self, list);
        Py_XDECREF(list);
        return done;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int done = encrypt(self, &view) < 0 ? pacpy_tls_fatal(self) : 0;
    PyBuffer_Release(&view);
    return done < 0 ? NULL : Py_NewRef(Py_None);
}

/* _write_appdata(list) */
static PyObject *
Tls_write_appdata(PyObject *op, PyObject *list)
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    int at_once = may_encrypt(self);
    if (at_once <= 0) {
        return at_once < 0 ? NULL : standard_write(self, list);
    }
    PyObject *nothing = PyBytes_FromStringAndSize(NULL, 0);
    PyObject *joined =
        nothing == NULL ? NULL : PyObject_CallMethodOneArg(nothing, self->st->str_join, list);
    Py_XDECREF(nothing);
    PyObject *done = NULL;
    if (joined != NULL) {
        done = PyBytes_GET_SIZE(joined) == 0 ? Py_NewRef(Py_None) : write_one(self, joined);
    }
    Py_XDECREF(joined);
    return done;
}

static PyObject *
Tls_process_outgoing(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_tls_process_outgoing((TlsProtocolObject *)op) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the protocol's type -------------------------------------------------------------------- */

static PyObject *
Tls_do_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pacpy_tls_do_read((TlsProtocolObject *)op, 0) < 0 ? NULL : Py_NewRef(Py_None);
}

/* buffer_updated(nbytes), by a transport that is not ours: it has called asyncio's get_buffer(). */
static PyObject *
Tls_buffer_updated(PyObject *op, PyObject *nbytes)
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    Py_ssize_t count = PyNumber_AsSsize_t(nbytes, PyExc_OverflowError);
    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *buffer = PyObject_GetAttr(op, self->st->str__ssl_buffer_view);
    PyObject *part = buffer == NULL ? NULL : PySequence_GetSlice(buffer, 0, count);
    Py_XDECREF(buffer);
    if (part == NULL) {
        return NULL;
    }
    if (self->ssl.incoming == NULL) {
        pacpy_tls_missing("_incoming");
        Py_DECREF(part);
        return NULL;
    }
    PyObject *done = PyObject_CallMethodOneArg(self->ssl.incoming, self->st->str_write, part);
    Py_DECREF(part);
    Py_XDECREF(done);
    int result = done == NULL ? -1 : pacpy_tls_go_on(self, count < 0 ? 0 : (size_t)count);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

bool
pacpy_tls_is_ours(struct pacpy_state *st, PyObject *protocol)
{
    if (!PyObject_TypeCheck(protocol, st->TlsProtocolBase_type)) {
        return false;
    }
    PyObject *method = PyObject_GetAttr(protocol, st->str_buffer_updated);
    bool ours = method != NULL && PyCFunction_Check(method) &&
                PyCFunction_GetFunction(method) == Tls_buffer_updated &&
                PyCFunction_GET_SELF(method) == protocol;
    Py_XDECREF(method);
    PyErr_Clear();
    return ours;
}

static PyObject *
get_app_protocol(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *protocol = ((TlsProtocolObject *)op)->app_protocol;
    if (protocol == NULL) {
        pacpy_tls_missing("_app_protocol");
    }
    return Py_XNewRef(protocol);
}

static int
set_app_protocol(PyObject *op, PyObject *protocol, void *Py_UNUSED(closure))
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    Py_XSETREF(self->app_protocol, Py_XNewRef(protocol));
    self->feeds_reader = protocol != NULL && self->st->asyncio_StreamReaderProtocol != NULL &&
                         pacpy_adopt_stream(self->st, protocol);
    return 0;
}

static PyObject *
get_sslobj(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *object = ((TlsProtocolObject *)op)->ssl.object;
    if (object == NULL) {
        pacpy_tls_missing("_sslobj");
    }
    return Py_XNewRef(object);
}

static int
set_sslobj(PyObject *op, PyObject *object, void *Py_UNUSED(closure))
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    if (pacpy_ssl_need(self->st) < 0) {
        return -1;
    }
    pacpy_ssl_use(self->st, &self->ssl, object);
    return 0;
}

static PyGetSetDef Tls_getset[] = {
    {"_app_protocol", get_app_protocol, set_app_protocol, NULL, NULL},
    {"_sslobj", get_sslobj, set_sslobj, NULL, NULL},
    {NULL},
};

static PyMemberDef Tls_members[] = {
#define X(name) {"_" #name, T_OBJECT_EX, offsetof(TlsProtocolObject, name), 0, NULL},
    PACPY_TLS_OBJECTS(X)
#undef X
#define X(name) {"_" #name, T_BOOL, offsetof(TlsProtocolObject, name), 0, NULL},
        PACPY_TLS_FLAGS(X)
#undef X
            {"_incoming", T_OBJECT_EX, offsetof(TlsProtocolObject, ssl.incoming), 0, NULL},
    {"_outgoing", T_OBJECT_EX, offsetof(TlsProtocolObject, ssl.outgoing), 0, NULL},
    {"_write_buffer_size", T_PYSSIZET, offsetof(TlsProtocolObject, write_buffer_size), 0, NULL},
    {NULL},
};

static PyMethodDef Tls_methods[] = {
    {"buffer_updated", Tls_buffer_updated, METH_O, "As asyncio's."},
    {"_do_read", Tls_do_read, METH_NOARGS, NULL},
    {"_write_appdata", Tls_write_appdata, METH_O, NULL},
    {"_process_outgoing", Tls_process_outgoing, METH_NOARGS, NULL},
    {NULL},
};

static PyObject *
Tls_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    struct pacpy_state *st = pacpy_state_of_type(type);
    PyObject *op = st == NULL ? NULL : type->tp_alloc(type, 0);
    if (op != NULL) {
        ((TlsProtocolObject *)op)->st = st;
    }
    return op;
}

static int
Tls_traverse(PyObject *op, visitproc visit, void *arg)
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->app_protocol);
#define X(name) Py_VISIT(self->name);
    PACPY_TLS_OBJECTS(X)
#undef X
    return pacpy_ssl_traverse(&self->ssl, visit, arg);
}

static int
Tls_clear(PyObject *op)
{
    TlsProtocolObject *self = (TlsProtocolObject *)op;
    Py_CLEAR(self->app_protocol);
#define X(name) Py_CLEAR(self->name);
    PACPY_TLS_OBJECTS(X)
#undef X
    pacpy_ssl_clear(&self->ssl);
    return 0;
}

static void
Tls_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Tls_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot Tls_slots[] = {
    {Py_tp_doc, "The hot half of asyncio's SSLProtocol, to be derived from beside it."},
    {Py_tp_new, Tls_new},
    {Py_tp_traverse, Tls_traverse},
    {Py_tp_clear, Tls_clear},
    {Py_tp_dealloc, Tls_dealloc},
    {Py_tp_methods, Tls_methods},
    {Py_tp_members, Tls_members},
    {Py_tp_getset, Tls_getset},
    {0, NULL},
};

static PyType_Spec Tls_spec = {
    .name = "pyasync_c._core.TlsProtocolBase",
    .basicsize = sizeof(TlsProtocolObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Tls_slots,
};

/* ---- the application's transport ------------------------------------------------------------ */

static PyObject *
refuse_data(PyObject *data)
{
    PyErr_Format(PyExc_TypeError, "data: expecting a bytes-like instance, got %s",
                 pacpy_short_name(Py_TYPE(data)));
    return NULL;
}

/* transport._ssl_protocol._write_appdata(list), whatever that is: None once it was closed twice. */
static PyObject *
write_to(PyObject *protocol, PyObject *list)
{
    return PyObject_CallMethod(protocol, "_write_appdata", "O", list);
}

static PyObject *
Transport_write(PyObject *op, PyTypeObject *defining, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    struct pacpy_state *st = *(struct pacpy_state **)PyType_GetModuleState(defining);
    static const char *const names[] = {"data", NULL};
    PyObject *data = NULL;
    if (pacpy_keywords("write", names, 1, 1, args, nargs, kwnames, &data) < 0) {
        return NULL;
    }
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        return refuse_data(data);
    }
    int has = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) > 0 : PyObject_IsTrue(data);
    if (has <= 0) {
        return has < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *protocol = PyObject_GetAttr(op, st->str__ssl_protocol);
    PyObject *done = NULL;
    if (protocol != NULL && PyObject_TypeCheck(protocol, st->TlsProtocolBase_type)) {
        done = write_one((TlsProtocolObject *)protocol, data);
    }
    else if (protocol != NULL) {
        PyObject *list = PyTuple_Pack(1, data);
        done = list == NULL ? NULL : write_to(protocol, list);
        Py_XDECREF(list);
    }
    Py_XDECREF(protocol);
    return done;
}

static PyMethodDef Transport_methods[] = {
    {"write", (PyCFunction)(void (*)(void))Transport_write,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, "As asyncio's."},
    {NULL},
};

static PyType_Slot Transport_slots[] = {
    {Py_tp_doc, "The hot half of asyncio's transport over TLS, to be derived from beside it."},
    {Py_tp_methods, Transport_methods},
    {0, NULL},
};

/* Without fields: asyncio's transports have slots, so that only it may have any. */
static PyType_Spec Transport_spec = {
    .name = "pyasync_c._core.TlsTransportBase",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = Transport_slots,
};

/* ---- the module's part ---------------------------------------------------------------------- */

/* _use_sslproto(module): what C needs of asyncio.sslproto. AttributeError: it has moved. */
static PyObject *
use_sslproto(PyObject *module, PyObject *sslproto)
{
    struct pacpy_state *st = pacpy_state_of(module);
    const struct {
        const char *name;
        PyObject **slot;
    } states[] = {
        {"DO_HANDSHAKE", &st->ssl_DO_HANDSHAKE},
        {"WRAPPED", &st->ssl_WRAPPED},
        {"FLUSHING", &st->ssl_FLUSHING},
        {"SHUTDOWN", &st->ssl_SHUTDOWN},
    };
    if (pacpy_ssl_need(st) < 0) {
        return NULL;
    }
    PyObject *kind = PyObject_GetAttrString(sslproto, "SSLProtocolState");
    for (size_t i = 0; kind != NULL && i < sizeof states / sizeof *states; i++) {
        PyObject *found = PyObject_GetAttrString(kind, states[i].name);
        Py_XSETREF(*states[i].slot, found);
        if (found == NULL) {
            Py_CLEAR(kind);
        }
    }
    if (kind == NULL) {
        return NULL;
    }
    Py_DECREF(kind);
    Py_XSETREF(st->ssl_again, PyObject_GetAttrString(sslproto, "SSLAgainErrors"));
    Py_XSETREF(st->ssl_Protocol, PyObject_GetAttrString(sslproto, "SSLProtocol"));
    return st->ssl_again == NULL || st->ssl_Protocol == NULL ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"_use_sslproto", use_sslproto, METH_O, "What C needs of asyncio.sslproto."},
    {NULL},
};

int
pacpy_tls_protocol_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (pacpy_make_type(module, &Tls_spec, NULL, &st->TlsProtocolBase_type, "TlsProtocolBase") <
            0 ||
        pacpy_make_type(module, &Transport_spec, NULL, &st->TlsTransportBase_type,
                        "TlsTransportBase") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
