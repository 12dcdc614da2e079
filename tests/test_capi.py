"""The C API: an extension, built here, wakes from threads without the GIL."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import pyasync_c

EXTENSION = r"""
#include <pyasync_c.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static const struct pyasync_c_api *api;

struct job { struct pyasync_c_waker waker; int times; int keep; };

static void *
wake_later(void *data)
{
    struct job *job = (struct job *)data;
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
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

/* wake_from_thread(waker, times): a thread of its own, that Python does not know. */
static PyObject *
wake_from_thread(PyObject *module, PyObject *args)
{
    PyObject *object;
    int times;
    if (!PyArg_ParseTuple(args, "Oi", &object, &times)) return NULL;
    struct job *job = (struct job *)malloc(sizeof *job);
    if (api->waker_from_object(object, &job->waker) < 0) { free(job); return NULL; }
    job->times = times;
    pthread_t thread;
    pthread_create(&thread, NULL, wake_later, job);
    pthread_detach(thread);
    Py_RETURN_NONE;
}

static PyObject *
round_trip(PyObject *module, PyObject *object)
{
    struct pyasync_c_waker waker;
    if (api->waker_from_object(object, &waker) < 0) return NULL;
    PyObject *back = api->waker_to_object(&waker);
    pyasync_c_waker_drop(&waker);
    return back;
}

static PyMethodDef methods[] = {
    {"wake_from_thread", wake_from_thread, METH_VARARGS, NULL},
    {"round_trip", round_trip, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "capi_client", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_capi_client(void)
{
    api = pyasync_c_import();
    return api == NULL ? NULL : PyModule_Create(&definition);
}
"""

LANGUAGES = {"c": ("cc", "-std=c11"), "cpp": ("c++", "-std=c++11")}


@pytest.fixture(scope="module", params=LANGUAGES)
def client(request, tmp_path_factory):
    compiler, standard = LANGUAGES[request.param]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    folder = tmp_path_factory.mktemp("capi")
    source = folder / f"capi_client.{request.param}"
    source.write_text(EXTENSION)
    built = folder / f"capi_client{sysconfig.get_config_var('EXT_SUFFIX')}"
    python_include = sysconfig.get_path("include")
    subprocess.run(
        [
            *(compiler, standard, "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
            *("-Wno-missing-field-initializers", "-shared", "-fPIC", "-pthread"),
            *("-isystem", python_include, "-I", pyasync_c.get_include(), source, "-o", built),
        ],
        check=True,
    )
    spec = importlib.util.spec_from_file_location("capi_client", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_header_is_installed():
    assert (Path(pyasync_c.get_include()) / "pyasync_c.h").is_file()


def test_a_thread_that_python_does_not_know_wakes_a_task(client):
    class FromThread(pyasync_c.Future):
        polls = 0

        def poll(self, cx):
            self.polls += 1
            if self.polls > 1:
                return "woken"
            client.wake_from_thread(cx.waker, 1)
            return pyasync_c.PENDING

    async def main():
        return [await FromThread() for _ in range(20)]

    assert pyasync_c.run(main()) == ["woken"] * 20


def test_many_wakes_from_threads_without_the_gil(client):
    woken = []

    async def main():
        notify = pyasync_c.Notify()

        def wake():
            woken.append(1)
            notify.notify_one()

        for _ in range(50):
            client.wake_from_thread(pyasync_c.Waker(wake), 3)
        while len(woken) < 150:
            await notify.notified()

    pyasync_c.run(main())
    assert len(woken) == 150


def test_wake_after_the_runtime_has_closed(client):
    kept = []

    def poll(cx):
        kept.append(cx.waker.clone())
        return 1

    async def main():
        await pyasync_c.poll_fn(poll)

    pyasync_c.run(main())
    client.wake_from_thread(kept[0], 5)
    kept.clear()

    async def later():
        await pyasync_c.sleep(0.02)

    pyasync_c.run(later())


def test_round_trip_is_the_same_waker(client):
    waker = pyasync_c.Waker(lambda: None)
    assert client.round_trip(waker).will_wake(waker)


@pytest.mark.parametrize("wrong", [None, 1, "x", object()])
def test_not_a_waker(client, wrong):
    with pytest.raises(TypeError, match="Waker is required"):
        client.wake_from_thread(wrong, 1)
