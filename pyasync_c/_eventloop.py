"""EventLoop: asyncio's selector loop, with its scheduling half in C.

Queue, timers, tasks, futures, parking, readiness and transports are the C base's
(`_core.LoopBase`); servers, subprocesses, name resolution and what is rare in TLS are the standard
library's classes, over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import operator
import os
import selectors
import signal
import socket
import sys
import threading
from asyncio import constants, events, sslproto, streams
from collections.abc import Mapping
from typing import Any, Literal

from . import _compatible, _core, _support

# Private names of asyncio that this file, and the parts of asyncio's loop that it keeps, go by.
_support.need(events, "_set_running_loop")
_support.need(
    asyncio.SelectorEventLoop,
    "_add_callback",
    "_add_reader",
    "_asyncgen_finalizer_hook",
    "_asyncgen_firstiter_hook",
    "_check_callback",
    "_check_closed",
    "_check_running",
    "_check_thread",
    "_ensure_fd_no_transport",
    "_make_datagram_transport",
    "_make_read_pipe_transport",
    "_make_socket_transport",
    "_make_ssl_transport",
    "_make_write_pipe_transport",
    "_accept_connection",
    "_accept_connection2",
    "_start_serving",
    "_stop_serving",
    "_process_events",
    "_remove_reader",
    "_run_once",
    "_set_coroutine_origin_tracking",
    "_timer_handle_cancelled",
    "_write_to_self",
)
_core._need_asyncio()


class _Keys(Mapping[Any, selectors.SelectorKey]):
    """A selector's map: its keys by whatever stands for a descriptor."""

    def __init__(self, selector: ReactorSelector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._keys)

    def get(self, fileobj: Any, default: Any = None) -> Any:
        # asyncio asks this for each add_reader; Mapping's would raise and catch a KeyError.
        return self._selector._keys.get(self._selector._lookup(fileobj), default)

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def __iter__(self) -> Any:
        return iter(self._selector._keys)


