"""What the tests share: the loops that a program may run on, and ways to see what it left."""

import asyncio
import contextlib
import gc
import os
import signal
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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


NO_UVLOOP = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
OUR_RUNTIME = pytest.param(pyasync_c.run, id="pyasync_c")
FOREIGN_RUNNERS = [
    pytest.param(run_asyncio, id="asyncio"),
    pytest.param(run_uvloop, id="uvloop", marks=NO_UVLOOP),
]
every_loop = pytest.mark.parametrize("run", [OUR_RUNTIME, *FOREIGN_RUNNERS])
foreign_loop = pytest.mark.parametrize("run", FOREIGN_RUNNERS)


async def turns(n=5):
    """Let everything that is ready run, on any loop."""
    for _ in range(n):
        await asyncio.sleep(0)


def collect():
    for _ in range(3):
        gc.collect()


def open_fds():
    return set(os.listdir("/proc/self/fd"))


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


def _heed_interrupts():
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python(program, *args, timeout=100):
    """Run a program in an interpreter of its own, with this one's path; what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", program, *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        preexec_fn=_heed_interrupts,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
