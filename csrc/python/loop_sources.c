/* loop_sources.c - the descriptors that a loop watches: the reactor behind the selector that the
 * standard library's half of EventLoop registers with (pyasync_c/_eventloop.py). */
#include "loop_sources.h"

#include "callback_handle.h"

#include <unistd.h>

struct pacpy_source {
    struct pac_source source;
    LoopObject *loop; /* borrowed: it owns this */
    PyObject *key;    /* a selectors.SelectorKey */
    struct pacpy_adopted
        *queued[2]; /* the handles for reading and writing that have yet to run, or NULL */
};

static void
free_source(struct pacpy_source *s)
{
    pacpy_adopted_leave_place(s->queued[0]);
    pacpy_adopted_leave_place(s->queued[1]);
    if (s->loop->reporting == &s->queued[0] || s->loop->reporting == &s->queued[1]) {
        s->loop->reporting = NULL;
    }
    PyObject *key = s->key;
    PyMem_Free(s);
    Py_DECREF(key);
}

void
pacpy_sources_free(LoopObject *loop)
{
    struct pacpy_source **sources = loop->sources;
    size_t count = loop->source_count;
    loop->sources = NULL;
    loop->source_count = 0;
    for (size_t fd = 0; fd < count; fd++) {
        if (sources[fd] != NULL) {
            free_source(sources[fd]);
        }
    }
    PyMem_Free(sources);
}

int
pacpy_sources_visit(LoopObject *loop, visitproc visit, void *arg)
{
    for (size_t fd = 0; fd < loop->source_count; fd++) {
        if (loop->sources[fd] != NULL) {
            Py_VISIT(loop->sources[fd]->key);
        }
    }
    return 0;
}

/* What asyncio's loop registers: a SelectorKey whose data are the handles for reading and for
 * writing, either of them None. Borrowed; NULL: this key is another one. */
static PyObject *
handle_of_key(PyObject *key, unsigned event)
{
    enum { KEY_FIELDS = 4, KEY_DATA = 3 };
    if (!PyTuple_Check(key) || PyTuple_GET_SIZE(key) != KEY_FIELDS) {
        return NULL;
    }
    PyObject *data = PyTuple_GET_ITEM(key, KEY_DATA);
    if (!PyTuple_CheckExact(data) || PyTuple_GET_SIZE(data) != 2) {
        return NULL;
    }
    return PyTuple_GET_ITEM(data, event == PAC_READABLE ? 0 : 1);
}

/* Queue the handle without a call of Python: what _process_events comes to, unless somebody has
 * overridden it or uses handles and keys of his own. False: it has to be called. */
static bool
queue_event(struct pacpy_source *s, unsigned event, struct pacpy_adopted **queued)
{
    LoopObject *loop = s->loop;
    PyObject *handle = loop->queues_events ? handle_of_key(s->key, event) : NULL;
    if (handle == NULL || !pacpy_handle_is_plain_and_live(loop, handle)) {
        return false;
    }
    if (pacpy_handle_adopt(loop, handle, queued) < 0) {
        pacpy_loop_raise_or_print(loop, (PyObject *)loop);
    }
    return true;
}

/* A handle that has yet to run is not queued once more: descriptors are looked at within a pass
 * too, and its callback may count on finding what it is called for. */
static void
report_event(struct pacpy_source *s, unsigned event, struct pacpy_adopted **queued)
{
    LoopObject *loop = s->loop;
    if (*queued != NULL || queue_event(s, event, queued)) {
        return;
    }
    loop->reporting = queued;
    PyObject *done =
        PyObject_CallMethod((PyObject *)loop, "_process_events", "[(OI)]", s->key, event);
    loop->reporting = NULL;
    if (done == NULL) {
        pacpy_loop_raise_or_print(loop, (PyObject *)loop);
    }
    Py_XDECREF(done);
}

static void
source_ready(struct pac_source *source, unsigned readiness)
{
    struct pacpy_source *s = PAC_CONTAINER_OF(source, struct pacpy_source, source);
    LoopObject *loop = s->loop;
    size_t fd = (size_t)source->fd;
    unsigned events = readiness & source->interest;
    if (events & PAC_READABLE) {
        report_event(s, PAC_READABLE, &s->queued[0]);
    }
    /* That may have taken the source away. */
    if (events & PAC_WRITABLE && fd < loop->source_count && loop->sources[fd] == s) {
        report_event(s, PAC_WRITABLE, &s->queued[1]);
    }
}

static int
grow_sources(LoopObject *loop, size_t fd)
{
    if (fd < loop->source_count) {
        return 0;
    }
    size_t count = fd * 2 + 16;
    struct pacpy_source **grown = PyMem_Resize(loop->sources, struct pacpy_source *, count);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(grown + loop->source_count, 0, (count - loop->source_count) * sizeof *grown);
    loop->sources = grown;
    loop->source_count = count;
    return 0;
}

static struct pacpy_source *
find_source(LoopObject *loop, int fd)
{
    struct pacpy_source *s = fd >= 0 && (size_t)fd < loop->source_count ? loop->sources[fd] : NULL;
    if (s == NULL) {
        PyErr_Format(PyExc_KeyError, "descriptor %d is not registered", fd);
    }
    return s;
}

/* _poll_register(fd, events, key) */
PyObject *
pacpy_loop_poll_register(PyObject *op, PyObject *args)
{
    LoopObject *loop = (LoopObject *)op;
    int fd;
    unsigned events;
    PyObject *key;
    if (!PyArg_ParseTuple(args, "iIO", &fd, &events, &key) || pacpy_loop_check_open(loop) < 0 ||
        fd < 0 || grow_sources(loop, (size_t)fd) < 0) {
        return NULL;
    }
    struct pacpy_source *s = PyMem_Malloc(sizeof *s);
    if (s == NULL) {
        return PyErr_NoMemory();
    }
    s->source.fd = fd;
    s->source.interest = events;
    s->source.ready = source_ready;
    s->loop = loop;
    s->key = Py_NewRef(key);
    s->queued[0] = s->queued[1] = NULL;
    if (pac_reactor_add(&loop->executor->reactor, &s->source) != PAC_OK) {
        Py_DECREF(key);
        PyMem_Free(s);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    loop->sources[fd] = s;
    Py_RETURN_NONE;
}

/* _poll_modify(fd, events, key) */
PyObject *
pacpy_loop_poll_modify(PyObject *op, PyObject *args)
{
    LoopObject *loop = (LoopObject *)op;
    int fd;
    unsigned events;
    PyObject *key;
    if (!PyArg_ParseTuple(args, "iIO", &fd, &events, &key) || pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    struct pacpy_source *s = find_source(loop, fd);
    if (s == NULL) {
        return NULL;
    }
    if (events != s->source.interest &&
        pac_reactor_modify(&loop->executor->reactor, &s->source, events) != PAC_OK) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_SETREF(s->key, Py_NewRef(key));
    Py_RETURN_NONE;
}

/* _poll_unregister(fd) */
PyObject *
pacpy_loop_poll_unregister(PyObject *op, PyObject *fd_object)
{
    LoopObject *loop = (LoopObject *)op;
    int fd = PyLong_AsLong(fd_object);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    struct pacpy_source *s = find_source(loop, fd);
    if (s == NULL) {
        return NULL;
    }
    loop->sources[fd] = NULL;
    if (loop->executor != NULL && loop->pid == getpid()) {
        /* A fork's child shares the epoll set with its parent, and leaves it alone. */
        pac_reactor_remove(&loop->executor->reactor, &s->source);
    }
    free_source(s);
    Py_RETURN_NONE;
}
