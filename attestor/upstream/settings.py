"""Settings of the identity upstreams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hopseal.entries import DEFAULT_JWT_SVID_TTL_S, DEFAULT_X509_SVID_TTL_S
from hopseal.errors import InvalidError

MIN_CA_TTL_IN_SVID_TTLS = 3
"""A new authority signs from two thirds of the old one's life; a third is left for what the old one signed last."""


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """The embedded authority.

    Args:
        state_dir: folder of its keys, made with mode 0700; attestors of one host may share it.
        x509_svid_ttl_s: lifetime of an X.509-SVID whose component does not say its own.
        jwt_svid_ttl_s: the same of a JWT-SVID.
        ca_ttl_s: lifetime of a signing authority.
    """

    state_dir: Path
    x509_svid_ttl_s: int = DEFAULT_X509_SVID_TTL_S
    jwt_svid_ttl_s: int = DEFAULT_JWT_SVID_TTL_S
    ca_ttl_s: int = 86_400

    def __post_init__(self) -> None:
        """Refuse lifetimes that cannot work.

        Raises:
            InvalidError: ``upstream_settings_invalid``.
        """
        if min(self.x509_svid_ttl_s, self.jwt_svid_ttl_s) <= 0:
            raise InvalidError("upstream_settings_invalid", "SVID lifetimes must be positive")
        longest = max(self.x509_svid_ttl_s, self.jwt_svid_ttl_s)
        if self.ca_ttl_s < MIN_CA_TTL_IN_SVID_TTLS * longest:
            raise InvalidError(
                "upstream_settings_invalid",
                f"ca_ttl_s must be at least {MIN_CA_TTL_IN_SVID_TTLS} times the longest SVID lifetime",
                detail=f"ca_ttl_s {self.ca_ttl_s}, longest SVID lifetime {longest}",
            )


@dataclass(frozen=True, slots=True)
class SpireSettings:
    """SPIRE through the Delegated Identity API of the local agent.

    Args:
        workload_socket: the agent's Workload API, which gives the attestor its own SVID.
        admin_socket: the agent's admin socket, which has the Delegated Identity API.
    """

    workload_socket: Path
    admin_socket: Path


UpstreamSettings: TypeAlias = EmbeddedSettings | SpireSettings


def entry_lifetimes(settings: UpstreamSettings) -> dict[str, int]:
    """Keywords for ``hopseal.entries`` where documents say nothing; none for SPIRE Server, which keeps its own."""
    if isinstance(settings, EmbeddedSettings):
        return {"x509_svid_ttl_s": settings.x509_svid_ttl_s, "jwt_svid_ttl_s": settings.jwt_svid_ttl_s}
    return {}
