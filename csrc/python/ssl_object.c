#include "ssl_object.h"

/* ---- memory to be seen by C ------------------------------------------------------------------ */

/* A buffer of `count` bytes that are somebody else's, for one call. */
typedef struct {
    PyObject_HEAD
    char *bytes;
    Py_ssize_t count;
} WindowObject;

static PyObject *
open_window(struct pacpy_state *st, char *bytes, Py_ssize_t count)
{
    WindowObject *w = PyObject_New(WindowObject, st->MemoryWindow_type);
    if (w != NULL) {
        w->bytes = bytes;
        w->count = count;
    }
    return (PyObject *)w;
}

static void
close_window(PyObject *op)
{
    ((WindowObject *)op)->bytes = NULL;
    ((WindowObject *)op)->count = 0;
    Py_DECREF(op);
}

static int
Window_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    WindowObject *w = (WindowObject *)op;
    return PyBuffer_FillInfo(view, op, w->bytes, w->count, 0, flags);
}

static void
Window_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_Free(op);
    Py_DECREF(type);
}

static PyType_Slot Window_slots[] = {
    {Py_tp_doc, "Memory that the module ssl reads from or writes to."},
    {Py_tp_dealloc, Window_dealloc},
    {Py_bf_getbuffer, Window_getbuffer},
    {0, NULL},
};

static PyType_Spec Window_spec = {
    .name = "pyasync_c._core.MemoryWindow",
    .basicsize = sizeof(WindowObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Window_slots,
};

int
pacpy_ssl_object_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Window_spec, NULL, &st->MemoryWindow_type, NULL);
}

/* ---- whom to call --------------------------------------------------------------------------- */

/* An attribute that may be lacking: *slot stays NULL then. 0, or -1 and an exception. */
static int
fetch(const char *module_name, const char *name, PyObject **slot)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    if (module != NULL && found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = Py_NewRef(Py_None);
    }
    Py_XDECREF(module);
    Py_XSETREF(*slot, found);
    return found == NULL ? -1 : 0;
}

static int
fetch_method(struct pacpy_state *st, PyObject *name, PyObject **slot)
{
    PyObject *found = PyObject_GetAttr(st->ssl_Object, name);
    Py_XSETREF(*slot, found);
    return found == NULL ? -1 : 0;
}

int
pacpy_ssl_need(struct pacpy_state *st)
{
    if (st->ssl_object_write != NULL) {
        return 0;
    }
    if (fetch("_ssl", "_SSLSocket", &st->ssl_Socket) < 0 ||
        fetch("ssl", "MemoryBIO", &st->ssl_MemoryBIO) < 0 ||
        fetch("ssl", "SSLObject", &st->ssl_Object) < 0 ||
        fetch_method(st, st->str_read, &st->ssl_object_read) < 0) {
        return -1;
    }
    return fetch_method(st, st->str_write, &st->ssl_object_write);
}

/* Has nobody put a method of his own into the class? */
static bool
has_method(struct pacpy_state *st, PyObject *name, PyObject *method)
{
    PyObject *present = PyObject_GetAttr(st->ssl_Object, name);
    Py_XDECREF(present);
    return present == method;
}

void
pacpy_ssl_use(struct pacpy_state *st, struct pacpy_ssl *s, PyObject *object)
{
    Py_CLEAR(s->direct);
    Py_CLEAR(s->attributes);
    s->may_hold = true;
    Py_XSETREF(s->object, Py_XNewRef(object));
    if (object == NULL || (PyObject *)Py_TYPE(object) != st->ssl_Object ||
        !has_method(st, st->str_read, st->ssl_object_read) ||
        !has_method(st, st->str_write, st->ssl_object_write)) {
        PyErr_Clear();
        return;
    }
    PyObject *attributes = PyObject_GenericGetDict(object, NULL);
    PyObject *direct =
        attributes == NULL ? NULL : PyDict_GetItemWithError(attributes, st->str__sslobj);
    if (direct != NULL && (PyObject *)Py_TYPE(direct) == st->ssl_Socket &&
        PyDict_GET_SIZE(attributes) == 1) {
        s->direct = Py_NewRef(direct);
        s->attributes = Py_NewRef(attributes);
    }
    Py_XDECREF(attributes);
    PyErr_Clear();
}

/* Is `direct` to be called? */
static inline bool
is_direct(const struct pacpy_ssl *s)
{
    return s->direct != NULL && PyDict_GET_SIZE(s->attributes) == 1;
}

int
pacpy_ssl_traverse(struct pacpy_ssl *s, visitproc visit, void *arg)
{
    Py_VISIT(s->object);
    Py_VISIT(s->incoming);
    Py_VISIT(s->outgoing);
    Py_VISIT(s->direct);
    Py_VISIT(s->attributes);
    return 0;
}

