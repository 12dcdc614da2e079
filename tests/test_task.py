"""Tasks: all of asyncio.Task, in the order in which things were made ready, and nothing lost.

What asyncio documents is tried on asyncio's own tasks too: that says that the test is right.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import io
import sys
import types
import weakref
from asyncio import futures

import pytest
from helpers import OUR_RUNTIME, Manual, collect, python, run_asyncio, turns, unraisable

import pyasync_c

both = pytest.mark.parametrize("run", [OUR_RUNTIME, pytest.param(run_asyncio, id="asyncio")])
SINCE_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has no eager tasks yet")

variable = contextvars.ContextVar("variable", default="unset")


class Shout(Exception):
    pass


class Thunder(BaseException):
    pass


async def wait_for(aw):
    return await aw


async def fail(error):
    raise error


async def nothing():
    pass


@types.coroutine
def yielded(future):
    """As libraries await that are not written with `await`: nobody asks for the result."""
    future._asyncio_future_blocking = True
    return (yield future)


@contextlib.contextmanager
def reports():
    """What the running loop's exception handler is called with."""
    seen = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    try:
        yield seen
    finally:
        loop.set_exception_handler(before)


def sleeping_forever():
    return asyncio.get_running_loop().create_future()


# what a task may wait in
every_leaf = pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(pyasync_c.pending, id="pending"),
        pytest.param(lambda: pyasync_c.sleep(3600), id="sleep"),
        pytest.param(lambda: pyasync_c.Notify().notified(), id="notified"),
        pytest.param(Manual, id="python"),
        pytest.param(sleeping_forever, id="asyncio-future"),
        pytest.param(lambda: asyncio.sleep(3600), id="asyncio-sleep"),
        pytest.param(lambda: asyncio.create_task(wait_for(pyasync_c.pending())), id="task"),
        pytest.param(lambda: pyasync_c.into_future(asyncio.sleep(3600)), id="into_future"),
    ],
)


# ── the surface ──────────────────────────────────────────────────────────────────────────────


def test_every_name_of_asyncios_task_is_our_own():
    """A method left to the base would work on the base's fields, which stay empty."""
    inherited = set(dir(object)) | {"__class_getitem__", "__del__", "__init__", "__weakref__"}
    for ours, theirs in (pyasync_c.Task, asyncio.Task), (future_type(), asyncio.Future):
        missing = {
            name
            for name in set(dir(theirs)) - inherited
            if getattr(ours, name) == getattr(theirs, name)
        }
        assert missing <= {"_repr_info"}, missing


def future_type():
    loop = pyasync_c.new_event_loop()
    try:
        return type(loop.create_future())
    finally:
        loop.close()


@both
def test_the_life_of_a_task(run):
    async def main():
        leaf = Manual()
        task = asyncio.create_task(wait_for(leaf), name="lives")
        assert isinstance(task, asyncio.Task) and asyncio.isfuture(task)
        for step in range(2):
            assert (task.done(), task.cancelled()) == (False, False), step
            for look in task.result, task.exception:
                with pytest.raises(asyncio.InvalidStateError):
                    look()
            await turns()
        leaf.set("lived")
        await turns()
        assert (task.done(), task.cancelled()) == (True, False)
        assert (task.result(), task.exception()) == ("lived", None)
        assert [await task, await task] == ["lived", "lived"]

    run(main())


@both
def test_a_tasks_result_is_not_for_setting(run):
    async def main():
        task = asyncio.create_task(nothing())
        for setter in task.set_result, task.set_exception:
            with pytest.raises(RuntimeError, match="does not support"):
                setter(None)
        await task

    run(main())


@both
def test_names(run):
    async def main():
        named = asyncio.create_task(nothing(), name="given")
        numbered = asyncio.create_task(nothing(), name=5)
        plain, other = asyncio.create_task(nothing()), asyncio.create_task(nothing())
        assert (named.get_name(), numbered.get_name()) == ("given", "5")
        assert plain.get_name().startswith("Task-")
        assert plain.get_name() != other.get_name()
        plain.set_name(("tuple",))
        assert plain.get_name() == "('tuple',)"
        assert "name='given'" in repr(named)
        await asyncio.gather(named, numbered, plain, other)

    run(main())


def test_spawn_takes_a_name_and_a_context():
    async def main():
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        task = pyasync_c.spawn(look_at_variable(), name="spawned", context=context)
        assert task.get_name() == "spawned"
        assert task.get_context() is context
        assert await task == "given"
        with pytest.raises(TypeError, match="context"):
            pyasync_c.spawn(nothing_closed(), context=5)
        with pytest.raises(TypeError, match="unexpected keyword"):
            pyasync_c.spawn(nothing_closed(), colour="red")

    pyasync_c.run(main())


def nothing_closed():
    coroutine = nothing()
    coroutine.close()
    return coroutine


async def look_at_variable():
    return variable.get()


def test_ids_are_unique():
    async def main():
        tasks = [pyasync_c.spawn(nothing()) for _ in range(100)]
        assert len({task.id for task in tasks}) == 100
        await asyncio.gather(*tasks)

    pyasync_c.run(main())


@both
def test_get_coro_context_loop_and_stack(run):
    async def main():
        coroutine = wait_for(Manual())
        task = asyncio.create_task(coroutine)
        await turns()
        assert task.get_coro() is coroutine
        assert task.get_loop() is asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            assert isinstance(task.get_context(), contextvars.Context)
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["wait_for"]
        assert task.get_stack(limit=1) == task.get_stack()
        printed = io.StringIO()
        task.print_stack(file=printed, limit=5)
        assert "wait_for" in printed.getvalue()
        task.cancel()
        await asyncio.wait([task])
        assert task.get_stack() == []

    run(main())


