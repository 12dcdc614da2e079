"""Semaphore and Permit: fair, in batches, closable, and nothing lost by cancelling."""

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from helpers import CountingWaker, Worker, every_loop, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sync_machine import Polled, call, polled

import pyasync_c
from pyasync_c import PENDING, Permit, Semaphore, SemaphoreClosed

MOST = 2**61 - 1

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_try_acquire_and_release():
    semaphore = Semaphore(3)
    two = semaphore.try_acquire(2)
    assert isinstance(two, Permit)
    assert semaphore.available_permits == 1
    assert semaphore.try_acquire(2) is None
    one = semaphore.try_acquire()
    assert semaphore.available_permits == 0
    two.release()
    one.release()
    assert semaphore.available_permits == 3


def test_nobody_overtakes():
    semaphore = Semaphore(2)
    many, one = polled([semaphore.acquire(3), semaphore.acquire()])
    assert semaphore.available_permits == 0
    assert semaphore.try_acquire() is None
    semaphore.add_permits(1)
    assert (many.wakes, one.wakes) == (1, 0)
    assert repr(many.poll()) == "<Permit of 3>"
    assert one.poll() is PENDING
    many.value.release()
    assert repr(one.poll()) == "<Permit of 1>"
    assert semaphore.available_permits == 2


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_cancelled_acquire_gives_back_what_it_was_assigned(by_hand):
    semaphore = Semaphore(4)
    (many,) = polled([semaphore.acquire(6)])
    semaphore.add_permits(1)
    assert semaphore.available_permits == 0
    many.drop(by_hand)
    assert semaphore.available_permits == 5


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_grant_that_was_not_seen_goes_on(by_hand):
    semaphore = Semaphore(0)
    first, second = polled([semaphore.acquire(2), semaphore.acquire(2)])
    semaphore.add_permits(2)
    first.drop(by_hand)
    assert second.wakes == 1
    assert isinstance(second.poll(), Permit)


def test_a_dropped_one_lets_those_behind_go_on():
    semaphore = Semaphore(3)
    many, *rest = polled([semaphore.acquire(4), *(semaphore.acquire() for _ in range(50))])
    many.drop(True)
    assert [one.wakes for one in rest] == [1] * 3 + [0] * 47
    semaphore.add_permits(47)
    assert all(isinstance(one.poll(), Permit) for one in rest)


def test_close():
    semaphore = Semaphore(2)
    held = semaphore.try_acquire(2)
    waiting = polled(semaphore.acquire() for _ in range(40))
    assert not semaphore.is_closed()
    semaphore.close()
    semaphore.close()
    assert semaphore.is_closed()
    assert [one.wakes for one in waiting] == [1] * 40
    for one in [*waiting, Polled(semaphore.acquire())]:
        assert isinstance(one.poll(), SemaphoreClosed)
    with pytest.raises(SemaphoreClosed, match="closed"):
        semaphore.try_acquire()
    held.release()
    assert semaphore.available_permits == 2
    assert issubclass(SemaphoreClosed, RuntimeError)


def test_forget_permits():
    semaphore = Semaphore(5)
    assert semaphore.forget_permits(2) == 2
    assert semaphore.available_permits == 3
    assert semaphore.forget_permits(10) == 3
    assert semaphore.forget_permits(0) == 0
    assert semaphore.try_acquire() is None


def test_no_permits_at_first():
    semaphore = Semaphore(0)
    (one,) = polled([semaphore.acquire()])
    semaphore.add_permits(0)
    assert one.wakes == 0
    semaphore.add_permits(1)
    assert isinstance(one.poll(), Permit)


def test_a_permit_is_given_back_once():
    semaphore = Semaphore(1)
    permit = semaphore.try_acquire()
    permit.release()
    with pytest.raises(RuntimeError, match="released already"):
        permit.release()
    with pytest.raises(RuntimeError, match="released already"), permit:
        pass
    assert semaphore.available_permits == 1


def test_with_a_permit():
    semaphore = Semaphore(2)
    with pytest.raises(KeyError), semaphore.try_acquire(2) as permit:
        assert isinstance(permit, Permit)
        assert semaphore.available_permits == 0
        raise KeyError
    assert semaphore.available_permits == 2
    with semaphore.try_acquire() as permit:
        permit.release()
        assert semaphore.available_permits == 2
    assert semaphore.available_permits == 2


def test_a_permit_that_is_collected_is_given_back():
    semaphore = Semaphore(2)
    permit = semaphore.try_acquire(2)
    (waiting,) = polled([semaphore.acquire()])
    ref = weakref.ref(permit)
    del permit
    gc.collect()
    assert ref() is None
    assert waiting.wakes == 1
    waiting.drop(False)
    assert semaphore.available_permits == 2


