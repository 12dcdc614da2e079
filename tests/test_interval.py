"""Interval: the first tick at once, the rhythm kept, three answers to ticks that were missed."""

import asyncio
import math
import time
from decimal import Decimal

import pytest
from helpers import CountingWaker, every_loop

import pyasync_c

PERIOD = 0.02


def steps(due):
    """From tick to tick, in periods."""
    return [(b - a) / PERIOD for a, b in zip(due, due[1:], strict=False)]


@every_loop
def test_first_tick_is_at_once_and_the_rest_keep_the_rhythm(run):
    async def main():
        ticks = pyasync_c.interval(PERIOD)
        before = pyasync_c.now()
        due = [await ticks.tick()]
        # Not by now(): uvloop's time stands still within a turn.
        assert before <= due[0] <= time.monotonic()
        for _ in range(4):
            due.append(await ticks.tick())
            assert time.monotonic() >= due[-1]
        return due

    # Scheduled times, whatever the machine does: exactly a period apart.
    assert steps(run(main())) == pytest.approx([1] * 4)


@every_loop
def test_async_for(run):
    async def main():
        due = []
        async for when in pyasync_c.interval(0.002):
            due.append(when)
            if len(due) == 4:
                break
        return due

    due = run(main())
    assert [b - a for a, b in zip(due, due[1:], strict=False)] == pytest.approx([0.002] * 3)


def late_ticks(missed, count):
    """The times due of a first tick, of one that came 3.5 periods late, and of `count` after it."""

    async def main():
        ticks = pyasync_c.interval(PERIOD, missed=missed)
        due = [await ticks.tick()]
        time.sleep(max(0.0, due[0] + 4.5 * PERIOD - pyasync_c.now()))
        due.append(await ticks.tick())
        late = pyasync_c.now()
        for _ in range(count):
            due.append(await ticks.tick())
        return due, late

    return pyasync_c.run(main())


def test_burst_makes_up_for_all_missed_ticks():
    due, late = late_ticks("burst", 5)
    assert steps(due) == pytest.approx([1] * 6)
    assert late >= due[0] + 4.5 * PERIOD


def test_burst_is_the_default():
    assert "burst" in repr(pyasync_c.interval(1))


def test_burst_does_not_wait_between_the_missed_ones():
    async def main():
        ticks = pyasync_c.interval(1000.0)
        first = await ticks.tick()
        # Ten thousand seconds later, as far as the interval knows.
        ticks._next = first - 10_000.0
        due = [await ticks.tick() for _ in range(10)]
        assert due == pytest.approx([first - 10_000.0 + k * 1000.0 for k in range(10)])

    pyasync_c.run(main())


def test_delay_counts_from_the_late_tick():
    due, late = late_ticks("delay", 2)
    assert steps(due)[0] == pytest.approx(1)
    # The late tick was handed out somewhere between the end of the pause and `late`.
    assert due[0] + 5.5 * PERIOD <= due[2] <= late + PERIOD
    assert due[3] - due[2] >= PERIOD * 0.999


def test_skip_leaves_out_the_missed_and_keeps_the_rhythm():
    due, late = late_ticks("skip", 3)
    taken = steps(due)
    assert taken[0] == pytest.approx(1)
    assert taken[1] == pytest.approx(round(taken[1]))  # a multiple: still in step with the first
    assert taken[1] >= 4 - 1e-6  # ticks 2, 3 and 4 are left out, more on a slow machine
    assert due[2] > due[0] + 4.5 * PERIOD


def test_a_tick_a_little_late_is_not_missed():
    async def main():
        for missed in ("delay", "skip"):
            ticks = pyasync_c.interval(10.0, missed=missed)
            first = await ticks.tick()
            ticks._next = late = pyasync_c.now() - 0.001
            assert await ticks.tick() == late
            if pyasync_c.now() - late < 0.005:  # unless the machine has stalled
                assert ticks._next == pytest.approx(late + 10.0)
            assert first < late + 10.0

    pyasync_c.run(main())


@every_loop
def test_reset_makes_the_next_tick_due_one_period_from_now(run):
    async def main():
        ticks = pyasync_c.interval(0.05)
        await ticks.tick()
        await pyasync_c.sleep(0.02)
        before = pyasync_c.now()
        ticks.reset()
        after = pyasync_c.now()
        due = await ticks.tick()
        assert before + 0.05 <= due + 1e-9 and due <= after + 0.05 + 1e-9

    run(main())


