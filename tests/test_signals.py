"""Signals in every state: KeyboardInterrupt once, every `finally` run, nothing lost, and the
process as it was before."""

import os
import random

import pytest
from helpers import python

# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────

INTERRUPTED = """
import asyncio, os, signal, sys, threading, time
import pyasync_c

def interrupt_soon(started, times=1):
    def kill():
        assert started.wait(60)
        for _ in range(times):
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=kill, daemon=True).start()

def interrupted(make, times=1):
    steps, started = [], threading.Event()
    interrupt_soon(started, times)
    try:
        pyasync_c.run(make(steps, started))
    except KeyboardInterrupt:
        steps.append("KeyboardInterrupt")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1
    return steps

"""


@pytest.mark.parametrize(
    "wait",
    [
        "await pyasync_c.sleep(60)",
        "await asyncio.sleep(60)",
        "await pyasync_c.pending()",
        "await asyncio.Event().wait()",
        "while True: await pyasync_c.yield_now()",
        "while True: await asyncio.sleep(0)",
        "await asyncio.to_thread(time.sleep, 0.2); await pyasync_c.pending()",
        "deadline = time.monotonic() + 0.3\n"
        "        while time.monotonic() < deadline: pass\n"
        "        await pyasync_c.sleep(60)",
        "process = await asyncio.create_subprocess_exec('sleep', '60', start_new_session=True)\n"
        "        try: await process.wait()\n"
        "        finally: process.kill()",
    ],
)
def test_ctrl_c_cancels_main_and_raises(wait):
    python(
        INTERRUPTED
        + f"""
async def main(steps, started):
    started.set()
    try:
        {wait}
    except asyncio.CancelledError:
        steps.append("cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        steps.append("finally")

assert interrupted(main) == ["cancelled", "finally", "KeyboardInterrupt"]
"""
    )


def test_ctrl_c_cancels_the_others_too():
    python(
        INTERRUPTED
        + """
async def other(steps):
    try:
        await pyasync_c.pending()
    finally:
        await pyasync_c.sleep(0.001)
        steps.append("other")

async def main(steps, started):
    pyasync_c.spawn(other(steps))
    await asyncio.sleep(0)
    started.set()
    await pyasync_c.pending()

assert interrupted(main) == ["other", "KeyboardInterrupt"]
"""
    )


def test_a_second_ctrl_c_does_not_wait():
    python(
        INTERRUPTED
        + """
async def main(steps, started):
    started.set()
    while True:
        try:
            await pyasync_c.sleep(60)
        except asyncio.CancelledError:
            steps.append("swallowed")
            while True:
                time.sleep(0.001)

assert interrupted(main, times=2) == ["swallowed", "KeyboardInterrupt"]
"""
    )


def test_ctrl_c_taken_by_another_thread_wakes_the_parked_loop():
    python(
        INTERRUPTED
        + """
async def main(steps, started):
    started.set()
    await pyasync_c.sleep(60)

ready = threading.Event()

def take():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ready.set()
    threading.Event().wait()

threading.Thread(target=take, daemon=True).start()
assert ready.wait(60)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
began = time.monotonic()
assert interrupted(main) == ["KeyboardInterrupt"]
assert time.monotonic() - began < 30
"""
    )


def test_a_handler_of_ones_own_is_left_alone():
    python(
        INTERRUPTED
        + """
seen = []
signal.signal(signal.SIGINT, lambda *args: seen.append(1))

async def main():
    handler = signal.getsignal(signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    while not seen:
        await pyasync_c.sleep(0.001)
    return signal.getsignal(signal.SIGINT) is handler

assert pyasync_c.run(main())
"""
    )


def test_a_parked_loop_runs_other_signal_handlers():
    python(
        INTERRUPTED
        + """
seen = []

async def main():
    future = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    def handler(*args):
        loop.call_soon_threadsafe(future.set_result, "signalled")
    signal.signal(signal.SIGUSR1, handler)
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    return await future

assert pyasync_c.run(main()) == "signalled"

def explode(*args):
    raise ZeroDivisionError

async def main():
    signal.signal(signal.SIGUSR1, explode)
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    await pyasync_c.sleep(60)

try:
    pyasync_c.run(main())
except ZeroDivisionError:
    print("left")
else:
    raise AssertionError
"""
    )


def test_no_signals_are_touched_on_other_threads():
    python(
        INTERRUPTED
        + """
async def main():
    return signal.getsignal(signal.SIGINT)

results = []
thread = threading.Thread(target=lambda: results.append(pyasync_c.run(main())))
thread.start()
thread.join()
assert results == [signal.default_int_handler]
"""
    )


# ── at any place, at any instant ────────────────────────────────────────────────────────────────

