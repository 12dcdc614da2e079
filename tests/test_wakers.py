"""Wakers: woken from any thread, with the GIL or without, at any time, also too late."""

import asyncio
import contextlib
import copy
import ctypes
import threading
import time
import weakref

import pytest
from helpers import CountingWaker, Worker, collect, every_loop, python, turns, unraisable

import pyasync_c
from pyasync_c import PENDING, Context, Waker, _core, noop_waker, poll_fn, poll_once

# ── wakers as C has them: what an extension gets by the capsule ─────────────────────────────────


class CVtable(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("clone", "wake", "wake_by_ref", "drop")]


class CWakerStruct(ctypes.Structure):
    _fields_ = [("vtable", ctypes.POINTER(CVtable)), ("data", ctypes.c_void_p)]


class CApi(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        (
            "waker_from_object",
            ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(CWakerStruct)),
        ),
        (
            "waker_to_object",
            ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(CWakerStruct)),
        ),
    ]


def c_api():
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = get(_core._C_API, b"pyasync_c._core._C_API")
    return ctypes.cast(address, ctypes.POINTER(CApi)).contents


# ctypes gives the GIL away around such a call.
without_gil = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
libc = ctypes.CDLL(None)


class CWaker:
    """An owned C waker; its calls run without the GIL, in_pthread() on a thread that Python has
    never heard of."""

    def __init__(self, waker):
        self.struct = CWakerStruct()
        assert c_api().waker_from_object(waker, ctypes.byref(self.struct)) == 0

    def call(self, name):
        without_gil(getattr(self.struct.vtable.contents, name))(self.struct.data)

    def in_pthread(self, name):
        thread = ctypes.c_ulong()
        start = ctypes.c_void_p(getattr(self.struct.vtable.contents, name))
        data = ctypes.c_void_p(self.struct.data)
        assert libc.pthread_create(ctypes.byref(thread), None, start, data) == 0
        assert libc.pthread_join(thread, None) == 0


def in_this_thread(waker):
    waker.wake()


def in_a_python_thread(waker):
    Worker(waker.wake).result()


def without_the_gil(waker):
    w = CWaker(waker)
    w.call("wake_by_ref")
    w.call("drop")


def by_the_wake_that_gives_up(waker):
    CWaker(waker).call("wake")


def in_a_pthread(waker):
    w = CWaker(waker)
    w.in_pthread("wake_by_ref")
    w.in_pthread("drop")


every_way = pytest.mark.parametrize(
    "wake",
    [
        in_this_thread,
        in_a_python_thread,
        without_the_gil,
        by_the_wake_that_gives_up,
        in_a_pthread,
    ],
)


class Flag(pyasync_c.Future):
    """Ready once `value` is set; keeps the newest waker."""

    def __init__(self):
        self.value = PENDING
        self.waker = None
        self.polled = threading.Event()
        self.polls = 0

    def poll(self, cx):
        self.polls += 1
        self.waker = cx.waker.clone()
        self.polled.set()
        return self.value


async def wait_for(aw):
    return await aw


def take_waker():
    """A future that gives the current task's waker."""
    return poll_fn(lambda cx: cx.waker.clone())


# ── waking a task ────────────────────────────────────────────────────────────────────────────


@every_loop
@every_way
def test_a_task_is_woken(run, wake):
    async def main():
        flag = Flag()
        task = asyncio.ensure_future(wait_for(flag))
        await turns()
        assert flag.polls == 1
        flag.value = "set"
        wake(flag.waker)
        return await task, flag.polls

    assert run(main()) == ("set", 2)


@every_loop
@every_way
def test_a_parked_loop_is_woken(run, wake):
    flag = Flag()

    def other_thread():
        assert flag.polled.wait(60)
        flag.value = "set"
        wake(flag.waker)

    worker = Worker(other_thread)
    assert run(wait_for(flag)) == "set"
    worker.result()
    assert flag.polls == 2


@every_way
def test_waking_a_task_that_has_ended_does_nothing(wake):
    async def main():
        waker = await pyasync_c.spawn(wait_for(take_waker()))
        before = pyasync_c.current_runtime().metrics().polls
        for _ in range(3):
            wake(waker)
        await pyasync_c.yield_now()
        # Our own poll, and no other.
        assert pyasync_c.current_runtime().metrics().polls == before + 1
        return waker

    waker = pyasync_c.run(main())
    wake(waker)


