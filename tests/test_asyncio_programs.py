"""Programs in asyncio's words do the same on our loop: the same trace, step by step."""

import asyncio_programs
import differential
import pytest

PROGRAMS = differential.programs(2000)


@pytest.mark.timeout(differential.timeout(PROGRAMS))
@pytest.mark.parametrize("seeds", PROGRAMS, ids=str)
def test_our_loop_does_as_asyncios(seeds):
    differential.check(asyncio_programs, seeds)


def test_a_difference_is_noticed_and_cut_down(monkeypatch):
    program = asyncio_programs.make_program(3)
    program["tasks"] = [[["turn", 0, 0, 0], ["sleep", 5, 0.001, 0]], [["look", 0, 0, 0]]]
    assert asyncio_programs.difference(program) == []

    async def sleep(run, where, n, seconds, m):
        return n + isinstance(run.loop, asyncio_programs.ReferenceLoop)

    monkeypatch.setitem(asyncio_programs.leaves, "sleep", sleep)
    assert asyncio_programs.shrink(program)["tasks"] == [[["sleep", 5, 0.001, 0]]]
    assert any(line.startswith("+") for line in asyncio_programs.difference(program))
