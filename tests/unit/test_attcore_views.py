"""What operators are shown: status and explanations, from records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestor.explain import explain_component, explain_entered, explain_process, explain_unreadable
from attestor.facts import ConfigFacts
from attestor.matching import decide
from attestor.peer import PinnedProcess
from attestor.registry import MAX_CONTAINERS, MAX_GONE, MAX_HISTORY, ProcessKey, Registry, key_of
from attestor.standing import judge, mark
from attestor.states import Finding, State
from attestor.status import component_status, unknown_status
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
    container_facts,
    evidence,
    process_facts,
)
from hopseal.documents.model import AgentStatus, AttestBlock

DOCUMENTS = approved(component())
STRANGER = evidence(
    process=process_facts(uid=7, exe_sha256=OTHER_EXE, unit=None, cgroup="/"), container=None, config={}
)
DRIFTED = evidence(config={FILES: ConfigFacts(OTHER_ROOT, ())})


def see(registry: Registry, pid: int, measured=None, documents=DOCUMENTS, *, now: float = 1.0) -> ProcessKey:
    """Note what was measured about a process, as its tracking does."""
    process = PinnedProcess(pid, 1204, 1204, 5, -1, 1000 + pid)
    key = key_of(process)
    before = registry.admit(process, now)
    measured = measured or evidence()
    container = measured.container.id if measured.container else "host"
    registry.measured(key, measured, f"docker:{container}")
    seen_as = registry.seen_as(key, before.container_id)
    decision = decide(measured, documents, seen_as, registry.attested_as(key))
    registry.stand(key, judge(decision, before.standings, now), now)
    return key


def only(registry: Registry, documents=DOCUMENTS):
    (shown,) = component_status(registry, documents)
    return shown


def test_a_component_without_processes_is_gone_and_says_not_running():
    shown = only(Registry())
    assert (shown["state"], shown["code"], shown["instances"], shown["since"]) == ("gone", "not_running", [], None)


def test_workers_of_one_container_are_one_instance():
    registry = Registry()
    for pid in (11, 12):
        see(registry, pid, now=float(pid))
    (instance,) = only(registry)["instances"]
    assert (instance["pids"], instance["state"], instance["engine"]) == ([11, 12], "attested", "docker")
    assert instance["container_id"] == "a" * 64


def test_one_drifted_worker_shows_in_its_instance_while_the_component_stays_attested():
    registry = Registry()
    see(registry, 11)
    see(registry, 12)
    see(registry, 12, DRIFTED, now=2.0)
    shown = only(registry)
    assert shown["state"] == "attested"
    assert {(each["state"], *each["pids"]) for each in shown["instances"]} == {("attested", 11), ("drifted", 12)}
    assert (shown["last_refusal"]["code"], shown["last_refusal"]["at"]) == ("config_changed", 2.0)


def test_a_component_all_of_whose_processes_drifted_is_drifted():
    registry = Registry()
    see(registry, 11)
    see(registry, 11, DRIFTED, now=2.0)
    shown = only(registry)
    assert (shown["state"], shown["code"], shown["since"]) == ("drifted", "config_changed", 2.0)


@pytest.mark.parametrize("status", [AgentStatus.SUSPENDED, AgentStatus.RETIRED])
def test_a_component_of_an_agent_that_is_not_active_says_so_even_without_processes(status):
    shown = only(Registry(), approved(component(), status=status))
    assert (shown["state"], shown["code"]) == (status, f"agent_{status}")


def test_the_earliest_expiry_of_an_instance_is_shown_and_absence_of_an_svid_is_explained():
    registry = Registry()
    see(registry, 11)
    see(registry, 12)
    registry.note_svid(1011, "crm/orchestrator", 900)
    registry.note_svid(1012, "crm/orchestrator", 800)
    assert only(registry)["instances"][0]["svid_expires_at"] == 800
    assert explain_component(registry, DOCUMENTS.approvals[0])["code"] == "attested"
    registry.note_svid(1011, "crm/orchestrator", None)
    registry.note_svid(1012, "crm/orchestrator", None)
    explained = explain_component(registry, DOCUMENTS.approvals[0])
    assert (explained["state"], explained["code"], explained["layer"]) == ("attested", "svid_none", "upstream")


def test_unknown_processes_are_listed_newest_first():
    registry = Registry()
    see(registry, 21, STRANGER, approved(component(AttestBlock(exe=(EXE,)))), now=1.0)
    see(registry, 22, STRANGER, approved(component(AttestBlock(exe=(EXE,)))), now=2.0)
    assert [each["pid"] for each in unknown_status(registry)] == [22, 21]
    assert unknown_status(registry)[0] == {"pid": 22, "exe": "/usr/bin/agent", "uid": 7, "since": 2.0}


def test_a_process_that_was_not_measured_yet_is_not_called_unknown():
    registry = Registry()
    registry.admit(PinnedProcess(31, 0, 0, 5, -1, 1031), 1.0)
    assert unknown_status(registry) == []


def test_drift_is_explained_by_what_was_approved_and_measured_with_history():
    registry = Registry()
    see(registry, 11)
    see(registry, 11, DRIFTED, now=2.0)
    explained = explain_component(registry, DOCUMENTS.approvals[0])
    item = next(each for each in explained["items"] if not each["holds"])
    assert (item["item"], item["approved"], item["measured"]) == (
        "config",
        [ROOT],
        [OTHER_ROOT],
    )
    assert [(step["state"], step["at"]) for step in explained["history"]] == [("attested", 1.0), ("drifted", 2.0)]
    assert (explained["pid"], explained["layer"]) == (11, "evidence")


def test_a_component_that_is_gone_still_says_why_it_was_refused_last():
    registry = Registry()
    key = see(registry, 11)
    see(registry, 11, DRIFTED, now=2.0)
    registry.stand(key, mark(registry.get(key).standings, Finding.ENDED, "process_exited", 3.0), 3.0)
    registry.end(key)
    explained = explain_component(registry, DOCUMENTS.approvals[0])
    assert (explained["state"], explained["code"]) == ("gone", "not_running")
    assert explained["last_refusal"]["code"] == "config_changed"
    assert [item["item"] for item in explained["items"] if not item["holds"]] == ["config"]


def test_a_component_that_never_ran_is_explained_without_items():
    explained = explain_component(Registry(), DOCUMENTS.approvals[0])
    assert (explained["code"], explained["items"], explained["pid"]) == ("not_running", [], None)


def test_several_alternatives_are_all_shown():
    documents = approved(component(AttestBlock(exe=(OTHER_EXE,)), FULL_BLOCK))
    registry = Registry()
    see(registry, 11, documents=documents)
    explained = explain_component(registry, documents.approvals[0])
    assert [len(each) for each in explained["alternatives"]] == [1, 8]
    fresh = explain_process(Registry(), documents, evidence(), 11, None)
    assert len(fresh["alternatives"]) == 2


@pytest.mark.parametrize(
    ("status", "measured", "state", "code"),
    [
        (AgentStatus.ACTIVE, evidence(), State.ATTESTED, "attested"),
        (AgentStatus.SUSPENDED, evidence(), State.SUSPENDED, "agent_suspended"),
        (AgentStatus.RETIRED, evidence(), State.RETIRED, "agent_retired"),
        (AgentStatus.ACTIVE, DRIFTED, State.REFUSED, "config_mismatch"),
        (AgentStatus.ACTIVE, evidence(posture=UNREADABLE), State.UNREADABLE, "engine_unavailable"),
    ],
)
def test_a_process_that_never_called_is_judged_by_fresh_evidence(status, measured, state, code):
    explained = explain_process(Registry(), approved(component(), status=status), measured, 11, None)
    assert (explained["state"], explained["code"], explained["component"]) == (state, code, "crm/orchestrator")


def test_an_unreadable_item_is_explained_by_its_own_words():
    explained = explain_process(Registry(), DOCUMENTS, evidence(posture=UNREADABLE), 11, None)
    assert "posture could not be read: no answer" in explained["message"]
    assert explained["remedy"] == "start the engine"


def test_without_documents_a_process_is_unknown_for_that_reason():
    nothing = replace(approved(), documents_sha256="")
    assert explain_process(Registry(), nothing, evidence(), 11, None)["code"] == "documents_unavailable"
    assert explain_process(Registry(), approved(), evidence(), 11, None)["code"] == "no_document"


def test_a_process_on_record_is_explained_by_its_record():
    registry = Registry()
    key = see(registry, 11)
    see(registry, 11, DRIFTED, now=2.0)
    explained = explain_process(registry, DOCUMENTS, DRIFTED, 11, registry.get(key))
    assert (explained["state"], explained["code"], len(explained["history"])) == ("drifted", "config_changed", 2)


def test_a_process_of_which_nothing_can_be_read_is_explained_by_why():
    explained = explain_unreadable(11, UNREADABLE)
    assert (explained["state"], explained["message"], explained["remedy"]) == (
        "unreadable",
        "no answer",
        "start the engine",
    )


def test_a_process_put_into_its_container_is_explained_by_that():
    explained = explain_entered(11)
    assert (explained["state"], explained["code"], explained["layer"]) == (
        "unreadable",
        "container_entered",
        "evidence",
    )


def test_what_was_only_claimed_was_not_attested():
    registry = Registry()
    key = see(registry, 11, DRIFTED)
    assert registry.get(key).history[-1].state is State.REFUSED
    assert registry.attested_as(key) == frozenset()
    see(registry, 11)
    assert registry.attested_as(key) == {"crm/orchestrator"}


def test_another_process_of_a_container_that_was_attested_claims_its_component():
    registry = Registry()
    see(registry, 11)
    assert registry.seen_as(ProcessKey(9, 9, 9), "a" * 64) == {"crm/orchestrator"}
    assert registry.seen_as(ProcessKey(9, 9, 9), "b" * 64) == frozenset()
    assert registry.seen_as(ProcessKey(9, 9, 9), "") == frozenset()


def test_memory_of_processes_and_containers_is_bounded():
    registry = Registry()
    for pid in range(1, MAX_GONE + 20):
        registry.end(see(registry, pid, evidence(container=container_facts(id=f"{pid:064x}"))))
    assert len(list(registry.gone())) == MAX_GONE
    assert next(registry.gone()).pid == MAX_GONE + 19
    for index in range(MAX_CONTAINERS + 10):
        registry._remember(f"{index}", "crm/orchestrator")
    assert len(registry._attested_in) == MAX_CONTAINERS
    key = see(registry, 1)
    for now in range(MAX_HISTORY + 10):
        see(registry, 1, DRIFTED if now % 2 else evidence(), now=float(now))
    assert len(registry.get(key).history) == MAX_HISTORY


def test_a_stranger_that_exits_is_not_kept():
    registry = Registry()
    registry.end(see(registry, 21, STRANGER, approved(component(AttestBlock(exe=(EXE,))))))
    assert list(registry.gone()) == []
    assert len(registry) == 0
