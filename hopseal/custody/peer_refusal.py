"""A peer's refusal, read from its problem document.

Owns: what may be taken from it: the code, and which items to send again. Nobody has signed it, so the rest is not
read, and it proves nothing. Source: custody-wire §13; RFC 9457.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.binding import Header, field_value
from hopseal.custody.encoding import parse_json_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.members import Members, list_of, read_hash, read_text
from hopseal.limits import MAX_MISSING, MAX_PROBLEM_BYTES

PROBLEM_TYPE = "application/problem+json"
_CODE = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)
_KINDS = ("cert", "rec")
_read_missing = list_of(read_text, MAX_MISSING)


@dataclass(frozen=True, slots=True)
class PeerRefusal:
    """Why a peer says that it refused.

    Args:
        code: one of ``errors.Code``, or of the peer's own.
        missing: ``cert:<thumbprint>`` or ``rec:<statement hash>``, to send once more with a new record.
    """

    code: str
    missing: tuple[str, ...]


def read_refusal(status: int, headers: Sequence[Header], body: bytes) -> PeerRefusal | None:
    """The refusal in a response; None if it is anything else."""
    if (
        not 400 <= status <= 599
        or field_value(headers, "content-type") != PROBLEM_TYPE
        or len(body) > MAX_PROBLEM_BYTES
    ):
        return None
    try:
        document = Members(parse_json_object(body), "problem")
        code = document.required("code", read_text)
        missing = document.optional("missing", _read_missing) or ()
    except CustodyError:
        return None
    if _CODE.fullmatch(code) is None or not all(map(_is_item, missing)):
        return None
    return PeerRefusal(code, missing)


def _is_item(text: str) -> bool:
    kind, _, value = text.partition(":")
    try:
        read_hash(value, "missing[]")
    except CustodyError:
        return False
    return kind in _KINDS
