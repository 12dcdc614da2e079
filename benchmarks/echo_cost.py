"""What a request costs an echo server in system calls and in instructions: no clock is in it.

    python -m benchmarks.echo_cost [--shapes NAMES] [--frameworks NAMES] [--requests N]
                                   [--calls] [--instructions]

Each server runs in a fresh process under strace (--calls) or valgrind's callgrind (--instructions),
once with few requests and once with many: the difference is what the further ones cost. So neither
start nor end is counted, and a change of one per cent is seen on the busiest machine. Neither of
the two options means both. --profile keeps callgrind's file of each, for callgrind_annotate.
"""

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .frameworks import FRAMEWORKS
from .shapes import SHAPES, run

FEW = 0.2
"""So many of the requests have the first run of two."""


def measured(tool: list[str], shape: str, framework: str, n: int) -> None:
    """Run one measurement under a tool, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.echo_cost", "--one", shape, framework, str(n)]
    if __package__ != "benchmarks":
        command[2] = f"{__package__}.echo_cost"
    path = os.pathsep.join(filter(None, [os.path.abspath(p) for p in sys.path]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    done = subprocess.run([*tool, *command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{tool[0]} has failed:\n{done.stderr[-2000:]}")


def count_calls(shape: str, framework: str, n: int) -> collections.Counter[str]:
    """System calls of the server's thread, by name."""
    with tempfile.NamedTemporaryFile("r") as table:
        measured(["strace", "-c", "-o", table.name], shape, framework, n)
        found: collections.Counter[str] = collections.Counter()
        for line in table:
            match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if match is not None and match[2] != "total":
                found[match[2]] = int(match[1])
        return found


def count_instructions(shape: str, framework: str, n: int, profile: Path) -> int:
    options = ["--tool=callgrind", f"--callgrind-out-file={profile}", "--trace-children=no"]
    measured(["valgrind", *options], shape, framework, n)
    match = re.search(r"^(?:totals|summary): (\d+)", profile.read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError("callgrind has written no total")
    return int(match[1])


def show_calls(shape: str, framework: str, few: int, many: int) -> None:
    more = count_calls(shape, framework, many)
    more.subtract(count_calls(shape, framework, few))
    each = {name: n / (many - few) for name, n in more.most_common()}
    told = [f"{name} {n:.2f}" for name, n in each.items() if n >= 0.005]
    title = FRAMEWORKS[framework].title
    print(f"{shape:<28}{title:<30}{sum(each.values()):>9.2f} calls: {', '.join(told)}", flush=True)


def show_instructions(shape: str, framework: str, few: int, many: int, keep: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "profile")
        first = count_instructions(shape, framework, few, profile)
        each = (count_instructions(shape, framework, many, profile) - first) / (many - few)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(profile, keep / f"{shape}.{framework}.callgrind")
    title = FRAMEWORKS[framework].title
    print(f"{shape:<28}{title:<30}{each:>9,.0f} instructions", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="echo_cost", description=(__doc__ or "").split("\n")[0])
    default = "echo_protocol_tcp_1k_10,echo_streams_tcp_1k_10"
    parser.add_argument("--shapes", default=default, metavar="NAMES")
    default = "pyasync_c,pyasync_c-asyncio,asyncio,uvloop,rloop"
    parser.add_argument("--frameworks", default=default, metavar="NAMES")
    parser.add_argument("--requests", type=int, default=5000, metavar="N")
    parser.add_argument("--calls", action="store_true", help="count system calls (strace)")
    parser.add_argument("--instructions", action="store_true", help="and these (valgrind)")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="keep callgrind's files there"
    )
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one is not None:
        shape, framework, n = args.one
        run(shape, framework, int(n))
        return 0
    both = args.calls == args.instructions
    wanted = {"strace": args.calls or both, "valgrind": args.instructions or both}
    for program, is_wanted in wanted.items():
        if is_wanted and shutil.which(program) is None:
            parser.error(f"{program} is not installed")
    for shape in args.shapes.split(","):
        if shape not in SHAPES or SHAPES[shape].echo is None:
            parser.error(f"no such echo server: {shape}")
    for name in args.frameworks.split(","):
        if name not in FRAMEWORKS:
            parser.error(f"no such framework: {name}")
    few, many = max(1, int(args.requests * FEW)), args.requests
    for shape in args.shapes.split(","):
        for name in args.frameworks.split(","):
            if not SHAPES[shape].runs_on(name) or FRAMEWORKS[name].version() is None:
                continue
            if wanted["strace"]:
                show_calls(shape, name, few, many)
            if wanted["valgrind"]:
                show_instructions(shape, name, few, many, args.profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
