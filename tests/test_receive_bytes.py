"""Large messages, which a transport of ours receives into the bytes that its protocol gets: sizes
around what it expects, protocols that keep what they get and that don't, ends, and no memory."""

import asyncio
import contextlib
import gc
import socket
import struct
import tracemalloc

import pytest
from helpers import LONG, Log, end, until

import pyasync_c

LARGE = 16 * 1024
MOST = 256 * 1024
ROOM = 106_496  # what is made for messages of 100 000 bytes


@pytest.fixture(
    params=[
        pytest.param(pyasync_c.new_event_loop, id="ours"),
        pytest.param(asyncio.new_event_loop, id="asyncio"),
    ]
)
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(main(), LONG))

    return run


def our_run(main):
    with asyncio.Runner(loop_factory=pyasync_c.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main(), LONG))


def message(size, seed):
    """No two of them have a stretch in common at the same place."""
    period = bytes((seed * 31 + i * (seed % 7 + 1)) % 251 for i in range(251))
    return (period * (size // 251 + 1))[:size]


class Receiver(Log):
    """Has what one read brought in `chunks`, if it keeps that; how large they were in any case."""

    def __init__(self, keep=True):
        super().__init__()
        self.keep = keep
        self.chunks = []
        self.sizes = []

    def data_received(self, data):
        assert type(data) is bytes and data
        self.sizes.append(len(data))
        self.look(data)
        if self.keep:
            self.chunks.append(data)

    def look(self, data):
        pass


@contextlib.asynccontextmanager
async def connected(protocol):
    """Its transport, and the other side as a plain blocking socket that takes a whole message."""
    ours, peer = socket.socketpair()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    try:
        yield transport, peer
    finally:
        await end(transport, peer)


async def more_reads(protocol, count):
    await until(lambda: len(protocol.sizes) > count)


async def give(transport, peer, data, protocol):
    """All of it is there before the first byte is read; back when it has been."""
    want = sum(protocol.sizes) + len(data)
    transport.pause_reading()
    peer.sendall(data)
    await asyncio.sleep(0)
    transport.resume_reading()
    await until(lambda: sum(protocol.sizes) >= want)


SIZES = {
    "around the least": [LARGE - 1, LARGE - 1, LARGE, LARGE + 1, LARGE - 1, LARGE, LARGE] * 2,
    "the same": [100_000] * 6,
    "around the room": [100_000, ROOM - 1, ROOM, ROOM + 1, 100_000],
    "around the slack": [ROOM, ROOM - ROOM // 8, ROOM - ROOM // 8 - 1, ROOM - ROOM // 8 + 1],
    "far above": [20_000, 200_000, 20_000, MOST - 1, 20_000, MOST],
    "far below": [MOST, 20_000, 100, 17_000, 1, 250_000],
    "small and large in turn": [10, 100_000] * 6,
    "large, then small for long": [100_000] + [10] * 8 + [100_000],
    "large, then less for long": [250_000] + [20_000] * 8 + [250_000],
    "growing": [LARGE + 9_000 * i for i in range(27)],
    "shrinking": [MOST - 9_000 * i for i in range(27)],
}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "let go of"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_message_comes_whole_by_one_read(run, sizes, keep):
    """Whatever was expected: and what was kept stays what it was, whatever comes afterwards."""

    async def main():
        protocol = Receiver(keep)
        want = [message(size, i) for i, size in enumerate(sizes)]

        def look(data):
            expected = want[len(protocol.sizes) - 1]
            assert data == expected
            assert hash(data) == hash(expected)
            assert data + b"x" == expected + b"x"  # it ends where it says

        protocol.look = look
        async with connected(protocol) as (transport, peer):
            for data in want:
                await give(transport, peer, data, protocol)
            assert protocol.sizes == sizes
            assert protocol.chunks == (want if keep else [])

    run(main)


def test_more_than_is_read_at_once(run):
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            for i, size in enumerate([100_000, MOST + 1, 3 * MOST, 10]):
                protocol.chunks.clear()
                await give(transport, peer, message(size, i), protocol)
                assert b"".join(protocol.chunks) == message(size, i)
            assert max(protocol.sizes) == MOST

    run(main)


@pytest.mark.parametrize("keeping", [memoryview, lambda data: [data], bytearray])
def test_what_is_kept_by_any_way_is_not_received_into(run, keeping):
    async def main():
        protocol = Receiver(keep=False)
        kept = []
        protocol.look = lambda data: kept.append(keeping(data))
        want = [message(100_000, i) for i in range(5)]
        async with connected(protocol) as (transport, peer):
            for data in want:
                await give(transport, peer, data, protocol)
        assert [one[0] if type(one) is list else bytes(one) for one in kept] == want

    run(main)


def test_some_are_kept(run):
    async def main():
        protocol = Receiver(keep=False)
        kept = []
        protocol.look = lambda data: len(protocol.sizes) % 3 == 0 and kept.append(data)
        async with connected(protocol) as (transport, peer):
            for i in range(12):
                await give(transport, peer, message(100_000 + i, i), protocol)
        assert kept == [message(100_000 + i, i) for i in (2, 5, 8, 11)]

    run(main)


def test_an_echo_whose_peer_does_not_read_yet(run):
    """What could not be written keeps the object until it is."""

    async def main():
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            protocol.look = transport.write
            want = [message(200_000, i) for i in range(8)]
            for data in want:
                await give(transport, peer, data, protocol)
            assert transport.get_write_buffer_size() > 200_000
            peer.setblocking(False)
            got = bytearray()
            while len(got) < 8 * 200_000:
                got += await asyncio.get_running_loop().sock_recv(peer, 1 << 16)
            assert got == b"".join(want)

    run(main)


def test_max_size(run):
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, message(100_000, 1), protocol)
            for most in (99_999, LARGE, 5_000):
                protocol.sizes.clear()
                protocol.chunks.clear()
                transport.max_size = most
                await give(transport, peer, message(200_000, most), protocol)
                assert max(protocol.sizes) == most
                assert b"".join(protocol.chunks) == message(200_000, most)

    run(main)


@pytest.mark.parametrize("size", [10, 20_000, 100_000, 250_000])
def test_the_end_right_behind_it(run, size):
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, message(100_000, 1), protocol)
            peer.sendall(message(size, 2))
            peer.close()
            assert await protocol.lost is None
            assert protocol.events == ["made", "eof", "lost"]
            assert b"".join(protocol.chunks[1:]) == message(size, 2)

    run(main)


def test_a_reset_where_more_was_expected(run):
    async def main():
        protocol = Receiver()
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        await loop.connect_accepted_socket(lambda: protocol, ours)
        peer.sendall(bytes(300_000))
        await until(lambda: sum(protocol.sizes) == 300_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert isinstance(await protocol.lost, ConnectionResetError)

    run(main)


def test_pause_within_data_received(run):
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            protocol.look = lambda data: transport.pause_reading()
            for i, size in enumerate([100_000, 250_000, 20_000, 100_000]):
                count = len(protocol.sizes)
                peer.sendall(message(size, i))
                await more_reads(protocol, count)
                peer.sendall(b"later")
                await asyncio.sleep(0.005)
                assert protocol.sizes[count:] == [size]
                transport.resume_reading()
                await more_reads(protocol, count + 1)
                transport.resume_reading()
                assert protocol.chunks[count:] == [message(size, i), b"later"]

    run(main)


@pytest.mark.parametrize("action", ["abort", "close"])
def test_the_connection_ends_within_data_received(run, action):
    async def main():
        for size in (100_000, 250_000, 20_000, 10):
            protocol = Receiver()
            async with connected(protocol) as (transport, peer):
                await give(transport, peer, message(100_000, 1), protocol)
                protocol.look = lambda data: getattr(transport, action)()
                peer.sendall(message(size, 2))
                assert await protocol.lost is None
                assert protocol.chunks[1:] == [message(size, 2)]

    run(main)


def test_the_protocol_raises():
    async def main():
        loop = asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, message(100_000, 1), protocol)
            error = ValueError("of the protocol")

            def fail(data):
                raise error

            protocol.look = fail
            peer.sendall(message(100_000, 2))
            assert await protocol.lost is error
            assert errors == [error]

    our_run(main)


# ── memory ───────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def traced():
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def peak(transport, peer, data, protocol):
    """How much more than before was allocated at the worst."""
    transport.pause_reading()
    peer.sendall(data)
    await asyncio.sleep(0)
    gc.collect()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    count = len(protocol.sizes)
    transport.resume_reading()
    while len(protocol.sizes) == count:
        await asyncio.sleep(0)
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("size", [LARGE, 20_000, 100_000, MOST])
def test_what_nobody_keeps_allocates_nothing(size):
    async def main():
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            for i in range(3):
                await give(transport, peer, message(size, i), protocol)
            with traced():
                data = message(size, 3)
                assert await peak(transport, peer, data, protocol) < LARGE

    our_run(main)


@pytest.mark.parametrize(
    "sizes",
    [[LARGE], [20_000], [100_000], [200_001], [MOST], [250_000, 20_000, 20_000, 20_000]],
    ids=str,
)
def test_what_is_kept_takes_no_more_than_its_size_and_an_eighth(sizes):
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            with traced():
                await give(transport, peer, message(sizes[0], 0), protocol)
                before, _ = tracemalloc.get_traced_memory()
                for i in range(8):
                    for size in sizes:
                        await give(transport, peer, message(size, i), protocol)
                gc.collect()
                taken = tracemalloc.get_traced_memory()[0] - before
            assert 8 * sum(sizes) < taken < 8 * sum(sizes) * 9 // 8 + 4096

    our_run(main)


def test_a_small_message_between_large_ones_changes_nothing():
    async def main():
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, bytes(100_000), protocol)
            await give(transport, peer, bytes(100_000), protocol)
            with traced():
                for _ in range(3):
                    for _ in range(3):
                        assert await peak(transport, peer, bytes(10), protocol) < LARGE
                    assert await peak(transport, peer, bytes(100_000), protocol) < LARGE

    our_run(main)


