"""broadcast: every receiver gets every value, or is told how many it has missed."""

import asyncio
import gc
import pickle
import sys
import time
import weakref

import pytest
import sync_machine
from helpers import Polled, Worker, collect, drain, every_loop, run_asyncio, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pyasync_c import PENDING, ChannelClosed, ChannelEmpty, Lagged, broadcast

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_everyone_gets_everything_since_it_subscribed():
    tx, first = broadcast(10)
    assert tx.send(1) == 1
    second = tx.subscribe()
    assert tx.send(None) == 2
    assert drain(first) == ([1, None], ChannelEmpty)
    assert drain(second) == ([None], ChannelEmpty)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5])
def test_the_slow_lag_once_and_go_on_with_the_oldest(capacity):
    tx, slow = broadcast(capacity)
    quick = tx.subscribe()
    for value in range(capacity + 3):
        tx.send(value)
        assert quick.try_recv() == value
    assert repr(slow) == f"<BroadcastReceiver queued={capacity}>"
    with pytest.raises(Lagged, match="3 values were skipped") as info:
        slow.try_recv()
    assert info.value.skipped == 3
    assert drain(slow) == (list(range(3, capacity + 3)), ChannelEmpty)


def test_lagging_again():
    tx, rx = broadcast(2)
    for value in range(3):
        tx.send(value)
    with pytest.raises(Lagged):
        rx.try_recv()
    tx.send(3)
    assert drain(rx) == ([("lagged", 1), 2, 3], ChannelEmpty)


def test_lagged_as_an_exception():
    error = Lagged(7)
    assert error.skipped == 7
    assert error.args == (7,)
    assert isinstance(error, Exception)
    assert pickle.loads(pickle.dumps(error)).skipped == 7
    assert Lagged(skipped=2).skipped == 2
    with pytest.raises(TypeError):
        Lagged()
    with pytest.raises(AttributeError):
        error.skipped = 8


@pytest.mark.parametrize(
    ("skipped", "text"),
    [(1, "1 value was skipped"), (2, "2 values were"), (2**70, f"{2**70} values were")],
)
def test_lagged_tells_how_many(skipped, text):
    assert text in str(Lagged(skipped))


def test_sending_to_nobody():
    tx, rx = broadcast(2)
    closed = Polled(tx.closed())
    assert closed.poll() is PENDING
    assert tx.is_closed() is False
    rx.close()
    rx.close()
    assert closed.wakes == 1
    assert closed.poll() is None
    assert tx.is_closed() is True
    with pytest.raises(ChannelClosed):
        tx.send(1)
    rx = tx.subscribe()
    assert not tx.is_closed()
    assert tx.send(2) == 1
    assert rx.try_recv() == 2
    del rx
    assert tx.is_closed()


@pytest.mark.parametrize("by", ["close", "with", "del"])
def test_the_last_sender_ends_it_after_a_drain(by):
    tx, rx = broadcast(4)
    other = tx.clone()
    waiting = Polled(rx.recv())
    assert waiting.poll() is PENDING
    tx.close()
    assert waiting.wakes == 0
    for call in (lambda: tx.send(1), tx.clone, tx.subscribe):
        with pytest.raises(ChannelClosed):
            call()
    other.send(1)
    other.send(2)
    if by == "close":
        other.close()
    elif by == "with":
        with other:
            pass
    del other
    assert waiting.poll() == 1
    assert drain(rx) == ([2], ChannelClosed)
    with pytest.raises(ChannelClosed):
        Polled(rx.recv()).poll()


def test_waiting_receivers_are_all_woken():
    tx, rx = broadcast(4)
    receivers = [rx, *(tx.subscribe() for _ in range(70))]
    waits = [Polled(one.recv()) for one in receivers]
    assert {one.poll() for one in waits} == {PENDING}
    waits[3].future.drop()
    assert tx.send("x") == 71
    assert [one.wakes for one in waits] == [1] * 3 + [0] + [1] * 67
    assert [one.poll() for k, one in enumerate(waits) if k != 3] == ["x"] * 70
    assert drain(receivers[3]) == (["x"], ChannelEmpty)  # a dropped wait takes nothing


def test_a_receiver_that_closes_itself():
    tx, rx = broadcast(4)
    other = tx.subscribe()
    waiting, stays = Polled(rx.recv()), Polled(other.recv())
    assert waiting.poll() is stays.poll() is PENDING
    rx.close()
    with pytest.raises(ChannelClosed):
        waiting.poll()
    assert stays.poll() is PENDING
    assert tx.send(1) == 1
    assert drain(rx) == ([], ChannelClosed)
    assert stays.poll() == 1


