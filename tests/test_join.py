"""join: all results, the first error, and what becomes of the others, on every loop."""

import asyncio
import contextvars
import functools
import gc
import sys
import warnings
import weakref

import pytest
from helpers import (
    FOREIGN_RUNNERS,
    OUR_RUNTIME,
    CountingWaker,
    Manual,
    awaits,
    collect,
    every_loop,
    turns,
    unraisable,
)
from hypothesis import given, strategies as st

import pyasync_c
from pyasync_c import PENDING, join, pending, ready, select, sleep

LONG = 1000.0


class Boom(Exception):
    pass


class Work:
    """A coroutine function that notes what becomes of its calls."""

    def __init__(self):
        self.log = []

    async def __call__(self, name, seconds=0.0, error=None, cleanup=None):
        self.log.append(("begins", name))
        try:
            await sleep(seconds)
            if error is not None:
                raise error
            return name
        except asyncio.CancelledError:
            await sleep(0.002)
            self.log.append(("ends", name))
            if cleanup is not None:
                raise cleanup from None
            raise

    def ended(self):
        return [name for what, name in self.log if what == "ends"]


async def until(condition):
    """Let others run until it holds."""
    while not condition():
        await asyncio.sleep(0)


async def later(condition, act):
    """Once it holds, and others have waited a while."""
    await until(condition)
    await asyncio.sleep(0.003)
    act()


def reports():
    """What the loop's exception handler is given from now on."""
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    return seen


# ── results ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_results_in_the_order_of_the_branches(run):
    async def main():
        work = Work()
        given = asyncio.ensure_future(work("given"))
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.004, future.set_result, "future")
        results = await join(
            work("slow", 0.006),
            sleep(0.002, "slept"),
            given,
            ready((1, 2)),
            future,
            asyncio.sleep(0.001, "asyncio"),
            Awaitable("own"),
            work("quick"),
        )
        expected = ("slow", "slept", "given", (1, 2), "future", "asyncio", "own", "quick")
        assert results == expected

    run(main())


class Awaitable:
    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self.value


@every_loop
def test_none_at_all(run):
    async def main():
        assert await join() == ()

    run(main())


@every_loop
def test_the_same_twice_gives_the_same_result_twice(run):
    async def main():
        manual, work = Manual(), Work()
        manual.set(1)
        coroutine, task = work("once"), asyncio.ensure_future(work("task"))
        twice = await join(manual, coroutine, task, manual, coroutine, task)
        assert twice == (1, "once", "task", 1, "once", "task")
        assert work.log.count(("begins", "once")) == 1
        many = [ready(i) for i in range(100)]
        assert await join(*many, *many) == (*range(100), *range(100))

    run(main())


@every_loop
def test_thousands(run):
    async def main():
        work = Work()
        results = await join(*(work(i, i % 7 / 1000) for i in range(1000)))
        assert results == tuple(range(1000))
        assert await join(*(sleep(i % 7 / 1000, i) for i in range(1000))) == results

    run(main())


@every_loop
def test_nested(run):
    async def main():
        nested = ready(0)
        for _ in range(50):
            nested = join(nested, Work()("x"))
        result = await nested
        for _ in range(50):
            result, x = result
            assert x == "x"
        assert result == 0

    run(main())


def test_too_deep_is_a_recursion_error_and_goes_without_a_crash():
    async def main():
        nested = ready(0)
        for _ in range(200_000):
            nested = join(nested)
        with pytest.raises(RecursionError):
            await nested

    pyasync_c.run(main())


@every_loop
def test_nothing_starts_before_it_is_polled(run):
    async def main():
        work, manual = Work(), Manual()
        both = join(work("a"), manual)
        await turns()
        assert work.log == []
        assert manual.polls == 0
        manual.set(1)
        assert await both == ("a", 1)

    run(main())


@every_loop
def test_futures_are_polled_in_place_in_order(run):
    polled = []

    def poll(name):
        return pyasync_c.poll_fn(lambda cx: polled.append((name, asyncio.current_task())) or name)

    async def main():
        assert await join(poll("a"), poll("b"), poll("c")) == ("a", "b", "c")
        assert polled == [(name, asyncio.current_task()) for name in "abc"]

    run(main())


@every_loop
def test_a_future_that_is_ready_is_not_polled_again(run):
    async def main():
        first, second = Manual(), Manual()
        first.set(1)
        asyncio.get_running_loop().call_later(0.002, second.set, 2)
        assert await join(first, second) == (1, 2)
        assert first.polls == 1
        assert first.drops == second.drops == 0

    run(main())


