"""An aiohttp application on a Unix socket, bounded.

Owns: accepting, how many connections there are, cutting those that ask nothing.
Does not own: what is answered (``attestor.admin``).
"""

from __future__ import annotations

import asyncio
from socket import socket
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MAX_CONNECTIONS = 64
FIRST_REQUEST_TIMEOUT_S = 5.0
KEEPALIVE_TIMEOUT_S = 15.0
SHUTDOWN_TIMEOUT_S = 2.0


class AdminServer:
    """Serves ``app`` on ``sock`` (bound, not listening) while entered; owns neither the path nor its lock."""

    def __init__(
        self,
        app: web.Application,
        sock: socket,
        *,
        max_connections: int = MAX_CONNECTIONS,
        first_request_timeout_s: float = FIRST_REQUEST_TIMEOUT_S,
    ) -> None:
        self._sock = sock
        self._max_connections = max_connections
        self._first_request_timeout_s = first_request_timeout_s
        self._silent: set[asyncio.BaseProtocol] = set()
        app.middlewares.append(self._note_request())
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=KEEPALIVE_TIMEOUT_S, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._make_protocol, sock=self._sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _make_protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._max_connections:
            return _TurnedAway()
        protocol = server()
        self._silent.add(protocol)
        asyncio.get_running_loop().call_later(self._first_request_timeout_s, self._cut_silent, protocol)
        return protocol

    def _cut_silent(self, protocol: web.RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            protocol.force_close()

    def _note_request(self) -> Middleware:
        @web.middleware
        async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._silent.discard(request.protocol)
            return await handler(request)

        return note_request


class _TurnedAway(asyncio.Protocol):
    """Closes its connection at once: there are as many as there may be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