@every_loop
@every_way
def test_waking_after_the_loop_has_closed_does_nothing(run, wake):
    flag = Flag()

    async def main():
        task = asyncio.ensure_future(wait_for(flag))
        await turns()
        return task

    assert run(main()).cancelled()
    polls = flag.polls
    for _ in range(3):
        wake(flag.waker)
    assert flag.polls == polls


def test_a_wake_between_two_runs_is_not_lost():
    flag = Flag()
    with pyasync_c.Runtime() as runtime:

        async def first():
            return pyasync_c.spawn(wait_for(flag))

        task = runtime.run(first())
        runtime.run(turns())
        flag.value = "between"
        in_a_pthread(flag.waker)
        runtime.run(turns())
        assert task.result() == "between"


def test_no_wake_is_lost_when_threads_wake_at_once():
    """After the last wake there is another poll, and wakes that come together are one."""
    threads, wakes = 4, 5_000
    left = threads
    polls = 0
    wakers = []
    saw_the_end = threading.Event()
    started = threading.Event()
    lock = threading.Lock()

    def poll(cx):
        nonlocal polls
        polls += 1
        if not wakers:
            wakers.append(cx.waker.clone())
            started.set()
        if left:
            return PENDING
        saw_the_end.set()
        return "end"

    def storm():
        nonlocal left
        assert started.wait(60)
        waker = CWaker(wakers[0])
        wake = without_gil(waker.struct.vtable.contents.wake_by_ref)
        data = waker.struct.data
        for _ in range(wakes):
            wake(data)
        with lock:
            left -= 1
        wake(data)
        waker.call("drop")

    workers = [Worker(storm) for _ in range(threads)]
    with pyasync_c.Runtime() as runtime:
        assert runtime.run(wait_for(poll_fn(poll))) == "end"
        for worker in workers:
            worker.result()
        metrics = runtime.metrics()
    assert saw_the_end.is_set()
    assert 2 <= polls <= threads * (wakes + 1) + 1
    assert 1 <= metrics.wakes_from_threads <= metrics.wakes


def test_waking_while_the_runtime_closes():
    for _ in range(20):
        flag = Flag()
        stop = threading.Event()

        def storm(flag=flag, stop=stop):
            assert flag.polled.wait(60)
            waker = flag.waker
            while not stop.is_set():
                for _ in range(50):
                    waker.wake()

        worker = Worker(storm)

        async def main(flag=flag):
            pyasync_c.spawn(wait_for(flag))
            while not flag.polled.is_set():
                await pyasync_c.yield_now()
            await pyasync_c.sleep(0.001)

        pyasync_c.run(main())
        stop.set()
        worker.result()


# ── the newest waker wins ────────────────────────────────────────────────────────────────────


def test_only_the_newest_of_two_wakers_by_hand_is_woken():
    notify = pyasync_c.Notify()
    old, new = CountingWaker(), CountingWaker()
    future = notify.notified()
    assert future.poll(old.context) is PENDING
    assert future.poll(new.context) is PENDING
    notify.notify_one()
    assert (old.count, new.count) == (0, 1)


def test_a_future_that_moves_to_another_task_wakes_only_that():
    async def main():
        notify = pyasync_c.Notify()
        notified = notify.notified()
        polls_of_first = 0

        def stay(cx):
            nonlocal polls_of_first
            polls_of_first += 1
            return PENDING

        async def first():
            assert await poll_once(notified) is PENDING
            await poll_fn(stay)

        one = pyasync_c.spawn(first())
        await turns()
        two = pyasync_c.spawn(wait_for(notified))
        await turns()
        assert polls_of_first == 1
        notify.notify_one()
        await two
        await turns()
        assert polls_of_first == 1, "the task that has let go of it was woken"
        one.cancel()
        await asyncio.wait([one])

    pyasync_c.run(main())