@both
def test_repr_tells_the_state(run):
    async def main():
        task = asyncio.create_task(wait_for(Manual()), name="t")
        assert "pending" in repr(task) and "wait_for" in repr(task)
        task.cancel()
        assert "cancelling" in repr(task)
        await asyncio.wait([task])
        assert "cancelled" in repr(task)
        failed = asyncio.create_task(fail(Shout("loud")))
        await asyncio.wait([failed])
        assert "finished" in repr(failed) and "Shout('loud')" in repr(failed)
        failed.exception()

    run(main())


@both
def test_private_names_that_others_lean_on(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait_for(future))
        assert task._fut_waiter is None and not task._must_cancel
        task.cancel()
        assert task._must_cancel
        await asyncio.wait([task])
        task = asyncio.create_task(wait_for(future))
        await turns()
        assert task._fut_waiter is future
        assert task._state == "PENDING" and task._loop is asyncio.get_running_loop()
        future.set_result(1)
        await task
        assert task._fut_waiter is None
        assert task._state == "FINISHED" and task._result == 1 and task._exception is None

    run(main())


@both
def test_weakrefs_hash_and_equality(run):
    async def main():
        task, other = asyncio.create_task(nothing()), asyncio.create_task(nothing())
        assert task == task and task != other and len({task, other, task}) == 2
        gone = weakref.ref(task)
        await asyncio.gather(task, other)
        del task, other
        await turns()
        collect()
        assert gone() is None, "a finished task stays alive"

    run(main())


def test_current_task():
    async def main():
        assert pyasync_c.current_task() is asyncio.current_task()
        assert asyncio.current_task().get_coro().__name__ == "main"
        child = asyncio.create_task(own())
        assert await child is child
        in_callback = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: in_callback.set_result((pyasync_c.current_task(), asyncio.current_task()))
        )
        assert await in_callback == (None, None)
        assert asyncio.current_task().get_coro().__name__ == "main"

    async def own():
        await pyasync_c.yield_now()
        return pyasync_c.current_task()

    assert pyasync_c.current_task() is None
    pyasync_c.run(main())
    assert pyasync_c.current_task() is None
    asyncio.run(main())


def test_current_task_within_a_done_callback_is_none():
    seen = []

    async def main():
        task = pyasync_c.spawn(nothing())
        task.add_done_callback(lambda _: seen.append(asyncio.current_task()))
        await task
        await turns()

    pyasync_c.run(main())
    assert seen == [None]


def test_a_subclass_by_a_task_factory():
    class Named(pyasync_c.Task):
        def __init__(self, coro, **kwargs):
            super().__init__(coro, **kwargs)
            self.extra = 5

    def factory(loop, coro, **kwargs):
        return Named(coro, loop=loop, **kwargs)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        for task in asyncio.create_task(wait_for(Manual())), pyasync_c.spawn(wait_for(Manual())):
            assert type(task) is Named and task.extra == 5
            await turns()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        loop.set_task_factory(None)

    pyasync_c.run(main())


