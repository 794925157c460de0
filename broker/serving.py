"""Small HTTP servers of the broker: bound sockets, a bound on connections, answers to errors in JSON.

Owns: what aiohttp leaves open: how many connections there are and how long each lives.
Does not own: paths and their answers (``broker.admin``, ``broker.audit.tile_http``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from broker.config import Endpoint
from hopseal.errors import BugError, UnavailableError

_BACKLOG = 64
_CONNECTIONS = 64  # on each socket
_LIFE_S = 30.0  # every answer is short; a connection that is older is idle, slow or hostile

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def bind_tcp(endpoint: Endpoint, setting: str = "metrics_listen") -> socket.socket:
    """A TCP socket bound at ``endpoint``, which the configuration names ``setting``; not yet listening.

    Raises:
        UnavailableError: it cannot be bound (``metrics_listen_unavailable``, ``audit_listen_unavailable``).
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((endpoint.host, endpoint.port))
    except OSError as error:
        sock.close()
        raise UnavailableError(
            f"{setting.replace('.', '_')}_unavailable",
            f"cannot listen on {endpoint}: {error.strerror}",
            remedy=f"stop what listens there, or change {setting}",
        ) from error
    return sock


@asynccontextmanager
async def serve_routes(
    sock: socket.socket, routes: list[web.RouteDef], *, life_s: float = _LIFE_S
) -> AsyncIterator[None]:
    """Serve ``routes`` on ``sock`` until the context ends; no connection outlives ``life_s``."""
    app = web.Application(client_max_size=0, middlewares=[_answer_errors])
    app.add_routes(routes)
    # Status carries names from documents; an access log would add nothing.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    server = runner.server
    if server is None:
        raise BugError("admin_server_missing", "the HTTP server was set up and is not there")
    listening = await asyncio.get_running_loop().create_server(
        lambda: _Bounded(server, life_s), sock=sock, backlog=_BACKLOG
    )
    try:
        yield
    finally:
        listening.close()
        await runner.cleanup()


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        problem = {"code": "not_found" if error.status == 404 else "request_invalid", "message": error.reason}
        return web.json_response({**problem, "remedy": ""}, status=error.status)


class _Bounded(asyncio.Protocol):
    """Hands a connection to aiohttp, within a bound on their number and on the life of each, which aiohttp has not."""

    def __init__(self, server: web.Server, life_s: float) -> None:
        self._server = server
        self._life_s = life_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport) or len(self._server.connections) >= _CONNECTIONS:
            transport.close()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        asyncio.get_running_loop().call_later(self._life_s, transport.abort)
