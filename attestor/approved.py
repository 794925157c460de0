"""What is approved on this node now, as one immutable value.

Owns: joining the documents, the node's own status decisions and the brokers of the
configuration. Does not own: parsing any of them, nor comparing with what was measured
(``attestor.matching``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attestor.verdict import BROKER_COMPONENT
from hopseal.documents.model import AgentStatus, AttestBlock, Component, DocumentSet, SvidMode
from hopseal.ids import SpiffeId
from hopseal.selectors import Selector, component_selectors


@dataclass(frozen=True, slots=True)
class Approval:
    """One component and what a process must be to be it.

    Args:
        qualified: ``agent/component``.
        role: as in the document; empty for a broker.
        selectors: what the process gains once every item of one alternative holds.
        alternatives: at least one; all items of one must hold.
        status: the agent's, the node's own decision included.
    """

    qualified: str
    spiffe_id: SpiffeId
    role: str
    selectors: frozenset[Selector]
    alternatives: tuple[AttestBlock, ...]
    svid: SvidMode
    hint: str
    status: AgentStatus


@dataclass(frozen=True, slots=True)
class ApprovedSet:
    """Everything that is approved now.

    Args:
        approvals: brokers first, then the documents' components in their order.
        documents_sha256: of the document set; empty when no valid set is loaded.
    """

    approvals: tuple[Approval, ...]
    documents_sha256: str

    @property
    def has_documents(self) -> bool:
        """False as long as no valid set was ever loaded."""
        return bool(self.documents_sha256)

    def get(self, qualified: str) -> Approval | None:
        """The approval of ``qualified``, or None."""
        return next((each for each in self.approvals if each.qualified == qualified), None)


def build_approved(
    documents: DocumentSet | None, local_status: Mapping[str, AgentStatus], brokers: tuple[Approval, ...]
) -> ApprovedSet:
    """The approved set; ``local_status`` is by agent name and wins over the document."""
    if documents is None:
        return ApprovedSet(brokers, "")
    components = (
        _approval(component, agent.status)
        for agent in effective_documents(documents, local_status).agents
        for component in agent.components
    )
    return ApprovedSet((*brokers, *components), documents.sha256)


def effective_documents(documents: DocumentSet, local_status: Mapping[str, AgentStatus]) -> DocumentSet:
    """``documents`` with the node's own decisions in place of the status that they say."""
    agents = tuple(replace(agent, status=local_status.get(agent.name, agent.status)) for agent in documents.agents)
    return replace(documents, agents=agents)


def broker_approval(spiffe_id: SpiffeId, attest: AttestBlock) -> Approval:
    """The approval of a broker daemon, which needs no document."""
    return Approval(
        qualified=BROKER_COMPONENT,
        spiffe_id=spiffe_id,
        role="",
        selectors=frozenset(),
        alternatives=(attest,),
        svid=SvidMode.WORKLOAD_API,
        hint="",
        status=AgentStatus.ACTIVE,
    )


def _approval(component: Component, status: AgentStatus) -> Approval:
    return Approval(
        qualified=component.qualified,
        spiffe_id=component.spiffe_id,
        role=component.role,
        selectors=component_selectors(component.agent, component.name, component.role),
        alternatives=component.attest,
        svid=component.svid,
        hint=component.hint,
        status=status,
    )
