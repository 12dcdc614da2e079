"""The faces of the network: the ways in which a program may hold one end of a connection.

Each face makes Ends with one set of names, so that one test can ask the same of all. What a test
asks for is tried on asyncio's own loop as well: that is what says that the test is right.
"""

import asyncio
import contextlib
import errno
import os
import socket
import weakref

import pytest
from helpers import collect, open_fds, run_uvloop, unraisable, uvloop
from net_peer import (
    Peer,
    TlsPeer,
    accepted,
    connected,
    counts,
    listening,
    make_small,
    tls_contexts,
)

import pyasync_c
from pyasync_c import net

LONG = 20  # seconds, for what has to come: never waited for in full
READ_MAX = 65536
HELD_MAX = 65536
"""So much do the faces here take before they let the peer wait."""


# ── the faces ────────────────────────────────────────────────────────────────────────────────


class Receiver(asyncio.Protocol):
    """Keeps what it is given, and lets the peer wait while that is much."""

    def __init__(self, made=None):
        self.made = made
        self.transport = None
        self.received = bytearray()
        self.is_paused = False
        self.events = []
        """The callbacks so far, data left out."""
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.error = None

    @property
    def is_over(self):
        return "connection_lost" in self.events

    def connection_made(self, transport):
        assert not self.events
        self.events.append("connection_made")
        self.transport = transport
        if self.made is not None:
            self.made(self)

    def take(self, data):
        assert data and not self.is_paused and "eof_received" not in self.events, self.events
        assert not self.is_over
        self.received += data
        if len(self.received) > HELD_MAX:
            self.is_paused = True
            self.transport.pause_reading()
        self.changed.set()

    def data_received(self, data):
        self.take(data)

    def eof_received(self):
        assert not self.is_over and "eof_received" not in self.events
        self.events.append("eof_received")
        self.changed.set()
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self):
        assert self.writable.is_set()
        self.events.append("pause_writing")
        self.writable.clear()

    def resume_writing(self):
        assert not self.writable.is_set()
        self.events.append("resume_writing")
        self.held_when_resumed = self.transport.get_write_buffer_size()
        self.writable.set()

    def connection_lost(self, error):
        assert not self.is_over
        self.events.append("connection_lost")
        self.error = error
        self.changed.set()
        self.writable.set()


class BufferedReceiver(Receiver, asyncio.BufferedProtocol):
    """The same, into a buffer of its own that is smaller than what comes."""

    def __init__(self, made=None):
        super().__init__(made)
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint):
        if self.transport.get_extra_info("sslcontext") is not None:
            # asyncio's TLS slices what it gets here to fill it from the middle on, and a slice of
            # a bytearray is a copy: the bytes would be lost.
            return memoryview(self.buffer)
        return self.buffer

    def buffer_updated(self, n):
        self.take(self.buffer[:n])


