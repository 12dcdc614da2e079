"""Event: asyncio's, without a loop and from every thread."""

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
from pyasync_c import PENDING, Event

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_set_and_clear():
    event = Event()
    assert event.is_set() is False
    event.clear()
    (waiting,) = polled([event.wait()])
    event.set()
    event.set()
    assert event.is_set() is True
    assert waiting.wakes == 1
    assert waiting.poll() is True
    assert Polled(event.wait()).poll() is True
    event.clear()
    assert event.is_set() is False
    assert Polled(event.wait()).poll() is PENDING


def test_set_reaches_all_who_wait_though_clear_follows():
    event = Event()
    waiting = polled(event.wait() for _ in range(70))
    unpolled = Polled(event.wait())
    event.set()
    event.clear()
    (late,) = polled([event.wait()])
    assert [one.wakes for one in waiting] == [1] * 70
    assert [one.poll() for one in [*waiting, unpolled]] == [True] * 71
    assert late.poll() is PENDING


def test_a_wait_made_while_it_is_set():
    event = Event()
    event.set()
    wait = Polled(event.wait())
    event.clear()
    assert wait.poll() is True


@pytest.mark.parametrize("by_hand", [True, False])
def test_dropped(by_hand):
    event = Event()
    first, second = polled(event.wait() for _ in range(2))
    first.drop(by_hand)
    event.set()
    assert (first.wakes, second.wakes) == (0, 1)


def test_a_waker_that_drops_all_the_others():
    event, waiting = Event(), []
    context = pyasync_c.Context(pyasync_c.Waker(waiting.clear))
    waiting.extend(event.wait() for _ in range(70))
    for wait in list(waiting):
        assert wait.poll(context) is PENDING
    del wait
    event.set()
    assert waiting == []


def test_only_the_newest_waker_is_woken():
    event, old, new = Event(), CountingWaker(), CountingWaker()
    wait = event.wait()
    assert [wait.poll(one.context) for one in (old, new, new)] == [PENDING] * 3
    event.set()
    assert (old.count, new.count) == (0, 1)


def test_repr_and_weak_reference():
    event = Event()
    assert repr(event) == "<Event unset>"
    event.set()
    assert repr(event) == "<Event set>"
    ref, wait = weakref.ref(event), event.wait()
    del event
    assert ref() is not None
    del wait
    assert ref() is None


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_as_asyncio_documents_it(run):
    async def main():
        event, log = Event(), []

        async def waits(k):
            log.append((k, await event.wait()))

        tasks = [asyncio.ensure_future(waits(k)) for k in range(5)]
        await turns()
        assert log == []
        event.set()
        event.clear()
        await asyncio.gather(*tasks)
        assert log == [(k, True) for k in range(5)]
        late = asyncio.ensure_future(event.wait())
        await turns()
        assert not late.done()
        event.set()
        assert await late is True
        assert await event.wait() is True

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        event = Event()

        async def waits():
            await event.wait()

        for stage in ("not started", "waiting", "set"):
            task, other = (asyncio.ensure_future(waits()) for _ in range(2))
            if stage != "not started":
                await turns()
            if stage == "set":
                event.set()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert event.is_set() == (stage == "set")
            event.set()
            await other
            event.clear()

    run(main())


@every_loop
def test_set_by_threads(run):
    rounds = 3_000 if run is pyasync_c.run else 1_000

    def answer(ping, pong):
        for _ in range(rounds):
            assert ping.acquire(timeout=60)
            pong.set()

    async def main():
        ping, pong = threading.Semaphore(0), Event()
        worker = Worker(answer, ping, pong)
        for _ in range(rounds):
            ping.release()
            await asyncio.wait_for(pong.wait(), 60)
            pong.clear()
        worker.result()

    run(main())


def test_an_event_that_is_set_lets_others_run():
    async def main():
        event, others = Event(), []
        event.set()
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(100_000):
            await event.wait()
            if others:
                break
        assert others

    pyasync_c.run(main())


@every_loop
def test_references_balance(run):
    event = Event()
    before = sys.getrefcount(event)

    async def main():
        for _ in range(30):
            tasks = [asyncio.ensure_future(event.wait()) for _ in range(4)]
            await turns(2)
            tasks[0].cancel()
            event.set()
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            event.clear()

    run(main())
    gc.collect()
    assert sys.getrefcount(event) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class EventMachine(RuleBasedStateMachine):
    """Model: the flag, and for each wait whether it was set since."""

    waits = Bundle("waits")

    def __init__(self):
        super().__init__()
        self.event = Event()
        self.flag = False
        self.happened = {}
        self.waiting = set()
        self.wakes = {}

    @rule(target=waits)
    def wait(self):
        one = Polled(self.event.wait())
        self.happened[one], self.wakes[one] = self.flag, 0
        return one

    @rule(one=waits)
    def poll(self, one):
        if one.value is PENDING:
            assert one.poll() is (True if self.happened[one] else PENDING)
            if self.happened[one]:
                self.waiting.discard(one)
            else:
                self.waiting.add(one)

    @rule(one=consumes(waits), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, one, by_hand, in_a_thread):
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        self.waiting.discard(one)

    @rule(in_a_thread=st.booleans(), clears=st.booleans())
    def set(self, in_a_thread, clears):
        call(self.event.set, in_a_thread=in_a_thread)
        if clears:
            self.event.clear()
        for one in self.waiting:
            self.wakes[one] += 1
        self.waiting.clear()
        for one in self.happened:
            self.happened[one] = True
        self.flag = not clears

    @rule(in_a_thread=st.booleans())
    def clear(self, in_a_thread):
        call(self.event.clear, in_a_thread=in_a_thread)
        self.flag = False

    @invariant()
    def the_same_were_woken(self):
        assert {one: one.wakes for one in self.wakes} == self.wakes

    @invariant()
    def the_same_flag(self):
        assert self.event.is_set() is self.flag


TestEventAgainstModel = EventMachine.TestCase
