"""What pyasync_c.net does in Python: looking names up, and trying the addresses that they have.

C calls this with arguments that it has checked. A name is looked up by the running loop's own
getaddrinfo, in a thread. Its addresses are tried one after the other, in the order in which the
system gives them, as asyncio does unless it is told otherwise.
"""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

from . import _core

Address = tuple[Any, ...]


async def _look_up(host: str, port: int, kind: int, flags: int = 0) -> list[Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=kind, flags=flags)
    ours = (socket.AF_INET, socket.AF_INET6)
    addresses = [address for family, _, _, _, address in found if family in ours]
    if not addresses:
        raise OSError(f"{host!r} has no address")
    return list(dict.fromkeys(addresses))


def _raise_one(errors: list[OSError], host: str) -> None:
    """The error if there was but one attempt, else one that tells of all."""
    if len({str(error) for error in errors}) == 1:
        raise errors[0]
    numbers = {error.errno for error in errors}
    text = f"{host!r}: {'; '.join(map(str, errors))}"
    if len(numbers) == 1:
        raise OSError(errors[0].errno, text) from errors[-1]
    raise OSError(text) from errors[-1]


async def _connect(
    host: str, port: int, local_addr: Address | None, nodelay: bool
) -> _core.TcpStream:
    errors: list[OSError] = []
    for address in await _look_up(host, port, socket.SOCK_STREAM):
        if local_addr is not None and (":" in local_addr[0]) != (":" in address[0]):
            errors.append(OSError(f"{address} is of another family than local_addr"))
            continue
        try:
            return await _core._net_connect(address, local_addr, nodelay)
        except OSError as error:
            errors.append(error)
    try:
        _raise_one(errors, host)
    finally:
        errors.clear()  # they refer to this frame
    raise AssertionError


def connect_tcp(
    host: str, port: int, local_addr: Address | None, nodelay: object
) -> Coroutine[Any, Any, _core.TcpStream]:
    return _connect(host, port, local_addr, bool(nodelay))


async def bind_tcp(host: str, port: int, options: tuple[int, int, int, int]) -> _core.TcpListener:
    errors: list[OSError] = []
    flags = socket.AI_PASSIVE
    for address in await _look_up(host, port, socket.SOCK_STREAM, flags):
        try:
            return _core._net_listen(address, options)
        except OSError as error:
            errors.append(error)
    try:
        _raise_one(errors, host)
    finally:
        errors.clear()
    raise AssertionError


async def bind_udp(host: str, port: int, reuse_port: object, broadcast: object) -> _core.UdpSocket:
    errors: list[OSError] = []
    for address in await _look_up(host, port, socket.SOCK_DGRAM, socket.AI_PASSIVE):
        try:
            return _core._net_udp(address, bool(reuse_port), bool(broadcast))
        except OSError as error:
            errors.append(error)
    try:
        _raise_one(errors, host)
    finally:
        errors.clear()
    raise AssertionError


async def connect_udp(udp: _core.UdpSocket, host: str, port: int) -> None:
    is_ipv6 = ":" in udp.local_addr[0]
    errors: list[OSError] = []
    for address in await _look_up(host, port, socket.SOCK_DGRAM):
        if (":" in address[0]) != is_ipv6:
            errors.append(OSError(f"{address} is of another family than the socket"))
            continue
        try:
            return udp._connect(address)
        except OSError as error:
            errors.append(error)
    try:
        _raise_one(errors, host)
    finally:
        errors.clear()
