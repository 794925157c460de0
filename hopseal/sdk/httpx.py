"""Transports for httpx: calls go to the broker and belong to the current task.

``httpx.Client(transport=BrokerTransport())``, with URLs ``http://<component>.<agent>/…``.
"""

from __future__ import annotations

from hopseal.sdk.extras import missing
from hopseal.sdk.httpx_calls import AsyncCalls, SyncCalls

try:
    import httpx
except ModuleNotFoundError as error:
    raise missing("httpx") from error


class BrokerTransport(SyncCalls, httpx.HTTPTransport):
    """For ``httpx.Client``."""


class AsyncBrokerTransport(AsyncCalls, httpx.AsyncHTTPTransport):
    """For ``httpx.AsyncClient``."""
