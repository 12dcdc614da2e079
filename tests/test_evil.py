"""Objects that call back into the runtime from where one does not think of it: __float__,
__index__, __await__, __eq__, __hash__, __repr__, __bool__, __del__, weakref callbacks, overridden
methods of a loop. All is legal at any point; nothing crashes, and the loop goes on. The proofs of
CPython's own bugs of this kind stand here too."""

import asyncio
import contextlib
import gc
import socket
import weakref

import pytest
from helpers import python, turns, unraisable

import pyasync_c
from pyasync_c import PENDING

# ── what the evil do ─────────────────────────────────────────────────────────────────────────


class World:
    """A runtime's worth of live objects to meddle with."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.main = asyncio.current_task()
        self.notify = pyasync_c.Notify()
        self.tx, self.rx = pyasync_c.channel(1)
        self.oneshot_tx, self.oneshot_rx = pyasync_c.oneshot()
        self.broadcast_tx, self.broadcast_rx = pyasync_c.broadcast(1)
        self.watch_tx, self.watch_rx = pyasync_c.watch(1)
        self.token = pyasync_c.CancellationToken()
        self.semaphore = pyasync_c.Semaphore(0)
        self.lock = pyasync_c.Lock()
        self.event = pyasync_c.Event()
        self.cell = pyasync_c.OnceCell()
        self.delay = pyasync_c.sleep(1000)
        self.future = self.loop.create_future()
        self.armed = True
        self.subject = None  # what the call that is being made is made on
        self.tasks = [
            pyasync_c.spawn(awaiting(awaitable))
            for awaitable in (
                self.notify.notified(),
                self.rx.recv(),
                self.oneshot_rx,
                self.broadcast_rx.recv(),
                self.watch_rx.changed(),
                self.token.cancelled(),
                self.token.run_until_cancelled(pyasync_c.pending()),
                self.semaphore.acquire(),
                self.event.wait(),
                self.delay,
                self.future,
                pyasync_c.join(pyasync_c.pending(), awaiting(pyasync_c.sleep(1000))),
                pyasync_c.select(pyasync_c.pending(), awaiting(pyasync_c.sleep(1000))),
            )
        ]

    def leave(self):
        for task in self.tasks:
            task.cancel()


async def awaiting(awaitable):
    return await awaitable


def cancel_all(world):
    for task in world.tasks:
        task.cancel()


def cancel_main(world):
    world.main.cancel()
    world.main.uncancel()


def drop_subject(world):
    for name in ("drop", "close", "cancel"):
        method = getattr(world.subject, name, None)
        if method is not None:
            method()


def poll_subject(world):
    if isinstance(world.subject, pyasync_c.Future):
        world.subject.poll(pyasync_c.Context(pyasync_c.noop_waker()))


def make_many(world):
    kept = [pyasync_c.sleep(1000) for _ in range(100)]
    kept += [world.notify.notified() for _ in range(100)]
    for future in kept:
        future.poll(pyasync_c.Context(pyasync_c.noop_waker()))


def send_all(world):
    world.tx.try_send(1)
    world.oneshot_tx.send(1)
    world.broadcast_tx.send(1)
    world.watch_tx.send(2)


def close_all(world):
    for end in (world.tx, world.rx, world.broadcast_tx, world.watch_tx, world.semaphore):
        end.close()


def run_again(world):
    coroutine = awaiting(pyasync_c.ready(1))
    try:
        pyasync_c.run(coroutine)
    finally:
        coroutine.close()


ACTIONS = {
    "nothing": lambda world: None,
    "cancel_all": cancel_all,
    "cancel_main": cancel_main,
    "drop_subject": drop_subject,
    "poll_subject": poll_subject,
    "make_many": make_many,
    "send_all": send_all,
    "close_all": close_all,
    "collect": lambda world: gc.collect(),
    "notify": lambda world: (world.notify.notify_one(), world.notify.notify_waiters()),
    "cancel_token": lambda world: world.token.cancel(),
    "spawn": lambda world: world.tasks.append(pyasync_c.spawn(pyasync_c.yield_now())),
    "call_soon": lambda world: world.loop.call_soon(int),
    "reset": lambda world: world.delay.reset(0),
    "add_permits": lambda world: world.semaphore.add_permits(3),
    "set": lambda world: (world.event.set(), world.future.set_result(1), world.cell.set(1)),
    "close_the_loop": lambda world: world.loop.close(),
    "run_again": run_again,
    "raise": lambda world: 1 / 0,
}


class Evil:
    """Does what it is told in every special method; then behaves, so that the call goes on."""

    def __init__(self, world, action):
        self.act = lambda: action(world) if world.armed else None

    def __float__(self):
        self.act()
        return 0.0

    def __index__(self):
        self.act()
        return 1

    def __bool__(self):
        self.act()
        return True

    def __eq__(self, other):
        self.act()
        return False

    def __hash__(self):
        self.act()
        return 1

    def __repr__(self):
        self.act()
        return "evil"

    def __await__(self):
        self.act()
        yield
        self.act()

    def __call__(self, *args):
        self.act()
        return self

    def __del__(self):
        self.act()


class EvilPoll(pyasync_c.Future):
    """In the poll, and in the drop that an end without a result brings."""

    def __init__(self, evil):
        self.evil = evil
        self.polls = 0

    def poll(self, cx):
        self.polls += 1
        self.evil.act()
        if self.polls > 1:
            return "ready"
        cx.waker.clone().wake()
        return PENDING

    def drop(self):
        self.evil.act()


# ── where they are asked ─────────────────────────────────────────────────────────────────────


async def on(world, subject, call, *arguments):
    """Make the call on the subject, which the evil may then get hold of."""
    world.subject = subject
    try:
        result = call(subject, *arguments)
        world.subject = result
        if hasattr(result, "__await__"):
            async with asyncio.timeout(0.005):
                await result
    finally:
        world.subject = None


async def evil_callbacks(world, evil):
    future = world.loop.create_future()
    for _ in range(3):
        future.add_done_callback(evil)
    world.subject = future
    future.remove_done_callback(Evil(world, lambda world: None))
    task = pyasync_c.spawn(pyasync_c.yield_now())
    task.add_done_callback(evil)
    task.add_done_callback(evil)
    task.remove_done_callback(print)
    await task
    future.cancel()


async def evil_values(world, evil):
    """The last reference to a value goes in the midst of things."""
    act = evil.act
    del evil
    one = lambda: Evil.__new__(Evil)  # noqa: E731

    def made():
        value = one()
        value.act = act
        return value

    tx, rx = pyasync_c.channel(2)
    await tx.send(made())
    tx.try_send(made())
    send = tx.send(made())
    send.poll(pyasync_c.Context(pyasync_c.Waker(made())))
    rx.close()
    del send, rx, tx
    tx, rx = pyasync_c.oneshot()
    tx.send(made())
    del rx
    tx, rx = pyasync_c.broadcast(1)
    tx.send(made())
    tx.send(made())
    del rx
    tx, rx = pyasync_c.watch(made())
    tx.send(made())
    tx.send(made())
    cell = pyasync_c.OnceCell()
    cell.set(made())
    del cell
    pyasync_c.sleep(0, made())
    pyasync_c.ready(made())
    await pyasync_c.ready(made())
    pyasync_c.spawn(pyasync_c.ready(made()))
    handle = world.loop.call_soon(int, made())
    handle.cancel()
    world.loop.call_later(1000, made()).cancel()
    future = world.loop.create_future()
    future.set_result(made())
    del future
    await turns(2)
    pyasync_c.Waker(made())
    notified = pyasync_c.Notify().notified()
    notified.poll(pyasync_c.Context(pyasync_c.Waker(made())))
    notified.poll(pyasync_c.Context(pyasync_c.noop_waker()))


async def evil_weakrefs(world, evil):
    refs = []
    for make in (
        lambda: pyasync_c.spawn(pyasync_c.yield_now()),
        lambda: world.loop.create_future(),
        lambda: pyasync_c.poll_fn(print),
        pyasync_c.Notify,
        lambda: pyasync_c.sleep(1000),
        lambda: pyasync_c.CancellationToken(),
    ):
        try:
            refs.append(weakref.ref(make(), lambda ref: evil.act()))
        except TypeError:
            pass
    await turns(3)
    gc.collect()
    assert refs


async def evil_wakers(world, evil):
    context = pyasync_c.Context(pyasync_c.Waker(evil))
    token, notify = pyasync_c.CancellationToken(), pyasync_c.Notify()
    tx, rx = pyasync_c.channel(1)
    semaphore, event = pyasync_c.Semaphore(0), pyasync_c.Event()
    futures = [
        notify.notified(),
        token.cancelled(),
        rx.recv(),
        semaphore.acquire(),
        event.wait(),
        pyasync_c.sleep(0),
    ]
    for future in futures:
        future.poll(context)
    world.subject = futures[0]
    notify.notify_waiters()
    world.subject = futures[1]
    token.cancel()
    world.subject = futures[2]
    tx.try_send(1)
    world.subject = futures[3]
    semaphore.add_permits(1)
    world.subject = futures[4]
    event.set()
    await pyasync_c.sleep(0.0005)


PLACES = {
    "sleep(float)": lambda w, e: on(w, e, pyasync_c.sleep),
    "sleep_until(float)": lambda w, e: on(w, e, pyasync_c.sleep_until),
    "reset(float)": lambda w, e: on(w, pyasync_c.sleep(0.001), lambda d: d.reset(e) or d),
    "reset(float) of one that is awaited": lambda w, e: on(w, w.delay, lambda d: d.reset(e)),
    "timeout(float)": lambda w, e: on(w, pyasync_c.timeout(e), enter),
    "reschedule(float)": lambda w, e: on(w, pyasync_c.timeout(1000), enter, e),
    "interval(float)": lambda w, e: on(w, e, pyasync_c.interval),
    "call_later(float)": lambda w, e: on(w, w.loop, lambda loop: loop.call_later(e, int)),
    "call_at(float)": lambda w, e: on(w, w.loop, lambda loop: loop.call_at(e, int)),
    "channel(index)": lambda w, e: on(w, e, pyasync_c.channel),
    "broadcast(index)": lambda w, e: on(w, e, pyasync_c.broadcast),
    "Semaphore(index)": lambda w, e: on(w, e, pyasync_c.Semaphore),
    "Barrier(index)": lambda w, e: on(w, e, pyasync_c.Barrier),
    "acquire(index)": lambda w, e: on(w, w.semaphore, lambda s: s.acquire(e)),
    "try_acquire(index)": lambda w, e: on(w, w.semaphore, lambda s: s.try_acquire(e)),
    "add_permits(index)": lambda w, e: on(w, w.semaphore, lambda s: s.add_permits(e)),
    "forget_permits(index)": lambda w, e: on(w, w.semaphore, lambda s: s.forget_permits(e)),
    "recv_many(index)": lambda w, e: on(w, w.rx, lambda rx: rx.recv_many(e)),
    "spawn(await)": lambda w, e: on(w, e, pyasync_c.spawn),
    "join(await)": lambda w, e: on(w, e, pyasync_c.join, pyasync_c.yield_now()),
    "select(await)": lambda w, e: on(w, e, pyasync_c.select, pyasync_c.yield_now()),
    "into_future(await)": lambda w, e: on(w, e, pyasync_c.into_future),
    "poll_once(await)": lambda w, e: on(w, e, pyasync_c.poll_once),
    "await": lambda w, e: on(w, e, awaiting),
    "get_or_init(call, await)": lambda w, e: on(w, w.cell, lambda cell: cell.get_or_init(e)),
    "run_until_cancelled(await)": lambda w, e: on(w, w.token, lambda t: t.run_until_cancelled(e)),
    "wait_for(call, bool)": lambda w, e: on(w, w.watch_rx, lambda rx: rx.wait_for(e)),
    "poll_fn(call)": lambda w, e: on(w, e, pyasync_c.poll_fn),
    "poll and drop": lambda w, e: on(w, EvilPoll(e), awaiting),
    "poll and drop in join": lambda w, e: on(
        w, pyasync_c.join(EvilPoll(e), EvilPoll(e), pyasync_c.sleep(0.001)), awaiting
    ),
    "poll and drop in select": lambda w, e: on(
        w, pyasync_c.select(EvilPoll(e), EvilPoll(e), pyasync_c.yield_now()), awaiting
    ),
    "call_soon(call)": lambda w, e: on(w, w.loop, lambda loop: loop.call_soon(e) and None),
    "repr of a task": lambda w, e: on(w, pyasync_c.spawn(awaiting(pyasync_c.ready(e))), repr),
    "repr of a handle": lambda w, e: on(w, w.loop.call_soon(int, e), repr),
    "repr of a future": lambda w, e: on(w, pyasync_c.ready(e), repr),
    "hash and eq of a callback": evil_callbacks,
    "del of values": evil_values,
    "weakref callbacks": evil_weakrefs,
    "wakers": evil_wakers,
}


async def enter(block, when=None):
    async with block:
        if when is not None:
            block.reschedule(when)
        await pyasync_c.yield_now()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_evil(place):
    """Every action in every place. What the call itself comes to is its own affair."""

    async def main(action):
        world = World()
        await turns(2)
        evil = Evil(world, action)
        try:
            await PLACES[place](world, evil)
        except (Exception, asyncio.CancelledError):
            pass
        del evil
        while asyncio.current_task().cancelling():
            asyncio.current_task().uncancel()
        # Before Python 3.13 uncancel() does not stop one on its way; and a timer may ask again.
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await turns(2)
        # All goes on: timers, wakes, tasks.
        notify = pyasync_c.Notify()
        waiter = pyasync_c.spawn(notify.notified())
        await pyasync_c.sleep(0.0001)
        notify.notify_one()
        await waiter
        world.armed = False
        world.leave()
        await turns(3)
        assert all(task.done() for task in world.tasks)
        return "gone on"

    with unraisable():
        for action in ACTIONS.values():
            with pyasync_c.Runtime() as runtime:
                runtime.get_loop().set_exception_handler(lambda loop, context: None)
                assert runtime.run(main(action)) == "gone on"
            gc.collect()


# ── CPython's own ────────────────────────────────────────────────────────────────────────────


def new_futures():
    loop = asyncio.get_running_loop()
    return [loop.create_future(), pyasync_c.spawn(pyasync_c.pending())]


@pytest.mark.parametrize("kind", [0, 1], ids=["future", "task"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_gh_97592_remove_done_callback_whose_eq_removes(kind, count):
    """The list of callbacks is emptied while it is searched; gh-125966 by adding, too."""

    async def main():
        future = new_futures()[kind]

        class Remover:
            depth = 0

            def __eq__(self, other):
                if Remover.depth < 5:  # or it would call itself for ever
                    Remover.depth += 1
                    future.remove_done_callback(other)
                    Remover.depth -= 1
                return False

            def __call__(self, *args):
                pass

        for _ in range(count):
            future.add_done_callback(Remover())
        future.remove_done_callback(Remover())
        future.cancel()
        await turns()

    with unraisable():
        pyasync_c.run(main())


@pytest.mark.parametrize("kind", [0, 1], ids=["future", "task"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_gh_125966_remove_done_callback_whose_eq_ends_the_future(kind, before):
    async def main():
        future = new_futures()[kind]

        class Ender:
            asked = 0

            def __eq__(self, other):
                if not future.done():
                    future.cancel() if kind else future.set_result(self)
                self.asked += 1
                if self.asked < 5:  # or it would go on for ever, as asyncio's does
                    future.add_done_callback(int)
                gc.collect()
                return True

            def __call__(self, *args):
                pass

        class Pad:
            def __call__(self, *args):
                pass

        for _ in range(before):
            future.add_done_callback(Pad())
        future.add_done_callback(Ender())
        future.add_done_callback(Pad())
        future.remove_done_callback(Ender())
        await turns()

    with unraisable():
        pyasync_c.run(main())


class MeddlingLoop(pyasync_c.EventLoop):
    """Its call_soon meddles first with what is being scheduled."""

    meddle = None

    def call_soon(self, callback, *args, context=None):
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
            gc.collect()
        return super().call_soon(callback, *args, context=context)

    def create_task(self, coro, **kwargs):
        return pyasync_c.Task(coro, loop=self, **kwargs)


@pytest.mark.parametrize("how", ["result", "exception", "cancel", "add_done_callback"])
def test_gh_125984_call_soon_that_takes_the_callbacks_away(how):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        callbacks = [lambda f, k=k: None for k in range(4)]
        for callback in callbacks:
            future.add_done_callback(callback)

        def meddle():
            for callback in callbacks:
                future.remove_done_callback(callback)
            future.add_done_callback(print)
            future.remove_done_callback(print)
            callbacks.clear()

        loop.meddle = meddle
        if how == "result":
            future.set_result([])
        elif how == "exception":
            future.set_exception(LookupError())
            future.exception()
        elif how == "cancel":
            future.cancel()
        else:
            future.set_result([])
            loop.meddle = meddle
            future.add_done_callback(int)
        await asyncio.sleep(0)

    loop = MeddlingLoop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_gh_126080_call_soon_that_makes_the_task_anew():
    """Task.__init__ once more, while the task schedules its next step."""

    async def yields():
        await asyncio.sleep(0)
        return 7

    async def main():
        loop = asyncio.get_running_loop()
        task = None

        def meddle():
            other = yields()
            try:
                if task is not None:
                    task.__init__(other, loop=loop)
            except RuntimeError:
                other.close()

        loop.meddle = meddle
        task = loop.create_task(yields())
        for _ in range(5):
            loop.meddle = meddle
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=0.1)

    loop = MeddlingLoop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    gc.collect()


@pytest.mark.parametrize("which", ["_asyncio_future_blocking", "add_done_callback", "get_loop"])
@pytest.mark.parametrize("action", ["cancel", "collect", "raise", "result", "await it"])
def test_gh_126138_a_foreign_future_whose_attributes_meddle(which, action):
    """What a task is handed to wait for does things to that task while it is looked at."""

    async def main():
        loop = asyncio.get_running_loop()
        box = []

        def act():
            task = box[0]
            if action == "cancel":
                task.cancel()
            elif action == "collect":
                gc.collect()
            elif action == "raise":
                raise LookupError
            elif action == "result":
                future.inner.set_result(1) if not future.inner.done() else None
            else:
                task.add_done_callback(int)
                task.remove_done_callback(int)

        class Meddles:
            def __init__(self):
                self.inner = loop.create_future()
                self.armed = True
                self.blocking = False

            def act(self, name):
                if self.armed and name == which:
                    self.armed = False
                    act()

            @property
            def _asyncio_future_blocking(self):
                self.act("_asyncio_future_blocking")
                return self.blocking

            @_asyncio_future_blocking.setter
            def _asyncio_future_blocking(self, value):
                self.blocking = value

            def add_done_callback(self, callback, *, context=None):
                self.act("add_done_callback")
                self.inner.add_done_callback(callback, context=context)

            def get_loop(self):
                self.act("get_loop")
                return loop

            def cancel(self, msg=None):
                return self.inner.cancel(msg)

            def done(self):
                return self.inner.done()

            def result(self):
                return self.inner.result()

            def __await__(self):
                self.blocking = True
                yield self
                return self.inner.result()

        future = Meddles()
        task = pyasync_c.spawn(awaiting(future))
        box.append(task)
        await turns(2)
        if not future.inner.done():
            future.inner.set_result(1)
        await asyncio.wait([task], timeout=0.05)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=5)
        assert task.done()
        box.clear()

    pyasync_c.run(main())


def test_gh_142556_a_task_that_is_registered_again_while_it_goes():
    """The report of a pending task's end lets it live on, in asyncio's own registers."""
    python(
        """
