"""The event loop as asyncio's programs use it: each test runs on ours, by run() and by a loop
factory, and on asyncio's own, which says that the test is right."""

import asyncio
import collections.abc
import contextlib
import contextvars
import functools
import gc
import logging
import math
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
import weakref

import pytest
from helpers import OUR_RUNTIME, Worker, collect, open_fds, run_asyncio, turns, unraisable

import pyasync_c


def run_by_factory(main):
    with asyncio.Runner(loop_factory=pyasync_c.new_event_loop) as runner:
        return runner.run(main)


loops = pytest.mark.parametrize(
    "run",
    [
        OUR_RUNTIME,
        pytest.param(run_by_factory, id="factory"),
        pytest.param(run_asyncio, id="asyncio"),
    ],
)
new_loops = pytest.mark.parametrize(
    "new_event_loop",
    [
        pytest.param(pyasync_c.new_event_loop, id="ours"),
        pytest.param(asyncio.new_event_loop, id="asyncio"),
    ],
)
SINCE_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has it since 3.12")

variable = contextvars.ContextVar("variable", default="unset")


class Shout(Exception):
    pass


class Thunder(BaseException):
    pass


async def give(value):
    return value


async def fail(error):
    raise error


@contextlib.contextmanager
def closing(loop):
    try:
        yield loop
    finally:
        loop.close()


@contextlib.contextmanager
def reports(loop):
    """What the loop's exception handler is called with."""
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    yield seen
    loop.set_exception_handler(None)


# ── what it is ───────────────────────────────────────────────────────────────────────────────


def test_isinstance_checks_of_others_hold():
    async def main():
        loop = asyncio.get_running_loop()
        assert type(loop) is pyasync_c.EventLoop
        for cls in (
            asyncio.AbstractEventLoop,
            asyncio.BaseEventLoop,
            asyncio.SelectorEventLoop,
        ):
            assert isinstance(loop, cls)
        future = loop.create_future()
        assert isinstance(future, asyncio.Future) and asyncio.isfuture(future)
        task = asyncio.current_task()
        assert isinstance(task, (asyncio.Task, pyasync_c.Task)) and type(task) is pyasync_c.Task
        soon, later = loop.call_soon(int), loop.call_later(60, int)
        threadsafe, at = loop.call_soon_threadsafe(int), loop.call_at(loop.time() + 60, int)
        for handle in soon, threadsafe, later, at:
            assert isinstance(handle, asyncio.Handle)
        for handle in later, at:
            assert isinstance(handle, asyncio.TimerHandle)
            handle.cancel()

    pyasync_c.run(main())
    run_by_factory(main())


@SINCE_3_12
def test_asyncio_run_takes_the_factory():
    async def main():
        return type(asyncio.get_running_loop())

    assert asyncio.run(main(), loop_factory=pyasync_c.new_event_loop) is pyasync_c.EventLoop


def test_a_runner_runs_several_times():
    async def put():
        variable.set("kept")

    async def get():
        return variable.get(), asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=pyasync_c.new_event_loop) as runner:
        runner.run(put())
        assert runner.run(get()) == ("kept", runner.get_loop())


@loops
def test_the_running_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert asyncio.get_event_loop() is loop
        assert loop.is_running() and not loop.is_closed()
        in_thread = await asyncio.to_thread(asyncio._get_running_loop)
        assert in_thread is None
        return loop

    loop = run(main())
    assert asyncio._get_running_loop() is None
    assert loop.is_closed() and not loop.is_running()
    assert "closed=True" in repr(loop)


@loops
def test_the_clock_is_times_monotonic(run):
    async def main():
        loop = asyncio.get_running_loop()
        before, now, after = time.monotonic(), loop.time(), time.monotonic()
        assert before <= now <= after

    run(main())


# ── asyncio's programs ───────────────────────────────────────────────────────────────────────


@loops
def test_sleep(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert await asyncio.sleep(0, "at once") == "at once"
        for delay in 0.001, 0.01:
            began = loop.time()
            assert await asyncio.sleep(delay, delay) == delay
            assert loop.time() - began >= delay or run is run_asyncio
        order = []

        async def sleeper(delay):
            await asyncio.sleep(delay)
            order.append(delay)

        delays = [0.03, 0.01, 0.02]
        await asyncio.gather(*map(sleeper, delays))
        assert order == sorted(delays)

    run(main())


@loops
def test_locks_events_conditions_semaphores_barriers(run):
    async def main():
        log = []
        lock, event, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
        condition = asyncio.Condition()

        async def locked(n):
            async with lock:
                log.append(("in", n))
                await asyncio.sleep(0)
                log.append(("out", n))

        await asyncio.gather(*map(locked, range(3)))
        assert log == [(way, n) for n in range(3) for way in ("in", "out")]

        waiters = [asyncio.create_task(event.wait()) for _ in range(3)]
        await turns()
        event.set()
        assert await asyncio.gather(*waiters) == [True] * 3

        inside = most = 0

        async def limited():
            nonlocal inside, most
            async with semaphore:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(limited() for _ in range(7)))
        assert most == 2

        async def consumer():
            async with condition:
                await condition.wait_for(lambda: "go" in log)
                return "went"

        waiting = asyncio.create_task(consumer())
        await turns()
        async with condition:
            log.append("go")
            condition.notify_all()
        assert await waiting == "went"

        barrier = asyncio.Barrier(3)
        places = await asyncio.gather(*(barrier.wait() for _ in range(3)))
        assert sorted(places) == [0, 1, 2]

    run(main())


@loops
def test_queues(run):
    async def main():
        queue = asyncio.Queue(maxsize=2)
        got = []

        async def producer():
            for n in range(20):
                await queue.put(n)

        async def consumer():
            while True:
                got.append(await queue.get())
                queue.task_done()

        task = asyncio.create_task(consumer())
        await producer()
        await queue.join()
        task.cancel()
        assert got == list(range(20))
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()

    run(main())


