"""The pytest plugin, in pytest processes of their own: alone, and beside the others of its kind."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PLUGIN = "pyasync_c.pytest_plugin"
LOAD = f'pytest_plugins = ["{PLUGIN}"]\n'  # as the entry point does: without being chosen


def needs(module):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


class Pytest:
    """A directory with tests, and pytest in it."""

    def __init__(self, path):
        self.path = path

    def write(self, test, *, ini="", conftest=LOAD):
        (self.path / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
        (self.path / "conftest.py").write_text(conftest)
        (self.path / "test_it.py").write_text(
            "import asyncio, pytest, pyasync_c\n" + textwrap.dedent(test)
        )

    def start(self, *args, plugins=()):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["COLUMNS"] = "200"
        for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_PLUGINS"):
            environment.pop(name, None)
        chosen = [word for plugin in plugins for word in ("-p", plugin)]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *chosen, *args],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *args, plugins=(), **expected):
        """What it printed; it must have come out as expected: passed=2, failed=1."""
        with self.start(*args, plugins=plugins) as process:
            out, _ = process.communicate(timeout=100)
        words = re.findall(r"(\d+) (passed|failed|skipped|errors?|warnings?|x\w+)", out[-400:])
        outcome = {kind.rstrip("s"): int(n) for n, kind in words}
        assert outcome == expected, out
        return out


@pytest.fixture
def in_pytest(tmp_path):
    return Pytest(tmp_path)


# ---- which tests are taken

TWO_TESTS = """
    async def test_unmarked():
        assert isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)

    @pytest.mark.pyasync
    async def test_marked():
        assert isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
        assert pyasync_c.current_runtime() is not None

    def test_plain():
        pass
    """


def test_nothing_is_taken_unasked(in_pytest):
    in_pytest.write(TWO_TESTS)
    out = in_pytest.run("--strict-markers", passed=2, failed=1)
    assert "async def functions are not natively supported" in out
    assert "pyasync" in in_pytest.run("--markers")


def test_it_is_active_by_the_configuration(in_pytest):
    in_pytest.write(TWO_TESTS, ini="pyasync_mode = auto\nfilterwarnings = error")
    in_pytest.run("--strict-config", passed=3)


def test_it_is_active_when_it_is_chosen(in_pytest):
    in_pytest.write(TWO_TESTS, conftest="")
    in_pytest.run(passed=3, plugins=[PLUGIN])
    in_pytest.write(TWO_TESTS, conftest="", ini="pyasync_mode = strict")
    in_pytest.run(passed=2, failed=1, plugins=[PLUGIN])


@pytest.mark.parametrize("line", ["pyasync_mode = always", "pyasync_leftovers = maybe"])
def test_a_setting_that_is_none(in_pytest, line):
    in_pytest.write(TWO_TESTS, ini=line)
    assert f"{line.split()[0]}: '{line.split()[2]}' is none of" in in_pytest.run()


def test_a_file_that_cannot_be_collected(in_pytest):
    in_pytest.write("import nothing_of_that_name")
    out = in_pytest.run(error=1)
    assert "nothing_of_that_name" in out
    assert "Traceback (most recent call last)" not in out.split("short test summary")[-1]


@pytest.mark.parametrize(
    "option", ["--pyasync-seeds=0", "--pyasync-seeds=x", "--pyasync-seed=-1", "--pyasync-seed=1e3"]
)
def test_an_option_that_is_none(in_pytest, option):
    in_pytest.write(TWO_TESTS)
    assert f"argument {option.split('=')[0]}: invalid" in in_pytest.run(option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("speed=3", "got an unexpected keyword argument 'speed'"),
        ("'fast'", "clock must be 'monotonic' or 'virtual', not 'fast'"),
        ("clock=[]", "clock must be 'monotonic' or 'virtual', not []"),
        ("seed='x'", "seed must be an int, not str"),
        ("seed=True", "seed must be an int, not bool"),
        ("seed='x', seeds=2", "seed must be an int, not str"),
        ("seed=2**64, seeds=2", "seed must be from 0 to 2**64 - 1, not 18446744073709551616"),
        ("seeds=0", "seeds must be from 1 to 2**64 - 1, not 0"),
        ("seeds=-1", "seeds must be from 1 to 2**64 - 1, not -1"),
        ("seeds=1.5", "seeds must be an int, not float"),
    ],
)
def test_a_mark_that_is_none_fails_its_test_alone(in_pytest, options, message):
    in_pytest.write(f"""
        @pytest.mark.pyasync({options})
        async def test_marked():
            pass

        def test_next():
            pass
        """)
    out = in_pytest.run(passed=1, failed=1)
    assert f"test_marked: pytest.mark.pyasync: {message}" in out
    assert "never awaited" not in out


def test_loading_it_does_not_import_asyncio():
    program = f"""
