"""References balance: every call and every await of the whole surface, in bulk, leaves the
references to each type, the allocated blocks and the core's objects as they were."""

import asyncio
import sys

import pytest
from helpers import allocated, collect
from surface import AWAITS, every_call, native_types, outcome, rest

import pyasync_c
from pyasync_c import _core

TIMES = 100


def by_type(names):
    """The names, in groups by the type that stands in front; functions are one group."""
    groups = {}
    for name in sorted(names):
        groups.setdefault(name.split(".")[0] if "." in name else "functions", []).append(name)
    return groups


CALLS = every_call()
GROUPS = by_type(CALLS)


def call_all(names, times):
    async def main():
        for _ in range(times):
            for name in names:
                maker, call = CALLS[name]
                outcome(call, maker())
                rest()

    with pyasync_c.Runtime() as runtime:
        runtime.get_loop().set_exception_handler(lambda loop, context: None)
        runtime.run(main())


def await_all(names, times):
    async def main():
        for _ in range(times):
            for name in names:
                awaitable, feed = AWAITS[name]()
                if feed is not None:
                    asyncio.get_running_loop().call_soon(feed)
                try:
                    await awaitable
                except LookupError:
                    pass
                rest()

    pyasync_c.run(main())


def drop_all(names, times):
    """Made, waiting, and given up."""

    async def main():
        for _ in range(times):
            for name in names:
                awaitable, _ = AWAITS[name]()
                task = asyncio.ensure_future(awaiting(awaitable))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                rest()

    pyasync_c.run(main())


async def awaiting(awaitable):
    return await awaitable


def counted():
    collect()
    types = {name: sys.getrefcount(kind) for name, kind in native_types().items()}
    core = _core._debug_counts() if hasattr(_core, "_debug_counts") else {}
    core.pop("allocations", None)  # its pools keep some
    return types, allocated(), core


def grows(use, names):
    """What is more after it than before, again and again; nothing if it is less just once."""
    use(names, TIMES)
    before = counted()
    for _ in range(4):
        use(names, TIMES)
        after = counted()
        grown = {
            name: after[0][name] - count
            for name, count in before[0].items()
            if after[0][name] - count >= TIMES // 2
        }
        if after[1] - before[1] >= TIMES // 2:
            grown["blocks"] = after[1] - before[1]
        assert after[2] == before[2]
        if not grown:
            return {}
        before = after
    return grown


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", GROUPS)
def test_every_call(kind):
    assert grows(call_all, GROUPS[kind]) == {}


@pytest.mark.parametrize("use", [await_all, drop_all], ids=["awaited", "cancelled"])
@pytest.mark.parametrize("name", AWAITS)
@pytest.mark.filterwarnings("ignore")
def test_every_await(name, use):
    assert grows(use, [name]) == {}


def test_the_check_itself():
    kept = []

    def keeps(names, times):
        kept.extend([pyasync_c.Notify()] for _ in range(times))

    found = grows(keeps, [])
    assert found["Notify"] == TIMES
    assert found["blocks"] >= TIMES
