"""The tables that bench prints: rich's where rich is installed, else plain text."""

import math
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pyasync_c._benchmarks.frameworks import BASELINE, FRAMEWORKS
from pyasync_c._benchmarks.harness import Report, Result
from pyasync_c._benchmarks.shapes import FLOOR_SHAPES, FLOOR_TARGET, GROUPS, SHAPES, Shape

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


def format_cost(shape: Shape, ns: float) -> str:
    """What one operation of the shape took, in the shape's unit."""
    if shape.is_rate and ns > 0:
        return f"{1e9 / ns:,.0f}".replace(",", " ")
    return format_ns(ns)


def format_ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×"


def ratio_to_baseline(report: Report, result: Result, cost: str = "best_ns") -> float:
    """How many times as fast as asyncio; not a number if one of the two was not measured.

    `cost` is what is compared: the attribute best_ns or cpu_ns.
    """
    baseline = report.result(result.shape, BASELINE)
    if baseline is None or not result.samples or not getattr(result, cost) > 0:
        return math.nan
    ratio: float = getattr(baseline, cost) / getattr(result, cost)
    return ratio


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
    return Cell(format_cost(SHAPES[shape], result.best_ns), format_ratio(ratio) + mark, holds)


def cpu_cell(report: Report, shape: str, framework: str) -> Cell:
    result = report.result(shape, framework)
    if result is None or not result.samples:
        return Cell(MISSING)
    ratio = ratio_to_baseline(report, result, "cpu_ns")
    return Cell(format_ns(result.cpu_ns), format_ratio(ratio))


def latency_cell(report: Report, shape: str, framework: str) -> Cell:
    """Half of the operations above, 99 of a hundred below; of the best round."""
    result = report.result(shape, framework)
    best = None if result is None else result.best
    if best is None or best.p50_ns is None or best.p99_ns is None:
        return Cell(MISSING)
    return Cell(f"{best.p50_ns / 1000:.0f}", f"{best.p99_ns / 1000:.0f}")


def target_cell(shape: str, frameworks: list[str]) -> Cell:
    """What ours has to reach: in its own names above, in asyncio's names below."""
    texts = {"native": "", "asyncio": ""}
    for name in frameworks:
        target = SHAPES[shape].target_of(name)
        if FRAMEWORKS[name].is_ours:
            texts[FRAMEWORKS[name].dialect] = MISSING if target is None else f"≥ {target:g}×"
    return Cell(texts["native"], texts["asyncio"])


def headings(group: str, frameworks: list[str]) -> list[str]:
    has_targets = any(
        SHAPES[shape].target_of(name) is not None
        for shape in shapes_of(group)
        for name in frameworks
    )
    return [*frameworks, *(["target"] if has_targets else [])]


def shapes_of(group: str) -> list[str]:
    return [name for name, shape in SHAPES.items() if shape.group == group]


def rows(report: Report, group: str, frameworks: list[str]) -> list[list[Cell]]:
    """One for each shape that was measured, and one for each of its details below that."""
    has_target = len(headings(group, frameworks)) > len(frameworks)
    found = []
    for name in shapes_of(group):
        results = [result for result in map(partial(report.result, name), frameworks) if result]
        if not results:
            continue
        shape = SHAPES[name]
        kinds = [(Cell(shape.title, shape.unit), result_cell)]
        if shape.shows_cpu:
            kinds.append((Cell("  processor time", f"  ns per {shape.operation}"), cpu_cell))
        if any(result.best and result.best.p50_ns is not None for result in results):
            kinds.append((Cell("  half answered within, µs", "  99 of 100 within"), latency_cell))
        for title, cell_of in kinds:
            row = [title, *(cell_of(report, name, framework) for framework in frameworks)]
            if has_target:
                row.append(target_cell(name, frameworks) if cell_of is result_cell else Cell(""))
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
    if any(result.framework == "pyasync_c-asyncio" for result in report.results):
        lines.append("pyasync_c-asyncio: unmodified asyncio code on pyasync_c.new_event_loop")
    lines += [f"{r.shape} on {r.framework} failed: {r.error}" for r in report.results if r.error]
    about = report.about
    packages = [f"{name} {about[name]}" for name in about if name not in ("python", "machine")]
    lines.append(", ".join([about["python"], about["machine"], *packages]))
    return lines


def tables(report: Report) -> list[tuple[str, list[str]]]:
    """The group and the frameworks of each table: those that were measured."""
    found = []
    for group in GROUPS:
        shapes = shapes_of(group)
        measured = {result.framework for result in report.results if result.shape in shapes}
        if measured:
            found += [(group, some) for some in fitting([f for f in FRAMEWORKS if f in measured])]
    return found


def show(report: Report) -> None:
    """Print the tables and their notes to standard output."""
    try:
        import rich  # noqa: F401
    except ImportError:
        show_plain(report)
    else:
        show_rich(report)


def fitting(frameworks: list[str]) -> list[list[str]]:
    """The columns of one table, or of several below each other in a narrow terminal."""
    if not sys.stdout.isatty():
        return [frameworks]
    fit = max(2, (shutil.get_terminal_size().columns - TITLE_WIDTH) // COLUMN_WIDTH - 1)
    return [frameworks[i : i + fit] for i in range(0, len(frameworks), fit)]


def show_plain(report: Report) -> None:
    for group, frameworks in tables(report):
        titles = headings(group, frameworks)
        widths = [max(COLUMN_WIDTH, len(title) + 2) for title in titles]
        print(GROUPS[group])
        print(" " * TITLE_WIDTH + "".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
        for row in rows(report, group, frameworks):
            for line in (0, 1):
                cells = "".join(f"{c[line]!s:>{w}}" for c, w in zip(row[1:], widths, strict=True))
                print(f"{row[0][line]!s:<{TITLE_WIDTH}}{cells}".rstrip())
            print()
    print("\n".join(notes(report)))


def show_rich(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width; what is too wide for eighty columns would be cut there.
        console.width = TITLE_WIDTH + 2 * COLUMN_WIDTH * (len(FRAMEWORKS) + 1)
    for group, frameworks in tables(report):
        console.print(Text(f"\n  {GROUPS[group]}", "bold"))
        console.print(rich_table(report, group, frameworks))
    for line in notes(report):
        console.print(Text(line, "dim"), soft_wrap=True)


def rich_table(report: Report, group: str, frameworks: list[str]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), leading=1)
    table.add_column("", no_wrap=True)
    for name in frameworks:
        heading = FRAMEWORKS[name].title.replace(", ", "\n")
        style = "bold cyan" if FRAMEWORKS[name].is_ours else ""
        table.add_column(heading, justify="right", header_style=style)
    for _ in headings(group, frameworks)[len(frameworks) :]:
        table.add_column("target", justify="right", style="dim")
    colours = {True: "green", False: "red", None: ""}
    for row in rows(report, group, frameworks):
        cells = [Text(row[0].top + "\n").append(row[0].bottom, "dim")]
        for cell in row[1:]:
            style = colours[cell.holds]
            cells.append(Text(cell.top + "\n", style).append(cell.bottom, style or "dim"))
        table.add_row(*cells)
    return table
