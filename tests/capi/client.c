/* client.c - an extension over the whole of pyasync_c.h, for tests/test_capi.py: each function of the
 * header as one that Python calls, and threads that Python does not know. C11 and C++11 alike. */
#include <pyasync_c.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct pyasync_c_api *api;

static void
sleep_us(long us)
{
    struct timespec pause = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

static int
start_thread(void *(*run)(void *), void *arg)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, arg) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "no thread");
        return -1;
    }
    pthread_detach(thread);
    return 0;
}

/* ---- wakers --------------------------------------------------------------------------------- */

struct wake_job {
    struct pyasync_c_waker waker;
    int times;
};

static void *
wake_later(void *data)
{
    struct wake_job *job = (struct wake_job *)data;
    sleep_us(2000);
    for (int i = 1; i < job->times; i++) {
        pyasync_c_waker_wake_by_ref(&job->waker);
    }
    struct pyasync_c_waker last = pyasync_c_waker_clone(&job->waker);
    pyasync_c_waker_drop(&job->waker);
    pyasync_c_waker_wake(&last);
    pyasync_c_waker_wake(&last); /* an empty slot: nothing */
    free(job);
    return NULL;
}

/* wake_from_thread(waker, times) */
static PyObject *
wake_from_thread(PyObject *module, PyObject *args)
{
    PyObject *object;
    int times;
    if (!PyArg_ParseTuple(args, "Oi", &object, &times)) {
        return NULL;
    }
    struct wake_job *job = (struct wake_job *)malloc(sizeof *job);
    if (api->waker_from_object(object, &job->waker) < 0) {
        free(job);
        return NULL;
    }
    job->times = times;
    return start_thread(wake_later, job) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
round_trip(PyObject *module, PyObject *object)
{
    struct pyasync_c_waker waker;
    if (api->waker_from_object(object, &waker) < 0) {
        return NULL;
    }
    PyObject *back = api->waker_to_object(&waker);
    pyasync_c_waker_drop(&waker);
    return back;
}

/* ---- promises ------------------------------------------------------------------------------- */

enum { CONVERT, SET_ERROR, DESTROY, DESTROY_ERROR, CANCELLED, FINALIZE, KINDS_OF_CALL };
static const char *const call_names[] = {"convert",       "set_error", "destroy",
                                         "destroy_error", "cancelled", "finalize"};
static int calls[KINDS_OF_CALL];
static int alive; /* promises that will be finalized */

static void
count(int call)
{
    __atomic_add_fetch(&calls[call], 1, __ATOMIC_RELAXED);
}

static PyObject *
take_counts(PyObject *module, PyObject *ignored)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < KINDS_OF_CALL; i++) {
        int n = __atomic_exchange_n(&calls[i], 0, __ATOMIC_RELAXED);
        PyObject *number = PyLong_FromLong(n);
        if (n != 0 && PyDict_SetItemString(dict, call_names[i], number) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(number);
    }
    return dict;
}

/* `data` is a Python object or NULL: called, if it can be, in `cancelled` and `finalize`. */
static void
call_data(void *data, const char *what)
{
    if (data != NULL) {
        PyObject *result = PyObject_CallFunction((PyObject *)data, "s", what);
        Py_XDECREF(result); /* what it raises is printed by who called us */
    }
}

static PyObject *
to_int(void *data, void *value)
{
    count(CONVERT);
    return PyLong_FromSsize_t((Py_ssize_t)value);
}

static void
to_lookup_error(void *data, void *error)
{
    count(SET_ERROR);
    PyErr_Format(PyExc_LookupError, "error %zd", (Py_ssize_t)error);
}

static void
destroy(void *data, void *value, int failed)
{
    count(failed ? DESTROY_ERROR : DESTROY);
}

static void
cancelled(void *data)
{
    count(CANCELLED);
    call_data(data, "cancelled");
}

static void
finalize(void *data)
{
    count(FINALIZE);
    alive--;
    call_data(data, "finalize");
    PyObject *object = (PyObject *)data;
    if (object != NULL) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        Py_DECREF(object);
        PyErr_Restore(type, value, traceback);
    }
}

static PyObject *
raises(void *data, void *value)
{
    count(CONVERT);
    PyErr_SetString(PyExc_ValueError, "cannot be converted");
    return NULL;
}

static PyObject *
returns_nothing(void *data, void *value)
{
    return NULL;
}

