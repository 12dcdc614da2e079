/* async_sqlite.c - SQLite, awaited from Python: one thread for each connection, with the system's
 * library.
 *
 *     async with await async_sqlite.connect("file.db") as db:
 *         await db.execute("insert into t values (?, ?)", (1, "one"))
 *         rows = await db.execute("select * from t")          # a list of tuples
 *
 * The thread never holds the GIL. A call turns its parameters into C values and makes a promise and a
 * request; the thread takes the requests of its connection one after the other, collects rows as C
 * values, and completes the promise, which turns them into tuples where they are awaited. When an
 * await is cancelled, its statement is interrupted if it runs, and never begun if it does not.
 *
 * Who holds what: a request holds its Connection, a Python object, until it is finalized; the
 * Connection and its thread hold the struct connection, C memory that the last of them frees. */
#define PY_SSIZE_T_CLEAN
#include <pyasync_c.h>

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct pyasync_c_api *api;

enum kind { OPEN, EXECUTE, CLOSE };

/* A parameter, or a value of a row. */
struct cell {
    int type; /* SQLITE_INTEGER and so on */
    union {
        sqlite3_int64 integer;
        double number;
        struct {
            char *bytes; /* owned */
            size_t length;
        };
    };
};

struct cells {
    struct cell *first;
    size_t count, room;
};

struct connection;

struct request {
    struct request *next;
    struct pyasync_c_promise *promise; /* NULL: nobody waits for it */
    struct connection *connection;     /* the owner's, or the thread's own */
    enum kind kind;
    char *sql; /* EXECUTE; OPEN: the path */
    struct cells parameters;
    struct cells rows; /* one after the other */
    int columns;
    int code; /* SQLite's, for an error */
    char *message;
    struct connection_object *owner; /* a strong reference; NULL: the CLOSE of one that has gone */
};

struct connection {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct request *first, **last; /* mutex */
    struct request *current;       /* mutex: what the thread is at */
    int references;                /* mutex */
    bool closing;                  /* mutex: CLOSE is queued, nothing comes after it */
    sqlite3 *db;                   /* the thread; to interrupt: with the mutex, while `current` */
};

/* The module's. A Connection holds its type, which holds the module. */
struct state {
    PyObject *Error;
    PyObject *IntegrityError;
    PyTypeObject *Connection_type;
};

typedef struct connection_object {
    PyObject_HEAD
    struct state *st;
    struct connection *connection; /* one reference */
    pid_t pid;                     /* the process that its thread belongs to */
    bool opened;                   /* somebody has got it from connect() */
    bool closed;
} ConnectionObject;

/* ---- C values ------------------------------------------------------------------------------- */

static void
cells_clear(struct cells *cells)
{
    for (size_t i = 0; i < cells->count; i++) {
        if (cells->first[i].type == SQLITE_TEXT || cells->first[i].type == SQLITE_BLOB) {
            free(cells->first[i].bytes);
        }
    }
    free(cells->first);
    *cells = (struct cells){0};
}

/* One more, NULL as SQL means it; NULL: no memory. */
static struct cell *
cells_add(struct cells *cells)
{
    if (cells->count == cells->room) {
        size_t room = cells->room == 0 ? 16 : cells->room * 2;
        struct cell *first = realloc(cells->first, room * sizeof *first);
        if (first == NULL) {
            return NULL;
        }
        cells->first = first;
        cells->room = room;
    }
    struct cell *cell = &cells->first[cells->count++];
    cell->type = SQLITE_NULL;
    return cell;
}

/* 0, or -1: no memory. */
static int
cell_set_bytes(struct cell *cell, int type, const void *bytes, size_t length)
{
    char *copy = malloc(length + 1);
    if (copy == NULL) {
        return -1;
    }
    if (length > 0) {
        memcpy(copy, bytes, length);
    }
    cell->type = type;
    cell->bytes = copy;
    cell->length = length;
    return 0;
}

/* ---- the connection and its requests -------------------------------------------------------- */

