"""`python -m pyasync_c tour`: ten ideas behind an async runtime, live.

The ideas are the functions of tour_concepts.py: what is shown is the source of the very function
that then runs.
"""

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

DESCRIPTION = """\
Ten ideas behind an async runtime, a screen each: the code, and then what it prints when it is run.
Every number in it is counted while it runs."""

WIDTH = 80


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "tour", help="see the ten ideas behind it at work", description=DESCRIPTION
    )
    parser.add_argument(
        "--only", type=int, metavar="N", choices=range(1, 11), help="show only number N, of 1 to 10"
    )
    parser.add_argument(
        "--no-pause", action="store_true", help="don't wait for Enter between the screens"
    )
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    from .tour_concepts import CONCEPTS

    pauses = not args.no_pause and sys.stdin.isatty() and sys.stdout.isatty()
    numbers = range(1, len(CONCEPTS) + 1) if args.only is None else [args.only]
    try:
        for number in numbers:
            show(number, CONCEPTS[number - 1])
            if pauses and number != numbers[-1]:
                input("\nEnter goes on, Ctrl-C ends. ")
                print("\x1b[2J\x1b[3J\x1b[H", end="")
    except (KeyboardInterrupt, EOFError):
        print()
        return 130
    return 0


def show(number: int, concept: Callable[[], None]) -> None:
    """One screen: the idea, the code, what it prints."""
    title, _, explanation = inspect.cleandoc(concept.__doc__ or "").partition("\n")
    colours = sys.stdout.isatty()
    bold, dim, plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colours else ("", "", "")
    print(f"\n{bold}{number}. {title}{plain}\n")
    print(textwrap.fill(explanation, WIDTH, initial_indent="   ", subsequent_indent="   "))
    print(f"\n{dim}{' code '.center(WIDTH, '─')}{plain}")
    print_code(source_without_docstring(concept), colours)
    print(f"{dim}{' it prints '.center(WIDTH, '─')}{plain}", flush=True)
    concept()
    sys.stdout.flush()


def source_without_docstring(function: Callable[..., object]) -> str:
    """What stands on the screen: the docstring is there already, as text."""
    lines = inspect.getsource(function).splitlines()
    definition = ast.parse("\n".join(lines)).body[0]
    assert isinstance(definition, ast.FunctionDef)
    docstring = definition.body[0]
    assert docstring.end_lineno is not None
    body = "\n".join(lines[docstring.end_lineno :])
    return "\n".join([*lines[: docstring.lineno - 1], body.lstrip("\n")])


def print_code(code: str, colours: bool) -> None:
    if colours:
        try:
            from rich.console import Console
            from rich.syntax import Syntax
        except ImportError:
            pass
        else:
            theme, back = "ansi_dark", "default"
            syntax = Syntax(code, "python", theme=theme, background_color=back, word_wrap=True)
            Console().print(syntax)
            return
    print(code)
