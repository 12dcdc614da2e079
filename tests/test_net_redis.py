"""examples/redis_server.py beside the real server: the same answers to the same commands, and the
real redis-cli and redis-benchmark as its clients."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = pytest.mark.skipif(
    not all(map(shutil.which, ("redis-server", "redis-cli", "redis-benchmark"))),
    reason="needs redis-server and redis-tools",
)
pytestmark = NEEDS


@contextlib.contextmanager
def running(*command):
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def our_port():
    with running(sys.executable, "-u", EXAMPLES / "redis_server.py", "--port", 0) as server:
        line = server.stdout.readline()
        yield int(re.fullmatch(r"serving on 127\.0\.0\.1 port (\d+)\n", line)[1])
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0, server.stdout.read()


@pytest.fixture(scope="module")
def real_port():
    port = free_port()
    with running("redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1"):
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield port


class Raw:
    """A connection that sends and gets bytes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(20)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        """The bytes of one answer."""
        line = self.file.readline()
        if line[:1] == b"$" and (size := int(line[1:])) >= 0:
            return line + self.file.read(size + 2)
        if line[:1] == b"*":
            return line + b"".join(self.reply() for _ in range(int(line[1:])))
        return line


def encode(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))


SCRIPT = [
    *["PING", "PING hello", "PING a b", "ECHO hello", "ECHO", "SELECT 0", "FLUSHALL"],
    *["GET nothing", "SET a 1", "GET a", "get a", "GET", "GET a b", "SET a", "SET"],
    *["SET a 2 NX", "GET a", "SET b 2 NX", "SET c 3 XX", "SET b 3 XX", "GET b", "SET b 4 GET"],
    *["SET new 1 GET", "SET a 5 NX GET", "SET a 5 NX XX", "SET a 5 WHAT", "SET a 5 EX"],
    *["SET a 5 EX 0", "SET a 5 EX -1", "SET a 5 EX x", "SET a 5 EX 9223372036854775807"],
    *["SET a 5 EX 100", "TTL a", "SET a 6 KEEPTTL", "TTL a", "SET a 7", "TTL a", "TTL nothing"],
    *["SET a 5 PX 100000", "TTL a", "SET a 5 EX 10 PX 10", "SET a 5 EX 10 KEEPTTL"],
    *["SET a 5 EXAT 1", "GET a", "SET a 5 PXAT 1", "EXISTS a", "PTTL nothing", "PTTL b"],
    *["EXPIRE b 100", "TTL b", "PERSIST b", "PERSIST b", "PERSIST nothing", "TTL b"],
    *["EXPIRE b x", "EXPIRE nothing 5", "EXPIRE b -1", "EXISTS b", "PEXPIRE a 5000", "EXPIRE a"],
    *["EXPIRE a 9223372036854775807", "PEXPIRE a 1.5"],
    *["SET n 10", "INCR n", "DECR n", "INCRBY n 5", "INCRBY n x", "INCR a b", "INCR fresh"],
    *["SET s abc", "INCR s", "SET n 9223372036854775807", "INCR n", "DECR n", "INCRBY n 5"],
    *["SET n -9223372036854775808", "DECR n", "SET n 012", "INCR n", "SET n +1", "INCR n"],
    *["DEL a", "DEL a b c n s", "DEL", "EXISTS a", "EXISTS fresh fresh nothing", "DBSIZE"],
    *["WHAT", "what is this", "CONFIG GET save", "CONFIG GET appendonly", "PUBLISH ch hello"],
    *["UNSUBSCRIBE", "UNSUBSCRIBE x", "SUBSCRIBE", "SUBSCRIBE one two", "GET a", "PING"],
    *["PING x", "SUBSCRIBE one", "UNSUBSCRIBE one", "UNSUBSCRIBE", "GET a", "PUBLISH a"],
    "QUIT",
]


def replies_of(command):
    words = command.upper().split()
    if words[0] in ("SUBSCRIBE", "UNSUBSCRIBE"):
        return max(1, len(words) - 1)
    return 1


def test_the_same_answers_to_a_script(our_port, real_port):
    with Raw(our_port) as ours, Raw(real_port) as real:
        for command in SCRIPT:
            data = encode(*command.split())
            ours.send(data)
            real.send(data)
            for _ in range(replies_of(command)):
                assert (command, ours.reply()) == (command, real.reply())
        assert ours.file.read() == real.file.read() == b""  # it has quit


def test_the_same_answers_through_redis_cli(our_port, real_port):
    # That a command is unknown depends on what a server knows; what it says then does not.
    script = "\n".join(SCRIPT[: SCRIPT.index("UNSUBSCRIBE")]) + "\n"
    shown = [
        subprocess.run(
            ["redis-cli", "-p", str(port), "--no-raw"],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
        )
        for port in (our_port, real_port)
    ]
    assert shown[0].stdout == shown[1].stdout
    assert shown[0].returncode == shown[1].returncode == 0
    assert len(shown[0].stdout.splitlines()) > 90


def random_commands(rng, count):
    keys = [b"a", b"b", b"c\r\nd", b"", b"long" * 50]
    values = [b"1", b"-5", b"x\r\n$3\r\ny", b"", b"*1\r\n", b"v" * 20_000, rng.randbytes(300)]
    for _ in range(count):
        key, value = rng.choice(keys), rng.choice(values)
        yield rng.choice(
            [
                ("SET", key, value),
                ("SET", key, value, "EX", rng.choice([100, 0, "x"])),
                ("SET", key, value, rng.choice(["NX", "XX", "GET", "KEEPTTL"])),
                ("GET", key),
                ("GET", key),
                ("DEL", key, rng.choice(keys)),
                ("EXISTS", key, rng.choice(keys)),
                ("INCR", key),
                ("INCRBY", key, rng.choice([5, -7, value])),
                ("EXPIRE", key, rng.choice([50, -1, value[:10]])),
                ("TTL", key),
                ("PERSIST", key),
                ("ECHO", value),
                ("PING", value),
            ]
        )


