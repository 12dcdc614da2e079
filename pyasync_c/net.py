"""Streams, listeners and datagrams to await: Tokio's net for Python.

    from pyasync_c import net

    async with await net.TcpStream.connect("localhost", 8080) as stream:
        await stream.write_all(b"hello\\n")
        line = await stream.readline()

Everything here works on this package's loop, asyncio's and uvloop's. docs/net.md is the guide.
"""

from ._core import (
    CopyBidirectional,
    Framed,
    ReadHalf,
    TcpListener,
    TcpStream,
    TlsStream,
    UdpSocket,
    UnixListener,
    UnixStream,
    Write,
    WriteHalf,
    copy_bidirectional,
)

__all__ = [
    "CopyBidirectional",
    "Framed",
    "ReadHalf",
    "TcpListener",
    "TcpStream",
    "TlsStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "Write",
    "WriteHalf",
    "copy_bidirectional",
]
