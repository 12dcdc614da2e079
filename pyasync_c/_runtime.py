"""Runtime, Handle and run(): the life of an executor, as asyncio.Runner lives a loop's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from . import _core, _support
from ._eventloop import EventLoop, new_event_loop

T = TypeVar("T")

_local = threading.local()


class RuntimeMetrics(NamedTuple):
    """What a runtime has counted since it was made, from Runtime.metrics(). A snapshot: plain ints.

    tasks_alive and timers_active are of this moment. polls are those of tasks; spurious_polls, a
    part of them, found the task waiting still for an asyncio future. wakes is what wake-ups have
    queued, wakes_from_threads the part of other threads. parks is how often it slept, timers_fired
    how many came due, queue_depth_max the longest ready queue, slow_polls how many polls or
    callbacks took over 100 ms, the present one included; several within four count as one. Stands
    for Tokio's RuntimeMetrics.
    """

    tasks_alive: int
    tasks_spawned: int
    polls: int
    wakes: int
    wakes_from_threads: int
    spurious_polls: int
    parks: int
    timers_active: int
    timers_fired: int
    queue_depth_max: int
    slow_polls: int


class _Spawn(Generic[T]):
    """A coroutine on its way to its loop's thread; cancelled if the loop closes before."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: EventLoop) -> None:
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine
        self._loop = loop
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def __call__(self) -> None:
        coroutine, self._coroutine = self._coroutine, None
        assert coroutine is not None
        try:
            task = self._loop.create_task(coroutine)
        except BaseException as error:
            coroutine.close()
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)
            raise
        # What asyncio.run_coroutine_threadsafe does.
        asyncio.futures._chain_future(task, self.future)  # type: ignore[attr-defined]

    def __del__(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()
            self.future.cancel()


class Handle:
    """Reach a running runtime from outside: from any thread, also one without a loop.

    Got from Runtime.handle(). Stands for tokio::runtime::Handle.
    """

    __slots__ = ("_loop",)

    def __init__(self, loop: EventLoop, /) -> None:
        self._loop = loop

    __reduce__ = _support.cannot_pickle

    def __repr__(self) -> str:
        return f"<Handle of {self._loop!r}>"

    def spawn(self, aw: Awaitable[T], /) -> concurrent.futures.Future[T]:
        """Run `aw` as a task of the runtime; the future returned gets its result. [any thread]

        Cancelling that future cancels the task, and closing the runtime cancels both. Raises
        TypeError if `aw` is not awaitable, RuntimeError if the runtime is closed.
        """
        spawn: _Spawn[T] = _Spawn(_support.coroutine_of(aw), self._loop)
        self._submit(spawn)
        return spawn.future

    def call_soon(self, f: Callable[..., object], /, *args: Any) -> None:
        """Call f(*args) on the runtime's thread, soon. [any thread]

        Raises TypeError if f is not callable, RuntimeError if the runtime is closed.
        """
        if not callable(f):
            raise TypeError(f"call_soon: f must be callable, not {type(f).__name__}")
        self._submit(f, *args)

    def _submit(self, f: Callable[..., object], *args: Any) -> None:
        if self._loop._refuses_handles:
            raise RuntimeError("Event loop is closed")
        self._loop.call_soon_threadsafe(f, *args)


class Runtime:
    """One executor for several runs; a context manager that closes it.

    Tasks that are left when run() returns stay suspended until the next run; close() cancels and
    finishes them. `debug` is asyncio's debug mode, which also names a task that nothing will wake;
    None: as PYTHONASYNCIODEBUG and -X dev say. Belongs to the thread that uses it, but for what
    handle() returns. Stands for Tokio's current_thread Runtime, and does what asyncio.Runner does.

    clock="virtual": now(), loop.time() and all timers are on a clock that starts at 0.0, stands
    still while anything runs, and jumps to the next deadline when all tasks wait. Descriptors are
    looked at once before each jump, and there is none while a thread of the pool is at work
    (spawn_blocking, run_in_executor, getaddrinfo). When there is no deadline, it waits for
    descriptors, signal handlers and threads that are there; without those run() raises
    RuntimeError "deadlock", naming the tasks.

    seed: an int from 0 to 2**64 - 1. The tasks that are ready run in a pseudo-random order, and
    select() tries its branches in one; the same seed gives the same run, if all that the program
    does depends on nothing else (a virtual clock belongs to that). Callbacks of call_soon keep
    their order, and no task overtakes one.

    Raises TypeError and ValueError for a clock or seed that is none.
    """

    def __init__(
        self,
        *,
        clock: Literal["monotonic", "virtual"] = "monotonic",
        seed: int | None = None,
        debug: bool | None = None,
    ) -> None:
        self._loop = new_event_loop(clock=clock, seed=seed, debug=debug)
        self._context: Context | None = None
        self._pid = os.getpid()
        self._interrupts = 0

    def __enter__(self) -> Runtime:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    __reduce__ = _support.cannot_pickle

    def __repr__(self) -> str:
        state = (
            "closed" if self._loop.is_closed() else "running" if self._loop.is_running() else "idle"
        )
        return f"<Runtime {state}>"

    def _check_open(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(f"this runtime belongs to process {self._pid}")
        if self._loop.is_closed():
            raise RuntimeError("runtime is closed")

    def run(self, main: Awaitable[T], /) -> T:
        """Run `main` to its end, and all else along with it; returns or raises what main does.

        On the main thread Ctrl-C cancels main, and KeyboardInterrupt is raised once it has ended.
        Raises TypeError if main is not awaitable; RuntimeError inside a running loop, or when
        closed.
        """
        try:
            self._check_open()
            if asyncio._get_running_loop() is not None:
                raise RuntimeError("Runtime.run() cannot be called from a running event loop")
            if self._loop.is_running():
                raise RuntimeError("this runtime is running already, on another thread")
            coroutine = _support.coroutine_of(main)
        except BaseException:
            if _support.iscoroutine(main):
                main.close()
            raise
        if self._context is None:
            self._context = copy_context()
        task: asyncio.Task[T] = self._loop.create_task(coroutine, context=self._context)
        outer = getattr(_local, "runtime", None)
        _local.runtime = self
        restore: Callable[[], object] = _nothing
        self._interrupts = 0
        try:
            restore = _take_sigint(functools.partial(self._on_sigint, main_task=task))
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            if self._interrupts > 0 and task.uncancel() == 0:
                raise KeyboardInterrupt() from None
            raise
        finally:
            restore()
            _local.runtime = outer

    def _on_sigint(self, signum: int, frame: object, main_task: asyncio.Task[Any]) -> None:
        self._interrupts += 1
        if self._interrupts == 1 and not main_task.done():
            main_task.cancel()
            self._loop.call_soon_threadsafe(_nothing)  # it may be parked
            return
        raise KeyboardInterrupt()

    def handle(self) -> Handle:
        """A Handle, by which other threads reach this runtime. RuntimeError if it is closed."""
        self._check_open()
        return Handle(self._loop)

    def get_loop(self) -> EventLoop:
        """The asyncio loop that this runtime is. RuntimeError if it is closed."""
        self._check_open()
        return self._loop

    def advance(self, seconds: float, /) -> None:
        """Move the virtual clock on by `seconds`; the timers that are due then run from the next
        turn on.

        Inside run() or between two. Raises RuntimeError without clock="virtual", if closed, or if
        it runs on another thread; ValueError if seconds is negative, infinite or NaN, TypeError if
        it is no number. Stands for tokio::time::advance.
        """
        self._check_open()
        self._loop._advance(seconds)

    def metrics(self) -> RuntimeMetrics:
        """What the executor has counted so far: RuntimeMetrics. RuntimeError if it is closed."""
        self._check_open()
        return RuntimeMetrics(*self._loop._metrics())

    def close(self) -> None:
        """Cancel and finish what is left, close async generators and the thread pool.

        On the main thread Ctrl-C ends the waiting: the rest is closed where it stands, and
        KeyboardInterrupt is raised at the end. Twice is a no-op. RuntimeError while it, or another
        loop on this thread, runs. In a child of fork() it leaves the parent's runtime alone.
        """
        loop = self._loop
        if loop.is_closed():
            return
        if self._pid != os.getpid():
            return  # the parent's: not ours to touch
        if loop.is_running():
            raise RuntimeError("cannot close a running runtime")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("Runtime.close() cannot be called from a running event loop")
        closing = _Closing(loop)
        restore = _take_sigint(closing)
        try:
            closing.wait()
        finally:
            try:
                loop.close()
            finally:
                restore()
        if closing.interrupts > 0:
            raise KeyboardInterrupt()


class _Closing:
    """Waits for what is left on a loop, and is told of Ctrl-C.

    The first one ends the waiting, the next ones are raised where they come; but none is raised
    while the loop closes itself, which would leave it half closed.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._waits = True
        self.interrupts = 0

    def __call__(self, signum: int, frame: object) -> None:
        self.interrupts += 1
        if self._waits and self.interrupts == 1:
            self._loop.call_soon_threadsafe(self._loop.stop)
        elif self._waits:
            self._waits = False
            raise KeyboardInterrupt()

    def wait(self) -> None:
        loop = self._loop
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            # What other threads have spawned meanwhile must not be waited for in vain.
            loop._refuses_handles = True
            while _cancel_all_tasks(loop):
                pass
        except RuntimeError:
            if self.interrupts == 0:
                raise  # else the loop was stopped before it was done
        finally:
            self._waits = False


def _take_sigint(handler: Callable[[int, Any], object]) -> Callable[[], None]:
    """Have Ctrl-C call `handler`, on the main thread and unless somebody has one of his own there;
    returns what undoes that."""
    if (
        not _support.takes_signals()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return _nothing
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:
        return _nothing  # `threading` takes another thread for the main one than Python does
    return functools.partial(_give_sigint_back, handler)


def _give_sigint_back(handler: Callable[..., object]) -> None:
    if signal.getsignal(signal.SIGINT) is handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _nothing() -> None:
    pass


def _cancel_all_tasks(loop: EventLoop) -> bool:
    """Cancel and finish the tasks that there are; False: there are none."""
    left = [task for task in asyncio.all_tasks(loop) if not task.done()]
    if not left:
        return False
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception during pyasync_c.run() shutdown",
                    "exception": task.exception(),
                    "task": task,
                }
            )
    return True


def run(main: Awaitable[T], /, *, debug: bool | None = None) -> T:
    """Run `main` on a runtime of its own and return what it returns, in place of asyncio.run().

    What main leaves over is cancelled and finished, async generators and the thread pool are
    closed. Ctrl-C cancels main and raises KeyboardInterrupt. `debug` is asyncio's debug mode.
    Raises TypeError if main is not awaitable, RuntimeError inside a loop. On any thread that runs
    no loop. Stands for #[tokio::main] and asyncio.run.
    """
    if asyncio._get_running_loop() is not None:
        if _support.iscoroutine(main):
            main.close()
        raise RuntimeError("pyasync_c.run() cannot be called from a running event loop")
    try:
        coroutine = _support.coroutine_of(main)
    except TypeError as error:
        raise error from None
    with Runtime(debug=debug) as runtime:
        result: T = runtime.run(coroutine)
    return result


def current_runtime() -> Runtime:
    """The Runtime that runs on this thread; RuntimeError outside one.

    Stands for Tokio's Handle::current.
    """
    runtime: Runtime | None = getattr(_local, "runtime", None)
    if runtime is None or runtime._pid != os.getpid() or not runtime._loop.is_running():
        raise RuntimeError("no runtime is running on this thread")
    return runtime


def all_tasks() -> set[asyncio.Task[Any]]:
    """The tasks of the loop that runs here which have not ended. RuntimeError without a loop.

    As asyncio.all_tasks.
    """
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks(loop)
    if isinstance(loop, EventLoop):
        tasks.update(loop._live_tasks())
    return tasks


def spawn_blocking(f: Callable[..., T], /, *args: Any, **kwargs: Any) -> _core.Future[T]:
    """Run f(*args, **kwargs) in a thread of the loop's pool, in a copy of the present context.

    It is queued by this call; await the future for its result. Cancelling the await leaves the
    thread at work. Raises TypeError if f is not callable, RuntimeError without a loop. On the
    thread of the loop. Stands for Tokio's spawn_blocking, and does what asyncio.to_thread does.
    """
    if not callable(f):
        raise TypeError(f"spawn_blocking: f must be callable, not {type(f).__name__}")
    loop = asyncio.get_running_loop()
    call = functools.partial(copy_context().run, f, *args, **kwargs)
    return _core.into_future(loop.run_in_executor(None, call))
