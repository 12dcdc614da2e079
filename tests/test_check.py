"""The table of all checks, and that it notices what fails."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import check
import pytest


@pytest.fixture(autouse=True)
def own_handler():
    """check.main() has its own for SIGTERM, as it ends with it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def execute(program, limit_s=60):
    sample = check.Check("sample", "nothing", [])
    return check.execute(sample, [sys.executable, "-c", program], limit_s)


def test_a_check_that_holds():
    result = execute("print('=== 3 passed in 0.12s ===')")
    assert (result.word, result.much) == ("ok", "3 passed")


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "import os; os.abort()"])
def test_a_check_that_fails(program):
    assert execute(f"print('2 passed, 1 failed', flush=True); {program}").word == "FAILED"


def test_a_check_that_stands_still():
    result = execute("import time; time.sleep(60)", limit_s=0.5)
    assert (result.word, result.much) == ("FAILED", "still running after 0.5 s")


def test_a_check_that_leaves_something_running():
    program = """if True:
        import subprocess
        print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
        print("1 passed, 1 failed")
        raise SystemExit(1)
    """
    out = io.StringIO()
    sample = check.Check("sample", "nothing", [])
    result = check.execute(sample, [sys.executable, "-c", program], 60, out)
    assert (result.word, result.much) == ("FAILED", "1 passed, 1 failed")
    left = Path(f"/proc/{out.getvalue().split()[0]}/stat")

    def ended():
        """If nobody waits for it, it stays a zombie."""
        try:
            return left.read_text().split()[2] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    while not ended():
        time.sleep(0.01)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_it_ends_what_it_runs(tmp_path, jobs):
    started, ended = tmp_path / "started", tmp_path / "ended"
    program = f"""
import sys, check
sample = check.Check("sample", "", [])
sleeper = "import time, pathlib; pathlib.Path({str(started)!r}).touch(); time.sleep(3)"
sleeper += "; pathlib.Path({str(ended)!r}).touch()"
check.all_checks = lambda every: [check.Check("sample", "", [sys.executable, "-c", sleeper])]
sys.argv = ["check.py", "--jobs", {jobs!r}]
check.main()
"""
    path = str(check.ROOT / "tests")
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}
    )
    while not started.exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    time.sleep(3.5)
    assert not ended.exists()


def test_what_it_needs_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(
        check,
        "all_checks",
        lambda every: [
            check.Check("one", "nothing", ["true"]),
            check.Check("two", "nothing", ["true"], needs=("no such tool",)),
        ],
    )
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 0
    output = capsys.readouterr().out
    assert "no no such tool" in output
    assert "1 ok, 0 failed, 1 left out" in output


@pytest.mark.parametrize("commands", [[["false"], ["true"]], [["no such command"]], []])
def test_one_that_fails_fails_all(monkeypatch, capsys, commands):
    checks = [check.Check(str(i), "nothing", command) for i, command in enumerate(commands)]
    monkeypatch.setattr(check, "all_checks", lambda every: checks)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 1
    assert f"{commands.count(['true'])} ok" in capsys.readouterr().out


SOMETIMES = """
import pathlib, sys
runs = pathlib.Path({runs!r})
n = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (n + 1))
names = ["tests/test_a.py::test[1 - x]", "tests/test_b.py::test"]
if n:
    assert sys.argv[1:] == names, sys.argv
if n in {fails}:
    print(f"FAILED {{names[0]}} - assert 1 == 2\\nERROR {{names[1]}}\\n=== 1 failed ===")
    raise SystemExit(1)
print("=== 10 passed in 1s ===")
"""


@pytest.mark.parametrize(
    "fails, exit_code, runs",
    [([], 0, 1), ([0], 0, 1 + 3), ([0, 2], 1, 1 + 2), ([0, 1], 1, 1 + 1)],
)
def test_what_fails_beside_others_is_run_alone(
    monkeypatch, capsys, tmp_path, fails, exit_code, runs
):
    counted = tmp_path / "runs"
    program = SOMETIMES.format(runs=str(counted), fails=fails)
    command = [sys.executable, "-c", program]
    checks = [check.Check("sample", "nothing", command, alone=command)]
    monkeypatch.setattr(check, "all_checks", lambda every: checks)
    monkeypatch.setattr(sys, "argv", ["check.py", "--ci"])
    assert check.main() == exit_code
    assert len(counted.read_text()) == runs
    output = capsys.readouterr().out
    names = "tests/test_a.py::test[1 - x] tests/test_b.py::test"
    listed = f"sample: failed, but passed alone: {names}, 3 of 3 times\n"
    assert (listed in output) == (fails == [0])
    listed = f"sample: failed, and alone, after passing {runs - 2} times: {names}\n"
    assert (listed in output) == (exit_code == 1)
    # Only what runs for every change is so patient.
    counted.unlink()
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == (1 if 0 in fails else 0)
    assert (f"sample: failed: {names}\n" in capsys.readouterr().out) == (0 in fails)


@pytest.mark.parametrize(
    "line, runs, exit_code",
    [
        ("12 tests, 1 failed", 2, 0),
        ("WARNING: ThreadSanitizer: data race (pid=1)", 1, 1),
        ("==1==ERROR: AddressSanitizer: heap-use-after-free", 1, 1),
        ("csrc/core/list.h:3:1: runtime error: null pointer", 1, 1),
        ("==12== Invalid read of size 8", 1, 1),
        ("Fatal Python error: Segmentation fault", 1, 1),
        ("make: *** [Makefile:9: core] Aborted", 1, 1),
    ],
)
def test_another_check_is_run_again_unless_it_was_no_accident(
    monkeypatch, capsys, tmp_path, line, runs, exit_code
):
    counted = tmp_path / "runs"
    program = f"""
import pathlib
runs = pathlib.Path({str(counted)!r})
n = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (n + 1))
print({line!r})
raise SystemExit(n == 0)
"""
    checks = [check.Check("sample", "nothing", [sys.executable, "-c", program])]
    monkeypatch.setattr(check, "all_checks", lambda every: checks)
    monkeypatch.setattr(sys, "argv", ["check.py", "--ci"])
    assert check.main() == exit_code
    assert len(counted.read_text()) == runs
    listed = "sample: failed, but passed alone: the check, 1 of 1 times\n"
    assert (listed in capsys.readouterr().out) == (exit_code == 0)


def test_when_much_fails_all_is_run_again(monkeypatch, capsys):
    many = check.MOST_NAMED + 3
    names = "\\n".join(f"FAILED tests/test_a.py::test_{i}" for i in range(many))
    command = [sys.executable, "-c", f"print('{names}'); raise SystemExit(1)"]
    result = check.execute(check.Check("sample", "", command, alone=["true"]), command, 60)
    assert len(result.failed) == many
    assert check.look_again(result).word == "FAILED"
    monkeypatch.setattr(check, "run", lambda *_: result)
    monkeypatch.setattr(check, "all_checks", lambda every: [result.check])
    monkeypatch.setattr(sys, "argv", ["check.py", "--jobs", "1"])
    assert check.main() == 1
    few = " ".join(result.failed[: check.MOST_NAMED])
    assert f"sample: failed: {few} and 3 more\n" in capsys.readouterr().out
