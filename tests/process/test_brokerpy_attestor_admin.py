"""What the broker reads on the attestor's admin socket."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from broker.attestor_admin import DIFFERENT_S, AttestorAdmin
from hopseal.errors import UnavailableError

OWN = "a" * 64


@pytest.fixture
async def attestor(tmp_path):
    answers: dict[str, web.Response] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        found = answers.get(request.path)
        if found == "hang":
            await asyncio.sleep(60)
        return web.Response(status=503) if found is None else web.Response(**found)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "admin.sock")).start()
    yield answers, AttestorAdmin(tmp_path / "admin.sock")
    await runner.cleanup()


def documents(digest: str | None, *problems: str) -> dict:
    return {"text": json.dumps({"documents": {"sha256": digest}, "problems": list(problems)})}


async def test_metrics_are_passed_on_as_they_are(attestor):
    answers, admin = attestor
    answers["/metrics"] = {"body": b"hopseal_attestor_components 3\n"}
    assert await admin.fetch_metrics() == b"hopseal_attestor_components 3\n"


async def test_equal_documents_are_no_problem(attestor):
    answers, admin = attestor
    answers["/v1/status"] = documents(OWN)
    await admin.poll()
    assert admin.problems(OWN) == []


async def test_what_is_wrong_at_the_attestor_is_wrong_with_the_node(attestor):
    answers, admin = attestor
    answers["/v1/status"] = documents(OWN, "upstream spire-delegated: gone")
    await admin.poll()
    assert admin.problems(OWN) == ["attestor: upstream spire-delegated: gone"]
    answers["/v1/status"] = documents(OWN)
    await admin.poll()
    assert admin.problems(OWN) == []


async def test_documents_that_differ_for_long_are_a_problem(attestor, monkeypatch):
    answers, admin = attestor
    answers["/v1/status"] = documents("b" * 64)
    await admin.poll()
    now = [1000.0]
    monkeypatch.setattr("broker.attestor_admin.time.monotonic", lambda: now[0])
    assert admin.problems(OWN) == []
    now[0] += DIFFERENT_S
    assert admin.problems(OWN) == []
    now[0] += 0.1
    assert "other documents" in admin.problems(OWN)[0]
    assert admin.problems("b" * 64) == []
    assert admin.problems(OWN) == []


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"documents": 7}'])
async def test_a_status_that_cannot_be_read_is_a_problem(attestor, text):
    answers, admin = attestor
    answers["/v1/status"] = {"text": text}
    await admin.poll()
    assert "cannot be read" in admin.problems(OWN)[0]


async def test_an_attestor_without_documents_is_no_difference(attestor):
    answers, admin = attestor
    answers["/v1/status"] = documents(None)
    await admin.poll()
    assert admin.problems(OWN) == []


async def test_an_error_or_a_hang_is_unavailable(attestor, monkeypatch):
    monkeypatch.setattr("broker.attestor_admin._ANSWER_S", 0.2)
    answers, admin = attestor
    with pytest.raises(UnavailableError, match="HTTP 503"):
        await admin.fetch_metrics()
    answers["/metrics"] = "hang"
    with pytest.raises(UnavailableError):
        await admin.fetch_metrics()


async def test_an_endless_answer_is_cut(attestor, monkeypatch):
    monkeypatch.setattr("broker.attestor_admin._MAX_BYTES", 100)
    answers, admin = attestor
    answers["/metrics"] = {"body": b"x" * 101}
    with pytest.raises(UnavailableError, match="more than 100 bytes"):
        await admin.fetch_metrics()
    answers["/metrics"] = {"body": b"x" * 100}
    assert len(await admin.fetch_metrics()) == 100


async def test_an_absent_socket_is_a_problem(tmp_path):
    admin = AttestorAdmin(tmp_path / "none.sock")
    await admin.poll()
    assert "does not answer" in admin.problems(OWN)[0]
