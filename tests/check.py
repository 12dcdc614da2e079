#!/usr/bin/env python3
"""Runs every check there is, each whatever became of the ones before, and prints a table of them.

    python3 tests/check.py [--deep | --ci] [--only WORD ...] [--list] [--jobs N]

Without an option: all that is bounded, in at most 35 minutes on two processors. --deep goes as far
as each tool does by itself, for a night. --ci is what .ci/run runs for every change: the bounded
ones, with the Python tests on each Python there is. --only runs those whose title has one of the
words in it.

One check more than there are processors runs at a time, as the longest ones wait more than they
compute; unless --deep or --jobs 1 says otherwise, or two build the same thing. Each one's output is
printed when it has ended.

What fails in --ci is run again when all else has ended: the machine of a change does a hundred
other things, and one test in thousands counts on what it was too busy for. Tests in Python, if they
are few, are run three times by themselves, any other check once. If that passes, it is listed below
the table, as a bug to look for, and the run does not fail. A report of a sanitizer or of valgrind,
or a crash, has other reasons, and stays a failure.

A check is a command. It has failed if it does not exit with 0, or runs longer than it may. The last
line that it prints says how much it did, and stands in the table; so each of this project's tools
ends in such a line. What is left out is listed too, with the reason, and tests in Python that
failed are named below the table.

PYTHON is the interpreter for what needs one (else the oldest that there is), CC and CXX are the
compilers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import run_models  # noqa: E402

MAKE = ["make", "--no-print-directory"]
PYTHONS = ("3.11", "3.12", "3.13")
# Tests of C programs and of the tools: the same on every Python, so run on the first alone.
OF_NO_PYTHON = [f"tests/test_{name}.py" for name in ("architecture", "check", "core", "simulation")]
ALONE_TIMES, ALONE_MOST = 3, 5
MOST_NAMED = 10  # below the table
# The latest after the start that a check may be begun again.
AGAIN_UNTIL_S = 3000
NO_ACCIDENT = re.compile(
    r"Sanitizer: |runtime error: |^==\d+== (?:Invalid|Conditional|Use of uninit)"
    r"|definitely lost: [1-9]"
    r"|Fatal Python error|Segmentation fault|Aborted|core dumped|SIGABRT|SIGSEGV",
    re.M,
)


@dataclass(frozen=True)
class Check:
    title: str
    explores: str
    command: list[str]
    deep: list[str] | None = None  # None: the same
    needs: tuple[str, ...] = ()
    deep_needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    builds: str = (
        ""  # what it leaves in the checkout: of two with the same, one waits for the other
    )
    alone: list[str] | None = None  # with the names of tests after it: runs those


@dataclass(frozen=True)
class Result:
    check: Check
    word: str  # ok, FAILED, left out
    much: str
    seconds: float
    failed: tuple[str, ...] = ()  # tests in Python
    accident: bool = False  # may a busy machine be the reason?
    passed_alone: str = ""  # what failed at first, and how it passed then
    failed_alone: str = ""  # how often it had passed then


def make(*targets: str) -> list[str]:
    return [*MAKE, *targets]


def usable(python: str) -> bool:
    """Does it start, and has it what a virtual environment and an extension need?"""
    program = (
        "import ensurepip, os, sys, sysconfig, venv\n"
        "header = os.path.join(sysconfig.get_path('include'), 'Python.h')\n"
        "sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))"
    )
    try:
        return subprocess.run([python, "-c", program], capture_output=True).returncode == 0
    except OSError:
        return False


def find_python(version: str) -> str | None:
    candidates = [f"python{version}"]
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "root"], capture_output=True, text=True)
        root = Path(done.stdout.strip())
        candidates += map(str, sorted(root.glob(f"versions/{version}*/bin/python{version}")))
    return next((candidate for candidate in candidates if usable(candidate)), None)


def clang_has_sanitizers() -> bool:
    if not shutil.which("clang"):
        return False
    libraries = ("libclang_rt.asan-x86_64.a", "libclang_rt.asan.a")
    return any(
        Path(
            subprocess.run(
                ["clang", f"-print-file-name={name}"], capture_output=True, text=True
            ).stdout.strip()
        ).is_absolute()
        for name in libraries
    )


def choose_python() -> None:
    """PYTHON for the Makefile, unless it is chosen: the oldest that there is."""
    if "PYTHON" not in os.environ:
        found = [python for version in PYTHONS if (python := find_python(version))]
        os.environ["PYTHON"] = found[0] if found else sys.executable


def missing(need: str) -> str:
    """Why a check that needs this cannot be run, or nothing."""
    if need == "relacy":
        return "" if run_models.has_relacy() else "no relacy-dev"
    if need == "clang's sanitizers":
        return "" if clang_has_sanitizers() else "no clang with sanitizers"
    return "" if shutil.which(need) else f"no {need}"


def python_tests(every: bool) -> list[Check]:
    """On one Python, or on each that there is. The C tests that are among them have their own."""
    command = ["tests/run.py", "--deselect", "tests/test_core.py::test_c_program"]
    explores = "the module, the package, the loop"
    if not every:
        python = os.environ["PYTHON"]
        return [Check("Python tests", explores, [python, *command], builds=f"for {python}")]
    found = {version: find_python(version) for version in PYTHONS}
    first = next((version for version in PYTHONS if found[version]), None)
    elsewhere = [f"--ignore={path}" for path in OF_NO_PYTHON]
    return [
        Check(
            f"Python tests, {version}",
            explores,
            [python or "python3", *command, *(elsewhere if version != first else [])],
            needs=(python or f"Python {version}",),
            builds=f"for {python}",
            alone=[python or "python3", "tests/run.py"],
        )
        for version, python in found.items()
    ]


def all_checks(every_python: bool) -> list[Check]:
    # What these build for PYTHON, and of the core, stands in one place each.
    module, core = f"for {os.environ['PYTHON']}", "the core"
    return [
        Check("lint", "formatting and rules of the sources", make("lint"), builds=module),
        Check("stubs", "types of the package and the module", make("stubtest"), builds=module),
        Check("source distribution", "installed and tried elsewhere", make("sdist"), builds=module),
        *python_tests(every_python),
        Check(
            "models",
            "interleavings of the core's threads",
            make("model-quick"),
            make("model-deep"),
            needs=("relacy",),
        ),
        Check(
            "mutants",
            "planted mistakes, each noticed",
            make("mutants-quick"),
            make("mutants"),
            deep_needs=("relacy", "clang's sanitizers"),
        ),
        Check("simulation", "random programs on the core", make("sim"), make("sim-deep")),
        Check(
            "fuzzers",
            "wheel, queues, lists, mpsc, semaphore",
            make("fuzz"),
            make("fuzz-deep"),
            needs=("clang's sanitizers",),
        ),
        Check(
            "random programs",
            "Python programs and a plain model",
            make("programs-quick"),
            make("programs"),
            builds=module,
        ),
        Check("C tests", "the core, with assertions", make("core"), builds=core),
        Check("C tests, optimized", "the core as users get it", make("release"), builds=core),
        Check(
            "C tests, clang",
            "the core by another compiler",
            make("core", "CC=clang"),
            needs=("clang",),
            builds=core,
        ),
        Check("C tests, sanitizers", "memory, undefined behaviour", make("asan"), builds=core),
        Check(
            "C tests, clang, sanitizers",
            "memory, undefined behaviour",
            make("asan", "CC=clang"),
            needs=("clang's sanitizers",),
            builds=core,
        ),
        Check("C tests, threads", "data races, by ThreadSanitizer", make("tsan"), builds=core),
        Check(
            "C tests, valgrind", "memory, leaks", make("valgrind"), needs=("valgrind",), builds=core
        ),
        Check("C tests, wakes", "ten million from other threads", make("stress"), builds=core),
        Check(
            "Python tests, sanitizers",
            "some under both, all in --deep",
            make("asan-python-quick"),
            make("asan-python"),
            builds=module,
        ),
        Check(
            "Python tests, threads",
            "data races of the module",
            make("tsan-python-quick"),
            make("tsan-python"),
            builds=module,
        ),
    ]


# Of --deep alone.
DEEPER = [
    Check("soak", "200 000 connections with faults", make("soak")),
    Check("net faults", "10 000 connections held, random streams", make("net-faults")),
]


def last_line(output: list[str]) -> str:
    """What the check says of itself, without pytest's frame and the time, which the table has."""
    for line in reversed(output):
        line = re.sub(r"\x1b\[[0-9;]*m", "", line).strip("= \n")
        if line and not line.startswith(("make: ", "WARNING")):
            return re.sub(r" in \d+\.\d+s( \([\d:]+\))?$", "", line)
    return ""


