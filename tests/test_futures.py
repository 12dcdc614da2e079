"""Futures: nothing runs before a poll, one value comes out, and dropping one is cancelling."""

import asyncio
import copy
import gc
import pickle
import types
from asyncio import futures

import pytest
from helpers import CountingWaker, Manual, collect, every_loop, turns, unraisable

import pyasync_c
from pyasync_c import PENDING, Context, Future, into_future, noop_waker, poll_fn, poll_once


class Shout(Exception):
    pass


async def wait_for(aw):
    return await aw


def noop_context():
    return Context(noop_waker())


def polls_of(main):
    """How often the one task of a run was polled, and what it returned."""
    with pyasync_c.Runtime() as runtime:
        value = runtime.run(main)
        return runtime.metrics().polls, value


# ── laziness ─────────────────────────────────────────────────────────────────────────────────


def test_a_coroutine_made_a_future_runs_at_the_first_poll():
    ran = []

    async def effect():
        ran.append(1)

    future = into_future(effect())

    async def main():
        await turns(20)

    pyasync_c.run(main())
    assert ran == []
    assert future.poll(noop_context()) is None
    assert ran == [1]


def test_poll_fn_calls_nothing_before_the_first_poll():
    calls = []
    future = poll_fn(lambda cx: calls.append(1))
    collect()
    assert calls == []
    assert future.poll(noop_context()) is None
    assert calls == [1]


def test_a_future_that_was_never_polled_is_not_dropped_when_collected():
    drops = []

    class Unpolled(Future):
        def poll(self, cx):
            raise AssertionError

        def drop(self):
            drops.append(self)

    Unpolled()
    collect()
    assert drops == []


# ── awaiting ─────────────────────────────────────────────────────────────────────────────────


@every_loop
@pytest.mark.parametrize(
    "value", [None, 0, (), (1, 2), [3], Shout("kept"), StopIteration(4), ((5,),)], ids=repr
)
def test_await_gives_what_poll_returned(run, value):
    async def main():
        first = await poll_fn(lambda cx: value)
        second = await pyasync_c.ready(value)
        slow = Manual()
        asyncio.get_running_loop().call_soon(slow.set, value)
        return first is second is await slow is value

    assert run(main())


@every_loop
def test_pending_then_woken(run):
    async def main():
        future = Manual()
        asyncio.get_running_loop().call_later(0.01, future.set, "done")
        assert await future == "done"
        return future.polls, future.drops

    assert run(main()) == (2, 0)


@every_loop
def test_an_exception_of_poll_is_raised_at_the_await_and_ends_the_future(run):
    def poll(cx):
        raise Shout("from poll")

    async def main():
        future = poll_fn(poll)
        with pytest.raises(Shout, match="from poll"):
            await future
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await future

    run(main())


@every_loop
def test_stop_iteration_of_poll_is_no_result(run):
    class Subclass(Future):
        def poll(self, cx):
            raise StopIteration("not a value")

    async def main():
        for future in poll_fn(Subclass().poll), Subclass():
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                await future
            assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


@every_loop
@pytest.mark.parametrize("make", [Manual, lambda: pyasync_c.ready(1)])
def test_a_finished_future_cannot_be_awaited_again(run, make):
    async def main():
        future = make()
        if isinstance(future, Manual):
            future.value = 1
        assert await future == 1
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await future

    run(main())


def test_a_finished_future_of_ours_cannot_be_polled_again():
    for future in pyasync_c.ready(1), poll_fn(lambda cx: 1), into_future(wait_for(Manual())):
        if future.poll(noop_context()) is PENDING:
            future.drop()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited|was dropped"):
            future.poll(noop_context())


def test_ready_leaves_do_not_leave_the_task():
    async def main():
        total = 0
        for _ in range(3):
            total += await pyasync_c.ready(1)
        return total

    assert polls_of(main()) == (1, 3)


def test_poll_may_return_the_future_itself():
    class Itself(Future):
        def poll(self, cx):
            return self

    async def main():
        future = Itself()
        return await future is future

    assert pyasync_c.run(main())


