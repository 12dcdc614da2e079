"""Lock: one holder, in order, no task waits for itself, nothing lost by cancelling."""

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
from pyasync_c import PENDING, Lock

ITSELF = "wait for itself"

# ── by hand ──────────────────────────────────────────────────────────────────────────────────


def test_try_acquire_and_release():
    lock = Lock()
    assert not lock.locked()
    assert lock.try_acquire() is True
    assert lock.locked()
    assert lock.try_acquire() is False
    lock.release()
    assert not lock.locked()


def test_release_of_what_is_not_locked():
    lock = Lock()
    with pytest.raises(RuntimeError, match="not locked"):
        lock.release()
    assert lock.try_acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="not locked"):
        lock.release()
    assert not lock.locked()


def test_handed_over_in_order():
    lock = Lock()
    assert lock.try_acquire()
    waiting = polled(lock.acquire() for _ in range(40))
    for k, one in enumerate(waiting):
        lock.release()
        assert [other.wakes for other in waiting] == [1] * (k + 1) + [0] * (39 - k)
        assert lock.try_acquire() is False  # handed over, not up for grabs
        assert one.poll() is True
    lock.release()
    assert not lock.locked()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_lock_handed_over_and_not_seen_goes_on(by_hand):
    lock = Lock()
    assert lock.try_acquire()
    first, second = polled(lock.acquire() for _ in range(2))
    lock.release()
    first.drop(by_hand)
    assert second.wakes == 1
    second.drop(by_hand)
    assert not lock.locked()


def test_repr():
    lock = Lock()
    assert repr(lock) == "<Lock unlocked>"
    acquire = Polled(lock.acquire())
    assert acquire.poll() is True
    assert repr(lock) == "<Lock locked waiters=0>"
    assert repr(acquire.future) == "<Acquire of <Lock locked waiters=0> done>"
    waiting = polled([lock.acquire()])
    assert repr(lock) == "<Lock locked waiters=1>"
    assert waiting


def test_weakly_referred_to():
    lock = Lock()
    ref = weakref.ref(lock)
    acquire = lock.acquire()
    del lock
    assert ref() is not None
    del acquire
    assert ref() is None


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_one_at_a_time_in_order(run):
    async def main():
        lock, log = Lock(), []

        async def worker(k):
            async with lock as nothing:
                assert nothing is None
                log.append(k)
                await turns(3)
                log.append(k)

        await asyncio.gather(*(worker(k) for k in range(8)))
        assert log == [k for k in range(8) for _ in range(2)]
        assert await lock.acquire() is True
        lock.release()
        with pytest.raises(KeyError):
            async with lock:
                raise KeyError
        assert not lock.locked()

    run(main())


@every_loop
def test_cancelled_at_each_stage(run):
    async def main():
        lock = Lock()

        async def acquires():
            async with lock:
                await pyasync_c.pending()

        for stage in ("not started", "waiting", "handed over", "holding"):
            await lock.acquire()
            task = asyncio.ensure_future(acquires())
            if stage != "not started":
                await turns()
            if stage in ("handed over", "holding"):
                lock.release()
            if stage == "holding":
                await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert lock.locked() == (stage in ("not started", "waiting"))
            if lock.locked():
                lock.release()
            assert repr(lock) == "<Lock unlocked>"

    run(main())


@every_loop
def test_a_task_that_holds_it_does_not_wait_for_itself(run):
    async def main():
        lock = Lock()
        for take in (lock.acquire, lambda: pyasync_c.ready(lock.try_acquire())):
            assert await take() is True
            with pytest.raises(RuntimeError, match=ITSELF):
                await lock.acquire()
            with pytest.raises(RuntimeError, match=ITSELF):
                async with lock:
                    pass
            assert repr(lock) == "<Lock locked waiters=0>"
            lock.release()
        async with lock:
            pass

    run(main())


@every_loop
def test_who_holds_it_is_forgotten_when_it_is_released(run):
    async def main():
        lock = Lock()

        async def holds_for(others):
            await lock.acquire()
            await others

        # Released by another task: this one may await it again.
        await lock.acquire()
        await asyncio.gather(asyncio.ensure_future(asyncio.to_thread(lock.release)))
        await lock.acquire()
        lock.release()
        # Its holder has ended, and its address may be in use again.
        for _ in range(8):
            await asyncio.ensure_future(holds_for(turns(1)))
            gc.collect()
            waiting = asyncio.ensure_future(holds_for(turns(1)))
            await turns(2)
            assert not waiting.done()
            lock.release()
            await waiting
            lock.release()

    run(main())


