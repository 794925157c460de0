"""WSGI middleware: what the application calls while it serves a request joins that request's chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from hopseal.sdk.handle import HANDLE_HEADER, use_handle

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
WsgiApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

_KEY = "HTTP_" + HANDLE_HEADER.upper().replace("-", "_")


class CustodyMiddleware:
    """Wraps a WSGI application; each request's ``Custody-Handle`` is the current one while it is served.

    The body is made after the application returned, so it is iterated in the same context.
    """

    def __init__(self, application: WsgiApplication) -> None:
        self._application = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        handle = environ.get(_KEY)
        with use_handle(handle if isinstance(handle, str) and "," not in handle else None):
            context = copy_context()
        return _Body(context, context.run(self._application, environ, start_response))


class _Body:
    def __init__(self, context: Context, parts: Iterable[bytes]) -> None:
        self._context = context
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        parts: Iterator[bytes] = self._context.run(iter, self._parts)
        while (part := self._context.run(next, parts, None)) is not None:
            yield part

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            self._context.run(close)