class ProtocolEnd:
    is_closed = False
    """Whether close() has come to its end."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.transport = protocol.transport

    @property
    def socket(self):
        return self.transport.get_extra_info("socket")

    @property
    def held(self):
        """Bytes that were written and that the kernel has not taken."""
        return self.transport.get_write_buffer_size()

    @property
    def unread(self):
        return len(self.protocol.received)

    async def read(self, most=READ_MAX):
        protocol = self.protocol
        while not protocol.received:
            if protocol.error is not None:
                raise protocol.error
            if protocol.is_over or "eof_received" in protocol.events:
                return b""
            protocol.changed.clear()
            await protocol.changed.wait()
        data = bytes(protocol.received[:most])
        del protocol.received[:most]
        if protocol.is_paused and not protocol.is_over:
            protocol.is_paused = False
            protocol.transport.resume_reading()
        return data

    async def write(self, data):
        await self.protocol.writable.wait()
        self.transport.write(data)
        await self.protocol.writable.wait()
        if self.protocol.is_over:
            raise self.protocol.error or ConnectionResetError("the connection is over")

    async def shutdown(self):
        self.transport.write_eof()

    async def close(self):
        self.transport.close()
        while not self.protocol.is_over:
            self.protocol.changed.clear()
            await self.protocol.changed.wait()
        self.is_closed = True
        if self.protocol.error is not None:
            raise self.protocol.error

    def abort(self):
        self.transport.abort()


class ProtocolFace:
    """asyncio.Protocol on transports of the loop."""

    name = "protocol"
    links = ("tcp", "unix", "tls")
    half_closing = ("tcp", "unix")
    """The links over which either side may end its half alone."""
    factory = Receiver

    @contextlib.asynccontextmanager
    async def listening(self, listener, tls):
        """Gives a function that waits for the next connection."""
        ends = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def made(protocol):
            ends.put_nowait(self.remember(ProtocolEnd(protocol)))

        create = loop.create_unix_server
        if listener.family != socket.AF_UNIX:
            create = loop.create_server
        server = await create(lambda: self.factory(made), sock=listener, ssl=tls)
        try:
            yield ends.get
        finally:
            server.close()

    async def connect(self, address, tls):
        loop = asyncio.get_running_loop()
        if isinstance(address, str):
            _, protocol = await loop.create_unix_connection(self.factory, address)
        else:
            name = None if tls is None else "localhost"
            _, protocol = await loop.create_connection(
                self.factory, *address, ssl=tls, server_hostname=name
            )
        return self.remember(ProtocolEnd(protocol))

    def remember(self, end):
        made_objects.append(weakref.ref(end.transport))
        made_objects.append(weakref.ref(end.protocol))
        return end


class BufferedFace(ProtocolFace):
    """asyncio.BufferedProtocol."""

    name = "buffered"
    factory = BufferedReceiver


class StreamsEnd:
    is_closed = False

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.transport = writer.transport

    socket = ProtocolEnd.socket
    held = ProtocolEnd.held

    @property
    def unread(self):
        return len(self.reader._buffer)

    async def read(self, most=READ_MAX):
        return await self.reader.read(most)

    async def write(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def shutdown(self):
        self.writer.write_eof()

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            self.is_closed = True
            raise
        self.is_closed = True

    def abort(self):
        self.transport.abort()


class StreamsFace:
    """asyncio.open_connection and start_server."""

    name = "streams"
    links = ("tcp", "unix", "tls")
    half_closing = ("tcp", "unix")

    @contextlib.asynccontextmanager
    async def listening(self, listener, tls):
        ends = asyncio.Queue()

        def made(reader, writer):
            ends.put_nowait(self.remember(StreamsEnd(reader, writer)))

        start = asyncio.start_unix_server
        if listener.family != socket.AF_UNIX:
            start = asyncio.start_server
        server = await start(made, sock=listener, ssl=tls)
        try:
            yield ends.get
        finally:
            server.close()

    async def connect(self, address, tls):
        if isinstance(address, str):
            end = StreamsEnd(*await asyncio.open_unix_connection(address))
        else:
            name = None if tls is None else "localhost"
            end = StreamsEnd(
                *await asyncio.open_connection(*address, ssl=tls, server_hostname=name)
            )
        return self.remember(end)

    def remember(self, end):
        for thing in (end.transport, end.reader, end.writer):
            made_objects.append(weakref.ref(thing))
        return end


class SockEnd:
    is_closed = False
    held = unread = 0
    """Nothing is kept outside of the kernel."""

    def __init__(self, sock):
        self.socket = sock
        self.loop = asyncio.get_running_loop()

    async def read(self, most=READ_MAX):
        return await self.loop.sock_recv(self.socket, most)

    async def write(self, data):
        await self.loop.sock_sendall(self.socket, data)

    async def shutdown(self):
        self.socket.shutdown(socket.SHUT_WR)

    async def close(self):
        self.socket.close()

    def abort(self):
        self.socket.close()


class SockFace:
    """loop.sock_accept, sock_connect, sock_recv and sock_sendall."""

    name = "sock"
    links = half_closing = ("tcp", "unix")

    @contextlib.asynccontextmanager
    async def listening(self, listener, tls):
        loop = asyncio.get_running_loop()

        async def accept():
            sock, _ = await loop.sock_accept(listener)
            return SockEnd(sock)

        try:
            yield accept
        finally:
            listener.close()

    async def connect(self, address, tls):
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return SockEnd(sock)


class NetEnd:
    """A TcpStream or UnixStream."""

    is_closed = False
    held = unread = 0

    def __init__(self, stream):
        self.stream = stream
        self.socket = stream  # it has setsockopt

    async def read(self, most=READ_MAX):
        return await self.stream.read(most)

    async def write(self, data):
        await self.stream.write_all(data)

    async def shutdown(self):
        await self.stream.shutdown()

    async def close(self):
        await self.stream.aclose()

    def abort(self):
        self.stream.close()


class NetTlsEnd(NetEnd):
    """A TlsStream."""

    async def close(self):
        try:
            await self.stream.shutdown()
        finally:
            await self.stream.aclose()


class NetFace:
    """pyasync_c.net."""

    name = "net"
    links = half_closing = ("tcp", "unix", "tls", "tls-unix")

    @contextlib.asynccontextmanager
    async def listening(self, listener, tls):
        kind = net.UnixListener if listener.family == socket.AF_UNIX else net.TcpListener
        listener = kind.from_socket(listener)

        async def accept():
            stream, _ = await listener.accept()
            return NetEnd(stream)

        try:
            if tls is None:
                yield accept
            else:
                async with self.shaking_hands(listener, tls) as ends:
                    yield ends.get
        finally:
            listener.close()

    @contextlib.asynccontextmanager
    async def shaking_hands(self, listener, tls):
        """A queue of those who have come so far; a handshake holds up nobody but its peer."""
        ends = asyncio.Queue()

        async def shake_hands(stream):
            with contextlib.suppress(OSError):
                stream = await net.TlsStream.wrap(stream, tls, server_side=True)
                ends.put_nowait(NetTlsEnd(stream))

        async def accept_all(tasks):
            async for stream, _ in listener:
                tasks.create_task(shake_hands(stream))

        async def serve():
            async with asyncio.TaskGroup() as tasks:
                await accept_all(tasks)

        serving = asyncio.ensure_future(serve())
        try:
            yield ends
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    async def connect(self, address, tls):
        if not isinstance(address, str):
            if tls is None:
                return NetEnd(await net.TcpStream.connect(*address))
            stream = await net.TlsStream.connect(*address, tls, server_hostname="localhost")
            return NetTlsEnd(stream)
        stream = await net.UnixStream.connect(address)
        if tls is None:
            return NetEnd(stream)
        return NetTlsEnd(await net.TlsStream.wrap(stream, tls, server_hostname="localhost"))


# ── where they run ───────────────────────────────────────────────────────────────────────────


RUNNERS = {"asyncio": asyncio.run, "ours": pyasync_c.run}
EVERY_RUNNER = RUNNERS if uvloop is None else {**RUNNERS, "uvloop": run_uvloop}
TLS = ("tls", "tls-unix")
PROTOCOL, BUFFERED, STREAMS, SOCK = ProtocolFace(), BufferedFace(), StreamsFace(), SockFace()
NET = NetFace()
FACES = [PROTOCOL, BUFFERED, STREAMS, SOCK, NET]
IN_THE_KERNEL = (SOCK, NET)
"""They keep nothing that was written, so who gives up writing cannot know how much has gone."""

made_objects = []
"""Weak references to the transports, protocols, readers and writers of the test in progress."""


def count_watched(loop):
    """How many descriptors the loop watches, where it tells."""
    selector = getattr(loop, "_selector", None)
    return 0 if selector is None else len(selector.get_map())


class Place:
    """A face on a loop over a link: what most tests are parametrized with."""

    def __init__(self, face, runner, link, folder, seconds=LONG):
        self.face, self.runner, self.link, self.folder = face, runner, link, folder
        self.seconds = seconds
        self.is_tls = link in TLS
        self.is_unix = link.endswith("unix")
        self.server_tls, self.client_tls = tls_contexts() if self.is_tls else (None, None)
        if runner == "uvloop":
            run_uvloop(asyncio.sleep(0))  # its first one opens what stays open
        self.reports = []
        """What the loop's exception handler was given; a test that expects some clears it."""

    def __str__(self):
        return f"{self.face.name}-{self.runner}-{self.link}"

    def run(self, main):
        """Run a coroutine; nothing hangs, nothing is reported, nothing is left."""
        self.reports.clear()
        made_objects.clear()
        collect()
        before = open_fds()
        with unraisable() as seen:
            result = EVERY_RUNNER[self.runner](self._whole(main))
            collect()
        assert not seen, seen
        # First of all: what a report refers to keeps its loop, and the loop its descriptors.
        assert not self.reports, self.reports
        left = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds() - before}
        assert not left, left
        alive = [r() for r in made_objects if r() is not None]
        assert not alive, alive
        return result

    def _report(self, _, context):
        error = context.get("exception")
        # Of asyncio's own loop, true, and not what is under test: its transports let the error of
        # their shutdown() out of a callback if a reset comes between their last byte and that, and
        # may lose their connection twice; and the future of its streams' wait_closed() may be
        # collected before the protocol that would have asked it for its error.
        late_shutdown = getattr(error, "errno", None) == errno.ENOTCONN
        lost_twice = "_call_connection_lost" in context["message"] and "NoneType" in str(error)
        never_asked = self.face.name == "streams" and isinstance(error, ConnectionResetError)
        if self.runner == "asyncio" and (late_shutdown or lost_twice or never_asked):
            counts["reports of asyncio's own"] += 1
        else:
            self.reports.append(context)

    async def _whole(self, main):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._report)
        # On another loop than ours its first use opens what the rest is waited for with.
        await pyasync_c.sleep(0.0001)
        await asyncio.sleep(0)
        fds, watched = open_fds(), count_watched(loop)
        async with asyncio.timeout(self.seconds):
            result = await main
            # What is closing may take some turns for it.
            while open_fds() != fds or asyncio.all_tasks() != {asyncio.current_task()}:
                await asyncio.sleep(0.001)
        assert count_watched(loop) == watched
        if isinstance(loop, pyasync_c.EventLoop):
            metrics = pyasync_c.RuntimeMetrics(*loop._metrics())
            assert metrics.tasks_alive == 1
            assert metrics.timers_active <= 1  # for TLS, asyncio leaves one that has no effect
        return result

    @contextlib.asynccontextmanager
    async def pair(self, role="server", *, small=False, in_bytes=False):
        """A connection: the face's End, which is its `role`, and a Peer."""
        if role == "server":
            made = self._accepting(small, in_bytes)
        else:
            made = self._connecting(small, in_bytes)
        async with made as (end, peer):
            if small:
                make_small(end.socket, socket.SO_SNDBUF)
            try:
                yield end, peer
            finally:
                peer.close()
                if not end.is_closed:
                    # asyncio's transports may raise it where they have closed themselves.
                    with contextlib.suppress(AttributeError):
                        end.abort()

    @contextlib.asynccontextmanager
    async def _accepting(self, small, in_bytes):
        listener = listening(self.link, self.folder, small=small)
        address = listener.getsockname()
        async with self.face.listening(listener, self.server_tls) as accept:
            accepting = asyncio.ensure_future(accept())
            sock = await connected(address, small=small)
            peer = self.peer_of(sock, is_server=False, in_bytes=in_bytes)
            if self.is_tls:
                await peer.shake_hands()
            yield await accepting, peer

    @contextlib.asynccontextmanager
    async def _connecting(self, small, in_bytes):
        with contextlib.closing(listening(self.link, self.folder, small=small)) as listener:
            connecting = asyncio.ensure_future(
                self.face.connect(listener.getsockname(), self.client_tls)
            )
            peer = self.peer_of(await accepted(listener), is_server=True, in_bytes=in_bytes)
            if self.is_tls:
                await peer.shake_hands()
            yield await connecting, peer

    def in_clear_text(self):
        """The same without TLS."""
        plain = Place(self.face, self.runner, "tcp", self.folder)
        plain.reports = self.reports
        return plain

    def peer_of(self, sock, *, is_server, in_bytes=False):
        if not self.is_tls:
            return Peer(sock)
        context = self.server_tls if is_server else self.client_tls
        return TlsPeer(sock, context, is_server=is_server, in_bytes=in_bytes)


def runners(face, link):
    """The loops that a face is tried on over a link. On uvloop only what is this package's own, and
    there only the richest of it; what TLS does over Unix sockets is no loop's matter."""
    if face is NET and link == "tls":
        return EVERY_RUNNER
    return ["ours"] if link == "tls-unix" else RUNNERS


def places(faces=None, links=None, *, half_closing=False):
    """Parametrizes a test over every face, loop and link there are, or over some of them."""
    found = [
        (face, runner, link)
        for face in FACES
        for link in face.links
        for runner in runners(face, link)
        if (faces is None or face in faces)
        and (links is None or link in links)
        and (not half_closing or link in face.half_closing)
    ]
    ids = ["-".join((face.name, runner, link)) for face, runner, link in found]
    return pytest.mark.parametrize("place", found, indirect=True, ids=ids)


either_role = pytest.mark.parametrize("role", ["server", "client"])


def outcome(error):
    """What an operation ended in, as far as it is the same everywhere."""
    if isinstance(error, ConnectionError):
        counts["errors seen"] += 1
        return "reset"
    return type(error).__name__
