"""`python -m pyasync_c bench`: this runtime beside the others."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyasync_c._benchmarks.harness import Report, Settings

DESCRIPTION = """\
Measure what asynchronous programs are made of, on this runtime and on others.

Each figure is the best of some rounds, in nanoseconds per operation, with how many times as
fast as asyncio that is below it. Frameworks that are not installed are left out."""


def names(text: str) -> list[str]:
    """A list in one argument."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_command(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="compare this runtime with asyncio and others",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--list", action="store_true", help="show the shapes and frameworks there are, and exit")
    add("--shapes", type=names, metavar="A,B", help="what to measure (default: everything)")
    add("--frameworks", type=names, metavar="A,B", help="on whom (default: all installed ones)")
    add("--quick", action="store_true", help="one short round: does it work?")
    add("--rounds", type=int, metavar="N", help="measurements of each (default: 5)")
    add("--seconds", type=float, metavar="S", help="time for each of them (default: 0.25)")
    add("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    add("--plot", type=Path, metavar="FILE.png", help="draw a bar chart (needs matplotlib)")
    add(
        "--load",
        type=Path,
        metavar="FILE",
        help="measure nothing: show what an earlier --json has written",
    )
    parser.set_defaults(command=command, parser=parser)


def command(args: argparse.Namespace) -> int:
    from . import report, report_plot

    parser: argparse.ArgumentParser = args.parser
    if args.list:
        print_list()
        return 0
    if args.plot is not None and not report_plot.is_available():
        parser.error(
            "--plot needs matplotlib, which is not installed: python -m pip install matplotlib"
        )
    if args.plot is not None and args.plot.suffix not in report_plot.FORMATS:
        parser.error(f"--plot draws {', '.join(report_plot.FORMATS)}, not {args.plot.name}")
    for path in (args.json, args.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write {path.name} to")
    found = load(parser, args.load) if args.load is not None else measure(parser, args)
    if found is None:
        return 130
    report.show(found)
    if args.json is not None:
        args.json.write_text(json.dumps(found.to_json(), indent=1) + "\n")
        print(f"wrote {args.json}", file=sys.stderr)
    if args.plot is not None and any(result.samples for result in found.results):
        report_plot.draw(found, args.plot)
        print(f"drew {args.plot}", file=sys.stderr)
    return 1 if any(result.error is not None for result in found.results) else 0


def load(parser: argparse.ArgumentParser, path: Path) -> "Report":
    from pyasync_c._benchmarks.harness import Report

    try:
        return Report.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot load {path}: {error}")


def measure(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "Report | None":
    """None if it was interrupted."""
    from pyasync_c._benchmarks import harness

    from .progress import progress_bar

    shapes, frameworks = chosen(parser, args)
    settings = chosen_settings(parser, args)
    steps = harness.count_steps(shapes, frameworks, settings)
    try:
        with progress_bar(steps) as progress:
            return harness.compare(shapes, frameworks, settings, progress)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return None


def chosen(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """What to measure and on whom, in the order of the tables; ends the program if that is odd."""
    from pyasync_c._benchmarks.frameworks import FRAMEWORKS
    from pyasync_c._benchmarks.shapes import SHAPES

    for option, asked, known in (
        ("--shapes", args.shapes, list(SHAPES)),
        ("--frameworks", args.frameworks, list(FRAMEWORKS)),
    ):
        for name in asked or []:
            if name not in known:
                parser.error(f"argument {option}: no {name!r}; there are {', '.join(known)}")
    for name in args.frameworks or []:
        if FRAMEWORKS[name].version() is None:
            parser.error(f"argument --frameworks: {name} cannot run here; see --list")
    return (
        [name for name in SHAPES if not args.shapes or name in args.shapes],
        [
            name
            for name, framework in FRAMEWORKS.items()
            if (name in args.frameworks if args.frameworks else framework.version() is not None)
        ],
    )


def chosen_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "Settings":
    from pyasync_c._benchmarks.harness import Settings

    settings = Settings.quick() if args.quick else Settings()
    if args.rounds is not None:
        settings.rounds = args.rounds
    if args.seconds is not None:
        settings.seconds = args.seconds
    if settings.rounds < 1:
        parser.error("argument --rounds: at least 1")
    if not 0 < settings.seconds <= 60:
        parser.error("argument --seconds: more than 0, at most 60")
    return settings


def print_list() -> None:
    from pyasync_c._benchmarks.frameworks import FRAMEWORKS
    from pyasync_c._benchmarks.shapes import SHAPES

    print("shapes")
    for shape in SHAPES.values():
        only = "" if len(shape.dialects) > 1 else f", {shape.dialects[0]}'s names only"
        print(f"  {shape.name:<18} {shape.title} (ns per {shape.operation}{only})")
    print("\nframeworks")
    for framework in FRAMEWORKS.values():
        version = framework.version()
        if version is None and framework.package is not None:
            version = f"not installed: python -m pip install {framework.package}"
        elif version is None:
            version = "needs Python 3.12"
        print(f"  {framework.name:<18} {framework.title} ({version})")