static void
connection_unref(struct connection *c)
{
    pthread_mutex_lock(&c->mutex);
    bool last = --c->references == 0;
    pthread_mutex_unlock(&c->mutex);
    if (last) {
        pthread_cond_destroy(&c->changed);
        pthread_mutex_destroy(&c->mutex);
        free(c);
    }
}

/* Everything but the owner, which only a thread with the GIL may give up. */
static void
request_free(struct request *r)
{
    cells_clear(&r->parameters);
    cells_clear(&r->rows);
    free(r->sql);
    sqlite3_free(r->message);
    free(r);
}

static struct request *
request_new(struct connection *c, enum kind kind, const char *sql)
{
    struct request *r = calloc(1, sizeof *r);
    if (r == NULL || (sql != NULL && (r->sql = strdup(sql)) == NULL)) {
        free(r);
        return NULL;
    }
    r->kind = kind;
    r->connection = c;
    return r;
}

static void
request_queue(struct request *r)
{
    struct connection *c = r->connection;
    pthread_mutex_lock(&c->mutex);
    *c->last = r;
    c->last = &r->next;
    c->closing = c->closing || r->kind == CLOSE;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* ---- the thread: no GIL --------------------------------------------------------------------- */

/* The connection's last error, or `message`. */
static void
request_fail(struct request *r, int code, const char *message)
{
    if (r->code == SQLITE_OK) {
        r->code = code;
        r->message = sqlite3_mprintf("%s", message);
    }
}

static void
run_open(struct request *r)
{
    struct connection *c = r->connection;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
    int code = sqlite3_open_v2(r->sql, &c->db, flags, NULL);
    if (code != SQLITE_OK) {
        request_fail(r, code, c->db == NULL ? "out of memory" : sqlite3_errmsg(c->db));
        return;
    }
    sqlite3_extended_result_codes(c->db, 1);
    sqlite3_busy_timeout(c->db, 5000);
}

static int
bind(struct request *r, sqlite3_stmt *statement)
{
    for (size_t i = 0; i < r->parameters.count; i++) {
        const struct cell *cell = &r->parameters.first[i];
        int place = (int)i + 1, code = SQLITE_OK;
        switch (cell->type) {
            case SQLITE_INTEGER:
                code = sqlite3_bind_int64(statement, place, cell->integer);
                break;
            case SQLITE_FLOAT:
                code = sqlite3_bind_double(statement, place, cell->number);
                break;
            case SQLITE_TEXT:
                code = sqlite3_bind_text64(statement, place, cell->bytes, cell->length,
                                           SQLITE_STATIC, SQLITE_UTF8);
                break;
            case SQLITE_BLOB:
                code =
                    sqlite3_bind_blob64(statement, place, cell->bytes, cell->length, SQLITE_STATIC);
                break;
            default:
                code = sqlite3_bind_null(statement, place);
        }
        if (code != SQLITE_OK) {
            return code;
        }
    }
    return SQLITE_OK;
}

static int
collect(struct request *r, sqlite3_stmt *statement)
{
    for (int i = 0; i < r->columns; i++) {
        struct cell *cell = cells_add(&r->rows);
        int type = sqlite3_column_type(statement, i), failed = 0;
        if (cell == NULL) {
            return SQLITE_NOMEM;
        }
        if (type == SQLITE_INTEGER) {
            cell->type = type;
            cell->integer = sqlite3_column_int64(statement, i);
        }
        else if (type == SQLITE_FLOAT) {
            cell->type = type;
            cell->number = sqlite3_column_double(statement, i);
        }
        else if (type != SQLITE_NULL) {
            const void *bytes = type == SQLITE_TEXT
                                    ? (const void *)sqlite3_column_text(statement, i)
                                    : sqlite3_column_blob(statement, i);
            failed = cell_set_bytes(cell, type, bytes, (size_t)sqlite3_column_bytes(statement, i));
        }
        if (failed) {
            return SQLITE_NOMEM;
        }
    }
    return SQLITE_ROW;
}

/* sqlite3_interrupt does nothing before the statement has begun, and whoever cancels cannot know: so
 * SQLite asks now and then. */
static int
is_cancelled(void *promise)
{
    return api->promise_is_over(promise);
}

static void
run_execute(struct request *r)
{
    sqlite3 *db = r->connection->db;
    sqlite3_stmt *statement = NULL;
    const char *rest = "";
    int code = sqlite3_prepare_v2(db, r->sql, -1, &statement, &rest);
    if (code == SQLITE_OK && rest[strspn(rest, " \t\r\n;")] != '\0') {
        request_fail(r, code = SQLITE_MISUSE, "one statement at a time");
    }
    else if (code == SQLITE_OK &&
             (size_t)sqlite3_bind_parameter_count(statement) != r->parameters.count) {
        code = SQLITE_MISUSE;
        r->code = code;
        r->message =
            sqlite3_mprintf("the statement has %d parameters, %d were given",
                            sqlite3_bind_parameter_count(statement), (int)r->parameters.count);
    }
    if (code == SQLITE_OK) {
        code = bind(r, statement);
    }
    if (code == SQLITE_OK && statement != NULL) {
        r->columns = sqlite3_column_count(statement);
        sqlite3_progress_handler(db, 10000, is_cancelled, r->promise);
        while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
            code = collect(r, statement);
            if (code != SQLITE_ROW) {
                break;
            }
        }
        sqlite3_progress_handler(db, 0, NULL, NULL);
    }
    if (code != SQLITE_OK && code != SQLITE_DONE) {
        request_fail(r, code, code == SQLITE_NOMEM ? "out of memory" : sqlite3_errmsg(db));
    }
    sqlite3_finalize(statement);
}

