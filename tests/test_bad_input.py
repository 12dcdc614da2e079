"""Bad input: the exception that each gets, what its message says, and that the rest goes on."""

import asyncio
import copy
import datetime
import gc
import inspect
import math
import os
import pickle
import socket
import threading
import tracemalloc
import weakref
from decimal import Decimal

import pytest
import surface
from helpers import CountingWaker, Worker, awaits, every_loop, turns, unraisable

import pyasync_c
from pyasync_c import PENDING, Notify, _core


async def nothing():
    return 1


def outside(call, *arguments):
    call(*arguments)


def inside(call, *arguments):
    async def main():
        call(*arguments)

    pyasync_c.run(main())


both_sides = pytest.mark.parametrize("where", [outside, inside])


# ── numbers ──────────────────────────────────────────────────────────────────────────────────

TAKES_SECONDS = {
    "sleep: seconds": pyasync_c.sleep,
    "sleep_until: when": pyasync_c.sleep_until,
    "timeout: delay": pyasync_c.timeout,
    "timeout_at: when": pyasync_c.timeout_at,
    "Timeout: when": pyasync_c.Timeout,
    "interval: period": pyasync_c.interval,
    "reset: seconds": lambda number: pyasync_c.sleep(1).reset(number),
}
BAD_NUMBERS = {
    "nan": (math.nan, ValueError, "{} must not be NaN"),
    "Decimal-nan": (Decimal("nan"), ValueError, "{} must not be NaN"),
    "str": ("1", TypeError, "{} must be a real number, not str"),
    "bytes": (b"1", TypeError, "{} must be a real number, not bytes"),
    "complex": (1j, TypeError, "{} must be a real number, not complex"),
    "timedelta": (
        datetime.timedelta(1),
        TypeError,
        "{} must be a real number, not datetime.timedelta",
    ),
    "list": ([], TypeError, "{} must be a real number, not list"),
    "10**400": (10**400, OverflowError, "int too large to convert to float"),
    "-10**400": (-(10**400), OverflowError, "int too large to convert to float"),
}


@both_sides
@pytest.mark.parametrize("what", TAKES_SECONDS)
@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_bad_seconds(what, number, where):
    value, error, message = BAD_NUMBERS[number]
    with pytest.raises(error) as raised:
        where(TAKES_SECONDS[what], value)
    assert str(raised.value) == message.format(what)


@pytest.mark.parametrize("what", ["sleep: seconds", "sleep_until: when", "interval: period"])
def test_none_is_no_number_of_seconds(what):
    with pytest.raises(TypeError, match=f"{what} must be a real number, not NoneType"):
        TAKES_SECONDS[what](None)


class Refuses:
    def __init__(self, error):
        self.error = error

    def __float__(self):
        raise self.error


@both_sides
@pytest.mark.parametrize("what", TAKES_SECONDS)
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, MemoryError])
def test_what_float_raises_comes_through(what, error, where):
    with pytest.raises(error):
        where(TAKES_SECONDS[what], Refuses(error))


def test_float_that_returns_no_float():
    class Odd:
        def __float__(self):
            return "1"

    with pytest.raises(TypeError, match="__float__"):
        pyasync_c.sleep(Odd())


def test_a_number_that_runs_a_loop_while_it_is_asked():
    class Runs:
        def __float__(self):
            return pyasync_c.run(pyasync_c.sleep(0, 0.5))

    before = pyasync_c.now()
    delay = pyasync_c.sleep_until(Runs())
    assert delay.deadline == 0.5 < before


def test_a_number_that_resets_the_same_delay_while_it_is_asked():
    class Resets:
        def __float__(self):
            delay.reset(1000)
            return 0.001

    async def main():
        task = pyasync_c.spawn(awaits(delay))
        await turns()
        delay.reset(Resets())
        await asyncio.wait_for(task, 60)

    delay = pyasync_c.sleep(1000)
    pyasync_c.run(main())


# ── the wrong arguments ──────────────────────────────────────────────────────────────────────

