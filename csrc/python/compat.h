/* compat.h - what differs between CPython 3.11 and 3.14, under the newest name. */
#ifndef PACPY_COMPAT_H
#define PACPY_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>

/* The exception that is set, taken out, as one normalised object; and back. */
#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *exc)
{
    PyObject *type = Py_NewRef(Py_TYPE(exc));
    PyErr_Restore(type, exc, PyException_GetTraceback(exc));
}
#endif

/* The thread state that is attached to this thread, or NULL: asks, never waits, never aborts. */
#if PY_VERSION_HEX < 0x030D0000
#define PyThreadState_GetUnchecked _PyThreadState_UncheckedGet
#endif

/* Has anybody a weak reference to `op`? Its type must support them. */
static inline bool
pacpy_has_weakrefs(PyObject *op)
{
#if defined(Py_GIL_DISABLED)
    return true; /* perhaps: the list is not ours to read */
#else
    return *(PyObject **)((char *)op + Py_TYPE(op)->tp_weaklistoffset) != NULL;
#endif
}

/* In a destructor: what PyObject_ClearWeakRefs does, for less if there are none. */
static inline void
pacpy_clear_weakrefs(PyObject *op)
{
    if (pacpy_has_weakrefs(op)) {
        PyObject_ClearWeakRefs(op);
    }
}

/* What a weak reference refers to, as a new reference: 1; 0 and NULL if it has gone. */
#if PY_VERSION_HEX < 0x030D0000
static inline int
PyWeakref_GetRef(PyObject *ref, PyObject **op)
{
    PyObject *found = PyWeakref_GET_OBJECT(ref);
    *op = found == Py_None ? NULL : Py_NewRef(found);
    return *op != NULL;
}
#endif

/* Guards an object's own fields where there is no GIL; nothing elsewhere. */
#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* Has nobody but the caller a reference to `op`? False where that cannot be asked. */
static inline bool
pacpy_is_only_reference(PyObject *op)
{
#if defined(Py_GIL_DISABLED)
    return false;
#else
    return Py_REFCNT(op) == 1;
#endif
}

/* Bytes that only the caller refers to are `length` bytes long from now on, not more than there is
 * room for, and any bytes: what was known of the old ones is forgotten. */
static inline void
pacpy_bytes_set_length(PyObject *op, Py_ssize_t length)
{
    Py_SET_SIZE((PyVarObject *)op, length);
    PyBytes_AS_STRING(op)[length] = '\0';
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
    ((PyBytesObject *)op)->ob_shash = -1;
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}

/* How far a dict has changed: two equal readings, and nobody wrote to it in between. Before 3.14
 * the field is there for the taking; after it, a reading is never equal to another one. */
#if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)
static inline uint64_t
pacpy_dict_version(PyObject *dict)
{
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#endif
    return ((PyDictObject *)dict)->ma_version_tag;
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
}
#define PACPY_HAVE_DICT_VERSION 1
#endif

#endif
