"""The admin socket: status, explanation, measurement and control, HTTP with JSON.

Owns: routes, what a request may say, and which error becomes which HTTP status.
Does not own: the shapes of the answers (``attestor.status``, ``attestor.explain``) or the connection
(``attestor.admin_server``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from attestor.approved import ApprovedSet
from attestor.explain import explain_component, explain_entered, explain_process, explain_unreadable
from attestor.facts import ContainerFacts, Evidence, ProcessFacts, Unreadable
from attestor.history_files import ReadHistory
from attestor.matching import wanted_config
from attestor.metrics import Metrics
from attestor.peer import PinnedProcess
from attestor.registry import Registry, key_of
from attestor.status import component_status, unknown_status
from attestor.tracking import Collector
from attestor.upstream.protocol import UpstreamHealth
from hopseal.documents.follow import FollowState
from hopseal.documents.model import AgentStatus
from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError

_log = structlog.get_logger("hopseal.attestor")

MAX_FILES: Final = 64
MAX_PATH_BYTES: Final = 4096
MAX_CHANGES: Final = 1000
_DECISIONS: Final = {"suspend": AgentStatus.SUSPENDED, "retire": AgentStatus.RETIRED, "resume": None}


@dataclass(frozen=True, slots=True)
class AdminView:
    """What the admin socket shows and controls.

    Args:
        documents: the state of the documents now.
        problems: what is wrong with the node, one sentence each; empty when healthy.
        history: the newest kept changes of a component, or of all, at most so many.
        decide: makes a status decision durable and effective; returns the agent's status after it.
        timeout_s: for measuring one process.
    """

    node: str
    trust_domain: str
    version: str
    registry: Registry
    metrics: Metrics
    collector: Collector
    is_entered: Callable[[Evidence], bool]
    pin: Callable[[int], PinnedProcess]
    approved: Callable[[], ApprovedSet]
    documents: Callable[[], FollowState]
    upstream: Callable[[], UpstreamHealth]
    problems: Callable[[], list[str]]
    history: Callable[[str | None, int], Awaitable[ReadHistory]]
    decide: Callable[[str, AgentStatus | None], AgentStatus]
    timeout_s: float


def build_admin_app(view: AdminView) -> web.Application:
    """The application that answers on the admin socket."""
    admin = _Admin(view)
    app = web.Application(middlewares=[_answer_errors], client_max_size=1024)
    app.add_routes(
        [
            web.get("/v1/status", admin.get_status),
            web.get("/v1/explain", admin.get_explanation),
            web.get("/v1/measure", admin.get_measurement),
            web.get("/v1/history", admin.get_history),
            web.post("/v1/agents/{agent}/{verb:suspend|resume|retire}", admin.post_decision),
            web.get("/metrics", admin.get_metrics),
            web.get("/healthz", admin.get_health),
            web.get("/readyz", admin.get_readiness),
        ]
    )
    return app


class _Admin:
    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def get_status(self, _request: web.Request) -> web.Response:
        view = self._view
        documents, upstream, problems = view.documents(), view.upstream(), view.problems()
        approved = view.approved()
        return _json(
            {
                "node": view.node,
                "trust_domain": view.trust_domain,
                "version": view.version,
                "healthy": not problems,
                "problems": problems,
                "documents": {
                    "sha256": approved.documents_sha256,
                    "loaded_at": documents.loaded_at,
                    "problems": [
                        {"file": each.file, "line": each.line, "message": each.message, "remedy": each.remedy}
                        for each in documents.problems
                    ],
                },
                "upstream": {
                    "kind": upstream.kind,
                    "healthy": upstream.healthy,
                    "since": upstream.since,
                    "detail": upstream.detail,
                },
                "components": component_status(view.registry, approved),
                "unknown": unknown_status(view.registry),
            }
        )

    async def get_explanation(self, request: web.Request) -> web.Response:
        component, pid = request.query.get("component"), request.query.get("pid")
        if (component is None) == (pid is None):
            raise InvalidError("request_invalid", "name a component or a pid, one of them")
        if component is not None:
            approval = self._view.approved().get(component)
            if approval is None:
                raise DeniedError(
                    "component_unknown", "no such component", remedy="`hopseal agents list` shows the components"
                )
            return _json(explain_component(self._view.registry, approval))
        return await self._explain_process(_parse_pid(pid))

    async def _explain_process(self, pid: int) -> web.Response:
        view = self._view
        with view.pin(pid) as process:
            approved = view.approved()
            evidence = await self._collect(process, wanted_config(approved, process.uid))
            record = view.registry.get(key_of(process))
        if isinstance(evidence.process, Unreadable):
            return _json(explain_unreadable(pid, evidence.process))
        if view.is_entered(evidence):
            return _json(explain_entered(pid))
        return _json(explain_process(view.registry, approved, evidence, pid, record))

    async def get_measurement(self, request: web.Request) -> web.Response:
        pid = _parse_pid(request.query.get("pid"))
        files = _parse_files(request.query.getall("files", []))
        with self._view.pin(pid) as process:
            evidence = await self._collect(process, frozenset({files} if files else ()))
        return _json(measurement_json(pid, evidence, files))

    async def get_history(self, request: web.Request) -> web.Response:
        component, limit = request.query.get("component"), _parse_limit(request.query.get("limit", "100"))
        try:
            found = await self._view.history(component, limit)
        except OSError as error:
            raise UnavailableError(
                "history_unavailable",
                f"the history cannot be read: {error.strerror or error}",
                remedy="check the folder `history` in the attestor's state_dir",
            ) from error
        if component is not None and not found.changes and self._view.approved().get(component) is None:
            raise DeniedError(
                "component_unknown", "no such component", remedy="`hopseal agents list` shows the components"
            )
        return _json({"component": component, "changes": list(found.changes), "unreadable": found.unreadable})

    async def post_decision(self, request: web.Request) -> web.Response:
        agent, verb = request.match_info["agent"], request.match_info["verb"]
        status = self._view.decide(agent, _DECISIONS[verb])
        _log.info("agent_status_decided", agent=agent, verb=verb, status=status)
        return _json({"agent": agent, "status": status})

    async def get_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._view.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def get_health(self, _request: web.Request) -> web.Response:
        problems = self._view.problems()
        return _json({"healthy": not problems, "problems": problems}, status=503 if problems else 200)

    async def get_readiness(self, _request: web.Request) -> web.Response:
        problems = self._view.problems()
        return _json({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def _collect(self, process: PinnedProcess, files: frozenset[tuple[str, ...]]) -> Evidence:
        try:
            async with asyncio.timeout(self._view.timeout_s):
                return await self._view.collector.collect(process, files)
        except TimeoutError as error:
            raise UnavailableError(
                "attestation_timeout", "the evidence could not be read in time", remedy="try again"
            ) from error


def measurement_json(pid: int, evidence: Evidence, files: tuple[str, ...]) -> dict[str, Any]:
    """What was measured, in the form that ``agents approve`` writes into a document.

    Raises:
        UnavailableError: something could not be measured; an approval must not leave it out silently.
    """
    process = _value(evidence.process)
    container = None if evidence.container is None else _value(evidence.container)
    posture = _value(evidence.posture)
    config = _value(evidence.config[files]) if files else None
    return {
        "pid": pid,
        "image": sorted(_value(container.image_digests)) if isinstance(container, ContainerFacts) else [],
        "exe": _value(process.exe_sha256),
        "exe_path": process.exe_path,
        "config": None if config is None else {"files": list(files), "digest": config.root},
        "posture": posture.level,
        "static_secrets": [
            {"rule": each.rule, "place": each.place}
            for part in (container, config)
            if part is not None
            for each in part.secrets
        ],
        "failed_controls": [
            {"control": each.control, "level": each.level, "detail": each.detail} for each in posture.failed
        ],
        "uid": process.uid,
        "gid": process.gids[0],
        "unit": _unit(process),
        "engine": evidence.engine,
    }


def _unit(process: ProcessFacts) -> str | None:
    return process.unit or process.cgroup or None


def _value(fact: Any) -> Any:
    if isinstance(fact, Unreadable):
        raise UnavailableError(fact.code, fact.detail, remedy=fact.remedy)
    return fact


def _parse_pid(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) == 0:
        raise InvalidError("request_invalid", "pid must be a positive number")
    return int(text)


def _parse_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= MAX_CHANGES:
        raise InvalidError("request_invalid", f"limit must be a number from 1 to {MAX_CHANGES}")
    return int(text)


def _parse_files(paths: list[str]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith("/") or len(path.encode()) > MAX_PATH_BYTES or "\0" in path:
            raise InvalidError("request_invalid", "files must be absolute paths")
    if len(paths) > MAX_FILES:
        raise InvalidError("request_invalid", f"at most {MAX_FILES} files")
    return tuple(sorted(set(paths), key=str.encode))


def _json(value: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=lambda data: json.dumps(data, default=str))


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"code": "request_invalid", "message": error.reason, "remedy": ""}, status=error.status)
    except HopsealError as error:
        return _json(
            {"code": error.code, "message": error.message, "detail": error.detail, "remedy": error.remedy},
            status=_status_of(error),
        )
    except Exception:  # noqa: BLE001 - the operator gets an answer and the log the rest
        _log.exception("admin_request_failed", path=request.path)
        return _json({"code": "attestor_failed", "message": "the attestor failed", "remedy": "see its log"}, status=500)


def _status_of(error: HopsealError) -> int:
    if isinstance(error, InvalidError):
        return 400
    if isinstance(error, DeniedError):
        return 404
    return 503 if isinstance(error, UnavailableError) else 500
