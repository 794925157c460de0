"""What another implementation wrote: a log by golang.org/x/mod, cosigned by filippo.io/torchwood v0.10.0.

Source: ``tests/vectors/tlog/torchwood.json``, a log of thirteen leaves (``leaf 0`` and so on) with two witnesses, one
of each algorithm; its keys were thrown away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hopseal.custody.merkle import hash_leaf
from hopseal.log.checkpoint import parse_hash, parse_signed_checkpoint
from hopseal.log.note import Note, parse_vkey
from hopseal.log.policy import parse_policy
from hopseal.log.proof import parse_proof, verify_proof
from hopseal.log.refusals import Reason, TransparencyError
from hopseal.log.tree import verify_consistency
from tlog_parts import MemoryLog

WRITTEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "tlog" / "torchwood.json").read_text(encoding="utf-8")
)
POLICY = parse_policy(WRITTEN["policy"].encode())
LATER = 2_000_000_000


@pytest.mark.parametrize("text", WRITTEN["proofs"])
def test_its_proofs_verify_under_its_policy(text: str) -> None:
    proof = parse_proof(text.encode())
    assert proof.encode() == text.encode()
    found = verify_proof(proof, hash_leaf(b"leaf %d" % proof.index), POLICY, LATER)
    assert (found.checkpoint.size, len(found.cosignatures)) == (13, 2)
    assert found.time == max(each.time for each in found.cosignatures)
    assert proof.extra == b"leaf %d" % proof.index


def test_its_keys_and_checkpoint_are_written_here_as_there() -> None:
    for text in (WRITTEN["log"], *WRITTEN["witnesses"]):
        assert str(parse_vkey(text)) == text
    found = parse_signed_checkpoint(WRITTEN["checkpoint"].encode())
    assert found.note.encode() == WRITTEN["checkpoint"].encode()
    assert found.checkpoint.root == MemoryLog.of(13).checkpoint().root


@pytest.mark.parametrize("dropped", [1, 2])
def test_without_one_of_its_cosignatures_its_quorum_is_missed(dropped: int) -> None:
    note = parse_signed_checkpoint(WRITTEN["checkpoint"].encode()).note
    lines = note.signatures[:dropped] + note.signatures[dropped + 1 :]
    with pytest.raises(TransparencyError) as caught:
        POLICY.verify(parse_signed_checkpoint(Note(note.text, lines).encode()), LATER)
    assert caught.value.reason is Reason.QUORUM


def test_its_consistency_proof_verifies() -> None:
    given = WRITTEN["consistency"]
    root = parse_signed_checkpoint(WRITTEN["checkpoint"].encode()).checkpoint.root
    verify_consistency(
        given["old_size"], parse_hash(given["old_root"]), 13, root, tuple(map(parse_hash, given["proof"]))
    )
