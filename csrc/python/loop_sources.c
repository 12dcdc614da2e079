/* loop_sources.c - the descriptors that a loop watches: the reactor behind the selector that the
 * standard library's half of EventLoop registers with (pyasync_c/_eventloop.py), and behind the
 * operations of socket_operation.c.
 *
 * epoll is told what both want together. An operation that has ended leaves the descriptor as it
 * is: the next one on it needs one system call then instead of two, and none is needed to end. If
 * an event comes that nobody wants, epoll is told to ask less. Whoever uses a socket by operations
 * alone may close it between two of them, so an operation that is the only one to want its
 * direction always tells epoll, and learns by that that the descriptor is another one by now. */
#include "loop_sources.h"

#include "callback_handle.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

struct pacpy_source {
    struct pac_source source; /* interest: what epoll was told */
    bool registered;          /* whether it was told at all; the place may be another's since */
    LoopObject *loop;         /* borrowed: it owns this */
    PyObject *key;            /* a selectors.SelectorKey; NULL: no callback wants it */
    unsigned key_events;
    struct pac_list waits; /* of pacpy_source_wait */
    struct pacpy_adopted
        *queued[2]; /* the handles for reading and writing that have yet to run, or NULL */
};

/* ---- what is wanted ------------------------------------------------------------------------- */

static unsigned
wanted_by_waits(const struct pacpy_source *s)
{
    unsigned wanted = 0;
    for (struct pac_list_node *n = s->waits.head.next; n != &s->waits.head; n = n->next) {
        struct pac_waiter *w = PAC_LIST_ENTRY(n, struct pac_waiter, node);
        wanted |= PAC_CONTAINER_OF(w, struct pacpy_source_wait, waiter)->direction;
    }
    return wanted;
}

static inline unsigned
wanted(const struct pacpy_source *s)
{
    return s->key_events | wanted_by_waits(s);
}

static bool
source_is_idle(const struct pac_source *source)
{
    return wanted(PAC_CONTAINER_OF(source, struct pacpy_source, source)) == 0;
}

static void
stop_watching(struct pacpy_source *s)
{
    LoopObject *loop = s->loop;
    if (s->registered && loop->executor != NULL && loop->pid == getpid()) {
        /* A fork's child shares the epoll set with its parent, and leaves it alone. */
        pac_reactor_remove(&loop->executor->reactor, &s->source);
    }
    s->registered = false;
}

/* Tell epoll. 0, or -1 and OSError or MemoryError. */
static int
watch_for(struct pacpy_source *s, unsigned events)
{
    struct pac_reactor *reactor = &s->loop->executor->reactor;
    if (s->registered) {
        if (pac_reactor_modify(reactor, &s->source, events) == PAC_OK) {
            return 0;
        }
        int error = errno;
        stop_watching(s);
        if (error != ENOENT) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        /* It was closed, and what has its number now is new to epoll. */
    }
    s->source.interest = events;
    enum pac_status status = pac_reactor_add(reactor, &s->source);
    if (status != PAC_OK) {
        if (status == PAC_NO_MEMORY) {
            PyErr_NoMemory();
        }
        else {
            PyErr_SetFromErrno(PyExc_OSError);
        }
        return -1;
    }
    s->registered = true;
    return 0;
}

/* Wake those of `events`. May run anything, as a waker may. */
static void
wake_waits(struct pacpy_source *s, unsigned events)
{
    struct pac_list woken;
    struct pac_list_node *node = s->waits.head.next;
    pac_list_init(&woken);
    while (node != &s->waits.head) {
        struct pac_list_node *next = node->next;
        struct pac_waiter *w = PAC_LIST_ENTRY(node, struct pac_waiter, node);
        if (PAC_CONTAINER_OF(w, struct pacpy_source_wait, waiter)->direction & events) {
            pac_list_remove(node);
            pac_list_push_back(&woken, node);
        }
        node = next;
    }
    while ((node = pac_list_first(&woken)) != NULL) {
        struct pac_waker waker = pac_waiter_take(PAC_LIST_ENTRY(node, struct pac_waiter, node));
        pac_waker_wake(&waker);
    }
}

