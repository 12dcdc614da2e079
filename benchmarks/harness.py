"""Takes the measurements.

Each framework measures each shape in a process of its own, which lives as long as that shape is
measured. A round asks all of them in turn, in an order that changes from round to round, so that
noise of the machine hits all alike. What counts is the best round; the median tells how steady it
was. How many operations a measurement takes is found out beforehand, for each framework alone.
"""

import json
import math
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .frameworks import FRAMEWORKS
from .shapes import FLOOR_SHAPES, SHAPES, Shape
from .stopwatch import Spent

REPLY_SECONDS_MAX = 120.0
OPERATIONS_MAX = 100_000_000


class WorkerError(Exception):
    """A measuring process raised, crashed or hung."""


class Worker:
    """A fresh process that calls functions of this package; a context manager."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send([os.path.abspath(entry) for entry in sys.path])

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._death()) from None

    def _death(self) -> str:
        code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exited with {code}"

    def call(self, module: str, function: str, /, **arguments: Any) -> Any:
        """What `function(**arguments)` of that module returns there, as JSON brings it over."""
        self._send({"module": module, "function": function, "arguments": arguments})
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], REPLY_SECONDS_MAX)[0]:
            self.process.kill()
            raise WorkerError(f"no answer within {REPLY_SECONDS_MAX:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._death())
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """End the process; twice is a no-op."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Sample(NamedTuple):
    """One measurement, in nanoseconds per operation."""

    wall_ns: float
    cpu_ns: float
    p50_ns: float | None = None
    p99_ns: float | None = None
    """How long single operations took, where each was timed."""
    client_cpu_ns: float | None = None
    """What an operation took in the process that asked, where there is one."""


@dataclass
class Result:
    """All measurements of one shape on one framework."""

    shape: str
    framework: str
    operations: int = 0
    samples: list[Sample] = field(default_factory=list)
    error: str | None = None

    @property
    def best_ns(self) -> float:
        return min((sample.wall_ns for sample in self.samples), default=math.nan)

    @property
    def median_ns(self) -> float:
        return statistics.median(s.wall_ns for s in self.samples) if self.samples else math.nan

    @property
    def cpu_ns(self) -> float:
        return min((sample.cpu_ns for sample in self.samples), default=math.nan)

    @property
    def best(self) -> Sample | None:
        return min(self.samples, default=None)


@dataclass
class Settings:
    """How much to measure."""

    rounds: int = 5
    seconds: float = 0.25
    """How long a measurement should take, where the shape leaves that open."""
    operations_max: int | None = None
    """An upper limit of what a shape asks for, in a smoke run."""

    @classmethod
    def quick(cls) -> "Settings":
        return cls(rounds=1, seconds=0.01, operations_max=5000)


@dataclass
class Report:
    """What a comparison found, and where."""

    results: list[Result]
    floor_ns: float | None
    about: dict[str, str]

    def result(self, shape: str, framework: str) -> Result | None:
        for result in self.results:
            if (result.shape, result.framework) == (shape, framework):
                return result
        return None

    def to_json(self) -> dict[str, Any]:
        results = [
            {
                "shape": r.shape,
                "framework": r.framework,
                "operation": SHAPES[r.shape].operation,
                "operations": r.operations,
                "best_ns": r.best_ns if r.samples else None,
                "median_ns": r.median_ns if r.samples else None,
                "cpu_ns": r.cpu_ns if r.samples else None,
                "p50_ns": r.best.p50_ns if r.best else None,
                "p99_ns": r.best.p99_ns if r.best else None,
                "samples_ns": r.samples,
                "error": r.error,
            }
            for r in self.results
        ]
        return {"about": self.about, "floor_ns": self.floor_ns, "results": results}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Report":
        """The opposite of to_json, without rows and columns that this version does not know."""
        results = [
            Result(
                r["shape"],
                r["framework"],
                r["operations"],
                [Sample(*sample) for sample in r["samples_ns"]],
                r["error"],
            )
            for r in data["results"]
            if r["shape"] in SHAPES and r["framework"] in FRAMEWORKS
        ]
        return cls(results, data["floor_ns"], data["about"])


