"""The end of the interpreter, with whatever is still there: no word, no crash, no wait."""

import os
import subprocess
import sys

import pytest
from foreign_threads import foreign_threads, with_path  # noqa: F401, a fixture

EXITS = {
    "runtime in a global": "runtime = pyasync_c.Runtime(); runtime.run(give())",
    "runtime in a cycle": "runtime = pyasync_c.Runtime(); runtime.run(give())\n"
    "runtime.itself = runtime; runtime.get_loop().runtime = runtime",
    "run in atexit": "atexit.register(lambda: pyasync_c.run(leave()))",
    "close in atexit": "runtime = pyasync_c.Runtime(); runtime.run(leave())\n"
    "atexit.register(runtime.close)",
    "run in __del__": "class AtEnd:\n"
    "    def __del__(self): pyasync_c.run(leave())\n"
    "at_end = AtEnd(); pyasync_c.run(give())",
    "exit in a task": "async def main():\n"
    "    await leave()\n"
    "    sys.exit(0)\n"
    "pyasync_c.run(main())",
    "threads wake an open runtime": "runtime = pyasync_c.Runtime()\n"
    "waker = runtime.run(take_waker()); storm(waker.wake)",
    "threads wake a closed runtime": "runtime = pyasync_c.Runtime()\n"
    "waker = runtime.run(take_waker()); runtime.close(); storm(waker.wake)",
    "threads notify": "notify = pyasync_c.Notify(); futures = []\n"
    "def both():\n"
    "    notify.notify_one(); notify.notify_waiters()\n"
    "storm(both)",
    "threads submit": "runtime = pyasync_c.Runtime(); handle = runtime.handle()\n"
    "def submit():\n"
    "    try: handle.call_soon(int)\n"
    "    except RuntimeError: time.sleep(60)\n"
    "storm(submit); runtime.run(give()); runtime.close()",
    "a daemon runs a parked runtime": "threading.Thread(\n"
    "    target=lambda: pyasync_c.run(pyasync_c.sleep(3600)), daemon=True).start()\n"
    "time.sleep(0.02)",
    "a daemon runs a busy runtime": "async def busy():\n"
    "    while True: await pyasync_c.yield_now()\n"
    "threading.Thread(target=lambda: pyasync_c.run(busy()), daemon=True).start()\n"
    "time.sleep(0.02)",
    "runtime in a thread's local": "logging.disable(); local = threading.local()\n"
    "local.runtime = pyasync_c.Runtime(); local.runtime.run(leave())",
    "a loop with a task that never ran": "loop = pyasync_c.new_event_loop()\n"
    "logging.disable(); task = loop.create_task(asyncio.sleep(1)); warnings.simplefilter('ignore')",
    "the module gone": "pyasync_c.run(leave())\n"
    "module = sys.modules.pop('pyasync_c'); del pyasync_c",
    "the core gone": "waker = pyasync_c.Waker(print); delay = pyasync_c.sleep(1)\n"
    "for name in [name for name in sys.modules if name.startswith('pyasync_c')]:\n"
    "    del sys.modules[name]",
    "run in a thread's end": "class AtEnd:\n"
    "    def __del__(self): pyasync_c.run(leave())\n"
    "local = threading.local()\n"
    "def work(): local.at_end = AtEnd()\n"
    "thread = threading.Thread(target=work); thread.start(); thread.join()",
    "run in a cycle's __del__": "class AtEnd:\n"
    "    def __del__(self): pyasync_c.run(leave())\n"
    "pyasync_c.run(give()); at_end = AtEnd(); at_end.itself = at_end",
    "futures in a cycle's __del__": "class AtEnd:\n"
    "    def __del__(self):\n"
    "        self.notified.drop(); self.notify.notify_one(); self.delay.reset(1)\n"
    "        self.tx.try_send(1); self.token.cancel(); self.waker.wake()\n"
    "at_end = AtEnd(); at_end.itself = at_end; at_end.notify = pyasync_c.Notify()\n"
    "at_end.notified = at_end.notify.notified(); at_end.delay = pyasync_c.sleep(1)\n"
    "at_end.tx, at_end.rx = pyasync_c.channel(1); at_end.waker = pyasync_c.Waker(int)\n"
    "at_end.token = pyasync_c.CancellationToken()",
    "daemons in blocking twins": "tx, rx = pyasync_c.channel(1); tx.try_send(1)\n"
    "other = pyasync_c.channel(1); oneshot = pyasync_c.oneshot(); watch = pyasync_c.watch(1)\n"
    "for call in (lambda: tx.blocking_send(1), other[1].blocking_recv,\n"
    "             oneshot[1].blocking_recv, watch[1].blocking_changed):\n"
    "    threading.Thread(target=call, daemon=True).start()\n"
    "time.sleep(0.02)",
    # Each times out while the interpreter ends, which ends the thread; its stack is so large that
    # the C library gives it back at once.
    "daemons whose blocking twins come back too late": "threading.stack_size(64 << 20)\n"
    "ends = [pyasync_c.channel(1), pyasync_c.oneshot(), pyasync_c.watch(1),\n"
    "        pyasync_c.broadcast(1), pyasync_c.channel(1)]\n"
    "ends[4][0].try_send(1)\n"
    "calls = [ends[0][1].blocking_recv, ends[1][1].blocking_recv, ends[2][1].blocking_changed,\n"
    "         ends[3][1].blocking_recv, functools.partial(ends[4][0].blocking_send, 1)]\n"
    "for call in calls:\n"
    "    threading.Thread(target=call, kwargs={'timeout': 0.5}, daemon=True).start()\n"
    "time.sleep(0.02)\n"
    "class AtEnd:\n"
    "    ends, sleep, threads = ends, time.sleep, os.listdir\n"
    "    def __del__(self):\n"
    "        while len(self.threads('/proc/self/task')) > 1: self.sleep(0.01)\n"
    "        for tx, rx in self.ends[:4]: tx.close()\n"
    "        self.ends[4][1].try_recv()\n"
    "sys.at_end = AtEnd()",
    "a thread of the pool at work": "async def main():\n"
    "    pyasync_c.spawn_blocking(time.sleep, 0.05); await asyncio.sleep(0)\n"
    "runtime = pyasync_c.Runtime(); runtime.run(main())",
    "foreign threads wake a task": "runtime = pyasync_c.Runtime()\n"
    "pac_foreign.start(runtime.run(take_waker())); time.sleep(0.01)",
    "foreign threads wake a task of a closed runtime": "runtime = pyasync_c.Runtime()\n"
    "pac_foreign.start(runtime.run(take_waker())); time.sleep(0.01); runtime.close()",
    "foreign threads call Python": "pac_foreign.start(pyasync_c.Waker(int)); time.sleep(0.01)",
    "foreign threads wake a running daemon": "wakers = []\n"
    "def keep(cx):\n"
    "    wakers.append(cx.waker.clone()) if not wakers else None\n"
    "    return pyasync_c.PENDING\n"
    "thread = threading.Thread(\n"
    "    target=lambda: pyasync_c.run(pyasync_c.poll_fn(keep)), daemon=True)\n"
    "thread.start()\n"
    "while not wakers: time.sleep(0.001)\n"
    "pac_foreign.start(wakers[0]); time.sleep(0.01)",
    "armed futures in globals": "delay = pyasync_c.sleep(3600)\n"
    "notified = pyasync_c.Notify().notified()\n"
    "context = pyasync_c.Context(pyasync_c.Waker(print)); notified.poll(context)",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_exits_without_a_word(how, foreign_threads):  # noqa: F811
    program = (
        with_path(foreign_threads)
        + """
import asyncio, atexit, functools, logging, os, sys, threading, time, warnings
import pac_foreign
import pyasync_c

async def give():
    return 1

async def leave():
    pyasync_c.spawn(pyasync_c.sleep(3600))
    asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)

async def take_waker():
    return await pyasync_c.poll_fn(lambda cx: cx.waker.clone())

def storm(call):
    def forever():
        while True:
            call()
    for _ in range(3):
        threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.01)

"""
        + EXITS[how]
    )
    # Not helpers.python: what is asked for is an empty stderr too. Warnings at their defaults, as
    # an unclosed loop may well say so to those who turn ResourceWarning on.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