RAISED_AT = {
    "poll": "await pyasync_c.poll_fn(lambda cx: interrupt())",
    "callback": "loop.call_soon(interrupt)",
    "threadsafe callback": "await asyncio.to_thread(loop.call_soon_threadsafe, interrupt)",
    "timer": "loop.call_later(0.002, interrupt)",
    "task": "pyasync_c.spawn(call(interrupt))",
    "done callback": "pyasync_c.spawn(call(int)).add_done_callback(interrupt)",
    "waker": "pyasync_c.Waker(interrupt).wake()",
    "notified waker": "notify = pyasync_c.Notify(); one = notify.notified()\n"
    "        one.poll(pyasync_c.Context(pyasync_c.Waker(interrupt))); notify.notify_one()",
    "weakref callback": "victim = Victim()\n"
    "        ref = weakref.ref(victim, interrupt); del victim",
    "finally": "task = pyasync_c.spawn(in_finally()); await asyncio.sleep(0); task.cancel()",
}


@pytest.mark.parametrize("place", RAISED_AT)
def test_ctrl_c_while_something_runs(place):
    """The handler cancels main wherever it comes, and every finally runs."""
    python(
        f"""
import asyncio, signal, weakref
import pyasync_c

steps = []

class Victim:
    pass

def interrupt(*args):
    signal.raise_signal(signal.SIGINT)

async def call(f):
    f()

async def in_finally():
    try:
        await pyasync_c.pending()
    finally:
        interrupt()

async def other():
    try:
        await pyasync_c.pending()
    finally:
        await asyncio.sleep(0)
        steps.append("other")

async def main():
    loop = asyncio.get_running_loop()
    pyasync_c.spawn(other())
    await asyncio.sleep(0)
    try:
        {RAISED_AT[place]}
        await pyasync_c.sleep(3600)
    finally:
        steps.append("main")

try:
    pyasync_c.run(main())
except KeyboardInterrupt:
    steps.append("KeyboardInterrupt")
assert steps == ["main", "other", "KeyboardInterrupt"], steps
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert pyasync_c.run(pyasync_c.sleep(0.001, "again")) == "again"
"""
    )


def test_ctrl_c_at_random_instants():
    seed = random.randrange(2**32)
    printed = python(
        """
import asyncio, os, random, signal, sys, threading, time
import pyasync_c

chance = random.Random(int(sys.argv[1]))
entered = left = 0

async def worker(k, notify):
    global entered, left
    entered += 1
    try:
        while True:
            match k % 5:
                case 0: await pyasync_c.yield_now()
                case 1: await pyasync_c.sleep(0.0003)
                case 2: notify.notify_one(); await asyncio.sleep(0.0002)
                case 3: await notify.notified()
                case 4: await asyncio.to_thread(int)
    finally:
        await asyncio.sleep(0)
        await pyasync_c.yield_now()
        left += 1

async def main(started):
    global entered, left
    notify = pyasync_c.Notify()
    entered += 1
    try:
        for k in range(10):
            pyasync_c.spawn(worker(k, notify))
        await asyncio.sleep(0)
        started.set()
        await worker(round_number, notify)
    finally:
        left += 1

def interrupt(started, after):
    assert started.wait(60)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGINT)

for round_number in range(40):
    started = threading.Event()
    arguments = started, chance.random() * 0.006
    thread = threading.Thread(target=interrupt, args=arguments)
    thread.start()
    interrupts = 0
    try:
        pyasync_c.run(main(started))
    except KeyboardInterrupt:
        interrupts += 1
    thread.join()
    assert interrupts == 1, round_number
    assert entered == left > 0, (round_number, entered, left)
print("rounds", round_number + 1)
""",
        str(seed),
    )
    assert printed == "rounds 40\n", f"seed {seed}"


# 1000 instants take half a minute.
INSTANTS = int(os.environ.get("PAC_SIGNAL_INSTANTS", "200"))

# What goes on while the signals come. `enter` counts the blocks whose `finally` has to run.
STATES = {
    "parked": """
async def others():
    for _ in range(5):
        pyasync_c.spawn(enter(pyasync_c.sleep(60)))
        pyasync_c.spawn(enter(asyncio.sleep(60)))
""",
    "polling": """
async def polls():
    while True:
        await pyasync_c.yield_now()
        await asyncio.sleep(0)

async def others():
    for _ in range(5):
        pyasync_c.spawn(enter(polls()))
""",
    "in callbacks": """
async def others():
    loop = asyncio.get_running_loop()
    def again():
        if not over:
            loop.call_soon(again)
            loop.call_later(0, int)
    again()
    pyasync_c.spawn(enter(pyasync_c.pending()))
""",
    "in leaves": """
async def produce():
    global sent
    while True:
        value = sent
        await tx.send(value)
        sent = value + 1

async def consume():
    while True:
        received.append(await rx.recv())

async def pass_on():
    while True:
        async with semaphore, pyasync_c.timeout(10):
            await pyasync_c.select(notify.notified(), pyasync_c.sleep(0.0001))
        notify.notify_one()

async def others():
    pyasync_c.spawn(enter(produce()))
    for _ in range(2):
        pyasync_c.spawn(enter(consume()))
        pyasync_c.spawn(enter(pass_on()))
""",
    "with threads": """
async def others():
    loop = asyncio.get_running_loop()
    waker = await pyasync_c.poll_fn(lambda cx: cx.waker.clone())
    def storm():
        while not over:
            waker.wake()
            try:
                loop.call_soon_threadsafe(int)
            except RuntimeError:
                break
            time.sleep(0.0001)
    threads.append(threading.Thread(target=storm))
    threads[-1].start()
    pyasync_c.spawn(enter(pyasync_c.pending()))
""",
}