def test_asyncios_own_tasks_run_on_our_loop():
    """A factory may make native tasks: they speak asyncio's protocol with our leaves."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw))
        task = asyncio.create_task(wait_for(pyasync_c.sleep(0.01, "slept")))
        assert type(task) is asyncio.Task
        assert await task == "slept"
        blocked = asyncio.create_task(wait_for(pyasync_c.pending()))
        await turns()
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked

    pyasync_c.run(main())


def test_tasks_are_not_made_of_anything():
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyasync_c.Task(nothing_closed())

    async def main():
        for bad in 5, nothing, None:
            with pytest.raises(TypeError, match="coroutine was expected"):
                asyncio.create_task(bad)
            with pytest.raises(TypeError, match="coroutine was expected"):
                pyasync_c.Task(bad)
        with pytest.raises(TypeError):
            pyasync_c.Task()

    pyasync_c.run(main())


def test_a_task_that_was_never_initialised_survives():
    task = pyasync_c.Task.__new__(pyasync_c.Task)
    repr(task)
    for use in task.result, task.cancel, task.get_coro, task.uncancel, task.get_stack:
        with contextlib.suppress(RuntimeError, AttributeError):
            use()
    with pytest.raises(RuntimeError, match="not initialized"):
        task.add_done_callback(print)


def test_init_twice_is_refused():
    async def main():
        task = pyasync_c.spawn(nothing())
        again = nothing()
        with pytest.raises(RuntimeError, match="twice"):
            task.__init__(again)
        again.close()
        await task

    pyasync_c.run(main())


# ── spawning ─────────────────────────────────────────────────────────────────────────────────


def test_spawn_takes_any_awaitable():
    class Awaitable:
        def __await__(self):
            yield
            return "python"

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "asyncio")
        tasks = [pyasync_c.spawn(aw) for aw in (Awaitable(), future, pyasync_c.ready("ours"))]
        assert [type(task) for task in tasks] == [pyasync_c.Task] * 3
        return [await task for task in tasks]

    assert pyasync_c.run(main()) == ["python", "asyncio", "ours"]


def test_spawn_of_what_is_no_awaitable():
    async def main():
        for bad in 5, None, object():
            with pytest.raises(TypeError, match="awaitable"):
                pyasync_c.spawn(bad)
        with pytest.raises(TypeError, match=r"did you forget \(\)"):
            pyasync_c.spawn(main)
        with pytest.raises(TypeError, match="exactly one"):
            pyasync_c.spawn()

    pyasync_c.run(main())


def test_spawn_without_a_loop_closes_the_coroutine():
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="no running event loop"):
        pyasync_c.spawn(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_coroutine_can_be_spawned_once():
    async def main():
        coroutine = wait_for(pyasync_c.sleep(0.001))
        task = pyasync_c.spawn(coroutine)
        await turns()
        with pytest.raises(RuntimeError, match="spawned once"):
            pyasync_c.spawn(coroutine)
        await task
        with pytest.raises(RuntimeError, match="spawned once"):
            pyasync_c.spawn(coroutine)

    pyasync_c.run(main())


def test_a_coroutine_spawned_twice_before_it_runs_runs_once():
    ran = []

    async def work():
        ran.append(1)
        await pyasync_c.yield_now()

    async def main():
        coroutine = work()
        tasks = [pyasync_c.spawn(coroutine), pyasync_c.spawn(coroutine)]
        first, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(first), type(second)} == {type(None), RuntimeError}

    pyasync_c.run(main())
    assert ran == [1]


def test_a_task_that_nobody_refers_to_runs_to_its_end():
    ended = []

    async def main():
        def spawn():
            async def work():
                leaf = Manual()
                leaf_of.append(weakref.ref(leaf))
                await leaf
                ended.append(1)

            pyasync_c.spawn(work())

        leaf_of = []
        spawn()
        await turns()
        collect()
        leaf_of[0]().set(1)
        await turns()

    pyasync_c.run(main())
    assert ended == [1]


# ── contexts ─────────────────────────────────────────────────────────────────────────────────


@both
def test_a_task_runs_in_a_copy_of_the_context(run):
    async def child():
        before = variable.get()
        variable.set("child's")
        await asyncio.sleep(0)
        await pyasync_c.yield_now()
        return before, variable.get()

    async def main():
        variable.set("parent's")
        task = asyncio.create_task(child())
        variable.set("later")
        assert await task == ("parent's", "child's")
        assert variable.get() == "later"

    run(main())
    assert variable.get() == "unset"


@both
def test_a_given_context_is_used_and_shared(run):
    async def child(value):
        before = variable.get()
        variable.set(value)
        await asyncio.sleep(0)
        return before

    async def main():
        context = contextvars.copy_context()
        first = asyncio.create_task(child("one"), context=context)
        second = asyncio.create_task(child("two"), context=context)
        assert [await first, await second] == ["unset", "one"]
        assert context[variable] == "two" and variable.get() == "unset"

    run(main())


@both
def test_done_callbacks_run_in_the_context_of_their_adding(run):
    async def main():
        seen = []
        task = asyncio.create_task(nothing())
        variable.set("here")
        task.add_done_callback(lambda _: seen.append(variable.get()))
        own = contextvars.copy_context()
        own.run(variable.set, "own")
        task.add_done_callback(lambda _: seen.append(variable.get()), context=own)
        variable.set("too late")
        await task
        await turns()
        assert seen == ["here", "own"]

    run(main())


# ── cancelling ───────────────────────────────────────────────────────────────────────────────


@both
@every_leaf
def test_cancel_is_thrown_at_the_await(run, leaf):
    async def work(leaf):
        try:
            await leaf
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise
        finally:
            seen.append("finally")

    seen = []

    async def main():
        task = asyncio.create_task(work(leaf()))
        await turns()
        assert task.cancel("why") is True
        assert not task.done() and task.cancelling() == 1
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled() and task.done()
        assert task.cancel() is False

    run(main())
    assert seen == [("why",), "finally"]


@both
@every_leaf
def test_a_swallowed_cancel_leaves_the_task_usable(run, leaf):
    async def work(leaf):
        with pytest.raises(asyncio.CancelledError):
            await leaf
        await asyncio.sleep(0)
        await pyasync_c.yield_now()
        return await pyasync_c.sleep(0.001, "went on")

    async def main():
        task = asyncio.create_task(work(leaf()))
        await turns()
        task.cancel()
        assert await task == "went on"
        assert not task.cancelled() and task.cancelling() == 1

    run(main())


@both
def test_a_task_cancelled_before_its_first_step_never_starts(run):
    started = []

    async def work():
        started.append(1)

    async def main():
        task = asyncio.create_task(work())
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert started == []


@both
def test_cancel_is_counted_and_taken_back(run):
    async def main():
        task = asyncio.create_task(wait_for(Manual()))
        await turns()
        assert task.cancelling() == 0 and task.uncancel() == 0
        assert task.cancel() and task.cancel() and task.cancel()
        assert task.cancelling() == 3
        await asyncio.wait([task])
        assert [task.uncancel() for _ in range(4)] == [2, 1, 0, 0]
        assert task.cancelling() == 0 and task.cancelled()

    run(main())


@both
def test_uncancel_before_delivery_as_this_python_has_it(run):
    """Since 3.13 a cancel that is taken back in time is not delivered."""

    async def work():
        task = asyncio.current_task()
        task.cancel()
        task.uncancel()
        await asyncio.sleep(0)
        return "not cancelled"

    async def main():
        result = await asyncio.gather(asyncio.create_task(work()), return_exceptions=True)
        if sys.version_info >= (3, 13):
            assert result == ["not cancelled"]
        else:
            assert isinstance(result[0], asyncio.CancelledError)

    run(main())


@both
@every_leaf
def test_cancelling_oneself_takes_effect_at_the_next_await(run, leaf):
    steps = []

    async def work():
        asyncio.current_task().cancel()
        steps.append("before")
        await leaf()
        steps.append("after")

    async def main():
        task = asyncio.create_task(work())
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main())
    assert steps == ["before"]


@both
def test_cancelled_in_the_last_step_is_cancelled(run):
    async def work():
        asyncio.current_task().cancel()
        return "value"

    async def main():
        task = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


@both
def test_a_cancel_goes_down_the_chain_of_tasks(run):
    async def main():
        leaf = Manual()
        inner = asyncio.create_task(wait_for(leaf))
        middle = asyncio.create_task(wait_for(inner))
        outer = asyncio.create_task(wait_for(middle))
        await turns()
        outer.cancel("all")
        await asyncio.wait([outer])
        assert inner.cancelled() and middle.cancelled() and outer.cancelled()
        assert [task.cancelling() for task in (inner, middle, outer)] == [1, 1, 1]
        return leaf.drops

    assert run(main()) == 1


@both
def test_the_message_and_the_traceback_of_a_cancel(run):
    async def main():
        task = asyncio.create_task(wait_for(Manual()))
        await turns()
        task.cancel("the reason")
        with pytest.raises(asyncio.CancelledError, match="the reason") as caught:
            await task
        assert "wait_for" in [entry.name for entry in caught.traceback]
        with pytest.raises(asyncio.CancelledError):
            task.result()
        with pytest.raises(asyncio.CancelledError):
            task.exception()

    run(main())


@both
def test_a_cancel_is_that_of_the_future_if_that_was_cancelled_first(run):
    async def waits():
        try:
            await future
        except asyncio.CancelledError as error:
            await asyncio.sleep(0)  # one is delivered, not two
            return error.args

    async def main():
        nonlocal future
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(waits())
        await turns()
        future.cancel("future")
        assert task.cancel("task")
        assert await task == ("future",)

    future = None
    run(main())


@both
def test_the_error_that_ended_a_task_is_raised_once_and_then_one_without_a_message(run):
    async def main():
        task = asyncio.create_task(wait_for(Manual()))
        await turns()
        task.cancel("the reason")
        waiters = [asyncio.create_task(wait_for(task)) for _ in range(2)]
        await asyncio.wait(waiters)
        seen = []
        for waiter in waiters:
            with pytest.raises(asyncio.CancelledError) as caught:
                await waiter
            seen.append(caught.value.args)
        return seen

    assert run(main()) == [("the reason",), ()]


@both
def test_who_cancels_oneself_and_waits_is_queued_when_what_one_waits_for_has_ended(run):
    """Not in the place in the queue at which the cancel was asked for."""

    async def waits():
        asyncio.current_task().cancel()
        try:
            await other
        except asyncio.CancelledError:
            log.append("cancelled")

    async def main():
        nonlocal other
        task = asyncio.create_task(waits())
        for what in "ab":
            asyncio.get_running_loop().call_soon(log.append, what)
        other = asyncio.create_task(nothing())
        asyncio.get_running_loop().call_soon(
            lambda: asyncio.get_running_loop().call_soon(log.append, "c")
        )
        await asyncio.wait([task])

    log, other = [], None
    run(main())
    assert log == ["a", "b", "cancelled", "c"]


@both
def test_an_error_on_the_way_of_a_cancel_is_the_callers(run):
    """Else cancelling tasks that gather each other in a circle would go on for good."""

    async def gathers():
        await asyncio.gather(stop, *tasks)

    async def main():
        nonlocal stop
        stop = asyncio.get_running_loop().create_future()
        tasks.extend(asyncio.create_task(gathers()) for _ in range(3))
        await turns()
        with pytest.raises(RecursionError):
            tasks[0].cancel()
        await asyncio.wait(tasks)

    tasks, stop = [], None
    run(main())


@both
def test_cancel_and_the_result_at_the_same_time(run):
    """The future is done, the task not yet run: the cancel is delivered at the next step."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait_for(future))
        await turns()
        future.set_result("ready")
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.cancelled()

    run(main())