@every_loop
def test_children_have_the_context_of_the_await(run):
    variable = contextvars.ContextVar("variable", default="unset")

    async def child(new):
        seen = variable.get()
        variable.set(new)
        await sleep(0)
        return seen, variable.get()

    async def main():
        both = join(child("a"), child("b"))
        variable.set("main's")
        assert await both == (("main's", "a"), ("main's", "b"))
        assert variable.get() == "main's"

    run(main())


@every_loop
def test_awaiting_it_again_raises(run):
    async def main():
        done = join(ready(1))
        await done
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await done

    run(main())


# ── errors ───────────────────────────────────────────────────────────────────────────────────

KINDS = {
    "coroutine": lambda error: Work()("failing", 0.001, error),
    "at-once": lambda error: Work()("failing", 0, error),
    "future": lambda error: fails_later(error),
    "future-at-once": lambda error: pyasync_c.poll_fn(lambda cx: raises(error)),
    "task": lambda error: asyncio.ensure_future(Work()("failing", 0.001, error)),
    "asyncio-future": lambda error: failed_future(error),
}


def raises(error):
    raise error


def fails_later(error):
    delay = sleep(0.001)
    return pyasync_c.poll_fn(lambda cx: PENDING if delay.poll(cx) is PENDING else raises(error))


def failed_future(error):
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


@every_loop
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_first_error_is_raised_and_the_others_are_cancelled(run, kind, position):
    async def main():
        seen, work, manual, error = reports(), Work(), Manual(), Boom()
        left = work("a", LONG), manual, work("b", LONG)
        with pytest.raises(Boom) as caught:
            await join(*left[:position], KINDS[kind](error), *left[position:])
        assert caught.value is error
        begun = [name for what, name in work.log if what == "begins"]
        assert work.ended() == begun  # those that began have ended, and before join did
        assert manual.drops == min(manual.polls, 1)
        await turns()
        assert seen == []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unraisable() as seen:
            run(main())
            collect()
        assert seen == []


@every_loop
def test_errors_after_the_first_go_to_the_exception_handler(run):
    async def main():
        seen, work = reports(), Work()
        first, second, third = Boom(1), Boom(2), Boom(3)
        with pytest.raises(Boom) as caught:
            await join(
                work("a", LONG, cleanup=second),
                work("b", 0.001, first),
                work("c", LONG, cleanup=third),
                work("d", LONG),
            )
        assert caught.value is first
        assert [context["exception"] for context in seen] == [second, third]
        assert all("join" in context["message"] for context in seen)

    run(main())


async def raises_in_task(error):
    raise error


@every_loop
def test_several_that_fail_together(run):
    async def main():
        seen = reports()
        errors = [Boom(i) for i in range(4)]
        with pytest.raises(Boom) as caught:
            await join(*(raises_in_task(error) for error in errors))
        assert caught.value is errors[0]
        assert [context["exception"] for context in seen] == errors[1:]

    run(main())


@every_loop
def test_a_child_that_was_cancelled_by_somebody_else(run):
    async def main():
        work, me = Work(), []

        async def gives_itself_up():
            me.append(asyncio.current_task())
            await sleep(LONG)

        somebody = asyncio.ensure_future(later(lambda: me, lambda: me[0].cancel()))
        with pytest.raises(asyncio.CancelledError):
            await join(work("a", LONG), gives_itself_up())
        await somebody
        assert work.ended() == ["a"]
        assert asyncio.current_task().cancelling() == 0

    run(main())


@every_loop
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it(run, error):
    ended = []

    async def other():
        try:
            await sleep(LONG)
        finally:
            ended.append("other")

    async def main():
        await join(other(), Work()("b", 0.001, error()))

    with pytest.raises(error):
        run(main())
    assert ended == ["other"]


@every_loop
def test_bad_arguments_leave_the_others_alone(run):
    async def main():
        coroutine, future = Work()("a"), ready(1)
        for bad in (None, 3, Work, asyncio.sleep):
            with pytest.raises(TypeError):
                join(coroutine, future, bad)
        with pytest.raises(TypeError):
            join(coroutine, key=future)
        assert await coroutine == "a"
        assert await future == 1

    run(main())