@pytest.mark.parametrize("state", STATES)
def test_ctrl_c_at_random_instants_while(state):
    seed = random.randrange(2**32)
    printed = python(
        """
import asyncio, os, random, signal, socket, sys, threading, time
import pyasync_c

chance = random.Random(int(sys.argv[1]))
instants = int(sys.argv[2])
entered = left = 0
threads = []

async def enter(awaitable):
    global entered, left
    entered += 1
    try:
        await awaitable
    finally:
        left += 1
"""
        + STATES[state]
        + """
async def main(started):
    await others()
    await asyncio.sleep(0)
    started.set()
    await enter(pyasync_c.pending())

def interrupt(started, after):
    assert started.wait(60)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGINT)

ours, theirs = socket.socketpair()
ours.setblocking(False)
signal.set_wakeup_fd(ours.fileno())
for instant in range(instants):
    over = False
    sent, received = 0, []
    tx, rx = pyasync_c.channel(2)
    semaphore, notify = pyasync_c.Semaphore(1), pyasync_c.Notify()
    started = threading.Event()
    arguments = started, chance.random() ** 3 * 0.004
    thread = threading.Thread(target=interrupt, args=arguments)
    thread.start()
    try:
        pyasync_c.run(main(started))
    except KeyboardInterrupt:
        interrupts = 1
    else:
        interrupts = 0
    over = True
    thread.join()
    for thread in threads:
        thread.join()
    threads.clear()
    assert interrupts == 1, instant
    assert entered == left > 0, (instant, entered, left)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    while True:
        try:
            received.append(rx.try_recv())
        except (pyasync_c.ChannelEmpty, pyasync_c.ChannelClosed):
            break
    # The last may have been sent by an await that was then cancelled.
    assert received in (list(range(sent)), list(range(sent + 1))), (instant, sent, received)
    assert semaphore.available_permits == 1
assert signal.set_wakeup_fd(-1) == ours.fileno()
print("instants", instant + 1)
""",
        str(seed),
        str(INSTANTS),
        timeout=600,
    )
    assert printed == f"instants {INSTANTS}\n", f"seed {seed}"


def test_ctrl_c_at_random_instants_while_it_closes():
    """Whatever the runtime was doing about what main has left over: it is closed, and each of the
    left-overs has been ended."""
    seed = random.randrange(2**32)
    printed = python(
        """
import asyncio, gc, logging, os, random, signal, sys, threading, time, warnings
import pyasync_c

logging.disable()  # of tasks that were destroyed while they waited
warnings.simplefilter("ignore")

chance = random.Random(int(sys.argv[1]))
instants = int(sys.argv[2])
entered = left = interrupted = 0

async def lingers(k):
    global entered, left
    entered += 1
    try:
        await pyasync_c.sleep(60)
    finally:
        left += 1

async def generates():
    while True:
        yield  # nobody can close one of these once its loop has gone

async def main():
    global generator
    generator = generates()
    await anext(generator)
    await pyasync_c.spawn_blocking(time.sleep, 0.0001)
    for k in range(20):
        pyasync_c.spawn(lingers(k))
    await asyncio.sleep(0)

def interrupt(ready, after):
    assert ready.wait(60)
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGINT)
    sent.set()

for instant in range(instants):
    ready, sent = threading.Event(), threading.Event()
    thread = threading.Thread(target=interrupt, args=(ready, chance.random() * 0.002))
    runtime = pyasync_c.Runtime()
    runtime.run(main())
    try:
        try:
            thread.start()
            ready.set()
            runtime.close()
        finally:
            sent.wait(60)
            time.sleep(0)  # the handler runs before this returns, if it has not yet
    except KeyboardInterrupt:
        interrupted += 1
    thread.join()
    assert interrupted == instant + 1
    assert runtime._loop.is_closed()
    runtime = generator = None
    gc.collect()
    assert entered == left, (instant, entered, left)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1
    assert asyncio._get_running_loop() is None
assert pyasync_c.run(pyasync_c.ready(7)) == 7
print("instants", instant + 1)
""",
        str(seed),
        str(INSTANTS),
        timeout=600,
    )
    assert printed == f"instants {INSTANTS}\n", f"seed {seed}"