@both
def test_awaiting_in_finally_while_cancelled(run):
    steps = []

    async def work():
        try:
            await pyasync_c.pending()
        finally:
            await pyasync_c.sleep(0.001)
            await asyncio.sleep(0)
            steps.append("cleaned")

    async def main():
        task = asyncio.create_task(work())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main())
    assert steps == ["cleaned"]


def test_a_long_chain_of_tasks_is_cancelled_without_the_c_stack():
    python(
        """
import asyncio, pyasync_c

async def link(task):
    await task

async def main():
    for n in 50_000,:
        task = pyasync_c.spawn(link(pyasync_c.pending()))
        first = task
        for _ in range(n):
            task = pyasync_c.spawn(link(task))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert first.cancelled() and task.cancelled()

pyasync_c.run(main())
"""
    )


# ── callbacks ────────────────────────────────────────────────────────────────────────────────


@both
def test_done_callbacks_are_called_in_order_with_the_task(run):
    async def main():
        seen = []
        task = asyncio.create_task(nothing())
        for n in range(5):
            task.add_done_callback(lambda done, n=n: seen.append((n, done)))
        await task
        assert [n for n, _ in seen] == list(range(5)), "callbacks come before who awaits later"
        assert {done for _, done in seen} == {task}
        task.add_done_callback(lambda done: seen.append("late"))
        assert seen[-1] != "late", "not within add_done_callback"
        await turns()
        assert seen[-1] == "late"

    run(main())


@both
def test_remove_done_callback(run):
    async def main():
        seen = []
        one, two = (lambda _: seen.append(1)), (lambda _: seen.append(2))
        task = asyncio.create_task(nothing())
        for callback in one, two, one:
            task.add_done_callback(callback)
        assert task.remove_done_callback(one) == 2
        assert task.remove_done_callback(one) == 0
        await task
        await turns()
        assert seen == [2]

    run(main())


@both
def test_remove_done_callback_whose_comparison_removes_others(run):
    class Evil:
        def __init__(self):
            self.armed = True

        def __call__(self, task):
            pass

        def __eq__(self, other):
            if self.armed:
                self.armed = False
                task.remove_done_callback(print)
                task.remove_done_callback(self)
            return self is other

        __hash__ = None

    async def main():
        nonlocal task
        task = asyncio.create_task(nothing())
        evil = Evil()
        for callback in print, evil, print, evil, len:
            task.add_done_callback(callback)
        task.remove_done_callback(Evil())
        task.remove_done_callback(print)
        task.remove_done_callback(evil)
        assert task.remove_done_callback(len) == 1
        await task

    task = None
    run(main())


