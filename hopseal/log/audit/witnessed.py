"""Proofs that an entry was in a log at a time, under the auditor's policy.

Owns: step 2 for one entry, and remembering checkpoints that held: every signature of a checkpoint is checked once,
however many entries it covers. Does not own: what the entry says.
Source: custody-wire §11.2; c2sp.org/tlog-proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hopseal.custody.merkle import hash_leaf
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.policy import CosignedCheckpoint, Policy
from hopseal.log.proof import parse_proof
from hopseal.log.tree import verify_inclusion


@dataclass(frozen=True, slots=True, order=True)
class WitnessedEntry:
    """An entry that is proven to be in a log.

    Args:
        at: T, when enough witnesses had cosigned a tree with it, NumericDate seconds; None if the policy asks none.
        origin: of the log.
        index: of the entry.
        size: of that tree.
        root: of that tree.
    """

    at: int | None
    origin: str
    index: int
    size: int
    root: bytes


class Witnesses:
    """Verifies proofs under one policy.

    Args:
        policy: logs, witnesses and quorum.
        now: seconds since 1970; cosignatures from later do not count.
    """

    def __init__(self, policy: Policy, now: int) -> None:
        self._policy = policy
        self._now = now
        self._checkpoints: dict[bytes, CosignedCheckpoint] = {}

    def verify(self, proof_text: str, leaf: bytes) -> WitnessedEntry:
        """The entry with the text ``leaf`` that the proof shows.

        Raises:
            HopsealError: the code of the check that fails, see :mod:`hopseal.log.refusals`.
        """
        proof = parse_proof(proof_text.encode())
        cosigned = self._checkpoints.get(proof.checkpoint)
        if cosigned is None:
            cosigned = self._policy.verify(parse_signed_checkpoint(proof.checkpoint), self._now)
            self._checkpoints[proof.checkpoint] = cosigned
        checkpoint = cosigned.checkpoint
        verify_inclusion(hash_leaf(leaf), proof.index, checkpoint.size, proof.path, checkpoint.root)
        return WitnessedEntry(cosigned.time, checkpoint.origin, proof.index, checkpoint.size, checkpoint.root)


def key_of(leaf: bytes) -> str:
    """Under which key a bundle holds the proofs of the entry with the text ``leaf``."""
    kind, *hashes = leaf.decode("ascii").removeprefix("custody/v1 ").strip().split(" ")
    return ".".join(hashes if len(hashes) > 1 else (kind, *hashes))


Proofs = Mapping[str, tuple[str, ...]]
