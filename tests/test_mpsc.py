"""channel and unbounded_channel: order, room, closing, cancellation, and nothing lost."""

import asyncio
import gc
import sys
import time
import weakref

import pytest
import sync_machine
from helpers import Polled, Worker, collect, drain, every_loop, run_asyncio, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import pyasync_c
from pyasync_c import (
    PENDING,
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    channel,
    unbounded_channel,
)

both_kinds = pytest.mark.parametrize("make", [lambda: channel(1000), unbounded_channel])


def put(tx, value):
    """At once, in either kind."""
    (tx.try_send if hasattr(tx, "try_send") else tx.send)(value)


# ── bad input ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [channel, pyasync_c.broadcast])
@pytest.mark.parametrize(
    ("capacity", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (-(2**80), ValueError),
        (2**80, OverflowError),
        (sys.maxsize + 1, OverflowError),
        (True, TypeError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_bad_capacities(make, capacity, error):
    with pytest.raises(error, match="capacity"):
        make(capacity)


def test_good_capacities():
    class One:
        def __index__(self):
            return 1

    tx, rx = channel(One())
    tx.try_send(1)
    with pytest.raises(ChannelFull):
        tx.try_send(2)
    tx, rx = channel(sys.maxsize)
    tx.try_send(1)
    assert repr(rx) == f"<Receiver queued=1 capacity={sys.maxsize}>"


def test_bad_arguments():
    tx, rx = channel(1)
    for call in (
        channel,
        lambda: channel(1, 2),
        lambda: unbounded_channel(1),
        tx.send,
        lambda: tx.send(1, 2),
        lambda: rx.recv(1),
        rx.recv_many,
        lambda: rx.recv_many(1.5),
        lambda: rx.recv_many(True),
        lambda: tx.blocking_send(timeout=1),
        lambda: tx.blocking_send(1, 2),
        lambda: type(tx)(),
        lambda: type(rx)(),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="limit"):
        rx.recv_many(-1)
    with pytest.raises(OverflowError):
        rx.recv_many(2**70)
    assert drain(rx) == ([], ChannelEmpty)


# ── by hand ──────────────────────────────────────────────────────────────────────────────────


@both_kinds
def test_first_in_first_out(make):
    tx, rx = make()
    values = [None, 1, (1, 2), StopIteration(1), [], *range(900)]
    for value in values:
        put(tx, value)
    assert drain(rx) == (values, ChannelEmpty)


def test_a_send_that_has_room_is_ready_at_once():
    tx, rx = channel(1)
    send = tx.send(1)
    assert send.sent is False
    assert drain(rx) == ([], ChannelEmpty)  # nothing happens before the first poll
    assert Polled(send).poll() is None
    assert send.sent is True
    with pytest.raises(RuntimeError, match="already awaited"):
        Polled(send).poll()


def test_senders_are_let_in_in_order():
    tx, rx = channel(1)
    tx.try_send(0)
    sends = [Polled(tx.send(k)) for k in range(1, 5)]
    assert [send.poll() for send in sends] == [PENDING] * 4
    with pytest.raises(ChannelFull):
        tx.try_send(9)
    assert rx.try_recv() == 0
    assert [send.wakes for send in sends] == [1, 0, 0, 0]
    assert sends[0].poll() is None
    assert drain(rx) == ([1, 2, 3, 4], ChannelEmpty)
    assert [send.wakes for send in sends] == [1, 1, 1, 1]
    assert [send.poll() for send in sends[1:]] == [None] * 3


def test_a_dropped_send_leaves_nothing():
    tx, rx = channel(1)
    tx.try_send(0)
    first, second = Polled(tx.send(1)), Polled(tx.send(2))
    assert first.poll() is second.poll() is PENDING
    first.future.drop()
    assert not first.future.sent
    assert drain(rx) == ([0, 2], ChannelEmpty)
    with pytest.raises(RuntimeError, match="dropped"):
        first.poll()


def test_a_cancelled_send_goes_on_where_it_was():
    tx, rx = channel(1)
    tx.try_send(0)
    waits, let_in = tx.send(1), tx.send(2)
    assert Polled(let_in).poll() is Polled(waits).poll() is PENDING
    assert rx.try_recv() == 0
    for send in (waits, let_in):
        with pytest.raises(asyncio.CancelledError):
            send.throw(asyncio.CancelledError())
    assert (waits.sent, let_in.sent) == (False, True)
    assert Polled(let_in).poll() is None  # it has been sent, and is not again
    assert rx.try_recv() == 2
    assert Polled(waits).poll() is None
    assert drain(rx) == ([1], ChannelEmpty)


def test_receivers_are_served_in_order():
    tx, rx = channel(9)
    waits = [Polled(rx.recv()) for _ in range(3)]
    assert [recv.poll() for recv in waits] == [PENDING] * 3
    tx.try_send(1)
    assert [recv.wakes for recv in waits] == [1, 0, 0]
    assert Polled(rx.recv()).poll() is PENDING  # the value is meant for the first
    assert waits[1].poll() is PENDING
    tx.try_send(2)
    assert [recv.poll() for recv in waits] == [1, 2, PENDING]


def test_a_dropped_recv_takes_nothing():
    tx, rx = channel(9)
    first, second = Polled(rx.recv()), Polled(rx.recv())
    assert first.poll() is second.poll() is PENDING
    tx.try_send(1)
    assert (first.wakes, second.wakes) == (1, 0)
    first.future.drop()
    assert second.wakes == 1
    second.future = None
    assert drain(rx) == ([1], ChannelEmpty)


def test_recv_many():
    tx, rx = channel(4)
    assert Polled(rx.recv_many(0)).poll() == []
    waiting = Polled(rx.recv_many(3))
    assert waiting.poll() is PENDING
    for value in range(4):
        tx.try_send(value)
    late = Polled(tx.send(4))
    assert late.poll() is PENDING
    assert waiting.poll() == [0, 1, 2]
    assert late.poll() is None
    assert Polled(rx.recv_many(sys.maxsize)).poll() == [3, 4]
    waiting = Polled(rx.recv_many(3))
    assert waiting.poll() is PENDING
    tx.try_send(5)
    waiting.future.drop()
    tx.close()
    assert Polled(rx.recv_many(3)).poll() == [5]
    with pytest.raises(ChannelClosed):
        Polled(rx.recv_many(3)).poll()
    assert Polled(rx.recv_many(0)).poll() == []


# ── closing ──────────────────────────────────────────────────────────────────────────────────


@both_kinds
@pytest.mark.parametrize("by", ["close", "with", "del"])
def test_the_last_sender_ends_it(make, by):
    tx, rx = make()
    other = tx.clone()
    waiting = Polled(rx.recv())
    assert waiting.poll() is PENDING
    tx.close()
    tx.close()
    assert waiting.wakes == 0
    put(other, 1)
    put(other, 2)
    if by == "close":
        other.close()
    elif by == "with":
        with other as same:
            assert same is other
    del other
    assert waiting.poll() == 1  # what is there comes first
    assert Polled(rx.recv()).poll() == 2
    with pytest.raises(ChannelClosed):
        Polled(rx.recv()).poll()
    with pytest.raises(ChannelClosed):
        rx.try_recv()


@both_kinds
def test_a_closed_sender(make):
    tx, rx = make()
    other = tx.clone()
    assert not tx.is_closed()
    tx.close()
    assert tx.is_closed()
    assert not other.is_closed()
    with pytest.raises(ChannelClosed):
        put(tx, 1)
    with pytest.raises(ChannelClosed):
        tx.clone()
    if hasattr(tx, "try_send"):
        with pytest.raises(ChannelClosed):
            Polled(tx.send(1)).poll()
        with pytest.raises(ChannelClosed):
            tx.blocking_send(1)
    put(other, 1)
    assert rx.try_recv() == 1


def test_sends_that_wait_are_delivered_after_close():
    tx, rx = channel(1)
    tx.try_send(0)
    send = Polled(tx.send(1))
    assert send.poll() is PENDING
    tx.close()
    assert drain(rx) == ([0, 1], ChannelClosed)
    assert send.poll() is None


@pytest.mark.parametrize("by", ["close", "del"])
def test_the_receiver_ends_it(by):
    tx, rx = channel(1)
    other = tx.clone()
    tx.try_send(0)
    send, closed = Polled(tx.send(1)), Polled(tx.closed())
    assert send.poll() is closed.poll() is PENDING
    if by == "close":
        rx.close()
        rx.close()
    else:
        del rx
    assert (send.wakes, closed.wakes) == (1, 1)
    assert closed.poll() is None
    with pytest.raises(RuntimeError, match="cannot reuse already awaited Closed"):
        closed.poll()
    with pytest.raises(ChannelClosed):
        send.poll()
    assert not send.future.sent
    for sender in (tx, other):
        assert sender.is_closed()
        with pytest.raises(ChannelClosed):
            sender.try_send(1)
    if by == "close":
        assert drain(rx) == ([0], ChannelClosed)


def test_an_own_close_ends_a_pending_recv():
    tx, rx = channel(1)
    waits = [Polled(rx.recv()) for _ in range(40)]
    assert {recv.poll() for recv in waits} == {PENDING}
    rx.close()
    for recv in waits:
        assert recv.wakes == 1
        with pytest.raises(ChannelClosed):
            recv.poll()


def test_repr():
    tx, rx = channel(3)
    tx.try_send(1)
    assert repr(tx) == "<Sender queued=1 capacity=3>"
    rx.close()
    assert repr(rx) == "<Receiver closed queued=1 capacity=3>"
    assert repr(tx) == "<Sender closed queued=1 capacity=3>"
    assert repr(unbounded_channel()) == "(<UnboundedSender queued=0>, <Receiver queued=0>)"
    assert type(tx)[int] and type(rx)[int]


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
@pytest.mark.parametrize("capacity", [1, 2, 7, 128])
def test_producers_and_consumers(run, capacity):
    async def produce(tx, k):
        with tx:
            for step in range(100):
                await tx.send((k, step))

    async def main():
        tx, rx = channel(capacity)
        with tx:
            tasks = [asyncio.ensure_future(produce(tx.clone(), k)) for k in range(5)]
        got = [item async for item in rx]
        await asyncio.gather(*tasks)
        assert sorted(got) == [(k, step) for k in range(5) for step in range(100)]
        for k in range(5):
            assert [step for j, step in got if j == k] == list(range(100))

    run(main())


@every_loop
def test_many_consumers_share_the_values(run):
    async def consume(rx, into):
        async for value in rx:
            into.append(value)
            await asyncio.sleep(0)

    async def main():
        tx, rx = channel(3)
        shares = [[] for _ in range(4)]
        tasks = [asyncio.ensure_future(consume(rx, share)) for share in shares]
        with tx:
            for value in range(200):
                await tx.send(value)
        await asyncio.gather(*tasks)
        assert sorted(sum(shares, [])) == list(range(200))
        assert all(share == sorted(share) and len(share) > 20 for share in shares)

    run(main())


@every_loop
def test_recv_many_awaited(run):
    async def main():
        tx, rx = unbounded_channel()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: [tx.send(k) for k in range(10)])
        assert await rx.recv_many(100) == list(range(10))
        tx.close()
        with pytest.raises(ChannelClosed):
            await rx.recv_many(100)

    run(main())


@every_loop
def test_a_cancelled_send_has_not_sent(run):
    async def main():
        tx, rx = channel(1)
        await tx.send(0)
        send = tx.send(1)

        async def sends():
            await send

        task = asyncio.ensure_future(sends())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not send.sent
        assert drain(rx) == ([0], ChannelEmpty)

    run(main())


@every_loop
def test_cancelled_in_the_turn_in_which_it_was_let_in(run):
    async def main():
        tx, rx = channel(1)
        await tx.send(0)
        send = tx.send(1)

        async def sends():
            await send

        task = asyncio.ensure_future(sends())
        await turns()
        assert await rx.recv() == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert send.sent
        assert drain(rx) == ([1], ChannelEmpty)

    run(main())


@every_loop
@pytest.mark.parametrize("how", ["recv", "recv_many", "async for"])
def test_a_cancelled_receive_has_taken_nothing(run, how):
    async def receives(rx, got):
        if how == "recv":
            got.append(await rx.recv())
        elif how == "recv_many":
            got.extend(await rx.recv_many(2))
        else:
            async for value in rx:
                got.append(value)
                break

    async def main():
        tx, rx = channel(9)
        got = []
        first = asyncio.ensure_future(receives(rx, got))
        await turns()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        tx.try_send(1)
        assert drain(rx) == ([1], ChannelEmpty)
        # In the turn in which the value came: it is still the first.
        second = asyncio.ensure_future(receives(rx, got))
        await turns()
        for value in (2, 3):
            tx.try_send(value)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert got + drain(rx)[0] == [2, 3]
        third, fourth = (asyncio.ensure_future(receives(rx, got)) for _ in range(2))
        await turns()
        del got[:]
        tx.try_send(4)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        await fourth  # the wake-up was passed on
        assert got == [4]

    run(main())


@every_loop
def test_waiting_for_closed(run):
    async def main():
        tx, rx = channel(1)
        task = asyncio.ensure_future(tx.closed())
        await turns()
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().call_soon(rx.close)
        await tx.closed()
        await tx.closed()

    run(main())


def test_ready_ends_let_others_run():
    async def main():
        tx, rx = channel(1)
        others = []
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(100_000):
            await tx.send(1)
            await rx.recv()
            if others:
                break
        assert others

    pyasync_c.run(main())


def test_the_same_channel_on_three_loops_in_three_threads():
    tx, rx = channel(4)

    async def produce(k):
        for step in range(500):
            await tx.send((k, step))

    async def consume(count):
        return [await rx.recv() for _ in range(count)]

    runs = [pyasync_c.run, run_asyncio, pyasync_c.run]
    workers = [Worker(run, produce(k)) for k, run in enumerate(runs)]
    got = run_asyncio(consume(700)) + pyasync_c.run(consume(800))
    for worker in workers:
        worker.result()
    assert sorted(got) == [(k, step) for k in range(3) for step in range(500)]


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_threads_send_and_receive(run):
    count = 2000

    def produce(tx, k):
        for step in range(count):
            tx.blocking_send((k, step))
        tx.close()

    def consume(rx, out):
        while True:
            try:
                out.blocking_send(rx.blocking_recv())
            except ChannelClosed:
                return out.close()

    async def main():
        tx, rx = channel(5)
        out, back = channel(3)
        with tx, out:
            workers = [Worker(produce, tx.clone(), k) for k in range(2)]
            workers += [Worker(consume, rx, out.clone()) for _ in range(2)]
        got = []
        async for item in back:
            got.append(item)
        for worker in workers:
            worker.result()
        assert sorted(got) == [(k, step) for k in range(2) for step in range(count)]

    run(main())


@every_loop
def test_try_send_from_threads(run):
    async def main():
        tx, rx = unbounded_channel()

        def produce(tx):
            with tx:
                for value in range(5000):
                    tx.send(value)

        workers = [Worker(produce, tx.clone()) for _ in range(3)]
        tx.close()
        got = []
        try:
            while True:
                got.extend(await rx.recv_many(100))
        except ChannelClosed:
            pass
        for worker in workers:
            worker.result()
        assert sorted(got) == sorted(list(range(5000)) * 3)

    run(main())


def test_blocking_send_times_out_and_keeps_its_value():
    tx, rx = channel(1)
    tx.blocking_send(0)
    value = object()
    references = sys.getrefcount(value)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        tx.blocking_send(value, timeout=0.02)
    assert time.monotonic() - start >= 0.02
    assert sys.getrefcount(value) == references
    with pytest.raises(TimeoutError):
        tx.blocking_send(value, timeout=0)
    assert drain(rx) == ([0], ChannelEmpty)
    tx.blocking_send(1, timeout=0)
    worker = Worker(tx.blocking_send, 2)
    time.sleep(0.01)
    rx.close()
    with pytest.raises(ChannelClosed):
        worker.result()
    assert rx.blocking_recv() == 1
    with pytest.raises(ChannelClosed):
        rx.blocking_recv()


def test_blocking_is_refused_where_a_loop_runs():
    async def main():
        tx, rx = channel(1)
        with pytest.raises(RuntimeError, match="event loop"):
            tx.blocking_send(1)
        with pytest.raises(RuntimeError, match="event loop"):
            rx.blocking_recv(timeout=0)

    pyasync_c.run(main())
    run_asyncio(main())


# ── memory ───────────────────────────────────────────────────────────────────────────────────


class Thing:
    pass


def test_cycles_through_a_channel_are_collected():
    for make in (lambda: channel(4), unbounded_channel):
        thing = Thing()
        gone = weakref.ref(thing)
        thing.tx, thing.rx = make()
        thing.closed = thing.tx.closed()
        thing.recv = thing.rx.recv()
        for _ in range(3):
            put(thing.tx, thing)
        del thing
        assert gone() is not None
        gc.collect()
        assert gone() is None


def test_cycles_through_a_waiting_send_are_collected():
    thing = Thing()
    gone = weakref.ref(thing)
    thing.tx, thing.rx = channel(1)
    thing.tx.try_send(0)
    thing.send = thing.tx.send(thing)
    assert Polled(thing.send).poll() is PENDING
    thing.fresh = thing.tx.send(thing)
    del thing
    gc.collect()
    assert gone() is None


def test_a_destructor_that_uses_the_channel():
    seen = []
    tx, rx = channel(9)

    class Busy:
        def __del__(self):
            try:
                tx.try_send(1)
            except ChannelClosed:
                seen.append("closed")

    for _ in range(3):
        tx.try_send(Busy())
    del rx
    assert seen == ["closed"] * 3
    assert tx.is_closed()


def test_the_values_go_with_the_receiver():
    tx, rx = channel(9)
    thing = Thing()
    gone = weakref.ref(thing)
    tx.try_send(thing)
    del thing, rx
    assert gone() is None


def test_references_balance():
    value = Thing()
    collect()
    before = sys.getrefcount(value)

    async def main():
        for _ in range(200):
            tx, rx = channel(2)
            await tx.send(value)
            await rx.recv()
            tx.send(value)
            waits = [tx.send(value) for _ in range(4)]
            tasks = [asyncio.ensure_future(send) for send in waits]
            await turns(2)
            tasks[2].cancel()
            assert await rx.recv_many(2) == [value] * 2
            rx.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            with pytest.raises(ChannelClosed):
                tx.try_send(value)

    pyasync_c.run(main())
    collect()
    assert sys.getrefcount(value) == before


def test_memory_stays_flat():
    tx, rx = unbounded_channel()
    blocks = []
    for _ in range(6):
        for _ in range(20_000):
            tx.send(None)
        drain(rx)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[-1] - blocks[1] < 200


# ── against a model ──────────────────────────────────────────────────────────────────────────


class Model:
    """A bounded channel in plain Python: what is in it, and who waits in which order."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.values = []
        self.sending = []  # (name, value)
        self.receiving = []  # names
        self.woken = []
        self.senders = 1
        self.closed = False

    def over(self):
        return not self.values and (self.closed or not self.senders)

    def came(self):
        while self.receiving and len(self.values) > len(self.woken):
            self.woken.append(self.receiving.pop(0))

    def took(self):
        if self.sending and not self.closed:
            self.values.append(self.sending.pop(0)[1])

    def try_send(self, value):
        if self.closed:
            return ChannelClosed
        if len(self.values) == self.capacity:
            return ChannelFull
        self.values.append(value)
        self.came()
        return None

    def take(self):
        value = self.values.pop(0)
        self.took()
        return value

    def try_recv(self):
        if self.values:
            return self.take()
        return ChannelClosed if self.over() else ChannelEmpty

    def recv(self, name, limit):
        mine = name in self.woken
        share = max(len(self.values) - len(self.woken) + mine, min(mine, len(self.values)))
        if share == 0 and not self.over():
            if mine:
                self.woken.remove(name)
                self.receiving.insert(0, name)
            elif name not in self.receiving:
                self.receiving.append(name)
            return PENDING
        self.leave(name)
        if share == 0:
            return ChannelClosed
        limit = min(limit, len(self.values))  # what is there now: not those whom it lets in
        got = [self.take()]
        while len(got) < limit and len(self.values) > len(self.woken):
            got.append(self.take())
        return got

    def leave(self, name):
        for line in (self.woken, self.receiving):
            if name in line:
                line.remove(name)


def outcome(call):
    try:
        return call()
    except (ChannelClosed, ChannelEmpty, ChannelFull) as error:
        return type(error)


class ChannelMachine(RuleBasedStateMachine):
    sends = Bundle("sends")
    receives = Bundle("receives")

    def __init__(self):
        super().__init__()
        self.tx, self.rx = channel(2)
        self.model = Model(2)
        self.clones = [self.tx]
        self.count = 0
        self.sent, self.received = [], []

    def next(self):
        self.count += 1
        return self.count

    @rule(by_thread=st.booleans(), data=st.data())
    def try_send(self, by_thread, data):
        if not self.clones:
            return
        tx, value = data.draw(st.sampled_from(self.clones)), self.next()

        def do():
            return outcome(lambda: tx.try_send(value))

        got = sync_machine.call(do, in_a_thread=by_thread)
        assert got == self.model.try_send(value)

    @rule(target=sends)
    def send(self):
        value = self.next()
        if not self.clones:
            return None
        return value, Polled(self.clones[0].send(value)), self.clones[0]

    @rule(send=sends)
    def poll_send(self, send):
        if send is None or send[1].future is None:
            return
        value, polled, tx = send
        model = self.model
        if value in self.sent:
            return
        waiting = (value, value) in model.sending
        was_in_line = getattr(polled, "in_line", False)
        if was_in_line and not waiting and not model.closed:
            expected = None  # let in
        elif model.closed and not (was_in_line and polled.future.sent):
            expected = ChannelClosed
        elif was_in_line and not waiting:
            expected = None
        elif not was_in_line and tx.is_closed():
            expected = ChannelClosed
        elif waiting or len(model.values) == model.capacity:
            expected = PENDING
            if not waiting:
                model.sending.append((value, value))
                polled.in_line = True
        else:
            assert model.try_send(value) is None
            expected = None
        assert outcome(polled.poll) is expected
        if expected is not PENDING:
            self.sent.append(value)
            if waiting:
                model.sending.remove((value, value))

    @rule(send=consumes(sends), by_hand=st.booleans())
    def cancel_send(self, send, by_hand):
        if send is None:
            return
        value, polled, _ = send
        if by_hand:
            polled.future.drop()
        polled.future = None
        if (value, value) in self.model.sending:
            self.model.sending.remove((value, value))

    @rule(target=receives, limit=st.integers(1, 4))
    def recv(self, limit):
        future = self.rx.recv() if limit == 1 else self.rx.recv_many(limit)
        return self.next(), Polled(future), limit

    @rule(receive=receives)
    def poll_recv(self, receive):
        name, polled, limit = receive
        if name in self.received or polled.future is None:
            return
        expected = self.model.recv(name, limit)
        got = outcome(polled.poll)
        if isinstance(expected, list) and limit == 1:
            expected = expected[0]
        assert got == expected
        if got is not PENDING:
            self.received.append(name)

    @rule(receive=consumes(receives), by_hand=st.booleans())
    def cancel_recv(self, receive, by_hand):
        name, polled, _ = receive
        if by_hand:
            polled.future.drop()
        polled.future = None
        self.model.leave(name)
        self.model.came()

    @rule(by_thread=st.booleans())
    def try_recv(self, by_thread):
        def do():
            return outcome(self.rx.try_recv)

        got = sync_machine.call(do, in_a_thread=by_thread)
        assert got == self.model.try_recv()

    @rule()
    def clone(self):
        if self.clones:
            self.clones.append(self.clones[0].clone())
            self.model.senders += 1

    @rule()
    def close_a_sender(self):
        if self.clones:
            self.clones.pop().close()
            self.model.senders -= 1

    @rule(chance=st.integers(0, 5))
    def close_the_receiver(self, chance):
        if chance == 0:
            self.rx.close()
            self.model.closed = True

    @invariant()
    def the_same_is_queued(self):
        closed = "closed " if self.model.closed else ""
        assert repr(self.rx) == f"<Receiver {closed}queued={len(self.model.values)} capacity=2>"


TestChannelAgainstModel = ChannelMachine.TestCase