@pytest.mark.parametrize("state", ["parked", "polling", "in callbacks", "in leaves"])
def test_other_signals_at_random_instants_while(state):
    """A handler of the loop's is called once for each that comes after the one before was seen."""
    seed = random.randrange(2**32)
    printed = python(
        """
import asyncio, os, random, signal, sys, threading, time
import pyasync_c

chance = random.Random(int(sys.argv[1]))
instants = int(sys.argv[2])
over = False
sent, received = 0, []
tx, rx = pyasync_c.channel(2)
semaphore, notify = pyasync_c.Semaphore(1), pyasync_c.Notify()

async def enter(awaitable):
    await awaitable
"""
        + STATES[state]
        + """
async def main():
    global over
    loop = asyncio.get_running_loop()
    seen = threading.Semaphore(0)
    handled = 0
    done = pyasync_c.Event()

    def handle():
        nonlocal handled
        handled += 1
        seen.release()

    def kill():
        for _ in range(instants):
            time.sleep(chance.random() * 0.0005)
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen.acquire(timeout=60)
        done.set()

    loop.add_signal_handler(signal.SIGTERM, handle)
    await others()
    thread = threading.Thread(target=kill)
    thread.start()
    await done.wait()
    thread.join()
    over = True
    assert loop.remove_signal_handler(signal.SIGTERM)
    return handled

print("handled", pyasync_c.run(main()))
assert signal.set_wakeup_fd(-1) == -1
""",
        str(seed),
        str(INSTANTS),
        timeout=600,
    )
    assert printed == f"handled {INSTANTS}\n", f"seed {seed}"


def test_ctrl_c_in_a_blocking_twin():
    """blocking_recv on the main thread is left by KeyboardInterrupt, and has received nothing."""
    python(
        INTERRUPTED
        + """
tx, rx = pyasync_c.channel(1)
one_tx, one_rx = pyasync_c.oneshot()
many_tx, many_rx = pyasync_c.broadcast(1)
watch_tx, watch_rx = pyasync_c.watch(1)
for block in (
    rx.blocking_recv, one_rx.blocking_recv, many_rx.blocking_recv, watch_rx.blocking_changed
):
    for _ in range(5):
        started = threading.Event()
        interrupt_soon(started)
        try:
            started.set()
            block()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError
tx.try_send(1)
one_tx.send(2)
many_tx.send(3)
watch_tx.send(4)
assert (rx.blocking_recv(), one_rx.blocking_recv(), many_rx.blocking_recv()) == (1, 2, 3)
watch_rx.blocking_changed()
"""
    )


@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_while_the_loop_closes_itself(times):
    """It is closed to the end, and KeyboardInterrupt is raised after that."""
    python(
        f"""
import asyncio, gc, os, signal
import pyasync_c

runtime = pyasync_c.Runtime()
loop = runtime.get_loop()
runtime.run(pyasync_c.sleep(0))
descriptors = len(os.listdir("/proc/self/fd"))
close = loop._close_self_pipe

def interrupted():
    for _ in range({times}):
        signal.raise_signal(signal.SIGINT)
    close()

loop._close_self_pipe = interrupted
try:
    runtime.close()
except KeyboardInterrupt:
    pass
else:
    raise AssertionError
assert loop.is_closed() and loop._csock is None
assert len(os.listdir("/proc/self/fd")) < descriptors - 3
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert pyasync_c.run(pyasync_c.sleep(0, 7)) == 7
"""
    )


def test_ctrl_c_while_left_overs_end():
    """The first ends the waiting for what does not come to an end, the second is raised there."""
    python(
        """
import asyncio, gc, logging, signal
import pyasync_c

logging.disable()  # of tasks that were destroyed while they waited
steps = []

async def lingers(name):
    try:
        await pyasync_c.pending()
    finally:
        steps.append(name)
        try:
            if name == "first":
                signal.raise_signal(signal.SIGINT)
            if name == "spins":
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                raise AssertionError
            await pyasync_c.pending()
        finally:
            steps.append(name + " ends")

async def main(*names):
    for name in names:
        pyasync_c.spawn(lingers(name))
    await asyncio.sleep(0)

for names in ("waits", "first", "other"), ("waits", "spins", "other"):
    steps.clear()
    try:
        pyasync_c.run(main(*names))
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError
    gc.collect()
    assert sorted(steps) == sorted([*names, *(name + " ends" for name in names)]), steps
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    )