def test_reset_before_the_first_tick_defers_it():
    async def main():
        ticks = pyasync_c.interval(0.02)
        before = pyasync_c.now()
        ticks.reset()
        assert await ticks.tick() >= before + 0.02 - 1e-9

    pyasync_c.run(main())


@every_loop
def test_reset_while_it_is_awaited_moves_the_tick(run):
    async def main():
        ticks = pyasync_c.interval(0.25)
        first = await ticks.tick()
        task = asyncio.ensure_future(ticks.tick())
        await pyasync_c.sleep(0.02)
        ticks.reset()
        due = await task
        assert due >= first + 0.02 + 0.25 - 2e-3
        assert time.monotonic() >= due

    run(main())


@every_loop
def test_a_cancelled_tick_is_not_lost(run):
    async def main():
        ticks = pyasync_c.interval(PERIOD)
        first = await ticks.tick()
        for _ in range(3):
            task = asyncio.ensure_future(ticks.tick())
            await pyasync_c.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return (await ticks.tick() - first) / PERIOD

    assert run(main()) == pytest.approx(1)


def test_a_cancelled_tick_leaves_no_timer():
    async def main():
        ticks = pyasync_c.interval(1000)
        await ticks.tick()
        task = pyasync_c.spawn(ticks.tick())
        await pyasync_c.yield_now()
        await pyasync_c.yield_now()
        metrics = pyasync_c.current_runtime().metrics
        assert metrics().timers_active == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert metrics().timers_active == 0

    pyasync_c.run(main())


def test_a_tick_never_awaited_counts_nothing():
    async def main():
        ticks = pyasync_c.interval(1000)
        ticks.tick()
        before = pyasync_c.now()
        assert await ticks.tick() >= before

    pyasync_c.run(main())


def test_polled_by_hand():
    counting = CountingWaker()

    async def main():
        ticks = pyasync_c.interval(0.05)
        first = ticks.tick().poll(counting.context)
        assert isinstance(first, float)
        second = ticks.tick()
        assert second.poll(counting.context) is pyasync_c.PENDING
        assert counting.count == 0
        await pyasync_c.sleep(0.06)
        assert counting.count == 1
        assert second.poll(counting.context) == pytest.approx(first + 0.05)

    pyasync_c.run(main())


def test_made_outside_of_a_loop():
    ticks = pyasync_c.interval(0.001)
    time.sleep(0.01)

    async def main():
        before = pyasync_c.now()
        assert await ticks.tick() >= before

    pyasync_c.run(main())


@pytest.mark.parametrize("period", [1, Decimal("1.5"), math.inf, 1e-9])
def test_periods_that_are_accepted(period):
    async def main():
        ticks = pyasync_c.interval(period)
        assert ticks.period == float(period)
        await ticks.tick()

    pyasync_c.run(main())


def test_infinite_period_ticks_once():
    async def main():
        ticks = pyasync_c.interval(math.inf, missed="skip")
        await ticks.tick()
        task = pyasync_c.spawn(ticks.tick())
        await pyasync_c.sleep(0.005)
        assert not task.done()
        task.cancel()

    pyasync_c.run(main())


@pytest.mark.parametrize(
    ("arguments", "missed", "error", "message"),
    [
        ((0,), "burst", ValueError, "period must be positive, not 0"),
        ((-1,), "burst", ValueError, "period must be positive, not -1"),
        ((math.nan,), "burst", ValueError, "period must not be NaN"),
        (("1",), "burst", TypeError, "period must be a real number, not str"),
        ((None,), "burst", TypeError, "period must be a real number, not NoneType"),
        ((1,), "later", ValueError, "missed must be 'burst', 'delay' or 'skip', not 'later'"),
        ((1,), None, TypeError, "missed must be a str, not NoneType"),
        ((), "burst", TypeError, "period"),
    ],
)
def test_errors_are_raised_at_the_call(arguments, missed, error, message):
    with pytest.raises(error, match=message):
        pyasync_c.interval(*arguments, missed=missed)