NOT_AWAITABLE = "an awaitable is required, not {}"
FORGOT = "an awaitable is required, not .*did you forget \\(\\)"
WRONG_ARGUMENTS = [
    (pyasync_c.run, (5,), TypeError, NOT_AWAITABLE.format("int")),
    (pyasync_c.run, (None,), TypeError, NOT_AWAITABLE.format("NoneType")),
    (pyasync_c.run, (nothing,), TypeError, FORGOT),
    (pyasync_c.run, (), TypeError, "main"),
    (pyasync_c.spawn, (5,), TypeError, NOT_AWAITABLE.format("int")),
    (pyasync_c.spawn, (nothing,), TypeError, FORGOT),
    (pyasync_c.spawn, (), TypeError, "spawn"),
    (pyasync_c.into_future, (5,), TypeError, NOT_AWAITABLE.format("int")),
    (pyasync_c.into_future, (nothing,), TypeError, FORGOT),
    (pyasync_c.poll_once, (5,), TypeError, NOT_AWAITABLE.format("int")),
    (pyasync_c.poll_once, (nothing,), TypeError, FORGOT),
    (pyasync_c.poll_fn, (5,), TypeError, "poll_fn: f must be callable, not int"),
    (pyasync_c.spawn_blocking, (5,), TypeError, "spawn_blocking: f must be callable, not int"),
    (pyasync_c.spawn_blocking, (), TypeError, "f"),
    (pyasync_c.ready, (), TypeError, "argument"),
    (pyasync_c.pending, (1,), TypeError, "argument"),
    (pyasync_c.yield_now, (1,), TypeError, "argument"),
    (pyasync_c.now, (1,), TypeError, "argument"),
    (pyasync_c.sleep, (), TypeError, "takes 1 or 2 positional arguments"),
    (pyasync_c.sleep, (1, 2, 3), TypeError, "takes 1 or 2 positional arguments"),
    (pyasync_c.timeout, (), TypeError, "takes exactly 1 argument"),
    (pyasync_c.timeout, (1, 2), TypeError, "takes exactly 1 argument"),
    (pyasync_c.Future, (), TypeError, "made by subclassing it"),
    (pyasync_c.Waker, (), TypeError, "takes exactly 1 argument"),
    (pyasync_c.Waker, (5,), TypeError, "wake must be callable, not int"),
    (pyasync_c.Context, (), TypeError, "takes exactly 1 argument"),
    (pyasync_c.Context, (5,), TypeError, "waker must be a Waker, not int"),
    (pyasync_c.noop_waker().will_wake, (5,), TypeError, "other must be a Waker, not int"),
    (Notify, (1,), TypeError, "takes no arguments"),
    (pyasync_c.Event, (1,), TypeError, "takes no arguments"),
    (pyasync_c.Lock, (1,), TypeError, "takes no arguments"),
    (pyasync_c.RwLock, (1,), TypeError, "takes no arguments"),
    (pyasync_c.OnceCell, (1,), TypeError, "takes no arguments"),
    (pyasync_c.Semaphore, (), TypeError, "expected 1 argument"),
    (pyasync_c.Semaphore, (1, 2), TypeError, "expected 1 argument"),
    (pyasync_c.Barrier, (), TypeError, "expected 1 argument"),
    (pyasync_c.OnceCell().get_or_init, (5,), TypeError, "f must be callable, not int"),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [pytest.param(*row, id=f"{row[0].__name__}{row[1]}"[:40]) for row in WRONG_ARGUMENTS],
)
def test_wrong_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    "future",
    [
        lambda: pyasync_c.sleep(1),
        lambda: Notify().notified(),
        lambda: pyasync_c.ready(1),
        lambda: pyasync_c.pending(),
        lambda: pyasync_c.poll_fn(print),
        lambda: pyasync_c.into_future(pyasync_c.ready(1)),
    ],
)
@pytest.mark.parametrize("context", [5, None, pyasync_c.noop_waker()])
def test_polled_with_something_else_than_a_context(future, context):
    with pytest.raises(TypeError, match="cx must be a Context, not "):
        future().poll(context)


def test_keywords():
    with pytest.raises(TypeError, match="unexpected keyword argument 'later'"):
        pyasync_c.sleep(1, later=2)
    with pytest.raises(TypeError, match="multiple values for argument 'result'"):
        pyasync_c.sleep(1, 2, result=3)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        pyasync_c.timeout(seconds=1)
    with pytest.raises(TypeError):
        pyasync_c.sleep(seconds=1)


def test_spawn_with_a_context_that_is_none_of_contextvars():
    async def main():
        coroutine = nothing()
        with pytest.raises(TypeError, match="context must be a contextvars.Context, not int"):
            pyasync_c.spawn(coroutine, context=5)
        assert await coroutine == 1

    pyasync_c.run(main())


# ── nowhere to run, or too much ──────────────────────────────────────────────────────────────


def test_without_a_loop():
    for call in (
        lambda: pyasync_c.spawn(nothing()),
        lambda: pyasync_c.spawn_blocking(print),
        pyasync_c.all_tasks,
    ):
        with pytest.raises(RuntimeError, match="no running event loop"):
            call()
    with pytest.raises(RuntimeError, match="no runtime is running on this thread"):
        pyasync_c.current_runtime()
    assert pyasync_c.current_task() is None


@pytest.mark.parametrize(
    "future",
    [
        lambda: pyasync_c.sleep(1),
        lambda: pyasync_c.sleep(0),
        lambda: pyasync_c.sleep_until(0),
        lambda: pyasync_c.interval(1).tick(),
    ],
)
def test_a_timer_polled_by_hand_without_a_loop(future):
    counting = CountingWaker()
    polled = future()
    if isinstance(polled, pyasync_c.Delay):
        with pytest.raises(RuntimeError, match="no running event loop"):
            polled.poll(counting.context)
    else:
        assert isinstance(polled.poll(counting.context), float)  # the first tick needs no timer


