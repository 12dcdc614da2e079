"""The client of the echo benchmark: what it counts, and that it sees a server that is wrong."""

import contextlib
import json
import selectors
import socket
import subprocess

import pytest
from helpers import Worker

from pyasync_c._benchmarks import echo_client


@pytest.fixture
def ask(tmp_path):
    """Asks a server that answers a message with what answer(its number, the message) returns, and
    hangs up where that is None."""

    def ask(answer, *, size=1000, connections=3):
        path = str(tmp_path / "server")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(connections)

            def serve():
                socks = [listener.accept()[0] for _ in range(connections)]
                with contextlib.ExitStack() as stack, contextlib.suppress(ConnectionError):
                    number = [0] * connections
                    poll = stack.enter_context(selectors.DefaultSelector())
                    for i, sock in enumerate(socks):
                        poll.register(stack.enter_context(sock), selectors.EVENT_READ, i)
                    while poll.get_map():
                        for key, _ in poll.select():
                            data = key.fileobj.recv(size, socket.MSG_WAITALL)
                            said = answer(number[key.data], data) if data else None
                            if said is None:
                                poll.unregister(key.fileobj)
                                key.fileobj.close()
                            else:
                                key.fileobj.sendall(said)
                                number[key.data] += 1

            server = Worker(serve)
            command = [echo_client.build(), path, str(connections), str(size), "1"]
            done = subprocess.run(
                command, input="20\n30\n", capture_output=True, text=True, timeout=30
            )
        server.result()
        return done

    return ask


def test_the_echo_client_counts(ask):
    done = ask(lambda number, data: data)
    assert done.returncode == 0 and not done.stderr
    ready, *runs = done.stdout.splitlines()
    assert ready == "ready" and len(runs) == 2
    for found in map(json.loads, runs):
        assert 0 < found["p50"] <= found["p99"] <= found["max"] * 1.04
        assert found["max"] <= found["wall"] * 1.04


WRONG = {
    "changed": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not what was sent"),
    "reordered": (lambda data: data[1:] + data[:1], "is not what was sent"),
    "lost": (lambda data: data[:5] + data[6:], "is not what was sent"),
    "doubled": (lambda data: data + data, "more than it got"),
    "ended": (lambda data: None, "has hung up"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_echo_client_compares_each_byte(ask, wrong):
    answer, says = WRONG[wrong]
    done = ask(lambda number, data: data if number < 3 else answer(data))
    assert done.returncode == 1 and says in done.stderr, done
