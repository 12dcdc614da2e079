"""A chat server: what one says, all get. Who is too slow misses the oldest and is told how much.

Shows: a broadcast channel is the room. Saying something never waits for anybody, so a client that
does not read costs the others nothing, and the server no more memory than the channel's capacity:
its receiver raises Lagged, and goes on with what is still there. Each client is a select of two
coroutines, one to listen and one to tell; when one ends, the other is ended too.
"""

import asyncio
import re
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter

import pyasync_c

Receiver = pyasync_c.BroadcastReceiver[str]
PAGES = 100
PAGE = 20_000  # characters; all pages together are more than a socket's buffers hold


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Room:
    def __init__(self) -> None:
        self.said, first = pyasync_c.broadcast(8)
        first.close()  # everybody subscribes when they come

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        name = (await reader.readline()).decode().strip()
        receiver = self.said.subscribe()
        print(f"server: {name} comes")
        # Small buffers, so that it is seen early who does not read.
        writer.transport.set_write_buffer_limits(high=PAGE)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAGE)
        writer.write(b"* welcome\n")
        await pyasync_c.select(self.listen(name, reader), self.tell(receiver, writer))
        print(f"server: {name} goes")
        writer.close()

    async def listen(self, name: str, reader: StreamReader) -> None:
        async for line in reader:
            self.said.send(f"{name}: {line.decode().strip()}")

    async def tell(self, receiver: Receiver, writer: StreamWriter) -> None:
        while True:
            try:
                line = await receiver.recv()
            except pyasync_c.Lagged as lagged:
                line = f"* you are slow and missed {lagged.skipped}"
            except pyasync_c.ChannelClosed:
                return
            writer.write(f"{line}\n".encode())
            await writer.drain()  # waits while this client does not read


class Client:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard = self.missed = 0

    @classmethod
    async def enter(cls, port: int, name: str) -> "Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.say(name)
        claim(await client.reader.readline() == b"* welcome\n", f"{name} is welcome")
        return client

    def say(self, line: str) -> None:
        self.writer.write(f"{line}\n".encode())

    async def hear(self) -> str | None:
        """What somebody said; None when the server has closed."""
        while line := (await self.reader.readline()).decode():
            if notice := re.match(r"\* you are slow and missed (\d+)", line):
                self.missed += int(notice[1])
                continue
            self.heard += 1
            return line.strip()
        return None


async def read_aloud(ann: Client, ben: Client) -> None:
    """Ann reads a book aloud, and Ben comments on every page."""
    for number in range(1, PAGES + 1):
        ann.say(f"page {number} {'.' * PAGE}")
        while not (await ben.hear() or "").startswith("ann: page"):
            pass
        ben.say(f"I liked page {number}")
        while await ann.hear() != f"ben: I liked page {number}":
            pass


async def main() -> None:
    room = Room()
    server = await asyncio.start_server(room.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ann, ben, sleepy = [await Client.enter(port, name) for name in ("ann", "ben", "sleepy")]

    await read_aloud(ann, ben)  # and all that time, sleepy does not read
    print(f"ann and ben have said {2 * PAGES} lines")
    server.close()
    room.said.close()  # receivers get what is left, then they end

    for client in (ann, ben, sleepy):
        while await client.hear() is not None:
            pass
        client.writer.close()
    claim(ann.heard == ben.heard == 2 * PAGES, "who reads has heard everything")
    claim(0 < sleepy.missed == 2 * PAGES - sleepy.heard, "sleepy knows how much it has missed")
    print(f"sleepy has heard {sleepy.heard} and missed {sleepy.missed}, which it was told")


if __name__ == "__main__":
    signal.alarm(30)
    pyasync_c.run(main())
