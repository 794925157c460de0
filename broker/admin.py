"""The broker's own HTTP: the operators' Unix socket, and metrics and health over TCP.

Owns: the paths and their answers. Does not own: what they say (``broker.status``, ``broker.metrics``).
Nothing here changes anything: every path answers GET only, and no request body is read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from broker.attestor_admin import AttestorAdmin
from broker.config import Endpoint
from broker.metrics import BrokerCollector, render_metrics
from broker.status import StatusReader
from hopseal.errors import BugError, UnavailableError
from hopseal.sockets import BoundSocket

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BACKLOG = 64
_CONNECTIONS = 64  # on each of the two sockets
_LIFE_S = 30.0  # every answer is short; a connection that is older is idle, slow or hostile

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminHttp:
    """Answers operators and Prometheus.

    Args:
        status: the broker's state.
        collector: the broker's metrics.
        attestor: the attestor's admin socket, None if it is not configured.
    """

    def __init__(self, status: StatusReader, collector: BrokerCollector, attestor: AttestorAdmin | None) -> None:
        self._status = status
        self._collector = collector
        self._attestor = attestor

    @asynccontextmanager
    async def serve(self, admin: BoundSocket, metrics: socket.socket) -> AsyncIterator[None]:
        """Serve the admin API on ``admin`` and metrics and health on both, until the context ends."""
        common = [
            web.get("/metrics", self._metrics),
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
        ]
        async with (
            serve_routes(admin.sock, [web.get("/v1/status", self._get_status), *common]),
            serve_routes(metrics, common),
        ):
            yield

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.json_response(self._status.read().to_json())

    async def _metrics(self, _: web.Request) -> web.Response:
        body = render_metrics(self._collector)
        if self._attestor is not None:
            try:
                body += await self._attestor.fetch_metrics()
            except UnavailableError:
                body += b"# the attestor's metrics are not available\n"
        return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})

    async def _healthz(self, _: web.Request) -> web.Response:
        problems = self._status.problems()
        return web.json_response({"healthy": not problems, "problems": problems}, status=503 if problems else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._status.is_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)


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
