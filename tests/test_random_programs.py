"""Random programs of several tasks that use many tools at once, on the virtual clock.

What has to hold for each: every value that was sent is received once or still there, each sender's
in their order; permits come back, and never more are held than there are; no wait ends early or
late on the virtual clock; nobody is left waiting, and no task; the same seed does the same again.
Every wait has an end of its own, so none may be a deadlock.
"""

import asyncio

import pytest
import sync_machine
from helpers import drain
from hypothesis import given, strategies as st

import pyasync_c
from pyasync_c import ChannelFull, join, now, select, sleep, timeout

PERMITS = 3
TOLERANCE = 1e-6  # of adding floats

TIMES = st.integers(0, 20).map(lambda ms: ms / 1000)
STEPS = st.one_of(
    st.tuples(st.just("sleep"), TIMES),
    st.tuples(st.just("send"), TIMES),
    st.tuples(st.just("try_send"), st.booleans()),
    st.tuples(st.just("recv"), TIMES),
    st.tuples(st.just("recv_many"), TIMES, st.integers(1, 4)),
    st.tuples(st.just("permits"), TIMES, st.integers(1, PERMITS), TIMES),
    st.tuples(st.just("try_acquire"), st.booleans()),
    st.tuples(st.just("notified"), TIMES),
    st.tuples(st.sampled_from(["notify_one", "notify_waiters"]), st.booleans()),
    st.tuples(st.just("select"), TIMES),
    st.tuples(st.just("join"), TIMES, TIMES),
    st.tuples(st.just("spawn"), TIMES),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
)
PROGRAMS = st.lists(st.lists(STEPS, max_size=8), min_size=1, max_size=6)


class Program:
    """One run of the tasks' steps; what they saw is checked as they go, and in `check`."""

    def __init__(self, programs):
        self.programs = programs
        self.trace = []
        self.tx, self.rx = pyasync_c.channel(2)
        self.semaphore, self.held = pyasync_c.Semaphore(PERMITS), 0
        self.notify = pyasync_c.Notify()
        self.sent, self.received = [], []
        self.tasks = []

    def note(self, *what):
        self.trace.append((round(now(), 9), *what))

    async def within(self, seconds, future):
        """Its value, or None after `seconds`, which are then over, and only just."""
        begin = now()
        try:
            async with timeout(seconds):
                return await future
        except TimeoutError:
            assert now() == pytest.approx(begin + seconds, abs=TOLERANCE)
            return None
        finally:
            assert now() <= begin + seconds + TOLERANCE

    async def sleeps(self, future, seconds):
        begin = now()
        value = await future
        assert now() == pytest.approx(begin + seconds, abs=TOLERANCE)
        return value

    async def step(self, value, what, *args):
        if what == "sleep":
            await self.sleeps(sleep(args[0]), args[0])
        elif what == "send":
            future = self.tx.send(value)
            try:
                await self.within(args[0], future)
            finally:
                if future.sent:
                    self.sent.append(value)
        elif what == "try_send":
            try:
                sync_machine.call(self.tx.try_send, value, in_a_thread=args[0])
                self.sent.append(value)
            except ChannelFull:
                pass
        elif what == "recv":
            got = await self.within(args[0], self.rx.recv())
            self.received += [] if got is None else [got]
        elif what == "recv_many":
            self.received += await self.within(args[0], self.rx.recv_many(args[1])) or []
        elif what == "permits":
            permit = await self.within(args[0], self.semaphore.acquire(args[1]))
            if permit is not None:
                with permit:
                    self.held += args[1]
                    assert self.held <= PERMITS
                    try:
                        await sleep(args[2])
                    finally:
                        self.held -= args[1]
        elif what == "try_acquire":
            permit = self.semaphore.try_acquire()
            if permit is not None:
                sync_machine.call(permit.release, in_a_thread=args[0])
        elif what == "notified":
            await self.within(args[0], self.notify.notified())
        elif what in ("notify_one", "notify_waiters"):
            sync_machine.call(getattr(self.notify, what), in_a_thread=args[0])
        elif what == "select":
            begin = now()
            which, got = await select(self.notify.notified(), self.rx.recv(), sleep(args[0]))
            self.note("selected", which)
            if which == 1:
                self.received.append(got)
            elif which == 2:
                assert now() == pytest.approx(begin + args[0], abs=TOLERANCE)
        elif what == "join":
            both = join(sleep(args[0], "a"), self.sleeps(sleep(args[1], "b"), args[1]))
            assert await self.sleeps(both, max(args)) == ("a", "b")
        elif what == "spawn":
            await self.sleeps(pyasync_c.spawn(self.sleeps(sleep(*args), *args)), args[0])
        elif what == "cancel":
            self.tasks[args[0] % len(self.tasks)].cancel()

    async def run_steps(self, number, steps):
        for i, (what, *args) in enumerate(steps):
            self.note("begins", number, i)
            try:
                await self.step((number, i), what, *args)
            finally:
                self.note("ends", number, i)

    async def main(self):
        self.tasks = [
            pyasync_c.spawn(self.run_steps(number, steps))
            for number, steps in enumerate(self.programs)
        ]
        await asyncio.wait(self.tasks)
        for task in self.tasks:
            if not task.cancelled():
                task.result()
        await sleep(0.1)  # children whose awaiting task was cancelled
        assert pyasync_c.all_tasks() == {pyasync_c.current_task()}

    def check(self):
        received = self.received + drain(self.rx)[0]
        assert sorted(received) == sorted(self.sent)
        for number in range(len(self.programs)):
            mine = [i for sender, i in received if sender == number]
            assert mine == sorted(mine)
        assert repr(self.semaphore) == f"<Semaphore permits={PERMITS} waiters=0>"
        assert "waiters=0 " in repr(self.notify)


def run_program(seed, programs):
    program = Program(programs)
    with pyasync_c.Runtime(clock="virtual", seed=seed) as runtime:
        runtime.run(program.main())
    program.check()
    return program.trace, program.sent, program.received


@given(seed=st.none() | st.integers(0, 2**32), programs=PROGRAMS)
def test_many_tools_at_once(seed, programs):
    assert run_program(seed, programs) == run_program(seed, programs)
