"""A supervisor: restarts workers that crash, later each time, and gives up if that does not help.

Shows: a JoinSet hands over each task when it ends, so one loop sees every crash, and a restart is
just another task of the set. The delays double and are shaken, lest all come back at once. With
more crashes in a window than allowed the error is raised: leaving the set cancels the others, which
clean up. The clock is virtual and the shaking has a seed, so each run is the same.
"""

import random
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import pyasync_c

Worker = Callable[[], Awaitable[object]]


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


def say(what: str) -> None:
    print(f"{pyasync_c.now():6.2f} s  {what}")


class TooManyRestarts(Exception):
    pass


class Supervisor:
    """Keeps workers running: by name, what to call for a coroutine that does the work."""

    def __init__(self, workers: dict[str, Worker], restarts: int, window: float) -> None:
        self.workers = workers
        self.restarts = restarts
        self.window = window
        self.crashes: Counter[str] = Counter()
        self._recent: deque[float] = deque()  # when the latest crashes were
        self._random = random.Random(2024)

    async def run(self) -> None:
        """Until all workers have ended well. TooManyRestarts, if they crash too often."""
        async with pyasync_c.JoinSet[object]() as tasks:
            for name, worker in self.workers.items():
                tasks.spawn(worker(), name=name)
            async for task in tasks:
                name, error = task.get_name(), task.exception()
                if error is None:
                    say(f"{name} is done: {task.result()}")
                    continue
                delay = self._delay_after_crash(name, error)
                say(f"{name} crashed: {error}; again in {delay:.2f} s")
                tasks.spawn(self._restart(name, delay), name=name)

    async def _restart(self, name: str, delay: float) -> object:
        await pyasync_c.sleep(delay)
        return await self.workers[name]()

    def _delay_after_crash(self, name: str, error: BaseException) -> float:
        self.crashes[name] += 1
        self._recent.append(pyasync_c.now())
        while self._recent[0] < pyasync_c.now() - self.window:
            self._recent.popleft()
        if len(self._recent) > self.restarts:
            raise TooManyRestarts(f"{len(self._recent)} crashes, the last of {name}") from error
        return self._random.uniform(0.1, 0.3) * 2.0 ** (self.crashes[name] - 1)


class Flaky:
    """Crashes so many times, after a second each, and then does its work."""

    def __init__(self, crashes: float) -> None:
        self.crashes = crashes
        self.cleaned_up = 0

    async def __call__(self) -> str:
        try:
            await pyasync_c.sleep(1)
            if self.crashes > 0:
                self.crashes -= 1
                raise ConnectionError("no connection")
            await pyasync_c.sleep(2)
            return "all the work"
        finally:
            self.cleaned_up += 1


async def main() -> None:
    print("workers that crash now and then")
    workers: dict[str, Worker] = {"steady": Flaky(0), "flaky": Flaky(2), "flakier": Flaky(3)}
    supervisor = Supervisor(workers, restarts=5, window=60)
    await supervisor.run()
    claim(supervisor.crashes == {"flaky": 2, "flakier": 3}, "each crash was seen, and no other")

    print("one that always crashes")
    patient = Flaky(0)
    supervisor = Supervisor({"patient": patient, "broken": Flaky(9)}, restarts=1, window=60)
    try:
        await supervisor.run()
        claim(False, "the supervisor gave up")
    except TooManyRestarts as error:
        say(f"gave up: {error}; it was: {error.__cause__}")
    claim(patient.cleaned_up == 1, "the other one was stopped, and has cleaned up")


if __name__ == "__main__":
    with pyasync_c.Runtime(clock="virtual", seed=1) as runtime:
        runtime.run(main())
