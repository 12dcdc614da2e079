"""JoinSet: tasks in the order in which they end, a limit, and errors that reach somebody."""

import asyncio
import inspect
import sys
import warnings
import weakref

import pytest
from helpers import collect, every_loop, python, run_asyncio, turns
from hypothesis import given, strategies as st
from test_join import LONG, Boom, Work, awaits, reports, until

import pyasync_c
from pyasync_c import PENDING, Context, JoinSet, Waker, noop_waker, pending, ready, select, sleep

# ── joining ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_tasks_come_in_the_order_in_which_they_end(run):
    async def main():
        work, tasks = Work(), JoinSet()
        spawned = [tasks.spawn(work(ms, ms / 1000), name=f"{ms}") for ms in (20, 1, 10)]
        assert len(tasks) == 3
        joined = [await tasks.join_next() for _ in range(3)]
        assert joined == [spawned[1], spawned[2], spawned[0]]
        assert [task.result() for task in joined] == [1, 10, 20]
        assert [task.get_name() for task in joined] == ["1", "10", "20"]
        assert len(tasks) == 0
        assert await tasks.join_next() is None
        assert tasks
        assert repr(tasks) == "<JoinSet running=0 ended=0 limit=None>"

    run(main())


@every_loop
def test_async_for(run):
    async def main():
        tasks, work = JoinSet(), Work()
        for i in range(10):
            tasks.spawn(work(i, (9 - i) / 200))
        assert [task.result() async for task in tasks] == list(reversed(range(10)))
        assert [task async for task in tasks] == []

    run(main())


@every_loop
def test_those_that_failed_or_were_cancelled_come_too(run):
    async def main():
        tasks, error = JoinSet(), Boom()
        failing, cancelled = tasks.spawn(Work()("x", 0, error)), tasks.spawn(pending())
        assert await tasks.join_next() is failing
        assert failing.exception() is error
        tasks.cancel_all()
        assert await tasks.join_next() is cancelled
        assert cancelled.cancelled()

    run(main())


@every_loop
def test_every_kind_of_awaitable(run):
    async def main():
        tasks = JoinSet()
        for awaitable in (Work()(1), pyasync_c.ready(2), asyncio.sleep(0, 3)):
            tasks.spawn(awaitable)
        assert sorted([task.result() async for task in tasks]) == [1, 2, 3]

    run(main())


@every_loop
def test_a_cancelled_join_loses_no_task(run):
    async def main():
        tasks, gate = JoinSet(), asyncio.get_running_loop().create_future()
        task = tasks.spawn(awaits(gate))
        first = asyncio.ensure_future(awaits(tasks.join_next()))
        await turns()
        second = tasks.join_next()
        assert second.poll(Context(noop_waker())) is PENDING
        third = asyncio.ensure_future(awaits(tasks.join_next()))
        await turns()
        first.cancel()
        gate.set_result(1)
        await task
        # Handed to the second by now, which has not seen it.
        await turns()
        assert not third.done()
        second.drop()
        assert await third is task
        assert first.cancelled()

    run(main())


@every_loop
def test_a_join_that_loses_a_select_loses_no_task(run):
    async def main():
        tasks = JoinSet()
        tasks.spawn(sleep(0.01, "x"))
        following = tasks.join_next()
        while (won := await select(following, sleep(0.001)))[0] == 1:
            pass
        assert won[1].result() == "x"

    run(main())


@every_loop
def test_all_who_wait_for_an_empty_set_get_none(run):
    async def main():
        tasks = JoinSet()
        task = tasks.spawn(sleep(0.002))
        waiting = [asyncio.ensure_future(awaits(tasks.join_next())) for _ in range(3)]
        assert await asyncio.gather(*waiting) == [task, None, None]

    run(main())


@every_loop
def test_a_task_spawned_while_one_waits(run):
    async def main():
        tasks = JoinSet()
        tasks.spawn(pending())
        waiting = asyncio.ensure_future(awaits(tasks.join_next()))
        await turns()
        task = tasks.spawn(sleep(0))
        assert await waiting is task
        tasks.cancel_all()

    run(main())


class Drops:
    """A waker that drops a future when it goes itself."""

    def __init__(self, future):
        self.future = future

    def __call__(self):
        raise AssertionError("nobody is left to be woken")

    def __del__(self):
        self.future.drop()


@every_loop
def test_a_join_that_is_dropped_by_what_its_poll_runs(run):
    async def main():
        tasks, gate = JoinSet(), asyncio.get_running_loop().create_future()
        task = tasks.spawn(awaits(gate))
        dropped, following = tasks.join_next(), tasks.join_next()
        assert dropped.poll(Context(Waker(Drops(dropped)))) is PENDING
        # The first waker is replaced, and goes.
        assert dropped.poll(Context(noop_waker())) is PENDING
        gate.set_result(1)
        await task
        assert await following is task
        with pytest.raises(RuntimeError, match="dropped"):
            dropped.poll(Context(noop_waker()))

    run(main())