@every_loop
def test_a_coroutine_that_was_awaited_already(run):
    async def main():
        work, coroutine = Work(), Work()("over")
        await coroutine
        with pytest.raises(RuntimeError):
            await join(work("a", LONG), coroutine)
        assert work.log == [] or work.ended() == ["a"]

    run(main())


def test_another_loops_task_is_refused():
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def main():
        with pytest.raises(RuntimeError, match="different loop"):
            await join(future)
        with pytest.raises(RuntimeError, match="await on itself"):
            await join(asyncio.current_task())

    try:
        pyasync_c.run(main())
        asyncio.run(main())
    finally:
        other.close()


def test_without_a_loop():
    coroutine = Work()("a")
    counter = CountingWaker()
    with pytest.raises(RuntimeError, match="no running event loop"):
        join(Manual(), coroutine).poll(counter.context)
    assert join(ready(1), ready(2)).poll(counter.context) == (1, 2)
    manual = Manual()
    both = join(manual, ready(2))
    assert both.poll(counter.context) is PENDING
    manual.set(1)
    assert counter.count == 1
    assert both.poll(counter.context) == (1, 2)


@every_loop
def test_an_unpolled_join_warns_of_its_coroutines(run):
    async def main():
        with pytest.warns(RuntimeWarning, match="never awaited"):
            join(Work()("a"), ready(1))
            gc.collect()

    run(main())


# ── cancelling ───────────────────────────────────────────────────────────────────────────────


@every_loop
def test_cancelling_cancels_the_children_and_waits_for_them(run):
    async def main():
        seen, work, manual = reports(), Work(), Manual()
        given = asyncio.ensure_future(work("given", 0.2))
        task = asyncio.ensure_future(awaits(join(work("a", LONG), given, manual, work("b", LONG))))
        await until(lambda: len(work.log) == 3)
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.ended() == ["a", "b"]
        assert not given.done()
        assert manual.drops == 1
        assert await given == "given"
        assert seen == []

    run(main())


@every_loop
def test_cancelled_before_it_began(run):
    async def main():
        work = Work()
        task = asyncio.ensure_future(awaits(join(work("a", LONG))))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.log == []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main())
        collect()


