"""The auditor's attack corpus: evidence that somebody tampered with, and what the auditor must say of it.

Each attack gives a bundle with the policies to judge it by, and the one finding or gap that stops it. The unit tests
run it on the library, ``tests/attacks`` on the command.
Source: custody-wire §11 and the offline rows of §14.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from audit_scene import (
    AUTHORITY,
    OTHER_WITNESS,
    PARTIES,
    TOKEN,
    USER,
    WITNESS,
    YEARS_LATER,
    NodeLog,
    Scene,
    Story,
    ed25519,
    hash_of,
    mapped,
    seal,
    tell,
    without,
    witnessed,
)
from hopseal.custody.authority import Narrowing
from hopseal.custody.delegation import Continuation, OnBehalfOf
from hopseal.custody.encoding import decode_b64url, encode_b64url, sha256
from hopseal.custody.evidence_statement import EvidenceStatement, LogKey, Verdict
from hopseal.custody.outcome import Fin, Taken
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import Signer, seal_statements, thumbprint
from hopseal.custody.statement import encode_statement
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.log.audit.trust import DomainTrust, TrustPolicy
from hopseal.log.audit.witnessed import key_of
from hopseal.log.bundle import EvidenceBundle, LoggedStatement, Seen
from hopseal.log.entries import Direction
from hopseal.log.leaf import leaf_of_statement
from hopseal.log.policy import Policy
from hopseal.log.signers import log_signer
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import random_id, some_hash, twin

ATTESTOR_ID = f"spiffe://{pki.PROD}/hopseal/attestor/node-1"
ATTESTOR = pki.svid(ATTESTOR_ID)


@dataclass(frozen=True)
class Tampered:
    """Evidence to judge, and where the trouble is expected: at a statement, or in no statement at all."""

    bundle: EvidenceBundle
    policy: Policy
    at: str | None = None
    trust: TrustPolicy = field(default_factory=TrustPolicy)
    now: int = YEARS_LATER


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: what was done.
        make: the evidence.
        step, code: of the finding that refuses it; None if evidence is missing instead.
        missing: what is named as missing.
    """

    name: str
    make: Callable[[], Tampered]
    step: int | None
    code: str | None
    missing: str | None = None


ATTACKS: list[Attack] = []


def refused(step: int, code: str) -> Callable[[Callable[[], Tampered]], Callable[[], Tampered]]:
    """The auditor must refuse it, at this step, with this code."""

    def register(make: Callable[[], Tampered]) -> Callable[[], Tampered]:
        ATTACKS.append(Attack(make.__name__, make, step, code))
        return make

    return register


def incomplete(missing: str) -> Callable[[Callable[[], Tampered]], Callable[[], Tampered]]:
    """Nothing in it is wrong by itself: the auditor must name what is missing, by its first word."""

    def register(make: Callable[[], Tampered]) -> Callable[[], Tampered]:
        ATTACKS.append(Attack(make.__name__, make, None, None, missing))
        return make

    return register


def evidence(scene: Scene, at: str | None = None, bundle: EvidenceBundle | None = None, **more: object) -> Tampered:
    return replace(Tampered(bundle or scene.bundle(), scene.policy(), hash_of(at) if at else None), **more)


def swapped(bundle: EvidenceBundle, old: str, new: str) -> EvidenceBundle:
    """The bundle with one sealed text in place of another, and the proofs of the old one for the new one too."""
    proofs = dict(bundle.proofs)
    keys = [key_of(leaf_of_statement("rec", text)) for text in (old, new)]
    proofs[keys[1]] = proofs[keys[0]]
    statements = tuple(replace(each, sealed=new) if each.sealed == old else each for each in bundle.statements)
    return replace(bundle, statements=statements, proofs=MappingProxyType(proofs))


def added(story: Story, text: str, caller: str, callee: str) -> Tampered:
    """One more call in both logs, before they are cosigned."""
    story.scene.log_call(text, caller, callee)
    story.scene.witness()
    return evidence(story.scene, text)


# --- step 1: who sealed it


@refused(1, "custody_identity")
def a_statement_under_a_seal_of_another_identity() -> Tampered:
    story = tell()
    record = story.scene.record("reasoner", "crm-connector", story.ask)
    return added(story, seal(record, pki.ORCHESTRATOR), "reasoner", "crm-connector")


@refused(1, "custody_signature")
def a_path_that_leads_to_another_root() -> Tampered:
    story = tell()
    signer = Signer(pki.ORCHESTRATOR.der, pki.ORCHESTRATOR.key, deterministic=True)
    records = [story.scene.record("orchestrator", "reasoner", story.first) for _ in range(2)]
    text, _ = seal_statements([encode_statement(each) for each in records], signer)
    payload, path, rest = text.split(".", 2)
    forged = bytearray(decode_b64url(path))
    forged[-1] ^= 1
    return added(story, f"{payload}.{encode_b64url(bytes(forged))}.{rest}", "orchestrator", "reasoner")