# Written by the threads that run checks, read when this program ends.
running: set[subprocess.Popen[str]] = set()


def end_what_runs() -> None:
    """Each check is a group of processes of its own, which would go on."""
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def end_what_it_left(process: subprocess.Popen[str]) -> None:
    """A check ends with its own process: what that has left running holds its output open."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(process.pid, signal.SIGKILL)


def failed_tests(output: list[str]) -> tuple[str, ...]:
    """By pytest's summary."""
    pattern = r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::\w+)+(?:\[.*?\])?)(?: - .*)?$"
    found = re.findall(pattern, "".join(output), re.M)
    return tuple(dict.fromkeys(found))


def execute(check: Check, command: list[str], limit_s: float, out: TextIO = sys.stdout) -> Result:
    begin = time.monotonic()
    output: list[str] = []
    if not shutil.which(command[0]):
        return Result(check, "FAILED", f"no {command[0]}", 0)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | check.env,
        start_new_session=True,
    )

    def stop() -> None:
        output.append(f"still running after {limit_s:g} s\n")
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, stop)
    timer.start()
    running.add(process)
    end = threading.Thread(target=end_what_it_left, args=(process,), daemon=True)
    end.start()
    try:
        # Leaving this waits for it, so it is killed before.
        with process:
            try:
                for line in process.stdout or ():
                    out.write(line)
                    out.flush()
                    output.append(line)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                end.join()
    finally:
        timer.cancel()
        running.discard(process)
    word = "ok" if process.returncode == 0 else "FAILED"
    seconds = time.monotonic() - begin
    accident = word != "ok" and not NO_ACCIDENT.search("".join(output))
    return Result(check, word, last_line(output), seconds, failed_tests(output), accident)