static PyObject *
returns_and_raises(void *data, void *value)
{
    PyErr_SetString(PyExc_ValueError, "beside a result");
    return Py_NewRef(Py_None);
}

static PyObject *
raises_stop_iteration(void *data, void *value)
{
    PyErr_SetNone(PyExc_StopIteration);
    return NULL;
}

static void
sets_nothing(void *data, void *error)
{
}

static PyObject *
to_object(void *data, void *value)
{
    return Py_NewRef((PyObject *)value);
}

static void
destroy_object(void *data, void *value, int failed)
{
    Py_DECREF((PyObject *)value);
}

#define SIZE sizeof(struct pyasync_c_promise_type)
static const struct pyasync_c_promise_type types[] = {
    {SIZE, "client.Int", to_int, to_lookup_error, destroy, cancelled, finalize, 0},
    {SIZE, "client.Bare", to_int, NULL, NULL, NULL, NULL, 0},
    {SIZE, "client.Raises", raises, sets_nothing, destroy, cancelled, finalize, 0},
    {SIZE, "client.Nothing", returns_nothing, NULL, NULL, NULL, NULL, 0},
    {SIZE, "client.Both", returns_and_raises, NULL, NULL, NULL, NULL, 0},
    {SIZE, "client.Stop", raises_stop_iteration, NULL, NULL, NULL, NULL, 0},
    {SIZE, "client.Object", to_object, NULL, destroy_object, NULL, NULL, 0},
    {SIZE, "client.Holds", to_int, NULL, NULL, NULL, NULL, 1},
    /* Those that promise_new refuses. */
    {SIZE, "client.NoConvert", NULL, to_lookup_error, NULL, NULL, NULL, 0},
    {SIZE, NULL, to_int, NULL, NULL, NULL, NULL, 0},
    {SIZE - 1, "client.Size", to_int, NULL, NULL, NULL, NULL, 0},
};

/* Handles are ints here, so that Python can misuse them. */
static PyObject *
handle_to_object(struct pyasync_c_promise *promise)
{
    return PyLong_FromVoidPtr((void *)promise);
}

static int
handle_of(PyObject *object, void *promise)
{
    *(void **)promise = PyLong_AsVoidPtr(object);
    return !PyErr_Occurred();
}

/* promise(kind=0, data=None) -> (awaitable, handle) */
static PyObject *
promise(PyObject *module, PyObject *args)
{
    int kind = 0;
    PyObject *data = Py_None;
    struct pyasync_c_promise *handle;
    if (!PyArg_ParseTuple(args, "|iO", &kind, &data)) {
        return NULL;
    }
    void *given = data == Py_None ? NULL : (void *)Py_NewRef(data);
    const struct pyasync_c_promise_type *type = kind < 0 ? NULL : &types[kind];
    PyObject *awaitable = api->promise_new(type, given, &handle);
    if (awaitable == NULL) {
        Py_XDECREF((PyObject *)given);
        return NULL;
    }
    alive += type->finalize != NULL;
    PyObject *number = handle_to_object(handle);
    PyObject *pair = number == NULL ? NULL : PyTuple_Pack(2, awaitable, number);
    Py_XDECREF(number);
    Py_DECREF(awaitable);
    if (pair == NULL) {
        api->promise_release(handle, NULL);
    }
    return pair;
}

static PyObject *
how_many_alive(PyObject *module, PyObject *ignored)
{
    return PyLong_FromLong(alive);
}

/* complete(handle, number) -> what promise_complete says */
static PyObject *
complete(PyObject *module, PyObject *args)
{
    struct pyasync_c_promise *handle;
    Py_ssize_t value;
    if (!PyArg_ParseTuple(args, "O&n", handle_of, &handle, &value)) {
        return NULL;
    }
    return PyLong_FromLong(api->promise_complete(handle, (void *)value, NULL));
}

/* complete_with(handle, object): for kind 6 */
static PyObject *
complete_with(PyObject *module, PyObject *args)
{
    struct pyasync_c_promise *handle;
    PyObject *value;
    if (!PyArg_ParseTuple(args, "O&O", handle_of, &handle, &value)) {
        return NULL;
    }
    int said = api->promise_complete(handle, (void *)Py_NewRef(value), NULL);
    if (said != PYASYNC_C_OK) {
        Py_DECREF(value);
    }
    return PyLong_FromLong(said);
}

