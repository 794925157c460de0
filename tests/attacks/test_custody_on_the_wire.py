"""What a component that holds its own key and has read every log can do on the wire between two real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from custody_refusals import refused_in
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.log.entries import CertificateEntry, Direction, RecordEntry
from hopseal.log.reader import read_log
from real.cluster import AGENT, PEER_PORT, THREE_HOPS, TRUST_DOMAIN, Cluster, two_nodes
from real.spire import find_binaries
from real.wire import Identity, Peer, fetch_identity, fields, root_record, seal, temporary_folder

BODY = b'{"calls": []}'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as running:
        yield running


@dataclass(frozen=True)
class Stolen:
    """What an attacker who read every log knows."""

    records: dict[tuple[str, int], SealedRecord]
    certs: dict[str, bytes]

    def get(self, iss: str, hop: int) -> SealedRecord:
        return self.records[f"spiffe://{TRUST_DOMAIN}/agents/{AGENT}/{iss}", hop]

    def certs_of(self, *texts: str) -> list[bytes]:
        return [self.certs[parse_sealed_record(text).statement.seal.x5t] for text in texts]


def run_task(cluster: Cluster) -> Stolen:
    """Run one task and collect its records from the senders' logs."""
    (answer,) = cluster.task(THREE_HOPS)
    assert [result["status"] for result in answer["body"]["results"]] == [200, 200], answer
    entries = [
        entry for node in cluster.nodes for entry in read_log((node.log_folder / "custody.log").read_bytes()).entries
    ]
    certs = {entry.x5t: entry.der for entry in entries if isinstance(entry, CertificateEntry)}
    sent = [entry for entry in entries if isinstance(entry, RecordEntry) and entry.direction is Direction.SENT]
    newest = max((entry for entry in sent if entry.hop == 0), key=lambda entry: entry.at_ms)
    texts = [parse_sealed_record(entry.sealed) for entry in sent if entry.cid == newest.cid and entry.sealed]
    return Stolen({(str(each.record.iss), each.record.hop): each for each in texts}, certs)


@pytest.fixture(scope="module")
def rogue(cluster: Cluster) -> Identity:
    return fetch_identity(find_binaries() / "spire-agent", cluster.nodes[1].api_socket, temporary_folder())


@pytest.fixture(scope="module")
def connector(cluster: Cluster) -> Peer:
    space = cluster.spaces[1]
    spiffe_id = f"spiffe://{TRUST_DOMAIN}/agents/{AGENT}/connector"
    return Peer(space, (space.address, PEER_PORT), "connector", AGENT, spiffe_id)


def child_of(parent: SealedRecord, identity: Identity, peer: Peer, rqb: str) -> Record:
    root = root_record(identity, peer, rqb)
    linked = {"cid": parent.record.cid, "hop": parent.record.hop + 1, "prev": parent.hash}
    return replace(root, **linked, root_claims=frozenset(), task=None, auth=None)


def test_spires_own_client_gets_an_svid_as_a_component(rogue):
    assert str(rogue.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/agents/{AGENT}/rogue"


def test_a_component_that_holds_its_key_may_call_what_its_document_says(rogue, connector):
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, root_record(rogue, connector, rqb))
    status, answer = connector.send(rogue, [*headers, *fields(record, (), [rogue.leaf_der])], BODY)
    assert status == 200, answer


def test_a_record_that_another_component_signed_is_refused(cluster, rogue, connector):
    stolen = run_task(cluster)
    taken = stolen.get("reasoner", 2)
    chain = [stolen.get("shell", 0).text, stolen.get("orchestrator", 1).text]
    headers, _ = connector.bound(b'{"calls": []}')
    custody = fields(taken.text, chain, stolen.certs_of(taken.text, *chain))
    with refused_in(cluster.nodes[1].log_folder, "custody_identity"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY)
    assert (status, answer["code"]) == (400, "custody_identity")


def test_a_stolen_chain_cannot_be_continued(cluster, rogue, connector):
    stolen = run_task(cluster)
    chain = [stolen.get("shell", 0).text, stolen.get("orchestrator", 1).text]
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, child_of(stolen.get("orchestrator", 1), rogue, connector, rqb))
    custody = fields(record, chain, [rogue.leaf_der, *stolen.certs_of(*chain)])
    with refused_in(cluster.nodes[1].log_folder, "custody_chain"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY)
    assert (status, answer["code"]) == (400, "custody_chain")


def test_a_hop_cannot_be_cut_out(cluster, rogue, connector):
    stolen = run_task(cluster)
    chain = [stolen.get("shell", 0).text]
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, child_of(stolen.get("shell", 0), rogue, connector, rqb))
    custody = fields(record, chain, [rogue.leaf_der, *stolen.certs_of(*chain)])
    with refused_in(cluster.nodes[1].log_folder, "custody_chain"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY)
    assert (status, answer["code"]) == (400, "custody_chain")


def test_records_of_two_tasks_cannot_be_spliced(cluster, rogue, connector):
    one, other = run_task(cluster), run_task(cluster)
    chain = [one.get("shell", 0).text, other.get("orchestrator", 1).text]
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, child_of(other.get("orchestrator", 1), rogue, connector, rqb))
    custody = fields(record, chain, [rogue.leaf_der, *one.certs_of(chain[0]), *other.certs_of(chain[1])])
    with refused_in(cluster.nodes[1].log_folder, "custody_chain"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY)
    assert (status, answer["code"]) == (400, "custody_chain")


def test_a_changed_body_byte_is_refused(cluster, rogue, connector):
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, root_record(rogue, connector, rqb))
    changed = BODY.replace(b"calls", b"cells")
    with refused_in(cluster.nodes[1].log_folder, "custody_binding"):
        status, answer = connector.send(rogue, [*headers, *fields(record, (), [rogue.leaf_der])], changed)
    assert (status, answer["code"]) == (400, "custody_binding")


def test_another_path_than_the_signed_one_is_refused(cluster, rogue, connector):
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, root_record(rogue, connector, rqb))
    custody = fields(record, (), [rogue.leaf_der])
    with refused_in(cluster.nodes[1].log_folder, "custody_binding"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY, path="/other")
    assert (status, answer["code"]) == (400, "custody_binding")


def test_the_same_record_is_accepted_once(cluster, rogue, connector):
    headers, rqb = connector.bound(BODY)
    record = seal(rogue, root_record(rogue, connector, rqb))
    sent = [*headers, *fields(record, (), [rogue.leaf_der])]
    assert connector.send(rogue, sent, BODY)[0] == 200
    with refused_in(cluster.nodes[1].log_folder, "custody_replayed"):
        status, answer = connector.send(rogue, sent, BODY)
    assert (status, answer["code"]) == (400, "custody_replayed")


def test_a_record_for_another_component_is_refused(cluster, rogue, connector):
    headers, rqb = connector.bound(BODY)
    record = replace(root_record(rogue, connector, rqb), aud=str(rogue.spiffe_id))
    custody = fields(seal(rogue, record), (), [rogue.leaf_der])
    with refused_in(cluster.nodes[1].log_folder, "custody_audience"):
        status, answer = connector.send(rogue, [*headers, *custody], BODY)
    assert (status, answer["code"]) == (400, "custody_audience")


def test_no_record_means_no_call(cluster, rogue, connector):
    headers, _ = connector.bound(BODY)
    with refused_in(cluster.nodes[1].log_folder, "custody_missing"):
        status, answer = connector.send(rogue, headers, BODY)
    assert (status, answer["code"]) == (428, "custody_missing")
