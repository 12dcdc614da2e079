"""docs/testing.md: each of its snippets runs, and does what the text around it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
SNIPPETS = re.findall(r"^(<!-- .*? -->\n)?```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
PROGRAMS = [code for _, code in SNIPPETS if "def test_" not in code]
TESTS = [code for note, code in SNIPPETS if "def test_" in code and not note]
BREAKING = [(note, code) for note, code in SNIPPETS if note]


def python(directory, *arguments, code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def in_pytest(directory, snippet, *arguments, code):
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (directory / "conftest.py").write_text('pytest_plugins = ["pyasync_c.pytest_plugin"]\n')
    (directory / "test_topic.py").write_text(snippet)
    return python(directory, "-m", "pytest", "-p", "no:cacheprovider", *arguments, code=code)


def test_all_snippets_are_found():
    assert len(SNIPPETS) == GUIDE.count("```python")
    assert len(PROGRAMS) == 3 and len(TESTS) == 2 and len(BREAKING) == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program(program, tmp_path):
    (tmp_path / "hang.py").write_text(program)
    out = python(tmp_path, "hang.py", code=0)
    if "print(error)" in program:
        shown = [line.strip() for line in GUIDE.splitlines() if line.startswith("    ")]
        for line in out.splitlines():
            known = re.sub(r" at \S*/", " at ", line.strip())
            known = re.sub(r"locks.py:\d+", "locks.py:213", known)
            assert known in [re.sub(r" at \S*/", " at ", text) for text in shown]


@pytest.mark.parametrize("snippet", TESTS)
def test_tests(snippet, tmp_path):
    assert " failed" not in in_pytest(tmp_path, snippet, code=0)


@pytest.mark.parametrize("note, snippet", BREAKING)
def test_a_test_that_a_seed_breaks(note, snippet, tmp_path):
    in_pytest(tmp_path, snippet, code=0)
    option = re.search(r"--pyasync-seeds=\d+", note)[0]
    out = in_pytest(tmp_path, snippet, option, code=1)
    (line,) = re.findall(r"^seed \d+: pytest \S+ --pyasync-seed=\d+$", out, re.MULTILINE)
    assert line in GUIDE
    assert "RuntimeError: deadlock" in out
    again = in_pytest(tmp_path, snippet, *line.split()[3:], code=1)
    assert line in again
