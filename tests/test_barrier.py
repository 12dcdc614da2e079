"""Barrier: one leader a time, used again and again, and a cancelled wait does not count."""

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from helpers import Worker, every_loop, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sync_machine import Polled, call, polled

import pyasync_c
from pyasync_c import PENDING, Barrier

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_one_party_does_not_wait():
    barrier = Barrier(1)
    assert [Polled(barrier.wait()).poll() for _ in range(3)] == [True] * 3


def test_the_last_leads_each_time():
    barrier = Barrier(50)
    assert barrier.parties == 50
    for _ in range(3):
        waiting = polled(barrier.wait() for _ in range(49))
        assert [one.poll() for one in waiting] == [PENDING] * 49
        assert barrier.n_waiting == 49
        assert Polled(barrier.wait()).poll() is True
        assert barrier.n_waiting == 0
        assert [one.wakes for one in waiting] == [1] * 49
        assert [one.poll() for one in waiting] == [False] * 49


def test_it_arrives_at_the_first_poll():
    barrier = Barrier(2)
    wait = barrier.wait()
    assert barrier.n_waiting == 0
    (one,) = polled([wait])
    assert barrier.n_waiting == 1
    assert Polled(barrier.wait()).poll() is True
    assert one.poll() is False


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_dropped_wait_does_not_count(by_hand):
    barrier = Barrier(2)
    (gone,) = polled([barrier.wait()])
    gone.drop(by_hand)
    assert barrier.n_waiting == 0
    (stays,) = polled([barrier.wait()])
    assert Polled(barrier.wait()).poll() is True
    assert stays.poll() is False


def test_dropped_after_it_has_opened():
    barrier = Barrier(2)
    (gone,) = polled([barrier.wait()])
    assert Polled(barrier.wait()).poll() is True
    (next_one,) = polled([barrier.wait()])
    gone.drop(True)
    assert barrier.n_waiting == 1
    assert next_one.poll() is PENDING


def test_a_waker_that_comes_again():
    barrier, again = Barrier(3), []
    context = pyasync_c.Context(pyasync_c.Waker(lambda: again.append(Polled(barrier.wait()))))
    first, second, third = (barrier.wait() for _ in range(3))
    assert first.poll(context) is PENDING
    assert second.poll(context) is PENDING
    assert third.poll(context) is True
    assert len(again) == 2
    assert [one.poll() for one in again] == [PENDING] * 2
    assert [first.poll(context), second.poll(context)] == [False, False]
    assert barrier.n_waiting == 2


def test_repr_and_weak_reference():
    barrier = Barrier(3)
    waiting = polled([barrier.wait()])
    assert repr(barrier) == "<Barrier waiting=1/3>"
    ref = weakref.ref(barrier)
    del barrier
    assert ref() is not None
    waiting.clear()
    assert ref() is None


@pytest.mark.parametrize(
    ("parties", "error", "message"),
    [
        (0, ValueError, "parties must be at least 1"),
        (-1, ValueError, "parties must be at least 1"),
        (2**63, OverflowError, "parties must be at most"),
        (10**30, OverflowError, "parties must be at most"),
        (-(10**30), ValueError, "parties must be at least 1"),
        (True, TypeError, "parties must be an int, not bool"),
        (2.0, TypeError, "parties must be an int, not float"),
        (None, TypeError, "parties must be an int, not NoneType"),
    ],
)
def test_wrong_parties(parties, error, message):
    with pytest.raises(error, match=message):
        Barrier(parties)


