"""timeout and timeout_at: asyncio.Timeout's behaviour, on every loop."""

import asyncio
import math
import sys
from decimal import Decimal

import pytest
from helpers import CountingWaker, every_loop, run_asyncio, turns

import pyasync_c

LONG = 1000.0


# ── the plain cases ──────────────────────────────────────────────────────────────────────────


@every_loop
def test_a_block_that_takes_too_long(run):
    async def main():
        block = pyasync_c.timeout(0.01)
        with pytest.raises(TimeoutError) as raised:
            async with block:
                await pyasync_c.sleep(LONG)
        assert block.expired()
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        assert asyncio.current_task().cancelling() == 0
        assert repr(block) == "<Timeout [expired]>"

    run(main())


@every_loop
def test_a_block_that_is_quick_enough(run):
    async def main():
        async with pyasync_c.timeout(LONG) as block:
            await pyasync_c.sleep(0.001)
            assert "[active]" in repr(block)
        assert not block.expired()
        assert repr(block) == "<Timeout [finished]>"
        await turns()

    run(main())


@every_loop
def test_around_awaitables_of_asyncio(run):
    async def main():
        for wait in (asyncio.sleep(LONG), asyncio.Event().wait(), asyncio.Future()):
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout(0.002):
                    await wait

    run(main())


@every_loop
def test_never_early(run):
    async def main():
        loop = asyncio.get_running_loop()
        for delay in (0.001, 0.01, 0.0203):
            started = loop.time()
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout(delay):
                    await pyasync_c.sleep(LONG)
            # uvloop keeps whole milliseconds.
            assert loop.time() - started >= delay - 0.0011

    run(main())


@every_loop
def test_none_is_no_limit(run):
    async def main():
        for make in (pyasync_c.timeout, pyasync_c.timeout_at):
            async with make(None) as block:
                assert block.when() is None
                await pyasync_c.sleep(0.002)
            assert not block.expired()

    run(main())


@every_loop
@pytest.mark.parametrize("delay", [math.inf, 1e300, 10**30])
def test_never(run, delay):
    async def main():
        async with pyasync_c.timeout(delay) as block:
            assert block.when() >= 1e30
            await pyasync_c.sleep(0.002)

    run(main())


@every_loop
@pytest.mark.parametrize("delay", [0, -1, -math.inf])
def test_zero_ends_at_the_first_wait(run, delay):
    log = []

    async def main():
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(delay):
                log.append("inside")
                await pyasync_c.sleep(LONG)
                log.append("never")

    run(main())
    assert log == ["inside"]


@every_loop
def test_what_does_not_wait_wins_over_a_deadline_that_has_passed(run):
    async def main():
        async with pyasync_c.timeout(0) as block:
            assert await pyasync_c.ready(5) == 5
        assert not block.expired()
        async with pyasync_c.timeout(-1):
            pass
        # And nothing is left that would cancel the task later.
        await pyasync_c.sleep(0.002)

    run(main())


@every_loop
@pytest.mark.parametrize("delay", [Decimal("0.001"), 0, True, 1e-9])
def test_numbers_of_every_kind(run, delay):
    async def main():
        async def waits():
            async with pyasync_c.timeout(delay):
                await pyasync_c.sleep(LONG)

        with pytest.raises(TimeoutError):
            await waits()

    if delay is True:  # a second would be long: look at the deadline alone

        async def main():
            loop = asyncio.get_running_loop()
            async with pyasync_c.timeout(True) as block:
                assert block.when() == pytest.approx(loop.time() + 1, abs=0.5)

    run(main())


@every_loop
def test_when_is_in_the_loops_time(run):
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.time()
        async with pyasync_c.timeout(LONG) as block:
            assert before + LONG - 1e-6 <= block.when() <= loop.time() + LONG + 1e-6
        when = loop.time() + 5.5
        async with pyasync_c.timeout_at(when) as block:
            assert block.when() == when

    run(main())


