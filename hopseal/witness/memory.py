"""What a witness remembers, as one value with one text.

Owns: the text and its checksum. Does not own: the file (``state``).

Text: the SHA-256 of all that follows in hex, then ``hopseal-witness/v1``, ``name <name>``, ``at <seconds since 1970>``,
and for each log ``head <size> <root> <origin>``, by origin; every line ends in a newline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from hopseal.errors import InvalidError
from hopseal.log.checkpoint import parse_hash, parse_number
from hopseal.log.note import encode_base64
from hopseal.log.witness import Head

_VERSION: Final = "hopseal-witness/v1"
_EMPTY: Mapping[str, Head] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything that must not be forgotten.

    Args:
        name: of the witness; a folder serves one only.
        at: time of the latest cosignature, seconds since 1970; 0 if there was none.
        heads: the latest cosigned tree by origin.
    """

    name: str
    at: int = 0
    heads: Mapping[str, Head] = field(default_factory=lambda: _EMPTY)

    def with_head(self, origin: str, head: Head, at: int) -> Memory:
        """The memory after cosigning ``head`` at ``at``."""
        return Memory(self.name, at, MappingProxyType({**self.heads, origin: head}))

    def encode(self) -> bytes:
        """The text."""
        lines = [_VERSION, f"name {self.name}", f"at {self.at}"]
        lines += [
            f"head {head.size} {encode_base64(head.root)} {origin}" for origin, head in sorted(self.heads.items())
        ]
        body = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha256(body).hexdigest().encode("ascii") + b"\n" + body


def parse_memory(data: bytes) -> Memory:
    """The memory in a text.

    Raises:
        InvalidError: it is not exactly what :meth:`Memory.encode` gives (``witness_state_corrupt``).
    """
    checksum, _, body = data.partition(b"\n")
    if checksum != hashlib.sha256(body).hexdigest().encode("ascii"):
        raise _corrupt("the checksum does not fit")
    try:
        version, name, at, *heads = body.decode("utf-8").removesuffix("\n").split("\n")
        found = Memory(name.removeprefix("name "), parse_number(at.removeprefix("at ")), _parse_heads(heads))
    except ValueError as error:
        raise _corrupt(f"its checksum fits, and it cannot be read: {error}") from error
    if version != _VERSION or found.encode() != data:
        raise _corrupt("its checksum fits, and it is of another version or form")
    return found


def _parse_heads(lines: list[str]) -> Mapping[str, Head]:
    heads = {}
    for line in lines:
        _, size, root, origin = line.split(" ", 3)
        heads[origin] = Head(parse_number(size), parse_hash(root))
    return MappingProxyType(heads)


def _corrupt(detail: str) -> InvalidError:
    return InvalidError(
        "witness_state_corrupt",
        "the state of the witness is damaged",
        detail=detail,
        remedy="do not put back an older copy: make a new witness with new keys; see docs/witness.md",
    )
