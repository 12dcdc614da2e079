"""The other ends of what tests/transport_programs.py connects: sockets and pipes that say when the
kernel has delivered everything."""

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
import time

from net_peer import tls_contexts
from net_testing import plain_pair


def unread(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]


def unacknowledged(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


CLOSED = {7}
SAID_ITS_END = {4, 5, 6, 9, 11}  # FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING
HEARD_THE_END = {6, 7, 8, 9, 11}  # with CLOSE and CLOSE_WAIT


def tcp_state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def has_arrived(sender, receiver):
    """What `sender`, None if closed, has sent is there to be received, as far as one can tell."""
    if receiver is None or tcp_state(receiver) in CLOSED:
        return True
    if sender is None or tcp_state(sender) in SAID_ITS_END:
        return tcp_state(receiver) in HEARD_THE_END
    if tcp_state(sender) in CLOSED:
        return True
    receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return unacknowledged(sender) == 0


def is_answered(sock, other):
    """Nothing that `sock` has sent to an end that is closed waits for the answer, a reset."""
    open_still = sock is not None and other is None and tcp_state(sock) not in CLOSED
    return not open_still or tcp_state(sock) in SAID_ITS_END or unacknowledged(sock) == 0


class SocketPeer:
    def __init__(self, kind):
        self.file, self.end = plain_pair(kind)
        self.end.setblocking(False)
        self.is_tcp = kind == "tcp"

    def wait(self):
        """Until the kernel has delivered everything: over TCP it does so when it has time to."""
        ours = self.file if self.is_open else None
        until = time.monotonic() + 20
        while self.is_tcp and not (
            has_arrived(self.end, ours)
            and has_arrived(ours, self.end)
            and is_answered(ours, self.end)
            and is_answered(self.end, ours)
        ):
            assert time.monotonic() < until, "not delivered"
            time.sleep(1e-5)

    def send(self, data):
        return self.end.send(data)

    def receive(self, size):
        return self.end.recv(size)

    def shutdown(self):
        self.end.shutdown(socket.SHUT_WR)

    def close(self):
        self.end.close()
        self.end = None

    def reset(self):
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    @property
    def is_open(self):
        return self.file.fileno() >= 0

    def connected(self, transport):
        """Transport is what holds `file`."""

    def describe(self, transport):
        told = {"sockname": self.file.getsockname, "peername": self.file.getpeername}
        said = []
        for name, tell in told.items():
            with contextlib.suppress(OSError):
                said.append(tell() == transport.get_extra_info(name))
        return [*said, type(transport.get_extra_info("socket")).__name__]


class AcceptedPeer(SocketPeer):
    """Of a server that has yet to be started, by `listener`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.end = socket.create_connection(self.listener.getsockname())
        self.end.setblocking(False)
        self.file = socket.socket()
        self.file.close()
        self.is_tcp = False  # until there is an end to be waited for

    def connected(self, transport):
        self.file, self.is_tcp = transport._sock, True


class DatagramPeer(SocketPeer):
    def __init__(self):
        # With names, or asyncio does not know that they are connected.
        self.file, self.end = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        for sock in self.file, self.end:
            sock.bind("")
        self.name = self.end.getsockname()
        self.file.connect(self.name)
        self.end.connect(self.file.getsockname())
        self.end.setblocking(False)
        self.is_tcp = False


class TLSPeer(SocketPeer):
    def __init__(self, is_client):
        super().__init__("unix")
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls_contexts()[is_client]
        name = "localhost" if is_client else None
        self.tls = context.wrap_bio(
            self.came, self.goes, server_side=not is_client, server_hostname=name
        )
        self.has_begun = False

    def wait(self):
        """What a Unix socket is given is there; but it has to shake hands."""
        if self.has_begun or self.end is None:
            return
        with contextlib.suppress(BlockingIOError):
            self.take()
        try:
            self.tls.do_handshake()
            self.has_begun = True
            self.flush()
        except ssl.SSLWantReadError:
            self.flush()
        except OSError:
            self.has_begun = True  # and ended

    def take(self):
        data = self.end.recv(1 << 18)
        self.came.write(data) if data else self.came.write_eof()

    def flush(self):
        self.end.sendall(self.goes.read())

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def receive(self, size):
        """As much as there is, since a record may have more or less of what was written."""
        data = bytearray()
        try:
            while len(data) < size:
                try:
                    piece = self.tls.read(size - len(data))
                except ssl.SSLWantReadError:
                    self.take()
                else:
                    data += piece
                    if not piece:
                        break
        except OSError:
            if not data:
                raise
        return bytes(data)

    def shutdown(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def describe(self, transport):
        names = ["sslcontext", "ssl_object", "cipher", "peercert", "compression"]
        said = [type(transport.get_extra_info(name)).__name__ for name in names]
        return [*super().describe(transport), *said]


class PipePeer:
    def __init__(self, kind):
        ends = os.pipe()
        reads = kind == "write pipe"
        ours, theirs = reversed(ends) if reads else ends
        self.file = open(ours, "wb" if reads else "rb", buffering=0)
        self.end = open(theirs, "rb" if reads else "wb", buffering=0)
        os.set_blocking(theirs, False)

    def wait(self):
        """A pipe has what was written to it."""

    def send(self, data):
        return os.write(self.end.fileno(), data)

    def receive(self, size):
        return os.read(self.end.fileno(), size)

    def close(self):
        self.end.close()
        self.end = None

    shutdown = reset = close

    @property
    def is_open(self):
        return not self.file.closed

    def connected(self, transport):
        """As of sockets."""

    def describe(self, transport):
        return [transport.get_extra_info("pipe") is self.file]
