"""The smallest runtime that sleeps when there is nothing to do.

Shows: a future does nothing until it is polled. One that answers PENDING has kept the waker of that
poll. Waking sends the task into a channel, at most once however often it is woken, and the executor
sleeps on that channel and polls nothing else. Of pyasync_c it uses only the futures, not the
executor.
"""

import queue
import sys
import threading
from collections.abc import Coroutine
from typing import Any

from pyasync_c import PENDING, Context, Notify, Waker, into_future, yield_now

BUSY_WAKES = 5


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Task:
    """A coroutine that is polled by whoever receives it from the channel."""

    def __init__(self, executor: "MiniTokio", name: str, coroutine: Coroutine[Any, Any, None]):
        self.executor = executor
        self.name = name
        self.future = into_future(coroutine)
        self.waker = Waker(self.schedule)
        self.lock = threading.Lock()
        self.scheduled = False  # in the channel, or ended and never to be there again
        self.polls = 0

    def schedule(self) -> None:
        with self.lock:
            already, self.scheduled = self.scheduled, True
        if not already:
            self.executor.channel.put(self)

    def poll(self) -> bool:
        # Before the poll: a wake that comes during it schedules the task once more.
        with self.lock:
            self.scheduled = False
        self.polls += 1
        ended = self.future.poll(Context(self.waker)) is not PENDING
        print(f"poll {self.polls} of {self.name}: {'READY' if ended else 'PENDING'}")
        if ended:
            with self.lock:
                self.scheduled = True
        return ended


class MiniTokio:
    def __init__(self) -> None:
        self.channel: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.alive = 0
        self.longest = 0

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> Task:
        task = Task(self, name, coroutine)
        self.alive += 1
        task.waker.wake()
        return task

    def run(self) -> None:
        while self.alive:
            self.longest = max(self.longest, self.channel.qsize())
            task = self.channel.get(timeout=10)  # a wake-up that is lost is seen, too
            self.alive -= task.poll()


def nap(seconds: float) -> Notify:
    """Over when it notifies, which a thread does."""
    over = Notify()
    threading.Timer(seconds, over.notify_one).start()
    return over


async def naps(times: int) -> None:
    for _ in range(times):
        await nap(0.01).notified()


async def yields(times: int, itself: list[Task]) -> None:
    for _ in range(times):
        for _ in range(BUSY_WAKES):
            itself[0].waker.wake()
        await yield_now()


def main() -> None:
    executor = MiniTokio()
    itself: list[Task] = []
    one = executor.spawn("one nap", naps(1))
    three = executor.spawn("three naps", naps(3))
    busy = executor.spawn("yields", yields(3, itself))
    itself.append(busy)
    polls = one.polls + three.polls + busy.polls
    print(f"3 coroutines are made and spawned, and so far there were {polls} polls")
    claim(polls == 0, "spawning polls nothing")

    executor.run()
    claim((one.polls, three.polls) == (2, 4), "a nap takes one poll more")
    claim(busy.polls == 4, "three yields take four polls, not one for each wake")
    claim(executor.longest <= 3, "no task is in the channel twice")

    for task in (one, three, busy):
        task.waker.wake()
    claim(executor.channel.empty(), "waking a task that has ended does nothing")
    polls = one.polls + three.polls + busy.polls
    print(f"{polls} polls in all, at most {executor.longest} tasks in the channel")


if __name__ == "__main__":
    main()
