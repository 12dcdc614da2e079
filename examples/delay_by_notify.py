"""The same delay without a waker in sight: a helper thread and Notify.

Shows: an async function starts a thread that sleeps and then calls notify_one(), and awaits the
notification. Notify keeps the waker. It does not matter which comes first, since a notification
that nobody waits for is kept as a permit.
"""

import signal
import sys
import threading
import time
from functools import partial

from pyasync_c import PENDING, Context, Notify, Waker, into_future, poll_fn, run


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


def alarm(seconds: float, notify: Notify) -> None:
    time.sleep(seconds)
    print("thread: the time has come, notifying")
    notify.notify_one()


async def delay(seconds: float, late_await: bool = False) -> float:
    """Returns when it was ready."""
    notify = Notify()
    thread = threading.Thread(target=alarm, args=(seconds, notify))
    thread.start()
    if late_await:
        thread.join()  # blocks the executor: done here only to fix the order
    await notify.notified()
    print("its time has come")
    return time.monotonic()


async def counting_polls(polls: list[int], seconds: float, late_await: bool) -> float:
    """The delay, by way of a future that says how often it is polled."""
    inner = into_future(delay(seconds, late_await))

    def poll(cx: Context) -> object:
        polls[0] += 1
        return inner.poll(cx)

    ready = await poll_fn(poll)
    assert isinstance(ready, float)
    return ready


def run_delay(seconds: float, late_await: bool) -> int:
    """How often the delay was polled."""
    polls = [0]
    coroutine = counting_polls(polls, seconds, late_await)
    claim(polls == [0], "making a delay runs nothing")
    begin = time.monotonic()
    claim(run(coroutine) - begin >= seconds, "it was not early")
    print(f"polls: {polls[0]}")
    return polls[0]


def main() -> None:
    signal.alarm(10)  # a wake-up that is lost is seen, too
    print("the await comes first")
    claim(run_delay(0.1, False) == 2, "it was polled twice: at the start, and when notified")

    print("the notification comes first")
    claim(run_delay(0.005, True) == 1, "the permit was there: one poll, no waiting")

    print("dropped in the middle")
    wakes: list[str] = []
    future = into_future(delay(0.01))
    polled = future.poll(Context(Waker(partial(wakes.append, "woken"))))
    claim(polled is PENDING, "it is PENDING")
    future.drop()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join()
    claim(not wakes, "the thread has notified, and nobody was woken by it")


if __name__ == "__main__":
    main()
