"""Compatible mode: asyncio's own scheduler runs a loop whose scheduler somebody replaces. And what
others see of a loop that is not in it: snapshots of its state, under asyncio's private names."""

import asyncio
import collections
import contextlib
import gc
import heapq
import importlib.util
import re
import selectors
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from helpers import Worker, open_fds, python, turns

import pyasync_c


class CountingSelector(selectors.DefaultSelector):
    def __init__(self):
        super().__init__()
        self.selects = 0

    def select(self, timeout=None):
        self.selects += 1
        return super().select(timeout)


class OwnRunOnce(pyasync_c.EventLoop):
    passes = 0

    def _run_once(self):
        self.passes += 1
        super()._run_once()


class OwnRunForever(pyasync_c.EventLoop):
    passes = 0

    def run_forever(self):
        self.passes += 1
        super().run_forever()


class OwnRunUntilComplete(pyasync_c.EventLoop):
    passes = 0

    def run_until_complete(self, future):
        self.passes += 1
        return super().run_until_complete(future)


class OwnTime(pyasync_c.EventLoop):
    passes = 0

    def time(self):
        self.passes += 1
        return super().time()


class Harmless(pyasync_c.EventLoop):
    """Overrides much, but no part of the scheduler."""

    def __init__(self):
        super().__init__()
        self.exceptions = []
        self._timers = self._queued = "names of its own"

    def call_exception_handler(self, context):
        self.exceptions.append(context)

    def close(self):
        super().close()


OWN_SCHEDULERS = [OwnRunOnce, OwnRunForever, OwnRunUntilComplete, OwnTime]


def assigned():
    loop = pyasync_c.new_event_loop()
    loop.time = time.monotonic
    return loop


every_way = pytest.mark.parametrize(
    "factory",
    [*OWN_SCHEDULERS, lambda: pyasync_c.EventLoop(CountingSelector()), assigned],
    ids=[*(cls.__name__ for cls in OWN_SCHEDULERS), "selector", "assigned"],
)


@pytest.fixture
def loop():
    loop = pyasync_c.new_event_loop()
    with contextlib.closing(loop):
        yield loop


def run_with(factory, main):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def nothing():
    pass


# ── snapshots of a loop that is not in the mode ──────────────────────────────────────────────


def test_ready_shows_the_queue(loop):
    async def main():
        pass

    first = loop.call_soon(nothing)
    task = loop.create_task(main())
    last = loop.call_soon_threadsafe(nothing)
    ready = loop._ready
    assert isinstance(ready, collections.deque) and len(ready) == 3
    assert ready[0] is first and ready[2] is last
    assert isinstance(ready[1], asyncio.Handle)
    ready[1]._run()  # the loop steps its tasks itself
    assert not task.done()
    loop.run_until_complete(task)
    assert not loop._ready
    assert len(ready) == 3, "a snapshot of its moment"
    assert not loop._compatible


def test_ready_shows_what_other_threads_queued(loop):
    Worker(loop.call_soon_threadsafe, nothing).result()
    assert len(loop._ready) == 1


def test_ready_within_a_run(loop):
    async def main():
        before = len(loop._ready)
        handle = loop.call_soon(nothing)
        return len(loop._ready) - before, loop._ready[-1] is handle

    assert loop.run_until_complete(main()) == (1, True)


def test_scheduled_shows_the_timers(loop):
    at = loop.time()
    late, early, soon, far = (loop.call_at(at + d, nothing) for d in (9, 5, -1, 1e6))
    assert loop._scheduled == [soon, early, late, far]
    assert [handle.when() - at for handle in loop._scheduled] == pytest.approx([-1, 5, 9, 1e6])
    early.cancel()
    assert loop._scheduled == [soon, late, far]
    assert loop._scheduled[0] is soon
    assert loop._timer_cancelled_count == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda loop: loop._ready.append(None),
        lambda loop: loop._ready.popleft(),
        lambda loop: loop._ready.remove(None),
        lambda loop: loop._scheduled.append(None),
        lambda loop: loop._scheduled.pop(),
        lambda loop: loop._scheduled.__setitem__(0, None),
    ],
)
def test_snapshots_are_not_for_writing(loop, change):
    loop.call_soon(nothing)
    loop.call_later(5, nothing)
    with pytest.raises(RuntimeError, match="snapshot"):
        change(loop)
    assert len(loop._ready) == len(loop._scheduled) == 1
    assert not loop._compatible


