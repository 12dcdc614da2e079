"""loop.sock_recv and the like: on our loop, and what asyncio documents on asyncio's as well."""

import asyncio
import contextlib
import errno
import hashlib
import random
import socket
import ssl
import weakref

import pytest
from helpers import OUR_RUNTIME, collect, python, turns

import pyasync_c

every_run = pytest.mark.parametrize("run", [OUR_RUNTIME, pytest.param(asyncio.run, id="asyncio")])


@contextlib.contextmanager
def connected():
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


@contextlib.contextmanager
def datagrams():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for sock in one, two:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield one, two


@every_run
def test_receiving(run):
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            two.send(b"there")
            assert await loop.sock_recv(one, 100) == b"there"
            receiving = asyncio.create_task(loop.sock_recv(one, 3))
            await turns()
            assert not receiving.done()
            two.send(b"waited")
            assert await receiving == b"wai"
            buffer = bytearray(b".....")
            assert await loop.sock_recv_into(one, buffer) == 3
            assert buffer == b"ted.."
            receiving = asyncio.create_task(loop.sock_recv_into(one, memoryview(buffer)[1:]))
            await turns()
            two.send(b"xy")
            assert await receiving == 2
            assert buffer == b"txy.."
            two.close()
            assert await loop.sock_recv(one, 3) == b""

    run(main())


