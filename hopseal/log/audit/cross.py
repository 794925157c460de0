"""Step 7: what only several statements or several logs show together.

Owns: replays, forks, copies on both sides, statements against the records that they name, citations, continuations.
Does not own: what a receipt says about sub-calls (``kids``), what the statements of one stream say of each other
(``streams``). The direction of an entry is the exporter's word, so no check passes because of it alone: a record in
more than two entries is a replay whatever they are called.
Source: custody-wire §7.1, §7.3, §8.4 and §11.7.
"""

from __future__ import annotations

from collections.abc import Sequence

from hopseal.custody.closing import Closing
from hopseal.custody.errors import Code
from hopseal.custody.outcome import Fin, Outcome
from hopseal.custody.record import Record
from hopseal.custody.segment import Segment
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.audit.artifacts import ArtifactProblem, Artifacts
from hopseal.log.audit.codes import AuditCode
from hopseal.log.audit.facts import CROSS_STEP, Facts, FactTable
from hopseal.log.audit.kids import check_kids
from hopseal.log.audit.streams import check_streams
from hopseal.log.audit.witnessed import WitnessedEntry
from hopseal.log.entries import Direction
from hopseal.log.judge import Finding

Receipts = Sequence[tuple[Facts, Outcome]]
_COPIES = 2  # one sent, one received
_CODES = {Closing: AuditCode.CLOSING, Segment: AuditCode.SEGMENT}


def cross_check(table: FactTable, artifacts: Artifacts) -> tuple[ArtifactProblem, ...]:
    """Note in ``table`` what the statements and logs show together; what that shows of artifacts comes back."""
    _check_uses(table)
    problems = _check_logs(table, artifacts)
    refused = {each.unverified_jti for each in artifacts.refusals}
    tunnels = {each.rec for each in artifacts.calls if each.kind == "tunnel"}
    for facts in table.by_hash.values():
        _check_subject(facts, table)
    answered = [(facts, record, table.receipts(facts.hash)) for facts, record in table.records]
    for facts, record, receipts in answered:
        is_plain = table.is_without_custody(facts, record)
        _check_copies(facts, receipts, may_lack_copy=is_plain or record.jti in refused)
        _check_answers(facts, record, receipts, table)
        if is_plain:
            _check_observations(facts, record, table, tunnels)
        elif not receipts:
            facts.lacks("receipt")
        check_streams(table.about.get(facts.hash, ()), receipts)
        _check_citations(facts, record, table)
        _check_continuation(facts, record, table)
    for facts, record, receipts in answered:
        if len(receipts) == 1:
            check_kids(*receipts[0], facts.hash, record.aud, table)
    return problems


def _check_uses(table: FactTable) -> None:
    """One ``jti`` of one issuer in two statements."""
    uses: dict[tuple[str, str], list[Facts]] = {}
    for facts in table.by_hash.values():
        uses.setdefault((str(facts.statement.iss), facts.statement.jti), []).append(facts)
    for same in uses.values():
        for facts in same if len(same) > 1 else ():
            facts.refuse(Code.REPLAYED, "the same jti in another statement of its issuer")


def _check_logs(table: FactTable, artifacts: Artifacts) -> tuple[ArtifactProblem, ...]:
    """One place of a log with two entries, or one size of it with two roots; whatever the entries are."""
    forks = _Forks()
    for facts in table.by_hash.values():
        own = f"{facts.statement.kind} {facts.hash}"
        for each in facts.entries:
            forks.add(own, each.witnessed)
    for key, witnessed in artifacts.entries:
        forks.add(key, witnessed)
    if not forks.are_there():
        return ()
    for facts in table.by_hash.values():
        for each in facts.entries:
            if forks.touch(each.witnessed):
                facts.refuse(AuditCode.FORK, _describe(each.witnessed))
    touched = dict.fromkeys(witnessed for _, witnessed in artifacts.entries if forks.touch(witnessed))
    return tuple(
        ArtifactProblem(seen.origin, seen.index, Finding(CROSS_STEP, AuditCode.FORK, _describe(seen)))
        for seen in touched
    )


