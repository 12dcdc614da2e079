"""A future may be polled by one task now and by another one later.

Shows: a delay is polled by a first task, which then passes it on and waits for something else. A
second task awaits it to its end. When the time has come, only the task that polled it last is
woken: an own waker that counts wakes stands between each task and the delay. Then a future that
belongs to no loop moves to another executor, on another thread, and only that one is woken.
"""

import signal
import sys
import threading
import time

from pyasync_c import (
    PENDING,
    Context,
    Future,
    Notify,
    PendingType,
    Runtime,
    Waker,
    current_runtime,
    poll_fn,
    run,
    sleep,
    spawn,
)

SECONDS = 0.1


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Watched(Future[None]):
    """Polls a future with a waker that counts, and passes each wake on to the task."""

    def __init__(self, future: Future[None]) -> None:
        self.future = future
        self.wakes = 0
        self.polls = 0

    def poll(self, cx: Context, /) -> None | PendingType:
        self.polls += 1
        task = cx.waker.clone()

        def wake() -> None:
            self.wakes += 1
            task.wake()

        return self.future.poll(Context(Waker(wake)))


async def first(watched: Watched, passed_on: Notify, finished: Notify) -> None:
    polled = await poll_fn(lambda cx: (watched.poll(cx),))
    claim(polled == (PENDING,), "the delay is PENDING for the first task")
    print("first: polled the delay, passes it on")
    passed_on.notify_one()
    await finished.notified()
    print(f"first: the second has finished; the delay woke me {watched.wakes} times")


async def second(watched: Watched, passed_on: Notify, finished: Notify) -> float:
    await passed_on.notified()
    print("second: awaits the delay")
    await watched
    ready = time.monotonic()
    print(f"second: the delay is over; it woke me {watched.wakes} times")
    finished.notify_one()
    return ready


async def main() -> None:
    begin = time.monotonic()
    delay = sleep(SECONDS)
    passed_on, finished = Notify(), Notify()
    by_first, by_second = Watched(delay), Watched(delay)
    tasks = (
        spawn(first(by_first, passed_on, finished)),
        spawn(second(by_second, passed_on, finished)),
    )
    await tasks[0]
    ready = await tasks[1]
    claim(ready - begin >= SECONDS, "the delay was not early")
    claim(by_second.wakes == 1 and by_second.polls == 2, "the delay woke the second task, once")
    claim(by_first.wakes == 0 and by_first.polls == 1, "and not the first one")
    print(f"polls of all tasks: {current_runtime().metrics().polls}")


async def polls_once(watched: Watched) -> None:
    polled = await poll_fn(lambda cx: (watched.poll(cx),))
    claim(polled == (PENDING,), "the notification is PENDING on the first executor")


def to_another_executor() -> None:
    """One executor polls `notified` and lives on; another one, on its own thread, awaits it."""
    notify, waits = Notify(), threading.Event()
    notified = notify.notified()
    by_first, by_second = Watched(notified), Watched(notified)

    async def awaits() -> None:
        await poll_fn(lambda cx: (by_second.poll(cx),))
        waits.set()
        await by_second

    with Runtime() as executor:
        executor.run(polls_once(by_first))
        thread = threading.Thread(target=run, args=(awaits(),))
        thread.start()
        waits.wait()
        notify.notify_one()
        thread.join()
        executor.run(sleep(0))
    print(f"wakes: first executor {by_first.wakes}, second {by_second.wakes}")
    claim(by_second.wakes == 1, "the second executor is woken, once")
    claim(by_second.polls == 3, "and not before its time")
    claim(by_first.wakes == 0, "and the first one, which polled before, is not")


if __name__ == "__main__":
    signal.alarm(10)  # a wake-up that is lost is seen, too
    print("from one task to another")
    run(main())
    print("from one executor to another")
    to_another_executor()
