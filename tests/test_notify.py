"""Notify: Tokio's semantics, and nothing lost between threads."""

import asyncio
import gc
import threading
import weakref

import pytest
from helpers import CountingWaker, Worker, every_loop, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sync_machine import call

import pyasync_c
from pyasync_c import PENDING, Notify

# ── by hand: one waker, no loop ──────────────────────────────────────────────────────────────


class Waiter:
    """A Notified with a waker of its own."""

    def __init__(self, notify):
        self.notified = notify.notified()
        self.counting = CountingWaker()

    def poll(self):
        """True if ready."""
        value = self.notified.poll(self.counting.context)
        assert value is None or value is PENDING
        return value is None

    @property
    def wakes(self):
        return self.counting.count

    def drop(self, by_hand):
        """As a task that is cancelled does it; or as the collector does."""
        if by_hand:
            self.notified.drop()
        self.notified = None


def waiting(notify, count):
    waiters = [Waiter(notify) for _ in range(count)]
    assert not any(waiter.poll() for waiter in waiters)
    return waiters


def test_a_permit_is_stored():
    notify = Notify()
    notify.notify_one()
    assert Waiter(notify).poll()
    assert not Waiter(notify).poll()


def test_there_is_never_more_than_one_permit():
    notify = Notify()
    for _ in range(5):
        notify.notify_one()
    notify.notify_last()
    assert Waiter(notify).poll()
    assert not Waiter(notify).poll()


def test_notify_one_is_first_in_first_out():
    notify = Notify()
    a, b, c = waiting(notify, 3)
    notify.notify_one()
    assert [a.wakes, b.wakes, c.wakes] == [1, 0, 0]
    notify.notify_one()
    assert [a.wakes, b.wakes, c.wakes] == [1, 1, 0]
    assert [a.poll(), b.poll(), c.poll()] == [True, True, False]


def test_notify_last_is_last_in_first_out():
    notify = Notify()
    a, b, c = waiting(notify, 3)
    notify.notify_last()
    assert [a.wakes, b.wakes, c.wakes] == [0, 0, 1]
    assert [a.poll(), b.poll(), c.poll()] == [False, False, True]


def test_notify_last_stores_a_permit_too():
    notify = Notify()
    notify.notify_last()
    assert Waiter(notify).poll()


def test_notify_waiters_wakes_all_and_stores_nothing():
    notify = Notify()
    waiters = waiting(notify, 100)
    notify.notify_waiters()
    assert [waiter.wakes for waiter in waiters] == [1] * 100
    assert all(waiter.poll() for waiter in waiters)
    assert not Waiter(notify).poll()


def test_notify_waiters_counts_from_the_call_of_notified():
    notify = Notify()
    before = Waiter(notify)
    notify.notify_waiters()
    after = Waiter(notify)
    assert before.poll()
    assert not after.poll()


def test_notify_waiters_leaves_a_permit_alone():
    notify = Notify()
    notify.notify_one()
    broadcast = Waiter(notify)
    notify.notify_waiters()
    assert broadcast.poll()  # by the broadcast, not with the permit
    assert Waiter(notify).poll()
    assert not Waiter(notify).poll()


def test_notify_one_does_not_reach_what_was_not_polled():
    notify = Notify()
    unpolled = Waiter(notify)
    (waiter,) = waiting(notify, 1)
    notify.notify_one()
    assert waiter.poll()
    assert not unpolled.poll()


def test_enable_takes_a_place_in_the_line():
    notify = Notify()
    first = Waiter(notify)
    assert first.notified.enable() is False
    (second,) = waiting(notify, 1)
    notify.notify_one()
    assert second.wakes == 0
    assert first.notified.enable() is True
    assert first.poll()
    assert not second.poll()


def test_enable_takes_a_permit():
    notify = Notify()
    notify.notify_one()
    waiter = Waiter(notify)
    assert waiter.notified.enable() is True
    assert not Waiter(notify).poll()
    assert waiter.notified.enable() is True
    assert waiter.poll()


def test_enable_after_a_broadcast():
    notify = Notify()
    notify.notify_one()
    waiter = Waiter(notify)
    notify.notify_waiters()
    assert waiter.notified.enable() is True
    assert Waiter(notify).poll()  # the permit is still there


