"""One finding: what was looked at, what was seen, and what to do."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What looking came to; only ``failed`` makes the node unsound."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        check: stable name, ``part.subject``.
        message: one sentence.
        evidence: what was seen: a mode, an error, a number.
        remedy: the command or change that corrects it; empty if there is nothing to correct.
    """

    check: str
    outcome: Outcome
    message: str
    evidence: str = ""
    remedy: str = ""


def ok(check: str, message: str, evidence: str = "") -> Finding:
    """It is as it should be."""
    return Finding(check, Outcome.OK, message, evidence)


def warning(check: str, message: str, evidence: str, remedy: str) -> Finding:
    """It works, and something should be done."""
    return Finding(check, Outcome.WARNING, message, evidence, remedy)


def failed(check: str, message: str, evidence: str, remedy: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding(check, Outcome.FAILED, message, evidence, remedy)


def skipped(check: str, message: str, evidence: str = "", remedy: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(check, Outcome.SKIPPED, message, evidence, remedy)


def reason_of(error: OSError) -> str:
    """The system's words for ``error``."""
    return error.strerror or str(error) or type(error).__name__


def look_at_mode(
    check: str, path: Path, forbidden: int, mode: int, judge: Callable[[int], str] | None = None
) -> Finding:
    """A finding about the permission bits of ``path``.

    Args:
        check: the finding's name.
        path: not followed if it is a symlink.
        forbidden: bits that must not be set.
        mode: what the remedy sets.
        judge: what else is wrong with these bits; empty if nothing is.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return skipped(check, f"{path} does not exist yet")
    except OSError as error:
        return skipped(check, f"{path} cannot be looked at", reason_of(error), "run it as root")
    bits = stat.S_IMODE(found.st_mode)
    evidence = f"mode {bits:04o}, owner {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return failed(check, f"{path} is a symlink", str(path.readlink()), f"replace {path} by what it points to")
    if bits & forbidden:
        return failed(check, f"{path} is open to others", evidence, f"chmod {mode:04o} {path}")
    wrong = judge(bits) if judge is not None else ""
    if wrong:
        return failed(check, f"{path} {wrong}", evidence, f"chmod {mode:04o} {path}")
    return ok(check, f"{path} has a safe mode", evidence)
