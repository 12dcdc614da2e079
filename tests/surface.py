"""The whole surface of the package as calls that tests can make one by one: an object of every
type, every call on it, every await. The lists of types, methods and functions are read off the
module, so that a new one without an entry here is an error.

The makers run within a loop of ours. A call gets a fresh object, made by the maker of its type if
it names no other.
"""

import asyncio
import atexit
import contextlib
import functools
import gc
import socket
import types

import pyasync_c
from pyasync_c import PENDING, _core

_core._need_asyncio()

# What an object needs beside it while a call is made; emptied by `rest`.
KEPT = []


def kept(value, *others):
    KEPT.append(others)
    return value


def rest():
    KEPT.clear()


def nothing(*args):
    return None


def always(value):
    return True


async def coroutine(value=7):
    return value


async def waiting(future):
    return await future


def suspended():
    """A coroutine that needs no memory to come to its await, and so does not end for want of it."""
    return waiting(pyasync_c.pending())


async def makes():
    return [7]


class Never(pyasync_c.Future):
    def poll(self, cx):
        self.waker = cx.waker.clone()
        return PENDING


class Silent(pyasync_c.Future):
    def poll(self, cx):
        return PENDING


class Prompt(pyasync_c.Future):
    """Its poll needs memory only for the Context."""

    def poll(self, cx):
        return 7


class Later(pyasync_c.Future):
    """Ready at its second poll."""

    polls = 0

    def poll(self, cx):
        self.polls += 1
        if self.polls > 1:
            return 7
        cx.waker.clone().wake()
        return PENDING


def loop():
    return asyncio.get_running_loop()


def polled(future):
    """Waiting, with a waker of its own."""
    future.poll(pyasync_c.Context(kept(pyasync_c.Waker(nothing))))
    return future


# ── one object of each type ──────────────────────────────────────────────────────────────────


def sender(make=pyasync_c.channel, *arguments):
    tx, rx = make(*arguments)
    return kept(tx, rx)


def receiver(make=pyasync_c.channel, *arguments):
    tx, rx = make(*arguments)
    return kept(rx, tx)


def with_a_value(rx):
    tx = KEPT[-1][0]
    (tx.try_send if isinstance(tx, pyasync_c.Sender) else tx.send)([7])
    return rx


def filled():
    return with_a_value(receiver(pyasync_c.channel, 1))


def full():
    tx = sender(pyasync_c.channel, 1)
    tx.try_send([7])
    return tx


def locked():
    lock = pyasync_c.Lock()
    lock.try_acquire()
    return lock


def permit():
    semaphore = pyasync_c.Semaphore(2)
    return kept(semaphore.try_acquire(), semaphore)


def taken_semaphore():
    semaphore = pyasync_c.Semaphore(1)
    return kept(semaphore, semaphore.try_acquire())


def task():
    return pyasync_c.spawn(pyasync_c.pending())


def join_set_of_one():
    tasks, future = _core.JoinSetBase(), loop().create_future()
    tasks._add(future)
    return tasks, future


def ended_task():
    ended = loop().create_future()
    ended.set_result([7])
    return ended


def failed_future():
    failed = loop().create_future()
    failed.set_exception(LookupError())
    failed._log_traceback = False
    return failed


def entered_timeout():
    block = pyasync_c.timeout(1000)
    block.__aenter__()
    KEPT.append([block])
    return block


def outcome(call, *arguments):
    """What a call comes to that may well raise; MemoryError goes through."""
    try:
        return call(*arguments)
    except MemoryError:
        raise
    except BaseException as error:
        return type(error).__name__


