"""The claim ``kids``: the receipts that a callee obtained while it handled a request.

Owns: its two forms. Each list of hashes has one: listed up to 8, beyond that the root of the RFC 6962 tree over them.
The leaves of that tree are the statement hashes themselves, which are leaf hashes already.
Source: custody-wire §7.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.encoding import decode_b64url, encode_b64url
from hopseal.custody.errors import malformed
from hopseal.custody.members import Members, list_of, read_hash, read_integer
from hopseal.custody.merkle import build_root
from hopseal.limits import MAX_KIDS_LISTED

_MEMBERS = frozenset({"n", "root"})
_read_listed = list_of(read_hash, MAX_KIDS_LISTED)


@dataclass(frozen=True, slots=True)
class KidsTree:
    """More receipts than are listed: how many, and the root over their statement hashes (base64url)."""

    n: int
    root: str


Kids = tuple[str, ...] | KidsTree


def kids_of(hashes: Sequence[str]) -> Kids:
    """The claim for receipts with these statement hashes, in the order in which they were obtained."""
    if len(hashes) <= MAX_KIDS_LISTED:
        return tuple(hashes)
    return KidsTree(len(hashes), encode_b64url(build_root([decode_b64url(each) for each in hashes])))


def parse_kids(value: object, where: str) -> Kids:
    """The claim ``kids``.

    Raises:
        CustodyError: [malformed], for a tree over so few that they must be listed too.
    """
    if isinstance(value, list):
        return _read_listed(value, where)
    members = Members.read(value, where).only(_MEMBERS)
    tree = KidsTree(members.required("n", read_integer), members.required("root", read_hash))
    if tree.n <= MAX_KIDS_LISTED:
        raise malformed(f"{where} is a tree over what must be listed")
    return tree


def kids_to_json(kids: Kids) -> object:
    """The claim."""
    return {"n": kids.n, "root": kids.root} if isinstance(kids, KidsTree) else list(kids)
