"""Mounts of a process, for posture only. Pure.

Owns: the text of ``/proc/PID/mountinfo`` and which path of the host a mount
shows. Does not own: what is sensitive (``attestor.collectors.controls``).

Security: a process can mount what it likes in a mount namespace of its own, so
nothing here may ever raise trust or name a container; it can only lower posture.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from attestor.proc_text import ProcTextInvalid

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_FIXED_FIELDS: Final = 6


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo; ``device`` is ``major:minor`` and ``root`` the mounted path within that filesystem."""

    device: str
    root: str
    point: str
    filesystem: str
    read_only: bool


def parse_mountinfo(text: bytes) -> tuple[MountEntry, ...]:
    """The entries of ``/proc/PID/mountinfo``.

    Raises:
        ProcTextInvalid: a line has too few fields or no separator.
    """
    return tuple(_parse_line(line) for line in text.removesuffix(b"\n").split(b"\n") if line)


def host_path(entry: MountEntry, host: tuple[MountEntry, ...]) -> str | None:
    """The path under which the host sees what ``entry`` shows, if the host has it mounted.

    The mount of the host that is nearest above wins.
    """
    best: MountEntry | None = None
    for candidate in host:
        inside = candidate.device == entry.device and is_within(entry.root, candidate.root)
        if inside and (best is None or len(candidate.root) > len(best.root)):
            best = candidate
    if best is None:
        return None
    relative = entry.root if best.root == "/" else entry.root[len(best.root) :]
    return ("" if best.point == "/" else best.point) + ("" if relative == "/" else relative) or "/"


def is_within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or below it; both absolute and canonical."""
    return folder in {"/", path} or path.startswith(f"{folder}/")


def _parse_line(line: bytes) -> MountEntry:
    before, separator, after = line.partition(b" - ")
    fields = before.split(b" ")
    kind = after.split(b" ")[0]
    if not separator or len(fields) < _FIXED_FIELDS or not kind:
        raise ProcTextInvalid(f"mountinfo line {line[:200]!r}")
    device, root, point, options = fields[2:6]
    return MountEntry(
        device.decode("ascii", "backslashreplace"),
        _unescape(root),
        _unescape(point),
        kind.decode("ascii", "backslashreplace"),
        b"ro" in options.split(b","),
    )


def _unescape(path: bytes) -> str:
    """The kernel writes space, tab, line end and backslash as three octal digits."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), path).decode("utf-8", "backslashreplace")