MAKERS = {
    "Acquire": lambda: locked().acquire(),
    "AcquirePermit": lambda: taken_semaphore().acquire(),
    "AsyncioFuture": lambda: loop().create_future(),
    "Barrier": lambda: pyasync_c.Barrier(2),
    "BarrierWait": lambda: pyasync_c.Barrier(2).wait(),
    "BroadcastReceiver": lambda: receiver(pyasync_c.broadcast, 1),
    "BroadcastRecv": lambda: receiver(pyasync_c.broadcast, 1).recv(),
    "BroadcastSender": lambda: sender(pyasync_c.broadcast, 1),
    "CancellationToken": pyasync_c.CancellationToken,
    "Cancelled": lambda: pyasync_c.CancellationToken().cancelled(),
    "ChannelClosed": pyasync_c.ChannelClosed,
    "ChannelEmpty": pyasync_c.ChannelEmpty,
    "ChannelFull": pyasync_c.ChannelFull,
    "Closed": lambda: sender(pyasync_c.channel, 1).closed(),
    "Context": lambda: pyasync_c.Context(pyasync_c.noop_waker()),
    "Delay": lambda: pyasync_c.sleep(1000, []),
    "Event": pyasync_c.Event,
    "EventWait": lambda: pyasync_c.Event().wait(),
    "Future": lambda: kept(Silent(), pyasync_c.Context(pyasync_c.noop_waker())),
    "Handle": lambda: loop().call_soon(nothing),
    "IntoFuture": lambda: pyasync_c.into_future(suspended()),
    "Interval": lambda: pyasync_c.interval(1000),
    "Join": lambda: pyasync_c.join(pyasync_c.ready(1), pyasync_c.pending(), suspended()),
    "JoinNext": lambda: join_set_of_one()[0].join_next(),
    "JoinSet": pyasync_c.JoinSet,
    "JoinSetBase": lambda: join_set_of_one()[0],
    "Lagged": lambda: pyasync_c.Lagged(3),
    "Lock": pyasync_c.Lock,
    "LoopBase": loop,
    "Notified": lambda: pyasync_c.Notify().notified(),
    "Notify": pyasync_c.Notify,
    "OnceCell": pyasync_c.OnceCell,
    "OnceInit": lambda: pyasync_c.OnceCell().get_or_init(suspended),
    "OneshotReceiver": lambda: receiver(pyasync_c.oneshot),
    "OneshotSender": lambda: sender(pyasync_c.oneshot),
    "PendingFuture": pyasync_c.pending,
    "PendingType": lambda: PENDING,
    "Permit": permit,
    "PollFn": lambda: pyasync_c.poll_fn(lambda cx: PENDING),
    "PollOnce": lambda: pyasync_c.poll_once(pyasync_c.pending()),
    "ReadyFuture": lambda: pyasync_c.ready([]),
    "Receiver": lambda: receiver(pyasync_c.channel, 1),
    "Recv": lambda: receiver(pyasync_c.channel, 1).recv(),
    "RunUntilCancelled": lambda: pyasync_c.CancellationToken().run_until_cancelled(suspended()),
    "RuntimeHandle": lambda: pyasync_c.current_runtime().handle(),
    "RwLock": pyasync_c.RwLock,
    "Select": lambda: pyasync_c.select(pyasync_c.pending(), suspended()),
    "Semaphore": lambda: pyasync_c.Semaphore(2),
    "SemaphoreClosed": pyasync_c.SemaphoreClosed,
    "Send": lambda: full().send([8]),
    "Sender": lambda: sender(pyasync_c.channel, 1),
    "SocketOperation": lambda: loop().sock_recv(nothing_to_receive(), 100),
    "Task": task,
    "Timeout": lambda: pyasync_c.timeout(1000),
    "TimerHandle": lambda: loop().call_later(1000, nothing),
    "UnboundedSender": lambda: sender(pyasync_c.unbounded_channel),
    "Waker": lambda: pyasync_c.Waker(nothing),
    "WatchReceiver": lambda: receiver(pyasync_c.watch, [7]),
    "WatchSender": lambda: sender(pyasync_c.watch, [7]),
    "WatchWait": lambda: receiver(pyasync_c.watch, [7]).changed(),
    "YieldNow": pyasync_c.yield_now,
}


def native_types():
    """Every type of the C module, by name, also those that have no public one."""
    gc.unfreeze()
    found = {
        kind.__name__: kind
        for kind in gc.get_objects()
        if isinstance(kind, type)
        and kind.__module__ in ("pyasync_c", "pyasync_c._core")
        and kind.__flags__ & (1 << 9)  # heap types: not those that Python compiled
        and _is_native(kind)
    }
    gc.freeze()
    return found


