#!/usr/bin/env python3
"""Fuzzes pieces of the core against simple oracles, with clang's libFuzzer under both sanitizers.

    python3 tests/fuzz/run.py [--seconds N] [NAME ...]

A fuzzer is tests/fuzz/NAME.c. First it is given the inputs of tests/fuzz/regressions/NAME, then
others for N seconds; what it has learnt stays in build/fuzz. An input that breaks something is
left there too, and is run again by

    python3 tests/fuzz/run.py --input FILE NAME

Once the mistake is corrected it belongs to tests/fuzz/regressions/NAME. Needs clang with its
sanitizers; CLANG chooses one.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import run_core  # noqa: E402

FUZZ = ROOT / "tests" / "fuzz"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MODE = run_core.Mode("fuzz", ["-O1", "-g", "-DPAC_DEBUG", "-fsanitize=fuzzer-no-link", *SANITIZERS])
LONGEST_INPUT = 2000


def fuzz(build: run_core.Build, source: Path, seconds: int, given: Path | None) -> tuple[int, str]:
    """The executions, and what it said if it found something; raises BuildError."""
    program = build.directory / source.stem
    includes = [f"-I{run_core.CORE}", f"-I{FUZZ}"]
    build.run_tool(
        [*build.compile, "-fsanitize=fuzzer", *includes, str(source), str(build.archive)]
        + ["-o", str(program), "-lpthread"]
    )
    environment = run_core.own_environment(MODE)
    regressions = FUZZ / "regressions" / source.stem
    inputs = [str(given)] if given else [str(path) for path in sorted(regressions.glob("*"))]
    if inputs:
        done = subprocess.run(
            [str(program), *inputs], capture_output=True, text=True, errors="replace",
            env=environment,
        )  # fmt: skip
        if done.returncode != 0 or given:
            return len(inputs), done.stderr if done.returncode != 0 else ""
    corpus = ROOT / "build" / "fuzz" / source.stem
    corpus.mkdir(parents=True, exist_ok=True)
    command = [str(program), f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}"]
    command += [f"-artifact_prefix={corpus.parent}/{source.stem}-", "-print_final_stats=1"]
    done = subprocess.run(
        [*command, str(corpus)], capture_output=True, text=True, errors="replace", env=environment
    )
    said = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    executions = int(said[1]) if said else 0
    return executions, done.stderr[-4000:] if done.returncode != 0 or executions == 0 else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=20, help="for each")
    parser.add_argument("--input", type=Path, help="run this one alone")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    sources = sorted(FUZZ.glob("*.c"))
    if arguments.names:
        sources = [source for source in sources if source.stem in arguments.names]
        if len(sources) != len(set(arguments.names)):
            sys.exit("no such fuzzer: " + " ".join(arguments.names))
    clang = shlex.split(os.environ.get("CLANG", "clang"))
    if not shutil.which(clang[0]):
        sys.exit("clang is missing: install clang and libclang-rt-dev")
    os.environ["CC"] = shlex.join(clang)
    try:
        build = run_core.Build(MODE)
    except run_core.BuildError as error:
        sys.exit(str(error))

    def run(source: Path) -> tuple[int, str]:
        try:
            return fuzz(build, source, arguments.seconds, arguments.input)
        except run_core.BuildError as error:
            return 0, str(error)

    total = failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, (executions, finding) in zip(sources, pool.map(run, sources), strict=True):
            word = "FAIL" if finding else "ok  "
            print(f"{word} {source.stem} {executions} inputs\n{finding}".rstrip())
            sys.stdout.flush()
            total += executions
            failed += finding != ""
    print(f"{len(sources)} fuzzers, {total} inputs, {failed} failed")
    return 1 if failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
