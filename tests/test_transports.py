"""TCP and Unix transports: order, contexts, flow control, ends, and protocols that do anything.

What asyncio's own transports do is tried on them too, on our loop and on asyncio's: that is what
says that a test is right.
"""

import asyncio
import collections
import contextlib
import contextvars
import errno
import functools
import gc
import logging
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import warnings
import weakref

import pytest
from helpers import (
    LONG,
    LOOPS,
    Log,
    collect,
    end,
    open_fds,
    python,
    run_on,
    standard_loop,
    turns,
    until,
)
from net_testing import plain_pair, send_in_two

import pyasync_c

MUCH = 1 << 22  # more than a socket takes without a reader


@pytest.fixture(params=LOOPS)
def new_loop(request):
    return request.param


@pytest.fixture
def run(new_loop):
    return functools.partial(run_on, new_loop)


@pytest.fixture
def our_run():
    return functools.partial(run_on, pyasync_c.new_event_loop)


@contextlib.asynccontextmanager
async def connected(factory=Log, wait=True):
    """A protocol with its transport, and the other side as a plain non-blocking socket."""
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    transport, protocol = await loop.create_connection(factory, sock=ours)
    try:
        yield transport, protocol, peer
    finally:
        await end(transport, peer)


async def receive(peer, size=None):
    """So many bytes, or all until the end."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while size is None or len(data) < size:
        chunk = await loop.sock_recv(peer, 1 << 16 if size is None else size - len(data))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def pattern(size):
    return bytes(i % 251 for i in range(min(size, 251 * 40))) * (size // (251 * 40) + 1)


# ── what it is ───────────────────────────────────────────────────────────────────────────────


def test_it_is_an_asyncio_transport(run):
    async def main():
        async with connected() as (transport, protocol, _):
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_protocol() is protocol
            assert transport.can_write_eof()
            assert transport.is_reading() and not transport.is_closing()
            assert transport.get_write_buffer_size() == 0
            assert transport.get_write_buffer_limits() == (16384, 65536)
            assert protocol.transport is transport
            assert asyncio.get_running_loop()._transports[transport._sock_fd] is transport
            with pytest.raises(RuntimeError, match="is used by transport"):
                asyncio.get_running_loop().add_reader(transport._sock_fd, print)

    run(main)


def test_our_loop_makes_our_transports(our_run):
    async def main():
        async with connected() as (transport, _, _):
            assert type(transport) is pyasync_c._core.StreamTransport
            transport.anything = 1  # as on asyncio's
            assert transport.anything == 1
            assert weakref.ref(transport)() is transport
            with pytest.raises(TypeError):
                type(transport)()

    our_run(main)


def test_the_switch():
    async def main():
        async with connected() as (transport, _, _):
            return type(transport).__module__

    with asyncio.Runner(loop_factory=standard_loop) as runner:
        assert runner.run(main()) == "asyncio.selector_events"
    assert pyasync_c.run(main()) == "pyasync_c"
    program = "import pyasync_c; print(pyasync_c.new_event_loop().standard_transports)"
    for value, expected in (("standard", "True"), ("", "False")):
        environment = os.environ | {"PYASYNC_C_TRANSPORTS": value}
        command = [sys.executable, "-W", "ignore", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done


def test_extra_info(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Log, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Log, *address)
        own = transport.get_extra_info("sockname")
        wrapped = transport.get_extra_info("socket")
        assert transport.get_extra_info("peername") == address
        assert own[0] == "127.0.0.1" and own[1] != address[1]
        assert wrapped.getsockname() == own and wrapped.fileno() == transport._sock_fd
        assert wrapped.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert transport.get_extra_info("sslcontext") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_extra_info("nothing", default=6) == 6
        transport.close()
        await asyncio.sleep(0.01)
        assert transport.get_extra_info("peername") == address  # still, once it is closed
        assert transport.get_extra_info("sockname") == own
        server.close()
        await server.wait_closed()

    run(main)


def test_the_socket_is_still_known_once_it_is_closed(run):
    async def main():
        async with connected() as (transport, protocol, _):
            transport.close()
            await protocol.lost
            await turns()
            assert transport.get_extra_info("socket").fileno() == -1

    run(main)


def test_repr(run):
    async def main():
        async with connected() as (transport, _, peer):
            name, fd = type(transport).__name__, transport._sock_fd
            assert repr(transport) == f"<{name} fd={fd} read=polling write=<idle, bufsize=0>>"
            transport.pause_reading()
            transport.write(bytes(MUCH))
            size = transport.get_write_buffer_size()
            state = f"read=idle write=<polling, bufsize={size}>>"
            assert repr(transport) == f"<{name} fd={fd} {state}"
            transport.close()
            assert repr(transport) == f"<{name} closing fd={fd} {state}"
            transport.abort()
            await turns(3)
            assert repr(transport) == f"<{name} closed fd={fd}>"

    run(main)


# ── bytes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 300_000, MUCH])
def test_bytes_arrive_whole_and_in_order(run, size):
    async def main():
        loop = asyncio.get_running_loop()
        sent = pattern(size)[:size]
        async with connected() as (transport, protocol, peer):
            transport.write(sent)
            assert await receive(peer, size) == sent
            await loop.sock_sendall(peer, sent)
            await until(lambda: len(protocol.data) >= size)
            assert protocol.data == sent
            # Once more in both directions at a time, in pieces of every kind.
            del protocol.data[:]
            for i in range(0, size, 70_001):
                transport.write((bytes, bytearray, memoryview)[i % 3](sent[i : i + 70_001]))
            there, _ = await asyncio.gather(receive(peer, size), loop.sock_sendall(peer, sent))
            await until(lambda: len(protocol.data) >= size)
            assert there == sent and protocol.data == sent

    run(main)


def test_what_is_written_may_be_changed_afterwards(run):
    async def main():
        async with connected() as (transport, _, peer):
            mine = bytearray(b"a" * MUCH)
            if sys.version_info < (3, 12) or "StreamTransport" in repr(transport):
                transport.write(mine)
                mine[:] = b"b" * MUCH
                mine.clear()
            else:  # asyncio keeps a view of it, and so refuses the change
                transport.write(bytes(mine))
            assert await receive(peer, MUCH) == b"a" * MUCH

    run(main)


@pytest.mark.parametrize("bad", ["text", 5, None, ["bytes"]])
def test_only_bytes_are_written(run, bad):
    async def main():
        async with connected() as (transport, _, peer):
            name = type(bad).__name__
            with pytest.raises(
                TypeError, match=f"data argument must be a bytes-like object, not '{name}'"
            ):
                transport.write(bad)
            transport.write(b"")
            transport.write(b"whole")
            assert await receive(peer, 5) == b"whole"

    run(main)


def test_writelines(run):
    async def main():
        async with connected() as (transport, _, peer):
            transport.writelines([])
            transport.writelines([b"a", bytearray(b"bc"), memoryview(b"d"), b""])
            transport.writelines(part for part in (b"e", b"f"))
            assert await receive(peer, 6) == b"abcdef"
            with pytest.raises(TypeError):
                transport.writelines([b"x", "y"])
            with pytest.raises(TypeError):
                transport.writelines(5)
            many = [bytes([i % 256]) * 1000 for i in range(3000)]
            transport.writelines(many)
            transport.write(b"end")
            assert await receive(peer, 3_000_003) == b"".join(many) + b"end"

    run(main)


def test_one_turn_reads_so_much_at_most(our_run):
    """A connection that always has more to say leaves the others their turns."""

    async def main():
        loop = asyncio.get_running_loop()
        log = []
        async with connected() as (transport, protocol, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MUCH)
            transport.pause_reading()
            sent = peer.send(bytes(MUCH))
            assert sent > 150_000
            protocol.data_received = lambda data: log.append(len(data))

            def other():
                log.append("other")
                if log.count("other") < 20:
                    loop.call_soon(other)

            transport.resume_reading()
            loop.call_soon(other)
            await until(lambda: sum(n for n in log if n != "other") == sent)
            assert max(n for n in log if n != "other") <= 256 * 1024
            # Between any two reads of the first there was a pass for everybody.
            sizes = [n == "other" for n in log[: log.index("other") + 4]]
            assert sizes.count(True) >= 2, log

    our_run(main)


def test_max_size(our_run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.max_size = 4
            sizes = []
            protocol.data_received = lambda data: sizes.append(len(data))
            peer.send(b"0123456789")
            await until(lambda: sum(sizes) == 10)
            assert sizes == [4, 4, 2]
            for bad in (0, -1):
                with pytest.raises(ValueError, match="max_size"):
                    transport.max_size = bad

    our_run(main)


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size=10):
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.hints = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        self.hints.append(hint)
        return memoryview(self.buffer)

    def buffer_updated(self, count):
        self.data += self.buffer[:count]

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_buffered_protocol(run):
    async def main():
        async with connected(Buffered) as (transport, protocol, peer):
            peer.send(bytes(range(35)))
            await until(lambda: len(protocol.data) == 35)
            assert protocol.data == bytes(range(35))
            assert set(protocol.hints) == {-1}
            protocol.buffer = bytearray(0)
            peer.send(b"x")
            with contextlib.suppress(asyncio.InvalidStateError):
                await until(protocol.lost.done)
            assert str(protocol.lost.result()) == "get_buffer() returned an empty buffer"

    with pytest.raises(AssertionError, match="get_buffer"):  # the handler was told
        run(main)


def test_set_protocol_of_another_kind(run):
    async def main():
        async with connected() as (transport, first, peer):
            peer.send(b"first")
            await until(lambda: first.data == b"first")
            second = Buffered()
            transport.set_protocol(second)
            peer.send(b"second")
            await until(lambda: second.data == b"second")
            transport.set_protocol(first)
            peer.send(b"third")
            await until(lambda: first.data == b"firstthird")
            assert transport.get_protocol() is first

    run(main)


# ── flow control ─────────────────────────────────────────────────────────────────────────────


def test_water_marks(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.write(bytes(MUCH))
            assert protocol.events == ["made", "pause"]
            assert transport.get_write_buffer_size() > 65536
            await receive(peer, MUCH)
            await until(lambda: "resume" in protocol.events)
            assert protocol.events == ["made", "pause", "resume"]
            assert transport.get_write_buffer_size() <= 16384

    run(main)


def test_limits(run):
    async def main():
        async with connected() as (transport, protocol, _):
            for arguments, limits in [
                ({"high": 1000}, (250, 1000)),
                ({"low": 1000}, (1000, 4000)),
                ({"high": 7, "low": 7}, (7, 7)),
                ({"high": 0}, (0, 0)),
                ({}, (16384, 65536)),
            ]:
                transport.set_write_buffer_limits(**arguments)
                assert transport.get_write_buffer_limits() == limits
            for bad in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}):
                with pytest.raises(ValueError, match="must be >= low"):
                    transport.set_write_buffer_limits(**bad)
            assert transport.get_write_buffer_limits() == (16384, 65536)
            transport.set_write_buffer_limits(high=float("inf"), low=5)
            transport.write(bytes(MUCH))
            assert "pause" not in protocol.events
            transport.set_write_buffer_limits(high=1000)  # which is less than there is
            assert protocol.events == ["made", "pause"]

    run(main)


def test_a_peer_that_never_reads_costs_no_more_than_was_written(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            written = 0
            while "pause" not in protocol.events:
                transport.write(bytes(10_000))
                written += 10_000
            assert transport.get_write_buffer_size() <= 65536 + 10_000
            assert len(await receive(peer, written)) == written

    run(main)


def test_pause_reading(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            peer.send(b"held back")
            await asyncio.sleep(0.02)
            assert protocol.events == ["made"]
            transport.resume_reading()
            transport.resume_reading()
            await until(lambda: protocol.data == b"held back")
            assert protocol.events == ["made", "data"]

    run(main)


def test_pause_within_data_received(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            chunks = []

            def data_received(data):
                chunks.append(data)
                transport.pause_reading()

            protocol.data_received = data_received
            peer.send(b"1")
            await until(lambda: chunks == [b"1"])
            peer.send(b"2")
            await asyncio.sleep(0.01)
            assert chunks == [b"1"]
            transport.resume_reading()
            await until(lambda: chunks == [b"1", b"2"])

    run(main)


# ── ends ─────────────────────────────────────────────────────────────────────────────────────


def test_close_writes_what_is_pending(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.write(bytes(MUCH))
            transport.close()
            transport.close()
            assert transport.is_closing() and not transport.is_reading()
            assert len(await receive(peer)) == MUCH
            assert await protocol.lost is None
            assert protocol.events[-1] == "lost" and protocol.events.count("lost") == 1
            assert transport.get_protocol() is None

    run(main)


def test_abort_drops_what_is_pending(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.write(bytes(MUCH))
            transport.abort()
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert await protocol.lost is None
            assert len(await receive(peer)) < MUCH

    run(main)


def test_connection_lost_comes_in_call_soon_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, protocol, peer):
            order = []
            protocol.connection_lost = lambda exc: order.append("lost")
            peer.send(b"ignored")
            loop.call_soon(order.append, 1)
            transport.close()
            loop.call_soon(order.append, 2)
            assert order == []
            await turns(3)
            assert order == [1, "lost", 2]

    run(main)


def test_connection_made_comes_in_call_soon_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        order = []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                order.append("made")
                loop.call_soon(order.append, "from made")

        ours, peer = socket.socketpair()
        loop.call_soon(order.append, 1)
        waiter = loop.create_future()
        waiter.add_done_callback(lambda _: order.append("waiter"))
        ours.setblocking(False)
        transport = loop._make_socket_transport(ours, Protocol(), waiter)
        loop.call_soon(order.append, 2)
        await turns(4)
        assert order == [1, "made", 2, "from made", "waiter"]
        transport.abort()
        peer.close()
        await turns(2)

    run(main)


@pytest.mark.parametrize("keep_open", [False, True])
def test_eof(run, keep_open):
    async def main():
        async with connected() as (transport, protocol, peer):
            protocol.keep_open = keep_open
            peer.send(b"last words")
            peer.shutdown(socket.SHUT_WR)
            if keep_open:
                await until(lambda: "eof" in protocol.events)
                transport.write(b"answer")
                assert await receive(peer, 6) == b"answer"
                assert not transport.is_closing()
                transport.close()
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    run(main)


def test_write_eof(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.write(bytes(MUCH))
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
                transport.write(b"x")
            with pytest.raises(RuntimeError, match="after write_eof"):
                transport.writelines([b"x"])
            assert len(await receive(peer)) == MUCH
            peer.send(b"still heard")
            await until(lambda: protocol.data == b"still heard")
            assert not transport.is_closing()

    run(main)


class ResetWhenWritten(Log):
    """Has its peer reset the connection when the last byte is written, before the end is said."""

    def resume_writing(self):
        super().resume_writing()
        fd = self.transport.get_extra_info("socket").fileno()
        reset(self.peer)
        poll = select.poll()
        poll.register(fd, 0)
        assert poll.poll(LONG * 1000), "the reset has not come"


def test_a_reset_before_the_end_is_said_is_an_end_of_the_connection(new_loop):
    """It is no exception of a callback, as which asyncio's transports report it."""
    reports = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"].errno))
        ours, peer = plain_pair("tcp")
        peer.setblocking(False)
        transport, protocol = await loop.create_connection(ResetWhenWritten, sock=ours)
        protocol.peer = peer
        transport.set_write_buffer_limits(high=0)
        transport.write(bytes(MUCH))
        transport.write_eof()
        assert transport.get_write_buffer_size() > 0
        while peer.fileno() >= 0:
            with contextlib.suppress(BlockingIOError):
                peer.recv(1 << 16)
            await asyncio.sleep(0)
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "pause", "resume", "lost"]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), LONG))
    assert reports == ([] if new_loop is pyasync_c.new_event_loop else [errno.ENOTCONN])


