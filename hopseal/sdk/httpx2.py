"""Transports for httpx2, which the OpenAI and MCP SDKs take: calls go to the broker and belong to the current task.

``httpx2.Client(transport=BrokerTransport())``, with URLs ``http://<component>.<agent>/…``.
"""

from __future__ import annotations

from hopseal.sdk.extras import missing
from hopseal.sdk.httpx_calls import AsyncCalls, SyncCalls

try:
    import httpx2
except ModuleNotFoundError as error:
    raise missing("httpx2") from error


class BrokerTransport(SyncCalls, httpx2.HTTPTransport):
    """For ``httpx2.Client``."""


class AsyncBrokerTransport(AsyncCalls, httpx2.AsyncHTTPTransport):
    """For ``httpx2.AsyncClient``."""
