"""What a peer can do to a connection, in every state that the connection can be in, on both sides.

A reset, an end, silence, and bytes that come one at a time; a peer that never reads. Each on every
face of the network and over every link: net_faces.py has the faces, net_peer.py the peer. Nothing
hangs, nothing leaks, and no byte is lost, doubled or changed.
"""

import asyncio
import contextlib
import random
import select
import socket
import ssl

import pytest
from net_faces import (
    BUFFERED,
    HELD_MAX,
    IN_THE_KERNEL,
    PROTOCOL,
    STREAMS,
    TLS,
    either_role,
    outcome,
    places,
)
from net_peer import TICK, accepted, connected, counts, listening, until

NOISE = random.Random(7).randbytes(1 << 18)
HELLO = NOISE[:300]
MUCH = NOISE * 16
"""More than all buffers between two ends hold."""
PAUSE = 0.005


async def read_exactly(end, size):
    data = b""
    while len(data) < size and (more := await end.read()):
        data += more
    return data


async def read_to_the_end(end):
    """All that comes, and what it ends in: "end" or what was raised."""
    data = bytearray()
    try:
        while more := await end.read():
            data += more
    except OSError as error:
        return bytes(data), outcome(error)
    return bytes(data), "end"


async def write_to_the_end(end, data=MUCH):
    """Write until it raises."""
    try:
        while True:
            await end.write(data)
            await asyncio.sleep(0)
    except OSError as error:
        return outcome(error)


async def settled(value):
    """What value() returns once that has been the same for some time."""
    before = None
    while before != (now := value()):
        before = now
        await asyncio.sleep(0.03)
    return now


async def over(task, *expected):
    """Wait for a task that may fail in these ways."""
    await asyncio.wait([task])
    error = task.exception()
    assert error is None or isinstance(error, expected), error


async def prepare_reset(place, end, peer):
    """A Unix socket is reset only by a peer that has not read everything."""
    if place.is_unix:
        await end.write(b"!")
        await until(peer.is_unread)


# ── reset ────────────────────────────────────────────────────────────────────────────────────


