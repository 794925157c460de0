"""What is read, not counted, when metrics are asked for.

Owns: names of the gauges and where each value comes from. Does not own: the registry (``attestor.metrics``).
"""

from __future__ import annotations

from attestor.api.server import SocketServer
from attestor.attestation import Attestations
from attestor.metrics import Metrics
from attestor.registry import Registry
from attestor.upstream.protocol import Upstream


def add_gauges(metrics: Metrics, registry: Registry, attestations: Attestations, upstream: Upstream) -> None:
    """Add the gauges of what is on record, who watches, and the upstream's health."""
    add = metrics.add_gauge
    add("processes", "Processes on record", lambda: len(registry))
    add("watches", "Open watches", attestations.count_users)
    add("upstream_healthy", "1 if the identity upstream works", lambda: float(upstream.health().healthy))


def add_socket_gauges(metrics: Metrics, name: str, api: str, server: SocketServer) -> None:
    """Add the gauges of one socket: open connections, and what was refused or cut since start."""
    add = metrics.add_gauge
    refused, cut = f"Refused on the {name} socket since start", f"Connections cut on the {name} socket since start"
    add(f"{name}_connections", f"Open {api} connections", lambda: server.stats().open_connections)
    add(f"{name}_refused", refused, lambda: sum(server.stats().refused.values()))
    add(f"{name}_cut", cut, lambda: sum(server.stats().cut.values()))
