"""Frameworks that start the loop themselves: the lines of docs/asyncio.md, and anyio in depth.

Each program of that page is run as it stands there. Plugins of pytest run in a pytest of their own,
with its own configuration: they have no business in this one.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from helpers import collect, free_port, open_fds, turns, unraisable

import pyasync_c

PAGE = Path(__file__).parent.parent / "docs" / "asyncio.md"
LONG = 60  # seconds, for what has to come: never waited for in full
OURS = "<EventLoop running=True"


# ── the page ─────────────────────────────────────────────────────────────────────────────────


def listings():
    """Of each listing of the page: its section, its language and its text."""
    found = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for language, text in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
            found.append((heading, language, text))
    return found


LISTINGS = listings()
PROGRAMS = [
    pytest.param(
        text,
        id=f"{heading} {number}",
        marks=pytest.mark.skipif(
            sys.version_info < (3, int(needs[1]) if needs else 11), reason="for a newer Python"
        ),
    )
    for number, (heading, language, text) in enumerate(LISTINGS)
    if language == "python"
    and ((needs := re.match(r"# Python 3\.(\d+)\n", text)) or text.startswith("# every Python\n"))
]


def write_files(section, folder):
    """Write the section's listings that begin with a file name; its other listings."""
    rest = []
    for heading, _, text in LISTINGS:
        if heading == section:
            if named := re.match(r"# (\w+\.py)\n", text):
                (folder / named[1]).write_text(text)
            else:
                rest.append(text)
    return rest


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            pytest.skip(f"{package} is not installed; the extra 'test' has it")


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "default", **more}


def call(*arguments, cwd, **more):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_page_has_programs():
    assert len(PROGRAMS) >= 10
    assert {language for _, language, _ in LISTINGS} == {"python", "shell"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, tmp_path):
    said = call("-c", program, cwd=tmp_path)
    if "unittest" in program:
        assert re.search(r"Ran 1 test in .*\n\nOK\n", said)
    else:
        assert OURS in said
    assert "Warning" not in said


def fetch(url):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + LONG
    while True:
        try:
            with direct.open(url, timeout=LONG) as response:
                return response.read().decode()
        except urllib.error.URLError:
            # Bound, and said so; its workers are yet to listen.
            assert time.monotonic() < until
            time.sleep(0.05)


@contextlib.contextmanager
def serving(command, cwd):
    """Start a server, which says where it serves; what it answers, and what it says at its end."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://[\d.]+:\d+", line):
                    break
            else:
                pytest.fail("no server:\n" + "".join(said))
            answer = fetch(found[0])
            process.send_signal(signal.SIGTERM)
            said.append(process.stdout.read())
            code = process.wait(LONG)
            yield answer, "".join(said), code
        finally:
            if process.poll() is None:
                process.kill()


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_uvicorn_by_its_command(tmp_path):
    [command] = write_files("uvicorn", tmp_path)
    name, *arguments = command.split()
    with serving([sys.executable, "-m", name, "--port=0", *arguments], tmp_path) as (
        answer,
        said,
        code,
    ):
        assert answer.startswith(OURS)
        assert "Finished server process" in said and "Traceback" not in said
        assert code == -signal.SIGTERM  # uvicorn raises the signal again when it has ended


@pytest.mark.parametrize("more", ["", ", workers=2"])
def test_uvicorn_by_its_function(tmp_path, more):
    write_files("uvicorn", tmp_path)
    change(tmp_path / "serve.py", ")\n", f", port=0{more})\n")
    with serving([sys.executable, "serve.py"], tmp_path) as (answer, said, _):
        assert answer.startswith(OURS)
        assert "Traceback" not in said


def test_fastapi(tmp_path):
    need("fastapi")
    [command] = write_files("FastAPI and Starlette", tmp_path)
    name, *arguments = command.split()
    with serving([sys.executable, "-m", name, "--port=0", *arguments], tmp_path) as (answer, _, _):
        assert OURS in answer


def test_gunicorn(tmp_path):
    need("gunicorn", "uvicorn-worker")
    write_files("uvicorn", tmp_path)
    [command] = write_files("gunicorn", tmp_path)
    name, *arguments = command.split()
    with serving([sys.executable, "-m", name, "--bind=127.0.0.1:0", *arguments], tmp_path) as (
        answer,
        said,
        code,
    ):
        assert answer.startswith(OURS)
        assert code == 0 and "Traceback" not in said


def test_aiohttp_run_app(tmp_path):
    write_files("aiohttp", tmp_path)
    change(
        tmp_path / "serve.py", "run_app(app,", f'run_app(app, host="127.0.0.1", port={free_port()},'
    )
    with serving([sys.executable, "serve.py"], tmp_path) as (answer, said, code):
        assert answer.startswith(OURS)
        assert code == 0 and "Traceback" not in said


# ── plugins of pytest ────────────────────────────────────────────────────────────────────────


def call_pytest(folder, *arguments):
    (folder / "pytest.ini").write_text("[pytest]\n")
    said = call("-m", "pytest", *arguments, cwd=folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    return re.sub(r"=+|\x1b\[\d*m", "", said)


SEES_OUR_LOOP = """
import asyncio, pyasync_c, pytest, pytest_asyncio

