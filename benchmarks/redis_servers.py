"""The example that speaks Redis's protocol beside Redis itself, asked by redis-benchmark.

    python -m benchmarks.redis_servers [--tests NAMES] [--requests N] [--clients N] [--rounds N]
                                       [--pipeline N,N] [--server PATH]

Both servers are started once, each in a process of its own, and are asked in turn, round after
round. Shown are requests per second, the best of the rounds, half of the requests answered within
so many milliseconds, and the processor time that one took in the server. Needs redis-server and
redis-benchmark; in a checkout, as that is where the examples are.
"""

import argparse
import csv
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "redis_server.py"
START_SECONDS_MAX = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


class Asked(NamedTuple):
    """What redis-benchmark found in one round."""

    rate: float
    p50_ms: float
    cpu_us: float


class Server:
    """A server's process; a context manager."""

    def __init__(self, name: str, command: list[str], port: int) -> None:
        self.name, self.port = name, port
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, cwd=self.folder.name, env=environment()
        )

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError(f"{self.name} does not start") from None
                time.sleep(0.05)

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def ask(self, test: str, requests: int, clients: int, pipeline: int) -> Asked:
        before = self.cpu_seconds()
        done = subprocess.run(
            ["redis-benchmark", "-p", str(self.port), "-t", test, "-n", str(requests)]
            + ["-c", str(clients), "-P", str(pipeline), "-r", "10000", "--csv"],
            capture_output=True,
            text=True,
            check=True,
        )
        spent = self.cpu_seconds() - before
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        if not rows:
            raise RuntimeError(f"redis-benchmark says: {done.stdout}{done.stderr}")
        asked = requests * len(rows)
        rate = sum(float(row["rps"]) for row in rows) / len(rows)
        p50 = max(float(row["p50_latency_ms"]) for row in rows)
        return Asked(rate, p50, spent / asked * 1e6)


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [os.path.abspath(p) for p in sys.path]))
    return {**os.environ, "PYTHONPATH": path}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def servers(example: Path) -> list[Server]:
    ports = [free_port(), free_port()]
    kept = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    return [
        Server("redis-server", ["redis-server", "--port", str(ports[0]), *kept], ports[0]),
        Server("the example", [sys.executable, str(example), "--port", str(ports[1])], ports[1]),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="redis_servers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tests", default="ping_mbulk,set,get,incr", metavar="NAMES")
    parser.add_argument("--requests", type=int, default=100_000, metavar="N")
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--pipeline", default="1,16", metavar="N,N")
    parser.add_argument("--server", type=Path, default=EXAMPLE, help="the example (default: ours)")
    args = parser.parse_args(arguments)
    for program in ("redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed (Debian: redis-server, redis-tools)")
    if not args.server.exists():
        parser.error(f"there is no {args.server}")
    with_names = "".join(f"{name:>30}" for name in ("redis-server", "the example"))
    print(f"{args.clients} clients, {args.requests} requests, best of {args.rounds} rounds")
    print(f"{'':<22}{with_names}{'ratio':>8}")
    units = f"{'req/s':>12}{'p50 ms':>9}{'CPU µs':>9}"
    print(f"{'':<22}{units}{units}")
    real, example = servers(args.server)
    with real, example:
        for pipeline in map(int, args.pipeline.split(",")):
            for test in args.tests.split(","):
                found: dict[str, list[Asked]] = {real.name: [], example.name: []}
                for number in range(args.rounds):
                    for server in (real, example) if number % 2 == 0 else (example, real):
                        asked = server.ask(test, args.requests, args.clients, pipeline)
                        found[server.name].append(asked)
                best = [max(found[server.name]) for server in (real, example)]
                cells = "".join(f"{a.rate:>12,.0f}{a.p50_ms:>9.2f}{a.cpu_us:>9.1f}" for a in best)
                title = f"{test}, {pipeline} at once" if pipeline > 1 else test
                print(f"{title:<22}{cells}{best[1].rate / best[0].rate:>7.2f}×", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
