"""RwLock: many readers or one writer, in order, nothing lost by cancelling."""

import asyncio
import gc
import sys
import weakref

import pytest
from helpers import Worker, every_loop, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sync_machine import Polled, call, polled

import pyasync_c
from pyasync_c import PENDING, Permit, RwLock

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_readers_or_a_writer():
    rw = RwLock()
    first, second = rw.try_read(), rw.try_read()
    assert isinstance(first, Permit)
    assert repr(first) == "<Permit to read>"
    assert rw.try_write() is None
    first.release()
    assert rw.try_write() is None
    second.release()
    with rw.try_write() as permit:
        assert repr(permit) == "<Permit to write>"
        assert rw.try_write() is None
        assert rw.try_read() is None
    assert repr(rw) == "<RwLock unlocked>"


def test_writers_do_not_starve():
    rw = RwLock()
    reader = rw.try_read()
    writer, *late = polled([rw.write(), rw.read(), rw.read(), rw.write()])
    assert rw.try_read() is None
    reader.release()
    assert isinstance(writer.poll(), Permit)
    assert [one.poll() for one in late] == [PENDING] * 3
    writer.value.release()
    assert [one.wakes for one in late] == [1, 1, 0]
    assert [repr(one.poll()) for one in late[:2]] == ["<Permit to read>"] * 2
    late[0].value.release()
    assert late[2].poll() is PENDING
    late[1].value.release()
    assert repr(late[2].poll()) == "<Permit to write>"


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_dropped_writer_lets_readers_in(by_hand):
    rw = RwLock()
    reader = rw.try_read()
    writer, late = polled([rw.write(), rw.read()])
    writer.drop(by_hand)
    assert late.wakes == 1
    assert isinstance(late.poll(), Permit)
    assert repr(rw) == "<RwLock readers=2>"
    reader.release()


@pytest.mark.parametrize("kind", [RwLock.read, RwLock.write])
def test_a_lock_handed_over_and_not_seen_goes_on(kind):
    rw = RwLock()
    writer = rw.try_write()
    first, second = polled([kind(rw), rw.write()])
    writer.release()
    assert (first.wakes, second.wakes) == (1, 0)
    first.drop(True)
    assert second.wakes == 1
    second.drop(True)
    assert repr(rw) == "<RwLock unlocked>"


def test_many_readers_go_in_together():
    rw = RwLock()
    writer = rw.try_write()
    waiting = polled(rw.read() for _ in range(70))
    assert repr(rw) == "<RwLock locked waiters=70>"
    writer.release()
    assert all(isinstance(one.poll(), Permit) for one in waiting)
    assert repr(rw) == "<RwLock readers=70>"
    waiting.clear()
    assert repr(rw) == "<RwLock unlocked>"


def test_released_twice():
    rw = RwLock()
    for take in (rw.try_read, rw.try_write):
        permit = take()
        permit.release()
        with pytest.raises(RuntimeError, match="released already"):
            permit.release()
        assert repr(rw) == "<RwLock unlocked>"


def test_weakly_referred_to():
    rw = RwLock()
    ref, permit = weakref.ref(rw), rw.try_write()
    del rw
    assert ref() is not None
    del permit
    assert ref() is None


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_readers_together_writers_alone(run):
    async def main():
        rw, readers, writers, together = RwLock(), 0, 0, 0

        async def reads(k):
            nonlocal readers, together
            for _ in range(4):
                async with rw.read():
                    readers += 1
                    together = max(together, readers)
                    assert writers == 0
                    await turns(1 + k % 3)
                    readers -= 1

        async def writes():
            nonlocal writers
            for _ in range(4):
                async with rw.write() as permit:
                    assert isinstance(permit, Permit)
                    writers += 1
                    assert (readers, writers) == (0, 1)
                    await turns(2)
                    writers -= 1

        await asyncio.gather(*(reads(k) for k in range(5)), *(writes() for _ in range(3)))
        assert together > 1
        assert repr(rw) == "<RwLock unlocked>"

    run(main())


@every_loop
def test_the_body_ends_in_every_way(run):
    async def main():
        rw = RwLock()
        for make in (rw.read, rw.write):
            with pytest.raises(KeyError):
                async with make():
                    raise KeyError
            async with make() as permit:
                permit.release()
            permit = await make()
            assert repr(rw) != "<RwLock unlocked>"
            permit.release()
            assert repr(rw) == "<RwLock unlocked>"

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        rw = RwLock()

        async def acquires(make):
            async with make():
                await pyasync_c.pending()

        for make in (rw.read, rw.write):
            for stage in ("not started", "waiting", "handed over", "holding"):
                permit = await rw.write()
                task = asyncio.ensure_future(acquires(make))
                if stage != "not started":
                    await turns()
                if stage in ("handed over", "holding"):
                    permit.release()
                if stage == "holding":
                    await turns()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if stage in ("not started", "waiting"):
                    assert repr(rw) == "<RwLock locked waiters=0>"
                    permit.release()
                assert repr(rw) == "<RwLock unlocked>"

    run(main())


