from __future__ import annotations

from dataclasses import replace

import pytest

from hopseal.documents.model import (
    Agent,
    AgentStatus,
    AttestBlock,
    Component,
    ConfigRule,
    DocumentSet,
    HumanOversight,
    Role,
)
from hopseal.entries import attestor_id, broker_entries, broker_id, document_entries
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.registrations import attestor_registration, diff_registrations, registration_of
from hopseal.selectors import Posture, Selector

TD = TrustDomain.parse("example.org")
PARENT = SpiffeId.parse("spiffe://example.org/node/n1")
IMAGES = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)
EXE = "sha256:" + "c" * 64
CONFIGS = ("sha256:" + "d" * 64, "sha256:" + "e" * 64)


def component(*blocks: AttestBlock, name: str = "orchestrator", **settings: object) -> Component:
    return Component(
        agent="crm",
        name=name,
        role=Role.ORCHESTRATOR,
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/agents/crm/{name}"),
        attest=blocks,
        **settings,  # type: ignore[arg-type]
    )


def documents(*components: Component, status: AgentStatus = AgentStatus.ACTIVE) -> DocumentSet:
    agent = Agent("crm", "1.0.0", "", "o@example.org", "t", status, (), (), HumanOversight(), components, "crm.yaml")
    return DocumentSet(TD, (agent,), "0" * 64)


def values(selectors: frozenset[Selector]) -> set[str]:
    return {selector.value for selector in selectors}


NAMED = {"agent:crm", "component:orchestrator", "role:orchestrator"}


def test_an_entry_requires_everything_measured_and_the_component_itself():
    block = AttestBlock(
        image=IMAGES[:1],
        exe=(EXE,),
        config=ConfigRule(("/etc/a",), CONFIGS[:1]),
        posture=Posture.BASELINE,
        uid=7,
        gid=8,
        unit="crm.service",
        container_labels=(("tier", "gold"),),
    )
    (entry,) = document_entries(documents(component(block, hint="main")))
    assert values(entry.selectors) == NAMED | {
        f"image:{IMAGES[0]}",
        f"exe:{EXE}",
        f"config:{CONFIGS[0]}",
        "posture:baseline",
        "uid:7",
        "gid:8",
        "unit:crm.service",
        "container-label:tier=gold",
    }
    assert (entry.hint, entry.x509_svid_ttl_s, entry.jwt_svid_ttl_s) == ("main", 600, 300)
    assert entry.entry_id.startswith("hopseal.")


def test_any_of_digests_become_one_entry_for_each_combination():
    block = AttestBlock(image=IMAGES, config=ConfigRule(("/etc/a",), CONFIGS))
    entries = document_entries(documents(component(block)))
    assert {frozenset(values(entry.selectors) - NAMED) for entry in entries} == {
        frozenset({f"image:{image}", f"config:{config}"}) for image in IMAGES for config in CONFIGS
    }
    assert len({entry.entry_id for entry in entries}) == 4
    assert {entry.spiffe_id for entry in entries} == {SpiffeId.parse("spiffe://example.org/agents/crm/orchestrator")}


def test_each_alternative_has_its_own_entry():
    entries = document_entries(documents(component(AttestBlock(uid=1, exe=(EXE,)), AttestBlock(uid=2, exe=(EXE,)))))
    assert [values(entry.selectors) - NAMED for entry in entries] == [{"uid:1", f"exe:{EXE}"}, {"uid:2", f"exe:{EXE}"}]


def test_alternatives_that_need_the_same_selectors_make_one_entry():
    same = AttestBlock(uid=1, unsafe_uid_only=True)
    assert len(document_entries(documents(component(same, AttestBlock(uid=1, unsafe_uid_only=True))))) == 1


def test_uid_zero_is_a_requirement():
    (entry,) = document_entries(documents(component(AttestBlock(uid=0, exe=(EXE,)))))
    assert "uid:0" in values(entry.selectors)


@pytest.mark.parametrize("status", [AgentStatus.SUSPENDED, AgentStatus.RETIRED])
def test_agents_that_are_not_active_have_no_entries(status: AgentStatus):
    assert document_entries(documents(component(AttestBlock(uid=1, exe=(EXE,))), status=status)) == ()