@loops
def test_gather(run):
    async def main():
        assert await asyncio.gather(give(1), give(2), asyncio.sleep(0.001, 3)) == [1, 2, 3]
        error = Shout()
        assert await asyncio.gather(give(1), fail(error), return_exceptions=True) == [1, error]
        with pytest.raises(Shout):
            await asyncio.gather(asyncio.sleep(0.001), fail(error))
        children = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
        outer = asyncio.gather(*children)
        await turns()
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert all(child.cancelled() for child in children)

    run(main())


@loops
def test_shield(run):
    async def main():
        inner = asyncio.create_task(asyncio.sleep(0.005, "survived"))
        outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(inner), 60))
        await turns()
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert await inner == "survived"

    run(main())


@loops
def test_wait_and_as_completed(run):
    async def main():
        fast = asyncio.create_task(asyncio.sleep(0.001, "fast"))
        slow = asyncio.create_task(asyncio.sleep(60, "slow"))
        done, pending = await asyncio.wait([fast, slow], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({fast}, {slow})
        done, pending = await asyncio.wait([slow], timeout=0.002)
        assert (done, pending) == (set(), {slow})
        slow.cancel()
        await asyncio.wait([slow])
        delays = [0.02, 0.001, 0.01]
        finished = [await next_ for next_ in asyncio.as_completed(map(later, delays))]
        assert finished == sorted(delays)

    async def later(delay):
        return await asyncio.sleep(delay, delay)

    run(main())


@loops
def test_wait_for_and_timeout(run):
    async def main():
        assert await asyncio.wait_for(give(1), 60) == 1
        assert await asyncio.wait_for(asyncio.sleep(0.001, 2), None) == 2
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.002)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002) as scope:
                await asyncio.sleep(60)
        assert scope.expired() and asyncio.current_task().cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60) as scope:
                scope.reschedule(asyncio.get_running_loop().time() + 0.002)
                await pyasync_c.pending()
        async with asyncio.timeout(60) as scope:
            await pyasync_c.sleep(0.001)
        assert not scope.expired()

    run(main())


@loops
def test_a_timeout_within_a_timeout(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                async with asyncio.timeout(60):
                    await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                async with asyncio.timeout(0.002):
                    await pyasync_c.pending()
        assert asyncio.current_task().cancelling() == 0

    run(main())


@loops
def test_task_groups(run):
    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001 * n, n)) for n in range(4)]
        assert [task.result() for task in tasks] == list(range(4))
        sibling = None
        with pytest.raises(BaseExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                sibling = group.create_task(pyasync_c.pending())
                group.create_task(fail(Shout("one")))
                group.create_task(fail(Shout("two")))
        assert [str(error) for error in caught.value.exceptions] == ["one", "two"]
        assert sibling.cancelled()
        if sys.version_info >= (3, 13):
            assert asyncio.current_task().cancelling() == 0

    run(main())


@loops
def test_threads(run):
    async def main():
        variable.set("carried")
        assert await asyncio.to_thread(variable.get) == "carried"
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, math.sqrt, 4) == 2
        from_thread = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(give("crossed"), loop).result(60)
        )
        assert from_thread == "crossed"
        with pytest.raises(Shout):
            await asyncio.to_thread(raises)

    def raises():
        raise Shout

    run(main())


@loops
def test_our_leaves_and_asyncios_in_one_program(run):
    async def main():
        notify = pyasync_c.Notify()

        async def mixed():
            await asyncio.sleep(0.001)
            await notify.notified()
            async with asyncio.timeout(60):
                await pyasync_c.sleep(0.001)
            return await pyasync_c.spawn(asyncio.sleep(0.001, "mixed"))

        task = asyncio.create_task(mixed())
        await pyasync_c.sleep(0.005)
        notify.notify_one()
        return await asyncio.wait_for(task, 60)

    assert run(main()) == "mixed"


