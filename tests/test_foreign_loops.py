"""Every awaitable of ours, on every loop and in every kind of task: the same results, the same
cancellation, and nothing left behind."""

import asyncio
import gc
import logging
import random
import sys
import threading
import time
import warnings
import weakref

import pytest
from helpers import (
    NO_UVLOOP,
    OUR_RUNTIME,
    Worker,
    awaits,
    collect,
    foreign_loop,
    open_fds,
    python,
    run_asyncio,
    run_uvloop,
    turns,
    unraisable,
    uvloop,
)
from net_testing import what_the_loops_open_once_a_process

import pyasync_c
from pyasync_c import PENDING, net

__all__ = ["what_the_loops_open_once_a_process"]

LONG = 1000.0


# ── the loops, and the tasks on them ─────────────────────────────────────────────────────────


def runner(new_loop, task_factory=None):
    def run(main):
        with asyncio.Runner(loop_factory=new_loop) as asyncio_runner:
            asyncio_runner.get_loop().set_task_factory(task_factory)
            return asyncio_runner.run(main)

    return run


def native_task(loop, coro, **kwargs):
    return asyncio.Task(coro, loop=loop, **kwargs)


def python_task(loop, coro, **kwargs):
    return asyncio.tasks._PyTask(coro, loop=loop, **kwargs)


def eager_task(loop, coro, **kwargs):
    return asyncio.Task(coro, loop=loop, eager_start=True, **kwargs)


# Not asyncio.eager_task_factory: it starts Runner.run's own coroutine before the loop runs.
def eager_inside(loop, coro, **kwargs):
    return (eager_task if loop.is_running() else native_task)(loop, coro, **kwargs)


NEEDS_EAGER = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are 3.12's")
ours = pyasync_c.new_event_loop
RUNNERS = [
    OUR_RUNTIME,
    pytest.param(run_asyncio, id="asyncio"),
    pytest.param(run_uvloop, id="uvloop", marks=NO_UVLOOP),
    pytest.param(runner(ours, native_task), id="native-task-on-ours"),
    pytest.param(runner(ours, python_task), id="python-task-on-ours"),
    pytest.param(runner(ours, eager_inside), id="eager-task-on-ours", marks=NEEDS_EAGER),
    pytest.param(runner(asyncio.new_event_loop, python_task), id="python-task-on-asyncio"),
    pytest.param(
        runner(asyncio.new_event_loop, eager_inside), id="eager-task-on-asyncio", marks=NEEDS_EAGER
    ),
]
every_run = pytest.mark.parametrize("run", RUNNERS)


@pytest.fixture(autouse=True)
def nothing_left(caplog, what_the_loops_open_once_a_process):
    """No descriptor, no word in asyncio's log."""
    before = open_fds()
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        yield
        collect()
    assert [record.getMessage() for record in caplog.records] == []
    assert open_fds() - before == set()


# ── the awaitables ───────────────────────────────────────────────────────────────────────────


class Later(pyasync_c.Future):
    """Ready when `when_to_wake(waker)` has come to call the waker."""

    def __init__(self, when_to_wake, value):
        self.when_to_wake = when_to_wake
        self.value = value
        self.woken = False
        self.drops = 0

    def poll(self, cx):
        if self.woken:
            return self.value
        waker = cx.waker.clone()
        if self.when_to_wake is not None:
            self.when_to_wake(lambda: self.wake(waker))
            self.when_to_wake = None
        return PENDING

    def wake(self, waker):
        self.woken = True
        waker.wake()

    def drop(self):
        self.drops += 1


def soon(wake):
    asyncio.get_running_loop().call_soon(wake)


def in_a_while(wake):
    asyncio.get_running_loop().call_later(0.002, wake)


def from_a_thread(wake):
    threading.Timer(0.002, wake).start()


def at_once(wake):
    wake()


def poll_twice():
    polls = []

    def poll(cx):
        polls.append(1)
        cx.waker.wake()
        return PENDING if len(polls) < 3 else len(polls)

    return pyasync_c.poll_fn(poll)


def notified(by):
    notify = pyasync_c.Notify()
    by(notify.notify_one)
    return notify.notified()


async def answers(value):
    await asyncio.sleep(0.001)
    await pyasync_c.sleep(0)
    return value


async def within_timeout():
    async with pyasync_c.timeout(LONG):
        return await pyasync_c.sleep(0.001, "in time")


async def over_timeout():
    try:
        async with pyasync_c.timeout(0.002):
            await pyasync_c.pending()
    except TimeoutError:
        return "too late"


def gated(gate, take, give):
    """A gate that a thread has shut, and that opens soon."""
    taken = Worker(take, gate).result()
    assert taken
    soon(lambda: give(gate, taken))
    return gate


async def locked():
    lock = gated(pyasync_c.Lock(), pyasync_c.Lock.try_acquire, lambda lock, _: lock.release())
    async with lock:
        return await pyasync_c.sleep(0, lock.locked())


def semaphore_acquire():
    shut = pyasync_c.Semaphore(3)
    gated(shut, lambda shut: shut.try_acquire(3), lambda _, permit: permit.release())
    return shut.acquire(2)


