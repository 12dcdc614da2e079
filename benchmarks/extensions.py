"""The example extensions against run_in_executor, doing the same work.

    python -m benchmarks.extensions [--work NAMES] [--rounds N] [--seconds S]

zlib_pool, whose threads complete awaitables without the GIL, against zlib.compress in a
ThreadPoolExecutor of as many threads; async_sqlite against the standard library's sqlite3 in one
thread. run_in_executor runs under asyncio and on our loop, the extensions under asyncio and on
pyasync_c. So many tasks do one operation after another, and beside them a task sleeps for a
millisecond at a time: the longest that it took beyond that is how long the loop stood still at the
worst. Each runs in a process of its own, one after the other, round after round; shown are the
median of the rounds and, for the stall, the median of each round's longest. Needs a checkout, a C
compiler, and the headers of zlib and SQLite.
"""

import argparse
import asyncio
import importlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from .frameworks import FRAMEWORKS
from .harness import Worker, WorkerError

EXTENSIONS = Path(__file__).resolve().parent.parent / "examples" / "extensions"
THREADS = os.cpu_count() or 1
ROWS = 10_000
TICK_SECONDS = 0.001

Operation = Callable[[int], Awaitable[object]]


class Work(NamedTuple):
    title: str
    extension: str
    tasks: int
    """How many do it at once."""
    size: int
    """Of what is compressed, in bytes; or how many rows are asked for."""


WORK = {
    "compress-1k": Work("compress 1 KiB, 64 at once", "zlib_pool", 64, 1024),
    "compress-64k": Work("compress 64 KiB, 16 at once", "zlib_pool", 16, 65536),
    "compress-1m": Work("compress 1 MiB, 4 at once", "zlib_pool", 4, 1 << 20),
    "sqlite-1": Work("select a row by its key, 32 at once", "async_sqlite", 32, 1),
    "sqlite-1000": Work("select 1000 rows, 8 at once", "async_sqlite", 8, 1000),
}

SIDES = {
    "executor": ("run_in_executor", "asyncio"),
    "executor-ours": ("run_in_executor", "pyasync_c-asyncio"),
    "extension-asyncio": ("C API", "asyncio"),
    "extension": ("C API", "pyasync_c"),
}


class Figures(NamedTuple):
    rate: float
    """Operations per second."""
    p50_us: float
    p99_us: float
    stall_ms: float
    cpu_us: float
    """Of processor time for each, which depends least on what else the machine does."""


# ---- the work ------------------------------------------------------------------------------------