def futures():
    """Those of them that are polled, by name."""
    types = native_types().items()
    return {name: kind for name, kind in types if issubclass(kind, pyasync_c.Future)}


def _is_native(kind):
    return not any(isinstance(value, types.FunctionType) for value in vars(kind).values())


# ── every call ───────────────────────────────────────────────────────────────────────────────

# What blocks is refused on the thread of a loop. The rest is no call, or the same for all types.
NO_CALLS = {
    "__annotations__",
    "__class_getitem__",
    "__del__",
    "__delattr__",
    "__dict__",
    "__doc__",
    "__getattribute__",
    "__hash__",
    "__init__",
    "__iter__",
    "__module__",
    "__next__",
    "__orig_bases__",
    "__parameters__",
    "__reduce__",
    "__setattr__",
    "__slots__",
    "__weakref__",
    "blocking_changed",
    "blocking_recv",
    "blocking_send",
    "_graveyard",
}

# What is asked of an object before and after a call, where its repr tells too much or too little.
STATES = {
    "Delay": lambda x: x.is_elapsed(),
    "Task": lambda x: (x.done(), x.cancelling(), len(x._callbacks or ())),
    "Timeout": lambda x: x.expired(),
    "TimerHandle": lambda x: x.cancelled(),
}

# An object of these is met only from within C.
INTERNAL = {"EndCallback", "Bridge", "FutureIter", "Immediate", "Oneshot", "OneshotAwait"}
INTERNAL |= {"Broadcast", "Mpsc", "StopIteration", "Watch"}

# Those of types written in Python, which have no other list of what is public.
PYTHON_TYPES = {
    "Interval": pyasync_c.Interval,
    "JoinSet": pyasync_c.JoinSet,
    "RuntimeHandle": pyasync_c.Handle,
}

# send() of these ends at once, and has Python make an exception to say so.
OVER_AT_ONCE = {"Acquire", "PollOnce", "ReadyFuture"}

# Python's own code, which makes functions; the time.
PYTHONS = {
    "TimerHandle._when",
    "all_tasks",
    "Task.__repr__",
    "Task.get_stack",
    "Task.print_stack",
    "AsyncioFuture.__repr__",
}

# Asked of a loop that runs, these end it, or belong to one that is no longer needed; test_exit.py
# and test_fork.py see to them. Tests of Python's own selector interface have the descriptors.
NOT_WHILE_IT_RUNS = {
    "LoopBase._advance",
    "LoopBase._close_core",
    "LoopBase._disown",
    "LoopBase._divert",
    "LoopBase._hold_clock",
    "LoopBase._poll_modify",
    "LoopBase._poll_register",
    "LoopBase._poll_unregister",
    "LoopBase._release_clock",
    "LoopBase._run",
    "LoopBase._settle",
    "LoopBase._use_seed",
    "LoopBase._use_virtual_clock",
    "LoopBase.stop",
}


# What needs a connection has its allocations failed by tests of its own: test_transports.py and
# test_net_memory.py; what only C code makes, by test_capi.py.
ELSEWHERE = {
    "CFuture",
    "DatagramTransport",
    "Listener",
    "MemoryWindow",
    "Promised",
    "ReadPipeTransport",
    "StreamRead",
    "StreamReader",
    "StreamTransport",
    "TlsProtocolBase",
    "TlsTransportBase",
    "WritePipeTransport",
}
INTERNAL |= ELSEWHERE
NOT_WHILE_IT_RUNS |= {
    "LoopBase._adopt_stream",
    "LoopBase._datagram_transport",
    "LoopBase._listen",
    "LoopBase._read_pipe_transport",
    "LoopBase._stream_transport",
    "LoopBase._write_pipe_transport",
}


@functools.cache
def sockets():
    """A connected pair, and a bound one for datagrams; the same for all calls."""
    one, two = socket.socketpair()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    for sock in one, two, datagrams:
        sock.setblocking(False)
        atexit.register(sock.close)
    return one, two, datagrams


