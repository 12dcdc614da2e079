"""The event loop at its edges: readiness, interruption, garbage, destructors, threads, signals.

What asyncio's own loop does too is tried on it as well: that is what says that a test is right.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest
from helpers import OUR_RUNTIME, Worker, collect, open_fds, turns

import pyasync_c

LONG = 30  # seconds, for what has to come: never waited for in full


def run_on_our_loop(main):
    with asyncio.Runner(loop_factory=pyasync_c.new_event_loop) as runner:
        return runner.run(main)


every_run = pytest.mark.parametrize(
    "run",
    [
        OUR_RUNTIME,
        pytest.param(run_on_our_loop, id="Runner"),
        pytest.param(asyncio.run, id="asyncio"),
    ],
)
eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
either_exit = pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])


@pytest.fixture(
    params=[
        pytest.param(pyasync_c.new_event_loop, id="pyasync_c"),
        pytest.param(asyncio.new_event_loop, id="asyncio"),
    ]
)
def new_loop(request):
    return request.param


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    yield loop
    loop.close()


@pytest.fixture
def our_loop():
    loop = pyasync_c.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def reports(loop):
    """The contexts that the loop's exception handler is given."""
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    return seen


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


def one_pass(loop):
    """Run what is ready, and nothing more."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def run_for(loop, seconds=0.01):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


class Thing:
    """Something to hold a weak reference to."""


# ── the order of things ──────────────────────────────────────────────────────────────────────


def test_tasks_and_callbacks_share_one_queue(loop):
    log = []

    async def task(name):
        log.append(name)
        await asyncio.sleep(0)
        log.append(name + "'")

    async def main():
        loop.call_soon(log.append, "a")
        first = loop.create_task(task("b"))
        loop.call_soon_threadsafe(log.append, "c")
        second = loop.create_task(task("d"))
        loop.call_soon(log.append, "e")
        await asyncio.wait([first, second])

    loop.run_until_complete(main())
    assert log == ["a", "b", "c", "d", "e", "b'", "d'"]


def test_stop_before_run_runs_one_pass_and_is_used_up(loop):
    log = []
    loop.call_soon(log.append, 1)
    loop.call_soon(lambda: loop.call_soon(log.append, 2))
    loop.stop()
    loop.stop()
    loop.run_forever()
    assert log == [1]
    loop.call_later(0.005, log.append, 3)
    run_for(loop)
    assert log == [1, 2, 3]


def test_running_again_goes_on_where_it_was_left(loop):
    log = []

    async def worker():
        for n in range(4):
            log.append(n)
            await asyncio.sleep(0)

    task = loop.create_task(worker())
    one_pass(loop)
    one_pass(loop)
    assert log == [0, 1]
    loop.run_until_complete(task)
    assert log == [0, 1, 2, 3]


def test_a_timer_cancels_another_that_is_due_with_it(loop):
    log = []
    base = loop.time()
    loop.call_at(base, lambda: second.cancel())
    second = loop.call_at(base + 0.0001, log.append, "second")
    third = loop.call_at(base + 0.0002, log.append, "third")
    time.sleep(0.005)
    run_for(loop)
    assert log == ["third"]
    third.cancel()  # it has run: nothing happens


def test_a_callback_that_cancels_itself_keeps_its_arguments_meanwhile(loop):
    log = []

    def callback(*args):
        handle.cancel()
        collect()
        log.append(args)

    handle = loop.call_soon(callback, Thing, "x")
    one_pass(loop)
    assert log == [(Thing, "x")]


def test_a_handle_queued_twice_runs_twice_and_the_rest_is_not_lost(loop):
    log = []
    handle = loop.call_soon(log.append, "twice")
    loop.call_soon(log.append, "between")
    if isinstance(loop, pyasync_c.EventLoop):
        loop._add_callback(handle)
    else:
        loop._ready.append(handle)
    loop.call_soon(log.append, "last")
    one_pass(loop)
    assert log == ["twice", "between", "twice", "last"]


# ── interruption ─────────────────────────────────────────────────────────────────────────────


@either_exit
def test_exits_in_a_callback_leave_run_forever_and_the_rest_queued(loop, reports, error):
    def callback():
        raise error("out")

    log = []
    loop.call_soon(callback)
    loop.call_soon(log.append, "after")
    with pytest.raises(error, match="out"):
        loop.run_forever()
    assert not loop.is_running()
    one_pass(loop)
    assert log == ["after"]
    assert reports == []


@either_exit
def test_exits_in_a_reader_leave_run_forever(loop, pair, error):
    one, two = pair

    def callback():
        raise error("out")

    loop.add_reader(one, callback)
    two.send(b"x")
    with pytest.raises(error, match="out"):
        loop.run_forever()
    assert loop.remove_reader(one)


@either_exit
def test_exits_in_the_exception_handler_leave_run_forever(loop, error):
    def handler(_, context):
        raise error("handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(error, match="handler"):
        loop.run_forever()


@every_run
def test_interrupting_main_cancels_it(run):
    ends = []

    async def main():
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert ends == ["cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_pending_task_that_is_destroyed_is_reported(loop, reports):
    async def forever():
        await loop.create_future()

    async def main():
        loop.create_task(forever(), name="lonely")
        await turns()

    loop.run_until_complete(main())
    loop.close()
    collect()
    (context,) = reports
    assert context.keys() == {"message", "task"}
    assert context["message"] == "Task was destroyed but it is pending!"
    assert context["task"].get_name() == "lonely"


# ── async generators ─────────────────────────────────────────────────────────────────────────


@every_run
@pytest.mark.parametrize("dropped", [False, True])
def test_async_generators_left_open_are_closed(run, dropped):
    ends = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ends.append("closed")

    async def main():
        generator = numbers()
        assert await anext(generator) == 1
        if dropped:
            del generator
            collect()
            await turns()
            assert ends == ["closed"]
            return None
        return generator

    kept = run(main())
    assert ends == ["closed"]
    del kept


# ── threads ──────────────────────────────────────────────────────────────────────────────────


def test_all_tasks_are_those_of_one_loop(our_loop):
    async def count():
        return len(asyncio.all_tasks())

    async def main():
        task = asyncio.create_task(asyncio.sleep(LONG))
        in_thread = await asyncio.to_thread(asyncio.run, count())
        task.cancel()
        return in_thread, len(asyncio.all_tasks())

    assert our_loop.run_until_complete(main()) == (1, 2)
    our_loop.run_until_complete(our_loop.shutdown_default_executor())


def test_run_coroutine_threadsafe(loop):
    async def value(x):
        await asyncio.sleep(0.001)
        return 10 / x

    def outside():
        results = [asyncio.run_coroutine_threadsafe(value(x), loop) for x in (2, 0)]
        assert results[0].result(LONG) == 5
        assert isinstance(results[1].exception(LONG), ZeroDivisionError)
        forever = asyncio.run_coroutine_threadsafe(asyncio.sleep(LONG), loop)
        assert forever.cancel()

    async def main():
        await asyncio.to_thread(outside)
        await turns()
        return len(asyncio.all_tasks())

    assert loop.run_until_complete(main()) == 1
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_loop_that_runs_in_one_thread_is_not_run_by_another(our_loop):
    def refused():
        for call in our_loop.run_forever, our_loop.close:
            with pytest.raises(RuntimeError, match="running"):
                call()

    async def main():
        await asyncio.to_thread(refused)
        return await asyncio.sleep(0.001, "unharmed")

    assert our_loop.run_until_complete(main()) == "unharmed"
    our_loop.run_until_complete(our_loop.shutdown_default_executor())


def test_one_loop_in_turn_on_two_threads(new_loop):
    async def main():
        await pyasync_c.sleep(0.001)
        await asyncio.sleep(0.001)
        return threading.get_ident()

    with contextlib.closing(new_loop()) as loop:
        here = loop.run_until_complete(main())
        there = Worker(loop.run_until_complete, main()).result()
    assert here == threading.get_ident() != there


def test_two_loops_in_two_threads_call_each_other(new_loop):
    loops = [new_loop(), new_loop()]
    ready = threading.Barrier(2)
    queues = {loop: asyncio.Queue() for loop in loops}

    def play(mine, other):
        async def main():
            await asyncio.to_thread(ready.wait, LONG)
            for n in range(100):
                other.call_soon_threadsafe(queues[other].put_nowait, n)
                assert await queues[mine].get() == n
            await asyncio.to_thread(ready.wait, LONG)
            await mine.shutdown_default_executor()

        with contextlib.closing(mine):
            mine.run_until_complete(main())

    for worker in [Worker(play, *pair) for pair in (loops, loops[::-1])]:
        worker.result()


def test_run_in_executor(loop):
    def my_name():
        return threading.current_thread().name

    async def main():
        assert await loop.run_in_executor(None, max, 1, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.001) for _ in range(20)))
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as pool:
            assert (await loop.run_in_executor(pool, my_name)).startswith("mine")
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            await loop.run_in_executor(None, print)

    loop.run_until_complete(main())
    with pytest.raises(TypeError):
        loop.set_default_executor(5)


# ── garbage and destructors ──────────────────────────────────────────────────────────────────


def test_closing_lets_go_of_handles_timers_and_readers(new_loop, pair):
    loop = new_loop()
    things = [Thing() for _ in range(4)]
    dead = [weakref.ref(t) for t in things]
    loop.call_soon(print, things[0])
    loop.call_soon_threadsafe(print, things[1])
    loop.call_later(LONG, print, things[2])
    loop.add_reader(pair[0], print, things[3])
    del things
    collect()
    assert None not in [d() for d in dead]
    loop.close()
    del loop
    collect()
    assert [d() for d in dead] == [None] * 4


def test_closing_lets_go_of_tasks(new_loop):
    loop = new_loop()
    loop.set_exception_handler(lambda _, context: None)
    ends = []

    async def waits(thing, leaf):
        try:
            await leaf()
        finally:
            ends.append(leaf)

    leaves = [
        loop.create_future,
        lambda: asyncio.sleep(LONG),
        lambda: pyasync_c.sleep(LONG),
        lambda: pyasync_c.Notify().notified(),
    ]
    things = [Thing() for _ in leaves]
    dead = [weakref.ref(t) for t in things]
    tasks = [loop.create_task(waits(*pair)) for pair in zip(things, leaves, strict=True)]
    for _ in range(3):
        one_pass(loop)
    loop.close()
    tasks.clear()
    things.clear()
    gone = weakref.ref(loop)
    del loop
    collect()
    assert [d() for d in dead] == [None] * len(leaves)
    assert sorted(map(leaves.index, ends)) == [0, 1, 2, 3]
    leaves.clear()
    ends.clear()
    collect()
    assert gone() is None


def test_an_unclosed_loop_warns_and_leaves_no_descriptor(new_loop):
    new_loop().close()
    collect()
    before = open_fds()
    loop = new_loop()
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        collect()
    assert gone() is None
    assert open_fds() == before


def test_an_unreachable_loop_with_pending_things_is_collected(new_loop):
    loop = new_loop()
    thing = Thing()
    reports = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def waits(leaf, kept):
        await leaf
        return kept

    for leaf in loop.create_future(), asyncio.sleep(LONG), pyasync_c.sleep(LONG):
        loop.create_task(waits(leaf, thing))
    one_pass(loop)
    loop.call_soon(print, loop, thing)
    loop.call_later(LONG, print, loop, thing)
    gone, dead = weakref.ref(loop), weakref.ref(thing)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop, thing, leaf
        collect()
    assert gone() is None
    assert dead() is None
    assert reports == ["Task was destroyed but it is pending!"] * 3


def test_an_unreachable_loop_with_a_borrowed_handle_is_collected(new_loop):
    """What the standard library queues by _add_callback: a Handle of asyncio's own class."""
    loop = new_loop()
    thing = Thing()
    loop._add_callback(asyncio.Handle(print, (loop, thing), loop))
    gone, dead = weakref.ref(loop), weakref.ref(thing)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop, thing
        collect()
    assert gone() is None
    assert dead() is None


