"""Proofs that an entry was in a log at a time, under the auditor's policy.

Owns: step 2 for one entry, and remembering what held: the signatures of a checkpoint are checked once, and the common
part of paths that meet in its tree is climbed once. Does not own: what the entry says.
Source: custody-wire §11.2; c2sp.org/tlog-proof.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hopseal.custody.encoding import encode_json
from hopseal.custody.merkle import climb, hash_leaf
from hopseal.log.bundle_lines import ProofLines
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.policy import CosignedCheckpoint, Policy
from hopseal.log.proof import parse_proof
from hopseal.log.tree import verify_inclusion

_HEAD = re.compile(rb"c2sp\.org/tlog-proof@v1\\nindex (0|[1-9][0-9]{0,18})\\n")
_HASH = re.compile(rb"([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)\\n")  # the one text of 32 bytes in base64
_NEWLINE = rb"\n"


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
        held: by position, last position and node: a path that held (escaped), and where in its text its rest begins.
    """

    checkpoint: CosignedCheckpoint
    held: dict[tuple[int, int, bytes], tuple[bytes, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.held = {(0, 0, self.checkpoint.checkpoint.root): (b"", 0)}

    def holds(self, leaf_hash: bytes, index: int, path: bytes) -> bool:
        """Whether ``path``, hashes in base64 a line, leads from the leaf to the root; False settles nothing."""
        place, at = (index, self.checkpoint.checkpoint.size - 1, leaf_hash), 0
        if index > place[1]:
            return False
        climbed = []
        while not self._joins(place, path, at):
            line = _HASH.match(path, at)
            if line is None or place[1] == 0:
                return False
            place, at = climb(*place, binascii.a2b_base64(line[1])), line.end()
            climbed.append((place, (path, at)))
        self.held.update(climbed)
        return True

    def _joins(self, place: tuple[int, int, bytes], path: bytes, at: int) -> bool:
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
        self._trees: dict[bytes, _Tree] = {}  # by the checkpoint's text, escaped

    def verify(self, proof_text: str, leaf: bytes) -> WitnessedEntry:
        """The entry with the text ``leaf`` that the proof shows.

        Raises:
            HopsealError: the code of the check that fails, see :mod:`hopseal.log.refusals`.
        """
        leaf_hash = hash_leaf(leaf)
        return self._join(_escape(proof_text), leaf_hash) or self._verify_whole(proof_text, leaf_hash)

    def verify_all(self, proofs: Proofs, key: str, leaf: bytes) -> Iterator[WitnessedEntry]:
        """The entries with the text ``leaf`` that the proofs with ``key`` show, each as it is asked for.

        Raises:
            HopsealError: the code of the check that fails, see :mod:`hopseal.log.refusals`.
        """
        if isinstance(proofs, ProofLines):
            leaf_hash = hash_leaf(leaf)
            joined = [self._join(text, leaf_hash) for text in proofs.texts(key)]
            entries = [each for each in joined if each is not None]
            if entries and len(entries) == len(joined):
                proofs.note_read({key})
                yield from entries
                return
        for text in proofs.get(key, ()):
            yield self.verify(text, leaf)

    def _join(self, escaped: bytes, leaf_hash: bytes) -> WitnessedEntry | None:
        """The entry, if the proof holds under a checkpoint that held before; None settles nothing.

        Args:
            escaped: the proof's text as it stands in JSON. One that is not the one form of its text is not known here.
            leaf_hash: of the entry.
        """
        begin, end = _HEAD.match(escaped), escaped.find(2 * _NEWLINE)
        tree = self._trees.get(escaped[end + 2 * len(_NEWLINE) :])
        if tree is None or begin is None or begin.end() > end + len(_NEWLINE):
            return None
        index = int(begin[1])
        path = escaped[begin.end() : end + len(_NEWLINE)]
        return _entry(tree.checkpoint, index) if tree.holds(leaf_hash, index, path) else None

    def _verify_whole(self, proof_text: str, leaf_hash: bytes) -> WitnessedEntry:
        proof = parse_proof(proof_text.encode())
        note = _escape(proof.checkpoint.decode())
        tree = self._trees.get(note)
        if tree is None:
            cosigned = self._policy.verify(parse_signed_checkpoint(proof.checkpoint), self._now)
            tree = self._trees[note] = _Tree(cosigned)
        checkpoint = tree.checkpoint.checkpoint
        verify_inclusion(leaf_hash, proof.index, checkpoint.size, proof.path, checkpoint.root)
        return _entry(tree.checkpoint, proof.index)


def _escape(text: str) -> bytes:
    """``text`` as it stands between the quotes of a JSON string that escapes no more than it must."""
    return encode_json(text)[1:-1]


def _entry(cosigned: CosignedCheckpoint, index: int) -> WitnessedEntry:
    checkpoint = cosigned.checkpoint
    return WitnessedEntry(cosigned.time, checkpoint.origin, index, checkpoint.size, checkpoint.root)


def key_of(leaf: bytes) -> str:
    """Under which key a bundle holds the proofs of the entry with the text ``leaf``."""
    kind, *hashes = leaf.decode("ascii").removeprefix("custody/v1 ").strip().split(" ")
    return ".".join(hashes if len(hashes) > 1 else (kind, *hashes))


Proofs = Mapping[str, tuple[str, ...]]
