"""Deep and long structures on a small C stack: nothing of ours recurses with their length, or
polling says so with RecursionError."""

import os

import pytest
from helpers import python

# A hundred thousand links; PAC_DEEP=1000000 takes a minute or two and gigabytes.
LINKS = int(os.environ.get("PAC_DEEP", "100000"))
# Of the main thread, as by `ulimit -s 256`; Python itself needs some of it.
STACK = 256 * 1024


def run_on_a_small_stack(program, *args):
    return python(program, str(LINKS), *args, timeout=300, stack=STACK)


HEAD = """
import asyncio, gc, os, sys, threading
import pyasync_c

LINKS = int(sys.argv[1])

async def awaiting(awaitable):
    return await awaitable

def on_a_thread(work):
    # The least stack that a thread may have here, beside what Python takes.
    threading.stack_size(256 * 1024)
    failed = []
    def run():
        try:
            work()
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
"""

WAKES = {
    "notify": """
async def link(mine, following):
    await mine.notified()
    following.notify_one()

async def main():
    notifies = [pyasync_c.Notify() for _ in range(LINKS + 1)]
    tasks = [pyasync_c.spawn(link(*pair)) for pair in zip(notifies, notifies[1:])]
    await asyncio.sleep(0)
    last = notifies[-1].notified()
    notifies[0].notify_one()
    await last
    assert all(task.done() for task in tasks)
""",
    "tasks that await tasks": """
async def main():
    first = task = pyasync_c.spawn(asyncio.sleep(0.001, 7))
    for _ in range(LINKS):
        task = pyasync_c.spawn(awaiting(task))
    assert await task == 7
""",
    "tasks that are cancelled through": """
async def main():
    task = pyasync_c.spawn(pyasync_c.pending())
    for _ in range(LINKS):
        task = pyasync_c.spawn(awaiting(task))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert task.cancel()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
    os._exit(0)  # the error's traceback is as long, and Python's own destructor of it recurses
""",
    "channels": """
async def link(rx, tx):
    tx.try_send(await rx.recv())

async def main():
    channels = [pyasync_c.channel(1) for _ in range(LINKS + 1)]
    for (_, rx), (tx, _) in zip(channels, channels[1:]):
        pyasync_c.spawn(link(rx, tx))
    await asyncio.sleep(0)
    channels[0][0].try_send(7)
    assert await channels[-1][1].recv() == 7
""",
    "callbacks": """
async def main():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    def call(n):
        if n == 0:
            done.set_result(7)
        else:
            loop.call_soon(call, n - 1)
    call(LINKS)
    assert await done == 7
""",
    "tokens": """
async def main():
    root = token = pyasync_c.CancellationToken()
    waits = []
    for k in range(LINKS):
        token = token.child_token()
        if k % 10 == 0:
            waits.append(pyasync_c.spawn(awaiting(token.cancelled())))
    await asyncio.sleep(0)
    root.cancel()
    for wait in waits:
        await wait
    assert token.is_cancelled()
""",
    "one lock": """
async def enter(lock):
    async with lock:
        pass

async def main():
    lock = pyasync_c.Lock()
    tasks = [pyasync_c.spawn(enter(lock)) for _ in range(LINKS)]
    for task in tasks:
        await task
""",
}


@pytest.mark.parametrize("where", ["main thread", "thread"])
@pytest.mark.parametrize("how", WAKES)
def test_each_wakes_the_next(how, where):
    run = "pyasync_c.run(main())"
    if where == "thread":
        run = "on_a_thread(lambda: pyasync_c.run(main()))"
    run_on_a_small_stack(HEAD + WAKES[how] + run)


# What wraps an awaitable into a future of ours.
WRAPS = {
    "into_future": "lambda x: pyasync_c.into_future(awaiting(x))",
    "join": "lambda x: pyasync_c.join(x)",
    "join of two": "lambda x: pyasync_c.join(pyasync_c.ready(1), x)",
    "select": "lambda x: pyasync_c.select(x)",
    "poll_once": "lambda x: pyasync_c.poll_once(x)",
    "run_until_cancelled": "lambda x: pyasync_c.CancellationToken().run_until_cancelled(x)",
    "poll_fn": "lambda x: pyasync_c.poll_fn(x.poll)",
    "wait of a task": "lambda x: pyasync_c.into_future(x)",
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_wrapped_deeply_and_dropped(wrap):
    """Never polled."""
    run_on_a_small_stack(
        HEAD
        + f"""
wrap = {WRAPS[wrap]}
import warnings
warnings.simplefilter("ignore")
future = pyasync_c.pending()
for _ in range(LINKS):
    future = wrap(future)
del future
gc.collect()
"""
    )


@pytest.mark.parametrize("wrap", WRAPS)
def test_wrapped_deeply_and_awaited(wrap):
    """Polling goes as deep as Python's own limits, made for a usual stack: RecursionError."""
    python(
        HEAD
        + f"""
wrap = {WRAPS[wrap]}
import warnings
warnings.simplefilter("ignore")

def made(depth):
    future = pyasync_c.yield_now()
    for _ in range(depth):
        future = wrap(future)
    return future

async def main():
    await made(20)
    for depth in 300, LINKS:
        try:
            await made(depth)
        except RecursionError:
            pass
    return await pyasync_c.ready("goes on")

assert pyasync_c.run(main()) == "goes on"
""",
        str(LINKS),
    )