@every_loop
def test_pending_never_ends_but_can_be_cancelled(run):
    async def main():
        task = asyncio.ensure_future(wait_for(pyasync_c.pending()))
        await turns()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_pending_without_a_waker_is_legal():
    state = {"value": PENDING}

    async def main():
        task = pyasync_c.spawn(wait_for(poll_fn(lambda cx: state["value"])))
        await turns(20)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert pyasync_c.run(main())


@every_loop
def test_a_wake_within_the_poll_leads_to_one_more(run):
    polls = []

    def poll(cx):
        polls.append(1)
        for _ in range(5):
            cx.waker.wake()
        return PENDING if len(polls) < 3 else "done"

    async def main():
        assert await poll_fn(poll) == "done"
        await turns()

    run(main())
    assert len(polls) == 3


@every_loop
def test_wakes_before_a_poll_collapse(run):
    async def main():
        future = Manual()
        task = asyncio.ensure_future(wait_for(future))
        await turns()
        assert future.polls == 1
        for _ in range(100):
            future.waker.wake()
        await turns(20)
        assert future.polls == 2, "woken a hundred times, polled once more"
        future.set(7)
        return await task

    assert run(main()) == 7


def test_a_deep_chain_is_one_poll_and_its_leaf_has_the_tasks_waker():
    seen = []

    async def chain(depth, leaf):
        return await (leaf if depth == 0 else chain(depth - 1, leaf))

    def look(cx):
        seen.append(cx.waker.clone())
        return 0

    async def main():
        leaf = Manual()
        await poll_fn(look)
        asyncio.get_running_loop().call_soon(leaf.set, "deep")
        value = await chain(500, leaf)
        seen.append(leaf.waker)
        return value

    polls, value = polls_of(main())
    assert (polls, value) == (2, "deep")
    assert seen[0].will_wake(seen[1])


def test_no_loop_is_a_clear_error():
    for make in Manual, pyasync_c.pending, pyasync_c.Notify().notified:
        coroutine = wait_for(make())
        with pytest.raises(RuntimeError, match="no running event loop"):
            coroutine.send(None)


# ── two at once ──────────────────────────────────────────────────────────────────────────────


@every_loop
def test_a_second_task_that_awaits_is_refused_and_the_first_goes_on(run):
    async def main():
        future = Manual()
        first = asyncio.ensure_future(wait_for(future))
        await turns()
        with pytest.raises(RuntimeError, match="already being awaited"):
            await asyncio.ensure_future(wait_for(future))
        future.set("first")
        return await first

    assert run(main()) == "first"


@every_loop
def test_a_leaf_whose_task_was_cancelled_can_be_awaited_by_another(run):
    async def main():
        notify = pyasync_c.Notify()
        notified = notify.notified()
        first = asyncio.ensure_future(wait_for(notified))
        await turns()
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(wait_for(notified))
        await turns()
        notify.notify_one()
        await second

    run(main())


def test_a_future_polled_by_hand_can_be_awaited_then():
    async def main():
        by_hand = CountingWaker()
        notify = pyasync_c.Notify()
        notified = notify.notified()
        assert notified.poll(by_hand.context) is PENDING
        task = pyasync_c.spawn(wait_for(notified))
        await turns()
        notify.notify_one()
        await task
        return by_hand.count

    assert pyasync_c.run(main()) == 0, "only the newest waker is woken"


# ── dropping ─────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_drop_is_called_once_when_the_task_is_cancelled(run):
    async def main():
        future = Manual()
        task = asyncio.ensure_future(wait_for(future))
        await turns()
        assert future.drops == 0
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert future.drops == 1
        with pytest.raises(RuntimeError, match="was dropped"):
            await future
        return future

    future = run(main())
    assert future.drops == 1


def test_drop_is_not_called_when_ready_or_failed():
    drops = []

    class Ends(Future):
        def __init__(self, how):
            self.how = how

        def poll(self, cx):
            if self.how == "raise":
                raise Shout
            return self.how

        def drop(self):
            drops.append(self.how)

    async def main():
        await Ends("value")
        with pytest.raises(Shout):
            await Ends("raise")

    pyasync_c.run(main())
    collect()
    assert drops == []


