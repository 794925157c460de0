"""An agent that is asked by A2A, and asks a model (OpenAI's API) and a tool (MCP). All of it is one chain.

Served by ``uvicorn --uds agent.sock agent:app``. What Hopseal needs of it: the middleware, and the transport in the
clients of the other SDKs. No key of any service is in it.
"""

from __future__ import annotations

import httpx2
import openai
from a2a.helpers import new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.middleware import Middleware

from hopseal.sdk.asgi import CustodyMiddleware
from hopseal.sdk.context import async_call_context
from hopseal.sdk.httpx2 import AsyncBrokerTransport


def broker_client() -> httpx2.AsyncClient:
    """What the SDKs of others take as their HTTP client."""
    return httpx2.AsyncClient(transport=AsyncBrokerTransport(), timeout=60)


async def ask_model(question: str) -> str:
    """One completion of the component ``model``."""
    async with broker_client() as http:
        model = openai.AsyncOpenAI(base_url="http://model.desk/v1", api_key="none", http_client=http, max_retries=0)
        answer = await model.chat.completions.create(model="any", messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content or ""


async def ask_tool(day: str) -> str:
    """One call of a tool of the component ``tools``."""
    async with broker_client() as http:
        url = "http://tools.desk/mcp"
        async with Client(streamable_http_client(url, http_client=http)) as tools:
            result = await tools.call_tool("opening_hours", {"day": day})
    return result.content[0].text


class Desk(AgentExecutor):
    """Answers a question with the model's words, the tool's facts, and who asked."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Answer one message."""
        caller = (await async_call_context()).caller
        words, hours = await ask_model(context.get_user_input()), await ask_tool("sunday")
        await event_queue.enqueue_event(new_text_message(f"{words} Sunday: {hours}. Asked by {caller}"))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Nothing takes long enough to be cancelled."""


card = AgentCard(
    name="desk",
    version="1",
    description="Answers questions",
    supported_interfaces=[
        AgentInterface(url="http://agent.desk/a2a", protocol_binding="JSONRPC", protocol_version="1.0")
    ],
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="answer", name="Answer", description="Answers a question", tags=["questions"])],
)
handler = DefaultRequestHandler(agent_executor=Desk(), task_store=InMemoryTaskStore(), agent_card=card)
app = Starlette(
    routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/a2a")],
    middleware=[Middleware(CustodyMiddleware)],
)