def test_a_destructor_that_calls_the_loop_while_it_closes(new_loop):
    loop = new_loop()
    seen = []

    class Nosy:
        def __del__(self):
            for call, *args in (loop.call_soon,), (loop.call_later, 0), (loop.call_later, LONG):
                try:
                    call(*args, print)
                except RuntimeError as error:
                    seen.append(str(error))

    loop.call_soon(print, Nosy())
    loop.call_soon_threadsafe(print, Nosy())
    loop.call_later(LONG, print, Nosy())
    loop.close()
    collect()
    assert seen == ["Event loop is closed"] * 9


def test_many_timers_made_and_cancelled_leave_nothing(our_loop):
    handles = [our_loop.call_later(LONG + n / 7, print) for n in range(5000)]
    for handle in handles[::2] + handles[1::2]:
        handle.cancel()
    dead = weakref.ref(handles[17])
    del handle, handles
    collect()
    assert dead() is None
    one_pass(our_loop)


# ── descriptors ──────────────────────────────────────────────────────────────────────────────


def test_a_reader_takes_the_place_of_the_one_before(loop, pair):
    one, two = pair
    log = []
    loop.add_reader(one, log.append, "first")
    loop.add_reader(one, lambda: log.append(one.recv(10)))
    two.send(b"x")
    run_for(loop)
    assert log == [b"x"]