import asyncio, gc
import pyasync_c

kept = []

def handler(loop, context):
    task = context.get("task")
    if task is not None and len(kept) < 100:
        kept.append(task)
        asyncio.tasks._register_task(task)

def live():
    loop = pyasync_c.new_event_loop()
    loop.set_exception_handler(handler)
    async def waits():
        await pyasync_c.pending()
    tasks = [loop.create_task(waits()) for _ in range(20)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del tasks
    gc.collect()

live()
assert kept
for task in kept:
    repr(task), task.cancel()
del task
kept.clear()
gc.collect()
assert isinstance(asyncio.all_tasks(asyncio.new_event_loop()), set)
print("done")
"""
    )


# ── ours ─────────────────────────────────────────────────────────────────────────────────────


def test_a_descriptor_that_is_given_up_while_an_operation_asks_whose_it_is():
    """sock_recv asks the loop, in Python, whether the descriptor is a transport's."""

    class Loop(pyasync_c.EventLoop):
        meddle = None

        def _ensure_fd_no_transport(self, fd):
            super()._ensure_fd_no_transport(fd)
            meddle, self.meddle = self.meddle, None
            if meddle is not None:
                meddle()

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop.add_reader(ours, print)
            loop.meddle = lambda: loop.remove_reader(ours)
            loop.call_soon(loop.call_soon, theirs.send, b"read")
            return await loop.sock_recv(ours, 100)

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(asyncio.wait_for(main(), 30)) == b"read"


def test_a_task_that_says_it_is_done_and_is_not():
    """A future calls its callbacks twice: the second time a task asks whether what it awaits by
    then is done, and is polled, and awaits that once more."""

    class Twice:
        _asyncio_future_blocking = False
        is_done = False

        def __init__(self):
            self.callbacks = []

        def get_loop(self):
            return asyncio.get_running_loop()

        def add_done_callback(self, callback, *, context=None):
            self.callbacks.append(callback)

        def done(self):
            return self.is_done

        def result(self):
            return None

        def finish(self):
            self.is_done = True
            for callback in self.callbacks:
                callback(self)

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self

    class Done(pyasync_c.Task):
        def done(self):
            return True

    async def main():
        twice = Twice()
        later = asyncio.get_running_loop().create_future()

        async def waits():
            await twice
            return await Done(awaiting(later))

        task = pyasync_c.spawn(waits())
        await turns()
        twice.finish()
        await turns()
        twice.finish()
        await turns()
        later.set_result("waited")
        return await asyncio.wait_for(task, 30)

    assert pyasync_c.run(main()) == "waited"


def test_a_future_that_drops_the_join_that_asks_how_it_has_ended():
    class Drops:
        _asyncio_future_blocking = False
        is_done = False

        def add_done_callback(self, callback, *, context=None):
            self.callback = callback

        def remove_done_callback(self, callback):
            return 0

        def get_loop(self):
            return asyncio.get_running_loop()

        def done(self):
            return self.is_done

        def cancelled(self):
            joins.clear()
            gc.collect()
            return False

        def exception(self):
            return None

        def __await__(self):
            yield

    joins = []

    async def main():
        first, second = Drops(), Drops()
        joins.append(pyasync_c.join(first, second))
        context = pyasync_c.Context(pyasync_c.noop_waker())
        assert joins[0].poll(context) is PENDING
        first.is_done = True
        first.callback(first)
        assert not joins

    pyasync_c.run(main())


def test_a_loop_that_is_closed_while_a_transport_takes_a_descriptor_over():
    class Loop(pyasync_c.EventLoop):
        def _remove_reader(self, fd):
            super()._remove_reader(fd)
            if not ended:
                ended.append(True)
                self.close()

    ended = []
    loop = Loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop._add_reader(ours.fileno(), print)
        with pytest.raises(RuntimeError, match="closed"):
            loop._stream_transport(ours, asyncio.Protocol(), None, None, None)


def test_a_name_that_changes_the_extra_information_in_which_it_is_looked_up():
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)

            class Name:
                def __hash__(self):
                    return hash("peername")

                def __eq__(self, other):
                    transport._extra = {}
                    return True

            transport._extra = {"peername": ["what was there"]}
            found = transport.get_extra_info(Name())
            transport.abort()
            return found

    assert pyasync_c.run(main()) == ["what was there"]


