"""Asks an echo server, as a process of its own; the standard library and no event loop.

    python echo_client.py ADDRESS CONNECTIONS BYTES REQUESTS

ADDRESS is a TCP port of this machine, or the path of a Unix socket. Each connection has one message
under way at any time. When all are connected and have been answered once, it prints a line and
waits for one; then it asks, and prints what that took as JSON, in seconds: in all, and for half of
the requests and for 99 of a hundred at the most.
"""

import json
import select
import socket
import sys
from time import perf_counter


class Connection:
    """One message after another, each sent when the last one is back."""

    def __init__(self, address: str, message: memoryview) -> None:
        if address.isdigit():
            self.socket = socket.create_connection(("127.0.0.1", int(address)))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        self.socket.setblocking(False)
        self.message = message
        self.sent = self.received = 0
        self.begin = 0.0

    def ask(self) -> None:
        self.sent = self.received = 0
        self.begin = perf_counter()
        self.send()

    def send(self) -> None:
        self.sent += self.socket.send(self.message[self.sent :])


class Client:
    """All connections, and how long each answer took."""

    def __init__(self, address: str, connections: int, size: int) -> None:
        self.size = size
        self.buffer = bytearray(size)
        self.poll = select.epoll()
        message = memoryview(bytes(size))
        self.connections = [Connection(address, message) for _ in range(connections)]
        self.by_fd = {each.socket.fileno(): each for each in self.connections}
        for fd in self.by_fd:
            self.poll.register(fd, select.EPOLLIN)

    def ask(self, requests: int) -> list[float]:
        """Ask so many times, over all connections together; the seconds that each took, sorted."""
        took: list[float] = []
        unasked = requests
        for connection in self.connections[:requests]:
            unasked -= 1
            self.start(connection)
        while len(took) < requests:
            for fd, _ in self.poll.poll():
                connection = self.by_fd[fd]
                if connection.sent < self.size:
                    self.send_rest(connection)
                if not self.is_answered(connection):
                    continue
                took.append(perf_counter() - connection.begin)
                if unasked > 0:
                    unasked -= 1
                    self.start(connection)
        return sorted(took)

    def start(self, connection: Connection) -> None:
        connection.ask()
        if connection.sent < self.size:
            self.poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def send_rest(self, connection: Connection) -> None:
        try:
            connection.send()
        except BlockingIOError:
            return
        if connection.sent == self.size:
            self.poll.modify(connection.socket, select.EPOLLIN)

    def is_answered(self, connection: Connection) -> bool:
        try:
            received = connection.socket.recv_into(self.buffer)
        except BlockingIOError:
            return False
        if received == 0:
            raise ConnectionError("the server has hung up")
        connection.received += received
        if connection.received > self.size:
            raise ValueError("the server sends more than it got")
        return connection.received == self.size


def main() -> None:
    address, connections, size, requests = sys.argv[1], *map(int, sys.argv[2:])
    client = Client(address, connections, size)
    client.ask(connections)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = perf_counter()
    took = client.ask(requests)
    wall = perf_counter() - begin
    print(json.dumps([wall, took[len(took) // 2], took[len(took) * 99 // 100]]), flush=True)


if __name__ == "__main__":
    main()