@both
def test_a_callback_that_raises_is_reported_and_the_others_are_called(run):
    async def main():
        seen = []
        task = asyncio.create_task(nothing())
        task.add_done_callback(lambda _: 1 / 0)
        task.add_done_callback(seen.append)
        with reports() as reported:
            await task
            await turns()
        assert seen == [task]
        [context] = reported
        assert type(context["exception"]) is ZeroDivisionError
        assert context["message"].startswith("Exception in callback")
        assert isinstance(context["handle"], asyncio.Handle)

    run(main())


# ── awaiting tasks ───────────────────────────────────────────────────────────────────────────


@both
def test_several_tasks_await_one_and_wake_in_the_order_of_asking(run):
    async def main():
        leaf, order = Manual(), []
        shared = asyncio.create_task(wait_for(leaf))

        async def ask(n):
            order.append((n, await shared))

        askers = [asyncio.create_task(ask(n)) for n in range(10)]
        await turns()
        leaf.set("shared")
        await asyncio.gather(*askers)
        assert order == [(n, "shared") for n in range(10)]

    run(main())


@both
def test_an_exception_reaches_all_who_await_and_its_traceback_does_not_grow(run):
    async def main():
        task = asyncio.create_task(fail(Shout("loud")))
        lengths = []
        for _ in range(5):
            with pytest.raises(Shout, match="loud") as caught:
                await task
            assert caught.value is task.exception()
            lengths.append(len(caught.traceback))
        assert len(set(lengths[1:])) == 1

    run(main())


@both
def test_a_task_cannot_await_itself(run):
    async def main():
        async def work():
            with pytest.raises(RuntimeError, match="cannot await on itself"):
                await task
            return "told"

        task = asyncio.create_task(work())
        return await task

    assert run(main()) == "told"


@both
def test_a_future_of_another_loop_is_refused(run):
    async def main():
        other = asyncio.new_event_loop()
        try:
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await other.create_future()
        finally:
            other.close()
        ours = pyasync_c.new_event_loop()
        try:
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await ours.create_future()
        finally:
            ours.close()

    run(main())


@both
def test_futures_of_other_implementations(run):
    """asyncio's future in pure Python stands for what any library may bring."""

    async def main():
        loop = asyncio.get_running_loop()
        future = futures._PyFuture(loop=loop)
        loop.call_soon(future.set_result, "python")
        assert await future == "python"
        assert await future == "python"
        waiting = futures._PyFuture(loop=loop)
        task = asyncio.create_task(wait_for(waiting))
        await turns()
        task.cancel("msg")
        await asyncio.wait([task])
        assert task.cancelled() and waiting.cancelled()
        failing = futures._PyFuture(loop=loop)
        loop.call_soon(failing.set_exception, Shout("python"))
        with pytest.raises(Shout):
            await failing

    run(main())


every_future = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: asyncio.get_running_loop().create_future(), id="create_future"),
        pytest.param(lambda: asyncio.Future(), id="asyncio"),
        pytest.param(lambda: futures._PyFuture(), id="python"),
    ],
)


@both
@every_future
def test_the_error_of_a_yielded_future_is_thrown(run, make):
    async def main():
        future = make()
        asyncio.get_running_loop().call_soon(future.set_exception, Shout("yielded"))
        with pytest.raises(Shout, match="yielded"):
            await yielded(future)
        with pytest.raises(Shout):
            await yielded(asyncio.create_task(fail(Shout())))
        future = make()
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        assert await yielded(future) is None

    run(main())


@both
@every_future
def test_a_cancel_reaches_who_yields_a_future(run, make):
    async def main():
        future = make()
        task = asyncio.create_task(wait_for(yielded(future)))
        await turns()
        task.cancel("the reason")
        with pytest.raises(asyncio.CancelledError, match="the reason"):
            await task
        assert future.cancelled()

    run(main())


@both
@pytest.mark.parametrize("value", [42, "x", object(), [], 1.5], ids=repr)
def test_a_bad_yield_is_thrown_into_the_coroutine(run, value):
    cleaned = []

    @types.coroutine
    def bad():
        try:
            yield value
        finally:
            cleaned.append(1)

    async def main():
        with pytest.raises(RuntimeError, match="got bad yield"):
            await bad()
        await asyncio.sleep(0)
        return cleaned

    assert run(main()) == [1]


@both
def test_a_future_that_is_yielded_plainly_is_refused(run):
    @types.coroutine
    def plain(what):
        yield what

    async def main():
        with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
            await plain(asyncio.get_running_loop().create_future())
        with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
            await plain(x for x in ())

    run(main())


@both
def test_a_leaf_with_an_evil_blocking_attribute(run):
    class Evil:
        @property
        def _asyncio_future_blocking(self):
            raise Shout("property")

        def __await__(self):
            yield self

    class NoLoop:
        _asyncio_future_blocking = True

        def __await__(self):
            yield self

    async def main():
        with pytest.raises(Shout, match="property"):
            await Evil()
        with pytest.raises(AttributeError, match="_loop"):
            await NoLoop()
        return "alive"

    if run is not run_asyncio:  # asyncio's own loses the task to the first
        assert run(main()) == "alive"


# ── errors ───────────────────────────────────────────────────────────────────────────────────


@both
@pytest.mark.parametrize("error", [Shout("e"), Thunder("b"), GeneratorExit("g")], ids=repr)
def test_any_exception_but_two_is_kept_in_the_task(run, error):
    async def main():
        task = asyncio.create_task(fail(error))
        await asyncio.wait([task])
        assert task.exception() is error
        with pytest.raises(type(error)):
            task.result()
        await asyncio.sleep(0)
        return "the loop goes on"

    assert run(main()) == "the loop goes on"