def test_writes_after_the_end_are_counted(run, caplog):
    async def main():
        async with connected() as (transport, protocol, peer):
            transport.abort()
            for _ in range(10):
                transport.write(b"into the void")
            await protocol.lost
            transport.write(b"into the void")
            assert transport.get_write_buffer_size() == 0

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main)
    warned = [r.message for r in caplog.records]
    assert set(warned) == {"socket.send() raised exception."}
    assert len(warned) >= 6


def reset(sock):
    """Close it so that the other side sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.asynccontextmanager
async def connected_by_tcp(factory=Log):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(factory, ours)
        try:
            yield transport, protocol, peer
        finally:
            await end(transport, peer)


@pytest.mark.parametrize("writing", [False, True])
def test_reset(run, writing):
    async def main():
        async with connected_by_tcp() as (transport, protocol, peer):
            if writing:
                transport.pause_reading()
                transport.write(bytes(1 << 24))
            reset(peer)
            assert isinstance(await protocol.lost, ConnectionError)
            assert transport.get_write_buffer_size() == 0
            transport.write(b"x")

    run(main)


# ── callbacks that raise ─────────────────────────────────────────────────────────────────────


def collecting_errors(new_loop, main):
    errors = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: errors.append(context))
        runner.run(asyncio.wait_for(main(), LONG))
    return errors


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_a_callback_that_raises_ends_the_connection(new_loop, method):
    async def main():
        async with connected() as (transport, protocol, peer):

            def fail(*args):
                raise ZeroDivisionError

            setattr(protocol, method, fail)
            peer.send(b"x")
            peer.shutdown(socket.SHUT_WR)
            assert isinstance(await protocol.lost, ZeroDivisionError)

    (context,) = collecting_errors(new_loop, main)
    assert context["message"] == f"Fatal error: protocol.{method}() call failed."
    assert isinstance(context["exception"], ZeroDivisionError)
    assert isinstance(context["protocol"], Log)
    assert isinstance(context["transport"], asyncio.Transport)


@pytest.mark.parametrize("method", ["connection_made", "connection_lost"])
def test_a_callback_of_the_queue_that_raises(new_loop, method):
    class Protocol(Log):
        pass

    def fail(self, argument):
        raise ZeroDivisionError

    setattr(Protocol, method, fail)

    async def main():
        async with connected(Protocol) as (transport, protocol, peer):
            peer.send(b"x")
            await until(lambda: protocol.data == b"x")
            transport.close()
            await turns(4)
            assert transport._sock is None

    (context,) = collecting_errors(new_loop, main)
    assert context["message"].startswith("Exception in callback ")
    assert isinstance(context["exception"], ZeroDivisionError)


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_flow_control_that_raises(new_loop, method):
    async def main():
        async with connected() as (transport, protocol, peer):

            def fail():
                raise ZeroDivisionError

            setattr(protocol, method, fail)
            transport.write(bytes(MUCH))
            assert len(await receive(peer, MUCH)) == MUCH
            await until(lambda: not transport._protocol_paused)
            assert not transport.is_closing()

    (context,) = collecting_errors(new_loop, main)
    assert context["message"] == f"protocol.{method}() failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["connection_made", "data_received", "connection_lost"])
def test_exits_leave_the_loop(new_loop, method, error):
    def fail(self, argument):
        raise error

    loop = new_loop()
    ours, peer = socket.socketpair()

    async def connect():
        class Protocol(Log):
            pass

        setattr(Protocol, method, fail)
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        peer.send(b"x")
        peer.close()
        await asyncio.sleep(LONG)

    main = loop.create_task(connect())
    with pytest.raises(error):
        loop.run_until_complete(main)
    main.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(main)
    peer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.run_until_complete(turns(2))
        loop.close()
        collect()


# ── re-entrancy ──────────────────────────────────────────────────────────────────────────────


ACTIONS = {
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "close then abort": lambda transport: (transport.close(), transport.abort()),
    "write much": lambda transport: transport.write(bytes(MUCH)),
    "write much and close": lambda transport: (transport.write(bytes(MUCH)), transport.close()),
    "write_eof": lambda transport: transport.write_eof(),
    "pause": lambda transport: transport.pause_reading(),
    "pause and resume": lambda transport: (transport.pause_reading(), transport.resume_reading()),
    "set_protocol": lambda transport: transport.set_protocol(Quiet()),
    "set_protocol buffered": lambda transport: transport.set_protocol(Buffered()),
    "collect": lambda transport: gc.collect(),
    "close the file": lambda transport: transport._sock.close(),
}


class Quiet(asyncio.Protocol):
    pass


WHERE = ["connection_made", "data_received", "eof_received", "pause_writing", "get_buffer"]
ERRORS = {  # of the program that does this, and told as such
    ("connection_made", "close the file"),
    ("pause_writing", "close the file"),
    ("get_buffer", "set_protocol"),
    ("pause_writing", "write much"),
    ("pause_writing", "write much and close"),
    ("pause_writing", "write_eof"),
}


@pytest.mark.parametrize(
    ("method", "action"), [(m, a) for m in WHERE for a in ACTIONS if (m, a) not in ERRORS]
)
def test_callbacks_that_do_things_to_their_transport(run, method, action):
    class Base(Buffered if method == "get_buffer" else Log):
        done = False

        def act(self):
            if not self.done:
                self.done = True
                with contextlib.suppress(OSError):
                    ACTIONS[action](self.transport)

    def override(self, *args):
        result = getattr(super(Protocol, self), method)(*args)
        self.act()
        return result

    Protocol = type("Protocol", (Base,), {method: override})

    async def main():
        fds = open_fds()
        async with connected(Protocol) as (transport, protocol, peer):
            with contextlib.suppress(OSError):
                peer.send(b"x")
                if method == "eof_received":
                    peer.shutdown(socket.SHUT_WR)
            if method == "pause_writing":
                transport.write(bytes(MUCH))
            await until(lambda: protocol.done)
            await asyncio.sleep(0.002)  # for what comes of it
        assert open_fds() == fds

    run(main)


def test_writes_within_data_received_are_sent(run):
    async def main():
        async with connected() as (transport, protocol, peer):
            protocol.data_received = lambda data: [transport.write(data) for _ in range(3)]
            peer.send(b"ab")
            assert await receive(peer, 6) == b"ababab"

    run(main)


# ── contexts ─────────────────────────────────────────────────────────────────────────────────

where = contextvars.ContextVar("where", default="nowhere")


class Contextual(Log):
    def __getattribute__(self, name):
        if name in ("connection_made", "data_received", "connection_lost", "eof_received"):
            object.__getattribute__(self, "seen").append((name, where.get()))
        return super().__getattribute__(name)

    def __init__(self):
        object.__setattr__(self, "seen", [])
        super().__init__()


def test_callbacks_run_in_the_context_that_made_the_transport(run):
    async def main():
        where.set("made")
        async with connected(Contextual) as (transport, protocol, peer):
            where.set("later")
            peer.send(b"x")
            await until(lambda: protocol.data == b"x")
            peer.shutdown(socket.SHUT_WR)
            await protocol.lost
            assert dict(protocol.seen) == {
                "connection_made": "made",
                "data_received": "made",
                "eof_received": "made",
                "connection_lost": "made",
            }

    run(main)


def test_resumed_by_somebody_else_the_context_is_the_same(our_run):
    """Where asyncio takes that of whoever resumes it; so does uvloop's stricter way."""

    async def main():
        where.set("made")
        async with connected(Contextual) as (transport, protocol, peer):
            where.set("later")
            transport.pause_reading()
            transport.resume_reading()
            transport.write(bytes(MUCH))
            peer.send(b"x")
            await until(lambda: protocol.data == b"x")
            transport.abort()
            await protocol.lost
            assert {context for _, context in protocol.seen} == {"made"}

    our_run(main)