@pytest_asyncio.fixture
async def fixture():
    before = asyncio.get_running_loop()
    await pyasync_c.sleep(0.001)
    yield before
    assert asyncio.get_running_loop() is before

@pytest.mark.asyncio
async def test_loop(fixture):
    assert asyncio.get_running_loop() is fixture
    assert isinstance(fixture, pyasync_c.EventLoop)

@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    loops = set()

    @pytest.mark.parametrize("_", range(2))
    async def test_one_loop(self, _):
        self.loops.add(asyncio.get_running_loop())
        assert len(self.loops) == 1
        assert isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
"""


@pytest.mark.parametrize("way", ["hook", "policy"])
def test_pytest_asyncio(tmp_path, way):
    [before_1_4] = write_files("Tests with pytest-asyncio", tmp_path)
    if way == "policy":
        (tmp_path / "conftest.py").write_text(before_1_4)
    (tmp_path / "test_it.py").write_text(SEES_OUR_LOOP)
    said = call_pytest(
        tmp_path,
        "-p",
        "pytest_asyncio.plugin",
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    assert " 3 passed" in said
    # The policy's way is deprecated by 1.4, and works.
    assert "ResourceWarning" not in said and ("is deprecated" in said) == (way == "policy")


def test_anyios_plugin(tmp_path):
    write_files("Tests with anyio's plugin for pytest", tmp_path)
    (tmp_path / "test_more.py").write_text(
        "from test_anyio import *\n"
        "@pytest.fixture\n"
        "async def fixture(anyio_backend):\n"
        "    yield asyncio.current_task()\n"
        "@pytest.mark.anyio\n"
        "async def test_fixture(fixture):\n"
        "    assert isinstance(fixture, pyasync_c.Task)\n"
    )
    said = call_pytest(tmp_path, "-p", "anyio.pytest_plugin")
    assert " 3 passed" in said and "warning" not in said


def test_this_pytest_is_left_alone(request):
    for name in "anyio", "asyncio", "looptime_plugin":
        assert not request.config.pluginmanager.hasplugin(name)


# ── anyio ────────────────────────────────────────────────────────────────────────────────────

OPTIONS = {"loop_factory": pyasync_c.new_event_loop}


def by_anyio(main):
    return anyio.run(main, backend_options=OPTIONS)


def by_anyio_in_debug_mode(main):
    return anyio.run(main, backend_options={**OPTIONS, "debug": True})


@pytest.fixture(
    params=[
        by_anyio,
        by_anyio_in_debug_mode,
        pytest.param(lambda main: pyasync_c.run(main()), id="pyasync_c"),
        pytest.param(anyio.run, id="asyncio"),
    ]
)
def run(request):
    """Runs an async function, and looks at what it leaves."""

    async def whole(main):
        reports = []
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = LONG
        loop.set_exception_handler(lambda _, context: reports.append(context))
        await main()
        await turns()
        assert not reports and asyncio.all_tasks() == {asyncio.current_task()}

    def run(main):
        collect()
        before = open_fds()
        with unraisable() as seen:
            request.param(lambda: whole(main))
            collect()
        assert not seen
        assert open_fds() <= before

    return run


def test_anyio_task_groups(run):
    async def main():
        log = []

        async def child(number, *, task_status=anyio.TASK_STATUS_IGNORED):
            task_status.started(number)
            try:
                await anyio.sleep(0.01 * number)
                log.append(number)
                if number == 2:
                    raise ValueError("two")
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                    log.append(f"{number} ended")

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                assert await group.start(child, 1) == 1
                group.start_soon(child, 2)
                group.start_soon(child, 1000)
        assert caught.group_contains(ValueError, match="two")
        assert log[:2] == [1, 2]
        assert sorted(log[2:]) == ["1 ended", "1000 ended", "2 ended"]

    run(main)


def test_anyio_cancel_scopes(run):
    async def main():
        with anyio.move_on_after(0.01) as scope:
            await pyasync_c.pending()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await asyncio.Event().wait()
        with anyio.CancelScope() as outer:
            with anyio.CancelScope(shield=True):
                outer.cancel()
                await anyio.sleep(0.001)
            await anyio.sleep_forever()
        assert outer.cancelled_caught and asyncio.current_task().cancelling() == 0

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

    run(main)


def test_anyio_cancel_loses_nothing(run):
    """A task that has been handed an item is not cancelled before it has taken it."""

    async def main():
        send, receive = anyio.create_memory_object_stream()
        received = []

        async def take(*, task_status):
            with anyio.CancelScope() as scope:
                task_status.started(scope)
                received.append(await receive.receive())

        with send, receive:
            async with anyio.create_task_group() as group:
                scope = await group.start(take)
                await anyio.wait_all_tasks_blocked()
                send.send_nowait("item")
                scope.cancel()
        assert received == ["item"]

    run(main)


def test_anyio_synchronization_and_streams(run):
    async def main():
        limiter, lock, event = anyio.CapacityLimiter(3), anyio.Lock(), anyio.Event()
        inside = most = 0
        send, receive = anyio.create_memory_object_stream(5)

        async def produce(stream, number):
            nonlocal inside, most
            async with stream, limiter:
                inside += 1
                most = max(most, inside)
                await event.wait()
                async with lock:
                    await stream.send(number)
                inside -= 1

        async with anyio.create_task_group() as group, receive:
            for number in range(20):
                group.start_soon(produce, send.clone(), number)
            send.close()
            await anyio.wait_all_tasks_blocked()
            event.set()
            assert sorted([number async for number in receive]) == list(range(20))
        assert most == 3

    run(main)


def test_anyio_tcp(run):
    async def main():
        async def echo(stream):
            async with stream:
                async for data in stream:
                    await stream.send(data)

        async def ask(port, number):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                message = bytes([number]) * 100_000
                async with anyio.create_task_group() as group:
                    group.start_soon(stream.send, message)
                    answer = b""
                    while len(answer) < len(message):
                        answer += await stream.receive()
                assert answer == message
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, echo)
                async with anyio.create_task_group() as asking:
                    for number in range(10):
                        asking.start_soon(ask, port, number)
                group.cancel_scope.cancel()

    run(main)


def test_anyio_threads(run):
    """Its worker threads end with the root task, which it finds by a callback of asyncio's."""

    async def main():
        loop = asyncio.get_running_loop()

        async def tell():
            assert asyncio.get_running_loop() is loop
            await anyio.sleep(0.001)
            return threading.current_thread()

        def work():
            assert anyio.from_thread.run(tell) is threading.main_thread()
            assert anyio.from_thread.run_sync(asyncio.get_running_loop) is loop
            return threading.current_thread()

        worker = await anyio.to_thread.run_sync(work)
        assert worker is not threading.main_thread()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(anyio.to_thread.run_sync, work)
        assert await anyio.run_process([sys.executable, "-c", "print(1)"])

    before = set(threading.enumerate())
    run(main)
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
        assert not thread.is_alive()


def test_anyio_blocking_portal():
    before = open_fds()
    with anyio.from_thread.start_blocking_portal(backend_options=OPTIONS) as portal:
        loop = portal.call(asyncio.get_running_loop)
        assert isinstance(loop, pyasync_c.EventLoop)
        futures = [portal.start_task_soon(anyio.sleep, 0.001) for _ in range(50)]
        assert [future.result(LONG) for future in futures] == [None] * 50
        sleeper = portal.start_task_soon(anyio.sleep_forever)
        sleeper.cancel()
        with portal.wrap_async_context_manager(portal.call(anyio.create_task_group)):
            pass
    assert loop.is_closed()
    del loop, portal
    collect()
    assert open_fds() <= before
