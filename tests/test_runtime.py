"""The life of a runtime: runs, closing, threads, signals, forks, interpreters."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import threading
import time
import warnings
import weakref

import pytest
from helpers import Manual, Worker, collect, every_loop, open_fds, python, turns

import pyasync_c

variable = contextvars.ContextVar("variable", default="unset")


class Shout(Exception):
    pass


async def wait_for(aw):
    return await aw


async def give(value):
    return value


async def fail(error):
    raise error


def assert_closed(coroutine):
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# ── run ──────────────────────────────────────────────────────────────────────────────────────


def test_run_returns_or_raises_what_main_does():
    assert pyasync_c.run(give("value")) == "value"
    error = Shout("main's")
    with pytest.raises(Shout) as caught:
        pyasync_c.run(fail(error))
    assert caught.value is error


def test_run_takes_any_awaitable():
    class Awaitable:
        def __await__(self):
            yield
            return "python"

    assert pyasync_c.run(Awaitable()) == "python"
    assert pyasync_c.run(pyasync_c.ready("ours")) == "ours"
    assert pyasync_c.run(pyasync_c.sleep(0, "slept")) == "slept"


@pytest.mark.parametrize("bad", [5, None, object()])
def test_run_of_what_is_no_awaitable(bad):
    with pytest.raises(TypeError, match="awaitable"):
        pyasync_c.run(bad)
    with pyasync_c.Runtime() as runtime, pytest.raises(TypeError, match="awaitable"):
        runtime.run(bad)


def test_run_of_a_function_says_what_is_missing():
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        pyasync_c.run(give)


@every_loop
def test_run_within_a_loop_is_refused_and_closes_the_coroutine(run):
    async def main():
        inner = give(1)
        with pytest.raises(RuntimeError, match="running event loop"):
            pyasync_c.run(inner)
        assert_closed(inner)
        inner = give(2)
        with pytest.raises(RuntimeError, match="running event loop"):
            idle.run(inner)
        assert_closed(inner)
        with pytest.raises(RuntimeError, match="running event loop"):
            idle.close()
        return "goes on"

    with pyasync_c.Runtime() as idle:
        assert run(main()) == "goes on"
        assert idle.run(give(3)) == 3


def test_what_is_left_over_is_cancelled_and_finished():
    steps = []

    async def left_over():
        try:
            await pyasync_c.pending()
        finally:
            await asyncio.sleep(0.001)
            await pyasync_c.sleep(0.001)
            steps.append("cleaned")

    async def main():
        pyasync_c.spawn(left_over())
        await turns()

    pyasync_c.run(main())
    assert steps == ["cleaned"]


def test_an_exception_while_left_overs_are_cancelled_is_reported():
    seen = []

    async def sore():
        try:
            await pyasync_c.pending()
        finally:
            raise Shout("at the end")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        pyasync_c.spawn(sore())
        await turns()

    pyasync_c.run(main())
    [context] = seen
    assert str(context["exception"]) == "at the end" and "shutdown" in context["message"]


@every_loop
def test_async_generators_left_open_are_closed(run):
    closed = []

    async def numbers(name):
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    async def main():
        kept.append(numbers("kept"))
        await kept[0].__anext__()
        dropped = numbers("dropped")
        await dropped.__anext__()
        del dropped
        collect()
        await turns(10)
        assert closed == ["dropped"]

    kept = []
    run(main())
    assert closed == ["dropped", "kept"]


def test_debug_is_passed_on():
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert pyasync_c.run(main(), debug=True) is True
    assert pyasync_c.run(main(), debug=False) is False
    with pyasync_c.Runtime(debug=True) as runtime:
        assert runtime.get_loop().get_debug()


def test_nothing_is_left_of_a_run():
    async def main():
        pyasync_c.spawn(wait_for(pyasync_c.pending()))
        await asyncio.to_thread(int)
        await pyasync_c.sleep(0.001)

    pyasync_c.run(main())
    collect()
    fds, threads = open_fds(), threading.active_count()
    for _ in range(20):
        pyasync_c.run(main())
    collect()
    assert open_fds() == fds
    assert threading.active_count() == threads
    assert asyncio._get_running_loop() is None


# ── several runs ─────────────────────────────────────────────────────────────────────────────


def test_tasks_stay_suspended_between_runs():
    steps = []

    async def background():
        for n in range(100):
            steps.append(n)
            await pyasync_c.yield_now()

    async def start():
        return pyasync_c.spawn(background())

    with pyasync_c.Runtime() as runtime:
        task = runtime.run(start())
        runtime.run(turns(3))
        so_far = list(steps)
        assert 0 < len(so_far) < 100 and not task.done()
        time.sleep(0.01)
        assert steps == so_far, "ran while nobody ran it"
        runtime.run(wait_for(task))
        assert steps == list(range(100))


def test_what_was_spawned_before_the_run_starts_with_it():
    ran = []

    async def work():
        ran.append(1)

    with pyasync_c.Runtime() as runtime:
        loop = runtime.get_loop()
        task = loop.create_task(work())
        loop.call_soon(ran.append, 2)
        time.sleep(0.01)
        assert ran == []
        runtime.run(turns())
        assert ran == [1, 2] and task.done()


def test_a_timer_that_came_due_between_two_runs():
    with pyasync_c.Runtime() as runtime:

        async def start():
            return pyasync_c.spawn(pyasync_c.sleep(0.005, "slept"))

        task = runtime.run(start())
        time.sleep(0.02)
        assert runtime.run(wait_for(task)) == "slept"


def test_runs_share_one_context():
    async def put():
        variable.set("first run's")

    async def get():
        return variable.get()

    with pyasync_c.Runtime() as runtime:
        runtime.run(put())
        assert runtime.run(get()) == "first run's"
    assert variable.get() == "unset"


def test_a_run_that_fails_leaves_the_runtime_usable():
    with pyasync_c.Runtime() as runtime:
        for _ in range(3):
            with pytest.raises(Shout):
                runtime.run(fail(Shout()))
        for error in KeyboardInterrupt, SystemExit:
            with pytest.raises(error):
                runtime.run(fail(error()))
        assert runtime.run(give(1)) == 1


def test_repr_tells_the_state():
    async def look():
        return repr(runtime)

    with pyasync_c.Runtime() as runtime:
        assert repr(runtime) == "<Runtime idle>"
        assert runtime.run(look()) == "<Runtime running>"
    assert repr(runtime) == "<Runtime closed>"


# ── closing ──────────────────────────────────────────────────────────────────────────────────


def test_a_closed_runtime_is_closed():
    runtime = pyasync_c.Runtime()
    handle, loop = runtime.handle(), runtime.get_loop()
    runtime.close()
    runtime.close()
    assert loop.is_closed()
    coroutine = give(1)
    with pytest.raises(RuntimeError, match="runtime is closed"):
        runtime.run(coroutine)
    assert_closed(coroutine)
    for use in runtime.handle, runtime.get_loop, runtime.metrics, runtime.__enter__:
        with pytest.raises(RuntimeError, match="runtime is closed"):
            use()
    coroutine = give(2)
    with pytest.raises(RuntimeError, match="closed"):
        handle.spawn(coroutine)
    assert_closed(coroutine)
    with pytest.raises(RuntimeError, match="closed"):
        handle.call_soon(print)


def test_a_running_runtime_cannot_be_closed():
    async def main():
        with pytest.raises(RuntimeError, match="running"):
            runtime.close()
        with pytest.raises(RuntimeError, match="running"):
            asyncio.get_running_loop().close()
        return "goes on"

    with pyasync_c.Runtime() as runtime:
        assert runtime.run(main()) == "goes on"


def test_close_finishes_tasks_generators_and_threads():
    steps = []

    async def generator():
        try:
            yield 1
        finally:
            await pyasync_c.sleep(0.001)
            steps.append("generator")

    async def task():
        try:
            await asyncio.sleep(3600)
        finally:
            steps.append("task")

    def blocking():
        time.sleep(0.02)
        steps.append("thread")

    async def main():
        await kept.__anext__()
        pyasync_c.spawn(task())
        pyasync_c.spawn_blocking(blocking)
        await turns()

    kept = generator()
    runtime = pyasync_c.Runtime()
    runtime.run(main())
    assert steps == []
    runtime.close()
    assert steps[0] == "task" and sorted(steps) == ["generator", "task", "thread"]


def test_a_task_that_will_not_be_cancelled_is_waited_for():
    steps = []

    async def stubborn():
        for n in range(3):
            try:
                await pyasync_c.sleep(0.005)
            except asyncio.CancelledError:
                steps.append(n)
        steps.append("end")

    with pyasync_c.Runtime() as runtime:

        async def main():
            pyasync_c.spawn(stubborn())
            await turns()

        runtime.run(main())
    assert steps == [0, "end"]


def test_an_unreachable_runtime_warns_and_closes_its_coroutines():
    closed = []

    async def work():
        try:
            await pyasync_c.pending()
        finally:
            closed.append(1)

    def leave():
        runtime = pyasync_c.Runtime()
        runtime.get_loop().set_exception_handler(lambda _, context: None)
        runtime.run(give(1))
        task = runtime.get_loop().create_task(work())
        runtime.run(turns())
        return weakref.ref(task)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        task = leave()
        collect()
    assert task() is None
    assert closed == [1]
    assert any("unclosed event loop" in str(warning.message) for warning in seen)


# ── threads ──────────────────────────────────────────────────────────────────────────────────


def test_a_handle_spawns_from_threads():
    async def work(n):
        await pyasync_c.yield_now()
        return n, threading.get_ident()

    def ask(handle):
        with pytest.raises(Shout):
            handle.spawn(fail(Shout())).result(60)
        with pytest.raises(TypeError, match="awaitable"):
            handle.spawn(5)
        with pytest.raises(TypeError, match="callable"):
            handle.call_soon(5)
        return [handle.spawn(work(n)) for n in range(200)]

    async def main():
        handle = pyasync_c.current_runtime().handle()
        workers = [Worker(ask, handle) for _ in range(4)]
        while any(worker.is_alive() for worker in workers):
            await pyasync_c.sleep(0.001)
        futures = [future for worker in workers for future in worker.result()]
        assert all(isinstance(future, concurrent.futures.Future) for future in futures)
        results = await asyncio.gather(*map(asyncio.wrap_future, futures))
        assert sorted(n for n, _ in results) == sorted(list(range(200)) * 4)
        assert {thread for _, thread in results} == {threading.get_ident()}

    pyasync_c.run(main())


def test_cancelling_what_a_handle_spawned_cancels_the_task():
    leaf = Manual()

    async def main():
        handle = pyasync_c.current_runtime().handle()
        future = await asyncio.to_thread(handle.spawn, wait_for(leaf))
        while not leaf.polls:
            await pyasync_c.sleep(0.001)
        assert await asyncio.to_thread(future.cancel)
        while not leaf.drops:
            await pyasync_c.sleep(0.001)

    pyasync_c.run(main())
    assert leaf.drops == 1


def test_call_soon_from_threads_keeps_each_threads_order():
    seen = []

    async def main():
        handle = pyasync_c.current_runtime().handle()

        def call(name):
            for n in range(1000):
                handle.call_soon(lambda n=n: seen.append((name, n, threading.get_ident())))

        workers = [Worker(call, name) for name in range(3)]
        while len(seen) < 3000:
            await pyasync_c.sleep(0.001)
        for worker in workers:
            worker.result()

    pyasync_c.run(main())
    for name in range(3):
        assert [n for who, n, _ in seen if who == name] == list(range(1000))
    assert {thread for _, _, thread in seen} == {threading.get_ident()}


def test_call_soon_takes_arguments():
    seen = []
    with pyasync_c.Runtime() as runtime:
        runtime.handle().call_soon(seen.append, "argument")
        runtime.run(turns())
    assert seen == ["argument"]


def test_a_runtime_that_runs_on_one_thread_is_refused_to_another():
    started, stop = threading.Event(), threading.Event()

    async def main():
        started.set()
        while not stop.is_set():
            await pyasync_c.sleep(0.001)

    with pyasync_c.Runtime() as runtime:
        worker = Worker(lambda: runtime.run(main()))
        assert started.wait(60)
        coroutine = give(1)
        with pytest.raises(RuntimeError, match="running"):
            runtime.run(coroutine)
        assert_closed(coroutine)
        stop.set()
        worker.result()
        assert runtime.run(give(2)) == 2


def test_runtimes_on_several_threads_at_once():
    async def main(name):
        runtime = pyasync_c.current_runtime()
        for _ in range(50):
            assert await pyasync_c.spawn(pyasync_c.sleep(0.0005, name)) == name
            assert pyasync_c.current_runtime() is runtime
        return runtime

    workers = [Worker(lambda n=n: pyasync_c.run(main(n))) for n in range(4)]
    assert len({worker.result() for worker in workers}) == 4


# ── looking around ───────────────────────────────────────────────────────────────────────────


def test_current_runtime():
    async def main():
        assert pyasync_c.current_runtime() is runtime
        with pytest.raises(RuntimeError, match="no runtime"):
            await asyncio.to_thread(pyasync_c.current_runtime)

    with pytest.raises(RuntimeError, match="no runtime"):
        pyasync_c.current_runtime()
    with pyasync_c.Runtime() as runtime:
        runtime.run(main())
        with pytest.raises(RuntimeError, match="no runtime"):
            pyasync_c.current_runtime()
    with contextlib.suppress(Shout):
        pyasync_c.run(fail(Shout()))
    with pytest.raises(RuntimeError, match="no runtime"):
        pyasync_c.current_runtime()


@every_loop
def test_all_tasks(run):
    async def main():
        me = asyncio.current_task()
        assert pyasync_c.all_tasks() == {me}
        children = {pyasync_c.spawn(wait_for(Manual())) for _ in range(5)}
        assert pyasync_c.all_tasks() == asyncio.all_tasks() == children | {me}
        await turns()
        assert pyasync_c.all_tasks() == asyncio.all_tasks() == children | {me}
        gone = children.pop()
        gone.cancel()
        await asyncio.wait([gone])
        assert pyasync_c.all_tasks() == asyncio.all_tasks() == children | {me}

    run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyasync_c.all_tasks()


def test_all_tasks_of_another_loop():
    """asyncio.all_tasks(loop) tells loops apart, ours and theirs."""
    one, two, theirs = pyasync_c.new_event_loop(), pyasync_c.new_event_loop(), None
    theirs = asyncio.new_event_loop()
    try:
        tasks = [loop.create_task(give(1)) for loop in (one, two, theirs)]
        for loop, task in zip((one, two, theirs), tasks, strict=True):
            assert asyncio.all_tasks(loop) == {task}
            loop.run_until_complete(task)
            assert asyncio.all_tasks(loop) == set()
    finally:
        for loop in one, two, theirs:
            loop.close()


def test_metrics():
    async def main():
        def counts():
            return runtime.metrics()

        start = counts()
        assert start.tasks_alive == 1
        children = [pyasync_c.spawn(pyasync_c.sleep(0.01)) for _ in range(10)]
        assert counts().tasks_spawned == start.tasks_spawned + 10
        assert counts().tasks_alive == 11
        await turns(1)
        assert counts().timers_active >= start.timers_active + 10
        assert counts().queue_depth_max >= 10
        await asyncio.wait(children)
        end = counts()
        assert end.tasks_alive == 1
        assert end.timers_fired >= start.timers_fired + 10
        assert end.polls >= start.polls + 20
        assert end.wakes > start.wakes
        assert end.parks > start.parks
        assert end.wakes_from_threads == start.wakes_from_threads
        await asyncio.to_thread(time.sleep, 0.02)
        assert counts().wakes_from_threads > end.wakes_from_threads
        before = counts().slow_polls
        await pyasync_c.spawn(block())
        assert counts().slow_polls == before + 1
        await turns(100)
        time.sleep(0.11)
        assert counts().slow_polls == before + 2  # the one that asks
        await pyasync_c.yield_now()
        assert counts().slow_polls == before + 2
        await turns(100)
        assert counts().slow_polls == before + 2
        return counts()

    async def block():
        time.sleep(0.11)

    with pyasync_c.Runtime() as runtime:
        metrics = runtime.run(main())
        assert runtime.metrics().tasks_alive == 0
    assert isinstance(metrics, pyasync_c.RuntimeMetrics)
    assert all(type(value) is int for value in metrics)
    with pytest.raises(AttributeError):
        metrics.polls = 0


def test_a_run_polls_no_more_than_it_must():
    """Asleep is asleep: nothing polls or parks in circles."""

    async def main():
        before = runtime.metrics()
        await asyncio.gather(*(pyasync_c.sleep(0.05) for _ in range(100)))
        return before, runtime.metrics()

    with pyasync_c.Runtime() as runtime:
        before, after = runtime.run(main())
    assert after.polls - before.polls <= 2 * 100 + 2
    assert after.parks - before.parks <= 110
    assert after.spurious_polls == before.spurious_polls


# ── spawn_blocking ───────────────────────────────────────────────────────────────────────────


@every_loop
def test_spawn_blocking(run):
    def blocking(a, b, *, c):
        return a, b, c, threading.get_ident(), variable.get()

    async def main():
        variable.set("caller's")
        future = pyasync_c.spawn_blocking(blocking, 1, 2, c=3)
        variable.set("later")
        *values, thread, value = await future
        assert values == [1, 2, 3]
        assert thread != threading.get_ident()
        assert value == "caller's"
        with pytest.raises(Shout):
            await pyasync_c.spawn_blocking(raises)
        with pytest.raises(TypeError, match="callable"):
            pyasync_c.spawn_blocking(5)

    def raises():
        raise Shout

    run(main())


def test_spawn_blocking_starts_without_being_awaited():
    ran = threading.Event()

    async def main():
        pyasync_c.spawn_blocking(ran.set)
        while not ran.is_set():
            await pyasync_c.sleep(0.001)

    pyasync_c.run(main())


def test_cancelling_the_await_leaves_the_thread_at_work():
    go, done = threading.Event(), threading.Event()

    def blocking():
        assert go.wait(60)
        done.set()

    async def main():
        task = pyasync_c.spawn(pyasync_c.spawn_blocking(blocking))
        await pyasync_c.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and not done.is_set()
        go.set()

    pyasync_c.run(main())
    assert done.is_set(), "the end of the run waits for the pool"


def test_spawn_blocking_needs_a_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyasync_c.spawn_blocking(int)


# ── imports ──────────────────────────────────────────────────────────────────────────────────


def test_importing_is_light():
    python(
        """
import sys
before = set(sys.modules)
import pyasync_c
new = set(sys.modules) - before
assert new == {"pyasync_c", "pyasync_c._core"}, new
heavy = {"asyncio", "typing", "concurrent.futures"}
pyasync_c.Waker, pyasync_c.sleep(1), pyasync_c.Notify().notified(), pyasync_c.poll_fn(print)
assert not heavy & (set(sys.modules) - before)
assert "run" in dir(pyasync_c) and "Task" in dir(pyasync_c)
assert len(set(pyasync_c.__all__)) == len(pyasync_c.__all__)
for name in pyasync_c.__all__:
    getattr(pyasync_c, name)
assert "asyncio" in sys.modules
try:
    pyasync_c.nonsense
except AttributeError as error:
    assert "nonsense" in str(error)
else:
    raise AssertionError
"""
    )
