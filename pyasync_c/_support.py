"""What the C half calls in Python: rare paths of asyncio's surface, in asyncio's own words.

Imported when the first loop is made, together with asyncio; never by `import pyasync_c`.
"""

from __future__ import annotations

import errno
import inspect
import itertools
import os
import sys
import threading
import warnings
import weakref
from asyncio import (
    base_events,
    base_futures,
    base_tasks,
    constants,
    coroutines,
    events,
    exceptions,
    format_helpers,
    futures,
    tasks,
    trsock,
    unix_events,
)
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, NoReturn, TypeGuard

from . import _compatible, _core
from ._core import Future

enter_compatible, check_compatible = _compatible.enter, _compatible.check
StandardLoop = unix_events.SelectorEventLoop  # whose methods a loop in compatible mode has


def iscoroutine(x: Any) -> TypeGuard[Coroutine[Any, Any, Any]]:
    """As asyncio's, which remembers each type of which it has said yes, and so keeps it alive: of
    our futures it need not be asked."""
    return isinstance(x, Future) or coroutines.iscoroutine(x)


def cannot_pickle(self: object) -> NoReturn:
    """The __reduce__ of what is no value, so that it is not copied either."""
    raise TypeError(f"cannot pickle {type(self).__name__!r} object")


# ── private names of asyncio ─────────────────────────────────────────────────────────────────
# A new Python may move them. Those that can be done without are asked for here; those that cannot
# stand in need(), in _eventloop.py, and in csrc/python (module.c, callback_handle.c).


def _moved(owner: Any, name: str) -> str:
    return f"Python {sys.version.split()[0]} has no {owner.__name__}.{name}"


def private(owner: Any, name: str, loss: str, fallback: Any = None) -> Any:
    """`name` of a module or class of asyncio; where it is gone, `fallback` and a RuntimeWarning."""
    try:
        return getattr(owner, name)
    except AttributeError:
        warnings.warn(f"pyasync_c: {_moved(owner, name)}: {loss}", RuntimeWarning, stacklevel=2)
        return fallback


def need(owner: Any, *names: str) -> None:
    """ImportError, naming it, if a module or class of asyncio has lost a name."""
    for name in names:
        if not hasattr(owner, name):
            raise ImportError(
                f"{_moved(owner, name)}, which pyasync_c's event loop needs: "
                "this version of pyasync_c does not know this version of Python"
            )


def _unknown_stack(*args: Any) -> list[Any]:
    return []


_PLAIN = "reprs and logs are plainer"
future_repr = private(base_futures, "_future_repr", _PLAIN, object.__repr__)
task_repr = private(base_tasks, "_task_repr", _PLAIN, object.__repr__)
task_get_stack = private(base_tasks, "_task_get_stack", "get_stack() is empty", _unknown_stack)
task_print_stack = private(
    base_tasks, "_task_print_stack", "print_stack() is empty", _unknown_stack
)
_format_handle = private(base_events, "_format_handle", _PLAIN, repr)
_format_callback = private(
    format_helpers, "_format_callback_source", _PLAIN, lambda callback, args: repr(callback)
)
_run_until_complete_cb = private(
    base_events, "_run_until_complete_cb", "out of memory at its end, a run may hang"
)
# asyncio's set of tasks.
_task_set = "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"
private(tasks, _task_set, "asyncio.all_tasks() misses this package's tasks")


def takes_signals() -> bool:
    """Whether signals are handled on this thread: the main one of the main interpreter.

    Nothing of `signal` may be called for another interpreter: getsignal() answers with an object of
    the main one, whose lock is not held.
    """
    # Not current_thread(), which makes an object of a thread that is just ending.
    return threading.get_ident() == threading.main_thread().ident and _core._in_main_interpreter()


async def fresh_coroutine() -> None:
    """A coroutine that never runs: C reads off it how this Python marks one."""


# ── awaitables as coroutines ─────────────────────────────────────────────────────────────────


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def coroutine_of(awaitable: Any) -> Coroutine[Any, Any, Any]:
    """`awaitable` as something that a Task can run; TypeError if it is none."""
    if iscoroutine(awaitable):
        return awaitable
    if inspect.isawaitable(awaitable):
        return _await(awaitable)
    hint = ""
    if inspect.iscoroutinefunction(awaitable):
        hint = ": did you forget () after its name?"
    raise TypeError(f"an awaitable is required, not {type(awaitable).__name__}{hint}")


