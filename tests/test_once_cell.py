"""OnceCell: made once, by one at a time, by the next one if that fails or is cancelled."""

import asyncio
import gc
import sys
import weakref

import pytest
from helpers import CountingWaker, Manual, Worker, every_loop, turns, unraisable
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sync_machine import Polled, call

import pyasync_c
from pyasync_c import PENDING, OnceCell

# ── without waiting ──────────────────────────────────────────────────────────────────────────


def test_set_and_get():
    cell = OnceCell()
    assert cell.get() is None
    assert cell.is_set() is False
    value = object()
    cell.set(value)
    assert cell.get() is value
    assert cell.is_set() is True
    with pytest.raises(RuntimeError, match="set already"):
        cell.set(5)
    assert cell.get() is value


def test_none_is_a_value():
    cell = OnceCell()
    cell.set(None)
    assert cell.is_set()
    assert Polled(cell.get_or_init(lambda: 1 / 0)).poll() is None


def test_set_while_it_is_initialised():
    cell, leaf = OnceCell(), Manual()
    one = Polled(cell.get_or_init(lambda: leaf))
    assert one.poll() is PENDING
    with pytest.raises(RuntimeError, match="being initialised"):
        cell.set(5)
    assert repr(cell) == "<OnceCell being initialised>"
    one.drop(True)
    cell.set(5)
    assert cell.get() == 5


@pytest.mark.parametrize("f", [5, None, "x", pyasync_c.pending()])
def test_no_callable(f):
    cell = OnceCell()
    with pytest.raises(TypeError, match="f must be callable, not"):
        cell.get_or_init(f)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_generic_repr_and_weak_reference():
    assert OnceCell[int].__origin__ is OnceCell
    cell = OnceCell()
    assert repr(cell) == "<OnceCell empty>"
    cell.set(1)
    assert repr(cell) == "<OnceCell set>"
    ref, future = weakref.ref(cell), cell.get_or_init(list)
    del cell
    assert ref() is not None
    del future
    assert ref() is None


# ── by hand ──────────────────────────────────────────────────────────────────────────────────


class Getter(Polled):
    """A get_or_init whose initialiser is a future that the test makes ready."""

    def __init__(self, cell):
        self.leaf = Manual()
        super().__init__(cell.get_or_init(self.begin))
        self.begun = 0

    def begin(self):
        self.begun += 1
        return self.leaf


def test_the_first_initialises_for_all():
    cell = OnceCell()
    getters = [Getter(cell) for _ in range(40)]
    assert [one.poll() for one in getters] == [PENDING] * 40
    assert [one.begun for one in getters] == [1] + [0] * 39
    value = object()
    getters[0].leaf.set(value)
    assert getters[0].wakes == 1
    assert getters[0].poll() is value
    assert [one.wakes for one in getters] == [1] * 40
    assert [one.poll() for one in getters[1:]] == [value] * 39
    assert [one.begun for one in getters] == [1] + [0] * 39
    with pytest.raises(RuntimeError, match="cannot reuse"):
        getters[0].future.poll(CountingWaker().context)


@pytest.mark.parametrize("by_hand", [True, False])
def test_dropped_while_it_runs_and_before_it_has_seen_its_turn(by_hand):
    cell = OnceCell()
    getters = [Getter(cell) for _ in range(4)]
    assert [one.poll() for one in getters] == [PENDING] * 4
    getters[1].drop(by_hand)  # in the line
    getters[0].drop(by_hand)  # while it runs
    assert getters[0].leaf.drops == 1
    assert [one.wakes for one in getters] == [0, 0, 1, 0]
    getters[2].drop(by_hand)  # its turn, unseen
    assert getters[3].wakes == 1
    assert getters[3].poll() is PENDING
    getters[3].leaf.set("made")
    assert getters[3].poll() == "made"
    assert [one.begun for one in getters] == [1, 0, 0, 1]
    assert cell.get() == "made"


def test_dropped_in_the_middle_of_its_own_call():
    cell = OnceCell()
    futures = []

    def drops_itself():
        futures[0].drop()
        return pyasync_c.pending()

    futures.append(cell.get_or_init(drops_itself))
    assert futures[0].poll(CountingWaker().context) is PENDING
    with pytest.raises(RuntimeError, match="dropped"):
        futures[0].poll(CountingWaker().context)
    assert repr(cell) == "<OnceCell empty>"


def test_polled_again_from_within():
    cell = OnceCell()
    futures = []

    def polls_itself():
        return futures[0].poll(CountingWaker().context)

    futures.append(cell.get_or_init(polls_itself))
    with pytest.raises(RuntimeError, match="already being polled"):
        futures[0].poll(CountingWaker().context)
    assert repr(cell) == "<OnceCell empty>"


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


