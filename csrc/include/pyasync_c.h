/* pyasync_c.h - the C API of pyasync_c: awaitables that C, C++, Rust or Cython code ends from any
 * thread, without the GIL. docs/c-api.md is a guide, from nothing to an extension that works.
 *
 * A whole function that Python awaits, `await answer()`, whose work is done by a thread that Python
 * has never heard of:
 *
 *     #include <pyasync_c.h>
 *     #include <pthread.h>
 *
 *     static const struct pyasync_c_api *api;    // api = pyasync_c_import(), in the module's exec
 *
 *     static PyObject *                          // with the GIL, on the thread that awaits
 *     convert(void *data, void *value)
 *     {
 *         return PyLong_FromVoidPtr(value);
 *     }
 *
 *     static const struct pyasync_c_promise_type answer_type = {
 *         sizeof(struct pyasync_c_promise_type), "deep_thought.Answer", convert,
 *         NULL, NULL, NULL, NULL, 0,
 *     };
 *
 *     static void *                              // any thread, no GIL
 *     think(void *arg)
 *     {
 *         struct pyasync_c_promise *promise = (struct pyasync_c_promise *)arg;
 *         api->promise_complete(promise, (void *)42, NULL);
 *         api->promise_release(promise, NULL);
 *         return NULL;
 *     }
 *
 *     static PyObject *                          // answer(), with the GIL
 *     answer(PyObject *module, PyObject *args)
 *     {
 *         struct pyasync_c_promise *promise;
 *         PyObject *awaitable = api->promise_new(&answer_type, NULL, &promise);
 *         pthread_t thread;
 *         if (awaitable == NULL) {
 *             return NULL;
 *         }
 *         if (pthread_create(&thread, NULL, think, promise) == 0) {
 *             pthread_detach(thread);
 *         }
 *         else {
 *             api->promise_release(promise, NULL);     // it is broken: RuntimeError, if awaited
 *         }
 *         return awaitable;
 *     }
 *
 * What it works with. The awaitables belong to no loop: pyasync_c's runtime, asyncio's loop and
 * uvloop's await them alike, one task each, once. The header needs nothing but Python.h, compiles
 * as C11 and as C++11 and later, and links with nothing; pyasync_c.get_include() says where it is.
 *
 * Marks. [GIL]: the calling thread must be attached to the interpreter. [any thread]: with or
 * without the GIL, also a thread that Python does not know, also after the loop has closed and after
 * the interpreter has gone; allocates nothing, waits for nothing, and cannot fail but for what it
 * returns. Where a function says -1 or NULL, an exception is set.
 *
 * Sub-interpreters. The functions are the same for all; a [GIL] function works in the interpreter
 * that calls it, once that has called pyasync_c_import(). One `static const struct pyasync_c_api *`
 * will do: each import gives the same, so only the first needs to write it, and later ones must not
 * where threads may be reading it.
 *
 * Fork. In the child none of the parent's threads is there, so nobody completes what they were to
 * complete; its promises can be dropped, and new ones made.
 *
 * Exit. A thread may complete and release after Py_Finalize: what only the interpreter could free is
 * leaked then.
 *
 * Misuse. A NULL handle, and a vtable without what it must have, are refused wherever one is given.
 * A pyasync_c that was built with PAC_DEBUG=1 also notices a handle that was released too often, and
 * calls without the GIL: it says so on stderr and refuses. */
#ifndef PYASYNC_C_H
#define PYASYNC_C_H

#include <Python.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A version breaks what the one before it promised; within one, functions are only added at the end
 * of struct pyasync_c_api, whose size tells. pyasync_c_import checks both. */
#define PYASYNC_C_API_VERSION 1
#define PYASYNC_C_CAPSULE "pyasync_c._core._C_API"

/* ---- wakers --------------------------------------------------------------------------------- */

struct pyasync_c_waker;

/* What a kind of waker does. All four may be called on any thread, allocate nothing, and cannot
 * fail. None may be NULL. */
struct pyasync_c_waker_vtable {
    struct pyasync_c_waker (*clone)(void *data); /* one more owned waker for the same task */
    void (*wake)(void *data);                    /* wake, giving up the reference */
    void (*wake_by_ref)(void *data);             /* wake, keeping it */
    void (*drop)(void *data);                    /* give up the reference */
};

/* The right to have one task polled again. An owned waker: two words, passed by value. Each must be
 * woken or dropped once, on any thread, also long after the task or its loop has gone: then nothing
 * happens. */
struct pyasync_c_waker {
    const struct pyasync_c_waker_vtable *vtable; /* NULL: none, an empty slot */
    void *data;
};

/* One more waker for the same task. *waker must not be an empty slot. [any thread] */
static inline struct pyasync_c_waker
pyasync_c_waker_clone(const struct pyasync_c_waker *waker)
{
    return waker->vtable->clone(waker->data);
}

