"""Transports do on our loop what asyncio's do on asyncio's: protocols are called with the same, in
the same order, and the same bytes come out at the other end."""

import differential
import pytest
import transport_programs

import pyasync_c

PROGRAMS = differential.programs(400)


@pytest.mark.timeout(differential.timeout(PROGRAMS))
@pytest.mark.parametrize("seeds", PROGRAMS, ids=str)
def test_our_transports_do_as_asyncios(seeds):
    differential.check(transport_programs, seeds)


@pytest.mark.parametrize("kind", transport_programs.KINDS)
def test_a_difference_is_noticed_and_cut_down(monkeypatch, kind):
    program = transport_programs.make_program(1)
    script = {"connection_made": [[["call_soon", 1]]]}
    program["protocols"] = [{"buffer": 0, "keeps_open": None, "script": script}] * 2
    program |= {"kind": kind, "steps": [[["extra_info", 0], ["look", 0]], [["call_soon", 5]]]}
    assert transport_programs.difference(program) == []

    def look(run, n):
        return isinstance(run.loop, pyasync_c.EventLoop)

    monkeypatch.setitem(transport_programs.actions, "look", look)
    cut = transport_programs.shrink(program)
    assert cut["steps"] == [[["look", 0]]]
    assert [protocol["script"] for protocol in cut["protocols"]] == [{}]
    assert any(line.startswith("+") for line in transport_programs.difference(cut))


def test_what_programs_come_to():
    """All kinds of transports, and all that a protocol can be called with."""
    seen = set()
    for seed in range(150):
        program = transport_programs.make_program(seed)
        for name, *_ in transport_programs.play(program, pyasync_c.new_event_loop)[0]:
            seen |= {name, (program["kind"], name)}
    assert seen >= set(transport_programs.METHODS + transport_programs.FLOW) - {"data_received"}
    assert seen >= {"data", "datagram_received", "awaited", "handler", "the peer receives"}
    for kind in transport_programs.KINDS:
        if "streams" not in kind:
            assert (kind, "connection_lost") in seen
        if kind in ("tcp", "unix", "tls", "accepted", "read pipe"):
            assert (kind, "data") in seen
