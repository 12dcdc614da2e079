"""A rate limiter: a token bucket made of a Semaphore and an interval, on a virtual clock.

Shows: who takes a token keeps its permit in the bucket, and each tick of the interval gives the
oldest one back. So a burst goes through at once, and then one at each tick, in the order in which
they came. On the virtual clock the ten seconds take no time, and every number is exact.
"""

import sys
from collections import deque

import pyasync_c


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class TokenBucket:
    """Lets `burst` through at once, and from then on one every `period` seconds."""

    def __init__(self, burst: int, period: float) -> None:
        self._tokens = pyasync_c.Semaphore(burst)
        self._spent: deque[pyasync_c.Permit] = deque()
        self._period = period

    async def take(self) -> None:
        """Wait for a token. First come, first served; who is cancelled here takes none."""
        self._spent.append(await self._tokens.acquire())

    async def refill(self) -> None:
        """To be run as a task. A bucket that is full stays as it is."""
        async for _ in pyasync_c.interval(self._period):
            if self._spent:
                self._spent.popleft().release()


async def request(bucket: TokenBucket, name: str, passed: list[float]) -> None:
    await bucket.take()
    print(f"{pyasync_c.now():5.2f} s  {name}")
    passed.append(pyasync_c.now())


async def requests(bucket: TokenBucket, names: list[str]) -> list[float]:
    """All at once; returns when each was let through."""
    passed: list[float] = []
    await pyasync_c.join(*(request(bucket, name, passed) for name in names))
    return passed


async def main() -> None:
    bucket = TokenBucket(burst=3, period=0.5)
    refill = pyasync_c.spawn(bucket.refill())

    await pyasync_c.sleep(0.25)
    print("seven requests at once: three go through, the others one every half second")
    passed = await requests(bucket, [f"request {n}" for n in range(1, 8)])
    claim(passed == [0.25, 0.25, 0.25, 0.5, 1.0, 1.5, 2.0], "a burst, then the rate")

    print("nobody asks for a while, and the bucket fills up again, but not beyond its size")
    await pyasync_c.sleep_until(10.25)
    passed = await requests(bucket, [f"request {n}" for n in range(8, 12)])
    claim(passed == [10.25, 10.25, 10.25, 10.5], "three tokens were there, and no more")

    print("a request that gives up leaves its place and its token to the next")
    impatient = pyasync_c.spawn(request(bucket, "never let through", []))
    patient = pyasync_c.spawn(request(bucket, "request 12", passed))
    await pyasync_c.sleep(0.25)
    impatient.cancel()
    await patient
    claim(passed[-1] == 11.0, "the next tick was the patient one's")
    refill.cancel()


if __name__ == "__main__":
    with pyasync_c.Runtime(clock="virtual") as runtime:
        runtime.run(main())
