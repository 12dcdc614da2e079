"""Random programs in asyncio's own words, which say the same on asyncio's loop and on ours: what
happens, when, and in which order.

A program is data: blocks, one for each task, of steps [name, ...], of which some hold blocks again.
So one that tells the loops apart can be cut down (shrink) and printed. Time is virtual on both.
"""

import asyncio
import contextvars
import gc
import random
import selectors
import sys
import warnings

import differential
from helpers import unraisable

import pyasync_c

FUTURES = 3
ENDS_AFTER_S, ENDINGS = 0.05, 30
EAGER = {"eager_start": True} if sys.version_info >= (3, 12) else {}

variable = contextvars.ContextVar("variable", default=0)


# ── asyncio's loop on a virtual clock ────────────────────────────────────────────────────────


class JumpingSelector(selectors.SelectSelector):
    loop = None

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock")
        if not ready and timeout > 0:
            self.loop.now = max(self.loop.now, self.loop._scheduled[0]._when)
        return ready


class ReferenceLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        selector = JumpingSelector()
        self.now, self.timers = 0.0, 0
        super().__init__(selector)
        selector.loop = self
        self._clock_resolution = 1e-10

    def time(self):
        return self.now

    def call_at(self, when, *args, **kwargs):
        """Those of one moment in the order in which they were made, as ours has them."""
        self.timers += 1
        return super().call_at(when + self.timers * 1e-14, *args, **kwargs)


def our_loop():
    return pyasync_c.new_event_loop(clock="virtual")


class OrderedTask(asyncio.Task):
    """Sets of these have the same order in each run."""

    made = 0

    def __init__(self, *args, **kwargs):
        OrderedTask.made += 1
        self.number = OrderedTask.made
        super().__init__(*args, **kwargs)

    def __hash__(self):
        return self.number


# ── steps ────────────────────────────────────────────────────────────────────────────────────

leaves, nests = {}, {}


def leaf(step):
    leaves[step.__name__.rstrip("_")] = step
    return step


def nest(least, most):
    """Of at least and at most so many blocks."""

    def add(step):
        nests[step.__name__.rstrip("_")] = step, least, most
        return step

    return add


@leaf
async def turn(run, where, n, seconds, m):
    await asyncio.sleep(0)


leaves["turn, as often as two others"] = turn


@leaf
async def sleep(run, where, n, seconds, m):
    return await asyncio.sleep(seconds, n)


@leaf
async def future(run, where, n, seconds, m):
    return await run.future(n)


leaves["future, as often as two others"] = future


@leaf
async def new_future(run, where, n, seconds, m):
    run.futures[n % FUTURES] = run.loop.create_future()


@leaf
async def set_result(run, where, n, seconds, m):
    if not run.future(n).done():
        run.future(n).set_result(where)


@leaf
async def set_exception(run, where, n, seconds, m):
    if not run.future(n).done():
        run.future(n).set_exception(differential.Planned(where))


@leaf
async def cancel_future(run, where, n, seconds, m):
    return run.future(n).cancel(msg=where if m % 2 else None)


@leaf
async def cancel(run, where, n, seconds, m):
    task = run.task(n)
    if task is asyncio.current_task() and m % 3:
        return None
    return task.cancel(where) if m % 2 else task.cancel()


@leaf
async def cancel_a_late_one(run, where, n, seconds, m):
    return run.task(-1 - n).cancel(where)


@leaf
async def cancel_itself(run, where, n, seconds, m):
    return asyncio.current_task().cancel(where)


@leaf
async def uncancel(run, where, n, seconds, m):
    return asyncio.current_task().uncancel()


@leaf
async def look(run, where, n, seconds, m):
    me = asyncio.current_task()
    return [run.names(asyncio.all_tasks()), me._must_cancel, me._fut_waiter is None]


@leaf
async def look_at_result(run, where, n, seconds, m):
    task = run.task(n)
    if not task.done() or task.cancelled():
        return [task.done(), task.cancelled()]
    return run.told(task.exception()) if task.exception() else task.result()