def test_drop_is_called_when_collected_in_a_cycle():
    drops = []

    class Cyclic(Future):
        def __init__(self):
            self.me = self

        def poll(self, cx):
            return PENDING

        def drop(self):
            drops.append(1)

    async def main():
        coroutine = wait_for(Cyclic())
        assert await poll_once(coroutine) is PENDING
        coroutine.close()

    pyasync_c.run(main())
    assert drops == [1]
    collect()
    assert drops == [1]

    def leave_suspended():
        holder = into_future(wait_for(Cyclic()))
        holder.poll(noop_context())

    leave_suspended()
    collect()
    assert drops == [1, 1]


def test_what_drop_raises_is_printed_and_the_cancel_goes_on():
    class Sore(Manual):
        def drop(self):
            raise Shout("in drop")

    async def main():
        task = pyasync_c.spawn(wait_for(Sore()))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    with unraisable() as seen:
        assert pyasync_c.run(main())
    assert [type(error) for error in seen] == [Shout]


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyasync_c.ready(1),
        pyasync_c.pending,
        lambda: poll_fn(lambda cx: 1),
        pyasync_c.yield_now,
        lambda: pyasync_c.sleep(0),
        lambda: pyasync_c.Notify().notified(),
        lambda: into_future(asyncio.sleep(0)),
    ],
    ids=["ready", "pending", "poll_fn", "yield_now", "sleep", "notified", "into_future"],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_after_drop_polling_is_an_error_and_dropping_again_is_not(make):
    async def main():
        future = make()
        future.drop()
        future.drop()
        with pytest.raises(RuntimeError, match="was dropped"):
            future.poll(noop_context())
        with pytest.raises(RuntimeError, match="was dropped"):
            await future

    pyasync_c.run(main())


def test_a_future_dropped_in_its_own_poll():
    class Suicidal(Future):
        def poll(self, cx):
            Future.drop(self)
            return PENDING

    async def main():
        task = pyasync_c.spawn(wait_for(Suicidal()))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert pyasync_c.run(main())


# ── subclasses ───────────────────────────────────────────────────────────────────────────────


# Each makes two futures, of which the first has what the second wakes for, or waits alone, and says
# what is taken once both were let go of.
def lock_handed_over():
    lock = pyasync_c.Lock()
    lock.try_acquire()
    return [lock.acquire(), lock.acquire()], lock.release, lambda: int(lock.locked())


def permits_handed_over():
    semaphore = pyasync_c.Semaphore(1)
    held = semaphore.try_acquire()
    futures = [semaphore.acquire(), semaphore.acquire()]
    return futures, held.release, lambda: 1 - semaphore.available_permits


def notification_handed_over():
    notify = pyasync_c.Notify()
    return [notify.notified(), notify.notified()], notify.notify_one, lambda: 1


@pytest.mark.parametrize("let_go", [Future.close, Future.drop])
@pytest.mark.parametrize("make", [lock_handed_over, permits_handed_over, notification_handed_over])
def test_what_a_future_hands_on_as_it_is_dropped_it_cannot_take_again(make, let_go):
    (first, second), hand_out, taken = make()
    seen = []

    def poll_the_first():
        with pytest.raises(RuntimeError, match="is being dropped"):
            first.poll(noop_context())
        seen.append(second.poll(noop_context()))

    assert first.poll(noop_context()) is PENDING
    assert second.poll(Context(pyasync_c.Waker(poll_the_first))) is PENDING
    hand_out()
    let_go(first)
    assert len(seen) == 1 and seen[0] is not PENDING
    assert taken() == 1
    if let_go is Future.close:
        assert first.poll(noop_context()) is PENDING
    else:
        with pytest.raises(RuntimeError, match="was dropped"):
            first.poll(noop_context())


class PollsAsItGoes:
    """What a Waker calls: given up with the waker, and polls a future then."""

    def __init__(self, future, errors):
        self.future = future
        self.errors = errors

    def __call__(self):
        pass

    def __del__(self):
        try:
            self.errors.append(self.future.poll(noop_context()))
        except RuntimeError as error:
            self.errors.append(str(error).partition(" ")[2])


