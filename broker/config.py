"""The broker's configuration: ``broker.yaml`` as one immutable value.

Owns: the keys, their defaults and their bounds. Does not own: reading YAML
(``hopseal.settings``) or acting on any value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.audit.config import AuditConfig, read_audit
from broker.bounds_config import LIMITS, TIMEOUTS_MS, read_bounds
from broker.egress_config import EgressConfig, read_egress
from broker.names import parse_component, parse_label
from broker.policy.config import PolicyConfig, read_policies
from broker.user_config import Boundary, IssuerConfig, read_boundaries, read_issuers
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.settings import Section
from hopseal.settings_file import load_settings

MAX_GRACE_S = 60.0  # docs/architecture.md: identities outlive the attestor's connection by a minute at most

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NO_TRUST_DOMAIN = TrustDomain("invalid")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a TCP port; ``host`` is an IP address or, for a peer, a DNS name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AttestorConfig:
    """Where the attestor of this node is and how long the broker does without it.

    Args:
        workload_socket: SPIFFE Workload API, for the broker's own SVID.
        broker_socket: SPIFFE Broker API, for the components' SVIDs.
        admin_socket: the attestor's admin socket for its metrics and its documents' digest; None leaves both out.
        connect_socket: where the attestor makes connections to components that listen on TCP; by default beside
            ``broker_socket``.
        grace_s: seconds that identities are kept after the connection to the attestor was lost.
    """

    workload_socket: Path
    broker_socket: Path
    admin_socket: Path | None
    connect_socket: Path
    grace_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers can make the broker hold.

    Args:
        body_bytes: largest request body that is held in memory and bound to its record at the start.
        streams: accept or reject: whether larger bodies stream and are closed by a statement of their own.
        callers: processes whose identity is held at once.
        openings: identity subscriptions that are being opened at once.
        connections: connections on each of the two listening sockets.
        connections_per_peer: connections of one local user or one peer address.
        handshakes: TLS handshakes in progress at once.
        worker_threads: threads of the data plane; one costs least for each call, more use more cores.
    """

    body_bytes: int
    streams: str
    callers: int
    openings: int
    connections: int
    connections_per_peer: int
    handshakes: int
    worker_threads: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How the broker's own log lines look; ``format`` is json or console."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class HandoverConfig:
    """A planned restart, see ``broker.handover``.

    Args:
        drain_s: how long the going process may take to finish what it began.
        ready_s: how long the coming one may take until it can serve; else the going one goes on.
    """

    drain_s: float
    ready_s: float


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Everything that ``broker.yaml`` says, checked."""

    trust_domain: TrustDomain
    node: str
    documents: Path
    state_dir: Path
    out_socket: Path
    admin_socket: Path
    attestor: AttestorConfig
    peer_listen: Endpoint
    metrics_listen: Endpoint
    routes: Path | None
    policies: PolicyConfig
    default_component: str | None
    limits: Limits
    bounds: Mapping[str, int]
    timeouts_ms: Mapping[str, int]
    log: LogConfig
    issuers: tuple[IssuerConfig, ...]
    boundaries: Mapping[str, Boundary]
    audit: AuditConfig
    handover: HandoverConfig
    egress: EgressConfig = field(default_factory=EgressConfig)

    @property
    def attestor_id(self) -> SpiffeId:
        """The only identity that is accepted behind ``attestor.broker_socket``."""
        return SpiffeId.parse(f"{self.trust_domain.id}/hopseal/attestor/{self.node}")

    @property
    def broker_id(self) -> SpiffeId:
        """The broker's own identity."""
        return SpiffeId.parse(f"{self.trust_domain.id}/hopseal/broker/{self.node}")

    @property
    def log_origin(self) -> str:
        """The name of this node's Merkle log; custody-wire §10."""
        return f"custody.{self.trust_domain.name}/{self.node}"