def test_who_joins_what_has_ended_lets_others_run():
    async def main():
        tasks, turns_of_another = JoinSet(), 0

        async def another():
            nonlocal turns_of_another
            while True:
                turns_of_another += 1
                await asyncio.sleep(0)

        for _ in range(2000):
            tasks.spawn(ready(1))
        await turns(5)
        other = asyncio.ensure_future(another())
        async for task in tasks:
            assert task.done()
        assert turns_of_another > 2
        other.cancel()

    pyasync_c.run(main())


@every_loop
def test_a_set_that_is_given_up_leaves_its_tasks_alone(run):
    async def main():
        tasks, gate = JoinSet(), asyncio.get_running_loop().create_future()
        task = tasks.spawn(awaits(gate))
        ended = tasks.spawn(ready(2))
        await ended
        given_up = weakref.ref(tasks)
        del tasks
        assert given_up() is None
        gate.set_result(1)
        assert await task == 1

    run(main())


# ── the limit ────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_spawn_when_full(run):
    async def main():
        tasks = JoinSet(limit=2)
        first = tasks.spawn(pending())
        tasks.spawn(pending())
        coroutine = Work()("later")
        with pytest.raises(RuntimeError, match="full"):
            tasks.spawn(coroutine)
        first.cancel()
        await asyncio.wait([first])
        assert await tasks.spawn(coroutine) == "later"  # it was left alone
        tasks.cancel_all()

    run(main())


@every_loop
def test_spawn_wait_waits_for_room_in_order(run):
    async def main():
        running, most, order = 0, 0, []

        async def work(i):
            nonlocal running, most
            running += 1
            most = max(most, running)
            order.append(i)
            await sleep(0.001)
            running -= 1
            return i

        async def producer(tasks, i):
            return await tasks.spawn_wait(work(i), name=f"{i}")

        async with JoinSet(limit=3) as tasks:
            spawned = await asyncio.gather(*(producer(tasks, i) for i in range(20)))
            assert [task.get_name() for task in spawned] == [str(i) for i in range(20)]
        assert most == 3
        assert order == list(range(20))
        assert sorted([task.result() async for task in tasks]) == list(range(20))

    run(main())