static void
run(struct request *r)
{
    struct connection *c = r->connection;
    if (r->kind == CLOSE) {
        sqlite3_close_v2(c->db); /* of NULL too */
        c->db = NULL;
    }
    else if (r->promise != NULL && api->promise_is_over(r->promise)) {
        return; /* cancelled before it began */
    }
    else if (r->kind == OPEN) {
        run_open(r);
    }
    else {
        run_execute(r);
    }
}

static struct request *
take(struct connection *c)
{
    pthread_mutex_lock(&c->mutex);
    while (c->first == NULL) {
        pthread_cond_wait(&c->changed, &c->mutex);
    }
    struct request *r = c->first;
    c->first = r->next;
    if (c->first == NULL) {
        c->last = &c->first;
    }
    c->current = r;
    pthread_mutex_unlock(&c->mutex);
    return r;
}

static void *
connection_thread(void *arg)
{
    struct connection *c = arg;
    bool closed = false;
    while (!closed) {
        struct request *r = take(c);
        run(r);
        closed = r->kind == CLOSE;
        /* From here on nobody interrupts for this request, and so not the next one instead. */
        pthread_mutex_lock(&c->mutex);
        c->current = NULL;
        pthread_mutex_unlock(&c->mutex);
        struct pyasync_c_promise *promise = r->promise;
        if (promise == NULL) {
            request_free(r); /* the CLOSE of a Connection that was collected: all in C */
        }
        else if (r->code != SQLITE_OK) {
            api->promise_fail(promise, NULL, NULL);
        }
        else {
            api->promise_complete(promise, NULL, NULL);
        }
        api->promise_release(promise, NULL); /* the request is not ours from here on */
    }
    connection_unref(c);
    return NULL;
}

/* ---- the promise's callbacks: with the GIL -------------------------------------------------- */

static PyObject *
cell_to_object(const struct cell *cell)
{
    switch (cell->type) {
        case SQLITE_INTEGER:
            return PyLong_FromLongLong(cell->integer);
        case SQLITE_FLOAT:
            return PyFloat_FromDouble(cell->number);
        case SQLITE_TEXT:
            return PyUnicode_DecodeUTF8(cell->bytes, (Py_ssize_t)cell->length, "strict");
        case SQLITE_BLOB:
            return PyBytes_FromStringAndSize(cell->bytes, (Py_ssize_t)cell->length);
    }
    return Py_NewRef(Py_None);
}

