"""Proofs that an entry was in a log at a time, under the auditor's policy.

Owns: step 2 for one entry, and remembering what held: the signatures of a checkpoint are checked once, and the common
part of paths that meet in its tree is climbed once. Does not own: what the entry says.
Source: custody-wire §11.2; c2sp.org/tlog-proof.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hopseal.custody.merkle import climb, hash_leaf
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.policy import CosignedCheckpoint, Policy
from hopseal.log.proof import parse_proof
from hopseal.log.tree import verify_inclusion

_HEAD = re.compile(r"c2sp\.org/tlog-proof@v1\nindex (0|[1-9][0-9]{0,18})\n", re.ASCII)
_HASH = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\n", re.ASCII)  # the one text of 32 bytes in base64


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


@dataclass(slots=True)
class _Tree:
    """A tree that the policy trusts, and what led to its root.

    Theory: what comes of climbing a path follows from the place, the node there and the rest of the path alone. So a
    path that comes to a place with the same node and the same rest as one that held, holds.

    Args:
        checkpoint: signed and cosigned.
        held: by position, last position and node: a path that held, and where in its text its rest begins.
    """

    checkpoint: CosignedCheckpoint
    held: dict[tuple[int, int, bytes], tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.held = {(0, 0, self.checkpoint.checkpoint.root): ("", 0)}

    def holds(self, leaf_hash: bytes, index: int, path: str) -> bool:
        """Whether ``path``, hashes in base64 a line, leads from the leaf to the root; False settles nothing."""
        position, last, node, at = index, self.checkpoint.checkpoint.size - 1, leaf_hash, 0
        if position > last:
            return False
        climbed = []
        while not self._joins((position, last, node), path, at):
            line = _HASH.match(path, at)
            if line is None or last == 0:
                return False
            position, last, node = climb(position, last, node, binascii.a2b_base64(line[0]))
            at = line.end()
            climbed.append(((position, last, node), (path, at)))
        self.held.update(climbed)
        return True

    def _joins(self, place: tuple[int, int, bytes], path: str, at: int) -> bool:
        held = self.held.get(place)
        return held is not None and held[0][held[1] :] == path[at:]


class Witnesses:
    """Verifies proofs under one policy.

    Args:
        policy: logs, witnesses and quorum.
        now: seconds since 1970; cosignatures from later do not count.
    """

    def __init__(self, policy: Policy, now: int) -> None:
        self._policy = policy
        self._now = now
        self._trees: dict[str, _Tree] = {}

    def verify(self, proof_text: str, leaf: bytes) -> WitnessedEntry:
        """The entry with the text ``leaf`` that the proof shows.

        Raises:
            HopsealError: the code of the check that fails, see :mod:`hopseal.log.refusals`.
        """
        leaf_hash = hash_leaf(leaf)
        return self._join(proof_text, leaf_hash) or self._verify_whole(proof_text, leaf_hash)

    def _join(self, proof_text: str, leaf_hash: bytes) -> WitnessedEntry | None:
        """The entry, if the proof holds under a checkpoint that held before; None settles nothing."""
        begin, end = _HEAD.match(proof_text), proof_text.find("\n\n")
        tree = self._trees.get(proof_text[end + 2 :])
        if tree is None or begin is None or begin.end() > end + 1:
            return None
        index = int(begin[1])
        return (
            _entry(tree.checkpoint, index) if tree.holds(leaf_hash, index, proof_text[begin.end() : end + 1]) else None
        )

    def _verify_whole(self, proof_text: str, leaf_hash: bytes) -> WitnessedEntry:
        proof = parse_proof(proof_text.encode())
        note = proof.checkpoint.decode()
        tree = self._trees.get(note)
        if tree is None:
            cosigned = self._policy.verify(parse_signed_checkpoint(proof.checkpoint), self._now)
            tree = self._trees[note] = _Tree(cosigned)
        checkpoint = tree.checkpoint.checkpoint
        verify_inclusion(leaf_hash, proof.index, checkpoint.size, proof.path, checkpoint.root)
        return _entry(tree.checkpoint, proof.index)


def _entry(cosigned: CosignedCheckpoint, index: int) -> WitnessedEntry:
    checkpoint = cosigned.checkpoint
    return WitnessedEntry(cosigned.time, checkpoint.origin, index, checkpoint.size, checkpoint.root)


def key_of(leaf: bytes) -> str:
    """Under which key a bundle holds the proofs of the entry with the text ``leaf``."""
    kind, *hashes = leaf.decode("ascii").removeprefix("custody/v1 ").strip().split(" ")
    return ".".join(hashes if len(hashes) > 1 else (kind, *hashes))


Proofs = Mapping[str, tuple[str, ...]]
