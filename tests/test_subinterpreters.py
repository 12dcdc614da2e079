"""Isolated interpreters, each with its own GIL and its own runtimes."""

import sys

import pytest
from foreign_threads import foreign_threads, with_path  # noqa: F401, a fixture
from helpers import python

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before 3.12 interpreters share the GIL"
)

QUIT = """
if sys.version_info < (3, 13):
    os._exit(0)  # 3.12 itself aborts at exit when asyncio was in another interpreter
"""

SUBINTERPRETERS = """
import os, sys, threading
try:
    import _interpreters
    def create(): return _interpreters.create("isolated")
    def execute(id, program):
        failed = _interpreters.exec(id, program)
        assert failed is None, failed.errdisplay
except ImportError:
    import _xxsubinterpreters as _interpreters
    def create(): return _interpreters.create(isolated=True)
    def execute(id, program):
        assert _interpreters.run_string(id, program) is None
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_isolated_interpreters(threads):
    python(
        SUBINTERPRETERS
        + f"""
import pyasync_c
PROGRAM = '''
import asyncio
import pyasync_c

async def main():
    await pyasync_c.sleep(0.001)
    await asyncio.sleep(0.001)
    notify = pyasync_c.Notify()
    task = pyasync_c.spawn(notify.notified())
    await asyncio.sleep(0)
    notify.notify_one()
    await task
    return await asyncio.to_thread(int, "5")

assert pyasync_c.run(main()) == 5
'''
done = []

def work():
    for _ in range(4):
        interpreter = create()
        execute(interpreter, PROGRAM)
        _interpreters.destroy(interpreter)
        done.append(1)

workers = [threading.Thread(target=work) for _ in range({threads})]
for worker in workers: worker.start()
assert pyasync_c.run(pyasync_c.sleep(0.01, "main")) == "main"
for worker in workers: worker.join()
assert len(done) == 4 * {threads}
"""
        + QUIT
    )


def test_many_interpreters_one_after_another():
    """No descriptor of one is left in the process, and it is as if they had not been."""
    python(
        SUBINTERPRETERS
        + """
import pyasync_c
PROGRAM = '''
import pyasync_c

async def main():
    tx, rx = pyasync_c.channel(1)
    token = pyasync_c.CancellationToken()
    pyasync_c.spawn(pyasync_c.sleep(1000))
    pyasync_c.spawn(rx.recv())
    kept = [pyasync_c.Waker(print), token.cancelled(), tx]
    return await pyasync_c.spawn(pyasync_c.sleep(0.0001, 5))

assert pyasync_c.run(main()) == 5
left_open = pyasync_c.Runtime()
left_open.run(main())
'''

def live(times):
    for _ in range(times):
        interpreter = create()
        execute(interpreter, PROGRAM)
        _interpreters.destroy(interpreter)
    return len(os.listdir("/proc/self/fd"))

descriptors = live(3)
assert live(97) == descriptors
assert pyasync_c.run(pyasync_c.sleep(0, 7)) == 7
"""
        + QUIT,
        timeout=600,
    )


def test_signals_are_the_main_interpreters():
    """signal.getsignal() would hand its handler to an interpreter that does not hold its lock."""
    python(
        SUBINTERPRETERS
        + """
import signal

class Handler:
    def __call__(self, signum, frame): pass
    def __repr__(self): seen.append("repr"); return "handler"
    def __eq__(self, other): seen.append("eq"); return self is other
    __hash__ = object.__hash__

seen = []
signal.signal(signal.SIGINT, Handler())
interpreter = create()
execute(interpreter, '''
import signal
import pyasync_c

called = []
for name in "signal", "getsignal", "set_wakeup_fd":
    setattr(signal, name, lambda *args, name=name, **kwargs: called.append(name))
assert pyasync_c.run(pyasync_c.sleep(0.001, 7)) == 7
assert not called, called
''')
assert not seen, seen
_interpreters.destroy(interpreter)
"""
        + QUIT
    )


def test_two_interpreters_at_work_at_once():
    """Each on its own thread with its own GIL, for a while, beside the main one."""
    python(
        SUBINTERPRETERS
        + """
import pyasync_c
PROGRAM = '''
import asyncio, threading
import pyasync_c

async def main():
    tx, rx = pyasync_c.channel(4)
    notify = pyasync_c.Notify()

    async def send():
        for k in range(2000):
            await tx.send(k)
            notify.notify_one()
            if k % 100 == 0:
                await pyasync_c.sleep(0.0001)
        tx.close()

    async def tick():
        while True:
            await notify.notified()

    ticking = pyasync_c.spawn(tick())
    sending = pyasync_c.spawn(send())
    received = [k async for k in rx]
    assert received == list(range(2000))
    assert await pyasync_c.spawn_blocking(sum, received) == sum(range(2000))
    await sending
    ticking.cancel()

for _ in range(3):
    pyasync_c.run(main())
'''
done = []

def work():
    interpreter = create()
    execute(interpreter, PROGRAM)
    _interpreters.destroy(interpreter)
    done.append(1)

workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers: worker.start()
exec(PROGRAM)
for worker in workers: worker.join()
assert done == [1, 1]
"""
        + QUIT
    )


def test_wakes_after_the_interpreter_has_gone(foreign_threads):  # noqa: F811
    """Threads that Python does not know wake a task and a callable of an interpreter that works,
    ends, and is no more."""
    python(
        with_path(foreign_threads)
        + SUBINTERPRETERS
        + f"""
import time
import pac_foreign
import pyasync_c
PROGRAM = '''
import sys; sys.path.insert(0, {str(foreign_threads)!r})
import pac_foreign
import pyasync_c

def take(cx):
    pac_foreign.start(cx.waker)
    pac_foreign.start(pyasync_c.Waker(int))
    return 5

async def main():
    assert await pyasync_c.poll_fn(take) == 5
    await pyasync_c.sleep(0.002)
    pyasync_c.spawn(pyasync_c.poll_fn(take))
    pyasync_c.spawn(pyasync_c.sleep(1000))
    await pyasync_c.sleep(0.002)

pyasync_c.run(main())
'''
for _ in range(5):
    interpreter = create()
    execute(interpreter, PROGRAM)
    _interpreters.destroy(interpreter)
    before = pac_foreign.wakes()
    while pac_foreign.wakes() < before + 100:
        time.sleep(0.001)
assert pyasync_c.run(pyasync_c.sleep(0.001, 7)) == 7
assert pac_foreign.stop() > 0
assert pyasync_c.run(pyasync_c.sleep(0.001, 7)) == 7
"""
        + QUIT
    )