def test_current_runtime_on_another_loop():
    async def main():
        with pytest.raises(RuntimeError, match="no runtime is running"):
            pyasync_c.current_runtime()

    asyncio.run(main())


def test_a_task_is_not_made_on_another_loop():
    async def main():
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="no running event loop of pyasync_c: spawn()"):
            pyasync_c.Task(coroutine)
        with pytest.raises(TypeError, match="Task belongs to a pyasync_c loop, not "):
            pyasync_c.Task(coroutine, loop=asyncio.get_running_loop())
        assert await pyasync_c.spawn(coroutine) == 1

    asyncio.run(main())


def test_a_coroutine_that_spawn_refuses_is_closed():
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyasync_c.spawn(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("loop", [pyasync_c.run, asyncio.run])
def test_run_within_a_running_loop(loop):
    async def main(runtime):
        for run in (pyasync_c.run, runtime.run):
            coroutine = nothing()
            with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
                run(coroutine)
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    with pyasync_c.Runtime() as runtime:
        loop(main(runtime))
        assert runtime.run(nothing()) == 1


def test_run_and_close_of_the_runtime_that_runs():
    async def main():
        runtime = pyasync_c.current_runtime()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            runtime.run(nothing())
        with pytest.raises(RuntimeError, match="cannot close a running runtime"):
            runtime.close()
        assert pyasync_c.current_runtime() is runtime

    pyasync_c.run(main())


def test_run_of_a_runtime_that_runs_on_another_thread():
    with pyasync_c.Runtime() as runtime:
        started, finish = threading.Event(), Notify()

        async def main():
            started.set()
            await finish.notified()

        worker = Worker(lambda: runtime.run(main()))
        assert started.wait(60)
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="running already, on another thread"):
            runtime.run(coroutine)
        with pytest.raises(RuntimeError, match="cannot close a running runtime"):
            runtime.close()
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        finish.notify_one()
        worker.result()


