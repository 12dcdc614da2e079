"""TaskGroup: as asyncio's, on every loop, with this runtime's tasks."""

import asyncio
import contextvars

import pytest
from helpers import every_loop
from test_join import LONG, Boom, Work, awaits, reports, until

import pyasync_c
from pyasync_c import TaskGroup, join, select, sleep


def test_it_is_asyncios():
    assert issubclass(TaskGroup, asyncio.TaskGroup)


@every_loop
def test_all_end_before_it_is_left(run):
    async def main():
        async with TaskGroup() as group:
            tasks = [group.create_task(Work()(i, i / 1000), name=f"{i}") for i in range(5)]
        assert [task.result() for task in tasks] == list(range(5))
        assert [task.get_name() for task in tasks] == list("01234")
        if run is pyasync_c.run:
            assert all(isinstance(task, pyasync_c.Task) for task in tasks)

    run(main())


@every_loop
def test_errors_come_as_a_group_and_cancel_the_others(run):
    async def main():
        seen, work, first, second = reports(), Work(), Boom(1), Boom(2)
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                group.create_task(work("a", LONG))
                group.create_task(work("b", 0.001, first))
                group.create_task(work("c", LONG, cleanup=second))
                await sleep(LONG)
        assert caught.value.exceptions == (first, second)
        assert sorted(work.ended()) == ["a", "c"]
        assert asyncio.current_task().cancelling() == 0
        assert seen == []

    run(main())


@every_loop
@pytest.mark.parametrize("combine", [join, select])
def test_errors_while_the_block_waits_in_a_join_or_select(run, combine):
    async def main():
        seen, work, error = reports(), Work(), Boom()
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                group.create_task(work("x", 0.003, error))
                await combine(work("a", LONG), work("b", LONG))
        assert caught.value.exceptions == (error,)
        assert work.ended() == ["a", "b"]
        assert seen == []

    run(main())


@every_loop
def test_an_error_in_the_block_is_in_the_group_too(run):
    async def main():
        work = Work()
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                group.create_task(work("a", LONG))
                await sleep(0.001)
                raise Boom
        assert [type(error) for error in caught.value.exceptions] == [Boom]
        assert work.ended() == ["a"]

    run(main())


@every_loop
def test_cancelled_from_outside(run):
    async def main():
        work = Work()

        async def holds():
            async with TaskGroup() as group:
                group.create_task(work("a", LONG))
                group.create_task(awaits(join(work("b", LONG), work("c", LONG))))

        task = asyncio.ensure_future(holds())
        await until(lambda: len(work.log) == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(work.ended()) == ["a", "b", "c"]

    run(main())


@every_loop
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it(run, error):
    async def main():
        async with TaskGroup() as group:
            group.create_task(Work()("x", 0, error()))

    with pytest.raises(error):
        run(main())


@every_loop
def test_nested_and_with_a_context(run):
    variable = contextvars.ContextVar("variable", default=0)

    async def reads():
        await sleep(0)
        return variable.get()

    async def main():
        context = contextvars.copy_context()
        context.run(variable.set, 5)
        async with TaskGroup() as outer, TaskGroup() as inner:
            first = outer.create_task(reads(), context=context)
            second = inner.create_task(reads())
        assert (first.result(), second.result()) == (5, 0)
        coroutine = reads()
        with pytest.raises(RuntimeError):
            outer.create_task(coroutine)
        coroutine.close()

    run(main())
