"""How late sleeps end on each framework, and whether any ends early.

    python -m benchmarks.timers [--frameworks NAMES] [--seconds S]

A timer that is early breaks programs; one that is late by a millisecond makes them wait. Each
framework sleeps in a process of its own, one sleep at a time. The exit code is 1 if a sleep of
pyasync_c ended early.
"""

import argparse
import importlib
import statistics
import sys
from time import monotonic
from typing import NamedTuple

from .frameworks import FRAMEWORKS
from .harness import Worker, WorkerError

SLEEPS_MS = (0.2, 1.0, 1.3, 10.5)


class Lateness(NamedTuple):
    """How much longer than asked the sleeps of one length took, in microseconds."""

    least_us: float
    median_us: float
    p99_us: float
    early: int
    """How many ended before their time."""
    sleeps: int


async def _late_us(sleep_ms: float, count: int, dialect: str) -> list[float]:
    sleep = importlib.import_module("pyasync_c" if dialect == "native" else dialect).sleep
    seconds = sleep_ms / 1000
    late = []
    for _ in range(count):
        begin = monotonic()
        await sleep(seconds)
        late.append((monotonic() - begin - seconds) * 1e6)
    return late


def measure(framework: str, sleep_ms: float, count: int) -> Lateness:
    """Sleep `count` times in this process."""
    chosen = FRAMEWORKS[framework]
    late = sorted(chosen.run(_late_us, sleep_ms, count, chosen.dialect))
    # The clock has nanoseconds, but the difference of two of its floats has not quite.
    early = sum(us < -0.01 for us in late)
    p99 = late[min(count - 1, count * 99 // 100)]
    return Lateness(late[0], statistics.median(late), p99, early, count)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="timers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frameworks", default=",".join(FRAMEWORKS), metavar="NAMES")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time for each length on each framework"
    )
    args = parser.parse_args(arguments)
    were_early = False
    print(f"{'µs late':<20}{'sleep':>9}{'least':>9}{'median':>9}{'p99':>9}  early")
    for name in args.frameworks.split(","):
        if FRAMEWORKS[name].version() is None:
            print(f"{name:<20} not installed")
            continue
        for sleep_ms in SLEEPS_MS:
            count = max(20, int(args.seconds * 1000 / (sleep_ms + 0.5)))
            try:
                with Worker() as worker:
                    reply = worker.call(
                        "timers", "measure", framework=name, sleep_ms=sleep_ms, count=count
                    )
            except WorkerError as error:
                print(f"{name:<20}{sleep_ms:>6} ms  {error}")
                were_early = were_early or FRAMEWORKS[name].is_ours
                continue
            late = Lateness(*reply)
            print(
                f"{name:<20}{sleep_ms:>6} ms{late.least_us:>9.0f}{late.median_us:>9.0f}"
                f"{late.p99_us:>9.0f}  {late.early} of {late.sleeps}"
            )
            were_early = were_early or (FRAMEWORKS[name].is_ours and late.early > 0)
    return 1 if were_early else 0


if __name__ == "__main__":
    sys.exit(main())