static PyObject *
fail(PyObject *module, PyObject *args)
{
    struct pyasync_c_promise *handle;
    Py_ssize_t error;
    if (!PyArg_ParseTuple(args, "O&n", handle_of, &handle, &error)) {
        return NULL;
    }
    return PyLong_FromLong(api->promise_fail(handle, (void *)error, NULL));
}

static PyObject *
is_over(PyObject *module, PyObject *object)
{
    struct pyasync_c_promise *handle;
    return handle_of(object, &handle) ? PyBool_FromLong(api->promise_is_over(handle)) : NULL;
}

static PyObject *
ref(PyObject *module, PyObject *object)
{
    struct pyasync_c_promise *handle;
    return handle_of(object, &handle) ? handle_to_object(api->promise_ref(handle)) : NULL;
}

static PyObject *
release(PyObject *module, PyObject *object)
{
    struct pyasync_c_promise *handle;
    if (!handle_of(object, &handle)) {
        return NULL;
    }
    api->promise_release(handle, NULL);
    Py_RETURN_NONE;
}

struct work {
    int count;
    int grouped;                          /* in a batch */
    int fails;                            /* or completes with its place in the list */
    long delay_us;                        /* before the first */
    long between_us;                      /* and between two */
    struct pyasync_c_promise *handles[1]; /* `count` of them */
};

static void *
work_run(void *arg)
{
    struct work *work = (struct work *)arg;
    struct pyasync_c_batch batch, *used = work->grouped ? &batch : NULL;
    sleep_us(work->delay_us);
    if (used != NULL) {
        api->batch_begin(used);
    }
    for (int i = 0; i < work->count; i++) {
        if (i > 0 && work->between_us > 0) {
            sleep_us(work->between_us);
        }
        void *value = (void *)(Py_ssize_t)i;
        if (!api->promise_is_over(work->handles[i])) {
            if (work->fails) {
                api->promise_fail(work->handles[i], value, used);
            }
            else {
                api->promise_complete(work->handles[i], value, used);
            }
        }
        api->promise_release(work->handles[i], used);
    }
    if (used != NULL) {
        api->batch_end(used);
    }
    free(work);
    return NULL;
}

/* from_thread(handles, *, grouped=False, fails=False, delay_us=0, between_us=0): a thread that Python
 * does not know completes each with its place in the list, and releases it. */
static PyObject *
from_thread(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static const char *names[] = {"", "grouped", "fails", "delay_us", "between_us", NULL};
    PyObject *list;
    int grouped = 0, fails = 0;
    long delay_us = 0, between_us = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$ppll", (char **)names, &PyList_Type, &list,
                                     &grouped, &fails, &delay_us, &between_us)) {
        return NULL;
    }
    int count = (int)PyList_GET_SIZE(list);
    struct work *work = (struct work *)calloc(1, sizeof *work + (size_t)count * sizeof(void *));
    for (int i = 0; i < count; i++) {
        work->handles[i] = (struct pyasync_c_promise *)PyLong_AsVoidPtr(PyList_GET_ITEM(list, i));
    }
    work->count = count;
    work->grouped = grouped;
    work->fails = fails;
    work->delay_us = delay_us;
    work->between_us = between_us;
    return start_thread(work_run, work) < 0 ? NULL : Py_NewRef(Py_None);
}

/* new_from_thread(): [GIL] functions without it, for debug builds */
static void *
call_without_gil(void *arg)
{
    struct pyasync_c_promise *handle;
    *(int *)arg = api->promise_new(&types[0], NULL, &handle) == NULL ? 1 : 2;
    return NULL;
}

static PyObject *
new_from_thread(PyObject *module, PyObject *ignored)
{
    int answer = 0;
    pthread_t thread;
    Py_BEGIN_ALLOW_THREADS;
    pthread_create(&thread, NULL, call_without_gil, &answer);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS;
    return PyLong_FromLong(answer);
}

/* ---- futures in C --------------------------------------------------------------------------- */

static int drops; /* of futures */

/* Wakes itself at each poll, or is woken by its delay; READY, or an error, after `left` polls. */
struct countdown {
    struct pyasync_c_future future;
    int left;
    int fails;   /* with an exception, at the end */
    int answers; /* what poll returns at the end */
};

