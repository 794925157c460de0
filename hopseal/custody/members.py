"""Typed reading of the members of a JSON object; every mismatch is [malformed].

Owns: the value types that claims are made of. Does not own: which claims exist.
Source: custody-wire §4.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from hopseal.custody.encoding import decode_b64url
from hopseal.custody.errors import malformed
from hopseal.ids import IdentityError, SpiffeId
from hopseal.limits import MAX_AUDIENCE_BYTES, MAX_HOST_BYTES

T = TypeVar("T")
Reader = Callable[[object, str], T]

_ORIGIN = re.compile(r"https://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?", re.ASCII)
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HASH = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)  # what encode_b64url gives for 32 bytes
_RANDOM_ID = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]", re.ASCII)  # and for 16
HASH_BYTES = 32
ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Members:
    """One JSON object on its way to a typed value.

    Args:
        values: the object.
        where: its name in error details.
    """

    values: Mapping[str, object]
    where: str

    @classmethod
    def read(cls, value: object, where: str) -> Members:
        """``value`` as an object."""
        if not isinstance(value, dict):
            raise malformed(f"{where} is not an object")
        return cls(value, where)

    def required(self, name: str, reader: Reader[T]) -> T:
        """The member ``name``, which must be there."""
        try:
            value = self.values[name]
        except KeyError as error:
            raise malformed(f"{self.where}.{name} is absent") from error
        return reader(value, f"{self.where}.{name}")

    def optional(self, name: str, reader: Reader[T]) -> T | None:
        """The member ``name``, or None if it is absent; a null is not absent."""
        return self.required(name, reader) if name in self.values else None

    def only(self, names: frozenset[str]) -> Members:
        """Itself, if no member is outside ``names``."""
        if not names.issuperset(self.values):
            raise malformed(f"{self.where} has a member that is not known")
        return self


def read_integer(value: object, where: str) -> int:
    """A non-negative integer; a boolean is none."""
    if type(value) is not int or value < 0:
        raise malformed(f"{where} is not a non-negative integer")
    return value


def integer_between(lowest: int, highest: int) -> Reader[int]:
    """A reader of integers within these bounds, both included."""

    def read(value: object, where: str) -> int:
        number = read_integer(value, where)
        if not lowest <= number <= highest:
            raise malformed(f"{where} is not {lowest} to {highest}")
        return number

    return read


def read_boolean(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise malformed(f"{where} is not a boolean")
    return value


def read_text(value: object, where: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise malformed(f"{where} is not a string")
    return value


def text_up_to(max_bytes: int, *, min_bytes: int = 0) -> Reader[str]:
    """A reader of strings whose UTF-8 has between ``min_bytes`` and ``max_bytes`` bytes."""

    def read(value: object, where: str) -> str:
        text = read_text(value, where)
        is_short = min_bytes <= len(text) and 4 * len(text) <= max_bytes  # however many bytes a character has
        if not is_short and not min_bytes <= len(text.encode()) <= max_bytes:
            raise malformed(f"{where} has not {min_bytes} to {max_bytes} bytes")
        return text

    return read


def one_of(*words: str) -> Reader[str]:
    """A reader of exactly these strings."""

    def read(value: object, where: str) -> str:
        text = read_text(value, where)
        if text not in words:
            raise malformed(f"{where} is not one of {', '.join(words)}")
        return text

    return read


def list_of(reader: Reader[T], max_items: int) -> Reader[tuple[T, ...]]:
    """A reader of arrays with at most ``max_items`` items."""

    def read(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > max_items:
            raise malformed(f"{where} is not an array of at most {max_items}")
        return tuple(reader(item, f"{where}[]") for item in value)

    return read


def read_hash(value: object, where: str) -> str:
    """A SHA-256 in canonical base64url, 43 characters."""
    return _fixed(value, where, _HASH, HASH_BYTES)


def read_random_id(value: object, where: str) -> str:
    """A random 128-bit ID in canonical base64url, 22 characters."""
    return _fixed(value, where, _RANDOM_ID, ID_BYTES)


def read_spiffe_id(value: object, where: str) -> SpiffeId:
    """A canonical SPIFFE ID."""
    try:
        return _parse_spiffe_id(read_text(value, where))
    except IdentityError as error:
        raise malformed(f"{where}: {error.message}") from error


def read_audience(value: object, where: str) -> str:
    """A canonical SPIFFE ID or an https origin, as text."""
    text = text_up_to(MAX_AUDIENCE_BYTES)(value, where)
    return text if _ORIGIN.fullmatch(text) else str(read_spiffe_id(text, where))


def read_host(value: object, where: str) -> str:
    """What may follow ``https://`` in an origin: a name or address, and a port unless that is 443."""
    text = text_up_to(MAX_HOST_BYTES)(value, where)
    if _ORIGIN.fullmatch(f"https://{text}") is None:
        raise malformed(f"{where} is not a host")
    return text


def read_trace_id(value: object, where: str) -> str:
    """A W3C trace-id: 32 lower-case hex digits."""
    text = read_text(value, where)
    if _TRACE_ID.fullmatch(text) is None:
        raise malformed(f"{where} is not a trace-id")
    return text


@lru_cache(maxsize=1024)
def _parse_spiffe_id(text: str) -> SpiffeId:
    """Remembered, since the statements of a log are of few components."""
    return SpiffeId.parse(text)


def _fixed(value: object, where: str, form: re.Pattern[str], size: int) -> str:
    if isinstance(value, str) and form.fullmatch(value):
        return value
    decode_b64url(read_text(value, where))  # which says so, if that is what is wrong
    raise malformed(f"{where} has not {size} bytes")
