"""Memory: nothing is kept that is done with, running out is survived, and the collector may come
at any moment."""

import asyncio
import ctypes
import gc
import inspect
import os
import socket
import sys
import threading
import tracemalloc
import weakref

import pytest
from helpers import awaits, collect, every_loop, open_fds, python, run_asyncio, turns, unraisable
from net_peer import tls_contexts
from surface import INTERNAL, native_types

import pyasync_c
from pyasync_c import PENDING, Notify, _core

_core._need_asyncio()


class Once(pyasync_c.Future):
    """A Future of Python: pending once."""

    def __init__(self):
        self.polled = False

    def poll(self, cx):
        if self.polled:
            return 1
        self.polled = True
        cx.waker.clone().wake()
        return PENDING


class Never(pyasync_c.Future):
    def poll(self, cx):
        self.waker = cx.waker.clone()
        return PENDING


async def nothing():
    pass


async def cancel(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# ── types that are met within C ──────────────────────────────────────────────────────────────


async def make_future_iterator():
    return asyncio.get_running_loop().create_future().__await__()


async def make_stop_iteration():
    caught = []
    for result in range(8):  # more than are kept
        with pytest.raises(StopIteration) as stop:
            next(pyasync_c.ready([result]))
        caught.append(stop.value)
    assert [stop.value for stop in caught] == [[result] for result in range(8)]
    assert await pyasync_c.ready("next") == "next"


async def make_immediate():
    block = pyasync_c.timeout(None)
    immediate = block.__aenter__()
    await immediate
    await block.__aexit__(None, None, None)
    return immediate


def nothing_at_all():
    pass


async def make_connection(server_context=None, **client_options):
    """A server, a connection to it, and a line each way by asyncio's streams."""

    async def answer(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), **client_options
    )
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def make_tls_connection():
    server_context, client_context = tls_contexts()
    await make_connection(server_context, ssl=client_context, server_hostname="localhost")


async def make_pipes():
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    reader, _ = await loop.connect_read_pipe(asyncio.Protocol, open(read, "rb", 0))
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, open(write, "wb", 0))
    writer.close()
    reader.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def make_datagrams():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    transport.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def make_bridge():
    async def main():
        await pyasync_c.sleep(0)

    run_asyncio(main())


async def make_select():
    return await pyasync_c.select(asyncio.get_running_loop().create_future(), nothing())


async def make_oneshot():
    tx, rx = pyasync_c.oneshot()
    task = asyncio.ensure_future(awaits(rx))
    await turns(2)
    tx.send([])
    await task
    with pytest.raises(RuntimeError):
        tx.send([])


async def make_mpsc():
    for tx, rx in (pyasync_c.channel(1), pyasync_c.unbounded_channel()):
        if isinstance(tx, pyasync_c.Sender):
            await tx.send([])
            task = asyncio.ensure_future(awaits(tx.send([])))
            await turns(2)
            with pytest.raises(pyasync_c.ChannelFull):
                tx.try_send([])
            await cancel(task)
            assert len(await rx.recv_many(3)) == 1
        closed = asyncio.ensure_future(awaits(tx.clone().closed()))
        task = asyncio.ensure_future(awaits(rx.recv()))
        await turns(2)
        await cancel(task)
        with pytest.raises(pyasync_c.ChannelEmpty):
            rx.try_recv()
        rx.close()
        await closed


async def make_broadcast():
    tx, rx = pyasync_c.broadcast(1)
    task = asyncio.ensure_future(awaits(rx.recv()))
    await turns(2)
    tx.send([])
    await task
    tx.send([])
    tx.send([])
    with pytest.raises(pyasync_c.Lagged):
        rx.try_recv()
    tx.subscribe()


async def make_watch():
    tx, rx = pyasync_c.watch([])
    task = asyncio.ensure_future(awaits(rx.changed()))
    other = asyncio.ensure_future(awaits(rx.wait_for(lambda value: value == 1)))
    await turns(2)
    tx.send([])
    await task
    tx.send(1)
    await other
    tx.close()
    with pytest.raises(pyasync_c.ChannelClosed):
        await rx.changed()


