"""The adapter between accepted sockets and grpclib: how much one connection may ask of us.

Owns: the cuts on a connection; together with ``attestor.api.requests`` every private access to grpclib, h2 and
asyncio transports. Does not own: accepting (``attestor.api.server``), accounting (``attestor.api.limits``), starting
requests (``attestor.api.requests``), services.

grpclib is used because grpcio cannot say who called. What it lacks is added around its own classes: the caller is
handed to each request's task (``attestor.api.caller``); header lists, bodies, streams and frames are bounded; a stream
that the peer resets is released even when its task never ran.

Security: one chunk of at most ``read_chunk_bytes`` is worked off before other connections have their
turn, so that a flood of the smallest frames delays the others by the work for that many bytes only.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import BaseTransport, Transport
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from grpclib.config import Configuration
from grpclib.const import Handler as Method
from grpclib.protocol import Connection, EventsProcessor, H2Protocol
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RemoteSettingsChanged, RequestReceived, StreamReset
from h2.settings import SettingCodes, Settings

from attestor.api.caller import Caller
from attestor.api.limits import ConnectionLimits, FrameBudget
from attestor.api.requests import Requests
from attestor.peer import PinnedProcess
from hopseal.errors import HopsealError
from hopseal.ids import SpiffeId

_log = logging.getLogger(__name__)
_WINDOW_BYTES = 65_535  # the smallest that HTTP/2 allows without a settings round trip; requests are small


class ConnectionOwner(Protocol):
    """Who accounts for connections."""

    def connection_cut(self, connection: GuardedConnection, reason: str) -> None:
        """The peer did something that it may not."""

    def connection_closed(self, connection: GuardedConnection) -> None:
        """Nothing of it is left; called once."""

    def admits_request(self, connection: GuardedConnection) -> bool:
        """Whether its user and cgroup may have one more request now."""


class GuardedConnection(H2Protocol):
    """One accepted connection."""

    def __init__(
        self,
        methods: dict[str, Method],
        process: PinnedProcess,
        limits: ConnectionLimits,
        owner: ConnectionOwner,
        clock: Callable[[], float],
        identify: Callable[[BaseTransport], SpiffeId | None],
        large_methods: frozenset[str] = frozenset(),
    ) -> None:
        self._requests = Requests(methods, large_methods, self._admit_request)
        config = Configuration(
            http2_connection_window_size=_WINDOW_BYTES, http2_stream_window_size=_WINDOW_BYTES
        ).__for_server__()
        super().__init__(self._requests, config, H2Configuration(client_side=False, header_encoding="ascii"))
        self.process = process
        self._limits = limits
        self._owner = owner
        self._clock = clock
        self._identify = identify
        self._accepted_at = self._last_busy = clock()
        self._budget = FrameBudget(limits, self._accepted_at)
        self._transport: Transport | None = None
        self._closed = asyncio.Event()
        self._stalled_since: float | None = None
        self._fruitless_bytes = 0
        self._has_preface = self._has_request = self._is_cut = False
        self._flood = ""

    def connection_made(self, transport: BaseTransport) -> None:
        """Refuse who may not be here; else the HTTP/2 connection with our settings from its first byte."""
        self._transport = cast("Transport", transport)
        if hasattr(transport, "max_size"):
            transport.max_size = self._limits.read_chunk_bytes
        try:
            tls_id = self._identify(transport)
        except HopsealError as error:
            _log.info("connection refused: %s, pid %d, uid %d", error, self.process.pid, self.process.uid)
            self._is_cut = True
            self._owner.connection_cut(self, error.code)
            self._transport.abort()
            return
        self._requests.caller = Caller(self.process, tls_id, self._transport.abort)
        h2_connection = self._begin_http2()
        self.connection = Connection(h2_connection, self._transport, config=self.config)
        self.connection.flush()
        self.connection.initialize()
        self.processor = EventsProcessor(self.handler, self.connection)

    def data_received(self, data: bytes) -> None:
        """Work off one chunk, or cut the connection."""
        if self._is_cut:
            return
        try:
            events = self.connection.feed(data)
        except Exception as error:  # noqa: BLE001 - h2 and hpack leave with many kinds on bytes that no peer should send
            _log.debug("unreadable frames", exc_info=error)
            self.cut("protocol_error")
            return
        reason = self._note(events, len(data))
        if reason is not None:
            self.cut(reason, ErrorCodes.ENHANCE_YOUR_CALM)
            return
        self._process(events)
        if self._flood:
            self.cut(self._flood, ErrorCodes.ENHANCE_YOUR_CALM)
            return
        if self._transport is not None and not self._transport.is_closing():
            self.connection.flush()
            if self._transport.get_write_buffer_size() > self._limits.write_buffer_bytes:
                self.cut("write_buffer")

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._stalled_since = self._clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._stalled_since = None
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End every request of it and give back what it held."""
        if hasattr(self, "processor"):
            super().connection_lost(exc)
        self._owner.connection_closed(self)
        self._closed.set()

    async def wait_closed(self) -> None:
        """Returns once nothing of it is left: requests, transport, descriptors."""
        await self._requests.wait_closed()
        if self._transport is not None:
            await self._closed.wait()

    def overdue(self, now: float) -> str | None:
        """Why this connection has lived long enough, or None."""
        if self._is_cut or self._transport is None:
            return None  # on its way out, or in a handshake that has its own deadline
        age = now - self._accepted_at
        if not self._has_preface and age > self._limits.preface_timeout_s:
            return "preface_timeout"
        if self._stalled_since is not None and now - self._stalled_since > self._limits.stalled_timeout_s:
            return "stalled"
        if self._requests.caller.tls_id is not None:
            return None  # a peer that has proved who it is may be quiet
        if not self._has_request and age > self._limits.first_request_timeout_s:
            return "first_request_timeout"
        if self.processor.streams:
            self._last_busy = now
        return "idle" if now - self._last_busy > self._limits.idle_timeout_s else None

    def cut(self, reason: str, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Say GOAWAY if that can be sent, then drop the connection with all its requests."""
        if self._is_cut or self._transport is None:
            return
        self._is_cut = True
        if not self._transport.is_closing():
            if reason != "protocol_error":  # h2 has said GOAWAY to that already
                self.connection._connection.close_connection(code)  # noqa: SLF001 - see the module's rule
            self.connection.flush()
        self._owner.connection_cut(self, reason)
        self.processor.close(reason)
        self._transport.abort()

    def _begin_http2(self) -> H2Connection:
        """A connection whose first bytes are our settings."""
        h2_connection = H2Connection(config=self.h2_config)
        h2_connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: self._limits.streams_per_connection,
                SettingCodes.MAX_HEADER_LIST_SIZE: self._limits.header_list_bytes,
                SettingCodes.MAX_FRAME_SIZE: 16_384,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )
        h2_connection.decoder.max_header_list_size = self._limits.header_list_bytes
        h2_connection.initiate_connection()
        return h2_connection

    def _admit_request(self) -> bool:
        if self._owner.admits_request(self):
            return True
        self._flood = self._budget.note_refused(self._clock()) or self._flood
        return False

    def _note(self, events: Iterable[Event], size_bytes: int) -> str | None:
        """Account for ``events``; why to cut the connection, or None."""
        now = self._clock()
        self._fruitless_bytes += size_bytes
        for event in events:
            self._fruitless_bytes = 0
            reason: str | None = None
            if isinstance(event, RequestReceived):
                self._has_request = True
                self._budget.note_opened(now)
            elif isinstance(event, StreamReset):
                stream = self.processor.streams.get(event.stream_id)
                if stream is None or not stream.data_sent:
                    reason = self._budget.note_early_reset(now)
            elif isinstance(event, DataReceived):
                reason = self._note_body(event)
            else:
                self._has_preface = self._has_preface or isinstance(event, RemoteSettingsChanged)
                reason = self._budget.note_control_frame(now)
            if reason is not None:
                return reason
        return "fruitless" if self._fruitless_bytes > self._limits.fruitless_bytes else None

    def _note_body(self, event: DataReceived) -> str | None:
        if not event.data:
            return self._budget.note_control_frame(self._clock())
        stream = self.processor.streams.get(event.stream_id)
        received = len(event.data) + (stream.data_received if stream is not None else 0)
        is_large = stream is not None and self._requests.may_be_large(stream)
        allowed = self._limits.large_request_bytes if is_large else self._limits.request_bytes
        return "request_too_large" if received > allowed else None

    def _process(self, events: list[Event]) -> None:
        reset = {event.stream_id for event in events if isinstance(event, StreamReset)}
        for event in events:
            if isinstance(event, RequestReceived) and event.stream_id in reset:
                continue  # opened and reset in one chunk: not worth a task
            if type(event) in self.processor.processors:
                self.processor.process(event)
            if not hasattr(self.processor, "processors"):
                return  # that event closed the connection
