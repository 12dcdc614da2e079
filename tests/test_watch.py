"""watch: the latest value, and no last change missed."""

import asyncio
import gc
import sys
import time
import weakref

import pytest
import sync_machine
from helpers import Polled, Worker, collect, every_loop, run_asyncio, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import pyasync_c
from pyasync_c import PENDING, ChannelClosed, watch

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_the_first_value_counts_as_seen():
    tx, rx = watch(None)
    assert rx.value is None
    assert tx.value is None
    assert Polled(rx.changed()).poll() is PENDING


def test_changes_are_seen_once_and_may_be_skipped():
    tx, rx = watch(0)
    waiting = Polled(rx.changed())
    assert waiting.poll() is PENDING
    for value in range(1, 4):
        assert tx.send(value) is None
    assert waiting.wakes == 1
    assert rx.value == tx.value == 3
    assert waiting.poll() is None  # looking at the value did not mark it
    assert Polled(rx.changed()).poll() is PENDING


def test_receivers_see_for_themselves():
    tx, rx = watch(0)
    tx.send(1)
    late = tx.subscribe()
    assert late.value == 1
    assert Polled(late.changed()).poll() is PENDING
    assert Polled(rx.changed()).poll() is None
    tx.send(2)
    assert Polled(late.changed()).poll() is None


def test_wait_for():
    tx, rx = watch(1)
    assert Polled(rx.wait_for(lambda value: value == 1)).poll() == 1
    asked = []

    def is_large(value):
        asked.append(value)
        return value > 3

    waiting = Polled(rx.wait_for(is_large))
    assert waiting.poll() is PENDING
    assert waiting.poll() is PENDING
    assert asked == [1]  # a poll that nothing woke asks nothing
    for value in (2, 3):
        tx.send(value)
        assert waiting.poll() is PENDING
    tx.send(5)
    assert waiting.poll() == 5
    assert asked == [1, 2, 3, 5]
    assert Polled(rx.changed()).poll() is PENDING  # what it asked about was seen


def test_wait_for_raises():
    tx, rx = watch(0)
    with pytest.raises(ZeroDivisionError):
        Polled(rx.wait_for(lambda value: 1 / value)).poll()
    for wrong in (None, 1, "x"):
        with pytest.raises(TypeError, match="callable"):
            rx.wait_for(wrong)

    class Unsure:
        def __bool__(self):
            raise KeyError

    with pytest.raises(KeyError):
        Polled(rx.wait_for(lambda value: Unsure())).poll()
    tx.close()
    with pytest.raises(ChannelClosed):
        Polled(rx.wait_for(lambda value: False)).poll()
    assert Polled(rx.wait_for(lambda value: True)).poll() == 0


def test_a_predicate_that_sends():
    tx, rx = watch(0)

    def count_up(value):
        if value < 5:
            tx.send(value + 1)
        return value == 5

    assert Polled(rx.wait_for(count_up)).poll() == 5


def test_a_predicate_that_drops_its_own_future():
    tx, rx = watch(0)
    waiting = Polled(rx.wait_for(lambda value: waiting.future.drop()))
    assert waiting.poll() is PENDING
    tx.send(1)
    assert waiting.wakes == 0


@pytest.mark.parametrize("by", ["close", "with", "del"])
def test_the_last_sender_ends_it(by):
    tx, rx = watch(0)
    other = tx.clone()
    waiting = Polled(rx.changed())
    assert waiting.poll() is PENDING
    tx.close()
    for call in (lambda: tx.send(1), tx.clone, tx.subscribe):
        with pytest.raises(ChannelClosed):
            call()
    assert waiting.wakes == 0
    other.send(1)
    if by == "close":
        other.close()
    elif by == "with":
        with other:
            pass
    del other
    assert waiting.poll() is None  # the last value first
    with pytest.raises(ChannelClosed):
        Polled(rx.changed()).poll()
    assert rx.value == tx.value == 1


