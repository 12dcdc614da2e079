#!/usr/bin/env python3
"""Runs random programs against models in plain Python: 10 000 for each test that uses hypothesis.

    python3 tests/run.py --run python tests/run_programs.py [--programs N] [PATH ...]

Each test has a process of its own, and as many run at once as there are processors. A failing one
prints the smallest program that shows the mistake. `tests/conftest.py` has the profile, `deep`;
PAC_HYPOTHESIS=deep chooses it for any pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "--quiet", "--no-header"]


def pytest(programs: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PAC_HYPOTHESIS": "deep", "PAC_PROGRAMS": str(programs)}
    return subprocess.run(
        [*PYTEST, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def run(test: str, programs: int) -> bool:
    begin = time.monotonic()
    no_limits = ["--override-ini=timeout=0", "--override-ini=faulthandler_timeout=0"]
    done = pytest(programs, *no_limits, test)
    passed = done.returncode == 0
    verdict = "ok" if passed else "FAILED"
    print(f"{verdict:6} {time.monotonic() - begin:5.0f} s  {test}", flush=True)
    if not passed:
        print(done.stdout + done.stderr, flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=10_000, help="for each test")
    parser.add_argument("paths", nargs="*", default=["tests"])
    args = parser.parse_args()
    found = pytest(args.programs, "--collect-only", "-m", "hypothesis", *args.paths)
    tests = [line for line in found.stdout.splitlines() if "::" in line]
    if found.returncode != 0 or not tests:
        print(found.stdout + found.stderr)
        return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        passed = list(pool.map(lambda test: run(test, args.programs), tests))
    print(f"{sum(passed)} of {len(tests)} tests passed, {args.programs} programs each")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
