"""Streams without memory: each allocation fails in turn; no byte is lost, doubled or reordered."""

import pytest
from helpers import python

COMMON = r"""
import asyncio, faulthandler, sys
import _testcapi
import pyasync_c
from pyasync_c import net

DATA = bytes(range(256)) * 8
CONTEXT = pyasync_c.Context(pyasync_c.noop_waker())
PENDING = pyasync_c.PENDING

async def use(start, n):
    # The result, and whether an allocation failed on the way; then it is tried again.
    failed = False
    for attempt in range(2):
        future = None
        while True:
            if attempt == 0:
                _testcapi.set_nomemory(n, n + 1)
            try:
                if future is None:
                    future = start()
                result = future.poll(CONTEXT)
            except MemoryError:
                failed = True
                break
            finally:
                _testcapi.remove_mem_hooks()
            if result is not PENDING:
                return result, failed
            await pyasync_c.sleep(0.0002)
    raise AssertionError("failed with memory")
"""

SWEEP = r"""
async def once(n, kind):
    # All of DATA through a stream, while the n-th allocation fails; did one?
    a, b = net.UnixStream.pair()
    framed = net.Framed.delimited(a, b"\n")
    readings = {
        "some": lambda: a.read(size),
        "exactly": lambda: a.read_exactly(size),
        "until": lambda: a.read_until(b"\n"),
        "frames": framed.recv,
        "peek": lambda: a.peek(size),
        "readable": a.readable,
    }
    failures = []
    got = b""
    try:
        for piece in (DATA[:100] + b"\n", DATA[100:] * 20 + b"\n"):
            parts = [piece[:50], piece[50:]]
            failures.append((await use(b.writable, n))[1])
            failures.append((await use(lambda: b.write_all(parts), n))[1])
            size = len(piece)
            result, failed = await use(readings[kind], n)
            failures.append(failed)
            if kind not in ("peek", "readable"):
                got += result + b"\n" * (kind == "frames")
        sent = DATA[:100] + b"\n" + DATA[100:] * 20 + b"\n"
        b.close()
        result, failed = await use(a.read_to_end, n)
        failures.append(failed)
        assert got + result == sent, (n, kind)
    finally:
        a.close()
        b.close()
    return any(failures)

async def main():
    for kind in ("some", "exactly", "until", "frames", "peek", "readable"):
        n, failures, row = -1, 0, 0
        while row < 20:
            n += 1
            faulthandler.dump_traceback_later(20, exit=True)
            failed = await once(n, kind)
            failures += failed
            row = 0 if failed else row + 1
        assert failures > 0, kind
        print(kind, failures, "of", n)
    faulthandler.cancel_dump_traceback_later()

pyasync_c.run(main())
print("survived")
"""


TLS = r"""
from net_peer import tls_contexts

SERVER, CLIENT = tls_contexts()
LITTLE, MUCH = DATA[:100], DATA * 60
aborted = 0

async def connected():
    a, b = net.UnixStream.pair()
    return await pyasync_c.join(
        net.TlsStream.wrap(a, SERVER, server_side=True),
        net.TlsStream.wrap(b, CLIENT, server_hostname="localhost"),
    )

async def read(a, n, kind):
    # All that there is, or what comes before it is said that more is missing.
    global aborted
    got, failures = b"", False
    reading = {"some": lambda: a.read(70000), "exactly": lambda: a.read_exactly(left),
               "readable": lambda: a.readable()}[kind]
    while left := len(LITTLE + MUCH) - len(got):
        left = left if got else len(LITTLE)
        try:
            result, failed = await use(reading, n)
            if kind == "readable":
                result = await a.read(70000)
        except ConnectionAbortedError:
            aborted += 1
            return got, True
        got += result
        failures = failures or failed
    return got, failures

async def once(n, kind):
    a, b = await connected()
    async def send():
        await b.write_all(LITTLE)
        await pyasync_c.sleep(0.002)
        await b.write_all(MUCH)
    try:
        sending = pyasync_c.spawn(send())
        got, failed = await read(a, n, kind)
        assert (LITTLE + MUCH).startswith(got), (n, kind)
        if got == LITTLE + MUCH:
            await sending
        sending.cancel()
        try:
            # What has been encrypted and not counted is not written twice either.
            failed = (await use(lambda: a.write_all(DATA[:1000]), n))[1] or failed
            await a.shutdown()
            assert await b.read_to_end() == DATA[:1000]
        except ConnectionAbortedError:
            failed = True
    finally:
        a.close()
        b.close()
    return failed

async def main():
    for kind in ("some", "exactly", "readable"):
        n, failures, row = -1, 0, 0
        while row < 20:
            n += 1
            faulthandler.dump_traceback_later(20, exit=True)
            failed = await once(n, kind)
            failures += failed
            row = 0 if failed else row + 1
        assert failures > 5, (kind, failures)
        print(kind, failures, "of", n, "aborted", aborted)
    faulthandler.cancel_dump_traceback_later()

pyasync_c.run(main())
print("survived")
"""


TLS_HANDSHAKE = r"""
import ssl

class Plain:
    # Encrypts nothing, and begins a handshake in mid-stream: a write has to hear b"1" first.
    def __init__(self, incoming, outgoing):
        self.incoming, self.outgoing, self.heard = incoming, outgoing, b""

    def do_handshake(self):
        pass

    def pending(self):
        return 0

    def read(self, size):
        if self.heard == b"" or not self.incoming.pending:
            raise ssl.SSLWantReadError
        return self.incoming.read(size)

    def write(self, data):
        if self.heard == b"":
            if not self.incoming.pending:
                raise ssl.SSLWantReadError
            self.heard = self.incoming.read(1)
        return self.outgoing.write(data)

class Context(ssl.SSLContext):
    def wrap_bio(self, incoming, outgoing, **kwargs):
        return Plain(incoming, outgoing)

async def once(n):
    a, b = net.UnixStream.pair()
    stream = await net.TlsStream.wrap(a, Context(ssl.PROTOCOL_TLS_SERVER), server_side=True)
    await b.write_all(b"1")
    await pyasync_c.sleep(0.001)
    reading, failed = stream.read(), False
    _testcapi.set_nomemory(n, n + 1)
    try:
        reading.poll(CONTEXT)
    except MemoryError:
        failed = True
    except SystemError:
        pass  # the interpreter's own, of Plain.read
    finally:
        _testcapi.remove_mem_hooks()
    reading.drop()
    await b.write_all(b"2")
    try:
        await stream.write_all(b"written")
    except ConnectionAbortedError:
        return False  # it cannot be known what the SSLObject has done
    assert stream.ssl_object.heard == b"1", (n, stream.ssl_object.heard)
    assert await stream.read() == b"2", n
    assert await b.read() == b"written", n
    stream.close()
    b.close()
    return failed

async def main():
    assert sum([await once(n) for n in range(20)]) > 0
    print("survived")

pyasync_c.run(main())
"""


def test_out_of_memory_loses_no_byte():
    pytest.importorskip("_testcapi")
    assert python(COMMON + SWEEP).endswith("survived\n")


def test_out_of_memory_loses_no_byte_over_tls():
    """Or it is said that some are missing: what the SSLObject has decrypted and cannot give out."""
    pytest.importorskip("_testcapi")
    assert python(COMMON + TLS).endswith("survived\n")


def test_out_of_memory_keeps_the_order_of_a_handshake_in_mid_stream():
    """What a read could not hand on, a write that has to hear of it hands on first."""
    pytest.importorskip("_testcapi")
    assert python(COMMON + TLS_HANDSHAKE).endswith("survived\n")
