"""Bounds and deadlines of the data plane that ``broker.yaml`` may change: names, defaults and ranges.

Owns: the tables; docs/limits.md says what each is for, and a test holds both against the data plane's own defaults.
Does not own: what they bound; that is ``broker/dataplane/src/bounds.rs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hopseal.settings import Section


@dataclass(frozen=True, slots=True)
class Bound:
    """A whole number, its default and its range."""

    default: int
    minimum: int
    maximum: int


LIMITS: Mapping[str, Bound] = MappingProxyType(
    {
        "calls": Bound(4096, 2, 1_048_576),
        "buffered_bytes": Bound(268_435_456, 1, 1 << 40),
        "window_bytes": Bound(134_217_728, 0, 1 << 40),
        "streams_per_connection": Bound(256, 1, 65_536),
        "peer_connections_per_identity": Bound(1024, 1, 65_536),
        "handshake_queue": Bound(1024, 1, 65_536),
        "handles": Bound(262_144, 1, 16_777_216),
        "handles_per_instance": Bound(16_384, 1, 16_777_216),
        "replay_entries": Bound(1_048_576, 32, 268_435_456),
        "log_queue": Bound(8192, 1, 1_048_576),
        "endpoint_failures": Bound(5, 1, 1_000_000),
        "retry_percent": Bound(20, 0, 100),
    }
)

TIMEOUTS_MS: Mapping[str, Bound] = MappingProxyType(
    {
        "caller_verdict": Bound(5_000, 1, 600_000),
        "listener_verdict": Bound(2_000, 1, 600_000),
        "header_read": Bound(10_000, 1, 600_000),
        "body_read": Bound(30_000, 1, 3_600_000),
        "idle": Bound(60_000, 1, 86_400_000),
        "handshake": Bound(5_000, 1, 600_000),
        "connect": Bound(3_000, 1, 600_000),
        "endpoint_open": Bound(1_000, 1, 600_000),
        "call": Bound(660_000, 1, 86_400_000),
        "response_head": Bound(600_000, 1, 86_400_000),
        "answer_unread": Bound(60_000, 1, 86_400_000),
        "stream_idle": Bound(300_000, 1, 86_400_000),
        "stream_lifetime": Bound(3_600_000, 1, 604_800_000),
        "log_write": Bound(10_000, 1, 600_000),
        "log_witness": Bound(5_000, 1, 600_000),
    }
)


def read_bounds(section: Section, bounds: Mapping[str, Bound]) -> Mapping[str, int]:
    """Every bound of a table, those that ``section`` does not name with their defaults."""
    return MappingProxyType(
        {
            name: section.integer(name, default=bound.default, minimum=bound.minimum, maximum=bound.maximum)
            for name, bound in bounds.items()
        }
    )