def test_the_largest_of_those_that_were_less_is_expected():
    async def main():
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            for size in (250_000, 250_000, 20_000, 10, 10, 10):
                await give(transport, peer, bytes(size), protocol)
            with traced():
                assert await peak(transport, peer, bytes(20_000), protocol) < 22_000
                assert await peak(transport, peer, bytes(20_000), protocol) < LARGE

    our_run(main)


def test_less_is_expected_after_a_while():
    async def main():
        protocol = Receiver()
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, bytes(250_000), protocol)
            with traced():
                first = await peak(transport, peer, bytes(20_000), protocol)
                for _ in range(3):
                    await give(transport, peer, bytes(20_000), protocol)
                then = await peak(transport, peer, bytes(20_000), protocol)
                for _ in range(4):
                    await give(transport, peer, bytes(10), protocol)
                at_last = await peak(transport, peer, bytes(10), protocol)
        assert first > 250_000 > 30_000 > then > 20_000 > 10_000 > at_last

    our_run(main)


def test_idle_connections_hold_nothing():
    async def main():
        protocols = [Receiver(keep=False) for _ in range(40)]
        async with contextlib.AsyncExitStack() as stack:
            ends = [await stack.enter_async_context(connected(p)) for p in protocols]
            with traced():
                for (transport, peer), protocol in zip(ends, protocols, strict=True):
                    for i in range(2):
                        await give(transport, peer, message(200_000, i), protocol)
                gc.collect()
                now, _ = tracemalloc.get_traced_memory()
            assert now < 3 * MOST  # the loop's buffer and one object, beside asyncio's own

    our_run(main)


