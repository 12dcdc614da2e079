"""VirtualClockLoop: an EventLoop whose time passes only when nothing else happens.

The clock is the executor's. Here is what the executor cannot know: that a thread is at work for the
loop, whose result the clock has to wait for, and what else could wake somebody when no timer will.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _support
from ._eventloop import EventLoop

# How long to wait, in real seconds, before asking again whether other threads have ended.
_THREADS_S = 0.05

_TASKS_MAX = 20


class VirtualClockLoop(EventLoop):
    """An EventLoop on a virtual clock; made by new_event_loop(clock="virtual")."""

    _keeps_scheduler = True  # to be refused before a change, not after

    def __init__(self) -> None:
        super().__init__()
        self._use_virtual_clock()

    # ── threads of the pool: the clock stands still until they are back ──────────────────────

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """As asyncio's. The clock stands still until the call has returned."""
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        work = executor.submit(func, *args)
        future = asyncio.wrap_future(work, loop=self)
        self._hold_clock()
        work.add_done_callback(functools.partial(self._on_returned, future))
        return future

    def _on_returned(self, future: asyncio.Future[Any], work: object) -> None:
        try:
            self.call_soon_threadsafe(self._release_with, future)
        except RuntimeError:
            pass  # closed meanwhile

    def _release_with(self, future: asyncio.Future[Any]) -> None:
        # The result may be on its way still: this is another callback of the same work.
        if future.done():
            self._release_clock()
        else:
            future.add_done_callback(lambda _: self._release_clock())

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """As asyncio's. The clock stands still, so no timeout cuts it short."""
        self._hold_clock()
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._release_clock()

    # ── nothing is ready, and no timer armed ─────────────────────────────────────────────────

    def _stuck(self) -> float:
        """How long to wait for the world outside, in real seconds; RuntimeError if in vain."""
        if self._waits_for_descriptors() or self._signal_handlers:
            return math.inf
        if any(_other_threads(self)):
            return _THREADS_S
        raise RuntimeError(_describe_deadlock(self))

    def _waits_for_descriptors(self) -> bool:
        own = self._ssock is not None and self._ssock.fileno() in self._selector.get_map()
        return self._watched > own


def _other_threads(loop: VirtualClockLoop) -> Iterator[threading.Thread]:
    """The threads that may yet wake somebody: those that the program would wait for at its end.

    Not the workers of pools, for they are idle, or else the clock would be held.
    """
    known: set[object] = {threading.current_thread(), threading.main_thread()}
    for module, name in (("thread", "_threads_queues"), ("process", "_threads_wakeups")):
        pools = sys.modules.get(f"concurrent.futures.{module}")
        known.update(getattr(pools, name, ()))
    for thread in threading.enumerate():
        # The standard library's way to wait for a child process, where there is no pidfd.
        waits_for_child = thread.name.startswith(("waitpid-", "asyncio-waitpid-"))
        if thread not in known and (not thread.daemon or waits_for_child):
            yield thread


def _describe_deadlock(loop: VirtualClockLoop) -> str:
    tasks = loop._live_tasks()
    lines = [f"deadlock: nothing is left to wait for, at {loop.time():.9g} s of the virtual clock"]
    lines += [f"  {_support.describe_task(task)}" for task in tasks[:_TASKS_MAX]]
    if len(tasks) > _TASKS_MAX:
        lines.append(f"  and {len(tasks) - _TASKS_MAX} more tasks")
    return "\n".join(lines)
