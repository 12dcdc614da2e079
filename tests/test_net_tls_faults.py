"""TLS that goes wrong: alerts, records cut off, forged or too long, and a start in mid-stream.

What the end of a face is told in each case is what asyncio's own loop tells; that it ends, that no
byte comes which was not sent, and that nothing is left, has to hold on any.
"""

import asyncio
import contextlib
import random
import socket
import ssl

import pytest
from net_faces import NET, PROTOCOL, STREAMS, TLS, either_role, places
from net_peer import accepted, connected, counts, listening, until

NOISE = random.Random(10).randbytes(1 << 17)
HELLO = NOISE[:300]
ALERT = b"\x15\x03\x03\x00\x02"
FATAL_HANDSHAKE_FAILURE = ALERT + b"\x02\x28"
HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def read_to_the_end(end):
    """The bytes, and the kind of error or None."""
    data = bytearray()
    try:
        while more := await end.read():
            data += more
    except OSError as error:  # as ssl.SSLError is
        return bytes(data), type(error)
    return bytes(data), None


async def forged(place, peer, end, raw):
    """Have the peer send what is no proper record; what the end makes of it."""
    counts["forged records"] += 1
    with contextlib.suppress(OSError):
        await peer.raw.send(raw)
    found = await read_to_the_end(end)
    if place.face is NET:
        end.abort()  # a transport does so itself
    return found


def record(length, body, kind=23):
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + body


BAD_RECORDS = {
    "too long": record(0xFFFF, NOISE[:0xFFFF]),
    "of the most length": record(16384 + 256, NOISE[: 16384 + 256]),
    "empty": record(0, b""),
    "forged": record(100, NOISE[:100]),
    "of an unknown kind": record(100, NOISE[:100], kind=99),
    "of an old version": b"\x17\x02\x00\x00\x20" + NOISE[:32],
    "clear text": HTTP,
    "an alert in clear text": FATAL_HANDSHAKE_FAILURE,
    "a handshake in clear text": record(4, b"\x01\x00\x00\x00", kind=22),
}


@places(links=TLS)
@either_role
@pytest.mark.parametrize("bad", BAD_RECORDS, ids=lambda bad: bad.replace(" ", "-"))
def test_bad_records_end_the_connection(place, role, bad):
    async def main():
        async with place.pair(role) as (end, peer):
            await peer.send(HELLO)
            # asyncio forgets what it has decrypted if an error comes in the same breath.
            assert await end.read() == HELLO
            data, error = await forged(place, peer, end, BAD_RECORDS[bad])
            assert data == b""
            assert error is not None and issubclass(error, (ssl.SSLError, ConnectionError)), error
            # The peer is told, or finds the connection closed; in no way does it hang.
            with contextlib.suppress(OSError):
                await peer.raw.rest()

    place.run(main())


@places(links=TLS)
@either_role
@pytest.mark.parametrize("kept", [1, 4, 5, 6, 100, 320])
def test_a_record_that_is_cut_off_gives_nothing(place, role, kept):
    async def main():
        async with place.pair(role) as (end, peer):
            await peer.send(HELLO)
            peer.tls.write(HELLO)
            part = peer.outgoing.read()[:kept]
            await peer.raw.send(part)
            peer.sock.shutdown(socket.SHUT_WR)
            data, _ = await read_to_the_end(end)
            assert data == HELLO
            counts["records cut off"] += 1

    place.run(main())