# ── the loop's end, garbage, descriptors ─────────────────────────────────────────────────────


def test_the_loop_closes_under_it(new_loop):
    loop = new_loop()
    ours, peer = socket.socketpair()
    with peer:
        transport, protocol = loop.run_until_complete(loop.create_connection(Quiet, sock=ours))
        peer.send(b"never read")
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.close()
        assert transport.is_closing()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport, protocol
            collect()
        assert ours.fileno() == -1


def test_it_is_not_collected_while_it_reads(run):
    async def main():
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        with peer:
            protocol = Log()
            loop = asyncio.get_running_loop()
            ref = weakref.ref(loop._make_socket_transport(ours, protocol))
            await turns(2)
            del protocol.transport
            collect()
            assert ref() is not None
            peer.send(b"x")
            await until(lambda p=protocol: p.data == b"x")
            transport = ref()
            transport.pause_reading()
            with pytest.warns(ResourceWarning, match="unclosed transport"):
                del transport, protocol
                await turns(2)
                collect()
            assert ref() is None

    run(main)


def test_closed_ones_leave_no_cycle(our_run):
    async def main():
        gc.collect()
        gc.disable()
        try:
            async with connected() as (transport, protocol, peer):
                peer.send(b"x")
                await until(lambda p=protocol: p.data)
                transport.write(bytes(MUCH))
                del protocol.transport
            ref = weakref.ref(transport)
            del transport, protocol
            await turns(3)
            assert ref() is None
        finally:
            gc.enable()

    our_run(main)


