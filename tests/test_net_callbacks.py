"""Protocols that misbehave in their callbacks, on our loop and on asyncio's: the same happens.

Each callback of a protocol raises, closes, aborts, pauses, writes or asks for the end of its half,
once, or each time. What the protocol was told, in which order, what its peer received, how it ended
and what was reported to the loop's exception handler is written down; asyncio's loop says what is
right, and a few things have to hold on any.
"""

import asyncio

import pytest
from net_faces import PROTOCOL, Place
from net_peer import connected, counts, listening, until

PAUSE = 0.004
HELLO = b"hello, " * 30
MUCH = bytes(200_000)
HIGH = 10_000


class PlannedError(Exception):
    pass


def raises(protocol):
    raise PlannedError


def closes(protocol):
    protocol.transport.close()


def closes_twice(protocol):
    protocol.transport.close()
    protocol.transport.close()


def aborts(protocol):
    protocol.transport.abort()


def closes_and_aborts(protocol):
    protocol.transport.close()
    protocol.transport.abort()


def aborts_and_raises(protocol):
    protocol.transport.abort()
    raise PlannedError


def pauses(protocol):
    protocol.transport.pause_reading()
    protocol.loop.call_later(PAUSE, protocol.resume)


def pauses_and_resumes(protocol):
    protocol.transport.pause_reading()
    protocol.transport.resume_reading()


def writes(protocol):
    protocol.transport.write(b"w")


def writes_much(protocol):
    protocol.transport.write(MUCH)


def writes_and_closes(protocol):
    protocol.transport.write(MUCH)
    protocol.transport.close()


def ends(protocol):
    if protocol.transport.can_write_eof():
        protocol.has_ended = True
        protocol.transport.write_eof()


def writes_and_ends(protocol):
    protocol.transport.write(MUCH)
    ends(protocol)


def hands_over(protocol):
    """Another protocol from now on."""
    if protocol.log[-1] != "connection_lost":
        protocol.transport.set_protocol(Successor(protocol))


def sets_limits(protocol):
    protocol.transport.set_write_buffer_limits(high=0)


ACTIONS = [
    raises,
    closes,
    closes_twice,
    aborts,
    closes_and_aborts,
    aborts_and_raises,
    pauses,
    pauses_and_resumes,
    writes,
    writes_much,
    writes_and_closes,
    ends,
    writes_and_ends,
    hands_over,
    sets_limits,
]
CALLBACKS = [
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
]


class Misbehaving(asyncio.Protocol):
    """Does `action` in `callback`, and writes down what it is told."""

    def __init__(self, callback, action, once):
        self.callback, self.action, self.once = callback, action, once
        self.loop = asyncio.get_running_loop()
        self.log = []
        self.done = 0
        self.inside = 0
        self.received = bytearray()
        self.has_ended = False

    def told(self, what):
        # Data comes in pieces that nobody promises; everything else is to the letter.
        if what != "data_received" or self.log[-1:] != [what]:
            self.log.append(what)
        if what == self.callback and not (self.once and self.done):
            self.done += 1
            self.inside += 1
            # pause_writing comes from within write(), and so may come in any other callback.
            assert self.inside < 3, "called from within itself again"
            try:
                self.action(self)
            finally:
                self.inside -= 1

    def resume(self):
        self.transport.resume_reading()

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH)
        self.told("connection_made")

    def data_received(self, data):
        assert isinstance(data, bytes) and data
        self.received += data
        self.told("data_received")

    def eof_received(self):
        self.told("eof_received")

    def pause_writing(self):
        self.told("pause_writing")

    def resume_writing(self):
        self.told("resume_writing")

    def connection_lost(self, error):
        self.log.append(f"lost by {type(error).__name__}" if error else "lost")
        self.told("connection_lost")


class Successor(Misbehaving):
    """What another protocol hands its transport to; it keeps the same log, and behaves."""

    def __init__(self, before):
        super().__init__(None, None, True)
        self.log, self.received = before.log, before.received
        self.log.append("handed over")
        self.transport = before.transport


async def scene(place, callback, action, once):
    """One connection: a request, an answer that is read late, and the end of it."""
    loop = asyncio.get_running_loop()
    made = []

    def factory():
        made.append(Misbehaving(callback, action, once))
        return made[-1]

    listener = listening(place.link, place.folder)
    server = await loop.create_server(factory, sock=listener, ssl=place.server_tls)
    sock = await connected(listener.getsockname(), small=True)
    peer = place.peer_of(sock, is_server=False)
    received = b""
    try:
        if place.is_tls:
            await peer.shake_hands()
        await peer.send(HELLO)
        await asyncio.sleep(PAUSE)
        if not made[0].transport.is_closing() and not made[0].has_ended:
            # This makes it pause and resume, whatever else it does.
            made[0].transport.write(MUCH)
            await asyncio.sleep(PAUSE)
        async with asyncio.timeout(2 * PAUSE):
            while more := await peer.receive():
                received += more
    except (ConnectionError, TimeoutError):
        pass
    try:
        await peer.shutdown()
        async with asyncio.timeout(0.3):
            while more := await peer.receive():
                received += more
            ended = "end"
    except ConnectionError:
        ended = "reset"
    except OSError as error:
        ended = type(error).__name__
    peer.close()
    protocol = made.pop()
    if not protocol.transport.is_closing():
        protocol.transport.abort()
    await until(lambda: "connection_lost" in protocol.log)
    await asyncio.sleep(0)
    server.close()
    return protocol.log, bytes(protocol.received), received, ended


def happens(runner, link, folder, *arguments):
    """What happened there: the log, the data both ways, how it ended, what was reported."""
    place = Place(PROTOCOL, runner, link, folder)
    reports = []

    async def main():
        log, got, sent, ended = await scene(place, *arguments)
        for context in place.reports:
            # Which object had the callback is told by its repr, which is each loop's own.
            message = context["message"].partition(" callback ")[0]
            reports.append((message, type(context.get("exception")).__name__))
        place.reports.clear()
        return log, got, len(sent), ended

    log, got, sent, ended = place.run(main())
    assert log[0] == "connection_made" and log.count("connection_lost") == 1
    assert [e for e in log if "lost" in e] == log[-2:]
    assert HELLO.startswith(got)
    counts["misbehaving callbacks"] += 1
    return {"log": log, "got": got, "sent": sent, "ended": ended, "reports": reports}


TRIES = 3
"""On a busy machine the peer may come late, on either loop, and then another thing is right."""


@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_misbehaving_callbacks(callback, action, once, net_folder):
    arguments = ("tcp", net_folder, callback, action, once)
    for _ in range(TRIES):
        ours, asyncios = happens("ours", *arguments), happens("asyncio", *arguments)
        if ours == asyncios:
            break
        counts["misbehaving callbacks tried again"] += 1
    assert ours == asyncios