@pytest.mark.parametrize("let_go", [Future.close, Future.drop])
@pytest.mark.parametrize(
    "make",
    [
        pyasync_c.Event().wait,
        pyasync_c.Barrier(2).wait,
        pyasync_c.CancellationToken().cancelled,
        pyasync_c.Notify().notified,
        pyasync_c.Lock().acquire,
        pyasync_c.Semaphore(0).acquire,
        pyasync_c.RwLock().write,
        lambda: pyasync_c.OnceCell().get_or_init(pyasync_c.Notify().notified),
    ],
)
def test_a_waker_that_polls_the_future_that_gives_it_up(make, let_go):
    errors = []
    future = make()
    taken = future.poll(noop_context())
    if taken is not PENDING:  # of a lock: now there is one to wait for
        future = make()
    future.poll(Context(pyasync_c.Waker(PollsAsItGoes(future, errors))))
    let_go(future)
    assert errors == ["is being dropped"]


def test_what_the_collector_has_emptied_can_be_polled():
    """By a close() that it calls: of the iterator that an initialiser runs."""
    polled = []

    class PollsAnother:
        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            return None

        def close(self):
            polled.append(self.other.poll(noop_context()))

    def make_a_cycle():
        value = {}  # which the collector knows from its first entry on, so that it comes last
        other = pyasync_c.ready(value)
        made = []

        def make():
            made.append(PollsAnother())
            return made[0]

        future = pyasync_c.OnceCell().get_or_init(make)
        assert future.poll(noop_context()) is PENDING
        made.pop().other = other
        value["future"] = future

    make_a_cycle()
    collect()
    assert polled == [None]


def test_a_subclass_may_take_any_arguments_and_need_not_call_init():
    class Sum(Future):
        def __init__(self, *terms, start=0):
            self.total = sum(terms, start)

        def poll(self, cx):
            return self.total

    async def main():
        return await Sum(1, 2, start=3)

    assert pyasync_c.run(main()) == 6


def test_future_alone_cannot_be_made():
    with pytest.raises(TypeError, match="subclass"):
        Future()


@every_loop
def test_a_subclass_without_poll_says_what_is_missing(run):
    class Empty(Future):
        pass

    async def main():
        with pytest.raises(TypeError, match=r"must define poll\(self, cx\)"):
            await Empty()

    run(main())


def test_a_future_is_no_asyncio_future():
    assert not asyncio.isfuture(Manual())
    assert not asyncio.isfuture(pyasync_c.sleep(0))


@every_loop
def test_a_future_can_be_a_task(run):
    async def main():
        future = Manual()
        task = asyncio.create_task(future)
        await turns()
        assert "pending" in repr(task)
        future.set("task")
        assert await task == "task"
        assert await pyasync_c.spawn(pyasync_c.sleep(0, 1)) == 1
        return await asyncio.gather(pyasync_c.sleep(0.001, "a"), pyasync_c.ready("b"))

    assert run(main()) == ["a", "b"]


def test_futures_are_generic():
    for cls in Future, pyasync_c.Delay, pyasync_c.Notified:
        alias = cls[int]
        assert isinstance(alias, types.GenericAlias)
        assert alias.__origin__ is cls and alias.__args__ == (int,)


def test_final_types_and_internal_ones():
    for cls in pyasync_c.Delay, pyasync_c.Notified, type(PENDING):
        with pytest.raises(TypeError):
            type("Sub", (cls,), {})
    for future in pyasync_c.ready(1), pyasync_c.pending(), pyasync_c.yield_now():
        with pytest.raises(TypeError, match="cannot create"):
            type(future)()
        with pytest.raises(AttributeError):
            future.anything = 1
        with pytest.raises(TypeError):
            copy.copy(future)
        with pytest.raises(TypeError):
            pickle.dumps(future)


def test_a_future_written_in_python_may_be_an_inner_one():
    """A poll that polls: the same Context goes down."""

    class Both(Future):
        def __init__(self, *inner):
            self.inner = dict(enumerate(inner))
            self.values = {}

        def poll(self, cx):
            for i, future in list(self.inner.items()):
                value = future.poll(cx)
                if value is not PENDING:
                    self.values[i] = value
                    del self.inner[i]
            return PENDING if self.inner else self.values

    async def main():
        a, b = Manual(), Manual()
        loop = asyncio.get_running_loop()
        loop.call_soon(b.set, "b")
        loop.call_later(0.01, a.set, "a")
        return await Both(a, b, pyasync_c.sleep(0.001, "c"))

    assert pyasync_c.run(main()) == {0: "a", 1: "b", 2: "c"}


