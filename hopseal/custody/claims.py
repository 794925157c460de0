"""What the claims of every statement have in common: version, type, and that the type is one that may stand there.

Owns: the members ``v`` and ``t``. Does not own: the claims of any one type.
Source: custody-wire §4.2 and §4.3.
"""

from __future__ import annotations

from typing import Protocol

from hopseal.custody.encoding import parse_json_object
from hopseal.custody.errors import malformed
from hopseal.custody.members import Members, one_of, read_integer
from hopseal.ids import SpiffeId

VERSION = 1


class Claims(Protocol):
    """The parsed claims of a statement of any type."""

    @property
    def iss(self) -> SpiffeId:
        """Who makes the statement; must be the identity of the leaf that sealed it."""
        ...


def read_claims(payload: bytes, *types: str) -> tuple[str, Members]:
    """The type of the statement whose claims are the JSON text ``payload``, and its members.

    Args:
        payload: the JSON text.
        types: those that may stand where it was found.

    Raises:
        CustodyError: [malformed], for another version or type too.
    """
    claims = Members(parse_json_object(payload), "statement")
    if claims.required("v", read_integer) != VERSION:
        raise malformed("statement.v is not 1")
    return claims.required("t", one_of(*types)), claims


def begin_claims(kind: str) -> dict[str, object]:
    """The members that every statement begins with."""
    return {"v": VERSION, "t": kind}
