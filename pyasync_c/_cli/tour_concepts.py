"""The ten functions that `python -m pyasync_c tour` shows and runs, in the order of the tour."""

import inspect
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from pyasync_c import (
    PENDING,
    Context,
    Future,
    Notify,
    PendingType,
    Runtime,
    Waker,
    current_runtime,
    into_future,
    noop_waker,
    run,
    sleep,
    spawn,
    yield_now,
)


def lazy() -> None:
    """Futures are polled, and lazy.
    A future is an object with a method poll. Making one does nothing, calling an async function
    does nothing: both wait until somebody polls them, which is what run() does.
    """
    log: list[str] = []

    class Greeting(Future[str]):
        def poll(self, cx: Context, /) -> str:
            log.append("polled")
            return "hello"

    async def main() -> str:
        log.append("main started")
        return await Greeting()

    greeting = Greeting()
    coroutine = main()
    print("a future and a coroutine made, what happened:", log)
    print("run() returns", repr(run(coroutine)), "and what happened:", log)
    print("polled by hand:", repr(greeting.poll(Context(noop_waker()))))


def delay() -> None:
    """A future of your own: ready when its time has come.
    poll() answers with the value, or with PENDING. Who answers PENDING has kept the waker of that
    poll, and wakes it when polling again makes sense. Here a thread does.
    """

    class Delay(Future[str]):
        def __init__(self, seconds: float, text: str) -> None:
            self.when = time.monotonic() + seconds
            self.seconds, self.text, self.polls = seconds, text, 0

        def poll(self, cx: Context, /) -> str | PendingType:
            self.polls += 1
            if time.monotonic() >= self.when:
                print(f"poll {self.polls}: {self.text}")
                return "done"
            print(f"poll {self.polls}: PENDING, a thread will wake me")
            waker = cx.waker.clone()
            threading.Timer(self.seconds, waker.wake).start()
            return PENDING

    async def main() -> str:
        return await Delay(0.05, "Hello, world!")

    print("result:", run(main()))


def state_machine() -> None:
    """An async function is a state machine.
    Each await is a state. A poll runs it from the state it is in to the next await that is not
    ready yet; into_future() lets us do the polling. No executor is needed for that.
    """

    class Gate(Future[str]):
        open = False

        def poll(self, cx: Context, /) -> str | PendingType:
            return "passed" if self.open else PENDING

    async def through(first: Gate, second: Gate) -> str:
        await first
        await second
        return "through both"

    gates = Gate(), Gate()
    coroutine: Any = through(*gates)
    future = into_future(coroutine)
    cx = Context(noop_waker())

    def state() -> str:
        frame = coroutine.cr_frame
        name = inspect.getcoroutinestate(coroutine).removeprefix("CORO_")
        if frame is None:
            return name
        return f"{name}, line {frame.f_lineno - frame.f_code.co_firstlineno}"

    print("made:                 ", state())
    print("polled:", future.poll(cx), "       ", state())
    print("polled:", future.poll(cx), "       ", state(), "(nothing has changed)")
    gates[0].open = True
    print("first gate opened:    ", state(), "(only polling moves it)")
    print("polled:", future.poll(cx), "       ", state())
    gates[1].open = True
    print("polled:", future.poll(cx), "  ", state())


def executor() -> None:
    """An executor polls what was woken, and nothing else.
    Three tasks sleep at the same time on one thread. Each is polled when it starts and when its
    time has come; in between the executor sleeps too, instead of asking again and again.
    """

    async def napper(seconds: float) -> None:
        await sleep(seconds)
        print(f"slept for {seconds * 1000:.0f} ms")

    async def main() -> None:
        for task in [spawn(napper(ms / 1000)) for ms in (30, 10, 20)]:
            await task

    with Runtime() as runtime:
        begin = time.monotonic()
        runtime.run(main())
        seconds = time.monotonic() - begin
        metrics = runtime.metrics()
    print(f"{seconds * 1000:.0f} ms for naps of 60 ms together")
    print(f"tasks with main {metrics.tasks_spawned}, polls {metrics.polls}")


