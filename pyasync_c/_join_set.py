"""JoinSet: tasks whose results are taken as they come, and at most so many at a time."""

from __future__ import annotations

import asyncio
import operator
import sys
from collections import OrderedDict
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self, TypeVar

from . import _core, _support

T = TypeVar("T")


class _ToSpawn:
    """An awaitable that waits for room; if it was waited for and is given up, it is closed."""

    def __init__(self, awaitable: Awaitable[Any], name: str | None) -> None:
        self.awaitable: Any = awaitable
        self.name = name
        self.waited = False

    def __del__(self) -> None:
        if self.waited and _support.iscoroutine(self.awaitable):
            self.awaitable.close()


class _SpawnWait(_core.Future[Any]):
    """Room in the set, and the task that was spawned into it. First come, first served."""

    def __init__(self, join_set: JoinSet[Any], to_spawn: _ToSpawn) -> None:
        self._set = join_set
        self._to_spawn = to_spawn
        self._waker: _core.Waker | None = None
        self._granted = False
        self._closings: int | None = None  # the set's, when the wait began

    def poll(self, cx: _core.Context, /) -> Any:
        to_spawn = self._to_spawn
        if to_spawn.awaitable is None:
            raise _support.reused(self)
        refused = self._set._closing or self._closings not in (None, self._set._closings)
        waits = self in self._set._spawners or not self._set._has_room()
        if waits and not (self._granted or refused):
            self._waker = cx.waker.clone()
            self._set._spawners[self] = None
            self._set._is_told = True
            self._closings = self._set._closings
            to_spawn.waited = True
            return _core.PENDING
        self._give_back()
        awaitable, to_spawn.awaitable = to_spawn.awaitable, None
        try:
            return self._set._spawn(awaitable, to_spawn.name, refused)
        except BaseException:
            self._set._grant()
            raise

    def drop(self) -> None:
        self._set._spawners.pop(self, None)
        self._give_back()
        self._set._grant()

    def grant(self) -> None:
        self._granted = True
        self.wake()

    def wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _give_back(self) -> None:
        if self._granted:
            self._granted = False
            if self._closings == self._set._closings:
                self._set._grants -= 1


class _AllEnded(_core.Future[None]):
    """Ready when no task of the set runs, and none is about to be spawned into it."""

    def __init__(self, join_set: JoinSet[Any]) -> None:
        self._set = join_set

    def poll(self, cx: _core.Context, /) -> Any:
        if self._set._running or self._set._grants:
            self._set._leavers[self] = cx.waker.clone()
            self._set._is_told = True
            return _core.PENDING
        self._set._leavers.pop(self, None)
        return None

    def drop(self) -> None:
        self._set._leavers.pop(self, None)


