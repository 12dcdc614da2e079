#!/usr/bin/env python3
"""Plants the mistakes of tests/mutants.toml in the sources, one at a time, and asks the tests.

    python3 tests/run_mutants.py [--quick | --all] [NAME ...]

A mutant is a few lines put in the place of others, in a copy of the sources. Each names the
invariant of ARCHITECTURE.md that it breaks, and the tests that have to go red:

    "test_notify"                a C test; "asan test_notify" in another mode of tests/run_core.py
    "model notify"               a model of tests/model; "address notify" under AddressSanitizer
    "sim", "sim --no-memory"     the simulation of tests/sim
    "fuzz wheel"                 a fuzzer of tests/fuzz
    "test_task.py::test_name"    a Python test, on a build of the copy
    "tsan test_task.py::name"    the same with the copy under ThreadSanitizer, which has to be what
                                 notices: its report counts, and nothing else that goes wrong

First every test that is named has to be green without any mutant. Then one of a mutant's tests that
stays green is reported, and the exit code is 1: a gap to close. Lines that do not stand in their
file exactly once end the program before anything is built, and so does a test that does not exist.
--quick asks the C tests alone, and of each mutant only the first; what has none is left out and
counted. --all asks every C test and every model, and lists all that notice. The Python tests need
the virtual environment of tests/run.py, the models relacy-dev. ccache is used if it is there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from run import sanitizer_environment

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "mutants.toml"
C_COPIED = ["csrc/core", "tests/core", "tests/model", "tests/sim", "tests/fuzz"]
C_COPIED += ["tests/run_core.py", "tests/run_models.py"]
PYTHON_COPIED = ["csrc", "pyasync_c", "benchmarks", "tests", "setup.py", "pyproject.toml"]
PYTHON_COPIED += ["README.md", "LICENSE"]
INVARIANTS = range(1, 13)
FIRST_LIMIT_S = 120  # for a test without a mutant
TSAN_LIMIT_S = 600  # the same under ThreadSanitizer
SANITIZERS = {"python": "", "tsan python": "thread"}  # which a kind of Python test is built with


@dataclass(frozen=True)
class Mutant:
    name: str
    invariant: int
    breaks: str
    file: str
    old: str
    new: str
    killed_by: list[str]


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    red: list[str]
    green: list[str] = field(default_factory=list)  # of those that had to be red
    seconds: float = 0


def problems(mutants: Iterable[Mutant]) -> list[str]:
    """What is wrong with the table: it has to be kept in step with the sources and the tests."""
    found = []
    for mutant in mutants:
        file = ROOT / mutant.file
        count = file.read_text().count(mutant.old) if file.is_file() else 0
        if count != 1:
            found.append(f"{mutant.name}: its lines stand {count} times in {mutant.file}")
        if mutant.invariant not in INVARIANTS:
            found.append(f"{mutant.name}: there is no invariant {mutant.invariant}")
        if not mutant.killed_by:
            found.append(f"{mutant.name}: no test is named")
        found += [
            f"{mutant.name}: no such test: {test}" for test in mutant.killed_by if not exists(test)
        ]
    return found


def load() -> list[Mutant]:
    table = tomllib.loads(TABLE.read_text())
    return [Mutant(name=name, **fields) for name, fields in table.items()]


# ---- the kinds of tests -------------------------------------------------------------------------


def split(test: str) -> tuple[str, str]:
    """The kind of a test (python, tsan python, model, address, sim, fuzz, a mode of run_core.py),
    its name."""
    if "::" in test:
        bare = test.removeprefix("tsan ")
        return "python" if bare == test else "tsan python", bare
    if test in ("sim", "sim --no-memory"):
        return "sim", test.removeprefix("sim").strip()
    kind, _, name = test.rpartition(" ")
    return kind or "plain", name


def exists(test: str) -> bool:
    kind, name = split(test)
    if kind in SANITIZERS:
        file, _, function = name.partition("::")
        source = ROOT / "tests" / file
        pattern = rf"^\s*(async )?def {re.escape(function.partition('[')[0])}\("
        return source.is_file() and bool(re.search(pattern, source.read_text(), re.MULTILINE))
    if kind == "sim":
        return True
    if kind == "fuzz":
        return (ROOT / "tests" / "fuzz" / f"{name}.c").is_file()
    if kind in ("model", "address"):
        return (ROOT / "tests" / "model" / f"{name}.cpp").is_file()
    return (ROOT / "tests" / "core" / f"{name}.c").is_file()


def every_test() -> list[str]:
    return [source.stem for source in sorted((ROOT / "tests/core").glob("test_*.c"))] + [
        f"model {source.stem}" for source in sorted((ROOT / "tests/model").glob("*.cpp"))
    ]


def command(folder: Path, test: str, limit_s: float) -> list[str]:
    kind, name = split(test)
    if kind in SANITIZERS:
        options = ["-q", "-x", "-p", "no:cacheprovider", f"--timeout={limit_s:.0f}"]
        if kind == "tsan python":
            options.append("-s")  # its report ends the process, and what was captured is lost
        return [str(environment_python()), "-m", "pytest", *options, f"tests/{name}"]
    if kind == "sim":
        how = ["--seeds", "20", "--steps", "300", name] if name else ["--seeds", "5000"]
        return [sys.executable, str(folder / "tests" / "sim" / "run.py"), *how]
    if kind == "fuzz":
        run = [sys.executable, str(folder / "tests" / "fuzz" / "run.py")]
        return [*run, "--seconds", "20", name]
    script = "run_models.py" if kind in ("model", "address") else "run_core.py"
    run = [sys.executable, str(folder / "tests" / script)]
    if kind == "model":
        return [*run, "--quick", name]
    if kind == "address":
        return [*run, "--quick", "--mode", "address", name]
    return [*run, "--mode", kind, "--limit", f"{limit_s:.0f}", name]


# ---- building -----------------------------------------------------------------------------------


def environment_python() -> Path:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
    return ROOT / "build" / f"venv-{version}" / "bin" / "python"


def environment(folder: Path, kind: str = "") -> dict[str, str]:
    variables = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    variables["CXXFLAGS"] = "-O0"  # of models: most of their time goes into compiling them
    ccache = Path("/usr/lib/ccache")
    if ccache.is_dir() and "CC" not in os.environ and "CXX" not in os.environ:
        variables["PATH"] = f"{ccache}{os.pathsep}{variables['PATH']}"
        variables |= {"CCACHE_NOHASHDIR": "1", "CCACHE_BASEDIR": str(folder)}
    sanitizers = SANITIZERS.get(kind, "")
    return variables | {"PAC_SANITIZE": sanitizers} | sanitizer_environment(sanitizers)


def call(
    folder: Path, arguments: list[str], limit_s: float | None = None, kind: str = ""
) -> tuple[int, str]:
    """Its exit code and what it said. One that is still running after the limit is killed. `kind`:
    of the Python test that it is."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env=environment(folder, kind),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


