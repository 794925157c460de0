"""What the control process relies on of a data plane: asked of the real one and of the tests' fake."""

from __future__ import annotations

import json
import os
import select
import socket
from pathlib import Path

import pytest

from broker.config import load_config
from broker.dataplane_api import DataPlane, load_data_plane, start_data_plane
from broker.documents import encode_components
from broker.metrics import translate_family
from broker.policy.facts import encode_facts
from broker.policy.labels import Label
from broker.policy.sets import Layer, PolicySet, document_sets, encode_sets
from broker_parts import calls, component, documents, write_config
from fake_dataplane import FakeDataPlane
from hopseal.errors import HopsealError
from svid_authority import Authority
from waiting import wait_until

AUTHORITY = Authority()
FRONT = "spiffe://example.org/agents/crm/front"
DOCUMENTS = documents(component("front", calls=(calls("store", "GET /a"),)), component("store", listen="/run/s"))


@pytest.fixture(params=["real", "fake"])
def plane(request, tmp_path):
    if request.param == "fake":
        made = FakeDataPlane()
    else:
        (tmp_path / "call").mkdir()
        (tmp_path / "state" / "log").mkdir(parents=True)
        made = load_data_plane(load_config(write_config(tmp_path)))
    assert start_data_plane(made) > 0
    yield made
    made.stop()


def identity(plane: DataPlane, *, key: bytes | None = None) -> None:
    svid = AUTHORITY.issue(FRONT)
    plane.set_identity(
        "one", "crm/front", FRONT, list(svid.chain_der), svid.key_pkcs8 if key is None else key, svid.expires_at
    )


def test_every_verdict_may_be_given_about_processes_it_never_saw(plane):
    identity(plane)
    plane.admit_caller(5, "one", "crm/front")
    plane.refuse_caller(5, "identity_none", False)
    plane.refuse_caller(6, "attestor_unavailable", True)
    plane.forget_caller(5)
    plane.forget_caller(7)
    plane.admit_listener("crm/store", 0, "two")
    plane.refuse_listener("crm/store", 9, "identity_none")
    plane.forget_listener("crm/store", 9)
    plane.forget_listener("crm/ghost", 9)


def test_an_admission_without_an_identity_is_no_error(plane):
    plane.admit_caller(5, "none", "crm/front")
    plane.withdraw("none", "crm/front", "identity_none")


def test_an_identity_may_be_renewed_and_withdrawn_twice(plane):
    identity(plane)
    identity(plane)
    plane.withdraw("one", "crm/front", "identity_none")
    plane.withdraw("one", "crm/front", "identity_none")


def test_the_events_descriptor_is_readable_only_while_something_waits(plane):
    plane.take_events()
    assert select.select([plane.event_fd()], [], [], 0)[0] == []
    assert plane.take_events() == []


def test_documents_policies_routes_and_bundles_are_accepted(plane):
    plane.set_components(encode_components(DOCUMENTS, {}))
    plane.set_policy_sets(encode_sets(document_sets(DOCUMENTS), ()), encode_facts(DOCUMENTS))
    plane.set_policy_facts(encode_facts(DOCUMENTS, locations=[Label("*", "eu")]))
    plane.set_policy_sets("[]", "{}")
    plane.set_routes('{"crm/store": ["10.0.0.1:8443", "[::1]:8443", "node-2.example.org:8443"]}')
    plane.set_routes("{}")
    plane.set_bundles([("example.org", [AUTHORITY.der], 0), ("partner.org", [Authority("partner.org").der], 0)])


def test_policies_that_do_not_fit_the_schema_are_refused(plane):
    bad = PolicySet("a.cedar", Layer.OPERATOR, ("permit(principal, action, resource) when { context.nope };",))
    with pytest.raises(Exception, match="policy_invalid"):
        plane.set_policy_sets(encode_sets([bad], ()), "{}")


def test_a_decision_that_was_never_made_is_unknown(plane):
    assert plane.decision("nothing.1") is None


def test_a_malformed_question_is_refused(plane):
    plane.set_policy_sets("[]", "{}")
    with pytest.raises(Exception, match="question_invalid"):
        plane.explain("{}")


def test_figures_are_translatable(plane):
    families = json.loads(plane.stats())["metrics"]
    for family in families:
        assert translate_family(family).name.startswith("hopseal_broker_")


def test_it_drains_and_stops(plane):
    plane.drain(0.1)
    plane.stop()


# The real one alone.


@pytest.fixture
def real(tmp_path):
    (tmp_path / "call").mkdir()
    (tmp_path / "state" / "log").mkdir(parents=True)
    made = load_data_plane(load_config(write_config(tmp_path)))
    start_data_plane(made)
    yield made
    made.stop()


def test_an_identity_whose_key_is_another_is_refused_and_the_old_one_stays(real):
    identity(real)
    with pytest.raises(Exception, match="identity_invalid"):
        identity(real, key=AUTHORITY.issue(FRONT).key_pkcs8)
    with pytest.raises(Exception, match="identity_invalid"):
        identity(real, key=b"")


def test_policies_that_do_not_parse_are_refused(real):
    with pytest.raises(Exception, match="policy_invalid"):
        real.set_policies("permit(", "[]")
    with pytest.raises(Exception, match="policy_invalid"):
        real.set_policies("", "{")


def test_an_unknown_caller_is_reported_by_its_pidfd_inode(real, tmp_path: Path):
    real.set_components(encode_components(DOCUMENTS, {}))
    pidfd = os.pidfd_open(os.getpid())
    inode = os.fstat(pidfd).st_ino
    os.close(pidfd)
    found: list[dict] = []

    def take() -> bool:
        found.extend(json.loads(text) for text in real.take_events())
        return any(each["event"] == "caller_seen" for each in found)

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "call" / "out.sock"))
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: store.crm\r\n\r\n")
        wait_until(take)
        seen = next(each for each in found if each["event"] == "caller_seen")
        assert (seen["pidfd_inode"], seen["pid"]) == (inode, os.getpid())
        real.refuse_caller(inode, "identity_none", False)
        assert sock.recv(64).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("limit", ["limits: {body_bytes: 1}", "limits: {worker_threads: 1, handshakes: 1}"])
def test_every_setting_that_the_configuration_allows_is_accepted(tmp_path, limit):
    key, _, value = limit.partition(": ")
    load_data_plane(load_config(write_config(tmp_path, **{key: value})))


@pytest.mark.parametrize("limit", ["body_bytes: 268435456", "callers: 65536", "connections: 65536", "handshakes: 4096"])
def test_the_largest_settings_are_accepted(tmp_path, limit):
    load_data_plane(load_config(write_config(tmp_path, limits=f"{{{limit}}}")))


def test_a_taken_log_is_a_refusal_with_a_remedy(real, tmp_path):
    second = load_data_plane(load_config(write_config(tmp_path)))
    with pytest.raises(HopsealError) as caught:
        start_data_plane(second)
    assert caught.value.code in {"socket_in_use", "log_locked"}
    assert caught.value.remedy