def capi_functions():
    """The functions of pyasync_c.h, as addresses, from waker_from_object on."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = pointer(pyasync_c._core._C_API, b"pyasync_c._core._C_API")
    return (ctypes.c_void_p * 20).from_address(table + 8)


def make_promised():
    functions = capi_functions()
    new = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 3)(functions[2])
    release = ctypes.PYFUNCTYPE(None, *[ctypes.c_void_p] * 2)(functions[7])
    # size, name, convert (never called), and no other callback.
    kind = (ctypes.c_size_t * 8)(64, 0, functions[2], 0, 0, 0, 0, 0)
    name = ctypes.create_string_buffer(b"test.Promise")
    kind[1] = ctypes.addressof(name)
    handle = ctypes.c_void_p()
    awaitable = new(ctypes.addressof(kind), None, ctypes.addressof(handle))
    assert repr(awaitable) == "<test.Promise pending>"
    release(handle, None)
    del awaitable


def make_c_future():
    functions = capi_functions()
    to_object = ctypes.PYFUNCTYPE(ctypes.py_object, *[ctypes.c_void_p] * 2)(functions[10])
    dropped = []
    drop = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(dropped.append)
    # A vtable of poll (never called) and drop, and the future that points to it.
    vtable = (ctypes.c_void_p * 2)(functions[10], ctypes.cast(drop, ctypes.c_void_p))
    future = ctypes.c_void_p(ctypes.addressof(vtable))
    to_object(ctypes.addressof(future), None)
    assert len(dropped) == 1


# Types that surface.py makes no object of, since they are met only from within C or need a
# connection: what has one in it from beginning to end. A plain function outside of a loop, or an
# async one within ours. The others come and go in test_references.py.
LIVES = {
    "EndCallback": make_select,
    "Bridge": make_bridge,
    "CFuture": make_c_future,
    "DatagramTransport": make_datagrams,
    "FutureIter": make_future_iterator,
    "Immediate": make_immediate,
    "Promised": make_promised,
    "StopIteration": make_stop_iteration,
    **dict.fromkeys(["ReadPipeTransport", "WritePipeTransport"], make_pipes),
    **dict.fromkeys(["Listener", "StreamRead", "StreamReader", "StreamTransport"], make_connection),
    **dict.fromkeys(["MemoryWindow", "TlsProtocolBase", "TlsTransportBase"], make_tls_connection),
    **dict.fromkeys(["Oneshot", "OneshotAwait"], make_oneshot),
    "Mpsc": make_mpsc,
    "Broadcast": make_broadcast,
    "Watch": make_watch,
}


def test_every_type_is_known_here():
    assert set(LIVES) == INTERNAL


def use(make, times):
    async def inside():
        for _ in range(times):
            await make()

    if inspect.iscoroutinefunction(make):
        pyasync_c.run(inside())
    else:
        for _ in range(times):
            make()
    collect()


@pytest.mark.parametrize("name", LIVES)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_references_to_a_type_balance(name):
    kinds = native_types()
    use(LIVES[name], 10)  # fills the free lists
    before = {name: sys.getrefcount(kind) for name, kind in kinds.items()}
    use(LIVES[name], 300)
    after = {name: sys.getrefcount(kind) for name, kind in kinds.items()}
    assert {k: after[k] - before[k] for k in after if abs(after[k] - before[k]) > 20} == {}


# ── repeated use ─────────────────────────────────────────────────────────────────────────────


class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]


def malloced():
    """Bytes in use from malloc, where the core has its memory; 0 if this libc cannot say."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = Mallinfo2
    return mallinfo2().h  # uordblks


async def use_spawn():
    await pyasync_c.spawn(nothing(), name="named")
    pyasync_c.spawn(nothing())
    await turns(2)


async def use_cancel():
    for awaitable in (pyasync_c.sleep(1000), Notify().notified(), Never(), pyasync_c.pending()):
        task = pyasync_c.spawn(awaits(awaitable))
        await turns(2)
        await cancel(task)


async def use_errors():
    async def fails():
        raise LookupError

    for awaitable in (fails(), pyasync_c.poll_fn(lambda cx: 1 / 0), pyasync_c.into_future(fails())):
        try:
            await pyasync_c.spawn(awaits(awaitable))
        except (LookupError, ZeroDivisionError):
            pass


async def use_sleep():
    await pyasync_c.sleep(0)
    await pyasync_c.sleep(1e-6, ["result"])
    delay = pyasync_c.sleep(1000)
    task = pyasync_c.spawn(awaits(delay))
    await turns(2)
    delay.reset(500)
    delay.reset(2000)
    await cancel(task)
    delay.reset(0)
    await delay


async def use_interval():
    ticks = pyasync_c.interval(1e-6)
    await ticks.tick()
    await ticks.tick()
    task = pyasync_c.spawn(pyasync_c.interval(1000).tick())
    await task


async def use_timeout():
    async with pyasync_c.timeout(1000) as block:
        block.reschedule(pyasync_c.now() + 1000)
    try:
        async with pyasync_c.timeout(0):
            await pyasync_c.pending()
    except TimeoutError:
        pass


async def use_notify():
    notify = Notify()
    tasks = [pyasync_c.spawn(awaits(notify.notified())) for _ in range(3)]
    await turns(2)
    notify.notify_one()
    notify.notify_last()
    notify.notify_waiters()
    for task in tasks:
        await task
    notify.notify_one()
    notify.notified().enable()


