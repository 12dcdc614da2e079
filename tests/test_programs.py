"""The programs that come with the package: the examples, the tour, the benchmark, `run`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def call(*arguments, cwd=None, code=0, timeout=110, environment=None):
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
    return done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example):
    assert call(example).strip()


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
    written = tmp_path / "echo.json"
    shown = call(
        *("-m", "pyasync_c", "bench", "--quick", "--shapes", "echo"),
        *("--frameworks", "pyasync_c-asyncio,asyncio", "--json", written),
    )
    assert "requests per second" in shown
    for result in json.loads(written.read_text())["results"]:
        assert result["error"] is None
        assert 0 < result["p50_ns"] <= result["p99_ns"]
    only = call("-m", "pyasync_c", "bench", "--load", written, "--shapes", "echo_unix_1k")
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
    assert [line[0] for line in lines] == ["aiohttp", "aiohttp", "uvicorn", "uvicorn"]
    if by == "wrk":
        assert all("1,000" in line for line in lines)


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
