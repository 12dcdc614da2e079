"""Rules of the C sources that no compiler knows. Each is a function from source text to complaints,
and each is also tried on a piece of code that breaks it.

Where a rule is wrong about one function, a comment in that function says so: `cpylint: RULE, why`.
"""

import re
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"


# ---- reading C


TOKEN = re.compile(
    r"""(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.DOTALL,
)


def code_of(text):
    """The source without comments and the insides of strings; line numbers stay as they are."""

    def blank(match):
        if match["comment"]:
            return "\n" * match[0].count("\n") or " "
        return match[0][0] * 2

    # The name in #include "..." is not a string.
    return re.sub(
        r"^#include[^\n]*|" + TOKEN.pattern,
        lambda m: m[0] if m[0].startswith("#include") else blank(m),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def functions_of(text):
    """(name, body) of each function whose braces stand in the first column, as the style has it."""
    pattern = re.compile(r"^(\w+)\([^;{}]*\)\n\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
    return [(m[1], m[2]) for m in pattern.finditer(text)]


def excused(body, rule):
    return re.search(rf"cpylint: {rule}, \w", body) is not None


def includes_of(text):
    return re.findall(r"^\s*#\s*include\s+([<\"][^>\"]+[>\"])", text, re.MULTILINE)


# ---- which header may be used where

# The design's levels, from the bottom; within a line a file may use those before it. A file of the
# core that is not here is a leaf.
LEVELS = [
    ["platform", "poll", "list", "runnable"],
    ["waker", "future", "async"],
    ["atomic_waker", "task_state", "inject", "budget", "shuffle", "waitlist", "wheel"],
    ["scheduler", "task", "wake_group", "reactor", "io", "park"],
    ["executor"],
]
ORDER = [name for level in LEVELS for name in level]

MODEL = '"platform_model.hpp"'  # platform.h's other back end, of tests/model

# Leaves don't know each other, save those built on one: {leaf: what it may use besides the levels}.
BUILT_ON: dict[str, set[str]] = {
    "barrier": {"notify"},
    "event": {"notify"},
    "mutex": {"semaphore"},
    "once_cell": {"semaphore"},
    "rwlock": {"semaphore"},
}


def wrong_levels(name, text):
    allowed = ORDER[: ORDER.index(name) + 1] if name in ORDER else [*ORDER, name]
    allowed = {*allowed, *BUILT_ON.get(name, ())}
    headers = [i.strip('"') for i in includes_of(text) if i.startswith('"') and i != MODEL]
    return [f"{name} uses {h}" for h in headers if h.removesuffix(".h") not in allowed]


def python_in_core(text):
    return [i for i in includes_of(text) if i.strip('<>"') in ("Python.h", "structmember.h")]


def raw_atomics(text):
    """Atomics and locks that do not go through platform.h."""
    found = [i for i in includes_of(text) if i in ("<stdatomic.h>", "<pthread.h>")]
    names = r"\b(_Atomic|atomic_\w+|memory_order_\w+|__atomic_\w+|__sync_\w+|pthread_\w+)\b"
    return found + re.findall(names, re.sub(r"^\s*#\s*include.*", "", code_of(text), flags=re.M))


def aborts(text):
    return re.findall(r"\b(Py_FatalError|abort|exit|_exit)\(", code_of(text))


# ---- what a function must do


def slots_of(text, slot):
    """The functions that stand in a slot's entry of some type."""
    return set(re.findall(rf"\{{\s*{slot}\s*,\s*(?:\(void \*\)\s*)?(\w+)\s*\}}", code_of(text)))


# Functions that free an object and drop the type for their caller.
DROPPERS = ["pacpy_freelist_free"]


def types_not_dropped(text):
    """A heap type's instance owns a reference to its type."""
    drop = re.compile(rf"\bPy_DECREF\((tp|type)\)|\b({'|'.join(DROPPERS)})\(")
    return [
        name
        for name, body in functions_of(text)
        if (name in slots_of(text, "Py_tp_dealloc") or name.endswith("_dealloc"))
        and not excused(body, "dealloc")
        and not drop.search(code_of(body))
    ]


def types_not_visited(text):
    return [
        name
        for name, body in functions_of(text)
        if name in slots_of(text, "Py_tp_traverse")
        and not excused(body, "traverse")
        and not re.search(r"Py_VISIT\(Py_TYPE\(", code_of(body))
    ]


PAIRS = [("Py_EnterRecursiveCall", "Py_LeaveRecursiveCall"), ("Py_ReprEnter", "Py_ReprLeave")]


def unbalanced(text):
    return [
        f"{name}: {complaint}"
        for name, body in functions_of(text)
        for enter, leave in PAIRS
        if enter in body and not excused(body, "balance")
        for complaint in unbalanced_paths(code_of(body), enter, leave)
    ]


def unbalanced_paths(body, enter, leave):
    """Follow the body with a flag that says whether we are between enter and leave, None where no
    path leads. The block after `enter` is the one taken when it failed."""
    complaints = []
    inside, entering = False, False
    blocks = []  # for each open block: the flag before it, and at the ends of its if's other blocks
    ends = []
    labels = {}

    def join(flags, where):
        reached = {flag for flag in flags if flag is not None}
        if len(reached) > 1:
            complaints.append(f"{where}: only some paths are between {enter} and {leave}")
        return reached.pop() if reached else None

    words = (
        rf"\b(?:{enter}|{leave}|return|goto\s+\w+|break|continue|case)\b"
        r"|^\s*\w+:(?=\s)|\{|\}\s*else(?:\s+if\b)?|\}"
    )
    for match in re.finditer(words, body, re.MULTILINE):
        word = match[0].strip()
        if word == enter:
            entering = True
        elif word == leave:
            if inside is False:
                complaints.append(f"{leave} without {enter}")
            inside = False
        elif word == "{":
            blocks.append((True if entering else inside, ends))
            entering, ends = False, []
        elif word[0] == "}":
            before, others = blocks.pop()
            if word == "}":
                # An if without else, a loop and a switch can also be passed by.
                passed = None if others and others[-1] == "else" else before
                inside = join([*(o for o in others if o != "else"), inside, passed], "a block")
                ends = []
            else:
                others = [*(o for o in others if o != "else"), inside]
                ends = others if word.endswith("if") else [*others, "else"]
                inside = before
        elif word in ("return", "break", "continue"):
            if word == "return" and inside:
                complaints.append(f"return without {leave}")
            inside = None
        elif word.startswith("goto"):
            labels.setdefault(word.split()[1], []).append(inside)
            inside = None
        elif word in ("case", "default:"):
            inside = join([inside, blocks[-1][0]], word)
        else:
            inside = join([inside, *labels.get(word[:-1], [])], word)
    return complaints


# ---- the sources


def sources(*folders):
    return [f for folder in folders for f in sorted((CSRC / folder).glob("*.[ch]"))]


def complaints_of(rule, files):
    found = {str(f.relative_to(ROOT)): rule(f.read_text()) for f in files}
    return {name: complaints for name, complaints in found.items() if complaints}


PLATFORM = {CSRC / "core" / "platform.h", CSRC / "core" / "platform.c"}

RULES = {
    "python_in_core": (python_in_core, sources("core", "tutorial")),
    "raw_atomics": (raw_atomics, set(sources("core", "python")) - PLATFORM),
    "aborts": (aborts, set(sources("core", "python")) - PLATFORM),
    "types_not_dropped": (types_not_dropped, sources("python")),
    "types_not_visited": (types_not_visited, sources("python")),
    "unbalanced": (unbalanced, sources("python")),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule):
    check, files = RULES[rule]
    assert files
    assert complaints_of(check, files) == {}


def test_core_includes_point_downwards():
    files = sources("core")
    assert [c for f in files for c in wrong_levels(f.stem, f.read_text())] == []


def test_levels_name_only_files_that_exist():
    assert set(ORDER) <= {f.stem for f in sources("core")}


def test_droppers_drop_the_type():
    bodies = [dict(functions_of(f.read_text())) for f in sources("python")]
    for name in DROPPERS:
        found = [code_of(b[name]) for b in bodies if name in b]
        assert found and all("Py_DECREF(type)" in body for body in found)


# Lines at most. The tests of one file stay in one file, whatever their length.
@pytest.mark.parametrize(
    ("folder", "most"),
    [("csrc", 900), ("pyasync_c", 900), ("benchmarks", 900), ("examples", 900), ("tests", 2000)],
)
def test_no_file_is_too_long(folder, most):
    files = [f for f in (ROOT / folder).rglob("*") if f.suffix in (".c", ".h", ".py", ".pyi")]
    lines = {str(f.relative_to(ROOT)): f.read_text().count("\n") for f in files}
    assert {name: count for name, count in lines.items() if count > most} == {}


# ---- the rules themselves


def function(body, name="X_slot"):
    return f"static void\n{name}(PyObject *op)\n{{\n{indent(body, '    ')}\n}}\n"


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (python_in_core, "#include <Python.h>", '#include "future.h"'),
        (raw_atomics, "#include <stdatomic.h>", '#include "platform.h"'),
        (raw_atomics, "x = __atomic_load_n(&y, 0);", "x = pac_atomic_load(&y, PAC_RELAXED);"),
        (raw_atomics, "pthread_mutex_lock(&m);", "/* not pthread_mutex_lock */"),
        (aborts, 'Py_FatalError("no");', "/* Py_FatalError(...) */"),
        (
            types_not_dropped,
            function("tp->tp_free(op);", "X_dealloc"),
            function("tp->tp_free(op);\nPy_DECREF(tp);", "X_dealloc"),
        ),
        (
            types_not_dropped,
            function("tp->tp_free(op);", "gone") + "{Py_tp_dealloc, gone},",
            function("base(op); /* cpylint: dealloc, base drops it */", "X_dealloc"),
        ),
        (
            types_not_visited,
            function("Py_VISIT(self->x);", "walk") + "{Py_tp_traverse, walk},",
            function("Py_VISIT(Py_TYPE(op));\nPy_VISIT(self->x);", "walk")
            + "{Py_tp_traverse, walk},",
        ),
        (
            types_not_visited,
            function("/* Py_VISIT(Py_TYPE(op)); */", "walk") + "{Py_tp_traverse, (void *)walk},",
            function("Py_VISIT(self->x);", "not_a_slot_traverse"),
        ),
    ],
)
def test_rule_itself(rule, bad, good):
    assert rule(bad) != []
    assert rule(good) == []


