"""Choosing the upstream that the configuration names."""

from __future__ import annotations

import time
from collections.abc import Callable

from attestor.upstream.embedded.upstream import EmbeddedUpstream
from attestor.upstream.protocol import EntrySource, Upstream
from attestor.upstream.settings import EmbeddedSettings, UpstreamSettings
from attestor.upstream.spire.upstream import SpireUpstream
from hopseal.entries import attestor_id
from hopseal.ids import TrustDomain


def build_upstream(
    settings: UpstreamSettings,
    trust_domain: TrustDomain,
    node: str,
    entries: EntrySource,
    *,
    clock: Callable[[], float] = time.time,
) -> Upstream:
    """The upstream that ``settings`` describe; nothing is started.

    Args:
        settings: which one, and its own settings.
        trust_domain: whose identities it issues.
        node: names the attestor's own identity.
        entries: what the embedded authority issues for; SPIRE has its own entries.
        clock: NumericDate seconds.
    """
    own_id = attestor_id(trust_domain, node)
    if isinstance(settings, EmbeddedSettings):
        return EmbeddedUpstream(settings, own_id, entries, clock=clock)
    return SpireUpstream(settings, own_id, clock=clock)
