"""hopseal call: what is sent to the broker, what is printed, and what a refusal tells the person to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner, Result

from fake_daemon import FakeDaemon, fake_daemon
from hopseal.cli.main import cli
from hopseal.documents.parse import parse_documents
from hopseal.ids import TrustDomain


def answer(status: int = 200, body: str = "hello", **headers: str) -> tuple[int, Any]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, lambda: web.Response(status=status, text=body, headers=fields)


def refusal(code: str, status: int = 403, **more: object) -> tuple[int, Any]:
    body = json.dumps({"type": "x", "title": "x", "status": status, "code": code, **more})
    return status, lambda: web.Response(status=status, body=body, content_type="application/problem+json")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(tmp_path / "out.sock", {}) as daemon:
        yield daemon


def call(daemon: FakeDaemon, *arguments: str, stdin: str | None = None) -> Result:
    command = ["call", *arguments, "--out-socket", str(daemon.socket)]
    return CliRunner().invoke(cli, command, input=stdin, catch_exceptions=False)


def test_the_body_goes_to_standard_output_and_the_tasks_handle_to_standard_error(broker: FakeDaemon) -> None:
    broker.answers["GET /x"] = answer(Custody_Handle="H1")
    result = call(broker, "http://reasoner.crm/x?q=1")
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        "hello\n",
        "handle: H1  (--task H1 continues this task)\n",
    )
    assert broker.asked == [("GET /x", {"q": ["1"]})]
    assert broker.headers[0]["host"] == "reasoner.crm"
    assert "custody-handle" not in broker.headers[0]


def test_data_makes_it_a_post_of_json_and_options_override_both(broker: FakeDaemon) -> None:
    broker.answers |= {"POST /x": answer(), "PUT /x": answer()}
    call(broker, "http://a.b/x", "-d", '{"a": 1}')
    call(broker, "http://a.b/x", "-d", "plain", "-X", "PUT", "-H", "Content-Type: text/plain", "-H", "X-Y:  z ")
    assert broker.bodies == [b'{"a": 1}', b"plain"]
    assert broker.headers[0]["content-type"] == "application/json"
    assert broker.headers[1]["content-type"] == "text/plain"
    assert broker.headers[1]["x-y"] == "z"


def test_data_comes_from_a_file_or_standard_input(broker: FakeDaemon, tmp_path: Path) -> None:
    broker.answers["POST /"] = answer()
    (tmp_path / "body").write_bytes(b"from a file")
    call(broker, "http://a.b", "-d", f"@{tmp_path / 'body'}")
    call(broker, "http://a.b", "-d", "@-", stdin="from standard input")
    assert broker.bodies == [b"from a file", b"from standard input"]


def test_a_task_is_continued_with_its_handle(broker: FakeDaemon) -> None:
    broker.answers["GET /"] = answer()
    call(broker, "http://a.b/", "--task", "H7")
    assert broker.headers[0]["custody-handle"] == "H7"


def test_json_has_status_headers_body_and_task(broker: FakeDaemon) -> None:
    broker.answers["GET /"] = answer(Custody_Handle="H1", X_Own="1")
    shown = json.loads(call(broker, "http://a.b/", "--json").stdout)
    assert (shown["status"], shown["body"], shown["handle"], shown["headers"]["x-own"]) == (200, "hello", "H1", "1")


def test_headers_are_shown_on_request(broker: FakeDaemon) -> None:
    broker.answers["GET /"] = answer(X_Own="1")
    lines = call(broker, "http://a.b/", "-i").stdout.splitlines()
    assert lines[0] == "200 OK"
    assert "x-own: 1" in lines


def test_a_components_own_error_exits_1_without_advice(broker: FakeDaemon) -> None:
    broker.answers["GET /"] = answer(500, "sorry")
    result = call(broker, "http://a.b/")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "sorry\n", "")


@pytest.mark.parametrize(("status", "exit_code"), [(403, 1), (404, 1), (502, 1), (503, 3)])
def test_a_refusal_exits_1_and_an_unavailable_broker_3(broker: FakeDaemon, status: int, exit_code: int) -> None:
    broker.answers["GET /"] = refusal("callee_unavailable", status)
    result = call(broker, "http://a.b/")
    assert result.exit_code == exit_code
    assert "hopseal explain" in result.stderr


def test_a_caller_without_identity_is_told_the_document_that_would_give_it_one(broker: FakeDaemon) -> None:
    broker.answers["POST /v1/items"] = refusal("identity_none")
    result = call(broker, "http://crm-connector.crm/v1/items", "-d", "{}")
    draft = yaml.safe_load("\n".join(line for line in result.stderr.splitlines() if not line.lstrip().startswith("→")))
    assert draft[0]["attest"]["uid"] == os.geteuid()
    document = {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "mine"},
        "spec": {"owner": "me", "components": draft},
    }
    other = {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "crm"},
        "spec": {
            "owner": "me",
            "components": [
                {"name": "crm-connector", "role": "connector", "attest": {"uid": 61999, "unsafeUidOnly": True}}
            ],
        },
    }
    files = {name: yaml.safe_dump(each).encode() for name, each in (("a.yaml", document), ("b.yaml", other))}
    calls = parse_documents(files, TrustDomain.parse("example.org")).component("mine/shell")
    assert calls is not None
    assert calls.calls[0].operations == ("POST /v1/items",)
    assert calls.may_start


@pytest.mark.parametrize(
    "url", ["https://a.b/", "a.b/", "http:///x", "http://", "http://[::1/", "http://u@a.b/", "http://a.b/é", "unix:/x"]
)
def test_a_url_that_names_no_component_is_bad_input(broker: FakeDaemon, url: str) -> None:
    result = call(broker, url)
    assert result.exit_code == 2
    assert "http://COMPONENT.AGENT/path" in result.stderr
    assert broker.asked == []


@pytest.mark.parametrize(
    "arguments", [("-H", "novalue"), ("-H", ": x"), ("-d", "@/nowhere"), ("-X", "G T"), ("-H", "a: b\nc: d")]
)
def test_what_is_no_request_is_bad_input(broker: FakeDaemon, arguments: tuple[str, ...]) -> None:
    assert call(broker, "http://a.b/", *arguments).exit_code == 2
    assert broker.asked == []


def test_a_target_with_a_line_break_is_never_sent(broker: FakeDaemon) -> None:
    assert call(broker, "http://a.b/x y").exit_code == 2
    assert broker.asked == []


def test_no_broker_is_unavailable_with_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["call", "http://a.b/", "--out-socket", str(tmp_path / "none")])
    assert result.exit_code == 3
    assert "hopseal broker run" in result.stderr


@pytest.mark.parametrize(
    ("code", "where"), [("policy_denied", "this node"), ("custody_forbidden", "the callee's node")]
)
def test_a_refusal_by_policy_names_the_decision_to_explain(broker: FakeDaemon, code: str, where: str) -> None:
    broker.answers["GET /x"] = refusal(code, decision="q8ZrP2mK1x.3f")
    assert f"`hopseal policy explain q8ZrP2mK1x.3f` on {where}" in call(broker, "http://a.b/x").stderr


@pytest.mark.parametrize("decision", ["x`; rm -rf /", "\x1b[31m", "", 7, "x" * 65])
def test_a_decision_that_is_none_is_not_printed_as_a_command(broker: FakeDaemon, decision: object) -> None:
    broker.answers["GET /x"] = refusal("policy_denied", decision=decision)
    assert "policy explain" not in call(broker, "http://a.b/x").stderr
