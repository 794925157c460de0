"""status, explain and agents suspend: what is printed, as JSON and for people, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fake_daemon import fake_daemon
from hopseal.cli.main import cli

COMPONENT = {
    "component": "crm/reasoner",
    "spiffe_id": "spiffe://example.org/agents/crm/reasoner",
    "role": "reasoning-engine",
    "state": "attested",
    "since": 1.0,
    "code": "attested",
    "message": "",
    "svid": "broker",
    "instances": [
        {
            "instance": "docker:abc",
            "pids": [11, 12],
            "state": "attested",
            "since": 1.0,
            "code": "attested",
            "message": "",
            "engine": "docker",
            "container_id": "abc",
            "measured_at": 2.0,
            "svid_expires_at": None,
        }
    ],
    "last_refusal": {"at": 1.0, "code": "uid_mismatch", "message": "x"},
}
ATTESTOR: dict[str, Any] = {
    "node": "node-1",
    "trust_domain": "example.org",
    "version": "0.1.0",
    "healthy": True,
    "problems": [],
    "documents": {"sha256": "ab" * 32, "loaded_at": 1, "problems": []},
    "upstream": {"kind": "embedded", "healthy": True, "since": 1.0, "detail": ""},
    "components": [COMPONENT],
    "unknown": [{"pid": 99, "exe": "/usr/bin/nc", "uid": 1000, "since": 1.0}],
}
BROKER: dict[str, Any] = {"healthy": True, "problems": [], "identities": []}
EXPLAINED: dict[str, Any] = {
    "component": "crm/reasoner",
    "state": "drifted",
    "since": 1.0,
    "code": "config_changed",
    "message": "the configuration changed",
    "layer": "evidence",
    "remedy": "restore the approved files",
    "pid": 11,
    "items": [
        {"item": "config", "approved": ["sha256:" + "a" * 64], "measured": ["sha256:" + "b" * 64], "holds": False,
         "code": "config_mismatch", "detail": ""},
        {"item": "uid", "approved": ["7"], "measured": ["7"], "holds": True, "code": "", "detail": ""},
    ],
}  # fmt: skip


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def node(folder: Path, attestor: dict[str, Any], broker: dict[str, Any], *arguments: str) -> Result:
    sockets = ["--attestor-socket", str(folder / "a.sock"), "--broker-socket", str(folder / "b.sock")]
    with (
        fake_daemon(folder / "a.sock", {"GET /v1/status": (200, attestor)}),
        fake_daemon(folder / "b.sock", {"GET /v1/status": (200, broker)}),
    ):
        return run("status", *sockets, *arguments)


def test_a_healthy_node_exits_0_and_shows_every_component(tmp_path: Path) -> None:
    result = node(tmp_path, ATTESTOR, BROKER)
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if line.startswith("crm/reasoner"))
    assert row.split()[1:3] == ["reasoning-engine", "attested"]
    assert "11,12" in row
    assert "uid_mismatch" in row
    assert any(line.split()[:3] == ["99", "1000", "/usr/bin/nc"] for line in result.output.splitlines())


@pytest.mark.parametrize(("svid", "is_shown"), [("broker", False), ("workload-api", True), ("both", True)])
def test_a_component_that_can_hold_its_own_key_is_marked(tmp_path: Path, svid: str, is_shown: bool) -> None:
    output = node(tmp_path, ATTESTOR | {"components": [COMPONENT | {"svid": svid}]}, BROKER).output
    assert ("own key" in output) is is_shown


@pytest.mark.parametrize(
    ("audit", "expected"),
    [
        ({"entries": 1, "published": 0, "published_at": None, "witnesses": []}, "1 entry, 0 published, no witnesses"),
        (
            {
                "entries": 7,
                "published": 5,
                "published_at": 1,
                "witnesses": [{"state": "cosigned"}, {"state": "refused"}],
            },
            "7 entries, 5 published",
        ),
    ],
)
def test_status_tells_how_far_the_log_is_published(tmp_path: Path, audit: dict[str, Any], expected: str) -> None:
    output = node(tmp_path, ATTESTOR, BROKER | {"audit": {"origin": "custody.example.org/n", **audit}}).output
    assert f"log custody.example.org/n: {expected}" in output
    assert ("1 of 2 witnesses cosign" in output) == bool(audit["witnesses"])


def test_status_tells_what_documents_open_without_custody(tmp_path: Path) -> None:
    opened = [
        {"component": "crm/front", "calls": ["api.example.com:443"], "tunnels": ["db.example.com:1"], "called_by": []},
        {"component": "crm/store", "calls": [], "tunnels": [], "called_by": ["spiffe://example.org/edge/*"]},
    ]
    output = node(tmp_path, ATTESTOR, BROKER | {"without_custody": opened}).output
    assert "without custody: crm/front calls api.example.com:443; has tunnels to db.example.com:1\n" in output
    assert "without custody: crm/store is called by spiffe://example.org/edge/*\n" in output


def test_status_as_json_has_both_daemons_answers(tmp_path: Path) -> None:
    shown = json.loads(node(tmp_path, ATTESTOR, BROKER, "--json").stdout)
    assert shown == {"healthy": True, "problems": [], "attestor": ATTESTOR, "broker": BROKER}


@pytest.mark.parametrize(
    ("attestor", "broker", "problem"),
    [
        ({"healthy": False, "problems": ["upstream away"]}, {}, "attestor: upstream away"),
        ({"healthy": False}, {}, "attestor: not healthy"),
        ({}, {"healthy": False, "problems": ["log full"]}, "broker: log full"),
        ({}, {"healthy": False}, "broker: not healthy"),
        (
            {"documents": {"sha256": None, "problems": [{"file": "a", "line": 3, "message": "m", "remedy": "r"}]}},
            {},
            "documents: a:3: m (r)",
        ),
    ],
)
def test_an_unhealthy_node_exits_1_and_says_why(
    tmp_path: Path, attestor: dict[str, Any], broker: dict[str, Any], problem: str
) -> None:
    result = node(tmp_path, ATTESTOR | attestor, BROKER | broker)
    assert result.exit_code == 1
    assert problem in result.output
    assert "unhealthy" in result.output


def test_a_mistake_in_the_documents_that_both_daemons_see_is_said_once(tmp_path: Path) -> None:
    mistake = {"file": "a", "line": 3, "message": "m", "remedy": "r"}
    attestor = ATTESTOR | {"documents": {"sha256": None, "problems": [mistake]}}
    broker = BROKER | {"problems": ["documents: a:3: m (r)", "log full"]}
    report = json.loads(node(tmp_path, attestor, broker, "--json").stdout)
    assert report["problems"] == ["documents: a:3: m (r)", "broker: log full"]


def test_a_broker_that_does_not_answer_is_a_problem_and_not_an_error(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/status": (200, ATTESTOR)}):
        result = run("status", "--attestor-socket", str(tmp_path / "a.sock"), "--broker-socket", str(tmp_path / "no"))
    assert result.exit_code == 1
    assert "no broker answers on" in result.output
    assert "crm/reasoner" in result.output


def test_an_attestor_that_does_not_answer_is_unavailable_with_what_to_do(tmp_path: Path) -> None:
    result = run("status", "--attestor-socket", str(tmp_path / "no.sock"))
    assert result.exit_code == 3
    assert "no attestor answers on" in result.stderr
    assert "hopseal attestor run" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("state", "code"), [("attested", 0), ("drifted", 1), ("unknown", 1)])
def test_explain_exits_0_only_for_what_is_attested(tmp_path: Path, state: str, code: int) -> None:
    answers = {"GET /v1/explain": (200, EXPLAINED | {"state": state})}
    with fake_daemon(tmp_path / "a.sock", answers) as daemon:
        result = run("explain", "crm/reasoner", "--attestor-socket", str(tmp_path / "a.sock"))
    assert result.exit_code == code
    assert daemon.asked == [("GET /v1/explain", {"component": ["crm/reasoner"]})]


def test_explain_shows_approved_against_measured_and_what_to_do(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (200, EXPLAINED)}):
        result = run("explain", "11", "--full", "--attestor-socket", str(tmp_path / "a.sock"))
    row = next(line for line in result.output.splitlines() if line.startswith("config "))
    assert row.split() == ["config", "no", "sha256:" + "a" * 64, "sha256:" + "b" * 64, "config_mismatch"]
    assert "decided by: evidence" in result.output
    assert "→ restore the approved files" in result.output


def test_explain_asks_by_pid_and_shows_every_alternative(tmp_path: Path) -> None:
    answer = EXPLAINED | {"alternatives": [EXPLAINED["items"], EXPLAINED["items"]]}
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (200, answer)}) as daemon:
        result = run("explain", "11", "--attestor-socket", str(tmp_path / "a.sock"))
    assert daemon.asked[0][1] == {"pid": ["11"]}
    assert "alternative 2 of 2" in result.output


def test_explain_says_what_a_process_that_is_none_was_compared_with(tmp_path: Path) -> None:
    answer = EXPLAINED | {"component": None, "state": "unknown", "since": None, "closest": "crm/reasoner"}
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (200, answer)}):
        lines = run("explain", "11", "--attestor-socket", str(tmp_path / "a.sock")).output.splitlines()
    assert lines[0] == "no component (pid 11) is unknown"
    assert "  compared with crm/reasoner, which it is closest to" in lines


def test_explaining_a_pid_that_nobody_has_is_bad_input(tmp_path: Path) -> None:
    gone = {"code": "peer_gone", "message": "the calling process has exited"}
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (404, gone)}):
        result = run("explain", "11", "--attestor-socket", str(tmp_path / "a.sock"))
    assert result.exit_code == 2
    assert "no such process runs here" in result.stderr


def test_explain_as_json_is_the_attestors_answer(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (200, EXPLAINED)}):
        result = run("explain", "crm/reasoner", "--json", "--attestor-socket", str(tmp_path / "a.sock"))
    assert json.loads(result.stdout) == EXPLAINED


@pytest.mark.parametrize("verb", ["suspend", "resume", "retire"])
def test_a_decision_is_sent_and_its_outcome_printed(tmp_path: Path, verb: str) -> None:
    answers = {f"POST /v1/agents/crm/{verb}": (200, {"agent": "crm", "status": "suspended"})}
    with fake_daemon(tmp_path / "a.sock", answers):
        plain = run("agents", verb, "crm", "--attestor-socket", str(tmp_path / "a.sock"))
        as_json = run("agents", verb, "crm", "--json", "--attestor-socket", str(tmp_path / "a.sock"))
    assert plain.output == "crm is suspended on this node\n"
    assert json.loads(as_json.stdout) == {"agent": "crm", "status": "suspended"}


@pytest.mark.parametrize(("status", "code"), [(400, 2), (403, 1), (404, 2), (409, 1), (500, 3), (503, 3)])
def test_a_refusal_of_the_daemon_keeps_its_words_and_gets_an_exit_code(tmp_path: Path, status: int, code: int) -> None:
    refusal = {"code": "some_code", "message": "this is why", "detail": "more", "remedy": "do that"}
    with fake_daemon(tmp_path / "a.sock", {"POST /v1/agents/crm/suspend": (status, refusal)}):
        result = run("agents", "suspend", "crm", "--attestor-socket", str(tmp_path / "a.sock"))
    assert result.exit_code == code
    for text in refusal.values():
        assert text in result.stderr


def test_an_answer_that_is_no_json_object_is_unavailable(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/explain": (200, ["no", "object"])}):
        result = run("explain", "1", "--attestor-socket", str(tmp_path / "a.sock"))
    assert result.exit_code == 3
    assert "attestor_answer_invalid" in result.stderr
