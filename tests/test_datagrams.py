"""create_datagram_endpoint: our transport, and what asyncio documents on asyncio's as well."""

import asyncio
import contextlib
import contextvars
import socket
import sys
import warnings
import weakref

import pytest
from helpers import LOOPS, collect, every_transport, open_fds, run_asyncio, run_standard, turns

import pyasync_c


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.calls = []
        self.received = []
        self.errors = []
        self.got = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def datagram_received(self, data, address):
        self.received.append((data, address))
        self.got.set()

    def error_received(self, exc):
        self.errors.append(exc)
        self.got.set()

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")
        self.got.set()

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def endpoint(**kwargs):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Recorder, **kwargs)
    try:
        yield transport, protocol
    finally:
        transport.close()
        await protocol.lost


LOCAL = {"local_addr": ("127.0.0.1", 0)}


@every_transport
def test_to_and_fro(run):
    async def main():
        async with endpoint(**LOCAL) as (server, heard):
            address = server.get_extra_info("sockname")
            assert server.get_extra_info("peername") is None
            assert server.get_extra_info("socket").getsockname() == address
            async with endpoint(remote_addr=address) as (client, answers):
                assert client.get_extra_info("peername") == address
                for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"view")):
                    heard.got.clear()
                    client.sendto(data)
                    await heard.got.wait()
                    received, sender = heard.received.pop()
                    assert received == bytes(data)
                    assert sender == client.get_extra_info("sockname")
                    answers.got.clear()
                    server.sendto(received[::-1], sender)
                    await answers.got.wait()
                    assert answers.received.pop() == (bytes(data)[::-1], address)
                client.sendto(b"to whom it is connected", address)
                with pytest.raises(ValueError, match="Invalid address"):
                    client.sendto(b"to another one", ("127.0.0.1", 1))
            if sys.version_info >= (3, 12) or type(client).__module__.startswith("pyasync_c"):
                assert isinstance(client, asyncio.DatagramTransport)
            assert client.is_closing()

    run(main())


@every_transport
def test_ipv6_and_names(run):
    async def main():
        try:
            six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            six.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        six.setblocking(False)
        async with endpoint(sock=six) as (server, heard):
            server.sendto(b"self", server.get_extra_info("sockname"))
            await heard.got.wait()
            assert heard.received == [(b"self", server.get_extra_info("sockname"))]
        async with endpoint(**LOCAL) as (server, heard):
            server.sendto(b"by name", ("localhost", server.get_extra_info("sockname")[1]))
            await heard.got.wait()
            assert heard.received[0][0] == b"by name"

    run(main())


@every_transport
def test_unix_datagrams(run, tmp_path):
    async def main():
        paths = [str(tmp_path / name) for name in ("one", "two")]
        async with contextlib.AsyncExitStack() as stack:
            ends = [
                await stack.enter_async_context(endpoint(local_addr=path, family=socket.AF_UNIX))
                for path in paths
            ]
            (one, _), (_, heard) = ends
            large = bytes(range(256)) * 500  # more than any UDP datagram
            one.sendto(large, paths[1])
            await heard.got.wait()
            assert heard.received == [(large, paths[0])]

    run(main())


@every_transport
def test_many_come_in_order(run):
    async def main():
        async with endpoint(**LOCAL) as (server, heard), endpoint(**LOCAL) as (client, _):
            address = server.get_extra_info("sockname")
            for i in range(100):
                client.sendto(b"%d" % i, address)
            while len(heard.received) < 100:
                heard.got.clear()
                await asyncio.wait_for(heard.got.wait(), 30)
            assert [int(data) for data, _ in heard.received] == list(range(100))

    run(main())


def full_pair():
    """A Unix socket connected to another one, to which nothing more can be sent."""
    one, two = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    two.bind("")  # the kernel chooses a name
    one.connect(two.getsockname())
    one.setblocking(False)
    two.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(b"%d" % count)
            count += 1
    return one, two, count


