"""Patterns over SPIFFE IDs and operations: what they match and which pattern covers which.

Owns: the two small grammars of ``aud`` and ``ops``. Source: custody-wire §8.3.
"""

from __future__ import annotations

import re

from hopseal.custody.errors import malformed
from hopseal.custody.members import read_text, text_up_to
from hopseal.ids import IdentityError, SpiffeId, TrustDomain
from hopseal.limits import MAX_PATTERN_BYTES

_SCHEME = "spiffe://"
_ANY_BELOW = "/*"
_ANY = "*"
_PRINTABLE = re.compile(r"[ -~]{1,256}", re.ASCII)


def read_id_pattern(value: object, where: str) -> str:
    """An exact SPIFFE ID, or an ID or trust domain followed by ``/*``."""
    pattern = text_up_to(MAX_PATTERN_BYTES)(value, where)
    prefix = pattern.removesuffix(_ANY_BELOW)
    try:
        if prefix != pattern and prefix.startswith(_SCHEME) and "/" not in prefix.removeprefix(_SCHEME):
            TrustDomain.parse(prefix.removeprefix(_SCHEME))
        else:
            SpiffeId.parse(prefix)
    except IdentityError as error:
        raise malformed(f"{where}: {error.message}") from error
    return pattern


def read_operation_pattern(value: object, where: str) -> str:
    """An exact operation, or a prefix followed by ``*``."""
    pattern = read_text(value, where)
    if _PRINTABLE.fullmatch(pattern) is None:
        raise malformed(f"{where} is not 1 to {MAX_PATTERN_BYTES} printable characters")
    return pattern


def id_matches(pattern: str, spiffe_id: str) -> bool:
    """Whether ``pattern`` matches; prefixes end at whole path segments."""
    if pattern.endswith(_ANY_BELOW):
        return spiffe_id.startswith(pattern[:-1])
    return spiffe_id == pattern


def id_covers(parent: str, child: str) -> bool:
    """Whether ``parent`` matches everything that the pattern ``child`` matches.

    A ``P/*`` matches the text of ``Q/*`` exactly if it matches all IDs below ``Q``; an exact ID equals no pattern.
    """
    return id_matches(parent, child)


def operation_matches(pattern: str, operation: str) -> bool:
    """Whether ``pattern`` matches ``operation``."""
    if pattern.endswith(_ANY):
        return operation.startswith(pattern[:-1])
    return operation == pattern


def operation_covers(parent: str, child: str) -> bool:
    """Whether ``parent`` matches everything that the pattern ``child`` matches."""
    if child.endswith(_ANY):
        return parent.endswith(_ANY) and child[:-1].startswith(parent[:-1])
    return operation_matches(parent, child)
