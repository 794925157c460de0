"""A task over two nodes, told years later: SPIRE's CA rotated twice since, every SVID expired, a real witness outside.

The story is told once for the module; each test looks at what it left: the nodes' logs, and the evidence out of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from audit_scene import mapped
from faketime import shifted
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import parse_sealed, seal_statements, thumbprint
from hopseal.custody.statement import encode_statement
from hopseal.log.bundle import EvidenceBundle, LoggedStatement, format_evidence, parse_evidence
from hopseal.log.entries import BundleEntry, CertificateEntry, RecordEntry, format_line, read_payload
from hopseal.log.reader import LogContents, read_log
from real.cluster import AGENT, PARTS, PEER_PORT, THREE_HOPS, TRUST_DOMAIN, Cluster, hopseal, two_nodes
from real.nodes import HOPSEAL, Node, get
from real.spire import find_binaries
from real.wire import Identity, Peer, fetch_identity, fields, new_id, root_record, seal, temporary_folder
from waiting import wait_until

SVID_TTL_S = 20
DAY_S, YEAR_S = 86_400, 31_557_600
BODY = b"{}"
HOPS = [
    ("shell", "orchestrator", 0),
    ("orchestrator", "reasoner", 1),
    ("reasoner", "connector", 2),
    ("orchestrator", "connector", 1),
]
LOGS = [f"custody.{TRUST_DOMAIN}/node-{number}" for number in (1, 2)]
Json = dict[str, Any]
Ran = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Story:
    """What is left when everything that signed has expired.

    Args:
        cluster: still running.
        cid, task: of the task.
        later: chain of the same task after the rotations.
        began_at: when the task did.
        compared, shown: what the operator's commands printed right after it.
        stolen: the rogue's SVID, which has expired, with its key.
        honest: the call that the rogue made while it was valid.
        logs: copies of both brokers' state folders.
        policy: whom the auditor trusts.
        evidence: of the task, out of both logs.
    """

    cluster: Cluster
    cid: str
    task: str
    later: str
    began_at: int
    compared: Ran
    shown: Ran
    stolen: Identity
    honest: str
    logs: tuple[Path, ...]
    policy: Path
    evidence: Path

    @property
    def bundle(self) -> EvidenceBundle:
        return parse_evidence(self.evidence.read_bytes())

    def export(self, logs: Sequence[Path], output: Path, cid: str | None = None) -> Path:
        """Evidence of the task, or of another chain, out of other folders."""
        given = [argument for log in logs for argument in ("--log", log)]
        made = audit("export", "--cid", cid or self.cid, *given, "--policy", self.policy, "-o", output)
        assert made.returncode == 0, made.stderr
        return output

    def verify(self, evidence: Path, *, now: int | None = None) -> tuple[int, Json]:
        """Under the policy, at this time."""
        return verify(evidence, "--policy", self.policy, *([] if now is None else ["--now", now]))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("audit")
    with two_nodes(witnessed=True, svid_ttl_s=SVID_TTL_S) as cluster:
        states = [node.broker_state for node in cluster.nodes]
        first = run_task(cluster)
        publish(cluster)
        compared = hopseal("audit", "compare", *map(str, states))
        shown = hopseal("chain", "show", "--last", "--log", str(states[0]), "--log", str(states[1]))
        stolen = fetch_identity(find_binaries() / "spire-agent", cluster.nodes[1].api_socket, temporary_folder())
        honest = call_as(cluster, stolen)
        expiry = expiry_of(stolen.leaf_der, *signers(cluster))
        rotate_twice(cluster)
        later = run_task(cluster)
        wait_until(lambda: time.time() > expiry, timeout_s=2 * SVID_TTL_S, what="expiry of everything that signed")
        publish(cluster)
        logs = tuple(folder / node.name for node in cluster.nodes)
        for state, copy in zip(states, logs, strict=True):
            shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.sock"))
        policy = folder / "witnesses.policy"
        policy.write_text(policy_of(cluster))
        claims = parse_sealed_record(first.sealed or "").record
        assert claims.task is not None
        told = Story(cluster, claims.cid, claims.task.id, later.cid or "", claims.iat, compared, shown, stolen, honest,
                     logs, policy, folder / "task.evidence")  # fmt: skip
        told.export(states, told.evidence)
        yield told
    shutil.rmtree(stolen.folder)


# --- what happens


def run_task(cluster: Cluster) -> RecordEntry:
    """Run the task of three hops and a second branch; the entry of its first call."""
    (answer,) = cluster.task(THREE_HOPS)
    assert [result["status"] for result in answer["body"]["results"]] == [200, 200], answer
    entries = [each for each in contents(cluster.nodes[0]).entries if isinstance(each, RecordEntry) and each.hop == 0]
    return max(entries, key=lambda each: each.at_ms)


def call_as(cluster: Cluster, identity: Identity) -> str:
    """The record of a call that a component with its own key makes to the connector."""
    space = cluster.spaces[1]
    peer = Peer(
        space, (space.address, PEER_PORT), "connector", AGENT, f"spiffe://{TRUST_DOMAIN}/agents/{AGENT}/connector"
    )
    headers, rqb = peer.bound(BODY)
    sealed = seal(identity, root_record(identity, peer, rqb))
    status, answer = peer.send(identity, [*headers, *fields(sealed, (), [identity.leaf_der])], BODY)
    assert status == 200, answer
    return sealed


def rotate_twice(cluster: Cluster) -> None:
    """Two authorities after another come, sign everything anew, and their predecessor goes from every trust bundle."""
    first = cluster.server.authorities
    for _ in range(2):
        trusted, daemons, began = cluster.server.authorities, svids_of_daemons(cluster), time.time()
        old = cluster.server.rotate_authority()

        def all_are_new(daemons: set[str] = daemons, began: float = began) -> bool:
            return not svids_of_daemons(cluster) & daemons and oldest_issue(cluster) > began

        wait_until(all_are_new, timeout_s=40, what="new SVIDs everywhere")
        cluster.server.revoke_authority(old)
        gone = trusted - cluster.server.authorities
        assert len(gone) == 1
        wait_until(lambda gone=gone: not any(trusted_by(node) & gone for node in cluster.nodes), what="it is gone")
    assert not cluster.server.authorities & first


def svids_of_daemons(cluster: Cluster) -> set[str]:
    """Serial numbers and thumbprints of the SVIDs that SPIRE's agents and our brokers have now."""
    agents = json.loads(cluster.server.run("agent", "list", "-output", "json"))["agents"]
    brokers = [node.events("broker", "log_key_announced")[-1]["x5t"] for node in cluster.nodes]
    return {*(each["x509svid_serial_number"] for each in agents), *brokers}


