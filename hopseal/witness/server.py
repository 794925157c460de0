"""The witness's HTTP: ``POST /add-checkpoint`` and ``GET /<origin hash>/checkpoint``.

Owns: paths, statuses, deadlines and bounds of connections. Does not own: the answers (``cosigner``).
Every connection has a deadline for its next request and for the whole of it, which aiohttp has not.
Source: c2sp.org/tlog-witness, "HTTP Interface".
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from hopseal.errors import BugError, HopsealError
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.witness import MAX_REQUEST_BYTES, SIZE_TYPE, Answer, WitnessRefusalError, format_conflict
from hopseal.witness.admission import Admission
from hopseal.witness.config import WitnessLimits
from hopseal.witness.cosigner import Cosigner
from hopseal.witness.events import Events

BACKLOG: Final = 128
WORKERS: Final = 4
MAX_WAITING: Final = 64  # requests that are being decided or wait for it
DRAIN_S: Final = 5.0
LINGER_S: Final = 1.0  # that the rest of a refused body is read
MAX_LOGGED: Final = 200  # characters of a path
_FIELDS: Final = "fields"
_ORIGIN_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WitnessHttp:
    """Answers logs and monitors.

    Args:
        cosigner: blocks, so it is called in threads.
        limits: bounds.
        events: where each request is told.
    """

    def __init__(self, cosigner: Cosigner, limits: WitnessLimits, events: Events) -> None:
        self._cosigner = cosigner
        self._limits = limits
        self._events = events
        self._admission = Admission(limits)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="witness")
        self._waiting = 0
        self._deadlines: dict[asyncio.BaseTransport, _Deadline] = {}

    @asynccontextmanager
    async def serve(self, sock: socket.socket) -> AsyncIterator[None]:
        """Serve on ``sock`` until the context ends; requests that were read are then answered."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES + 1, middlewares=[self._watch])
        app.add_routes(
            [web.post("/add-checkpoint", self._add_checkpoint), web.get("/{origin_hash}/checkpoint", self._checkpoint)]
        )
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=DRAIN_S,
            keepalive_timeout=self._limits.idle_s,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        await runner.setup()
        server = runner.server
        if server is None:
            raise BugError("witness_server_missing", "the HTTP server was set up and is not there")
        listening = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, server), sock=sock, backlog=BACKLOG
        )
        try:
            yield
        finally:
            listening.close()
            await runner.cleanup()
            await asyncio.to_thread(self._workers.shutdown)

    def accept(self, transport: asyncio.Transport) -> Callable[[], None] | None:
        """Begin to watch a connection; what is to be called when it ends, or None if it is one too many."""
        peer = _peer_of(transport)
        if not self._admission.connect(peer):
            self._events("connection_refused", peer=peer)
            return None
        self._deadlines[transport] = _Deadline(transport, self._limits.request_s)

        def end() -> None:
            self._deadlines.pop(transport).cancel()
            self._admission.disconnect(peer)

        return end

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound one request in time and number, and tell what came of it."""
        begun = time.monotonic()
        peer = _peer_of(request.transport)
        deadline = self._deadlines.get(request.transport) if request.transport else None
        if deadline is not None:
            deadline.set(self._limits.request_s + DRAIN_S)
        fields: dict[str, object] = {}
        request[_FIELDS] = fields
        response: web.StreamResponse
        try:
            if self._admission.request(peer, begun):
                response = await handler(request)
            else:
                response = _busy(429)
        except web.HTTPException as error:
            response = _refused(error.status, "request_invalid", error.reason)
        if deadline is not None:
            deadline.set(self._limits.idle_s)
        milliseconds = round((time.monotonic() - begun) * 1_000, 1)
        self._events(
            "request", peer=peer, path=request.path[:MAX_LOGGED], status=response.status, ms=milliseconds, **fields
        )
        return response

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        fields = request[_FIELDS]
        if "Content-Encoding" in request.headers:
            return _refused(415, "request_encoded", "a request body is sent as it is")
        try:
            async with asyncio.timeout(self._limits.request_s):
                body = await request.read()
        except TimeoutError:
            response = _refused(408, "request_slow", "the request took too long")
            response.force_close()
            return response
        if self._waiting >= MAX_WAITING:
            return _busy(503)
        self._waiting += 1
        try:
            checkpoint, lines = await self._decide(body)
        except WitnessRefusalError as error:
            fields.update(code=error.code, detail=error.detail)
            if error.answer is Answer.INCONSISTENT:
                # The log's own signature is on it, so this line is proof of what the log did.
                fields.update(alarm=True, proof=body.decode("utf-8", "replace"))
            return _answer_refusal(error)
        except HopsealError as error:
            fields.update(code=error.code, detail=error.detail, alarm=True)
            return _refused(503, error.code, error.message)
        finally:
            self._waiting -= 1
        fields.update(origin=checkpoint.origin, size=checkpoint.size)
        return _text(200, lines)

    async def _decide(self, body: bytes) -> tuple[Checkpoint, bytes]:
        # If this wait is cancelled the thread goes on: at worst a tree is remembered that nobody got a cosignature for.
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._cosigner.add_checkpoint, body)

    async def _checkpoint(self, request: web.Request) -> web.Response:
        origin_hash = request.match_info["origin_hash"]
        note = self._cosigner.checkpoint(origin_hash) if _ORIGIN_HASH.fullmatch(origin_hash) else None
        if note is None:
            return _refused(404, "checkpoint_unknown", "no checkpoint of that log was cosigned")
        return _text(200, note)


class _Deadline:
    """Cuts a connection that does not get on in time."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._handle = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def set(self, seconds: float) -> None:
        """From now on it has ``seconds``."""
        self._handle.cancel()
        self._handle = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def cancel(self) -> None:
        """The connection has ended."""
        self._handle.cancel()


class _Connection(asyncio.Protocol):
    """One connection on its way to aiohttp: refused if it is one too many, counted until it ends."""

    def __init__(self, http: WitnessHttp, server: web.Server) -> None:
        self._http = http
        self._inner = server()
        self._end: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._end = self._http.accept(transport) if isinstance(transport, asyncio.Transport) else None
        if self._end is None:
            transport.close()
        else:
            self._inner.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
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


def _peer_of(transport: asyncio.BaseTransport | None) -> str:
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else "unknown"


def _answer_refusal(error: WitnessRefusalError) -> web.Response:
    if error.size is None:
        return _refused(error.answer.status, error.code, error.message)
    return web.Response(status=409, body=format_conflict(error.size), headers={"Content-Type": SIZE_TYPE})


def _busy(status: int) -> web.Response:
    response = _refused(status, "witness_busy", "too many requests")
    response.headers["Retry-After"] = "1"
    return response


def _refused(status: int, code: str, message: str) -> web.Response:
    return _text(status, f"{code}: {message}\n".encode())


def _text(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": "text/plain; charset=utf-8"})