def rwlock_read():
    shut = pyasync_c.RwLock()
    return gated(shut, pyasync_c.RwLock.try_write, lambda _, permit: permit.release()).read()


async def rwlock_write():
    shut = pyasync_c.RwLock()
    gated(shut, pyasync_c.RwLock.try_read, lambda _, permit: permit.release())
    async with shut.write() as permit:
        return repr(permit)


def event_wait(by):
    event = pyasync_c.Event()
    by(event.set)
    return event.wait()


async def barrier_wait():
    barrier = pyasync_c.Barrier(3)
    return sorted(await asyncio.gather(*(barrier.wait() for _ in range(3))))


async def once_cell():
    cell = pyasync_c.OnceCell()
    return await asyncio.gather(*(cell.get_or_init(lambda: answers("made")) for _ in range(3)))


async def ticks():
    every = pyasync_c.interval(0.001)
    due = [await every.tick() for _ in range(3)]
    return [round((when - due[0]) * 1000, 3) for when in due]


async def poll_until_ready():
    awaitable = answers("polled")
    polls = 0
    while True:
        value = await pyasync_c.poll_once(awaitable)
        if value is not PENDING:
            return value, polls > 0
        polls += 1
        await pyasync_c.sleep(0.0005)


async def spawned():
    return await pyasync_c.spawn(answers("spawned"))


async def own_task_is_current():
    await pyasync_c.sleep(0)
    inner = await pyasync_c.spawn(asyncio.sleep(0, "child"))
    assert pyasync_c.current_task() is asyncio.current_task()
    assert pyasync_c.current_task() in pyasync_c.all_tasks()
    return inner


async def oneshot_sent(by):
    tx, rx = pyasync_c.oneshot()
    by(lambda: tx.send("sent"))
    return await rx


async def through_a_channel(by):
    tx, rx = pyasync_c.channel(1)
    await tx.send(1)
    send = asyncio.ensure_future(awaits(tx.send(2)))
    by(lambda: None)
    first = await rx.recv()
    await send
    tx.close()
    return first, [value async for value in rx]


async def received(by):
    tx, rx = pyasync_c.unbounded_channel()
    by(lambda: tx.send("sent"))
    return await rx.recv(), (tx.send(1), await rx.recv_many(9))[1]


async def broadcasted(by):
    tx, rx = pyasync_c.broadcast(2)
    by(lambda: tx.send("sent"))
    return await rx.recv()


async def watched(by):
    tx, rx = pyasync_c.watch(0)
    by(lambda: tx.send(1))
    await rx.changed()
    by(lambda: tx.send(2))
    return await rx.wait_for(lambda value: value == 2)


async def nobody_receives(by):
    tx, rx = pyasync_c.channel(1)
    by(rx.close)
    return await tx.closed()


async def over_a_stream(by):
    async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
        accepting = asyncio.ensure_future(awaits(listener.accept()))
        async with await net.TcpStream.connect(*listener.local_addr) as client:
            server, _ = await accepting
            async with server:
                reading = asyncio.ensure_future(awaits(server.readline()))
                by(lambda: client.write_all(b"li").poll(pyasync_c.Context(pyasync_c.noop_waker())))
                await asyncio.sleep(0.002)
                await client.write_all([b"ne\n", b"rest"])
                await client.shutdown()
                return await reading, await server.read(), await server.read()


async def datagrams():
    async with await net.UdpSocket.bind("127.0.0.1", 0) as udp:
        receiving = asyncio.ensure_future(awaits(udp.recv()))
        await udp.send_to(b"to myself", udp.local_addr)
        return await receiving


