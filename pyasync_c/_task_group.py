"""TaskGroup: asyncio's, by the name that belongs beside JoinSet, join and select."""

from __future__ import annotations

import asyncio


class TaskGroup(asyncio.TaskGroup):
    """Tasks that end together: asyncio.TaskGroup, on this runtime and on any asyncio loop.

        async with TaskGroup() as group:
            group.create_task(fetch(first))
            group.create_task(fetch(second))

    The block is left once all have ended. If one fails, or the block raises, the others are
    cancelled, and all errors are raised together as an ExceptionGroup. Needs a task; for the thread
    of its loop. For results in the order in which they come use JoinSet.
    """