def test_garbage_with_its_loop():
    loop = pyasync_c.new_event_loop()
    ours, peer = socket.socketpair()
    with peer:
        transport, _ = loop.run_until_complete(loop.create_connection(Log, sock=ours))
        refs = [weakref.ref(transport), weakref.ref(loop)]
        del transport, _, loop
        with pytest.warns(ResourceWarning):
            collect()
        assert [ref() for ref in refs] == [None, None]


def test_a_descriptor_used_again_is_another_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        seen = collections.Counter()
        for i in range(200):
            async with connected() as (transport, protocol, peer):
                seen[transport._sock_fd] += 1
                await loop.sock_sendall(peer, b"%d" % i)
                await until(lambda p=protocol: p.data)
                assert protocol.data == b"%d" % i
                if i % 2:
                    peer.close()  # its event is in the batch that is about to come
        assert max(seen.values()) > 10

    run(main)


def test_a_descriptor_that_is_watched_already(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        loop.add_reader(ours, lambda: None)
        protocol = Log()
        transport = loop._make_socket_transport(ours, protocol)
        await turns(3)
        peer.send(b"x")
        await until(lambda: protocol.data == b"x")
        transport.abort()
        peer.close()
        await turns(3)

    run(main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forks_child_leaves_the_parents_connection_alone(our_run):
    async def main():
        async with connected() as (transport, protocol, peer):
            pid = os.fork()
            if pid == 0:
                try:
                    protocol.transport = None
                    transport._force_close  # noqa: B018, it is there
                    with contextlib.suppress(RuntimeError):
                        transport.abort()
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        del transport, protocol
                        gc.collect()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            peer.send(b"x")
            await until(lambda: protocol.data == b"x")

    our_run(main)


# ── servers ──────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def serving(factory=Log, **options):
    """A server with the protocols that it has made, and its address."""
    made = []

    def make():
        made.append(factory())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, **options)
    try:
        yield server, made, server.sockets[0].getsockname()
    finally:
        server.close()
        for protocol in made:
            if hasattr(protocol, "transport"):
                protocol.transport.abort()
        await server.wait_closed()


def clients(address, count):
    return [socket.create_connection(address) for _ in range(count)]


@pytest.mark.parametrize("backlog", [1, 3, 100])
def test_a_server_accepts_all_that_come_at_once(run, backlog):
    async def main():
        async with serving(backlog=backlog) as (server, made, address):
            peers = clients(address, backlog)
            await until(lambda: len(made) == backlog)
            more = clients(address, backlog)
            for peer in peers + more:
                peer.send(b"x")
            await until(lambda: sum(len(p.data) for p in made) == 2 * backlog)
            seen = {p.transport.get_extra_info("peername") for p in made}
            assert seen == {peer.getsockname() for peer in peers + more}
            assert all(p.transport._sock.gettimeout() == 0 for p in made)
            for peer in peers + more:
                peer.close()

    run(main)


def test_a_closed_server_accepts_no_more(run):
    async def main():
        async with serving() as (server, made, address):
            (peer,) = clients(address, 1)
            await until(lambda: made)
            waiting = clients(address, 3)  # in its queue: not accepted yet
            server.close()
            assert server.sockets == ()
            await asyncio.sleep(0.01)
            with pytest.raises(ConnectionRefusedError):
                clients(address, 1)
            assert not made[0].transport.is_closing()
            for one in [peer, *waiting]:
                one.close()

    run(main)


def test_a_factory_that_closes_its_server(our_run):
    async def main():
        loop = asyncio.get_running_loop()
        servers = []

        def factory():
            servers[0].close()
            return Log()

        servers.append(await loop.create_server(factory, "127.0.0.1", 0))
        address = servers[0].sockets[0].getsockname()
        peers = clients(address, 3)
        await until(lambda: not servers[0].is_serving())
        for peer in peers:
            peer.close()
        await asyncio.sleep(0.01)

    our_run(main)


@pytest.mark.parametrize("debug", [False, True])
def test_a_factory_that_raises(new_loop, debug):
    ours = new_loop is pyasync_c.new_event_loop
    called = []

    def factory():
        called.append(1)
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        server = await loop.create_server(factory, "127.0.0.1", 0)
        (peer,) = clients(server.sockets[0].getsockname(), 1)
        with peer, warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await until(lambda: called)
            await turns(3)
            if ours:  # asyncio's leave the connection open until it is collected
                peer.setblocking(False)
                assert await receive(peer) == b""
        server.close()
        await server.wait_closed()

    errors = collecting_errors(new_loop, main)
    messages = [context["message"] for context in errors]
    assert messages == ["Error on transport creation for incoming connection"] * debug
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        errors.clear()
        collect()


def test_a_server_survives_being_out_of_descriptors(new_loop):
    """It says so, goes on with those that it has, and accepts the rest a second later."""
    made = []

    def factory():
        made.append(Log())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        peers = clients(server.sockets[0].getsockname(), 2)
        await until(lambda: len(made) == 2)
        late = [socket.socket() for _ in range(2)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, open_fds())) + 1, hard))
        filler = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    filler.append(os.dup(0))
            for sock in late:
                sock.connect(server.sockets[0].getsockname())
            await until(lambda: seen)
            peers[0].send(b"x")
            await until(lambda: made[0].data or made[1].data)
            assert len(made) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in filler:
                os.close(fd)
        begun = loop.time()
        await until(lambda: len(made) == 4)
        assert loop.time() - begun < 10
        server.close()
        for peer in peers + late:
            peer.close()
        for protocol in made:
            await protocol.lost
        await server.wait_closed()

    seen = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: seen.append(context))
        runner.run(asyncio.wait_for(main(), LONG))
    assert seen[0]["message"] == "socket.accept() out of system resource"
    assert seen[0]["exception"].errno == errno.EMFILE
    if new_loop is pyasync_c.new_event_loop:
        assert len(seen) <= 3  # once a second; asyncio's says so for each of the backlog


