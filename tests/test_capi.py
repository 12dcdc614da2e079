"""The C API: an extension over the whole of pyasync_c.h, built here in C and in C++.

tests/capi/client.c is that extension. Handles of promises are ints in it, so that a test may hold,
complete and release them as it likes.
"""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from helpers import collect, every_loop, foreign_environment, open_fds, turns, unraisable

import pyasync_c

OK, ALREADY, CANCELLED, MISUSE = 0, 1, 2, -1
INT, BARE, RAISES, NOTHING, BOTH, STOP, OBJECT, HOLDS, NO_CONVERT, NO_NAME, WRONG_SIZE = range(11)
READABLE, WRITABLE = 1, 2

SOURCE = Path(__file__).parent / "capi" / "client.c"
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
LANGUAGES = {
    "c": ["cc", "-std=c11"],
    "cpp": ["c++", "-std=c++11", "-x", "c++", "-Wno-missing-field-initializers"],
}
DEBUG_BUILD = os.environ.get("PAC_DEBUG", "") not in ("", "0")


def build(source, folder, language="c", more=()):
    """The extension `source`, as a file in `folder`."""
    compiler = LANGUAGES[language]
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"there is no {compiler[0]} here")
    sanitizers = os.environ.get("PAC_SANITIZE", "")
    flags = [f"-fsanitize={sanitizers}", "-g"] if sanitizers else []
    built = folder / f"{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = ["-isystem", sysconfig.get_path("include"), "-I", pyasync_c.get_include()]
    command = [
        *compiler,
        *WARNINGS,
        *flags,
        "-O1",
        "-shared",
        "-fPIC",
        "-pthread",
        *include,
        source,
    ]
    subprocess.run([*command, "-o", built, *more], check=True, env=foreign_environment())
    return built


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source = tmp_path_factory.mktemp("capi") / "capi_client.c"
    shutil.copy(SOURCE, source)
    return build(source, source.parent)


@pytest.fixture(scope="module", params=LANGUAGES)
def client(request, tmp_path_factory):
    source = tmp_path_factory.mktemp("capi") / "capi_client.c"
    shutil.copy(SOURCE, source)
    return load("capi_client", build(source, source.parent, request.param))


def come_by(client):
    """What threads without the GIL have released is finalized when the next promise is made."""
    client.release(client.promise(BARE)[1])


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """Every promise of a test has been finalized when it ends."""
    client = request.getfixturevalue("client") if "client" in request.fixturenames else None
    if client is not None:
        client.take_counts()
        client.take_drops()
    yield
    deadline = time.monotonic() + 30
    while client is not None and client.how_many_alive() > 0:
        assert time.monotonic() < deadline, "a promise was never finalized"
        collect()
        come_by(client)
        time.sleep(0.001)


# ---- the header


def test_the_header_is_installed():
    assert (Path(pyasync_c.get_include()) / "pyasync_c.h").is_file()


@pytest.mark.parametrize(
    "compiler",
    [
        ["gcc", "-std=c11"],
        ["clang", "-std=c11"],
        ["g++", "-std=c++11", "-x", "c++"],
        ["g++", "-std=c++17", "-x", "c++"],
        ["clang++", "-std=c++17", "-x", "c++"],
    ],
    ids=lambda c: "-".join(c[:2]),
)
def test_the_header_compiles_without_a_warning(compiler, tmp_path):
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"there is no {compiler[0]} here")
    source = tmp_path / "only.c"
    source.write_text("#include <pyasync_c.h>\n#include <pyasync_c.h>\nint use(void);\n")
    include = ["-isystem", sysconfig.get_path("include"), "-I", pyasync_c.get_include()]
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    subprocess.run([*compiler, *strict, "-fsyntax-only", *include, source], check=True)


