"""A server that speaks Redis's protocol: strings with expiry, counters, publish and subscribe.

    python examples/redis_server.py                  # shows itself, with redis_client.py
    python examples/redis_server.py --port 6380      # serves, for redis-cli and redis-benchmark

Shows: pyasync_c.net at speed. A read gives whatever has arrived, often many commands (pipelining);
one split() cuts them, the answers go out in one write. What a client subscribed to comes through a
bounded channel, so that one that does not read loses its connection and costs the others nothing.
Keys that expire wait in a heap, and one task sleeps until the next of them, woken by a Notify when
an earlier one comes. SIGTERM: nobody is accepted any more, and who is served gets their answer.
"""

import argparse
import asyncio
import heapq
import signal
import sys
import time
from collections.abc import Callable

import pyasync_c
from pyasync_c import net

Address = tuple[str, int]
CRLF = b"\r\n"
OK, NULL, PONG, ZERO, ONE = b"+OK\r\n", b"$-1\r\n", b"+PONG\r\n", b":0\r\n", b":1\r\n"
SYNTAX = b"-ERR syntax error\r\n"
NOT_AN_INTEGER = b"-ERR value is not an integer or out of range\r\n"
INT64 = range(-(1 << 63), 1 << 63)
MESSAGES_MAX = 1024
"""How many messages may wait for a subscriber."""
ARGUMENT_MAX = 512 * 1024 * 1024
ARGUMENTS_MAX = 1024 * 1024
INLINE_MAX = 64 * 1024
MARKS = [b"$%d" % n for n in range(1024)]
"""What stands before an argument of so many bytes."""