@leaf
async def wait_for_future(run, where, n, seconds, m):
    return await asyncio.wait_for(run.future(n), seconds if m else None)


@leaf
async def wait_for_little(run, where, n, seconds, m):
    return await asyncio.wait_for(asyncio.sleep(0, 5), seconds)


@leaf
async def shield_future(run, where, n, seconds, m):
    return await asyncio.shield(run.future(n))


@leaf
async def shield_task(run, where, n, seconds, m):
    return await asyncio.shield(run.task(n))


@leaf
async def await_task(run, where, n, seconds, m):
    task = run.task(n)
    return None if task is asyncio.current_task() else await task


@leaf
async def call_soon(run, where, n, seconds, m):
    run.loop.call_soon(run.callback(where), n)


@leaf
async def call_soon_threadsafe(run, where, n, seconds, m):
    run.loop.call_soon_threadsafe(run.callback(where), n)


@leaf
async def call_later(run, where, n, seconds, m):
    run.loop.call_later(seconds, run.callback(where), n)


@leaf
async def cancel_later(run, where, n, seconds, m):
    handle = run.loop.call_later(seconds, run.callback(where), n)
    run.loop.call_later(n * 0.001, handle.cancel)


@leaf
async def add_callback(run, where, n, seconds, m):
    run.future(n).add_done_callback(run.shared_callback(m))


@leaf
async def remove_callback(run, where, n, seconds, m):
    return run.future(n).remove_done_callback(run.shared_callback(m))


@leaf
async def add_callback_to_task(run, where, n, seconds, m):
    run.task(n).add_done_callback(run.callback(where))


@leaf
async def callback_that_cancels(run, where, n, seconds, m):
    run.future(m).add_done_callback(lambda future: run.task(n).cancel(where))


@leaf
async def callback_that_sets(run, where, n, seconds, m):
    def set_next(future):
        run.note("sets", where)
        if not run.future(n + 1).done():
            run.future(n + 1).set_result(where)

    run.future(m).add_done_callback(set_next)


@leaf
async def event_wait(run, where, n, seconds, m):
    return await run.event.wait()


@leaf
async def event_set(run, where, n, seconds, m):
    run.event.set()


@leaf
async def event_clear(run, where, n, seconds, m):
    run.event.clear()


@leaf
async def queue_put(run, where, n, seconds, m):
    await run.queue.put(where)


@leaf
async def queue_get(run, where, n, seconds, m):
    return await run.queue.get()


@leaf
async def queue_put_nowait(run, where, n, seconds, m):
    return "full" if run.queue.full() else run.queue.put_nowait(where)


@leaf
async def queue_get_nowait(run, where, n, seconds, m):
    return "empty" if run.queue.empty() else run.queue.get_nowait()


@leaf
async def lock(run, where, n, seconds, m):
    async with run.lock:
        run.note(where, "has it")
        await asyncio.sleep(seconds)


@leaf
async def semaphore(run, where, n, seconds, m):
    async with run.semaphore:
        run.note(where, "has it")
        await asyncio.sleep(seconds)


@leaf
async def condition_wait(run, where, n, seconds, m):
    async with run.condition:
        return await run.condition.wait()


@leaf
async def condition_notify(run, where, n, seconds, m):
    async with run.condition:
        run.condition.notify(1 + m)


@leaf
async def barrier(run, where, n, seconds, m):
    return await run.barrier.wait()


@leaf
async def raise_(run, where, n, seconds, m):
    raise differential.Planned(where)


@leaf
async def raise_cancelled(run, where, n, seconds, m):
    raise asyncio.CancelledError(where)


@leaf
async def set_variable(run, where, n, seconds, m):
    variable.set(n + 1)


@leaf
async def spawn(run, where, n, seconds, m):
    context = {"context": contextvars.copy_context()} if m == 0 else {}
    return run.spawn([["turn", 0, 0, 0]] * (n % 3), **context).get_name()