def test_a_document_may_set_lifetimes():
    own = component(AttestBlock(uid=1, exe=(EXE,)), x509_svid_ttl_s=60, jwt_svid_ttl_s=30)
    (entry,) = document_entries(documents(own), x509_svid_ttl_s=1, jwt_svid_ttl_s=2)
    assert (entry.x509_svid_ttl_s, entry.jwt_svid_ttl_s) == (60, 30)
    plain = component(AttestBlock(uid=1, exe=(EXE,)))
    (entry,) = document_entries(documents(plain), x509_svid_ttl_s=1, jwt_svid_ttl_s=2)
    assert (entry.x509_svid_ttl_s, entry.jwt_svid_ttl_s) == (1, 2)


def test_entry_ids_depend_on_identity_and_selectors_only():
    first = document_entries(documents(component(AttestBlock(uid=1, exe=(EXE,)), hint="a")))[0]
    hinted = document_entries(documents(component(AttestBlock(uid=1, exe=(EXE,)), hint="b")))[0]
    other = document_entries(documents(component(AttestBlock(uid=2, exe=(EXE,)), hint="a")))[0]
    assert first.entry_id == hinted.entry_id != other.entry_id


def test_an_entry_matches_only_if_all_its_selectors_were_measured():
    (entry,) = document_entries(documents(component(AttestBlock(uid=1, exe=(EXE,)))))
    assert entry.matches(entry.selectors | {Selector("gid:1")})
    for selector in entry.selectors:
        assert not entry.matches(entry.selectors - {selector})


def test_a_broker_needs_something_to_attest():
    (entry,) = broker_entries(TD, "n1", AttestBlock(uid=5))
    assert (entry.spiffe_id, values(entry.selectors)) == (broker_id(TD, "n1"), {"uid:5"})
    with pytest.raises(InvalidError) as caught:
        broker_entries(TD, "n1", AttestBlock())
    assert caught.value.code == "broker_attest_empty"


def test_system_identities_stand_under_hopseal():
    assert str(attestor_id(TD, "n1")) == "spiffe://example.org/hopseal/attestor/n1"
    assert str(broker_id(TD, "n1")) == "spiffe://example.org/hopseal/broker/n1"


class TestRegistrations:
    def registrations(self, *uids: int, hint: str = ""):
        found = (component(AttestBlock(uid=uid, exe=(EXE,)), name=f"c{uid}", hint=hint) for uid in uids)
        return [registration_of(entry, PARENT) for entry in document_entries(documents(*found))]

    def test_selectors_get_our_type(self):
        (registration,) = self.registrations(1)
        assert ("hopseal", "uid:1") in registration.selectors
        assert {kind for kind, _ in registration.selectors} == {"hopseal"}

    def test_the_difference_is_create_update_delete(self):
        one, two, three = self.registrations(1, 2, 3)
        (hinted,) = self.registrations(2, hint="new")
        changes = diff_registrations([one, hinted], [two, three])
        assert (changes.create, changes.update, changes.delete) == ((one,), ((two, hinted),), (three,))

    def test_no_difference_is_false(self):
        registrations = self.registrations(1, 2)
        changes = diff_registrations(registrations, reversed(registrations))
        assert not changes
        assert diff_registrations(registrations, [])

    def test_entries_of_others_are_left_alone(self):
        (mine,) = self.registrations(1)
        foreign = replace(mine, entry_id="00000000-0000-0000-0000-000000000000")
        assert diff_registrations([], [foreign, mine]).delete == (mine,)

    def test_without_prune_nothing_is_deleted(self):
        assert not diff_registrations([], self.registrations(1), prune=False)

    def test_the_attestors_own_entry_uses_spires_unix_selectors(self):
        registration = attestor_registration(TD, "n1", PARENT, {"uid": "0", "path": "/usr/bin/hopseal"})
        assert registration.selectors == {("unix", "uid:0"), ("unix", "path:/usr/bin/hopseal")}
        assert registration.spiffe_id == attestor_id(TD, "n1")

    @pytest.mark.parametrize("selectors", [{}, {"pid": "1"}, {"uid": "0", "k8s": "x"}])
    def test_the_attestors_own_entry_needs_known_selectors(self, selectors: dict[str, str]):
        with pytest.raises(InvalidError) as caught:
            attestor_registration(TD, "n1", PARENT, selectors)
        assert caught.value.code == "attestor_selectors_invalid"