def test_after_close():
    runtime = pyasync_c.Runtime()
    handle = runtime.handle()
    runtime.close()
    runtime.close()
    coroutine = nothing()
    for call in (
        lambda: runtime.run(coroutine),
        runtime.handle,
        runtime.get_loop,
        runtime.metrics,
        runtime.__enter__,
    ):
        with pytest.raises(RuntimeError, match="runtime is closed"):
            call()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="closed"):
        handle.spawn(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    with pytest.raises(RuntimeError, match="closed"):
        handle.call_soon(print)
    assert repr(runtime) == "<Runtime closed>"


def test_a_handle_refuses_at_the_call():
    with pyasync_c.Runtime() as runtime:
        with pytest.raises(TypeError, match="f must be callable, not int"):
            runtime.handle().call_soon(5)
        with pytest.raises(TypeError, match="an awaitable is required, not int"):
            runtime.handle().spawn(5)
        with pytest.raises(TypeError, match="did you forget"):
            runtime.handle().spawn(nothing)


def test_wakers_outlive_everything():
    wakers = []

    class Keeps(pyasync_c.Future):
        def poll(self, cx):
            wakers.append(cx.waker.clone())
            return PENDING if len(wakers) == 1 else 1

    async def main():
        task = pyasync_c.spawn(Keeps())
        await turns()
        wakers[0].wake()
        await task
        for waker in wakers:  # the task has ended
            waker.wake()

    pyasync_c.run(main())
    for waker in wakers:  # so has the runtime
        waker.wake()
        Worker(waker.wake).result()
        assert waker.will_wake(waker.clone())


def test_a_context_after_its_poll():
    contexts = []
    pyasync_c.poll_fn(contexts.append).poll(CountingWaker().context)
    with pytest.raises(RuntimeError, match="poll is over"):
        contexts[0].waker  # noqa: B018
    with pytest.raises(RuntimeError, match="poll is over"):
        pyasync_c.pending().poll(contexts[0])


# ── the same thing twice ─────────────────────────────────────────────────────────────────────


def test_a_coroutine_spawned_twice():
    async def slow():
        await pyasync_c.sleep(0.002)
        return 1

    async def main():
        for make in (nothing, slow):
            coroutine = make()
            first = pyasync_c.spawn(coroutine)
            second = pyasync_c.spawn(coroutine)
            with pytest.raises(RuntimeError, match="coroutine of another task already"):
                await second
            with pytest.raises(RuntimeError, match="can be spawned once"):
                pyasync_c.spawn(coroutine)
            assert await first == 1

    pyasync_c.run(main())


def sends(make, *arguments):
    """The receiver of a channel that has a value."""
    tx, rx = make(*arguments)
    kept.append(tx)
    (tx.try_send if make is pyasync_c.channel else tx.send)(1)
    return rx


def nobody_receives():
    tx, rx = pyasync_c.channel(1)
    rx.close()
    return tx


def cancelled_token():
    token = pyasync_c.CancellationToken()
    token.cancel()
    return token


def event_that_is_set():
    event = pyasync_c.Event()
    event.set()
    return event


def with_a_task():
    tasks = pyasync_c.JoinSet()
    tasks.spawn(nothing())
    return tasks


kept = []
READY_SOON = {
    "Acquire": lambda: pyasync_c.Lock().acquire(),
    "AcquirePermit": lambda: pyasync_c.Semaphore(1).acquire(),
    "AcquirePermit of a RwLock": lambda: pyasync_c.RwLock().write(),
    "BarrierWait": lambda: pyasync_c.Barrier(1).wait(),
    "BroadcastRecv": lambda: sends(pyasync_c.broadcast, 1).recv(),
    "Cancelled": lambda: cancelled_token().cancelled(),
    "Closed": lambda: nobody_receives().closed(),
    "Delay": lambda: pyasync_c.sleep(0),
    "EventWait": lambda: event_that_is_set().wait(),
    "IntoFuture": lambda: pyasync_c.into_future(nothing()),
    "Join": lambda: pyasync_c.join(nothing(), pyasync_c.ready(1)),
    "JoinNext": lambda: with_a_task().join_next(),
    "JoinNext of an empty set": lambda: pyasync_c.JoinSet().join_next(),
    "OnceInit": lambda: pyasync_c.OnceCell().get_or_init(nothing),
    "OneshotReceiver": lambda: sends(pyasync_c.oneshot),
    "PollFn": lambda: pyasync_c.poll_fn(lambda cx: 1),
    "PollOnce": lambda: pyasync_c.poll_once(pyasync_c.ready(1)),
    "ReadyFuture": lambda: pyasync_c.ready(1),
    "Recv": lambda: sends(pyasync_c.channel, 1).recv(),
    "Recv of many": lambda: sends(pyasync_c.channel, 1).recv_many(1),
    "RunUntilCancelled": lambda: pyasync_c.CancellationToken().run_until_cancelled(nothing()),
    "Select": lambda: pyasync_c.select(nothing(), pyasync_c.pending()),
    "Send": lambda: kept.append(pyasync_c.channel(1)) or kept[-1][0].send(1),
    "WatchWait": lambda: sends(pyasync_c.watch, 0).changed(),
    "WatchWait for": lambda: sends(pyasync_c.watch, 0).wait_for(bool),
    "YieldNow": pyasync_c.yield_now,
    "_SpawnWait": lambda: pyasync_c.JoinSet().spawn_wait(nothing()),
    "_Tick": lambda: pyasync_c.interval(1).tick(),
}
# Notified is ready again and again; what never ends, or comes of C code or a socket, is elsewhere.
NOT_HERE = {"Notified", "PendingFuture", "CFuture", "Promised", "SocketOperation"}
NOT_HERE |= {"Immediate", "OneshotAwait", "StreamRead"}


def test_no_future_is_forgotten():
    names = {kind.__name__ for kind in surface.futures().values() if public(kind)}
    assert {name.split()[0] for name in READY_SOON} >= names - NOT_HERE


def public(kind):
    return kind.__module__ == "pyasync_c" and kind is not pyasync_c.Future


@every_loop
@pytest.mark.parametrize("name", READY_SOON)
def test_a_future_awaited_again_when_done(run, name):
    async def main():
        future = READY_SOON[name]()
        await future
        kind = type(future).__name__
        assert name.startswith(kind)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"cannot reuse already awaited {kind}"):
                await future
            with pytest.raises(RuntimeError, match=f"cannot reuse already awaited {kind}"):
                future.poll(CountingWaker().context)

    run(main())
    kept.clear()


@pytest.mark.parametrize("name", READY_SOON)
def test_a_future_polled_again_when_done(name):
    async def main():
        future, counting = READY_SOON[name](), CountingWaker()
        while future.poll(counting.context) is PENDING:
            await pyasync_c.yield_now()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                future.poll(counting.context)
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await future

    pyasync_c.run(main())
    kept.clear()


