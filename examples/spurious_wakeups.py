"""A task may be woken, and so polled, for no reason at all.

Shows: tasks wait for an event and for a time. A thread makes the event happen; the second time it
wakes all of them at random before. An honest future looks at its event at every poll, so that extra
wakes change nothing but the number of polls, and make no delay early. A future that takes being
polled for its event is then wrong.
"""

import random
import signal
import sys
import threading
import time

from pyasync_c import PENDING, Context, Delay, Future, PendingType, Waker, run, sleep, spawn

SECONDS = 0.1
DISTURBANCES_MIN = 10


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Event:
    """Something that happens once, and the wakers of who waits for it."""

    def __init__(self) -> None:
        self.happened = False
        self.wakers: dict[str, Waker] = {}

    def happen(self) -> None:
        self.happened = True
        self.wake_all()

    def wake_all(self) -> None:
        for waker in list(self.wakers.values()):
            waker.wake()


class Leaf(Future[bool]):
    """Waits for the event; its value is whether the event had happened by then."""

    def __init__(self, event: Event, name: str) -> None:
        self.event = event
        self.name = name
        self.polls = 0

    def poll(self, cx: Context, /) -> bool | PendingType:
        self.polls += 1
        self.event.wakers[self.name] = cx.waker.clone()
        return self.event.happened if self.is_over(cx) else PENDING

    def is_over(self, cx: Context) -> bool:
        raise NotImplementedError


class Honest(Leaf):
    def is_over(self, cx: Context) -> bool:
        return self.event.happened


class Credulous(Leaf):
    """Takes being polled for its event: I was woken, so it must have happened."""

    def is_over(self, cx: Context) -> bool:
        return self.polls > 1


class Timed(Leaf):
    """Waits for a time, which the same thread tries to cut short."""

    def __init__(self, event: Event, name: str, delay: Delay[None]) -> None:
        super().__init__(event, name)
        self.delay = delay

    def is_over(self, cx: Context) -> bool:
        return self.delay.poll(cx) is not PENDING


def play(disturbed: bool) -> dict[str, Leaf]:
    """Run the tasks once; returns the leaves with their polls, having checked the honest ones."""
    event = Event()
    leaves: dict[str, Leaf] = {}
    results: dict[str, bool] = {}

    async def wait_for(leaf: Leaf) -> None:
        results[leaf.name] = await leaf

    async def main() -> None:
        begin = time.monotonic()
        timed = Timed(event, "timed", sleep(SECONDS))
        leaves.update(honest=Honest(event, "honest"), credulous=Credulous(event, "credulous"))
        leaves["timed"] = timed
        tasks = {name: spawn(wait_for(leaf)) for name, leaf in leaves.items()}
        await tasks["timed"]
        claim(time.monotonic() - begin >= SECONDS, "the delay was not early")
        for task in tasks.values():
            await task

    def make_it_happen() -> None:
        until = time.monotonic() + SECONDS / 2
        while disturbed and time.monotonic() < until:
            time.sleep(random.uniform(0.0005, 0.002))
            event.wake_all()
        time.sleep(max(0.0, until - time.monotonic()))
        event.happen()

    thread = threading.Thread(target=make_it_happen)
    thread.start()
    run(main())
    thread.join()
    for name, leaf in leaves.items():
        print(f"{name:<9}: polls {leaf.polls:>3}, the event had happened: {results[name]}")
    claim(results["honest"], "the honest one went on after its event")
    claim(results["credulous"] is not disturbed, "the credulous one is wrong once it is disturbed")
    polls = {name: leaf.polls for name, leaf in leaves.items()}
    event.wake_all()
    claim(polls == {name: leaf.polls for name, leaf in leaves.items()}, "what has ended stays so")
    return leaves


def main() -> None:
    signal.alarm(10)  # a wake-up that is lost is seen, too
    print("undisturbed")
    quiet = play(disturbed=False)
    claim(quiet["honest"].polls == 2, "two polls: at the start, and for the event")

    print("woken at random")
    loud = play(disturbed=True)
    more = loud["honest"].polls - quiet["honest"].polls
    claim(more >= DISTURBANCES_MIN, "there were wakes for no reason")


if __name__ == "__main__":
    main()
