"""Compatible mode: asyncio's own scheduler runs the loop, for whoever replaces a part of it.

A program that overrides or assigns one of SCHEDULER, hands the loop a selector, or writes to what
`_ready` and `_scheduled` show, counts on asyncio's scheduler and its plain Python structures. The
loop then enters compatible mode, for good: what is pending moves into a real deque, heap and
selector (csrc/python/compatible.c), and asyncio's own methods do the rest. Futures of this package
are awaited there as on any foreign loop.
"""

from __future__ import annotations

import collections
import heapq
import selectors
import threading
from asyncio import base_events, events
from collections.abc import Callable
from typing import Any

from . import _core

_Base = _core.LoopBase  # whose methods a subclass may have attributes of the same name as

# What makes a scheduler. On an instance, assigning one of them counts too.
SCHEDULER = ("_run_once", "_selector", "run_forever", "run_until_complete", "time")
_ours: dict[str, Any] = {}


def _inherited(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def learn(cls: type) -> None:
    """Note how `cls`, EventLoop as it was written, schedules: before anybody has changed it."""
    for name in SCHEDULER:
        _ours[name] = _inherited(cls, name)
    # asyncio's, which may have been changed before.
    _ours["run_until_complete"] = vars(base_events.BaseEventLoop)["run_until_complete"]


def replaces_scheduler(cls: type) -> bool:
    """Has `cls`, or a class that it inherits from, a part of the scheduler that is not ours?"""
    for name in SCHEDULER:
        if _inherited(cls, name) is not _ours[name]:
            return True
    return False


# ── what native loops show of their queue ────────────────────────────────────────────────────


def _read_only(*names: str) -> Callable[[type], type]:
    """Have these methods of a class raise RuntimeError: what they did would be lost."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"loop.{self.shows} is a snapshot, as this loop's queue is not kept in Python: "
            "override or assign the loop's _run_once, or hand it a selector, to have one that is"
        )

    def decorate(cls: type) -> type:
        for name in names:
            setattr(cls, name, refuse)
        return cls

    return decorate


@_read_only("append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "remove")
@_read_only("reverse", "rotate", "__delitem__", "__iadd__", "__setitem__")
class Ready(collections.deque[Any]):
    """The queue of a loop that is not in compatible mode, as handles, to look at."""

    shows = "_ready"


@_read_only("append", "extend", "insert", "pop", "remove", "reverse", "sort")
@_read_only("__delitem__", "__iadd__", "__imul__", "__setitem__")
class Scheduled(list[Any]):
    """The timers of such a loop, the earliest first."""

    shows = "_scheduled"


def _step(task: Any) -> None:
    """What stands for a queued Task in a snapshot; the loop itself steps it."""


def ready_of(loop: Any) -> Ready:
    queued = _Base._queued(loop)
    for i, one in enumerate(queued):
        if not isinstance(one, events.Handle):
            queued[i] = events.Handle(_step, (one,), loop, one.get_context())
    return Ready(queued)


def scheduled_of(loop: Any) -> Scheduled:
    return Scheduled(sorted(_Base._timers(loop)))


# ── the way there ────────────────────────────────────────────────────────────────────────────


def enter(loop: Any) -> None:
    """Enter compatible mode, if `loop` is made and open and not there yet.

    From another thread while it runs: as soon as it gets to it.
    """
    if loop._compatible or not loop._is_made or loop.is_closed():
        return
    if loop._thread_id not in (None, threading.get_ident()):
        loop.call_soon_threadsafe(enter, loop)
        return
    selector = selectors.DefaultSelector()
    try:
        queued, timers = _Base._divert(loop)
    except BaseException:
        selector.close()
        raise
    heapq.heapify(timers)
    ready: collections.deque[Any] = collections.deque()
    loop._ready = ready
    loop._scheduled = timers
    loop._selector.become(selector)
    loop._move_listeners()
    # Tasks are stepped together, by a turn of the executor that is queued where the first one was.
    is_handle = [isinstance(one, events.Handle) for one in queued]
    tasks_begin = is_handle.index(False) if False in is_handle else len(queued)
    ready.extend(queued[:tasks_begin])
    _Base._settle(loop)
    ready.extend(one for one in queued[tasks_begin:] if isinstance(one, events.Handle))


def check(loop: Any) -> None:
    """Enter compatible mode if the loop's class says so by now."""
    if not loop._compatible and replaces_scheduler(type(loop)):
        enter(loop)


class LoopType(type):
    """EventLoop's type: sees that somebody changes the scheduler of a class, as nest_asyncio."""

    _keeps_scheduler = False

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in SCHEDULER and cls._keeps_scheduler:
            raise RuntimeError(
                f"{cls.__name__}.{name} cannot be replaced: a loop on a virtual clock keeps its "
                "own scheduler"
            )
        super().__setattr__(name, value)
        if name in SCHEDULER:
            from . import _support

            for loop in _support.loops_of(cls):
                check(loop)