def nothing_to_receive():
    with contextlib.suppress(BlockingIOError):
        sockets()[0].recv(65536)
    return sockets()[0]


def much_to_receive():
    """More than Python has a number ready for."""
    nothing_to_receive()
    sockets()[1].send(bytes(400))
    return sockets()[0]


def add_callbacks(future):
    future.add_done_callback(nothing)


def with_callbacks(count):
    future = loop().create_future()
    for _ in range(count):
        future.add_done_callback(nothing)
    return future


def filled_block(tx):
    """The next value needs more room."""
    for _ in range(32):
        tx.send([7])
    return tx


def adopted():
    return asyncio.Handle(nothing, (), loop())


# No call makes a function: Python itself does not survive having no memory for one.
# "Type.method": the call, on what the maker of Type makes; or (another maker, the call). What is
# not here is called without arguments. Behind the method's name may stand a state.
CALLS = {
    "AsyncioFuture.add_done_callback": add_callbacks,
    "AsyncioFuture.add_done_callback a second": (
        lambda: with_callbacks(1),
        lambda x: x.add_done_callback(print),
    ),
    "AsyncioFuture.add_done_callback a fifth": (
        lambda: with_callbacks(4),
        lambda x: x.add_done_callback(print),
    ),
    "AsyncioFuture.add_done_callback when done": (
        ended_task,
        lambda x: x.add_done_callback(nothing),
    ),
    "AsyncioFuture.exception": (failed_future, lambda x: type(x.exception())),
    "AsyncioFuture.remove_done_callback": lambda x: x.remove_done_callback(nothing),
    "AsyncioFuture.result": (ended_task, lambda x: x.result()),
    "AsyncioFuture.set_exception": lambda x: (
        x.set_exception(LookupError()),
        setattr(x, "_log_traceback", False),
    ),
    "AsyncioFuture.set_result": lambda x: x.set_result([7]),
    "Barrier.__new__": lambda x: pyasync_c.Barrier(3),
    "BroadcastReceiver.try_recv": (
        lambda: with_a_value(receiver(pyasync_c.broadcast, 1)),
        lambda x: x.try_recv(),
    ),
    "BroadcastSender.send": lambda x: x.send([7]),
    "CancellationToken.run_until_cancelled": lambda x: x.run_until_cancelled(pyasync_c.pending()),
    "CancellationToken.run_until_cancelled coroutine": lambda x: x.run_until_cancelled(suspended()),
    "Context.__new__": lambda x: pyasync_c.Context(kept(pyasync_c.noop_waker())),
    "Delay.deadline": lambda x: x.deadline > 0,
    "Delay.reset": lambda x: x.reset(500),
    "Delay.reset while armed": (
        lambda: polled(pyasync_c.sleep(1000)),
        lambda x: x.reset(500),
    ),
    "Future.__new__": lambda x: Never(),
    "Future.poll": lambda x: x.poll(KEPT[0][0]),
    "Future.send": (lambda: pyasync_c.sleep(1000), lambda x: outcome(x.send, None)),
    "Future.send of Python's": (Silent, lambda x: outcome(x.send, None)),
    "PollFn.send": (
        lambda: pyasync_c.poll_fn(lambda cx: PENDING),
        lambda x: outcome(x.send, None),
    ),
    "JoinSet.spawn": lambda x: x.spawn(coroutine()),
    "JoinSetBase._add": lambda x: x._add(loop().create_future()),
    "JoinSet.spawn_wait": lambda x: x.spawn_wait(coroutine()),
    "Lagged.__new__": lambda x: pyasync_c.Lagged(4),
    "LoopBase._add_callback": lambda x: x._add_callback(adopted()),
    "LoopBase._add_callback_signalsafe": lambda x: x._add_callback_signalsafe(adopted()),
    "LoopBase._timer_handle_cancelled": (
        lambda: loop().call_later(1000, nothing),
        lambda x: loop()._timer_handle_cancelled(x),
    ),
    "LoopBase.call_at": lambda x: x.call_at(x.time() + 1000, nothing, 1),
    "LoopBase.call_later": lambda x: x.call_later(1000, nothing, 1),
    "LoopBase.call_soon": lambda x: x.call_soon(nothing, 1),
    "LoopBase.call_soon_threadsafe": lambda x: x.call_soon_threadsafe(nothing, 1),
    "LoopBase.create_task": lambda x: x.create_task(coroutine(), name="named"),
    "LoopBase.sock_accept": lambda x: x.sock_accept(sockets()[0]),
    "LoopBase.sock_recv": lambda x: x.sock_recv(sockets()[0], 100),
    "LoopBase.sock_recv_into": lambda x: x.sock_recv_into(sockets()[0], bytearray(3)),
    "LoopBase.sock_recvfrom": lambda x: x.sock_recvfrom(sockets()[2], 100),
    "LoopBase.sock_recvfrom_into": lambda x: x.sock_recvfrom_into(sockets()[2], bytearray(3)),
    "LoopBase.sock_sendall": lambda x: x.sock_sendall(sockets()[0], b"x"),
    "LoopBase.sock_sendto": lambda x: x.sock_sendto(sockets()[2], b"x", ("127.0.0.1", 9)),
    "LoopBase.time": lambda x: x.time() > 0,
    "LoopBase._live_tasks": lambda x: len(x._live_tasks()),
    "LoopBase._queued": lambda x: None,
    "LoopBase._timers": lambda x: None,
    "LoopBase._metrics": lambda x: len(x._metrics()),
    "Lock.__aexit__": (locked, lambda x: x.__aexit__(None, None, None)),
    "Lock.release": (locked, lambda x: x.release()),
    "OnceCell.get_or_init": lambda x: x.get_or_init(makes),
    "OnceCell.set": lambda x: x.set([7]),
    "OneshotReceiver.try_recv": (
        lambda: with_a_value(receiver(pyasync_c.oneshot)),
        lambda x: x.try_recv(),
    ),
    "OneshotSender.send": lambda x: x.send([7]),
    "PendingType.__bool__": lambda x: outcome(bool, x),
    "Receiver.recv_many": lambda x: x.recv_many(3),
    "Receiver.try_recv": (filled, lambda x: x.try_recv()),
    "Receiver.try_recv when empty": lambda x: outcome(x.try_recv),
    "RuntimeHandle.call_soon": lambda x: x.call_soon(nothing, 1),
    "RuntimeHandle.spawn": lambda x: x.spawn(coroutine()),
    "Semaphore.__aexit__": (taken_semaphore, lambda x: x.__aexit__(None, None, None)),
    "Semaphore.__new__": lambda x: pyasync_c.Semaphore(3),
    "Semaphore.add_permits": lambda x: x.add_permits(3),
    "Semaphore.forget_permits": lambda x: x.forget_permits(1),
    "Sender.send": lambda x: x.send([7]),
    "Sender.try_send": lambda x: x.try_send([7]),
    "Sender.try_send when full": (full, lambda x: outcome(x.try_send, [7])),
    "Task.__new__": lambda x: pyasync_c.Task(coroutine(), loop=loop()),
    "Task.add_done_callback": add_callbacks,
    "Task.exception": lambda x: outcome(x.exception),
    "Task.get_context": lambda x: x.get_context() is not None,
    "Task.get_coro": lambda x: x.get_coro() is not None,
    "Task.get_name": lambda x: bool(x.get_name()),
    "Task.id": lambda x: x.id > 0,
    "Task.remove_done_callback": lambda x: x.remove_done_callback(nothing),
    "Task.result": lambda x: outcome(x.result),
    "Task.set_exception": lambda x: outcome(x.set_exception, LookupError()),
    "Task.set_name": lambda x: x.set_name("other"),
    "Task.set_result": lambda x: outcome(x.set_result, 1),
    "Timeout.__aexit__": (entered_timeout, lambda x: x.__aexit__(None, None, None)),
    "Timeout.__new__": lambda x: pyasync_c.Timeout(loop().time() + 1000),
    "Timeout.reschedule": (entered_timeout, lambda x: x.reschedule(loop().time() + 2000)),
    "Timeout.when": lambda x: x.when() > 0,
    "UnboundedSender.send": (
        lambda: filled_block(sender(pyasync_c.unbounded_channel)),
        lambda x: x.send([7]),
    ),
    "Waker.__new__": lambda x: pyasync_c.Waker(nothing),
    "Waker.will_wake": lambda x: x.will_wake(x),
    "WatchReceiver.wait_for": lambda x: x.wait_for(always),
    "WatchSender.send": lambda x: x.send([8]),
}
# Task and AsyncioFuture share these.
for _name in [name for name in CALLS if name.startswith("AsyncioFuture.add_done_callback")]:
    CALLS[_name.replace("AsyncioFuture", "Task")] = CALLS[_name]