class _Forks:
    """What logs show at each place and of each size."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, int], str] = {}
        self._roots: dict[tuple[str, int], bytes] = {}
        self._places: set[tuple[str, int]] = set()
        self._sizes: set[tuple[str, int]] = set()

    def add(self, entry: str, seen: WitnessedEntry) -> None:
        place, tree = (seen.origin, seen.index), (seen.origin, seen.size)
        if self._entries.setdefault(place, entry) != entry:
            self._places.add(place)
        if self._roots.setdefault(tree, seen.root) != seen.root:
            self._sizes.add(tree)

    def are_there(self) -> bool:
        return bool(self._places or self._sizes)

    def touch(self, seen: WitnessedEntry) -> bool:
        return (seen.origin, seen.index) in self._places or (seen.origin, seen.size) in self._sizes


def _describe(seen: WitnessedEntry) -> str:
    return f"{seen.origin}, entry {seen.index}, size {seen.size}"


def _check_subject(facts: Facts, table: FactTable) -> None:
    """A receipt, observation, closing statement or segment against the record that it names."""
    subject = facts.statement.subject
    if subject is None:
        return
    record = table.record(subject)
    if record is None:
        facts.lacks(f"rec:{subject}")
        return
    code = _CODES.get(type(facts.statement.claims), AuditCode.RECEIPT)
    if facts.statement.cid != record.cid:
        facts.refuse(code, "it is of another chain than its record")
    if facts.statement.iat < record.iat - CLOCK_SKEW_S:
        facts.refuse(code, "it is older than its record")
    if not _fits(facts, record, table):
        facts.refuse(code, "it is not between the two that its record is between")


def _fits(facts: Facts, record: Record, table: FactTable) -> bool:
    claims, receipt = facts.statement.claims, facts.statement.receipt
    if receipt is not None:
        return str(receipt.iss) == record.aud and receipt.aud == record.iss
    if isinstance(claims, Closing):
        opened = table.by_hash[str(claims.rec)]
        # A stream to a callee without custody is closed for its caller's own log.
        receiver = str(record.iss) if table.is_without_custody(opened, record) else record.aud
        return claims.iss == record.iss and str(claims.aud) == receiver and record.bm is not None
    if isinstance(claims, Segment):
        return {str(claims.iss), str(claims.aud)} == {str(record.iss), record.aud} and record.bm is not None
    return str(facts.statement.iss) in {str(record.iss), record.aud}


def _check_copies(facts: Facts, receipts: Receipts, *, may_lack_copy: bool) -> None:
    """Both logs hold a record once; a receiver that refused it holds the refusal, one without custody nothing."""
    received, sent = facts.places(Direction.RECEIVED), facts.places(Direction.SENT)
    if len(received) > 1 or len(sent) > 1 or len(facts.entries) > _COPIES:
        facts.refuse(Code.REPLAYED, f"accepted {len(received)} times, in {len(facts.entries)} entries")
    if not sent:
        facts.lacks("copy:sent")
    was_denied = any(receipt.fin is Fin.DENY for _, receipt in receipts)
    if not received and not may_lack_copy and not was_denied:
        facts.lacks("copy:received")


def _check_answers(facts: Facts, record: Record, receipts: Receipts, table: FactTable) -> None:
    """A callee that answers twice may have told each side another story; a stream has an end."""
    if len(receipts) > 1:
        for each, _ in receipts:
            each.refuse(AuditCode.RECEIPT, "another receipt for the same record")
    about = table.about.get(facts.hash, ())
    if record.bm is not None and not any(isinstance(each.statement.claims, Closing) for each in about):
        facts.lacks("closing")


def _check_observations(facts: Facts, record: Record, table: FactTable, tunnels: set[str | None]) -> None:
    """Who calls somebody without custody says once what came back; of a tunnel, its log says what passed."""
    observations = table.observations(facts.hash, str(record.iss))
    if len(observations) > 1:
        for observed in observations:
            observed.refuse(AuditCode.RECEIPT, "another observation for the same record")
    if not observations and facts.hash not in tunnels:
        facts.lacks("observation")


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
