"""The A2A client, unchanged: ``hopseal run -- python plain_a2a.py``."""

from __future__ import annotations

import asyncio

import httpx
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_stream_response_text, new_text_message
from a2a.types import Role, SendMessageRequest


async def main() -> None:
    """Ask the agent."""
    http = httpx.AsyncClient(timeout=60)
    agent = await create_client("http://agent.desk", client_config=ClientConfig(httpx_client=http))
    message = new_text_message("Who is there?", role=Role.ROLE_USER)
    async for event in agent.send_message(SendMessageRequest(message=message)):
        print(get_stream_response_text(event))


asyncio.run(main())