def load_config(path: Path) -> BrokerConfig:
    """The configuration in the file at ``path``.

    Raises:
        hopseal.settings.SettingsInvalidError: the file has mistakes; all of them are named.
        UnavailableError: the file cannot be read (``config_unreadable``).
    """
    settings, top = load_settings(path)
    sockets, limits = top.section("sockets", required=True), top.section("limits")
    config = BrokerConfig(
        trust_domain=top.parsed("trust_domain", TrustDomain.parse, _NO_TRUST_DOMAIN),
        node=top.parsed("node", parse_label, ""),
        documents=top.path("documents"),
        state_dir=top.path("state_dir"),
        out_socket=sockets.path("out"),
        admin_socket=sockets.path("admin"),
        attestor=_read_attestor(top.section("attestor", required=True)),
        peer_listen=_read_listen(top, "peer_listen", "0.0.0.0:8443"),
        metrics_listen=_read_listen(top, "metrics_listen", "127.0.0.1:9464"),
        routes=_read_optional_path(top, "routes"),
        policies=read_policies(top),
        default_component=_read_component(top, "default_component"),
        limits=_read_limits(limits),
        bounds=read_bounds(limits, LIMITS),
        timeouts_ms=read_bounds(top.section("timeouts_ms"), TIMEOUTS_MS),
        log=_read_log(top.section("log")),
        issuers=read_issuers(top),
        boundaries=read_boundaries(top),
        audit=_read_audit(top.section("audit")),
        handover=_read_handover(top.section("handover")),
        egress=read_egress(top.section("egress")),
    )
    if config.bounds["buffered_bytes"] < config.limits.body_bytes:
        limits.mistake("buffered_bytes", "is less than limits.body_bytes", "leave room for one body at least")
    if config.trust_domain.name in config.boundaries:
        top.mistake(
            "boundaries", f"{config.trust_domain.name} is our own trust domain", "list other trust domains only"
        )
    if sockets.is_present and config.out_socket == config.admin_socket:
        sockets.mistake("admin", "is the same path as sockets.out", "give each socket its own path")
    settings.finish()
    return config


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint ``host:port`` or ``[IPv6]:port``; the host is an IP address or a DNS name, in lower case.

    Raises:
        InvalidError: ``text`` is neither (``endpoint_malformed``).
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}|0", port, re.ASCII) or int(port) > 65535:
        raise _malformed_endpoint(text)
    if host.startswith("[") and host.endswith("]"):
        try:
            return Endpoint(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError as error:
            raise _malformed_endpoint(text) from error
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise _malformed_endpoint(text)
    if host.rpartition(".")[2].isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise _malformed_endpoint(text) from error
    return Endpoint(host, int(port))


def _read_attestor(section: Section) -> AttestorConfig:
    broker_socket = section.path("broker_socket")
    return AttestorConfig(
        workload_socket=section.path("workload_socket"),
        broker_socket=broker_socket,
        admin_socket=_read_optional_path(section, "admin_socket"),
        connect_socket=_read_optional_path(section, "connect_socket") or broker_socket.parent / "connect.sock",
        grace_s=section.number("grace_s", default=10.0, minimum=0.0, maximum=MAX_GRACE_S),
    )


def _read_limits(section: Section) -> Limits:
    return Limits(
        body_bytes=section.integer("body_bytes", default=8_388_608, minimum=1, maximum=268_435_456),
        streams=section.choice("streams", ("accept", "reject"), default="accept"),
        callers=section.integer("callers", default=4096, minimum=1, maximum=65_536),
        openings=section.integer("openings", default=16, minimum=1, maximum=100),
        connections=section.integer("connections", default=4096, minimum=1, maximum=65_536),
        connections_per_peer=section.integer("connections_per_peer", default=1024, minimum=1, maximum=65_536),
        handshakes=section.integer("handshakes", default=64, minimum=1, maximum=4096),
        worker_threads=section.integer("worker_threads", default=1, minimum=1, maximum=64),
    )


def _read_log(section: Section) -> LogConfig:
    return LogConfig(
        format=section.choice("format", ("json", "console"), default="json"),
        level=section.choice("level", ("debug", "info", "warning", "error"), default="info"),
    )


def _read_audit(section: Section) -> AuditConfig:
    return read_audit(section, _read_listen(section, "listen", "127.0.0.1:0") if "listen" in section else None)


def _read_handover(section: Section) -> HandoverConfig:
    return HandoverConfig(
        drain_s=section.number("drain_s", default=60.0, minimum=0.0, maximum=3600.0),
        ready_s=section.number("ready_s", default=20.0, minimum=0.1, maximum=600.0),
    )


def _read_listen(section: Section, key: str, default: str) -> Endpoint:
    endpoint = section.parsed(key, parse_endpoint, parse_endpoint(default), default=default)
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        section.mistake(key, f"{endpoint.host!r} is not an IP address", "listen on an address, not a name")
    return endpoint


def _read_optional_path(section: Section, key: str) -> Path | None:
    # Asking for an absent key without a default would report it as missing.
    present = section.keys()
    return section.path(key) if key in present else None


def _read_component(section: Section, key: str) -> str | None:
    present = section.keys()
    return (section.parsed(key, parse_component, "") or None) if key in present else None


def _malformed_endpoint(text: str) -> InvalidError:
    return InvalidError(
        "endpoint_malformed", f"{text!r} is not host:port", remedy="write an address or lower-case name and a port"
    )