@every_loop
def test_a_child_that_waits_for_its_parent_is_not_noticed(run):
    async def main():
        lock = Lock()

        async def child():
            async with lock:
                return "in"

        async with lock:
            waiting = asyncio.ensure_future(child())
            await turns()
            assert not waiting.done()
        assert await waiting == "in"

    run(main())


@every_loop
def test_from_other_threads(run):
    async def main():
        lock, log = Lock(), []

        def releases():
            log.append("released")
            lock.release()

        for _ in range(100):
            await lock.acquire()
            worker = Worker(releases)
            task = asyncio.ensure_future(lock.acquire())
            assert await asyncio.wait_for(task, 60) is True
            worker.result()
            lock.release()
        assert len(log) == 100

    run(main())


def test_loops_on_several_threads_share_it():
    lock, count = Lock(), [0]

    async def main():
        async def worker():
            for _ in range(60):
                async with lock:
                    seen = count[0]
                    await asyncio.sleep(0)
                    count[0] = seen + 1

        await asyncio.gather(*(worker() for _ in range(3)))

    threads = [Worker(run, main()) for run in (pyasync_c.run, asyncio.run, pyasync_c.run)]
    for thread in threads:
        thread.result()
    assert count[0] == 3 * 3 * 60
    assert not lock.locked()


def test_a_lock_that_is_always_free_lets_others_run():
    async def main():
        lock, others = Lock(), []
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(100_000):
            async with lock:
                pass
            if others:
                break
        assert others

    pyasync_c.run(main())


@every_loop
def test_references_balance(run):
    lock = Lock()
    before = sys.getrefcount(lock)

    async def main():
        for _ in range(30):
            async with lock:
                tasks = [asyncio.ensure_future(lock.acquire()) for _ in range(3)]
                await turns(2)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    gc.collect()
    assert sys.getrefcount(lock) == before


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_runtime_that_is_given_up_with_waiters():
    """No cycle through a lock keeps the tasks alive, neither its holder nor who waits."""

    class Mark:
        pass

    async def holds(lock, mark):
        async with lock:
            await pyasync_c.pending()

    lock, refs = Lock(), []

    async def main():
        for _ in range(3):
            mark = Mark()
            refs.append(weakref.ref(mark))
            pyasync_c.spawn(holds(lock, mark))
        await turns()

    runtime = pyasync_c.Runtime()
    runtime.run(main())
    del runtime
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    assert not lock.locked()


# ── against a model ──────────────────────────────────────────────────────────────────────────


class LockMachine(RuleBasedStateMachine):
    """Model: whether it is locked, the line, and who was handed it."""

    waiters = Bundle("waiters")

    def __init__(self):
        super().__init__()
        self.lock = Lock()
        self.locked = False
        self.line = []
        self.given = set()
        self.wakes = {}
        self.all = []

    @rule(target=waiters)
    def acquire(self):
        one = Polled(self.lock.acquire())
        self.all.append(one)
        self.wakes[one] = 0
        return one

    @rule(one=waiters)
    def poll(self, one):
        if one.value is True or one.future is None:
            return
        if one in self.given or (not self.locked and one not in self.line):
            self.given.discard(one)
            self.locked = True
            assert one.poll() is True
        else:
            if one not in self.line:
                self.line.append(one)
            assert one.poll() is PENDING

    def pass_on(self):
        if self.line:
            first = self.line.pop(0)
            self.given.add(first)
            self.wakes[first] += 1
        else:
            self.locked = False

    @rule(one=consumes(waiters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def cancel(self, one, by_hand, in_a_thread):
        call(one.drop, by_hand, in_a_thread=in_a_thread)
        if one in self.line:
            self.line.remove(one)
        elif one in self.given:
            self.given.remove(one)
            self.pass_on()

    @rule(in_a_thread=st.booleans())
    def try_acquire(self, in_a_thread):
        assert call(self.lock.try_acquire, in_a_thread=in_a_thread) == (not self.locked)
        self.locked = True

    @rule(in_a_thread=st.booleans())
    def release(self, in_a_thread):
        if self.given:
            return  # it would be released for one that has not seen it
        if self.locked:
            call(self.lock.release, in_a_thread=in_a_thread)
            self.pass_on()
        else:
            with pytest.raises(RuntimeError, match="not locked"):
                self.lock.release()

    @invariant()
    def the_same_were_woken(self):
        assert [one.wakes for one in self.all] == [self.wakes[one] for one in self.all]

    @invariant()
    def the_same_is_locked(self):
        expected = f"locked waiters={len(self.line)}" if self.locked else "unlocked"
        assert repr(self.lock) == f"<Lock {expected}>"


TestLockAgainstModel = LockMachine.TestCase
