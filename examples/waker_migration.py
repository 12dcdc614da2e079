"""A future may be polled by one task now and by another one later.

Shows: a delay is polled by a first task, which then passes it on and waits for something else. A
second task awaits it to its end. When the time has come, only the task that polled it last is
woken: an own waker that counts wakes stands between each task and the delay.
"""

import signal
import sys
import time

from pyasync_c import (
    PENDING,
    Context,
    Delay,
    Future,
    Notify,
    PendingType,
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
    """Polls the delay with a waker that counts, and passes each wake on to the task."""

    def __init__(self, delay: Delay[None]) -> None:
        self.delay = delay
        self.wakes = 0
        self.polls = 0

    def poll(self, cx: Context, /) -> None | PendingType:
        self.polls += 1
        task = cx.waker.clone()

        def wake() -> None:
            self.wakes += 1
            task.wake()

        return self.delay.poll(Context(Waker(wake)))


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


if __name__ == "__main__":
    signal.alarm(10)  # a wake-up that is lost is seen, too
    run(main())