def test_serving_in_compatible_mode(our_run):
    async def main():
        loop = asyncio.get_running_loop()
        async with serving() as (server, made, address):
            (first,) = clients(address, 1)
            await until(lambda: made)
            loop.time = loop.time
            assert loop._compatible
            (second,) = clients(address, 1)
            second.send(b"x")
            await until(lambda: len(made) == 2 and made[1].data == b"x")
            kinds = [type(p.transport).__module__ for p in made]
            assert kinds == ["pyasync_c", "asyncio.selector_events"]
            first.close()
            second.close()

    our_run(main)


@pytest.mark.parametrize("name", ["_accept_connection2", "_make_socket_transport"])
def test_a_subclass_that_accepts_its_own_way(name):
    called = []

    class Loop(pyasync_c.EventLoop):
        pass

    def override(self, *args, **kwargs):
        called.append(name)
        return getattr(super(Loop, self), name)(*args, **kwargs)

    setattr(Loop, name, override)

    async def main():
        async with serving() as (server, made, address):
            (peer,) = clients(address, 1)
            await until(lambda: made and made[0].events == ["made"])
            peer.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert called == [name]


# ── compatible mode, virtual clock ───────────────────────────────────────────────────────────


def test_it_goes_on_in_compatible_mode(our_run):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, protocol, peer):
            peer.send(b"before ")
            loop.time = loop.time  # whoever assigns it replaces a part of the scheduler
            assert loop._compatible
            await until(lambda: protocol.data)
            peer.send(b"after")
            await until(lambda: protocol.data == b"before after")
            transport.write(bytes(MUCH))
            assert len(await receive(peer, MUCH)) == MUCH
            transport.close()
            await protocol.lost
            async with connected() as (another, _, _):
                assert type(another).__module__ == "asyncio.selector_events"

    our_run(main)


