"""The attestor's configuration: one YAML file, read strictly.

Owns: the keys of ``attestor.yaml``, their bounds and defaults. Does not own: reading YAML
(``hopseal.settings``) or constructing anything from it (``attestor.service``).
"""

from __future__ import annotations

import grp
import re
from dataclasses import dataclass
from pathlib import Path

from attestor.upstream.settings import EmbeddedSettings, SpireSettings, UpstreamSettings
from hopseal.documents.attest import read_attest
from hopseal.documents.model import AttestBlock
from hopseal.errors import HopsealError, InvalidError
from hopseal.ids import TrustDomain
from hopseal.settings import Section, Settings
from hopseal.settings_file import load_settings, parse_settings

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RUN = "/run/hopseal"
_DAY_S = 86_400
# Below, the next SVID, made at half life, can come after the seconds before its end in which an SVID signs nothing.
_MIN_SVID_TTL_S = 10


@dataclass(frozen=True, slots=True)
class SocketPaths:
    """Where the attestor listens."""

    workload: Path
    broker: Path
    admin: Path
    connect: Path


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """A broker daemon of this node: its node name and what its process must be."""

    node: str
    attest: AttestBlock


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers can make the attestor hold or do.

    Args:
        requests_per_s_per_uid, requests_per_s_per_cgroup: on one socket; twice as many may come at once.
        processes: watched at once.
        attestations_per_s_per_uid, attestations_per_s_per_cgroup: of processes not seen before; four
            seconds' worth may come at once.
    """

    connections_per_uid: int
    streams_per_connection: int
    requests_per_s_per_uid: int
    requests_per_s_per_cgroup: int
    processes: int
    attestations_per_s_per_uid: int
    attestations_per_s_per_cgroup: int
    config_file_bytes: int
    config_total_bytes: int
    config_files: int
    exe_bytes: int


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log is written."""

    format: str
    level: str


@dataclass(frozen=True, slots=True)
class AttestorConfig:
    """Everything that ``attestor.yaml`` says.

    Args:
        documents: folder of the Agent documents.
        state_dir: what must survive a restart: status decisions.
        socket_group: group id of the broker's and the operators' sockets; None keeps the process's own.
        docker, podman: API sockets of the container engines.
    """

    trust_domain: TrustDomain
    node: str
    documents: Path
    state_dir: Path
    sockets: SocketPaths
    socket_group: int | None
    upstream: UpstreamSettings
    brokers: tuple[BrokerSettings, ...]
    docker: tuple[Path, ...]
    podman: tuple[Path, ...]
    reattest_interval_s: float
    collector_timeout_s: float
    limits: Limits
    log: LogSettings


def load_config(path: Path) -> AttestorConfig:
    """The configuration in the file ``path``.

    Raises:
        UnavailableError: the file cannot be read (``config_unreadable``).
        SettingsInvalidError: it has mistakes (``config_invalid``); all of them are named.
    """
    return _read(*load_settings(path))


def parse_config(file: str, data: bytes) -> AttestorConfig:
    """The configuration in ``data``; ``file`` is named in mistakes.

    Raises:
        SettingsInvalidError: it has mistakes (``config_invalid``); all of them are named.
    """
    return _read(*parse_settings(file, data))


def _read(settings: Settings, top: Section) -> AttestorConfig:
    engines = top.section("engines")
    config = AttestorConfig(
        trust_domain=top.parsed("trust_domain", TrustDomain.parse, TrustDomain("invalid")),
        node=top.parsed("node", parse_node, ""),
        documents=top.path("documents", default="/etc/hopseal/agents"),
        state_dir=top.path("state_dir", default="/var/lib/hopseal/attestor"),
        sockets=_read_sockets(top.section("sockets")),
        socket_group=top.parsed("socket_group", _parse_group, None, default=""),
        upstream=_read_upstream(top.section("upstream", required=True)),
        brokers=_read_brokers(top),
        docker=_read_paths(engines, "docker"),
        podman=_read_paths(engines, "podman"),
        reattest_interval_s=top.number("reattest_interval_s", default=10.0, minimum=0.1, maximum=3600),
        collector_timeout_s=top.number("collector_timeout_s", default=1.0, minimum=0.05, maximum=30),
        limits=_read_limits(top.section("limits")),
        log=_read_log(top.section("log")),
    )
    settings.finish()
    return config


