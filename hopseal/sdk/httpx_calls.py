"""What the transports for httpx and httpx2, its fork, have in common.

Owns: joining each request to the current task, and raising refusals where that is asked for. Does not own: HTTP.
"""

from __future__ import annotations

from typing import Any

from hopseal.sdk.client import join, out_socket
from hopseal.sdk.refusals import PROBLEM_MEDIA_TYPE, read_refusal


class Calls:
    """Mixed into a library's own transport, sync or async.

    Args:
        socket: path of the call socket; ``HOPSEAL_OUT_SOCKET`` or the default if None.
        raise_refusals: raise ``CallRefusedError`` instead of answering with the problem document.
        options: of the library's transport, such as ``limits``.
    """

    def __init__(self, socket: str | None = None, *, raise_refusals: bool = False, **options: Any) -> None:
        super().__init__(uds=socket or out_socket(), **options)  # type: ignore[call-arg]
        self._raise_refusals = raise_refusals

    def _may_be_refusal(self, response: Any) -> bool:
        return self._raise_refusals and response.headers.get("content-type") == PROBLEM_MEDIA_TYPE


class SyncCalls(Calls):
    """For ``HTTPTransport``."""

    def handle_request(self, request: Any) -> Any:
        """Send the request as part of the current task."""
        join(request)
        response = super().handle_request(request)  # type: ignore[misc]
        if self._may_be_refusal(response):
            _raise_refusal(response, response.read())
        return response


class AsyncCalls(Calls):
    """For ``AsyncHTTPTransport``."""

    async def handle_async_request(self, request: Any) -> Any:
        """Send the request as part of the current task."""
        join(request)
        response = await super().handle_async_request(request)  # type: ignore[misc]
        if self._may_be_refusal(response):
            _raise_refusal(response, await response.aread())
        return response


def _raise_refusal(response: Any, body: bytes) -> None:
    refusal = read_refusal(response.status_code, response.headers.get("content-type"), body)
    if refusal is not None:
        raise refusal