AWAITABLES = {
    "stream": (lambda: over_a_stream(at_once), (b"line\n", b"rest", b"")),
    "stream-soon": (lambda: over_a_stream(soon), (b"line\n", b"rest", b"")),
    "datagrams": (datagrams, b"to myself"),
    "sleep": (lambda: pyasync_c.sleep(0.002, "slept"), "slept"),
    "sleep-zero": (lambda: pyasync_c.sleep(0, "slept"), "slept"),
    "sleep-until": (lambda: pyasync_c.sleep_until(pyasync_c.now() + 0.002), None),
    "yield_now": (lambda: yielded(), "yielded"),
    "ready": (lambda: pyasync_c.ready((1, 2)), (1, 2)),
    "notify-permit": (lambda: notified(at_once), None),
    "notify-soon": (lambda: notified(soon), None),
    "notify-from-a-thread": (lambda: notified(from_a_thread), None),
    "lock": (locked, True),
    "lock-free": (lambda: pyasync_c.Lock().acquire(), True),
    "semaphore": (lambda: in_text(semaphore_acquire()), "<Permit of 2>"),
    "rwlock-read": (lambda: in_text(rwlock_read()), "<Permit to read>"),
    "rwlock-write": (rwlock_write, "<Permit to write>"),
    "event-set": (lambda: event_wait(at_once), True),
    "event-soon": (lambda: event_wait(soon), True),
    "event-from-a-thread": (lambda: event_wait(from_a_thread), True),
    "barrier": (barrier_wait, [False, False, True]),
    "once_cell": (once_cell, ["made"] * 3),
    "future-at-once": (lambda: Later(at_once, "woken"), "woken"),
    "future-soon": (lambda: Later(soon, "woken"), "woken"),
    "future-in-a-while": (lambda: Later(in_a_while, "woken"), "woken"),
    "future-from-a-thread": (lambda: Later(from_a_thread, "woken"), "woken"),
    "poll_fn": (poll_twice, 3),
    "into_future-coroutine": (lambda: pyasync_c.into_future(answers("into")), "into"),
    "into_future-asyncio": (lambda: pyasync_c.into_future(asyncio.sleep(0.001, "into")), "into"),
    "into_future-future": (lambda: pyasync_c.into_future(Later(soon, "into")), "into"),
    "poll_once-ready": (lambda: pyasync_c.poll_once(pyasync_c.ready(1)), 1),
    "poll_once-pending": (lambda: pyasync_c.poll_once(pyasync_c.pending()), PENDING),
    "poll_once-repeated": (poll_until_ready, ("polled", True)),
    "interval": (ticks, [0.0, 1.0, 2.0]),
    "timeout-in-time": (within_timeout, "in time"),
    "timeout-too-late": (over_timeout, "too late"),
    "spawn": (spawned, "spawned"),
    "spawn_blocking": (lambda: pyasync_c.spawn_blocking(pow, 2, 10), 1024),
    "spawn_blocking-keywords": (lambda: pyasync_c.spawn_blocking(int, "ff", base=16), 255),
    "current_task": (own_task_is_current, "child"),
    "oneshot-soon": (lambda: oneshot_sent(soon), "sent"),
    "oneshot-from-a-thread": (lambda: oneshot_sent(from_a_thread), "sent"),
    "channel": (lambda: through_a_channel(soon), (1, [2])),
    "unbounded_channel-soon": (lambda: received(soon), ("sent", [1])),
    "unbounded_channel-from-a-thread": (lambda: received(from_a_thread), ("sent", [1])),
    "broadcast-soon": (lambda: broadcasted(soon), "sent"),
    "broadcast-from-a-thread": (lambda: broadcasted(from_a_thread), "sent"),
    "watch-soon": (lambda: watched(soon), 2),
    "watch-from-a-thread": (lambda: watched(from_a_thread), 2),
    "sender-closed": (lambda: nobody_receives(in_a_while), None),
    "cancelled": (lambda: cancelled_token(in_a_while).cancelled(), None),
    "cancelled-from-a-thread": (lambda: cancelled_token(from_a_thread).cancelled(), None),
    "run_until_cancelled": (
        lambda: pyasync_c.CancellationToken().run_until_cancelled(answers("run")),
        "run",
    ),
    "run_until_cancelled-cancelled": (
        lambda: cancelled_token(from_a_thread).run_until_cancelled(sleeps_long()),
        None,
    ),
    "join": (
        lambda: pyasync_c.join(answers(1), Later(soon, 2), pyasync_c.ready(3)),
        (1, 2, 3),
    ),
    "join_next": (lambda: awaits(joins_next()), "joined"),
    "spawn_wait": (lambda: spawns_into_a_full_set(), ["first", "second"]),
    "task-group": (lambda: in_a_group(), ["grouped", "grouped"]),
    "join-none": (lambda: pyasync_c.join(), ()),
    "select-coroutine": (lambda: pyasync_c.select(sleeps_long(), answers("first")), (1, "first")),
    "select-future": (
        lambda: pyasync_c.select(sleeps_long(), pyasync_c.pending(), Later(from_a_thread, 1)),
        (2, 1),
    ),
}


async def joins_next():
    tasks = pyasync_c.JoinSet()
    tasks.spawn(answers("joined"))
    return (await tasks.join_next()).result()


async def spawns_into_a_full_set():
    async with pyasync_c.JoinSet(limit=1) as tasks:
        tasks.spawn(answers("first"))
        await tasks.spawn_wait(answers("second"))
        return [task.result() async for task in tasks]


async def in_a_group():
    async with pyasync_c.TaskGroup() as group:
        tasks = [group.create_task(answers("grouped")) for _ in range(2)]
    return [task.result() for task in tasks]


def cancelled_token(by):
    token = pyasync_c.CancellationToken()
    by(token.cancel)
    return token


async def in_text(awaitable):
    return repr(await awaitable)


async def yielded():
    await pyasync_c.yield_now()
    return "yielded"


def endless(make):
    return pytest.mark.parametrize(make, [pytest.param(f, id=k) for k, f in ENDLESS.items()])


