"""Connecting, listening and accepting, on every loop."""

import asyncio
import contextlib
import errno
import os
import re
import resource
import socket
import threading
from pathlib import Path

import pytest
from helpers import every_loop, free_port, open_fds, python
from net_testing import (
    cancel,
    nothing_left,
    stream_and_socket,
    waiting,
    what_the_loops_open_once_a_process,
)

import pyasync_c
from pyasync_c import net

__all__ = ["nothing_left", "what_the_loops_open_once_a_process"]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


NEEDS_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
LOOPBACKS = [
    "127.0.0.1",
    "localhost",
    pytest.param("::1", marks=NEEDS_IPV6),
]


async def full_backlog():
    """A listener of which nobody accepts and whose backlog is full: connecting to it takes long."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    fillers = []
    for _ in range(10):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        fillers.append(sock)
    await asyncio.sleep(0.01)
    return listener, fillers


def close_all(*socks):
    for sock in socks:
        sock.close()


@every_loop
@pytest.mark.parametrize("host", LOOPBACKS)
def test_connect_and_accept(run, host):
    async def main():
        async with await net.TcpListener.bind(host, 0) as listener:
            port = listener.local_addr[1]
            accepting = asyncio.ensure_future(anext(aiter(listener)))
            async with await net.TcpStream.connect(host, port) as client:
                server, address = await accepting
                async with server:
                    assert address == client.local_addr == server.peer_addr
                    assert client.peer_addr == server.local_addr
                    assert client.nodelay and server.nodelay
                    await client.write_all(b"question\n")
                    assert await server.readline() == b"question\n"
                    await server.write_all(b"answer\n")
                    assert await client.readline() == b"answer\n"

    run(main())


@every_loop
def test_unix(run, tmp_path):
    async def main():
        abstract = f"\0pyasync_c{os.urandom(4).hex()}"
        for path in (tmp_path / "socket", str(tmp_path / "other"), abstract, abstract.encode()):
            async with net.UnixListener.bind(path) as listener:
                async with await net.UnixStream.connect(path) as client:
                    server, address = await listener.accept()
                    async with server:
                        assert address == ""
                        is_abstract = path in (abstract, abstract.encode())
                        named = abstract.encode() if is_abstract else str(path)
                        assert listener.local_addr == client.peer_addr == named
                        await client.write_all(b"x")
                        assert await server.read() == b"x"
            if not is_abstract:
                with pytest.raises(OSError, match="could not listen"):
                    net.UnixListener.bind(path)
        with pytest.raises(FileNotFoundError, match="could not connect"):
            await net.UnixStream.connect(tmp_path / "nobody")

    run(main())


@every_loop
def test_options_of_connections(run):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0, nodelay=False) as listener:
            port = listener.local_addr[1]
            local = ("127.0.0.2", 0)
            for host in ("127.0.0.1", "localhost"):
                connecting = net.TcpStream.connect(host, port, local_addr=local, nodelay=False)
                async with await connecting as client:
                    server, address = await listener.accept()
                    async with server:
                        assert address[0] == "127.0.0.2"
                        assert not client.nodelay and not server.nodelay
            with pytest.raises(OSError, match="could not listen") as caught:
                await net.TcpListener.bind("127.0.0.1", port)
            assert caught.value.errno == errno.EADDRINUSE
        async with await net.TcpListener.bind("127.0.0.1", 0, reuse_port=True) as one:
            async with await net.TcpListener.bind(*one.local_addr, reuse_port=True, backlog=5):
                pass

    run(main())


@every_loop
def test_nobody_listens(run):
    async def main():
        port = free_port()
        with pytest.raises(ConnectionRefusedError, match=f"'127.0.0.1', {port}"):
            await net.TcpStream.connect("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await net.TcpStream.connect("localhost", port)
        with pytest.raises(socket.gaierror):
            await net.TcpStream.connect("no-such-name.invalid", port)
        with pytest.raises(OSError):
            await net.TcpListener.bind("192.0.2.1", 0)
        with pytest.raises(OSError):
            await net.TcpStream.connect("255.255.255.255", 1)

    run(main())


@every_loop
def test_addresses_are_tried_one_after_the_other(run, monkeypatch):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
            port = listener.local_addr[1]

            async def look_up(host, port, **_):
                stream = socket.AF_INET, socket.SOCK_STREAM, 6, ""
                return [(*stream, (f"127.0.0.{n}", port)) for n in (3, 2, 1)]

            loop = asyncio.get_running_loop()
            with contextlib.suppress(AttributeError):
                loop.getaddrinfo = look_up
            if getattr(loop, "getaddrinfo", None) is not look_up:
                monkeypatch.setattr(
                    "pyasync_c._net_open.asyncio.get_running_loop", lambda: FakeLoop(look_up)
                )
            async with await net.TcpStream.connect("three", port) as stream:
                assert stream.peer_addr == ("127.0.0.1", port)
            listener.close()
            with pytest.raises(ConnectionRefusedError) as caught:
                await net.TcpStream.connect("three", port)
            for n in (1, 2, 3):
                assert f"'127.0.0.{n}'" in str(caught.value)

    class FakeLoop:
        def __init__(self, look_up):
            self.getaddrinfo = look_up

    run(main())
    monkeypatch.undo()


@every_loop
def test_bad_input_raises_at_the_call(run, tmp_path):
    async def main():
        for call, error in [
            (lambda: net.TcpListener(), TypeError),
            (lambda: net.TcpListener.bind("127.0.0.1"), TypeError),
            (lambda: net.TcpListener.bind("127.0.0.1", 70000), OverflowError),
            (lambda: net.TcpListener.bind(None, 0), TypeError),
            (lambda: net.TcpListener.bind("127.0.0.1", 0, backlog=0), ValueError),
            (lambda: net.TcpListener.bind("127.0.0.1", 0, backlog="5"), TypeError),
            (lambda: net.TcpListener.bind("127.0.0.1", 0, 5), TypeError),
            (lambda: net.UnixListener.bind(""), ValueError),
            (lambda: net.UnixListener.bind(tmp_path / "x", backlog=1 << 40), OverflowError),
            (lambda: net.UnixListener.bind("a\0b"), ValueError),
            (lambda: net.UnixListener.bind(str(tmp_path / "a\0b").encode()), ValueError),
            (lambda: net.UnixStream.connect(b"a\0b"), ValueError),
            (lambda: net.UnixListener.bind(Path("\0a")), ValueError),
            (lambda: net.UnixListener.bind("a" * 108), ValueError),
            (lambda: net.UnixListener.bind("\ud800"), UnicodeEncodeError),
        ]:
            with pytest.raises(error):
                call()

    run(main())
    assert not list(tmp_path.iterdir())


@every_loop
def test_several_tasks_accept(run):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
            tasks = [await waiting(listener.accept()) for _ in range(3)]
            clients = [await net.TcpStream.connect(*listener.local_addr) for _ in range(3)]
            pairs = await asyncio.gather(*tasks)
            assert {a for _, a in pairs} == {c.local_addr for c in clients}
            for stream in [*clients, *(s for s, _ in pairs)]:
                stream.close()

    run(main())


@every_loop
def test_closing_a_listener_wakes_who_accepts(run):
    async def main():
        listener = await net.TcpListener.bind("127.0.0.1", 0)
        tasks = [await waiting(listener.accept()) for _ in range(2)]
        listener.close()
        for task in tasks:
            with pytest.raises(OSError, match="TcpListener is closed"):
                await task
        with pytest.raises(OSError, match="TcpListener is closed"):
            await listener.accept()

    run(main())


@every_loop
def test_from_socket(run):
    async def main():
        plain = socket.create_server(("127.0.0.1", 0))
        async with net.TcpListener.from_socket(plain) as listener:
            async with await net.TcpStream.connect(*listener.local_addr) as client:
                server, _ = await listener.accept()
                await client.write_all(b"x")
                assert await server.read() == b"x"
                server.close()
        with socket.socket() as plain, pytest.raises(ValueError, match="does not listen"):
            net.TcpListener.from_socket(plain)

    run(main())


@every_loop
def test_a_cancelled_accept_loses_no_connection(run):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
            clients = []
            for n in range(20):
                task = await waiting(listener.accept())
                if n % 2:
                    clients.append(await net.TcpStream.connect(*listener.local_addr))
                task.cancel()
                try:
                    server, _ = await task
                except asyncio.CancelledError:
                    if not n % 2:
                        continue
                    server, _ = await listener.accept()
                assert server.peer_addr == clients[-1].local_addr
                server.close()
            # Losing a select does the same.
            index, _ = await pyasync_c.select(listener.accept(), pyasync_c.sleep(0.001))
            assert index == 1
            clients.append(await net.TcpStream.connect(*listener.local_addr))
            server, address = await listener.accept()
            assert address == clients[-1].local_addr
            for stream in [*clients, server]:
                stream.close()

    run(main())


@every_loop
def test_a_cancelled_connect_closes_its_socket(run):
    async def main():
        listener, fillers = await full_backlog()
        host, port = listener.getsockname()
        await pyasync_c.sleep(0.001)  # what a foreign loop needs for all of ours is there
        await waiting_and_cancelled(net.TcpStream.connect(host, port))
        await waiting_and_cancelled(net.TcpStream.connect("localhost", port), settle=0.05)
        before = open_fds()
        connecting = net.TcpStream.connect(host, port)
        index, _ = await pyasync_c.select(connecting, pyasync_c.sleep(0.01))
        assert index == 1 and open_fds() == before
        # It may be awaited again, and begins anew.
        close_all(*fillers)
        threading.Timer(0.02, lambda: [listener.accept()[0].close() for _ in range(2)]).start()
        async with await connecting as stream:
            assert stream.peer_addr == (host, port)
        listener.close()

    async def waiting_and_cancelled(aw, settle=0.0):
        await asyncio.sleep(settle)
        before = open_fds()
        await cancel(await waiting(aw))
        await asyncio.sleep(settle)
        assert open_fds() - before == set()

    run(main())


@every_loop
def test_no_descriptors_left(run):
    """accept() says so, and the connection is there for the next one."""

    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
            client = await net.TcpStream.connect(*listener.local_addr)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            held = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds()) + 20, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        held.append(os.dup(0))
                with pytest.raises(OSError) as caught:
                    await listener.accept()
                assert caught.value.errno == errno.EMFILE
                with pytest.raises(OSError) as caught:
                    await net.TcpStream.connect(*listener.local_addr)
                assert caught.value.errno == errno.EMFILE
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in held:
                    os.close(fd)
            server, address = await listener.accept()
            assert address == client.local_addr
            server.close()
            client.close()

    run(main())


@every_loop
def test_many_connections(run):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:

            async def serve(stream):
                async with stream:
                    async for line in stream:
                        await stream.write_all(line)

            async def accept():
                async for stream, _ in listener:
                    tasks.append(asyncio.ensure_future(serve(stream)))

            async def client(n):
                async with await net.TcpStream.connect(*listener.local_addr) as stream:
                    for i in range(5):
                        await stream.write_all(f"{n} {i}\n".encode())
                        assert await stream.readline() == f"{n} {i}\n".encode()

            tasks = []
            accepting = asyncio.ensure_future(accept())
            await asyncio.gather(*(client(n) for n in range(200)))
            await asyncio.gather(*tasks)
            await cancel(accepting)

    run(main())


def test_a_fork_leaves_the_parents_streams_alone():
    """The child closes its copies, and the parent's go on."""
    python(
        """
import os
import pyasync_c
from pyasync_c import net

async def main():
    a, b = net.UnixStream.pair()
    async with await net.TcpListener.bind("127.0.0.1", 0) as listener:
        pid = os.fork()
        if pid == 0:
            try:
                context = pyasync_c.Context(pyasync_c.noop_waker())
                for future in (a.read(), b.write_all(b"x"), listener.accept()):
                    try:
                        future.poll(context)
                    except RuntimeError:
                        continue
                    os._exit(1)
                a.close(), b.close(), listener.close()
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        async with await net.TcpStream.connect(*listener.local_addr) as client:
            server, _ = await listener.accept()
            server.close()
        reading = pyasync_c.spawn(a.read())
        await pyasync_c.sleep(0.01)
        await b.write_all(b"hello")
        async with pyasync_c.timeout(5):
            assert await reading == b"hello"
        a.close(), b.close()

pyasync_c.run(main())
import asyncio
asyncio.run(main())
"""
    )


