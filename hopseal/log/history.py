"""The history of a log's cosigned checkpoints: which entries were witnessed when.

Owns: its text, and which checkpoints are kept. One line of JSON for each, oldest first; the notes are not verified.
Does not own: files; verifying a note (``policy``).

Thinning: a checkpoint proves every entry below its size to be older than its cosignatures. An auditor wants that time
within two minutes of an entry's own, so one checkpoint for each half minute is as good as all of them.
Source: custody-wire §11.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from hopseal.custody.encoding import parse_json_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.members import Members, read_integer, read_text

BUCKET_S = 30


@dataclass(frozen=True, slots=True)
class PastCheckpoint:
    """One cosigned checkpoint.

    Args:
        time: when the quorum was met, seconds since 1970, as the log's node understood it.
        size: number of leaves.
        note: the signed note with its cosignatures, not verified.
    """

    time: int
    size: int
    note: bytes


def format_past_checkpoint(past: PastCheckpoint) -> bytes:
    """Its line."""
    members = {"time": past.time, "size": past.size, "note": past.note.decode("utf-8")}
    return json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"


def parse_history(data: bytes) -> tuple[PastCheckpoint, ...]:
    """The checkpoints in the bytes of a history, in order; a line that cannot be read, such as a torn one, is skipped.

    A history is a help to find a note; what it leaves out or invents, the note's own signatures tell.
    """
    found = []
    for line in data.split(b"\n"):
        try:
            members = Members(parse_json_object(line), "past checkpoint")
            found.append(
                PastCheckpoint(
                    members.required("time", read_integer),
                    members.required("size", read_integer),
                    members.required("note", read_text).encode("utf-8"),
                )
            )
        except CustodyError:
            continue
    return tuple(found)


def thin(history: Iterable[PastCheckpoint]) -> tuple[PastCheckpoint, ...]:
    """The last checkpoint of each half minute."""
    return tuple({past.time // BUCKET_S: past for past in history}.values())