/* Wake and give up; *waker is an empty slot afterwards, and an empty slot stays one. [any thread] */
static inline void
pyasync_c_waker_wake(struct pyasync_c_waker *waker)
{
    const struct pyasync_c_waker_vtable *vtable = waker->vtable;
    waker->vtable = NULL;
    if (vtable != NULL) {
        vtable->wake(waker->data);
    }
}

/* Wake and keep. *waker must not be an empty slot. [any thread] */
static inline void
pyasync_c_waker_wake_by_ref(const struct pyasync_c_waker *waker)
{
    waker->vtable->wake_by_ref(waker->data);
}

/* Give up without waking; an empty slot is left alone. [any thread] */
static inline void
pyasync_c_waker_drop(struct pyasync_c_waker *waker)
{
    const struct pyasync_c_waker_vtable *vtable = waker->vtable;
    waker->vtable = NULL;
    if (vtable != NULL) {
        vtable->drop(waker->data);
    }
}

/* ---- promises ------------------------------------------------------------------------------- */

/* A value that C code has promised and Python awaits. What the extension holds is a handle: counted,
 * usable on any thread, and valid until it is released. The awaitable is the other side. The two may
 * go in any order. */
struct pyasync_c_promise;

/* What a kind of promise does: a constant that outlives its promises. `data` is what was given to
 * promise_new. All of these are called with the GIL, in the interpreter that made the promise, and
 * may use Python; a callback that may not raise and does has its exception printed by
 * sys.unraisablehook. Only convert must be there. */
struct pyasync_c_promise_type {
    size_t size;      /* sizeof(struct pyasync_c_promise_type) */
    const char *name; /* for repr() and messages, such as "zlib_pool.Compression" */

    /* Make the result of the await of a value, as a new reference; NULL and an exception, which is
     * then what the await raises. On the thread that awaits, once. The value is borrowed: `destroy`
     * follows. */
    PyObject *(*convert)(void *data, void *value);

    /* Set the exception that the await raises for an error of promise_fail. Likewise. */
    void (*set_error)(void *data, void *error);

    /* Free a value (or, with `failed`, an error) that was accepted: once for each, after it was
     * converted, or when it never will be. NULL: there is nothing to free. */
    void (*destroy)(void *data, void *value, int failed);

    /* Nobody waits any more (the task was cancelled, the awaitable was closed, collected, or lost a
     * select, the loop has closed), and nothing had been accepted: stop the work, if that is
     * possible. Once at most, never after something was accepted; from then on promise_complete and
     * promise_fail return PYASYNC_C_CANCELLED. On the thread that lets the awaitable go: in most
     * cases the loop's, perhaps in the middle of a destructor. So it must not wait, nor raise. A
     * thread that works for this promise may be running at the same time. */
    void (*cancelled)(void *data);

    /* Free `data`: the last call, once, after the awaitable is done with it and the last handle was
     * released. If the last to go is a thread without the GIL, it is called when the next promise of
     * this interpreter is made or gives its result, or when the interpreter ends; if that has gone,
     * never. */
    void (*finalize)(void *data);

    /* 1: it is completed by work that takes real time, so that a runtime with a virtual clock (for
     * tests) lets its clock stand still while such a promise is awaited, as it does for
     * spawn_blocking. 0: the clock goes on, as for a promise that another task completes. */
    int holds_clock;
};

/* What promise_complete and promise_fail say. */
enum {
    PYASYNC_C_OK = 0,        /* accepted: the value is the promise's from now on */
    PYASYNC_C_ALREADY = 1,   /* this was done before: the value is the caller's still */
    PYASYNC_C_CANCELLED = 2, /* nobody waits for it any more: likewise */
    PYASYNC_C_MISUSE = -1    /* there is no promise, or no set_error to fail with: likewise */
};

/* Completions that wake together; see batch_begin. Memory for it, to be put on a stack. */
struct pyasync_c_batch {
    void *opaque[16];
};

/* ---- futures written in C ------------------------------------------------------------------- */

/* What a poll is given. Valid during that poll alone; clone the waker to keep it. */
struct pyasync_c_context {
    const struct pyasync_c_waker *waker;
};

struct pyasync_c_future;

enum { PYASYNC_C_PENDING = 0, PYASYNC_C_READY = 1, PYASYNC_C_ERROR = -1 };

/* What a kind of future does. Both are called with the GIL, on the thread of the loop that awaits,
 * never both at a time. Neither may be NULL. */
