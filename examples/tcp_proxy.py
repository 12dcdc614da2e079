"""A TCP proxy with a limit of connections, an idle timeout and a shutdown that lets go gently.

    python examples/tcp_proxy.py                                    # shows itself
    python examples/tcp_proxy.py --listen 8080 --to localhost:80    # until SIGTERM or Ctrl-C

Shows: copy_bidirectional moves the bytes within the kernel, and may lose a select without losing
a byte, so the idle timeout is a select with a sleep around it. A Semaphore holds back accept(), so
that whom there is no room for waits in the listener's backlog. A CancellationToken ends it: nobody
is accepted any more, connections may finish until a deadline, and what is left then is cut.
"""

import argparse
import asyncio
import signal
import sys
from dataclasses import dataclass, field

import pyasync_c
from pyasync_c import net


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


@dataclass
class Proxy:
    host: str
    port: int
    connections_max: int = 1000
    idle_s: float = 300.0
    connect_s: float = 10.0
    drain_s: float = 10.0
    stop: pyasync_c.CancellationToken = field(default_factory=pyasync_c.CancellationToken)
    there: int = 0  # bytes, to the server
    back: int = 0
    connections: set[pyasync_c.Task[None]] = field(default_factory=set)

    async def serve(self, listener: net.TcpListener) -> None:
        """Until `stop` is cancelled, and then at the most for `drain_s`."""
        slots = pyasync_c.Semaphore(self.connections_max)
        async with listener:
            while True:
                permit = await self.stop.run_until_cancelled(slots.acquire())
                if permit is None:
                    break
                client = await self.stop.run_until_cancelled(self.accept(listener))
                if client is None:
                    break
                task = pyasync_c.spawn(self.connection(client, permit))
                self.connections.add(task)
                task.add_done_callback(self.connections.discard)
        await self.drain()

    async def accept(self, listener: net.TcpListener) -> net.TcpStream:
        while True:
            try:
                return (await listener.accept())[0]
            except OSError as error:  # no descriptors, no memory: others may give some back
                print("proxy: cannot accept:", error, file=sys.stderr)
                await pyasync_c.sleep(0.1)

    async def drain(self) -> None:
        left = set(self.connections)
        if left:
            _, left = await asyncio.wait(left, timeout=self.drain_s)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def connection(self, client: net.TcpStream, permit: pyasync_c.Permit) -> None:
        with permit:
            async with client:
                try:
                    async with pyasync_c.timeout(self.connect_s):
                        server = await net.TcpStream.connect(self.host, self.port)
                except OSError as error:
                    print("proxy: cannot connect:", error, file=sys.stderr)
                    return
                async with server:
                    await self.copy(client, server)

    async def copy(self, client: net.TcpStream, server: net.TcpStream) -> None:
        copying = net.copy_bidirectional(client, server)
        try:
            while True:
                before = copying.copied
                index, _ = await pyasync_c.select(copying, pyasync_c.sleep(self.idle_s))
                if index == 0 or copying.copied == before:
                    return
        except OSError:
            pass  # one of them has gone
        finally:
            there, back = copying.copied
            self.there += there
            self.back += back


async def main(proxy: Proxy, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, proxy.stop.cancel)
    listener = await net.TcpListener.bind(host, port)
    print(f"proxy on {host} port {listener.local_addr[1]}", flush=True)
    await proxy.serve(listener)
    print(f"proxy: {proxy.there} bytes there, {proxy.back} back")


# ── shown ────────────────────────────────────────────────────────────────────────────────────


async def echo(stream: net.TcpStream) -> None:
    async with stream:
        while data := await stream.read():
            await stream.write_all(data)


async def echo_server(listener: net.TcpListener) -> None:
    async with pyasync_c.TaskGroup() as tasks:
        async for stream, _ in listener:
            tasks.create_task(echo(stream))


async def ends(stream: net.TcpStream) -> bool:
    """Does the other side end it?"""
    try:
        return await stream.read() == b""
    except ConnectionResetError:
        return True


async def show() -> None:
    upstream = await net.TcpListener.bind("127.0.0.1", 0)
    echoing = pyasync_c.spawn(echo_server(upstream))
    host, port = upstream.local_addr
    proxy = Proxy(host, port, connections_max=2, idle_s=0.2, drain_s=0.1)
    listener = await net.TcpListener.bind("127.0.0.1", 0)
    address = listener.local_addr
    serving = pyasync_c.spawn(proxy.serve(listener))

    book = b"x" * 1_000_000
    async with await net.TcpStream.connect(*address) as client:
        writing = pyasync_c.spawn(write(client, book))
        claim(await client.read_exactly(len(book)) == book, "what comes back is what was sent")
        await writing
        claim(await client.read() == b"", "the end is carried over, there and back")
    print("a book went through, and its end")

    first = await net.TcpStream.connect(*address)
    second = await net.TcpStream.connect(*address)
    third = await net.TcpStream.connect(*address)
    async with first, second, third:
        for stream in (first, second, third):
            await stream.write_all(b"hello")
        claim(await first.read() == await second.read() == b"hello", "two are served")
        index, _ = await pyasync_c.select(third.read(), pyasync_c.sleep(0.05))
        claim(index == 1, "the third waits, as there is room for two")
        print("the third waits; who is idle makes room")
        claim(await ends(first) and await ends(second), "who is idle is let go")
        claim(await third.read() == b"hello", "the third is served then")
        proxy.stop.cancel()
        await third.write_all(b"bye")
        claim(await third.read() == b"bye", "who is served may finish after the stop")
        claim(await ends(third), "but not for ever")
    await serving
    try:
        await net.TcpStream.connect(*address)
        claim(False, "nobody is accepted after the stop")
    except ConnectionRefusedError:
        print("stopped: nobody is accepted any more")
    print(f"{proxy.there} bytes there, {proxy.back} back")
    echoing.cancel()
    await asyncio.wait([echoing])
    upstream.close()


async def write(stream: net.TcpStream, data: bytes) -> None:
    await stream.write_all(data)
    await stream.shutdown()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--listen", type=int, metavar="PORT", help="0: any port")
    options.add_argument("--to", metavar="HOST:PORT")
    options.add_argument("--connections", type=int, default=1000)
    options.add_argument("--idle", type=float, default=300.0, metavar="SECONDS")
    options.add_argument("--drain", type=float, default=10.0, metavar="SECONDS")
    given = options.parse_args()
    if given.to is None:
        signal.alarm(60)
        pyasync_c.run(show())
    else:
        to_host, _, to_port = given.to.rpartition(":")
        asked = Proxy(to_host, int(to_port), given.connections, given.idle, drain_s=given.drain)
        pyasync_c.run(main(asked, "127.0.0.1", given.listen or 0))