@leaf
async def spawn_eager(run, where, n, seconds, m):
    block = [["turn", 0, 0, 0], ["look", 0, 0, 0]]
    coroutine = run.block(f"{where} eager", block)
    task = run.task_type(coroutine, loop=run.loop, name=f"eager {where}", **EAGER)
    run.tasks.append(task)
    return task.done()


@leaf
async def wait(run, where, n, seconds, m):
    tasks = run.others(n)
    if not tasks:
        return None
    when = [asyncio.FIRST_COMPLETED, asyncio.ALL_COMPLETED, asyncio.FIRST_EXCEPTION][m % 3]
    timeout = seconds if m % 2 else None
    done, left = await asyncio.wait(tasks, timeout=timeout, return_when=when)
    return [run.names(done), run.names(left)]


@leaf
async def as_completed(run, where, n, seconds, m):
    results = []
    for next_one in asyncio.as_completed(run.others(n), timeout=seconds if m % 2 else None):
        try:
            results.append(str(await next_one))
        except differential.Planned as error:
            results.append(run.told(error))
    return results


@leaf
async def gather_tasks(run, where, n, seconds, m):
    return run.plain(await asyncio.gather(*run.others(n), return_exceptions=bool(m % 2)))


@leaf
async def gather_one_twice(run, where, n, seconds, m):
    futures = [run.future(n), run.future(n), run.future(m)]
    return run.plain(await asyncio.gather(*futures, return_exceptions=True))


@leaf
async def timeout_at(run, where, n, seconds, m):
    async with asyncio.timeout_at(run.loop.time() + seconds) as limit:
        await run.future(n)
    return limit.expired()


@leaf
async def reschedule(run, where, n, seconds, m):
    async with asyncio.timeout(seconds) as limit:
        limit.reschedule(run.loop.time() + (m - 1) * 0.001 if m < 4 else None)
        await asyncio.sleep(0.002)
    return limit.expired()


@leaf
async def generate(run, where, n, seconds, m):
    async def numbers():
        try:
            for i in range(3):
                await asyncio.sleep(0)
                yield i
        finally:
            run.note(where, "the generator ends")
            await asyncio.sleep(0)

    taken = []
    async for i in numbers():
        taken.append(i)
        if n < 2 and i:
            break
    return taken


@nest(1, 1)
async def timeout(run, where, blocks, seconds):
    async with asyncio.timeout(seconds) as limit:
        await run.block(where, blocks[0])
    return [limit.expired(), asyncio.current_task().cancelling()]


@nest(1, 1)
async def wait_for(run, where, blocks, seconds):
    return await asyncio.wait_for(run.block(where, blocks[0]), seconds)


@nest(1, 3)
async def task_group(run, where, blocks, seconds):
    async with asyncio.TaskGroup() as group:
        for block in blocks[1:]:
            run.spawn(block, by=group)
        await run.block(where, blocks[0])


@nest(0, 3)
async def gather(run, where, blocks, seconds):
    coroutines = [run.block(f"{where} {i}", block) for i, block in enumerate(blocks)]
    return run.plain(await asyncio.gather(*coroutines))


@nest(0, 3)
async def gather_exceptions(run, where, blocks, seconds):
    coroutines = [run.block(f"{where} {i}", block) for i, block in enumerate(blocks)]
    return run.plain(await asyncio.gather(*coroutines, return_exceptions=True))


@nest(1, 1)
async def shield(run, where, blocks, seconds):
    return await asyncio.shield(run.block(where, blocks[0]))


@nest(2, 2)
async def try_(run, where, blocks, seconds):
    try:
        return await run.block(where, blocks[0])
    except Exception as error:
        run.note(where, "catches", run.told(error))
        return await run.block(f"{where}'", blocks[1])