# Functions of the package, called without anything beside them.
FUNCTIONS = {
    "broadcast": lambda: pyasync_c.broadcast(3),
    "channel": lambda: pyasync_c.channel(3),
    "interval": lambda: pyasync_c.interval(3, missed="skip"),
    "into_future": lambda: pyasync_c.into_future(kept(suspended())),
    "join": lambda: pyasync_c.join(pyasync_c.ready(1), pyasync_c.pending()),
    "now": lambda: pyasync_c.now() > 0,
    "poll_fn": lambda: pyasync_c.poll_fn(nothing),
    "poll_once": lambda: pyasync_c.poll_once(pyasync_c.pending()),
    "poll_once of a coroutine": lambda: pyasync_c.poll_once(kept(suspended())),
    "ready": lambda: pyasync_c.ready([]),
    "select": lambda: pyasync_c.select(pyasync_c.ready(1), pyasync_c.pending()),
    "sleep": lambda: pyasync_c.sleep(1000, []),
    "sleep_until": lambda: pyasync_c.sleep_until(1e9),
    "spawn": lambda: pyasync_c.spawn(coroutine(), name="named"),
    "spawn of a future": lambda: pyasync_c.spawn(pyasync_c.pending()),
    "timeout": lambda: pyasync_c.timeout(1000),
    "timeout_at": lambda: pyasync_c.timeout_at(1e9),
    "watch": lambda: pyasync_c.watch([]),
}