def test_private_names_of_the_loop(loop):
    async def main():
        assert loop._thread_id == threading.get_ident()
        r, w = socket.socketpair()
        with r, w:
            loop._add_reader(r, nothing)
            assert loop._selector.get_key(r).fd == r.fileno()
            assert r in loop._selector.get_map()
            assert loop._remove_reader(r) and not loop._remove_reader(r)
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, r)
            assert loop._transports[transport.get_extra_info("socket").fileno()] is transport
            transport.close()
            await turns()
        assert loop._stopping is False

    assert loop._thread_id is None
    loop.run_until_complete(main())
    assert loop._thread_id is None
    assert loop._clock_resolution > 0
    assert loop._closed is False


def test_private_names_of_tasks(loop):
    async def wait(future):
        await future

    async def main():
        future = loop.create_future()
        task = loop.create_task(wait(future))
        assert task._fut_waiter is None
        assert task._must_cancel is False
        await turns()
        assert task._fut_waiter is future
        task.cancel()
        assert future.cancelled()
        await asyncio.wait([task])
        assert task._fut_waiter is None
        never_begun = loop.create_task(wait(future))
        never_begun.cancel()
        assert never_begun._must_cancel is True
        await asyncio.wait([never_begun])

    loop.run_until_complete(main())


# ── who gets the mode ────────────────────────────────────────────────────────────────────────


def test_most_programs_do_not():
    async def main():
        return asyncio.get_running_loop()._compatible, type(asyncio.current_task())

    assert run_with(Harmless, main()) == (False, pyasync_c.Task)
    with contextlib.closing(Harmless()) as loop:
        assert not loop._ready and not loop._scheduled
    assert run_with(pyasync_c.EventLoop, main()) == (False, pyasync_c.Task)
    assert pyasync_c.run(main()) == (False, pyasync_c.Task)


@pytest.mark.parametrize("cls", OWN_SCHEDULERS)
def test_a_class_with_a_scheduler_of_its_own(cls):
    async def main():
        await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        return loop._compatible, loop.passes, type(asyncio.current_task())

    compatible, passes, task_type = run_with(cls, main())
    assert compatible
    assert passes > 0
    assert task_type is asyncio.Task


def test_a_class_attribute_selector():
    class Loop(pyasync_c.EventLoop):
        _selector = "there is one in the instance, too"

    with contextlib.closing(Loop()) as loop:
        assert loop._compatible


def test_a_selector_is_really_selected():
    selector = CountingSelector()

    async def main():
        before = selector.selects
        for _ in range(10):
            await asyncio.sleep(0)
        assert asyncio.get_running_loop()._selector is selector
        return selector.selects - before

    assert run_with(lambda: pyasync_c.EventLoop(selector), main()) == 10
    assert selector.get_map() is None, "closed with its loop"


@pytest.mark.parametrize("bad", [42, "epoll", object(), selectors.DefaultSelector])
def test_what_is_no_selector(bad):
    with pytest.raises(TypeError, match="must be a selector, not " + re.escape(repr(bad))):
        pyasync_c.EventLoop(bad)


def test_a_class_that_is_changed_and_put_back():
    class Loop(pyasync_c.EventLoop):
        pass

    with contextlib.closing(Loop()) as loop:
        Loop.unrelated = 1
        assert not loop._compatible
        Loop.time = lambda self: time.monotonic()
        assert loop._compatible, "loops that there are, too"
    with contextlib.closing(Loop()) as loop:
        assert loop._compatible
    with contextlib.closing(pyasync_c.EventLoop()) as loop:
        assert not loop._compatible, "nor others"
    del Loop.time
    with contextlib.closing(Loop()) as loop:
        assert not loop._compatible


# ── what happens to what was pending ─────────────────────────────────────────────────────────


def assign_time(loop):
    loop.time = time.monotonic


def assign_run_once(loop):
    loop._run_once = loop._run_once


def assign_run_forever(loop):
    loop.run_forever = loop.run_forever


def assign_selector(loop):
    loop._selector = loop._selector


def assign_select(loop):
    loop._selector.select = loop._selector.select


def assign_class(loop):
    loop.__class__ = OwnRunOnce


entries = pytest.mark.parametrize(
    "change",
    [
        assign_time,
        assign_run_once,
        assign_run_forever,
        assign_selector,
        assign_select,
        assign_class,
    ],
)


