"""``hopseal policy``: check, explain and test over folders, as an operator meets them before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.policy.commands import policy_group
from broker.policy.engine import schema_text
from broker_parts import DOCUMENT
from hopseal.cli.lazy import LazyGroup
from unix_answers import Answers

ROOT = Path(__file__).parents[2]
NO_ITEMS = '@id("no items") forbid(principal, action, resource) when { context.path == "/items" };'
RAIL = '@id("short") @guardrail("chains") permit(principal, action, resource) when { context.hop < 3 };'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("agents", "policies", "admin"):
        (tmp_path / name).mkdir()
    (tmp_path / "agents" / "crm.yaml").write_text(DOCUMENT.replace("LISTEN", "/run/store.sock"))
    return tmp_path


def run(*arguments: str | Path) -> Result:
    group = LazyGroup(name="hopseal")
    group.add_command(policy_group)
    return CliRunner().invoke(group, ["policy", *map(str, arguments)])


def sources(folder: Path) -> list[str]:
    given = ("documents", "agents"), ("folder", "policies"), ("admin-folder", "admin")
    return [part for option, name in given for part in (f"--{option}", str(folder / name))]


def asked(operation: str = "POST /items", **more: str) -> list[str]:
    given = {"caller": "crm/front", "callee": "crm/store", "operation": operation, **more}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_the_schema_is_the_published_one() -> None:
    published = (ROOT / "docs" / "hopseal.cedarschema").read_text()
    assert run("schema").output == published == schema_text()
    assert published == (ROOT / "broker/dataplane/src/policy/hopseal.cedarschema").read_text()


def test_good_policies_are_listed_by_set(folder: Path) -> None:
    (folder / "policies" / "a.cedar").write_text(NO_ITEMS)
    (folder / "admin" / "b.cedar").write_text(RAIL)
    result = run("check", *sources(folder), "--observe", "a.cedar", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "policies": 4,
        "sets": [
            {"set": "documents", "layer": "documents", "mode": "enforce"},
            {"set": "status", "layer": "documents", "mode": "enforce"},
            {"set": "a.cedar", "layer": "operator", "mode": "observe"},
            {"set": "admin/b.cedar", "layer": "admin", "mode": "enforce"},
        ],
    }
    assert "4 policy rules, no mistakes" in run("check", *sources(folder)).output


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("policies/a.cedar", "permit(principal,\n action", "a.cedar: line 2"),
        ("policies/a.cedar", "forbid(principal, action, resource) when { context.nope };", "attribute `nope`"),
        ("admin/a.cedar", "permit(principal, action, resource);", "admin/a.cedar: admin/a.cedar#1: a permit"),
        ("agents/b.yaml", "kind: Nothing", "mistake"),
    ],
)
def test_mistakes_are_named_and_the_answer_is_bad_input(folder: Path, name: str, text: str, says: str) -> None:
    (folder / name).write_text(text)
    result = run("check", *sources(folder))
    assert result.exit_code == 2
    assert says in result.stderr


def test_observing_what_does_not_exist_is_a_mistake(folder: Path) -> None:
    result = run("check", *sources(folder), "--observe", "typo.cedar")
    assert (result.exit_code, "typo.cedar" in result.stderr) == (2, True)


def test_without_any_policies_the_next_step_is_named() -> None:
    result = run("check")
    assert (result.exit_code, "--documents" in result.stderr) == (2, True)


def test_an_explanation_names_the_rule_that_permits(folder: Path) -> None:
    result = run("explain", *asked(), *sources(folder))
    assert result.exit_code == 0
    assert "allowed: permitted by" in result.output
    assert "crm/front calls crm/store" in result.output


def test_an_explanation_names_the_rule_that_forbids_and_exits_with_no(folder: Path) -> None:
    (folder / "policies" / "a.cedar").write_text(NO_ITEMS)
    result = run("explain", *asked(), *sources(folder), "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["allowed"], found["rules"][0]["rule"], found["rules"][0]["set"]) == (False, "no items", "a.cedar")


def test_an_explanation_tells_what_an_observed_set_would_do(folder: Path) -> None:
    (folder / "policies" / "a.cedar").write_text(NO_ITEMS)
    result = run("explain", *asked(), *sources(folder), "--observe", "a.cedar")
    assert result.exit_code == 0
    assert "would be denied by a.cedar" in result.output


def test_more_of_a_call_is_given_as_json(folder: Path) -> None:
    (folder / "admin" / "b.cedar").write_text(RAIL)
    assert run("explain", *asked(given='{"hop": 2}'), *sources(folder)).exit_code == 0
    denied = run("explain", *asked(given='{"hop": 3}'), *sources(folder))
    assert (denied.exit_code, 'the guard rail "chains" does not hold' in denied.output) == (1, True)
    assert run("explain", *asked(given="{"), *sources(folder)).exit_code == 2
    assert "question_invalid" in run("explain", *asked(given='{"hopp": 3}'), *sources(folder)).stderr


def test_an_incomplete_question_names_what_is_missing(folder: Path) -> None:
    result = run("explain", "--caller", "crm/front", *sources(folder))
    assert (result.exit_code, "--callee, --operation" in result.stderr) == (2, True)


def test_a_running_broker_is_asked_where_no_policies_are_named(tmp_path: Path) -> None:
    told = {"allowed": True, "detail": "permitted", "rules": [], "would_deny": [], "reads": [], "considered": 1}
    with Answers(tmp_path / "admin.sock", {"/v1/policies/explain": told}) as broker:
        result = run("explain", *asked(), "--broker-socket", broker.path)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "allowed: permitted")
    assert json.loads(broker.queries[0]["asked"][0])["operation"] == "POST /items"


PAST = {
    "decision": "a.1",
    "allowed": False,
    "policy": ["no items"],
    "detail": "forbidden by \x1b[31m",
    "would_deny": [],
    "question": {"caller": "spiffe://x/y", "operation": "GET /"},
    "now": None,
}


def test_a_decision_is_looked_up_at_the_running_broker(tmp_path: Path) -> None:
    with Answers(tmp_path / "admin.sock", {"/v1/decisions/a.1": PAST}) as broker:
        result = run("explain", "a.1", "--broker-socket", broker.path)
    assert result.exit_code == 1
    assert "decision a.1: denied by no items" in result.output
    assert "\x1b" not in result.output


def test_a_decision_is_found_in_a_log_and_judged_by_policies_of_today(folder: Path) -> None:
    explained = json.loads(run("explain", *asked(), *sources(folder), "--json").output)
    lines = ["no JSON", json.dumps({"event": "call", "decision": "b.2"}), '["a.1"]']
    line = {
        "event": "call",
        "decision": "a.1",
        "code": "policy_denied",
        "policy": ["old"],
        "question": explained["question"],
    }
    log = folder / "broker.log"
    log.write_text("\n".join([*lines, json.dumps(line), ""]))
    result = run("explain", "a.1", "--log", log, *sources(folder), "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["allowed"], found["policy"], found["now"]["allowed"]) == (1, False, ["old"], True)


def test_a_log_that_cannot_be_read_is_unavailable(folder: Path) -> None:
    assert run("explain", "a.1", "--log", folder / "none.log").exit_code == 3


CASES = """\
policies: {documents: agents, folder: policies, admin_folder: admin, observe: [a.cedar]}
cases:
  - {caller: crm/front, callee: crm/store, operation: POST /items, expect: would-deny, rule: no items}
  - {name: others, caller: crm/front, callee: crm/store, operation: GET /, expect: deny}
  - name: far
    caller: crm/front
    callee: crm/store
    operation: POST /items
    hop: 5
    task: T
    chain: [spiffe://example.org/agents/crm/front]
    approvals: [A]
    approved_by: [lead]
    user: {issuer: i, subject: s}
    recorded: false
    evidence_age_s: 5
    side: callee
    at: "2026-11-28T10:00:00Z"
    expect: deny
    rule: short
"""


def test_cases_are_judged_with_the_policies_that_their_file_names(folder: Path) -> None:
    (folder / "policies" / "a.cedar").write_text(NO_ITEMS)
    (folder / "admin" / "b.cedar").write_text(RAIL)
    (folder / "cases.yaml").write_text(CASES)
    result = run("test", folder / "cases.yaml")
    assert result.exit_code == 0, result.output
    assert "3 cases, 0 failed" in result.output


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("expect: would-deny", "expect: allow", "expected allow, got would-deny"),
        ("rule: short", "rule: long", "expected the rule 'long', got 'short'"),
        ("expect: deny}", "expect: allow}", "expected allow, got deny: no rule permits it"),
    ],
)
def test_a_case_that_does_not_hold_fails_the_test(folder: Path, before: str, after: str, says: str) -> None:
    (folder / "policies" / "a.cedar").write_text(NO_ITEMS)
    (folder / "admin" / "b.cedar").write_text(RAIL)
    (folder / "cases.yaml").write_text(CASES.replace(before, after))
    result = run("test", folder / "cases.yaml", "--json")
    found = json.loads(result.output)
    assert (result.exit_code, found["failed"]) == (1, 1)
    assert says in next(each["problem"] for each in found["cases"] if each["problem"])


@pytest.mark.parametrize(
    "text",
    ["cases: []", "cases: [{caller: a/b}]", CASES.replace("expect: deny", "expect: no"), CASES + "more: 1\n", "[]"],
)
def test_mistakes_in_a_file_of_cases_are_bad_input(folder: Path, text: str) -> None:
    (folder / "cases.yaml").write_text(text)
    assert run("test", folder / "cases.yaml", *sources(folder)).exit_code == 2