@refused(1, "custody_malformed")
def a_path_that_was_shortened() -> Tampered:
    story = tell()
    signer = Signer(pki.ORCHESTRATOR.der, pki.ORCHESTRATOR.key, deterministic=True)
    records = [story.scene.record("orchestrator", "reasoner", story.first) for _ in range(4)]
    text = seal_statements([encode_statement(each) for each in records], signer)[0]
    payload, path, rest = text.split(".", 2)
    short = f"{payload}.{encode_b64url(decode_b64url(path)[:-32])}.{rest}"
    story.scene.witness()
    bundle = story.scene.bundle()
    return evidence(story.scene, None, replace(bundle, statements=(*bundle.statements, LoggedStatement(short, ()))))


@refused(1, "custody_signature")
def a_signature_of_another_key() -> Tampered:
    story = tell()
    record = story.scene.record("orchestrator", "reasoner", story.first)
    stolen = replace(pki.ORCHESTRATOR, key=pki.key_of("somebody else"))
    return added(story, seal(record, stolen), "orchestrator", "reasoner")


@incomplete("cert")
def a_certificate_that_is_left_out() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    ders = tuple(der for der in bundle.certificates if der != pki.REASONER.der)
    return evidence(story.scene, story.told, replace(bundle, certificates=ders))


@refused(1, "custody_untrusted")
def a_seal_by_the_key_of_an_authority() -> Tampered:
    scene = Scene()
    scene.parties["orchestrator"] = pki.svid(spiffe("orchestrator"), ca=True)
    story = witnessed(scene)
    return evidence(scene, story.ask)


@refused(1, "custody_identity")
def a_glued_record_that_is_answered_as_if_it_were_right() -> Tampered:
    """The first thing that is wrong is what is told, whatever the cross-checks find later."""
    story = tell()
    scene = story.scene
    jti = parse_sealed_record(story.ask).record.jti
    forged = seal(scene.record("orchestrator", "crm-connector", story.first, jti=jti), pki.REASONER)
    scene.log_call(forged, "orchestrator", "crm-connector")
    scene.call("orchestrator", "crm-connector", story.first, jti=jti)
    scene.witness()
    return evidence(scene, forged)


# --- step 2: that logs held it


@refused(2, "proof_invalid")
def an_unsigned_payload_that_is_sealed_later_with_a_stolen_key() -> Tampered:
    """The payload was logged in time, under another seal: the entry pins the seal too."""
    story = witnessed()
    old = story.lookup
    other = Signer(pki.ORCHESTRATOR.der, pki.ORCHESTRATOR.key)
    new = seal_statements([encode_statement(parse_sealed_record(old).record)], other)[0]
    return evidence(story.scene, new, swapped(story.scene.bundle(), old, new))


@refused(2, "proof_invalid")
def the_other_form_of_a_signature_with_the_first_ones_proof() -> Tampered:
    story = witnessed()
    new = twin(story.lookup)
    return evidence(story.scene, new, swapped(story.scene.bundle(), story.lookup, new))


@incomplete("proof")
def a_seal_that_no_log_holds() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    forged = LoggedStatement(twin(story.lookup), ())
    return evidence(story.scene, story.lookup, replace(bundle, statements=(*bundle.statements, forged)))


@incomplete("proof")
def a_seal_that_is_said_to_be_logged_and_is_not() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    forged = LoggedStatement(twin(story.lookup), (Seen("custody.zzz/n", 7, Direction.SENT),))
    return evidence(story.scene, story.lookup, replace(bundle, statements=(*bundle.statements, forged)))


@incomplete("proof")
def proofs_that_are_left_out() -> Tampered:
    story = witnessed()
    return evidence(story.scene, story.first, replace(story.scene.bundle(), proofs=MappingProxyType({})))


def _cut_path(proof: str) -> str:
    head, divider, note = proof.partition("\n\n")
    return "\n".join(head.split("\n")[:-1]) + divider + note


@refused(2, "proof_invalid")
def a_proof_that_lacks_a_hash() -> Tampered:
    story = witnessed()
    return evidence(story.scene, story.first, mapped(story.scene.bundle(), _cut_path))


@refused(2, "proof_invalid")
def a_proof_of_another_place() -> Tampered:
    story = witnessed()
    bundle = mapped(story.scene.bundle(), lambda proof: re.sub(r"\nindex \d+\n", "\nindex 2\n", proof, count=1))
    return evidence(story.scene, story.first, bundle)


@refused(2, "note_unsigned")
def a_checkpoint_by_the_key_of_another_nodes_log() -> Tampered:
    scene = Scene()
    scene.left.key = log_signer(scene.left.origin, ed25519("log of right"))
    story = witnessed(scene)
    return Tampered(story.scene.bundle(), Scene().policy(), hash_of(story.first))


@refused(2, "checkpoint_origin")
def a_log_that_the_policy_does_not_know() -> Tampered:
    story = witnessed()
    policy = story.scene.policy()
    known = tuple(log for log in policy.logs if log.key.name == story.scene.left.origin)
    return replace(evidence(story.scene, story.found), policy=replace(policy, logs=known))