def bulk(value: bytes | None) -> bytes:
    return NULL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def integer(text: bytes) -> int | None:
    """As Redis reads one: no sign but a minus, no zeros before it, 64 bits."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if b"%d" % value == text and value in INT64 else None


# ── the protocol ─────────────────────────────────────────────────────────────────────────────


class ProtocolError(Exception):
    pass


def parse(data: bytes, commands: list[list[bytes]]) -> bytes:
    """Add the commands that are whole; the bytes that are left. ProtocolError comes after those.

    One split finds every mark and argument; it is right unless an argument holds the separator
    itself, which the lengths tell. Then that command and those behind it are cut by hand.
    """
    words = data.split(CRLF)
    last = len(words) - 1  # what is behind the last separator
    at = consumed = 0
    while at < last:
        head = words[at]
        if head[:1] != b"*":
            if head:
                commands.append(head.split())
            at += 1
            consumed += len(head) + 2
            continue
        count = integer(head[1:])
        if count is None or count > ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        end = at + 1 + 2 * max(count, 0)
        marks, command = words[at + 1 : end : 2], words[at + 2 : end : 2]
        try:
            if end > last or marks != [MARKS[len(word)] for word in command]:
                raise IndexError
        except IndexError:
            break
        if command:
            commands.append(command)
        consumed += sum(map(len, words[at:end])) + 2 * (end - at)
        at = end
    if at < last:
        return by_hand(data[consumed:], commands)
    if words[last][:1] != b"*" and len(words[last]) > INLINE_MAX:
        raise ProtocolError("too big inline request")
    return words[last]


def by_hand(data: bytes, commands: list[list[bytes]]) -> bytes:
    """As parse(), by the lengths."""
    begin = 0
    while (end := data.find(CRLF, begin)) >= 0:
        if data[begin : begin + 1] != b"*":
            if end > begin:
                commands.append(data[begin:end].split())
            begin = end + 2
            continue
        count = integer(data[begin + 1 : end])
        if count is None or count > ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        at = end + 2
        command = []
        for _ in range(count):
            mark = data[at : at + 1]
            if mark and mark != b"$":
                raise ProtocolError(f"expected '$', got '{mark.decode('latin1')}'")
            end = data.find(CRLF, at)
            if end < 0:
                return data[begin:]
            size = integer(data[at + 1 : end])
            if size is None or not 0 <= size <= ARGUMENT_MAX:
                raise ProtocolError("invalid bulk length")
            at = end + 2 + size + 2
            if at > len(data):
                return data[begin:]
            command.append(data[end + 2 : at - 2])
        if command:
            commands.append(command)
        begin = at
    return data[begin:]


# ── what is stored ───────────────────────────────────────────────────────────────────────────


class Store:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, float] = {}  # on the clock of the world, in seconds
        self.line: list[tuple[float, bytes]] = []
        self.changed = pyasync_c.Notify()

    def get(self, key: bytes) -> bytes | None:
        if self.deadlines and self.deadlines.get(key, INFINITE) <= time.time():
            self.delete(key)
        return self.values.get(key)

    def set(self, key: bytes, value: bytes, deadline: float | None = None) -> None:
        self.values[key] = value
        self.expire(key, deadline)

    def expire(self, key: bytes, deadline: float | None) -> None:
        if deadline is None:
            self.deadlines.pop(key, None)
            return
        self.deadlines[key] = deadline
        heapq.heappush(self.line, (deadline, key))
        if self.line[0] == (deadline, key):
            self.changed.notify_one()

    def delete(self, key: bytes) -> bool:
        self.deadlines.pop(key, None)
        return self.values.pop(key, None) is not None

    async def forget(self) -> None:
        """Delete keys when their time has come; runs until it is cancelled."""
        while True:
            while self.line and self.line[0][0] <= time.time():
                deadline, key = heapq.heappop(self.line)
                if self.deadlines.get(key) == deadline:
                    self.delete(key)
            wait = self.line[0][0] - time.time() if self.line else 3600.0
            await pyasync_c.select(pyasync_c.sleep(wait), self.changed.notified())


INFINITE = float("inf")


# ── commands ─────────────────────────────────────────────────────────────────────────────────


class Session:
    """One connection, and what it is subscribed to."""

    def __init__(self, server: "Server", stream: net.TcpStream) -> None:
        self.server = server
        self.store = server.store
        self.stream = stream
        self.channels: dict[bytes, None] = {}
        self.send: pyasync_c.Sender[bytes]
        self.messages: pyasync_c.Receiver[bytes]
        self.send, self.messages = pyasync_c.channel(MESSAGES_MAX)
        self.task: asyncio.Task[None] | None = None
        self.quits = False  # after what it is doing
        self.left_by_client = False
        self.waits = False  # for what its client says
        self.stopped = False

    def stop(self) -> None:
        """End it: at once if it waits, else when it has answered."""
        self.quits = True
        if self.waits and self.task is not None:
            self.stopped = True
            self.task.cancel()

    async def run(self) -> None:
        rest = b""
        while not self.quits:
            self.waits = True
            data = await (self.hear() if self.channels else self.stream.read())
            self.waits = False
            if not data:
                break
            commands: list[list[bytes]] = []
            broken = None
            try:
                rest = parse(rest + data if rest else data, commands)
            except ProtocolError as error:
                broken = b"-ERR Protocol error: %b\r\n" % str(error).encode()
            answers = self.answers(commands)
            if broken is not None and not self.left_by_client:
                answers.append(broken)
                self.quits = True
            if answers:
                await self.stream.write_all(b"".join(answers))

    def answers(self, commands: list[list[bytes]]) -> list[bytes]:
        answers = []
        for command in commands:
            answers.append(self.answer(command))
            if self.left_by_client:
                break
        return answers

    async def hear(self) -> bytes:
        """What the client says next; meanwhile it gets what it has subscribed to."""
        while True:
            reading = self.stream.read()
            _, said = await pyasync_c.select(self.messages.recv_many(100), reading)
            if isinstance(said, bytes):
                return said
            if not said:
                return b""  # it was too slow
            await self.stream.write_all(b"".join(said))

    def answer(self, command: list[bytes]) -> bytes:
        found = COMMANDS.get(command[0]) or COMMANDS.get(command[0].upper())
        if found is None:
            name = command[0].decode("latin1")
            given = "".join(f"'{word.decode('latin1')}' " for word in command[1:])
            text = f"-ERR unknown command '{name}', with args beginning with: {given}\r\n"
            return text.encode("latin1")
        handler, least, most = found
        if not least <= len(command) <= most:
            name = command[0].decode("latin1").lower()
            return f"-ERR wrong number of arguments for '{name}' command\r\n".encode("latin1")
        if self.channels and handler not in WHILE_SUBSCRIBED:
            name = command[0].decode("latin1").lower()
            return (
                f"-ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / "
                "QUIT / RESET are allowed in this context\r\n"
            ).encode("latin1")
        return handler(self, command)

    def leave(self) -> None:
        for channel in self.channels:
            self.server.unsubscribe(channel, self)
        self.channels.clear()
        self.send.close()

    # strings

    def do_get(self, command: list[bytes]) -> bytes:
        value = self.store.get(command[1])
        return NULL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)

    def do_set(self, command: list[bytes]) -> bytes:
        if len(command) == 3:
            self.store.set(command[1], command[2])
            return OK
        _, key, value, *options = command
        old = self.store.get(key)
        deadline, keep, wants_old, only = None, False, False, b""
        words = iter(options)
        for word in words:
            word = word.upper()
            if word in (b"NX", b"XX") and only in (b"", word):
                only = word
            elif word == b"GET":
                wants_old = True
            elif word == b"KEEPTTL" and deadline is None:
                keep = True
            elif word in UNITS and deadline is None and not keep:
                amount = next(words, None)
                if amount is None:
                    return SYNTAX
                number = integer(amount)
                if number is None:
                    return NOT_AN_INTEGER
                if number <= 0 or number > MOST_SECONDS[word]:
                    return b"-ERR invalid expire time in 'set' command\r\n"
                deadline = number * UNITS[word] + (0 if word in ABSOLUTE else time.time())
            else:
                return SYNTAX
        if only and (old is None) != (only == b"NX"):
            return bulk(old) if wants_old else NULL
        self.store.set(key, value, self.store.deadlines.get(key) if keep else deadline)
        return bulk(old) if wants_old else OK

    def do_del(self, command: list[bytes]) -> bytes:
        return b":%d\r\n" % sum(
            self.store.get(key) is not None and self.store.delete(key) for key in command[1:]
        )

    def do_exists(self, command: list[bytes]) -> bytes:
        return b":%d\r\n" % sum(self.store.get(key) is not None for key in command[1:])

    def add(self, key: bytes, by: int) -> bytes:
        present = self.store.get(key)
        old = 0 if present is None else integer(present)
        if old is None:
            return NOT_AN_INTEGER
        if old + by not in INT64:
            return b"-ERR increment or decrement would overflow\r\n"
        self.store.values[key] = b"%d" % (old + by)
        return b":%d\r\n" % (old + by)

    def do_incr(self, command: list[bytes]) -> bytes:
        return self.add(command[1], 1)

    def do_decr(self, command: list[bytes]) -> bytes:
        return self.add(command[1], -1)

    def do_incrby(self, command: list[bytes]) -> bytes:
        by = integer(command[2])
        return NOT_AN_INTEGER if by is None else self.add(command[1], by)

    # expiry

    def expire_in(self, command: list[bytes], unit: float) -> bytes:
        amount = integer(command[2])
        if amount is None:
            return NOT_AN_INTEGER
        if abs(amount) * unit > MOST_SECONDS[b"EX"]:
            name = command[0].lower()
            return b"-ERR invalid expire time in '%b' command\r\n" % name
        if self.store.get(command[1]) is None:
            return ZERO
        if amount <= 0:
            self.store.delete(command[1])
        else:
            self.store.expire(command[1], time.time() + amount * unit)
        return ONE

    def do_expire(self, command: list[bytes]) -> bytes:
        return self.expire_in(command, 1)

    def do_pexpire(self, command: list[bytes]) -> bytes:
        return self.expire_in(command, 0.001)

    def do_persist(self, command: list[bytes]) -> bytes:
        if self.store.get(command[1]) is None or command[1] not in self.store.deadlines:
            return ZERO
        self.store.expire(command[1], None)
        return ONE

    def left(self, key: bytes) -> float:
        """Milliseconds; -1: it does not expire, -2: there is none."""
        if self.store.get(key) is None:
            return -2
        deadline = self.store.deadlines.get(key)
        return -1 if deadline is None else max(0, round((deadline - time.time()) * 1000))

    def do_ttl(self, command: list[bytes]) -> bytes:
        left = self.left(command[1])
        return b":%d\r\n" % (left if left < 0 else (left + 500) // 1000)

    def do_pttl(self, command: list[bytes]) -> bytes:
        return b":%d\r\n" % self.left(command[1])

    # publish and subscribe

    def do_publish(self, command: list[bytes]) -> bytes:
        return b":%d\r\n" % self.server.publish(command[1], command[2])

    def do_subscribe(self, command: list[bytes]) -> bytes:
        answers = []
        for channel in command[1:]:
            if channel not in self.channels:
                self.channels[channel] = None
                self.server.subscribers.setdefault(channel, {})[self] = None
            count = len(self.channels)
            answers.append(array([bulk(b"subscribe"), bulk(channel), b":%d\r\n" % count]))
        return b"".join(answers)

    def do_unsubscribe(self, command: list[bytes]) -> bytes:
        answers = []
        channels: list[bytes | None] = [*(command[1:] or self.channels)]
        for channel in channels or [None]:
            if channel is not None and channel in self.channels:
                del self.channels[channel]
                self.server.unsubscribe(channel, self)
            count = len(self.channels)
            answers.append(array([bulk(b"unsubscribe"), bulk(channel), b":%d\r\n" % count]))
        return b"".join(answers)

    # the connection

    def do_ping(self, command: list[bytes]) -> bytes:
        said = command[1] if len(command) == 2 else None
        if self.channels:
            return array([bulk(b"pong"), bulk(said or b"")])
        return PONG if said is None else bulk(said)

    def do_echo(self, command: list[bytes]) -> bytes:
        return bulk(command[1])

    def do_quit(self, command: list[bytes]) -> bytes:
        self.quits = self.left_by_client = True
        return OK

    def do_select(self, command: list[bytes]) -> bytes:
        return OK if command[1] == b"0" else b"-ERR DB index is out of range\r\n"

    def do_flushall(self, command: list[bytes]) -> bytes:
        self.store.values.clear()
        self.store.deadlines.clear()
        self.store.line.clear()
        return OK

    def do_dbsize(self, command: list[bytes]) -> bytes:
        return b":%d\r\n" % len(self.store.values)

    def do_command(self, command: list[bytes]) -> bytes:
        return array([])  # redis-cli asks what there is to complete

    def do_client(self, command: list[bytes]) -> bytes:
        return OK  # what its name is

    def do_config(self, command: list[bytes]) -> bytes:
        if command[1].upper() != b"GET" or len(command) < 3:
            return b"-ERR unknown subcommand\r\n"
        known = {b"save": b"", b"appendonly": b"no", b"maxmemory": b"0"}
        found = [(name, known[name]) for name in map(bytes.lower, command[2:]) if name in known]
        return array([bulk(word) for pair in found for word in pair])


UNITS = {b"EX": 1.0, b"PX": 0.001, b"EXAT": 1.0, b"PXAT": 0.001}
ABSOLUTE = (b"EXAT", b"PXAT")
MOST_SECONDS = {word: (1 << 62) / 1000 / unit for word, unit in UNITS.items()}
ANY = 1 << 62
Handler = Callable[[Session, list[bytes]], bytes]
# For each command what does it, and how many words it has, its name among them.
COMMANDS: dict[bytes, tuple[Handler, int, int]] = {
    b"GET": (Session.do_get, 2, 2),
    b"SET": (Session.do_set, 3, ANY),
    b"DEL": (Session.do_del, 2, ANY),
    b"EXISTS": (Session.do_exists, 2, ANY),
    b"INCR": (Session.do_incr, 2, 2),
    b"DECR": (Session.do_decr, 2, 2),
    b"INCRBY": (Session.do_incrby, 3, 3),
    b"EXPIRE": (Session.do_expire, 3, 3),
    b"PEXPIRE": (Session.do_pexpire, 3, 3),
    b"PERSIST": (Session.do_persist, 2, 2),
    b"TTL": (Session.do_ttl, 2, 2),
    b"PTTL": (Session.do_pttl, 2, 2),
    b"PUBLISH": (Session.do_publish, 3, 3),
    b"SUBSCRIBE": (Session.do_subscribe, 2, ANY),
    b"UNSUBSCRIBE": (Session.do_unsubscribe, 1, ANY),
    b"PING": (Session.do_ping, 1, 2),
    b"ECHO": (Session.do_echo, 2, 2),
    b"QUIT": (Session.do_quit, 1, ANY),
    b"SELECT": (Session.do_select, 2, 2),
    b"FLUSHALL": (Session.do_flushall, 1, 2),
    b"FLUSHDB": (Session.do_flushall, 1, 2),
    b"DBSIZE": (Session.do_dbsize, 1, 1),
    b"COMMAND": (Session.do_command, 1, ANY),
    b"CLIENT": (Session.do_client, 2, ANY),
    b"CONFIG": (Session.do_config, 2, ANY),
}
WHILE_SUBSCRIBED = {
    Session.do_subscribe,
    Session.do_unsubscribe,
    Session.do_ping,
    Session.do_quit,
}


# ── the server ───────────────────────────────────────────────────────────────────────────────


class Server:
    def __init__(self, connections_max: int = 10_000) -> None:
        self.store = Store()
        self.subscribers: dict[bytes, dict[Session, None]] = {}
        self.sessions: dict[Session, None] = {}
        self.stop = pyasync_c.CancellationToken()
        self.slots = pyasync_c.Semaphore(connections_max)

    async def serve(self, listener: net.TcpListener) -> None:
        """Until `stop` is cancelled; then everybody gets the answer that is under way."""
        forgetting = pyasync_c.spawn(self.store.forget())
        try:
            async with pyasync_c.TaskGroup() as tasks:
                async with listener:
                    while True:
                        permit = await self.stop.run_until_cancelled(self.slots.acquire())
                        if permit is None:
                            break
                        accepted = await self.stop.run_until_cancelled(self.accept(listener))
                        if accepted is None:
                            break
                        session = Session(self, accepted[0])
                        session.task = tasks.create_task(self.run(session, permit))
                        self.sessions[session] = None
                for session in self.sessions:
                    session.stop()
        finally:
            forgetting.cancel()

    async def accept(self, listener: net.TcpListener) -> tuple[net.TcpStream, Address]:
        while True:
            try:
                return await listener.accept()
            except OSError as error:  # no descriptors, no memory: others may give some back
                print("server: cannot accept:", error, file=sys.stderr)
                await pyasync_c.sleep(0.1)

    async def run(self, session: Session, permit: pyasync_c.Permit) -> None:
        try:
            with permit:
                async with session.stream:
                    await session.run()
        except OSError:
            pass  # the client has gone, or was too slow
        except asyncio.CancelledError:
            if not session.stopped:
                raise
        finally:
            session.leave()
            del self.sessions[session]

    def publish(self, channel: bytes, message: bytes) -> int:
        to = self.subscribers.get(channel)
        if not to:
            return 0
        item = array([bulk(b"message"), bulk(channel), bulk(message)])
        reached = 0
        for session in list(to):
            try:
                session.send.try_send(item)
                reached += 1
            except pyasync_c.ChannelFull:
                session.stream.close()  # it does not read: it ends with an error there
        return reached

    def unsubscribe(self, channel: bytes, session: Session) -> None:
        of_channel = self.subscribers[channel]
        del of_channel[session]
        if not of_channel:
            del self.subscribers[channel]


async def main(host: str, port: int) -> None:
    server = Server()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop.cancel)
    listener = await net.TcpListener.bind(host, port)
    print(f"serving on {host} port {listener.local_addr[1]}", flush=True)
    await server.serve(listener)


def show() -> None:
    from redis_client import show_with

    signal.alarm(60)
    pyasync_c.run(show_with(Server()))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, help="serve there; 0: on any port")
    given = options.parse_args()
    if given.port is None:
        show()
    else:
        pyasync_c.run(main(given.host, given.port))