def test_repr_and_generics():
    tx, rx = broadcast(4)
    tx.send(1)
    assert repr(tx) == "<BroadcastSender receivers=1 capacity=4>"
    assert repr(rx) == "<BroadcastReceiver queued=1>"
    rx.close()
    tx.close()
    assert repr(tx) == "<BroadcastSender closed receivers=0 capacity=4>"
    assert repr(rx) == "<BroadcastReceiver closed queued=0>"
    assert type(tx)[int] and type(rx)[int]
    for call in (type(tx), type(rx), tx.send, lambda: rx.recv(1), lambda: rx.blocking_recv(1)):
        with pytest.raises(TypeError):
            call()


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_publish_and_subscribe(run):
    async def listen(rx):
        return [value async for value in rx]

    async def main():
        tx, rx = broadcast(200)
        listeners = [asyncio.ensure_future(listen(one)) for one in (rx, tx.subscribe())]
        with tx:
            for value in range(100):
                tx.send(value)
                if value % 7 == 0:
                    await asyncio.sleep(0)
        assert await asyncio.gather(*listeners) == [list(range(100))] * 2

    run(main())


@every_loop
def test_iterating_raises_lagged_and_may_go_on(run):
    async def main():
        tx, rx = broadcast(2)
        for value in range(5):
            tx.send(value)
        tx.close()
        with pytest.raises(Lagged):
            async for _ in rx:
                pass
        assert [value async for value in rx] == [3, 4]

    run(main())


@every_loop
def test_a_cancelled_recv_has_taken_nothing(run):
    async def receives(rx):
        return await rx.recv()

    async def main():
        tx, rx = broadcast(4)
        task = asyncio.ensure_future(receives(rx))
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        tx.send(1)
        task = asyncio.ensure_future(receives(rx))
        await turns()
        assert await task == 1
        task = asyncio.ensure_future(receives(rx))
        await turns()
        tx.send(2)
        task.cancel()  # in the turn in which the value came
        (done,) = await asyncio.gather(task, return_exceptions=True)
        assert done == 2 or rx.try_recv() == 2

    run(main())


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_threads_send_to_a_loop_and_to_threads(run):
    count = 3000

    def listen(rx):
        heard = 0
        while True:
            try:
                rx.blocking_recv()
                heard += 1
            except Lagged as lagged:
                heard += lagged.skipped
            except ChannelClosed:
                return heard

    def speak(tx):
        with tx:
            for value in range(count):
                tx.send(value)

    async def main():
        tx, rx = broadcast(8)
        listeners = [Worker(listen, tx.subscribe()) for _ in range(2)]
        speakers = [Worker(speak, tx.clone()) for _ in range(2)]
        tx.close()
        heard = 0
        while True:
            try:
                await rx.recv()
                heard += 1
            except Lagged as lagged:
                heard += lagged.skipped
            except ChannelClosed:
                break
        assert heard == 2 * count
        assert [one.result() for one in listeners] == [2 * count] * 2
        for one in speakers:
            one.result()

    run(main())


def test_blocking_recv():
    tx, rx = broadcast(2)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        rx.blocking_recv(timeout=0.01)
    assert time.monotonic() - start >= 0.01
    worker = Worker(rx.blocking_recv)
    time.sleep(0.01)
    tx.send("x")
    assert worker.result() == "x"

    async def main():
        with pytest.raises(RuntimeError, match="event loop"):
            rx.blocking_recv()

    run_asyncio(main())


# ── memory ───────────────────────────────────────────────────────────────────────────────────


class Thing:
    pass


def test_a_value_goes_when_the_last_has_seen_it():
    tx, rx = broadcast(9)
    other = tx.subscribe()
    thing = Thing()
    gone = weakref.ref(thing)
    tx.send(thing)
    del thing
    rx.try_recv()
    assert gone() is not None
    other.try_recv()
    assert gone() is None


def test_a_value_goes_with_the_last_that_wanted_it():
    tx, rx = broadcast(9)
    thing = Thing()
    gone = weakref.ref(thing)
    tx.send(thing)
    later = tx.subscribe()
    del thing, rx
    assert gone() is None
    assert drain(later) == ([], ChannelEmpty)


