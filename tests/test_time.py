"""now, sleep, sleep_until, Delay: on time, in order, and never early by the caller's own clock."""

import asyncio
import fractions
import gc
import math
import random
import time
from decimal import Decimal

import pytest
from helpers import CountingWaker, every_loop, turns

import pyasync_c


@pytest.fixture
def no_collector():
    """Where a million objects are made: the collector would take most of the time."""
    gc.disable()
    yield
    gc.enable()


def timers_active():
    return pyasync_c.current_runtime().metrics().timers_active


# ── when ─────────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_never_early_on_thousands_of_random_delays(run):
    rng = random.Random(1)
    delays = [rng.random() * 0.2 for _ in range(2000)] + [rng.random() * 2e-3 for _ in range(1000)]
    early = []

    async def one(delay):
        started_ns = time.monotonic_ns()
        await pyasync_c.sleep(delay)
        elapsed_ns = time.monotonic_ns() - started_ns
        if elapsed_ns < delay * 1e9:
            early.append((delay, elapsed_ns))

    async def main():
        await asyncio.gather(*map(one, delays))

    run(main())
    assert early == []


def test_sleep_until_is_never_early_by_now():
    rng = random.Random(2)

    async def one():
        when = pyasync_c.now() + rng.random() * 0.1
        delay = pyasync_c.sleep_until(when)
        assert delay.deadline >= when
        await delay
        return pyasync_c.now() - when

    async def main():
        return await asyncio.gather(*(one() for _ in range(1000)))

    assert min(pyasync_c.run(main())) >= 0


def test_a_point_in_time_is_never_rounded_down():
    rng = random.Random(3)
    points = [rng.randrange(10**13, 10**14) / 1e9 for _ in range(10_000)]
    points += [math.nextafter(point, math.inf) for point in points]

    async def main():
        return [when for when in points if pyasync_c.sleep_until(when).deadline < when]

    assert pyasync_c.run(main()) == []


def test_one_after_the_other_is_never_early():
    # Where all wait at once the later ones cover for an error of the wheel's present tick.
    async def main():
        for step in range(150):
            delay = step * 37e-6
            started_ns = time.monotonic_ns()
            await pyasync_c.sleep(delay)
            assert time.monotonic_ns() - started_ns >= delay * 1e9

    pyasync_c.run(main())


def test_counts_from_the_call_inside_a_loop():
    async def main():
        delay = pyasync_c.sleep(0.05)
        deadline = delay.deadline
        time.sleep(0.06)
        assert deadline < pyasync_c.now()
        assert not delay.is_elapsed()  # nobody has armed it yet
        await delay
        assert delay.deadline == deadline
        assert delay.is_elapsed()

    pyasync_c.run(main())


def test_counts_from_the_first_poll_when_made_outside():
    delay = pyasync_c.sleep(0.05)
    with pytest.raises(RuntimeError, match="no deadline yet"):
        delay.deadline  # noqa: B018
    assert "not counting yet" in repr(delay)
    time.sleep(0.06)

    async def main():
        started_ns = time.monotonic_ns()
        await delay
        return time.monotonic_ns() - started_ns

    assert pyasync_c.run(main()) >= 0.05 * 1e9
    assert delay.deadline <= pyasync_c.now()


def test_sleep_until_has_its_deadline_outside_too():
    when = pyasync_c.now() + 1000
    assert pyasync_c.sleep_until(when).deadline == pytest.approx(when, abs=1e-8)


def test_now_outside_a_loop_is_the_monotonic_clock():
    before = time.monotonic()
    now = pyasync_c.now()
    assert before <= now <= time.monotonic()


@every_loop
def test_now_inside_is_the_time_of_the_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.time()
        now = pyasync_c.now()
        assert before <= now <= loop.time()

    run(main())


def test_now_goes_on_while_a_task_blocks():
    async def main():
        before = pyasync_c.now()
        time.sleep(0.01)
        assert pyasync_c.now() >= before + 0.01

    pyasync_c.run(main())


# ── results and state ────────────────────────────────────────────────────────────────────────


@every_loop
def test_result(run):
    async def main():
        assert await pyasync_c.sleep(0.001) is None
        result = object()
        assert await pyasync_c.sleep(0.001, result) is result
        assert await pyasync_c.sleep(0, result=(1, 2)) == (1, 2)
        assert await pyasync_c.sleep_until(pyasync_c.now() + 0.001) is None
        error = StopIteration(7)
        assert await pyasync_c.sleep(0, error) is error

    run(main())


