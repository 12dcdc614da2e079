"""The process that asks an echo server: builds echo_client.c, starts it, reads what it found.

It is a program in C, so that the server is what is measured and not the client; the built program
stays in build/ of the checkout, and in a temporary folder where there is none.
"""

import asyncio
import functools
import json
import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from .stopwatch import Spent, Stopwatch

SOURCE = Path(__file__).resolve().with_name("echo_client.c")


class BuildError(Exception):
    """There is no client, since the compiler failed or is not there."""


def build_folder() -> Path:
    checkout = SOURCE.parent.parent
    if (checkout / "pyproject.toml").exists():
        return checkout / "build" / "bench"
    return Path(tempfile.gettempdir()) / f"pyasync_c-bench-{os.getuid()}"


@functools.cache
def build(tls: bool = False) -> Path:
    """The program, built if its source is newer. OpenSSL is needed for TLS alone."""
    folder = build_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = folder / ("echo_client_tls" if tls else "echo_client")
    if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return program
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    made = program.with_suffix(f".{os.getpid()}")
    options = ["-DWITH_TLS", "-lssl", "-lcrypto"] if tls else []
    command = [*compiler, "-std=c11", "-O2", str(SOURCE), "-o", str(made), *options]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BuildError(f"the client is written in C, and there is no {compiler[0]}") from None
    except subprocess.CalledProcessError as error:
        wants = " (for TLS it needs OpenSSL's headers: libssl-dev)" if tls else ""
        raise BuildError(f"cannot build the client{wants}: {error.stderr.strip()}") from None
    made.replace(program)  # whole or not at all: several processes may build at once
    return program


class Client:
    """A client at work on one server. Its pipes are read on a thread, as not every loop has
    subprocesses; so it can be awaited on any."""

    def __init__(
        self, address: str, *, connections: int, size: int, depth: int = 1, tls: bool = False
    ) -> None:
        command = [str(build(tls)), *map(str, (address, connections, size, depth))]
        self.process = subprocess.Popen(
            command + ["tls"] * tls, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def __aenter__(self) -> "Client":
        """Returns when all connections have been answered once."""
        try:
            await self._line()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    async def _line(self) -> str:
        assert self.process.stdout is not None
        read = self.process.stdout.readline
        line = await asyncio.get_running_loop().run_in_executor(None, read)
        if not line:
            raise RuntimeError(f"the client has failed, exit code {self.process.wait()}")
        return line

    async def ask(self, n: int) -> Spent:
        """So many messages; the time by the client's clock, the processor time of this process,
        which is the server, and apart from it that of the client."""
        assert self.process.stdin is not None
        watch = Stopwatch()
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        found = json.loads(await self._line())
        cpu = watch.stop().cpu
        return Spent(found["wall"], cpu, found["p50"], found["p99"], found["cpu"])
