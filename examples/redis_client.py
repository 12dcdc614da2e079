"""A client for Redis's protocol, shown against redis_server.py or any Redis server.

    python examples/redis_client.py                     # with a server of its own
    python examples/redis_client.py --port 6379 GET key # asks a server that runs

Shows: what reads a protocol of lines and lengths needs is read_until and read_exactly. Neither
takes a byte before all are there, so a read that is cancelled may be made again.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

import pyasync_c
from pyasync_c import net

if TYPE_CHECKING:
    from redis_server import Server

Word = bytes | str | int


class RedisError(Exception):
    """The server has answered with an error."""


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


def encode(words: tuple[Word, ...]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(parts), b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))


class Client:
    """One connection. One task at a time asks."""

    def __init__(self, stream: net.TcpStream) -> None:
        self.stream = stream

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        return cls(await net.TcpStream.connect(host, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stream.close()

    async def __call__(self, *words: Word) -> Any:
        """The answer; RedisError if it is an error."""
        await self.stream.write_all(encode(words))
        return raised(await self.answer())

    async def pipeline(self, *commands: tuple[Word, ...]) -> list[Any]:
        """The answers to all, which go in one write; errors among them as they are."""
        await self.stream.write_all([encode(words) for words in commands])
        return [await self.answer() for _ in commands]

    async def subscribe(self, *channels: Word) -> AsyncIterator[tuple[bytes, bytes]]:
        """(channel, message) for each that is published, until the connection ends."""
        await self.stream.write_all(encode(("SUBSCRIBE", *channels)))
        for _ in channels:
            await self.answer()
        return self._messages()

    async def _messages(self) -> AsyncIterator[tuple[bytes, bytes]]:
        while True:
            try:
                _, channel, message = await self.answer()
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            yield channel, message

    async def answer(self) -> Any:
        line = await self.stream.read_until(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if kind == b"$":
            return (await self.stream.read_exactly(size + 2))[:-2]
        return [await self.answer() for _ in range(size)]


def raised(answer: Any) -> Any:
    if isinstance(answer, RedisError):
        raise answer
    return answer


async def show_with(server: "Server") -> None:
    listener = await net.TcpListener.bind("127.0.0.1", 0)
    port = listener.local_addr[1]
    serving = pyasync_c.spawn(server.serve(listener))
    async with (
        await Client.connect("127.0.0.1", port) as redis,
        await Client.connect("127.0.0.1", port) as listening,
    ):
        await redis("SET", "greeting", "hello")
        print("GET greeting:", (await redis("GET", "greeting")).decode())
        await redis("SET", "soon", "gone", "PX", 30)
        print("TTL of a key that does not expire:", await redis("TTL", "greeting"))
        await pyasync_c.sleep(0.05)
        claim(await redis("GET", "soon") is None, "an expired key is gone")
        claim(await redis("DBSIZE") == 1, "and deleted, without being asked for")
        counts = await redis.pipeline(*[("INCR", "counter")] * 1000)
        claim(counts == list(range(1, 1001)), "a pipeline is answered in order")
        print("a pipeline of 1000 INCR ends with", counts[-1])
        try:
            await redis("INCR", "greeting")
        except RedisError as error:
            print("INCR greeting:", error)
        messages = await listening.subscribe("news")
        claim(await redis("PUBLISH", "news", "it rains") == 1, "one subscriber gets it")
        print("subscribed:", *(await anext(messages)))
        server.stop.cancel()
        await serving
        claim([m async for m in messages] == [], "stopping ends the subscription")
    print("the server has stopped")


async def ask(host: str, port: int, words: list[str]) -> None:
    async with await Client.connect(host, port) as redis:
        print(await redis(*words))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, help="of a server that runs")
    options.add_argument("words", nargs="*", help="a command")
    given = options.parse_args()
    if given.port is not None:
        pyasync_c.run(ask(given.host, given.port, given.words or ["PING"]))
        return
    from redis_server import Server

    signal.alarm(60)
    pyasync_c.run(show_with(Server()))


if __name__ == "__main__":
    main()
