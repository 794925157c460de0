"""SVIDs and authorities with short lives, replaced again and again under load without one failed call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from cryptography import x509

from hopseal.log.entries import BundleEntry, CertificateEntry
from real.nodes import get
from real.oneagent import SHELL, OneAgent, agent_folder, agent_on, embedded_agent, spire_for
from waiting import wait_until

# About the shortest that can work: a new SVID comes at half life, and the last seconds of an old one sign nothing.
AUTHORITY = {"x509_svid_ttl_s": 10, "jwt_svid_ttl_s": 10, "ca_ttl_s": 30}
SPIRE_SVID_TTL_S = 10  # SPIRE counts the half of it from ten seconds before it issued
ROTATIONS = 3


@pytest.fixture(scope="module")
def short_lived() -> Iterator[OneAgent]:
    """Every SVID, the daemons' own too, lives ten seconds, every authority thirty."""
    with embedded_agent(authority=AUTHORITY) as agent:
        yield agent


def leaves(agent: OneAgent, component: str) -> set[bytes]:
    """The component's certificates that stand in the log."""
    agent_name, name = component.split("/")
    end = f"/agents/{agent_name}/{name}".encode()
    entries = [entry for entry in agent.log().entries if isinstance(entry, CertificateEntry)]
    return {entry.x5t for entry in entries if end in entry.der}


def authorities(agent: OneAgent) -> list[frozenset[bytes]]:
    """The trust domain's bundles in the order in which they came into force."""
    return [frozenset(entry.bundle.x509_authorities) for entry in agent.log().entries if isinstance(entry, BundleEntry)]


def own_expiry(agent: OneAgent) -> int:
    return int(get(agent.node.broker_admin, "/v1/status").json()["attestor"]["svid_expires_at"])


def test_svids_and_authorities_rotate_under_load_without_a_failed_call(short_lived):
    agent = short_lived
    load = agent.start_load()
    began_with = authorities(agent)[-1]
    expiries = {own_expiry(agent)}
    wait_until(lambda: len(leaves(agent, SHELL)) > ROTATIONS, timeout_s=40, what="rotated SVIDs")
    # Until nothing of the first bundle is trusted any more.
    wait_until(lambda: not authorities(agent)[-1] & began_with, timeout_s=50, what="rotated authorities")
    expiries.add(own_expiry(agent))
    load.wait_calls(10)
    agent.stop_actors()
    assert load.failed == []
    assert len(expiries) > 1
    agent.assert_logged(load.answers)


def test_authorities_overlap_so_that_every_svid_is_always_verifiable(short_lived):
    bundles = authorities(short_lived)
    assert all(one & other for one, other in itertools.pairwise(bundles))
    assert max(map(len, bundles)) >= 2
    lives = [x509.load_der_x509_certificate(der) for der in bundles[-1]]
    assert all(life.not_valid_after_utc > life.not_valid_before_utc for life in lives)


def test_chains_of_rotated_svids_and_authorities_verify_from_the_log(short_lived):
    short_lived.assert_chains_verify()


def test_a_response_that_outlives_its_svid_ends_and_the_next_one_flows(short_lived):
    agent = short_lived
    stream = agent.start_stream()
    stream.wait_line("closed", timeout_s=25)
    assert agent.start_stream().wait_line("opened")["status"] == 200
    agent.stop_actors()


def test_svids_of_a_real_spire_rotate_under_load_without_a_failed_call():
    with agent_folder() as folder, spire_for(folder) as spire:
        spire.agent.start()
        with agent_on(folder, spire.upstream, ttl_s=SPIRE_SVID_TTL_S) as agent:
            spire.register(agent.node.documents)
            agent.node.start()
            agent.start_server()
            load = agent.start_load()
            wait_until(lambda: len(leaves(agent, SHELL)) > ROTATIONS, timeout_s=60, what="rotated SVIDs")
            load.wait_calls(10)
            agent.stop_actors()
            assert load.failed == []
            agent.assert_logged(load.answers)
            agent.assert_chains_verify()
