"""An extension, built here, whose threads Python does not know: they wake for as long as they are
let, with no regard for what has become of the loop, the interpreter or the process."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from helpers import foreign_environment

import pyasync_c

EXTENSION = r"""
#include <pyasync_c.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* Of the process, not of an interpreter. */
enum { MOST = 1024 };
static struct { pthread_t thread; struct pyasync_c_waker waker; } jobs[MOST];
static atomic_int job_count, stopping;
static atomic_long wakes;

static void *
wake_on(void *data)
{
    struct pyasync_c_waker *waker = data;
    struct timespec pause = {0, 20000};
    while (!atomic_load(&stopping)) {
        struct pyasync_c_waker another = pyasync_c_waker_clone(waker);
        pyasync_c_waker_wake_by_ref(waker);
        pyasync_c_waker_wake(&another);
        atomic_fetch_add(&wakes, 2);
        nanosleep(&pause, NULL);
    }
    pyasync_c_waker_drop(waker);
    return NULL;
}

/* start(waker): a thread that wakes it for ever. */
static PyObject *
start(PyObject *module, PyObject *object)
{
    const struct pyasync_c_api *api = pyasync_c_import();
    int job = atomic_fetch_add(&job_count, 1);
    if (api == NULL || job >= MOST || api->waker_from_object(object, &jobs[job].waker) < 0) {
        return NULL;
    }
    pthread_create(&jobs[job].thread, NULL, wake_on, &jobs[job].waker);
    Py_RETURN_NONE;
}

/* stop() -> how often they have woken. */
static PyObject *
stop(PyObject *module, PyObject *ignored)
{
    int count = atomic_load(&job_count);
    atomic_store(&stopping, 1);
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < count; i++) {
        pthread_join(jobs[i].thread, NULL);
    }
    Py_END_ALLOW_THREADS
    atomic_store(&job_count, 0);
    atomic_store(&stopping, 0);
    return PyLong_FromLong(atomic_load(&wakes));
}

static PyObject *
count_wakes(PyObject *module, PyObject *ignored)
{
    return PyLong_FromLong(atomic_load(&wakes));
}

static PyMethodDef methods[] = {
    {"start", start, METH_O, NULL},
    {"stop", stop, METH_NOARGS, NULL},
    {"wakes", count_wakes, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pac_foreign", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_pac_foreign(void)
{
    return PyModuleDef_Init(&definition);
}
"""


@pytest.fixture(scope="session")
def foreign_threads(tmp_path_factory):
    """The folder of the module pac_foreign: start(waker), stop(), wakes()."""
    if shutil.which("cc") is None:
        pytest.skip("there is no cc here")
    folder = tmp_path_factory.mktemp("foreign")
    source = folder / "pac_foreign.c"
    source.write_text(EXTENSION)
    built = folder / f"pac_foreign{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [
        *("cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
        *("-Wno-missing-field-initializers", "-shared", "-fPIC", "-pthread"),
        *("-isystem", sysconfig.get_path("include"), "-I", pyasync_c.get_include()),
        *(source, "-o", built),
    ]
    subprocess.run(command, check=True, env=foreign_environment())
    return Path(folder)


def with_path(folder):
    """The head of a program that imports pac_foreign from there."""
    return f"import sys; sys.path.insert(0, {str(folder)!r})\n"


__all__ = ["foreign_threads", "with_path"]