@every_loop
@pytest.mark.parametrize("leaf", ["notified", "delay"])
def test_a_future_that_moves_between_loops_on_two_threads(run, leaf):
    notify = pyasync_c.Notify()
    future = notify.notified() if leaf == "notified" else pyasync_c.sleep(0.05)
    moved = threading.Event()
    woken = threading.Event()
    polls_of_first = 0

    def stay(cx):
        nonlocal polls_of_first
        polls_of_first += 1
        return PENDING

    async def first():
        assert await poll_once(future) is PENDING
        waiting = asyncio.ensure_future(wait_for(poll_fn(stay)))
        await turns()
        moved.set()
        while not woken.is_set():
            await asyncio.sleep(0.005)
        await turns()
        waiting.cancel()
        await asyncio.wait([waiting])

    worker = Worker(lambda: run(first()))
    assert moved.wait(60)

    async def second():
        if leaf == "notified":
            asyncio.get_running_loop().call_later(0.01, notify.notify_one)
        await future

    run(second())
    woken.set()
    worker.result()
    assert polls_of_first == 1


# ── Waker(callable) ──────────────────────────────────────────────────────────────────────────


@every_way
def test_a_callable_is_called_once_a_wake(wake):
    counting = CountingWaker()
    for n in range(1, 4):
        wake(counting.waker)
        assert counting.count == n


def test_clones_call_the_same():
    counting = CountingWaker()
    clone = counting.waker.clone()
    del counting.waker
    clone.clone().wake()
    clone.wake()
    assert counting.count == 2


def test_will_wake():
    one, two = CountingWaker(), CountingWaker()
    assert one.waker.will_wake(one.waker)
    assert one.waker.will_wake(one.waker.clone())
    assert one.waker.clone().will_wake(one.waker)
    assert not one.waker.will_wake(two.waker)
    assert not one.waker.will_wake(noop_waker())
    assert noop_waker().will_wake(noop_waker().clone())
    with pytest.raises(TypeError, match="Waker"):
        one.waker.will_wake(one)


def test_will_wake_tells_tasks_apart():
    async def main():
        mine = await take_waker()
        await pyasync_c.yield_now()
        again = await take_waker()
        others = await pyasync_c.spawn(wait_for(take_waker()))
        assert mine.will_wake(again) and again.will_wake(mine.clone())
        assert not mine.will_wake(others)

    pyasync_c.run(main())


def test_the_noop_waker_does_nothing():
    waker = noop_waker()
    waker.wake()
    waker.clone().wake()
    in_a_pthread(waker)
    assert "nothing" in repr(waker)


@pytest.mark.parametrize("wake", [in_this_thread, in_a_pthread])
def test_what_the_callable_raises_is_printed(wake):
    def fail():
        raise ZeroDivisionError("in wake")

    with unraisable() as seen:
        wake(Waker(fail))
    assert [type(error) for error in seen] == [ZeroDivisionError]


def test_a_waker_woken_while_an_exception_is_handled_leaves_it_alone():
    counting = CountingWaker()

    class WakesWhenCollected:
        def __del__(self):
            counting.waker.wake()

    def fail():
        keeps = WakesWhenCollected()
        raise LookupError(id(keeps))

    with pytest.raises(LookupError) as caught:
        fail()
    del caught
    collect()
    assert counting.count == 1


def test_a_waker_that_wakes_itself_overflows_no_stack():
    python(
        """
import sys, pyasync_c
sys.unraisablehook = [].append
waker = pyasync_c.Waker(lambda: waker.wake())
waker.wake()
waker.wake()
"""
    )


def test_the_callable_goes_with_the_last_waker():
    class Wake:
        def __call__(self):
            pass

    wake = Wake()
    gone = weakref.ref(wake)
    waker = Waker(wake)
    clone = waker.clone()
    del wake, waker
    assert gone() is not None
    del clone
    collect()
    assert gone() is None


def test_a_waker_in_a_cycle_with_its_callable_is_collected():
    class Executor:
        def __init__(self):
            self.waker = Waker(self.wake)

        def wake(self):
            pass

    gone = weakref.ref(Executor())
    collect()
    assert gone() is None


class Waits:
    """Has a future wait, with a waker that calls it, or a weak reference to it."""

    def __init__(self, weakly):
        this = weakref.ref(self)

        def wake():
            return this() and this().wake()

        self.notify = pyasync_c.Notify()
        self.future = self.notify.notified()
        self.future.poll(Context(Waker(wake if weakly else self.wake)))

    def wake(self):
        pass


