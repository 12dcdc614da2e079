"""oneshot: the value arrives once, or it is known that it never will."""

import asyncio
import gc
import signal
import sys
import threading
import time
import weakref

import pytest
import sync_machine
from helpers import Polled, Worker, collect, every_loop, python, run_asyncio, turns
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import pyasync_c
from pyasync_c import PENDING, ChannelClosed, ChannelEmpty, oneshot

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [None, 1, (1, 2), StopIteration(3), ValueError()])
def test_any_value(value):
    tx, rx = oneshot()
    assert tx.send(value) is None
    assert Polled(rx).poll() is value


def test_waiting_is_woken():
    tx, rx = oneshot()
    waiting = Polled(rx)
    assert waiting.poll() is PENDING
    tx.send("x")
    assert waiting.wakes == 1
    assert waiting.poll() == "x"
    with pytest.raises(RuntimeError, match="already awaited"):
        waiting.poll()


def test_send_twice():
    tx, rx = oneshot()
    tx.send(1)
    with pytest.raises(RuntimeError, match="one value"):
        tx.send(2)
    assert rx.try_recv() == 1
    with pytest.raises(RuntimeError):
        tx.send(3)


def test_sender_goes():
    tx, rx = oneshot()
    waiting = Polled(rx)
    assert waiting.poll() is PENDING
    del tx
    assert waiting.wakes == 1
    with pytest.raises(ChannelClosed):
        waiting.poll()
    with pytest.raises(ChannelClosed):
        rx.try_recv()


def test_sender_closes():
    tx, rx = oneshot()
    tx.close()
    tx.close()
    with pytest.raises(ChannelClosed):
        rx.try_recv()
    tx, rx = oneshot()
    tx.send(1)
    tx.close()
    del tx
    assert rx.try_recv() == 1


def test_receiver_closes():
    tx, rx = oneshot()
    closed, waiting = Polled(tx.closed()), Polled(rx)
    assert closed.poll() is PENDING
    assert waiting.poll() is PENDING
    assert tx.is_closed() is False
    rx.close()
    assert (closed.wakes, waiting.wakes) == (1, 1)
    assert closed.poll() is None
    assert tx.is_closed() is True
    with pytest.raises(ChannelClosed):
        tx.send(1)
    with pytest.raises(ChannelClosed):
        waiting.poll()


def test_a_sent_value_survives_close():
    tx, rx = oneshot()
    tx.send(1)
    rx.close()
    assert rx.try_recv() == 1
    with pytest.raises(ChannelClosed):
        rx.try_recv()


def test_receiver_goes():
    tx, rx = oneshot()
    closed = Polled(tx.closed())
    assert closed.poll() is PENDING
    del rx
    assert closed.poll() is None
    with pytest.raises(ChannelClosed):
        tx.send(1)


def test_try_recv():
    tx, rx = oneshot()
    with pytest.raises(ChannelEmpty):
        rx.try_recv()
    tx.send(None)
    assert rx.try_recv() is None
    assert tx.is_closed()


def test_dropped_by_hand():
    tx, rx = oneshot()
    waiting = Polled(rx)
    assert waiting.poll() is PENDING
    rx.drop()
    tx.send(1)
    assert waiting.wakes == 0
    with pytest.raises(RuntimeError, match="dropped"):
        waiting.poll()
    assert rx.try_recv() == 1


def test_repr():
    tx, rx = oneshot()
    assert (repr(tx), repr(rx)) == ("<OneshotSender open>", "<OneshotReceiver waiting>")
    tx.send(1)
    assert (repr(tx), repr(rx)) == ("<OneshotSender sent>", "<OneshotReceiver ready>")
    rx.try_recv()
    assert repr(rx) == "<OneshotReceiver closed>"
    tx, rx = oneshot()
    rx.close()
    assert repr(tx) == "<OneshotSender closed>"


