#!/usr/bin/env python3
"""Runs CPython's own test suite of asyncio on EventLoop.

    python tests/conformance/run.py                  all modules
    python tests/conformance/run.py test_events ...  these
    python tests/conformance/run.py --fast           those that test_conformance.py runs

Each module runs in an interpreter of its own, in which asyncio makes loops of ours wherever it or
a test asks for a loop. Beside the classes that asyncio's tests know, the tests of tasks and futures
also run with our Task and our asyncio future in their place. A test that hangs or crashes counts as
failed, and the module goes on after it. What fails is run once more on the standard loop, to tell
our failures from those of the machine. expected.toml lists the tests that may fail on ours, each
with its reason.

Exits with 1 if a test fails that is neither listed nor failing on the standard loop, or if one is
listed that passes. Needs the `test` package, which comes with Python's source but not with every
distribution's packages.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

SUITE = "test.test_asyncio"
SECONDS_PER_TEST = 60
SECONDS_PER_MODULE = 600
EXPECTED = Path(__file__).with_name("expected.toml")

FAST = """
    test_context test_eager_task_factory test_futures test_futures2 test_locks test_pep492
    test_queues test_runners test_taskgroups test_tasks test_threads test_timeouts test_waitfor
""".split()
MODULES = sorted(
    FAST
    + """
    test_base_events test_buffered_proto test_events test_selector_events test_sendfile test_server
    test_sock_lowlevel test_ssl test_sslproto test_staggered
    test_streams test_subprocess test_unix_events
    """.split()
)

# Classes that run the tests of EPollEventLoopTests again, on a loop with another selector: our loop
# has no place for one, so that once is enough.
OTHER_SELECTORS = {"PollEventLoopTests", "SelectEventLoopTests"}


# ── in the interpreter of one module ─────────────────────────────────────────────────────────


def make_loops_ours() -> None:
    """Have asyncio make loops of ours wherever it makes one."""
    import asyncio
    from asyncio import unix_events

    import pyasync_c

    class EventLoop(pyasync_c.EventLoop):
        """Takes the selector that a test chooses, and leaves it aside."""

        def __init__(self, selector=None):
            super().__init__()
            if selector is not None:
                selector.close()

    asyncio.SelectorEventLoop = EventLoop
    asyncio.EventLoop = EventLoop
    for policy in ("DefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        if hasattr(unix_events, policy):
            getattr(unix_events, policy)._loop_factory = EventLoop
    loop = asyncio.new_event_loop()
    assert isinstance(loop, pyasync_c.EventLoop)
    loop.close()


def make_jumping_loop():
    """A loop of ours whose time stands still while anything is ready and then jumps to a timer."""
    import asyncio
    import heapq

    import pyasync_c

    idle_passes = 50  # more than any test needs between two timers

    class JumpingLoop(pyasync_c.EventLoop):
        def __init__(self):
            super().__init__()
            self._now = 0
            self._timers = []
            self._waits = False

        def time(self):
            return self._now

        def advance_time(self, seconds):
            self._now += seconds

        def call_later(self, delay, callback, *args, context=None):
            return self.call_at(self._now + delay, callback, *args, context=context)

        def call_at(self, when, callback, *args, context=None):
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            heapq.heappush(self._timers, timer)
            if not self._waits:
                self._waits = True
                self._wait(idle_passes)
            return timer

        def _wait(self, passes):
            while self._timers and self._timers[0].cancelled():
                heapq.heappop(self._timers)
            if not self._timers:
                self._waits = False
            elif passes:
                super().call_soon(self._wait, passes - 1)
            else:
                timer = heapq.heappop(self._timers)
                self._now = max(self._now, timer.when())
                self._add_callback(timer)
                self._wait(idle_passes)

    return JumpingLoop()


def our_future(*, loop=None):
    import asyncio

    import pyasync_c

    if loop is None:
        loop = asyncio.events.get_event_loop()
    return pyasync_c.EventLoop.create_future(loop)


def add_tests_of_our_classes(module) -> None:
    """Put beside the module's test classes some that test our Task and our asyncio future."""
    import unittest

    from test.test_asyncio import utils

    import pyasync_c
    from pyasync_c import _compatible

    def new_test_loop(self, gen=None):
        # `gen` checks what the loop sleeps for; its tests need no more than a clock that jumps.
        loop = pyasync_c.new_event_loop() if gen is None else make_jumping_loop()
        self.set_event_loop(loop)
        return loop

    def add(name, *bases, **attributes):
        attributes |= {"new_test_loop": new_test_loop, "__module__": module.__name__}
        setattr(module, name, type(name, bases, attributes))

    # The clock of JumpingLoop is made for the C loop: no compatible mode for its time().
    replaces_scheduler = _compatible.replaces_scheduler
    _compatible.replaces_scheduler = lambda cls: (
        cls.__name__ != "JumpingLoop" and replaces_scheduler(cls)
    )

    Task, Future = pyasync_c.Task, staticmethod(our_future)
    name = module.__name__.rpartition(".")[2]
    if name == "test_tasks":
        both = (module.BaseTaskTests, utils.TestCase)
        add("OurTask_OurFuture_Tests", *both, Task=Task, Future=Future)
        add("OurTask_CFuture_Tests", *both, Task=Task, Future=module.futures._CFuture)
        add("CTask_OurFuture_Tests", *both, Task=module.tasks._CTask, Future=Future)
        add("PyTask_OurFuture_Tests", *both, Task=module.tasks._PyTask, Future=Future)
        subclass = type("Task", (Task,), {})
        add("OurTaskSubclass_OurFuture_Tests", *both, Task=subclass, Future=Future)
    elif name == "test_futures":
        # Nobody makes one but a loop; the tests ask the class for its name.
        loop = pyasync_c.new_event_loop()
        cls = type(loop.create_future())
        loop.close()

        class OnOneLoop:
            def _new_future(self):
                return our_future(loop=self.loop)

        class OnAnyLoop:
            def _new_future(self, *, loop=None):
                return our_future(loop=loop)

        add("OurFutureTests", OnAnyLoop, module.BaseFutureTests, utils.TestCase, cls=cls)
        callbacks = (OnOneLoop, module.BaseFutureDoneCallbackTests, utils.TestCase)
        add("OurFutureDoneCallbackTests", *callbacks)
    elif name == "test_futures2":
        case = unittest.IsolatedAsyncioTestCase
        add("OurTaskTests", module.FutureTests, case, cls=Task)
    elif name == "test_eager_task_factory":
        add(
            "OurEagerTaskFactoryLoopTests",
            module.EagerTaskFactoryLoopTests,
            utils.TestCase,
            Task=Task,
        )