import sys
import pytest
before = "asyncio" in sys.modules
import {PLUGIN}
assert ("asyncio" in sys.modules) == before
assert not before, "pytest imports asyncio by itself: then this test says nothing"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)


def test_a_run_without_async_tests_does_not_import_asyncio(in_pytest):
    in_pytest.write("")
    (in_pytest.path / "test_it.py").write_text(
        "import sys\ndef test_plain():\n    assert 'asyncio' not in sys.modules\n"
    )
    in_pytest.run(passed=1, plugins=[PLUGIN])


# ---- tests of all shapes


def test_tests_of_all_shapes(in_pytest):
    in_pytest.write(
        """
        import contextvars
        import unittest
        from pathlib import Path

        pytestmark = pytest.mark.pyasync
        loops = []
        var = contextvars.ContextVar("var")

        class TestMethods:
            async def test_method(self, tmp_path):
                assert tmp_path.exists()
                loops.append(asyncio.get_running_loop())

            @staticmethod
            async def test_static():
                loops.append(asyncio.get_running_loop())

        @pytest.mark.parametrize("a", [1, 2])
        @pytest.mark.parametrize("b", [3, pytest.param(4, marks=pytest.mark.skip)])
        async def test_parameters(a, b):
            assert b == 3
            loops.append(asyncio.get_running_loop())

        def test_each_test_has_a_loop_of_its_own():
            assert len(set(loops)) == 4
            assert all(loop.is_closed() for loop in loops)

        async def test_fails():
            assert 1 == 2

        async def test_skips():
            pytest.skip("so")

        @pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
        async def test_raises():
            1 / 0

        @pytest.mark.pyasync(debug=True, clock="virtual", seed=3)
        async def test_options():
            assert asyncio.get_running_loop().get_debug()
            await asyncio.sleep(1000)

        @pytest.mark.pyasync(speed=3)
        async def test_an_option_that_is_none():
            pass

        class TestUnit(unittest.IsolatedAsyncioTestCase):
            async def test_left_alone(self):
                assert not isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
        """
    )
    out = in_pytest.run(passed=7, failed=2, skipped=3, xfailed=1)
    assert "assert 1 == 2" in out
    assert "pytest.mark.pyasync" in out and "'speed'" in out


def test_async_fixtures_share_the_tests_loop_and_context(in_pytest):
    in_pytest.write(
        """
        import contextvars
        var = contextvars.ContextVar("var")
        log = []

        @pytest.fixture
        async def loop():
            return asyncio.get_running_loop()

        @pytest.fixture
        async def resource(loop, tmp_path):
            assert asyncio.get_running_loop() is loop
            var.set("set by a fixture")
            task = asyncio.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0)
            yield tmp_path
            assert asyncio.get_running_loop() is loop
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            log.append("torn down")

        @pytest.fixture(autouse=True)
        async def around():
            log.append("around")
            yield
            log.append("around it")

        @pytest.fixture(params=["x", "y"])
        async def letter(request):
            await asyncio.sleep(0)
            return request.param

        class TestIt:
            @pytest.fixture
            async def bound(self, resource):
                self.value = 5
                return self

            async def test_method(self, bound):
                assert bound is self and self.value == 5

        async def test_use(loop, resource):
            assert loop is asyncio.get_running_loop()
            assert var.get() == "set by a fixture"

        def test_in_a_plain_test(resource, pyasync_runtime):
            assert pyasync_runtime.run(asyncio.sleep(0, 7)) == 7

        async def test_letter(letter):
            assert letter in "xy"

        def test_log():
            assert log.count("torn down") == 3
            assert log.count("around") == 6 and log.count("around it") == 5
        """,
        ini="pyasync_mode = auto\nfilterwarnings = error",
    )
    in_pytest.run(passed=6)


