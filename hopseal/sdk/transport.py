"""An httpx transport to the broker: calls carry the current task's handle.

Use it wherever a library takes an httpx client: ``httpx.AsyncClient(transport=BrokerTransport())``,
base URL ``http://<component>.<agent>``. Libraries on a fork of httpx need nothing of this but the
header: see :func:`hopseal.sdk.handle.current_handle`.
"""

from __future__ import annotations

import os

import httpx

from hopseal.sdk.handle import HANDLE_HEADER, current_handle

DEFAULT_OUT_SOCKET = "/run/hopseal/call/out.sock"


def out_socket() -> str:
    """Path of the broker's call socket: ``HOPSEAL_OUT_SOCKET`` or the default."""
    return os.environ.get("HOPSEAL_OUT_SOCKET", DEFAULT_OUT_SOCKET)


class BrokerTransport(httpx.AsyncHTTPTransport):
    """Sends every request to the broker's call socket.

    Args:
        socket: path of ``out.sock``; by default :func:`out_socket`.
    """

    def __init__(self, socket: str | None = None) -> None:
        super().__init__(uds=socket or out_socket())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer to ``request``, which is given the current handle unless it has one."""
        handle = current_handle()
        if handle is not None and HANDLE_HEADER not in request.headers:
            request.headers[HANDLE_HEADER] = handle
        return await super().handle_async_request(request)