def look_again(result: Result) -> Result:
    """Does what has failed pass, each time, with nothing beside it?"""
    check, command, times, what = result.check, result.check.command, 1, "the check"
    if not result.accident:
        return result
    if check.alone is not None and 0 < len(result.failed) <= ALONE_MOST:
        command, times = [*check.alone, *result.failed], ALONE_TIMES
        what = " ".join(result.failed)
    for i in range(times):
        print(f"\n======== {check.title}, alone, {i + 1} of {times}", flush=True)
        again = execute(check, command, 1500)
        if again.word != "ok":
            return replace(result, failed_alone=f", and alone, after passing {i} times")
    return replace(result, word="ok", passed_alone=f"{what}, {times} of {times} times")


def run(check: Check, options: argparse.Namespace, out: TextIO) -> Result:
    print(f"\n======== {check.title}", file=out, flush=True)
    needs = check.needs + (check.deep_needs if options.deep else ())
    reasons = [reason for reason in map(missing, needs) if reason]
    if reasons:
        print(f"left out: {', '.join(reasons)}", file=out, flush=True)
        return Result(check, "left out", ", ".join(reasons), 0)
    deep = options.deep and check.deep is not None
    command = check.deep if deep and check.deep is not None else check.command
    return execute(check, command, 86400 if options.deep else 2400, out)


def run_several(checks: list[Check], options: argparse.Namespace) -> list[Result]:
    """As many at a time as there are jobs, in order but for those that have to wait."""
    left = list(checks)
    building: set[str] = set()
    results: dict[str, Result] = {}
    changed = threading.Condition()

    def work() -> None:
        while True:
            with changed:
                free = next((c for c in left if not c.builds or c.builds not in building), None)
                while left and free is None:
                    changed.wait()
                    free = next((c for c in left if not c.builds or c.builds not in building), None)
                if free is None:
                    return
                left.remove(free)
                building.add(free.builds)
            out = io.StringIO()
            result = run(free, options, out)
            with changed:
                results[free.title] = result
                building.discard(free.builds)
                changed.notify_all()
                print(out.getvalue(), end="", flush=True)
                print(f"-------- {free.title}: {result.word}, {result.seconds:.0f} s", flush=True)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [results[c.title] for c in checks]


def table(results: list[Result]) -> str:
    rows = [("tool", "what was explored", "how much", "result", "")]
    for r in results:
        seconds = "" if r.word == "left out" else f"{r.seconds:.0f} s"
        rows.append((r.check.title, r.check.explores, r.much[:60], r.word, seconds))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--deep", action="store_true", help="for a night")
    how.add_argument("--ci", action="store_true", help="what runs for every change")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="those with such a title")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many at a time")
    options = parser.parse_args()
    if options.jobs is None:
        processors = os.cpu_count() or 1
        options.jobs = processors + 1 if not options.deep and processors > 1 else 1
    # So that the check in progress ends with this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    choose_python()
    checks = all_checks(options.ci or options.deep) + (DEEPER if options.deep else [])
    if options.only:
        checks = [c for c in checks if any(word in c.title for word in options.only)]
        if not checks:
            sys.exit("no check has such a title")
    if options.list:
        print("\n".join(f"{check.title}: {check.explores}" for check in checks))
        return 0
    begin = time.monotonic()
    try:
        if options.jobs > 1:
            results = run_several(checks, options)
        else:
            results = [run(check, options, sys.stdout) for check in checks]
        for i, result in enumerate(results):
            if options.ci and time.monotonic() - begin < AGAIN_UNTIL_S:
                results[i] = look_again(result)
    finally:
        end_what_runs()
    print(f"\n{table(results)}")
    for r in results:
        if r.passed_alone:
            print(f"\n{r.check.title}: failed, but passed alone: {r.passed_alone}")
        elif r.failed:
            few = " ".join(r.failed[:MOST_NAMED])
            more = len(r.failed) - MOST_NAMED
            print(f"\n{r.check.title}: failed{r.failed_alone}: {few}", end="")
            print(f" and {more} more" if more > 0 else "")
    counts = {word: sum(r.word == word for r in results) for word in ("ok", "FAILED", "left out")}
    print(f"\n{counts['ok']} ok, {counts['FAILED']} failed, {counts['left out']} left out", end="")
    print(f", {time.monotonic() - begin:.0f} s in all")
    # A run that left everything out has shown nothing.
    return 1 if counts["FAILED"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
