"""Leaves of the Merkle log: the text that stands in the tree for one line of the journal.

Owns: the text's exact bytes, and deriving it from a line. Does not own: the tree (``tree``), or judging what a line
says: a statement's leaf is built from its text alone, so that the same text has the same leaf wherever it is kept.
Source: custody-wire §10 "Leaf entry".
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache

from hopseal.custody.encoding import decode_b64url, decode_base64, encode_b64url
from hopseal.custody.errors import CustodyError
from hopseal.custody.seal import hash_statement
from hopseal.log.entries import LogError

STATEMENT_TYPES = frozenset({"rec", "rcp", "obs", "cls", "att", "seg"})
REFUSED = "refused"
_TYPE = re.compile(r"[a-z]{1,16}", re.ASCII)
_HASH = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_HEADER = re.compile(rb'\{"alg":"[A-Z0-9]{5}","typ":"custody-seal\+jwt","x5t#S256":"([A-Za-z0-9_-]{43})"\}')
_SEALED = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*\.(([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.ASCII)


def format_statement_leaf(kind: str, statement_hash: str, seal_hash: str) -> bytes:
    """The leaf of a sealed statement; both hashes are base64url.

    The seal's hash stands in it so that a witnessed time dates the signature and not only the text.
    """
    if kind not in STATEMENT_TYPES or not (_HASH.fullmatch(statement_hash) and _HASH.fullmatch(seal_hash)):
        raise LogError("a statement's leaf needs its type and two hashes")
    return f"custody/v1 {kind} {statement_hash} {seal_hash}\n".encode("ascii")


def format_artifact_leaf(kind: str, sha256: str) -> bytes:
    """The leaf of anything that is no statement; the hash is base64url."""
    if _TYPE.fullmatch(kind) is None or kind in STATEMENT_TYPES or _HASH.fullmatch(sha256) is None:
        raise LogError("an artifact's leaf needs its type and a hash")
    return f"custody/v1 {kind} {sha256}\n".encode("ascii")


def leaf_of_statement(kind: str, sealed: str) -> bytes:
    """The leaf of the sealed text of a statement of type ``kind``; nothing about it is verified.

    Raises:
        LogError: the text has not the five parts, or its seal's header is of another form.
    """
    parts = _SEALED.fullmatch(sealed)
    if parts is None:
        raise LogError("a sealed statement has five parts")
    payload, seal, header = parts.groups()
    statement_hash = encode_b64url(hash_statement(_thumbprint_in(header), payload))
    return format_statement_leaf(kind, statement_hash, _sha256(seal.encode("ascii")))


def leaf_of_certificate(der: bytes) -> bytes:
    """The leaf of a certificate."""
    return format_artifact_leaf("cert", _sha256(der))


def leaf_of_artifact(kind: str, text: bytes) -> bytes:
    """The leaf of an artifact that is kept as the JSON bytes of its line."""
    return format_artifact_leaf(kind, _sha256(text))


def leaf_of_line(text: bytes) -> bytes:
    """The leaf of the journal's line with the JSON bytes ``text`` (no checksum, no newline).

    Raises:
        LogError: it is no line that a leaf is defined for.
    """
    return _leaf_of(_members(text), text)


def numbered_leaf_of_line(text: bytes) -> tuple[int, bytes]:
    """The line's number beside its leaf, see :func:`leaf_of_line`."""
    members = _members(text)
    n = members.get("n")
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise LogError("a line has no number")
    return n, _leaf_of(members, text)


def _leaf_of(members: dict[str, object], text: bytes) -> bytes:
    kind = members.get("type")
    if not isinstance(kind, str):
        raise LogError("a line has no type")
    if kind in STATEMENT_TYPES:
        if members.get("verdict") != "accepted":
            return leaf_of_artifact(REFUSED, text)
        sealed = members.get("sealed")
        if not isinstance(sealed, str):
            raise LogError("a line holds no statement, and says that it was accepted")
        return leaf_of_statement(kind, sealed)
    if kind == "cert":
        return leaf_of_certificate(_der(members.get("der")))
    if kind == REFUSED:
        raise LogError("no line has the type of refused statements")
    return leaf_of_artifact(kind, text)


def _der(value: object) -> bytes:
    try:
        return decode_base64(value if isinstance(value, str) else "-")
    except CustodyError as error:
        raise LogError("a certificate is not in base64", detail=error.detail) from error


def _members(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise LogError("a line is not JSON") from error
    if not isinstance(value, dict):
        raise LogError("a line is no JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise LogError("a JSON member occurs twice in a line")
    return members


@lru_cache(maxsize=1024)
def _thumbprint_in(header: str) -> str:
    """Cached because every statement that one key seals has the same header."""
    try:
        found = _HEADER.fullmatch(decode_b64url(header))
        if found is None:
            raise LogError("a seal's header is not of the one form")
        decode_b64url(thumbprint := found[1].decode("ascii"))
    except CustodyError as error:
        raise LogError("a seal's header is not of the one form", detail=error.detail) from error
    return thumbprint


def _sha256(data: bytes) -> str:
    return encode_b64url(hashlib.sha256(data).digest())