def test_callbacks_that_are_removed_while_they_are_listed():
    """Python 3.11 collects within allocations, and so within the list that is being made."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        callbacks = [lambda future, k=k: None for k in range(50)]

        class Remover:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                for callback in callbacks:
                    future.remove_done_callback(callback)

        pairs = [(k, object()) for k in range(5000)]  # so that no pair comes from a free list
        for allocations in range(2, 12):
            for callback in callbacks:
                future.add_done_callback(callback)
            gc.collect()
            gc.disable()
            Remover()
            gc.set_threshold(gc.get_count()[0] + allocations)
            gc.enable()
            listed = future._callbacks
            assert listed is None or len(listed) == 50  # before, or after
            gc.set_threshold(*thresholds)
            gc.collect()
            assert future._callbacks is None
        del pairs

    thresholds = gc.get_threshold()
    try:
        pyasync_c.run(main())
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)


# ── the collector in every place ─────────────────────────────────────────────────────────────


def test_the_collector_at_every_allocation_of_every_call():
    """gc.set_threshold(1) around each call and each await of the whole surface."""
    printed = python(
        """
import asyncio, gc, sys, warnings
import pyasync_c
import surface

warnings.simplefilter("ignore")
sys.unraisablehook = lambda args: None

async def calls():
    for name, (maker, call) in sorted(surface.every_call().items()):
        for _ in range(3):
            subject = maker()
            result = surface.outcome(call, subject)
            repr(result)
            subject = result = None
            surface.rest()
    return len(surface.every_call())

async def awaits():
    for name, make in sorted(surface.AWAITS.items()):
        for _ in range(3):
            awaitable, feed = make()
            if feed is not None:
                asyncio.get_running_loop().call_soon(feed)
            try:
                await awaitable
            except LookupError:
                pass
            surface.rest()
    return len(surface.AWAITS)

def run_quietly(main):
    with pyasync_c.Runtime() as runtime:
        runtime.get_loop().set_exception_handler(lambda loop, context: None)
        return runtime.run(main)

run_quietly(calls())
gc.collect()
gc.freeze()
gc.set_threshold(1, 1, 1)
print(run_quietly(calls()), run_quietly(awaits()), asyncio.run(awaits()))
""",
        timeout=300,
    )
    calls, awaits, foreign = map(int, printed.split())
    assert calls > 300 and awaits == foreign > 30