# ── misuse of poll ───────────────────────────────────────────────────────────────────────────


def test_a_poll_within_its_own_poll_is_refused():
    errors = []

    def poll(cx):
        try:
            future.poll(cx)
        except RuntimeError as error:
            errors.append(str(error))
        return 1

    future = poll_fn(poll)
    assert future.poll(noop_context()) == 1
    assert len(errors) == 1 and "already being polled" in errors[0]


def test_a_coroutine_that_polls_itself_is_refused():
    async def inner():
        with pytest.raises(RuntimeError, match="already being polled"):
            future.poll(noop_context())
        return 5

    future = into_future(inner())
    assert future.poll(noop_context()) == 5


def test_a_context_ends_with_its_poll():
    kept = []

    def poll(cx):
        kept.append((cx, cx.waker.clone()))
        return PENDING if len(kept) == 1 else "done"

    async def main():
        task = pyasync_c.spawn(wait_for(poll_fn(poll)))
        await turns()
        context, waker = kept[0]
        with pytest.raises(RuntimeError, match="poll is over"):
            _ = context.waker
        with pytest.raises(RuntimeError, match="poll is over"):
            pyasync_c.ready(1).poll(context)
        waker.wake()
        return await task

    assert pyasync_c.run(main()) == "done"
    assert "over" in repr(kept[0][0])


@pytest.mark.parametrize("bad", [None, 5, object()])
def test_poll_wants_a_context(bad):
    with pytest.raises(TypeError, match="Context"):
        pyasync_c.ready(1).poll(bad)


def test_poll_fn_wants_a_callable():
    with pytest.raises(TypeError, match="callable"):
        poll_fn(5)


# ── PENDING ──────────────────────────────────────────────────────────────────────────────────


def test_pending_object():
    assert repr(PENDING) == "PENDING"
    assert copy.copy(PENDING) is copy.deepcopy(PENDING) is PENDING
    assert pickle.loads(pickle.dumps(PENDING)) is PENDING
    assert type(PENDING) is pyasync_c.PendingType
    with pytest.raises(TypeError, match="is PENDING"):
        bool(PENDING)
    with pytest.raises(TypeError):
        pyasync_c.PendingType()


# ── into_future ──────────────────────────────────────────────────────────────────────────────


def test_a_coroutine_polled_by_hand():
    leaf = Manual()
    waker = CountingWaker()
    future = into_future(wait_for(leaf))
    assert future.poll(waker.context) is PENDING
    assert future.poll(waker.context) is PENDING, "a spurious poll changes nothing"
    assert waker.count == 0
    leaf.set("value")
    assert waker.count == 1
    assert future.poll(waker.context) == "value"
    with pytest.raises(RuntimeError, match="cannot reuse"):
        future.poll(waker.context)


def test_the_newest_waker_is_woken():
    leaf = Manual()
    old, new = CountingWaker(), CountingWaker()
    future = into_future(wait_for(leaf))
    assert future.poll(old.context) is PENDING
    assert future.poll(new.context) is PENDING
    leaf.set(1)
    assert (old.count, new.count) == (0, 1)


def test_a_bare_yield_wakes_at_once():
    waker = CountingWaker()
    future = into_future(asyncio.sleep(0, "slept"))
    assert future.poll(waker.context) is PENDING
    assert waker.count == 1
    assert future.poll(waker.context) == "slept"


def test_an_exception_comes_out_of_the_poll():
    async def fail():
        await pyasync_c.yield_now()
        raise Shout("inside")

    future = into_future(fail())
    assert future.poll(noop_context()) is PENDING
    with pytest.raises(Shout, match="inside"):
        future.poll(noop_context())
    with pytest.raises(RuntimeError, match="cannot reuse"):
        future.poll(noop_context())


def test_dropping_closes_the_frames_from_the_inside_out():
    closed = []

    async def inner():
        try:
            await pyasync_c.ready(None)
            await pyasync_c.pending()
        finally:
            closed.append("inner")

    async def outer():
        try:
            await inner()
        finally:
            closed.append("outer")

    future = into_future(outer())
    future.poll(noop_context())
    assert closed == []
    future.drop()
    assert closed == ["inner", "outer"]


