"""Thousands of connections with every fault that a peer can have, after which nothing is left.

Four servers answer on one loop: by streams and by a protocol, over TCP and over Unix sockets. Their
clients come in groups of a hundred, and most of them misbehave. PAC_SOAK_CONNECTIONS says how many
there are, 10 000 unless set; `make soak` has twenty times as many.
"""

import asyncio
import collections
import contextlib
import gc
import os
import random
import socket
import struct
import sys

import pytest
from helpers import collect, open_fds

import pyasync_c

CONNECTIONS = int(os.environ.get("PAC_SOAK_CONNECTIONS", "10000"))
GROUP = 100
SETTLED = 0.2
"""After this part of all groups what is kept for ever has been made: caches, pools, free lists."""
GROUP_SECONDS_MAX = 20.0

# What may be more at the end than when it had settled. A connection that leaked in every group
# would be 80 of them: more than a thousand objects and blocks. Where sanitizers check the memory,
# the resident set holds what they keep from being used again, 256 MiB at the most.
OBJECTS_MORE_MAX = 100
BLOCKS_MORE_MAX = 800
RESIDENT_MORE_MAX = (8 if not os.environ.get("PAC_SANITIZE") else 300) << 20

# A frame is a command, the length of its payload, and the payload.
HEADER = struct.Struct("!cI")
ECHO, STALL, RAISE, ABORT = b"e", b"s", b"r", b"a"
SMALL = 300
LARGE = 64 * 1024
KERNEL_BUFFER = 4096
"""So that LARGE frames fill what the kernel holds, and the transport has to wait."""


class PlannedError(Exception):
    """What the servers raise when they are told to."""


def frame(command, payload=b""):
    return HEADER.pack(command, len(payload)) + payload


# ── the servers ──────────────────────────────────────────────────────────────────────────────


class Server:
    """What both kinds share: who is connected, and the tasks that clients let wait."""

    def __init__(self):
        self.connected = 0
        self.accepted = 0
        self.stalled = {}
        self.paused = 0
        """How often a writer had to wait for its peer."""

    def enter(self, transport):
        self.connected += 1
        self.accepted += 1
        transport.set_write_buffer_limits(high=2 * KERNEL_BUFFER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)

    def leave(self):
        self.connected -= 1

    async def stall(self, token):
        """Wait for ever, until the client named `token` has this cancelled."""
        self.stalled[token] = asyncio.current_task()
        await asyncio.get_running_loop().create_future()


class StreamServer(Server):
    async def start(self, listener):
        start = asyncio.start_server
        if listener.family == socket.AF_UNIX:
            start = asyncio.start_unix_server
        return await start(self.handle, sock=listener, limit=4 * KERNEL_BUFFER, backlog=1024)

    async def handle(self, reader, writer):
        self.enter(writer.transport)
        try:
            await self.answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.leave()

    async def answer(self, reader, writer):
        while True:
            command, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            payload = await reader.readexactly(size)
            if command == STALL:
                await self.stall(payload)
            elif command == RAISE:
                raise PlannedError
            writer.write(payload)
            if command == ABORT:
                writer.transport.abort()
            before = writer.transport.get_write_buffer_size()
            await writer.drain()
            self.paused += before > 2 * KERNEL_BUFFER


class ProtocolServer(Server):
    async def start(self, listener):
        loop = asyncio.get_running_loop()
        create = loop.create_server
        if listener.family == socket.AF_UNIX:
            create = loop.create_unix_server
        return await create(lambda: Answering(self), sock=listener, backlog=1024)


class Answering(asyncio.Protocol):
    """One connection of a ProtocolServer."""

    def __init__(self, server):
        self.server = server
        self.received = bytearray()
        self.task = None

    def connection_made(self, transport):
        self.transport = transport
        self.server.enter(transport)

    def connection_lost(self, error):
        assert error is None or isinstance(error, (ConnectionError, PlannedError)), error
        if self.task is not None:
            self.task.cancel()
        self.server.leave()

    def pause_writing(self):
        self.server.paused += 1
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()

    def data_received(self, data):
        self.received += data
        while len(self.received) >= HEADER.size:
            command, size = HEADER.unpack_from(self.received)
            end = HEADER.size + size
            if len(self.received) < end:
                return
            payload = bytes(self.received[HEADER.size : end])
            del self.received[:end]
            if command == STALL:
                self.task = asyncio.create_task(self.server.stall(payload))
                self.task.add_done_callback(lambda _: self.transport.close())
                continue
            if command == RAISE:
                raise PlannedError
            self.transport.write(payload)
            if command == ABORT:
                self.transport.abort()


