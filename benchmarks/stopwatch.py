"""Wall and processor time of a stretch of code."""

from time import perf_counter, process_time
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds by the clock on the wall, and seconds of processor time of the whole process."""

    wall: float
    cpu: float


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self.cpu = process_time()
        self.wall = perf_counter()

    def stop(self) -> Spent:
        wall = perf_counter() - self.wall
        return Spent(wall, process_time() - self.cpu)
