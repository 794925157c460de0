"""The witness's HTTP: ``POST /add-checkpoint`` and ``GET /<origin hash>/checkpoint``.

Owns: paths, statuses, and what is told of each request. Does not own: the answers (``cosigner``); deadlines and bounds
of connections (``connections``).
Source: c2sp.org/tlog-witness, "HTTP Interface".
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from hopseal.errors import HopsealError
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.witness import MAX_REQUEST_BYTES, SIZE_TYPE, Answer, WitnessRefusalError, format_conflict
from hopseal.witness.admission import Admission
from hopseal.witness.config import WitnessLimits
from hopseal.witness.connections import Connections, peer_of
from hopseal.witness.cosigner import Cosigner
from hopseal.witness.events import Events

BACKLOG: Final = 128
WORKERS: Final = 4
MAX_WAITING: Final = 64  # requests that are being decided or wait for it
DRAIN_S: Final = 5.0
LINGER_S: Final = 1.0  # that the rest of a refused body is read
MAX_LOGGED: Final = 200  # characters of a path

_CLOSE = {"Connection": "close"}
_TEXT = "text/plain; charset=utf-8"
_CHECKPOINT_PATH = re.compile(r"/([0-9a-f]{64})/checkpoint", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer, and what is told of it."""

    status: int
    body: bytes
    content_type: str = _TEXT
    headers: dict[str, str] = field(default_factory=dict)
    told: dict[str, object] = field(default_factory=dict)


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
        self._connections = Connections(self._admission, limits, events)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="witness")
        self._waiting = 0
        self._begun = 0
        self._is_stopping = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def serve(self, sock: socket.socket) -> AsyncIterator[None]:
        """Serve on ``sock`` until the context ends; requests that were begun are then answered."""
        # Without aiohttp's router, which does not see every path.
        server = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=self._limits.idle_s,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        listening = await asyncio.get_running_loop().create_server(
            lambda: self._connections.protocol(server), sock=sock, backlog=BACKLOG
        )
        try:
            yield
        finally:
            listening.close()
            await self._drain()
            await server.shutdown(LINGER_S)
            await asyncio.to_thread(self._workers.shutdown)

    async def _drain(self) -> None:
        """Wait for the requests that were begun; aiohttp itself would drop the rest of a body."""
        self._is_stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S), self._changed:
                await self._changed.wait_for(lambda: not self._begun)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._begun += 1
        self._connections.begin_request(request.transport, DRAIN_S)
        try:
            return await self._tell(request)
        finally:
            self._connections.end_request(request.transport)
            self._begun -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _tell(self, request: web.BaseRequest) -> web.Response:
        begun = time.monotonic()
        peer = peer_of(request.transport)
        if self._is_stopping:
            reply = _busy(503)
        elif not self._admission.request(peer, begun):
            reply = _busy(429)
        else:
            reply = await self._answer(request)
        self._events(
            "request",
            peer=peer,
            method=request.method[:MAX_LOGGED],
            path=request.path[:MAX_LOGGED],
            status=reply.status,
            ms=round((time.monotonic() - begun) * 1_000, 1),
            **reply.told,
        )
        response = web.Response(
            status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type, **reply.headers}
        )
        if reply.headers == _CLOSE:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> _Reply:
        asked = _CHECKPOINT_PATH.fullmatch(request.path)
        if request.path != "/add-checkpoint" and asked is None:
            return _refused(404, "path_unknown", "there is nothing here")
        if request.method != ("POST" if asked is None else "GET"):
            return _refused(405, "method_unknown", "this path has another method")
        if asked is None:
            return await self._add_checkpoint(request)
        note = self._cosigner.checkpoint(asked[1])
        if note is None:
            return _refused(404, "checkpoint_unknown", "no checkpoint of that log was cosigned")
        return _Reply(200, note)

    async def _add_checkpoint(self, request: web.BaseRequest) -> _Reply:
        body = await self._read(request)
        if isinstance(body, _Reply):
            return body
        if self._waiting >= MAX_WAITING:
            return _busy(503)
        self._waiting += 1
        try:
            checkpoint, lines = await self._decide(body)
        except HopsealError as error:
            return _refuse(error)
        finally:
            self._waiting -= 1
        return _Reply(200, lines, told={"origin": checkpoint.origin, "size": checkpoint.size})

    async def _read(self, request: web.BaseRequest) -> bytes | _Reply:
        """The whole body, or why there is none."""
        if "Content-Encoding" in request.headers:
            return _refused(415, "request_encoded", "a request body is sent as it is")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.request_s):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > MAX_REQUEST_BYTES:
                        return _refused(413, "request_too_large", f"more than {MAX_REQUEST_BYTES} bytes", _CLOSE)
        except TimeoutError:
            return _refused(408, "request_slow", "the request took too long", _CLOSE)
        except (OSError, web.RequestPayloadError):
            return _refused(400, "request_cut", "the body ended early", _CLOSE)
        return bytes(body)

    async def _decide(self, body: bytes) -> tuple[Checkpoint, bytes]:
        # If this wait is cancelled the thread goes on: at worst a tree is remembered that nobody got a cosignature for.
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._cosigner.add_checkpoint, body)


def _refuse(error: HopsealError) -> _Reply:
    told: dict[str, object] = {"code": error.code, "detail": error.detail}
    if not isinstance(error, WitnessRefusalError):
        # The witness itself is not well.
        return _refused(503, error.code, error.message, told={**told, "alarm": True})
    if error.evidence is not None:
        # Two trees of one size, both signed by the log, prove a fork; a proof that fails may be anybody's.
        told |= {"alarm": error.answer is Answer.FORKED, "checkpoint": error.evidence.decode()}
    if error.size is None:
        return _refused(error.answer.status, error.code, error.message, told=told)
    return _Reply(error.answer.status, format_conflict(error.size), SIZE_TYPE, told=told)


def _busy(status: int) -> _Reply:
    return _refused(status, "witness_busy", "too many requests", {"Retry-After": "1"})


def _refused(
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
    told: dict[str, object] | None = None,
) -> _Reply:
    return _Reply(status, f"{code}: {message}\n".encode(), headers=headers or {}, told=told or {"code": code})
