"""Connections to the witness: counted, and cut when they do not get on.

Owns: a deadline for each next request and for the whole of it, which aiohttp has not.
Does not own: the bounds (``admission``); what is served (``server``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from hopseal.witness.admission import Admission
from hopseal.witness.config import WitnessLimits
from hopseal.witness.events import Events


class Connections:
    """Every open connection with its deadline.

    Args:
        admission: counts them.
        limits: how long each may take.
        events: where a refused one is told.
    """

    def __init__(self, admission: Admission, limits: WitnessLimits, events: Events) -> None:
        self._admission = admission
        self._limits = limits
        self._events = events
        self._deadlines: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def protocol(self, server: web.Server) -> asyncio.Protocol:
        """What asyncio tells of one new connection."""
        return _Connection(self, server())

    def begin_request(self, transport: asyncio.BaseTransport | None, more_s: float) -> None:
        """A request's head was read: it has the time of a request, and ``more_s`` to be answered."""
        self._set(transport, self._limits.request_s + more_s)

    def end_request(self, transport: asyncio.BaseTransport | None) -> None:
        """A request is answered: the connection may wait for the next."""
        self._set(transport, self._limits.idle_s)

    def accept(self, transport: asyncio.Transport) -> Callable[[], None] | None:
        """Begin to watch a connection; what is to be called when it ends, or None if it is one too many."""
        peer = peer_of(transport)
        if not self._admission.connect(peer):
            self._events("connection_refused", peer=peer)
            return None
        self._deadlines[transport] = _cut_after(transport, self._limits.request_s)

        def end() -> None:
            self._deadlines.pop(transport).cancel()
            self._admission.disconnect(peer)

        return end

    def _set(self, transport: asyncio.BaseTransport | None, seconds: float) -> None:
        # A connection that has ended meanwhile has no deadline any more.
        if isinstance(transport, asyncio.Transport) and transport in self._deadlines:
            self._deadlines[transport].cancel()
            self._deadlines[transport] = _cut_after(transport, seconds)


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address at the other end."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else "unknown"


def _cut_after(transport: asyncio.Transport, seconds: float) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(seconds, transport.abort)


class _Connection(asyncio.Protocol):
    """One connection on its way to aiohttp: refused if it is one too many, watched until it ends."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._end: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._end = self._connections.accept(transport) if isinstance(transport, asyncio.Transport) else None
        if self._end is None:
            transport.close()
        else:
            self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end()
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._end is not None:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        if self._end is not None:
            self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