def test_attributes_while_it_waits_and_after():
    async def main():
        started = pyasync_c.now()
        delay = pyasync_c.sleep(0.02)
        assert started + 0.02 <= delay.deadline <= pyasync_c.now() + 0.02
        task = pyasync_c.spawn(delay)
        await turns()
        assert not delay.is_elapsed()
        assert repr(delay).startswith("<Delay 0.0") and repr(delay).endswith("pending>")
        await task
        assert delay.is_elapsed()
        assert repr(delay) == "<Delay elapsed>"

    pyasync_c.run(main())


def test_a_delay_cannot_be_made_or_subclassed_by_hand():
    with pytest.raises(TypeError, match="cannot create"):
        pyasync_c.Delay()
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Mine", (pyasync_c.Delay,), {})
    with pytest.raises(AttributeError):
        pyasync_c.sleep(1).deadline = 3
    assert isinstance(pyasync_c.sleep(1), pyasync_c.Future)
    assert not asyncio.isfuture(pyasync_c.sleep(1))


# ── zero, infinity, and other numbers ────────────────────────────────────────────────────────


@every_loop
@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, -1, -math.inf, -(2**70)])
def test_zero_and_less_yields_exactly_once(run, seconds):
    log = []

    async def one(name):
        for turn in range(3):
            log.append((turn, name))
            await pyasync_c.sleep(seconds)

    async def main():
        await asyncio.gather(*map(one, "abc"))

    run(main())
    # A sleep that came back at once would show a's three in a row.
    assert log == [(turn, name) for turn in range(3) for name in "abc"]


def test_zero_lets_run_what_was_ready_before_it():
    log = []

    async def main():
        asyncio.get_running_loop().call_soon(log.append, "callback")
        await pyasync_c.sleep(0)
        log.append("after")

    pyasync_c.run(main())
    assert log == ["callback", "after"]


def test_sleep_until_the_past_yields_once():
    log = []

    async def main():
        asyncio.get_running_loop().call_soon(log.append, "callback")
        await pyasync_c.sleep_until(0)
        log.append("after")

    pyasync_c.run(main())
    assert log == ["callback", "after"]


@every_loop
@pytest.mark.parametrize("seconds", [math.inf, 1e308, 2**70, 1e12])
def test_never_and_centuries_can_be_cancelled(run, seconds):
    async def main():
        delay = pyasync_c.sleep(seconds)
        task = asyncio.ensure_future(delay)
        await pyasync_c.sleep(0.005)
        assert not task.done()
        assert not delay.is_elapsed()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_infinity_takes_no_timer():
    async def main():
        delay = pyasync_c.sleep(math.inf)
        assert delay.deadline == math.inf
        task = pyasync_c.spawn(delay)
        finite = pyasync_c.spawn(pyasync_c.sleep(1000))
        await turns()
        assert timers_active() == 1
        task.cancel()
        finite.cancel()
        await turns()
        assert timers_active() == 0

    pyasync_c.run(main())


class Half:
    def __float__(self):
        return 0.5


class Three:
    def __index__(self):
        return 3


@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        (1, 1.0),
        (True, 1.0),
        (Decimal("0.25"), 0.25),
        (fractions.Fraction(1, 8), 0.125),
        (Half(), 0.5),
        (Three(), 3.0),
    ],
)
def test_all_real_numbers_are_accepted(number, seconds):
    async def main():
        before = pyasync_c.now()
        deadline = pyasync_c.sleep(number).deadline
        assert before + seconds <= deadline <= pyasync_c.now() + seconds + 1e-6
        assert pyasync_c.sleep_until(number).deadline == pytest.approx(seconds, abs=1e-9)

    pyasync_c.run(main())


# ── order ────────────────────────────────────────────────────────────────────────────────────


def test_due_together_they_come_by_deadline():
    rng = random.Random(3)
    order = []

    async def one(base, offset):
        await pyasync_c.sleep_until(base + offset)
        order.append(offset)

    async def main():
        base = pyasync_c.now() + 0.02
        # Nanoseconds apart and many wheel slots apart.
        offsets = [k * 1e-8 for k in range(100)] + [k * 1.7e-4 for k in range(1, 100)]
        rng.shuffle(offsets)
        tasks = [pyasync_c.spawn(one(base, offset)) for offset in offsets]
        await turns()
        time.sleep(max(0.0, base + 0.03 - pyasync_c.now()))  # all are due when the loop looks again
        for task in tasks:
            await task

    pyasync_c.run(main())
    assert order == sorted(order)


