#!/usr/bin/env python3
"""Plants the mistakes of tests/mutants.toml in the core, one at a time, and asks the tests.

    python3 tests/run_mutants.py [--all] [NAME ...]

A mutant is a few lines of csrc/core put in the place of others, in a copy of the sources. Each
names the tests that have to go red: C tests ("test_notify"), models ("model notify"), or several.
One of them that stays green is reported, and the exit code is 1. --all asks every C test and
every model instead, and lists all that notice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "mutants.toml"
COPIED = ["csrc/core", "tests/core", "tests/model", "tests/run_core.py", "tests/run_models.py"]


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    breaks: str
    killed_by: list[str]


def load() -> list[Mutant]:
    table = tomllib.loads(TABLE.read_text())
    mutants = [Mutant(name=name, **fields) for name, fields in table.items()]
    for mutant in mutants:
        text = (ROOT / "csrc" / "core" / mutant.file).read_text()
        if text.count(mutant.old) != 1:
            sys.exit(f"{mutant.name}: its lines stand {text.count(mutant.old)} times in the file")
        if not mutant.killed_by:
            sys.exit(f"{mutant.name}: no test is named")
    return mutants


def plant(mutant: Mutant, folder: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    file = folder / "csrc" / "core" / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))


def command(folder: Path, test: str) -> list[str]:
    kind, _, name = test.rpartition(" ")
    if kind == "model":
        return [sys.executable, str(folder / "tests/run_models.py"), "--quick", name]
    mode = kind or "plain"
    return [sys.executable, str(folder / "tests/run_core.py"), "--mode", mode, name]


def goes_red(folder: Path, test: str) -> bool:
    """Does the test fail? One that does not build is a mutant that says nothing."""
    done = subprocess.run(
        command(folder, test), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if "does not build" in done.stdout or " error: " in done.stdout:
        sys.exit(f"{test} does not build:\n{done.stdout}")
    return done.returncode != 0


def every_test() -> list[str]:
    return [source.stem for source in sorted((ROOT / "tests/core").glob("test_*.c"))] + [
        f"model {source.stem}" for source in sorted((ROOT / "tests/model").glob("*.cpp"))
    ]


def judge(mutant: Mutant, tests: list[str] | None) -> tuple[Mutant, list[str], list[str], float]:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        plant(mutant, Path(folder))
        asked = tests or mutant.killed_by
        red = [test for test in asked if goes_red(Path(folder), test)]
    green = [test for test in mutant.killed_by if test not in red]
    return mutant, red, green, time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="ask every test, not the named ones")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    mutants = load()
    if arguments.names:
        mutants = [m for m in mutants if m.name in arguments.names]
    tests = every_test() if arguments.all else None
    survived = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, red, green, seconds in pool.map(lambda m: judge(m, tests), mutants):
            word = "survived" if green else "killed"
            survived += bool(green)
            print(f"{word:8} {mutant.name} ({mutant.breaks}) {seconds:.0f} s")
            print(f"         red: {', '.join(red) or 'none'}")
            if green:
                print(f"         GREEN: {', '.join(green)}")
            sys.stdout.flush()
    print(f"\n{len(mutants) - survived} killed, {survived} survived")
    return 1 if survived or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