def test_the_example_at_its_top_works(tmp_path):
    """It is compiled as it stands there."""
    text = (Path(pyasync_c.get_include()) / "pyasync_c.h").read_text()
    begin = text.index(" *     #include <pyasync_c.h>")
    end = text.index(" * What it works with")
    example = "\n".join(line[7:] for line in text[begin:end].splitlines())
    source = tmp_path / "deep_thought.c"
    source.write_text(
        example
        + """
        static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, NULL},
                                        {NULL, NULL, 0, NULL}};
        static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "deep_thought", NULL, -1,
                                                methods, NULL, NULL, NULL, NULL};
        PyMODINIT_FUNC PyInit_deep_thought(void)
        {
            api = pyasync_c_import();
            return api == NULL ? NULL : PyModule_Create(&definition);
        }
        """
    )
    module = load("deep_thought", build(source, tmp_path))

    async def main():
        return await module.answer()

    assert pyasync_c.run(main()) == 42
    assert asyncio.run(main()) == 42


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("-DPYASYNC_C_API_VERSION=2", "version 1, but this extension was built for version 2"),
        ("-DPRETEND_LARGER", "older than the one that this extension was built with"),
    ],
)
def test_another_version_is_refused(tmp_path, change, message):
    text = (Path(pyasync_c.get_include()) / "pyasync_c.h").read_text()
    text = text.replace("#define PYASYNC_C_API_VERSION 1", "#ifndef PYASYNC_C_API_VERSION\n"
                        "#define PYASYNC_C_API_VERSION 1\n#endif")  # fmt: skip
    text = text.replace(
        "    PyObject *(*io_wait)(",
        "#ifdef PRETEND_LARGER\nvoid *more;\n#endif\nPyObject *(*io_wait)(",
    )
    source = tmp_path / "later.c"
    source.write_text(
        text
        + """
        static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "later", NULL, -1,
                                                NULL, NULL, NULL, NULL, NULL};
        PyMODINIT_FUNC PyInit_later(void)
        {
            return pyasync_c_import() == NULL ? NULL : PyModule_Create(&definition);
        }
        """
    )
    with pytest.raises(ImportError, match=message):
        load("later", build(source, tmp_path, more=[change]))


# ---- wakers


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


@pytest.mark.parametrize("which", range(6))
def test_a_vtable_with_a_null_in_it(client, which):
    with pytest.raises(ValueError, match="vtable is NULL" if 0 < which < 5 else "slot is empty"):
        client.bad_waker(which)


# ---- promises: completing


@every_loop
def test_completed_before_the_await(client, run):
    async def main():
        awaitable, handle = client.promise()
        assert repr(awaitable) == "<client.Int pending>"
        assert not client.is_over(handle)
        assert client.complete(handle, 7) == OK
        assert client.is_over(handle)
        assert repr(awaitable) == "<client.Int complete>"
        assert await awaitable == 7
        assert repr(awaitable) == "<client.Int over>"
        assert client.take_counts() == {"convert": 1, "destroy": 1}
        client.release(handle)
        assert client.take_counts() == {"finalize": 1}

    run(main())


@every_loop
@pytest.mark.parametrize("fails", [False, True])
def test_completed_by_a_thread_while_it_is_awaited(client, run, fails):
    async def one():
        awaitable, handle = client.promise()
        client.from_thread([handle], fails=fails, delay_us=2000)
        return await awaitable

    async def main():
        results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
        if fails:
            assert [repr(r) for r in results] == ["LookupError('error 0')"] * 20
        else:
            assert results == [0] * 20
        # A thread may have been a moment late with its release.
        await asyncio.sleep(0.02)
        come_by(client)
        counts = client.take_counts()
        word = "set_error" if fails else "convert"
        assert counts == {word: 20, "destroy_error" if fails else "destroy": 20, "finalize": 20}

    run(main())


@every_loop
def test_many_threads_and_many_promises(client, run):
    async def main():
        made = [[client.promise() for _ in range(100)] for _ in range(8)]
        for part in made:
            client.from_thread([handle for _, handle in part], between_us=20)
        for part in made:
            assert [await awaitable for awaitable, _ in part] == list(range(100))

    run(main())


def test_the_second_time_is_reported(client):
    async def main():
        awaitable, handle = client.promise()
        assert client.complete(handle, 1) == OK
        assert client.complete(handle, 2) == ALREADY
        assert client.fail(handle, 3) == ALREADY
        assert await awaitable == 1
        assert client.complete(handle, 4) == ALREADY
        client.release(handle)
        assert client.take_counts() == {"convert": 1, "destroy": 1, "finalize": 1}

    pyasync_c.run(main())


def test_an_error_is_what_the_await_raises(client):
    async def main():
        awaitable, handle = client.promise()
        assert client.fail(handle, 5) == OK
        client.release(handle)
        with pytest.raises(LookupError, match="error 5"):
            await awaitable
        assert client.take_counts() == {"set_error": 1, "destroy_error": 1, "finalize": 1}

    pyasync_c.run(main())


