"""TlsStream on every loop: over TCP and Unix sockets, against the standard library's own TLS."""

import asyncio
import errno
import gc
import itertools
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
import weakref

import pytest
from helpers import awaits, every_loop
from net_testing import (
    cancel,
    nothing_left,
    plain_pair,
    stream_and_socket,
    stream_of,
    waiting,
    what_the_loops_open_once_a_process,
)

import pyasync_c
from pyasync_c import net

__all__ = ["nothing_left", "what_the_loops_open_once_a_process"]
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate of localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        + ["-nodes", "-keyout", key, "-out", certificate, "-days", "3650", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def contexts(files):
    """(server's, client's) that trust that certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files)
    client = ssl.create_default_context(cafile=files[0])
    return server, client


async def tls_pair(contexts, kind="tcp"):
    ours, theirs = plain_pair(kind)
    client, server = stream_of(ours), stream_of(theirs)
    return await asyncio.gather(
        net.TlsStream.wrap(client, contexts[1], server_hostname="localhost"),
        net.TlsStream.wrap(server, contexts[0], server_side=True),
    )


@every_loop
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_ways(run, contexts, kind, version):
    data = random.Random(1).randbytes(1_000_000)

    async def main():
        client, server = await tls_pair(contexts, kind)
        async with client, server:
            assert client.ssl_object.version() == version.name.replace("v1_", "v1.")
            await client.write_all(b"line\nrest")
            assert await server.readline() == b"line\n"
            assert await server.peek() == b"rest"
            assert await server.read(2) == b"re"
            buffer = bytearray(10)
            assert await server.read_into(buffer) == 2 and buffer[:2] == b"st"
            task = await waiting(client.read_exactly(len(data)))
            parts = [data[:10], b"", bytearray(data[10:300_000]), memoryview(data)[300_000:]]
            await server.write_all(parts)
            assert await task == data
            assert await server.write(b"counted") == 7
            assert await client.read_until(b"d") == b"counted"
            await client.shutdown()
            assert await server.read() == b""
            await server.write_all(b"after the end")
            assert await client.read() == b"after the end"
            await server.shutdown()
            assert await client.read() == b""

    contexts[0].maximum_version = contexts[0].minimum_version = version
    try:
        run(main())
    finally:
        contexts[0].minimum_version = ssl.TLSVersion.TLSv1_2
        contexts[0].maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@every_loop
def test_connect(run, contexts):
    async def main():
        async with await net.TcpListener.bind("127.0.0.1", 0) as listener:

            async def serve():
                stream, _ = await listener.accept()
                async with await net.TlsStream.wrap(stream, contexts[0], server_side=True) as tls:
                    assert stream.closed
                    async for frame in net.Framed.length_delimited(tls):
                        await net.Framed.length_delimited(tls).send(frame[::-1])

            serving = asyncio.ensure_future(serve())
            port = listener.local_addr[1]
            async with await net.TlsStream.connect("127.0.0.1", port, contexts[1]) as client:
                assert client.ssl_object.getpeercert()["subject"] == (
                    (("commonName", "localhost"),),
                )
                assert repr(client).startswith("<TlsStream fd=") and client.peer_addr[1] == port
                framed = net.Framed.length_delimited(client)
                await framed.send(b"hello")
                assert await framed.recv() == b"olleh"
                reader, writer = client.split()
                await writer.write_all(b"\0\0\0\1x")
                assert await reader.read_exactly(5) == b"\0\0\0\1x"
            await serving

    run(main())


@every_loop
def test_with_the_standard_library_at_the_other_end(run, contexts):
    """And with bytes of the handshake read ahead before TLS begins."""

    async def main():
        ours, theirs = plain_pair("tcp")

        def client():
            theirs.sendall(b"STARTTLS\n")
            with contexts[1].wrap_socket(theirs, server_hostname="localhost") as tls:
                tls.sendall(b"question\n")
                assert tls.recv(100) == b"answer"
                tls.unwrap().close()

        thread = threading.Thread(target=client)
        thread.start()
        stream = stream_of(ours)
        assert await stream.readline() == b"STARTTLS\n"
        await stream.peek()  # the beginning of the handshake is read ahead
        async with await net.TlsStream.wrap(stream, contexts[0], server_side=True) as tls:
            assert await tls.readline() == b"question\n"
            await tls.write_all(b"answer")
            assert await tls.read() == b""
        thread.join()

    run(main())


@every_loop
def test_handshakes_that_fail(run, contexts):
    async def main():
        for client_context, hostname in [
            (ssl.create_default_context(), "localhost"),  # trusts nobody
            (contexts[1], "example.org"),
        ]:
            ours, theirs = plain_pair("tcp")
            client, server = stream_of(ours), stream_of(theirs)
            results = await asyncio.gather(
                net.TlsStream.wrap(client, client_context, server_hostname=hostname),
                net.TlsStream.wrap(server, contexts[0], server_side=True),
                return_exceptions=True,
            )
            assert isinstance(results[0], ssl.SSLCertVerificationError)
            assert isinstance(results[1], (ssl.SSLError, net.TlsStream))
            if isinstance(results[1], net.TlsStream):
                with pytest.raises(OSError):
                    await results[1].read()  # TLS 1.3: the server hears of it later
                results[1].close()
            assert client.closed and server.closed
        # No TLS at all, and the end.
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b""):
            stream, peer = stream_and_socket()
            peer.send(sent) if sent else None
            if not sent:
                peer.close()
            with pytest.raises(ssl.SSLError):
                await net.TlsStream.wrap(stream, contexts[0], server_side=True)
            peer.close()

    run(main())


@every_loop
def test_a_cancelled_handshake_closes_the_socket(run, contexts):
    async def main():
        stream, peer = stream_and_socket()
        task = await waiting(net.TlsStream.wrap(stream, contexts[1], server_hostname="localhost"))
        await cancel(task)
        assert stream.closed
        assert peer.recv(10_000)  # its hello
        assert peer.recv(1) == b""
        peer.close()

    run(main())


@every_loop
def test_a_cancelled_read_has_taken_nothing_and_a_write_goes_on(run, contexts):
    data = random.Random(2).randbytes(30_000_000)

    async def main():
        client, server = await tls_pair(contexts)
        async with client, server:
            for n in range(10):
                await cancel(await waiting(server.read_exactly(10)))
                index, _ = await pyasync_c.select(server.readline(), pyasync_c.sleep(0.001))
                assert index == 1
                await client.write_all(b"%d" % n)
            assert await server.read_exactly(10) == b"0123456789"
            writing = client.write_all(data)
            await cancel(await waiting(writing))
            assert 0 < writing.written < len(data)
            reading = asyncio.ensure_future(read_all(server, len(data)))
            await writing
            assert writing.written == len(data)
            assert await reading == data

    async def read_all(stream, size):
        return await stream.read_exactly(size)

    run(main())


@every_loop
@pytest.mark.parametrize("most", [16_385, 40_000, 65_536, 1_000_000])
def test_one_who_sends_much_is_read_in_pieces(run, contexts, most):
    """One read takes several records, up to four, and no more than it was asked for."""
    data = random.Random(5).randbytes(1_000_000)

    async def main():
        client, server = await tls_pair(contexts, "unix")
        async with client, server:
            writing = asyncio.ensure_future(awaits(client.write_all(data)))
            got, sizes = b"", []
            while len(got) < len(data):
                await asyncio.sleep(0)
                part = await server.read(most)
                got += part
                sizes.append(len(part))
            await writing
            assert got == data
            assert max(sizes) == min(most // 16384, 4) * 16384
            # A stream that sends little again.
            await client.write_all(b"little")
            assert await server.read(most) == b"little"
            reading = await waiting(server.read(most))
            await client.write_all(b"more")
            assert await reading == b"more"

    run(main())


@every_loop
@pytest.mark.parametrize("size", [10, 16_384, 50_000])
def test_a_record_in_parts(run, contexts, size):
    """What a read has no room for is there for the next one, though nothing comes behind it."""
    data = random.Random(6).randbytes(size)

    async def main():
        client, server = await tls_pair(contexts)
        async with client, server:
            await client.write_all(data)
            got = b""
            for most in itertools.cycle((1, size // 3, 16_384)):
                part = await server.read(most)
                assert 0 < len(part) <= most
                got += part
                if len(got) == size:
                    break
            assert got == data
            await client.write_all(data)
            buffer = bytearray(7)
            assert await server.read_into(buffer) == 7
            assert bytes(buffer) + await server.read_exactly(size - 7) == data

    run(main())


@every_loop
def test_ends_that_were_not_said(run, contexts):
    """A connection that breaks off is not the end of the stream."""

    async def main():
        client, server = await tls_pair(contexts)
        await client.write_all(b"last")
        plain = socket.socket(fileno=client.fileno())  # cut it, without TLS knowing
        plain.shutdown(socket.SHUT_RDWR)
        plain.detach()
        assert await server.read() == b"last"
        with pytest.raises(ssl.SSLError):
            await server.read()
        client.close()
        server.close()
        with pytest.raises(OSError, match="TlsStream is closed"):
            await server.read()

    run(main())


@every_loop
def test_what_has_arrived_may_be_read_after_the_end_was_said(run, contexts):
    """Records that were handed on to the SSLObject, and not decrypted yet."""

    async def main():
        client, server = await tls_pair(contexts)
        async with client, server:
            for n in range(10):
                await server.write_all(b"%d" % n)
            await asyncio.sleep(0.01)
            assert await client.read(1) == b"0"
            await client.shutdown()
            assert await client.read_exactly(9) == b"123456789"
            assert await server.read() == b""

    run(main())


@every_loop
def test_an_error_that_the_end_of_this_side_meets_is_the_next_reads(run, contexts):
    """Not what an SSLObject says that has failed before: that the stream was cut off."""

    async def main():
        client, server = await tls_pair(contexts, "unix")
        async with client:
            await client.write_all(b"good")
            plain = socket.socket(fileno=os.dup(client.fileno()))
            plain.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # which nobody has encrypted
            plain.close()
            await asyncio.sleep(0.01)
            assert await server.read(2) == b"go"
            await server.shutdown()
            assert await server.read() == b"od"
            with pytest.raises(ssl.SSLError, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
                await server.read()
            server.close()

    run(main())


LINES = [b"first", b"meanwhile", b"last"]


class Server:
    """`openssl s_server`, which can begin a handshake in mid-stream."""

    def __init__(self, certificate, key):
        self.process = subprocess.Popen(
            ["openssl", "s_server", "-tls1_2", "-accept", "127.0.0.1:0"]
            + ["-cert", certificate, "-key", key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def port(self):
        for line in self.process.stdout:
            if line.startswith(b"ACCEPT"):
                return int(line.rpartition(b":")[2])
        raise AssertionError("openssl s_server has not begun")

    def say(self, line):
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def end(self):
        self.process.terminate()
        return self.process.communicate()[0]


@every_loop
@pytest.mark.parametrize("how", ["alone", "beside a reader", "as a proxy"])
def test_a_write_while_the_other_side_begins_a_handshake(run, files, contexts, how):
    """It waits for that to end, whoever hears of it: OpenSSL says that it wants to read."""
    server = Server(*files)

    async def main():
        loop = asyncio.get_running_loop()
        said = asyncio.Queue()
        upstream = socket.create_connection(("127.0.0.1", server.port()))
        ours, theirs = socket.socketpair()
        for sock in (upstream, theirs):
            sock.setblocking(False)

        async def there():
            while data := await loop.sock_recv(theirs, 65536):
                await loop.sock_sendall(upstream, data)

        async def listen():
            while data := await loop.sock_recv(upstream, 65536):
                said.put_nowait(data)

        async def pass_on():
            while True:
                await loop.sock_sendall(theirs, await said.get())

        tasks = [asyncio.ensure_future(f()) for f in (there, listen)]
        passing = asyncio.ensure_future(pass_on())
        client = await net.TlsStream.wrap(stream_of(ours), contexts[1], server_hostname="localhost")
        async with client:
            await client.write_all(b"first\n")
            near, far = stream_and_socket("unix")
            if how == "as a proxy":
                reading = await waiting(net.copy_bidirectional(near, client))
            else:
                reading = await waiting(client.read_exactly(7))
            await cancel(passing)
            server.say(b"r\n")
            await loop.sock_sendall(theirs, await said.get())
            answer = await said.get()  # to what the client has said by now
            if how == "alone":
                await cancel(reading)
            if how == "as a proxy":
                far.send(b"meanwhile\n")
                await asyncio.sleep(0.01)
            else:
                writing = await waiting(client.write_all(b"meanwhile\n"))
            await loop.sock_sendall(theirs, answer)
            passing = asyncio.ensure_future(pass_on())
            if how != "as a proxy":
                await writing
            server.say(b"answer\n")
            if how == "as a proxy":
                assert await loop.sock_recv(far, 100) == b"answer\n"
                await cancel(reading)
            else:
                reading = client.read_exactly(7) if how == "alone" else reading
                assert await reading == b"answer\n"
            near.close()
            far.close()
            await client.write_all(b"last\n")
            await client.shutdown()
            assert await client.read() == b""
        for task in (passing, *tasks):
            task.cancel()
        await asyncio.gather(passing, *tasks, return_exceptions=True)
        upstream.close()
        theirs.close()

    try:
        run(main())
    finally:
        output = server.end()
    assert [line for line in output.splitlines() if line in LINES] == LINES


@every_loop
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_was_written_arrives_though_its_writer_has_not_read(run, contexts, kind):
    """The server's tickets are there, unread: a socket that is closed over them is reset, and the
    bytes that have not gone yet go with it."""
    data = random.Random(3).randbytes(20_000)

    async def main():
        client, server = await tls_pair(contexts, kind)
        reading = await waiting(server.read_exactly(len(data)))
        await client.write_all(data)
        await client.shutdown()
        client.close()
        assert await reading == data
        assert await server.read() == b""
        server.close()

    run(main())


@every_loop
def test_the_end_is_said_though_the_other_side_has_broken_off(run, contexts):
    """What reading meets is for who reads: shutdown() says no error."""

    async def main():
        client, server = await tls_pair(contexts)
        await client.write_all(b"last")
        with socket.socket(fileno=os.dup(client.fileno())) as plain:
            plain.shutdown(socket.SHUT_WR)  # no word of TLS's
        assert await server.read() == b"last"
        with pytest.raises(ssl.SSLEOFError):
            await server.read()
        await server.shutdown()
        with pytest.raises(ssl.SSLError):
            await server.read()
        client.close()
        server.close()

    run(main())


@every_loop
def test_readiness_and_reading_to_the_end(run, contexts):
    """readable() is about bytes of the program's: tickets make no stream readable."""
    data = random.Random(4).randbytes(1_000_000)

    async def main():
        client, server = await tls_pair(contexts)
        async with client, server:
            task = await waiting(client.readable())
            await cancel(task)
            task = await waiting(client.readable())
            await server.write_all(b"first")
            assert await task is None
            assert await client.readable() is None
            assert await client.read_exactly(5) == b"first"
            reading = await waiting(client.read_to_end())
            assert await server.writable() is None
            writing = server.write_all(data)
            await writing
            assert await server.writable() is None
            await server.shutdown()
            assert await reading == data
            assert await client.readable() is None
            assert await client.read() == b""

    run(main())


@every_loop
def test_closing_says_so(run, contexts):
    async def main():
        client, server = await tls_pair(contexts)
        await server.write_all(b"unread")
        client.close()
        assert await server.read() == b""
        server.close()

    run(main())


@every_loop
def test_bad_input(run, contexts):
    async def main():
        stream, peer = stream_and_socket()
        for call, error in [
            (lambda: net.TlsStream(), TypeError),
            (lambda: net.TlsStream.wrap(stream), TypeError),
            (lambda: net.TlsStream.wrap(stream, 5), TypeError),
            (lambda: net.TlsStream.wrap(peer, contexts[1], server_hostname="x"), TypeError),
            (lambda: net.TlsStream.wrap(stream, contexts[1]), ValueError),
            (lambda: net.TlsStream.wrap(stream, contexts[1], server_hostname=5), TypeError),
            (lambda: net.TlsStream.connect("localhost", 1), TypeError),
            (lambda: net.TlsStream.connect("localhost", 1, None), TypeError),
            (lambda: net.TlsStream.connect("localhost", -1, contexts[1]), ValueError),
        ]:
            with pytest.raises(error):
                call()
        reading = await waiting(stream.read())
        with pytest.raises(RuntimeError, match="another task is using"):
            net.TlsStream.wrap(stream, contexts[1], server_hostname="localhost")
        await cancel(reading)
        stream.close()
        peer.close()

    run(main())


class Meddles(ssl.SSLObject):
    """Calls back before it reads."""

    meddle = None

    def read(self, *args):
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return super().read(*args)

    def write(self, data):
        if self.meddle is not None:
            raise ssl.SSLWantReadError  # as in a handshake: it wants to hear more
        return super().write(data)


@pytest.mark.parametrize("operation", ["read", "write", "close"])
def test_a_stream_that_is_used_from_within_its_ssl_object(files, contexts, operation):
    """A read receives behind what was read ahead, which must stay where it is."""
    context = ssl.create_default_context(cafile=files[0])
    context.sslobject_class = Meddles
    refused = []

    async def main():
        client, server = await tls_pair((contexts[0], context), "unix")
        await server.write_all(b"a" * 3000)
        await client.peek()
        await server.write_all(b"b" * 40000 + b"\n")
        await asyncio.sleep(0.01)  # until the loop knows that it has come
        ssl_object = client.ssl_object

        def meddle():
            if operation == "close":
                client.close()
                return
            ssl_object.meddle = int if operation == "write" else None
            nested = client.write(b"x") if operation == "write" else client.read()
            try:
                nested.poll(pyasync_c.Context(pyasync_c.noop_waker()))
            except RuntimeError as error:
                refused.append(str(error))
            ssl_object.meddle = None

        ssl_object.meddle = meddle
        try:
            assert await client.read_until(b"\n") == b"a" * 3000 + b"b" * 40000 + b"\n"
        except OSError as error:
            refused.append(error.errno)
        client.close()
        server.close()

    pyasync_c.run(main())
    assert len(refused) == 1
    assert (refused[0] == errno.EBADF) == (operation == "close"), refused


def test_a_cycle_through_a_stream_is_collected(contexts):
    """Of what its SSLObject refers to, and operations that nobody awaits."""

    async def main():
        client, server = await tls_pair(contexts)
        server.close()
        other, _ = net.UnixStream.pair()
        copying = net.copy_bidirectional(client, other)
        client.ssl_object.kept = [client, client.read(), client.write_all(b"x"), copying]
        other.close()
        _.close()
        client.close()
        return weakref.ref(client)

    gone = pyasync_c.run(main())
    assert gone() is not None
    gc.collect()
    assert gone() is None
