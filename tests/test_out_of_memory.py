"""Each allocation of each call fails once: it raises MemoryError, changes nothing, keeps nothing,
and works the next time. Programs that run out of memory at any point are in test_memory.py."""

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import re
import sys
import traceback
import types
import warnings

import pytest
from helpers import allocated, python, turns
from surface import (
    AWAITS,
    ELSEWHERE,
    INTERNAL,
    MAKERS,
    STATES,
    every_call,
    native_types,
    outcome,
    rest,
    waiting,
)

import pyasync_c
from pyasync_c import _core

# ── one allocation fails ─────────────────────────────────────────────────────────────────────

# A call that has come through so often in a row is past its last allocation.
ENOUGH = 12


class PythonsMemory:
    """Of Python's own allocators."""

    def __init__(self):
        import _testcapi

        # Those after the first n - 1, and before the n-th has failed.
        self.fail = lambda n: _testcapi.set_nomemory(n - 1, n)
        self.heal = _testcapi.remove_mem_hooks


class CoresMemory:
    """Of csrc/core's; in a PAC_DEBUG build."""

    fail = staticmethod(getattr(_core, "_debug_fail_allocation", None))

    @staticmethod
    def heal():
        _core._debug_fail_allocation(0)


def summary(value):
    """A result, without what is different each time."""
    if isinstance(value, str):
        return re.sub(r"0x[0-9a-f]+|Task-\d+|\d+\.\d+", "", value)
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(map(summary, value)) if type(value) in (list, tuple) else len(value)
    return type(value).__name__


def state(subject):
    look = STATES.get(type(subject).__name__, repr)
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "", str(look(subject)))


def is_pythons(error):
    """What Python itself raises where it has no room for an exception, a traceback or a lock."""
    if isinstance(error, RuntimeError):
        return str(error) == "can't allocate lock"
    return isinstance(error, SystemError) and (
        str(error) == "error return without exception set"
        or str(error).endswith("without setting an exception")
    )


def attempt(call, subject, memory, n):
    """The call, with its n-th allocation failing: whether it has failed, and its result."""
    memory.fail(n)
    try:
        result = call(subject)
    except BaseException as error:
        memory.heal()
        if not isinstance(error, MemoryError) and not is_pythons(error):
            raise
        return True, None
    memory.heal()
    return False, result


def sweep(maker, call, memory):
    """Which allocations of the call fail."""
    subject = maker()
    result = outcome(call, subject)
    want = summary(result)
    after = state(subject)
    result = subject = None
    failing = []
    n = clean = 0
    while clean < ENOUGH:
        n += 1
        subject = maker()
        before = state(subject)
        failed, result = attempt(call, subject, memory, n)
        if failed:
            clean = 0
            failing.append(n)
            assert state(subject) == before, f"at {n}: {before} became {state(subject)}"
            result = outcome(call, subject)
        else:
            clean += 1
        assert summary(result) == want, f"at {n}: {summary(result)}, not {want}"
        assert state(subject) == after, f"at {n}: {state(subject)}, not {after}"
        result = subject = None
        rest()
    return failing


async def keeps_nothing(maker, call, memory, n, times=50):
    """Of failing there again and again nothing grows."""

    async def fail_often():
        subject = maker()
        failures = sum(attempt(call, subject, memory, n)[0] for _ in range(times))
        subject = None
        rest()
        await turns(2)
        gc.collect()
        # Python's cache of attributes keeps up to 4096 names alive, whoever has asked for them.
        ctypes.pythonapi.PyType_ClearCache()
        # What has come through, from what an earlier one left, may well be kept.
        return allocated() if failures == times else 0

    blocks = [await fail_often()]
    while len(blocks) == 1 or blocks[-1] - blocks[-2] >= times // 2:
        assert len(blocks) < 12, f"at {n}: memory is kept: {blocks}"
        blocks.append(await fail_often())


def swept(maker, call, memory):
    """The same in a runtime of its own: how many allocations fail."""

    async def main():
        failing = sweep(maker, call, memory)
        for n in failing:
            await keeps_nothing(maker, call, memory, n)
        return len(failing)

    with pyasync_c.Runtime() as runtime:
        runtime.get_loop().set_exception_handler(lambda loop, context: None)
        return runtime.run(main())