@every_loop
def test_errors_while_it_is_cancelled_are_reported(run):
    async def main():
        seen, work, error = reports(), Work(), Boom()
        task = asyncio.ensure_future(awaits(join(work("a", LONG, cleanup=error))))
        await until(lambda: work.log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [context["exception"] for context in seen] == [error]

    run(main())


@every_loop
def test_cancelled_while_the_children_end(run):
    """The second cancel goes to the children too; the error that stood is not lost."""

    async def main():
        seen, first, log = reports(), Boom(), []

        async def stubborn():
            for _ in range(2):
                try:
                    await sleep(LONG)
                except asyncio.CancelledError:
                    log.append("asked")
            log.append("ends")

        task = asyncio.ensure_future(awaits(join(stubborn(), Work()("b", 0.001, first))))
        await until(lambda: log == ["asked"])
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["asked", "asked", "ends"]
        assert [context["exception"] for context in seen] == [first]

    run(main())


@every_loop
def test_joins_within_a_join_end_with_it(run):
    async def main():
        work = Work()
        with pytest.raises(Boom):
            await join(join(work("a", LONG), join(work("b", LONG))), Work()("x", 0.002, Boom()))
        assert sorted(work.ended()) == ["a", "b"]
        task = asyncio.ensure_future(
            awaits(join(join(work("c", LONG), join(work("d", LONG))), pending()))
        )
        await until(lambda: ("begins", "d") in work.log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(work.ended()) == ["a", "b", "c", "d"]

    run(main())


@every_loop
def test_a_join_of_futures_can_be_awaited_again_after_a_cancel(run):
    async def main():
        manual, notify = Manual(), pyasync_c.Notify()
        both = join(notify.notified(), pyasync_c.into_future(manual))
        task = asyncio.ensure_future(awaits(both))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        notify.notify_one()
        manual.set(1)
        assert await both == (None, 1)

    run(main())


NESTED = [
    lambda f: join(join(f)),
    lambda f: join(select(pending(), f)),
    lambda f: select(pending(), join(f, pending())),
    lambda f: select(select(f)),
    lambda f: join(join(f), pyasync_c.CancellationToken().run_until_cancelled(join(pending()))),
    lambda f: functools.reduce(lambda inner, _: select(join(inner)), range(20), f),
]


@every_loop
@pytest.mark.parametrize("nest", NESTED)
def test_a_future_in_a_nested_one_is_free_after_a_cancel(run, nest):
    """However deep it is, and though somebody may await the outer one again."""

    async def main():
        notify, manual = pyasync_c.Notify(), Manual()
        notified = notify.notified()
        outers = [nest(notified), nest(manual)]
        tasks = [asyncio.ensure_future(awaits(outer)) for outer in outers]
        await turns()
        assert repr(notify) == "<Notify waiters=1 permit=no>"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert repr(notify) == "<Notify waiters=0 permit=no>"
        assert manual.drops == 1
        notify.notify_one()
        assert await notify.notified() is None  # it was not given to one that waits no more
        notify.notify_one()
        assert await notified is None
        manual.set("usable")
        assert await manual == "usable"

    run(main())


@every_loop
def test_a_nested_one_may_be_awaited_again_after_a_cancel(run):
    async def main():
        for again in (lambda f: join(join(f)), lambda f: select(join(select(f)))):
            manual, task = Manual(), asyncio.get_running_loop().create_future()
            outer = again(join(manual, task))
            for _ in range(3):
                waiting = asyncio.ensure_future(awaits(outer))
                await turns()
                waiting.cancel()
                await asyncio.wait([waiting])
            assert manual.drops == 3
            assert not task.cancelled()
            manual.set("manual")
            task.set_result("task")
            assert "('manual', 'task')" in str(await outer)

    run(main())


@every_loop
def test_a_nested_one_whose_children_go_on_lets_go_of_its_futures(run):
    async def main():
        work, notify, given = Work(), pyasync_c.Notify(), Manual()
        inner = join(notify.notified(), work("child", 0.01), given, ready("ready"))
        outer = join(join(inner))
        waiting = asyncio.ensure_future(awaits(outer))
        await until(lambda: work.log == [("begins", "child")])
        waiting.cancel()
        await asyncio.wait([waiting])
        assert repr(notify) == "<Notify waiters=0 permit=no>"
        assert given.drops == 1
        notify.notify_one()
        given.set("given")
        assert await inner == (None, "child", "given", "ready")
        assert work.log == [("begins", "child")]

    run(main())


@every_loop
@pytest.mark.parametrize("what", ["inner", "outer"])
def test_a_future_that_drops_the_join_which_lets_go_of_it(run, what):
    class Drops(Manual):
        def drop(self):
            super().drop()
            {"inner": inner, "outer": outer}[what].drop()

    async def main():
        nonlocal inner, outer
        first, last, work = Drops(), Manual(), Work()
        for others in ([], [work("child", LONG)]):
            inner = join(first, *others, last)
            outer = join(join(inner))
            waiting = asyncio.ensure_future(awaits(outer))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            with pytest.raises(RuntimeError, match="dropped"):
                await {"inner": inner, "outer": outer}[what]
            inner = outer = waiting = None
            collect()
        assert last.drops == 2
        await until(lambda: work.ended() == ["child"])

    inner = outer = None
    run(main())


@every_loop
def test_results_that_were_there_are_lost(run):
    async def main():
        manual = Manual()
        both = join(manual, pending())
        manual.set(1)
        task = asyncio.ensure_future(awaits(both))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(RuntimeError, match="dropped"):
            await both

    run(main())


@every_loop
def test_cancelled_with_an_error_on_its_way(run):
    async def main():
        seen, error = reports(), Boom()

        async def fails():
            task.cancel()
            raise error

        task = asyncio.ensure_future(awaits(join(fails(), pending())))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [context["exception"] for context in seen] == [error]

    run(main())


@every_loop
def test_timeouts_end_it(run):
    async def main():
        work = Work()
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.003):
                await join(work("a", LONG), work("b", LONG))
        assert work.ended() == ["a", "b"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(join(work("c", LONG)), 0.003)
        assert work.ended() == ["a", "b", "c"]

    run(main())


# ── dropping, and re-entrancy ────────────────────────────────────────────────────────────────


@every_loop
def test_closing_the_coroutine_asks_the_children_to_end(run):
    async def main():
        work = Work()
        coroutine = pyasync_c.into_future(awaits(join(work("a", LONG), Manual())))
        assert await pyasync_c.poll_once(coroutine) is PENDING
        await turns()
        coroutine.drop()
        await until(lambda: work.ended() == ["a"])

    run(main())


@every_loop
def test_collected_while_children_run(run):
    async def main():
        work = Work()
        both = join(work("a", LONG), pending())
        assert await pyasync_c.poll_once(both) is PENDING
        await turns()
        del both
        collect()
        await until(lambda: work.ended() == ["a"])

    run(main())


@every_loop
def test_a_branch_that_drops_its_join(run):
    async def main():
        work = Work()

        def drop(cx):
            holder[0].drop()
            return PENDING

        holder = [join(work("a", LONG), pyasync_c.poll_fn(drop), work("never"))]
        assert await pyasync_c.poll_once(holder[0]) is PENDING
        await until(lambda: "a" in work.ended() or work.log == [])
        with pytest.raises(RuntimeError, match="dropped"):
            await holder[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main())


@every_loop
def test_a_branch_that_cancels_its_own_task(run):
    async def main():
        work = Work()

        def cancel(cx):
            asyncio.current_task().cancel()
            return PENDING

        task = asyncio.ensure_future(awaits(join(work("a", LONG), pyasync_c.poll_fn(cancel))))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.ended() == [name for what, name in work.log if what == "begins"]

    run(main())


@every_loop
def test_a_branch_that_polls_its_join(run):
    async def main():
        holder = []

        def poll(cx):
            with pytest.raises(RuntimeError, match="already being polled"):
                holder[0].poll(cx)
            return "polled"

        holder.append(join(pyasync_c.poll_fn(poll)))
        assert await holder[0] == ("polled",)

    run(main())


@every_loop
def test_a_future_that_another_task_awaits_is_refused(run):
    async def main():
        manual = Manual()
        task = asyncio.ensure_future(awaits(join(manual)))
        await turns()
        with pytest.raises(RuntimeError, match="already being awaited by another task"):
            await join(manual)
        manual.set(1)
        assert await task == (1,)

    run(main())


@every_loop
def test_nothing_is_kept(run):
    async def main():
        class Value:
            pass

        value, error, work = Value(), Boom(), Work()
        gone = weakref.ref(value)
        assert len(await join(ready(value), work("a"), asyncio.ensure_future(work("b")))) == 3
        with pytest.raises(Boom):
            await join(ready(value), work("c", 0.001, error), work("d", LONG))
        del value
        await turns()
        collect()
        assert gone() is None

    run(main())


def test_references_are_given_back():
    async def main():
        work, given = Work(), asyncio.ensure_future(sleep_long())
        blocks = []
        for _ in range(6):
            for _ in range(200):
                await join(work(1), ready(2), join(), sleep(0))
                task = asyncio.ensure_future(awaits(join(work(1, LONG), given, pending())))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            work.log.clear()
            del task
            collect()
            blocks.append(sys.getallocatedblocks())
        given.cancel()
        assert blocks[-1] - blocks[2] < 100, blocks

    pyasync_c.run(main())


async def sleep_long():
    await sleep(LONG)


def test_repr():
    assert repr(join(ready(1), ready(2))) == "<join of 2 not polled yet>"


# ── tasks of a factory ───────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are 3.12's")
@pytest.mark.parametrize("new_loop", [pyasync_c.new_event_loop, asyncio.new_event_loop])
def test_eager_children(new_loop):
    async def at_once(value):
        return value

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        seen, work = reports(), Work()
        assert await join(at_once(1), work("a"), at_once(2)) == (1, "a", 2)
        with pytest.raises(Boom):
            await join(work("b", LONG), raises_at_once(), work("c", LONG))
        assert work.ended() == ["b"]
        assert seen == []

    async def raises_at_once():
        raise Boom

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


# ── against a model ──────────────────────────────────────────────────────────────────────────


class Leaf(Manual):
    """A Future of ours that is made ready, or to fail, by the test."""

    error = None

    def poll(self, cx):
        value = super().poll(cx)
        if self.error is not None:
            raise self.error
        return value


class ModelLeaf:
    def __init__(self):
        self.ours, self.outcome = Leaf(), PENDING
        self.polls = self.drops = 0
        self.waits = False

    def poll(self):
        self.polls += 1
        self.waits = self.outcome is PENDING
        return self.outcome

    def let_go(self):
        self.drops += self.waits
        self.waits = False

    def leaves(self):
        return [self]

    def joins(self):
        return []


class ModelJoin:
    """join as documented: in order, the first error wins, what is let go of stays usable."""

    def __init__(self, members):
        self.members = members
        self.ours = join(*(one.ours for one in members))
        self.results = [PENDING] * len(members)
        self.phase = "new"

    def poll(self):
        if self.phase in ("over", "dropped"):
            return self.phase
        self.phase = "running"
        for i, member in enumerate(self.members):
            if self.results[i] is PENDING:
                self.results[i] = member.poll()
                if isinstance(self.results[i], Boom):
                    self.end("over")
                    return self.results[i]
        if PENDING in self.results:
            return PENDING
        self.phase = "over"
        return tuple(self.results)

    def end(self, phase):
        self.phase = phase
        for member in self.members:
            member.let_go()

    def let_go(self):
        """By the join that it is in: it stays usable for whoever else refers to it."""
        if self.phase == "running":
            for member in self.members:
                member.let_go()

    def cancel(self):
        if self.phase == "running":
            as_it_was = all(result is PENDING for result in self.results)
            self.end("new" if as_it_was else "dropped")

    def leaves(self):
        return [leaf for member in self.members for leaf in member.leaves()]

    def joins(self):
        return [self] + [inner for member in self.members for inner in member.joins()]


TREES = st.recursive(
    st.none(), lambda trees: st.lists(trees, min_size=1, max_size=4), max_leaves=8
).map(lambda tree: [None] if tree is None else tree)
BY_HAND = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "fail", "poll", "poll", "poll", "cancel", "drop", "inner"]),
        st.integers(0, 7),
    ),
    max_size=30,
)