@pytest.mark.parametrize("by", ["object", "number"])
def test_readers_and_writers_come_and_go_by(loop, pair, by):
    one, two = pair
    log = []
    thing = one if by == "object" else one.fileno()

    def writable():
        log.append("writable")
        assert loop.remove_writer(thing) is True

    loop.add_reader(thing, lambda: log.append(one.recv(10)))
    loop.add_writer(thing, writable)
    two.send(b"x")
    run_for(loop)
    assert sorted(log, key=str) == [b"x", "writable"]
    assert loop.remove_reader(thing) is True
    assert loop.remove_reader(thing) is False
    assert loop.remove_writer(thing) is False
    two.send(b"y")
    run_for(loop)
    assert len(log) == 2


def test_readiness_is_reported_until_it_is_used(loop, pair):
    one, two = pair
    log = []

    def readable():
        log.append(one.recv(1))
        if len(log) == 3:
            loop.stop()

    loop.add_reader(one, readable)
    two.send(b"abc")
    loop.run_forever()
    assert log == [b"a", b"b", b"c"]


def test_a_reader_is_called_once_for_each_readiness_in_a_busy_loop(loop, pair):
    """One that is queued is not queued again, however often readiness is looked at meanwhile."""
    one, two = pair
    log = []

    def readable():
        try:
            log.append(one.recv(100))
        except BlockingIOError:
            log.append("called for nothing")

    async def yielder():
        while len(log) < 20:
            await asyncio.sleep(0)

    async def sender():
        for n in range(20):
            two.send(b"x")
            while len(log) <= n:
                await asyncio.sleep(0)

    async def main():
        await asyncio.gather(sender(), *(yielder() for _ in range(300)))

    loop.add_reader(one, readable)
    loop.run_until_complete(main())
    assert log == [b"x"] * 20


