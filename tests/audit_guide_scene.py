"""What the auditor's guide is about: a user's task over two nodes on disk, and evidence of one call as an example."""

from __future__ import annotations

import json
from pathlib import Path

from audit_attacks import OBO, TH, Tampered, a_record_back_dated_with_a_key_that_was_stolen_later
from audit_scene import TOKEN, USER, Scene, tell
from hopseal.custody.authority import Narrowing
from hopseal.custody.delegation import Approval
from hopseal.log.bundle import EvidenceBundle, format_evidence
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import some_hash


def one_call() -> Scene:
    """One call within one node: as few bytes as evidence can have."""
    scene = Scene()
    log = scene.left
    log.bundle(NOW, pki.PROD_CA.der)
    for party in (pki.SHELL, pki.ORCHESTRATOR):
        log.certificate(party.der, NOW)
    scene.answer(scene.call("shell", "orchestrator"))
    log.checkpoint(NOW + 1)
    return scene


def write_one_call(folder: Path) -> None:
    """The example file and the policy that it verifies under."""
    scene = one_call()
    (folder / "one-call.evidence").write_bytes(format_evidence(scene.bundle()))
    (folder / "one-call.policy").write_bytes(scene.policy().encode())


def write_task(folder: Path) -> None:
    """Two nodes' state folders, a log policy, and evidence that somebody tampered with."""
    scene = Scene(obo=OBO)
    approval = Approval("ciba", "approval-1", some_hash("consent"), USER, NOW)
    story = tell(scene, att=Narrowing(scope=frozenset({"crm.read"}), hops=1), apv=(approval,))
    scene.left.write(NOW, type="token", th=TH, kid="k1", claims=TOKEN | {"req_wl": spiffe("shell")})
    scene.witness()
    scene.save(folder)
    (folder / "witnesses.policy").write_bytes(scene.policy().encode())
    scene.call("orchestrator", "reasoner", story.first)
    forged: Tampered = a_record_back_dated_with_a_key_that_was_stolen_later()
    bundle: EvidenceBundle = forged.bundle
    (folder / "stolen.evidence").write_bytes(format_evidence(bundle))
    trust = {"v": 1, "type": "hopseal-trust", "others": "refuse", "trust_domains": {pki.PROD: {"bundles": "logged"}}}
    (folder / "trust.json").write_text(json.dumps(trust))