def test_without_set_error_there_is_no_failing(client):
    async def main():
        awaitable, handle = client.promise(BARE)
        assert client.fail(handle, 5) == MISUSE
        assert client.complete(handle, -3) == OK
        client.release(handle)
        assert await awaitable == -3

    pyasync_c.run(main())


@every_loop
def test_a_value_that_is_an_object(client, run):
    value = object()
    before = sys.getrefcount(value)

    async def main():
        awaitable, handle = client.promise(OBJECT)
        assert client.complete_with(handle, value) == OK
        client.release(handle)
        assert await awaitable is value

    run(main())
    assert sys.getrefcount(value) == before


def test_handles_are_counted(client):
    async def main():
        awaitable, handle = client.promise()
        assert client.ref(handle) == handle
        client.release(handle)
        assert client.complete(handle, 1) == OK
        client.release(handle)
        assert await awaitable == 1
        assert client.take_counts()["finalize"] == 1

    pyasync_c.run(main())


@every_loop
def test_nobody_completes_it(client, run):
    async def main():
        awaitable, handle = client.promise()
        task = pyasync_c.spawn(awaitable)
        await turns()
        assert not task.done()
        client.release(handle)
        with pytest.raises(RuntimeError, match="client.Int: its handles were released without"):
            await task
        awaitable, handle = client.promise()
        client.release(handle)
        assert repr(awaitable) == "<client.Int broken>"
        with pytest.raises(RuntimeError, match="client.Int: its handles were released without"):
            await awaitable
        assert client.take_counts() == {"finalize": 2}

    run(main())


@every_loop
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (RAISES, ValueError, "cannot be converted"),
        (NOTHING, SystemError, "client.Nothing: convert returned NULL without an exception"),
        (BOTH, SystemError, "client.Both: convert returned a result with an exception set"),
        (STOP, RuntimeError, "StopIteration"),
    ],
)
def test_a_value_that_fails_to_convert(client, run, kind, error, message):
    async def main():
        awaitable, handle = client.promise(kind)
        client.complete(handle, 1)
        client.release(handle)
        with pytest.raises(error, match=message):
            await awaitable

    run(main())
    counts = client.take_counts()
    assert counts == ({"convert": 1, "destroy": 1, "finalize": 1} if kind == RAISES else {})


def test_a_set_error_that_sets_none(client):
    async def main():
        awaitable, handle = client.promise(RAISES)
        client.fail(handle, 1)
        client.release(handle)
        with pytest.raises(SystemError, match="client.Raises: set_error set no exception"):
            await awaitable

    pyasync_c.run(main())


def test_awaited_a_second_time(client):
    async def main():
        awaitable, handle = client.promise()
        client.complete(handle, 1)
        client.release(handle)
        assert await awaitable == 1
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await awaitable

    pyasync_c.run(main())


def test_polled_by_hand_and_by_threads_that_wait(client):
    awaitable, handle = client.promise()
    future = pyasync_c.into_future(awaitable)
    woken = []
    waker = pyasync_c.Waker(lambda: woken.append(1))
    assert future.poll(pyasync_c.Context(waker)) is pyasync_c.PENDING
    client.complete(handle, 3)
    assert woken == [1]
    assert future.poll(pyasync_c.Context(waker)) == 3
    client.release(handle)


# ---- batches


def test_a_batch_wakes_a_sleeping_loop_once(client):
    """One unpark for two hundred tasks, which test_wake_group.c counts. Seen from here: it hardly
    sleeps in between, as it does when they are completed one by one. On a busy machine a loop is
    woken for something else, or sleeps less as it comes late: the best of a few rounds counts."""

    async def main(runtime, grouped):
        made = [client.promise() for _ in range(200)]
        tasks = [pyasync_c.spawn(awaitable) for awaitable, _ in made]
        await turns()
        before = runtime.metrics().parks
        client.from_thread(
            [handle for _, handle in made], grouped=grouped, delay_us=5000, between_us=100
        )
        assert [await task for task in tasks] == list(range(200))
        return runtime.metrics().parks - before

    with pyasync_c.Runtime() as runtime:
        together = min(runtime.run(main(runtime, True)) for _ in range(5))
        assert together <= 3
        assert max(runtime.run(main(runtime, False)) for _ in range(5)) > together + 2