def parse_node(text: str) -> str:
    """``text`` if it is a DNS label.

    Raises:
        InvalidError: it is none (``node_invalid``).
    """
    if _DNS_LABEL.fullmatch(text) is None:
        raise InvalidError(
            "node_invalid", f"{text!r} is not a DNS label", remedy="use lower-case letters, digits and dashes"
        )
    return text


def _parse_group(text: str) -> int:
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise InvalidError(
            "group_unknown", f"there is no group {text!r}", remedy="create it, or name another"
        ) from error


def _read_sockets(section: Section) -> SocketPaths:
    broker = section.path("broker", default=f"{_RUN}/attestor/broker.sock")
    paths = SocketPaths(
        workload=section.path("workload", default=f"{_RUN}/agent/api.sock"),
        broker=broker,
        admin=section.path("admin", default=f"{_RUN}/attestor/admin.sock"),
        # By default in the folder of the broker's: whoever may use one may use the other.
        connect=section.path("connect", default=str(broker.parent / "connect.sock")),
    )
    if len({paths.workload, paths.broker, paths.admin, paths.connect}) != 4:
        section.report("two sockets have one path", "give each its own")
    return paths


def _read_upstream(section: Section) -> UpstreamSettings:
    kind = section.choice("kind", ("embedded", "spire-delegated"))
    if kind == "spire-delegated":
        return SpireSettings(section.path("workload_socket"), section.path("admin_socket"))
    state_dir = section.path("state_dir", default="/var/lib/hopseal/attestor/authority")
    x509_ttl_s = section.integer("x509_svid_ttl_s", default=600, minimum=_MIN_SVID_TTL_S, maximum=_DAY_S)
    jwt_ttl_s = section.integer("jwt_svid_ttl_s", default=300, minimum=2, maximum=_DAY_S)
    ca_ttl_s = section.integer("ca_ttl_s", default=_DAY_S, minimum=6, maximum=3650 * _DAY_S)
    try:
        return EmbeddedSettings(state_dir, x509_ttl_s, jwt_ttl_s, ca_ttl_s)
    except HopsealError as error:
        section.mistake("ca_ttl_s", error.message, error.detail)
        return EmbeddedSettings(state_dir)


def _read_brokers(top: Section) -> tuple[BrokerSettings, ...]:
    brokers = tuple(
        BrokerSettings(each.parsed("node", parse_node, ""), read_attest(each.section("attest", required=True)))
        for each in top.section_list("brokers")
    )
    if len({each.node for each in brokers}) != len(brokers):
        top.mistake("brokers", "two brokers have one node name", "give each its own")
    return brokers


def _read_paths(section: Section, key: str) -> tuple[Path, ...]:
    paths = tuple(map(Path, section.texts(key)))
    for path in paths:
        if not path.is_absolute():
            section.mistake(key, f"{str(path)!r} is not an absolute path", "name the engine's socket in full")
    return paths


def _read_limits(section: Section) -> Limits:
    return Limits(
        connections_per_uid=section.integer("connections_per_uid", default=64, minimum=1, maximum=65_536),
        streams_per_connection=section.integer("streams_per_connection", default=32, minimum=1, maximum=1024),
        requests_per_s_per_uid=section.integer("requests_per_s_per_uid", default=500, minimum=1, maximum=1_000_000),
        requests_per_s_per_cgroup=section.integer(
            "requests_per_s_per_cgroup", default=200, minimum=1, maximum=1_000_000
        ),
        processes=section.integer("processes", default=4096, minimum=1, maximum=1_048_576),
        attestations_per_s_per_uid=section.integer(
            "attestations_per_s_per_uid", default=200, minimum=1, maximum=1_000_000
        ),
        attestations_per_s_per_cgroup=section.integer(
            "attestations_per_s_per_cgroup", default=50, minimum=1, maximum=1_000_000
        ),
        config_file_bytes=section.integer("config_file_bytes", default=1 << 20, minimum=1, maximum=1 << 30),
        config_total_bytes=section.integer("config_total_bytes", default=16 << 20, minimum=1, maximum=1 << 32),
        config_files=section.integer("config_files", default=1024, minimum=1, maximum=65_536),
        exe_bytes=section.integer("exe_bytes", default=1 << 30, minimum=1, maximum=1 << 40),
    )


def _read_log(section: Section) -> LogSettings:
    return LogSettings(
        format=section.choice("format", ("json", "console"), default="json"),
        level=section.choice("level", ("debug", "info", "warning", "error"), default="info"),
    )