def test_fixtures_that_go_wrong(in_pytest):
    in_pytest.write(
        """
        pytestmark = pytest.mark.pyasync

        @pytest.fixture(scope="module")
        async def wide():
            return 1

        @pytest.fixture
        async def twice():
            yield 1
            yield 2

        @pytest.fixture
        async def breaks():
            1 / 0

        @pytest.fixture
        async def breaks_late():
            yield
            1 / 0

        async def test_wide(wide): pass
        async def test_twice(twice): pass
        async def test_breaks(breaks): pass
        async def test_breaks_late(breaks_late): pass
        """
    )
    out = in_pytest.run(passed=2, error=4)
    assert "async fixture 'wide' has the scope 'module'" in out
    assert "async fixture twice has yielded twice" in out
    for test in ("wide", "twice", "breaks", "breaks_late"):
        assert re.search(rf"^ERROR test_it.py::test_{test} - ", out, re.MULTILINE)


def test_hypothesis(in_pytest):
    in_pytest.write(
        """
        from hypothesis import given, settings, strategies as st

        runs = []

        @pytest.mark.pyasync
        @settings(max_examples=20, database=None)
        @given(n=st.integers())
        async def test_given(n):
            await asyncio.sleep(0)
            runs.append(asyncio.get_running_loop())

        class TestClass:
            @pytest.mark.pyasync
            @settings(max_examples=50, database=None)
            @given(n=st.integers())
            async def test_finds(self, n):
                await asyncio.sleep(0)
                assert n < 1000

        def test_runs():
            assert len(runs) >= 10 and len(set(runs)) == 1
        """
    )
    out = in_pytest.run("-p", "_hypothesis_pytestplugin", passed=2, failed=1)
    assert "n=1000" in out


def test_timeouts(in_pytest):
    in_pytest.write(
        """
        @pytest.mark.pyasync
        @pytest.mark.timeout(0.3)
        async def test_hangs():
            await pyasync_c.pending()

        @pytest.mark.pyasync
        async def test_next():
            await asyncio.sleep(0)
        """
    )
    out = in_pytest.run("-p", "pytest_timeout", passed=1, failed=1)
    assert "Timeout (>0.3s)" in out


def test_keyboard_interrupt_ends_the_session(in_pytest):
    in_pytest.write(
        """
        @pytest.mark.pyasync
        async def test_waits():
            print("waiting", flush=True)
            try:
                await asyncio.sleep(60)
            finally:
                print("cleaned up", flush=True)

        async def test_never():
            print("never", flush=True)
        """
    )
    with in_pytest.start("-s") as process:
        for line in process.stdout:
            if "waiting" in line:
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "cleaned up" in out and "KeyboardInterrupt" in out and "never" not in out


# ---- the clock


def test_the_virtual_clock(in_pytest):
    in_pytest.write(
        """
        @pytest.fixture
        async def later(virtual_clock):
            await asyncio.sleep(1)
            return virtual_clock

        @pytest.mark.pyasync
        async def test_jumps(virtual_clock):
            assert virtual_clock.time() == 0.0
            await asyncio.sleep(3600)
            assert virtual_clock.time() == asyncio.get_running_loop().time() == 3600.0

        @pytest.mark.pyasync
        async def test_through_a_fixture(later):
            assert later.time() == 1.0
            assert repr(later) == "<VirtualClock at 1.0 s>"

        @pytest.mark.pyasync
        async def test_advance(virtual_clock):
            called = []
            asyncio.get_running_loop().call_later(5, called.append, 1)
            virtual_clock.advance(4.9)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not called
            virtual_clock.advance(0.1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert called and virtual_clock.time() == 5.0
            with pytest.raises(ValueError):
                virtual_clock.advance(-1)

        @pytest.mark.pyasync
        async def test_deadlock():
            with pytest.raises(RuntimeError):
                pyasync_c.current_runtime().advance(1)

        @pytest.mark.pyasync(clock="virtual")
        async def test_stuck():
            await asyncio.Event().wait()

        async def test_not_ours(virtual_clock):
            pass

        @pytest.mark.pyasync(clock="monotonic")
        async def test_real(virtual_clock):
            pass
        """
    )
    out = in_pytest.run(passed=4, failed=1, error=2)
    assert "RuntimeError: deadlock: nothing is left to wait for" in out
    assert "test_not_ours does not run on pyasync_c" in out
    assert "test_real asks for virtual_clock, but runs on the real clock" in out