async def use_channels():
    for make in (make_oneshot, make_mpsc, make_broadcast, make_watch):
        await make()


async def use_futures():
    await Once()
    await pyasync_c.ready([])
    await pyasync_c.yield_now()
    await pyasync_c.into_future(asyncio.sleep(0))
    await pyasync_c.into_future(awaits(Once()))
    coroutine = awaits(Once())
    while await pyasync_c.poll_once(coroutine) is PENDING:
        pass
    await pyasync_c.poll_once(pyasync_c.pending())


async def use_polls_by_hand():
    waker = pyasync_c.Waker(nothing_at_all)
    context = pyasync_c.Context(waker)
    futures = [Never(), pyasync_c.sleep(1000), Notify().notified(), pyasync_c.pending()]
    futures.append(pyasync_c.into_future(awaits(pyasync_c.sleep(1000))))
    for future in futures:
        future.poll(context)
        future.poll(pyasync_c.Context(waker.clone()))
        future.drop()
    waker.will_wake(pyasync_c.noop_waker())
    waker.wake()
    await turns(1)  # what was armed on a foreign loop is given back in its next turn


async def use_callbacks():
    loop = asyncio.get_running_loop()
    loop.call_soon(nothing_at_all)
    loop.call_soon_threadsafe(nothing_at_all)
    loop.call_later(0, nothing_at_all)
    loop.call_later(1000, nothing_at_all).cancel()
    loop.call_soon(nothing_at_all).cancel()
    future = loop.create_future()
    future.add_done_callback(lambda future: None)
    future.add_done_callback(print)
    future.remove_done_callback(print)
    loop.call_soon(future.set_result, 1)
    await future
    await turns(2)


async def use_asyncio():
    await asyncio.sleep(0)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(use_sleep())
    async with asyncio.timeout(1000):
        await asyncio.gather(nothing(), nothing())
    event = asyncio.Event()
    task = asyncio.create_task(event.wait())
    await turns(2)
    event.set()
    await task


async def use_gates():
    gates = [pyasync_c.Lock(), pyasync_c.Semaphore(1)]
    rw = pyasync_c.RwLock()
    gates += [lambda: rw.read(), lambda: rw.write(), lambda: gates[1].acquire()]

    async def enters(gate):
        async with gate() if callable(gate) else gate:
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(enters(gate)) for gate in gates for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    permit = gates[1].try_acquire()
    assert gates[1].try_acquire() is None and repr(gates[1]) and repr(permit)
    gates[1].close()
    try:
        await gates[1].acquire()
    except pyasync_c.SemaphoreClosed:
        pass
    async with gates[0]:
        try:
            await gates[0].acquire()
        except RuntimeError:
            pass


async def use_meetings():
    barrier, event, cell = pyasync_c.Barrier(3), pyasync_c.Event(), pyasync_c.OnceCell()

    async def fails():
        await asyncio.sleep(0)
        raise ValueError

    async def makes():
        await asyncio.sleep(0)
        return []

    tasks = [asyncio.ensure_future(awaits(barrier.wait())) for _ in range(2)]
    tasks += [asyncio.ensure_future(awaits(event.wait())) for _ in range(3)]
    tasks += [asyncio.ensure_future(awaits(cell.get_or_init(f))) for f in (fails, makes, makes)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    await asyncio.sleep(0)
    event.set()
    tasks += [asyncio.ensure_future(awaits(barrier.wait())) for _ in range(2)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert cell.get() == [] and repr(cell) and repr(event) and repr(barrier)


async def use_questions():
    pyasync_c.now()
    task = pyasync_c.current_task()
    task.get_name(), task.get_coro(), task.get_stack(), repr(task)
    pyasync_c.all_tasks()
    asyncio.all_tasks()
    for what in (pyasync_c.sleep(1), Notify(), Notify().notified(), pyasync_c.timeout(1)):
        repr(what)
    if isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop):
        repr(pyasync_c.current_runtime()), pyasync_c.current_runtime().metrics()


async def use_bad_input():
    for call in (
        lambda: pyasync_c.sleep("x"),
        lambda: pyasync_c.sleep(float("nan")),
        lambda: pyasync_c.timeout("x"),
        lambda: pyasync_c.spawn(5),
        lambda: pyasync_c.into_future(5),
        lambda: pyasync_c.poll_fn(5),
        lambda: pyasync_c.Waker(5),
        lambda: pyasync_c.Context(5),
        lambda: pyasync_c.sleep(1).poll(5),
        lambda: Notify(5),
        lambda: pyasync_c.Delay(),
    ):
        try:
            call()
        except (TypeError, ValueError):
            pass
    delay = pyasync_c.sleep(0)
    await delay
    try:
        await delay
    except RuntimeError:
        pass


USES = {
    name.removeprefix("use_"): function
    for name, function in list(globals().items())
    if name.startswith("use_")
}


@pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio], ids=["pyasync_c", "asyncio"])
@pytest.mark.parametrize("name", USES)
def test_repeated_use_keeps_nothing(run, name):
    repeated = USES[name]

    async def main():
        async def many(times):
            for _ in range(times):
                await repeated()

        await many(50)
        kept = []
        for _ in range(3):
            collect()
            before = sys.getallocatedblocks(), malloced()
            await many(400)
            collect()
            after = sys.getallocatedblocks(), malloced()
            kept.append((after[0] - before[0], after[1] - before[1]))
        return kept

    blocks, sizes = zip(*run(main()), strict=True)
    # One object kept in each use would be 400 blocks a round, or as many times its size. One round
    # can meet what the interpreter or the C library grows by at times; three cannot.
    assert min(blocks) < 200
    assert min(sizes) < 400 * 16


