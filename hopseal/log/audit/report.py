"""Step 8: what the auditor says about a bundle, hop by hop.

Owns: the values of a report and how verdicts add up. Does not own: printing.
Source: custody-wire §11.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from hopseal.custody.authority import Authority
from hopseal.custody.closing import Closing
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.outcome import Outcome
from hopseal.custody.record import SealedRecord
from hopseal.custody.segment import Segment
from hopseal.log.audit.artifacts import ArtifactProblem, Refusal
from hopseal.log.audit.codes import is_missing
from hopseal.log.audit.steps import Entry
from hopseal.log.entries import CallEntry
from hopseal.log.judge import Finding

C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")


class Verdict(StrEnum):
    """How much holds: all of it; all, by one side's word; all that is here, and something is not; or not even that.

    One side's word is all there is of a call whose other end knows nothing of custody.
    """

    VERIFIED = "verified"
    OBSERVED = "observed"
    INCOMPLETE = "incomplete"
    REFUSED = "refused"


_ORDER = (Verdict.REFUSED, Verdict.INCOMPLETE, Verdict.OBSERVED, Verdict.VERIFIED)


@dataclass(frozen=True, slots=True)
class AnswerAudit:
    """A receipt or observation.

    Args:
        hash: statement hash.
        kind: ``rcp`` or ``obs``.
        outcome: its claims.
        verdict: of this statement.
        finding: what is wrong.
        missing: what is not there.
        at: T; None if it is not proven.
        host, spki: of an observation: where the answer came from, and the hash of the server's public key.
    """

    hash: str
    kind: str
    outcome: Outcome
    verdict: Verdict
    finding: Finding | None
    missing: tuple[str, ...]
    at: int | None
    host: str | None = None
    spki: str | None = None


@dataclass(frozen=True, slots=True)
class ClosingAudit:
    """What a caller says that it streamed; members as in :class:`AnswerAudit`."""

    hash: str
    claims: Closing
    verdict: Verdict
    finding: Finding | None
    missing: tuple[str, ...]
    at: int | None


@dataclass(frozen=True, slots=True)
class SegmentAudit:
    """What one side of an open WebSocket says that passed until then; members as in :class:`AnswerAudit`."""

    hash: str
    claims: Segment
    verdict: Verdict
    finding: Finding | None
    missing: tuple[str, ...]
    at: int | None


@dataclass(frozen=True, slots=True)
class Citation:
    """An answer that a call says it is based on (``in``), and the record that it answered, if it is here."""

    hash: str
    record: str | None


@dataclass(frozen=True, slots=True)
class HopAudit:
    """One record, what it led to, and what continues it.

    Args:
        sealed: the record.
        verdict: of this hop with its own answers, without children.
        finding: what is wrong with the record or its place.
        missing: what is not there to judge it by.
        entries: logs that are proven to hold it.
        at: T: it was sealed at or after ``iat`` by its own word, and before T by the witnesses'.
        authority_before: what the parent left.
        authority_after: what is left after its own narrowing.
        evidence: what an attestor said of the caller at the time.
        answers: receipts and observations.
        closings: ends of a streamed request.
        segments: what passed of it meanwhile, as each side says.
        based_on: answers that it cites.
        token: whether the user's token is here and fits; None if it acts for nobody.
        children: records that continue it, by time.
        is_observed: the callee knows nothing of custody; such a hop is never verified.
        tunnel: what passed through the tunnel that it opened, by the word of its log.
    """

    sealed: SealedRecord
    verdict: Verdict
    finding: Finding | None
    missing: tuple[str, ...]
    entries: tuple[Entry, ...]
    at: int | None
    authority_before: Authority | None
    authority_after: Authority | None
    evidence: EvidenceStatement | None
    answers: tuple[AnswerAudit, ...]
    closings: tuple[ClosingAudit, ...]
    based_on: tuple[Citation, ...]
    token: bool | None
    children: tuple[HopAudit, ...]
    is_observed: bool = False
    tunnel: CallEntry | None = None
    segments: tuple[SegmentAudit, ...] = ()

    def walk(self) -> Iterator[HopAudit]:
        """This hop and all below it, each before what continues it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class LooseStatement:
    """A statement that belongs to no record here."""

    hash: str
    kind: str
    verdict: Verdict
    finding: Finding | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChainAudit:
    """One chain.

    Args:
        cid: chain ID.
        verdict: the worst of everything in it.
        roots: first records, and records whose parent is not here.
        loose: statements whose record is not here.
        refusals: messages of this chain that were refused; no fault of the evidence.
        led_by: calls without custody that its root answers to, by the word of their log.
    """

    cid: str
    verdict: Verdict
    roots: tuple[HopAudit, ...]
    loose: tuple[LooseStatement, ...]
    refusals: tuple[Refusal, ...]
    led_by: tuple[CallEntry, ...] = ()

    def hops(self) -> Iterator[HopAudit]:
        """Every hop, each before what continues it."""
        for root in self.roots:
            yield from root.walk()


@dataclass(frozen=True, slots=True)
class UnreadStatement:
    """A sealed text that is none, and the first place among the statements of the bundle where it stands."""

    position: int
    finding: Finding


@dataclass(frozen=True, slots=True)
class ReportOf(Generic[C_co]):
    """A whole bundle, with something for each chain.

    Args:
        verdict: the worst of everything; a bundle without a record is not verified.
        chains: oldest first.
        unread: what could not be read as a statement.
        problems: artifacts that do not hold.
        missing: artifacts without a proof.
        statements: how many sealed texts were judged.
        logs: origin of every log with a proven entry.
    """

    verdict: Verdict
    chains: tuple[C_co, ...]
    unread: tuple[UnreadStatement, ...]
    problems: tuple[ArtifactProblem, ...]
    missing: tuple[str, ...]
    statements: int
    logs: tuple[str, ...]

    def render(self, render: Callable[[C_co], T]) -> ReportOf[T]:
        """The report with what ``render`` makes of each chain."""
        chains = tuple(map(render, self.chains))
        return ReportOf(self.verdict, chains, self.unread, self.problems, self.missing, self.statements, self.logs)


AuditReport = ReportOf[ChainAudit]


def verdict_of(finding: Finding | None, missing: Iterable[str]) -> Verdict:
    """The verdict that a finding and what is missing amount to."""
    if finding is not None and not is_missing(finding.code):
        return Verdict.REFUSED
    return Verdict.INCOMPLETE if finding is not None or any(missing) else Verdict.VERIFIED


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of ``verdicts``; verified if there is none."""
    found = set(verdicts)
    return next(each for each in (*_ORDER, Verdict.VERIFIED) if each in found or each is Verdict.VERIFIED)