def short_name(test) -> str:
    return test.id().replace(SUITE + ".", "")


def run_module(name: str, ours: bool, results: Path, only: set[str], skip: set[str]) -> None:
    """Run a module's tests, writing a line to `results` when one starts and when one ends."""
    import faulthandler
    import unittest

    out = results.open("a", buffering=1)
    faulthandler.enable()

    class Result(unittest.TestResult):
        problem = None

        def startTest(self, test):
            faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True)
            self.problem = None
            print(json.dumps(["start", short_name(test), None]), file=out)
            super().startTest(test)

        def stopTest(self, test):
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(["end", short_name(test), self.problem]), file=out)
            self.problem = None
            super().stopTest(test)

        def note(self, test, error):
            text = self._exc_info_to_string(error, test)
            if hasattr(test, "_testMethodName"):
                self.problem = (self.problem or "") + text
            else:
                # A fixture of a class or of the module: it neither starts nor stops.
                print(json.dumps(["end", short_name(test), text]), file=out)

        def addError(self, test, error):
            self.note(test, error)

        def addFailure(self, test, error):
            self.note(test, error)

        def addSubTest(self, test, subtest, error):
            if error is not None:
                self.note(test, error)

        def addUnexpectedSuccess(self, test):
            self.problem = "unexpected success"

    def wanted(suite):
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                yield from wanted(test)
            elif type(test).__name__ not in OTHER_SELECTORS:
                if short_name(test) not in skip and (not only or short_name(test) in only):
                    yield test

    if ours:
        make_loops_ours()
    module = importlib.import_module(f"{SUITE}.{name}")
    if ours:
        add_tests_of_our_classes(module)
    suite = unittest.TestSuite(wanted(unittest.defaultTestLoader.loadTestsFromModule(module)))
    result = Result()
    suite.run(result)
    print(json.dumps(["finished", name, None]), file=out)