def test_tasks_made_by_their_constructor_are_made_from_what_earlier_ones_left():
    async def main():
        async def work():
            pass

        async def many(times):
            for _ in range(times):
                await pyasync_c.Task(work(), loop=asyncio.get_running_loop())
            collect()
            return sys.getallocatedblocks()

        await many(50)
        return -(await many(50)) + await many(500)

    assert pyasync_c.run(main()) < 200


def test_repeated_runs_keep_nothing():
    async def main():
        await pyasync_c.sleep(0)
        pyasync_c.spawn(pyasync_c.sleep(1000))

    def many(times):
        for _ in range(times):
            pyasync_c.run(main())
        collect()
        return sys.getallocatedblocks(), malloced()

    many(50)
    before = many(50)
    after = many(500)
    # One object kept in each run would be 500 blocks.
    assert after[0] - before[0] < 350
    assert after[1] - before[1] < 500 * 32


# ── cycles ───────────────────────────────────────────────────────────────────────────────────


class Marked:
    pass


def waits_in_a_cycle(kind):
    """A coroutine that is suspended in a future which, one way or another, refers back to it."""
    mark = Marked()

    async def main():
        mark.task = pyasync_c.current_task()
        if kind == "future":
            future = Never()
            future.mark = mark
            await future
        elif kind == "poll_fn":
            await pyasync_c.poll_fn(lambda cx: (PENDING, mark)[0])
        elif kind == "delay":
            mark.delay = pyasync_c.sleep(1000, mark)
            await mark.delay
        elif kind == "notify":
            mark.notify = Notify()
            await mark.notify.notified()
        elif kind == "asyncio":
            mark.future = asyncio.get_running_loop().create_future()
            mark.future.add_done_callback(lambda future: mark)
            await mark.future
        elif kind == "into_future":
            mark.inner = pyasync_c.into_future(awaits(pyasync_c.sleep(1000)))
            await mark.inner
        elif kind == "timeout":
            async with pyasync_c.timeout(1000) as mark.block:
                await pyasync_c.pending()

    return main(), weakref.ref(mark)


