"""The echo servers in this package's own names."""

import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pyasync_c import JoinSet, net, spawn

from .echo import BACKLOG, HOST, RECEIVE_MAX, server_context
from .echo_case import Case


async def echo_messages(stream: Any, size: int) -> None:
    try:
        while True:
            await stream.write_all(await stream.read_exactly(size))
    except (EOFError, ConnectionError, ssl.SSLEOFError):  # the client goes without a word
        stream.close()


async def echo_stream(stream: Any) -> None:
    try:
        while data := await stream.read(RECEIVE_MAX):
            await stream.write_all(data)
    except (ConnectionError, ssl.SSLEOFError):
        pass
    stream.close()


async def echo(stream: Any, case: Case, context: ssl.SSLContext | None) -> None:
    if context is not None:
        stream = await net.TlsStream.wrap(stream, context, server_side=True)
    if case.depth == 1:
        await echo_messages(stream, case.size)
    else:
        await echo_stream(stream)


async def serve(listener: Any, case: Case, context: ssl.SSLContext | None) -> None:
    echoes: JoinSet[Any] = JoinSet()
    async with echoes:
        async for stream, _ in listener:
            echoes.spawn(echo(stream, case, context))


@asynccontextmanager
async def serving(case: Case) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        if case.link == "unix":
            address = str(Path(folder, "echo"))
            listener: Any = net.UnixListener.bind(address, backlog=BACKLOG)
        else:
            listener = await net.TcpListener.bind(HOST, 0, backlog=BACKLOG)
            address = str(listener.local_addr[1])
        context = server_context() if case.link == "tls" else None
        task = spawn(serve(listener, case, context))
        try:
            yield address
        finally:
            task.cancel()
            listener.close()