async def makes(log, value, steps=3):
    log.append(value)
    await turns(steps)
    return value


@every_loop
def test_one_runs_and_all_get_it(run):
    async def main():
        cell, log = OnceCell(), []
        got = await asyncio.gather(*(cell.get_or_init(lambda k=k: makes(log, k)) for k in range(9)))
        assert got == [0] * 9
        assert log == [0]
        assert await cell.get_or_init(lambda: 1 / 0) == 0

    run(main())


@every_loop
def test_what_f_may_return(run):
    async def main():
        async def coroutine():
            await pyasync_c.sleep(0)
            return (1, 2)

        class Awaitable:
            def __await__(self):
                yield from asyncio.sleep(0).__await__()
                return "awaited"

        for f, expected in (
            (coroutine, (1, 2)),
            (Awaitable, "awaited"),
            (lambda: pyasync_c.ready([]), []),
            (lambda: pyasync_c.sleep(0.001, "slept"), "slept"),
            (lambda: asyncio.ensure_future(coroutine()), (1, 2)),
            (lambda: pyasync_c.ready(None), None),
        ):
            cell = OnceCell()
            assert await cell.get_or_init(f) == expected
            assert cell.get() == expected

    run(main())


@every_loop
def test_what_f_may_do_wrong(run):
    async def main():
        cell, log = OnceCell(), []

        async def raises(error):
            await turns(2)
            raise error

        def stops():
            raise StopIteration(5)

        for f, error in (
            (lambda: raises(KeyError()), KeyError),
            (lambda: 1 / 0, ZeroDivisionError),
            (lambda: 5, TypeError),
            (lambda x: x, TypeError),
            (stops, RuntimeError),
            (lambda: raises(asyncio.CancelledError()), asyncio.CancelledError),
        ):
            waiting = asyncio.ensure_future(wants(cell, f))
            with pytest.raises(error):
                await waiting
            assert repr(cell) == "<OnceCell empty>"
        assert await cell.get_or_init(lambda: makes(log, "made")) == "made"

    run(main())


async def wants(cell, f):
    return await cell.get_or_init(f)


@every_loop
def test_a_failure_hands_over_in_order(run):
    async def main():
        cell, log = OnceCell(), []

        async def fails(k):
            log.append(k)
            await turns(2)
            raise ValueError(k)

        tasks = [asyncio.ensure_future(wants(cell, lambda k=k: fails(k))) for k in range(3)]
        tasks += [asyncio.ensure_future(wants(cell, lambda k=k: makes(log, k))) for k in (3, 4)]
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [repr(one) for one in got] == [
            "ValueError(0)",
            "ValueError(1)",
            "ValueError(2)",
            "3",
            "3",
        ]
        assert log == [0, 1, 2, 3]

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        log = []

        async def runs_on():
            log.append("began")
            try:
                await pyasync_c.pending()
            finally:
                await turns(2)  # it may await while it cleans up
                log.append("cleaned up")

        for stage in ("not started", "running", "waiting", "turn unseen"):
            log.clear()
            cell = OnceCell()
            first = asyncio.ensure_future(wants(cell, runs_on))
            if stage != "not started":
                await turns()
            doomed, others = first, []
            if stage in ("waiting", "turn unseen"):
                doomed = asyncio.ensure_future(wants(cell, lambda: 1 / 0))
                others.append(first)
            last = asyncio.ensure_future(wants(cell, lambda: makes(log, "made")))
            if stage != "not started":
                await turns()
            if stage == "turn unseen":
                first.cancel()
                while "cleaned up" not in log:
                    await asyncio.sleep(0)
                doomed.cancel()
            doomed.cancel()
            outcome = (await asyncio.gather(doomed, return_exceptions=True))[0]
            assert isinstance(outcome, (asyncio.CancelledError, ZeroDivisionError)), stage
            if stage == "waiting":
                assert not last.done()
                assert log == ["began"]
                first.cancel()
            assert await asyncio.wait_for(last, 60) == "made"
            await asyncio.gather(*others, return_exceptions=True)
            began = [] if stage == "not started" else ["began", "cleaned up"]
            assert log == [*began, "made"]

    run(main())


@every_loop
def test_a_timeout_within_the_initialiser(run):
    async def main():
        async def tries():
            for timeout in (asyncio.timeout, pyasync_c.timeout):
                with pytest.raises(TimeoutError):
                    async with timeout(0.001):
                        await pyasync_c.pending()
            return "in the end"

        cell = OnceCell()
        assert await cell.get_or_init(tries) == "in the end"

    run(main())