KINDS = ["future", "poll_fn", "delay", "notify", "asyncio", "into_future", "timeout"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_cycle_is_collected(kind):
    async def main():
        coroutine, ref = waits_in_a_cycle(kind)
        task = pyasync_c.spawn(coroutine)
        del coroutine
        await turns()
        await cancel(task)
        await turns()
        del task
        collect()
        assert ref() is None

    pyasync_c.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_an_abandoned_loop_is_collected_with_its_tasks(kind):
    loop = pyasync_c.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    gone = weakref.ref(loop)
    coroutine, ref = waits_in_a_cycle(kind)
    loop.create_task(coroutine)
    del coroutine
    loop.run_until_complete(turns())
    assert ref() is not None
    collect()
    assert ref() is not None  # the loop holds its tasks
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        collect()
    assert gone() is None
    assert ref() is None


def test_a_task_that_nobody_refers_to_is_run():
    done = []

    async def lonely():
        await Once()
        await pyasync_c.sleep(0.002)
        done.append(1)

    async def main():
        pyasync_c.spawn(lonely())
        for _ in range(5):
            collect()
            await pyasync_c.sleep(0.002)

    pyasync_c.run(main())
    assert done == [1]


# ── the collector at any moment ──────────────────────────────────────────────────────────────

COLLECTOR = """
import asyncio, gc, sys, warnings
import pyasync_c
from test_memory import USES, KINDS, waits_in_a_cycle, cancel, turns

async def main():
    for _ in range(3):
        for use in USES.values():
            await use()
    for kind in KINDS:
        coroutine, ref = waits_in_a_cycle(kind)
        task = pyasync_c.spawn(coroutine)
        await turns()
        await cancel(task)

def abandon():
    loop = pyasync_c.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    for kind in KINDS:
        coroutine, ref = waits_in_a_cycle(kind)
        loop.create_task(coroutine)
    loop.run_until_complete(turns())

warnings.simplefilter("ignore")
pyasync_c.run(main())
gc.collect()
gc.freeze()
gc.set_threshold(1, 1, 1)
for run in (pyasync_c.run, asyncio.run):
    run(main())
abandon()
gc.collect()
print("done")
"""


def test_the_collector_at_every_allocation():
    assert python(COLLECTOR).strip() == "done"


# ── what is done with goes at once ───────────────────────────────────────────────────────────


async def returns(value):
    return value


@pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio], ids=["pyasync_c", "asyncio"])
@pytest.mark.parametrize("wrap", [pyasync_c.ready, pyasync_c.into_future, pyasync_c.poll_once])
def test_an_awaited_result_is_kept_by_nobody(run, wrap):
    async def awaits_it():
        mark = Marked()
        await wrap(mark if wrap is pyasync_c.ready else returns(mark))
        return weakref.ref(mark)

    async def main():
        ref = await awaits_it()
        await turns(1)  # to the end of the poll
        assert ref() is None

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_a_result_dies_with_its_task():
    async def main():
        task = pyasync_c.spawn(returns(Marked()))
        ref = weakref.ref(await task)
        await turns(1)
        assert ref() is not None  # the task has it
        del task
        assert ref() is None

    gc.disable()
    try:
        pyasync_c.run(main())
    finally:
        gc.enable()


def test_a_sleeps_result_dies_with_the_delay():
    async def main():
        mark = Marked()
        ref = weakref.ref(mark)
        delay = pyasync_c.sleep(0, mark)
        del mark
        await delay
        await turns(1)
        del delay
        assert ref() is None

    pyasync_c.run(main())


@every_loop
def test_a_result_is_kept_by_whoever_awaits_it_alone(run):
    """So a Permit is given back, and an end of a channel closed, where its name is deleted."""

    async def main():
        lock = pyasync_c.RwLock()
        permit = await lock.write()
        assert lock.try_read() is None
        del permit
        assert lock.try_read() is not None

        outer, values = pyasync_c.channel(1)
        sender, receiver = pyasync_c.channel(1)
        outer.try_send(sender)
        del sender
        sender = await values.recv()
        del sender
        with pytest.raises(pyasync_c.ChannelClosed):
            receiver.try_recv()

        mark = Marked()
        ref = weakref.ref(mark)
        awaited = await pyasync_c.join(pyasync_c.ready(mark))
        del mark, awaited
        assert ref() is None

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_a_stop_iteration_that_was_caught_keeps_its_value():
    """The one that is reused is not reused while somebody has it."""

    async def main():
        iterator = pyasync_c.ready("first").__await__()
        try:
            next(iterator)
        except StopIteration as stop:
            kept = stop
        assert await pyasync_c.ready("second") == "second"
        await turns(1)
        assert await pyasync_c.ready("third") == "third"
        assert kept.value == "first"

    pyasync_c.run(main())


def test_an_exception_dies_with_its_task():
    class Error(Exception):
        pass

    async def fails():
        raise Error

    async def main():
        task = pyasync_c.spawn(fails())
        try:
            await task
        except Error as error:
            ref = weakref.ref(error)
        del task
        collect()
        assert ref() is None

    pyasync_c.run(main())


def test_what_a_task_held_goes_when_it_ends():
    async def holds(mark):
        await Once()

    async def main():
        mark = Marked()
        ref = weakref.ref(mark)
        task = pyasync_c.spawn(holds(mark))
        del mark
        await task
        assert ref() is None
        assert task.done()

    gc.disable()
    try:
        pyasync_c.run(main())
    finally:
        gc.enable()


def test_a_cycle_through_an_interval_is_collected():
    async def main():
        mark = Marked()
        ref = weakref.ref(mark)

        async def ticks():
            mark.interval = pyasync_c.interval(1000)
            mark.task = pyasync_c.current_task()
            async for _ in mark.interval:
                pass

        task = pyasync_c.spawn(ticks())
        await turns()
        await cancel(task)
        await turns()
        mark = task = ticks = None
        collect()
        assert ref() is None

    pyasync_c.run(main())


@pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio], ids=["pyasync_c", "asyncio"])
def test_runs_leave_no_descriptor(run):
    async def main():
        await pyasync_c.sleep(1e-6)
        pyasync_c.spawn(pyasync_c.sleep(1000))
        await pyasync_c.spawn_blocking(nothing_at_all)
        await turns()

    run(main())
    collect()
    before = open_fds()
    for _ in range(10):
        run(main())
    collect()
    assert open_fds() == before


