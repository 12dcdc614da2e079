import gc
import os
import signal
import sys
import time

import pytest
from hypothesis import HealthCheck, Phase, settings

import pyasync_c
from pyasync_c import _core

# A shell has what it runs in the background ignore Ctrl-C, which tests send to themselves and to
# programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test sets how many programs it runs: the profile does, for all of them. No deadline: a shared
# machine may stall any single example. Under CI the examples are the same in every run, so that a
# change is judged by what it changed.
settings.register_profile(
    "pyasync_c",
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)
# What tests/run_programs.py chooses: many short programs, since every run has 150 long ones.
settings.register_profile(
    "deep",
    settings.get_profile("pyasync_c"),
    max_examples=int(os.environ.get("PAC_PROGRAMS", 10_000)),
    stateful_step_count=15,
    phases=[Phase.generate, Phase.shrink],
    database=None,
    print_blob=True,
)
settings.load_profile(os.environ.get("PAC_HYPOTHESIS", "pyasync_c"))


def _live():
    """The core's live objects, by kind; what it has allocated is kept for the next, so not that."""
    counts = _core._debug_counts()
    del counts["allocations"]
    return counts


@pytest.fixture(autouse=hasattr(_core, "_debug_counts"))
def nothing_stays_alive():
    """In a PAC_DEBUG build: no task, waker, timer or waiter of the core outlives its test.

    Compared with what there was before, so that only the test that leaves something fails.
    """
    before = _live()
    yield
    for _ in range(3):
        if _live() == before:
            return
        gc.collect()
    # A thread that has just been woken may still hold the waker.
    deadline = time.monotonic() + 5
    while _live() != before and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert _live() == before


kept_warm = []


def all_that_is_warm():
    """Of each type that the free lists keep warm as many as they do (csrc/python/state.h)."""
    tx, rx = pyasync_c.channel(1)
    makers = (lambda: tx.send(0), rx.recv, lambda: pyasync_c.select(pyasync_c.pending()))
    return [make() for make in makers for _ in range(4)]


@pytest.fixture(scope="module", autouse=True)
def own_garbage():
    """What a module's tests leave to the garbage collector is reported in that module: a warning is
    an error here, and would otherwise fail whichever test the collector runs in.

    What pytest and other modules have made is left out of the tests' own collections, of which
    there are thousands; but not what free lists keep tracked, or a test's cycle through such an
    object would not be collected.
    """
    kept_warm.append(all_that_is_warm())
    gc.freeze()
    yield
    gc.unfreeze()
    gc.collect()


@pytest.fixture
def place(request, net_folder):
    """A way to hold a connection, on a loop, over a link: see net_faces.py."""
    from net_faces import Place

    return Place(*request.param, net_folder)


@pytest.fixture(scope="module")
def net_folder(tmp_path_factory):
    """For Unix sockets."""
    return tmp_path_factory.mktemp("net")


def pytest_terminal_summary(terminalreporter):
    """How much the network tests have done."""
    counts = getattr(sys.modules.get("net_peer"), "counts", None)
    if counts:
        said = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
        terminalreporter.write_line(f"network faults: {said}")
