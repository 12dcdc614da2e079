#!/usr/bin/env python3
"""Builds the C tests and the tutorial against csrc/core, and runs them.

    python3 tests/run_core.py [--mode MODE] [NAME ...]

A test is tests/core/test_NAME.c or stress_NAME.c, a tutorial csrc/tutorial/NAME.c. Each is a
program of its own, run with a time limit. It has failed if it does not exit with 0, and test_NAME
also if it ran no test.
What is built goes to build/core; CC chooses the compiler, PAC_WERROR=1 makes a warning an error.
Needs nothing but Python and the compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc" / "core"
TESTS = ROOT / "tests" / "core"
TUTORIAL = ROOT / "csrc" / "tutorial"

WARNINGS = ["-Wall", "-Wextra"]


@dataclass(frozen=True)
class Mode:
    """One way to build and run the programs."""

    name: str
    flags: list[str]
    env: dict[str, str] = field(default_factory=dict)
    wrapper: list[str] = field(default_factory=list)
    limit_s: float = 60
    threads_only: bool = False


MODES = {
    mode.name: mode
    for mode in [
        Mode("plain", ["-O1", "-g", "-DPAC_DEBUG"]),
        Mode("release", ["-O3", "-g"]),
        Mode(
            "asan",
            ["-O1", "-g", "-DPAC_DEBUG", "-fsanitize=address,undefined"]
            + ["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
            env={
                "ASAN_OPTIONS": "detect_stack_use_after_return=1:allocator_may_return_null=1",
                "UBSAN_OPTIONS": "print_stacktrace=1",
            },
            limit_s=180,
        ),
        Mode(
            "tsan",
            ["-O1", "-g", "-DPAC_DEBUG", "-fsanitize=thread"],
            env={"TSAN_OPTIONS": "second_deadlock_stack=1"},
            limit_s=180,
            threads_only=True,
        ),
        Mode(
            "valgrind",
            # valgrind runs one thread at a time and changes over slowly. With TESTING_VALGRIND, a
            # test whose threads wait for each other thousands of times does fewer rounds, and the
            # tutorial's delays are longer.
            ["-O1", "-g", "-DPAC_DEBUG", "-DTESTING_VALGRIND"],
            wrapper=["valgrind", "--fair-sched=yes", "--quiet", "--error-exitcode=99"]
            + ["--leak-check=full", "--errors-for-leak-kinds=definite,possible"],
            limit_s=600,
        ),
    ]
}


class BuildError(Exception):
    """The compiler refused; the text is what it said."""


@dataclass(frozen=True)
class Outcome:
    ok: bool
    why: str
    output: str
    seconds: float


def test_sources() -> list[Path]:
    return sorted([*TESTS.glob("test_*.c"), *TESTS.glob("stress_*.c")])


def tutorial_sources() -> list[Path]:
    return sorted(TUTORIAL.glob("*.c"))


def has_threads(source: Path) -> bool:
    return re.search(r"#include <(pthread|threads)\.h>", source.read_text()) is not None


def stands_alone(source: Path) -> bool:
    return '#include "' not in source.read_text()


def find_compiler() -> list[str]:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("gcc", "cc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C compiler: install gcc or clang, or set CC")


def own_environment(mode: Mode) -> dict[str, str]:
    # A sanitized Python may have preloaded its runtime, which is none of these programs'.
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return env | mode.env


def without_randomized_addresses() -> list[str]:
    """ThreadSanitizer of older compilers cannot live with the address layout of newer kernels."""
    setarch = ["setarch", "--addr-no-randomize"]
    try:
        allowed = subprocess.run([*setarch, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    return setarch if allowed else []


class Build:
    """The core compiled in one mode, and programs linked against it."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.compile = [*find_compiler(), "-std=c11", *WARNINGS, *mode.flags]
        if os.environ.get("PAC_WERROR", "0") not in ("", "0"):
            self.compile.append("-Werror")
        # Other flags or another compiler are another directory, so nothing stale is ever linked.
        key = hashlib.sha256("\0".join(self.compile).encode()).hexdigest()[:8]
        self.directory = ROOT / "build" / "core" / f"{mode.name}-{key}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.archive = self.directory / "libpac.a"
        self.wrapper = list(mode.wrapper)
        if mode.name == "tsan":
            self.wrapper = without_randomized_addresses()
        headers = [*CORE.glob("*.h"), *TESTS.glob("*.h")]
        self.newest_header = max(header.stat().st_mtime for header in headers)
        self.build_core()

    def run_tool(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=own_environment(self.mode),
        )
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(command)}\n{done.stdout}")
        if done.stdout.strip():
            sys.stderr.write(done.stdout)

    def compile_one(self, source: Path) -> Path:
        """Its object, compiled again if the source or any header has changed since."""
        output = self.directory / (source.stem + ".o")
        newest = max(self.newest_header, source.stat().st_mtime)
        if not output.exists() or output.stat().st_mtime <= newest:
            partial = output.with_suffix(".part")
            includes = [f"-I{CORE}", f"-I{TESTS}"]
            self.run_tool([*self.compile, *includes, "-c", str(source), "-o", str(partial)])
            partial.replace(output)
        return output

    def build_core(self) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [str(o) for o in pool.map(self.compile_one, sorted(CORE.glob("*.c")))]
        self.archive.unlink(missing_ok=True)
        self.run_tool(["ar", "rcs", str(self.archive), *objects])

    def program(self, source: Path) -> Path:
        output = self.directory / source.stem
        if stands_alone(source):
            inputs = [str(source)]
        else:
            inputs = [str(self.compile_one(source)), str(self.archive)]
        self.run_tool([*self.compile, *inputs, "-o", str(output), "-lpthread"])
        return output

    def check(
        self, source: Path, limit_s: float | None = None, arguments: Sequence[str] = ()
    ) -> Outcome:
        """Build the program and run it."""
        program = self.program(source)
        limit_s = limit_s or self.mode.limit_s
        begin = time.monotonic()
        process = subprocess.Popen(
            [*self.wrapper, str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=own_environment(self.mode),
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
            why = failure(source, process.returncode, output)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            why = f"still running after {limit_s:g} s"
        # valgrind's word on system calls that it does not know; they fail, as on an old kernel.
        output = re.sub(r"^--\d+-- .*\n", "", output, flags=re.MULTILINE)
        return Outcome(not why, why, output, time.monotonic() - begin)


def failure(source: Path, code: int, output: str) -> str:
    """Why this end is a failure, or nothing."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code > 0:
        return f"exit code {code}"
    if source.name.startswith("test_") and not re.search(
        r"^[1-9]\d* passed, 0 failed$", output, re.MULTILINE
    ):
        return "ran no test"
    return ""


def select(names: list[str], mode: Mode) -> list[Path]:
    everything = {s.stem.removeprefix("test_"): s for s in test_sources()}
    if names == ["tutorial"]:
        return tutorial_sources()
    everything |= {s.stem: s for s in tutorial_sources()}
    if names:
        unknown = [n for n in names if n.removeprefix("test_") not in everything]
        if unknown:
            raise SystemExit(f"no such C test: {', '.join(unknown)}")
        return [everything[n.removeprefix("test_")] for n in names]
    return [s for s in everything.values() if has_threads(s) or not mode.threads_only]


def main() -> int:
    parser = argparse.ArgumentParser(description="Build and run the C tests.")
    parser.add_argument("--mode", choices=MODES, default="plain")
    parser.add_argument("--verbose", action="store_true", help="show what every program prints")
    parser.add_argument("--argument", action="append", default=[], help="for the programs")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds for each program")
    parser.add_argument("names", nargs="*", metavar="NAME", help="'tutorial', or names of tests")
    options = parser.parse_args()
    mode = MODES[options.mode]
    if mode.wrapper and not shutil.which(mode.wrapper[0]):
        raise SystemExit(f"{mode.wrapper[0]} is not installed")
    sources = select(options.names, mode)
    try:
        build = Build(mode)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    failed = 0
    for source in sources:
        try:
            outcome = build.check(source, options.limit, options.argument)
        except BuildError as error:
            outcome = Outcome(False, "does not build", str(error), 0)
        word = "ok  " if outcome.ok else "FAIL"
        print(f"{word} {source.stem} [{mode.name}] {outcome.seconds:.2f} s {outcome.why}".rstrip())
        if not outcome.ok or options.verbose:
            print(outcome.output)
        sys.stdout.flush()
        failed += not outcome.ok
    print(f"{len(sources) - failed} passed, {failed} failed")
    return 1 if failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