@every_loop
def test_a_stream_that_others_close_under_it(run):
    """Its peer resets the connection while it reads and while it writes."""

    async def main():
        for use in (lambda s: s.read(), lambda s: s.write_all(bytes(50_000_000))):
            stream, peer = stream_and_socket()
            async with stream:
                task = await waiting(use(stream))
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.close()
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await task
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await stream.write_all(b"x")
                    await stream.write_all(b"x")

    run(main())


@every_loop
def test_what_came_before_a_reset_may_be_read(run):
    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            peer.send(b"abc")
            assert await stream.peek() == b"abc"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            await asyncio.sleep(0.01)
            with pytest.raises(ConnectionResetError):
                await stream.read_exactly(5)
            assert await stream.read() == b"abc"

    run(main())


GUIDE = (Path(__file__).parent.parent / "docs" / "net.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def test_the_guides_first_program(capfd):
    assert len(SNIPPETS) == GUIDE.count("```python") == 2
    exec(SNIPPETS[0], {})
    assert capfd.readouterr().out == "b'HELLO\\n'\n"


def test_the_guides_cancelled_write(capfd):
    async def main():
        names = {"asyncio": asyncio}
        exec(SNIPPETS[1], names)
        a, b = net.UnixStream.pair()
        async with a, b:
            sending = pyasync_c.spawn(names["send"](a, b"x" * 10_000_000))
            await b.readable()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await a.shutdown()
            return (await b.read_to_end()).count(b"x")

    arrived = pyasync_c.run(main())
    out = capfd.readouterr().out
    assert out.startswith("went out: b'x") and out.count("x") == arrived > 0


def test_on_a_virtual_clock_a_stream_is_waited_for():
    """No timer is armed, and what is to come comes from outside; with timers, time stands still
    while anything is there to read."""

    async def main():
        stream, peer = stream_and_socket()
        async with stream:
            threading.Timer(0.05, peer.send, [b"from outside"]).start()
            assert await stream.read() == b"from outside"
            peer.send(b"x")
            index, _ = await pyasync_c.select(stream.read(), pyasync_c.sleep(1000))
            assert index == 0 and pyasync_c.now() == 0
        peer.close()

    with pyasync_c.Runtime(clock="virtual") as runtime:
        runtime.run(main())
