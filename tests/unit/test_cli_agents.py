"""hopseal agents and entries: documents listed, shown, checked, drafted and approved; entries out of documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from fake_daemon import fake_daemon
from hopseal.cli.document_draft import draft_attest
from hopseal.cli.main import cli
from hopseal.documents.load import load_documents
from hopseal.ids import TrustDomain

A, B = (f"sha256:{letter * 64}" for letter in "ab")
DOCUMENT = f"""\
# kept
apiVersion: hopseal.dev/v1alpha1
kind: Agent
metadata: {{name: crm}}
spec:
  version: "1.0"
  owner: someone@example.org
  components:
    - name: front
      role: orchestrator
      mayStart: true
      attest: {{uid: 7, exe: [{A}], config: {{files: [/etc/front], digest: [{A}]}}}}
      calls: [{{to: back, operations: [POST /x]}}]
    - {{name: back, role: connector, attest: {{uid: 8, exe: [{A}]}}, listen: "unix:///run/b.sock"}}
"""
MEASURED: dict[str, Any] = {
    "pid": 11,
    "image": [],
    "exe": B,
    "config": {"files": ["/etc/front"], "digest": B},
    "posture": "baseline",
    "failed_controls": [],
    "uid": 7,
    "gid": 7,
    "unit": "/user.slice/session-1.scope",
    "engine": "none",
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "crm.yaml").write_text(DOCUMENT)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)


def status(*instances: dict[str, Any]) -> dict[str, Any]:
    return {"components": [{"component": "crm/front", "instances": list(instances)}]}


def test_agents_are_listed_for_people_and_as_json(documents: Path) -> None:
    lines = run("agents", "list", "--documents", documents).output.splitlines()
    assert lines[1].split() == ["crm", "active", "1.0", "someone@example.org", "front", "back", "crm.yaml"]
    (shown,) = json.loads(run("agents", "list", "--documents", documents, "--json").stdout)
    assert shown["components"][0]["calls"] == [{"to": "crm/back", "operations": ["POST /x"], "custody": "full"}]
    assert shown["components"][1]["attest"] == [{"exe": [A], "uid": 8}]


def test_one_agent_is_shown_with_what_its_components_must_be(documents: Path) -> None:
    shown = run("agents", "show", "crm", "--documents", documents).output
    for text in (
        "owner: someone@example.org",
        "spiffe://example.org/agents/crm/front",
        "may call crm/back: POST /x",
        f"must be: exe {A}, uid 8",
    ):
        assert text in shown
    assert json.loads(run("agents", "show", "crm", "--documents", documents, "--json").stdout)["name"] == "crm"
    assert run("agents", "show", "nobody", "--documents", documents).exit_code == 2


def test_checking_valid_documents_exits_0(documents: Path) -> None:
    assert run("agents", "check", documents).output == "1 agent, 2 components: no mistakes\n"
    shown = json.loads(run("agents", "check", documents, "--json").stdout)
    assert (shown["valid"], shown["problems"]) == (True, [])
    assert len(shown["sha256"]) == 64


def test_checking_lists_every_mistake_with_file_line_and_remedy_and_exits_1(documents: Path) -> None:
    (documents / "crm.yaml").write_text(DOCUMENT.replace("owner", "ovner").replace("to: back", "to: bock"))
    plain = run("agents", "check", documents)
    assert plain.exit_code == 1
    assert f"{documents / 'crm.yaml'}:7: spec.ovner: unknown key" in plain.output
    assert "→ did you mean owner?" in plain.output
    shown = json.loads(run("agents", "check", documents, "--json").stdout)
    assert shown["valid"] is False
    assert {each["line"] for each in shown["problems"]} == {6, 7, 13}
    assert all(each.keys() == {"file", "line", "message", "remedy"} for each in shown["problems"])


def test_invalid_documents_are_bad_input_for_every_other_command(documents: Path) -> None:
    (documents / "crm.yaml").write_text("kind: [")
    result = run("agents", "list", "--documents", documents)
    assert result.exit_code == 2
    assert "crm.yaml:1: not YAML" in result.stderr
    assert run("agents", "list", "--documents", documents / "nowhere").exit_code == 3


def test_a_draft_describes_what_was_measured_and_is_a_valid_document(tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/measure": (200, MEASURED)}) as daemon:
        drafted = run(
            *("agents", "init", "crm", "--pid", "front=11", "--file", "front=/etc/front", "--owner", "me@example.org"),
            *("--attestor-socket", tmp_path / "a.sock"),
        )
    assert drafted.exit_code == 0
    assert daemon.asked == [("GET /v1/measure", {"pid": ["11"], "files": ["/etc/front"]})]
    attest = yaml.safe_load(drafted.stdout)["spec"]["components"][0]["attest"]
    assert attest == {
        "uid": 7,
        "exe": [B],
        "config": {"files": ["/etc/front"], "digest": [B]},
        "posture": "baseline",
    }
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "crm.yaml").write_text(drafted.stdout)
    assert load_documents(tmp_path / "agents", TrustDomain.parse("example.org")).agents[0].owner == "me@example.org"


@pytest.mark.parametrize(
    ("unit", "kept"), [("crm.service", {"unit": "crm.service"}), ("/user.slice/x.scope", {}), (None, {})]
)
def test_a_draft_keeps_a_units_name_only_if_it_outlives_the_process(unit: str | None, kept: dict[str, str]) -> None:
    block = draft_attest(MEASURED | {"unit": unit, "config": None, "posture": None})
    assert block == {"uid": 7, "exe": [B], **kept}


def test_a_draft_of_a_container_names_its_image_and_not_its_user() -> None:
    assert draft_attest(MEASURED | {"image": [A, B]}) == {"image": [A], "posture": "baseline"}


@pytest.mark.parametrize(
    "arguments",
    [("--pid", "x"), ("--pid", "Front=1"), ("--pid", "1", "--pid", "2"), ("--pid", "a=1", "--file", "b=/x"), ()],
)
def test_a_draft_of_nothing_that_can_be_named_is_bad_input(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with fake_daemon(tmp_path / "a.sock", {"GET /v1/measure": (200, MEASURED)}):
        assert run("agents", "init", "crm", *arguments, "--attestor-socket", tmp_path / "a.sock").exit_code == 2


def approve(documents: Path, folder: Path, state: dict[str, Any], *arguments: str) -> tuple[Result, list[Any]]:
    answers = {"GET /v1/status": (200, state), "GET /v1/measure": (200, MEASURED)}
    with fake_daemon(folder / "a.sock", answers) as daemon:
        result = run(
            "agents", "approve", "crm", "--documents", documents, "--attestor-socket", folder / "a.sock", *arguments
        )
    return result, daemon.asked


def test_approving_writes_what_runs_into_the_document_and_keeps_the_rest(documents: Path, tmp_path: Path) -> None:
    running = {"instance": "i", "pids": [11, 12], "state": "drifted"}
    result, asked = approve(documents, tmp_path, status(running), "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert {(each["component"], each["item"]) for each in shown["changes"]} == {("front", "exe"), ("front", "config")}
    assert shown["written"] is True
    assert shown["absent"] == ["back"]
    assert asked[1] == ("GET /v1/measure", {"pid": ["11"], "files": ["/etc/front"]})
    text = (documents / "crm.yaml").read_text()
    assert text.startswith("# kept\n")
    assert text.count(B) == 2
    again, _ = approve(documents, tmp_path, status(running))
    assert "nothing to change" in again.output


def test_a_dry_run_writes_nothing(documents: Path, tmp_path: Path) -> None:
    result, _ = approve(documents, tmp_path, status({"instance": "i", "pids": [11], "state": "attested"}), "--dry-run")
    assert "not written (--dry-run)" in result.output
    assert (documents / "crm.yaml").read_text() == DOCUMENT


def test_a_process_can_be_named_that_the_attestor_does_not_know_yet(documents: Path, tmp_path: Path) -> None:
    result, _ = approve(documents, tmp_path, status(), "--pid", "front=99")
    assert result.exit_code == 0
    assert (documents / "crm.yaml").read_text().count(B) == 2


def test_approving_what_does_not_run_is_refused(documents: Path, tmp_path: Path) -> None:
    result, _ = approve(documents, tmp_path, status({"instance": "i", "pids": [11], "state": "gone"}))
    assert result.exit_code == 1
    assert "nothing_runs" in result.stderr


@pytest.mark.parametrize("arguments", [("--pid", "nobody=1"), ("--pid", "front=x"), ("--add", "--prune")])
def test_approving_something_unnamed_is_bad_input(documents: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert approve(documents, tmp_path, status(), *arguments)[0].exit_code == 2


def test_bootstrap_prints_the_daemons_own_entries() -> None:
    result = run(
        *("entries", "bootstrap", "--node", "n1", "--parent", "spiffe://example.org/node", "--broker-uid", 990),
        *("--broker-unit", "hopseal-broker.service", "--json"),
    )
    shown = json.loads(result.stdout)
    assert (shown["update"], shown["delete"], shown["outcomes"]) == ([], [], [])
    created = shown["create"]
    assert {each["spiffe_id"] for each in created} == {
        "spiffe://example.org/hopseal/attestor/n1",
        "spiffe://example.org/hopseal/broker/n1",
    }
    selectors = {selector for each in created for selector in each["selectors"]}
    assert selectors == {"unix:uid:0", "hopseal:uid:990", "hopseal:unit:hopseal-broker.service"}


@pytest.mark.parametrize("verb", ["diff", "sync"])
def test_a_spire_server_that_does_not_answer_is_unavailable(documents: Path, tmp_path: Path, verb: str) -> None:
    result = run(
        *("entries", verb, "--documents", documents, "--parent", "spiffe://example.org/node"),
        *("--server-socket", tmp_path / "none.sock"),
    )
    assert result.exit_code == 3
    assert "--server-socket" in result.stderr


def test_what_would_be_bootstrapped_is_only_shown_until_told_to_apply() -> None:
    result = run("entries", "bootstrap", "--node", "n1", "--parent", "spiffe://example.org/node")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "nothing was changed: --apply does it"


@pytest.mark.parametrize("parent", ["spiffe://elsewhere.org/node", "nonsense"])
def test_a_parent_outside_the_trust_domain_is_bad_input(documents: Path, parent: str) -> None:
    result = run("entries", "diff", "--documents", documents, "--parent", parent)
    assert result.exit_code == 2
    assert "→" in result.stderr