@entries
def test_pending_things_move(loop, change):
    async def step(name):
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name + "'")
        await pyasync_c.sleep(0.001)
        seen.append(name + "''")

    seen = []
    r, w = socket.socketpair()
    with r, w:
        w.send(b"x")
        loop.add_reader(r, lambda: (seen.append("read"), loop.remove_reader(r)))
        loop.call_soon(seen.append, 1)
        task = loop.create_task(step("a"))
        other = loop.create_task(step("b"))
        handle = loop.call_soon(seen.append, 2)
        cancelled = loop.call_soon(seen.append, "never")
        timers = [loop.call_later(d, seen.append, d) for d in (0.02, 0.01, 0.03)]
        never = loop.call_later(0.01, seen.append, "never")
        long_ago = loop.call_later(5, seen.append, "never")
        change(loop)
        assert loop._compatible
        assert handle in loop._ready and isinstance(loop._ready, collections.deque)
        assert sorted(loop._scheduled) == sorted([*timers, never, long_ago])
        cancelled.cancel()
        never.cancel()
        long_ago.cancel()
        assert loop._timer_cancelled_count == 2
        last = loop.create_future()
        loop.call_later(0.04, last.set_result, None)
        loop.run_until_complete(last)
        assert task.done() and other.done()
    assert seen[:4] == [1, "a", "b", 2]
    assert [x for x in seen if isinstance(x, float)] == [0.01, 0.02, 0.03]
    assert "read" in seen and "a''" in seen and "b''" in seen and "never" not in seen
    assert loop._scheduled == [] or all(h._cancelled for h in loop._scheduled)


@entries
def test_in_the_middle_of_a_run(loop, change):
    """By a task, with other tasks waiting for all sorts of things."""

    async def wait_for(awaitable):
        await awaitable
        return asyncio.current_task() is not None

    async def main():
        notify = pyasync_c.Notify()
        future = loop.create_future()
        waiting = [
            loop.create_task(wait_for(awaitable))
            for awaitable in (
                notify.notified(),
                pyasync_c.sleep(0.01),
                asyncio.sleep(0.01),
                future,
                asyncio.Event().wait(),
            )
        ]
        await turns()
        last = waiting.pop()
        change(loop)
        loop.call_later(0.005, future.set_result, None)
        threading.Timer(0.02, notify.notify_one).start()
        assert asyncio.current_task() is me
        made_after = loop.create_task(wait_for(pyasync_c.sleep(0.001)))
        assert type(made_after) is asyncio.Task
        assert await asyncio.gather(made_after, *waiting) == [True] * 5
        assert asyncio.current_task() is me
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        return "done"

    me = loop.create_task(main())
    assert loop.run_until_complete(me) == "done"
    assert loop._compatible
    assert loop.run_until_complete(asyncio.sleep(0.001, "again")) == "again"


def test_asyncios_own_tasks_wait_on(loop):
    """Which a task factory had made, and which wait for futures of ours."""

    async def wait_for(awaitable):
        return await awaitable

    notify = pyasync_c.Notify()
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    tasks = [
        loop.create_task(wait_for(awaitable))
        for awaitable in (notify.notified(), pyasync_c.sleep(0.01, "slept"))
    ]
    assert type(tasks[0]) is asyncio.Task
    loop.run_until_complete(asyncio.sleep(0))
    assign_time(loop)
    threading.Timer(0.02, notify.notify_one).start()
    assert loop.run_until_complete(asyncio.gather(*tasks)) == [None, "slept"]


def test_by_a_callback_of_the_run(loop):
    seen = []
    loop.call_soon(assign_time, loop)
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 2)
    loop.run_forever()
    assert seen == [1, 2]
    assert loop._compatible and not loop._stopping


def test_after_stop_was_called(loop):
    loop.call_soon(loop.stop)
    loop.call_soon(assign_time, loop)
    loop.run_forever()
    assert not loop.is_running()


def test_ready_is_replaced(loop):
    first, last = loop.call_soon(nothing), loop.call_soon(loop.stop)
    loop._ready = collections.deque([last])
    assert loop._compatible
    loop.run_forever()
    assert first not in loop._ready
    loop._scheduled = []
    loop._ready.append(asyncio.Handle(loop.stop, (), loop))
    loop.run_forever()


def test_from_another_thread(loop):
    """The loop enters it itself, as soon as it gets there."""

    async def main():
        await loop.run_in_executor(None, assign_time, loop)
        while not loop._compatible:
            await asyncio.sleep(0.001)
        return await asyncio.sleep(0.001, "done")

    assert loop.run_until_complete(main()) == "done"


