"""copy_bidirectional on every loop."""

import asyncio
import contextlib
import os
import random
import resource
import socket
import ssl

import pytest
from helpers import every_loop, open_fds
from net_peer import tls_contexts
from net_testing import (
    cancel,
    nothing_left,
    plain_pair,
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

kinds = pytest.mark.parametrize("kinds", [("tcp", "tcp"), ("tcp", "unix"), ("unix", "unix")])


async def send(peer, data, rng):
    loop = asyncio.get_running_loop()
    at = 0
    while at < len(data):
        size = rng.choice([1, 1000, 100_000])
        await loop.sock_sendall(peer, data[at : at + size])
        at += size
    peer.shutdown(socket.SHUT_WR)


@every_loop
@kinds
@pytest.mark.parametrize("plain", [False, True])
def test_both_ways_until_both_have_ended(run, kinds, plain):
    """With `plain` there is no descriptor left for a pipe."""
    rng = random.Random(8)
    question, answer = rng.randbytes(3_000_000), rng.randbytes(2_000_000)

    async def main():
        (a, left), (b, right) = stream_and_socket(kinds[0]), stream_and_socket(kinds[1])
        async with a, b:
            left.send(b"ahead")
            assert await a.peek() == b"ahead"  # read ahead: goes over all the same
            await pyasync_c.sleep(0)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            if plain:
                highest = max(map(int, open_fds()))
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
                held = use_up()
            try:
                copying = asyncio.ensure_future(copy(a, b))
                got = await asyncio.gather(
                    send(left, question, rng),
                    send(right, answer, rng),
                    take(right, len(question) + 5),
                    take(left, len(answer)),
                )
            finally:
                if plain:
                    for fd in held:
                        os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert got[2] == b"ahead" + question and got[3] == answer
            assert await copying == (len(question) + 5, len(answer))
            assert await take(left, 1) == await take(right, 1) == b""
        left.close()
        right.close()

    def use_up():
        held = []
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                return held

    async def copy(a, b):
        return await net.copy_bidirectional(a, b)

    run(main())


@every_loop
def test_the_end_of_one_direction_is_carried_over(run):
    async def main():
        (a, left), (b, right) = stream_and_socket(), stream_and_socket()
        async with a, b:
            task = await waiting(net.copy_bidirectional(a, b))
            left.send(b"question")
            left.shutdown(socket.SHUT_WR)
            assert await take(right, 100) == b"question"  # to the end
            right.send(b"answer")
            right.close()
            assert await take(left, 100) == b"answer"
            assert await task == (8, 6)
        left.close()

    run(main())


@every_loop
@kinds
def test_cancelled_every_byte_is_on_one_side_or_the_other(run, kinds):
    data = random.Random(9).randbytes(20_000_000)

    async def main():
        (a, left), (b, right) = stream_and_socket(kinds[0]), stream_and_socket(kinds[1])
        small_buffers(b, right, 65536)
        async with a, b:
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(left, data))
            copying = net.copy_bidirectional(a, b)
            got = b""
            for n in range(5):
                if n % 2:
                    await cancel(await waiting(copying))  # as nobody reads on the right
                else:
                    index, _ = await pyasync_c.select(copying, pyasync_c.sleep(0.02))
                    assert index == 1
                there, back = copying.copied
                assert back == 0
                got += await take(right, there - len(got))
                assert got == data[: len(got)]
            # What has not gone over is still to be read.
            rest = await a.read_exactly(100_000)
            assert rest == data[len(got) : len(got) + len(rest)]
            with pytest.raises(OSError, match="is closed"):
                task = await waiting(copying)
                b.close()
                await task
            await cancel(sending)
        left.close()
        right.close()

    run(main())


async def tls_pair():
    """A TlsStream, and the one at its other end."""
    ours, theirs = plain_pair("tcp")
    server, client = tls_contexts()
    return await asyncio.gather(
        net.TlsStream.wrap(stream_of(ours), server, server_side=True),
        net.TlsStream.wrap(stream_of(theirs), client, server_hostname="localhost"),
    )


async def plain_streams():
    ours, theirs = plain_pair("tcp")
    return stream_of(ours), stream_of(theirs)


tls_kinds = pytest.mark.parametrize(
    "makers",
    [(tls_pair, plain_streams), (plain_streams, tls_pair), (tls_pair, tls_pair)],
    ids=["tls-plain", "plain-tls", "tls-tls"],
)