def test_a_reader_removed_while_it_is_queued_is_not_called(loop, pair):
    one, two = pair
    log = []

    def readable(mine, other):
        log.append(mine)
        assert loop.remove_reader(mine)
        assert loop.remove_reader(other)

    loop.add_reader(one, readable, one, two)
    loop.add_reader(two, readable, two, one)
    one.send(b"x")
    two.send(b"x")
    run_for(loop)
    assert len(log) == 1


@pytest.mark.parametrize("name", ["_process_events", "_add_callback"])
@pytest.mark.parametrize("where", ["class", "instance"])
def test_what_is_overridden_of_the_way_of_an_event_is_called(pair, name, where):
    one, two = pair
    seen = []

    def override(self, what):
        seen.append(what)
        return getattr(pyasync_c.EventLoop, name)(self, what)

    members = {name: override} if where == "class" else {}
    loop = type("Loop", (pyasync_c.EventLoop,), members)()
    with contextlib.closing(loop):
        if where == "instance":
            setattr(loop, name, lambda what: override(loop, what))
        loop.add_reader(one, lambda: (one.recv(1), loop.stop()))
        two.send(b"x")
        loop.run_forever()
        assert len(seen) == 1
        assert loop.remove_reader(one)


def test_a_cancelled_handle_takes_its_reader_away(loop, pair):
    one, two = pair
    handle = loop._add_reader(one, print, "not to be called")
    handle.cancel()
    two.send(b"x")
    run_for(loop, 0.01)
    assert loop.remove_reader(one) is False


