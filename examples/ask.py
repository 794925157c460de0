"""Begin a task and ask the agent by A2A: ``python ask.py QUESTION``."""

from __future__ import annotations

import asyncio
import sys

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.helpers import get_stream_response_text, new_text_message
from a2a.types import Role, SendMessageRequest

from hopseal.sdk.httpx import AsyncBrokerTransport
from hopseal.sdk.refusals import CallRefusedError
from hopseal.sdk.tasks import task


async def ask(question: str) -> str:
    """The agent's answer."""
    async with httpx.AsyncClient(transport=AsyncBrokerTransport(raise_refusals=True), timeout=60) as http:
        agent = await ClientFactory(ClientConfig(httpx_client=http)).create_from_url("http://agent.desk")
        request = SendMessageRequest(message=new_text_message(question, role=Role.ROLE_USER))
        return "".join([get_stream_response_text(event) async for event in agent.send_message(request)])


async def main() -> int:
    """Print the answer, or why there is none."""
    try:
        async with task("question-1", purpose="example", authority={"hops": 3}) as opened:
            print(await ask(" ".join(sys.argv[1:])))
    except CallRefusedError as error:
        print(f"refused: {error.code} → {error.remedy}", file=sys.stderr)
        return 1
    print(f"hopseal chain show --cid {opened.chain}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