def test_a_permit_keeps_its_semaphore():
    semaphore = Semaphore(1)
    ref, permit = weakref.ref(semaphore), semaphore.try_acquire()
    del semaphore
    assert ref() is not None
    permit.release()
    assert ref() is None


def test_dropped_by_its_own_waker():
    semaphore = Semaphore(0)
    acquire = semaphore.acquire()
    context = pyasync_c.Context(pyasync_c.Waker(acquire.drop))
    other = CountingWaker()
    assert acquire.poll(context) is PENDING
    (second,) = polled([semaphore.acquire()])
    semaphore.add_permits(1)
    assert second.wakes == 1
    with pytest.raises(RuntimeError, match="dropped"):
        acquire.poll(other.context)


def test_repr():
    semaphore = Semaphore(2)
    assert repr(semaphore) == "<Semaphore permits=2 waiters=0>"
    acquire = semaphore.acquire(3)
    assert repr(acquire) == f"<Acquire of {semaphore!r} not polled yet>"
    acquire.poll(CountingWaker().context)
    assert repr(acquire) == "<Acquire of <Semaphore permits=0 waiters=1> waiting>"
    semaphore.close()
    assert repr(semaphore) == "<Semaphore permits=2 waiters=0 closed>"
    acquire.drop()
    assert repr(acquire).endswith(" dropped>")
    permit = Semaphore(1).try_acquire()
    assert repr(permit) == "<Permit of 1>"
    permit.release()
    assert repr(permit) == "<Permit released>"


# ── bad input ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", [1.0, "1", None, True, False, [1]])
def test_no_number(wrong):
    semaphore = Semaphore(1)
    for f in (
        Semaphore,
        semaphore.acquire,
        semaphore.try_acquire,
        semaphore.add_permits,
        semaphore.forget_permits,
    ):
        with pytest.raises(TypeError, match="must be an int, not"):
            f(wrong)


@pytest.mark.parametrize("too_few", [0, -1, -(2**80)])
def test_too_few(too_few):
    semaphore = Semaphore(1)
    for f in (semaphore.acquire, semaphore.try_acquire):
        with pytest.raises(ValueError, match="n must be at least 1"):
            f(too_few)
    if too_few < 0:
        for f in (Semaphore, semaphore.add_permits, semaphore.forget_permits):
            with pytest.raises(ValueError, match="must be at least 0"):
                f(too_few)


@pytest.mark.parametrize("too_many", [MOST + 1, 2**63, 2**64 + 1, 10**30])
def test_too_many(too_many):
    semaphore = Semaphore(1)
    for f in (
        Semaphore,
        semaphore.acquire,
        semaphore.try_acquire,
        semaphore.add_permits,
        semaphore.forget_permits,
    ):
        with pytest.raises(OverflowError, match="must be at most 2305843009213693951"):
            f(too_many)


def test_more_than_there_can_be():
    semaphore = Semaphore(MOST)
    permit = semaphore.try_acquire(5)
    with pytest.raises(OverflowError, match="all permits"):
        semaphore.add_permits(6)
    assert semaphore.available_permits == MOST - 5
    semaphore.add_permits(5)
    with pytest.raises(OverflowError, match="all permits"):
        permit.release()
    assert semaphore.available_permits == MOST


def test_wrong_calls():
    semaphore = Semaphore(1)
    for call_it in (
        lambda: Semaphore(permits=1),
        lambda: semaphore.acquire(1, 2),
        lambda: semaphore.acquire(n=1),
        lambda: semaphore.add_permits(),
        lambda: Permit(),
    ):
        with pytest.raises(TypeError):
            call_it()
    with pytest.raises(AttributeError):
        semaphore.available_permits = 5


def test_numbers_that_are_no_int():
    class Two:
        def __index__(self):
            return 2

    assert Semaphore(Two()).available_permits == 2
    assert repr(Semaphore(3).try_acquire(Two())) == "<Permit of 2>"


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_never_more_than_permits(run):
    async def main():
        semaphore, inside, worst = Semaphore(3), 0, 0

        async def worker(k):
            nonlocal inside, worst
            for _ in range(5):
                async with semaphore:
                    inside += 1
                    worst = max(worst, inside)
                    await turns(k % 3)
                    inside -= 1

        await asyncio.gather(*(worker(k) for k in range(10)))
        assert worst == 3
        assert semaphore.available_permits == 3

    run(main())


@every_loop
def test_async_with_many(run):
    async def main():
        semaphore = Semaphore(5)
        async with semaphore.acquire(3) as permit:
            assert repr(permit) == "<Permit of 3>"
            assert semaphore.available_permits == 2
        assert semaphore.available_permits == 5
        with pytest.raises(RuntimeError, match="released already"):
            permit.release()
        async with semaphore.acquire(3) as permit:
            permit.release()
        assert semaphore.available_permits == 5
        with pytest.raises(KeyError):
            async with semaphore.acquire(2):
                raise KeyError
        assert semaphore.available_permits == 5
        used = semaphore.acquire()
        (await used).release()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            async with used:
                pass
        assert semaphore.available_permits == 5

    run(main())