def test_collecting_a_suspended_one_closes_it():
    closed = []

    async def work():
        try:
            await pyasync_c.pending()
        finally:
            closed.append(1)

    future = into_future(work())
    future.poll(noop_context())
    del future
    gc.collect()
    assert closed == [1]


@pytest.mark.parametrize("kind", ["create_future", "python", "task"])
def test_the_error_of_a_future_that_is_yielded_is_thrown_into_a_coroutine_polled_by_hand(kind):
    @types.coroutine
    def yielded(future):
        """As libraries await that are not written with `await`: nobody asks for the result."""
        future._asyncio_future_blocking = True
        return (yield future)

    async def fail():
        raise Shout("yielded")

    async def main():
        loop = asyncio.get_running_loop()
        if kind == "task":
            future = asyncio.create_task(fail())
        else:
            future = loop.create_future() if kind == "create_future" else futures._PyFuture()
            loop.call_soon(future.set_exception, Shout("yielded"))
        with pytest.raises(Shout, match="yielded"):
            await into_future(yielded(future))
        done = loop.create_future()
        done.set_exception(Shout("done"))
        with pytest.raises(Shout, match="done"):
            await into_future(yielded(done))

    pyasync_c.run(main())


def test_asyncio_futures_within_a_coroutine_polled_by_hand():
    async def main():
        waker = CountingWaker()
        slow = asyncio.get_running_loop().create_future()
        future = into_future(wait_for(slow))
        assert future.poll(waker.context) is PENDING
        assert future.poll(waker.context) is PENDING, "asyncio's leaves take no spurious poll"
        slow.set_result("asyncio's")
        await turns()
        assert waker.count == 1
        return future.poll(waker.context)

    assert pyasync_c.run(main()) == "asyncio's"
    assert asyncio.run(main()) == "asyncio's"


def test_an_asyncio_future_wakes_the_newest_waker_of_who_polls_by_hand():
    async def main():
        loop = asyncio.get_running_loop()
        for slow in loop.create_future(), asyncio.futures._PyFuture(loop=loop):
            old, new = CountingWaker(), CountingWaker()
            future = into_future(wait_for(slow))
            assert future.poll(old.context) is PENDING
            assert future.poll(new.context) is PENDING
            slow.set_result("late")
            await turns()
            assert (old.count, new.count) == (0, 1)
            assert future.poll(noop_context()) == "late"

    pyasync_c.run(main())
    asyncio.run(main())


def test_a_bad_yield_is_thrown_into_the_coroutine():
    cleaned = []

    @types.coroutine
    def bad():
        yield 42

    async def work():
        try:
            await bad()
        finally:
            cleaned.append(1)

    with pytest.raises(RuntimeError, match="bad yield: 42"):
        into_future(work()).poll(noop_context())
    assert cleaned == [1]


def test_an_iterator_of_a_python_class_gives_its_value_intact():
    class Awaitable:
        def __init__(self, value):
            self.value = value

        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            raise StopIteration(self.value)

    async def main():
        return await into_future(Awaitable((1, 2))), await Awaitable((1, 2))

    assert into_future(Awaitable((1, 2))).poll(noop_context()) == (1, 2)
    assert pyasync_c.run(main()) == ((1, 2), (1, 2))


@pytest.mark.parametrize("make", [into_future, poll_once])
def test_what_is_no_awaitable_is_refused_at_the_call(make):
    async def function():
        raise AssertionError

    with pytest.raises(TypeError, match="awaitable"):
        make(5)
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        make(function)


def test_a_future_is_its_own_future():
    future = Manual()
    assert into_future(future) is future


@every_loop
def test_into_future_can_be_awaited(run):
    async def main():
        return await into_future(asyncio.sleep(0.001, "slept"))

    assert run(main()) == "slept"