def describe_machine(frameworks: Iterable[str]) -> dict[str, str]:
    """What the figures depend on, without a name of the machine or its user."""
    about = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for name in frameworks:
        if FRAMEWORKS[name].package is not None:
            about[FRAMEWORKS[name].package or ""] = FRAMEWORKS[name].version() or "-"
    return about


def _round_to(n: float, shape: Shape) -> int:
    multiple = shape.multiple_of
    return max(1, math.ceil(min(n, OPERATIONS_MAX) / multiple)) * multiple


class _Cell:
    """One framework at work on one shape."""

    def __init__(self, shape: Shape, framework: str, worker: Worker) -> None:
        self.shape = shape
        self.worker = worker
        self.result = Result(shape.name, framework)

    def _run(self, n: int) -> Spent:
        name, framework = self.shape.name, self.result.framework
        return Spent(*self.worker.call("shapes", "run", shape=name, framework=framework, n=n))

    def calibrate(self, settings: Settings) -> None:
        """Find out how many operations fill the time; also the warming up."""
        if self.shape.operations is not None:
            n = min(self.shape.operations, settings.operations_max or self.shape.operations)
            self._run(n)
        else:
            n = _round_to(100, self.shape)
            while (wall := self._run(n).wall) < settings.seconds / 8 and n < OPERATIONS_MAX:
                n = _round_to(n * 8, self.shape)
            n = _round_to(n * settings.seconds / wall, self.shape)
        self.result.operations = n

    def measure(self) -> None:
        n = self.result.operations
        spent = self._run(n)

        def ns(seconds: float | None, parts: int = 1) -> float | None:
            return None if seconds is None else seconds * 1e9 / parts

        wall_ns, cpu_ns = spent.wall * 1e9 / n, spent.cpu * 1e9 / n
        single = (ns(spent.p50), ns(spent.p99), ns(spent.client_cpu, n))
        self.result.samples.append(Sample(wall_ns, cpu_ns, *single))

    def attempt(self, step: Callable[[], None]) -> None:
        if self.result.error is None:
            try:
                step()
            except WorkerError as error:
                self.result.error = str(error)


def count_steps(shapes: Sequence[str], frameworks: Sequence[str], settings: Settings) -> int:
    """How often compare() calls `progress`."""
    cells = sum(SHAPES[shape].runs_on(name) for shape in shapes for name in frameworks)
    return cells * (settings.rounds + 1)


def compare(
    shapes: Sequence[str],
    frameworks: Sequence[str],
    settings: Settings,
    progress: Callable[[str], object] = lambda doing: None,
) -> Report:
    """Measure all of `shapes` on all of `frameworks`; progress(what) is called before each step.

    What goes wrong on one framework stands in its result and stops nobody else.
    """
    results: list[Result] = []
    floors: list[float] = []
    with ExitStack() as outer:
        wants_floor = "pyasync_c" in frameworks and not FLOOR_SHAPES.isdisjoint(shapes)
        floor_worker = outer.enter_context(Worker()) if wants_floor else None
        for shape in shapes:
            with ExitStack() as stack:
                cells = [
                    _Cell(SHAPES[shape], framework, stack.enter_context(Worker()))
                    for framework in frameworks
                    if SHAPES[shape].runs_on(framework)
                ]
                results += [cell.result for cell in cells]
                for cell in cells:
                    progress(f"{shape} on {cell.result.framework}: warming up")
                    cell.attempt(partial(cell.calibrate, settings))
                for number in range(settings.rounds):
                    start = number % max(1, len(cells))
                    for cell in cells[start:] + cells[:start]:
                        progress(f"{shape} on {cell.result.framework}: round {number + 1}")
                        cell.attempt(cell.measure)
                    if floor_worker is not None and shape in FLOOR_SHAPES:
                        with suppress(WorkerError):
                            floor = floor_worker.call("floor", "floor_ns", seconds=settings.seconds)
                            floors += [] if floor is None else [floor]
    return Report(results, min(floors, default=None), describe_machine(frameworks))
