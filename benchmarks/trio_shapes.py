"""The shapes in trio's names. What each does stands in asyncio_shapes.py.

A trio task cannot be awaited and its Event cannot be cleared, so leaving a nursery stands for
awaiting what was spawned, and each handing over takes a new Event.
"""

from trio import Event, fail_after, open_nursery, sleep
from trio.lowlevel import checkpoint

from .asyncio_shapes import GATHERED, SLEEP_MS_MAX, YIELDING_TASKS, nothing
from .stopwatch import Spent, Stopwatch


async def yields(n: int) -> None:
    for _ in range(n):
        await checkpoint()


async def yield_one(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        await checkpoint()
    return watch.stop()


async def yield_many(n: int) -> Spent:
    async with open_nursery() as nursery:
        for _ in range(YIELDING_TASKS):
            nursery.start_soon(yields, n // YIELDING_TASKS)
        watch = Stopwatch()
    return watch.stop()


async def spawn_await(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        async with open_nursery() as nursery:
            nursery.start_soon(nothing)
    return watch.stop()


async def spawn_many(n: int) -> Spent:
    watch = Stopwatch()
    async with open_nursery() as nursery:
        for _ in range(n):
            nursery.start_soon(nothing)
    return watch.stop()


async def ping_pong(n: int) -> Spent:
    there, back = Event(), Event()

    async def pong() -> None:
        nonlocal there
        for _ in range(n):
            await there.wait()
            there = Event()
            back.set()

    async with open_nursery() as nursery:
        nursery.start_soon(pong)
        await checkpoint()
        watch = Stopwatch()
        for _ in range(n):
            there.set()
            await back.wait()
            back = Event()
        return watch.stop()


async def sleep_many(n: int) -> Spent:
    watch = Stopwatch()
    async with open_nursery() as nursery:
        for i in range(n):
            nursery.start_soon(sleep, (1 + i % SLEEP_MS_MAX) / 1000)
    return watch.stop().without(SLEEP_MS_MAX / 1000)


async def timeout_yield(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        with fail_after(10):
            await checkpoint()
    return watch.stop()


async def gather_many(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GATHERED):
        async with open_nursery() as nursery:
            for _ in range(GATHERED):
                nursery.start_soon(yields, 1)
    return watch.stop()
