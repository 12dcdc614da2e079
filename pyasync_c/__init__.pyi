from ._core import (
    PENDING as PENDING,
)
from ._core import (
    AcquirePermit as AcquirePermit,
)
from ._core import (
    Barrier as Barrier,
)
from ._core import (
    CancellationToken as CancellationToken,
)
from ._core import (
    Context as Context,
)
from ._core import (
    Delay as Delay,
)
from ._core import (
    Event as Event,
)
from ._core import (
    Future as Future,
)
from ._core import (
    Lock as Lock,
)
from ._core import (
    Notified as Notified,
)
from ._core import (
    Notify as Notify,
)
from ._core import (
    OnceCell as OnceCell,
)
from ._core import (
    PendingType as PendingType,
)
from ._core import (
    Permit as Permit,
)
from ._core import (
    RwLock as RwLock,
)
from ._core import (
    Semaphore as Semaphore,
)
from ._core import (
    SemaphoreClosed as SemaphoreClosed,
)
from ._core import (
    Task as Task,
)
from ._core import (
    Timeout as Timeout,
)
from ._core import (
    Waker as Waker,
)
from ._core import (
    current_task as current_task,
)
from ._core import (
    into_future as into_future,
)
from ._core import (
    join as join,
)
from ._core import (
    noop_waker as noop_waker,
)
from ._core import (
    now as now,
)
from ._core import (
    pending as pending,
)
from ._core import (
    poll_fn as poll_fn,
)
from ._core import (
    poll_once as poll_once,
)
from ._core import (
    ready as ready,
)
from ._core import (
    select as select,
)
from ._core import (
    sleep as sleep,
)
from ._core import (
    sleep_until as sleep_until,
)
from ._core import (
    spawn as spawn,
)
from ._core import (
    timeout as timeout,
)
from ._core import (
    timeout_at as timeout_at,
)
from ._core import (
    yield_now as yield_now,
)
from ._eventloop import EventLoop as EventLoop
from ._eventloop import new_event_loop as new_event_loop
from ._interval import Interval as Interval
from ._interval import interval as interval
from ._join_set import JoinSet as JoinSet
from ._runtime import (
    Handle as Handle,
)
from ._runtime import (
    Runtime as Runtime,
)
from ._runtime import (
    RuntimeMetrics as RuntimeMetrics,
)
from ._runtime import (
    all_tasks as all_tasks,
)
from ._runtime import (
    current_runtime as current_runtime,
)
from ._runtime import (
    run as run,
)
from ._runtime import (
    spawn_blocking as spawn_blocking,
)
from ._task_group import TaskGroup as TaskGroup

__version__: str

def get_include() -> str: ...

__all__ = [
    "PENDING",
    "CancellationToken",
    "AcquirePermit",
    "Barrier",
    "Context",
    "Delay",
    "Event",
    "EventLoop",
    "Future",
    "Handle",
    "Interval",
    "JoinSet",
    "Lock",
    "Notified",
    "Notify",
    "OnceCell",
    "PendingType",
    "Permit",
    "Runtime",
    "RuntimeMetrics",
    "RwLock",
    "Semaphore",
    "SemaphoreClosed",
    "Task",
    "TaskGroup",
    "Timeout",
    "Waker",
    "all_tasks",
    "current_runtime",
    "current_task",
    "get_include",
    "interval",
    "into_future",
    "join",
    "new_event_loop",
    "noop_waker",
    "now",
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
    "yield_now",
]
