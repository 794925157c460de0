"""A witness's configuration: ``witness.yaml`` as one immutable value.

Owns: the keys, their defaults and their bounds. Does not own: reading YAML (``hopseal.settings``).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from hopseal.errors import InvalidError
from hopseal.log.log_key import LOG_ALGORITHMS
from hopseal.log.note import VerifierKey, is_key_name, parse_vkey
from hopseal.settings import Section
from hopseal.settings_file import load_settings
from hopseal.witness.keys import ALGORITHMS

DEFAULT_CONFIG = Path("/etc/hopseal/witness.yaml")
DEFAULT_LISTEN = "127.0.0.1:7380"

_PORT = re.compile(r"[1-9][0-9]{0,4}|0", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listen:
    """An IP address and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WitnessLimits:
    """Bounds on what anybody can make the witness hold or do.

    Args:
        connections: at once.
        connections_per_peer: at once, of one address.
        requests_per_s: of one address, on average.
        request_s: from a connection's first byte to the whole request; a slower one is cut.
        idle_s: that a connection may wait between two requests.
    """

    connections: int
    connections_per_peer: int
    requests_per_s: int
    request_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """Everything that ``witness.yaml`` says, checked.

    Args:
        name: key name of the witness.
        algorithms: of the keys that are made at the first start, out of :data:`ALGORITHMS`.
        logs: trusted keys by origin.
    """

    name: str
    listen: Listen
    state_dir: Path
    algorithms: tuple[str, ...]
    logs: dict[str, tuple[VerifierKey, ...]]
    limits: WitnessLimits


def load_config(path: Path) -> WitnessConfig:
    """The configuration in the file at ``path``.

    Raises:
        hopseal.settings.SettingsInvalidError: the file has mistakes; all of them are named.
        UnavailableError: the file cannot be read (``config_unreadable``).
    """
    settings, top = load_settings(path)
    config = WitnessConfig(
        name=top.parsed("name", _parse_name, ""),
        listen=top.parsed("listen", parse_listen, parse_listen(DEFAULT_LISTEN), default=DEFAULT_LISTEN),
        state_dir=top.path("state_dir"),
        algorithms=_read_algorithms(top),
        logs=_read_logs(top),
        limits=_read_limits(top.section("limits")),
    )
    settings.finish()
    return config


def parse_listen(text: str) -> Listen:
    """The address and port in ``address:port`` or ``[IPv6]:port``.

    Raises:
        InvalidError: ``text`` is neither (``listen_malformed``).
    """
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.IPv6Address(host[1:-1]) if host.startswith("[") and host.endswith("]") else None
        found = address or ipaddress.IPv4Address(host)
    except ValueError:
        found = None
    if found is None or _PORT.fullmatch(port) is None or int(port) > 65_535:
        raise InvalidError("listen_malformed", f"{text!r} is not address:port", remedy="write an IP address and a port")
    return Listen(str(found), int(port))


def _parse_name(text: str) -> str:
    if not is_key_name(text):
        raise InvalidError(
            "witness_name_malformed",
            f"{text!r} cannot be the name of a key",
            remedy="write a URL without its scheme, such as witness.example.com/w1",
        )
    return text


def _read_algorithms(top: Section) -> tuple[str, ...]:
    found = top.texts("algorithms")
    for each in found:
        if each not in ALGORITHMS:
            top.mistake("algorithms", f"{each!r} is none of {', '.join(ALGORITHMS)}", "write one or both of them")
    return found or tuple(ALGORITHMS)


def _read_logs(top: Section) -> dict[str, tuple[VerifierKey, ...]]:
    logs: dict[str, list[VerifierKey]] = {}
    if top.is_empty("logs"):
        top.mistake("logs", "no log is listed", "list at least one: - key: <the log's verifier key>")
    for section in top.section_list("logs"):
        key = section.parsed("key", _parse_log_key, None)
        origin = section.text("origin", default=key.name if key else "unknown")
        if key is not None and any(key.material == each.material for keys in logs.values() for each in keys):
            section.mistake("key", "is listed twice", "remove one")
        elif key is not None:
            logs.setdefault(origin, []).append(key)
    return {origin: tuple(keys) for origin, keys in logs.items()}


def _parse_log_key(text: str) -> VerifierKey | None:
    key = parse_vkey(text)
    if key.algorithm not in LOG_ALGORITHMS:
        raise InvalidError(
            "log_key_algorithm", "the key is none of a log", remedy="ask for the log's key, type 01 or 06"
        )
    return key


def _read_limits(section: Section) -> WitnessLimits:
    return WitnessLimits(
        connections=section.integer("connections", default=256, minimum=1, maximum=65_536),
        connections_per_peer=section.integer("connections_per_peer", default=64, minimum=1, maximum=65_536),
        requests_per_s=section.integer("requests_per_s", default=50, minimum=1, maximum=10_000),
        request_s=section.number("request_s", default=10.0, minimum=0.1, maximum=60.0),
        idle_s=section.number("idle_s", default=60.0, minimum=0.1, maximum=600.0),
    )
