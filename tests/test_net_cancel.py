"""Cancellation at each suspension of each operation of the network.

An operation is cancelled after no turn of the loop, after one, after two and so on, while the peer
does its part. Whether it was cancelled or had come to its end: no byte and no connection is lost,
and nothing is left.
"""

import asyncio
import contextlib
import random
import socket

import pytest
from net_faces import FACES, IN_THE_KERNEL, NET, PROTOCOL, SOCK, STREAMS, either_role, places
from net_peer import accepted, connected, counts, listening

NOISE = random.Random(8).randbytes(1 << 18)
HELLO = NOISE[:300]
TURNS = 12
"""More than an operation here takes; TLS handshakes apart."""


async def turns(n):
    for _ in range(n):
        await asyncio.sleep(0)


async def cancelled_after(n, operation):
    """Cancel it after so many turns: its result, or None if it had none."""
    task = asyncio.ensure_future(operation)
    await turns(n)
    task.cancel()
    await asyncio.wait([task])
    counts["cancellations" if task.cancelled() else "cancellations too late"] += 1
    if task.cancelled():
        return None
    error = task.exception()
    if error is not None:
        raise error
    return task.result()


async def later(n, operation):
    await turns(n)
    return await operation


@contextlib.asynccontextmanager
async def in_background(operation):
    task = asyncio.ensure_future(operation)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@places()
@either_role
def test_cancelled_reads_lose_nothing(place, role):
    """But for sock_recv: what it has taken goes with it, as the standard library's does."""

    async def main():
        async with place.pair(role) as (end, peer):
            data = bytearray()
            expected = b""
            for n in range(TURNS):
                sending = asyncio.ensure_future(later(2, peer.send(HELLO)))
                data += await cancelled_after(n, end.read()) or b""
                await sending
                expected += HELLO
                if place.face is SOCK:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.002):
                            while True:
                                data += await end.read()
                    expected = bytes(data) if len(data) < len(expected) else expected
                else:
                    while len(data) < len(expected):
                        data += await end.read()
                assert data == expected

    place.run(main())


@places()
@either_role
def test_cancelled_writes_send_a_beginning(place, role):
    async def main():
        for n in range(TURNS):
            async with place.pair(role, small=True) as (end, peer):
                receiving = asyncio.ensure_future(peer.rest_until_it_breaks())
                wrote = await cancelled_after(n, write(end, NOISE))
                if place.face in IN_THE_KERNEL:
                    end.abort()
                    received, _ = await receiving
                    assert NOISE.startswith(received)
                    assert len(received) == len(NOISE) or not wrote
                else:
                    # A transport that has taken it sends it, cancelled or not.
                    closing = asyncio.ensure_future(end.close())
                    received, error = await receiving
                    assert error is None
                    assert received == NOISE if n > 0 else received in (b"", NOISE)
                    peer.close()
                    await closing

    async def write(end, data):
        await end.write(data)
        return True

    place.run(main())


@places()
def test_cancelled_connects_leave_nothing(place):
    async def main():
        most = 60 if place.is_tls else TURNS
        with listening(place.link, place.folder) as listener:
            for n in range(most):
                before = asyncio.ensure_future(serve(listener))
                end = await cancelled_after(
                    n, place.face.connect(listener.getsockname(), place.client_tls)
                )
                if end is not None:
                    end.abort()
                    await asyncio.wait([before])
                else:
                    # What was connected ends; what was not does not come.
                    await asyncio.wait([before], timeout=0.01)
                    before.cancel()
                    await asyncio.wait([before])

    async def serve(listener):
        peer = place.peer_of(await accepted(listener), is_server=True)
        try:
            if place.is_tls:
                with contextlib.suppress(OSError):
                    await peer.shake_hands()
            with contextlib.suppress(OSError):
                await peer.receive()
        finally:
            peer.close()

    place.run(main())


@places([face for face in FACES if face is not SOCK])
def test_cancelled_accepts_lose_no_connection(place):
    """But for sock_accept: what it has taken goes with it, as the standard library's does."""

    async def main():
        listener = listening(place.link, place.folder)
        address = listener.getsockname()
        async with place.face.listening(listener, place.server_tls) as accept:
            for n in range(TURNS):
                arriving = asyncio.ensure_future(later(2, arrive(address)))
                end = await cancelled_after(n, accept())
                peer = await arriving
                if end is None:
                    end = await accept()
                await peer.send(HELLO)
                data = b""
                while len(data) < len(HELLO):
                    data += await end.read()
                assert data == HELLO
                end.abort()
                peer.close()

    async def arrive(address):
        peer = place.peer_of(await connected(address), is_server=False)
        if place.is_tls:
            await peer.shake_hands()
        return peer

    place.run(main())


@places([face for face in FACES if face is not SOCK])
@either_role
def test_cancelled_closing_closes_all_the_same(place, role):
    async def main():
        for n in range(TURNS):
            async with place.pair(role, small=True) as (end, peer):
                receiving = asyncio.ensure_future(peer.rest())
                await end.write(NOISE[:100_000])
                await cancelled_after(n, end.close())
                if n == 0:  # it had not begun; where it had, asyncio lets nobody wait again
                    closing = asyncio.ensure_future(end.close())
                assert await receiving == NOISE[:100_000]
                peer.close()
            await closing

    place.run(main())


