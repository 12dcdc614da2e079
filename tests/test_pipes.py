"""connect_read_pipe, connect_write_pipe and the pipes of child processes: our transports, and what
asyncio documents on asyncio's as well."""

import asyncio
import contextlib
import contextvars
import hashlib
import io
import os
import random
import socket
import sys
import weakref

import pytest
from helpers import collect, every_transport, open_fds, turns

import pyasync_c


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.calls = []
        self.received = bytearray()
        self.changed = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.received += data
        self.changed.set()

    def eof_received(self):
        self.note("eof")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.note("lost")
        self.lost.set_result(exc)

    def note(self, call):
        self.calls.append(call)
        self.changed.set()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 30)


async def reading(pipe, protocol=Recorder):
    return await asyncio.get_running_loop().connect_read_pipe(protocol, pipe)


async def writing(pipe, protocol=Recorder):
    return await asyncio.get_running_loop().connect_write_pipe(protocol, pipe)


def pipe_files():
    read, write = os.pipe()
    return open(read, "rb", 0), open(write, "wb", 0)


@every_transport
def test_through_a_pipe(run):
    async def main():
        read, write = pipe_files()
        reader, heard = await reading(read)
        writer, said = await writing(write)
        assert reader.get_extra_info("pipe") is read
        assert writer.get_extra_info("pipe") is write
        data = random.Random(2).randbytes(1_000_000)
        for start in range(0, len(data), 99_999):
            writer.write(bytearray(data[start : start + 99_999]))
        writer.writelines([b"and ", memoryview(b"the "), b"", b"rest"])
        assert writer.can_write_eof()
        writer.write_eof()
        assert writer.is_closing()
        assert await said.lost is None
        assert await heard.lost is None
        assert heard.calls == ["made", "eof", "lost"]
        expected = hashlib.sha256(data + b"and the rest").digest()
        assert hashlib.sha256(heard.received).digest() == expected
        assert "pause" in said.calls
        assert said.calls[-1] == "lost"
        assert read.closed
        assert write.closed

    run(main())


@every_transport
def test_it_is_closing_when_its_protocol_hears_of_the_end(run):
    class Asks(Recorder):
        def eof_received(self):
            self.note(self.transport.is_closing())
            self.transport.close()

    async def main():
        read, write = pipe_files()
        _, heard = await reading(read, Asks)
        write.close()
        assert await heard.lost is None
        assert heard.calls == ["made", True, "lost"]

    run(main())


@every_transport
@pytest.mark.parametrize("kind", ["packets", "SEQPACKET", "DGRAM"])
def test_what_keeps_messages_apart(run, kind):
    async def main():
        if kind == "packets":
            fds = os.pipe2(os.O_DIRECT)
            read, write = open(fds[0], "rb", 0), open(fds[1], "wb", 0)
        else:
            read, write = socket.socketpair(socket.AF_UNIX, getattr(socket, f"SOCK_{kind}"))
        with write:
            for message in b"abc", b"def", b"ghi":
                os.write(write.fileno(), message)
            reader, heard = await reading(read)
            await heard.until(lambda: heard.received == b"abcdefghi")
            reader.close()
            await heard.lost

    run(main())


@every_transport
def test_a_reader_that_goes_ends_the_writer(run):
    async def main():
        for pending in False, True:
            read, write = pipe_files()
            writer, said = await writing(write)
            if pending:
                writer.write(bytes(1_000_000))
                assert writer.get_write_buffer_size() > 0
            read.close()
            assert (type(await said.lost) is BrokenPipeError) is pending
            writer.write(b"to nobody")
            assert writer.is_closing()

    run(main())