def test_ready_again_once_it_was_ready():
    notify = Notify()
    notify.notify_one()
    waiter = Waiter(notify)
    assert [waiter.poll() for _ in range(3)] == [True] * 3
    assert not Waiter(notify).poll()


@pytest.mark.parametrize("let_go", ["drop", "forget"])
@pytest.mark.parametrize("notify_by", ["notify_one", "notify_last"])
def test_a_dropped_waiter_passes_its_notification_on(let_go, notify_by):
    notify = Notify()
    waiters = waiting(notify, 3)
    getattr(notify, notify_by)()
    chosen, following = (0, 1) if notify_by == "notify_one" else (2, 1)
    assert waiters[chosen].wakes == 1
    if let_go == "drop":
        waiters[chosen].notified.drop()
    else:
        waiters[chosen].notified = None
    # With the same strategy: to the next from the same end.
    assert [waiter.wakes for waiter in waiters] == [
        1 if k in (chosen, following) else 0 for k in range(3)
    ]
    assert waiters[following].poll()


def test_a_dropped_waiter_leaves_a_permit_if_nobody_follows():
    notify = Notify()
    (waiter,) = waiting(notify, 1)
    notify.notify_one()
    waiter.notified.drop()
    assert Waiter(notify).poll()


def test_a_dropped_waiter_does_not_pass_on_what_it_has_seen():
    notify = Notify()
    a, b = waiting(notify, 2)
    notify.notify_one()
    assert a.poll()
    a.notified.drop()
    assert not b.poll()


def test_a_broadcast_is_not_passed_on():
    notify = Notify()
    a, b = waiting(notify, 2)
    notify.notify_waiters()
    late = Waiter(notify)
    assert not late.poll()
    a.notified.drop()
    assert not late.poll()
    assert b.poll()


def test_a_dropped_waiter_that_was_not_notified_leaves_the_line():
    notify = Notify()
    a, b, c = waiting(notify, 3)
    b.notified.drop()
    notify.notify_one()
    notify.notify_one()
    assert a.poll() and c.poll()
    assert b.wakes == 0
    assert repr(notify) == "<Notify waiters=0 permit=no>"


def test_after_drop():
    waiter = Waiter(Notify())
    waiter.notified.drop()
    with pytest.raises(RuntimeError, match="dropped"):
        waiter.poll()
    with pytest.raises(RuntimeError, match="dropped"):
        waiter.notified.enable()
    waiter.notified.drop()


def test_only_the_newest_waker_is_woken():
    notify = Notify()
    notified = notify.notified()
    old, new = CountingWaker(), CountingWaker()
    assert notified.poll(old.context) is PENDING
    assert notified.poll(new.context) is PENDING
    assert notified.poll(new.context) is PENDING
    notify.notify_one()
    assert (old.count, new.count) == (0, 1)


def test_a_waker_that_notifies_again_while_it_is_called():
    notify = Notify()
    order = []

    def waiter(name):
        def wake():
            order.append(name)
            notify.notify_one()

        return notify.notified(), pyasync_c.Context(pyasync_c.Waker(wake))

    waiters = [waiter(name) for name in range(5)]
    for notified, context in waiters:
        assert notified.poll(context) is PENDING
    notify.notify_one()
    assert order == [0, 1, 2, 3, 4]
    assert repr(notify) == "<Notify waiters=0 permit=yes>"


def test_one_broadcast_does_not_reach_those_made_while_it_wakes():
    # More than one batch of wakers.
    notify = Notify()
    late = []

    def wake():
        late.append(notify.notified())

    context = pyasync_c.Context(pyasync_c.Waker(wake))
    waiters = [notify.notified() for _ in range(70)]
    for notified in waiters:
        assert notified.poll(context) is PENDING
    notify.notify_waiters()
    assert len(late) == 70
    quiet = CountingWaker()
    assert all(notified.poll(quiet.context) is PENDING for notified in late)
    assert all(notified.poll(quiet.context) is None for notified in waiters)