@every_loop
def test_a_batch_on_each_loop(client, run):
    async def main():
        for fails in (False, True):
            made = [client.promise() for _ in range(50)]
            client.from_thread([handle for _, handle in made], grouped=True, fails=fails)
            results = await asyncio.gather(*(a for a, _ in made), return_exceptions=True)
            assert [str(r) for r in results] == [
                f"error {i}" if fails else str(i) for i in range(50)
            ]

    run(main())


def test_a_batch_for_loops_on_several_threads(client):
    loops, handles, failures = 7, [], []
    ready = threading.Barrier(loops + 1)

    def serve():
        async def main():
            made = [client.promise() for _ in range(10)]
            handles.extend(handle for _, handle in made)
            tasks = [pyasync_c.spawn(awaitable) for awaitable, _ in made]
            await turns()
            ready.wait()
            for task in tasks:
                await task

        try:
            pyasync_c.run(main())
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=serve) for _ in range(loops)]
    for thread in threads:
        thread.start()
    ready.wait()
    client.from_thread(handles, grouped=True, delay_us=5000)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


# ---- cancellation


@every_loop
@pytest.mark.parametrize("how", ["cancel", "close", "drop", "never", "select", "timeout"])
def test_the_extension_is_told_once_that_nobody_waits(client, run, how):
    said = []

    async def main():
        awaitable, handle = client.promise(INT, said.append)
        if how == "cancel":
            task = pyasync_c.spawn(awaitable)
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        elif how == "close":
            awaitable.close()
        elif how == "drop":
            awaitable.drop()
        elif how == "select":
            assert (await pyasync_c.select(awaitable, pyasync_c.ready(1)))[0] == 1
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await awaitable
        if how in ("never", "drop", "timeout", "cancel"):
            del awaitable
            collect()
        assert said == ["cancelled"]
        assert client.is_over(handle)
        assert client.complete(handle, 1) == CANCELLED
        assert client.fail(handle, 1) == CANCELLED
        client.release(handle)
        assert said == ["cancelled", "finalize"]

    run(main())
    collect()
    assert client.take_counts() == {"cancelled": 1, "finalize": 1}


def test_what_was_cancelled_cannot_be_awaited_again(client):
    async def main():
        awaitable, handle = client.promise()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await awaitable
        with pytest.raises(RuntimeError, match="client.Int: it was cancelled"):
            await awaitable
        client.release(handle)

    pyasync_c.run(main())


def test_a_value_that_nobody_fetches_is_destroyed(client):
    awaitable, handle = client.promise()
    assert client.complete(handle, 1) == OK
    client.release(handle)
    del awaitable
    assert client.take_counts() == {"destroy": 1, "finalize": 1}
    awaitable, handle = client.promise()
    assert client.fail(handle, 1) == OK
    del awaitable
    client.release(handle)
    assert client.take_counts() == {"destroy_error": 1, "finalize": 1}


@every_loop
def test_cancelling_against_completing(client, run):
    """Of each: either it was accepted and destroyed, or it was cancelled, and never both."""

    async def race():
        total = 300
        made = [client.promise() for _ in range(total)]
        tasks = [pyasync_c.spawn(awaitable) for awaitable, _ in made]
        handles = [handle for _, handle in made]
        del made
        await turns()
        client.from_thread(handles, between_us=1)
        for task in reversed(tasks):
            task.cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        del tasks
        deadline = time.monotonic() + 30
        counts = client.take_counts()
        while counts.get("finalize", 0) < total and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
            come_by(client)
            for name, n in client.take_counts().items():
                counts[name] = counts.get(name, 0) + n
        assert counts["finalize"] == total
        assert counts.get("destroy", 0) + counts.get("cancelled", 0) == total
        assert sum(not isinstance(r, asyncio.CancelledError) for r in results) == counts.get(
            "convert", 0
        )

    run(race())


@every_loop
@pytest.mark.parametrize("when", ["closed", "collected"])
def test_the_loop_goes_first(client, run, when):
    said = []
    handles = []

    async def main():
        awaitable, handle = client.promise(INT, said.append)
        handles.append(handle)
        pyasync_c.spawn(awaitable)
        await turns()

    run(main())
    collect()
    assert said == ["cancelled"]
    client.from_thread(handles, grouped=when == "closed")
    deadline = time.monotonic() + 30
    while said == ["cancelled"] and time.monotonic() < deadline:
        time.sleep(0.001)
        come_by(client)
    assert said == ["cancelled", "finalize"]