static int
countdown_poll(struct pyasync_c_future *f, struct pyasync_c_context *cx)
{
    struct countdown *self = (struct countdown *)f;
    if (self->left-- > 0) {
        pyasync_c_waker_wake_by_ref(cx->waker);
        return PYASYNC_C_PENDING;
    }
    if (self->fails) {
        PyErr_SetString(PyExc_OSError, "the end of the countdown");
    }
    return self->answers;
}

static void
countdown_drop(struct pyasync_c_future *f)
{
    drops++;
    free(f);
}

static PyObject *
countdown_result(struct pyasync_c_future *f)
{
    return PyLong_FromLong(((struct countdown *)f)->left);
}

static PyObject *
no_result(struct pyasync_c_future *f)
{
    return NULL;
}

static PyObject *
both_results(struct pyasync_c_future *f)
{
    PyErr_SetString(PyExc_ValueError, "beside a result");
    return PyLong_FromLong(1);
}

static const struct pyasync_c_future_vtable countdown_vtable = {countdown_poll, countdown_drop};
static const struct pyasync_c_future_vtable half_vtables[] = {{NULL, countdown_drop},
                                                              {countdown_poll, NULL}};

/* countdown(polls, fails=False, answers=READY, result=0) */
static PyObject *
countdown(PyObject *module, PyObject *args)
{
    int left, fails = 0, answers = PYASYNC_C_READY, result = 0;
    if (!PyArg_ParseTuple(args, "i|pii", &left, &fails, &answers, &result)) {
        return NULL;
    }
    struct countdown *self = (struct countdown *)calloc(1, sizeof *self);
    self->future.vtable = &countdown_vtable;
    self->left = left;
    self->fails = fails;
    self->answers = answers;
    return api->future_to_object(&self->future, result == 0   ? countdown_result
                                                : result == 1 ? NULL
                                                : result == 2 ? no_result
                                                              : both_results);
}

static PyObject *
half_future(PyObject *module, PyObject *number)
{
    long which = PyLong_AsLong(number);
    struct countdown half = {{which < 0 ? NULL : &half_vtables[which & 1]}, 0, 0, 0};
    return api->future_to_object(which > 1 ? NULL : &half.future, NULL);
}

static PyObject *
take_drops(PyObject *module, PyObject *ignored)
{
    int n = drops;
    drops = 0;
    return PyLong_FromLong(n);
}

/* ---- timers --------------------------------------------------------------------------------- */

/* Two delays one after the other. */
struct nap {
    struct pyasync_c_future future;
    struct pyasync_c_delay delay;
    uint64_t ns;
    int rounds;
};

static int
nap_poll(struct pyasync_c_future *f, struct pyasync_c_context *cx)
{
    struct nap *self = (struct nap *)f;
    while (api->delay_poll(&self->delay, cx) == PYASYNC_C_READY) {
        if (self->delay.status != 0) {
            PyErr_Format(PyExc_RuntimeError, "delay: %d", self->delay.status);
            return PYASYNC_C_ERROR;
        }
        if (--self->rounds == 0) {
            return PYASYNC_C_READY;
        }
        api->delay_reset(&self->delay, api->now_ns() + self->ns);
    }
    return PYASYNC_C_PENDING;
}

static void
nap_drop(struct pyasync_c_future *f)
{
    struct nap *self = (struct nap *)f;
    drops++;
    api->delay_drop(&self->delay);
    free(self);
}

static const struct pyasync_c_future_vtable nap_vtable = {nap_poll, nap_drop};

/* nap(seconds, rounds) */
static PyObject *
nap(PyObject *module, PyObject *args)
{
    double seconds;
    int rounds;
    if (!PyArg_ParseTuple(args, "di", &seconds, &rounds)) {
        return NULL;
    }
    struct nap *self = (struct nap *)calloc(1, sizeof *self);
    self->future.vtable = &nap_vtable;
    self->ns = (uint64_t)(seconds * 1e9);
    self->rounds = rounds;
    api->delay_init(&self->delay, api->now_ns() + self->ns);
    return api->future_to_object(&self->future, NULL);
}

static PyObject *
now_ns(PyObject *module, PyObject *ignored)
{
    return PyLong_FromUnsignedLongLong(api->now_ns());
}

/* ---- spawning ------------------------------------------------------------------------------- */

/* `data` is a Python callable: called with "ok" and the result, or the exception's name and text. */
static void
spawn_done(void *data, PyObject *result)
{
    PyObject *callable = (PyObject *)data, *called;
    if (result != NULL) {
        called = PyObject_CallFunction(callable, "sO", "ok", result);
    }
    else {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        called = PyObject_CallFunction(callable, "sO", ((PyTypeObject *)type)->tp_name,
                                       value == NULL ? Py_None : value);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    }
    Py_XDECREF(called);
    Py_DECREF(callable);
}

