"""The rules of a chain, applied to records out of logs: a tree of hops, each with what it was left and what is wrong.

Owns: links between records, authority, what one wrong hop means for those behind it.
Does not own: whether a single record holds, which the caller says; time, which the caller gives (the record's own
``iat``, or the time that witnesses proved).
Source: custody-wire §6.11 to §6.13 and §11.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hopseal.custody.authority import Authority
from hopseal.custody.chain import check_link, check_root_shape, root_grant
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.record import SealedRecord
from hopseal.limits import MAX_RECORDS

CHAIN_STEP = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, by the number of the step in custody-wire §11 that found it."""

    step: int
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JudgedHop:
    """One record in its place.

    Args:
        sealed: the record.
        authority_before: what the parent left (a root: what it grants); None if that could not be told.
        authority_after: what is left after the record's own narrowing.
        finding: None if the record, its place and every ancestor hold.
        children: records that continue it, by time.
    """

    sealed: SealedRecord
    authority_before: Authority | None
    authority_after: Authority | None
    finding: Finding | None
    children: tuple[JudgedHop, ...]


@dataclass(frozen=True, slots=True)
class ChainJudge:
    """Judges the records of one chain.

    Args:
        records: by statement hash.
        check: what is wrong with a record by itself; None if nothing is.
        moment: the time at which its authority must hold, NumericDate seconds.
        check_root: raises CustodyError if the root may not act as it says; what lies outside of the records.
    """

    records: Mapping[str, SealedRecord]
    check: Callable[[SealedRecord], Finding | None]
    moment: Callable[[SealedRecord], int]
    check_root: Callable[[SealedRecord], None]

    def judge(self) -> tuple[JudgedHop, ...]:
        """Every record, as trees under the roots and under records whose parent is not there."""
        children: dict[str, list[SealedRecord]] = {}
        heads = []
        for each in self.records.values():
            if each.record.prev in self.records:
                children.setdefault(str(each.record.prev), []).append(each)
            else:
                heads.append(each)
        issuers = {str(each.record.iss) for each in self.records.values() if each.record.hop == 0}
        walk = _Walk(self, children, len(issuers) > 1)
        return tuple(walk.hop(each, None, 0) for each in by_time(heads))


@dataclass(frozen=True, slots=True)
class _Walk:
    judge: ChainJudge
    children: Mapping[str, list[SealedRecord]]
    roots_differ: bool

    def hop(self, sealed: SealedRecord, above: JudgedHop | None, depth: int) -> JudgedHop:
        """``sealed`` and all that continues it, ``depth`` steps below a head; ``above`` is its parent, childless."""
        before = after = None
        finding = self.judge.check(sealed)
        if finding is None:
            try:
                before = self._granted(sealed, above)
                after = before.narrow(sealed.record.att) if sealed.record.att else before
                after.check_reach(hop=sealed.record.hop, now=self.judge.moment(sealed), callee=sealed.record.aud)
            except CustodyError as error:
                finding = Finding(CHAIN_STEP, error.code, ", ".join(error.missing) or error.detail)
        own = JudgedHop(sealed, before, after, finding, ())
        # Deeper than any receiver accepts is not looked at: whatever the records say, the one there has no right place.
        below = by_time(self.children.get(sealed.hash, ())) if depth < MAX_RECORDS else ()
        if not below:
            return own
        return JudgedHop(sealed, before, after, finding, tuple(self.hop(each, own, depth + 1) for each in below))

    def _granted(self, sealed: SealedRecord, above: JudgedHop | None) -> Authority:
        """What the chain grants to ``sealed`` before its own narrowing."""
        record = sealed.record
        if record.hop >= MAX_RECORDS:
            raise refusal(Code.TOO_LONG)
        if above is None:
            return self._root_grant(sealed)
        if record.hop != above.sealed.record.hop + 1:
            raise refusal(Code.CHAIN, "hop is not the position in the chain")
        check_link(above.sealed, sealed)
        if above.finding is not None and above.finding.code == Code.UNRESOLVED:
            raise refusal(Code.UNRESOLVED, missing=(f"ancestor:{above.sealed.hash}",))
        if above.finding is not None or above.authority_after is None:
            raise refusal(Code.CHAIN, "its parent does not verify")
        return above.authority_after

    def _root_grant(self, sealed: SealedRecord) -> Authority:
        record = sealed.record
        if record.hop or record.prev:
            raise refusal(Code.UNRESOLVED, missing=(f"rec:{record.prev}",))
        check_root_shape(record)
        if self.roots_differ:
            raise refusal(Code.CHAIN, "roots of this cid are of several components")
        authority = root_grant(record)
        self.judge.check_root(sealed)
        return authority


def by_time(records: Iterable[SealedRecord]) -> list[SealedRecord]:
    """In the order in which they say they were made."""
    return sorted(records, key=lambda each: (each.record.iat, each.record.jti))
