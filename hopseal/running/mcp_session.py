"""One MCP session: a client over HTTP on this side, a child on stdio of its own on the other.

Owns: which answer belongs to which request, and on which stream the child's own messages go. Does not own: HTTP
(``mcp_http``) or the process (``stdio_child``).

The child does not say what a message of its own belongs to. Progress goes where its token came from, a question to the
newest open request, anything else to the session's own stream if somebody listens there, else to the one request that
is open, else it waits for somebody to listen.
Source: Model Context Protocol 2025-11-25, "Streamable HTTP".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hopseal.errors import DeniedError, InvalidError
from hopseal.running.mcp_messages import (
    CANCELLED,
    Id,
    Message,
    MessageInvalidError,
    Parsed,
    cancelled_id,
    error_message,
    for_child,
    format_message,
    parse_message,
    progress_token,
    without_custody,
)
from hopseal.running.mcp_requests import Caller
from hopseal.running.stdio_child import StdioChild

MAX_OPEN_REQUESTS: Final = 64
MAX_WAITING: Final = 256  # messages for one stream whose client does not take them


class SessionEndedError(DeniedError):
    """The session is over (code ``session_ended``)."""


@dataclass(slots=True)
class Stream:
    """What goes to the client on one response: messages, then None."""

    queue: asyncio.Queue[Message | None] = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    progress: Id | None = None

    def put(self, message: Message | None) -> None:
        """Add it; the oldest that nobody took makes room."""
        while True:
            try:
                self.queue.put_nowait(message)
            except asyncio.QueueFull:
                self.queue.get_nowait()
            else:
                return


class Session:
    """A session with its child.

    Args:
        child: started, and nobody else's.
        owner: who may use the session.
        says: told of lines that are no messages.
    """

    def __init__(self, child: StdioChild, owner: Caller, says: Callable[[str], None]) -> None:
        self.owner = owner
        self.version: str | None = None
        self.used_at = time.monotonic()
        self._child = child
        self._says = says
        self._open: dict[Id, Stream] = {}
        self._own = Stream()
        self._is_listened_to = False
        self._is_ended = False

    @property
    def is_idle(self) -> bool:
        """No request is open and nobody listens."""
        return not self._open and not self._is_listened_to

    async def run(self) -> None:
        """Pass on what the child says; returns when the session was ended.

        Raises:
            ChildGoneError: the child is not what was started any more.
        """
        async for line in self._child.lines():
            self._dispatch(line)

    async def request(self, parsed: Parsed, handle: str | None) -> Stream:
        """Send a request; the stream ends with its answer.

        Raises:
            InvalidError: its id is in use, or too many are open.
            ChildGoneError, SessionEndedError: it cannot be answered.
        """
        number = parsed.id
        if number is None or number in self._open:
            raise InvalidError("mcp_id_in_use", "a request with this id is open")
        if len(self._open) >= MAX_OPEN_REQUESTS:
            raise InvalidError("mcp_too_many_requests", "too many requests of this session are open")
        stream = self._open[number] = Stream(progress=progress_token(parsed.message))
        try:
            await self._send(for_child(parsed, handle))
        except BaseException:
            self._open.pop(number, None)
            raise
        return stream

    async def notify(self, parsed: Parsed) -> None:
        """Send a notification or a response; a request that it cancels is answered at once."""
        await self._send(for_child(parsed, None))
        number = cancelled_id(parsed.message)
        if number is not None and number in self._open:
            self._finish(number, error_message(number, CANCELLED, "the request was cancelled"))

    def listen(self) -> Stream:
        """The session's own stream.

        Raises:
            InvalidError: somebody has it (code ``mcp_stream_in_use``).
        """
        if self._is_listened_to:
            raise InvalidError("mcp_stream_in_use", "the session's stream is open already")
        self._is_listened_to = True
        return self._own

    def stop_listening(self) -> None:
        """The client of the session's own stream went away."""
        self._is_listened_to = False

    async def end(self) -> None:
        """End the child, every request and the session's own stream."""
        if self._is_ended:
            return
        self._is_ended = True
        for number in list(self._open):
            self._finish(number, error_message(number, CANCELLED, "the session ended"))
        self._own.put(None)
        await self._child.stop()

    async def _send(self, message: Message) -> None:
        self.used_at = time.monotonic()
        if self._is_ended:
            raise SessionEndedError("session_ended", "the session is over")
        await self._child.send(format_message(message))

    def _dispatch(self, line: bytes) -> None:
        if not line:
            return
        try:
            parsed = parse_message(line)
        except MessageInvalidError as error:
            self._says(f"the server wrote what is no message: {error.message}")
            return
        self.used_at = time.monotonic()
        message = without_custody(parsed.message)
        if not parsed.is_response:
            self._stream_for(parsed).put(message)
        elif parsed.id is not None and parsed.id in self._open:
            self._finish(parsed.id, message)

    def _finish(self, number: Id, answer: Message) -> None:
        stream = self._open.pop(number)
        stream.put(answer)
        stream.put(None)

    def _stream_for(self, parsed: Parsed) -> Stream:
        token = progress_token(parsed.message) if parsed.method == "notifications/progress" else None
        if token is not None:
            return next((each for each in self._open.values() if each.progress == token), self._own)
        # A question of the server has to reach somebody who reads; the newest request is the likeliest reason for it.
        if self._open and (parsed.is_request or (len(self._open) == 1 and not self._is_listened_to)):
            return next(reversed(self._open.values()))
        return self._own
