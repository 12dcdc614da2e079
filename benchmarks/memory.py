"""What pyasync_c does with memory.

    python -m benchmarks.memory [--quick]

1. Ten million yields and a million tasks spawned and awaited leave the resident set where it was.
2. A sleeping task takes fewer bytes than on asyncio.
3. With a million armed timers, arming and cancelling one more takes as long as with a thousand.

Each figure comes from a fresh process. The exit code is 1 if one of the three does not hold.
"""

import argparse
import gc
import importlib
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from .frameworks import FRAMEWORKS
from .harness import Worker

GROWTH_BYTES_MAX = 1 << 20
"""What the resident set may grow by when nothing is kept: the allocators' own wavering."""
BYTES_RATIO_MAX = 0.7
"""A sleeping task beside one of asyncio's."""
TIMER_RATIO_MAX = 3.0
"""A timer among a million beside one among a thousand: as much as caches, which are not the
structure's fault, may cost."""
TIMERS_AT_ONCE = 1000


def resident_bytes() -> int:
    """Of this process, now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def growth(shape: str, framework: str, n: int) -> int:
    """Bytes that the resident set grows by while `n` operations of a shape run in one loop."""
    chosen = FRAMEWORKS[framework]
    module = importlib.import_module(f".{chosen.dialect}_shapes", __package__)
    operation = getattr(module, shape)

    async def main() -> int:
        await operation(n // 20)
        before = resident_bytes()
        await operation(n)
        return resident_bytes() - before

    return chosen.run(main)


def bytes_per_sleeper(framework: str, n: int) -> float:
    """Bytes of the resident set for each of `n` tasks that sleep."""
    chosen = FRAMEWORKS[framework]
    is_native = chosen.dialect == "native"
    library = importlib.import_module("pyasync_c" if is_native else "asyncio")
    sleep, spawn = library.sleep, library.spawn if is_native else library.create_task

    async def sleeper() -> None:
        await sleep(3600)

    async def main() -> float:
        # A few first, for what is made only once; what their list takes is nobody's merit.
        tasks: list[Any] = [None] * (n + 100)
        tasks[:100] = [spawn(sleeper()) for _ in range(100)]
        await sleep(0)
        before = resident_bytes()
        for i in range(100, n + 100):
            tasks[i] = spawn(sleeper())
        await sleep(0)
        after = resident_bytes()
        for task in tasks:
            task.cancel()
        await sleep(0)
        return (after - before) / n

    return chosen.run(main)


class TimerCost(NamedTuple):
    """Nanoseconds for one timer more, among many."""

    insert_ns: float
    cancel_ns: float


def timer_cost(framework: str, alive: int, batches: int) -> TimerCost:
    """The best of some batches, armed and cancelled while `alive` other timers are armed."""
    chosen = FRAMEWORKS[framework]

    async def main() -> TimerCost:
        if chosen.dialect == "native":
            from pyasync_c import Context, noop_waker, sleep

            context = Context(noop_waker())

            def arm(seconds: float) -> Any:
                delay = sleep(seconds)
                delay.poll(context)
                return delay.drop
        else:
            from asyncio import get_running_loop

            loop = get_running_loop()

            def arm(seconds: float) -> Any:
                return loop.call_later(seconds, int).cancel

        others = [arm(1000 + i % 8192) for i in range(alive)]
        inserts, cancels = [], []
        for _ in range(batches):
            begin = perf_counter()
            batch = [arm(1000 + i * 8) for i in range(TIMERS_AT_ONCE)]
            middle = perf_counter()
            for cancel in batch:
                cancel()
            end = perf_counter()
            inserts.append(middle - begin)
            cancels.append(end - middle)
        for cancel in others:
            cancel()
        return TimerCost(min(inserts) * 1e9 / TIMERS_AT_ONCE, min(cancels) * 1e9 / TIMERS_AT_ONCE)

    gc.disable()  # its passes over a million objects would be counted as the timers'
    return chosen.run(main)


class Verdicts:
    """Prints what was found, and remembers whether all of it was as it should be."""

    def __init__(self) -> None:
        self.all_hold = True

    def say(self, holds: bool | None, text: str) -> None:
        self.all_hold = self.all_hold and holds is not False
        print({True: "ok      ", False: "MISSED  ", None: "        "}[holds] + text, flush=True)


def call(function: str, **arguments: Any) -> Any:
    with Worker() as worker:
        return worker.call("memory", function, **arguments)


def check_growth(verdicts: Verdicts, scale: int) -> None:
    for shape, n in (("yield_one", 10_000_000), ("spawn_await", 1_000_000)):
        grown = call("growth", shape=shape, framework="pyasync_c", n=n // scale)
        verdicts.say(grown <= GROWTH_BYTES_MAX, f"{shape}, {n // scale:,} times: {grown:+,} bytes")


def check_sleepers(verdicts: Verdicts, scale: int) -> None:
    n = 200_000 // scale
    bytes_each = {
        name: call("bytes_per_sleeper", framework=name, n=n)
        for name in ("asyncio", "pyasync_c-asyncio", "pyasync_c")
    }
    for name, size in bytes_each.items():
        ratio = size / bytes_each["asyncio"]
        holds = ratio <= BYTES_RATIO_MAX if name == "pyasync_c" else None
        verdicts.say(holds, f"a sleeping task on {name}: {size:.0f} bytes, {ratio:.0%} of asyncio")


def check_timers(verdicts: Verdicts, scale: int) -> None:
    few, many = 1000, 1_000_000 // scale
    for name in ("asyncio", "pyasync_c-asyncio", "pyasync_c"):
        among_few = TimerCost(*call("timer_cost", framework=name, alive=few, batches=50))
        among_many = TimerCost(*call("timer_cost", framework=name, alive=many, batches=50))
        for what, before, after in zip(("insert", "cancel"), among_few, among_many, strict=True):
            holds = after <= TIMER_RATIO_MAX * before if FRAMEWORKS[name].is_ours else None
            verdicts.say(
                holds,
                f"{what} a timer on {name}: {before:.0f} ns among {few:,}, "
                f"{after:.0f} ns among {many:,}",
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    args = parser.parse_args(arguments)
    verdicts = Verdicts()
    for check in (check_growth, check_sleepers, check_timers):
        check(verdicts, 10 if args.quick else 1)
    return 0 if verdicts.all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