@refused(2, "quorum_missed")
def fewer_witnesses_than_the_quorum() -> Tampered:
    story = witnessed()
    lines = (f"witness w1 {WITNESS.key}", f"witness w2 {OTHER_WITNESS.key}", "group both 2 w1 w2", "quorum both")
    return replace(evidence(story.scene, story.first), policy=story.scene.policy(*lines))


@refused(2, "quorum_missed")
def a_witness_that_nobody_trusts() -> Tampered:
    story = witnessed()
    policy = story.scene.policy(f"witness w2 {OTHER_WITNESS.key}", "quorum w2")
    return replace(evidence(story.scene, story.first), policy=policy)


@refused(2, "quorum_missed")
def a_cosignature_from_the_future() -> Tampered:
    story = witnessed()
    return replace(evidence(story.scene, story.first), now=NOW - 60)


@refused(2, "note_signature")
def a_cosignature_that_was_altered() -> Tampered:
    story = witnessed()

    def alter(proof: str) -> str:
        head, space, signature = proof.rstrip("\n").rpartition(" ")
        raw = bytearray(base64.b64decode(signature))
        raw[-1] ^= 1
        return f"{head}{space}{base64.b64encode(bytes(raw)).decode()}\n"

    return evidence(story.scene, story.first, mapped(story.scene.bundle(), alter))


@refused(2, "proof_invalid")
def an_observation_that_was_logged_as_another_type() -> Tampered:
    """The type is in the entry, so an entry of one type proves nothing about another."""
    story = tell()
    scene = story.scene
    outside = scene.call("orchestrator", "https://api.crm.example.com", story.first)
    seen = scene.observe(outside)
    line = json.loads(scene.left.lines[-1])
    scene.left.lines[-1] = json.dumps(line | {"type": "rcp"}, separators=(",", ":")).encode()
    scene.witness()
    return evidence(scene, seen)


@refused(2, "audit_log_key")
def a_node_that_announces_another_key_for_its_log() -> Tampered:
    scene = Scene()
    said = scene.announcement(
        scene.left, log=LogKey(scene.left.origin, str(NodeLog("left2").key.key).replace("left2", "left"))
    )
    story = tell(scene)
    broker = pki.svid(f"spiffe://{pki.PROD}/hopseal/broker/left")
    scene.left.lines[3] = json.dumps(
        {"n": 3, "at_ms": NOW * 1000, "type": "attest", "sealed": seal(said, broker)}, separators=(",", ":")
    ).encode()
    scene.witness()
    return evidence(story.scene)


@refused(2, "proof_invalid")
def a_trust_bundle_that_was_altered() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    artifacts = tuple(
        replace(each, json=each.json.replace('"sequence":1', '"sequence":2')) for each in bundle.artifacts
    )
    kinds = {key.partition(".")[0]: texts for key, texts in bundle.proofs.items()}
    proofs = dict(bundle.proofs)
    for each in artifacts:
        digest = encode_b64url(sha256(each.json.encode()))
        proofs.setdefault(f"bundle.{digest}", kinds["bundle"])
    return evidence(story.scene, None, replace(bundle, artifacts=artifacts, proofs=MappingProxyType(proofs)))


@refused(2, "audit_artifact")
def an_artifact_under_another_number() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    moved = tuple(replace(each, index=each.index + 1) for each in bundle.artifacts)
    return evidence(story.scene, None, replace(bundle, artifacts=moved))


@incomplete("proof")
def a_trust_bundle_without_a_proof() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    proofs = {key: texts for key, texts in bundle.proofs.items() if not key.startswith("bundle.")}
    return evidence(story.scene, None, replace(bundle, proofs=MappingProxyType(proofs)))


# --- step 3: when


@refused(3, "audit_late")
def a_record_back_dated_with_a_key_that_was_stolen_later() -> Tampered:
    story = witnessed()
    scene = story.scene
    forged = scene.call("orchestrator", "reasoner", story.first)
    scene.at = pki.LEAF_UNTIL + 86_400
    scene.witness()
    return evidence(scene, forged)


@refused(3, "audit_times_apart")
def a_record_that_was_witnessed_too_long_after_it_says_it_was_made() -> Tampered:
    story = tell()
    story.scene.witness(after=121)
    return evidence(story.scene, story.first)


@refused(3, "audit_times_apart")
def a_record_that_was_witnessed_before_it_says_it_was_made() -> Tampered:
    story = tell()
    story.scene.witness(after=-121)
    return evidence(story.scene, story.first)


@refused(3, "audit_outside_validity")
def a_record_from_before_its_svid() -> Tampered:
    scene = Scene()
    scene.parties["orchestrator"] = pki.svid(spiffe("orchestrator"), seed="later", valid_from=NOW + 11)
    story = witnessed(scene)
    return evidence(scene, story.ask)


# --- step 4: whose authorities vouched for it


