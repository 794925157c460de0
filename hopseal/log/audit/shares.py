"""Chains of a bundle apart from each other: which can be judged alone, and whether that was right.

Owns: dividing statements by the chains that they name, and telling afterwards whether two shares have anything to do
with each other. Does not own: judging.
Theory: the division reads claims before anything is verified, and may be wrong. It does not have to be right: each
share says what it has and what it looked for in vain. Only if no share has what another has or looked for, what was
found in each is what would be found in all at once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hopseal.custody.kids import KidsTree
from hopseal.log.audit.facts import FactTable
from hopseal.log.audit.statements import ReadStatement
from hopseal.log.bundle import LoggedStatement, merge_statements
from hopseal.log.bundle_lines import StatementLines

_CHAIN = re.compile(rb'"cid":"([A-Za-z0-9_-]{22})"', re.ASCII)
_FROM_URL = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Traces:
    """What may show that two shares have to do with each other.

    Args:
        own: texts of what only one share can have: statements, their IDs, chains, places in logs.
        absent: hashes of statements that are named and not here.
        trees: by origin and size, the root that proofs lead to.
        is_whole: every statement is of a chain, or was given to every share.
    """

    own: frozenset[str]
    absent: frozenset[str]
    trees: dict[tuple[str, int], bytes]
    is_whole: bool


class Arranged(Protocol):
    """The statements of a bundle, each sealed text once, in the order of the places where they were seen."""

    def __len__(self) -> int: ...

    def payloads(self) -> Iterator[bytes]:
        """The first part of each sealed text, unread."""
        ...

    def read(self, positions: Sequence[int]) -> list[LoggedStatement]:
        """Those at ``positions``, which ascend."""
        ...

    def place(self, position: int) -> int:
        """Where the bundle has the one at ``position`` first."""
        ...


class Merged:
    """Statements that are in any order, and any number of times."""

    def __init__(self, statements: Sequence[LoggedStatement]) -> None:
        self._merged = merge_statements(statements)
        self._places: dict[str, int] = {}
        for place, each in enumerate(statements):
            self._places.setdefault(each.sealed, place)

    def __len__(self) -> int:
        return len(self._merged)

    def payloads(self) -> Iterator[bytes]:
        """The first part of each sealed text."""
        return (each.sealed.partition(".")[0].encode("ascii", "replace") for each in self._merged)

    def read(self, positions: Sequence[int]) -> list[LoggedStatement]:
        """Those at ``positions``."""
        return [self._merged[position] for position in positions]

    def place(self, position: int) -> int:
        """Where the one at ``position`` stood first."""
        return self._places[self._merged[position].sealed]


def arrange(statements: Sequence[LoggedStatement]) -> Arranged:
    """``statements`` in order; lines of a file as they are, which say so when they are in none."""
    return statements if isinstance(statements, StatementLines) else Merged(statements)


def split_chains(payloads: Iterable[bytes], size: int) -> tuple[list[int], list[list[int]]]:
    """Positions of the statements that name no chain; and those of all others, in shares of about ``size``.

    Chains that one statement names together are in one share, and so are statements of one payload.

    Args:
        payloads: the first part of each sealed text, in base64url if it is one.
        size: how many statements make a share.
    """
    named = [_chains_named(each) for each in payloads]
    heads: dict[bytes, bytes] = {}
    for cids in named:
        for cid in cids:
            heads[_head(heads, cid)] = _head(heads, cids[0])
    groups: dict[bytes, list[int]] = {}
    for position, cids in enumerate(named):
        if cids:
            groups.setdefault(_head(heads, cids[0]), []).append(position)
    shares: list[list[int]] = []
    for group in groups.values():
        if not shares or len(shares[-1]) >= size:
            shares.append([])
        shares[-1] += group
    return [position for position, cids in enumerate(named) if not cids], list(map(sorted, shares))


def traces_of(table: FactTable, *, common: Iterable[ReadStatement]) -> Traces:
    """The traces of a share.

    Args:
        table: of the share, with what was given to every share.
        common: what was given to every share, which is nobody's own.
    """
    given = {each.hash for each in common}
    own: set[str] = set()
    absent: set[str] = set()
    trees: dict[tuple[str, int], bytes] = {}
    is_whole = True
    for facts in table.by_hash.values():
        absent.update(each for each in _named_by(facts.statement) if each not in table.by_hash)
        trees.update(((each.witnessed.origin, each.witnessed.size), each.witnessed.root) for each in facts.entries)
        if facts.hash in given:
            is_whole = is_whole and facts.statement.cid is None
            continue
        is_whole = is_whole and facts.statement.cid is not None
        own.update((facts.hash, str(facts.statement.cid), f"{facts.statement.iss} {facts.statement.jti}"))
        own.update(f"{each.witnessed.origin} {each.witnessed.index}" for each in facts.entries)
    return Traces(frozenset(own), frozenset(absent), trees, is_whole)


def are_apart(shares: Sequence[Traces]) -> bool:
    """Whether no share has anything to do with another."""
    own: set[str] = set()
    trees: dict[tuple[str, int], bytes] = {}
    for each in shares:
        if not each.is_whole or not own.isdisjoint(each.own):
            return False
        if any(trees.setdefault(tree, root) != root for tree, root in each.trees.items()):
            return False
        own |= each.own
    return all(own.isdisjoint(each.absent) for each in shares)


def _chains_named(payload: bytes) -> list[bytes]:
    payload = payload.translate(_FROM_URL)
    try:
        return _CHAIN.findall(binascii.a2b_base64(payload + b"=" * (-len(payload) % 4)))
    except ValueError:
        return []


def _head(heads: dict[bytes, bytes], cid: bytes) -> bytes:
    """The chain that stands for all that ``cid`` is named together with."""
    while (above := heads.setdefault(cid, cid)) != cid:
        heads[cid] = heads[above]
        cid = above
    return cid


def _named_by(statement: ReadStatement) -> Iterator[str]:
    """Hashes of the statements that this one names."""
    if statement.subject is not None:
        yield statement.subject
    if (record := statement.record) is not None:
        yield from record.based_on or ()
        yield from (each for each in (record.prev, record.cont.rec if record.cont else None) if each is not None)
    if (outcome := statement.outcome) is not None and not isinstance(outcome.kids, KidsTree):
        yield from outcome.kids
