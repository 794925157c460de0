"""The A2A client, unchanged: ``hopseal run -- python plain_a2a.py``."""

from __future__ import annotations

import asyncio

from a2a.client import create_client
from a2a.helpers import get_stream_response_text, new_text_message
from a2a.types import Role, SendMessageRequest


async def main() -> None:
    """Ask the agent."""
    agent = await create_client("http://agent.desk")
    message = new_text_message("Who is there?", role=Role.ROLE_USER)
    async for event in agent.send_message(SendMessageRequest(message=message)):
        print(get_stream_response_text(event))


asyncio.run(main())
