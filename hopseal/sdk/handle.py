"""The handle of the task that the current request belongs to.

Owns: one context variable. A handle means something only to the broker of this node and only for
this component instance; it is no secret to the component and is never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HANDLE_HEADER = "custody-handle"

_current: ContextVar[str | None] = ContextVar("hopseal_custody_handle", default=None)


def current_handle() -> str | None:
    """The handle of the request that is being served, or None."""
    return _current.get()


@contextmanager
def use_handle(handle: str | None) -> Iterator[None]:
    """Make ``handle`` the current one inside the block."""
    token = _current.set(handle)
    try:
        yield
    finally:
        _current.reset(token)
