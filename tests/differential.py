"""What the tests share that run random programs on two implementations: comparing what they tell,
cutting a program down that tells them apart, and printing it.

A program is data, of lists, dicts and what JSON knows, so that it can be copied and printed.
"""

import difflib
import json
import os

import pytest

FIRST = int(os.environ.get("PAC_FIRST", "0"))
GROUP = 50


class Planned(Exception):
    """What programs raise."""


def lines_that_differ(theirs, ours):
    """Of what asyncio's loop and ours tell, which is lists of lines: none, if all is the same."""
    lines = [[repr(line) for part in said for line in part] for said in (theirs, ours)]
    return list(difflib.unified_diff(*lines, "asyncio's loop", "ours", n=4, lineterm=""))


def without(program, *way):
    """A copy that lacks what stands there."""
    cut = json.loads(json.dumps(program))
    node = cut
    for index in way[:-1]:
        node = node[index]
    del node[way[-1]]
    return cut


def shrink(program, shorter, difference):
    """The shortest that still tells the loops apart, by leaving out one thing after the other."""
    found = next((cut for cut in shorter(program) if difference(cut)), None)
    return program if found is None else shrink(found, shorter, difference)


def programs(default):
    """How many to run, as groups for pytest to parametrise by."""
    count = int(os.environ.get("PAC_PROGRAMS", default))
    return [range(i, min(i + GROUP, FIRST + count)) for i in range(FIRST, FIRST + count, GROUP)]


def timeout(groups):
    """Of one test, in seconds: enough even to cut a program down."""
    return max(120, len(groups) * GROUP)


def check(module, seeds):
    """No program of these tells the loops apart."""
    for seed in seeds:
        program = module.make_program(seed)
        if module.difference(program):
            program = module.shrink(program)
            lines = "\n".join(module.difference(program))
            pytest.fail(f"program {seed}, cut down: {json.dumps(program)}\n{lines}")