@pytest.mark.parametrize("seed", range(6))
def test_random_pipelines_under_random_splits(our_port, real_port, seed):
    """What a command holds, and where the bytes are cut, makes no difference."""
    rng = random.Random(seed)
    commands = list(random_commands(rng, 400))
    data = encode("FLUSHALL") + b"".join(encode(*command) for command in commands)
    with Raw(our_port) as ours, Raw(real_port) as real:
        real.send(data)
        expected = [real.reply() for _ in range(len(commands) + 1)]
        at, pending = 0, []
        while at < len(data):
            size = rng.choice([1, 2, 50, 3000, 100_000]) if at > 500 else 1
            ours.send(data[at : at + size])
            at += size
            if rng.random() < 0.2:
                time.sleep(0.0005)
        pending = [ours.reply() for _ in range(len(commands) + 1)]
        assert pending == expected


@pytest.mark.parametrize(
    "data",
    [
        b"PING\r\n",
        b"\r\nping  hello \r\nGET\r\n",
        b"*0\r\n*-1\r\nPING\r\n",
        b"*x\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n$x\r\n",
        b"*2\r\n$4\r\nPING\r\n$-1\r\n",
        b"*9999999999\r\n",
        b"SET a 1\r\nINCR a\r\n*x\r\nGET a\r\n",
    ],
)
def test_inline_commands_and_errors_of_the_protocol(our_port, real_port, data):
    answers = []
    for port in (our_port, real_port):
        with Raw(port) as raw:
            raw.send(data)
            raw.socket.shutdown(socket.SHUT_WR)
            answers.append(raw.file.read())
    assert answers[0] == answers[1]


def test_many_awkward_commands_at_once(our_port):
    """None of which the one split can cut."""
    with Raw(our_port) as ours:
        ours.send(b"PING\r\n" + encode("ECHO", "a\r\nb") * 3000 + encode("PING"))
        assert ours.reply() == b"+PONG\r\n"
        assert [ours.reply() for _ in range(3000)] == [b"$4\r\na\r\nb\r\n"] * 3000
        assert ours.reply() == b"+PONG\r\n"


def test_keys_expire(our_port):
    with Raw(our_port) as ours:
        ours.send(encode("FLUSHALL") + encode("SET", "soon", 1, "PX", 60) + encode("PTTL", "soon"))
        assert [ours.reply() for _ in range(2)] == [b"+OK\r\n"] * 2
        assert 0 < int(ours.reply()[1:]) <= 60
        ours.send(encode("SET", "sooner", 1, "PX", 20) + encode("DBSIZE"))
        assert [ours.reply() for _ in range(2)] == [b"+OK\r\n", b":2\r\n"]
        deadline = time.monotonic() + 20
        sizes = [2]
        while sizes[-1] and time.monotonic() < deadline:  # deleted without being asked for
            ours.send(encode("DBSIZE"))
            sizes.append(int(ours.reply()[1:]))
        assert sizes[-1] == 0
        ours.send(encode("GET", "soon"))
        assert ours.reply() == b"$-1\r\n"


def test_publish_and_subscribe(our_port):
    with Raw(our_port) as ann, Raw(our_port) as ben, Raw(our_port) as says:
        for raw in (ann, ben):
            raw.send(encode("SUBSCRIBE", "news"))
            assert raw.reply() == b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        for n in range(300):
            says.send(encode("PUBLISH", "news", n))
            assert says.reply() == b":2\r\n"
        for raw in (ann, ben):
            for n in range(300):
                message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$%d\r\n%d\r\n"
                assert raw.reply() == message % (len(str(n)), n)
        ann.send(encode("UNSUBSCRIBE"))
        assert ann.reply().endswith(b":0\r\n")
        ben.__exit__()
        deadline = time.monotonic() + 20
        while True:
            says.send(encode("PUBLISH", "news", "nobody"))
            if says.reply() == b":0\r\n":
                break
            assert time.monotonic() < deadline


def test_a_subscriber_that_does_not_read_is_dropped(our_port):
    with Raw(our_port) as slow, Raw(our_port) as says:
        slow.send(encode("SUBSCRIBE", "flood"))
        slow.reply()
        command = encode("PUBLISH", "flood", b"x" * 100_000)
        reached = 1
        for _ in range(5000):
            says.send(command)
            reached = int(says.reply()[1:])
            if reached == 0:
                break
        assert reached == 0


@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark(our_port, pipeline):
    shown = subprocess.run(
        ["redis-benchmark", "-p", str(our_port), "-q", "-n", "2000", "-P", str(pipeline)]
        + ["-t", "ping,set,get,incr"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"):
        assert re.search(rf"{name}: [\d.]+ requests per second", shown.stdout), shown.stdout
    assert "rror" not in shown.stdout + shown.stderr


def test_the_client_asks_the_real_server(real_port):
    for words, answer in [(["SET", "x", "y"], "b'OK'\n"), (["GET", "x"], "b'y'\n")]:
        shown = subprocess.run(
            [sys.executable, EXAMPLES / "redis_client.py", "--port", str(real_port), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert shown.stdout == answer, shown.stderr
