"""Operators' questions about policies on the admin socket.

Owns: ``/v1/policies/explain`` and ``/v1/decisions/{id}``. Does not own: the answers; the data plane gives them.
"""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from broker.dataplane_api import DataPlane
from broker.policy.question import Asked, build_question
from hopseal.documents.follow import DocumentFollower
from hopseal.errors import HopsealError, InvalidError, UnavailableError


class PolicyQueries:
    """Answers from the policies in force.

    Args:
        data_plane: decides and remembers.
        documents: where names of components are looked up.
    """

    def __init__(self, data_plane: DataPlane, documents: DocumentFollower) -> None:
        self._data_plane = data_plane
        self._documents = documents
        self.routes = [
            web.get("/v1/policies/explain", self._explain),
            web.get("/v1/decisions/{id}", self._decision),
        ]

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            question = json.dumps(self._read(request.query.get("asked", "")))
            answer = await asyncio.to_thread(self._data_plane.explain, question)
        except HopsealError as error:
            status = 503 if isinstance(error, UnavailableError) else 400
            return _problem(status, error.code, error.message, error.remedy)
        except Exception as error:  # noqa: BLE001 - the binding's own exception exists only where it is installed
            code, detail = error.args if len(error.args) == 2 else ("question_invalid", repr(error))
            return _problem(400, str(code), str(detail))
        return web.Response(text=answer, content_type="application/json")

    def _read(self, text: str) -> dict[str, object]:
        documents = self._documents.current.documents
        if documents is None:
            raise UnavailableError("documents_unavailable", "no Agent documents are loaded")
        try:
            asked = Asked(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise InvalidError("question_invalid", f"the question cannot be read: {error}") from error
        return build_question(asked, documents)

    async def _decision(self, request: web.Request) -> web.Response:
        decision = request.match_info["id"]
        found = await asyncio.to_thread(self._data_plane.decision, decision)
        if found is None:
            return _problem(
                404,
                "decision_unknown",
                "the broker does not remember this decision",
                "give its log with --log; another node's broker may have made it",
            )
        return web.Response(text=found, content_type="application/json")


def _problem(status: int, code: str, message: str, remedy: str = "") -> web.Response:
    return web.json_response({"code": code, "message": message, "remedy": remedy}, status=status)