@every_transport
def test_what_does_not_go_at_once_goes_later_and_flow_control_tells(run):
    async def main():
        one, two, count = full_pair()
        with two:
            async with endpoint(sock=one) as (transport, protocol):
                transport.set_write_buffer_limits(high=2000, low=1000)
                for i in range(count, count + 100):
                    transport.sendto(b"%100d" % i)
                assert protocol.calls == ["made", "pause"]
                assert transport.get_write_buffer_size() >= 9000
                for i in range(count + 100):
                    while True:
                        try:
                            data = two.recv(200)
                            break
                        except BlockingIOError:
                            await asyncio.sleep(0.001)
                    assert int(data) == i
                await protocol.got.wait()
                assert protocol.calls == ["made", "pause", "resume"]
                assert transport.get_write_buffer_size() <= 800  # asyncio's counts some twice

    run(main())


@every_transport
def test_closing_sends_what_is_left_and_aborting_does_not(run):
    async def main():
        for abort in False, True:
            one, two, count = full_pair()
            with two:
                async with endpoint(sock=one) as (transport, protocol):
                    transport.sendto(b"last")
                    if abort:
                        transport.abort()
                        await protocol.lost
                    else:
                        transport.close()
                        await turns()
                        assert not protocol.lost.done()
                    received = [two.recv(100) for _ in range(count)]
                    if not abort:
                        await protocol.lost
                        received.append(two.recv(100))
                    assert (received[-1] == b"last") is not abort

    run(main())


@every_transport
def test_errors_are_the_protocols(run):
    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            nobody = sock.getsockname()
        async with endpoint(remote_addr=nobody) as (transport, protocol):
            transport.sendto(b"anybody there?")
            await protocol.got.wait()
            assert isinstance(protocol.errors[0], ConnectionRefusedError)
            transport.sendto(b"x" * 100_000)
            assert isinstance(protocol.errors[-1], OSError)
            assert not transport.is_closing()

    run(main())


@every_transport
def test_callbacks_that_raise(run):
    async def main():
        loop = asyncio.get_running_loop()
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))

        class Failing(Recorder):
            def datagram_received(self, data, address):
                super().datagram_received(data, address)
                raise ValueError(data)

        async with endpoint(**LOCAL) as (client, _):
            transport, heard = await loop.create_datagram_endpoint(Failing, **LOCAL)
            for data in b"one", b"two":
                heard.got.clear()
                client.sendto(data, transport.get_extra_info("sockname"))
                await heard.got.wait()
            await turns()
            assert [type(exc) for exc in reports] == [ValueError, ValueError]
            assert not transport.is_closing()
            transport.close()
            assert await heard.lost is None

    run(main())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_exit_leaves_what_comes_after_it(new_loop):
    class Leaves(Recorder):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            raise SystemExit(len(self.received))

    async def connect(sock):
        return await loop.create_datagram_endpoint(Leaves, sock=sock)

    loop = new_loop()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer:
        transport, protocol = loop.run_until_complete(connect(ours))
        for _ in range(3):
            peer.send(b"x")
        limit = loop.call_later(30, loop.stop)
        for n in 1, 2, 3:
            with pytest.raises(SystemExit) as left:
                loop.run_forever()
            assert left.value.code == n == len(protocol.received)
        limit.cancel()
        transport.close()
        loop.run_until_complete(protocol.lost)
    loop.close()


@every_transport
def test_bad_input(run):
    async def main():
        async with endpoint(**LOCAL) as (transport, protocol):
            with pytest.raises(TypeError, match="bytes-like"):
                transport.sendto("text", ("127.0.0.1", 1))
            with pytest.raises(TypeError):
                transport.sendto()
        transport.sendto(b"too late", ("127.0.0.1", 1))
        assert repr(transport).startswith("<")

    if run in (run_asyncio, run_standard):
        with pytest.raises(AttributeError):  # asyncio's has no socket any more
            run(main())
    else:
        run(main())


def test_a_transport_may_close_in_any_callback():
    async def main():
        loop = asyncio.get_running_loop()

        class Closing(Recorder):
            def datagram_received(self, data, address):
                super().datagram_received(data, address)
                self.transport.abort() if data == b"abort" else self.transport.close()

        async with endpoint(**LOCAL) as (client, _):
            for data in b"abort", b"close":
                transport, heard = await loop.create_datagram_endpoint(Closing, **LOCAL)
                for _ in range(5):
                    client.sendto(data, transport.get_extra_info("sockname"))
                assert await heard.lost is None
                assert len(heard.received) == 1

    pyasync_c.run(main())