def text_of(size: int) -> bytes:
    """What compresses about as well as a text does."""
    words = [b"%x" % (i * 2654435761 % 4093) for i in range(997)]
    whole = b" ".join(words[i * i % 997] for i in range(size // 3 + 1))
    return whole[:size]


SELECT = "select id, name, value from item where id >= ? order by id limit ?"


def fill_database(path: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table item (id integer primary key, name text, value real)")
        items = ((i, f"item number {i}", i / 7) for i in range(ROWS))
        database.executemany("insert into item values (?, ?, ?)", items)


async def with_executor(work: Work, path: str, measure: Callable[[Operation], Any]) -> Any:
    loop = asyncio.get_running_loop()
    if work.extension == "zlib_pool":
        data = text_of(work.size)
        with ThreadPoolExecutor(THREADS) as pool:
            return await measure(lambda i: loop.run_in_executor(pool, zlib.compress, data))

    def select(i: int) -> list[Any]:
        return database.execute(SELECT, (i * 7919 % (ROWS - work.size), work.size)).fetchall()

    with ThreadPoolExecutor(1) as pool:
        database = await loop.run_in_executor(pool, sqlite3.connect, path)
        try:
            return await measure(lambda i: loop.run_in_executor(pool, select, i))
        finally:
            await loop.run_in_executor(pool, database.close)


async def with_extension(work: Work, path: str, measure: Callable[[Operation], Any]) -> Any:
    module = importlib.import_module(work.extension)
    if work.extension == "zlib_pool":
        data = text_of(work.size)
        with module.Pool(threads=THREADS) as pool:
            return await measure(lambda i: pool.compress(data))
    async with await module.connect(path) as database:
        return await measure(
            lambda i: database.execute(SELECT, (i * 7919 % (ROWS - work.size), work.size))
        )


async def measured(operation: Operation, tasks: int, seconds: float) -> Figures:
    took: list[float] = []
    gaps: list[float] = []
    cpu_before = process_time()
    begin = perf_counter()
    end = begin + seconds

    async def repeat(number: int) -> None:
        i = number
        while (before := perf_counter()) < end:
            await operation(i)
            took.append(perf_counter() - before)
            i += tasks

    async def tick() -> None:
        before = perf_counter()
        while before < end:
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            gaps.append(now - before - TICK_SECONDS)
            before = now

    await asyncio.gather(tick(), *(repeat(number) for number in range(tasks)))
    rate = len(took) / (perf_counter() - begin)
    took.sort()
    p50, p99 = (took[len(took) * percent // 100] * 1e6 for percent in (50, 99))
    cpu_us = (process_time() - cpu_before) / len(took) * 1e6
    return Figures(rate, p50, p99, max(gaps) * 1e3, cpu_us)


def run(work: str, side: str, path: str, seconds: float) -> Figures:
    """Measure one side in this process."""
    way, framework = SIDES[side]
    chosen = WORK[work]
    by = with_executor if way == "run_in_executor" else with_extension

    async def main() -> Figures:
        async def measure(operation: Operation) -> Figures:
            await measured(operation, chosen.tasks, seconds / 5)  # for warming up
            return await measured(operation, chosen.tasks, seconds)

        figures: Figures = await by(chosen, path, measure)
        return figures

    return FRAMEWORKS[framework].run(main)


# ---- all of it -----------------------------------------------------------------------------------


def build(folder: Path) -> None:
    """Both extensions, in `folder`."""
    for source in ("zlib_pool", "sqlite"):
        copy = folder / "source" / source
        shutil.copytree(EXTENSIONS / source, copy, ignore=shutil.ignore_patterns("build", "*.so"))
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(folder)]
        path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
        subprocess.run(command, cwd=copy, check=True, env=os.environ | {"PYTHONPATH": path})


def compare(name: str, rounds: int, seconds: float, path: str) -> None:
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            with Worker() as worker:
                how = {"work": name, "side": side, "path": path, "seconds": seconds}
                figures[side].append(Figures(*worker.call("extensions", "run", **how)))
    baseline = statistics.median(f.rate for f in figures["executor"])
    print(f"\n{WORK[name].title}")
    for side, (way, framework) in SIDES.items():
        median = Figures(*map(statistics.median, zip(*figures[side], strict=True)))
        print(
            f"  {way + ', ' + FRAMEWORKS[framework].title:<48}{median.rate:>10,.0f}"
            f"{median.rate / baseline:>7.2f}×{median.p50_us:>10,.0f}{median.p99_us:>10,.0f}"
            f"{median.stall_ms:>10.1f}{median.cpu_us:>10,.0f}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="extensions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", default=",".join(WORK), metavar="NAMES")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each side in each round")
    args = parser.parse_args(arguments)
    chosen = args.work.split(",")
    for name in chosen:
        if name not in WORK:
            parser.error(f"no such work: {name}")
    if args.rounds < 1:
        parser.error("--rounds has to be at least 1")
    if not EXTENSIONS.is_dir():
        parser.error("the examples are not here: this needs a checkout")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        build(Path(folder))
        sys.path.append(folder)  # which the workers take over
        stack.callback(sys.path.remove, folder)
        path = os.path.join(folder, "items.db")
        fill_database(path)
        print(f"{args.rounds} rounds of {args.seconds:g} s, {THREADS} threads")
        titles = ["per s", "ratio", "p50 µs", "p99 µs", "stall ms", "CPU µs"]
        print(" " * 48 + "".join(f"{title:>{8 if title == 'ratio' else 10}}" for title in titles))
        for name in chosen:
            try:
                compare(name, args.rounds, args.seconds, path)
            except WorkerError as error:
                print(f"{name}: {error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
