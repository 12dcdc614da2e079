"""pyasync_c: a Tokio-grade async runtime written in C, for Python.

    import pyasync_c

    async def main():
        await pyasync_c.sleep(0.1)

    pyasync_c.run(main())

Importing it imports neither asyncio nor typing; what needs them is made on first use.
"""

from ._core import (
    PENDING,
    AcquirePermit,
    Barrier,
    BroadcastReceiver,
    BroadcastSender,
    CancellationToken,
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    Context,
    Delay,
    Event,
    Future,
    Lagged,
    Lock,
    Notified,
    Notify,
    OnceCell,
    OneshotReceiver,
    OneshotSender,
    PendingType,
    Permit,
    Receiver,
    RwLock,
    Semaphore,
    SemaphoreClosed,
    Send,
    Sender,
    Timeout,
    UnboundedSender,
    Waker,
    WatchReceiver,
    WatchSender,
    broadcast,
    channel,
    current_task,
    into_future,
    join,
    noop_waker,
    now,
    oneshot,
    pending,
    poll_fn,
    poll_once,
    ready,
    select,
    sleep,
    sleep_until,
    spawn,
    timeout,
    timeout_at,
    unbounded_channel,
    watch,
    yield_now,
)

__version__ = "0.1.0"

# Made on first use, with asyncio.
_LAZY = {
    "EventLoop": "_eventloop",
    "new_event_loop": "_eventloop",
    "Handle": "_runtime",
    "Runtime": "_runtime",
    "RuntimeMetrics": "_runtime",
    "all_tasks": "_runtime",
    "current_runtime": "_runtime",
    "run": "_runtime",
    "spawn_blocking": "_runtime",
    "JoinSet": "_join_set",
    "TaskGroup": "_task_group",
    "Interval": "_interval",
    "interval": "_interval",
}


def __getattr__(name: str) -> object:
    if name == "Task":
        from . import _core

        _core._need_asyncio()
        value = _core.Task
    elif name == "net":
        from importlib import import_module

        value = import_module(f"{__name__}.net")
    elif name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "Task", "net"})


def get_include() -> str:
    """The directory of pyasync_c.h, for the include path of an extension that is built on it."""
    from pathlib import Path

    return str(Path(__file__).parent / "include")


__all__ = [
    "PENDING",
    "AcquirePermit",
    "Barrier",
    "BroadcastReceiver",
    "BroadcastSender",
    "CancellationToken",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "Context",
    "Delay",
    "Event",
    "EventLoop",
    "Future",
    "Handle",
    "Interval",
    "JoinSet",
    "Lagged",
    "Lock",
    "Notified",
    "Notify",
    "OnceCell",
    "OneshotReceiver",
    "OneshotSender",
    "PendingType",
    "Permit",
    "Receiver",
    "Runtime",
    "RuntimeMetrics",
    "RwLock",
    "Semaphore",
    "SemaphoreClosed",
    "Send",
    "Sender",
    "Task",
    "TaskGroup",
    "Timeout",
    "UnboundedSender",
    "Waker",
    "WatchReceiver",
    "WatchSender",
    "all_tasks",
    "broadcast",
    "channel",
    "current_runtime",
    "current_task",
    "get_include",
    "interval",
    "into_future",
    "join",
    "net",
    "new_event_loop",
    "noop_waker",
    "now",
    "oneshot",
    "pending",
    "poll_fn",
    "poll_once",
    "ready",
    "run",
    "select",
    "sleep",
    "sleep_until",
    "spawn",
    "spawn_blocking",
    "timeout",
    "timeout_at",
    "unbounded_channel",
    "watch",
    "yield_now",
]
