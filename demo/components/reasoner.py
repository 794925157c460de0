"""The reasoning engine: an OpenAI-compatible endpoint. Its "model" is a list of rules, so that it is deterministic.

The rules stand in its prompt file; the model's name stands in its pin file. Both are approved by digest.
Served by ``uvicorn --uds reasoner.sock demo.components.reasoner:app``.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo.components.crm_client import call_tool
from hopseal.sdk.asgi import CustodyMiddleware

CONFIG = Path(os.environ.get("REASONER_CONFIG", "/etc/agent"))
_RULE = re.compile(r"- over (\d+): (.+)")
_ACCOUNT = re.compile(r"account ([A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Rules:
    """The "weights": the first threshold that an opportunity exceeds decides.

    Args:
        thresholds: euros and what to do then, the largest first.
    """

    model: str
    thresholds: tuple[tuple[int, str], ...]

    def decide(self, opportunity: int) -> str:
        """What to do next about an opportunity of that many euros."""
        return next((step for threshold, step in self.thresholds if opportunity > threshold), "do nothing")


def load_rules(folder: Path) -> Rules:
    """The rules in ``prompt.md`` and the model's name in ``pin.json``."""
    model = json.loads((folder / "pin.json").read_text())["model"]
    found = _RULE.findall((folder / "prompt.md").read_text())
    return Rules(model, tuple(sorted(((int(amount), step) for amount, step in found), reverse=True)))


async def complete(request: Request) -> JSONResponse:
    """``POST /v1/chat/completions``: looks the account up, then applies the rules."""
    rules: Rules = request.app.state.rules
    body = await request.json()
    question = str(body["messages"][-1]["content"])
    named = _ACCOUNT.search(question)
    if named is None:
        return JSONResponse({"error": {"message": "the question names no account"}}, status_code=400)
    account = await call_tool("crm.lookup", {"account": named[1]})
    decision = {"account": account["name"], "next_step": rules.decide(account["open_opportunity"])}
    message = {"role": "assistant", "content": json.dumps(decision)}
    return JSONResponse(
        {
            "id": "chatcmpl-demo",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": rules.model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
    )


def make_app() -> Starlette:
    """The application; reads its prompt and pin once, at start."""
    app = Starlette(
        routes=[Route("/v1/chat/completions", complete, methods=["POST"])], middleware=[Middleware(CustodyMiddleware)]
    )
    app.state.rules = load_rules(CONFIG)
    return app
