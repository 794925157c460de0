"""Agent documents as values: what an approved agent is, who answers for it, what it may call.

Owns: the shape and the lookups. Does not own: reading YAML (``hopseal.documents.parse``); the
parser builds these values and checks them, so whoever holds a ``DocumentSet`` holds a valid one.
Source: docs, section The Agent document.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.mistakes import Mistake
from hopseal.selectors import Posture


class AgentStatus(StrEnum):
    """Whether components of the agent get an identity: only those of an active one do."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"


class Role(StrEnum):
    """What a component is for."""

    ORCHESTRATOR = "orchestrator"
    REASONING_ENGINE = "reasoning-engine"
    CONNECTOR = "connector"
    ENVIRONMENT = "environment"


class SvidMode(StrEnum):
    """Who holds the private key: the broker, the component, or both (then it can bypass the broker)."""

    BROKER = "broker"
    WORKLOAD_API = "workload-api"
    BOTH = "both"


class ListenProtocol(StrEnum):
    """What a component's socket speaks: HTTP/1.1, or HTTP/2 with prior knowledge, which gRPC needs."""

    H1 = "h1"
    H2 = "h2"


class Risk(StrEnum):
    """How much harm the use of a capability or tool can do."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Sensitivity(StrEnum):
    """How sensitive the data is that the agent reads."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class Custody(StrEnum):
    """Whether calls between two parties carry custody records: only a party that is not Hopseal does without."""

    FULL = "full"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ConfigRule:
    """Files that were approved, and what they must contain.

    Args:
        files: absolute paths of files or folders as the process sees them, sorted, each once.
        digests: any of these roots over the files, ``sha256:<64 hex digits>`` each.
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttestBlock:
    """What a process must be; every item given here must hold, any one of several digests does.

    Args:
        image: digests of the running container's image, ``sha256:<hex>`` each.
        exe: digests of the executable, ``sha256:<hex>`` each.
        posture: the level that must hold at least.
        unit: systemd unit name, or cgroup path beginning with ``/``.
        container_labels: name and value of container labels, sorted by name.
        unsafe_uid_only: the author accepts that nothing but the uid (and gid) is attested.
        children: digests of what processes below it may execute, beside its own executable; empty: anything.
        forbid_static_secrets: no credential may lie in the container's environment or in the declared files.
    """

    image: tuple[str, ...] = ()
    exe: tuple[str, ...] = ()
    config: ConfigRule | None = None
    posture: Posture | None = None
    uid: int | None = None
    gid: int | None = None
    unit: str | None = None
    container_labels: tuple[tuple[str, str], ...] = ()
    unsafe_uid_only: bool = False
    forbid_static_secrets: bool = False
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """Permission to call one component.

    Args:
        operations: patterns over the operation that the receiver derives; empty means every one.
        custody: none for a component whose server is not Hopseal.
    """

    to_agent: str
    to_component: str
    operations: tuple[str, ...] = ()
    custody: Custody = Custody.FULL

    @property
    def qualified(self) -> str:
        """The callee as ``agent/component``."""
        return f"{self.to_agent}/{self.to_component}"


@dataclass(frozen=True, slots=True)
class PeerCall:
    """Permission to call a SPIFFE peer that no document describes; without custody.

    Args:
        name: the host that the component calls it by.
        operations: as in :class:`Call`.
    """

    spiffe_id: SpiffeId
    name: str
    operations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalCall:
    """Permission to call a service outside, by TLS; without custody.

    Args:
        host: a name in lower case, or ``*.`` and the end of one.
        operations: as in :class:`Call`; empty for an opaque one.
        sensitivity: of the data that goes there; None if the document does not say.
        opaque: only tunnels lead there, and nothing of what passes is read.
    """

    host: str
    port: int
    operations: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    opaque: bool = False

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a connector offers."""

    name: str
    risk: Risk