def test_wrong_calls():
    with pytest.raises(TypeError):
        Barrier(parties=2)
    with pytest.raises(AttributeError):
        Barrier(2).parties = 3


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_rounds_of_tasks(run):
    async def main():
        barrier, rounds, leaders = Barrier(7), [0] * 7, []

        async def party(k):
            for number in range(1, 20):
                await turns(k % 3)
                rounds[k] = number
                leaders.append(await barrier.wait())
                assert set(rounds) == {number}
                await barrier.wait()

        await asyncio.gather(*(party(k) for k in range(7)))
        assert leaders.count(True) == 19

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        barrier = Barrier(3)

        async def waits():
            return await barrier.wait()

        for stage in ("not started", "waiting", "opened"):
            doomed, stays = (asyncio.ensure_future(waits()) for _ in range(2))
            if stage != "not started":
                await turns()
                assert barrier.n_waiting == 2
            if stage == "opened":
                assert Polled(barrier.wait()).poll() is True
            doomed.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doomed
            await turns()
            if stage == "opened":
                assert await stays is False
            else:
                assert barrier.n_waiting == 1
                others = [asyncio.ensure_future(waits()) for _ in range(2)]
                assert sorted(await asyncio.gather(stays, *others)) == [False, False, True]
            assert barrier.n_waiting == 0

    run(main())


def test_loops_on_several_threads_meet():
    barrier, written, leaders = Barrier(4), [0] * 4, []

    def party(run, me):
        async def main():
            for number in range(1, 200):
                written[me] = number
                leaders.append(await barrier.wait())
                assert set(written) == {number}
                await barrier.wait()

        run(main())

    runs = (pyasync_c.run, asyncio.run, pyasync_c.run, asyncio.run)
    threads = [Worker(party, run, me) for me, run in enumerate(runs)]
    for thread in threads:
        thread.result()
    assert leaders.count(True) == 199


def test_one_party_keeps_giving_up():
    """Whoever is cancelled takes a place with it only if the barrier has opened for it."""
    barrier, over = Barrier(2), threading.Event()

    async def gives_up():
        met = 0
        while not over.is_set():
            task = asyncio.ensure_future(barrier.wait())
            await turns(2)
            task.cancel()
            met += (await asyncio.gather(task, return_exceptions=True))[0] in (True, False)
        return met

    async def stays():
        for _ in range(300):
            await asyncio.wait_for(barrier.wait(), 60)

    other = Worker(asyncio.run, gives_up())
    pyasync_c.run(stays())
    over.set()
    assert other.result() <= 300
    assert barrier.n_waiting == 0


@every_loop
def test_references_balance(run):
    barrier = Barrier(3)
    before = sys.getrefcount(barrier)

    async def main():
        for _ in range(30):
            tasks = [asyncio.ensure_future(barrier.wait()) for _ in range(5)]
            await turns(2)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    gc.collect()
    assert sys.getrefcount(barrier) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class BarrierMachine(RuleBasedStateMachine):
    """Model: who has arrived since it opened last, and who was let go then."""

    waits = Bundle("waits")

    def __init__(self):
        super().__init__()
        self.barrier = Barrier(3)
        self.arrived = []
        self.let_go = set()
        self.wakes = {}

    @rule(target=waits)
    def wait(self):
        one = Polled(self.barrier.wait())
        self.wakes[one] = 0
        return one

    @rule(one=waits, in_a_thread=st.booleans())
    def poll(self, one, in_a_thread):
        if one.value is not PENDING:
            return
        value = call(one.poll, in_a_thread=in_a_thread)
        if one in self.let_go:
            assert value is False
        elif one in self.arrived:
            assert value is PENDING
        elif len(self.arrived) == 2:
            assert value is True
            for other in self.arrived:
                self.wakes[other] += 1
            self.let_go.update(self.arrived)
            self.arrived.clear()
        else:
            assert value is PENDING
            self.arrived.append(one)

    @rule(one=consumes(waits), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, one, by_hand, in_a_thread):
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        if one in self.arrived:
            self.arrived.remove(one)

    @invariant()
    def the_same_were_woken(self):
        assert {one: one.wakes for one in self.wakes} == self.wakes

    @invariant()
    def as_many_wait(self):
        assert self.barrier.n_waiting == len(self.arrived)


TestBarrierAgainstModel = BarrierMachine.TestCase
