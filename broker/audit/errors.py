"""What goes wrong with the log of this node.

Owns: the codes. An :class:`LogContradictionError` is for good: a checkpoint that was signed says otherwise than what
is there now, and signing on would hide it.
"""

from __future__ import annotations

from hopseal.errors import InvalidError, UnavailableError


class LogContradictionError(InvalidError):
    """Journal, tiles and signed checkpoint do not fit together (``log_contradiction``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(
            "log_contradiction",
            message,
            detail=detail,
            remedy="keep everything as it is for the auditor; see docs/audit-log.md, When the log contradicts itself",
        )


class LogStoreError(UnavailableError):
    """Journal or tiles cannot be read or written now (``log_store_unavailable``)."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            "log_store_unavailable",
            "the log's files cannot be read or written",
            detail=str(error),
            remedy="see whether the state folder can be written and has space",
        )
