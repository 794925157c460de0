"""Each item of ``attest``, on each side; claims; several components; unreadable evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestor.approved import broker_approval, build_approved
from attestor.facts import ConfigFacts, PostureFacts, Unreadable
from attestor.items import Outcome, measure_items
from attestor.matching import build_matches, decide, identifying_items, narrow_config, wanted_config, wants_children
from attestor.states import Finding
from attestor.verdict import BROKER_COMPONENT
from attestor_values import (
    EXE,
    FILES,
    FULL_BLOCK,
    IMAGE,
    OTHER_EXE,
    OTHER_IMAGE,
    OTHER_ROOT,
    ROOT,
    UNREADABLE,
    approved,
    component,
    config_rule,
    container_facts,
    documents,
    evidence,
    process_facts,
)
from hopseal.documents.model import AgentStatus, AttestBlock
from hopseal.ids import SpiffeId
from hopseal.selectors import Posture, Selector


def lead_of(block: AttestBlock, measured=None, **kwargs):
    return decide(measured or evidence(), approved(component(block)), **kwargs).lead


def item_of(name: str, block: AttestBlock, measured=None):
    return next(item for item in measure_items(measured or evidence(), block) if item.name == name)


def test_every_item_that_holds_makes_a_match():
    assert lead_of(FULL_BLOCK).finding is Finding.HOLDS


DIFFERING = {
    "image": evidence(container=container_facts(image_digests=frozenset({OTHER_IMAGE}))),
    "exe": evidence(process=process_facts(exe_sha256=OTHER_EXE)),
    "config": evidence(config={FILES: ConfigFacts(OTHER_ROOT, ())}),
    "unit": evidence(process=process_facts(unit="other.service", cgroup="/other")),
    "uid": evidence(process=process_facts(uid=1205)),
    "gid": evidence(process=process_facts(gids=(1204,))),
    "container_labels": evidence(container=container_facts(labels={"app": "other"})),
    "posture": evidence(posture=PostureFacts(Posture.PRIVILEGED, ())),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_one_item_that_differs_refuses_and_is_named_with_both_sides(name):
    result = lead_of(FULL_BLOCK, DIFFERING[name])
    assert result.finding is Finding.DIFFERS
    assert result.item.name == name
    assert result.item.code == f"{name}_mismatch"
    assert result.item.approved != result.item.measured
    assert result.item.approved


UNREAD = {
    "image": evidence(container=UNREADABLE),
    "exe": evidence(process=process_facts(exe_sha256=UNREADABLE)),
    "config": evidence(config={FILES: UNREADABLE}),
    "posture": evidence(posture=UNREADABLE),
}


@pytest.mark.parametrize("name", UNREAD)
def test_one_item_that_cannot_be_read_refuses_and_is_never_left_out(name):
    result = lead_of(FULL_BLOCK, UNREAD[name])
    assert result.finding is Finding.UNREADABLE
    assert result.item.name == name
    assert result.item.code == "engine_unavailable"


def test_process_facts_that_cannot_be_read_make_every_item_of_the_process_unreadable():
    measured = evidence(process=UNREADABLE)
    outcomes = {item.name: item.outcome for item in measure_items(measured, FULL_BLOCK)}
    assert {name for name, outcome in outcomes.items() if outcome is Outcome.UNREADABLE} == {
        "exe",
        "unit",
        "uid",
        "gid",
    }


def test_image_digests_that_cannot_be_read_make_the_image_unreadable():
    assert item_of("image", FULL_BLOCK, evidence(container=container_facts(image_digests=UNREADABLE))).outcome is (
        Outcome.UNREADABLE
    )


def test_any_of_several_digests_holds():
    block = AttestBlock(image=(OTHER_IMAGE, IMAGE), exe=(OTHER_EXE, EXE), config=config_rule(OTHER_ROOT, ROOT))
    assert lead_of(block).finding is Finding.HOLDS


def test_a_process_outside_containers_has_no_image_and_no_labels():
    items = {item.name: item for item in measure_items(evidence(container=None), FULL_BLOCK)}
    assert items["image"].outcome is Outcome.DIFFERS
    assert items["container_labels"].outcome is Outcome.DIFFERS


@pytest.mark.parametrize(
    ("level", "holds"), [(Posture.PRIVILEGED, False), (Posture.BASELINE, True), (Posture.RESTRICTED, True)]
)
def test_posture_asks_for_at_least_its_level(level, holds):
    item = item_of("posture", AttestBlock(posture=Posture.BASELINE), evidence(posture=PostureFacts(level, ())))
    assert (item.outcome is Outcome.HOLDS) is holds


def test_a_posture_that_fails_names_the_controls():
    assert "NET_BIND_SERVICE" in item_of("posture", AttestBlock(posture=Posture.RESTRICTED)).detail


def test_unit_holds_for_the_cgroup_path_too():
    assert lead_of(AttestBlock(unit="/system.slice/agent.service")).finding is Finding.HOLDS


def test_all_labels_must_hold_not_one():
    block = AttestBlock(container_labels=(("app", "crm"), ("tier", "two")))
    assert item_of("container_labels", block).outcome is Outcome.DIFFERS


def test_a_missing_declared_file_is_an_answer_and_not_unreadable():
    missing = Unreadable("config_file_missing", "/etc/agent/prompt.txt")
    assert item_of("config", FULL_BLOCK, evidence(config={FILES: missing})).outcome is Outcome.DIFFERS


def test_files_that_were_not_measured_are_unreadable():
    assert item_of("config", FULL_BLOCK, evidence(config={})).code == "config_not_measured"


def test_an_empty_block_never_matches():
    assert decide(evidence(), approved(component(AttestBlock()))).lead is None


@pytest.mark.parametrize(("unsafe", "finding"), [(True, Finding.HOLDS), (False, Finding.DIFFERS)])
def test_a_uid_alone_matches_only_where_the_author_said_so(unsafe, finding):
    assert lead_of(AttestBlock(uid=1204, unsafe_uid_only=unsafe)).finding is finding


def test_all_items_of_one_alternative_must_hold_not_some_of_each():
    first = AttestBlock(image=(IMAGE,), exe=(OTHER_EXE,))
    second = AttestBlock(image=(OTHER_IMAGE,), exe=(EXE,))
    assert decide(evidence(), approved(component(first, second))).lead.finding is Finding.DIFFERS


def test_the_alternative_that_holds_decides_whatever_the_others_say():
    block = AttestBlock(image=(OTHER_IMAGE,), exe=(EXE,))
    result = decide(evidence(), approved(component(block, FULL_BLOCK))).lead
    assert result.finding is Finding.HOLDS
    assert result.best is result.alternatives[1]


def test_a_process_may_be_several_components():
    decision = decide(evidence(), approved(component(), component(AttestBlock(exe=(EXE,)), name="second")))
    matches = build_matches(decision, frozenset({Selector("uid:1204")}))
    assert [match.qualified for match in matches] == ["crm/orchestrator", "crm/second"]
    assert Selector("component:second") in matches[1].selectors
    assert Selector("component:second") not in matches[0].selectors


@pytest.mark.parametrize(
    ("status", "finding"), [(AgentStatus.SUSPENDED, Finding.SUSPENDED), (AgentStatus.RETIRED, Finding.RETIRED)]
)
def test_only_components_of_active_agents_match(status, finding):
    decision = decide(evidence(), approved(component(), status=status))
    assert decision.lead.finding is finding
    assert decision.holding == ()


def test_a_broker_needs_no_document():
    spiffe_id = SpiffeId.parse("spiffe://example.org/hopseal/broker/node-1")
    brokers = (broker_approval(spiffe_id, AttestBlock(exe=(EXE,))),)
    decision = decide(evidence(), build_approved(None, {}, brokers))
    assert [match.qualified for match in build_matches(decision, frozenset())] == [BROKER_COMPONENT]


CLAIMS = {
    "image and another config": (AttestBlock(image=(IMAGE,), config=config_rule(OTHER_ROOT)), True),
    "config and another image": (AttestBlock(image=(OTHER_IMAGE,), config=config_rule()), True),
    "labels and another image": (AttestBlock(image=(OTHER_IMAGE,), container_labels=(("app", "crm"),)), True),
    "uid and another exe": (AttestBlock(uid=1204, exe=(OTHER_EXE,)), True),
    "unit and another exe": (AttestBlock(unit="agent.service", exe=(OTHER_EXE,)), True),
    "exe and too weak a posture": (AttestBlock(exe=(EXE,), posture=Posture.RESTRICTED), True),
    "a shared interpreter under another uid": (AttestBlock(uid=9, exe=(EXE,)), False),
    "posture alone": (AttestBlock(image=(OTHER_IMAGE,), posture=Posture.BASELINE), False),
    "uid in a container with another image": (AttestBlock(image=(OTHER_IMAGE,), uid=1204), False),
    "nothing at all": (AttestBlock(exe=(OTHER_EXE,)), False),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_an_identifying_item_that_holds_is_a_claim_and_others_are_not(name):
    block, claims = CLAIMS[name]
    lead = lead_of(block)
    assert (lead is not None and lead.finding is Finding.DIFFERS) is claims


def test_root_is_nobodys_mark():
    measured = evidence(process=process_facts(uid=0))
    assert decide(measured, approved(component(AttestBlock(uid=0, exe=(OTHER_EXE,))))).lead is None
    assert identifying_items(AttestBlock(uid=0, exe=(EXE,))) == {"exe"}


def test_what_was_attested_before_claims_its_component_whatever_differs_now():
    block = AttestBlock(exe=(OTHER_EXE,), config=config_rule(OTHER_ROOT))
    assert lead_of(block, seen_as=frozenset({"crm/orchestrator"})).finding is Finding.DIFFERS


def test_with_nothing_readable_it_cannot_be_told_and_is_not_unknown():
    measured = evidence(process=UNREADABLE, container=UNREADABLE, config={FILES: UNREADABLE}, posture=UNREADABLE)
    assert lead_of(FULL_BLOCK, measured).finding is Finding.UNREADABLE


def test_a_process_that_is_one_component_claims_no_other_that_shares_its_image():
    other = component(AttestBlock(image=(IMAGE,), exe=(OTHER_EXE,), config=config_rule()), name="aaa")
    documents = approved(other, component(AttestBlock(exe=(EXE,))))
    seen = frozenset({"crm/aaa"})
    assert [each.approval.qualified for each in decide(evidence(), documents).results] == ["crm/orchestrator"]
    assert len(decide(evidence(), documents, seen).results) == 1
    decision = decide(evidence(), documents, seen, attested_as=seen)
    assert [each.finding for each in decision.results] == [Finding.HOLDS, Finding.DIFFERS]


def test_a_process_that_is_nothing_claims_only_what_it_is_closest_to():
    near = component(AttestBlock(image=(IMAGE,), uid=1204, config=config_rule(OTHER_ROOT)), name="near")
    far = component(AttestBlock(image=(IMAGE,), uid=9, config=config_rule(OTHER_ROOT)), name="far")
    decision = decide(evidence(), approved(far, near))
    assert [each.approval.qualified for each in decision.results] == ["crm/near"]
    seen = decide(evidence(), approved(far, near), frozenset({"crm/far"}))
    assert [each.approval.qualified for each in seen.results] == ["crm/far"]
    removed = decide(evidence(), approved(far, near), frozenset({"crm/removed"}))
    assert [each.approval.qualified for each in removed.results] == ["crm/near"]


def test_only_files_of_documents_that_the_uid_may_be_are_measured():
    block = replace(FULL_BLOCK, uid=77)
    assert wanted_config(approved(component(block)), 1204) == frozenset()
    assert wanted_config(approved(component(block)), 77) == {FILES}


def test_narrowing_keeps_the_files_of_alternatives_whose_other_items_hold():
    kept = component()
    left = component(AttestBlock(image=(OTHER_IMAGE,), config=replace(config_rule(), files=("/other",))), name="left")
    assert narrow_config(evidence(config={}), approved(kept, left)) == {FILES}


def test_a_local_decision_wins_over_the_document():
    decided = build_approved(documents(component()), {"crm": AgentStatus.SUSPENDED}, ())
    assert decided.approvals[0].status is AgentStatus.SUSPENDED
    assert decided.documents_sha256 == "d" * 64


CHILDREN = AttestBlock(exe=(EXE,), children=(OTHER_EXE,))


@pytest.mark.parametrize(
    ("children", "holds"),
    [
        (frozenset(), True),
        (frozenset({EXE}), True),  # between fork and exec
        (frozenset({OTHER_EXE, EXE}), True),
        (frozenset({OTHER_IMAGE}), False),
        (frozenset({OTHER_EXE, OTHER_IMAGE}), False),
    ],
)
def test_every_program_below_a_process_has_to_be_approved(children, holds):
    measured = evidence(children=children)
    assert (item_of("children", CHILDREN, measured).outcome is Outcome.HOLDS) is holds
    assert (lead_of(CHILDREN, measured).finding is Finding.HOLDS) is holds
    assert "children" not in {item.name for item in measure_items(measured, AttestBlock(exe=(EXE,)))}


def test_programs_that_were_not_measured_are_never_taken_for_none():
    for measured in (evidence(), evidence(children=UNREADABLE)):
        assert item_of("children", CHILDREN, measured).outcome is Outcome.UNREADABLE
    without_own = evidence(children=frozenset(), process=process_facts(exe_sha256=UNREADABLE))
    assert item_of("children", CHILDREN, without_own).outcome is Outcome.UNREADABLE


def test_programs_below_a_process_are_measured_only_where_a_document_asks():
    asking = approved(component(AttestBlock(exe=(EXE,), uid=7, children=(OTHER_EXE,))))
    assert [wants_children(asking, uid) for uid in (7, 8)] == [True, False]
    assert wants_children(approved(component(CHILDREN)), 8) is True
    assert wants_children(approved(component(FULL_BLOCK)), 7) is False