@every_loop
def test_first_come_first_served(run):
    async def main():
        semaphore, order = Semaphore(0), []

        async def waits(k, n):
            async with semaphore.acquire(n):
                order.append(k)

        tasks = [asyncio.ensure_future(waits(k, 1 + k % 3)) for k in range(12)]
        await turns()
        for _ in range(3):
            semaphore.add_permits(1)
            await turns()
        await asyncio.gather(*tasks)
        assert order == list(range(12))

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        semaphore = Semaphore(1)
        held = semaphore.try_acquire()

        async def acquires(n):
            await semaphore.acquire(n)

        # Not started; in the line; assigned a part; granted and not seen.
        for granted in (None, 0, 1, 2):
            task = asyncio.ensure_future(acquires(2))
            if granted is not None:
                await turns()
                semaphore.add_permits(granted)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert repr(semaphore) == f"<Semaphore permits={granted or 0} waiters=0>"
            semaphore.forget_permits(granted or 0)
        held.release()
        assert semaphore.available_permits == 1

    run(main())


@every_loop
def test_cancelled_in_the_body(run):
    async def main():
        semaphore = Semaphore(3)

        async def holds():
            async with semaphore, semaphore.acquire(2):
                await pyasync_c.pending()

        task = asyncio.ensure_future(holds())
        await turns()
        assert semaphore.available_permits == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert semaphore.available_permits == 3

    run(main())


@every_loop
def test_closed_while_tasks_wait(run):
    async def main():
        semaphore = Semaphore(0)

        async def acquires():
            async with semaphore:
                raise AssertionError

        tasks = [asyncio.ensure_future(acquires()) for _ in range(40)]
        await turns()
        semaphore.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {SemaphoreClosed}

    run(main())


def test_a_permit_that_is_always_there_lets_others_run():
    async def main():
        semaphore, others = Semaphore(1), []
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(100_000):
            async with semaphore:
                pass
            if others:
                break
        assert others

    pyasync_c.run(main())


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_permits_added_by_threads(run):
    rounds, threads = 2_000, 3

    def add(semaphore):
        for _ in range(rounds):
            semaphore.add_permits(1)

    async def main():
        semaphore = Semaphore(0)
        workers = [Worker(add, semaphore) for _ in range(threads)]
        taken = 0
        while taken < rounds * threads:
            n = min(1 + taken % 3, rounds * threads - taken)
            semaphore.acquire(n)  # made and never awaited: takes nothing
            permit = await asyncio.wait_for(semaphore.acquire(n), 60)
            taken += n
            held.append(permit)
        for worker in workers:
            worker.result()
        assert semaphore.available_permits == 0

    held = []
    run(main())


def test_loops_on_several_threads_share_it():
    semaphore, inside, worst = Semaphore(2), [0], [0]
    count = threading.Lock()

    def note(n):
        with count:
            inside[0] += n
            worst[0] = max(worst[0], inside[0])

    async def worker():
        for _ in range(50):
            async with semaphore:
                note(1)
                await asyncio.sleep(0)
                note(-1)

    async def main():
        await asyncio.gather(*(worker() for _ in range(4)))

    threads = [Worker(run, main()) for run in (pyasync_c.run, asyncio.run, pyasync_c.run)]
    for thread in threads:
        thread.result()
    assert worst[0] <= 2
    assert semaphore.available_permits == 2


def test_cancelled_while_threads_add():
    rounds = 1_500
    semaphore, asked = Semaphore(0), threading.Semaphore(0)

    def adder():
        for _ in range(rounds):
            asked.acquire()
            semaphore.add_permits(1)

    async def main():
        worker = Worker(adder)
        for k in range(rounds):
            doomed = asyncio.ensure_future(semaphore.acquire())
            await pyasync_c.yield_now()
            asked.release()
            await turns(k % 4)
            doomed.cancel()
            (outcome,) = await asyncio.gather(doomed, return_exceptions=True)
            if not isinstance(outcome, Permit):  # cancelled: the permit must still come
                outcome = await asyncio.wait_for(semaphore.acquire(), 60)
            kept.append(outcome)
        worker.result()
        assert repr(semaphore) == "<Semaphore permits=0 waiters=0>"

    kept = []
    pyasync_c.run(main())