@every_transport
def test_flow_control(run):
    async def main():
        read, write = pipe_files()
        with read:
            writer, said = await writing(write)
            writer.set_write_buffer_limits(high=1000, low=100)
            assert writer.get_write_buffer_limits() == (100, 1000)
            writer.write(bytes(70_000))  # more than a pipe takes
            assert said.calls == ["made", "pause"]
            await turns()
            read.read(70_000)
            await said.until(lambda: said.calls == ["made", "pause", "resume"])
            writer.close()
            assert await said.lost is None

    run(main())


@every_transport
def test_closing_and_aborting(run):
    async def main():
        for abort in False, True:
            read, write = pipe_files()
            with read:
                writer, said = await writing(write)
                writer.write(bytes(100_000))
                writer.abort() if abort else writer.close()
                await turns()
                assert said.lost.done() is abort
                received = len(read.read(65536))
                if not abort:
                    assert await said.lost is None
                while chunk := read.read(65536):
                    received += len(chunk)
                assert (received == 100_000) is not abort

    run(main())


@every_transport
@pytest.mark.parametrize("abort", [False, True])
def test_what_is_written_after_closing_holds_nothing_up(run, abort):
    async def main():
        read, write = pipe_files()
        with read:
            writer, said = await writing(write)
            writer.write(bytes(100_000))
            writer.close()
            writer.write(b"too late")
            if abort:
                writer.abort()
                assert await asyncio.wait_for(said.lost, 30) is None
            received = 0
            os.set_blocking(read.fileno(), False)
            while (chunk := read.read(65536)) != b"":
                received += len(chunk or b"")
                await asyncio.sleep(0.001)
            assert (received == 100_000) is not abort
            assert await asyncio.wait_for(said.lost, 30) is None

    run(main())


@every_transport
def test_the_end_comes_in_call_soon_order(run):
    class Asks(Recorder):
        def eof_received(self):
            self.note("eof")
            asyncio.get_running_loop().call_soon(self.note, "soon")

    async def main():
        read, write = pipe_files()
        _, heard = await reading(read, Asks)
        write.close()
        await heard.until(lambda: "soon" in heard.calls and "lost" in heard.calls)
        assert heard.calls == ["made", "eof", "lost", "soon"]

    run(main())


@every_transport
def test_paused_and_resumed(run):
    async def main():
        read, write = pipe_files()
        with write:
            reader, heard = await reading(read)
            assert reader.is_reading()
            reader.pause_reading()
            reader.pause_reading()
            assert not reader.is_reading()
            write.write(b"waits")
            await asyncio.sleep(0.01)
            assert not heard.received
            reader.resume_reading()
            await heard.until(lambda: heard.received == b"waits")
            reader.close()
            assert await heard.lost is None
            assert heard.calls == ["made", "lost"]

    run(main())


@every_transport
def test_sockets_and_terminals(run):
    async def main():
        one, two = socket.socketpair()
        with two:
            reader, heard = await reading(one)
            two.send(b"by a socket")
            await heard.until(lambda: heard.received == b"by a socket")
            reader.close()
            await heard.lost
        master, slave = os.openpty()
        # Both directions by one descriptor, as programs do with their terminal.
        ends = [open(master, "rb", 0), open(master, "wb", 0, closefd=False)]
        reader, heard = await reading(ends[0])
        writer, said = await writing(ends[1])
        writer.write(b"typed\n")
        await turns()
        assert os.read(slave, 100) == b"typed\n"
        os.write(slave, b"printed\n")
        await heard.until(lambda: b"printed" in heard.received)
        writer.close()
        await said.lost
        reader.close()
        await heard.lost
        os.close(slave)

    run(main())


@every_transport
def test_what_epoll_does_not_take(run, tmp_path):
    async def main():
        with open(tmp_path / "file", "wb", 0) as file:
            with pytest.raises(ValueError, match="only"):
                await writing(file)
            with pytest.raises(ValueError, match="only"):
                await reading(file)
        writer, said = await writing(open(os.devnull, "wb", 0))  # noqa: SIM115, the transport's
        writer.write(b"nothing comes of it")
        writer.close()
        assert await said.lost is None

    run(main())


