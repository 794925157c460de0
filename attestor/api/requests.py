"""The requests of one connection: a task for each, with its caller, or an answer without a task.

Owns: what grpclib's handler lacks, and with ``attestor.api.transport`` every private access to grpclib.
Does not own: whether a request is admitted, nor the bounds on its body (``attestor.api.transport``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import grpclib.server
from grpclib.const import Handler as Method
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents
from grpclib.metadata import Deadline, decode_metadata
from grpclib.protocol import Stream
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError

from attestor.api.caller import Caller, calling_as
from hopseal.errors import BugError

_TOO_MANY = (
    (":status", "200"),
    ("content-type", "application/grpc+proto"),
    ("grpc-status", str(Status.UNAVAILABLE.value)),
    ("grpc-message", "rate_limited: too many requests"),
)


class Requests(grpclib.server.Handler):
    """Starts a task for each request, with the caller in its context."""

    caller: Caller

    def __init__(self, methods: dict[str, Method], large_methods: frozenset[str], admit: Callable[[], bool]) -> None:
        super().__init__(methods, ProtoCodec(), None, _DispatchServerEvents())
        self._admit = admit
        self._large_methods = large_methods
        self._large: WeakSet[Stream] = WeakSet()

    def may_be_large(self, stream: Stream) -> bool:
        """Whether honest requests of this stream's method are large."""
        return stream in self._large

    def accept(self, stream: Stream, headers: Any, release_stream: Callable[[], Any]) -> None:
        """Serve ``stream`` unless its headers cannot be read."""
        if not _is_readable(headers):
            stream.reset_nowait(ErrorCodes.PROTOCOL_ERROR)
            release_stream()
            return
        if not self._admit():
            _refuse_stream(stream)
            release_stream()
            return
        if dict(headers).get(":path") in self._large_methods:
            self._large.add(stream)
        release = _Once(release_stream)
        with calling_as(self.caller):
            super().accept(stream, headers, release)
        # A task that is cancelled before its first step never reaches its own release.
        self._tasks[stream].add_done_callback(lambda _task: release())

    def cancel(self, stream: Stream) -> None:
        """Stop serving ``stream``."""
        if stream in self._tasks:
            super().cancel(stream)


def forget_received(stream: grpclib.server.Stream[Any, Any]) -> None:
    """A message of ``stream`` was taken: the bound on the body of a request counts anew from here.

    For methods that the peer goes on sending to; without it a long life would look like a large request.
    """
    stream._stream.data_received = 0  # noqa: SLF001 - see the module's rule


class _Once:
    """Calls a function the first time only."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function: Callable[[], Any] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


def _refuse_stream(stream: Stream) -> None:
    """Answer without a task: what a flood costs is what this costs."""
    if stream.id is None:
        raise BugError("stream_unnumbered", "a request came on a stream without a number")
    with suppress(StreamClosedError):  # the peer has sent all of its request, and so the answer ends the stream
        stream._h2_connection.send_headers(stream.id, _TOO_MANY, end_stream=True)  # noqa: SLF001 - see the module's rule
        stream.reset_nowait(ErrorCodes.NO_ERROR)


def _is_readable(headers: Any) -> bool:
    try:
        decode_metadata(headers)
        Deadline.from_headers(headers)
    except ValueError:
        return False
    return True
