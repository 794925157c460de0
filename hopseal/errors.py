"""The error families that every Hopseal package raises.

Owns: the root class and the four families. Does not own: any particular error;
each package derives its own from a family and gives it a stable code.

A code is stable and safe to print; ``message`` may be shown to the caller;
``detail`` is for the operator's log only.
"""

from __future__ import annotations


class HopsealError(Exception):
    """Root of everything that Hopseal raises on purpose.

    Args:
        code: stable reason code, lower case with underscores.
        message: one sentence that is safe for the caller.
        detail: what the operator needs to see; never sent to a caller.
        remedy: what to do next, for the operator.
    """

    def __init__(self, code: str, message: str, *, detail: str = "", remedy: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.detail = detail
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [f"{self.code}: {self.message}"]
        if self.detail:
            parts.append(self.detail)
        if self.remedy:
            parts.append(self.remedy)
        return " — ".join(parts)


class DeniedError(HopsealError):
    """The answer is no: evidence, policy or status refused."""


class InvalidError(HopsealError):
    """The peer, file or message is wrong; asking again changes nothing."""


class UnavailableError(HopsealError):
    """Something needed cannot be reached or read now; asking again may help."""


class BugError(HopsealError):
    """An invariant of ours does not hold."""