def test_twice_is_once(loop):
    loop.call_soon(nothing)
    assign_time(loop)
    ready = loop._ready
    assign_run_once(loop)
    assert loop._ready is ready and len(ready) == 1
    with pytest.raises(RuntimeError, match="already"):
        loop._divert()


def test_a_closed_loop_stays_closed(loop):
    loop.close()
    assign_time(loop)
    assert not loop._compatible
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        with pytest.raises(RuntimeError, match="closed"):
            call(nothing)


@every_way
def test_closed_in_the_mode(factory):
    loop = factory()
    loop.close()
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        with pytest.raises(RuntimeError, match="closed"):
            call(nothing)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, nothing)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("wait", [False, True])
def test_what_leaves_the_run(loop, error, wait):
    """From a task that was there before: by the run in which the mode was entered, and after."""

    async def main():
        assign_time(loop)
        if wait:
            await pyasync_c.sleep(0.001)
        raise error

    task = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(task)
    assert isinstance(task.exception(), error)
    assert loop.run_until_complete(asyncio.sleep(0, "runs on")) == "runs on"


def test_tasks_that_were_there_are_ended_by_closing():
    async def wait():
        try:
            await pyasync_c.sleep(1000)
        finally:
            seen.append(asyncio.current_task() is None)

    seen = []
    before = open_fds()
    loop = pyasync_c.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    assign_time(loop)
    loop.run_until_complete(asyncio.sleep(0.001))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert seen == [False]
    loop.close()
    assert open_fds() == before


@pytest.mark.parametrize("closed", [False, True])
def test_a_loop_that_is_given_up_is_garbage(closed):
    async def main():
        assign_time(asyncio.get_running_loop())
        pyasync_c.spawn(pyasync_c.Notify().notified())
        await pyasync_c.sleep(0.001)

    before = open_fds()
    loop = pyasync_c.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(main())
    loop.run_until_complete(task)
    if closed:
        loop.close()
    ref = weakref.ref(loop)
    with contextlib.ExitStack() as stack:
        if not closed:
            stack.enter_context(pytest.warns(ResourceWarning))
        del loop, task
        for _ in range(3):
            gc.collect()
    assert ref() is None
    assert open_fds() == before


# ── our awaitables there ─────────────────────────────────────────────────────────────────────


@every_way
def test_awaitables(factory):
    async def child(value):
        await pyasync_c.yield_now()
        return value

    async def main():
        loop = asyncio.get_running_loop()
        assert loop._compatible
        began = loop.time()
        assert await pyasync_c.sleep(0.01, "slept") == "slept"
        assert loop.time() - began >= 0.01
        notify = pyasync_c.Notify()
        threading.Timer(0.01, notify.notify_one).start()
        await notify.notified()
        assert await pyasync_c.spawn(child(1)) == 1
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.01):
                await pyasync_c.pending()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pyasync_c.Notify().notified(), 0.001)
        ticks = pyasync_c.interval(0.001)
        assert await anext(ticks) < await anext(ticks)
        assert await pyasync_c.spawn_blocking(lambda: 2) == 2
        assert await pyasync_c.into_future(child(3)) == 3
        task = loop.create_task(child(4))
        assert task in asyncio.all_tasks() and task in pyasync_c.all_tasks()
        assert pyasync_c.current_task() is asyncio.current_task()
        return await task

    assert run_with(factory, main()) == 4


@every_way
def test_the_rest_of_a_loop(factory):
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert await asyncio.to_thread(lambda: 5) == 5
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001, i)) for i in range(3)]
        return [task.result() for task in tasks]

    assert run_with(factory, main()) == [0, 1, 2]


def test_a_runtime_in_the_mode():
    async def main():
        runtime = pyasync_c.current_runtime()
        assign_time(runtime.get_loop())
        await pyasync_c.sleep(0.001)
        handle = runtime.handle()
        future = await asyncio.to_thread(lambda: handle.spawn(pyasync_c.sleep(0.001, 1)))
        while not future.done():
            await asyncio.sleep(0.001)
        pyasync_c.spawn(pyasync_c.sleep(1000))  # for closing to cancel
        return future.result()

    with pyasync_c.Runtime() as runtime:
        assert runtime.run(main()) == 1
        assert runtime.run(pyasync_c.sleep(0.001, 2)) == 2


