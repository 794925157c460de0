"""The auditor's attack corpus on the library: never verified, and always for the one reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audit_attacks import ATTACKS, Attack, Tampered
from hopseal.log.audit.report import AuditReport, Verdict
from hopseal.log.audit.run import audit_bundle
from hopseal.log.judge import Finding


def judge(tampered: Tampered) -> AuditReport:
    return audit_bundle(tampered.bundle, tampered.policy, tampered.trust, tampered.now)


def findings(report: AuditReport, at: str | None) -> Iterator[Finding | None]:
    if at is None:
        yield from (each.finding for each in (*report.unread, *report.problems))
    for chain in report.chains:
        for part in (
            *chain.hops(),
            *(each for hop in chain.hops() for each in (*hop.answers, *hop.closings, *hop.segments)),
            *chain.loose,
        ):
            if at in {None, part.sealed.hash if hasattr(part, "sealed") else part.hash}:
                yield part.finding


def missing(report: AuditReport, at: str | None) -> Iterator[str]:
    if at is None:
        yield from report.missing
    for chain in report.chains:
        for part in (
            *chain.hops(),
            *(each for hop in chain.hops() for each in (*hop.answers, *hop.closings, *hop.segments)),
            *chain.loose,
        ):
            if at in {None, part.sealed.hash if hasattr(part, "sealed") else part.hash}:
                yield from part.missing


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_tampered_evidence_is_never_verified(attack: Attack) -> None:
    tampered = attack.make()
    report = judge(tampered)
    assert report.verdict is not Verdict.VERIFIED
    if attack.code is not None:
        assert report.verdict is Verdict.REFUSED
        found = {(each.step, str(each.code)) for each in findings(report, tampered.at) if each}
        assert (attack.step, attack.code) in found
    else:
        assert attack.missing is not None
        assert any(each.partition(":")[0] == attack.missing for each in missing(report, tampered.at))