@every_loop
def test_it_runs_in_the_task_that_awaits(run):
    async def main():
        cell = OnceCell()

        async def whose():
            before = asyncio.current_task()
            await asyncio.sleep(0)
            assert asyncio.current_task() is before
            return before

        assert await cell.get_or_init(whose) is asyncio.current_task()

    run(main())


@every_loop
def test_an_initialiser_that_waits_for_itself(run):
    async def main():
        cell = OnceCell()

        async def again():
            return await cell.get_or_init(again)

        with pytest.raises(RuntimeError, match="wait for itself"):
            await cell.get_or_init(again)
        assert repr(cell) == "<OnceCell empty>"

    run(main())


@every_loop
def test_two_tasks_await_one_future(run):
    async def main():
        cell, log = OnceCell(), []
        future = cell.get_or_init(lambda: makes(log, "made", steps=10))

        async def awaits():
            return await future

        first = asyncio.ensure_future(awaits())
        await turns(3)
        second = asyncio.ensure_future(awaits())
        with pytest.raises(RuntimeError, match="another task"):
            await second
        with pytest.raises(RuntimeError, match="being awaited"):
            future.poll(CountingWaker().context)
        assert await first == "made"

    run(main())


@every_loop
def test_closed_while_it_runs(run):
    """A coroutine that is closed by hand, or collected, closes its initialiser."""

    async def main():
        cell, log = OnceCell(), []

        async def runs_on():
            try:
                await pyasync_c.pending()
            except GeneratorExit:
                log.append("closed")
                raise

        for collected in (False, True):
            coroutine = wants(cell, runs_on)
            assert await pyasync_c.poll_once(coroutine) is PENDING
            assert repr(cell) == "<OnceCell being initialised>"
            if not collected:
                coroutine.close()
            del coroutine
            gc.collect()
            assert repr(cell) == "<OnceCell empty>"
        assert log == ["closed", "closed"]

    run(main())


@every_loop
def test_one_that_will_not_be_closed(run):
    async def main():
        cell = OnceCell()

        async def stubborn():
            while True:
                try:
                    await pyasync_c.pending()
                except GeneratorExit:
                    pass

        with unraisable() as seen:
            future = cell.get_or_init(stubborn)
            assert await pyasync_c.poll_once(future) is PENDING
            future.drop()
        assert {type(error) for error in seen} == {RuntimeError}
        assert repr(cell) == "<OnceCell empty>"
        seen.clear()

    with unraisable():
        run(main())
        gc.collect()


def test_loops_on_several_threads_share_it():
    for _ in range(20):
        cell, log = OnceCell(), []

        async def main(log=log, cell=cell):
            async def fails_twice():
                log.append(1)
                await turns(2)
                if len(log) < 3:
                    raise ValueError
                return "made"

            while True:
                try:
                    return await cell.get_or_init(fails_twice)
                except ValueError:
                    pass

        threads = [Worker(run, main()) for run in (pyasync_c.run, asyncio.run, pyasync_c.run)]
        assert [thread.result() for thread in threads] == ["made"] * 3
        assert len(log) == 3


def test_the_collector_sees_through_it():
    class Mark:
        pass

    def cycle(sets):
        cell, mark = OnceCell(), Mark()
        mark.cell, mark.future = cell, cell.get_or_init(lambda: mark)
        if sets:
            cell.set(mark)
        else:
            mark.running = cell.get_or_init(lambda: Never(mark))
            assert mark.running.poll(CountingWaker().context) is PENDING
        return weakref.ref(mark)

    for sets in (False, True):
        ref = cycle(sets)
        gc.collect()
        assert ref() is None


class Never(pyasync_c.Future):
    def __init__(self, held):
        self.held = held

    def poll(self, cx):
        return PENDING


class SavesItsFuture:
    """An iterator that is closed by the collector, and hands out what refers to it."""

    future = None
    saved = []

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return None

    def close(self):
        self.saved.append(self.future)


def test_one_that_comes_back_while_it_is_collected_can_be_polled():
    iterators = []

    def cycle():
        future = OnceCell().get_or_init(lambda: iterators.append(SavesItsFuture()) or iterators[0])
        assert future.poll(CountingWaker().context) is PENDING
        iterators.pop().future = future

    cycle()
    gc.collect()
    (future,) = SavesItsFuture.saved
    SavesItsFuture.saved.clear()
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        future.poll(CountingWaker().context)