@refused(4, "custody_untrusted")
def an_identity_of_ours_that_a_partners_authority_minted() -> Tampered:
    scene = Scene()
    scene.parties["orchestrator"] = pki.svid(spiffe("orchestrator"), "partner CA")
    scene.left.write(NOW, type="start", node="left", version="0")
    scene.left.bundle(NOW, pki.PARTNER_CA.der, trust_domain=pki.PARTNER)
    story = witnessed(scene)
    return evidence(scene, story.ask)


@refused(4, "audit_bundle_late")
def a_trust_bundle_that_came_too_late() -> Tampered:
    """Somebody adds an authority of their own to the log, long after the records that it is to vouch for."""
    story = tell()
    scene = story.scene
    for log in (scene.left, scene.right):
        log.lines[1] = json.dumps({"n": 1, "at_ms": NOW * 1000, "type": "start", "node": "x", "version": "0"}).encode()
    scene.witness()
    scene.at += 301
    for log in (scene.left, scene.right):
        log.bundle(NOW, pki.PROD_CA.der)
    scene.witness()
    return evidence(scene, story.first)


@refused(4, "custody_untrusted")
def an_authority_that_was_dropped_before_the_record() -> Tampered:
    scene = Scene().begin()
    scene.left.bundle(scene.at, pki.PARTNER_CA.der)
    scene.witness()
    scene.at += 60
    text = scene.call("shell", "orchestrator")
    scene.answer(text)
    scene.witness()
    return evidence(scene, text)


@incomplete("bundle")
def a_trust_bundle_that_is_left_out() -> Tampered:
    story = witnessed()
    bundle = story.scene.bundle()
    kept = tuple(each for each in bundle.artifacts if '"type":"bundle"' not in each.json)
    return evidence(story.scene, story.first, replace(bundle, artifacts=kept))


@refused(4, "custody_untrusted")
def a_trust_domain_that_the_auditor_does_not_accept() -> Tampered:
    story = witnessed()
    return replace(evidence(story.scene, story.first), trust=TrustPolicy(others=False))


# --- step 5: revocations


@refused(5, "audit_revoked")
def a_leaf_that_was_compromised_before() -> Tampered:
    story = tell()
    x5t = thumbprint(pki.ORCHESTRATOR.der)
    story.scene.left.write(NOW + 60, type="revoke", id=None, x5t=x5t, since=NOW - 30, why="key found in a backup")
    story.scene.witness()
    return evidence(story.scene, story.ask)


@refused(5, "audit_revoked")
def an_identity_that_was_revoked_before() -> Tampered:
    story = tell()
    story.scene.left.write(NOW + 60, type="revoke", id=spiffe("orchestrator"), x5t=None, since=NOW, why="drift")
    story.scene.witness()
    return evidence(story.scene, story.ask)


def attestor_says(scene: Scene, verdict: Verdict) -> EvidenceStatement:
    return EvidenceStatement(
        iss=SpiffeId.parse(ATTESTOR_ID),
        iat=NOW,
        exp=NOW + 300,
        jti=scene.fresh(),
        sub=SpiffeId.parse(spiffe("orchestrator")),
        sx=thumbprint(pki.ORCHESTRATOR.der),
        verdict=verdict,
    )


TRUST_ATTESTOR = TrustPolicy(
    {TrustDomain.parse(pki.PROD): DomainTrust(attestors=frozenset({SpiffeId.parse(ATTESTOR_ID)}))}
)


@refused(5, "audit_revoked")
def an_identity_that_its_attestor_withdrew() -> Tampered:
    story = tell()
    left = story.scene.left
    left.certificate(ATTESTOR.der, NOW)
    left.write(NOW, type="revoke", sealed=seal(attestor_says(story.scene, Verdict.WITHDRAWN), ATTESTOR))
    story.scene.witness()
    return replace(evidence(story.scene, story.ask), trust=TRUST_ATTESTOR)


@refused(2, "custody_malformed")
def a_revocation_of_nothing() -> Tampered:
    story = tell()
    story.scene.left.write(NOW, type="revoke", id=None, x5t=None, since=NOW, why="?")
    story.scene.witness()
    return evidence(story.scene)


@refused(2, "custody_malformed")
def an_announcement_that_is_no_evidence_statement() -> Tampered:
    story = tell()
    story.scene.left.lines[3] = json.dumps(
        {"n": 3, "at_ms": NOW * 1000, "type": "attest", "sealed": story.first}
    ).encode()
    story.scene.witness()
    return evidence(story.scene)


# --- step 6: the chain


@incomplete("rec")
def a_hop_that_was_removed() -> Tampered:
    story = tell()
    deep = story.scene.call("reasoner", "crm-connector", story.ask)
    story.scene.answer(deep)
    story.scene.witness()
    return evidence(story.scene, deep, without(story.scene.bundle(), story.ask))


@incomplete("ancestor")
def a_hop_behind_one_that_was_removed() -> Tampered:
    story = tell()
    scene = story.scene
    deep = scene.call("reasoner", "crm-connector", story.ask)
    deeper = scene.call("crm-connector", "reasoner", deep)
    scene.witness()
    return evidence(scene, deeper, without(scene.bundle(), story.ask))


