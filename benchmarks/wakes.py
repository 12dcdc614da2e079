"""Ten million wakes from other threads, none of them lost.

    python -m benchmarks.wakes [--wakes N] [--threads N] [--through notify|waker] [--on FRAMEWORK]

Wakes that come faster than the task is polled collapse into one, so counting polls proves nothing.
Instead each thread has a task of its own, counts before each wake, and after a burst of random
length waits until the task has seen all of it. If the last wake of a burst is lost, the task sleeps
for ever and the thread waits in vain, which ends the program with exit code 1.
"""

import argparse
import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

from pyasync_c import PENDING, Context, Future, Notify, PendingType, Waker, spawn

from .frameworks import FRAMEWORKS

PATIENCE_SECONDS = 10.0
BURST_MAX = 64
SWITCH_SECONDS = 1e-4
"""The GIL's switch interval: short, so that threads meet in the middle of a burst."""


class Producer(threading.Thread):
    """A thread that counts and wakes."""

    def __init__(self, wake: Callable[[], object], wakes: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.wake = wake
        self.wakes = wakes
        self.random = random.Random(seed)
        self.counted = 0
        self.burst_ends = 0
        """How many it will have counted when it waits next."""
        self.seen = threading.Semaphore(0)
        """Released by the task when it has seen as many."""

    def run(self) -> None:
        wake = self.wake
        while self.counted < self.wakes:
            # Often just one: in a longer burst the task may be late enough to see all by the first.
            length = self.random.choice((1, self.random.randint(2, BURST_MAX)))
            burst = min(length, self.wakes - self.counted)
            self.burst_ends = self.counted + burst
            for _ in range(burst):
                self.counted += 1
                wake()
            if not self.seen.acquire(timeout=PATIENCE_SECONDS):
                print(f"LOST: nobody saw wake {self.counted:,} of {self.name}", file=sys.stderr)
                os._exit(1)  # the task will never end by itself


class Board:
    """What a leaf written in Python waits by: the waker of its newest poll."""

    def __init__(self) -> None:
        self.waker: Waker | None = None
        self.changes = 0

    def wake(self) -> None:
        self.changes += 1
        if self.waker is not None:
            self.waker.wake()


class Changed(Future[None]):
    """Ready when the board has changed since `known`."""

    def __init__(self, board: Board, known: int) -> None:
        self.board = board
        self.known = known

    def poll(self, cx: Context, /) -> None | PendingType:
        # First the waker, then the look: the other way round, what happens between is lost.
        self.board.waker = cx.waker.clone()
        return None if self.board.changes != self.known else PENDING


async def follow(producer: Producer, wait: Callable[[], Awaitable[None]]) -> int:
    """Start the thread and see it to its end; how often this task was woken for it."""
    told = 0
    woken = 0
    producer.start()
    while told < producer.wakes:
        await wait()
        woken += 1
        end = producer.burst_ends
        if told < end <= producer.counted:
            told = end
            producer.seen.release()
    return woken


async def by_notify(wakes: int, seed: int) -> int:
    notify = Notify()
    return await follow(Producer(notify.notify_one, wakes, seed), notify.notified)


async def by_waker(wakes: int, seed: int) -> int:
    board = Board()
    known = 0

    async def wait() -> None:
        nonlocal known
        await Changed(board, known)
        known = board.changes

    return await follow(Producer(board.wake, wakes, seed), wait)


WAYS = {"notify": by_notify, "waker": by_waker}


async def follow_all(through: str, threads: int, wakes: int) -> int:
    """A thread and a task for it, as often as asked. Sharing one task would hide what is lost: the
    wakes of the other threads would make up for it."""
    tasks = [spawn(WAYS[through](wakes, seed)) for seed in range(threads)]
    return sum([await task for task in tasks])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="wakes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wakes", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--threads", type=int, default=4, metavar="N")
    parser.add_argument("--through", choices=list(WAYS), default="notify")
    loops = [name for name, framework in FRAMEWORKS.items() if framework.dialect != "trio"]
    parser.add_argument("--on", choices=loops, default="pyasync_c", help="who waits")
    args = parser.parse_args(arguments)
    each = max(1, args.wakes // args.threads)
    sys.setswitchinterval(SWITCH_SECONDS)
    begin = perf_counter()
    woken = FRAMEWORKS[args.on].run(follow_all, args.through, args.threads, each)
    seconds = perf_counter() - begin
    wakes = each * args.threads
    print(
        f"{wakes:,} wakes by {args.threads} threads, {woken:,} times woken on {args.on}, none lost:"
        f" {seconds:.1f} s, {seconds * 1e9 / wakes:.0f} ns a wake"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
