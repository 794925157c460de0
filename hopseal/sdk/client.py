"""Joining outbound calls to the current task, for any client that has request hooks or lets headers be set.

``hopseal.sdk.httpx``, ``httpx2`` and ``aiohttp`` have it built in. Elsewhere: plain HTTP to :func:`out_socket`, URLs
``http://<component>.<agent>/…``, and :func:`handle_headers` with each request.
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
    return os.environ.get("HOPSEAL_OUT_SOCKET") or DEFAULT_OUT_SOCKET


def handle_headers() -> dict[str, str]:
    """The header that joins a request to the current task; empty if there is none."""
    handle = current_handle()
    return {} if handle is None else {HANDLE_HEADER: handle}


def join(request: HasHeaders) -> None:
    """Give ``request`` the current handle unless it has one; an event hook of ``httpx.Client``."""
    handle = current_handle()
    if handle is not None and HANDLE_HEADER not in request.headers:
        request.headers[HANDLE_HEADER] = handle


async def join_task(request: HasHeaders) -> None:
    """The same as an event hook of ``httpx.AsyncClient``."""
    join(request)