@nest(2, 2)
async def try_cancelled(run, where, blocks, seconds):
    try:
        return await run.block(where, blocks[0])
    except asyncio.CancelledError as error:
        run.note(where, "catches", run.told(error))
        return await run.block(f"{where}'", blocks[1])


@nest(2, 2)
async def finally_(run, where, blocks, seconds):
    try:
        return await run.block(where, blocks[0])
    finally:
        await run.block(f"{where}'", blocks[1])


@nest(1, 1)
async def spawn_block(run, where, blocks, seconds):
    return run.spawn(blocks[0]).get_name()


@nest(1, 1)
async def spawn_later(run, where, blocks, seconds):
    run.loop.call_later(seconds, lambda: run.spawn(blocks[0]))


@nest(1, 1)
async def twice(run, where, blocks, seconds):
    for i in range(2):
        await run.block(f"{where} {i}", blocks[0])


# ── programs ─────────────────────────────────────────────────────────────────────────────────


def make_program(seed):
    rng = random.Random(seed)
    depth = rng.choice([1, 2, 2, 3])
    return {
        "tasks": [make_block(rng, depth, 7) for _ in range(rng.randint(1, 5))],
        "eager": rng.random() < 0.25,  # all tasks begin at once
        "asyncio_tasks": rng.random() < 0.2,  # on our loop as well
    }


def make_block(rng, depth, most):
    return [make_step(rng, depth) for _ in range(rng.randint(0, most))]


def make_step(rng, depth):
    seconds = rng.choice([0, rng.randint(1, 5000), rng.randint(1, 5000)]) * 1e-6
    if depth > 0 and rng.random() < 0.35:
        name = rng.choice(list(nests))
        _, least, most = nests[name]
        blocks = [make_block(rng, depth - 1, 4) for _ in range(rng.randint(least, most))]
        return [name, blocks, seconds]
    return [rng.choice(list(leaves)), rng.randint(0, 5), seconds, rng.randint(0, 5)]


class Run:
    """One program on one loop, and what it has told."""

    def __init__(self, program, loop, task_type):
        self.program, self.loop, self.task_type = program, loop, task_type
        self.begun = loop.time()
        self.trace, self.reports = [], []
        self.tasks, self.futures, self.callbacks = [], [], {}
        self.spawned = 0

    # What steps use.

    def note(self, *what):
        self.trace.append((round(self.loop.time() - self.begun, 6), *what))

    def told(self, error):
        if isinstance(error, BaseExceptionGroup):
            return [type(error).__name__, *map(self.told, error.exceptions)]
        # Of messages that say which object it was, the beginning.
        words = [str(arg)[:12] if isinstance(error, RuntimeError) else arg for arg in error.args]
        return [type(error).__name__, *words]

    def plain(self, results):
        return [self.told(r) if isinstance(r, BaseException) else r for r in results]

    def future(self, n):
        return self.futures[n % FUTURES]

    def task(self, n):
        return self.tasks[n % len(self.tasks)]

    def others(self, n):
        return [task for task in self.tasks if task is not asyncio.current_task()][: n + 1]

    def names(self, tasks):
        """Those that the program has not named count on from what has run before, or have none."""
        names = [task.get_name() for task in tasks]
        return sorted("-" if name.startswith(("Task-", "None")) else name for name in names)

    def callback(self, where):
        def call(*args):
            current = asyncio.current_task()
            states = [arg._state for arg in args if asyncio.isfuture(arg)]
            self.note("callback", where, variable.get(), current is None, states)

        return call

    def shared_callback(self, n):
        return self.callbacks.setdefault(n, self.callback(f"shared {n}"))

    def spawn(self, block, by=None, **kwargs):
        self.spawned += 1
        name = f"task {self.spawned}"
        task = (by or self.loop).create_task(self.block(name, block), name=name, **kwargs)
        self.tasks.append(task)
        return task

    async def block(self, where, steps):
        for i, (name, *args) in enumerate(steps):
            place = f"{where}.{i} {name}"
            step = leaves[name] if name in leaves else nests[name][0]
            self.note(place, "begins", variable.get(), asyncio.current_task().cancelling())
            try:
                result = await step(self, place, *args)
            except BaseException as error:
                self.note(place, self.told(error), asyncio.current_task().cancelling())
                raise
            self.note(place, "ends", result)
        return where

    # The program.

    async def main(self):
        loop = self.loop
        loop.set_exception_handler(self._report)
        if self.program["eager"] and EAGER:
            loop.set_task_factory(
                lambda loop, coroutine, **kwargs: self.task_type(
                    coroutine, loop=loop, **EAGER, **kwargs
                )
            )
        self.futures = [loop.create_future() for _ in range(FUTURES)]
        self.event, self.queue, self.lock = asyncio.Event(), asyncio.Queue(1), asyncio.Lock()
        self.semaphore, self.condition = asyncio.Semaphore(2), asyncio.Condition()
        self.barrier = asyncio.Barrier(2)
        for block in self.program["tasks"]:
            self.spawn(block)
        await asyncio.sleep(ENDS_AFTER_S)
        for _ in range(ENDINGS):
            for task in self.tasks:
                task.cancel("the end")
            if all(task.done() for task in self.tasks):
                break
            await asyncio.sleep(0.01)
        for task in self.tasks:
            self.note("end", task.get_name(), task.done(), task.cancelled(), task.cancelling())
            if task.done():
                (result,) = await asyncio.gather(task, return_exceptions=True)
                self.note(self.plain([result]))

    def _report(self, _, context):
        error = type(context.get("exception")).__name__
        self.reports.append((context["message"].replace("OrderedTask", "Task")[:40], error))


