"""A crawler: at most so many pages at a time, each page once, none for longer than a second.

Shows: JoinSet(limit=...) bounds how much runs at once, a channel carries the links that were found,
timeout() gives a page up. Every link travels with a sender of its own, which is closed once the
link has been dealt with. So the channel ends by itself when no link is left, and nobody counts.
"""

import asyncio
import re
import signal
import sys
from collections import Counter
from typing import Any

import pyasync_c

LIMIT = 3
PAGES = {  # a page, and the links on it; of "/missing" there is none
    "/": ["/tea", "/coffee", "/milk", "/about"],
    "/tea": ["/", "/green", "/black", "/missing"],
    "/coffee": ["/", "/milk", "/black"],
    "/milk": ["/", "/oats"],
    "/green": ["/tea", "/slow"],
    "/black": ["/tea", "/coffee"],
    "/about": ["/"],
    "/oats": ["/milk"],
    "/slow": [],
}


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Site:
    """A small web server, which notes how it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        path = (await reader.readline()).split()[1].decode()
        self.asked[path] += 1
        if path == "/slow":
            await reader.read()  # until the crawler gives up
        await pyasync_c.sleep(0.02)
        status = "200 OK" if path in PAGES else "404 Not Found"
        links = "".join(f'<a href="{link}">' for link in PAGES.get(path, []))
        self.at_once -= 1
        writer.write(f"HTTP/1.0 {status}\r\n\r\n{links}".encode())
        writer.close()


class Crawler:
    def __init__(self, port: int) -> None:
        self.port = port
        self.tally: Counter[str] = Counter()

    async def fetch(self, path: str) -> tuple[str, str]:
        """The status, and the page."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            status, _, page = (await reader.read()).decode().partition("\r\n\r\n")
            return status.split()[1], page
        finally:
            writer.close()

    async def visit(self, path: str, links: pyasync_c.UnboundedSender[Any]) -> None:
        """Fetch a page and send its links, each with a sender for what is found there."""
        with links:
            try:
                async with pyasync_c.timeout(1):
                    status, page = await self.fetch(path)
            except TimeoutError:
                status, page = "timeout", ""
            self.tally[status] += 1
            found = re.findall(r'href="(.*?)"', page)
            print(f"{path}: {status}, {len(found)} links")
            for link in found:
                links.send((link, links.clone()))

    async def crawl(self, start: str) -> None:
        # Unbounded: a visit must not wait for room in the channel while we wait for the visit.
        links, found = pyasync_c.unbounded_channel()
        links.send((start, links))
        seen: set[str] = set()
        async with pyasync_c.JoinSet[None](limit=LIMIT) as visits:
            async for path, links in found:
                if path in seen:
                    links.close()
                    continue
                seen.add(path)
                await visits.spawn_wait(self.visit(path, links))


async def main() -> None:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    crawler = Crawler(server.sockets[0].getsockname()[1])
    await crawler.crawl("/")
    server.close()
    while site.at_once:  # the server is yet to see that the last connection was closed
        await pyasync_c.sleep(0.01)

    tally = ", ".join(f"{n} × {status}" for status, n in sorted(crawler.tally.items()))
    print(f"tally: {tally}; at most {LIMIT} at a time")
    claim(site.asked == Counter([*PAGES, "/missing"]), "each page was asked for once")
    claim(crawler.tally == {"200": 8, "404": 1, "timeout": 1}, "each visit had its outcome")
    claim(1 < site.most_at_once <= LIMIT, "several at a time, but no more than the limit")


if __name__ == "__main__":
    signal.alarm(30)
    pyasync_c.run(main())
