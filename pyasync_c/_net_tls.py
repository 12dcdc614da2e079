"""What TlsStream does in Python: making an SSLObject, and ending what fails. C calls this."""

import ssl
from collections.abc import Coroutine
from typing import Any

from . import _core

Stream = _core.TcpStream | _core.UnixStream


async def _handshake(stream: _core.TlsStream) -> _core.TlsStream:
    try:
        return await stream._handshake()
    except BaseException:
        stream.close()
        raise


def _check(context: object, server_hostname: object) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
    if server_hostname is not None and not isinstance(server_hostname, str):
        raise TypeError(f"server_hostname must be a str, not {type(server_hostname).__name__}")


def wrap(
    stream: Stream,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> Coroutine[Any, Any, _core.TlsStream]:
    _check(context, server_hostname)
    if context.check_hostname and not server_side and not server_hostname:
        raise ValueError("context.check_hostname needs a server_hostname")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = context.wrap_bio(
        incoming, outgoing, server_side=server_side, server_hostname=server_hostname
    )
    made = _core._net_tls(
        stream, ssl_object, incoming, outgoing, ssl.SSLWantReadError, ssl.SSLZeroReturnError
    )
    return _handshake(made)


async def _connect(
    connecting: Any, context: ssl.SSLContext, server_hostname: str
) -> _core.TlsStream:
    stream = await connecting
    try:
        wrapping = wrap(stream, context, server_hostname=server_hostname)
    except BaseException:
        stream.close()
        raise
    return await wrapping


def connect(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    local_addr: tuple[Any, ...] | None = None,
    nodelay: bool = True,
) -> Coroutine[Any, Any, _core.TlsStream]:
    _check(context, server_hostname)
    connecting = _core.TcpStream.connect(host, port, local_addr=local_addr, nodelay=nodelay)
    return _connect(connecting, context, server_hostname or host)