@every_loop
def test_a_writer_does_not_wait_for_itself(run):
    async def main():
        rw = RwLock()
        for take in (rw.write, lambda: pyasync_c.ready(rw.try_write())):
            permit = await take()
            for make in (rw.read, rw.write):
                with pytest.raises(RuntimeError, match="wait for itself"):
                    await make()
                with pytest.raises(RuntimeError, match="wait for itself"):
                    async with make():
                        pass
            permit.release()
        async with rw.read(), rw.read():
            pass

    run(main())


def test_threads_and_loops_share_it():
    rw, value = RwLock(), [0, 0]

    async def main():
        async def writes():
            for _ in range(40):
                async with rw.write():
                    value[0] += 1
                    await asyncio.sleep(0)
                    value[1] += 1

        async def reads():
            for _ in range(40):
                async with rw.read():
                    assert value[0] == value[1]
                    await asyncio.sleep(0)

        await asyncio.gather(writes(), reads(), reads())

    threads = [Worker(run, main()) for run in (pyasync_c.run, asyncio.run, pyasync_c.run)]
    for thread in threads:
        thread.result()
    assert value == [120, 120]
    assert repr(rw) == "<RwLock unlocked>"


@every_loop
def test_references_balance(run):
    rw = RwLock()
    before = sys.getrefcount(rw)

    async def main():
        for make in (rw.read, rw.write) * 20:
            async with make():
                tasks = [asyncio.ensure_future(rw.write()) for _ in range(3)]
                await turns(2)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    gc.collect()
    assert sys.getrefcount(rw) == before


# ── against a model ──────────────────────────────────────────────────────────────────────────


class RwLockMachine(RuleBasedStateMachine):
    """Model: what is held, counting what was handed over and not seen, and the line."""

    waiters = Bundle("waiters")
    permits = Bundle("permits")

    def __init__(self):
        super().__init__()
        self.rw = RwLock()
        self.readers = 0
        self.writing = False
        self.line = []
        self.given = []
        self.kind = {}
        self.wakes = {}

    def fits(self, kind):
        return not self.writing and (kind == "read" or not self.readers)

    def take(self, kind):
        self.readers += kind == "read"
        self.writing |= kind == "write"

    def give_back(self, kind):
        self.readers -= kind == "read"
        self.writing &= kind != "write"
        self.hand_out()

    def hand_out(self):
        while self.line and self.fits(self.kind[self.line[0]]):
            first = self.line.pop(0)
            self.take(self.kind[first])
            self.given.append(first)
            self.wakes[first] += 1

    @rule(target=waiters, kind=st.sampled_from(["read", "write"]))
    def acquire(self, kind):
        one = Polled(getattr(self.rw, kind)())
        self.kind[one], self.wakes[one] = kind, 0
        return one

    @rule(target=permits, one=consumes(waiters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def poll_or_cancel(self, one, by_hand, in_a_thread):
        kind = self.kind[one]
        at_once = one not in self.line and not self.line and self.fits(kind)
        if one in self.given or at_once:
            if one in self.given:
                self.given.remove(one)
            else:
                self.take(kind)
            permit = one.poll()
            assert repr(permit) == f"<Permit to {kind}>"
            one.value = one.future = None
            return [permit, kind]
        assert one.poll() is PENDING
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        if one in self.line:
            self.line.remove(one)
        self.hand_out()
        return [None, None]

    @rule(one=waiters)
    def stand_in_the_line(self, one):
        if one not in self.given and (
            one in self.line or self.line or not self.fits(self.kind[one])
        ):
            if one not in self.line:
                self.line.append(one)
            assert one.poll() is PENDING

    @rule(one=consumes(waiters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, one, by_hand, in_a_thread):
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        if one in self.line:
            self.line.remove(one)
            self.hand_out()
        elif one in self.given:
            self.given.remove(one)
            self.give_back(self.kind[one])

    @rule(target=permits, kind=st.sampled_from(["read", "write"]), in_a_thread=st.booleans())
    def try_acquire(self, kind, in_a_thread):
        permit = call(getattr(self.rw, f"try_{kind}"), in_a_thread=in_a_thread)
        assert (permit is not None) == (not self.line and self.fits(kind))
        if permit is None:
            return [None, None]
        self.take(kind)
        return [permit, kind]

    @rule(permit=consumes(permits), collected=st.booleans(), in_a_thread=st.booleans())
    def release(self, permit, collected, in_a_thread):
        if permit[0] is None:
            return
        if collected:
            permit[0] = None
        else:
            call(permit[0].release, in_a_thread=in_a_thread)
        self.give_back(permit[1])

    @invariant()
    def the_same_were_woken(self):
        assert {one: one.wakes for one in self.wakes} == self.wakes

    @invariant()
    def the_same_is_held(self):
        first_writes = self.line and self.kind[self.line[0]] == "write"
        if self.writing or first_writes:
            expected = f"locked waiters={len(self.line)}"
        else:
            expected = f"readers={self.readers}" if self.readers else "unlocked"
        assert repr(self.rw) == f"<RwLock {expected}>"


TestRwLockAgainstModel = RwLockMachine.TestCase
