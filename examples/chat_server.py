"""A chat server: what one says, all get. Who is too slow misses the oldest and is told how much.

Shows: a broadcast channel is the room. Saying something never waits for anybody, so a client that
does not read costs the others nothing, and the server no more memory than the channel's capacity:
its receiver raises Lagged, and goes on with what is still there. Each client is a select of two
coroutines, one to listen and one to tell, over the two halves of a stream of pyasync_c.net; when
one ends, the other is ended too. write_all() waits while its client does not read.
"""

import asyncio
import re
import signal
import socket
import sys

import pyasync_c
from pyasync_c import net

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

    async def open(self, listener: net.TcpListener) -> None:
        async with pyasync_c.TaskGroup() as clients:
            async for stream, _ in listener:
                clients.create_task(self.serve(stream))

    async def serve(self, stream: net.TcpStream) -> None:
        async with stream:
            name = (await stream.readline()).decode().strip()
            receiver = self.said.subscribe()
            print(f"server: {name} comes")
            # A small buffer, so that it is seen early who does not read.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAGE)
            await stream.write_all(b"* welcome\n")
            reader, writer = stream.split()
            await pyasync_c.select(self.listen(name, reader), self.tell(receiver, writer))
            print(f"server: {name} goes")

    async def listen(self, name: str, reader: net.ReadHalf) -> None:
        async for line in reader:
            self.said.send(f"{name}: {line.decode().strip()}")

    async def tell(self, receiver: Receiver, writer: net.WriteHalf) -> None:
        while True:
            try:
                line = await receiver.recv()
            except pyasync_c.Lagged as lagged:
                line = f"* you are slow and missed {lagged.skipped}"
            except pyasync_c.ChannelClosed:
                return
            await writer.write_all(f"{line}\n".encode())


class Client:
    def __init__(self, stream: net.TcpStream) -> None:
        self.stream = stream
        self.heard = self.missed = 0

    @classmethod
    async def enter(cls, address: tuple[str, int], name: str) -> "Client":
        client = cls(await net.TcpStream.connect(*address))
        await client.say(name)
        claim(await client.stream.readline() == b"* welcome\n", f"{name} is welcome")
        return client

    async def say(self, line: str) -> None:
        await self.stream.write_all(f"{line}\n".encode())

    async def hear(self) -> str | None:
        """What somebody said; None when the server has closed."""
        while line := (await self.stream.readline()).decode():
            if notice := re.match(r"\* you are slow and missed (\d+)", line):
                self.missed += int(notice[1])
                continue
            self.heard += 1
            return line.strip()
        return None


async def read_aloud(ann: Client, ben: Client) -> None:
    """Ann reads a book aloud, and Ben comments on every page."""
    for number in range(1, PAGES + 1):
        await ann.say(f"page {number} {'.' * PAGE}")
        while not (await ben.hear() or "").startswith("ann: page"):
            pass
        await ben.say(f"I liked page {number}")
        while await ann.hear() != f"ben: I liked page {number}":
            pass


async def main() -> None:
    room = Room()
    listener = await net.TcpListener.bind("127.0.0.1", 0)
    serving = pyasync_c.spawn(room.open(listener))
    address = listener.local_addr
    ann, ben, sleepy = [await Client.enter(address, name) for name in ("ann", "ben", "sleepy")]

    await read_aloud(ann, ben)  # and all that time, sleepy does not read
    print(f"ann and ben have said {2 * PAGES} lines")
    room.said.close()  # receivers get what is left, then they end

    for client in (ann, ben, sleepy):
        while await client.hear() is not None:
            pass
        client.stream.close()
    claim(ann.heard == ben.heard == 2 * PAGES, "who reads has heard everything")
    claim(0 < sleepy.missed == 2 * PAGES - sleepy.heard, "sleepy knows how much it has missed")
    print(f"sleepy has heard {sleepy.heard} and missed {sleepy.missed}, which it was told")
    serving.cancel()
    await asyncio.wait([serving])
    listener.close()


if __name__ == "__main__":
    signal.alarm(30)
    pyasync_c.run(main())
