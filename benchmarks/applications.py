"""Requests per second of real web servers on each event loop, side by side.

    python -m benchmarks.applications [--applications NAMES] [--frameworks NAMES] [--rounds N]
                                      [--seconds S] [--connections N]

An aiohttp server and uvicorn, each answering "Hello, world!", and uvicorn with a body of 10 KiB, to
connections that are kept alive.
All servers are started first, each in a process of its own; then they are loaded in turn, round
after round, so that what else the machine does hits all of them alike. The load comes from `wrk` if
it is installed, else from a simple client in another process. Shown are the median of the rounds,
the best, the median as a multiple of asyncio's, and the processor time that a request took in the
server, which depends least on what else the machine does.
"""

import argparse
import asyncio
import importlib
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time
from typing import Any

from .frameworks import BASELINE, FRAMEWORKS
from .harness import Worker, WorkerError

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"Hello, world!"
LONG_BODY = b"0123456789abcdef" * 640

# ---- the servers ---------------------------------------------------------------------------------


async def serve_aiohttp(started: Callable[[int], None]) -> None:
    web = importlib.import_module("aiohttp.web")

    async def hello(request: Any) -> Any:
        return web.Response(body=BODY, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    started(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_uvicorn(started: Callable[[int], None], body: bytes = BODY) -> None:
    uvicorn = importlib.import_module("uvicorn")
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]

    async def hello(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # With its protocol named: asyncio turns Nagle's algorithm off only where it is.
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(hello, lifespan="off", log_level="warning", access_log=False)
    started(sock.getsockname()[1])
    await uvicorn.Server(config).serve([sock])


async def serve_uvicorn_10k(started: Callable[[int], None]) -> None:
    await serve_uvicorn(started, LONG_BODY)


APPLICATIONS = {
    "aiohttp": serve_aiohttp,
    "uvicorn": serve_uvicorn,
    "uvicorn-10k": serve_uvicorn_10k,
}


def start_server(application: str, framework: str) -> int:
    """Serve in a thread of this process until the process ends; the port."""
    ports: list[int] = []
    over = threading.Event()

    def started(port: int) -> None:
        ports.append(port)
        over.set()

    def serve() -> None:
        try:
            FRAMEWORKS[framework].run(APPLICATIONS[application], started)
        finally:
            over.set()

    threading.Thread(target=serve, daemon=True).start()
    over.wait()
    if not ports:
        raise RuntimeError("the server did not start")
    return ports[0]


def cpu_seconds() -> float:
    """The processor time of this process so far."""
    return process_time()


# ---- the load ------------------------------------------------------------------------------------


def load(port: int, connections: int, seconds: float) -> tuple[int, float]:
    """Ask on so many connections at once, one request at a time on each.

    Returns the answers, and how many came per second.
    """
    answers = 0
    with selectors.DefaultSelector() as selector:
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ, bytearray())
        begin = perf_counter()
        for sock in socks:
            sock.sendall(REQUEST)
        while (passed := perf_counter() - begin) < seconds:
            for key, _ in selector.select(seconds):
                sock = key.fileobj  # type: ignore[assignment]
                key.data.extend(sock.recv(65536))
                if key.data.endswith((BODY, LONG_BODY)):
                    if not key.data.startswith(b"HTTP/1.1 200 "):
                        raise RuntimeError(f"the server answered {key.data!r}")
                    key.data.clear()
                    answers += 1
                    sock.sendall(REQUEST)
        for sock in socks:
            sock.close()
    return answers, answers / passed


def load_by_wrk(port: int, connections: int, seconds: float) -> tuple[int, float]:
    """The same by wrk, which takes whole seconds."""
    duration = f"{max(1, round(seconds))}s"
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{duration}", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    if (
        answers is None
        or rate is None
        or "Non-2xx" in done.stdout
        or "Socket errors" in done.stdout
    ):
        raise RuntimeError("wrk says:\n" + done.stdout)
    return int(answers[1]), float(rate[1])


def measure(args: argparse.Namespace, application: str, frameworks: list[str]) -> None:
    rates: dict[str, list[float]] = {name: [] for name in frameworks}
    cpu_us: dict[str, list[float]] = {name: [] for name in frameworks}
    client = Worker()
    servers = {name: Worker() for name in frameworks}
    try:
        ports = {
            name: worker.call(
                "applications", "start_server", application=application, framework=name
            )
            for name, worker in servers.items()
        }
        for number in range(args.rounds + 1):
            for name, port in ports.items():
                seconds = args.seconds if number > 0 else min(1.0, args.seconds)
                before = servers[name].call("applications", "cpu_seconds")
                if shutil.which("wrk"):
                    answers, rate = load_by_wrk(port, args.connections, seconds)
                else:
                    how = {"port": port, "connections": args.connections, "seconds": seconds}
                    answers, rate = client.call("applications", "load", **how)
                spent = servers[name].call("applications", "cpu_seconds") - before
                if number > 0:  # the first is for warming up
                    rates[name].append(rate)
                    cpu_us[name].append(spent / answers * 1e6)
    finally:
        for worker in [client, *servers.values()]:
            worker.close()
    medians = {name: statistics.median(rates[name]) for name in frameworks}
    for name in frameworks:
        ratio = f"{medians[name] / medians[BASELINE]:.2f}×" if BASELINE in medians else ""
        print(
            f"{application:<12}{FRAMEWORKS[name].title:<28}{medians[name]:>12,.0f}"
            f"{max(rates[name]):>12,.0f}{ratio:>10}{statistics.median(cpu_us[name]):>10,.0f}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="applications", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--applications", default=",".join(APPLICATIONS), metavar="NAMES")
    default = "asyncio,uvloop,pyasync_c-asyncio"
    parser.add_argument("--frameworks", default=default, metavar="NAMES")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, each round and server")
    parser.add_argument("--connections", type=int, default=50, metavar="N")
    args = parser.parse_args(arguments)
    frameworks = args.frameworks.split(",")
    applications = args.applications.split(",")
    for name in frameworks:
        if name not in FRAMEWORKS or FRAMEWORKS[name].dialect == "trio":
            parser.error(f"no such event loop: {name}")
    for name in applications:
        if name not in APPLICATIONS:
            parser.error(f"no such application: {name}")
    if args.rounds < 1:
        parser.error("--rounds has to be at least 1")
    by = "wrk" if shutil.which("wrk") else "a client in Python, which may be what is slow"
    print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds:g} s, by {by}")
    print(
        f"{'application':<12}{'event loop':<28}{'req/s':>12}{'best':>12}{'ratio':>10}{'CPU µs':>10}"
    )
    for name in frameworks:
        if FRAMEWORKS[name].version() is None:
            print(f"{'':<12}{FRAMEWORKS[name].title:<28} not installed")
    here = [name for name in frameworks if FRAMEWORKS[name].version() is not None]
    failed = False
    for application in applications:
        try:
            measure(args, application, here)
        except WorkerError as error:
            print(f"{application:<12}{error}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
