#!/usr/bin/env python3
"""Runs all tests, and does all set-up for that itself. Needs Python and a C compiler.

    python3 tests/run.py [pytest arguments]          build pyasync_c, run pytest
    python3 tests/run.py --run COMMAND ...           build pyasync_c, run another command
    python3 tests/run.py --tools COMMAND ...         run a command without building pyasync_c

The command finds, in front of PATH, a virtual environment in build/ with pyasync_c installed in
place and the packages of its `test` extra; `--extra NAME`, given first, adds those of another.
PAC_SANITIZE=address,undefined (or thread) builds the extension with gcc's sanitizers and preloads
their runtime; the other PAC_ variables of setup.py work as well.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036, run before anything is installed
    sys.exit("pyasync_c needs Python 3.11 or newer; this is " + sys.version.split()[0])

import sysconfig
import tomllib

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / f"venv-{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
PYTHON = ENVIRONMENT / "bin" / "python"


def call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT)
    if done.returncode != 0:
        sys.exit(done.returncode)


def pip_install(*arguments: str) -> None:
    call(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


class Stamp:
    """A file in the environment that remembers what a step was done for."""

    def __init__(self, name: str, *reasons: str) -> None:
        self.path = ENVIRONMENT / f"{name}.stamp"
        self.digest = hashlib.sha256("\0".join(reasons).encode()).hexdigest()

    def is_current(self) -> bool:
        return self.path.exists() and self.path.read_text() == self.digest

    def write(self) -> None:
        self.path.write_text(self.digest)


def make_environment() -> None:
    stamp = Stamp("environment", sys.version, sys.base_prefix)
    if stamp.is_current():
        return
    print(f"Making a virtual environment in {ENVIRONMENT.relative_to(ROOT)}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)])
    if made.returncode != 0:
        sys.exit(
            "python -m venv failed; on Debian and Ubuntu: apt install python3-venv python3-dev"
        )
    stamp.write()


def install_requirements(extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = list(project["build-system"]["requires"])
    for extra in extras:
        requirements += project["project"]["optional-dependencies"][extra]
    stamp = Stamp("-".join(["requirements", *extras]), *requirements)
    if not stamp.is_current():
        print("Installing the packages of: " + ", ".join(extras), flush=True)
        pip_install(*requirements)
        stamp.write()


def build_package() -> None:
    # An installation in place stays valid while the code changes: then only the extension has to be
    # brought up to date, which takes no time if no source is newer.
    files = ["pyproject.toml", "setup.py"]
    stamp = Stamp("package", *[(ROOT / name).read_text() for name in files])
    print("Building pyasync_c", flush=True)
    if stamp.is_current():
        call(PYTHON, "setup.py", "--quiet", "build_ext", "--inplace")
    else:
        pip_install("--no-build-isolation", "--no-deps", "--editable", ".")
        stamp.write()


def sanitizer_environment(sanitizers: str) -> dict[str, str]:
    """What a Python needs that is to import an extension built with PAC_SANITIZE=sanitizers."""
    names = {"address": "asan", "undefined": "ubsan", "thread": "tsan"}
    libraries = [names[s] for s in sanitizers.split(",") if s in names]
    if not libraries:
        return {}
    compiler = (sysconfig.get_config_var("CC") or "gcc").split()[0]
    paths = [
        subprocess.check_output([compiler, f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in libraries
    ]
    return {
        "LD_PRELOAD": " ".join(paths),
        "PYTHONMALLOC": "malloc",
        # Python itself leaves memory behind at exit.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    extras = ["test"]
    while arguments[:1] == ["--extra"]:
        extras.append(arguments[1])
        del arguments[:2]
    make_environment()
    install_requirements(extras)
    if arguments[:1] != ["--tools"]:
        build_package()
    if arguments[:1] in (["--run"], ["--tools"]):
        command = arguments[1:]
    else:
        command = ["python", "-m", "pytest", *arguments]
    env = dict(os.environ)
    env["PATH"] = str(ENVIRONMENT / "bin") + os.pathsep + env.get("PATH", "")
    env["VIRTUAL_ENV"] = str(ENVIRONMENT)
    env.pop("PYTHONHOME", None)
    env |= sanitizer_environment(os.environ.get("PAC_SANITIZE", ""))
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execvpe(command[0], command, env)


if __name__ == "__main__":
    sys.exit(main())
