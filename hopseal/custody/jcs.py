"""The canonical form of JSON text: one sequence of bytes for each value. Pure.

Owns: reading any JSON that has such a form, writing it, and its hash: how a log names the arguments of a tool call.
Does not own: MCP messages with custody fields, whose numbers are integers (``mappings.jcs``).

Rules: names are unique after unescaping; strings are Unicode, so an unpaired surrogate is refused; a number is taken
for the nearest double; refused are one that is none (too large, or too small to be told from zero) and an integer whose
double is printed as another one (2^53 + 1). What is refused has no canonical form here, and its hash
would stand for more than one value.

Source: RFC 8785 §3.2; ECMA-262 Number::toString.
"""

from __future__ import annotations

import json
import math

from hopseal.custody.encoding import check_depth, encode_b64url, encode_json, no_constant, sha256, unique_members
from hopseal.custody.errors import malformed
from hopseal.limits import MAX_CANONICAL_DEPTH

_MAX_PLAIN_DIGITS = 21  # before the point, as ECMAScript prints them; larger numbers have an exponent
_MAX_INTEGER_CHARACTERS = _MAX_PLAIN_DIGITS + len("-")
_MIN_POINT = -5  # zeros behind the point, alike


def canonicalize(data: bytes) -> bytes:
    """The canonical bytes of the JSON value in ``data``.

    Raises:
        CustodyError: [malformed]; it is not JSON, or has no canonical form.
    """
    try:
        text = data.decode("utf-8")
        check_depth(text, MAX_CANONICAL_DEPTH)
        value = _DECODER.decode(text)
        return "".join(_write(value)).encode("utf-8")
    except ValueError as error:
        raise malformed("not JSON in UTF-8, or with an unpaired surrogate") from error


def canonical_hash(data: bytes) -> str:
    """SHA-256 over the canonical bytes of the JSON value in ``data``, base64url: ``args_hash`` of a log.

    Raises:
        CustodyError: as :func:`canonicalize`.
    """
    return encode_b64url(sha256(canonicalize(data)))


def _write(value: object) -> list[str]:
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: _utf16(member[0]))
        parts = [f"{_write_text(name)}:{''.join(_write(each))}" for name, each in members]
        return ["{", ",".join(parts), "}"]
    if isinstance(value, list):
        return ["[", ",".join("".join(_write(each)) for each in value), "]"]
    return [_write_double(value) if isinstance(value, float) else _write_text(value)]


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _write_text(value: object) -> str:
    return encode_json(value).decode("utf-8")


def _write_double(value: float) -> str:
    """``value`` as ECMAScript prints it; Python's ``repr`` has the same digits, in another form."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}e0".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # ECMA-262 calls the place of the decimal point n: it stands after the n-th digit.
    point = len(whole) + int(exponent.partition("e")[0]) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= _MAX_PLAIN_DIGITS:
        return sign + digits.ljust(point, "0")
    if 0 < point <= _MAX_PLAIN_DIGITS:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _MIN_POINT <= point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    dot = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{dot}{digits[1:]}e{point - 1:+d}"


def _integer(digits: str) -> float:
    value = float(digits)
    if len(digits) > _MAX_INTEGER_CHARACTERS or (value != 0 and _write_double(value) != digits):
        raise malformed("a JSON integer is not exact as a double")
    return value


def _double(digits: str) -> float:
    value = float(digits)
    mantissa = digits.lower().partition("e")[0]
    if not math.isfinite(value) or (value == 0) == any(digit in mantissa for digit in "123456789"):
        raise malformed("a JSON number is no double")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_members, parse_int=_integer, parse_float=_double, parse_constant=no_constant
)