@refused(6, "custody_chain")
def a_hop_cut_out_of_the_path() -> Tampered:
    story = tell()
    record = story.scene.record("reasoner", "crm-connector", story.first)
    return added(story, seal(record, pki.REASONER), "reasoner", "crm-connector")


@refused(6, "custody_chain")
def a_record_spliced_into_another_users_chain() -> Tampered:
    story = tell()
    record = story.scene.record("orchestrator", "reasoner", story.first, cid=random_id("another chain"))
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "reasoner")


@refused(6, "custody_chain")
def a_middle_hop_that_begins_the_chain_again() -> Tampered:
    story = tell()
    record = story.scene.record("orchestrator", "crm-connector")
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "crm-connector")


@refused(6, "custody_authority")
def a_hop_that_widens_its_authority() -> Tampered:
    story = tell()
    wider = Narrowing(scope=frozenset({"crm.read", "crm.delete"}))
    record = story.scene.record("orchestrator", "reasoner", story.first, att=wider)
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "reasoner")


@refused(6, "custody_authority")
def a_hop_after_the_authority_had_expired() -> Tampered:
    """By the witnesses' time, not by the record's own."""
    story = tell()
    record = story.scene.record("orchestrator", "reasoner", story.first, att=Narrowing(exp=NOW + 2))
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "reasoner")


@refused(6, "custody_chain")
def a_hop_that_says_it_is_older_than_its_parent() -> Tampered:
    story = tell()
    record = story.scene.record("orchestrator", "reasoner", story.first, iat=NOW - 11)
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "reasoner")


@refused(6, "custody_authority")
def a_root_without_an_authority() -> Tampered:
    scene = Scene().begin()
    text = scene.call("shell", "orchestrator", auth=None, root_claims=frozenset({"obo", "task"}))
    scene.answer(text)
    scene.witness()
    return evidence(scene, text)


TH = some_hash("user token")
OBO = OnBehalfOf(str(TOKEN["iss"]), USER, "txn", TH, NOW + 900, "txn-1")


def _user_scene(claims: dict[str, object] | None, **root: object) -> tuple[Scene, str]:
    scene = Scene(obo=OBO).begin()
    text = scene.call("shell", "orchestrator", **root)
    scene.answer(text)
    if claims is not None:
        scene.left.write(NOW, type="token", th=TH, kid="k1", claims=claims)
    scene.witness()
    return scene, text


@refused(6, "custody_authority")
def a_token_that_was_issued_to_another_workload() -> Tampered:
    scene, text = _user_scene(TOKEN | {"req_wl": spiffe("orchestrator")})
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_token_of_another_user() -> Tampered:
    scene, text = _user_scene(TOKEN | {"req_wl": spiffe("shell"), "sub": "somebody else"})
    return evidence(scene, text)


@refused(6, "custody_authority")
def an_authority_beyond_the_users_token() -> Tampered:
    scene, text = _user_scene(TOKEN | {"req_wl": spiffe("shell"), "scope": "crm.read"})
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_root_with_a_user_and_every_scope() -> Tampered:
    scene, text = _user_scene(TOKEN | {"req_wl": spiffe("shell")}, auth=replace(AUTHORITY, scope=None))
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_root_on_a_token_that_had_expired() -> Tampered:
    claims = TOKEN | {"req_wl": spiffe("shell"), "exp": NOW - 10}
    scene, text = _user_scene(claims, obo=replace(OBO, exp=NOW - 10))
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_root_on_a_token_from_later() -> Tampered:
    scene, text = _user_scene(TOKEN | {"req_wl": spiffe("shell"), "iat": NOW + 11})
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_token_of_a_client_that_names_its_own_caller_as_actor() -> Tampered:
    scene, text = _user_scene(TOKEN | {"client_id": spiffe("orchestrator"), "act": {"sub": spiffe("shell")}})
    return evidence(scene, text)


@refused(6, "custody_authority")
def a_token_that_is_bound_to_a_key_that_nobody_can_check() -> Tampered:
    scene, text = _user_scene(TOKEN | {"client_id": spiffe("shell"), "cnf": {"jkt": "k"}})
    return evidence(scene, text)


@refused(2, "audit_artifact")
def a_token_of_which_two_logs_say_different_things() -> Tampered:
    scene, _ = _user_scene(TOKEN | {"req_wl": spiffe("shell")})
    claims = TOKEN | {"req_wl": spiffe("shell"), "sub": "somebody else"}
    scene.right.write(NOW, type="token", th=TH, kid="k1", claims=claims)
    scene.witness()
    return evidence(scene)


@incomplete("token")
def a_token_that_is_left_out() -> Tampered:
    scene, text = _user_scene(None)
    return evidence(scene, text)


# --- step 7: together


@refused(7, "custody_replayed")
def a_record_that_two_replicas_accepted() -> Tampered:
    story = tell()
    story.scene.right.statement(story.ask, "received", NOW, ancestors=[])
    story.scene.witness()
    return evidence(story.scene, story.ask)