@every_loop
def test_a_failed_future_awaited_again(run):
    async def main():
        future = pyasync_c.poll_fn(lambda cx: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await future
        with pytest.raises(RuntimeError, match="cannot reuse already awaited PollFn"):
            await future

    run(main())


@every_loop
@pytest.mark.parametrize(
    "make",
    [
        lambda: pyasync_c.sleep(0.01),
        lambda: notified_soon(),
        lambda: pyasync_c.into_future(asyncio.sleep(0.01)),
    ],
)
def test_a_future_awaited_by_two_tasks(run, make):
    async def main():
        future = make()
        first = asyncio.ensure_future(awaits(future))
        second = asyncio.ensure_future(awaits(future))
        with pytest.raises(RuntimeError, match="already being awaited by another task"):
            await second
        await first

    run(main())


def notified_soon():
    notify = Notify()
    asyncio.get_running_loop().call_later(0.01, notify.notify_one)
    return notify.notified()


# ── what a poll may do ───────────────────────────────────────────────────────────────────────


class Polls(pyasync_c.Future):
    def __init__(self, poll):
        self.poll_function = poll

    def poll(self, cx):
        return self.poll_function(self, cx)


@every_loop
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_a_poll_that_raises(run, error):
    def fail(future, cx):
        raise error

    async def main():
        with pytest.raises(error):
            await Polls(fail)

    run(main())


def test_a_poll_that_raises_stop_iteration():
    def stop(cx):
        raise StopIteration(3)

    async def main():
        await pyasync_c.poll_fn(stop)

    # As PEP 479 has it: it must not look like an ordinary end.
    with pytest.raises(RuntimeError, match="StopIteration"):
        pyasync_c.run(main())


@every_loop
def test_a_poll_that_returns_itself(run):
    async def main():
        future = Polls(lambda future, cx: future)
        assert await future is future

    run(main())


def test_a_poll_within_the_poll():
    errors = []

    def again(cx):
        try:
            future.poll(cx)
        except RuntimeError as error:
            errors.append(str(error))
        return 1

    future = pyasync_c.poll_fn(again)
    assert future.poll(CountingWaker().context) == 1
    assert errors == ["PollFn is already being polled"]


def test_a_future_without_poll():
    class Empty(pyasync_c.Future):
        pass

    async def main():
        await Empty()

    with pytest.raises(TypeError, match=r"Empty must define poll\(self, cx\)"):
        pyasync_c.run(main())


@every_loop
def test_pending_without_a_waker_is_legal(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.002):
                await pyasync_c.poll_fn(lambda cx: PENDING)

    run(main())


# ── what a coroutine may yield ───────────────────────────────────────────────────────────────


class Yields:
    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield self.value


@pytest.mark.parametrize("value", [42, "x", object(), PENDING, [None], Notify])
def test_a_bad_yield_is_raised_inside(value):
    log = []

    async def yields():
        try:
            await Yields(value)
        finally:
            log.append("finally")

    with pytest.raises(RuntimeError, match="got bad yield: "):
        pyasync_c.run(yields())
    assert log == ["finally"]


def test_await_of_no_awaitable():
    async def main():
        await 5

    with pytest.raises(TypeError, match="can't be used in 'await' expression"):
        pyasync_c.run(main())


def test_a_future_yielded_without_await():
    async def main():
        await Yields(asyncio.get_running_loop().create_future())

    with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
        pyasync_c.run(main())


def test_an_asyncio_future_of_another_loop():
    other = asyncio.new_event_loop()
    for foreign in (other, pyasync_c.new_event_loop()):
        future = foreign.create_future()
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            pyasync_c.run(awaits(future))
        foreign.close()
    other.close()


def test_a_task_of_ours_on_another_loop():
    with pyasync_c.Runtime() as runtime:

        async def main():
            return pyasync_c.spawn(pyasync_c.pending())

        task = runtime.run(main())
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            asyncio.run(awaits(task))


def test_a_task_that_awaits_itself():
    async def main():
        await asyncio.current_task()

    with pytest.raises(RuntimeError, match="cannot await on itself"):
        pyasync_c.run(main())


def test_stop_iteration_out_of_a_coroutine():
    async def main():
        raise StopIteration(1)

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        pyasync_c.run(main())


def test_stop_iteration_of_an_iterator_is_a_result():
    class Iterator:
        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            raise StopIteration((1, 2))

    assert pyasync_c.run(awaits(Iterator())) == (1, 2)


# ── futures and tasks of asyncio's face ──────────────────────────────────────────────────────


def test_futures_set_twice():
    async def main():
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(asyncio.InvalidStateError):
            future.result()
        future.set_result(1)
        for call in (
            lambda: future.set_result(2),
            lambda: future.set_exception(KeyError()),
        ):
            with pytest.raises(asyncio.InvalidStateError):
                call()
        assert future.cancel() is False
        assert await future == 1

    pyasync_c.run(main())


def test_stop_iteration_as_an_exception_of_a_future():
    """Whatever asyncio of this version does with it, ours does too."""

    def outcome(loop):
        future = loop.create_future()
        try:
            future.set_exception(StopIteration())
        except TypeError as error:
            return str(error)
        return repr(future.exception())

    loops = pyasync_c.new_event_loop(), asyncio.new_event_loop()
    assert outcome(loops[0]) == outcome(loops[1])
    for loop in loops:
        loop.close()


def test_a_tasks_result_cannot_be_set():
    async def main():
        task = pyasync_c.spawn(nothing())
        with pytest.raises(RuntimeError, match="does not support set_result"):
            task.set_result(1)
        with pytest.raises(RuntimeError, match="does not support set_exception"):
            task.set_exception(KeyError())
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        assert await task == 1
        assert task.cancel() is False

    pyasync_c.run(main())


def test_cancelled_twice_counts_twice():
    counts = []

    async def waits():
        task = asyncio.current_task()
        task.cancel()  # from inside: at its next await
        task.cancel()
        counts.append(task.cancelling())
        try:
            await pyasync_c.sleep(1000)
        finally:
            counts.append(task.uncancel())

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await pyasync_c.spawn(waits())

    pyasync_c.run(main())
    assert counts == [2, 1]


def test_from_the_wrong_thread_in_debug_mode():
    async def main():
        loop = asyncio.get_running_loop()
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
        ):
            worker = Worker(call)
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                worker.result()

    pyasync_c.run(main(), debug=True)


