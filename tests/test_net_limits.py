"""The network at the system's limits: no descriptors left, and thousands of connections at once.

Each runs in an interpreter of its own, since it sets limits or fills them. PAC_NET_CONNECTIONS says
how many connections are held, 2 000 unless set; 10 000 need some 10 100 descriptors.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from net_faces import FACES, NET, RUNNERS, SOCK, Place
from net_peer import counts, listening, until

HERE = Path(__file__).parent
CONNECTIONS = int(os.environ.get("PAC_NET_CONNECTIONS", "2000"))
SPARE = 24
"""Descriptors that a server may still open when its limit is set."""

every_face = pytest.mark.parametrize(
    ("face", "runner"),
    [(face.name, runner) for face in FACES for runner in RUNNERS],
)


def apart(function, *arguments, timeout=100):
    """What a function of this file returns in a fresh interpreter, through JSON."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_net_limits as t;"
        "print(json.dumps(getattr(t, sys.argv[2])(*json.loads(sys.argv[3]))))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program]
        + [str(HERE), function.__name__, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def face_of(name):
    return next(face for face in FACES if face.name == name)


# ── no descriptors left ──────────────────────────────────────────────────────────────────────


def leave(spare):
    """Allow so many descriptors more than are open now."""
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1 + spare, used + 1 + spare))


async def echo(end):
    with contextlib.suppress(ConnectionError):
        while data := await end.read():
            await end.write(data)
    with contextlib.suppress(ConnectionError):
        await end.close()


async def accept_and_echo(accept, failures):
    """For ever; what accept() raises is counted, and then it is tried again."""
    tasks = set()
    while True:
        try:
            end = await accept()
        except OSError as error:
            failures.append(error.errno)
            await asyncio.sleep(0.01)
            continue
        task = asyncio.create_task(echo(end))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


CLIENTS = """
import os, socket, sys
port, n = map(int, sys.argv[1:])
socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(n)]
for sock in socks:
    sock.settimeout(30)
    sock.sendall(b"hello")
answered = [False] * n
first = [sock for sock in socks[: n // 2]]
# The first ones are served while the others wait; then these leave, and all others come to it.
for i, sock in enumerate(first[: int(n * 0.3)]):
    assert sock.recv(5) == b"hello"
print("full", flush=True)
sys.stdin.readline()
for sock in first:
    sock.close()
for sock in socks[n // 2 :]:
    assert sock.recv(5) == b"hello"
print("all served", flush=True)
sys.stdin.readline()
"""


def run_out_of_descriptors(face_name, runner):
    """A server that is left with SPARE, asked by twice as many."""
    place = Place(face_of(face_name), runner, "tcp", None)
    failures, reports = [], []

    async def main():
        loop = asyncio.get_running_loop()
        listener = listening("tcp", None)
        port = listener.getsockname()[1]
        clients = subprocess.Popen(
            [sys.executable, "-c", CLIENTS, str(port), str(2 * SPARE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = []
        readline = clients.stdout.readline
        await loop.run_in_executor(None, int)  # its thread is there from now on
        async with place.face.listening(listener, None) as accept:
            fds = len(os.listdir("/proc/self/fd"))
            leave(SPARE)
            serving = asyncio.create_task(accept_and_echo(accept, failures))
            lines.append(await loop.run_in_executor(None, readline))
            with pytest.raises(OSError, match="Too many open files"):
                for _ in range(10):
                    await place.face.connect(("127.0.0.1", port), None)
            clients.stdin.write("\n")
            clients.stdin.flush()
            lines.append(await loop.run_in_executor(None, readline))
            clients.stdin.close()
            await loop.run_in_executor(None, clients.wait)
            await until(lambda: len(os.listdir("/proc/self/fd")) <= fds + 1)
            serving.cancel()
            await asyncio.wait([serving])
        clients.stdout.close()
        reports.extend(context["message"] for context in place.reports)
        place.reports.clear()
        return lines

    lines = place.run(main())
    return lines, sorted(set(failures)), sorted(set(reports)), len(reports)


@every_face
def test_descriptors_run_out_and_come_back(face, runner):
    lines, failures, said, reported = apart(run_out_of_descriptors, face, runner)
    assert lines == ["full\n", "all served\n"]
    if face in (SOCK.name, NET.name):
        assert failures == [24] and not said
    else:
        assert failures == [] and said == ["socket.accept() out of system resource"]
        # asyncio says so once for each that it may have in its backlog, each second.
        assert reported < 1000
    counts["descriptors used up"] += 1


# ── many connections ─────────────────────────────────────────────────────────────────────────


def hold_connections(face_name, runner, n):
    """So many from a process of their own, each answered twice, then all gone at once."""
    from pyasync_c._benchmarks import echo_client

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    place = Place(face_of(face_name), runner, "tcp", None, seconds=max(60, n / 30))

    async def main():
        loop = asyncio.get_running_loop()
        listener = listening("tcp", None, backlog=4096)
        address = str(listener.getsockname()[1])
        client = subprocess.Popen(
            [echo_client.build(), address, str(n), "100", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        tasks = set()
        most = 0
        async with place.face.listening(listener, None) as accept:

            async def serve():
                while True:
                    task = asyncio.create_task(echo(await accept()))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

            serving = asyncio.create_task(serve())
            assert await loop.run_in_executor(None, client.stdout.readline) == "ready\n"
            most = len(tasks)
            client.stdin.write(f"{n}\n")
            client.stdin.flush()
            assert "wall" in await loop.run_in_executor(None, client.stdout.readline)
            client.kill()
            await loop.run_in_executor(None, client.communicate)
            await until(lambda: not tasks)
            serving.cancel()
            await asyncio.wait([serving])
        return most

    return place.run(main())


@pytest.mark.timeout(max(120, CONNECTIONS / 20))
@every_face
def test_many_connections_are_held(face, runner):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < CONNECTIONS + 100:
        pytest.skip(f"a process may open {most} descriptors, too few for {CONNECTIONS}")
    held = apart(hold_connections, face, runner, CONNECTIONS, timeout=max(100, CONNECTIONS / 20))
    assert held == CONNECTIONS
    counts["connections held at once"] = max(counts["connections held at once"], held)