@refused(7, "custody_replayed")
def a_replay_whose_exporter_calls_it_sent() -> Tampered:
    story = tell()
    story.scene.right.statement(story.ask, "received", NOW, ancestors=[])
    story.scene.witness()
    bundle = story.scene.bundle()

    def hide(each: Seen) -> Seen:
        return replace(each, direction=Direction.SENT)

    statements = tuple(replace(each, seen=tuple(map(hide, each.seen))) for each in bundle.statements)
    return evidence(story.scene, story.ask, replace(bundle, statements=statements))


@refused(7, "custody_replayed")
def one_jti_in_two_records() -> Tampered:
    story = tell()
    jti = parse_sealed_record(story.ask).record.jti
    record = story.scene.record("orchestrator", "reasoner", story.first, jti=jti)
    return added(story, seal(record, pki.ORCHESTRATOR), "orchestrator", "reasoner")


@refused(7, "audit_fork")
def a_log_that_shows_two_histories() -> Tampered:
    """The same log, as large, with one record in place of another; each history is cosigned, by a witness that lies."""
    story = witnessed()
    other = witnessed()
    extra = other.scene.record("orchestrator", "reasoner", other.first)
    text = seal(extra, pki.ORCHESTRATOR)
    for log in (other.scene.left,):
        index = next(n for n, line in enumerate(log.lines) if other.ask.encode() in line)
        line = json.loads(log.lines[index]) | {"sealed": text, "jti": extra.jti}
        log.lines[index] = json.dumps(line, separators=(",", ":")).encode()
        log.hashes.clear()
        log.checkpoints.clear()
        log.checkpoint(NOW + 3)
    theirs = other.scene.bundle()
    ours = story.scene.bundle()
    proofs = dict(ours.proofs)
    for key, texts in theirs.proofs.items():
        proofs[key] = (*proofs.get(key, ()), *texts)
    merged = replace(ours, statements=ours.statements + theirs.statements, proofs=MappingProxyType(proofs))
    return evidence(story.scene, text, merged)


def _two_histories() -> tuple[Story, EvidenceBundle]:
    """Evidence with a trust bundle that stands in another history of the left log, as large as the one of the task."""
    story, other = tell(), tell()
    other.scene.left.lines[1] = other.scene.left.lines[1].replace(b'"sequence":1', b'"sequence":2')
    bundles = [each.scene.witness().bundle() for each in (story, other)]
    forged = tuple(each for each in bundles[1].artifacts if '"sequence":2' in each.json)
    proofs = MappingProxyType(dict(bundles[1].proofs) | dict(bundles[0].proofs))
    return story, replace(bundles[0], artifacts=bundles[0].artifacts + forged, proofs=proofs)


@refused(7, "audit_fork")
def a_trust_bundle_out_of_another_history_of_the_log() -> Tampered:
    story, bundle = _two_histories()
    return evidence(story.scene, story.first, bundle)


@refused(7, "audit_fork")
def two_trust_bundles_in_one_place_of_a_log() -> Tampered:
    story, bundle = _two_histories()
    return evidence(story.scene, None, bundle)


@incomplete("receipt")
def a_call_whose_answer_nobody_has() -> Tampered:
    story = witnessed()
    return evidence(story.scene, story.lookup, without(story.scene.bundle(), story.found))


@incomplete("kid")
def a_sub_call_whose_receipt_is_left_out() -> Tampered:
    story = witnessed()
    return evidence(story.scene, story.done, without(story.scene.bundle(), story.told))


@incomplete("receipt")
def an_observation_in_place_of_a_receipt() -> Tampered:
    story = tell()
    call = story.scene.call("orchestrator", "reasoner", story.first)
    story.scene.observe(call, iss=SpiffeId.parse(spiffe("orchestrator")))
    story.scene.witness()
    return evidence(story.scene, call)


@refused(7, "audit_receipt")
def a_receipt_for_another_record() -> Tampered:
    story = tell()
    text = seal(Receipt(story.scene.outcome(story.lookup, rec=hash_of(story.ask))), pki.CONNECTOR)
    story.scene.right.statement(text, "sent", NOW)
    story.scene.left.statement(text, "received", NOW)
    story.scene.witness()
    return evidence(story.scene, text)


@refused(7, "audit_receipt")
def two_receipts_that_say_different_things() -> Tampered:
    story = tell()
    again = story.scene.answer(story.lookup, st=500)
    story.scene.witness()
    return evidence(story.scene, again)


@refused(7, "audit_receipt")
def two_receipts_that_list_different_sub_calls() -> Tampered:
    story = tell()
    again = seal(Receipt(story.scene.outcome(story.first, cd=some_hash("x"), kids=())), pki.ORCHESTRATOR)
    story.scene.left.statement(again, "sent", NOW)
    story.scene.witness()
    return evidence(story.scene, again)


@refused(7, "audit_receipt")
def a_receipt_of_another_chain() -> Tampered:
    story = tell()
    again = story.scene.answer(story.lookup, cid=random_id("another chain"))
    story.scene.witness()
    return evidence(story.scene, again)