/* spawn(awaitable, callable) -> the task */
static PyObject *
spawn(PyObject *module, PyObject *args)
{
    PyObject *awaitable, *callable;
    if (!PyArg_ParseTuple(args, "OO", &awaitable, &callable)) {
        return NULL;
    }
    PyObject *task = api->spawn(awaitable, spawn_done, (void *)Py_NewRef(callable));
    if (task == NULL) {
        Py_DECREF(callable);
    }
    return task;
}

static PyObject *
spawn_nothing(PyObject *module, PyObject *awaitable)
{
    return api->spawn(awaitable == Py_None ? NULL : awaitable,
                      awaitable == Py_None ? spawn_done : NULL, NULL);
}

/* ---- descriptors ---------------------------------------------------------------------------- */

/* Reads until the end of the stream; its result is the bytes. */
struct reader {
    struct pyasync_c_future future;
    struct pyasync_c_io_ready ready;
    struct pyasync_c_io *io;
    int fd;
    size_t length;
    char bytes[65536];
};

static int
reader_poll(struct pyasync_c_future *f, struct pyasync_c_context *cx)
{
    struct reader *self = (struct reader *)f;
    for (;;) {
        uint32_t tick;
        int begun = api->io_begin(self->io, PYASYNC_C_READABLE, &tick);
        if (begun < 0) {
            PyErr_SetString(PyExc_RuntimeError, "the loop has closed");
            return PYASYNC_C_ERROR;
        }
        if (begun == 0) {
            int polled = api->io_ready_poll(&self->ready, cx);
            if (polled != PYASYNC_C_READY) {
                return polled;
            }
            continue;
        }
        ssize_t n = read(self->fd, self->bytes + self->length, sizeof self->bytes - self->length);
        if (n > 0) {
            self->length += (size_t)n;
        }
        else if (n == 0) {
            return PYASYNC_C_READY;
        }
        else if (errno == EAGAIN) {
            api->io_blocked(self->io, PYASYNC_C_READABLE, tick);
        }
        else if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return PYASYNC_C_ERROR;
        }
    }
}

static void
reader_drop(struct pyasync_c_future *f)
{
    struct reader *self = (struct reader *)f;
    drops++;
    api->io_ready_drop(&self->ready);
    api->io_close(self->io);
    free(self);
}

static PyObject *
reader_result(struct pyasync_c_future *f)
{
    struct reader *self = (struct reader *)f;
    return PyBytes_FromStringAndSize(self->bytes, (Py_ssize_t)self->length);
}

static const struct pyasync_c_future_vtable reader_vtable = {reader_poll, reader_drop};

/* reader(fd) */
static PyObject *
reader(PyObject *module, PyObject *number)
{
    int fd = (int)PyLong_AsLong(number);
    struct pyasync_c_io *io = api->io_open(fd);
    if (io == NULL) {
        return NULL;
    }
    struct reader *self = (struct reader *)calloc(1, sizeof *self);
    self->future.vtable = &reader_vtable;
    self->io = io;
    self->fd = fd;
    api->io_ready_init(&self->ready, io, PYASYNC_C_READABLE);
    return api->future_to_object(&self->future, reader_result);
}

static PyObject *
io_open(PyObject *module, PyObject *number)
{
    struct pyasync_c_io *io = api->io_open((int)PyLong_AsLong(number));
    return io == NULL ? NULL : PyLong_FromVoidPtr((void *)io);
}

static PyObject *
io_close(PyObject *module, PyObject *number)
{
    api->io_close((struct pyasync_c_io *)PyLong_AsVoidPtr(number));
    Py_RETURN_NONE;
}

/* io_wait(io, interest) */
static PyObject *
io_wait(PyObject *module, PyObject *args)
{
    struct pyasync_c_io *io;
    int interest;
    if (!PyArg_ParseTuple(args, "O&i", handle_of, &io, &interest)) {
        return NULL;
    }
    return api->io_wait(io, interest);
}

