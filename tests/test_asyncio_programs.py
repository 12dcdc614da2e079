"""Programs in asyncio's words do the same on our loop: the same trace, step by step."""

import json
import os

import asyncio_programs
import pytest

FIRST = int(os.environ.get("PAC_FIRST", "0"))
PROGRAMS = int(os.environ.get("PAC_PROGRAMS", "2000"))
GROUP = 50


@pytest.mark.timeout(max(120, PROGRAMS))
@pytest.mark.parametrize("first", range(FIRST, FIRST + PROGRAMS, GROUP))
def test_our_loop_does_as_asyncios(first):
    for seed in range(first, min(first + GROUP, FIRST + PROGRAMS)):
        program = asyncio_programs.make_program(seed)
        if asyncio_programs.difference(program):
            program = asyncio_programs.shrink(program)
            lines = "\n".join(asyncio_programs.difference(program))
            pytest.fail(f"program {seed}, cut down: {json.dumps(program)}\n{lines}")


def test_a_difference_is_noticed_and_cut_down(monkeypatch):
    program = asyncio_programs.make_program(3)
    program["tasks"] = [[["turn", 0, 0, 0], ["sleep", 5, 0.001, 0]], [["look", 0, 0, 0]]]
    assert asyncio_programs.difference(program) == []

    async def sleep(run, where, n, seconds, m):
        return n + isinstance(run.loop, asyncio_programs.ReferenceLoop)

    monkeypatch.setitem(asyncio_programs.leaves, "sleep", sleep)
    assert asyncio_programs.shrink(program)["tasks"] == [[["sleep", 5, 0.001, 0]]]
    assert any(line.startswith("+") for line in asyncio_programs.difference(program))