@refused(7, "audit_receipt")
def a_receipt_that_is_older_than_its_record() -> Tampered:
    story = tell()
    call = story.scene.call("orchestrator", "reasoner", story.first)
    early = story.scene.answer(call, iat=NOW - 11)
    story.scene.witness()
    return evidence(story.scene, early)


@incomplete("rec")
def a_receipt_whose_record_nobody_has() -> Tampered:
    story = tell()
    again = story.scene.answer(story.lookup, rec=some_hash("no record"))
    story.scene.witness()
    return evidence(story.scene, again)


def _with_answer(*kids: int) -> tuple[Story, str]:
    """The task whose first receipt lists only some of the two answers that were given before it."""
    story = tell()
    answers = (story.told, story.found)
    scene = Scene(cid=random_id("one more"))
    scene.numbers = 1000
    scene.left, scene.right = story.scene.left, story.scene.right
    first = scene.call("shell", "orchestrator")
    made = [scene.answer(scene.call("orchestrator", "crm-connector", first)) for _ in answers]
    done = scene.answer(first, *(made[kid] for kid in kids))
    scene.witness()
    return replace(story, scene=scene), done


@refused(7, "audit_kids")
def a_sub_call_that_its_parents_receipt_does_not_list() -> Tampered:
    story, done = _with_answer(1)
    return evidence(story.scene, done)


@refused(7, "audit_kids")
def a_sub_call_of_somebody_else_that_a_receipt_lists() -> Tampered:
    story = tell()
    call = story.scene.call("orchestrator", "crm-connector", story.first)
    done = story.scene.answer(call, story.told)
    story.scene.witness()
    return evidence(story.scene, done)


@refused(7, "audit_kids")
def a_tree_of_sub_calls_that_is_another() -> Tampered:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    made = [scene.answer(scene.call("orchestrator", "crm-connector", first)) for _ in range(9)]
    done = scene.answer(first, *made[::-1])
    scene.witness()
    return evidence(scene, done)


@incomplete("kids")
def a_tree_of_sub_calls_some_of_which_are_left_out() -> Tampered:
    scene = Scene().begin()
    first = scene.call("shell", "orchestrator")
    made = [scene.answer(scene.call("orchestrator", "crm-connector", first)) for _ in range(9)]
    done = scene.answer(first, *made)
    scene.witness()
    return evidence(scene, done, without(scene.bundle(), made[4]))


@refused(7, "audit_citation")
def an_answer_that_was_given_to_another() -> Tampered:
    story = tell()
    text = story.scene.call("reasoner", "crm-connector", story.ask, based_on=(hash_of(story.found),))
    story.scene.witness()
    return evidence(story.scene, text)


@incomplete("in")
def an_answer_that_is_cited_and_not_here() -> Tampered:
    story = witnessed()
    return evidence(story.scene, story.lookup, without(story.scene.bundle(), story.told))


@refused(7, "audit_citation")
def an_answer_that_is_cited_and_does_not_hold() -> Tampered:
    story = tell()
    scene = story.scene
    bad = scene.answer(scene.call("orchestrator", "reasoner", story.first), cid=random_id("elsewhere"))
    text = scene.call("orchestrator", "crm-connector", story.first, based_on=(hash_of(bad),))
    scene.witness()
    return evidence(scene, text)


@refused(7, "audit_continuation")
def a_chain_that_somebody_else_continues() -> Tampered:
    story = tell()
    scene = story.scene
    earlier = Continuation(hash_of(story.lookup), scene.cid, "resume")
    scene.cid = random_id("continued")
    text = scene.call("reasoner", "crm-connector", cont=earlier)
    scene.answer(text)
    scene.witness()
    return evidence(scene, text)


@incomplete("cont")
def an_earlier_chain_that_is_left_out() -> Tampered:
    scene = Scene().begin()
    text = scene.call("shell", "orchestrator", cont=Continuation(some_hash("gone"), random_id("gone"), "queue"))
    scene.answer(text)
    scene.witness()
    return evidence(scene, text)


@incomplete("copy")
def a_call_that_only_its_senders_log_holds() -> Tampered:
    story = tell()
    record = story.scene.record("orchestrator", "crm-connector", story.first)
    text = seal(record, pki.ORCHESTRATOR)
    story.scene.left.statement(text, "sent", NOW)
    story.scene.answer(text)
    story.scene.witness()
    return evidence(story.scene, text)


@incomplete("copy")
def a_call_that_only_its_receivers_log_holds() -> Tampered:
    """A node that mints identities with an authority of its own has nobody else's log to show."""
    scene = Scene()
    scene.left.write(NOW, type="start", node="left", version="0")
    scene.left.bundle(NOW, pki.PROD_CA.der, pki.PARTNER_CA.der)
    story = tell(scene)
    forged_party = pki.svid(spiffe("crm-connector"), "partner CA")
    scene.left.certificate(forged_party.der, NOW)
    forged = seal(scene.record("crm-connector", "orchestrator", story.lookup), forged_party)
    scene.left.statement(forged, "received", NOW, ancestors=[])
    scene.witness()
    return evidence(scene, forged)


