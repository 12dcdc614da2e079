"""UdpSocket on every loop."""

import asyncio
import socket

import pytest
from helpers import every_loop, free_port
from net_testing import (
    cancel,
    nothing_left,
    waiting,
    what_the_loops_open_once_a_process,
)

import pyasync_c
from pyasync_c import net

__all__ = ["nothing_left", "what_the_loops_open_once_a_process"]


@every_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_datagrams_with_addresses(run, host):
    async def main():
        async with await net.UdpSocket.bind(host, 0) as a, await net.UdpSocket.bind(host, 0) as b:
            task = await waiting(b.recv_from())
            assert await a.send_to(b"hello", b.local_addr) is None
            assert await task == (b"hello", a.local_addr)
            await b.send_to(bytearray(b""), a.local_addr)
            assert await a.recv_from() == (b"", b.local_addr)
            await b.send_to(b"x" * 60_000, a.local_addr)
            assert await a.recv(10) == b"x" * 10  # the rest of it is gone
            await b.send_to(b"next", a.local_addr)
            assert await a.recv() == b"next"

    run(main())


@every_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connected(run, host):
    async def main():
        async with (
            await net.UdpSocket.bind(host, 0) as a,
            await net.UdpSocket.bind(host, 0) as b,
            await net.UdpSocket.bind(host, 0) as c,
        ):
            with pytest.raises(OSError):
                await a.send(b"x")
            await a.connect(host, b.local_addr[1])
            assert a.peer_addr == b.local_addr
            await c.send_to(b"from another one", a.local_addr)
            await a.send(b"question")
            data, address = await b.recv_from()
            assert data == b"question"
            await b.send_to(b"answer", address)
            assert await a.recv() == b"answer"
            with pytest.raises(OSError):
                await a.send(bytes(70_000))

    run(main())


@every_loop
def test_nobody_is_there(run):
    async def main():
        async with await net.UdpSocket.bind("127.0.0.1", 0) as a:
            await a.connect("127.0.0.1", free_port())
            task = await waiting(a.recv())
            await a.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await task
            with pytest.raises(OSError, match="could not bind"):
                await net.UdpSocket.bind(*a.local_addr)

    run(main())


@every_loop
def test_cancelled_or_losing_it_has_taken_nothing(run):
    async def main():
        async with (
            await net.UdpSocket.bind("127.0.0.1", 0) as a,
            await net.UdpSocket.bind("127.0.0.1", 0) as b,
        ):
            await cancel(await waiting(b.recv()))
            index, _ = await pyasync_c.select(b.recv_from(), pyasync_c.sleep(0.001))
            assert index == 1
            tasks = [await waiting(b.recv()) for _ in range(3)]
            for n in range(3):
                await a.send_to(b"%d" % n, b.local_addr)
            assert sorted(await asyncio.gather(*tasks)) == [b"0", b"1", b"2"]
            task = await waiting(b.recv())
            b.close()
            with pytest.raises(OSError, match="UdpSocket is closed"):
                await task

    run(main())


@every_loop
def test_from_socket_and_bad_input(run):
    async def main():
        with socket.socket() as stream, pytest.raises(ValueError, match="type"):
            net.UdpSocket.from_socket(stream)
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        plain.bind(("127.0.0.1", 0))
        async with net.UdpSocket.from_socket(plain) as udp:
            await udp.send_to(b"to myself", udp.local_addr)
            assert await udp.recv() == b"to myself"
            for call, error in [
                (lambda: udp.send("text"), TypeError),
                (lambda: udp.send_to(b"x"), TypeError),
                (lambda: udp.send_to(b"x", ("localhost", 1)), ValueError),
                (lambda: udp.send_to(b"x", ("127.0.0.1",)), TypeError),
                (lambda: udp.send_to(b"x", "127.0.0.1"), TypeError),
                (lambda: udp.recv(0), ValueError),
                (lambda: udp.recv(1 << 20), OverflowError),
                (lambda: udp.connect("127.0.0.1"), TypeError),
                (lambda: udp.connect("127.0.0.1", -1), ValueError),
                (lambda: net.UdpSocket.bind("127.0.0.1", 1 << 20), OverflowError),
                (lambda: net.UdpSocket(), TypeError),
            ]:
                with pytest.raises(error):
                    call()

    run(main())
