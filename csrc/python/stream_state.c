#include "stream_state.h"

PyObject *
pacpy_stream_state(PyObject *reader)
{
    return PyObject_GenericGetDict(reader, NULL);
}

PyObject *
pacpy_stream_get(PyObject *state, PyObject *name)
{
    PyObject *value = PyDict_GetItemWithError(state, name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetObject(PyExc_AttributeError, name);
    }
    return value;
}

int
pacpy_stream_is_set(PyObject *state, PyObject *name)
{
    PyObject *value = pacpy_stream_get(state, name);
    return value == NULL                           ? -1
           : value == Py_True                      ? 1
           : value == Py_None || value == Py_False ? 0
                                                   : PyObject_IsTrue(value);
}

PyObject *
pacpy_stream_buffer(struct pacpy_state *st, PyObject *state)
{
    PyObject *buffer = pacpy_stream_get(state, st->str__buffer);
    if (PAC_LIKELY(buffer != NULL && PyByteArray_CheckExact(buffer))) {
        return buffer;
    }
    if (buffer != NULL && PyBytes_CheckExact(buffer)) {
        buffer = PyByteArray_FromObject(buffer);
        int set = buffer == NULL ? -1 : PyDict_SetItem(state, st->str__buffer, buffer);
        Py_XDECREF(buffer); /* the dict has it */
        return set < 0 ? NULL : buffer;
    }
    if (buffer != NULL) {
        PyErr_Format(PyExc_TypeError, "StreamReader._buffer must be a bytearray, not %s",
                     Py_TYPE(buffer)->tp_name);
    }
    return NULL;
}

PyObject *
pacpy_stream_whole(struct pacpy_state *st, PyObject *state)
{
    PyObject *buffer = PyDict_GetItemWithError(state, st->str__buffer);
    if (buffer == NULL) {
        PyErr_Clear();
    }
    return buffer != NULL && PyBytes_CheckExact(buffer) ? buffer : NULL;
}

int
pacpy_stream_put_whole(struct pacpy_state *st, PyObject *state, PyObject *whole)
{
    PyObject *buffer = PyDict_GetItemWithError(state, st->str__buffer);
    if (buffer == NULL || !PyByteArray_CheckExact(buffer) || PyByteArray_GET_SIZE(buffer) > 0 ||
        !pacpy_is_only_reference(buffer)) {
        return buffer == NULL && PyErr_Occurred() ? -1 : 0;
    }
    return PyDict_SetItem(state, st->str__buffer, whole) < 0 ? -1 : 1;
}

PyObject *
pacpy_stream_take_whole(struct pacpy_state *st, PyObject *state)
{
    PyObject *whole = Py_NewRef(pacpy_stream_whole(st, state));
    PyObject *empty = PyByteArray_FromStringAndSize(NULL, 0);
    if (empty == NULL || PyDict_SetItem(state, st->str__buffer, empty) < 0) {
        Py_CLEAR(whole);
    }
    Py_XDECREF(empty);
    return whole;
}

int
pacpy_stream_limit(struct pacpy_state *st, PyObject *state, Py_ssize_t *limit)
{
    PyObject *value = pacpy_stream_get(state, st->str__limit);
    if (value == NULL) {
        return -1;
    }
    if (PyFloat_Check(value)) {
        double d = PyFloat_AS_DOUBLE(value);
        *limit = d >= (double)(PY_SSIZE_T_MAX / 2) ? PY_SSIZE_T_MAX / 2 : (Py_ssize_t)d;
        return 0;
    }
    *limit = PyNumber_AsSsize_t(value, NULL);
    if (*limit > PY_SSIZE_T_MAX / 2) {
        *limit = PY_SSIZE_T_MAX / 2;
    }
    return *limit == -1 && PyErr_Occurred() ? -1 : 0;
}

int
pacpy_stream_call(PyObject *object, PyObject *method)
{
    PyObject *done = PyObject_CallMethodNoArgs(object, method);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