def sweep_calls(memory, only=""):
    """Print each call and how many of its allocations fail, or what is wrong with it."""
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda args: None
    calls = sorted(every_call().items())
    gc.collect()
    gc.freeze()
    for name, (maker, call) in calls:
        if not re.search(only, name):
            continue
        print(name, end=": ", flush=True)
        try:
            print(swept(maker, call, memory))
        except BaseException as error:
            print(f"WRONG {error!r}")
            traceback.print_exception(error, limit=-5, file=sys.stdout)


# ── one allocation of an await fails ─────────────────────────────────────────────────────────

# Coroutines, and futures with coroutines in them: they end by whatever they raise.
ENDS = {
    "Acquire",
    "AcquirePermit with",
    "Future that waits",
    "Interval",
    "IntoFuture of a coroutine that waits",
    "Join",
    "JoinSet",
    "JoinSet.spawn_wait",
    "Lock with",
    "PollOnce of a coroutine",
    "RunUntilCancelled",
    "Semaphore with",
    "TaskGroup",
    "Timeout",
}

ENDED = object()


async def awaiting(make, memory, n, again):
    """The same for all that `await` does, up to the end: whether an allocation has failed, and the
    result; `again`: that of a second await of the same object, if the first has failed."""
    awaitable, feed = make()
    if feed is not None:
        asyncio.get_running_loop().call_soon(feed_anyway, feed, memory)
    if n > 0:
        memory.fail(n)
    try:
        result = await awaitable
        memory.heal()
        return False, summary(result)
    except Exception as error:
        memory.heal()
        if not isinstance(error, MemoryError) and not is_pythons(error):
            return False, type(error).__name__
        if not again or is_pythons(error):
            raise
    finally:
        memory.heal()
    try:
        return True, summary(await awaitable)
    except Exception as error:
        return True, type(error).__name__


def feed_anyway(feed, memory):
    """A call that fails for want of memory is made again."""
    try:
        feed()
    except BaseException as error:
        memory.heal()
        if not isinstance(error, MemoryError) and not is_pythons(error):
            raise
        feed()


def run_failing(make, memory, n, new_runner, again=False):
    """Whether an allocation has failed, and the result; ENDED: that was the end of the run."""
    with new_runner() as runner:
        runner.get_loop().set_exception_handler(ignore)
        runner.run(asyncio.sleep(0))  # makes what Python makes once
        try:
            return runner.run(awaiting(make, memory, n, again))
        except BaseException as error:
            memory.heal()
            if not isinstance(error, MemoryError) and not is_pythons(error):
                raise
            return True, ENDED
        finally:
            memory.heal()
            rest()


def ignore(loop, context):
    pass


def sweep_await(make, memory, new_runner, again):
    """How many allocations of an await fail. `again`: it can be awaited again then, and nothing was
    lost."""
    _, want = run_failing(make, memory, 0, new_runner)
    assert want != "RuntimeError", "this is no way to await it"
    failures = n = clean = 0
    while clean < ENOUGH:
        n += 1
        failed, result = run_failing(make, memory, n, new_runner, again)
        clean = 0 if failed else clean + 1
        failures += failed
        assert result in (want, ENDED), f"at {n}: {result}, not {want}"
        assert run_failing(make, memory, 0, new_runner) == (False, want)
    return failures


def sweep_awaits(memory, new_runner, only=""):
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda args: None
    for name, make in sorted(AWAITS.items()):
        if not re.search(only, name):
            continue
        print(name, end=": ", flush=True)
        faulthandler.dump_traceback_later(30, exit=True)
        try:
            print(sweep_await(make, memory, new_runner, name not in ENDS))
        except BaseException as error:
            print(f"WRONG {error!r}")
            traceback.print_exception(error, limit=-5, file=sys.stdout)
    faulthandler.cancel_dump_traceback_later()


# ── the tests ────────────────────────────────────────────────────────────────────────────────

SWEEP = """
import asyncio, sys
import pyasync_c
import test_out_of_memory as sweeps

memory = getattr(sweeps, sys.argv[1])()
if sys.argv[2] == "calls":
    sweeps.sweep_calls(memory)
else:
    sweeps.sweep_awaits(memory, pyasync_c.Runtime)
"""