def test_a_virtual_clock_waits_for_connections():
    async def main():
        async with connected() as (transport, protocol, peer):
            loop = asyncio.get_running_loop()
            answer = loop.create_future()
            protocol.data_received = answer.set_result
            transport.write(b"x")
            loop.call_soon(peer.send, b"y")
            return await answer

    with pyasync_c.Runtime(clock="virtual") as runtime:
        assert runtime.run(main()) == b"y"


# ── sendfile, TLS ────────────────────────────────────────────────────────────────────────────


def test_sendfile(run, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(MUCH)[:MUCH])

    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, protocol, peer):
            transport.write(b"header")
            with path.open("rb") as file:
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    transport.write(b"x")
                got = await receive(peer, 6 + MUCH)
                assert await sending == MUCH
            assert got == b"header" + path.read_bytes()
            peer.send(b"reads again")
            await until(lambda: protocol.data == b"reads again")
            transport.write(b"writes again")
            assert await receive(peer, 12) == b"writes again"
            assert loop._transports[transport._sock_fd] is transport

    run(main)


# ── out of memory ────────────────────────────────────────────────────────────────────────────

OUT_OF_MEMORY = """
import asyncio, faulthandler, gc, os, socket, sys, warnings
import _testcapi
import pyasync_c

warnings.simplefilter("ignore")
sys.unraisablehook = lambda args: None

def nothing(*args):
    return 1

class Protocol(asyncio.Protocol):
    made = lost = False
    got = 0

    def connection_made(self, transport):
        self.made = True

    def data_received(self, data):
        self.got += len(data)

    def connection_lost(self, exc):
        self.lost = True

# An allocation may fail in Python's own code between two steps, and then a protocol is not told: so
# nothing is waited for without end.
async def until(protocol, name, value):
    for _ in range(200):
        if getattr(protocol, name) >= value:
            return
        await pyasync_c.sleep(0.0002)
    raise MemoryError

async def talk(loop, protocol, ours, peer, stream):
    transport = loop._make_socket_transport(ours, protocol)
    try:
        if stream is None:
            await until(protocol, "made", True)
        peer.send(b"x" * 1000)
        if stream is None:
            await until(protocol, "got", 1000)
        else:
            assert await stream.readexactly(999) == b"x" * 999
            assert await stream.read(5) == b"x"
            peer.send(b"a\\n")
            assert await stream.readline() == b"a\\n"
        transport.write(b"y" * 500)
        transport.writelines([b"y" * 500, bytearray(b"y" * 500)])
        assert len(peer.recv(2000)) == 1500
        transport.write(bytes(1 << 20))
        transport.pause_reading()
        transport.resume_reading()
        transport.get_extra_info("socket")
        transport.close()
        peer.close()
        await until(transport, "_closing", True)
        for _ in range(200):
            if transport._sock is None:
                return 7
            await pyasync_c.sleep(0.0002)
    finally:
        transport.abort()
    raise MemoryError

async def main(fail, heal, streams):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(nothing)
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    reader, protocol = None, Protocol()
    if streams:
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        await pyasync_c.yield_now()
        fail()
        return await talk(loop, protocol, ours, peer, reader)
    finally:
        heal()
        peer.close()
        for _ in range(3):
            await pyasync_c.yield_now()
        ours.close()

def within_a_runtime(fail, heal, streams):
    with pyasync_c.Runtime() as runtime:
        try:
            return runtime.run(main(fail, heal, streams))
        finally:
            heal()

def sweep(streams):
    n = failures = row = 0
    while row < 100:
        n += 1
        faulthandler.dump_traceback_later(30, exit=True)
        try:
            result = within_a_runtime(
                lambda: _testcapi.set_nomemory(n, n + 1), _testcapi.remove_mem_hooks, streams
            )
        except (MemoryError, OSError, AssertionError, asyncio.IncompleteReadError):
            result = None
        except SystemError as error:
            result = None  # Python's own, when there is no room for a traceback
        except BaseException:
            print("at allocation", n, file=sys.stderr)
            raise
        row = row + 1 if result == 7 else 0
        failures += result is None
        assert within_a_runtime(nothing, nothing, streams) == 7, n
    faulthandler.cancel_dump_traceback_later()
    assert failures > 20, failures
    return failures

fds = None
for streams in (False, True):
    for _ in range(3):
        assert within_a_runtime(nothing, nothing, streams) == 7
        gc.collect()
    fds = set(os.listdir("/proc/self/fd"))
    print("survived", sweep(streams))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(fds), os.listdir("/proc/self/fd")
"""