def reused(future: Any) -> RuntimeError:
    """What a future written in Python raises that is polled once more when it is over; the base
    type in C sees awaits alone."""
    return RuntimeError(f"cannot reuse already awaited {type(future).__name__}")


def spawn_on_running_loop(coroutine: Any, name: Any, context: Any) -> Any:
    loop = events.get_running_loop()
    if context is None:
        return loop.create_task(coroutine, name=name)
    return loop.create_task(coroutine, name=name, context=context)


def create_task(
    loop: Any, coro: Any, *, name: Any = None, context: Any = None, **kwargs: Any
) -> Any:
    """create_task with all that the fast path leaves out: a task factory, odd arguments."""
    loop._check_closed()
    factory = loop._task_factory
    if factory is None:
        from ._core import Task

        task = Task(coro, loop=loop, name=name, context=context, **kwargs)
        if task._source_traceback:
            del task._source_traceback[-1]
        return task
    if sys.version_info >= (3, 14):
        if name is not None:
            kwargs["name"] = name
        if context is not None:
            kwargs["context"] = context
        return factory(loop, coro, **kwargs)
    if context is not None:
        kwargs["context"] = context
    task = factory(loop, coro, **kwargs)
    if name is not None:
        set_name = getattr(task, "set_name", None)
        if set_name is not None:
            set_name(name)
    return task


# ── tasks and futures that are branches of a join or select ──────────────────────────────────


# A cancelled one was asked to end; the latter two have left the loop already.
_NOT_REPORTED = (type(None), exceptions.CancelledError, KeyboardInterrupt, SystemExit)


def has_failed(future: Any) -> bool:
    return future.cancelled() or future.exception() is not None


def check_loop_of(future: Any) -> None:
    loop = events.get_running_loop()
    if futures._get_loop(future) is not loop:
        raise RuntimeError(f"{future!r} is attached to a different loop")


def cancel_unless_closed(task: Any) -> None:
    """task.cancel(), unless its loop is closed: then the task will not run any more."""
    try:
        task.cancel()
    except RuntimeError:
        if not futures._get_loop(task).is_closed():
            raise


def report_branch(what: str, exception: Any, task: Any) -> None:
    """An error that comes when the outcome stands: given, or that of a task that has ended."""
    if exception is None:
        exception = None if task.cancelled() else task.exception()
    loop = events._get_running_loop() if task is None else futures._get_loop(task)
    if loop is None or isinstance(exception, _NOT_REPORTED):
        return
    context = {
        "message": f"{what}: exception after the outcome was decided",
        "exception": exception,
    }
    if task is not None:
        context["task"] = task
        _with_source(context, task)
    loop.call_exception_handler(context)


# ── errors that nobody awaits ────────────────────────────────────────────────────────────────


def _with_source(context: dict[str, Any], origin: Any) -> dict[str, Any]:
    if origin._source_traceback:
        context["source_traceback"] = origin._source_traceback
    return context


def report_unseen(loop: Any, what: str, future: Any) -> None:
    context = {
        "message": f"{what} exception was never retrieved",
        "exception": future._exception,
        "future": future,
    }
    loop.call_exception_handler(_with_source(context, future))


def report_destroyed(loop: Any, task: Any) -> None:
    context = {"task": task, "message": "Task was destroyed but it is pending!"}
    loop.call_exception_handler(_with_source(context, task))


def report_callback(loop: Any, handle: Any, exc: BaseException) -> None:
    if isinstance(exc, MemoryError) and handle._callback is _run_until_complete_cb:
        loop.stop()  # what it was about to do: without it the run would never end
        return
    callback = _format_callback(handle._callback, handle._args)
    context = {
        "message": f"Exception in callback {callback}",
        "exception": exc,
        "handle": handle,
    }
    loop.call_exception_handler(_with_source(context, handle))


# ── sock_recv and the like ───────────────────────────────────────────────────────────────────

_check_ssl_socket = private(
    base_events, "_check_ssl_socket", "an SSLSocket is not refused", lambda sock: None
)


def check_socket(loop: Any, sock: Any) -> None:
    _check_ssl_socket(sock)
    if loop._debug and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


# ── debug mode ───────────────────────────────────────────────────────────────────────────────


def check_callback(loop: Any, callback: Any, method: str, thread: bool) -> None:
    loop._check_closed()
    if thread:
        loop._check_thread()
    loop._check_callback(callback, method)