def test_a_handle_of_another_class_runs_itself(loop, pair):
    one, two = pair
    ran = []

    class Traced(asyncio.Handle):
        def _run(self):
            ran.append(self)
            super()._run()

    loop._selector.register(one, selectors.EVENT_READ, (Traced(loop.stop, (), loop), None))
    two.send(b"x")
    loop.run_forever()
    assert len(ran) == 1
    loop._selector.unregister(one)


def test_a_reader_replaced_while_it_is_queued_leaves_the_new_one_working(loop, pair):
    one, two = pair
    log = []

    def replace():
        loop.remove_writer(two)
        loop.add_reader(one, lambda: log.append(one.recv(10)))

    loop.add_writer(two, replace)
    loop.add_reader(one, lambda: None)
    two.send(b"x")
    run_for(loop)
    assert log == [b"x"]


def test_what_cannot_be_watched(loop, tmp_path):
    def refused(error, thing):
        with pytest.raises(error) as caught:
            loop.add_reader(thing, print)
        with pytest.raises(error):
            loop.add_writer(thing, print)
        return caught.value

    for bad in -1, object(), "0":
        refused(ValueError, bad)
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    refused(ValueError, closed)
    assert refused(OSError, number).errno == errno.EBADF
    with open(tmp_path / "file", "w") as file:
        refused(PermissionError, file)
    one_pass(loop)


def test_a_socket_closed_before_its_reader_is_removed(loop, pair):
    one, _ = pair
    loop.add_reader(one, print)
    one.close()
    assert loop.remove_reader(one) is True
    one_pass(loop)


def test_a_watched_file_object_is_kept_alive(loop):
    one, two = socket.socketpair()
    log = []
    loop.add_reader(one, lambda: (log.append("read"), loop.stop()))
    number = one.fileno()
    del one
    collect()
    two.send(b"x")
    loop.run_forever()
    assert log == ["read"]
    with two, loop._selector.get_key(number).fileobj:
        loop.remove_reader(number)


def test_the_selector_is_a_selector(loop, pair):
    selector = loop._selector
    one, two = pair
    assert isinstance(selector, selectors.BaseSelector)
    loop.add_reader(one, print)
    keys = selector.get_map()
    assert selector.get_key(one) is keys[one] is keys[one.fileno()] is keys.get(one)
    assert one in keys
    assert one.fileno() in list(keys)
    size = len(keys)
    loop.remove_reader(one)
    assert len(selector.get_map()) == size - 1
    assert selector.get_map().get(one) is None
    for missing in one, two:
        with pytest.raises(KeyError):
            selector.get_key(missing)


def test_waiting_by_hand_on_our_selector_is_refused(our_loop):
    with pytest.raises(RuntimeError, match="waits for descriptors itself"):
        our_loop._selector.select(0)


