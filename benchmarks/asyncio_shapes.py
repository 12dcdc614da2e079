"""The shapes in asyncio's names, for every loop that offers asyncio's interface.

Each takes the number of operations and returns what they cost. They are what a user of asyncio
would write, with nothing between the program and the library.
"""

import asyncio
import threading
from asyncio import (
    Event,
    Task,
    create_task,
    gather,
    get_running_loop,
    sleep,
    timeout,
)

from .stopwatch import Spent, Stopwatch

YIELDING_TASKS = 1000
SLEEP_MS_MAX = 100
CALLBACKS = 500
GATHERED = 100


async def nothing() -> None:
    pass


async def yields(n: int) -> None:
    for _ in range(n):
        await sleep(0)


async def yield_one(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        await sleep(0)
    return watch.stop()


async def yield_many(n: int) -> Spent:
    tasks = [create_task(yields(n // YIELDING_TASKS)) for _ in range(YIELDING_TASKS)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


async def spawn_await(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        await create_task(nothing())
    return watch.stop()


async def spawn_many(n: int) -> Spent:
    watch = Stopwatch()
    tasks: list[Task[None]] = [create_task(nothing()) for _ in range(n)]
    for task in tasks:
        await task
    return watch.stop()


async def ping_pong(n: int) -> Spent:
    there, back = Event(), Event()

    async def pong() -> None:
        for _ in range(n):
            await there.wait()
            there.clear()
            back.set()

    task = create_task(pong())
    await sleep(0)
    watch = Stopwatch()
    for _ in range(n):
        there.set()
        await back.wait()
        back.clear()
    spent = watch.stop()
    await task
    return spent


async def sleep_many(n: int) -> Spent:
    watch = Stopwatch()
    tasks = [create_task(sleep((1 + i % SLEEP_MS_MAX) / 1000)) for i in range(n)]
    for task in tasks:
        await task
    return watch.stop().without(SLEEP_MS_MAX / 1000)


async def timeout_yield(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n):
        async with timeout(10):
            await sleep(0)
    return watch.stop()


async def gather_many(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GATHERED):
        await gather(*[yields(1) for _ in range(GATHERED)])
    return watch.stop()


# What only asyncio's interface has


def no_op() -> None:
    pass


async def call_soon(n: int) -> Spent:
    soon = get_running_loop().call_soon
    watch = Stopwatch()
    for _ in range(n // CALLBACKS):
        for _ in range(CALLBACKS):
            soon(no_op)
        await sleep(0)
    return watch.stop()


async def call_later(n: int) -> Spent:
    later = get_running_loop().call_later
    watch = Stopwatch()
    for i in range(n):
        later(10, no_op).cancel()
        if i % CALLBACKS == 0:
            await sleep(0)
    return watch.stop()


async def threadsafe(n: int) -> Spent:
    """All of them from one other thread, until the last one has been called."""
    loop = get_running_loop()
    last: asyncio.Future[None] = loop.create_future()

    def call() -> None:
        soon = loop.call_soon_threadsafe
        for _ in range(n - 1):
            soon(no_op)
        soon(last.set_result, None)

    thread = threading.Thread(target=call)
    watch = Stopwatch()
    thread.start()
    await last
    spent = watch.stop()
    thread.join()
    return spent