struct pyasync_c_future_vtable {
    /* Advance as far as it goes without waiting. PENDING obliges it to have arranged that the waker
     * of this poll, the newest one, is woken once another poll is worth while. It may be polled
     * without having been woken. READY: it is not polled again. ERROR: likewise, and an exception is
     * set, which is what the await raises. */
    int (*poll)(struct pyasync_c_future *self, struct pyasync_c_context *cx);
    /* Once, when whoever owns it is done with it, ready or not: leave every list, drop every waker,
     * and free the memory, if it is to be freed. In the middle of a destructor perhaps; must not
     * raise. */
    void (*drop)(struct pyasync_c_future *self);
};

/* Any struct that begins with this. */
struct pyasync_c_future {
    const struct pyasync_c_future_vtable *vtable;
};

/* A future that is READY once its time has come: part of a future of one's own, or given to
 * future_to_object. It is armed by its first poll, on the timing wheel of the loop that awaits, and
 * moves with it. Its drop frees no memory. */
struct pyasync_c_delay {
    struct pyasync_c_future future;
    uint64_t deadline_ns; /* read only: of now_ns's clock */
    void *entry;
    int status; /* once READY: 0, or why it could not wait: the loop has closed, or no memory */
};

/* ---- descriptors ---------------------------------------------------------------------------- */

/* A non-blocking descriptor that a loop watches, for both directions, edge-triggered. It remembers
 * which one is worth trying, so that neither a try nor a wait needs a system call of its own. */
struct pyasync_c_io;

enum { PYASYNC_C_READABLE = 1, PYASYNC_C_WRITABLE = 2 };

/* A future that is READY once the descriptor is worth trying in one of the directions, or is closed;
 * part of a future of one's own. Any number may wait for one descriptor. Its drop frees no memory. */
struct pyasync_c_io_ready {
    struct pyasync_c_future future;
    void *opaque[11];
};

/* ---- the functions -------------------------------------------------------------------------- */

struct pyasync_c_api {
    uint32_t version; /* PYASYNC_C_API_VERSION of the module that is loaded */
    uint32_t size;    /* sizeof(struct pyasync_c_api) there */

    /* An owned clone of the waker behind a pyasync_c.Waker. 0, or -1 with TypeError. [GIL] */
    int (*waker_from_object)(PyObject *object, struct pyasync_c_waker *waker);

    /* A new pyasync_c.Waker that owns a clone of *waker. NULL with MemoryError, or with ValueError
     * for an empty slot or a vtable with a NULL in it. [GIL] */
    PyObject *(*waker_to_object)(const struct pyasync_c_waker *waker);

    /* A new promise: the awaitable, a new reference, and in *promise one handle, the caller's to
     * release. NULL with MemoryError, or with ValueError for a type without name or convert or of
     * another size; then there is no handle, and `data` is still the caller's. [GIL] */
    PyObject *(*promise_new)(const struct pyasync_c_promise_type *type, void *data,
                             struct pyasync_c_promise **promise);

    /* Complete it with a value, or with an error; the first time counts. The awaiting task is woken,
     * or joins `batch` (NULL: at once). One of PYASYNC_C_OK, ALREADY, CANCELLED, MISUSE: only after
     * OK the value is the promise's. The handle stays the caller's. [any thread] */
    int (*promise_complete)(struct pyasync_c_promise *promise, void *value,
                            struct pyasync_c_batch *batch);
    int (*promise_fail)(struct pyasync_c_promise *promise, void *error,
                        struct pyasync_c_batch *batch);

    /* 1: completing it now would be refused, so the work may as well be left. 0: not yet. A cheap
     * thing to ask in a loop. [any thread] */
    int (*promise_is_over)(struct pyasync_c_promise *promise);

    /* One more handle to the same promise: returns it. [any thread that has a handle] */
    struct pyasync_c_promise *(*promise_ref)(struct pyasync_c_promise *promise);

    /* Give a handle up; NULL is left alone. The last one breaks the promise if nothing was accepted:
     * the await raises RuntimeError; `batch` as above. [any thread] */
    void (*promise_release)(struct pyasync_c_promise *promise, struct pyasync_c_batch *batch);

    /* Between these two, promises that are completed with `batch` are accepted one by one, with
     * their results at once, but their tasks are woken together at the end: each loop is, if it
     * sleeps, by one write to its descriptor, however many of its tasks there are. (Begin and end,
     * rather than an array of completions, since a worker learns one by one what becomes of its
     * values, and needs no memory for the array.) A batch belongs to one thread; it must end, and
     * soon, as its tasks stand still until then. NULL is left alone. [any thread] */
    void (*batch_begin)(struct pyasync_c_batch *batch);
    void (*batch_end)(struct pyasync_c_batch *batch);

    /* An awaitable over a future written in C, which it owns from now on: polls it, calls `result`
     * once it is READY (NULL: the await returns None) for the result of the await, a new reference,
     * or NULL and an exception; then drops it. NULL with MemoryError, or with ValueError for a
     * vtable with a NULL in it; then the future is the caller's still. [GIL] */
    PyObject *(*future_to_object)(struct pyasync_c_future *future,
                                  PyObject *(*result)(struct pyasync_c_future *future));