@both
def test_stop_iteration_in_a_coroutine_is_a_runtime_error(run):
    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.create_task(fail(StopIteration(1)))

    run(main())


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_and_exit_leave_the_run_and_the_others_are_finished(run, error):
    cleaned = []

    async def bystander():
        try:
            await pyasync_c.pending()
        finally:
            await asyncio.sleep(0)
            cleaned.append("bystander")

    async def main():
        asyncio.create_task(bystander())
        await turns()
        asyncio.create_task(fail(error(3)))
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append("main")

    with pytest.raises(error) as caught:
        run(main())
    assert caught.value.args == (3,)
    assert sorted(cleaned) == ["bystander", "main"]


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_and_exit_in_main(run, error):
    with pytest.raises(error):
        run(fail(error()))


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_and_exit_in_a_callback_leave_the_run(run, error):
    def callback():
        raise error(4)

    async def main():
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(60)

    with pytest.raises(error) as caught:
        run(main())
    assert caught.value.args == (4,)


@both
def test_an_exception_that_nobody_retrieved_is_reported(run):
    async def main():
        with reports() as reported:
            task = asyncio.create_task(fail(Shout("unseen")))
            await asyncio.wait([task])
            assert reported == []
            name = task.get_name()
            del task
            collect()
        [context] = reported
        assert context["message"] == "Task exception was never retrieved"
        assert str(context["exception"]) == "unseen"
        assert context["future"].get_name() == name

    run(main())


@both
@pytest.mark.parametrize("how", ["exception", "result", "await", "cancel", "log"])
def test_a_retrieved_exception_is_not_reported(run, how):
    async def main():
        with reports() as reported:
            task = asyncio.create_task(fail(Shout("seen")))
            await asyncio.wait([task])
            with contextlib.suppress(Shout):
                if how == "exception":
                    task.exception()
                elif how == "result":
                    task.result()
                elif how == "await":
                    await task
                elif how == "cancel":
                    task.cancel()
                else:
                    task._log_traceback = False
            del task
            collect()
        assert reported == []

    run(main())


@both
def test_a_pending_task_that_is_destroyed_is_reported(run):
    """A loop that is closed over its tasks, which nobody has cancelled."""
    new_event_loop = pyasync_c.new_event_loop if run is pyasync_c.run else asyncio.new_event_loop
    loop = new_event_loop()
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    closed = []

    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            closed.append(1)

    task = loop.create_task(work(), name="left")
    loop.run_until_complete(asyncio.wait_for(turns(), 60))
    loop.close()
    assert not task.done()
    del task
    collect()
    assert reported == ["Task was destroyed but it is pending!"]
    assert closed == [1]


def test_a_task_destroyed_pending_whose_report_is_switched_off():
    loop = pyasync_c.new_event_loop()
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    task = loop.create_task(wait_for(pyasync_c.pending()))
    loop.run_until_complete(turns())
    assert task._log_destroy_pending is True
    task._log_destroy_pending = False
    loop.close()
    del task
    collect()
    assert reported == []


def test_a_coroutine_that_awaits_in_finally_when_closed_is_printed():
    loop = pyasync_c.new_event_loop()

    async def stubborn():
        try:
            await pyasync_c.pending()
        finally:
            await asyncio.sleep(0)

    task = loop.create_task(stubborn())
    task._log_destroy_pending = False
    loop.run_until_complete(turns())
    with unraisable() as seen:
        loop.close()
        del task
        collect()
    assert [str(error) for error in seen] == ["coroutine ignored GeneratorExit"]


# ── the collector ────────────────────────────────────────────────────────────────────────────


class Witness:
    pass


@pytest.mark.parametrize("leaf", [pyasync_c.pending, Manual, sleeping_forever])
def test_a_cycle_through_a_suspended_task_is_collected_after_close(leaf):
    async def work(box, witness):
        box.append(pyasync_c.current_task())
        await leaf()

    loop = pyasync_c.new_event_loop()
    witness, box = Witness(), []
    gone = weakref.ref(witness)
    task = loop.create_task(work(box, witness))
    task._log_destroy_pending = False
    box.append(loop)
    loop.run_until_complete(turns())
    loop.close()
    del witness, box, task, loop
    collect()
    assert gone() is None


def test_a_cycle_of_task_future_and_callbacks_is_collected():
    def tie(cyclic):
        witness = Witness()
        cyclic.add_done_callback(lambda _: (cyclic, witness))
        return weakref.ref(witness)

    async def main():
        never = tie(asyncio.get_running_loop().create_future())
        task = pyasync_c.spawn(nothing())
        ended = tie(task)
        await task
        del task
        await turns()
        collect()
        assert never() is None and ended() is None

    pyasync_c.run(main())


class MyTask(pyasync_c.Task):
    pass


@pytest.mark.parametrize("kind", ["future", "task", "subclass", "not initialised"])
def test_a_cycle_through_an_attribute_is_collected(kind):
    async def main():
        loop = asyncio.get_running_loop()
        if kind == "future":
            cyclic = loop.create_future()
        elif kind == "not initialised":
            cyclic = MyTask.__new__(MyTask)
        else:
            cyclic = (MyTask if kind == "subclass" else pyasync_c.Task)(nothing(), loop=loop)
            await cyclic
        assert gc.get_referents(cyclic).count(type(cyclic)) == 1
        cyclic.itself, cyclic.witness = cyclic, Witness()
        gone = weakref.ref(cyclic.witness)
        del cyclic
        await turns()
        collect()
        assert gone() is None

    pyasync_c.run(main())


def test_a_finished_task_lets_go_of_its_coroutine_and_context():
    class Big:
        pass

    async def main():
        big = Big()
        gone = weakref.ref(big)

        async def work(big):
            variable.set(big)
            await pyasync_c.yield_now()

        task = pyasync_c.spawn(work(big))
        await task
        del big
        coroutine_frame = task.get_coro()
        if coroutine_frame is not None:
            assert coroutine_frame.cr_frame is None
        del task, coroutine_frame
        collect()
        assert gone() is None

    pyasync_c.run(main())


