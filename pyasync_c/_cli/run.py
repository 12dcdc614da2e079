"""`python -m pyasync_c run`: somebody's own program on this runtime."""

import argparse
import asyncio
import inspect
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = """\
Run a program on this runtime, as Python itself would run it.

FILE.py is run as a script, in which every event loop that asyncio makes is one of ours: for
asyncio.run, asyncio.Runner and asyncio.new_event_loop. A loop that the program chooses by
name stays what it is.
MODULE:FUNC names an async function, which pyasync_c.run runs without arguments; what it
returns becomes the exit code, as for an entry point of a package.
Both find the remaining arguments in sys.argv."""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a program of yours on this runtime",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="asyncio's debug mode")
    parser.add_argument("program", metavar="FILE.py|MODULE:FUNC")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="for it alone")
    parser.set_defaults(command=command, parser=parser)


def command(args: argparse.Namespace) -> int:
    parser: argparse.ArgumentParser = args.parser
    program: str = args.program
    if args.debug:
        os.environ["PYTHONASYNCIODEBUG"] = "1"  # for whatever loop the program makes
    if os.path.exists(program):
        return run_file(program, args.arguments)
    module, colon, function = program.partition(":")
    if colon and module and function:
        return run_function(parser, module, function, args.arguments, args.debug or None)
    # As Python itself says it.
    where = os.path.abspath(program)
    print(f"{parser.prog}: can't open file {where!r}: No such file or directory", file=sys.stderr)
    return 2


def run_file(path: str, arguments: list[str]) -> int:
    """Run a script, or a directory or zip file with a __main__.py in it."""
    path = os.path.abspath(path)
    sys.argv = [path, *arguments]
    if os.path.isfile(path) and not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(path)
    use_our_event_loops()
    with own_traceback():
        runpy.run_path(path, run_name="__main__")
    return 0


def run_function(
    parser: argparse.ArgumentParser,
    module: str,
    function: str,
    arguments: list[str],
    debug: bool | None,
) -> int:
    import pyasync_c

    sys.argv = [f"{module}:{function}", *arguments]
    use_our_event_loops()
    with own_traceback():
        __import__(module)
    target: Any = sys.modules[module]
    for name in function.split("."):
        target = getattr(target, name, None)
    if not inspect.iscoroutinefunction(target):
        what = "has no" if target is None else "is no async function:"
        parser.error(f"{module} {what} {function}")
    with own_traceback():
        sys.exit(pyasync_c.run(target(), debug=debug))


def use_our_event_loops() -> None:
    """From now on asyncio makes our event loops where it would make its own."""
    from pyasync_c import new_event_loop as ours

    if sys.version_info >= (3, 14):
        # Policies are on their way out, and get_event_loop() makes no loop any more.
        for module in (asyncio, asyncio.events):
            module.new_event_loop = ours  # type: ignore[attr-defined]
        return

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return ours()

    asyncio.set_event_loop_policy(Policy())


@contextmanager
def own_traceback() -> "Iterator[None]":
    """What is raised inside and caught by nobody shows the program's own frames alone."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook = partial(without_our_frames, sys.excepthook)
        raise


def without_our_frames(
    hook: Callable[..., object],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    """Call `hook` with a traceback that begins where the program does."""
    while traceback is not None and is_ours(traceback):
        traceback = traceback.tb_next
    hook(kind, error.with_traceback(traceback), traceback)


def is_ours(traceback: TracebackType) -> bool:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = traceback.tb_frame.f_code.co_filename
    if path.startswith("<frozen "):  # runpy and importlib, which lead to the program
        return True
    return os.path.abspath(path).startswith(package + os.sep)
