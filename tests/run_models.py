#!/usr/bin/env python3
"""Builds the models of tests/model with the core's own sources, and lets Relacy explore them.

    python3 tests/run_models.py [--deep | --quick] [--mode MODE] [NAME ...]

Each model is explored twice: all executions with up to so many forced context switches, and then
random ones. That is done bare, and once more, one switch lower, under AddressSanitizer, which sees
what Relacy does not: a use after the last reference was given up. A case of a model with many
threads or long ones may ask for fewer switches. --deep goes one switch and many more executions
further; --quick goes one less, and bare alone unless --mode asks for the other. CXX chooses the
compiler, CXXFLAGS adds to its flags. Needs Relacy's headers (Debian: relacy-dev).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "model"
# Relacy needs -fno-sized-deallocation; the core is C, which C++ wants to be told (-fpermissive).
FLAGS = ["-std=c++17", "-O1", "-w", "-fpermissive", "-fno-sized-deallocation", "-DPAC_MODEL"]
BARE = {"bound": 3, "random": 50_000}
ADDRESS = {"bound": 2, "random": 20_000}
QUICK = {"bound": 2, "random": 20_000}
QUICK_ADDRESS = {"bound": 1, "random": 5_000}
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
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    command = [*compiler(), *flags, str(source), "-o", str(program), "-lpthread"]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{source.stem} does not build:\n{shlex.join(command)}\n{done.stderr}")
    return program


@dataclass(frozen=True)
class Outcome:
    """What became of one model in one mode."""

    ok: bool
    output: str
    seconds: float

    def verdicts(self) -> list[str]:
        """What a model's program says of each case and search."""
        return [line for line in self.output.splitlines() if line.startswith(("ok   ", "FAIL "))]

    def executions(self, search: str) -> int:
        numbers = re.findall(rf": {search}.* (\d+) executions$", self.output, re.MULTILINE)
        return sum(map(int, numbers))


def explore(program: Path, limits: dict[str, int]) -> Outcome:
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
    outcome = Outcome(done.returncode == 0, done.stdout, time.monotonic() - begin)
    if outcome.ok and not outcome.verdicts():
        return Outcome(False, f"explored nothing\n{outcome.output}", outcome.seconds)
    return outcome


HEAD = f"{'model':20} {'mode':8} {'bound':>5} {'all of':>12} {'random':>12} {'seconds':>8}  result"


def row(name: str, mode: str, bound: int, outcome: Outcome) -> str:
    """A line of the table: all executions with up to `bound` forced switches, and random ones."""
    return (
        f"{name:20} {mode:8} {bound:5} {outcome.executions('bound'):12,} "
        f"{outcome.executions('random'):12,} {outcome.seconds:8.1f}  "
        + ("ok" if outcome.ok else "FAILED")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deep", action="store_true", help="much further, for hours")
    parser.add_argument("--quick", action="store_true", help="for a first look")
    parser.add_argument("--mode", choices=["bare", "address"], help="one of the two alone")
    parser.add_argument("--verbose", action="store_true", help="show each case of a model")
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
    limits = {"bare": BARE, "address": ADDRESS}
    modes = ["bare", "address"]
    if arguments.deep:
        limits = {"bare": DEEP_BARE, "address": DEEP_ADDRESS}
    elif arguments.quick:
        limits = {"bare": QUICK, "address": QUICK_ADDRESS}
        modes = ["bare"]
    modes = [arguments.mode] if arguments.mode else modes
    jobs = [(source, mode) for mode in modes for source in sources]
    print(HEAD, flush=True)

    def run(job: tuple[Path, str]) -> Outcome:
        source, mode = job
        outcome = explore(build(source, mode == "address", arguments.core), limits[mode])
        lines = [row(source.stem, mode, limits[mode]["bound"], outcome)]
        if not outcome.ok:
            lines += ["    " + line for line in outcome.output.splitlines()[:200]]
        elif arguments.verbose:
            lines += ["    " + line for line in outcome.verdicts()]
        print("\n".join(lines), flush=True)
        return outcome

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(run, jobs))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    explored = sum(o.executions("bound") + o.executions("random") for o in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    print(
        f"\n{len(outcomes) - len(failed)} passed, {len(failed)} failed; "
        f"{explored:,} executions in {seconds:.0f} s, without building"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
