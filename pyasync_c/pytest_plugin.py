"""A pytest plugin: async tests on a Runtime, with a virtual clock, under many seeds.

It is loaded with every pytest once pyasync_c is installed, and does nothing unasked. An async test
is ours if it is marked with @pytest.mark.pyasync, or if `pyasync_mode = auto` stands in pytest's
configuration or the plugin was chosen with `-p pyasync_c.pytest_plugin`; in the last two cases only
if no other plugin's mark (asyncio, anyio, trio) claims it. See docs/testing.md.

Importing this imports no asyncio: a Runtime is made when a test first needs one.
"""

from __future__ import annotations

import functools
import inspect
import operator
import shlex
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from pyasync_c import Runtime

_SEED_END = 2**64
_NAME = "pyasync_c.pytest_plugin"

# Whose tests an automatic mode leaves alone.
_OTHERS = ("asyncio", "anyio", "trio", "twisted")

_runtime_key = pytest.StashKey["Runtime"]()
_seed_key = pytest.StashKey["int | None"]()


class LeftoverTasksWarning(pytest.PytestWarning):
    """A test has returned while tasks that it had made were running still."""


LeftoverTasksWarning.__module__ = _NAME


# ── options ──────────────────────────────────────────────────────────────────────────────────


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < _SEED_END:
        raise ValueError
    return seed


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pyasync", "async tests on pyasync_c")
    group.addoption(
        "--pyasync-seeds",
        type=_count,
        metavar="N",
        help="run each async test under N schedules, until one breaks it",
    )
    group.addoption(
        "--pyasync-seed",
        type=_seed,
        metavar="SEED",
        help="run each async test under this schedule; with --pyasync-seeds the first one",
    )
    group.addoption(
        "--pyasync-leftovers",
        choices=("warn", "fail", "ignore"),
        help="what to do about tasks that a test leaves running (default: warn)",
    )
    parser.addini("pyasync_mode", "strict: tests marked with pyasync; auto: every async test")
    parser.addini("pyasync_leftovers", "warn, fail, ignore: as --pyasync-leftovers")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "pyasync(clock='monotonic', seed=None, seeds=None, debug=None): run this async test on a "
        "pyasync_c.Runtime with these options; under `seeds` schedules, if given.",
    )
    for name, values in (("mode", ("strict", "auto")), ("leftovers", ("warn", "fail", "ignore"))):
        value = config.getini(f"pyasync_{name}")
        if value and value not in values:
            raise pytest.UsageError(f"pyasync_{name}: {value!r} is none of {', '.join(values)}")


def _was_chosen(config: pytest.Config) -> bool:
    return _NAME in (config.getoption("plugins", default=None) or ())