/* io_blocked(io, direction): as after an EAGAIN; what begin says then */
static PyObject *
io_blocked(PyObject *module, PyObject *args)
{
    struct pyasync_c_io *io;
    int direction;
    uint32_t tick;
    if (!PyArg_ParseTuple(args, "O&i", handle_of, &io, &direction)) {
        return NULL;
    }
    if (api->io_begin(io, direction, &tick) == 1) {
        api->io_blocked(io, direction, tick);
    }
    return PyLong_FromLong(api->io_begin(io, direction, &tick));
}

/* ---- misuse --------------------------------------------------------------------------------- */

static struct pyasync_c_waker
clone_nothing(void *data)
{
    struct pyasync_c_waker none = {NULL, NULL};
    return none;
}

static void
touch_nothing(void *data)
{
}

/* bad_waker(0: an empty slot; 1 to 4: a vtable without that entry; 5: a NULL) */
static PyObject *
bad_waker(PyObject *module, PyObject *number)
{
    long which = PyLong_AsLong(number);
    struct pyasync_c_waker_vtable vtable = {clone_nothing, touch_nothing, touch_nothing,
                                            touch_nothing};
    struct pyasync_c_waker waker = {which == 0 ? NULL : &vtable, NULL};
    if (which == 1) {
        vtable.clone = NULL;
    }
    else if (which == 2) {
        vtable.wake = NULL;
    }
    else if (which == 3) {
        vtable.wake_by_ref = NULL;
    }
    else if (which == 4) {
        vtable.drop = NULL;
    }
    return api->waker_to_object(which == 5 ? NULL : &waker);
}

static PyObject *
null_arguments(PyObject *module, PyObject *ignored)
{
    struct pyasync_c_waker waker;
    if (api->waker_from_object(NULL, &waker) >= 0 || !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return NULL;
    }
    PyErr_Clear();
    if (api->promise_new(&types[0], NULL, NULL) != NULL ||
        !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return NULL;
    }
    PyErr_Clear();
    api->promise_release(NULL, NULL);
    api->io_close(NULL);
    api->batch_begin(NULL);
    api->batch_end(NULL);
    return Py_BuildValue("iiiOi", api->promise_complete(NULL, NULL, NULL),
                         api->promise_fail(NULL, NULL, NULL), api->promise_is_over(NULL),
                         api->promise_ref(NULL) == NULL ? Py_True : Py_False,
                         api->io_begin(NULL, PYASYNC_C_READABLE, NULL));
}

/* ---- module --------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"wake_from_thread", wake_from_thread, METH_VARARGS, NULL},
    {"round_trip", round_trip, METH_O, NULL},
    {"take_counts", take_counts, METH_NOARGS, NULL},
    {"promise", promise, METH_VARARGS, NULL},
    {"how_many_alive", how_many_alive, METH_NOARGS, NULL},
    {"complete", complete, METH_VARARGS, NULL},
    {"complete_with", complete_with, METH_VARARGS, NULL},
    {"fail", fail, METH_VARARGS, NULL},
    {"is_over", is_over, METH_O, NULL},
    {"ref", ref, METH_O, NULL},
    {"release", release, METH_O, NULL},
    {"from_thread", (PyCFunction)(void (*)(void))from_thread, METH_VARARGS | METH_KEYWORDS, NULL},
    {"new_from_thread", new_from_thread, METH_NOARGS, NULL},
    {"countdown", countdown, METH_VARARGS, NULL},
    {"half_future", half_future, METH_O, NULL},
    {"take_drops", take_drops, METH_NOARGS, NULL},
    {"nap", nap, METH_VARARGS, NULL},
    {"now_ns", now_ns, METH_NOARGS, NULL},
    {"spawn", spawn, METH_VARARGS, NULL},
    {"spawn_nothing", spawn_nothing, METH_O, NULL},
    {"reader", reader, METH_O, NULL},
    {"io_open", io_open, METH_O, NULL},
    {"io_close", io_close, METH_O, NULL},
    {"io_wait", io_wait, METH_VARARGS, NULL},
    {"io_blocked", io_blocked, METH_VARARGS, NULL},
    {"bad_waker", bad_waker, METH_O, NULL},
    {"null_arguments", null_arguments, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
client_exec(PyObject *module)
{
    const struct pyasync_c_api *imported = pyasync_c_import();
    if (imported == NULL) {
        return -1;
    }
    if (api == NULL) { /* else threads of another interpreter's may be reading it */
        api = imported;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)client_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "capi_client", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_capi_client(void)
{
    return PyModuleDef_Init(&definition);
}
