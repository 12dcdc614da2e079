"""select: the first of several wins, and what becomes of the others, on every loop."""

import asyncio
import contextvars
import sys
import warnings

import pytest
from helpers import CountingWaker, Manual, Worker, collect, every_loop, turns
from hypothesis import given, strategies as st
from test_join import LONG, Boom, Work, awaits, reports, until

import pyasync_c
from pyasync_c import PENDING, join, pending, ready, select, sleep

# ── who wins ─────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_the_leftmost_that_is_ready_wins(run):
    async def main():
        polled = []

        def branch(name, value=PENDING):
            return pyasync_c.poll_fn(lambda cx: polled.append(name) or value)

        won = await select(branch("a"), branch("b", 1), branch("c", 2))
        assert won == (1, 1)
        assert polled == ["a", "b"]

    run(main())


@every_loop
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_every_kind_wins_in_every_position(run, position):
    async def main():
        kinds = {
            "coroutine": lambda: Work()("won"),
            "sleep": lambda: sleep(0.001, "won"),
            "ready": lambda: ready("won"),
            "task": lambda: asyncio.ensure_future(Work()("won")),
            "asyncio": lambda: asyncio.sleep(0.001, "won"),
            "future": lambda: finished("won"),
            "join": lambda: won_by_join(),
            "select": lambda: won_by_select(),
        }
        for make in kinds.values():
            work = Work()
            losers = [work("a", LONG), pending(), work("b", LONG)]
            won = await select(*losers[:position], make(), *losers[position:])
            assert won == (position, "won")
            begun = [name for what, name in work.log if what == "begins"]
            assert work.ended() == begun

    async def won_by_join():
        return (await join(sleep(0.001, "won")))[0]

    async def won_by_select():
        return (await select(pending(), sleep(0.001, "won")))[1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        collect()


def finished(value):
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


@every_loop
def test_one_branch(run):
    async def main():
        assert await select(ready("x")) == (0, "x")
        assert await select(Work()("x")) == (0, "x")

    run(main())


@every_loop
def test_a_coroutine_behind_a_winner_does_not_begin(run):
    async def main():
        work = Work()
        assert await select(ready(1), work("never")) == (0, 1)
        assert work.log == []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        collect()


@every_loop
def test_nothing_starts_before_it_is_polled(run):
    async def main():
        work, manual = Work(), Manual()
        first = select(manual, work("a"))
        await turns()
        assert work.log == []
        assert manual.polls == 0
        assert await first == (1, "a")

    run(main())


@every_loop
def test_a_wake_from_a_thread(run):
    async def main():
        notify = pyasync_c.Notify()
        worker = Worker(notify.notify_one)
        assert await select(pending(), notify.notified()) == (1, None)
        worker.result()

    run(main())


@every_loop
def test_a_thousand_branches(run):
    async def main():
        work = Work()
        branches = [work(i, LONG) for i in range(500)] + [pending() for _ in range(500)]
        assert await select(*branches, sleep(0.002, "x")) == (1000, "x")
        assert work.ended() == list(range(500))

    run(main())


@every_loop
def test_nested(run):
    async def main():
        work = Work()
        nested = select(sleep(0.002, "deep"), work("loses", LONG))
        for _ in range(30):
            nested = select(pending(), nested)
        value = await nested
        for _ in range(30):
            assert value[0] == 1
            value = value[1]
        assert value == (0, "deep")
        assert work.ended() == ["loses"]

    run(main())


@every_loop
def test_the_same_twice(run):
    async def main():
        manual, coroutine = Manual(), Work()("once")
        assert await select(manual, coroutine, manual, coroutine) == (1, "once")
        manual.set(2)
        assert await select(manual, manual) == (0, 2)

    run(main())


@every_loop
def test_children_have_the_context_of_the_await(run):
    variable = contextvars.ContextVar("variable")

    async def child():
        return variable.get()

    async def main():
        variable.set("main's")
        assert await select(child(), pending()) == (0, "main's")

    run(main())


# ── losers ───────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_futures_that_lose_stay_usable(run):
    async def main():
        notify = pyasync_c.Notify()
        other, delay, manual = notify.notified(), sleep(0.2, "slept"), Manual()
        for _ in range(3):
            assert await select(other, delay, manual, sleep(0.001, "tick")) == (3, "tick")
        notify.notify_one()
        assert await select(other, delay, manual) == (0, None)
        manual.set("set")
        assert await select(delay, manual) == (1, "set")
        assert await delay == "slept"
        assert manual.drops == 3  # the round that it was not polled in does not count

    run(main())


@every_loop
def test_a_coroutine_that_is_to_go_on_is_given_as_a_future(run):
    async def main():
        work = Work()
        for again in (pyasync_c.into_future, join, lambda aw: select(aw)):
            work.log.clear()
            going = again(work("long", 0.05))
            ticks = 0
            while (won := await select(going, sleep(0.001)))[0] == 1:
                ticks += 1
            assert ticks > 0
            assert won[1] in ("long", ("long",), (0, "long"))
            assert work.log == [("begins", "long")]

    run(main())


@every_loop
def test_a_loser_that_nobody_has_is_finished_first(run):
    async def main():
        work = Work()
        won = await select(join(work("a", LONG), work("b", LONG)), sleep(0.002, "x"))
        assert won == (1, "x")
        assert work.ended() == ["a", "b"]
        won = await select(select(join(work("c", LONG)), pending()), sleep(0.002, "x"))
        assert won == (1, "x")
        assert work.ended() == ["a", "b", "c"]

    run(main())


@every_loop
def test_tasks_and_asyncio_futures_go_on(run):
    async def main():
        task = asyncio.ensure_future(Work()("task", 0.1))
        future = asyncio.get_running_loop().create_future()
        assert await select(task, future, sleep(0.001, "x")) == (2, "x")
        assert not task.done()
        assert not future.done()
        assert await select(future, task) == (1, "task")
        future.set_result(1)
        assert await select(future, task) == (0, 1)
        assert getattr(future, "_callbacks", None) in (None, [])

    run(main())


@every_loop
def test_a_loser_that_was_about_to_raise(run):
    async def main():
        seen, error, notify, ended = reports(), Boom(), pyasync_c.Notify(), []

        async def ends_slowly():
            try:
                await sleep(LONG)
            finally:
                notify.notify_one()
                await sleep(0.002)
                ended.append(1)

        fails = Work()("x", 0.001, error)
        assert await select(join(ends_slowly(), fails), notify.notified()) == (1, None)
        assert ended == [1]
        assert [context["exception"] for context in seen] == [error]

    run(main())


@every_loop
def test_a_permit_that_a_loser_was_handed_is_passed_on(run):
    async def main():
        notify, first = pyasync_c.Notify(), Manual()
        task = asyncio.ensure_future(awaits(select(first, notify.notified())))
        await turns()
        notify.notify_one()
        first.set(1)
        assert await task == (0, 1)
        await asyncio.wait_for(notify.notified(), LONG)

    run(main())


@every_loop
def test_an_enabled_loser_that_was_not_polled_keeps_its_place(run):
    async def main():
        notify = pyasync_c.Notify()
        enabled = notify.notified()
        assert not enabled.enable()
        assert await select(ready(1), enabled) == (0, 1)
        notify.notify_one()
        assert enabled.enable()

    run(main())


# ── errors ───────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_an_error_counts_as_ready(run):
    async def main():
        seen, work, error = reports(), Work(), Boom()
        for fails in (lambda aw: aw, asyncio.ensure_future, pyasync_c.into_future):
            work.log.clear()
            with pytest.raises(Boom) as caught:
                await select(work("a", LONG), fails(work("x", 0.001, error)), work("b", LONG))
            assert caught.value is error
            assert work.ended() == ["a", "b"]
        assert seen == []

    run(main())


@every_loop
def test_what_losers_raise_goes_to_the_exception_handler(run):
    async def main():
        seen, work = reports(), Work()
        late, together = Boom("late"), Boom("together")
        won = await select(
            work("a", LONG, cleanup=late), sleep(0.002, "won"), work("b", LONG), pending()
        )
        assert won == (1, "won")
        assert await select(returns("x"), raises(together)) == (0, "x")
        assert [context["exception"] for context in seen] == [late, together]
        assert all("select" in context["message"] for context in seen)

    run(main())


async def returns(value):
    return value


async def raises(error):
    raise error


@every_loop
def test_a_task_of_the_callers_keeps_its_error(run):
    async def main():
        seen, error = reports(), Boom()
        task = asyncio.ensure_future(Work()("x", 0.05, error))
        assert await select(sleep(0.001, 1), task) == (0, 1)
        with pytest.raises(Boom):
            await task
        assert seen == []

    run(main())


@every_loop
def test_bad_arguments(run):
    async def main():
        coroutine = Work()("a")
        with pytest.raises(ValueError, match="at least one"):
            select()
        for bad in (None, 1, Work, [coroutine]):
            with pytest.raises(TypeError):
                select(coroutine, bad)
        assert await select(coroutine) == (0, "a")

    run(main())


# ── cancelling ───────────────────────────────────────────────────────────────────────────────


@every_loop
def test_cancelling_does_to_all_what_losing_does(run):
    async def main():
        seen, work, manual = reports(), Work(), Manual()
        given = asyncio.ensure_future(work("given", 0.2))
        task = asyncio.ensure_future(awaits(select(work("a", LONG), given, manual)))
        await until(lambda: len(work.log) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.ended() == ["a"]
        assert manual.drops == 1
        manual.set(1)
        assert await select(manual) == (0, 1)
        assert await given == "given"
        assert seen == []

    run(main())


@every_loop
def test_cancelled_while_a_loser_ends(run):
    async def main():
        log = []

        async def stubborn():
            for _ in range(2):
                try:
                    await sleep(LONG)
                except asyncio.CancelledError:
                    log.append("asked")

        task = asyncio.ensure_future(awaits(select(stubborn(), sleep(0.001))))
        await until(lambda: log == ["asked"])
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["asked", "asked"]

    run(main())


@every_loop
def test_a_select_of_futures_can_be_awaited_again_after_a_cancel(run):
    async def main():
        manual = Manual()
        either = select(manual, pending())
        task = asyncio.ensure_future(awaits(either))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        manual.set(1)
        assert await either == (0, 1)

    run(main())


@every_loop
def test_a_branch_that_drops_its_select(run):
    async def main():
        work = Work()

        def drop(cx):
            holder[0].drop()
            return "won"

        holder = [select(work("a", LONG), pyasync_c.poll_fn(drop))]
        with pytest.raises(RuntimeError, match="dropped"):
            await pyasync_c.poll_once(holder[0])
            await holder[0]
        await until(lambda: len(work.ended()) == sum(what == "begins" for what, _ in work.log))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main())


@every_loop
def test_dropped_while_a_loser_ends(run):
    async def main():
        work = Work()
        either = select(work("a", LONG), sleep(0.001))
        task = asyncio.ensure_future(awaits(either))
        while repr(either) != "<select of 2 finishing>":
            await asyncio.sleep(0)
        either.drop()
        await until(lambda: work.ended() == ["a"])
        task.cancel()
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await task

    run(main())


# ── polled by hand ───────────────────────────────────────────────────────────────────────────


def test_by_hand_without_a_loop():
    counter, first, second = CountingWaker(), Manual(), Manual()
    either = select(first, second)
    assert either.poll(counter.context) is PENDING
    second.set("second")
    assert counter.count == 1
    assert either.poll(counter.context) == (1, "second")
    assert first.drops == 1
    assert second.drops == 0
    with pytest.raises(RuntimeError, match="cannot reuse"):
        either.poll(counter.context)


@given(st.data())
def test_as_a_plain_model(data):
    """Any number of selects among the same futures, set in any order, polled at any time."""
    count = data.draw(st.integers(1, 6))
    futures = [Manual() for _ in range(count)]
    values = [None] * count
    counter = CountingWaker()
    alive = set(range(count))
    for _ in range(8):
        if not alive:
            return
        chosen = data.draw(st.permutations(sorted(alive)))
        chosen = chosen[: data.draw(st.integers(1, len(chosen)))]
        either = select(*(futures[i] for i in chosen))
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                i = data.draw(st.sampled_from(sorted(alive)))
                if values[i] is None:
                    values[i] = f"value {i}"
                    futures[i].set(values[i])
            expected = next((k for k, i in enumerate(chosen) if values[i] is not None), None)
            got = either.poll(counter.context)
            if expected is None:
                assert got is PENDING
            else:
                assert got == (expected, values[chosen[expected]])
                alive.discard(chosen[expected])
                break


def test_references_are_given_back():
    async def main():
        work, notify = Work(), pyasync_c.Notify()
        other, blocks = notify.notified(), []
        for _ in range(6):
            for _ in range(200):
                await select(other, sleep(0))
                await select(work(1), pending())
                await select(work(1, LONG), ready(1))
            work.log.clear()
            collect()
            blocks.append(sys.getallocatedblocks())
        assert blocks[-1] - blocks[2] < 100, blocks

    pyasync_c.run(main())


def test_repr():
    assert repr(select(ready(1))) == "<select of 1 not polled yet>"
