"""The broker's own HTTP: the operators' Unix socket, and metrics and health over TCP.

Owns: the paths and their answers. Does not own: what they say (``broker.status``, ``broker.metrics``).
Nothing here changes anything: every path answers GET only, and no request body is read.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from broker.attestor_admin import AttestorAdmin
from broker.metrics import BrokerCollector, render_metrics
from broker.policy.queries import PolicyQueries
from broker.serving import serve_routes
from broker.status import StatusReader
from hopseal.errors import UnavailableError
from hopseal.sockets import BoundSocket

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class AdminHttp:
    """Answers operators and Prometheus.

    Args:
        status: the broker's state.
        collector: the broker's metrics.
        attestor: the attestor's admin socket, None if it is not configured.
        policies: explains decisions.
    """

    def __init__(
        self,
        status: StatusReader,
        collector: BrokerCollector,
        attestor: AttestorAdmin | None,
        policies: PolicyQueries,
    ) -> None:
        self._status = status
        self._policies = policies
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
            serve_routes(admin.sock, [web.get("/v1/status", self._get_status), *self._policies.routes, *common]),
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