# Make or run a loop, start threads, or are types, whose calls stand above; or only join a path, and
# Python 3.12 keeps memory if it has none for that.
NOT_CALLED = {"all_tasks", "get_include", "new_event_loop", "run", "spawn_blocking"}


def methods():
    """Every "Type.method" of the package's types."""
    found = {}
    for name, kind in {**native_types(), **PYTHON_TYPES}.items():
        for attribute in vars(kind):
            if attribute not in NO_CALLS and (
                kind not in PYTHON_TYPES.values() or public(attribute)
            ):
                found[f"{name}.{attribute}"] = kind
    return found


def public(name):
    return not name.startswith("_")


def default_call(attribute, kind):
    if attribute == "throw":
        return lambda x: outcome(x.throw, LookupError())
    if attribute == "send":
        return lambda x: outcome(x.send, None)
    if attribute == "__new__":
        return lambda x: kind()
    if attribute in ("__exit__", "__aexit__"):
        return lambda x: getattr(x, attribute)(None, None, None)

    def call(x):
        value = getattr(x, attribute)
        return value() if callable(value) else value

    return call


def every_call():
    """name -> (maker, call), for all of the surface that can be called within a loop that runs."""
    calls = {}
    for name, kind in methods().items():
        type_name, attribute = name.split(".")
        if name not in NOT_WHILE_IT_RUNS | PYTHONS and type_name not in INTERNAL:
            calls[name] = (MAKERS[type_name], default_call(attribute, kind))
    for name, call in CALLS.items():
        calls[name] = call if isinstance(call, tuple) else (MAKERS[name.split(".")[0]], call)
    for name in set(futures()) & set(MAKERS) - OVER_AT_ONCE:
        calls.setdefault(f"{name}.send", (MAKERS[name], lambda x: outcome(x.send, None)))
    for name, call in FUNCTIONS.items():
        calls[name] = (nothing, lambda _, call=call: call())
    for name in set(pyasync_c.__all__) - set(FUNCTIONS) - NOT_CALLED:
        value = getattr(pyasync_c, name)
        if callable(value) and not isinstance(value, type):
            calls[name] = (nothing, lambda _, value=value: value())
    return calls


