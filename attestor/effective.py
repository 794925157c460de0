"""What documents and the node's own decisions say, in effect everywhere at once.

Owns: which documents and decisions count now, and telling those who act on them. Does not own: joining them
(``attestor.approved``), keeping decisions (``attestor.control``), reading documents (``hopseal.documents.follow``).
"""

from __future__ import annotations

import structlog

from attestor.approved import Approval, build_approved, effective_documents
from attestor.attestation import Attestations
from attestor.config import AttestorConfig
from attestor.control import StatusStore
from attestor.latest import Latest
from attestor.upstream.settings import entry_lifetimes
from hopseal.documents.follow import DocumentFollower, FollowState
from hopseal.documents.model import AgentStatus, DocumentSet
from hopseal.entries import Entry, broker_entries, document_entries
from hopseal.errors import DeniedError

_log = structlog.get_logger("hopseal.attestor")


class EffectiveApprovals:
    """Keeps attestations and the upstream's entries in step with documents and decisions.

    Args:
        follower: of the documents; loaded before :meth:`apply`.
        store: the node's own decisions.
        brokers: approvals of the brokers in ``config``.
        attestations: judge by what is approved.
        entries: what the upstream registers.
    """

    def __init__(
        self,
        config: AttestorConfig,
        follower: DocumentFollower,
        store: StatusStore,
        brokers: tuple[Approval, ...],
        attestations: Attestations,
        entries: Latest[tuple[Entry, ...]],
    ) -> None:
        self._config = config
        self._follower = follower
        self._store = store
        self._brokers = brokers
        self._attestations = attestations
        self._entries = entries

    def apply(self) -> None:
        """Make what the documents and decisions say now effective."""
        self._apply(self._follower.current.documents)

    async def run(self) -> None:
        """Follow the documents until cancelled."""
        told: FollowState | None = None
        async for state in self._follower.changes():
            if told is None or state.documents is not told.documents:
                self._apply(state.documents)
            if state.problems:
                _log.warning("documents_invalid", problems=[str(each) for each in state.problems])
            elif state.documents is not None:
                _log.info("documents_loaded", sha256=state.documents.sha256, agents=len(state.documents.agents))
            told = state

    def decide(self, agent: str, status: AgentStatus | None) -> AgentStatus:
        """Make a decision durable and effective; None leaves ``agent`` to its document. Its status after that.

        Raises:
            DeniedError: there is no such agent (``agent_unknown``).
            UnavailableError: the decision cannot be kept; nothing changed then.
        """
        documents = self._follower.current.documents
        documented = documents.agent(agent) if documents is not None else None
        if documented is None and agent not in self._store.decisions:
            raise DeniedError(
                "agent_unknown", f"no agent {agent[:64]!r}", remedy="`hopseal agents list` shows the agents"
            )
        self._store.decide(agent, status)
        self._apply(documents)
        return status or (documented.status if documented is not None else AgentStatus.RETIRED)

    def _apply(self, documents: DocumentSet | None) -> None:
        self._attestations.approve(build_approved(documents, self._store.decisions, self._brokers))
        self._entries.publish(self._build_entries(documents))

    def _build_entries(self, documents: DocumentSet | None) -> tuple[Entry, ...]:
        lifetimes = entry_lifetimes(self._config.upstream)
        entries = [
            entry
            for each in self._config.brokers
            for entry in broker_entries(self._config.trust_domain, each.node, each.attest, **lifetimes)
        ]
        if documents is not None:
            entries += document_entries(effective_documents(documents, self._store.decisions), **lifetimes)
        return tuple(entries)
