"""Step 7: what only several statements or several logs show together.

Owns: replays, forks, copies on both sides, receipts and closing statements against records, citations, continuations.
Does not own: what a receipt says about sub-calls (``kids``). The direction of an entry is the exporter's word, so no
check passes because of it alone: a record in more than two entries is a replay whatever they are called.
Source: custody-wire §7.1, §7.3, §8.4 and §11.7.
"""

from __future__ import annotations

from hopseal.custody.closing import Closing
from hopseal.custody.errors import Code
from hopseal.custody.outcome import Fin
from hopseal.custody.record import Record
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.audit.artifacts import Refusal
from hopseal.log.audit.codes import AuditCode
from hopseal.log.audit.facts import Facts, FactTable
from hopseal.log.audit.kids import check_kids
from hopseal.log.entries import Direction

_COPIES = 2  # one sent, one received


def cross_check(table: FactTable, refusals: tuple[Refusal, ...]) -> None:
    """Note in ``table`` everything that the statements and logs show together."""
    _check_uses(table)
    _check_logs(table)
    refused = {each.unverified_jti for each in refusals}
    for facts in table.by_hash.values():
        _check_subject(facts, table)
    for facts, record in table.records():
        _check_copies(facts, record, table, is_refused=record.jti in refused)
        _check_answers(facts, record, table)
        _check_citations(facts, record, table)
        _check_continuation(facts, record, table)
    for facts, record in table.records():
        receipts = table.receipts(facts.hash)
        if len(receipts) == 1:
            check_kids(*receipts[0], facts.hash, record.aud, table)


def _check_uses(table: FactTable) -> None:
    """One ``jti`` of one issuer in two statements."""
    uses: dict[tuple[str, str], list[Facts]] = {}
    for facts in table.by_hash.values():
        uses.setdefault((str(facts.statement.iss), facts.statement.jti), []).append(facts)
    for same in uses.values():
        for facts in same if len(same) > 1 else ():
            facts.refuse(Code.REPLAYED, "the same jti in another statement of its issuer")


def _check_logs(table: FactTable) -> None:
    """One place of a log with two entries, or one size of it with two roots."""
    entries: dict[tuple[str, int], tuple[str, str]] = {}
    roots: dict[tuple[str, int], bytes] = {}
    forked: set[tuple[str, int]] = set()
    split: set[tuple[str, int]] = set()
    for facts in table.by_hash.values():
        own = (facts.statement.kind, facts.hash)
        for each in facts.entries:
            seen = each.witnessed
            if entries.setdefault((seen.origin, seen.index), own) != own:
                forked.add((seen.origin, seen.index))
            if roots.setdefault((seen.origin, seen.size), seen.root) != seen.root:
                split.add((seen.origin, seen.size))
    if not forked and not split:
        return
    for facts in table.by_hash.values():
        for each in facts.entries:
            seen = each.witnessed
            if (seen.origin, seen.index) in forked or (seen.origin, seen.size) in split:
                facts.refuse(AuditCode.FORK, f"{seen.origin}, entry {seen.index}, size {seen.size}")


def _check_subject(facts: Facts, table: FactTable) -> None:
    """A receipt, observation or closing statement against the record that it names."""
    subject = facts.statement.subject
    if subject is None:
        return
    record = table.record(subject)
    if record is None:
        facts.lacks(f"rec:{subject}")
        return
    code = AuditCode.CLOSING if isinstance(facts.statement.claims, Closing) else AuditCode.RECEIPT
    if facts.statement.cid != record.cid:
        facts.refuse(code, "it is of another chain than its record")
    if facts.statement.iat < record.iat - CLOCK_SKEW_S:
        facts.refuse(code, "it is older than its record")
    if not _fits(facts, record):
        facts.refuse(code, "it is not between the two that its record is between")


def _fits(facts: Facts, record: Record) -> bool:
    claims, receipt = facts.statement.claims, facts.statement.receipt
    if receipt is not None:
        return str(receipt.iss) == record.aud and receipt.aud == record.iss
    if isinstance(claims, Closing):
        return claims.iss == record.iss and str(claims.aud) == record.aud and record.bm is not None
    return str(facts.statement.iss) in {str(record.iss), record.aud}


def _check_copies(facts: Facts, record: Record, table: FactTable, *, is_refused: bool) -> None:
    """Both logs hold a record once; a receiver that refused it holds the refusal instead."""
    received, sent = facts.places(Direction.RECEIVED), facts.places(Direction.SENT)
    if len(received) > 1 or len(sent) > 1 or len(facts.entries) > _COPIES:
        facts.refuse(Code.REPLAYED, f"accepted {len(received)} times, in {len(facts.entries)} entries")
    if not sent:
        facts.lacks("copy:sent")
    was_denied = any(receipt.fin is Fin.DENY for _, receipt in table.receipts(facts.hash))
    if not received and record.aud.startswith("spiffe://") and not is_refused and not was_denied:
        facts.lacks("copy:received")


def _check_answers(facts: Facts, record: Record, table: FactTable) -> None:
    """A record without a receipt is dangling; a callee that answers twice may have told each side another story."""
    receipts = table.receipts(facts.hash)
    if len(receipts) > 1:
        for each, _ in receipts:
            each.refuse(AuditCode.RECEIPT, "another receipt for the same record")
    about = table.about.get(facts.hash, ())
    if not receipts and record.aud.startswith("spiffe://"):
        facts.lacks("receipt")
    if not record.aud.startswith("spiffe://") and not any(each.statement.outcome for each in about):
        facts.lacks("observation")
    if record.bm is not None and not any(isinstance(each.statement.claims, Closing) for each in about):
        facts.lacks("closing")


def _check_citations(facts: Facts, record: Record, table: FactTable) -> None:
    """``in``: an answer counts only if it is here, and was given to whoever cites it."""
    for cited in record.based_on or ():
        target = table.by_hash.get(cited)
        if target is None:
            facts.lacks(f"in:{cited}")
        elif (answer := target.statement.outcome) is None or answer.aud != record.iss:
            facts.refuse(AuditCode.CITATION, f"in: {cited} is no answer to {record.iss}")
        elif target.is_refused:
            facts.refuse(AuditCode.CITATION, f"in: {cited} does not hold")


def _check_continuation(facts: Facts, record: Record, table: FactTable) -> None:
    """``cont``: the earlier record counts only if it is here; a partner's inner hops never are."""
    if record.cont is None:
        return
    earlier = table.record(record.cont.rec)
    if earlier is None:
        if record.cont.why != "boundary":
            facts.lacks(f"cont:{record.cont.rec}")
        return
    handed_to = {str(earlier.iss), earlier.aud} if record.cont.why == "resume" else {earlier.aud}
    if earlier.cid != record.cont.cid or str(record.iss) not in handed_to:
        facts.refuse(AuditCode.CONTINUATION, f"cont: {record.cont.rec}")