@pytest.mark.parametrize("size", [1024, 1 << 18, 1 << 22])
def test_who_waits_for_bytes_has_no_memory_for_them(size):
    many = 20

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(many + 1)]
        waiting = [asyncio.create_task(loop.sock_recv(pairs[0][0], size))]
        await turns()  # what is made once
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            waiting += [asyncio.create_task(loop.sock_recv(one, size)) for one, _ in pairs[1:]]
            await turns()
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        for _, two in pairs:
            two.send(b"here")
        assert await asyncio.gather(*waiting) == [b"here"] * (many + 1)
        for one, two in pairs:
            one.close()
            two.close()
        return held

    # A Task, an operation, and what the loop knows of a descriptor.
    assert 0 < pyasync_c.run(main()) < many * 3000


# ── the collector and destructors in odd places ──────────────────────────────────────────────


class Collecting(pyasync_c.Future):
    """Collects in poll and in drop."""

    def __init__(self, polls):
        self.polls = polls

    def poll(self, cx):
        gc.collect()
        self.polls -= 1
        if self.polls == 0:
            return "ready"
        cx.waker.clone().wake()
        return PENDING

    def drop(self):
        gc.collect()


def test_collecting_in_poll_and_drop():
    async def main():
        tasks = [pyasync_c.spawn(Collecting(3)) for _ in range(5)]
        never = pyasync_c.spawn(Collecting(10**9))
        assert [await task for task in tasks] == ["ready"] * 5
        await cancel(never)
        assert never.cancelled()

    pyasync_c.run(main())


def test_collecting_in_callbacks():
    called = []

    def callback(*args):
        gc.collect()
        called.append(args)

    async def main():
        loop = asyncio.get_running_loop()
        task = pyasync_c.spawn(Once())
        task.add_done_callback(callback)
        loop.call_soon(callback)
        loop.call_later(0, callback)
        loop.call_soon_threadsafe(callback)
        waker = pyasync_c.Waker(callback)
        delay = pyasync_c.sleep(0)
        delay.poll(pyasync_c.Context(waker))
        await task
        while len(called) < 5:
            await pyasync_c.sleep(0.001)

    pyasync_c.run(main())


class Doing:
    """Does something when it is destroyed."""

    def __init__(self, action):
        self.action = action
        self.cycle = self

    def __del__(self):
        self.action()


async def holds_until_cancelled(action):
    held = Doing(action)
    held.frame = sys._getframe()
    await pyasync_c.pending()


@pytest.mark.parametrize("where", ["poll", "callback", "timer", "cancelled frame", "finished task"])
def test_destructors_that_use_the_runtime(where):
    """Spawn, cancel, notify, sleep and collect in a destructor that the collector calls."""
    spawned = []

    async def main():
        loop = asyncio.get_running_loop()
        notify = Notify()
        waiter = pyasync_c.spawn(awaits(notify.notified()))
        victim = pyasync_c.spawn(awaits(pyasync_c.sleep(1000)))
        await turns()

        def action():
            spawned.append(pyasync_c.spawn(Once()))
            victim.cancel()
            notify.notify_waiters()
            loop.call_soon(gc.collect)
            pyasync_c.sleep(0)
            gc.collect()

        def make_garbage(*args):
            Doing(action)
            gc.collect()

        if where == "poll":
            await pyasync_c.poll_fn(make_garbage)
        elif where == "callback":
            loop.call_soon(make_garbage)
        elif where == "timer":
            loop.call_later(0, make_garbage)
        elif where == "cancelled frame":
            task = pyasync_c.spawn(holds_until_cancelled(action))
            await turns()
            await cancel(task)
            del task
        else:
            task = pyasync_c.spawn(returns(Doing(action)))
            await turns()
            del task
        for _ in range(10):
            await turns()
            gc.collect()
        await waiter
        assert await spawned[0] == 1
        with pytest.raises(asyncio.CancelledError):
            await victim

    with unraisable() as unseen:
        pyasync_c.run(main())
    assert unseen == []
    assert len(spawned) == 1


def test_a_destructor_that_spawns_while_the_runtime_closes():
    destroyed = []

    def action():
        destroyed.append(1)
        coroutine = nothing()
        try:
            pyasync_c.spawn(coroutine)
        except RuntimeError:
            coroutine.close()  # too late: nothing runs any more

    async def main():
        for _ in range(5):
            pyasync_c.spawn(holds_until_cancelled(action))
        await turns()

    with unraisable() as unseen:
        pyasync_c.run(main())
        collect()
    assert unseen == []
    assert len(destroyed) == 5
    assert pyasync_c.run(returns(3)) == 3


