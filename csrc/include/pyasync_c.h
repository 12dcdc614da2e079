/* pyasync_c.h - the C API of pyasync_c for other extensions: wakers that any thread may wake.
 *
 * A Python future (a subclass of pyasync_c.Future, in Python or C) is given a Context with each
 * poll. Its waker, turned into a C waker with `waker_from_object`, may be kept by C code and
 * woken later from any thread, without the GIL, also a thread that Python has never heard of, and
 * also after the runtime has closed: then nothing happens.
 *
 *     static const struct pyasync_c_api *api;
 *
 *     // once, with the GIL, say in the module's exec function:
 *     api = pyasync_c_import();
 *     if (api == NULL) return -1;                        // ImportError is set
 *
 *     // in poll, with the GIL:
 *     struct pyasync_c_waker waker;
 *     if (api->waker_from_object(waker_object, &waker) < 0) return NULL;
 *
 *     // later, on any thread:
 *     pyasync_c_waker_wake(&waker);
 *
 * The header needs nothing but Python.h, compiles as C and as C++, and links with nothing. Find
 * it with pyasync_c.get_include(). */
#ifndef PYASYNC_C_H
#define PYASYNC_C_H

#include <Python.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYASYNC_C_API_VERSION 1
#define PYASYNC_C_CAPSULE "pyasync_c._core._C_API"

struct pyasync_c_waker;

/* What a kind of waker does. All four may be called on any thread, allocate nothing, and cannot
 * fail. */
struct pyasync_c_waker_vtable {
    struct pyasync_c_waker (*clone)(void *data); /* one more owned waker for the same task */
    void (*wake)(void *data);                    /* wake, giving up the reference */
    void (*wake_by_ref)(void *data);             /* wake, keeping it */
    void (*drop)(void *data);                    /* give up the reference */
};

/* An owned waker: two words, passed by value. Each must be woken or dropped once. */
struct pyasync_c_waker {
    const struct pyasync_c_waker_vtable *vtable; /* NULL: none, an empty slot */
    void *data;
};

/* The functions of the capsule. Later versions only add to the end. */
struct pyasync_c_api {
    uint32_t version; /* PYASYNC_C_API_VERSION of the module that is loaded */
    uint32_t size;    /* sizeof(struct pyasync_c_api) there */
    /* An owned clone of the waker behind a pyasync_c.Waker. 0, or -1 with TypeError. With the
     * GIL. */
    int (*waker_from_object)(PyObject *object, struct pyasync_c_waker *waker);
    /* A new pyasync_c.Waker that owns a clone of *waker. NULL and MemoryError. With the GIL. */
    PyObject *(*waker_to_object)(const struct pyasync_c_waker *waker);
};

/* The functions, valid for as long as pyasync_c is loaded; NULL with ImportError if it is not
 * installed, or is older than this header. With the GIL. */
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
    if (api != NULL && api->version < PYASYNC_C_API_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "pyasync_c's C API is version %u, but this extension needs %u",
                     (unsigned)api->version, (unsigned)PYASYNC_C_API_VERSION);
        return NULL;
    }
    return api;
}

/* One more waker for the same task. [any thread] */
static inline struct pyasync_c_waker
pyasync_c_waker_clone(const struct pyasync_c_waker *waker)
{
    return waker->vtable->clone(waker->data);
}

/* Wake and give up; *waker is an empty slot afterwards, and an empty slot stays one. [any thread]
 */
static inline void
pyasync_c_waker_wake(struct pyasync_c_waker *waker)
{
    const struct pyasync_c_waker_vtable *vtable = waker->vtable;
    waker->vtable = NULL;
    if (vtable != NULL) {
        vtable->wake(waker->data);
    }
}

/* Wake and keep. [any thread] */
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

#ifdef __cplusplus
}
#endif

#endif