def test_an_abandoned_loop_that_nobody_closed(client):
    said = []
    loop = pyasync_c.new_event_loop()

    async def wait(awaitable):
        await awaitable

    awaitable, handle = client.promise(INT, said.append)
    task = loop.create_task(wait(awaitable))
    loop.run_until_complete(turns())
    del awaitable
    with unraisable(), pytest.warns(ResourceWarning):
        del loop, task
        collect()
    assert said == ["cancelled"]
    client.from_thread([handle])


def test_callbacks_that_raise_are_printed(client):
    def fail(what):
        raise ZeroDivisionError(what)

    awaitable, handle = client.promise(INT, fail)
    with unraisable() as seen:
        del awaitable
        client.release(handle)
    assert [str(error) for error in seen] == ["cancelled", "finalize"]


def test_callbacks_that_use_the_api(client):
    """cancelled completes it (in vain) and releases it; finalize makes another one."""
    said = []

    async def main():
        def call(what):
            if what == "cancelled":
                said.append(client.complete(handle, 1))
                client.release(handle)
            else:
                said.append(client.promise(BARE))

        awaitable, handle = client.promise(INT, call)
        del awaitable
        assert said[0] == CANCELLED
        other, its_handle = said[1]
        client.complete(its_handle, 9)
        client.release(its_handle)
        assert await other == 9

    pyasync_c.run(main())


def test_a_release_without_the_gil_is_finalized_by_the_next_promise(client):
    said = []
    awaitable, handle = client.promise(INT, said.append)
    del awaitable
    client.from_thread([handle])
    deadline = time.monotonic() + 30
    while said != ["cancelled", "finalize"] and time.monotonic() < deadline:
        time.sleep(0.001)
        come_by(client)
    assert said == ["cancelled", "finalize"]


# ---- futures in C


@every_loop
def test_a_future_in_c(client, run):
    async def main():
        assert await client.countdown(0) == -1
        assert await client.countdown(500) == -1
        assert await client.countdown(3, False, 1, 1) is None
        assert (await pyasync_c.join(client.countdown(2), client.countdown(5))) == (-1, -1)

    run(main())
    assert client.take_drops() == 5


@every_loop
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2, True, -1), OSError, "the end of the countdown"),
        ((2, True, 1), OSError, "the end of the countdown"),
        ((2, True, 0), OSError, "the end of the countdown"),
        ((2, False, -1), SystemError, "poll returned -1 without an exception"),
        ((2, False, 7), SystemError, "poll returned 7 without an exception"),
        ((2, False, 1, 2), SystemError, "result returned NULL without an exception"),
        ((2, False, 1, 3), SystemError, "result returned a result with an exception set"),
    ],
)
def test_a_future_in_c_that_fails(client, run, arguments, error, message):
    async def main():
        with pytest.raises(error, match=message):
            await client.countdown(*arguments)

    run(main())
    assert client.take_drops() == 1


@every_loop
def test_a_future_in_c_is_dropped_once(client, run):
    async def main():
        client.countdown(1)
        future = client.countdown(10**9)
        task = pyasync_c.spawn(future)
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.take_drops() == 2
        with pytest.raises(RuntimeError, match="was cancelled"):
            await future
        pyasync_c.spawn(client.countdown(10**9))
        await turns()

    run(main())
    collect()
    assert client.take_drops() == 1


@pytest.mark.parametrize(
    ("which", "message"), [(0, "poll is"), (1, "drop is"), (-1, "vtable is"), (2, "future is")]
)
def test_half_a_future(client, which, message):
    with pytest.raises(ValueError, match=f"{message} NULL"):
        client.half_future(which)


# ---- timers


@every_loop
def test_a_delay_in_a_future_in_c(client, run):
    async def main():
        begin = time.monotonic_ns()
        await client.nap(0.002, 3)
        assert time.monotonic_ns() - begin >= 6_000_000
        task = pyasync_c.spawn(client.nap(1000, 1))
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    assert client.take_drops() == 2


def test_delays_are_on_the_virtual_clock(client):
    async def main():
        await client.nap(1000, 5)
        return client.now_ns()

    begin = time.monotonic()
    with pyasync_c.Runtime(clock="virtual") as runtime:
        assert runtime.run(main()) == 5 * 10**12
    assert time.monotonic() - begin < 60
    assert abs(client.now_ns() - time.monotonic_ns()) < 10**9


