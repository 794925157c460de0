"""The table of states, the reason codes, and the step from decision to standing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestor.facts import ConfigFacts
from attestor.items import Item, Outcome, measure_items, name_changed_files
from attestor.matching import decide
from attestor.standing import decide_refusal, judge, mark
from attestor.states import REASONS, TRANSITIONS, Finding, State, next_state, render_reasons, render_table
from attestor_values import (
    EXE,
    FILES,
    FULL_BLOCK,
    OTHER_EXE,
    OTHER_ROOT,
    ROOT,
    UNREADABLE,
    approved,
    component,
    evidence,
    process_facts,
)
from hopseal.documents.model import AgentStatus, AttestBlock
from hopseal.errors import BugError

SECOND = AttestBlock(exe=(EXE,))


def standings_of(measured, documents, before=None, seen_as=frozenset(), now=1.0):
    decision = decide(measured, documents, seen_as, seen_as)
    return judge(decision, before or {}, now), decision


def test_every_state_but_gone_answers_every_finding():
    for state, row in TRANSITIONS.items():
        assert set(row) == ({Finding.ENDED} if state is State.GONE else set(Finding))


def test_only_a_component_that_was_attested_can_drift():
    may_drift = {state for state, row in TRANSITIONS.items() if row.get(Finding.DIFFERS) is State.DRIFTED}
    assert may_drift == {State.ATTESTED, State.DRIFTED, State.SUSPENDED, State.RETIRED}


def test_nothing_but_every_item_holding_leads_to_attested():
    for row in TRANSITIONS.values():
        assert {finding for finding, after in row.items() if after is State.ATTESTED} <= {Finding.HOLDS}


def test_a_step_that_the_table_does_not_have_is_a_bug():
    with pytest.raises(BugError) as raised:
        next_state(State.GONE, Finding.HOLDS)
    assert raised.value.code == "state_impossible"


def test_the_table_is_drawn_with_every_state_and_finding():
    lines = render_table().splitlines()
    assert len(lines) == len(State) + 2
    assert all(finding in lines[0] for finding in Finding)
    assert any(line.startswith("| attested |") and "drifted" in line for line in lines)


def test_every_reason_is_drawn_and_says_what_to_do():
    drawn = render_reasons()
    assert all(f"`{code}`" in drawn for code in REASONS)
    assert all(reason.remedy for code, reason in REASONS.items() if code != "attested")


@pytest.mark.parametrize("item", [item.name for item in decide(evidence(), approved(component())).lead.best.items])
def test_each_item_has_its_two_codes(item):
    assert {f"{item}_mismatch", f"{item}_changed"} <= REASONS.keys()


def test_an_attested_component_keeps_since_while_nothing_changes():
    first, _ = standings_of(evidence(), approved(component()))
    second, _ = standings_of(evidence(), approved(component()), first, now=2.0)
    assert (second["crm/orchestrator"].state, second["crm/orchestrator"].since) == (State.ATTESTED, 1.0)


def test_drift_is_named_after_the_item_whose_measured_value_changed():
    first, _ = standings_of(evidence(), approved(component()))
    changed = evidence(config={FILES: ConfigFacts(OTHER_ROOT, ())})
    second, decision = standings_of(changed, approved(component()), first, frozenset(first), 2.0)
    refusal = decide_refusal(first, second, decision)
    assert (refusal.state, refusal.code) == (State.DRIFTED, "config_changed")
    again, _ = standings_of(changed, approved(component()), second, frozenset(first), 3.0)
    assert (again["crm/orchestrator"].code, again["crm/orchestrator"].since) == ("config_changed", 2.0)


def test_drift_of_the_configuration_names_the_files_that_changed_since_it_held():
    def measured(root: str, **files: str):
        return evidence(config={FILES: ConfigFacts(root, tuple(sorted(files.items())))})

    first, _ = standings_of(measured(ROOT, a="1", b="2", c="3"), approved(component()))
    for now, root in ((2.0, OTHER_ROOT), (3.0, "sha256:" + "9" * 64)):
        first, _ = standings_of(measured(root, a="1", b="x", d="4"), approved(component()), first, now=now)
        item = next(each for each in first["crm/orchestrator"].items if each.name == "config")
        assert item.detail == "changed: b; new: d; gone: c"


def test_of_many_changed_files_the_first_are_named():
    before = Item("config", (), (), Outcome.HOLDS, files=tuple((f"f{number}", "1") for number in range(7)))
    after = replace(before, files=tuple((path, "2") for path, _ in before.files))
    assert name_changed_files(after, before.files).detail == "changed: f0, f1, f2, f3, f4 and 2 more"
    assert name_changed_files(before, before.files).detail == ""


def test_a_process_that_never_held_has_no_files_to_compare():
    found, _ = standings_of(evidence(config={FILES: ConfigFacts(OTHER_ROOT, (("a", "1"),))}), approved(component()))
    assert next(each for each in found["crm/orchestrator"].items if each.name == "config").detail == ""


@pytest.mark.parametrize(
    ("unit", "asked", "measured"),
    [
        ("x.service", "x.service", "x.service"),
        ("x.service", "/system.slice/x.service", "/system.slice/x.service"),
        (None, "x.service", "in no systemd unit"),
    ],
)
def test_a_unit_is_shown_as_the_document_names_it(unit, asked, measured):
    facts = process_facts(unit=unit, cgroup="/system.slice/x.service")
    items = measure_items(evidence(process=facts), AttestBlock(unit=asked))
    assert items[0].measured == (measured,)


def test_drift_is_the_documents_where_the_measured_value_is_the_same():
    first, _ = standings_of(evidence(), approved(component()))
    edited = approved(component(replace(FULL_BLOCK, exe=(OTHER_EXE,))))
    second, decision = standings_of(evidence(), edited, first)
    assert decide_refusal(first, second, decision).code == "documents_changed"


def test_a_component_whose_document_is_gone_drifts_and_keeps_its_items():
    first, _ = standings_of(evidence(), approved(component()))
    second, decision = standings_of(evidence(), approved(), first)
    assert second["crm/orchestrator"].state is State.DRIFTED
    assert second["crm/orchestrator"].items == first["crm/orchestrator"].items
    assert decide_refusal(first, second, decision).code == "documents_changed"


def test_a_mere_claim_that_ends_is_forgotten():
    first, _ = standings_of(evidence(process=process_facts(exe_sha256=OTHER_EXE)), approved(component()))
    assert first["crm/orchestrator"].state is State.REFUSED
    second, decision = standings_of(evidence(), approved(), first)
    assert second == {}
    assert decide_refusal({}, second, decision).state is State.UNKNOWN


def test_losing_one_of_two_components_refuses_although_the_other_holds():
    both = approved(component(), component(SECOND, name="second"))
    first, _ = standings_of(evidence(), both)
    changed = evidence(config={FILES: ConfigFacts(OTHER_ROOT, ())})
    second, decision = standings_of(changed, both, first, frozenset(first))
    assert decide_refusal(first, second, decision).code == "config_changed"
    assert decide_refusal({}, second, decision) is None


def test_a_component_that_never_was_held_does_not_stand_in_the_way_of_another():
    both = approved(component(replace(FULL_BLOCK, exe=(OTHER_EXE,))), component(SECOND, name="second"))
    standings, decision = standings_of(evidence(), both)
    assert standings.keys() == {"crm/second"}
    assert decide_refusal({}, standings, decision) is None


def test_unreadable_evidence_refuses_with_its_own_code():
    standings, decision = standings_of(evidence(container=UNREADABLE), approved(component()))
    refusal = decide_refusal({}, standings, decision)
    assert (refusal.state, refusal.code) == (State.UNREADABLE, "engine_unavailable")
    assert refusal.message == "evidence that the document asks for could not be read"


@pytest.mark.parametrize("status", [AgentStatus.SUSPENDED, AgentStatus.RETIRED])
def test_a_status_that_is_not_active_refuses_with_its_code(status):
    standings, decision = standings_of(evidence(), approved(component(), status=status))
    assert decide_refusal({}, standings, decision).code == f"agent_{status}"


def test_the_end_of_a_process_ends_each_of_its_standings():
    first, _ = standings_of(evidence(), approved(component(), component(SECOND, name="second")))
    ended = mark(first, Finding.ENDED, "process_exited", 9.0)
    assert {(each.state, each.code, each.since) for each in ended.values()} == {(State.GONE, "process_exited", 9.0)}
    assert mark(ended, Finding.ENDED, "process_exited", 10.0) == ended


def test_marking_with_an_item_replaces_the_one_of_that_name():
    first, _ = standings_of(evidence(), approved(component()))
    item = Item("exe", ("a",), ("b",), Outcome.DIFFERS, "exe_changed")
    marked = mark(first, Finding.DIFFERS, "exe_changed", 2.0, item)["crm/orchestrator"]
    assert [each for each in marked.items if each.name == "exe"] == [item]
    assert marked.state is State.DRIFTED
