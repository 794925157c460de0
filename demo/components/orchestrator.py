"""The orchestrator: takes a task, asks the reasoning engine, writes the decision into the CRM.

It uses the ordinary OpenAI and MCP clients; only their HTTP transport goes to the broker's socket.
Served by ``uvicorn --uds orchestrator.sock demo.components.orchestrator:app``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx2
import openai
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo.components.crm_client import broker_client, call_tool
from hopseal.sdk.asgi import CustodyMiddleware

REASONER_URL = "http://reasoner.crm-assistant/v1"
CONFIG = Path(os.environ.get("ORCHESTRATOR_CONFIG", "/etc/agent"))


async def run_task(request: Request) -> JSONResponse:
    """``POST /task`` with ``{"question": …}``: the answer, or which peer could not be used and why."""
    question = (await request.json())["question"]
    settings = json.loads((CONFIG / "settings.json").read_text())
    try:
        decision = await _reason(question, settings["model"])
    except openai.APIStatusError as error:
        return JSONResponse({"peer": "reasoner", "code": _refusal_code(error.response)}, status_code=502)
    account = await call_tool("crm.update", decision)
    return JSONResponse({"account": account["name"], "next_step": account["next_step"]})


async def _reason(question: str, model: str) -> dict[str, str]:
    async with (
        broker_client() as http,
        openai.AsyncOpenAI(
            base_url=REASONER_URL, api_key="none: the broker proves who calls", http_client=http, max_retries=0
        ) as client,
    ):
        answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
    decision: dict[str, str] = json.loads(answer.choices[0].message.content or "{}")
    return decision


def _refusal_code(response: httpx2.Response) -> str:
    """The broker's code if it refused the call, else the peer's own status."""
    if response.headers.get("content-type") == "application/problem+json":
        return str(response.json()["code"])
    return f"http_{response.status_code}"


def make_app() -> Starlette:
    """The application."""
    return Starlette(routes=[Route("/task", run_task, methods=["POST"])], middleware=[Middleware(CustodyMiddleware)])