@every_loop
def test_timeout_at(run):
    async def main():
        loop = asyncio.get_running_loop()
        for when in (loop.time() + 0.005, loop.time(), loop.time() - 10, 0):
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout_at(when):
                    await pyasync_c.sleep(LONG)

    run(main())


def test_made_outside_of_a_loop_it_counts_from_entering():
    block = pyasync_c.timeout(0.01)
    with pytest.raises(RuntimeError, match="no deadline yet"):
        block.when()
    assert repr(block) == "<Timeout [created]>"

    async def main():
        loop = asyncio.get_running_loop()
        entered = loop.time()
        with pytest.raises(TimeoutError):
            async with block:
                assert entered + 0.01 <= block.when() <= loop.time() + 0.01
                await pyasync_c.sleep(LONG)
        assert loop.time() >= entered + 0.01

    pyasync_c.run(main())


# ── rescheduling ─────────────────────────────────────────────────────────────────────────────


@every_loop
def test_reschedule_to_earlier(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(LONG) as block:
                block.reschedule(loop.time() + 0.005)
                await pyasync_c.sleep(LONG)

    run(main())


@every_loop
def test_reschedule_to_later_and_to_never(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with pyasync_c.timeout(0.02) as block:
            block.reschedule(loop.time() + LONG)
            await pyasync_c.sleep(0.03)
            block.reschedule(None)
            assert block.when() is None
            await pyasync_c.sleep(0.002)
        assert not block.expired()

    run(main())


@every_loop
def test_reschedule_to_the_past_cancels_at_the_next_wait(run):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(None) as block:
                block.reschedule(loop.time() - 1)
                assert not block.expired()
                await pyasync_c.sleep(LONG)
        assert block.expired()

    run(main())


def test_reschedule_moves_the_same_timer():
    async def main():
        metrics = pyasync_c.current_runtime().metrics
        before = metrics().timers_active
        async with pyasync_c.timeout(LONG) as block:
            for k in range(1, 100):
                block.reschedule(pyasync_c.now() + LONG * k)
            assert metrics().timers_active == before + 1
        assert metrics().timers_active == before

    pyasync_c.run(main())


@every_loop
def test_reschedule_out_of_turn(run):
    async def main():
        block = pyasync_c.timeout(LONG)
        with pytest.raises(RuntimeError, match="not been entered"):
            block.reschedule(1)
        async with block:
            with pytest.raises(ValueError, match="NaN"):
                block.reschedule(math.nan)
            with pytest.raises(TypeError, match="real number, not str"):
                block.reschedule("soon")
            assert block.when() > 0
        with pytest.raises(RuntimeError, match="finished Timeout"):
            block.reschedule(1)
        expired = pyasync_c.timeout(0)
        with pytest.raises(TimeoutError):
            async with expired:
                try:
                    await pyasync_c.sleep(LONG)
                finally:
                    with pytest.raises(RuntimeError, match="expiring Timeout"):
                        expired.reschedule(None)
        with pytest.raises(RuntimeError, match="expired Timeout"):
            expired.reschedule(1)

    run(main())


# ── nested, and cancelled from outside ───────────────────────────────────────────────────────


@every_loop
def test_nested_the_inner_first(run):
    async def main():
        async with pyasync_c.timeout(LONG) as outer:
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout(0.005) as inner:
                    await pyasync_c.sleep(LONG)
            assert inner.expired()
            await pyasync_c.sleep(0.001)
        assert not outer.expired()

    run(main())


@every_loop
def test_nested_the_outer_first(run):
    async def main():
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.005) as outer:
                # The inner one must let the outer one's cancellation pass.
                try:
                    async with pyasync_c.timeout(LONG) as inner:
                        await pyasync_c.sleep(LONG)
                except TimeoutError:
                    pytest.fail("the inner timeout took the outer one's cancellation")
        assert outer.expired()
        assert not inner.expired()

    run(main())


@every_loop
def test_nested_both_at_once(run):
    async def main():
        when = asyncio.get_running_loop().time() + 0.005
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout_at(when) as outer:
                async with pyasync_c.timeout_at(when) as inner:
                    await pyasync_c.sleep(LONG)
        assert outer.expired() or inner.expired()
        assert asyncio.current_task().cancelling() == 0

    run(main())


@every_loop
def test_nested_with_asyncios_own(run):
    async def main():
        async with asyncio.timeout(LONG):
            with pytest.raises(TimeoutError):
                async with pyasync_c.timeout(0.002):
                    await asyncio.sleep(LONG)
        async with pyasync_c.timeout(LONG):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await pyasync_c.sleep(LONG)
        assert asyncio.current_task().cancelling() == 0

    run(main())


@every_loop
def test_cancelled_from_outside_it_is_no_timeout(run):
    blocks = []

    async def waits():
        async with pyasync_c.timeout(LONG) as block:
            blocks.append(block)
            await pyasync_c.sleep(LONG)

    async def main():
        task = asyncio.ensure_future(waits())
        await turns()
        task.cancel("from outside")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert not blocks[0].expired()

    run(main())


@every_loop
def test_cancelled_from_outside_and_by_the_deadline_outside_wins(run):
    blocks = []

    async def waits():
        try:
            async with pyasync_c.timeout(0) as block:
                blocks.append(block)
                await pyasync_c.sleep(LONG)
        finally:
            # One request is left: the one from outside.
            blocks.append(asyncio.current_task().cancelling())

    async def main():
        task = asyncio.ensure_future(waits())
        while not blocks:
            await asyncio.sleep(0)
        # In the turn in which the deadline cancels too, if not in the one before.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert blocks[1] == 1

    run(main())


@every_loop
def test_a_cancellation_from_before_is_not_counted(run):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pyasync_c.sleep(LONG)
        assert task.cancelling() == 1
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.002):
                await pyasync_c.sleep(LONG)
        assert task.cancelling() == 1
        task.uncancel()

    run(main())