@pytest.mark.parametrize("ends", ["drop", "notify", "poll"])
def test_a_cycle_through_a_future_that_waits_ends_with_the_wait(ends):
    """The collector cannot see it: Waker's docstring says so."""
    waits = Waits(weakly=False)
    gone, future, notify = weakref.ref(waits), waits.future, waits.notify
    del waits
    collect()
    assert gone() is not None
    if ends == "drop":
        future.drop()
    elif ends == "notify":
        notify.notify_one()
    else:
        future.poll(Context(pyasync_c.noop_waker()))
    collect()
    assert gone() is None


def test_a_future_that_waits_with_a_weak_reference_is_collected():
    gone = weakref.ref(Waits(weakly=True))
    collect()
    assert gone() is None


def test_the_last_reference_dropped_without_the_gil_is_given_up_later():
    class Wake:
        def __call__(self):
            pass

    wake = Wake()
    gone = weakref.ref(wake)
    waker = Waker(wake)
    c_waker = CWaker(waker)
    del wake, waker
    collect()
    assert gone() is not None, "the C waker owns it"
    c_waker.in_pthread("wake_by_ref")
    c_waker.in_pthread("drop")
    Waker(print)  # the next one buries the dead
    collect()
    assert gone() is None


def test_a_c_waker_becomes_a_python_one():
    counting = CountingWaker()
    c_waker = CWaker(counting.waker)
    waker = c_api().waker_to_object(ctypes.byref(c_waker.struct))
    c_waker.call("drop")
    assert type(waker) is Waker and waker.will_wake(counting.waker)
    waker.wake()
    assert counting.count == 1
    with pytest.raises(TypeError, match="Waker is required"):
        CWaker(5)


@pytest.mark.parametrize("arguments", [(), (5,), (None,), (print, print)], ids=repr)
def test_bad_wakers(arguments):
    with pytest.raises(TypeError):
        Waker(*arguments)
    with pytest.raises(TypeError):
        Waker(wake=print)


def test_wakers_and_contexts_are_final():
    waker = noop_waker()
    for cls in Waker, Context:
        with pytest.raises(TypeError):
            type("Sub", (cls,), {})
    for thing in waker, Context(waker):
        with pytest.raises(TypeError):
            copy.copy(thing)
        with pytest.raises(AttributeError):
            thing.anything = 1


# ── Context ──────────────────────────────────────────────────────────────────────────────────


def test_a_context_made_by_hand_stays_valid():
    counting = CountingWaker()
    context = Context(counting.waker)
    pyasync_c.ready(1).poll(context)
    assert context.waker.will_wake(counting.waker)
    context.waker.wake()
    assert counting.count == 1


@pytest.mark.parametrize("bad", [None, 5, print])
def test_a_context_wants_a_waker(bad):
    with pytest.raises(TypeError, match="Waker"):
        Context(bad)


# ── debug mode ───────────────────────────────────────────────────────────────────────────────


class KeepsNoWaker(pyasync_c.Future):
    def poll(self, cx):
        return pyasync_c.PENDING


class KeepsOne(pyasync_c.Future):
    def poll(self, cx):
        self.waker = cx.waker
        return pyasync_c.PENDING


@pytest.mark.parametrize(
    "make, lost",
    [
        (KeepsNoWaker, True),
        (pyasync_c.pending, True),
        (lambda: pyasync_c.join(KeepsNoWaker()), True),
        (KeepsOne, False),
        (lambda: pyasync_c.select(KeepsNoWaker(), pyasync_c.sleep(1000)), False),
        (lambda: pyasync_c.sleep(1000), False),
        (lambda: pyasync_c.Notify().notified(), False),
        (lambda: pyasync_c.spawn_blocking(time.sleep, 0.05), False),
        (lambda: asyncio.sleep(1000), False),
        (lambda: asyncio.Event().wait(), False),
    ],
)
def test_debug_mode_names_a_task_that_nothing_will_wake(make, lost, caplog):
    async def wait():
        await make()

    async def main():
        task = pyasync_c.spawn(wait(), name="left alone")
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    pyasync_c.run(main(), debug=True)
    told = [r.message for r in caplog.records if "nothing has kept a waker" in r.message]
    assert len(told) == lost
    assert all("left alone" in message for message in told)
    caplog.clear()
    pyasync_c.run(main(), debug=False)
    assert not caplog.records
