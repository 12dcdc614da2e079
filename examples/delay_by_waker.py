"""A delay written by hand: a waker, a lock and a helper thread.

Shows: the first poll starts the thread, and each poll leaves its waker, in place of the one before.
When the time has come, the thread notes that and wakes the newest waker: that is the whole bargain
behind PENDING. Dropping the delay ends the thread early.
"""

import signal
import sys
import threading
import time

from pyasync_c import PENDING, Context, Future, PendingType, Waker, run


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Delay(Future[None]):
    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.polls = 0
        self.thread: threading.Thread | None = None
        self.dropped = threading.Event()
        self.lock = threading.Lock()
        self.elapsed = False  # lock
        self.waker: Waker | None = None  # lock: of the newest poll

    def poll(self, cx: Context, /) -> None | PendingType:
        self.polls += 1
        with self.lock:
            elapsed = self.elapsed
            if not elapsed and (self.waker is None or not self.waker.will_wake(cx.waker)):
                self.waker = cx.waker.clone()
        if self.thread is None:
            self.thread = threading.Thread(target=self.wait)
            self.thread.start()
        print(f"delay: poll {self.polls}, {'READY' if elapsed else 'PENDING'}")
        return None if elapsed else PENDING

    def wait(self) -> None:
        while (left := self.deadline - time.monotonic()) > 0:
            if self.dropped.wait(left):
                return
        with self.lock:
            self.elapsed = True
            waker, self.waker = self.waker, None
        print("thread: the time has come, waking the newest waker")
        assert waker is not None
        waker.wake()  # outside the lock: waking may run anything

    def drop(self) -> None:
        if self.thread is not None:
            self.dropped.set()
            self.thread.join()
            self.waker = None


async def says_when(delay: Delay) -> float:
    await delay
    print("its time has come")
    return time.monotonic()


def main() -> None:
    signal.alarm(10)  # a wake-up that is lost is seen, too
    stranger_wakes: list[float] = []
    stranger = Waker(lambda: stranger_wakes.append(time.monotonic()))

    print("a delay of 100 ms, polled once by a stranger, then awaited by a task")
    delay = Delay(0.1)
    claim(delay.thread is None, "making a delay starts nothing")
    claim(delay.poll(Context(stranger)) is PENDING, "it is PENDING")
    thread = delay.thread
    ready = run(says_when(delay))
    claim(ready >= delay.deadline, "it was not early")
    claim(delay.polls == 3, "one poll by the stranger, two by the task")
    claim(delay.thread is thread, "one thread for all of them")
    claim(not stranger_wakes, "the stranger, who polled before the task, is not woken")

    print("a delay of an hour, dropped after its first poll")
    begin = time.monotonic()
    delay = Delay(3600)
    claim(delay.poll(Context(stranger)) is PENDING, "it is PENDING")
    delay.drop()
    claim(delay.thread is not None and not delay.thread.is_alive(), "its thread has ended")
    claim(time.monotonic() - begin < 60, "and did so early")
    claim(not stranger_wakes and delay.waker is None, "nobody was woken, no waker is kept")


if __name__ == "__main__":
    main()