def test_sending_to_nobody():
    tx, rx = watch(0)
    closed, waiting = Polled(tx.closed()), Polled(rx.changed())
    assert closed.poll() is waiting.poll() is PENDING
    rx.close()
    rx.close()
    assert closed.poll() is None
    with pytest.raises(ChannelClosed):
        waiting.poll()
    assert tx.is_closed()
    with pytest.raises(ChannelClosed):
        tx.send(1)
    assert tx.value == 0
    rx = tx.subscribe()
    assert not tx.is_closed()
    tx.send(2)
    assert rx.value == 2
    del rx
    assert tx.is_closed()


def test_repr_and_arguments():
    tx, rx = watch(0)
    assert (repr(tx), repr(rx)) == ("<WatchSender receivers=1>", "<WatchReceiver unchanged>")
    tx.send(1)
    assert repr(rx) == "<WatchReceiver changed>"
    rx.close()
    tx.close()
    assert (repr(tx), repr(rx)) == ("<WatchSender closed receivers=0>", "<WatchReceiver closed>")
    assert type(tx)[int] and type(rx)[int]
    for call in (watch, lambda: watch(1, 2), type(tx), type(rx), rx.wait_for, tx.send):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(AttributeError):
        tx.value = 1


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_a_task_follows_the_value(run):
    async def follow(rx, seen):
        try:
            while True:
                await rx.changed()
                seen.append(rx.value)
        except ChannelClosed:
            pass

    async def main():
        tx, rx = watch(0)
        seen = []
        task = asyncio.ensure_future(follow(rx, seen))
        for value in range(1, 50):
            tx.send(value)
            if value % 3 == 0:
                await turns()
        tx.close()
        await task
        assert seen == sorted(set(seen))
        assert seen[-1] == 49
        assert len(seen) >= 16

    run(main())


@every_loop
@pytest.mark.parametrize("how", ["changed", "wait_for"])
def test_a_cancelled_wait_has_seen_nothing(run, how):
    async def waits(rx):
        await (rx.changed() if how == "changed" else rx.wait_for(lambda value: value == 1))
        return True

    async def main():
        tx, rx = watch(0)
        task = asyncio.ensure_future(waits(rx))
        await turns()
        tx.send(1)
        task.cancel()
        (done,) = await asyncio.gather(task, return_exceptions=True)
        if done is not True:
            await rx.changed()

    run(main())


@every_loop
def test_a_cancelled_wait_for_may_be_awaited_again(run):
    async def main():
        tx, rx = watch(0)
        waiting = rx.wait_for(lambda value: value > 0)

        async def waits():
            return await waiting

        task = asyncio.ensure_future(waits())
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tx.send(1)
        assert await waiting == 1

    run(main())


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_threads_send_and_follow(run):
    count = 3000

    def follow(rx):
        last = 0
        try:
            while True:
                rx.blocking_changed()
                assert rx.value > last
                last = rx.value
        except ChannelClosed:
            return last

    def send(tx):
        with tx:
            for value in range(1, count + 1):
                tx.send(value)

    async def main():
        tx, rx = watch(0)
        followers = [Worker(follow, tx.subscribe()) for _ in range(2)]
        sender = Worker(send, tx)
        assert await rx.wait_for(lambda value: value == count) == count
        sender.result()
        assert [one.result() for one in followers] == [count] * 2

    run(main())


def test_blocking_changed():
    tx, rx = watch(0)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        rx.blocking_changed(timeout=0.01)
    assert time.monotonic() - start >= 0.01
    tx.send(1)
    assert rx.blocking_changed(timeout=0) is None

    async def main():
        with pytest.raises(RuntimeError, match="event loop"):
            rx.blocking_changed()

    run_asyncio(main())
    pyasync_c.run(main())


# ── memory ───────────────────────────────────────────────────────────────────────────────────


class Thing:
    pass


def test_a_replaced_value_goes():
    thing = Thing()
    gone = weakref.ref(thing)
    tx, rx = watch(thing)
    del thing
    assert gone() is not None
    tx.send(1)
    assert gone() is None


def test_a_destructor_that_sends():
    class Busy:
        def __del__(self):
            tx.send("sent by the old value")

    tx, rx = watch(Busy())
    tx.send("new")
    assert rx.value == "sent by the old value"