def test_collecting_all_the_time():
    """Tasks are untracked until their first poll ends: a collection may come at any moment."""

    async def work(n):
        if n:
            child = pyasync_c.spawn(work(n - 1))
            await pyasync_c.yield_now()
            await asyncio.sleep(0)
            return 1 + await child
        return 0

    async def main():
        return sum(await asyncio.gather(*(work(5) for _ in range(20))))

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        assert pyasync_c.run(main()) == 100
    finally:
        gc.set_threshold(*before)


def test_a_destructor_that_spawns_cancels_and_notifies():
    seen = []

    class Evil:
        def __init__(self, task, notify):
            self.task, self.notify = task, notify

        def __del__(self):
            self.task.cancel()
            self.notify.notify_one()
            pyasync_c.spawn(record())
            seen.append("destroyed")

    async def record():
        seen.append("spawned")

    async def hold(evil):
        await pyasync_c.yield_now()

    async def main():
        notify = pyasync_c.Notify()
        victim = pyasync_c.spawn(wait_for(pyasync_c.pending()))
        await turns()
        await pyasync_c.spawn(hold(Evil(victim, notify)))
        await notify.notified()
        await asyncio.wait([victim])
        await turns()
        assert victim.cancelled()

    pyasync_c.run(main())
    assert seen == ["destroyed", "spawned"]


# ── order ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("give_way", [pyasync_c.yield_now, lambda: asyncio.sleep(0)])
def test_a_thousand_yielders_keep_their_order(give_way):
    tasks, rounds = 1000, 100
    log = []

    async def work(n):
        for _ in range(rounds):
            log.append(n)
            await give_way()

    async def main():
        for task in [pyasync_c.spawn(work(n)) for n in range(tasks)]:
            await task

    pyasync_c.run(main())
    assert log == list(range(tasks)) * rounds


@both
def test_tasks_and_callbacks_run_in_one_order(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []

        async def work(name):
            log.append(name)
            loop.call_soon(log.append, name + "'s callback")
            await asyncio.sleep(0)
            log.append(name + " again")

        first = asyncio.create_task(work("first"))
        loop.call_soon(log.append, "callback")
        second = asyncio.create_task(work("second"))
        loop.call_soon(lambda: loop.call_soon(log.append, "nested"))
        await asyncio.gather(first, second)
        return log

    assert run(main()) == [
        "first",
        "callback",
        "second",
        "first's callback",
        "first again",
        "second's callback",
        "second again",
        "nested",
    ]


@both
def test_who_is_woken_first_runs_first(run):
    async def main():
        loop, log = asyncio.get_running_loop(), []
        leaves = [loop.create_future() for _ in range(6)]

        async def work(n):
            await leaves[n]
            log.append(n)

        tasks = [asyncio.create_task(work(n)) for n in range(6)]
        await turns()
        order = [3, 0, 5, 1, 4, 2]
        for n in order:
            leaves[n].set_result(None)
            loop.call_soon(log.append, -n)
        await asyncio.gather(*tasks)
        expected = [entry for n in order for entry in (n, -n)]
        assert log == expected

    run(main())


# ── spurious wakes ───────────────────────────────────────────────────────────────────────────


def test_a_spurious_wake_does_not_reach_a_foreign_leaf():
    async def main():
        waker = None

        def take(cx):
            nonlocal waker
            waker = cx.waker.clone()

        async def work(leaf):
            await pyasync_c.poll_fn(take)
            return await leaf

        loop = asyncio.get_running_loop()
        theirs = [loop.create_future(), futures._PyFuture(loop=loop)]
        theirs.append(pyasync_c.spawn(wait_for(loop.create_future())))
        for leaf in theirs:
            task = pyasync_c.spawn(work(leaf))
            await turns()
            before = pyasync_c.current_runtime().metrics().spurious_polls
            for _ in range(10):
                waker.wake()
                await turns()
            assert not task.done()
            assert pyasync_c.current_runtime().metrics().spurious_polls >= before + 10
            if leaf is theirs[-1]:
                leaf.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                leaf.set_result("real")
                assert await task == "real"

    pyasync_c.run(main())


# ── depth ────────────────────────────────────────────────────────────────────────────────────


def test_ten_thousand_awaits_deep():
    python(
        """
import sys, threading, pyasync_c

async def chain(depth):
    if depth:
        return 1 + await chain(depth - 1)
    await pyasync_c.sleep(0.001)
    return await pyasync_c.ready(0)

def main():
    depths.append(pyasync_c.run(chain(10_000)))

depths = []

sys.setrecursionlimit(100_000)
threading.stack_size(512 << 20)
thread = threading.Thread(target=main)
thread.start()
thread.join()
assert depths == [10_000]
"""
    )


def test_a_long_chain_of_tasks_ends_and_is_freed_without_the_c_stack():
    python(
        """
import asyncio, gc, pyasync_c

async def link(task):
    return 1 + await task

async def leaf():
    await asyncio.sleep(0)
    return 0

async def main():
    task = pyasync_c.spawn(leaf())
    for _ in range(100_000):
        task = pyasync_c.spawn(link(task))
    assert await task == 100_000

pyasync_c.run(main())

loop = pyasync_c.new_event_loop()
loop.set_exception_handler(lambda loop, context: None)

async def left():
    task = pyasync_c.spawn(link(pyasync_c.pending()))
    for _ in range(50_000):
        task = pyasync_c.spawn(link(task))
    await asyncio.sleep(0)

loop.run_until_complete(left())
loop.close()
gc.collect()
"""
    )


# ── eager start ──────────────────────────────────────────────────────────────────────────────


@SINCE_3_12
@both
def test_an_eager_factory_runs_the_first_step_at_once(run):
    async def work(leaf):
        log.append(asyncio.current_task() is not parent)
        value = await leaf
        log.append(value)
        return value

    log = []
    parent = None

    async def main():
        nonlocal parent
        parent = asyncio.current_task()
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        done = asyncio.create_task(work(pyasync_c.ready("at once")), name="eager")
        assert done.done() and done.result() == "at once" and done.get_name() == "eager"
        assert asyncio.current_task() is parent
        leaf = Manual()
        waits = asyncio.create_task(work(leaf))
        assert leaf.polls == 1 or run is run_asyncio
        assert not waits.done()
        leaf.set("later")
        assert await waits == "later"
        failed = asyncio.create_task(fail(Shout("eagerly")))
        assert failed.done()
        with pytest.raises(Shout):
            await failed

    run(main())
    assert log == [True, "at once", True, "later"]


def test_eager_start_of_our_own_task():
    async def work():
        log.append(variable.get())
        variable.set("task's")
        log.append(pyasync_c.current_task().get_name())
        await pyasync_c.yield_now()
        log.append("ended")
        return "value"

    log = []

    async def main():
        loop = asyncio.get_running_loop()
        me = pyasync_c.current_task()
        task = pyasync_c.Task(work(), loop=loop, name="eager", eager_start=True)
        assert log == ["unset", "eager"]
        assert pyasync_c.current_task() is asyncio.current_task() is me
        assert variable.get() == "unset"
        assert task in pyasync_c.all_tasks() and not task.done()
        assert await task == "value"
        at_once = pyasync_c.Task(nothing(), loop=loop, eager_start=True)
        assert at_once.done() and at_once not in pyasync_c.all_tasks()

    pyasync_c.run(main())
    assert log[-1] == "ended"


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=SINCE_3_12)])
def test_eager_start_within_a_task_of_asyncios_own(eager):
    async def native():
        me = asyncio.current_task()
        assert type(me) is asyncio.Task
        task = pyasync_c.Task(wait_for(pyasync_c.yield_now()), eager_start=True)
        assert asyncio.current_task() is pyasync_c.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me
        await task

    async def main():
        me = asyncio.current_task()
        with reports() as seen:
            keywords = {"eager_start": True} if eager else {}
            task = asyncio.Task(native(), loop=asyncio.get_running_loop(), **keywords)
            assert asyncio.current_task() is me
            await task
            assert asyncio.current_task() is me
        assert seen == []

    pyasync_c.run(main())


