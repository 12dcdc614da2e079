"""The programs that come with the package: the examples, the tour, the benchmark, `run`."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What the examples on a virtual clock print, to the letter.
EXACTLY = {
    "graceful_shutdown": """\
  0.70 s  Ada has finished job 1
  1.10 s  Bob has finished job 2
  1.50 s  Cy has finished job 3
  1.80 s  stopping; 2.0 seconds to finish
  1.80 s  Cy has left
  1.90 s  Ada has finished job 4
  1.90 s  Ada has left
  3.80 s  time is up
  3.80 s  Bob puts job 5 back
  3.80 s  Bob was sent home
  3.80 s  4 jobs finished, 1 put back, 5 not begun
""",
    "rate_limiter": """\
seven requests at once: three go through, the others one every half second
 0.25 s  request 1
 0.25 s  request 2
 0.25 s  request 3
 0.50 s  request 4
 1.00 s  request 5
 1.50 s  request 6
 2.00 s  request 7
nobody asks for a while, and the bucket fills up again, but not beyond its size
10.25 s  request 8
10.25 s  request 9
10.25 s  request 10
10.50 s  request 11
a request that gives up leaves its place and its token to the next
11.00 s  request 12
""",
    "supervisor": """\
workers that crash now and then
  1.00 s  flaky crashed: no connection; again in 0.19 s
  1.00 s  flakier crashed: no connection; again in 0.25 s
  2.19 s  flaky crashed: no connection; again in 0.32 s
  2.25 s  flakier crashed: no connection; again in 0.55 s
  3.00 s  steady is done: all the work
  3.80 s  flakier crashed: no connection; again in 0.73 s
  5.52 s  flaky is done: all the work
  7.53 s  flakier is done: all the work
one that always crashes
  8.53 s  broken crashed: no connection; again in 0.19 s
  9.72 s  gave up: 2 crashes, the last of broken; it was: no connection
