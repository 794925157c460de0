"""The HTTP side of ``hopseal serve-stdio``: MCP's Streamable HTTP, for servers that speak stdio.

Owns: methods, statuses, sessions and who may use them. Does not own: what a request has to be like (``mcp_requests``),
messages (``mcp_messages``), routing within a session (``mcp_session``).

Every request has to come through the broker: its handle says who calls, and a session belongs to the caller, and the
user, that began it. Versions without a handshake (2026-07-28 and later) are answered with the ones that are served,
which makes clients begin a session: a server on stdio keeps the state of one client.
A web page cannot reach a Unix socket, so there is no ``Origin`` to check against rebinding.
Source: Model Context Protocol 2025-11-25, "Streamable HTTP" and "Session Management".
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from hopseal.errors import InvalidError
from hopseal.running.mcp_messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Id,
    Message,
    Parsed,
    error_message,
    format_message,
    negotiated_version,
)
from hopseal.running.mcp_requests import (
    EVENTS,
    JSON,
    VERSION_HEADER,
    Caller,
    RefusedError,
    accepted_media,
    fetch_caller,
    need_media,
    need_version,
    read_message,
)
from hopseal.running.mcp_session import Session, SessionEndedError, Stream
from hopseal.running.stdio_child import ChildGoneError, StdioChild
from hopseal.sdk.handle import HANDLE_HEADER, handle_of

SESSION_HEADER: Final = "Mcp-Session-Id"
INITIALISE_S: Final = 60.0
QUIET_S: Final = 5.0  # a request that takes longer is answered as a stream, so that nobody in between gives up
PING_S: Final = 15.0
_METHODS = "DELETE, GET, POST"

Starts = Callable[[], Awaitable[StdioChild]]


class McpEndpoint:
    """Serves MCP; ``serve`` is a handler of aiohttp.

    Args:
        start: starts a child for a new session.
        max_sessions: of all callers; one caller has at most half.
        idle_s: a session that is not used for so long ends.
        says: told of what the operator should know.

    Attributes:
        gone: done, with the error, as soon as a child is not what was started any more.
    """

    def __init__(self, start: Starts, *, max_sessions: int, idle_s: float, says: Callable[[str], None]) -> None:
        self._start = start
        self._max_sessions = max_sessions
        self._idle_s = idle_s
        self._says = says
        self._sessions: dict[str, Session] = {}
        self._beginning: list[Caller] = []  # whose children are being started
        self._running: set[asyncio.Task[None]] = set()
        self.gone: asyncio.Future[ChildGoneError] = asyncio.get_running_loop().create_future()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except RefusedError as error:
            return _json(error.answer, status=error.status)
        except ChildGoneError as error:
            self._lose(error)
            return _json(error_message(None, INTERNAL_ERROR, error.message, {"code": error.code}), status=503)
        except SessionEndedError as error:
            return _json(error_message(None, INVALID_REQUEST, error.message, {"code": error.code}), status=404)

    async def aclose(self) -> None:
        """End every session."""
        await asyncio.gather(*map(self._end, list(self._sessions)))
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        handle = handle_of(request.headers.getall(HANDLE_HEADER, ()))
        caller = await fetch_caller(handle)
        if request.method == "POST":
            return await self._post(request, caller, handle)
        if request.method == "GET":
            return await self._get(request, caller)
        if request.method != "DELETE":
            return web.Response(status=405, headers={"Allow": _METHODS})
        await self._end(self._session(request, caller)[0])
        return web.Response(status=204)

    async def _post(self, request: web.BaseRequest, caller: Caller, handle: str | None) -> web.StreamResponse:
        need_media(request)
        parsed = await read_message(request)
        need_version(request, parsed)
        if parsed.method == "initialize" and parsed.is_request:
            return await self._begin(request, parsed, caller, handle)
        _, session = self._session(request, caller)
        if session.version is not None and request.headers.get(VERSION_HEADER, session.version) != session.version:
            raise RefusedError(400, f"this session speaks {session.version}")
        if not parsed.is_request:
            await session.notify(parsed)
            return web.Response(status=202)
        return await _respond(request, parsed.id, await _ask(session, parsed, handle))

    async def _begin(
        self, request: web.BaseRequest, parsed: Parsed, caller: Caller, handle: str | None
    ) -> web.StreamResponse:
        if SESSION_HEADER in request.headers:
            raise RefusedError(400, "a session is initialised once")
        await self._end_idle()
        # Goes on if the client hangs up meanwhile: a process that was begun must end up where somebody ends it.
        name, session = await asyncio.shield(asyncio.create_task(self._open(caller)))
        stream = await _ask(session, parsed, handle)
        try:
            answer = await asyncio.wait_for(stream.queue.get(), INITIALISE_S)
        except TimeoutError:
            answer = None
        session.version = None if answer is None else negotiated_version(answer)
        if answer is None or session.version is None:
            await self._end(name)
            failed = answer or error_message(parsed.id, INTERNAL_ERROR, "the server did not answer")
            return _json(failed)
        return _json(answer, {SESSION_HEADER: name})

    async def _get(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        if EVENTS not in accepted_media(request):
            raise RefusedError(406, f"accept {EVENTS}")
        _, session = self._session(request, caller)
        try:
            stream = session.listen()
        except InvalidError as error:
            raise RefusedError(409, error.message, code=error.code) from error
        try:
            return await _stream(request, stream, None)
        finally:
            session.stop_listening()

    def _session(self, request: web.BaseRequest, caller: Caller) -> tuple[str, Session]:
        names = request.headers.getall(SESSION_HEADER, ())
        if len(names) != 1:
            raise RefusedError(400, f"exactly one {SESSION_HEADER} is needed; begin with initialize")
        session = self._sessions.get(names[0])
        # Somebody else's session looks like none.
        if session is None or session.owner != caller:
            raise RefusedError(404, "there is no such session; begin a new one with initialize")
        return names[0], session

    async def _open(self, caller: Caller) -> tuple[str, Session]:
        """A session with a new child, if there is room for one."""
        owners = [*self._beginning, *(each.owner for each in self._sessions.values())]
        own = sum(owner[0] == caller[0] for owner in owners)  # whoever it acts for
        if len(owners) >= self._max_sessions or own >= max(1, self._max_sessions // 2):
            raise RefusedError(503, "no more sessions now", code="mcp_sessions_full", rpc_code=INTERNAL_ERROR)
        self._beginning.append(caller)  # before anything is awaited: others count it
        try:
            session = Session(await self._start(), caller, self._says)
        finally:
            self._beginning.remove(caller)
        name = secrets.token_urlsafe(32)
        self._sessions[name] = session
        task = asyncio.create_task(self._run(name, session))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return name, session

    async def _end_idle(self) -> None:
        now = time.monotonic()
        idle = [name for name, each in self._sessions.items() if each.is_idle and now - each.used_at > self._idle_s]
        for name in idle:
            await self._end(name)

    async def _run(self, name: str, session: Session) -> None:
        try:
            await session.run()
        except ChildGoneError as error:
            self._lose(error)
            await self._end(name)

    def _lose(self, error: ChildGoneError) -> None:
        if not self.gone.done():
            self.gone.set_result(error)

    async def _end(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.end()


async def _ask(session: Session, parsed: Parsed, handle: str | None) -> Stream:
    try:
        return await session.request(parsed, handle)
    except InvalidError as error:
        raise RefusedError(400, error.message, code=error.code) from error


async def _respond(request: web.BaseRequest, number: Id | None, stream: Stream) -> web.StreamResponse:
    """The answer alone as JSON; as a stream if something comes before it, or nothing for a while."""
    try:
        first = await asyncio.wait_for(stream.queue.get(), QUIET_S)
    except TimeoutError:
        return await _stream(request, stream, None)
    if first is None:
        return _json(error_message(number, INTERNAL_ERROR, "the server did not answer"))
    if "method" in first:
        return await _stream(request, stream, first)
    return _json(first)


async def _stream(request: web.BaseRequest, stream: Stream, first: Message | None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": EVENTS, "Cache-Control": "no-store"})
    # A client that hangs up has not cancelled anything: what is said after that is lost with its stream.
    with suppress(ConnectionError):
        await response.prepare(request)
        message = first or await _next(response, stream)
        while message is not None:
            await response.write(b"event: message\ndata: " + format_message(message) + b"\n\n")
            message = await _next(response, stream)
        await response.write_eof()
    return response


async def _next(response: web.StreamResponse, stream: Stream) -> Message | None:
    """The next message, None at the end; meanwhile the client, and who is in between, is told that we live."""
    while True:
        try:
            return await asyncio.wait_for(stream.queue.get(), PING_S)
        except TimeoutError:
            await response.write(b": ping\n\n")


def _json(message: Message, headers: dict[str, str] | None = None, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=format_message(message), content_type=JSON, headers=headers)
