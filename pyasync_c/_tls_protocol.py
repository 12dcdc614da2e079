"""asyncio's SSLProtocol and its transport, with their hot halves in C (tls_protocol.h).

Handshake, shutdown, timeouts and errors are asyncio's own code; C overrides the methods through
which every byte goes. Imported when the first TLS connection is made.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from asyncio import protocols, sslproto, transports
from typing import Any

from . import _core

standard = sslproto.SSLProtocol

# What C keeps in fields of its own, and what it calls, by asyncio's private names.
_ATTRIBUTES = """
    _app_protocol _app_protocol_buffer_updated _app_protocol_get_buffer _app_protocol_is_buffer
    _app_reading_paused _app_transport _app_transport_created _app_writing_paused _eof_received
    _incoming _incoming_high_water _incoming_low_water _loop _outgoing _outgoing_high_water
    _outgoing_low_water _ssl_buffer _ssl_buffer_view _ssl_reading_paused _ssl_writing_paused
    _sslobj _state _transport _write_backlog _write_buffer_size max_size
""".split()
_METHODS = """
    _call_eof_received _control_app_writing _control_ssl_reading _do_flush _do_handshake _do_read
    _do_shutdown _do_write _fatal_error _get_app_transport _process_outgoing _set_app_protocol
    _set_state _start_shutdown _write_appdata buffer_updated eof_received get_buffer
""".split()


def _lacking() -> list[str]:
    """Names that this Python's SSLProtocol has no more."""
    functions = [f for f in vars(standard).values() if inspect.isfunction(f)]
    used = {name for f in functions for name in f.__code__.co_names}
    lacking = [name for name in _ATTRIBUTES if name not in used]
    lacking += [name for name in _METHODS if not hasattr(standard, name)]
    transport = getattr(sslproto, "_SSLProtocolTransport", None)
    if transport is None or not hasattr(transport, "_force_close"):
        lacking.append("_SSLProtocolTransport")
    elif "_ssl_protocol" not in transport.__init__.__code__.co_names:
        lacking.append("_SSLProtocolTransport._ssl_protocol")
    if not issubclass(standard, protocols.BufferedProtocol):
        lacking.append("get_buffer")
    return lacking


def _make() -> type[sslproto.SSLProtocol] | None:
    lacking = _lacking()
    try:
        _core._use_sslproto(sslproto)
    except AttributeError as error:
        lacking.append(str(error))
    if lacking:
        warnings.warn(
            f"pyasync_c: Python {sys.version.split()[0]} has no asyncio.sslproto "
            f"{', '.join(lacking)}: TLS connections are the standard library's, and slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return None

    class _SSLProtocolTransport(_core.TlsTransportBase, sslproto._SSLProtocolTransport):
        pass

    flushing = sslproto.SSLProtocolState.FLUSHING

    class SSLProtocol(_core.TlsProtocolBase, standard):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # asyncio gives each connection a buffer of 256 KiB to receive into. A transport of ours
            # has one for all connections; with another, get_buffer() makes it.
            self.max_size = 0
            super(_core.TlsProtocolBase, self).__init__(*args, **kwargs)
            del self.max_size

        def _get_app_transport(self) -> transports.Transport:
            if self._app_transport is None:
                if self._app_transport_created:
                    raise RuntimeError("Creating _SSLProtocolTransport twice")
                self._app_transport = _SSLProtocolTransport(self._loop, self)
                self._app_transport_created = True
            return self._app_transport

        # The peer's TCP has ended, and what it has sent before is still to be read. asyncio shuts
        # down after one buffer of that, or what one call of data_received() has.

        def eof_received(self) -> bool:
            return bool(super().eof_received()) or self._state is flushing

        def _do_flush(self) -> None:
            if not self._eof_received:
                super()._do_flush()
                return
            self._do_read()
            if self._state is not flushing:
                return  # the protocol has closed or aborted
            if self._app_reading_paused and (self._incoming.pending or self._sslobj.pending()):
                return  # resume_reading() comes here again
            self._set_state(sslproto.SSLProtocolState.SHUTDOWN)
            self._do_shutdown()

        def _start_shutdown(self) -> None:
            closed = self._app_transport is not None and self._app_transport._closed
            if self._eof_received and self._state is flushing and closed:
                # asyncio waits for resume_reading(), which nobody calls after close().
                self._app_reading_paused = True
                super()._do_flush()
            else:
                super()._start_shutdown()

    return SSLProtocol


_ours = _make()


def protocol_type() -> Any:
    """The class to make TLS connections with: ours, or what somebody has put in asyncio's place."""
    return _ours if _ours is not None and sslproto.SSLProtocol is standard else sslproto.SSLProtocol
