"""What ``broker.yaml`` says about calls that leave for services outside.

Owns: the keys under ``egress``. Does not own: which services a component may call (the documents).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hopseal.settings import Section

MAX_TUNNEL_S = 86_400.0


@dataclass(frozen=True, slots=True)
class EgressConfig:
    """How services outside are reached.

    Args:
        ca_file: PEM file of the authorities that count instead of those that the host trusts; None for the host's.
        allow_private: names may lead to addresses that are not public: this host, its network, link-local ones.
        tunnel_idle_s: a tunnel through which nothing passes is closed after this.
        tunnel_life_s: a tunnel is closed after this in any case.
    """

    ca_file: Path | None = None
    allow_private: bool = False
    tunnel_idle_s: float = 300.0
    tunnel_life_s: float = 3_600.0

    def encode(self) -> dict[str, object]:
        """As the data plane reads it."""
        return {
            "ca_file": str(self.ca_file) if self.ca_file else None,
            "allow_private": self.allow_private,
            "tunnel_idle_ms": round(self.tunnel_idle_s * 1_000),
            "tunnel_life_ms": round(self.tunnel_life_s * 1_000),
        }


def read_egress(section: Section) -> EgressConfig:
    """The section ``egress``."""
    ca_file = section.path("ca_file") if "ca_file" in section else None
    if ca_file is not None and not ca_file.is_file():
        section.mistake("ca_file", f"{ca_file} is no file", "make it, or leave it out to trust what the host trusts")
    return EgressConfig(
        ca_file=ca_file,
        allow_private=section.flag("allow_private", default=False),
        tunnel_idle_s=section.number("tunnel_idle_s", default=300.0, minimum=1.0, maximum=MAX_TUNNEL_S),
        tunnel_life_s=section.number("tunnel_life_s", default=3_600.0, minimum=1.0, maximum=MAX_TUNNEL_S),
    )