def test_many_descriptors_at_once(our_loop):
    with contextlib.ExitStack() as stack:
        pairs = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(100)]
        seen = set()

        def readable(n):
            pairs[n][0].recv(1)
            seen.add(n)
            if len(seen) == len(pairs):
                our_loop.stop()

        for n, (one, two) in enumerate(pairs):
            our_loop.add_reader(one, readable, n)
            two.send(b"x")
        our_loop.run_forever()
        for one, _ in pairs:
            assert our_loop.remove_reader(one)


def test_cancelling_a_sock_recv_takes_its_reader_away(loop, pair):
    one, two = pair

    async def main():
        receiving = loop.create_task(loop.sock_recv(one, 100))
        await turns()
        receiving.cancel()
        await asyncio.wait([receiving])
        await turns()
        assert loop.remove_reader(one.fileno()) is False
        two.send(b"next")
        return await loop.sock_recv(one, 100)

    assert loop.run_until_complete(main()) == b"next"


# ── streams and processes ────────────────────────────────────────────────────────────────────


@every_run
def test_a_megabyte_each_way_over_a_socketpair(run):
    async def side(sock, data):
        reader, writer = await asyncio.open_connection(sock=sock)

        async def send():
            for at in range(0, len(data), 10000):
                writer.write(data[at : at + 10000])
                await writer.drain()
            writer.write_eof()

        _, got = await asyncio.gather(send(), reader.read())
        writer.close()
        await writer.wait_closed()
        return got

    async def main():
        blobs = os.urandom(1 << 20), os.urandom(1 << 20)
        got = await asyncio.gather(*map(side, socket.socketpair(), blobs))
        return tuple(got) == blobs[::-1]

    assert run(main())