def test_a_broadcast_is_atomic():
    # Whoever one of its wakers looks at is ready, though its own waker has not been called yet.
    notify = Notify()
    quiet = CountingWaker()
    seen = []

    def wake():
        if not seen:
            seen.extend(notified.poll(quiet.context) for notified in waiters)

    context = pyasync_c.Context(pyasync_c.Waker(wake))
    waiters = [notify.notified() for _ in range(70)]
    unpolled = [notify.notified() for _ in range(3)]
    for notified in waiters:
        notified.poll(context)
    waiters.extend(unpolled)
    notify.notify_waiters()
    assert seen == [None] * 73


def test_a_waker_that_drops_waiters_during_a_broadcast():
    notify = Notify()
    waiters = []

    def wake():
        waiters.clear()

    context = pyasync_c.Context(pyasync_c.Waker(wake))
    waiters.extend(notify.notified() for _ in range(100))
    for notified in list(waiters):
        notified.poll(context)
    del notified
    notify.notify_waiters()
    assert waiters == []
    assert repr(notify) == "<Notify waiters=0 permit=no>"


def test_notified_keeps_its_notify():
    notified = Notify().notified()
    gc.collect()
    assert notified.poll(CountingWaker().context) is PENDING


def test_notify_is_freed():
    notify = Notify()
    ref = weakref.ref(notify)
    waiters = waiting(notify, 3)
    del notify
    assert ref() is not None
    waiters.clear()
    gc.collect()
    assert ref() is None


def test_repr():
    notify = Notify()
    notified = notify.notified()
    assert repr(notified) == "<Notified not polled yet>"
    notified.enable()
    assert repr(notified) == "<Notified waiting>"
    assert repr(notify) == "<Notify waiters=1 permit=no>"
    notify.notify_one()
    notified.enable()
    assert repr(notified) == "<Notified notified>"
    notify.notify_one()
    assert repr(notify) == "<Notify waiters=0 permit=yes>"
    notified.drop()
    assert repr(notified) == "<Notified dropped>"


@pytest.mark.parametrize("arguments", [(1,), (None,)])
def test_takes_no_arguments(arguments):
    with pytest.raises(TypeError, match="takes no arguments"):
        Notify(*arguments)
    with pytest.raises(TypeError):
        Notify().notify_one(*arguments)


# ── awaited ──────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_either_order_of_notify_and_await(run):
    async def main():
        notify = Notify()
        notify.notify_one()
        await notify.notified()
        asyncio.get_running_loop().call_soon(notify.notify_one)
        await notify.notified()

    run(main())


@every_loop
def test_waiting_tasks_are_woken_in_order(run):
    log = []

    async def waits(notify, name):
        await notify.notified()
        log.append(name)

    async def main():
        notify = Notify()
        tasks = [asyncio.ensure_future(waits(notify, name)) for name in range(20)]
        await turns()
        for _ in range(3):
            notify.notify_one()
        await turns()
        assert log == [0, 1, 2]
        notify.notify_last()
        await turns()
        assert log == [0, 1, 2, 19]
        notify.notify_waiters()
        await asyncio.gather(*tasks)
        assert log == [0, 1, 2, 19, *range(3, 19)]

    run(main())


@every_loop
def test_a_cancelled_task_gives_its_permit_back(run):
    log = []

    async def waits(notify, name):
        await notify.notified()
        log.append(name)

    async def main():
        notify = Notify()
        first = asyncio.ensure_future(waits(notify, "first"))
        second = asyncio.ensure_future(waits(notify, "second"))
        await turns()
        notify.notify_one()  # goes to the first, which never comes to see it
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await second
        assert log == ["second"]
        third = asyncio.ensure_future(waits(notify, "third"))
        await turns()
        notify.notify_one()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        if not log[1:]:
            await notify.notified()  # the permit is there again

    run(main())


@every_loop
def test_a_cancelled_task_leaves_the_line(run):
    async def main():
        notify = Notify()
        tasks = [asyncio.ensure_future(notify.notified()) for _ in range(5)]
        await turns()
        for task in tasks[:4]:
            task.cancel()
        await asyncio.gather(*tasks[:4], return_exceptions=True)
        assert repr(notify) == "<Notify waiters=1 permit=no>"
        notify.notify_one()
        await tasks[4]

    run(main())