def test_equal_deadlines_come_in_the_order_of_arming():
    order = []

    async def one(when, k):
        await pyasync_c.sleep_until(when)
        order.append(k)

    async def main():
        when = pyasync_c.now() + 0.02
        await asyncio.gather(*(one(when, k) for k in range(300)))

    pyasync_c.run(main())
    assert order == list(range(300))


def test_callbacks_and_sleeps_share_one_order():
    order = []

    async def one(when, k):
        await pyasync_c.sleep_until(when)
        order.append(k)

    async def main():
        loop = asyncio.get_running_loop()
        base = loop.time() + 0.02
        for k in range(0, 100, 2):
            pyasync_c.spawn(one(base + k * 1e-5, k))
            loop.call_at(base + (k + 1) * 1e-5, order.append, k + 1)
        await turns()
        time.sleep(0.03)
        await pyasync_c.sleep(0.01)

    pyasync_c.run(main())
    # Each woken sleeper has its step to run after the timers of the turn, so the two kinds are
    # each in order; neither may overtake within its kind.
    assert order[:] and sorted(order) == list(range(100))
    assert [k for k in order if k % 2 == 0] == list(range(0, 100, 2))
    assert [k for k in order if k % 2 == 1] == list(range(1, 100, 2))


# ── many ─────────────────────────────────────────────────────────────────────────────────────


def test_a_million_timers_cancelled(no_collector):
    fired = []

    async def main():
        loop = asyncio.get_running_loop()
        rng = random.Random(4)
        start = loop.time()
        handles = [
            loop.call_at(start + 100 + 1e6 * rng.random(), fired.append, k)
            for k in range(1_000_000)
        ]
        assert timers_active() == 1_000_000
        for handle in handles:
            handle.cancel()
        assert timers_active() == 0
        assert all(handle.cancelled() for handle in handles)
        await pyasync_c.sleep(0.001)

    pyasync_c.run(main())
    assert fired == []


def test_cancelled_among_the_living():
    fired = []

    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.05
        handles = [loop.call_at(start + (k % 97) * 1e-4, fired.append, k) for k in range(20_000)]
        for handle in handles[::2]:
            handle.cancel()
        await pyasync_c.sleep_until(start + 97e-4)
        await turns()

    pyasync_c.run(main())
    assert sorted(fired) == list(range(1, 20_000, 2))
    assert fired == sorted(fired, key=lambda k: (k % 97, k))


def test_ten_thousand_sleepers_at_once():
    async def one():
        await pyasync_c.sleep(0.01)

    async def main():
        tasks = [pyasync_c.spawn(one()) for _ in range(10_000)]
        for task in tasks:
            await task
        assert timers_active() == 0

    pyasync_c.run(main())


# ── reset ────────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_reset_to_earlier_while_it_is_awaited(run):
    async def main():
        delay = pyasync_c.sleep(1000)
        task = asyncio.ensure_future(delay)
        await pyasync_c.sleep(0.005)
        delay.reset(0.01)
        await asyncio.wait_for(task, 30)

    run(main())


@every_loop
def test_reset_to_later_while_it_is_awaited(run):
    async def main():
        delay = pyasync_c.sleep(0.03)
        task = asyncio.ensure_future(delay)
        await pyasync_c.sleep(0.001)
        started_ns = time.monotonic_ns()
        delay.reset(0.1)
        await task
        assert time.monotonic_ns() - started_ns >= 0.1e9

    run(main())


@every_loop
def test_reset_again_and_again_keeps_it_from_firing(run):
    async def main():
        delay = pyasync_c.sleep(0.3)
        task = asyncio.ensure_future(delay)
        for _ in range(50):
            await pyasync_c.sleep(0.001)
            delay.reset(0.3)
        deadline = delay.deadline
        await task
        assert time.monotonic() >= deadline

    run(main())


@every_loop
def test_reset_after_it_fired_makes_it_new(run):
    async def main():
        delay = pyasync_c.sleep(0.001, "again")
        for _ in range(3):
            assert await delay == "again"
            assert delay.is_elapsed()
            started_ns = time.monotonic_ns()
            delay.reset(0.01)
            assert not delay.is_elapsed()
            assert await delay == "again"
            assert time.monotonic_ns() - started_ns >= 0.01e9
            delay.reset(0)

    run(main())


def test_reset_to_later_and_then_cancelled_leaves_no_timer():
    # A reset to later leaves the timer in the slot that it was filed in.
    async def main():
        for seconds in (0.01, 1, 60, 5000):
            delay = pyasync_c.sleep(seconds)
            task = pyasync_c.spawn(delay)
            await turns()
            delay.reset(seconds * 100)
            task.cancel()
            await turns()
            assert timers_active() == 0

    pyasync_c.run(main())


