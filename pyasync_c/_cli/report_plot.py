"""The bar chart that bench draws: a panel for each shape, the fastest on top, ours in colour."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pyasync_c._benchmarks.frameworks import BASELINE, FRAMEWORKS
from pyasync_c._benchmarks.harness import Report, Result
from pyasync_c._benchmarks.shapes import SHAPES, Shape

from .report import format_cost, format_ratio

INK = "#1f2933"
FAINT = "#7b8794"
OTHERS = "#d3d9e0"
NATIVE = "#0b7a75"
ASYNCIO_NAMES = "#6bbfb2"
TARGET = "#d1495b"
COLUMNS_MAX = 3
BAR_INCHES = 0.27
PANEL_INCHES = 5.0
NAMES_INCHES = 1.5
PANEL_GAP_INCHES = 0.1
LETTER_INCHES = 0.077
HEADER_INCHES = 1.3
GAP_INCHES = 0.62
FORMATS = (".png", ".svg", ".pdf")
SHORT_NAMES = {"pyasync_c-asyncio": "pyasync_c loop", "asyncio-eager": "asyncio, eager"}
LEGEND = "pyasync_c loop: an unmodified asyncio program on our event loop"


class Bar(NamedTuple):
    """One framework in one panel."""

    framework: str
    length: float
    label: str
    target: float | None


def is_available() -> bool:
    return find_spec("matplotlib") is not None


def colour(framework: str) -> str:
    if not FRAMEWORKS[framework].is_ours:
        return OTHERS
    return NATIVE if FRAMEWORKS[framework].dialect == "native" else ASYNCIO_NAMES


def bars(report: Report, shape: Shape) -> list[Bar]:
    """The longest first. They show how many times as fast as asyncio; without it, speeds."""
    baseline = report.result(shape.name, BASELINE)
    found = []
    for result in report.results:
        if result.shape == shape.name and result.samples and result.best_ns > 0:
            found.append(bar(shape, result, baseline))
    return sorted(found, key=lambda bar: bar.length, reverse=True)


def cost_of(shape: Shape, result: Result) -> float:
    return result.cpu_ns if shape.is_rate else result.best_ns


def bar(shape: Shape, result: Result, baseline: Result | None) -> Bar:
    figure = f"{format_cost(shape, result.best_ns)}{'/s' if shape.is_rate else ' ns'}"
    if shape.shows_cpu:
        figure += f", CPU {result.cpu_ns / 1000:.1f} µs"
    # Of a server it is its own time that is compared: by the clock its client is measured with it.
    cost = cost_of(shape, result)
    if baseline is None or not baseline.samples:
        return Bar(result.framework, 1e9 / cost, figure, None)
    ratio = cost_of(shape, baseline) / cost
    target = shape.target_of(result.framework)
    return Bar(result.framework, ratio, f"{format_ratio(ratio)}   {figure}", target)


def draw_panel(axes: Any, shape: Shape, panel: list[Bar], slots: int) -> None:
    """`slots` is how many bars the tallest panel beside this one has: all are equally thick."""
    lengths = [bar.length for bar in panel]
    edge = max([*lengths, *[bar.target or 0 for bar in panel]])
    axes.barh(range(len(panel)), lengths, height=0.72, color=[colour(b.framework) for b in panel])
    for i, bar in enumerate(panel):
        ours = FRAMEWORKS[bar.framework].is_ours
        name = SHORT_NAMES.get(bar.framework, bar.framework)
        weight = "bold" if ours else "normal"
        style = {"va": "center", "fontsize": 9, "color": INK if ours else FAINT, "weight": weight}
        axes.text(-0.015 * edge, i, name, ha="right", **style)
        end = bar.length
        if bar.target is not None:
            axes.plot([bar.target] * 2, [i - 0.44, i + 0.44], color=TARGET, linewidth=1.6)
            # A mark just behind the bar's end would run through the figure.
            end = max(end, bar.target) if bar.target < bar.length + 0.45 * edge else end
        axes.text(end + 0.015 * edge, i, bar.label, ha="left", **style)
    label_inches = max(len(bar.label) for bar in panel) * LETTER_INCHES
    bars_inches = PANEL_INCHES - NAMES_INCHES - PANEL_GAP_INCHES
    axes.set_xlim(0, edge * bars_inches / (bars_inches - label_inches))
    axes.set_ylim(slots - 0.5, -0.5)
    axes.set_title(shape.title, loc="left", fontsize=11.5, weight="bold", color=INK, pad=6)
    axes.axis("off")


def subtitle(report: Report, panels: list[list[Bar]]) -> str:
    """Two lines: how to read it, how it was measured."""
    rounds = max(len(result.samples) for result in report.results)
    bars = [bar for panel in panels for bar in panel]
    rates = {SHAPES[result.shape].is_rate for result in report.results}
    operation = {True: "requests per second", False: "time per operation"}
    reading = ["longer is faster", f"behind it {' or '.join(operation[r] for r in sorted(rates))}"]
    if any(bar.target is not None for bar in bars):
        reading.append("red: our target")
    if any(bar.framework == "pyasync_c-asyncio" for bar in bars):
        reading.append(LEGEND)
    if any(rates):
        reading[0] = "longer: less processor time in the server"
    measured = [f"best of {rounds} rounds" if rounds > 1 else "one round"]
    measured += [report.about["python"], report.about["machine"]]
    return "\n".join("   ·   ".join(parts) for parts in (reading, measured))


def draw_header(figure: Any, report: Report, panels: list[list[Bar]]) -> None:
    width, height = figure.get_size_inches()
    has_baseline = any(result.framework == BASELINE for result in report.results)
    title = "How many times as fast as asyncio" if has_baseline else "How fast"
    figure.text(0.3 / width, 1 - 0.42 / height, title, fontsize=17, weight="bold", color=INK)
    style = {"fontsize": 9.5, "color": FAINT, "va": "top", "linespacing": 1.5}
    figure.text(0.3 / width, 1 - 0.55 / height, subtitle(report, panels), **style)


def draw(report: Report, path: Path) -> None:
    """Write the chart to `path`; the name's ending chooses the format.

    Raises ValueError if nothing was measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(shape, found) for shape in SHAPES.values() if (found := bars(report, shape))]
    if not panels:
        raise ValueError("nothing was measured, so there is nothing to draw")
    columns = min(COLUMNS_MAX, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    slots = [max(len(found) for _, found in line) for line in lines]

    width = max(columns * PANEL_INCHES, 10.5)
    height = HEADER_INCHES + sum(slots) * BAR_INCHES + (len(lines) - 1) * GAP_INCHES + 0.25
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    draw_header(figure, report, [found for _, found in panels])
    bottom = height - HEADER_INCHES
    for line, n in zip(lines, slots, strict=True):
        bottom -= n * BAR_INCHES
        for column, (shape, found) in enumerate(line):
            left = column * PANEL_INCHES + NAMES_INCHES
            right = left + PANEL_INCHES - NAMES_INCHES - PANEL_GAP_INCHES
            axes = figure.add_axes(
                (left / width, bottom / height, (right - left) / width, n * BAR_INCHES / height)
            )
            draw_panel(axes, shape, found, n)
        bottom -= GAP_INCHES
    figure.savefig(path, dpi=150)
