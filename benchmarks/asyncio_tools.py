"""The tools in asyncio's names, for every loop that offers asyncio's interface.

Where asyncio has no such tool, it is what a user of asyncio would take instead: Future for a
oneshot, a Queue for each receiver of a broadcast, a Condition for a watched value, an Event for a
cancellation token.
"""

from asyncio import (
    FIRST_COMPLETED,
    Barrier,
    Condition,
    Event,
    Future,
    Lock,
    Queue,
    Semaphore,
    TaskGroup,
    as_completed,
    create_task,
    get_running_loop,
    sleep,
    wait,
)

from .asyncio_shapes import ping_pong, yields
from .stopwatch import Spent, Stopwatch

QUEUE_SIZE = 128
RECEIVERS = 4
BURST = 32
LOCK_TASKS = 10
PERMITS = 2
PARTIES = 10
GROUP = 100


async def queue(n: int) -> Spent:
    messages: Queue[int] = Queue(QUEUE_SIZE)

    async def produce() -> None:
        for i in range(n):
            await messages.put(i)

    task = create_task(produce())
    watch = Stopwatch()
    for _ in range(n):
        await messages.get()
    spent = watch.stop()
    await task
    return spent


queue_many = queue
"""There is no get of many: beside recv_many stands the loop of gets."""


async def oneshot(n: int) -> Spent:
    loop = get_running_loop()

    async def answer(to: Future[int], value: int) -> None:
        to.set_result(value)

    watch = Stopwatch()
    for i in range(n):
        reply: Future[int] = loop.create_future()
        task = create_task(answer(reply, i))
        await reply
        del task
    return watch.stop()


async def broadcast(n: int) -> Spent:
    queues: list[Queue[int]] = [Queue() for _ in range(RECEIVERS)]

    async def receive(messages: Queue[int]) -> None:
        for _ in range(n):
            await messages.get()

    tasks = [create_task(receive(messages)) for messages in queues]
    watch = Stopwatch()
    for _ in range(n // BURST):
        for i in range(BURST):
            for messages in queues:
                messages.put_nowait(i)
        await sleep(0)
    for task in tasks:
        await task
    return watch.stop()


async def watch(n: int) -> Spent:
    """One task sets the value and lets the other see it, which it does each time."""
    changed = Condition()
    value = 0

    async def follow() -> None:
        async with changed:
            while value < n:
                await changed.wait()

    task = create_task(follow())
    await sleep(0)
    stopwatch = Stopwatch()
    for i in range(1, n + 1):
        async with changed:
            value = i
            changed.notify_all()
        await sleep(0)
    await task
    return stopwatch.stop()


async def lock(n: int) -> Spent:
    free = Lock()
    watch = Stopwatch()
    for _ in range(n):
        async with free:
            pass
    return watch.stop()


async def lock_turns(n: int) -> Spent:
    """Whoever has the lock lets the others run once, so that all of them wait for it."""
    lock = Lock()

    async def take_turns() -> None:
        for _ in range(n // LOCK_TASKS):
            async with lock:
                await sleep(0)

    tasks = [create_task(take_turns()) for _ in range(LOCK_TASKS)]
    watch = Stopwatch()
    for task in tasks:
        await task
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
                await sleep(0)

    tasks = [create_task(take_turns()) for _ in range(LOCK_TASKS)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


event = ping_pong


async def barrier(n: int) -> Spent:
    meeting = Barrier(PARTIES)

    async def meet() -> None:
        for _ in range(n // PARTIES):
            await meeting.wait()

    tasks = [create_task(meet()) for _ in range(PARTIES)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


async def select_two(n: int) -> Spent:
    """One is ready after a turn, the other one never."""
    never = Event()
    watch = Stopwatch()
    for _ in range(n):
        both = create_task(sleep(0)), create_task(never.wait())
        _, pending = await wait(both, return_when=FIRST_COMPLETED)
        for task in pending:
            task.cancel()
    return watch.stop()


async def task_group(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GROUP):
        async with TaskGroup() as group:
            for _ in range(GROUP):
                group.create_task(yields(1))
    return watch.stop()


async def join_set(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GROUP):
        for ended in as_completed([yields(1) for _ in range(GROUP)]):
            await ended
    return watch.stop()


async def cancel_all(n: int) -> Spent:
    """One call tells all that wait for it. Spawning them is part of it."""
    watch = Stopwatch()
    for _ in range(n // GROUP):
        told = Event()
        tasks = [create_task(told.wait()) for _ in range(GROUP)]
        await sleep(0)
        told.set()
        for task in tasks:
            await task
    return watch.stop()