def play(program, make_loop, task_type):
    """What it tells on such a loop: the trace, and what its exception handler was given."""
    loop = make_loop()
    if task_type is OrderedTask:
        loop.set_task_factory(lambda loop, coro, **kwargs: OrderedTask(coro, loop=loop, **kwargs))
    OrderedTask.made = 0
    run, left, trace = Run(program, loop, task_type), None, []
    try:
        loop.run_until_complete(run.main())
        left = asyncio.all_tasks(loop)
        run.note("left", run.names(left))
        trace = run.trace.copy()  # what is left ends in no order
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except RecursionError:
        raise
    except RuntimeError:
        # All wait for ever, as both of these loops say. What is destroyed then is not compared.
        return trace, ["stands still"]
    finally:
        run.tasks, run.futures, left = [], [], None
        loop.close()
    gc.collect()  # reports come when what failed is collected
    return trace, sorted(run.reports)


def difference(program):
    """Lines that tell what the loops do differently: none, if they do not."""
    # Coroutines that are never awaited, or that await when they are closed.
    with warnings.catch_warnings(), unraisable():
        warnings.simplefilter("ignore")
        try:
            theirs = play(program, ReferenceLoop, OrderedTask)
            own = OrderedTask if program["asyncio_tasks"] else pyasync_c.Task
            ours = play(program, our_loop, own)
        except RecursionError:
            return []  # tasks that gather each other in a circle; where it strikes is chance
        finally:
            gc.collect()
    if "RecursionError" in repr([theirs, ours]):
        return []
    return differential.lines_that_differ(theirs, ours)


def places(block, path):
    """Where what a program can do without stands in this block."""
    for i, (name, inner, *_) in enumerate(block):
        yield [*path, i]
        if name in nests:
            _, least, _ = nests[name]
            for j, of_step in enumerate(inner):
                if len(inner) > least:
                    yield [*path, i, 1, j]
                yield from places(of_step, [*path, i, 1, j])


def shorter(program):
    """Each program that lacks one thing of this one."""
    for i, block in enumerate(program["tasks"]):
        for way in [[i], *places(block, [i])]:
            yield differential.without(program, "tasks", *way)


def shrink(program):
    return differential.shrink(program, shorter, difference)