@every_run
def test_a_stream_read_that_times_out_and_goes_on(run):
    async def main():
        one, two = socket.socketpair()
        with two:
            reader, writer = await asyncio.open_connection(sock=one)
            for limit in asyncio.timeout, pyasync_c.timeout:
                with pytest.raises(TimeoutError):
                    async with limit(0.01):
                        await reader.readline()
            two.send(b"line\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

    assert run(main()) == b"line\n"


@every_run
def test_a_connection_that_is_refused(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    run(main())


@every_run
def test_sendfile(run, tmp_path):
    (tmp_path / "file").write_bytes(data := os.urandom(100_000))

    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        two.setblocking(False)
        with two, open(tmp_path / "file", "rb") as file:
            _, writer = await asyncio.open_connection(sock=one)
            sending = asyncio.create_task(loop.sendfile(writer.transport, file))
            got = b""
            while len(got) < len(data):
                got += await loop.sock_recv(two, 1 << 16)
            assert await sending == len(data)
            writer.close()
            await writer.wait_closed()
        return got == data

    assert run(main())


@every_run
def test_killing_a_subprocess(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", str(LONG), stdin=subprocess.DEVNULL)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program")

    run(main())


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_a_signal_wakes_a_parked_loop(loop):
    loop.add_signal_handler(signal.SIGALRM, loop.stop)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    loop.run_forever()
    assert loop.remove_signal_handler(signal.SIGALRM) is True
    assert loop.remove_signal_handler(signal.SIGALRM) is False


def test_a_signal_taken_by_another_thread_wakes_the_loop(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    over = threading.Event()
    thread = Worker(over.wait, LONG)
    loop.call_later(0.01, signal.pthread_kill, thread.ident, signal.SIGUSR1)
    loop.run_forever()
    over.set()
    thread.result()
    loop.remove_signal_handler(signal.SIGUSR1)


@contextlib.contextmanager
def alarm(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_plain_signal_handler_runs_while_the_loop_is_parked(loop):
    log = []

    def handler(number, frame):
        log.append(number)
        loop.call_soon_threadsafe(loop.stop)

    with alarm(handler):
        loop.run_forever()
    assert log == [signal.SIGALRM]


def test_a_plain_signal_handler_that_raises_leaves_run_forever(loop):
    def handler(number, frame):
        raise ZeroDivisionError("from the handler")

    with alarm(handler), pytest.raises(ZeroDivisionError, match="from the handler"):
        loop.run_forever()
    one_pass(loop)


def test_signals_that_cannot_be_handled(loop):
    for bad, error in [(signal.SIGKILL, RuntimeError), (1000, ValueError), ("USR1", TypeError)]:
        with pytest.raises(error):
            loop.add_signal_handler(bad, print)
    with pytest.raises(TypeError):
        loop.add_signal_handler(signal.SIGUSR1, asyncio.sleep)
    with pytest.raises((RuntimeError, ValueError)):
        Worker(loop.add_signal_handler, signal.SIGUSR1, print).result()


# ── debug mode, eager tasks ──────────────────────────────────────────────────────────────────


def test_debug_mode_by_the_environment(new_loop, monkeypatch):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with contextlib.closing(new_loop()) as loop:
        assert loop.get_debug() is True
        loop.set_debug(False)
        assert loop.get_debug() is False


def test_debug_mode_by_argument(monkeypatch):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    for debug in True, False:
        with contextlib.closing(pyasync_c.new_event_loop(debug=debug)) as loop:
            assert loop.get_debug() is debug


@pytest.mark.parametrize("what", ["timer", "reader"])
def test_a_slow_timer_or_reader_is_logged(loop, pair, caplog, what):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.02
    one, two = pair

    def slow_one():
        time.sleep(0.03)
        loop.remove_reader(one)
        loop.stop()

    if what == "timer":
        loop.call_later(0.001, slow_one)
    else:
        loop.add_reader(one, slow_one)
        two.send(b"x")
    loop.run_forever()
    (message,) = [m for m in caplog.messages if "slow_one" in m]
    assert message.startswith("Executing <")
    assert message.endswith(" seconds")


def test_coroutine_origins_are_tracked_in_debug_mode_only(loop):
    depths = []

    async def main():
        depths.append(sys.get_coroutine_origin_tracking_depth())

    for debug in False, True:
        loop.set_debug(debug)
        loop.run_until_complete(main())
        depths.append(sys.get_coroutine_origin_tracking_depth())
    assert depths[0] == depths[1] == depths[3] == 0 < depths[2]


@eager
def test_eager_tasks_wait_for_leaves_of_both_kinds(new_loop):
    log = []

    async def child(name, leaf=None):
        log.append(name)
        if leaf is not None:
            await leaf()
            log.append(name + "'")
        return name

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        me = asyncio.current_task()
        done = asyncio.create_task(child("done"))
        assert done.done()
        waits = [
            asyncio.create_task(child("asyncio", lambda: asyncio.sleep(0.001))),
            asyncio.create_task(child("ours", lambda: pyasync_c.sleep(0.03))),
        ]
        log.append("main")
        assert asyncio.current_task() is me
        assert asyncio.all_tasks() == {me, *waits}
        return await asyncio.gather(done, *waits)

    with contextlib.closing(new_loop()) as loop:
        assert loop.run_until_complete(main()) == ["done", "asyncio", "ours"]
    assert log == ["done", "asyncio", "ours", "main", "asyncio'", "ours'"]


@every_run
@pytest.mark.parametrize("make", ["ours", "asyncio"])
def test_a_task_is_seen_to_wait_until_it_is_polled(run, make):
    """What anyio's cancel scopes go by: a cancel now would lose what the future has brought."""

    async def wait(future):
        return await future

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future() if make == "ours" else asyncio.Future(loop=loop)
        task = asyncio.create_task(wait(future))
        await turns()
        future.set_result("brought")
        assert task._fut_waiter is future
        assert await task == "brought"
        assert task._fut_waiter is None

        future = loop.create_future() if make == "ours" else asyncio.Future(loop=loop)
        task = asyncio.create_task(wait(future))
        await turns()
        future.set_result("lost")
        assert task.cancel() and task._must_cancel
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
