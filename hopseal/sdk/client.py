"""Joining outbound calls to the current task, for any client of the httpx family.

Use: ``httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=out_socket()), event_hooks={"request": [join_task]})``
with URLs ``http://<component>.<agent>/…``; the same with ``httpx2``, which the OpenAI and MCP SDKs use.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Protocol

from hopseal.sdk.handle import HANDLE_HEADER, current_handle

DEFAULT_OUT_SOCKET = "/run/hopseal/call/out.sock"


class HasHeaders(Protocol):
    """A request of ``httpx`` or of a library forked from it."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """The request's headers."""


def out_socket() -> str:
    """Path of the broker's call socket: ``HOPSEAL_OUT_SOCKET`` or the default."""
    return os.environ.get("HOPSEAL_OUT_SOCKET", DEFAULT_OUT_SOCKET)


async def join_task(request: HasHeaders) -> None:
    """Give ``request`` the current handle unless it has one; an event hook for requests."""
    handle = current_handle()
    if handle is not None and HANDLE_HEADER not in request.headers:
        request.headers[HANDLE_HEADER] = handle
