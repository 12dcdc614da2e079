"""The tools in pyasync_c's own names. What each does stands in asyncio_tools.py."""

from pyasync_c import (
    Barrier,
    BroadcastReceiver,
    CancellationToken,
    Event,
    JoinSet,
    Lock,
    OneshotSender,
    Semaphore,
    TaskGroup,
    broadcast as new_broadcast,
    channel,
    oneshot as new_oneshot,
    select,
    spawn,
    watch as new_watch,
    yield_now,
)

from .asyncio_tools import BURST, GROUP, LOCK_TASKS, PARTIES, PERMITS, QUEUE_SIZE, RECEIVERS
from .native_shapes import yields
from .stopwatch import Spent, Stopwatch


async def queue(n: int) -> Spent:
    sender, receiver = channel(QUEUE_SIZE)

    async def produce() -> None:
        for i in range(n):
            await sender.send(i)

    task = spawn(produce())
    watch = Stopwatch()
    for _ in range(n):
        await receiver.recv()
    spent = watch.stop()
    await task
    return spent


async def queue_many(n: int) -> Spent:
    sender, receiver = channel(QUEUE_SIZE)

    async def produce() -> None:
        for i in range(n):
            await sender.send(i)

    task = spawn(produce())
    watch = Stopwatch()
    left = n
    while left > 0:
        left -= len(await receiver.recv_many(QUEUE_SIZE))
    spent = watch.stop()
    await task
    return spent


async def oneshot(n: int) -> Spent:
    async def answer(to: OneshotSender[int], value: int) -> None:
        to.send(value)

    watch = Stopwatch()
    for i in range(n):
        sender, reply = new_oneshot()
        task = spawn(answer(sender, i))
        await reply
        del task
    return watch.stop()


async def broadcast(n: int) -> Spent:
    sender, first = new_broadcast(2 * BURST)
    receivers = [first, *[sender.subscribe() for _ in range(RECEIVERS - 1)]]

    async def receive(receiver: BroadcastReceiver[int]) -> None:
        for _ in range(n):
            await receiver.recv()

    tasks = [spawn(receive(receiver)) for receiver in receivers]
    watch = Stopwatch()
    for _ in range(n // BURST):
        for i in range(BURST):
            sender.send(i)
        await yield_now()
    for task in tasks:
        await task
    return watch.stop()


async def watch(n: int) -> Spent:
    sender, receiver = new_watch(0)

    async def follow() -> None:
        while receiver.value < n:
            await receiver.changed()

    task = spawn(follow())
    await yield_now()
    stopwatch = Stopwatch()
    for i in range(1, n + 1):
        sender.send(i)
        await yield_now()
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
    lock = Lock()

    async def take_turns() -> None:
        for _ in range(n // LOCK_TASKS):
            async with lock:
                await yield_now()

    tasks = [spawn(take_turns()) for _ in range(LOCK_TASKS)]
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
                await yield_now()

    tasks = [spawn(take_turns()) for _ in range(LOCK_TASKS)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


async def event(n: int) -> Spent:
    there, back = Event(), Event()

    async def pong() -> None:
        for _ in range(n):
            await there.wait()
            there.clear()
            back.set()

    task = spawn(pong())
    await yield_now()
    watch = Stopwatch()
    for _ in range(n):
        there.set()
        await back.wait()
        back.clear()
    spent = watch.stop()
    await task
    return spent


async def barrier(n: int) -> Spent:
    meeting = Barrier(PARTIES)

    async def meet() -> None:
        for _ in range(n // PARTIES):
            await meeting.wait()

    tasks = [spawn(meet()) for _ in range(PARTIES)]
    watch = Stopwatch()
    for task in tasks:
        await task
    return watch.stop()


async def select_two(n: int) -> Spent:
    never = Event()
    watch = Stopwatch()
    for _ in range(n):
        await select(yield_now(), never.wait())
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
    tasks: JoinSet[None] = JoinSet()
    for _ in range(n // GROUP):
        for _ in range(GROUP):
            tasks.spawn(yields(1))
        while await tasks.join_next() is not None:
            pass
    return watch.stop()


async def cancel_all(n: int) -> Spent:
    watch = Stopwatch()
    for _ in range(n // GROUP):
        token = CancellationToken()
        tasks = [spawn(token.cancelled()) for _ in range(GROUP)]
        await yield_now()
        token.cancel()
        for task in tasks:
            await task
    return watch.stop()