class JoinSet(_core.JoinSetBase[T]):
    """Tasks that are joined in the order in which they end; at most `limit` of them run at a time.

        async with JoinSet(limit=10) as pages:
            for url in urls:
                await pages.spawn_wait(fetch(url))
            async for task in pages:
                print(task.result())

    What has ended waits in the set until join_next() takes it, and counts for len(), but not for
    the limit. Leaving an `async with` waits for all; if the block raises, or is cancelled, they
    are cancelled first. Errors of tasks that nobody has joined or awaited are raised together by
    leaving, as an ExceptionGroup; or go to the loop's exception handler, if the block
    raises itself. Without `async with`, tasks go on when the set is given up.

    `limit` is at least 1, or None: any number. Raises TypeError, ValueError, or beyond sys.maxsize
    OverflowError otherwise. For the thread of the loop, on any loop. Stands for Tokio's JoinSet.
    """

    def __init__(self, *, limit: int | None = None) -> None:
        if limit is not None:
            if isinstance(limit, bool) or not hasattr(limit, "__index__"):
                kind = type(limit).__name__
                raise TypeError(f"JoinSet: limit must be an int or None, not {kind}")
            limit = operator.index(limit)
            if limit < 1:
                raise ValueError(f"JoinSet: limit must be at least 1, not {limit}")
            if limit > sys.maxsize:
                raise OverflowError(f"JoinSet: limit must be at most {sys.maxsize}")
        self._limit = limit
        self._spawners: OrderedDict[_SpawnWait, None] = OrderedDict()
        self._grants = 0  # room that was given to a spawn_wait() that has not used it yet
        self._leavers: dict[_AllEnded, _core.Waker] = {}  # tasks that share the set
        self._closing = False  # being left after an error: nothing is spawned
        self._closings = 0  # how often spawners were refused

    __reduce__ = _support.cannot_pickle

    def __repr__(self) -> str:
        return f"<JoinSet running={self._running} ended={self._ended} limit={self._limit}>"

    def __len__(self) -> int:
        return self._running + self._ended

    def __bool__(self) -> bool:
        return True  # a set is there, whether it has tasks or not

    # ── spawning ─────────────────────────────────────────────────────────────────────────────

    def spawn(self, aw: Awaitable[T], /, *, name: str | None = None) -> asyncio.Task[T]:
        """Run an awaitable as a task of the set, from now on; returns the task.

        Raises RuntimeError if the set is full (the awaitable is left alone) or being left after an
        error, TypeError if `aw` is not awaitable. Stands for Tokio's JoinSet::spawn.
        """
        if not self._has_room():
            raise RuntimeError(f"JoinSet is full: {self._limit} tasks are running")
        return self._spawn(aw, name)

    def spawn_wait(
        self, aw: Awaitable[T], /, *, name: str | None = None
    ) -> _core.Future[asyncio.Task[T]]:
        """A future that waits for room, spawns, and is ready with the task.

        First come, first served. Cancelled while it waits, it has spawned nothing, and may be
        awaited again; once nobody has it any more, a coroutine is closed. Raises TypeError if `aw`
        is not awaitable.
        """
        _core.join(aw)  # checks it, and begins nothing
        return _SpawnWait(self, _ToSpawn(aw, name))

    def _has_room(self) -> bool:
        return self._limit is None or self._running + self._grants < self._limit

    def _spawn(self, awaitable: Any, name: str | None, refused: bool = False) -> asyncio.Task[T]:
        if self._closing or refused:
            if _support.iscoroutine(awaitable):
                awaitable.close()
            raise RuntimeError("JoinSet is being left: its tasks are cancelled")
        task: asyncio.Task[T] = _core.spawn(awaitable, name=name)
        try:
            self._add(task)
        except MemoryError:
            task.cancel()  # it must not run outside of the set, and ends before its first step
            raise
        return task

    def _grant(self) -> None:
        """After a task has ended, if somebody waits for that: _is_told."""
        while self._spawners and self._has_room():
            spawner, _ = self._spawners.popitem(last=False)
            self._grants += 1
            spawner.grant()
        self._wake_leavers()

    def _refuse_spawners(self) -> None:
        """Who waits for room gets none, nor does who was given some and has not used it: it may be
        polled no more, and must not be waited for."""
        self._closings += 1
        self._grants = 0
        spawners, self._spawners = self._spawners, OrderedDict()
        for spawner in spawners:
            spawner.wake()

    # ── joining ──────────────────────────────────────────────────────────────────────────────

    def cancel_all(self) -> None:
        """Cancel all tasks that run. They are joined as others are, once they have ended.

        Stands for Tokio's JoinSet::abort_all.
        """
        for task in self._running_tasks():
            _support.cancel_unless_closed(task)

    # ── async with ───────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        t: type[BaseException] | None,
        e: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(e, GeneratorExit):
            self.cancel_all()  # the coroutine is closed, and must not wait any more
            return
        cancelled = await self._end_all(e is not None)
        errors = self._unseen_errors()
        for error, _ in errors:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise error
        if cancelled is None and e is None:
            if errors:
                group = [error for error, _ in errors]
                raise BaseExceptionGroup("unhandled errors in a JoinSet", group)
            return
        for error, task in errors:
            task.get_loop().call_exception_handler(
                {
                    "message": "unhandled error in a JoinSet that ends with another one",
                    "exception": error,
                    "task": task,
                }
            )
        if cancelled is not None:
            raise cancelled

    async def _end_all(self, cancel: bool) -> BaseException | None:
        """Wait until none runs. Returns the exception with which this was cancelled, if it was."""
        cancelled = None
        try:
            while True:
                if cancel:
                    self._closing = True
                    self._refuse_spawners()
                    self.cancel_all()
                try:
                    await _AllEnded(self)
                except asyncio.CancelledError as error:
                    cancelled, cancel = error, True
                else:
                    return cancelled
        finally:
            self._closing = False

    def _wake_leavers(self) -> None:
        while self._leavers and not self._running and not self._grants:
            self._leavers.pop(next(iter(self._leavers))).wake()
        self._is_told = bool(self._spawners or self._leavers)

    def _unseen_errors(self) -> list[tuple[BaseException, asyncio.Task[T]]]:
        errors = []
        for task in self._ended_tasks():
            if task.cancelled() or not getattr(task, "_log_traceback", True):
                continue
            error = task.exception()
            if error is not None:
                errors.append((error, task))
        return errors