def test_a_promise_that_holds_the_virtual_clock(client):
    async def main():
        sleeper = pyasync_c.spawn(pyasync_c.sleep(1000))
        for _ in range(3):
            awaitable, handle = client.promise(HOLDS)
            client.from_thread([handle], delay_us=5000)
            async with asyncio.timeout(1):
                assert await awaitable == 0
            assert client.now_ns() == 0
        # Given up: it does not hold the clock any more.
        awaitable, handle = client.promise(HOLDS)
        await pyasync_c.select(awaitable, pyasync_c.yield_now())
        await sleeper
        client.release(handle)
        # And one that does not lets it go on.
        awaitable, handle = client.promise(BARE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10**6):
                await awaitable
        client.release(handle)

    with pyasync_c.Runtime(clock="virtual") as runtime:
        runtime.run(main())


def test_a_delay_outside_of_a_loop(client):
    future = client.nap(1, 1)
    with pytest.raises(RuntimeError, match="delay: -3"):
        future.poll(pyasync_c.Context(pyasync_c.noop_waker()))


# ---- spawning


@every_loop
def test_spawned_from_c(client, run):
    async def work(what):
        await pyasync_c.sleep(0.001)
        if what is None:
            raise KeyError("no")
        return what

    async def main():
        said = []
        task = client.spawn(work(5), lambda *args: said.append(args))
        assert isinstance(task, asyncio.Task)
        other = client.spawn(work(None), lambda *args: said.append(args))
        third = client.spawn(work(1), lambda *args: said.append(args))
        third.cancel()
        client.spawn(pyasync_c.sleep(0.002, "slept"), lambda *args: said.append(args))
        while len(said) < 4:
            await asyncio.sleep(0.001)
        assert ("ok", 5) in said and ("ok", "slept") in said
        assert {name for name, _ in said} == {
            "ok",
            "KeyError",
            "asyncio.exceptions.CancelledError",
        } or {name.rpartition(".")[2] for name, _ in said} == {"ok", "KeyError", "CancelledError"}
        assert await task == 5 and isinstance(other.exception(), KeyError)

    run(main())


def test_spawned_and_the_loop_goes(client):
    said = []
    loop = pyasync_c.new_event_loop()

    async def begin():
        client.spawn(pyasync_c.pending(), lambda *args: said.append(args))

    loop.run_until_complete(begin())
    loop.close()
    del loop
    collect()
    assert [name for name, _ in said] in (["RuntimeError"], ["asyncio.exceptions.CancelledError"])


def test_spawn_without_a_loop_or_an_awaitable(client):
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.spawn(pyasync_c.ready(1), print)
    with pytest.raises(ValueError, match="the awaitable is NULL"):
        client.spawn_nothing(None)
    with pytest.raises(ValueError, match="done is NULL"):
        client.spawn_nothing(1)

    async def main():
        with pytest.raises(TypeError):
            client.spawn(5, print)

    pyasync_c.run(main())


def test_a_done_that_raises_is_printed(client):
    def fail(*args):
        raise ZeroDivisionError("done")

    async def fails():
        raise KeyError("its own, which nobody has to fetch")

    async def main():
        await client.spawn(pyasync_c.ready(1), fail)
        with pytest.raises(KeyError):
            await client.spawn(fails(), fail)
        await turns()

    with unraisable() as seen:
        pyasync_c.run(main())
    assert [str(error) for error in seen] == ["done", "done"]


# ---- descriptors


@every_loop
def test_a_descriptor_is_read_by_a_future_in_c(client, run):
    async def main():
        fds = os.pipe()
        os.set_blocking(fds[0], False)
        task = pyasync_c.spawn(client.reader(fds[0]))
        sent = b""
        for i in range(20):
            piece = bytes([i]) * (i * 50)
            await asyncio.sleep(0.0005 if i % 4 == 0 else 0)
            os.write(fds[1], piece)
            sent += piece
        os.close(fds[1])
        assert await task == sent
        os.close(fds[0])

    before = open_fds()
    run(main())
    collect()
    assert open_fds() <= before
    assert client.take_drops() == 1