@dataclass(frozen=True, slots=True)
class Component:
    """One component of an agent.

    Args:
        attest: at least one alternative; all items of one of them must hold.
        may_start: may begin a chain of its own, without an inbound call.
        listen: absolute path of the Unix socket that it serves, None if it serves none.
        listen_host: ``Host`` that its socket is given, None for ``localhost``.
        listen_protocol: what its socket speaks.
        calls: which components it may call, deny by default.
        peers: which others with a SPIFFE ID.
        externals: which services outside.
        accept_from: SPIFFE IDs (or prefixes ending in ``/*``) that may call it; None: everyone whose
            document says so.
        accept_plain: those that may do so without custody.
        x509_svid_ttl_s, jwt_svid_ttl_s: lifetimes asked of the upstream, None for its default.
    """

    agent: str
    name: str
    role: Role
    spiffe_id: SpiffeId
    attest: tuple[AttestBlock, ...]
    may_start: bool = False
    listen: str | None = None
    listen_host: str | None = None
    listen_protocol: ListenProtocol = ListenProtocol.H1
    calls: tuple[Call, ...] = ()
    peers: tuple[PeerCall, ...] = ()
    externals: tuple[ExternalCall, ...] = ()
    accept_from: tuple[str, ...] | None = None
    accept_plain: tuple[str, ...] = ()
    svid: SvidMode = SvidMode.WORKLOAD_API
    hint: str = ""
    x509_svid_ttl_s: int | None = None
    jwt_svid_ttl_s: int | None = None
    tools: tuple[Tool, ...] = ()

    @property
    def qualified(self) -> str:
        """``agent/component``, the key used everywhere inside."""
        return f"{self.agent}/{self.name}"

    @property
    def host(self) -> str:
        """``component.agent``, the name that callers use."""
        return f"{self.name}.{self.agent}"

    @property
    def is_brokered(self) -> bool:
        """Whether a broker holds its key: it then brings custody and is called with it."""
        return self.svid is not SvidMode.WORKLOAD_API


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that the agent can do."""

    name: str
    risk: Risk


@dataclass(frozen=True, slots=True)
class DataAccess:
    """Data that the agent reads or writes."""

    resource: str
    sensitivity: Sensitivity


@dataclass(frozen=True, slots=True)
class HumanOversight:
    """Capabilities that need a person's approval, and who gives it."""

    required_for: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """One Agent document; ``file`` is the name of the file it stands in."""

    name: str
    version: str
    description: str
    owner: str
    team: str
    status: AgentStatus
    capabilities: tuple[Capability, ...]
    data_access: tuple[DataAccess, ...]
    human_oversight: HumanOversight
    components: tuple[Component, ...]
    file: str


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """Every document of one trust domain at one moment.

    Args:
        agents: in the order of their names.
        sha256: lower-case hex digest over the files' names and contents; equal sets have equal digests.
    """

    trust_domain: TrustDomain
    agents: tuple[Agent, ...]
    sha256: str

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of all agents, whatever their status."""
        return tuple(component for agent in self.agents for component in agent.components)

    def agent(self, name: str) -> Agent | None:
        """The agent of that name, or None."""
        return next((agent for agent in self.agents if agent.name == name), None)

    def component(self, qualified: str) -> Component | None:
        """The component named ``agent/component``, or None."""
        return next((component for component in self.components if component.qualified == qualified), None)

    def by_spiffe_id(self, spiffe_id: SpiffeId) -> Component | None:
        """The component with that SPIFFE ID, or None."""
        return next((component for component in self.components if component.spiffe_id == spiffe_id), None)


class DocumentsInvalidError(InvalidError):
    """Documents have mistakes (code ``documents_invalid``); all of them are in ``problems``."""

    def __init__(self, problems: tuple[Mistake, ...]) -> None:
        count = "one mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__(
            "documents_invalid",
            f"the agent documents have {count}",
            detail="\n".join(map(str, problems)),
            remedy="hopseal agents check lists them",
        )
        self.problems = problems
