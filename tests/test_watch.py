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
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

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
    """The model: how often a value was sent, and for each receiver which it has seen."""

    receivers = Bundle("receivers")

    def __init__(self):
        super().__init__()
        self.tx, rx = watch(0)
        rx.close()
        self.version = 0
        self.seen = {}
        self.open = True

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

        def send_it():
            sync_machine.call(send, in_a_thread=by_thread)

        if self.seen and self.open:
            send_it()
            self.version += 1
        else:
            with pytest.raises(ChannelClosed):
                send_it()
        assert self.tx.value == self.version

    @rule(rx=receivers, cancel=st.booleans())
    def changed(self, rx, cancel):
        if rx is None:
            return
        waiting = Polled(rx.changed())
        if self.seen[rx] < self.version:
            assert waiting.poll() is None
        elif not self.open:
            with pytest.raises(ChannelClosed):
                waiting.poll()
        else:
            assert waiting.poll() is PENDING
            if cancel:
                waiting.future.drop()
            self.send(False)
            assert waiting.wakes == (not cancel)
            if cancel:
                return
            assert waiting.poll() is None
        self.seen[rx] = self.version
        assert rx.value == self.version

    @rule(rx=receivers, least=st.integers(0, 20))
    def wait_for(self, rx, least):
        if rx is None:
            return
        waiting = Polled(rx.wait_for(lambda value: value >= least))
        if self.version >= least:
            assert waiting.poll() == self.version
        elif not self.open:
            with pytest.raises(ChannelClosed):
                # It looks at the value that is there first, and at changes after it.
                waiting.poll()
        else:
            assert waiting.poll() is PENDING
        self.seen[rx] = self.version

    @rule(rx=consumes(receivers))
    def receiver_goes(self, rx):
        if rx is not None:
            del self.seen[rx]
            rx.close()

    @rule(chance=st.integers(0, 9))
    def sender_goes(self, chance):
        if chance == 0:
            self.tx.close()
            self.open = False


TestWatchAgainstModel = WatchMachine.TestCase