# ── many ─────────────────────────────────────────────────────────────────────────────────────

RESIDENT = """
import resource, sys
import pyasync_c

async def nothing():
    await pyasync_c.yield_now()

async def yields(n):
    for _ in range(n):
        await pyasync_c.yield_now()

async def spawns(n):
    for _ in range(n // 100):
        for task in [pyasync_c.spawn(nothing()) for _ in range(100)]:
            await task

def resident_kib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024

async def main():
    await yields(30_000)
    await spawns(10_000)
    before = resident_kib()
    await yields(300_000)
    await spawns(100_000)
    return resident_kib() - before

print(pyasync_c.run(main()))
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan keeps what is freed")
def test_resident_memory_is_flat():
    # 16 bytes kept of each would be 6400 KiB.
    assert int(python(RESIDENT)) < 4096


# ── out of memory ────────────────────────────────────────────────────────────────────────────

OUT_OF_MEMORY = """
import asyncio, faulthandler, sys, warnings
import _testcapi
import pyasync_c

warnings.simplefilter("ignore")
sys.unraisablehook = lambda args: None

# Nothing in the program makes a function (asyncio.gather and repr(task) do): Python does not
# survive that.
def nothing(*args):
    return 1

class Later(pyasync_c.Future):
    def __init__(self):
        self.polls = 0

    def poll(self, cx):
        self.polls += 1
        if self.polls > 2:
            return self.polls
        cx.waker.clone().wake()
        return pyasync_c.PENDING

async def child(notify, done):
    try:
        await pyasync_c.sleep(0)
        return 7
    finally:  # or the others would wait for it
        notify.notify_one()
        done.notify_waiters()

async def timers():
    await pyasync_c.sleep(1e-6, [])
    delay = pyasync_c.sleep(1000)
    delay.reset(0)
    await delay
    async with pyasync_c.timeout(1000) as block:
        block.reschedule(pyasync_c.now() + 500)
        await pyasync_c.yield_now()
    try:
        async with pyasync_c.timeout(0):
            await pyasync_c.pending()
    except TimeoutError:
        pass
    ticks = pyasync_c.interval(1e-6)
    await ticks.tick()
    await ticks.tick()

async def futures():
    await Later()
    await pyasync_c.ready(1)
    await pyasync_c.poll_fn(nothing)
    await pyasync_c.into_future(asyncio.sleep(0))
    await pyasync_c.into_future(Later())
    await pyasync_c.poll_once(pyasync_c.sleep(1000))
    waker = pyasync_c.Waker(nothing)
    delay = pyasync_c.sleep(1000)
    delay.poll(pyasync_c.Context(waker))
    delay.drop()
    waker.wake()

async def callbacks():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    future.add_done_callback(nothing)
    loop.call_later(1000, print).cancel()
    loop.call_later(1e-6, future.set_result, 1)
    loop.call_soon_threadsafe(len, ())
    await future

async def cancellation():
    for awaitable in (pyasync_c.sleep(1000), pyasync_c.Notify().notified(), asyncio.sleep(1000)):
        task = pyasync_c.spawn(awaitable)
        await pyasync_c.yield_now()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass

async def channels():
    tx, rx = pyasync_c.channel(1)
    await tx.send([1])
    send = pyasync_c.spawn(tx.send([2]))
    await pyasync_c.yield_now()
    assert len(await rx.recv_many(3)) in (1, 2)
    await send
    tx.close()
    rest = [value async for value in rx]
    unbounded, rx = pyasync_c.unbounded_channel()
    closed = unbounded.clone().closed()
    for value in range(100):
        unbounded.send(value)
    assert await rx.recv() == 0
    rx.close()
    await closed
    tx, rx = pyasync_c.oneshot()
    tx.send([3])
    await rx
    tx, rx = pyasync_c.broadcast(1)
    other = tx.subscribe()
    tx.send([4])
    tx.send([5])
    try:
        await rx.recv()
    except pyasync_c.Lagged:
        await rx.recv()
    tx, rx = pyasync_c.watch([6])
    tx.send([7])
    await rx.changed()
    await rx.wait_for(bool)

async def main():
    asyncio.get_running_loop().set_exception_handler(nothing)
    notify, done = pyasync_c.Notify(), pyasync_c.Notify()
    waiter = done.notified()
    task = pyasync_c.spawn(child(notify, done), name="child")
    await notify.notified()
    await waiter
    await timers()
    await futures()
    await callbacks()
    await cancellation()
    await channels()
    repr(notify), repr(waiter)
    return await task

# Not with the making and the closing of a loop in it, which make functions.
def within_a_runtime(fail, heal):
    with pyasync_c.Runtime() as runtime:
        runtime.run(pyasync_c.ready(1))
        fail()
        try:
            return runtime.run(main())
        finally:
            heal()