def test_references_balance():
    semaphore = Semaphore(1)
    before = sys.getrefcount(semaphore)

    async def main():
        for _ in range(50):
            async with semaphore:
                tasks = [asyncio.ensure_future(semaphore.acquire()) for _ in range(3)]
                await turns(2)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    pyasync_c.run(main())
    gc.collect()
    assert sys.getrefcount(semaphore) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class Model:
    def __init__(self, permits):
        self.available = permits
        self.line = []
        self.closed = False

    def hand_out(self):
        while self.line and self.available:
            first = self.line[0]
            given = min(self.available, first.missing)
            self.available -= given
            first.missing -= given
            if not first.missing:
                self.line.pop(0)
                first.state = "granted"
                first.wakes += 1

    def release(self, n):
        self.available += n
        self.hand_out()

    def try_acquire(self, n):
        if self.closed:
            return "closed"
        if self.line or self.available < n:
            return None
        self.available -= n
        return n

    def close(self):
        self.closed = True
        for waiter in self.line:
            self.available += waiter.wanted - waiter.missing
            waiter.state = "closed"
            waiter.wakes += 1
        self.line = []


class ModelWaiter:
    def __init__(self, model, wanted):
        self.model, self.wanted, self.missing = model, wanted, wanted
        self.state = "new"
        self.wakes = 0

    def poll(self):
        if self.state == "new":
            taken = self.model.try_acquire(self.wanted)
            if taken == "closed":
                self.state = "closed"
            elif taken:
                self.state = "granted"
            else:
                self.state = "waiting"
                self.model.line.append(self)
                if self.model.line == [self]:
                    self.missing -= self.model.available
                    self.model.available = 0
        return self.state

    def drop(self):
        if self.state == "waiting":
            self.model.line.remove(self)
            self.model.available += self.wanted - self.missing
        elif self.state == "granted":
            self.model.available += self.wanted
        self.model.hand_out()


class SemaphoreMachine(RuleBasedStateMachine):
    waiters = Bundle("waiters")
    permits = Bundle("permits")

    def __init__(self):
        super().__init__()
        self.semaphore = Semaphore(2)
        self.model = Model(2)
        self.pairs = []

    @rule(target=waiters, n=st.integers(1, 4))
    def acquire(self, n):
        pair = Polled(self.semaphore.acquire(n)), ModelWaiter(self.model, n)
        self.pairs.append(pair)
        return pair

    @rule(pair=waiters)
    def stand_in_the_line(self, pair):
        ours, model = pair
        must_wait = self.model.line or self.model.available < model.wanted
        if model.state == "waiting" or (model.state == "new" and must_wait):
            if not self.model.closed:
                assert model.poll() == "waiting"
                assert ours.poll() is PENDING

    @rule(target=permits, pair=consumes(waiters))
    def poll_or_cancel(self, pair):
        ours, model = pair
        state = model.poll()
        value = ours.poll()
        if state == "granted":
            assert repr(value) == f"<Permit of {model.wanted}>"
            ours.future = ours.value = None
            return [value, model.wanted]
        if state == "closed":
            assert isinstance(value, SemaphoreClosed)
        else:
            assert value is PENDING
            ours.drop(True)
            model.drop()
        return [None, 0]

    @rule(pair=consumes(waiters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, pair, by_hand, in_a_thread):
        ours, model = pair
        call(ours.drop, by_hand, in_a_thread=in_a_thread)
        model.drop()

    @rule(target=permits, n=st.integers(1, 3))
    def try_acquire(self, n):
        expected = self.model.try_acquire(n)
        try:
            permit = self.semaphore.try_acquire(n)
        except SemaphoreClosed:
            assert expected == "closed"
            return [None, 0]
        assert (permit is None) == (expected is None)
        return [permit, n if permit else 0]

    @rule(permit=consumes(permits), collected=st.booleans(), in_a_thread=st.booleans())
    def release(self, permit, collected, in_a_thread):
        if permit[0] is not None:
            if collected:
                permit[0] = None
            else:
                call(permit[0].release, in_a_thread=in_a_thread)
            self.model.release(permit[1])

    @rule(n=st.integers(0, 4), in_a_thread=st.booleans())
    def add_permits(self, n, in_a_thread):
        call(self.semaphore.add_permits, n, in_a_thread=in_a_thread)
        self.model.release(n)

    @rule(n=st.integers(0, 3))
    def forget_permits(self, n):
        expected = min(n, self.model.available)
        assert self.semaphore.forget_permits(n) == expected
        self.model.available -= expected

    @rule(really=st.integers(0, 7))
    def close(self, really):
        if really == 0:
            self.semaphore.close()
            self.model.close()

    @invariant()
    def the_same_were_woken(self):
        assert [ours.wakes for ours, _ in self.pairs] == [model.wakes for _, model in self.pairs]

    @invariant()
    def the_same_is_there(self):
        closed = " closed" if self.model.closed else ""
        assert repr(self.semaphore) == (
            f"<Semaphore permits={self.model.available} waiters={len(self.model.line)}{closed}>"
        )


TestSemaphoreAgainstModel = SemaphoreMachine.TestCase