@places(links=TLS)
@either_role
def test_a_changed_byte_is_noticed(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            peer.tls.write(HELLO)
            sealed = bytearray(peer.outgoing.read())
            sealed[len(sealed) // 2] ^= 1
            data, error = await forged(place, peer, end, bytes(sealed))
            assert data == b"" and issubclass(error, (ssl.SSLError, ConnectionError))

    place.run(main())


@places(links=TLS)
@either_role
def test_a_record_twice_is_noticed(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            peer.tls.write(HELLO)
            sealed = peer.outgoing.read()
            data, error = await forged(place, peer, end, sealed + sealed)
            assert data in (b"", HELLO) and issubclass(error, (ssl.SSLError, ConnectionError))

    place.run(main())


@places(links=TLS)
@either_role
def test_records_in_many_pieces_and_many_in_one(place, role):
    async def main():
        async with place.pair(role) as (end, peer):
            for i in range(0, 3000, 30):
                peer.tls.write(NOISE[i : i + 30])
            sealed = peer.outgoing.read()
            reading = asyncio.ensure_future(read_to_the_end(end))
            await peer.raw.send(sealed[:2000])
            for i in range(2000, len(sealed), 11):
                await peer.raw.send(sealed[i : i + 11])
                await asyncio.sleep(0)
            await peer.shutdown()
            assert await reading == (NOISE[:3000], None)

    place.run(main())


@places(links=TLS)
@either_role
@pytest.mark.parametrize("ending", ["said", "cut off", "forged"])
def test_how_the_end_of_much_is_told(place, role, ending):
    """Full records, many at once: all before the end is read, and how it ended behind it."""

    async def main():
        async with place.pair(role) as (end, peer):
            for i in range(0, len(NOISE), 16384):
                peer.tls.write(NOISE[i : i + 16384])
            sealed = bytearray(peer.outgoing.read())
            whole = NOISE
            if ending == "forged":  # the sixth of eight, which comes together with others
                whole = NOISE[: 5 * 16384]
                sealed[len(sealed) * 11 // 16] ^= 1
            reading = asyncio.ensure_future(read_to_the_end(end))
            with contextlib.suppress(OSError):
                await peer.raw.send(sealed[:50_000])
                await asyncio.sleep(0.002)  # it reads much from now on
                await peer.raw.send(sealed[50_000:])
                if ending == "said":
                    await peer.shutdown()
                else:
                    peer.tls.write(HELLO)
                    await peer.raw.send(peer.outgoing.read()[:100])
                    peer.sock.shutdown(socket.SHUT_WR)
            data, error = await reading
            assert whole.startswith(data)
            if ending == "said":
                assert data == whole and error is None
            elif place.face is NET:
                # asyncio forgets what it has decrypted if an error comes in the same breath.
                assert data == whole and issubclass(error, ssl.SSLError)
                assert (error is ssl.SSLEOFError) == (ending == "cut off")
                end.abort()

    place.run(main())


@places(links=TLS)
def test_an_alert_in_the_handshake_of_a_client(place):
    async def main():
        with listening(place.link, place.folder) as listener:
            for answer in (FATAL_HANDSHAKE_FAILURE, HTTP, NOISE[:100], record(0xFFFF, b"")):
                connecting = asyncio.ensure_future(
                    place.face.connect(listener.getsockname(), place.client_tls)
                )
                peer = place.peer_of(await accepted(listener), is_server=True)
                await until(peer.raw.is_unread)
                await peer.raw.send(answer)
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await connecting
                peer.close()

    place.run(main())


@places(links=TLS)
def test_a_bad_handshake_does_not_end_a_server(place):
    async def main():
        listener = listening(place.link, place.folder)
        address = listener.getsockname()
        async with place.face.listening(listener, place.server_tls) as accept:
            accepting = asyncio.ensure_future(accept())
            for said in (FATAL_HANDSHAKE_FAILURE, HTTP, NOISE[:100], record(0xFFFF, b"")):
                peer = place.peer_of(await connected(address), is_server=False)
                await peer.raw.send(said)
                if said is not NOISE:
                    peer.sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    await peer.raw.rest()
                peer.close()
            peer = place.peer_of(await connected(address), is_server=False)
            await peer.shake_hands()
            end = await accepting
            await peer.send(HELLO)
            assert await end.read() == HELLO
            peer.close()
            end.abort()

    place.run(main())


@places(links=TLS)
def test_a_certificate_that_nobody_trusts(place):
    async def main():
        with listening(place.link, place.folder) as listener:
            connecting = asyncio.ensure_future(
                place.face.connect(listener.getsockname(), ssl.create_default_context())
            )
            peer = place.peer_of(await accepted(listener), is_server=True)
            with pytest.raises(ssl.SSLError):  # asyncio ends the connection without an alert
                await peer.shake_hands()
                await peer.receive()
            with pytest.raises(ssl.SSLCertVerificationError):
                await connecting
            peer.close()

    place.run(main())


# ── from clear text to TLS ───────────────────────────────────────────────────────────────────


@places([PROTOCOL, STREAMS], links=["tls"])
@either_role
@pytest.mark.parametrize("late", [0, 1, 2, 5])
def test_start_tls_in_mid_stream(place, role, late):
    """A line each way in clear text, then TLS, which the client begins at once. What has come of
    that stays in the kernel, since the server has stopped to read before it told the client to."""

    async def main():
        loop = asyncio.get_running_loop()
        is_server = role == "server"
        context = place.server_tls if is_server else place.client_tls
        name = None if is_server else "localhost"
        async with place.in_clear_text().pair(role) as (end, clear):
            await clear.send(b"hello\n")
            assert await end.read() == b"hello\n"
            if is_server:
                end.transport.pause_reading()
            await end.write(b"go on\n")
            assert await clear.exactly(6) == b"go on\n"
            peer = place.peer_of(clear.sock, is_server=not is_server)
            shaking = asyncio.ensure_future(peer.shake_hands())
            for _ in range(late):
                await asyncio.sleep(0.001)
            if place.face is STREAMS:
                await end.writer.start_tls(context, server_hostname=name)
                end.transport = end.writer.transport
            else:
                end.transport = end.protocol.transport = await loop.start_tls(
                    end.transport,
                    end.protocol,
                    context,
                    server_side=is_server,
                    server_hostname=name,
                )
            await shaking
            await peer.send(HELLO)
            assert await end.read() == HELLO
            await end.write(HELLO)
            assert await peer.exactly(len(HELLO)) == HELLO

    place.run(main())
