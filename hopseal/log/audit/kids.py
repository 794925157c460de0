"""What a receipt says about the calls that were made for it (``kids``), against the receipts that are here.

Owns: that each listed one is here and belongs there, and that none of the callee's sub-calls is left out.
Theory: a callee lists the receipts that it held when it sealed its own. A sub-call that it answers for but does not
list is found in the callee's log, where the sub-call's receipt stands before its own.
Source: custody-wire §7.1 and §11.7.
"""

from __future__ import annotations

from hopseal.custody.encoding import decode_b64url, encode_b64url
from hopseal.custody.kids import KidsTree
from hopseal.custody.merkle import build_root
from hopseal.custody.outcome import Outcome
from hopseal.log.audit.codes import AuditCode
from hopseal.log.audit.facts import Facts, FactTable
from hopseal.log.entries import Direction


def check_kids(facts: Facts, receipt: Outcome, record_hash: str, callee: str, table: FactTable) -> None:
    """Note what is wrong with the ``kids`` of a receipt for the record with ``record_hash``."""
    answered = _answered(record_hash, callee, table)
    sent = dict(facts.places(Direction.SENT))
    before = [each for each in answered if _is_before(each, facts, sent)]
    if isinstance(receipt.kids, KidsTree):
        _check_tree(facts, receipt.kids, answered, len(before))
        return
    for listed in receipt.kids:
        _check_listed(facts, listed, callee, record_hash, table)
    left_out = [each.hash for each in before if each.hash not in receipt.kids]
    if left_out:
        facts.refuse(AuditCode.KIDS, f"left out: {', '.join(left_out)}")


def _check_listed(facts: Facts, listed: str, callee: str, record_hash: str, table: FactTable) -> None:
    kid = table.by_hash.get(listed)
    if kid is None:
        facts.lacks(f"kid:{listed}")
        return
    answer = kid.statement.outcome
    record = table.record(answer.rec) if answer else None
    if answer is None or str(answer.aud) != callee or (record is not None and record.prev != record_hash):
        facts.refuse(AuditCode.KIDS, f"{listed} is no answer to a call for this one")


def _check_tree(facts: Facts, kids: KidsTree, answered: list[Facts], before: int) -> None:
    if len(answered) < kids.n:
        facts.lacks(f"kids:{kids.n - len(answered)} of {kids.n}")
        return
    root = build_root([decode_b64url(each.hash) for each in answered[: kids.n]])
    if before > kids.n or encode_b64url(root) != kids.root:
        facts.refuse(AuditCode.KIDS, f"the {kids.n} receipts are not those of its tree")


def _answered(record_hash: str, callee: str, table: FactTable) -> list[Facts]:
    """Receipts and observations of the callee's calls under the record, in the order of its log."""
    made = [each.hash for each in table.children.get(record_hash, ()) if str(each.statement.iss) == callee]
    about = [each for child in made for each in table.about.get(child, ())]
    return sorted((each for each in about if each.statement.outcome), key=_order)


def _order(facts: Facts) -> tuple[int, int, str]:
    return (min((index for _, index in _obtained(facts)), default=0), facts.statement.iat, facts.statement.jti)


def _obtained(kid: Facts) -> list[tuple[str, int]]:
    """Where the callee's log holds an answer: a receipt came in, an observation was made there."""
    return kid.places(Direction.RECEIVED if kid.statement.receipt is not None else Direction.SENT)


def _is_before(kid: Facts, own: Facts, sent: dict[str, int]) -> bool:
    """Whether the callee held the kid when it sealed its own receipt: by its log, else by their own times.

    Args:
        kid: the answer to a sub-call.
        own: the callee's receipt.
        sent: by log, where that holds the callee's receipt.
    """
    received = dict(_obtained(kid))
    for origin in sent.keys() & received.keys():
        return received[origin] < sent[origin]
    return kid.statement.iat < own.statement.iat