@every_loop
@tls_kinds
def test_through_tls(run, makers):
    """Decrypted on one side, encrypted on the other, each end carried over as what it is there."""
    rng = random.Random(10)
    question, answer = rng.randbytes(600_000), rng.randbytes(400_000)

    async def main():
        (a, left), (b, right) = await makers[0](), await makers[1]()
        async with a, b, left, right:
            await left.write_all(b"ahead")
            assert await a.peek() == b"ahead"
            copying = asyncio.ensure_future(copy(a, b))
            got = await asyncio.gather(
                speak(left, question), speak(right, answer), hear(left), hear(right)
            )
            assert got[2:] == [answer, b"ahead" + question]
            assert await copying == (len(question) + 5, len(answer))

    async def copy(a, b):
        return await net.copy_bidirectional(a, b)

    async def speak(stream, data):
        await stream.write_all(data)
        await stream.shutdown()

    async def hear(stream):
        return await stream.read_to_end()

    run(main())


@every_loop
@tls_kinds
def test_cancelled_through_tls_no_byte_is_lost(run, makers):
    data = random.Random(11).randbytes(10_000_000)

    async def main():
        (a, left), (b, right) = await makers[0](), await makers[1]()
        small_buffers(b, right, 65536)
        async with a, b, left, right:
            sending = asyncio.ensure_future(left.write_all(data))
            copying = net.copy_bidirectional(a, b)
            got = b""
            while len(got) < 200_000:
                index, _ = await pyasync_c.select(copying, pyasync_c.sleep(0.002))
                assert index == 1
                # On a busy machine nothing may have come, or all of it may stand in b, encrypted.
                index, more = await pyasync_c.select(right.read(), pyasync_c.sleep(0.002))
                got += more if index == 0 else b""
            there, back = copying.copied
            assert back == 0
            # What has not gone over is still to be read, and what was encrypted goes with more.
            rest = asyncio.ensure_future(right.read_exactly(there - len(got) + 4))
            await b.write_all(b"more")
            got += await rest
            assert got == data[:there] + b"more"
            left_over = await a.read_exactly(100_000)
            assert left_over == data[there : there + 100_000]
            await cancel(sending)

    run(main())


@every_loop
def test_a_tls_stream_that_breaks_off_ends_the_copy(run):
    async def main():
        (a, left), (b, right) = await tls_pair(), await plain_streams()
        async with a, b, left, right:
            task = await waiting(net.copy_bidirectional(a, b))
            await left.write_all(b"last")
            with socket.socket(fileno=os.dup(left.fileno())) as plain:
                plain.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ssl.SSLEOFError):
                await task
            assert await right.read() == b"last"

    run(main())


@every_loop
def test_errors_and_bad_input(run):
    async def main():
        (a, left), (b, right) = stream_and_socket(), stream_and_socket()
        async with a, b:
            for call, error in [
                (lambda: net.copy_bidirectional(a), TypeError),
                (lambda: net.copy_bidirectional(a, right), TypeError),
                (lambda: net.copy_bidirectional(a, b.split()[0]), TypeError),
                (lambda: net.copy_bidirectional(a, a), ValueError),
            ]:
                with pytest.raises(error):
                    call()
            reading = await waiting(a.read())
            with pytest.raises(RuntimeError, match="another task is using"):
                await net.copy_bidirectional(a, b)
            await cancel(reading)
            task = await waiting(net.copy_bidirectional(a, b))
            with pytest.raises(RuntimeError, match="another task is reading"):
                await b.read()
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            left.close()
            with pytest.raises(ConnectionResetError):
                await task
            right.send(b"x")
            assert await b.read() == b"x"
        right.close()

    run(main())


@every_loop
@pytest.mark.parametrize("back", [False, True])
def test_a_flood_does_not_hold_the_other_direction_up(run, back):
    """Small messages, of which a chunk holds few: there are always more than fit in a poll."""

    async def main():
        (one, a), (other, b) = socket.socketpair(), socket.socketpair()
        streams = [net.UnixStream.from_socket(a), net.UnixStream.from_socket(b)]
        flood, quiet = (other, one) if back else (one, other)
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            quiet.send(b"hello")
            copying = net.copy_bidirectional(*streams)
            context = pyasync_c.Context(pyasync_c.noop_waker())
            for _ in range(50):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        flood.send(b".")
                copying.poll(context)
                await asyncio.sleep(0)
                with contextlib.suppress(BlockingIOError):
                    quiet.recv(1 << 20)
                with contextlib.suppress(BlockingIOError):
                    assert flood.recv(10) == b"hello"
                    break
            else:
                raise AssertionError(copying.copied)
            copying.drop()
            for stream in streams:
                stream.close()

    run(main())
