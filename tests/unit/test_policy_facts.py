"""What policies can ask of documents, labels and evidence, and how operators' questions and cases are read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from broker.attestor_admin import read_evidence
from broker.policy.facts import document_entities, encode_facts, tool_risks
from broker.policy.labels import Label, parse_labels
from broker.policy.question import Asked, build_question
from broker.policy.sets import document_sets, encode_sets
from broker_parts import agent, calls, component, documents
from hopseal.documents.model import (
    AgentStatus,
    AttestBlock,
    Capability,
    DataAccess,
    DocumentSet,
    Risk,
    Sensitivity,
    Tool,
)
from hopseal.errors import InvalidError
from hopseal.selectors import Posture
from hopseal.settings import SettingsInvalidError

STORE = "spiffe://example.org/agents/crm/store"


def attributes(given: DocumentSet, kind: str, name: str) -> dict:
    found = {(each["uid"]["type"], each["uid"]["id"]): each["attrs"] for each in document_entities(given)}
    return found[f"Hopseal::{kind}", name]


def of_store(*blocks: AttestBlock, **fields) -> dict:
    store = replace(component("store"), attest=blocks)
    given = DocumentSet(documents(store).trust_domain, (replace(agent(store), **fields),), "0" * 64)
    return attributes(given, "Component", STORE)


def test_a_component_is_in_its_agent_and_the_agent_in_its_trust_domain():
    parents = {
        each["uid"]["id"]: [parent["id"] for parent in each["parents"]]
        for each in document_entities(documents(component("store")))
    }
    assert parents == {"example.org": [], "crm": ["example.org"], STORE: ["crm"]}


def test_a_component_has_what_its_document_says():
    found = of_store(AttestBlock(uid=7))
    assert found == {
        "documented": True,
        "trust_domain": "example.org",
        "agent": "crm",
        "name": "store",
        "role": "connector",
        "owner": "me@example.org",
        "team": "team-a",
    }


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((Posture.RESTRICTED,), ("restricted", 2)),
        ((Posture.RESTRICTED, Posture.BASELINE), ("baseline", 1)),
        ((Posture.PRIVILEGED,), ("privileged", 0)),
        ((Posture.RESTRICTED, None), (None, None)),
        ((None,), (None, None)),
    ],
)
def test_posture_is_the_least_that_every_alternative_asks_for(levels, expected):
    found = of_store(*(AttestBlock(uid=7, posture=level) for level in levels))
    assert (found.get("posture"), found.get("posture_level")) == expected


def test_images_are_those_approved_and_absent_if_an_alternative_has_none():
    first, second = AttestBlock(image=("sha256:b",)), AttestBlock(image=("sha256:a",))
    assert of_store(first, second)["images"] == ["sha256:a", "sha256:b"]
    assert "images" not in of_store(first, AttestBlock(uid=7))


def test_sensitivity_is_that_of_the_agents_most_sensitive_data():
    access = tuple(DataAccess(level.value, level) for level in (Sensitivity.INTERNAL, Sensitivity.CONFIDENTIAL))
    found = of_store(AttestBlock(uid=7), data_access=access)
    assert (found["sensitivity"], found["sensitivity_level"]) == ("confidential", 2)


def test_a_tools_own_risk_wins_over_the_capability_of_its_name():
    store = replace(component("store"), tools=(Tool("crm.lookup", Risk.LOW), Tool("crm.update", Risk.HIGH)))
    owner = replace(agent(store), capabilities=(Capability("crm.lookup", Risk.CRITICAL), Capability("x", Risk.MEDIUM)))
    assert tool_risks(owner, store) == {"crm.lookup": "low", "crm.update": "high", "x": "medium"}


def test_facts_hold_labels_and_evidence_as_they_are():
    found = json.loads(
        encode_facts(
            documents(component("store")),
            locations=[Label("*", "eu")],
            threats=[Label(STORE, "high")],
            evidence={STORE: {"measured_at": 5}},
        )
    )
    assert found["locations"] == [{"pattern": "*", "label": "eu"}]
    assert found["threats"] == [{"pattern": STORE, "label": "high"}]
    assert found["evidence"] == {STORE: {"measured_at": 5}}


def test_what_suspends_an_agent_is_a_set_of_its_own_that_nobody_observes():
    given = documents(component("front", calls=(calls("store"),)), component("store"), status=AgentStatus.SUSPENDED)
    rules, status = document_sets(given)
    assert (rules.pieces, len(status.pieces)) == ((), 1)
    for observe in (("documents",), ("documents", "status")):
        encoded = json.loads(encode_sets((rules, status), observe))
        assert [(each["name"], each["observe"]) for each in encoded] == [("documents", True), ("status", False)]


def test_each_agent_is_a_piece_of_its_own():
    given = documents(component("front", calls=(calls("a/b"),)), component("b", agent="a", calls=(calls("crm/front"),)))
    rules, _ = document_sets(given)
    assert len(rules.pieces) == 2


GOOD_LABELS = b"""\
spiffe://example.org/agents/crm/*: eu-west
"*": unknown
api.example.com:443: us/east-1
"*.example.org:443": eu
"""


def test_labels_are_read_by_pattern():
    found = {each.pattern: each.label for each in parse_labels("l.yaml", GOOD_LABELS)}
    assert found == {
        "spiffe://example.org/agents/crm/*": "eu-west",
        "*": "unknown",
        "api.example.com:443": "us/east-1",
        "*.example.org:443": "eu",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"*a*": x', "is no pattern"),
        ('"a*b": x', "is no pattern"),
        ('"a b": x', "is no pattern"),
        ('"é": x', "is no pattern"),
        ("a: ' '", "is no label"),
        ('a: "x\\ny"', "is no label"),
        ("a: 7", "must be text"),
        ("a: x\na: y", "twice"),
        ("- a", "mapping"),
        ("a: " + "x" * 129, "is no label"),
    ],
)
def test_mistakes_in_labels_are_named(text, says):
    with pytest.raises(SettingsInvalidError) as caught:
        parse_labels("l.yaml", text.encode())
    assert any(says in str(mistake) for mistake in caught.value.mistakes), caught.value.mistakes


def test_a_question_is_asked_in_the_words_of_documents():
    given = documents(component("front"), component("store"))
    found = build_question(Asked("crm/front", "crm/store", "POST /items", at="1970-01-01T00:00:02Z"), given)
    assert found["resource"] == {"component": STORE}
    assert (found["caller_documented"], found["method"], found["path"], found["at_ms"]) == (
        True,
        "POST",
        "/items",
        2000,
    )
    tool = build_question(Asked("spiffe://partner.org/x", "api.example.com:443", "tools/call a.b", "callee"), given)
    assert tool["resource"] == {"external": {"host": "api.example.com", "port": 443}}
    assert (tool["caller_documented"], tool["protocol"], tool["operation"], tool["target"]) == (
        False,
        "mcp",
        "tools/call a.b",
        "a.b",
    )
    assert build_question(Asked("crm/front", "crm/store", "message/send"), given)["protocol"] == "a2a"
    assert build_question(Asked("crm/front", "crm/store", "GET /", given={"hop": 3}), given)["hop"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"caller": "crm/ghost"}, "crm/ghost"),
        ({"callee": "store"}, "store"),
        ({"callee": "spiffe://x/.."}, "callee"),
        ({"operation": "GET items"}, "operation"),
        ({"operation": ""}, "operation"),
        ({"operation": "a\nb"}, "operation"),
        ({"at": "yesterday"}, "moment"),
        ({"side": "both"}, "side"),
    ],
)
def test_a_question_that_means_nothing_is_refused(change, says):
    asked = replace(Asked("crm/front", "crm/store", "GET /"), **change)
    with pytest.raises(InvalidError, match="question_invalid") as caught:
        build_question(asked, documents(component("front"), component("store")))
    assert says in caught.value.message


def instance(state: str = "attested", measured_at: float | None = 5.5, posture: str | None = "baseline") -> dict:
    return {"state": state, "measured_at": measured_at, "posture": posture}


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        ([instance()], {"measured_at": 5, "posture": "baseline"}),
        ([instance(), instance(measured_at=3, posture="restricted")], {"measured_at": 3, "posture": "baseline"}),
        ([instance(), instance(posture=None)], {"measured_at": 5}),
        ([instance(), instance("drifted", 1, "privileged")], {"measured_at": 5, "posture": "baseline"}),
        ([instance("drifted")], None),
        ([instance(measured_at=None)], None),
        ([], None),
    ],
)
def test_evidence_is_the_oldest_and_least_of_a_components_attested_processes(instances, expected):
    found = read_evidence([{"spiffe_id": STORE, "instances": instances}])
    assert found.get(STORE) == expected


def test_evidence_of_an_unknown_posture_is_refused():
    with pytest.raises(ValueError, match="best"):
        read_evidence([{"spiffe_id": STORE, "instances": [instance(posture="best")]}])