def _is_auto(config: pytest.Config) -> bool:
    return config.getini("pyasync_mode") == "auto" or (
        not config.getini("pyasync_mode") and _was_chosen(config)
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    seeds, first = config.getoption("pyasync_seeds"), config.getoption("pyasync_seed")
    if seeds:
        return f"pyasync_c: seeds {first or 0} to {(first or 0) + seeds - 1}"
    return None if first is None else f"pyasync_c: seed {first}"


# ── which tests are ours ─────────────────────────────────────────────────────────────────────


def _marker_options(
    clock: str | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    debug: bool | None = None,
) -> dict[str, Any]:
    if clock not in (None, "monotonic", "virtual"):
        raise ValueError(f"clock must be 'monotonic' or 'virtual', not {clock!r}")
    seed = _whole_number("seed", seed, 0)
    seeds = _whole_number("seeds", seeds, 1)
    return {"clock": clock, "seed": seed, "seeds": seeds, "debug": debug}


def _whole_number(name: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    number = operator.index(value)
    if not least <= number < _SEED_END:
        raise ValueError(f"{name} must be from {least} to 2**64 - 1, not {number}")
    return number


def _options_of(item: pytest.Item) -> dict[str, Any]:
    """The options of the closest marker; an error of the test if it has others."""
    marker = item.get_closest_marker("pyasync")
    try:
        return _marker_options(*marker.args, **marker.kwargs) if marker else _marker_options()
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("_marker_options() ")
        raise pytest.UsageError(f"{item.nodeid}: pytest.mark.pyasync: {message}") from None


def _is_ours(item: pytest.Item) -> bool:
    """Do we run this test, if it is async, and its async fixtures?"""
    if not isinstance(item, pytest.Function) or _is_unittest(item):
        return False
    if item.get_closest_marker("pyasync") is not None:
        return True
    return (
        _is_auto(item.config)
        and not any(item.get_closest_marker(name) for name in _OTHERS)
        and "anyio_backend" not in item.fixturenames
        and not _is_pytest_asyncio(item)
    )


def _is_unittest(item: pytest.Function) -> Any:
    unittest = sys.modules.get("unittest")
    return unittest is not None and item.cls and issubclass(item.cls, unittest.TestCase)


def _is_pytest_asyncio(item: object) -> bool:
    return any(cls.__module__.startswith("pytest_asyncio.") for cls in type(item).__mro__)


def _inner_test(item: pytest.Function) -> Callable[..., Any]:
    """The function that was written: what hypothesis.given has wrapped, if it has."""
    function: Callable[..., Any] = item.obj
    handle = getattr(function, "hypothesis", None)
    return getattr(handle, "inner_test", function)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(collector: Any) -> Generator[None, Any, Any]:
    """In its auto mode pytest-asyncio turns every async test into one of its own: those that bear
    our mark become plain ones again."""
    made = yield
    if isinstance(made, list):
        return [_plain(node) for node in made]
    return made


def _plain(node: Any) -> Any:
    if not _is_pytest_asyncio(node) or node.get_closest_marker("pyasync") is None:
        return node
    item = pytest.Function.from_parent(
        node.parent,
        name=node.name,
        callspec=getattr(node, "callspec", None),
        callobj=node.obj,
        fixtureinfo=node._fixtureinfo,
        keywords=node.keywords,
        originalname=node.originalname,
    )
    item.own_markers = [mark for mark in node.own_markers if mark.name != "asyncio"]
    return item


# ── a test's runtime ─────────────────────────────────────────────────────────────────────────


def _runtime_of(item: pytest.Item) -> Runtime:
    """The runtime of this run of the test, made when it is first asked for."""
    runtime = item.stash.get(_runtime_key, None)
    if runtime is None:
        from pyasync_c import Runtime

        options = _options_of(item)
        clock = options["clock"]
        if clock is None:
            is_virtual = "virtual_clock" in getattr(item, "fixturenames", ())
            clock = "virtual" if is_virtual else "monotonic"
        seed = item.stash.get(_seed_key, None)
        runtime = Runtime(clock=clock, seed=seed, debug=options["debug"])
        item.stash[_runtime_key] = runtime
    return runtime


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    try:
        return (yield)
    finally:
        # All fixtures are through.
        runtime = item.stash.get(_runtime_key, None)
        if runtime is not None:
            del item.stash[_runtime_key]
            runtime.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Put a plain function in the place of the async one, for whoever calls it."""
    test = _inner_test(pyfuncitem)
    if not inspect.iscoroutinefunction(test) or not _is_ours(pyfuncitem):
        return (yield)

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        runtime = _runtime_of(pyfuncitem)  # may raise, and then there is no coroutine yet
        return _run_test(pyfuncitem, runtime, test(*args, **kwargs))

    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    holder, name = (handle, "inner_test") if handle is not None else (pyfuncitem, "obj")
    before = getattr(holder, name)
    # Not what wraps() has noted, or it would pass for an async function still.
    del run.__wrapped__
    setattr(holder, name, run)
    try:
        return (yield)
    finally:
        setattr(holder, name, before)


def _run_test(item: pytest.Function, runtime: Runtime, coroutine: Any) -> Any:
    loop = runtime.get_loop()
    before = set(loop._live_tasks())
    result = runtime.run(coroutine)
    left = [task for task in loop._live_tasks() if task not in before and _is_left_over(task)]
    if left:
        _report_leftovers(item, left)
    return result


def _is_left_over(task: Any) -> bool:
    # Not what has been cancelled and was given no time to end, nor the closing of an async
    # generator that the test has not read to its end.
    is_closing = type(task.get_coro()).__name__ == "async_generator_athrow"
    return not task.done() and task.cancelling() == 0 and not is_closing


def _report_leftovers(item: pytest.Function, tasks: list[Any]) -> None:
    from pyasync_c._support import describe_task

    config = item.config
    action = config.getoption("pyasync_leftovers") or config.getini("pyasync_leftovers") or "warn"
    lines = [f"{item.name} has left {len(tasks)} task{'s' if len(tasks) > 1 else ''} running:"]
    lines += [f"  {describe_task(task)}" for task in tasks]
    if action == "fail":
        pytest.fail("\n".join(lines), pytrace=False)
    if action == "warn":
        item.warn(LeftoverTasksWarning("\n".join(lines)))


# ── fixtures ─────────────────────────────────────────────────────────────────────────────────


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
    """Run the async fixtures of our tests on the test's runtime."""
    func = fixturedef.func
    is_generator = inspect.isasyncgenfunction(func)
    if (
        not (is_generator or inspect.iscoroutinefunction(func))
        or getattr(func, "_force_asyncio_fixture", False)  # pytest_asyncio.fixture
        or not _is_ours(request._pyfuncitem)
    ):
        return (yield)
    if fixturedef.scope != "function":
        pytest.fail(
            f"async fixture {fixturedef.argname!r} has the scope {fixturedef.scope!r}: on "
            "pyasync_c, whose runtimes live as long as a test, it can only be 'function'",
            pytrace=False,
        )
    if inspect.ismethod(func) and isinstance(request.instance, type(func.__self__)):
        func = func.__func__.__get__(request.instance)
    item, before = request._pyfuncitem, fixturedef.func

    def run(**kwargs: Any) -> Any:
        return _runtime_of(item).run(func(**kwargs))

    def run_generator(**kwargs: Any) -> Iterator[Any]:
        return (yield from _run_generator(_runtime_of(item), func(**kwargs)))

    fixturedef.func = run_generator if is_generator else run
    try:
        return (yield)
    finally:
        fixturedef.func = before


def _run_generator(runtime: Runtime, generator: Any) -> Iterator[Any]:
    yield runtime.run(anext(generator))
    try:
        runtime.run(anext(generator))
    except StopAsyncIteration:
        return
    runtime.run(generator.aclose())
    raise RuntimeError(f"async fixture {generator.__name__} has yielded twice")


@pytest.fixture
def pyasync_runtime(request: pytest.FixtureRequest) -> Runtime:
    """The pyasync_c.Runtime that this test and its async fixtures run on."""
    item = request.node
    if not _is_ours(item) and inspect.iscoroutinefunction(_inner_test(item)):
        pytest.fail(f"{item.name} does not run on pyasync_c: mark it with pytest.mark.pyasync")
    return _runtime_of(item)


class VirtualClock:
    """The clock of a test that asks for the fixture virtual_clock."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"<VirtualClock at {self.time()} s>"

    def time(self) -> float:
        """The time in seconds; a test begins at 0.0."""
        return self._runtime.get_loop().time()

    def advance(self, seconds: float, /) -> None:
        """Move the clock on; what is due then runs from the next turn of the loop on.

        Raises what Runtime.advance() raises.
        """
        self._runtime.advance(seconds)


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest, pyasync_runtime: Runtime) -> VirtualClock:
    """Runs the test on a virtual clock: time(), and advance() by hand."""
    from pyasync_c._virtual_clock import VirtualClockLoop

    if not isinstance(pyasync_runtime.get_loop(), VirtualClockLoop):
        pytest.fail(f"{request.node.name} asks for virtual_clock, but runs on the real clock")
    return VirtualClock(pyasync_runtime)


# ── seeds ────────────────────────────────────────────────────────────────────────────────────


def _seeds_of(item: pytest.Item) -> list[int | None] | range:
    """The seeds that a test is to run under, one after the other: the command line's, else its
    marker's."""
    if not isinstance(item, pytest.Function) or not _is_ours(item):
        return [None]
    if not inspect.iscoroutinefunction(_inner_test(item)):
        return [None]
    options = _options_of(item)
    count, first = item.config.getoption("pyasync_seeds"), item.config.getoption("pyasync_seed")
    if count is None and first is None:
        count, first = options["seeds"], options["seed"]
    if count is None:
        return [first]
    return range(first or 0, min((first or 0) + count, _SEED_END))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test under its seeds, fixtures and all, until one breaks it: that one is reported."""
    try:
        seeds = _seeds_of(item)
    except pytest.UsageError:
        return None  # making the runtime raises it again, as an error of this test
    item.stash[_seed_key] = seeds[0]
    if len(seeds) < 2:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for seed in seeds:
        item.stash[_seed_key] = seed
        is_last = seed == seeds[-1]
        # What other tests share stays, until the last run.
        following: Any = nextitem if is_last else item.parent
        reports = runtestprotocol(item, log=False, nextitem=following)
        if not all(report.passed for report in reports):
            if not is_last:
                reports += _tear_down_shared(item, nextitem)
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _tear_down_shared(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """The last run was not known to be the last; a report, if something fails."""
    call = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem),
        when="teardown",
        reraise=(pytest.exit.Exception, KeyboardInterrupt),
    )
    if call.excinfo is None:
        return []
    return [item.ihook.pytest_runtest_makereport(item=item, call=call)]


def _command(item: pytest.Item, seed: int) -> str:
    words = ["pytest", item.nodeid, f"--pyasync-seed={seed}"]
    if _was_chosen(item.config):
        words[1:1] = ["-p", _NAME]
    return shlex.join(words)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    seed = item.stash.get(_seed_key, None)
    if report.failed and seed is not None:
        command = _command(item, seed)
        report.sections.append(("pyasync_c", f"seed {seed} broke it; to repeat that:\n{command}"))
        report.user_properties.append(("pyasync_seed", f"seed {seed}: {command}"))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("failed", "error") for r in terminalreporter.stats.get(kind, ())]
    # What failed while it was collected has no properties.
    properties = [pair for r in reports for pair in getattr(r, "user_properties", ())]
    lines = {text for name, text in properties if name == "pyasync_seed"}
    if lines:
        terminalreporter.section("pyasync_c: seeds that broke a test")
        for line in sorted(lines):
            terminalreporter.line(line)