void
pacpy_ssl_clear(struct pacpy_ssl *s)
{
    Py_CLEAR(s->direct);
    Py_CLEAR(s->attributes);
    Py_CLEAR(s->object);
    Py_CLEAR(s->incoming);
    Py_CLEAR(s->outgoing);
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* One of the three objects, to call a method of; NULL and AttributeError if it is not there. */
static PyObject *
present(PyObject *object, const char *what)
{
    if (object == NULL) {
        PyErr_SetString(PyExc_AttributeError, what);
    }
    return object;
}

/* object.name(a, b), the latter of which may be NULL. The object is held meanwhile. */
static PyObject *
call(PyObject *object, PyObject *name, PyObject *a, PyObject *b)
{
    PyObject *args[] = {Py_NewRef(object), a, b};
    size_t count = a == NULL ? 1 : b == NULL ? 2 : 3;
    PyObject *result = PyObject_VectorcallMethod(name, args, count, NULL);
    Py_DECREF(object);
    return result;
}

/* object.write(`count` bytes), which is C's and forgets them, or not. */
static PyObject *
show(struct pacpy_state *st, PyObject *object, bool forgets, const char *bytes, Py_ssize_t count)
{
    PyObject *data =
        forgets ? open_window(st, (char *)bytes, count) : PyBytes_FromStringAndSize(bytes, count);
    PyObject *done = data == NULL ? NULL : call(object, st->str_write, data, NULL);
    if (data != NULL && forgets) {
        close_window(data);
    }
    else {
        Py_XDECREF(data);
    }
    return done;
}

Py_ssize_t
pacpy_bio_pending(struct pacpy_state *st, PyObject *bio)
{
    PyObject *pending =
        present(bio, "MemoryBIO") == NULL ? NULL : PyObject_GetAttr(bio, st->str_pending);
    Py_ssize_t count = pending == NULL ? -1 : PyLong_AsSsize_t(pending);
    Py_XDECREF(pending);
    return count;
}

int
pacpy_ssl_feed(struct pacpy_state *st, struct pacpy_ssl *s, const char *bytes, size_t count)
{
    if (present(s->incoming, "_incoming") == NULL) {
        return -1;
    }
    PyObject *done = show(st, s->incoming, (PyObject *)Py_TYPE(s->incoming) == st->ssl_MemoryBIO,
                          bytes, (Py_ssize_t)count);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
pacpy_ssl_may_read(struct pacpy_state *st, struct pacpy_ssl *s)
{
    if (s->may_hold) {
        return 1;
    }
    Py_ssize_t pending = pacpy_bio_pending(st, s->incoming);
    return pending < 0 ? -1 : pending > 0;
}

/* After a call of the SSLObject that gave `result`. */
static void
note_failure(struct pacpy_ssl *s, PyObject *result)
{
    if (result == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        s->may_lack = true;
    }
}

static PyObject *
call_read(struct pacpy_state *st, struct pacpy_ssl *s, Py_ssize_t most, PyObject *buffer)
{
    if (present(s->object, "_sslobj") == NULL) {
        return NULL;
    }
    PyObject *size = PyLong_FromSsize_t(most);
    if (size == NULL) {
        return NULL;
    }
    PyObject *result = call(is_direct(s) ? s->direct : s->object, st->str_read, size, buffer);
    note_failure(s, result);
    Py_DECREF(size);
    return result;
}

/* `count` of `most` bytes were read, or -1: a read that got less than it wanted, or all that a record
 * can have, has emptied the record that it read from. At the end, and after an error, the next one says
 * the same. */
static void
note(struct pacpy_ssl *s, Py_ssize_t count, Py_ssize_t most)
{
    bool is_whole = count == PACPY_RECORD_MAX && is_direct(s);
    s->may_hold = count <= 0 || (count >= most && !is_whole);
}

PyObject *
pacpy_ssl_read(struct pacpy_state *st, struct pacpy_ssl *s, Py_ssize_t most)
{
    PyObject *bytes = call_read(st, s, most, NULL);
    if (bytes != NULL && !PyBytes_CheckExact(bytes)) {
        PyErr_Format(PyExc_TypeError, "SSLObject.read() returned %.200s, not bytes",
                     Py_TYPE(bytes)->tp_name);
        Py_CLEAR(bytes);
    }
    note(s, bytes == NULL ? -1 : PyBytes_GET_SIZE(bytes), most);
    return bytes;
}

Py_ssize_t
pacpy_ssl_read_to(struct pacpy_state *st, struct pacpy_ssl *s, char *to, Py_ssize_t most)
{
    if (!is_direct(s)) {
        PyObject *bytes = pacpy_ssl_read(st, s, most);
        Py_ssize_t count = bytes == NULL ? -1 : PyBytes_GET_SIZE(bytes);
        if (count > most) {
            PyErr_SetString(PyExc_ValueError, "SSLObject.read() returned more than was wanted");
            count = -1;
        }
        else if (count > 0) {
            memcpy(to, PyBytes_AS_STRING(bytes), (size_t)count);
        }
        Py_XDECREF(bytes);
        return count;
    }
    PyObject *window = open_window(st, to, most);
    PyObject *result = window == NULL ? NULL : call_read(st, s, most, window);
    Py_ssize_t count = result == NULL ? -1 : PyLong_AsSsize_t(result);
    if (window != NULL) {
        close_window(window);
    }
    Py_XDECREF(result);
    note(s, count, most);
    return count;
}

Py_ssize_t
pacpy_ssl_write(struct pacpy_state *st, struct pacpy_ssl *s, const char *bytes, Py_ssize_t count)
{
    if (present(s->object, "_sslobj") == NULL) {
        return -1;
    }
    bool direct = is_direct(s);
    PyObject *result = show(st, direct ? s->direct : s->object, direct, bytes, count);
    note_failure(s, result);
    Py_ssize_t written = result == NULL ? -1 : PyLong_AsSsize_t(result);
    Py_XDECREF(result);
    if ((written < 0 && !PyErr_Occurred()) || written > count) {
        PyErr_SetString(PyExc_ValueError, "SSLObject.write() returned no count of its bytes");
        written = -1;
    }
    return written;
}

PyObject *
pacpy_ssl_take(struct pacpy_state *st, struct pacpy_ssl *s)
{
    if (present(s->outgoing, "_outgoing") == NULL) {
        return NULL;
    }
    PyObject *bytes = call(s->outgoing, st->str_read, NULL, NULL);
    if (bytes != NULL && !PyBytes_CheckExact(bytes)) {
        PyErr_Format(PyExc_TypeError, "MemoryBIO.read() returned %.200s, not bytes",
                     Py_TYPE(bytes)->tp_name);
        Py_CLEAR(bytes);
    }
    return bytes;
}
