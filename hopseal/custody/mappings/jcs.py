"""JSON in the one form of RFC 8785 (JCS), for the JSON that this package's strict reader admits.

Owns: the form. Members are sorted by the UTF-16 code units of their names; strings keep every character but the ones
that JSON must escape; numbers are integers. Refused, because two programs could disagree about it: a number with a
fraction or exponent, minus zero, an integer beyond 2^53 - 1 (send them as strings), a member twice, an unpaired
surrogate, nesting beyond the limit, bytes that are not UTF-8, and a top that is no object.
Source: RFC 8785 §3.2; custody-wire §9.6.
"""

from __future__ import annotations

from hopseal.custody.encoding import encode_json, parse_json_object
from hopseal.limits import MAX_MESSAGE_JSON_DEPTH


def parse_message(data: bytes) -> dict[str, object]:
    """The JSON object in ``data``.

    Raises:
        CustodyError: [malformed] for anything that has no canonical form here.
    """
    return parse_json_object(data, max_depth=MAX_MESSAGE_JSON_DEPTH)


def canonicalise(message: dict[str, object]) -> bytes:
    """The canonical form of a message that :func:`parse_message` gave."""
    return encode_json(_sorted(message))


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {name: _sorted(value[name]) for name in names}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
