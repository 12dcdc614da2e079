"""Framed: lines, delimiters, lengths, in both directions, on every loop."""

import asyncio
import random
import struct

import pytest
from helpers import every_loop
from net_testing import (
    cancel,
    nothing_left,
    stream_and_socket,
    take,
    waiting,
    what_the_loops_open_once_a_process,
)

import pyasync_c
from pyasync_c import net

__all__ = ["nothing_left", "what_the_loops_open_once_a_process"]

LENGTHS = [(w, o) for w in (1, 2, 4, 8) for o in ("big", "little")]
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def packed(frame, width, order):
    return struct.pack(("<" if order == "little" else ">") + CODES[width], len(frame)) + frame


@every_loop
def test_lines(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            framed = net.Framed.lines(stream)
            assert framed.stream is stream and repr(framed) == f"<Framed lines of {stream!r}>"
            peer.send(b"one\ntwo\r\n\n\r\nfo")
            assert [await framed.recv() for _ in range(4)] == [b"one", b"two", b"", b""]
            task = await waiting(framed.recv())
            peer.send(b"ur\nlast")
            assert await task == b"four"
            peer.close()
            assert await framed.recv() == b"last"
            assert await framed.recv() is None
            assert [frame async for frame in framed] == []

    run(main())


@every_loop
def test_delimited(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            framed = net.Framed.delimited(stream, b"\0\0")
            peer.send(b"one\0\0t\0wo\0\0\0\0thr")
            assert await framed.recv() == b"one"
            assert [await anext(framed) for _ in range(2)] == [b"t\0wo", b""]
            peer.close()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await framed.recv()
            assert caught.value.partial == b"thr"
            assert await framed.recv() is None

    run(main())


@every_loop
@pytest.mark.parametrize(("width", "order"), LENGTHS)
def test_lengths_in_both_directions(run, width, order):
    rng = random.Random(width)
    most = 255 if width == 1 else 100_000 if width > 2 else 65535
    sizes = [0, 1, most, 100, min(most, 16384), min(most, 16385), 7]
    frames = [rng.randbytes(size) for size in sizes]

    async def main():
        a, b = net.UnixStream.pair()
        async with a, b:
            ours = net.Framed.length_delimited(a, width, order)
            theirs = net.Framed.length_delimited(b, width=width, byteorder=order)

            async def send():
                for frame in frames[:3]:
                    await ours.send(frame)
                await ours.send_all(frames[3:])
                await a.shutdown()

            sending = asyncio.ensure_future(send())
            assert [frame async for frame in theirs] == frames
            await sending
            reader, _ = a.split()
            await theirs.send(b"back")
            assert await net.Framed.length_delimited(reader, width, order).recv() == b"back"

    run(main())


@every_loop
def test_what_is_sent(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            await net.Framed.lines(stream).send(b"line")
            await net.Framed.lines(stream).send_all([b"a", bytearray(b""), b"b\r"])
            await net.Framed.delimited(stream, b"--").send(memoryview(b"x-y"))
            for width, order in LENGTHS:
                await net.Framed.length_delimited(stream, width, order).send(b"frame")
            await net.Framed.lines(stream).send_all([])
            expected = b"line\na\n\nb\r\nx-y--" + b"".join(packed(b"frame", *x) for x in LENGTHS)
            assert await take(peer, len(expected)) == expected
        peer.close()

    run(main())


@every_loop
def test_limits(run):
    async def main():
        for make, good, bad in [
            (net.Framed.lines, b"12345\r\n", b"123456\n"),
            (net.Framed.lines, b"12345\n", b"123456789"),
            (lambda s, limit: net.Framed.delimited(s, b"--", limit=limit), b"12345--", b"123456--"),
            (lambda s, limit: net.Framed.delimited(s, b"--", limit=limit), b"--", b"12345678"),
            (lambda s, limit: net.Framed.length_delimited(s, 4, limit=limit), b"\0\0\0\00512345",
             b"\0\0\0\006"),
            (lambda s, limit: net.Framed.length_delimited(s, 8, limit=limit),
             bytes(7) + b"\00512345", b"\xff" * 8),
        ]:  # fmt: skip
            stream, peer = stream_and_socket()
            async with stream:
                framed = make(stream, limit=5)
                peer.send(good)
                assert await framed.recv() in (b"12345", b"")
                peer.send(bad)
                for _ in range(2):
                    with pytest.raises(asyncio.LimitOverrunError):
                        await framed.recv()
                assert await stream.read() == bad
                await framed.send(b"12345")
                with pytest.raises(ValueError, match="at most 5"):
                    framed.send(b"123456")
            peer.close()

    run(main())


@every_loop
def test_ends_within_a_frame(run):
    async def main():
        for sent in (b"\0\0", b"\0\0\0\005123", b"\0\1\0\0" + bytes(1000)):
            stream, peer = stream_and_socket()
            async with stream:
                framed = net.Framed.length_delimited(stream)
                peer.send(sent)
                peer.close()
                with pytest.raises(asyncio.IncompleteReadError):
                    await framed.recv()
                assert await framed.recv() is None

    run(main())


@every_loop
def test_bad_input(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            lines = net.Framed.lines(stream)
            for call, error in [
                (lambda: net.Framed(), TypeError),
                (lambda: net.Framed.lines(5), TypeError),
                (lambda: net.Framed.lines(stream, 5), TypeError),
                (lambda: net.Framed.lines(stream, limit=0), ValueError),
                (lambda: net.Framed.delimited(stream), TypeError),
                (lambda: net.Framed.delimited(stream, b""), ValueError),
                (lambda: net.Framed.delimited(stream, "x"), TypeError),
                (lambda: net.Framed.length_delimited(stream, 3), ValueError),
                (lambda: net.Framed.length_delimited(stream, 16), OverflowError),
                (lambda: net.Framed.length_delimited(stream, 4, "middle"), ValueError),
                (lambda: net.Framed.length_delimited(stream, 4, 5), TypeError),
                (lambda: net.Framed.length_delimited(stream, 1).send(bytes(256)), ValueError),
                (lambda: lines.send("text"), TypeError),
                (lambda: lines.send(b"two\nlines"), ValueError),
                (lambda: lines.send_all(b"abc"), TypeError),
                (lambda: lines.send_all([b"a", 5]), TypeError),
                (lambda: net.Framed.delimited(stream, b"ab").send(b"1ab2"), ValueError),
            ]:
                with pytest.raises(error):
                    call()
        peer.close()

    run(main())


@every_loop
@pytest.mark.parametrize("size", [50, 40_000])
@pytest.mark.parametrize("kind", ["lines", "delimited", "length_delimited"])
def test_a_receive_that_is_given_up_has_taken_nothing(run, kind, size):
    """A few bytes at a time, and between any two of them the receive is cancelled or loses."""
    rng = random.Random(size)
    frame = rng.randbytes(size).replace(b"\n", b"_").replace(b"\r", b"_").replace(b"-", b"_")
    piece = size // 25
    framing = {
        "lines": (net.Framed.lines, frame + b"\n"),
        "delimited": (lambda s: net.Framed.delimited(s, b"--"), frame + b"--"),
        "length_delimited": (net.Framed.length_delimited, packed(frame, 4, "big")),
    }
    make, sent = framing[kind]

    async def main():
        stream, peer = stream_and_socket("unix")
        async with stream:
            framed = make(stream)
            for at in range(0, len(sent) - piece, piece):
                peer.send(sent[at : at + piece])
                rest = sent[at + piece :]
                if at // piece % 2:
                    await cancel(await waiting(framed.recv()))
                else:
                    index, _ = await pyasync_c.select(framed.recv(), pyasync_c.sleep(0.002))
                    assert index == 1
            peer.send(rest + sent)
            assert await framed.recv() == frame
            assert await framed.recv() == frame
        peer.close()

    run(main())


@every_loop
def test_frames_under_random_splits(run):
    rng = random.Random(7)
    frames = [rng.randbytes(rng.choice([0, 1, 10, 1000, 30_000])) for _ in range(300)]
    wire = b"".join(packed(frame, 4, "big") for frame in frames)

    async def main():
        stream, peer = stream_and_socket("unix")
        loop = asyncio.get_running_loop()

        async def send():
            at = 0
            while at < len(wire):
                size = rng.choice([1, 3, 100, 20_000])
                await loop.sock_sendall(peer, wire[at : at + size])
                at += size
            peer.close()

        sending = asyncio.ensure_future(send())
        async with stream:
            assert [frame async for frame in net.Framed.length_delimited(stream)] == frames
        await sending

    run(main())