static PyObject *
row_to_tuple(const struct cell *cells, int columns)
{
    PyObject *row = PyTuple_New(columns);
    for (int i = 0; row != NULL && i < columns; i++) {
        PyObject *value = cell_to_object(&cells[i]);
        if (value == NULL) {
            Py_CLEAR(row);
        }
        else {
            PyTuple_SET_ITEM(row, i, value);
        }
    }
    return row;
}

static PyObject *
request_convert(void *data, void *value)
{
    struct request *r = data;
    (void)value;
    if (r->kind == CLOSE) {
        return Py_NewRef(Py_None);
    }
    if (r->kind == OPEN) {
        r->owner->opened = true;
        return Py_NewRef((PyObject *)r->owner);
    }
    Py_ssize_t count = r->columns == 0 ? 0 : (Py_ssize_t)r->rows.count / r->columns;
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *row = row_to_tuple(&r->rows.first[i * r->columns], r->columns);
        if (row == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, i, row);
        }
    }
    return list;
}

static void
request_set_error(void *data, void *error)
{
    struct request *r = data;
    (void)error;
    if ((r->code & 0xff) == SQLITE_NOMEM || r->message == NULL) {
        PyErr_NoMemory();
        return;
    }
    bool constraint = (r->code & 0xff) == SQLITE_CONSTRAINT;
    PyObject *type = constraint ? r->owner->st->IntegrityError : r->owner->st->Error;
    PyObject *exception = PyObject_CallFunction(type, "s", r->message);
    PyObject *code = exception == NULL ? NULL : PyLong_FromLong(r->code);
    if (code != NULL && PyObject_SetAttrString(exception, "code", code) == 0) {
        PyErr_SetObject(type, exception);
    }
    Py_XDECREF(code);
    Py_XDECREF(exception);
}

/* On the loop's thread in most cases, while ours may be in the middle of a statement. */
static void
request_cancelled(void *data)
{
    struct request *r = data;
    struct connection *c = r->connection;
    pthread_mutex_lock(&c->mutex);
    if (c->current == r && r->kind == EXECUTE) {
        sqlite3_interrupt(c->db);
    }
    pthread_mutex_unlock(&c->mutex);
}

static void
request_finalize(void *data)
{
    struct request *r = data;
    PyObject *owner = (PyObject *)r->owner;
    request_free(r);
    Py_DECREF(owner);
}

static const struct pyasync_c_promise_type request_type = {
    .size = sizeof request_type,
    .name = "async_sqlite.Request",
    .convert = request_convert,
    .set_error = request_set_error,
    .cancelled = request_cancelled,
    .finalize = request_finalize,
    .holds_clock = 1,
};

/* ---- Connection ----------------------------------------------------------------------------- */

/* Make a promise of a request, which is taken over: its awaitable; then the thread may have it. */
static PyObject *
promise_of(ConnectionObject *self, struct request *r)
{
    if (r == NULL) {
        return PyErr_NoMemory();
    }
    r->owner = (ConnectionObject *)Py_NewRef((PyObject *)self);
    PyObject *awaitable = api->promise_new(&request_type, r, &r->promise);
    if (awaitable == NULL) {
        request_finalize(r);
    }
    return awaitable;
}

static PyObject *
submit(ConnectionObject *self, struct request *r)
{
    PyObject *awaitable = promise_of(self, r);
    if (awaitable != NULL) {
        request_queue(r);
    }
    return awaitable;
}

/* The awaitable of something that is so already. */
static PyObject *
submit_done(ConnectionObject *self, enum kind kind)
{
    struct request *r = request_new(self->connection, kind, NULL);
    PyObject *awaitable = promise_of(self, r);
    if (awaitable != NULL) {
        struct pyasync_c_promise *promise = r->promise;
        api->promise_complete(promise, NULL, NULL);
        api->promise_release(promise, NULL);
    }
    return awaitable;
}