# ── errors where nobody awaits ───────────────────────────────────────────────────────────────


def test_an_error_in_a_callback_goes_to_the_handler_and_the_rest_goes_on():
    contexts, log = [], []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(log.append, 1)
        loop.call_later(0, lambda: [][1])
        loop.call_soon_threadsafe(log.append, 2)
        await pyasync_c.sleep(0.005)

    pyasync_c.run(main())
    assert log == [1, 2]
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError, IndexError]


def test_an_exception_handler_that_fails(caplog):
    def handler(loop, context):
        raise LookupError

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        loop.call_soon(lambda: 1 / 0)
        await turns()

    pyasync_c.run(main())
    assert "Unhandled error in exception handler" in caplog.text


def test_a_waker_that_fails_does_not_keep_the_others_from_being_woken():
    notify, good = Notify(), CountingWaker()

    def fail():
        raise LookupError

    bad = pyasync_c.Context(pyasync_c.Waker(fail))
    futures = [notify.notified() for _ in range(5)]
    for k, future in enumerate(futures):
        future.poll(bad if k % 2 == 0 else good.context)
    with unraisable() as seen:
        notify.notify_waiters()
    assert [type(error) for error in seen] == [LookupError] * 3
    assert good.count == 2
    assert repr(notify) == "<Notify waiters=0 permit=no>"


def test_a_drop_that_fails():
    class Fails(pyasync_c.Future):
        def poll(self, cx):
            return PENDING

        def drop(self):
            raise LookupError

    async def main():
        task = pyasync_c.spawn(Fails())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with unraisable() as seen:
        pyasync_c.run(main())
    assert [type(error) for error in seen] == [LookupError]


def test_a_destructor_that_does_everything():
    log = []

    class Busy:
        def __init__(self, victim):
            self.victim = victim

        def __del__(self):
            self.victim.cancel()
            pyasync_c.spawn(nothing())
            notify.notify_waiters()
            pyasync_c.sleep(1).drop()
            log.append(repr(self.victim))

    async def holds(victim):
        busy = Busy(victim)
        await notify.notified()
        return busy is None

    async def main():
        for _ in range(20):
            victim = pyasync_c.spawn(pyasync_c.sleep(1000))
            task = pyasync_c.spawn(holds(victim))
            await turns()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task  # and with it the traceback, the frame, and busy
            with pytest.raises(asyncio.CancelledError):
                await victim

    notify = Notify()
    pyasync_c.run(main())
    assert len(log) == 20


# ── descriptors ──────────────────────────────────────────────────────────────────────────────


