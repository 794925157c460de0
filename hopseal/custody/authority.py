"""Authority of a chain and its narrowing hop by hop.

Owns: the closed vocabulary of ``auth`` and ``att``, folding, and the check of one call against the result.
Does not own: policy on the path or on arguments. Widening is an error and is never clipped; a limit that the
parent does not set may be set by any hop.
Source: custody-wire §8.3 and §6.13.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hopseal.custody.errors import Code, CustodyError, malformed, refusal
from hopseal.custody.members import Members, list_of, read_integer, read_text
from hopseal.custody.patterns import (
    id_covers,
    id_matches,
    operation_covers,
    operation_matches,
    read_id_pattern,
    read_operation_pattern,
)
from hopseal.limits import MAX_PATTERNS

_TOKEN = re.compile(r"[!#-\[\]-~]+", re.ASCII)
_MEMBERS = frozenset({"scope", "exp", "hops", "aud", "ops"})
_read_audiences = list_of(read_id_pattern, MAX_PATTERNS)
_read_operations = list_of(read_operation_pattern, MAX_PATTERNS)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What one hop takes away (``att``); None means that it leaves this limit as it is."""

    scope: frozenset[str] | None = None
    exp: int | None = None
    hops: int | None = None
    aud: tuple[str, ...] | None = None
    ops: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """The claim, without the members that are None."""
        return _to_json(self.scope, self.exp, self.hops, self.aud, self.ops)


@dataclass(frozen=True, slots=True)
class Authority:
    """The most that a chain allows (``auth``, or what is left of it); None means no limit of this kind.

    Args:
        exp: NumericDate seconds; nothing is allowed from then on.
        hops: highest ``hop`` allowed.
        scope: set of scope tokens.
        aud: patterns of SPIFFE IDs that may be called.
        ops: patterns of operations that may be called.
    """

    exp: int
    hops: int
    scope: frozenset[str] | None = None
    aud: tuple[str, ...] | None = None
    ops: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """The claim, without the members that are None."""
        return _to_json(self.scope, self.exp, self.hops, self.aud, self.ops)

    def narrow(self, narrowing: Narrowing) -> Authority:
        """What is left after ``narrowing``.

        Raises:
            CustodyError: [authority] if any member of ``narrowing`` allows more than this does.
        """
        return Authority(
            exp=_lower(self.exp, narrowing.exp, "exp"),
            hops=_lower(self.hops, narrowing.hops, "hops"),
            scope=_subset(self.scope, narrowing.scope),
            aud=_covered(self.aud, narrowing.aud, id_covers, "aud"),
            ops=_covered(self.ops, narrowing.ops, operation_covers, "ops"),
        )

    def check_call(self, *, hop: int, now: int, callee: str, operations: Iterable[str]) -> None:
        """Return if this allows one call.

        Args:
            hop: of the newest record.
            now: NumericDate seconds.
            callee: SPIFFE ID (or origin, at egress) of the receiver.
            operations: names of the operation as the receiver derived them; one must match.

        Raises:
            CustodyError: [authority].
        """
        self.check_reach(hop=hop, now=now, callee=callee)
        names = tuple(operations)
        if self.ops is not None and not any(operation_matches(each, name) for each in self.ops for name in names):
            raise _exceeded("the authority does not cover this operation")

    def check_reach(self, *, hop: int, now: int, callee: str) -> None:
        """Return if this allows a call to ``callee`` at all: what a record alone can show.

        Raises:
            CustodyError: [authority].
        """
        if hop > self.hops:
            raise _exceeded("the chain may not reach this hop")
        if now >= self.exp:
            raise _exceeded("the authority has expired")
        if self.aud is not None and not any(id_matches(pattern, callee) for pattern in self.aud):
            raise _exceeded("the authority does not reach this receiver")


def parse_authority(value: object, where: str) -> Authority:
    """The claim ``auth``; ``exp`` and ``hops`` are required.

    Raises:
        CustodyError: [malformed], for an unknown member too: a limit that is not understood is not kept.
    """
    members = Members.read(value, where).only(_MEMBERS)
    return Authority(
        exp=members.required("exp", read_integer),
        hops=members.required("hops", read_integer),
        scope=members.optional("scope", read_scope),
        aud=members.optional("aud", _read_audiences),
        ops=members.optional("ops", _read_operations),
    )


def parse_narrowing(value: object, where: str) -> Narrowing:
    """The claim ``att``; every member is optional.

    Raises:
        CustodyError: [malformed], for an unknown member too.
    """
    members = Members.read(value, where).only(_MEMBERS)
    return Narrowing(
        scope=members.optional("scope", read_scope),
        exp=members.optional("exp", read_integer),
        hops=members.optional("hops", read_integer),
        aud=members.optional("aud", _read_audiences),
        ops=members.optional("ops", _read_operations),
    )


def fold(authority: Authority, narrowings: Iterable[Narrowing | None]) -> Authority:
    """What the root's ``authority`` leaves after each hop's narrowing, oldest first; None narrows nothing."""
    for narrowing in narrowings:
        if narrowing is not None:
            authority = authority.narrow(narrowing)
    return authority


def read_scope(value: object, where: str) -> frozenset[str]:
    """The tokens of a space-delimited scope; the empty text is the empty set. Source: RFC 6749 §3.3."""
    text = read_text(value, where)
    tokens = text.split(" ") if text else []
    if any(_TOKEN.fullmatch(token) is None for token in tokens) or len(set(tokens)) != len(tokens):
        raise malformed(f"{where} is not a set of scope tokens")
    return frozenset(tokens)


def _exceeded(detail: str) -> CustodyError:
    return refusal(Code.AUTHORITY, detail)


def _lower(parent: int, child: int | None, name: str) -> int:
    if child is None:
        return parent
    if child > parent:
        raise _exceeded(f"att.{name} is above its parent's")
    return child


def _subset(parent: frozenset[str] | None, child: frozenset[str] | None) -> frozenset[str] | None:
    if child is None:
        return parent
    if parent is not None and not child <= parent:
        raise _exceeded("att.scope is not within its parent's")
    return child


def _covered(
    parent: tuple[str, ...] | None, child: tuple[str, ...] | None, covers: Callable[[str, str], bool], name: str
) -> tuple[str, ...] | None:
    if child is None:
        return parent
    if parent is not None and not all(any(covers(wide, narrow) for wide in parent) for narrow in child):
        raise _exceeded(f"att.{name} is not covered by its parent's")
    return child


def _to_json(
    scope: frozenset[str] | None,
    exp: int | None,
    hops: int | None,
    aud: tuple[str, ...] | None,
    ops: tuple[str, ...] | None,
) -> dict[str, object]:
    members: dict[str, object] = {
        "scope": None if scope is None else " ".join(sorted(scope)),
        "exp": exp,
        "hops": hops,
        "aud": None if aud is None else list(aud),
        "ops": None if ops is None else list(ops),
    }
    return {name: value for name, value in members.items() if value is not None}
