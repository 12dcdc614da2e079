"""The shapes in pyasync_c's own names. What each does stands in asyncio_shapes.py."""

from pyasync_c import Notify, join, sleep, spawn, timeout, yield_now

from .asyncio_shapes import GATHERED, SLEEP_MS_MAX, YIELDING_TASKS, nothing
from .stopwatch import Spent, Stopwatch


async def yields(n: int) -> None:
    for _ in range(n):
        await yield_now()


async def nap(seconds: float) -> None:
    await sleep(seconds)


async def yield_one(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        await yield_now()
    return watch.stop()


async def yield_many(n: int) -> Spent:
    tasks = [spawn(yields(n // YIELDING_TASKS)) for _ in range(YIELDING_TASKS)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


async def spawn_await(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        await spawn(nothing())
    return watch.stop()


async def spawn_many(n: int) -> Spent:
    watch = Stopwatch()
    tasks = [spawn(nothing()) for _ in range(n)]
    for task in tasks:
        await task
    return watch.stop()


async def ping_pong(n: int) -> Spent:
    there, back = Notify(), Notify()

    async def pong() -> None:
        for _ in range(n):
            await there.notified()
            back.notify_one()

    task = spawn(pong())
    await yield_now()
    watch = Stopwatch()
    for _ in range(n):
        there.notify_one()
        await back.notified()
    spent = watch.stop()
    await task
    return spent


async def sleep_many(n: int) -> Spent:
    watch = Stopwatch()
    tasks = [spawn(nap((1 + i % SLEEP_MS_MAX) / 1000)) for i in range(n)]
    for task in tasks:
        await task
    return watch.stop().without(SLEEP_MS_MAX / 1000)


async def timeout_yield(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        async with timeout(10):
            await yield_now()
    return watch.stop()


async def gather_many(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GATHERED):
        await join(*[yields(1) for _ in range(GATHERED)])
    return watch.stop()
