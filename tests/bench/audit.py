"""``hopseal audit verify``: hops a second of one core, and what all cores make of it.

The evidence is of 10,000 hops in chains of a hundred, each a record and its receipt, in seals of 14, and with the
proofs of two logs. The whole command is measured, from start to exit. The peer is what cannot be left out: a P-256
signature for each seal, and a leaf-to-root path for each proof.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit_scene import PARTIES, Scene, hash_of
from bench.effort import ROUNDS
from bench.figures import Figure, figure
from hopseal.custody.kids import kids_of
from hopseal.custody.merkle import compute_root, hash_leaf
from hopseal.custody.receipt import Receipt
from hopseal.custody.seal import Signer, parse_sealed, seal_statements, thumbprint, verify_signature
from hopseal.custody.statement import Statement, encode_statement
from hopseal.log.bundle import EvidenceBundle, format_evidence
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.proof import parse_proof
from hopseal.verify import parse_certificate
from vectors.scene import random_id

TARGET = 4_000
HOPS = 10_000
CHAIN = 100  # hops of one chain: a root and its children
BATCH = 14  # statements under a seal


def run() -> list[Figure]:
    """Verify with the command: on one core by CPU time, then on all cores by the clock, in alternating rounds."""
    scene = write_chains()
    bundle, policy = scene.bundle(), scene.policy().encode()
    data = format_evidence(bundle)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "evidence").write_bytes(data)
        (Path(folder) / "policy").write_bytes(policy)
        rounds = [(verify(folder, 1), verify(folder, cores), verify_least(bundle)) for _ in range(ROUNDS)]
    return [
        figure(
            "hops a CPU second, one process",
            "/s",
            f"{TARGET:,}/s",
            [(one.per_cpu_second, float(TARGET)) for one, _, _ in rounds],
            at_least=1.0,
        ),
        figure(
            "the same beside the least work",
            "/s",
            "signatures and paths alone",
            [(one.per_cpu_second, least) for one, _, least in rounds],
        ),
        figure(
            f"hops a CPU second, {cores} processes",
            "/s",
            "one process",
            [(every.per_cpu_second, one.per_cpu_second) for one, every, _ in rounds],
        ),
        figure(
            f"hops a second by the clock, {cores} processes",
            "/s",
            "one process",
            [(every.per_second, one.per_second) for one, every, _ in rounds],
        ),
    ]


@dataclass(frozen=True)
class Run:
    """One run of the command over all hops."""

    cpu_s: float
    took_s: float

    @property
    def per_cpu_second(self) -> float:
        return HOPS / self.cpu_s

    @property
    def per_second(self) -> float:
        return HOPS / self.took_s


def verify(folder: str, jobs: int) -> Run:
    """Run ``hopseal audit verify``, whose workers it waits for, so that their time is in its own."""
    command = [sys.executable, "-m", "hopseal.cli.main", "audit", "verify", "evidence", "--policy", "policy"]
    begun, before = time.perf_counter(), os.times()
    subprocess.run(
        [*command, "--brief", "--jobs", str(jobs)],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    took, after = time.perf_counter() - begun, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(used, took)


def verify_least(bundle: EvidenceBundle) -> float:
    seals = {seal.text: seal for seal in (parse_sealed(each.sealed).seal for each in bundle.statements)}
    keys = {thumbprint(der): parse_certificate(der).public_key() for der in bundle.certificates}
    proofs = [parse_proof(text.encode()) for texts in bundle.proofs.values() for text in texts]
    sizes = {note: parse_signed_checkpoint(note).checkpoint.size for note in {proof.checkpoint for proof in proofs}}
    begun = time.process_time()
    for seal in seals.values():
        verify_signature(seal, keys[seal.x5t])
    for proof in proofs:
        compute_root(hash_leaf(b"entry"), proof.index, sizes[proof.checkpoint], proof.path)
    return HOPS / (time.process_time() - begun)


def write_chains() -> Scene:
    """Shell to orchestrator, and 99 calls of the connector below it, a hundred times over."""
    scene = Scene().begin()
    left, right = scene.left, scene.right
    begun = [_of_chain(scene, number).record("shell", "orchestrator") for number in range(HOPS // CHAIN)]
    roots = seal_all(begun, "shell")
    calls = [
        _of_chain(scene, number).record("orchestrator", "crm-connector", root)
        for number, root in enumerate(roots)
        for _ in range(CHAIN - 1)
    ]
    below = seal_all(calls, "orchestrator")
    for text in roots:
        scene.log_call(text, "shell", "orchestrator")
    for text in below:
        scene.log_call(text, "orchestrator", "crm-connector")
    answers = seal_all([Receipt(scene.outcome(text)) for text in below], "crm-connector")
    for text in answers:
        right.statement(text, "sent", scene.at)
        left.statement(text, "received", scene.at)
    shares = [answers[start : start + CHAIN - 1] for start in range(0, len(answers), CHAIN - 1)]
    ends = [
        Receipt(scene.outcome(root, kids_of([hash_of(each) for each in share])))
        for root, share in zip(roots, shares, strict=True)
    ]
    for text in seal_all(ends, "orchestrator"):
        left.statement(text, "sent", scene.at)
        left.statement(text, "received", scene.at)
    return scene.witness()


def seal_all(statements: Sequence[Statement], component: str) -> list[str]:
    party = PARTIES[component]
    signer = Signer(party.der, party.key)
    batches = (statements[start : start + BATCH] for start in range(0, len(statements), BATCH))
    return [text for batch in batches for text in seal_statements([encode_statement(each) for each in batch], signer)]


def _of_chain(scene: Scene, number: int) -> Scene:
    scene.cid = random_id(f"chain {number}")
    return scene