@pytest.mark.parametrize("running", [False, True])
def test_a_task_of_ours_there(loop, running):
    """As a task factory may make one."""

    async def child():
        await asyncio.sleep(0.001)
        await pyasync_c.sleep(0.001)
        return await asyncio.shield(asyncio.sleep(0.001, asyncio.current_task()))

    async def main():
        task = pyasync_c.Task(child(), loop=loop)
        return await task is task

    assign_time(loop)
    if running:
        assert loop.run_until_complete(main())
    else:
        task = pyasync_c.Task(child(), loop=loop)
        assert loop.run_until_complete(task) is task


# ── schedulers that people bring ─────────────────────────────────────────────────────────────


def test_a_clock_that_jumps(loop):
    """As tests do that replace loop.time()."""
    skipped = 0.0
    loop.time = lambda: time.monotonic() + skipped
    seen = []
    loop.call_later(3600, seen.append, "later")
    loop.run_until_complete(asyncio.sleep(0.001))
    assert seen == []
    skipped = 3601.0
    loop.run_until_complete(asyncio.sleep(0.001))
    assert seen == ["later"]


def test_a_run_once_by_hand(loop):
    def run_once():
        ready, scheduled = loop._ready, loop._scheduled
        timeout = 0 if ready else max(0, scheduled[0]._when - loop.time()) if scheduled else None
        loop._process_events(loop._selector.select(timeout))
        while scheduled and scheduled[0]._when <= loop.time():
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        passes.append(None)

    passes = []
    task = loop.create_task(pyasync_c.sleep(0.01, "native"))
    loop._run_once = run_once
    assert loop.run_until_complete(asyncio.sleep(0.02, "slept")) == "slept"
    assert task.result() == "native"
    assert passes


