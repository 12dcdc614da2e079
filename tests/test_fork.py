"""Forks in every state: the child is refused its parent's runtime and may make one of its own, and
the parent notices nothing."""

from foreign_threads import foreign_threads, with_path  # noqa: F401, a fixture
from helpers import python

# ── from outside of a run ───────────────────────────────────────────────────────────────────────

FORKING = """
import asyncio, os, sys, traceback
import pyasync_c

def in_child(check):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

async def slept():
    await pyasync_c.sleep(0.001)
    await asyncio.sleep(0.001)
    return await pyasync_c.spawn(pyasync_c.ready("slept"))
"""


def test_a_forks_child_is_refused_the_old_runtime_and_may_make_a_new_one():
    python(
        FORKING
        + """
parent = os.getpid()
runtime = pyasync_c.Runtime()
handle, loop = runtime.handle(), runtime.get_loop()
wakers = []
take = lambda cx: pyasync_c.PENDING if wakers.append(cx.waker.clone()) is None else None

async def leave():
    for _ in range(100):
        pyasync_c.spawn(pyasync_c.sleep(3600))
    pyasync_c.spawn(pyasync_c.poll_fn(take))
    await asyncio.sleep(0)

runtime.run(leave())

def child():
    for use in runtime.handle, runtime.get_loop, runtime.metrics:
        try:
            use()
        except RuntimeError as error:
            assert f"belongs to process {parent}" in str(error), error
        else:
            raise AssertionError(use)
    coroutine = slept()
    try:
        runtime.run(coroutine)
    except RuntimeError as error:
        assert f"belongs to process {parent}" in str(error), error
    assert coroutine.cr_frame is None
    wakers[0].wake()
    runtime.close()
    assert pyasync_c.run(slept()) == "slept"

for _ in range(5):
    in_child(child)
assert runtime.run(slept()) == "slept"
assert runtime.metrics().tasks_alive == 101
runtime.close()
"""
    )


def test_a_fork_within_a_run():
    python(
        FORKING
        + """
def child():
    assert pyasync_c.run(slept()) == "slept"

async def main():
    background = pyasync_c.spawn(slept())
    await asyncio.sleep(0)
    in_child(child)
    return await background

assert pyasync_c.run(main()) == "slept"
"""
    )


# ── from within a run ───────────────────────────────────────────────────────────────────────────

WITHIN_A_RUN = """
import asyncio, os, sys, threading, traceback, warnings
import pyasync_c
warnings.simplefilter("ignore")

async def seven():
    await pyasync_c.sleep(0.001)
    await asyncio.sleep(0.001)
    return await pyasync_c.spawn(pyasync_c.ready(7))

def refuses(call, message):
    try:
        call()
    except RuntimeError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)

def child(check):
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def keep_waker(cx):
    polls.append(1)
    wakers.append(cx.waker.clone())
    return pyasync_c.PENDING

polls, wakers = [], []
parent = f"belongs to process {os.getpid()}"
"""


def test_the_old_runtime_in_a_child_that_was_forked_within_its_run():
    python(
        WITHIN_A_RUN
        + """
async def main():
    runtime, loop = pyasync_c.current_runtime(), asyncio.get_running_loop()
    handle, notify = runtime.handle(), pyasync_c.Notify()
    slept = pyasync_c.spawn(pyasync_c.sleep(0.1, "slept"))
    notified = pyasync_c.spawn(notify.notified())
    pyasync_c.spawn(pyasync_c.poll_fn(keep_waker))
    await asyncio.sleep(0)

    def check():
        refuses(pyasync_c.current_runtime, "no runtime is running")
        refuses(lambda: pyasync_c.spawn(seven()), "no running event loop")
        refuses(pyasync_c.all_tasks, "no running event loop")
        assert pyasync_c.current_task() is None
        for call in (
            lambda: runtime.run(seven()),
            runtime.handle,
            lambda: handle.spawn(seven()),
            lambda: handle.call_soon(print),
            lambda: loop.call_soon(print),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.call_later(1, print),
            lambda: loop.create_task(seven()),
        ):
            refuses(call, parent)
        wakers[0].wake()
        notify.notify_one()
        slept.cancel()
        runtime.close()
        assert pyasync_c.run(seven()) == 7
        assert asyncio.run(seven()) == 7  # not taken for part of the poll that has forked

    assert await asyncio.to_thread(status_of, child(check)) == 0
    assert len(polls) == 1 and not notified.done()
    notify.notify_one()
    await notified
    return await slept

assert pyasync_c.run(main()) == "slept"
"""
    )


def test_a_child_that_goes_on_in_the_run_is_thrown_out_of_it():
    python(
        WITHIN_A_RUN
        + """
steps = []

async def other():
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    steps.append(os.getpid())

async def main():
    task = pyasync_c.spawn(other())
    await asyncio.sleep(0)
    pid = os.fork()
    await asyncio.sleep(0)
    steps.append("after")
    await task
    return pid

before = os.getpid()
try:
    pid = pyasync_c.run(main())
except RuntimeError as error:
    ok = parent in str(error) and steps == []  # nobody else's tasks run in the child
    os._exit(3 if ok and os.getpid() != before else 4)
assert steps == [before, "after"] or steps == ["after", before]
assert status_of(pid) == 3
"""
    )