@every_loop
def test_another_error_on_the_way_out_stays(run):
    async def main():
        block = pyasync_c.timeout(0)
        with pytest.raises(KeyError) as raised:
            async with block:
                try:
                    await pyasync_c.sleep(LONG)
                except asyncio.CancelledError:
                    raise KeyError("mine")  # noqa: B904, the chain is what is looked at
        assert block.expired()
        assert asyncio.current_task().cancelling() == 0
        # As asyncio has it: the TimeoutError stands in the chain before the cancellation.
        chain = raised.value.__context__
        assert isinstance(chain, TimeoutError)
        assert isinstance(chain.__cause__, asyncio.CancelledError)

    run(main())


@every_loop
def test_an_error_of_the_block_is_let_through(run):
    async def main():
        with pytest.raises(ZeroDivisionError):
            async with pyasync_c.timeout(LONG) as block:
                1 / 0  # noqa: B018
        assert not block.expired()

    run(main())


@every_loop
def test_a_block_that_swallows_the_cancellation(run):
    async def main():
        async with pyasync_c.timeout(0.001) as block:
            try:
                await pyasync_c.sleep(LONG)
            except asyncio.CancelledError:
                pass
        assert block.expired()
        assert asyncio.current_task().cancelling() == 0
        await pyasync_c.sleep(0.001)

    run(main())


@every_loop
def test_the_same_as_asyncio_for_every_ending(run):
    """One table of what a block may do, played with both kinds of timeout: the same outcome."""

    async def swallow():
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            pass

    async def swallow_and_wait():
        await swallow()
        await asyncio.sleep(0.001)

    async def replace():
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError as error:
            raise ValueError from error

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(LONG))

    async def group_that_fails():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(replace())

    async def fail():
        raise LookupError

    async def cancel_oneself():
        asyncio.current_task().cancel()
        await asyncio.sleep(LONG)

    async def play(timeout, delay, body):
        task = asyncio.current_task()
        try:
            async with timeout(delay) as block:
                await body()
            ending = None
        except BaseException as error:
            # Ours has 3.13's chain of exceptions on every version.
            chain = error.__context__ if sys.version_info >= (3, 13) else None
            ending = type(error), type(error.__cause__), type(chain)
        left = task.cancelling()
        while task.cancelling():
            task.uncancel()
        return ending, left, block.expired()

    async def main():
        bodies = [
            swallow,
            swallow_and_wait,
            replace,
            group,
            group_that_fails,
            fail,
            cancel_oneself,
            turns,
        ]
        for body in bodies:
            for delay in (0, 0.003) if body is not turns else (LONG, None):
                theirs = await asyncio.create_task(play(asyncio.timeout, delay, body))
                ours = await asyncio.create_task(play(pyasync_c.timeout, delay, body))
                assert ours == theirs, (body.__name__, delay)

    run(main())


