"""Strict base64 and strict JSON: one text for each value, so two parsers cannot disagree.

Owns: base64url without padding, base64 with padding, JSON with the limits of custody-wire §4.3.
Does not own: the meaning of any member.
Source: RFC 4648 §3.5, RFC 8259, custody-wire §4.3 and §6.3.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import re
from contextlib import suppress
from typing import NoReturn

from hopseal.custody.errors import malformed
from hopseal.limits import MAX_INTEGER, MAX_JSON_DEPTH, MAX_TOKEN_JSON_DEPTH

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_+/=", b"+/!!!")
# By length modulo 4, the last character that leaves no bit over: of any value, none, of two bytes' 16 bits, of one's 8.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST = (_ALPHABET, "", _ALPHABET[::16], _ALPHABET[::4])
_MAX_INTEGER_CHARACTERS = len(str(-MAX_INTEGER))


def encode_b64url(data: bytes) -> str:
    """``data`` in base64url without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def decode_b64url(text: str) -> bytes:
    """The bytes that ``text`` encodes.

    Raises:
        CustodyError: [malformed] unless ``text`` is exactly what :func:`encode_b64url` gives for the result.
    """
    try:
        data = binascii.a2b_base64(
            text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True
        )
    except ValueError as error:
        raise malformed("not base64url without padding") from error
    if text[-1:] not in _LAST[len(text) % 4]:
        raise malformed("base64url is not canonical")
    return data


def decode_base64(text: str) -> bytes:
    """The bytes of padded base64 in the standard alphabet.

    Raises:
        CustodyError: [malformed] unless ``text`` is the canonical encoding.
    """
    try:
        encoded = text.encode("ascii")
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise malformed("not base64") from error
    if binascii.b2a_base64(data, newline=False) != encoded:
        raise malformed("base64 is not canonical")
    return data


def sha256(data: bytes | memoryview) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def parse_json_object(data: bytes, *, max_depth: int | None = MAX_JSON_DEPTH) -> dict[str, object]:
    """The JSON object in ``data``; values are dict, list, str, int, bool and None only.

    Args:
        data: UTF-8.
        max_depth: nested containers, the object itself is the first; that of claims unless given. None where the
            reader bounds the depth by itself, which saves a pass over large files.

    Raises:
        CustodyError: [malformed] for anything that custody-wire §4.3 does not allow, at any depth.
    """
    try:
        text = data.decode("utf-8")
        if max_depth is not None:
            check_depth(text, max_depth)
        value = _decode(text)
    except (ValueError, RecursionError) as error:
        raise malformed("not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise malformed("the JSON text is not an object")
    if b"\\u" in data:
        _check_surrogates(value)
    return value


def parse_token_object(data: bytes, *, max_depth: int = MAX_TOKEN_JSON_DEPTH) -> dict[str, object]:
    """The JSON object in ``data``, a part of a token that others wrote: fractions are allowed, nothing else is looser.

    Integers beyond what is exact come back as float, so that no reader takes them for an exact number.

    Raises:
        CustodyError: [malformed].
    """
    try:
        text = data.decode("utf-8")
        check_depth(text, max_depth)
        value = _TOKEN_DECODER.decode(text)
    except ValueError as error:
        raise malformed("not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise malformed("the JSON text is not an object")
    if b"\\u" in data:
        _check_surrogates(value)
    return value


def encode_json(value: object) -> bytes:
    """Compact UTF-8 JSON, members in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def check_depth(text: str, max_depth: int) -> None:
    """Count before decoding: the decoder recurses once for each level.

    Raises:
        CustodyError: [malformed]; ``text`` nests deeper than ``max_depth``.
    """
    if text.count("{") + text.count("[") <= max_depth:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > max_depth:
                raise malformed("JSON is nested too deep")
        elif match[0] in "]}":
            depth -= 1


def _check_surrogates(value: object) -> None:
    """Python keeps an unpaired surrogate escape as a character that has no UTF-8."""
    try:
        encode_json(value)
    except UnicodeEncodeError as error:
        raise malformed("unpaired surrogate in JSON") from error


def _decode(text: str) -> object:
    """What the decoder makes of ``text``, at once if there is no white space around it."""
    with suppress(StopIteration):
        value, end = _DECODER.scan_once(text, 0)  # type: ignore[attr-defined]  # what decode itself calls
        if end == len(text):
            return value
    return _DECODER.decode(text)


def unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The members of one object, each once (``object_pairs_hook`` of a decoder)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise malformed("a JSON member occurs twice")
    return members


def _integer(digits: str) -> int:
    if digits == "-0" or len(digits) > _MAX_INTEGER_CHARACTERS or abs(value := int(digits)) > MAX_INTEGER:
        raise malformed("a JSON integer is out of range")
    return value


def _no_fraction(digits: str) -> NoReturn:
    raise malformed(f"{digits[:20]} is not an integer")


def _exact_or_float(digits: str) -> int | float:
    if digits == "-0" or len(digits) > _MAX_INTEGER_CHARACTERS or abs(int(digits)) > MAX_INTEGER:
        return _finite(digits)
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise malformed("a JSON number is out of range")
    return value


def no_constant(name: str) -> NoReturn:
    """Refuses NaN and the infinities (``parse_constant`` of a decoder)."""
    raise malformed(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_members, parse_int=_integer, parse_float=_no_fraction, parse_constant=_no_fraction
)
_TOKEN_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_members, parse_int=_exact_or_float, parse_float=_finite, parse_constant=no_constant
)