def sweep(program):
    n = failures = row = 0
    # Until it comes through so often in a row that the end must have been passed.
    while row < 250:
        n += 1
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            result = program(
                lambda: _testcapi.set_nomemory(n, n + 1), _testcapi.remove_mem_hooks
            )
        except MemoryError:
            result = None
        except SystemError as error:
            # Python's own, when there is no room for the frames of a traceback.
            message = str(error)
            assert message == "error return without exception set" or (
                message.startswith("<function ")
                and message.endswith("without setting an exception")
            ), error
            result = None
        except BaseException:
            print("at allocation", n, file=sys.stderr)
            raise
        assert result in (7, None), result
        row = row + 1 if result == 7 else 0
        failures += result is None
        assert pyasync_c.run(main()) == 7
    faulthandler.cancel_dump_traceback_later()
    assert failures > 50, failures
    print("survived", failures, "of", n)

for _ in range(3):
    assert pyasync_c.run(main()) == 7
sweep(within_a_runtime)
"""


def test_out_of_memory():
    pytest.importorskip("_testcapi")
    assert python(OUT_OF_MEMORY).startswith("survived")


def in_a_oneshot(value):
    sender, receiver = pyasync_c.oneshot()
    sender.send(value)
    return receiver


def in_a_channel(value):
    sender, receiver = pyasync_c.channel(1)
    sender.try_send(value)
    return receiver


def in_a_broadcast(value):
    sender, receiver = pyasync_c.broadcast(1)
    sender.send(value)
    return receiver


def in_a_watch(value):
    return pyasync_c.watch(value)[1]


def in_a_cell(value):
    cell = pyasync_c.OnceCell()
    cell.set(value)
    return cell


def in_a_future(value):
    future = LOOP.create_future()
    future.set_result(value)
    return future


def in_a_task(value):
    async def give():
        return value

    task = LOOP.create_task(give())
    LOOP.run_until_complete(task)
    return task


def in_a_callback(value):
    future = LOOP.create_future()
    future.add_done_callback(method_of(value, "cancel"))
    return future


def method_of(value, *names):
    """Something to call that refers to it."""
    return next((getattr(value, name) for name in names if hasattr(value, name)), value.__repr__)


def future_of(value):
    return value if isinstance(value, pyasync_c.Future) else pyasync_c.ready(value)


class Awaitable:
    def __init__(self, value):
        self.value = value

    def __await__(self):
        return iter(())


LOOP = pyasync_c.new_event_loop()
SENDER, RECEIVER = pyasync_c.channel(1)
CELL, WATCHED = pyasync_c.OnceCell(), pyasync_c.watch(0)[1]
LINKS = {
    "oneshot": in_a_oneshot,
    "channel": in_a_channel,
    "broadcast": in_a_broadcast,
    "watch": in_a_watch,
    "watch's sender": lambda value: pyasync_c.watch(value)[0],
    "cell": in_a_cell,
    "ready": pyasync_c.ready,
    "sleep": lambda value: pyasync_c.sleep(1, value),
    "send": lambda value: SENDER.send(value),
    "poll_fn": lambda value: pyasync_c.poll_fn(method_of(value, "poll")),
    "poll_once": lambda value: pyasync_c.poll_once(future_of(value)),
    "into_future": lambda value: pyasync_c.into_future(Awaitable(value)),
    "join": lambda value: pyasync_c.join(future_of(value), pyasync_c.pending()),
    "select": lambda value: pyasync_c.select(future_of(value)),
    "get_or_init": lambda value: CELL.get_or_init(method_of(value, "drop")),
    "wait_for": lambda value: WATCHED.wait_for(method_of(value, "drop")),
    "waker": lambda value: pyasync_c.Waker(method_of(value, "wake")),
    "future": in_a_future,
    "task": in_a_task,
    "callback": in_a_callback,
}


class Last(Exception):
    def __init__(self, freed):
        self.freed = freed

    def __del__(self):
        self.freed.append(True)


def chain(link, freed):
    value = Last(freed)
    for _ in range(100_000):
        value = link(value)
    del value


@pytest.mark.parametrize("link", LINKS)
def test_a_long_chain_of_values_is_freed_on_a_small_stack(link):
    freed = []
    before = threading.stack_size(512 << 10)
    try:
        thread = threading.Thread(target=chain, args=(LINKS[link], freed))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert freed == [True]


def test_a_long_chain_of_errors_is_freed_without_deep_recursion():
    def after_an_error(error):
        lagged = pyasync_c.Lagged(1)
        lagged.__context__ = error
        return lagged

    freed = []
    chain(after_an_error, freed)
    assert freed == [True]