# ── the clients ──────────────────────────────────────────────────────────────────────────────


class Client:
    """One end of a connection, on loop.sock_*; what it does is a method of the class."""

    def __init__(self, server, address, random):
        self.server = server
        self.address = address
        self.random = random
        self.loop = asyncio.get_running_loop()

    def bytes(self, size):
        return self.random.randbytes(size)

    async def run(self, behaviour):
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with socket.socket(family) as self.socket:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)
            self.socket.setblocking(False)
            await self.loop.sock_connect(self.socket, self.address)
            await behaviour(self)

    async def send(self, data):
        await self.loop.sock_sendall(self.socket, data)

    async def receive(self, size):
        """So many bytes, or fewer at the end of what there is."""
        received = bytearray()
        while len(received) < size:
            data = await self.loop.sock_recv(self.socket, min(size - len(received), 65536))
            if not data:
                break
            received += data
        return bytes(received)

    async def open_stream(self):
        """The connection goes on as a stream."""
        sock = socket.socket(fileno=self.socket.detach())
        return await asyncio.open_connection(sock=sock)

    async def see_the_end(self):
        try:
            assert await self.receive(1) == b""
        except ConnectionError:
            pass

    async def is_polite(self):
        for _ in range(self.random.randint(1, 4)):
            payload = self.bytes(SMALL)
            await self.send(frame(ECHO, payload))
            assert await self.receive(SMALL) == payload

    async def says_nothing(self):
        await asyncio.sleep(self.random.choice((0, 0.001)))

    async def resets(self):
        """The last frame or a part of it is under way, and what comes back is never read."""
        data = frame(ECHO, self.bytes(SMALL)) * 3
        await self.send(data[: self.random.randint(1, len(data))])
        await asyncio.sleep(self.random.choice((0, 0.001)))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def closes_in_mid_message(self):
        data = frame(ECHO, self.bytes(LARGE))
        await self.send(data[: self.random.randint(1, KERNEL_BUFFER)])

    async def closes_half(self):
        """What it had sent before is answered all the same."""
        payload = self.bytes(SMALL)
        await self.send(frame(ECHO, payload) * 3)
        self.socket.shutdown(socket.SHUT_WR)
        assert await self.receive(4 * SMALL) == payload * 3

    async def reads_slowly(self):
        payload = self.bytes(LARGE)
        sending = asyncio.create_task(self.send(frame(ECHO, payload)))
        received = b""
        while len(received) < LARGE:
            await asyncio.sleep(0.001)
            received += await self.receive(min(LARGE // 8, LARGE - len(received)))
        await sending
        assert received == payload

    async def never_reads(self):
        """Sends until the server takes no more, as nobody takes what it sends."""
        data = frame(ECHO, self.bytes(LARGE))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    await self.send(data)

    async def has_its_handler_cancelled(self):
        token = self.bytes(16)
        await self.send(frame(STALL, token))
        while token not in self.server.stalled:
            await asyncio.sleep(0.001)
        self.server.stalled.pop(token).cancel()
        await self.see_the_end()

    async def leaves_before_its_handler(self):
        """The connection goes first, then the handler."""
        token = self.bytes(16)
        await self.send(frame(STALL, token))
        while token not in self.server.stalled:
            await asyncio.sleep(0.001)
        task = self.server.stalled.pop(token)
        self.socket.close()
        await asyncio.sleep(0.001)
        task.cancel()

    async def makes_the_server_raise(self):
        await self.send(frame(RAISE))
        await self.see_the_end()

    async def is_aborted(self):
        await self.send(frame(ABORT, self.bytes(LARGE)))
        with contextlib.suppress(ConnectionError):
            assert len(await self.receive(LARGE)) < LARGE

    async def aborts_its_own_stream(self):
        """A stream on the client's side, with more to send than the peer has taken."""
        reader, writer = await self.open_stream()
        writer.write(frame(ECHO, self.bytes(4 * LARGE)))
        await asyncio.sleep(self.random.choice((0, 0.001)))
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def streams_politely(self):
        reader, writer = await self.open_stream()
        payload = self.bytes(LARGE)
        writer.write(frame(ECHO, payload))
        assert await reader.readexactly(LARGE) == payload
        writer.close()
        await writer.wait_closed()


BEHAVIOURS = [
    Client.is_polite,
    Client.says_nothing,
    Client.resets,
    Client.closes_in_mid_message,
    Client.closes_half,
    Client.reads_slowly,
    Client.never_reads,
    Client.has_its_handler_cancelled,
    Client.leaves_before_its_handler,
    Client.makes_the_server_raise,
    Client.is_aborted,
    Client.aborts_its_own_stream,
    Client.streams_politely,
]


# ── the soak ─────────────────────────────────────────────────────────────────────────────────


def small_listener(family, address):
    listener = socket.socket(family)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listener.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)
    listener.bind(address)
    return listener


class Soak:
    """Four servers, and the groups of their clients."""

    def __init__(self, folder):
        self.servers = [StreamServer(), StreamServer(), ProtocolServer(), ProtocolServer()]
        self.folder = folder
        self.random = random.Random(1)
        self.ran = collections.Counter()
        self.planned = 0
        self.reports = []

    def take_report(self, loop, context):
        if isinstance(context.get("exception"), PlannedError):
            self.planned += 1
        else:
            self.reports.append(str(context))

    @contextlib.asynccontextmanager
    async def serving(self):
        with contextlib.ExitStack() as stack:
            self.addresses = []
            for i, server in enumerate(self.servers):
                if i % 2:
                    listener = small_listener(socket.AF_UNIX, str(self.folder / str(i)))
                else:
                    listener = small_listener(socket.AF_INET, ("127.0.0.1", 0))
                self.addresses.append(listener.getsockname())
                stack.enter_context(contextlib.closing(await server.start(listener)))
            yield

    async def group(self, number):
        """A hundred at once: every behaviour at every server, the groups taking turns at them."""
        async with asyncio.timeout(GROUP_SECONDS_MAX), asyncio.TaskGroup() as tasks:
            for i in range(number * GROUP, (number + 1) * GROUP):
                server = i % len(self.servers)
                behaviour = BEHAVIOURS[i // len(self.servers) % len(BEHAVIOURS)]
                self.ran[behaviour] += 1
                client = Client(self.servers[server], self.addresses[server], self.random)
                tasks.create_task(client.run(behaviour))
        async with asyncio.timeout(GROUP_SECONDS_MAX):
            while any(server.connected for server in self.servers):
                await asyncio.sleep(0.001)

    async def run(self, connections):
        """What there is more of at the end than there was when it had settled."""
        groups = connections // GROUP
        for number in range(groups):
            await self.group(number)
            if number == int(groups * SETTLED):
                settled = Held.now()
        return settled, Held.now()


class Held(collections.namedtuple("Held", "objects blocks resident")):
    """The memory of this process: what the collector knows, Python's blocks, bytes."""

    @classmethod
    def now(cls):
        collect()
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return cls(len(gc.get_objects()), sys.getallocatedblocks(), resident)


@pytest.mark.timeout(max(120, CONNECTIONS / 100))
def test_soak(tmp_path):
    soak = Soak(tmp_path)

    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, pyasync_c.EventLoop)
        loop.set_exception_handler(soak.take_report)
        await asyncio.sleep(0)
        fds, watched = open_fds(), len(loop._selector.get_map())
        async with soak.serving():
            settled, ended = await soak.run(CONNECTIONS)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert open_fds() == fds
        assert len(loop._selector.get_map()) == watched
        metrics = pyasync_c.RuntimeMetrics(*loop._metrics())
        assert metrics.timers_active == 0
        assert metrics.tasks_alive == 1
        return settled, ended

    settled, ended = pyasync_c.run(main())
    print(f"{CONNECTIONS} connections; settled: {settled}, ended: {ended}")
    assert not soak.reports, soak.reports[:3]
    assert soak.planned == soak.ran[Client.makes_the_server_raise]
    assert sum(server.accepted for server in soak.servers) == sum(soak.ran.values())
    assert not any(server.stalled for server in soak.servers)
    assert all(server.paused for server in soak.servers), "nobody had to wait for a slow reader"
    assert ended.objects - settled.objects < OBJECTS_MORE_MAX
    assert ended.blocks - settled.blocks < BLOCKS_MORE_MAX
    assert ended.resident - settled.resident < RESIDENT_MORE_MAX
