"""Random programs of one transport, which say the same on asyncio's loop and on ours: what its
protocol is called with, in which order, and which bytes come out at the other end.

The other end is a plain socket or pipe, moved by the program's own steps. A step is a list of
actions, [name, number], that one callback of the loop does one after the other; after each action
the kernel is waited for until it has delivered everything, and after each step the loop is run, a
turn at a time, until nothing happens any more. So no event comes earlier on one loop than on the
other. A protocol has a script: what its methods do when they are called for the first time, the
second, ...

What is not compared, or not done:
- How data is divided among calls of data_received. All is small enough for one read of either loop.
- How much of what is written a full socket has taken; whether there is something left, is.
- What asyncio's transports do wrong (see Run.act).
"""

import asyncio
import contextlib
import errno
import logging
import random
import re
import warnings
import zlib

import differential
import transport_peers as peers
from helpers import unraisable
from net_peer import tls_contexts

import pyasync_c

MUCH = 1 << 20  # more than any of these takes at once
PATTERN = bytes(i % 251 for i in range(251)) * (16 * MUCH // 251)
STILL = 4  # turns without an event, after which none comes any more
# Of MUCH, no low mark is reached before nearly all has gone: how much goes at a time is chance.
HIGHEST = {"high": 1 << 30, "low": 1000}
LIMITS = [{}, {"high": 0}, {"high": 10, "low": 5}, {"high": 1000}, {"low": 10}, HIGHEST]
SEPARATORS = [b"\x05", b"\x10\x11", b"\xff"]
WRONG_LIMITS = [{"high": 1, "low": 2}, {"low": -1}]


# ── actions ──────────────────────────────────────────────────────────────────────────────────

actions = {}


def action(function):
    actions[function.__name__.rstrip("_")] = function
    return function


@action
def write(run, n):
    run.transport.write(run.bytes_to_write(n))


@action
def write_bytearray(run, n):
    data = bytearray(run.bytes_to_write(n))
    run.transport.write(data)
    if not run.pending():  # or newer versions of asyncio write what it has become
        data[:] = bytes(len(data))


@action
def write_memoryview(run, n):
    run.transport.write(memoryview(run.bytes_to_write(n)))


@action
def write_nothing(run, n):
    run.transport.write(b"")


@action
def sendto(run, n):
    # More would have to wait, of which asyncio loses count; and one that has ended fails there.
    if run.outstanding < 8 and not run.transport.is_closing():
        run.outstanding += 1
        run.transport.sendto(run.bytes_to_write(n + 1))


@action
def write_text(run, n):
    if run.program["kind"] != "write pipe":  # of which asyncio asserts it
        run.transport.write("text")


@action
def write_much(run, n):
    run.transport.write(run.bytes_to_write(100 if run.is_tcp else MUCH))


@action
def writelines(run, n):
    if not run.transport.is_closing():  # or asyncio fails, having forgotten how
        run.transport.writelines([run.bytes_to_write(i) for i in range(1, n % 5)])


@action
def write_eof(run, n):
    run.transport.write_eof()


@action
def close(run, n):
    run.transport.close()


@action
def abort(run, n):
    if "pipe" not in run.program["kind"] or not run.transport.is_closing() or run.pending():
        run.transport.abort()  # else one of asyncio's fails


@action
def pause_reading(run, n):
    run.transport.pause_reading()


@action
def resume_reading(run, n):
    if not run.at_eof:  # or asyncio receives the end again
        run.transport.resume_reading()
        run.resumed = True


@action
def limits(run, n):
    chosen = LIMITS[n % len(LIMITS)]
    if run.is_tls and chosen.get("high") == 0:
        return None  # TLS pauses at the limit, not above it, so it would always
    run.transport.set_write_buffer_limits(**chosen)
    return run.transport.get_write_buffer_limits()


@action
def wrong_limits(run, n):
    run.transport.set_write_buffer_limits(**WRONG_LIMITS[n % len(WRONG_LIMITS)])


@action
def set_protocol(run, n):
    run.transport.set_protocol(run.protocols[n % len(run.protocols)])


@action
def call_soon(run, n):
    if not run.resumed:  # or what is there is received before or after it
        run.loop.call_soon(run.note, "called soon", n)


@action
def look(run, n):
    protocol = run.transport.get_protocol()
    return [*run.state(), getattr(protocol, "number", protocol is None)]


@action
def extra_info(run, n):
    default = run.transport.get_extra_info("no such thing", n)
    return [default, *run.peer.describe(run.transport)]


@action
def raise_(run, n):
    raise differential.Planned(n)


@action
def leave(run, n):
    raise SystemExit(n)  # which ends no connection, only this run of the loop


@action
def read(run, n):
    run.await_(run.reader.read, n)


@action
def read_all(run, n):
    run.await_(run.reader.read)


@action
def readexactly(run, n):
    run.await_(run.reader.readexactly, n)


@action
def readline(run, n):
    run.await_(run.reader.readline)


@action
def readuntil(run, n):
    run.await_(run.reader.readuntil, SEPARATORS[n % len(SEPARATORS)])


@action
def at_eof(run, n):
    return run.reader.at_eof()


@action
def drain(run, n):
    run.await_(run.writer.drain)


@action
def wait_closed(run, n):
    run.await_(run.writer.wait_closed)


@action
def cancel(run, n):
    if run.tasks:
        run.tasks[n % len(run.tasks)].cancel()


@action
def peer_sends(run, n):
    if run.unread() < 100_000 and run.peer.end:
        much = n == 3000 and not run.is_tcp and not run.is_tls and "pipe" not in run.program["kind"]
        return run.peer.send(run.bytes_to_send(n * 10 if much else n))


@action
def peer_receives(run, n):
    received = run.tell(run.peer.receive(n))
    run.outstanding -= 1  # datagrams
    return received


@action
def peer_ends(run, n):
    run.peer.shutdown()


@action
def peer_closes(run, n):
    run.peer.close()


@action
def peer_resets(run, n):
    run.peer.reset()


BYTES = ["write", "write_bytearray", "write_memoryview", "write_nothing", "write_text"]
WRITING = [*BYTES, "write_much", "writelines", "limits", "wrong_limits", "peer_receives"]
READING = ["peer_sends", "pause_reading", "resume_reading"]
READS = ["read", "read_all", "readexactly", "readline", "readuntil"]
AWAITED = [*READS, *READS, "drain", "wait_closed", "at_eof", "cancel"]
EITHER = ["set_protocol", "call_soon", "look", "extra_info"]
ENDS = ["close", "abort", "write_eof", "peer_ends", "peer_closes", "peer_resets"]
SAFE = ["look", "extra_info", "call_soon", "close", "raise"]  # on any that has ended
OFTEN = {"peer_sends": 6, "write": 3, "resume_reading": 3}


class Kind:
    """A kind of transport: what may be done to it, and what ends it."""

    def __init__(self, actions, ends, buffered=False):
        self.actions, self.ends, self.buffered = actions, ends, buffered


SOCKET = Kind([*READING, *WRITING, *EITHER], ENDS, buffered=True)
DATAGRAM = ["sendto"] * 3 + ["peer_sends", "peer_receives", *EITHER]
STREAM = Kind([*READING[:1], *WRITING, *AWAITED, *EITHER[1:]], ENDS)
KINDS = {
    "tcp": SOCKET,
    "unix": SOCKET,
    "tls": Kind(SOCKET.actions, [name for name in ENDS if name != "write_eof"], buffered=True),
    "accepted": SOCKET,
    "datagram": Kind(DATAGRAM, ["close", "abort", "peer_closes"]),
    "read pipe": Kind([*READING, *EITHER], ["close", "peer_closes"]),
    "write pipe": Kind([*WRITING, *EITHER], ["close", "abort", "write_eof", "peer_closes"]),
    "tcp streams": STREAM,
    "unix streams": STREAM,
    "tls streams": Kind(STREAM.actions, [name for name in ENDS if name != "write_eof"]),
}


# ── protocols ────────────────────────────────────────────────────────────────────────────────

METHODS = ["connection_made", "data_received", "eof_received", "connection_lost"]
FLOW = ["pause_writing", "resume_writing"]


class Protocol(asyncio.Protocol):
    """Tells the run of each call, and does what stands in its script."""

    def __init__(self, run, number, plan):
        self.run, self.number, self.plan = run, number, plan
        self.script = {name: list(calls) for name, calls in plan["script"].items()}

    def called(self, name, *what):
        self.run.note(name, self.number, *what, *self.run.state())
        self.play(name)

    def play(self, name):
        calls = self.script.get(name)
        if calls:
            self.run.act(f"in {name}", calls.pop(0))

    def connection_made(self, transport):
        self.run.transport = transport
        self.run.peer.connected(transport)
        self.called("connection_made")

    def data_received(self, data):
        self.run.note_data(self.number, data)
        self.play("data_received")

    def datagram_received(self, data, address):
        self.called("datagram_received", self.run.tell(data), address == self.run.peer.name)

    def error_received(self, error):
        self.called("error_received", self.run.tell(error))

    def eof_received(self):
        self.run.at_eof = True
        self.called("eof_received")
        return self.plan["keeps_open"]

    def pause_writing(self):
        self.called("pause_writing")

    def resume_writing(self):
        # asyncio's pipes say it when nothing is left, sockets when little enough is.
        is_pipe = self.run.program["kind"] == "write pipe"
        self.run.note("resume_writing", self.number, is_pipe or self.run.state())
        self.play("resume_writing")

    def connection_lost(self, error):
        self.run.lost = True
        self.called("connection_lost", self.run.tell(error))


class BufferedProtocol(Protocol, asyncio.BufferedProtocol):
    def __init__(self, run, number, plan):
        super().__init__(run, number, plan)
        self.buffer = bytearray(plan["buffer"])

    def get_buffer(self, hint):
        self.play("get_buffer")
        return memoryview(self.buffer)

    def buffer_updated(self, count):
        self.run.note_data(self.number, self.buffer[:count])
        self.play("data_received")


# ── programs ─────────────────────────────────────────────────────────────────────────────────


def make_program(seed):
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    return {
        "kind": kind,
        "limit": rng.choice([10, 200, 1 << 16]),  # of a stream's reader
        "server": rng.random() < 0.5,  # of TLS
        "debug": rng.random() < 0.2,
        "early": make_early(rng, kind),
        "protocols": [make_protocol(rng, kind) for _ in range(rng.choice([1, 1, 2]))],
        "steps": make_beginning(rng, kind)
        + [make_step(rng, kind) for _ in range(rng.randint(1, 14))],
    }


def make_beginning(rng, kind):
    """Often what makes a state out of which more can go wrong."""
    may = [name for name in ("write_much", "pause_reading") if name in KINDS[kind].actions]
    return [[[rng.choice(may), 0]]] if may and rng.random() < 0.4 else []


def make_early(rng, kind):
    """What the peer does before there is a transport."""
    # One of asyncio's write pipes whose reader has gone before is watched once it is closed.
    if "tls" in kind or kind == "write pipe" or rng.random() < 0.7:
        return []
    actions, ends = (
        [name for name in names if name.startswith("peer") and name != "peer_receives"]
        for names in (KINDS[kind].actions, KINDS[kind].ends)
    )
    return [make_action(rng, actions or ends, ends, 0.3) for _ in range(rng.choice([1, 2]))]


def make_protocol(rng, kind):
    # A small buffer that is just filled may be asked for again to learn that there is no more. So
    # only one that is never full does something when it is asked for.
    buffer = rng.choice([0, 0, 7, 1 << 19]) if KINDS[kind].buffered else 0
    asks = buffer > 7 and kind != "tls"  # ours asks only when there is something
    names = METHODS + FLOW + ["get_buffer"] * asks
    if kind == "datagram":
        names = ["connection_made", "datagram_received", "error_received", "connection_lost"]
    script = {}
    for name in rng.sample(names, rng.choice([0, 0, 1, 2, 3])):
        calls = rng.choice([1, 1, 2, 3])
        script[name] = [make_call(rng, kind, name) for _ in range(calls)]
    return {"buffer": buffer, "keeps_open": rng.choice([None, False, True]), "script": script}


def make_call(rng, kind, method):
    """What a method of a protocol does when it is called."""
    names, ends = KINDS[kind].actions, [*KINDS[kind].ends, "raise", "raise", "leave"]
    left_out = []
    if method == "get_buffer":
        left_out = ["set_protocol"]  # or what it says is the other's
    elif method == "connection_made" and kind == "write pipe":
        left_out = ["close", "abort", "write_eof"]  # or asyncio watches it once it is closed
    elif method == "datagram_received":
        left_out = ["call_soon"]  # ours receives several in a turn
    elif method == "error_received":
        left_out = ["raise", "leave"]  # asyncio raises it from sendto(), ours tells the handler
    elif method == "resume_writing":
        # Or asyncio calls connection_lost twice, or has nothing to write for ever.
        left_out = ["close", "abort", "write_eof", "leave"]
        if kind == "write pipe":
            left_out += ["limits", "look", "call_soon"]  # asyncio's pipes say it later
    names, ends = (
        [name for name in some if not name.startswith("peer") and name not in left_out]
        for some in (names, ends)
    )
    return [make_action(rng, names, ends, 0.4) for _ in range(rng.choice([0, 1, 1, 2]))]


def make_action(rng, names, ends, ending):
    if rng.random() < ending:
        name = rng.choice(ends)
    else:
        (name,) = rng.choices(names, [OFTEN.get(name, 1) for name in names])
    return [name, rng.choice([0, 1, 5, 14, 100, 3000])]


def make_step(rng, kind):
    if rng.random() < 0.1 and kind not in ("read pipe", "datagram"):
        return [["peer_receives_all", 0]]  # in turns, so a step of its own
    actions, ends = KINDS[kind].actions, KINDS[kind].ends
    return [make_action(rng, actions, ends, 0.1) for _ in range(rng.choice([1, 1, 1, 2, 3]))]


class Run:
    """One program on one loop, and what it has told."""

    def __init__(self, program, loop):
        self.program, self.loop = program, loop
        self.trace = []
        self.at_eof = self.resumed = False
        self.reader, self.writer, self.tasks = None, None, []
        self.transport, self.lost, self.closed_over_pending = None, False, False
        self.written = self.sent = self.delivered = 0
        self.outstanding, self.server = 0, None
        self.is_tcp = "tcp" in program["kind"] or program["kind"] == "accepted"
        self.is_stream, self.is_tls = "streams" in program["kind"], "tls" in program["kind"]
        self.peer = self.make_peer(program["kind"])
        self.protocols = [
            (BufferedProtocol if plan["buffer"] else Protocol)(self, i, plan)
            for i, plan in enumerate(program["protocols"])
        ]

    def make_peer(self, kind):
        if self.is_tls:
            return peers.TLSPeer(is_client=self.program["server"])
        if kind == "accepted":
            return peers.AcceptedPeer()
        if kind == "datagram":
            return peers.DatagramPeer()
        return peers.PipePeer(kind) if "pipe" in kind else peers.SocketPeer(kind.split()[0])

    # What actions use.

    def note(self, *what):
        self.trace.append(what)

    def note_data(self, number, data):
        """Merged with what came before, since it may be divided in another way."""
        self.delivered += len(data)
        if self.trace and self.trace[-1][:2] == ("data", number):
            data = self.trace.pop()[2] + data
        self.trace.append(("data", number, bytes(data)))

    def tell(self, what):
        if isinstance(what, OSError):
            return [type(what).__name__, errno.errorcode.get(what.errno)]
        if isinstance(what, BaseException):
            # Python 3.11's writelines says that it is write.
            return [type(what).__name__, str(what).replace("writelines()", "write()")]
        if isinstance(what, bytes):
            return [len(what), what[:10], zlib.crc32(what)]
        return what

    def state(self):
        reads = self.program["kind"] != "write pipe" and self.ask("is_reading")
        return [self.transport.is_closing(), reads, self.pending() > 0]

    def ask(self, name):
        """TLS that was closed twice has forgotten everything."""
        with contextlib.suppress(AttributeError):
            return getattr(self.transport, name)()

    def pending(self):
        writes = self.transport and self.program["kind"] not in ("read pipe", "datagram")
        return writes and self.ask("get_write_buffer_size") or 0

    def has_ended(self):
        return self.lost or self.transport is not None and not self.peer.is_open

    def unread(self):
        return peers.unread(self.peer.file) if self.peer.is_open else 0

    def bytes_to_write(self, n):
        self.written += n
        return PATTERN[self.written - n : self.written]

    def bytes_to_send(self, n):
        self.sent += n
        return PATTERN[self.sent - n : self.sent]

    def act(self, where, steps):
        for name, n in steps:
            # Having written all that was pending, asyncio's transports do not know that they have
            # ended.
            is_safe = name in SAFE or name.startswith("peer")
            if self.is_tls and self.breaks_off(name):
                continue
            if is_safe or not (self.has_ended() and self.closed_over_pending):
                self.do(where, name, n)
            self.look_at_pending()
            self.peer.wait()

    def look_at_pending(self):
        if self.pending() and self.transport.is_closing() and not self.is_tls:
            self.closed_over_pending = True

    def breaks_off(self, name):
        """Asyncio's TLS ends by an error when it is closed before it has read everything, and drops
        what is paused when the peer's end comes; ours does not (tls_protocol.h)."""
        if name == "peer_sends":
            return self.transport.is_closing()
        return name in ("close", "peer_closes", "peer_resets") and self.sent != self.delivered

    def do(self, where, name, n):
        try:
            result = self.tell(actions[name](self, n))
        except (differential.Planned, SystemExit) as error:
            self.note(where, name, n, self.tell(error))
            raise
        except Exception as error:
            result = self.tell(error)
        self.note(where, name, n, result)

    # The program.

    def turns(self):
        """Run the loop until nothing happens any more."""
        still, self.resumed = 0, False
        for _ in range(10_000):
            if still == STILL:
                return
            self.peer.wait()
            before = len(self.trace), self.trace[-1:], self.pending()
            self.loop.call_soon(self.loop.stop)
            try:
                self.loop.run_forever()
            except SystemExit as error:
                self.note("left", self.tell(error))
            self.look_at_pending()
            if self.is_stream and self.sent <= self.program["limit"]:
                self.delivered = self.sent
            after = len(self.trace), self.trace[-1:], self.pending()
            still = still + 1 if before == after else 0
        raise AssertionError("something happens for ever")

    def receive_all(self):
        """What the peer gets until the end, or until no more comes."""
        data, end = bytearray(), None
        while end is None:
            try:
                piece = self.peer.receive(1 << 20)
            except BlockingIOError:
                before = self.pending()
                self.turns()
                end = "no more" if self.pending() == before else None
            except OSError as error:
                end = self.tell(error)
            else:
                data += piece
                end = None if piece else "the end"
        self.note("the peer receives", self.tell(bytes(data)), end)

    async def connect(self):
        connect = {
            "read pipe": self.loop.connect_read_pipe,
            "write pipe": self.loop.connect_write_pipe,
        }.get(self.program["kind"])
        if connect:
            await connect(lambda: self.protocols[0], self.peer.file)
        elif self.program["kind"] == "accepted":
            self.server = await self.loop.create_server(
                lambda: self.protocols[0], sock=self.peer.listener
            )
        elif self.program["kind"] == "datagram":
            await self.loop.create_datagram_endpoint(lambda: self.protocols[0], sock=self.peer.file)
        elif self.is_stream:
            await self.connect_streams()
        else:
            await self.connect_socket(self.protocols[0])

    async def connect_socket(self, protocol):
        sock, context = self.peer.file, {}
        if self.program["server"]:
            if self.is_tls:
                context["ssl"] = tls_contexts()[0]
            return await self.loop.connect_accepted_socket(lambda: protocol, sock, **context)
        if self.is_tls:
            context = {"ssl": tls_contexts()[1], "server_hostname": "localhost"}
        return await self.loop.create_connection(lambda: protocol, sock=sock, **context)

    async def connect_streams(self):
        self.reader = asyncio.StreamReader(self.program["limit"], self.loop)
        protocol = asyncio.StreamReaderProtocol(self.reader, loop=self.loop)
        self.transport, _ = await self.connect_socket(protocol)
        self.writer = asyncio.StreamWriter(self.transport, protocol, self.reader, self.loop)

    def await_(self, function, *args):
        async def wait():
            try:
                result = await function(*args)
            except BaseException as error:
                result = error
            self.note("awaited", number, self.tell(result))

        number = len(self.tasks)
        self.tasks.append(self.loop.create_task(wait()))

    def main(self):
        self.loop.set_exception_handler(self._report)
        self.loop.set_debug(self.program["debug"])
        self.act("early", self.program["early"])
        connecting = self.loop.create_task(self.connect())
        for _ in range(10):
            self.turns()  # some, as TLS has to shake hands
            if connecting.done():
                break
        connecting.cancel()
        self.turns()
        cancelled = connecting.cancelled()
        self.note("connected", cancelled or self.tell(connecting.exception()))
        if self.transport is None:
            return self.note("nothing")
        for i, step in enumerate(self.program["steps"]):
            if step == [["peer_receives_all", 0]]:
                if self.peer.end:
                    self.receive_all()
            else:
                self.loop.call_soon(self.act, f"step {i}", step)
            self.turns()
        self.end()

    def end(self):
        self.note("at the end", *self.state())
        if not self.has_ended():
            self.act(
                "at the end", [["close" if self.program["kind"] == "read pipe" else "abort", 0]]
            )
        self.turns()
        if self.server:
            self.server.close()
        for task in self.tasks:
            task.cancel()
        self.turns()
        if self.peer.end:
            if self.program["kind"] not in ("read pipe", "datagram"):
                self.receive_all()
            self.peer.close()
        self.note("ended", self.peer.is_open, *self.state())

    def _report(self, _, context):
        message, error = context["message"], self.tell(context.get("exception"))
        if "never retrieved" in message or "destroyed" in message:
            return  # when it is collected
        if message.startswith("Exception in callback"):
            self.note("handler", "of a callback", error)  # which asyncio knows by its handle
        else:
            protocol = context["protocol"]
            transport = context["transport"] is self.transport
            self.note("handler", message, error, transport, type(protocol).__name__)


@contextlib.contextmanager
def logged(note):
    """Has what asyncio's logger is given noted, instead of written."""

    def emit(record):
        # Not how things print themselves, nor how long something has taken.
        message = re.sub("<.*>", "<>", record.getMessage(), flags=re.S)
        if not re.match("pipe closed|Executing|poll|.*connected|.*took", message):
            note("logged", message)

    logger, handler = logging.getLogger("asyncio"), logging.Handler()
    handler.emit = emit
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        logger.propagate = True


def play(program, make_loop):
    loop = make_loop()
    run = Run(program, loop)
    try:
        with logged(run.note):
            run.main()
    finally:
        loop.close()
        if run.peer.end:
            run.peer.close()
        run.peer.file.close()
    return [[(*line[:2], run.tell(line[2])) if line[0] == "data" else line for line in run.trace]]


def difference(program):
    """Lines that tell what the loops do differently: none, if they do not."""
    with warnings.catch_warnings(), unraisable():
        warnings.simplefilter("ignore")
        theirs = play(program, asyncio.SelectorEventLoop)
        ours = play(program, pyasync_c.new_event_loop)
    return differential.lines_that_differ(theirs, ours)


def shorter(program):
    """Each program that lacks one thing of this one."""
    for i, step in enumerate(program["steps"]):
        yield differential.without(program, "steps", i)
        for j in range(len(step) if len(step) > 1 else 0):
            yield differential.without(program, "steps", i, j)
    for i in range(len(program["early"])):
        yield differential.without(program, "early", i)
    if len(program["protocols"]) > 1:
        yield differential.without(program, "protocols", -1)
    for i, plan in enumerate(program["protocols"]):
        for name, calls in plan["script"].items():
            yield differential.without(program, "protocols", i, "script", name)
            for j, call in enumerate(calls):
                yield differential.without(program, "protocols", i, "script", name, j)
                for k in range(len(call)):
                    yield differential.without(program, "protocols", i, "script", name, j, k)


def shrink(program):
    return differential.shrink(program, shorter, difference)
