"""ASGI middleware: what the application calls while it serves a request joins that request's chain."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hopseal.errors import HopsealError, UnavailableError
from hopseal.sdk.context import async_call_context
from hopseal.sdk.handle import HANDLE_HEADER, handle_of, use_handle

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTEXT_KEY = "hopseal.context"

_HEADER = HANDLE_HEADER.encode()


class CustodyMiddleware:
    """Wraps an ASGI application; each request's ``Custody-Handle`` is the current one while it is served.

    Args:
        application: the application.
        require_context: ask the broker about each request before the application sees it, put the answer into
            ``scope["hopseal.context"]`` and refuse what did not come through the broker with 403, or 503 while the
            broker cannot be asked. Costs one local exchange a request.
    """

    def __init__(self, application: AsgiApplication, *, require_context: bool = False) -> None:
        self._application = application
        self._require_context = require_context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._application(scope, receive, send)
            return
        handle = handle_of(value.decode("latin-1") for name, value in scope["headers"] if name.lower() == _HEADER)
        if self._require_context:
            try:
                with use_handle(handle):
                    scope[CONTEXT_KEY] = await async_call_context()
            except HopsealError as error:
                await _refuse(scope, send, error)
                return
        with use_handle(handle):
            await self._application(scope, receive, send)


async def _refuse(scope: Scope, send: Send, error: HopsealError) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # policy violation: before accept it becomes a 403
        return
    status = 503 if isinstance(error, UnavailableError) else 403
    body = json.dumps({"title": "the caller is not known", "status": status, "code": error.code}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
