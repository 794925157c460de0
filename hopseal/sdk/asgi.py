"""ASGI middleware: what the application calls while it serves a request joins that request's chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hopseal.sdk.handle import HANDLE_HEADER, use_handle

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADER = HANDLE_HEADER.encode()


class CustodyMiddleware:
    """Wraps an ASGI application; each request's ``Custody-Handle`` is the current one while it is served."""

    def __init__(self, application: AsgiApplication) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        handles = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == _HEADER]
        with use_handle(handles[0] if len(handles) == 1 else None):
            await self._application(scope, receive, send)
