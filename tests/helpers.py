"""What the tests share: the loops that a program may run on, and ways to see what it left."""

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading

import pytest

import pyasync_c

try:
    import uvloop
except ImportError:
    uvloop = None


def run_asyncio(main):
    return asyncio.run(main)


def run_uvloop(main):
    """Ends what stands still. uvloop takes what a signal handler raises for an error to report: so
    pytest-timeout, which raises in one, ends nothing on it."""

    def end():
        print("still waiting after 100 s", *asyncio.all_tasks(loop), sep="\n")
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        limit = loop.call_later(100, end)
        try:
            return runner.run(main)
        finally:
            limit.cancel()


NO_UVLOOP = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
OUR_RUNTIME = pytest.param(pyasync_c.run, id="pyasync_c")
FOREIGN_RUNNERS = [
    pytest.param(run_asyncio, id="asyncio"),
    pytest.param(run_uvloop, id="uvloop", marks=NO_UVLOOP),
]
every_loop = pytest.mark.parametrize("run", [OUR_RUNTIME, *FOREIGN_RUNNERS])
foreign_loop = pytest.mark.parametrize("run", FOREIGN_RUNNERS)


async def _on_standard_transports(main):
    asyncio.get_running_loop().standard_transports = True
    return await main


def run_standard(main):
    """On our loop with the standard library's transports."""
    return pyasync_c.run(_on_standard_transports(main))


every_transport = pytest.mark.parametrize(
    "run",
    [
        OUR_RUNTIME,
        pytest.param(run_standard, id="standard transports"),
        pytest.param(run_asyncio, id="asyncio"),
    ],
)


LONG = 30  # seconds, for what has to come: never waited for in full


def standard_loop():
    """A loop of ours with the standard library's transports."""
    loop = pyasync_c.new_event_loop()
    loop.standard_transports = True
    return loop


LOOPS = [
    pytest.param(pyasync_c.new_event_loop, id="ours"),
    pytest.param(standard_loop, id="standard"),
    pytest.param(asyncio.new_event_loop, id="asyncio"),
]


def run_on(new_loop, main):
    """Run an async function on a fresh loop; what reaches the exception handler is an error."""
    errors = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: errors.append(context))
        result = runner.run(asyncio.wait_for(main(), LONG))
    assert errors == [], errors
    return result


async def awaits(awaitable):
    """A coroutine, to make a task of."""
    return await awaitable


async def turns(n=5):
    """Let everything that is ready run, on any loop."""
    for _ in range(n):
        await asyncio.sleep(0)


def collect():
    for _ in range(3):
        gc.collect()


def allocated():
    """How much of Python's memory is in use: blocks; or, where malloc hands them out and nobody
    counts them, as under the sanitizers, the objects that the collector knows."""
    return sys.getallocatedblocks() or len(gc.get_objects()) + gc.get_freeze_count()


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def foreign_environment():
    """For programs that are not Python: a preloaded sanitizer is not for them."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on, for now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class CountingWaker:
    """A waker that counts how often it is woken."""

    def __init__(self):
        self.count = 0
        self.waker = pyasync_c.Waker(self._wake)
        self.context = pyasync_c.Context(self.waker)

    def _wake(self):
        self.count += 1


async def until(condition):
    """Wait until condition() holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def end(transport, peer):
    """Neither side is left, nor what the transport still has to do."""
    if transport._sock is not None:  # or asyncio's abort() may fail
        transport.abort()
    peer.close()
    await until(lambda: transport._sock is None)


class Polled:
    """A future with a waker of its own, polled by hand."""

    def __init__(self, future):
        self.future = future
        self.counting = CountingWaker()

    def poll(self):
        return self.future.poll(self.counting.context)

    @property
    def wakes(self):
        return self.counting.count


def drain(rx):
    """All that can be received now, and which exception came after it."""
    values = []
    while True:
        try:
            values.append(rx.try_recv())
        except (pyasync_c.ChannelEmpty, pyasync_c.ChannelClosed) as end:
            return values, type(end)
        except pyasync_c.Lagged as lagged:
            values.append(("lagged", lagged.skipped))


class Manual(pyasync_c.Future):
    """Ready when told; counts its polls and drops."""

    def __init__(self):
        self.value = pyasync_c.PENDING
        self.waker = None
        self.polls = 0
        self.drops = 0

    def poll(self, cx):
        self.polls += 1
        if self.value is pyasync_c.PENDING:
            self.waker = cx.waker.clone()
        return self.value

    def drop(self):
        self.drops += 1

    def set(self, value):
        self.value = value
        if self.waker is not None:
            self.waker.wake()


class Worker(threading.Thread):
    """A thread whose result, or exception, join() hands over."""

    def __init__(self, f, *args):
        super().__init__(daemon=True)
        self._call = f, args
        self._result = None
        self._error = None
        self.start()

    def run(self):
        f, args = self._call
        try:
            self._result = f(*args)
        except BaseException as error:
            self._error = error

    def result(self, timeout=60):
        self.join(timeout)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._result


class Log(asyncio.Protocol):
    """Writes down what it is called with."""

    def __init__(self):
        self.events = []
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.keep_open = False

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        assert type(data) is bytes and data
        self.data += data
        self.events.append("data")

    def eof_received(self):
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


@contextlib.contextmanager
def unraisable():
    """The exceptions that sys.unraisablehook is given meanwhile."""
    seen = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: seen.append(args.exc_value)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


def python(program, *args, timeout=100, stack=None):
    """Run a program in an interpreter of its own, with this one's path; what it printed.

    stack: the size in bytes of its main thread's.
    """
    command = [sys.executable, "-P", "-X", "faulthandler", "-c", program, *args]
    if stack is not None:
        # By a shell, not a preexec_fn: that would run Python between fork and exec, where whatever
        # lock another thread held (AddressSanitizer's allocator has some) is held for ever.
        command = ["sh", "-c", f'ulimit -S -s {stack // 1024} && exec "$0" "$@"', *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
