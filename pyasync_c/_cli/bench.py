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

Each figure is the best of some rounds, in nanoseconds per operation or in requests per second,
with how many times as fast as asyncio that is below it. pyasync_c is a program in this package's
own names; pyasync_c-asyncio is an unmodified asyncio program on pyasync_c.new_event_loop, the same
code as on asyncio, uvloop and rloop. Frameworks that are not installed are left out."""


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
    add(
        "--shapes",
        type=names,
        metavar="A,B",
        help="what to measure: shapes, or the groups tasks, tools and echo, which are the default, "
        "and echo_more",
    )
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
        help="measure nothing: show what an earlier --json has written, or --shapes of it",
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
    found = load(parser, args) if args.load is not None else measure(parser, args)
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


def load(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "Report":
    from pyasync_c._benchmarks.harness import Report

    try:
        found = Report.from_json(json.loads(args.load.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"cannot load {args.load}: {error}")
    if args.shapes:
        shapes = chosen_shapes(parser, args.shapes)
        found.results = [result for result in found.results if result.shape in shapes]
    return found


def measure(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "Report | None":
    """None if it was interrupted."""
    from pyasync_c._benchmarks import harness

    from .progress import progress_bar

    shapes = chosen_shapes(parser, args.shapes)
    frameworks = chosen_frameworks(parser, args.frameworks)
    settings = chosen_settings(parser, args)
    steps = harness.count_steps(shapes, frameworks, settings)
    try:
        with progress_bar(steps) as progress:
            return harness.compare(shapes, frameworks, settings, progress)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return None


def chosen_shapes(parser: argparse.ArgumentParser, asked: list[str] | None) -> list[str]:
    """What to measure, in the order of the tables; ends the program if that is odd."""
    from pyasync_c._benchmarks.shapes import GROUPS, ONLY_IF_ASKED, SHAPES

    check_known(parser, "--shapes", asked, [*GROUPS, *SHAPES])
    wanted = asked or [group for group in GROUPS if group not in ONLY_IF_ASKED]
    return [name for name, shape in SHAPES.items() if name in wanted or shape.group in wanted]


def chosen_frameworks(parser: argparse.ArgumentParser, asked: list[str] | None) -> list[str]:
    """On whom to measure, in the order of the tables; ends the program if that is odd."""
    from pyasync_c._benchmarks.frameworks import FRAMEWORKS

    check_known(parser, "--frameworks", asked, list(FRAMEWORKS))
    for name in asked or []:
        if FRAMEWORKS[name].version() is None:
            parser.error(f"argument --frameworks: {name} cannot run here; see --list")
    return [
        name
        for name, framework in FRAMEWORKS.items()
        if (name in asked if asked else framework.version() is not None)
    ]


def check_known(
    parser: argparse.ArgumentParser, option: str, asked: list[str] | None, known: list[str]
) -> None:
    for name in asked or []:
        if name not in known:
            parser.error(f"argument {option}: no {name!r}; there are {', '.join(known)}")


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
    from pyasync_c._benchmarks.shapes import GROUPS, SHAPES

    for group, about in GROUPS.items():
        print(f"{group}: {about}")
        for shape in SHAPES.values():
            if shape.group == group:
                only = "" if len(shape.dialects) > 1 else f", {shape.dialects[0]}'s names only"
                print(f"  {shape.name:<18} {shape.title} ({shape.unit}{only})")
    print("\nframeworks")
    for framework in FRAMEWORKS.values():
        version = framework.version()
        if version is None and framework.package is not None:
            version = f"not installed: python -m pip install {framework.package}"
        elif version is None:
            version = "needs Python 3.12"
        print(f"  {framework.name:<18} {framework.title} ({version})")