ENDLESS = {
    "sleep": lambda: pyasync_c.sleep(LONG),
    "sleep-forever": lambda: pyasync_c.sleep(float("inf")),
    "pending": lambda: pyasync_c.pending(),
    "notified": lambda: pyasync_c.Notify().notified(),
    "lock": lambda: locked_for_good().acquire(),
    "semaphore": lambda: pyasync_c.Semaphore(1).acquire(2),
    "rwlock": lambda: waits_to_write(),
    "event": lambda: pyasync_c.Event().wait(),
    "barrier": lambda: pyasync_c.Barrier(2).wait(),
    "once_cell": lambda: pyasync_c.OnceCell().get_or_init(sleeps_long),
    "future": lambda: Later(None, None),
    "poll_fn": lambda: pyasync_c.poll_fn(lambda cx: PENDING),
    "into_future-sleep": lambda: pyasync_c.into_future(pyasync_c.sleep(LONG)),
    "into_future-asyncio-sleep": lambda: pyasync_c.into_future(asyncio.sleep(LONG)),
    "into_future-event": lambda: pyasync_c.into_future(asyncio.Event().wait()),
    "into_future-coroutine": lambda: pyasync_c.into_future(sleeps_long()),
    "spawn": lambda: pyasync_c.spawn(pyasync_c.sleep(LONG)),
    "timeout": lambda: times_out_late(),
    "interval": lambda: second_tick(),
    "oneshot": lambda: kept_sender(pyasync_c.oneshot(), lambda rx: rx),
    "channel-send": lambda: full_channel(),
    "channel-recv": lambda: kept_sender(pyasync_c.channel(1), lambda rx: rx.recv()),
    "channel-recv_many": lambda: kept_sender(pyasync_c.channel(1), lambda rx: rx.recv_many(2)),
    "channel-async-for": lambda: kept_sender(pyasync_c.channel(1), anext),
    "broadcast-recv": lambda: kept_sender(pyasync_c.broadcast(1), lambda rx: rx.recv()),
    "watch-changed": lambda: kept_sender(pyasync_c.watch(0), lambda rx: rx.changed()),
    "watch-wait_for": lambda: kept_sender(pyasync_c.watch(0), lambda rx: rx.wait_for(bool)),
    "sender-closed": lambda: kept_receiver(),
    "cancelled": lambda: pyasync_c.CancellationToken().cancelled(),
    "run_until_cancelled": lambda: pyasync_c.CancellationToken().run_until_cancelled(sleeps_long()),
    "join": lambda: pyasync_c.join(sleeps_long(), pyasync_c.ready(1), pyasync_c.pending()),
    "select": lambda: pyasync_c.select(sleeps_long(), pyasync_c.pending()),
    "join_next": lambda: joins_the_endless(),
    "spawn_wait": lambda: waits_for_room(),
    "task-group": lambda: group_of_the_endless(),
    "select-nested": lambda: pyasync_c.select(pyasync_c.join(sleeps_long()), pyasync_c.pending()),
}


async def kept_sender(ends, receive):
    tx, rx = ends
    await receive(rx)
    tx.close()


async def full_channel():
    tx, rx = pyasync_c.channel(1)
    tx.try_send(1)
    await tx.send(2)
    rx.close()


async def kept_receiver():
    tx, rx = pyasync_c.channel(1)
    await tx.closed()
    rx.close()


def locked_for_good():
    lock = pyasync_c.Lock()
    assert Worker(lock.try_acquire).result()  # not this task
    return lock


async def waits_to_write():
    lock = pyasync_c.RwLock()
    with lock.try_read():
        await lock.write()


async def sleeps_long():
    await asyncio.sleep(0)
    await pyasync_c.sleep(LONG)


async def joins_the_endless():
    async with pyasync_c.JoinSet() as tasks:
        tasks.spawn(sleeps_long())
        await tasks.join_next()


async def waits_for_room():
    async with pyasync_c.JoinSet(limit=1) as tasks:
        tasks.spawn(sleeps_long())
        await tasks.spawn_wait(sleeps_long())


async def group_of_the_endless():
    async with pyasync_c.TaskGroup() as group:
        group.create_task(sleeps_long())


async def times_out_late():
    async with pyasync_c.timeout(LONG):
        await pyasync_c.pending()


async def second_tick():
    every = pyasync_c.interval(LONG)
    await every.tick()
    await every.tick()


async def settle():
    """Let a task come to where it waits, on any loop."""
    for _ in range(4):
        await asyncio.sleep(0)
    await asyncio.sleep(0.001)


# ── results ──────────────────────────────────────────────────────────────────────────────────


@every_run
@pytest.mark.parametrize("name", AWAITABLES)
def test_result(run, name):
    make, expected = AWAITABLES[name]

    async def main():
        assert await make() == expected
        assert await asyncio.ensure_future(awaits(make())) == expected

    run(main())


@every_run
def test_all_of_them_at_once(run):
    async def main():
        results = await asyncio.gather(*(awaits(make()) for make, _ in AWAITABLES.values()))
        assert results == [expected for _, expected in AWAITABLES.values()]

    run(main())


@every_run
def test_within_asyncios_own_tools(run):
    async def main():
        for make, expected in AWAITABLES.values():
            assert await asyncio.wait_for(awaits(make()), LONG) == expected
            async with asyncio.timeout(LONG):
                assert await make() == expected
            async with asyncio.TaskGroup() as group:
                task = group.create_task(awaits(make()))
            assert task.result() == expected
            assert await asyncio.shield(awaits(make())) == expected

    run(main())