def test_out_of_memory():
    pytest.importorskip("_testcapi")
    assert python(OUT_OF_MEMORY).count("survived") == 2


# ── what the kernel gives in two reads ───────────────────────────────────────────────────────


class BufferedLog(Log, asyncio.BufferedProtocol):
    def get_buffer(self, hint):
        self.memory = bytearray(100)
        return self.memory

    def buffer_updated(self, count):
        self.data += self.memory[:count]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("factory", [Log, BufferedLog])
def test_what_the_kernel_gives_in_two_reads(run, kind, factory):
    async def main():
        ours, peer = plain_pair(kind)
        with peer:
            send_in_two(kind, peer)
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.connect_accepted_socket(factory, ours)
            await until(lambda: protocol.data == b"abcdef")
            transport.close()
            await protocol.lost

    run(main)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_large_messages_that_the_kernel_gives_in_two_reads(run, kind):
    """Received into bytes of the size that is expected."""

    async def main():
        ours, peer = plain_pair(kind)
        with peer:
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.connect_accepted_socket(Log, ours)
            peer.sendall(bytes(50_000))
            await until(lambda: len(protocol.data) == 50_000)
            send_in_two(kind, peer)
            await until(lambda: protocol.data.endswith(b"abcdef"))
            transport.close()
            await protocol.lost

    run(main)