@pytest.mark.skipif(not importlib.util.find_spec("looptime"), reason="looptime is not installed")
def test_looptime(loop):
    import looptime

    async def main():
        began, really_began = loop.time(), time.monotonic()
        await asyncio.sleep(1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.Event().wait()
        assert await asyncio.to_thread(lambda: 5) == 5
        assert time.monotonic() - really_began < 60
        return loop.time() - began

    assert looptime.patch_event_loop(loop) is loop
    assert loop.run_until_complete(main()) == pytest.approx(1100)


NESTED = """
import asyncio, sys, threading
import nest_asyncio, pyasync_c

async def give(x):
    await asyncio.sleep(0.001)
    await pyasync_c.sleep(0.001)
    return x

async def notified():
    notify = pyasync_c.Notify()
    threading.Timer(0.01, notify.notify_one).start()
    await notify.notified()
    return "notified"

def nested(loop):
    assert asyncio.run(give(1)) == 1
    assert loop.run_until_complete(give(2)) == 2
    assert asyncio.run(notified()) == "notified"
    assert pyasync_c.current_task() is asyncio.current_task()
"""
nest_asyncio = pytest.mark.skipif(
    not importlib.util.find_spec("nest_asyncio"), reason="nest_asyncio is not installed"
)


@nest_asyncio
def test_lines_by_which_the_connection_is_lost():
    """A transport of before: what it is to write runs the loop within itself until it is lost."""
    program = """
import asyncio, os, socket
import nest_asyncio, pyasync_c

class Lost(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.lost.set_result(exc)

def lines(transport, lost):
    yield b"one"
    transport.abort()
    asyncio.get_running_loop().run_until_complete(lost)
    yield b"two"

async def main():
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    read, write = os.pipe()
    stream, protocol = await loop.create_connection(Lost, sock=ours)
    pipe, other = await loop.connect_write_pipe(Lost, open(write, "wb", 0))
    nest_asyncio.apply(loop)
    for transport, lost in (stream, protocol.lost), (pipe, other.lost):
        assert type(transport).__module__ == "pyasync_c"
        transport.writelines(lines(transport, lost))
        assert transport.get_write_buffer_size() == 0
    assert peer.recv(100) == os.read(read, 100) == b""

pyasync_c.run(main())
print("done")
"""
    assert python(program) == "done\n"


@nest_asyncio
def test_nest_asyncio_applied_within_a_run():
    program = """
async def wait(n):
    for _ in range(n):
        await pyasync_c.sleep(0.001)
    return n

async def main():
    before = [pyasync_c.spawn(wait(n)) for n in (1, 5)]
    await asyncio.sleep(0)
    nest_asyncio.apply()
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    nested(loop)
    assert loop.run_until_complete(before[0]) == 1   # a task of before, from within
    await pyasync_c.sleep(0.001)
    assert asyncio.current_task() is me
    nested(loop)                                     # now from a turn of the executor
    async def deeper():
        nested(loop)
        return await before[1]
    assert asyncio.run(deeper()) == 5
    await asyncio.sleep(0.001)
    async with pyasync_c.timeout(10):
        assert await asyncio.gather(give(1), deeper()) == [1, 5]
    return "main"

assert pyasync_c.run(main()) == "main"

# Loops that are made afterwards get the mode as well, and nest too.
async def again():
    assert asyncio.get_running_loop()._compatible
    nested(asyncio.get_running_loop())
    return "again"

assert pyasync_c.run(again()) == "again"
print("done")
"""
    assert python(NESTED + program) == "done\n"


@nest_asyncio
def test_nest_asyncio_applied_first():
    """To asyncio's own loop class, from which ours inherits."""
    program = """
nest_asyncio.apply()
async def main():
    loop = asyncio.get_running_loop()
    assert loop._compatible and isinstance(asyncio.current_task(), asyncio.Task)
    nested(loop)
    return "main"
assert pyasync_c.run(main()) == "main"
print("done")
"""
    assert python(NESTED.replace("import nest_asyncio, pyasync_c", "import nest_asyncio")
                  + "nest_asyncio.apply(asyncio.new_event_loop())\nimport pyasync_c\n"
                  + program) == "done\n"  # fmt: skip


GUIDE = (Path(__file__).parent.parent / "docs" / "compatible-mode.md").read_text()


@nest_asyncio
def test_the_guides_programs():
    programs = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    assert [python(program) for program in programs] == ["nested\n", ""]


@nest_asyncio
def test_nest_asyncio_applied_to_a_class_of_its_own():
    """Which keeps it from all other loops: how to leave the mode."""
    program = """
class Nesting(pyasync_c.EventLoop):
    pass
loop = Nesting()
nest_asyncio.apply(loop)
async def main():
    nested(loop)
    return "main"
asyncio.set_event_loop(loop)
assert loop.run_until_complete(main()) == "main"
loop.close()
other = pyasync_c.EventLoop()
assert not other._compatible
assert other.run_until_complete(give(3)) == 3
other.close()
print("done")
"""
    assert python(NESTED + program) == "done\n"


# ── private names that a new Python may move ─────────────────────────────────────────────────

TAKE_AWAY = """
import contextlib, importlib, sys, warnings
import pyasync_c
module, _, attribute = sys.argv[1].partition(":")
import asyncio
owner = importlib.import_module(module)
*path, name = attribute.split(".")
for part in path:
    owner = getattr(owner, part)
delattr(owner, name)
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as warned:
    try:
        with contextlib.closing(pyasync_c.new_event_loop()) as loop:
            repr(loop.create_future())
            print("works")
    except ImportError as error:
        print("ImportError", error)
for warning in warned:
    print(warning.category.__name__, warning.message)
"""


@pytest.mark.parametrize(
    "name",
    [
        "asyncio.events:_get_running_loop",
        "asyncio.events:_set_running_loop",
        "asyncio.events:TimerHandle._when",
        "asyncio.format_helpers:extract_stack",
        "asyncio.base_events:BaseEventLoop._check_running",
        "asyncio.selector_events:BaseSelectorEventLoop._add_reader",
        "_asyncio:Task",
    ],
)
def test_a_private_name_that_is_needed(name):
    output = python(TAKE_AWAY, name)
    assert output.startswith("ImportError ")
    assert name.rpartition(".")[2].rpartition(":")[2] in output
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in output


@pytest.mark.parametrize(
    "name",
    [
        "asyncio.base_futures:_future_repr",
        "asyncio.base_tasks:_task_get_stack",
        "asyncio.format_helpers:_format_callback_source",
        "asyncio.tasks:" + ("_all_tasks" if sys.version_info < (3, 12) else "_scheduled_tasks"),
    ],
)
def test_a_private_name_that_can_be_done_without(name):
    output = python(TAKE_AWAY, name)
    assert output.startswith("works\nRuntimeWarning pyasync_c: Python ")
    assert name.rpartition(":")[2] in output


def test_importing_the_package_looks_at_nothing_of_asyncio():
    program = "import sys, pyasync_c; print('asyncio' in sys.modules)"
    assert python(program) == "False\n"
