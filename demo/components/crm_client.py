"""HTTP to the broker's socket, and the ordinary MCP client on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from hopseal.sdk.client import join_task, out_socket

CRM_URL = "http://crm-connector.crm-assistant/mcp"
TIMEOUT_S = 20.0


def broker_client() -> httpx2.AsyncClient:
    """The HTTP client that the OpenAI and MCP SDKs take; its calls belong to the task that is being served."""
    return httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=out_socket()), event_hooks={"request": [join_task]}, timeout=TIMEOUT_S
    )


@asynccontextmanager
async def crm_client() -> AsyncIterator[Client]:
    """An MCP client of the connector."""
    async with broker_client() as http, Client(streamable_http_client(CRM_URL, http_client=http)) as client:
        yield client


async def call_tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the tool ``name`` answers, as its structured content.

    Raises:
        LookupError: the tool answered with an error.
    """
    async with crm_client() as client:
        result = await client.call_tool(name, arguments)
    if result.is_error or result.structured_content is None:
        raise LookupError(f"{name} failed: {result.content}")
    return dict(result.structured_content)
