"""Servers that send back what they get, asked by a process of its own (echo_client.c).

A case says what the server is written with, what lies between it and its clients, how long a
message is, how many connections there are, and how many messages each keeps under way. The servers
are what a user of asyncio would write, and run on every loop that offers its interface; in this
package's own names they are what a user of pyasync_c.net would write (echo_net.py).
"""

import asyncio
import os
import resource
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from functools import partial
from typing import Any

from .echo_case import Case
from .echo_client import Client
from .stopwatch import Spent

HOST = "127.0.0.1"
BACKLOG = 1024
RECEIVE_MAX = 256 * 1024
"""As asyncio's transports take at a time."""


# ── what all of them need ────────────────────────────────────────────────────────────────────


def allow_descriptors() -> None:
    """A thousand connections are more than some systems allow at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def server_context() -> ssl.SSLContext:
    """With a certificate made for it by the program openssl, which nobody checks."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise RuntimeError("no openssl to make a certificate with")
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = os.path.join(folder, "key"), os.path.join(folder, "certificate")
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key]
            + ["-out", certificate],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    return context


@contextmanager
def unix_path() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "echo")


def port_of(server: Any) -> str:
    return str(server.sockets[0].getsockname()[1])


# ── the servers: each gives the address that it listens at ───────────────────────────────────


class Echo(asyncio.Protocol):
    """Writes what it reads, and reads no more while its peer does not."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def echo_messages(
    size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            writer.write(await reader.readexactly(size))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()  # cancelled at the end of the run, which the asyncio of 3.12.1 reports


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(RECEIVE_MAX):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    writer.close()


async def echo_socket(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        while data := await loop.sock_recv(connection, RECEIVE_MAX):
            await loop.sock_sendall(connection, data)


@asynccontextmanager
async def protocol(case: Case) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    if case.link == "unix":
        with unix_path() as path:
            with closing(await loop.create_unix_server(Echo, path, backlog=BACKLOG)):
                yield path
        return
    context = server_context() if case.link == "tls" else None
    server = await loop.create_server(Echo, HOST, 0, backlog=BACKLOG, ssl=context)
    with closing(server):
        yield port_of(server)


@asynccontextmanager
async def streams(case: Case) -> AsyncIterator[str]:
    serve: Any = partial(echo_messages, case.size) if case.depth == 1 else echo_stream
    if case.link == "unix":
        with unix_path() as path:
            with closing(await asyncio.start_unix_server(serve, path, backlog=BACKLOG)):
                yield path
        return
    context = server_context() if case.link == "tls" else None
    with closing(
        await asyncio.start_server(serve, HOST, 0, backlog=BACKLOG, ssl=context)
    ) as server:
        yield port_of(server)


@asynccontextmanager
async def sock(case: Case) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    echoes: list[asyncio.Task[None]] = []
    with (
        unix_path() as path,
        socket.socket(socket.AF_UNIX if case.link == "unix" else socket.AF_INET) as listener,
    ):
        listener.bind(path if case.link == "unix" else (HOST, 0))
        listener.listen(BACKLOG)
        listener.setblocking(False)

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listener)
                if case.link == "tcp":
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                echoes.append(asyncio.create_task(echo_socket(connection)))

        accepting = asyncio.create_task(accept())
        yield path if case.link == "unix" else str(listener.getsockname()[1])
        accepting.cancel()
        for task in echoes:
            task.cancel()
        await asyncio.gather(accepting, *echoes, return_exceptions=True)


SERVERS: dict[str, Callable[[Case], AbstractAsyncContextManager[str]]] = {
    "protocol": protocol,
    "streams": streams,
    "sock": sock,
}


async def measure(case: Case, dialect: str, n: int) -> Spent:
    """What `n` messages cost on the running loop."""
    allow_descriptors()
    serve: Callable[[Case], AbstractAsyncContextManager[str]]
    if dialect == "native":
        from .echo_net import serving as serve
    else:
        serve = SERVERS[case.kind]
    async with (
        serve(case) as address,
        Client(
            address,
            connections=case.connections,
            size=case.size,
            depth=case.depth,
            tls=case.link == "tls",
        ) as client,
    ):
        return await client.ask(n)
