#!/usr/bin/env python3
"""Builds the models of tests/model with the core's own sources, and lets Relacy explore them.

    python3 tests/run_models.py [--deep | --quick] [NAME ...]

Each model is explored twice: all executions with up to so many forced context switches, and then
random ones; and once more, one switch lower, under
AddressSanitizer, which sees what Relacy does not: a use after the last reference was given up.
--deep goes one switch and many more executions further; --quick goes one less, without
AddressSanitizer. CXX chooses the compiler. Needs Relacy's
headers (Debian: relacy-dev).
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "model"
# Relacy needs -fno-sized-deallocation; the core is C, which C++ wants to be told (-fpermissive).
FLAGS = ["-std=c++17", "-O1", "-w", "-fpermissive", "-fno-sized-deallocation", "-DPAC_MODEL"]
BARE = {"bound": 3, "random": 50_000}
ADDRESS = {"bound": 2, "random": 20_000}
QUICK = {"bound": 2, "random": 20_000}
DEEP_BARE = {"bound": 4, "random": 10_000_000}
DEEP_ADDRESS = {"bound": 3, "random": 1_000_000}


def compiler() -> list[str]:
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    sys.exit("no C++ compiler: install g++ or clang++, or set CXX")


def has_relacy() -> bool:
    test = "#include <relacy/relacy.hpp>\n"
    command = [*compiler(), "-std=c++17", "-w", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=test, text=True, capture_output=True).returncode == 0


def build(source: Path, address: bool, core: Path) -> Path:
    folder = ROOT / "build" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / (source.stem + ("-address" if address else ""))
    flags = [*FLAGS, f"-I{core}", f"-I{MODELS}"]
    if address:
        flags += ["-fsanitize=address", "-g"]
    command = [*compiler(), *flags, str(source), "-o", str(program), "-lpthread"]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")
    return program


def explore(program: Path, limits: dict[str, int]) -> tuple[bool, str, float]:
    command = [str(program)]
    for option, value in limits.items():
        command += [f"--{option}", str(value)]
    # Relacy's fibers hide what is alive from the leak checker; it looks for leaks itself.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    environment.pop("LD_PRELOAD", None)
    begin = time.monotonic()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return done.returncode == 0, done.stdout, time.monotonic() - begin


def report(ok: bool, title: str, output: str, seconds: float) -> None:
    lines = output.splitlines()
    verdicts = [line for line in lines if line.startswith(("ok   ", "FAIL "))]
    print(f"{'ok  ' if ok else 'FAIL'} {title} {seconds:.1f} s")
    for line in verdicts if ok else lines[:200]:
        print("     " + line)
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deep", action="store_true", help="much further, for hours")
    parser.add_argument("--quick", action="store_true", help="for a first look")
    parser.add_argument("--core", type=Path, default=ROOT / "csrc" / "core", help="the sources")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    sources = sorted(MODELS.glob("*.cpp"))
    if arguments.names:
        sources = [s for s in sources if s.stem in arguments.names]
        if len(sources) != len(set(arguments.names)):
            sys.exit("no such model: " + " ".join(arguments.names))
    if not has_relacy():
        sys.exit("Relacy's headers are missing: install relacy-dev")
    bare, address = (DEEP_BARE, DEEP_ADDRESS) if arguments.deep else (BARE, ADDRESS)
    jobs = [(s, False, QUICK if arguments.quick else bare) for s in sources]
    if not arguments.quick:
        jobs += [(s, True, address) for s in sources]

    def run(job: tuple[Path, bool, dict[str, int]]) -> bool:
        source, address, limits = job
        ok, output, seconds = explore(build(source, address, arguments.core), limits)
        report(ok, source.stem + (" [address]" if address else ""), output, seconds)
        return ok

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(run, jobs))
    print(f"\n{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