def test_paused_and_resumed():
    async def main():
        async with endpoint(**LOCAL) as (transport, heard), endpoint(**LOCAL) as (client, _):
            transport.pause_reading()
            assert not transport.is_reading()
            client.sendto(b"waits", transport.get_extra_info("sockname"))
            await asyncio.sleep(0.01)
            assert heard.received == []
            transport.resume_reading()
            await heard.got.wait()
            assert heard.received[0][0] == b"waits"

    pyasync_c.run(main())


def test_callbacks_run_in_the_context_of_the_endpoint():
    variable = contextvars.ContextVar("variable", default="none")

    class Noting(Recorder):
        def datagram_received(self, data, address):
            super().datagram_received(variable.get(), address)

    async def main():
        variable.set("made")
        transport, heard = await asyncio.get_running_loop().create_datagram_endpoint(
            Noting, **LOCAL
        )
        variable.set("later")
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await heard.got.wait()
        assert heard.received[0][0] == "made"
        transport.close()
        await heard.lost

    pyasync_c.run(main())


def test_nothing_is_left_open():
    async def main():
        for _ in range(20):
            async with endpoint(**LOCAL) as (transport, heard):
                transport.sendto(b"x", transport.get_extra_info("sockname"))
                await heard.got.wait()

    pyasync_c.run(main())
    collect()
    before = open_fds()
    pyasync_c.run(main())
    collect()
    assert open_fds() == before


def test_the_loop_closes_first():
    loop = pyasync_c.new_event_loop()
    transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(Recorder, **LOCAL))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.sendto(b"x", ("127.0.0.1", 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, protocol
        collect()
    assert any("unclosed transport" in str(warning.message) for warning in caught)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio sends none before Python 3.13")
@every_transport
def test_empty_datagrams(run):
    async def main():
        async with endpoint(**LOCAL) as (transport, heard):
            transport.sendto(b"", transport.get_extra_info("sockname"))
            await heard.got.wait()
            assert heard.received[0][0] == b""

    run(main())


@every_transport
def test_who_sends_again_what_has_failed_does_not_stop_the_loop(run, tmp_path):
    """Two datagrams wait, and each time that one fails it is sent anew."""

    class Again(Recorder):
        def error_received(self, exc):
            self.errors.append(exc)
            if len(self.errors) < 1000:
                self.transport.sendto(b"again", str(tmp_path / "nobody"))

    async def main():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(str(tmp_path / "peer"))
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.setblocking(False)
            transport, protocol = await loop.create_datagram_endpoint(Again, sock=sock)
            while transport.get_write_buffer_size() == 0:
                transport.sendto(b"fill", str(tmp_path / "peer"))
            transport.sendto(b"again", str(tmp_path / "nobody"))
            transport.sendto(b"again", str(tmp_path / "nobody"))
            with contextlib.suppress(BlockingIOError):
                while True:
                    peer.recv(100)
            seen = []
            while len(protocol.errors) < 100:
                await asyncio.sleep(0)
                seen.append(len(protocol.errors))
            assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= 2
            transport.abort()
            await protocol.lost

    run(main())


@every_transport
def test_a_protocol_outlives_its_own_call(run):
    """A method in C, which has set another protocol: nobody else refers to the first by then."""
    alive = []

    class Key:
        def __hash__(self):
            return hash(b"datagram")

        def __eq__(self, other):
            transport.set_protocol(Recorder())
            alive.append(first() is not None)
            return True

    class Store(dict):
        datagram_received = dict.setdefault

        def connection_made(self, transport):
            pass

    async def main():
        nonlocal transport, first
        stores = [Store({Key(): None})]
        first = weakref.ref(stores[0])
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(stores.pop, **LOCAL)
        del _
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"datagram", transport.get_extra_info("sockname"))
        while not alive:
            await asyncio.sleep(0.001)
        assert alive == [True]
        transport.close()
        await transport.get_protocol().lost

    transport = first = None
    run(main())
