/* capi.c - the capsule behind csrc/include/pyasync_c.h.
 *
 * The public waker is the core's under another name: the same two words, the same four functions.
 * So a waker crosses the border without being wrapped. */
#include "state.h"

#include "../include/pyasync_c.h"
#include "waker.h"

#include <assert.h>

static_assert(sizeof(struct pyasync_c_waker) == sizeof(struct pac_waker), "one waker, two names");
static_assert(offsetof(struct pyasync_c_waker, data) == offsetof(struct pac_waker, data),
              "likewise");
static_assert(sizeof(struct pyasync_c_waker_vtable) == sizeof(struct pac_waker_vtable), "likewise");
static_assert(offsetof(struct pyasync_c_waker_vtable, drop) ==
                  offsetof(struct pac_waker_vtable, drop),
              "likewise");

static int
waker_from_object(PyObject *object, struct pyasync_c_waker *waker)
{
    /* Called from anywhere, so the state is found by the type, which only our module makes. */
    struct pacpy_state *st = pacpy_state_of_type(Py_TYPE(object));
    if (st == NULL || !Py_IS_TYPE(object, st->Waker_type)) {
        PyErr_Format(PyExc_TypeError, "a pyasync_c.Waker is required, not %s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    struct pac_waker clone = pac_waker_clone(&((WakerObject *)object)->waker);
    memcpy(waker, &clone, sizeof clone);
    return 0;
}

static PyObject *
waker_to_object(const struct pyasync_c_waker *waker)
{
    struct pac_waker ours;
    memcpy(&ours, waker, sizeof ours);
    PyObject *module = PyImport_ImportModule("pyasync_c._core");
    if (module == NULL) {
        return NULL;
    }
    PyObject *object = pacpy_waker_new(pacpy_state_of(module), &ours);
    Py_DECREF(module);
    return object;
}

static const struct pyasync_c_api api = {
    .version = PYASYNC_C_API_VERSION,
    .size = sizeof(struct pyasync_c_api),
    .waker_from_object = waker_from_object,
    .waker_to_object = waker_to_object,
};

int
pacpy_capi_exec(PyObject *module)
{
    PyObject *capsule = PyCapsule_New((void *)&api, PYASYNC_C_CAPSULE, NULL);
    if (capsule == NULL) {
        return -1;
    }
    int added = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return added;
}