""",
}
# Lines of those that use sockets, whose order is the system's.
AMONG_OTHERS = {
    "chat_server": ["server: sleepy comes", "ann and ben have said 200 lines"],
    "redis_server": [
        "a pipeline of 1000 INCR ends with 1000",
        "INCR greeting: ERR value is not an integer or out of range",
        "the server has stopped",
    ],
    "tcp_proxy": [
        "the third waits; who is idle makes room",
        "1000018 bytes there, 1000018 back",
    ],
    "crawler": [
        "/tea: 200, 4 links",
        "/missing: 404, 0 links",
        "/slow: timeout, 0 links",
        "tally: 8 × 200, 1 × 404, 1 × timeout; at most 3 at a time",
    ],
}


def call(*arguments, cwd=None, code=0, timeout=110, environment=None, quiet=False):
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not (quiet and done.stderr), done.stderr
    return done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 11
    assert {*EXACTLY, *AMONG_OTHERS} < {example.stem for example in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example):
    shown = call("-W", "error", example, quiet=True)
    assert shown.strip()
    assert shown == EXACTLY.get(example.stem, shown)
    lines = shown.splitlines()
    for line in AMONG_OTHERS.get(example.stem, []):
        assert lines.count(line) == 1, shown


def test_every_example_is_introduced():
    introduced = (ROOT / "examples" / "README.md").read_text()
    for example in EXAMPLES:
        assert introduced.count(f"`{example.name}`:") == 1


def test_a_shutdown_by_hand():
    program = subprocess.Popen(
        [sys.executable, "-u", ROOT / "examples" / "graceful_shutdown.py", "--by-hand"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert "stop me" in program.stdout.readline()
        program.send_signal(signal.SIGTERM)
        shown = program.stdout.read()
    assert program.returncode == 0, shown
    assert "stopping; 2.0 seconds to finish" in shown
    # The first job, or none, if the signal was faster than the workers.
    assert re.search(r"[01] jobs finished, 0 put back, \d+ not begun", shown)


def test_the_tour_shows_ten_concepts():
    shown = call("-m", "pyasync_c", "tour", "--no-pause")
    for number in range(1, 11):
        assert f"\n{number}. " in shown
    assert "Traceback" not in shown


def test_one_concept_of_the_tour():
    shown = call("-m", "pyasync_c", "tour", "--no-pause", "--only", "9")
    assert "\n9. " in shown and "\n8. " not in shown


def test_bench_measures_and_writes(tmp_path):
    written = tmp_path / "bench.json"
    shown = call(
        *("-m", "pyasync_c", "bench", "--quick", "--shapes", "yield_one,ping_pong"),
        *("--frameworks", "pyasync_c,asyncio", "--json", written),
    )
    assert "pyasync_c" in shown and "asyncio" in shown
    assert json.loads(written.read_text())


def test_bench_asks_the_echo_servers(tmp_path):
    # Each kind, link and size once, and more connections than a process may open at first.
    protocols = "echo_protocol_tcp_1b_10,echo_protocol_unix_1k_10,echo_protocol_tls_100k_10"
    streams = "echo_streams_tcp_1k_1000,echo_streams_unix_100k_1,echo_streams_tls_flow"
    socks = "echo_sock_tcp_1k_10,echo_sock_unix_10k_100"
    written = tmp_path / "echo.json"
    shown = call(
        *("-m", "pyasync_c", "bench", "--quick", "--shapes", f"{protocols},{streams},{socks}"),
        *("--frameworks", "pyasync_c,pyasync_c-asyncio,asyncio", "--json", written),
    )
    assert "requests per second" in shown
    for result in json.loads(written.read_text())["results"]:
        assert result["error"] is None
        assert 0 < result["p50_ns"] <= result["p99_ns"]
        assert result["samples_ns"][0][4] > 0  # the client's processor time
    only = call(
        "-m", "pyasync_c", "bench", "--load", written, "--shapes", "echo_protocol_unix_1k_10"
    )
    assert "Unix" in only and "TCP" not in only


def test_bench_measures_the_tools(tmp_path):
    written = tmp_path / "tools.json"
    shown = call(
        *("-m", "pyasync_c", "bench", "--quick", "--shapes", "tools"),
        *("--frameworks", "pyasync_c,asyncio", "--json", written),
    )
    assert "channel of 128" in shown
    results = json.loads(written.read_text())["results"]
    assert {result["error"] for result in results} == {None}
    assert {result["framework"] for result in results} == {"pyasync_c", "asyncio"}


def test_bench_refuses_an_unknown_shape():
    call("-m", "pyasync_c", "bench", "--shapes", "nonsense", code=2)


@pytest.mark.parametrize("by", ["wrk", "client"])
def test_applications_are_measured(tmp_path, by):
    if by == "wrk":
        # Not the real one, which may not be there: what it prints is what counts.
        wrk = tmp_path / "wrk"
        wrk.write_text("#!/bin/sh\necho '  1000 requests in 1.00s'\necho 'Requests/sec: 999.5'\n")
        wrk.chmod(0o755)
    shown = call(
        *("-m", "pyasync_c._benchmarks.applications", "--rounds", "1", "--seconds", "0.1"),
        *("--connections", "3", "--frameworks", "asyncio,pyasync_c-asyncio"),
        environment={"PATH": str(tmp_path)},
    )
    assert ("by wrk" in shown) == (by == "wrk")
    lines = [line.split() for line in shown.splitlines()[2:]]
    assert [line[0] for line in lines] == [
        *("aiohttp", "aiohttp", "uvicorn", "uvicorn", "uvicorn-10k", "uvicorn-10k")
    ]
    if by == "wrk":
        assert all("1,000" in line for line in lines)


@pytest.mark.parametrize("header", ["zlib.h", "sqlite3.h"])
def test_extensions_are_measured(header):
    if not Path("/usr/include", header).exists():
        pytest.skip(f"{header} is missing, so benchmarks/extensions.py is not tested")
    work = "compress-1k" if header == "zlib.h" else "sqlite-1"
    shown = call(
        *("-m", "pyasync_c._benchmarks.extensions", "--rounds", "1", "--seconds", "0.1"),
        *("--work", work),
    )
    assert shown.count("run_in_executor, ") == shown.count("C API, ") == 2
    assert "1.00×" in shown


def test_run_a_file_on_our_loop(tmp_path):
    (tmp_path / "program.py").write_text(
        "import asyncio, sys\n"
        "async def main():\n"
        "    print(type(asyncio.get_running_loop()).__module__, sys.argv[1:])\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    shown = call("-m", "pyasync_c", "run", "program.py", "a", "b", cwd=tmp_path)
    assert shown == "pyasync_c._eventloop ['a', 'b']\n"


def test_run_a_function(tmp_path):
    (tmp_path / "module.py").write_text("async def main():\n    print('ran')\n")
    assert call("-m", "pyasync_c", "run", "module:main", cwd=tmp_path) == "ran\n"


def test_run_gives_the_programs_exit_code(tmp_path):
    (tmp_path / "program.py").write_text("raise SystemExit(7)\n")
    call("-m", "pyasync_c", "run", "program.py", cwd=tmp_path, code=7)


def test_without_arguments_there_is_help():
    assert "tour" in call("-m", "pyasync_c")


def test_version():
    assert call("-m", "pyasync_c", "--version").startswith("pyasync_c ")