@every_run
def test_an_error_out_of_each_kind(run):
    def fail(*args):
        raise ZeroDivisionError

    class Failing(pyasync_c.Future):
        def poll(self, cx):
            raise ZeroDivisionError

    async def fails():
        await pyasync_c.sleep(0.001)
        raise ZeroDivisionError

    async def main():
        for make in (
            lambda: pyasync_c.poll_fn(fail),
            Failing,
            fails,
            lambda: pyasync_c.into_future(fails()),
            lambda: pyasync_c.spawn(fails()),
            lambda: pyasync_c.spawn_blocking(fail),
        ):
            with pytest.raises(ZeroDivisionError):
                await make()

    run(main())


@every_run
def test_a_mixed_program(run):
    """Producers, a consumer, timers and threads in one program: every loop counts the same."""

    async def main():
        notify, items, seen = pyasync_c.Notify(), [], []

        async def produce(k):
            for step in range(20):
                if step % 5 == k % 5:
                    await pyasync_c.sleep(0.0005)
                elif step % 5 == 1:
                    await asyncio.sleep(0)
                elif step % 5 == 2:
                    await pyasync_c.yield_now()
                items.append((k, step))
                notify.notify_one()

        async def consume():
            while len(seen) < 200:
                while items:
                    seen.append(items.pop())
                if len(seen) < 200:
                    await notify.notified()

        async with asyncio.TaskGroup() as group:
            group.create_task(consume())
            for k in range(10):
                group.create_task(produce(k))
        assert sorted(seen) == [(k, step) for k in range(10) for step in range(20)]

    run(main())


# ── cancellation ─────────────────────────────────────────────────────────────────────────────


@every_run
@endless("make")
def test_cancelled_while_it_waits(run, make):
    async def main():
        task = asyncio.ensure_future(awaits(make()))
        await settle()
        assert not task.done()
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


@every_run
@endless("make")
def test_cancelled_before_it_began(run, make):
    async def main():
        task = asyncio.ensure_future(awaits(make()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ignore_never_awaited():
        run(main())


def ignore_never_awaited():
    # A coroutine argument of a coroutine that never began was never awaited: Python says so.
    import warnings

    context = warnings.catch_warnings()

    class Ignoring:
        def __enter__(self):
            context.__enter__()
            warnings.simplefilter("ignore", RuntimeWarning)

        def __exit__(self, *exc):
            gc.collect()
            return context.__exit__(*exc)

    return Ignoring()


@every_run
@endless("make")
def test_ended_by_a_timeout_of_asyncio(run, make):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await make()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaits(make()), 0.002)

    run(main())


@every_run
@endless("make")
def test_ended_by_a_timeout_of_ours(run, make):
    async def main():
        for delay in (0, 0.002):
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout(delay):
                    await make()

    run(main())


@every_run
def test_a_group_that_fails_cancels_all_of_them(run):
    async def fails():
        await pyasync_c.sleep(0.005)
        raise LookupError

    async def main():
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(awaits(make())) for make in ENDLESS.values()]
                group.create_task(fails())
        assert [type(error) for error in raised.value.exceptions] == [LookupError]
        assert all(task.cancelled() for task in tasks)

    run(main())


@every_run
def test_cancelling_a_gather(run):
    async def main():
        gathered = asyncio.gather(*(awaits(make()) for make in ENDLESS.values()))
        await settle()
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered

    run(main())


@every_run
def test_left_over_at_the_end_of_the_run(run):
    ended = []

    async def holds(make):
        try:
            await make()
        finally:
            ended.append(1)

    async def main():
        tasks = [asyncio.ensure_future(holds(make)) for make in ENDLESS.values()]
        await settle()
        assert not any(task.done() for task in tasks)

    run(main())
    assert len(ended) == len(ENDLESS)