# ── every await ──────────────────────────────────────────────────────────────────────────────


def after(awaitable, feed=None):
    return lambda: (awaitable(), feed)


def of(what, await_it, feed):
    """An await of something, and what makes it ready."""

    def make():
        made = what()
        return await_it(made), lambda: feed(made)

    return make


async def hold(lock):
    async with lock:
        await pyasync_c.yield_now()
        await pyasync_c.yield_now()


async def acquire_after_another(lock):
    pyasync_c.spawn(hold(lock))
    await pyasync_c.yield_now()
    return await lock.acquire()


def taken():
    semaphore = pyasync_c.Semaphore(1)
    return semaphore, semaphore.try_acquire()


def one_of_two():
    barrier = pyasync_c.Barrier(2)
    return kept((barrier, polled(barrier.wait())))


async def read_after_write(lock):
    pyasync_c.spawn(hold(lock.write()))
    await pyasync_c.yield_now()
    return await enter_and_leave(lock.read())


async def enter_and_leave(manager):
    async with manager:
        return 7


async def is_positive(awaitable):
    return await awaitable > 0


def channel_with_a_value():
    tx, rx = pyasync_c.channel(1)
    tx.try_send([7])
    return tx, rx


def all_of_these():
    """One that is ready at once, and others that are not, each in its own way."""
    inner = pyasync_c.join(Prompt(), pyasync_c.sleep(0))
    return pyasync_c.ready([7]), Prompt(), pyasync_c.sleep(0), inner