@given(tree=TREES, actions=BY_HAND)
def test_polled_by_hand_as_a_plain_model(tree, actions):
    """Futures in place, nested: which are polled and let go of, and what comes out."""

    def build(shape):
        return ModelLeaf() if shape is None else ModelJoin([build(one) for one in shape])

    def poll(one, counter):
        try:
            return one.ours.poll(counter.context)
        except Boom as error:
            return error
        except RuntimeError as error:
            return "dropped" if "dropped" in str(error) else "over"

    root = build(tree)
    leaves, joins, counters = root.leaves(), root.joins(), [CountingWaker(), CountingWaker()]
    for what, which in actions:
        leaf, counter = leaves[which % len(leaves)], counters[which % 2]
        if what in ("set", "fail") and leaf.outcome is PENDING:
            leaf.outcome = f"value {which}" if what == "set" else Boom()
            before = [one.count for one in counters]
            leaf.ours.error = None if what == "set" else leaf.outcome
            leaf.ours.set(leaf.outcome)
            woken = sum(one.count for one in counters) - sum(before)
            assert woken == (leaf.ours.waker is not None)
        elif what == "poll":
            assert poll(root, counter) == root.poll()
        elif what == "cancel":
            if root.phase not in ("over", "dropped"):
                with pytest.raises(asyncio.CancelledError):
                    root.ours.__await__().throw(asyncio.CancelledError())
                root.cancel()
        elif what == "drop":
            if root.phase not in ("over", "dropped"):
                root.ours.drop()
                root.end("dropped")
        elif what == "inner" and root.phase in ("over", "dropped"):
            inner = joins[which % len(joins)]
            holders = [one for one in joins if inner in one.members]
            if all(one.phase in ("over", "dropped") for one in holders):
                assert poll(inner, counter) == inner.poll()
        assert [(one.ours.polls, one.ours.drops) for one in leaves] == [
            (one.polls, one.drops) for one in leaves
        ]


