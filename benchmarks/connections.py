"""The memory that a connection takes in an echo server.

    python -m benchmarks.connections [--connections N] [--kinds NAMES] [--links NAMES]
                                     [--frameworks NAMES] [--size BYTES]

Each server runs in a fresh process. Some connections are served first, for what is made only once;
then come so many that are answered once each and stay. What the resident set has grown by, divided
by their number, is shown; the sockets' buffers in the kernel are not in it.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from .echo import SERVERS, allow_descriptors
from .echo_case import Case
from .echo_client import Client
from .frameworks import FRAMEWORKS
from .harness import Worker, WorkerError
from .memory import resident_bytes
from .shapes import SHAPES

FIRST = 50


async def grow(case: Case, dialect: str) -> float:
    """Bytes a connection, on the running loop."""
    allow_descriptors()
    serve: Callable[[Case], AbstractAsyncContextManager[str]]
    if dialect == "native":
        from .echo_net import serving as serve
    else:
        serve = SERVERS[case.kind]
    tls = case.link == "tls"
    async with serve(case) as address:
        async with Client(address, connections=FIRST, size=case.size, tls=tls) as client:
            await client.ask(FIRST * 10)
        async with Client(address, connections=FIRST, size=case.size, tls=tls):
            before = resident_bytes()
            async with Client(address, connections=case.connections, size=case.size, tls=tls):
                return (resident_bytes() - before) / case.connections


def bytes_each(framework: str, kind: str, link: str, size: int, connections: int) -> float:
    chosen = FRAMEWORKS[framework]
    return chosen.run(grow, Case(kind, link, size, connections), chosen.dialect)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="connections", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--connections", type=int, default=1000, metavar="N")
    parser.add_argument("--kinds", default="protocol,streams,sock", metavar="NAMES")
    parser.add_argument("--links", default="tcp,tls", metavar="NAMES")
    parser.add_argument("--size", type=int, default=1024, metavar="BYTES", help="of each message")
    default = "pyasync_c,pyasync_c-asyncio,asyncio,uvloop,rloop"
    parser.add_argument("--frameworks", default=default, metavar="NAMES")
    args = parser.parse_args(arguments)
    print(f"bytes of the resident set for each of {args.connections} connections")
    failed = False
    for link in args.links.split(","):
        for kind in args.kinds.split(","):
            for name in args.frameworks.split(","):
                shape = SHAPES.get(f"echo_{kind}_{link}_1k_1000")
                if shape is None or not shape.runs_on(name) or FRAMEWORKS[name].version() is None:
                    continue
                asked = {"framework": name, "kind": kind, "link": link}
                try:
                    with Worker() as worker:
                        size = worker.call(
                            "connections",
                            "bytes_each",
                            **asked,
                            size=args.size,
                            connections=args.connections,
                        )
                except WorkerError as error:
                    print(f"{link:<6}{kind:<12}{FRAMEWORKS[name].title:<30}{error}")
                    failed = True
                else:
                    title = FRAMEWORKS[name].title
                    print(f"{link:<6}{kind:<12}{title:<30}{size:>10,.0f}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