# name -> what makes an awaitable, and what is called soon to make it ready, or None.
AWAITS = {
    "Acquire": of(pyasync_c.Lock, acquire_after_another, nothing),
    "Acquire at once": after(lambda: pyasync_c.Lock().acquire()),
    "AcquirePermit": of(taken, lambda x: x[0].acquire(), lambda x: x[1].release()),
    "AcquirePermit at once": after(lambda: kept(pyasync_c.Semaphore(1)).acquire()),
    "AcquirePermit with": of(pyasync_c.RwLock, read_after_write, nothing),
    "AsyncioFuture": of(
        lambda: loop().create_future(),
        lambda x: x,
        lambda x: x.set_result(7),
    ),
    "AsyncioFuture failed": of(
        lambda: loop().create_future(),
        lambda x: x,
        lambda x: x.set_exception(LookupError()),
    ),
    "BarrierWait": of(one_of_two, lambda x: x[0].wait(), nothing),
    "BroadcastRecv": of(
        lambda: pyasync_c.broadcast(1), lambda x: x[1].recv(), lambda x: x[0].send([7])
    ),
    "Cancelled": of(pyasync_c.CancellationToken, lambda x: x.cancelled(), lambda x: x.cancel()),
    "Closed": of(lambda: pyasync_c.channel(1), lambda x: x[0].closed(), lambda x: x[1].close()),
    "Delay": after(lambda: pyasync_c.sleep(1e-6, [])),
    "Delay of zero": after(lambda: pyasync_c.sleep(0)),
    "EventWait": of(pyasync_c.Event, lambda x: x.wait(), lambda x: x.set()),
    "Future": after(Prompt),
    "Future that waits": after(Later),
    "IntoFuture": after(lambda: pyasync_c.into_future(coroutine())),
    "IntoFuture of a coroutine that waits": after(
        lambda: pyasync_c.into_future(asyncio.sleep(0, 7))
    ),
    "Interval": after(lambda: is_positive(pyasync_c.interval(1e-6).tick())),
    "Join": after(lambda: pyasync_c.join(Later(), coroutine(), pyasync_c.sleep(0))),
    "Join of futures": after(lambda: pyasync_c.join(*all_of_these())),
    "JoinNext": of(join_set_of_one, lambda x: x[0].join_next(), lambda x: x[1].set_result(7)),
    "JoinSet": after(lambda: enter_and_leave(pyasync_c.JoinSet(limit=1))),
    "JoinSet.spawn_wait": after(lambda: pyasync_c.JoinSet(limit=1).spawn_wait(coroutine())),
    "Lock with": after(lambda: enter_and_leave(pyasync_c.Lock())),
    "Notified": of(pyasync_c.Notify, lambda x: x.notified(), lambda x: x.notify_one()),
    "OnceInit": after(lambda: pyasync_c.OnceCell().get_or_init(coroutine)),
    "OnceInit of a future": after(lambda: pyasync_c.OnceCell().get_or_init(Prompt)),
    "OneshotReceiver": of(pyasync_c.oneshot, lambda x: x[1], lambda x: x[0].send([7])),
    "PollFn": after(lambda: pyasync_c.poll_fn(always)),
    "PollOnce": after(lambda: pyasync_c.poll_once(Prompt())),
    "PollOnce of a suspended coroutine": after(lambda: pyasync_c.poll_once(kept(suspended()))),
    "PollOnce of a coroutine": after(lambda: pyasync_c.poll_once(asyncio.sleep(0, 7))),
    "ReadyFuture": after(lambda: pyasync_c.ready(7)),
    "Recv": of(lambda: pyasync_c.channel(1), lambda x: x[1].recv(), lambda x: x[0].try_send([7])),
    "RunUntilCancelled": after(
        lambda: pyasync_c.CancellationToken().run_until_cancelled(asyncio.sleep(0, 7))
    ),
    "RunUntilCancelled of a future": after(
        lambda: pyasync_c.CancellationToken().run_until_cancelled(Prompt())
    ),
    "Select": after(lambda: pyasync_c.select(pyasync_c.pending(), coroutine())),
    "Select of an asyncio future": after(
        lambda: pyasync_c.select(loop().create_future(), pyasync_c.sleep(0, 7))
    ),
    "Select of futures": of(
        channel_with_a_value,
        lambda x: pyasync_c.select(Silent(), pyasync_c.sleep(1000), x[1].recv()),
        nothing,
    ),
    "Select of many": after(
        lambda: pyasync_c.select(*(pyasync_c.pending() for _ in range(299)), Prompt())
    ),
    "Select of futures that wait": of(
        pyasync_c.oneshot,
        lambda x: pyasync_c.select(Silent(), pyasync_c.sleep(1000), x[1]),
        lambda x: x[0].send([7]),
    ),
    "Semaphore with": after(lambda: enter_and_leave(pyasync_c.Semaphore(1))),
    "Send": of(lambda: full_channel(), lambda x: x[0].send([8]), lambda x: x[1].try_recv()),
    "SocketOperation": of(
        lambda: nothing_to_receive(),
        lambda x: loop().sock_recv(x, 100),
        lambda x: sockets()[1].send(b"7"),
    ),
    "SocketOperation at once": after(lambda: loop().sock_sendall(sockets()[1], b"7")),
    "SocketOperation into": after(lambda: loop().sock_recv_into(much_to_receive(), bytearray(500))),
    "SocketOperation of a little": after(lambda: loop().sock_recv(much_to_receive(), 5000)),
    "SocketOperation of most": after(lambda: loop().sock_recv(much_to_receive(), 500)),
    "Task": after(lambda: pyasync_c.spawn(coroutine())),
    "TaskGroup": after(lambda: enter_and_leave(pyasync_c.TaskGroup())),
    "Timeout": after(lambda: enter_and_leave(pyasync_c.timeout(1000))),
    "WatchWait": of(lambda: pyasync_c.watch(1), lambda x: x[1].changed(), lambda x: x[0].send(2)),
    "YieldNow": after(pyasync_c.yield_now),
}


def full_channel():
    tx, rx = pyasync_c.channel(1)
    tx.try_send([7])
    return tx, rx