@pytest.mark.parametrize(
    ("name", "text", "complains"),
    [
        ("list", '#include "platform.h"\n#include <stdlib.h>', False),
        ("list", '#include "waker.h"', True),
        ("park", '#include "reactor.h"', False),
        ("reactor", '#include "park.h"', True),
        ("notify", '#include "notify.h"\n#include "executor.h"', False),
        ("notify", '#include "delay.h"', True),
        ("executor", '#include "delay.h"', True),
        ("task", '#include "state.h"', True),
        ("task", '#include "../python/state.h"', True),
    ],
)
def test_levels_rule_itself(name, text, complains):
    assert bool(wrong_levels(name, text)) == complains


ENTER = 'if (Py_EnterRecursiveCall(" x")) {\nreturn NULL;\n}\n'
LEAVE = "Py_LeaveRecursiveCall();\n"
DEFAULT = "return x;\ndefault:\nbreak;\n}\n"


@pytest.mark.parametrize(
    ("body", "complains"),
    [
        (ENTER + LEAVE + "return x;", False),
        (ENTER + "return x;", True),
        (ENTER + "if (!x) {\n" + LEAVE + "return NULL;\n}\n" + LEAVE + "return x;", False),
        (ENTER + "if (!x) {\nreturn NULL;\n}\n" + LEAVE + "return x;", True),
        (ENTER + "if (!x) {\n" + LEAVE + "}\nreturn x;", True),
        (ENTER + "if (!x) {\ngoto done;\n}\ny();\ndone:\n" + LEAVE + "return x;", False),
        (ENTER + "if (!x) {\ngoto done;\n}\n" + LEAVE + "done:\nreturn x;", True),
        (ENTER + "for (;;) {\nif (x) {\nbreak;\n}\n}\n" + LEAVE + "return x;", False),
        (ENTER + LEAVE + LEAVE + "return x;", True),
        (ENTER + "if (x) {\n" + LEAVE + "}\nelse {\n" + LEAVE + "}\nreturn x;", False),
        (ENTER + "if (x) {\n" + LEAVE + "}\nelse {\ny();\n}\nreturn x;", True),
        (ENTER + "if (x) {\ny();\n}\nelse if (z) {\nreturn z;\n}\n" + LEAVE, True),
        (ENTER + "switch (x) {\ncase 1:\n" + LEAVE + DEFAULT + LEAVE, False),
        (ENTER + "switch (x) {\ncase 1:\n" + DEFAULT + LEAVE, True),
        ('int r = Py_ReprEnter(op);\nif (r != 0) {\nreturn r > 0 ? a : b;\n}\n'
         "Py_ReprLeave(op);\nreturn x;", False),
        ("int r = Py_ReprEnter(op);\nif (r != 0) {\nreturn r > 0 ? a : b;\n}\nreturn x;", True),
        (ENTER + "return x; /* cpylint: balance, the caller leaves */", False),
    ],
)  # fmt: skip
def test_balance_rule_itself(body, complains):
    assert bool(unbalanced(function(body))) == complains