def test_cycles_are_collected():
    thing = Thing()
    gone = weakref.ref(thing)
    thing.tx, thing.rx = watch(thing)
    thing.changed = thing.rx.changed()
    thing.wait_for = thing.rx.wait_for(lambda value, thing=thing: thing)
    thing.tx.send(thing)
    del thing
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_references_balance():
    value = Thing()
    before = sys.getrefcount(value)
    for _ in range(100):
        tx, rx = watch(value)
        tx.send(value)
        assert rx.value is tx.value is value
        assert Polled(rx.wait_for(lambda value: True)).poll() is value
        assert Polled(rx.wait_for(lambda value: False)).poll() is PENDING
        rx.close()
        with pytest.raises(ChannelClosed):
            tx.send(value)
    del tx, rx
    collect()
    assert sys.getrefcount(value) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class WatchMachine(RuleBasedStateMachine):
    """The model: how often a value was sent, which of these each receiver has seen, who waits."""

    receivers = Bundle("receivers")
    waits = Bundle("waits")

    def __init__(self):
        super().__init__()
        self.tx, rx = watch(0)
        rx.close()
        self.version = 0
        self.seen = {}
        self.gone = set()
        self.open = True
        self.line = sync_machine.Line()

    @rule(target=receivers)
    def subscribe(self):
        if not self.open:
            return None
        rx = self.tx.subscribe()
        self.seen[rx] = self.version
        return rx

    @rule(by_thread=st.booleans())
    def send(self, by_thread):
        def send():
            self.tx.send(self.version + 1)

        if len(self.seen) > len(self.gone) and self.open:
            sync_machine.call(send, in_a_thread=by_thread)
            self.version += 1
            self.line.wake_all()
        else:
            with pytest.raises(ChannelClosed):
                sync_machine.call(send, in_a_thread=by_thread)

    @rule(target=waits, rx=receivers, least=st.none() | st.integers(0, 8))
    def wait(self, rx, least):
        """For any change, or for a value of at least so much."""
        if rx is None:
            return None
        future = rx.changed() if least is None else rx.wait_for(lambda value: value >= least)
        one = sync_machine.Polled(future)
        one.rx, one.least, one.asks = rx, least, least is not None
        self.line.knows(one)
        return one

    def expected(self, one):
        while True:
            if one.asks:
                one.asks = False
                self.seen[one.rx] = self.version
                if self.version >= one.least:
                    return self.version
            if one.rx in self.gone:
                return ChannelClosed
            if self.seen[one.rx] == self.version:
                return PENDING if self.open else ChannelClosed
            self.seen[one.rx] = self.version
            if one.least is None:
                return None
            one.asks = True

    @rule(one=waits)
    def poll(self, one):
        if one is None or one.value is not PENDING:
            return
        expected, got = self.expected(one), one.poll()
        assert got is expected or got == expected or type(got) is expected
        self.line.looked(one, got)

    @rule(one=waits, in_a_thread=st.booleans())
    def cancel(self, one, in_a_thread):
        """It may be awaited again."""
        if one is not None and one.value is PENDING:
            sync_machine.call(one.future.close, in_a_thread=in_a_thread)
            self.line.waiting.discard(one)
            one.asks = one.least is not None

    @rule(one=consumes(waits), by_hand=st.booleans(), in_a_thread=st.booleans())
    def drop(self, one, by_hand, in_a_thread):
        if one is not None:
            sync_machine.call(one.drop, by_hand, in_a_thread=in_a_thread)
            self.line.waiting.discard(one)

    @rule(rx=consumes(receivers))
    def receiver_goes(self, rx):
        if rx is not None:
            self.gone.add(rx)
            rx.close()
            self.line.wake_all()

    @rule(chance=st.integers(0, 9), by_thread=st.booleans())
    def sender_goes(self, chance, by_thread):
        if chance == 0 and self.open:
            sync_machine.call(self.tx.close, in_a_thread=by_thread)
            self.open = False
            self.line.wake_all()

    @invariant()
    def the_same_value(self):
        assert self.tx.value == self.version
        assert all(rx.value == self.version for rx in self.seen)

    @invariant()
    def the_same_were_woken(self):
        self.line.check()


TestWatchAgainstModel = WatchMachine.TestCase