@every_loop
def test_one_broadcast_does_not_end_two_waits_of_one_task(run):
    log = []

    async def waits(notify):
        await notify.notified()
        log.append(1)
        await notify.notified()
        log.append(2)

    async def main():
        notify = Notify()
        task = asyncio.ensure_future(waits(notify))
        await turns()
        notify.notify_waiters()
        await turns(20)
        assert log == [1]
        notify.notify_waiters()
        await task

    run(main())


def test_a_task_that_takes_its_own_permits_lets_others_run():
    async def main():
        notify = Notify()
        others = []
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(100_000):
            notify.notify_one()
            await notify.notified()
            if others:
                break
        assert others

    pyasync_c.run(main())


def test_a_delay_made_of_a_thread_and_a_notify():
    async def main():
        for _ in range(200):
            notify = Notify()
            threading.Thread(target=notify.notify_one).start()
            await notify.notified()

    pyasync_c.run(main())


def test_a_queue_of_enable_check_await():
    """The pattern that Tokio documents for a channel: nothing is lost with many of each side."""
    items, taken = [], []

    async def receive(notify):
        while True:
            notified = notify.notified()
            notified.enable()
            if items:
                taken.append(items.pop(0))
                if taken[-1] is None:
                    return
                continue
            await notified

    async def send(notify, values):
        for value in values:
            items.append(value)
            notify.notify_one()
            if value % 7 == 0:
                await pyasync_c.yield_now()

    async def main():
        notify = Notify()
        receivers = [pyasync_c.spawn(receive(notify)) for _ in range(5)]
        await asyncio.gather(*(send(notify, range(k, 3000, 3)) for k in range(3)))
        for _ in receivers:
            items.append(None)
            notify.notify_one()
        await asyncio.wait_for(asyncio.gather(*receivers), 60)

    pyasync_c.run(main())
    assert sorted(value for value in taken if value is not None) == list(range(3000))


# ── from other threads ───────────────────────────────────────────────────────────────────────


@every_loop
def test_a_hundred_thousand_wakes_from_other_threads(run):
    """Ping and pong: a wake that is lost stops it for good."""
    rounds, threads = 25_000 if run is pyasync_c.run else 5_000, 4

    def answer(ping, pong):
        for _ in range(rounds):
            ping.acquire()
            pong.notify_one()

    async def play(ping, pong):
        for _ in range(rounds):
            ping.release()
            await pong.notified()

    async def main():
        pairs = [(threading.Semaphore(0), Notify()) for _ in range(threads)]
        workers = [Worker(answer, *pair) for pair in pairs]
        await asyncio.wait_for(asyncio.gather(*(play(*pair) for pair in pairs)), 100)
        for worker in workers:
            worker.result()

    run(main())


def test_one_notify_between_many_threads_and_tasks():
    """As many permits come back as waits end: each notify_one waits until it was consumed."""
    rounds, threads = 2_000, 4
    notify, consumed = Notify(), threading.Semaphore(0)
    once = threading.Lock()

    def notifier():
        for _ in range(rounds):
            with once:
                notify.notify_one()
                assert consumed.acquire(timeout=60)

    async def consumer(count):
        while count:
            await notify.notified()
            count -= 1
            consumed.release()

    async def main():
        workers = [Worker(notifier) for _ in range(threads)]
        consumers = [pyasync_c.spawn(consumer(rounds)) for _ in range(threads)]
        await asyncio.wait_for(asyncio.gather(*consumers), 100)
        for worker in workers:
            worker.result()

    pyasync_c.run(main())


def test_broadcasts_from_a_thread_reach_every_task():
    rounds, tasks = 300, 40
    notify = Notify()

    async def main():
        arrived = [0]

        async def waits():
            for k in range(rounds):
                notified = notify.notified()
                arrived[0] += 1
                if arrived[0] == tasks * (k + 1):
                    pending_rounds.release()
                await notified

        pending_rounds = threading.Semaphore(0)

        def broadcaster():
            for _ in range(rounds):
                assert pending_rounds.acquire(timeout=60)
                notify.notify_waiters()

        worker = Worker(broadcaster)
        await asyncio.wait_for(asyncio.gather(*(waits() for _ in range(tasks))), 100)
        worker.result()

    pyasync_c.run(main())