def test_bad_arguments():
    tx, rx = oneshot()
    for call in (
        lambda: oneshot(1),
        lambda: tx.send(),
        lambda: type(tx)(),
        lambda: type(rx)(),
        lambda: rx.blocking_recv(1),
        lambda: rx.blocking_recv(timeout="1"),
        lambda: rx.blocking_recv(patience=1),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="NaN"):
        rx.blocking_recv(timeout=float("nan"))
    assert type(tx)[int] and type(rx)[int]


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_either_order(run):
    async def main():
        tx, rx = oneshot()
        tx.send(1)
        assert await rx == 1
        tx, rx = oneshot()
        asyncio.get_running_loop().call_soon(tx.send, (1, 2))
        assert await rx == (1, 2)
        with pytest.raises(RuntimeError, match="already awaited"):
            await rx
        tx, rx = oneshot()
        asyncio.get_running_loop().call_soon(tx.close)
        with pytest.raises(ChannelClosed):
            await rx

    run(main())


@every_loop
def test_cancelled_and_awaited_again(run):
    async def main():
        tx, rx = oneshot()
        task = asyncio.ensure_future(rx)
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not tx.is_closed()
        tx.send(1)
        assert await rx == 1

    run(main())


@every_loop
def test_cancelled_in_the_turn_of_the_send(run):
    async def waits(rx):
        return await rx

    async def main():
        tx, rx = oneshot()
        task = asyncio.ensure_future(waits(rx))
        await turns()
        tx.send(1)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        # It has the value, or the value is still there.
        assert done == 1 or rx.try_recv() == 1

    run(main())


def test_closing_the_coroutine_leaves_the_receiver_open():
    async def waits(rx):
        await rx

    tx, rx = oneshot()
    waiting = pyasync_c.into_future(waits(rx))
    assert Polled(waiting).poll() is PENDING
    waiting.drop()
    assert not tx.is_closed()
    tx.send(1)
    assert rx.try_recv() == 1


def test_two_tasks_that_await_one_receiver():
    async def main():
        tx, rx = oneshot()

        async def waits():
            return await rx

        first, second = pyasync_c.spawn(waits()), pyasync_c.spawn(waits())
        await turns()
        tx.send(1)
        assert await first == 1
        with pytest.raises(RuntimeError, match="by another task"):
            await second

    pyasync_c.run(main())


# ── threads ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_sent_by_a_thread(run):
    async def main():
        for value in range(100):
            tx, rx = oneshot()
            threading.Thread(target=tx.send, args=(value,)).start()
            assert await rx == value

    run(main())


def test_blocking_recv():
    tx, rx = oneshot()
    worker = Worker(rx.blocking_recv)
    time.sleep(0.01)
    tx.send("x")
    assert worker.result() == "x"
    tx, rx = oneshot()
    worker = Worker(lambda: rx.blocking_recv(timeout=100))
    del tx
    with pytest.raises(ChannelClosed):
        worker.result()
    tx, rx = oneshot()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        rx.blocking_recv(timeout=0.01)
    assert time.monotonic() - start >= 0.01
    with pytest.raises(TimeoutError):
        rx.blocking_recv(timeout=-1)
    tx.send(1)
    assert rx.blocking_recv(timeout=0) == 1


@pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio])
def test_blocking_recv_refuses_to_stop_a_loop(run):
    async def main():
        tx, rx = oneshot()
        tx.send(1)
        with pytest.raises(RuntimeError, match="event loop"):
            rx.blocking_recv()
        assert await asyncio.to_thread(rx.blocking_recv) == 1

    run(main())


CTRL_C = """
import os, signal, sys, threading, time
import pyasync_c
tx, rx = pyasync_c.channel(1)
tx.try_send(0)
one, other = pyasync_c.oneshot()
waits = {
    "oneshot": lambda: other.blocking_recv(),
    "send": lambda: tx.blocking_send(1),
    "recv": lambda: keep[1].blocking_recv(timeout=100),
    "broadcast": lambda: heard[1].blocking_recv(),
    "watch": lambda: watched[1].blocking_changed(),
}
keep, heard, watched = pyasync_c.channel(1), pyasync_c.broadcast(1), pyasync_c.watch(1)
for name, wait in waits.items():
    def interrupt():
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        wait()
    except KeyboardInterrupt:
        print(name)
assert rx.try_recv() == 0
try:
    rx.try_recv()
except pyasync_c.ChannelEmpty:
    print("nothing was sent")
"""


