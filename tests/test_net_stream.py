"""TcpStream and UnixStream: reading, writing, and the ends of a connection, on every loop."""

import asyncio
import contextlib
import errno
import gc
import hashlib
import random
import socket
import threading
import time
import warnings
import weakref

import pytest
from helpers import LONG, awaits, every_loop, turns, unraisable
from net_testing import (
    cancel,
    nothing_left,
    plain_pair,
    send_in_two,
    small_buffers,
    stream_and_socket,
    stream_of,
    take,
    waiting,
    what_the_loops_open_once_a_process,
)

import pyasync_c
from pyasync_c import net

__all__ = ["nothing_left", "what_the_loops_open_once_a_process"]

every_kind = pytest.mark.parametrize("kind", ["tcp", "unix"])


# ── reading ──────────────────────────────────────────────────────────────────────────────────


@every_loop
@every_kind
def test_read_gives_what_is_there(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            peer.send(b"hello")
            assert await stream.read() == b"hello"
            peer.send(b"hello")
            assert await stream.read(2) == b"he"
            assert await stream.read(2) == b"ll"
            assert await stream.read(0) == b""
            assert await stream.read(2) == b"o"
            task = await waiting(stream.read(100))
            peer.send(b"later")
            assert await task == b"later"
            peer.close()
            assert await stream.read() == b""
            assert await stream.read() == b""

    run(main())


@every_loop
def test_read_of_much(run):
    """More than the stack's memory, in pieces that are as large as what is there."""
    data = random.Random(1).randbytes(2_000_000)

    async def main():
        ours, theirs = plain_pair("tcp")
        thread = threading.Thread(target=lambda: (theirs.sendall(data), theirs.close()))
        thread.start()
        async with stream_of(ours) as stream:
            pieces = []
            while piece := await stream.read(1 << 20):
                pieces.append(piece)
            assert b"".join(pieces) == data
            assert max(map(len, pieces)) > 16384
        thread.join()

    run(main())


@every_loop
@every_kind
def test_empty_parts_are_no_write(run, kind):
    """More of them than go in one system call."""

    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            assert await stream.write([b""] * 3000 + [b"hello"]) == 5
            assert await take(peer, 5) == b"hello"
            assert await stream.write([b""] * 3000) == 0
        peer.close()

    run(main())


@every_loop
@every_kind
def test_what_the_kernel_gives_in_two_reads(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            peer.send(b"ab")
            assert await stream.read_exactly(2) == b"ab"
            task = await waiting(stream.read_exactly(6))
            send_in_two(kind, peer)
            assert await asyncio.wait_for(task, LONG) == b"abcdef"
        peer.close()

    run(main())


@every_loop
@every_kind
def test_read_exactly(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            peer.send(b"abcdef")
            assert await stream.read_exactly(2) == b"ab"
            assert await stream.read_exactly(0) == b""
            assert await stream.read_exactly(4) == b"cdef"
            task = await waiting(stream.read_exactly(6))
            peer.send(b"12")
            await asyncio.sleep(0.005)
            peer.send(b"3456789")
            assert await task == b"123456"
            peer.close()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await stream.read_exactly(5)
            assert (caught.value.partial, caught.value.expected) == (b"789", 5)
            assert await stream.read() == b""

    run(main())


@every_loop
@pytest.mark.parametrize("size", [16383, 16384, 16385, 70_000, 3_000_000])
def test_read_exactly_of_much(run, size):
    data = random.Random(size).randbytes(2 * size + 10)

    async def main():
        ours, theirs = plain_pair("tcp")
        thread = threading.Thread(target=lambda: (theirs.sendall(data), theirs.close()))
        thread.start()
        async with stream_of(ours) as stream:
            assert await stream.read_exactly(size) == data[:size]
            assert await stream.read_exactly(10) == data[size : size + 10]
            assert await stream.read_exactly(size) == data[-size:]
            with pytest.raises(asyncio.IncompleteReadError):
                await stream.read_exactly(size)
        thread.join()

    run(main())


@pytest.mark.parametrize("what", ["read_exactly", "readline"])
def test_what_comes_in_small_pieces_is_not_copied_with_each(what):
    """Four times as many bytes take about four times as long, not sixteen."""

    async def spend(size):
        stream, peer = stream_and_socket("unix")
        limit = 1 << 30
        reading = stream.read_exactly(size + 1) if what == "read_exactly" else None
        reading = reading or stream.readline(limit=limit)
        context = pyasync_c.Context(pyasync_c.noop_waker())
        async with stream:
            begin = time.process_time()
            for _ in range(size // 1024):
                peer.send(b"x" * 1023 + b"y")
                assert reading.poll(context) is pyasync_c.PENDING
                await pyasync_c.yield_now()
            spent = time.process_time() - begin
            peer.close()
        return spent

    async def main():
        await spend(1 << 20)
        few = min([await spend(3 << 20) for _ in range(3)])
        many = min([await spend(12 << 20) for _ in range(3)])
        assert many < 9 * few, (many, few)

    pyasync_c.run(main())


@every_loop
def test_lines(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            peer.send(b"one\ntwo\r\n\nfour")
            assert await stream.readline() == b"one\n"
            assert await stream.readline() == b"two\r\n"
            assert await stream.readline() == b"\n"
            task = await waiting(stream.readline())
            peer.send(b"!\nrest")
            assert await task == b"four!\n"
            peer.close()
            assert await stream.readline() == b"rest"
            assert await stream.readline() == b""

    run(main())


@every_loop
def test_iterating_gives_lines(run):
    async def main():
        stream, peer = stream_and_socket()
        peer.send(b"one\ntwo\nrest")
        peer.close()
        async with stream:
            assert [line async for line in stream] == [b"one\n", b"two\n", b"rest"]
            assert [line async for line in stream] == []

    run(main())


@every_loop
def test_read_until(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            peer.send(b"a--b---c")
            assert await stream.read_until(b"--") == b"a--"
            assert await stream.read_until(bytearray(b"--")) == b"b--"
            task = await waiting(stream.read_until(b"=END="))
            for byte in b"=EN=END=tail":  # the separator comes in pieces, and begins twice
                peer.send(bytes([byte]))
                await asyncio.sleep(0.001)
            assert await task == b"-c=EN=END="
            peer.close()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await stream.read_until(b"x")
            assert (caught.value.partial, caught.value.expected) == (b"tail", None)

    run(main())


@every_loop
def test_a_line_over_the_limit_stays(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            peer.send(b"12345\nrest\n")
            with pytest.raises(asyncio.LimitOverrunError):
                await stream.readline(limit=5)
            with pytest.raises(asyncio.LimitOverrunError):
                await stream.read_until(b"\n", limit=1)
            assert await stream.readline(limit=6) == b"12345\n"
            assert await stream.readline() == b"rest\n"
            peer.send(b"x" * 1000)
            with pytest.raises(asyncio.LimitOverrunError) as caught:
                await stream.read_until(b"--", limit=1000)
            assert caught.value.consumed == 999  # the last may be the first of a separator
            peer.send(b"--")
            assert await stream.read_until(b"--", limit=1002) == b"x" * 1000 + b"--"
        peer.close()

    run(main())


@every_loop
def test_a_long_line(run):
    line = b"x" * 300_000 + b"\n"

    async def main():
        ours, theirs = plain_pair("tcp")
        thread = threading.Thread(target=lambda: (theirs.sendall(line + line), theirs.close()))
        thread.start()
        async with stream_of(ours) as stream:
            assert await stream.readline(limit=1 << 20) == line
            with pytest.raises(asyncio.LimitOverrunError):
                await stream.readline(limit=1000)
            assert await stream.readline(limit=len(line)) == line
        thread.join()

    run(main())


@every_loop
@every_kind
def test_peek_leaves_the_bytes(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            task = await waiting(stream.peek(3))
            peer.send(b"abcdef")
            assert await task == b"abc"
            assert await stream.peek() == b"abcdef"
            assert await stream.read(2) == b"ab"
            peer.send(b"ghi")
            await asyncio.sleep(0.01)  # the loop hears of it
            assert await stream.peek(100) == b"cdefghi"
            assert await stream.read(100) == b"cdefghi"
            peer.close()
            assert await stream.peek() == b""
            assert await stream.read() == b""

    run(main())


@every_loop
@every_kind
def test_read_to_end(run, kind):
    data = random.Random(5).randbytes(3_000_000)

    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            peer.send(b"ahead")
            assert await stream.peek() == b"ahead"
            task = await waiting(stream.read_to_end())
            await asyncio.get_running_loop().sock_sendall(peer, data)
            peer.close()
            assert await task == b"ahead" + data
            assert await stream.read_to_end() == b""

    run(main())


@every_loop
def test_read_to_end_over_the_limit_leaves_the_bytes(run):
    async def main():
        for limit in (99, 100, 101):
            stream, peer = stream_and_socket()
            async with stream:
                peer.send(b"x" * 100)
                if limit >= 100:
                    task = await waiting(stream.read_to_end(limit=limit))
                    peer.close()
                    assert await task == b"x" * 100
                else:
                    with pytest.raises(asyncio.LimitOverrunError, match="longer than limit"):
                        await stream.read_to_end(limit=limit)
                    assert await stream.read_exactly(100) == b"x" * 100
            peer.close()

    run(main())


@every_loop
@every_kind
def test_readable(run, kind):
    """A read that follows does not wait."""

    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            for _ in range(3):
                task = await waiting(stream.readable())
                with pytest.raises(RuntimeError, match="another task is reading"):
                    await stream.read()
                peer.send(b"abc")
                assert await task is None
                assert await stream.readable() is None  # as often as one asks
                assert at_once(stream.read(2)) == b"ab"
                assert await stream.peek() == b"c"
                assert at_once(stream.readable()) is None  # read ahead
                assert at_once(stream.read()) == b"c"
            await cancel(await waiting(stream.readable()))
            peer.shutdown(socket.SHUT_WR)
            assert await stream.readable() is None
            assert at_once(stream.read()) == b""
        peer.close()
        stream, peer = stream_and_socket()
        async with stream:
            task = await waiting(stream.readable())
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            with pytest.raises(ConnectionResetError):
                await task

    run(main())


@every_loop
@every_kind
def test_writable(run, kind):
    """A write that follows does not wait; nor does the next one find room that is not there."""

    async def main():
        stream, peer = stream_and_socket(kind)
        small_buffers(stream, peer)
        async with stream:
            assert at_once(stream.writable()) is None
            for _ in range(3):
                written = fill(stream)
                if kind == "unix":  # TCP moves bytes, and so makes room, whenever it likes to
                    task = await waiting(stream.writable())
                    with pytest.raises(RuntimeError, match="another task is writing"):
                        await stream.write(b"x")
                    await cancel(task)
                task = asyncio.ensure_future(awaits(stream.writable()))
                await turns()
                await take(peer, written)
                assert await task is None
                written = at_once(stream.write(b"some"))
                assert written > 0
                await take(peer, written)
            peer.close()
            assert await stream.writable() is None
            with pytest.raises(OSError):
                while True:
                    await stream.write(bytes(1000))

    def fill(stream):
        """How much went before there was no room any more."""
        written = 0
        while (count := at_once(stream.write(bytes(1000)))) is not pyasync_c.PENDING:
            written += count
        return written

    run(main())


def at_once(future):
    """Its result, which it has in its first poll."""
    return future.poll(pyasync_c.Context(pyasync_c.noop_waker()))


@every_loop
def test_read_into(run):
    async def main():
        stream, peer = stream_and_socket()
        buffer = bytearray(8)
        async with stream:
            task = await waiting(stream.read_into(buffer))
            with pytest.raises(BufferError):
                buffer.append(0)  # it is held
            peer.send(b"abc")
            assert await task == 3
            assert buffer == b"abc\0\0\0\0\0"
            buffer.append(0)
            peer.send(b"defgh")
            assert await stream.peek() == b"defgh"  # read ahead
            assert await stream.read_into(memoryview(buffer)[1:3]) == 2
            assert buffer[:3] == b"ade"
            assert await stream.read_into(memoryview(buffer)) == 3
            assert await stream.read_into(bytearray()) == 0
            peer.close()
            assert await stream.read_into(buffer) == 0

    run(main())


# ── writing ──────────────────────────────────────────────────────────────────────────────────


@every_loop
@every_kind
def test_write_all(run, kind):
    data = random.Random(2).randbytes(20_000_000)

    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            task = await waiting(stream.write_all(data))
            assert await take(peer, len(data)) == data
            assert await task is None
            future = stream.write_all(b"end")
            await future
            assert future.written == 3
            assert await take(peer, 3) == b"end"
        peer.close()

    run(main())


@every_loop
def test_write_gives_a_count(run):
    async def main():
        stream, peer = stream_and_socket("unix")
        small_buffers(stream, peer)
        data = bytes(1_000_000)
        async with stream:
            assert await stream.write(b"") == 0
            written = await stream.write(data)
            assert 0 < written < len(data)
            context = pyasync_c.Context(pyasync_c.noop_waker())
            while (future := stream.write(data)).poll(context) is not pyasync_c.PENDING:
                written += future.written
            task = await waiting(future)
            assert len(await take(peer, written)) == written
            assert await task > 0
        peer.close()

    run(main())


@every_loop
@pytest.mark.parametrize("count", [0, 1, 2, 5, 1024, 1025, 5000])
def test_writing_several_buffers(run, count):
    rng = random.Random(count)
    parts = [rng.randbytes(rng.choice([0, 1, 7, 1000])) for _ in range(count)]
    kinds = [bytes, bytearray, memoryview]

    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            whole = b"".join(parts)
            buffers = [rng.choice(kinds)(part) for part in parts]
            future = stream.write_all(buffers)
            task = asyncio.ensure_future(take(peer, len(whole)))
            await future
            assert future.written == len(whole)
            assert await task == whole
            await stream.write_all(tuple(buffers[:3]))
            assert await take(peer, len(b"".join(parts[:3]))) == b"".join(parts[:3])
        peer.close()

    run(main())


@every_loop
def test_writing_to_one_who_has_gone(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            peer.close()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    await stream.write_all(bytes(1000))
                    await asyncio.sleep(0.001)

    run(main())


@every_loop
@every_kind
def test_shutdown_is_half_of_the_end(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            await stream.write_all(b"question")
            await stream.shutdown()
            await stream.shutdown()
            assert await take(peer, 100) == b"question"
            peer.send(b"answer")
            assert await stream.read() == b"answer"
            with pytest.raises(BrokenPipeError):
                await stream.write_all(b"more")
            peer.close()
            assert await stream.read() == b""

    run(main())


# ── what is wrong ────────────────────────────────────────────────────────────────────────────


@every_loop
def test_bad_input_raises_at_the_call(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            for call, error in [
                (lambda: stream.read(-1), ValueError),
                (lambda: stream.read("1"), TypeError),
                (lambda: stream.read(True), TypeError),
                (lambda: stream.read(1, 2), TypeError),
                (lambda: stream.read(1 << 70), OverflowError),
                (lambda: stream.read_exactly(-1), ValueError),
                (lambda: stream.read_exactly(1.0), TypeError),
                (lambda: stream.read_until(b""), ValueError),
                (lambda: stream.read_until("x"), TypeError),
                (lambda: stream.read_until(), TypeError),
                (lambda: stream.read_until(b"x", limit=0), ValueError),
                (lambda: stream.read_until(b"x", size=0), TypeError),
                (lambda: stream.readline(5), TypeError),
                (lambda: stream.readline(limit=-1), ValueError),
                (lambda: stream.read_to_end(5), TypeError),
                (lambda: stream.read_to_end(limit=0), ValueError),
                (lambda: stream.read_to_end(size=None), TypeError),
                (lambda: stream.readable(5), TypeError),
                (lambda: stream.writable(5), TypeError),
                (lambda: stream.peek(0), ValueError),
                (lambda: stream.read_into(b"constant"), BufferError),
                (lambda: stream.read_into(5), TypeError),
                (lambda: stream.write_all("text"), TypeError),
                (lambda: stream.write_all(5), TypeError),
                (lambda: stream.write_all([b"x", "text"]), TypeError),
                (lambda: stream.write(None), TypeError),
                (lambda: stream.setsockopt(1, 2), TypeError),
                (lambda: stream.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, -1), ValueError),
                (lambda: stream.getsockopt(1 << 40, 1), OverflowError),
                (lambda: net.TcpStream(), TypeError),
                (lambda: net.TcpStream.from_socket(5), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1"), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1", 1, 2), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1", 1, port=2), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1", 1, timeout=2), TypeError),
                (lambda: net.TcpStream.connect(b"127.0.0.1", 1), TypeError),
                (lambda: net.TcpStream.connect("", 1), ValueError),
                (lambda: net.TcpStream.connect("a\0b", 1), ValueError),
                (lambda: net.TcpStream.connect("127.0.0.1", -1), ValueError),
                (lambda: net.TcpStream.connect("127.0.0.1", 65536), OverflowError),
                (lambda: net.TcpStream.connect("127.0.0.1", "80"), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1", 1, local_addr="x"), TypeError),
                (lambda: net.TcpStream.connect("127.0.0.1", 1, local_addr=("::1", 0)), ValueError),
                (lambda: net.TcpStream.connect("localhost", 1, local_addr=("x", 0)), ValueError),
                (lambda: net.UnixStream.connect(""), ValueError),
                (lambda: net.UnixStream.connect("x" * 108), ValueError),
                (lambda: net.UnixStream.connect(5), TypeError),
            ]:
                with pytest.raises(error):
                    call()
        peer.close()

    run(main())


@every_loop
def test_a_second_reader_and_a_second_writer_are_refused(run):
    async def main():
        stream, peer = stream_and_socket("unix")
        small_buffers(stream, peer)
        async with stream:
            reading = await waiting(stream.read())
            writing = await waiting(stream.write_all(bytes(1_000_000)))
            with pytest.raises(RuntimeError, match="another task is reading"):
                await stream.readline()
            with pytest.raises(RuntimeError, match="another task is writing"):
                await stream.write(b"x")
            with pytest.raises(RuntimeError, match="another task is writing"):
                await stream.shutdown()
            peer.send(b"for the first")
            assert await reading == b"for the first"
            await take(peer, 1_000_000)
            await writing
            peer.send(b"next")
            assert await stream.read() == b"next"
        peer.close()

    run(main())


@every_loop
@every_kind
def test_closing_wakes_who_waits(run, kind):
    async def main():
        stream, peer = stream_and_socket(kind)
        reading = await waiting(stream.read())
        writing = await waiting(stream.write_all(bytes(20_000_000)))
        stream.close()
        for task in (reading, writing):
            with pytest.raises(OSError, match="is closed") as caught:
                await task
            assert caught.value.errno == errno.EBADF
        for operation in (
            stream.read,
            stream.readline,
            stream.shutdown,
            lambda: stream.write_all(b"x"),
            lambda: stream.__anext__(),
        ):
            with pytest.raises(OSError, match="is closed"):
                await operation()
        with pytest.raises(OSError, match="is closed"):
            async with stream:
                pass
        for attribute in ("local_addr", "peer_addr"):
            with pytest.raises(OSError, match="is closed"):
                getattr(stream, attribute)
        with pytest.raises(OSError, match="is closed"):
            stream.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        assert stream.closed and stream.fileno() == -1 and "closed" in repr(stream)
        stream.close()
        await stream.aclose()
        peer.close()

    run(main())


def test_without_a_loop():
    ours, theirs = plain_pair("unix")
    with pytest.raises(RuntimeError, match="no running event loop"):
        net.UnixStream.from_socket(ours)
    with pytest.raises(RuntimeError, match="no running event loop"):
        net.UnixStream.pair()
    ours.send(b"x")  # it is still what it was
    assert theirs.recv(1) == b"x"
    ours.close()
    theirs.close()


@every_loop
def test_another_loop_is_refused_by_name(run):
    kept = []

    async def make():
        stream, peer = stream_and_socket()
        kept.extend([stream, peer, asyncio.get_running_loop()])

    async def use():
        stream, peer, loop = kept
        with pytest.raises(RuntimeError, match="belongs to the loop") as caught:
            await stream.read()
        assert repr(loop) in str(caught.value)
        assert repr(asyncio.get_running_loop()) in str(caught.value)
        with pytest.raises(RuntimeError, match="belongs to the loop"):
            await stream.write_all(b"x")

    async def in_a_thread():
        await make()
        await asyncio.to_thread(asyncio.run, use())
        with pytest.raises(RuntimeError, match="no running event loop"):
            await asyncio.to_thread(kept[0].read().poll, pyasync_c.Context(pyasync_c.noop_waker()))
        kept[0].close()
        kept[1].close()

    run(in_a_thread())


def test_a_closed_loop():
    kept = []

    async def main():
        stream, peer = stream_and_socket()
        kept.extend([stream, peer, stream.read()])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(kept[2], 0.01)

    pyasync_c.run(main())
    stream, peer, read = kept
    assert "loop closed" in repr(stream)
    context = pyasync_c.Context(pyasync_c.noop_waker())
    for future in (read, stream.read(), stream.write_all(b"x"), stream.shutdown()):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            future.poll(context)
    stream.close()
    peer.close()


# ── making, and the rest ─────────────────────────────────────────────────────────────────────


@every_loop
def test_from_socket_looks_at_the_socket(run):
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            with pytest.raises(ValueError, match="type"):
                net.TcpStream.from_socket(datagrams)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(ValueError, match="it listens"):
                net.TcpStream.from_socket(listener)
        ours, theirs = plain_pair("unix")
        with pytest.raises(ValueError, match="family"):
            net.TcpStream.from_socket(ours)
        stream = net.UnixStream.from_socket(ours)
        assert ours.fileno() == -1
        with pytest.raises(ValueError):
            net.UnixStream.from_socket(ours)
        stream.close()
        theirs.close()

    run(main())


@every_loop
def test_halves(run):
    async def main():
        stream, peer = stream_and_socket()
        reader, writer = stream.split()
        assert reader.stream is stream and writer.stream is stream
        reading = await waiting(reader.readline())
        await writer.write_all(b"question")
        await writer.shutdown()
        assert await take(peer, 100) == b"question"
        peer.send(b"answer\nrest\n")
        assert await reading == b"answer\n"
        peer.close()
        assert [line async for line in reader] == [b"rest\n"]
        assert repr(reader) == f"<ReadHalf of {stream!r}>"
        assert not hasattr(reader, "write_all") and not hasattr(writer, "read")
        stream.close()
        with pytest.raises(OSError, match="is closed"):
            await reader.read()

    run(main())


@every_loop
def test_addresses_and_options(run):
    async def main():
        ours, theirs = plain_pair("tcp")
        names = ours.getsockname(), ours.getpeername()
        number = ours.fileno()
        async with stream_of(ours) as stream:
            assert (stream.local_addr, stream.peer_addr) == names
            assert stream.fileno() == number
            assert repr(stream) == f"<TcpStream fd={number} {names[0]} -> {names[1]}>"
            stream.set_nodelay(True)
            assert stream.nodelay is True
            stream.set_nodelay(False)
            assert stream.nodelay is False
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)
            with pytest.raises(OSError):
                stream.getsockopt(socket.SOL_SOCKET, 12345)
        theirs.close()
        a, b = net.UnixStream.pair()
        assert a.local_addr == a.peer_addr == ""
        a.close()
        b.close()

    run(main())


@every_loop
def test_left_open_it_warns_and_closes(run):
    async def main():
        stream, peer = stream_and_socket()
        text = repr(stream)
        gone = weakref.ref(stream)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del stream
            gc.collect()
        assert [str(w.message) for w in seen] == [f"unclosed {text}"]
        assert gone().closed  # the warning has it
        seen.clear()
        assert gone() is None
        await asyncio.sleep(0.01)
        assert peer.recv(1) == b""
        peer.close()
        stream, peer = stream_and_socket()
        with unraisable() as errors:  # as an error it cannot be raised, but it still closes
            del stream
        assert [type(error) for error in errors] == [ResourceWarning]
        assert await take(peer, 1) == b""
        peer.close()

    run(main())


# ── cancelled ────────────────────────────────────────────────────────────────────────────────

READS = [
    ("read", lambda s: s.read(100)),
    ("read_exactly", lambda s: s.read_exactly(100)),
    ("read_exactly_of_much", lambda s: s.read_exactly(100_000)),
    ("read_until", lambda s: s.read_until(b"--")),
    ("readline", lambda s: s.readline()),
    ("anext", lambda s: s.__anext__()),
    ("peek", lambda s: s.peek()),
    ("read_into", lambda s: s.read_into(bytearray(100))),
    ("read_to_end", lambda s: s.read_to_end()),
    ("readable", lambda s: s.readable()),
]
AT_ONCE = ("read", "peek", "read_into", "readable")
"""Those that one byte is enough for."""


@every_loop
@pytest.mark.parametrize(("name", "start"), READS, ids=[name for name, _ in READS])
def test_a_cancelled_read_has_taken_nothing(run, name, start):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            for sent in (b"", b"abc"):
                peer.send(sent) if sent else None
                future = start(stream)
                if sent and name in AT_ONCE:
                    continue  # they would be ready
                task = await waiting(future)
                await cancel(task)
                with pytest.raises(asyncio.TimeoutError):
                    async with asyncio.timeout(0.01):
                        await start(stream)
            # In the turn in which it was woken.
            task = (
                await waiting(start(stream))
                if name not in AT_ONCE
                else (await waiting_after_drain(stream, start))
            )
            peer.send(b"def--\n" + b"x" * 100_000)
            await asyncio.sleep(0.01)
            task.cancel() if not task.done() else None
            with contextlib.suppress(asyncio.CancelledError):
                await task
        peer.close()

    async def waiting_after_drain(stream, start):
        await stream.read(3)
        return await waiting(start(stream))

    run(main())


@every_loop
@pytest.mark.parametrize(("name", "start"), READS, ids=[name for name, _ in READS])
def test_reads_that_lose_a_select_take_nothing(run, name, start):
    """One byte at a time, and between any two of them the read loses."""
    data = random.Random(3).randbytes(64).replace(b"\n", b"_").replace(b"-", b"_")

    async def main():
        stream, peer = stream_and_socket("unix")
        async with stream:
            got = b""
            for i in range(len(data)):
                future = start(stream)
                index, _ = await pyasync_c.select(future, pyasync_c.sleep(0.001))
                assert index == 1 or name in AT_ONCE
                peer.send(data[i : i + 1])
                if name in AT_ONCE:
                    got += await stream.read(1)
            rest = await stream.read_exactly(len(data) - len(got))
            assert got + rest == data
        peer.close()

    run(main())


@every_loop
def test_bytes_survive_random_cancellations(run):
    """A long stream, read in every way, each with a deadline that often comes first."""
    rng = random.Random(4)
    data = b"".join(rng.randbytes(rng.randrange(40)) + b"\n" for _ in range(1500))

    async def main():
        stream, peer = stream_and_socket("unix")
        loop = asyncio.get_running_loop()

        async def send():
            at = 0
            while at < len(data):
                piece = data[at : at + rng.choice([1, 10, 100, 1000])]
                await loop.sock_sendall(peer, piece)
                at += len(piece)
                await asyncio.sleep(rng.choice([0, 0.001]))
            peer.close()

        sending = asyncio.ensure_future(send())
        digest, size, cancelled = hashlib.sha256(), 0, 0
        async with stream:
            while size < len(data):
                buffer = bytearray(17)
                which = rng.randrange(5)
                some = min(rng.choice([1, 30, 500]), len(data) - size)
                start = [
                    lambda: stream.read(rng.choice([1, 50, 70_000])),
                    lambda n=some: stream.read_exactly(n),
                    stream.readline,
                    lambda: stream.read_until(b"\n"),
                    lambda buffer=buffer: stream.read_into(buffer),
                ][which]
                future = start()
                task = asyncio.ensure_future(step(future))
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    got = await task
                except asyncio.CancelledError:
                    cancelled += 1
                    continue
                got = bytes(buffer[:got]) if which == 4 else got
                digest.update(got)
                size += len(got)
        await sending
        assert cancelled > 5
        assert digest.digest() == hashlib.sha256(data).digest()

    async def step(future):
        return await future

    run(main())


@every_loop
def test_a_cancelled_write_has_written_nothing(run):
    async def main():
        stream, peer = stream_and_socket("unix")
        small_buffers(stream, peer)
        async with stream:
            full = stream.write_all(bytes(1_000_000))
            await cancel(await waiting(full))
            future = stream.write(b"x" * 100)
            await cancel(await waiting(future))
            assert future.written == 0
            index, _ = await pyasync_c.select(future, pyasync_c.sleep(0.001))
            assert index == 1
            assert await take(peer, full.written) == bytes(full.written)
            assert await stream.write(b"last") == 4
            assert await take(peer, 4) == b"last"
        peer.close()

    run(main())


@every_loop
@every_kind
def test_a_cancelled_write_all_tells_what_it_has_written(run, kind):
    data = random.Random(5).randbytes(12_000_000)

    async def main():
        stream, peer = stream_and_socket(kind)
        async with stream:
            future = stream.write_all([data[:1000], data[1000:]])
            task = await waiting(future)
            await cancel(task)
            written = future.written
            assert 0 < written < len(data)
            # What was written is a prefix, and awaiting it again goes on behind it.
            task = await waiting(future)
            assert await take(peer, written + 10) == data[: written + 10]
            await cancel(task)
            more = future.written
            assert written < more < len(data)
            await stream_rest(stream, data[more:], peer, data[written + 10 :])
        peer.close()

    async def stream_rest(stream, rest, peer, expected):
        task = asyncio.ensure_future(take(peer, len(expected)))
        await stream.write_all(rest)
        assert await task == expected

    run(main())


# ── the loop ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_an_always_ready_stream_starves_nobody(what):
    """Nothing of this ever waits; the others run all the same."""

    async def main():
        stream, peer = stream_and_socket("unix")
        others = 0

        async def other():
            nonlocal others
            while True:
                others += 1
                await pyasync_c.yield_now()

        async with stream:
            peer.send(b"\n" * 2000)
            assert await stream.peek(1) == b"\n"
            task = asyncio.ensure_future(other())
            for _ in range(2000):
                await (stream.readline() if what == "reads" else stream.write_all(b""))
            assert others >= 2000 // 128
        await cancel(task)
        peer.close()

    pyasync_c.run(main())


@every_loop
def test_echo_under_random_splits(run):
    rng = random.Random(6)
    data = rng.randbytes(1_000_000)

    async def main():
        a, b = net.UnixStream.pair()

        async def echo():
            async with b:
                while piece := await b.read(rng.choice([1, 100, 5000, 100_000])):
                    await b.write_all(piece)

        async def send():
            at = 0
            while at < len(data):
                size = rng.choice([1, 100, 5000, 100_000])
                await a.write_all(data[at : at + size])
                at += size
            await a.shutdown()

        tasks = [asyncio.ensure_future(echo()), asyncio.ensure_future(send())]
        got = []
        async with a:
            while piece := await a.read(rng.choice([1, 1000, 50_000])):
                got.append(piece)
        await asyncio.gather(*tasks)
        assert b"".join(got) == data

    run(main())


@every_loop
def test_a_loop_given_up_with_a_reader_in_it_is_collected(run):
    """The stream, its task and its loop are garbage together."""
    gone = []

    def make():
        loop = asyncio.new_event_loop() if run is not pyasync_c.run else pyasync_c.new_event_loop()

        async def main():
            stream, peer = stream_and_socket("unix")
            gone.append(weakref.ref(stream))
            peers.append(peer)
            asyncio.ensure_future(stream.read_into(bytearray(10)))
            tasks.append(asyncio.ensure_future(wait_for_line(stream)))
            await asyncio.sleep(0.01)

        async def wait_for_line(stream):
            with contextlib.suppress(RuntimeError):
                await stream.readline()
            await asyncio.sleep(1000)

        tasks = []
        loop.run_until_complete(main())
        loop.close()

    peers = []
    with warnings.catch_warnings(), unraisable():
        warnings.simplefilter("ignore")
        make()
        for _ in range(3):
            gc.collect()
    assert gone[0]() is None
    peers[0].close()
