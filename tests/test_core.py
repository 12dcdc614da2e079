"""The C tests and the tutorial, each program as one test; and that their runner notices failure."""

import pytest
import run_core

# Files of the core without a test program of their own, and why.
UNTESTED = {
    "platform",  # the clock, a lock, the allocator: in every other test
    "waker",  # the waker that does nothing
    "budget",  # one variable: test_executor
    "park",  # a few lines between reactor and inject: test_reactor, test_executor
    "waitlist",  # a list under a lock: test_oneshot, test_mpsc, test_broadcast, test_watch
    "scheduler",  # what executor and task share: test_task, test_executor
}


@pytest.fixture(scope="module")
def build():
    return run_core.Build(run_core.MODES["plain"])


# Plain with assertions; under AddressSanitizer and UndefinedBehaviorSanitizer; and under
# ThreadSanitizer, those that have threads.
CHECKS = [
    pytest.param(mode, source, id=f"{source.stem}-{mode}")
    for mode in ("plain", "asan", "tsan")
    for source in run_core.select([], run_core.MODES[mode])
]
builds = {}


@pytest.mark.parametrize(("mode", "source"), CHECKS)
def test_c_program(mode, source):
    if mode not in builds:
        builds[mode] = run_core.Build(run_core.MODES[mode])
    outcome = builds[mode].check(source)
    assert outcome.ok, f"{outcome.why}\n{outcome.output}"
    assert outcome.output, "it says what it does"


def test_every_core_file_has_a_test():
    files = {path.stem for path in run_core.CORE.glob("*.c")}
    tested = {source.stem.removeprefix("test_") for source in run_core.test_sources()}
    assert files - tested - UNTESTED == set()


PROGRAM = """
#include "testing.h"
static void a_test(void) { %s }
int main(void) { %s return TESTING_RESULT(); }
"""


@pytest.mark.parametrize(
    ("body", "main", "why"),
    [
        ("CHECK(1);", "RUN(a_test);", ""),
        ("CHECK(0);", "RUN(a_test);", "exit code 1"),
        ("CHECK_INT(1 + 1, 3);", "RUN(a_test);", "exit code 1"),
        ("CHECK(pac_alloc(1) != NULL);", "RUN(a_test);", "exit code 1"),
        ("PAC_ASSERT(0);", "RUN(a_test);", "killed by SIGABRT"),
        ("for (;;) { }", "RUN(a_test);", "still running after 0.5 s"),
        ("CHECK(1);", "(void)a_test;", "ran no test"),
    ],
)
def test_runner_notices(build, tmp_path, body, main, why):
    source = tmp_path / "test_sample.c"
    source.write_text(PROGRAM % (body, main))
    outcome = build.check(source, limit_s=0.5 if "for" in body else None)
    assert outcome.why == why, outcome.output
    assert outcome.ok == (why == "")


def test_runner_reports_what_the_compiler_says(build, tmp_path):
    source = tmp_path / "test_broken.c"
    source.write_text('#include "testing.h"\nint main(void) { return nothing_such; }\n')
    with pytest.raises(run_core.BuildError, match="nothing_such"):
        build.check(source)
