"""Verification of a chain from log entries alone: a report for each hop, as a tree.

Owns: gathering the evidence for one chain and judging each record by it at T = its ``iat``: seal, certificate path
against the bundle that was current then, link to its parent, authority. Does not own: printing.
What it cannot show, because the log does not hold the messages: request bindings, and the operation that the receiver
derived. Those were checked when the record was accepted.
Source: custody-wire §11 (steps 1, 4, 6, 7 and 8, without witnessed time).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopseal.custody.authority import Authority
from hopseal.custody.chain import check_link, check_root_shape, root_authority
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.record import Record, SealedRecord
from hopseal.custody.verification import StatementVerifier
from hopseal.limits import MAX_RECORDS
from hopseal.log.entries import LogEntry
from hopseal.log.evidence import ChainEvidence, Rejected, Sighting, gather


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
        children: records that continue it, by time.
    """

    hash: str
    record: Record
    sightings: tuple[Sighting, ...]
    authority_before: Authority | None
    authority_after: Authority | None
    code: str | None
    detail: str
    children: tuple[HopReport, ...]

    @property
    def verified(self) -> bool:
        """Whether this record and every ancestor of it holds."""
        return self.code is None


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Everything that the entries tell about one chain.

    Args:
        cid: chain ID.
        roots: first records, by time; also records whose parent no log holds, with ``custody_unresolved``.
        rejected: messages that claimed to belong to the chain and were refused.
        contradictions: entries about accepted records that cannot be read or do not say what the record says: somebody
            changed the log.
    """

    cid: str
    roots: tuple[HopReport, ...]
    rejected: tuple[Rejected, ...]
    contradictions: tuple[Rejected, ...]

    @property
    def verified(self) -> bool:
        """Whether there is a record, all of them hold, and no entry contradicts itself."""
        return bool(self.roots) and not self.contradictions and all(map(_holds, self.roots))


def verify_chain_offline(entries: Iterable[LogEntry], cid: str) -> ChainReport:
    """The report on chain ``cid`` from entries of one or several logs, each log's entries in order; never raises."""
    evidence = gather(entries, cid)
    judge = _Judge(evidence)
    heads = [each for each in evidence.records.values() if each.record.prev not in evidence.records]
    roots = tuple(judge.report(each, None, None) for each in _by_time(heads))
    return ChainReport(cid, roots, evidence.rejected, evidence.contradictions)


@dataclass(slots=True)
class _Judge:
    evidence: ChainEvidence
    verifier: StatementVerifier = field(default_factory=StatementVerifier)

    def report(self, sealed: SealedRecord, parent: SealedRecord | None, above: HopReport | None) -> HopReport:
        """The report on ``sealed`` and all that continues it; ``above`` is the parent's, without children."""
        before = after = None
        code, detail = None, ""
        try:
            before = self._granted(sealed, parent, above)
            after = before.narrow(sealed.record.att) if sealed.record.att else before
            after.check_reach(hop=sealed.record.hop, now=sealed.record.iat, callee=sealed.record.aud)
        except CustodyError as error:
            code, detail = error.code, error.detail
        sightings = self.evidence.sightings.get(sealed.hash, ())
        own = HopReport(sealed.hash, sealed.record, sightings, before, after, code, detail, ())
        children = tuple(self.report(each, sealed, own) for each in self._children(sealed))
        return HopReport(sealed.hash, sealed.record, sightings, before, after, code, detail, children)

    def _granted(self, sealed: SealedRecord, parent: SealedRecord | None, above: HopReport | None) -> Authority:
        """What the chain grants to ``sealed`` before its own narrowing, once the record itself is verified."""
        self._verify(sealed)
        record = sealed.record
        if record.hop >= MAX_RECORDS:
            raise refusal(Code.TOO_LONG)
        if parent is None or above is None:
            if record.hop or record.prev:
                raise refusal(Code.UNRESOLVED, "no log holds its parent", missing=(f"rec:{record.prev}",))
            check_root_shape(record)
            self._check_root_issuer(record)
            return root_authority(record)
        if record.hop != parent.record.hop + 1:
            raise refusal(Code.CHAIN, "hop is not the position in the chain")
        check_link(parent, sealed)
        if above.authority_after is None or not above.verified:
            raise refusal(Code.CHAIN, "its parent does not verify")
        return above.authority_after

    def _verify(self, sealed: SealedRecord) -> None:
        evidence, at = self.evidence, sealed.record.iat
        for twin in evidence.texts[sealed.hash].values():
            self.verifier.verify(twin, evidence.certificates, evidence.bundles_at(at), at)
        if evidence.is_replayed(sealed):
            raise refusal(Code.REPLAYED, "used twice: the same jti in another record, or two acceptances")

    def _check_root_issuer(self, root: Record) -> None:
        if self.evidence.root_issuers() != {root.iss}:
            raise refusal(Code.CHAIN, "roots of this cid are of several components")

    def _children(self, parent: SealedRecord) -> list[SealedRecord]:
        """Deeper than any receiver accepts is not looked at."""
        if parent.record.hop >= MAX_RECORDS:
            return []
        return _by_time(self.evidence.records[each] for each in self.evidence.children.get(parent.hash, ()))


def _by_time(records: Iterable[SealedRecord]) -> list[SealedRecord]:
    return sorted(records, key=lambda each: (each.record.iat, each.record.jti))


def _holds(hop: HopReport) -> bool:
    return hop.verified and all(map(_holds, hop.children))