class ReactorSelector(selectors.BaseSelector):
    """The face of a selector over the C reactor: what asyncio's loop registers descriptors with.

    select() is not for use: the C loop waits, and calls the loop's _process_events itself. In
    compatible mode it is a selector of the system's, in this one's place.
    """

    def __init__(self) -> None:
        self._loop: Any = None
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = _Keys(self)
        self._real: selectors.BaseSelector | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "select":
            _compatible.enter(self._loop)
        super().__setattr__(name, value)

    def become(self, real: selectors.BaseSelector) -> None:
        """Move what is registered into `real`, which does the work from now on."""
        for fd, key in self._keys.items():
            self._loop._poll_unregister(fd)
            with contextlib.suppress(OSError):  # it was closed meanwhile
                real.register(fd, key.events, key.data)
        self._keys.clear()
        self._real = real

    def attach(self, loop: Any) -> None:
        self._loop = loop

    @staticmethod
    def _fileno(fileobj: Any) -> int:
        if isinstance(fileobj, int):
            fd = fileobj
        else:
            try:
                fd = int(fileobj.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fileobj!r}") from None
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        return fd

    def _lookup(self, fileobj: Any) -> int:
        try:
            return self._fileno(fileobj)
        except ValueError:
            # Closed already: find it by identity, as selectors does.
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key.fd
            raise

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._real is not None:
            return self._real.register(fileobj, events, data)
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd = self._lookup(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._loop._poll_register(fd, events, key)
        self._keys[fd] = key
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._real is not None:
            return self._real.modify(fileobj, events, data)
        fd = self._lookup(fileobj)
        if fd not in self._keys:
            raise KeyError(f"{fileobj!r} is not registered")
        key = selectors.SelectorKey(self._keys[fd].fileobj, fd, events, data)
        self._loop._poll_modify(fd, events, key)
        self._keys[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        if self._real is not None:
            return self._real.unregister(fileobj)
        fd = self._lookup(fileobj)
        try:
            key = self._keys.pop(fd)
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None
        self._loop._poll_unregister(fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._real is not None:
            return self._real.select(timeout)
        raise RuntimeError("the C loop waits for descriptors itself")

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        if self._real is not None:
            return self._real.get_key(fileobj)
        try:
            return self._keys[self._lookup(fileobj)]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map if self._real is None else self._real.get_map()

    def close(self) -> None:
        self._keys.clear()
        if self._real is not None:
            self._real.close()


def _is_mock(pipe: Any) -> bool:
    """What only looks like a file: asyncio's transports go by the methods."""
    return hasattr(pipe, "fileno") and not isinstance(pipe, io.IOBase | socket.socket)


def _is_selector(x: object) -> bool:
    """What asyncio needs of one: any object with these methods, but no class."""
    methods = ("register", "modify", "unregister", "select", "get_map", "close")
    return not isinstance(x, type) and all(hasattr(x, name) for name in methods)


class EventLoop(_core.LoopBase, asyncio.SelectorEventLoop, metaclass=_compatible.LoopType):
    """An asyncio event loop on the C executor.

    Make it with new_event_loop(), or let run() and Runtime make it. Everything that asyncio
    documents for a loop holds; only call_soon_threadsafe may be called from other threads.

    With a `selector` of one's own, or in a subclass that overrides _run_once, run_forever,
    run_until_complete or time, asyncio's own scheduler runs it: compatible mode, which assigning
    one of these enters too. TypeError if `selector` is none.
    """

    # Whether connections made from now on are the standard library's transports, in Python: to
    # compare, and to find out whose a bug is. PYASYNC_C_TRANSPORTS=standard for all loops.
    standard_transports = os.environ.get("PYASYNC_C_TRANSPORTS") == "standard"

    _refuses_handles = False  # a Runtime is about to close it
    _is_made = False
    _closed = True  # before __init__

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        if selector is None and not _compatible.replaces_scheduler(type(self)):
            selector = ReactorSelector()
            selector.attach(self)
        else:
            if selector is None:
                selector = selectors.DefaultSelector()
            elif not _is_selector(selector):
                raise TypeError(f"selector must be a selector, not {selector!r}")
            _core.LoopBase._divert(self)
        self._listeners: dict[int, Any] = {}  # by descriptor, with what _start_serving() got
        super(_core.LoopBase, self).__init__(selector)
        self._is_made = True
        _support.watch_tasks_of(self)

    @property
    def _ready(self) -> Any:
        return self._standard_ready if self._compatible else _compatible.ready_of(self)

    @_ready.setter
    def _ready(self, handles: Any) -> None:
        _compatible.enter(self)
        self._standard_ready = handles

    @property
    def _scheduled(self) -> Any:
        return self._standard_scheduled if self._compatible else _compatible.scheduled_of(self)

    @_scheduled.setter
    def _scheduled(self, handles: Any) -> None:
        _compatible.enter(self)
        self._standard_scheduled = handles

    def run_forever(self) -> None:
        """Run until stop() is called.

        RuntimeError if it is closed, or a loop runs on this thread.
        """
        _compatible.check(self)
        if self._compatible:
            super(_core.LoopBase, self).run_forever()
            return
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        hooks = sys.get_asyncgen_hooks()
        wakeup_fd = self._install_wakeup_fd()
        try:
            self._thread_id = threading.get_ident()
            self._queues_events = self._processes_events_as_asyncio()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            self._run()
            if self._compatible:
                self._run_on()
        finally:
            self._thread_id = None
            try:
                events._set_running_loop(None)
            except MemoryError:
                events._set_running_loop(None)  # or no loop would ever run on this thread again
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if wakeup_fd is not None:
                signal.set_wakeup_fd(wakeup_fd)

    def _processes_events_as_asyncio(self) -> bool:
        """Whether C may queue handles itself: nobody has overridden what would be called."""
        process = getattr(self._process_events, "__func__", None)
        add = _core.LoopBase._add_callback.__get__(self)
        return process is asyncio.SelectorEventLoop._process_events and self._add_callback == add

    def _run_on(self) -> None:
        """Go on with a run in which compatible mode was entered."""
        _core.LoopBase._settle(self)
        while True:
            self._run_once()
            if self._stopping:
                break
        self._stopping = False

    def _run_once(self) -> None:
        """Run what is ready, without waiting for more: for those that drive the loop by hand.

        In compatible mode as asyncio does, which waits for something to become ready.
        """
        _compatible.check(self)
        if self._compatible:
            super(_core.LoopBase, self)._run_once()
            return
        self.stop()
        self._run()

    def _install_wakeup_fd(self) -> int | None:
        """Let a signal that another thread takes wake the parked loop.

        Returns the descriptor that was set before, to be put back; None if nothing was done.
        """
        if not _support.takes_signals() or self._csock is None:
            return None
        try:
            return signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except (ValueError, OSError):
            return None  # `threading` takes another thread for the main one than Python does

    def _write_to_self(self) -> None:
        """Wake the loop: for the parts of the standard library that do it by hand."""
        if self._compatible:
            super(_core.LoopBase, self)._write_to_self()
        elif not self._closed:
            self.call_soon_threadsafe(_nothing)

    # ── transports ───────────────────────────────────────────────────────────────────────────

    def _uses_our_transports(self, sock: Any) -> bool:
        """What only looks like a socket, as mocks do, is for asyncio's, which goes by methods."""
        is_socket = issubclass(type(sock), socket.socket)
        return is_socket and not (self._compatible or self.standard_transports)

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, *, extra: Any = None, server: Any = None
    ) -> Any:
        if not self._uses_our_transports(sock):
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server
            )
        self._ensure_fd_no_transport(sock)
        return self._stream_transport(sock, protocol, waiter, extra, server)

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        if not self._uses_our_transports(sock):
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        self._ensure_fd_no_transport(sock)
        return self._datagram_transport(sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> Any:
        if not (self._compatible or self.standard_transports or _is_mock(pipe)):
            with contextlib.suppress(PermissionError):  # epoll refuses /dev/null and its like
                return self._read_pipe_transport(pipe, protocol, waiter, extra)
        return super()._make_read_pipe_transport(pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> Any:
        if not (self._compatible or self.standard_transports or _is_mock(pipe)):
            with contextlib.suppress(PermissionError):
                return self._write_pipe_transport(pipe, protocol, waiter, extra)
        return super()._make_write_pipe_transport(pipe, protocol, waiter, extra)

    # ── servers ──────────────────────────────────────────────────────────────────────────────

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> None:
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        arguments = (protocol_factory, sock, sslcontext, server, backlog, *timeouts)
        if not self._uses_our_transports(sock) or _accepts_its_own_way(type(self)):
            super()._start_serving(*arguments)
            return

        def accept(conn: Any, address: Any) -> None:
            # Its own socket cannot tell any more if it has ended meanwhile.
            extra = {"peername": conn.getpeername() if address is None else address}
            self.create_task(
                self._accept_connection2(
                    protocol_factory, conn, extra, sslcontext, server, *timeouts
                )
            )

        is_plain = sslcontext is None and not _makes_its_own_transports(type(self))
        listener = self._listen(
            sock, protocol_factory, server, backlog, None if is_plain else accept
        )
        self._listeners[sock.fileno()] = (listener, arguments)

    def _stop_serving(self, sock: Any) -> None:
        listener, _ = self._listeners.pop(sock.fileno(), (None, None))
        if listener is not None:
            listener.close()
        super()._stop_serving(sock)

    def _move_listeners(self) -> None:
        """In compatible mode they are asyncio's: registered with the selector."""
        listeners = list(self._listeners.values())
        self._listeners.clear()
        for listener, arguments in listeners:
            listener.close()
            super()._start_serving(*arguments)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        **tls: Any,  # server_side, server_hostname and the timeouts, for the SSLProtocol
    ) -> Any:
        # asyncio's, but for the transport below, and what lies upon it.
        self._ensure_fd_no_transport(rawsock)
        ours = self._uses_our_transports(rawsock)
        kind = self._tls_protocol_type(ours)
        ssl_protocol = kind(self, protocol, sslcontext, waiter, **tls)
        if ours:
            self._adopt_stream(protocol)
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport

    @staticmethod
    def _tls_protocol_type(ours: bool) -> Any:
        if not ours or sslproto.ssl is None:
            return sslproto.SSLProtocol
        from . import _tls_protocol

        return _tls_protocol.protocol_type()

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Upgrade `transport` to TLS: await it for the transport that `protocol` is to use then."""
        tls: dict[str, Any] = {
            "server_side": server_side,
            "server_hostname": server_hostname,
            "ssl_handshake_timeout": ssl_handshake_timeout,
            "ssl_shutdown_timeout": ssl_shutdown_timeout,
        }
        ours = not (self._compatible or self.standard_transports)
        kind = self._tls_protocol_type(ours)
        if (
            kind is sslproto.SSLProtocol
            or not isinstance(sslcontext, sslproto.ssl.SSLContext)
            or not getattr(transport, "_start_tls_compatible", False)
        ):
            return await super().start_tls(transport, protocol, sslcontext, **tls)
        # asyncio's, with another class.
        waiter = self.create_future()
        ssl_protocol = kind(self, protocol, sslcontext, waiter, call_connection_made=False, **tls)
        # So that nothing is received before connection_made().
        transport.pause_reading()
        if server_side and isinstance(protocol, streams.StreamReaderProtocol):
            # What the client has begun with, and the reader has taken for clear text, as newer
            # versions of asyncio do it.
            reader = getattr(protocol, "_stream_reader", None)
            buffer = getattr(reader, "_buffer", None)
            if buffer:
                ssl_protocol._incoming.write(buffer)
                buffer.clear()
        transport.set_protocol(ssl_protocol)
        made = self.call_soon(ssl_protocol.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return ssl_protocol._app_transport

    def close(self) -> None:
        """Close the loop; RuntimeError while it runs. Twice is a no-op."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        super().close()
        self._listeners.clear()
        self._close_core()

    def set_debug(self, enabled: bool) -> None:
        """Turn asyncio's debug mode on or off."""
        self._debug = enabled
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, self._debug)


_compatible.learn(EventLoop)


def _accepts_its_own_way(cls: type) -> bool:
    """Has a subclass overridden how asyncio accepts?"""
    standard: Any = asyncio.SelectorEventLoop
    names = ("_accept_connection", "_accept_connection2")
    return any(getattr(cls, name) is not getattr(standard, name) for name in names)


def _makes_its_own_transports(cls: type) -> bool:
    made: Any = getattr(cls, "_make_socket_transport", None)
    return made is not EventLoop._make_socket_transport


def _nothing() -> None:
    pass


_SEEDS = 2**64


def _check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an int or None, not {type(seed).__name__}")
    number = operator.index(seed)
    if not 0 <= number < _SEEDS:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, not {number}")
    return number


def new_event_loop(
    *,
    clock: Literal["monotonic", "virtual"] = "monotonic",
    seed: int | None = None,
    debug: bool | None = None,
) -> EventLoop:
    """A new EventLoop, for asyncio.Runner(loop_factory=...), uvicorn --loop, anyio and the like.

    `clock` and `seed` as for Runtime. `debug` is asyncio's debug mode; None: as PYTHONASYNCIODEBUG
    and -X dev say. May be called on any thread.
    """
    if not isinstance(clock, str):
        raise TypeError(f"clock must be a str, not {type(clock).__name__}")
    if clock not in ("monotonic", "virtual"):
        raise ValueError(f"clock must be 'monotonic' or 'virtual', not {clock!r}")
    if seed is not None:
        seed = _check_seed(seed)
    if clock == "virtual":
        from ._virtual_clock import VirtualClockLoop

        loop: EventLoop = VirtualClockLoop()
    else:
        loop = EventLoop()
    if seed is not None:
        loop._use_seed(seed)
    if debug is not None:
        loop.set_debug(debug)
    return loop


__all__ = ["EventLoop", "new_event_loop"]