# ── in the runner ────────────────────────────────────────────────────────────────────────────


def run_apart(name: str, ours: bool, only: set[str] = frozenset()) -> dict[str, str | None]:
    """Run a module in interpreters of its own: what each test complained of, None if it passed."""
    outcomes: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        results = Path(directory, "results")
        while True:
            results.write_text("")
            order = {"only": sorted(only), "skip": sorted(outcomes)}
            loop = "ours" if ours else "asyncio"
            command = [sys.executable, "-P", __file__, "--child", name, loop, str(results)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            # Set by a developer or a CI service, it would put asyncio in debug mode.
            environment.pop("PYTHONASYNCIODEBUG", None)
            log = Path(directory, "log")
            with log.open("w") as output:
                try:
                    code = subprocess.run(
                        command,
                        input=json.dumps(order),
                        stdout=output,
                        stderr=output,
                        cwd=directory,
                        env=environment,
                        text=True,
                        timeout=SECONDS_PER_MODULE,
                    ).returncode
                except subprocess.TimeoutExpired:
                    code = "none: the module's time is up"
            running, finished = None, False
            for line in results.read_text().splitlines():
                what, test, problem = json.loads(line)
                if what == "finished":
                    finished = True
                elif what == "start":
                    running = test
                else:
                    outcomes[test] = problem
                    running = None
            if finished:
                if code != 0:
                    outcomes[f"{name} (at exit)"] = f"exit code {code}\n{log.read_text()[-4000:]}"
                return outcomes
            # Killed by its watchdog, or dead: note that, and go on after the culprit.
            outcomes[running or f"{name} (outside of its tests)"] = (
                f"hung or crashed, exit code {code}\n{log.read_text()[-6000:]}"
            )
            if running is None:
                return outcomes


def read_expected(name: str) -> list[str]:
    """The patterns of the tests of a module that may fail with this Python."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [
        pattern
        for entry in tomllib.loads(EXPECTED.read_text())["expected"]
        if version in entry.get("versions", [version])
        for pattern in entry["tests"]
        if pattern.split(".")[0] == name
    ]


@dataclass
class Report:
    """How one module went."""

    run: int
    ours: dict[str, str] = field(default_factory=dict)  # failed on ours alone: test, complaint
    both: list[str] = field(default_factory=list)  # failed on the standard loop as well
    unexpected: list[str] = field(default_factory=list)  # of `ours`, those without a reason
    stale: list[str] = field(default_factory=list)  # patterns of expected.toml that nothing matches


def check(name: str) -> Report:
    outcomes = run_apart(name, ours=True)
    failed = {test: problem for test, problem in outcomes.items() if problem is not None}
    patterns = read_expected(name)
    report = Report(run=len(outcomes))
    unlisted = {test for test in failed if not any(fnmatch.fnmatchcase(test, p) for p in patterns)}
    standard = run_apart(name, ours=False, only=unlisted) if unlisted else {}
    for test, problem in failed.items():
        if standard.get(test) is not None:
            report.both.append(test)
            continue
        report.ours[test] = problem
        if test in unlisted:
            report.unexpected.append(test)
    report.stale = [p for p in patterns if not fnmatch.filter(failed, p)]
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what failed and how")
    options = parser.parse_args()
    totals, bad = [0, 0, 0], False
    print(f"Python {sys.version.split()[0]}: run, failed on ours alone, failed on both")
    for name in options.modules or (FAST if options.fast else MODULES):
        if importlib.util.find_spec(f"{SUITE}.{name}") is None:
            continue
        report = check(name)
        counts = [report.run, len(report.ours), len(report.both)]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        print(f"{name:26}" + "".join(f"{n:6}" for n in counts), flush=True)
        for test in report.unexpected:
            print(f"    not expected: {test}")
            if options.verbose:
                print(report.ours[test])
        for pattern in report.stale:
            print(f"    listed in expected.toml, but passes: {pattern}")
        bad = bad or bool(report.unexpected or report.stale)
    print(f"{'all':26}" + "".join(f"{n:6}" for n in totals))
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        order = json.load(sys.stdin)
        run_module(
            sys.argv[2],
            sys.argv[3] == "ours",
            Path(sys.argv[4]),
            set(order["only"]),
            set(order["skip"]),
        )
    else:
        sys.exit(main())
