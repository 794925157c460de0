"""Readers of what an auditor is handed: whatever the bytes are, our error or a value, and an audit never raises."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_guide_scene import one_call
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.log.audit.report import Verdict
from hopseal.log.audit.trust import TrustError, TrustPolicy, parse_trust
from hopseal.log.bundle import EvidenceBundle, EvidenceError, LoggedStatement, format_evidence, parse_evidence

SCENE = one_call()
BUNDLE = SCENE.bundle()
POLICY = SCENE.policy()
EVIDENCE = format_evidence(BUNDLE)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def redigested(head: bytes) -> bytes:
    return head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode()


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_are_no_bundle(data: bytes) -> None:
    for each in (data, redigested(data), redigested(b"{" + data)):
        with suppress(EvidenceError):
            parse_evidence(each)


@FUZZ
@given(st.sampled_from(["statements", "certs", "artifacts", "proofs", "policy", "logs", "v", "type", "x"]), JSON)
def test_a_member_of_any_value_is_refused_or_judged(name: str, value: Any) -> None:
    members = json.loads(EVIDENCE) | {name: value}
    del members["digest"]
    try:
        bundle = parse_evidence(redigested(json.dumps(members).encode()[:-1] + b","))
    except EvidenceError:
        return
    assert SCENE.audit(bundle, policy=POLICY).verdict in set(Verdict)


@FUZZ
@given(st.integers(0, len(BUNDLE.statements) - 1), st.integers(0, 2_000), st.text("AQgw._-", max_size=3))
def test_a_sealed_text_that_is_cut_and_patched_never_verifies(number: int, position: int, patch: str) -> None:
    text = BUNDLE.statements[number].sealed
    patched = text[: position % len(text)] + patch + text[position % len(text) + len(patch) :]
    statements = list(BUNDLE.statements)
    statements[number] = replace(statements[number], sealed=patched)
    report = SCENE.audit(replace(BUNDLE, statements=tuple(statements)), policy=POLICY)
    assert (report.verdict is Verdict.VERIFIED) == (patched == text)


@FUZZ
@given(JSON, st.text(max_size=60))
def test_artifacts_proofs_and_certificates_of_any_text_are_judged(value: Any, text: str) -> None:
    artifacts = tuple(
        replace(each, json=changed)
        for each in BUNDLE.artifacts
        for changed in (text, json.dumps(value), json.dumps(json.loads(each.json) | {"x509": value, "type": text}))
    )
    proofs = {key: (text, *texts) for key, texts in BUNDLE.proofs.items()}
    bundle = replace(BUNDLE, artifacts=artifacts, proofs=proofs, certificates=(text.encode(), *BUNDLE.certificates))
    assert SCENE.audit(bundle, policy=POLICY).verdict is not Verdict.VERIFIED


@FUZZ
@given(st.lists(st.sampled_from(BUNDLE.statements), max_size=6))
def test_any_choice_of_statements_is_verified_only_if_it_is_whole(chosen: list[LoggedStatement]) -> None:
    report = SCENE.audit(replace(BUNDLE, statements=tuple(chosen)), policy=POLICY)
    assert (report.verdict is Verdict.VERIFIED) == (set(chosen) == set(BUNDLE.statements))


@FUZZ
@given(JSON)
def test_any_json_is_a_trust_policy_or_our_error(value: Any) -> None:
    for document in (value, {"v": 1, "type": "hopseal-trust", "others": "logged", "trust_domains": value}):
        with suppress(TrustError):
            assert isinstance(parse_trust(json.dumps(document).encode()), TrustPolicy)


@FUZZ
@given(st.binary(max_size=60), st.text(max_size=20))
def test_what_is_written_is_read(der: bytes, policy: str) -> None:
    bundle = EvidenceBundle(BUNDLE.statements, (der,), BUNDLE.artifacts, BUNDLE.proofs, policy, BUNDLE.logs)
    assert parse_evidence(format_evidence(bundle)) == bundle