/* An open connection of this process, or NULL and RuntimeError. */
static struct connection *
usable(ConnectionObject *self)
{
    if (self->closed || self->pid != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, self->closed
                                                ? "the connection is closed"
                                                : "the connection belongs to the parent process");
        return NULL;
    }
    return self->connection;
}

static int
parameter_from_object(struct cell *cell, PyObject *object)
{
    int failed = 0;
    if (object == Py_None) {
        return 0;
    }
    if (PyLong_Check(object)) {
        cell->integer = PyLong_AsLongLong(object);
        cell->type = SQLITE_INTEGER;
        return PyErr_Occurred() ? -1 : 0;
    }
    if (PyFloat_Check(object)) {
        cell->number = PyFloat_AS_DOUBLE(object);
        cell->type = SQLITE_FLOAT;
        return 0;
    }
    if (PyUnicode_Check(object)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(object, &length);
        if (text == NULL) {
            return -1;
        }
        failed = cell_set_bytes(cell, SQLITE_TEXT, text, (size_t)length);
    }
    else if (PyObject_CheckBuffer(object)) {
        Py_buffer view;
        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
        failed = cell_set_bytes(cell, SQLITE_BLOB, view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "a parameter must be None, an int, float, str or bytes, not %.200s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    if (failed) {
        PyErr_NoMemory();
    }
    return failed;
}

static int
parameters_from_object(struct cells *cells, PyObject *object)
{
    PyObject *sequence = PySequence_Fast(object, "parameters must be a sequence");
    if (sequence == NULL) {
        return -1;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < PySequence_Fast_GET_SIZE(sequence); i++) {
        struct cell *cell = cells_add(cells);
        if (cell == NULL) {
            PyErr_NoMemory();
        }
        PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(sequence, i));
        failed = cell == NULL || parameter_from_object(cell, item) < 0;
        Py_DECREF(item);
    }
    Py_DECREF(sequence);
    return failed ? -1 : 0;
}

static PyObject *
Connection_execute(PyObject *op, PyObject *args)
{
    ConnectionObject *self = (ConnectionObject *)op;
    const char *sql;
    PyObject *parameters = NULL;
    if (!PyArg_ParseTuple(args, "s|O:execute", &sql, &parameters)) {
        return NULL;
    }
    struct connection *c = usable(self);
    if (c == NULL) {
        return NULL;
    }
    struct request *r = request_new(c, EXECUTE, sql);
    if (r != NULL && parameters != NULL && parameters_from_object(&r->parameters, parameters) < 0) {
        request_free(r);
        return NULL;
    }
    return submit(self, r);
}

static PyObject *
Connection_close(PyObject *op, PyObject *Py_UNUSED(args))
{
    ConnectionObject *self = (ConnectionObject *)op;
    if (self->closed) {
        return submit_done(self, CLOSE);
    }
    struct connection *c = usable(self);
    PyObject *awaitable = c == NULL ? NULL : submit(self, request_new(c, CLOSE, NULL));
    self->closed = self->closed || awaitable != NULL;
    return awaitable;
}

static PyObject *
Connection_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ConnectionObject *self = (ConnectionObject *)op;
    return usable(self) == NULL ? NULL : submit_done(self, OPEN);
}

/* Collected without being closed. No request is left, since each holds it; the thread has to end. */
static void
Connection_abandon(ConnectionObject *self)
{
    struct request *r = request_new(self->connection, CLOSE, NULL);
    if (r != NULL) { /* or the thread and its memory stay, for want of memory */
        request_queue(r);
    }
    if (!self->opened) {
        return; /* nobody ever had it */
    }
    PyObject *type, *exception, *traceback;
    PyErr_Fetch(&type, &exception, &traceback);
    if (PyErr_WarnFormat(PyExc_ResourceWarning, 1, "a connection of async_sqlite was not closed") <
        0) {
        PyErr_WriteUnraisable(NULL);
    }
    PyErr_Restore(type, exception, traceback);
}