@every_loop
def test_any_number_wait_for_a_descriptor(client, run):
    async def main():
        fds = os.pipe()
        for fd in fds:
            os.set_blocking(fd, False)
        io = client.io_open(fds[0])
        assert client.io_blocked(io, READABLE) == 0
        tasks = [pyasync_c.spawn(client.io_wait(io, READABLE)) for _ in range(40)]
        cancelled = tasks.pop()
        await turns()
        cancelled.cancel()
        assert not any(task.done() for task in tasks)
        os.write(fds[1], b"x")
        assert await asyncio.gather(*tasks) == [None] * 39
        assert os.read(fds[0], 10) == b"x"
        assert client.io_blocked(io, READABLE) == 0
        task = pyasync_c.spawn(client.io_wait(io, READABLE))
        await turns()
        client.io_close(io)
        assert await task is None
        for fd in fds:
            os.close(fd)

    run(main())


def test_a_descriptor_of_another_loop(client):
    fds = os.pipe()
    os.set_blocking(fds[0], False)

    async def begin():
        io = client.io_open(fds[0])
        assert client.io_blocked(io, READABLE) == 0
        return io, client.io_wait(io, READABLE)

    async def elsewhere(waiting):
        with pytest.raises(RuntimeError, match="watched by another event loop"):
            await waiting

    loop = pyasync_c.new_event_loop()
    io, waiting = loop.run_until_complete(begin())
    pyasync_c.run(elsewhere(waiting))
    waiting = client.io_wait(io, READABLE)
    loop.close()
    assert client.io_blocked(io, READABLE) == -1
    client.io_close(io)
    del waiting
    for fd in fds:
        os.close(fd)


def test_descriptors_that_are_refused(client, tmp_path):
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.io_open(0)

    async def main():
        with pytest.raises(OSError):
            client.io_open(10**6)
        with open(tmp_path / "file", "w") as file, pytest.raises(PermissionError):
            client.io_open(file.fileno())
        fds = os.pipe()
        io = client.io_open(fds[0])
        with pytest.raises(FileExistsError):
            client.io_open(fds[0])
        for interest in (0, 4, -1):
            with pytest.raises(ValueError, match="no such interest"):
                client.io_wait(io, interest)
        client.io_close(io)
        with pytest.raises(ValueError, match="the record is NULL"):
            client.io_wait(0, READABLE)
        for fd in fds:
            os.close(fd)

    pyasync_c.run(main())


# ---- misuse


def test_null_is_refused_everywhere(client):
    assert client.null_arguments() == (MISUSE, MISUSE, 1, True, -1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NO_CONVERT, "convert is NULL"),
        (NO_NAME, "name is NULL"),
        (WRONG_SIZE, "size is not that of the struct"),
        (-1, "the type is NULL"),
    ],
)
def test_a_type_that_is_refused(client, kind, message):
    data = []
    before = sys.getrefcount(data)
    with pytest.raises(ValueError, match=f"pyasync_c_promise_type: {message}"):
        client.promise(kind, data)
    assert sys.getrefcount(data) == before


@pytest.mark.skipif(not DEBUG_BUILD, reason="only a PAC_DEBUG build notices")
def test_a_debug_build_notices(client, capfd):
    awaitable, handle = client.promise()
    del awaitable
    client.release(handle)
    assert client.complete(handle, 1) == MISUSE
    client.release(handle)
    assert client.is_over(handle)
    assert client.ref(handle) == 0
    assert client.new_from_thread() == 1
    said = capfd.readouterr().err
    for name in ("promise_complete", "promise_release", "promise_is_over", "promise_ref"):
        assert f"pyasync_c: {name}: this handle was released" in said
    assert "pyasync_c: promise_new was called without the GIL" in said


# ---- the end of things: programs of their own


