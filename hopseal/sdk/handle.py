"""The handle of the task that the current request belongs to.

Owns: one context variable. A handle means something only to the broker of this node and only for
this component instance; it is no secret to the component and is never stored.

The variable follows ``asyncio`` tasks (each begins with a copy of its creator's context) and
``asyncio.to_thread``; other threads have it if they are run by ``contextvars.copy_context().run``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

HANDLE_HEADER = "custody-handle"
HANDLE_META = "dev.hopseal/custody-handle"  # in ``_meta`` of an MCP message over stdio, which has no headers

_current: ContextVar[str | None] = ContextVar("hopseal_custody_handle", default=None)


def current_handle() -> str | None:
    """The handle of the request that is being served, or None."""
    return _current.get()


@contextmanager
def use_handle(handle: str | None) -> Iterator[None]:
    """Make ``handle`` the current one inside the block; with None, calls inside it belong to no task."""
    token = _current.set(handle)
    try:
        yield
    finally:
        _current.reset(token)


def handle_of(values: Iterable[str]) -> str | None:
    """The one handle among a request's header lines ``Custody-Handle``; several are none, for nobody can say which."""
    found = list(values)
    return found[0] if len(found) == 1 else None


def handle_of_meta(meta: Mapping[str, object] | None) -> str | None:
    """The handle that ``hopseal serve-stdio`` put into the ``_meta`` of an MCP request, or None."""
    handle = (meta or {}).get(HANDLE_META)
    return handle if isinstance(handle, str) else None
