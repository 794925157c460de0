"""Reading one Agent document: YAML to values, with the line of everything a later check may name.

Owns: the keys of the document and their types. Does not own: what only several components or
several documents together can get wrong (``hopseal.documents.checks``).
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.documents.attest import read_attest
from hopseal.documents.calls import ReadCalls, read_accept_from, read_calls
from hopseal.documents.grammar import (
    parse_host,
    parse_label,
    parse_listen,
    parse_text,
)
from hopseal.documents.model import (
    Agent,
    AgentStatus,
    AttestBlock,
    Capability,
    Component,
    DataAccess,
    HumanOversight,
    ListenProtocol,
    Risk,
    Role,
    Sensitivity,
    SvidMode,
    Tool,
)
from hopseal.documents.values import parsed_texts, read_choice
from hopseal.ids import MAX_SPIFFE_ID_BYTES, SpiffeId, TrustDomain
from hopseal.settings import Section, Settings
from hopseal.settings_file import parse_settings

API_VERSION = "hopseal.dev/v1alpha1"
KIND = "Agent"
MIN_TTL_S, MAX_TTL_S = 10, 604_800
RESERVED_PATH = "/hopseal/"  # the daemons' own identities


@dataclass(frozen=True, slots=True)
class ReadComponent:
    """A component and where it stands.

    Args:
        calls: whom it calls, and where that stands.
        sound_blocks: the alternatives of ``attest`` that have no mistake, each with its section.
    """

    component: Component
    section: Section
    calls: ReadCalls
    sound_blocks: tuple[tuple[AttestBlock, Section], ...]


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """One document and where its parts stand; its mistakes so far are in ``settings``."""

    agent: Agent
    settings: Settings
    metadata: Section
    components: tuple[ReadComponent, ...]


def read_document(file: str, data: bytes, trust_domain: TrustDomain) -> ReadDocument:
    """The document in ``data``, whose values stand for nothing while ``settings`` has mistakes.

    Raises:
        SettingsInvalidError: the bytes are too many, no UTF-8, no YAML, or no mapping.
    """
    settings, top = parse_settings(file, data)
    top.choice("apiVersion", (API_VERSION,))
    top.choice("kind", (KIND,))
    metadata = top.section("metadata", required=True)
    name = metadata.parsed("name", parse_label, "")
    spec = top.section("spec", required=True)
    components = tuple(_read_component(settings, each, name, trust_domain) for each in spec.section_list("components"))
    if spec.is_present and spec.is_empty("components"):
        spec.mistake("components", "names no component", "list at least one")
    capabilities = tuple(
        Capability(each.parsed("name", parse_text, ""), read_choice(each, "risk", Risk))
        for each in spec.section_list("capabilities")
    )
    agent = Agent(
        name=name,
        version=spec.parsed("version", parse_text, "", default=""),
        description=spec.parsed("description", parse_text, "", default=""),
        owner=_read_owner(spec),
        team=spec.parsed("team", parse_text, "", default=""),
        status=read_choice(spec, "status", AgentStatus, default=AgentStatus.ACTIVE),
        capabilities=capabilities,
        data_access=tuple(_read_data_access(each) for each in spec.section_list("dataAccess")),
        human_oversight=_read_oversight(spec.section("humanOversight"), capabilities),
        components=tuple(each.component for each in components),
        file=file,
    )
    _report_repeated(spec, "capabilities", [each.name for each in capabilities])
    return ReadDocument(agent, settings, metadata, components)


def _read_owner(spec: Section) -> str:
    if spec.is_present and "owner" not in spec:
        spec.mistake("owner", "missing", "name the person who answers for this agent")
        return ""
    return spec.parsed("owner", parse_text, "", default="")


def _read_data_access(section: Section) -> DataAccess:
    return DataAccess(
        section.parsed("resource", parse_text, ""),
        read_choice(section, "sensitivity", Sensitivity),
    )


def _read_oversight(section: Section, capabilities: tuple[Capability, ...]) -> HumanOversight:
    known = {each.name for each in capabilities}
    required_for = parsed_texts(section, "requiredFor", parse_text)
    approvers = parsed_texts(section, "approvers", parse_text)
    for name in required_for:
        if name not in known:
            section.mistake("requiredFor", f"{name!r} is no capability of this agent", "list it under capabilities")
    if required_for and not approvers:
        section.mistake("approvers", "missing", "name who approves what requiredFor lists")
    return HumanOversight(required_for, approvers)


def _read_component(settings: Settings, section: Section, agent: str, trust_domain: TrustDomain) -> ReadComponent:
    name = section.parsed("name", parse_label, "")
    blocks, sound_blocks = _read_blocks(settings, section)
    calls = read_calls(section.section_list("calls"), agent)
    accept_from, accept_plain = read_accept_from(section) if "acceptFrom" in section else (None, ())
    tools = tuple(
        Tool(each.parsed("name", parse_text, ""), read_choice(each, "risk", Risk))
        for each in section.section_list("tools")
    )
    _report_repeated(section, "tools", [tool.name for tool in tools])
    listen = section.parsed("listen", parse_listen, None) if "listen" in section else None
    component = Component(
        agent=agent,
        name=name,
        role=read_choice(section, "role", Role),
        spiffe_id=_read_spiffe_id(section, agent, name, trust_domain),
        attest=blocks,
        may_start=section.flag("mayStart", default=False),
        listen=listen,
        listen_host=section.parsed("listenHost", parse_host, None) if "listenHost" in section else None,
        listen_protocol=(
            read_choice(section, "listenProtocol", ListenProtocol) if "listenProtocol" in section else ListenProtocol.H1
        ),
        calls=tuple(call for call, _ in calls.components),
        peers=tuple(call for call, _ in calls.peers),
        externals=tuple(call for call, _ in calls.externals),
        accept_from=accept_from,
        accept_plain=accept_plain,
        svid=_read_svid(section),
        hint=section.parsed("hint", parse_text, "", default=""),
        x509_svid_ttl_s=_read_ttl(section, "x509SvidTtlSeconds"),
        jwt_svid_ttl_s=_read_ttl(section, "jwtSvidTtlSeconds"),
        tools=tools,
    )
    for key in ("listenHost", "listenProtocol", "acceptFrom"):
        if key in section and "listen" not in section:
            section.mistake(key, "says nothing without listen", "add listen, or remove it")
    return ReadComponent(component, section, calls, sound_blocks)


def _read_blocks(
    settings: Settings, section: Section
) -> tuple[tuple[AttestBlock, ...], tuple[tuple[AttestBlock, Section], ...]]:
    """All alternatives, and those without a mistake: only they can be compared with others."""
    blocks: list[AttestBlock] = []
    sound: list[tuple[AttestBlock, Section]] = []
    for each in section.one_or_more("attest"):
        before = len(settings.mistakes)
        blocks.append(read_attest(each))
        if each.is_present and len(settings.mistakes) == before:
            sound.append((blocks[-1], each))
    if "attest" in section and section.is_empty("attest"):
        section.mistake("attest", "has no alternative", "say what the process must be")
    return tuple(blocks), tuple(sound)


def _read_spiffe_id(section: Section, agent: str, name: str, trust_domain: TrustDomain) -> SpiffeId:
    usual = SpiffeId(trust_domain, f"/agents/{agent}/{name}")
    if "spiffeId" not in section:
        if agent and name and len(str(usual)) > MAX_SPIFFE_ID_BYTES:
            section.mistake("name", f"{usual} is longer than {MAX_SPIFFE_ID_BYTES} bytes", "give it a shorter spiffeId")
        return usual
    found = section.parsed("spiffeId", SpiffeId.parse, usual)
    if found.trust_domain != trust_domain:
        section.mistake(
            "spiffeId", f"is outside the trust domain {trust_domain.name}", f"begin with {trust_domain.id}/"
        )
    if found.path.startswith(RESERVED_PATH):
        section.mistake("spiffeId", f"{RESERVED_PATH} is kept for the daemons", "choose another path")
    return found


def _read_svid(section: Section) -> SvidMode:
    brokered = bool(section.keys() & {"calls", "listen"})
    default = SvidMode.BROKER if brokered else SvidMode.WORKLOAD_API
    mode = read_choice(section, "svid", SvidMode, default=default)
    if brokered and mode is SvidMode.WORKLOAD_API:
        section.mistake("svid", "leaves the broker without the key for its calls", "use broker or both")
    return mode


def _read_ttl(section: Section, key: str) -> int | None:
    return section.integer(key, minimum=MIN_TTL_S, maximum=MAX_TTL_S) if key in section else None


def _report_repeated(section: Section, key: str, names: list[str]) -> None:
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        section.mistake(key, f"{name!r} is listed twice", "remove one")