@places([PROTOCOL, STREAMS], links=["tcp"])
def test_cancelled_sendfile(place, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(NOISE)

    async def main():
        loop = asyncio.get_running_loop()
        for n in range(TURNS):
            async with place.pair("server", small=True) as (end, peer):
                receiving = asyncio.ensure_future(peer.rest())
                with path.open("rb") as file:
                    sent = await cancelled_after(n, loop.sendfile(end.transport, file))
                await end.close()
                received = await receiving
                assert NOISE.startswith(received)
                assert sent is None or len(received) == sent == len(NOISE)

    place.run(main())


@places([PROTOCOL, STREAMS], links=["tls"])
@either_role
def test_cancelled_start_tls(place, role):
    """On a connection that begins in clear text."""

    async def main():
        loop = asyncio.get_running_loop()
        plain = place.in_clear_text()
        context = place.server_tls if role == "server" else place.client_tls
        for n in range(40):
            async with plain.pair(role) as (end, clear):
                peer = place.peer_of(clear.sock, is_server=role == "client")
                async with in_background(ignoring_errors(peer.shake_hands())):
                    protocol = end.transport.get_protocol()
                    transport = await cancelled_after(
                        n,
                        loop.start_tls(
                            end.transport,
                            protocol,
                            context,
                            server_side=role == "server",
                            server_hostname=None if role == "server" else "localhost",
                        ),
                    )
                    if transport is not None:
                        transport.abort()
                await asyncio.sleep(0.001)

    async def ignoring_errors(operation):
        with contextlib.suppress(OSError):
            await operation

    place.run(main())


@places([SOCK], links=["tcp"])
def test_cancelled_datagrams(place):
    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.socket(type=socket.SOCK_DGRAM) as one,
            socket.socket(type=socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            buffer = bytearray(100)
            for n in range(TURNS):
                await cancelled_after(n, loop.sock_recvfrom(two, 100))
                await cancelled_after(n, loop.sock_recvfrom_into(two, buffer))
                await cancelled_after(n, loop.sock_sendto(one, HELLO[:50], two.getsockname()))
                await loop.sock_sendto(one, HELLO[:50], two.getsockname())
                data, address = await loop.sock_recvfrom(two, 100)
                assert (data, address) == (HELLO[:50], one.getsockname())
                with contextlib.suppress(BlockingIOError):
                    two.recv(100)

    place.run(main())


@pytest.mark.parametrize("size", [1, 29, 30, 31, 5000])
@places([STREAMS, NET], links=["tcp", "unix", "tls"])
def test_cancelled_read_exactly_loses_nothing(place, size):
    async def main():
        async with place.pair("server") as (end, peer):
            read_exactly = (
                end.reader.readexactly if place.face is STREAMS else end.stream.read_exactly
            )
            data = bytearray()
            for n in range(TURNS):
                sending = asyncio.ensure_future(later(2, peer.send_a_byte_at_a_time(HELLO[:10])))
                data += await cancelled_after(n, read_exactly(size)) or b""
                await sending
            total = TURNS * 10
            while len(data) < total:
                data += await end.read()
            assert data == HELLO[:10] * TURNS

    place.run(main())


@places([STREAMS, NET], links=["tcp", "unix", "tls"])
def test_cancelled_readline_loses_nothing(place):
    async def main():
        async with place.pair("server") as (end, peer):
            readline = end.reader.readline if place.face is STREAMS else end.stream.readline
            lines = []
            for n in range(TURNS):
                line = b"%d " % n + HELLO[:20].replace(b"\n", b"") + b"\n"
                sending = asyncio.ensure_future(later(1, peer.send_a_byte_at_a_time(line)))
                taken = await cancelled_after(n, readline())
                await sending
                lines.append(taken or await readline())
            assert [int(line.split()[0]) for line in lines] == list(range(TURNS))

    place.run(main())


@places([NET])
def test_cancelled_peek_takes_nothing(place):
    async def main():
        async with place.pair("server") as (end, peer):
            for n in range(TURNS):
                sending = asyncio.ensure_future(later(2, peer.send(HELLO)))
                await cancelled_after(n, end.stream.peek())
                await sending
                assert await end.stream.read_exactly(len(HELLO)) == HELLO

    place.run(main())


@places([NET])
@either_role
def test_cancelled_writes_know_what_has_gone(place, role):
    async def main():
        for n in range(TURNS):
            async with place.pair(role, small=True) as (end, peer):
                writing = end.stream.write_all(NOISE)
                receiving = asyncio.ensure_future(peer.rest())
                await cancelled_after(n, writing)
                written = writing.written
                # The rest can be sent as if nothing had happened.
                await end.stream.write_all(NOISE[written:])
                await end.shutdown()
                assert await receiving == NOISE

    place.run(main())
