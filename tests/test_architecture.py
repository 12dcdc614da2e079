"""ARCHITECTURE.md names a model or test for each claim, and tests/mutants.toml lines of the
sources: all of them have to exist."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import run_mutants

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {".cpp": "tests/model", ".c": "tests/core", ".py": "tests"}


def names_in(text):
    """Of what stands in backquotes, that which names a test: FILE, PATH, or FILE::TEST."""
    quoted = re.findall(r"`([\w/]+\.(?:cpp|c|py))(?:::(\w+))?`", text)
    return [
        (file, test)
        for file, test in quoted
        if test or re.match(r"(tests|benchmarks)/|(test|stress)_", file) or file.endswith(".cpp")
        if not re.search(r"[A-Z]{3}", file)  # FILE.cpp and the like
    ]


def find(file):
    if "/" in file:
        return ROOT / file
    return ROOT / FOLDERS[Path(file).suffix] / file


def is_defined(source, suffix, test):
    """Is there a test of this name; a model's case also has to be run."""
    if suffix == ".py":
        return re.search(rf"^(async )?def {test}\(", source, re.MULTILINE) is not None
    if suffix == ".c":
        defined = re.search(rf"^{test}\(void\)\n{{", source, re.MULTILINE)
        return defined and len(re.findall(rf"\b{test}\b", source)) > 1  # and listed
    return f"struct {test} : " in source and re.search(rf"CHECK_MODEL\({test}[,)]", source)


def complaints(text):
    for file, test in names_in(text):
        path = find(file)
        if not path.is_file():
            yield f"there is no {file}"
        elif test and not is_defined(path.read_text(), path.suffix, test):
            yield f"{file} has no {test}"


def test_what_architecture_names_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert list(complaints(text)) == []
    assert len([name for name in names_in(text) if name[0].endswith(".cpp")]) > 30


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("`nothing.cpp::two_wakes`", "there is no nothing.cpp"),
        ("`task_state.cpp::nothing`", "task_state.cpp has no nothing"),
        ("`test_notify.c::nothing`", "test_notify.c has no nothing"),
        ("`test_notify.py::nothing`", "test_notify.py has no nothing"),
        ("`tests/core/nothing.c`", "there is no tests/core/nothing.c"),
    ],
)
def test_the_check_itself(text, complaint):
    assert list(complaints(text)) == [complaint]


def test_every_model_is_named():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = {Path(file).name for file, _ in names_in(text)}
    assert {model.name for model in (ROOT / "tests/model").glob("*.cpp")} <= named


def test_the_mutants_are_in_step():
    mutants = run_mutants.load()
    assert run_mutants.problems(mutants) == []
    assert {mutant.invariant for mutant in mutants} == set(run_mutants.INVARIANTS)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"old": "no such line"}, "its lines stand 0 times in csrc/core/inject.c"),
        ({"old": "struct"}, "its lines stand"),
        ({"file": "csrc/core/nothing.c"}, "its lines stand 0 times in csrc/core/nothing.c"),
        ({"invariant": 13}, "there is no invariant 13"),
        ({"killed_by": []}, "no test is named"),
        ({"killed_by": ["model nothing"]}, "no such test: model nothing"),
        ({"killed_by": ["test_nothing"]}, "no such test: test_nothing"),
        ({"killed_by": ["test_notify.py::test_nothing"]}, "no such test: test_notify.py"),
    ],
)
def test_a_mutant_out_of_step_is_told(change, complaint):
    mutants = run_mutants.load()
    [mutant] = [m for m in mutants if m.name == "push_is_not_a_release"]
    assert run_mutants.problems([mutant]) == []
    [told] = run_mutants.problems([replace(mutant, **change)])
    assert complaint in told
