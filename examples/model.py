"""An OpenAI-compatible endpoint whose "model" answers with the question: stands for any inference server.

Served as such servers are: ``uvicorn --uds model.sock model:app``. It knows nothing of Hopseal.
"""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def complete(request: Request) -> JSONResponse:
    """``POST /v1/chat/completions``."""
    body = await request.json()
    question = body["messages"][-1]["content"]
    message = {"role": "assistant", "content": f"You asked: {question}"}
    return JSONResponse(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
    )


app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
