"""What the statements about one stream say of each other.

Owns: closing statements, segments and receipts of one record, among themselves. Does not own: whether they name it
rightly (``cross``). Source: custody-wire §7.3 and §11.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hopseal.custody.closing import Closing
from hopseal.custody.outcome import Fin, Outcome, Taken
from hopseal.custody.segment import Segment
from hopseal.log.audit.codes import AuditCode
from hopseal.log.audit.facts import Facts


def check_streams(about: Sequence[Facts], receipts: Sequence[tuple[Facts, Outcome]]) -> None:
    """Refuse, among the statements ``about`` one record, those that contradict each other."""
    if len(about) == len(receipts):  # nothing streamed
        return
    closings = [(each, said) for each in about if isinstance(said := each.statement.claims, Closing)]
    _check_closings(closings, receipts)
    segments = [(each, said) for each in about if isinstance(said := each.statement.claims, Segment)]
    for maker in {said.iss for _, said in segments}:
        _check_segments([(each, said) for each, said in segments if said.iss == maker], closings, receipts)


def _check_closings(closings: Sequence[tuple[Facts, Closing]], receipts: Sequence[tuple[Facts, Outcome]]) -> None:
    """A caller that closes one stream twice may have told each side another story; a cut stream has no whole answer."""
    for each, said in closings:
        if len(closings) > 1:
            each.refuse(AuditCode.CLOSING, "another closing statement for the same record")
        elif said.fin is not Fin.EOF and any(receipt.fin is Fin.EOF for _, receipt in receipts):
            each.refuse(AuditCode.CLOSING, "it says that the stream was cut, and the receipt that it was not")
        elif any(
            receipt.req and not receipt.req.is_taken_of(Taken.of(said.body), receipt.fin) for _, receipt in receipts
        ):
            each.refuse(AuditCode.CLOSING, "the receipt says that other bytes were taken than it says were sent")


def _check_segments(
    own: list[tuple[Facts, Segment]],
    closings: Sequence[tuple[Facts, Closing]],
    receipts: Sequence[tuple[Facts, Outcome]],
) -> None:
    """One maker's segments only grow, and end at most where caller and callee say that each direction ended."""
    own.sort(key=lambda pair: pair[1].seq)
    for (_, before), (each, said) in pairwise(own):
        if said.seq == before.seq or not (before.up.may_grow_to(said.up) and before.down.may_grow_to(said.down)):
            each.refuse(AuditCode.SEGMENT, "it does not go on where the one before ended")
    ends = [(Taken.of(said.body), True) for _, said in closings] + [
        (Taken.of(said.body), False) for _, said in receipts
    ]
    for each, said in own:
        if not all((said.up if is_up else said.down).may_grow_to(end) for end, is_up in ends):
            each.refuse(AuditCode.SEGMENT, "it says that more passed than its end does")
