"""Checkpoints: what a log says its tree is.

Owns: the text of a checkpoint. Does not own: signatures by the log (``log_key``) or by witnesses (``cosignature``).
There is one text for each checkpoint, so that the text signed and the values read cannot differ.
Source: c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hopseal.custody.encoding import decode_base64
from hopseal.custody.errors import CustodyError
from hopseal.log.note import Note, encode_base64, parse_note
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.tree import MAX_TREE_SIZE

MAX_ORIGIN_BYTES: Final = 255  # opaque log_origin<1..2^8-1>; tlog-cosignature
MAX_EXTENSIONS: Final = 16

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log claims, without signatures.

    Args:
        origin: the log's name.
        size: number of leaves.
        root: RFC 6962 root hash, 32 bytes.
        extensions: further lines, opaque and not empty.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note text, which ends in a newline."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class UnverifiedCheckpoint:
    """A checkpoint as it was read: no signature of its note is verified."""

    checkpoint: Checkpoint
    note: Note


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text.

    Raises:
        TransparencyError: [checkpoint_malformed] it is none.
    """
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]) or lines[-1]:
        raise _malformed("it is not at least three lines, none of them empty")
    origin, size, root, *extensions = lines[:-1]
    if len(origin.encode()) > MAX_ORIGIN_BYTES:
        raise _malformed(f"the origin is longer than {MAX_ORIGIN_BYTES} bytes")
    if len(extensions) > MAX_EXTENSIONS:
        raise _malformed(f"more than {MAX_EXTENSIONS} extension lines")
    try:
        return Checkpoint(origin, parse_number(size), parse_hash(root), tuple(extensions))
    except ValueError as error:
        raise _malformed(str(error)) from error


def parse_signed_checkpoint(data: bytes) -> UnverifiedCheckpoint:
    """The checkpoint in a signed note, its signatures not verified.

    Raises:
        TransparencyError: [note_malformed], [checkpoint_malformed].
    """
    note = parse_note(data)
    return UnverifiedCheckpoint(parse_checkpoint(note.text), note)


def parse_number(text: str) -> int:
    """The tree size or index in ``text``: decimal, no leading zero, at most 2^63 - 1.

    Raises:
        ValueError: it is not exactly that.
    """
    if _NUMBER.fullmatch(text) is None or (value := int(text)) > MAX_TREE_SIZE:
        raise ValueError("a number is not decimal without leading zeros, or too large")
    return value


def parse_hash(text: str) -> bytes:
    """The 32 bytes of a hash in base64.

    Raises:
        ValueError: it is not exactly that.
    """
    try:
        decoded = decode_base64(text)
    except CustodyError as error:
        raise ValueError(f"a hash is wrong: {error.detail}") from error
    if len(decoded) != _HASH_BYTES:
        raise ValueError("a hash has another length than 32 bytes")
    return decoded


def _malformed(detail: str) -> TransparencyError:
    return TransparencyError(Reason.CHECKPOINT, detail)