def test_notified_from_a_thread_while_tasks_are_cancelled():
    """A permit handed to a task that is cancelled just then must reach another one."""
    rounds = 3_000
    notify, asked = Notify(), threading.Semaphore(0)

    def notifier():
        for _ in range(rounds):
            asked.acquire()
            notify.notify_one()

    async def main():
        worker = Worker(notifier)
        for k in range(rounds):
            doomed = asyncio.ensure_future(notify.notified())
            await pyasync_c.yield_now()
            asked.release()
            for _ in range(k % 4):
                await pyasync_c.yield_now()
            doomed.cancel()
            (outcome,) = await asyncio.gather(doomed, return_exceptions=True)
            if outcome is not None:  # cancelled: the permit must still come
                await asyncio.wait_for(notify.notified(), 60)
        worker.result()
        assert repr(notify) == "<Notify waiters=0 permit=no>"

    pyasync_c.run(main())


# ── against a model ──────────────────────────────────────────────────────────────────────────


class Model:
    """Notify in plain Python: what is written in its documentation, and nothing else."""

    def __init__(self):
        self.permit = False
        self.generation = 0
        self.line = []

    def notify(self, end):
        if self.line:
            waiter = self.line.pop(end)
            waiter.given = end
            waiter.wake()
        else:
            self.permit = True

    def notify_waiters(self):
        self.generation += 1
        woken, self.line = self.line, []
        for waiter in woken:
            waiter.wake()


class ModelWaiter:
    def __init__(self, model):
        self.model = model
        self.generation = model.generation
        self.given = None  # by which end of the line it was notified, and has not seen it
        self.state = "new"
        self.polled = False
        self.wakes = 0

    def wake(self):
        self.state = "notified"
        self.wakes += self.polled

    def look(self):
        """enable(), and what a poll finds."""
        model = self.model
        if self.state == "new":
            if self.generation != model.generation:
                self.state = "done"
            elif model.permit:
                model.permit = False
                self.state = "done"
            else:
                model.line.append(self)
                self.state = "waiting"
        elif self.state == "notified":
            self.given = None
            self.state = "done"
        return self.state == "done"

    def poll(self):
        ready = self.look()
        self.polled = not ready
        return ready

    def drop(self):
        if self.state == "waiting":
            self.model.line.remove(self)
        if self.given is not None:
            self.model.notify(self.given)
        self.state = "dropped"


class NotifyMachine(RuleBasedStateMachine):
    waiters = Bundle("waiters")

    def __init__(self):
        super().__init__()
        self.notify = Notify()
        self.model = Model()
        self.pairs = []

    @rule(target=waiters)
    def notified(self):
        pair = Waiter(self.notify), ModelWaiter(self.model)
        self.pairs.append(pair)
        return pair

    @rule(times=st.integers(1, 3), in_a_thread=st.booleans())
    def notify_one(self, times, in_a_thread):
        for _ in range(times):
            call(self.notify.notify_one, in_a_thread=in_a_thread)
            self.model.notify(0)

    @rule(in_a_thread=st.booleans())
    def notify_last(self, in_a_thread):
        call(self.notify.notify_last, in_a_thread=in_a_thread)
        self.model.notify(-1)

    @rule(in_a_thread=st.booleans())
    def notify_waiters(self, in_a_thread):
        call(self.notify.notify_waiters, in_a_thread=in_a_thread)
        self.model.notify_waiters()

    @rule(pair=waiters)
    def poll(self, pair):
        ours, model = pair
        assert ours.poll() == model.poll()

    @rule(pair=waiters)
    def enable(self, pair):
        ours, model = pair
        assert ours.notified.enable() == model.look()

    @rule(pair=consumes(waiters), by_hand=st.booleans(), in_a_thread=st.booleans())
    def drop(self, pair, by_hand, in_a_thread):
        ours, model = pair
        call(ours.drop, by_hand, in_a_thread=in_a_thread)
        model.drop()

    @invariant()
    def the_same_were_woken(self):
        assert [ours.wakes for ours, _ in self.pairs] == [model.wakes for _, model in self.pairs]

    @invariant()
    def the_same_is_stored(self):
        permit = "yes" if self.model.permit else "no"
        assert repr(self.notify) == f"<Notify waiters={len(self.model.line)} permit={permit}>"


TestNotifyAgainstModel = NotifyMachine.TestCase