@every_run
@pytest.mark.parametrize("pause", range(12))
def test_cancelled_at_each_suspension(run, pause):
    """A chain of waits of each kind, cancelled after `pause` turns: it ends there, cleanly."""
    log = []

    async def chain():
        notify = pyasync_c.Notify()
        loop = asyncio.get_running_loop()
        try:
            for k in range(3):
                log.append(k)
                await pyasync_c.sleep(0)
                loop.call_soon(notify.notify_one)
                await notify.notified()
                await Later(soon, None)
                await pyasync_c.into_future(asyncio.sleep(0))
                async with pyasync_c.timeout(LONG):
                    await pyasync_c.yield_now()
            log.append("end")
            await pyasync_c.pending()
        finally:
            await pyasync_c.sleep(0)
            log.append("cleaned")

    async def main():
        task = asyncio.ensure_future(chain())
        await turns(pause + 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log[-1] == "cleaned"

    run(main())


@every_run
def test_what_was_cancelled_is_as_if_it_had_never_been_waited_for(run):
    async def main():
        notify = pyasync_c.Notify()
        delay, later = pyasync_c.sleep(3600, "delay"), Later(None, None)
        waits = [awaits(delay), awaits(notify.notified()), awaits(later)]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert repr(notify) == "<Notify waiters=0 permit=no>"
        assert later.drops == 1
        delay.reset(0)
        assert await delay == "delay"

    run(main())


@every_run
def test_a_notification_and_a_cancellation_in_the_same_turn(run):
    """Whoever does not get to see the notification hands it on: one wait ends for each."""

    async def main():
        for order in range(4):
            notify = pyasync_c.Notify()
            first = asyncio.ensure_future(awaits(notify.notified()))
            await settle()
            second = asyncio.ensure_future(awaits(notify.notified()))
            await settle()
            if order % 2:
                notify.notify_one()
                first.cancel()
            else:
                first.cancel()
                notify.notify_one()
            await turns(order)
            (outcome,) = await asyncio.gather(first, return_exceptions=True)
            if outcome is None:  # it was quicker
                notify.notify_one()
            await asyncio.wait_for(second, 60)
            assert repr(notify) == "<Notify waiters=0 permit=no>"

    run(main())


# ── many, and in order ───────────────────────────────────────────────────────────────────────


@foreign_loop
def test_many_sleeps_at_once(run):
    count = 10_000
    rng = random.Random(5)
    early = []

    async def one(delay):
        started_ns = time.monotonic_ns()
        await pyasync_c.sleep(delay)
        if time.monotonic_ns() - started_ns < delay * 1e9:
            early.append(delay)

    async def main():
        await asyncio.gather(*(one(rng.random() * 0.1) for _ in range(count)))

    run(main())
    assert early == []


@foreign_loop
def test_many_sleeps_cost_the_loop_one_timer(run):
    timers = []

    async def main():
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(awaits(pyasync_c.sleep(LONG + k))) for k in range(500)]
        await settle()
        if hasattr(loop, "_scheduled"):
            timers.extend(handle for handle in loop._scheduled if not handle.cancelled())
            assert len(timers) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(loop, "_scheduled"):
            assert [handle for handle in loop._scheduled if not handle.cancelled()] == []
            assert loop._selector.get_map().keys() == {loop._ssock.fileno()}

    run(main())


@every_run
def test_sleepers_come_in_the_order_of_their_deadlines(run):
    order = []

    async def one(base, offset):
        await pyasync_c.sleep_until(base + offset)
        order.append(offset)

    async def all_sleep_in_time():
        order.clear()
        base = pyasync_c.now() + 0.03
        offsets = [k * 1e-6 for k in range(200)]
        random.Random(6).shuffle(offsets)
        tasks = [asyncio.ensure_future(one(base, offset)) for offset in offsets]
        await settle()
        in_time = pyasync_c.now() < base
        time.sleep(0.04)
        await asyncio.gather(*tasks)
        return in_time

    async def main():
        # A machine that stalls meanwhile says nothing about the order.
        while not await all_sleep_in_time():
            pass

    run(main())
    assert len(order) == 200 and order == sorted(order)


@every_run
def test_an_earlier_sleep_shortens_the_wait(run):
    async def main():
        long = asyncio.ensure_future(awaits(pyasync_c.sleep(LONG)))
        await settle()
        # Armed by a callback, not by a turn of ours.
        await asyncio.wait_for(pyasync_c.sleep(0.005), 60)
        late = [pyasync_c.sleep(LONG) for _ in range(3)]
        tasks = [asyncio.ensure_future(awaits(delay)) for delay in late]
        await settle()
        for delay in late:
            asyncio.get_running_loop().call_soon(delay.reset, 0.002)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)

    run(main())


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_run
def test_woken_from_many_threads_at_once(run):
    threads, each = 8, 50

    def wake_all(wakes):
        for wake in wakes:
            wake()

    async def main():
        wakes = [[] for _ in range(threads)]
        laters = [Later(wakes[k % threads].append, k) for k in range(threads * each)]
        tasks = [asyncio.ensure_future(awaits(later)) for later in laters]
        await settle()
        workers = [Worker(wake_all, some) for some in wakes]
        results = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert results == list(range(threads * each))
        for worker in workers:
            worker.result()
            for wake in wakes[0]:
                wake()  # long since done: a no-op

    run(main())


@every_run
def test_woken_while_the_loop_is_parked(run):
    async def main():
        for _ in range(30):
            later = Later(from_a_thread, "woken")
            assert await later == "woken"

    run(main())


@every_run
def test_a_waker_of_an_earlier_leaf_disturbs_nobody(run):
    """What waited for one leaf waits for the next one: a late wake makes a poll, no more."""

    class Ready(pyasync_c.Future):
        def poll(self, cx):
            self.waker = cx.waker.clone()
            return "at once"

    class Waiting(pyasync_c.Future):
        polls = 0
        done = False

        def poll(self, cx):
            self.polls += 1
            self.waker = cx.waker.clone()
            return "in the end" if self.done else pyasync_c.PENDING

    async def main():
        for wakes_after in (0, 1, 3):
            first, second = Ready(), Waiting()
            assert await first == "at once"
            task = asyncio.ensure_future(second)
            for _ in range(wakes_after):
                first.waker.wake()
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)
            assert second.polls >= 1 and not task.done()
            first.waker.wake()
            await asyncio.sleep(0)
            second.done = True
            second.waker.wake()
            assert await asyncio.wait_for(task, 5) == "in the end"

    run(main())