@every_run
@pytest.mark.parametrize("size", [1, 2, 100, 4096, 50_000, 1 << 18, (1 << 18) + 1])
def test_what_was_received_is_nobody_elses_memory(run, size):
    """However much of what was asked for has come, and whatever is received afterwards."""

    async def main():
        loop = asyncio.get_running_loop()
        rng = random.Random(size)
        most = min(size, 50_000)
        with datagrams() as (one, two):
            sent = [rng.randbytes(n) for n in (most, most, most // 2, most // 2 + 1, 1, 0, most)]
            received = []
            for data in sent:
                two.sendto(data, one.getsockname())
                received.append(await loop.sock_recv(one, size))
        assert received == sent

    run(main())


@every_run
def test_sending_more_than_there_is_room_for(run):
    async def main():
        loop = asyncio.get_running_loop()
        data = random.Random(1).randbytes(3_000_000)

        async def drain(sock):
            digest = hashlib.sha256()
            while chunk := await loop.sock_recv(sock, 65536):
                digest.update(chunk)
            return digest.digest()

        with connected() as (one, two):
            draining = asyncio.create_task(drain(two))
            for part in (data, b"", memoryview(data), bytearray(data)):
                assert await loop.sock_sendall(one, part) is None
            one.close()
            assert await draining == hashlib.sha256(data * 3).digest()

    run(main())


@every_run
def test_datagrams(run):
    async def main():
        loop = asyncio.get_running_loop()
        with datagrams() as (one, two):
            receiving = asyncio.create_task(loop.sock_recvfrom(one, 100))
            await turns()
            assert await loop.sock_sendto(two, b"hello", one.getsockname()) == 5
            assert await receiving == (b"hello", two.getsockname())
            buffer = bytearray(10)
            receiving = asyncio.create_task(loop.sock_recvfrom_into(one, buffer))
            await turns()
            await loop.sock_sendto(two, b"abcdef", one.getsockname())
            assert await receiving == (6, two.getsockname())
            await loop.sock_sendto(two, b"xyz", one.getsockname())
            assert await loop.sock_recvfrom_into(one, buffer, 2) == (2, two.getsockname())
            assert buffer == b"xycdef\0\0\0\0"

    run(main())


@every_run
def test_accepting(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            server.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(server))
            await turns()
            await loop.sock_connect(client, server.getsockname())
            peer, address = await accepting
            with peer:
                assert address == client.getsockname()
                assert peer.gettimeout() == 0

    run(main())


@every_run
def test_both_directions_and_a_callback_on_one_socket(run):
    """A reader callback and operations on one descriptor, in either order of coming and going."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        with connected() as (one, two):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sending = asyncio.create_task(loop.sock_sendall(one, bytes(1_000_000)))
            await turns()
            loop.add_reader(one, lambda: calls.append(one.recv(100)))
            two.send(b"a")
            await asyncio.sleep(0.01)
            assert calls == [b"a"]
            received = 0
            while received < 1_000_000:
                received += len(await loop.sock_recv(two, 65536))
            await sending
            two.send(b"b")
            await asyncio.sleep(0.01)
            assert calls == [b"a", b"b"]
            assert loop.remove_reader(one)
            receiving = asyncio.create_task(loop.sock_recv(one, 100))
            await turns()
            two.send(b"c")
            assert await receiving == b"c"
            loop.add_writer(one, lambda: (calls.append("room"), loop.remove_writer(one)))
            receiving = asyncio.create_task(loop.sock_recv(one, 100))
            await asyncio.sleep(0.01)
            two.send(b"d")
            assert await receiving == b"d"
            assert calls == [b"a", b"b", "room"]

    run(main())


@every_run
def test_a_number_that_is_used_again(run):
    """Sockets are closed between two operations, and nobody is told."""

    async def main():
        loop = asyncio.get_running_loop()
        for i in range(50):
            with connected() as (one, two):
                receiving = asyncio.create_task(loop.sock_recv(one, 100))
                await turns(2)
                if i % 2:
                    receiving.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await receiving
                else:
                    two.send(b"x")
                    assert await receiving == b"x"

    run(main())


def test_a_socket_that_was_used_by_operations_may_become_a_transports():
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            receiving = asyncio.create_task(loop.sock_recv(one, 100))
            await turns()
            two.send(b"x")
            await receiving
            reader, writer = await asyncio.open_connection(sock=one)
            two.send(b"line\n")
            assert await reader.readline() == b"line\n"
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.sock_recv(one, 100)
            writer.close()
            await writer.wait_closed()

    pyasync_c.run(main())


def test_a_cancelled_receive_has_taken_nothing():
    """Also in the turn in which the bytes came."""

    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            for operation in (
                lambda: loop.sock_recv(one, 100),
                lambda: loop.sock_recv_into(one, bytearray(100)),
                lambda: loop.sock_recvfrom(one, 100),
            ):
                for when in range(4):
                    receiving = asyncio.create_task(operation())
                    await turns(2)
                    two.send(b"mine")
                    for _ in range(when):
                        await asyncio.sleep(0)
                    if receiving.cancel():
                        with pytest.raises(asyncio.CancelledError):
                            await receiving
                        assert await loop.sock_recv(one, 100) == b"mine"

    pyasync_c.run(main())


WITHOUT_MEMORY = r"""
import asyncio, socket
import _testcapi
import pyasync_c

CONTEXT = pyasync_c.Context(pyasync_c.noop_waker())

def receive(loop, one, size, n):
    # What comes while the n-th allocation of the poll fails, and whether that was an error.
    operation = loop.sock_recv(one, size)
    _testcapi.set_nomemory(n, n + 1)
    try:
        return operation.poll(CONTEXT), False
    except MemoryError:
        _testcapi.remove_mem_hooks()
        return one.recv(size), True
    finally:
        _testcapi.remove_mem_hooks()

async def main():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    one.setblocking(False)
    failures = 0
    for size, count in (100, 10), (100, 100), (1 << 18, 1000), (1 << 18, 150_000), (1 << 19, 10):
        for n in range(10):
            sent = bytes([n, 255]) * (count // 2)
            two.sendall(sent)
            received, failed = receive(loop, one, size, n)
            assert received == sent, (size, count, n)
            failures += failed
    assert failures > 0

pyasync_c.run(main())
print("survived")
"""


def test_out_of_memory_loses_no_byte():
    pytest.importorskip("_testcapi")
    assert python(WITHOUT_MEMORY).endswith("survived\n")


def test_a_cancelled_accept_has_taken_no_connection():
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            for when in range(4):
                accepting = asyncio.create_task(loop.sock_accept(server))
                await turns(2)
                with socket.create_connection(server.getsockname()) as client:
                    for _ in range(when):
                        await asyncio.sleep(0)
                    if accepting.cancel():
                        with pytest.raises(asyncio.CancelledError):
                            await accepting
                        peer, address = await loop.sock_accept(server)
                    else:
                        peer, address = await accepting
                    peer.close()
                    assert address == client.getsockname()

    pyasync_c.run(main())


def test_one_that_loses_a_select_has_taken_nothing():
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            receiving = loop.sock_recv(one, 100)
            assert (await pyasync_c.select(receiving, pyasync_c.sleep(0.001)))[0] == 1
            two.send(b"later")
            assert await pyasync_c.select(receiving, pyasync_c.sleep(30)) == (0, b"later")
            with pytest.raises(RuntimeError, match="already awaited"):
                await receiving

    pyasync_c.run(main())


def test_several_wait_for_one_socket():
    """asyncio would forget all but the last."""

    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            waiting = [asyncio.create_task(loop.sock_recv(one, 1)) for _ in range(3)]
            await turns()
            two.send(b"abc")
            assert sorted(await asyncio.gather(*waiting)) == [b"a", b"b", b"c"]

    pyasync_c.run(main())


def test_always_ready_sockets_starve_nobody():
    async def main():
        loop = asyncio.get_running_loop()
        turns_of_others = 0

        async def other():
            nonlocal turns_of_others
            while True:
                turns_of_others += 1
                await asyncio.sleep(0)

        with connected() as (one, two):
            task = asyncio.create_task(other())
            for _ in range(1000):
                await loop.sock_sendall(two, b"x")
                await loop.sock_recv(one, 1)
            task.cancel()
        assert turns_of_others > 10

    pyasync_c.run(main())


@every_run
def test_errors_reach_who_awaits(run):
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            two.close()
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendall(one, b"x" * 10)
        with pytest.raises(OSError) as caught:
            await loop.sock_recv(one, 10)
        assert caught.value.errno == errno.EBADF
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            with pytest.raises(OSError) as caught:
                await loop.sock_sendto(one, b"x" * 100_000, ("127.0.0.1", 9))
            assert caught.value.errno == errno.EMSGSIZE

    run(main())


@every_run
def test_bad_input(run):
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, _):
            for error, make in (
                (TypeError, lambda: loop.sock_recv(one)),
                (TypeError, lambda: loop.sock_recv(one, 1, 2, 3)),
                (TypeError, lambda: loop.sock_recv(one, "1")),
                (TypeError, lambda: loop.sock_recv(one, 1, nothing=1)),
                (TypeError, lambda: loop.sock_recv(one, 1, n=1)),
                (ValueError, lambda: loop.sock_recv(one, -1)),
                (TypeError, lambda: loop.sock_sendall(one, "text")),
                (BufferError, lambda: memoryview(b"x")[::2].cast("B")),
                ((TypeError, BufferError), lambda: loop.sock_recv_into(one, b"const")),
                (TypeError, lambda: loop.sock_sendto(one, b"x")),
                ((AttributeError, TypeError), lambda: loop.sock_recv(5, 5)),
            ):
                with pytest.raises((error, TypeError) if error is BufferError else error):
                    await make()
            two = ssl.create_default_context().wrap_socket(
                socket.socket(), server_hostname="x", do_handshake_on_connect=False
            )
            with two, pytest.raises(TypeError, match="SSLSocket"):
                await loop.sock_recv(two, 1)
            loop.set_debug(True)
            one.setblocking(True)
            with pytest.raises(ValueError, match="non-blocking"):
                await loop.sock_recv(one, 1)

    run(main())


@every_run
def test_by_keywords(run):
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            await loop.sock_sendall(sock=two, data=b"abc")
            assert await loop.sock_recv(n=2, sock=one) == b"ab"
            assert await loop.sock_recv_into(one, buf=bytearray(5)) == 1

    run(main())


class CountingSocket(socket.socket):
    """A subclass with methods of its own: they are what is called."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def recv(self, n):
        self.calls.append("recv")
        return super().recv(n)

    def recv_into(self, buffer):
        self.calls.append("recv_into")
        return super().recv_into(buffer)

    def send(self, data):
        self.calls.append("send")
        return super().send(bytes(data)[:3])


@every_run
def test_a_socket_with_methods_of_its_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            with CountingSocket(fileno=one.detach()) as own:
                await loop.sock_sendall(own, b"abcdefgh")
                assert await loop.sock_recv(two, 100) == b"abcdefgh"
                two.send(b"x")
                assert await loop.sock_recv(own, 10) == b"x"
                receiving = asyncio.create_task(loop.sock_recv_into(own, bytearray(10)))
                await turns()
                two.send(b"yz")
                assert await receiving == 2
                assert set(own.calls) == {"send", "recv", "recv_into"}

    run(main())


def test_a_blocking_socket_does_not_block_the_loop():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with one, two:
            receiving = asyncio.create_task(loop.sock_recv(one, 10))
            await turns()
            two.send(b"x")
            assert await receiving == b"x"

    pyasync_c.run(main())


def test_on_another_loop_and_on_none():
    loop = pyasync_c.new_event_loop()
    try:
        with connected() as (one, two):
            two.send(b"x")

            async def main():
                with pytest.raises(RuntimeError, match="not the loop that runs here"):
                    await loop.sock_recv(one, 1)

            pyasync_c.run(main())
            asyncio.run(main())
            context = pyasync_c.Context(pyasync_c.noop_waker())
            with pytest.raises(RuntimeError, match="not the loop that runs here"):
                loop.sock_recv(one, 1).poll(context)
            assert loop.run_until_complete(loop.sock_recv(one, 1)) == b"x"
            left = loop.sock_recv(one, 1)
    finally:
        loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        left.poll(context)
    with pytest.raises(RuntimeError, match="closed"):
        loop.sock_recv(one, 1)


def test_the_loop_closes_first():
    loop = pyasync_c.new_event_loop()
    woken = []
    with connected() as (one, _):
        context = pyasync_c.Context(pyasync_c.Waker(lambda: woken.append(1)))

        async def main():
            receiving = loop.sock_recv(one, 1)
            assert receiving.poll(context) is pyasync_c.PENDING
            return receiving

        receiving = loop.run_until_complete(main())
        loop.close()
        assert woken == [1]
        with pytest.raises(RuntimeError, match="closed"):
            receiving.poll(context)


def test_the_newest_waker_is_woken():
    async def main():
        loop = asyncio.get_running_loop()
        woken = []
        with connected() as (one, two):
            receiving = loop.sock_recv(one, 10)
            for name in "ab":
                waker = pyasync_c.Waker(lambda name=name: woken.append(name))
                assert receiving.poll(pyasync_c.Context(waker)) is pyasync_c.PENDING
            two.send(b"x")
            await asyncio.sleep(0.01)
            assert woken == ["b"]
            assert await receiving == b"x"

    pyasync_c.run(main())


def test_nothing_is_kept_alive():
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            waiting = asyncio.create_task(loop.sock_sendall(one, bytearray(2_000_000)))
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            del waiting
            buffer = bytearray(100)
            receiving = loop.sock_recv_into(two, buffer)
            await receiving
            buffer.extend(b"it is not exported any more")

            class Marked(bytearray):
                pass

            marked = Marked(10)
            gone = weakref.ref(marked)
            operation = loop.sock_recv_into(two, marked)
            marked.operation = operation  # a cycle
            del marked, operation
            collect()
            assert gone() is None

    pyasync_c.run(main())


def test_a_socket_keeps_a_virtual_clock_from_ending_in_a_deadlock():
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            pyasync_c.spawn_blocking(lambda: two.send(b"x"))
            return await loop.sock_recv(one, 1)

    with pyasync_c.Runtime(clock="virtual") as runtime:
        assert runtime.run(main()) == b"x"


def test_an_operation_goes_on_in_compatible_mode():
    loop = pyasync_c.new_event_loop()
    try:
        with connected() as (one, two):

            async def main():
                receiving = asyncio.create_task(loop.sock_recv(one, 10))
                await turns()
                loop._run_once = loop._run_once
                assert loop._compatible
                two.send(b"x")
                assert await receiving == b"x"
                two.send(b"y")
                assert await loop.sock_recv(one, 10) == b"y"

            loop.run_until_complete(main())
    finally:
        loop.close()


def test_repr():
    async def main():
        loop = asyncio.get_running_loop()
        with connected() as (one, two):
            receiving = loop.sock_recv(one, 10)
            assert repr(receiving) == "<SocketOperation sock_recv not polled yet>"
            await pyasync_c.poll_once(receiving)
            assert repr(receiving) == "<SocketOperation sock_recv waiting>"
            two.send(b"x")
            await receiving
            assert repr(receiving) == "<SocketOperation sock_recv done>"
            assert asyncio.iscoroutine(receiving)  # asyncio's are: create_task() takes them

    pyasync_c.run(main())
