"""Where identities come from: one interface, several implementations.

Owns: the interface, and choosing the implementation. Does not own: who may have an identity
(registration entries say so) or who asks (``attestor.attestation``).
"""

from __future__ import annotations

from attestor.upstream.build import build_upstream
from attestor.upstream.protocol import EntrySource, Upstream, UpstreamHealth
from attestor.upstream.settings import EmbeddedSettings, SpireSettings, UpstreamSettings

__all__ = [
    "EmbeddedSettings",
    "EntrySource",
    "SpireSettings",
    "Upstream",
    "UpstreamHealth",
    "UpstreamSettings",
    "build_upstream",
]
