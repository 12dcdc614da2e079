"""The other end of a connection, played by hand, so that each fault happens when a test says so.

A Peer is a plain socket that never blocks and is tried again and again. Of the loop it uses nothing
but asyncio.sleep, so that what is under test is not what the test relies on. In TLS it shakes hands
and encrypts in memory: its records can be sent a byte at a time, cut off or forged.
"""

import asyncio
import collections
import contextlib
import errno
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

TICK = 0.0005
SMALL_BUFFER = 16384
"""What a socket's buffers are set to where they are to be full soon; the kernel doubles it."""

counts = collections.Counter()
"""What the tests have done so far, for the report at their end."""


async def retried(attempt):
    """What attempt() returns, once it does not have to wait any more."""
    tries = 0
    while True:
        try:
            return attempt()
        except (BlockingIOError, ssl.SSLWantReadError):
            tries += 1
            await asyncio.sleep(0 if tries < 5 else TICK)


async def until(condition):
    """Wait until condition() holds."""
    while not condition():
        await asyncio.sleep(TICK)


class Peer:
    """A plain socket; over TLS see TlsPeer."""

    def __init__(self, sock):
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            # A reset takes with it what Nagle's algorithm still holds.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        counts["connections"] += 1

    async def send(self, data):
        left = memoryview(data)
        counts["bytes sent to it"] += len(left)

        def send():
            return self.sock.send(left)

        while left:
            left = left[await retried(send) :]

    async def send_a_byte_at_a_time(self, data):
        for i in range(len(data)):
            await self.send(data[i : i + 1])
            await asyncio.sleep(0)

    async def send_what_fits(self, data):
        """How many bytes went before nobody took any more of them for some time."""
        sent = tries = 0
        while sent < len(data) and tries < 40:
            try:
                sent += self.sock.send(memoryview(data)[sent:])
                tries = 0
            except BlockingIOError:
                tries += 1
                await asyncio.sleep(TICK)
        return sent

    async def receive(self, most=65536):
        """Some bytes, or none at the end."""
        data = await retried(lambda: self.sock.recv(most))
        counts["bytes received from it"] += len(data)
        return data

    async def exactly(self, size):
        data = b""
        while len(data) < size:
            more = await self.receive(size - len(data))
            assert more, f"the connection has ended after {len(data)} of {size} bytes"
            data += more
        return data

    async def rest(self):
        """All bytes until the end."""
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    async def rest_until_it_breaks(self):
        """All bytes, and the OSError that they end in, or None if it is an end as it should be."""
        data = bytearray()
        try:
            while more := await self.receive():
                data += more
        except OSError as error:
            return bytes(data), error
        return bytes(data), None

    async def sees_the_end(self):
        """Of a connection that may end in any way, but not in more bytes."""
        try:
            assert await self.receive() == b""
        except ConnectionError:
            pass

    def is_unread(self):
        """Whether something has come that was not received."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def shutdown(self):
        """Say that nothing more comes."""
        counts["half-closes"] += 1
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Break the connection. A Unix socket has to have something unread for that."""
        counts["resets"] += 1
        if self.sock.family == socket.AF_UNIX:
            assert self.is_unread(), "it would be an end, not a reset"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


class TlsPeer(Peer):
    """The same over TLS: `raw` is the Peer that its records go through."""

    def __init__(self, sock, context, *, is_server, in_bytes=False):
        super().__init__(sock)
        self.raw = Peer(sock)
        counts["connections"] -= 1
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if is_server else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, is_server, name)
        self.in_bytes = in_bytes
        """Whether all records go out a byte at a time."""
        self.decrypted = b""
        """What was decrypted already: nothing can be once this side has ended its half."""

    async def flush(self):
        data = self.outgoing.read()
        if self.in_bytes:
            await self.raw.send_a_byte_at_a_time(data)
        else:
            await self.raw.send(data)

    async def _done(self, attempt):
        while True:
            try:
                result = attempt()
            except ssl.SSLWantReadError:
                await self.flush()
                data = await self.raw.receive()
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                await self.flush()
                return result

    async def shake_hands(self):
        """What a server says behind the handshake, its tickets, goes out in one piece: nobody need
        read it, and a Unix socket has no room for hundreds of pieces."""
        in_bytes = self.in_bytes

        def attempt():
            self.tls.do_handshake()
            self.in_bytes = in_bytes and not self.tls.server_side

        await self._done(attempt)
        self.in_bytes = in_bytes

    async def send(self, data):
        for i in range(0, len(data), 16384):
            self.tls.write(data[i : i + 16384])
            await self.flush()

    async def send_a_byte_at_a_time(self, data):
        self.in_bytes = True
        await self.send(data)

    async def send_what_fits(self, data):
        """In clear text bytes, as far as whole records went."""
        sent = 0
        while sent < len(data):
            part = data[sent : sent + 16384]
            self.tls.write(part)
            record = self.outgoing.read()
            if await self.raw.send_what_fits(record) < len(record):
                break
            sent += len(part)
        return sent

    async def receive(self, most=65536):
        def attempt():
            if self.decrypted:
                data, self.decrypted = self.decrypted[:most], self.decrypted[most:]
                return data
            return self.tls.read(most)

        try:
            return await self._done(attempt)
        except ssl.SSLZeroReturnError:
            return b""

    async def shutdown(self):
        """Say that nothing more comes, as TLS does: by an alert. The socket stays open."""
        counts["half-closes"] += 1
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while data := self.tls.read(65536):
                self.decrypted += data
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.flush()


# ── certificates ─────────────────────────────────────────────────────────────────────────────

_made = {}


def tls_contexts():
    """For a server and for its clients, which trust it; skips the test where they can't be made."""
    if not _made:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("no openssl to make a certificate with: install the package openssl")
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
            subprocess.run(
                [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
                + ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
                + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
                + ["-keyout", str(key), "-out", str(certificate)],
                check=True,
                capture_output=True,
            )
            _made["server"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            _made["server"].load_cert_chain(certificate, key)
            _made["client"] = ssl.create_default_context(cafile=str(certificate))
    return _made["server"], _made["client"]


# ── listening and connecting ─────────────────────────────────────────────────────────────────


def listening(link, folder, *, backlog=128, small=False):
    """A listening socket of its own."""
    is_unix = link.endswith("unix")
    family = socket.AF_UNIX if is_unix else socket.AF_INET
    sock = socket.socket(family)
    sock.setblocking(False)
    if small:
        make_small(sock)
    if is_unix:
        sock.bind(tempfile.mktemp(dir=folder, prefix="net"))
    else:
        sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    return sock


def make_small(sock, *options):
    """Before it is connected, for what it receives."""
    for option in options or (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)


async def connected(address, *, small=False):
    """A socket that has connected there."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        sock.setblocking(False)
        if small:
            make_small(sock)
        while (error := sock.connect_ex(address)) in (errno.EAGAIN, errno.EINPROGRESS):
            await asyncio.sleep(TICK)
        if error not in (0, errno.EISCONN):
            # EALREADY is for the second try of what is still under way.
            while error == errno.EALREADY:
                await asyncio.sleep(TICK)
                error = sock.connect_ex(address)
            if error not in (0, errno.EISCONN):
                raise OSError(error, "connect")
        return sock
    except BaseException:
        sock.close()
        raise


async def accepted(listener):
    sock, _ = await retried(listener.accept)
    sock.setblocking(False)
    return sock
