"""Runtime(seed=n): tasks in a pseudo-random order that the same seed repeats."""

import asyncio
import os
import subprocess
import sys

import pytest

import pyasync_c

SEEDS = 50


def first_of_three(seed):
    async def main():
        return [(await pyasync_c.select(*map(pyasync_c.ready, "abc")))[1] for _ in range(20)]

    with pyasync_c.Runtime(seed=seed) as runtime:
        return "".join(runtime.run(main()))


def test_select_begins_anywhere_and_a_seed_repeats_it():
    orders = {seed: first_of_three(seed) for seed in range(SEEDS)}
    assert orders == {seed: first_of_three(seed) for seed in range(SEEDS)}
    assert len(set(orders.values())) == SEEDS
    assert all(set(order) == set("abc") for order in orders.values())
    assert first_of_three(None) == "a" * 20


# Prints what happens under each seed: tasks that wait for one another in many ways.
TRACE = """
import asyncio, sys
import pyasync_c

async def scenario(log):
    notify, event, queue = pyasync_c.Notify(), asyncio.Event(), asyncio.Queue(2)
    lock = asyncio.Lock()

    async def notified(n):
        await notify.notified()
        log.append(f"n{n}")

    async def evented(n):
        await event.wait()
        async with lock:
            log.append(f"e{n}")
            await asyncio.sleep(0.01 * (n % 3))

    async def producer(n):
        for i in range(4):
            await queue.put((n, i))
            log.append(f"p{n}.{i}")

    async def consumer(n):
        while True:
            log.append("c%d:%d.%d" % (n, *await queue.get()))
            queue.task_done()

    async def ticker(n):
        for i in range(3):
            await pyasync_c.sleep(0.01)
            log.append(f"t{n}.{i}@{pyasync_c.now()}")

    async def doomed(n):
        try:
            await pyasync_c.pending()
        finally:
            log.append(f"x{n}")

    consumers = [asyncio.create_task(consumer(n)) for n in range(2)]
    async with asyncio.TaskGroup() as group:
        for n in range(5):
            for f in (notified, evented, producer, ticker):
                group.create_task(f(n))
        await asyncio.sleep(0.005)
        notify.notify_waiters()
        event.set()
        await asyncio.wait([group.create_task(asyncio.sleep(0.001 * n)) for n in range(9)])
    await queue.join()
    # A set of tasks decides in which order these are cancelled.
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(12):
                group.create_task(doomed(n))
            await asyncio.sleep(0)
            raise ZeroDivisionError
    except* ZeroDivisionError:
        pass
    left = {asyncio.create_task(doomed(100 + n)) for n in range(12)}
    await asyncio.sleep(0.1)
    for task in consumers + list(left):
        task.cancel()
    await asyncio.wait(left)

for seed in range(int(sys.argv[1])):
    log = []
    with pyasync_c.Runtime(clock="virtual", seed=seed) as runtime:
        runtime.run(scenario(log))
    print(*log)
"""


def trace(hash_seed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["PYTHONHASHSEED"] = hash_seed
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRACE, str(SEEDS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_same_seed_gives_the_same_run_in_every_process_and_another_seed_another():
    first = trace("0")
    assert len(first) == SEEDS and all(first)
    for hash_seed in ("1", "random", "random"):
        assert trace(hash_seed) == first
    assert len(set(first)) == SEEDS


def order_of(seed, count=6):
    order = []

    async def one(n):
        order.append(n)

    async def main():
        await asyncio.gather(*map(one, range(count)))

    with pyasync_c.Runtime(seed=seed) as runtime:
        runtime.run(main())
    return order


def test_without_a_seed_tasks_keep_their_order():
    assert order_of(None) == [0, 1, 2, 3, 4, 5]


def test_seeds_reach_every_order():
    assert len({tuple(order_of(seed, 3)) for seed in range(100)}) == 6
    assert order_of(0) == order_of(0)
    assert order_of(2**64 - 1) == order_of(2**64 - 1)


def test_a_task_may_run_twice_before_another_runs_once():
    def overtaken(seed):
        log = []

        async def steps(name):
            for _ in range(4):
                log.append(name)
                await pyasync_c.yield_now()

        async def main():
            await asyncio.gather(steps("a"), steps("b"))

        with pyasync_c.Runtime(seed=seed) as runtime:
            runtime.run(main())
        return "".join(log)

    runs = {overtaken(seed) for seed in range(100)}
    assert any("aa" in run[:4] for run in runs) and any("bb" in run[:4] for run in runs)
    assert all(sorted(run) == list("aaaabbbb") for run in runs)


class Answer:
    def __index__(self):
        return 42


@pytest.mark.parametrize("make", [pyasync_c.Runtime, pyasync_c.new_event_loop])
@pytest.mark.parametrize(
    "seed, error",
    [(-1, ValueError), (2**64, ValueError), (10**30, ValueError)]
    + [(1.0, TypeError), (True, TypeError), ("1", TypeError), (b"1", TypeError)],
)
def test_a_seed_that_is_none(make, seed, error):
    with pytest.raises(error, match="seed must be"):
        make(seed=seed)


def test_a_seed_is_an_integer_of_any_type():
    assert order_of(Answer(), 30) == order_of(42, 30)


# ---- what programs rely on stays


@pytest.mark.parametrize("seed", range(20))
def test_callbacks_keep_their_order_and_come_before_a_task_that_was_queued_later(seed):
    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        others = [asyncio.create_task(yielder()) for _ in range(5)]
        for n in range(20):
            loop.call_soon(calls.append, n)
            if n % 5 == 0:
                await asyncio.sleep(0)
                assert calls == list(range(n + 1))
        timers = []
        for n in range(10):
            loop.call_later(0.001 * n, timers.append, n)
        await asyncio.sleep(0.02)
        assert timers == list(range(10))
        for other in others:
            await other

    async def yielder():
        for _ in range(10):
            await asyncio.sleep(0)

    with pyasync_c.Runtime(seed=seed, clock="virtual") as runtime:
        runtime.run(main())


@pytest.mark.parametrize("seed", range(10))
def test_asyncios_own_protocols_work(seed):
    async def main():
        async def serve(reader, writer):
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def client(n):
            reader, writer = await asyncio.open_connection(*address)
            for i in range(10):
                writer.write(f"{n} says {i}\n".encode())
                assert await reader.readline() == f"{n} SAYS {i}\n".encode()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with server, asyncio.timeout(60):
            await asyncio.gather(*map(client, range(10)))
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert (await child.communicate(b"x" * 100_000))[0] == b"x" * 100_000
        assert await asyncio.to_thread(lambda: 5) == 5

    with pyasync_c.Runtime(seed=seed) as runtime:
        runtime.run(main())


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_under_any_seed(seed):
    async def main():
        notify = pyasync_c.Notify()
        got = 0

        async def waiter():
            nonlocal got
            for _ in range(20):
                await notify.notified()
                got += 1

        waiters = [asyncio.create_task(waiter()) for _ in range(10)]
        while got < 200:
            notify.notify_one()
            await pyasync_c.yield_now()
        await asyncio.gather(*waiters)
        assert got == 200

    with pyasync_c.Runtime(seed=seed, clock="virtual") as runtime:
        runtime.run(main())
