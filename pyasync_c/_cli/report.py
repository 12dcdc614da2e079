"""The table that bench prints: rich's where rich is installed, else plain text."""

import math
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

from pyasync_c._benchmarks.frameworks import BASELINE, FRAMEWORKS
from pyasync_c._benchmarks.harness import Report, Result
from pyasync_c._benchmarks.shapes import FLOOR_SHAPES, FLOOR_TARGET, SHAPES

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "–"
TITLE_WIDTH = 30
COLUMN_WIDTH = 12


class Cell(NamedTuple):
    """Two lines of text; whether what was promised is kept, None if nothing was."""

    top: str
    bottom: str = ""
    holds: bool | None = None


def format_ns(ns: float) -> str:
    """Three digits that count, and thousands set apart."""
    if math.isnan(ns):
        return MISSING
    if abs(ns) < 100:
        return f"{ns:.1f}"
    return f"{ns:,.0f}".replace(",", " ")


def format_ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×"


def ratio_to_baseline(report: Report, result: Result) -> float:
    """How many times as fast as asyncio; not a number if one of the two was not measured."""
    baseline = report.result(result.shape, BASELINE)
    if baseline is None or not result.samples or not result.best_ns > 0:
        return math.nan
    return baseline.best_ns / result.best_ns


def result_cell(report: Report, shape: str, framework: str) -> Cell:
    result = report.result(shape, framework)
    if result is None:
        return Cell(MISSING)
    if result.error is not None:
        return Cell("failed", "see below", False)
    ratio = ratio_to_baseline(report, result)
    target = SHAPES[shape].target_of(framework)
    holds = None if target is None or math.isnan(ratio) else ratio >= target
    mark = {True: " ✓", False: " ✗", None: ""}[holds]
    return Cell(format_ns(result.best_ns), format_ratio(ratio) + mark, holds)


def target_cell(shape: str, frameworks: list[str]) -> Cell:
    """What ours has to reach: in its own names above, in asyncio's names below."""
    texts = {"native": "", "asyncio": ""}
    for name in frameworks:
        target = SHAPES[shape].target_of(name)
        if FRAMEWORKS[name].is_ours:
            texts[FRAMEWORKS[name].dialect] = MISSING if target is None else f"≥ {target:g}×"
    return Cell(texts["native"], texts["asyncio"])


def headings(frameworks: list[str]) -> list[str]:
    targets = ["target"] if any(FRAMEWORKS[name].is_ours for name in frameworks) else []
    return [*frameworks, *targets]


def rows(report: Report, frameworks: list[str]) -> list[list[Cell]]:
    found = []
    for shape in SHAPES.values():
        if any(report.result(shape.name, name) for name in frameworks):
            row = [Cell(shape.title, f"ns per {shape.operation}")]
            row += [result_cell(report, shape.name, name) for name in frameworks]
            if len(headings(frameworks)) > len(frameworks):
                row.append(target_cell(shape.name, frameworks))
            found.append(row)
    return found


def notes(report: Report) -> list[str]:
    """What stands below the table."""
    lines = []
    if report.floor_ns is not None:
        text = f"floor: {report.floor_ns:.1f} ns to send into a coroutine that yields, alone"
        for shape in sorted(FLOOR_SHAPES, reverse=True):
            result = report.result(shape, "pyasync_c")
            if result is not None and result.samples:
                ratio = result.best_ns / report.floor_ns
                mark = "✓" if ratio <= FLOOR_TARGET else "✗"
                text += f"; {shape} is {ratio:.2f}× that (at most {FLOOR_TARGET}×) {mark}"
        lines.append(text)
    lines += [f"{r.shape} on {r.framework} failed: {r.error}" for r in report.results if r.error]
    about = report.about
    packages = [f"{name} {about[name]}" for name in about if name not in ("python", "machine")]
    lines.append(", ".join([about["python"], about["machine"], *packages]))
    return lines


def show(report: Report) -> None:
    """Print the table and its notes to standard output."""
    measured = {result.framework for result in report.results}
    frameworks = [name for name in FRAMEWORKS if name in measured]
    try:
        import rich  # noqa: F401
    except ImportError:
        show_plain(report, frameworks)
    else:
        show_rich(report, frameworks)


def fitting(frameworks: list[str]) -> list[list[str]]:
    """The columns of one table, or of several below each other in a narrow terminal."""
    if not sys.stdout.isatty():
        return [frameworks]
    fit = max(2, (shutil.get_terminal_size().columns - TITLE_WIDTH) // COLUMN_WIDTH - 1)
    return [frameworks[i : i + fit] for i in range(0, len(frameworks), fit)]


def show_plain(report: Report, frameworks: list[str]) -> None:
    for some in fitting(frameworks):
        titles = headings(some)
        widths = [max(COLUMN_WIDTH, len(title) + 2) for title in titles]
        print(" " * TITLE_WIDTH + "".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
        for row in rows(report, some):
            for line in (0, 1):
                cells = "".join(f"{c[line]!s:>{w}}" for c, w in zip(row[1:], widths, strict=True))
                print(f"{row[0][line]!s:<{TITLE_WIDTH}}{cells}".rstrip())
            print()
    print("\n".join(notes(report)))


def show_rich(report: Report, frameworks: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width; what is too wide for eighty columns would be cut there.
        console.width = TITLE_WIDTH + 2 * COLUMN_WIDTH * (len(frameworks) + 1)
    for some in fitting(frameworks):
        console.print(rich_table(report, some))
    for line in notes(report):
        console.print(Text(line, "dim"), soft_wrap=True)


def rich_table(report: Report, frameworks: list[str]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), leading=1)
    table.add_column("", no_wrap=True)
    for name in frameworks:
        heading = FRAMEWORKS[name].title.replace(", ", "\n")
        style = "bold cyan" if FRAMEWORKS[name].is_ours else ""
        table.add_column(heading, justify="right", header_style=style)
    for _ in headings(frameworks)[len(frameworks) :]:
        table.add_column("target", justify="right", style="dim")
    colours = {True: "green", False: "red", None: ""}
    for row in rows(report, frameworks):
        cells = [Text(row[0].top + "\n").append(row[0].bottom, "dim")]
        for cell in row[1:]:
            style = colours[cell.holds]
            cells.append(Text(cell.top + "\n", style).append(cell.bottom, style or "dim"))
        table.add_row(*cells)
    return table