def oldest_issue(cluster: Cluster) -> float:
    """When the oldest SVID of a listening component was issued."""
    listed = [each for node in cluster.nodes for each in get(node.broker_admin, "/v1/status").json()["identities"]]
    return min((each["svid_expires_at"] or 0) - SVID_TTL_S for each in listed if each["kind"] == "listener")


def publish(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.wait_published()


def contents(node: Node) -> LogContents:
    return read_log((node.log_folder / "custody.log").read_bytes())


def signers(cluster: Cluster) -> list[bytes]:
    """The certificates of components that sealed a statement so far."""
    ders = [each.der for node in cluster.nodes for each in contents(node).entries if isinstance(each, CertificateEntry)]
    return [der for der in ders if f"{TRUST_DOMAIN}/agents/{AGENT}/".encode() in der]


def trusted_by(node: Node) -> frozenset[bytes]:
    """What the broker trusted last, by its log."""
    bundles = [each.bundle for each in contents(node).entries if isinstance(each, BundleEntry)]
    return frozenset(bundles[-1].x509_authorities)


def expiry_of(*ders: bytes) -> float:
    return max(x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp() for der in ders)


def policy_of(cluster: Cluster) -> str:
    """Whom the auditor trusts: both logs, by the keys that their brokers tell, under the one witness."""
    assert cluster.witness is not None
    keys = [hopseal("audit", "key", "--broker-socket", str(node.broker_admin)).stdout.strip() for node in cluster.nodes]
    return "".join(f"log {key}\n" for key in keys) + f"witness w {cluster.witness.keys[0]}\nquorum w\n"


def audit(*arguments: object) -> Ran:
    return hopseal("audit", *map(str, arguments))


def verify(evidence: Path, *arguments: object) -> tuple[int, Json]:
    """What an auditor finds without any network."""
    command = ["unshare", "--net", *HOPSEAL, "audit", "verify", str(evidence), *map(str, arguments), "--json"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert made.stdout, made.stderr
    return made.returncode, json.loads(made.stdout)


def start_a_day_later(cluster: Cluster, node: Node) -> None:
    """Start the witness and the broker of ``node`` with a clock that is a day on."""
    assert cluster.witness is not None
    cluster.witness.stop()
    cluster.witness.environment = node.environments["broker"] = shifted(DAY_S)
    cluster.witness.start()
    node.launch("broker")
    node.wait_listening("broker")


def back_dated(story: Story) -> str:
    """A call like the rogue's honest one, sealed now with its expired key and with the honest one's time."""
    honest = parse_sealed_record(story.honest).record
    (sealed,) = seal_statements([encode_statement(replace(honest, jti=new_id(), cid=new_id()))], story.stolen.signer)
    return sealed


def rewritten(log: Path, folder: Path, edit: Callable[[list[Json]], None]) -> Path:
    """A copy of a broker's state with the lines of its journal changed."""
    copy = folder / log.name
    shutil.copytree(log, copy)
    rewrite(copy / "log" / "custody.log", edit)
    return copy


def rewrite(journal: Path, edit: Callable[[list[Json]], None]) -> None:
    """Change the lines of a journal, with their sums, as whoever owns the node can."""
    lines = [json.loads(read_payload(line)) for line in journal.read_bytes().rstrip(b"\0").splitlines()]
    edit(lines)
    journal.write_bytes(b"".join(format_line(json.dumps(each, separators=(",", ":")).encode()) for each in lines))


def written(bundle: EvidenceBundle, folder: Path) -> Path:
    path = folder / "evidence"
    path.write_bytes(format_evidence(bundle))
    return path


def hops_of(report: Json) -> list[Json]:
    """Every hop, the task's own order."""

    def walk(hops: list[Json]) -> Iterator[Json]:
        for hop in hops:
            yield hop
            yield from walk(hop["children"])

    return [hop for chain in report["chains"] for hop in walk(chain["hops"])]


def code_of(part: Json) -> tuple[int, str]:
    return (part["finding"]["step"], part["finding"]["code"])


def name(spiffe_id: str) -> str:
    return spiffe_id.rpartition("/")[2]


def node_of(component: str) -> int:
    return next(part.node for part in PARTS if part.name == component)


def log_of(spiffe_id: str) -> str:
    return LOGS[node_of(name(spiffe_id))]


def path_of(caller: str, callee: str) -> str:
    """What the tree says of a call between two nodes."""
    nodes = [f"node-{node_of(each) + 1}" for each in (caller, callee)]
    return f"  ({' ⇒ '.join(nodes)})" if nodes[0] != nodes[1] else ""


def sealing(bundle: EvidenceBundle) -> set[str]:
    """Thumbprints of the certificates that sealed its statements."""
    return {parse_sealed(each.sealed).seal.x5t for each in bundle.statements}


def is_issued_by(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature):
        return False
    return True


# --- what the operator sees


def test_the_two_logs_agree_after_the_task(story):
    assert (story.compared.returncode, story.compared.stdout) == (0, "no difference between 2 logs\n")


def test_the_chain_is_one_tree_with_receipts_and_the_answers_that_calls_follow_from(story):
    assert story.shown.returncode == 0
    shown = [line.lstrip("└├─│ ") for line in story.shown.stdout.splitlines()[2:]]
    calls = {
        (caller, callee): f"✓ {AGENT}/{caller} → {AGENT}/{callee}  POST /run  hop {hop}{path_of(caller, callee)}"
        for caller, callee, hop in HOPS
    }
    assert sorted(line for line in shown if " → " in line) == sorted(calls.values())
    below = {line: shown[at + 1 : at + 3] for at, line in enumerate(shown) if " → " in line}
    for each in HOPS[:3]:
        assert below[calls[each[:2]]][0].startswith("✓ receipt: 200, ")
    branch = below[calls["orchestrator", "connector"]]
    assert branch[0] == f"based on the answer of {AGENT}/reasoner"
    assert branch[1].startswith("✓ receipt: 200, ")


# --- what the auditor finds


def test_nothing_that_signed_the_task_is_valid_or_trusted_any_more(story):
    ders = [der for der in story.bundle.certificates if thumbprint(der) in sealing(story.bundle)]
    assert len(ders) == 4
    assert expiry_of(*ders) < time.time()
    issuers = [x509.load_der_x509_certificate(der) for der in story.cluster.server.authorities]
    for leaf in map(x509.load_der_x509_certificate, ders):
        assert not any(is_issued_by(leaf, issuer) for issuer in issuers)


@pytest.mark.parametrize("later_s", [0, 3 * YEAR_S], ids=["today", "in three years"])
def test_every_hop_is_proven_from_the_bundle_and_the_policy_alone(story, later_s):
    code, report = story.verify(story.evidence, now=int(time.time()) + later_s)
    assert (code, report["verdict"], report["logs"]) == (0, "verified", LOGS), report
    hops = hops_of(report)
    assert [(name(hop["caller"]), name(hop["callee"]), hop["hop"]) for hop in hops] == HOPS
    assert hops[0]["task"] == {"id": story.task}
    for hop in hops:
        assert (hop["operation"], hop["finding"], hop["missing"]) == ("POST /run", None, [])
        (answer,) = hop["answers"]
        assert (answer["verdict"], answer["type"], answer["status"]) == ("verified", "rcp", 200)
        assert answer["by"] == hop["callee"]
        for proven in (hop["proven_time"], answer["proven_time"]):
            assert story.began_at <= proven["from"] <= proven["until"] <= proven["from"] + 30
        places = {(each["log"], each["direction"]) for each in hop["logged"]}
        assert places == {(log_of(hop["caller"]), "sent"), (log_of(hop["callee"]), "received")}
    by_callee = {(name(hop["caller"]), name(hop["callee"])): hop for hop in hops}
    (cited,) = by_callee["orchestrator", "connector"]["based_on"]
    assert cited["record"] == by_callee["orchestrator", "reasoner"]["hash"]


def test_the_keys_of_witnesses_are_all_that_an_auditor_needs(story):
    keys = [part for key in story.cluster.witness.keys for part in ("--witness-key", key)]
    code, report = verify(story.evidence, *keys)
    assert (code, report["verdict"], len(hops_of(report))) == (0, "verified", len(HOPS))


def test_the_operators_tree_holds_too_and_so_does_what_was_done_after_the_rotations(story, tmp_path):
    logs = [part for log in story.logs for part in ("--log", str(log))]
    assert hopseal("chain", "show", "--cid", story.cid, *logs).returncode == 0
    code, report = story.verify(story.export(story.logs, tmp_path / "evidence", story.later))
    assert (code, report["verdict"], len(hops_of(report))) == (0, "verified", len(HOPS))
    assert hops_of(report)[0]["task"] != {"id": story.task}


# --- what does not deceive it


def test_a_journal_that_was_rewritten_is_refused(story, tmp_path):
    """Two calls of the orchestrator trade places, in the log of the node that made them."""

    def swap(lines: list[Json]) -> None:
        calls = [each for each in lines if each["type"] == "rec" and each["dir"] == "sent" and each["hop"] == 1]
        first, second = [each for each in calls if each["cid"] == story.cid]
        at = lines.index(first), lines.index(second)
        lines[at[0]], lines[at[1]] = {**second, "n": first["n"]}, {**first, "n": second["n"]}

    logs = [rewritten(story.logs[0], tmp_path, swap), story.logs[1]]
    code, report = story.verify(story.export(logs, tmp_path / "evidence"))
    assert (code, report["verdict"]) == (1, "refused")
    refused = {name(hop["callee"]): code_of(hop) for hop in hops_of(report) if name(hop["caller"]) == "orchestrator"}
    assert refused == {"reasoner": (2, "proof_invalid"), "connector": (2, "proof_invalid")}
    checked = audit("check", "--log", logs[0], "--json")
    assert (checked.returncode, len(json.loads(checked.stdout)[0]["changed"])) == (1, 2)


def test_a_receipt_that_both_nodes_drop_is_missed(story, tmp_path):
    def drop(lines: list[Json]) -> None:
        answers = [each for each in lines if each["type"] == "rcp" and name(each["iss"]) == "reasoner"]
        dropped = [each for each in answers if each["cid"] == story.cid]
        assert len(dropped) == 1
        lines.remove(dropped[0])

    logs = [rewritten(log, tmp_path, drop) for log in story.logs]
    code, report = story.verify(story.export(logs, tmp_path / "evidence"))
    assert (code, report["verdict"]) == (1, "incomplete")
    missing = {(name(hop["caller"]), name(hop["callee"])): hop for hop in hops_of(report)}
    assert missing["orchestrator", "reasoner"]["missing"] == ["receipt"]
    (kid,) = missing["shell", "orchestrator"]["answers"][0]["missing"]
    (cited,) = missing["orchestrator", "connector"]["missing"]
    assert (kid.partition(":")[0], cited.partition(":")[0]) == ("kid", "in")
    assert kid.partition(":")[2] == cited.partition(":")[2]
    compared = audit("compare", *logs, "--json")
    assert [each["kind"] for each in json.loads(compared.stdout) if each["cid"] == story.cid] == ["no_receipt"]


def test_a_bundle_without_the_witness_is_refused(story, tmp_path):
    def unwitnessed(proof: str) -> str:
        return "".join(line for line in proof.splitlines(keepends=True) if not line.startswith("— witness"))

    bundle = mapped(story.bundle, unwitnessed)
    assert bundle != story.bundle
    code, report = story.verify(written(bundle, tmp_path))
    assert (code, report["verdict"], report["logs"]) == (1, "refused", [])
    assert {code_of(each) for hop in hops_of(report) for each in (hop, *hop["answers"])} == {(2, "quorum_missed")}


def test_a_record_that_is_signed_with_a_stolen_key_and_in_no_log_proves_nothing(story, tmp_path):
    forged = LoggedStatement(back_dated(story), ())
    bundle = replace(story.bundle, certificates=(*story.bundle.certificates, story.stolen.leaf_der))
    code, report = story.verify(written(replace(bundle, statements=(*bundle.statements, forged)), tmp_path))
    assert (code, report["verdict"]) == (1, "incomplete")
    (hop,) = [hop for hop in hops_of(report) if name(hop["caller"]) == "rogue"]
    assert (hop["finding"], "proof" in hop["missing"], hop["proven_time"]["until"]) == (None, True, None)


def test_a_back_dated_record_that_a_thief_puts_into_a_log_is_witnessed_too_late(story, tmp_path):
    """Root on a node, a day later, with an expired key: everything is there and signed, only the witness's clock is."""
    node, forged = story.cluster.nodes[1], back_dated(story)
    cid = parse_sealed_record(forged).record.cid
    honest = parse_sealed_record(story.honest).record
    node.stop("broker")

    def write(lines: list[Json]) -> None:
        (logged,) = [each for each in lines if each["type"] == "rec" and each["jti"] == honest.jti]
        said = parse_sealed_record(forged).record
        changed = {"sealed": forged, "jti": said.jti, "cid": cid, "exp": said.exp, "n": lines[-1]["n"] + 1}
        lines.append({**logged, **changed})

    rewrite(node.log_folder / "custody.log", write)
    start_a_day_later(story.cluster, node)
    node.wait_published()
    states = [part for each in story.cluster.nodes for part in ("--log", each.broker_state)]
    made = audit("export", "--cid", cid, *states, "--policy", story.policy, "-o", tmp_path / "evidence")
    assert (made.returncode, made.stderr) == (0, "")
    code, report = story.verify(tmp_path / "evidence", now=int(time.time()) + 2 * DAY_S)
    assert (code, report["verdict"]) == (1, "refused")
    (hop,) = hops_of(report)
    assert (name(hop["caller"]), code_of(hop)) == ("rogue", (3, "audit_late"))
    (place,) = hop["logged"]
    assert place["witnessed_at"] > expiry_of(story.stolen.leaf_der) + DAY_S / 2
