"""What the tests of pyasync_c.net share: streams with a plain socket at the other end."""

import asyncio
import logging
import socket
import warnings

import pytest
from helpers import awaits, collect, open_fds, run_asyncio, run_uvloop, uvloop

from pyasync_c import net

LONG = 1000.0


def plain_pair(kind):
    """Two connected blocking sockets, of TCP or Unix."""
    if kind == "unix":
        return socket.socketpair(socket.AF_UNIX)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return client, server


def send_in_two(kind, sock):
    """b"abc" and b"def", which no single read gets: a descriptor comes with the first, or urgent
    data stands between them."""
    if kind == "unix":
        socket.send_fds(sock, [b"abc"], [sock.fileno()])
    else:
        sock.send(b"abc")
        sock.send(b"!", socket.MSG_OOB)
    sock.send(b"def")


def stream_of(sock):
    kind = net.UnixStream if sock.family == socket.AF_UNIX else net.TcpStream
    return kind.from_socket(sock)


def stream_and_socket(kind="tcp"):
    """A stream, and a non-blocking socket at the other end."""
    ours, theirs = plain_pair(kind)
    theirs.setblocking(False)
    return stream_of(ours), theirs


def small_buffers(stream, peer, size=4096):
    """So that a writer has to wait before long."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


async def take(peer, size):
    """Receive so many bytes from a plain socket."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while len(got) < size:
        data = await loop.sock_recv(peer, min(size - len(got), 65536))
        if not data:
            break
        got += data
    return bytes(got)


async def waiting(aw):
    """A task that waits for it."""
    task = asyncio.ensure_future(awaits(aw))
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture(scope="module", autouse=True)
def what_the_loops_open_once_a_process():
    for one in (run_asyncio, run_uvloop) if uvloop is not None else (run_asyncio,):
        one(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def nothing_left(caplog, what_the_loops_open_once_a_process):
    """No descriptor, no word in asyncio's log, nothing that was left open."""
    before = open_fds()
    with caplog.at_level(logging.WARNING, logger="asyncio"), warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
        collect()
    assert [record.getMessage() for record in caplog.records] == []
    assert open_fds() - before == set()
