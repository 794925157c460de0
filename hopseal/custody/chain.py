"""How records relate: resolving ancestors, links between neighbours, age, and what a root grants.

Owns: steps 8, 10, 11 and the part of 12 without policy. Does not own: signatures, checked on records that link.
Source: custody-wire §6.8 and §6.10 to §6.12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hopseal.custody.authority import Authority
from hopseal.custody.errors import Code, CustodyError, refusal
from hopseal.custody.record import Record, SealedRecord
from hopseal.limits import AUTHORITY_LIFETIME_S, CHAIN_AGE_S, CLOCK_SKEW_S, MAX_RECORDS, RECORD_LIFETIME_S

Records = tuple[SealedRecord, ...]


def check_times(inline: Sequence[SealedRecord], now: int) -> None:
    """Step 8 for the records of a message, oldest first; ``now`` in NumericDate seconds.

    Raises:
        CustodyError: [expired].
    """
    newest = inline[-1].record
    if not newest.iat - CLOCK_SKEW_S <= now < newest.exp + CLOCK_SKEW_S:
        raise _expired("the newest record is not valid now")
    if any(each.record.exp - each.record.iat > RECORD_LIFETIME_S for each in inline):
        raise _expired("a record is valid for too long")
    check_age(inline, now)


def check_age(records: Sequence[SealedRecord], now: int) -> None:
    """Return if no record is from the future and the first, if a root, is within the chain's age.

    Raises:
        CustodyError: [expired].
    """
    if any(each.record.iat > now + CLOCK_SKEW_S for each in records):
        raise _expired("a record is from the future")
    first = records[0].record
    if first.hop == 0 and first.iat < now - CHAIN_AGE_S - CLOCK_SKEW_S:
        raise _expired("the root is too old")


def assemble(inline: Records, lookup: Callable[[str], SealedRecord | None], now: int) -> Records:
    """Step 10: the whole chain, oldest first, with verified ancestors put before ``inline``.

    Args:
        inline: records of the message, oldest first.
        lookup: verified record by statement hash, or None.
        now: NumericDate seconds; the age of what was put before is checked too.

    Raises:
        CustodyError: [unresolved], [chain], [too_long], [expired].
    """
    chain = inline
    while chain[0].record.hop != 0:
        parent_hash = chain[0].record.prev
        if parent_hash is None:
            raise _broken("a record beyond the root has no prev")
        parent = lookup(parent_hash)
        if parent is None:
            raise refusal(Code.UNRESOLVED, missing=(f"rec:{parent_hash}",))
        chain = (parent, *chain)
        if len(chain) > MAX_RECORDS:
            raise refusal(Code.TOO_LONG)
    check_age(chain, now)
    return chain


def check_links(chain: Sequence[SealedRecord]) -> None:
    """Step 11: every record continues exactly the one before it.

    Raises:
        CustodyError: [chain].
    """
    for hop, current in enumerate(chain):
        if current.record.hop != hop:
            raise _broken("hop is not the position in the chain")
        if hop == 0:
            check_root_shape(current.record)
        else:
            check_link(chain[hop - 1], current)


def check_root_shape(root: Record) -> None:
    """Return if a record at hop 0 claims no parent and narrows nothing.

    Raises:
        CustodyError: [chain].
    """
    if root.prev is not None or root.att is not None:
        raise _broken("a root has prev or att")


def check_link(parent: SealedRecord, child: SealedRecord) -> None:
    """Return if ``child`` continues exactly ``parent``: the handoff rule and what goes with it.

    Raises:
        CustodyError: [chain].
    """
    before, after = parent.record, child.record
    if after.prev != parent.hash:
        raise _broken("prev is not the record before")
    if after.cid != before.cid:
        raise _broken("cid changes within the chain")
    if str(after.iss) != before.aud:
        raise _broken("a record was not handed to the component that continues it")
    if after.iat < before.iat - CLOCK_SKEW_S:
        raise _broken("a record is older than the one before it")
    if after.root_claims:
        raise _broken("a record beyond the root has a claim of roots only")


def root_grant(root: Record) -> Authority:
    """What the root grants: the part of step 12 that needs neither policy nor the user's token (``behalf``).

    Raises:
        CustodyError: [authority] if it lacks a claim of roots, or lasts too long.
    """
    if root.auth is None or root.task is None or "obo" not in root.root_claims:
        raise refusal(Code.AUTHORITY, "the root lacks obo, task or auth")
    if root.auth.exp - root.iat > AUTHORITY_LIFETIME_S:
        raise refusal(Code.AUTHORITY, "the root's authority lasts too long")
    return root.auth


def _expired(detail: str) -> CustodyError:
    return refusal(Code.EXPIRED, detail)


def _broken(detail: str) -> CustodyError:
    return refusal(Code.CHAIN, detail)