def program(built, text, code=0):
    """Run `text` with the extension as `client`; nothing may be said on stderr."""
    begin = f"""if True:
        import asyncio, gc, importlib.util, os, sys, threading, time
        import pyasync_c, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads
        def load():
            spec = importlib.util.spec_from_file_location("capi_client", {str(built)!r})
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        client = load()
    """
    done = subprocess.run(
        [sys.executable, "-c", begin + text], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


@pytest.mark.parametrize("state", ["awaited", "kept", "dropped", "closed"])
@pytest.mark.parametrize("runner", ["pyasync_c.run", "asyncio.run"])
def test_threads_that_complete_while_the_interpreter_ends(built, state, runner):
    """The threads are at it before, during and after Py_Finalize: main leaves at some moment."""
    text = f"""
        state = {state!r}
        kept = []
        async def main():
            for delay in range(0, 30000, 1000):
                made = [client.promise() for _ in range(20)]
                if state == "kept":
                    kept.extend(a for a, _ in made)
                elif state == "awaited":
                    kept.extend(pyasync_c.spawn(a) for a, _ in made)
                del made[0]
                client.from_thread([h for _, h in made], delay_us=delay, between_us=100,
                                   grouped=delay % 2000 == 0)
            await asyncio.sleep(0.005)
        if state == "closed":
            {runner}(main())
        else:
            ours = {runner!r} == "pyasync_c.run"
            loop = pyasync_c.new_event_loop() if ours else asyncio.new_event_loop()
            loop.run_until_complete(main())
            if state != "awaited":
                loop.close()
            else:
                sys.unraisablehook = lambda _: None
                sys.stderr = open(os.devnull, "w")  # tasks that were destroyed pending say so
    """
    program(built, text)


def test_complete_after_fork(built):
    text = """
        async def main():
            awaitable, handle = client.promise()
            waiting = pyasync_c.spawn(awaitable)
            await asyncio.sleep(0.001)
            pid = os.fork()
            if pid == 0:
                # The parent's promise can be completed, which nobody awaits here, and released.
                client.complete(handle, 5)
                client.release(handle)
                os._exit(child())
            client.from_thread([handle], delay_us=1000)
            assert await waiting == 0
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
        def child():
            async def anew():
                awaitable, handle = client.promise()
                client.from_thread([handle], delay_us=1000)
                assert await awaitable == 0
            answers = []
            thread = threading.Thread(target=lambda: answers.append(pyasync_c.run(anew())))
            thread.start()
            thread.join()
            return 0 if answers == [None] else 3
        pyasync_c.run(main())
    """
    program(built, text)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="isolated interpreters are 3.12's")
def test_in_sub_interpreters(built):
    text = f"""
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        inside = '''if True:
            import importlib.util, asyncio
            import pyasync_c
            spec = importlib.util.spec_from_file_location("capi_client", {str(built)!r})
            client = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(client)
            async def main(run):
                made = [client.promise() for _ in range(20)]
                client.from_thread([h for _, h in made], delay_us=1000, grouped=True)
                assert [await a for a, _ in made] == list(range(20))
                assert await client.countdown(3) == -1
                await client.nap(0.001, 1)
                kept.append(client.promise())
                client.from_thread([kept[-1][1]], delay_us=20000)
            kept = []
            pyasync_c.run(main(pyasync_c.run))
            asyncio.run(main(asyncio.run))
        '''
        for _ in range(10):
            made = interpreters.create()
            said = interpreters.run_string(made, inside)
            assert said is None, said
            interpreters.destroy(made)
        time.sleep(0.05)
        async def main():
            awaitable, handle = client.promise()
            client.from_thread([handle])
            assert await awaitable == 0
        pyasync_c.run(main())
        if sys.version_info[:2] == (3, 12):
            os._exit(0)  # 3.12.1 aborts at its end once ssl was imported in other interpreters
    """
    program(built, text)


def test_out_of_memory(built):
    """Each allocation of making, completing and awaiting fails once: MemoryError, and no leak."""
    pytest.importorskip("_testcapi")
    text = """
        import _testcapi
        async def one():
            made = client.promise()  # taken apart later: Python 3.11 may have no memory for that
            try:
                client.complete(made[1], 7)
            finally:
                client.release(made[1])
            seven = await made[0]
            await client.countdown(2)
            fds = os.pipe()
            try:
                io = client.io_open(fds[0])
                try:
                    await client.io_wait(io, 1)
                finally:
                    client.io_close(io)
            finally:
                os.close(fds[0])
                os.close(fds[1])
            return seven
        async def main():
            await one()
            n = failures = row = 0
            while row < 60:
                n += 1
                _testcapi.set_nomemory(n, n + 1)
                try:
                    result = await one()
                except MemoryError:
                    result = None
                finally:
                    _testcapi.remove_mem_hooks()
                row = row + 1 if result == 7 else 0
                failures += result is None
                assert result in (7, None)
            assert failures > 5, failures
            assert await one() == 7
            client.release(client.promise(1)[1])
            assert client.how_many_alive() == 0, client.how_many_alive()
        pyasync_c.run(main())
    """
    program(built, text)