@SINCE_3_12
@pytest.mark.parametrize("kind", [asyncio.Task, pyasync_c.Task])
def test_a_task_that_wakes_itself_in_its_eager_step_is_queued_when_that_is_over(kind):
    async def work():
        asyncio.current_task().cancel()
        loop.call_soon(log.append, "callback")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            log.append("cancelled")

    async def main():
        nonlocal loop
        loop = asyncio.get_running_loop()
        await kind(work(), loop=loop, eager_start=True)

    log, loop = [], None
    pyasync_c.run(main())
    assert log == ["callback", "cancelled"]


def test_the_eager_steps_within_a_poll_share_its_budget():
    async def work():
        notify.notify_one()
        await notify.notified()

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(log.append, "callback")
        for i in range(1000):
            await pyasync_c.Task(work(), loop=loop, eager_start=True)
            log.append(i)

    log, notify = [], pyasync_c.Notify()
    pyasync_c.run(main())
    assert 100 < log.index("callback") < 200


def test_what_cannot_start_eagerly_is_queued():
    loop = pyasync_c.new_event_loop()
    task = pyasync_c.Task(nothing(), loop=loop, eager_start=True)
    assert not task.done()
    loop.run_until_complete(task)
    assert task.done()
    loop.close()


def test_a_future_that_hands_its_callbacks_on_to_another():
    """What calls the task back need not be the very object that it waits for."""

    class Wraps:
        _asyncio_future_blocking = False

        def __init__(self):
            self.inner = asyncio.get_running_loop().create_future()
            self.get_loop = self.inner.get_loop
            self.add_done_callback = self.inner.add_done_callback
            self.cancel = self.inner.cancel
            self.done = self.inner.done

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return self.inner.result()

    async def awaits(awaitable):
        return await awaitable

    async def main():
        wraps, cancelled = Wraps(), Wraps()
        tasks = [pyasync_c.spawn(awaits(future)) for future in (wraps, cancelled)]
        await asyncio.sleep(0)
        wraps.inner.set_result(7)
        tasks[1].cancel()
        await asyncio.wait(tasks, timeout=10)
        return tasks[0].result(), tasks[1].cancelled()

    assert pyasync_c.run(main()) == (7, True)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_tasks_that_await_each_other_can_be_cancelled(count):
    """Nothing else would ever end them."""

    async def main():
        tasks = []

        async def awaits(k):
            return await tasks[k % count]

        tasks += [pyasync_c.spawn(awaits(k + 1)) for k in range(count)]
        outside = pyasync_c.spawn(awaits(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert outside.cancel()
        await asyncio.wait([*tasks, outside], timeout=10)
        assert all(task.cancelled() for task in [*tasks, outside])
        assert [task.cancelling() for task in tasks] == [1] * count

    pyasync_c.run(main())


def test_a_type_of_futures_that_was_spawned_is_given_back():
    """asyncio.iscoroutine() would remember it."""

    def run():
        class Ready(pyasync_c.Future):
            def poll(self, cx):
                return 7

        async def main():
            async with pyasync_c.JoinSet() as tasks:
                tasks.spawn(Ready())
            return await pyasync_c.spawn(Ready())

        assert pyasync_c.run(main()) == 7
        return weakref.ref(Ready)

    kept = run()
    collect()
    assert kept() is None