def note_duration(loop: Any, what: Any, seconds: float) -> None:
    if seconds >= loop.slow_callback_duration:
        described = _format_handle(what) if isinstance(what, events.Handle) else repr(what)
        base_events.logger.warning("Executing %s took %.3f seconds", described, seconds)


# ── transports ───────────────────────────────────────────────────────────────────────────────

SENDFILE_TRY_NATIVE = private(constants, "_SendfileMode", "sendfile() copies by hand", None)
if SENDFILE_TRY_NATIVE is not None:
    SENDFILE_TRY_NATIVE = SENDFILE_TRY_NATIVE.TRY_NATIVE


def log_debug(message: str, transport: Any) -> None:
    base_events.logger.debug(message, transport)


def log_transport_error(transport: Any, message: str, exc: BaseException) -> None:
    base_events.logger.debug("%r: %s", transport, message, exc_info=exc)


def log_warning(message: str) -> None:
    base_events.logger.warning(message)


def log_connection(server: Any, address: Any, conn: Any) -> None:
    base_events.logger.debug("%r got a new connection from %r: %r", server, address, conn)


def report_transport_creation(loop: Any, exc: BaseException, protocol: Any) -> None:
    if not loop._debug:
        return  # as asyncio does
    context = {
        "message": "Error on transport creation for incoming connection",
        "exception": exc,
    }
    if protocol is not None:
        context["protocol"] = protocol
    loop.call_exception_handler(context)


def report_accept(loop: Any, exc: BaseException, sock: Any) -> None:
    out = isinstance(exc, OSError) and exc.errno in _OUT_OF_RESOURCES
    loop.call_exception_handler(
        {
            "message": "socket.accept() out of system resource" if out else "accept() failed",
            "exception": exc,
            "socket": trsock.TransportSocket(sock),
        }
    )


_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def accept_later(loop: Any, resume: Any) -> Any:
    return loop.call_later(constants.ACCEPT_RETRY_DELAY, resume)


# ── what a task waits for ────────────────────────────────────────────────────────────────────


def _is_asyncio(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("asyncio.")


def describe_task(task: Any) -> str:
    """task 'name' in f at file.py:12, waiting for <Notified waiting>"""
    frame, awaited = None, None
    inner: Any = task.get_coro()
    while inner is not None:
        awaited = inner
        for kind in ("cr", "gi", "ag"):
            if hasattr(inner, f"{kind}_frame"):
                here = getattr(inner, f"{kind}_frame")
                if here is not None and (frame is None or not _is_asyncio(here)):
                    frame = here
                inner = getattr(inner, f"{kind}_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            break
    waiter = task._fut_waiter if task._fut_waiter is not None else awaited
    text = f"task {task.get_name()!r}"
    if frame is not None:
        text += f" in {frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}"
    try:
        return f"{text}, waiting for {waiter!r}"
    except Exception:
        return f"{text}, waiting for {type(waiter).__name__}"


# ── asyncio.all_tasks ────────────────────────────────────────────────────────────────────────

_loops: weakref.WeakSet[Any] = weakref.WeakSet()


class _TaskSet(weakref.WeakSet):
    """asyncio's set of tasks, with the live tasks of our loops in it without being registered.

    Registering each would cost more than the rest of making a task. The executors know them anyway.
    """

    def __init__(self, registered: weakref.WeakSet[Any]) -> None:
        super().__init__()
        self._registered = registered

    def __iter__(self) -> Iterator[Any]:
        live = [task for loop in list(_loops) for task in loop._live_tasks()]
        return itertools.chain(self._registered, live)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, task: object) -> bool:
        return any(task is one for one in self)

    def add(self, task: Any) -> None:
        self._registered.add(task)

    def discard(self, task: Any) -> None:
        self._registered.discard(task)


def watch_tasks_of(loop: Any) -> None:
    """Let asyncio.all_tasks() see the tasks of `loop`, and a fork's child leave it alone."""
    _loops.add(loop)
    registered = getattr(tasks, _task_set, None)
    if registered is not None and not isinstance(registered, _TaskSet):
        setattr(tasks, _task_set, _TaskSet(registered))


def loops_of(cls: type) -> list[Any]:
    """The loops that are instances of `cls`."""
    return [loop for loop in list(_loops) if isinstance(loop, cls)]


def _disown_loops() -> None:
    from ._core import _forget_running

    _forget_running()
    for loop in list(_loops):
        loop._disown()


os.register_at_fork(after_in_child=_disown_loops)
