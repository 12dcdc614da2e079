"""A progress bar on standard error: rich's where rich is installed, else a line of our own."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH = 24


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Gives a function to be called before each of `total` steps, with what the step is.

    Shows nothing unless a human is watching.
    """
    if not sys.stderr.isatty():
        yield lambda doing: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield PlainBar(total).step
        print(f"\r\x1b[K{total} measurements", file=sys.stderr)
        return
    columns = (
        BarColumn(WIDTH),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        done = -1

        def step(doing: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, completed=done, description=doing)

        yield step


class PlainBar:
    """One line that is written over and over."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = -1
        self.begin = time.monotonic()

    def step(self, doing: str) -> None:
        self.done += 1
        filled = WIDTH * self.done // max(1, self.total)
        bar = "#" * filled + "." * (WIDTH - filled)
        left = ""
        if self.done > 0:
            elapsed = time.monotonic() - self.begin
            left = f" {elapsed / self.done * (self.total - self.done):.0f} s left,"
        print(
            f"\r\x1b[K[{bar}] {self.done}/{self.total},{left} {doing}"[:110],
            end="",
            file=sys.stderr,
            flush=True,
        )