@every_run
def test_ready_leaves_and_waiting_ones_in_turn(run):
    async def main():
        tx, rx = pyasync_c.channel(3)

        async def produce():
            for i in range(100):
                await tx.send(i)

        tasks = [asyncio.ensure_future(produce()) for _ in range(3)]
        got = sorted([await rx.recv() for _ in range(300)])
        assert got == sorted([*range(100)] * 3)
        await asyncio.gather(*tasks)

    run(main())


def always_ready():
    """What is ready each time that it is awaited, by name: functions that make an awaitable."""
    sender, receiver = pyasync_c.unbounded_channel()
    notify, event, lock = pyasync_c.Notify(), pyasync_c.Event(), pyasync_c.Lock()
    cell, token, watched = pyasync_c.OnceCell(), pyasync_c.CancellationToken(), pyasync_c.watch(1)
    semaphore, rwlock, barrier = pyasync_c.Semaphore(2), pyasync_c.RwLock(), pyasync_c.Barrier(1)
    event.set()
    cell.set(1)
    token.cancel()

    async def locked():
        async with lock:
            pass

    def oneshot():
        tx, rx = pyasync_c.oneshot()
        tx.send(1)
        return rx

    return {
        "recv": lambda: sender.send(1) or receiver.recv(),
        "recv_many": lambda: sender.send(1) or receiver.recv_many(3),
        "notified": lambda: notify.notify_one() or notify.notified(),
        "oneshot": oneshot,
        "event": event.wait,
        "lock": locked,
        "semaphore": semaphore.acquire,
        "rwlock": rwlock.read,
        "barrier": barrier.wait,
        "cell": lambda: cell.get_or_init(print),
        "token": token.cancelled,
        "wait_for": lambda: watched[1].wait_for(bool),
        "select": lambda: pyasync_c.select(pyasync_c.pending(), event.wait()),
        "join": lambda: pyasync_c.join(event.wait(), event.wait()),
    }


@every_run
@pytest.mark.parametrize("name", always_ready())
def test_a_task_whose_awaits_are_always_ready_lets_others_run(run, name):
    async def main():
        make, others = always_ready()[name], []
        for _ in range(3):
            asyncio.get_running_loop().call_soon(others.append, "has run")
            rounds = 0
            while not others and rounds < 1000:
                await make()
                rounds += 1
            assert others.pop() == "has run"

    run(main())


LOOPS = {
    "ours": pyasync_c.new_event_loop,
    "asyncio": asyncio.new_event_loop,
    "uvloop": getattr(uvloop, "new_event_loop", None),
}


@pytest.mark.parametrize("there", LOOPS)
@pytest.mark.parametrize("here", LOOPS)
def test_two_loops_in_two_threads_share_a_notify(here, there):
    if uvloop is None and "uvloop" in (here, there):
        pytest.skip("uvloop is not installed")
    rounds = 500
    ping, pong, together = (pyasync_c.Notify() for _ in range(3))

    async def serve():
        for _ in range(rounds):
            ping.notify_one()
            await pong.notified()
        await together.notified()

    async def answer():
        for _ in range(rounds):
            await ping.notified()
            pong.notify_one()
        together.notify_waiters()
        for _ in range(10_000):
            if worker_done.is_set():
                return
            together.notify_waiters()
            await pyasync_c.sleep(0.001)
        pytest.fail("the broadcast does not come through")

    def serve_in_a_loop():
        try:
            runner(LOOPS[there])(serve())
        finally:
            worker_done.set()

    worker_done = threading.Event()
    worker = Worker(serve_in_a_loop)
    runner(LOOPS[here])(answer())
    worker.result()


@foreign_loop
def test_one_loop_after_the_other(run):
    """Nothing of one loop is left to the next on the same thread."""
    delay = pyasync_c.sleep(LONG, "kept")
    notify = pyasync_c.Notify()

    async def begin():
        delay.reset(LONG)
        task = asyncio.ensure_future(awaits(delay))
        other = asyncio.ensure_future(awaits(notify.notified()))
        await settle()
        return task, other

    async def end():
        assert repr(notify) == "<Notify waiters=0 permit=no>"
        delay.reset(0.001)
        return await delay

    for _ in range(3):
        run(begin())
        assert run(end()) == "kept"


# ── the loop goes away ───────────────────────────────────────────────────────────────────────


def abandon(new_loop, awaitable):
    """A loop that is closed while a task waits for `awaitable` in it."""
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed"
    task = loop.create_task(awaits(awaitable))
    loop.run_until_complete(settle())
    assert not task.done()
    loop.close()
    return task


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("first", ["notify", "forget"])
def test_closed_while_a_task_waits_for_a_notification(name, first):
    if LOOPS[name] is None:
        pytest.skip("uvloop is not installed")
    notify = pyasync_c.Notify()
    task = abandon(LOOPS[name], notify.notified())
    if first == "notify":
        notify.notify_one()
    del task
    collect()
    if first == "forget":
        notify.notify_one()
    # Handed on by the waiter that is no more, or never taken by it.
    assert repr(notify) == "<Notify waiters=0 permit=yes>"


