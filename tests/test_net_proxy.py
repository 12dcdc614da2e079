"""examples/tcp_proxy.py as a program: what goes through it, its limit, and its end by a signal."""

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROXY = Path(__file__).parent.parent / "examples" / "tcp_proxy.py"


@contextlib.contextmanager
def proxy_to(port, *options):
    process = subprocess.Popen(
        [sys.executable, "-u", PROXY, "--to", f"localhost:{port}", *map(str, options)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        yield process, int(re.fullmatch(r"proxy on 127\.0\.0\.1 port (\d+)\n", line)[1])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def upstream():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def accept(listener):
    sock, _ = listener.accept()
    sock.settimeout(20)
    return sock


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_bytes_both_ways_and_the_ends(upstream):
    rng = random.Random(1)
    there, back = rng.randbytes(5_000_000), rng.randbytes(3_000_000)

    def answer():
        with accept(upstream) as server:
            digest = hashlib.sha256()
            server.sendall(back[:1000])
            while data := server.recv(65536):
                digest.update(data)
            assert digest.digest() == hashlib.sha256(there).digest()
            server.sendall(back[1000:])  # after the other direction has ended

    with proxy_to(upstream.getsockname()[1]) as (process, port), connect(port) as client:
        thread = threading.Thread(target=answer)
        thread.start()
        client.sendall(there)
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(65536):
            got += data
        thread.join()
        assert got == back
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == f"proxy: {len(there)} bytes there, {len(back)} back\n"


def test_it_accepts_no_more_than_its_limit(upstream):
    with proxy_to(upstream.getsockname()[1], "--connections", 1) as (_, port):
        with connect(port) as first, accept(upstream) as server, connect(port) as second:
            second.sendall(b"second")
            upstream.settimeout(0.3)
            with pytest.raises(TimeoutError):
                accept(upstream)
            first.close()
            assert server.recv(1) == b""
            server.close()
            upstream.settimeout(20)
            with accept(upstream) as server:
                assert server.recv(6) == b"second"


def test_who_is_idle_is_let_go(upstream):
    with proxy_to(upstream.getsockname()[1], "--idle", 0.3) as (_, port):
        with connect(port) as client, accept(upstream) as server:
            for _ in range(5):  # longer than the timeout, but never idle for it
                client.sendall(b"x")
                assert server.recv(1) == b"x"
                threading.Event().wait(0.1)
            assert client.recv(1) == server.recv(1) == b""


def test_a_signal_lets_connections_finish_until_the_deadline(upstream):
    with proxy_to(upstream.getsockname()[1], "--drain", 1.5) as (process, port):
        with connect(port) as client, accept(upstream) as server, connect(port) as other:
            with accept(upstream) as held:
                process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionRefusedError):
                    while True:
                        with contextlib.suppress(ConnectionResetError):
                            connect(port).close()
                client.sendall(b"question")
                assert server.recv(8) == b"question"
                server.sendall(b"answer")
                assert client.recv(6) == b"answer"
                assert other.recv(1) == held.recv(1) == b""  # cut at the deadline
                assert process.wait(20) == 0


def test_nobody_to_connect_to(upstream):
    port_of_nobody = upstream.getsockname()[1]
    upstream.close()
    with proxy_to(port_of_nobody) as (process, port):
        with connect(port) as client:
            assert client.recv(1) == b""
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "cannot connect" in process.stdout.read()