def test_a_fork_by_a_thread_while_the_loop_is_parked_on_another():
    python(
        WITHIN_A_RUN
        + """
started = threading.Event()
runtime = pyasync_c.Runtime()
handle = runtime.handle()
finish = pyasync_c.Notify()

async def main():
    pyasync_c.spawn(pyasync_c.poll_fn(keep_waker))
    pyasync_c.spawn(pyasync_c.sleep(3600))
    asyncio.get_running_loop().call_later(3600, print)
    await asyncio.sleep(0)
    started.set()
    await finish.notified()
    return 7

results = []
thread = threading.Thread(target=lambda: results.append(runtime.run(main())))
thread.start()
assert started.wait(60)

def check():
    refuses(lambda: handle.spawn(seven()), parent)
    refuses(lambda: runtime.run(seven()), parent)
    for waker in wakers * 3:
        waker.wake()
    finish.notify_waiters()
    assert pyasync_c.run(seven()) == 7

for _ in range(10):
    assert status_of(child(check)) == 0
assert thread.is_alive() and len(polls) == 1
assert handle.spawn(seven()).result(60) == 7
finish.notify_one()
thread.join(60)
assert results == [7]
runtime.close()
"""
    )


def test_a_pool_of_forked_processes_started_from_a_task():
    python(
        WITHIN_A_RUN
        + """
import concurrent.futures, multiprocessing

def work(run):
    return run(seven())

async def main():
    loop = asyncio.get_running_loop()
    fork = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
        for run in pyasync_c.run, asyncio.run:
            assert await loop.run_in_executor(pool, work, run) == 7

pyasync_c.run(main())
"""
    )


def test_two_hundred_forks_with_everything_alive(foreign_threads):  # noqa: F811
    """A hundred sleepers, a descriptor, and threads that wake without the GIL. Each child tries the
    old runtime, and runs a new one beside the threads' wakes that it does not have."""
    python(
        with_path(foreign_threads)
        + WITHIN_A_RUN
        + """
import gc, socket
import pac_foreign

ours, theirs = socket.socketpair()
ours.setblocking(False)

async def main():
    runtime, loop = pyasync_c.current_runtime(), asyncio.get_running_loop()
    sleepers = [pyasync_c.spawn(pyasync_c.sleep(3600)) for _ in range(100)]
    reading = asyncio.ensure_future(loop.sock_recv(ours, 100))
    pyasync_c.spawn(pyasync_c.poll_fn(keep_waker))
    pyasync_c.spawn(pyasync_c.poll_fn(keep_waker))
    await asyncio.sleep(0)
    for waker in wakers:
        pac_foreign.start(waker)

    def check():
        refuses(runtime.handle, parent)
        refuses(lambda: loop.call_soon(print), parent)
        sleepers[0].cancel()
        wakers[0].wake()
        runtime.close()
        assert pyasync_c.run(seven()) == 7

    for k in range(200):
        assert status_of(child(check)) == 0, k
        if k % 10 == 0:
            await pyasync_c.sleep(0.0001)
    assert not reading.done() and not any(task.done() for task in sleepers)
    theirs.send(b"read")
    assert await reading == b"read"
    assert pac_foreign.stop() > 0
    slept = pyasync_c.spawn(pyasync_c.sleep(0.001, "slept"))
    return await slept

assert pyasync_c.run(main()) == "slept"
assert len(polls) > 2
"""
    )


def test_a_child_watches_no_descriptor_for_its_parent():
    """The epoll set is shared: what a child added to it would wake its parent for ever."""
    python(
        WITHIN_A_RUN
        + """
import socket
from pyasync_c import net

ours, theirs = socket.socketpair()
theirs.send(b"x")

async def main():
    loop, parent = asyncio.get_running_loop(), str(os.getpid())

    def check():
        refuses(lambda: loop.add_reader(ours, print), parent)
        refuses(lambda: loop.add_writer(ours, print), parent)
        refuses(net.UnixStream.pair, "no running event loop")
        asyncio._set_running_loop(loop)
        refuses(net.UnixStream.pair, parent)
        refuses(lambda: loop._stream_transport(ours, asyncio.Protocol(), None, None, None), parent)

    assert status_of(child(check)) == 0
    loop.add_reader(ours, ours.recv, 1)
    await pyasync_c.sleep(0.001)
    loop.remove_reader(ours)

pyasync_c.run(main())
"""
    )


def test_a_child_gives_the_old_runtime_up():
    """Its objects are collected in the child as anywhere; the parent's descriptors are not its own
    to change."""
    python(
        WITHIN_A_RUN
        + """
import gc, weakref

class Marked:
    pass

runtime = pyasync_c.Runtime()

async def hold(mark):
    await pyasync_c.sleep(3600)

async def leave():
    mark = Marked()
    pyasync_c.spawn(hold(mark))
    await asyncio.sleep(0)
    return weakref.ref(mark)

ref = runtime.run(leave())

def check():
    global runtime
    runtime.close()
    runtime = None
    for _ in range(3):
        gc.collect()
    assert pyasync_c.run(seven()) == 7

for _ in range(5):
    assert status_of(child(check)) == 0
gc.collect()
assert ref() is not None
assert runtime.run(seven()) == 7
runtime.close()
gc.collect()
assert ref() is None
"""
    )


def test_processes_from_a_run():
    """subprocess, asyncio's subprocesses and multiprocessing, while others sleep and wake."""
    python(
        WITHIN_A_RUN
        + """
import multiprocessing, subprocess

def in_a_process(queue):
    queue.put(pyasync_c.run(seven()))

async def main():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await pyasync_c.sleep(0.001)
            ticks += 1

    ticking = pyasync_c.spawn(tick())
    await asyncio.sleep(0)
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        assert subprocess.run(["true"]).returncode == 0
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert await process.communicate(b"through") == (b"through", None)
        queue = fork.SimpleQueue()
        worker = fork.Process(target=in_a_process, args=(queue,))
        worker.start()
        assert await asyncio.to_thread(queue.get) == 7
        await asyncio.to_thread(worker.join)
    assert ticks > 0 and not ticking.done()

pyasync_c.run(main())
"""
    )
