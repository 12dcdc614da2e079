"""The tools in trio's names. What each does stands in asyncio_tools.py, and what trio lacks in
trio_shapes.py. A memory channel for each receiver stands for a broadcast, a nursery for a group.
"""

from trio import (
    Condition,
    Event,
    Lock,
    MemoryReceiveChannel,
    Semaphore,
    open_memory_channel,
    open_nursery,
)
from trio.lowlevel import checkpoint

from .asyncio_tools import BURST, GROUP, LOCK_TASKS, PERMITS, QUEUE_SIZE, RECEIVERS
from .stopwatch import Spent, Stopwatch
from .trio_shapes import gather_many, ping_pong


async def queue(n: int) -> Spent:
    sender, receiver = open_memory_channel[int](QUEUE_SIZE)

    async def produce() -> None:
        for i in range(n):
            await sender.send(i)

    async with open_nursery() as nursery:
        nursery.start_soon(produce)
        watch = Stopwatch()
        for _ in range(n):
            await receiver.receive()
        return watch.stop()


queue_many = queue


async def oneshot(n: int) -> Spent:
    async def answer(to: Event) -> None:
        to.set()

    async with open_nursery() as nursery:
        watch = Stopwatch()
        for _ in range(n):
            reply = Event()
            nursery.start_soon(answer, reply)
            await reply.wait()
        return watch.stop()


async def broadcast(n: int) -> Spent:
    ends = [open_memory_channel[int](2 * BURST) for _ in range(RECEIVERS)]

    async def receive(receiver: MemoryReceiveChannel[int]) -> None:
        for _ in range(n):
            await receiver.receive()

    async with open_nursery() as nursery:
        for _, receiver in ends:
            nursery.start_soon(receive, receiver)
        watch = Stopwatch()
        for _ in range(n // BURST):
            for i in range(BURST):
                for sender, _ in ends:
                    await sender.send(i)
    return watch.stop()


async def watch(n: int) -> Spent:
    changed = Condition()
    value = 0

    async def follow() -> None:
        async with changed:
            while value < n:
                await changed.wait()

    async with open_nursery() as nursery:
        nursery.start_soon(follow)
        await checkpoint()
        stopwatch = Stopwatch()
        for i in range(1, n + 1):
            async with changed:
                value = i
                changed.notify_all()
            await checkpoint()
    return stopwatch.stop()


async def lock(n: int) -> Spent:
    free = Lock()
    watch = Stopwatch()
    for _ in range(n):
        async with free:
            pass
    return watch.stop()


async def lock_turns(n: int) -> Spent:
    lock = Lock()

    async def take_turns() -> None:
        for _ in range(n // LOCK_TASKS):
            async with lock:
                await checkpoint()

    async with open_nursery() as nursery:
        for _ in range(LOCK_TASKS):
            nursery.start_soon(take_turns)
        watch = Stopwatch()
    return watch.stop()


async def semaphore(n: int) -> Spent:
    free = Semaphore(PERMITS)
    watch = Stopwatch()
    for _ in range(n):
        async with free:
            pass
    return watch.stop()


async def semaphore_turns(n: int) -> Spent:
    semaphore = Semaphore(PERMITS)

    async def take_turns() -> None:
        for _ in range(n // LOCK_TASKS):
            async with semaphore:
                await checkpoint()

    async with open_nursery() as nursery:
        for _ in range(LOCK_TASKS):
            nursery.start_soon(take_turns)
        watch = Stopwatch()
    return watch.stop()


event = ping_pong


async def select_two(n: int) -> Spent:
    never = Event()
    watch = Stopwatch()
    for _ in range(n):
        async with open_nursery() as nursery:
            nursery.start_soon(never.wait)
            await checkpoint()
            nursery.cancel_scope.cancel()
    return watch.stop()


task_group = gather_many


async def cancel_all(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GROUP):
        told = Event()
        async with open_nursery() as nursery:
            for _ in range(GROUP):
                nursery.start_soon(told.wait)
            await checkpoint()
            told.set()
    return watch.stop()
