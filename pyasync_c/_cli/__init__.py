"""The command line. Nothing of it is imported by `import pyasync_c`."""

import argparse
import os
import sys
from collections.abc import Sequence

from . import bench, run, tour


def version() -> str:
    """The line that --version prints."""
    import pyasync_c

    return f"pyasync_c {pyasync_c.__version__}, Python {sys.version.split()[0]}"


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyasync_c",
        description="A Tokio-grade async runtime written in C, for Python.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (run, tour, bench):
        module.add_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it returns is the exit code."""
    parser = new_parser()
    args = parser.parse_args(arguments)
    if args.version:
        print(version())
        return 0
    if not hasattr(args, "command"):
        parser.print_help()
        return 0
    try:
        code: int = args.command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        if args.command is run.command:
            raise  # the user's program is to fail as it would under Python
        # Whoever read what we print has seen enough. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