def test_a_loop_leaves_nothing():
    async def main():
        protocol = Receiver(keep=False)
        async with connected(protocol) as (transport, peer):
            for _ in range(3):
                await give(transport, peer, bytes(200_000), protocol)

    with traced():
        for _ in range(8):
            our_run(main)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 3 * 200_000


class Failing(Receiver):
    """Says when it has received or its connection has ended."""

    def __init__(self, heal):
        super().__init__()
        self.heal = heal
        self.happened = asyncio.Event()

    def look(self, data):
        self.heal()
        self.happened.set()

    def connection_lost(self, exc):
        self.heal()
        super().connection_lost(exc)
        self.happened.set()


@pytest.mark.parametrize("size", [100_000, 250_000, 50_000, 10, 0])
def test_no_memory(size):
    """Each allocation of a read fails once: the connection ends with that error, as no byte may be
    lost in silence, or all has been received."""
    testcapi = pytest.importorskip("_testcapi")

    async def attempt(n):
        loop = asyncio.get_running_loop()
        errors = []

        def handle(loop, context):
            testcapi.remove_mem_hooks()
            errors.append(context["exception"])

        loop.set_exception_handler(handle)
        protocol = Failing(testcapi.remove_mem_hooks)
        async with connected(protocol) as (transport, peer):
            await give(transport, peer, message(100_000, 1), protocol)
            protocol.happened.clear()
            transport.pause_reading()
            if size == 0:
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.sendall(message(size, 2))
            await asyncio.sleep(0.001)

            def resume():
                transport.resume_reading()
                testcapi.set_nomemory(n - 1, n)

            loop.call_soon(resume)
            await protocol.happened.wait()
            testcapi.remove_mem_hooks()
            if not errors:
                assert b"".join(protocol.chunks[1:]) == message(size, 2)
                return False
            await protocol.lost
            assert all(isinstance(error, MemoryError) for error in errors)
            assert len(protocol.chunks) == 1
            return True

    async def main():
        return [await attempt(n) for n in range(1, 7)]

    failed = our_run(main)
    assert failed[0] and not failed[-1]
