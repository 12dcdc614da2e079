"""Wall and processor time of a stretch of code."""

from time import perf_counter, process_time
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds by the clock on the wall, and seconds of processor time of the whole process."""

    wall: float
    cpu: float
    p50: float | None = None
    p99: float | None = None
    """Where each operation was timed: what half of them, and 99 of a hundred, took at the most."""
    client_cpu: float | None = None
    """Where another process asked: the processor time of that one."""

    def without(self, seconds: float) -> "Spent":
        """The same, where so long on the wall is nobody's cost."""
        return self._replace(wall=self.wall - seconds)


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self.cpu = process_time()
        self.wall = perf_counter()

    def stop(self) -> Spent:
        wall = perf_counter() - self.wall
        return Spent(wall, process_time() - self.cpu)
