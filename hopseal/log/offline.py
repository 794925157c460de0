"""Verification of a chain from log entries alone: a report for each hop, as a tree.

Owns: judging each record of one chain by what logs hold, at T = its ``iat``: seal, and certificate path against the
bundle that was current then. Does not own: the rules of the chain (``judge``), printing.
What it cannot show, because the log does not hold the messages: request bindings, and the operation that the receiver
derived. Those were checked when the record was accepted.
Source: custody-wire §11 (steps 1, 4, 6, 7 and 8, without witnessed time).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hopseal.custody.authority import Authority
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.record import Record, SealedRecord
from hopseal.custody.verification import StatementVerifier
from hopseal.log.answers import AnswerReport, judge_answers
from hopseal.log.chain_evidence import ChainEvidence, Rejected, Sighting, gather
from hopseal.log.entries import CallEntry, Direction, LogEntry
from hopseal.log.judge import ChainJudge, Finding, JudgedHop
from hopseal.log.tokens import check_token
from hopseal.log.without_custody import calls_of, may_lack_custody

_SINGLE_STEP, _CROSS_STEP = 1, 7  # of custody-wire §11


@dataclass(frozen=True, slots=True)
class HopReport:
    """One record of a chain and what continues it.

    Args:
        hash: statement hash.
        record: its claims; only ``verified`` says whether they can be relied on.
        sightings: where and when logs hold it; empty if it is only known as an ancestor.
        authority_before: what the parent left (a root: what it grants); None if that could not be told.
        authority_after: what is left after this record's own narrowing.
        code: why it does not verify; None if it does.
        detail: for the operator.
        answers: what came back, by the receipts in the logs; more than one is wrong, and none is not known or lost.
        children: records that continue it, by time.
    """

    hash: str
    record: Record
    sightings: tuple[Sighting, ...]
    authority_before: Authority | None
    authority_after: Authority | None
    code: str | None
    detail: str
    answers: tuple[AnswerReport, ...]
    children: tuple[HopReport, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong with this record and every ancestor of it."""
        return self.code is None

    @property
    def has_custody(self) -> bool:
        """Whether the callee knows custody; of one that does not, there is its caller's word only."""
        if not may_lack_custody(self.record) or any(each.direction is Direction.RECEIVED for each in self.sightings):
            return True
        answers = [each for each in self.answers if each.refused is None]
        return self.record.aud.startswith("spiffe://") and not (answers and all(each.host for each in answers))

    @property
    def verified(self) -> bool:
        """Whether it holds, and the callee knows custody: nothing else counts as a verified hop."""
        return self.holds and self.has_custody


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Everything that the entries tell about one chain.

    Args:
        cid: chain ID.
        roots: first records, by time; also records whose parent no log holds, with ``custody_unresolved``.
        rejected: messages that claimed to belong to the chain and were refused.
        contradictions: entries about accepted records that cannot be read or do not say what the record says: somebody
            changed the log.
        calls: lines about calls without a record: what led to the chain, and its tunnels.
    """

    cid: str
    roots: tuple[HopReport, ...]
    rejected: tuple[Rejected, ...]
    contradictions: tuple[Rejected, ...]
    calls: tuple[CallEntry, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether there is a record, all of them hold with their answers, and no entry contradicts itself.

        Hops without custody hold and are not verified: see :attr:`HopReport.has_custody`.
        """
        return bool(self.roots) and not self.contradictions and all(map(_holds, self.roots))


def verify_chain_offline(entries: Iterable[LogEntry], cid: str) -> ChainReport:
    """The report on chain ``cid`` from entries of one or several logs, each log's entries in order; never raises."""
    listed = tuple(entries)
    evidence = gather(listed, cid)
    verifier = StatementVerifier()
    check = _Check(evidence, judge_answers(listed, evidence, verifier), verifier)
    judge = ChainJudge(evidence.records, check.record, _own_time, check.root)
    roots = tuple(map(check.report, judge.judge()))
    return ChainReport(cid, roots, evidence.rejected, evidence.contradictions, calls_of(listed, cid))


@dataclass(frozen=True, slots=True)
class _Check:
    evidence: ChainEvidence
    answers: Mapping[str, tuple[AnswerReport, ...]]
    verifier: StatementVerifier

    def record(self, sealed: SealedRecord) -> Finding | None:
        """Steps 1 and 4 for every logged form of a record, and what of step 7 one chain's records show."""
        evidence, at = self.evidence, sealed.record.iat
        try:
            for twin in evidence.texts[sealed.hash].values():
                self.verifier.verify(twin, evidence.certificates, evidence.bundles_at(at), at)
        except CustodyError as error:
            return Finding(_SINGLE_STEP, error.code, error.detail or ", ".join(error.missing))
        if evidence.is_replayed(sealed):
            return Finding(_CROSS_STEP, Code.REPLAYED, "used twice: the same jti in another record, or two acceptances")
        return None

    def root(self, root: SealedRecord) -> None:
        """On whose behalf, by the claims of the user's token that a log kept; its signature no log keeps."""
        obo = root.record.obo
        if obo is None:
            return
        token = self.evidence.tokens.get(obo.th)
        if token is None:
            raise refusal(Code.AUTHORITY, "no log holds the user's token")
        check_token(root, obo, token)

    def report(self, hop: JudgedHop) -> HopReport:
        """The report on a judged hop and all that continues it."""
        return HopReport(
            hash=hop.sealed.hash,
            record=hop.sealed.record,
            sightings=self.evidence.sightings.get(hop.sealed.hash, ()),
            authority_before=hop.authority_before,
            authority_after=hop.authority_after,
            code=hop.finding.code if hop.finding else None,
            detail=hop.finding.detail if hop.finding else "",
            answers=self.answers.get(hop.sealed.hash, ()),
            children=tuple(map(self.report, hop.children)),
        )


def _own_time(sealed: SealedRecord) -> int:
    return sealed.record.iat


def _holds(hop: HopReport) -> bool:
    return hop.holds and not any(each.code for each in hop.answers) and all(map(_holds, hop.children))