@every_loop
def test_a_cancelled_spawn_wait_passes_its_room_on(run):
    async def main():
        tasks, work, gate = JoinSet(limit=1), Work(), asyncio.get_running_loop().create_future()
        first = tasks.spawn(awaits(gate))
        zero = asyncio.ensure_future(awaits(tasks.spawn_wait(work(0))))
        await turns()
        one = tasks.spawn_wait(work(1))
        assert one.poll(Context(noop_waker())) is PENDING
        two = asyncio.ensure_future(awaits(tasks.spawn_wait(work(2))))
        await turns()
        zero.cancel()
        gate.set_result(1)
        await first
        await turns()
        assert not two.done()  # the room was granted to the one before
        one.drop()
        task = await two
        assert await task == 2
        assert work.log == [("begins", 2)]
        assert zero.cancelled()
        await tasks.spawn_wait(work("room"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        collect()


@every_loop
def test_nobody_overtakes_who_waits(run):
    async def main():
        tasks = JoinSet(limit=1)
        gates = [asyncio.get_running_loop().create_future() for _ in range(2)]
        first = tasks.spawn(awaits(gates[0]))
        waiting = asyncio.ensure_future(awaits(tasks.spawn_wait(awaits(gates[1]))))
        await turns()
        gates[0].set_result(None)
        await first
        coroutine = Work()("late")
        with pytest.raises(RuntimeError, match="full"):
            tasks.spawn(coroutine)
        second = await waiting
        gates[1].set_result("waited")
        assert await second == "waited"
        await tasks.spawn(coroutine)

    run(main())


def test_bad_arguments():
    for bad in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            JoinSet(limit=bad)
    for bad in (1.5, "1", True):
        kind = type(bad).__name__
        with pytest.raises(TypeError, match=f"limit must be an int or None, not {kind}"):
            JoinSet(limit=bad)
    with pytest.raises(OverflowError, match="limit"):
        JoinSet(limit=2**63)
    with pytest.raises(TypeError):
        JoinSet(3)

    class Two:  # as numpy's ints; Semaphore, channel and the others take them
        def __index__(self):
            return 2

    assert repr(JoinSet(limit=Two())) == "<JoinSet running=0 ended=0 limit=2>"

    async def main():
        tasks = JoinSet()
        for bad in (None, 1, Work):
            with pytest.raises(TypeError):
                tasks.spawn(bad)
            with pytest.raises(TypeError):
                tasks.spawn_wait(bad)

    pyasync_c.run(main())


def test_without_a_loop():
    tasks = JoinSet()
    with pytest.raises(RuntimeError, match="no running event loop"):
        tasks.spawn(Work()("x"))
    assert len(tasks) == 0


# ── async with ───────────────────────────────────────────────────────────────────────────────


@every_loop
def test_leaving_waits_for_all(run):
    async def main():
        work = Work()
        async with JoinSet() as tasks:
            for i in range(3):
                tasks.spawn(work(i, i / 500))
        assert [task.result() async for task in tasks] == [0, 1, 2]

    run(main())


@every_loop
def test_an_error_in_the_block_cancels_all(run):
    async def main():
        seen, work, late = reports(), Work(), Boom("late")
        with pytest.raises(ZeroDivisionError):
            async with JoinSet() as tasks:
                tasks.spawn(work("a", LONG))
                tasks.spawn(work("b", LONG, cleanup=late))
                await until(lambda: len(work.log) == 2)
                raise ZeroDivisionError
        assert sorted(work.ended()) == ["a", "b"]
        assert [context["exception"] for context in seen] == [late]

    run(main())


@every_loop
def test_errors_that_nobody_saw_are_raised_together(run):
    async def main():
        errors, seen = [Boom(i) for i in range(4)], reports()
        with pytest.raises(ExceptionGroup) as caught:
            async with JoinSet() as tasks:
                joined = tasks.spawn(Work()(0, 0, errors[0]))
                assert await tasks.join_next() is joined
                awaited = tasks.spawn(Work()(1, 0, errors[1]))
                with pytest.raises(Boom):
                    await awaited
                for error in errors[2:]:
                    tasks.spawn(Work()(2, 0, error))
                tasks.spawn(Work()("well"))
        assert caught.value.exceptions == (errors[2], errors[3])
        assert joined.exception() is errors[0]
        assert seen == []

    run(main())


@every_loop
def test_cancelled_within_and_while_leaving(run):
    async def main():
        for seconds in (LONG, 0):
            work = Work()

            async def holds(work=work, seconds=seconds):
                async with JoinSet() as tasks:
                    tasks.spawn(work("a", LONG))
                    await sleep(seconds)

            task = asyncio.ensure_future(holds())
            await until(lambda work=work: work.log)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert work.ended() == ["a"]
            assert task.cancelling() == 1

    run(main())


@every_loop
def test_nothing_is_spawned_into_a_set_that_is_left_after_an_error(run):
    async def main():
        outcome = []

        async def spawns_another(tasks):
            try:
                await sleep(LONG)
            finally:
                try:
                    tasks.spawn(sleep(LONG))
                except RuntimeError as error:
                    outcome.append(str(error))

        tasks = JoinSet(limit=1)
        waiting = None
        with pytest.raises(Boom):
            async with tasks:
                tasks.spawn(spawns_another(tasks))
                waiting = asyncio.ensure_future(awaits(tasks.spawn_wait(Work()("never"))))
                await sleep(0.001)
                raise Boom
        assert "full" in outcome[0] or "being left" in outcome[0]
        with pytest.raises(RuntimeError, match="being left"):
            await waiting
        assert await tasks.spawn(sleep(0, "again")) == "again"

    run(main())


@every_loop
@pytest.mark.parametrize("granted", [False, True])
def test_leaving_after_an_error_does_not_wait_for_a_spawn_wait_that_nobody_polls(run, granted):
    async def main():
        coroutine = Work()("never")
        with pytest.raises(Boom):
            async with JoinSet(limit=1) as tasks:
                first = tasks.spawn(sleep(0.001 if granted else LONG))
                waiting = tasks.spawn_wait(coroutine)
                assert await pyasync_c.poll_once(waiting) is PENDING
                if granted:
                    await first
                    await turns()
                raise Boom
        assert len(tasks) == 1
        with pytest.raises(RuntimeError, match="being left"):
            await waiting
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        assert await tasks.spawn(sleep(0, "again")) == "again"  # there is room

    run(main())


@every_loop
def test_two_tasks_leave_one_set(run):
    async def leave(tasks):
        async with tasks:
            pass

    async def main():
        tasks = JoinSet()
        tasks.spawn(pyasync_c.sleep(0.01))
        await asyncio.wait_for(asyncio.gather(leave(tasks), leave(tasks), leave(tasks)), 30)
        assert len(tasks) == 1

    run(main())


@every_loop
def test_leaving_waits_for_who_was_given_room_and_can_be_cancelled(run):
    async def main():
        tasks = JoinSet(limit=1)

        async def leaves():
            async with tasks:
                assert await pyasync_c.poll_once(waiting) is PENDING

        first = tasks.spawn(sleep(0))
        waiting = tasks.spawn_wait(sleep(0))
        leaving = asyncio.ensure_future(leaves())
        await first
        await turns()
        assert not leaving.done()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(RuntimeError, match="being left"):
            await waiting

    run(main())


@every_loop
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it(run, error):
    async def main():
        async with JoinSet() as tasks:
            tasks.spawn(Work()("x", 0, error()))
            await sleep(LONG)

    with pytest.raises(error):
        run(main())


@every_loop
def test_given_up_with_errors_in_it(run):
    async def main():
        seen, error = reports(), Boom()
        tasks = JoinSet()
        task = tasks.spawn(Work()("x", 0, error))
        await until(task.done)
        del tasks, task
        await turns()
        collect()
        assert [context["exception"] for context in seen] == [error]

    run(main())


@every_loop
def test_a_task_may_join_its_own_set(run):
    async def main():
        tasks = JoinSet()

        async def joins():
            return await tasks.join_next()

        first = tasks.spawn(joins())
        second = tasks.spawn(sleep(0.001, "second"))
        assert await first is second
        assert await tasks.join_next() is first

    run(main())


# ── against a model ──────────────────────────────────────────────────────────────────────────

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["spawn", "spawn_wait", "end", "fail", "cancel", "join", "drop"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio])
@given(actions=ACTIONS, limit=st.sampled_from([None, 1, 2, 3]))
def test_as_a_plain_model(run, actions, limit):
    """No task is lost or comes twice, the order is that of ending, and the limit holds."""

    async def main():
        loop = asyncio.get_running_loop()
        tasks, ends, running, ended, joined = JoinSet(limit=limit), {}, [], [], []
        joiners, spawners, started = [], [], []

        async def work(key):
            started.append(key)
            running.append(key)
            try:
                await ends[key]
            finally:
                running.remove(key)
                ended.append(key)

        async def join_one():
            task = await tasks.join_next()
            joined.append(None if task is None else int(task.get_name()))

        def new():
            key = len(ends)
            ends[key] = loop.create_future()
            return key

        for what, which in actions:
            able = [one for one in running if not ends[one].done()]
            key = able[which % len(able)] if able else None
            if what == "spawn":
                fresh = new()
                coroutine = work(fresh)
                full = limit is not None and len(running) >= limit
                try:
                    tasks.spawn(coroutine, name=str(fresh))
                    assert not full
                except RuntimeError:
                    coroutine.close()
                    assert limit is not None
            elif what == "spawn_wait":
                fresh = new()
                spawners.append(
                    asyncio.ensure_future(awaits(tasks.spawn_wait(work(fresh), name=str(fresh))))
                )
            elif what == "end" and key is not None:
                ends[key].set_result(None)
            elif what == "fail" and key is not None:
                ends[key].set_exception(Boom())
            elif what == "cancel" and key is not None:
                ends[key].cancel()
            elif what == "join":
                joiners.append(asyncio.ensure_future(join_one()))
            elif what == "drop" and joiners + spawners:
                (joiners + spawners)[which % len(joiners + spawners)].cancel()
            if which % 2 == 0:
                await turns(8)
                assert limit is None or len(running) <= limit
                assert len(tasks) == len(running) + len(ended) - len(
                    [one for one in joined if one is not None]
                )
        await turns(8)
        while running or not all(one.done() for one in spawners):
            for key in list(running):
                if not ends[key].done():
                    ends[key].set_result(None)
            await turns(8)
        while len(tasks):
            await join_one()
        await turns(8)
        assert all(one.done() for one in joiners)
        taken = [one for one in joined if one is not None]
        assert sorted(taken) == sorted(started) == sorted(ended)
        assert taken == ended

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(quietly(main))


async def quietly(main):
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    await main()


def test_references_are_given_back():
    async def main():
        blocks = []
        for _ in range(6):
            for _ in range(50):
                async with JoinSet(limit=2) as tasks:
                    for _ in range(4):
                        await tasks.spawn_wait(sleep(0))
                    async for task in tasks:
                        task.result()
                del task
                waiting = asyncio.ensure_future(awaits(tasks.join_next()))
                tasks.spawn(pending())
                await asyncio.sleep(0)
                waiting.cancel()
                tasks.cancel_all()
                await tasks.join_next()
            del waiting, tasks
            collect()
            blocks.append(sys.getallocatedblocks())
        assert blocks[-1] - blocks[2] < 100, blocks

    pyasync_c.run(main())


def test_importing_the_package_imports_no_asyncio():
    python("""if True:
        import sys, pyasync_c
        assert "JoinSet" in dir(pyasync_c) and "TaskGroup" in dir(pyasync_c)
        assert "asyncio" not in sys.modules
        pyasync_c.JoinSet(), pyasync_c.TaskGroup()
    """)