# ---- seeds

# The bug: who publishes counts on everybody having subscribed by then, since that is the order in
# which the tasks were made, and gives them time besides. Who comes late waits for ever.
PLANTED = """
    class Topic:
        def __init__(self):
            self.subscribers = []

        async def next(self):
            queue = asyncio.Queue()
            self.subscribers.append(queue)
            return await queue.get()

        async def publish(self, value):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for queue in self.subscribers:
                queue.put_nowait(value)

    @pytest.mark.pyasync
    async def test_topic(virtual_clock):
        topic = Topic()
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(topic.next(), name=f"reader {n}") for n in range(3)]
            group.create_task(topic.publish(42))
        assert [reader.result() for reader in readers] == [42, 42, 42]
    """


def test_seeds_find_a_planted_bug_and_the_seed_repeats_it(in_pytest):
    in_pytest.write(PLANTED)
    in_pytest.run(passed=1)  # in the plain order it never shows
    out = in_pytest.run("test_it.py::test_topic", "--pyasync-seeds=200", failed=1)
    assert "pyasync_c: seeds 0 to 199" in out
    (seed,) = set(re.findall(r"seed (\d+) broke it", out))
    (command,) = set(re.findall(r"(pytest \S+ --pyasync-seed=\d+)", out))
    assert shlex.split(command) == ["pytest", "test_it.py::test_topic", f"--pyasync-seed={seed}"]
    for _ in range(5):
        out = in_pytest.run(*shlex.split(command)[1:], failed=1)
        assert f"seed {seed} broke it" in out and "RuntimeError: deadlock" in out
        assert re.search(r"task 'reader \d' in Topic.next at .*, waiting for <AsyncioFuture", out)
    if int(seed) > 0:
        in_pytest.run("test_it.py::test_topic", f"--pyasync-seeds={seed}", passed=1)
    # From the seed on it is the first to break it.
    out = in_pytest.run(
        "test_it.py::test_topic", "--pyasync-seeds=3", f"--pyasync-seed={seed}", failed=1
    )
    assert f"seed {seed} broke it" in out


def test_each_schedule_has_fixtures_of_its_own_and_others_are_shared(in_pytest):
    in_pytest.write(
        """
        log = []

        @pytest.fixture(scope="module", autouse=True)
        def shared():
            log.append("shared")
            yield
            print("shared ends after", len(log))

        @pytest.fixture
        async def own():
            log.append("own")
            yield []
            log.append("own ends")

        @pytest.mark.pyasync
        async def test_five(own, tmp_path):
            assert own == []
            own.append(1)
            log.append(asyncio.get_running_loop())

        @pytest.mark.pyasync(seeds=3)
        async def test_three():
            log.append("three")

        @pytest.mark.pyasync
        async def test_skipped():
            log.append("skipped")
            pytest.skip()

        def test_plain():
            log.append("plain")
            assert log.count("shared") == 1
            assert log.count("own") == log.count("own ends") == 5
            assert len({x for x in log if not isinstance(x, str)}) == 5
            assert log.count("three") == 5 and log.count("skipped") == 1
        """
    )
    in_pytest.run("--pyasync-seeds=5", passed=3, skipped=1)
    (in_pytest.path / "test_it.py").write_text(
        (in_pytest.path / "test_it.py")
        .read_text()
        .replace("== 5", "== 1")
        .replace('count("three") == 1', 'count("three") == 3')
    )
    in_pytest.run(passed=3, skipped=1)


def test_a_test_that_breaks_early_leaves_the_next_ones_whole(in_pytest):
    in_pytest.write(
        """
        import itertools
        runs = itertools.count()

        @pytest.fixture(scope="class")
        def shared():
            yield
            print("class ends")

        class TestA:
            @pytest.mark.pyasync
            async def test_third_time(self, shared):
                assert next(runs) < 2

        @pytest.mark.pyasync
        async def test_next():
            pass

        @pytest.mark.pyasync
        async def test_error(missing):
            pass
        """
    )
    out = in_pytest.run("--pyasync-seeds=9", passed=1, failed=1, error=1)
    assert "seed 2 broke it" in out and "class ends" in out and "not torn down" not in out


