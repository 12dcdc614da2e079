"""CPython's own tests of asyncio, the quick ones, on EventLoop: see conformance/run.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("conformance") / "run.py"
spec = importlib.util.spec_from_file_location("conformance", RUNNER)
conformance = sys.modules["conformance"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conformance)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test") is None
    or importlib.util.find_spec("test.test_asyncio") is None,
    reason="this Python comes without its test suite",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", conformance.FAST)
def test_module(module):
    if importlib.util.find_spec(f"{conformance.SUITE}.{module}") is None:
        pytest.skip("this version of Python has no such module")
    report = conformance.check(module)
    assert report.run > 0
    complaints = [f"{test}\n{report.ours[test]}" for test in report.unexpected]
    assert not complaints, "\n\n".join(complaints)
    assert report.stale == [], "listed in expected.toml, but passes"
