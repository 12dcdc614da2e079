"""Servers that send back what they get, asked by a process of its own (echo_client.py).

Each shape takes the number of requests and returns the seconds until the last answer, by the
client's clock, the processor time of this process, the server's, and how long single requests
took. They are what a user of asyncio would write, and run on every loop that offers its interface.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

from .stopwatch import Spent, Stopwatch

HOST = "127.0.0.1"
CONNECTIONS = 8
RECEIVE_MAX = 256 * 1024
"""As asyncio's transports take at a time."""


class Client:
    """The process that asks; its pipes are read on a thread, as not every loop has subprocesses."""

    def __init__(self, address: str, size: int, requests: int) -> None:
        program = str(Path(__file__).with_name("echo_client.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-S", program, *map(str, (address, CONNECTIONS, size, requests))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def _line(self) -> str:
        assert self.process.stdout is not None
        read = self.process.stdout.readline
        line = await asyncio.get_running_loop().run_in_executor(None, read)
        if not line:
            raise RuntimeError(f"the client has failed, exit code {self.process.wait()}")
        return line

    async def measure(self) -> Spent:
        try:
            await self._line()
            assert self.process.stdin is not None
            watch = Stopwatch()
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            wall, p50, p99 = json.loads(await self._line())
            return Spent(wall, watch.stop().cpu, p50, p99)
        finally:
            self.process.kill()
            self.process.communicate()


async def measure(serve: AbstractAsyncContextManager[str], size: int, n: int) -> Spent:
    async with serve as address:
        return await Client(address, size, n).measure()


# ── the servers: each gives the address that it listens at ───────────────────────────────────


async def echo_messages(
    size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            writer.write(await reader.readexactly(size))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def port_of(server: Any) -> str:
    return str(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def streams(size: int) -> AsyncIterator[str]:
    with closing(await asyncio.start_server(partial(echo_messages, size), HOST, 0)) as server:
        yield port_of(server)


@asynccontextmanager
async def protocol() -> AsyncIterator[str]:
    with closing(await asyncio.get_running_loop().create_server(Echo, HOST, 0)) as server:
        yield port_of(server)


@asynccontextmanager
async def unix(size: int) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "echo")
        with closing(await asyncio.start_unix_server(partial(echo_messages, size), path)):
            yield path


async def echo_socket(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        while data := await loop.sock_recv(connection, RECEIVE_MAX):
            await loop.sock_sendall(connection, data)


@asynccontextmanager
async def sockets() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    echoes: list[asyncio.Task[None]] = []
    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listener)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                echoes.append(asyncio.create_task(echo_socket(connection)))

        accepting = asyncio.create_task(accept())
        yield str(listener.getsockname()[1])
        accepting.cancel()
        await asyncio.gather(accepting, *echoes, return_exceptions=True)


# ── the shapes ───────────────────────────────────────────────────────────────────────────────

SHORT = 1024
LONG = 100 * 1024


async def echo_streams_1k(n: int) -> Spent:
    return await measure(streams(SHORT), SHORT, n)


async def echo_streams_100k(n: int) -> Spent:
    return await measure(streams(LONG), LONG, n)


async def echo_protocol_1k(n: int) -> Spent:
    return await measure(protocol(), SHORT, n)


async def echo_protocol_100k(n: int) -> Spent:
    return await measure(protocol(), LONG, n)


async def echo_unix_1k(n: int) -> Spent:
    return await measure(unix(SHORT), SHORT, n)


async def echo_unix_100k(n: int) -> Spent:
    return await measure(unix(LONG), LONG, n)


async def echo_sock_1k(n: int) -> Spent:
    return await measure(sockets(), SHORT, n)


async def echo_sock_100k(n: int) -> Spent:
    return await measure(sockets(), LONG, n)
