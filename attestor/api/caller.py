"""Who makes the request that a task serves.

Owns: the context variable that carries the caller from the connection to the request. Does not own: finding out who
it is (``attestor.api.server`` pins, ``attestor.api.tls`` identifies).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from attestor.peer import PinnedProcess
from hopseal.errors import BugError
from hopseal.ids import SpiffeId

_CALLER: ContextVar[Caller] = ContextVar("caller")


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Who is at the other end of a connection.

    Args:
        process: pinned at accept; belongs to the connection, duplicate it to keep it.
        tls_id: the SPIFFE ID that its TLS certificate proved; None without TLS.
        abort: drops the connection and what still waits to be sent on it.
    """

    process: PinnedProcess
    tls_id: SpiffeId | None
    abort: Callable[[], None]


def present_caller() -> Caller:
    """The caller of the request that this task serves.

    Raises:
        BugError: the task serves no request.
    """
    caller = _CALLER.get(None)
    if caller is None:
        raise BugError("no_request", "a caller was asked for outside a request")
    return caller


@contextmanager
def calling_as(caller: Caller) -> Iterator[None]:
    """Tasks started inside serve requests of ``caller``."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)