def test_the_command_says_how_the_plugin_was_chosen(in_pytest):
    in_pytest.write("async def test_fails():\n    assert 0\n", conftest="")
    out = in_pytest.run("--pyasync-seed=7", failed=1, plugins=[PLUGIN])
    assert f"pytest -p {PLUGIN} test_it.py::test_fails --pyasync-seed=7" in out
    assert "pyasync_c: seed 7" in out


# ---- tasks left over

LEFTOVERS = """
    @pytest.mark.pyasync
    async def test_leaves():
        async def forgotten():
            await asyncio.sleep(3600)
        asyncio.create_task(forgotten(), name="the one")
        pyasync_c.spawn(pyasync_c.sleep(3600), name="a future's")
        await asyncio.sleep(0)

    @pytest.mark.pyasync
    async def test_cancels():
        asyncio.create_task(asyncio.sleep(3600)).cancel()

    @pytest.fixture
    async def background():
        task = asyncio.create_task(asyncio.sleep(3600))
        yield
        task.cancel()

    @pytest.mark.pyasync
    async def test_with_background(background):
        async def numbers():
            while True:
                yield 1
        async for _ in numbers():
            break
    """


def test_tasks_that_are_left_over_are_reported(in_pytest):
    in_pytest.write(LEFTOVERS)
    out = in_pytest.run(passed=3, warning=1)
    assert "LeftoverTasksWarning: test_leaves has left 2 tasks running:" in out
    assert "task 'the one' in test_leaves.<locals>.forgotten at " in out
    assert 'task "a future\'s"' in out
    out = in_pytest.run("--pyasync-leftovers=fail", passed=2, failed=1)
    assert "test_leaves has left 2 tasks running:" in out
    in_pytest.run("--pyasync-leftovers=ignore", passed=3)
    in_pytest.write(LEFTOVERS, ini="pyasync_leftovers = fail")
    in_pytest.run(passed=2, failed=1)
    in_pytest.write(LEFTOVERS, ini="filterwarnings = error")
    in_pytest.run(passed=2, failed=1)


# ---- beside other plugins

NEIGHBOURS = """
    async def test_unmarked():
        assert isinstance(asyncio.get_running_loop(), {unmarked})

    @pytest.mark.pyasync
    async def test_ours(ours):
        assert isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
        assert ours is asyncio.get_running_loop()

    @pytest.fixture
    async def ours():
        return asyncio.get_running_loop()
    """
OUR_LOOP, THEIR_LOOP = "pyasync_c.EventLoop", "asyncio.SelectorEventLoop"

PYTEST_ASYNCIO = """
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def theirs():
        return asyncio.get_running_loop()

    @pytest.mark.asyncio
    async def test_theirs(theirs):
        assert not isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
        assert theirs is asyncio.get_running_loop()
    """

ANYIO = """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def anyios(anyio_backend):
        yield asyncio.get_running_loop()

    @pytest.mark.anyio
    async def test_anyios(anyios):
        assert not isinstance(asyncio.get_running_loop(), pyasync_c.EventLoop)
        assert anyios is asyncio.get_running_loop()
    """

# The modes of pytest-asyncio, anyio and this plugin, and whose an unmarked test is then.
COMBINATIONS = [
    ("strict", "strict", "auto", OUR_LOOP),
    ("auto", "strict", "strict", THEIR_LOOP),
    ("auto", "strict", "auto", THEIR_LOOP),
    ("strict", "strict", "strict", None),
]


@needs("pytest_asyncio")
@needs("anyio")
@pytest.mark.parametrize("asyncio_mode, anyio_mode, ours, unmarked", COMBINATIONS)
def test_beside_pytest_asyncio_and_anyio(in_pytest, asyncio_mode, anyio_mode, ours, unmarked):
    # Those two don't go together when pytest-asyncio takes every async fixture.
    anyios = ANYIO if asyncio_mode == "strict" else "\n    def test_nothing(): pass\n"
    in_pytest.write(
        NEIGHBOURS.format(unmarked=unmarked or "int") + PYTEST_ASYNCIO + anyios,
        ini=f"asyncio_mode = {asyncio_mode}\npyasync_mode = {ours}\n"
        "asyncio_default_fixture_loop_scope = function\n",
    )
    counts = {"passed": 4} if unmarked else {"passed": 3, "failed": 1}
    in_pytest.run(plugins=["pytest_asyncio.plugin", "anyio.pytest_plugin"], **counts)