BRANCHES = ["manual", "given", "child", "child", "stubborn"]
# Who takes its time to clean up keeps an inner join from giving its error to the outer one: only in
# a single join is it plain who is cancelled when.
CHILDREN = st.one_of(
    st.lists(st.sampled_from([*BRANCHES, "slow"]), min_size=1, max_size=5),
    st.recursive(
        st.sampled_from(BRANCHES),
        lambda trees: st.lists(trees, min_size=1, max_size=4),
        max_leaves=7,
    ).map(lambda tree: [tree] if isinstance(tree, str) else tree),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["return", "return", "return", "raise", "stop", "cancel", "clean"]),
        st.integers(0, 6),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.parametrize("run", [OUR_RUNTIME, FOREIGN_RUNNERS[0]])
@given(tree=CHILDREN, changes=CHANGES)
def test_as_a_plain_model(run, tree, changes):
    """Children, futures in place and given ones, nested: who is cancelled, and what comes out."""
    gates = []

    async def main():
        loop, seen = asyncio.get_running_loop(), reports()
        kinds, futures, ended = [], [], {}
        gates.clear()

        async def child(key):
            try:
                ended[key] = await futures[key]
            except asyncio.CancelledError:
                ended[key] = "cancelled"
                if kinds[key] == "stubborn":
                    return "ignored"
                if kinds[key] == "slow":
                    ended[key] = "cleaning"
                    try:
                        await gates[key]
                        raise Boom(key)  # with the outcome known, for the exception handler
                    finally:
                        ended[key] = "cancelled"
                raise
            except Boom as error:
                ended[key] = error
                raise
            return ended[key]

        def build(shape):
            if isinstance(shape, list):
                return join(*map(build, shape))
            key = len(kinds)
            kinds.append(shape)
            gates.append(loop.create_future())
            futures.append(Leaf() if shape == "manual" else loop.create_future())
            return futures[key] if shape in ("manual", "given") else child(key)

        def values(shape, keys):
            if isinstance(shape, list):
                return tuple(values(one, keys) for one in shape)
            return results[next(keys)]

        task = asyncio.ensure_future(awaits(build(tree)))
        await turns()
        everything, children = range(len(kinds)), ("child", "slow", "stubborn")
        results, outcome, cleaning, expected_reports = {}, None, set(), 0
        expected_ends = {}

        def ends_with(what):
            nonlocal outcome, expected_reports
            if outcome is None:
                for key in everything:
                    if key not in results and kinds[key] == "slow":
                        cleaning.add(key)
                    if key not in results and kinds[key] in children:
                        expected_ends[key] = "cleaning" if key in cleaning else "cancelled"
            elif what == "cancelled":
                expected_reports += isinstance(outcome, Boom)  # the error that cancelling hides
                for key in cleaning:
                    expected_ends[key] = "cancelled"
                cleaning.clear()
            outcome = what

        for what, which, settles in changes:
            key, over = which % len(kinds), outcome is not None and not cleaning
            future = futures[key]
            if what in ("return", "raise", "stop") and outcome is None and key not in results:
                manual = kinds[key] == "manual"
                if what == "return":
                    results[key] = f"value {key}"
                    future.set(results[key]) if manual else future.set_result(results[key])
                    if kinds[key] in children:
                        expected_ends[key] = results[key]
                    if len(results) == len(kinds):
                        outcome = values(tree, iter(everything))
                    elif not settles:
                        continue
                elif what == "raise":
                    error = results[key] = Boom(key)
                    if manual:
                        future.error = error
                        future.set(error)
                    else:
                        future.set_exception(error)
                    if kinds[key] in children:
                        expected_ends[key] = error
                    ends_with(error)
                elif kinds[key] in ("child", "given"):
                    results[key] = "cancelled"
                    future.cancel()
                    if kinds[key] == "child":
                        expected_ends[key] = "cancelled"
                    ends_with("cancelled")
            elif what == "cancel" and not over:
                await turns(20)  # what was set before comes first
                assert task.cancel()
                ends_with("cancelled")
            elif what == "clean" and key in cleaning:
                cleaning.remove(key)
                gates[key].set_result(None)
                expected_ends[key] = "cancelled"
                expected_reports += 1
            await turns(20)
            assert ended == expected_ends
            assert task.done() == (outcome is not None and not cleaning)
            assert cleaning or len(seen) == expected_reports  # they come once all have ended
        if outcome is None:
            await turns(20)
            assert not task.done()
            task.cancel()
            ends_with("cancelled")
            await turns(20)
        for key in sorted(cleaning):
            assert not task.done()
            gates[key].set_result(None)
            expected_reports += 1
            expected_ends[key] = "cancelled"
            await turns(20)
        if outcome == "cancelled":
            assert task.cancelled()
        elif isinstance(outcome, Boom):
            assert task.exception() is outcome
        else:
            assert task.result() == outcome
        assert ended == expected_ends
        assert len(seen) == expected_reports
        for key in everything:  # what was given, or polled in place, is usable
            if key not in results and kinds[key] == "given":
                assert not futures[key].done()
            elif key not in results and kinds[key] == "manual":
                futures[key].set("later")
                assert await futures[key] == "later"

    async def main_without_hanging():
        try:
            await main()
        finally:
            for gate in gates:  # a child that cleans up would outlast a failure
                gate.cancel()

    run(main_without_hanging())