def test_an_initialiser_that_polls_its_own_future_as_it_is_closed():
    cell = OnceCell()
    begun, errors = [], []

    async def initialise():
        begun.append(1)
        try:
            await pyasync_c.pending()
        finally:
            try:
                future.poll(CountingWaker().context)
            except RuntimeError as error:
                errors.append(str(error))

    future = cell.get_or_init(initialise)
    assert future.poll(CountingWaker().context) is PENDING
    future.close()
    assert (len(begun), errors) == (1, ["OnceInit is being dropped"])
    assert future.poll(CountingWaker().context) is PENDING
    assert len(begun) == 2
    future.drop()
    cell.set(1)


@every_loop
def test_references_balance(run):
    cells = [OnceCell() for _ in range(30)]
    value = object()
    before = sys.getrefcount(cells[0]), sys.getrefcount(value)

    async def main():
        async def fails():
            await turns(1)
            raise KeyError

        for cell in cells:
            tasks = [asyncio.ensure_future(wants(cell, fails)) for _ in range(2)]
            tasks += [
                asyncio.ensure_future(wants(cell, lambda: pyasync_c.ready(value))) for _ in range(3)
            ]
            await turns(1)
            tasks[0].cancel()
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    gc.collect()
    after = sys.getrefcount(cells[0])
    cells.clear()
    assert (after, sys.getrefcount(value)) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class OnceCellMachine(RuleBasedStateMachine):
    """Model: who runs, who waits, and who has been told of its turn."""

    getters = Bundle("getters")

    def __init__(self):
        super().__init__()
        self.cell = OnceCell()
        self.value = None
        self.runs = None  # whose turn it is, seen or not
        self.line = []
        self.begun = {}
        self.wakes = {}

    def hand_over(self):
        self.runs = self.line.pop(0) if self.line else None
        if self.runs is not None:
            self.wakes[self.runs] += 1

    def complete(self, value):
        self.value, self.runs = value, None
        for one in self.line:
            self.wakes[one] += 1
        self.line = []

    @rule(target=getters)
    def get_or_init(self):
        one = Getter(self.cell)
        self.begun[one], self.wakes[one] = 0, 0
        return one

    @rule(one=getters, in_a_thread=st.booleans())
    def poll(self, one, in_a_thread):
        if one.value is not PENDING:
            return
        value = call(one.poll, in_a_thread=in_a_thread)
        if self.value is not None:
            assert value == self.value
            return
        assert value is PENDING
        if self.runs is None:
            self.runs = one
        if self.runs is one:
            self.begun[one] = 1
        elif one not in self.line:
            self.line.append(one)

    @rule(one=consumes(getters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, one, by_hand, in_a_thread):
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        if one in self.line:
            self.line.remove(one)
        if one is self.runs:
            self.hand_over()

    @rule(fails=st.booleans(), in_a_thread=st.booleans())
    def finish(self, fails, in_a_thread):
        one = self.runs
        if one is None or not self.begun[one]:
            return
        if fails:
            one.leaf.poll = None  # what its next poll cannot call
            assert isinstance(one.poll(), TypeError)
            self.hand_over()
        else:
            call(one.leaf.set, "made", in_a_thread=in_a_thread)
            self.wakes[one] += 1
            assert one.poll() == "made"
            self.complete("made")

    @rule(really=st.integers(0, 4), in_a_thread=st.booleans())
    def set(self, really, in_a_thread):
        if really:
            return
        if self.value is None and self.runs is None:
            call(self.cell.set, "set", in_a_thread=in_a_thread)
            self.complete("set")
        else:
            with pytest.raises(RuntimeError):
                self.cell.set("again")

    @invariant()
    def the_same_were_woken_and_begun(self):
        assert {one: one.wakes for one in self.wakes} == self.wakes
        assert {one: one.begun for one in self.begun} == self.begun

    @invariant()
    def the_same_state(self):
        assert self.cell.get() == self.value
        state = "set" if self.value else "empty" if self.runs is None else "being initialised"
        assert repr(self.cell) == f"<OnceCell {state}>"


TestOnceCellAgainstModel = OnceCellMachine.TestCase


@every_loop
def test_branches_of_one_join_wait_for_one_another(run):
    calls = []

    async def initialise():
        calls.append(1)
        await pyasync_c.sleep(0.001)
        return "value"

    async def main():
        cell = pyasync_c.OnceCell()
        return await pyasync_c.join(*(cell.get_or_init(initialise) for _ in range(3)))

    assert run(main()) == ("value",) * 3
    assert calls == [1]