@loops
def test_asyncios_own_futures_work(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = asyncio.Future(loop=loop)
        loop.call_soon(future.set_result, "set")
        assert await future == "set"
        future = asyncio.Future()
        task = asyncio.create_task(asyncio.wait_for(future, 60))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert future.cancelled()

    run(main())


# ── the loop's futures ───────────────────────────────────────────────────────────────────────


@loops
def test_a_futures_life(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        assert not future.done() and not future.cancelled() and future.get_loop() is loop
        for look in future.result, future.exception:
            with pytest.raises(asyncio.InvalidStateError):
                look()
        future.set_result("set")
        assert future.done() and future.result() == "set" and future.exception() is None
        for again in future.set_result, future.set_exception:
            with pytest.raises(asyncio.InvalidStateError):
                again(Shout())
        assert future.cancel() is False
        assert [await future, await future] == ["set", "set"]
        assert "finished" in repr(future) and "set" in repr(future)

    run(main())


@loops
def test_a_futures_exception(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.set_exception(Shout)  # a class will do
        assert type(future.exception()) is Shout
        with pytest.raises(Shout):
            await future
        for bad in 5, int:
            with pytest.raises(TypeError):
                loop.create_future().set_exception(bad)
        future = loop.create_future()
        with pytest.raises((TypeError, RuntimeError), match="StopIteration"):
            future.set_exception(StopIteration(1))  # TypeError, until a release of 3.12
            await future

    run(main())


@loops
def test_a_cancelled_future(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        seen = []
        future.add_done_callback(seen.append)
        assert future.cancel("why") is True and future.cancel() is False
        assert future.done() and future.cancelled()
        with pytest.raises(asyncio.CancelledError, match="why"):
            await future
        for look in future.result, future.exception:
            with pytest.raises(asyncio.CancelledError):
                look()
        with pytest.raises(asyncio.InvalidStateError):
            future.set_result(1)
        await turns()
        assert seen == [future]

    run(main())


@loops
def test_futures_callbacks_come_in_order_and_in_their_context(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        seen = []
        for value in "abc":
            variable.set(value)
            future.add_done_callback(lambda _: seen.append(variable.get()))
        own = contextvars.copy_context()
        own.run(variable.set, "own")
        future.add_done_callback(lambda _: seen.append(variable.get()), context=own)
        future.set_result(None)
        assert seen == [], "not within set_result"
        await turns()
        assert seen == ["a", "b", "c", "own"]

    run(main())


@loops
def test_a_futures_unretrieved_exception_is_reported(run):
    async def main():
        with reports(asyncio.get_running_loop()) as reported:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(Shout("unseen"))
            del future
            collect()
            seen = asyncio.get_running_loop().create_future()
            seen.set_exception(Shout("seen"))
            seen.exception()
            del seen
            collect()
        [context] = reported
        assert context["message"] == "Future exception was never retrieved"
        assert str(context["exception"]) == "unseen"
        assert asyncio.isfuture(context["future"])

    run(main())


@loops
def test_two_tasks_and_a_callback_wait_for_one_future(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        order = []

        async def wait(name):
            order.append((name, await future))

        first = asyncio.create_task(wait("first"))
        await turns()
        future.add_done_callback(lambda done: order.append(("callback", done.result())))
        second = asyncio.create_task(wait("second"))
        await turns()
        future.set_result(1)
        await asyncio.gather(first, second)
        assert order == [("first", 1), ("callback", 1), ("second", 1)]

    run(main())


# ── callbacks ────────────────────────────────────────────────────────────────────────────────


@loops
def test_call_soon_keeps_the_order(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        for n in range(100):
            loop.call_soon(log.append, n)
        await asyncio.sleep(0)
        assert log == list(range(100))

    run(main())


@loops
def test_a_pass_is_what_was_ready_when_it_began(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []

        def again(n):
            log.append(n)
            if n < 3:
                loop.call_soon(again, n + 1)
                loop.call_soon(log.append, f"beside {n + 1}")

        loop.call_soon(again, 0)
        loop.call_soon(log.append, "after")
        await turns(6)
        assert log == [0, "after", 1, "beside 1", 2, "beside 2", 3, "beside 3"]

    run(main())


@new_loops
def test_stop_ends_after_the_pass(new_event_loop):
    with closing(new_event_loop()) as loop:
        log = []
        loop.call_soon(log.append, 1)
        loop.call_soon(loop.stop)
        loop.call_soon(log.append, 2)
        loop.call_soon(lambda: loop.call_soon(log.append, "next pass"))
        loop.run_forever()
        assert log == [1, 2]
        loop.stop()
        loop.run_forever()
        assert log == [1, 2, "next pass"]


@loops
def test_call_later_by_deadline_and_equal_ones_in_the_order_of_arming(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        when = loop.time() + 0.02
        for n in range(5):
            loop.call_at(when, log.append, n)
        delays = [n / 1000 for n in range(1, 15)]
        random.Random(1).shuffle(delays)
        for delay in delays:
            loop.call_at(when - 0.02 + delay, log.append, delay)
        await asyncio.sleep(0.04)
        while len(log) < 19:
            await asyncio.sleep(0.001)
        assert log == sorted(delays) + list(range(5)) or run is run_asyncio
        assert sorted(log) == sorted(delays + list(range(5)))

    run(main())


def test_timers_due_together_run_by_their_nanosecond():
    async def main():
        loop, log = asyncio.get_running_loop(), []
        when = loop.time() + 0.005
        for n in random.Random(2).sample(range(100), 100):
            loop.call_at(when + n / 1e6, log.append, n)
        time.sleep(0.02)
        await pyasync_c.sleep(0.001)
        assert log == list(range(100))

    pyasync_c.run(main())


@loops
def test_call_later_now_or_in_the_past(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        for delay in 0, -1, -0.0:
            handle = loop.call_later(delay, log.append, delay)
            assert isinstance(handle, asyncio.TimerHandle)
            assert abs(handle.when() - (loop.time() + delay)) < 30
        loop.call_at(0, log.append, "past")
        assert log == []
        await asyncio.sleep(0.005)
        assert sorted(map(str, log)) == sorted(["0", "-1", "-0.0", "past"])

    run(main())


@loops
def test_call_later_takes_what_float_takes(run):
    from decimal import Decimal
    from fractions import Fraction

    async def main():
        loop, log = asyncio.get_running_loop(), []
        for delay in True, 0, 10**6, math.inf, 1e308:
            loop.call_later(delay, log.append, delay).cancel()
        if run is not run_asyncio:
            for delay in Decimal("0.001"), Fraction(1, 1000):
                loop.call_later(delay, log.append, delay)
            await asyncio.sleep(0.01)
            assert len(log) == 2

    run(main())


def test_bad_times():
    async def main():
        loop = asyncio.get_running_loop()
        for call in loop.call_later, loop.call_at:
            with pytest.raises(ValueError, match="NaN"):
                call(math.nan, int)
            for bad in None, "1", 1j, object():
                with pytest.raises(TypeError):
                    call(bad, int)
            with pytest.raises(OverflowError):
                call(10**400, int)
            with pytest.raises(TypeError):
                call(1)

    pyasync_c.run(main())


def test_a_far_deadline_never_comes_and_can_be_cancelled():
    async def main():
        loop, log = asyncio.get_running_loop(), []
        handles = [loop.call_later(d, log.append, d) for d in (math.inf, 1e308, 2**70, 1e9)]
        await asyncio.sleep(0.01)
        assert log == []
        for handle in handles:
            handle.cancel()
            assert handle.cancelled()
        assert pyasync_c.current_runtime().metrics().timers_active == 0

    pyasync_c.run(main())


@loops
@pytest.mark.parametrize("bad", [None, 5, "call"])
def test_what_cannot_be_called_is_refused(run, bad):
    async def main():
        loop = asyncio.get_running_loop()
        if run is run_asyncio:
            loop.set_debug(True)  # asyncio looks in debug mode only
        for call in (
            lambda: loop.call_soon(bad),
            lambda: loop.call_soon_threadsafe(bad),
            lambda: loop.call_later(0, bad),
            lambda: loop.call_at(0, bad),
        ):
            with pytest.raises(TypeError, match="callable"):
                call()

    run(main())


def test_wrong_arguments_of_call_soon():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            loop.call_soon()
        with pytest.raises(TypeError, match="unexpected keyword"):
            loop.call_soon(int, colour="red")
        with pytest.raises(TypeError, match="Context"):
            loop.call_soon(int, context=5)

    pyasync_c.run(main())


@loops
def test_callbacks_run_in_the_context_of_their_making(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        look = lambda: seen.append(variable.get())  # noqa: E731
        variable.set("made")
        loop.call_soon(look)
        loop.call_later(0, look)
        loop.call_soon_threadsafe(look)
        own = contextvars.copy_context()
        own.run(variable.set, "own")
        loop.call_soon(look, context=own)
        loop.call_at(0, look, context=own)
        variable.set("later")
        await asyncio.sleep(0.005)
        assert sorted(seen) == ["made"] * 3 + ["own"] * 2
        loop.call_soon(variable.set, "by callback", context=own)
        await asyncio.sleep(0)
        assert own[variable] == "by callback" and variable.get() == "later"

    run(main())


@loops
def test_a_cancelled_handle_does_not_run(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        handles = [
            loop.call_soon(log.append, "soon"),
            loop.call_soon_threadsafe(log.append, "threadsafe"),
            loop.call_later(0.001, log.append, "later"),
            loop.call_at(loop.time(), log.append, "at"),
        ]
        for handle in handles:
            assert not handle.cancelled()
            handle.cancel()
            handle.cancel()
            assert handle.cancelled() and "cancelled" in repr(handle)
        with reports(loop) as reported:
            await asyncio.sleep(0.01)
        assert log == reported == []

    run(main())


@loops
def test_cancelling_within_the_same_pass(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        loop.call_soon(lambda: victim.cancel())
        victim = loop.call_soon(log.append, "victim")
        when = loop.time() + 0.002
        loop.call_at(when, lambda: timer.cancel())
        timer = loop.call_at(when, log.append, "timer")

        def cancel_itself():
            itself.cancel()
            log.append("itself")

        itself = loop.call_soon(cancel_itself)
        time.sleep(0.004)
        await asyncio.sleep(0.01)
        assert log == ["itself"]
        itself.cancel()

    run(main())


@loops
def test_cancelling_lets_go_of_the_callback(run):
    class Callback:
        def __call__(self, argument):
            pass

    async def main():
        loop = asyncio.get_running_loop()
        for call in (
            lambda *a: loop.call_soon(*a),
            lambda *a: loop.call_later(3600, *a),
        ):
            callback, argument = Callback(), Callback()
            gone = weakref.ref(callback), weakref.ref(argument)
            handle = call(callback, argument)
            del callback, argument
            handle.cancel()
            assert [ref() for ref in gone] == [None, None]

    run(main())


@loops
def test_handles(run):
    def callback():
        pass

    async def main():
        loop = asyncio.get_running_loop()
        soon, later = loop.call_soon(callback), loop.call_later(60, callback)
        assert "callback" in repr(soon) and "callback" in repr(later)
        if sys.version_info >= (3, 12):
            assert isinstance(soon.get_context(), contextvars.Context)
        assert weakref.ref(soon)() is soon
        after = loop.call_later(61, callback)
        assert later.when() < after.when() and later < after and after > later
        assert later <= after and later == later and later != after
        same = loop.call_at(later.when(), callback)
        assert hash(same) == hash(later)
        with pytest.raises(TypeError):
            _ = soon < later
        for handle in later, after, same:
            handle.cancel()

    run(main())


@loops
def test_handles_show_their_arguments_and_when(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        finish = asyncio.futures._set_result_unless_cancelled
        for call in loop.call_soon, lambda *a: loop.call_later(60, *a):
            for args in (), (1,), (None,), ((1, 2),), (1, 2):
                handle = call(print, *args)
                assert handle._args == args and handle._callback is print
                handle.cancel()
                assert handle._args is None and handle._callback is None
            for args in (future,), (future, None), (future, 1), (future, None, 1):
                handle = call(finish, *args)
                assert handle._args == args and handle._loop is loop
                handle.cancel()
                assert handle._args is None
        before = loop.time()
        handle = loop.call_later(60, print)
        assert before + 60 <= handle.when() <= loop.time() + 60.001
        assert handle.when() is handle.when()
        handle.cancel()
        assert before + 60 <= handle.when()
        at = loop.time() + 1
        assert loop.call_at(at, finish, future, None).when() is at

    run(main())


@loops
def test_each_callback_has_a_context_of_its_own(run):
    variable = contextvars.ContextVar("variable", default=0)
    seen, kept, gone, alive = [], [], [], []

    class Value:
        pass

    def look(handles):
        context = handles.pop()._context
        seen.append(variable.get())
        alive.extend(ref() for ref in gone if ref() is not None)
        if len(seen) % 3 == 0:
            variable.set(value := Value())
            gone.append(weakref.ref(value))
        if len(seen) % 3 == 1:
            kept.append(context)
        if len(seen) % 3 == 2:
            gone.append(weakref.ref(context))

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(12):
            handles = []
            handles.append(loop.call_soon(look, handles))
        while len(seen) < 12:
            await asyncio.sleep(0)
        assert seen == [0] * 12
        assert alive == [] and [ref() for ref in gone] == [None] * 8
        assert len({id(context) for context in kept}) == 4
        for i, context in enumerate(kept):
            context.run(variable.set, i)
        loop.call_soon(look, [loop.call_soon(int)])
        await asyncio.sleep(0)
        assert seen[-1] == 0
        assert [context[variable] for context in kept[:4]] == [0, 1, 2, 3]
        first, second = loop.call_soon(int), loop.call_soon(look, [loop.call_soon(int)])
        assert first._context is first._context is not second._context
        first._context.run(variable.set, 5)
        await asyncio.sleep(0)
        assert seen[-1] == 0 and first._context[variable] == 5

    run(main())


@loops
@pytest.mark.parametrize("debug", [False, True])
def test_a_future_that_a_timer_finishes_wakes_in_order(run, debug):
    finish = asyncio.futures._set_result_unless_cancelled
    log = []

    async def wait(future):
        log.append(await future)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        errors = []
        loop.set_exception_handler(lambda _, context: errors.append(type(context["exception"])))
        future, cancelled, done, with_callback, taken_back = (
            loop.create_future() for _ in range(5)
        )
        task = loop.create_task(wait(future))
        await asyncio.sleep(0)
        cancelled.cancel()
        done.set_result("first")
        with_callback.add_done_callback(lambda f: log.append("done"))
        begin = loop.time() - 1
        times = (begin + i / 1000 for i in range(100))
        loop.call_at(next(times), lambda: log.append(future.done()))
        loop.call_at(next(times), finish, future, None)
        loop.call_at(next(times), lambda: log.append(future.done()))
        loop.call_at(next(times), finish, cancelled, None)
        loop.call_at(next(times), finish, done, None)
        loop.call_at(next(times), finish, with_callback, None)
        loop.call_at(next(times), finish, taken_back, None).cancel()
        changed = loop.call_at(next(times), finish, taken_back, None)
        changed._callback = lambda *args: log.append(len(args))
        await task
        await asyncio.sleep(0)
        assert log == [False, True, 2, None, "done"]
        assert errors == [asyncio.InvalidStateError] and done.result() == "first"
        assert with_callback.result() is None and not taken_back.done()

    run(main())


@loops
def test_futures_and_tasks_are_awaitable_and_no_iterators(run):
    class ByHand:
        def __init__(self, future):
            self.future = future

        def __await__(self):
            return (yield from self.future.__await__())

    async def answer():
        await asyncio.sleep(0)
        return 42

    async def main():
        loop = asyncio.get_running_loop()
        future, task = loop.create_future(), loop.create_task(answer())
        for waiting in future, task:
            assert not hasattr(waiting, "__next__")
            assert isinstance(waiting, collections.abc.Awaitable)
            assert not isinstance(waiting, collections.abc.Iterator)
            assert not asyncio.iscoroutine(waiting)
            for iterator in iter(waiting), waiting.__await__():
                assert iterator is not waiting
                with pytest.raises(ZeroDivisionError):
                    iterator.throw(ZeroDivisionError())
                iterator.close()
        iterator = iter(future)
        assert iterator.send(None) is future and future._asyncio_future_blocking
        future._asyncio_future_blocking = False
        waiters = []
        for wait in (ByHand, asyncio.shield, lambda future: future) * 2:

            async def waiter(wait=wait):
                return await wait(future)

            waiters.append(loop.create_task(waiter()))
        await asyncio.sleep(0)
        assert [await ByHand(task), await task, await task] == [42] * 3
        future.set_result((1, 2))
        assert await asyncio.gather(*waiters) == [(1, 2)] * 6
        with pytest.raises(StopIteration) as stopped:
            iter(future).send(None)
        assert stopped.value.value == (1, 2)

    run(main())


def test_tasks_of_a_subclass_are_awaited():
    class Plain(pyasync_c.Task):
        pass

    class Own(pyasync_c.Task):
        def __await__(self):
            return ("own", (yield from super().__await__()))

    async def answer():
        await asyncio.sleep(0)
        return 42

    async def main():
        assert await Plain(answer()) == 42
        assert await Own(answer()) == ("own", 42)

    pyasync_c.run(main())


def test_handles_in_cycles_are_collected():
    class Holder:
        def __call__(self):
            pass

    def hold(call):
        holder = Holder()
        holder.handle = call(holder)
        gone.append(weakref.ref(holder))
        return holder

    gone = []
    variable = contextvars.ContextVar("variable")

    async def main():
        loop = asyncio.get_running_loop()
        hold(loop.call_soon)
        hold(functools.partial(loop.call_later, 0))
        hold(functools.partial(loop.call_later, math.inf))
        for arm in loop.call_soon, functools.partial(loop.call_later, 60):
            # The callback goes; what was set in the context goes round.
            context = contextvars.copy_context()
            holder = hold(functools.partial(arm, context=context))
            context.run(variable.set, holder)
            holder.handle.cancel()
            del holder, context
        await asyncio.sleep(0.01)
        gc.collect()
        assert [ref() for ref in gone] == [None] * 5
        for call in loop.call_soon, functools.partial(loop.call_later, 60):
            holder = hold(call)
            holder.loop = loop
            del holder
        gone.append(weakref.ref(loop))
        loop.stop()

    loop = pyasync_c.new_event_loop()
    task = loop.create_task(main())
    loop.run_forever()
    task.result()
    del task, loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert [ref() for ref in gone] == [None] * 8


def test_handles_are_not_made_by_hand():
    async def main():
        loop = asyncio.get_running_loop()
        for handle in loop.call_soon(int), loop.call_later(0, int):
            with pytest.raises(TypeError):
                type(handle)(int, (), loop)

    pyasync_c.run(main())


def test_ten_thousand_timers_armed_and_cancelled_leave_none():
    async def main():
        loop = asyncio.get_running_loop()
        runtime = pyasync_c.current_runtime()
        before = runtime.metrics().timers_active
        handles = [loop.call_later(random.random() * 1e6, int) for _ in range(10_000)]
        assert runtime.metrics().timers_active == before + 10_000
        random.Random(3).shuffle(handles)
        for handle in handles:
            handle.cancel()
        assert runtime.metrics().timers_active == before

    pyasync_c.run(main())


@loops
def test_call_soon_threadsafe_from_threads(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        done = loop.create_future()

        def work():
            for n in range(1000):
                loop.call_soon_threadsafe(log.append, n)
            loop.call_soon_threadsafe(done.set_result, None)

        worker = Worker(work)
        await done
        worker.result()
        assert log == list(range(1000))

    run(main())


@loops
def test_a_parked_loop_is_woken_by_a_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = threading.Timer(0.02, loop.call_soon_threadsafe, (future.set_result, "woken"))
        timer.start()
        assert await asyncio.wait_for(future, 60) == "woken"
        timer.join()

    run(main())


@loops
def test_a_busy_loop_still_serves_timers_descriptors_and_threads(run):
    async def main():
        loop, served = asyncio.get_running_loop(), set()
        ours, theirs = socket.socketpair()
        stop = False

        async def greedy():
            while not stop:
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(greedy()) for _ in range(3)]
        await turns()
        loop.call_later(0.001, served.add, "timer")
        ours.setblocking(False)
        loop.add_reader(ours, served.add, "descriptor")
        theirs.send(b"x")
        worker = Worker(loop.call_soon_threadsafe, served.add, "thread")
        deadline = time.monotonic() + 60
        while len(served) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0)
        stop = True
        loop.remove_reader(ours)
        await asyncio.gather(*tasks)
        worker.result()
        ours.close()
        theirs.close()
        return served

    assert run(main()) == {"timer", "descriptor", "thread"}


# ── running and closing ──────────────────────────────────────────────────────────────────────


@new_loops
def test_run_until_complete(new_event_loop):
    with closing(new_event_loop()) as loop:
        assert loop.run_until_complete(give(1)) == 1
        assert loop.run_until_complete(loop.create_task(give(2))) == 2
        with pytest.raises(Shout):
            loop.run_until_complete(fail(Shout()))
        loop.call_soon(loop.stop)
        future = loop.create_future()
        with pytest.raises(RuntimeError, match="stopped before Future completed"):
            loop.run_until_complete(future)
        with pytest.raises(TypeError):
            loop.run_until_complete(5)


def test_a_loop_within_itself_or_another():
    with closing(pyasync_c.new_event_loop()) as loop, closing(pyasync_c.new_event_loop()) as other:

        async def main():
            for run in loop.run_forever, other.run_forever:
                with pytest.raises(RuntimeError, match="running"):
                    run()
            for run in loop, other:
                with pytest.raises(RuntimeError, match="running"):
                    run.run_until_complete(loop.create_future())
            with pytest.raises(RuntimeError, match="running"):
                loop.close()
            return "goes on"

        assert loop.run_until_complete(main()) == "goes on"


@new_loops
def test_a_closed_loop(new_event_loop):
    loop = new_event_loop()
    loop.close()
    loop.close()
    assert loop.is_closed()
    coroutine = give(1)
    for use in (
        lambda: loop.call_soon(int),
        lambda: loop.call_soon_threadsafe(int),
        lambda: loop.call_later(1, int),
        lambda: loop.call_at(1, int),
        lambda: loop.create_task(coroutine),
        lambda: loop.run_until_complete(coroutine),
        lambda: loop.run_forever(),
        lambda: loop.run_in_executor(None, int),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    coroutine.close()


@new_loops
def test_a_closed_loop_holds_nothing(new_event_loop):
    class Argument:
        pass

    fds = open_fds()
    argument = Argument()
    gone = weakref.ref(argument)
    loop = new_event_loop()
    loop.call_soon(print, argument)
    loop.call_soon_threadsafe(print, argument)
    handles = [loop.call_later(3600, print, argument), loop.call_later(math.inf, print, argument)]
    future = loop.create_future()
    future.add_done_callback(lambda _, held=argument: None)
    one, two = socket.socketpair()
    loop.add_reader(one, print, argument)
    loop.close()
    one.close()
    two.close()
    del argument, future, handles
    collect()
    assert gone() is None
    assert open_fds() == fds
    gone = weakref.ref(loop)
    del loop
    collect()
    assert gone() is None


def test_a_handle_that_outlives_its_loop_can_be_cancelled():
    loop = pyasync_c.new_event_loop()
    handles = [loop.call_soon(int), loop.call_later(3600, int), loop.call_at(0, int)]
    loop.close()
    for handle in handles:
        handle.cancel()
        repr(handle)


def test_a_loop_that_was_not_closed_warns():
    loop = pyasync_c.new_event_loop()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loop.__del__()
    assert loop.is_closed()


def test_tasks_and_futures_outlive_their_loop():
    loop = pyasync_c.new_event_loop()
    future = loop.create_future()
    task = loop.create_task(give("done"))
    loop.run_until_complete(task)
    waiting = loop.create_task(asyncio.wait_for(future, None))
    waiting._log_destroy_pending = False
    loop.run_until_complete(turns())
    loop.close()
    assert task.result() == "done"
    future.set_result(1)
    waiting.cancel()
    with unraisable(), contextlib.suppress(RuntimeError):
        future.add_done_callback(print)
    repr(waiting)
    del waiting, future
    collect()


# ── errors and debug mode ────────────────────────────────────────────────────────────────────


@loops
def test_the_exception_handler(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            loop.set_exception_handler(5)
        assert loop.get_exception_handler() is None
        with reports(loop) as seen:
            loop.call_soon(lambda: 1 / 0)
            loop.call_later(0, lambda: 1 / 0)
            await asyncio.sleep(0.005)
        assert len(seen) == 2
        for context in seen:
            assert type(context["exception"]) is ZeroDivisionError
            assert context["message"].startswith("Exception in callback")
            assert isinstance(context["handle"], asyncio.Handle)

    run(main())


@loops
def test_the_default_handler_logs(run, caplog):
    async def main():
        asyncio.get_running_loop().call_soon(raises)
        await turns()

    def raises():
        raise Shout("logged")

    with caplog.at_level(logging.ERROR, "asyncio"):
        run(main())
    [record] = caplog.records
    assert record.name == "asyncio" and "Exception in callback" in record.message
    assert record.exc_info[0] is Shout


@loops
def test_a_handler_that_raises(run, caplog):
    def handler(loop, context):
        raise Shout("handler")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        loop.call_soon(lambda: 1 / 0)
        await turns()
        return "goes on"

    with caplog.at_level(logging.ERROR, "asyncio"):
        assert run(main()) == "goes on"
    assert "Unhandled error in exception handler" in caplog.text


@SINCE_3_12
@loops
def test_the_handler_runs_in_the_callbacks_context(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda *_: seen.append(variable.get()))
        own = contextvars.copy_context()
        own.run(variable.set, "callback's")
        loop.call_soon(lambda: 1 / 0, context=own)
        await turns()
        assert seen == ["callback's"]

    run(main())


@loops
def test_other_base_exceptions_of_a_callback_are_reported(run):
    def raises():
        raise Thunder

    async def main():
        loop = asyncio.get_running_loop()
        with reports(loop) as seen:
            loop.call_soon(raises)
            await turns()
        assert type(seen[0]["exception"]) is Thunder

    run(main())


@loops
def test_debug_mode_finds_calls_from_the_wrong_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        assert loop.get_debug()

        def wrong():
            for call in (
                lambda: loop.call_soon(int),
                lambda: loop.call_later(0, int),
                lambda: loop.call_at(0, int),
            ):
                with pytest.raises(RuntimeError, match="(?i)non-thread-safe"):
                    call()
            loop.call_soon_threadsafe(int)

        await asyncio.to_thread(wrong)

    run(main())


@loops
def test_debug_mode_refuses_coroutines_as_callbacks(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with pytest.raises(TypeError, match="coroutine"):
            loop.call_soon(give)
        coroutine = give(1)
        with pytest.raises(TypeError, match="coroutine"):
            loop.call_later(0, coroutine)
        coroutine.close()

    run(main())


@loops
def test_debug_mode_logs_what_is_slow(run, caplog):
    async def slow():
        time.sleep(0.02)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        loop.call_soon(time.sleep, 0.02)
        await asyncio.create_task(slow())
        loop.slow_callback_duration = 1000

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main())
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("Executing <") and message.endswith(" seconds")
    assert "slow()" in messages[1]


@loops
def test_debug_mode_remembers_where_things_were_made(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert loop.create_future()._source_traceback is None
        loop.set_debug(True)
        handle = loop.call_later(60, int)
        task = loop.create_task(give(1))
        for made in loop.create_future(), task, handle:
            names = [frame.name for frame in made._source_traceback]
            assert "main" in names[-2:]
        handle.cancel()
        assert "created at" in repr(handle)
        await task

    run(main())


@loops
def test_task_factories(run):
    async def main():
        loop, made = asyncio.get_running_loop(), []

        def factory(loop, coro, **kwargs):
            made.append(kwargs.get("name"))
            return asyncio.Task(coro, loop=loop, **kwargs)

        with pytest.raises(TypeError):
            loop.set_task_factory(5)
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        task = asyncio.create_task(give(1), name="named")
        assert await task == 1 and task.get_name() == "named" and len(made) == 1
        loop.set_task_factory(None)
        await asyncio.create_task(give(2))
        assert len(made) == 1

    run(main())


# ── descriptors ──────────────────────────────────────────────────────────────────────────────


@loops
def test_readers_and_writers(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        one, two = socket.socketpair()
        one.setblocking(False)
        loop.add_writer(one, log.append, "writable")
        await asyncio.sleep(0.002)
        assert log and set(log) == {"writable"}
        assert loop.remove_writer(one) and not loop.remove_writer(one)
        log.clear()
        loop.add_reader(one.fileno(), log.append, "first")
        loop.add_reader(one.fileno(), lambda: log.append(one.recv(10)))  # replaces it
        two.send(b"hello")
        while not log:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)
        assert log == [b"hello"]
        assert loop.remove_reader(one) and not loop.remove_reader(one)
        two.send(b"unseen")
        await asyncio.sleep(0.002)
        assert log == [b"hello"]
        one.close()
        two.close()

    run(main())


@loops
def test_bad_descriptors(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        for bad in -1, object(), "fd":
            with pytest.raises(ValueError):
                loop.add_reader(bad, int)
        read, write = os.pipe()
        os.close(read)
        os.close(write)
        with pytest.raises(OSError):
            loop.add_reader(read, int)
        with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
            loop.add_reader(file, int)
        assert not loop.remove_reader(read)
        return "goes on"

    assert run(main()) == "goes on"


@loops
def test_a_transports_descriptor_is_not_to_be_watched(run):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(one.fileno(), int)
        writer.close()
        await writer.wait_closed()
        two.close()

    run(main())


def test_a_descriptor_closed_while_watched_and_its_number_used_again():
    async def main():
        loop, log = asyncio.get_running_loop(), []
        one, two = socket.socketpair()
        number = one.fileno()
        loop.add_reader(number, log.append, "old")
        one.close()
        loop.remove_reader(number)
        three, four = socket.socketpair()
        pair = {three.fileno(): (three, four), four.fileno(): (four, three)}
        assert number in pair
        mine, other = pair[number]
        loop.add_reader(number, lambda: log.append(mine.recv(5)))
        other.send(b"new")
        while not log:
            await asyncio.sleep(0.001)
        loop.remove_reader(number)
        for each in two, three, four:
            each.close()
        return log

    assert pyasync_c.run(main()) == [b"new"]


def test_removing_a_reader_whose_event_is_in_the_same_batch():
    async def main():
        loop, log = asyncio.get_running_loop(), []
        pairs = [socket.socketpair() for _ in range(10)]

        def first_removes_the_others(n):
            log.append(n)
            for reader, _ in pairs:
                loop.remove_reader(reader)
                reader.close()

        for n, (reader, _) in enumerate(pairs):
            loop.add_reader(reader, first_removes_the_others, n)
        for _, writer in pairs:
            writer.send(b"x")
        await asyncio.sleep(0.005)
        for _, writer in pairs:
            writer.close()
        return log

    assert len(pyasync_c.run(main())) == 1


@loops
def test_sock_functions(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            server.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(server))
            await loop.sock_connect(client, server.getsockname())
            peer, _ = await accepting
            peer.setblocking(False)
            with peer:
                data = bytes(range(256)) * 4096
                sending = asyncio.create_task(loop.sock_sendall(client, data))
                received = bytearray()
                while len(received) < len(data):
                    received += await loop.sock_recv(peer, 1 << 16)
                await sending
                assert received == data
                waiting = asyncio.create_task(loop.sock_recv(peer, 1))
                await asyncio.sleep(0.002)
                waiting.cancel()
                await asyncio.wait([waiting])
                assert waiting.cancelled() and not loop.remove_reader(peer)

    run(main())


# ── streams, servers, pipes, processes ───────────────────────────────────────────────────────


@loops
def test_streams_over_a_socketpair(run):
    async def main():
        one, two = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        peer_reader, peer_writer = await asyncio.open_connection(sock=two)
        writer.write(b"line\nrest")
        assert await peer_reader.readline() == b"line\n"
        assert await peer_reader.readexactly(4) == b"rest"
        peer_writer.write(b"x" * 1_000_000)
        drained = asyncio.create_task(peer_writer.drain())
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        await drained
        peer_writer.close()
        assert await reader.read() == b""
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)
        writer.close()
        await asyncio.gather(writer.wait_closed(), peer_writer.wait_closed())

    run(main())


@loops
def test_a_tcp_server(run):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def client(port, n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(5):
            message = f"{n} {i}".encode()
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            assert server.is_serving()
            await asyncio.gather(*(client(port, n) for n in range(20)))
        assert not server.is_serving()

    before = open_fds()
    run(main())
    collect()
    assert open_fds() == before


@loops
def test_a_unix_server_and_datagrams(run, tmp_path):
    async def hello(reader, writer):
        writer.write(b"hello")
        writer.close()

    class Protocol(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.received.set_result(data)

    async def main():
        path = str(tmp_path / "socket")
        async with await asyncio.start_unix_server(hello, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()
        loop = asyncio.get_running_loop()
        server, protocol = await loop.create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )
        sender, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
        )
        sender.sendto(b"datagram")
        assert await asyncio.wait_for(protocol.received, 60) == b"datagram"
        sender.close()
        server.close()
        await turns()

    run(main())


@loops
def test_pipes(run):
    async def main():
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
        )
        out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0))
        out.write(b"through the pipe")
        out.close()
        assert await reader.read() == b"through the pipe"
        transport.close()
        await turns()

    run(main())


@loops
def test_getaddrinfo(run):
    async def main():
        found = await asyncio.get_running_loop().getaddrinfo(
            "127.0.0.1", 80, type=socket.SOCK_STREAM
        )
        assert found[0][4] == ("127.0.0.1", 80)

    run(main())


@loops
def test_subprocesses(run):
    program = "import sys; data = sys.stdin.read(); print(data.upper(), end=''); sys.exit(3)"

    async def main():
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", program, stdin=pipe, stdout=pipe
        )
        out, _ = await process.communicate(b"hello")
        assert (out, process.returncode) == (b"HELLO", 3)
        shell = await asyncio.create_subprocess_shell("echo shell", stdout=pipe)
        assert (await shell.communicate())[0] == b"shell\n"
        sleeper = await asyncio.create_subprocess_exec("sleep", "60")
        sleeper.kill()
        assert await sleeper.wait() == -signal.SIGKILL

    run(main())


# ── signals ──────────────────────────────────────────────────────────────────────────────────


@loops
def test_signal_handlers(run):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "caught")
        signal.raise_signal(signal.SIGUSR1)
        while not seen:
            await asyncio.sleep(0.001)
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        deadline = loop.time() + 60
        while len(seen) < 2 and loop.time() < deadline:
            await asyncio.sleep(0.05)
        timer.join()
        assert seen == ["caught", "caught"]
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        with pytest.raises(ValueError):
            loop.add_signal_handler(1000, int)
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(signal.SIGKILL, int)
        with pytest.raises(TypeError):
            loop.add_signal_handler(signal.SIGUSR1, give)

    run(main())
    assert signal.set_wakeup_fd(-1) == -1


@loops
def test_a_signal_handler_left_over_goes_with_the_loop(run):
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, int)

    run(main())
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


@loops
def test_a_wakeup_descriptor_of_ones_own_is_put_back(run):
    one, two = socket.socketpair()
    two.setblocking(False)
    with one, two:
        before = signal.set_wakeup_fd(two.fileno())
        try:
            run(asyncio.sleep(0.001))
            if run is not run_asyncio:  # whose loop sets one only for its signal handlers
                assert signal.set_wakeup_fd(two.fileno()) == two.fileno()
        finally:
            signal.set_wakeup_fd(before)