def test_descriptors_that_cannot_be_watched(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        closed = socket.socket()
        number = os.dup(closed.fileno())
        os.close(number)
        closed.close()
        with open(tmp_path / "file", "wb") as file:
            for watch in (loop.add_reader, loop.add_writer):
                for bad, error in (
                    (-1, ValueError),
                    (object(), ValueError),
                    ("x", ValueError),
                    (closed, ValueError),
                    (number, OSError),
                    (file, PermissionError),
                ):
                    with pytest.raises(error):
                        watch(bad, print)
        assert loop.remove_reader(number) is False
        await turns()

    pyasync_c.run(main())


def test_a_number_that_is_no_descriptor_costs_no_memory():
    """What is known of descriptors stands in a table by number."""

    async def main():
        loop = asyncio.get_running_loop()
        tracemalloc.start()
        try:
            for watch in (loop.add_reader, loop.add_writer):
                with pytest.raises(OSError):
                    watch(10_000_000, print)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert pyasync_c.run(main()) < 1_000_000


def test_a_descriptor_that_belongs_to_a_transport():
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(here, print)
        transport.close()
        there.close()
        await turns()

    pyasync_c.run(main())


def test_a_descriptor_closed_while_it_is_watched():
    log = []

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        loop.add_reader(here.fileno(), log.append, "old")
        number = here.fileno()
        here.close()
        reader, writer = socket.socketpair()  # most likely gets the number again
        writer.send(b"x")
        there.close()
        await pyasync_c.sleep(0.005)
        loop.remove_reader(number)
        reader.close()
        writer.close()

    pyasync_c.run(main())
    assert log == []


# ── objects ──────────────────────────────────────────────────────────────────────────────────

OBJECTS = {
    "Waker": pyasync_c.noop_waker,
    "Context": lambda: pyasync_c.Context(pyasync_c.noop_waker()),
    "Delay": lambda: pyasync_c.sleep(1),
    "Notify": Notify,
    "Notified": lambda: Notify().notified(),
    "Event": pyasync_c.Event,
    "Event.wait": lambda: pyasync_c.Event().wait(),
    "Lock": pyasync_c.Lock,
    "Lock.acquire": lambda: pyasync_c.Lock().acquire(),
    "RwLock": pyasync_c.RwLock,
    "Semaphore": lambda: pyasync_c.Semaphore(1),
    "Semaphore.acquire": lambda: pyasync_c.Semaphore(1).acquire(),
    "Permit": lambda: pyasync_c.Semaphore(1).try_acquire(),
    "Barrier": lambda: pyasync_c.Barrier(2),
    "Barrier.wait": lambda: pyasync_c.Barrier(2).wait(),
    "OnceCell": pyasync_c.OnceCell,
    "OnceCell.get_or_init": lambda: pyasync_c.OnceCell().get_or_init(print),
    "Timeout": lambda: pyasync_c.timeout(1),
    "ready": lambda: pyasync_c.ready(1),
    "pending": pyasync_c.pending,
    "yield_now": pyasync_c.yield_now,
    "poll_fn": lambda: pyasync_c.poll_fn(print),
    "into_future": lambda: pyasync_c.into_future(awaits(pyasync_c.ready(1))),
    "poll_once": lambda: pyasync_c.poll_once(pyasync_c.ready(1)),
}
every_object = pytest.mark.parametrize("name", OBJECTS)


@every_object
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_no_pickle_no_copy_no_attributes_no_subclass(name):
    one = OBJECTS[name]()
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            call(one)
    with pytest.raises(AttributeError):
        one.attribute = 1
    with pytest.raises(TypeError, match="immutable type"):
        type(one).attribute = 1
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Mine", (type(one),), {})
    del one
    gc.collect()


@pytest.mark.parametrize("name", ["Runtime", "Handle", "EventLoop", "Interval", "JoinSet"])
def test_what_is_written_in_python_is_not_copied_either(name):
    """A copy would share its parts with the original, and each of the two change them alone."""
    with pyasync_c.Runtime() as runtime:
        one = {
            "Runtime": runtime,
            "Handle": runtime.handle(),
            "EventLoop": runtime.get_loop(),
            "Interval": pyasync_c.interval(1),
            "JoinSet": pyasync_c.JoinSet(),
        }[name]
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot pickle"):
                call(one)


def test_pending_is_one_object():
    assert copy.copy(PENDING) is PENDING
    assert copy.deepcopy(PENDING) is PENDING
    assert pickle.loads(pickle.dumps(PENDING)) is PENDING
    with pytest.raises(TypeError, match="cannot create"):
        type(PENDING)()


@every_object
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_internal_types_cannot_be_made(name):
    kind = type(OBJECTS[name]())
    if name == kind.__name__ and name not in ("Delay", "Notified", "Permit"):
        return
    with pytest.raises(TypeError, match="cannot create"):
        kind()
    gc.collect()


def test_methods_on_what_is_no_future():
    for method in (pyasync_c.Delay.reset, pyasync_c.Notified.enable, pyasync_c.Future.poll):
        with pytest.raises(TypeError):
            method(5)
    for method in (pyasync_c.Future.poll, pyasync_c.Waker.wake, Notify.notify_one):
        with pytest.raises(TypeError, match="doesn't apply|requires"):
            method("x", 1) if method is pyasync_c.Future.poll else method("x")


def test_a_future_made_without_new():
    class Raw(pyasync_c.Future):
        def poll(self, cx):
            return 1

    # object's __new__ would leave out what Future's does.
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(Raw)
    assert Raw.__new__(Raw).poll(None) == 1


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_the_await_protocol_by_hand():
    for make in OBJECTS.values():
        one = make()
        if not isinstance(one, pyasync_c.Future):
            continue
        with pytest.raises(TypeError, match="exceptions must be"):
            one.throw(5)
        with pytest.raises(TypeError):
            one.throw()
        one = make()
        with pytest.raises(LookupError):
            one.throw(LookupError)
        one.close()
        one.close()
        gc.collect()


@pytest.mark.parametrize("name", ["_floor", "_seconds"])
def test_private_functions_survive_nonsense(name):
    with pytest.raises(TypeError):
        getattr(_core, name)()
    with pytest.raises((TypeError, AttributeError)):
        getattr(_core, name)("x", 1)


# ── threads against a runtime that closes ────────────────────────────────────────────────────


def test_threads_that_wake_notify_and_submit_while_the_runtime_closes():
    async def work():
        await pyasync_c.sleep(0.0002)
        return 1

    async def main(wakers, notify):
        def keep(cx):
            wakers.append(cx.waker.clone())
            return PENDING

        pyasync_c.spawn(pyasync_c.poll_fn(keep))
        pyasync_c.spawn(notify.notified())
        await pyasync_c.sleep(0.002)

    def storm(handle, wakers, notify, futures):
        pause = threading.Event()  # an endless storm would only be a load
        while True:
            for waker in wakers:
                waker.wake()
            notify.notify_one()
            notify.notify_waiters()
            try:
                handle.call_soon(int)
                futures.append(handle.spawn(work()))
            except RuntimeError as error:
                assert str(error) == "Event loop is closed"
                break
            pause.wait(0.0001)
        for waker in wakers:
            waker.wake()

    refused = 0
    for _ in range(12):
        runtime = pyasync_c.Runtime()
        wakers, notify, futures = [], Notify(), []
        workers = [Worker(storm, runtime.handle(), wakers, notify, futures) for _ in range(3)]
        runtime.run(main(wakers, notify))
        runtime.close()
        for worker in workers:
            worker.result()
            refused += 1
        gc.collect()
        assert len(wakers) >= 1
        # What was accepted has ended: nobody waits in vain for a result.
        assert all(future.done() for future in futures)
        assert {1} >= {future.result() for future in futures if not future.cancelled()}
    assert refused == 36


def test_what_was_submitted_and_never_ran_is_cancelled_with_the_loop():
    runtime = pyasync_c.Runtime()
    coroutine = nothing()
    future = runtime.handle().spawn(coroutine)
    assert not future.done()
    runtime.get_loop().close()  # without a last run
    gc.collect()
    assert future.cancelled()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_handle_spawns_a_coroutine_twice():
    async def slow():
        await pyasync_c.sleep(0.002)
        return 1

    async def main():
        handle, coroutine = pyasync_c.current_runtime().handle(), slow()
        first, second = handle.spawn(coroutine), handle.spawn(coroutine)
        with pytest.raises(RuntimeError, match="coroutine of another task already"):
            await asyncio.wrap_future(second)
        assert await asyncio.wrap_future(first) == 1

    pyasync_c.run(main())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nothing, "coroutine"),
        (lambda: awaits(pyasync_c.sleep(0)), "coroutine"),
        (lambda: pyasync_c.sleep(0), "Delay"),
        (lambda: pyasync_c.ready(1), "ReadyFuture"),
    ],
)
def test_run_twice_with_the_same(make, name):
    main = make()
    with pyasync_c.Runtime() as runtime:
        runtime.run(main)
        for run in (runtime.run, pyasync_c.run):
            with pytest.raises(RuntimeError, match=f"cannot reuse already awaited {name}"):
                run(main)
        assert runtime.run(nothing()) == 1