@endless("make")
def test_our_loop_given_up_with_a_task_of_asyncios_own(make):
    """Neither closed nor run to the end: garbage, with the task and what it waits for."""

    class Held:
        pass

    async def make_and_wait(held):
        await make()

    async def main():
        loop = asyncio.get_running_loop()
        held = Held()
        task = asyncio.Task(make_and_wait(held), loop=loop)
        await settle()
        assert not task.done()
        return [weakref.ref(thing) for thing in (loop, task, held)]

    with ignore_never_awaited(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = pyasync_c.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed"
        refs = loop.run_until_complete(main())
        collect()
        del loop
        collect()
    assert [ref() for ref in refs] == [None] * 3


@pytest.mark.parametrize("name", LOOPS)
@endless("make")
def test_closed_while_a_task_waits(name, make):
    if LOOPS[name] is None:
        pytest.skip("uvloop is not installed")

    async def make_and_wait():
        await make()

    with ignore_never_awaited(), unraisable() as seen:
        # A task that goes while the collector closes what it awaits: Python says this of the rest.
        task = abandon(LOOPS[name], make_and_wait())
        del task
        collect()
    assert [str(error) for error in seen if "already executing" not in str(error)] == []


@pytest.mark.parametrize("name", LOOPS)
def test_woken_from_a_thread_after_the_loop_is_closed(name):
    if LOOPS[name] is None:
        pytest.skip("uvloop is not installed")
    wakes = []
    task = abandon(LOOPS[name], Later(wakes.append, None))
    Worker(wakes[0]).result()
    del task
    collect()
    Worker(wakes[0]).result()


@foreign_loop
def test_repeated_runs_leave_no_descriptor(run):
    async def main():
        await asyncio.gather(pyasync_c.sleep(0.001), Later(from_a_thread, None))
        asyncio.ensure_future(awaits(pyasync_c.sleep(LONG)))
        await settle()

    run(main())
    collect()
    before = open_fds()
    for _ in range(10):
        run(main())
    collect()
    assert open_fds() == before


# ── outside of a loop ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyasync_c.sleep(1),
        lambda: pyasync_c.Notify().notified(),
        lambda: pyasync_c.pending(),
        lambda: Later(None, None),
        lambda: pyasync_c.interval(1).tick(),
    ],
)
def test_awaited_with_no_loop_at_all(make):
    async def main():
        await make()

    coroutine = main()
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


# ── a fork's child ───────────────────────────────────────────────────────────────────────────

FORK = """
import asyncio, gc, os, selectors, sys, threading, traceback
import pyasync_c

notify = pyasync_c.Notify()

async def waiter():
    await notify.notified()
    return "woken"

async def pause():
    await pyasync_c.sleep(0.001)
    return "slept"

def check(task):
    assert asyncio.run(pause()) == "slept"
    assert pyasync_c.run(pause()) == "slept"
    # What was suspended under the parent's loop is dropped, which the parent must not notice.
    task.get_coro().close()
    notify.notify_waiters()
    gc.collect()

def fork(task):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check(task)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

async def within():
    task = asyncio.ensure_future(waiter())
    await pause()
    fork(task)
    threading.Timer(0.05, notify.notify_one).start()
    assert await task == "woken"
    assert await pause() == "slept"

loop = NEW_LOOP
task = loop.create_task(waiter())
loop.run_until_complete(pause())
fork(task)
# From another thread, and with no timer armed: the parent's selector has to watch the bridge still.
threading.Timer(0.05, notify.notify_one).start()
assert loop.run_until_complete(task) == "woken"
loop.run_until_complete(within())
loop.close()
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "new_loop",
    [
        "asyncio.new_event_loop()",
        "pyasync_c.EventLoop(selectors.DefaultSelector())",
        "pyasync_c.new_event_loop()",
    ],
    ids=["asyncio", "compatible", "native"],
)
def test_a_forks_child_leaves_the_parents_bridge_alone(new_loop):
    python(FORK.replace("NEW_LOOP", new_loop))


class Unreferable:
    """A loop that takes no weak references."""

    __slots__ = ("loop",)

    def __init__(self, loop):
        self.loop = loop

    def __getattr__(self, name):
        return getattr(self.loop, name)


def test_sockets_on_a_loop_that_takes_no_weak_references():
    """Nothing but the loop holds its bridge, and that only while it watches it."""

    async def main():
        loop = asyncio.get_running_loop()
        unreferable = Unreferable(loop)
        context = pyasync_c.Context(pyasync_c.noop_waker())
        try:
            for _ in range(2):
                asyncio._set_running_loop(unreferable)
                one, two = net.UnixStream.pair()
                assert one.write(b"written").poll(context) == 7
                reading = two.read()
                while (got := reading.poll(context)) is PENDING:
                    asyncio._set_running_loop(loop)
                    await asyncio.sleep(0)
                    asyncio._set_running_loop(unreferable)
                assert got == b"written"
                one.close()
                two.close()
        finally:
            asyncio._set_running_loop(loop)

    run_asyncio(main())