every_memory = pytest.mark.parametrize(
    "memory",
    [
        "PythonsMemory",
        pytest.param(
            "CoresMemory",
            marks=pytest.mark.skipif(CoresMemory.fail is None, reason="only with PAC_DEBUG"),
        ),
    ],
)


def sweep_in_a_process(memory, what):
    """name -> how many allocations have failed, from a process of its own."""
    if memory == "PythonsMemory":
        pytest.importorskip("_testcapi")
    printed = python(SWEEP, memory, what, timeout=300)
    counts = dict(re.findall(r"^(\S.*): (\d+)$", printed, re.M))
    # With its traceback, and without the hundreds that are right.
    wrong = re.sub(r"^\S.*: \d+\n", "", printed, flags=re.M)
    assert not wrong, wrong
    return {name: int(count) for name, count in counts.items()}


# What allocates whatever stands in anybody's free lists, Python's included: so it was refused at
# least once, or the sweep does nothing.
ALLOCATES = {
    ("PythonsMemory", "calls"): {
        name for name in every_call() if name.split(".")[-1] in ("__new__", "__repr__")
    },
    ("PythonsMemory", "awaits"): {"Interval", "JoinSet", "PollOnce of a coroutine", "TaskGroup"},
    ("CoresMemory", "calls"): {"CancellationToken.__new__", "LoopBase.__new__", "broadcast"},
    ("CoresMemory", "awaits"): {"Delay", "Join"},
}


@every_memory
@pytest.mark.parametrize(
    ("what", "names"), [("calls", every_call()), ("awaits", AWAITS)], ids=["call", "await"]
)
def test_a_failed_allocation_in_any(what, names, memory):
    found = sweep_in_a_process(memory, what)
    assert set(found) == set(names)
    assert {name for name in ALLOCATES[memory, what] if found[name] == 0} == set()


def test_every_type_has_a_maker():
    pyasync_c.run(pyasync_c.yield_now())
    assert set(native_types()) - set(MAKERS) - INTERNAL == set()


def test_every_kind_of_future_is_awaited():
    futures = {
        name
        for name, kind in native_types().items()
        if issubclass(kind, (pyasync_c.Future, asyncio.Future))
    }
    never = {"PendingFuture", *ELSEWHERE}
    assert futures - never - {name.split()[0] for name in AWAITS} == set()


class Changes:
    """What a call does that is not as it should be: changes its object, and fails after that."""

    def __init__(self):
        self.values = []

    def __repr__(self):
        return str(self.values)

    def add(self):
        self.values.append(1)
        return [object() for _ in range(3)]


class ChangesFirst(Changes):
    """With its first allocation still to come."""

    def __init__(self):
        self.values = 0

    def add(self):
        self.values = 1
        return len(bytes(100))


class Keeps(Changes):
    """Keeps one more object in a place that nobody looks at."""

    chain = None

    def add(self):
        Keeps.chain = [Keeps.chain]
        return len(bytes(100_000))


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Changes, "became"), (ChangesFirst, "became"), (Keeps, "memory is kept")],
    ids=["changes", "changes first", "keeps"],
)
def test_the_sweep_itself(kind, message):
    """It sees what it is there for."""
    pytest.importorskip("_testcapi")
    with pytest.raises(AssertionError, match=message):
        swept(kind, kind.add, PythonsMemory())


# ── what is lost by none of them ─────────────────────────────────────────────────────────────


class Twice(pyasync_c.Future):
    """Never ready: polled again when its waker is woken."""

    def poll(self, cx):
        self.waker = cx.waker.clone()
        return pyasync_c.PENDING


@contextlib.contextmanager
def failing(memory, n):
    """The n-th allocation of the block fails, and the MemoryError ends the block."""
    memory.fail(n)
    try:
        yield
    except MemoryError:
        pass
    finally:
        memory.heal()


async def child(ended):
    try:
        await pyasync_c.pending()
    finally:
        await pyasync_c.yield_now()
        ended.append(True)


async def what_had_ended(future, ended, memory):
    """At the moment of its MemoryError; None: it has raised none."""
    try:
        await future
    except MemoryError:
        memory.heal()
        return ended.copy()
    except asyncio.CancelledError:
        return None


