"""What is measured: the shapes that asynchronous programs are made of.

A shape is spelled once in each dialect, as an async function of that name in asyncio_shapes,
native_shapes or trio_shapes, or in asyncio_tools and so on; those of network servers stand in echo.
`run(shape, framework, n)` measures one in this process; the harness does it in fresh ones.
"""

import gc
import importlib
import itertools
from dataclasses import dataclass, replace

from .echo_case import Case
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
    without: tuple[str, ...] = ()
    """Frameworks that are not asked: they lack it, or it says nothing new about them."""
    group: str = "tasks"
    """One table each: see GROUPS."""
    shows_cpu: bool = False
    """Whether the processor time stands below the time by the clock."""
    echo: Case | None = None
    """Of an echo server: which, and how it is asked."""

    def runs_on(self, framework: str) -> bool:
        return FRAMEWORKS[framework].dialect in self.dialects and framework not in self.without

    @property
    def is_rate(self) -> bool:
        """Whether it is told as operations per second, not as nanoseconds per operation."""
        return self.echo is not None

    @property
    def unit(self) -> str:
        return f"{self.operation}s per second" if self.is_rate else f"ns per {self.operation}"

    def target_of(self, framework: str) -> float | None:
        """How many times as fast as asyncio it has to be there; None where nothing was promised."""
        if not FRAMEWORKS[framework].is_ours:
            return None
        return self.target if FRAMEWORKS[framework].dialect == "native" else self.asyncio_target


_ONLY_ASYNCIO = ("asyncio",)
_NO_TRIO = ("native", "asyncio")


_BYTES = {"1b": 1, "1k": 1024, "10k": 10 * 1024, "100k": 100 * 1024}
_CONNECTIONS = (1, 10, 100, 1000)
_KINDS = {"protocol": "a protocol", "streams": "streams", "sock": "loop.sock_*"}
_LINKS = {"tcp": "TCP", "unix": "Unix", "tls": "TLS"}


def _is_chosen(case: Case) -> bool:
    """Whether a case is in the short table: each way of writing a server at each size, and each
    other thing that a case can be at one size or two. All there are take half an hour."""
    if case.link != "tcp":
        return case.connections == 10 and case.size in (1024, 100 * 1024) and case.kind != "sock"
    return case.connections == 10 or (case.size == 1024 and case.kind != "sock")


def _echo(case: Case, name: str, size: str) -> Shape:
    # What rloop has no servers for. pyasync_c.net stands beside the streams.
    lacking = ("rloop",) if case.link != "tcp" else ()
    of = "1 connection" if case.connections == 1 else f"{case.connections} connections"
    return Shape(
        name,
        f"{_LINKS[case.link]}, {_KINDS[case.kind]}, {size}, {of}",
        "request",
        dialects=_NO_TRIO if case.kind == "streams" else _ONLY_ASYNCIO,
        without=("asyncio-eager", *lacking),
        group="echo" if _is_chosen(case) else "echo_more",
        shows_cpu=True,
        multiple_of=case.connections,
        echo=case,
    )


def _echoes() -> list[Shape]:
    """Servers that send back what they get: questions and answers, then streams."""
    found = []
    for link, (kind, _) in itertools.product(_LINKS, _KINDS.items()):
        if (link, kind) == ("tls", "sock"):
            continue  # asyncio has no TLS there
        for (size, n), connections in itertools.product(_BYTES.items(), _CONNECTIONS):
            case = Case(kind, link, n, connections)
            name = f"echo_{kind}_{link}_{size}_{connections}"
            text = size.upper().replace("K", " KiB").replace("1B", "1 byte")
            found.append(_echo(case, name, text))
        case = Case(kind, link, 64 * 1024, 1, depth=8)
        stream = _echo(case, f"echo_{kind}_{link}_flow", "")
        title = f"{_LINKS[link]}, {_KINDS[kind]}, 64 KiB, 8 under way"
        group = "echo" if kind != "sock" and link != "unix" else "echo_more"
        found.append(replace(stream, title=title, operation="message", group=group))
    return found