def test_a_delay_that_another_thread_awaits_too():
    async def main(run):
        delay = pyasync_c.sleep(0.05, "slept")
        task = pyasync_c.spawn(awaits(delay))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already being awaited"):
            await asyncio.to_thread(run, awaits(delay))
        assert await task == "slept"

    for run in (pyasync_c.run, asyncio.run):
        pyasync_c.run(main(run))


# ── more errors where nobody awaits ──────────────────────────────────────────────────────────


def test_a_weakref_callback_that_fails():
    class Target:
        pass

    def fail(reference):
        raise LookupError

    async def hold(target):
        await pyasync_c.pending()

    async def main():
        target = Target()
        held = weakref.ref(target, fail)
        task = pyasync_c.spawn(hold(target))
        del target
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        ended = weakref.ref(pyasync_c.spawn(nothing()), fail)
        await turns()
        gc.collect()
        assert held() is None and ended() is None
        return "goes on"

    with unraisable() as seen:
        assert pyasync_c.run(main()) == "goes on"
    assert [type(error) for error in seen] == [LookupError, LookupError]


def test_a_coroutine_that_ignores_its_closing():
    async def stubborn():
        for _ in range(2):
            try:
                await Yields(None)
            except GeneratorExit:
                pass

    future = pyasync_c.into_future(stubborn())
    future.poll(CountingWaker().context)
    with unraisable() as seen:
        del future
        gc.collect()
    assert [str(error) for error in seen] == ["coroutine ignored GeneratorExit"]


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, GeneratorExit])
def test_bad_wakers_among_many_tasks_that_are_woken_at_once(error):
    log = []

    def fail():
        raise error

    async def wait(notify, n):
        await notify.notified()
        log.append(n)

    async def main():
        notify = Notify()
        tasks = [pyasync_c.spawn(wait(notify, n)) for n in range(40)]
        await turns()
        bad = [notify.notified() for _ in range(5)]
        for future in bad:
            future.poll(pyasync_c.Context(pyasync_c.Waker(fail)))
        tasks += [pyasync_c.spawn(wait(notify, n)) for n in range(40, 80)]
        await turns()
        notify.notify_waiters()
        await asyncio.wait(tasks, timeout=60)

    with unraisable() as seen:
        pyasync_c.run(main())
    assert log == list(range(80))
    assert [type(one) for one in seen] == [error] * 5