@incomplete("closing")
def a_stream_without_its_end() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    story.scene.answer(text, fin=Fin.ABORT)
    story.scene.witness()
    return evidence(story.scene, text)


@refused(7, "audit_closing")
def a_stream_whose_caller_says_that_two_bodies_were_it() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    closed = [story.scene.close(text), story.scene.close(text, cd=some_hash("another body"))]
    story.scene.answer(text)
    story.scene.witness()
    return evidence(story.scene, closed[1])


@refused(7, "audit_closing")
def a_stream_that_its_caller_cut_and_its_callee_calls_whole() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    closed = story.scene.close(text, fin=Fin.ABORT)
    story.scene.answer(text)
    story.scene.witness()
    return evidence(story.scene, closed)


def passed(length: int) -> Taken:
    return Taken(length, some_hash(f"so far {length}"), length // 10)


@refused(7, "audit_closing")
def a_stream_of_which_other_bytes_were_taken_than_sent() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    closed = story.scene.close(text)
    story.scene.answer(text, req=Taken(9, some_hash("other bytes")))
    story.scene.witness()
    return evidence(story.scene, closed)


@refused(7, "audit_closing")
def a_stream_of_which_more_was_taken_than_sent_before_it_ended_early() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    closed = story.scene.close(text, fin=Fin.ABORT)
    story.scene.answer(text, fin=Fin.EARLY, req=passed(10))
    story.scene.witness()
    return evidence(story.scene, closed)


def _websocket(**changes: Any) -> Tampered:
    """Two segments of the callee, of which the second is wrong."""
    story = tell()
    text = story.scene.call("orchestrator", "crm-connector", story.first, bm="stream")
    story.scene.segment(text, "crm-connector", passed(40), passed(50))
    told = {"seq": 1, "up": passed(60), "down": passed(70), **changes}
    wrong = story.scene.segment(text, "crm-connector", told.pop("up"), told.pop("down"), **told)
    story.scene.close(text, length=60, cd=passed(60).cd, messages=6)
    story.scene.answer(text, length=70, cd=passed(70).cd, messages=7, req=passed(60))
    story.scene.witness()
    return evidence(story.scene, wrong)


@refused(7, "audit_segment")
def a_segment_that_tells_of_less_than_the_one_before() -> Tampered:
    return _websocket(up=passed(30))


@refused(7, "audit_segment")
def a_segment_that_stands_in_the_place_of_another() -> Tampered:
    return _websocket(seq=0)


@refused(7, "audit_segment")
def a_segment_that_goes_beyond_the_end() -> Tampered:
    return _websocket(down=passed(80))


@refused(7, "audit_segment")
def a_segment_of_other_bytes_than_the_end() -> Tampered:
    return _websocket(up=Taken(60, some_hash("other bytes"), 6))


@refused(7, "audit_segment")
def a_segment_of_a_body_that_was_no_stream() -> Tampered:
    story = tell()
    wrong = story.scene.segment(story.first, "orchestrator", passed(1), passed(1))
    story.scene.witness()
    return evidence(story.scene, wrong)


@refused(7, "audit_closing")
def a_closing_statement_of_a_body_that_was_no_stream() -> Tampered:
    story = tell()
    text = story.scene.close(story.lookup)
    story.scene.witness()
    return evidence(story.scene, text)


@incomplete("observation")
def a_call_to_the_outside_that_nobody_observed() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "https://api.crm.example.com", story.first)
    story.scene.witness()
    return evidence(story.scene, text)


@refused(7, "audit_receipt")
def two_observations_that_tell_different_stories() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "https://api.crm.example.com", story.first)
    seen = story.scene.observe(text)
    story.scene.observe(text, st=500)
    story.scene.witness()
    return evidence(story.scene, seen)


@incomplete("receipt")
def an_observation_where_a_receipt_was_asked_for() -> Tampered:
    """The caller's broker drops the receipt and says that the callee knows nothing of custody; its record has `rr`."""
    story = tell()
    record = story.scene.record("orchestrator", "crm-connector", story.first, rr=True)
    text = seal(record, story.scene.parties["orchestrator"])
    story.scene.left.statement(text, "sent", story.scene.at)
    story.scene.observe(text, iss=SpiffeId.parse(spiffe("orchestrator")))
    story.scene.witness()
    return evidence(story.scene, text)


@refused(7, "audit_receipt")
def an_observation_by_somebody_who_had_no_part_in_the_call() -> Tampered:
    story = tell()
    text = story.scene.call("orchestrator", "https://api.crm.example.com", story.first)
    reasoner = SpiffeId.parse(spiffe("reasoner"))
    seen = story.scene.observe(text, iss=reasoner, aud=reasoner)
    story.scene.witness()
    return evidence(story.scene, seen)


__all__ = ["ATTACKS", "AUTHORITY", "PARTIES", "TRUST_ATTESTOR", "Attack", "Tampered", "attestor_says"]