# ── wrong use ────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_entered_twice(run):
    async def main():
        block = pyasync_c.timeout(LONG)
        async with block:
            with pytest.raises(RuntimeError, match="already been entered"):
                async with block:
                    pass
        with pytest.raises(RuntimeError, match="already been entered"):
            async with block:
                pass

    run(main())


@every_loop
def test_outside_of_a_task(run):
    block = pyasync_c.timeout(LONG)

    async def main():
        seen = []

        def callback():
            try:
                block.__aenter__().__await__().send(None)
            except RuntimeError as error:
                seen.append(str(error))

        asyncio.get_running_loop().call_soon(callback)
        await turns()
        assert seen and "inside a task" in seen[0]
        assert repr(block) == "<Timeout [created]>"

    run(main())


def test_with_no_loop_at_all():
    coroutine = pyasync_c.timeout(LONG)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.__aenter__()


def test_left_without_having_been_entered():
    async def main():
        block = pyasync_c.timeout(LONG)
        with pytest.raises(RuntimeError, match="not been entered"):
            await block.__aexit__(None, None, None)
        async with block:
            pass
        with pytest.raises(RuntimeError, match="already been left"):
            await block.__aexit__(None, None, None)

    pyasync_c.run(main())


@pytest.mark.parametrize("function", [pyasync_c.timeout, pyasync_c.timeout_at, pyasync_c.Timeout])
@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (math.nan, ValueError, "must not be NaN"),
        ("1", TypeError, "must be a real number, not str"),
        (1j, TypeError, "must be a real number, not complex"),
        (10**400, OverflowError, "too large"),
    ],
)
def test_bad_numbers_raise_at_the_call(function, argument, error, message):
    with pytest.raises(error, match=message):
        function(argument)


def test_many_at_once_leave_nothing():
    async def one(k):
        try:
            async with pyasync_c.timeout(LONG if k % 2 else 0.001 * (k % 20)):
                await pyasync_c.sleep(0.001 * (k % 7) if k % 2 else LONG)
        except TimeoutError:
            return 1
        return 0

    async def main():
        expired = sum(await asyncio.gather(*map(one, range(2000))))
        assert expired == 1000
        assert pyasync_c.current_runtime().metrics().timers_active == 0

    pyasync_c.run(main())


def test_a_future_polled_by_hand_inside_a_timeout():
    counting = CountingWaker()

    async def main():
        delay = pyasync_c.sleep(LONG)
        with pytest.raises(TimeoutError):
            async with pyasync_c.timeout(0.001):
                assert delay.poll(counting.context) is pyasync_c.PENDING
                await pyasync_c.pending()
        delay.drop()

    pyasync_c.run(main())


def test_entering_that_fails_changes_nothing(monkeypatch):
    """As asyncio's loop may, when it is closing or has no memory."""

    def refuse(*args):
        raise LookupError("no timers today")

    async def main():
        loop = asyncio.get_running_loop()
        block = pyasync_c.timeout(LONG)
        when = block.when()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", refuse)
            with pytest.raises(LookupError, match="no timers today"):
                async with block:
                    pytest.fail("the block was begun")
        assert repr(block) == "<Timeout [created]>"
        with pytest.raises(RuntimeError, match="not been entered"):
            await block.__aexit__(None, None, None)
        async with block:
            assert block.when() == when
        assert repr(block) == "<Timeout [finished]>"

    run_asyncio(main())