/* ---- the table ------------------------------------------------------------------------------ */

static void
free_source(struct pacpy_source *s)
{
    pacpy_adopted_leave_place(s->queued[0]);
    pacpy_adopted_leave_place(s->queued[1]);
    if (s->loop->reporting == &s->queued[0] || s->loop->reporting == &s->queued[1]) {
        s->loop->reporting = NULL;
    }
    wake_waits(s, PAC_READABLE | PAC_WRITABLE);
    PyObject *key = s->key;
    PyMem_Free(s);
    Py_XDECREF(key);
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

static inline bool
is_there(LoopObject *loop, size_t fd, struct pacpy_source *s)
{
    return fd < loop->source_count && loop->sources[fd] == s;
}

static void
source_ready(struct pac_source *source, unsigned readiness)
{
    struct pacpy_source *s = PAC_CONTAINER_OF(source, struct pacpy_source, source);
    LoopObject *loop = s->loop;
    size_t fd = (size_t)source->fd;
    unsigned events = readiness & s->key_events;
    unsigned told = source->interest;
    unsigned too_much = told & readiness & ~wanted(s);
    if (events & PAC_READABLE) {
        report_event(s, PAC_READABLE, &s->queued[0]);
    }
    /* That may have taken the source away, and so may each step from here on. */
    if (events & PAC_WRITABLE && is_there(loop, fd, s)) {
        report_event(s, PAC_WRITABLE, &s->queued[1]);
    }
    if (is_there(loop, fd, s)) {
        wake_waits(s, readiness);
    }
    if (too_much != 0 && is_there(loop, fd, s) && source->interest == told) {
        unsigned left = told & ~too_much;
        if (left == 0) {
            stop_watching(s);
        }
        else if (watch_for(s, left) < 0) {
            PyErr_Clear(); /* it has been closed: there is nothing to watch */
        }
    }
}

/* 0, or -1 with OSError (EBADF: it is no descriptor, which must not cost memory) or MemoryError. */
static int
grow_sources(LoopObject *loop, size_t fd)
{
    if (fd < loop->source_count) {
        return 0;
    }
    if (fcntl((int)fd, F_GETFD) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
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

/* The source of `fd`, a new one if there is none; NULL and OSError or MemoryError. */
static struct pacpy_source *
need_source(LoopObject *loop, int fd)
{
    if (grow_sources(loop, (size_t)fd) < 0) {
        return NULL;
    }
    struct pacpy_source *s = loop->sources[fd];
    if (s == NULL) {
        s = PyMem_Calloc(1, sizeof *s);
        if (s == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        s->source.fd = fd;
        s->source.ready = source_ready;
        s->source.is_idle = source_is_idle;
        s->loop = loop;
        pac_list_init(&s->waits);
        loop->sources[fd] = s;
    }
    return s;
}

/* Nobody wants anything of it, or it could not be watched. */
static void
drop_source(struct pacpy_source *s)
{
    stop_watching(s);
    s->loop->sources[s->source.fd] = NULL;
    free_source(s);
}

/* ---- for callbacks -------------------------------------------------------------------------- */

static struct pacpy_source *
find_source(LoopObject *loop, int fd)
{
    struct pacpy_source *s = fd >= 0 && (size_t)fd < loop->source_count ? loop->sources[fd] : NULL;
    if (s == NULL || s->key == NULL) {
        PyErr_Format(PyExc_KeyError, "descriptor %d is not registered", fd);
        return NULL;
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
    if (!PyArg_ParseTuple(args, "iIO", &fd, &events, &key) || pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    if (fd < 0) {
        return PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
    }
    struct pacpy_source *s = need_source(loop, fd);
    if (s == NULL) {
        return NULL;
    }
    if (watch_for(s, events | wanted_by_waits(s)) < 0) {
        if (wanted(s) == 0) {
            drop_source(s);
        }
        return NULL;
    }
    s->key_events = events;
    Py_XSETREF(s->key, Py_NewRef(key));
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
    unsigned all = events | wanted_by_waits(s);
    if (all != s->source.interest &&
        pac_reactor_modify(&loop->executor->reactor, &s->source, all) != PAC_OK) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    s->key_events = events;
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
    unsigned left = wanted_by_waits(s);
    if (left == 0) {
        drop_source(s);
        Py_RETURN_NONE;
    }
    s->key_events = 0;
    if (left != s->source.interest && watch_for(s, left) < 0) {
        PyErr_Clear(); /* closed: who waits will find that out, or does so in vain as on asyncio */
    }
    Py_CLEAR(s->key);
    Py_RETURN_NONE;
}

/* ---- for operations ------------------------------------------------------------------------- */

/* As asyncio does before it watches a descriptor: 0, or -1 and RuntimeError. */
static int
check_no_transport(LoopObject *loop, int fd)
{
    PyObject *done = PyObject_CallMethod((PyObject *)loop, "_ensure_fd_no_transport", "i", fd);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Has nobody but operations used it since check_no_transport was asked? */
static bool
is_known(LoopObject *loop, int fd)
{
    struct pacpy_source *s = (size_t)fd < loop->source_count ? loop->sources[fd] : NULL;
    return s != NULL && s->registered && s->key == NULL &&
           pac_reactor_has(&loop->executor->reactor, &s->source);
}

/* Have epoll watch for `w`, which is not in the list yet. 0 or -1. */
static int
watch_for_wait(LoopObject *loop, int fd, struct pacpy_source_wait *w)
{
    /* First, as that is a call of Python, which may take the source away. */
    if (!is_known(loop, fd) &&
        (check_no_transport(loop, fd) < 0 || pacpy_loop_check_open(loop) < 0)) {
        return -1;
    }
    struct pacpy_source *s = need_source(loop, fd);
    if (s == NULL) {
        return -1;
    }
    unsigned others = wanted(s);
    if (s->registered && others & w->direction) {
        return 0;
    }
    if (watch_for(s, others | w->direction) < 0) {
        if (is_there(loop, (size_t)fd, s) && wanted(s) == 0) {
            drop_source(s);
        }
        return -1;
    }
    return 0;
}

int
pacpy_source_wait(LoopObject *loop, int fd, struct pacpy_source_wait *w, struct pac_context *cx)
{
    if (!pac_list_is_linked(&w->waiter.node) && watch_for_wait(loop, fd, w) < 0) {
        return -1;
    }
    struct pac_list *waits = &loop->sources[fd]->waits;
    struct pac_waker spare = PAC_NO_WAKER;
    if (!pac_waiter_arm(&w->waiter, waits, cx->waker, &spare)) {
        spare = pac_waker_clone(cx->waker);
        bool armed = pac_waiter_arm(&w->waiter, waits, cx->waker, &spare);
        PAC_ASSERT(armed);
        (void)armed;
    }
    pac_waker_drop(&spare);
    return 0;
}

void
pacpy_source_stop_waiting(struct pacpy_source_wait *w)
{
    struct pac_waker waker = pac_waiter_disarm(&w->waiter);
    pac_waker_drop(&waker);
}

PyObject *
pacpy_loop_get_watched(PyObject *op, void *Py_UNUSED(ignored))
{
    LoopObject *loop = (LoopObject *)op;
    int watched = loop->executor == NULL ? 0 : loop->executor->reactor.watched;
    for (size_t fd = 0; fd < loop->source_count && watched > 0; fd++) {
        struct pacpy_source *s = loop->sources[fd];
        watched -=
            s != NULL && wanted(s) == 0 && pac_reactor_has(&loop->executor->reactor, &s->source);
    }
    return PyLong_FromLong(watched);
}
