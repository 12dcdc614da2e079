"""asyncio's streams on our transports: the reader whose hot half is C does what asyncio's does.

Random programs are run on a reader of each kind side by side; what is deterministic is tried on our
transports, on the standard library's, and on asyncio's loop.
"""

import asyncio
import contextlib
import functools
import inspect
import random
import socket
import ssl
import subprocess
import tracemalloc
import weakref

import pytest
from helpers import LOOPS, collect, run_on, turns
from hypothesis import given, strategies as st

import pyasync_c


@pytest.fixture(params=LOOPS)
def run(request):
    return functools.partial(run_on, request.param)


@pytest.fixture
def our_run():
    return functools.partial(run_on, pyasync_c.new_event_loop)


def is_ours(reader):
    return type(reader).__module__ == "pyasync_c._core"


@contextlib.asynccontextmanager
async def streams(**options):
    """A reader and its writer, and the other side as a plain non-blocking socket."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours, **options)
    try:
        yield reader, writer, peer
    finally:
        writer.close()
        peer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ── against asyncio's reader, by random programs ─────────────────────────────────────────────


class FakeTransport:
    def __init__(self, refuses):
        self.calls = []
        self.refuses = refuses

    def pause_reading(self):
        if self.refuses:
            raise NotImplementedError
        self.calls.append("pause")

    def resume_reading(self):
        self.calls.append("resume")


chunks = st.binary(max_size=12) | st.sampled_from([b"\n", b"a\n", b"ab", b"aab\n\nab", b"x" * 40])
counts = st.integers(-2, 30)
separators = st.sampled_from([b"\n", b"ab", b"aab", b"", b"\n\n", b"b"])


def steps_with(chunks, counts):
    return st.one_of(
        st.tuples(st.just("feed_data"), chunks),
        st.tuples(st.just("feed_data"), chunks),
        st.tuples(st.just("read"), counts),
        st.tuples(st.just("readexactly"), counts),
        st.tuples(st.just("readuntil"), separators),
        st.tuples(st.just("readline")),
        st.tuples(st.just("cancel")),
        st.tuples(st.just("feed_eof")),
        st.tuples(st.just("set_exception"), st.just(ConnectionError("broken"))),
        st.tuples(st.just("at_eof")),
        st.tuples(st.just("exception")),
    )


steps = steps_with(chunks, counts)
# Those of LARGE bytes and more are kept as they are, as long as nothing else is there.
LARGE = 16 * 1024
large_chunks = st.sampled_from(
    [b"ab", b"u" * (LARGE - 1), b"v" * LARGE, b"w" * 9_000 + b"ab\n" + b"x" * 9_000, b"y" * 40_000]
)
large_counts = st.sampled_from([-1, 1, LARGE - 1, LARGE, LARGE + 1, 18_003, 40_000, 100_000])
large_steps = steps_with(large_chunks, large_counts)


async def outcome(method, arguments):
    try:
        return await method(*arguments)
    except asyncio.CancelledError:
        return "cancelled"
    except asyncio.IncompleteReadError as error:
        return ("incomplete", error.partial, error.expected, str(error))
    except asyncio.LimitOverrunError as error:
        return ("overrun", error.consumed, str(error))
    except Exception as error:
        return (type(error), str(error))


class Player:
    """One reader on which a program is played; what can be seen of it after each step."""

    def __init__(self, ours, limit, refuses):
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=limit, loop=loop)
        self.protocol = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        self.transport = FakeTransport(refuses)
        self.reader.set_transport(self.transport)
        self.tasks = []
        self.results = []
        if ours:
            assert loop._adopt_stream(self.protocol)
            assert is_ours(self.reader)

    async def play(self, name, *arguments):
        if name == "cancel":
            if self.tasks:
                self.tasks[-1].cancel()
        elif name.startswith("read"):
            task = asyncio.ensure_future(outcome(getattr(self.reader, name), arguments))
            self.tasks.append(task)
        else:
            try:
                self.results.append(getattr(self.reader, name)(*arguments))
            except AssertionError as error:
                self.results.append(str(error))

    @staticmethod
    def state_of(task):
        if task.cancelled():
            return "cancelled"  # before it began
        return task.result() if task.done() else "pending"

    def seen(self):
        reader = self.reader
        return {
            "buffer": bytes(reader._buffer),
            "repr": repr(reader).partition(" waiter=")[0].partition(" transport=")[0],
            **self.seen_from_outside(),
        }

    def seen_from_outside(self):
        """The same without asking for the buffer, which is what makes a bytearray of it."""
        reader = self.reader
        return {
            "results": self.results,
            "tasks": [self.state_of(task) for task in self.tasks],
            "calls": self.transport.calls,
            "eof": reader._eof,
            "waiter": reader._waiter is not None,
            "paused": reader._paused,
            "transport": reader._transport is not None,
            "bytes": bytes(vars(reader)["_buffer"]),
        }


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3]), steps), max_size=20),
    st.sampled_from([1, 5, 10, 64]),
    st.booleans(),
)
def test_random_programs(program, limit, refuses):
    async def main():
        both = [Player(ours, limit, refuses) for ours in (False, True)]
        for pause, step in program:
            for player in both:
                await player.play(*step)
            for _ in range(pause):
                await asyncio.sleep(0)
            if pause:
                assert both[0].seen() == both[1].seen()
        await turns(4)
        assert both[0].seen() == both[1].seen()
        for player in both:
            for task in player.tasks:
                task.cancel()
        await turns(2)
        assert both[0].seen() == both[1].seen()

    pyasync_c.run(main())


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 3]), large_steps), max_size=20),
    st.sampled_from([10, 9_000, 20_000, 65_536]),
    st.booleans(),
)
def test_random_programs_of_large_pieces(program, limit, looks):
    async def main():
        both = [Player(ours, limit, refuses=False) for ours in (False, True)]
        for pause, step in program:
            for player in both:
                await player.play(*step)
            for _ in range(pause):
                await asyncio.sleep(0)
            if pause:
                assert both[0].seen_from_outside() == both[1].seen_from_outside()
            if pause and looks:
                assert both[0].seen() == both[1].seen()
        await turns(4)
        for player in both:
            for task in player.tasks:
                task.cancel()
        await turns(2)
        assert both[0].seen_from_outside() == both[1].seen_from_outside()
        assert both[0].seen() == both[1].seen()

    pyasync_c.run(main())


@pytest.mark.parametrize("seed", range(8))
def test_random_splits(run, seed):
    """Bytes that come in pieces of any size are read whole and in order, in any way of reading."""
    chance = random.Random(seed)
    sent = bytes(chance.choices(b"ab\n\0", k=200_000))

    async def write(peer):
        loop = asyncio.get_running_loop()
        at = 0
        while at < len(sent):
            size = chance.choice([1, 7, 100, 5000, 70_000])
            await loop.sock_sendall(peer, sent[at : at + size])
            at += size
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        peer.shutdown(socket.SHUT_WR)

    async def read(reader):
        got = []
        while not reader.at_eof():
            try:
                match chance.randrange(4):
                    case 0:
                        got.append(await reader.read(chance.choice([1, 10, 100_000])))
                    case 1:
                        got.append(await reader.readexactly(chance.choice([0, 1, 1000, 80_000])))
                    case 2:
                        got.append(await reader.readline())
                    case 3:
                        got.append(await reader.readuntil(b"ab"))
            except asyncio.IncompleteReadError as error:
                got.append(error.partial)
        return b"".join(got)

    async def main():
        async with streams() as (reader, _, peer):
            writing = asyncio.ensure_future(write(peer))
            assert await read(reader) == sent
            await writing

    run(main)


def test_a_separator_in_pieces(run):
    async def main():
        async with streams() as (reader, _, peer):
            whole = b"one<->two"
            for at in range(1, len(whole)):
                reading = asyncio.ensure_future(reader.readuntil(b"<->"))
                peer.send(whole[:at])
                while len(reader._buffer) < at and not reading.done():
                    await asyncio.sleep(0)
                peer.send(whole[at:])
                assert await reading == b"one<->"
                assert await reader.readexactly(3) == b"two"

    run(main)


# ── which reader it is ───────────────────────────────────────────────────────────────────────


def test_readers_of_our_transports_are_ours(our_run):
    async def main():
        async with streams() as (reader, _, _):
            assert is_ours(reader)
            assert isinstance(reader, asyncio.StreamReader)
            assert type(reader).__name__ == "StreamReader"
            assert repr(reader).startswith("<StreamReader transport=")

    our_run(main)


def test_a_subclass_keeps_its_methods(run):
    called = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            called.append("feed_data")
            super().feed_data(data)

        async def read(self, n=-1):
            called.append("read")
            return await super().read(n)

    async def main():
        loop = asyncio.get_running_loop()
        reader = Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        ours, peer = socket.socketpair()
        with peer:
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
            assert type(reader) is Reader
            peer.send(b"x")
            assert await reader.read(5) == b"x"
            transport.close()
            await protocol._get_close_waiter(None)
        assert called == ["read", "feed_data"]

    run(main)


def test_a_protocols_subclass_keeps_its_methods(run):
    called = []

    class Protocol(asyncio.StreamReaderProtocol):
        def data_received(self, data):
            called.append(data)
            super().data_received(data.upper())

    async def main():
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = Protocol(reader, loop=loop)
        ours, peer = socket.socketpair()
        with peer:
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
            peer.send(b"x")
            assert await reader.read(5) == b"X"
            transport.close()
            await protocol._get_close_waiter(None)
        assert called == [b"x"]

    run(main)


@pytest.mark.parametrize("owner", ["class", "instance"])
@pytest.mark.parametrize("name", ["feed_data", "read", "readline", "exception"])
def test_a_method_that_somebody_has_replaced_is_called(run, monkeypatch, owner, name):
    called = []
    original = getattr(asyncio.StreamReader, name)

    async def main():
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        if owner == "class":

            def replaced(self, *args):
                called.append(name)
                return original(self, *args)

            monkeypatch.setattr(asyncio.StreamReader, name, replaced)
        else:

            def replaced(*args):
                called.append(name)
                return original(reader, *args)

            reader.__dict__[name] = replaced
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        ours, peer = socket.socketpair()
        with peer:
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
            peer.send(b"x\n")
            assert await (reader.readline() if name == "readline" else reader.read(2)) == b"x\n"
            reader.exception()
            transport.close()
            await protocol._get_close_waiter(None)
        assert name in called

    run(main)


# ── the awaitables ───────────────────────────────────────────────────────────────────────────


def test_a_read_may_be_a_task(run):
    async def main():
        async with streams() as (reader, _, peer):
            task = asyncio.create_task(reader.readline())
            await asyncio.sleep(0)
            assert "StreamRead" in repr(task) or "readline" in repr(task)
            peer.send(b"line\n")
            assert await task == b"line\n"
            assert await asyncio.wait_for(asyncio.shield(echo(reader, peer)), 5) == b"x"
            assert asyncio.iscoroutine(reading := reader.read(1))
            reading.close()
            assert inspect.isawaitable(reading)

    async def echo(reader, peer):
        peer.send(b"x")
        return await reader.read(1)

    run(main)


def test_cancelling_a_read_loses_nothing(run):
    async def main():
        async with streams() as (reader, _, peer):
            for name, arguments in [("read", (5,)), ("readexactly", (5,)), ("readline", ())]:
                task = asyncio.ensure_future(getattr(reader, name)(*arguments))
                await asyncio.sleep(0)
                assert reader._waiter is not None
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert reader._waiter is None
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(getattr(reader, name)(*arguments), 0.001)
                peer.send(b"abc\n")
                assert await reader.readline() == b"abc\n"

    run(main)


def test_only_one_may_wait(run):
    async def main():
        async with streams() as (reader, _, peer):
            first = asyncio.ensure_future(reader.readexactly(2))
            await asyncio.sleep(0)
            for read, name in [
                (reader.read(1), "read"),
                (reader.readline(), "readuntil"),
                (reader.readexactly(1), "readexactly"),
            ]:
                with pytest.raises(RuntimeError, match=rf"^{name}\(\) called while another"):
                    await read
            peer.send(b"ab")
            assert await first == b"ab"

    run(main)


def test_awaiting_twice(run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.send(b"ab")
            read = reader.read(1)
            assert await read == b"a"
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await read
            closed = reader.read(1)
            closed.close()
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await closed
            assert await reader.read(1) == b"b"

    run(main)


def test_a_read_that_is_dropped_waits_no_more(our_run):
    async def main():
        async with streams() as (reader, _, peer):
            read = reader.read(5)
            future = read.send(None)
            assert reader._waiter is future
            del read
            collect()
            assert reader._waiter is None
            peer.send(b"x")
            assert await reader.read(5) == b"x"

    our_run(main)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda r: r.readexactly(-1), ValueError),
        (lambda r: r.readuntil(b""), ValueError),
        (lambda r: r.readexactly(), TypeError),
        (lambda r: r.readexactly("3"), TypeError),
        (lambda r: r.read(1, 2), TypeError),
        (lambda r: r.read(size=1), TypeError),
        (lambda r: r.readline(1), TypeError),
        (lambda r: r.readuntil(5), TypeError),
    ],
)
def test_bad_arguments(run, call, error):
    async def main():
        async with streams() as (reader, _, peer):
            peer.send(b"x")
            with pytest.raises(error):
                await call(reader)
            assert await reader.read(n=3) == b"x"

    run(main)


def test_keywords_and_rare_arguments(run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.send(b"one|two;three\nfour" * 2)
            peer.shutdown(socket.SHUT_WR)
            assert await reader.readexactly(n=3) == b"one"
            assert await reader.readuntil(separator=b"|") == b"|"
            assert await reader.readuntil(bytearray(b";")) == b"two;"
            assert await reader.readuntil() == b"three\n"
            assert await reader.read(n=0) == b""
            assert await reader.readexactly(0) == b""
            assert [line async for line in reader] == [b"fourone|two;three\n", b"four"]
            assert await reader.read() == b""
            assert reader.at_eof()

    run(main)


# ── large messages ───────────────────────────────────────────────────────────────────────────


def message(size, seed):
    return (bytes((seed * 31 + i) % 251 for i in range(251)) * (size // 251 + 1))[:size]


async def exchange(peer, data, read):
    """What `read` brings while `data` is sent."""
    reading = asyncio.ensure_future(read)
    await asyncio.get_running_loop().sock_sendall(peer, data)
    return await reading


def test_large_messages_in_any_way_of_reading(run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            kept = []
            for i in range(12):
                data = message(100_000, i)
                ways = [[100_000], [1, 99_999], [99_999, 1], [60_000, 40_000]]
                for size in ways[i % 4]:
                    kept.append(await exchange(peer, data, reader.readexactly(size)))
                    data = b""
            assert b"".join(kept) == b"".join(message(100_000, i) for i in range(12))
            for size in (100_000, 200_000, 20_000):
                data, got = message(size, size), b""
                while len(got) < size:
                    got += await exchange(peer, b"" if got else data, reader.read(1 << 20))
                assert got == data
            lines = message(50_000, 1).replace(b"\n", b"") + b"\n"
            assert await exchange(peer, lines + b"rest", reader.readline()) == lines
            assert await reader.readexactly(4) == b"rest"
            await asyncio.get_running_loop().sock_sendall(peer, message(100_000, 5))
            peer.shutdown(socket.SHUT_WR)
            assert not reader.at_eof()
            assert await reader.read() == message(100_000, 5)
            assert reader.at_eof()

    run(main)


def test_who_looks_at_the_buffer_finds_a_bytearray(run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            held = reader._buffer
            for i in range(4):
                data = message(100_000, i)
                await asyncio.get_running_loop().sock_sendall(peer, data)
                while len(reader._buffer) < 100_000:
                    await asyncio.sleep(0.001)
                assert type(reader._buffer) is bytearray
                assert reader._buffer == data
                assert held == data and held is reader._buffer
                if i == 2:
                    del held[:50_000]
                assert await reader.read(1 << 20) == (data[50_000:] if i == 2 else data)
            del held
            for i in range(3):
                await asyncio.get_running_loop().sock_sendall(peer, message(100_000, i))
                while len(vars(reader)["_buffer"]) < 100_000:
                    await asyncio.sleep(0.001)
                assert type(reader._buffer) is bytearray
                assert reader._buffer == message(100_000, i)
                assert await reader.read(1 << 20) == message(100_000, i)
            reader._buffer = bytearray(b"of somebody else")
            assert await reader.read(100) == b"of somebody else"
            del reader._buffer
            with pytest.raises(AttributeError):
                reader._buffer  # noqa: B018
            reader._buffer = bytearray()

    run(main)


def test_a_cancelled_read_leaves_a_large_message(run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for i in range(4):
                data = message(100_000, i)
                reading = asyncio.ensure_future(reader.readexactly(100_000))
                await asyncio.sleep(0)
                waiter = reader._waiter
                await asyncio.get_running_loop().sock_sendall(peer, data)
                while not waiter.done():
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                if reading.cancelled():
                    assert await reader.readexactly(100_000) == data
                else:
                    assert reading.result() == data

    run(main)


def test_a_large_message_is_not_copied(our_run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            data = message(100_000, 1)
            await exchange(peer, data, reader.readexactly(100_000))
            tracemalloc.start()
            try:
                for read in (reader.readexactly(100_000), reader.read(1 << 20)):
                    peer.send(data)
                    tracemalloc.reset_peak()
                    before, _ = tracemalloc.get_traced_memory()
                    got = await read
                    assert tracemalloc.get_traced_memory()[1] - before < 125_000
                    assert got == data
                    del got
            finally:
                tracemalloc.stop()

    our_run(main)


def test_large_messages_leave_nothing(our_run):
    async def main():
        async with streams() as (reader, _, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for _ in range(2):
                await exchange(peer, bytes(100_000), reader.readexactly(100_000))
            tracemalloc.start()
            try:
                for size in (100_000, 20_000, 10) * 20:
                    await exchange(peer, bytes(size), reader.readexactly(size))
                assert tracemalloc.get_traced_memory()[0] < 200_000
            finally:
                tracemalloc.stop()

    our_run(main)


def test_who_takes_a_large_message_goes_on_receiving(run):
    async def main():
        async with streams(limit=20_000) as (reader, writer, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for i in range(4):
                await asyncio.get_running_loop().sock_sendall(peer, message(100_000, i))
                while not reader._paused:
                    await asyncio.sleep(0.001)
                got = await reader.read(1 << 20)
                assert not reader._paused and writer.transport.is_reading()
                while len(got) < 100_000:
                    got += await reader.read(1 << 20)
                assert got == message(100_000, i)

    run(main)


def test_no_memory_for_a_large_message(our_run):
    """The allocations of reading one fail in turn: it is still there."""
    testcapi = pytest.importorskip("_testcapi")

    async def read(reader, size, n):
        """None: it has failed. Python raises SystemError where it has no room for a traceback."""
        got = None
        testcapi.set_nomemory(n - 1, n)
        try:
            got = await reader.read(size)
        except BaseException as error:
            testcapi.remove_mem_hooks()
            assert isinstance(error, (MemoryError, SystemError))
        testcapi.remove_mem_hooks()
        return got

    async def main():
        loop = asyncio.get_running_loop()
        data = message(100_000, 1)
        failures = 0
        for n in range(1, 16):
            for size in (100_000, 99_999, 1 << 20):
                reader = asyncio.StreamReader(loop=loop)
                protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
                assert loop._adopt_stream(protocol)
                reader.feed_data(data)
                assert vars(reader)["_buffer"] is data
                got = await read(reader, size, n)
                failures += got is None
                if got is None:
                    assert bytes(vars(reader)["_buffer"]) == data, f"{n} {size}"
                    got = await reader.read(size)
                assert got + vars(reader)["_buffer"] == data
        assert 3 < failures < 30

    our_run(main)


# ── flow control, ends, memory ───────────────────────────────────────────────────────────────


def test_a_reader_that_does_not_read_pauses_its_transport(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with streams(limit=1000) as (reader, writer, peer):
            sending = asyncio.ensure_future(loop.sock_sendall(peer, bytes(10_000_000)))
            while not reader._paused:
                await asyncio.sleep(0.001)
            assert not writer.transport.is_reading()
            assert len(reader._buffer) <= 256 * 1024 + 2000
            got = 0
            while got < 10_000_000:
                got += len(await reader.read(100_000))
            await sending
            assert writer.transport.is_reading()

    run(main)


def test_the_reader_is_told_of_an_error(run):
    async def main():
        async with streams() as (reader, writer, peer):
            reading = asyncio.ensure_future(reader.read(1))
            await asyncio.sleep(0)
            writer.transport._fatal_error(ConnectionResetError("gone"))
            with pytest.raises(ConnectionResetError, match="gone"):
                await reading
            with pytest.raises(ConnectionResetError, match="gone"):
                await reader.readline()
            assert isinstance(reader.exception(), ConnectionResetError)
            with pytest.raises(ConnectionResetError, match="gone"):
                await writer.drain()

    run(main)


def test_a_stream_that_nobody_holds_is_collected(our_run):
    async def main():
        ours, peer = socket.socketpair()
        with peer:
            reader, writer = await asyncio.open_connection(sock=ours)
            ref = weakref.ref(reader)
            peer.send(b"x")
            assert await reader.read(1) == b"x"
            transport = writer.transport
            with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
                del reader, writer
                collect()
            await turns(3)
            assert ref() is None
            assert transport._sock is None

    our_run(main)


def test_compatible_mode_within_a_read(our_run):
    async def main():
        loop = asyncio.get_running_loop()
        async with streams() as (reader, writer, peer):
            reading = asyncio.ensure_future(reader.readexactly(4))
            await asyncio.sleep(0)
            loop.time = loop.time
            assert loop._compatible
            peer.send(b"ab")
            await asyncio.sleep(0.01)
            peer.send(b"cd")
            assert await reading == b"abcd"
            peer.send(b"line\n")
            assert await reader.readline() == b"line\n"

    our_run(main)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key", folder / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


@pytest.mark.parametrize("upgraded", [False, True])
def test_tls(run, contexts, upgraded):
    """From the beginning, or by start_tls on a connection that has sent bytes already."""
    server_context, client_context = contexts

    async def handle(reader, writer):
        if upgraded:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go ahead\n")
            await writer.drain()
            await writer.start_tls(server_context)
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(
            handle, "127.0.0.1", 0, ssl=None if upgraded else server_context
        )
        port = server.sockets[0].getsockname()[1]
        options = {} if upgraded else {"ssl": client_context, "server_hostname": "localhost"}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        if upgraded:
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go ahead\n"
            await writer.start_tls(client_context, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object") is not None
        for size in (1, 1000, 300_000):
            writer.write(bytes(size))
            assert await reader.readexactly(size) == bytes(size)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)
