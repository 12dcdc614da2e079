"""The simulation of tests/sim in small: a seed repeats, and a mistake is told with its seed."""

import re
import subprocess
import sys

import pytest
import run_core

RUN = run_core.ROOT / "tests" / "sim" / "run.py"


def simulate(*arguments):
    return subprocess.run(
        [sys.executable, str(RUN), *arguments], capture_output=True, text=True, errors="replace"
    )


def test_some_programs():
    done = simulate("--seeds", "100")
    assert done.returncode == 0, done.stderr
    assert "100 programs, 100000 steps, 0 failed" in done.stdout


def test_without_memory():
    done = simulate("--seeds", "2", "--steps", "200", "--no-memory")
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"(\d+) programs", done.stdout)[1]) > 20


@pytest.mark.parametrize("seed", [3, 4])
def test_a_seed_repeats(seed):
    first, second = (simulate("--seed", str(seed), "--trace").stderr for _ in range(2))
    assert first == second
    assert first.count("ready\n") > 20