def test_reset_to_infinity_and_back():
    async def main():
        delay = pyasync_c.sleep(0.01)
        task = pyasync_c.spawn(delay)
        await turns()
        delay.reset(math.inf)
        await pyasync_c.sleep(0.03)
        assert not task.done()
        delay.reset(0.001)
        await task

    pyasync_c.run(main())


def test_reset_before_the_first_await():
    delay = pyasync_c.sleep(1000, "result")
    delay.reset(0.001)

    async def main():
        assert await delay == "result"

    pyasync_c.run(main())


# ── awaited twice, cancelled, polled by hand ─────────────────────────────────────────────────


@every_loop
def test_awaited_again_when_done_is_an_error(run):
    async def main():
        delay = pyasync_c.sleep(0)
        await delay
        with pytest.raises(RuntimeError, match="cannot reuse already awaited Delay"):
            await delay

    run(main())


@every_loop
def test_a_second_task_is_refused_and_the_first_goes_on(run):
    async def waits(delay):
        return await delay

    async def main():
        delay = pyasync_c.sleep(0.02, "mine")
        first = asyncio.ensure_future(waits(delay))
        second = asyncio.ensure_future(waits(delay))
        with pytest.raises(RuntimeError, match="already being awaited"):
            await second
        assert await first == "mine"

    run(main())


@every_loop
def test_a_cancelled_wait_may_be_taken_up_again(run):
    async def waits(delay):
        return await delay

    async def main():
        delay = pyasync_c.sleep(0.02, "kept")
        first = asyncio.ensure_future(waits(delay))
        await pyasync_c.sleep(0.001)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await delay == "kept"

    run(main())


def test_dropped_by_hand():
    async def main():
        delay = pyasync_c.sleep(10)
        counting = CountingWaker()
        assert delay.poll(counting.context) is pyasync_c.PENDING
        assert timers_active() == 1
        delay.drop()
        delay.drop()
        assert timers_active() == 0
        with pytest.raises(RuntimeError, match="dropped"):
            delay.poll(counting.context)
        with pytest.raises(RuntimeError, match="dropped"):
            await delay

    pyasync_c.run(main())


def test_polled_many_times_it_arms_once_and_wakes_once():
    counting = CountingWaker()

    async def main():
        delay = pyasync_c.sleep(0.05)
        before = timers_active()
        for _ in range(1000):
            assert delay.poll(counting.context) is pyasync_c.PENDING
        assert timers_active() == before + 1
        await pyasync_c.sleep(0.06)
        assert counting.count == 1
        assert delay.poll(counting.context) is None
        with pytest.raises(RuntimeError, match="cannot reuse"):
            delay.poll(counting.context)
        await pyasync_c.sleep(0.01)
        assert counting.count == 1

    pyasync_c.run(main())


def test_only_the_newest_waker_is_woken():
    first, second = CountingWaker(), CountingWaker()

    async def main():
        delay = pyasync_c.sleep(0.01)
        delay.poll(first.context)
        delay.poll(second.context)
        await pyasync_c.sleep(0.02)

    pyasync_c.run(main())
    assert (first.count, second.count) == (0, 1)


def test_polled_by_hand_it_moves_from_one_runtime_to_another():
    first, second = CountingWaker(), CountingWaker()
    with pyasync_c.Runtime() as here, pyasync_c.Runtime() as there:
        delay = pyasync_c.sleep(0.05, "arrived")

        async def poll(counting):
            return delay.poll(counting.context)

        async def rest(seconds):
            await pyasync_c.sleep(seconds)

        assert here.run(poll(first)) is pyasync_c.PENDING
        assert here.metrics().timers_active == 1
        assert there.run(poll(second)) is pyasync_c.PENDING
        assert there.metrics().timers_active == 1
        here.run(rest(0.06))
        assert here.metrics().timers_active == 0
        assert first.count == 0
        there.run(rest(0.001))
        assert second.count == 1
        assert there.run(poll(second)) == "arrived"
        assert there.metrics().timers_active == 0


def test_armed_on_a_runtime_that_closed_it_is_woken_and_may_move_on():
    counting = CountingWaker()
    delay = pyasync_c.sleep(0.02, "moved")

    async def poll():
        return delay.poll(counting.context)

    async def rest():
        return await delay

    with pyasync_c.Runtime() as runtime:
        assert runtime.run(poll()) is pyasync_c.PENDING
    assert counting.count == 1
    with pytest.raises(RuntimeError, match="event loop of this Delay is closed"):
        delay.poll(counting.context)
    delay.reset(0)
    assert pyasync_c.run(rest()) == "moved"
