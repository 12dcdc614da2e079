"""README.md: each of its snippets of Python runs, and does what the text around it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = [
    (section.partition("\n")[0], code)
    for section in README.split("\n## ")
    for code in re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
]

# What the snippets leave out: imports, and for the one on ways to start a main(), that main().
IMPORTS = "import asyncio, threading\nimport pyasync_c\n"
MAIN = "async def main():\n    print(type(asyncio.get_running_loop()).__name__)\n"

# The beginning of a section's title, what comes before a snippet and after it, what it prints.
EXPECTED = [
    ("A first program", "", "", "tea\n"),
    ("A first program", "", "print(pyasync_c.run(Alarm()))", "done\n"),
    ("Tools", "", "", "[0, 1, 4, 9, 16, 25]\n"),
    ("Streams", "from pyasync_c import net", "", "b'hello\\n'\n"),
    ("On asyncio's loop", "", "print('over')", "over\n"),
    ("As asyncio's loop", MAIN, "", "EventLoop\nEventLoop\n"),
    ("Testing", "", "print(runtime)", "<Runtime closed>\n"),
]


def test_every_snippet_is_known():
    assert len(SNIPPETS) == README.count("```python") == len(EXPECTED)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_snippet(number, tmp_path):
    (title, code), (section, before, after, shown) = SNIPPETS[number], EXPECTED[number]
    assert title.startswith(section)
    if sys.version_info < (3, 12):
        code, newer = re.subn(r"^.*# from Python 3.12 on\n", "", code, flags=re.MULTILINE)
        shown = "".join(shown.splitlines(keepends=True)[newer:])
    (tmp_path / "snippet.py").write_text(f"{IMPORTS}{before}\n{code}\n{after}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "snippet.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]*)\)", README):
        assert link.startswith("https://") or (Path(__file__).parent.parent / link).exists(), link
