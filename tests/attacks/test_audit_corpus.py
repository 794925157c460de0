"""The auditor's attack corpus against the command: refused or incomplete, exit 1, and the reason where it belongs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_attacks import ATTACKS, TRUST_ATTESTOR, Attack, Tampered
from audit_guide_scene import one_call
from audit_scene import trust_file
from hopseal.cli.audit_json import report_json
from hopseal.cli.main import cli
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.log.audit.run import audit_bundle
from hopseal.log.audit.trust import TrustPolicy
from hopseal.log.bundle import EvidenceError, format_evidence, parse_evidence


def write(folder: Path, tampered: Tampered) -> list[str]:
    """The arguments of ``hopseal audit verify`` for tampered evidence."""
    (folder / "evidence").write_bytes(format_evidence(tampered.bundle))
    (folder / "policy").write_bytes(tampered.policy.encode())
    trust = None
    if tampered.trust == TRUST_ATTESTOR:
        ((trust_domain, domain),) = TRUST_ATTESTOR.domains.items()
        attestors = [str(each) for each in domain.attestors]
        trust = trust_file(trust_domain.name, others="logged", bundles="logged", attestors=attestors)
    elif not tampered.trust.others:
        trust = trust_file("nobody.example", bundles="logged")
    (folder / "trust").write_text(json.dumps(trust or {}))
    given = [] if trust is None else ["--trust", str(folder / "trust")]
    return [str(folder / "evidence"), "--policy", str(folder / "policy"), "--now", str(tampered.now), *given]


def parts(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything in a report that can be refused or lack something."""
    yield report
    yield from (*report["unread"], *report["problems"])
    waiting = [hop for chain in report["chains"] for hop in chain["hops"]]
    yield from (each for chain in report["chains"] for each in chain["loose"])
    while waiting:
        hop = waiting.pop()
        yield from (hop, *hop["answers"], *hop["closings"], *hop["segments"])
        waiting += hop["children"]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_command_never_verifies_tampered_evidence(attack: Attack, tmp_path: Path) -> None:
    tampered = attack.make()
    arguments = write(tmp_path, tampered)
    result = CliRunner().invoke(cli, ["audit", "verify", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    found = [each for each in parts(report) if tampered.at in {None, each.get("hash")}]
    if attack.code is not None:
        assert report["verdict"] == "refused"
        codes = {(each["finding"]["step"], each["finding"]["code"]) for each in found if each.get("finding")}
        assert (attack.step, attack.code) in codes
    else:
        assert report["verdict"] in {"incomplete", "refused"}
        assert attack.missing in {what.partition(":")[0] for each in found for what in each.get("missing", ())}
    text = CliRunner().invoke(cli, ["audit", "verify", *arguments, "--brief"], catch_exceptions=False)
    assert text.exit_code == 1
    assert (attack.code or attack.missing or "") in text.output


CHUNKS = 4


EVIDENCE = format_evidence(one_call().bundle())


def redigested(data: bytes) -> bytes:
    head = data[: data.rindex(b'"digest":')]
    return head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_flipped_bit_makes_other_evidence_that_verifies(chunk: int) -> None:
    """With a right digest on it: it is refused, incomplete, or says exactly what the unchanged evidence says."""
    scene, now = one_call(), int(time.time())
    policy, true = scene.policy(), report_json(scene.audit(now=now))
    assert true["verdict"] == "verified"
    end = EVIDENCE.rindex(b'"digest":')
    for position in range(chunk, end, CHUNKS):
        data = bytearray(EVIDENCE)
        data[position] ^= 1 << position // CHUNKS % 8
        try:
            bundle = parse_evidence(redigested(bytes(data)))
        except EvidenceError:
            continue
        report = audit_bundle(bundle, policy, TrustPolicy(), now)
        assert report.verdict != "verified" or report_json(report) == true, f"byte {position}"


def test_no_byte_of_a_file_can_change_unnoticed(tmp_path: Path) -> None:
    """Without a new digest the command does not look any further."""
    (tmp_path / "policy").write_bytes(one_call().policy().encode())
    for position in range(0, len(EVIDENCE), 997):
        data = bytearray(EVIDENCE)
        data[position] ^= 1
        (tmp_path / "evidence").write_bytes(data)
        arguments = ["audit", "verify", str(tmp_path / "evidence"), "--policy", str(tmp_path / "policy")]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 2
        assert "evidence_" in result.stderr


@pytest.mark.parametrize("length", [0, 1, 100, len(EVIDENCE) // 2, len(EVIDENCE) - 1])
def test_a_truncated_file_is_no_evidence(tmp_path: Path, length: int) -> None:
    (tmp_path / "evidence").write_bytes(EVIDENCE[:length])
    (tmp_path / "policy").write_bytes(one_call().policy().encode())
    arguments = ["audit", "verify", str(tmp_path / "evidence"), "--policy", str(tmp_path / "policy")]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    assert "cut off" in result.stderr
