"""What the kernel's texts about a process say, as read from ``/proc``.

Owns: their forms. Does not own: reading them (``attestor.peer``).

Source: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

from typing import Final

from hopseal.errors import InvalidError

_START_TIME_FIELD: Final = 22  # proc_pid_stat(5)


class ProcTextInvalid(InvalidError):  # noqa: N818
    """A file below ``/proc`` does not have the form the kernel documents (code ``proc_text_invalid``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("proc_text_invalid", "kernel text cannot be understood", detail=detail)


def parse_start_ticks(stat: bytes) -> int:
    """The start time in the text of ``/proc/PID/stat``.

    The second field is the program's own name in parentheses and may hold anything,
    parentheses, spaces and line ends included, so fields count from the last ``)``.

    Raises:
        ProcTextInvalid: there is no such field or it is no number.
    """
    _, closing, rest = stat.rpartition(b")")
    fields = rest.split()
    index = _START_TIME_FIELD - 3  # the first field after the name is field 3
    if not closing or len(fields) <= index or not fields[index].isdigit():
        raise ProcTextInvalid(f"stat {stat[:200]!r}")
    return int(fields[index])


def parse_status(text: bytes) -> dict[str, str]:
    """The fields of ``/proc/PID/status`` by name, first occurrence.

    Security: the kernel escapes only the line feed in ``Name``, which a process chooses and which stands
    first; splitting at anything else (a carriage return, say) would let it forge every later field.

    Raises:
        ProcTextInvalid: a line has no colon.
    """
    fields: dict[str, str] = {}
    for line in text.decode("ascii", "backslashreplace").removesuffix("\n").split("\n"):
        name, colon, value = line.partition(":")
        if not colon:
            raise ProcTextInvalid(f"status line {line[:100]!r}")
        fields.setdefault(name, value.strip())
    return fields


def parse_ids(status: dict[str, str], name: str) -> tuple[int, int, int, int]:
    """The real, effective, saved and filesystem ids of field ``Uid`` or ``Gid``.

    Raises:
        ProcTextInvalid: the field is missing or not four numbers.
    """
    parts = status.get(name, "").split()
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ProcTextInvalid(f"status field {name}: {parts!r}")
    real, effective, saved, filesystem = map(int, parts)
    return real, effective, saved, filesystem