def mini_tokio() -> None:
    """A whole executor: a channel of scheduled tasks.
    A task is scheduled by being sent into a channel, and the executor polls what it receives.
    A task's waker sends it into that channel again. That is all there is to it.
    """

    class MiniTask:
        def __init__(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
            self.name, self.polls = name, 0
            self.future = into_future(coroutine)
            self.waker = Waker(lambda: scheduled.put(self))
            alive.add(self)
            self.waker.wake()

        def poll(self) -> None:
            self.polls += 1
            if self.future.poll(Context(self.waker)) is not PENDING:
                alive.discard(self)
                print(f"{self.name} is ready after {self.polls} polls")

    scheduled = queue.SimpleQueue[MiniTask]()
    alive = set[MiniTask]()

    async def naps(times: int) -> None:
        for _ in range(times):
            over = Notify()
            threading.Timer(0.02, over.notify_one).start()
            await over.notified()

    MiniTask("one nap", naps(1))
    MiniTask("three naps", naps(3))
    while alive:
        scheduled.get().poll()


def wakers() -> None:
    """Wakers schedule tasks, at most once.
    A waker may be called from any thread, as often as one likes. However many wakes come before
    the next poll, they make one poll: what they say is "look again", not how often.
    """
    polls = 0
    kept: list[Waker] = []
    done = threading.Event()

    class Watched(Future[None]):
        def poll(self, cx: Context, /) -> None | PendingType:
            nonlocal polls
            polls += 1
            kept.append(cx.waker.clone())
            return None if done.is_set() else PENDING

    async def main() -> None:
        task = spawn(Watched())
        await yield_now()
        print("polls before any wake:", polls)
        for _ in range(1000):
            kept[0].wake()
        await yield_now()
        print("polls after 1000 wakes:", polls)
        done.set()
        threading.Thread(target=kept[0].wake).start()
        await task
        print("polls after a wake by a thread:", polls)
        for _ in range(1000):
            kept[0].wake()
        await yield_now()
        print("polls after 1000 wakes of the ended task:", polls)

    run(main())


def spurious() -> None:
    """Spurious wake-ups are harmless.
    A task may be woken for no reason. An honest future looks at what it waits for at every poll,
    so that extra polls change nothing: not the result, and not the time.
    """
    kept: list[Waker] = []
    polls = 0

    async def main() -> float:
        nap = sleep(0.05)

        class Watched(Future[None]):
            def poll(self, cx: Context, /) -> None | PendingType:
                nonlocal polls
                polls += 1
                kept.append(cx.waker.clone())
                return nap.poll(cx)

        begin = time.monotonic()
        await Watched()
        return time.monotonic() - begin

    def disturb() -> None:
        while not ended.wait(random.uniform(0.001, 0.01)):
            if kept:
                kept[-1].wake()

    for disturbed in (False, True):
        polls, ended = 0, threading.Event()
        thread = threading.Thread(target=disturb)
        if disturbed:
            thread.start()
        seconds = run(main())
        ended.set()
        if disturbed:
            thread.join()
        print(f"disturbed {disturbed!s:<5}: {polls:>2} polls, {seconds * 1000:.1f} of 50 ms")


def newest_waker() -> None:
    """A future may move, and the newest waker is the right one.
    A future that was polled by one task can be awaited by another one later. Each poll replaces
    the waker that the future keeps, so that only who polled last is woken.
    """

    async def main() -> None:
        moving = sleep(0.03, "over")
        wakes: list[str] = []
        for name in ("first", "second", "third"):
            waker = Waker(partial(wakes.append, name))
            print(f"polled for the {name}:", moving.poll(Context(waker)))
        await sleep(0.06)
        print("woken:", wakes)

        moving = sleep(0.03, "over")
        print("another one, polled for the third:", moving.poll(Context(waker)))
        print("awaited by a task:", await spawn(moving))
        await sleep(0.03)
        print("woken:", wakes)

    run(main())


def notify() -> None:
    """Notify: one task tells another.
    Notify keeps the wakers, so that no program needs to. notify_one() wakes the one that waits
    longest; if nobody waits, it leaves a permit for the next. notify_waiters() wakes all.
    """

    async def waiter(name: str, event: Notify, log: list[str]) -> None:
        await event.notified()
        log.append(name)

    async def main() -> None:
        event, log = Notify(), list[str]()
        event.notify_one()
        await waiter("the permit was there", event, log)
        print(log)

        log.clear()
        tasks = [spawn(waiter(name, event, log)) for name in "ABCD"]
        await yield_now()
        event.notify_one()
        await tasks[0]
        print("after notify_one:", log)
        event.notify_waiters()
        for task in tasks:
            await task
        print("after notify_waiters:", log)

    run(main())


def delay_both_ways() -> None:
    """The same delay twice: by a waker, and by Notify.
    First a future that keeps its waker itself, then an async function that lets Notify keep it.
    Who awaits them cannot tell them apart.
    """

    class ByWaker(Future[None]):
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds
            self.waker: Waker | None = None
            self.elapsed = False

        def alarm(self) -> None:
            self.elapsed = True
            assert self.waker is not None
            self.waker.wake()

        def poll(self, cx: Context, /) -> None | PendingType:
            first, self.waker = self.waker is None, cx.waker.clone()
            if first:
                threading.Timer(self.seconds, self.alarm).start()
            return None if self.elapsed else PENDING

    async def by_notify(seconds: float) -> None:
        event = Notify()
        threading.Timer(seconds, event.notify_one).start()
        await event.notified()

    async def main() -> None:
        runtime = current_runtime()
        ways: dict[str, Awaitable[None]]
        ways = {"a waker": ByWaker(0.03), "Notify": by_notify(0.03)}
        for name, waiting in ways.items():
            begin, polls = time.monotonic(), runtime.metrics().polls
            await waiting
            polls = runtime.metrics().polls - polls
            late = time.monotonic() - begin - 0.03
            print(f"by {name}: further polls {polls}, late {late * 1000:.1f} ms")

    run(main())


CONCEPTS: list[Callable[[], None]] = [
    lazy,
    delay,
    state_machine,
    executor,
    mini_tokio,
    wakers,
    spurious,
    newest_waker,
    notify,
    delay_both_ways,
]