static void
Connection_dealloc(PyObject *op)
{
    ConnectionObject *self = (ConnectionObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->connection != NULL && self->pid == getpid()) {
        if (!self->closed) {
            Connection_abandon(self);
        }
        connection_unref(self->connection);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef Connection_methods[] = {
    {"execute", Connection_execute, METH_VARARGS,
     "execute(sql, parameters=(), /)\n--\n\n"
     "Run one statement: await it for its rows, a list of tuples. Error, or IntegrityError, with\n"
     "SQLite's extended code in `code`. A cancelled await interrupts the statement, which rolls\n"
     "it back."},
    {"close", Connection_close, METH_NOARGS,
     "close()\n--\n\nAwait it: what was executed before comes first. Any number of times."},
    {"__aenter__", Connection_aenter, METH_NOARGS, NULL},
    {"__aexit__", Connection_close, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Connection_slots[] = {
    {Py_tp_doc, "A connection to a database, and its thread. Made by connect()."},
    {Py_tp_dealloc, Connection_dealloc},
    {Py_tp_methods, Connection_methods},
    {0, NULL},
};

static PyType_Spec Connection_spec = {
    .name = "async_sqlite.Connection",
    .basicsize = sizeof(ConnectionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Connection_slots,
};

/* ---- connect() ------------------------------------------------------------------------------ */

/* With its thread, which holds a reference beside the caller's; NULL and an exception. */
static struct connection *
connection_new(void)
{
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    pthread_t thread;
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->last = &c->first;
    c->references = 2;
    int error = pthread_create(&thread, NULL, connection_thread, c);
    if (error != 0) {
        c->references = 1;
        connection_unref(c);
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    pthread_detach(thread);
    return c;
}

static PyObject *
connect_(PyObject *module, PyObject *path)
{
    struct state *st = PyModule_GetState(module);
    PyObject *bytes;
    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    PyObject *awaitable = NULL;
    ConnectionObject *self =
        (ConnectionObject *)st->Connection_type->tp_alloc(st->Connection_type, 0);
    if (self != NULL) {
        self->st = st;
        self->pid = getpid();
        self->connection = connection_new();
    }
    if (self != NULL && self->connection != NULL) {
        const char *name = PyBytes_AS_STRING(bytes);
        awaitable = submit(self, request_new(self->connection, OPEN, name));
    }
    Py_DECREF(bytes);
    Py_XDECREF(self);
    return awaitable;
}

/* ---- the module ----------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"connect", connect_, METH_O,
     "connect(path, /)\n--\n\n"
     "Await it for a Connection to the database at `path` (\":memory:\": one that nobody else "
     "sees)."},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    struct state *st = PyModule_GetState(module);
    api = pyasync_c_import();
    if (api == NULL) {
        return -1;
    }
    if (!sqlite3_threadsafe()) {
        PyErr_SetString(PyExc_ImportError, "the system's SQLite was built without threads");
        return -1;
    }
    st->Error =
        PyErr_NewExceptionWithDoc("async_sqlite.Error", "What SQLite says went wrong.", NULL, NULL);
    st->IntegrityError = PyErr_NewExceptionWithDoc("async_sqlite.IntegrityError",
                                                   "A constraint was violated.", st->Error, NULL);
    st->Connection_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Connection_spec, NULL);
    if (st->Error == NULL || st->IntegrityError == NULL || st->Connection_type == NULL ||
        PyModule_AddObjectRef(module, "Error", st->Error) < 0 ||
        PyModule_AddObjectRef(module, "IntegrityError", st->IntegrityError) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Connection", (PyObject *)st->Connection_type);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "async_sqlite",
    .m_doc = "SQLite, awaited from Python.",
    .m_size = sizeof(struct state),
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit_async_sqlite(void)
{
    return PyModuleDef_Init(&definition);
}