def test_cycles_are_collected():
    thing = Thing()
    gone = weakref.ref(thing)
    thing.tx, thing.rx = broadcast(4)
    thing.recv = thing.rx.recv()
    thing.tx.send(thing)
    thing.tx.send(thing)
    del thing
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_references_balance():
    value = Thing()
    before = sys.getrefcount(value)
    for _ in range(100):
        tx, rx = broadcast(3)
        receivers = [rx, *(tx.subscribe() for _ in range(3))]
        for _ in range(5):
            tx.send(value)
        with pytest.raises(Lagged):
            rx.try_recv()
        assert drain(receivers[1])[0][1:] == [value] * 3
        rx.close()
        receivers.clear()
        with pytest.raises(ChannelClosed):
            del rx
            tx.send(value)
    collect()
    assert sys.getrefcount(value) == before


def test_memory_stays_flat():
    tx, rx = broadcast(100)
    blocks = []
    for _ in range(6):
        for _ in range(20_000):
            tx.send(None)
        drain(rx)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[-1] - blocks[1] < 200


# ── against a model ──────────────────────────────────────────────────────────────────────────


CAPACITY = 3


class BroadcastMachine(RuleBasedStateMachine):
    """The model: all that was sent, how far each receiver is, and who waits."""

    receivers = Bundle("receivers")
    waits = Bundle("waits")

    def __init__(self):
        super().__init__()
        self.tx, rx = broadcast(CAPACITY)
        rx.close()
        self.sent = []
        self.at = {}  # receiver: the next that it gets
        self.gone = set()
        self.open = True
        self.line = sync_machine.Line()

    def expected(self, rx):
        """What receiving is to give, and where the receiver stands then."""
        at = self.at[rx]
        if rx in self.gone:
            return ChannelClosed, at
        oldest = max(len(self.sent) - CAPACITY, 0)
        if at < oldest:
            return ("lagged", oldest - at), oldest
        if at == len(self.sent):
            return (None if self.open else ChannelClosed), at
        return self.sent[at], at + 1

    def outcome(self, call):
        try:
            return call()
        except Lagged as lagged:
            return "lagged", lagged.skipped
        except ChannelClosed:
            return ChannelClosed
        except ChannelEmpty:
            return None

    @rule(target=receivers)
    def subscribe(self):
        if not self.open:
            return None
        rx = self.tx.subscribe()
        self.at[rx] = len(self.sent)
        return rx

    @rule(by_thread=st.booleans())
    def send(self, by_thread):
        value = len(self.sent)

        def do():
            return self.outcome(lambda: self.tx.send(value))

        got = sync_machine.call(do, in_a_thread=by_thread)
        receivers = len(self.at) - len(self.gone)
        if receivers and self.open:
            assert got == receivers
            self.sent.append(value)
            self.line.wake_all()
        else:
            assert got is ChannelClosed

    @rule(rx=receivers, by_thread=st.booleans())
    def try_recv(self, rx, by_thread):
        if rx is None:
            return

        def do():
            return self.outcome(rx.try_recv)

        expected, at = self.expected(rx)
        assert sync_machine.call(do, in_a_thread=by_thread) == expected
        self.at[rx] = at

    @rule(target=waits, rx=receivers)
    def recv(self, rx):
        if rx is None:
            return None
        one = sync_machine.Polled(rx.recv())
        one.rx = rx
        self.line.knows(one)
        return one

    @rule(one=waits)
    def poll(self, one):
        if one is None or one.value is not PENDING:
            return
        expected, self.at[one.rx] = self.expected(one.rx)
        got = one.poll()
        if isinstance(got, Lagged):
            got = "lagged", got.skipped
        elif isinstance(got, ChannelClosed):
            got = ChannelClosed
        assert got == (PENDING if expected is None else expected)
        self.line.looked(one, got)

    @rule(one=waits, in_a_thread=st.booleans())
    def cancel(self, one, in_a_thread):
        """It may be awaited again."""
        if one is not None and one.value is PENDING:
            sync_machine.call(one.future.close, in_a_thread=in_a_thread)
            self.line.waiting.discard(one)

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
    def as_many_receivers(self):
        assert f"receivers={len(self.at) - len(self.gone)} " in repr(self.tx)

    @invariant()
    def the_same_were_woken(self):
        self.line.check()


TestBroadcastAgainstModel = BroadcastMachine.TestCase