def copy(names: Iterable[str], folder: Path) -> None:
    for name in names:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so", ".hypothesis")
            shutil.copytree(source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def prepare(folder: Path, tests: Iterable[str], objects: Path | None) -> None:
    """Copy what the tests are built of. The objects of the core keep their times, as the sources
    do, so that of these only what a mutant touches is compiled again."""
    kinds = {split(test)[0] for test in tests}
    copy(PYTHON_COPIED if kinds & set(SANITIZERS) else C_COPIED, folder)
    if objects is not None and (objects / "build" / "core").is_dir():
        shutil.copytree(objects / "build" / "core", folder / "build" / "core")


def build_module(folder: Path, kind: str) -> None:
    if not environment_python().exists():
        sys.exit("the Python tests need the virtual environment of: make build")
    sanitize = ["env", f"PAC_SANITIZE={SANITIZERS[kind]}"]
    build = [str(environment_python()), "setup.py", "--quiet", "build_ext", "--inplace"]
    code, output = call(folder, sanitize + build)
    if code != 0:
        sys.exit(f"the module does not build:\n{output}")
    where = [str(environment_python()), "-c", "import pyasync_c._core as c; print(c.__file__)"]
    if not call(folder, where, kind=kind)[1].startswith(str(folder)):
        sys.exit(f"another module than the one in {folder} is imported")


def in_builds(folder: Path, tests: Iterable[str]) -> Iterator[str]:
    """The tests, kind by kind: each with the module built as it needs it."""
    built = ""
    for test in sorted(tests, key=lambda test: split(test)[0]):
        kind = split(test)[0]
        if kind in SANITIZERS and kind != built:
            build_module(folder, kind)
            built = kind
        yield test


def goes_red(folder: Path, test: str, limit_s: float) -> bool:
    """Does the test fail? One that does not build, or is not found, says nothing."""
    # A Python test has its own limit; a mutant may keep it from being heard.
    kind, arguments = split(test)[0], command(folder, test, limit_s)
    limit = 2 * limit_s if kind in SANITIZERS else None
    code, output = call(folder, arguments, limit, kind)
    if "does not build" in output:
        sys.exit(f"{test} does not build:\n{output}")
    if kind in SANITIZERS and code in (2, 3, 4, 5):
        sys.exit(f"{test} was not run:\n{output}")
    if kind == "tsan python" and code != 0 and "WARNING: ThreadSanitizer" not in output:
        print(f"{test} fails, but not by ThreadSanitizer:\n{output[-2000:]}", file=sys.stderr)
        return False
    return code != 0


def prove_green(folder: Path, tests: list[str]) -> dict[str, float]:
    """Run the tests without a mutant; returns how long one may take with one, until it is said to
    wait for what does not come."""
    limits, red = {}, []
    for test in in_builds(folder, tests):
        begin = time.monotonic()
        if goes_red(folder, test, TSAN_LIMIT_S if test.startswith("tsan ") else FIRST_LIMIT_S):
            red.append(test)
        limits[test] = 5 + 2 * (time.monotonic() - begin)
    if red:
        sys.exit("red without any mutant: " + ", ".join(red))
    print(f"{len(tests)} tests are green without a mutant", flush=True)
    return limits


def judge(mutant: Mutant, tests: list[str], objects: Path, limits: dict[str, float]) -> Verdict:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        prepare(folder, tests, objects)
        file = folder / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        red = [test for test in in_builds(folder, tests) if goes_red(folder, test, limits[test])]
    green = [test for test in tests if test in mutant.killed_by and test not in red]
    return Verdict(mutant, red, green, time.monotonic() - begin)


# ---- the command --------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="the C tests alone")
    which.add_argument("--all", action="store_true", help="ask every test, not the named ones")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of mutants")
    arguments = parser.parse_args()
    begin = time.monotonic()
    mutants = load()
    wrong = problems(mutants)
    if wrong:
        sys.exit("tests/mutants.toml is out of step:\n" + "\n".join(wrong))
    unknown = set(arguments.names) - {mutant.name for mutant in mutants}
    if unknown:
        sys.exit("no such mutant: " + " ".join(sorted(unknown)))
    if arguments.names:
        mutants = [m for m in mutants if m.name in arguments.names]

    jobs = []
    for mutant in mutants:
        tests = mutant.killed_by
        if arguments.quick:
            tests = [test for test in tests if split(test)[0] == "plain"][:1]
        elif arguments.all:
            tests = every_test()
        if tests:
            jobs.append((mutant, tests))
    survivors = []
    with (
        tempfile.TemporaryDirectory(prefix="mutants-none-") as name,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        none = Path(name)
        asked = sorted({test for _, tests in jobs for test in tests})
        prepare(none, asked, None)
        limits = prove_green(none, asked)
        print(f"{'':8} {'mutant':44} {'inv.':>4} {'s':>5}  red", flush=True)
        for verdict in pool.map(lambda job: judge(*job, none, limits), jobs):
            mutant = verdict.mutant
            word = "SURVIVED" if verdict.green else "killed"
            red_ones = ", ".join(verdict.red) or "none"
            row = f"{word:8} {mutant.name:44} {mutant.invariant:4} {verdict.seconds:5.0f}"
            print(f"{row}  {red_ones}", flush=True)
            if verdict.green:
                survivors.append(mutant.name)
                print(f"         stayed green: {', '.join(verdict.green)} ({mutant.breaks})")
    print(
        f"\n{len(jobs) - len(survivors)} killed, {len(survivors)} survived, "
        f"{len(mutants) - len(jobs)} left out; {time.monotonic() - begin:.0f} s"
    )
    return 1 if survivors or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
