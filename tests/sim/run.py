#!/usr/bin/env python3
"""Random programs on the real core in a simulated world (tests/sim/sim.h), from seeds.

    python3 tests/sim/run.py [--quick | --deep]
    python3 tests/sim/run.py --seed SEED [--steps N] [--asan] [--no-memory] [--trace]
    python3 tests/sim/run.py --seeds N [--from SEED] [...]

The first explores: 10 000 programs; some with AddressSanitizer and UndefinedBehaviorSanitizer
(--asan); and some again and again, with each of their allocations failing, once and for good
(--no-memory). --quick does a tenth of that, --deep a hundred times as much and longer programs.
The seeds are shared out among the processors. A program that breaks what must hold says which, and
by which command it is repeated, step for step. CC chooses the compiler. Needs a linker that knows
--wrap.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import run_core  # noqa: E402

SIM = ROOT / "tests" / "sim"
FAST = run_core.Mode("sim", ["-O2", "-g", "-DPAC_DEBUG", "-DPAC_SIM"])
ASAN = run_core.MODES["asan"]
# Without pools, so that a use after free shows.
ASAN = replace(ASAN, name="sim-asan", flags=[*ASAN.flags, "-DPAC_SIM", "-DPAC_NO_FREELIST"])
WRAPPED = ("pac_clock_ns", "pac_ticks", "pac_alloc")


def build(asan: bool) -> tuple[Path, dict[str, str]]:
    build = run_core.Build(ASAN if asan else FAST)
    program = build.directory / "sim"
    sources = [str(source) for source in sorted(SIM.glob("*.c"))]
    # reactor_sim.c has all that the archive's reactor.o has, which is left out for that.
    build.run_tool(
        [*build.compile, f"-I{run_core.CORE}", f"-I{SIM}", *sources, str(build.archive)]
        + [f"-Wl,--wrap={name}" for name in WRAPPED]
        + ["-o", str(program), "-lpthread"]
    )
    environment = run_core.own_environment(build.mode)
    # So that a finding, too, ends in the line that says how to repeat it.
    environment["ASAN_OPTIONS"] = environment.get("ASAN_OPTIONS", "") + ":abort_on_error=1"
    return program, environment


@dataclass(frozen=True)
class Leg:
    """Programs that are built and run in one way."""

    seeds: int
    steps: int
    asan: bool = False
    no_memory: bool = False
    first: int = 1
    trace: bool = False

    def title(self) -> str:
        ways = ["asan"] * self.asan + ["no memory"] * self.no_memory
        return f"programs of {self.steps} steps" + "".join(f" [{way}]" for way in ways)


NORMAL = [Leg(10_000, 1000), Leg(500, 1000, asan=True), Leg(50, 300, no_memory=True)]
QUICK = [Leg(1000, 1000), Leg(50, 1000, asan=True), Leg(5, 300, no_memory=True)]
DEEP = [
    Leg(1_000_000, 1000),
    Leg(20_000, 20_000),
    Leg(50_000, 1000, asan=True),
    Leg(2000, 1000, no_memory=True),
]


def share_out(first: int, count: int) -> list[tuple[int, int]]:
    """Pieces that take about equally long: several a processor, as some seeds take longer."""
    pieces = min(count, 8 * (os.cpu_count() or 1))
    bounds = [first + count * i // pieces for i in range(pieces + 1)]
    return [(begin, end - begin) for begin, end in zip(bounds, bounds[1:], strict=False)]


def explore(leg: Leg) -> tuple[int, int, bool]:
    """Programs and steps, and whether all that must hold did; raises BuildError."""
    program, environment = build(leg.asan)
    programs = steps = 0
    ok = True

    def run(piece: tuple[int, int]) -> tuple[int, str, str]:
        if not ok:
            return 0, "", ""
        command = [str(program), "--steps", str(leg.steps)]
        command += ["--from", str(piece[0]), "--seeds", str(piece[1])]
        command += ["--trace"] * leg.trace + ["--no-memory"] * leg.no_memory
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment
        )
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for code, output, errors in pool.map(run, share_out(leg.first, leg.seeds)):
            sys.stderr.write(errors)
            ok = ok and code == 0
            if said := re.search(r"^(\d+) programs, (\d+) steps$", output, re.MULTILINE):
                programs += int(said[1])
                steps += int(said[2])
    return programs, steps, ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="for a first look")
    parser.add_argument("--deep", action="store_true", help="much further, for hours")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first seed")
    parser.add_argument("--seeds", type=int, help="so many")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--trace", action="store_true", help="say what happens")
    parser.add_argument("--no-memory", action="store_true", help="every allocation fails once")
    parser.add_argument("--asan", action="store_true")
    options = parser.parse_args()
    legs = DEEP if options.deep else QUICK if options.quick else NORMAL
    if options.seed is not None or options.seeds is not None:
        first, seeds = (
            (options.seed, 1) if options.seed is not None else (options.first, options.seeds)
        )
        legs = [Leg(seeds, options.steps, options.asan, options.no_memory, first, options.trace)]
    programs = steps = failed = 0
    for leg in legs:
        begin = time.monotonic()
        try:
            new_programs, new_steps, ok = explore(leg)
        except run_core.BuildError as error:
            print(error, file=sys.stderr)
            return 1
        ok = ok and new_programs > 0
        seconds = time.monotonic() - begin
        print(
            f"{'ok  ' if ok else 'FAIL'} {new_programs} {leg.title()} {seconds:.0f} s", flush=True
        )
        programs += new_programs
        steps += new_steps
        failed += not ok
    print(f"{programs} programs, {steps} steps, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