@pytest.mark.parametrize("several", [pyasync_c.join, pyasync_c.select])
def test_children_that_run_have_ended_when_the_error_comes_out(several):
    pytest.importorskip("_testcapi")
    memory = PythonsMemory()

    async def main():
        found = []
        for n in range(1, 20):
            ended, again = [], Twice()
            future = several(child(ended), again)
            task = pyasync_c.spawn(what_had_ended(future, ended, memory))
            await turns(2)
            with failing(memory, n):
                again.waker.wake()
                await pyasync_c.yield_now()
            await turns(4)
            task.cancel()
            found.append(await task)
        assert [True] in found
        assert [] not in found

    pyasync_c.run(main())


def test_where_a_coroutine_stands_is_not_forgotten():
    """poll_once needs memory to remember that it waits for an asyncio future."""
    pytest.importorskip("_testcapi")
    memory = PythonsMemory()

    async def main():
        failures = 0
        for n in range(1, 30):
            future = asyncio.get_running_loop().create_future()
            coroutine = waiting(future)
            first = None
            with failing(memory, n):
                first = await pyasync_c.poll_once(coroutine)
            failures += first is None
            assert await pyasync_c.poll_once(coroutine) is pyasync_c.PENDING
            future.set_result(7)
            assert await pyasync_c.poll_once(coroutine) == 7
        assert failures > 0

    pyasync_c.run(main())


@types.coroutine
def yields(future):
    """Without awaiting it, so it is not asked how it has ended."""
    future._asyncio_future_blocking = True
    yield future
    return "was not told"


def test_what_a_coroutine_waits_for_is_not_forgotten():
    """The error of a future that it only yields is thrown into it, once there is memory."""
    pytest.importorskip("_testcapi")
    memory = PythonsMemory()

    async def main():
        failures = 0
        for n in range(1, 30):
            future = asyncio.get_running_loop().create_future()
            coroutine = yields(future)
            assert await pyasync_c.poll_once(coroutine) is pyasync_c.PENDING
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                with failing(memory, n):
                    await pyasync_c.poll_once(coroutine)
                failures += 1
                # None: Python itself had no memory within the coroutine, and has ended it.
                assert await pyasync_c.poll_once(coroutine) is None
            assert coroutine.gi_frame is None
        assert failures > 0

    pyasync_c.run(main())


def test_a_message_that_select_had_no_room_for_is_still_there():
    pytest.importorskip("_testcapi")
    memory = PythonsMemory()

    async def main():
        failures = 0
        for n in range(1, 10):
            tx, rx = pyasync_c.channel(1)
            tx.try_send(7)
            others = [pyasync_c.pending() for _ in range(300)]
            found = None
            future = pyasync_c.select(*others, rx.recv())
            with failing(memory, n):
                found = await future
            future = None
            failures += found is None
            assert found == (300, 7) or rx.try_recv() == 7
        assert failures > 0

    pyasync_c.run(main())


TASKS = """
import sys
import _testcapi
import pyasync_c

async def cleaning_up(awaitable, log):
    try:
        await awaitable
    finally:
        _testcapi.remove_mem_hooks()
        await pyasync_c.yield_now()
        log.append("cleaned up")

# The loop waits each time, and so makes the task the current one anew, for which a table grows.
async def goes_on(n, log):
    async def sleeps():
        _testcapi.set_nomemory(n, n + 1)
        for _ in range(20):
            await pyasync_c.sleep(1e-5)

    await cleaning_up(sleeps(), log)

async def is_cancelled(n, log):
    task = pyasync_c.spawn(cleaning_up(pyasync_c.Notify().notified(), log))
    await pyasync_c.yield_now()
    asked = False
    _testcapi.set_nomemory(n, n + 1)
    try:
        asked = task.cancel()
        await pyasync_c.yield_now()
    except MemoryError:
        pass
    _testcapi.remove_mem_hooks()
    if not asked:
        task.cancel()
    for _ in range(10):
        await pyasync_c.yield_now()
    assert task.done(), "the cancellation is lost"

for n in range(1, 150):
    log = []
    try:
        pyasync_c.run({"goes on": goes_on, "is cancelled": is_cancelled}[sys.argv[1]](n, log))
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
    assert log == ["cleaned up"], f"at allocation {n}"
"""


@pytest.mark.parametrize("how", ["goes on", "is cancelled"])
def test_a_task_that_is_refused_memory_cleans_up(how):
    pytest.importorskip("_testcapi")
    python(TASKS, how)
