"""Evidence, documents and approvals for tests: complete by default, each part replaceable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attestor.approved import ApprovedSet, build_approved
from attestor.facts import (
    ConfigFacts,
    ContainerFacts,
    Evidence,
    ExeIdentity,
    FailedControl,
    HostConfig,
    PostureFacts,
    ProcessFacts,
    Unreadable,
)
from hopseal.documents.model import (
    Agent,
    AgentStatus,
    AttestBlock,
    Component,
    ConfigRule,
    DocumentSet,
    HumanOversight,
    Role,
    SvidMode,
)
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.selectors import Posture

TRUST_DOMAIN = TrustDomain.parse("example.org")
IMAGE, OTHER_IMAGE = "sha256:" + "1" * 64, "sha256:" + "2" * 64
EXE, OTHER_EXE = "sha256:" + "3" * 64, "sha256:" + "4" * 64
ROOT, OTHER_ROOT = "sha256:" + "5" * 64, "sha256:" + "6" * 64
FILES = ("/etc/agent/prompt.txt",)
UNREADABLE = Unreadable("engine_unavailable", "no answer", "start the engine")


def process_facts(**changes: Any) -> ProcessFacts:
    facts = ProcessFacts(
        pid=4711,
        uid=1204,
        gids=(1204, 2000),
        exe=ExeIdentity(1, 10),
        exe_sha256=EXE,
        exe_path="/usr/bin/agent",
        exe_deleted=False,
        namespaces={},
        ppid=1,
        start_ticks=500,
        cgroup="/system.slice/agent.service",
        unit="agent.service",
    )
    return replace(facts, **changes)


def container_facts(**changes: Any) -> ContainerFacts:
    facts = ContainerFacts(
        id="a" * 64,
        engine="docker",
        name="agent",
        pid=4711,
        image_id=IMAGE,
        image_digests=frozenset({IMAGE}),
        labels={"app": "crm", "tier": "one"},
        host=HostConfig(False, (), (), {}, (), (), ()),
    )
    return replace(facts, **changes)


def evidence(**changes: Any) -> Evidence:
    facts = Evidence(
        process=process_facts(),
        container=container_facts(),
        config={FILES: ConfigFacts(ROOT, ((FILES[0], ROOT),))},
        posture=PostureFacts(
            Posture.BASELINE, (FailedControl("capabilities", Posture.RESTRICTED, "NET_BIND_SERVICE is held"),)
        ),
        measured_at=1000.0,
    )
    return replace(facts, **changes)


def config_rule(*digests: str) -> ConfigRule:
    return ConfigRule(FILES, digests or (ROOT,))


FULL_BLOCK = AttestBlock(
    image=(IMAGE,),
    exe=(EXE,),
    config=ConfigRule(FILES, (ROOT,)),
    posture=Posture.BASELINE,
    uid=1204,
    gid=2000,
    unit="agent.service",
    container_labels=(("app", "crm"),),
)


def component(
    *attest: AttestBlock, name: str = "orchestrator", agent: str = "crm", svid: SvidMode = SvidMode.BOTH
) -> Component:
    return Component(
        agent=agent,
        name=name,
        role=Role.ORCHESTRATOR,
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/agents/{agent}/{name}"),
        attest=attest or (FULL_BLOCK,),
        svid=svid,
    )


def documents(*components: Component, status: AgentStatus = AgentStatus.ACTIVE, sha256: str = "d" * 64) -> DocumentSet:
    names = sorted({each.agent for each in components})
    agents = tuple(
        Agent(
            name=name,
            version="1.0.0",
            description="",
            owner="owner@example.org",
            team="team",
            status=status,
            capabilities=(),
            data_access=(),
            human_oversight=HumanOversight(),
            components=tuple(each for each in components if each.agent == name),
            file=f"{name}.yaml",
        )
        for name in names
    )
    return DocumentSet(TRUST_DOMAIN, agents, sha256)


def approved(*components: Component, status: AgentStatus = AgentStatus.ACTIVE) -> ApprovedSet:
    return build_approved(documents(*components, status=status), {}, ())