def _tools() -> list[Shape]:
    """What tasks wait for each other with. asyncio's names stand for what comes nearest there."""
    found = [
        Shape("queue", "channel of 128, one to one", "message", 4),
        Shape("queue_many", "channel of 128, by recv_many", "message", 8),
        Shape("oneshot", "one answer from a new task", "round trip"),
        Shape("broadcast", "broadcast to 4, 32 at a time", "message", multiple_of=32),
        Shape("watch", "one value, watched by another", "change"),
        Shape("lock", "a free lock", "turn"),
        Shape("lock_turns", "10 tasks at one lock", "turn", multiple_of=10),
        Shape("semaphore", "a free semaphore", "turn"),
        Shape("semaphore_turns", "10 tasks, 2 permits", "turn", multiple_of=10),
        Shape("event", "two tasks hand over by events", "round trip"),
        Shape("barrier", "10 tasks at a barrier", "arrival", multiple_of=10, dialects=_NO_TRIO),
        Shape("select_two", "the first of two", "select"),
        Shape("task_group", "group of 100 tasks", "task", multiple_of=100),
        Shape("join_set", "100 tasks, as they end", "task", multiple_of=100, dialects=_NO_TRIO),
        Shape("cancel_all", "100 tasks told to end", "task", multiple_of=100),
    ]
    return [replace(shape, group="tools") for shape in found]


_ALL = [
    Shape("yield_one", "one task yields", "yield", 15, 6),
    Shape("yield_many", "1000 tasks yield in turn", "yield", 9, multiple_of=1000),
    Shape("spawn_await", "spawn one, await it", "task", 10, 9),
    Shape("spawn_many", "spawn 50 000, await all", "task", 8, operations=50_000),
    Shape("ping_pong", "two tasks hand over", "round trip", 16, 3.5),
    Shape(
        "sleep_many",
        "50 000 asleep 1–100 ms",
        "timer, beyond 100 ms",
        *(15, 5),
        operations=50_000,
        shows_cpu=True,
    ),
    Shape("timeout_yield", "timeout around a yield", "timeout", 7, 2.5),
    Shape("gather_many", "join or gather of 100", "task", 10, 3, multiple_of=100),
    Shape("call_soon", "call_soon, 500 at a time", "callback", None, 5, None, 500, _ONLY_ASYNCIO),
    Shape("call_later", "call_later and cancel", "timer", None, 10, dialects=_ONLY_ASYNCIO),
    Shape("threadsafe", "call_soon_threadsafe", "callback", None, 14, dialects=_ONLY_ASYNCIO),
    *_tools(),
    *_echoes(),
]

GROUPS = {
    "tasks": "tasks, timers and callbacks",
    "tools": "channels, locks, and waiting for several",
    "echo": "echo servers, asked by another process",
    "echo_more": "echo servers, every other size, number of connections and link",
}
ONLY_IF_ASKED = frozenset({"echo_more"})
"""Groups that are measured when they are named: they take long."""
SHAPES = {shape.name: shape for shape in _ALL}
FLOOR_SHAPES = frozenset({"yield_one", "yield_many"})
FLOOR_TARGET = 2
"""These shapes cost at most so many times the floor, in pyasync_c's own names."""


def run(shape: str, framework: str, n: int) -> Spent:
    """Measure `n` operations of a shape in this process, in a loop made for it."""
    chosen = FRAMEWORKS[framework]
    gc.collect()
    case = SHAPES[shape].echo
    if case is not None:
        from .echo import measure

        return chosen.run(measure, case, chosen.dialect, n)
    spelled_in = {"tasks": f"{chosen.dialect}_shapes", "tools": f"{chosen.dialect}_tools"}
    module = importlib.import_module(f".{spelled_in[SHAPES[shape].group]}", __package__)
    spent: Spent = chosen.run(getattr(module, shape), n)
    return spent