@every_loop
def test_cancelling_the_await_of_into_future_cancels_the_coroutine(run):
    async def main():
        events = []
        gate = asyncio.get_running_loop().create_future()

        async def work(waits_for):
            try:
                await waits_for
            except asyncio.CancelledError as error:
                events.append(error.args)
                await pyasync_c.sleep(0.001)
                await asyncio.sleep(0.001)
                events.append("cleaned up")
                raise

        async def swallows():
            try:
                await pyasync_c.pending()
            except asyncio.CancelledError:
                return "kept"

        async def awaits(future):
            return await future

        for waits_for in (pyasync_c.pending(), gate):
            task = asyncio.ensure_future(awaits(into_future(work(waits_for))))
            await asyncio.sleep(0.01)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert events == [("enough",), "cleaned up"]
            events.clear()
        assert gate.cancelled()
        task = asyncio.ensure_future(awaits(into_future(swallows())))
        await asyncio.sleep(0.01)
        task.cancel()
        assert await task == "kept"

    run(main())


def test_a_timeout_of_asyncio_works_inside_into_future():
    async def main():
        async def work(waits_for):
            async with asyncio.timeout(0.001):
                await waits_for

        for waits_for in (pyasync_c.pending(), asyncio.Future()):
            with pytest.raises(TimeoutError):
                await into_future(work(waits_for))

    pyasync_c.run(main())


def test_what_is_thrown_where_nothing_polls_closes_the_coroutine():
    closed = []

    async def work():
        try:
            await pyasync_c.pending()
        finally:
            closed.append(True)

    future = into_future(work())
    future.poll(pyasync_c.Context(pyasync_c.noop_waker()))
    with pytest.raises(KeyError):
        future.throw(KeyError())
    assert closed == [True]


# ── poll_once ────────────────────────────────────────────────────────────────────────────────


@every_loop
def test_poll_once_gives_the_value_or_pending(run):
    async def main():
        assert await poll_once(pyasync_c.ready(1)) == 1
        assert await poll_once(pyasync_c.pending()) is PENDING
        leaf = Manual()
        assert await poll_once(leaf) is PENDING
        leaf.set(2)
        assert await poll_once(leaf) == 2
        assert (leaf.polls, leaf.drops) == (2, 0)

    run(main())


@every_loop
def test_poll_once_goes_on_with_a_suspended_coroutine(run):
    async def main():
        steps = []
        first, second = Manual(), Manual()

        async def work():
            steps.append("start")
            steps.append(await first)
            steps.append(await second)
            return "end"

        coroutine = work()
        assert await poll_once(coroutine) is PENDING
        assert await poll_once(coroutine) is PENDING
        assert steps == ["start"]
        first.set(1)
        assert await poll_once(coroutine) is PENDING
        second.set(2)
        assert await poll_once(coroutine) == "end"
        assert steps == ["start", 1, 2]

    run(main())


def test_poll_once_uses_the_current_tasks_waker():
    async def main():
        leaf = Manual()
        assert await poll_once(leaf) is PENDING
        own = await poll_fn(lambda cx: cx.waker.clone())
        assert leaf.waker.will_wake(own)
        return True

    assert pyasync_c.run(main())


@every_loop
def test_poll_once_does_not_send_into_a_coroutine_that_waits_for_asyncio(run):
    async def main():
        loop = asyncio.get_running_loop()
        for slow in loop.create_future(), asyncio.futures._PyFuture(loop=loop):
            coroutine = wait_for(slow)
            for _ in range(3):
                assert await poll_once(coroutine) is PENDING
            slow.set_result("late")
            assert await poll_once(coroutine) == "late"

    run(main())


def test_a_coroutine_that_poll_once_left_is_closed_with_its_last_reference():
    closed = []

    async def work():
        try:
            await pyasync_c.pending()
        finally:
            closed.append(1)

    async def main():
        coroutine = work()
        assert await poll_once(coroutine) is PENDING
        assert closed == []
        del coroutine
        gc.collect()
        assert closed == [1]

    pyasync_c.run(main())


def test_a_finished_coroutine_is_refused_by_poll_once():
    async def main():
        coroutine = asyncio.sleep(0, "once")
        while (value := await poll_once(coroutine)) is PENDING:
            pass
        assert value == "once"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await poll_once(coroutine)

    pyasync_c.run(main())


def test_asking_again_and_again_lets_the_others_run():
    async def main():
        seen = []
        asyncio.get_running_loop().call_soon(seen.append, 1)
        leaf = pyasync_c.pending()
        for _ in range(100_000):
            await poll_once(leaf)
            if seen:
                return True
        return False

    assert pyasync_c.run(main())