def test_ctrl_c_ends_every_blocking_wait():
    names = ["oneshot", "send", "recv", "broadcast", "watch"]
    assert python(CTRL_C).split("\n")[:-1] == [*names, "nothing was sent"]


def test_a_signal_handler_that_does_not_raise_lets_it_go_on():
    tx, rx = oneshot()
    seen = []

    def handler(*args):
        seen.append(1)
        tx.send("from the handler")

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident

    def send_signals():
        for _ in range(100):
            time.sleep(0.01)
            if seen:
                return
            signal.pthread_kill(main, signal.SIGUSR1)

    worker = Worker(send_signals)
    try:
        assert rx.blocking_recv(timeout=50) == "from the handler"
    finally:
        worker.result()
        signal.signal(signal.SIGUSR1, before)


# ── memory ───────────────────────────────────────────────────────────────────────────────────


class Thing:
    pass


def test_a_value_that_was_not_received_is_let_go():
    for end in ("tx, rx", "rx, tx"):
        thing = Thing()
        gone = weakref.ref(thing)
        tx, rx = oneshot()
        tx.send(thing)
        del thing
        ends = {"tx": tx, "rx": rx}
        del tx, rx
        for name in end.split(", "):
            del ends[name]
        assert gone() is None


def test_cycles_through_the_channel_are_collected():
    thing = Thing()
    gone = weakref.ref(thing)
    tx, thing.rx = oneshot()
    thing.tx = tx
    tx.send(thing)
    del thing, tx
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_references_balance():
    value = Thing()
    before = sys.getrefcount(value)
    for _ in range(100):
        tx, rx = oneshot()
        tx.send(value)
        assert rx.try_recv() is value
        tx, rx = oneshot()
        tx.send(value)
        tx, rx = oneshot()
        rx.close()
        with pytest.raises(ChannelClosed):
            tx.send(value)
    del tx, rx
    collect()
    assert sys.getrefcount(value) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class OneshotMachine(RuleBasedStateMachine):
    """The model: what was sent, who has gone, and whether the receiver is finished."""

    def __init__(self):
        super().__init__()
        self.tx, self.rx = oneshot()
        self.waiting = Polled(self.rx)
        self.value = None  # a 1-tuple once sent
        self.sender_gone = self.closed = self.finished = self.awaited = False

    def outcome(self, call):
        if self.value is not None and not self.finished:
            self.finished = self.closed = True
            assert call() == self.value[0]
            return True
        if self.sender_gone or self.closed:
            self.closed = True
            with pytest.raises(ChannelClosed):
                call()
            return True
        return False

    @precondition(lambda self: self.tx is not None)
    @rule(value=st.integers(), by_thread=st.booleans())
    def send(self, value, by_thread):
        def send():
            self.tx.send(value)

        def send_it():
            sync_machine.call(send, in_a_thread=by_thread)

        if self.value is not None:
            with pytest.raises(RuntimeError):
                send_it()
        elif self.closed:
            with pytest.raises(ChannelClosed):
                send_it()
        else:
            send_it()
            self.value = (value,)

    @precondition(lambda self: self.tx is not None)
    @rule(by_hand=st.booleans())
    def sender_goes(self, by_hand):
        if by_hand:
            self.tx.close()
        self.tx = None
        self.sender_gone = True

    @rule()
    def receiver_closes(self):
        self.rx.close()
        self.closed = True

    @rule()
    def try_recv(self):
        if not self.outcome(self.rx.try_recv):
            with pytest.raises(ChannelEmpty):
                self.rx.try_recv()

    @precondition(lambda self: not self.awaited)
    @rule()
    def poll(self):
        if self.outcome(self.waiting.poll):
            self.awaited = True
        else:
            assert self.waiting.poll() is PENDING

    @precondition(lambda self: not self.awaited)
    @rule()
    def cancel(self):
        with pytest.raises(asyncio.CancelledError):
            self.rx.__await__().throw(asyncio.CancelledError())


TestOneshotAgainstModel = OneshotMachine.TestCase
