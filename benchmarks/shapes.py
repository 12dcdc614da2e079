"""What is measured: the shapes that asynchronous programs are made of.

A shape is spelled once in each dialect, as an async function of that name in asyncio_shapes,
native_shapes or trio_shapes. `run(shape, framework, n)` measures one in this process; the harness
does it in fresh ones.
"""

import gc
import importlib
from dataclasses import dataclass

from .frameworks import FRAMEWORKS
from .stopwatch import Spent


@dataclass(frozen=True)
class Shape:
    """One row of the comparison."""

    name: str
    title: str
    operation: str
    """What the nanoseconds are for."""
    target: float | None = None
    """At least so many times as fast as asyncio, in pyasync_c's own names; None: not there."""
    asyncio_target: float | None = None
    """The same for an unmodified asyncio program on our loop."""
    operations: int | None = None
    """How many a measurement takes, if that is part of the shape; None: as time allows."""
    multiple_of: int = 1
    """The number of operations has to be a multiple of this."""
    dialects: tuple[str, ...] = ("native", "asyncio", "trio")

    def runs_on(self, framework: str) -> bool:
        return FRAMEWORKS[framework].dialect in self.dialects

    def target_of(self, framework: str) -> float | None:
        """How many times as fast as asyncio it has to be there; None where nothing was promised."""
        if not FRAMEWORKS[framework].is_ours:
            return None
        return self.target if FRAMEWORKS[framework].dialect == "native" else self.asyncio_target


_ONLY_ASYNCIO = ("asyncio",)

_ALL = [
    Shape("yield_one", "one task yields", "yield", 15, 6),
    Shape("yield_many", "1000 tasks yield in turn", "yield", 9, multiple_of=1000),
    Shape("spawn_await", "spawn one, await it", "task", 10, 9),
    Shape("spawn_many", "spawn 50 000, await all", "task", 8, operations=50_000),
    Shape("ping_pong", "two tasks hand over", "round trip", 16, 3.5),
    Shape("sleep_many", "50 000 asleep 1–100 ms", "timer, beyond 100 ms", 15, 5, operations=50_000),
    Shape("timeout_yield", "timeout around a yield", "timeout", 7, 2.5),
    Shape("gather_many", "gather of 100", "task", None, 3, None, 100, _ONLY_ASYNCIO),
    Shape("call_soon", "call_soon, 500 at a time", "callback", None, 5, None, 500, _ONLY_ASYNCIO),
    Shape("call_later", "call_later and cancel", "timer", None, 10, dialects=_ONLY_ASYNCIO),
    Shape("threadsafe", "call_soon_threadsafe", "callback", None, 14, dialects=_ONLY_ASYNCIO),
]

SHAPES = {shape.name: shape for shape in _ALL}
FLOOR_SHAPES = frozenset({"yield_one", "yield_many"})
FLOOR_TARGET = 2
"""These shapes cost at most so many times the floor, in pyasync_c's own names."""


def run(shape: str, framework: str, n: int) -> Spent:
    """Measure `n` operations of a shape in this process, in a loop made for it."""
    chosen = FRAMEWORKS[framework]
    module = importlib.import_module(f".{chosen.dialect}_shapes", __package__)
    gc.collect()
    spent: Spent = chosen.run(getattr(module, shape), n)
    return spent