    /* Run a Python awaitable as a task of the loop that runs on this thread, whosever loop that is,
     * and call `done` once it has ended: with its result, borrowed; or with NULL and its exception
     * set, CancelledError among them, which `done` may fetch, or leave to be forgotten. Also if the
     * loop goes before the task has ended. Exactly once, with the GIL, on the loop's thread if the
     * loop is there; an exception that `done` raises is printed. Returns the task, a new reference,
     * which need not be kept: cancel it by its method. NULL with TypeError (not an awaitable),
     * RuntimeError (no loop runs) or MemoryError; then `done` is not called. [GIL] */
    PyObject *(*spawn)(PyObject *awaitable, void (*done)(void *data, PyObject *result), void *data);

    /* The clock of deadlines, in nanoseconds: that of time.monotonic(), or the virtual clock of the
     * runtime that runs on this thread. [any thread] */
    uint64_t (*now_ns)(void);

    /* Make *delay due at deadline_ns; UINT64_MAX is never. The caller's memory, in place until the
     * drop. [any thread] */
    void (*delay_init)(struct pyasync_c_delay *delay, uint64_t deadline_ns);

    /* Within a poll, of whatever future: READY once the deadline has passed. [GIL] */
    int (*delay_poll)(struct pyasync_c_delay *delay, struct pyasync_c_context *cx);

    /* Move the deadline; who waits for it is woken at the new one. [any thread, one at a time] */
    void (*delay_reset)(struct pyasync_c_delay *delay, uint64_t deadline_ns);

    /* Disarm it. It may be polled again, and is armed anew then. [any thread, one at a time] */
    void (*delay_drop)(struct pyasync_c_delay *delay);

    /* Have the loop that runs on this thread watch a non-blocking descriptor, which stays the
     * caller's to close, after io_close. A stream socket is given once its connect has begun. NULL
     * with OSError (a regular file, one that is watched already), RuntimeError (no loop runs) or
     * MemoryError. All that takes the record is called on that loop's thread. [GIL] */
    struct pyasync_c_io *(*io_open)(int fd);

    /* Watch it no longer, and give the record up; who waits for it is woken, and finds it READY.
     * Once, also after the loop has closed. NULL is left alone. [GIL] */
    void (*io_close)(struct pyasync_c_io *io);

    /* Around a system call in one direction. begin: 1, try it; 0, it would block; -1, the loop has
     * closed, and watches it no longer. blocked: the call said EAGAIN, so that the next begin says
     * 0 until something happens. *tick is between the two. [GIL] */
    int (*io_begin)(struct pyasync_c_io *io, int direction, uint32_t *tick);
    void (*io_blocked)(struct pyasync_c_io *io, int direction, uint32_t tick);

    /* Wait for one of the directions of `interest`, which is one or both: as a future, or as an
     * awaitable that is given back (NULL with MemoryError, or with ValueError for another interest).
     * It may be READY in vain: try, and wait again. An await on another loop than the record's raises
     * RuntimeError. A future that was initialised must be dropped. [GIL] */
    void (*io_ready_init)(struct pyasync_c_io_ready *ready, struct pyasync_c_io *io, int interest);
    int (*io_ready_poll)(struct pyasync_c_io_ready *ready, struct pyasync_c_context *cx);
    void (*io_ready_drop)(struct pyasync_c_io_ready *ready);
    PyObject *(*io_wait)(struct pyasync_c_io *io, int interest);
};

/* The functions, valid for as long as the process; NULL with ImportError if pyasync_c is not
 * installed, is of another version, or is older than this header. [GIL] */
static inline const struct pyasync_c_api *
pyasync_c_import(void)
{
    const struct pyasync_c_api *api;
    PyObject *module = PyImport_ImportModule("pyasync_c._core");
    if (module == NULL) {
        return NULL;
    }
    Py_DECREF(module);
    api = (const struct pyasync_c_api *)PyCapsule_Import(PYASYNC_C_CAPSULE, 0);
    if (api == NULL) {
        return NULL;
    }
    if (api->version != PYASYNC_C_API_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "pyasync_c's C API is version %u, but this extension was built for version %u",
                     (unsigned)api->version, (unsigned)PYASYNC_C_API_VERSION);
        return NULL;
    }
    if (api->size < sizeof(struct pyasync_c_api)) {
        PyErr_Format(PyExc_ImportError,
                     "the installed pyasync_c is older than the one that this extension was built "
                     "with: its C API has %u bytes, not %u",
                     (unsigned)api->size, (unsigned)sizeof(struct pyasync_c_api));
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