# ── who is accepted ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("own_transports", [False, True])
def test_a_peer_that_resets_before_it_is_accepted_has_a_name(new_loop, own_transports):
    names = []

    class Named(asyncio.Protocol):
        def connection_made(self, transport):
            names.append(transport.get_extra_info("peername"))

    def make():
        loop = new_loop()
        if own_transports and isinstance(loop, pyasync_c.EventLoop):
            loop.close()

            class Loop(type(loop)):
                def _make_socket_transport(self, *args, **kwargs):
                    return super()._make_socket_transport(*args, **kwargs)

            loop = Loop()
        loop.set_debug(True)
        return loop

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Named, "127.0.0.1", 0)
        async with server:
            peer = socket.create_connection(server.sockets[0].getsockname())
            name = peer.getsockname()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            await until(lambda: names)
            assert names == [name]
            await turns()

    run_on(make, main)


# ── what is written while it ends ────────────────────────────────────────────────────────────


def test_lines_that_abort_their_transport_are_not_written(our_run):
    async def main():
        async with connected() as (transport, protocol, peer):

            def lines():
                yield b"one"
                transport.abort()
                yield b"two"

            transport.writelines(lines())
            assert transport.get_write_buffer_size() == 0
            assert await protocol.lost is None
            assert await receive(peer) == b""

    our_run(main)


def test_many_lines_are_written_at_once(run):
    """More of them than go in one system call."""

    async def main():
        async with connected() as (transport, _, peer):
            transport.set_write_buffer_limits(0)
            transport.writelines([b"%3d" % i for i in range(300)])
            assert transport.get_write_buffer_size() == 0
            assert await receive(peer, 900) == b"".join(b"%3d" % i for i in range(300))

    run(main)