@places()
@either_role
def test_reset_while_it_reads(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await prepare_reset(place, end, peer)
            reading = asyncio.ensure_future(read_to_the_end(end))
            await asyncio.sleep(PAUSE)
            peer.reset()
            assert await reading == (b"", "reset")

    place.run(main())


@places()
@either_role
def test_reset_in_mid_message(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await prepare_reset(place, end, peer)
            reading = asyncio.ensure_future(read_to_the_end(end))
            await peer.send(HELLO)
            await asyncio.sleep(PAUSE)
            peer.reset()
            assert await reading == (HELLO, "reset")

    place.run(main())


@places()
@either_role
def test_reset_while_nobody_reads(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await prepare_reset(place, end, peer)
            peer.reset()
            await asyncio.sleep(PAUSE)
            assert await read_to_the_end(end) == (b"", "reset")
            assert await write_to_the_end(end) == "reset"

    place.run(main())


@places()
@either_role
def test_reset_behind_bytes_that_nobody_has_read(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await prepare_reset(place, end, peer)
            await peer.send(HELLO)
            peer.reset()
            await asyncio.sleep(PAUSE)
            data, ended = await read_to_the_end(end)
            assert HELLO.startswith(data) and ended == "reset"

    place.run(main())


@places()
@either_role
def test_reset_while_it_writes(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            writing = asyncio.ensure_future(write_to_the_end(end))
            await until(peer.raw.is_unread if place.is_tls else peer.is_unread)
            await asyncio.sleep(PAUSE)
            assert not writing.done()
            peer.reset()
            assert await writing == "reset"

    place.run(main())


@places()
@either_role
def test_reset_while_it_reads_and_writes(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            reading = asyncio.ensure_future(read_to_the_end(end))
            writing = asyncio.ensure_future(write_to_the_end(end))
            await until(peer.raw.is_unread if place.is_tls else peer.is_unread)
            await asyncio.sleep(PAUSE)
            peer.reset()
            assert await writing == "reset"
            data, ended = await reading
            # Who comes second to a reset finds an end, which TLS knows from one that was said.
            assert data == b"" and ended in ("reset", "SSLEOFError" if place.is_tls else "end")

    place.run(main())


@places(half_closing=True)
@either_role
def test_reset_after_it_has_ended_its_half(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await prepare_reset(place, end, peer)
            await end.shutdown()
            reading = asyncio.ensure_future(read_to_the_end(end))
            await asyncio.sleep(PAUSE)
            peer.reset()
            assert await reading == (b"", "reset")

    place.run(main())


@places([PROTOCOL, BUFFERED, STREAMS], links=["tcp"])
def test_reset_between_its_last_byte_and_the_end_of_its_half(place):
    """The transport meets it by saying the end, in a callback that nobody waits for."""

    async def main():
        async with place.pair(small=True) as (end, peer):
            protocol = end.transport.get_protocol()
            resume = protocol.resume_writing

            def resume_writing():
                resume()
                peer.reset()
                poll = select.poll()
                poll.register(end.socket.fileno(), 0)
                assert poll.poll(1000), "the reset has not come"

            protocol.resume_writing = resume_writing
            end.transport.set_write_buffer_limits(high=0)
            end.transport.write(NOISE)
            end.transport.write_eof()
            while peer.sock.fileno() >= 0:
                with contextlib.suppress(BlockingIOError):
                    peer.sock.recv(65536)
                await asyncio.sleep(0)
            assert await read_to_the_end(end) == (b"", "reset")
            del protocol.resume_writing

    place.run(main())


@places(half_closing=True)
@either_role
def test_reset_after_the_peer_has_ended_its_half(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await peer.shutdown()
            assert await end.read() == b""
            await prepare_reset(place, end, peer)
            peer.reset()
            assert await write_to_the_end(end) == "reset"

    place.run(main())


@places()
@either_role
def test_reset_while_it_closes_with_bytes_to_send(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            writing = asyncio.ensure_future(write_to_the_end(end))
            await until(peer.raw.is_unread if place.is_tls else peer.is_unread)
            await asyncio.sleep(PAUSE)
            writing.cancel()
            closing = asyncio.ensure_future(end.close())
            await asyncio.sleep(PAUSE)
            peer.reset()
            await asyncio.wait([closing, writing])
            error = closing.exception()
            assert error is None or isinstance(error, ConnectionError), error
            assert (
                writing.cancelled()
                or isinstance(writing.exception(), ConnectionError)
                or (writing.result() == "reset")
            )

    place.run(main())


@places(links=TLS)
def test_reset_in_the_handshake_of_a_server(place):
    """Nobody is told, and the next one is served."""

    async def main():
        listener = listening(place.link, place.folder)
        address = listener.getsockname()
        async with place.face.listening(listener, place.server_tls) as accept:
            for sent in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
                peer = place.peer_of(await connected(address), is_server=False)
                await peer.raw.send(sent)
                await asyncio.sleep(PAUSE)
                if place.is_unix:
                    peer.close()  # which is a reset only if it has left something unread
                else:
                    peer.reset()
            peer = place.peer_of(await connected(address), is_server=False)
            accepting = asyncio.ensure_future(accept())
            await peer.shake_hands()
            end = await accepting
            await peer.send(HELLO)
            assert await read_exactly(end, len(HELLO)) == HELLO
            peer.close()
            end.abort()

    place.run(main())


@places(links=TLS)
def test_reset_in_the_handshake_of_a_client(place):
    async def main():
        with listening(place.link, place.folder) as listener:
            connecting = asyncio.ensure_future(
                place.face.connect(listener.getsockname(), place.client_tls)
            )
            peer = place.peer_of(await accepted(listener), is_server=True)
            await until(peer.raw.is_unread)
            peer.reset()
            with pytest.raises(ConnectionError):
                await connecting

    place.run(main())


@places(links=["tcp", "tls"])
def test_reset_before_it_is_accepted(place):
    async def main():
        listener = listening(place.link, place.folder)
        address = listener.getsockname()
        peer = place.peer_of(await connected(address), is_server=False)
        peer.reset()
        async with place.face.listening(listener, place.server_tls) as accept:
            accepting = asyncio.ensure_future(accept())
            await asyncio.sleep(PAUSE)
            if accepting.done():
                broken = accepting.result()
                await read_to_the_end(broken)
                broken.abort()
                accepting = asyncio.ensure_future(accept())
            peer = place.peer_of(await connected(address), is_server=False)
            if place.is_tls:
                await peer.shake_hands()
            end = await accepting
            await peer.send(HELLO)
            assert await read_exactly(end, len(HELLO)) == HELLO
            peer.close()
            end.abort()

    place.run(main())


@places(links=["tcp", "unix"])
def test_refused(place):
    async def main():
        with listening(place.link, place.folder) as listener:
            address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await place.face.connect(address, None)
        if place.link == "unix":
            with pytest.raises(FileNotFoundError):
                await place.face.connect(address + "not there", None)

    place.run(main())


# ── half-close ───────────────────────────────────────────────────────────────────────────────


@places()
@either_role
def test_end_while_it_reads(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            reading = asyncio.ensure_future(read_to_the_end(end))
            await asyncio.sleep(PAUSE)
            await peer.send(HELLO)
            await peer.shutdown()
            assert await reading == (HELLO, "end")
            assert await end.read() == b""
            await end.close()
            await peer.sees_the_end()

    place.run(main())


@places(half_closing=True)
@either_role
def test_it_writes_after_the_peer_has_ended_its_half(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            await peer.send(HELLO)
            await peer.shutdown()
            assert await read_to_the_end(end) == (HELLO, "end")
            writing = asyncio.ensure_future(end.write(NOISE))
            assert await peer.exactly(len(NOISE)) == NOISE
            await writing
            await end.close()
            assert await peer.receive() == b""

    place.run(main())


@places(half_closing=True)
@either_role
def test_it_reads_after_it_has_ended_its_half(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            await end.write(HELLO)
            await end.shutdown()
            assert await peer.rest() == HELLO
            reading = asyncio.ensure_future(read_to_the_end(end))
            await peer.send(NOISE)
            await peer.shutdown()
            assert await reading == (NOISE, "end")

    place.run(main())


@places(half_closing=True)
@either_role
def test_it_ends_its_half_while_it_writes(place, role):
    """What was written before goes out before the end does."""

    async def main():
        async with place.pair(role, small=True) as (end, peer):
            writing = asyncio.ensure_future(end.write(NOISE))
            await until(peer.is_unread)
            receiving = asyncio.ensure_future(peer.rest())
            await writing
            await end.shutdown()
            assert await receiving == NOISE

    place.run(main())


@places(half_closing=True)
@either_role
def test_the_peer_ends_its_half_while_it_writes(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            writing = asyncio.ensure_future(end.write(NOISE))
            await until(peer.is_unread)
            await peer.shutdown()
            await asyncio.sleep(PAUSE)
            assert await read_to_the_end(end) == (b"", "end")
            assert await peer.exactly(len(NOISE)) == NOISE
            await writing

    place.run(main())


@places(links=TLS)
@either_role
def test_tls_ends_without_its_alert(place, role):
    """A bare end of the socket, which an attacker can make: it ends, whatever it is called."""

    async def main():
        async with place.pair(role) as (end, peer):
            await peer.send(HELLO)
            peer.sock.shutdown(socket.SHUT_WR)
            data, _ = await read_to_the_end(end)
            assert data == HELLO
            await over(asyncio.ensure_future(end.close()))

    place.run(main())


@places()
@either_role
def test_it_closes_and_the_peer_has_it_all(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            writing = asyncio.ensure_future(end.write(NOISE[:100_000]))
            receiving = asyncio.ensure_future(peer.rest())
            await writing
            closing = asyncio.ensure_future(end.close())
            assert await receiving == NOISE[:100_000]
            peer.close()
            await over(closing)

    place.run(main())


@places()
@either_role
def test_it_closes_while_the_peer_sends(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await peer.send(HELLO)
            assert await read_exactly(end, len(HELLO)) == HELLO
            closing = asyncio.ensure_future(end.close())
            with pytest.raises(ConnectionError):
                while True:
                    await peer.send(NOISE)
            peer.close()
            await over(closing, ssl.SSLError)  # "application data after close notify"

    place.run(main())


# ── silence ──────────────────────────────────────────────────────────────────────────────────


@places()
@either_role
def test_silence_while_it_reads(place, role):
    """Whoever has waited long enough may give up, and come back to it."""

    async def main():
        async with place.pair(role) as (end, peer):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.002):
                        await end.read()
                await peer.send(HELLO)
                assert await read_exactly(end, len(HELLO)) == HELLO

    place.run(main())


@places()
@either_role
def test_silence_while_it_writes(place, role):
    """Whoever gives up has written it all the same, unless nobody but the kernel keeps it."""

    async def main():
        async with place.pair(role, small=True) as (end, peer):
            written = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    while True:
                        written += len(HELLO) * 100
                        await end.write(HELLO * 100)
            if place.face in IN_THE_KERNEL:
                end.abort()
                received, _ = await peer.rest_until_it_breaks()
                assert (HELLO * (written // len(HELLO))).startswith(received)
            else:
                closing = asyncio.ensure_future(end.close())
                assert await peer.rest() == HELLO * (written // len(HELLO))
                peer.close()
                await over(closing)

    place.run(main())


@places(links=TLS)
def test_silence_in_the_handshake_of_a_client(place):
    async def main():
        with listening(place.link, place.folder) as listener:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await place.face.connect(listener.getsockname(), place.client_tls)
            sock = await accepted(listener)
            peer = place.peer_of(sock, is_server=True)
            assert await peer.raw.receive()
            await peer.raw.sees_the_end()
            peer.close()

    place.run(main())


# ── a byte at a time ─────────────────────────────────────────────────────────────────────────


@places()
@either_role
def test_a_byte_at_a_time(place, role):
    """In TLS that is every byte of the handshake too."""

    async def main():
        async with place.pair(role, in_bytes=True) as (end, peer):
            reading = asyncio.ensure_future(read_exactly(end, len(HELLO)))
            await peer.send_a_byte_at_a_time(HELLO)
            assert await reading == HELLO
            receiving = asyncio.ensure_future(peer.exactly(len(HELLO)))
            for i in range(len(HELLO)):
                await end.write(HELLO[i : i + 1])
            assert await receiving == HELLO

    place.run(main())


@places()
@either_role
def test_a_byte_at_a_time_is_taken(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            await peer.send(HELLO)
            data = b""
            while len(data) < len(HELLO):
                byte = await end.read(1)
                assert len(byte) == 1
                data += byte
            assert data == HELLO

    place.run(main())


# ── a peer that never reads, an end that never reads ─────────────────────────────────────────


@places()
@either_role
def test_a_peer_that_never_reads_takes_no_memory(place, role):
    high = 64 * 1024 if not place.is_tls else 512 * 1024
    piece = NOISE[:10_000]

    async def main():
        async with place.pair(role, small=True) as (end, peer):
            written = 0

            async def write():
                nonlocal written
                while True:
                    await end.write(piece)
                    written += len(piece)

            writing = asyncio.ensure_future(write())
            before = await settled(lambda: written)
            assert before < len(MUCH)
            assert end.held <= high + len(piece)
            counts["bytes held back"] += end.held
            # It goes on where it was as soon as the peer does.
            total = before + 40 * len(piece)
            received = b""
            while len(received) < total:
                received += await peer.receive()
            writing.cancel()
            assert received == (piece * (len(received) // len(piece) + 1))[: len(received)]

    place.run(main())


@places([PROTOCOL, BUFFERED], links=["tcp", "unix"])
def test_pausing_and_resuming_take_turns(place):
    async def main():
        async with place.pair(small=True) as (end, peer):
            end.transport.set_write_buffer_limits(high=200_000, low=50_000)
            protocol = end.protocol
            for _ in range(3):
                while protocol.writable.is_set():
                    end.transport.write(NOISE[:1000])
                assert 200_000 < end.held <= 201_000
                while not protocol.writable.is_set():
                    await peer.receive(2000)
                assert protocol.held_when_resumed <= 50_000
            turns = [e for e in protocol.events if e != "connection_made"]
            assert turns == ["pause_writing", "resume_writing"] * 3

    place.run(main())


@places()
@either_role
def test_an_end_that_never_reads_takes_no_memory(place, role):
    async def main():
        async with place.pair(role, small=True) as (end, peer):
            if place.face is STREAMS:
                # Streams begin to take when they are made; then their own limit counts.
                held_max = 2 * 64 * 1024 + 256 * 1024
            else:
                held_max = HELD_MAX + 256 * 1024
            sent = await peer.send_what_fits(MUCH)
            assert sent < len(MUCH), "it takes everything"
            assert end.unread <= held_max
            await asyncio.sleep(2 * TICK)
            unread = end.unread
            await asyncio.sleep(PAUSE)
            assert end.unread == unread
            if not place.is_tls:  # else the record in the middle is neither sent nor not
                assert await read_exactly(end, sent) == MUCH[:sent]

    place.run(main())