@every_transport
def test_child_processes(run):
    echo = (
        "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); sys.stderr.write('e')"
    )

    async def main():
        data = random.Random(3).randbytes(500_000)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", echo, stdin=-1, stdout=-1, stderr=-1
        )
        out, err = await child.communicate(data)
        assert out == data[::-1]
        assert err == b"e"
        assert child.returncode == 0

    run(main())


@every_transport
def test_callbacks_that_raise_or_close(run):
    async def main():
        loop = asyncio.get_running_loop()
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))

        class Failing(Recorder):
            def data_received(self, data):
                super().data_received(data)
                if data == b"close":
                    self.transport.close()
                raise ValueError(data)

        read, write = pipe_files()
        with write:
            _, heard = await reading(read, Failing)
            write.write(b"go on")
            await heard.until(lambda: heard.received == b"go on")
            write.write(b"close")
            assert await heard.lost is None
            assert [str(exc) for exc in reports] == ["b'go on'", "b'close'"]

    run(main())


def test_callbacks_run_in_the_context_of_the_transport():
    variable = contextvars.ContextVar("variable", default="none")

    class Noting(Recorder):
        def data_received(self, data):
            self.received += variable.get().encode()
            self.changed.set()

    async def main():
        variable.set("made")
        read, write = pipe_files()
        with write:
            reader, heard = await reading(read, Noting)
            variable.set("later")
            write.write(b"x")
            await heard.until(lambda: heard.received)
            assert heard.received == b"made"
            reader.close()
            await heard.lost

    pyasync_c.run(main())


@every_transport
def test_bad_input(run):
    async def main():
        read, write = pipe_files()
        with read:
            writer, said = await writing(write)
            with pytest.raises((TypeError, AssertionError)):
                writer.write("text")
            writer.write(b"")
            writer.close()
            writer.close()
            writer.write(b"too late")
            await said.lost
            assert "closed" in repr(writer)

    run(main())


def test_what_is_no_pipe():
    async def main():
        for wrong in io.BytesIO(), 5, "name", None:
            for connect in reading, writing:
                with pytest.raises((TypeError, OSError)):
                    await connect(wrong)

    pyasync_c.run(main())


def test_nothing_is_left_open():
    async def main():
        for _ in range(20):
            read, write = pipe_files()
            _, heard = await reading(read)
            writer, _ = await writing(write)
            writer.write(b"x")
            writer.close()
            await heard.lost

    pyasync_c.run(main())
    collect()
    before = open_fds()
    pyasync_c.run(main())
    collect()
    assert open_fds() == before


def test_the_loop_closes_first():
    loop = pyasync_c.new_event_loop()
    read, write = pipe_files()
    writer, _ = loop.run_until_complete(loop.connect_write_pipe(asyncio.Protocol, write))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.write(b"x")
    with pytest.warns(ResourceWarning), contextlib.closing(read):
        del writer, write
        collect()


def test_a_transport_whose_pipe_was_taken_away_is_collected():
    """As programs do with standard input, which is not theirs to close."""

    async def main():
        read, write = os.pipe()
        with os.fdopen(read, "rb", 0) as pipe, os.fdopen(write, "wb", 0):
            transport, _ = await reading(pipe, asyncio.Protocol)
            transport._pipe = None
            gone = weakref.ref(transport)
            del transport
            await turns()
            collect()
            assert gone() is None
            assert not pipe.closed

    pyasync_c.run(main())


def test_the_repr_of_a_type_by_another_name():
    async def main():
        read, write = os.pipe()
        with os.fdopen(write, "wb", 0):
            transport, _ = await reading(os.fdopen(read, "rb", 0))
            name, type(transport).__name__ = type(transport).__name__, "Renamed"
            try:
                return repr(transport)
            finally:
                type(transport).__name__ = name
                transport.close()

    assert pyasync_c.run(main()).startswith("<Renamed fd=")
